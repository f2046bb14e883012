"""Distances between skeletons against scipy and plain loops; the MuPoTS protocol; what cannot be counted."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from course_lib.metrics import (
    auc,
    average,
    box_size,
    cps,
    head_size,
    match_poses,
    mean_of_means,
    mpjpe,
    mpvpe,
    pa_mpjpe,
    pck,
    rescale_bones,
    segment_length,
)


@pytest.fixture
def skeletons() -> tuple[torch.Tensor, torch.Tensor]:
    """40 people of 17 joints, metres, predicted with a few centimetres of error, turned, moved and scaled."""
    rng = np.random.default_rng(0)
    target = rng.normal(0, 0.4, (40, 17, 3))
    noise = rng.normal(0, 1, target.shape) * rng.uniform(0.01, 0.2, (40, 1, 1))
    turned = np.einsum("bij,bkj->bki", Rotation.random(40, rng=rng).as_matrix(), target + noise)
    prediction = turned * rng.uniform(0.5, 2, (40, 1, 1)) + rng.normal(0, 1, (40, 1, 3))
    return torch.from_numpy(prediction), torch.from_numpy(target)


def procrustes_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """PA-MPJPE of one person in millimetres, with scipy's rotation and no reflection."""
    x, y = prediction - prediction.mean(0), target - target.mean(0)
    turned = Rotation.align_vectors(y, x)[0].apply(x)
    scale = (turned * y).sum() / (turned**2).sum()
    return 1000 * np.linalg.norm(scale * turned - y, axis=1).mean()


def test_mpjpe_is_in_millimetres_and_moves_to_the_root(skeletons):
    prediction, target = skeletons
    p, t = prediction.numpy(), target.numpy()
    plain = [1000 * np.mean([np.linalg.norm(p[b, j] - t[b, j]) for j in range(17)]) for b in range(40)]
    np.testing.assert_allclose(mpjpe(prediction, target), plain, rtol=1e-12)
    at_pelvis = 1000 * np.linalg.norm((p - p[:, [0]]) - (t - t[:, [0]]), axis=-1).mean(1)
    np.testing.assert_allclose(mpjpe(prediction, target, root=0), at_pelvis, rtol=1e-12)
    at_hips = 1000 * np.linalg.norm((p - p[:, 2:4].mean(1)[:, None]) - (t - t[:, 2:4].mean(1)[:, None]), axis=-1)
    np.testing.assert_allclose(mpjpe(prediction, target, root=(2, 3)), at_hips.mean(1), rtol=1e-12)
    assert mpjpe(torch.zeros(1, 1, 3), torch.tensor([[[0.03, 0, 0.04]]])).item() == pytest.approx(50)


def test_pa_mpjpe_equals_scipys(skeletons):
    theirs = [procrustes_error(p, t) for p, t in zip(*(s.numpy() for s in skeletons), strict=True)]
    np.testing.assert_allclose(pa_mpjpe(*skeletons), theirs, rtol=0, atol=1e-6)


def test_pa_mpjpe_does_not_mirror(skeletons):
    _, target = skeletons
    assert (pa_mpjpe(target * torch.tensor([-1.0, 1, 1]), target) > 50).all()
    assert (pa_mpjpe(2 * target.flip(-1) * torch.tensor([-1.0, 1, 1]) + 3, target) < 1e-6).all()


def test_joints_that_are_not_valid_have_no_say(skeletons):
    prediction, target = (s.clone() for s in skeletons)
    valid = torch.rand(40, 17, generator=torch.Generator().manual_seed(1)) < 0.7
    valid[:, :3] = True
    seen = [(p[v], t[v]) for p, t, v in zip(prediction, target, valid, strict=True)]
    errors = [(p - t).norm(dim=-1) for p, t in seen]
    expected = [procrustes_error(p.numpy(), t.numpy()) for p, t in seen]
    prediction[~valid], target[~valid] = torch.nan, 1e9
    np.testing.assert_allclose(pa_mpjpe(prediction, target, valid), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mpjpe(prediction, target, valid), [1000 * e.mean() for e in errors], rtol=1e-12)
    np.testing.assert_allclose(pck(prediction, target, 2.0, valid), [(e < 2).double().mean() for e in errors])
    assert cps(prediction, target, 2.0, valid).tolist() == [float(e.max() < 2) for e in errors]
    assert 0 < cps(prediction, target, 2.0, valid).mean() < 1
    relative = [((p - p[0]) - (t - t[0])).norm(dim=-1) for p, t in seen]
    assert cps(prediction, target, 2.0, valid, root=0).tolist() == [float(e.max() < 2) for e in relative]
    np.testing.assert_allclose(mpjpe(prediction, target, valid, root=0), [1000 * e.mean() for e in relative])


def test_degenerate_predictions_have_a_result(skeletons):
    _, target = skeletons
    spread = 1000 * (target - target.mean(1, keepdim=True)).norm(dim=-1).mean(1)
    np.testing.assert_allclose(pa_mpjpe(torch.ones_like(target), target), spread, rtol=1e-9)
    line = torch.linspace(0, 1, 17)[None, :, None] * torch.ones(40, 1, 3)
    assert pa_mpjpe(line, target).isfinite().all()


def test_pck_auc_and_cps(skeletons):
    prediction, target = skeletons
    error = np.linalg.norm((prediction - prediction[:, :1]).numpy() - (target - target[:, :1]).numpy(), axis=-1)
    np.testing.assert_allclose(pck(prediction, target, 0.5, root=0), (error < 0.5).mean(1))
    np.testing.assert_array_equal(cps(prediction, target, 2.0, root=0), (error.max(1) < 2).astype(float))
    assert 0 < cps(prediction, target, 2.0, root=0).mean() < 1
    np.testing.assert_allclose(auc(prediction, target, 0.8, root=0), np.maximum(0, 1 - error / 0.8).mean(1))
    steps = (np.arange(2000) + 0.5) / 2000 * 0.8
    area = np.mean([pck(prediction, target, step, root=0).numpy() for step in steps], 0)
    np.testing.assert_allclose(auc(prediction, target, 0.8, root=0), area, atol=1e-3)


def test_thresholds_are_strict_and_in_metres():
    target, prediction = torch.zeros(1, 2, 3), torch.tensor([[[0.0, 0, 0.25], [0, 0, 0.125]]])
    assert pck(prediction, target, 0.25).item() == 0.5 and cps(prediction, target, 0.25).item() == 0
    assert cps(prediction, target, 0.2501).item() == 1 and cps(prediction, target).item() == 0


def test_pck_in_2d_counts_in_sizes():
    target = torch.zeros(2, 4, 2)
    prediction = torch.tensor([0.0, 4, 6, 20]).view(1, 4, 1) * torch.tensor([0.6, 0.8])
    prediction = prediction.expand(2, 4, 2)
    box = torch.tensor([[0.0, 0, 6, 8], [10, 10, 22, 26]])
    assert head_size(box).tolist() == pytest.approx([6, 12])
    assert pck(prediction, target, 0.5, scale=head_size(box)).tolist() == [0.25, 0.5]
    assert box_size(box).tolist() == [8, 16]
    torso = segment_length(torch.tensor([[[0.0, 0], [3, 4]], [[1, 1], [1, 2]]]), 0, 1)
    assert torso.tolist() == [5, 1]


def test_vertices_are_moved_to_their_roots(skeletons):
    prediction, target = skeletons
    roots = prediction.mean(1), target[:, 0]
    moved = (prediction - roots[0][:, None]) - (target - roots[1][:, None])
    np.testing.assert_allclose(mpvpe(prediction, target, *roots), 1000 * moved.norm(dim=-1).mean(1), rtol=1e-12)


PARENTS = (1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1)  # MuPoTS: children before parents among them


def test_rescaled_bones_have_the_true_lengths_and_their_own_directions(skeletons):
    prediction, target = skeletons
    rescaled = rescale_bones(prediction, target, PARENTS)
    assert torch.equal(rescaled[:, 14], prediction[:, 14])
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            bone, own, true = (s[:, joint] - s[:, parent] for s in (rescaled, prediction, target))
            np.testing.assert_allclose(bone.norm(dim=-1), true.norm(dim=-1), rtol=1e-9)
            np.testing.assert_allclose((bone * own).sum(-1), bone.norm(dim=-1) * own.norm(dim=-1), rtol=1e-9)
    flat = rescale_bones(torch.zeros_like(target), target, PARENTS)
    assert torch.equal(flat, torch.zeros_like(target))
    with pytest.raises(ValueError, match="no tree over 17 joints"):
        rescale_bones(prediction, target, (1, 0, *PARENTS[2:]))
    with pytest.raises(ValueError, match="no tree over 17 joints"):
        rescale_bones(prediction, target, PARENTS[:5])


def test_matching_is_greedy_and_by_most_joints():
    target = torch.zeros(3, 4, 2)
    target[1] += 30
    target[2] += 1000
    prediction = torch.zeros(3, 4, 2)
    prediction[0, 3] = 500.0  # three joints near both of the first two people
    prediction[1] = 35.0  # near both
    prediction[2] = torch.nan
    assert match_poses(prediction, target) == [(0, 1), (1, 0)]
    assert match_poses(prediction, target, radius=20) == [(0, 0), (1, 1)]
    assert match_poses(prediction[:0], target) == match_poses(prediction, target[:0]) == []


def test_the_two_ways_to_average():
    values = torch.tensor([1.0, 2, 3, 10])
    assert mean_of_means(values, ["a", "a", "a", "b"]) == 6
    assert average([{"x": values[:3]}, {"x": values[3:]}]) == {"x": 4}
    with pytest.raises(ValueError, match="no results"):
        average([])
    with pytest.raises(ValueError, match="no values"):
        mean_of_means(values[:0], [])
    with pytest.raises(ValueError, match="values must have shape"):
        mean_of_means(values, ["a"])


@pytest.mark.parametrize("metric", [mpjpe, pa_mpjpe, auc, cps, lambda p, t, **valid: pck(p, t, 0.1, **valid)])
def test_bad_input_is_named(metric, skeletons):
    prediction, target = skeletons
    broken = prediction.clone()
    broken[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"prediction has NaN or infinite values in item \[7\]"):
        metric(broken, target)
    with pytest.raises(ValueError, match=r"target has NaN or infinite values in item \[7\]"):
        metric(target, broken)
    valid = torch.ones(40, 17, dtype=torch.bool)
    valid[5] = False
    with pytest.raises(ValueError, match=r"valid is true in fewer than 1 places in item \[5\]"):
        metric(prediction, target, valid=valid)
    with pytest.raises(ValueError, match="target must have shape"):
        metric(prediction, target[:, :5])
    with pytest.raises(ValueError, match="valid must have shape"):
        metric(prediction, target, valid=valid[:, :5])
    with pytest.raises(ValueError, match="prediction must have shape"):
        metric(prediction[0], target[0])
    with pytest.raises(ValueError, match="no items"):
        metric(prediction[:0], target[:0])


def test_what_each_metric_needs_besides(skeletons):
    prediction, target = skeletons
    valid = torch.ones(40, 17, dtype=torch.bool)
    valid[3, 2:] = False
    with pytest.raises(ValueError, match=r"fewer than 3 places in item \[3\]"):
        pa_mpjpe(prediction, target, valid)
    with pytest.raises(ValueError, match=r"root joint \[14\] is not valid"):
        mpjpe(prediction, target, valid, root=14)
    with pytest.raises(ValueError, match="scale must be positive"):
        pck(prediction, target, 0.5, scale=torch.zeros(40))
    with pytest.raises(ValueError, match="scale must have shape"):
        pck(prediction, target, 0.5, scale=torch.ones(4))
    with pytest.raises(ValueError, match="prediction_root must have shape"):
        mpvpe(prediction, target, prediction, target[:, 0])
    with pytest.raises(ValueError, match="prediction must have shape"):
        match_poses(prediction[:, :5], target)

"""Segmentation, depth and normals against independent numpy; what cannot be counted."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from course_lib.metrics import (
    align_depth,
    angle_summary,
    average,
    class_accuracy,
    class_iou,
    confusion_matrix,
    depth_errors,
    mean_accuracy,
    mean_iou,
    normal_angles,
    normal_errors,
)


@pytest.fixture
def labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Part maps (6, 20, 30) of classes 0 to 6; class 5 only predicted, class 6 nowhere; a tenth is unknown."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, (6, 20, 30))
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 6, target.shape))
    target[rng.random(target.shape) < 0.1] = 255
    return torch.from_numpy(prediction.astype(np.uint8)), torch.from_numpy(target.astype(np.uint8))


def test_mean_iou_and_accuracy_by_counting(labels):
    prediction, target = labels
    p, t = prediction.numpy(), target.numpy()
    confusion = sum(confusion_matrix(p, t, 7) for p, t in zip(prediction.split(4), target.split(4), strict=True))
    iou, accuracy = [], []
    for c in range(7):
        both, either = ((p == c) & (t == c)).sum(), (((p == c) | (t == c)) & (t != 255)).sum()
        iou.append(both / either if either else math.nan)
        accuracy.append(both / (t == c).sum() if (t == c).any() else math.nan)
    np.testing.assert_allclose(class_iou(confusion), iou, rtol=1e-12)
    np.testing.assert_allclose(class_accuracy(confusion), accuracy, rtol=1e-12)
    assert iou[5] == 0 and math.isnan(iou[6]) and math.isnan(accuracy[5])
    assert mean_iou(confusion) == pytest.approx(np.nanmean(iou))
    assert mean_accuracy(confusion) == pytest.approx(np.mean(accuracy[:5]))
    assert mean_iou(confusion, [1, 3, 6]) == pytest.approx((iou[1] + iou[3]) / 2)


def test_mean_iou_equals_torchmetrics_over_the_data_set(labels):
    prediction, target = labels
    theirs = MulticlassJaccardIndex(6, average="macro", ignore_index=255)
    for p, t in zip(prediction.long(), target.long(), strict=True):
        theirs.update(p[None], t[None])
    assert mean_iou(confusion_matrix(prediction, target, 6)) == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_bad_labels_are_named(labels):
    prediction, target = labels
    with pytest.raises(ValueError, match="not logits"):
        confusion_matrix(prediction.float(), target, 6)
    with pytest.raises(ValueError, match="class numbers go from 0 to 3"):
        confusion_matrix(prediction, target, 4)
    with pytest.raises(ValueError, match="class numbers go from 0 to 5, and 0 is ignored"):
        confusion_matrix(prediction, target, 6, ignore=0)
    with pytest.raises(ValueError, match="target must have shape"):
        confusion_matrix(prediction, target[:2], 6)
    nothing = confusion_matrix(prediction, torch.full_like(target, 255), 6)
    assert nothing.sum() == 0
    for metric in (mean_iou, mean_accuracy):
        with pytest.raises(ValueError, match="none of these classes has a pixel"):
            metric(nothing)
    with pytest.raises(ValueError, match="confusion must have shape"):
        mean_iou(torch.ones(3, 4))


@pytest.fixture
def depths() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depth maps (5, 12, 16), metres, predicted up to scale and shift; the mask leaves out infinite background."""
    rng = np.random.default_rng(1)
    target = rng.uniform(1, 4, (5, 12, 16))
    mask = rng.random(target.shape) < 0.6
    prediction = 0.1 * (target + rng.normal(0, 0.3, target.shape)) - 3
    target[~mask], prediction[~mask] = np.inf, np.nan
    return torch.from_numpy(prediction).float(), torch.from_numpy(target).float(), torch.from_numpy(mask)


def test_depth_errors_after_least_squares(depths):
    prediction, target, mask = depths
    ours = depth_errors(prediction, target, mask)
    for image in range(5):
        p, d = (x[image][mask[image]].double().numpy() for x in (prediction, target))
        (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), d, rcond=None)
        aligned = scale * p + shift
        ratio = np.maximum(aligned / d, d / aligned)
        expected = {"rmse": np.sqrt(np.mean((aligned - d) ** 2)), "abs_rel": np.mean(np.abs(aligned - d) / d)}
        expected |= {"delta1": np.mean((aligned > 0) & (ratio < 1.25))}
        assert {name: values[image].item() for name, values in ours.items()} == pytest.approx(expected, rel=1e-9)
    assert (0.3 < ours["delta1"]).all() and (ours["delta1"] < 1).all()
    assert average([ours])["rmse"] == pytest.approx(ours["rmse"].mean().item())
    channel = depth_errors(prediction[:, None], target[:, None], mask[:, None])
    assert torch.equal(channel["rmse"], ours["rmse"])


def test_alignment_undoes_any_scale_and_shift_of_either_sign(depths):
    _, target, mask = depths
    errors = depth_errors(-7 * target + 100, target, mask)
    assert (errors["rmse"] < 1e-4).all() and (errors["delta1"] == 1).all()
    raw = depth_errors(2 * target, target, mask, align=False)
    np.testing.assert_allclose(raw["abs_rel"], 1, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.5])
def test_a_constant_prediction_becomes_the_mean(depths, value):
    _, target, mask = depths
    errors = depth_errors(torch.full_like(target, value), target, mask)
    deviation = [target[i][mask[i]].double().std(correction=0).item() for i in range(5)]
    np.testing.assert_allclose(errors["rmse"], deviation, rtol=1e-6)
    aligned = align_depth(torch.full_like(target, value), target, mask)
    aligned = aligned[2][mask[2]]
    assert aligned.max() - aligned.min() < 1e-9 and aligned[0].item() == pytest.approx(target[2][mask[2]].mean().item())


def test_depth_that_is_not_positive_is_no_hit():
    target, prediction = torch.ones(1, 1, 4), torch.tensor([[[-1.0, 0.0, 1.2, 1.0]]])
    errors = depth_errors(prediction, target, torch.ones(1, 1, 4), align=False)
    assert errors["delta1"].item() == 0.5 and errors["abs_rel"].isfinite().all()


def test_constant_true_depth_is_met_exactly():
    errors = depth_errors(torch.rand(1, 4, 4), torch.full((1, 4, 4), 2.0), torch.ones(1, 4, 4))
    assert errors["rmse"].item() == pytest.approx(0, abs=1e-12) and errors["delta1"].item() == 1


def test_bad_depth_is_named(depths):
    prediction, target, mask = depths
    empty, broken = mask.clone(), prediction.clone()
    empty[3] = False
    broken[1] = torch.nan
    with pytest.raises(ValueError, match=r"mask is true in fewer than 1 places in item \[3\]"):
        depth_errors(prediction, target, empty)
    with pytest.raises(ValueError, match=r"mask is true in fewer than 1 places in item \[3\]"):
        align_depth(prediction, target, empty)
    with pytest.raises(ValueError, match=r"prediction has NaN or infinite values in item \[1\]"):
        depth_errors(broken, target, mask)
    with pytest.raises(ValueError, match="target has NaN or infinite values"):
        depth_errors(target.nan_to_num(posinf=1), target, torch.ones_like(mask))
    with pytest.raises(ValueError, match="target depth must be positive"):
        depth_errors(prediction, target - 2, mask)
    with pytest.raises(ValueError, match="target must have shape"):
        depth_errors(prediction, target[:, :4], mask)
    with pytest.raises(ValueError, match="prediction must have shape"):
        depth_errors(prediction[0], target[0], mask[0])
    with pytest.raises(ValueError, match="no items"):
        depth_errors(prediction[:0], target[:0], mask[:0])


@pytest.fixture
def normals() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normals (4, 3, 9, 11) of any length, each image predicted with another error; images with odd and even counts."""
    rng = np.random.default_rng(2)
    target = rng.normal(size=(4, 3, 9, 11))
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    prediction = 3 * (target + rng.normal(0, 1, target.shape) * np.array([0.0, 0.2, 0.5, 1.0])[:, None, None, None])
    mask = rng.random((4, 9, 11)) < 0.7
    target.transpose(0, 2, 3, 1)[~mask] = 0
    return torch.from_numpy(prediction).float(), torch.from_numpy(target).float(), torch.from_numpy(mask)


def reference_angles(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """By the cross product instead of the cosine."""
    p, t = (x.double().numpy().transpose(1, 2, 0)[mask.numpy()] for x in (prediction, target))
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(p, t), axis=1), (p * t).sum(1)))


def summary(angles: np.ndarray) -> dict[str, float]:
    shares = {f"within_{limit}": np.mean(angles < float(limit)) for limit in ("11.25", "22.5", "30")}
    return {"mean": angles.mean(), "median": np.median(angles)} | shares


def test_normal_errors_per_image_and_pooled(normals):
    per_image = [reference_angles(*image) for image in zip(*normals, strict=True)]
    ours = normal_errors(*normals)
    for i, angles in enumerate(per_image[1:], 1):
        assert {name: value[i].item() for name, value in ours.items()} == pytest.approx(summary(angles), rel=1e-6)
    assert ours["mean"][0] < 1e-2 and ours["within_11.25"][0] == 1
    pooled = angle_summary(torch.cat(normal_angles(*normals)))
    expected = summary(np.concatenate(per_image))
    assert {name: value.item() for name, value in pooled.items()} == pytest.approx(expected, rel=1e-6)
    assert pooled["median"].item() != pytest.approx(ours["median"].mean().item(), rel=0.05)


def test_opposite_missing_and_equal_normals():
    target = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    prediction = target * torch.tensor([1.0, 0, -1])
    assert normal_angles(prediction, target, torch.ones(1, 1, 3))[0].tolist() == pytest.approx([0, 90, 180])


def test_bad_normals_are_named(normals):
    prediction, target, mask = normals
    empty, broken = mask.clone(), prediction.clone()
    empty[2] = False
    broken[1] = torch.inf
    with pytest.raises(ValueError, match=r"mask is true in fewer than 1 places in item \[2\]"):
        normal_errors(prediction, target, empty)
    with pytest.raises(ValueError, match=r"prediction has NaN or infinite values in item \[1\]"):
        normal_errors(broken, target, mask)
    with pytest.raises(ValueError, match="target has pixels without a normal"):
        normal_errors(prediction, target, torch.ones_like(mask))
    with pytest.raises(ValueError, match="prediction must have shape"):
        normal_errors(prediction[:, :2], target[:, :2], mask)
    with pytest.raises(ValueError, match="target must have shape"):
        normal_errors(prediction, target[..., :4], mask)
    with pytest.raises(ValueError, match="no angles"):
        angle_summary(torch.zeros(0))

"""Chapter 11, sections 1 to 4: the formats, the autoencoder, and what is measured, on bad input too."""

import dataclasses

import numpy as np
import pytest
import torch

from course_lib.chapters import acae_skeletons as acae
from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.data import skeletons
from course_lib.data.person import load_body
from course_lib.paths import OPEN_BODY
from course_lib.studies import acae as measured
from course_lib.threads import one_thread

COUNTS = {  # joints of the real formats, as the authors' code names them
    "smpl": 24, "h36m": 25, "coco": 19, "3dhp": 28, "smplx": 42, "ghum": 35, "movi": 87, "bmhad": 43, "umpm": 15,
    "totcap": 21, "aspset": 17, "jta": 22, "3doh": 14, "mads": 19, "ikea": 17,
}  # fmt: skip
ALL = tuple(skeletons.FORMATS)
NAMES = ("lsho_a", "rsho_a", "neck_a", "rsho_b", "lsho_b", "neck_b", "rkne_b", "lkne_b")


@pytest.fixture(scope="module")
def crowd():
    return skeletons.sample_poses(48, ALL, seed=3)


def small_model(dtype=torch.float64):
    torch.manual_seed(0)
    return acae.AffineCombiningAutoencoder(NAMES, 4, 2).to(dtype)


# ------------------------------------------------------------------------------------------------- formats
def test_formats_have_the_real_counts():
    assert {name: len(one.joints) for name, one in skeletons.FORMATS.items()} == COUNTS
    assert {name: len(joints) for name, (_, joints) in skeletons.SUBSETS.items()} == {"h36m17": 17, "coco17": 17}
    assert sum(acae.PAPER_FORMATS.values()) == 555 and len(acae.PAPER_FORMATS) == 19


@pytest.mark.parametrize("name", COUNTS)
def test_a_format_is_whole(name):
    one = skeletons.FORMATS[name]
    assert len(set(one.joints)) == len(one.joints) and all(len(joint) == 4 for joint in one.joints)
    assert all(0 <= a < len(one.joints) and 0 <= b < len(one.joints) and a != b for a, b in one.edges)
    assert len({b for _, b in one.edges}) == len(one.edges), "two bones lead to one joint"
    mirror = skeletons.mirror_permutation(skeletons.joint_names((name,)))
    assert torch.equal(mirror[mirror], torch.arange(len(one.joints)))


def test_skeletons_of_bones_hang_together():
    for name, one in skeletons.FORMATS.items():
        bones = [joint for joint in one.joints if skeletons.left_of(joint) in skeletons.SPOTS]
        limbs = {one.joints.index(joint) for joint in bones if skeletons.unsided(joint) in ("elb", "wri", "kne", "ank")}
        assert limbs <= {b for _, b in one.edges}, name


def test_regressor_rows_sum_to_one():
    matrix = skeletons.regressor(("h36m", "bmhad"))
    assert matrix.dtype == torch.float64 and matrix.shape == (68, len(load_body(OPEN_BODY).model.template))
    assert (matrix.sum(1) - 1).abs().max() < 1e-12
    assert ((matrix != 0).sum(1) >= 4).all()


def test_points_are_the_regressor_times_vertices():
    vertices = torch.randn(2, len(load_body(OPEN_BODY).model.template), 3, dtype=torch.float64)
    expected = skeletons.regressor(("umpm", "coco")) @ vertices
    assert torch.allclose(skeletons.skeleton_points(vertices, ("umpm", "coco")), expected, atol=1e-12)


def test_joints_stand_where_the_tables_put_them():
    points = skeletons.skeleton_points(load_body(OPEN_BODY).model.template[None], ("smpl",))[0]
    joints, joint = load_body(OPEN_BODY).rest_joints, skeletons.FORMATS["smpl"].joints.index
    for name, at, side in (("lhip", "left_hip", 1), ("rhip", "right_hip", -1)):
        shift = torch.tensor([side * -0.045, -0.025, 0.005])
        assert torch.allclose(points[joint(name)].float(), joints[JOINT_NAMES.index(at)] + shift, atol=1e-6)


def test_markers_stand_on_the_skin():
    body = load_body(OPEN_BODY)
    points = skeletons.skeleton_points(body.model.template[None], ("bmhad",))[0]
    skin = body.model.template[np.unique(body.pack["faces_body"])].double()
    over = torch.cdist(points, skin).amin(1)
    assert (over < 0.0141).all() and over.mean() > 0.01


def test_formats_disagree(crowd):
    base = [skeletons.base_name(name) for name in skeletons.joint_names(ALL)]
    pairs = torch.tensor([(i, j) for i in range(len(base)) for j in range(i) if base[i] == base[j]]).T
    apart = (crowd[:, pairs[0]] - crowd[:, pairs[1]]).norm(dim=-1).mean(0)
    assert apart.mean() > 0.015 and (apart > 0.003).all()


@one_thread()
@torch.no_grad()
def test_joints_follow_the_body_when_posed_and_shaped():
    people = skeletons.sample_people(np.random.default_rng(5), 32)
    body, matrix = skeletons.part_of_body(("smpl", "h36m", "3dhp", "jta"))
    posed, shaped = body(**people), body(betas=people["betas"])
    found, rest = matrix @ posed.vertices.double(), matrix @ shaped.vertices.double()
    for i, name in enumerate(skeletons.joint_names(("smpl", "h36m", "3dhp", "jta"))):
        anchor = skeletons.SPOTS[skeletons.left_of(skeletons.base_name(name))][0]
        k = JOINT_NAMES.index(anchor.replace("left_", "right_") if name.startswith("r") else anchor)
        now, then = ((p[:, i] - j[:, k]).norm(dim=-1) for p, j in ((found, posed.joints), (rest, shaped.joints)))
        assert (now - then).abs().mean() < 0.012, name


@one_thread()
@torch.no_grad()
def test_part_of_body_is_the_whole_body():
    people = skeletons.sample_people(np.random.default_rng(1), 2)
    part, matrix = skeletons.part_of_body(("coco",))
    whole = skeletons.skeleton_points(load_body(OPEN_BODY).model(**people).vertices, ("coco",))
    assert torch.allclose(matrix @ part(**people).vertices.double(), whole, atol=1e-5)


def test_sampled_poses_repeat_and_stand_before_the_camera(crowd):
    few = skeletons.sample_poses(5, ALL, seed=3)
    assert torch.equal(few, crowd[:5]) and crowd.dtype == torch.float64
    assert not torch.equal(few, skeletons.sample_poses(5, ALL, seed=4))
    assert (crowd[..., 2] > 0.3).all()
    smpl = crowd[:, skeletons.columns(ALL, "smpl")]
    head, ankle = (smpl[:, skeletons.FORMATS["smpl"].joints.index(name), 1] for name in ("head", "lank"))
    assert (head < ankle).double().mean() > 0.8, "y points down: heads are above feet"


def test_columns_of_a_union():
    formats, names = ("umpm", "coco"), skeletons.joint_names(("umpm", "coco"))
    assert {name.partition("_")[2] for name in names[skeletons.columns(formats, "coco")]} == {"coco"}
    chosen = [names[i] for i in skeletons.subset_columns(formats, "coco17")]
    assert len(chosen) == 17 and "neck_coco" not in chosen and "nose_coco" in chosen


def test_bad_formats_are_refused():
    with pytest.raises(ValueError, match="unknown skeleton format 'kinect'"):
        skeletons.joint_names(("kinect",))
    with pytest.raises(ValueError, match="none or repeat"):
        skeletons.joint_names(("smpl", "smpl"))
    with pytest.raises(ValueError, match="none of"):
        skeletons.columns(("smpl",), "coco")
    with pytest.raises(ValueError, match="no partner"):
        skeletons.mirror_permutation(("lsho_a", "neck_a"))
    with pytest.raises(ValueError, match="the open body has"):
        skeletons.skeleton_points(torch.zeros(1, 10, 3), ("smpl",))
    with pytest.raises(ValueError, match="1 pose or more"):
        skeletons.sample_poses(0)


# ------------------------------------------------------------------------------------------------- the autoencoder
def test_weights_sum_to_one():
    model = small_model()
    assert model.encoder_weights.shape == (8, 6) and model.decoder_weights.shape == (6, 8)
    for weights in (model.encoder_weights, model.decoder_weights):
        assert (weights.sum(0) - 1).abs().max() < 1e-12


def test_equivariant_under_mirror_and_affine_maps():
    model, points = small_model(), torch.randn(5, 8, 3, dtype=torch.float64) + torch.tensor([0.0, 0.0, 4.0])
    swap, latents = skeletons.mirror_permutation(NAMES), model.encode(points)
    assert (model.encode(points[:, swap]) - latents[:, [2, 3, 0, 1, 4, 5]]).abs().max() < 1e-12 * latents.abs().max()
    matrix, shift = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    moved = model(points @ matrix + shift) - (model(points) @ matrix + shift)
    assert moved.abs().max() < 1e-12 * points.abs().max() * 10


def test_order_of_names_does_not_matter():
    model, points = small_model(), torch.randn(2, 8, 3, dtype=torch.float64)
    order = [7, 2, 1, 0, 6, 5, 4, 3]
    other = acae.AffineCombiningAutoencoder(tuple(NAMES[i] for i in order), 4, 2).double()
    # pairs come in another order too: move the rows of the blocks to where their names went
    pairs, middle = [0, 1, 2], [0, 1]
    left = [[n for n in NAMES if n[0] == "l"].index(n) for n in (NAMES[i] for i in order) if n[0] == "l"]
    centre = [[n for n in NAMES if n[0] == "n"].index(n) for n in (NAMES[i] for i in order) if n[0] == "n"]
    assert sorted(left) == pairs and sorted(centre) == middle
    for mine, theirs in ((other.encoder, model.encoder), (other.decoder, model.decoder)):
        for name, value in theirs.named_parameters():
            getattr(mine, name).data.copy_(value[centre if name in ("middle", "centre") else left])
    assert torch.allclose(other.encode(points[:, order]), model.encode(points), atol=1e-12)
    assert torch.allclose(other(points[:, order]), model(points)[:, order], atol=1e-12)


def test_a_column_that_sums_to_zero_is_refused():
    with pytest.raises(ValueError, match="sums to zero"):
        acae.affine(torch.tensor([[1.0, 2.0], [-1.0, 3.0]]))
    model = small_model()
    model.encoder.same.data.zero_(), model.encoder.other.data.zero_(), model.encoder.middle.data.zero_()
    with pytest.raises(ValueError, match="begin with other, positive numbers"):
        model(torch.randn(1, 8, 3, dtype=torch.float64))
    assert acae.affine(torch.zeros(2, 3, device="meta")).shape == (2, 3)


def test_bad_names_and_sizes_are_refused():
    for names in (("lsho_a", "neck_a"), ("lsho_a", "rsho_a", "lsho_a"), ("rsho_a",)):
        with pytest.raises(ValueError, match="needs one with r"):
            acae.AffineCombiningAutoencoder(names, 2, 1)
    with pytest.raises(ValueError, match="even number"):
        acae.AffineCombiningAutoencoder(NAMES, 3, 1)
    with pytest.raises(ValueError, match="3 pairs and 2 in the middle, not 12 and 5"):
        acae.build(acae.CONFIGS["smoke"], NAMES)


# ------------------------------------------------------------------------------------------------- loss
def test_projection_loss_by_hand():
    points = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 2.0, 4.0]]])  # mean depth 3
    found = torch.tensor([[[1.0, 1.0, 1.0], [0.0, 2.0, 4.0]]])
    # (1.5, 0) and (0, 1.5) against (3, 3) and (0, 1.5): |1.5| + |3| over four numbers
    assert acae.projection_loss(points, found).item() == pytest.approx(4.5 / 4)


def test_depth_along_the_ray_costs_nothing():
    points = torch.randn(3, 5, 3) * 0.3 + torch.tensor([0.0, 0.0, 4.0])
    assert acae.projection_loss(points, points * torch.rand(3, 5, 1).add(0.8)) < 1e-6


@pytest.mark.parametrize("z", [-1.0, 0.0, 0.1])
def test_poses_behind_the_camera_do_not_count(z):
    good = torch.randn(1, 4, 3) * 0.2 + torch.tensor([0.0, 0.0, 3.0])
    bad = good.clone()
    bad[0, 1, 2] = z
    found = (torch.cat([good, bad]) + 0.05).requires_grad_()
    loss = acae.projection_loss(torch.cat([good, bad]), found)
    assert loss.item() == pytest.approx(acae.projection_loss(good, found[:1]).item())
    loss.backward()
    assert found.grad.isfinite().all() and (found.grad[1] == 0).all()
    assert acae.projection_loss(bad, found[1:]) == 0, "no pose counts: zero, not NaN"


def test_loss_has_the_mean_weight():
    points, model = torch.randn(2, 8, 3) * 0.2 + torch.tensor([0.0, 0.0, 3.0]), small_model(torch.float32)
    found, encoder, decoder = model(points, with_weights=True)
    terms = acae.autoencoder_loss(points, found, encoder, decoder, 0.6)
    size = (encoder.abs().sum() + decoder.abs().sum()) / (8 * 6)
    assert terms["loss"].item() == pytest.approx((acae.projection_loss(points, found) + 0.6 * size).item())
    assert terms["size"] >= 1 / 8 + 1 / 6 - 1e-6


def test_usable_poses():
    points = torch.randn(6, 8, 3) * 0.2 + torch.tensor([0.0, 0.0, 3.0])
    points[1, 2, 0], points[2, 5, 2] = float("nan"), 0.2
    assert torch.equal(acae.usable_poses(points, NAMES), points[[0, 3, 4, 5]])
    points[:, 4] = float("nan")
    with pytest.raises(ValueError, match="lsho_b is missing in every pose: leave it"):
        acae.usable_poses(points, NAMES)
    with pytest.raises(ValueError, match="nothing to train on"):
        acae.usable_poses(-torch.ones(2, 8, 3), NAMES)
    with pytest.raises(ValueError, match=r"not \(N, 8, 3\)"):
        acae.usable_poses(torch.ones(2, 7, 3), NAMES)


def test_inconsistency_is_zero_where_nothing_is_lost():
    model = acae.AffineCombiningAutoencoder(("neck_a", "head_a"), 0, 2).double()
    for matrix in (model.encoder, model.decoder):
        matrix.centre.data.copy_(torch.eye(2))
    points = torch.randn(4, 2, 3, dtype=torch.float64)
    assert acae.inconsistency(model, points).abs().max() < 1e-12
    model.decoder.centre.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    gap = (points[:, 0] - points[:, 1]).norm(dim=-1)
    assert torch.allclose(acae.inconsistency(model, points), gap / 2)


# ------------------------------------------------------------------------------------------------- configurations
@pytest.mark.parametrize("name", [name for name, config in acae.CONFIGS.items() if config.formats])
def test_configurations_know_their_joints(name):
    config = acae.CONFIGS[name]
    left, _, middle = acae.sides(skeletons.joint_names(config.formats))
    assert (len(left), len(middle)) == (config.pairs, config.middle)


def test_the_papers_configuration():
    whole = acae.recipe(acae.CONFIGS["acae-555"], None)
    with torch.device("meta"):
        model = whole.model()
    assert model.encoder_weights.numel() + model.decoder_weights.numel() == 53_280
    assert [round(whole.lr(step), 9) for step in (0, 149_999, 150_000, 300_000)] == [3e-2, 3e-2, 3e-3, 3e-4]


def test_a_short_run_learns():
    config = dataclasses.replace(acae.CONFIGS["smoke"], steps=150)
    names, points = measured.training_poses(config)
    model = acae.build(config, names)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    before = measured.pose_metrics(model, points)
    model.float()
    for _ in range(config.steps):
        optimizer.zero_grad()
        acae.training_loss(config.strength, model, {"points": points[:32]})["loss"].backward()
        optimizer.step()
    after = measured.pose_metrics(model, points)
    assert after["error"] < 0.6 * before["error"]


def test_weight_metrics():
    weights = torch.tensor([[1.2, 0.5], [-0.2, 0.5], [0.0, 0.0]])
    found = measured.weight_metrics(weights, "x")
    assert found == {"small_x": pytest.approx(1 / 3), "negative_x": pytest.approx(-0.1)}

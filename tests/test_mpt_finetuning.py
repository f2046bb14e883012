"""Chapter 14's fine-tuning: mixed truth, augmentation, the measure of its maps, its runs, and what they make of bad
input."""

import dataclasses

import kornia
import numpy as np
import pytest
import torch
from torch import nn

from course_lib import study
from course_lib.chapters import mpt_finetuning as mpt
from course_lib.chapters import mpt_pretraining
from course_lib.chapters.cameras import axis_angle_to_matrix, weak_perspective_project
from course_lib.chapters.mpt_finetuning import CONFIGS, STUDIES
from course_lib.chapters.mpt_pretraining import body_levels
from course_lib.data.pictured import crops
from course_lib.studies import mpt_finetuning as measured
from course_lib.train import fit

pytestmark = pytest.mark.usefixtures("own_data")

SMOKE = CONFIGS["smoke"]


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def found(own_data):
    return measured.people(SMOKE)


@pytest.fixture
def sample(found):
    return mpt.with_marks(crops(found, torch.arange(len(found))[:2], 32))


def a_batch(count=4):
    return mpt.example(SMOKE, count) | {"mesh_known": torch.ones(count), "joints_known": torch.ones(count),
                                        "spots_known": torch.ones(count, 14)}  # fmt: skip


# ---------------------------------------------------------- mixed truth
def test_the_mean_is_over_what_is_known():
    answer, truth = torch.randn(2, 5, 7, 3)
    for known in (torch.tensor([1.0, 0, 1, 1, 0]), (torch.rand(5, 7) < 0.4).float()):
        expected = (answer - truth)[known > 0].abs().mean()
        assert torch.allclose(mpt.known_l1(answer, truth, known), expected)
    assert mpt.known_l1(answer, truth, torch.zeros(5)) == 0


def test_what_is_unknown_may_be_nan():
    answer, truth = torch.randn(3, 4, 3, requires_grad=True), torch.full((3, 4, 3), torch.nan)
    truth[1] = 0.0
    loss = mpt.known_l1(answer, truth, torch.tensor([0.0, 1, 0]))
    loss.backward()
    assert loss.isfinite() and answer.grad.isfinite().all()
    assert (answer.grad[[0, 2]] == 0).all() and (answer.grad[1] != 0).all()


class Answering(nn.Module):
    """Always the same answer, whatever it is shown."""

    def __init__(self, count=4):
        super().__init__()
        sizes = [len(points) for points in body_levels(SMOKE.mesh.levels).points]
        self.joints, self.regressed = (nn.Parameter(torch.randn(count, 14, 3)) for _ in range(2))
        self.vertices = nn.ParameterList(torch.randn(count, size, 3) for size in sizes)
        self.camera = nn.Parameter(torch.rand(count, 3) + 0.5)

    def forward(self, _):
        names = ("joints", "regressed", "camera")
        return {name: getattr(self, name) for name in names} | {"vertices": list(self.vertices)}


def test_with_everything_known_it_is_chapter_13s_loss():
    batch, model = a_batch(), Answering()
    theirs = mpt_pretraining.mesh_loss(model, batch | {"maps": batch["image"]})
    ours = mpt.mixed_loss(model, batch)
    assert all(torch.allclose(ours[name], theirs[name]) for name in theirs)


def test_a_sample_without_3d_truth_says_nothing_of_depth():
    batch, model = a_batch(), Answering()
    batch["mesh_known"], batch["joints_known"] = torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 0]])
    batch["joints"][[1, 3]] = torch.nan
    for name in ("vertices", "middle", "coarse"):
        batch[name][[1, 3]] = torch.nan
    mpt.mixed_loss(model, batch)["loss"].backward()
    gradient = model.regressed.grad
    assert gradient.isfinite().all() and (gradient[[1, 3], :, 2] == 0).all()
    assert (gradient[[1, 3], :, :2] != 0).any() and (gradient[[0, 2], :, 2] != 0).any()
    assert all((level.grad[[1, 3]] == 0).all() for level in model.vertices)


def test_marks_say_what_coco_lacks(sample):
    flat = mpt.with_marks(sample, mesh=False, joints=False, spots=mpt.COCO_KNOWS)
    assert flat["mesh_known"].tolist() == flat["joints_known"].tolist() == [0.0, 0.0]
    assert flat["spots_known"][0].tolist() == [1.0] * 12 + [0.0] * 2
    assert (sample["spots_known"] == 1).all() and (sample["mesh_known"] == 1).all()


# ---------------------------------------------------------- augmentation
def test_mirrored_twice_is_the_same(sample):
    once, twice = mpt.mirrored(sample), mpt.mirrored(mpt.mirrored(sample))
    assert all(torch.equal(twice[name], sample[name]) for name in sample)
    assert not torch.equal(once["image"], sample["image"])


def test_the_mirrored_mesh_has_the_mirrored_joints(sample):
    regressor = torch.from_numpy(body_levels(SMOKE.mesh.levels).regressor)
    once = mpt.mirrored(sample)
    assert torch.allclose(torch.einsum("jv,bvc->bjc", regressor, once["vertices"]), once["joints"], atol=1e-4)
    right, left = sample["joints"][:, 6], once["joints"][:, 11]  # right wrist, and the left one in the mirror
    assert torch.allclose(right * torch.tensor([-1.0, 1, 1]), left)


def test_swaps_exchange_left_and_right():
    from course_lib.data.keypoints import FORMATS

    names = FORMATS["lsp14"]
    for a, b in enumerate(mpt.SWAP14):
        expected = {"r": "l", "l": "r"}.get(names[a][0]) if names[a] not in ("neck", "head") else names[a][0]
        assert names[b] == expected + names[a][1:]


def test_pictures_turn_as_kornias_do():
    image = torch.rand(2, 3, 33, 33)
    batch = {"image": image, "spots": torch.zeros(2, 14, 2), "points": torch.zeros(2, 17, 2)}
    batch |= {"joints": torch.zeros(2, 14, 3), "vertices": torch.zeros(2, 5, 3)}
    angle, zoom = torch.tensor([0.4, -0.9]), torch.tensor([1.0, 1.2])
    ours = mpt.turned(batch, angle, zoom)["image"]
    middle = torch.full((2, 2), 16.0)  # kornia counts pixel centres at whole numbers, and turns counterclockwise
    matrix = kornia.geometry.get_rotation_matrix2d(middle, -angle.rad2deg(), zoom[:, None].expand(2, 2))
    theirs = kornia.geometry.warp_affine(image, matrix, (33, 33), align_corners=True)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_bright_pixel_goes_where_its_spot_goes():
    image = torch.zeros(1, 3, 65, 65)
    image[..., 20, 45] = 1.0
    spot = torch.tensor([[[2 * 45.5 / 65 - 1, 2 * 20.5 / 65 - 1]]])
    batch = {"image": image, "spots": spot, "points": spot, "joints": torch.zeros(1, 1, 3)}
    found = mpt.turned(batch | {"vertices": torch.zeros(1, 1, 3)}, torch.tensor([0.7]), torch.tensor([1.0]))
    row, column = divmod(int(found["image"][0, 0].argmax()), 65)
    at = torch.tensor([column + 0.5, row + 0.5]) * 2 / 65 - 1
    assert (at - found["spots"][0, 0]).abs().max() < 2 / 65


def test_space_turns_about_the_cameras_axis_and_still_projects_to_the_spots():
    joints = torch.randn(3, 14, 3)
    s, t = torch.tensor([0.8, 1.0, 1.2]), torch.zeros(3, 2)
    spots = weak_perspective_project(joints, s, t)
    batch = {"image": torch.rand(3, 3, 8, 8), "spots": spots, "points": spots, "joints": joints, "vertices": joints}
    angle, zoom = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([1.0, 0.8, 1.3])
    found = mpt.turned(batch, angle, zoom)
    assert torch.allclose(weak_perspective_project(found["joints"], zoom * s, t), found["spots"], atol=1e-5)
    R = axis_angle_to_matrix(torch.stack([0 * angle, 0 * angle, angle], 1))
    assert torch.allclose(found["vertices"], joints @ R.mT, atol=1e-5)


def test_augmentation_stays_within_its_limits(monkeypatch, sample):
    seen = []
    monkeypatch.setattr(mpt, "turned", lambda batch, angle, zoom: seen.append((angle, zoom)) or batch)
    generator = torch.Generator().manual_seed(0)
    flips = 0
    for _ in range(400):
        changed = mpt.augmented(dataclasses.replace(mpt.Augmentation(), noise=0.0), sample, generator)
        flips += torch.equal(changed["vertices"], sample["twin"])
    angle, zoom = (torch.cat(values) for values in zip(*seen, strict=True))
    assert angle.abs().max() <= torch.pi / 3 + 1e-5 and 0.3 < (angle != 0).float().mean() < 0.5
    assert 1 / 1.25 - 1e-5 <= zoom.min() < 0.85 and 1.2 < zoom.max() <= 1 / 0.75 + 1e-5
    assert 150 < flips < 250


def test_unchanged_changes_nothing_and_noise_stays_in_range(sample):
    still = mpt.augmented(mpt.UNCHANGED, sample, torch.Generator())
    assert all(torch.allclose(still[name], sample[name], atol=1e-5) for name in sample)
    only_noise = dataclasses.replace(mpt.UNCHANGED, noise=0.4)
    noisy = mpt.augmented(only_noise, sample | {"image": 0.5 + 0 * sample["image"]}, torch.Generator().manual_seed(1))
    assert 0.3 <= noisy["image"].min() < noisy["image"].max() <= 0.7
    assert noisy["image"].flatten(2).std(-1).max() < 1e-6  # a colour is one number for the whole crop


# ---------------------------------------------------------- batches
def test_batches_have_the_examples_shapes_and_their_sets_marks():
    stream, example = measured.stream(SMOKE), mpt.example(SMOKE, 4)
    batches = [next(stream.batches(number, 4)) for number in range(6)]
    for batch in batches:
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
            name: (x.shape, x.dtype) for name, x in example.items()
        }
    marks = torch.cat([batch["mesh_known"] for batch in batches])
    spots = torch.cat([batch["spots_known"].sum(1) for batch in batches])
    assert set(marks.tolist()) == {0.0, 1.0} and torch.equal(spots, 12 + 2 * marks)
    again = next(measured.stream(SMOKE).batches(3, 4))
    assert all(torch.equal(again[name], batches[3][name]) for name in again)


def test_coarse_meshes_are_the_fine_ones_turned_along():
    batch = next(measured.stream(SMOKE).batches(0, 4))
    levels = body_levels(SMOKE.mesh.levels).all(batch["vertices"])
    assert torch.equal(levels[1], batch["middle"]) and torch.equal(levels[2], batch["coarse"])


def test_nobody_is_trained_and_tested_on():
    train, test = (measured.people(SMOKE, split) for split in ("train", "test"))
    assert not set(train.names) & set(test.names)


# ---------------------------------------------------------- networks
def test_what_the_transformer_may_be_shown():
    images = torch.rand(2, 3, SMOKE.pose.size, SMOKE.pose.size)
    plain = mpt.mesh_regressor(SMOKE)(images)
    assert plain["maps"].shape == (2, 17, SMOKE.mesh.size, SMOKE.mesh.size)
    channels = mpt.feature_channels(SMOKE.pose)
    mesh = dataclasses.replace(SMOKE.mesh, maps=channels)
    features = mpt.mesh_regressor(dataclasses.replace(SMOKE, features=True, mesh=mesh))(images)
    assert features["maps"].shape == (2, channels, SMOKE.mesh.size, SMOKE.mesh.size)
    assert features["regressed"].shape == plain["regressed"].shape == (2, 14, 3)


def test_shrunk_maps_are_smooth():
    model = mpt.mesh_regressor(dataclasses.replace(SMOKE, through=4)).eval()
    plain = mpt.mesh_regressor(SMOKE).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, SMOKE.pose.size, SMOKE.pose.size)
    rough, smooth = plain(images)["maps"], model(images)["maps"]
    assert rough.shape == smooth.shape and not torch.allclose(rough, smooth)
    assert smooth.diff(dim=-1).abs().mean() < rough.diff(dim=-1).abs().mean()


def test_it_begins_with_the_weights_that_it_is_given():
    levels, source = body_levels(SMOKE.mesh.levels), mpt.mesh_regressor(SMOKE)
    model = mpt.begun(SMOKE, levels, source.pose.state_dict(), source.mesh.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )
    half = mpt.begun(SMOKE, levels, mesh=source.mesh.state_dict())
    assert torch.equal(half.mesh.tokens.mix[0].weight, source.mesh.tokens.mix[0].weight)
    assert not torch.equal(next(half.pose.parameters()), next(source.pose.parameters()))


def test_shipped_weights_of_another_network_are_not_taken():
    assert measured.weights_of("mpt_pretraining-pretrained", mpt.mesh_regressor(SMOKE).mesh) is None
    mesh = CONFIGS["shipped"].mesh
    right = mpt_pretraining.MeshTransformer(mesh, body_levels(mesh.levels))
    weights = measured.weights_of("mpt_pretraining-pretrained", right)
    assert weights is not None and set(weights) == set(right.state_dict())


def test_both_networks_learn_and_at_their_own_rates():
    recipe = mpt.recipe(SMOKE, None)
    model = recipe.model()
    groups = mpt_groups(recipe, model)
    assert groups["pose."] == pytest.approx(SMOKE.lr * SMOKE.pose_lr)
    assert groups["mesh.up."] == pytest.approx(SMOKE.lr * SMOKE.mesh.up_lr)
    assert groups["mesh.stages."] == pytest.approx(SMOKE.lr)
    run = fit(measured.started(SMOKE), progress=False)
    before = measured.started(SMOKE).model()
    changed = {
        name for name, value in run.model.named_parameters() if not torch.equal(value, before.state_dict()[name])
    }
    assert any(name.startswith("pose.") for name in changed) and any(name.startswith("mesh.") for name in changed)


def mpt_groups(recipe, model):
    """The learning rates of the parameters whose names begin with some words."""
    from course_lib.recipe import parameter_groups

    rates = {name: group["lr"] for group in parameter_groups(model, recipe.optimizer) for name in group["names"]}
    prefixes = ("pose.", "mesh.up.", "mesh.stages.")
    return {word: next(rate for name, rate in rates.items() if name.startswith(word)) for word in prefixes}


def test_the_loss_falls_on_one_batch():
    batch, model = next(measured.stream(SMOKE).batches(0, 4)), mpt.mesh_regressor(SMOKE)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = mpt.mixed_loss(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# ---------------------------------------------------------- how many joints a map answers to
def lattice(count=30):
    places = torch.stack(torch.meshgrid(*[torch.linspace(-0.7, 0.7, 4)] * 2, indexing="xy"), -1).view(16, 2)
    return torch.stack([places[torch.randperm(16)[:8]] for _ in range(count)])


def test_a_map_answers_to_as_many_joints_as_it_has_dots():
    points = lattice()
    dots = mpt_pretraining.synthesize_heatmaps(points, 32, 1.0)
    maps = torch.stack([dots[:, :n].sum(1) for n in (1, 2, 5, 8)], 1)
    counts = mpt.joints_answered(maps, points)
    assert torch.allclose(counts, torch.tensor([1.0, 2, 5, 8]), atol=0.35)
    assert torch.allclose(mpt.joints_answered(7 - 3 * maps, points), counts, atol=1e-3)  # holes, another level


def test_a_map_without_a_pattern_answers_to_nothing():
    points = lattice()
    counts = mpt.joints_answered(torch.full((30, 2, 16, 16), 3.0), points)
    assert counts.tolist() == [0.0, 0.0]


# ---------------------------------------------------------- measuring and runs
def test_the_truth_has_no_error_and_the_mean_pose_has():
    batch = measured.held_out(SMOKE)
    truth = {"regressed": batch["joints"], "vertices": batch["vertices"]}
    assert all(value == pytest.approx(0, abs=1e-3) for value in measured.mesh_metrics(truth, batch).values())
    mean = measured.mean_pose(SMOKE, batch)
    assert 40 < mean["pa_mpjpe"] < 300 and mean["mpjpe"] > mean["pa_mpjpe"]


def test_a_shipped_run_measures_everything(tmp_path):
    model, found = measured.finetuned(SMOKE, tmp_path)
    assert {"mpjpe", "pa_mpjpe", "mpvpe", "wild_mpjpe", "mean_pa_mpjpe", "before_mpjpe", "pa_over_mean"} <= set(found)
    assert all(value > 0 for value in found.values()) and not model.training
    assert {path.name for path in tmp_path.iterdir()} >= {"data.json", "fit"}


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "whole"])
def test_studies_run(name, tmp_path):
    paths = study.run_study(STUDIES[name], folder=tmp_path, say=lambda text: None)
    assert len(paths) == min(2, len(STUDIES[name].arms))
    for path in paths:
        assert {"mpjpe", "pa_mpjpe", "mpvpe"} <= set(study.read_record(path)["metrics"])


def test_study_arms_differ_where_they_should():
    own = {name: one for name, one in STUDIES.items() if name != "whole"}
    arms = {name: {arm: mpt.arm_config(one, 10) for arm, one in asked.arms.items()} for name, asked in own.items()}
    assert arms["pretraining"]["with"].warm_mesh and not arms["pretraining"]["without"].warm_mesh
    assert dataclasses.replace(arms["pretraining"]["without"], warm_mesh=True) == arms["pretraining"]["with"]
    assert [config.through for config in arms["resolution"].values()] == [8, 16, 32]
    features = arms["features"]["features"]
    assert features.features and features.mesh.maps == mpt.feature_channels(features.pose) and not features.warm_mesh
    assert {config.pose.kind for config in arms["backbone"].values()} == {"hrnet", "resnet"}
    assert not any(config.warm_pose for config in arms["backbone"].values())


def test_a_launch_takes_one_whole_person_of_a_sample():
    from course_lib.data.sets import people_samples

    config = dataclasses.replace(SMOKE, augmentation=mpt.UNCHANGED)
    take, example = mpt.prepare(config), mpt.example(config, 1)
    for world, count in SMOKE.pose.worlds:
        samples = people_samples(world, count, SMOKE.pose.side)
        made = [take(samples[i], np.random.default_rng(0)) for i in range(count)]
        assert all(one[name].shape == example[name].shape[1:] for one in made for name in example)
        marked = [one for one in made if one["spots_known"].any()]
        assert 0 < len(marked) and {one["mesh_known"].item() for one in marked} == {float(world == "studio")}
        lost = [one for one in made if not one["spots_known"].any()]
        assert all(one["mesh_known"] == 0 and one["joints_known"] == 0 and (one["image"] == 0).all() for one in lost)
    ours = next(measured.stream(config).batches(0, 8))
    theirs = torch.stack(
        [take(people_samples("studio", 8, 48)[i], np.random.default_rng(0))["joints"] for i in range(8)]
    )
    nearest = torch.cdist(ours["joints"].flatten(1), theirs.flatten(1)).amin(1)
    assert nearest.min() < 1e-4  # the same person, by the other way


# ---------------------------------------------------------- bad input
def test_maps_that_the_transformer_does_not_read():
    mesh = dataclasses.replace(SMOKE.mesh, maps=5)
    with pytest.raises(ValueError, match="17 maps, the transformer reads 5"):
        mpt.mesh_regressor(dataclasses.replace(SMOKE, mesh=mesh))


def test_a_mesh_of_another_body():
    batch = next(measured.stream(SMOKE).batches(0, 4))
    with pytest.raises(ValueError, match="rebuild them"):
        body_levels(SMOKE.mesh.levels).all(batch["vertices"][:, :-1])


def test_points_of_another_number_of_people():
    with pytest.raises(RuntimeError):
        mpt.joints_answered(torch.rand(3, 2, 8, 8), torch.zeros(2, 4, 2))

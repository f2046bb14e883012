"""Chapter 12's miniature: its data sets, augmentation, batches, configurations and runs; the rulers of consistency."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest
import torch

from course_lib import paths, study
from course_lib.chapters import acae_skeletons, acae_training
from course_lib.chapters.acae_training import BATCHES, CONFIGS, SHIPPED, STUDIES, Arm, ChunkedStream
from course_lib.data import dozens
from course_lib.data.person import Person, pose_people
from course_lib.data.skeletons import FORMATS, columns, joint_names, mirror_permutation, sample_poses, skeleton_points
from course_lib.data.worlds import render_samples
from course_lib.studies import acae_training as runs
from course_lib.train import fit

SMOKE = CONFIGS["smoke"]
CHOSEN = SMOKE.formats


@pytest.fixture(scope="module", autouse=True)
def at_smoke(tmp_path_factory):
    """Everything at `smoke`, with rendered data in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SCALE", "smoke")
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        for cached in (runs.datasets, runs.held_out, runs.autoencoder, runs.first_phase, dozens.crops):
            cached.cache_clear()
        yield
        for cached in (runs.datasets, runs.held_out, runs.autoencoder, runs.first_phase, dozens.crops):
            cached.cache_clear()


@pytest.fixture(scope="module")
def sample():
    """A picture of somebody in full figure."""
    for index in range(20):
        found = next(render_samples("studio", "train", 0, index, (64, 64), formats=("coco17",)))
        if dozens.usable(found.people[0], 17):
            return found
    raise AssertionError("nobody of twenty is in full figure")


@pytest.fixture(scope="module")
def sets():
    return runs.datasets(SMOKE.side, CHOSEN, SMOKE.pictures)


# ---------------------------------------------------------- the data sets
def test_the_table_is_the_papers_28_and_4_and_every_place_has_one_owner():
    assert list(dozens.DATASETS) == list(BATCHES["full"])
    kinds = [one.kind for one in dozens.DATASETS.values()]
    assert [kinds.count(kind) for kind in dozens.KINDS] == [10, 11, 7, 4]
    assert all((one.format is None) == (one.kind == "2D") for one in dozens.DATASETS.values())
    assert {one.format for one in dozens.DATASETS.values()} - {None} <= set(CHOSEN)
    for world in ("studio", "wild", "scan"):
        parts = sorted(dozens.intervals()[name] for name, one in dozens.DATASETS.items() if one.world == world)
        assert parts[0][0] == 0 and parts[-1][1] == pytest.approx(1)
        assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))


def test_joints_from_a_part_of_the_body_are_those_of_the_whole(sample):
    p = sample.people[0]
    vertices = pose_people([Person(0, p.shape, p.expression, p.pose, p.translation)]).vertices
    assert torch.allclose(dozens.joints_of([p], CHOSEN), skeleton_points(vertices, CHOSEN), atol=1e-6)


def test_a_crop_shows_its_joints_where_its_camera_says(sample):
    """The turned camera's picture and joints, against the keypoints of the picture that it was cut from."""
    (row,) = dozens.crops_of(sample, 48, CHOSEN, 17)
    K, R, t = (torch.from_numpy(np.asarray(part)).double() for part in (sample.K, sample.R, sample.t))
    before = dozens.joints_of(sample.people, CHOSEN)[0] @ R.T + t
    assert torch.allclose(before.norm(dim=1), row["points"].double().norm(dim=1), atol=1e-5)  # only turned
    _, turn = dozens.turned_camera(K, torch.from_numpy(sample.people[0].box).double(), dozens.stored(48))
    seen = dozens.seen_by(torch.from_numpy(sample.alpha)[None], K, turn, row["K"].double(), dozens.stored(48))[0]
    flat = acae_training.projected(row["points"][None], row["K"][None])[0]
    inside = columns(CHOSEN, "h36m")
    names = joint_names(CHOSEN)[inside]
    trunk = [i for i, name in enumerate(names) if name.split("_")[0] in ("pelv", "spin", "neck", "lkne", "rkne")]
    spots = flat[inside][trunk].floor().long()
    assert (seen[spots[:, 1], spots[:, 0]] > 0.5).all()  # on the person


def test_a_box_without_area_is_refused():
    with pytest.raises(ValueError, match="no area"):
        dozens.turned_camera(torch.eye(3).double(), torch.tensor([3.0, 4, 3, 9]).double(), 64)


def test_a_data_set_knows_its_own_format_only_and_2d_ones_know_pixels(sets):
    for name, one in dozens.DATASETS.items():
        valid, seen = sets[name]["valid"], sets[name]["seen"]
        expected = torch.zeros(len(joint_names(CHOSEN)), dtype=torch.bool)
        if one.format:
            expected[columns(CHOSEN, one.format)] = True
        assert (valid == expected).all()
        assert seen.any() == (one.format is None) and seen.any(1).all() == seen.any()
        assert sets[name]["joints"].isfinite().all() and sets[name]["spots"].isfinite().all()


def test_labels_are_as_noisy_as_the_table_says():
    rows = {"points": sample_poses(64, CHOSEN).float(), "place": torch.zeros(64), "K": torch.eye(3).expand(64, 3, 3)}
    rows |= {"image": torch.zeros(64, 3, 4, 4, dtype=torch.uint8), "group": torch.ones(64)}
    for name in ("SURREAL", "Human3.6M", "CMU-Panoptic"):
        found = dozens.member(rows, name, CHOSEN, everybody=True)
        noise = (found["joints"] - rows["points"])[found["valid"]].std().item()
        assert noise == pytest.approx(dozens.DATASETS[name].noise, rel=0.05, abs=1e-7)
        again = dozens.member(rows, name, CHOSEN, everybody=True)
        assert torch.equal(found["joints"], again["joints"])


def test_looks_change_pictures_and_the_plain_one_does_not():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(dozens.looked(images, dozens.Look()), images)
    grey = dozens.looked(images, dozens.Look(grey=1.0)).float()
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 1
    for look in (dozens.Look(tint=dozens.WARM), dozens.Look(gamma=0.8), dozens.Look(blur=0.1)):
        assert not torch.equal(dozens.looked(images, look), images)


def test_a_data_set_without_anybody_and_a_world_without_anybody_are_refused(tmp_path):
    rows = {"points": torch.zeros(2, len(joint_names(CHOSEN)), 3), "place": torch.full((2,), 0.999)}
    with pytest.raises(ValueError, match="MuCo-3DHP has nobody.*render more"):
        dozens.member(rows, "MuCo-3DHP", CHOSEN)
    folder = runs.folder_of("studio", runs.FEW)
    with pytest.raises(ValueError, match="18 of 17 points.*render more"):
        dozens.crops(folder, 32, CHOSEN, 18)


def test_weak_labels_need_their_formats():
    with pytest.raises(ValueError, match="coco"):
        dozens.spots_of(torch.zeros(1, 24, 3), ("smpl",))


# ---------------------------------------------------------- augmentation and batches
def test_mirroring_twice_is_nothing_and_augmented_labels_follow_the_camera(sets):
    one = {key: values[:1] for key, values in sets["Human3.6M"].items()}
    swap, swap_weak = (mirror_permutation(names) for names in (joint_names(CHOSEN), dozens.WEAK_NAMES))
    view = acae_training.plain_view(SMOKE.side, one)
    twice = view
    for _ in range(2):
        twice = acae_training.mirror_example(twice, SMOKE.side, swap, swap_weak)
    assert all(torch.equal(view[key], twice[key]) for key in view)
    still = dataclasses.replace(SMOKE, augmentation=acae_training.Augmentation(0, 0, 0, 0, 0))
    same = acae_training.transform(still, swap, swap_weak)(one, torch.Generator().manual_seed(0))
    assert torch.allclose(same["image"], view["image"], atol=1e-5) and torch.allclose(same["K"], view["K"])
    assert torch.equal(same["joints"], one["joints"])
    flip = dataclasses.replace(SMOKE, augmentation=acae_training.Augmentation(0, 0, 0, 1, 0))
    other = acae_training.transform(flip, swap, swap_weak)(one, torch.Generator().manual_seed(0))
    flat, mirror = (acae_training.projected(b["joints"], b["K"])[0][columns(CHOSEN, "h36m")] for b in (view, other))
    here = swap[columns(CHOSEN, "h36m")] - columns(CHOSEN, "h36m").start
    assert torch.allclose(mirror[here, 0], SMOKE.side - flat[:, 0], atol=1e-3)


def test_a_quarter_of_a_round_has_a_quarter_of_the_2d_examples(sets):
    stream = runs.queues_over(SMOKE, sets)
    weak = torch.tensor(acae_training.IS_WEAK)
    parts = list(islice(stream.batches(0, 32), 5))
    assert [int(weak[part["dataset"]].sum()) for part in parts] == [8] * 5
    assert [part["step"].unique().tolist() for part in parts[:2]] == [[0], [acae_training.LATE // SMOKE.late]]
    shared = [next(stream.batches(3, 32, rank, 2)) for rank in range(2)]
    for key, values in parts[3].items():
        assert torch.equal(torch.cat([part[key] for part in shared]), values)
    for size, world in ((48, 1), (32, 3)):
        with pytest.raises(ValueError, match="can't be cut"):
            stream.batches(0, size, 0, world)


# ---------------------------------------------------------- configurations
def test_configurations_have_as_many_joints_as_their_formats_and_papers_numbers():
    for name, config in CONFIGS.items():
        if not name.startswith("effv2"):
            assert runs.sizes(config.formats) == {"pairs": config.pairs, "middle": config.middle}
            assert config.weak == len(dozens.WEAK_NAMES)
    for name in ("effv2-s", "effv2-l"):
        first, second = CONFIGS[name], CONFIGS[f"{name}-consistent"]
        assert (first.joints, first.steps, second.steps, first.batch_size) == (555, 400_000, 40_000, 128)
        assert (first.late, second.late, first.frozen, second.frozen) == (5000, 5000, 1000, 1000)
        assert second.loss == "regularised" and second.fine_tune and second.horizon == 400_000
    for change in ({"loss": "other"}, {"mixture": "huge"}):
        with pytest.raises(ValueError, match="unknown"):
            dataclasses.replace(SMOKE, **change)


@pytest.mark.parametrize("loss", acae_training.LOSSES)
def test_every_loss_takes_a_step_on_its_example_and_ends_with_frozen_norms(loss):
    config = dataclasses.replace(SMOKE, loss=loss, steps=3, frozen=1, batch_size=8, norm=4)
    recipe = acae_training.recipe(config, None)

    class Examples:
        def batches(self, start, size, rank=0, world=1):
            torch.manual_seed(start)
            while True:
                yield recipe.example(size)

    frozen = []
    run = fit(dataclasses.replace(recipe, stream=Examples()), progress=False,
              on_step=lambda run: frozen.append(run.model.frozen_norms))  # fmt: skip
    assert frozen == [False, True, True] and np.isfinite(run.losses).all()
    assert run.model.head.out_channels == config.points * 9


def test_after_each_step_filters_are_no_longer_than_20():
    model = acae_training.build(SMOKE)
    with torch.no_grad():
        model.backbone.features[0][0].weight.mul_(1000)
    acae_training.after_step(SMOKE, model, 0)
    assert model.backbone.features[0][0].weight.flatten(1).norm(dim=1).max() <= 20 * (1 + 1e-6)
    assert not model.frozen_norms


def test_fine_tuning_starts_from_the_first_phase_with_two_rates():
    first = acae_training.build(SMOKE)
    second = acae_training.second_phase(SMOKE, 4)
    recipe = acae_training.recipe(second, None, start=runs.tensors_of(first))
    model = recipe.model()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), model.parameters(), strict=True))
    rates = {}
    for group in recipe.optimizer.build(model).param_groups:
        rates |= {name.partition(".")[0]: recipe.lr(0, group) for name in group["names"]}
    assert rates["head"] == pytest.approx(30 * rates["backbone"])


# ---------------------------------------------------------- rulers
def test_the_truth_is_without_error_and_rulers_count_millimetres():
    truth = sample_poses(6, CHOSEN).float()
    for name, benchmark in runs.BENCHMARKS.items():
        row = runs.benchmark_metrics(name, truth, truth, CHOSEN)
        assert row["mpjpe"] == pytest.approx(0, abs=1e-3) and row["cps200"] == row["pck100"] == 100
        assert len(runs.benchmark_columns(benchmark, CHOSEN)) == len(benchmark.joints)
    assert runs.bone_error(truth, truth, CHOSEN) == runs.disagreement(truth, truth, CHOSEN) == 0
    moved = truth.clone()
    moved[:, columns(CHOSEN, "smpl")] += torch.tensor([0.1, 0.0, 0.0])
    pairs = runs.namesakes(CHOSEN)
    start, stop = columns(CHOSEN, "smpl").start, columns(CHOSEN, "smpl").stop
    own = ((pairs >= start) & (pairs < stop)).sum(1) == 1
    assert runs.disagreement(moved, truth, CHOSEN) == pytest.approx(100 * own.float().mean().item(), rel=1e-3)
    assert runs.bone_error(moved, truth, CHOSEN) == pytest.approx(0, abs=1e-3)
    assert runs.bone_error(2 * truth, truth, CHOSEN) > 100


def test_inconsistency_is_zero_for_what_the_autoencoder_can_make():
    latents = acae_training.stand_in(SMOKE)
    point = torch.tensor([0.3, 0.1, 4.0]).expand(2, SMOKE.joints, 3)
    assert runs.inconsistency(point, latents) == pytest.approx(0, abs=1e-2)
    assert runs.inconsistency(sample_poses(2, CHOSEN).float(), latents) > 50


def test_namesakes_are_of_two_formats():
    names = joint_names(CHOSEN)
    for a, b in runs.namesakes(CHOSEN)[::50].tolist():
        assert names[a].split("_")[0] == names[b].split("_")[0] and names[a].split("_")[1] != names[b].split("_")[1]


def test_everybody_is_measured_where_a_benchmark_has_nobody():
    rows = {"group": torch.ones(3), "points": torch.zeros(3, 2, 3)}
    assert len(runs.chosen(runs.BENCHMARKS["MuPoTS-3D"], rows)["points"]) == 3


# ---------------------------------------------------------- runs
def test_a_study_runs_both_phases_and_measures_each():
    found = runs.compare(Arm(), seed=0, steps=2)
    rulers = ("inconsistency", "disagreement", "bone_error", "mpjpe", "pmpjpe", "pck100", "cps200")
    for stage in ("separate", "consistent"):
        assert all(np.isfinite(found[f"{stage} {ruler}"]) for ruler in rulers)
        assert all(f"{stage} mpjpe {name}" in found for name in runs.BENCHMARKS)


def test_studies_have_three_seeds_and_share_their_default_arm():
    for asked in STUDIES.values():
        assert len(asked.seeds) >= 3 and Arm() in asked.arms.values()
    assert list(STUDIES["ghost_bn"].arms) == [f"{a} {b}" for a in ("frozen", "live") for b in acae_training.GROUPS]


def test_a_launch_takes_folders_and_says_what_is_missing():
    folders = [runs.folder_of(world, runs.FEW) for world in ("studio", "wild", "scan")]
    recipe = acae_training.with_data(SMOKE, folders)
    batch = next(recipe.stream.batches(0, SMOKE.batch_size))
    assert batch["image"].shape == (32, 3, SMOKE.side, SMOKE.side)
    with pytest.raises(ValueError, match="no folder has the world scan, wild"):
        acae_training.with_data(SMOKE, folders[:1])
    with pytest.raises(ValueError, match="set these"):
        acae_training.with_data(dataclasses.replace(SMOKE, pairs=3), folders)


def test_what_is_recorded_fits_the_source():
    assert study.stale_records(iter(STUDIES.values())) == []
    assert list(SHIPPED) == ["backbone", "separate", "consistent"] and paths.RESULTS.exists()


def test_the_shipped_fine_tuning_makes_skeletons_consistent_and_costs_nothing():
    """Inconsistency at least halved; errors not above those of the control, which trains as long without the term."""
    before, after = (
        json.loads((paths.RESULTS / f"{SHIPPED[name].name}.json").read_text())["metrics"]
        for name in ("separate", "consistent")
    )
    assert after["inconsistency"] <= 0.5 * min(before["inconsistency"], after["control inconsistency"])
    for ruler in ("mpjpe", "pmpjpe", "bone_error"):
        assert after[ruler] <= min(before[ruler], 1.02 * after[f"control {ruler}"])


def test_the_autoencoder_of_other_formats_is_trained_when_needed():
    coder = runs.autoencoder(("umpm", "aspset"))
    count = len(joint_names(("umpm", "aspset")))
    assert coder.encoder.shape == (count, 48) and coder.decoder.shape == (48, count)
    assert torch.allclose(coder.encoder.sum(0), torch.ones(48), atol=1e-4)
    assert isinstance(acae_skeletons.CONFIGS["smoke"], acae_skeletons.Config) and "umpm" in FORMATS
    assert isinstance(runs.stream_of(SMOKE), ChunkedStream)

"""The runs behind chapters 06 to 08: metrics that say what they should, and runs that resume, share and stop."""

import dataclasses
import json
import math
import signal

import pytest
import torch
from torch import nn

from course_lib import shipped, study
from course_lib.chapters import sapiens_dense, sapiens_pose, sapiens_pretraining
from course_lib.chapters.sapiens_dense import Arm
from course_lib.data.sets import rendered
from course_lib.studies import sapiens
from course_lib.studies import sapiens_tasks as tasks

pytestmark = pytest.mark.usefixtures("own_data")


@pytest.fixture
def random_encoder(monkeypatch):
    """Shipped tasks begin with random weights: the shipped encoder is as wide as no smoke configuration."""
    monkeypatch.setattr(tasks, "shipped_encoder", lambda: None)
    monkeypatch.setattr(tasks, "from_normals", sapiens_dense.build)


@pytest.fixture
def steps_taken(monkeypatch):
    """How many training steps were taken."""
    from course_lib.train import loop

    taken, step = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *arguments: taken.append(1) or step(*arguments))
    return taken


TINY = Arm("wild", 8, tasks=("normals",), size=32, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1)


# ------------------------------------------------------------------------------------------------- metrics
def maps(labels=2):
    """A batch as `answers` yields it: a person in the middle of each picture, depth a plane with a bump."""
    generator = torch.Generator().manual_seed(0)
    human = torch.zeros(labels, 32, 32, dtype=torch.bool)
    human[:, 8:24, 10:22] = True
    normals = nn.functional.normalize(torch.randn(labels, 3, 32, 32, generator=generator), dim=1)
    depth = torch.linspace(2, 3, 32)[:, None] + 0.2 * torch.rand(labels, 32, 32, generator=generator)
    parts = torch.randint(1, 4, (labels, 32, 32), generator=generator) * human
    image = torch.rand(labels, 3, 32, 32, generator=generator)
    return {"image": image, "depth": depth * human, "normals": normals * human[:, None], "parts": parts.byte()}


CONFIG = sapiens_dense.CONFIGS["smoke"]


def test_perfect_answers_are_perfect():
    batch = maps()
    scores = 100 * nn.functional.one_hot(batch["parts"].long(), 28).permute(0, 3, 1, 2).float()
    seg = tasks.seg_metrics(CONFIG, [(batch, scores)])
    assert len(seg) == 6 and set(seg.values()) == {1}
    depth = tasks.depth_metrics(CONFIG, [(batch, 0.1 * batch["depth"] - 7)])  # scale and shift are forgiven
    assert depth["rmse"] < 1e-5 and depth["delta1"] == 1 and depth["rmse_over_plane"] < 1e-4
    angles = tasks.normal_metrics(CONFIG, [(batch, 3 * batch["normals"])])
    assert angles["angle"] < 0.1 and angles["within_11.25"] == 1


def test_known_errors_have_known_numbers():
    batch = maps()
    constant = tasks.depth_metrics(CONFIG, [(batch, torch.zeros(2, 1, 32, 32))])
    assert constant["rmse_over_constant"] == pytest.approx(1) and constant["rmse_over_plane"] > 2
    turned = batch["normals"][:, [1, 2, 0]]
    expected = torch.cat(
        [
            (a * b).sum(0)[m].clamp(-1, 1).acos().rad2deg()
            for a, b, m in zip(batch["normals"], turned, batch["depth"] > 0, strict=True)
        ]
    )
    angles = tasks.normal_metrics(CONFIG, [(batch, turned)])
    assert angles["angle"] == pytest.approx(expected.mean().item(), abs=1e-3)
    assert angles["within_30"] == pytest.approx((expected < 30).double().mean().item())


def test_rare_parts_count_in_miou_and_not_in_miou_common():
    batch = maps()
    batch["parts"][0, 8, 10] = 27  # one pixel of 384, a quarter of a percent: never found
    scores = nn.functional.one_hot(batch["parts"].long() % 27, 28).permute(0, 3, 1, 2).float()
    found = tasks.seg_metrics(CONFIG, [(batch, scores)])
    assert found["miou"] < 0.85 and found["miou_common"] == 1


@pytest.mark.parametrize("classes", [28, 20])
def test_the_likeliest_classes_are_found_once_the_weights_are_taken_out(classes):
    config, batch = dataclasses.replace(CONFIG, classes=classes), maps()
    target = sapiens_dense.finished(config, batch)["parts"]
    likely = nn.functional.one_hot(target.where(target < classes, 0), classes).permute(0, 3, 1, 2) + 0.5
    weighted = likely.log() + sapiens_dense.class_weights(config).log()[:, None, None]  # what training makes of them
    found = tasks.seg_metrics(config, [(batch, weighted)])
    assert found["miou"] < 0.9 and found["miou_unweighted"] == found["miou_common_unweighted"] == 1


def test_parts_are_judged_in_the_vocabulary_of_20_classes_too():
    batch, config = maps(), dataclasses.replace(CONFIG, classes=20)
    lip = sapiens_dense.to_lip(batch["parts"].long())
    scores = nn.functional.one_hot(lip.where(lip < 20, 0), 20).permute(0, 3, 1, 2).float()
    found = tasks.seg_metrics(config, [(batch, scores)])
    assert found["miou"] == found["miou_common"] == found["macc"] == 1


def test_the_best_plane_is_the_plane():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    plane, mask = (2 + 0.1 * x - 0.03 * y)[None], torch.rand(1, 32, 32) > 0.5
    noisy = plane.where(mask, torch.inf)  # what stands outside the mask does not matter
    assert torch.allclose(tasks.best_planes(noisy, mask).float(), plane, atol=1e-4)


@pytest.mark.parametrize("keypoints", [133, 308])
def test_true_poses_have_an_ap_of_one_and_missed_ones_of_zero(keypoints, monkeypatch):
    config = dataclasses.replace(sapiens_pose.CONFIGS["smoke"], keypoints=keypoints)
    data = tasks.rendered("wild", 4, 48, "test", tuple(sapiens_pose.FORMATS.values()))
    _, labels = tasks.people_of(config, data)
    true = labels["points"].nan_to_num()
    for moved, ap in ((0.0, 1.0), (1000.0, 0.0)):
        poses = sapiens_pose.Poses(true + moved, torch.ones(true.shape[:2]))
        monkeypatch.setattr(sapiens_pose, "predict", lambda *arguments, poses=poses: poses)
        found = tasks.pose_metrics(config, None, data)
        assert found["AP"] == found["AR"] == found["AP_body"] == ap
        assert set(found) == {"AP", "AR", "AP_body", "AP_foot", "AP_face", "AP_hand"}


def test_pictures_without_people_are_left_out_and_none_but_those_is_an_error():
    data = tasks.rendered("general-nopeople", 4, 32, "val")
    with pytest.raises(ValueError, match=r"general-nopeople-val.* has no picture with a person"):
        next(tasks.answers(CONFIG, sapiens_dense.DensePredictor(CONFIG), data))


# ------------------------------------------------------------------------------------------------- shipped runs
def smoke_configs():
    yield sapiens.people, sapiens_pretraining.CONFIGS["smoke"], {"masked_loss"}
    worlds = ("wild_precision", "wild_recall", "general_precision", "general_recall")
    yield sapiens.detector, sapiens_pretraining.DETECTORS["smoke"], set(worlds)
    seg = {"miou", "miou_common", "macc", "miou_unweighted", "miou_common_unweighted", "macc_unweighted"}
    yield tasks.dense, dataclasses.replace(CONFIG, classes=20), seg
    yield tasks.pose, sapiens_pose.CONFIGS["smoke"], {"AP", "AR"}
    names = {"seg": seg}
    names["depth"] = {"rmse", "abs_rel", "delta1", "rmse_over_constant", "rmse_over_plane"}
    names["normals"] = {"angle", "median", "within_11.25", "within_22.5", "within_30"}
    for task in sapiens_dense.TASKS:
        yield tasks.dense, sapiens_dense.for_task(CONFIG, task), names[task]


@pytest.mark.parametrize(
    ("run", "config", "names"), list(smoke_configs()), ids=lambda value: getattr(value, "task", "")
)
def test_a_shipped_run_measures_what_it_ships_and_goes_on(run, config, names, tmp_path, random_encoder, steps_taken):
    model, found = run(config, tmp_path)
    assert set(found) == names and all(math.isfinite(value) for value in found.values())
    assert all(torch.equal(value, value.bfloat16().to(value.dtype)) for value in model.state_dict().values())
    assert json.loads((tmp_path / "data.json").read_text()).keys() and len(steps_taken) == config.steps
    again, same = run(config, tmp_path)
    assert len(steps_taken) == config.steps and same == found  # nothing was trained twice


def test_a_task_without_the_shipped_encoder_says_which_command_makes_it(tmp_path, monkeypatch):
    places = shipped.Places(tmp_path / "build", tmp_path / "checkpoints", tmp_path / "results")
    monkeypatch.setattr(sapiens, "load", lambda model, name: shipped.load(model, name, places))
    with pytest.raises(shipped.ShippedError, match=r"not there yet.*course ship 06\.people"):
        sapiens.shipped_encoder()


def test_a_larger_skeleton_begins_with_all_of_the_shipped_body_but_its_last_layer(
    tmp_path, monkeypatch, random_encoder
):
    smoke = sapiens_pose.CONFIGS["smoke"]
    body = sapiens_pose.PoseEstimator(smoke)
    monkeypatch.setitem(sapiens_pose.CONFIGS, "shipped-17", smoke)
    monkeypatch.setattr(tasks, "load", lambda model, name: model.load_state_dict(body.state_dict()))
    whole = tasks.from_body(dataclasses.replace(smoke, keypoints=133)).state_dict()
    assert whole["head.last.weight"].shape[0] == 133
    shared = [name for name in whole if not name.startswith("head.last")]
    assert all(torch.equal(whole[name], body.state_dict()[name]) for name in shared)
    model, found = tasks.pose(dataclasses.replace(smoke, keypoints=133, steps=2), tmp_path)
    assert set(found) == {"AP", "AR", "AP_body", "AP_foot", "AP_face", "AP_hand"}
    moved = (model.head.deconvs[0].weight - body.head.deconvs[0].weight).abs().max()
    assert 0 < moved < 0.1  # two steps away, not another random start


def test_depth_begins_with_the_encoder_of_the_shipped_normals(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "shipped_encoder", lambda: pytest.fail("an encoder is loaded only to be thrown away"))
    normals = sapiens_dense.for_task(CONFIG, "normals")
    surface = sapiens_dense.DensePredictor(normals)
    declared = dataclasses.replace(sapiens_dense.SHIPPED["normals"], config=normals)
    monkeypatch.setitem(sapiens_dense.SHIPPED, "normals", declared)
    monkeypatch.setattr(tasks, "load", lambda model, name: model.load_state_dict(surface.state_dict()))
    model, _ = tasks.dense(dataclasses.replace(sapiens_dense.for_task(CONFIG, "depth"), steps=2), tmp_path)
    known = surface.encoder.state_dict()
    moved = [(value - known[name]).abs().max() for name, value in model.encoder.state_dict().items()]
    assert 0 < max(moved) < 0.1


@pytest.mark.parametrize("chapter", [sapiens_pretraining, sapiens_pose, sapiens_dense])
def test_what_the_chapters_declare_can_be_run(chapter):
    declared = [*getattr(chapter, "SHIPPED", {}).values(), *getattr(chapter, "STUDIES", {}).values()]
    assert declared and all(callable(study.resolved(one.run)) for one in declared)
    for key, one in chapter.SHIPPED.items():
        recipe = chapter.detector_recipe if key == "detector" else chapter.recipe
        with torch.device("meta"):
            model = recipe(one.config, None).model()
        small = sum(2 * value.numel() for value in model.state_dict().values())
        assert one.key == key and small < shipped.LARGEST - 50_000  # of names and shapes


def kept_metrics(name):
    return study.read_record(shipped.Places().record(shipped.named(name)))["metrics"]


def test_shipped_networks_are_as_good_as_the_course_promises():
    assert kept_metrics("sapiens_pose-17")["AP"] >= 0.55
    assert kept_metrics("sapiens_dense-seg")["miou_common_unweighted"] >= 0.55
    assert kept_metrics("sapiens_dense-normals")["angle"] <= 20


def test_shipped_weights_measure_up_to_their_record():
    """On a few pictures, rendered here: not the record's number, but near it."""
    one = sapiens_dense.SHIPPED["normals"]
    model = sapiens_dense.DensePredictor(one.config)
    known = shipped.load(model, one.name)["metrics"]["angle"]
    found = tasks.dense_metrics(one.config, model, rendered("studio", 24, 128, "test"))["angle"]
    assert 0.75 * known < found < 1.25 * known and found < 25


# ------------------------------------------------------------------------------------------------- studies
def test_an_arm_is_measured_early_and_at_the_end_the_same_every_time():
    first, again, other = (tasks.transfer(TINY, seed, 4) for seed in (0, 0, 1))
    names = {"angle", "median", "within_11.25", "within_22.5", "within_30"}
    assert set(first) == names | {f"{name}_early" for name in names}
    assert first == again and first != other and first["angle"] != first["angle_early"]


def test_every_task_is_learned_and_a_random_start_is_never_pretrained(monkeypatch):
    monkeypatch.setattr(tasks, "pretrained", lambda *arguments: pytest.fail("pretrained"))
    arm = dataclasses.replace(TINY, source="", images=0, tasks=("pose", "seg", "depth"))
    assert {"pose_ap", "miou", "rmse", "pose_ap_early"} <= set(tasks.transfer(arm, 0, 2))


def test_a_pretraining_changes_where_fine_tuning_begins(monkeypatch):
    begun = []
    monkeypatch.setattr(tasks, "fine_tuned", lambda arm, task, state, seed, steps: begun.append(state) or {})
    for seed in (0, 1):
        tasks.transfer(TINY, seed, 3)
    assert not torch.equal(begun[0]["blocks.0.attn.qkv.weight"], begun[1]["blocks.0.attn.qkv.weight"])
    recipe, _ = tasks.dense_arm(tasks.shrunk(TINY), "normals", begun[0], 0, 3)
    assert torch.equal(recipe.model().encoder.blocks[0].attn.qkv.weight, begun[0]["blocks.0.attn.qkv.weight"])


def test_arms_that_differ_only_afterwards_share_a_pretraining(tmp_path, monkeypatch, steps_taken):
    monkeypatch.setenv("COURSE_SCALE", "laptop")
    monkeypatch.setattr(tasks, "BUILD", tmp_path)
    monkeypatch.setattr(tasks, "POOL", {"smoke": 8, "laptop": 8})
    arm = dataclasses.replace(TINY, pretraining_batch=4)
    first = tasks.pretrained(arm, 0, 3)
    shared = tasks.pretrained(dataclasses.replace(arm, tasks=("pose",), lr=0.1, labelled=3, batch=2), 0, 3)
    assert len(steps_taken) == 3 and all(torch.equal(first[name], shared[name]) for name in first)
    for other, seed, steps in ((arm, 1, 3), (arm, 0, 4), (dataclasses.replace(arm, images=7), 0, 3)):
        tasks.pretrained(other, seed, steps)
    assert len(steps_taken) == 13 and len(list((tmp_path / "studies").iterdir())) == 4


def test_an_arm_cannot_have_more_pictures_than_there_are():
    with pytest.raises(ValueError, match="100 pictures of wild are more than the 8"):
        tasks.pretrained(dataclasses.replace(TINY, images=100), 0, 3)


def test_a_study_that_is_stopped_records_nothing(monkeypatch):
    monkeypatch.setattr(tasks, "dense_metrics", lambda *arguments, **options: signal.raise_signal(signal.SIGTERM) or {})
    with pytest.raises(KeyboardInterrupt, match="stopped after step 1"):
        tasks.transfer(dataclasses.replace(TINY, source=""), 0, 4)

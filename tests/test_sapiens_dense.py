"""Chapter 08: heads, losses and augmentation against independent formulas; what is not there or not finite."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from course_lib.chapters import sapiens_dense as dense
from course_lib.chapters import sapiens_pose
from course_lib.chapters.sapiens_dense import CONFIGS, IGNORE, PARTS, TASKS, DensePredictor, for_task, head_shape
from course_lib.chapters.sapiens_pretraining import CONFIGS as PRETRAINING
from course_lib.chapters.sapiens_pretraining import MaskedAutoencoder, encoder_state
from course_lib.data.parts import MIRROR, PART_NAMES
from course_lib.data.schema import Sample
from course_lib.recipe import parameter_groups

SMOKE = CONFIGS["smoke"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def person(size: tuple[int, int] = SMOKE.size, **changes) -> Sample:
    """A box of a body before a wall: every label, a part of the picture without anybody."""
    rng = np.random.default_rng(0)
    there = np.zeros(size, bool)
    there[4:-4, 6:-6] = True
    normals = rng.normal(size=(3, *size)) + np.array([0, 0, 2])[:, None, None]
    fields = {
        "key": "one",
        "image": rng.random((3, *size), dtype=np.float32),
        "alpha": there.astype(np.float32),
        "parts": np.where(there, rng.integers(1, 28, size), 0).astype(np.uint8),
        "depth": np.where(there, rng.uniform(2, 3, size), np.inf).astype(np.float32),
        "normals": (there * normals / np.linalg.norm(normals, axis=0)).astype(np.float32),
    }
    return Sample(**fields | changes)


def nobody(size: tuple[int, int] = SMOKE.size) -> Sample:
    zeros = np.zeros(size, np.float32)
    labels = {
        "alpha": zeros,
        "parts": zeros.astype(np.uint8),
        "depth": zeros + np.inf,
        "normals": np.stack([zeros] * 3),
    }
    return person(size, **labels)


def batch_of(*samples: Sample) -> dict[str, Tensor]:
    rows = [dense.tensors(SMOKE, sample) for sample in samples]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


# ---------------------------------------------------------- the networks
# millions of weights in the heads of the four sizes: facts about the released checkpoints
HEADS = {
    "seg-28": (33.25, 36.40, 39.54, 44.26),
    "depth": (13.67, 15.24, 16.81, 19.17),
    "normals": (33.23, 36.38, 39.52, 44.24),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_have_as_many_weights_as_the_released_ones(name):
    for size, millions in zip(dense.SIZES, HEADS[name], strict=True):
        with torch.device("meta"):
            head = DensePredictor(CONFIGS[f"{name}-{size}"]).head
        assert round(sum(p.numel() for p in head.parameters()) / 1e6, 2) == millions


def configurations():
    for name, config in CONFIGS.items():
        if not config.paper:
            yield from (pytest.param(for_task(config, task), id=f"{name}-{task}") for task in TASKS)
        elif name.endswith("0.3b"):
            yield pytest.param(config, id=name)


@pytest.mark.parametrize("config", list(configurations()))
def test_each_configuration_runs_without_data(config):
    plan = dense.recipe(config, None)
    with torch.device("meta"):
        model = plan.model()
        batch = plan.example(2)
    assert {type(block).__name__ for block in model.encoder.blocks} == set(plan.blocks)
    losses = plan.loss(model, {key: value.to("meta") for key, value in batch.items()})
    assert all(value.shape == () for value in losses.values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("patch", [4, 8, 16])
def test_answers_have_the_pictures_size_and_the_head_the_right_resolution(task, patch):
    config = for_task(dataclasses.replace(SMOKE, size=(64, 48), patch=patch), task)
    model = DensePredictor(config)
    images = torch.rand(2, 3, 64, 48)
    assert model(images).shape == (2, {"seg": 28, "depth": 1, "normals": 3}[task], 64, 48)
    features = torch.rand(2, config.width, 64 // patch, 48 // patch)
    assert model.head(features).shape[2:] == ((64, 48) if task == "depth" else (32, 24))


def test_paper_configurations_are_the_papers():
    assert len([name for name in CONFIGS if CONFIGS[name].paper]) == 16
    for size, (width, depth, heads) in dense.SIZES.items():
        for name in ("seg-28", "seg-20", "depth", "normals"):
            config = CONFIGS[f"{name}-{size}"]
            assert (config.size, config.patch, config.width, config.depth, config.heads) == (
                (1024, 768), 16, width, depth, heads,
            )  # fmt: skip
            assert (config.layer_decay, config.weight_decay) == (0.85, 0.1)
            assert config.channels == (384 if name == "depth" else 768)
            assert len(head_shape(config)[0]) == (4 if name == "depth" else 3)
    assert head_shape(CONFIGS["seg-20-1b"])[2] == 20
    assert CONFIGS["normals-1b"].turn == 0 and CONFIGS["depth-1b"].degrees == 60


def test_the_head_learns_at_the_full_rate_and_the_first_block_slowest():
    plan = dense.recipe(SMOKE, None)
    rates = {
        name: group["lr_scale"] for group in parameter_groups(plan.model(), plan.optimizer) for name in group["names"]
    }
    assert rates["head.last.weight"] == rates["encoder.norm.weight"] == 1.0
    assert rates["encoder.blocks.0.attn.qkv.weight"] == pytest.approx(0.85**SMOKE.depth)
    assert rates["encoder.patch_embed.proj.weight"] == pytest.approx(0.85 ** (SMOKE.depth + 1))


def test_a_pretrained_encoder_is_taken_over():
    pretrained = encoder_state(MaskedAutoencoder(PRETRAINING["smoke"]))
    model = dense.recipe(SMOKE, None, pretrained).model()
    for name, value in model.encoder.state_dict().items():
        if name != "pos_embed":
            torch.testing.assert_close(value, pretrained[name])
    torch.testing.assert_close(model.encoder.pos_embed, pretrained["pos_embed"][:, 1:])
    with pytest.raises(ValueError, match="do not fit"):
        dense.recipe(dataclasses.replace(SMOKE, width=64), None, pretrained).model()


@pytest.mark.parametrize("task", TASKS)
def test_one_batch_is_learned_by_heart(task):
    config = dataclasses.replace(for_task(SMOKE, task), dropout=0.0)
    plan = dense.recipe(config, None)
    model, batch = plan.model(), dense.finished(config, dense.unpacked(batch_of(person(), person())))
    smooth = torch.linspace(0.1, 1, 32).expand(2, 32, 32)
    batch |= {"depth": smooth, "normals": normalize(torch.stack([smooth, smooth.mT, smooth], 1), dim=1)}
    batch["parts"] = 12 * (smooth > 0.5).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = plan.loss(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_patches_are_shifted_where_the_authors_are():
    shifts = {"seg-28": 0, "seg-20": 2, "depth": 0, "normals": 2}
    for name, shift in shifts.items():
        assert {CONFIGS[f"{name}-{size}"].shift for size in dense.SIZES} == {shift}
    assert {sapiens_pose.CONFIGS[f"pose-{K}-2b"].shift for K in (17, 133, 308)} == {2}


def test_a_task_is_made_of_segs_configuration_once():
    with pytest.raises(ValueError, match="of depth already"):
        for_task(for_task(SMOKE, "depth"), "depth")


def test_configurations_can_be_pickled_and_bad_ones_are_refused():
    assert pickle.loads(pickle.dumps(CONFIGS["seg-20-2b"])) == CONFIGS["seg-20-2b"]
    with pytest.raises(ValueError, match="no task is called 'pose': use one of seg, depth, normals"):
        dataclasses.replace(SMOKE, task="pose")
    with pytest.raises(ValueError, match="20 and 28 classes, not of 19"):
        dataclasses.replace(SMOKE, classes=19)


# ---------------------------------------------------------- parts
def test_weighted_cross_entropy_is_the_plain_mean_of_weighted_pixels():
    scores, target = torch.randn(2, 28, 6, 5, dtype=torch.float64), torch.randint(0, 28, (2, 6, 5))
    target[0, :2] = IGNORE
    weights = torch.tensor(dense.CLASS_WEIGHTS, dtype=torch.float64)
    total = 0.0
    for b, i, j in np.ndindex(2, 6, 5):
        if (y := int(target[b, i, j])) != IGNORE:
            s = scores[b, :, i, j]
            total -= float(weights[y] * (s[y] - s.exp().sum().log()))
    assert dense.weighted_cross_entropy(scores, target, weights).item() == pytest.approx(total / 60)


def test_names_weights_and_swaps_belong_together():
    assert PARTS == PART_NAMES and len(dense.CLASS_WEIGHTS) == 28 and len(dense.LIP_WEIGHTS) == len(dense.LIP) == 20
    table = torch.arange(28)
    for left, right in dense.SWAPS:
        assert PARTS[left].replace("Left", "Right") == PARTS[right]
        table[[left, right]] = torch.tensor([right, left])
    assert table.tolist() == MIRROR.tolist()


def test_the_map_to_lip_and_the_mirror_can_be_exchanged():
    swap = torch.arange(256)
    swap[[14, 15, 16, 17, 18, 19]] = torch.tensor([15, 14, 17, 16, 19, 18])  # the authors' pairs
    parts = torch.arange(28)
    assert torch.equal(dense.to_lip(torch.from_numpy(MIRROR)), swap[dense.to_lip(parts)])
    table = dict(zip(PARTS, dense.to_lip(parts).tolist(), strict=True))
    assert table["Torso"] == table["Apparel"] == IGNORE and table["Background"] == 0
    assert dense.LIP[table["Left_Hand"]] == "Left-arm" and dense.LIP[table["Right_Foot"]] == "Right-leg"
    assert table["Left_Sock"] == table["Right_Sock"] == 8 and table["Tongue"] == table["Face_Neck"] == 13


# ---------------------------------------------------------- depth
def test_silog_is_the_papers_equation_and_its_gradient_is_as_derived():
    prediction, target = (torch.rand(1, 7, 9, dtype=torch.float64) + 0.05 for _ in range(2))
    prediction.requires_grad_()
    loss = dense.silog_loss(prediction, target)
    delta = (target.log() - prediction.log()).detach()
    expected = (delta.square().mean() - delta.mean() ** 2 / 2).sqrt()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    by_log = prediction.grad * prediction.detach()
    torch.testing.assert_close(by_log, -(delta - delta.mean() / 2) / (63 * expected))


def test_silog_has_no_gradient_in_its_dead_zone_and_starts_outside_of_it():
    prediction = torch.tensor([[[-0.5, 0.0, 1e-7, 0.2]]], requires_grad=True)
    dense.silog_loss(prediction, torch.full((1, 1, 4), 0.5)).backward()
    assert (prediction.grad[0, 0, :3] == 0).all() and prediction.grad[0, 0, 3] != 0
    model, images = DensePredictor(for_task(SMOKE, "depth")).eval(), torch.rand(2, 3, 32, 32)
    assert model(images).min() > dense.EPSILON
    with torch.no_grad():
        model.head.last.bias.zero_()
    assert (model(images) < dense.EPSILON).float().mean() > 0.1


def test_relative_depth_keeps_proportions_and_knows_what_has_none():
    depth = torch.full((4, 3, 4), torch.inf)
    depth[0, 1] = torch.tensor([2.0, 2.5, 4.0, 3.0])
    depth[1, 1] = 3.0  # constant
    depth[2, 1] = torch.tensor([math.nan, 1.0, 2.0, 0.0])
    found = dense.relative_depth(depth)
    torch.testing.assert_close(found[0, 1], torch.tensor([0, 0.25, 1, 0.5]))
    assert (found[[1, 3]] == -1).all() and (found[0, [0, 2]] == -1).all()
    assert found[2, 1].tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize("nearest", [0.0, 0.5])
def test_relative_depth_begins_in_training_where_the_configuration_says(nearest):
    batch = {"image": torch.rand(1, 3, 1, 4), "depth": torch.tensor([[[2.0, 3.0, 4.0, 0.0]]])}
    found = dense.finished(dataclasses.replace(for_task(SMOKE, "depth"), nearest=nearest), batch)["depth"]
    torch.testing.assert_close(found, torch.tensor([[[nearest, (1 + nearest) / 2, 1.0, -1.0]]]))
    assert all(CONFIGS[f"depth-{size}"].nearest == 0 for size in dense.SIZES)  # the paper's


def test_scale_and_shift_equal_least_squares():
    prediction, target = torch.rand(3, 8, 8), torch.rand(3, 8, 8) + 2
    mask = torch.rand(3, 8, 8) > 0.5
    a, b = dense.scale_and_shift(prediction, target, mask)
    for i in range(3):
        columns = torch.stack([prediction[i][mask[i]], torch.ones(int(mask[i].sum()))], 1)
        solution = torch.linalg.lstsq(columns, target[i][mask[i]][:, None]).solution[:, 0]
        torch.testing.assert_close(torch.stack([a[i], b[i]]), solution, atol=1e-4, rtol=1e-4)
    mask[1] = False
    with pytest.raises(ValueError, match="no human pixel"):
        dense.scale_and_shift(prediction, target, mask)


# ---------------------------------------------------------- normals
def test_normal_loss_is_l1_of_the_raw_answer_and_the_cosine_of_the_direction():
    prediction, target = torch.randn(2, 3, 5, 4), normalize(torch.randn(2, 3, 5, 4), dim=1)
    target[0, :, 1] = 0
    total, count = 0.0, 0
    for b, i, j in np.ndindex(2, 5, 4):
        n, m = target[b, :, i, j], prediction[b, :, i, j]
        if n.norm() > 0:
            total, count = total + float((m - n).abs().sum() + 1 - n @ m / m.norm()), count + 1
    assert dense.normal_loss(prediction, target).item() == pytest.approx(total / count, rel=1e-5)


def test_pseudo_normals_of_a_sphere_are_its_own():
    K = torch.tensor([[[300.0, 0, 40], [0, 300.0, 30], [0, 0, 1]]])
    ray = dense.unproject(torch.ones(1, 60, 80), K)[0]  # z = 1
    centre, radius = torch.tensor([0.1, -0.05, 3.0]), 0.8  # it fills the picture
    along, square = torch.einsum("i,ihw->hw", centre, ray), ray.square().sum(0)
    z = (along - (along**2 - square * (centre @ centre - radius**2)).sqrt()) / square
    expected = (ray * z - centre[:, None, None]) / radius * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    found = dense.pseudo_normals(z[None], K)[0]
    cosine = (found * expected).sum(0)[1:-1, 1:-1]
    assert cosine.min() > math.cos(math.radians(0.5))


# ---------------------------------------------------------- augmentation
def test_a_mirrored_depth_has_mirrored_normals():
    depth = 3 + 0.3 * torch.rand(1, 20, 30).cumsum(2) / 30
    K, turned = (
        torch.tensor([[[40.0, 0, 13], [0, 40.0, 9], [0, 0, 1]]]),
        torch.tensor([[[40.0, 0, 17], [0, 40.0, 9], [0, 0, 1.0]]]),
    )
    expected = dense.pseudo_normals(depth.flip(-1), turned)
    found = dense.mirrored({"normals": dense.pseudo_normals(depth, K)})["normals"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_mirrored_twice_is_as_before():
    batch = dense.unpacked(batch_of(person()))
    for name, values in dense.mirrored(dense.mirrored(batch)).items():
        assert torch.equal(values, batch[name]), name


def test_tensors_keep_the_labels():
    sample, batch = person(), dense.unpacked(batch_of(person()))
    there = torch.from_numpy(np.isfinite(sample.depth))
    torch.testing.assert_close(batch["image"][0], torch.from_numpy(sample.image), atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(batch["depth"][0][there], torch.from_numpy(sample.depth)[there])
    assert (batch["depth"][0][~there] == 0).all() and (batch["normals"][0][:, ~there] == 0).all()
    cosine = (batch["normals"][0] * torch.from_numpy(sample.normals)).sum(0)[there]
    assert cosine.min() > math.cos(math.radians(0.6))


def test_warping_moves_all_labels_alike():
    config = dataclasses.replace(SMOKE, turn=1.0)
    batch = dense.unpacked(batch_of(person()))
    batch["depth"] = batch["parts"].float()
    batch["normals"] = batch["parts"][:, None].expand(-1, 3, -1, -1).float()
    for seed in range(5):
        moved = dense.warped(config, batch, torch.Generator().manual_seed(seed))
        assert torch.equal(moved["depth"], moved["parts"]) and torch.equal(moved["normals"][:, 1], moved["parts"])
        assert not torch.equal(moved["parts"], batch["parts"])


@pytest.mark.parametrize("size", [(32, 24), (48, 32)])
def test_a_launch_cuts_its_shape_out_of_larger_square_pictures(size):
    config = dataclasses.replace(SMOKE, size=size, zoom=(1.0, 1.0), turn=0.0)
    sample = person((64, 64), depth=100 + np.arange(64 * 64, dtype=np.float32).reshape(64, 64))  # it names the pixel
    batch = {name: values[None] for name, values in dense.packed(sample).items()}
    moved = dense.warped(config, batch, torch.Generator().manual_seed(0))
    rows, columns = (moved["depth"][0] - 100) // 64, (moved["depth"][0] - 100) % 64
    scale = min(64 / size[0], 64 / size[1])
    assert moved["image"].shape == (1, 3, *size) and moved["parts"].shape == (1, *size)
    assert (columns.diff(dim=1) - scale).abs().max() <= 1 and (rows.diff(dim=0) - scale).abs().max() <= 1
    made = dense.prepare(config)(sample, np.random.default_rng(0))
    assert made["image"].shape == (3, *size) and made["parts"].shape == size


def test_a_quarter_turn_of_a_picture_that_is_not_square_turns_without_shear(monkeypatch):
    config = dataclasses.replace(SMOKE, size=(40, 24), zoom=(1.0, 1.0), turn=1.0, degrees=90.0)
    image, depth = torch.rand(1, 3, 40, 24), torch.zeros(1, 40, 24)
    depth[0, 20 + 3, 12 + 7] = 5.0  # 7.5 right of the centre, 3.5 below
    monkeypatch.setattr(dense.torch, "rand", lambda *shape, **_: torch.tensor([0.5, 1.0, 0.5, 0.5, 0.5]))
    turned = dense.warped(config, {"image": image, "depth": depth}, torch.Generator())["depth"]
    assert turned[0].nonzero().tolist() in ([[20 - 8, 12 + 3]], [[20 + 7, 12 - 4]])


def test_without_zoom_and_turn_nothing_moves():
    config = dataclasses.replace(SMOKE, zoom=(1.0, 1.0), turn=0.0)
    batch = dense.unpacked(batch_of(person()))
    moved = dense.warped(config, batch, torch.Generator().manual_seed(0))
    for name, values in batch.items():
        torch.testing.assert_close(moved[name], values.float(), atol=1e-4, rtol=0)


def test_backgrounds_come_behind_people_only():
    batch = dense.unpacked(batch_of(person()))
    red = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 255
    found = dense.before(red, batch, torch.Generator().manual_seed(0))["image"]
    there = batch["alpha"][0] == 1
    torch.testing.assert_close(found[0][:, there], batch["image"][0][:, there])
    assert (found[0][:, ~there] == torch.tensor([1.0, 0, 0])[:, None]).all()


@pytest.mark.parametrize("classes", [28, 20])
def test_prepare_is_deterministic_and_fits_the_example(classes):
    for task in TASKS:
        config = for_task(dataclasses.replace(SMOKE, classes=classes), task)
        example = dense.recipe(config, None).example(1)
        one, again, other = (dense.prepare(config)(person(), np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert {name: (value.shape[1:], value.dtype) for name, value in example.items()} == {
            name: (value.shape, value.dtype) for name, value in one.items()
        }
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert not torch.equal(one["image"], other["image"])


# ---------------------------------------------------------- what is not there, or not finite
@pytest.mark.parametrize("task", TASKS)
def test_pictures_without_people_have_a_loss_and_gradients_that_are_finite(task):
    config = for_task(SMOKE, task)
    plan = dense.recipe(config, None)
    for samples in ((nobody(), nobody()), (nobody(), person())):
        model = plan.model()
        losses = plan.loss(model, dense.finished(config, dense.unpacked(batch_of(*samples))))
        losses["loss"].backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_empty_mask_costs_nothing_and_does_not_dilute_the_others():
    target = torch.rand(1, 4, 4) + 0.1
    prediction, empty = torch.rand(2, 4, 4) + 0.1, torch.full((1, 4, 4), -1.0)
    both = dense.silog_loss(prediction, torch.cat([target, empty]))
    torch.testing.assert_close(both, dense.silog_loss(prediction[:1], target))
    assert dense.silog_loss(prediction[1:], empty) == 0
    assert dense.normal_loss(torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)) == 0


def test_constant_depth_is_no_target_but_an_answer_of_its_own():
    flat = person(depth=np.where(np.isfinite(person().depth), 2.5, np.inf).astype(np.float32))
    config = for_task(SMOKE, "depth")
    batch = dense.finished(config, dense.unpacked(batch_of(flat)))
    assert (batch["depth"] == -1).all()
    assert dense.dense_loss(config, DensePredictor(config), batch)["loss"] == 0
    for constant, side in ((0.3, 4), (0.3, 64), (0.7, 128)):  # the mean of so many is rounded
        true = 2 + torch.rand(1, side, side)
        a, b = dense.scale_and_shift(torch.full_like(true, constant), true, torch.ones_like(true).bool())
        assert a == 0
        torch.testing.assert_close(b, true.mean((1, 2)))


def test_nan_in_a_target_is_left_out_and_nan_in_an_answer_is_not_hidden():
    target, normals = torch.rand(1, 4, 4) + 0.1, normalize(torch.randn(1, 3, 4, 4), dim=1)
    target[0, 0, 0] = normals[0, :, 0, 0] = math.nan
    prediction, raw = torch.rand(1, 4, 4, requires_grad=True), torch.randn(1, 3, 4, 4, requires_grad=True)
    losses = dense.silog_loss(prediction + 0.1, target), dense.normal_loss(raw, normals)
    sum(losses).backward()
    assert all(loss.isfinite() for loss in losses)
    assert prediction.grad.isfinite().all() and raw.grad.isfinite().all()
    spoilt = torch.rand(1, 4, 4)
    spoilt[0, 2, 2] = math.nan  # `fit` then stops, and names the batch
    assert dense.silog_loss(spoilt, target).isnan()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (person(image=np.full((3, 32, 32), np.nan, np.float32)), "sample one has pixels that are NaN"),
        (person(alpha=np.full((32, 32), np.nan, np.float32)), "sample one has pixels that are NaN"),
        (person(depth=None, normals=None), "sample one has no depth, normals"),
        (person((16, 32)), r"sample one is \(16, 32\): make the data with the size \(32, 32\)"),
    ],
)
def test_bad_samples_are_refused_in_words(sample, message):
    with pytest.raises(ValueError, match=message):
        dense.tensors(SMOKE, sample)


def test_nan_in_a_samples_depth_or_normals_is_nobody():
    depth, normals = person().depth.copy(), person().normals.copy()
    depth[10, 10], normals[:, 10, 10] = np.nan, np.nan
    batch = dense.unpacked(batch_of(person(depth=depth, normals=normals)))
    assert batch["depth"][0, 10, 10] == 0 and (batch["normals"][0, :, 10, 10] == 0).all()
    assert dense.relative_depth(batch["depth"])[0, 10, 10] == -1


# ---------------------------------------------------------- the studies
def encoder_weights(arm) -> int:
    from course_lib.chapters.transformers import VisionTransformer

    with torch.device("meta"):
        encoder = VisionTransformer(arm.size, arm.patch, arm.width, arm.depth, arm.heads, positions="sincos")
    return sum(p.numel() for block in encoder.blocks for p in block.parameters())


def test_studies_arms_differ_in_what_they_ask_only():
    shapes = [encoder_weights(arm) for arm in dense.STUDIES["wide_or_deep"].arms.values()]
    assert max(shapes) / min(shapes) < 1.02
    sizes = [encoder_weights(arm) for arm in dense.STUDIES["model_size"].arms.values()]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[1] > 4 * sizes[0]
    assert [(arm.size // arm.patch) ** 2 for arm in dense.STUDIES["tokens"].arms.values()] == [64, 256, 1024]
    for key, study in dense.STUDIES.items():
        assert study.name == f"08.{key}" and len(study.seeds) >= 3
        budgets = {(arm.pretraining, arm.batch, arm.labelled, arm.tested) for arm in study.arms.values() if arm.source}
        assert len(budgets) == 1, "every arm sees equally many pictures in equally many steps"

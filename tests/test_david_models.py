"""Chapter 10's network: against Hugging Face's DPT, the paper's counts, any size of picture; its data and its runs."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize, relu
from torch.utils.flop_counter import FlopCounterMode

from course_lib.chapters import david_models as david
from course_lib.chapters.david_models import CONFIGS, STUDIES, TASKS, Arm, Config, David
from course_lib.chapters.sapiens_pretraining import CONFIGS as PRETRAINING
from course_lib.chapters.sapiens_pretraining import MaskedAutoencoder, encoder_state
from course_lib.data.schema import Sample
from course_lib.data.sets import people_samples, rendered
from course_lib.data.worlds import world_named
from course_lib.studies import david as runs

SMOKE = CONFIGS["smoke"]
MIB = 2**20 / 4  # weights of 4 bytes


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(config: Config) -> David:
    with torch.device("meta"):
        return David(config)


# ---------------------------------------------------------- Hugging Face's DPT
TINY = Config(64, 16, 16, 8, 2, 12, (4, 6, 8, 10), (), picture=64, pictures=1, batch_size=1, steps=1, tasks=("depth",))


def peers():
    """Our network without a resizer, and DPT with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=8, num_attention_heads=2, intermediate_size=64, hidden_act="gelu",
        image_size=64, patch_size=16, layer_norm_eps=1e-6, qkv_bias=True, backbone_out_indices=[1, 3, 5, 7],
        readout_type="project", reassemble_factors=[4, 2, 1, 0.5], neck_hidden_sizes=[4, 6, 8, 10],
        fusion_hidden_size=12, use_batch_norm_in_fusion_residual=False, head_in_index=-1, is_hybrid=False,
    )  # fmt: skip
    theirs, ours = transformers.DPTForDepthEstimation(config).eval(), David(TINY).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
        for mine, his in twins(ours, theirs):
            mine.load_state_dict(his.state_dict())
        copy_encoder(ours.encoder, theirs.dpt)
        theirs_head = theirs.head.head  # conv, upsample, conv, relu, conv, relu
        few = theirs_head[2]  # DPT has 32 channels there whatever the rest; so have we from 16 on
        ours.heads["depth"].second = nn.Conv2d(few.in_channels, few.out_channels, 3, padding=1)
        ours.heads["depth"].last = nn.Conv2d(few.out_channels, 1, 1)
        for mine, his in zip(("first", "second", "last"), (0, 2, 4), strict=True):
            getattr(ours.heads["depth"], mine).load_state_dict(theirs_head[his].state_dict())
    return ours, theirs


def twins(ours: David, theirs):
    """Pairs of modules with the same weights, but for encoder and head."""
    stage = theirs.neck.reassemble_stage
    for level in range(4):
        mine, layer = ours.reassemble[level], stage.layers[level]
        yield mine.read.project, stage.readout_projects[level][0]
        yield mine.project, layer.projection
        if level != 2:
            yield mine.rescale, layer.resize
        yield mine.refine, theirs.neck.convs[level]
        fusion, block = theirs.neck.fusion_stage.layers[3 - level], ours.decoder[level]
        yield block.mix, fusion.projection
        for unit, twin in ((block.learned, fusion.residual_layer1), (block.fused, fusion.residual_layer2)):
            yield unit.first, twin.convolution1
            yield unit.second, twin.convolution2
    nn.init.zeros_(ours.decoder[3].learned.second.weight)  # their first block has no inner RConv: ours does nothing
    nn.init.zeros_(ours.decoder[3].learned.second.bias)


def copy_encoder(ours: nn.Module, theirs: nn.Module) -> None:
    found = {name.replace("layers.", "layer."): tensor for name, tensor in theirs.state_dict().items()}
    state = {
        "cls_token": found["embeddings.cls_token"],
        "pos_embed": found["embeddings.position_embeddings"],
        "patch_embed.proj.weight": found["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": found["embeddings.patch_embeddings.projection.bias"],
    }
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense", "attn.proj": "attention.output.dense",
    }  # fmt: skip
    for i, kind in ((i, kind) for i in range(8) for kind in ("weight", "bias")):
        start = f"encoder.layer.{i}"
        parts = [found[f"{start}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
        state |= {f"blocks.{i}.{mine}.{kind}": found[f"{start}.{his}.{kind}"] for mine, his in names.items()}
    ours.load_state_dict(state)


def test_without_a_resizer_it_is_dpt():
    ours, theirs = peers()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(pixel_values=david.normalize(images)).predicted_depth
        found = relu(ours(images)["depth"][:, 0])  # theirs ends with a ReLU
    assert expected.shape == (2, 64, 64) and expected.std() > 1e-3
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------- the paper's counts
CARDS = {"david-base": (428.42, 172.4), "david-large": (1314.13, 331.5), "david-multitask": (1316.66, 389.9)}


@pytest.mark.parametrize("name", CARDS)
def test_weights_and_multiplications_are_the_papers(name):
    file, card = CARDS[name]
    model, extra = on_meta(CONFIGS[name]), []
    assert abs(weights(model) / (file * MIB) - 1) < 0.01

    def overcharge(module, inputs, output):
        extra.append((output[0, 0].numel() - inputs[0][0, 0].numel()) * module.weight.numel())

    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.register_forward_hook(overcharge)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 512, 512, device="meta"))
    macs = counter.get_total_flops() / 2e9
    assert abs((macs + sum(extra) / 1e9) / card - 1) < 0.05
    assert 0.94 < macs / card < 1


def test_multi_task_is_two_heads_more():
    heads = on_meta(CONFIGS["david-multitask"]).heads
    assert weights(heads["normals"]) + weights(heads["alpha"]) == 664_004
    more = weights(on_meta(CONFIGS["david-multitask"])) - weights(on_meta(CONFIGS["david-large"]))
    assert more == 664_004 and abs(more / (2.53 * MIB) - 1) < 0.01


def test_the_papers_run():
    for name, config in CONFIGS.items():
        if name.startswith("david"):
            assert (config.batch_size, config.steps, config.lr) == (96, 312_500, 1e-5)
            assert (config.size, config.patch, config.picture) == (384, 16, 512)
    assert on_meta(CONFIGS["david-base"]).layers == [2, 5, 8, 11]
    assert on_meta(CONFIGS["david-large"]).layers == [5, 11, 17, 23]


# ---------------------------------------------------------- any size
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 127), (201, 64), (17, 300)])
def test_answers_have_the_pictures_size(size):
    answers = David(SMOKE)(torch.rand(2, 3, *size))
    assert {task: tuple(x.shape) for task, x in answers.items()} == {
        "depth": (2, 1, *size), "normals": (2, 3, *size), "alpha": (2, 1, *size),
    }  # fmt: skip
    assert all(x.isfinite().all() for x in answers.values())


@pytest.mark.parametrize("side", [64, 333, 1024, 1535, 1536])
def test_any_side_and_a_constant_price_of_the_encoder(side):
    model, costs = on_meta(CONFIGS["laptop"]), []
    for images in (torch.empty(1, 3, 64, 64, device="meta"), torch.empty(1, 3, side, side, device="meta")):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode(images)
        costs.append(counter.get_total_flops())
    assert costs[0] == costs[1]
    assert model(torch.empty(1, 3, side, side - 7, device="meta"))["alpha"].shape == (1, 1, side, side - 7)


def test_padding_repeats_the_sides_and_is_cut_off_again():
    images = torch.arange(12.0).view(1, 1, 3, 4).expand(1, 3, 3, 4)
    square, top, left = david.squared(images)
    assert square.shape == (1, 3, 4, 4) and (top, left) == (0, 0) and torch.equal(square[..., 3, :], images[..., 2, :])
    tall, top, left = david.squared(images.mT)
    assert (top, left) == (0, 0) and torch.equal(tall[..., 3], images.mT[..., 2])
    wide = torch.rand(1, 3, 20, 44)
    square, top, left = david.squared(wide)
    assert (top, left) == (12, 0) and torch.equal(square[..., 12:32, :], wide)
    assert torch.equal(square[..., :12, :], wide[..., :1, :].expand(1, 3, 12, 44))
    model = David(SMOKE).eval()
    with torch.no_grad():
        whole, part = model(square)["depth"], model(wide)["depth"]
    assert torch.allclose(whole[..., 12:32, :], part, atol=1e-5)


def test_what_is_no_network_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        dataclasses.replace(SMOKE, tasks=("parts",))
    with pytest.raises(ValueError, match="unknown"):
        dataclasses.replace(SMOKE, tasks=())
    with pytest.raises(ValueError, match="four blocks"):
        dataclasses.replace(SMOKE, resizer=(8, 8))


# ---------------------------------------------------------- the recipe
@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu", "david-base", "david-multitask"])
def test_each_configuration_runs_without_data(name):
    config = CONFIGS[name]
    plan = david.recipe(config, None)
    with torch.device("meta"):
        model, batch = plan.model(), plan.example(2)
    assert {type(block).__name__ for block in model.encoder.blocks} == set(plan.blocks)
    losses = plan.loss(model, batch)
    assert set(losses) == {"loss", *config.tasks} and all(value.shape == () for value in losses.values())


def test_every_weight_learns():
    plan = david.recipe(SMOKE, None)
    model, batch = plan.model(), plan.example(4)
    losses = plan.loss(model, batch)
    assert torch.allclose(losses["loss"], sum(losses[task] for task in TASKS))
    losses["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_pretrained_encoder_comes_in():
    state = encoder_state(MaskedAutoencoder(PRETRAINING["smoke"]))
    model = david.build(SMOKE, state)  # 4 x 4 patches there, 3 x 3 here
    assert model.encoder.pos_embed.shape == (1, 10, 32)
    assert torch.equal(model.encoder.blocks[1].attn.qkv.weight, state["blocks.1.attn.qkv.weight"])
    assert torch.equal(model.encoder.pos_embed[:, 0], state["pos_embed"][:, 0])


# ---------------------------------------------------------- the data
def person(size=(32, 32), **changes) -> Sample:
    rng = np.random.default_rng(0)
    there = np.zeros(size, bool)
    there[4:-4, 6:-6] = True
    normals = rng.normal(size=(3, *size)) + np.array([0, 0, 2])[:, None, None]
    fields = {
        "key": "one",
        "image": rng.random((3, *size), dtype=np.float32),
        "alpha": there.astype(np.float32),
        "parts": there.astype(np.uint8),
        "depth": np.where(there, rng.uniform(2, 3, size), np.inf).astype(np.float32),
        "normals": (there * normals / np.linalg.norm(normals, axis=0)).astype(np.float32),
    }
    return Sample(**fields | changes)


def test_a_training_sample_has_what_the_losses_want():
    batch = {name: values[None] for name, values in david.packed(person()).items()}
    made = david.transform(SMOKE)(batch, torch.Generator().manual_seed(3))
    known = made["depth"] >= 0
    assert made["image"].shape == (1, 3, 32, 32) and known.any() and not known.all()
    assert made["depth"].max() == 1 and made["depth"][known].min() == 0
    assert torch.allclose(made["normals"].norm(dim=1)[known], torch.ones(()), atol=1e-5)
    again = david.transform(SMOKE)(batch, torch.Generator().manual_seed(3))
    assert all(torch.equal(made[name], again[name]) for name in made)


def test_shards_and_workers_get_the_same():
    made = pickle.loads(pickle.dumps(david.prepare(SMOKE)))(person(), np.random.default_rng(0))
    assert {name: tuple(value.shape) for name, value in made.items()} == {
        "image": (3, 32, 32), "alpha": (32, 32), "depth": (32, 32), "normals": (3, 32, 32),
    }  # fmt: skip


def test_pixels_that_are_nan_are_refused():
    image = person().image.copy()
    image[0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        david.packed(person(image=image))


# ---------------------------------------------------------- measuring
def held() -> dict[str, torch.Tensor]:
    rows = [david.packed(person()) for _ in range(3)]
    return runs.held_out({name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def test_the_truth_has_no_error():
    own = held()
    found = runs.all_metrics({task: own[task] for task in TASKS}, own, threshold=0.3)
    assert found["sad"] == 0 and found["conn"] == 0 and found["sad_over_colour"] == 0
    assert found["angle"] < 0.1 and found["rmse"] < 1e-4 and found["positive"] == 1
    turned = runs.all_metrics({"depth": -own["depth"]}, own)
    assert turned["rmse"] < 1e-4 and turned["positive"] == 0


def test_the_colour_baseline_finds_who_differs_from_the_border():
    images, alpha = torch.full((2, 3, 24, 24), 0.3), torch.zeros(2, 24, 24)
    images[:, :, 8:, 8:16], alpha[:, 8:, 8:16] = 0.9, 1.0
    threshold = runs.colour_threshold(images, alpha)
    assert torch.equal(runs.colour_baseline(images, threshold), alpha)


def test_nobody_is_not_measured():
    rows = david.packed(person(alpha=np.zeros((32, 32), np.float32)))
    with pytest.raises(ValueError, match="nothing to measure"):
        runs.held_out({name: values[None] for name, values in rows.items()})


# ---------------------------------------------------------- studies and what is shipped
def test_three_thirds_have_as_many_weights_as_one():
    def together(arm: Arm) -> int:
        return sum(weights(on_meta(david.arm_config(arm, tasks, 10))) for tasks in runs.groups(arm))

    arms = STUDIES["multitask"].arms
    assert abs(together(arms["three-thirds"]) / together(arms["multi"]) - 1) < 0.02
    assert together(arms["three"]) > 2.8 * together(arms["multi"])


def test_the_sources_are_worlds_whose_data_the_study_names():
    asked = STUDIES["source"]
    assert len({arm.world for arm in asked.arms.values()}) == 3
    for arm in asked.arms.values():
        assert world_named(arm.world) and f"{arm.world}-train-coco17-64-{arm.pictures}" in asked.data


@pytest.mark.parametrize("arm", ["multi", "three"])
def test_a_study_runs(arm, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    found = runs.compare(STUDIES["multitask"].arms[arm], seed=0, steps=2)
    assert {"sad", "angle", "rmse_over_constant", "parameters"} <= set(found)
    assert all(math.isfinite(value) for value in found.values())


def test_the_shipped_model_fits_its_file_and_its_run_works(tmp_path, monkeypatch):
    assert 2 * weights(on_meta(david.SHIPPED["multitask"].config)) < 7.9e6
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    monkeypatch.setattr(runs, "shipped_encoder", lambda: encoder_state(MaskedAutoencoder(PRETRAINING["smoke"])))
    model, found = runs.multitask(SMOKE, tmp_path / "run")
    assert (tmp_path / "run" / "data.json").exists() and 0 < found["sad_over_colour"]
    assert not model.training and all(math.isfinite(value) for value in found.values())


def test_relighting_and_the_cloud_of_a_sphere():
    v, u = torch.meshgrid(torch.linspace(-1, 1, 33), torch.linspace(1, -1, 33), indexing="xy")
    inside = u**2 + v**2 < 0.9
    normals = normalize(torch.stack([v, u, (1 - u**2 - v**2).clamp(min=0).sqrt()]), dim=0) * inside
    lit = david.relit(torch.ones(3, 33, 33), normals, torch.tensor([5.0, 0.0, 0.0]), ambient=0.2)
    assert lit[0, 16, 28] > 0.6 and lit[0, 16, 4] == pytest.approx(0.2)
    depth = (-normals[2]).where(inside, 9.0)
    points = david.lifted(depth, inside, david.guessed_camera((33, 33)), 1.0, 1.4)
    assert points[:, 2].min() == pytest.approx(1.0) and points[:, 2].max() == pytest.approx(1.4)
    assert points[points[:, 2].argmin(), :2].norm() < 0.05


def test_a_second_world_takes_the_last_share_of_the_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    seen, usual = [], runs.train
    monkeypatch.setattr(
        runs,
        "train",
        lambda recipe, *a, **o: seen.append((recipe.steps, recipe.optimizer.lr)) or usual(recipe, *a, **o),
    )
    found = runs.compare(STUDIES["definition"].arms["both"], seed=0, steps=4)
    assert seen == [(3, 1.5e-3), (1, 0.5e-3)] and {"sad", "mse"} <= set(found) and "angle" not in found


def test_errors_are_told_apart_by_group(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    samples = list(people_samples("synth", 6, 32, "test"))
    held = runs.held_out(runs.packed_set(rendered("synth", 6, 32, "test")) | runs.group_numbers(samples, "skin"))
    answer = {"alpha": held["alpha"].clone()}
    wrong = next(n for n in range(3) if (held["group"] == n).any())
    answer["alpha"][held["group"] == wrong] = 1 - answer["alpha"][held["group"] == wrong]
    found = runs.of_groups(answer, held, "skin")
    assert len([name for name in found if name.startswith("sad")]) == len(set(held["group"].tolist()) - {-1})
    for number, name in enumerate(runs.group_names("skin")):
        if f"sad_{name}" in found:
            assert (found[f"sad_{name}"] > 0) == (number == wrong)

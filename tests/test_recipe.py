"""Recipes as data: schedules, groups of parameters, and what a wrong recipe is told."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_run import Toy, recipe

from course_lib.recipe import Constant, Cosine, Exponential, Linear, Optimizer, layer_of, parameter_groups


class Vit(Toy):
    """The toy with the parameters that have no block and no weight decay of their own."""

    def __init__(self, depth: int = 3):
        super().__init__(depth=depth)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 4, 16))


def by_name(groups: list[dict], key: str) -> dict[str, float]:
    return {name: group[key] for group in groups for name in group["names"]}


# ------------------------------------------------------------------------------------------------- schedules
@pytest.mark.parametrize(
    "schedule, expected",
    [
        (Constant(), [1, 1, 1, 1]),
        (Cosine(floor=0.2), [1, 0.6, 0.2 + 0.8 * 0.1464466, 0.2 + 0.8 * 0.0062]),
        (Linear(floor=0.1), [1, 0.55, 0.325, 0.145]),
        (Exponential(decay=0.01, drop=1.0), [1, 0.1, 0.01**0.75, 0.01**0.95]),
        (Exponential(decay=0.5, drop_at=0.5, drop=0.1), [1, 0.05, 0.1 * 0.5**1.5, 0.1 * 0.5**1.9]),
    ],
)
def test_a_schedule_has_the_values_of_its_formula(schedule, expected):
    assert [schedule(step, 100) for step in (0, 50, 75, 95)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("schedule", [Constant, Cosine, Linear, Exponential])
def test_every_schedule_warms_up_from_the_first_step_to_one(schedule):
    assert [schedule(warmup=4)(step, 40) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert schedule(warmup=0)(0, 40) == 1.0


@given(st.sampled_from([Cosine, Linear, Exponential]), st.integers(0, 30), st.integers(1, 60), st.integers(0, 200))
def test_a_schedule_never_leaves_zero_to_one(schedule, warmup, steps, step):
    assert 0 <= schedule(warmup=warmup)(step, steps) <= 1


# ------------------------------------------------------------------------------------------------- groups
def test_the_rate_of_each_block_follows_the_formula():
    optimizer = Optimizer(lr=2e-3, layer_decay=0.7)
    rates = by_name(parameter_groups(Vit(depth=3), optimizer), "lr")
    layers = {"cls_token": 0, "pos_embed": 0, "patch_embed.weight": 0, "norm.bias": 4, "head.weight": 4}
    layers |= {f"blocks.{i}.fc.weight": i + 1 for i in range(3)}
    assert {name: layer_of(name, 3) for name in layers} == layers
    for name, layer in layers.items():
        assert rates[name] == pytest.approx(2e-3 * 0.7 ** (3 + 1 - layer)), name


def test_only_weight_matrices_decay():
    decays = by_name(parameter_groups(Vit(), Optimizer(weight_decay=0.3)), "weight_decay")
    assert {name for name, decay in decays.items() if decay} == {
        "patch_embed.weight",
        "head.weight",
        *[f"blocks.{i}.fc.weight" for i in range(3)],
    }
    assert set(decays.values()) == {0.0, 0.3}


def test_every_parameter_is_in_one_group_and_scales_multiply():
    model = Vit()
    scales = (("blocks.", 0.5), ("blocks.1.", 0.1), ("patch_embed", 0.0))
    groups = parameter_groups(model, Optimizer(scales=scales))
    names = [name for group in groups for name in group["names"]]
    kept = [name for name, _ in model.named_parameters() if not name.startswith("patch_embed")]
    assert sorted(names) == sorted(kept)
    factors = by_name(groups, "lr_scale")
    assert factors["blocks.0.fc.weight"] == 0.5 and factors["head.weight"] == 1
    assert factors["blocks.1.fc.weight"] == pytest.approx(0.05)


def test_parts_of_a_model_may_follow_schedules_of_their_own():
    decaying, constant = Exponential(decay=0.5, drop=1.0), Constant()
    own = (("blocks.", decaying), ("blocks.1.", constant))
    toy = recipe(Vit, optimizer=Optimizer(lr=0.1, scales=(("blocks.", 0.5),), schedules=own), schedule=Linear())
    groups = parameter_groups(Vit(), toy.optimizer)
    rates = {name: toy.lr(20, group) for group in groups for name in group["names"]}
    assert rates["head.weight"] == rates["patch_embed.bias"] == pytest.approx(0.1 * 0.5)
    assert rates["blocks.0.fc.weight"] == pytest.approx(0.1 * 0.5 * 0.5**0.5)
    assert rates["blocks.1.fc.weight"] == pytest.approx(0.1 * 0.5)
    assert sorted(rates) == sorted(name for name, _ in Vit().named_parameters())
    with pytest.raises(ValueError, match="no parameter's name begins with 'backbone.'"):
        parameter_groups(Vit(), Optimizer(schedules=(("backbone.", constant),)))


def test_a_prefix_that_fits_nothing_and_a_model_that_is_all_frozen_are_refused():
    with pytest.raises(ValueError, match="no parameter's name begins with 'encodr.'.*patch_embed"):
        Optimizer(scales=(("encodr.", 0.1),)).build(Vit())
    with pytest.raises(ValueError, match="nothing is left to train"):
        Optimizer(scales=(("", 0.0),)).build(Vit())


@pytest.mark.parametrize("name, kind", [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_each_optimiser_is_torchs_own_with_our_numbers(name, kind):
    built = Optimizer(name, lr=0.1, momentum=0.8, betas=(0.5, 0.6)).build(Vit())
    assert type(built).__name__ == kind and {group["lr"] for group in built.param_groups} == {0.1}
    assert built.defaults.get("momentum", 0.8) == 0.8 and built.defaults.get("betas", (0.5, 0.6)) == (0.5, 0.6)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="'lamb': use adamw, adam or sgd"):
        Optimizer("lamb").build(Vit())


# ------------------------------------------------------------------------------------------------- recipes
@pytest.mark.parametrize("field, value", [("precision", "fp16"), ("steps", 0), ("batch_size", -1), ("accumulate", 0)])
def test_a_wrong_recipe_is_refused_with_the_field_named(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        recipe(**{field: value})


def test_a_batch_is_shared_evenly_or_not_at_all():
    assert recipe(batch_size=24, accumulate=3).share(world=4) == 2
    with pytest.raises(ValueError, match="batch of 24 can't be shared by 5 processes x 1 parts: change batch_size"):
        recipe(batch_size=24).share(world=5)


def test_a_recipe_says_the_rate_of_each_step():
    toy = recipe(optimizer=Optimizer(lr=0.5), schedule=Linear())
    assert [toy.lr(step) for step in (0, 20)] == [0.5, 0.25]
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy.steps = 3

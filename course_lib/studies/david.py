"""The runs of chapter 10: the model that it ships, its studies, and what both are measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Model, losses and augmentation are the chapter's own.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from course_lib import metrics
from course_lib.chapters import david_models
from course_lib.chapters.david_data import packed, unpacked
from course_lib.data.schema import Sample
from course_lib.data.sets import rendered
from course_lib.data.shards import Samples
from course_lib.data.streams import TensorStream
from course_lib.data.worlds import DEMOGRAPHICS, traits
from course_lib.recipe import Batch
from course_lib.scale import pick, scale
from course_lib.shipped import note_data, round_weights, train
from course_lib.studies.sapiens import TESTED, Metrics, device_of, in_memory, shipped_encoder
from course_lib.studies.sapiens_tasks import best_planes

LABELS = ("image", "alpha", "depth", "normals")
LEAST_HUMAN = 0.003  # pictures with a smaller share of human pixels are not measured
THRESHOLDS = torch.linspace(0.02, 0.8, 40)  # distances of colours that the baseline tries
SHADE = 64  # pictures on which it tries them


# ------------------------------------------------------------------------------------------------- measuring
@torch.no_grad()
def answers(model: nn.Module, images: Tensor, size: int = 16) -> dict[str, Tensor]:
    """Pictures (N, 3, H, W) in [0, 1] -> depth (N, H, W), unit normals (N, 3, H, W), alpha (N, H, W) in [0, 1], of the
    tasks that the model has; on the CPU."""
    device = device_of(model)
    parts = [model(part.to(device)) for part in images.split(size)]
    raw = {task: torch.cat([part[task].float().cpu() for part in parts]) for task in parts[0]}
    read = {"depth": lambda x: x[:, 0], "normals": lambda x: unit(x, dim=1), "alpha": lambda x: x[:, 0].sigmoid()}
    return {task: read[task](values) for task, values in raw.items()}


def held_out(tensors: Batch) -> Batch:
    """`packed` tensors (N, ...) to measure on, as floats, and human (N, H, W), bool; pictures with hardly anybody are
    left out. ValueError where none is left."""
    batch = unpacked(tensors)
    human = (batch["alpha"] > david_models.HUMAN) & (batch["depth"] > 0) & (batch["normals"].norm(dim=1) > 0.5)
    enough = human.float().mean((1, 2)) >= LEAST_HUMAN
    if not enough.any():
        raise ValueError("no picture has a person: there is nothing to measure")
    return {name: values[enough] for name, values in (batch | {"human": human}).items()}


def colour_distance(images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) -> how far each pixel's colour is from the median colour of the border (N, H, W): left,
    right and upper edge, since people are cut off below."""
    edges = torch.cat([images[:, :, 0], images[:, :, :, 0], images[:, :, :, -1]], 2)  # (N, 3, edge)
    return (images - edges.median(2).values[:, :, None, None]).norm(dim=1)


def colour_threshold(images: Tensor, alpha: Tensor) -> float:
    """The distance beyond which a pixel is best called a person: of THRESHOLDS, the one of least |error|."""
    distance, alpha = colour_distance(images[:SHADE]), alpha[:SHADE]
    errors = torch.stack([((distance > limit).float() - alpha).abs().mean() for limit in THRESHOLDS])
    return THRESHOLDS[errors.argmin()].item()


def colour_baseline(images: Tensor, threshold: float) -> Tensor:
    """The foreground (N, H, W) by thresholding `colour_distance`."""
    return (colour_distance(images) > threshold).float()


def alpha_metrics(alpha: Tensor, held: Batch, threshold: float | None = None) -> Metrics:
    """sad, mse and conn, means over pictures; with a threshold also sad over that of `colour_baseline`."""
    ours = metrics.average([metrics.matting_errors(alpha.clamp(0, 1), held["alpha"])])
    found = {name: ours[name] for name in ("sad", "mse", "conn")}
    if threshold is None:
        return found
    baseline = (colour_baseline(held["image"], threshold) - held["alpha"]).abs().sum((1, 2)).mean() / 1000
    return found | {"sad_over_colour": found["sad"] / baseline.item()}


def depth_metrics(depth: Tensor, held: Batch) -> Metrics:
    """rmse (metres) and abs_rel after scale and shift, means over pictures; that rmse over the best constant's and over
    the one of a plane fitted to the truth; positive: the share of pictures whose scale is, where far is large."""
    true, mask = held["depth"], held["human"]
    rules = {"constant": torch.zeros_like(true), "plane": best_planes(true, mask)}
    ours, *others = (metrics.average([metrics.depth_errors(x, true, mask)]) for x in (depth, *rules.values()))
    over = {f"rmse_over_{name}": ours["rmse"] / other["rmse"] for name, other in zip(rules, others, strict=True)}
    scales, _ = david_models.align_scale_shift(depth, true, mask)
    return {"rmse": ours["rmse"], "abs_rel": ours["abs_rel"], **over, "positive": (scales > 0).float().mean().item()}


def normal_metrics(normals: Tensor, held: Batch) -> Metrics:
    """angle (mean over pictures of each picture's mean), median and within_11.25, within_22.5, within_30."""
    rows = metrics.average([metrics.normal_errors(normals, held["normals"], held["human"])])
    return {"angle": rows.pop("mean")} | rows


def all_metrics(found: dict[str, Tensor], held: Batch, threshold: float | None = None) -> Metrics:
    """The metrics of the tasks that are in `found`, as `answers` gives them."""
    result = {}
    if "depth" in found:
        result |= depth_metrics(found["depth"], held)
    if "normals" in found:
        result |= normal_metrics(found["normals"], held)
    if "alpha" in found:
        result |= alpha_metrics(found["alpha"], held, threshold)
    return result


# ------------------------------------------------------------------------------------------------- shipped
def packed_set(folder: Path) -> Batch:
    """`packed` of a data set, held in memory once."""
    return in_memory(folder, packed, LABELS)


def multitask(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """A model of the configuration's tasks, begun with chapter 06's encoder; see `all_metrics`, on the world's test
    split."""
    data = rendered(config.world, config.pictures, config.picture)
    test = rendered(config.world, pick(**TESTED), config.picture, "test")
    note_data(folder, data, test)
    tensors = packed_set(data)
    stream = TensorStream(tensors, transform=david_models.transform(config))
    run = train(david_models.recipe(config, stream, shipped_encoder()), folder / "fit")
    model = round_weights(run.model).eval()
    held, few = held_out(packed_set(test)), unpacked({n: x[:SHADE] for n, x in tensors.items()})
    return model, all_metrics(answers(model, held["image"]), held, colour_threshold(few["image"], few["alpha"]))


# ------------------------------------------------------------------------------------------------- studies
POOL = {"smoke": 8, "laptop": 3000}  # pictures of a world, rendered once: an arm takes the first of them


def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: a model for all of the arm's tasks, or one for each of them (`split`), trained for `steps` steps
    on the arm's pictures and measured on other people of its world `tested_in`: `all_metrics`, and the parameters of
    all its models together. With `by`, all metrics also for each group of that trait, as `angle_dark`."""
    arm = shrunk(arm) if scale() == "smoke" else arm
    folder = rendered(arm.tested_in, arm.tested, arm.size, "test")
    held = held_out(packed_set(folder) | (group_numbers(Samples(folder, only=()), arm.by) if arm.by else {}))
    found, parameters = {}, 0
    for tasks in groups(arm):
        model = trained(arm, tasks, steps, seed)
        answer = answers(model, held["image"])
        found |= all_metrics(answer, held)
        found |= of_groups(answer, held, arm.by) if arm.by else {}
        parameters += sum(p.numel() for p in model.parameters())
    return found | {"parameters": float(parameters)}


def group_names(trait: str) -> list[str]:
    """The groups of a trait of DEMOGRAPHICS, in its order."""
    return list(DEMOGRAPHICS[trait])


def group_numbers(samples: Sequence[Sample], trait: str) -> Batch:
    """group (N,): which group of a trait the person of each picture is of, as a number; -1 with several people."""
    names = group_names(trait)
    numbers = torch.full((len(samples),), -1)
    for index in range(len(samples)):
        if len(people := samples[index].people) == 1:
            split, _, number = people[0].identity.partition("-")
            numbers[index] = names.index(traits(split, int(number))[trait])
    return {"group": numbers}


def of_groups(answer: dict[str, Tensor], held: Batch, trait: str) -> Metrics:
    """`all_metrics` of each group's pictures, the group's name behind; groups without a picture are left out."""
    found = {}
    for number, name in enumerate(group_names(trait)):
        rows = (held["group"] == number).nonzero()[:, 0]
        if len(rows):
            part = all_metrics({n: x[rows] for n, x in answer.items()}, {n: x[rows] for n, x in held.items()})
            found |= {f"{metric}_{name}": value for metric, value in part.items()}
    return found


def groups(arm) -> list[Sequence[str]]:
    """The tasks of each of the arm's models."""
    return [(task,) for task in arm.tasks] if arm.split else [arm.tasks]


def shrunk(arm):
    """The arm as it is tried at `smoke`."""
    return dataclasses.replace(arm, pictures=min(arm.pictures, 8), tested=4, batch=4, size=32, width=32)


def trained(arm, tasks: Sequence[str], steps: int, seed: int) -> nn.Module:
    """A model from a random start on the arm's world; with `then`, the last `late` of the steps on that world, at a
    third of the learning rate."""
    late = round(arm.late * steps) if arm.then else 0
    model = fitted(arm, arm.world, tasks, steps - late, seed)
    if not late:
        return model
    slower = dataclasses.replace(arm, lr=arm.lr / 3)
    return fitted(slower, arm.then, tasks, late, seed, model)


def fitted(arm, world: str, tasks: Sequence[str], steps: int, seed: int, model: nn.Module | None = None) -> nn.Module:
    """A model, or the one given, trained on the arm's number of pictures of a world."""
    tensors = packed_set(rendered(world, pick(**POOL), arm.size))
    if arm.pictures > len(tensors["image"]):
        raise ValueError(f"{arm.pictures} pictures are more than the {len(tensors['image'])} that are rendered")
    config = david_models.arm_config(arm, tasks, steps)
    stream = TensorStream({n: x[: arm.pictures] for n, x in tensors.items()}, seed, david_models.transform(config))
    recipe = dataclasses.replace(david_models.recipe(config, stream), seed=seed)
    if model is not None:
        recipe = dataclasses.replace(recipe, model=lambda: model)
    return train(recipe, None, progress=False).model.eval()

"""The runs of chapter 14: the models that it ships, its studies, and what both are measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Models, losses and augmentation are the chapter's own; the pictures are rendered
(`course_lib.data.pictured`).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import metrics
from course_lib.chapters import mpt_finetuning as mpt
from course_lib.chapters.cameras import procrustes
from course_lib.chapters.mpt_pretraining import MeshTransformer, body_levels
from course_lib.data.pictured import Pictured, crops, pictured, whole_people
from course_lib.data.sets import rendered
from course_lib.data.streams import GeneratedStream, TensorStream
from course_lib.recipe import Batch, Recipe
from course_lib.scale import pick, scale
from course_lib.shipped import available, load, named, note_data, round_weights, train
from course_lib.studies.mpt import mesh_metrics
from course_lib.studies.sapiens import Metrics, device_of

TESTED = {"smoke": 8, "laptop": 500}  # pictures of a world's test split
AT_ONCE = 32  # crops in one forward pass


# ------------------------------------------------------------------------------------------------- people
def people(config, own: tuple[str, int], split: str = "train") -> Pictured:
    """The whole people of one of the configuration's sets, a world and a number of pictures."""
    return pictured((own,), config.pose.side, config.mesh.levels, split)


def stream(config, seed: int = 0) -> TensorStream:
    """Batches of the people in all sets of a configuration, each marked as its set is, augmented."""
    return mixed_stream(config, [(people(config, own), marks) for own, marks in config.sets], seed)


def mixed_stream(config, sets: list[tuple[Pictured, dict]], seed: int = 0) -> TensorStream:
    """Batches of the people of several sets, every person as often as any other, marked and augmented."""
    number = torch.cat([torch.full((len(found),), i) for i, (found, _) in enumerate(sets)])
    person = torch.cat([torch.arange(len(found)) for found, _ in sets])

    def transform(one: Batch, generator: torch.Generator) -> Batch:
        found, marks = sets[int(one["set"])]
        batch = mpt.with_marks(crops(found, one["person"], config.pose.size, config.margin), **marks)
        return mpt.prepared(config, batch, generator)

    return TensorStream({"set": number, "person": person}, seed, transform)


def folder_stream(config, folders: list[Path]) -> TensorStream:
    """For a launch: the people of rendered sets, of all of which everything is known."""
    return mixed_stream(config, [(whole_people(tuple(map(Path, folders)), config.mesh.levels), {})])


# ------------------------------------------------------------------------------------------------- measuring
def held_out(config, world: str = "studio") -> Batch:
    """The whole people of a world's test split, cropped, not augmented: image, points, seen, spots, joints, vertices,
    twin, turn, identity; (N, ...)."""
    found = people(config, (world, pick(**TESTED)), "test")
    return crops(found, torch.arange(len(found)), config.pose.size, config.margin)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Pictures (N, 3, H, H) -> joints and regressed (N, 14, 3), vertices of the finest level (N, V, 3), camera (N, 3),
    maps (N, C, S, S); on the CPU."""
    device, model = device_of(model), model.eval()
    parts = [model(part.to(device)) for part in images.split(AT_ONCE)]
    parts = [part | {"vertices": part["vertices"][0]} for part in parts]
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}


def measured(config, model: nn.Module, world: str = "studio") -> Metrics:
    """mpjpe, pa_mpjpe and mpvpe on a world's held-out people, millimetres."""
    batch = held_out(config, world)
    return mesh_metrics(answers(model, batch["image"]), batch)


def mean_pose(config, batch: Batch) -> Metrics:
    """What two answers reach that never look: the mean of the training people in camera axes (mpjpe and mpvpe), and
    the mean after Procrustes, which only Procrustes can turn to the person (pa_mpjpe)."""
    known = people(config, config.full[0]).people
    mean = {name: known[name].mean(0).expand_as(batch[name]) for name in ("joints", "vertices")}
    found = mesh_metrics({"regressed": mean["joints"], "vertices": mean["vertices"]}, batch)
    own = procrustes_mean(known["joints"]).expand_as(batch["joints"])
    return found | {"pa_mpjpe": metrics.pa_mpjpe(own, batch["joints"]).mean().item()}


def procrustes_mean(joints: Tensor, rounds: int = 5) -> Tensor:
    """Poses (N, J, 3) -> the mean (J, 3) of them all, each turned, scaled and moved onto the mean of the round before:
    generalised Procrustes analysis (Gower 1975)."""
    mean = joints[0]
    for _ in range(rounds):
        s, R, t = procrustes(joints, mean.expand_as(joints))
        mean = (s[:, None, None] * joints @ R.mT + t[:, None]).mean(0)
    return mean


# ------------------------------------------------------------------------------------------------- where it begins
def weights_of(name: str, model: nn.Module) -> Batch | None:
    """A shipped model's weights; None where it isn't there yet, or is another network than this one."""
    if not available(name):
        return None
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    config = named(name).config
    build = {"mpt_finetuning": mpt.pose_network, "mpt_pretraining": transformer}[named(name).slug]
    shipped = build(config)
    if {key: value.shape for key, value in shipped.state_dict().items()} != shapes:
        return None
    load(shipped, name)
    return shipped.state_dict()


def transformer(config) -> MeshTransformer:
    """Chapter 13's network for a configuration of that chapter."""
    return MeshTransformer(config, body_levels(config.levels))


def begin(config) -> dict[str, Batch | None]:
    """What `recipe` begins with: the shipped weights of both networks, where the configuration wants them."""
    model = mpt.regressor(config)
    pose = weights_of(mpt.SHIPPED["pose"].name, model.pose) if config.warm_pose else None
    mesh = weights_of("mpt_pretraining-pretrained", model.mesh) if config.warm_mesh else None
    return {"pose": pose, "mesh": mesh}


def warm(config) -> nn.Module:
    """The two networks as they were trained apart, put together: not fine-tuned."""
    return mpt.begun(config, body_levels(config.mesh.levels), **begin(config))


def started(config, seed: int = 0) -> Recipe:
    """The recipe with its stream and with what it begins with."""
    return replace(mpt.recipe(config, stream(config, seed), **begin(config)), seed=seed)


# ------------------------------------------------------------------------------------------------- shipped
def finetuned(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """The fine-tuning of a configuration; `mesh_metrics` on held-out people of studio, those of the mean pose and of
    the networks before fine-tuning beside them, and on those of wild."""
    for own, _ in config.sets:
        note_data(folder, rendered(*own, config.pose.side))
    run = train(started(config), folder / "fit")
    model = round_weights(run.model).eval()
    found = measured(config, model) | named_metrics("wild", measured(config, model, "wild"))
    found |= named_metrics("mean", mean_pose(config, held_out(config)))
    found |= named_metrics("before", measured(config, warm(config)))
    return model, found | {"pa_over_mean": found["pa_mpjpe"] / found["mean_pa_mpjpe"]}


def named_metrics(word: str, found: Metrics) -> Metrics:
    """The metrics with a word before their names."""
    return {f"{word}_{name}": value for name, value in found.items()}


# ------------------------------------------------------------------------------------------------- studies
def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: fine-tuned for `steps` steps, `mesh_metrics` on held-out people of studio. An arm with a backbone
    of its own first trains it for as many steps, and has its pck, too."""
    config = shrunk(arm, steps) if scale() == "smoke" else mpt.arm_config(arm, steps)
    recipe, found = started(config, seed), {}
    if arm.backbone:
        network, found = pose_trained(replace(config.pose, steps=steps, batch_size=config.batch_size), seed)
        start = mpt.recipe(config, None, network.state_dict(), begin(config)["mesh"])
        recipe = replace(recipe, model=start.model)
    model = train(recipe, None, progress=False).model
    return measured(config, model) | found


def shrunk(arm, steps: int):
    """An arm's configuration at smoke scale."""
    small, full = mpt.CONFIGS["smoke"], mpt.arm_config(arm, steps)
    pose = replace(small.pose, kind=full.pose.kind)
    mesh = replace(small.mesh, maps=mpt.feature_channels(pose)) if arm.features else small.mesh
    through = min(arm.through, mesh.size // 2)
    changes = {"features": arm.features, "warm_mesh": arm.warm_mesh, "warm_pose": not arm.backbone}
    return replace(small, pose=pose, mesh=mesh, steps=steps, through=through, **changes)


def pose_trained(config, seed: int = 0) -> tuple[nn.Module, Metrics]:
    """A pose network, trained; the share of held-out joints within a tenth of the person's box."""
    known = pictured(config.worlds, config.side)
    made = GeneratedStream(partial(mpt.pose_batch, config, known), seed, block=config.batch_size)
    network = train(replace(mpt.pose_recipe(config, made), seed=seed), None, progress=False).model
    return network, {}

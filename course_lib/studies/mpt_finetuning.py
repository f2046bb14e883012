"""The runs of chapter 14's second half: the fine-tuned model that it ships, its studies, and how both are measured.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Networks, losses and augmentation are the chapter's own; the pictures are those of
the pose networks (`course_lib.studies.mpt_pose`).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from course_lib.chapters import mpt_finetuning as mpt
from course_lib.chapters.mpt_pretraining import MeshTransformer, body_levels
from course_lib.data.pictured import Pictured, crops, is_whole, of_one, size_of
from course_lib.data.schema import Sample
from course_lib.data.sets import rendered
from course_lib.data.streams import TensorStream
from course_lib.recipe import Batch, Recipe
from course_lib.scale import scale
from course_lib.shipped import available, load, named, note_data, round_weights, train
from course_lib.studies import mpt_pose
from course_lib.studies.mpt import answers, mesh_metrics
from course_lib.studies.sapiens import Metrics

FLAT = {"mesh": False, "joints": False, "spots": mpt.COCO_KNOWS}  # marks of a set of which only 2D joints are known


# ------------------------------------------------------------------------------------------------- people
def people(config, split: str = "train", worlds: tuple[str, ...] = mpt_pose.WORLDS) -> Pictured:
    """The whole people of a configuration's sets, or of the test split of some worlds."""
    return mpt_pose.people(config.pose, split, worlds, config.mesh.levels)


def stream(config, seed: int = 0) -> TensorStream:
    """Batches of all people, in another order each epoch, each marked as its set is, augmented."""
    found = people(config)
    marks = [{} if world in config.full else FLAT for world, _ in config.pose.worlds]

    def transform(one: Batch, generator: torch.Generator) -> Batch:
        batch = crops(found, one["person"], config.pose.size, config.margin)
        return mpt.prepared(config, mpt.with_marks(batch, **marks[int(one["set"])]), generator)

    return TensorStream({"person": torch.arange(len(found)), "set": found.people["set"]}, seed, transform)


def prepare(config) -> Callable:
    """For a launch: (sample, NumPy generator) -> one of the whole people in it, at random, marked as its world is. A
    sample without one has no mark at all, so that nothing of it counts."""
    nobody = {name: torch.zeros_like(values[0]) for name, values in mpt.example(config, 1).items()}

    def prepared(sample: Sample, rng: np.random.Generator) -> Batch:
        whole = [person for person in sample.people if is_whole(person, size_of(sample))]
        if not whole:
            return nobody
        person = whole[int(rng.integers(len(whole)))]
        marks = {} if sample.source.partition("/")[0] in config.full else FLAT
        batch = crops(of_one(sample, person, config.mesh.levels), torch.tensor([0]), config.pose.size, config.margin)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        one = mpt.prepared(config, mpt.with_marks(batch, **marks), generator)
        return {name: values[0] for name, values in one.items()}

    return prepared


# ------------------------------------------------------------------------------------------------- measuring
def held_out(config, world: str = "studio") -> Batch:
    """The whole people of a world's test split, cropped, not augmented: what `data.pictured.crops` gives."""
    found = people(config, "test", (world,))
    return crops(found, torch.arange(len(found)), config.pose.size, config.margin)


def measured(config, model: nn.Module, world: str = "studio") -> Metrics:
    """mpjpe, pa_mpjpe and mpvpe on a world's held-out people, millimetres."""
    batch = held_out(config, world)
    return mesh_metrics(answers(model, batch["image"]), batch)


def mean_pose(config, batch: Batch) -> Metrics:
    """`mpt_pose.mean_pose` of the configuration's people: what answers reach that never look."""
    return mpt_pose.mean_pose(people(config), batch)


# ------------------------------------------------------------------------------------------------- where it begins
BUILDERS = {
    "mpt_finetuning-pose": mpt.pose_network,
    "mpt_pretraining-pretrained": lambda config: MeshTransformer(config, body_levels(config.levels)),
}


def weights_of(name: str, model: nn.Module) -> Batch | None:
    """A shipped model's weights for a model; None where it isn't there yet, or is another network than this one."""
    if not available(name):
        return None
    shipped = BUILDERS[name](named(name).config)
    shapes, wanted = ({key: x.shape for key, x in one.state_dict().items()} for one in (shipped, model))
    if shapes != wanted:
        return None
    load(shipped, name)
    return shipped.state_dict()


def begin(config) -> dict[str, Batch | None]:
    """What `recipe` begins with: the shipped weights of both networks, where the configuration wants them."""
    model = mpt.mesh_regressor(config)
    pose, mesh = BUILDERS
    return {
        "pose": weights_of(pose, model.pose) if config.warm_pose else None,
        "mesh": weights_of(mesh, model.mesh) if config.warm_mesh else None,
    }


def warm(config) -> nn.Module:
    """The two networks as they were trained apart, put together: not fine-tuned."""
    return mpt.begun(config, body_levels(config.mesh.levels), **begin(config))


def started(config, seed: int = 0) -> Recipe:
    """The recipe with its stream and with what it begins with."""
    return replace(mpt.recipe(config, stream(config, seed), **begin(config)), seed=seed)


# ------------------------------------------------------------------------------------------------- shipped
def finetuned(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """The fine-tuning of a configuration; `mesh_metrics` on held-out people of studio, those of the mean pose and of
    the networks before fine-tuning beside them, those on wild, and the share of the mean pose's PA-MPJPE."""
    note_data(folder, *(rendered(*own, config.pose.side) for own in config.pose.worlds))
    model = round_weights(train(started(config), folder / "fit").model).eval()
    found, parts = measured(config, model), {"wild": measured(config, model, "wild")}
    parts |= {"mean": mean_pose(config, held_out(config)), "before": measured(config, warm(config))}
    found |= {f"{word}_{name}": value for word, rows in parts.items() for name, value in rows.items()}
    return model, found | {"pa_over_mean": found["pa_mpjpe"] / found["mean_pa_mpjpe"]}


# ------------------------------------------------------------------------------------------------- studies
def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: fine-tuned for `steps` steps, `mesh_metrics` on held-out people of studio. An arm with a backbone
    of its own first trains it, for as many steps, and has its pck, too."""
    config = shrunk(arm, steps) if scale() == "smoke" else mpt.arm_config(arm, steps)
    start, found = begin(config), {}
    if arm.backbone:
        network, found = pose_trained(replace(config.pose, steps=steps), seed)
        start["pose"] = network.state_dict()
    recipe = replace(mpt.recipe(config, stream(config, seed), **start), seed=seed)
    return measured(config, train(recipe, None, progress=False).model) | found


def pose_trained(config, seed: int) -> tuple[nn.Module, Metrics]:
    """A pose network, trained, and its pck on held-out people."""
    recipe = replace(mpt.pose_recipe(config, mpt_pose.stream(config, seed)), seed=seed)
    network = train(recipe, None, progress=False).model
    return network, {"pck": mpt_pose.pck_at(network, mpt_pose.people(config, "test"), config)}


def shrunk(arm, steps: int):
    """An arm's configuration at smoke scale."""
    small, full = mpt.CONFIGS["smoke"], mpt.arm_config(arm, steps)
    pose = replace(small.pose, kind=full.pose.kind)
    mesh = replace(small.mesh, maps=mpt.feature_channels(pose)) if arm.features else small.mesh
    changes = {"features": arm.features, "warm_mesh": arm.warm_mesh, "warm_pose": not arm.backbone}
    return replace(small, pose=pose, mesh=mesh, steps=steps, through=min(arm.through, mesh.size // 2), **changes)

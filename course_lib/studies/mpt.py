"""The runs of chapter 13: the model that it ships, its studies, and what both are measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Model, loss and batches are the chapter's own; no picture is rendered.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import metrics
from course_lib.chapters import mpt_pretraining as mpt
from course_lib.data.meshes import Bodies, sample_bodies
from course_lib.data.streams import GeneratedStream
from course_lib.recipe import Batch
from course_lib.scale import pick, scale
from course_lib.shipped import round_weights, train
from course_lib.studies.sapiens import Metrics, device_of

TESTED = {"smoke": 8, "laptop": 256}  # people, each before all four real cameras
POOLED = {"smoke": 32, "laptop": 512}  # poses and people of the test split that they are drawn from
AVERAGED = {"smoke": 16, "laptop": 1024}  # training people that the mean pose is made of
AT_ONCE = 64  # samples in one forward pass


# ------------------------------------------------------------------------------------------------- people
@lru_cache(maxsize=2)
def kept_bodies(count: int, levels: tuple[int, ...], heading: float | None, pool: int) -> Bodies:
    """`count` people of the training split at the finest level only, which is much less to hold."""
    parts = []
    for seed, size in enumerate([AT_ONCE] * (count // AT_ONCE) + [count % AT_ONCE]):
        if size:
            bodies = sample_bodies(size, (7, seed), heading, size=pool)
            parts.append(replace(bodies, vertices=mpt.body_levels(levels).all(bodies.vertices)[0]))
    joints = {name: torch.cat([part.joints[name] for part in parts]) for name in parts[0].joints}
    rest = (torch.cat([getattr(part, name) for part in parts]) for name in ("heading", "identity"))
    return Bodies(torch.cat([part.vertices for part in parts]), joints, *rest)


def training_bodies(config, generator: torch.Generator, count: int) -> Bodies:
    """`count` people for a training batch: of those that are kept, or new ones."""
    if config.meshes:
        kept = kept_bodies(config.meshes, config.levels, config.heading, config.pool)
        return kept[torch.randint(len(kept), (count,), generator=generator)]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return sample_bodies(count, seed, config.heading, size=config.pool)


# ------------------------------------------------------------------------------------------------- measuring
def held_out(config, count: int, split: str = "test") -> Batch:
    """`count` people of a split, each before the four real cameras: (4 count, ...), perfect maps; people stay together
    by camera. The people are those of the configuration's heading."""
    people = sample_bodies(count, 99, config.heading, split=split, size=pick(**POOLED))
    cameras, generator = mpt.virtual_cameras(4), torch.Generator().manual_seed(99)
    every = [
        mpt.seen_batch(config, people, cameras[torch.full((count,), view)], generator, mpt.PERFECT) for view in range(4)
    ]
    return {name: torch.cat([batch[name] for batch in every]) for name in every[0]}


@torch.no_grad()
def answers(model: nn.Module, maps: Tensor) -> dict[str, Tensor]:
    """Maps (N, K, S, S) for a `MeshTransformer`, crops (N, 3, H, H) for chapter 14's `MeshRegressor` -> joints and
    regressed (N, 14, 3), vertices of the finest level (N, V, 3), camera (N, 3), a regressor's maps; on the CPU."""
    device, model = device_of(model), model.eval()
    parts = [model(part.to(device)) for part in maps.split(AT_ONCE)]
    parts = [part | {"vertices": part["vertices"][0]} for part in parts]
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}


def joint_metrics(joints: Tensor, true: Tensor) -> Metrics:
    """mpjpe (from the middle of the hips) and pa_mpjpe, millimetres, means over people: (N, 14, 3) metres each."""
    errors = {"mpjpe": metrics.mpjpe(joints, true, root=mpt.HIPS), "pa_mpjpe": metrics.pa_mpjpe(joints, true)}
    return {name: values.mean().item() for name, values in errors.items()}


def mesh_metrics(found: dict[str, Tensor], batch: Batch) -> Metrics:
    """Those of the mesh's joints, and mpvpe, the mean error of the finest level's vertices from the pelvis."""
    origin = torch.zeros(len(batch["vertices"]), 3)
    vertices = metrics.mpvpe(found["vertices"], batch["vertices"], origin, origin).mean().item()
    return joint_metrics(found["regressed"], batch["joints"]) | {"mpvpe": vertices}


def mean_pose(config, batch: Batch) -> Metrics:
    """What two answers reach that never look: the mean training pose in camera axes (mpjpe and mpvpe), and in the
    body's own, which only Procrustes can turn to the person (pa_mpjpe)."""
    people = sample_bodies(pick(**AVERAGED), 98, config.heading, size=config.pool)
    view = torch.arange(len(people)) % 4
    generator = torch.Generator().manual_seed(98)
    seen = mpt.seen_batch(config, people, mpt.virtual_cameras(4)[view], generator, mpt.PERFECT)
    own = people.joints["lsp14"].mean(0).expand_as(batch["joints"])
    mean = {name: seen[name].mean(0).expand_as(batch[name]) for name in ("joints", "vertices")}
    found = mesh_metrics({"regressed": mean["joints"], "vertices": mean["vertices"]}, batch)
    return found | {"pa_mpjpe": joint_metrics(own, batch["joints"])["pa_mpjpe"]}


# ------------------------------------------------------------------------------------------------- shipped
def stream(config, seed: int = 0) -> GeneratedStream:
    """New people for every batch, a whole batch made at once."""
    return GeneratedStream(mpt.generate(config), seed, block=config.batch_size)


def pretrained(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """The pretraining of a configuration; `mesh_metrics` on held-out people before the four real cameras, the mean
    pose's beside them, and pa_over_mean, the share of its PA-MPJPE."""
    run = train(mpt.recipe(config, stream(config)), folder / "fit")
    model = round_weights(run.model).eval()
    batch = held_out(config, pick(**TESTED))
    found, mean = mesh_metrics(answers(model, batch["maps"]), batch), mean_pose(config, batch)
    shares = {"pa_over_mean": found["pa_mpjpe"] / mean["pa_mpjpe"]}
    return model, found | {f"mean_{name}": value for name, value in mean.items()} | shares


# ------------------------------------------------------------------------------------------------- studies
def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: a small model, trained for `steps` steps, measured as `pretrained` does: `mesh_metrics` and the
    mean pose's PA-MPJPE."""
    config = mpt.arm_config(arm, steps)
    if scale() == "smoke":
        config = replace(mpt.CONFIGS["smoke"], steps=steps, views=arm.views, heading=arm.heading)
        config = replace(config, silhouette=arm.silhouette, maps=config.maps if not arm.silhouette else 1)
    recipe = replace(mpt.recipe(config, stream(config, seed)), seed=seed)
    model = train(recipe, None, progress=False).model.eval()
    batch = held_out(config, pick(smoke=TESTED["smoke"], laptop=TESTED["laptop"] // 2))
    found = mesh_metrics(answers(model, batch["maps"]), batch)
    return found | {"mean_pa_mpjpe": mean_pose(config, batch)["pa_mpjpe"]}

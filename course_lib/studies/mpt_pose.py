"""Chapter 14's pose networks: the one that it ships, and what sections 3 to 5 train and measure them with.

Networks, losses and batches are the chapter's own; the pictures are rendered (`course_lib.data.pictured`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.chapters import mpt_finetuning as mpt
from course_lib.data.pictured import LEVELS, Pictured, crops, pictured
from course_lib.data.sets import people_samples, rendered
from course_lib.data.streams import GeneratedStream
from course_lib.recipe import Batch
from course_lib.scale import pick
from course_lib.shipped import note_data, round_weights, train
from course_lib.studies.mpt import AT_ONCE, mesh_metrics
from course_lib.studies.mpt import answers as answers  # the chapter measures with it, too
from course_lib.studies.sapiens import Metrics, device_of

WORLDS = ("studio", "wild")
TESTED = {"smoke": 8, "laptop": 500}  # pictures of a world's test split
CROWD = {"smoke": 8, "laptop": 3000}  # whole pictures of `wild`
MARGINS = (1.2, 1.6, 2.2, 3.0)  # of the crops that section 4's study is tested on
COLUMNS = (*(f"margin {margin}" for margin in MARGINS), *WORLDS)
MARGIN = 1.2  # of the crops that everything is tested on


# ------------------------------------------------------------------------------------------------- people
def people(config, split: str = "train", worlds: Sequence[str] = WORLDS, levels: tuple[int, ...] = LEVELS) -> Pictured:
    """The whole people of a configuration's sets, or of the test split of some worlds; the mesh at the finest of some
    levels, without others those of chapter 13's shipped transformer."""
    sets = config.worlds if split == "train" else [(world, pick(**TESTED)) for world in worlds]
    return pictured(tuple(sets), config.side, levels, split)


def stream(config, seed: int = 0) -> GeneratedStream:
    """Crops for `pose_loss`, a whole batch made at once."""
    return GeneratedStream(partial(mpt.pose_batch, config, people(config)), seed, block=config.batch_size)


@lru_cache(maxsize=2)
def crowd(config, count: int | None = None) -> Batch:
    """Whole pictures of `wild`, all of them or the first `count`: image (P, 3, H, H), 8 bits; crowd (P, M, 17, 2),
    everybody's labelled joints in crop coordinates of the picture, NaN for the others; M: the most people in one."""
    found = people_samples("wild", pick(**CROWD), config.side, only=("image",))
    samples = [found[number] for number in range(min(count or len(found), len(found)))]
    most = max(len(sample.people) for sample in samples)
    points = torch.full((len(samples), most, config.joints, 2), torch.nan)
    for row, sample in zip(points, samples, strict=True):
        for spots, person in zip(row, sample.people, strict=False):
            known = person.keypoints["coco17"]
            shown = torch.from_numpy(known.visible > 0)[:, None]
            spots.copy_((2 * torch.from_numpy(known.points_2d) / config.side - 1).where(shown, torch.nan))
    images = torch.stack([(torch.from_numpy(sample.image) * 255).round().byte() for sample in samples])
    return {"image": images, "crowd": points}


def crowd_stream(found: Batch, config, seed: int = 0) -> GeneratedStream:
    """Whole pictures for `crowd_loss`, in the configuration's size, half of them mirrored, coloured as the crops."""
    return GeneratedStream(partial(crowd_batch, found, config), seed, block=config.batch_size)


def crowd_batch(found: Batch, config, generator: torch.Generator, count: int) -> Batch:
    """`count` of them, at random."""
    chosen = torch.randint(len(found["image"]), (count,), generator=generator)
    image, points = found["image"][chosen].float() / 255, found["crowd"][chosen]
    if image.shape[-1] != config.size:
        image = nn.functional.interpolate(image, (config.size, config.size), mode="bilinear", antialias=True)
    flip = (torch.rand(count, generator=generator) < 0.5)[:, None, None, None]
    colour = 0.6 + 0.8 * torch.rand(count, 3, 1, 1, generator=generator)
    image = torch.where(flip, image.flip(-1), image) * colour
    other = points[:, :, mpt.MIRROR[config.joints]] * points.new_tensor([-1, 1])
    return {"image": image.clamp(0, 1), "crowd": torch.where(flip, other, points)}


# ------------------------------------------------------------------------------------------------- measuring
@torch.no_grad()
def maps_of(network: nn.Module, images: Tensor) -> Tensor:
    """Crops (N, 3, H, H) -> maps (N, 17, S, S), on the CPU."""
    device, network = device_of(network), network.eval()
    return torch.cat([network(part.to(device)).float().cpu() for part in images.split(AT_ONCE)])


def pck_at(network: nn.Module, found: Pictured, config, margin: float = MARGIN, reach: float = 0.05) -> float:
    """PCK, the mean of the 17 joints, in crops of some margin around people."""
    hits = []
    for part in torch.arange(len(found)).split(256):
        batch = crops(found, part, config.size, margin)
        points, _ = mpt.found_joints(maps_of(network, batch["image"]))
        hits.append((points, batch["points"], batch["seen"]))
    points, true, seen = (torch.cat(parts) for parts in zip(*hits, strict=True))
    return mpt.share_found(points, true, seen, torch.full((len(points),), 2 / margin), reach).mean().item()


def mean_pose(known: Pictured, truth: Batch) -> Metrics:
    """What two answers reach that never look: the mean training person in camera axes (mpjpe and mpvpe), and the mean
    of all of them once each is turned like the first (pa_mpjpe). `truth`: joints (N, 14, 3), vertices (N, V, 3)."""
    joints, vertices = (known.people[name] for name in ("joints", "vertices"))
    mean = {"regressed": joints.mean(0).expand_as(truth["joints"]), "vertices": vertices.mean(0)[None]}
    mean["vertices"] = mean["vertices"].expand_as(truth["vertices"])
    turned = aligned(joints).mean(0).expand_as(truth["joints"])
    return mesh_metrics(mean, truth) | {"pa_mpjpe": mpt.pa_error(turned, truth["joints"]).mean().item()}


def aligned(joints: Tensor, rounds: int = 4) -> Tensor:
    """People (N, 14, 3), each moved by Procrustes onto the mean of all of them so far, the first mean being one."""
    mean = joints[:1]
    for _ in range(rounds):
        scale, R, t = mpt.procrustes(joints, mean.expand_as(joints))
        joints = scale[:, None, None] * joints @ R.mT + t[:, None]
        mean = joints.mean(0, keepdim=True)
        mean = mean * (joints.norm(dim=-1).mean() / mean.norm(dim=-1).mean().clamp(min=1e-9))  # it must not shrink
    return joints


# ------------------------------------------------------------------------------------------------- shipped
def pose(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """The training of a pose network; its PCK on held-out people of both worlds, and of each."""
    note_data(folder, *(rendered(world, count, config.side) for world, count in config.worlds))
    run = train(mpt.pose_recipe(config, stream(config)), folder / "fit")
    model = round_weights(run.model).eval()
    tested = {"": WORLDS} | {f"_{world}": (world,) for world in WORLDS}
    return model, {
        f"pck{name}": pck_at(model, people(config, "test", worlds), config) for name, worlds in tested.items()
    }


# ------------------------------------------------------------------------------------------------- studies
def compare(arm, seed: int, steps: int) -> Metrics:
    """A run of section 4's study: a network trained on crops or on whole pictures; its PCK in crops of all margins, and
    in those of the first margin in each world."""
    config = replace(mpt.POSE_CONFIGS[pick(smoke="smoke", laptop="laptop")], steps=steps)
    recipe = mpt.pose_recipe(config, stream(config, seed))
    if arm.whole:
        recipe = replace(recipe, loss=mpt.crowd_loss, stream=crowd_stream(crowd(config), config, seed))
    network = train(replace(recipe, seed=seed), None, progress=False).model
    found = people(config, "test")
    share = {f"margin {margin}": pck_at(network, found, config, margin) for margin in MARGINS}
    return share | {world: pck_at(network, people(config, "test", (world,)), config) for world in WORLDS}

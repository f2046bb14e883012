"""HumanRAM, animation: made by `course build` from solutions/16_humanram_animation.py. Edit there, never here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from kornia.enhance import adjust_hue
from torch import Tensor, nn

from course_lib.chapters import humanram_reconstruction
from course_lib.chapters.cameras import Camera
from course_lib.chapters.humanram_reconstruction import ray_map
from course_lib.chapters.rendering import rasterize
from course_lib.recipe import Batch, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved


# Chapter 16, section "1 Driving", exercise 16.1
def driven(poses: Tensor, roots: Tensor, faces: Tensor, camera: Camera, size: tuple[int, int]) -> Batch:
    """The queries of T frames as the targets of one sample: target_rays (1, T, 6, H, W), about each frame's root;
    target_face (1, T, H, W) and target_barycentric (1, T, H, W, 3) of the body in each frame's pose.

    poses (T, V, 3): posed vertices in metres; roots (T, 3): where the pelvis is; a camera a frame, or one for all.
    """
    camera = camera if len(camera) == len(poses) else camera[[0] * len(poses)]
    seen = rasterize(poses, faces, camera, size, cull_backfaces=True)
    queries = {"rays": ray_map(camera, size, roots), "face": seen.face, "barycentric": seen.barycentric}
    return {f"target_{name}": values[None] for name, values in queries.items()}


# Chapter 16, section "1 Driving"
def require_poses(poses: Tensor, vertices: int, cameras: int) -> None:
    """ValueError, saying which, for poses that are no posed bodies, or not as many as cameras."""
    if poses.ndim != 3 or poses.shape[1:] != (vertices, 3) or len(poses) == 0:
        raise ValueError(f"poses are {tuple(poses.shape)}: give (T, {vertices}, 3), the skin in T frames, 1 or more")
    if not (finite := poses.isfinite().flatten(1).all(1)).all():
        raise ValueError(f"pose {int((~finite).int().argmax())} has numbers that are not finite: mend or leave it out")
    if cameras not in (1, len(poses)):
        raise ValueError(f"{cameras} cameras for {len(poses)} poses: give one, or one a pose")


# Chapter 16, section "1 Driving"
@torch.no_grad()
def animate(
    model: nn.Module, sources: Batch, poses: Tensor, cameras: Camera, roots: Tensor | None = None, at_once: int = 8
) -> Tensor:
    """A person from pictures in other poses: frames (T, 3, H, W) in [0, 1].

    model: a `HumanRAM`. sources: a batch of one with the given views as it takes them (image, rays, face, barycentric;
    seen where some are missing). poses (T, V, 3): the driving poses of this person's skin, metres; roots (T, 3): their
    pelvis, None: it stays at 0. cameras: one a frame, or one for all. at_once: frames in a forward pass. ValueError.
    """
    require_poses(poses, len(model.points), len(cameras))
    if len(sources["image"]) != 1:
        raise ValueError(f"sources are a batch of {len(sources['image'])}: animate one person at a time")
    roots = poses.new_zeros(len(poses), 3) if roots is None else roots
    given = {name: values for name, values in sources.items() if not name.startswith("target_")}
    every, frames, size = len(cameras) > 1, [], tuple(given["image"].shape[-2:])
    for part in torch.arange(len(poses)).split(at_once):
        camera = cameras[part.tolist()] if every else cameras
        frames.append(model(given | driven(poses[part], roots[part], model.faces, camera, size))[0])
    return torch.cat(frames)


# Chapter 16, section "2 The data", exercise 16.2
def avatar_targets(
    generator: torch.Generator, frames: int, targets: int, window: int = 50, every: int = 1
) -> tuple[int, Tensor]:
    """Of a clip of which every `every`-th frame was kept, `frames` in number: the kept frame whose views are given,
    any of them, and those to be drawn (M,), at most `window` frames of the motion before or behind it. HumanRAM
    supplement B.

    Drawn alike and with repeats; the given frame itself is one of them. (The paper doesn't say; our choice.)"""
    frame, reach = int(torch.randint(frames, (), generator=generator)), window // every
    low, high = max(0, frame - reach), min(frames - 1, frame + reach)
    return frame, torch.randint(low, high + 1, (targets,), generator=generator)


# Chapter 16, section "2 The data"
@dataclass(frozen=True)
class Config:
    """A continued training. HumanRAM supplement B.

    network: chapter 15's configuration, architecture and training, with the scans. avatars: people in motion, `frames`
    kept of each, every `every`-th of 25 a second, before `views` cameras; window: how far in time a target may be, in
    frames of the motion. share: of the samples that are of avatars; single: of those that are left with one view;
    jitter: the strength of the colour jitter, 0 for none.
    """

    network: humanram_reconstruction.Config
    avatars: int = 100
    frames: int = 9
    every: int = 12
    views: int = 8
    window: int = 50
    share: float = 0.5
    single: float = 0.25
    jitter: float = 0.0

    steps = property(lambda self: self.network.steps)


ONCE_MORE = humanram_reconstruction.CONFIGS
SMALL = replace(ONCE_MORE["shipped"], inputs=4, batch_size=4, lr=2e-4, repose=0.5)
ANIMATION = PaperRun(
    "HumanRAM supplement B, animation", batch=48, steps=4000, samples=48 * 4000, gpus=8, gpu="A100-80GB",
    notes=("the hyper-parameters are said to be 'the same as above': we take stage 2's",),
)  # fmt: skip
CONFIGS = {
    "smoke": Config(replace(ONCE_MORE["smoke"], steps=4), avatars=1, frames=3, views=4, jitter=1.0),
    "laptop": Config(replace(SMALL, people=24, steps=150, warmup=10), avatars=12, jitter=1.0),
    "shipped": Config(replace(SMALL, steps=1000, warmup=50), avatars=60, jitter=1.0),
    "gpu": Config(replace(ONCE_MORE["gpu"], inputs=4, repose=0.5, steps=4000, lr=3e-4), avatars=100, jitter=1.0),
    "humanram-animation": Config(replace(ONCE_MORE["humanram-512"], targets=4, steps=4000, paper=ANIMATION), every=1,
                                 frames=150, views=32, single=0.0),
}  # fmt: skip
RUNS = "course_lib.studies.humanram_animation"


# Chapter 16, section "2 The data", exercise 16.3
def draw_seen(generator: torch.Generator, views: int, single: float) -> Tensor:
    """Which views of a sample are seen, (S,) bool: with probability `single` one of them, any; else all. Ours."""
    if torch.rand((), generator=generator) >= single:
        return torch.ones(views, dtype=torch.bool)
    return torch.arange(views) == torch.randint(views, (), generator=generator)


RANGES = (0.2, 0.2, 0.2, 0.05)  # brightness, contrast, saturation, hue (of a turn): our choice


# Chapter 16, section "3 Continued training, and colours"
def draw_amounts(generator: torch.Generator, count: int, strength: float = 1.0) -> Tensor:
    """(B, 4): by how much each sample's brightness, contrast, saturation and hue change, evenly in ± RANGES."""
    return strength * (2 * torch.rand(count, 4, generator=generator) - 1) * torch.tensor(RANGES)


# Chapter 16, section "3 Continued training, and colours"
def jitter_colours(pictures: Tensor, amounts: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] with other colours, by amounts (N, 4), in [0, 1] again. Contrast is stretched
    about 0.5, so that equal colours stay equal from picture to picture."""
    brightness, contrast, saturation, hue = amounts.T[..., None, None, None]  # (N, 1, 1, 1) each
    changed = pictures * (1 + brightness)
    changed = 0.5 + (changed - 0.5) * (1 + contrast)
    grey = (changed * changed.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    changed = (grey + (changed - grey) * (1 + saturation)).clamp(0, 1)
    return adjust_hue(changed, 2 * math.pi * hue.flatten()).clamp(0, 1)


# Chapter 16, section "3 Continued training, and colours", exercise 16.4
def jitter_views(views: Tensor, alpha: Tensor, amounts: Tensor) -> Tensor:
    """Views on white (B, S, 3, H, W), their alpha (B, S, 1, H, W), and amounts (B, 4) -> the same views with the
    person's colours changed, alike in all views of a sample; white stays white. HumanRAM supplement B; NNA."""
    own = ((views - (1 - alpha)) / alpha.clamp(min=1 / 255)).clamp(0, 1)  # without the white
    every = amounts.repeat_interleave(views.shape[1], 0)  # (B * S, 4)
    changed = jitter_colours(own.flatten(0, 1), every).view_as(own)
    return alpha * changed + 1 - alpha


# Chapter 16, section "3 Continued training, and colours"
def jittered(generator: torch.Generator, batch: Batch, strength: float) -> Batch:
    """A batch with one jitter for each sample, given views and targets alike; its `alpha` has done its duty then."""
    batch = dict(batch)
    alpha = batch.pop("alpha")
    if strength:
        amounts = draw_amounts(generator, len(alpha), strength)
        batch["image"] = jitter_views(batch["image"], alpha, amounts)
        batch["target_image"] = jitter_views(batch["target_image"], batch["target_alpha"], amounts)
    return batch


# Chapter 16, section "3 Continued training, and colours"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    return humanram_reconstruction.example(config.network, count) | {
        "seen": torch.ones(count, config.network.inputs, dtype=torch.bool)
    }


# Chapter 16, section "3 Continued training, and colours"
def recipe(config: Config, stream: Stream | None, weights: dict[str, Tensor] | None = None) -> Recipe:
    """The continued training of a `HumanRAM` with chapter 15's weights; without them it begins anew."""
    plain = humanram_reconstruction.recipe(config.network, stream, weights)
    return replace(plain, name=f"humanram-animation-{config.network.size}", example=partial(example, config))


# Chapter 16, section "3 Continued training, and colours"
def generate(config: Config) -> Callable:
    """For a launch: (generator, samples) -> a batch of the mixture, which lies in the data folder."""
    return resolved(f"{RUNS}:stream")(config).make


SHIPPED = {"animation": Shipped("humanram_animation-animation", CONFIGS["shipped"], f"{RUNS}:animated")}


# Chapter 16, section "12 Does the jitter help?"
@dataclass(frozen=True)
class Arm:
    """One arm of the study: the strength of the jitter."""

    jitter: float = 1.0


# Chapter 16, section "12 Does the jitter help?"
def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm: few people, and all samples in full view."""
    few = replace(SMALL, people=6, steps=steps, warmup=5, lr=4e-4)
    return Config(few, avatars=6, single=0.0, jitter=arm.jitter)


STUDIES = {
    "jitter": Study("16.jitter", "one colour jitter for all views of a sample",
                    {"with": Arm(1.0), "without": Arm(0.0)}, f"{RUNS}:compare", steps=100),
}  # fmt: skip


# course build sealed the text above: 21dc4f4c05633e86

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 16: HumanRAM, animated
#
# Chapter 15 drew a person from new sides. A pose image can show *another pose* just as well as another camera. So the
# same network animates people: from four pictures, from one, and in the end from a photograph out of which everything
# has to be guessed, body and camera too.
#
# **What you will build**: targets in other poses, the mixture of scans and sequences that HumanRAM goes on to learn
# from, and a clip of somebody who was never seen in training; then the way there from a plain photograph: a fit of the
# body model to a mesh, a perspective camera out of an orthographic one, a foreground on white.
#
# | | |
# |---|---|
# | **You should know** | chapters 01 (PnP, weak perspective, Procrustes), 02, 08, 14 and 15 |
# | **Reading** | 60 minutes |
# | **Exercises** | nine, about 115 minutes |
# | **Runs** | `smoke` 40 s · `laptop` 12 min; 3 GB of memory |
# | **From the paper** | HumanRAM, supplement: A (in the wild), B (animation), C |
#
# **Sources.** As in chapter 15: the supplement, LVSM's published code, summaries of the main paper; choices of ours are
# named as such.
#
# **Letters.** Those of chapter 15: B batch · S input views · M target views · H W a picture. New: T frames · J joints ·
# V vertices · F faces · K shape coefficients; in sections 6 to 9 also the matrix $K$ of a camera.

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import numpy as np
import sympy

from course_lib import plots
from course_lib.scale import pick, scale

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from kornia.enhance import adjust_hue
from torch import Tensor, nn

from course_lib.chapters import humanram_reconstruction
from course_lib.chapters.bodies import BodyModel, forward_kinematics
from course_lib.chapters.cameras import (
    Camera,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    nearest_rotation,
    skew,
    solve_pnp,
    weak_perspective_project,
)
from course_lib.chapters.humanram_reconstruction import begun, canonical_surface, ray_map
from course_lib.chapters.rendering import rasterize
from course_lib.chapters.sapiens_pose import crop_people
from course_lib.exercises import check, exercise
from course_lib.recipe import Batch, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved

# %% [markdown]
# ## 1 Driving
#
# **The question.** Nothing in chapter 15's network is a skeleton. How does one make it move a person?
#
# **The idea.** By asking for it. A target is asked for by two pictures: its rays say from where, and its pose image
# says which point of the body stands where. Chapter 15 made both for the pose that the pictures show. Let the *given*
# views keep their own pose images, and rasterise the body in **another** pose for the target:
#
# $$\mathbf x_i = \text{Linear}_\text{in}\,[\,I_i,\ P_i,\ F_i(\text{source pose})\,], \qquad
# \mathbf q = \text{Linear}_\text{tar}\,[\,P_t,\ F_t(\text{driving pose})\,]. \tag{16.1}$$
#
# (After the summaries of the main paper; both matrices are chapter 15's.) A patch of the target that holds a left elbow
# has the features of a left elbow, and so has a patch in each given picture, wherever that elbow is there. Attention
# finds the one by the other. No bone is turned, nothing is warped. So nothing has to be *built* for animation; the
# network has to *learn* that rays and features may disagree between input and target: the same elbow, elsewhere.

# %%
from course_lib.chapters.humanram_reconstruction import HumanRAM, into_box, pose_image
from course_lib.studies import humanram_animation as measured
from course_lib.studies import humanram_measure as measuring

SIZE = pick(smoke=32, laptop=96)
began = time.perf_counter()
clips = {
    motion: measured.test_clips("test", motion, SIZE)
    for motion in pick(smoke=("walking",), laptop=("walking", "waving"))
}
walk = clips["walking"]
print(f"{walk.people} people of the test split, {walk.ring.poses} frames, {walk.ring.views} cameras; "
      f"{time.perf_counter() - began:.0f} s")  # fmt: skip
task = measured.clip_task(walk, walk.people - 1, pick(smoke=2, laptop=4))

# %%
canonical, faces = canonical_surface()
places = (into_box(canonical) + 1) / 2  # a colour for every point of the body
views = [task.batch["image"][0, 0], *task.batch["target_image"][0, -2:]]
bodies = [pose_image(places, faces, task.batch[f"{name}face"][0], task.batch[f"{name}barycentric"][0])
          for name in ("", "target_")]  # fmt: skip
painted, more = [bodies[0][0], *bodies[1][-2:]], len(views) - 1
titles = ["given", *["asked for (true)"] * more, "its pose image", *["the driving pose"] * more]
plots.show_images(views + [torch.where(one > 0, one, 1.0) for one in painted], titles, columns=1 + more, height=1.9)
plt.show()

# %% [markdown]
# *Above: a given picture, and two frames of a walk that the network is to draw. Below: three numbers of the body's
# surface, as colours. They are what a pose image is made of: red stays red, wherever the arm goes.*
#
# **A driver is anything that yields posed bodies**: motion capture (the paper's own clips come from AMASS), a curve
# through key poses as here, or a fit to another person's video. It drives *this* person's body: poses of one, shape of
# the other.
#
# **Where is 0?** Chapter 15 put the world's origin into the pelvis, and the network knows nothing else. But who walks,
# walks away. So the rays of every frame are told from that frame's pelvis: `ray_map` has an argument for it. Then a
# moving person before a camera at rest is, to the network, a person in place before a camera that moves.
#
# ### Exercise 16.1 — the driven body  ●●○ (12 min)
#
# Make the queries of T frames: the pose image's face ids and
# barycentrics of each frame's *own* pose, and rays about each frame's own pelvis. All T are targets of one sample.
#
# <details><summary>Hint 1</summary>
#
# Chapter 03's `rasterize(vertices, faces, camera, size)` takes (T, V, 3) with T cameras, or with one for all. `ray_map`
# wants as many cameras as origins: expand a single one with `camera[[0] * T]`.
# </details>
# <details><summary>Hint 2</summary>
#
# What comes back has T in front. A sample's targets are (1, T, …): `[None]`.
# </details>


# %% tags=["export"]
@exercise("16.1")
def driven(poses: Tensor, roots: Tensor, faces: Tensor, camera: Camera, size: tuple[int, int]) -> Batch:
    """The queries of T frames as the targets of one sample: target_rays (1, T, 6, H, W), about each frame's root;
    target_face (1, T, H, W) and target_barycentric (1, T, H, W, 3) of the body in each frame's pose.

    poses (T, V, 3): posed vertices in metres; roots (T, 3): where the pelvis is; a camera a frame, or one for all.
    """
    # BEGIN SOLUTION
    camera = camera if len(camera) == len(poses) else camera[[0] * len(poses)]
    seen = rasterize(poses, faces, camera, size, cull_backfaces=True)
    queries = {"rays": ray_map(camera, size, roots), "face": seen.face, "barycentric": seen.barycentric}
    return {f"target_{name}": values[None] for name, values in queries.items()}
    # END SOLUTION


# %%
check(driven)


# %% tags=["export"]
def require_poses(poses: Tensor, vertices: int, cameras: int) -> None:
    """ValueError, saying which, for poses that are no posed bodies, or not as many as cameras."""
    if poses.ndim != 3 or poses.shape[1:] != (vertices, 3) or len(poses) == 0:
        raise ValueError(f"poses are {tuple(poses.shape)}: give (T, {vertices}, 3), the skin in T frames, 1 or more")
    if not (finite := poses.isfinite().flatten(1).all(1)).all():
        raise ValueError(f"pose {int((~finite).int().argmax())} has numbers that are not finite: mend or leave it out")
    if cameras not in (1, len(poses)):
        raise ValueError(f"{cameras} cameras for {len(poses)} poses: give one, or one a pose")


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


# %% [markdown]
# Is it the same as what the data set computes? The walk above, by its vertices instead of its stored face ids, with a
# network of random weights. And the whole world shifted by three metres, person and cameras, changes nothing.

# %%
torch.manual_seed(0)
toy = HumanRAM(replace(humanram_reconstruction.CONFIGS["smoke"], size=SIZE), canonical, faces).eval()
frames_of = range(task.source + 1, task.goal + 1)
poses = torch.stack([walk.vertices(frame) for frame in frames_of])  # (T, V, 3)
with torch.no_grad():
    stored = toy(task.batch)[0]
drawn = animate(toy, task.batch, poses, task.camera)
step = torch.tensor([3.0, 0.0, -1.0])
away = Camera(task.camera.K, task.camera.R, task.camera.t - task.camera.R @ step)
shifted = animate(toy, task.batch, poses + step, away, step.expand(len(poses), 3))
for name, other in (("stored face ids", stored), ("three metres away", shifted)):
    print(f"{name}: mean difference {(drawn - other).abs().mean():.1e}")
    assert (drawn - other).abs().mean() < 1e-3

# %%
for name, wrong in (("a pose with NaN", poses * torch.nan), ("no poses", poses[:0]), ("no body", poses[:, :10])):
    try:
        animate(toy, task.batch, wrong, task.camera)
    except ValueError as error:
        print(f"{name}: {error}")
    else:
        raise AssertionError(f"{name} was accepted")

# %% [markdown]
# ## 2 The data
#
# **The question.** What has to be seen in training, for a network to move people it has never met?
#
# Two kinds (B: "a mixed scan and avatar dataset"):
#
# - **scans**, many people in few poses. "The sampling process is the same as above": chapter 15's views in between, and
#   of another pose where the scan has one;
# - **avatars**, fewer people in many poses: sequences, from which exercise 16.2 draws.
#
# Scans teach what people look like, avatars how that moves. What the avatars are, how many, and how the two are mixed
# isn't said. We render ours: people of the training split that pass through random poses, one every 0.8 s
# (`wandering`), and mix half and half. The clips that we test on, `walking` and `waving`, are of motions that no avatar
# shows.
#
# ### Exercise 16.2 — targets in a window  ●○○ (10 min)
#
# "For the avatar dataset, we sample 4 input images at time t and 4 target images randomly selected from [t − 50, t +
# 50]" (B). So the pose that is asked for is near in time. At 25 frames a second, 50 are two seconds. Of our sequences
# only every `every`-th frame is kept. Frames are numbered among those that are kept; the window is in frames of the
# motion.
#
# <details><summary>Hint</summary>
#
# `window // every` kept frames reach as far as the window does. Cut the interval off at 0 and at `frames - 1`, then
# draw whole numbers from what is left: `torch.randint(low, high + 1, ...)`. </details>


# %% tags=["export"]
@exercise("16.2")
def avatar_targets(
    generator: torch.Generator, frames: int, targets: int, window: int = 50, every: int = 1
) -> tuple[int, Tensor]:
    """Of a clip of which every `every`-th frame was kept, `frames` in number: the kept frame whose views are given,
    any of them, and those to be drawn (M,), at most `window` frames of the motion before or behind it. HumanRAM
    supplement B.

    Drawn alike and with repeats; the given frame itself is one of them. (The paper doesn't say; our choice.)"""
    # BEGIN SOLUTION
    frame, reach = int(torch.randint(frames, (), generator=generator)), window // every
    low, high = max(0, frame - reach), min(frames - 1, frame + reach)
    return frame, torch.randint(low, high + 1, (targets,), generator=generator)
    # END SOLUTION


# %%
check(avatar_targets)


# %% tags=["export"]
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


# %% tags=["export"]
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

# %%
config = CONFIGS[scale() if scale() in CONFIGS else "laptop"]
began = time.perf_counter()
found = measured.avatars(config)
print(f"{found.people} avatars, {config.frames} frames of each before {config.views} cameras: "
      f"{found.image.shape[0] * found.image.shape[1]} pictures, {time.perf_counter() - began:.0f} s")  # fmt: skip
some = torch.arange(min(found.ring.poses, 9))
plots.show_images(list(found.pictures(some, torch.zeros(len(some), 1).long())["image"][:, 0]), height=1.7)
plt.show()

# %% [markdown]
# *An avatar: one camera, frames half a second apart.* How often is which distance in time asked for?

# %%
generator = torch.Generator().manual_seed(0)
pairs = [avatar_targets(generator, config.frames, 1, config.window, config.every) for _ in range(2000)]
apart = torch.tensor([int(goals) - frame for frame, goals in pairs]) * config.every
numbers, times = apart.unique(return_counts=True)
_, ax = plt.subplots(figsize=(5.2, 2.4), layout="constrained")
ax.bar(numbers, times / len(apart), width=0.8 * config.every)
ax.set(xlabel="frames from the given one", ylabel="share of the targets")
plt.show()
assert apart.abs().max() <= config.window

# %% [markdown]
# (The middle is higher since the clip's ends cut the window.)
#
# **One view.** Supplement C shows results from a single picture; whether the network was trained for that isn't said.
# Chapter 15's mask of missing views makes it easy to learn both at once: a share of the samples is left with one view.
#
# ### Exercise 16.3 — a single view  ●○○ (6 min)
#
# With probability `single` one view is left, any of them; else all are seen.
#
# <details><summary>Hint</summary>
#
# One `torch.rand((), generator=generator)` decides for the whole sample. `torch.arange(views) == chosen` is True in one
# place.
# </details>


# %% tags=["export"]
@exercise("16.3")
def draw_seen(generator: torch.Generator, views: int, single: float) -> Tensor:
    """Which views of a sample are seen, (S,) bool: with probability `single` one of them, any; else all. Ours."""
    # BEGIN SOLUTION
    if torch.rand((), generator=generator) >= single:
        return torch.ones(views, dtype=torch.bool)
    return torch.arange(views) == torch.randint(views, (), generator=generator)
    # END SOLUTION


# %%
check(draw_seen)

# %% [markdown]
# ## 3 Continued training, and colours
#
# **The question.** A few people, and thousands of steps. Why should the network look at the pictures at all?
#
# Avatars are few: ZJU-MoCap, on which the paper animates, has nine people. Among nine, a network can tell who it is
# from the height alone, and paint the shirt from memory. On the tenth it paints somebody else's shirt. "When training
# on ZJUMoCap, we apply ColorJitter augmentation inspired by NNA to prevent overfitting" (B). A shirt that is blue in
# one step and green in the next can't be remembered; it can only be looked up.
#
# **One jitter for all views of a sample, targets too.** What is to be learned is *copy the colours that you see*:
#
# $$\bigl(\mathcal J_θ(I_1), …, \mathcal J_θ(I_S)\bigr) \mapsto \mathcal J_θ(I_t), \qquad θ \text{ drawn once}.
# \tag{16.2}$$
#
# With a θ for each view the given pictures contradict each other and the target contradicts them all; the best answer
# would be a mean colour, which is what we don't want. A detail that is easy to miss: `torchvision`'s ColorJitter
# stretches contrast about the *mean of each picture*. That mean is another one in each view, so the same θ is not the
# same map. We stretch about ½. And the background has to stay white, as it is in every test.
#
# Ranges aren't given. Ours: brightness, contrast and saturation by up to 20 %, the hue by up to 5 % of the circle.

# %% tags=["export"]
RANGES = (0.2, 0.2, 0.2, 0.05)  # brightness, contrast, saturation, hue (of a turn): our choice


def draw_amounts(generator: torch.Generator, count: int, strength: float = 1.0) -> Tensor:
    """(B, 4): by how much each sample's brightness, contrast, saturation and hue change, evenly in ± RANGES."""
    return strength * (2 * torch.rand(count, 4, generator=generator) - 1) * torch.tensor(RANGES)


def jitter_colours(pictures: Tensor, amounts: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] with other colours, by amounts (N, 4), in [0, 1] again. Contrast is stretched
    about 0.5, so that equal colours stay equal from picture to picture."""
    brightness, contrast, saturation, hue = amounts.T[..., None, None, None]  # (N, 1, 1, 1) each
    changed = pictures * (1 + brightness)
    changed = 0.5 + (changed - 0.5) * (1 + contrast)
    grey = (changed * changed.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    changed = (grey + (changed - grey) * (1 + saturation)).clamp(0, 1)
    return adjust_hue(changed, 2 * math.pi * hue.flatten()).clamp(0, 1)


# %% [markdown]
# ### Exercise 16.4 — one colour jitter for all views  ●●○ (12 min)
#
# A pixel on white is $\text{view} = α\, c + (1 - α)$. Change $c$.
#
# <details><summary>Hint 1</summary>
#
# $c = (\text{view} - (1 - α)) / α$; keep the divisor above 0 (`clamp(min=1 / 255)`) and the colour within [0, 1].
# </details>
# <details><summary>Hint 2</summary>
#
# `jitter_colours` wants (N, 3, H, W) with N = B · S, sample after sample: `flatten(0, 1)`, and the amounts repeated in
# place, S times each.
# </details>


# %% tags=["export"]
@exercise("16.4")
def jitter_views(views: Tensor, alpha: Tensor, amounts: Tensor) -> Tensor:
    """Views on white (B, S, 3, H, W), their alpha (B, S, 1, H, W), and amounts (B, 4) -> the same views with the
    person's colours changed, alike in all views of a sample; white stays white. HumanRAM supplement B; NNA."""
    # BEGIN SOLUTION
    own = ((views - (1 - alpha)) / alpha.clamp(min=1 / 255)).clamp(0, 1)  # without the white
    every = amounts.repeat_interleave(views.shape[1], 0)  # (B * S, 4)
    changed = jitter_colours(own.flatten(0, 1), every).view_as(own)
    return alpha * changed + 1 - alpha
    # END SOLUTION


# %%
check(jitter_views)


# %% tags=["export"]
def jittered(generator: torch.Generator, batch: Batch, strength: float) -> Batch:
    """A batch with one jitter for each sample, given views and targets alike; its `alpha` has done its duty then."""
    batch = dict(batch)
    alpha = batch.pop("alpha")
    if strength:
        amounts = draw_amounts(generator, len(alpha), strength)
        batch["image"] = jitter_views(batch["image"], alpha, amounts)
        batch["target_image"] = jitter_views(batch["target_image"], batch["target_alpha"], amounts)
    return batch


# %% [markdown]
# Look: the same views as they are, with one jitter, and with one each. (White clothes can't get whiter; look at the
# skin and at the checks.) And a number: by how much the person's mean colour was moved, and how far these moves are
# apart from view to view.

# %%
given = pick(smoke=2, laptop=4)
four = walk.pictures(torch.tensor([0]), torch.arange(given)[None])
amounts = torch.tensor(
    [[0.2, -0.1, 0.2, 0.05], [-0.2, 0.2, -0.2, -0.05], [0.1, 0.2, 0.0, 0.04], [-0.1, -0.2, 0.2, -0.03]]
)
rows = {"as they are": four["image"][0], "one for all": jitter_views(four["image"], four["alpha"], amounts[:1])[0]}
apart = jitter_views(four["image"].transpose(0, 1), four["alpha"].transpose(0, 1), amounts[:given])
rows["one for each"] = apart[:, 0]
titles = [name for name in rows for _ in range(given)]
plots.show_images([view for row in rows.values() for view in row], titles, columns=given, height=1.6)
plt.show()
on = (four["alpha"][0] > 0.99).float()
mean = {name: (row * on).sum((2, 3)) / on.sum((2, 3)) for name, row in rows.items()}  # (S, 3)
spread = {name: (mean[name] - mean["as they are"]).std(0).mean().item() for name in ("one for all", "one for each")}
print({name: round(value, 3) for name, value in spread.items()})
assert spread["one for each"] > 2 * spread["one for all"]

# %% [markdown]
# The recipe is chapter 15's with other numbers. "The finetuning adopts the same hyperparameters as above and lasts for
# 4k steps" (B): the ones above are the second stage's, 4e-5 and a batch of 48. Our small network goes on with 2e-4, a
# quarter of its own peak (our choice).


# %% tags=["export"]
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    return humanram_reconstruction.example(config.network, count) | {
        "seen": torch.ones(count, config.network.inputs, dtype=torch.bool)
    }


def recipe(config: Config, stream: Stream | None, weights: dict[str, Tensor] | None = None) -> Recipe:
    """The continued training of a `HumanRAM` with chapter 15's weights; without them it begins anew."""
    plain = humanram_reconstruction.recipe(config.network, stream, weights)
    return replace(plain, name=f"humanram-animation-{config.network.size}", example=partial(example, config))


def generate(config: Config) -> Callable:
    """For a launch: (generator, samples) -> a batch of the mixture, which lies in the data folder."""
    return resolved(f"{RUNS}:stream")(config).make


# %%
stream = measured.stream(config)
batch = next(stream.batches(0, 4))
for name, values in batch.items():
    print(f"{name:20s} {tuple(values.shape)}")
seen = torch.where(batch["seen"][..., None, None, None], batch["image"], 0.9)  # grey: not seen
shown = torch.cat([seen, batch["target_image"]], 1)
plots.show_images(list(shown.flatten(0, 1)), (["given"] * config.network.inputs + ["to draw"]) * 4,
                  columns=config.network.inputs + 1, height=1.6)  # fmt: skip
plt.show()

# %% [markdown]
# *Four samples: given views, and what is to be drawn. Grey: a view that isn't seen. The colours are the jitter's.*
#
# ## 4 The run
#
# **The switch**: `"train"` continues chapter 15's shipped network now, for some minutes on one core; the one that comes
# with the course went on for 1,000 steps with 300 scans and 60 avatars. If either isn't there yet, the cell says so:
# without chapter 15's network the training begins from random weights, and draws grey figures.

# %% tags=["export"]
SHIPPED = {"animation": Shipped("humanram_animation-animation", CONFIGS["shipped"], f"{RUNS}:animated")}

# %%
from course_lib import shipped
from course_lib.train import fit

choice = "train"
kept = SHIPPED["animation"].config
weights = measured.first_weights(config)
there = config.network.size == kept.network.size and shipped.available(SHIPPED["animation"].name)
models, run = {}, None
if weights is None:
    print(
        "chapter 15's network isn't shipped yet (`course ship 15.scans` makes it): training begins from random weights"
    )
else:
    models["chapter 15"] = begun(config.network, (canonical, faces), weights).eval()

# %%
if choice == "train" or not there:
    own = config if weights else replace(config, network=replace(config.network, lr=8e-4))
    run = fit(recipe(own, stream, weights))
    models["continued here"] = run.model.eval()
if there:
    models["shipped"] = begun(kept.network, (canonical, faces), None)
    shipped.load(models["shipped"], SHIPPED["animation"].name)
else:
    print("not shipped yet (`course ship 16.animation` makes it): what follows is of the network continued here")
best = list(models)[-1]
model = models[best]

# %%
if run is not None:
    decibels = [-10 * math.log10(row["squared"]) for row in run.history]
    plots.curve({"": plots.smooth(decibels, 20)}, ylabel="training PSNR, dB")
    plt.show()
    print(f"{len(decibels)} steps, {np.mean([row['seconds'] for row in run.history]):.2f} s each")
    assert np.isfinite(run.losses).all()

# %% [markdown]
# (Each step draws other people, views and poses, so the curve is rough.)
#
# ## 5 The measurement
#
# **The question.** Does it move people it has never seen as well as those it was trained on?
#
# Figure 1 (C) shows "seen subjects with unseen poses" and "unseen subjects" apart, and so do we. Both groups walk and
# wave, motions that no avatar showed. Given are the views of the first frame, four around the person or one; asked are
# the later frames, from cameras in between. The baselines are chapter 15's: the given picture whose camera is nearest
# (it doesn't move at all), and the posed body with the colours that the given views have of it (also grown by a pixel).

# %%
GIVEN = pick(smoke=(2, 1), laptop=(4, 1))
ANSWERS = {"nearest view copied": measured.copied, "projected": measuring.painted,
           "projected, grown by a pixel": partial(measuring.painted, grow=True)}  # fmt: skip
ANSWERS |= {name: measuring.drawn(own) for name, own in models.items()}
tasks = {(group, n): list(measured.clip_tasks(split, n, SIZE))
         for group, split in measured.GROUPS.items() for n in GIVEN}  # fmt: skip
results = {name: {key: measuring.measure(answer, every) for key, every in tasks.items()}
           for name, answer in ANSWERS.items()}  # fmt: skip
print(f"{'PSNR on the box, dB':28s}" + "".join(f"{f'{group.split()[0]}, {n} given':>17s}" for group, n in tasks))
for name, row in results.items():
    print(f"{name:28s}" + "".join(f"{one['psnr_box']:17.2f}" for one in row.values()))

# %% tags=["result"]
unseen = {name: row["unseen subjects", GIVEN[0]]["psnr_box"] for name, row in results.items()}
floor = max(unseen["nearest view copied"], unseen["projected"])
print(f"unseen subjects, {GIVEN[0]} views: {best} {unseen[best]:.2f} dB, the better of the two baselines {floor:.2f}")
for n in GIVEN:
    gap = results[best]["seen subjects", n]["psnr_box"] - results[best]["unseen subjects", n]["psnr_box"]
    print(f"{n} given: seen subjects are {gap:+.2f} dB from unseen ones")
if best == "shipped" and scale() != "smoke":
    assert unseen[best] > floor

# %% [markdown]
# Two things to keep in mind before one reads the difference of the groups as memory. There are four people in each, and
# people differ: a dark coat on white costs more than a pale dress, whoever is asked. So compare it with the same
# difference of a baseline, which remembers nobody: only what goes beyond that is the network's.

# %%
for name in ("projected", best):
    gaps = (
        results[name]["seen subjects", n]["psnr_box"] - results[name]["unseen subjects", n]["psnr_box"] for n in GIVEN
    )
    print(
        f"{name:18s} seen minus unseen: "
        + ", ".join(f"{n} given {gap:+.2f}" for n, gap in zip(GIVEN, gaps, strict=True))
    )

# %%
rows = []
for group in measured.GROUPS:
    for n in GIVEN:
        one = tasks[group, n][pick(smoke=0, laptop=1)]
        rows += [
            one.given.image[0],
            *(answer(one)[-1] for answer in (measured.copied, measuring.painted, measuring.drawn(model))),
        ]
        rows += [one.batch["target_image"][0, -1]]
plots.show_images(rows, ["given", "copied", "projected", best, "truth"], columns=5, height=1.8)
plt.show()

# %% [markdown]
# *Two rows of a seen subject, from four views and from one, then of an unseen one.*
#
# What the table says of our laptop's run (the network that comes with the course may say more): after chapter 15 the
# network can animate *already*, for a third of its samples had their target in another pose. Going on for 150 steps
# changes little where four views are given, and helps where one is: single views are what it had never been given.
# And the groups: people whom the network was trained on are the harder ones here, for the projection by more than a
# decibel, for the network by next to nothing. So knowing them is worth something to it. How much of that is memory,
# four people can't tell.
#
# The pictures say what the decibels don't: the colours are soft, a red shirt comes out brown, and a print on it is
# gone. This is a network of 3.9 million weights at 96 pixels, after hours on one core.
#
# ## 6 In the wild: a camera for one photograph
#
# **The question.** A scan comes with its body and its cameras. A photograph comes with nothing. Where did its camera
# stand?
#
# The supplement (A, *in the wild*) answers in three sentences. A regressor (theirs is PyMAF-X, ours chapter 14's) makes
# a body out of the picture, and an **orthographic camera** with it. "Since the estimation assumes an orthogonal camera,
# which differs from the perspective camera used in our setting, we project 3D SMPL-X joints onto the image plane using
# the orthogonal camera to get RGB aligned 2D joints. Then we apply Perspective-n-Point (PnP) to re-estimate the
# perspective camera pose". The foreground is cut out and centred, and all that is HumanRAM's input from one view.
# This section builds the camera, the next one the body, section 8 the foreground, section 9 the way from end to end.
#
# **Why not keep the orthographic camera?** Because HumanRAM sees with rays, and was trained on rays that *spread*. The
# rays of an orthographic camera are parallel, as from infinitely far.
#
# **From one to the other.** Let $(X, Y, Z)$ be a point of the body in the axes of the camera, the pelvis at 0, and the
# pelvis at $(T_x, T_y, T_z)$ before a pinhole with the focal length $f$. Measured from the principal point,
#
# $$x = f\,\frac{X + T_x}{Z + T_z} = \frac{f}{T_z}\,(X + T_x)\,\Bigl(1 - \frac{Z}{T_z} + \dots\Bigr), \qquad
# \text{so}\quad s = \frac{f}{T_z}, \quad T_z = \frac{f}{s}. \tag{16.11}$$
#
# The first factor is chapter 01's weak perspective $s\,(X + t_x)$, with $t_x = T_x$. So the orthographic camera already
# says how far away the person is, *if* somebody says $f$. What it leaves out is the bracket: an arm that reaches half a
# metre toward a camera three metres away should be a fifth larger, $1 / (1 - 0.5/3) = 1.2$.

# %%
f, X, Z, T_x, T_z, e = sympy.symbols("f X Z T_x T_z epsilon", positive=True)
pinhole = f * (X + T_x) / (e * Z + T_z)  # epsilon counts the powers of Z / T_z
first = sympy.series(pinhole, e, 0, 2).removeO()
assert sympy.simplify(first.subs(e, 1) - f / T_z * (X + T_x) * (1 - Z / T_z)) == 0
print("(16.11) holds to first order in Z / T_z")

# %% [markdown]
# **PnP fixes what is left.** We could stop at $T_z = f / s$ with no turn at all. But the weak-perspective camera is a
# compromise: it was fitted to a picture that a perspective camera took. PnP (chapter 01, section 9) looks for the
# rotation and translation whose *perspective* picture of the joints comes nearest to the orthographic one:
#
# $$\min_{R, T}\ \sum_j \bigl\| π\bigl(K (R\,X_j + T)\bigr) - \bigl(s\,(X_j + t)_{xy} + c\bigr) \bigr\|^2, \tag{16.12}$$
#
# where π divides by the depth and $c$ is $K$'s principal point. It may turn the body a little: a person at the edge of
# a wide picture is seen from the side, and only a turn says so.
#
# People of the test split that have no pictures, only joints, will do for trying it. $J = 22$ joints of the body; the
# other 33 of SMPL-X's are in hands and face and would outvote it (the paper doesn't say which it takes).

# %%
from course_lib.data import meshes

BODY_JOINTS = 22
COUNT = pick(smoke=4, laptop=48)
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # a world with y up and the person facing +z <-> camera axes
poses, betas = meshes.pool("test", pick(smoke=16, laptop=256))
generator = torch.Generator().manual_seed(6)
heading = 360 * torch.rand(COUNT, generator=generator)
turned = meshes.headed(poses[:COUNT], heading)
with torch.no_grad():
    joints = meshes.mesh_model()(betas=betas[:COUNT], pose=turned).joints[:, :BODY_JOINTS]
joints = (joints - joints[:, :1]) @ FLIP  # (B, 22, 3): x right, y down, z forward; the pelvis at 0

# %% [markdown]
# Each stands before a pinhole camera with a focal length of its own, 512 × 512 pixels, as large as in chapter 15's
# scans and a little off the middle. The regressor is played by the best weak-perspective camera that there is
# (`fit_weak_perspective`, chapter 01), fitted to joints that are off by 2 pixels in each coordinate: the noise.

# %%
from course_lib.chapters.cameras import fit_weak_perspective, intrinsics

SIDE, NOISE = 512, 2.0
focal = SIDE * (1.1 + 0.8 * torch.rand(COUNT, generator=generator))  # fields of view of 49 to 30 degrees
extent = (joints[..., :2].amax(1) - joints[..., :2].amin(1)).amax(1) + 0.25  # the skin reaches beyond the joints
truth = torch.stack([0.4 * torch.rand(COUNT, generator=generator) - 0.2, torch.zeros(COUNT), focal * extent / 420], 1)
K = intrinsics(focal, (SIDE, SIDE))
true_camera = Camera(K, torch.eye(3).expand(COUNT, 3, 3), truth)
spots = true_camera.project(joints)  # (B, 22, 2)
noisy = spots + NOISE * torch.randn(spots.shape, generator=generator)
orthographic = fit_weak_perspective(joints, noisy - K[:, None, :2, 2])
print(f"they stand {truth[:, 2].min():.1f} to {truth[:, 2].max():.1f} m away")

# %% [markdown]
# ### Exercise 16.5 — from orthographic to perspective  ●●○ (15 min)
#
# Two steps, as in the paper: the orthographic 2D joints, then PnP. `require_orthographic`, called in the first line,
# refuses what can't be a camera; what can't be solved, `solve_pnp` refuses.
#
# <details><summary>Hint 1</summary>
#
# `weak_perspective_project` measures from the principal point, `solve_pnp` wants pixels of the picture. The principal
# point of every person is `K[:, :2, 2]`, a (B, 2) that has to become (B, 1, 2).
# </details>
# <details><summary>Hint 2</summary>
#
# `solve_pnp(points, pixels, K)` takes one person at a time. `zip` walks over three tensors of B rows together, and
# `torch.stack` puts the B rotations, and the B translations, back into one tensor.
# </details>


# %% tags=["export"]
def require_orthographic(points: Tensor, scale: Tensor, translation: Tensor, K: Tensor) -> None:
    """ValueError for shapes that don't go together, for a scale that is not positive, and for what is not finite."""
    count = len(points)
    found = [tuple(part.shape) for part in (scale, translation, K)]
    if points.ndim != 3 or found != [(count,), (count, 2), (count, 3, 3)]:
        wanted = "points (B, N, 3), scale (B,), translation (B, 2) and K (B, 3, 3) with one B"
        raise ValueError(f"give {wanted}, not {[tuple(points.shape), *found]}")
    for name, part in (("points", points), ("scale", scale), ("translation", translation), ("K", K)):
        good = part.isfinite().flatten(1).all(1) if part.ndim > 1 else part.isfinite() & (part > 0)
        if not good.all():
            first = int((~good).int().argmax())
            rule = "must be more than 0 and finite" if part.ndim == 1 else "holds NaN or infinity: leave it out"
            raise ValueError(f"person {first}: {name} {rule}")


# %% tags=["export"]
@exercise("16.5")
def perspective_from_orthographic(points: Tensor, scale: Tensor, translation: Tensor, K: Tensor) -> Camera:
    """The perspective cameras that see people as orthographic ones do, equation (16.12). HumanRAM supplement A.

    points (B, N, 3), N >= 6, metres, in the orthographic camera's axes (x right, y down, z forward); scale (B,) pixels
    a metre and translation (B, 2) metres, as `weak_perspective_project` takes them, measured from the principal point
    of K (B, 3, 3) -> B cameras; R and t lead from the points' axes to the new camera's. ValueError for fewer than 6
    points, points in a plane, NaN, and a scale that is not positive.
    """
    require_orthographic(points, scale, translation, K)
    # BEGIN SOLUTION
    pixels = weak_perspective_project(points, scale, translation) + K[:, None, :2, 2]  # (B, N, 2)
    found = [solve_pnp(*person) for person in zip(points, pixels, K, strict=True)]
    R, t = (torch.stack(part) for part in zip(*found, strict=True))
    return Camera(K, R, t)
    # END SOLUTION


# %%
check(perspective_from_orthographic)

# %% [markdown]
# **Before and after.** Three pictures of the same joints, against where they truly are: the orthographic one, the
# pinhole at $T_z = f/s$ without PnP, and the camera that PnP finds.

# %%
camera = perspective_from_orthographic(joints, *orthographic, K)
s, shift = orthographic
straight = Camera(K, torch.eye(3).expand(COUNT, 3, 3), torch.cat([shift, (focal / s)[:, None]], 1))
pictures = {"orthographic": weak_perspective_project(joints, s, shift) + K[:, None, :2, 2]}
pictures |= {"pinhole at f/s": straight.project(joints), "after PnP": camera.project(joints)}
errors = {name: (found - spots).norm(dim=-1) for name, found in pictures.items()}
depths = {"orthographic": focal / s, "pinhole at f/s": focal / s, "after PnP": camera.t[:, 2]}
print("                median joint   farthest joint (mean)   depth, median error   largest")
for name, off in errors.items():
    wrong = (depths[name] / truth[:, 2] - 1).abs()
    print(f"{name:16s}{off.median():8.2f} px{off.amax(1).mean():17.2f} px{wrong.median():21.1%}{wrong.max():14.1%}")
wrong = (camera.t[:, 2] / truth[:, 2] - 1).abs()
assert errors["after PnP"].median() < errors["orthographic"].median() and wrong.median() < 0.05
assert scale() == "smoke" or errors["after PnP"].median() < 3

# %% [markdown]
# The same with the noise where it hurts most: not averaged by the fit of one scale, but on every 2D joint that PnP
# itself reads. This is the case that the course promises: at most 3 pixels in the median, and a depth that is right to
# 5 %.

# %%
solved = [solve_pnp(*person) for person in zip(joints, noisy, K, strict=True)]
direct = Camera(K, *(torch.stack(part) for part in zip(*solved, strict=True)))
seen_off, true_off = ((direct.project(joints) - goal).norm(dim=-1) for goal in (noisy, spots))
wrong = (direct.t[:, 2] / truth[:, 2] - 1).abs()
print(f"median reprojection {seen_off.median():.2f} px from the noisy joints, {true_off.median():.2f} px from the true")
print(f"depth error {wrong.median():.2%} in the median, {wrong.max():.1%} at worst")
assert seen_off.median() <= 3 and true_off.median() <= 3 and wrong.median() <= 0.05

# %%
who = int(errors["orthographic"].amax(1).argmax())
fig, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharex=True, sharey=True)
for ax, name in zip(axes, ("orthographic", "after PnP"), strict=True):
    ax.scatter(*spots[who].T, s=46, facecolors="none", edgecolors="0.3", label="true")
    ax.scatter(*pictures[name][who].T, s=12, color="#d1495b", label=name)
    for a, b in zip(spots[who], pictures[name][who], strict=True):
        ax.plot(*torch.stack([a, b]).T, color="#d1495b", lw=1)
    ax.set(aspect="equal", title=f"{name}: {errors[name][who].median():.1f} px in the median")
    ax.legend(fontsize=8, frameon=False)
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# *The person for whom perspective matters most. Orthographic joints miss where a limb reaches toward the camera or away
# from it; a pinhole can't but draw near things larger.*
#
# Read the table again: most of what is gained is gained by the pinhole at $f/s$ alone. PnP brings the median joint and
# the depth a little nearer, and the farthest joint not: it is fitted to orthographic joints, and where these are most
# wrong it is drawn after them. The paper doesn't measure this step.
#
# ### What the depth depends on
#
# $T_z = f / s$: whoever doubles $f$ doubles the distance. A photograph that doesn't say its focal length (a file's EXIF
# data often do) leaves a guess. What does a wrong guess cost?

# %%
factors = torch.tensor(pick(smoke=[0.7, 1.0, 1.5], laptop=[0.5, 0.7, 1.0, 1.5, 2.0]))
guesses, off = [], []
for factor in factors:
    guess = K.clone()
    guess[:, [0, 1], [0, 1]] *= factor
    found = perspective_from_orthographic(joints, *orthographic, guess)
    guesses.append((found.t[:, 2] / truth[:, 2]).median())
    off.append((found.project(joints) - spots).norm(dim=-1).median())
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
axes[0].plot(factors, guesses, "o-", color="#2e86ab")
axes[0].plot(factors, factors, ":", color="0.5")
axes[0].set(xlabel="guessed focal length / true", ylabel="found depth / true")
axes[1].plot(factors, off, "o-", color="#d1495b")
axes[1].set(xlabel="guessed focal length / true", ylabel="reprojection, px", ylim=(0, None))
plt.show()
assert all(abs(found / factor - 1) < 0.15 for found, factor in zip(guesses, factors, strict=True))

# %% [markdown]
# *Left: the depth follows the guess, nearly one to one (dotted). Right: a guess far too short costs some pixels,
# one that is too long costs none.* Orthographic joints are those of an infinitely long lens, so nothing in them speaks
# against a long one, and PnP can't find the focal length. The paper doesn't say what it takes. We take 40 degrees
# across, about the middle of chapter 15's scans (`guessed_camera`, chapter 10). With a wrong guess the person is at a
# wrong distance, by the same factor; as the new cameras stand at *that* distance, the picture's size still comes out
# right, only its perspective is too strong or too weak.
#
# ### What can't be solved

# %%
flat = joints[:1] * torch.tensor([1.0, 1.0, 0.0])
unknown = joints[:1].clone()
unknown[0, 3] = torch.nan
broken = {"five joints": joints[:1, :5], "a flat person": flat, "an unknown joint": unknown, "scale": joints[:1]}
for name, points in broken.items():
    size = -s[:1] if name == "scale" else s[:1]
    try:
        perspective_from_orthographic(points, size, shift[:1], K[:1])
    except ValueError as error:
        print(f"{name:18s}{error}")
    else:
        raise AssertionError(f"{name} went through")

# %% [markdown]
# ### The crop's camera
#
# One thing is missing before chapter 14's answer fits. Its network gives $(s, t_x, t_y)$ in units of *half a crop*, so
# that the crop reaches from −1 to 1, measured from the crop's middle. Our $K$ counts pixels, and the principal point of
# a crop is hardly ever its middle: it is where the photograph's was (chapter 01, *A crop is another camera*).
#
# $$\frac{h}{2}\,s\,(X + t_x) + \frac{h}{2} = s'\,(X + t'_x) + c_x \quad\Rightarrow\quad
# s' = \frac{h}{2}\,s, \qquad t'_x = t_x + \frac{h/2 - c_x}{s'}. \tag{16.13}$$
#
# ### Exercise 16.6 — the crop's camera  ●○○ (8 min)
#
# <details><summary>Hint</summary>
#
# The middle of a crop of `size` pixels is `size / 2` in both directions. `K[:, :2, 2]` is (B, 2), the new scale is
# (B,): one of them needs `[:, None]`.
# </details>


# %% tags=["export"]
@exercise("16.6")
def crop_orthographic(weak: Tensor, K: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Weak-perspective cameras (B, 3) = s, t_x, t_y over square crops from -1 to 1 -> scale (B,), pixels a metre, and
    translation (B, 2), metres, measured from the principal points of the crops' K (B, 3, 3). size: pixels of a crop's
    side. Equation (16.13)."""
    # BEGIN SOLUTION
    scale = size / 2 * weak[:, 0]  # (B,)
    return scale, weak[:, 1:] + (size / 2 - K[:, :2, 2]) / scale[:, None]
    # END SOLUTION


# %%
check(crop_orthographic)

# %% [markdown]
# ## 7 A body for one photograph
#
# **The question.** Chapter 14's network answers with vertices. HumanRAM wants to know how the body *stands*: to drive
# it, we need its pose and shape. Which pose and shape make these vertices?
#
# PyMAF-X regresses pose and shape directly. Ours has to be fitted:
#
# $$\min_{θ, β, T}\ \sum_v ρ\bigl(\| \text{body}(θ, β, T)_v - \mathbf y_v \|\bigr), \tag{16.14}$$
#
# 165 + 10 + 3 numbers to thousands of distances; ρ forgives a vertex that is far off. A general optimizer could
# be set to it. We know more about the problem than it does, and use that three times.
#
# **First: bones are rigid.** All skin that follows one bone has turned by one rotation, and for point sets that is
# chapter 01's Procrustes, with skinning weights as weights. 55 small SVDs give a start some two centimetres off.
# Some bones carry few vertices of our thinned-out mesh (a finger's has a handful, an eye's none), and a rotation that
# nothing determines may be anything. So each bone is pulled a little toward its parent's rotation:
#
# $$R_j = \operatorname{nearest\ rotation}\Bigl(\sum_v w_{vj}\,(\mathbf y_v - \bar{\mathbf y}_j)
# (\mathbf x_v - \bar{\mathbf x}_j)^\top + λ\,R_{p(j)}\Bigr). \tag{16.15}$$
#
# $\mathbf x$ are the vertices at rest, $w_{vj}$ the skinning weights, the bars the weighted means of a bone's skin.
# $R_j$ is the bone's rotation *in the world*.
#
# ### Exercise 16.7 — the rotations of the bones  ●●○ (15 min)
#
# <details><summary>Hint 1</summary>
#
# With `w = weights[:, j, None]`, (V, 1), the weighted mean is `(w * x).sum(1, keepdim=True) / w.sum()`; a bone without
# skin has `w.sum()` = 0, so give the denominator a smallest value.
# </details>
# <details><summary>Hint 2</summary>
#
# The sum over the vertices of outer products is one product, `(w * y).mT @ x`: (B, 3, V) times (B, V, 3). Parents
# stand before their children, so their rotation is there already; the root has none.
# </details>


# %% tags=["export"]
@exercise("16.7")
def bone_rotations(rest: Tensor, posed: Tensor, weights: Tensor, parents: Tensor, pull: float = 1e-3) -> Tensor:
    """The world rotations (B, J, 3, 3) of bones, from the skin at rest (B, V, 3), posed (B, V, 3), and its weights
    (V, J), equation (16.15). parents (J,): -1 for the root, others before their children. pull: λ, square metres."""
    found = []
    for joint, parent in enumerate(parents.tolist()):
        # BEGIN SOLUTION
        w = weights[:, joint, None]  # (V, 1)
        total = w.sum().clamp(min=1e-6)
        x, y = (points - (w * points).sum(1, keepdim=True) / total for points in (rest, posed))
        matrix = (w * y).mT @ x  # (B, 3, 3)
        found.append(nearest_rotation(matrix + pull * found[parent] if parent >= 0 else matrix))
        # END SOLUTION
    return torch.stack(found, 1)


# %%
check(bone_rotations)

# %% [markdown]
# The body model for this: chapter 02's, with the 1,723 vertices that chapter 14's mesh has. World rotations become
# SMPL-X's own, each in its parent's frame, by $R_{p(j)}^\top R_j$.


# %% tags=["export"]
def local_pose(rotations: Tensor, parents: Tensor) -> Tensor:
    """World rotations (B, J, 3, 3) -> the pose (B, J, 3), axis-angle, each joint in its parent's frame."""
    local = rotations[:, parents[1:]].mT @ rotations[:, 1:]
    return matrix_to_axis_angle(torch.cat([rotations[:, :1], local], 1))


# %%
from course_lib.chapters.mpt_pretraining import body_levels
from course_lib.data.pictured import LEVELS

levels, skin = body_levels(LEVELS), meshes.skin()
body = meshes.cut_down(skin.index.numpy()[levels.index[0]], levels.faces[0])
with torch.no_grad():
    held, turns = body(betas=betas[:COUNT], pose=turned).vertices, body.weights.shape
rotations = bone_rotations(body.template.expand_as(held), held, body.weights, body.parents)
pose = local_pose(rotations, body.parents)
off = matrix_to_axis_angle(axis_angle_to_matrix(pose[:, 1:22]).mT @ axis_angle_to_matrix(turned[:, 1:22])).norm(dim=-1)
print(f"{turns[0]} vertices, {turns[1]} joints; the body's are off by {off.rad2deg().median():.1f}° in the median")
assert off.rad2deg().median() < 10

# %% [markdown]
# **Second: for a fixed pose the body is affine in its shape.** Blend shapes are sums, joints are linear in the
# vertices, and skinning with fixed rotations is linear in both. So shape and place come from one linear system. Its
# columns are found by asking the body model for each of its shapes:

# %%
with torch.no_grad():
    K_SHAPES = body.counts[0]
    still = turned[:1]
    origin = body(pose=still).vertices
    columns = body(betas=torch.eye(K_SHAPES), pose=still.expand(K_SHAPES, -1, -1)).vertices - origin  # (K, V, 3)
    mixed = origin[0] + torch.einsum("k,kvc->vc", betas[0], columns)
    assert torch.allclose(mixed, body(betas=betas[:1], pose=still).vertices[0], atol=1e-4)
print("for a fixed pose, the body of any shape is the mean body plus a sum of columns")

# %% [markdown]
# **Third: how skin moves when a joint turns a little.** If joint $j$ turns by a small $\boldsymbol ω$ in the world,
# everything below it turns about the joint's place $\mathbf p_j$:
#
# $$\frac{∂\mathbf v}{∂\boldsymbol ω_j} = -d_{vj}\,[\mathbf v - \mathbf p_j]_×, \qquad
# d_{vj} = \sum_{k\ \text{is}\ j\ \text{or below it}} w_{vk}, \tag{16.16}$$
#
# since $\boldsymbol ω × \mathbf a = -\mathbf a × \boldsymbol ω = -[\mathbf a]_×\,\boldsymbol ω$. Robots are steered by
# this matrix. It costs no differentiation, and leaves two small things out: pose correctives, which change with the
# pose too, and that skinning mixes several bones' ideas of where a vertex is, of which we take the mixture for each.
#
# ### Exercise 16.8 — when a joint turns  ●●● (18 min)
#
# Of one person: `carried` says how much of each vertex hangs on each joint, the $d_{vj}$ above.
#
# <details><summary>Hint 1</summary>
#
# `posed[:, None] - joints` are the arms of the levers, (V, J, 3), and chapter 01's `skew` turns each into a 3 × 3.
# </details>
# <details><summary>Hint 2</summary>
#
# You have (V, J, 3, 3), whose last two dimensions are the vertex's x, y, z and the turn's. Wanted are rows (V, 3) and
# columns (J, 3): `permute(0, 2, 1, 3)` first, then `reshape`.
# </details>


# %% tags=["export"]
def carried_by(weights: Tensor, parents: Tensor) -> Tensor:
    """Skinning weights (V, J) -> how much of each vertex hangs on each joint (V, J): its weights and those below."""
    carried = weights.clone()
    for joint in range(len(parents) - 1, 0, -1):  # children before their parents
        carried[:, parents[joint]] += carried[:, joint]
    return carried


@exercise("16.8")
def turning_columns(posed: Tensor, joints: Tensor, carried: Tensor) -> Tensor:
    """How vertices (V, 3) move when joints (J, 3) turn, carried (V, J): the matrix (3V, 3J) of equation (16.16). Row
    3v + c is coordinate c of vertex v, column 3j + a the turn of joint j about the world's axis a, in radians."""
    # BEGIN SOLUTION
    arms = posed[:, None] - joints  # (V, J, 3)
    blocks = -carried[..., None, None] * skew(arms)  # (V, J, 3, 3): coordinate, axis
    return blocks.permute(0, 2, 1, 3).reshape(3 * len(posed), 3 * len(joints))
    # END SOLUTION


# %%
check(turning_columns)

# %% [markdown]
# Against differences, on a body whose pose correctives are switched off. Where the skin follows one bone alone, the
# column has to be right; where bones mix, nearly:

# %%
plain = meshes.cut_down(skin.index.numpy()[levels.index[0]], levels.faces[0])
plain.directions[..., -plain.counts[2] :] = 0
with torch.no_grad():
    v, p = (part[0] for part in plain(pose=still))
    matrix = turning_columns(v, p, carried_by(plain.weights, plain.parents))  # (3V, 3J)
    knee, small = 4, 1e-2
    world = torch.eye(3)  # the world rotation of the knee's parent, walked down from the root
    for joint in (0, 1):
        world = world @ axis_angle_to_matrix(still[0, joint])
    bent = still.clone()
    step = axis_angle_to_matrix(world.T @ torch.tensor([small, 0.0, 0.0]))  # about the world's x, in the parent's frame
    bent[0, knee] = matrix_to_axis_angle(step @ axis_angle_to_matrix(still[0, knee]))
    moved = ((plain(pose=bent).vertices[0] - v) / small).flatten()
off = (moved - matrix[:, 3 * knee]).view(-1, 3).norm(dim=1)
rigid = plain.weights.amax(1) > 0.999
print(f"{matrix.shape[0]} x {matrix.shape[1]}; in metres a radian the knee's column is off by at most")
print(f"{off[rigid].max():.4f} where the skin follows one bone, by {off.max():.3f} where bones mix")
assert off[rigid].max() < 5e-3 and off.max() < 0.05

# %% [markdown]
# **Put together.** The start from the bones, then a few Gauss-Newton steps (chapter 01): all columns side by side, one
# linear system for turns, shape and place together. Robust it becomes by weights: a vertex that is $r$ away counts
# $1 / (1 + r^2 / a^2)$, so with the reach $a$ = 5 cm one that is 30 cm off hardly counts at all. (A choice of ours, as
# the paper has PyMAF-X.) A small ridge keeps turns that no vertex notices at 0, and shapes near the mean.


# %% tags=["export"]
def shape_columns(body: BodyModel, pose: Tensor) -> Tensor:
    """How the vertices move with each shape coefficient in a fixed pose (J, 3): (3V, K). Exact, at any shape."""
    count = body.counts[0]
    ones = torch.cat([pose.new_zeros(1, count), torch.eye(count)])
    vertices = body(betas=ones, pose=pose.expand(count + 1, -1, -1)).vertices  # (1 + K, V, 3)
    return (vertices[1:] - vertices[:1]).flatten(1).T


def turn_joints(pose: Tensor, turns: Tensor, parents: Tensor) -> Tensor:
    """A pose (J, 3) after each joint has turned by `turns` (J, 3), radians about the world's axes -> (J, 3)."""
    local = axis_angle_to_matrix(pose)
    _, transforms = forward_kinematics(local[None], pose.new_zeros(1, len(pose), 3), parents)
    above = torch.cat([torch.eye(3)[None], transforms[0, parents[1:], :3, :3]])  # the parents' rotations in the world
    inside = (above.mT @ turns[..., None])[..., 0]
    return matrix_to_axis_angle(axis_angle_to_matrix(inside) @ local)


# %% tags=["export"]
RIDGE = 1e-3  # square metres


def fit_step(target: Tensor, body: BodyModel, carried: Tensor, found: list[Tensor], reach: float) -> list[Tensor]:
    """One robust Gauss-Newton step of `fit_body` for one person: target (V, 3); found: pose (J, 3), betas (K,),
    translation (3,) -> the same, better."""
    pose, betas, translation = found
    posed, joints = (part[0] for part in body(betas[None], pose[None], translation=translation[None]))
    joint_columns, shapes = turning_columns(posed, joints, carried), shape_columns(body, pose)
    columns = torch.cat([joint_columns, shapes, torch.eye(3).repeat(len(posed), 1)], 1)  # (3V, 3J + K + 3)
    missing = target - posed
    weight = 1 / (1 + missing.square().sum(1) / reach**2)  # (V,)
    weighted = columns.mT * weight.repeat_interleave(3)
    ridge = torch.full((columns.shape[1],), RIDGE)
    pulled = torch.cat([0 * pose.flatten(), betas, 0 * translation])  # the ridge draws shapes to the mean
    change = torch.linalg.solve(weighted @ columns + ridge.diag(), weighted @ missing.flatten() - ridge * pulled)
    turns, shape, place = change.split([pose.numel(), len(betas), 3])
    turns = turns.view(-1, 3).clamp(-0.5, 0.5)  # radians: (16.16) holds for small ones
    return [turn_joints(pose, turns, body.parents), betas + shape, translation + place]


# %% tags=["export"]
def require_mesh(vertices: Tensor, body: BodyModel) -> None:
    """ValueError for vertices that are not the body's, or not finite."""
    if vertices.ndim != 3 or vertices.shape[1:] != body.template.shape:
        shape = tuple(body.template.shape)
        raise ValueError(f"vertices are {tuple(vertices.shape)}, this body has (B, {shape[0]}, 3): take its own mesh")
    if not vertices.isfinite().all():
        raise ValueError("vertices hold NaN or infinity: leave such a person out")


@torch.no_grad()
def fit_body(vertices: Tensor, body: BodyModel, steps: int = 6, reach: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """The pose (B, 55, 3), shape (B, K) and translation (B, 3) whose body comes nearest to vertices (B, V, 3), metres,
    numbered as the body model's, equation (16.14): bones first, then `steps` Gauss-Newton steps in which a vertex that
    is `reach` metres off counts half. ValueError for other vertices than the body's, and for NaN."""
    require_mesh(vertices, body)
    rest = body.template.expand_as(vertices)
    poses = local_pose(bone_rotations(rest, vertices, body.weights, body.parents), body.parents)
    carried, found = carried_by(body.weights, body.parents), []
    for target, pose in zip(vertices, poses, strict=True):
        place = (target - body(pose=pose[None]).vertices[0]).mean(0)
        person = [pose, pose.new_zeros(body.counts[0]), place]
        for _ in range(steps):
            person = fit_step(target, body, carried, person, reach)
        found.append(person)
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


# %% [markdown]
# On true meshes of held-out people and poses, step by step:

# %%
few = held[: pick(smoke=2, laptop=24)]


def distance(found, goal):
    """The mean distance of a fit's vertices from others (B, V, 3), of each person, millimetres."""
    pose, shape, place = found
    with torch.no_grad():
        return 1000 * (body(shape, pose, translation=place).vertices - goal).norm(dim=-1).mean(1)


fits, seconds = {}, {}
for steps in pick(smoke=(0, 2), laptop=(0, 1, 2, 4, 6)):
    start = time.perf_counter()
    fits[steps] = fit_body(few, body, steps)
    seconds[steps] = (time.perf_counter() - start) / len(few)
    off = distance(fits[steps], few)
    print(f"{steps:2d} steps {off.mean():6.2f} mm, worst person {off.max():6.2f} mm, {seconds[steps]:.2f} s a person")
assert distance(fits[max(fits)], few).mean() < 5
angles = axis_angle_to_matrix(fits[max(fits)][0][:, :22]).mT @ axis_angle_to_matrix(turned[: len(few), :22])
print(f"the body's 22 rotations: {matrix_to_axis_angle(angles).norm(dim=-1).rad2deg().median():.2f}° off in the median")

# %% [markdown]
# And is it robust? A tenth of the vertices, all in one place, as when a network confuses an arm: moved by 30 cm. The
# distance is measured on the others. A reach of 100 m makes every vertex count the same.

# %%
some = few[: pick(smoke=1, laptop=2)]
spoilt, bad = some.clone(), torch.zeros(few.shape[1], dtype=torch.bool)
bad[(body.template - body.template[body.template[:, 0].argmax()]).norm(dim=1).argsort()[: len(bad) // 10]] = True
spoilt[:, bad] += torch.tensor([0.0, 0.3, 0.0])
off = {}
for reach in (100.0, 0.05):
    pose, shape, place = fit_body(spoilt, body, pick(smoke=3, laptop=6), reach)
    with torch.no_grad():
        found = body(shape, pose, translation=place).vertices
    off[reach] = 1000 * (found - some).norm(dim=-1)[:, ~bad].mean()
    print(f"reach {reach:6.2f} m: the others are {off[reach]:.1f} mm off")

# %% [markdown]
# **On predicted meshes.** Now what chapter 14's network says about pictures of held-out people in the studio. Its
# vertices are no body's: nothing in it forces an arm to keep its length. The fitted body is one. Does that cost
# accuracy?

# %%
from course_lib import shipped
from course_lib.chapters import mpt_finetuning
from course_lib.chapters.cameras import procrustes
from course_lib.data.pictured import crops, pictured

kept = mpt_finetuning.SHIPPED["finetuned"]
regressor = mpt_finetuning.mesh_regressor(kept.config).eval()
if shipped.available(kept.name):
    shipped.load(regressor, kept.name)
else:
    print("no regressor is shipped (`course ship 14.finetuned`): what follows is of random weights")
seen = pictured((("studio", pick(smoke=8, laptop=500)),), pick(smoke=48, laptop=128), split="test")
batch = crops(seen, torch.arange(min(len(seen), pick(smoke=1, laptop=24))), kept.config.pose.size)
with torch.no_grad():
    predicted = regressor(batch["image"])["vertices"][0]  # the finest mesh

# %%
upright = predicted @ FLIP  # into a world with y up
fitted = fit_body(upright, body, pick(smoke=3, laptop=6))
with torch.no_grad():
    answer = body(fitted[1], fitted[0], translation=fitted[2]).vertices @ FLIP


def aligned_error(found, true):
    """Mean distance of vertices (B, V, 3) after Procrustes with scale, of each person, millimetres."""
    scale, R, t = procrustes(found, true)
    return 1000 * (scale[:, None, None] * found @ R.mT + t[:, None] - true).norm(dim=-1).mean(1)


away = distance(fitted, upright)
before, after = (aligned_error(mesh, batch["vertices"]) for mesh in (predicted, answer))
print(f"the fitted body is {away.mean():.1f} mm from the network's mesh ({away.max():.0f} mm at worst)")
print(f"from the truth, aligned: the network's mesh {before.mean():.1f} mm, the fitted body {after.mean():.1f} mm")

# %% [markdown]
# What the last line says, in both numbers, is the regressor's error; the fit adds or takes away little beside it.
# Whatever is wrong with the pose from here on was wrong in the vertices.
#
# ## 8 The person on white
#
# **The question.** HumanRAM knows people on white, in the middle of the picture. A photograph has a background.
#
# The paper cuts with RMBG-2.0. The course's own foreground model is chapter 10's, a soft alpha; **it does not come with
# the course**: no trained weights of it are shipped. What is there is chapter 08's part segmentation, and everything
# that is no background is a person:
#
# $$α = 1 - p(\text{background}). \tag{16.17}$$
#
# It was trained on hard labels of 128 × 128 pixels, so its edge is coarse and a strand of hair is all or nothing. The
# function below takes the model as an argument, so that chapter 10's goes in wherever somebody has trained it.


# %% tags=["export"]
@torch.no_grad()
def foreground(images: Tensor, model: Callable[[Tensor], Tensor | dict[str, Tensor]]) -> Tensor:
    """How much of each pixel is people, (B, H, W) in [0, 1]. images (B, 3, H, W) in [0, 1]; model: chapter 10's `David`
    (its logits "alpha"), or scores (B, C, H, W) of parts, of which class 0 is the background, equation (16.17)."""
    answer = model(images)
    if isinstance(answer, dict):
        if "alpha" not in answer:
            raise ValueError(f"the model answers with {', '.join(answer)}: give one that has alpha among its tasks")
        return answer["alpha"][:, 0].sigmoid()
    return 1 - answer.softmax(1)[:, 0]


# %%
from course_lib.chapters import david_models, sapiens_dense


def foreground_model():
    """Chapter 10's model where it is shipped, else chapter 08's parts; and which it is."""
    own, parts = david_models.SHIPPED["multitask"], sapiens_dense.SHIPPED["seg"]
    if shipped.available(own.name):
        model = david_models.build(own.config)
        shipped.load(model, own.name)
        return model.eval(), "chapter 10's alpha"
    model = sapiens_dense.build(parts.config).eval()
    if shipped.available(parts.name):
        shipped.load(model, parts.name)
    return (lambda images: sapiens_dense.without_weights(parts.config, model(images))), "chapter 08's parts"


cutter, which = foreground_model()
print(f"the foreground comes from {which}")

# %% [markdown]
# **Centred, on white.** The square around the person that leaves as much room as the scans do (82 % of its side is
# body), the picture over white by alpha, and the camera of that square: its rays change with the crop.
#
# ### Exercise 16.9 — centred, on white  ●●○ (15 min)
#
# The box of all pixels that are more than half a person is given. `crop_people` (chapter 07) cuts a picture and says by
# which map (1, 2, 3) the crop's pixels lie in it; `Camera.cropped` (chapter 01) wants left, top, width, height.
#
# <details><summary>Hint 1</summary>
#
# Lay the picture on white *after* the crop: outside of the photograph alpha is 0, so it becomes white as well. Alpha
# can be cropped together with the colours if it is their fourth channel.
# </details>
# <details><summary>Hint 2</summary>
#
# The map's last column `matrix[:, :, 2]` is the crop's corner in the picture, and `matrix[:, 0, 0]` how many of the
# picture's pixels make one of the crop's. The crop is a square of `size` of these.
# </details>


# %% tags=["export"]
def person_box(alpha: Tensor) -> Tensor:
    """The box (1, 4), left, top, right, bottom, of the pixels of alpha (H, W) above ½. ValueError where none is."""
    rows, columns = (alpha > 0.5).nonzero(as_tuple=True)
    if len(rows) == 0:
        raise ValueError("nobody is in this picture: no pixel's alpha is above 1/2")
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])[None].float()


@exercise("16.9")
def centred_on_white(
    image: Tensor, alpha: Tensor, camera: Camera, size: int, fill: float = 0.82
) -> tuple[Tensor, Camera]:
    """The person in the middle of a white square: image (3, H, W) in [0, 1], alpha (H, W), the picture's camera (one)
    -> (3, size, size), in which the person's longer side takes `fill`, and its camera. ValueError where nobody is."""
    box = person_box(alpha)
    # BEGIN SOLUTION
    crop, matrix = crop_people(torch.cat([image, alpha[None]])[None], box, (size, size), 1 / fill)  # (1, 4, size, size)
    side = size * matrix[:, 0, 0]
    square = torch.cat([matrix[:, :, 2], side[:, None], side[:, None]], 1)  # left, top, width, height
    share = crop[0, 3:]
    return crop[0, :3] * share + 1 - share, camera.cropped(square, (size, size))
    # END SOLUTION


# %%
check(centred_on_white)

# %% [markdown]
# ## 9 From end to end
#
# First a "photograph" of which we know everything: a rendered one, a person of the test split in a studio. Then each
# step can be held against the truth. The network is section 4's.


# %% tags=["export"]
def body_views(vertices: Tensor, faces: Tensor, camera: Camera, size: int) -> Batch:
    """A body (V, 3), its pelvis at 0, before S cameras, as HumanRAM takes the given views of one person: rays
    (1, S, 6, H, W), face (1, S, H, W) and barycentric (1, S, H, W, 3)."""
    count = len(camera)
    views = driven(vertices.expand(count, -1, -1), vertices.new_zeros(count, 3), faces, camera, (size, size))
    return {name.removeprefix("target_"): values for name, values in views.items()}


def around(camera: Camera, degrees: Tensor) -> Camera:
    """One camera, carried around the world's vertical through 0 by M angles: M cameras that look as it does."""
    turns = degrees.new_zeros(len(degrees), 3)
    turns[:, 1] = -degrees.deg2rad()
    count = len(degrees)
    return Camera(camera.K.expand(count, 3, 3), camera.R @ axis_angle_to_matrix(turns), camera.t.expand(count, 3))


# %% [markdown]
# The steps, one after another, in one function that keeps what each has found. The world is the body's again: y up, the
# pelvis at 0. What is up in a photograph isn't known; we assume that the camera was held level.


# %%
def from_photograph(crop, K):
    """Everything from a square crop (3, h, h) of one person and the K (3, 3) of its camera."""
    with torch.no_grad():
        said = regressor(crop[None])
    pose, shape, place = fit_body(said["vertices"][0] @ FLIP, body)
    whole = meshes.mesh_model()(shape, pose, translation=place)
    joints = whole.joints[:, :BODY_JOINTS] @ FLIP  # in the orthographic camera's axes
    flat = crop_orthographic(said["camera"], K[None], crop.shape[-1])
    found = perspective_from_orthographic(joints, *flat, K[None])
    pelvis = whole.joints[:, 0]
    eye = Camera(K[None], found.R @ FLIP, found.t + (found.R @ FLIP @ pelvis[..., None])[..., 0])
    alpha = foreground(crop[None], cutter)[0]
    alpha = alpha * torch.from_numpy(david_models.largest_piece((alpha > 0.5).numpy())).float()
    image, camera = centred_on_white(crop, alpha, eye, SIZE)
    vertices = (whole.vertices[0] - pelvis)[: len(model.points)]
    return {"joints": whole.joints - pelvis, "vertices": vertices, "eye": eye, "alpha": alpha, "image": image,
            "camera": camera, "flat": weak_perspective_project(joints, *flat) + K[:2, 2]}  # fmt: skip


def drawn_around(found, degrees):
    """What HumanRAM draws from that one picture, `degrees` further around the person: (M, 3, H, W)."""
    given = body_views(found["vertices"], faces, found["camera"], SIZE) | {"image": found["image"][None, None]}
    return animate(model, given, found["vertices"].expand(len(degrees), -1, -1), around(found["camera"], degrees))


# %% [markdown]
# The photograph, its crop, and the truth about it:

# %%
from course_lib.data.pictured import is_whole, size_of
from course_lib.data.sets import rendered
from course_lib.data.shards import Samples

CROP = kept.config.pose.size
folder = rendered("studio", pick(smoke=8, laptop=500), pick(smoke=48, laptop=128), "test")
samples = Samples(folder)
sample = next(s for s in samples if len(s.people) == 1 and is_whole(s.people[0], size_of(s)))
label, box = sample.people[0], torch.from_numpy(sample.people[0].full_box)[None]
crop, matrix = crop_people(torch.from_numpy(sample.image)[None], box, (CROP, CROP), 1.2)
given = {name: torch.from_numpy(getattr(sample, name))[None] for name in ("K", "R", "t")}
square = torch.cat([matrix[:, :, 2], CROP * matrix[:, 0, :1].expand(1, 2)], 1)
true_eye = Camera(**given).cropped(square, (CROP, CROP))
true_body = meshes.mesh_model()(*(torch.from_numpy(getattr(label, name))[None] for name in ("shape", "pose")),
                                translation=torch.from_numpy(label.translation)[None])  # fmt: skip
true_joints = true_body.joints[:, :BODY_JOINTS]
true_spots, true_depth = true_eye.project(true_joints), true_eye.to_camera(true_joints)[0, 0, 2]

# %%
found = from_photograph(crop[0], true_eye.K[0])
flat_spots = found["flat"]
spots = found["eye"].project(found["joints"][:, :22])
covered = torch.from_numpy(sample.alpha)[None, None]
true_alpha = crop_people(covered.expand(1, 3, -1, -1), box, (CROP, CROP), 1.2)[0][0, 0] > 0.5
ours = found["alpha"] > 0.5
iou = (true_alpha & ours).sum() / (true_alpha | ours).sum()
print(
    f"joints in the crop of {CROP} px, from the true ones: {(flat_spots - true_spots).norm(dim=-1).median():.1f} px "
    f"orthographic, {(spots - true_spots).norm(dim=-1).median():.1f} px after PnP"
)
print(f"depth {found['eye'].t[0, 2]:.2f} m, true {true_depth:.2f} m; foreground: IoU {iou:.2f}")


# %%
def with_joints(ax, picture, points, title):
    """A picture with joints over it."""
    ax.imshow(plots.to_picture(picture))
    plots.draw_keypoints(ax, points)
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def steps_figure(crop, found, spots):
    """What each step has found: joints, body, foreground, HumanRAM's input."""
    seen = rasterize(found["vertices"][None], faces, found["eye"], CROP, cull_backfaces=True).face[0] >= 0
    over = crop * (1 - 0.6 * seen) + 0.6 * seen * torch.tensor([0.85, 0.3, 0.3]).view(3, 1, 1)
    _, axes = plt.subplots(1, 5, figsize=(12, 2.7), layout="constrained")
    with_joints(axes[0], crop, spots[0], "joints, after PnP")
    rest = {"the fitted body": over, "foreground": found["alpha"], "HumanRAM's input": found["image"]}
    mesh = body_views(found["vertices"], faces, found["camera"], SIZE)["face"][0, 0] >= 0
    rest["its body"] = mesh.float()
    for ax, (title, picture) in zip(axes[1:], rest.items(), strict=True):
        ax.imshow(plots.to_picture(picture), cmap="gray")
        ax.set_title(title, fontsize=10)
        ax.axis("off")


steps_figure(crop[0], found, spots)
plt.show()

# %%
DEGREES = torch.tensor([0.0, 30.0, 90.0, 180.0, 270.0])
plots.show_images([found["image"], *drawn_around(found, DEGREES)],
                  ["given", *(f"drawn, {degree:.0f}°" for degree in DEGREES)], height=1.9)  # fmt: skip
plt.show()

# %% [markdown]
# *The steps, and what comes out at the end.* Errors add up along the way: of the regressor's pose, of the fit, of the
# camera, of the foreground's edge. The last one alone can be repaired by a better picture; a wrong pose can't, since
# the network believes its pose image. What the photograph doesn't show can only be guessed.
#
# ### A real photograph
#
# Eileen Collins once more (`skimage.data.astronaut()`, NASA, public domain), with a box typed by hand and a guessed
# camera of 40 degrees.

# %%
from skimage.data import astronaut


def real_photograph(photo, box):
    """The same steps for a photograph (3, H, W), 8 bits, and a box (4,): left, top, right, bottom in pixels."""
    crop, matrix = crop_people(photo[None], torch.tensor([box]), (CROP, CROP), 1.1)
    guess = david_models.guessed_camera(photo.shape[-2:])[None]
    square = torch.cat([matrix[:, :, 2], CROP * matrix[:, 0, :1].expand(1, 2)], 1)
    still = Camera(guess, torch.eye(3)[None], torch.zeros(1, 3)).cropped(square, (CROP, CROP))
    return crop[0], from_photograph(crop[0], still.K[0])


photo = torch.from_numpy(astronaut()).permute(2, 0, 1)
try:
    crop_real, found_real = real_photograph(photo, [30.0, 0.0, 480.0, 512.0])
    steps_figure(crop_real, found_real, found_real["eye"].project(found_real["joints"][:, :22]))
    plt.show()
    plots.show_images([found_real["image"], *drawn_around(found_real, DEGREES)],
                      ["given", *(f"drawn, {degree:.0f}°" for degree in DEGREES)], height=1.9)  # fmt: skip
    plt.show()
except ValueError as error:
    print(f"the way ends here: {error}")

# %% [markdown]
# **What to expect of it: little.** Every link was trained on rendered people in full figure, and she is cut off at the
# waist. Chapter 14 has shown what its network makes of her: a whole, small person somewhere before her chest. From
# there on all is consistent and wrong. The paper's own in-the-wild pictures come from a regressor for real people, a
# foreground model for real pictures, and a network of 100 million weights; and even so the supplement (C) reports good
# novel views "for standing humans", and artifacts in animation where clothes are unlike those it learned from. A person
# in full figure, standing, before a plain wall, in plain daylight, is what has a chance here.
#
# **Your own**: `photo = torch.from_numpy(plt.imread("me.jpg").copy()).permute(2, 0, 1)` and a box around the whole
# person go through `real_photograph`.

# %% [markdown]
# ## 10 A clip
#
# **The question.** Single frames may look right, and the clip still crawl. Does it hold together?
#
# Nothing ties one frame to the next: each is a question of its own. So what is smooth here is smooth because the answer
# depends smoothly on the question. Here somebody nobody trained on walks and waves, from four pictures of the first
# frame and from one, with the true frames beside it.

# %%
CLIP = pick(smoke=dict(poses=3, views=4, every=2), laptop=dict(poses=20, views=8, every=2))
began = time.perf_counter()
moving = {}
for motion in clips:
    own = measured.scans("test", 1, SIZE, CLIP["poses"], CLIP["views"], motion, every=CLIP["every"])
    asked = torch.full((CLIP["poses"] - 1,), 1)
    parts = []
    for n in GIVEN:
        one = measured.clip_task(own, 0, n, asked)
        vertices = torch.stack([own.vertices(frame) for frame in range(one.source + 1, one.goal + 1)])
        parts.append(animate(model, one.batch, vertices, one.camera))
    moving[motion] = torch.cat([*parts, one.batch["target_image"][0]], -1)  # side by side (T, 3, H, 3 W)
print(f"{time.perf_counter() - began:.0f} s, rendering of the truth included")

# %%
from IPython.display import HTML, display

for motion, frames in moving.items():
    data = plots.webp(frames, 25 / CLIP["every"], zoom=2)
    assert len(data) < 150_000
    print(f"{motion}: from {GIVEN[0]} pictures, from one, and the truth; {len(data) / 1000:.0f} kB")
    display(HTML(plots.embedded(data, f"{motion}: from {GIVEN[0]} pictures, from one, the truth")))

# %%
stills = [
    frames[i]
    for frames in moving.values()
    for i in np.linspace(0, len(frames) - 1, pick(smoke=2, laptop=4)).astype(int)
]
plots.show_images(stills, ["four | one | truth"] * len(stills), columns=2, height=1.9)
plt.show()

# %% [markdown]
# *Stills of the same: in each, from four pictures, from one, and the truth.* How unsteady is it? The mean change from
# frame to frame on the person's box, beside the true one. A network whose figures are too soft changes *less* than the
# truth; flicker would make it more.
#
# And flicker there is none: the figure walks, and its colours stay where they are. A skirt is drawn as the legs under
# it, since that is what the pose image shows.

# %%
for motion, frames in moving.items():
    change = frames.diff(dim=0).abs().unflatten(-1, (3, SIZE)).mean((0, 1, 2, 4))
    print(f"{motion:8s} four {change[0]:.4f}, one {change[1]:.4f}, truth {change[2]:.4f} a frame")
    assert change.isfinite().all()

# %% [markdown]
# ## 11 One picture, and where it fails
#
# **The question.** What can't be known from a single picture, or from a body?
#
# C is frank about it: from one picture "our method can achieve high-quality novel view synthesis for standing humans.
# However, the animation occurs artifacts when the input human wears an out-of-distribution cloth". We make three cases
# on purpose.
#
# ### The hidden side
#
# One view is given, and the asked one turns away from it. All that the network has of the back is what people's backs
# are like when their fronts are like this.

# %%
still = measured.scans("test", pick(smoke=1, laptop=12), SIZE, 2, pick(smoke=4, laptop=12))
VIEWS = still.ring.views
angles, errors = range(0, VIEWS // 2 + 1), {}
some = range(0, len(still), 2)
for answer_name, answer in {"projected": ANSWERS["projected"], best: ANSWERS[best]}.items():
    errors[answer_name] = []
    for angle in angles:
        turned = [measured.turned_task(still, scan, angle) for scan in some]
        errors[answer_name].append(measuring.box_psnr(answer, turned))
degrees = [360 * angle / VIEWS for angle in angles]
plots.curve(errors, x=degrees, xlabel="degrees from the given view", ylabel="PSNR on the box, dB", xticks=degrees)
plt.show()

# %%
turned = [measured.turned_task(still, 0, angle) for angle in angles]
shown = [one.given.image[0] for one in turned[:1]] + [measuring.drawn(model)(one)[0] for one in turned]
truth = [torch.ones_like(shown[0])] + [one.batch["target_image"][0, 0] for one in turned]
plots.show_images(shown + truth, ["given", *(f"{angle:.0f}°" for angle in degrees)], columns=len(shown), height=1.6)
plt.show()

# %% [markdown]
# *Above: drawn from the one given picture. Below: the truth.*
#
# The error grows with the angle, without a jump: what the given picture shows is copied, what it hides is guessed,
# and between the two lies the side, half seen. The guess is a person's colours, carried around; where front and back
# differ, it is wrong.
#
# ### Loose clothing
#
# A body model has no skirt. The pose image of somebody in a skirt shows two bare legs, and where cloth is far from them
# there is nothing to find it by. We sort the test people by what they wear; skirts, open jackets and wide trousers are
# loose, and ask for another pose from four views.


# %%
def loose(person):
    """Whether somebody wears a skirt or a jacket, or trousers as wide as they come."""
    return any(g.kind in ("skirt", "jacket") or (g.kind == "trousers" and g.fit > 0.85) for g in person.outfit.garments)


dressed = {n: loose(still.person(2 * n)[1]) for n in range(still.people)}
scores = measured.by_person(ANSWERS[best], measuring.tasks(still, GIVEN[0], unseen=True))
by_cloth = {True: [], False: []}
for one, psnr in scores:
    by_cloth[dressed[one.source // 2]].append((psnr.mean().item(), one))
for is_loose, name in ((True, "loose clothing"), (False, "others")):
    if own := by_cloth[is_loose]:
        print(f"{name:15s}{len(own):3d} tasks {np.mean([psnr for psnr, _ in own]):6.2f} dB")

# %%
wearing = [
    one for _, one in sorted(by_cloth[True] or by_cloth[False], key=lambda pair: pair[0])[: pick(smoke=1, laptop=4)]
]
rows = []
for one in wearing:
    answer, true = measuring.drawn(model)(one)[0], one.batch["target_image"][0, 0]
    wrong = (2 * (answer - true).abs().mean(0)).clamp(0, 1).expand(3, -1, -1)
    rows += [one.given.image[0], answer, true, wrong]
plots.show_images(rows, ["given, old pose", "drawn", "truth", "difference"], columns=4, height=1.8)
plt.show()

# %% [markdown]
# *The worst of them. Bright: where it is wrong.* (A mean over a few people in a few colours: the sizes of the groups
# are printed for a reason.)
#
# ### A pose nobody took
#
# Training's people stand, walk, reach, lunge, kick, bend and crouch. Nobody sits. Two people of the test split sit
# down: the source is the standing frame.

# %%
sitting = measured.scans("test", pick(smoke=1, laptop=2), SIZE, 3, pick(smoke=4, laptop=8), "sitting_down", every=25)
rows, row = [], {}
for name in ("walking", "sitting_down"):
    own = sitting if name == "sitting_down" else walk
    every = [measured.clip_task(own, person, GIVEN[0]) for person in range(sitting.people)]
    row[name] = measuring.box_psnr(ANSWERS[best], every)
    rows += [picture for one in every for picture in
             (one.given.image[0], measuring.drawn(model)(one)[-1], one.batch["target_image"][0, -1])]  # fmt: skip
print(", ".join(f"{name}: {value:.2f} dB" for name, value in row.items()))
plots.show_images(rows, ["given", "drawn", "truth"], columns=pick(smoke=3, laptop=6), height=1.7)
plt.show()

# %% [markdown]
# *Above walking, below sitting down, the same people.* The pose image is right in either; what is new to the network is
# which parts of the body lie beside each other in the picture, and the folds that come with it. "We believe our method
# can address such issues by scaling up training on large-scale real-captured multi-view human datasets" (C). That is a
# belief, and they call it one.
#
# ## 12 Does the jitter help?
#
# **The question.** Does a colour jitter keep a network that goes on with few avatars from painting from memory?
#
# Chapter 15's network goes on for 100 steps with six scans and six avatars, with the jitter and without, three seeds
# each, and is then measured on seen and unseen subjects. (Six, since ZJU-MoCap's protocol has about as many.) If the
# jitter does what it is for, it helps with *unseen* subjects, and may cost something with seen ones.


# %% tags=["export"]
@dataclass(frozen=True)
class Arm:
    """One arm of the study: the strength of the jitter."""

    jitter: float = 1.0


def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm: few people, and all samples in full view."""
    few = replace(SMALL, people=6, steps=steps, warmup=5, lr=4e-4)
    return Config(few, avatars=6, single=0.0, jitter=arm.jitter)


STUDIES = {
    "jitter": Study("16.jitter", "one colour jitter for all views of a sample",
                    {"with": Arm(1.0), "without": Arm(0.0)}, f"{RUNS}:compare", steps=100),
}  # fmt: skip

# %% tags=["result"]
from course_lib import study

rows = study.summary(STUDIES["jitter"]) if scale() != "smoke" else {}
if len(rows) < 2 or any(count < 3 for row in rows.values() for *_, count in row.values()):
    print("not all records are there yet: `course study 16.jitter` makes them")
for arm, row in rows.items():
    words = (
        f"{name} subjects {mean:.2f} ± {spread:.2f} dB ({count} seeds)" for name, (mean, spread, count) in row.items()
    )
    print(f"{arm:8s}", ", ".join(words))
if len(rows) == 2:
    for name in sorted(set(rows["with"]) & set(rows["without"])):
        far = study.beyond_spread(rows["with"][name], rows["without"][name])
        print(f"{name} subjects: with and without differ {'beyond' if far else 'within'} the spread")

# %% [markdown]
# ### The paper's run
#
# 4,000 steps on the eight A100 of chapter 15, from the second stage's weights. How long that took isn't said; by the
# second stage's clock (10,000 steps in 4 days) it is 1.6 days.

# %%
from course_lib import launch

machines = pick(smoke={"nodes": 1, "gpus_per_node": 2}, laptop={"nodes": 1, "gpus_per_node": 8})
job = launch.job("humanram_animation", pick(smoke="smoke", laptop="humanram-animation"), gpu="A100-80GB", **machines)
job.plan()

# %%
job.prove(**pick(smoke={"config": "smoke"}, laptop={}))

# %%
print(job.script(out=f"runs/{job.name}", start="runs/humanram-512/step-00010000"))

# %% [markdown]
# All machines read scans and avatars from one data folder (COURSE_DATA). A launch runs the course's code, not the
# functions that you wrote in this notebook.
#
# ## What the paper leaves open
#
# What the avatars are and how many; how scans and avatars are mixed; whether a target may be of the given frame, and
# from which camera; which of the two stages' hyper-parameters are "the same as above"; the colour jitter's ranges, and
# whether one is drawn for all views; whether the single-view results come from a network that was trained for them; how
# long the 4,000 steps took.
#
# ## What to remember
#
# - To animate is to ask: the given views keep their pose images, the target gets that of another pose.
# - The world is the body's. Who walks away takes the origin along.
# - An augmentation has to keep what is to be learned. Colours may change, but together.
# - Seen and unseen subjects are two questions. A difference between two groups of four people isn't memory until a
#   baseline that remembers nobody shows less of it.
# - A body model is a strong hint, and it ends where the body ends: skirts, coats, hair.
#
# ## The end of the course
#
# Seventeen chapters, five papers. Laid side by side they are less different than their titles:
#
# **One backbone.** Sapiens, DAViD's encoder, MPT and HumanRAM are the transformer of chapter 04: patches, joints or
# vertices become tokens, tokens listen to each other, a head reads them out. What changes is *what a token is* and
# *who may listen to whom*. (ACAE is the exception: convolutions, and two matrices whose rows sum to one.)
#
# **Data decides.** Sapiens keeps 300 million of a billion pictures. DAViD renders 300,000. ACAE joins 28 data sets that
# don't agree on what a hip is. MPT draws heatmaps of meshes that were recorded without a picture. HumanRAM renders
# scans. Each paper's first idea is where truth comes from that nobody has to draw: a part that was hidden, a renderer,
# agreement between skeletons, a virtual camera.
#
# **The body in common.** A mesh that every person can be laid upon is truth for MPT and a name for each point of the
# surface for HumanRAM; ACAE finds a smaller one, a few dozen latent points, by itself; the people of DAViD's pictures
# and of all of ours are such meshes in clothes. Sapiens does without, and has 308 keypoints annotated.
#
# **Pretrain, then adapt.** First something that needs no labels, or cheap ones; then the task, with a fresh head or a
# smaller rate. Sapiens fills in hidden patches, MPT learns bodies before it sees a photograph, HumanRAM draws at 256²
# before it draws at 512², and still before it animates.
#
# **Measure what you mean.** A metric can flatter: a white background, an alignment, a mean over people who stand. We
# set a baseline beside every network that knows nothing, reported seeds, kept people apart from training, and wrote
# down what contradicted a paper. Where ours are small, their numbers are small; the code is the same at both sizes, and
# the launch cells say what the large one costs.
#
# **What none of them solves**: people whom the data leaves out, cloth that isn't body, more than one person who touch,
# and knowing when an answer is wrong. If you look for a thing to do next, it is there.
#
# ## Where to read on
#
# - Q. Gao et al., *Neural novel actor*, TVCG 2023: the jitter's source, and the paper's rival in animation.
# - S. Peng et al., *Neural Body*, CVPR 2021: ZJU-MoCap.
# - S. Hu et al., *SHERF: generalizable human NeRF from a single image*, ICCV 2023: animation from one picture.
# - N. Mahmood et al., *AMASS*, ICCV 2019: motions to drive with.
# - Z. Xiong et al., *MVHumanNet*, CVPR 2024: the data that C hopes for.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

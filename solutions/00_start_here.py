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
# # Chapter 00: Start here
#
# **Ten minutes that show how everything works**: you render a person who never existed, with labels that are exactly
# right, ask this machine whether it is ready, write your first function and put the person in front of the stars.
#
# | | |
# |---|---|
# | you should know | Python, and what a tensor is |
# | reading | 6 minutes |
# | the exercise | 5 minutes |
# | runs | about 15 seconds at every scale, on two CPU cores; 0.8 GB of memory |
#
# ## What this course is
#
# A computer that looks at a photograph of a person has questions to answer. *Where are the joints? Which pixel is
# hair and which is sleeve? How far away is the hand? Which way does the shoulder face? What would she look like from
# behind?* Five papers answer them, and you will build all five, from the camera up to the cell that would start the
# training run on a cluster:
#
# - **Sapiens** (Khirodkar et al., Meta) asks what a plain vision transformer can do when it has first seen 300 million
#   pictures of people. Three quarters of each picture are hidden, and the network learns to paint them in. Fine-tuned,
#   the same network then finds up to 308 keypoints, 28 body parts, depth and surface normals, at a resolution of
#   1024 pixels, with 0.3 to 2 billion parameters. *Chapters 06 to 08.*
# - **DAViD** (Saleh et al., Microsoft) answers that one need not be so large. Its 300,000 training pictures are all
#   rendered, so that every label is perfect, down to single strands of hair. A much smaller network, trained on
#   nothing else, predicts depth, normals and a soft foreground mask of *real* photographs, about as accurately and at
#   a fraction of the cost. *Chapters 09 and 10.*
# - **ACAE** (Sárándi, Hermans and Leibe, RWTH Aachen) deals with a nuisance: dozens of 3D pose data sets exist, and
#   no two agree on what a skeleton is. An autoencoder that may only form weighted sums of points, with weights that
#   add up to one, finds what the formats share, and one network learns from all data sets at once. *Chapters 11 and
#   12.*
# - **MPT** (Lin et al., Microsoft) learns to turn a pose into a body mesh without photographs: two million bodies from
#   motion capture, seen by virtual cameras, become heatmaps; a transformer learns to give the mesh back. Only then
#   does it meet pictures. *Chapters 13 and 14.*
# - **HumanRAM** (Yu et al., HKUST, Huawei and Zhejiang University) reconstructs *and* animates a person from a few
#   pictures, in one pass through a transformer: a body model with a learned texture tells the network where on the body
#   each pixel lies, in the pose at hand or in a new one. *Chapters 15 and 16.*
#
# Before them, chapters 01 to 05 build what all five need: cameras, bodies, a renderer, transformers, and training at
# scale. Nothing is hidden in a library that you could not open: what a paper teaches stands in its chapter, in lines
# short enough to read.

# %% [markdown]
# ## A person who never existed
#
# Real people are hard to label. Nobody can say how far each pixel of a photograph is from the camera, and paying a
# crowd to paint in 28 body parts costs a fortune. So the course makes its own people, as DAViD does: a body with a
# shape and a pose, clothes, hair and light, all drawn from one random seed. Because we build the scene ourselves, we
# know where everything in it is. Change `SEED` to see someone else.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.data.backgrounds import sample_background
from course_lib.data.lighting import sample_lights
from course_lib.data.parts import PART_COLOURS, PART_NAMES
from course_lib.data.person import pose_people, sample_person
from course_lib.data.render import render_scene
from course_lib.data.sequences import sample_sequence
from course_lib.data.views import camera_at
from course_lib.scale import pick, scale

plt.rcParams["figure.dpi"] = 72
SEED = 14
SIZE = pick(smoke=(240, 180), laptop=(400, 300))  # height, width of a picture

# %% [markdown]
# A person here is a body shape, a face, hair and clothes. The pose comes on top: we take the last of twenty frames of
# somebody who waves, and move the body so that its soles touch the ground, y = 0.


# %%
def meet(seed: int):
    """Someone who waves, and the light in which we meet."""
    rng = np.random.default_rng(seed)
    poses, _ = sample_sequence(rng, "waving", frames=20)
    someone = replace(sample_person(rng), pose=poses[-1])
    soles = pose_people([someone]).vertices[0, :, 1].min().item()  # metres over the ground
    ground = np.array([0, -soles, 0], dtype=np.float32)
    return replace(someone, translation=ground), sample_lights(rng, "sun")


someone, lights = meet(SEED)
place = sample_background(np.random.default_rng(SEED), "outdoors")
camera = camera_at(eye=np.array([0.5, 1.4, 3.6]), target=np.array([0, 0.95, 0]), focal=1.7 * SIZE[0], size=SIZE)
picture = render_scene([someone], camera, SIZE, lights, place)

# %% [markdown]
# Each pixel comes with its labels, and no human hand has touched them:
#
# - the **picture**, what a camera would have seen, with colours from 0 to 1;
# - **alpha**, the share of a pixel that the person covers: 1 inside, 0 outside, in between along the outline;
# - **depth**, how far in front of the camera the surface is, in metres;
# - **normals**, the direction in which the surface faces, painted as a colour: right is red, up is green, towards you
#   is blue;
# - **parts**, Sapiens' 28 classes, from hair to left sock.

# %%
depth = np.where(np.isfinite(picture["depth"]), picture["depth"], np.nan)
panels = {
    "picture": picture["image"],
    "alpha": picture["alpha"],
    "depth": depth,
    "normals": np.where(picture["instances"][..., None] > 0, picture["normals"] / 2 + 0.5, 0),
    "parts": PART_COLOURS[picture["parts"]],
}
near_is_bright = plt.get_cmap("magma_r").with_extremes(bad="black")
figure, axes = plt.subplots(1, 5, figsize=(12, 3.6), layout="constrained")
for axis, (name, panel) in zip(axes, panels.items(), strict=True):
    axis.imshow(panel, cmap="gray" if name == "alpha" else near_is_bright)
    axis.set_title(name)
    axis.axis("off")
plt.show()

# %% [markdown]
# Every figure of the course is made like this one: by the cell above it, on your machine, with code that you can open
# and read. Numbers are computed by the cell that shows them, or, where a run takes hours, read from its record. How
# much of the picture does each part of the body cover?

# %% tags=["result"]
covered = picture["alpha"].sum()
print(f"the person covers {covered:,.0f} of {picture['alpha'].size:,} pixels, {np.nanmin(depth):.2f} m away and more")
shares = np.bincount(picture["parts"].flatten(), minlength=len(PART_NAMES)) / covered
for name, share in zip(PART_NAMES[1:], shares[1:], strict=True):
    if share > 0.001:
        print(f"{name:16s} {share:6.1%}")
assert abs(shares[1:].sum() - 1) < 0.05  # labels and alpha tell of the same person

# %% [markdown]
# You will write all of this yourself, or as much of it as you like: the camera in chapter 01, the body in chapter 02,
# the renderer that filled these five pictures in chapter 03. Each new seed gives another person:

# %%
seeds = range(SEED + 1, SEED + 1 + pick(smoke=2, laptop=6))
figure, axes = plt.subplots(1, len(seeds), figsize=(2 * len(seeds), 2.8), layout="constrained")
for axis, seed in zip(axes, seeds, strict=True):
    another, sunlight = meet(seed)
    behind = sample_background(np.random.default_rng(seed), "outdoors")
    axis.imshow(render_scene([another], camera, SIZE, sunlight, behind)["image"])
    axis.axis("off")
plt.show()

# %% [markdown]
# ## How a chapter works
#
# Every chapter goes the same way: a question, the idea in words and one figure, the equation with its number in the
# paper, the few lines of code that *are* the equation, and a picture or a number which shows that it works. The
# letters below stand for the same dimensions in every chapter (one that needs a letter for something else says so at
# its top), and a comment gives the shape where it changes:
#
# | B | T | N | D | H, W | J | V | F | K | L | S |
# |---|---|---|---|---|---|---|---|---|---|---|
# | batch | time | tokens | width | height, width | joints | vertices | faces | keypoints, shapes | latents | views |
#
# The units are the same everywhere, too: lengths are in metres, images are float32 from 0 to 1, depth is measured
# along the camera's axis. Chapter 01 states these conventions once.
#
# ### Scales
#
# A chapter runs at one of four scales: `smoke` (seconds, to test that every cell runs), `laptop` (minutes on a CPU,
# with a result that you can see), `gpu` (half an hour on one GPU) and `paper` (a cluster, days). `pick` chooses a
# value:

# %%
steps = pick(smoke=3, laptop=500, gpu=5000)
print(f"This notebook runs at scale {scale()!r}. A training run like the later ones would take {steps} steps.")

# %% [markdown]
# To choose another scale, set the environment variable `COURSE_SCALE` before you start Jupyter, or run a whole chapter
# from a terminal: `course run 03 --scale smoke`.
#
# ### Exercises
#
# The functions that carry an idea are left open for you: they hold `raise TODO`. You need not fill in any of them.
# **While a function is open, the course's own answer runs in its place** and says so once, so that you can read a
# chapter from top to bottom and run every cell. **As soon as your lines stand there, they run, always**, right or
# wrong: what you see below is then your own work.
#
# `check` tells you whether your answer is right and, if not, what came out, where, and what was expected. It runs your
# code in a separate process with a limit on time and memory, so nothing that you try can break this notebook. Each
# exercise says how hard it is (●○○ to ●●●), how many minutes it may take, and has a hint to unfold.

# %% [markdown]
# ## Your first function
#
# Look at alpha again. Along the outline, and in the hair, a pixel sees a little of the person *and* a little of what is
# behind. DAViD calls this soft foreground segmentation and uses it to give people in a video call another room (its
# figure 15). Where the person covers the share $\alpha$ of a pixel, the pixel's colour is
#
# $$I = \alpha \, F + (1 - \alpha) \, B ,$$
#
# with the colour $F$ of the person and the colour $B$ of the background (Porter and Duff, 1984).
#
# ### Exercise 00.1 — Another place  ●○○ (5 min)
#
# Write `composite`: the person, by alpha, in front of another scene. The person's and the scene's pictures have three
# colours for each pixel, alpha has one number. Return a new picture and leave the given ones as they are.
#
# <details><summary>Hint</summary>
#
# `person` has the shape (H, W, 3), `alpha` only (H, W). PyTorch lines shapes up from the right, so it would match
# alpha's columns with the colours. Give alpha one more axis, of size 1, at the end: `alpha[..., None]`. An axis of
# size 1 is stretched to any size.
#
# </details>

# %% tags=["export"]
from torch import Tensor

from course_lib.exercises import exercise


@exercise("00.1")
def composite(person: Tensor, alpha: Tensor, scene: Tensor) -> Tensor:
    """The person in front of a scene: alpha * person + (1 - alpha) * scene (Porter and Duff 1984, "over").

    `person` and `scene` (H, W, 3) colours in [0, 1], `alpha` (H, W) the person's share of each pixel -> (H, W, 3).
    """
    # BEGIN SOLUTION
    share = alpha[..., None]  # (H, W, 1)
    return share * person + (1 - share) * scene
    # END SOLUTION


# %%
from course_lib.exercises import check

check(composite)

# %% [markdown]
# Now use your function: it puts the person on a launch pad, and in front of the galaxies of the Hubble deep field.

# %% [markdown]
# The person alone comes from the same renderer, without a place: black behind, so that each pixel holds $\alpha F$.
# Divided by alpha it is the person's own colour, $F$.

# %%
from skimage import data, transform

alone = render_scene([someone], camera, SIZE, lights)
alpha = torch.from_numpy(alone["alpha"])  # (H, W)
person = torch.from_numpy(alone["image"]) / alpha.clamp(min=1e-3)[..., None]  # (H, W, 3)


def scenery(photograph: np.ndarray, shift: int = 0) -> torch.Tensor:
    """A piece of a photograph (h, w, 3), `shift` pixels right of its middle, as our picture: (H, W, 3) in [0, 1]."""
    height, width = photograph.shape[:2]
    middle, half = width // 2 + shift, height * SIZE[1] // SIZE[0] // 2
    piece = transform.resize(photograph[:, middle - half : middle + half], SIZE, anti_aliasing=True)
    return torch.from_numpy(piece).float()


torch.testing.assert_close(composite(person, alpha, torch.zeros(*SIZE, 3)), torch.from_numpy(alone["image"]))

# %% [markdown]
# Beside the two places there is a closer look at the waving hand: first cut out, each pixel either person or sky, then
# mixed by your function.

# %%
pad, stars = scenery(data.rocket(), shift=90), scenery(data.hubble_deep_field())
cut_out = composite(person, (alpha > 0.5).float(), pad)
rows, columns = np.nonzero(np.isin(alone["parts"], [PART_NAMES.index("Left_Hand"), PART_NAMES.index("Right_Hand")]))
row, column, reach = rows.min(), columns[rows.argmin()], SIZE[0] // 10  # the highest finger tip
hand = np.s_[row - 4 : row + 2 * reach - 4, column - reach : column + reach]
panels = [
    composite(person, alpha, pad),
    composite(person, alpha, stars),
    cut_out[hand],
    composite(person, alpha, pad)[hand],
]
figure, axes = plt.subplots(1, 4, figsize=(12, 4), layout="constrained")
for axis, panel in zip(axes, panels, strict=True):
    axis.imshow(panel.clamp(0, 1))
    axis.axis("off")
plt.show()

# %% [markdown]
# Now break your function: take the `1 -` away, or return the person alone, run its cell and `check` again, and read
# what it says. Even `while True: pass` is allowed: after ten seconds you get an answer, and the notebook is still
# alive.

# %% [markdown]
# ## Is this machine ready?
#
# Later chapters need a few packages, some memory and some room on the disk. This cell looks whether they are there,
# and names the command that mends what is missing. In a terminal, `course check-env` does the same.

# %%
from course_lib.environment import environment_report

rows = environment_report()
for ok, name, detail, mend in rows:
    if not ok or name in ("python", "device", "body", "disk"):
        print(f"{'OK  ' if ok else 'FAIL'} {name:8s} {detail}" + (f"  ->  {mend}" if mend else ""))
print(f"{sum(row[0] for row in rows)} of {len(rows)} things that the course needs are in order.")

# %% [markdown]
# ## From here to a cluster
#
# From chapter 05 on, a paper's chapter ends with a **launch cell**. It names the paper's own run, computes what it
# would cost, proves as far as one machine can that it would work (the full-size model, spread over a simulated
# cluster, and a small run in two real processes, killed and resumed) and prints the script for your cluster:
#
# ```python
# job = launch.job("sapiens_pretraining", "sapiens-2b", nodes=128, gpus_per_node=8)
# job.plan()      # parameters, memory per GPU, days, beside the paper's own figures
# job.prove()     # one step of the full-size model on 1,024 simulated GPUs
# job.script()    # what you would submit
# ```
#
# Nothing starts unless you submit it.

# %% [markdown]
# ## The chapters
#
# | chapter | you build | from |
# |---|---|---|
# | 00 start here | this tour | |
# | 01 cameras | rotations, projection, Plücker rays, Procrustes, PnP | all five papers |
# | 02 bodies | SMPL-X: blend shapes, joints, skinning | HumanRAM, DAViD, MPT |
# | 03 rendering | a rasteriser; labelled people | DAViD, Sapiens |
# | 04 transformers | attention, blocks, a vision transformer, a first training run | all five |
# | 05 scaling | bf16, checkpointing, DDP, FSDP; what a run costs | all five |
# | 06 Sapiens: pretraining | data curation, a masked autoencoder | Sapiens |
# | 07 Sapiens: pose | heatmaps for 17, 133 and 308 keypoints | Sapiens |
# | 08 Sapiens: dense tasks | body parts, depth, normals | Sapiens |
# | 09 DAViD: data | rendered people with perfect labels | DAViD |
# | 10 DAViD: models | one small network, three tasks | DAViD |
# | 11 ACAE: skeletons | an autoencoder between skeleton formats | ACAE |
# | 12 ACAE: training | dozens of data sets in one batch | ACAE |
# | 13 MPT: pretraining | meshes from synthetic heatmaps | MPT |
# | 14 MPT: fine-tuning | meshes from pictures | MPT |
# | 15 HumanRAM: reconstruction | a person from a few views | HumanRAM |
# | 16 HumanRAM: animation | the same person in a new pose | HumanRAM |
#
# The later chapters build on the earlier ones, and what you skip is there all the same: each chapter exports its
# functions, and the next one imports them. The chapters in this copy of the course:

# %%
from course_lib.chapter_source import chapters, read_cells

for chapter in chapters():
    exercises = sum(len(cell.exercises) for cell in read_cells(chapter) if cell.kind == "code")
    print(f"notebooks/{chapter.name}.ipynb  exercises: {exercises}")

# %% [markdown]
# ## What to remember
#
# - Rendered people come with exact labels, and one can make as many as one likes.
# - Open functions run the course's answer; your own lines are never replaced; `check` says what is wrong.
# - A pixel on an outline is a mixture of person and background; alpha is the person's share.
#
# **Where to read on.** T. Porter and T. Duff, *Compositing Digital Images*, SIGGRAPH 1984: the equation above, and what
# else can be done with alpha. E. Wood et al., *Fake It Till You Make It*, ICCV 2021: how far one gets with rendered
# faces alone. Then open chapter 01, where the camera is built.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=SEED)

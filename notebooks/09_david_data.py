# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 09: DAViD, the data
#
# Sapiens was pretrained on 300 million photographs of people. DAViD sees none: its three tasks (depth, normals, and a
# mask so soft that it knows about single hairs) are learned from 300,000 *rendered* pictures. (Its encoder has seen
# ImageNet before; the paper doesn't say so, its model cards do.) What such a network can know is decided here, before
# there is a network. So this chapter builds the data: who is drawn, what hair is made of, and what the truth about a
# pixel *is* where it shows a hair thinner than the pixel, or a face behind glass.
#
# **What you will build**: a sampler that follows a table of shares; strands of hair, cut into fragments, blended by
# coverage; a voxel grid and a proxy mesh that tell hair its normals; glasses whose lenses can be in the truth or not;
# files as SynthHuman has them; the paper's augmentation; two networks, taught by two truths; a job for a cluster.
#
# | | |
# |---|---|
# | **You should know** | chapter 02 (skinning), 03 (rasteriser, labels), from section 5 on 08 (depth, normals) |
# | **Reading** | 65 minutes |
# | **Exercises** | ten, about 95 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 12 min on two cores, rendering included; 2 GB of memory |
# | **From the paper** | DAViD §3.1, §5, Appendix A, B.6, Figures 3, 10, 11 |
#
# **Letters.** B batch · C channels · F layers of a pixel, in the mesh faces · H W image · N strands, pixels or people ·
# P points of a strand · V vertices · X Y Z cubes of a grid. Three small letters change with the section: g is a group
# (1) and a gain (6), w a chance (1) and a width (2), f a focal length (2) and a frequency (6).

# %%
# %matplotlib inline
from collections import Counter

import matplotlib.pyplot as plt
import sympy

from course_lib import plots
from course_lib.scale import pick

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d
from torch.nn.functional import normalize as unit

from course_lib.chapters import sapiens_dense
from course_lib.chapters.sapiens_dense import DensePredictor, looked_up, pseudo_normals, unpacked
from course_lib.chapters.sapiens_pose import load_pretrained
from course_lib.exercises import TODO, check, exercise
from course_lib.recipe import Batch, Recipe, Stream

# %% [markdown]
# Twelve pictures of what comes out, from the world `synth`:

# %%
from course_lib.data.worlds import render_samples

SIDE, COUNT = pick(smoke=32, laptop=160), pick(smoke=1, laptop=12)
synth = [next(render_samples("synth", "train", 0, i, (SIDE, SIDE), formats=("coco17",))) for i in range(COUNT)]
plots.show_images([sample.image for sample in synth], columns=6, height=1.9)

# %% [markdown]
# ## 1 What is drawn
#
# **The question.** A network trained on drawings knows only what was drawn. What has to vary, and how much?
#
# **The idea.** Everything that varies in front of a camera is drawn anew for each picture, from tables that somebody
# wrote down. Nothing is collected from the world, so everything about a picture is known. This is the paper's procedure
# (§3.1 and Appendix A), and ours beside it:
#
# | drawn | the paper | the course |
# |---|---|---|
# | identity | face and body shape from a library of 3,572 scans | 10 shape coefficients of an open body model |
# | skin | scanned textures, with wrinkle maps by expression | painted by formulas: tone, blush, freckles; no wrinkles |
# | expression | with the poses, from AMASS "and more" | 52 facial actions: smile, open mouth, blink, random ones |
# | pose | AMASS (bodies), MANO (hands), "and more" | families of poses with limits of the joints |
# | clothing | 50 tops | cut from the body's surface: shirts, jackets, trousers, skirts, shoes |
# | hair | 548 styles of over 100,000 strands each | 13 styles (2 without hair); 6,000 strands, 12,000 below |
# | accessories | 36 glasses, 57 pieces of headwear | 6 outlines of glasses, a cap, a beanie |
# | environment | photographed light (HDRIs) and 3D environments | rooms, streets, a studio, made by formulas |
# | light | "diverse", the HDRIs' among it | sun, overcast, indoor, studio, dusk, coloured lamps |
# | camera | face, upper body, full body, in equal parts | the same |
#
# Said plainly: the paper's people are made of scans and of artists' assets, ours of formulas, and no one takes them for
# photographs. What carries over is the *procedure*, and that the labels are exact.
#
# Here are the framings of a few scenes. (A scene is drawn without being rendered.)

# %%
from course_lib.data.worlds import DEMOGRAPHICS, WORLDS, cast, sample_scene, traits

drawn = [sample_scene("synth", "train", 1, i, (64, 64))[0].place for i in range(pick(smoke=2, laptop=240))]
framings = Counter(place.split("/")[-1] for place in drawn)
print({name: f"{count / len(drawn):.0%}" for name, count in framings.items()})
assert set(framings) <= {"face", "upper", "full"} and (len(drawn) < 200 or min(framings.values()) > 0.24 * len(drawn))

# %% [markdown]
# ### Who is drawn
#
# A library of scans has the people in it who came to be scanned; a photo collection has those who are photographed. A
# sampler can do better: the paper counts "the precise control we have over the training data distribution" among the
# reasons for synthetic data (§5). It prints no table; the shares here are ours, set by hand. `DEMOGRAPHICS` says how
# large a share each group shall have:

# %%
for trait, shares in DEMOGRAPHICS.items():
    print(f"{trait:5s}", {group: round(share, 2) for group, share in shares.items()})


# %% [markdown]
# Our body shapes are drawn by 10 normal numbers, and most of them look middle-aged. So we cannot simply draw. We draw
# many *candidates*, and choose among them with unequal chances. If candidate i is of group $g(i)$, if $n_g$ of the N
# candidates are of group g, and if its share shall be $s_g$, i is chosen with
#
# $$w_i = \frac{s_{g(i)}}{n_{g(i)}} \Big/ \sum_{h:\,n_h>0} s_h \tag{09.1}$$
#
# A group without candidates cannot be drawn; its share falls to the others.
#
# ### Exercise 09.1 — shares  ●○○ (8 min)
#
# Equation 09.1: from the group of each candidate and the table of shares to the chances of all candidates, which sum to
# 1.
#
# <details><summary>Hint</summary>
#
# `np.unique(groups, return_inverse=True, return_counts=True)` gives the groups, which one each candidate is of, and how
# many candidates each has.
# </details>

# %% tags=["export"]
@exercise("09.1")
def balancing_weights(groups: list[str], shares: dict[str, float]) -> np.ndarray:
    """Chances (N,) of N candidates, summing to 1, with which a draw has the groups in the shares of a table.

    groups: the group of each candidate. Shares are any numbers from 0 upwards; a group that the table doesn't name is
    never drawn, one without a candidate leaves its share to the others. ValueError for a negative share, and if
    nobody can be drawn.
    """
    raise TODO


# %%
check(balancing_weights)

# %% [markdown]
# Counted: a few hundred people as the body model gives them, and as the world `synth` casts them: twelve for every
# sixty pictures, so each appears in several. (Chance remains: 300 people follow a table to within some percent.) Where
# a group is made of several traits, its share is the product of theirs: a third of the young women have light skin,
# because a third of everybody has.

# %%
blocks = pick(smoke=1, laptop=25)
chosen = [n for block in range(blocks) for n in cast(WORLDS["synth"], "synth", "train", 0, 60 * block)]
anybody = range(len(chosen))
figure, axes = plt.subplots(1, 3, figsize=(10, 2.4), layout="constrained")
for ax, (trait, shares) in zip(axes, DEMOGRAPHICS.items(), strict=True):
    for shift, numbers, name in ((-0.2, anybody, "as they come"), (0.2, chosen, "in synth")):
        counts = Counter(traits("train", n)[trait] for n in numbers)
        ax.bar(np.arange(len(shares)) + shift, [counts[g] for g in shares], 0.38, label=name)
    ax.plot(range(len(shares)), [s * len(chosen) for s in shares.values()], "k_", ms=30, label="the table")
    ax.set(title=trait, xticks=range(len(shares)), xticklabels=shares)
    off = max(abs(counts[g] / len(chosen) - s) for g, s in shares.items())
    assert blocks < 20 or off < 0.1, (trait, off)
axes[1].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# *People by sex (of the body shape), age group and skin tone. Black: what the table asks for.*
#
# These groups are crude, and ours: "sex" is what shape and clothes of a drawn person suggest, age is what the shape
# suggests, and the tones are thirds of our palette by brightness. A table can only balance what somebody thought of
# naming. Hair is not in it: it follows from the rest (grey with age, curls more often with dark skin), by chances that
# we also wrote down. Here is what it comes to:

# %%
styles = Counter(traits("train", n)["hair"] for n in chosen)
print(", ".join(f"{style} {count}" for style, count in styles.most_common()))

# %% [markdown]
# The same function makes an unfair world, if we want one. Chapter 10 will: it trains on data in which one group is at
# 2 %, measures its error, and balances again. A world is changed by `replace`:

# %%
few = {"skin": {"light": 0.49, "medium": 0.49, "dark": 0.02}}
unfair = replace(WORLDS["synth"], demographics=few)
rare = [n for block in range(blocks) for n in cast(unfair, "synth", "train", 0, 60 * block)]
share = np.mean([traits("train", n)["skin"] == "dark" for n in rare])
print(f"dark skin: {share:.1%} of {len(rare)} people; the table asks for 2 %")
assert blocks < 20 or share < 0.05


# %% [markdown]
# ## 2 Hair, strand by strand
#
# **The question.** Chapter 03's people wear their hair like a helmet: a mesh with a sharp edge. A mask learned from it
# has a sharp edge, too. What is a person's outline where single hairs stand out?
#
# **The idea.** Each hair is a thin curve, drawn for itself. The paper has more than 100,000 of them on a head. A hair
# is about 0.07 mm thick; side by side, 100,000 are 7 m wide. We draw N strands that are 7 m / N wide each, so that as
# much is covered: at 12,000 strands 0.6 mm, and each stands for eight hairs. Under them lies the old mesh at about half
# of its thickness, a dark core, so that no skin shines through. From afar, a renderer needs fewer strands: ours draws
# only so many that each is about half a pixel wide. (Widths, core and this rule are our choices.)
#
# ### How a strand grows
#
# A strand is a polyline of P points. The simplest one leaves the skin in some direction, and its own weight bends it a
# little. In a strand of length ℓ each of the P − 1 steps is ℓ / (P − 1) long; $d_i$ is the direction of a step, of
# length 1 (the first one's, too), and b is how much of "down" is added to it at every step:
#
# $$p_{i+1} = p_i + \frac{\ell}{P-1}\, d_i, \qquad d_{i+1} = \frac{d_i + b\,(0,-1,0)}{\lVert d_i + b\,(0,-1,0) \rVert}
# \tag{09.2}$$
#
# Beards, brows and lashes of our people grow like this. (Hair of the head also follows the way it is combed, within the
# volume of its haircut: `course_lib/data/strands.py`.)
#
# ### Exercise 09.2 — a strand grows  ●●○ (12 min)
#
# Equation 09.2 for N strands at once: a loop over the steps, none over the strands.
#
# <details><summary>Hint 1</summary>
#
# Collect the points in a list, one (N, 3) array for each step, and stack them along dimension 1 at the end.
# </details>
#
# <details><summary>Hint 2</summary>
#
# Bend after a step, not before the first: the first step goes in the given direction, at length 1.
# </details>

# %% tags=["export"]
@exercise("09.2")
def grow(roots: np.ndarray, directions: np.ndarray, lengths: np.ndarray, bend: float, points: int = 8) -> np.ndarray:
    """Strands (N, P, 3) in metres from roots (N, 3), their first points, along directions (N, 3) of any length.

    Each of the P - 1 steps is lengths (N,) / (P - 1) long. Before every step but the first, `bend` times (0, -1, 0) is
    added to the direction, which is then brought back to length 1. ValueError with fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a strand has two points or more, not {points}")
    raise TODO


# %%
check(grow)

# %%
angle = np.linspace(0.1, np.pi - 0.1, 40)
roots = np.stack([0.08 * np.cos(angle), 0.10 * np.sin(angle), 0 * angle], 1)
figure, axes = plt.subplots(1, 4, figsize=(10, 2.2), layout="constrained", sharex=True, sharey=True)
for ax, bend in zip(axes, (0.0, 0.1, 0.3, 1.0), strict=True):
    strands = grow(roots, roots, np.full(len(roots), 0.09), bend, points=12)  # (N, 12, 3)
    assert np.allclose(np.linalg.norm(np.diff(strands, axis=1), axis=2).sum(1), 0.09)
    ax.plot(*strands[..., :2].transpose(2, 1, 0), color="#6b4226", lw=0.8)
    ax.set(title=f"b = {bend}", aspect="equal", xticks=[], yticks=[])
plt.show()


# %% [markdown]
# *The same roots and lengths, bent more and more.* The strands of a head are kept in its rest pose. Each is fastened
# to a point of the skin and goes where that point goes (chapter 02): beards follow jaws, and ponytails heads.
#
# ### How much of a pixel a strand covers
#
# Seen from afar, a strand is much thinner than a pixel. Its width w, the depth z and the camera's focal length f, in
# pixels, give its width in pixels, f w / z. If λ pixels of its length lie in a pixel, the share of the pixel that the
# strand covers is
#
# $$\alpha = \min\Big(1,\; \frac{f\,w}{z}\,\lambda\Big) \tag{09.3}$$

# %% tags=["export"]
def coverage(width: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Share (N,) of a pixel that a strand covers, `width` pixels wide, with `length` pixels of it in the pixel.

    At most 1. ValueError for a negative width or length."""
    if np.min(width, initial=0) < 0 or np.min(length, initial=0) < 0:
        raise ValueError("a strand's width and length cannot be negative")
    return np.minimum(width * length, 1.0)


# %% [markdown]
# Summed over all pixels, the coverage has to be the strand's area, as long as no pixel is full: nothing is lost between
# pixels, and nothing is counted twice. A strand 0.3 pixels wide, across a grid, cut into short pieces:

# %%
start, end, wide, pieces = np.array([2.2, 1.7]), np.array([17.4, 9.1]), 0.3, 4000
length = np.linalg.norm(end - start)
middle = start + (np.arange(pieces)[:, None] + 0.5) / pieces * (end - start)
inside = np.zeros((11, 20))  # pixels of length in each pixel
np.add.at(inside, tuple(np.floor(middle).astype(int)[:, ::-1].T), length / pieces)
shares = coverage(wide, inside)
print(f"covered: {shares.sum():.4f} pixels; length x width: {length * wide:.4f}")
assert abs(shares.sum() - length * wide) < 1e-6
plots.show_images([shares], height=1.8, vmin=0, vmax=0.4)

# %% [markdown]
# ### Layers
#
# Now hundreds of strands lie over one pixel. Sort them by depth, the nearest first. Layer i covers a share $\alpha_i$
# of what is left of the light, which is the *transmittance* $T_i$, and adds its colour $c_i$. The pixel's colour $C$ is
# the sum:
#
# $$T_i = \prod_{j<i} (1-\alpha_j), \qquad C = \sum_{i=1}^{F} T_i\,\alpha_i\,c_i + T_{F+1}\,c_{\text{behind}}
# \tag{09.4}$$
#
# This assumes that the strands of a pixel lie at random, independent of each other: two that cover half of it each
# leave a quarter free. The mask of such a pixel is $1 - T_{F+1}$: *soft*. (From section 5 on, and in chapter 10,
# "alpha" is this mask, what all layers cover together, and no longer the coverage of a single one.)

# %%
a, c = sympy.symbols("a1:4"), sympy.symbols("c1:4")
T = [sympy.prod([1 - x for x in a[:i]]) for i in range(4)]
one_by_one = T[3] * sympy.Symbol("b") + sum(T[i] * a[i] * c[i] for i in range(3))
over = sympy.Symbol("b")
for x, colour in reversed(list(zip(a, c, strict=True))):  # painted from the back: each covers a share of what is there
    over = x * colour + (1 - x) * over
assert sympy.expand(one_by_one - over) == 0
assert sympy.expand(sum(T[i] * a[i] for i in range(3)) + T[3] - 1) == 0
print("front to back is back to front, and all shares sum to 1")


# %% [markdown]
# ### Exercise 09.3 — composite  ●●○ (12 min)
#
# Equation 09.4 without what is behind, for N pixels at once.
#
# <details><summary>Hint 1</summary>
#
# `np.cumprod(1 - alpha, axis=1)` is the transmittance behind each layer. Before the first it is 1.
# </details>
#
# <details><summary>Hint 2</summary>
#
# A layer is weighted by the light that reaches *it*: the transmittance before it, not behind it.
# </details>

# %% tags=["export"]
@exercise("09.3")
def composite(alpha: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layers of N pixels, the nearest first: alpha (N, F) and values (N, F, C) -> what is seen (N, C), and how much
    light passes (N, F + 1): before the first layer (1), behind it, ..., behind the last. Layers that a pixel lacks have
    alpha 0. Without any layers (F = 0) nothing is seen and all light passes.
    """
    raise TODO


# %%
check(composite)


# %% [markdown]
# In the course's renderer each pixel has four samples, and strands are cut into pieces about one sample long, the
# fragments. Those that lie behind the face, a hat or a wall are dropped; the others are sorted and composited over the
# mesh's colours (`course_lib/data/layers.py`; it calls this `composite` and this `coverage`). Depth and normal of a
# sample are those of its *median* layer: the one that takes the light below one half.

# %% tags=["export"]
def median_layer(passes: np.ndarray) -> np.ndarray:
    """The layer (N,) that takes the light (N, F + 1) below one half, -1 where none does."""
    below = passes[:, 1:] < 0.5
    return np.where(below.any(1), below.argmax(1) if below.shape[1] else 0, -1)


# %% [markdown]
# A head, from near by. `portrait` puts a camera before somebody's head.

# %%
from course_lib.data.layers import Targets
from course_lib.data.lighting import sample_lights
from course_lib.data.person import Outfit, pose_people
from course_lib.data.render import render_scene
from course_lib.data.views import camera_at
from course_lib.data.views import unit as direction
from course_lib.data.worlds import identity

STRANDS = pick(smoke=600, laptop=12_000)


def head_of(number, style, strands=STRANDS, **look):
    """Person `number` with a hair style and without a hat."""
    person = identity("train", number)[1]
    garments = tuple(g for g in person.outfit.garments if g.kind not in ("cap", "beanie"))
    look = replace(person.look, hair_style=style, strands=strands, **look)
    return replace(person, look=look, outfit=Outfit(garments))


# %%
def portrait(person, size=None, turn=0.0, away=0.75, light=("studio", 0), **options):
    """Labels and picture over grey, from `turn` radians to the side and metres `away`; also the camera."""
    size = size or pick(smoke=32, laptop=256)
    posed = pose_people([person])
    head = posed.joints[0, 15].numpy() + [0.0, 0.05, 0.02]
    camera = camera_at(head + away * direction(turn, 0.08), head, 2.2 * size, (size, size))
    lights = sample_lights(np.random.default_rng(light[1]), light[0])
    labels = render_scene([person], camera, (size, size), lights, posed=posed, **options)
    labels["image"] = labels["image"] + 0.72 * (1 - labels["alpha"][..., None])
    return labels | {"camera": camera, "posed": posed}


# %%
long_haired = head_of(7, "long", hair=(0.5, 0.24, 0.1))
helmet, strand = portrait(replace(long_haired, look=replace(long_haired.look, strands=0))), portrait(long_haired)
corner = pick(smoke=(slice(0, 12), slice(18, 30)), laptop=(slice(10, 74), slice(150, 214)))
rows = [picture for one in (helmet, strand) for picture in (one["image"], one["alpha"], one["alpha"][corner])]
plots.show_images(rows, ["mesh", "its mask", "enlarged", "strands", "their mask", "enlarged"], columns=6, height=1.9)

# %% [markdown]
# *The same haircut as a mesh and as strands, with the mask, and a corner of the mask enlarged.* How much of the mask is
# soft?

# %%
soft = [np.mean((one["alpha"] > 0.02) & (one["alpha"] < 0.98)) for one in (helmet, strand)]
print(f"pixels that are neither in nor out: mesh {soft[0]:.1%}, strands {soft[1]:.1%}")
assert SIDE < 100 or soft[1] > 1.2 * soft[0]

# %% [markdown]
# The mesh's few are the pixels along its edge, partly covered. All haircuts, from two sides and in different light:

# %%
from course_lib.data.hair import STYLES

gallery = list(STYLES)[:: pick(smoke=11, laptop=1)]
usual = {traits("train", n)["hair"]: n for n in reversed(range(pick(smoke=30, laptop=400)))}
FACES = {style: usual.get(style, 40) for style in gallery}  # the first person with that haircut
lights = [("studio", 1), ("sun", 2), ("overcast", 3), ("dusk", 4), ("indoor", 5), ("coloured", 6)]
views = []
for turn in (0.5, 2.2):
    for i, style in enumerate(gallery):
        person = head_of(FACES[style], style)
        views.append(portrait(person, pick(smoke=32, laptop=144), turn, light=lights[i % 6])["image"])
plots.show_images(views, [*gallery, *[""] * len(gallery)], columns=len(gallery), height=1.5)


# %% [markdown]
# ## 3 What is the normal of hair?
#
# **The question.** A depth is easy to say, even of a hair. But which way does it *face*? A strand is round: across its
# width, the normal turns through half a circle. The pixel is wider than the strand. Which normal should the truth
# have?
#
# **The idea.** (A.1.) What the renderer hits is where some ray happens to meet some strand. From one pixel to the next
# it is another strand, or another side of it: the picture doesn't tell which, so for a network it is noise. What people
# mean by the normal of hair is the shape of the *hairdo*. So: fill a voxel grid with strands, let marching cubes (an
# algorithm that lays a mesh through a grid of numbers, where they cross a given level) find the surface around them, a
# *proxy mesh*, and give each point of a strand the normal of the proxy's nearest point. The strands keep their outline,
# their depth and their alpha; only the normals come from the proxy.
#
# ### Exercise 09.4 — voxelise  ●●○ (12 min)
#
# The first step to the proxy: cover the strands with a grid of cubes, and count how many of their points lie in each.
#
# <details><summary>Hint 1</summary>
#
# The corner lies `margin` cubes below the smallest coordinates, `points.min(0)`. The largest index plus one plus
# `margin` is the grid's size.
# </details>
#
# <details><summary>Hint 2</summary>
#
# `counts[x, y, z] += 1` with index arrays counts a cube only once, however many points it has. `np.add.at` counts all.
# </details>

# %% tags=["export"]
@exercise("09.4")
def voxelize(points: np.ndarray, cell: float, margin: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """How many of the points (N, 3) lie in each cube of a grid: counts (X, Y, Z) float32, and the grid's corner (3,).

    Cubes are `cell` metres wide. The corner lies `margin` cubes below the smallest coordinates; point p is in cube
    floor((p - corner) / cell), and `margin` cubes lie beyond the last one that holds a point. ValueError without any.
    """
    if len(points) == 0:
        raise ValueError("there are no strands to voxelise: give at least one point")
    raise TODO


# %%
check(voxelize)


# %% [markdown]
# "A voxel-grid volume with density based on the strand geometry that occupies the voxel", says A.1, and no more: the
# size of the cubes (ours: 7 mm), the blur and the level of the surface are choices.

# %% tags=["export"]
def proxy_mesh(
    counts: np.ndarray, corner: np.ndarray, cell: float, blur: float = 1.5, level: float = 0.25
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface around the strands: vertices (V, 3), faces (F, 3), unit normals (V, 3) that point out of the hair.

    The counts (X, Y, Z) are blurred by `blur` cubes; marching cubes follow `level` times the mean of the cubes
    that hold a strand. DAViD A.1; blur and level are our choices. ValueError for an empty grid.
    """
    filled = counts[counts > 0]
    if not filled.size:
        raise ValueError("the voxel grid is empty: there is no surface around nothing")
    density = gaussian_filter(np.minimum(counts, 2 * filled.mean()), blur)
    threshold = min(level * filled.mean(), 0.5 * density.max())
    vertices, faces, normals, _ = marching_cubes(density, threshold, gradient_direction="descent")
    # a count belongs to the middle of its cube
    return (vertices + 0.5) * cell + corner, faces, normals


# %% [markdown]
# ### Exercise 09.5 — the nearest normal  ●○○ (6 min)
#
# The last step: each point of a strand takes over the normal of the proxy's nearest vertex.
#
# <details><summary>Hint</summary>
#
# `scipy.spatial.cKDTree(vertices).query(points)` returns distances and indices, in the shape of the points.
# </details>

# %% tags=["export"]
@exercise("09.5")
def proxy_normals(points: np.ndarray, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """For points (..., 3) on strands the normals (..., 3) of the nearest of the proxy's vertices (V, 3). DAViD A.1.

    ValueError if the proxy has no vertices."""
    if len(vertices) == 0:
        raise ValueError("the proxy mesh is empty: there is no nearest point on it")
    raise TODO


# %%
check(proxy_normals)

# %% [markdown]
# Tried where we know the answer: strands that stand in a shell around a ball. There the normals of the hairdo are those
# of the ball.

# %%
rng = np.random.default_rng(0)
away = rng.normal(size=(3000, 3))
away /= np.linalg.norm(away, axis=1, keepdims=True)
ball = grow(0.07 * away, away + 0.4 * rng.normal(size=away.shape), np.full(len(away), 0.03), 0.05)  # (N, 8, 3)
surface = proxy_mesh(*voxelize(ball.reshape(-1, 3), 0.007), 0.007)
tips = ball[:, -1]
found, true = proxy_normals(tips, surface[0], surface[2]), tips / np.linalg.norm(tips, axis=1, keepdims=True)
errors = np.degrees(np.arccos((found * true).sum(1).clip(-1, 1)))
print(f"angle to the ball's normals: mean {errors.mean():.1f} degrees; {len(surface[0])} vertices of the proxy")
assert errors.mean() < 12

# %% [markdown]
# Now on a head. The library calls these functions when somebody is dressed; we do it again, to see the mesh in between:

# %%
from course_lib.chapters.rendering import interpolate, rasterize
from course_lib.data.strands import CELL, filled
from course_lib.data.wardrobe import dress

groups = [group for group in dress(long_haired).strands if group.kind == "hair"]
points = np.concatenate([filled(group, CELL) for group in groups])
vertices, faces, normals = proxy_mesh(*voxelize(points, CELL), CELL)
print(f"{sum(len(g.rest) for g in groups)} strands, {len(points)} points -> {len(vertices)} vertices")

# %% [markdown]
# (`filled`: where hair grows on skin, the volume is filled a few cubes down towards the skin. A thin layer of hair has
# two sides, and the nearest would otherwise often be the wrong one: Appendix A.1 doesn't speak of it, so this is ours.)

# %%
own = portrait(long_haired, targets=Targets(hair="strand"))
smooth = portrait(long_haired, targets=Targets(hair="proxy"))
move = own["posed"].transforms[0, 15]  # the head's
placed = torch.tensor(vertices, dtype=torch.float32) @ move[:3, :3].T + move[:3, 3]
shown = rasterize(placed[None], torch.tensor(faces.copy()), own["camera"], own["alpha"].shape)
turned = torch.tensor(normals.copy()) @ (own["camera"].R[0] @ move[:3, :3]).T * torch.tensor([1.0, -1.0, -1.0])
mesh = interpolate(shown, torch.tensor(faces.copy()).long(), turned)[0].numpy()
pictures = [own["image"], *(plots.colour_normals(n) for n in (own["normals"], mesh, smooth["normals"]))]
titles = ["the picture", "normals of strands", "the proxy mesh", "strands, proxy's normals"]
plots.show_images(pictures, titles, height=2.6)


# %% [markdown]
# *Our Figure 10: strand normals, proxy mesh (through the hole of the face one sees its back from inside), and what we
# train on.* How noisy are the strands' normals? We measure the mean angle between the normals of neighbouring pixels
# that both show hair:

# %%
def neighbour_angle(normals, mask):
    """Mean angle in degrees between the normals (H, W, 3) of neighbours in a row, both in mask (H, W)."""
    both = mask[:, 1:] & mask[:, :-1]
    cosine = (normals[:, 1:] * normals[:, :-1]).sum(-1)[both]
    return float(np.degrees(np.arccos(cosine.clip(-1, 1))).mean())


# %%
from course_lib.data.parts import PART_IDS

hair, face = (own["parts"] == PART_IDS[name] for name in ("Hair", "Face_Neck"))
before, after = neighbour_angle(own["normals"], hair), neighbour_angle(smooth["normals"], hair)
print(f"strands {before:.1f} degrees, proxy {after:.1f}; skin {neighbour_angle(smooth['normals'], face):.1f}")
assert after < (0.4 if SIDE > 100 else 0.8) * before
assert all(np.array_equal(own[name], smooth[name]) for name in ("image", "alpha", "depth"))


# %% [markdown]
# Picture, mask and depth are the same to the bit. One switch decides the target: `Targets(hair="proxy")` or
# `Targets(hair="strand")`; as worlds, `synth` and `synth-strand-normals` hold the same pictures with the one and the
# other truth.
#
# ## 4 Glass
#
# **The question.** Through glasses we see eyes. What is the depth of such a pixel: that of the lens, or of the eye?
#
# **The idea.** (A.2.) Both are right, for different uses. Who removes glasses from a photograph wants the lens; who
# relights a face wants the eye. The labels that the paper shows leave lenses out; its renderer can do both. A lens
# is just another fragment: it has a depth, a normal, and an opacity, by its tint and by what it mirrors (Schlick's
# formula: 4 % when looked at straight, more at a slant). In the *picture* it counts with that opacity. In the *labels*
# it counts as opaque, or not at all. Frames are always in: they are opaque.
#
# ### Exercise 09.6 — what counts in the labels  ●○○ (6 min)
#
# `alpha` holds the layers of each pixel, `lens` says which are lenses. A layer with alpha 0 is no layer: it stays 0.
#
# <details><summary>Hint</summary>
#
# `np.where(condition, a, b)`. The condition: it is a lens, and it is there.
# </details>

# %% tags=["export"]
@exercise("09.6")
def label_alpha(alpha: np.ndarray, lens: np.ndarray, lens_in: bool) -> np.ndarray:
    """How much each layer counts in the labels: alpha (N, F) of the picture's layers, lens (N, F) whether a layer is
    a lens. With `lens_in` a lens counts as if it were opaque, else as if it weren't there; the rest counts as it is.
    DAViD A.2.
    """
    raise TODO


# %%
check(label_alpha)

# %%
from course_lib.data.glasses import OUTLINES
from course_lib.data.person import Glasses

shapes, dark = list(OUTLINES)[: pick(smoke=1, laptop=6)], (0.05, 0.3, 0.8, 0.05, 0.5, 0.1)
wearers = [
    head_of(
        60 + i, ("short", "bun", "crop", "bob")[i % 4], glasses=Glasses(shape, dark=dark[i], tint=(0.3, 0.24, 0.18))
    )
    for i, shape in enumerate(shapes)
]
views = [portrait(person, turn=turn, away=0.5)["image"] for turn in (0.0, 1.0) for person in wearers]
plots.show_images(views, [*shapes, *[""] * len(shapes)], columns=len(shapes), height=1.9)

# %% [markdown]
# *Six outlines, clear and tinted.* Each pair is fitted to its head: the lenses far enough from lashes and cheeks, the
# bridge on the nose, the arms along the temples and over the ears. Now the switch:

# %%
out, within = (portrait(wearers[-1], turn=0.4, away=0.5, targets=Targets(lens=lens)) for lens in (False, True))
near, far = np.percentile(out["depth"][np.isfinite(out["depth"])], (1, 99))
pictures = [out["image"]]
for one in (out, within):
    pictures += [plots.colour_depth(one["depth"], near, far), plots.colour_normals(one["normals"])]
titles = ["the picture", "depth, lens out", "normals, lens out", "depth, lens in", "normals, lens in"]
plots.show_images(pictures, titles, height=2.2)

# %%
labelled = np.isfinite(out["depth"]) & np.isfinite(within["depth"])
gap = np.where(labelled, out["depth"], 0) - np.where(labelled, within["depth"], 0)
changed = np.abs(gap) > 1e-6
print(f"{changed.mean():.1%} of the pixels change; the lens is {100 * np.median(gap[changed]):.1f} cm nearer")
assert np.array_equal(out["image"], within["image"]) and np.array_equal(out["alpha"], within["alpha"])
assert np.median(gap[changed]) > 0.005 and gap.min() > -0.005  # along the rims, the samples of a pixel differ

# %% [markdown]
# *Our Figure 11.* Again the pictures are the same, and the masks: a clear lens before a wall hides hardly anything of
# it, so it is hardly foreground, whatever the labels say. As a world: `synth-lens`. Two more are for chapter 10's
# comparison of data sources: `synth-coarse`, the same scenes with the old hair and without glasses, and `synth-scan`, a
# hundred people as a scanner sees them, smoothed.

# %% [markdown]
# ## 5 Files: SynthHuman's own layout
#
# **The question.** The authors gave SynthHuman away: 298,008 pictures with alpha, depth and normals. Ours are rendered
# in seconds, theirs are better. How do we write ours so that a program can't tell them apart, and read theirs so that
# the same cell trains on either?
#
# **The idea.** A data set is two things: a *layout* (which files, which names) and a *meaning* (which unit, which
# axes, what says "nothing here"). A wrong layout stops with an error. A wrong meaning trains, for days, on the wrong
# thing. So the layout is left to a module, `course_lib.data.synthhuman`, and the meaning stands here.
#
# | file of sample 12 | holds | here |
# |---|---|---|
# | `rgb_0000012.png` | 8 bits, (H, W, 3) | float in [0, 1], (3, H, W) |
# | `alpha_0000012.png` | 8 bits, 0 to 255 | float in [0, 1] |
# | `depth_0000012.exr` | camera z in **centimetres**, **65504** where there is none | metres, infinite |
# | `normal_0000012.exr` | x, y, z as channels R, G, B | (3, H, W), 0 where there is none |
# | `cam_0000012.txt` | K, 3 × 3 | the same |
#
# One flat folder, seven digits. Indices 0 to 98,039 are faces, 98,040 to 198,015 full bodies, the rest upper bodies.
#
# EXR is a picture format for numbers instead of colours: any number of channels, of 16 or 32 bits each, packed without
# loss. 65504 is no accident: it is the largest number that 16 bits can hold.
#
# **What sixteen bits cost.** A number of 16 bits has 11 binary digits. So at a depth of $z$ cm the next number is
# $2^{\lfloor \log_2 z\rfloor - 10}$ away:

# %%
assert np.finfo(np.float16).max == 65504
metres = np.linspace(0.3, 6, 2000)
centimetres = 100 * metres
error = np.abs(centimetres.astype(np.float16).astype(np.float64) - centimetres)  # cm
step = 2.0 ** (np.floor(np.log2(centimetres)) - 10)
assert (error <= step / 2 + 1e-9).all() and error[metres > 2.6].max() > 0.12
plots.curve({"step": 10 * step, "largest error": 5 * step}, x=metres, xlabel="depth (m)", ylabel="mm", ylim=(0, None))

# %% [markdown]
# *At arm's length 16 bits are good to a third of a millimetre, at three metres the steps are 2.5 mm.* A nose stands out
# by 25 mm: ten steps. That is enough to compare depths; a surface whose slope one wants becomes a staircase. Which of
# the two the release uses isn't known to us; our reader takes both, and we write 32 bits unless told otherwise
# (`dtype`).
#
# **The axes of the normals.** That the channels are x, y, z is in the authors' viewer. Whether y points up or down, and
# z towards the viewer or away, is written nowhere that we found. We **assume** our own convention (x right, y up, z
# towards the viewer) and make it one argument: `signs` = (1, 1, 1). OpenCV's axes would be (1, −1, −1).

# %% [markdown]
# ### Exercise 09.7 — into the release's numbers  ●●○ (15 min)
#
# Write the five arrays of a sample. Round bytes, don't cut them off. A depth that is not finite becomes `INVALID`;
# `dtype` is that of depth and normals.
#
# <details><summary>Hint 1</summary>
#
# Both picture and normals come as (3, H, W) and go as (H, W, 3): `values.transpose(1, 2, 0)`.
# </details>
# <details><summary>Hint 2</summary>
#
# `np.where(np.isfinite(depth), 100 * depth, INVALID)`. The signs are one number a channel: they multiply the last axis.
# </details>

# %% tags=["export"]
INVALID = 65504.0  # cm, the largest number of 16 bits: no depth here
SIGNS = (1, 1, 1)  # of the release's x, y, z beside ours (right, up, towards the viewer): assumed


def checked(sample, names: tuple[str, ...]) -> None:
    """ValueError, naming the sample, for a label that is missing or NaN, or has another size than the image."""
    if missing := [name for name in names if getattr(sample, name) is None]:
        raise ValueError(f"sample {sample.key} has no {', '.join(missing)}: take data with these labels")
    for name in names:
        values, size = getattr(sample, name), sample.image.shape[1:]
        if name != "K" and values.shape[-2:] != size:
            raise ValueError(
                f"sample {sample.key}: image is {size}, but {name} is {values.shape[-2:]}: crop both alike"
            )
        if np.isnan(values).any():
            raise ValueError(f"sample {sample.key}: {name} has NaN in it: leave it out, or make it anew")


# %% tags=["export"]
@exercise("09.7")
def to_release(sample, signs: tuple[int, int, int] = SIGNS, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """A sample -> the arrays of its files: rgb (H, W, 3) and alpha (H, W) uint8, depth (H, W) in cm and normal
    (H, W, 3) of `dtype`, cam (3, 3) float64. INVALID where there is no depth. ValueError as of `checked`."""
    checked(sample, ("image", "alpha", "depth", "normals", "K"))
    raise TODO


# %%
check(to_release)


# %% [markdown]
# The way back. Whatever is at or above 65504 is nobody's; normals are brought to length 1 again, since 16 bits bend
# them a little, and are 0 where there is no depth.

# %% tags=["export"]
def from_release(arrays: dict[str, np.ndarray], signs: tuple[int, int, int] = SIGNS) -> dict[str, np.ndarray]:
    """The arrays of `to_release`, of any float type -> fields of a sample: image, alpha, depth, normals, K. ValueError
    for a depth that is not positive."""
    depth = arrays["depth"].astype(np.float32)
    known = depth < INVALID  # (H, W)
    if (depth <= 0).any():
        raise ValueError(f"depth: centimetres above 0 were expected, found {depth.min():.6g}")
    normals = (arrays["normal"].astype(np.float32) * np.array(signs, np.float32)).transpose(2, 0, 1)  # (3, H, W)
    length = np.linalg.norm(normals, axis=0)
    return {
        "image": np.ascontiguousarray(arrays["rgb"].transpose(2, 0, 1), np.float32) / 255,
        "alpha": arrays["alpha"].astype(np.float32) / 255,
        "depth": np.where(known, depth / 100, np.inf).astype(np.float32),
        "normals": np.where(known & (length > 0.5), normals / length.clip(1e-6), 0).astype(np.float32),
        "K": arrays["cam"].astype(np.float32),
    }


# %% [markdown]
# Now a few people are written as the release has them, and read back.

# %%
import tempfile

from course_lib.data.synthhuman import SynthHuman, read_file, write_release
from course_lib.data.worlds import render_samples

WORLD = "synth"
SHAPE = pick(smoke=(64, 48), laptop=(256, 192))  # the release: (512, 384)
COUNT = pick(smoke=3, laptop=8)
crowd = [next(render_samples(WORLD, "train", 0, index, SHAPE, formats=("coco17",))) for index in range(COUNT)]
release = tempfile.TemporaryDirectory()  # goes when the kernel ends
written = [write_release(release.name, crowd) for _ in range(2)]
print(f"{written[0]} samples written; called again, {written[1]}: what is there already stays")
read = SynthHuman(release.name)
print(sorted(path.name for path in read.folder.iterdir())[:4], "...")

# %%


def nearest_person(samples):
    """The number of the sample that shows most of somebody."""
    return max(range(len(samples)), key=lambda index: np.isfinite(samples[index].depth).mean())


shown = nearest_person(read)
ours, theirs = crowd[shown], read[shown]
known = np.isfinite(ours.depth)
assert (known == np.isfinite(theirs.depth)).all() and np.abs(ours.depth[known] - theirs.depth[known]).max() < 1e-5
assert np.abs(ours.alpha - theirs.alpha).max() <= 0.5 / 255 + 1e-6
assert (ours.normals * theirs.normals).sum(0)[known].min() > 0.9999 and (ours.K == theirs.K).all()
raw = {name: read_file(read.folder / f"{name}_{shown:07d}.exr") for name in ("depth", "normal")}
nearest, farthest = 100 * ours.depth[known].min(), 100 * ours.depth[known].max()  # cm
grey = (raw["depth"].clip(nearest, farthest) - nearest) / (farthest - nearest)
pictures = [theirs.image, theirs.alpha, grey, raw["normal"] / 2 + 0.5]
names = ["rgb", "alpha", f"depth, {nearest:.0f} to {farthest:.0f} cm", "normal / 2 + ½"]
plots.show_images(pictures, names, height=2.6)


# %% [markdown]
# *The numbers of the files as they are. Where nobody is, the depth is 65504 (white here, as all that is farther than
# the person), and the normal is 0 (grey).*
#
# ### Ask the data which way its axes point
#
# The convention is nowhere written, but it is **measurable**: depth and K alone give rough normals (chapter 08,
# `pseudo_normals`), in our convention. Their components correlate with those of the file: which channel is which axis
# shows as the largest entry of a row, and which way it points as its sign.

# %% tags=["export"]
def axes_agreement(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Fields of `from_release` -> correlations (3, 3): row, x, y and z of normals out of the depth (right, up, towards
    the viewer); column, channel of the file's normals. ValueError where hardly anybody is."""
    depth, K = (torch.from_numpy(fields[name])[None] for name in ("depth", "K"))
    rough = pseudo_normals(depth, K)[0].flatten(1)  # (3, N)
    given = torch.from_numpy(fields["normals"]).flatten(1)
    both = (rough.square().sum(0) > 0.5) & (given.square().sum(0) > 0.5)
    if both.sum() < 16:
        raise ValueError(f"{int(both.sum())} pixels with depth and normals are too few: take another picture")
    return torch.corrcoef(torch.cat([rough[:, both], given[:, both]]))[:3, 3:].numpy()


# %%
for told, signs in {"as ours": (1, 1, 1), "OpenCV's": (1, -1, -1)}.items():
    found = axes_agreement(from_release(to_release(ours, signs)))  # written with these, read as if they were ours
    print(f"written {told:9s}: the file's signs are {[int(x) for x in np.sign(np.diag(found))]}")
    assert (np.abs(found).argmax(1) == [0, 1, 2]).all() and (np.sign(np.diag(found)) == signs).all()
print(found.round(2))

# %% [markdown]
# *The last matrix, of the normals with OpenCV's axes: large on the diagonal, so x, y and z are in their places; minus
# for y and z.* Run this on the first picture that you download, before anything else; if it says something else than
# (1, 1, 1), give `SynthHuman(folder, signs=...)` what it says.
#
# ### Train on the real one
#
# Set `COURSE_SYNTHHUMAN` to a folder into which you unpacked chunks of the release (each has 5,000 samples; begin with
# the single sample and one chunk), and this cell and section 6 take it instead of ours. Gaps between chunks don't
# matter, a half-unpacked sample does: the reader says which file is missing. For much data,
# `course_lib.data.synthhuman.to_shards` makes a folder of shards of it once, for `ShardStream`.

# %%
import os

folder = os.environ.get("COURSE_SYNTHHUMAN", release.name)
people = SynthHuman(folder, limit=COUNT)
shown = nearest_person(people)
print(f"{len(people)} samples of {people[0].image.shape[1:]} pixels, first {people[0].key}, last {people[-1].key}")


# %% [markdown]
# ## 6 Augmentation
#
# **The question.** 300,000 rendered pictures are clean: sharp, without noise, never compressed. A photograph is not.
# What has to be done to a rendered picture, and to its labels, before a network sees it?
#
# **The idea** (App. B.6). Two kinds. *Geometric* ones move the picture and its labels together. *Photometric* ones
# change the picture alone, in the ways of a camera: lens, sensor, processing, storage. The paper names each but gives
# no range and no probability; the numbers here are our choices.

# %% tags=["export"]
@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a picture, App. B.6; every number is our choice. on: False leaves all as it is.

    zoom: smallest and largest scale. shift: of the window, as a share of it. chance: of each change of the image alone;
    grey has its own. blur: largest standard deviation, as a share of the shorter side. gain, sigma: largest of
    `iso_noise`. brightness, contrast, saturation: largest change; hue: in turns of the colour circle. quality: of JPEG.
    """

    on: bool = True
    zoom: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    chance: float = 0.3
    blur: float = 0.005
    gain: float = 0.01
    sigma: float = 0.02
    brightness: float = 0.2
    contrast: float = 0.3
    hue: float = 0.05
    saturation: float = 0.3
    grey: float = 0.1
    quality: tuple[int, int] = (30, 95)

    def __post_init__(self):
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom={self.zoom}: give the smallest scale, above 0, and the largest")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality={self.quality}: JPEG has qualities from 1 to 100, the lower one first")
        if not (0 <= self.chance <= 1 and 0 <= self.grey <= 1):
            raise ValueError(f"chance={self.chance} and grey={self.grey} are probabilities: from 0 to 1")


# %% [markdown]
# In memory, pictures and labels lie as small numbers (about a third of the space):

# %% tags=["export"]
def packed(sample) -> Batch:
    """A sample -> image (3, H, W) and alpha (H, W) uint8, depth (H, W) float32 in metres, 0 where nobody is, normals
    (3, H, W) int8, times 127. `unpacked` (chapter 08) makes floats of a batch of them. ValueError as of `checked`."""
    checked(sample, ("image", "alpha", "depth", "normals"))
    image, alpha = (torch.from_numpy(255 * values).round().byte() for values in (sample.image, sample.alpha))
    depth = torch.from_numpy(np.where(np.isfinite(sample.depth), sample.depth, 0).astype(np.float32))
    normals = torch.from_numpy(127 * sample.normals).round().to(torch.int8)
    return {"image": image, "alpha": alpha, "depth": depth, "normals": normals}


# %%
one = {name: values[None] for name, values in packed(people[shown]).items()}  # a batch of one
plain = unpacked(one)
for name, values in one.items():
    print(
        f"{name:8s} {tuple(values.shape)} {values.dtype}, {values.nbytes / plain[name].nbytes:.2f} of the floats' bytes"
    )


# %% [markdown]
# ### Zoom and shift
#
# A window of the picture is enlarged or shrunk to the size that the network takes. What happens to the labels?
#
# - **Alpha** is a share of a pixel: where pixels are mixed, shares are mixed. Bilinear.
# - **Depth** keeps its *values*. A zoom is a longer lens, not a step forward: K changes, z doesn't. A network that sees
#   the picture alone can hardly tell the two apart, so metres would be a guess. The target is *relative* depth, judged
#   up to scale and shift (§3.3), and that doesn't care: it comes out the same from 1 m and 2 m, and if the window cuts
#   off the nearest point, what remains is the old relative depth with another scale and shift.
# - **Normals** keep their values too: a crop doesn't turn the camera.
# - But where depth and normals are *read*, there must be no mixing: halfway between a hand at 1 m and the chest at
#   1.4 m there is nothing at 1.2 m; and where nobody is there stands a 0, which is no depth at all. Nearest pixel.
#
# `looked_up` of chapter 08 does just that. How much does it matter? The same window, its depth once read bilinearly:

# %% tags=["export"]
def window(source: tuple[int, int], size: tuple[int, int], zoom: float, right: float, down: float) -> Tensor:
    """Where the pixels of a window of `size` lie in a picture of the size `source`: a grid (1, h, w, 2), edges at ±1.

    At zoom 1 it is the largest part of that shape, in the middle; right, down: moved by so many of its sides."""
    (height, width), (h, w) = source, size
    scale = min(height / h, width / w) / zoom  # pixels of the picture to one of the window
    across, along = scale * w / width, scale * h / height  # 1 for the whole picture
    rows = [[across, 0.0, 2 * right * across], [0.0, along, 2 * down * along]]
    return affine_grid(torch.tensor([rows]), [1, 1, h, w], align_corners=False)


# %%
size = plain["depth"].shape[-2:]
grid = window(size, size, 1.25, 0.02, -0.03)
near = {name: looked_up(name, values, grid) for name, values in plain.items()}
mixed = looked_up("image", plain["depth"], grid)  # as if it were a picture
wrong = (mixed > 0) & ((mixed - near["depth"]).abs() > 0.1)
people_pixels = plain["depth"][plain["depth"] > 0]
assert wrong.sum() > 20 and torch.isin(near["depth"], plain["depth"]).all() and near["alpha"].unique().numel() > 20
pictures = [near["image"][0], near["alpha"][0], plots.colour_depth(near["depth"][0]), plots.colour_ids(wrong[0].byte())]
names = ["the window", "its alpha", "its depth", f"{int(wrong.sum())} pixels in mid-air"]
plots.show_images(pictures, names, height=2.6)

# %% [markdown]
# *Right: pixels whose bilinear depth is more than 10 cm from that of the nearest pixel: a cut-out line around the whole
# person, at depths where nothing is.*
#
# And is relative depth really unaffected? We take the window's own, computed from what is left in it, beside that of
# the whole picture seen through the window. The best scale and shift take the one to the other, and no difference
# remains.

# %%
from course_lib.chapters.sapiens_dense import relative_depth, scale_and_shift

closer = window(size, size, 3.0, 0.0, 1.0)  # the lower third, in the middle
inside = looked_up("depth", plain["depth"], closer)
own, seen = relative_depth(inside), looked_up("depth", relative_depth(plain["depth"]), closer)
scale, shift = scale_and_shift(own, seen, inside > 0)
assert torch.allclose((scale * own + shift)[inside > 0], seen[inside > 0], atol=1e-5)
print(f"relative depth of the whole = {scale.item():.3f} · the window's + {shift.item():.3f}")


# %% [markdown]
# Beyond the edge of the picture there is black, and nobody (our choice; the paper doesn't say). And where the source
# has more than twice the pixels, a window would skip some: it is halved first, pictures by averages, labels by taking
# every second.

# %% tags=["export"]
def halved(name: str, values: Tensor) -> Tensor:
    """One tensor of a batch at half the size: pictures and alpha averaged, labels picked."""
    if name not in ("image", "alpha"):
        height, width = values.shape[-2:]
        return values[..., : height // 2 * 2 : 2, : width // 2 * 2 : 2]
    return avg_pool2d(values, 2) if values.ndim == 4 else avg_pool2d(values[:, None], 2)[:, 0]


# %% tags=["export"]
def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between the two."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def zoomed(augmentation: Augmentation, size: tuple[int, int], batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one, unpacked, of any size -> a window of `size` (H, W) at a random zoom and place. App. B.6."""
    draw = partial(uniform, generator)
    zoom = math.exp(draw(*map(math.log, augmentation.zoom)))
    right, down = (draw(-augmentation.shift, augmentation.shift) for _ in range(2))
    if not augmentation.on:
        zoom, right, down = 1.0, 0.0, 0.0
    while min(have / want for have, want in zip(batch["image"].shape[-2:], size, strict=True)) >= 2 * zoom:
        batch = {name: halved(name, values) for name, values in batch.items()}
    grid = window(batch["image"].shape[-2:], size, zoom, right, down)
    return {name: looked_up(name, values, grid) for name, values in batch.items()}


# %%
generator = torch.Generator().manual_seed(1)
several = [zoomed(Augmentation(), SHAPE, plain, generator) for _ in range(6)]
pictures = [batch["image"][0] for batch in several]
pictures += [plots.colour_normals(batch["normals"][0].permute(1, 2, 0)) for batch in several]
plots.show_images(pictures, columns=6, height=1.9)


# %% [markdown]
# *Zooms from 0.8 to 1.25, shifts of up to a tenth; the normals go along.*
#
# ### The lens
#
# "Random blurring, with the blur strength proportional to the image size, simulating lenses with poor MTF" (modulation
# transfer function: how much contrast a lens keeps in stripes of a given fineness). A Gaussian of standard deviation
# $\sigma$ pixels keeps
#
# $$\mathrm{MTF}(f) = e^{-2\pi^2\sigma^2 f^2} \tag{09.5}$$
#
# of stripes with $f$ periods a pixel. Why proportional to the size? A lens blurs by a share of the picture, whatever
# the number of pixels behind it.

# %% tags=["export"]
def blurred(image: Tensor, share: float) -> Tensor:
    """Pictures (B, 3, H, W) through a Gaussian of `share` of their shorter side; the edge goes on beyond the edge."""
    sigma = share * min(image.shape[-2:])
    if sigma < 0.1:  # of a pixel: nothing to be seen
        return image
    width = 2 * math.ceil(3 * sigma) + 1
    from kornia.filters import gaussian_blur2d  # here, not above: kornia takes a second to load

    return gaussian_blur2d(image, (width, width), (sigma, sigma), border_type="replicate")


# %%
side, share = 200, 0.01  # a Gaussian of 2 pixels
for period in (8, 10, 20, 40):
    stripes = 0.5 + 0.5 * torch.cos(2 * math.pi * torch.arange(side) / period).expand(1, 3, side, side)
    kept = blurred(stripes, share)[0, 0, side // 2, 40:160]
    expected = math.exp(-2 * (math.pi * share * side / period) ** 2)
    contrast = kept.max() - kept.min()
    print(f"stripes of {period:2d} pixels keep {contrast:.3f} of their contrast, by equation 09.5 {expected:.3f}")
    assert abs(contrast - expected) < 0.03


# %%
def row(change, strengths, said="{}"):
    """The picture, changed by each strength."""
    changed = [change(plain["image"], strength).clamp(0, 1)[0] for strength in strengths]
    plots.show_images(changed, [said.format(strength) for strength in strengths], height=1.7)


row(blurred, (0.0, 0.0025, 0.005, 0.01, 0.02), "σ = {} of the side")


# %% [markdown]
# *From left to right: a σ of 0, ¼, ½, 1 and 2 percent of the picture's shorter side.*
#
# ### Exercise 09.8 — brightness and contrast  ●○○ (5 min)
#
# The brightness is an offset, the contrast the paper's one formula here (App. B.6):
#
# $$\mathrm{img} \leftarrow (\mathrm{img} - 0.5)(1 + \mathrm{contrast}) + 0.5 \tag{09.6}$$
#
# The grey that stays as it is isn't the picture's mean but the middle of the scale, 0.5. Write both in one go,
# brightness first, and keep the result within [0, 1] *once*, at the end: what is cut off in between, the contrast can't
# bring back.
#
# <details><summary>Hint</summary>
#
# One line, and `.clamp(0, 1)`.
# </details>

# %% tags=["export"]
@exercise("09.8")
def exposed(image: Tensor, brightness: float, contrast: float) -> Tensor:
    """Pictures (B, 3, H, W) brighter by an offset, then with more (or, below 0, less) contrast; in [0, 1]. App. B.6."""
    raise TODO


# %%
check(exposed)

# %%
row(lambda image, strength: exposed(image, strength, 0.0), (-0.2, -0.1, 0.0, 0.1, 0.2), "brightness {}")
row(lambda image, strength: exposed(image, 0.0, strength), (-0.6, -0.3, 0.0, 0.3, 0.6), "contrast {}")


# %% [markdown]
# ### Colours
#
# Hue and saturation are kornia's: it goes to hue, saturation and value and back. Its hue is in radians, ours in turns.
# Grey is the luma of the picture three times; the paper's "BGR to greyscale" suggests that it reads them with OpenCV.

# %% tags=["export"]
def tinted(image: Tensor, hue: float, saturation: float) -> Tensor:
    """Pictures (B, 3, H, W) with hues turned by `hue` turns of the circle, and `saturation` more of it (−1: none)."""
    from kornia.enhance import adjust_hue, adjust_saturation

    return adjust_saturation(adjust_hue(image, 2 * math.pi * hue), 1 + saturation)


def greyed(image: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) without colours: red, green and blue as bright as they look (ITU-R BT.601)."""
    luma = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return luma.expand_as(image)


# %%
colours = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
assert torch.allclose(tinted(colours, 0.0, 0.0), colours, atol=1e-5)  # exact where it should do nothing
assert torch.allclose(tinted(colours, 1 / 3, 0.0), colours.roll(1, dims=1), atol=1e-5)  # red to green to blue
row(lambda image, strength: tinted(image, strength, 0.0), (-0.1, -0.05, 0.0, 0.05, 0.1), "hue {}")
row(lambda image, strength: tinted(image, 0.0, strength), (-0.6, -0.3, 0.0, 0.3, 0.6), "saturation {}")


# %% [markdown]
# ### JPEG
#
# kornia has a JPEG whose gradient one can take, built of torch's operations. We need no gradient here, so Pillow's
# writes and reads the real thing, in memory.

# %% tags=["export"]
def compressed(image: Tensor, quality: int) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as they come back from a JPEG of this quality, 1 to 100."""
    found = []
    for pixels in (255 * image).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(found).permute(0, 3, 1, 2) / 255


# %%
row(compressed, (95, 60, 30, 10, 3), "quality {}")

# %%
import time

from kornia.enhance import jpeg_codec_differentiable


def milliseconds(change, image):
    """The shortest of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        change(image)
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


def compare_times(pieces, sides):
    """A line for each piece: milliseconds for a picture of each size."""
    print(f"{'pixels a side':22s}" + "".join(f"{side:10d}" for side in sides))
    for name, change in pieces.items():
        taken = [milliseconds(change, torch.rand(1, 3, side, side)) for side in sides]
        print(f"{name:22s}" + "".join(f"{value:7.1f} ms" for value in taken))


SIDES = pick(smoke=(64,), laptop=(128, 256, 512))
jpegs = {"Pillow's JPEG": lambda image: compressed(image, 60)}
jpegs["kornia's JPEG"] = lambda image: jpeg_codec_differentiable(image, torch.tensor([60.0]))
compare_times(jpegs, SIDES)
smooth = torch.nn.functional.interpolate(plain["image"], size=(64, 64), mode="area")
first, second = [jpeg_codec_differentiable(smooth, torch.tensor([60.0])) - smooth, compressed(smooth, 60) - smooth]
print(f"mean change of a pixel: kornia's {first.abs().mean():.4f}, Pillow's {second.abs().mean():.4f}")
assert 0.5 < first.abs().mean() / second.abs().mean() < 2

# %% [markdown]
# Both spoil a picture about as much; Pillow's is the faster one, so it is ours.
#
# ### Noise
#
# **The question.** What does a sensor's noise look like when one turns up its sensitivity (ISO)?
#
# **The idea.** Light comes in portions. If a white pixel catches $1/g$ photons, one of brightness $x$ catches $x/g$ on
# average, and how many it *really* is, $k$, follows **Poisson's** law, whose variance equals its mean. In units of
# brightness that number is taken times $g$. On top comes what the electronics add, whatever the light: a **Gaussian**
# of standard deviation $\sigma$. App. B.6 says it in words, after Hewitt et al.; the equation is
#
# $$\hat x = g\,k + \sigma\,\varepsilon,\quad k\sim\mathrm{Poisson}(x/g),\ \varepsilon\sim\mathcal N(0,1)
# \quad\Longrightarrow\quad \mathbb E\,\hat x = x,\quad \operatorname{Var}\hat x = g\,x + \sigma^2. \tag{09.7}$$
#
# A straight line over the brightness: the slope is the gain, the value at black is the electronics' σ². This is how
# cameras are calibrated ("photon transfer").

# %%
from sympy.stats import Normal, Poisson, E, variance

x, g, s = sympy.symbols("x g sigma", positive=True)
portions, electronics = Poisson("P", x / g), Normal("e", 0, 1)
assert sympy.simplify(g * E(portions) + s * E(electronics) - x) == 0
assert sympy.simplify(g**2 * variance(portions) + s**2 * variance(electronics) - (g * x + s**2)) == 0


# %% [markdown]
# ### Exercise 09.9 — ISO noise  ●●○ (10 min)
#
# Write equation 09.7. A gain of 0 means light without portions: no Poisson noise, not a division by zero. Every random
# number comes from `generator`, so that a run that is resumed sees the same noise. Don't clamp: the caller does.
#
# <details><summary>Hint</summary>
#
# `torch.poisson(rates, generator=generator)` draws a number for each rate.
# </details>

# %% tags=["export"]
@exercise("09.9")
def iso_noise(image: Tensor, gain: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W), not below 0, with noise of variance gain · image + sigma². Equation 09.7, App. B.6."""
    raise TODO


# %%
check(iso_noise)

# %%
levels, generator = torch.linspace(0, 1, 21), torch.Generator().manual_seed(0)
patches = levels.view(1, 1, 21, 1).expand(1, 3, 21, 4000)
figure, ax = plt.subplots(figsize=(5.4, 3), layout="constrained")
for gain, sigma in ((0.01, 0.0), (0.01, 0.05), (0.003, 0.05)):
    measured = iso_noise(patches, gain, sigma, generator).var((0, 1, 3))  # (21,)
    slope, black = np.polyfit(levels, measured, 1)
    assert abs(slope / gain - 1) < 0.05 and abs(black - sigma**2) < 1e-4
    (dots,) = ax.plot(
        levels,
        measured,
        "o",
        ms=4,
        label=f"g = {gain}, σ = {sigma}: fitted {slope:.4f}, {black**0.5 if black > 0 else 0:.3f}",
    )
    ax.plot(levels, gain * levels + sigma**2, color=dots.get_color())
ax.set(xlabel="brightness", ylabel="variance")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# *Dots: measured on 12,000 pixels each. Lines: equation 09.7.*

# %%
seeded = torch.Generator().manual_seed(0)
row(lambda image, gain: iso_noise(image, gain, 0.0, seeded), (0.0, 0.003, 0.01, 0.03, 0.1), "Poisson, g = {}")
row(lambda image, sigma: iso_noise(image, 0.0, sigma, seeded), (0.0, 0.01, 0.02, 0.05, 0.1), "Gauss, σ = {}")


# %% [markdown]
# *Above: the light's own noise is large where the picture is bright. Below: the electronics' is the same everywhere, so
# it is the shadows that suffer.* A real sensor counts *before* gamma brightens the shadows; the paper adds its noise to
# the picture as it is, as far as it says, and so do we.
#
# ### All together
#
# In the order in which a camera works: lens, sensor, processing, storage (the paper gives none). Each with its own
# chance; every random number from one generator.

# %% tags=["export"]
def photographed(augmentation: Augmentation, image: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (1, 3, H, W) in [0, 1] as a worse camera would have taken them. App. B.6."""
    a, draw = augmentation, partial(uniform, generator)
    changes: list[tuple[float, Callable]] = [
        (a.chance, lambda x: blurred(x, draw(0, a.blur))),
        (a.chance, lambda x: iso_noise(x, draw(0, a.gain), draw(0, a.sigma), generator)),
        (a.chance, lambda x: exposed(x, draw(-a.brightness, a.brightness), draw(-a.contrast, a.contrast))),
        (a.chance, lambda x: tinted(x, draw(-a.hue, a.hue), draw(-a.saturation, a.saturation))),
        (a.grey, greyed),
        (a.chance, lambda x: compressed(x, round(draw(*a.quality)))),
    ]
    for chance, change in changes if a.on else ():
        if draw(0, 1) < chance:
            image = change(image).clamp(0, 1)
    return image


def augmented(augmentation: Augmentation, size: tuple[int, int], batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one `packed` sample of any size -> floats of `size`, augmented: image (1, 3, H, W) and alpha (1, H, W)
    in [0, 1], depth (1, H, W) in metres, 0 where nobody is, normals (1, 3, H, W), unit vectors or 0. App. B.6."""
    batch = zoomed(augmentation, size, unpacked(batch), generator)
    return batch | {"image": photographed(augmentation, batch["image"].clamp(0, 1), generator)}


# %% [markdown]
# And how streams take it, from memory (`TensorStream`) and from shards (`ShardStream`):

# %% tags=["export"]
def transform(augmentation: Augmentation, size: tuple[int, int]) -> Callable:
    """For a `TensorStream` over `packed` samples: (batch of one, generator) -> `augmented`."""
    return partial(augmented, augmentation, size)


def prepare(augmentation: Augmentation, size: tuple[int, int]) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> the same, without the dimension B."""
    return partial(prepared, augmentation, size)


def prepared(augmentation: Augmentation, size: tuple[int, int], sample, rng: np.random.Generator) -> Batch:
    """See `prepare`."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = {name: values[None] for name, values in packed(sample).items()}
    return {name: values[0] for name, values in augmented(augmentation, size, batch, generator).items()}


# %%
from course_lib.data.streams import TensorStream

rows = [packed(sample) for sample in people]
tensors = {name: torch.stack([one[name] for one in rows]) for name in rows[0]}
stream = TensorStream(tensors, transform=transform(Augmentation(), SHAPE))
batch = next(stream.batches(0, 12))
again = next(TensorStream(tensors, transform=transform(Augmentation(), SHAPE)).batches(0, 12))
assert all(torch.equal(batch[name], again[name]) for name in batch)  # the same numbers, the same pictures
plots.show_images(list(batch["image"]), columns=6, height=1.8)

# %% [markdown]
# *Twelve pictures as a network in training gets them.* What does it take?

# %%
pieces = {"blur": lambda image: blurred(image, 0.005), "hue, saturation": lambda image: tinted(image, 0.05, 0.3)}
pieces["Poisson and Gauss"] = lambda image: iso_noise(image, 0.01, 0.02, generator)
pieces["JPEG"] = lambda image: compressed(image, 60)
compare_times(pieces, SIDES)
start, count = time.perf_counter(), pick(smoke=3, laptop=40)
for _ in range(count):
    augmented(Augmentation(), SHAPE, one, generator)
print(
    f"all together, {count} pictures of {SHAPE}: {1000 * (time.perf_counter() - start) / count:.1f} ms each on average"
)

# %% [markdown]
# *The shortest of three; then the average with every piece by its chance.* The noise and the way to hue and back are
# the expensive ones, and each runs only three times in ten.
#
# ### What the paper doesn't do: turning and mirroring
#
# No rotation and no flip is among the paper's augmentations. Whoever adds one has to *turn the normals*: a vector that
# points to the right in the picture points to the left in a mirror. Chapter 08's `mirrored` negates x. And in a picture
# that is turned by $\theta$ counter-clockwise,
#
# $$\begin{pmatrix} n_x' \\ n_y' \end{pmatrix} = \begin{pmatrix}\cos\theta & -\sin\theta\\ \sin\theta &
# \cos\theta\end{pmatrix}\begin{pmatrix} n_x \\ n_y\end{pmatrix},\qquad n_z' = n_z. \tag{09.8}$$
#
# A test that needs no photograph: **a ball**. Mirrored or turned, it looks the same, and so must its normal map.

# %%
from course_lib.chapters.sapiens_dense import mirrored

v, u = torch.meshgrid(*(2 * (torch.arange(96) + 0.5) / 96 - 1,) * 2, indexing="ij")
there = u.square() + v.square() < 0.8
ball = torch.stack([u, -v, (0.8 - u.square() - v.square()).clamp(min=0).sqrt()])
ball = unit(ball, dim=0) * there  # (3, 96, 96), y up
moved_only = ball.flip(-1)
right = mirrored({"normals": ball[None]})["normals"][0]
assert torch.allclose(right, ball, atol=1e-6) and (moved_only - ball).abs().max() > 1
pictures = [plots.colour_normals(normals.permute(1, 2, 0)) for normals in (ball, moved_only, right)]
plots.show_images(pictures, ["a ball", "pixels mirrored only", "normals mirrored too"], height=2.0)


# %% [markdown]
# ### Exercise 09.10 — turned, normals too  ●●○ (10 min)
#
# The picture is turned for you. Turn its normals, equation 09.8, if it has any. (y is up in the normals, and
# counter-clockwise is as one sees it.)
#
# <details><summary>Hint</summary>
#
# Equation 09.8 is a 3 × 3 matrix whose last row is (0, 0, 1). One `torch.einsum` multiplies it to the three components
# of every pixel. Mind that the angle comes in degrees.
# </details>

# %% tags=["export"]
@exercise("09.10")
def turned(batch: Batch, degrees: float) -> Batch:
    """Unpacked pictures and labels (B, ..., H, W) turned counter-clockwise about their middle, nobody beyond their
    edges; normals (B, 3, H, W; x right, y up) point where they should then."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    values = next(iter(batch.values()))
    height, width = values.shape[-2:]
    rows = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]  # where each pixel comes from
    grid = affine_grid(torch.tensor([rows] * len(values)), [len(values), 1, height, width], align_corners=False)
    found = {name: looked_up(name, values, grid) for name, values in batch.items()}
    raise TODO


# %%
check(turned)

# %%
for degrees in (30, 90, -135):
    again = turned({"normals": ball[None]}, degrees)["normals"][0]
    cosine = (again * ball).sum(0)[there & (again.square().sum(0) > 0.5)]
    print(f"a ball turned by {degrees}°: normals off by {cosine.clamp(-1, 1).acos().rad2deg().mean():.2f}°")
    assert cosine.clamp(-1, 1).acos().rad2deg().mean() < 2
tilted = turned(plain, 25)
pictures = [tilted["image"][0], plots.colour_normals(plain["normals"][0].permute(1, 2, 0))]
pictures += [plots.colour_normals(tilted["normals"][0].permute(1, 2, 0))]
plots.show_images(pictures, ["turned by 25°", "normals before", "and after"], height=2.4)

# %% [markdown]
# *Not quite 0° for the ball: the nearest pixel is up to half a pixel away.*

# %% [markdown]
# ## 7 What the truth teaches
#
# **The question.** One truth about hair is smooth, the other is noise (section 3). Does a network care? It might learn
# to see through the noise.
#
# **The idea.** Let us work out what noise teaches. Where the normal $n$ is left to chance, and its mean isn't 0, the
# loss that compares directions, $1 - n \cdot v$, is smallest on average for
#
# $$v^* = \arg\min_{\lVert v\rVert=1} \mathbb E\,(1 - n\cdot v) = \frac{\mathbb E\,n}{\lVert\mathbb E\,n\rVert}.
# \tag{09.9}$$
#
# So a network that cannot know $n$ learns the *mean* normal. And what is it for a strand? Seen from the side, a
# round strand of width 2 shows us at the place $x \in [-1, 1]$ of its width the normal $(x, \sqrt{1-x^2})$, the second
# number towards us. A pixel may hit any $x$:

# %%
x, angle = sympy.symbols("x phi", real=True)
mean = [sympy.integrate(part, (x, -1, 1)) / 2 for part in (x, sympy.sqrt(1 - x**2))]
print("the mean normal across a strand:", mean)
gain = mean[0] * sympy.sin(angle) + mean[1] * sympy.cos(angle)  # E n · v for a v turned by phi
slope, bend = sympy.diff(gain, angle), sympy.diff(gain, angle, 2)
assert mean == [0, sympy.pi / 4] and slope.subs(angle, 0) == 0 and bend.subs(angle, 0) < 0  # largest at 0


# %% [markdown]
# *Towards us*, wherever the strand lies on the head: sideways nothing is left, and of the way towards us $\pi/4$. (We
# train with chapter 08's loss, which has an L1 term beside the cosine. L1 wants the median of each component instead of
# the mean: $0$ and $\sqrt{3}/2$, the same direction.) So we
# expect a network trained on strand normals to say that hair faces the camera, and to have learned little about the
# shape of a hairdo. The claim can be tested: **two networks, same pictures, same steps, same start; only the
# truth about hair differs**.
#
# The network is chapter 08's predictor of normals, its pictures go through section 6.

# %% tags=["export"]
@dataclass(frozen=True)
class Config:
    """A predictor of normals (chapter 08's), from which of two truths about hair it learns, proxy or strand, and how
    its pictures are augmented."""

    network: sapiens_dense.Config
    hair: str = "proxy"
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        if self.hair not in WORLDS_OF:
            raise ValueError(f"hair={self.hair!r}: its normals are those of one of {', '.join(WORLDS_OF)}")


WORLDS_OF = {"proxy": "synth", "strand": "synth-strand-normals"}  # the same pictures, another truth


def begun(network: sapiens_dense.Config, pretrained: dict[str, Tensor]) -> DensePredictor:
    """A predictor whose encoder is a masked autoencoder's, trained on squares of any size."""
    model, side = DensePredictor(network), math.isqrt(pretrained["pos_embed"].shape[1])
    load_pretrained(model.encoder, pretrained, (side, side))
    return model


def recipe(config: Config, stream: Stream | None, pretrained: dict[str, Tensor] | None = None) -> Recipe:
    """Chapter 08's fine-tuning of a predictor of normals, on batches of `augmented`."""
    plain = sapiens_dense.recipe(config.network, stream)
    return plain if pretrained is None else replace(plain, model=partial(begun, config.network, pretrained))


# %% tags=["export"]
def for_normals(size: int, width: int, depth: int, heads: int, **options) -> sapiens_dense.Config:
    """A predictor of normals on squares of `size` pixels, in patches of 8."""
    return sapiens_dense.for_task(sapiens_dense.Config((size, size), 8, width, depth, heads, **options), "normals")


CONFIGS = {
    "smoke": Config(for_normals(32, 32, 2, 2, channels=16, pictures=6, batch_size=2, steps=3, warmup=1)),
    "laptop": Config(for_normals(96, 192, 6, 6, channels=64, pictures=360, batch_size=16, steps=150, lr=1e-3,
                                 warmup=15)),
    "gpu": Config(for_normals(256, 192, 6, 6, channels=64, pictures=6000, batch_size=32, steps=6000, lr=1e-3,
                              warmup=100)),
}  # fmt: skip

# %%
from course_lib import shipped
from course_lib.chapters.sapiens_pretraining import CONFIGS as PRETRAINING
from course_lib.chapters.sapiens_pretraining import MaskedAutoencoder, encoder_state
from course_lib.data.sets import people_samples
from course_lib.scale import scale
from course_lib.train import fit

config = CONFIGS[scale()]
side, tested = config.network.size[0], pick(smoke=4, laptop=72)
pretrained = None
if scale() == "laptop" and shipped.available("sapiens_pretraining-people"):
    autoencoder = MaskedAutoencoder(PRETRAINING["shipped"])
    shipped.load(autoencoder, "sapiens_pretraining-people")
    pretrained = encoder_state(autoencoder)
print("a random encoder" if pretrained is None else "chapter 06's encoder")


# %%
def stacked(samples):
    """Samples -> `packed`, one above the other."""
    rows = [packed(sample) for sample in samples]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


train = {hair: stacked(people_samples(world, config.network.pictures, side)) for hair, world in WORLDS_OF.items()}
held = list(people_samples("synth", tested, side, "test"))
assert all(torch.equal(train["proxy"][name], train["strand"][name]) for name in ("image", "alpha", "depth"))
apart = (train["proxy"]["normals"] != train["strand"]["normals"]).any(1).float().mean()
print(f"{len(held)} held-out pictures; the truths differ in {apart:.1%} of the pixels")

# %%
differ = (train["proxy"]["normals"] != train["strand"]["normals"]).any(1).flatten(1).sum(1)
most = differ.argsort(descending=True)[: pick(smoke=2, laptop=6)].tolist()
rows = [[train["proxy"]["image"][i].numpy() / 255 for i in most]]
rows += [[plots.colour_normals(train[hair]["normals"][i].permute(1, 2, 0).numpy() / 127) for i in most]
         for hair in ("strand", "proxy")]  # fmt: skip
plots.show_images([picture for row in rows for picture in row], columns=len(most), height=1.5)

# %% [markdown]
# *Above: pictures. Middle: the target from the strands' normals. Below: the target from the proxy.*

# %%
models, losses = {}, {}
for hair in WORLDS_OF:
    own = replace(config, hair=hair)
    stream = TensorStream(train[hair], transform=transform(own.augmentation, own.network.size))
    run = fit(recipe(own, stream, pretrained))
    models[hair], losses[hair] = run.model, run.losses
plots.curve({f"{hair} normals": plots.smooth(values) for hair, values in losses.items()}, xlabel="step", ylim=(0, None))


# %% [markdown]
# *The training loss.* On noise it must end higher, whatever has been learned. So we ask both networks about people whom
# neither has seen, and take the smooth truth for both.

# %%
@torch.no_grad()
def said(model, samples):
    """Unit normals (N, 3, H, W) for samples."""
    images = torch.stack([torch.from_numpy(sample.image) for sample in samples])
    return unit(torch.cat([model(part).float() for part in images.split(16)]), dim=1)


truth = torch.stack([torch.from_numpy(sample.normals) for sample in held])  # (N, 3, H, W)
parts = torch.stack([torch.from_numpy(sample.parts) for sample in held])
where = {"hair": parts == PART_IDS["Hair"], "face": parts == PART_IDS["Face_Neck"]}
answers = {hair: said(model, held) for hair, model in models.items()}


def degrees_apart(first, second, mask):
    """Mean angle in degrees between normals (N, 3, H, W) where the mask (N, H, W) is set."""
    cosine = (first * second).sum(1)[mask & (truth.norm(dim=1) > 0.5)]
    return cosine.clamp(-1, 1).acos().rad2deg().mean().item()


# %% tags=["result"]
towards_us = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None].expand_as(truth)
rules = {"towards us": towards_us, "learned from strands": answers["strand"], "from the proxy": answers["proxy"]}
print(f"{'degrees off':22s}{'hair':>8s}{'face':>8s}   {'hair, from the way to us':>24s}")
off = {}
for name, answer in rules.items():
    off[name] = {place: degrees_apart(answer, truth, mask) for place, mask in where.items()}
    lean = degrees_apart(answer, towards_us, where["hair"])
    print(f"{name:22s}{off[name]['hair']:8.1f}{off[name]['face']:8.1f}   {lean:24.1f}")
if scale() != "smoke":
    assert off["from the proxy"]["hair"] < off["learned from strands"]["hair"]

# %% [markdown]
# *Mean angles in degrees to the smooth truth, and on hair to the direction towards us; 72 pictures, one run each.* On
# faces, where both truths are the same, the two networks are equally good. On hair the one that learned from strands is
# off by half as much again, and leans towards us, as equation 09.9 foretold: from the same pictures it has learned much
# less of how a hairdo is rounded. (It need not face us wholly. A strand that runs away from us shows us its flank at a
# slant, and its mean normal lies across *it*.) So A.1 is no cosmetics: the proxy makes the shape of hair learnable.

# %%
best = where["hair"].flatten(1).sum(1).argsort(descending=True)[: pick(smoke=2, laptop=6)].tolist()
rows = [[held[i].image for i in best]]
rows += [[plots.colour_normals(maps[i].permute(1, 2, 0).numpy() * (parts[i] > 0).numpy()[..., None]) for i in best]
         for maps in (truth, answers["strand"], answers["proxy"])]  # fmt: skip
plots.show_images([picture for row in rows for picture in row], columns=len(best), height=1.6)

# %% [markdown]
# *From top to bottom: people whom neither has seen; the truth; what the network says that learned from strands; and the
# one from the proxy.* Look at the crowns: green is up, and the third row has much less of it than the last.

# %% [markdown]
# ## 8 What it costs
#
# **The question.** The paper's 300,000 pictures "took 72 hours on a cluster of 300 machines with M60 GPUs" (§3.1). What
# would as many of ours take?

# %%
PAPER = {"pictures": 300_000, "hours": 72, "machines": 300}
machine_hours = PAPER["hours"] * PAPER["machines"]
print(f"the paper: {machine_hours:,} machine-hours, {PAPER['pictures'] / machine_hours:.1f} pictures in each")
print(f"           a picture every {3600 * machine_hours / PAPER['pictures']:.0f} s of a machine")
assert machine_hours == 21_600

# %% [markdown]
# A footnote adds: "The cost is equivalent to 2 weeks of an A100 machine with 4 GPUs." Let us see.

# %%
from course_lib.chapters.scaling import GPUS

gpu_hours = 2 * 7 * 24 * 4
M60 = 9.65e12  # FLOP/s in 32 bits at best, both chips of the card: NVIDIA's data sheet
print(f"2 weeks of 4 A100: {gpu_hours:,} GPU-hours, {gpu_hours / 500:.1f} trainings of 500 GPU-hours")
worth, peaks = machine_hours / gpu_hours, GPUS["A100-80GB"].fp32 / M60
print(
    f"one A100 stands for {worth:.0f} machines with an M60; its peak in 32 bits is {peaks:.1f} times that of the card"
)
assert gpu_hours == 1344

# %% [markdown]
# By the footnote sixteen machines count as one A100; by the peak arithmetic of the cards it would be two (if a machine
# has one card; the paper doesn't say). So "cost" can't mean work; perhaps it means money, for which no prices are
# given. Whatever it means: by this footnote **the data cost less than three trainings** (500 GPU-hours each, from the
# model cards), and they are paid for once.
#
# Ours, measured now, on one core: pictures of the release's size.

# %%
SIZE = pick(smoke=(64, 48), laptop=(512, 384))
torch_threads = torch.get_num_threads()
torch.set_num_threads(1)
next(render_samples(WORLD, "train", 0, 0, SIZE))  # the first loads the assets
start, count = time.perf_counter(), pick(smoke=3, laptop=20)
for index in range(count):
    next(render_samples(WORLD, "train", 0, index, SIZE))
rate = count / (time.perf_counter() - start)
torch.set_num_threads(torch_threads)
print(f"{rate:.2f} pictures a second and core at {SIZE[0]} x {SIZE[1]}: {3600 * rate:,.0f} in a core-hour")

# %% [markdown]
# A core makes in a second what one of their machines makes in minutes. That is no feat: ours are triangles, a few
# lights and a shadow map, and they look like it; theirs are nearly photographs. What is the same is that every label is
# *exact*, and that is what this chapter is about.
#
# ### The launch
#
# Rendering needs no network between machines: a scene depends on its number and the seed alone. So 300,000 pictures are
# a Slurm **job array**: 1,250 shards of 240 pictures, dealt out to 10 tasks of 8 cores. A task that is killed is queued
# again and goes on at its first missing shard; when all have ended, one last task takes the shards in and writes the
# manifest. By hand it is `course data make WORLD ... --part K/N` for each K, then once without `--part`.

# %%
from course_lib import launch

job = launch.rendering(WORLD, 300_000, size=(512, 384), tasks=10, cores=8, rate=rate)
assert job.settings().shard_count == 1250 and math.isclose(job.core_hours, 300_000 / rate / 3600)
print(job.plan())
job.submit("data/synth-300k", dry_run=True)

# %% [markdown]
# (The plan's core-hours are those of the pictures measured above: at `smoke` they are smaller than the job's.) The
# proof: two tasks, really started, on eight tiny pictures. One is killed in the midst of its second picture and started
# again.

# %%
print(job.prove() if pick(smoke=False, laptop=True) else "the proof is run at laptop, and in the course's tests")

# %% [markdown]
# ## What to remember
#
# - Rendered data have no opinion of their own: what varies is what somebody's table says, and a group that the table
#   forgets is not there.
# - Coverage makes a mask soft: a strand thinner than a pixel covers a share of it; shares are blended front to back.
# - A label is a decision. Hair has no normal of its own that a pixel could show; the proxy mesh decides. Glass has two
#   depths; a switch decides.
# - What a network can't predict it averages. Noise in a target doesn't only slow it down: it teaches what is best on
#   average, the mean or the median, as the loss has it.
# - A layout is names; a meaning is units, axes and the word for "nothing". Measure the axes before you trust them.
# - Whatever moves a picture moves its labels, and whatever turns it turns its normals.
#
# ## What the paper leaves open
#
# The tables of shares. The size of the voxels and the level of the surface. How lenses are told from frames. Every
# range and chance of the augmentation. Whether the released depth has 16 bits or 32, and which way the released
# normals' axes point. Where the noise is added, before gamma or after it. What a rendered picture costs in anything but
# machine-hours.
#
# ## Where to read on
#
# - E. Wood et al., *Fake it till you make it*, ICCV 2021: faces from synthetic data alone, and what it took.
# - C. Hewitt et al., *Look Ma, no markers*, 2024: the pipeline that SynthHuman is made with.
# - J. Kajiya and T. Kay, *Rendering fur with three dimensional textures*, SIGGRAPH 1989: the light along a strand.
# - T. Porter and T. Duff, *Compositing digital images*, SIGGRAPH 1984: equation 09.4 and its relatives.
# - W. Lorensen and H. Cline, *Marching cubes*, SIGGRAPH 1987.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

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
# coverage; a voxel grid and a proxy mesh that tell hair its normals; glasses whose lenses can be in the truth or not.
#
# | | |
# |---|---|
# | **You should know** | chapter 02 (skinning), 03 (rasteriser, labels) |
# | **Reading** | 35 minutes |
# | **Exercises** | six, about 65 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 1 min on two cores; 2 GB of memory |
# | **From the paper** | DAViD §3.1, §5, Appendix A, Figures 3, 10, 11 |
#
# **Letters.** C channels · F layers of a pixel, in the mesh faces · H W image · N strands, pixels or people · P points
# of a strand · V vertices · X Y Z cubes of a grid.

# %%
# %matplotlib inline
from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import sympy
import torch

from course_lib import plots
from course_lib.scale import pick

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from course_lib.exercises import TODO, check, exercise

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
# wrote down. Nothing is found; so nothing is hidden either. This is the paper's procedure (§3.1 and Appendix A), and
# ours beside it:
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
# many *candidates*, and choose among them with unequal chances. If $n_g$ of the N candidates belong to group g, and its
# share shall be $s_g$, each of them is chosen with
#
# $$w_i = \frac{s_{g(i)}}{n_{g(i)}} \Big/ \sum_{h:\,n_h>0} s_h \tag{09.1}$$
#
# A group without candidates cannot be drawn; its share falls to the others.
#
# ### Exercise 09.1 — shares  ●○○ (8 min)
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
    never drawn, one without a candidate leaves its share to the others. ValueError if nobody can be drawn.
    """
    raise TODO


# %%
check(balancing_weights)

# %% [markdown]
# Counted: a few hundred people as the body model gives them, and as the world `synth` casts them, twelve for every
# sixty pictures. (Of several traits, a group's share is the product: a third of the young women have light skin,
# because a third of everybody has.)

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
# of its thickness, a dark core, so that no skin shines through. From afar, a renderer can do with fewer strands: ours
# draws as few as make each about half a pixel wide. (Widths, core and this rule are our choices.)
#
# ### How a strand grows
#
# A strand is a polyline of P points. The simplest one leaves the skin in some direction, and its own weight bends it a
# little at every step of length ℓ / (P − 1):
#
# $$p_{i+1} = p_i + \frac{\ell}{P-1}\, d_i, \qquad d_{i+1} = \frac{d_i + b\,(0,-1,0)}{\lVert d_i + b\,(0,-1,0) \rVert}
# \tag{09.2}$$
#
# Beards, brows and lashes of our people grow like this. (Hair of the head also follows the way it is combed, within the
# volume of its haircut: `course_lib/data/strands.py`.)
#
# ### Exercise 09.2 — a strand grows  ●●○ (12 min)
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
    """Strands (N, P, 3) in metres that leave roots (N, 3) along directions (N, 3) and bend down: the first is the root.

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
# Seen from afar, a strand is much thinner than a pixel. Its width w and the depth z give its width in pixels, f w / z.
# If ℓ pixels of its length lie in a pixel, the share of the pixel that it covers is
#
# $$\alpha = \min\Big(1,\; \frac{f\,w}{z}\,\ell\Big) \tag{09.3}$$

# %% tags=["export"]
def coverage(width: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Share (N,) of a pixel that a strand covers, `width` pixels wide, with `length` pixels of it in the pixel.

    At most 1. ValueError for a negative width or length."""
    if np.min(width, initial=0) < 0 or np.min(length, initial=0) < 0:
        raise ValueError("a strand's width and length cannot be negative")
    return np.minimum(width * length, 1.0)


# %% [markdown]
# Summed over all pixels, the coverage has to be the strand's area: nothing is lost between pixels, and nothing is
# counted twice. A strand 0.3 pixels wide, across a grid, cut into short pieces:

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
# of what is left of the light, which is the *transmittance* $T_i$, and adds its colour $c_i$:
#
# $$T_i = \prod_{j<i} (1-\alpha_j), \qquad C = \sum_{i=1}^{F} T_i\,\alpha_i\,c_i + T_{F+1}\,c_{\text{behind}}
# \tag{09.4}$$
#
# This takes the strands of a pixel to lie where they will, independent of each other: two that cover half of it each
# leave a quarter free. The mask of such a pixel is $1 - T_{F+1}$: *soft*.

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
from course_lib.data.views import camera_at, unit
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
    camera = camera_at(head + away * unit(turn, 0.08), head, 2.2 * size, (size, size))
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
# it is another strand, or another side of it: the picture doesn't tell which, so for a network it is noise. What
# people mean by the normal of hair is the shape of the *hairdo*. So: fill a voxel grid with strands, let marching cubes
# find the surface around them, a *proxy mesh*, and give each point of a strand the normal of the proxy's nearest point.
# The strands keep their outline, their depth and their alpha; only the normals come from the proxy.
#
# ### Exercise 09.4 — voxelise  ●●○ (12 min)
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

    Cubes are `cell` metres wide; `margin` empty ones surround all points. Point p is in cube floor((p - corner)
    / cell). ValueError without points.
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
# *Our Figure 10: strand normals, proxy mesh, and what we train on.* How noisy is noise? The mean angle between the
# normals of neighbouring pixels, both hair:

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
# relights a face wants the eye. The paper ignores lenses in the truth that its pictures show, and can choose. A lens
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

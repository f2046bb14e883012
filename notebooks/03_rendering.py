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
# # Chapter 03: Rendering
#
# Nobody can look at a photograph and say to the millimetre how far away each pixel is, or which way the surface there
# faces. A renderer has to know both, or it could not have drawn the pixel. Two of our five papers are built on that.
#
# - **Sapiens** (§3.5, §3.6) fine-tunes its depth and normal models on 500,000 pictures rendered from 600 scanned
#   people in 100 environments, with random focal length, rotation and translation, and on nothing else.
# - **DAViD** (§3.1, supplement A) goes further: its models have *only* seen rendered people, 300,000 pictures,
#   equal shares of faces, upper bodies and full bodies, each with a soft mask, depth and normals that are exact by
#   construction. Scans, it argues, are too coarse for hair, eyelids and glasses (its Figure 4).
#
# **What you will build**: the machine behind such data, a **rasteriser**, and with it the picture below. One posed body
# as colour, coverage (alpha), depth, normals, body parts and triangles: six answers to one question, *which triangle
# does this pixel see, and where on it?*
#
# | | |
# |---|---|
# | **You should know** | chapters 01 (cameras, conventions) and 02 (the body); basic PyTorch |
# | **Reading** | 60 minutes |
# | **Exercises** | ten, about 85 minutes |
# | **Runs** | `smoke` 15 s · `laptop` 30 s on a CPU, under 2 GB of memory; nothing is trained here |
# | **From the papers** | DAViD §3.1 and supplement A · Sapiens §3.5, §3.6 |
#
# **Letters.** B batch · H W image · V vertices · F faces · C channels; and in this chapter N triangles, M pieces of
# them, P pixels or points; $K$ is the matrix of a camera's lens, as in chapter 01. A **face** is a triangle of a
# mesh: three vertex ids.

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import numpy as np
import trimesh
from ipywidgets import interactive

from course_lib import plots
from course_lib.chapters.bodies import JOINT_NAMES, BodyModel
from course_lib.scale import pick

# %% tags=["export"]
from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor
from torch.nn.functional import normalize

from course_lib.chapters.cameras import Camera
from course_lib.exercises import TODO, check, exercise

NEAR = 0.01  # metres: nothing nearer to the camera than this is drawn
LARGEST_SIZE = 32_767  # pixels: rows and columns are packed into 16 bits each
NOTHING = torch.iinfo(torch.int64).max  # the key of a pixel that no face covers

# %% [markdown]
# The person of this chapter is chapter 02's body, arms down, in mannequin grey. (Clothes come at the end.)

# %%
torch.set_num_threads(1)  # many small steps: on a busy machine a second thread costs more than it brings
body = BodyModel.from_npz()
faces = body.faces
pose = torch.zeros(1, 55, 3)
for joint, turn in {"left_shoulder": (0.1, -0.2, -1.05), "right_shoulder": (0.1, 0.5, 0.85), "left_elbow": (0, -0.4, 0),
                    "right_elbow": (0, 1.1, 0), "head": (0.1, 0.3, 0), "left_hip": (-0.3, 0, 0.05),
                    "left_knee": (0.4, 0, 0), "spine2": (0.05, 0.15, 0.05)}.items():  # fmt: skip
    pose[0, JOINT_NAMES.index(joint)] = torch.tensor(turn)
with torch.no_grad():
    person, joints = body(pose=pose)  # (1, V, 3), (1, 55, 3)
head = joints[0, JOINT_NAMES.index("head")] + torch.tensor([0.0, 0.03, 0.03])  # the joint is at the neck's upper end
drawn = person[:, faces.unique()]  # without the vertices that no face uses
low, high = drawn.amin(1), drawn.amax(1)  # (1, 3) each
middle = (low + high) / 2
print(f"{drawn.shape[1]:,} vertices, {len(faces):,} faces, {(high - low)[0, 1]:.2f} m tall")


# %%
def look(size, yaw=25.0, distance=3.2, zoom=1.65, target=None, height=0.25):
    """A camera `distance` metres from the person, `yaw` degrees to her left."""
    angle = torch.tensor(yaw).deg2rad()
    target = middle if target is None else target
    eye = target + torch.stack([angle.sin() * distance, torch.tensor(height), angle.cos() * distance])
    return Camera.look_at(eye, target, focal=zoom * size, size=(size, size))


# %%
import course_lib.chapters.rendering as finished  # what this chapter builds, complete: only for this first picture
from course_lib.data.parts import PART_IDS, joint_class

camera = look(288)
fragments = finished.rasterize(person, faces, camera, 288)
seen = fragments.face[0] >= 0  # (H, W)
normals = normalize(finished.interpolate(fragments, faces, finished.vertex_normals(person, faces)), dim=-1)
colour = finished.shade(torch.full_like(normals, 0.75), normals, normalize(torch.tensor([0.5, 0.6, 0.8]), dim=0))
part_of_joint = torch.tensor([PART_IDS[joint_class(name)] for name in JOINT_NAMES])
part_of_vertex = part_of_joint[body.weights.argmax(1)]  # (V,)
parts = part_of_vertex[faces[fragments.face[0], 0]] * seen
pictures = [colour[0] * seen[..., None] + ~seen[..., None], seen.float(), plots.colour_depth(fragments.depth[0])]
pictures += [plots.colour_normals(finished.camera_normals(normals, camera)[0]), plots.colour_parts(parts)]
pictures += [plots.colour_ids(fragments.face[0], nothing=-1)]
titles = ["colour", "alpha", "depth", "normals", "parts", "faces"]
plots.show_images([p[:, 62:-62] for p in pictures], titles, height=3.1)


# %% [markdown]
# *From left to right: a shaded grey body; white where there is a person; bright where she is near; the direction
# that each point faces as a colour (red: right, green: up, blue: toward us); body parts; 27,420 triangles, a colour
# each.*

# %% [markdown]
# ## 1 One triangle
#
# **The question.** A triangle's corners are three points on the picture. Which pixels does it cover?
#
# **The idea.** A triangle is what lies on the same side of three lines. So the only question that we ever have to
# answer is on which side of the line through $a$ and $b$ a point $p$ lies. Take the two arrows $b - a$ and $p - a$;
# the area of the parallelogram between them, with a sign for the direction of the turn, is the **edge function**
# (Pineda 1988):
#
# $$E_{ab}(p) = (b_x - a_x)(p_y - a_y) - (b_y - a_y)(p_x - a_x). \tag{03.1}$$
#
# It is zero on the line, and grows with the distance to it. The sign needs care: in a picture $y$ points *down*, so
# $E_{ab}(p)$ is positive where $a \to b \to p$ turns **clockwise** as we see it. (If $b$ is to the right of $a$, then
# $p$ is below the line.)
#
# ### Exercise 03.1 — the edge function  ●○○ (5 min)
#
# Write equation 03.1 for points with any number of leading dimensions.
#
# <details><summary>Hint</summary>
#
# `a.unbind(-1)` gives `a_x, a_y`. PyTorch lines up the leading dimensions by itself: `a` may be `(2,)` while `p` is
# `(H, W, 2)`.
# </details>

# %% tags=["export"]
@exercise("03.1")
def edge_function(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Twice the area of the triangle a, b, p, each (..., 2); positive where it turns clockwise on the screen (y down).

    Pineda 1988, "A parallel algorithm for polygon rasterization".
    """
    raise TODO


# %%
check(edge_function)


# %% [markdown]
# **Where is a pixel?** A pixel is a square; the triangle covers it or not according to one point of it, its centre.
# In this course (chapter 01) the centre of row $i$, column $j$ is at $(x, y) = (j + 0.5, i + 0.5)$. Forgetting the
# half is an easy mistake in code that makes labels, and hard to see: everything fits together, half a pixel too far
# up and to the left.
#
# ### Exercise 03.2 — pixel centres  ●○○ (4 min)
#
# Chapter 01 gave you this grid ready-made (`pixel_centers`). Write it once yourself: the (x, y) of every pixel's
# centre.
#
# <details><summary>Hint</summary>
#
# `torch.meshgrid(rows, columns, indexing="ij")` makes two (H, W) tensors. Then stack $x$ (from the columns!) before
# $y$.
# </details>

# %% tags=["export"]
@exercise("03.2")
def pixel_centres(size: tuple[int, int]) -> Tensor:
    """size (H, W) -> the (x, y) of every pixel's centre (H, W, 2), float32."""
    raise TODO


# %%
check(pixel_centres)

# %%
triangle = torch.tensor([[8.0, 4.0], [36.0, 12.0], [14.0, 30.0]])  # clockwise on the screen
centres = pixel_centres((34, 44))
edges = [edge_function(triangle[i], triangle[(i + 1) % 3], centres) for i in range(3)]
inside = torch.stack(edges).amin(0) > 0
pictures = [edge / edge.abs().max() for edge in edges] + [inside * 2.0 - 1]
titles = ["$E_{ab}$", "$E_{bc}$", "$E_{ca}$", "all three > 0"]
plots.show_images(pictures, titles, height=2.0, cmap="coolwarm", vmin=-1, vmax=1)
for ax in plt.gcf().axes:
    ax.plot(*(triangle[[0, 1, 2, 0]].T - 0.5), color="black", lw=1)
    for label, (x, y) in zip("abc", triangle.tolist(), strict=True):
        ax.text(x - 0.5, y - 0.5, label, fontsize=11, weight="bold", ha="right", va="bottom")
assert abs(int(inside.sum()) - edge_function(*triangle) / 2) < 6  # pixels counted, area computed


# %% [markdown]
# *Three pictures shaded from blue (negative) to red (positive), pale on the lines ab, bc and ca; in the fourth the
# pixels that are on the positive side of all three: the triangle.* Turn the corners around and all signs turn: a
# triangle seen from behind. (Meshes list corners counter-clockwise as seen from outside; here they are clockwise.)
#
# ## 2 Where on the triangle?
#
# **The question.** It is not enough to know *that* a pixel is covered. To give it a colour, a depth, a normal, we
# need to know *where* on the triangle it is.
#
# **The idea.** Hang weights $b_a, b_b, b_c$ with sum 1 on the corners; they balance at the point $p = b_a a + b_b b +
# b_c c$. Those weights are $p$'s **barycentric coordinates**. The weight of a corner is the share of the area
# *opposite* to it, and areas we have:
#
# $$b_a = \frac{E_{bc}(p)}{E_{bc}(p) + E_{ca}(p) + E_{ab}(p)}, \quad
#   b_b = \frac{E_{ca}(p)}{\ldots}, \quad b_c = \frac{E_{ab}(p)}{\ldots}. \tag{03.2}$$
#
# Dividing by the sum also settles the winding: for a triangle seen from behind numerator and denominator are both
# negative. So "inside" is simply: all three weights are positive.
#
# ### Exercise 03.3 — barycentric coordinates  ●○○ (8 min)
#
# Write equation 03.2 for one triangle (3, 2) and any number of points (..., 2), with your `edge_function`.
#
# <details><summary>Hint 1</summary>
#
# Corner $a$ has weight 1 where $p = a$. There $E_{ab}$ and $E_{ca}$ are zero. Which one is left?
# </details>
# <details><summary>Hint 2</summary>
#
# Stack the three edge functions in a new last dimension, that of corner $a$ first; then divide by their sum over that
# dimension (`keepdim=True`).
# </details>

# %% tags=["export"]
@exercise("03.3")
def barycentric_coordinates(triangle: Tensor, points: Tensor) -> Tensor:
    """triangle (3, 2), points (..., 2) -> the weights (..., 3) of its corners, which sum to 1."""
    raise TODO


# %%
check(barycentric_coordinates)

# %%
weights = barycentric_coordinates(triangle, centres)  # (H, W, 3)
inside = (weights > 0).all(-1)
assert torch.allclose((weights @ triangle)[inside], centres[inside], atol=1e-4)  # they balance at the pixel
plots.show_images([torch.where(inside[..., None], weights, 1.0)], ["weights as red, green, blue"], height=2.0)


# %% [markdown]
# *A triangle whose corners are pure red, green and blue, blending in between: the picture that every graphics
# course starts with, and the weights themselves.*
#
# ## 3 The camera bends the weights
#
# **The question.** The weights balance on the *picture*. Do they balance on the triangle in *space*, too?
#
# **The idea.** No. Stand at the end of a long fence: its middle post is not in the middle of the picture. Equal
# steps in the picture are larger steps in space the farther away one looks.
#
# **The equation.** A point of the triangle in space is $X = \sum_i \beta_i X_i$ with the weights $\beta_i$ that we
# want. The camera maps $X$ to the pixel $p$ with $z\,(p, 1)^\top = K X$. Apply $K$ to the sum:
#
# $$z \begin{pmatrix} p \\ 1 \end{pmatrix} = \sum_i \beta_i z_i \begin{pmatrix} p_i \\ 1 \end{pmatrix}
# \quad\Longrightarrow\quad p = \sum_i \frac{\beta_i z_i}{z}\, p_i, \qquad \sum_i \frac{\beta_i z_i}{z} = 1 .$$
#
# So $\beta_i z_i / z$ are weights with sum 1 that balance at $p$, and those are unique: they are the screen's
# $b_i$. Solve for $\beta_i$, and use that the $\beta_i$ sum to 1:
#
# $$\beta_i = \frac{b_i / z_i}{\sum_j b_j / z_j}, \qquad\qquad \frac{1}{z} = \sum_j \frac{b_j}{z_j}. \tag{03.3}$$
#
# The second half matters most: **not depth, but one over depth, is linear on the screen.** That is why graphics
# hardware interpolates $1/z$, and why we shall do so, too.
#
# ### Exercise 03.4 — perspective-correct weights  ●●○ (8 min)
#
# Write both halves of equation 03.3: from the screen's weights and the depths of the corners to the weights in space
# and the depth of each point.
#
# <details><summary>Hint</summary>
#
# `w = weights / depths` are three numbers per pixel; their sum is $1/z$.
# </details>

# %% tags=["export"]
@exercise("03.4")
def perspective_correct(weights: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Screen weights (..., 3) and the corners' depths (3,) -> the weights in space (..., 3), the depth there (...)."""
    raise TODO


# %%
check(perspective_correct)

# %% [markdown]
# Does it make a visible difference? Take a floor of two triangles, 1 m below the camera, with a checkerboard painted
# on it. Each corner knows its place on the floor; the place at a pixel is the weighted mean, once with the screen's
# weights, once with the corrected ones.

# %%
size, f = (60, 90), 60.0
K = torch.tensor([[f, 0, size[1] / 2], [0, f, 10.0], [0, 0, 1]])
floor = torch.tensor([[-1.6, 1.0, 1.25], [1.6, 1.0, 1.25], [-1.6, 1.0, 6.0], [1.6, 1.0, 6.0]])  # x, y, z in the camera
centres, pictures = pixel_centres(size), [torch.full((*size, 3), torch.nan) for _ in range(2)]
for corners in (floor[[0, 1, 2]], floor[[1, 3, 2]]):
    on_screen = barycentric_coordinates((corners @ K.T)[:, :2] / corners[:, 2:], centres)
    in_space, z = perspective_correct(on_screen, corners[:, 2])
    inside = (on_screen > 0).all(-1)
    for picture, weights in zip(pictures, (on_screen, in_space), strict=True):
        picture[inside] = (weights @ corners)[inside]  # the point in space that the pixel is said to see
boards = [((p[..., 0] * 2.5).floor() + (p[..., 2] * 2.5 + 0.2).floor()) % 2 for p in pictures]
titles = ["weights of the screen: wrong", "perspective-correct"]
plots.show_images([0.35 + 0.5 * b for b in boards], titles, height=2.2, vmin=0, vmax=1)

# %%
rays = torch.cat([centres, torch.ones(*size, 1)], -1) @ torch.linalg.inv(K).T  # (H, W, 3)
truth = rays / rays[..., 1:2]  # (H, W, 3), where the ray meets the plane y = 1
errors = [(p - truth).norm(dim=-1).nan_to_num().max().item() for p in pictures]
print(f"largest error on the floor: {errors[0]:.2f} m with the screen's weights, {errors[1]:.6f} m corrected")
assert errors[0] > 0.5 and errors[1] < 1e-4


# %% [markdown]
# *Left: the checkerboard breaks along the diagonal between the two triangles, and its tiles do not shrink with
# distance. Right: a floor.* The small triangles of a body make this error small, but they do not remove it: depth
# labels have it wherever $z$ itself was interpolated.
#
# ## 4 Many triangles: who is in front?
#
# **The question.** A pixel is covered by several triangles. Which one does it see?
#
# **The idea.** The nearest. Keep a picture of the depth seen so far, the **z-buffer** (Catmull 1974), infinite at
# first. A triangle draws where it is inside *and* nearer; at equal depth the one that came first stays.
#
# ### Exercise 03.5 — the depth test  ●●○ (8 min)
#
# Draw one face into the two pictures that are kept so far, nearest depth and its face, and return the new ones.
#
# <details><summary>Hint</summary>
#
# One mask decides both pictures: `closer = inside & (depth < depth_buffer)`. Then `torch.where`.
# </details>

# %% tags=["export"]
@exercise("03.5")
def keep_nearest(
    depth_buffer: Tensor, face_buffer: Tensor, inside: Tensor, depth: Tensor, face: int
) -> tuple[Tensor, Tensor]:
    """Draw one face: where it is `inside` (H, W) and its `depth` (H, W) is nearer, depth and face id replace the old.

    Returns the new depth_buffer (H, W) and face_buffer (H, W) and leaves the old ones as they are. Catmull 1974.
    """
    raise TODO


# %%
check(keep_nearest)


# %% [markdown]
# That is a renderer: a loop around four functions of yours.

# %%
def rasterize_slowly(corners, K, size):
    """Camera-space triangles (F, 3, 3) -> depth, face (H, W): one triangle after another, every pixel each time."""
    centres = pixel_centres(size)
    depth, face = torch.full(size, torch.inf), torch.full(size, -1)
    for index, triangle in enumerate(corners):
        pixels = (triangle @ K.T)[:, :2] / triangle[:, 2:]
        weights = barycentric_coordinates(pixels, centres)
        _, here = perspective_correct(weights, triangle[:, 2])
        depth, face = keep_nearest(depth, face, (weights > 0).all(-1), here, index)
    return depth, face


# %%
sections = pick(smoke=12, laptop=24)
knot = trimesh.creation.torus(major_radius=0.55, minor_radius=0.24, major_sections=sections, minor_sections=12)
turn = trimesh.transformations.euler_matrix(0.9, 0.35, 0)[:3, :3]
ring = torch.tensor(knot.vertices @ turn.T, dtype=torch.float32) + torch.tensor([0.0, 0, 3])
ring_faces = torch.tensor(knot.faces)
K = torch.tensor([[150.0, 0, 48], [0, 150, 48], [0, 0, 1]])
start = time.perf_counter()
slow_depth, slow_face = rasterize_slowly(ring[ring_faces], K, (96, 96))
slow_ms = (time.perf_counter() - start) * 1e3 / len(ring_faces)
plots.show_images([plots.colour_depth(slow_depth), plots.colour_ids(slow_face, nothing=-1)], ["depth", "face"])
loop_ms = slow_ms * len(faces)
print(f"{slow_ms:.2f} ms a face: one body of {len(faces):,} faces at 96 x 96 takes {loop_ms / 1e3:.0f} s")


# %% [markdown]
# *A ring of 576 triangles as depth (bright is near) and as coloured triangles. The near part of the ring hides the
# far one.*
#
# The result is right, and far too slow: each triangle looks at every pixel, though a body's triangles cover only a
# few, and Python starts a dozen operations for each. DAViD's 300,000 pictures would take weeks, at thumbnail size.
#
# ## 5 All triangles at once
#
# **The question.** How does one draw 27,000 triangles of different sizes without a loop over triangles?
#
# **The idea**, in three steps, none of which has a loop:
#
# 1. *A row of a triangle is an interval.* Do not ask each pixel whether it is inside. Ask each **row** of a
#    triangle where two edges cross the row's centre line: the pixels between the crossings are inside.
# 2. *One long list.* Triangles have different numbers of rows, rows have different numbers of pixels. Write all
#    rows of all triangles of the whole batch into one list, then all pixels of all rows into another. (A piece of a
#    triangle at a pixel is called a **fragment**.)
# 3. *One number that knows both.* The z-buffer has to keep the nearest depth *and* remember whose it was. Pack both
#    into one 64-bit integer that sorts by depth; then one `scatter_reduce_(..., "amin")` is the z-buffer of the whole
#    batch.
#
# Step 1 uses the tools of steps 2 and 3, so we build those first.
#
# ### Step 2: the list
#
# How does one write pieces of different lengths into one list? Suppose three rows have 2, 0 and 3 pixels. The list
# has five fragments, and each has to know its row and its place in it:
#
# | fragment | 0 | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | item (row) | 0 | 0 | 2 | 2 | 2 |
# | offset | 0 | 1 | 0 | 1 | 2 |
#
# `torch.repeat_interleave` makes the first line. The second is the fragment's number minus the number of the first
# fragment of its row, and a `cumsum` knows that.
#
# ### Exercise 03.6 — unequal pieces in one list  ●●○ (12 min)
#
# From the lengths of all items, (2, 0, 3) in the example, make the two lines of the table.
#
# <details><summary>Hint 1</summary>
#
# `torch.repeat_interleave(torch.tensor([2, 0, 3]))` is `[0, 0, 2, 2, 2]`.
# </details>
# <details><summary>Hint 2</summary>
#
# `counts.cumsum(0)` is where each item *ends*: `[2, 2, 5]`. It begins `counts` earlier: `[0, 2, 2]`.
# </details>

# %% tags=["export"]
@exercise("03.6")
def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """counts (N,) -> for each of the sum(counts) pieces the item it belongs to, and its place in that item (from 0)."""
    raise TODO


# %%
check(expand)


# %% [markdown]
# (`values.index_select(0, index)` is `values[index]`, on a CPU four times as fast. It is the most frequent
# operation of this chapter: hence the longer name.)
#
# ### Step 3: depth and owner in one number
#
# Two triangles cover a pixel, at 2.31 m and 2.32 m. We want the *smaller depth* and the *face it belongs to*, in
# one go. So we write them one behind the other, like the digits of a number: depth in front, face behind. Then
# "smaller number" means "nearer", and at equal depth "lower face".
#
# Depth is not a whole number, though. Multiply by a million and cut off? Then everything closer than a thousandth
# of a millimetre is a tie, and beyond 2,147 m it overflows. There is a better way that loses nothing: the *bits* of
# a positive float32, read as a 32-bit integer, sort just like the floats. (The exponent stands before the mantissa;
# it is no accident but a decision of IEEE 754.) `depth.view(torch.int32)` reads the bits without converting
# anything.
#
# ### Exercise 03.7 — the key  ●●○ (8 min)
#
# Put depth's bits into the upper 32 bits and the face id into the lower 32.
#
# <details><summary>Hint</summary>
#
# First make the bits an int64 (`.long()`), or there is no room to shift into. `x << 32` shifts, `|` fills the lower
# half.
# </details>

# %% tags=["export"]
@exercise("03.7")
def pack(depth: Tensor, face: Tensor) -> Tensor:
    """Depth (float32, > 0) and face id (int64) -> one int64 that sorts by depth first. Bits in, bits out."""
    raise TODO


# %%
check(pack)

# %%
depth = torch.tensor([2.32, 2.31, 2.31, 1.0e-3, 5.0e4])
key = pack(depth, torch.tensor([7, 900, 12, 3, 4]))
print("order by key:", key.argsort().tolist(), "  faces back:", (key & 0xFFFFFFFF).tolist())
assert key.argsort().tolist() == [3, 2, 1, 0, 4]
keys = torch.full((4,), NOTHING).scatter_reduce_(0, torch.tensor([1, 1, 1, 3, 3]), key, "amin")  # a picture of 4 pixels
assert (keys & 0xFFFFFFFF)[[1, 3]].tolist() == [12, 3] and keys[0] == NOTHING


# %% [markdown]
# ### Step 1: the rows of a triangle
#
# Which pixels of a row are inside the triangle? Sort the corners from top to bottom. The **long** edge goes from the
# top corner to the bottom one; beside it are two **short** ones, above and below the middle corner. Each row of the
# upper half is crossed by the long and the upper short edge, each row of the lower half by the long and the lower
# short edge.
#
# Along an edge, $x$ and $1/z$ are both linear (equation 03.3), so one line of arithmetic gives both crossings of a
# row; and between them $1/z$ is linear again. Nothing is divided by an area that might be zero.
#
# **Ties.** Which pixels lie between the crossings $x_l \le x_r$? Those whose centres are in the half-open
# interval $[x_l, x_r)$: the first is $\lceil x_l - 0.5 \rceil$, and $\lceil x_r - 0.5 \rceil$ is the first that is
# *not*. Rows are treated alike. A centre exactly on the edge between two neighbours thus belongs to the right one
# (or the lower one) and never to both: the **top-left rule** of graphics hardware. It only works because neighbours
# compute the *same* crossing, to the last bit: both sort the edge's two ends from top to bottom, so both do the
# same arithmetic on the same numbers. No hole, no pixel drawn twice.

# %% tags=["export"]
def first_centre(position: Tensor, limit: int) -> Tensor:
    """The index of the first pixel centre at or after a coordinate (...,), kept within [0, limit], int32."""
    return (position - 0.5).ceil().clamp(0, limit).to(torch.int32)


def sort_by_row(points: Tensor, corners: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """points (3, P) as x, y, 1/z; corners (3, N) into them -> rows, corners (3, N) of top, middle and bottom corner."""
    row = first_centre(points[1], height).long()
    key = (row << 32) | torch.arange(len(row), device=row.device)
    a, b, c = (key.index_select(0, corner) for corner in corners)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    top, rest = torch.minimum(low, c), torch.maximum(low, c)
    key = torch.stack([top, torch.minimum(rest, high), torch.maximum(rest, high)])  # (3, N)
    return key >> 32, key & 0xFFFFFFFF


# %% [markdown]
# (`sort_by_row` packs keys once more: row in front, corner behind. Then `minimum` and `maximum` of whole numbers are
# enough to sort three corners.)
#
# In the next cell each triangle has two **halves**, above and below its middle corner: half $2n$ and $2n + 1$ belong
# to triangle $n$. A half has one short edge; both halves share the long one.

# %% tags=["export"]
def edge_line(a: Tensor, b: Tensor) -> Tensor:
    """Edges from a down to b, (3, N) each -> (5, N): x, y, 1/z at the upper end, then x and 1/z gained per row."""
    return torch.cat([a, (b - a)[::2] / (b - a)[1]])


def crossings(lines: Tensor, line: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The x and 1/z (M,) at which lines (5, N)[:, line] pass the heights y (M,)."""
    x0, y0, w0, x_step, w_step = lines.index_select(1, line)
    return x0 + (y - y0) * x_step, w0 + (y - y0) * w_step


class Spans(NamedTuple):
    """Runs of pixels in one row of one triangle each, all (M,)."""

    triangle: Tensor
    row: Tensor
    column: Tensor  # the first column
    count: Tensor  # how many columns
    w: Tensor  # 1/z at the first column
    w_step: Tensor  # 1/z gained per column


# %% tags=["export"]
def triangle_spans(points: Tensor, rows: Tensor, corners: Tensor, width: int) -> Spans:
    """points (3, P); rows, corners (3, N) from `sort_by_row` -> the pixel centres inside each triangle, row by row."""
    top, middle, bottom = (points.index_select(1, corner) for corner in corners)  # (3, N) each
    half, offset = expand(rows.diff(dim=0).T.flatten())  # of each triangle the upper half, then the lower
    triangle, row = half >> 1, rows[:2].T.flatten().index_select(0, half) + offset
    long = edge_line(top, bottom)  # (5, N)
    short = torch.stack([edge_line(top, middle), edge_line(middle, bottom)], 2).flatten(1)  # (5, 2N)
    x0, w0 = crossings(long, triangle, row + 0.5)
    x1, w1 = crossings(short, half, row + 0.5)
    column = first_centre(torch.minimum(x0, x1), width)
    count = first_centre(torch.maximum(x0, x1), width) - column
    w_step = (w1 - w0) / (x1 - x0)
    spans = Spans(triangle, row, column, count, w0 + (column + 0.5 - x0) * w_step, w_step)
    some = count.nonzero().squeeze(1)
    return Spans(*(values.index_select(0, some) for values in spans))


# %%
points = torch.tensor([[3.2, 20.6, 11.5, 27.0], [2.3, 6.1, 15.2, 16.4], [1.0, 1.0, 1.0, 1.0]])  # two that share an edge
rows, corners = sort_by_row(points, torch.tensor([[0, 1], [1, 3], [2, 2]]), height=18)
spans = triangle_spans(points, rows, corners, width=30)
span, offset = expand(spans.count)
figure, ax = plt.subplots(figsize=(6.4, 3.6), dpi=72, layout="constrained")
for corners, colour in (([0, 1, 2, 0], "#2b6cb0"), ([1, 3, 2, 1], "#e07a1f")):
    ax.plot(*points[:2, corners], color=colour, lw=1.5)
ax.scatter(*pixel_centres((18, 30)).flatten(0, 1).T, s=2, color="0.75")
colours = np.array(["#2b6cb0", "#e07a1f"])[spans.triangle]
ax.hlines(spans.row + 0.5, spans.column + 0.5, spans.column + spans.count - 0.5, color=colours, lw=4, alpha=0.35)
ax.scatter(spans.column[span] + offset + 0.5, spans.row[span] + 0.5, s=14, color=colours[span])
_ = ax.set(xlim=(0, 30), ylim=(18, 0), aspect="equal", title=f"{len(spans.row)} spans, {len(span)} fragments")

# %% [markdown]
# *Two triangles, blue and orange, that share an edge, over a grid of pixel centres. Bars are spans, dots are
# fragments: every centre inside is taken once, along the shared edge too.* The hard case is when corners and
# centres coincide. A square of $40 \times 40$ pixels, cut into random triangles whose corners all lie on multiples
# of a half:

# %%
corners = np.unique(np.random.default_rng(0).integers(0, 81, (120, 2)) / 2, axis=0)
corners = np.concatenate([corners, [[0, 0], [40, 0], [0, 40], [40, 40]]])
cut = plt.matplotlib.tri.Triangulation(*corners.T).triangles
patch = torch.tensor(np.c_[corners, np.ones(len(corners))].T, dtype=torch.float32)
spans = triangle_spans(patch, *sort_by_row(patch, torch.tensor(cut.T.copy(), dtype=torch.int64), 40), 40)
span, offset = expand(spans.count)
times = torch.bincount(spans.row[span] * 40 + spans.column[span] + offset, minlength=1600)
drawn = {f"{n} times": int((times == n).sum()) for n in range(3)}
print(f"{len(cut)} triangles; pixels drawn", drawn)
assert (times == 1).all()


# %% [markdown]
# ### Together: fragments into the z-buffer

# %% tags=["export"]
def draw_spans(keys: Tensor, spans: Spans, image: Tensor, face: Tensor) -> None:
    """Keep the smallest key at each pixel. keys (B, H, W) is changed in place; image and face (M,) of each span."""
    _, height, width = keys.shape
    start = (image * height + spans.row) * width + spans.column
    span, offset = expand(spans.count)
    w = spans.w.index_select(0, span) + offset * spans.w_step.index_select(0, span)
    key = pack(1 / w.clamp(min=1e-9), face.index_select(0, span))
    keys.view(-1).scatter_reduce_(0, start.index_select(0, span) + offset, key, "amin")


# %% [markdown]
# ### Most triangles cover nothing
#
# Can we leave triangles out before any work is done on them? At $128 \times 128$ pixels most triangles of a body are
# smaller than a pixel and fall *between* the centres. A triangle covers no centre at all if its three corners have
# the same first centre in $x$ (or in $y$): no centre lies between them. We pack row and column of a vertex into one
# number and compare the three corners of every face with two XORs, before anything expensive happens. Because
# `first_centre` is clamped to the picture, faces outside of it drop out by the same test.
#
# Faces that look away can go as well, if we want: half of a closed body, and none of them is ever seen. It is an
# option, off by default, since a mesh with holes (a skirt from below) shows its inside.

# %% tags=["export"]
def to_screen(points: Tensor, K: Tensor, near: float) -> tuple[Tensor, Tensor, Tensor]:
    """Camera-space points (..., 3) and K (..., 3, 3) -> pixel x, pixel y, 1/z, each (...)."""
    x, y, z = points.unbind(-1)
    w = 1 / z.clamp(min=near)
    screen_x = (K[..., 0, 0] * x + K[..., 0, 1] * y) * w + K[..., 0, 2]
    return screen_x, K[..., 1, 1] * y * w + K[..., 1, 2], w


def may_cover(x: Tensor, y: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixel x, y (B, V) -> (B, F): False where a face surely covers no pixel centre of the image."""
    code = (first_centre(y, size[0]) << 16) | first_centre(x, size[1])  # (B, V): row and column in one int32
    a, b, c = (code.index_select(1, corner) for corner in faces.T)  # (B, F) each
    differs = (a ^ b) | (a ^ c)
    return (differs > 0xFFFF) & ((differs & 0xFFFF) > 0)


# %%
for side in (64, 128, 256, 512, 1024):
    camera = look(side)
    x, y, _ = to_screen(camera.to_camera(person), camera.K[:, None], NEAR)
    share = may_cover(x, y, faces, (side, side)).float().mean()
    print(f"{side:5d} px: {share:5.1%} of the faces may cover a pixel centre")


# %% [markdown]
# ## 6 Too near
#
# **The question.** A triangle of the floor passes under the camera: one corner in front of us, two behind. Where on
# the picture are the corners behind?
#
# **The trap.** The formula $x/z$ gives a wrong answer: with $z < 0$ the corner lands mirrored on the other side of
# the picture, and a triangle is drawn that is not in the scene. Leaving such faces out tears holes into every floor.
#
# **The cure.** Cut the triangle at a plane just in front of the camera, $z$ = `NEAR` (Sutherland and Hodgman
# 1974), before projecting. One corner of the three is alone on its side of the plane. If it is the one in front,
# what remains is a smaller triangle; if it is the one behind, what remains has four corners: two triangles. The
# pieces remember whose they are.

# %% tags=["export"]
def cross_near(p: Tensor, q: Tensor, near: float) -> Tensor:
    """Where the segments between p and q (N, 3) pass the plane z = near. The same point from either end."""
    swap = p[:, 2:] > q[:, 2:]
    behind, front = torch.where(swap, q, p), torch.where(swap, p, q)
    point = behind + (near - behind[:, 2:]) / (front - behind)[:, 2:] * (front - behind)
    return torch.cat([point[:, :2], torch.full_like(point[:, 2:], near)], 1)


def clip_near(corners: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """Triangles (N, 3, 3) that straddle z = near -> their parts beyond it (M, 3, 3), and the triangle of each (M,)."""
    beyond = corners[..., 2] > near  # (N, 3)
    two = beyond.sum(1) == 2
    alone = (beyond ^ two[:, None]).int().argmax(1)  # the corner that is alone on its side comes first
    order = (alone[:, None] + torch.arange(3, device=alone.device)) % 3
    a, b, c = corners.gather(1, order[..., None].expand(-1, -1, 3)).unbind(1)
    ab, ac = cross_near(a, b, near), cross_near(a, c, near)
    quad = [torch.stack([ab, b, c], 1)[two], torch.stack([ab, c, ac], 1)[two]]
    source = torch.arange(len(corners), device=alone.device)
    return torch.cat([torch.stack([a, ab, ac], 1)[~two], *quad]), torch.cat([source[~two], source[two], source[two]])


# %%
under = torch.tensor([[[-2.0, 1, 4], [2, 1, 4], [0, 1, -1]], [[0.0, 1, 2], [-1, 1, -1], [1, 1, -1]]])
pieces, source = clip_near(under, NEAR)
print(
    "pieces of triangle", source.tolist(), " nearest z of each:", [round(z, 3) for z in pieces[..., 2].amin(1).tolist()]
)
assert sorted(source.tolist()) == [0, 0, 1] and (pieces[..., 2] >= NEAR - 1e-6).all()


# %% [markdown]
# Now the list of all triangles that reach the z-buffer: whole ones that may cover a pixel, and pieces of straddling
# ones.

# %% tags=["export"]
class Triangles(NamedTuple):
    """Triangles on the screen: points (3, P) as x, y, 1/z; corners (3, N) into them; image and face (N,) they show."""

    points: Tensor
    corners: Tensor
    image: Tensor
    face: Tensor


def straddling_triangles(points: Tensor, faces: Tensor, K: Tensor, hidden: Tensor, near: float) -> Triangles:
    """The parts beyond z = near of the faces that have one or two of three corners `hidden` (B, F) behind it."""
    image, face = ((hidden == 1) | (hidden == 2)).nonzero(as_tuple=True)
    pieces, source = clip_near(points[image[:, None], faces[face]], near)  # (M, 3, 3)
    image, face = image[source], face[source]
    screen = torch.stack(to_screen(pieces, K[image, None], near)).flatten(1)  # (3, 3M)
    return Triangles(screen, torch.arange(screen.shape[1], device=screen.device).view(-1, 3).T, image, face)


# %% tags=["export"]
def visible_triangles(points: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float) -> Triangles:
    """Camera-space points (B, V, 3), faces (F, 3), K (B, 3, 3) -> the triangles that may cover a pixel centre."""
    x, y, w = to_screen(points, K[:, None], near)  # (B, V) each
    candidate = may_cover(x, y, faces, size)  # (B, F)
    behind = points[..., 2] <= near
    if behind.any():
        hidden = sum(behind.index_select(1, corner).int() for corner in faces.T)
        candidate &= hidden == 0
    image, face = candidate.nonzero(as_tuple=True)
    corners = faces.index_select(0, face).T + image * points.shape[1]  # (3, N)
    whole = Triangles(torch.stack([x, y, w]).flatten(1), corners, image, face)
    if not behind.any():
        return whole
    cut = straddling_triangles(points, faces, K, hidden, near)
    cut = cut._replace(corners=cut.corners + whole.points.shape[1])
    return Triangles(*(torch.cat(pair, -1) for pair in zip(whole, cut, strict=True)))


def facing_camera(triangles: Triangles) -> Triangles:
    """Those whose corners run counter-clockwise as seen (clockwise in terms of x and y: y points down)."""
    x, y = triangles.points[:2]
    (ax, bx, cx), (ay, by, cy) = ([v.index_select(0, corner) for corner in triangles.corners] for v in (x, y))
    front = ((bx - ax) * (cy - ay) < (cx - ax) * (by - ay)).nonzero().squeeze(1)
    corners, image, face = (values.index_select(-1, front) for values in triangles[1:])
    return Triangles(triangles.points, corners, image, face)


# %% [markdown]
# ## 7 How much memory?
#
# **The question.** A list of all fragments is long when faces are large: a close-up at $1024^2$ has millions, and a
# stack of screen-filling triangles has as many times a million. Each needs some 60 bytes.
#
# **The idea.** The z-buffer does not care in which order fragments come, nor in how many portions. So work through
# the list in portions of at most `at_once`: first triangles by their number of rows, then rows by their number of
# pixels. The result is the same, bit by bit, and the memory has a bound.

# %% tags=["export"]
def chunks(counts: Tensor, most: int) -> Iterator[slice]:
    """Slices of consecutive items whose counts (N,) add up to at most `most` (or that hold a single item)."""
    total = counts.cumsum(0)
    start, done = 0, 0
    while start < len(counts):
        stop = max(start + 1, int(torch.searchsorted(total, done + most, right=True)))
        yield slice(start, stop)
        start, done = stop, int(total[stop - 1])


def nearest_faces(triangles: Triangles, batch: int, size: tuple[int, int], at_once: int) -> Tensor:
    """Keys (B, H, W): depth and id of the nearest face at each pixel, or NOTHING. `at_once`: rows, pixels in flight."""
    points, corners, image, face = triangles
    keys = torch.full((batch, *size), NOTHING, device=points.device)
    rows, corners = sort_by_row(points, corners, size[0])  # (3, N) each
    for some in chunks(rows[2] - rows[0], at_once):
        spans = triangle_spans(points, rows[:, some], corners[:, some], size[1])
        for part in chunks(spans.count, at_once):
            piece = Spans(*(values[part] for values in spans))
            triangle = piece.triangle + some.start
            draw_spans(keys, piece, image.index_select(0, triangle), face.index_select(0, triangle))
    return keys


# %%
camera = look(512)
points = camera.to_camera(person)
keys = nearest_faces(visible_triangles(points, faces, camera.K, (512, 512), NEAR), 1, (512, 512), 2**18)
image, row, column = (keys != NOTHING).nonzero(as_tuple=True)
seen_face = keys[image, row, column] & 0xFFFFFFFF
print(f"{len(seen_face):,} pixels see {len(seen_face.unique()):,} of {len(faces):,} faces")


# %% [markdown]
# ## 8 Seven digits
#
# **The question.** Each pixel knows its face. Now we want the depth there, and the weights. Equation 03.2, with
# float32. What could go wrong?
#
# **The trap.** An edge function is linear in $p$, so one is tempted to multiply equation 03.1 out, once per
# triangle, and keep three constants per edge:
#
# $$E_{ab}(p) = A\,p_x + B\,p_y + C, \qquad C = a_x b_y - b_x a_y, \qquad
# \frac{1}{z} = \sum_i \frac{E_i(p)}{\text{area}} \cdot \frac{1}{z_i}, \tag{03.4}$$
#
# where $E_i$ is the edge opposite to corner $i$. It is what many rasterisers do, and correct in algebra. Now put in
# numbers: near the middle of a $512^2$ picture, $a_x b_y$ is about 65,000; float32 has seven digits, so it is rounded
# to the nearest 0.004. The other product is almost the same, because the triangle is only three pixels wide: the
# difference that counts, the area, is about 4. Of seven digits three survive. This is **catastrophic cancellation**:
# no single operation is wrong, and the digits are gone.
#
# Measure it: depth by constants, at all pixels that see a face, against the same formula in float64.

# %%
def depth_by_constants(corners, pixel, origin):
    """corners (3, 3, P) as [corner, (x, y, 1/z)], pixel and origin (2, P) -> depth (P,) by equation 03.4."""
    x, y, w = (corners[:, 0] - origin[0]), (corners[:, 1] - origin[1]), corners[:, 2]
    px, py = pixel - origin
    A, B = y.roll(-1, 0) - y.roll(-2, 0), x.roll(-2, 0) - x.roll(-1, 0)
    C = x.roll(-1, 0) * y.roll(-2, 0) - x.roll(-2, 0) * y.roll(-1, 0)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    return 1 / ((A * px + B * py + C) / area * w).sum(0)


# %%
on_screen = torch.stack(to_screen(points, camera.K[:, None], NEAR))[:, 0]  # (3, V)
corners = on_screen[:, faces[seen_face]].permute(2, 0, 1)  # (3, 3, P)
pixel = torch.stack([column, row]) + 0.5
exact = depth_by_constants(corners.double(), pixel.double(), torch.zeros(2, 1).double())
origins = {"the picture's corner": torch.zeros(2, 1), "the triangle's corner": corners[:, :2].amin(0).floor()}
errors = {}
for name, origin in origins.items():
    errors[name] = (depth_by_constants(corners, pixel, origin) - exact).abs().float()
    print(f"measured from {name}: median {errors[name].median() * 1e3:.4f} mm, largest {errors[name].max():.6f} m")
assert errors["the picture's corner"].max() > 0.05
assert errors["the triangle's corner"].max() < 1e-4

# %%
pictures = []
for values in errors.values():
    picture = torch.full((512, 512), torch.nan)
    picture[row, column] = values.clamp(min=1e-7).log10()
    pictures.append(picture[40:250, 150:360])
titles = [f"from {name}" for name in errors]
plots.show_images(pictures, titles, height=3, cmap="inferno", vmin=-7, vmax=-1.5)
figure = plt.gcf()
_ = figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="log10 of the error in metres", shrink=0.8)


# %% [markdown]
# *The upper body at 512 pixels, coloured by the error of its depth. Left, constants formed from the picture's corner:
# tenths of millimetres almost everywhere, and bright specks on slanted triangles that are off by decimetres. Right,
# formed from each triangle's own corner: dark.* A median error of half a millimetre is easily overlooked. The largest
# errors put a label decimetres away from the person.
#
# **The cure** costs nothing: subtract *before* multiplying. Measured from a point nearby, all numbers are small,
# and small numbers have small rounding errors. (Such a subtraction is even exact: close floats differ by a float.
# Sterbenz's lemma.)
#
# Our rasteriser goes one step further. For the pixels that are seen, we measure from the **pixel's own ray**. In
# camera space, let the ray pass through $(r_x, r_y, 1)$. At the depth $z_i$ of corner $i$ it is at $(z_i r_x, z_i
# r_y)$; the corner is
#
# $$d_i = (x_i - z_i r_x,\; y_i - z_i r_y) \tag{03.5}$$
#
# away from it: two small numbers. The ray meets the triangle where $\sum_i \beta_i d_i = 0$, so the weights are, once
# more, areas: $\beta_1 \propto d_2 \times d_3 = d_{2x} d_{3y} - d_{3x} d_{2y}$, and so on around. There is no
# projection, so nothing to correct for perspective, and corners behind the camera are as good as others, so *nothing
# to clip*. The weights refer to the original face. And since only sums, products and one division are involved,
# **gradients** flow from them to the vertices and to the camera. (The search for the face has no gradient: which face
# a pixel sees either stays the same or jumps.)

# %% tags=["export"]
def pixel_barycentrics(points: Tensor, faces: Tensor, K: Tensor, seen: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Perspective-correct barycentrics (3, P) and depth (P,) of what pixels see. Differentiable.

    points (B, V, 3) in camera space, faces (F, 3), K (B, 3, 3), seen: image, row, column and face (P,) of each pixel.
    Homogeneous rasterisation after Olano and Greer 1997, measured from each pixel's ray.
    """
    image, row, column, face = seen
    fx, skew, u, fy, v = (K[:, i, j].index_select(0, image) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    ray_y = (row + 0.5 - v) / fy
    ray_x = (column + 0.5 - u - skew * ray_y) / fx
    index = faces.index_select(0, face).T + image * points.shape[1]  # (3, P)
    corners = points.flatten(0, 1).T.contiguous().index_select(1, index.flatten())  # (3, 3P)
    x, y, z = corners.unflatten(1, (3, -1))  # (3, P) each
    ax, bx, cx = x - z * ray_x  # from the ray to the corners, each at its own depth
    ay, by, cy = y - z * ray_y
    area = torch.stack([bx * cy - cx * by, cx * ay - ax * cy, ax * by - bx * ay])  # (3, P)
    area = (area * area.sum(0).sign()).clamp(min=0) + 1e-30  # a face seen from its edge gets 1/3, not 0/0
    barycentric = area / area.sum(0)
    return barycentric, (barycentric * z).sum(0)


# %%
weights, depth = pixel_barycentrics(points, faces, camera.K, (image, row, column, seen_face))
_, exact = pixel_barycentrics(points.double(), faces, camera.K.double(), (image, row, column, seen_face))
error = (depth - exact).abs()
print(f"measured from the ray: median {error.median() * 1e3:.5f} mm, largest {error.max():.6f} m")
assert error.median() < 1e-6 and error.quantile(0.9999) < 1e-5


# %% [markdown]
# ## 9 The rasteriser, whole
#
# All parts are there; now we put them together. The rasteriser returns for each pixel what it sees: a face, a place
# on it, a depth.

# %% tags=["export"]
class Fragments(NamedTuple):
    """What the rasteriser found at each pixel centre.

    face (B, H, W) int64, -1 where there is none; barycentric (B, H, W, 3), perspective-correct, 0 where there is no
    face; depth (B, H, W) in metres along the camera's z, +inf where there is no face.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor


# %% tags=["export"]
def check_input(vertices: Tensor, faces: Tensor, camera: Camera, size: tuple[int, int]) -> None:
    """Raise ValueError, with what to do about it, for meshes and sizes that cannot be drawn."""
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise ValueError(f"vertices must be (B, V, 3), got {tuple(vertices.shape)}: add a batch with vertices[None]")
    if vertices.dtype != torch.float32:
        raise ValueError(f"vertices must be float32, got {vertices.dtype}: call vertices.float()")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"faces must be integers (F, 3), got {tuple(faces.shape)} {faces.dtype}: one mesh per call")
    if faces.numel() and not (0 <= int(faces.min()) and int(faces.max()) < vertices.shape[1]):
        raise ValueError(f"faces name vertices {int(faces.min())} to {int(faces.max())}, there are {vertices.shape[1]}")
    if not vertices.isfinite().all():
        bad = (~vertices.isfinite()).any(2).nonzero()[0].tolist()
        raise ValueError(f"vertices hold NaN or infinity, first at (body, vertex) {bad}: mend the mesh or the pose")
    if len(camera.K) != len(vertices) and 1 not in (len(camera.K), len(vertices)):
        raise ValueError(
            f"there are {len(vertices)} bodies and {len(camera.K)} cameras: give as many, or one of either"
        )
    if not all(0 < side <= LARGEST_SIZE for side in size):
        raise ValueError(f"size must be (height, width) between 1 and {LARGEST_SIZE} pixels, got {size}")


# %% tags=["export"]
def unpack(keys: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Keys (B, H, W) -> face ids in their place, -1 at NOTHING; of each pixel that sees a face, all (P,), its place in
    the flat list of all pixels, and its image, row, column and face.
    """
    _, height, width = keys.shape
    image, row, column = (keys != NOTHING).nonzero(as_tuple=True)
    face = keys.bitwise_left_shift_(32).bitwise_right_shift_(32)  # the low half of the key; NOTHING becomes -1
    pixel = (image * height + row) * width + column
    return face, pixel, (image, row, column, face.view(-1).index_select(0, pixel))


# %% tags=["export"]
def rasterize(
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    size: tuple[int, int] | int,
    cull_backfaces: bool = False,
    near: float = NEAR,
    at_once: int = 2**18,
) -> Fragments:
    """Which face each pixel centre sees, where on the face, and how far away.

    vertices (B, V, 3) in world metres, faces (F, 3), a camera per body (or one of either for all), size (H, W) or the
    side of a square. A pixel belongs to the nearest face that covers its centre; at equal depth to the lower face id;
    on a shared edge to one face only. `cull_backfaces` drops faces whose corners run clockwise as seen: faster, and no
    picture of a closed body changes. Faces are clipped at z = `near`. `at_once` bounds the memory: fragments in flight.
    Gradients flow from barycentric and depth to vertices and camera. Raises ValueError for input that cannot be drawn.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    check_input(vertices, faces, camera, size)
    faces = faces.long()
    points = camera.to_camera(vertices)  # (B, V, 3)
    K = camera.K.expand(len(points), 3, 3)
    with torch.no_grad():
        triangles = visible_triangles(points.detach(), faces, K.detach(), size, near)
        triangles = facing_camera(triangles) if cull_backfaces else triangles
        face, pixel, seen = unpack(nearest_faces(triangles, len(points), size, at_once))
    barycentric, depth = points.new_zeros(*face.shape, 3), points.new_full(face.shape, torch.inf)
    for part in zip(pixel.split(at_once), *(values.split(at_once) for values in seen), strict=True):
        weights, z = pixel_barycentrics(points, faces, K, part[1:])
        barycentric.view(-1, 3).index_copy_(0, part[0], weights.T)
        depth.view(-1).index_copy_(0, part[0], z)
    return Fragments(face, barycentric, depth)


# %% [markdown]
# Does it draw the same as the slow one? We compare the two pixel by pixel:

# %%
front = Camera(K[None], torch.eye(3)[None], torch.zeros(1, 3))  # the ring was given in camera space
fast = rasterize(ring[None], ring_faces, front, 96)
assert torch.equal(fast.face[0], slow_face)
assert torch.allclose(fast.depth[0], slow_depth, atol=1e-5)
start = time.perf_counter()
batch = rasterize(person.expand(8, -1, -1), faces, look(96), 96)
fast_ms = (time.perf_counter() - start) * 1e3 / 8
print(f"a body: {fast_ms:.1f} ms; the loop would take {loop_ms:,.0f} ms: {loop_ms / fast_ms:,.0f} times as long")

# %% [markdown]
# **What gradients are good for.** The person has moved to an unknown place, and all we have is her depth picture.
# Start from the old place and follow the rasteriser's gradient downhill, in steps that shrink.

# %%
camera, moved = look(96), torch.tensor([0.06, -0.05, 0.12])
with torch.no_grad():
    target = rasterize(person + moved, faces, camera, 96)
shift = torch.zeros(3, requires_grad=True)
history, step = [], 0.03  # metres
for _ in range(40):
    now = rasterize(person + shift, faces, camera, 96)
    both = (now.face >= 0) & (target.face >= 0)
    loss = (now.depth - target.depth)[both].abs().mean()
    (gradient,) = torch.autograd.grad(loss, shift)
    with torch.no_grad():
        shift -= step * normalize(gradient, dim=0)
    step *= 0.9
    history.append((shift.detach() - moved).norm() * 1e3)
plots.curve({"distance to the true place": history}, ylabel="mm")
print("found", [round(v, 3) for v in shift.tolist()], "true", [round(v, 3) for v in moved.tolist()])
assert history[-1] < 0.05 * history[0]


# %% [markdown]
# *The error of the estimated place falls from some 100 mm to about one.* Only pixels where both pictures have a
# person count: the outline itself has no gradient. (Soft rasterisers blur it to get one. Labels want sharp edges.)

# %% [markdown]
# ## 10 From corners to pixels
#
# **The question.** Normals, colours, places in the rest pose: a body stores all of these at its vertices. How does a
# pixel get them?
#
# **The idea.** Take the mean of the three corners, with the weights that the rasteriser found. For a pixel that sees
# face $(i, j, k)$,
#
# $$A(p) = \beta_i A_i + \beta_j A_j + \beta_k A_k. \tag{03.6}$$
#
# ### Exercise 03.8 — interpolate  ●●○ (15 min)
#
# The vertices of all bodies of the batch, in one list, are `attributes.reshape(B * V, C)`: body $b$'s vertex $v$ is
# row $b \cdot V + v$.
#
# <details><summary>Hint 1</summary>
#
# Work on the P pixels that see something: `pixel = (fragments.face.flatten() >= 0).nonzero().squeeze(1)`. Pixel `p`
# of that list belongs to body `p // (H * W)`.
# </details>
# <details><summary>Hint 2</summary>
#
# `corners = faces[face_of_pixel] + body[:, None] * V` is (P, 3); `values = attributes[corners]` is (P, 3, C); then
# a weighted sum over the corners.
# </details>
# <details><summary>Hint 3</summary>
#
# Write the (P, C) results into an empty picture (B * H * W, C) with `picture.index_copy(0, pixel, result)`. It
# keeps the gradient.
# </details>

# %% tags=["export"]
@exercise("03.8")
def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Attributes of vertices (V, C) or (B, V, C) -> pictures (B, H, W, C), 0 where there is no face. Differentiable."""
    batch, height, width = fragments.face.shape
    attributes = attributes.expand(batch, *attributes.shape[-2:])  # (B, V, C)
    raise TODO


# %%
check(interpolate)

# %%
camera = look(200, zoom=10.5, target=head, height=0.1)
fragments = rasterize(person, faces, camera, 200)
seen = fragments.face[0] >= 0
place = interpolate(fragments, faces, body.template)[0]  # (H, W, 3): where each pixel's point was in the rest pose
stripes = (place[..., 1] * 100 % 2 < 1).float() * 0.6 + 0.2
close = rasterize(person, faces, look(200, zoom=60, target=head, height=0.1), 200).barycentric[0]
plots.show_images([close, torch.where(seen, stripes, 1.0)], ["weights, close up", "1 cm of height at rest"], height=2.8)
depth = camera.to_camera(interpolate(fragments, faces, person).flatten(1, 2))[0, :, 2].view(200, 200)
assert torch.allclose(depth[seen], fragments.depth[0][seen], atol=1e-5)  # places are where the z-buffer says


# %% [markdown]
# *Left: the middle of the face, the barycentric weights as colours, a small rainbow on each triangle. Right: stripes
# of one centimetre by the height of each point in the rest pose; they follow the surface because the body carries
# them along.* Patterns of clothes in `course_lib.data` are made in just this way.
#
# ## 11 Which way does it face?
#
# **The question.** Sapiens (§3.6) and DAViD predict a *normal* for each pixel: the unit vector that stands upright
# on the surface. A triangle has one. But a body is smooth, its triangles are an approximation.
#
# **The idea.** The cross product of two sides stands upright on a face and is twice as long as its area. Add up the
# cross products of all faces around a vertex: large faces count more. Divide by the length: the vertex normal. Then
# interpolate (equation 03.6), and divide by the length again, since a mean of unit vectors is shorter than one.
#
# $$m_v = \sum_{f \ni v} (b_f - a_f) \times (c_f - a_f), \qquad n_v = \frac{m_v}{\lVert m_v \rVert} \tag{03.7}$$
#
# ### Exercise 03.9 — vertex normals  ●●○ (12 min)
#
# Write equation 03.7 for a batch of bodies that share their faces. A vertex that no face uses gets the vector 0.
#
# <details><summary>Hint 1</summary>
#
# `torch.linalg.cross(b - a, c - a)` with `a, b, c = (vertices[:, corner] for corner in faces.T)`.
# </details>
# <details><summary>Hint 2</summary>
#
# `normals.index_add(1, faces[:, 0], face_normal)` adds each face's vector to its first corner. There are three
# corners.
# </details>

# %% tags=["export"]
@exercise("03.9")
def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """vertices (B, V, 3), faces (F, 3) -> unit normals (B, V, 3), faces weighted by area; 0 where there is no face."""
    raise TODO


# %%
check(vertex_normals)


# %% [markdown]
# **In whose axes?** A network sees a picture, it cannot know where the world's north is. So normals are labels in
# the axes of the *camera*. Sapiens, DAViD and most normal data sets do not use OpenCV's axes for it, but those of
# the viewer: $x$ right, $y$ **up**, $z$ **toward the viewer**. Then a wall that faces us is $(0, 0, 1)$, and drawn
# as $(n + 1) / 2$ it is the well-known light blue. Two signs differ from chapter 01's camera axes.
#
# ### Exercise 03.10 — normals in the camera's convention  ●○○ (6 min)
#
# Turn world normals into this convention, for vertices (B, V, 3) and for pictures (B, H, W, 3).
#
# <details><summary>Hint</summary>
#
# A normal is a direction: which part of a camera acts on it, $R$, $t$ or both? `torch.einsum("bij,b...j->b...i",
# matrix, vectors)` multiplies for (B, V, 3) and (B, H, W, 3) alike. After that two of the three coordinates differ
# from the convention in their sign.
# </details>

# %% tags=["export"]
@exercise("03.10")
def camera_normals(normals: Tensor, camera: Camera) -> Tensor:
    """World normals (B, ..., 3) -> the labels' convention: camera space with x right, y up, z toward the viewer."""
    raise TODO


# %%
check(camera_normals)

# %%
world_normals = normalize(interpolate(fragments, faces, vertex_normals(person, faces)), dim=-1)
a, b, c = person[0, faces[fragments.face[0]]].unbind(-2)  # (H, W, 3) each
flat_normals = normalize(torch.linalg.cross(b - a, c - a), dim=-1)[None] * seen[..., None]
pictures = [camera_normals(n, camera)[0] for n in (flat_normals, world_normals)]
titles = ["a normal per face", "interpolated vertex normals"]
plots.show_images([plots.colour_normals(n) for n in pictures], titles, height=2.8)
length = world_normals[0][seen].norm(dim=-1)
assert torch.allclose(length, torch.ones_like(length), atol=1e-5)
facing = pictures[1][seen][:, 2] > 0
assert facing.float().mean() > 0.97  # what we see faces us, but for the last pixels of the outline


# %% [markdown]
# *The head's normals as colours. Left one normal per triangle: facets. Right interpolated: smooth. Surfaces that
# face us are light blue, those that look to the right are pink, up green.*
#
# ## 12 Light
#
# **The question.** The labels are exact in any light. But a network sees the *picture*, and one that is trained under
# a single lamp may fail under another. What is the simplest shading that looks like light?
#
# Three terms, each a dot product with the normal $n$:
#
# - **Lambert's sun.** A surface catches as much light as it faces the lamp: $\max(0, n \cdot l)$, with $l$ the unit
#   vector *toward* the light. The maximum matters: behind, it is dark, not negative.
# - **Sky and ground.** Light comes from everywhere, bluish from above, warm and weak from below: a mix by
#   $\tfrac12 (1 + n \cdot \mathrm{up})$.
# - **A highlight** (Blinn 1977). Skin, eyes and silk mirror a little. A mirror sends light from $l$ to the viewer
#   $v$ if its normal is halfway between, $h = (l + v)/|l + v|$; rough surfaces spread it out: $\max(0, n \cdot h)^s$.
#
# $$c = \text{albedo} \cdot \Bigl( c_\text{sun} \max(0, n \cdot l) + c_\text{ground}
# + (c_\text{sky} - c_\text{ground}) \tfrac{1 + n \cdot \mathrm{up}}{2} \Bigr) + g\, c_\text{sun} \max(0, n \cdot h)^s
# \tag{03.8}$$

# %% tags=["export"]
def shade(
    albedo: Tensor,
    normals: Tensor,
    toward_light: Tensor,
    light_colour: Tensor | float = 0.8,
    sky: Tensor | float = 0.35,
    ground: Tensor | float = 0.15,
    toward_viewer: Tensor | None = None,
    gloss: float = 0.0,
    shininess: float = 30.0,
    lit: Tensor | float = 1.0,
) -> Tensor:
    """Lambert's sun, sky above and ground below, and Blinn's highlight. Returns colours like albedo (..., 3) in [0, 1].

    normals (..., 3) unit or 0 in the world (y up), toward_light and toward_viewer (..., 3) unit vectors; colours are
    (3,) or numbers; `lit` (..., 1) is 0 in the sun's shadow. `gloss` > 0 needs `toward_viewer`.
    """
    sun = (normals * toward_light).sum(-1, keepdim=True).clamp(min=0) * lit  # (..., 1)
    above = 0.5 + 0.5 * normals[..., 1:2]  # (..., 1): n . up with up = y
    colour = albedo * (light_colour * sun + sky * above + ground * (1 - above))
    if gloss:
        halfway = normalize(toward_light + toward_viewer, dim=-1)
        highlight = (normals * halfway).sum(-1, keepdim=True).clamp(min=0) ** shininess
        colour = colour + gloss * light_colour * highlight * (sun > 0)
    return colour.clamp(0, 1)


# %%
places = interpolate(fragments, faces, person)
light = normalize(torch.tensor([0.75, 0.5, 0.6]), dim=0)
viewer = normalize(camera.center - places, dim=-1)  # (B, H, W, 3)
grey, sky, ground = torch.full_like(places, 0.72), torch.tensor([0.33, 0.38, 0.46]), torch.tensor([0.2, 0.16, 0.12])
steps = {
    "sun": shade(grey, world_normals, light, sky=0.0, ground=0.0),
    "sky and ground": shade(grey, world_normals, light, light_colour=0.0, sky=sky, ground=ground),
    "both": shade(grey, world_normals, light, sky=sky, ground=ground),
    "and a highlight": shade(grey, world_normals, light, sky=sky, ground=ground, toward_viewer=viewer, gloss=0.35),
}
plots.show_images([picture[0] * seen[..., None] + ~seen[..., None] for picture in steps.values()], list(steps))


# %% [markdown]
# *A grey head under Lambert's sun alone (the side away from it is black), under sky and ground alone (soft), under
# both, and with a highlight.*
#
# ### Shadows (a bonus)
#
# How do we find out which points the sun reaches? The sun lights a point if nothing is in between, that is, if the
# *sun sees it*. And what can be seen from somewhere is what a rasteriser answers: put a camera at the sun, keep its
# z-buffer, the **shadow map** (Williams 1978). A point is lit if, from the sun, it is not farther away than the
# nearest thing in its direction, up to a small margin for the size of the map's pixels.

# %% tags=["export"]
def sunlit(places: Tensor, light: Camera, light_depth: Tensor, margin: float = 0.015) -> Tensor:
    """World places (B, H, W, 3) -> (B, H, W, 1): 1 where `light`, with its depth (B, h, w), sees them; else 0."""
    points = places.flatten(1, 2)  # (B, H * W, 3)
    column, row = light.project(points).floor().long().unbind(-1)
    batch, height, width = light_depth.shape
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    nearest = light_depth.flatten(1).expand(len(points), -1).gather(1, index)  # (B, H * W)
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    lit = outside | (light.to_camera(points)[..., 2] < nearest + margin)
    return lit.to(places).view(*places.shape[:3], 1)


# %%
ground_height = low[0, 1].item()
corners = torch.tensor([[-9.0, 0, -9], [-9, 0, 9], [9, 0, 9], [9, 0, -9]]) + torch.tensor([0, ground_height, 0])
scene = torch.cat([person, corners[None]], 1)  # she stands on a square of 18 x 18 m
scene_faces = torch.cat([faces, torch.tensor([[0, 1, 2], [0, 2, 3]]) + person.shape[1]])
scene_normals = torch.cat([vertex_normals(person, faces), torch.tensor([0.0, 1, 0]).expand(1, 4, 3)], 1)
scene_albedo = torch.cat([torch.full((person.shape[1], 3), 0.72), torch.tensor([0.55, 0.5, 0.42]).expand(4, 3)])


# %%
def portrait(yaw=25.0, sun_azimuth=55.0, sun_height=40.0, size=176):
    """The person on her floor: camera and sun in degrees -> a picture (1, H, W, 3)."""
    azimuth, height = torch.tensor([sun_azimuth, sun_height]).deg2rad()
    light = torch.stack([azimuth.sin() * height.cos(), height.sin(), azimuth.cos() * height.cos()])
    sun = Camera.look_at(middle + 20 * light, middle, focal=2200.0, size=(512, 512))  # far away: rays almost parallel
    camera = look(size, yaw=yaw, distance=4.2, zoom=1.9, height=0.7)
    fragments = rasterize(scene, scene_faces, camera, size)
    normals, albedo = (interpolate(fragments, scene_faces, values) for values in (scene_normals, scene_albedo))
    lit = sunlit(interpolate(fragments, scene_faces, scene), sun, rasterize(scene, scene_faces, sun, 512).depth)
    picture = shade(albedo, normalize(normals, dim=-1), light, sky=sky, ground=ground, lit=lit)
    return torch.where(fragments.face[..., None] >= 0, picture, torch.tensor([0.82, 0.87, 0.92]))


# %%
def show_portrait(yaw=25, sun_azimuth=55, sun_height=40):
    plots.show_images([portrait(float(yaw), float(sun_azimuth), float(sun_height))[0]], height=3.6)
    plt.show()


sliders = interactive(show_portrait, yaw=(-180, 180, 15), sun_azimuth=(-180, 180, 15), sun_height=(10, 80, 10))
for slider in sliders.children[:-1]:
    slider.continuous_update = False
sliders

# %% [markdown]
# Turn the camera around her (`yaw`), and the sun around both. (Sliders need a running kernel; the next picture is
# for those who read this on a page.)

# %%
settings = [(25, 55, 40), (25, -70, 25), (-60, 55, 40), (140, 120, 60)][: pick(smoke=2, laptop=4)]
titles = [f"yaw {y}, sun {a} and {h} high" for y, a, h in settings]
plots.show_images([portrait(float(y), float(a), float(h), 192)[0] for y, a, h in settings], titles, height=2.6)


# %% [markdown]
# *The grey person on a floor, four times: the sun at her left and her right, the camera before and behind her.
# Shadows of arms lie on the body, that of the body on the floor.*
#
# ### Stairs at the outline
#
# Why does an outline look like stairs? Because each pixel takes one sample. Take several, $s \times s$ per pixel, and
# average: **supersampling**. It makes colour smooth, and turns the hard mask into an *alpha* in between 0 and 1,
# which is what DAViD's soft foreground segmentation learns. Never average depth, normals, parts or ids over an
# outline, though: the mean of a nose at 2 m and a wall at 5 m is a depth at which there is nothing. Those labels are
# taken at pixel centres.
#
# How do we get the camera of a picture with more pixels? Chapter 01 has it: `camera.cropped(box, size)`, the box
# being the whole picture.

# %% tags=["export"]
def downsample(picture: Tensor, factor: int) -> Tensor:
    """(B, H * factor, W * factor, C) -> (B, H, W, C), the mean of factor x factor samples of each pixel."""
    return reduce(picture, "b (h i) (w j) c -> b h w c", "mean", i=factor, j=factor)


# %%
camera = look(64, zoom=9.0, target=head, height=0.1)
masks = []
for factor in (1, 2, 4):
    fine = camera.cropped(torch.tensor([[0.0, 0, 64, 64]]), (64 * factor, 64 * factor))
    covered = (rasterize(person, faces, fine, 64 * factor).face >= 0).float()[..., None]
    masks.append(downsample(covered, factor)[0, ..., 0])
plots.show_images([1 - mask for mask in masks], ["1 sample", "2 x 2", "4 x 4"], height=2.0)
print("grey levels of alpha:", [len(mask.unique()) for mask in masks])
assert len(masks[0].unique()) == 2 and 6 < len(masks[2].unique()) <= 17


# %% [markdown]
# *The outline of a head at 64 pixels: stairs with one sample a pixel, smooth with sixteen.*
#
# ## 13 All labels of a person
#
# Which labels will the chapters on dense prediction need, and how do we get them together? One function makes all of
# them from two calls of `rasterize`, a fine one for colour and alpha and one at pixel centres for the labels. Body
# parts are names, and names cannot be averaged: each pixel takes the name of the corner that it is nearest to, the
# one with the largest weight.

# %%
def labels(person, faces, camera, size, supersample=3):
    """Colour, alpha, depth, normals, parts and faces of bodies (B, V, 3), each (B, H, W, ...)."""
    fine = camera.cropped(torch.tensor([[0.0, 0, size, size]]).expand(len(camera), 4), (size * supersample,) * 2)
    sharp, fragments = (rasterize(person, faces, c, s) for c, s in ((fine, size * supersample), (camera, size)))
    normal = normalize(interpolate(sharp, faces, vertex_normals(person, faces)), dim=-1)
    covered = (sharp.face >= 0).float()[..., None]
    colour = shade(torch.full_like(normal, 0.74), normal, light, sky=sky, ground=ground) * covered
    centre_normal = normalize(interpolate(fragments, faces, vertex_normals(person, faces)), dim=-1)
    corner = fragments.barycentric.argmax(-1, keepdim=True)  # (B, H, W, 1)
    part = part_of_vertex[faces[fragments.face].gather(-1, corner)].squeeze(-1) * (fragments.face >= 0)
    return {
        "image": downsample(colour, supersample) + 1 - downsample(covered, supersample),
        "alpha": downsample(covered, supersample)[..., 0],
        "depth": fragments.depth,
        "normals": camera_normals(centre_normal, camera),
        "parts": part,
        "faces": fragments.face,
    }


# %%
result = labels(person, faces, look(256), 256)
colours = [plots.colour_depth, plots.colour_normals, plots.colour_parts, lambda face: plots.colour_ids(face, -1)]
pictures = [values[0] for values in result.values()]
pictures = pictures[:2] + [colour(p) for colour, p in zip(colours, pictures[2:], strict=True)]
plots.show_images([p[:, 55:-55] for p in pictures], list(result), height=3.1)
assert all(len(values) == 1 and values.shape[1:3] == (256, 256) for values in result.values())
assert torch.equal(result["parts"] > 0, result["depth"].isfinite())


# %% [markdown]
# *The six pictures of the beginning, now by your own functions: image, alpha, depth, normals, parts, faces.*
#
# ## 14 Is it right? Is it fast?
#
# A rasteriser projects triangles onto pixels. A *ray tracer* goes the other way: it sends a ray through each pixel
# and searches for the first triangle that it hits, in a tree of boxes. It answers the same question by another
# algorithm and other code, so it is a good test. **Embree** is Intel's ray tracer for CPUs; `trimesh` speaks to it
# where the package `embreex` is installed.

# %%
def first_hits(vertices, faces, camera, size):
    """The face that each pixel sees (H, W) according to Embree, and its milliseconds, building its tree included."""
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    rays = torch.cat([pixel_centres((size, size)), torch.ones(size, size, 1)], -1).view(-1, 3).double()
    rays = rays @ torch.linalg.inv(camera.K[0].double()).T @ camera.R[0].double()
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    start = time.perf_counter()
    engine = RayMeshIntersector(mesh, scale_to_box=False)
    face = engine.intersects_first(camera.center.double().expand(len(rays), 3).numpy(), rays.numpy())
    return torch.tensor(face).view(size, size), (time.perf_counter() - start) * 1e3


# %%
camera, agreement, embree_ms = look(256), None, None
start = time.perf_counter()
ours = rasterize(person.expand(8, -1, -1), faces, camera, 256)
our_ms = (time.perf_counter() - start) * 1e3 / 8
try:
    hits, embree_ms = first_hits(person[0], faces, camera, 256)
    agreement = (hits == ours.face[0]).float().mean().item()
    assert agreement > 0.9999
    print(f"same face on {agreement:.3%} of pixels; a picture: ours {our_ms:.1f} ms, Embree {embree_ms:.1f} ms")
except ImportError:
    print("Embree is not installed (pip install embreex): no comparison on this machine")

# %% [markdown]
# Embree's tree pays off when many pictures show the same mesh. Our bodies move in every picture, and building a tree
# costs more than drawing everything. `benchmarks/rasterizer.py` compares carefully: several sizes, paired rounds, and
# an OpenGL driver as a third.
#
# What made it fast, in order of effect: nothing happens once per triangle in Python; triangles that cover no pixel
# centre are recognised by two XORs; only covered pixels become fragments (not the bounding box's, which are twice
# as many); `index_select` instead of fancy indexing; packed integers instead of masks, in sorting and in the
# z-buffer; and the expensive part, weights with gradients, is done once per *pixel* and not per fragment.

# %% [markdown]
# ## 15 People
#
# A grey body is not a person, and a network that has only seen grey bodies recognises no one. What is missing,
# clothes, hair, skin, rooms, objects, light, needs no new idea: surfaces are more triangles, patterns are functions
# of the rest pose (section 10), light is section 12. It is much code with few new ideas, so it stands in
# `course_lib.data`, which calls this chapter's `rasterize` for every picture. Sapiens used 600 scanned people; DAViD
# argues for building people from parts, since parts can be combined without end, and no one has to be asked for
# consent.
#
# `render_samples(world, split, seed, index, size)` makes scene number `index` of a *world*, here `wild`: one to
# four people, rooms and streets, sun and lamps, objects in front and behind. The same numbers always give the same
# picture.

# %%
from course_lib.data.worlds import render_samples

SHEET, SIDE = pick(smoke=3, laptop=8), pick(smoke=96, laptop=192)
warm_up = list(render_samples("wild", "train", seed=3, index=1000, size=(32, 32)))  # loads the body and its wardrobe
start = time.perf_counter()
samples = [s for index in range(SHEET) for s in render_samples("wild", "train", seed=3, index=index, size=(SIDE, SIDE))]
pictures_per_second = len(samples) / (time.perf_counter() - start)
first = samples[0]
print(f"{first.key} of {first.source}: {len(first.people)} people, {first.place}")
for name in ("image", "alpha", "depth", "normals", "parts", "instances", "K"):
    print(f"  {name:10s} {str(getattr(first, name).shape):16s} {getattr(first, name).dtype}")

# %% [markdown]
# The sheet: a column per picture; in rows the image, body parts, normals, depth, whose pixel it is, and 17
# keypoints (filled: seen, hollow: hidden).

# %%
LIMBS = [(0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
         (11, 13), (13, 15), (12, 14), (14, 16)]  # fmt: skip


def draw_people(ax, people):
    """The 17 keypoints of each person, as far as they are known, over a picture."""
    for person in people:
        points = person.keypoints["coco17"]
        known = points.visible > 0
        limbs = [(a, b) for a, b in LIMBS if known[a] and known[b]]
        plots.draw_keypoints(ax, np.where(known[:, None], points.points_2d, np.nan), points.visible == 2, limbs, 5)


# %%
def sheet(samples):
    """Every label of every sample: a figure with a column per sample."""
    rows = {
        "image": [s.image for s in samples],
        "parts": [plots.colour_parts(s.parts) for s in samples],
        "normals": [plots.colour_normals(s.normals.transpose(1, 2, 0)) for s in samples],
        "depth": [plots.colour_depth(s.depth) for s in samples],
        "instances": [plots.colour_ids(s.instances) for s in samples],
        "keypoints": [0.35 + 0.65 * s.image.mean(0, keepdims=True).repeat(3, 0) for s in samples],
    }
    plots.show_images([picture for row in rows.values() for picture in row], columns=len(samples), height=1.6)
    axes = plt.gcf().axes
    for ax, name in zip(axes[:: len(samples)], rows, strict=True):
        ax.text(-0.04, 0.5, name, transform=ax.transAxes, rotation=90, va="center", ha="right")
    for ax, sample in zip(axes[-len(samples) :], samples, strict=True):
        draw_people(ax, sample.people)


sheet(samples)

# %% [markdown]
# *A sheet of rendered people, dressed, posed and lit in rooms and outdoors, each with the labels of the same
# picture below it.* Every row comes from the `rasterize` of this chapter, which began with the sign of a cross
# product.
#
# **The labels agree with each other**, because they come from one z-buffer. That is worth testing: labels glued
# together from several renderers are off by a pixel at the outlines.

# %%
for s in samples:
    somebody = s.instances > 0
    assert (s.depth[somebody] > 0).all() and np.isinf(s.depth[~somebody]).all()
    assert ((s.parts > 0) == somebody).all()
    assert np.allclose(np.linalg.norm(s.normals, axis=0)[somebody], 1, atol=1e-3)
    assert s.instances.max() <= len(s.people) and 0 <= s.alpha.min() and s.alpha.max() <= 1
    assert (s.alpha[somebody] > 0).mean() > 0.999
print("depth, parts, normals, instances and alpha agree on all", len(samples), "pictures")

# %% tags=["result"]
people = [p for s in samples for p in s.people]
seen_points = sum((p.keypoints["coco17"].visible == 2).sum() for p in people)
classes = np.unique(np.concatenate([np.unique(s.parts) for s in samples]))
table = {
    "rasteriser, 8 bodies at 256 x 256": f"{1e3 / our_ms:.0f} pictures a second",
    "the same with Embree": f"{1e3 / embree_ms:.0f} pictures a second" if embree_ms else "not installed",
    "same face as Embree": f"{agreement:.4%} of pixels" if agreement else "not measured",
    f"labelled people at {SIDE} x {SIDE}": f"{pictures_per_second:.1f} pictures a second, one process",
    "pictures, people": f"{len(samples)}, {len(people)}",
    "pixels with depth, normal, part, id": f"{sum((s.instances > 0).sum() for s in samples):,}",
    "part classes present": f"{(classes > 0).sum()} of 27",
    "keypoints seen, of 17 a person": f"{seen_points} of {17 * len(people)}",
}
for name, value in table.items():
    print(f"{name:38s} {value}")
assert len(classes) > 8 and seen_points > 0

# %% [markdown]
# (The speed of the sheet includes dressing people who are drawn for the first time. `course data make` spreads the
# work over processes and reuses people: `benchmarks/people.py` measures that.)
#
# ## What to remember
#
# - A rasteriser asks one question per pixel, *which triangle, and where on it?* Every label is an answer to it.
# - Pixel centres are at integer + 0.5. Intervals are half-open: no hole, nothing twice.
# - On the screen, $1/z$ is linear and $z$ is not. Weights must be divided by depth.
# - The bits of positive floats sort like the floats: depth and owner fit into one integer, the z-buffer is one
#   `amin`.
# - With `repeat_interleave` and `cumsum`, pieces of unequal length fit into one list, and no loop is needed.
# - Subtract before you multiply. Cancellation raises no error, and it makes labels that are wrong by decimetres.
# - What is discrete (which face?) has no gradient; what is continuous (where on it?) gets one from autograd.
# - Normals: camera space, $y$ up, $z$ toward the viewer. Colour is averaged over a pixel, labels never are.
#
# ## What the papers leave open
#
# Sapiens does not say how its 600 scans are shared out among the 500,000 pictures, nor how many of them show only a
# face. DAViD refers to Hewitt et al. for its renderer and describes what it changed for labels (supplement A): hair
# gets the normals of a smooth proxy, and glasses the depth and normals of what is *behind* them. That needs several
# layers per pixel, where ours has one. Chapter 09 builds it in miniature.
#
# ## Where to read on
#
# - J. Pineda, *A parallel algorithm for polygon rasterization*, SIGGRAPH 1988: the edge function.
# - E. Catmull, *A subdivision algorithm for computer display of curved surfaces*, 1974: the z-buffer, on the side.
# - M. Olano, T. Greer, *Triangle scan conversion using 2D homogeneous coordinates*, 1997: no clipping, no division.
# - S. Laine et al., *Modular primitives for high-performance differentiable rendering* (nvdiffrast), 2020: the same
#   division of labour as here, on a GPU, with gradients at the outlines too.
# - F. Saleh et al., *DAViD*, 2025, §3.1 and supplement A; R. Khirodkar et al., *Sapiens*, 2024, §3.5.
# - C. Hewitt et al., *Look Ma, no markers*, 2024: the pipeline behind DAViD's pictures.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=3)

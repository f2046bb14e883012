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
# # Chapter 01: Cameras
#
# A camera turns a world in metres into a picture in pixels. A network that learns from pictures has to find the way
# back. All five papers use the same dozen formulas for both directions. In this chapter you derive each one, write
# it, and compare it with an independent implementation. Later chapters use cameras without explaining them again.
#
# **What you will build**: rotations that survive every angle and every gradient; a pinhole camera with crops and
# lenses; the weak-perspective camera of MPT, with its error as an exact formula; the Plücker rays of HumanRAM; the
# Procrustes alignment inside every PA-MPJPE; and a solver that finds a camera from a person's joints. The picture below
# comes out of the finished code.
#
# | | |
# |---|---|
# | **You should know** | vectors and matrices, the cross product, what a gradient is; basic PyTorch |
# | **Reading** | 60 minutes |
# | **Exercises** | ten, about 110 minutes |
# | **Runs** | every scale: under a minute on a laptop's CPU, under 1 GB of memory; nothing is trained here |
# | **From the papers** | MPT, supplement B and F: virtual cameras, weak perspective |
# | | HumanRAM, supplement A: Plücker rays, PnP in the wild |
# | | ACAE: absolute poses; DAViD: z-depth, camera-space normals; all of them: PA-MPJPE |
#
# **Letters.** B batch · T time · N tokens (here: points) · D width · H W image · J joints · V vertices · F faces · K
# keypoints/blend shapes · S views. (Everyone calls the matrix of a camera's lens $K$ as well: in this chapter $K$ is
# always that.)

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import sympy
from ipywidgets import interactive
from kornia import geometry as kornia_geometry
from matplotlib.collections import PolyCollection
from scipy.spatial.transform import Rotation

plt.rcParams.update({"figure.dpi": 72, "font.size": 11, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from course_lib.exercises import TODO, check, exercise

NEAREST_DEPTH = 1e-3  # metres: nothing is projected from closer to the camera plane, or from behind it


def require(name: str, tensor: Tensor, *shape: int | None) -> None:
    """ValueError unless `tensor` is a floating-point tensor whose last dimensions are `shape` (None: any length)."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, not {getattr(tensor, 'dtype', type(tensor))}")
    last = tuple(tensor.shape[tensor.ndim - len(shape) :]) if tensor.ndim >= len(shape) else ()
    if len(last) != len(shape) or any(want not in (None, have) for want, have in zip(shape, last, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape (..., {wanted}), not {tuple(tensor.shape)}")


# %% [markdown]
# `require` checks the input: the functions below call it first, so that a wrong shape is reported at once and not ten
# lines further in.
#
# We need someone to photograph. The bodies come in chapter 02; until then a stick figure of 17 joints will do. She
# stands on the floor ($y = 0$), faces $+z$, waves with her right hand and reaches forward with her left, so that
# there is some depth to see.

# %%
JOINTS = {
    "pelvis": (0.00, 0.95, 0.00), "spine": (0.00, 1.20, -0.03), "neck": (0.00, 1.48, 0.00),
    "nose": (0.00, 1.60, 0.10), "head": (0.00, 1.76, 0.02),
    "left shoulder": (0.18, 1.43, 0.00), "left elbow": (0.25, 1.36, 0.28), "left wrist": (0.22, 1.42, 0.54),
    "right shoulder": (-0.18, 1.43, 0.00), "right elbow": (-0.42, 1.36, 0.06), "right wrist": (-0.50, 1.63, 0.14),
    "left hip": (0.10, 0.92, 0.00), "left knee": (0.12, 0.52, 0.20), "left ankle": (0.12, 0.08, 0.12),
    "right hip": (-0.10, 0.92, 0.00), "right knee": (-0.11, 0.50, -0.05), "right ankle": (-0.11, 0.08, -0.28),
}  # fmt: skip
BONES = [("pelvis", "spine"), ("spine", "neck"), ("neck", "nose"), ("nose", "head")]
BONES += [(f"{side} {a}", f"{side} {b}") for side in ("left", "right")
          for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))]  # fmt: skip
BONES += [("left hip", "right hip"), ("left shoulder", "right shoulder")]
person = torch.tensor(list(JOINTS.values()))  # (17, 3)


def draw_person(axes, points, color=None, lw=4, **style):
    """The bones over points (17, 2): the person's own left orange, her right blue, the rest grey."""
    names, side_colors = list(JOINTS), {"left": "#e07a1f", "right": "#2b6cb0"}
    for a, b in BONES:
        same_side = a.split()[0] == b.split()[0]
        bone = color or (side_colors.get(a.split()[0], "0.3") if same_side else "0.3")
        axes.plot(*points[[names.index(a), names.index(b)]].T, color=bone, lw=lw, solid_capstyle="round", **style)
    neck, nose, head = (points[names.index(name)] for name in ("neck", "nose", "head"))
    look = {"color": color or "0.3", "fill": lw >= 4, "lw": lw} | style
    axes.add_patch(plt.Circle((nose + head) / 2, 0.42 * (head - neck).norm(), **look))


# %% [markdown]
# And a place: a floor of one-metre tiles and three houses far behind her. `draw_picture` shows what a camera sees of
# it.

# %%
corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
TILES = [[corners + torch.tensor([x, 0.0, z]) for x in range(-14, 14) for z in range(-12, 3) if (x + z) % 2 == odd]
         for odd in (0, 1)]  # fmt: skip
facade = torch.tensor([[-1.3, 0, -12.0], [1.3, 0, -12.0], [1.3, 3.2, -12.0], [0, 4.4, -12.0], [-1.3, 3.2, -12.0]])
HOUSES = [facade + torch.tensor([x, 0.0, 0.0]) for x in (-3.6, 0.0, 3.6)]


def draw_picture(axes, camera, size, title=""):
    """The floor, the houses and the person, as the camera sees them, in a picture of `size` = (H, W)."""
    for shapes, color in ((TILES[0], "#cfdac6"), (TILES[1], "#b5c5a9"), (HOUSES, "#c98b6b")):
        seen = [shape for shape in shapes if camera.to_camera(shape[None])[..., 2].min() > 0.05]
        axes.add_collection(PolyCollection([camera.project(s[None])[0].numpy() for s in seen], facecolor=color))
    draw_person(axes, camera.project(person[None])[0])
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0), xticks=[0, size[1]], yticks=[0, size[0]])
    axes.set(aspect="equal", title=title, facecolor="#e3edf5")


# %%
import course_lib.chapters.cameras as finished  # what this chapter builds, complete: only for this first picture

size = (300, 400)
eyes = torch.tensor([[0.0, 1.5, 3.5], [3.2, 1.2, 2.6], [-2.2, 4.2, 3.0]])
cameras = finished.Camera.look_at(eyes, [0.0, 0.9, 0.0], focal=torch.tensor([380.0, 430.0, 520.0]), size=size)
figure, panels = plt.subplots(1, 3, figsize=(13, 3.5), layout="constrained")
for i, panel in enumerate(panels):
    draw_picture(panel, cameras[i], size, f"camera {i + 1}, at {tuple(round(v, 1) for v in eyes[i].tolist())} m")

# %% [markdown]
# *One person, three cameras: in front, at her left, above at her right. Orange is her own left side.*
#
# ## 1 Conventions
#
# **The question.** A camera has two dozen small choices (which way is up? where is pixel 0? what is "depth"?), each
# harmless, each made differently in the next library. How do we keep them from costing us a day each?
#
# **The answer.** Choose once, write it down, assert it in code. This table holds for the whole course.
#
# | what | convention | beware |
# |---|---|---|
# | length | metres | ACAE's data are in millimetres, DAViD's depth files in centimetres |
# | world | SMPL's: $y$ up; a body at rest faces $+z$, its left hand is at $+x$ | AMASS, Blender, Human3.6M: $z$ up |
# | camera axes | OpenCV's: $x$ right, $y$ **down**, $z$ forward | OpenGL, Blender, PyTorch3D: two signs differ |
# | pose | world → camera: $x_c = R\,x_w + t$ | many files (Human3.6M's) hold the camera's place $o$ for $t$ |
# | depth | the camera coordinate $z_c$ | not the distance to the camera |
# | pixels | $(u, v)$ = right, down; the picture is the area $[0, W] \times [0, H]$ | not (row, column) |
# | pixel centres | row $i$, column $j$ has its centre at $(u, v) = (j + 0.5,\ i + 0.5)$ | OpenCV: at $(j, i)$ |
# | normals | camera space, $x$ right, $y$ **up**, $z$ toward the viewer | camera axes with $y$, $z$ flipped |
# | images | float32 RGB in $[0, 1]$, (B, 3, H, W) | |
# | rotations | matrices, or axis-angle in radians; poses in SMPL-X's joint order (chapter 02) | degrees only in text |
# | indices | formulas count from 1: $R_{32}$ is `R[2, 1]` | |
# | points in code | rows of (..., N, 3): `points @ R.mT` is $R\,x$ for every row $x$ | `points @ R` is $R^\top x$ |
#
# The camera's place is not $t$. It is the world point that lands at the camera's origin: $0 = R\,o + t$, so
# $$x_c = R\,x_w + t, \qquad o = -R^\top t. \tag{01.1}$$
#
# The last row of the table deserves a second look, because it is easy to get wrong. In formulas points are columns,
# in code they are rows; $(R\,x)^\top = x^\top R^\top$, hence the `.mT` ("matrix transpose", of the last two
# dimensions).

# %% [markdown]
# ## 2 Rotations
#
# **The question.** A rotation has three degrees of freedom and its matrix nine numbers. How does one store, predict and
# *learn* a rotation with three numbers?
#
# **The idea.** Every rotation in space turns about some axis (Euler, 1775). Take a vector $v$: its direction is the
# axis $n$, its length the angle $\theta$. That is **axis-angle**, and SMPL-X stores every joint of a body this way.
#
# Which matrix is it? Split a point $x$ into the part along the axis, $x_\parallel$, and the rest, $x_\perp$. The first
# stays. The second turns in the plane spanned by $x_\perp$ and $n \times x$ (both have its length, and they are
# perpendicular):
# $$x' = x_\parallel + \cos\theta\; x_\perp + \sin\theta\; n \times x .$$
#
# Write the cross product as a matrix, $[n]_\times x = n \times x$. Then
# $[n]_\times^2 x = n \times (n \times x) = -x_\perp$, so $x_\perp = -[n]_\times^2 x$ and
# $x_\parallel = x + [n]_\times^2 x$. Put in, with $v = \theta n$:
# $$R(v) = I + a\,[v]_\times + b\,[v]_\times^2, \qquad a = \frac{\sin\theta}{\theta},\quad
# b = \frac{1 - \cos\theta}{\theta^2}, \quad \theta = |v|. \tag{01.2}$$
#
# This is **Rodrigues' formula**. Let a computer algebra system check what we claim about it, for every axis and angle
# at once: $R^\top R = I$, $\det R = 1$, and $dR/d\theta = [n]_\times R$, which says that turning further is turning
# about the same axis (so $R = \exp(\theta[n]_\times)$).

# %%
x, y, z, c, s = sympy.symbols("x y z c s")  # the axis; cos θ and sin θ
cross = sympy.Matrix([[0, -z, y], [z, 0, -x], [-y, x, 0]])
R = sympy.eye(3) + s * cross + (1 - c) * cross**2
dR = c * cross + s * cross**2  # dR/dθ


def is_zero(matrix):
    """Whether every entry vanishes for each unit axis and each angle: x² + y² + z² = 1, c² + s² = 1."""
    relations = [x**2 + y**2 + z**2 - 1, c**2 + s**2 - 1]
    return all(sympy.reduced(sympy.expand(entry), relations, x, y, z, c, s)[1] == 0 for entry in matrix)


assert is_zero(R.T * R - sympy.eye(3)) and is_zero([R.det() - 1]) and is_zero(dR - cross * R)
print("R'R = I, det R = 1 and dR/dθ = [n]× R hold for every unit axis and every angle")


# %% tags=["export"]
def skew(vector: Tensor) -> Tensor:
    """(..., 3) -> (..., 3, 3): the matrix [v]x that turns the cross product into a product, [v]x w = v x w."""
    require("vector", vector, 3)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


# %% [markdown]
# ### Where it breaks: no rotation at all
#
# At $\theta = 0$, where a body is at rest and most training starts, (01.2) is $0/0$ twice. Three things go wrong, and
# the third one is a classic:
#
# 1. the value is NaN at exactly zero;
# 2. near zero $1 - \cos\theta$ cancels: in float32 the cosine of 0.0002 *is* 1, so $b$ comes out as 0 instead of ½;
# 3. `torch.where` alone does not save the **gradient**: backward visits both branches, and $0 \cdot \infty$ is NaN.

# %%
v = torch.zeros(3, requires_grad=True)
angle = v.norm()
a = torch.where(angle > 0, angle.sin() / angle, 1.0)  # the value is fine: 1
a.backward()
print(f"a = {a.item()}, its gradient: {v.grad.tolist()}")

v = torch.zeros(3, requires_grad=True)
small = v.square().sum() < 1e-8
angle = torch.where(small, 1.0, v.square().sum()).sqrt()  # a safe stand-in BEFORE the root and the division
a = torch.where(small, 1.0 - v.square().sum() / 6, angle.sin() / angle)
a.backward()
print(f"a = {a.item()}, its gradient: {v.grad.tolist()}")


# %% [markdown]
# The cure has three parts. Below a threshold use the Taylor series,
# $$a \approx 1 - \frac{\theta^2}{6}, \qquad b \approx \frac12 - \frac{\theta^2}{24}
# \qquad\text{for } \theta^2 < 10^{-8}; \tag{01.3}$$
# above it use the half angle, $b = 2\sin^2(\theta/2)\,/\,\theta^2$, which does not cancel; and feed the branch that is
# *not* chosen a harmless number (the **double where**, second half of the cell above).
#
# ### Exercise 01.1 — axis-angle to matrix  ●●○ (15 min)
#
# Write Rodrigues' formula for any number of leading dimensions, with finite values and gradients at every angle. You
# have `skew`, and (01.2) with (01.3).
#
# <details><summary>Hint: the order of work</summary>
#
# Start from `squared = axis_angle.square().sum(-1)[..., None, None]`, shape (..., 1, 1), so that it multiplies
# matrices. Then `small`, the safe `angle`, `a`, `b`, and the sum of three matrices.
# </details>
# <details><summary>Hint: the identity</summary>
#
# `torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)` broadcasts over the leading dimensions by itself.
# </details>

# %% tags=["export"]
@exercise("01.1")
def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """(..., 3) radians -> (..., 3, 3) rotation matrices. Rodrigues' formula (01.2), with its series near zero.

    The direction of the vector is the axis, its length the angle. Finite gradients everywhere, at zero too.
    """
    require("axis_angle", axis_angle, 3)
    raise TODO


# %%
check(axis_angle_to_matrix)

# %% [markdown]
# SciPy has rotations too, and so has kornia, a library of computer vision on PyTorch. For a thousand random vectors
# all three must agree.

# %%
vectors = 2 * torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ours = axis_angle_to_matrix(vectors)
scipy_error = (ours - torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix())).abs().max().item()
assert scipy_error < 1e-12
assert torch.allclose(ours, kornia_geometry.axis_angle_to_rotation_matrix(vectors), atol=1e-5)  # kornia adds an epsilon
print(f"largest difference to SciPy: {scipy_error:.1e}")


# %% [markdown]
# What does it look like? Below, the three axes of a frame (grey) turn about the dashed one; the arcs are the paths of
# their tips.

# %%
def draw_turn(axes, vector):
    """The axes of a frame, turned by an axis-angle vector, with the paths that their tips took."""
    steps = axis_angle_to_matrix(torch.linspace(0, 1, 60)[:, None] * vector)  # (60, 3, 3): columns are the tips
    axis = 1.3 * vector / vector.norm().clamp(min=1e-9)
    axes.plot(*torch.stack([-axis, axis]).T, "k--", lw=1.5)
    for i, color in enumerate(("#d1495b", "#3a7d44", "#2b6cb0")):
        axes.plot(*steps[:, :, i].T, color=color, lw=1.5, alpha=0.6)
        axes.plot(*torch.stack([torch.zeros(3), steps[0, :, i]]).T, color="0.8", lw=2)
        axes.plot(*torch.stack([torch.zeros(3), steps[-1, :, i]]).T, color=color, lw=3)
        axes.text(*(1.15 * steps[-1, :, i]), "xyz"[i], color=color, fontsize=13)
    axes.set(xlim=(-0.7, 0.7), ylim=(-0.7, 0.7), zlim=(-0.7, 0.7), box_aspect=(1, 1, 1))
    axes.set_axis_off()
    axes.view_init(elev=22, azim=10)
    axes.set_title(f"{math.degrees(vector.norm()):.0f}° about the dashed axis", fontsize=11)


figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), subplot_kw={"projection": "3d"}, layout="constrained")
for panel, degrees in zip(panels, (30, 90, 170), strict=True):
    draw_turn(panel, math.radians(degrees) * torch.tensor([0.0, 0.6, 0.8]))


# %% [markdown]
# Turn it yourself. (The sliders need a running kernel; without one, the three pictures above show the same at three
# angles.) Watch what happens when the angle passes 360°: the vector grows on, the rotation starts again.

# %%
def turn(azimuth=45, elevation=55, angle=120):
    figure, axes = plt.subplots(figsize=(4, 4), subplot_kw={"projection": "3d"}, layout="constrained")
    a, e = math.radians(azimuth), math.radians(elevation)
    axis = torch.tensor([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    draw_turn(axes, math.radians(angle) * axis)
    plt.show()


interactive(turn, azimuth=(0, 360, 15), elevation=(-90, 90, 15), angle=(0, 540, 10))


# %% [markdown]
# ### The way back
#
# **The question.** Given $R$, which vector is it? The textbook says $\cos\theta = (\operatorname{tr} R - 1)/2$ and
# $\sin\theta\, n = \tfrac12 (R_{32} - R_{23},\ R_{13} - R_{31},\ R_{21} - R_{12})$. Both are true and neither is
# enough: near 0 the cosine is $1 - \theta^2/2$, which float32 rounds to 1, so the arc cosine gives 0; and near $\pi$
# the second vector vanishes, and the axis is lost.
#
# **The idea.** Go through the quaternion $q = (w, x, y, z) = (\cos\tfrac\theta2,\ \sin\tfrac\theta2\; n)$. Rodrigues'
# formula in terms of $q$ is quadratic in $q$; solved for the products $q_i q_j$, it is *linear* in $R$:
# $$4\,q\,q^\top = \begin{pmatrix}
# 1 + \operatorname{tr} R & R_{32} - R_{23} & R_{13} - R_{31} & R_{21} - R_{12} \\
# \cdot & 1 + 2R_{11} - \operatorname{tr} R & R_{12} + R_{21} & R_{13} + R_{31} \\
# \cdot & \cdot & 1 + 2R_{22} - \operatorname{tr} R & R_{23} + R_{32} \\
# \cdot & \cdot & \cdot & 1 + 2R_{33} - \operatorname{tr} R \end{pmatrix} \quad\text{(symmetric).} \tag{01.4}$$
#
# Each row is one entry of $q$ times $4\,q$: *every* row is parallel to $q$. Some are short (the first, near
# $\theta = \pi$), but the four diagonal entries $4 q_i^2$ sum to 4, so the largest is at least 1 and its row at least
# 2 long. Take that row, divide by its length, done: no division by zero, at any angle. Then, since $q$ and $-q$ are the
# same rotation, choose $w \ge 0$, and
# $$v = \frac{2\,\operatorname{atan2}(|u|, w)}{|u|}\,u, \qquad u = (x, y, z), \tag{01.5}$$
# where for $|u|^2 < 10^{-8}$ the fraction is $2 + |u|^2/3$. (Only in this section $u$ and $v$ are vectors; from §3 on
# they are the two coordinates of a pixel.)
#
# ### Exercise 01.2 — matrix to axis-angle  ●●○ (15 min)
#
# `quaternion_products` gives you (01.4). Pick the row, make it a unit quaternion with $w \ge 0$, apply (01.5), with the
# double where.
#
# <details><summary>Hint: picking a row per matrix</summary>
#
# `index = products.diagonal(dim1=-2, dim2=-1).argmax(-1)` has shape (...). Then
# `torch.take_along_dim(products, index[..., None, None], dim=-2).squeeze(-2)` has shape (..., 4).
# </details>
# <details><summary>Hint: the sign</summary>
#
# `torch.where(row[..., :1] < 0, -row, row)`. Do not multiply by `sign()`: the sign of 0 is 0, and $w = 0$ is a half
# turn.
# </details>

# %% tags=["export"]
def quaternion_products(rotation: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4, 4): 4 q qᵀ of the unit quaternion q = (w, x, y, z), equation (01.4). Linear in R."""
    require("rotation", rotation, 3, 3)
    r = rotation
    trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    xx, yy, zz = (1 - trace + 2 * r[..., i, i] for i in range(3))
    rows = [1 + trace, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz]
    return torch.stack(rows, -1).unflatten(-1, (4, 4))


@exercise("01.2")
def matrix_to_axis_angle(rotation: Tensor) -> Tensor:
    """(..., 3, 3) rotation matrices -> (..., 3) radians, with an angle in [0, π]. The inverse of 01.1.

    Accurate and with finite gradients near 0 and near π (at exactly π the axis is v or -v: both are right).
    """
    require("rotation", rotation, 3, 3)
    raise TODO


# %%
check(matrix_to_axis_angle)

# %% [markdown]
# Was the care worth it? On the left, the coefficient $b$ of (01.2) in float32; on the right, the angle that comes back
# out of a float32 matrix. The obvious formulas have no digit left below about $3 \cdot 10^{-4}$ radians; the careful
# ones stay within two millionths at every angle.

# %%
angles = torch.logspace(-6, math.log10(3.1415), 300, dtype=torch.float64)
exact_b = 2 * ((angles / 2).sin() / angles) ** 2
naive_b = (1 - angles.float().cos()) / angles.float() ** 2
careful_b = 2 * ((angles.float() / 2).sin() / angles.float()) ** 2
R = axis_angle_to_matrix((angles[:, None] * torch.tensor([0.6, 0.0, 0.8])).float())  # (300, 3, 3)
naive_angle = ((R.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1).acos()
careful_angle = matrix_to_axis_angle(R).norm(dim=-1)

figure, panels = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
for panel, naive, careful, exact, name in (
    (panels[0], naive_b, careful_b, exact_b, "b = (1 − cos θ)/θ²"),
    (panels[1], naive_angle, careful_angle, angles, "the angle of a matrix"),
):
    for values, label, color in ((naive, "textbook", "#d1495b"), (careful, "this chapter", "#2b6cb0")):
        error = ((values - exact).abs() / exact).clamp(min=1e-9)
        panel.loglog(angles, error, ".", ms=4, color=color, label=label)
    panel.set(title=name, xlabel="angle θ (radians)", ylabel="relative error, float32")
panels[0].legend()
assert ((careful_angle - angles).abs() / angles).max() < 2e-6 < ((naive_angle - angles).abs() / angles).max()


# %% [markdown]
# *Used in*: every joint of every body (02), pose augmentation and virtual cameras (13), driving a person (16), and
# inside this chapter's own PnP. Prediction networks often use other coordinates (six numbers, a 9D matrix pressed onto
# the nearest rotation as in §8); what is stored is axis-angle.
#
# ## 3 The pinhole
#
# **The question.** A point is at $(x, y, z)$ in camera coordinates. In which pixel?
#
# **The idea.** Light travels straight. The line from the point through the pinhole meets the plane at depth 1 at
# $(x/z,\ y/z)$: similar triangles, and the only nonlinear step of a camera. The rest is changing units from
# "metres on the plane at depth 1" to pixels: multiply by the focal length $f$, shift to the principal point $c$ (where
# the optical axis meets the picture).
# $$u = f_x \frac{x}{z} + c_x, \quad v = f_y \frac{y}{z} + c_y
# \qquad\Longleftrightarrow\qquad
# \begin{pmatrix} u \\ v \\ 1 \end{pmatrix} = K \begin{pmatrix} x/z \\ y/z \\ 1 \end{pmatrix}, \quad
# K = \begin{pmatrix} f_x & 0 & c_x \\ 0 & f_y & c_y \\ 0 & 0 & 1 \end{pmatrix}. \tag{01.6}$$
#
# A point *behind* the camera has $z < 0$, and (01.6) happily mirrors it into the picture. One cheap rule keeps it out:
# treat every depth below a millimetre (`NEAREST_DEPTH`) as a millimetre. Such a point lands thousands of pixels off, on
# its own side, and nothing is ever divided by zero.
#
# ### Exercise 01.3 — from camera coordinates to pixels  ●○○ (5 min)
#
# Write (01.6) for (..., N, 3) points and one (..., 3, 3) matrix $K$ per batch entry. Clamp the depth to
# `NEAREST_DEPTH`.
#
# <details><summary>Hint</summary>
#
# `points[..., 2:]` keeps the last dimension (it is (..., N, 1)), so the division broadcasts. With rows for points,
# $K\,p$ is `p @ K.mT`; drop the third column of the result.
# </details>
#
# ### Exercise 01.4 — and back  ●○○ (5 min)
#
# A pixel and a **depth** give the point back: solve (01.6) for $(x, y, z)$:
# $$\begin{pmatrix} x \\ y \\ z \end{pmatrix} = z\, K^{-1} \begin{pmatrix} u \\ v \\ 1 \end{pmatrix}. \tag{01.7}$$
#
# Mind the convention: depth is $z$, not the length of the ray.
#
# <details><summary>Hint</summary>
#
# Append a column of ones to the pixels and apply $K^{-1}$ to the rows. What is the third number of each result? Then
# it is clear what to multiply by. Do not normalise: that would turn depth into distance.
# </details>

# %% tags=["export"]
@exercise("01.3")
def camera_to_pixels(points: Tensor, K: Tensor) -> Tensor:
    """(..., N, 3) camera coordinates, metres -> (..., N, 2) pixels, equation (01.6). K is (..., 3, 3).

    A depth below NEAREST_DEPTH counts as NEAREST_DEPTH: what is behind the camera lands far outside the picture.
    """
    require("points", points, None, 3)
    require("K", K, 3, 3)
    raise TODO


@exercise("01.4")
def pixels_to_camera(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """(..., N, 2) pixels and (..., N) depths (camera z, metres) -> (..., N, 3) camera coordinates, equation (01.7)."""
    require("pixels", pixels, None, 2)
    require("depth", depth, pixels.shape[-2])
    require("K", K, 3, 3)
    raise TODO


# %%
check(camera_to_pixels)
check(pixels_to_camera)


# %% [markdown]
# ### How wide is the lens?
#
# Half a picture, $W/2$ pixels, is seen under half the field of view, so
# $$\tan\frac{\text{fov}}{2} = \frac{W/2}{f} \qquad\Longleftrightarrow\qquad
# f = \frac{W}{2\tan(\text{fov}/2)}. \tag{01.8}$$
#
# A photographer's "50 mm" refers to a sensor 36 mm wide: in pixels $f = 50 \cdot W / 36$. Human3.6M's cameras (MPT's
# virtual ones, chapter 13) have $f \approx 1145$ pixels on 1000-pixel pictures.

# %% tags=["export"]
def focal_from_fov(fov: Tensor | float, size: int) -> Tensor | float:
    """Field of view in radians over `size` pixels -> focal length in pixels, equation (01.8)."""
    if not torch.as_tensor((fov > 0) & (fov < math.pi)).all():
        raise ValueError(f"a field of view is between 0 and π radians, not {fov}")
    tangent = torch.tan(fov / 2) if isinstance(fov, Tensor) else math.tan(fov / 2)
    return size / 2 / tangent


def fov_from_focal(focal: Tensor | float, size: int) -> Tensor | float:
    """Focal length in pixels -> field of view in radians over `size` pixels; the inverse of `focal_from_fov`."""
    return 2 * (torch.atan(size / 2 / focal) if isinstance(focal, Tensor) else math.atan(size / 2 / focal))


def pixel_centers(size: tuple[int, int], like: Tensor | None = None) -> Tensor:
    """(H, W) -> (H, W, 2): x, y of every pixel's centre, at integer + 0.5; dtype and device of `like`."""
    height, width = size
    like = torch.empty(0) if like is None else like
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


# %%
for millimetres in (24, 50, 85):
    focal = millimetres * 1000 / 36
    fov = math.degrees(fov_from_focal(focal, 1000))
    print(f"{millimetres} mm on a 1000-pixel picture: f = {focal:.0f} px, {fov:.1f}°")
print(f"Human3.6M: f = 1145 px, {math.degrees(fov_from_focal(1145, 1000)):.1f}°")
assert abs(focal_from_fov(fov_from_focal(1145, 1000), 1000) - 1145) < 1e-9


# %% [markdown]
# ### A crop is another camera
#
# **The question.** Every network here sees a *crop*: a box cut out around a person and scaled to 256 or 512 pixels.
# Where are the joints in it, and what is its camera?
#
# **The idea.** Cutting and scaling moves pixels, not the world: $u' = s_x (u - \text{left})$, with
# $s_x = W' / \text{width}$. That is a matrix in front of $K$, so the crop has the same $R$, the same $t$ and
# $$K' = \begin{pmatrix} s_x & 0 & -s_x\,\text{left} \\ 0 & s_y & -s_y\,\text{top} \\ 0 & 0 & 1 \end{pmatrix} K,
# \qquad s_x = \frac{W'}{\text{width}},\ s_y = \frac{H'}{\text{height}}. \tag{01.9}$$
#
# Notice two things. The principal point of a crop is *not* in its middle: a person cut out at the edge of a wide
# picture is seen from the side, and a network that assumes otherwise gets her orientation wrong (ACAE and HumanRAM both
# care; PnP in §9 is the repair). And the formula has no ½ in it, because centres are at integer + 0.5: then the
# picture's *edges* are at 0 and $W$, and edges scale to edges. With OpenCV's centres at whole numbers it would read
# $u' = s_x(u + \tfrac12 - \text{left}) - \tfrac12$, and forgetting the halves shifts everything by $(1 - s_x)/2$ of
# the new pixels: for a heatmap at a quarter of the resolution (chapter 07) that is one and a half pixels of the
# picture, in every prediction.
#
# ### Exercise 01.5 — the camera of a crop  ●●○ (10 min)
#
# Write (01.9). `box` (..., 4) holds left, top, width, height; `size` is (H', W'): height first, as everywhere.
#
# <details><summary>Hint: nine numbers, one matrix</summary>
#
# Build the entries with `box.unbind(-1)`, `torch.zeros_like(left)` and `torch.ones_like(left)`; stack nine of them in
# the last dimension and `.unflatten(-1, (3, 3))`.
# </details>
# <details><summary>Hint: which side</summary>
#
# The change acts on pixels, *after* $K$ has made them: `change @ K`.
# </details>

# %% tags=["export"]
@exercise("01.5")
def crop_and_resize(K: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """K of the picture that is cut out by `box` and scaled to `size` = (H, W): equation (01.9).

    K (..., 3, 3); box (..., 4) = left, top, width, height in pixels (it may reach outside) -> (..., 3, 3).
    """
    require("K", K, 3, 3)
    require("box", box, 4)
    if not (box[..., 2:] > 0).all():
        raise ValueError("box is left, top, width, height: width and height must be positive")
    raise TODO


# %%
check(crop_and_resize)


# %% [markdown]
# ## 4 Where the camera stands
#
# **The question.** "Put a camera *here*, look *there*, keep the horizon level." What are $R$ and $t$?
#
# **The idea.** The rows of $R$ are the camera's three axes $x$, $y$, $z$, written in world coordinates. (Why: $R$ must
# map the camera's right, $x$, to $(1, 0, 0)$; with orthonormal rows of which $x$ is the first, it does.) So we need
# three arrows. Forward is where we look. Right is perpendicular to forward and to up. Down is perpendicular to both:
# $$z = \frac{\text{target} - \text{eye}}{|\text{target} - \text{eye}|}, \qquad
# x = \frac{z \times \text{up}}{|z \times \text{up}|}, \qquad y = z \times x, \qquad
# R = \begin{pmatrix} x^\top \\ y^\top \\ z^\top \end{pmatrix},\quad t = -R\,\text{eye}. \tag{01.10}$$
#
# The order of a cross product is its sign, so test it on your own body. Look north: forward is north, up is up, and
# forward × up must point east, to your right. Index finger, middle finger, thumb of the *right* hand: it does. Then
# forward × right is down, as the camera's $y$ should be.
#
# ### Exercise 01.6 — look at  ●●○ (10 min)
#
# Write the rotation of (01.10) from the viewing direction (of any length) and an up direction (not necessarily
# perpendicular to it). `torch.linalg.cross` and `torch.nn.functional.normalize(..., dim=-1)` do the work.
#
# <details><summary>Hint</summary>
#
# The rows of $R$ are the axes: `torch.stack([right, down, forward], -2)`. Stacking in `-1` would make them columns,
# which is the rotation from camera to world. Why must `right` be normalised even when `up` has length 1?
# </details>

# %% tags=["export"]
@exercise("01.6")
def look_at_rotation(forward: Tensor, up: Tensor) -> Tensor:
    """World -> camera rotation of a camera that looks along `forward` with `up` upright in its picture.

    forward (..., 3) of any length, up (..., 3) not parallel to it -> (..., 3, 3), rows right, down, forward (01.10).
    """
    require("forward", forward, 3)
    require("up", up, 3)
    raise TODO


# %%
check(look_at_rotation)


# %% [markdown]
# A camera that nobody has cropped has one focal length, and its principal point in the middle:

# %% tags=["export"]
def intrinsics(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """focal (B,) pixels and (H, W) -> K (B, 3, 3): square pixels, principal point in the middle of the picture."""
    K = torch.zeros(*focal.shape, 3, 3, dtype=focal.dtype, device=focal.device)
    K[..., 0, 0] = K[..., 1, 1] = focal
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = size[1] / 2, size[0] / 2, 1
    return K


# %% [markdown]
# Everything so far in one class: $B$ cameras, each $K$, $R$, $t$. It is frozen, like a number: nothing that receives a
# camera can move it. `look_at` refuses what has no answer (eye = target; up along the view), in words.

# %% tags=["export"]
@dataclass(frozen=True)
class Camera:
    """B pinhole cameras: K (B, 3, 3) pixels, R (B, 3, 3) and t (B, 3) metres, world -> camera: x_c = R x_w + t."""

    K: Tensor
    R: Tensor
    t: Tensor

    def __post_init__(self):
        require("K", self.K, None, 3, 3)
        require("R", self.R, None, 3, 3)
        require("t", self.t, None, 3)
        shapes = [tuple(part.shape) for part in (self.K, self.R, self.t)]
        if shapes != [(len(self.K), 3, 3), (len(self.K), 3, 3), (len(self.K), 3)]:
            raise ValueError(f"K, R, t must be (B, 3, 3), (B, 3, 3), (B, 3) with one B, not {shapes}")
        if len({(part.dtype, part.device) for part in (self.K, self.R, self.t)}) > 1:
            raise ValueError("K, R and t must have one dtype and one device")

    def __len__(self) -> int:
        return len(self.K)

    def __getitem__(self, index) -> "Camera":
        """Some of the cameras, still batched: `camera[2]` and `camera[2:3]` are both one camera with B = 1."""
        if isinstance(index, int):
            index = range(len(self))[index]  # IndexError past the end, so that a loop over the cameras ends
            index = slice(index, index + 1)
        return Camera(self.K[index], self.R[index], self.t[index])

    def to(self, *args, **kwargs) -> "Camera":
        """The cameras on another device or in another dtype, as `Tensor.to`."""
        return Camera(self.K.to(*args, **kwargs), self.R.to(*args, **kwargs), self.t.to(*args, **kwargs))

    @property
    def center(self) -> Tensor:
        """(B, 3): where the cameras stand in the world, -Rᵀ t."""
        return -(self.t[:, None] @ self.R).squeeze(1)

    def to_camera(self, points: Tensor) -> Tensor:
        """(B, N, 3) world -> (B, N, 3) camera coordinates, metres."""
        require("points", points, None, None, 3)
        return points @ self.R.mT + self.t[:, None]

    def to_world(self, points: Tensor) -> Tensor:
        """(B, N, 3) camera -> (B, N, 3) world coordinates, metres."""
        require("points", points, None, None, 3)
        return (points - self.t[:, None]) @ self.R

    def project(self, points: Tensor) -> Tensor:
        """(B, N, 3) world, metres -> (B, N, 2) pixels."""
        return camera_to_pixels(self.to_camera(points), self.K)

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """(B, N, 2) pixels and (B, N) depth (camera z, metres) -> (B, N, 3) world."""
        return self.to_world(pixels_to_camera(pixels, depth, self.K))

    def cropped(self, box: Tensor, size: tuple[int, int]) -> "Camera":
        """The cameras of the pictures cut out by box (B, 4) = left, top, width, height and scaled to (H, W)."""
        return Camera(crop_and_resize(self.K, box, size), self.R, self.t)

    @classmethod
    def look_at(cls, eye, target, up=(0.0, 1.0, 0.0), focal: float | Tensor = 512.0, size=(512, 512)) -> "Camera":
        """Cameras at eye (B, 3) that see target (B, 3) in the middle of an (H, W) picture, `up` upright.

        eye, target, up (tensors or sequences) and focal (pixels, a number or (B,)) broadcast over B. ValueError where
        eye = target, up is parallel to the view, or focal is not positive.
        """
        eye = eye if isinstance(eye, Tensor) else torch.tensor(eye, dtype=torch.float32)
        require("eye", eye, 3)
        target, up, focal = (torch.as_tensor(v, dtype=eye.dtype, device=eye.device) for v in (target, up, focal))
        rows = [eye.reshape(-1, 3), target.reshape(-1, 3), up.reshape(-1, 3), focal.reshape(-1, 1)]
        eye, target, up, focal = torch.broadcast_tensors(*rows)  # (B, 3) each
        focal, forward = focal[:, 0], target - eye
        if not bool((focal > 0).all()):
            raise ValueError("focal must be positive: it is a length in pixels")
        sine = torch.linalg.cross(forward, up).norm(dim=-1) / (forward.norm(dim=-1) * up.norm(dim=-1))
        if not bool((sine > 1e-4).all()):  # NaN where eye = target
            raise ValueError("look_at needs eye != target and an up that is not parallel to the view: give another up")
        R = look_at_rotation(forward, up)
        return cls(intrinsics(focal, size), R, -(R @ eye[..., None]).squeeze(-1))


# %% [markdown]
# Does the code follow the table of section 1? Here the rows that a camera can break are asserted. The camera stands
# in front of the person, who faces it:

# %%
camera = Camera.look_at([[0.0, 1.2, 4.0]], target=[0.0, 1.0, 0.0], focal=500.0, size=(480, 360))
pixels = dict(zip(JOINTS, camera.project(person[None])[0], strict=True))
assert pixels["head"][1] < pixels["left ankle"][1]  # v points down: the head has the smaller one
assert pixels["left wrist"][0] > pixels["right wrist"][0]  # she faces us: her left is at our right
assert torch.allclose(camera.center, torch.tensor([[0.0, 1.2, 4.0]]), atol=1e-6)  # -R't, not t
assert torch.allclose(camera.project(torch.tensor([[[0.0, 1.0, 0.0]]])), torch.tensor([180.0, 240.0]))  # the middle

centers = pixel_centers((480, 360))
assert centers.shape == (480, 360, 2) and centers[0, 0].tolist() == [0.5, 0.5] and centers[7, 3].tolist() == [3.5, 7.5]

off_axis = camera.to_world(torch.tensor([[[1.5, 0.0, 2.0]]]))
assert math.isclose(camera.to_camera(off_axis)[0, 0, 2], 2.0, rel_tol=1e-5)  # depth: z …
assert math.isclose((off_axis - camera.center).norm(), 2.5, rel_tol=1e-5)  # … not distance

toward_camera = camera.R @ torch.nn.functional.normalize(camera.center - torch.tensor([0.0, 1.0, 0.0]), dim=-1)[0]
assert torch.allclose(toward_camera * torch.tensor([1.0, -1, -1]), torch.tensor([0.0, 0, 1]), atol=1e-6)  # a normal: +z

# %% [markdown]
# And against kornia's `PinholeCamera`, there and back, with 100 random cameras:

# %%
generator = torch.Generator().manual_seed(0)
eyes = torch.randn(100, 3, generator=generator) + torch.tensor([0.0, 1.0, 5.0])
camera = Camera.look_at(eyes.double(), target=[0.0, 1.0, 0.0], focal=torch.linspace(300, 900, 100), size=(480, 360))
K, pose = torch.eye(4).repeat(2, 100, 1, 1).double()
K[:, :3, :3], pose[:, :3, :3], pose[:, :3, 3] = camera.K, camera.R, camera.t
theirs = kornia_geometry.PinholeCamera(K, pose, torch.full((100,), 480), torch.full((100,), 360))

points = person.double().expand(100, -1, -1)
pixels, depth = camera.project(points), camera.to_camera(points)[..., 2]
pixels_error = (pixels - theirs.project(points)).abs().max().item()
back_error = (camera.unproject(pixels, depth) - points).abs().max().item()
assert pixels_error < 1e-4 and back_error < 1e-9
print(f"largest difference to kornia: {pixels_error:.1e} pixels; there and back: {back_error:.1e} m")

# %% [markdown]
# Now a crop. The right picture is not cut out of the left one: it is drawn from scratch with the crop's own camera, and
# the two agree. The cross marks the principal point, which the crop has left outside.

# %%
size, box, crop_size = (300, 400), torch.tensor([[210.0, 60.0, 140.0, 210.0]]), (300, 200)
camera = Camera.look_at([[-1.2, 1.5, 4.2]], target=[-1.0, 0.9, 0.0], focal=380.0, size=size)
crop = camera.cropped(box, crop_size)
assert torch.allclose(crop.project(person[None]), (camera.project(person[None]) - box[0, :2]) * 300 / 210, atol=1e-3)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=[4, 2])
for panel, one, (height, width), title in ((panels[0], camera, size, "picture"), (panels[1], crop, crop_size, "crop")):
    focal, middle = one.K[0, 0, 0], one.K[0, :2, 2]
    draw_picture(panel, one, (height, width), f"{title}: f = {focal:.0f} px, c = {middle.int().tolist()}")
    panel.plot(*middle, "k+", ms=12, mew=2, clip_on=False)
    panel.set(xlim=(0, width), ylim=(height, 0))
patch = panels[0].add_patch(plt.Rectangle(box[0, :2], *box[0, 2:], fill=False, lw=2, color="#d1495b"))

# %% [markdown]
# *Used in*: the rasteriser (03), top-down crops and heatmaps (07), points from depth (10), absolute poses (12),
# heatmaps from virtual cameras (13), and every camera in between.
#
# ## 5 The choice of a lens
#
# **The question.** Is a close-up with a short lens the same as a shot from afar with a long one?
#
# **The idea.** A person of height $h$ at depth $Z$ is $f h / Z$ pixels tall. Walk away and zoom in, with
# $$f = f_0\,\frac{Z}{Z_0}, \tag{01.11}$$
# and she keeps her size. Everything at *another* depth does not: film people call it the dolly zoom. Close up, her
# outstretched arm is long and the houses are tiny; from afar, depth seems to fold into a plane.

# %%
size = (360, 300)
figure, panels = plt.subplots(1, 4, figsize=(13, 4.2), layout="constrained")
for panel, distance in zip(panels, (1.6, 3.0, 8.0, 40.0), strict=True):
    focal = 140.0 * distance
    camera = Camera.look_at([[0.0, 1.3, distance]], target=[0.0, 1.3, 0.0], focal=focal, size=size)
    fov = math.degrees(fov_from_focal(focal, size[1]))
    draw_picture(panel, camera, size, f"{distance:.1f} m, {fov:.0f}°")


# %% [markdown]
# Drag the slider from one metre to fifty. (It needs a running kernel; the four pictures above are stills of it.) What
# does the picture look like in the end? The next section gives that limit a formula.

# %%
def dolly_zoom(distance=2.0):
    figure, axes = plt.subplots(figsize=(4, 4.6), layout="constrained")
    camera = Camera.look_at([[0.0, 1.3, distance]], target=[0.0, 1.3, 0.0], focal=140.0 * distance, size=(360, 300))
    draw_picture(axes, camera, (360, 300), f"{distance:.1f} m, f = {140 * distance:.0f} px")
    plt.show()


interactive(dolly_zoom, distance=(1.0, 50.0, 0.5))

# %% [markdown]
# ## 6 Weak perspective
#
# **The question.** A network sees a cropped person and no camera. MPT (supplement F, "following the literature") lets
# it predict just three numbers, a scale $s$ and a translation $\mathbf t = (t_x, t_y)$. What do they mean, and what do
# they cost?
#
# **The idea.** In the dolly zoom's limit all depths of a person are practically one depth. Replace each point's $Z$ by
# one $Z_0$ and the division is gone: with $s = f / Z_0$,
# $$\mathbf x_{\text{weak}} = s\,(\mathbf X_{xy} + \mathbf t), \tag{01.12}$$
# where $\mathbf X$ is in metres with the *camera's* axes and $\mathbf x$ is measured from the principal point. MPT,
# METRO and HMR measure $\mathbf x$ in crop units $[-1, 1]$; then $s$ is in "half crops per metre" and
# $s_{\text{pixels}} = s\,W/2$.
#
# **What does it cost?** Let a point be at depth $Z = Z_0 + \delta$. The two pictures of it differ by
# $$x - x_{\text{weak}} = f\frac{X}{Z} - f\frac{X}{Z_0} = f X\,\frac{Z_0 - Z}{Z\,Z_0}
# = -\frac{\delta}{Z}\; x_{\text{weak}}. \tag{01.13}$$
#
# No approximation was made: the error *is* the point's offset from the principal point, times its depth relief over its
# depth. This has three consequences. At a given size in the picture the error falls like one over the distance. It is
# zero on the optical axis and grows toward the edges of the picture. And an arm that reaches 0.5 m toward a camera 5
# m away is misplaced by $0.5/4.5 = 11\,\%$ of its offset from the middle.

# %%
f, X, Z0, delta = sympy.symbols("f X Z_0 delta", positive=True)
perspective, weak = f * X / (Z0 + delta), f * X / Z0
assert sympy.simplify(perspective - weak + delta / (Z0 + delta) * weak) == 0  # (01.13)
print("first order in δ:", sympy.series(perspective - weak, delta, 0, 2).removeO())


# %% [markdown]
# Read the other way, $(s, \mathbf t)$ is a camera in disguise. Choose any focal length $f$ in pixels: the perspective
# camera with rotation $I$ and
# $$t = \left(t_x,\ t_y,\ \frac{f}{s}\right) \tag{01.14}$$
# shows nearly the same picture. ($\mathbf t$ is already in metres; with $s$ in crop units the depth is $2f / (sW)$, a
# line that you will meet in every human-mesh repository.) HumanRAM starts from exactly such a camera in the wild, and
# repairs it with the PnP of §9.
#
# When 3D points and their pixels are both known, the best $(s, \mathbf t)$ in the least-squares sense is a linear
# regression: with means $\bar{\mathbf X}$, $\bar{\mathbf x}$,
# $$s = \frac{\sum_i (\mathbf X_i - \bar{\mathbf X}) \cdot (\mathbf x_i - \bar{\mathbf x})}
# {\sum_i |\mathbf X_i - \bar{\mathbf X}|^2}, \qquad
# \mathbf t = \frac{\bar{\mathbf x}}{s} - \bar{\mathbf X}. \tag{01.15}$$
#
# (Set the derivatives of $\sum_i |s\mathbf X_i + \mathbf b - \mathbf x_i|^2$ to zero, with $\mathbf b = s\mathbf t$.
# First $\mathbf b = \bar{\mathbf x} - s\bar{\mathbf X}$; put in, then $s$.)
#
# ### Exercise 01.7 — fit a weak-perspective camera  ●●○ (10 min)
#
# Write (01.15) for a batch. $\mathbf X_i$ is the $xy$ part of `points`; the sums run over points *and* over the two
# coordinates.
#
# <details><summary>Hint</summary>
#
# `.mean(-2)` averages over the points. For the sums, `.sum((-2, -1))`. Mind the shapes: $s$ is (B,), $\mathbf t$ is (B,
# 2).
# </details>
# <details><summary>Hint: the translation is off</summary>
#
# In (01.12) $\mathbf t$ stands *inside* the parenthesis, before the scale: it is in metres.
# </details>

# %% tags=["export"]
def weak_perspective_project(points: Tensor, scale: Tensor, translation: Tensor) -> Tensor:
    """(B, N, 3), camera axes -> (B, N, 2): s (X_xy + t), equation (01.12); MPT supplement F, HMR, METRO.

    scale (B,), translation (B, 2), in the unit of `points`. The result has the unit of `scale` times metres: pixels
    from the principal point, or [-1, 1] over a crop, as the caller's scale says.
    """
    require("points", points, None, 3)
    require("translation", translation, 2)
    return scale[..., None, None] * (points[..., :2] + translation[..., None, :])


@exercise("01.7")
def fit_weak_perspective(points: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares weak-perspective camera: (B, N, 3) and (B, N, 2) -> scale (B,), translation (B, 2), (01.15).

    `pixels` are measured from the principal point.
    """
    require("points", points, None, 3)
    require("pixels", pixels, points.shape[-2], 2)
    raise TODO


# %%
check(fit_weak_perspective)

# %% [markdown]
# Now measure. The person keeps her size in the picture while the camera moves back; we fit the best weak-perspective
# camera to each picture and compare it with (01.13).

# %%
distances = torch.logspace(math.log10(1.2), 2, 60)
target = person.mean(0)
eyes = target + distances[:, None] * torch.tensor([0.0, 0.0, 1.0])
camera = Camera.look_at(eyes, target, focal=120.0 * distances, size=(0, 0))  # size 0: pixels from the principal point
in_camera, exact = camera.to_camera(person.expand(60, -1, -1)), camera.project(person.expand(60, -1, -1))

limit = weak_perspective_project(in_camera, torch.full((60,), 120.0), torch.zeros(60, 2))  # s = f / Z0
fitted = weak_perspective_project(in_camera, *fit_weak_perspective(in_camera, exact))
relief = in_camera[..., 2:] - distances[:, None, None]
assert torch.allclose(exact - limit, -relief / in_camera[..., 2:] * limit, atol=1e-3)  # (01.13), measured

height = 120.0 * 1.68  # pixels from head to ankle, at every distance
errors = {
    name: 100 * (exact - one).square().sum(-1).mean(-1).sqrt() / height
    for name, one in (("limit", limit), ("fit", fitted))
}
assert (errors["fit"] <= errors["limit"] + 1e-4).all()
slope = np.polyfit(distances[distances > 4].log(), errors["limit"][distances > 4].log(), 1)[0]
assert abs(slope + 1) < 0.05
print(f"on a double logarithmic scale the error falls with slope {slope:.2f}")

# %%
figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", width_ratios=[1, 1, 1.9])
for panel, Z in zip(panels, (1.2, 5.3), strict=False):
    eye = target + torch.tensor([[0.0, 0.0, Z]])
    one = Camera.look_at(eye, target, focal=120.0 * Z, size=(280, 190))
    draw_person(panel, one.project(person[None])[0])
    flat = weak_perspective_project(one.to_camera(person[None]), torch.tensor([120.0]), torch.zeros(1, 2))[0]
    draw_person(panel, flat + one.K[0, :2, 2], color="k", lw=1.5, ls="--")
    panel.set(xlim=(0, 190), ylim=(280, 0), aspect="equal", title=f"from {Z} m")
    panel.set_axis_off()
panels[2].loglog(distances, errors["limit"], "k--", label="the limit: s = f / Z₀")
panels[2].loglog(distances, errors["fit"], color="#2b6cb0", lw=2, label="the best fit (01.15)")
panels[2].axvspan(4.1, 5.5, color="#e07a1f", alpha=0.2, label="Human3.6M's cameras")
panels[2].set(xlabel="distance of the camera (m)", ylabel="RMS joint error\n(% of the person's height)")
legend = panels[2].legend()

# %% [markdown]
# *Colours: perspective. Dashed: weak perspective.* At the distance of MPT's virtual cameras (4.1 to 5.5 m) three
# numbers describe the picture to about one per cent of a person's height, which is why such a simple camera is good
# enough to train with. In a selfie it is not.
#
# *Used in*: MPT's 2D loss (13, 14), in-the-wild driving with HumanRAM (16). A cousin: ACAE (11) compares two poses in
# the plane at their mean depth $\bar z$, as $(x/z,\ y/z)\,\bar z$: true perspective, but in metres.
#
# ## 7 Plücker rays
#
# **The question.** HumanRAM's transformer gets pictures from several cameras and must know, for every pixel, *which ray
# of light* it recorded. How does one write a ray as a few numbers that a network can use?
#
# **The idea.** The camera centre $o$ and the direction $d$? Two flaws: $o$ is the same for all pixels of a picture, and
# any other point on the same ray would do as well, so one and the same ray has infinitely many descriptions. Julius
# Plücker's answer (1865): keep the unit direction, and replace the point by its **moment**
# $$m = o \times d, \qquad \text{the ray is } (d, m) \in \mathbb R^6. \tag{01.16}$$
#
# Slide the point along the ray and nothing changes:
# $(o + \lambda d) \times d = o \times d + \lambda\, d \times d = o \times d$. Two rays with the same six numbers are
# the same ray, whichever cameras they came from.
#
# **Why six numbers, when a line in space has four degrees of freedom?** Two are tied down: $|d| = 1$ and
# $d \cdot m = 0$. The four that one could get away with would need special cases; these six are smooth everywhere. And
# they are meaningful: $|m|$ is the distance of the ray from the origin, $d \times m$ the ray's point closest to it, and
# two lines that are not parallel meet exactly if $d_1 \cdot m_2 + d_2 \cdot m_1 = 0$.

# %%
o, d = sympy.Matrix(sympy.symbols("o_x o_y o_z")), sympy.Matrix(sympy.symbols("d_x d_y d_z"))
step, other = sympy.symbols("lambda"), sympy.Matrix(sympy.symbols("e_x e_y e_z"))
moment = o.cross(d)
assert sympy.expand((o + step * d).cross(d) - moment) == sympy.zeros(3, 1)  # the same at every point of the ray
assert sympy.expand(d.dot(moment)) == 0
assert sympy.expand(d.cross(moment) - (d.dot(d) * o - o.dot(d) * d)) == sympy.zeros(3, 1)  # |d| = 1: the closest point
assert sympy.expand(d.dot(o.cross(other)) + other.dot(o.cross(d))) == 0  # two rays through one point o
print("the four claims hold identically")


# %% [markdown]
# ### Exercise 01.8 — a ray for every pixel  ●●○ (10 min)
#
# For each of B cameras and each pixel *centre*, compute $d$ and $m$ in **world** coordinates, (B, H, W, 6), direction
# first. The way: `pixel_centers(size, like=camera.K)` → the point at depth 1 (01.7) → turn its direction into the
# world → unit length → moment with the camera's centre.
#
# <details><summary>Hint: from camera to world</summary>
#
# A direction is not a point: only $R^\top$ acts on it, no translation. With rows, $R^\top d$ is `d @ camera.R`.
# </details>
# <details><summary>Hint: the shapes</summary>
#
# Flatten the pixel grid to (HW, 2), `.expand(len(camera), -1, -1)`, and `.unflatten(1, size)` at the end. The centre
# `camera.center[:, None]` is (B, 1, 3), and `torch.linalg.cross` broadcasts it over the (B, HW, 3) directions.
# </details>

# %% tags=["export"]
@exercise("01.8")
def plucker_rays(camera: Camera, size: tuple[int, int]) -> Tensor:
    """(B, H, W, 6): of every pixel's ray the unit direction d and the moment m = o x d, in world coordinates.

    HumanRAM, LVSM (whose code stores the moment first). The ray goes through the pixel's centre.
    """
    raise TODO


# %%
check(plucker_rays)

# %% [markdown]
# What HumanRAM's transformer gets to see beside the colours of a picture (red is negative, white zero, blue positive;
# the scale ends at ±1 for the direction, at ±3 metres for the moment):

# %%
camera = Camera.look_at([[1.5, 1.4, 2.5]], target=[0.0, 1.0, 0.0], focal=300.0, size=(256, 256))
rays = plucker_rays(camera, (256, 256))[0]  # (256, 256, 6)
figure, panels = plt.subplots(1, 6, figsize=(13, 2.6), layout="constrained")
for i, panel in enumerate(panels):
    end = 1 if i < 3 else 3
    panel.imshow(rays[..., i], cmap="RdBu", vmin=-end, vmax=end)
    panel.set(title=f"{'direction' if i < 3 else 'moment'} {'xyz'[i % 3]}", xticks=[], yticks=[])

d, m = rays.split(3, dim=-1)
assert torch.allclose(d.norm(dim=-1), torch.ones(256, 256), atol=1e-6)
assert (d * m).sum(-1).abs().max() < 1e-5
closest = torch.linalg.cross(d, m)
assert torch.allclose(closest.norm(dim=-1), m.norm(dim=-1), atol=1e-5)  # |m| is the distance from the origin

# %% [markdown]
# Two more facts, tested with numbers. A camera that moves *along* its optical axis keeps the ray of that axis. And
# the middle rays of two cameras that look at the same point meet there.

# %%
eyes = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 5.0], [3.0, 1.5, 1.0]])
camera = Camera.look_at(eyes, target=[0.0, 1.0, 0.0], focal=300.0, size=(65, 65))
middle = plucker_rays(camera, (65, 65))[:, 32, 32]  # (3, 6): pixel (32, 32) has its centre on the optical axis
assert torch.allclose(middle[0], middle[1], atol=1e-6)
d, m = middle.split(3, dim=-1)
assert abs(d[0] @ m[2] + d[2] @ m[0]) < 1e-6  # cameras 0 and 2 look at one point
print("from 2 m:", [round(v, 3) for v in middle[0].tolist()], " from 5 m: the same")


# %% [markdown]
# Since the moment carries the units of length, HumanRAM-like models first move the origin to the person and scale the
# scene so that cameras stand at a fixed distance; chapter 15 does. LVSM's published code stores $(m, d)$ rather than
# $(d, m)$: for a linear layer behind it, a matter of naming.
#
# *Used in*: HumanRAM's input and target views (15, 16).
#
# ## 8 Procrustes
#
# **The question.** A network predicts a person's joints from one picture. The pose may be right while she is a little
# too large, too far away or slightly tilted, which a single picture cannot tell. How does one measure the pose alone?
#
# **The idea.** Move, turn and scale the prediction onto the truth as well as possible, *then* measure. The mean joint
# distance before is **MPJPE** (papers put both pelvises at the origin first), after it **PA-MPJPE** (PA:
# Procrustes-aligned). Find the $s$, $R$, $t$ with the smallest
# $$E = \sum_i |y_i - (s R\,x_i + t)|^2, \qquad R^\top R = I,\ \det R = +1. \tag{01.17}$$
#
# **The translation.** $\partial E/\partial t = 0$ says that the mean residual is zero:
# $$t = \bar y - s R\,\bar x. \tag{01.18}$$
# From here $x_i$, $y_i$ are relative to their means. Expand:
# $E = \sum|y_i|^2 - 2 s \operatorname{tr}(R^\top M) + s^2 \sum |x_i|^2$ with the 3 × 3 matrix
# $M = \sum_i y_i x_i^\top$.
#
# **The rotation.** For any $s > 0$, $R$ must make $\operatorname{tr}(R^\top M)$ as large as it can be. Take the
# singular value decomposition $M = U \Sigma V^\top$, $\sigma_1 \ge \sigma_2 \ge \sigma_3 \ge 0$. Then
# $\operatorname{tr}(R^\top M) = \operatorname{tr}(\Sigma\, Z)$ with $Z = V^\top R^\top U$ orthogonal, and that is
# $\sum_i \sigma_i z_{ii}$. Entries of an orthogonal matrix are at most 1, so the best is $Z = I$, that is
# $R = U V^\top$.
#
# Unless $\det(U V^\top) = -1$: then $U V^\top$ is a *mirror*, and no camera turns a left hand into a right one. $Z$
# must then have determinant $-1$, and the trace loses least if the smallest singular value gets the minus sign,
# $z_{33} = -1$. Both cases in one line, with a **guard** in the middle:
# $$R = U \operatorname{diag}\big(1,\ 1,\ \det(U V^\top)\big)\, V^\top. \tag{01.19}$$
#
# **The scale.** $\partial E/\partial s = 0$:
# $$s = \frac{\operatorname{tr}(R^\top M)}{\sum_i |x_i|^2}. \tag{01.20}$$
#
# ### Exercise 01.9 — the nearest rotation  ●●○ (15 min)
#
# Write (01.19) for (..., 3, 3) matrices. (It also turns any nine numbers that a network predicts into the rotation
# nearest to them.)
#
# <details><summary>Hint: the SVD</summary>
#
# `U, S, Vt = torch.linalg.svd(matrix)` returns $V^\top$ already transposed: `U @ Vt` is $UV^\top$.
# </details>
# <details><summary>Hint: the guard</summary>
#
# Multiplying the *columns* of `U` by (1, 1, det) is $U \operatorname{diag}(1, 1, \det)$: `U * guard[..., None, :]` with
# `guard` (..., 3).
# </details>

# %% tags=["export"]
@exercise("01.9")
def nearest_rotation(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3, 3): the rotation R with the largest tr(Rᵀ M), equation (01.19). Never a reflection."""
    require("matrix", matrix, 3, 3)
    raise TODO


# %%
check(nearest_rotation)


# %% [markdown]
# To use this in a loss we also need a gradient. The gradient of an SVD contains $1/(\sigma_i^2 - \sigma_j^2)$, which
# is NaN as soon as two singular values coincide, though the *rotation* is perfectly smooth there. So we compute $R$
# without gradient and take one Newton step from it. At the maximum the step is zero and moves nothing; its derivative
# is the derivative of the answer (the implicit function theorem). With $H = R^\top M$, a further small turn $\omega$
# changes the trace $\operatorname{tr}(R^\top M)$ with gradient $h = (H_{32} - H_{23},\ H_{13} - H_{31},\ H_{21} -
# H_{12})$ and curvature $-(\operatorname{tr}H\, I - H)$, hence $\omega = (\operatorname{tr}H\, I - H)^{-1} h$.

# %% tags=["export"]
def nearest_rotation_with_gradient(matrix: Tensor) -> Tensor:
    """`nearest_rotation` with exact gradients also where singular values coincide (where the SVD's own are NaN).

    One Newton step from the detached answer: it moves nothing, and its derivative is that of the answer.
    """
    R = nearest_rotation(matrix.detach())
    H = R.mT @ matrix  # (..., 3, 3): symmetric at the answer
    identity = torch.eye(3, dtype=H.dtype, device=H.device)
    curvature = (H.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * identity - (H + H.mT) / 2).detach()
    twist = torch.stack([H[..., 2, 1] - H[..., 1, 2], H[..., 0, 2] - H[..., 2, 0], H[..., 1, 0] - H[..., 0, 1]], -1)
    step = torch.linalg.pinv(curvature, rtol=1e-5, hermitian=True) @ twist[..., None]  # an undetermined turn: zero
    return R @ axis_angle_to_matrix(step.squeeze(-1))


# %% [markdown]
# Procrustes is then (01.18) to (01.20), line by line:

# %% tags=["export"]
def procrustes(source: Tensor, target: Tensor, with_scale: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The similarity that best moves source onto target: target ~ scale R source + t, equations (01.17)-(01.20).

    source, target (..., N, 3), N >= 3 -> scale (...), R (..., 3, 3), t (..., 3). Without scale it is 1. A source whose
    points coincide gets scale 0, not NaN. Finite gradients everywhere.
    """
    require("source", source, None, 3)
    require("target", target, *source.shape[-2:])
    if source.shape[-2] < 3:
        raise ValueError(f"procrustes needs at least 3 points to fix a rotation, not {source.shape[-2]}")
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)  # (..., 1, 3)
    x, y = source - source_mean, target - target_mean
    M = y.mT @ x  # (..., 3, 3)
    if not M.isfinite().all():
        raise ValueError("procrustes got NaN or infinite points: leave out the ones that are not known")
    R = nearest_rotation_with_gradient(M)
    variance = x.square().sum((-2, -1))
    variance = torch.where(variance > 0, variance, 1)  # coinciding points: 0 / 1, not 0 / 0
    scale = (R * M).sum((-2, -1)) / variance if with_scale else torch.ones_like(variance)
    t = target_mean - scale[..., None, None] * source_mean @ R.mT
    return scale, R, t.squeeze(-2)


# %% [markdown]
# It agrees with SciPy's `align_vectors` (rotation only), undoes a known transformation to the last digit, and its
# gradient is right even where the SVD's is NaN:

# %%
generator = torch.Generator().manual_seed(0)
source = torch.randn(20, 17, 3, dtype=torch.float64, generator=generator)
turn_by = axis_angle_to_matrix(torch.randn(20, 3, dtype=torch.float64, generator=generator))
moved = 1.7 * source @ turn_by.mT + torch.tensor([0.3, -2.0, 5.0])
scale, R, t = procrustes(source, moved)
assert torch.allclose(scale, torch.full_like(scale, 1.7)) and torch.allclose(R, turn_by)
assert torch.allclose(t, torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64))

noisy = moved + 0.3 * torch.randn(moved.shape, dtype=torch.float64, generator=generator)
R = procrustes(source, noisy)[1]
for i in range(20):
    centred = [(one[i] - one[i].mean(0)).numpy() for one in (noisy, source)]
    assert np.allclose(R[i], Rotation.align_vectors(*centred)[0].as_matrix(), atol=1e-9)
equal = (2.0 * torch.eye(3, dtype=torch.float64)).requires_grad_()  # three equal singular values
assert torch.autograd.gradcheck(nearest_rotation_with_gradient, equal)
print("SciPy agrees; gradients are right at equal singular values")


# %% [markdown]
# The next figure shows why the guard matters (grey: the truth). On the left is a prediction that is turned, shifted,
# a little large and a little noisy. In the middle it has been aligned. On the right the prediction was *mirrored*
# first: the alignment with the guard still finds that the pose is wrong. Without the guard it would mirror her back
# and report a small error. That matters in practice: under weak perspective (§6) a pose and its twin with every depth
# reversed, a mirror image, give the same picture, and **a metric without the guard cannot tell them apart**.

# %%
def align(source, target):
    scale, R, t = procrustes(source, target)
    return scale * source @ R.mT + t


def mpjpe(a, b):
    return 1000 * (a - b).norm(dim=-1).mean().item()  # millimetres


noise = 0.02 * torch.randn(17, 3, generator=torch.Generator().manual_seed(1))
tilt = axis_angle_to_matrix(torch.tensor([0.1, 0.5, 0.15]))
predicted = 1.12 * (person + noise) @ tilt.T + torch.tensor([0.25, -0.1, 0.0])
mirror = torch.tensor([-1.0, 1.0, 1.0])
mirrored = predicted * mirror
aligned, mirrored_aligned = align(predicted, person), align(mirrored, person)
unguarded = align(mirrored * mirror, person)  # what a missing guard would allow

figure, panels = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
stages = (("as predicted", predicted), ("aligned", aligned), ("mirrored, aligned", mirrored_aligned))
for panel, (name, joints) in zip(panels, stages, strict=True):
    draw_person(panel, person[:, :2], color="0.75", lw=6)
    draw_person(panel, joints[:, :2], lw=2)
    panel.set(title=f"{name}: {mpjpe(joints, person):.0f} mm", aspect="equal")
    panel.set_axis_off()

# %%
honest, blind = mpjpe(mirrored_aligned, person), mpjpe(unguarded, person)
print(f"MPJPE {mpjpe(predicted, person):.0f} mm, PA-MPJPE {mpjpe(aligned, person):.0f} mm")
print(f"mirrored: PA-MPJPE {honest:.0f} mm; without the guard it would be {blind:.0f} mm")
assert blind < 50 < 100 < honest


# %% [markdown]
# *Used in*: PA-MPJPE (12, 13, 14), aligning skeletons (11), the start of PnP below.
#
# ## 9 PnP: where was the camera?
#
# **The question.** HumanRAM in the wild (supplement A): a body estimator gives 3D joints and, with its weak-perspective
# camera, their 2D places in the photograph. The model needs a *perspective* camera. Given 3D points $X_i$, pixels
# $(u_i, v_i)$ and $K$: find $R$ and $t$.
#
# **A linear start.** Undo $K$: $(x_i, y_i, 1) = K^{-1}(u_i, v_i, 1)$, places on the plane at depth 1. With
# $P = [R\,|\,t]$ (3 × 4, rows $p_1, p_2, p_3$) and $\tilde X = (X, 1)$ the projection says
# $x = p_1 \tilde X / p_3 \tilde X$. Multiply by the denominator, and it is *linear in P*:
# $$p_1 \tilde X_i - x_i\, p_3 \tilde X_i = 0, \qquad p_2 \tilde X_i - y_i\, p_3 \tilde X_i = 0. \tag{01.21}$$
#
# Twelve unknowns up to scale, two equations a point: six points are enough. Stack them as $A p = 0$ and take the unit
# vector with the smallest $|A p|$: the last right singular vector of $A$. This is the **DLT** (direct linear
# transform). Nothing in it makes the left 3 × 3 block a rotation, so replace that block by the nearest one:
# $$p = \arg\min_{|p| = 1} |A p|, \qquad P[:, {:}3] \propto R \;\Rightarrow\;
# R = \texttt{nearest\_rotation}(P[:, {:}3]). \tag{01.22}$$
# ($P$ and $-P$ fit equally: take the one with the points in front.) With $R$ fixed, (01.21) is linear in $t$ alone: one
# small least-squares problem.
#
# **When it must fail.** If all points lie in a plane, many matrices $P$ fit exactly and (01.22) returns an arbitrary
# one. No better measurement helps, and `solve_pnp` raises an error that says so.
#
# **The repair.** (01.21) is not the error that we care about. That is the distance in the picture,
# $$\min_{R, t}\; \sum_i \big|\, \pi(R X_i + t) - (u_i, v_i) \,\big|^2, \tag{01.23}$$
# with $\pi$ of (01.6). Collect all residuals in a vector $r(\xi)$, where $\xi$ holds six numbers: a small turn $\omega$
# applied to the current $R$, and a step of $t$. Nearby $r(\xi + \delta) \approx r + J\delta$, with the Jacobian $J$ of
# $r$ at $\xi$. The $\delta$ that makes $|r + J\delta|^2$ smallest solves the normal equations
# $J^\top J\,\delta = -J^\top r$: this is **Gauss-Newton**. Far from the solution its step can overshoot, and a
# damping $\lambda > 0$ shortens it (**Levenberg-Marquardt**):
# $$\big(J^\top J + \lambda \operatorname{diag}(J^\top J)\big)\,\delta = -J^\top r, \qquad
# \xi \leftarrow \xi + \delta. \tag{01.24}$$
# Accept a step that helps and shrink $\lambda$, else grow it.
#
# ### Exercise 01.10 — one step of Gauss-Newton  ●●● (15 min)
#
# `residuals` is any function $r$ from `parameters` $\xi$ (P,) to residuals (M,); in these shapes P counts parameters
# (six for a pose) and M residuals. Return the parameters after one step of (01.24), with $\lambda$ = `damping`.
#
# <details><summary>Hint: the Jacobian</summary>
#
# PyTorch computes it: `jacobian(residuals, parameters, vectorize=True)` is (M, P)
# (`torch.autograd.functional.jacobian`, imported at the top).
# </details>
# <details><summary>Hint: solve, do not invert</summary>
#
# `torch.linalg.solve(A, b)` solves $A\,\delta = b$. Read $A$ and $b$ off (01.24), and mind the sign of the step.
# `M.diagonal()` is the diagonal of a matrix as a vector, `torch.diag` of a vector is a diagonal matrix.
# </details>

# %% tags=["export"]
@exercise("01.10")
def gauss_newton_step(residuals: Callable[[Tensor], Tensor], parameters: Tensor, damping: float = 0.0) -> Tensor:
    """One step towards the parameters (P,) with the smallest sum of squared residuals (M,), equation (01.24).

    damping 0 is Gauss-Newton; larger is more careful (Levenberg-Marquardt). Returns the new parameters (P,).
    """
    raise TODO


# %%
check(gauss_newton_step)


# %% [markdown]
# The rest of the solver. The linear start:

# %% tags=["export"]
def pnp_start(points: Tensor, rays: Tensor) -> Tensor:
    """DLT: (N, 3) world points and (N, 2) = x/z, y/z of their rays -> a first rotation (3, 3), (01.22)."""
    X = torch.cat([points, torch.ones_like(points[:, :1])], -1)  # (N, 4)
    zero = torch.zeros_like(X)
    rows = torch.cat([torch.cat([X, zero, -rays[:, :1] * X], -1), torch.cat([zero, X, -rays[:, 1:] * X], -1)])
    _, values, Vt = torch.linalg.svd(rows, full_matrices=True)  # (2N, 12)
    if values[-2] < 1e-10 * values[0]:
        raise ValueError("these points do not fix a camera (more than one fits exactly): add points or spread them out")
    P = Vt[-1].view(3, 4)
    P = P * (X @ P[2]).mean().sign()  # of P and -P, the one with the points in front of it
    return nearest_rotation(P[:, :3])


def pnp_translation(points: Tensor, rays: Tensor, R: Tensor) -> Tensor:
    """The translation (3,) that goes best with a rotation: linear, since x (r₃X + t_z) = r₁X + t_x."""
    turned = points @ R.T  # (N, 3)
    identity = torch.eye(2, dtype=points.dtype).expand(len(points), 2, 2)
    A = torch.cat([identity, -rays[..., None]], -1)  # (N, 2, 3)
    b = rays * turned[:, 2:] - turned[:, :2]  # (N, 2)
    return torch.linalg.lstsq(A.flatten(0, 1), b.flatten()[:, None]).solution[:, 0]


# %% [markdown]
# What it refuses, before it starts:

# %% tags=["export"]
def check_pnp_points(points: Tensor, pixels: Tensor, K: Tensor) -> None:
    """ValueError for points that cannot fix a camera pose, and for more than one view."""
    if not points.ndim == pixels.ndim == K.ndim == 2:
        raise ValueError("solve_pnp takes one view: points (N, 3), pixels (N, 2), K (3, 3)")
    if len(points) < 6:
        raise ValueError(f"solve_pnp needs at least 6 points for its linear start, not {len(points)}")
    if not (torch.isfinite(points).all() and torch.isfinite(pixels).all()):
        raise ValueError("solve_pnp got NaN or infinite points: leave out the ones that were not seen")
    spread = torch.linalg.svdvals((points - points.mean(0)).double())
    if spread[2] < 1e-4 * spread[0]:
        raise ValueError("the points lie in a plane (or on a line): solve_pnp needs points that spread in depth too")


# %% [markdown]
# The refinement (a step that does not help is thrown away, and the next one damped harder):

# %% tags=["export"]
def refine_pose(points: Tensor, pixels: Tensor, K: Tensor, R: Tensor, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Damped Gauss-Newton on the reprojection error (01.23); every step turns R by a small axis-angle vector."""

    def residuals(change: Tensor) -> Tensor:
        turned = points @ (axis_angle_to_matrix(change[:3]) @ R).T + t + change[3:]
        return (camera_to_pixels(turned, K) - pixels).flatten()

    zero, damping = torch.zeros(6, dtype=points.dtype), 1e-3
    for _ in range(steps):
        change = gauss_newton_step(residuals, zero, damping)
        if residuals(change).square().sum() < residuals(zero).square().sum():
            R, t, damping = axis_angle_to_matrix(change[:3]) @ R, t + change[3:], damping / 10
        else:
            damping = damping * 10
        if change.abs().max() < 1e-10 or damping > 1e8:
            break
    return R, t


# %% [markdown]
# And all of it together:

# %% tags=["export"]
@torch.no_grad()
def solve_pnp(points: Tensor, pixels: Tensor, K: Tensor, steps: int = 50) -> tuple[Tensor, Tensor]:
    """The camera pose from N >= 6 points: (N, 3) world, (N, 2) pixels, K (3, 3) -> R (3, 3), t (3,); world -> camera.

    DLT, then damped Gauss-Newton on the reprojection error. Works in float64 inside, gives no gradients. ValueError
    for fewer than 6 points, for points in a plane, and where no pose sees the points in front of the camera.
    """
    require("points", points, None, 3)
    require("pixels", pixels, points.shape[-2], 2)
    require("K", K, 3, 3)
    check_pnp_points(points, pixels, K)
    X, K64, observed = points.double().cpu(), K.double().cpu(), pixels.double().cpu()
    middle = X.mean(0)
    X = X - middle  # a world's origin far away would only cost digits
    rays = pixels_to_camera(observed, torch.ones_like(observed[:, 0]), K64)[:, :2]
    R = pnp_start(X, rays)
    t = pnp_translation(X, rays, R)
    try:
        R, t = refine_pose(X, observed, K64, R, t, steps)
    except torch.linalg.LinAlgError:  # from there no step leads anywhere
        t = torch.full_like(t, -torch.inf)
    if not ((X @ R.T + t)[:, 2] > NEAREST_DEPTH).all():
        raise ValueError("no camera pose sees these points in front of it: are points and pixels in the same order?")
    return R.to(points), (t - R @ middle).to(points)


# %% [markdown]
# First without noise: the true pose to the last digit. Then with two pixels of it, step by step, and kornia's DLT
# beside ours. (kornia's takes its scale from one column of $P$, its rotation from a QR decomposition, and keeps the
# translation of the same singular vector. Pressing onto the nearest rotation and solving for $t$ afterwards costs two
# lines and is worth a lot.)

# %%
truth = Camera.look_at(torch.tensor([[1.2, 1.5, 3.4]]).double(), [0.0, 0.95, 0.0], focal=420.0, size=(360, 300))
points, K = person.double(), truth.K[0]
exact = truth.project(points[None])[0]
R, t = solve_pnp(points, exact, K)
assert torch.allclose(R, truth.R[0], atol=1e-9) and torch.allclose(t, truth.t[0], atol=1e-9)

observed = exact + 2.0 * torch.randn(17, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def rms(R, t):
    """The root mean square of (01.23), in pixels."""
    return (Camera(K[None], R[None], t[None]).project(points[None])[0] - observed).square().sum(-1).mean().sqrt().item()


rays = pixels_to_camera(observed, torch.ones(17, dtype=torch.float64), K)[:, :2]
start = pnp_start(points, rays)
poses = [(start, pnp_translation(points, rays, start))]
poses += [refine_pose(points, observed, K, *poses[0], steps=n) for n in range(1, 9)]
theirs = kornia_geometry.solve_pnp_dlt(points[None], observed[None], K[None])[0]
rms_kornia, rms_truth, refined = rms(theirs[:, :3], theirs[:, 3]), rms(truth.R[0], truth.t[0]), rms(*poses[-1])
print(f"RMS error in pixels: kornia's DLT {rms_kornia:.2f}, our DLT {rms(*poses[0]):.2f}, refined {refined:.2f}")
print(f"at the true pose: {rms_truth:.2f}")
assert refined <= min(rms_truth, rms_kornia, rms(*poses[0]))

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=[1, 1.4])
for (R, t), color, label in ((poses[0], "#d1495b", "DLT"), (poses[-1], "#2b6cb0", "refined")):
    draw_person(panels[0], Camera(K[None], R[None], t[None]).project(points[None])[0], color=color, lw=1.5)
    panels[0].plot([], [], color=color, label=label)
panels[0].plot(*observed.T, "k.", ms=7, label="observed")
panels[0].set(aspect="equal", xlim=(60, 300), ylim=(310, 40), xticks=[], yticks=[], title="reprojections")
panels[0].legend(loc="center right", fontsize=9)
panels[1].plot([rms(*pose) for pose in poses], "o-", color="#2b6cb0")
panels[1].axhline(rms_truth, color="k", ls="--", lw=1, label="the true pose")
panels[1].set(xlabel="Gauss-Newton steps", ylabel="RMS error (pixels)", ylim=(0, None), title="reprojection error")
legend = panels[1].legend()

# %% [markdown]
# The refined pose fits *better than the truth*, because its six parameters adapt to the noise as well. That is
# normal: a least-squares estimate always fits its own data best.
#
# Now HumanRAM's situation in miniature: the pixels come from a weak-perspective camera, $s = 100$ pixels a metre, and
# PnP finds the perspective camera that explains them. (01.14) predicts the depth, $f / s = 4.2$ m.

# %%
upright = person.double() - person[0]  # the pelvis at the origin
flipped = upright * torch.tensor([1.0, -1.0, -1.0])  # in camera axes: y down, z away from the camera
scale, shift = torch.tensor([100.0]).double(), torch.tensor([[0.1, 0.0]]).double()
pixels = weak_perspective_project(flipped[None], scale, shift)[0] + K[:2, 2]
R, t = solve_pnp(flipped, pixels, K)
print(f"t = {[round(v, 2) for v in t.tolist()]}, turned by {math.degrees(matrix_to_axis_angle(R).norm()):.1f}°")
assert abs(t[2] - 4.2) < 0.3 and abs(t[0] - 0.1) < 0.05

try:
    solve_pnp(points * torch.tensor([1.0, 1.0, 0.0]), observed, K)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# *Used in*: chapter 16, where a person in a photograph gets a perspective camera.
#
# ## 10 What was checked
#
# How far can these functions be trusted? Each was compared with something independent; here are the differences.

# %% tags=["result"]
at_ring = [i for i, distance in enumerate(distances) if 4.1 <= distance <= 5.5]
rows = [
    ("rotations", "SciPy", f"{scipy_error:.0e}"),
    ("projection", "kornia", f"{pixels_error:.0e} pixels"),
    ("there and back", "itself", f"{back_error:.0e} m"),
    ("weak perspective at 4.1 to 5.5 m", "perspective", f"{errors['fit'][at_ring].mean():.1f} % of a person's height"),
    ("PnP, 2 pixels of noise", "kornia's DLT", f"{refined:.2f} against {rms_kornia:.2f} pixels"),
]
print(f"{'what':<34}{'against':<15}difference")
for what, against, difference in rows:
    print(f"{what:<34}{against:<15}{difference}")

# %% [markdown]
# ## 11 What to remember
#
# - **Write conventions down.** World $y$ up, camera $y$ down, $x_c = R x_w + t$, depth is $z$, pixel centres at + 0.5.
# - **Rows in code, columns in formulas**: `points @ R.mT`.
# - **A crop is a camera**: same $R$ and $t$, another $K$, and its principal point is not in its middle.
# - **Weak perspective** is one depth for everybody; its error is exactly $-\delta/Z$ times the offset from the middle.
# - **Plücker**: six numbers that belong to the ray, not to a point on it.
# - **Procrustes** is one SVD and one sign; without the sign it forgives a mirrored pose.
# - **Estimate linearly, then refine the error in pixels**, and raise an error where the points do not fix a camera.
# - **A gradient visits the branch not taken**: make it safe before the `where`.
#
# **What the papers leave open.** MPT's supplement does not say in which unit its $(s, \mathbf t)$ are, nor how its
# interpolated cameras are interpolated; HumanRAM says neither where the origin of its moments is nor with which focal
# length its PnP works. Chapters 13, 15 and 16 name what they choose.
#
# **Read on.** R. Hartley and A. Zisserman, *Multiple View Geometry* (pinhole, DLT). J. Solà et al., *A micro Lie theory
# for state estimation in robotics* (rotations and their derivatives). S. Umeyama, *Least-squares estimation of
# transformation parameters*, 1991 (the guard). A. Kanazawa et al., *End-to-end recovery of human shape and pose*, 2018
# (weak perspective in human mesh recovery). J. Levinson et al., *An analysis of SVD for deep rotation estimation*,
# 2020. H. Jin et al., *LVSM*, 2024 (Plücker rays as tokens). N. Terzakis and M. Lourakis, *SQPnP*, 2020.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

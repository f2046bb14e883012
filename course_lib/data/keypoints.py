"""Keypoints in the formats of the papers' data sets: fixed means of a body's vertices, and which of them are seen.

`FORMATS` gives the names of each format: coco17, h36m17, lsp14, smpl24, wholebody133, sapiens308. The open body's pack
holds a regressor for each; points that the body lacks are marked by `available`. Other body files (COURSE_BODY) know
only their 55 joints, so there the points that are joints are available.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.data.person import load_body
from course_lib.paths import OPEN_BODY_PACK

CLOTHES = 0.035  # metres: how far clothes and hair may lie over a visible keypoint


def read_names() -> dict[str, tuple[str, ...]]:
    """Names per format, from the asset pack."""
    with np.load(OPEN_BODY_PACK, allow_pickle=False) as pack:
        keys = [k for k in pack.files if k.startswith("keypoints_") and k.endswith("_names")]
        return {k[len("keypoints_") : -len("_names")]: tuple(pack[k].tolist()) for k in keys}


FORMATS = read_names()


def check_format(name: str) -> str:
    """The name itself, or a ValueError that lists the known ones."""
    if name not in FORMATS:
        raise ValueError(f"unknown keypoint format {name!r}: use one of {', '.join(FORMATS)}")
    return name


class Regressor(NamedTuple):
    """A sparse matrix (K, V) as its entries: row (E,), column (E,), value (E,). A point without entries is lacking."""

    row: Tensor
    column: Tensor
    value: Tensor

    def points(self, vertices: Tensor, count: int) -> Tensor:
        """Vertices (P, V, 3) -> K = `count` points (P, K, 3) in the same space; those that are lacking are zero."""
        shares = vertices[:, self.column] * self.value[:, None]  # (P, E, 3)
        return shares.new_zeros(len(vertices), count, 3).index_add(1, self.row, shares)


@lru_cache(maxsize=16)
def regressor(name: str) -> Regressor:
    """How the points of a format are made of the current body's vertices."""
    body, names = load_body(), FORMATS[check_format(name)]
    if body.pack is None:
        return joint_entries(names, body.model.joint_regressor)
    row, column, value = torch.from_numpy(body.pack[f"keypoints_{name}_regressor"].astype(np.float32)).T
    return Regressor(row.long(), column.long(), value)


def joint_entries(names: tuple[str, ...], joint_regressor: Tensor) -> Regressor:
    """Entries for the names that are joints of SMPL-X (spelled alike, whatever the case), none for the others."""
    matrix = torch.zeros(len(names), joint_regressor.shape[1])
    for row, name in enumerate(names):
        if name.lower() in JOINT_NAMES:
            matrix[row] = joint_regressor[JOINT_NAMES.index(name.lower())]
    row, column = matrix.nonzero(as_tuple=True)
    return Regressor(row, column, matrix[row, column])


def available(name: str) -> np.ndarray:
    """Which points of a format the current body has: (K,) bool."""
    entries = regressor(name)
    return np.isin(np.arange(len(FORMATS[name])), entries.row[entries.value != 0].numpy())


def keypoints(vertices: Tensor, name: str) -> Tensor:
    """Vertices (P, V, 3) -> keypoints (P, K, 3) in the same space; points that the body lacks are zero."""
    count = len(load_body().model.template)
    if vertices.ndim != 3 or vertices.shape[1] != count:
        raise ValueError(f"vertices are {tuple(vertices.shape)}, the current body needs (P, {count}, 3)")
    entries = Regressor(*(entry.to(vertices.device) for entry in regressor(name)))
    return entries.points(vertices, len(FORMATS[name]))


@lru_cache(maxsize=16)
def depth_under_skin(name: str) -> np.ndarray:
    """How deep each point lies inside the template: (K,) metres to the nearest vertex of the skin."""
    body = load_body()
    skin = np.unique(body.model.faces.numpy() if body.pack is None else body.pack["faces_body"])
    points = keypoints(body.model.template[None], name)[0].numpy()
    distance, _ = cKDTree(body.model.template.numpy()[skin]).query(points)
    return distance.astype(np.float32)


def tolerance(name: str) -> np.ndarray:
    """How far a visible point of a format may lie behind the z-buffer: (K,) metres."""
    return 1.4 * depth_under_skin(name) + CLOTHES


def visibility(
    spots: np.ndarray, z: np.ndarray, depth: np.ndarray, tolerance: np.ndarray, instances: np.ndarray
) -> np.ndarray:
    """Which points at pixels `spots` (P, K, 2) and depths z (P, K) are seen, (P, K) bool: in the picture, not behind
    its z-buffer (H, W) by more than `tolerance` (K,) metres, and not on another person's pixel of instances (H, W)."""
    height, width = depth.shape
    inside = (z > 0) & (spots >= 0).all(-1) & (spots < (width, height)).all(-1)
    spots = np.nan_to_num(spots)
    row, column = (spots[..., i].clip(0, n - 1).astype(np.int64) for i, n in ((1, height), (0, width)))
    owner, own = instances[row, column], np.arange(1, len(z) + 1)[:, None]
    return inside & (z <= depth[row, column] + tolerance) & ((owner == 0) | (owner == own))

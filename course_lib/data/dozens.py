"""Dozens of data sets in miniature, for chapter 12: the 28 + 4 of ACAE's Table S1, each a share of a world's people.

`DATASETS` has a row for each: what kind of labels it has and how noisy they are, the world that stands in for it, what
its pictures look like, and the skeleton format in which it knows people. A picture belongs to one data set only.
`crops(folder, side, formats)` cuts people out of a rendered set; `member(rows, name, formats)`: what a data set has of
them.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from course_lib.chapters.cameras import axis_angle_to_matrix
from course_lib.data.person import Body, Person, load_body, pose_people
from course_lib.data.schema import PersonLabel, Sample
from course_lib.data.shards import Samples
from course_lib.data.skeletons import LIMBS, columns, joint_names, regressor, sides
from course_lib.recipe import Batch

LEAST_SEEN = 12  # of COCO's 17 points that must lie inside the picture
LEAST_SHARE = 0.3  # of a person's points inside the picture that nothing may hide
LEAST_SIDE = 24  # pixels of the longer side of a person's box
ROOM = 1.2  # a crop is so much wider than the box
MARGIN = 1.25  # a stored crop is so much wider than what the network sees, so that it can be turned and shifted


# ------------------------------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class DataSet:
    """One row: kind (`KINDS`); format: of its 3D labels, None for 2D labels only; world: whose people stand in; share:
    of that world's pictures, relative to the other data sets of the world; noise: of its labels, metres (for 2D labels
    at the person's depth), a standard deviation; look: how its pictures differ."""

    kind: str
    format: str | None
    world: str
    share: float
    look: "Look"
    noise: float


@dataclass(frozen=True)
class Look:
    """How a data set's pictures differ from the world's: factors on red, green and blue; how much of the colour is
    taken away (0 to 1); the exponent on brightness; a blur's standard deviation in shares of the picture's side."""

    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grey: float = 0.0
    gamma: float = 1.0
    blur: float = 0.0


KINDS = ("markerless", "marker-based", "synthetic", "2D")
NOISE = {"markerless": 0.02, "marker-based": 0.005, "synthetic": 0.0, "2D": 0.02}  # metres; set by hand
WARM, COLD, GREEN = (1.12, 1.0, 0.82), (0.85, 1.0, 1.12), (0.9, 1.1, 0.88)


def row(kind: str, skeleton: str | None, world: str, share: float, *tint: float, **look) -> DataSet:
    """A row of the table."""
    return DataSet(kind, skeleton, world, share, Look(tint or (1.0, 1.0, 1.0), **look), NOISE[kind])


# Kinds are the paper's, formats its authors' code's, but for 3DOH50K, IKEA ASM, GPA, Human4D, MADS, 3DPeople and
# SAIL-VOS, whose own ones chapter 11's autoencoder doesn't know: they have a related one. Worlds, shares and looks are
# this course's choices, the shares after the paper's counts per batch.
DATASETS = {
    "MuCo-3DHP": row("markerless", "3dhp", "wild", 6, *GREEN),
    "CMU-Panoptic": row("markerless", "coco", "studio", 7, gamma=1.25),
    "AIST-Dance++": row("markerless", "coco", "studio", 6, gamma=0.8),
    "HUMBI": row("markerless", "coco", "studio", 5, *COLD),
    "MPI-INF-3DHP": row("markerless", "3dhp", "wild", 3, *GREEN, gamma=0.85),
    "RICH": row("markerless", "smplx", "wild", 4, *WARM),
    "BEHAVE": row("markerless", "smpl", "wild", 3, gamma=1.2),
    "ASPset": row("markerless", "aspset", "wild", 4, gamma=0.75),
    "3DOH50K": row("markerless", "umpm", "wild", 3, grey=0.5),
    "IKEA ASM": row("markerless", "coco", "studio", 2, *WARM, gamma=1.3),
    "Human3.6M": row("marker-based", "h36m", "studio", 4, *WARM),
    "TotalCapture": row("marker-based", "totcap", "studio", 3, *GREEN),
    "BML-MoVi": row("marker-based", "movi", "studio", 5, *COLD, gamma=1.2),
    "Berkeley-MHAD": row("marker-based", "bmhad", "studio", 3, grey=0.6),
    "UMPM": row("marker-based", "umpm", "studio", 2, blur=0.008),
    "Fit3D": row("marker-based", "h36m", "studio", 2, *WARM, gamma=0.8),
    "GPA": row("marker-based", "h36m", "studio", 4, *GREEN, gamma=0.8),
    "HumanSC3D": row("marker-based", "h36m", "studio", 1, *WARM, gamma=1.2),
    "CHI3D": row("marker-based", "h36m", "studio", 1, *WARM, grey=0.3),
    "Human4D": row("marker-based", "smplx", "studio", 1, *COLD, grey=0.3),
    "MADS": row("marker-based", "umpm", "studio", 2, *COLD, gamma=0.8),
    "SURREAL": row("synthetic", "smpl", "scan", 5),
    "3DPeople": row("synthetic", "smpl", "scan", 4, gamma=0.8),
    "JTA": row("synthetic", "jta", "scan", 3, *COLD, gamma=1.3, blur=0.006),
    "HSPACE": row("synthetic", "ghum", "scan", 3, *WARM),
    "SAIL-VOS": row("synthetic", "jta", "scan", 5, *COLD, gamma=1.2),
    "AGORA": row("synthetic", "smpl", "scan", 3, *WARM, gamma=0.9),
    "SPEC": row("synthetic", "smpl", "scan", 2, grey=0.4),
    "COCO": row("2D", None, "wild", 8),
    "MPII": row("2D", None, "wild", 8, *WARM),
    "PoseTrack": row("2D", None, "wild", 8, blur=0.006),
    "JRDB": row("2D", None, "wild", 8, gamma=1.2),
}  # fmt: skip


def place(key: str) -> float:
    """A number in [0, 1) that depends on the key of a picture alone."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12


@lru_cache(maxsize=1)
def intervals() -> dict[str, tuple[float, float]]:
    """Data set -> the part of [0, 1) that is its own: of `place` of its world's pictures."""
    found = {}
    for world in sorted({one.world for one in DATASETS.values()}):
        rows = {name: one.share for name, one in DATASETS.items() if one.world == world}
        edges = np.cumsum([0.0, *rows.values()]) / sum(rows.values())
        found |= {name: (low, high) for name, low, high in zip(rows, edges[:-1], edges[1:], strict=True)}
    return found


# ------------------------------------------------------------------------------------------------- cutting people out
def usable(person: PersonLabel, least: int = LEAST_SEEN) -> bool:
    """Whether enough of somebody is in the picture, large enough and not hidden."""
    inside = int((person.keypoints["coco17"].visible > 0).sum())
    side = max(person.box[2] - person.box[0], person.box[3] - person.box[1])
    return bool(inside >= least and person.seen_share >= LEAST_SHARE and side >= LEAST_SIDE)


def turned_camera(K: Tensor, box: Tensor, size: int, room: float = ROOM) -> tuple[Tensor, Tensor]:
    """A camera at the same place that looks at the middle of a box (left, top, right, bottom; pixels). As MeTRAbs.

    K (3, 3) -> K of its picture of size x size pixels, which is `room` times as wide as the box, and the rotation
    (3, 3) from the old camera's axes to the new one's. ValueError for a box without an area."""
    left, top, right, bottom = box.tolist()
    if not (right > left and bottom > top):
        raise ValueError(f"the box {box.tolist()} has no area: give left, top, right, bottom")
    middle = torch.tensor([(left + right) / 2, (top + bottom) / 2, 1.0], dtype=K.dtype)
    forward = torch.linalg.solve(K, middle)
    axis = torch.linalg.cross(forward / forward.norm(), torch.tensor([0.0, 0.0, 1.0], dtype=K.dtype))
    sine = axis.norm()
    angle = torch.atan2(sine, forward[2] / forward.norm())
    R = axis_angle_to_matrix(axis / sine.clamp(min=1e-9) * angle)  # the shortest turn that brings `forward` to z
    focal = size / (room * max(right - left, bottom - top)) * K[0, 0] * forward.norm()  # as large as it was
    return torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=K.dtype), R


def seen_by(image: Tensor, K: Tensor, R: Tensor, new_K: Tensor, size: int) -> Tensor:
    """The picture (3, H, W) that a camera with K (3, 3) took, as one with new_K at the same place sees it, turned by R:
    (3, size, size), black where the first saw nothing. Drawn twice as large and averaged, against jagged edges."""
    ticks = (torch.arange(2 * size, dtype=K.dtype) + 0.5) / 2
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(new_K).T @ R  # (2S, 2S, 3), old axes
    pixels = rays @ K.T
    pixels = pixels[..., :2] / pixels[..., 2:]
    height, width = image.shape[1:]
    grid = 2 * pixels / torch.tensor([width, height], dtype=K.dtype) - 1
    drawn = grid_sample(image[None], grid[None].to(image), padding_mode="zeros", align_corners=False)
    return avg_pool2d(drawn, 2)[0]


@lru_cache(maxsize=4)
def needed(formats: tuple[str, ...]) -> tuple[Body, Tensor]:
    """The body without the vertices that no joint of the formats is made of, and the regressor (J, V') on the rest:
    posing somebody so takes a tenth of the time."""
    weights, body = regressor(formats), load_body()
    kept = weights.any(0).nonzero()[:, 0]
    flat = (3 * kept[:, None] + torch.arange(3)).flatten()  # their coordinates in arrays of (3V)
    part = dataclasses.replace(
        body, model=SimpleNamespace(template=body.model.template[kept]), shapes=body.shapes[:, flat],
        actions=None if body.actions is None else body.actions[:, flat],
        correctives=body.correctives[flat.numpy()], weights=body.weights[kept.numpy()],
    )  # fmt: skip
    return part, weights[:, kept]


def joints_of(people: Sequence[PersonLabel], formats: tuple[str, ...]) -> Tensor:
    """The joints (P, J, 3) of all formats in the world, metres, float64, from poses and shapes."""
    part, weights = needed(formats)
    bodies = [Person(0, p.shape, p.expression, p.pose, p.translation) for p in people]
    return torch.einsum("jv,pvc->pjc", weights, pose_people(bodies, part).vertices.double())


def stored(side: int) -> int:
    """How wide a crop is stored for a network that sees `side` pixels: MARGIN times, an even number more."""
    return side + 2 * round((MARGIN - 1) * side / 2)


def crops_of(sample: Sample, side: int, formats: tuple[str, ...], least: int = LEAST_SEEN) -> list[Batch]:
    """Everyone in a picture of whom at least `least` of 17 points are in view: image (3, S, S) uint8 with S =
    `stored(side)`, K (3, 3), points (J, 3) of all formats in the crop camera's axes, metres; place of the picture;
    group: how many people it shows."""
    people = [person for person in sample.people if usable(person, least)]
    if not people:
        return []
    K, R, t = (torch.from_numpy(np.asarray(part)).double() for part in (sample.K, sample.R, sample.t))
    points = joints_of(people, formats) @ R.T + t  # (P, J, 3)
    found, image, size = [], torch.from_numpy(sample.image), stored(side)
    for person, own in zip(people, points, strict=True):
        new_K, turn = turned_camera(K, torch.from_numpy(person.box).double(), size, ROOM * size / side)
        drawn = seen_by(image, K, turn, new_K, size).mul(255).round().to(torch.uint8)
        row = {"image": drawn, "K": new_K.float(), "points": (own @ turn.T).float()}
        found.append(row | {"place": torch.tensor(place(sample.key)), "group": torch.tensor(len(sample.people))})
    return found


@lru_cache(maxsize=12)
def crops(
    folder: Path, side: int, formats: tuple[str, ...], least: int = LEAST_SEEN, pictures: int | None = None
) -> Batch:
    """`crops_of` all pictures of a rendered data set, or of the first so many: {name: (N, ...)}. Read once.

    ValueError where nobody is in view."""
    samples = Samples(folder, only=("image",))
    count = len(samples) if pictures is None else min(pictures, len(samples))
    rows = [row for index in range(count) for row in crops_of(samples[index], side, formats, least)]
    if not rows:
        raise ValueError(f"{folder} shows nobody with {least} of 17 points in view: render more pictures")
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


# ------------------------------------------------------------------------------------------------- what a data set has
FACE = ["nose", *sides("eye ear")]
WEAK_NAMES = (*LIMBS, *FACE, "neck", "pelv", "htop")  # what 2D labels may name
ANNOTATED = {  # what each 2D data set names
    "COCO": (*LIMBS, *FACE), "MPII": (*LIMBS, "neck", "pelv", "htop"),
    "PoseTrack": (*LIMBS, "nose", "neck", "htop"), "JRDB": (*LIMBS, *FACE, "neck", "pelv"),
}  # fmt: skip


def spots_of(points: Tensor, formats: tuple[str, ...]) -> Tensor:
    """Joints (N, J, 3) of all formats -> the places that 2D labels name (N, 20, 3): those of `coco`, and the top of the
    head of `3dhp`. ValueError where one of the two is not among the formats."""
    names = joint_names(formats)
    columns(formats, "coco"), columns(formats, "3dhp")  # refuse here what isn't there
    return points[:, [names.index(f"{name}_{'3dhp' if name == 'htop' else 'coco'}") for name in WEAK_NAMES]]


def looked(images: Tensor, look: Look) -> Tensor:
    """Pictures (N, 3, S, S) uint8 as a data set with this look has them."""
    if look == Look():
        return images
    pictures = images.float() / 255
    grey = pictures.mean(1, keepdim=True)
    pictures = (pictures + look.grey * (grey - pictures)) * torch.tensor(look.tint).view(1, 3, 1, 1)
    pictures = pictures.clamp(0, 1) ** look.gamma
    if look.blur:
        sigma = look.blur * images.shape[-1]
        pictures = torch.from_numpy(gaussian_filter(pictures.numpy(), (0, 0, sigma, sigma)))
    return pictures.mul(255).round().to(torch.uint8)


def member(rows: Batch, name: str, formats: tuple[str, ...], everybody: bool = False) -> Batch:
    """What one of DATASETS has of `crops` of its world: image (N, 3, S, S) uint8, K (N, 3, 3), joints (N, J, 3) metres
    with valid (N, J), true for its format's alone, spots (N, 20, 3) with seen (N, 20): where 2D labels are, along their
    rays. Noisy as the table says. everybody: of the world, whoever else has them. ValueError where it has nobody."""
    one, (low, high) = DATASETS[name], intervals()[name]
    mine = (rows["place"] >= low) & (rows["place"] < high) | everybody
    if not mine.any():
        raise ValueError(f"{name} has nobody among {len(mine)} people of {one.world}: render more pictures")
    points = rows["points"][mine]
    generator = torch.Generator().manual_seed(int(place(name) * 2**31))
    noisy = points + one.noise * torch.randn(points.shape, generator=generator)
    valid = torch.zeros(points.shape[:2], dtype=torch.bool)
    seen = torch.zeros(len(points), len(WEAK_NAMES), dtype=torch.bool)
    if one.format:
        valid[:, columns(formats, one.format)] = True
    else:
        seen[:, [WEAK_NAMES.index(joint) for joint in ANNOTATED[name]]] = True
    found = {"image": looked(rows["image"][mine], one.look), "K": rows["K"][mine]}
    found |= {"joints": noisy.where(valid[..., None], 0.0), "valid": valid}
    spots = spots_of(noisy, formats)
    return found | {"spots": spots.where(seen[..., None], 1.0), "seen": seen}

"""Rendered people with everything that a picture of them can be asked for: what chapter 14 trains and tests on.

`pictured(worlds, size, levels, split)` finds the whole people in rendered sets (`course_lib.data.sets`) and works out
their meshes from the labels' poses; `crops(found, chosen, size)` cuts some of them out, with their truth.

Meshes and joints have the pelvis at the origin and stand in the axes of a camera that is *turned to look at the middle
of the person's box*. From a crop nobody can tell where in the picture it was taken, and whoever stands at the edge of a
picture is seen from another side than in the camera's own axes: by 5 degrees in the median of these sets.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from course_lib.chapters.bodies import BodyModel
from course_lib.chapters.cameras import NEAREST_DEPTH, axis_angle_to_matrix
from course_lib.chapters.mpt_pretraining import Levels, body_levels
from course_lib.chapters.sapiens_pose import crop_people, inverse, move
from course_lib.data.meshes import cut_down, skin
from course_lib.data.schema import PersonLabel, Sample
from course_lib.data.sets import rendered
from course_lib.data.shards import Samples, manifest_hash
from course_lib.files import draft, text_hash
from course_lib.paths import body_file, data_dir
from course_lib.recipe import Batch
from course_lib.threads import one_thread

VERSION = 3  # of the files that people are kept in
LEAST_INSIDE = 0.9  # of the area of the box around a body that must lie in the picture
LEAST_SIDE = 0.3  # of the box, in sides of the picture
LEAST_SEEN = 0.5  # of a body inside the picture that nothing may hide
LEVELS = (1723, 431, 108)  # of the mesh: those of chapter 13's shipped transformer
AT_ONCE = 64  # bodies that are posed together


@dataclass(frozen=True)
class Pictured:
    """N people in P pictures. images (P, 3, H, W), 8 bits; names: of the different people. people: a tensor each,

    picture (N,), identity (N,): in `images`, in `names`; set (N,): which of the rendered sets, 0, 1, ...; box (N, 4):
    left, top, right, bottom around the whole body, pixels; points (N, 17, 2): COCO's keypoints, pixels, NaN where
    unknown; visible (N, 17): 0 outside, 1 hidden, 2 seen; joints (N, 14, 3): LSP's, spots (N, 14, 2): the same in
    pixels; vertices (N, V, 3): the mesh's finest level, twin (N, V, 3): that of the person who is this one's mirror
    image; turn (N, 3, 3): from the picture's camera axes to those that joints, vertices and twin have (see the module).
    Metres.
    """

    images: Tensor
    people: Batch
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.people["picture"])


# ------------------------------------------------------------------------------------------------- finding them
def pictured(
    worlds: Sequence[tuple[str, int]],
    size: int,
    levels: tuple[int, ...] = LEVELS,
    split: str = "train",
    least_seen: float = LEAST_SEEN,
) -> Pictured:
    """The whole people of the first pictures of some worlds' split, such as (("studio", 6000), ("wild", 3000)), of
    `size` pixels; rendered where they are not there yet. Kept in a file under the data folder.

    levels: of the mesh (`body_levels`); least_seen: the share of a person that nothing hides. Splits share nobody.
    ValueError where there is nobody who is whole."""
    folders = tuple(rendered(world, count, size, split) for world, count in worlds)
    return whole_people(folders, tuple(levels), least_seen)


@lru_cache(maxsize=4)
def whole_people(folders: tuple[Path, ...], levels: tuple[int, ...], least_seen: float = LEAST_SEEN) -> Pictured:
    """`pictured`, of folders that are there."""
    content = [(folder.name, manifest_hash(folder)) for folder in folders]
    code = text_hash(f"{VERSION} {content} {levels} {least_seen} {body_file().stem}", 12)
    path = data_dir() / f"pictured-{'+'.join(folder.name for folder in folders)}-{code}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return unpacked(dict(kept))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        pass  # not there, or spoilt: found anew
    arrays = packed(folders, levels, least_seen)
    with draft(path) as beside, beside.open("wb") as file:
        np.savez(file, **arrays)
    return unpacked(arrays)


def unpacked(arrays: dict[str, np.ndarray]) -> Pictured:
    """The arrays of a kept file. KeyError where one is missing."""
    images, names = torch.from_numpy(arrays.pop("images")), tuple(arrays.pop("names").tolist())
    people = {name: torch.from_numpy(values) for name, values in arrays.items()}
    return Pictured(images, {name: people[name] for name in PEOPLE}, names)


PEOPLE = ("picture", "identity", "set", "box", "points", "visible", "joints", "spots", "vertices", "twin", "turn")


def packed(folders: Sequence[Path], levels: tuple[int, ...], least_seen: float) -> dict[str, np.ndarray]:
    """All that is kept, by name."""
    samples, chosen = Samples(*folders, only=()), []
    images = Samples(*folders, only=("image",))
    for number in range(len(samples)):
        sample = samples[number]
        size = size_of(sample)
        chosen += [(number, sample, person) for person in sample.people if is_whole(person, size, least_seen)]
    if not chosen:
        raise ValueError(f"{len(samples)} pictures, and nobody whole in them: render more, or lower least_seen")
    pictures = sorted({number for number, _, _ in chosen})
    names = sorted({person.identity for _, _, person in chosen})
    rows = [row for rows in posed(chosen, body_levels(levels)) for row in rows]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    numbers = [number for number, _, _ in chosen]
    arrays["picture"] = np.searchsorted(pictures, numbers)
    ends = np.cumsum([len(Samples(folder, only=())) for folder in folders])
    arrays["set"] = np.searchsorted(ends, numbers, side="right")
    arrays["identity"] = np.searchsorted(names, [person.identity for _, _, person in chosen])
    stored = [(images[number].image * 255).round().astype(np.uint8) for number in pictures]
    return arrays | {"images": np.stack(stored), "names": np.array(names)}


def size_of(sample: Sample) -> tuple[float, float]:
    """Width and height of a picture, decoded or not: its camera's axis goes through the middle."""
    return 2 * float(sample.K[0, 2]), 2 * float(sample.K[1, 2])


def is_whole(person: PersonLabel, size: tuple[float, float], least_seen: float = LEAST_SEEN) -> bool:
    """Whether a person is nearly whole in a picture of (width, height), large enough, and not hidden."""
    box, limits = person.full_box, np.array([*size, *size])
    if box is None or not np.isfinite(box).all():
        return False
    sides, within = box[2:] - box[:2], box.clip(0, limits)
    if sides.min() <= 0 or person.seen_share < least_seen:
        return False
    inside = (within[2:] - within[:2]).prod() / sides.prod()
    return bool(inside >= LEAST_INSIDE and sides.max() >= LEAST_SIDE * max(size))


# ------------------------------------------------------------------------------------------------- their truth
@lru_cache(maxsize=4)
def level_model(levels: tuple[int, ...]) -> BodyModel:
    """The body model with the vertices of the finest level only, and behind these their partners on the body's other
    side: the mirror image's mesh has its vertices there."""
    finest, template = body_levels(levels).index[0], skin().template.numpy()
    partner = cKDTree(template).query(template[finest] * np.float32([-1, 1, 1]))[1]
    return cut_down(skin().index.numpy()[np.concatenate([finest, partner])], np.zeros((0, 3), np.int64))


@one_thread()
@torch.no_grad()
def posed(chosen: list[tuple[int, Sample, PersonLabel]], levels: Levels) -> Iterator[list[dict[str, np.ndarray]]]:
    """The truth of people (picture's number, sample, person), some at a time: a dictionary of arrays each."""
    model = level_model(tuple(map(len, levels.points)))
    for first in range(0, len(chosen), AT_ONCE):
        part = chosen[first : first + AT_ONCE]
        said = {name: torch.from_numpy(np.stack([getattr(person, name) for *_, person in part])) for name in GIVEN}
        vertices, bones = model(said["shape"], said["pose"], translation=said["translation"])
        yield [
            truth(sample, person, points, bone[0], levels)
            for (_, sample, person), points, bone in zip(part, vertices, bones, strict=True)
        ]


GIVEN = ("shape", "pose", "translation")


def truth(
    sample: Sample, person: PersonLabel, vertices: Tensor, pelvis: Tensor, levels: Levels
) -> dict[str, np.ndarray]:
    """What `Pictured.people` has of a person with this pelvis (3,) in the world, and there the vertices (2 V, 3) that
    `level_model` has."""
    vertices, partners = vertices.chunk(2)
    R, t, K = (torch.from_numpy(getattr(sample, name)) for name in ("R", "t", "K"))
    regressor = torch.from_numpy(levels.regressor)
    seen, pixels = vertices @ R.T + t, projected(vertices @ R.T + t, K)
    box = torch.cat([pixels.amin(0), pixels.amax(0)])
    turn = look_at_rotation(torch.linalg.inv(K) @ torch.cat([(box[:2] + box[2:]) / 2, torch.ones(1)]))
    turned = (seen - (R @ pelvis + t)) @ turn.T
    coco = person.keypoints["coco17"]
    found = {"box": box, "joints": regressor @ turned, "vertices": turned, "turn": turn}
    found["twin"] = (partners @ R.T + t - (R @ pelvis + t)) @ turn.T * torch.tensor([-1.0, 1.0, 1.0])
    found["spots"] = projected(regressor @ seen, K)
    said = {"points": coco.points_2d.astype(np.float32), "visible": coco.visible}
    return {name: values.numpy().astype(np.float32) for name, values in found.items()} | said


def of_one(sample: Sample, person: PersonLabel, levels: tuple[int, ...]) -> Pictured:
    """A single person of a sample, worked out now: what a launch takes from its shards."""
    row = next(posed([(0, sample, person)], body_levels(tuple(levels))))[0]
    row |= {name: np.int64(0) for name in ("picture", "identity", "set")}
    people = {name: torch.from_numpy(np.asarray(row[name])[None].copy()) for name in PEOPLE}
    image = torch.from_numpy((sample.image * 255).round().astype(np.uint8))[None]
    return Pictured(image, people, (person.identity,))


def projected(points: Tensor, K: Tensor) -> Tensor:
    """Points (N, 3) in camera axes -> pixels (N, 2)."""
    return (points @ K.T)[:, :2] / points[:, 2:].clamp(min=NEAREST_DEPTH)


def look_at_rotation(ray: Tensor) -> Tensor:
    """The smallest turn (3, 3) of a camera after which a ray (3,) of its old axes is its axis, (0, 0, 1)."""
    ray = normalize(ray, dim=0)
    axis = torch.linalg.cross(ray, torch.tensor([0.0, 0.0, 1.0]))
    return axis_angle_to_matrix(normalize(axis, dim=0) * torch.atan2(axis.norm(), ray[2]))


# ------------------------------------------------------------------------------------------------- their crops
def crops(found: Pictured, chosen: Tensor, size: int, margin: float | Tensor = 1.2) -> Batch:
    """Some of the people (B,), each in the middle of a square crop: image (B, 3, size, size) in [0, 1]; in crop
    coordinates (-1 to 1) points (B, 17, 2), 0 where seen (B, 17) is 0: not labelled, or outside the crop; and spots
    (B, 14, 2); joints (B, 14, 3), vertices and twin (B, V, 3), turn and identity as they are.

    margin, a number or (B,): the crop's side in longer sides of the box. IndexError for somebody who isn't there."""
    people = {name: values[chosen] for name, values in found.people.items()}
    image, matrix = crop_people(found.images[people["picture"]], people["box"], (size, size), margin)
    back = inverse(matrix)
    points, spots = (2 * move(people[name], back) / size - 1 for name in ("points", "spots"))
    seen = (people["visible"] > 0) & (points.abs() < 1).all(-1)
    kept = {name: people[name] for name in ("joints", "vertices", "twin", "turn", "identity")}
    return {"image": image, "points": points.where(seen[..., None], 0.0), "seen": seen.float(), "spots": spots} | kept

"""Samples at another size: pictures, masks, camera, boxes and joints together."""

from dataclasses import replace

import numpy as np
from PIL import Image

from course_lib.data.schema import Keypoints, PersonLabel, Sample

MASKS = ("alpha", "depth", "parts", "instances")
NOTHING = {"depth": np.inf}  # what a field says where there are no people; 0 else
ROOM = 1.25  # a square's side, in sides of the people's boxes
SMOOTH = ("image", "alpha")  # means of pixels; labels take the nearest


def scaled(sample: Sample, longest: int) -> Sample:
    """The sample with `longest` pixels on its longer side; one that is no larger stays as it is.

    Pixel centres are at integer + 0.5, so coordinates are just multiplied."""
    height, width = sample.image.shape[1:]
    if max(height, width) <= longest:
        return sample
    factor = longest / max(height, width)
    return stretched(sample, (max(1, round(width * factor)), max(1, round(height * factor))))


def stretched(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample at `size` (width, height), with all its labels."""
    height, width = sample.image.shape[1:]
    factor = np.array([size[0] / width, size[1] / height], np.float32)
    changed = {name: resized(getattr(sample, name), size, name) for name in ("image", *MASKS, "normals")}
    K = None if sample.K is None else (np.diag([*factor, 1]) @ sample.K).astype(np.float32)
    return replace(sample, K=K, people=[scaled_person(person, factor) for person in sample.people], **changed)


def resized(values: np.ndarray | None, size: tuple[int, int], name: str) -> np.ndarray | None:
    """One field (H, W) or (3, H, W) at `size`, (width, height) as Pillow has it."""
    if values is None:
        return None
    if values.ndim == 3:
        return np.stack([resized(plane, size, name) for plane in values])
    way = Image.Resampling.BOX if size[0] <= values.shape[1] else Image.Resampling.BILINEAR
    picture = Image.fromarray(values).resize(size, way if name in SMOOTH else Image.Resampling.NEAREST)
    return np.asarray(picture).clip(0, 1) if name in SMOOTH else np.asarray(picture)


def scaled_person(person: PersonLabel, factor: np.ndarray) -> PersonLabel:
    """A label with its boxes and points multiplied by (x, y) `factor`."""
    points = {name: scaled_points(found, factor) for name, found in person.keypoints.items()}
    boxes = {name: getattr(person, name) for name in ("box", "full_box")}
    boxes = {name: None if box is None else box * np.tile(factor, 2) for name, box in boxes.items()}
    return replace(person, keypoints=points, **boxes)


def scaled_points(points: Keypoints, factor: np.ndarray) -> Keypoints:
    """Points of one format, multiplied."""
    return replace(points, points_2d=points.points_2d * factor)


def square_around(sample: Sample) -> tuple[int, int, int]:
    """left, top and side in whole pixels of a square around all people, a quarter wider than they; inside of the
    picture where it fits. Without people the largest square in the middle."""
    height, width = sample.image.shape[1:]
    if not sample.people:
        side = min(height, width)
        return (width - side) // 2, (height - side) // 2, side
    boxes = np.array([person.box for person in sample.people])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = max(8, min(round(ROOM * float((high - low).max())), max(height, width)))
    corner = np.round((low + high - side) / 2).astype(int)
    left, top = (into(int(at), side, length) for at, length in zip(corner, (width, height), strict=True))
    return left, top, side


def into(at: int, side: int, length: int) -> int:
    """Where a piece of `side` begins so that it lies in [0, length]; in the middle if it is longer."""
    return (length - side) // 2 if side > length else min(max(at, 0), length - side)


def squared(sample: Sample, size: int) -> Sample:
    """The square around the people of a sample, `size` pixels wide; what lies outside of the picture repeats its edge,
    and nobody is there."""
    left, top, side = square_around(sample)
    fields = ("image", *MASKS, "normals")
    changed = {name: cut(getattr(sample, name), left, top, side, name) for name in fields}
    K = None if sample.K is None else sample.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]], np.float32)
    people = [moved_person(person, np.array([left, top], np.float32), side) for person in sample.people]
    return stretched(replace(sample, K=K, people=people, **changed), (size, size))


def cut(values: np.ndarray | None, left: int, top: int, side: int, name: str) -> np.ndarray | None:
    """The square of one field (..., H, W)."""
    if values is None:
        return None
    height, width = values.shape[-2:]
    before, after = (max(0, -top), max(0, -left)), (max(0, top + side - height), max(0, left + side - width))
    margins = [(0, 0)] * (values.ndim - 2) + list(zip(before, after, strict=True))
    how = {"mode": "edge"} if name == "image" else {"constant_values": NOTHING.get(name, 0)}
    top, left = top + before[0], left + before[1]
    return np.ascontiguousarray(np.pad(values, margins, **how)[..., top : top + side, left : left + side])


def moved_person(person: PersonLabel, corner: np.ndarray, side: int) -> PersonLabel:
    """A label in the square whose corner is at (x, y) `corner`: points that are outside of it count as not seen."""
    keypoints = {}
    for name, points in person.keypoints.items():
        spots = points.points_2d - corner
        inside = ((spots >= 0) & (spots < side)).all(1)
        keypoints[name] = replace(points, points_2d=spots, visible=np.where(inside, points.visible, 0).astype(np.uint8))
    full = None if person.full_box is None else person.full_box - np.tile(corner, 2)
    box = np.clip(person.box - np.tile(corner, 2), 0, side).astype(np.float32)
    return replace(person, keypoints=keypoints, box=box, full_box=full)

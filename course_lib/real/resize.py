"""Samples at another size: pictures, masks, camera, boxes and joints together."""

from dataclasses import replace

import numpy as np
from PIL import Image

from course_lib.data.schema import Keypoints, PersonLabel, Sample

RESAMPLE = {"image": Image.Resampling.BOX, "alpha": Image.Resampling.BOX}  # means of pixels; labels take the nearest


def scaled(sample: Sample, longest: int) -> Sample:
    """The sample with `longest` pixels on its longer side; one that is no larger stays as it is.

    Pixel centres are at integer + 0.5, so coordinates are just multiplied."""
    height, width = sample.image.shape[1:]
    if max(height, width) <= longest:
        return sample
    size = max(1, round(width * longest / max(height, width))), max(1, round(height * longest / max(height, width)))
    factor = np.array([size[0] / width, size[1] / height], np.float32)
    changed = {name: resized(getattr(sample, name), size, name) for name in ("image", *MASKS, "normals")}
    K = None if sample.K is None else (np.diag([*factor, 1]) @ sample.K).astype(np.float32)
    return replace(sample, K=K, people=[scaled_person(person, factor) for person in sample.people], **changed)


MASKS = ("alpha", "depth", "parts", "instances")


def resized(values: np.ndarray | None, size: tuple[int, int], name: str) -> np.ndarray | None:
    """One field (H, W) or (3, H, W) at `size`, (width, height) as Pillow has it."""
    if values is None:
        return None
    if values.ndim == 3:
        return np.stack([resized(plane, size, name) for plane in values])
    picture = Image.fromarray(values).resize(size, RESAMPLE.get(name, Image.Resampling.NEAREST))
    result = np.asarray(picture)
    return result.clip(0, 1) if name in RESAMPLE else result


def scaled_person(person: PersonLabel, factor: np.ndarray) -> PersonLabel:
    """A label with its boxes and points multiplied by (x, y) `factor`."""
    points = {name: scaled_points(found, factor) for name, found in person.keypoints.items()}
    boxes = {name: getattr(person, name) for name in ("box", "full_box")}
    boxes = {name: None if box is None else box * np.tile(factor, 2) for name, box in boxes.items()}
    return replace(person, keypoints=points, **boxes)


def scaled_points(points: Keypoints, factor: np.ndarray) -> Keypoints:
    """Points of one format, multiplied."""
    return replace(points, points_2d=points.points_2d * factor)

"""From what data sets hold to the fields of the schema: dtypes, boxes, visibility."""

import numpy as np

from course_lib.data.schema import Keypoints


def image_field(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) / 255


def points_field(
    points_2d: np.ndarray,
    size: tuple[int, int],
    points_3d: np.ndarray | None = None,
    visible: np.ndarray | None = None,
) -> Keypoints:
    """Keypoints of a person in a picture of `size` (height, width): points_2d (K, 2) pixels, points_3d (K, 3) metres.

    visible (K,): COCO's 0, 1, 2; without it a point inside the picture counts as seen, since nobody said otherwise. A
    point that is outside or NaN is 0."""
    points_2d = np.asarray(points_2d, np.float32)
    inside = ((points_2d >= 0) & (points_2d < (size[1], size[0]))).all(1)  # False for NaN
    visible = np.full(len(points_2d), 2) if visible is None else np.asarray(visible)
    visible = np.where(inside, visible, 0).astype(np.uint8)
    return Keypoints(points_2d, None if points_3d is None else np.asarray(points_3d, np.float32), visible)


def box_around(points: np.ndarray, size: tuple[int, int] | None = None, margin: float = 0.0) -> np.ndarray:
    """(4,) float32 left, top, right, bottom around the finite points (N, 2), wider by a share `margin` of its longer
    side on each side; inside of a picture of `size` (height, width) if given. Zeros where there is no point."""
    known = np.asarray(points, np.float64)
    known = known[np.isfinite(known).all(1)]
    if not len(known):
        return np.zeros(4, np.float32)
    low, high = known.min(0), known.max(0)
    wider = margin * (high - low).max()
    box = np.concatenate([low - wider, high + wider])
    return box.astype(np.float32) if size is None else clipped(box, size)


def clipped(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of a box (left, top, right, bottom) inside of a picture of `size` (height, width), float32."""
    return np.clip(box, 0, [size[1], size[0], size[1], size[0]]).astype(np.float32)


def corners(xywh: np.ndarray) -> np.ndarray:
    """COCO's left, top, width, height -> left, top, right, bottom, float32."""
    left, top, width, height = np.asarray(xywh, np.float64)
    return np.array([left, top, left + width, top + height], np.float32)


def mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,) float32 around the pixels that are set; zeros where none is."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)

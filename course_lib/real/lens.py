"""Where a camera sees points; lens distortion, as OpenCV has it, taken out of pictures, so that K alone says it."""

import numpy as np

NEAREST = 1e-3  # what is no farther than this from the camera's plane is not in front of it
HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixel centres are at integers, the course's at + 0.5


def to_course(K: np.ndarray) -> np.ndarray:
    """K (..., 3, 3) of OpenCV's pixel centres -> the course's."""
    return K + HALF


def pinhole(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Points (..., 3) in a camera's axes -> pixels (..., 2)."""
    pixels = points @ K.T
    return pixels[..., :2] / pixels[..., 2:]


def seen_at(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Points (..., N, 3) in the axes of cameras K (..., 3, 3) -> pixels (..., N, 2); NaN where not in front of them."""
    pixels, depth = points @ np.swapaxes(K, -1, -2), points[..., 2:]
    return np.where(depth > NEAREST, pixels[..., :2] / np.maximum(depth, NEAREST), np.nan)


def distorted(points: np.ndarray, K: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of a camera without distortion -> where the lens k1, k2, p1, p2, k3 puts them, (..., 2).

    Brown's model; OpenCV's order of the five numbers."""
    k1, k2, p1, p2, k3 = np.asarray(lens, np.float64)
    centre, focal = K[[0, 1], [2, 2]], K[[0, 1], [0, 1]]
    x, y = np.moveaxis((np.asarray(points, np.float64) - centre) / focal, -1, 0)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    moved = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack(moved, -1) * focal + centre


def undistorted(values: np.ndarray, K: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) or a mask (H, W), uint8, as a camera without lens would have taken it with the same K.

    K (3, 3): the course's, pixel centres at integer + 0.5; lens: OpenCV's k1, k2, p1, p2, k3. What lies outside of the
    picture becomes 0. A mask keeps its values: each is undistorted by itself, and a pixel takes the one with the
    largest share."""
    if not np.any(lens):
        return values
    import torch
    from kornia.geometry.calibration import undistort_image

    numbers = [torch.from_numpy(np.asarray(part, np.float32))[None] for part in (K - HALF, lens)]
    if values.ndim == 3:
        planes = torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))[None] / 255
        found = undistort_image(planes, *numbers)[0].numpy() * 255
        return np.round(found.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8)
    kinds = np.unique(values)
    planes = torch.from_numpy(np.stack([values == kind for kind in kinds]).astype(np.float32))[None]
    shares = undistort_image(planes, *numbers)[0].numpy()
    return np.where(shares.max(0) > 0, kinds[shares.argmax(0)], 0).astype(np.uint8)

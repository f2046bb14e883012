"""Where a camera sees points; lens distortion, as OpenCV has it, taken out of pictures, so that K alone says it."""

import numpy as np
import torch
from torch.nn.functional import grid_sample


def pinhole(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Points (..., 3) in a camera's axes -> pixels (..., 2)."""
    pixels = points @ K.T
    return pixels[..., :2] / pixels[..., 2:]


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


def undistorted(image: np.ndarray, K: np.ndarray, lens: np.ndarray, nearest: bool = False) -> np.ndarray:
    """A picture (H, W, 3) or mask (H, W) uint8 as a camera K without distortion would have taken it: bilinear, or of
    the nearest pixel for labels; black where the lens saw nothing. Pixel centres are at integer + 0.5."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    spots = distorted(np.stack([x, y], -1), K, lens)
    places = torch.from_numpy(2 * spots / (width, height) - 1).float()[None]
    planes = torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1).astype(np.float32))[None]
    found = grid_sample(planes, places, "nearest" if nearest else "bilinear", align_corners=False)[0]
    result = found.round().byte().numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(result if image.ndim == 3 else result[..., 0])

"""Lens distortion taken out of pictures and masks, by kornia's model of OpenCV's coefficients."""

import numpy as np
import torch
from kornia.geometry.calibration import undistort_image

HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixel centres are at integers, the course's at + 0.5


def to_course(K: np.ndarray) -> np.ndarray:
    """K (..., 3, 3) of OpenCV's pixel centres -> the course's."""
    return K + HALF


def undistorted(values: np.ndarray, K: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) or a mask (H, W), uint8, as a camera without lens would have taken it with the same K.

    K (3, 3) and distortion (k1, k2, p1, p2, k3) are OpenCV's. What lies outside of the picture becomes 0. A mask keeps
    its values: each is undistorted by itself, and a pixel takes the one with the largest share."""
    if not np.any(distortion):
        return values
    numbers = torch.from_numpy(np.array(K, np.float32))[None], torch.from_numpy(np.array(distortion, np.float32))[None]
    if values.ndim == 3:
        planes = torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))[None] / 255
        found = undistort_image(planes, *numbers)[0].numpy() * 255
        return np.round(found.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8)
    kinds = np.unique(values)
    planes = torch.from_numpy(np.stack([values == kind for kind in kinds]).astype(np.float32))[None]
    shares = undistort_image(planes, *numbers)[0].numpy()
    return np.where(shares.max(0) > 0, kinds[shares.argmax(0)], 0).astype(np.uint8)

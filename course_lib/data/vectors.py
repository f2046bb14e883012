"""Vectors and colours as NumPy columns: (3, N), a row a coordinate or colour.

A surface has some hundred pixels. For so few, NumPy's operations take a third of torch's time, and half of the time
with (3, N) instead of (N, 3).
"""

import numpy as np


def as_column(values: tuple[float, float, float]) -> np.ndarray:
    """Three numbers as (3, 1) float32, to go with (3, N)."""
    return np.array(values, np.float32)[:, None]


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of the columns of a and b, (3, N) each: (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross products of the columns of a and b, (3, N) each: (3, N)."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (3, N) at unit length; zero stays zero."""
    return vectors / np.sqrt(np.maximum(dot(vectors, vectors), 1e-24))


def distance(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """From points (3, N) to one point (3, 1) or as many: (N,) metres."""
    away = points - centre
    return np.sqrt(dot(away, away))

"""Tools that paint pixels: soft steps and edges, noise that sticks to the body.

A painter sees the interpolated REST position of a pixel (template coordinates), so patterns stick to the cloth and
pupils turn with the eyes. All randomness comes from one fixed noise picture, looked up at those coordinates. Arrays are
float32; points, directions and colours are columns, (3, N), as in `vectors`.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch

from course_lib.data.lighting import to_linear
from course_lib.data.vectors import as_column, dot, unit


@dataclass
class Samples:
    """Points to be coloured, one surface at a time. rest (3, N), fields (8, N), normal (3, N) unit and towards the
    viewer, view (3, N) unit towards the camera, turn (3, 3, N) from rest to world, footprint (N,) metres a pixel,
    inside (N,) seen from behind."""

    rest: np.ndarray
    fields: np.ndarray
    normal: np.ndarray
    view: np.ndarray
    turn: np.ndarray
    footprint: np.ndarray
    inside: np.ndarray


@dataclass
class Paint:
    """What comes out: albedo (3, N) linear, normal (3, N), and how light is answered, (N,) or one number: `flesh`
    (light through skin), `specular` and `gloss` (highlight), `sheen` (fuzz), `strand` with `tangent` (3, N) (hair),
    `open` (how far to lift the baked occlusion), `part` (-1 keeps)."""

    albedo: np.ndarray | float = 0.3
    normal: np.ndarray | float = 0.0
    flesh: np.ndarray | float = 0.0
    specular: np.ndarray | float = 0.0
    gloss: np.ndarray | float = 20.0
    sheen: np.ndarray | float = 0.0
    strand: np.ndarray | float = 0.0
    tangent: np.ndarray | float = 0.0
    open: np.ndarray | float = 0.0
    part: np.ndarray | int = -1

    @staticmethod
    def empty(count: int) -> "Paint":
        """Room for `count` samples."""
        shapes = {"albedo": (3, count), "normal": (3, count), "tangent": (3, count)}
        kinds = {"part": np.int64}
        names = (f.name for f in fields(Paint))
        return Paint(**{n: np.empty(shapes.get(n, count), kinds.get(n, np.float32)) for n in names})

    def put(self, rows: slice, other: "Paint") -> None:
        """Writes the samples of one surface into a stretch of all."""
        for name, values in vars(other).items():
            getattr(self, name)[..., rows] = values


# ---------------------------------------------------------------- small tools


@lru_cache(maxsize=512)
def linear(colour: tuple[float, float, float]) -> np.ndarray:
    """A screen colour (3, 1) as linear light. Not to be changed in place."""
    return to_linear(as_column(colour))


def ramp(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Smooth step: 0 at `low`, 1 at `high` (either order)."""
    t = ((x - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


def bell(squared: np.ndarray) -> np.ndarray:
    """exp(-squared), cut off where it is next to nothing: numbers below 1e-38 are slow to work with."""
    return np.exp(-np.minimum(squared, 40))


def edge(x: np.ndarray, width: np.ndarray) -> np.ndarray:
    """0 where x < 0, 1 where x > 0, softened over `width`: one pixel, so that patterns do not flicker."""
    return (x / np.maximum(width, 1e-6) + 0.5).clip(0, 1)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """a towards b, (3, N), (3, 1) or one number each, by share (N,)."""
    return a + (b - a) * share


@lru_cache(maxsize=1)
def noise_picture(size: int = 256, cells: int = 32) -> torch.Tensor:
    """A tiling picture (1, 4, size + 1, size + 1): two smooth noises of unit spread, and the first one's slopes."""
    grid = np.random.default_rng(7).normal(size=(2, cells, cells))
    spectrum = np.fft.rfft2(grid)
    full = np.zeros((2, size, size // 2 + 1), complex)  # band-limited enlargement: exact tiling, no blocks
    half = cells // 2
    full[:, :half, :half], full[:, -half:, :half] = spectrum[:, :half, :half], spectrum[:, half:, :half]
    values = np.fft.irfft2(full, s=(size, size))
    values /= values.std(axis=(1, 2), keepdims=True)
    slopes = [(np.roll(values[0], -1, axis) - np.roll(values[0], 1, axis)) * size / cells / 2 for axis in (1, 0)]
    picture = np.concatenate([values, np.stack(slopes)])
    picture = np.pad(picture, ((0, 0), (0, 1), (0, 1)), mode="wrap")
    return torch.from_numpy(picture.astype(np.float32))[None]


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Noise at (u, v) in cells: (4, N) = two values and the slopes of the first along u and v, per cell."""
    place = np.stack([u, v], -1) / 32
    place = (place - np.floor(place)) * 2 - 1
    return torch.nn.functional.grid_sample(
        noise_picture(), torch.from_numpy(place)[None, None], "bilinear", "border", align_corners=True
    )[0, :, 0].numpy()


# two slanted views of space, the u axes of both and the v axes of both; no surface is seen edge-on by both views
_VIEWS = np.array([[0.80, 0.15, 0.58], [0.62, -0.2, -0.76], [-0.12, 0.98, -0.09], [0.3, 0.93, 0.2]], np.float32)


def noise3(points: np.ndarray, frequency: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise at points (3, N), `frequency` cells a metre: value (N,), slope (3, N) per cell."""
    u, v = (_VIEWS * frequency @ points).reshape(2, -1)  # (2 N,) each, the two views in a row
    n, _, du, dv = noise(u, v).reshape(4, 2, -1)
    slope = _VIEWS.T @ np.concatenate([du, dv])  # (3, 4) @ (4, N)
    return (n[0] + n[1]) * 0.7, slope * 0.7


def fine_noise3(s: Samples, frequency: float, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """`noise3`, or zeros where all pixels are larger than `limit` metres and would not show it."""
    if s.footprint.size and s.footprint.min() > limit:
        return np.zeros_like(s.footprint), np.zeros_like(s.rest)
    return noise3(s.rest, frequency)


def tilt(s: Samples, slope: np.ndarray) -> np.ndarray:
    """Normals (3, N) of a surface with relief whose rest-space slope is (3, N)."""
    return unit(s.normal - to_world(s, slope))


def to_world(s: Samples, direction: np.ndarray) -> np.ndarray:
    """Turn rest-space directions (3, N) into the world."""
    return s.turn[:, 0] * direction[0] + s.turn[:, 1] * direction[1] + s.turn[:, 2] * direction[2]


def rest_normal_y(s: Samples) -> np.ndarray:
    """How far normals pointed up in the rest pose: (N,)."""
    return dot(s.turn[:, 1], s.normal)

"""Tools that paint pixels: soft steps and edges, noise that sticks to the body.

A painter sees the interpolated REST position of a pixel (template coordinates), so patterns stick to the cloth and
pupils turn with the eyes. All randomness comes from one fixed noise picture, looked up at those coordinates.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from course_lib.data.lighting import dot, to_linear, unit


@dataclass
class Samples:
    """Points to be coloured, one surface at a time. rest (N, 3), fields (N, 8), normal (N, 3) unit and towards the
    viewer, view (N, 3) unit towards the camera, turn (N, 3, 3) from rest to world, footprint (N,) metres a pixel,
    inside (N,) seen from behind."""

    rest: Tensor
    fields: Tensor
    normal: Tensor
    view: Tensor
    turn: Tensor
    footprint: Tensor
    inside: Tensor


@dataclass
class Paint:
    """What comes out, one row a sample: albedo (N, 3) linear, normal (N, 3), and how light is answered: `flesh` (light
    through skin), `specular` and `gloss` (highlight), `sheen` (fuzz), `strand` with `tangent` (hair), `open` (how
    far to lift the baked occlusion), `part` (-1 keeps)."""

    albedo: Tensor
    normal: Tensor
    flesh: Tensor
    specular: Tensor
    gloss: Tensor
    sheen: Tensor
    strand: Tensor
    tangent: Tensor
    open: Tensor
    part: Tensor

    @staticmethod
    def blank(count: int) -> "Paint":
        """Grey, dull."""
        zero = torch.zeros(count)
        return Paint(
            torch.full((count, 3), 0.3), torch.zeros(count, 3), zero.clone(), zero.clone(), zero + 20, zero.clone(),
            zero.clone(), torch.zeros(count, 3), zero.clone(), torch.full((count,), -1, dtype=torch.int64),
        )  # fmt: skip


# ---------------------------------------------------------------- small tools


@lru_cache(maxsize=512)
def linear(colour: tuple[float, float, float]) -> Tensor:
    """A screen colour (3,) as linear light. Not to be changed in place."""
    return to_linear(torch.tensor(colour, dtype=torch.float32))


def ramp(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """Smooth step: 0 at `low`, 1 at `high` (either order)."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bell(squared: Tensor) -> Tensor:
    """exp(-squared), cut off where it is next to nothing: numbers below 1e-38 are slow to work with."""
    return torch.exp(squared.clamp(max=40).neg_())


def distance(points: Tensor, centre: Tensor) -> Tensor:
    """From points (N, 3) to one point or as many: (N,) metres."""
    away = points - centre
    return dot(away, away).sqrt_()


def edge(x: Tensor, width: Tensor) -> Tensor:
    """0 where x < 0, 1 where x > 0, softened over `width`: one pixel, so that patterns do not flicker."""
    return (x / width.clamp(min=1e-6) + 0.5).clamp(0, 1)


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """a (N, 3) or (3,) towards b by share (N,)."""
    return a + (b - a) * share[:, None]


@lru_cache(maxsize=1)
def noise_picture(size: int = 256, cells: int = 32) -> Tensor:
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


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Noise at (u, v) in cells: (4, N) = two values and the slopes of the first along u and v, per cell."""
    place = torch.stack([u, v], -1) / 32
    place = (place - place.floor()) * 2 - 1
    return torch.nn.functional.grid_sample(
        noise_picture(), place[None, None], mode="bilinear", align_corners=True, padding_mode="border"
    )[0, :, 0]


# two slanted views of space, the u axes of both and the v axes of both; no surface is seen edge-on by both views
_VIEWS = torch.tensor([[[0.80, 0.15, 0.58], [0.62, -0.2, -0.76]], [[-0.12, 0.98, -0.09], [0.3, 0.93, 0.2]]])


def noise3(points: Tensor, frequency: float) -> tuple[Tensor, Tensor]:
    """Noise at points (N, 3), `frequency` cells a metre: value (N,), slope (N, 3) per cell."""
    u, v = (_VIEWS * frequency @ points.T).flatten(1)  # (2 N,) each, the two views in a row
    n, _, du, dv = noise(u, v).view(4, 2, -1)
    slope = torch.cat([du, dv]).T @ _VIEWS.flatten(0, 1)  # (N, 4) @ (4, 3)
    return n.sum(0) * 0.7, slope * 0.7


def fine_noise3(s: Samples, frequency: float, limit: float) -> tuple[Tensor, Tensor]:
    """`noise3`, or zeros where all pixels are larger than `limit` metres and would not show it."""
    if len(s.rest) and float(s.footprint.min()) > limit:
        return torch.zeros(len(s.rest)), torch.zeros(len(s.rest), 3)
    return noise3(s.rest, frequency)


def tilt(s: Samples, slope: Tensor) -> Tensor:
    """Normals (N, 3) of a surface with relief whose rest-space slope is (N, 3)."""
    return unit(s.normal - to_world(s, slope))


def to_world(s: Samples, direction: Tensor) -> Tensor:
    """Turn rest-space directions (N, 3) into the world."""
    return torch.bmm(s.turn, direction[:, :, None])[..., 0]


def rest_normal_y(s: Samples) -> Tensor:
    """How far normals pointed up in the rest pose: (N,)."""
    return dot(s.turn[:, :, 1], s.normal)

"""Light: a key light that casts shadows, sky and ground all around, lamps that fill; and how surfaces answer.

All colours here are linear (proportional to light), never the gamma-coded values of a picture. Vectors are in the world
(y up, metres). Points, normals and colours are columns, (3, N), as in `vectors`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import NEAR, nearest_faces, visible_triangles
from course_lib.data.vectors import as_column, dot, unit

Vector = tuple[float, float, float]
KINDS = ("sun", "overcast", "indoor", "studio", "dusk", "coloured")


@dataclass(frozen=True)
class PointLight:
    """A small lamp without a shadow: `colour` is what a surface facing it at one metre receives."""

    position: Vector
    colour: Vector


@dataclass(frozen=True)
class Lights:
    """Everything that shines in a scene. `sun_direction` points from the scene to the key light (unit length);
    `softness` is the width of its shadow's edge, in metres."""

    sun_direction: Vector
    sun_colour: Vector
    sky_colour: Vector
    ground_colour: Vector
    points: tuple[PointLight, ...] = ()
    softness: float = 0.02
    exposure: float = 1.0
    kind: str = "sun"


def direction(azimuth: float, elevation: float) -> Vector:
    """Azimuth from +z towards +x and elevation over the horizon, radians -> unit vector."""
    flat = np.cos(elevation)
    return (float(flat * np.sin(azimuth)), float(np.sin(elevation)), float(flat * np.cos(azimuth)))


def temperature(warmth: float) -> np.ndarray:
    """Colour of white light from cold (-1, blue) to warm (1, candle), linear RGB with a mean near 1."""
    cold, white, warm = np.array([0.80, 0.97, 1.25]), np.ones(3), np.array([1.32, 0.97, 0.62])
    return white + max(warmth, 0.0) * (warm - white) + max(-warmth, 0.0) * (cold - white)


def vector(values: np.ndarray) -> Vector:
    """An array of three as a tuple of Python floats (so that Lights can be compared and hashed)."""
    return tuple(float(v) for v in values)


# kind: key strength, key warmth, elevation in degrees, sky strength, sky warmth, softness in metres
_RECIPES = {
    "sun": ((1.5, 2.15), (0.0, 0.35), (28, 65), (0.5, 0.75), (-0.8, -0.3), (0.006, 0.02)),
    "overcast": ((0.35, 0.7), (-0.2, 0.1), (50, 80), (1.25, 1.6), (-0.35, 0.0), (0.10, 0.20)),
    "indoor": ((0.9, 1.5), (0.1, 0.7), (35, 70), (0.65, 0.95), (-0.1, 0.4), (0.05, 0.12)),
    "studio": ((1.2, 1.7), (-0.15, 0.15), (25, 55), (0.5, 0.75), (-0.1, 0.1), (0.05, 0.12)),
    "dusk": ((1.4, 2.1), (0.7, 1.2), (8, 24), (0.4, 0.6), (-1.0, -0.5), (0.01, 0.03)),
    "coloured": ((1.1, 1.7), (-0.6, 0.8), (20, 60), (0.45, 0.7), (-0.8, 0.5), (0.03, 0.10)),
}


def sample_lights(rng: np.random.Generator, kind: str | None = None) -> Lights:
    """Draw the light of one scene; `kind` is one of KINDS (drawn when left out). Mostly from the front half, +z."""
    kind = kind or str(rng.choice(KINDS))
    if kind not in _RECIPES:
        raise ValueError(f"unknown kind of light {kind!r}: use one of {', '.join(KINDS)}")
    strength, warmth, elevation, sky, sky_warmth, softness = (rng.uniform(*bounds) for bounds in _RECIPES[kind])
    azimuth = rng.normal(0.0, 0.9) if rng.random() < 0.85 else rng.uniform(-np.pi, np.pi)
    sky_colour = sky * temperature(sky_warmth)
    ground = sky_colour * rng.uniform(0.35, 0.6) * temperature(rng.uniform(0.1, 0.6)) + 0.06 * strength
    return Lights(
        sun_direction=direction(azimuth, np.radians(elevation)),
        sun_colour=vector(strength * temperature(warmth)),
        sky_colour=vector(sky_colour),
        ground_colour=vector(ground),
        points=tuple(sample_points(rng, kind, azimuth)),
        softness=float(softness),
        exposure=float(rng.uniform(0.88, 1.1)),
        kind=kind,
    )


def sample_points(rng: np.random.Generator, kind: str, azimuth: float) -> list[PointLight]:
    """Fill and rim lamps: always in a studio, coloured ones for `coloured`, sometimes indoors, none outdoors."""
    count = {"studio": 2, "coloured": 2, "indoor": int(rng.integers(0, 3))}.get(kind, 0)
    lamps = []
    for index in range(count):
        angle = azimuth + (rng.uniform(1.2, 2.2) if index == 0 else rng.uniform(2.4, 3.6)) * rng.choice([-1, 1])
        distance = rng.uniform(2.2, 3.5)
        position = np.array([np.sin(angle), 0, np.cos(angle)]) * distance + [0, rng.uniform(1.2, 2.6), 0]
        colour = temperature(rng.uniform(-0.5, 0.8))
        if kind == "coloured":
            colour = 0.25 + 1.5 * rng.dirichlet(np.full(3, 0.7))
        lamps.append(PointLight(vector(position), vector(colour * rng.uniform(0.15, 0.42) * distance**2)))
    return lamps


# ---------------------------------------------------------------- shadows


@dataclass(frozen=True)
class ShadowMap:
    """What the key light sees: depth (S + 2, S + 2) from a camera far away in its direction, +inf where it sees nothing
    and in a border around the picture."""

    depth: np.ndarray
    camera: Camera
    texel: float  # metres that one pixel covers

    def look(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where points (3, N) are in `depth`, and how far away: column, row, z, (N,) each."""
        x, y, z = self.camera.R[0].numpy() @ points + self.camera.t[0].numpy()[:, None]
        focal, centre = float(self.camera.K[0, 0, 0]), float(self.camera.K[0, 0, 2]) + 1
        return x / z * focal + centre, y / z * focal + centre, z


LIGHT_DISTANCE = 40.0  # metres; far enough for nearly parallel rays


def nearest(points: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The nearest face (H, W), -1 where there is none, and its depth there, in metres to 1e-5, from points (1, V, 3) in
    camera space and K (1, 3, 3). Half of chapter 03's `rasterize`: no checks, no barycentrics, which few samples need.
    """
    keys = nearest_faces(visible_triangles(points, faces, K, size, NEAR), 1, size, 2**18)[0].numpy()
    return keys.astype(np.int32), (keys >> 32).astype(np.int32).view(np.float32)  # the key's lower and upper half


def shadow_map(vertices: Tensor, faces: Tensor, lights: Lights, size: int = 192) -> ShadowMap:
    """Rasterise the scene (vertices (V, 3), faces (F, 3)) from the key light."""
    low, high = vertices.numpy().min(0), vertices.numpy().max(0)
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2 + 0.02
    up = (0.0, 1.0, 0.0) if abs(lights.sun_direction[1]) < 0.98 else (0.0, 0.0, 1.0)
    eye = centre + LIGHT_DISTANCE * np.float32(lights.sun_direction)
    focal = size / 2 * (LIGHT_DISTANCE - radius) / radius
    places = torch.from_numpy(np.stack([eye, centre]))
    camera = Camera.look_at(places[:1], places[1:], up=up, focal=focal, size=(size, size))
    face, depth = nearest(camera.to_camera(vertices[None]), faces, camera.K, (size, size))
    return ShadowMap(np.pad(np.where(face >= 0, depth, np.inf), 1, constant_values=np.inf), camera, 2 * radius / size)


# 9 points of a Vogel spiral in the unit disc
_TAPS = [(((i + 0.5) / 9) ** 0.5 * math.cos(2.4 * i), ((i + 0.5) / 9) ** 0.5 * math.sin(2.4 * i)) for i in range(9)]


def sun_visibility(shadow: ShadowMap, points: np.ndarray, normals: np.ndarray, lights: Lights) -> np.ndarray:
    """How much of the key light reaches points (3, N) with normals (3, N): (N,) in [0, 1].

    Percentage-closer filtering (Reeves et al. 1987): the share of nearby texels whose nearest surface is not in front.
    """
    slope = (np.float32(lights.sun_direction) @ normals).clip(0, 1)
    column, row, z = shadow.look(points + normals * (shadow.texel * (0.6 + 1.8 * (1 - slope))))  # normal-offset bias
    limit, last, depth = z - 0.4 * shadow.texel, len(shadow.depth) - 1, shadow.depth.ravel()
    radius = max(lights.softness / shadow.texel, 0.8)
    total = np.zeros(len(limit), np.uint8)
    for dx, dy in _TAPS:
        index = (row + dy * radius).clip(0, last).astype(np.int32) * (last + 1)
        index += (column + dx * radius).clip(0, last).astype(np.int32)
        total += depth.take(index) > limit
    return total * np.float32(1 / len(_TAPS))


# ---------------------------------------------------------------- shading


def ambient(lights: Lights, normals: np.ndarray) -> np.ndarray:
    """Light from all around, by where normals (3, N) point: sky from above, ground from below. (3, N)."""
    sky, ground = as_column(lights.sky_colour), as_column(lights.ground_colour)
    return (sky + ground) / 2 + (sky - ground) / 2 * normals[1]


def wrapped(cosine: np.ndarray, wrap: np.ndarray | float) -> np.ndarray:
    """Lambert's cosine (N,) that reaches around the edge by `wrap`, for light through skin."""
    return ((cosine + wrap) / (1 + wrap)).clip(0)


def blinn(normals: np.ndarray, view: np.ndarray, towards: np.ndarray, gloss: np.ndarray | float) -> np.ndarray:
    """Blinn-Phong's highlight, normalised so that a sharper one is a brighter one: (N,)."""
    cosine = np.maximum(dot(normals, unit(view + towards)), 1e-4)
    return np.exp(np.maximum(np.log(cosine) * gloss, -40)) * (gloss + 8) * 0.04


def strand_highlight(
    tangents: np.ndarray, view: np.ndarray, towards: np.ndarray, shift: np.ndarray, gloss: float
) -> np.ndarray:
    """Kajiya and Kay's highlight of a bundle of strands along tangents (3, N): (N,)."""
    along = (dot(tangents, unit(view + towards)) + shift).clip(-1, 1)
    return np.maximum(1 - along * along, 0.1) ** (gloss / 2)


def to_linear(colour: np.ndarray) -> np.ndarray:
    """Screen colours as linear light. Gamma is 2: near enough to sRGB, and square and root are fast."""
    return colour * colour


def tone_map(linear: np.ndarray, exposure: float = 1.0) -> np.ndarray:
    """Linear light -> picture values in [0, 1]: a film curve with a soft shoulder (Narkowicz 2015), gamma included."""
    x = linear * (0.62 * exposure)
    return np.sqrt((x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)).clip(0, 1))

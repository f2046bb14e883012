"""Where the camera stands: framings, cameras around a person, a camera on somebody's head; and the boxes of people.

Focal lengths are drawn in units of the picture's longer side: 1 is a field of view of 53 degrees, 2 one of 28.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.chapters.cameras import NEAREST_DEPTH, Camera
from course_lib.data.poses import INDEX, Capsules, body, segment_distances

LOWEST_EYE = 0.15  # metres over the floor


@dataclass(frozen=True)
class Framing:
    """How much of a person a picture shows. Angles in degrees, from the way that the person faces."""

    without: tuple[str, ...]  # joints whose skin need not be in the picture
    fill: tuple[float, float]  # share of the picture's height or width that the rest takes
    focal: tuple[float, float]
    azimuth: float  # standard deviation
    anywhere: float  # share of cameras at any azimuth
    elevation: tuple[float, float]  # mean and standard deviation


_LEGS = ("hip", "knee", "ankle", "foot")
FRAMINGS = {
    "full": Framing((), (0.6, 0.9), (0.85, 2.4), 65, 0.3, (8, 11)),
    "upper": Framing(_LEGS, (0.7, 0.98), (0.9, 2.4), 50, 0.15, (4, 10)),
    "face": Framing(("",), (0.42, 0.85), (1.1, 3.0), 32, 0.0, (2, 9)),
}


@lru_cache(maxsize=8)
def framed_vertices(framing: str) -> np.ndarray:
    """Ids of about 300 vertices of the body that a framing wants in the picture."""
    names = np.array([name.removeprefix("left_").removeprefix("right_") for name in JOINT_NAMES])
    if framing == "face":
        wanted = np.isin(names, ("head", "jaw", "eye_smplhf"))
    else:
        wanted = ~np.isin(names, FRAMINGS[framing].without)
    shown = np.unique(body().faces.numpy())
    ids = shown[wanted[body().weights.argmax(1).numpy()[shown]]]
    return ids[:: max(1, len(ids) // 300)]


def unit(azimuth: float, elevation: float) -> np.ndarray:
    """Direction of an azimuth (from +z towards +x) and elevation, radians -> (3,)."""
    return np.array([np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])


def camera_at(
    eye: np.ndarray, target: np.ndarray, focal: float, size: tuple[int, int], roll: float = 0.0, up=(0.0, 1.0, 0.0)
) -> Camera:
    """A camera at `eye` that looks at `target`, turned by `roll` radians about its axis; focal in pixels."""
    row = torch.tensor(np.stack([eye, target]), dtype=torch.float32)
    camera = Camera.look_at(row[:1], row[1:], up=up, focal=focal, size=size)
    turn = torch.tensor(Rotation.from_rotvec((0, 0, roll)).as_matrix(), dtype=torch.float32)[None]
    return Camera(camera.K, turn @ camera.R, (turn @ camera.t[..., None])[..., 0])


def project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points (N, 3) -> pixels (N, 2), as chapter 01's `camera_to_pixels`, and depth (N,) in metres."""
    K, R, t = (part[0].numpy() for part in (camera.K, camera.R, camera.t))
    x, y, z = R @ np.float32(points).T + t[:, None]
    depth = np.maximum(z, NEAREST_DEPTH)
    return (K[:2] @ np.stack([x / depth, y / depth, np.ones_like(depth)])).T, z


def pixels(camera: Camera, points: np.ndarray) -> np.ndarray:
    """World points (N, 3) -> pixels (N, 2)."""
    return project(camera, points)[0]


def fit(
    points: np.ndarray,
    direction: np.ndarray,
    focal: float,
    size: tuple[int, int],
    fill: float,
    shift: np.ndarray,
    roll: float = 0.0,
) -> Camera:
    """The camera in a direction (3,) from the points (N, 3) that they fill by `fill`, off the middle by `shift` (2,) of
    the room that is left. Found by moving it a few times; it stays over the floor and 0.25 m from the points."""
    target = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm(points - target, axis=1).max()
    distance, middle = 2 * radius * focal / (fill * max(size)), np.array([size[1], size[0]]) / 2
    nearest = radius + 0.25 if radius < 0.4 else 0.6 * radius + 0.4
    cloud = points.T.astype(float)
    for _ in range(6):
        distance = max(distance, nearest)
        eye = _eye(target, distance, direction)
        rows = _rows(target - eye, roll)
        x, y, z = rows @ (cloud - eye[:, None])
        scale = focal / np.maximum(z, 0.01)
        x, y = x * scale, y * scale  # pixels off the middle
        low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
        off = (low + high) / 2 - shift * np.abs(2 * middle - (high - low)) / 2
        step = min(0.8 * distance / focal, 0.5 * radius / (np.abs(off).max() + 1e-6))
        target = target + step * (off @ rows[:2])
        distance *= min(max(((high - low) / (2 * middle)).max() / fill, 0.7), 1.4)
    eye = _eye(target, max(distance, nearest), direction)
    rows, K = _rows(target - eye, roll), [[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]]
    return Camera(*(torch.from_numpy(np.float32(part))[None] for part in (K, rows, -rows @ eye)))


def _rows(forward: np.ndarray, roll: float) -> np.ndarray:
    """World -> camera rotation of `camera_at` with up = y, rows right, down, forward: (3, 3)."""
    length = math.hypot(*forward)
    x, y, z = (float(v) / length for v in forward)
    flat, c, s = math.hypot(x, z), math.cos(roll), math.sin(roll)
    right, down = np.array([[-z / flat, 0.0, x / flat], [x * y / flat, -flat, z * y / flat]])
    return np.stack([c * right - s * down, s * right + c * down, (x, y, z)])


def _eye(target: np.ndarray, distance: float, direction: np.ndarray) -> np.ndarray:
    eye = target + distance * direction
    return np.array([eye[0], max(eye[1], LOWEST_EYE), eye[2]])


def sample_roll(rng: np.random.Generator) -> float:
    """Radians: mostly a few degrees, now and then up to 25."""
    return float(np.deg2rad(rng.normal(0, 2.5) if rng.random() < 0.88 else rng.uniform(-25, 25)))


def sample_view(
    rng: np.random.Generator,
    points: np.ndarray,
    facing: tuple[float, float],
    framing: str,
    size: tuple[int, int],
    longest: float = 3.0,
) -> Camera:
    """A camera for a framing of points (N, 3), whoever they belong to `facing` an azimuth (from +z towards +x) and an
    elevation, radians; no focal length over `longest`."""
    if framing not in FRAMINGS:
        raise ValueError(f"{framing!r} is not a framing: use one of {', '.join(FRAMINGS)}")
    kind = FRAMINGS[framing]
    side = rng.uniform(-np.pi, np.pi) if rng.random() < kind.anywhere else np.deg2rad(rng.normal(0, kind.azimuth))
    elevation = facing[1] + np.deg2rad(rng.normal(*kind.elevation))
    focal = max(size) * np.exp(rng.uniform(np.log(kind.focal[0]), np.log(min(kind.focal[1], longest))))
    direction = unit(facing[0] + side, np.clip(elevation, np.deg2rad(-30), np.deg2rad(48)))
    return fit(points, direction, focal, size, rng.uniform(*kind.fill), rng.uniform(-0.6, 0.6, 2), sample_roll(rng))


def ring(
    rng: np.random.Generator, points: np.ndarray, views: int, size: tuple[int, int], fill: float = 0.85
) -> list[Camera]:
    """2 to 8 (or more) cameras evenly around the points (N, 3), all looking at their middle from one distance."""
    start, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(0, 18))
    focal = max(size) * rng.uniform(1.0, 1.8)
    centre = (points.min(0) + points.max(0)) / 2
    angles = start + 2 * np.pi * (np.arange(views) + rng.uniform(-0.1, 0.1, views)) / views
    heights = elevation + np.deg2rad(rng.normal(0, 3, views))
    distance = 2.2 * np.linalg.norm(points - centre, axis=1).max() * focal / (fill * max(size))
    for _ in range(3):
        cameras = [_ring_camera(centre, distance, a, e, focal, size) for a, e in zip(angles, heights, strict=True)]
        reach = np.concatenate([pixels(camera, points) for camera in cameras])
        share = (np.abs(reach - np.array([size[1], size[0]]) / 2) / (np.array([size[1], size[0]]) / 2)).max()
        distance *= share / fill
    return cameras


def _ring_camera(
    centre: np.ndarray, distance: float, azimuth: float, elevation: float, focal: float, size: tuple[int, int]
) -> Camera:
    return camera_at(_eye(centre, distance, unit(azimuth, elevation)), centre, focal, size)


def egocentric(rng: np.random.Generator, joints: np.ndarray, rotations: np.ndarray, size: tuple[int, int]) -> Camera:
    """A wide camera on somebody's forehead, as of smart glasses: it looks ahead and down, and sees the own hands.

    joints (55, 3) and world rotations (55, 3, 3) of the wearer.
    """
    head, eyes = rotations[INDEX["head"]], joints[[INDEX["left_eye_smplhf"], INDEX["right_eye_smplhf"]]].mean(0)
    eye = eyes + head @ np.array([0.0, 0.03, 0.085])
    down = np.deg2rad(rng.uniform(22, 50))
    forward = head @ np.array([0.0, -np.sin(down), np.cos(down)])
    focal = 0.5 * max(size) / np.tan(np.deg2rad(rng.uniform(90, 112)) / 2)
    return camera_at(eye, eye + forward, focal, size, up=tuple(head @ np.array([0.0, np.cos(down), np.sin(down)])))


def hidden_share(eye: np.ndarray, points: np.ndarray, others: list[Capsules]) -> float:
    """Share of the points (N, 3) that the capsules of other people hide from the eye (3,)."""
    hidden = np.zeros(len(points), bool)
    for capsules in others:
        gap = segment_distances(eye[None, None], points[:, None], capsules.start[None], capsules.end[None])
        hidden |= (gap < capsules.radius).any(1)
    return float(hidden.mean()) if len(points) else 0.0


def clearance(eye: np.ndarray, others: list[Capsules]) -> float:
    """Metres from the eye (3,) to the nearest limb."""
    gaps = [(segment_distances(eye[None], eye[None], c.start, c.end) - c.radius).min() for c in others]
    return float(min(gaps, default=np.inf))


def box_of(points: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom of pixels (N, 2): (4,) float32."""
    return np.concatenate([points.min(0), points.max(0)]).astype(np.float32)


def full_box(spots: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The box (4,) around the whole body, also where it is hidden or outside the picture; its surface is seen at pixels
    `spots` (N, 2) in depths z (N,)."""
    return box_of(spots[z > 0.05]) if (z > 0.05).any() else np.zeros(4, np.float32)


def seen_box(mask: np.ndarray) -> np.ndarray:
    """The box around the true pixels of a mask (H, W): their outer edges, (4,) float32; zeros if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)

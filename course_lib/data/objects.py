"""Solid things to stand in front of, behind and under people: boxes, balls, cylinders and the furniture made of them.

Every maker returns an `ObjectMesh` that stands on y = 0 around the origin; `ObjectMesh.placed` puts it into a scene.
"""

import colorsys
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ObjectMesh:
    """A mesh in the world: vertices (V, 3) metres, faces (F, 3) int64, colours (V, 3) RGB, normals (V, 3) unit; `held`
    where somebody has it in a hand."""

    vertices: Tensor
    faces: Tensor
    colours: Tensor
    normals: Tensor
    held: bool = False

    def placed(self, yaw: float, position: tuple[float, float, float]) -> "ObjectMesh":
        """The mesh turned by `yaw` radians about the vertical and moved to `position` metres."""
        c, s = float(np.cos(yaw)), float(np.sin(yaw))
        turn = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        vertices = self.vertices @ turn.T + torch.tensor(position, dtype=torch.float32)
        return dataclasses.replace(self, vertices=vertices, normals=self.normals @ turn.T)

    def radius(self) -> float:
        """Of the circle around the origin that it stands in, metres."""
        return float(self.vertices[:, [0, 2]].norm(dim=1).max())

    def height(self) -> float:
        """Of its top over the floor, metres."""
        return float(self.vertices[:, 1].max())


def join(*meshes: ObjectMesh) -> ObjectMesh:
    """Several meshes as one."""
    counts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    faces = torch.cat([mesh.faces + int(start) for mesh, start in zip(meshes, counts, strict=False)])
    return ObjectMesh(
        torch.cat([m.vertices for m in meshes]),
        faces,
        torch.cat([m.colours for m in meshes]),
        torch.cat([m.normals for m in meshes]),
    )


def _paint(count: int, colour: Colour) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32).expand(count, 3).clone()


def _mesh(vertices: np.ndarray, faces: np.ndarray, colour: Colour, normals: np.ndarray) -> ObjectMesh:
    """A mesh of one colour from arrays."""
    vertices, normals = (torch.from_numpy(np.float32(values)) for values in (vertices, normals))
    return ObjectMesh(vertices, torch.from_numpy(faces), _paint(len(vertices), colour), normals)


@lru_cache(maxsize=1)
def _cube() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (24, 3) at -1 and 1, normals (24, 3) and faces (12, 3) of a cube."""
    corners, normals, faces = [], [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u, v = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
            normal = sign * np.eye(3)[axis]
            start = len(corners)
            corners += [normal - sign * u - v, normal + sign * u - v, normal + sign * u + v, normal - sign * u + v]
            normals += [normal] * 4
            faces += [(start, start + 1, start + 2), (start, start + 2, start + 3)]
    return np.array(corners), np.array(normals), np.array(faces)


def box(
    size: tuple[float, float, float], centre: tuple[float, float, float], colour: Colour, rounded: float = 0.0
) -> ObjectMesh:
    """A box of width, height, depth `size`; 24 vertices so that its edges stay sharp."""
    corners, normals, faces = _cube()
    normals = normals + rounded * corners
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _mesh(corners * np.array(size) / 2 + np.array(centre), faces, colour, normals)


def _tube(rings: int, sides: int) -> np.ndarray:
    """Faces (F, 3) between rings of vertices."""
    a = np.arange((rings - 1) * sides).reshape(-1, sides)
    b = np.roll(a, -1, 1)
    return np.stack([a, a + sides, b, b, a + sides, b + sides], -1).reshape(-1, 3)


def lathe(
    profile: list[tuple[float, float]], colour: Colour, sides: int = 20, centre: tuple[float, float, float] = (0, 0, 0)
) -> ObjectMesh:
    """Turns a profile of (radius, height) points, from bottom to top, about the vertical."""
    points, angles = np.array(profile, dtype=float), np.linspace(0, 2 * np.pi, sides, endpoint=False)
    tangent = np.gradient(points, axis=0) if len(points) > 1 else points
    slope = np.stack([tangent[:, 1], -tangent[:, 0]], 1) / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9)
    cosine, sine, one = np.cos(angles), np.sin(angles), np.ones(sides)
    vertices, normals = (
        np.stack([rings[:, :1] * cosine, rings[:, 1:] * one, rings[:, :1] * sine], -1).reshape(-1, 3)
        for rings in (points, slope)
    )
    return _mesh(vertices + np.array(centre), _tube(len(points), sides), colour, normals)


def cylinder(
    radius: float, height: float, colour: Colour, base: Colour = (0, 0, 0), top: float | None = None, sides: int = 20
) -> ObjectMesh:
    """A closed cylinder, or a cone's trunk when `top` is another radius."""
    top = radius if top is None else top
    side = lathe([(radius, 0), (top, height)], colour, sides, base)
    lid = lathe([(top, height), (0, height)], colour, sides, base)
    foot = lathe([(0, 0), (radius, 0)], colour, sides, base)
    return join(side, lid, foot)


def ball(
    radius: float,
    colour: Colour,
    second: Colour | None = None,
    centre: tuple[float, float, float] | None = None,
    sides: int = 24,
) -> ObjectMesh:
    """A ball lying on the floor (or around `centre`), with stripes of a second colour if one is given."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 13)
    centre = (0.0, radius, 0.0) if centre is None else centre
    mesh = lathe([(radius * np.cos(a), radius * np.sin(a)) for a in angles], colour, sides, centre)
    normals = torch.nn.functional.normalize(mesh.vertices - torch.tensor(centre, dtype=torch.float32), dim=-1)
    colours = mesh.colours.clone()
    if second is not None:
        wedge = (torch.arange(len(colours)) % sides) // (sides // 6) % 2 == 1
        colours[wedge] = torch.tensor(second, dtype=torch.float32)
    return ObjectMesh(mesh.vertices, mesh.faces, colours, normals)


def rod(
    start: tuple[float, float, float], end: tuple[float, float, float], radius: float, colour: Colour, sides: int = 8
) -> ObjectMesh:
    """A straight rod between two points."""
    a, b = np.array(start, dtype=float), np.array(end, dtype=float)
    mesh = lathe([(radius, 0), (radius, float(np.linalg.norm(b - a)))], colour, sides)
    up = (b - a) / np.linalg.norm(b - a)
    side = np.cross(up, (1.0, 0, 0) if abs(up[0]) < 0.9 else (0, 1.0, 0))
    side /= np.linalg.norm(side)
    turn = torch.tensor(np.stack([side, up, np.cross(side, up)], 1)).float()
    return ObjectMesh(mesh.vertices @ turn.T + torch.tensor(a).float(), mesh.faces, mesh.colours, mesh.normals @ turn.T)


def vivid(rng: np.random.Generator) -> Colour:
    """A random paint."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.35, 0.85), rng.uniform(0.45, 0.9))


def wood(rng: np.random.Generator) -> Colour:
    """A random wood."""
    return colorsys.hsv_to_rgb(rng.uniform(0.06, 0.11), rng.uniform(0.3, 0.65), rng.uniform(0.3, 0.75))


def grey(rng: np.random.Generator) -> Colour:
    """A random metal, plastic or stone."""
    value = rng.uniform(0.12, 0.85)
    return (value, value * rng.uniform(0.96, 1.0), value * rng.uniform(0.92, 1.02))


def any_colour(rng: np.random.Generator) -> Colour:
    """Paint, wood or grey."""
    return (vivid, wood, grey)[rng.integers(3)](rng)


def crate(rng: np.random.Generator) -> ObjectMesh:
    """A wooden crate of slats."""
    size, colour = rng.uniform(0.35, 0.6), wood(rng)
    dark = tuple(0.6 * c for c in colour)
    slats = [box((size, size * 0.17, size), (0, size * y, 0), colour) for y in (0.09, 0.3, 0.5, 0.7, 0.91)]
    return join(box((size * 0.94, size * 0.98, size * 0.94), (0, size / 2, 0), dark), *slats)


def carton(rng: np.random.Generator) -> ObjectMesh:
    """One or two boxes on top of each other."""
    w, h, d = rng.uniform(0.25, 0.6, 3)
    lower = box((w, h, d), (0, h / 2, 0), any_colour(rng))
    if rng.random() < 0.6:
        return lower
    w2, h2, d2 = 0.8 * w, rng.uniform(0.15, 0.35), 0.8 * d
    return join(lower, box((w2, h2, d2), (0, h + h2 / 2, 0), any_colour(rng)))


def toy_ball(rng: np.random.Generator) -> ObjectMesh:
    """A ball of 10 to 38 cm radius."""
    return ball(rng.choice((0.11, 0.12, 0.2, 0.38)), vivid(rng), vivid(rng) if rng.random() < 0.6 else None)


def _legs(width: float, depth: float, height: float, thickness: float, colour: Colour) -> list[ObjectMesh]:
    corners = [(x * (width - thickness) / 2, z * (depth - thickness) / 2) for x in (-1, 1) for z in (-1, 1)]
    return [box((thickness, height, thickness), (x, height / 2, z), colour) for x, z in corners]


def stool(rng: np.random.Generator, height: float = 0.46) -> ObjectMesh:
    """Something to sit on, its top at `height`: a stool, a cube or a drum."""
    colour, kind = any_colour(rng), rng.integers(3)
    if kind == 0:
        return cylinder(rng.uniform(0.19, 0.25), height, colour, sides=24)
    if kind == 1:
        return box((0.42, height, 0.42), (0, height / 2, 0), colour)
    return join(
        box((0.4, 0.05, 0.4), (0, height - 0.025, 0), colour), *_legs(0.38, 0.38, height - 0.05, 0.04, wood(rng))
    )


def chair(rng: np.random.Generator, height: float = 0.46) -> ObjectMesh:
    """A chair that faces +z, its seat at `height`."""
    seat, frame, back = any_colour(rng), any_colour(rng), rng.uniform(0.35, 0.55)
    parts = [box((0.44, 0.05, 0.44), (0, height - 0.025, 0), seat), *_legs(0.42, 0.42, height - 0.05, 0.035, frame)]
    parts += [box((0.035, back, 0.035), (x, height + back / 2, -0.2), frame) for x in (-0.19, 0.19)]
    rails = rng.integers(1, 4)
    parts += [
        box((0.42, 0.45 * back / rails, 0.03), (0, height + back * (0.4 + 0.55 * (k + 0.5) / rails), -0.2), seat)
        for k in range(rails)
    ]
    return join(*parts)


def table(rng: np.random.Generator) -> ObjectMesh:
    """A table, rectangular or round."""
    height, colour = rng.uniform(0.45, 0.78), any_colour(rng)
    if rng.random() < 0.35:
        top = cylinder(rng.uniform(0.3, 0.55), 0.04, colour, (0, height - 0.04, 0), sides=28)
        return join(top, cylinder(0.04, height, grey(rng)), cylinder(0.22, 0.03, grey(rng)))
    width, depth = rng.uniform(0.7, 1.4), rng.uniform(0.5, 0.8)
    return join(
        box((width, 0.04, depth), (0, height - 0.02, 0), colour), *_legs(width, depth, height, 0.05, any_colour(rng))
    )


def shelf(rng: np.random.Generator) -> ObjectMesh:
    """An open shelf with books in it, facing +z."""
    width, height, depth, colour = rng.uniform(0.6, 1.2), rng.uniform(0.9, 2.0), 0.3, any_colour(rng)
    floors = max(2, int(height / 0.38))
    parts = [box((0.03, height, depth), (x * width / 2, height / 2, 0), colour) for x in (-1, 1)]
    parts += [box((width, height, 0.02), (0, height / 2, -depth / 2), tuple(0.7 * c for c in colour))]
    parts += [box((width, 0.03, depth), (0, height * k / floors + 0.015, 0), colour) for k in range(floors + 1)]
    for k in range(floors):
        x = -width / 2 + 0.06
        while x < width / 2 - 0.1 and rng.random() < 0.93:
            thick, tall = rng.uniform(0.02, 0.07), rng.uniform(0.5, 0.85) * height / floors
            parts.append(box((thick, tall, 0.2), (x + thick / 2, height * k / floors + 0.03 + tall / 2, 0), vivid(rng)))
            x += thick + 0.004
    return join(*parts)


def lamp(rng: np.random.Generator) -> ObjectMesh:
    """A floor lamp."""
    height, colour = rng.uniform(1.3, 1.75), grey(rng)
    shade = lathe([(0.2, height - 0.28), (0.12, height)], (0.98, 0.93, rng.uniform(0.6, 0.85)), 24)
    return join(cylinder(0.14, 0.03, colour), rod((0, 0, 0), (0, height - 0.1, 0), 0.015, colour), shade)


def plant(rng: np.random.Generator) -> ObjectMesh:
    """A potted plant: bent leaves around a stem."""
    pot = join(cylinder(0.13, 0.3, any_colour(rng), top=0.18), cylinder(0.165, 0.01, (0.2, 0.14, 0.1), (0, 0.295, 0)))
    hue, height, leaves = rng.uniform(0.22, 0.4), rng.uniform(0.5, 1.2), rng.integers(9, 20)
    shades = np.stack(
        [hue + rng.normal(0, 0.02, leaves), rng.uniform(0.45, 0.85, leaves), rng.uniform(0.25, 0.65, leaves)], 1
    )
    return join(pot, *[_leaf(rng, height, colorsys.hsv_to_rgb(*shade)) for shade in shades])


def _leaf(rng: np.random.Generator, height: float, colour: Colour) -> ObjectMesh:
    """One leaf: a strip that leaves the pot at a random azimuth, rises and bends over, wide in its middle."""
    azimuth, spread, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5), height * rng.uniform(0.5, 1.0)
    t = np.linspace(0, 1, 6)
    out, up = spread * t**1.5, 0.28 + rise * (t - 0.35 * t**3)
    width = rng.uniform(0.04, 0.09) * np.sin(np.pi * np.clip(t + 0.05, 0, 1)) + 0.004
    along, across = np.array([np.cos(azimuth), np.sin(azimuth)]), np.array([-np.sin(azimuth), np.cos(azimuth)])
    edges = [
        np.stack([out * along[0] + s * width * across[0], up, out * along[1] + s * width * across[1]], 1)
        for s in (-1, 1)
    ]
    vertices = np.concatenate(edges)  # (12, 3)
    faces = [f for k in range(5) for f in ((k, k + 1, k + 6), (k + 6, k + 1, k + 7))]
    normal = np.stack([-along[0] * 0.5 * t, np.ones(6), -along[1] * 0.5 * t], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    shade = torch.tensor(0.65 + 0.5 * np.concatenate([t, t])).float()[:, None]
    colours = (_paint(12, colour) * shade).clamp(0, 1)
    return ObjectMesh(
        torch.tensor(vertices).float(),
        torch.tensor(faces),
        colours,
        torch.tensor(np.concatenate([normal, normal])).float(),
    )


def column(rng: np.random.Generator) -> ObjectMesh:
    """A post or a column, higher than a person."""
    return cylinder(rng.uniform(0.05, 0.2), rng.uniform(1.1, 2.6), any_colour(rng), sides=28)


def suitcase(rng: np.random.Generator) -> ObjectMesh:
    """A suitcase with its handle out."""
    colour, height = vivid(rng), rng.uniform(0.45, 0.7)
    bars = [rod((x, height, 0), (x, height + 0.3, 0), 0.01, (0.3, 0.3, 0.3)) for x in (-0.08, 0.08)]
    grip = rod((-0.08, height + 0.3, 0), (0.08, height + 0.3, 0), 0.014, (0.1, 0.1, 0.1))
    return join(box((0.42, height, 0.24), (0, height / 2 + 0.04, 0), colour, 0.15), *bars, grip)


def sofa(rng: np.random.Generator) -> ObjectMesh:
    """A sofa that faces +z."""
    colour, width = any_colour(rng), rng.uniform(1.1, 1.8)
    lighter = tuple(min(1.0, 1.15 * c) for c in colour)
    parts = [box((width, 0.3, 0.75), (0, 0.2, 0), colour, 0.1), box((width, 0.45, 0.2), (0, 0.55, -0.28), colour, 0.1)]
    parts += [box((0.18, 0.55, 0.75), (x * (width / 2 - 0.09), 0.3, 0), colour, 0.1) for x in (-1, 1)]
    seats = 2 if width < 1.5 else 3
    step = (width - 0.36) / seats
    parts += [
        box((step * 0.97, 0.12, 0.55), (-width / 2 + 0.18 + step * (k + 0.5), 0.4, 0.08), lighter, 0.25)
        for k in range(seats)
    ]
    return join(*parts)


def bench(rng: np.random.Generator) -> ObjectMesh:
    """A park bench of slats, facing +z."""
    colour, width = wood(rng), rng.uniform(1.0, 1.6)
    parts = [box((width, 0.03, 0.1), (0, 0.44, z), colour) for z in (-0.17, -0.05, 0.07, 0.19)]
    parts += [box((width, 0.1, 0.03), (0, y, -0.24), colour) for y in (0.6, 0.76)]
    parts += [box((0.05, 0.44, 0.4), (x * width * 0.42, 0.22, 0), (0.2, 0.2, 0.22)) for x in (-1, 1)]
    return join(*parts)


def sign(rng: np.random.Generator) -> ObjectMesh:
    """A post with a round or square sign."""
    height, colour = rng.uniform(1.4, 2.2), vivid(rng)
    post = rod((0, 0, 0), (0, height, 0), 0.03, (0.5, 0.5, 0.52))
    plate = box((0.45, 0.45, 0.02), (0, height - 0.1, 0.04), colour)
    stripe = box((0.36, 0.09, 0.012), (0, height - 0.1, 0.055), (0.95, 0.95, 0.95))
    return join(post, plate, stripe)


def cone(rng: np.random.Generator) -> ObjectMesh:
    """A traffic cone."""
    orange, white = (0.95, 0.4, 0.08), (0.95, 0.95, 0.93)
    rings = [
        lathe([(0.14 - 0.026 * k, 0.04 + 0.13 * k), (0.114 - 0.026 * k, 0.17 + 0.13 * k)], (orange, white)[k % 2])
        for k in range(4)
    ]
    return join(box((0.36, 0.04, 0.36), (0, 0.02, 0), orange), *rings)


INDOOR: dict[str, Callable[[np.random.Generator], ObjectMesh]] = {
    "chair": chair, "table": table, "shelf": shelf, "lamp": lamp, "plant": plant, "crate": crate, "carton": carton,
    "ball": toy_ball, "stool": stool, "sofa": sofa, "suitcase": suitcase,
}  # fmt: skip
OUTDOOR: dict[str, Callable[[np.random.Generator], ObjectMesh]] = {
    "bench": bench, "sign": sign, "cone": cone, "crate": crate, "ball": toy_ball, "column": column, "carton": carton,
    "plant": plant, "suitcase": suitcase,
}  # fmt: skip


def sample_object(rng: np.random.Generator, outdoors: bool = False, low: bool = False) -> ObjectMesh:
    """One thing that fits the place, standing at the origin; `low` leaves out what would hide a person."""
    makers = OUTDOOR if outdoors else INDOOR
    for _ in range(10):
        mesh = makers[str(rng.choice(list(makers)))](rng)
        if not low or mesh.height() < 0.8:
            break
    return mesh

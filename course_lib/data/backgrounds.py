"""Places to stand in: rooms, open ground under a sky, a studio sweep. Drawn by casting one ray per pixel, no meshes.

`background.render(camera, size)` returns colour (H, W, 3) RGB in [0, 1] as painted, not lit, camera depth (H, W) in
metres and the world normal (H, W, 3). Where the depth is infinite there is only sky: its colour is final,
its normal zero. The floor is y = 0. The same background looks the same from every camera.
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.data.vectors import as_column, unit

KINDS = ("room", "outdoors", "studio")
NOISE_SIZE = 512
Colour = tuple[float, float, float]


class Background(Protocol):
    """Anything that a camera can see behind people."""

    def render(self, camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Colour (H, W, 3) as on a screen, camera depth (H, W) in metres (inf: sky) and world normal (H, W, 3)."""
        ...


@lru_cache(maxsize=1)
def noise_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tileable noise in [0, 1], (512 * 512,) each: soft clouds (1/f^1.6 spectrum), grain (1/f^0.8), white noise."""
    rng = np.random.default_rng(20240607)
    frequency = (
        np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_SIZE), np.fft.rfftfreq(NOISE_SIZE), indexing="ij")) * NOISE_SIZE
    )
    tables = []
    for slope in (1.6, 0.8):
        spectrum = np.fft.rfft2(rng.normal(size=(NOISE_SIZE, NOISE_SIZE))) / np.maximum(frequency, 2) ** slope
        values = np.fft.irfft2(spectrum)
        tables.append(np.clip(0.5 + 0.2 * (values - values.mean()) / values.std(), 0, 1))
    tables.append(rng.random((NOISE_SIZE, NOISE_SIZE)))
    return tuple(table.astype(np.float32).ravel() for table in tables)


def noise(u: np.ndarray, v: np.ndarray, period: float, kind: int = 0, smooth: bool = False) -> np.ndarray:
    """Noise in [0, 1] that repeats every `period` metres at u, v (N,) metres -> (N,); kind 0 soft, 1 grain, 2 white."""
    table, scale = noise_tables()[kind], NOISE_SIZE / period
    x, y = u * scale, v * scale
    i, j = np.floor(x), np.floor(y)
    a, b = i.astype(np.int32) & 511, j.astype(np.int32) & 511  # right for negative numbers as well
    if not smooth:
        return table.take((b << 9) + a)
    fx, fy, a1, b1 = x - i, y - j, (a + 1) & 511, (b + 1) & 511
    p, q, r, s = (table.take((row << 9) + column) for row in (b, b1) for column in (a, a1))
    above, below = p + fx * (q - p), r + fx * (s - r)
    return above + fy * (below - above)


def cell_noise(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """One random number in [0, 1] for each integer cell (i, j)."""
    place = (j.astype(np.int32) & 511) * 181 + (i.astype(np.int32) & 511) * 57
    return noise_tables()[2].take(place & 0x3FFFF)


def odd(i: np.ndarray) -> np.ndarray:
    """1 for odd integers, 0 for even ones."""
    return i - 2 * np.floor(i / 2)


@dataclass(frozen=True)
class Surface:
    """A painted surface: a pattern's name, its two colours (RGB), its scale in metres and an offset of its own."""

    pattern: str
    first: Colour
    second: Colour
    scale: float
    shift: float = 0.0

    def colour(self, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
        """Colours (3, N) at u, v (N,) metres; blur (N,) metres is the size of a pixel there: smaller detail fades."""
        amount, brightness = PATTERNS[self.pattern](u + self.shift, v + 1.7 * self.shift, self.scale, blur)
        first, second = as_column(self.first), as_column(self.second)
        return ((first + amount * (second - first)) * brightness).clip(0, 1)


def _fade(blur: np.ndarray, detail: float) -> np.ndarray:
    """1 where a pixel is much smaller than the detail, 0 where it is larger: what a camera's own blur would leave."""
    return 1 / (1 + (1.5 * blur / detail) ** 2)


def _line(x: np.ndarray, width: float, blur: np.ndarray) -> np.ndarray:
    """1 on lines of a width at the integers of x (both in cells), else 0, softened by the blur."""
    distance = np.abs((x + 0.5) - np.floor(x + 0.5) - 0.5)
    soft = blur + 1e-4
    return ((width / 2 - distance) / soft + 0.5).clip(0, 1) * (width / (width + soft))


def _plaster(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cloud = noise(u, v, 3.0, smooth=True)
    return (cloud - 0.3).clip(0, 1) * 0.5, 1 + 0.10 * (noise(u, v, 0.9, 1) - 0.5) * _fade(blur, 0.01)


def _wood(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = np.floor(u / scale)
    along = v + cell_noise(row, row + 7) * 4
    plank = np.floor(along / (9 * scale))
    grain = noise(u * 9 + cell_noise(row, plank) * 5, along, 4.0, 0)
    gap = np.maximum(_line(u / scale, 0.035, blur / scale), _line(along / (9 * scale), 0.006, blur / (9 * scale)))
    tone = 0.35 * cell_noise(plank, row) + 0.5 * grain
    return tone, (0.85 + 0.3 * cell_noise(row, plank + 3)) * (1 - 0.6 * gap)


def _tiles(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grout = np.maximum(_line(u / scale, 0.03, blur / scale), _line(v / scale, 0.03, blur / scale))
    tone = 0.12 * cell_noise(np.floor(u / scale), np.floor(v / scale)) + 0.12 * noise(u, v, 2.0)
    return np.maximum(tone, grout), 1 - 0.15 * grout


def _checkers(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.floor(u / scale), np.floor(v / scale)
    sharp = _fade(blur, scale)
    dark = (odd(i + j) - 0.5) * sharp + 0.5
    return dark, 0.92 + 0.12 * cell_noise(i, j) * sharp


def _carpet(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pile = (noise(u, v, 1.5, 2) - 0.5) * _fade(blur, 0.004)
    figure = np.sin(u * (6.28 / scale)) * np.sin(v * (6.28 / scale))
    return ((figure - 0.25) * 4).clip(0, 1) * 0.6, 1 + 0.35 * pile + 0.15 * (noise(u, v, 2.5) - 0.5)


def _brick(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = np.floor(v / (0.32 * scale))
    along = u / scale + 0.5 * odd(row)
    mortar = np.maximum(_line(v / (0.32 * scale), 0.14, blur / (0.32 * scale)), _line(along, 0.045, blur / scale))
    brick = cell_noise(np.floor(along), row)
    return mortar, (0.72 + 0.4 * brick + 0.25 * (noise(u, v, 0.8, 1) - 0.5)) * (1 - mortar) + mortar * 0.95


def _stripes(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wave = np.sin(u * (6.2832 / scale)) * _fade(blur, 0.5 * scale)
    return (wave * 6).clip(-1, 1) * 0.5 + 0.5, 1 + 0.06 * (noise(u, v, 1.5) - 0.5)


def _figures(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wallpaper: rows of rosettes, every second row shifted by half."""
    row = np.floor(v / scale)
    x = u / scale + 0.5 * odd(row)
    x, y = x - np.floor(x) - 0.5, v / scale - row - 0.5
    angle, radius = np.arctan2(y, x), np.sqrt(x * x + y * y)
    petal = 0.26 + 0.1 * np.cos(5 * angle)
    sharp = _fade(blur, 0.5 * scale)
    return ((petal - radius) * 14).clip(0, 1) * sharp + 0.25 * (1 - sharp), 1 + 0.05 * (noise(u, v, 1.5) - 0.5)


def _panels(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groove = _line(u / scale, 0.05, blur / scale)
    grain = noise(u * 6 + cell_noise(np.floor(u / scale), row := np.floor(u / scale)) * 3, v, 4.0)
    return 0.5 * grain + 0.2 * cell_noise(row, row), 1 - 0.45 * groove


def _grass(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blades = (noise(u, v, 0.9, 2) - 0.5) * _fade(blur, 0.003) + (noise(u, v, 3.1, 1) - 0.5) * _fade(blur, 0.02)
    patches = noise(u, v, 9.0 * scale, smooth=True)
    return (1.6 * (patches - 0.25)).clip(0, 1), 0.9 + 0.55 * blades + 0.5 * (noise(u, v, 23.0) - 0.5)


def _ground(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Asphalt, sand, earth, concrete: speckles and stains."""
    speckle = (noise(u, v, 1.1, 2) - 0.5) * _fade(blur, 0.003)
    return (1.5 * (noise(u, v, 7.0 * scale, smooth=True) - 0.3)).clip(0, 1), 1 + 0.3 * speckle + 0.3 * (
        noise(u, v, 2.3, 1) - 0.5
    )


def _paving(u: np.ndarray, v: np.ndarray, scale: float, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = np.floor(v / scale)
    along = u / (1.5 * scale) + 0.37 * row
    joint = np.maximum(_line(v / scale, 0.035, blur / scale), _line(along, 0.025, blur / scale))
    slab = cell_noise(np.floor(along), row)
    return 0.6 * slab, (1 + 0.25 * (noise(u, v, 2.0, 1) - 0.5)) * (1 - 0.5 * joint)


PATTERNS = {
    "plaster": _plaster, "wood": _wood, "tiles": _tiles, "checkers": _checkers, "carpet": _carpet, "brick": _brick,
    "stripes": _stripes, "figures": _figures, "panels": _panels, "grass": _grass, "ground": _ground, "paving": _paving,
}  # fmt: skip


def rays(camera: Camera, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The camera's centre (3, 1) and the world direction (3, H W) of every pixel, scaled to camera depth 1."""
    fx, fy, cx, cy = (float(camera.K[0, i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    y, x = (np.arange(n, dtype=np.float32) + 0.5 for n in size)
    right, down, forward = camera.R[0].numpy()[..., None, None]
    directions = (x - cx) / fx * right + ((y - cy) / fy)[:, None] * down + forward
    return camera.center[0].numpy()[:, None], directions.reshape(3, -1)


def _parting(direction: np.ndarray) -> np.ndarray:
    """The direction without zeros, so that one may divide by it."""
    return np.where(np.abs(direction) < 1e-6, np.float32(1e-6), direction)


def _pictures(
    size: tuple[int, int], colour: np.ndarray, depth: np.ndarray, normal: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (3, N), depth (N,) and normals (3, N) of all pixels as pictures (H, W, 3), (H, W), (H, W, 3)."""
    colour, normal = (torch.from_numpy(values.reshape(3, *size)).permute(1, 2, 0) for values in (colour, normal))
    return colour, torch.from_numpy(depth.reshape(size)), normal


@dataclass(frozen=True)
class Panel:
    """A rectangle on a wall: which wall (0 -x, 1 +x, 2 -z, 3 +z), along it from `left` to `right`, `bottom` to `top`
    (metres); a `frame` of a colour around a `surface`. A window glows: its colour is the light outside."""

    wall: int
    left: float
    right: float
    bottom: float
    top: float
    frame: Colour
    surface: Surface


@dataclass(frozen=True)
class Room:
    """A rectangular room: x and z from `low` to `high`, `height` metres high, turned by `yaw` radians."""

    low: tuple[float, float]
    high: tuple[float, float]
    height: float
    yaw: float
    floor: Surface
    walls: tuple[Surface, Surface, Surface, Surface]
    ceiling: Surface
    skirting: Colour
    panels: tuple[Panel, ...] = ()

    def _turn(self) -> Tensor:
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])

    def render(self, camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Where each ray leaves the box of the room: the nearest of three planes that it runs towards."""
        turn = self._turn().numpy()
        origin, direction = rays(camera, size)
        origin, direction = turn.T @ origin, _parting(turn.T @ direction)  # (3, N) in the room's own axes
        low, high = as_column((self.low[0], 0.0, self.low[1])), as_column((self.high[0], self.height, self.high[1]))
        x, y, z = np.maximum((np.where(direction > 0, high, low) - origin) / direction, 0.05)  # distances
        depth = np.minimum(np.minimum(x, y), z)
        axis = np.where(depth == x, 0, np.where(depth == y, 1, 2)).astype(np.int8)
        ahead = np.where(axis == 0, direction[0], np.where(axis == 1, direction[1], direction[2]))
        side = axis * 2 + (ahead > 0)  # 0 -x, 1 +x, 2 floor, 3 ceiling, 4 -z, 5 +z
        blur = depth / float(camera.K[0, 0, 0]) / np.minimum(np.abs(ahead) + 0.05, 1)
        inwards = np.stack([turn, -turn], 2).reshape(3, 6)
        return _pictures(size, self._paint(side, origin + depth * direction, blur), depth, inwards.take(side, 1))

    def _paint(self, side: np.ndarray, point: np.ndarray, blur: np.ndarray) -> np.ndarray:
        """Colours (3, N) of points on the sides of the room."""
        colour = np.empty_like(point)
        surfaces = (self.walls[0], self.walls[1], self.floor, self.ceiling, self.walls[2], self.walls[3])
        for index, surface in enumerate(surfaces):
            ids = np.flatnonzero(side == index)
            if not len(ids):
                continue
            (x, y, z), b = point.take(ids, 1), blur[ids]
            if index in (2, 3):
                colour[:, ids] = surface.colour(x, z, b)
            else:
                colour[:, ids] = self._wall(index if index < 2 else index - 2, surface, z if index < 2 else x, y, b)
        return colour

    def _wall(self, wall: int, surface: Surface, along: np.ndarray, y: np.ndarray, blur: np.ndarray) -> np.ndarray:
        """One wall with its skirting board, windows and pictures."""
        colour = np.where(y < 0.1, as_column(self.skirting), surface.colour(along, y, blur))
        colour *= 0.55 + 0.45 * np.sqrt((4 * y).clip(0, 1))  # corners get less light
        for panel in self.panels:
            if panel.wall == wall:
                self._hang(panel, colour, along, y, blur)
        return colour

    def _hang(self, panel: Panel, colour: np.ndarray, along: np.ndarray, y: np.ndarray, blur: np.ndarray) -> None:
        """Paints a picture or window over the wall's colours, in place."""
        margin = np.minimum(
            np.minimum(along - panel.left, panel.right - along), np.minimum(y - panel.bottom, panel.top - y)
        )
        near = np.flatnonzero(margin > -0.05)
        if not len(near):
            return
        shaded = 0.85 * colour.take(near, 1)  # a soft shadow around the frame
        colour[:, near] = np.where(margin[near] > 0, as_column(panel.frame), shaded)
        ids = np.flatnonzero(margin > 0.06)
        colour[:, ids] = panel.surface.colour(along[ids] - panel.left, y[ids] - panel.bottom, blur[ids])


@dataclass(frozen=True)
class Silhouette:
    """What stands at the horizon, `distance` metres away: hills, trees or buildings, up to `height` metres."""

    kind: str
    distance: float
    height: float
    colour: Colour
    shift: float

    @property
    def around(self) -> float:
        """Length of the horizon that it stands on, metres."""
        return 2 * np.pi * self.distance


@dataclass(frozen=True)
class Outdoors:
    """Open ground under a sky with clouds and a sun; silhouettes from far to near."""

    ground: Surface
    zenith: Colour
    horizon: Colour
    clouds: float
    sun: tuple[float, float, float]
    silhouettes: tuple[Silhouette, ...]
    shift: float

    def render(self, camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Ground below the horizon, silhouettes around, sky above."""
        origin, direction = rays(camera, size)
        direction = _parting(direction)
        towards, below = unit(direction), direction[1] < -1e-3
        colour, depth = np.empty_like(towards), np.full(towards.shape[1], np.inf, np.float32)
        normal = np.zeros_like(towards)
        up, down = np.flatnonzero(~below), np.flatnonzero(below)
        colour[:, up] = self._sky(towards.take(up, 1))
        ahead = direction.take(down, 1)
        depth[down] = floor = -origin[1] / ahead[1]
        colour[:, down] = self._floor(origin, ahead, floor, float(camera.K[0, 0, 0]))
        normal[1] = below
        for silhouette in self.silhouettes:
            self._stand(silhouette, origin, direction, towards, colour, depth, normal)
        return _pictures(size, colour, depth, normal)

    def _sky(self, towards: np.ndarray) -> np.ndarray:
        """Colours (3, N) of the sky in the unit directions."""
        height, horizon = towards[1].clip(0, 1), as_column(self.horizon)
        sky = horizon + np.sqrt(height) * (as_column(self.zenith) - horizon)
        glow = (np.float32(self.sun) @ towards).clip(0, 1)
        halo = 0.25 * ((glow**2) ** 2) ** 2 + 0.6 * np.maximum(glow, 0.82) ** 400  # 1e-35 and more: fast numbers
        sky += halo * as_column((1.0, 0.9, 0.7))
        x, z = towards[::2] / (height + 0.12)  # clouds on a flat layer, closer together towards the horizon
        cloud = noise(x + self.shift, z, 6.0, smooth=True) + 0.35 * (noise(x, z + self.shift, 1.7, smooth=True) - 0.5)
        cover = 0.9 * ((cloud - 1 + self.clouds) * 3).clip(0, 1) * (height * 6).clip(0, 1)
        return (sky + cover * (as_column((0.96, 0.96, 0.97)) * (0.8 + 0.2 * height) - sky)).clip(0, 1)

    def _floor(self, origin: np.ndarray, direction: np.ndarray, depth: np.ndarray, focal: float) -> np.ndarray:
        """The ground's colours; far away it takes on the colour of the horizon."""
        x, z = origin[0] + depth * direction[0], origin[2] + depth * direction[2]
        blur = depth / focal / (np.abs(direction[1]) + 0.02)
        ground = self.ground.colour(x, z, np.minimum(blur, 10))
        haze = (1 - np.exp(np.maximum(-depth / 90, -40))) * 0.8
        return ground + haze * (as_column(self.horizon) - ground)

    def _stand(
        self,
        what: Silhouette,
        origin: np.ndarray,
        direction: np.ndarray,
        towards: np.ndarray,
        colour: np.ndarray,
        depth: np.ndarray,
        normal: np.ndarray,
    ) -> None:
        """Paints a silhouette over colour (3, N), depth (N,), normal (3, N) in place, on a cylinder around the camera.

        direction (3, N) are the rays at camera depth 1, `towards` the same at unit length."""
        distance = what.distance / np.hypot(direction[0], direction[2])  # camera depth of the cylinder
        y = origin[1] + distance * direction[1]
        ids = np.flatnonzero((y > -0.05) & (y < what.height * 1.3) & (distance < depth))
        if not len(ids):
            return
        turn = np.arctan2(direction[0, ids], direction[2, ids]) / (2 * np.pi) + 0.5
        paint, top = _SILHOUETTES[what.kind](turn, y[ids], what)
        seen = y[ids] < top
        ids, paint = ids[seen], paint[:, seen]
        colour[:, ids] = paint + min(0.75, what.distance / 260) * (as_column(self.horizon) - paint)
        depth[ids] = distance[ids]
        normal[:, ids] = np.stack([-towards[0, ids] * 0.6, np.full(len(ids), 0.8), -towards[2, ids] * 0.6])


def _hills(turn: np.ndarray, y: np.ndarray, what: Silhouette) -> tuple[np.ndarray, np.ndarray]:
    """A ridge. `turn` goes from 0 to 1 around the horizon, and what is drawn meets itself there."""
    ridge = noise(2 * turn, np.full_like(turn, what.shift), 1.0, smooth=True)
    paint = as_column(what.colour) * (0.8 + 0.4 * noise(30 * turn, y / 40, 1.0, 1))
    return paint.clip(0, 1), what.height * (0.25 + 0.75 * ridge)


def _trees(turn: np.ndarray, y: np.ndarray, what: Silhouette) -> tuple[np.ndarray, np.ndarray]:
    """Crowns on trunks; a hedge where they stand close."""
    place = turn * round(what.around / (0.75 * what.height))
    cell = np.floor(place)
    grown = 0.65 + 0.35 * cell_noise(cell, cell + 5)
    x = (place - cell - 0.5) * 2
    leaves = noise(place + what.shift, y / (0.75 * what.height), 1.2, 1)
    radius = np.hypot(x, (y / (what.height * grown) - 0.6) / 0.42)
    crown = radius < 0.72 + 0.75 * (leaves - 0.4)
    trunk = (np.abs(x) < 0.07) & (y < 0.4 * what.height)
    light = (0.55 + 0.75 * (leaves - 0.2) + 0.25 * (y / what.height)) * (0.8 + 0.4 * cell_noise(cell, cell))
    paint = np.where(crown, as_column(what.colour) * light, as_column((0.27, 0.2, 0.15)))
    return paint.clip(0, 1), np.where(crown | trunk, np.inf, -1.0)


def _houses(turn: np.ndarray, y: np.ndarray, what: Silhouette) -> tuple[np.ndarray, np.ndarray]:
    """A row of fronts with windows; every front has a height and a tint of its own."""
    place = turn * round(what.around / 9)
    cell = np.floor(place) + round(what.shift)
    top = what.height * (0.45 + 0.55 * cell_noise(cell, cell + 3))
    tint = np.stack([cell_noise(cell + k, cell) for k in (1, 2, 3)])
    front = as_column(what.colour) * (0.75 + 0.5 * tint)
    x, floor = 6 * place, y / 3.0
    column, row = np.floor(x), np.floor(floor)
    pane = (np.abs(x - column - 0.5) < 0.27) & (np.abs(floor - row - 0.5) < 0.28) & (y < top - 0.8)
    paint = np.where(pane, as_column((0.25, 0.32, 0.4)) + 0.3 * cell_noise(column, row), front)
    return paint.clip(0, 1), top


_SILHOUETTES = {"hills": _hills, "trees": _trees, "houses": _houses}


@dataclass(frozen=True)
class Studio:
    """A sweep: a floor that curves up into a round backdrop of `radius` metres, one colour, lighter in the middle."""

    colour: Colour
    radius: float
    falloff: float

    def render(self, camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The nearer of the floor and the round wall; the corner between them is hidden by smooth shading."""
        origin, direction = rays(camera, size)
        direction = _parting(direction)
        (x, y, z), (dx, dy, dz) = origin, direction
        floor = np.where(dy < 0, -y / dy, np.float32(np.inf))
        a, b, c = dx * dx + dz * dz, dx * x + dz * z, x * x + z * z - self.radius**2
        wall = (np.sqrt((b * b - a * c).clip(0)) - b) / a
        depth = np.minimum(floor, wall)
        point = origin + depth * direction
        reach = np.hypot(point[0], point[2]) / self.radius  # 1 at the wall
        rise = (np.where(floor < wall, reach - 0.75, 0.25 + point[1] / self.radius) * 2).clip(0, 1)
        rise = rise * rise * (3 - 2 * rise)
        inward = -point / np.maximum(reach * self.radius, 1e-12)
        normal = unit(np.stack([0.6 * rise * inward[0], 1 - 0.5 * rise, 0.6 * rise * inward[2]]))
        light = (1 - self.falloff * ((point[1] / 3) ** 2 + 0.3 * reach**2)).clip(0.4, 1)
        speckle = 1 + 0.02 * (noise(point[0], point[2] + point[1], 2.0, 2) - 0.5)
        return _pictures(size, (as_column(self.colour) * (light * speckle)).clip(0, 1), depth, normal)


def hsv(
    rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    """A random RGB colour from ranges of hue, saturation and value."""
    return colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value))


def darker(colour: Colour, factor: float) -> Colour:
    """The colour times a factor, inside [0, 1]."""
    return tuple(min(1.0, factor * c) for c in colour)


def _surface(
    rng: np.random.Generator, pattern: str, first: Colour, second: Colour, scale: tuple[float, float]
) -> Surface:
    return Surface(pattern, first, second, float(rng.uniform(*scale)), float(rng.uniform(0, 50)))


def sample_floor(rng: np.random.Generator) -> Surface:
    """The floor of a room."""
    kind = rng.choice(("wood", "wood", "tiles", "checkers", "carpet", "ground"))
    if kind == "wood":
        dark = hsv(rng, (0.05, 0.1), (0.35, 0.65), (0.25, 0.6))
        return _surface(rng, "wood", dark, darker(dark, 1.6), (0.08, 0.18))
    if kind in ("tiles", "checkers"):
        light = hsv(rng, (0, 1), (0.02, 0.25), (0.55, 0.9))
        other = (
            darker(light, rng.uniform(0.35, 0.75)) if kind == "tiles" else hsv(rng, (0, 1), (0.1, 0.6), (0.15, 0.55))
        )
        return _surface(rng, kind, light, other, (0.2, 0.6))
    base = (
        hsv(rng, (0, 1), (0.1, 0.6), (0.25, 0.7))
        if kind == "carpet"
        else hsv(rng, (0.05, 0.12), (0.0, 0.12), (0.4, 0.7))
    )
    return _surface(
        rng, kind, base, hsv(rng, (0, 1), (0.2, 0.6), (0.3, 0.8)) if kind == "carpet" else darker(base, 1.2), (0.2, 1.0)
    )


def sample_wall(rng: np.random.Generator) -> Surface:
    """The wall of a room."""
    kind = rng.choice(("plaster", "plaster", "plaster", "brick", "stripes", "figures", "panels", "tiles"))
    if kind == "brick":
        white = rng.random() < 0.3
        brick = hsv(rng, (0.0, 0.07), (0.0, 0.15) if white else (0.4, 0.7), (0.7, 0.9) if white else (0.4, 0.65))
        return _surface(rng, "brick", brick, (0.72, 0.7, 0.66), (0.22, 0.28))
    if kind == "panels":
        colour = hsv(rng, (0.05, 0.12), (0.2, 0.6), (0.35, 0.8))
        return _surface(rng, "panels", colour, darker(colour, 1.35), (0.1, 0.25))
    paint = hsv(rng, (0, 1), (0.05, 0.55), (0.55, 0.95))
    if kind == "plaster":
        return _surface(rng, "plaster", paint, darker(paint, 0.8), (1, 1))
    other = hsv(rng, (0, 1), (0.05, 0.5), (0.5, 0.95)) if rng.random() < 0.5 else darker(paint, rng.uniform(0.7, 0.9))
    return _surface(rng, kind, paint, other, (0.12, 0.4))


def sample_panels(
    rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float], height: float
) -> tuple[Panel, ...]:
    """Windows, pictures and doors on the four walls."""
    panels = []
    for wall in range(4):
        start, end = (low[1], high[1]) if wall < 2 else (low[0], high[0])
        at = start + rng.uniform(0.3, 1.2)
        while at < end - 1.3:
            panel = _sample_panel(rng, wall, at, min(height, 3.0))
            panels.append(panel)
            at = panel.right + rng.uniform(0.4, 2.0)
    return tuple(panels)


def _sample_panel(rng: np.random.Generator, wall: int, left: float, height: float) -> Panel:
    kind = rng.choice(("window", "picture", "picture", "door"))
    if kind == "window":
        outside = _surface(rng, "plaster", hsv(rng, (0.5, 0.62), (0.05, 0.35), (0.9, 1.0)), (0.95, 0.97, 1.0), (1, 1))
        bottom, top = rng.uniform(0.7, 1.0), min(height - 0.3, rng.uniform(1.9, 2.3))
        return Panel(wall, left, left + rng.uniform(0.8, 1.3), bottom, top, (0.92, 0.92, 0.9), outside)
    if kind == "door":
        paint = hsv(rng, (0.04, 0.12), (0.1, 0.6), (0.3, 0.9))
        leaf = Surface("plaster", paint, darker(paint, 0.8), 1.0)
        return Panel(wall, left, left + 0.95, 0.0, min(2.1, height - 0.1), darker(paint, 0.75), leaf)
    width, tall, bottom = rng.uniform(0.35, 0.95), rng.uniform(0.35, 0.85), rng.uniform(1.15, 1.5)
    pattern = str(rng.choice(("plaster", "figures", "stripes", "checkers", "grass", "ground")))
    first, second = (hsv(rng, (0, 1), (0.2, 0.8), (0.3, 0.95)) for _ in range(2))
    frame, art = hsv(rng, (0.04, 0.12), (0.0, 0.6), (0.15, 0.95)), _surface(rng, pattern, first, second, (0.1, 0.4))
    return Panel(wall, left, left + width, bottom, bottom + tall, frame, art)


def sample_room(rng: np.random.Generator, reach: np.ndarray, plain: bool = False, tall: float = 2.0) -> Room:
    """A room with 0.4 m or more around all points of `reach` (N, 2) = x, z, and higher than `tall` metres; `plain`:
    bare painted walls."""
    yaw = float(rng.uniform(-np.pi, np.pi) if not plain else rng.uniform(-0.4, 0.4))
    c, s = np.cos(yaw), np.sin(yaw)
    own = reach @ np.array([[c, s], [-s, c]])  # the same turn as Room.render's
    low = tuple(float(v) for v in own.min(0) - rng.uniform(0.4, 1.8, 2))
    high = tuple(float(v) for v in own.max(0) + rng.uniform(0.4, 1.8, 2))
    height = max(float(rng.uniform(2.5, 3.4)), tall + 0.25)
    wall = (
        Surface("plaster", paint := hsv(rng, (0, 1), (0.0, 0.3), (0.55, 0.92)), darker(paint, 0.9), 1.0)
        if plain
        else sample_wall(rng)
    )
    accent = sample_wall(rng) if not plain and rng.random() < 0.35 else wall
    walls = tuple(accent if k == rng.integers(4) else wall for k in range(4))
    ceiling = Surface("plaster", (0.93, 0.93, 0.91), (0.85, 0.85, 0.84), 1.0)
    skirting = (0.9, 0.9, 0.88) if rng.random() < 0.5 else darker(wall.first, 0.5)
    panels = () if plain else sample_panels(rng, low, high, height)
    return Room(low, high, height, yaw, sample_floor(rng), walls, ceiling, skirting, panels)


def sample_ground(rng: np.random.Generator) -> Surface:
    """What one stands on outdoors."""
    kind = rng.choice(("grass", "grass", "ground", "paving", "sand", "brick"))
    if kind == "grass":
        first = hsv(rng, (0.2, 0.3), (0.45, 0.7), (0.28, 0.5))
        return _surface(rng, "grass", first, hsv(rng, (0.13, 0.24), (0.4, 0.65), (0.4, 0.62)), (0.5, 1.5))
    if kind == "paving":
        first = hsv(rng, (0.05, 0.15), (0.02, 0.25), (0.45, 0.75))
        return _surface(rng, "paving", first, darker(first, 0.75), (0.3, 0.6))
    if kind == "brick":
        return _surface(rng, "brick", hsv(rng, (0, 0.08), (0.25, 0.5), (0.4, 0.6)), (0.6, 0.58, 0.54), (0.2, 0.24))
    sand = kind == "sand"
    first = (
        hsv(rng, (0.09, 0.13), (0.25, 0.45), (0.65, 0.85)) if sand else hsv(rng, (0.05, 0.6), (0.0, 0.12), (0.25, 0.5))
    )
    return _surface(rng, "ground", first, darker(first, 0.8), (0.4, 1.5))


# kind: share of places that have it, distance and height in metres, hue, saturation, value; from far to near
_HORIZON = {
    "hills": (0.6, (220, 220), (15, 45), (0.25, 0.62), (0.15, 0.4), (0.3, 0.5)),
    "houses": (0.5, (35, 90), (9, 26), (0.0, 0.14), (0.05, 0.4), (0.45, 0.75)),
    "trees": (0.65, (14, 40), (3.5, 8), (0.2, 0.34), (0.4, 0.7), (0.28, 0.5)),
}


def sample_silhouettes(rng: np.random.Generator) -> tuple[Silhouette, ...]:
    """What stands at the horizon, if anything."""
    found = []
    for kind, (share, distance, height, *paint) in _HORIZON.items():
        if rng.random() < share:
            metres = float(rng.uniform(*distance)), float(rng.uniform(*height))
            found.append(Silhouette(kind, *metres, hsv(rng, *paint), float(rng.uniform(0, 999))))
    return tuple(found)


def sample_outdoors(rng: np.random.Generator, sun: tuple[float, float, float] | None = None) -> Outdoors:
    """Open ground; `sun` is the direction towards the sun, so that the sky agrees with the light."""
    hue = rng.uniform(0.54, 0.62)
    zenith, warm = hsv(rng, (hue, hue), (0.35, 0.75), (0.55, 0.9)), rng.random() < 0.25
    if warm:
        horizon = hsv(rng, (0.03, 0.11), (0.2, 0.5), (0.85, 0.97))
    else:
        horizon = hsv(rng, (hue, hue), (0.04, 0.2), (0.86, 0.97))
    if sun is None:
        azimuth, up = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 1.2)
        sun = (float(np.sin(azimuth) * np.cos(up)), float(np.sin(up)), float(np.cos(azimuth) * np.cos(up)))
    clouds, shift = float(rng.uniform(0.1, 0.75)), float(rng.uniform(0, 99))
    return Outdoors(sample_ground(rng), zenith, horizon, clouds, sun, sample_silhouettes(rng), shift)


def sample_background(
    rng: np.random.Generator,
    kind: str | None = None,
    reach: np.ndarray | None = None,
    sun: tuple[float, float, float] | None = None,
    tall: float = 2.0,
) -> Background:
    """A place: `room`, `plain` (a bare room), `outdoors` or `studio`; drawn from KINDS when left out.

    `reach` (N, 2) are x, z of whatever must fit inside (people, cameras) and `tall` its height, metres; `sun` (3,)
    points to the sun.
    """
    kind = kind or str(rng.choice(KINDS))
    reach = np.array([(-2.0, -2.0), (2.0, 2.0), (-2.0, 2.0), (2.0, -2.0)]) if reach is None else np.asarray(reach)
    if kind in ("room", "plain"):
        return sample_room(rng, reach, kind == "plain", tall)
    if kind == "outdoors":
        return sample_outdoors(rng, sun)
    if kind == "studio":
        radius = float(np.linalg.norm(reach, axis=1).max() + rng.uniform(0.6, 2.0))
        return Studio(hsv(rng, (0, 1), (0.0, 0.45), (0.45, 0.95)), max(radius, 3.0), float(rng.uniform(0.1, 0.4)))
    raise ValueError(f"{kind!r} is not a kind of background: use one of plain, {', '.join(KINDS)}")

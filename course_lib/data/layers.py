"""What is thinner than a pixel or lets light through: strands of hair and the lenses of glasses.

They are cut into fragments, one a sample of the picture (2 x 2 samples a pixel unless told otherwise), each with an
opacity: the share that a strand covers, or what a lens keeps back. The fragments in front of everything opaque are
sorted by depth and laid over the picture with chapter 09's `composite`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from course_lib.chapters.cameras import Camera
from course_lib.chapters.david_data import composite, coverage, label_alpha, median_layer
from course_lib.data.lighting import Lights, ShadowMap, ambient, blinn, nearest, to_linear, tone_map
from course_lib.data.parts import PART_IDS
from course_lib.data.person import PosedPeople
from course_lib.data.shading import light
from course_lib.data.strands import Strands
from course_lib.data.texture import Paint
from course_lib.data.vectors import as_column, cross, dot, unit

MOST_LAYERS = 32  # of one sample: what lies behind so many is hardly seen
WIDE = 0.45  # pixels: strands are thinned out until they are so wide
NEAR = 0.03
_PARTS = {name: PART_IDS["Hair"] for name in ("hair",)} | {n: PART_IDS["Face_Neck"] for n in ("beard", "brow", "lash")}


@dataclass(frozen=True)
class Targets:
    """What the labels say: hair's normals are those of its `proxy` or of its single strands (`strand`); lenses count
    as opaque surfaces (`lens`) or not at all; alpha counts what people have in their hands (`held`) or not. The picture
    is the same either way."""

    hair: str = "proxy"
    lens: bool = False
    held: bool = False

    def __post_init__(self):
        if self.hair not in ("proxy", "strand"):
            raise ValueError(f"hair has proxy or strand normals, not {self.hair!r}")


@dataclass
class Canvas:
    """The opaque picture's samples: size (H, W), samples along a pixel's side, depth (H f, W f), colour (3, H f W f)
    and `person` (H f W f), whether it shows a person."""

    size: tuple[int, int]
    factor: int
    depth: np.ndarray
    colour: np.ndarray
    person: np.ndarray

    def pixel(self, cell: np.ndarray) -> np.ndarray:
        """The pixels that samples (N,) belong to."""
        row, column = np.divmod(cell, self.size[1] * self.factor)
        return row // self.factor * self.size[1] + column // self.factor

    def scaled(self, K: np.ndarray) -> np.ndarray:
        """Intrinsics (3, 3) that project onto the samples."""
        return K * np.array([[self.factor], [self.factor], [1]], np.float32)


@dataclass
class Fragments:
    """M pieces: the sample that each lies in, its depth, opacity, colour (3, M), whose it is, its class, whether it is
    a lens, and its normals (3, M) for the labels: those of the shape, and those of the strand itself."""

    cell: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    colour: np.ndarray
    owner: np.ndarray
    part: np.ndarray
    lens: np.ndarray
    smooth: np.ndarray
    own: np.ndarray

    @staticmethod
    def joined(parts: list["Fragments"]) -> "Fragments":
        """All of several."""
        columns = ([vars(p)[name] for p in parts] for name in Fragments.__dataclass_fields__)
        return Fragments(*(np.concatenate(c, axis=-1) for c in columns))


# ---------------------------------------------------------------- strands


@dataclass
class Pieces:
    """Segments of strands that may be seen: `first` (S,) is the point that each begins at, the next is its end. Points
    have a place on the picture of samples (x, y), depth z, width in samples, and what `shade` needs, (N,) or (3, N)."""

    first: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    width: np.ndarray
    position: np.ndarray
    smooth: np.ndarray
    tangent: np.ndarray
    albedo: np.ndarray
    open: np.ndarray


def thinned(strands: Strands, camera: Camera, joint: np.ndarray) -> Strands:
    """As many strands as a camera can tell apart, by how far it is from the head's joint (3,)."""
    z = max(float(camera.R[0, 2].numpy() @ joint + camera.t[0, 2].numpy()), 0.1)
    pixel = z / float(camera.K[0, 0, 0])  # metres
    return strands.first(int(strands.width.sum() / (WIDE * pixel)) + 8)


def on_canvas(points: np.ndarray, camera: Camera, canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where world points (3, N) are on the picture of samples, x and y, and their depth z: (N,) each."""
    K = canvas.scaled(camera.K[0].numpy())
    u, v, z = K @ (camera.R[0].numpy() @ points + camera.t[0].numpy()[:, None])
    return u / np.maximum(z, NEAR), v / np.maximum(z, NEAR), z


def seen(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, canvas: Canvas, slack: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Which places (N,) are inside the picture, at most `slack` metres behind what is opaque there; their samples."""
    height, width = canvas.depth.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > NEAR)
    cell = y.clip(0, height - 1).astype(np.int64) * width + x.clip(0, width - 1).astype(np.int64)
    return inside & (z < canvas.depth.ravel().take(cell) + slack), cell


def visible_pieces(strands: Strands, posed: PosedPeople, index: int, camera: Camera, canvas: Canvas) -> Pieces | None:
    """Project the strands of person `index`; segments wholly behind something opaque or outside are left out."""
    strands = thinned(strands, camera, posed.joints[index, 15].numpy())
    points, turn = strands.pose(posed.vertices[index], posed.transforms[index])
    count, steps = points.shape[:2]
    flat = np.ascontiguousarray(points.reshape(-1, 3).T, np.float32)  # (3, N P)
    x, y, z = on_canvas(flat, camera, canvas)
    shown, near = (v.reshape(count, steps) for v in (seen(x, y, z, canvas, 0.002)[0], z > NEAR))
    wanted = (shown[:, :-1] | shown[:, 1:]) & near[:, :-1] & near[:, 1:]
    if not wanted.any():
        return None
    first = np.flatnonzero(np.pad(wanted, ((0, 0), (0, 1))).ravel())
    used = np.zeros(count * steps, bool)
    used[first], used[first + 1] = True, True
    ids = np.flatnonzero(used)
    strand, step = np.divmod(ids, steps)
    turns = np.broadcast_to(turn, (count, steps, 3, 3))[strand, step]
    smooth = np.einsum("nab,nb->an", turns, strands.proxy[strand, step])
    tangent = points[strand, np.minimum(step + 1, steps - 1)] - points[strand, np.maximum(step - 1, 0)]
    width = strands.width[strand] * (1 - (1 - strands.taper) * step / (steps - 1))
    width = width.astype(np.float32) * (canvas.factor * float(camera.K[0, 0, 0])) / z[ids]
    return Pieces(
        (np.cumsum(used) - 1)[first], x[ids], y[ids], z[ids], width, flat[:, ids], unit(smooth), unit(tangent.T),
        strands.albedo[strand].T, strands.open[strand, step],
    )  # fmt: skip


def shade(pieces: Pieces, camera: Camera, lights: Lights, shadow: ShadowMap) -> np.ndarray:
    """Colours (3, N) of the points: lit by the shape's smooth normals, with the highlight of strands."""
    view = unit(camera.center[0].numpy()[:, None] - pieces.position)
    normal = unit(pieces.smooth - np.minimum(dot(pieces.smooth, view) - 0.15, 0) * view)
    paint = Paint.empty(len(pieces.z))
    own = Paint(pieces.albedo, normal, flesh=0.3, strand=0.8, tangent=pieces.tangent)
    paint.put(slice(None), own)
    return light(paint, pieces.position, normal, view, pieces.open, lights, shadow)


def cut_up(pieces: Pieces, canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut segments into parts about one sample long and keep those that are seen: the point (M,) at which each one's
    segment begins, how far along it the part is (0 to 1), its length in samples, its sample and its depth."""
    a = pieces.first
    dx, dy = pieces.x[a + 1] - pieces.x[a], pieces.y[a + 1] - pieces.y[a]
    length = np.hypot(dx, dy)
    count = np.ceil(length).clip(1, 400).astype(np.int64)
    segment = np.repeat(np.arange(len(a)), count)
    number = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    t = ((number + 0.5) / count[segment]).astype(np.float32)
    start = a[segment]
    x, y = pieces.x[start] + t * dx[segment], pieces.y[start] + t * dy[segment]
    z = pieces.z[start] + t * (pieces.z[start + 1] - pieces.z[start])
    shown, cell = seen(x, y, z, canvas)
    kept = np.flatnonzero(shown)
    return start[kept], t[kept], (length / count)[segment[kept]], cell[kept], z[kept]


def strand_fragments(
    strands: Strands, owner: int, posed: PosedPeople, camera: Camera, lights: Lights, shadow: ShadowMap, canvas: Canvas
) -> Fragments | None:
    """The fragments of one kind of strands of person `owner` (1, 2, ...); None where nothing is seen."""
    pieces = visible_pieces(strands, posed, owner - 1, camera, canvas)
    if pieces is None:
        return None
    start, t, length, cell, depth = cut_up(pieces, canvas)
    if not len(start):
        return None

    def between(values: np.ndarray) -> np.ndarray:
        return values[..., start] * (1 - t) + values[..., start + 1] * t

    colour, smooth = between(shade(pieces, camera, lights, shadow)), unit(between(pieces.smooth))
    tangent, view = pieces.tangent[:, start], unit(camera.center[0].numpy()[:, None] - pieces.position[:, start])
    alpha, whole = coverage(between(pieces.width), length), np.ones(len(t), np.int64)
    return Fragments(
        cell, depth, alpha, colour, whole * owner, whole * _PARTS[strands.kind], whole < 0, turned_to(smooth, view),
        round_normals(tangent, view, cell * 7 + start),
    )  # fmt: skip


def turned_to(normal: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Normals (3, N), kept from turning away from the viewer."""
    return unit(normal - np.minimum(dot(normal, view) - 0.02, 0) * view)


def round_normals(tangent: np.ndarray, view: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Normals (3, N) of round strands where a ray meets them: anywhere across their width, fixed by `key` (N,)."""
    facing = unit(view - dot(view, tangent) * tangent)
    across = ((key * 2654435761) % 65521 / 65521 * 1.9 - 0.95).astype(np.float32)
    return unit(facing * np.sqrt(1 - across**2) + cross(tangent, facing) * across)


# ---------------------------------------------------------------- lenses


def lens_fragments(
    points: torch.Tensor,
    faces: torch.Tensor,
    glasses: list,
    owner: np.ndarray,
    which: np.ndarray,
    camera: Camera,
    lights: Lights,
    canvas: Canvas,
) -> Fragments | None:
    """Fragments of lenses: faces (F, 3) of world points (V, 3), of the glasses `which` (F,) of person owner (F,)."""
    local = camera.to_camera(points[None])
    K = torch.from_numpy(canvas.scaled(camera.K[0].numpy()))[None]
    face, depth = nearest(local, faces, K, canvas.depth.shape)
    cell = np.flatnonzero((face.ravel() >= 0) & (depth.ravel() < canvas.depth.ravel()))
    if not len(cell):
        return None
    face, depth = face.ravel()[cell], depth.ravel()[cell]
    corners = points[faces[torch.from_numpy(face).long()]].numpy()  # (M, 3, 3)
    normal = unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).T)
    view = unit(camera.center[0].numpy()[:, None] - corners.mean(1).T)
    normal = normal * np.where(dot(normal, view) < 0, -1, 1)
    dark = np.array([g.dark for g in glasses], np.float32)[which[face]]
    tint = to_linear(np.array([g.tint for g in glasses], np.float32)[which[face]].T)
    cosine = dot(normal, view).clip(0, 1)
    mirror = 0.04 + 0.96 * (1 - cosine) ** 5  # Schlick's approximation
    sun = as_column(lights.sun_direction)
    shine = 0.6 * ambient(lights, 2 * cosine * normal - view)
    shine = shine + blinn(normal, view, sun, 400.0) * (dot(normal, sun) > 0) * as_column(lights.sun_colour)
    alpha = dark + (1 - dark) * mirror
    colour = (dark * tint * ambient(lights, normal) + mirror * shine) / alpha
    count = np.ones(len(cell), np.int64)
    return Fragments(
        cell, depth, alpha.astype(np.float32), tone_map(colour, lights.exposure), owner[face],
        count * PART_IDS["Apparel"], count > 0, normal, normal,
    )  # fmt: skip


# ---------------------------------------------------------------- laid over the picture


@dataclass
class Stack:
    """Fragments by sample: cells (N,), `index` (N, F) into the fragments, the nearest first, `there` (N, F)."""

    cells: np.ndarray
    index: np.ndarray
    there: np.ndarray


def stack(fragments: Fragments) -> Stack:
    """Sort the fragments by sample and depth."""
    order = np.argsort(fragments.cell << 32 | fragments.depth.astype(np.float32).view(np.int32).astype(np.int64))
    cell = fragments.cell[order]
    cells, start, count = np.unique(cell, return_index=True, return_counts=True)
    depth = min(int(count.max()), MOST_LAYERS)
    there = np.arange(depth) < count[:, None]
    index = order[(start[:, None] + np.arange(depth)).clip(0, len(order) - 1)]
    return Stack(cells, index, there)


def lay_over(canvas: Canvas, fragments: Fragments, targets: Targets, R: np.ndarray, image: np.ndarray, labels: dict):
    """Blend the fragments into a picture (3, H W) and its labels (..., H W), in place.

    A pixel is labelled by the layers where they cover more of it than the opaque surfaces of people do: a sample's
    label is that of the layer at which half of the light is taken (of all that the layers take, where nobody is behind
    them).
    """
    layers = stack(fragments)
    alpha = np.where(layers.there, fragments.alpha[layers.index], 0).astype(np.float32)
    seen, passes = composite(alpha, fragments.colour.T[layers.index])
    pixel, behind = canvas.pixel(layers.cells), canvas.colour[:, layers.cells]
    change = seen.T - (1 - passes[:, -1]) * behind
    samples, count = canvas.factor**2, image.shape[1]
    for channel in range(3):
        image[channel] += np.bincount(pixel, change[channel], count).astype(np.float32) / samples
    body = canvas.person[layers.cells]
    more = (1 - passes[:, -1]) * ~body
    labels["alpha"] += np.bincount(pixel, more, count).astype(np.float32) / samples
    relabel(canvas, fragments, layers, alpha, targets, R, labels)


def relabel(
    canvas: Canvas,
    fragments: Fragments,
    layers: Stack,
    alpha: np.ndarray,
    targets: Targets,
    R: np.ndarray,
    labels: dict,
) -> None:
    """Write depth, normals, parts and instances of the pixels that the layers cover most of."""
    chosen, weight = labelling_layers(canvas, fragments, layers, alpha, targets)
    pixel, count = canvas.pixel(layers.cells), labels["alpha"].size
    opaque = np.bincount(canvas.pixel(np.flatnonzero(canvas.person)), minlength=count)  # samples of people,
    opaque = opaque - np.bincount(pixel, canvas.person[layers.cells] & (chosen >= 0), count)  # those still seen
    covered = np.bincount(pixel, weight, count)
    take = (labels["alpha"] >= 0.5 - 1e-6) & (covered > 0) & ((covered >= opaque) | (labels["instances"] == 0))
    rows = np.flatnonzero(take[pixel] & (chosen >= 0) & (weight > 0))
    if not len(rows):
        return
    picked = layers.index[rows, chosen[rows]]
    order = np.lexsort((fragments.depth[picked], pixel[rows]))
    rows, picked = rows[order], picked[order]
    first, at, share = np.unique(pixel[rows], return_index=True, return_counts=True)
    nearest_one, group = picked[at], np.repeat(np.arange(len(first)), share)
    same = fragments.depth[picked] < fragments.depth[nearest_one][group] + 0.02
    normals = fragments.own if targets.hair == "strand" else fragments.smooth
    labels["depth"][first] = np.bincount(group, fragments.depth[picked] * same) / np.bincount(group, same)
    labels["normals"][:, first] = R @ normals[:, nearest_one] * np.float32([[1], [-1], [-1]])
    labels["parts"][first], labels["instances"][first] = fragments.part[nearest_one], fragments.owner[nearest_one]


def labelling_layers(
    canvas: Canvas, fragments: Fragments, layers: Stack, alpha: np.ndarray, targets: Targets
) -> tuple[np.ndarray, np.ndarray]:
    """The layer (N,) that labels each sample, -1 where none does, and how much of the sample (N,) its layers label."""
    counted = label_alpha(alpha, fragments.lens[layers.index], targets.lens)
    _, passes = composite(counted, np.zeros((*counted.shape, 0), np.float32))
    taken, body = 1 - passes[:, -1:], canvas.person[layers.cells]
    of_all = 1 - (1 - passes) / np.maximum(taken, 1e-6)
    chosen = median_layer(np.where(body[:, None], passes, of_all))
    return chosen, np.where(body, chosen >= 0, taken[:, 0])

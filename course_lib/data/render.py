"""Pictures of people with every label: one mesh of everything, rasterised once from the camera and once from the light.

Coverage is supersampled (2 x 2 samples a pixel unless told otherwise); colours are worked out for the samples that are
covered, then averaged. Labels come from the surface that covers most of a pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import pixel_barycentrics
from course_lib.data.appearance import paint_surface
from course_lib.data.backgrounds import Background
from course_lib.data.layers import Canvas, Fragments, Targets, lay_over, lens_fragments, strand_fragments
from course_lib.data.lighting import Lights, ShadowMap, nearest, shadow_map, to_linear
from course_lib.data.objects import ObjectMesh
from course_lib.data.parts import PART_IDS, SKIN_CLASSES
from course_lib.data.person import Glasses, Person, PosedPeople, pose_people
from course_lib.data.shading import light, shade_background
from course_lib.data.surfaces import DressedMesh, Surface, face_normals, pose_mesh, renumber
from course_lib.data.texture import Paint, Samples
from course_lib.data.vectors import dot, unit
from course_lib.data.wardrobe import dress
from course_lib.threads import one_thread

OBJECT = Surface("object", 0, None, two_sided=True)
HELD = -1
_SKIN_PARTS = np.array([PART_IDS[name] for name in SKIN_CLASSES])


@dataclass
class Scene:
    """Everything in one mesh. vertices (N, 3), normals (N, 3), attributes (N, 11 = rest + fields), classes (N, 14),
    turns (N, 9), faces (F, 3), outward (3, F) their normals, twice their area long, surface (F,) into `surfaces`;
    casting (C, 3) are faces of a coarser mesh that casts shadows; owner (S,) is 1.. for people, 0 for objects, and
    HELD for those in somebody's hand."""

    vertices: Tensor
    normals: Tensor
    attributes: Tensor
    classes: Tensor
    turns: Tensor
    faces: Tensor
    outward: np.ndarray
    surface: np.ndarray
    casting: Tensor
    surfaces: list[Surface]
    owner: Tensor
    strands: list = field(default_factory=list)  # for each person a list of strands.Strands

    def layered(self) -> bool:
        """Whether there are strands or lenses."""
        return any(self.strands) or any(s.kind == "lens" for s in self.surfaces)

    def two_sided(self) -> np.ndarray:
        """Which faces (F,) are drawn from behind as well: cloth and hair."""
        return np.array([s.two_sided for s in self.surfaces]).take(self.surface)

    def lenses(self) -> np.ndarray:
        """Which faces (F,) let light through: they are no part of the opaque picture."""
        return np.array([s.kind == "lens" for s in self.surfaces]).take(self.surface)

    def casters(self) -> tuple[Tensor, Tensor]:
        """The mesh that casts shadows: vertices (M, 3), faces (C, 3)."""
        used, faces = renumber(self.casting.numpy(), len(self.vertices))
        return self.vertices.index_select(0, torch.from_numpy(used)), torch.from_numpy(faces)

    def front(self, camera: Camera) -> np.ndarray:
        """Which faces (F,) turn their outer side to the camera."""
        corner = self.vertices.numpy().T.take(self.faces[:, 0].numpy(), 1)
        return dot(self.outward, camera.center[0].numpy()[:, None] - corner) > 0


def gather_scene(people: list[Person], posed: PosedPeople | None, objects: Sequence[ObjectMesh]) -> Scene:
    """Dress and pose everyone, and put people and objects into one mesh."""
    parts, surfaces, owner, strands = [], [], [], []
    for index, person in enumerate(people):
        mesh = dress(person)
        parts.append(person_part(mesh, posed, index))
        surfaces += mesh.surfaces
        strands.append(mesh.strands)
        owner += [index + 1] * len(mesh.surfaces)
    for thing in objects:
        parts.append(object_part(thing))
        surfaces.append(OBJECT)
        owner.append(HELD if thing.held else 0)
    if len(parts) == 1:
        return Scene(**parts[0], surfaces=surfaces, owner=torch.tensor(owner), strands=strands)
    vertex_count = np.cumsum([0] + [len(p["vertices"]) for p in parts])
    surface_count = np.cumsum([0] + [int(p["surface"].max()) + 1 for p in parts])
    for part, vertices, number in zip(parts, vertex_count, surface_count, strict=False):
        part["faces"], part["casting"] = part["faces"] + int(vertices), part["casting"] + int(vertices)
        part["surface"] = part["surface"] + number
    columns = {name: [p[name] for p in parts] for name in parts[0]}
    arrays = {name: np.concatenate(columns.pop(name), -1) for name in ("outward", "surface")}
    joined = {name: torch.cat(values) for name, values in columns.items()}
    return Scene(**joined, **arrays, surfaces=surfaces, owner=torch.tensor(owner), strands=strands)


def person_part(mesh: DressedMesh, posed: PosedPeople, index: int) -> dict[str, Tensor]:
    """The columns of a Scene for one dressed person."""
    placed = pose_mesh(mesh, posed, index)
    outward = face_normals(placed.vertices.numpy(), mesh.faces.numpy())
    normals = torch.from_numpy(mesh.fans @ np.ascontiguousarray(outward.T))
    return {
        "vertices": placed.vertices, "normals": normals, "attributes": mesh.attributes, "classes": mesh.classes,
        "turns": placed.turns.flatten(1), "faces": mesh.faces, "outward": outward, "surface": mesh.surface,
        "casting": mesh.casting,
    }  # fmt: skip


def object_part(thing: ObjectMesh) -> dict[str, Tensor]:
    """The columns of a Scene for one object; its colours stand where people have rest coordinates."""
    vertices, colours, normals = (
        torch.as_tensor(v, dtype=torch.float32) for v in (thing.vertices, thing.colours, thing.normals)
    )
    n, faces = len(vertices), torch.as_tensor(thing.faces).long()
    return {
        "vertices": vertices, "normals": normals, "attributes": torch.cat([colours, torch.ones(n, 8)], 1),
        "classes": torch.zeros(n, len(SKIN_CLASSES)), "turns": torch.eye(3).flatten().expand(n, 9), "faces": faces,
        "outward": face_normals(vertices.numpy(), faces.numpy()), "surface": np.zeros(len(faces), np.int64),
        "casting": faces,
    }  # fmt: skip


# ---------------------------------------------------------------- what is seen where


@dataclass
class Hits:
    """Covered pixels (n,) and their S samples (S, n): whether covered, the face, its surface, the depth in metres, and
    their row and column in the picture of samples; points (1, N, 3) are the scene's in camera space, which K (1, 3, 3)
    projects onto that picture."""

    pixel: np.ndarray
    covered: np.ndarray
    face: np.ndarray
    surface: np.ndarray
    depth: np.ndarray
    row: np.ndarray
    column: np.ndarray
    points: Tensor
    K: Tensor

    def hidden(self, count: int) -> np.ndarray:
        """Which of `count` pixels show nothing of the background: (count,) bool."""
        flags = np.zeros(count, bool)
        flags[self.pixel] = self.covered.all(0)
        return flags

    def barycentrics(self, faces: Tensor, chosen: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Where on their faces some samples are, counted in (S, n): barycentrics (M, 3), depth (M,)."""
        row, column, face = (torch.from_numpy(v.ravel().take(chosen)) for v in (self.row, self.column, self.face))
        seen = torch.zeros_like(face), row, column, face
        barycentric, depth = pixel_barycentrics(self.points, faces, self.K, seen)
        return barycentric.T, depth.numpy()


def visible_samples(scene: Scene, front: np.ndarray, camera: Camera, factor: int, behind: Tensor) -> Hits:
    """Rasterise at `factor` times the size; samples behind the background's depth (H, W) do not count."""
    ids = np.flatnonzero((front | scene.two_sided()) & ~scene.lenses())
    points = camera.to_camera(scene.vertices[None])
    top, bottom, left, right = window(points[0].numpy(), camera.K[0], behind.shape)
    height, width, K = bottom - top, right - left, camera.K - torch.tensor([[0.0, 0, left], [0, 0, top], [0, 0, 0]])
    K[:, :2] *= factor
    faces = scene.faces.index_select(0, torch.from_numpy(ids))
    face, depth = nearest(points, faces, K, (height * factor, width * factor))
    blocks, depth = (  # all pixels' first samples, their second ones, ...
        values.reshape(height, factor, width, factor).transpose(1, 3, 0, 2).reshape(factor**2, -1)
        for values in (face, depth)
    )
    pixel = np.flatnonzero(blocks.max(0) >= 0)
    row, column = np.divmod(pixel, width)
    inside = np.arange(factor**2)[:, None]
    rows, columns = row * factor + inside // factor, column * factor + inside % factor
    depth, face = depth.take(pixel, 1), blocks.take(pixel, 1)
    pixel = (row + top) * behind.shape[1] + column + left
    covered = (face >= 0) & (depth < behind.numpy().ravel().take(pixel) + 0.05)
    face = ids.take(face.clip(0))
    surface = np.where(covered, scene.surface.take(face), -1)
    return Hits(pixel, covered, face, surface, depth, rows, columns, points, K)


def window(points: np.ndarray, K: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the part of a picture that holds all points (N, 3) in camera space; the whole if
    one is near."""
    height, width = size
    x, y, z = points.T
    if z.min() < 0.05:
        return 0, height, 0, width
    (fx, _, cx), (_, fy, cy), _ = K.tolist()
    x, y = x / z * fx + cx, y / z * fy + cy
    top, bottom, left, right = math.floor(y.min()), math.ceil(y.max()), math.floor(x.min()), math.ceil(x.max())
    top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
    return top, min(max(bottom, top + 1), height), left, min(max(right, left + 1), width)


def first_alike(kind: np.ndarray) -> np.ndarray:
    """For each of the samples kind (S, n) of a pixel, the first of that pixel with the same value: (S, n) in 0..S-1."""
    first = np.zeros_like(kind)
    for sample in range(len(kind) - 1, 0, -1):
        first = np.where(kind == kind[sample], sample, first)
    return np.where(kind == kind[0], 0, first)


def blend_corners(values: Tensor, corners: Tensor, share: Tensor) -> Tensor:
    """Interpolate vertex values (N, C) over faces with corners (M, 3) by barycentrics (M, 3): (M, C)."""
    return torch.nn.functional.embedding_bag(corners, values, per_sample_weights=share, mode="sum")


# ---------------------------------------------------------------- colours


@dataclass
class Points:
    """Samples to be coloured, sorted by surface: corners (M, 3), barycentric (M, 3), depth (M,), inside (M,) where
    the inner side is seen, and the stretch of rows of each surface."""

    corners: Tensor
    barycentric: Tensor
    depth: np.ndarray
    inside: np.ndarray
    stretches: list[tuple[Surface, slice]]


@dataclass
class Shaded:
    """Results of a set of samples: colour (3, M) on the screen, part (M,), normal (3, M) geometric, in the world."""

    colour: np.ndarray
    part: np.ndarray
    normal: np.ndarray


def shade_hits(
    scene: Scene, hits: Hits, front: np.ndarray, camera: Camera, lights: Lights, shadow: ShadowMap, every: bool
) -> tuple[Shaded, np.ndarray]:
    """Colour the samples of all pixels; unless `every`, those of one pixel and surface share their first one's colour.

    Returns the results (M of them) and which of them each sample (S, n) has.
    """
    samples, count = hits.surface.shape
    own = np.arange(samples)[:, None]
    first = np.broadcast_to(own, (samples, count)) if every else first_alike(hits.surface)
    chosen = np.flatnonzero((first == own) & hits.covered)
    kinds = hits.surface.ravel().take(chosen)
    order = np.argsort(kinds.astype(np.int16), kind="stable")  # few bits: sorted by radix
    chosen, kinds = chosen[order], kinds[order]
    result = np.zeros(samples * count, np.int64)
    result[chosen] = np.arange(len(chosen))
    cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    face = hits.face.ravel().take(chosen)
    points = Points(
        scene.faces.index_select(0, torch.from_numpy(face)),
        *hits.barycentrics(scene.faces, chosen),
        ~front.take(face),
        [(scene.surfaces[kinds[start]], slice(start, stop)) for start, stop in pairwise(cuts)],
    )
    return shade_points(scene, points, camera, lights, shadow), result.take(first * count + np.arange(count))


def shade_points(scene: Scene, points: Points, camera: Camera, lights: Lights, shadow: ShadowMap) -> Shaded:
    """Paint every surface's samples, then light them all together."""
    packed = torch.cat([scene.attributes, scene.vertices, scene.normals], 1)
    values = blend_corners(packed, points.corners, points.barycentric).T.contiguous().numpy()
    attributes, position, normal = values[:11], values[11:14], values[14:]
    baked = attributes[4]  # ambient occlusion: 1 open, 0 closed
    view = unit(camera.center[0, :, None].numpy() - position)
    normal = facing_normal(normal, view, points.inside)
    footprint = points.depth / float(camera.K[0, 0, 0])
    turns = scene.turns.index_select(0, points.corners[:, 0]).T.contiguous().numpy().reshape(3, 3, -1)
    paint = Paint.empty(len(footprint))
    for (kind, _), alike in groupby(points.stretches, key=lambda s: (s[0].kind, id(s[0].style))):
        alike = list(alike)  # both shoes are painted at once, then each gets its class
        rows = slice(alike[0][1].start, alike[-1][1].stop)
        rest, fields = attributes[:3, rows], attributes[3:, rows]
        s = Samples(
            rest, fields, normal[:, rows], view[:, rows], turns[..., rows], footprint[rows], points.inside[rows]
        )
        own = paint_object(s) if kind == "object" else paint_surface(alike[0][0], s)
        own.part = decide_part(own.part, alike, scene, points)
        paint.put(rows, own)
    occlusion = baked + (1 - baked) * paint.open
    return Shaded(light(paint, position, normal, view, occlusion, lights, shadow), paint.part, normal)


def facing_normal(normal: np.ndarray, view: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Interpolated normals (3, M), unit, on the side that is seen; at outlines they are kept from turning away."""
    normal = unit(np.where(inside, -normal, normal))
    return unit(normal - np.minimum(dot(normal, view) - 0.02, 0) * view)


def paint_object(s: Samples) -> Paint:
    """An object's own colours."""
    return Paint(albedo=to_linear(s.rest.clip(0, 1)), normal=s.normal, specular=0.02)


def decide_part(
    painted: np.ndarray | int, stretches: list[tuple[Surface, slice]], scene: Scene, points: Points
) -> np.ndarray:
    """The classes of some surfaces' samples: what was painted, else the surface's own, or for skin the joints'."""
    usual = []
    for surface, rows in stretches:
        if surface.part is None:
            share = blend_corners(scene.classes, points.corners[rows], points.barycentric[rows])
            usual.append(_SKIN_PARTS[share.argmax(1).numpy()])
        else:
            usual.append(np.full(rows.stop - rows.start, surface.part))
    return np.where(painted >= 0, painted, np.concatenate(usual))


# ---------------------------------------------------------------- the picture


@one_thread()
@torch.no_grad()
def render_scene(
    people: list[Person],
    camera: Camera,
    size: tuple[int, int],
    lights: Lights,
    background: Background | None = None,
    objects: Sequence[ObjectMesh] = (),
    supersample: int = 2,
    posed: PosedPeople | None = None,
    every_sample: bool = False,
    targets: Targets | None = None,
) -> dict[str, np.ndarray]:
    """Draw people with their labels, as numpy arrays.

    image (H, W, 3) float32 in [0, 1]; alpha (H, W) share of a pixel that people cover; depth (H, W) of people and
    objects in metres, inf elsewhere; scene_depth (H, W) with the background's; normals (H, W, 3) camera convention, 0
    outside; parts (H, W) and instances (H, W) uint8: 0 none, instances 1.. in the order given. A pixel is labelled when
    people cover half of it. Without a background the picture is black behind people. `every_sample` colours each of
    the supersample^2 samples of a pixel on its own, instead of once a pixel and surface. `targets` says what the labels
    of hair and lenses are (`layers.Targets`).
    """
    if not people and not objects and background is None:
        raise ValueError("nothing to draw: give people, objects or a background")
    if posed is None and people:
        posed = pose_people(people)
    colour, behind, normal = empty_background(size) if background is None else background.render(camera, size)
    joints = posed.joints if people else torch.zeros(0, 55, 3)
    if not people and not objects:
        return finish(shade_background(colour, behind, normal, camera, lights, None, joints), behind, {})
    scene = gather_scene(people, posed, objects)
    shadow = shadow_map(*scene.casters(), lights)
    front = scene.front(camera)
    hits = visible_samples(scene, front, camera, supersample, behind)
    backdrop = shade_background(colour, behind, normal, camera, lights, shadow, joints, hits.hidden(behind.numel()))
    if not len(hits.pixel):
        return finish(backdrop, behind, {})
    shaded, result = shade_hits(scene, hits, front, camera, lights, shadow, every_sample)
    targets = targets or Targets()
    labels = pick_labels(hits, shaded, result, scene.owner.numpy(), camera, targets.held)
    fragments, canvas = [], None
    if scene.layered():
        canvas = opaque_canvas(backdrop, behind, hits, shaded.colour, result, scene.owner.numpy(), supersample)
        fragments = thin_fragments(scene, posed, camera, lights, shadow, canvas)
    average_into(backdrop, hits, shaded.colour, result)
    pictures = spread(labels, hits.pixel, behind.numel())
    if fragments:
        lay_over(canvas, Fragments.joined(fragments), targets, camera.R[0].numpy(), backdrop, pictures)
    return finish(backdrop, behind, pictures)


def empty_background(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Black, infinitely far away."""
    return torch.zeros(*size, 3), torch.full(size, torch.inf), torch.zeros(*size, 3)


def opaque_canvas(
    backdrop: np.ndarray,
    behind: Tensor,
    hits: Hits,
    colour: np.ndarray,
    result: np.ndarray,
    owners: np.ndarray,
    factor: int,
) -> Canvas:
    """Every sample of the opaque picture: the background (3, H W), and colours (3, M) by `result` (S, n) over it."""
    (height, width), whole = behind.shape, np.ones((factor, factor), np.float32)
    depth = np.kron(behind.numpy(), whole) + np.float32(0.05)
    colours = backdrop.reshape(3, height, width).repeat(factor, 1).repeat(factor, 2).reshape(3, -1)
    person = np.zeros(depth.size, bool)
    row, column = np.divmod(hits.pixel, width)
    for sample, (covered, which) in enumerate(zip(hits.covered, result, strict=True)):
        cell = (row * factor + sample // factor) * (width * factor) + column * factor + sample % factor
        cell = cell[covered]
        depth.ravel()[cell], colours[:, cell] = hits.depth[sample, covered], colour[:, which[covered]]
        person[cell] = owners.take(hits.surface[sample, covered]) > 0
    return Canvas((height, width), factor, depth, colours, person)


def thin_fragments(
    scene: Scene, posed: PosedPeople, camera: Camera, lights: Lights, shadow: ShadowMap, canvas: Canvas
) -> list[Fragments]:
    """The fragments of everybody's strands and lenses that nothing opaque hides."""
    found = [
        strand_fragments(group, number + 1, posed, camera, lights, shadow, canvas)
        for number, groups in enumerate(scene.strands)
        for group in groups
    ]
    faces = np.flatnonzero(scene.lenses())
    if len(faces):
        surface = scene.surface[faces]
        glasses = [getattr(s.style, "glasses", None) or Glasses() for s in scene.surfaces]
        owner, faces = scene.owner.numpy()[surface], scene.faces.index_select(0, torch.from_numpy(faces))
        found.append(lens_fragments(scene.vertices, faces, glasses, owner, surface, camera, lights, canvas))
    return [fragments for fragments in found if fragments is not None]


def average_into(image: np.ndarray, hits: Hits, colour: np.ndarray, result: np.ndarray) -> None:
    """Put colours (3, M) over a picture (3, H W) in place; `result` (S, n) is which of them each sample has."""
    mixed = image.take(hits.pixel, 1) * (1 - hits.covered.mean(0, dtype=np.float32))
    for covered, which in zip(hits.covered, result, strict=True):
        mixed += colour.take(which, 1) * (covered / np.float32(len(result)))
    image[:, hits.pixel] = mixed


def pick_labels(
    hits: Hits, shaded: Shaded, result: np.ndarray, owners: np.ndarray, camera: Camera, held: bool = False
) -> dict[str, np.ndarray]:
    """alpha, depth, normals, parts and instances (..., n) of the covered pixels.

    A pixel is labelled when people cover half of it (an object's depth counts when both do): the sample of a person
    that is nearest names instance, class and normal. Its depth is the mean over that person's samples near that depth,
    which is second-order exact at the pixel's centre. With `held`, what people hold counts in alpha, and only there.
    """
    owner = np.where(hits.covered, owners.take(hits.surface), 0)  # (S, n)
    alpha = (owner > 0).mean(0, dtype=np.float32)
    person = alpha >= 0.5
    labelled = person | (hits.covered.mean(0, dtype=np.float32) >= 0.5)
    eligible = hits.covered & ((owner > 0) | ~person)
    distance = np.where(eligible, hits.depth, np.float32(np.inf))
    chosen, nearest = distance.argmin(0)[None], distance.min(0)
    instance, best = (np.take_along_axis(values, chosen, 0)[0] for values in (owner, result))
    same = eligible & (owner == instance) & (hits.depth < nearest * 1.004 + 0.01)
    depth = np.where(same, hits.depth, 0).sum(0) / np.maximum(same.sum(0, dtype=np.float32), 1)
    normals = camera.R[0].numpy() @ shaded.normal.take(best, 1) * np.float32([[1], [-1], [-1]])
    alpha = alpha + (owner == HELD).mean(0, dtype=np.float32) if held else alpha
    return {
        "alpha": alpha, "depth": np.where(labelled, depth, np.inf), "normals": normals * person,
        "parts": shaded.part.take(best) * person, "instances": instance * person,
    }  # fmt: skip


def spread(labels: dict[str, np.ndarray], pixel: np.ndarray | None, count: int) -> dict[str, np.ndarray]:
    """Labels (..., n) of the pixels (n,) as labels (..., count) of all pixels."""
    pictures = {"depth": np.full(count, np.inf, np.float32), "normals": np.zeros((3, count), np.float32)}
    pictures |= {"alpha": np.zeros(count, np.float32)} | {n: np.zeros(count, np.uint8) for n in ("parts", "instances")}
    for name, values in labels.items():
        pictures[name][..., pixel] = values
    return pictures


def finish(
    image: np.ndarray, behind: Tensor, labels: dict[str, np.ndarray], pixel: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Spread labels (..., n) of the pixels (n,) over whole pictures, and add the depth of the whole scene."""
    pictures = labels if pixel is None and labels else spread(labels, pixel, behind.numel())
    pictures["image"] = image.clip(0, 1)
    pictures["scene_depth"] = np.minimum(pictures["depth"], behind.numpy().ravel())
    return {
        name: values.reshape(-1, *behind.shape).transpose(1, 2, 0) if values.ndim > 1 else values.reshape(behind.shape)
        for name, values in pictures.items()
    }

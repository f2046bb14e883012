"""Pictures of people with every label: one mesh of everything, rasterised once from the camera and once from the light.

Coverage is supersampled (2 x 2 samples a pixel unless told otherwise); colours are worked out for the samples that are
covered, then averaged. Labels come from the surface that covers most of a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import rasterize
from course_lib.data.appearance import paint_surface
from course_lib.data.lighting import Lights, ShadowMap, dot, shadow_map, to_linear, unit
from course_lib.data.parts import PART_IDS, SKIN_CLASSES
from course_lib.data.person import Person, PosedPeople, pose_people
from course_lib.data.shading import light, shade_background
from course_lib.data.surfaces import DressedMesh, Surface, pose_mesh, renumber
from course_lib.data.texture import Paint, Samples
from course_lib.data.wardrobe import dress
from course_lib.threads import one_thread


class Background(Protocol):
    """What stands behind people: colours (H, W, 3) as on a screen, depth (H, W) in metres (inf: sky, shown as it is),
    world normals (H, W, 3)."""

    def render(self, camera: Camera, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]: ...


class ObjectMesh(Protocol):
    """A coloured thing in world coordinates: vertices (V, 3), faces (F, 3), colours (V, 3), normals (V, 3)."""

    vertices: Tensor
    faces: Tensor
    colours: Tensor
    normals: Tensor


OBJECT = Surface("object", 0, None, two_sided=True)
_SKIN_PARTS = torch.tensor([PART_IDS[name] for name in SKIN_CLASSES])


@dataclass
class Scene:
    """Everything in one mesh. vertices (N, 3), normals (N, 3), attributes (N, 11 = rest + fields), classes (N, 14),
    turns (N, 9), faces (F, 3), outward (F, 3) their normals, twice their area long, surface (F,) into `surfaces`;
    casting (C, 3) are faces of a coarser mesh that casts shadows; owner (S,) is 0 for objects, 1.. for people."""

    vertices: Tensor
    normals: Tensor
    attributes: Tensor
    classes: Tensor
    turns: Tensor
    faces: Tensor
    outward: Tensor
    surface: Tensor
    casting: Tensor
    surfaces: list[Surface]
    owner: Tensor

    def two_sided(self) -> Tensor:
        """Which faces (F,) are drawn from behind as well: cloth and hair."""
        return torch.tensor([s.two_sided for s in self.surfaces])[self.surface]

    def casters(self) -> tuple[Tensor, Tensor]:
        """The mesh that casts shadows: vertices (M, 3), faces (C, 3)."""
        used, faces = renumber(self.casting.numpy(), len(self.vertices))
        return self.vertices.index_select(0, torch.from_numpy(used)), torch.from_numpy(faces)

    def front(self, camera: Camera) -> Tensor:
        """Which faces (F,) turn their outer side to the camera."""
        corner = self.vertices.index_select(0, self.faces[:, 0].contiguous())
        return dot(self.outward, camera.center[0] - corner) > 0


def gather_scene(people: list[Person], posed: PosedPeople | None, objects: Sequence[ObjectMesh]) -> Scene:
    """Dress and pose everyone, and put people and objects into one mesh."""
    parts, surfaces, owner = [], [], []
    for index, person in enumerate(people):
        mesh = dress(person)
        parts.append(person_part(mesh, posed, index))
        surfaces += mesh.surfaces
        owner += [index + 1] * len(mesh.surfaces)
    for thing in objects:
        parts.append(object_part(thing))
        surfaces.append(OBJECT)
        owner.append(0)
    vertex_count = np.cumsum([0] + [len(p["vertices"]) for p in parts])
    surface_count = np.cumsum([0] + [int(p["surface"].max()) + 1 for p in parts])
    for part, vertices, number in zip(parts, vertex_count, surface_count, strict=False):
        part["faces"], part["casting"] = part["faces"] + int(vertices), part["casting"] + int(vertices)
        part["surface"] = part["surface"] + int(number)
    columns = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return Scene(**columns, surfaces=surfaces, owner=torch.tensor(owner))


def person_part(mesh: DressedMesh, posed: PosedPeople, index: int) -> dict[str, Tensor]:
    """The columns of a Scene for one dressed person."""
    placed = pose_mesh(mesh, posed, index)
    outward = face_normals(placed.vertices, mesh.faces)
    normals = torch.from_numpy(mesh.fans @ outward.numpy())
    attributes = torch.cat([mesh.rest, mesh.fields], 1)
    return {
        "vertices": placed.vertices, "normals": normals, "attributes": attributes, "classes": mesh.classes,
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
        "outward": face_normals(vertices, faces), "surface": torch.zeros(len(faces), dtype=torch.int64),
        "casting": faces,
    }  # fmt: skip


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals (F, 3) of faces, twice their area long."""
    a, b, c = vertices.index_select(0, faces.flatten()).view(-1, 3, 3).unbind(1)
    return torch.linalg.cross(b - a, c - a)


# ---------------------------------------------------------------- what is seen where


def scaled(camera: Camera, factor: int) -> Camera:
    """The same view on a picture of `factor` times the size."""
    K = camera.K.clone()
    K[:, :2] *= factor
    return Camera(K, camera.R, camera.t)


@dataclass
class Hits:
    """Covered pixels (n,) and their S samples (n, S): whether covered, the face, its surface, the depth; place (n, S)
    is the sample's place among all barycentrics (S H W, 3)."""

    pixel: Tensor
    covered: Tensor
    face: Tensor
    surface: Tensor
    depth: Tensor
    place: Tensor
    barycentric: Tensor

    def hidden(self, count: int) -> Tensor:
        """Which of `count` pixels show nothing of the background: (count,) bool."""
        flags = torch.zeros(count, dtype=torch.bool)
        flags[self.pixel] = self.covered.all(1)
        return flags


def visible_samples(scene: Scene, front: Tensor, camera: Camera, factor: int, behind: Tensor) -> Hits:
    """Rasterise at `factor` times the size; samples behind the background's depth (H, W) do not count."""
    ids = (front | scene.two_sided()).nonzero()[:, 0]
    top, bottom, left, right = window(scene.vertices, camera, behind.shape)
    height, width = bottom - top, right - left
    lens = scaled(shifted(camera, top, left), factor)
    fragments = rasterize(scene.vertices[None], scene.faces[ids], lens, (height * factor, width * factor))
    blocks = fragments.face.view(height, factor, width, factor).transpose(1, 2).reshape(-1, factor**2)
    pixel = (blocks >= 0).any(1).nonzero()[:, 0]
    row, column = pixel // width, pixel % width
    inside = torch.arange(factor)[:, None] * (width * factor) + torch.arange(factor)
    place = ((row * (width * factor) + column) * factor)[:, None] + inside.flatten()  # (n, S)
    depth, face = take(fragments.depth.view(-1), place), blocks.index_select(0, pixel)
    pixel = (row + top) * behind.shape[1] + column + left
    covered = (face >= 0) & (depth < take(behind.flatten(), pixel)[:, None] + 0.05)
    face = take(ids, face.clamp(min=0))
    surface = torch.where(covered, take(scene.surface, face), -1)
    return Hits(pixel, covered, face, surface, depth, place, fragments.barycentric.view(-1, 3))


def window(points: Tensor, camera: Camera, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the part of a picture that holds all points (N, 3); the whole if one is near."""
    height, width = size
    ahead = points @ camera.R[0].T + camera.t[0]
    if float(ahead[:, 2].min()) < 0.05:
        return 0, height, 0, width
    spots = ahead[:, :2] / ahead[:, 2:] * camera.K[0, [0, 1], [0, 1]] + camera.K[0, :2, 2]
    (left, top), (right, bottom) = spots.amin(0).floor().int().tolist(), spots.amax(0).ceil().int().tolist()
    top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
    return top, min(max(bottom, top + 1), height), left, min(max(right, left + 1), width)


def shifted(camera: Camera, top: int, left: int) -> Camera:
    """The same view on the part of a picture that begins at row `top` and column `left`."""
    K = camera.K.clone()
    K[:, 0, 2] -= left
    K[:, 1, 2] -= top
    return Camera(K, camera.R, camera.t)


def take(values: Tensor, places: Tensor) -> Tensor:
    """values[places] for a row of values (N,), several times faster."""
    return values.index_select(0, places.flatten()).view(places.shape)


def first_alike(kind: Tensor) -> Tensor:
    """For each of the samples kind (n, S) of a pixel, the first of that pixel with the same value: (n, S) in 0..S-1."""
    first = torch.zeros_like(kind)
    for sample in range(kind.shape[1] - 1, 0, -1):
        first = torch.where(kind == kind[:, sample : sample + 1], sample, first)
    return torch.where(kind == kind[:, :1], 0, first)


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
    depth: Tensor
    inside: Tensor
    stretches: list[tuple[Surface, slice]]


@dataclass
class Shaded:
    """Results of a set of samples: colour (M, 3) on the screen, part (M,), normal (M, 3) geometric, in the world."""

    colour: Tensor
    part: Tensor
    normal: Tensor


def shade_hits(scene: Scene, hits: Hits, front: Tensor, camera: Camera, lights: Lights, shadow: ShadowMap, every: bool):
    """Colour the samples of all pixels; unless `every`, those of one pixel and surface share their first one's colour.

    Returns the results (M rows), the row (n, S) of each sample, each row's pixel (M,) and number of samples (M,).
    """
    count, samples = hits.surface.shape
    own = torch.arange(samples).expand(count, samples)
    first = own if every else first_alike(hits.surface)
    shared = torch.zeros(count, samples).scatter_add_(1, first, hits.covered.float())
    chosen = ((first == own) & hits.covered).flatten().nonzero()[:, 0]
    chosen = take(chosen, torch.argsort(take(hits.surface.flatten(), chosen), stable=True))
    row = torch.zeros(count * samples, dtype=torch.int64)
    row[chosen] = torch.arange(len(chosen))
    face = take(hits.face.flatten(), chosen)
    kinds, lengths = take(hits.surface.flatten(), chosen).unique_consecutive(return_counts=True)
    ends = lengths.cumsum(0).tolist()
    stretches = [
        (scene.surfaces[k], slice(e - n, e)) for k, e, n in zip(kinds.tolist(), ends, lengths.tolist(), strict=True)
    ]
    points = Points(
        scene.faces.index_select(0, face),
        hits.barycentric.index_select(0, take(hits.place.flatten(), chosen)),
        take(hits.depth.flatten(), chosen),
        ~take(front, face),
        stretches,
    )
    shaded = shade_points(scene, points, camera, lights, shadow)
    return (
        shaded,
        row.view(count, samples).gather(1, first),
        take(hits.pixel, chosen // samples),
        take(shared.flatten(), chosen),
    )


def shade_points(scene: Scene, points: Points, camera: Camera, lights: Lights, shadow: ShadowMap) -> Shaded:
    """Paint every surface's samples, then light them all together."""
    packed = torch.cat([scene.attributes, scene.vertices, scene.normals], 1)
    values = blend_corners(packed, points.corners, points.barycentric)
    attributes, position, normal = values[:, :11], values[:, 11:14], values[:, 14:]
    view = unit(camera.center[0] - position)
    normal = facing_normal(normal, view, points.inside)
    footprint = points.depth / camera.K[0, 0, 0]
    turns = scene.turns.index_select(0, points.corners[:, 0].contiguous()).view(-1, 3, 3)
    paints = []
    for (kind, _), alike in groupby(points.stretches, key=lambda s: (s[0].kind, id(s[0].style))):
        alike = list(alike)  # both shoes are painted at once, then each gets its class
        rows = slice(alike[0][1].start, alike[-1][1].stop)
        rest, fields = attributes[rows, :3], attributes[rows, 3:]
        s = Samples(rest, fields, normal[rows], view[rows], turns[rows], footprint[rows], points.inside[rows])
        own = paint_object(s) if kind == "object" else paint_surface(alike[0][0], s)
        own.part = decide_part(own.part, alike, scene, points)
        paints.append(own)
    paint = Paint(*(torch.cat(column) for column in zip(*(vars(p).values() for p in paints), strict=True)))
    occlusion = torch.lerp(attributes[:, 4], torch.ones(len(values)), paint.open)
    return Shaded(light(paint, position, normal, view, occlusion, lights, shadow), paint.part, normal)


def facing_normal(normal: Tensor, view: Tensor, inside: Tensor) -> Tensor:
    """Interpolated normals (M, 3), unit, on the side that is seen; at outlines they are kept from turning away."""
    normal = unit(normal)
    normal = torch.where(inside[:, None], -normal, normal)
    away = (dot(normal, view) - 0.02).clamp_(max=0)
    return unit(normal - away[:, None] * view)


def paint_object(s: Samples) -> Paint:
    """An object's own colours."""
    paint = Paint.blank(len(s.rest))
    paint.albedo, paint.normal = to_linear(s.rest.clamp(0, 1)), s.normal
    paint.specular = paint.specular + 0.02
    return paint


def decide_part(painted: Tensor, stretches: list[tuple[Surface, slice]], scene: Scene, points: Points) -> Tensor:
    """The classes of some surfaces' samples: what was painted, else the surface's own, or for skin the joints'."""
    usual = []
    for surface, rows in stretches:
        if surface.part is None:
            share = blend_corners(scene.classes, points.corners[rows], points.barycentric[rows])
            usual.append(_SKIN_PARTS[share.argmax(1)])
        else:
            usual.append(torch.full((rows.stop - rows.start,), surface.part))
    return torch.where(painted >= 0, painted, torch.cat(usual))


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
) -> dict[str, np.ndarray]:
    """Draw people with their labels, as numpy arrays.

    image (H, W, 3) float32 in [0, 1]; alpha (H, W) share of a pixel that people cover; depth (H, W) of people and
    objects in metres, inf elsewhere; scene_depth (H, W) with the background's; normals (H, W, 3) camera convention, 0
    outside; parts (H, W) and instances (H, W) uint8: 0 none, instances 1.. in the order given. A pixel is labelled when
    people cover half of it. Without a background the picture is black behind people. `every_sample` colours each of
    the supersample^2 samples of a pixel on its own, instead of once a pixel and surface.
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
    shaded, row, pixel, number = shade_hits(scene, hits, front, camera, lights, shadow, every_sample)
    average_into(backdrop.view(-1, 3), hits, shaded, pixel, number)
    return finish(backdrop, behind, pick_labels(hits, shaded, row, scene.owner, camera), hits.pixel)


def empty_background(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Black, infinitely far away."""
    return torch.zeros(*size, 3), torch.full(size, torch.inf), torch.zeros(*size, 3)


def average_into(image: Tensor, hits: Hits, shaded: Shaded, pixel: Tensor, number: Tensor) -> None:
    """Put colours over a picture (H W, 3) in place: `number` (M,) of a pixel's samples have each colour."""
    share = hits.covered.float().mean(1, keepdim=True)
    image[hits.pixel] *= 1 - share
    image.index_add_(0, pixel, shaded.colour * (number / hits.covered.shape[1])[:, None])


def pick_labels(hits: Hits, shaded: Shaded, row: Tensor, owners: Tensor, camera: Camera) -> dict[str, Tensor]:
    """alpha, depth, normals, parts and instances (n, ...) of the covered pixels.

    A pixel is labelled when people cover half of it (an object's depth counts when both do): the sample of a person
    that is nearest names instance, class and normal. Its depth is the mean over that person's samples near that depth,
    which is second-order exact at the pixel's centre.
    """
    owner = torch.where(hits.covered, take(owners, hits.surface.clamp(min=0)), 0)  # (n, S)
    alpha = (owner > 0).float().mean(1)
    person = alpha >= 0.5
    labelled = person | (hits.covered.float().mean(1) >= 0.5)
    eligible = hits.covered & ((owner > 0) | ~person[:, None])
    nearest, chosen = torch.where(eligible, hits.depth, torch.inf).min(1, keepdim=True)
    instance, best = owner.gather(1, chosen), row.gather(1, chosen)[:, 0]
    same = eligible & (owner == instance) & (hits.depth < nearest * 1.004 + 0.01)
    depth = torch.where(same, hits.depth, 0).sum(1) / same.sum(1).clamp(min=1)
    normals = (shaded.normal.index_select(0, best) @ camera.R[0].T) * torch.tensor([1.0, -1.0, -1.0])
    return {
        "alpha": alpha, "depth": torch.where(labelled, depth, torch.inf), "normals": normals * person[:, None],
        "parts": take(shaded.part, best) * person, "instances": instance[:, 0] * person,
    }  # fmt: skip


def finish(
    image: Tensor, behind: Tensor, labels: dict[str, Tensor], pixel: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Spread labels (n, ...) of the pixels (n,) over whole pictures, and add the depth of the whole scene."""
    size = behind.shape
    pictures = {"depth": torch.full(size, torch.inf), "normals": torch.zeros(*size, 3), "alpha": torch.zeros(size)}
    pictures |= {name: torch.zeros(size, dtype=torch.uint8) for name in ("parts", "instances")}
    for name, values in labels.items():
        pictures[name].view(-1, *values.shape[1:])[pixel] = values.to(pictures[name].dtype)
    pictures["image"] = image.clamp(0, 1)
    pictures["scene_depth"] = torch.minimum(pictures["depth"], behind)
    return {name: values.numpy() for name, values in pictures.items()}

"""Pictures of people with every label: one mesh of everything, rasterised once from the camera and once from the light.

Coverage is supersampled (2 x 2 samples a pixel unless told otherwise); colours are worked out for the samples that are
covered, then averaged. Labels come from the surface that covers most of a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import rasterize, vertex_normals
from course_lib.data.appearance import Paint, Samples, paint_surface
from course_lib.data.lighting import (
    Lights,
    ShadowMap,
    ambient,
    blinn,
    shadow_map,
    strand_highlight,
    sun_visibility,
    tone_map,
    wrapped,
)
from course_lib.data.parts import PART_IDS, SKIN_CLASSES
from course_lib.data.person import Person, PosedPeople, pose_people
from course_lib.data.surfaces import Surface, pose_mesh
from course_lib.data.wardrobe import dress


class Background(Protocol):
    """What stands behind people: colours (H, W, 3) as seen on a screen, depth (H, W) in metres (inf: sky, shown as it is),
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
_FLESH = torch.tensor([0.38, 0.16, 0.10])  # how far light reaches around an edge of skin: red farthest


@dataclass
class Scene:
    """Everything in one mesh. vertices (N, 3), normals (N, 3), attributes (N, 9 = rest + fields), classes (N, 14),
    turns (N, 9), faces (F, 3), surface (F,) into `surfaces`; owner (S,) is 0 for objects, 1.. for people."""

    vertices: Tensor
    normals: Tensor
    attributes: Tensor
    classes: Tensor
    turns: Tensor
    faces: Tensor
    surface: Tensor
    surfaces: list[Surface]
    owner: Tensor

    def two_sided(self) -> Tensor:
        """Which faces (F,) are drawn from behind as well: cloth and hair."""
        return torch.tensor([s.two_sided for s in self.surfaces])[self.surface]


def gather_scene(people: list[Person], posed: PosedPeople | None, objects: Sequence[ObjectMesh]) -> Scene:
    """Dress and pose everyone, and put people and objects into one mesh."""
    columns = {k: [] for k in ("vertices", "attributes", "classes", "turns", "faces", "surface", "normals")}
    surfaces, owner, count = [], [], 0
    for index, person in enumerate(people):
        mesh = dress(person)
        placed = pose_mesh(mesh, posed, index)
        vertices = placed.vertices
        columns["vertices"].append(vertices)
        columns["normals"].append(vertex_normals(vertices[None], mesh.faces)[0])
        columns["attributes"].append(torch.cat([mesh.rest, mesh.fields], 1))
        columns["classes"].append(mesh.classes)
        columns["turns"].append(placed.turns.flatten(1))
        columns["faces"].append(mesh.faces + count)
        columns["surface"].append(mesh.surface + len(surfaces))
        surfaces += mesh.surfaces
        owner += [index + 1] * len(mesh.surfaces)
        count += len(vertices)
    for thing in objects:
        vertices = torch.as_tensor(thing.vertices, dtype=torch.float32)
        n = len(vertices)
        colours = torch.as_tensor(thing.colours, dtype=torch.float32)
        columns["vertices"].append(vertices)
        columns["normals"].append(torch.as_tensor(thing.normals, dtype=torch.float32))
        columns["attributes"].append(torch.cat([colours, torch.ones(n, 6)], 1))
        columns["classes"].append(torch.zeros(n, len(SKIN_CLASSES)))
        columns["turns"].append(torch.eye(3).flatten().expand(n, 9))
        columns["faces"].append(torch.as_tensor(thing.faces).long() + count)
        columns["surface"].append(torch.full((len(thing.faces),), len(surfaces)))
        surfaces.append(OBJECT)
        owner.append(0)
        count += n
    return Scene(**{k: torch.cat(v) for k, v in columns.items()}, surfaces=surfaces, owner=torch.tensor(owner))


def front_faces(scene: Scene, camera: Camera) -> Tensor:
    """Which faces (F,) turn their outer side to the camera."""
    a, b, c = (scene.vertices.index_select(0, scene.faces[:, i]) for i in range(3))
    return (torch.linalg.cross(b - a, c - a) * (camera.center[0] - a)).sum(1) > 0


def scaled(camera: Camera, factor: int) -> Camera:
    """The same view on a picture of `factor` times the size."""
    K = camera.K.clone()
    K[:, :2] *= factor
    return Camera(K, camera.R, camera.t)


@dataclass
class Hits:
    """Covered pixels with their samples. pixel (n,) in the final picture; per sample (n, S): covered, face, depth, and
    barycentric (n, S, 3)."""

    pixel: Tensor
    covered: Tensor
    face: Tensor
    depth: Tensor
    barycentric: Tensor


def visible_samples(
    scene: Scene, front: Tensor, camera: Camera, size: tuple[int, int], factor: int, behind: Tensor
) -> Hits:
    """Rasterise at `factor` times the size; samples behind the background's depth (H, W) do not count."""
    ids = (front | scene.two_sided()).nonzero()[:, 0]
    height, width = size
    fragments = rasterize(
        scene.vertices[None], scene.faces[ids], scaled(camera, factor), (height * factor, width * factor)
    )

    def by_pixel(values: Tensor) -> Tensor:
        """(H f, W f) -> (H W, f f)"""
        return values.view(height, factor, width, factor).transpose(1, 2).reshape(height * width, factor**2)

    face, depth = by_pixel(fragments.face[0]), by_pixel(fragments.depth[0])
    covered = (face >= 0) & (depth < behind.flatten()[:, None] + 0.05)
    pixel = covered.any(1).nonzero()[:, 0]
    covered, face = covered[pixel], ids[face[pixel].clamp(min=0)]
    place = torch.arange(height * width * factor**2).view(height * factor, width * factor)
    barycentric = fragments.barycentric.view(-1, 3)[by_pixel(place)[pixel]]
    return Hits(pixel, covered, face, depth[pixel], barycentric)


def blend_corners(values: Tensor, corners: Tensor, share: Tensor) -> Tensor:
    """Interpolate vertex values (N, C) over faces with corners (M, 3) by barycentrics (M, 3): (M, C)."""
    a, b, c = (values.index_select(0, corners[:, i]) for i in range(3))
    return a.mul_(share[:, :1]).addcmul_(b, share[:, 1:2]).addcmul_(c, share[:, 2:])


def first_alike(kind: Tensor) -> Tensor:
    """For each of the samples kind (n, S) of a pixel, the first of that pixel with the same value: (n, S) in 0..S-1."""
    first = torch.zeros_like(kind)
    for sample in range(kind.shape[1] - 1, -1, -1):
        first = torch.where(kind == kind[:, sample : sample + 1], sample, first)
    return first


@dataclass
class Points:
    """Samples to be shaded: face (M,), barycentric (M, 3), depth (M,), and whether the face's outer side is seen (M,)."""

    face: Tensor
    barycentric: Tensor
    depth: Tensor
    front: Tensor


@dataclass
class Shaded:
    """Results of a set of samples: colour (M, 3) on the screen, part (M,), normal (M, 3) geometric, in the world."""

    colour: Tensor
    part: Tensor
    normal: Tensor


def shade_samples(scene: Scene, hits: Points, camera: Camera, lights: Lights, shadow: ShadowMap) -> Shaded:
    """Paint every surface's samples, then light them all together."""
    corners = scene.faces[hits.face]
    packed = torch.cat([scene.attributes, scene.vertices, scene.normals], 1)
    values = blend_corners(packed, corners, hits.barycentric)
    attributes, position, normal = values[:, :9], values[:, 9:12], torch.nn.functional.normalize(values[:, 12:], dim=1)
    view = torch.nn.functional.normalize(camera.center[0] - position, dim=1)
    surface, inside = scene.surface[hits.face], ~hits.front
    normal = torch.where(inside[:, None], -normal, normal)
    away = ((normal * view).sum(1, keepdim=True) - 0.02).clamp(max=0)  # smooth normals may turn away at outlines
    normal = torch.nn.functional.normalize(normal - away * view, dim=1)
    footprint = hits.depth / camera.K[0, 0, 0]
    count = len(hits.face)
    paint = Paint.blank(count)
    part = torch.zeros(count, dtype=torch.int64)
    for index in surface.unique().tolist():
        rows = (surface == index).nonzero()[:, 0]
        item = scene.surfaces[index]
        first = corners[rows, 0]
        s = Samples(
            attributes[rows, :3], attributes[rows, 3:], normal[rows], view[rows],
            scene.turns[first].view(-1, 3, 3), footprint[rows], inside[rows],
        )  # fmt: skip
        own = paint_surface(item, s) if item.kind != "object" else paint_object(s)
        for name in vars(paint):
            getattr(paint, name)[rows] = getattr(own, name)
        part[rows] = decide_part(item, own, scene, hits, corners, rows)
    occlusion = torch.lerp(attributes[:, 4], torch.ones(count), paint.open)
    return Shaded(light(paint, position, normal, view, occlusion, lights, shadow), part, normal)


def paint_object(s: Samples) -> Paint:
    """An object's own colours."""
    paint = Paint.blank(len(s.rest))
    paint.albedo, paint.normal = s.rest.clamp(0, 1) ** 2, s.normal
    paint.specular = paint.specular + 0.02
    return paint


def decide_part(item: Surface, own: Paint, scene: Scene, hits: Points, corners: Tensor, rows: Tensor) -> Tensor:
    """The class of samples `rows` of one surface: the surface's own, or where skin says so that of the joints."""
    if item.part is not None:
        return torch.where(own.part >= 0, own.part, item.part)
    share = blend_corners(scene.classes, corners[rows], hits.barycentric[rows])
    return torch.where(own.part >= 0, own.part, _SKIN_PARTS[share.argmax(1)])


def light(
    paint: Paint, position: Tensor, geometric: Tensor, view: Tensor, occlusion: Tensor, lights: Lights, shadow
) -> Tensor:
    """Screen colours (M, 3) of painted samples under all lights."""
    normal = paint.normal
    sun = normal.new_tensor(lights.sun_direction)
    seen = sun_visibility(shadow, position, geometric, lights)
    wrap = paint.flesh[:, None] * _FLESH
    sunlight = normal.new_tensor(lights.sun_colour)
    diffuse = wrapped(normal @ sun, wrap) * (seen[:, None] ** (1 - 0.4 * wrap))
    total = paint.albedo * (diffuse * sunlight + ambient(lights, normal) * bounced(occlusion, paint.albedo))
    lit = seen * ((normal @ sun) > 0)
    facing = (normal * view).sum(1).clamp(0, 1)
    fresnel = paint.specular + (1 - paint.specular) * 0.16 * (1 - facing) ** 5 * (paint.gloss / (paint.gloss + 40))
    shine = blinn(normal, view, sun.expand_as(view), paint.gloss) * lit
    total += (fresnel * shine)[:, None] * sunlight * 1.6
    mirror = 2 * facing[:, None] * normal - view
    total += (fresnel * occlusion * 0.7)[:, None] * ambient(lights, mirror)
    total += (paint.sheen * (1 - facing) ** 3 * occlusion)[:, None] * paint.albedo.sqrt() * ambient(lights, normal)
    hairy = (paint.strand > 0).nonzero()[:, 0]
    if len(hairy):
        total[hairy] += hair_light(paint, view, seen, sun, sunlight, lights, hairy)
    for lamp in lights.points:
        away = normal.new_tensor(lamp.position) - position
        distance = away.norm(dim=1, keepdim=True)
        towards = away / distance
        fall = normal.new_tensor(lamp.colour) / distance**2
        total += paint.albedo * wrapped((normal * towards).sum(1), wrap) * fall * occlusion[:, None]
        total += (fresnel * blinn(normal, view, towards, paint.gloss))[:, None] * fall
    return tone_map(total, lights.exposure)


def bounced(occlusion: Tensor, albedo: Tensor) -> Tensor:
    """Occlusion (M,) per colour (M, 3): bright surfaces light their own hollows (Jimenez et al. 2016, Eq. 7)."""
    a, b, c = 2.0404 * albedo - 0.3324, 0.6417 - 4.7951 * albedo, 2.7552 * albedo + 0.6903
    x = occlusion[:, None]
    return torch.maximum(x, ((x * a + b) * x + c) * x)


def hair_light(paint: Paint, view, seen, sun, sunlight, lights: Lights, rows: Tensor) -> Tensor:
    """Two highlights of strands: a white one, and a coloured one nearer the tips (Marschner et al. 2003, simplified)."""
    tangent, strand, colour = paint.tangent[rows], paint.strand[rows], paint.albedo[rows]
    towards = sun.expand_as(tangent)
    above = ramp_sun(paint.normal[rows] @ sun)
    first = strand_highlight(tangent, view[rows], towards, 0.06 * strand, 180.0)
    second = strand_highlight(tangent, view[rows], towards, -0.10 * strand, 40.0)
    key = (strand * seen[rows] * above)[:, None] * sunlight
    overhead = strand_highlight(
        tangent, view[rows], torch.tensor([0.0, 1.0, 0.0]).expand_as(tangent), 0.05 * strand, 60.0
    )
    sky = overhead[:, None] * strand[:, None] * torch.tensor(lights.sky_colour) * (0.02 + 0.25 * colour)
    return key * (0.035 * first[:, None] + 0.45 * second[:, None] * colour) + sky


def ramp_sun(cosine: Tensor) -> Tensor:
    """Fade a highlight in where a surface turns to the light."""
    return (cosine * 2 + 0.4).clamp(0, 1)


# ---------------------------------------------------------------- behind people


def shade_background(colour, depth, normal, camera: Camera, lights: Lights, shadow: ShadowMap | None, joints) -> Tensor:
    """Light a background (H, W): its shadows and the darkness around feet included. Sky (depth inf) stays as it is."""
    height, width = depth.shape
    solid = depth.isfinite() & (depth > 0)
    picture = colour.reshape(-1, 3).clone()
    rows = solid.flatten().nonzero()[:, 0]
    if not len(rows):
        return picture.view(height, width, 3)
    albedo = picture[rows].clamp(0, 1) ** 2
    normals, points = normal.reshape(-1, 3)[rows], points_of(depth, camera)[rows]
    sun = normals.new_tensor(lights.sun_direction)
    seen, occlusion = torch.ones(len(rows)), torch.ones(len(rows))
    if shadow is not None:
        seen = background_visibility(shadow, points, normals, lights)
        occlusion = sphere_occlusion(points, normals, joints)
    light_in = wrapped(normals @ sun, torch.zeros(3)) * seen[:, None] * normals.new_tensor(lights.sun_colour)
    light_in += ambient(lights, normals) * occlusion[:, None]
    for lamp in lights.points:
        away = normals.new_tensor(lamp.position) - points
        distance = away.norm(dim=1).clamp(min=0.3)
        cosine = ((normals * away).sum(1) / distance).clamp(min=0)
        light_in += (cosine / distance**2 * occlusion)[:, None] * normals.new_tensor(lamp.colour)
    picture[rows] = tone_map(albedo * light_in, lights.exposure)
    return picture.view(height, width, 3)


def points_of(depth: Tensor, camera: Camera) -> Tensor:
    """World points (H * W, 3) of a depth picture (H, W)."""
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3) @ torch.linalg.inv(camera.K[0]).T
    depth = torch.where(depth.isfinite(), depth, 0.0).view(-1, 1)
    return (rays * depth - camera.t[0]) @ camera.R[0]


def background_visibility(shadow: ShadowMap, points: Tensor, normals: Tensor, lights: Lights) -> Tensor:
    """Key light (N,) on a background; points outside the shadow map are lit."""
    seen = torch.ones(len(points))
    ahead = shadow.camera.to_camera(points[None])[0]
    pixels = ahead[:, :2] / ahead[:, 2:] * shadow.camera.K[0, 0, 0] + shadow.camera.K[0, :2, 2]
    size = shadow.depth.shape[0]
    near = ((pixels > -4) & (pixels < size + 4)).all(1).nonzero()[:, 0]
    if len(near):
        seen[near] = sun_visibility(shadow, points[near], normals[near], lights)
    return seen


# joints that shut out light from the surroundings, and their radii in metres
_BALLS = {0: 0.15, 4: 0.07, 5: 0.07, 7: 0.065, 8: 0.065, 10: 0.065, 11: 0.065, 9: 0.16}


def sphere_occlusion(points: Tensor, normals: Tensor, joints: Tensor) -> Tensor:
    """How open points (N, 3) are to the sky when balls stand for people's joints (P, 55, 3): (N,) in [0, 1]."""
    open_share = torch.ones(len(points))
    for person in joints:
        near = ((points - person[0]).square().sum(1) < 1.6**2).nonzero()[:, 0]
        (x, y, z), (nx, ny, nz) = points[near].T.contiguous(), normals[near].T.contiguous()
        share = torch.ones(len(near))
        for joint, radius in _BALLS.items():
            cx, cy, cz = person[joint].tolist()
            dx, dy, dz = cx - x, cy - y, cz - z
            squared = (dx * dx + dy * dy + dz * dz).clamp_(min=radius**2)
            cosine = (dx * nx + dy * ny + dz * nz) * squared.rsqrt()
            share *= 1 - 0.85 * radius**2 * cosine.clamp_(0.05, 1) / squared
        open_share[near] *= share
    return open_share


# ---------------------------------------------------------------- the picture


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

    image (H, W, 3) float32 in [0, 1]; alpha (H, W) share of a pixel covered by people; depth (H, W) metres of people and
    objects, inf elsewhere; scene_depth (H, W) with the background's; normals (H, W, 3) camera convention, 0 outside;
    parts (H, W) uint8, instances (H, W) uint8: 0 none, 1.. people in the order given. A pixel is labelled when people
    cover half of it. Without a background the picture is black behind people. `every_sample` colours each of the
    supersample^2 samples of a pixel on its own, instead of once a pixel and surface.
    """
    if not people and not objects and background is None:
        raise ValueError("nothing to draw: give people, objects or a background")
    if posed is None and people:
        posed = pose_people(people)
    height, width = size
    colour, behind, normal = empty_background(size) if background is None else background.render(camera, size)
    joints = posed.joints if people else torch.zeros(0, 55, 3)
    if not people and not objects:
        backdrop = shade_background(colour, behind, normal, camera, lights, None, joints)
        return finish(backdrop, behind, None, None, None, None, camera)
    scene = gather_scene(people, posed, objects)
    shadow = shadow_map(scene.vertices, shadow_faces(scene), lights)
    front = front_faces(scene, camera)
    hits = visible_samples(scene, front, camera, size, supersample, behind)
    backdrop = shade_background(colour, behind, normal, camera, lights, shadow, joints)
    shaded, place = shade_hits(scene, hits, front, camera, lights, shadow, every_sample)
    return finish(backdrop, behind, scene, hits, shaded, place, camera)


def shade_hits(scene: Scene, hits: Hits, front: Tensor, camera: Camera, lights: Lights, shadow: ShadowMap, every: bool):
    """Colour the samples of all pixels; unless `every`, those of one pixel and surface share their first one's colour.

    Returns the results (M rows) and the row (n, S) of each sample."""
    surface = torch.where(hits.covered, scene.surface[hits.face], -1)
    count, samples = surface.shape
    own = torch.arange(samples).expand(count, samples)
    first = own if every else first_alike(surface)
    chosen = (first == own) & hits.covered
    face = hits.face[chosen]
    points = Points(face, hits.barycentric[chosen], hits.depth[chosen], front[face])
    row = torch.full((count, samples), 0)
    row[chosen] = torch.arange(len(points.face))
    return shade_samples(scene, points, camera, lights, shadow), row.gather(1, first)


def empty_background(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Black, infinitely far away."""
    return torch.zeros(*size, 3), torch.full(size, torch.inf), torch.zeros(*size, 3)


def shadow_faces(scene: Scene) -> Tensor:
    """The faces that cast shadows: all but eyes, teeth, lashes and tongues."""
    casts = torch.tensor([s.kind not in ("eye", "teeth", "tongue", "lash") for s in scene.surfaces])
    return scene.faces[casts[scene.surface]]


def finish(backdrop: Tensor, behind: Tensor, scene, hits, shaded, place, camera) -> dict[str, np.ndarray]:
    """Average samples to pixels and pick each pixel's labels."""
    size = behind.shape
    image, scene_depth = backdrop.reshape(-1, 3).clone(), behind.flatten().clone()
    count = len(image)
    labels = {"depth": torch.full((count,), torch.inf), "normals": torch.zeros(count, 3), "alpha": torch.zeros(count)}
    labels |= {name: torch.zeros(count, dtype=torch.uint8) for name in ("parts", "instances")}
    if hits is not None and len(hits.pixel):
        share = hits.covered.float() / hits.covered.shape[1]
        colour = (shaded.colour[place] * share[..., None]).sum(1)
        image[hits.pixel] = colour + image[hits.pixel] * (1 - share.sum(1, keepdim=True))
        owner = scene.owner[scene.surface[hits.face]] * hits.covered
        for name, values in pick_labels(hits, shaded, place, owner, camera).items():
            labels[name][hits.pixel] = values.to(labels[name].dtype)
        scene_depth = torch.minimum(labels["depth"], scene_depth)
    arrays = {"image": image.clamp(0, 1)} | labels | {"scene_depth": scene_depth}
    return {name: values.view(*size, *values.shape[1:]).numpy() for name, values in arrays.items()}


def pick_labels(hits: Hits, shaded: Shaded, place: Tensor, owner: Tensor, camera: Camera) -> dict[str, Tensor]:
    """alpha, depth, normals, parts and instances (n, ...) of the covered pixels, owner (n, S) being each sample's person.

    A pixel is labelled when people cover half of it (with an object's depth when people and objects do): the nearest
    person's sample names instance and class. Depth and normal are means over that owner's samples near that depth,
    which is second-order exact at the pixel's centre.
    """
    alpha = (owner > 0).float().mean(1)
    person = alpha >= 0.5
    labelled = person | (hits.covered.float().mean(1) >= 0.5)
    eligible = hits.covered & ((owner > 0) | ~person[:, None]) & labelled[:, None]
    nearest, chosen = torch.where(eligible, hits.depth, torch.inf).min(1)
    chosen = chosen[:, None]
    instance = owner.gather(1, chosen)
    same = eligible & (owner == instance) & (hits.depth < (nearest * 1.004 + 0.01)[:, None])
    number = same.sum(1).clamp(min=1)
    depth = (hits.depth.nan_to_num(posinf=0) * same).sum(1) / number
    normals = (shaded.normal[place] * same[..., None]).sum(1)
    seen = torch.nn.functional.normalize(normals @ camera.R[0].T, dim=1) * torch.tensor([1.0, -1.0, -1.0])
    part = shaded.part[place.gather(1, chosen)]
    return {
        "alpha": alpha, "depth": torch.where(labelled, depth, torch.inf), "normals": seen * person[:, None],
        "parts": (part * person[:, None])[:, 0], "instances": (instance * person[:, None])[:, 0],
    }  # fmt: skip

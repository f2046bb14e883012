"""Lighting what was painted: people and objects with their highlights, and the background with the shadows on it."""

import torch
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.data.lighting import (
    Lights,
    ShadowMap,
    ambient,
    blinn,
    dot,
    strand_highlight,
    sun_visibility,
    to_linear,
    tone_map,
    wrapped,
)
from course_lib.data.texture import Paint, distance

_FLESH = torch.tensor([0.38, 0.16, 0.10])  # how far light reaches around an edge of skin: red farthest


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
    facing = dot(normal, view).clamp_(0, 1)
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
        distance = dot(away, away).sqrt_()[:, None]
        towards = away / distance
        fall = normal.new_tensor(lamp.colour) / distance**2
        total += paint.albedo * wrapped(dot(normal, towards), wrap) * fall * occlusion[:, None]
        total += (fresnel * blinn(normal, view, towards, paint.gloss))[:, None] * fall
    return tone_map(total, lights.exposure)


def bounced(occlusion: Tensor, albedo: Tensor) -> Tensor:
    """Occlusion (M,) per colour (M, 3): bright surfaces light their own hollows (Jimenez et al. 2016, Eq. 7)."""
    a, b, c = 2.0404 * albedo - 0.3324, 0.6417 - 4.7951 * albedo, 2.7552 * albedo + 0.6903
    x = occlusion[:, None]
    return torch.maximum(x, ((x * a + b) * x + c) * x)


def hair_light(paint: Paint, view, seen, sun, sunlight, lights: Lights, rows: Tensor) -> Tensor:
    """Two highlights of strands: a white one, a coloured one nearer the tips (Marschner et al. 2003, simplified)."""
    tangent, strand, colour = (v.index_select(0, rows) for v in (paint.tangent, paint.strand, paint.albedo))
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


def shade_background(
    colour: Tensor,
    depth: Tensor,
    normal: Tensor,
    camera: Camera,
    lights: Lights,
    shadow: ShadowMap | None,
    joints: Tensor,
    hidden: Tensor | None = None,
) -> Tensor:
    """Light a background (H, W), its shadows and the darkness around feet included. Sky (depth inf) stays as it is, and
    so do pixels that are `hidden` (H W) behind people. joints (P, 55, 3)."""
    height, width = depth.shape
    solid = (depth.isfinite() & (depth > 0)).flatten()
    picture = colour.reshape(-1, 3).clone()
    rows = (solid if hidden is None else solid & ~hidden).nonzero()[:, 0]
    if not len(rows):
        return picture.view(height, width, 3)
    albedo = to_linear(picture.index_select(0, rows).clamp_(0, 1))
    normals, points = normal.reshape(-1, 3).index_select(0, rows), points_of(depth, camera, rows)
    sun = normals.new_tensor(lights.sun_direction)
    seen, occlusion = torch.ones(len(rows)), torch.ones(len(rows))
    if shadow is not None:
        seen = background_visibility(shadow, points, normals, lights)
        occlusion = sphere_occlusion(points, normals, joints)
    received = wrapped(normals @ sun, torch.zeros(3)) * seen[:, None] * normals.new_tensor(lights.sun_colour)
    received += (ambient(lights, normals) + lamp_light(lights, points, normals)) * occlusion[:, None]
    picture.index_copy_(0, rows, tone_map(albedo * received, lights.exposure))
    return picture.view(height, width, 3)


def lamp_light(lights: Lights, points: Tensor, normals: Tensor) -> Tensor:
    """What all lamps send to points (N, 3) with normals (N, 3): (N, 3), or 0 without lamps."""
    total = torch.zeros(1, 3)
    for lamp in lights.points:
        away = normals.new_tensor(lamp.position) - points
        distance = dot(away, away).sqrt_().clamp_(min=0.3)
        cosine = (dot(normals, away) / distance).clamp_(min=0)
        total = total + (cosine / distance**2)[:, None] * normals.new_tensor(lamp.colour)
    return total


def points_of(depth: Tensor, camera: Camera, pixels: Tensor) -> Tensor:
    """World points (N, 3) of some pixels (N,) of a depth picture (H, W), counted row by row."""
    y, x = pixels // depth.shape[1] + 0.5, pixels % depth.shape[1] + 0.5
    turned = torch.linalg.inv(camera.K[0]).T @ camera.R[0]  # from pixels to directions in the world
    rays = torch.addcmul(x[:, None] * turned[0] + turned[2], y[:, None], turned[1])
    return rays.mul_(depth.flatten().index_select(0, pixels)[:, None]).sub_(camera.t[0] @ camera.R[0])


def background_visibility(shadow: ShadowMap, points: Tensor, normals: Tensor, lights: Lights) -> Tensor:
    """Key light (N,) on a background; points outside the shadow map are lit."""
    seen = torch.ones(len(points))
    ahead = points @ shadow.camera.R[0].T + shadow.camera.t[0]
    pixels = ahead[:, :2] / ahead[:, 2:] * shadow.camera.K[0, 0, 0] + shadow.camera.K[0, :2, 2]
    size = shadow.depth.shape[0]
    x, y = pixels.unbind(1)
    near = ((x > -4) & (x < size + 4) & (y > -4) & (y < size + 4)).nonzero()[:, 0]
    if len(near):
        lit = sun_visibility(shadow, points.index_select(0, near), normals.index_select(0, near), lights)
        seen.index_copy_(0, near, lit)
    return seen


# joints that shut out light from the surroundings, and their radii in metres
_BALLS = {0: 0.15, 4: 0.07, 5: 0.07, 7: 0.065, 8: 0.065, 10: 0.065, 11: 0.065, 9: 0.16}
_RADII = torch.tensor(list(_BALLS.values()))


def sphere_occlusion(points: Tensor, normals: Tensor, joints: Tensor) -> Tensor:
    """How open points (N, 3) are to the sky when balls stand for people's joints (P, 55, 3): (N,) in [0, 1]."""
    open_share = torch.ones(len(points))
    for person in joints:
        near = (distance(points, person[0]) < 1.6).nonzero()[:, 0]
        point, normal = points.index_select(0, near) - person[0], normals.index_select(0, near)
        balls = (person[list(_BALLS)] - person[0]).T  # (3, 8)
        squared = (dot(point, point)[:, None] + balls.square().sum(0)).addmm_(point, balls, alpha=-2)
        squared = torch.maximum(squared, _RADII**2)
        ahead = (normal @ balls).sub_(dot(normal, point)[:, None])
        cosine = ahead.mul_(squared.rsqrt()).clamp_(0.05, 1)
        share = cosine.div_(squared).mul_(-0.85 * _RADII**2).add_(1).prod(1)
        open_share.index_copy_(0, near, open_share.index_select(0, near) * share)
    return open_share

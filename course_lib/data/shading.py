"""Lighting what was painted: people and objects with their highlights, and the background with the shadows on it."""

import numpy as np
from torch import Tensor

from course_lib.chapters.cameras import Camera
from course_lib.data.lighting import (
    Lights,
    ShadowMap,
    ambient,
    blinn,
    strand_highlight,
    sun_visibility,
    to_linear,
    tone_map,
    wrapped,
)
from course_lib.data.texture import Paint
from course_lib.data.vectors import as_column, distance, dot

_FLESH = as_column((0.38, 0.16, 0.10))  # how far light reaches around an edge of skin: red farthest


def light(
    paint: Paint,
    position: np.ndarray,
    geometric: np.ndarray,
    view: np.ndarray,
    occlusion: np.ndarray,
    lights: Lights,
    shadow: ShadowMap,
) -> np.ndarray:
    """Screen colours (3, M) of painted samples under all lights. position, geometric (the mesh's own normals) and view
    (3, M) in the world, occlusion (M,) 1 open, 0 closed."""
    normal, sun, sunlight = paint.normal, as_column(lights.sun_direction), as_column(lights.sun_colour)
    seen = sun_visibility(shadow, position, geometric, lights)
    wrap, cosine, around = paint.flesh * _FLESH, dot(normal, sun), ambient(lights, normal)
    diffuse = wrapped(cosine, wrap) * seen ** (1 - 0.4 * wrap)
    total = paint.albedo * (diffuse * sunlight + around * bounced(occlusion, paint.albedo))
    facing = dot(normal, view).clip(0, 1)
    away = 1 - facing
    cubed = away * away * away
    fresnel = paint.specular + (1 - paint.specular) * 0.16 * cubed * away * away * (paint.gloss / (paint.gloss + 40))
    shine = blinn(normal, view, sun, paint.gloss) * (seen * (cosine > 0))
    total += fresnel * shine * (sunlight * 1.6)
    total += fresnel * occlusion * 0.7 * ambient(lights, 2 * facing * normal - view)
    total += paint.sheen * cubed * occlusion * np.sqrt(paint.albedo) * around
    hairy = np.flatnonzero(paint.strand > 0)
    if len(hairy):
        total[:, hairy] += hair_light(paint, view, seen, lights, hairy)
    for lamp in lights.points:
        towards = as_column(lamp.position) - position
        squared = dot(towards, towards)
        towards /= np.sqrt(squared)
        fall = as_column(lamp.colour) / squared
        total += paint.albedo * wrapped(dot(normal, towards), wrap) * fall * occlusion
        total += fresnel * blinn(normal, view, towards, paint.gloss) * fall
    return tone_map(total, lights.exposure)


def bounced(occlusion: np.ndarray, albedo: np.ndarray) -> np.ndarray:
    """Occlusion (M,) per colour (3, M): bright surfaces light their own hollows (Jimenez et al. 2016, Eq. 7)."""
    a, b, c = 2.0404 * albedo - 0.3324, 0.6417 - 4.7951 * albedo, 2.7552 * albedo + 0.6903
    return np.maximum(occlusion, ((occlusion * a + b) * occlusion + c) * occlusion)


def hair_light(paint: Paint, view: np.ndarray, seen: np.ndarray, lights: Lights, rows: np.ndarray) -> np.ndarray:
    """Light (3, N) from the strands of the samples `rows` (N,): a white highlight, a coloured one nearer the tips
    (Marschner et al. 2003, simplified) and the sky. view (3, M), seen (M,) the share of the key light of all samples.
    """
    sun, sunlight = as_column(lights.sun_direction), as_column(lights.sun_colour)
    tangent, strand, colour = (v.take(rows, -1) for v in (paint.tangent, paint.strand, paint.albedo))
    view, above = view.take(rows, 1), (dot(paint.normal.take(rows, 1), sun) * 2 + 0.4).clip(0, 1)  # faded in
    first = strand_highlight(tangent, view, sun, 0.06 * strand, 180.0)
    second = strand_highlight(tangent, view, sun, -0.10 * strand, 40.0)
    overhead = strand_highlight(tangent, view, as_column((0.0, 1.0, 0.0)), 0.05 * strand, 60.0)
    sky = overhead * strand * as_column(lights.sky_colour) * (0.02 + 0.25 * colour)
    return strand * seen[rows] * above * sunlight * (0.035 * first + 0.45 * second * colour) + sky


# ---------------------------------------------------------------- behind people


def shade_background(
    colour: Tensor,
    depth: Tensor,
    normal: Tensor,
    camera: Camera,
    lights: Lights,
    shadow: ShadowMap | None,
    joints: Tensor,
    hidden: np.ndarray | None = None,
) -> np.ndarray:
    """Light a background (H, W), its shadows and the darkness around feet included: (3, H W). Sky (depth inf) stays as
    it is, and so do pixels that are `hidden` (H W) behind people. joints (P, 55, 3)."""
    depth, picture = depth.numpy(), colour.numpy().transpose(2, 0, 1).reshape(3, -1).copy()
    solid = np.isfinite(depth) & (depth > 0)
    rows = np.flatnonzero(solid if hidden is None else solid.ravel() & ~hidden)
    if not len(rows):
        return picture
    albedo = to_linear(picture.take(rows, 1).clip(0, 1))
    normals, points = normal.numpy().transpose(2, 0, 1).reshape(3, -1).take(rows, 1), points_of(depth, camera, rows)
    received = wrapped(dot(normals, as_column(lights.sun_direction)), 0.0) * as_column(lights.sun_colour)
    around = ambient(lights, normals) + lamp_light(lights, points, normals)
    if shadow is not None:
        received *= background_visibility(shadow, points, normals, lights)
        around *= sphere_occlusion(points, normals, joints.numpy())
    picture[:, rows] = tone_map(albedo * (received + around), lights.exposure)
    return picture


def lamp_light(lights: Lights, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """What all lamps send to points (3, N) with normals (3, N): (3, N), or 0 without lamps."""
    total = np.zeros((3, 1), np.float32)
    for lamp in lights.points:
        away = as_column(lamp.position) - points
        squared = np.maximum(dot(away, away), 0.09)  # no nearer than 0.3 m
        total = total + (dot(normals, away) / (squared * np.sqrt(squared))).clip(0) * as_column(lamp.colour)
    return total


def points_of(depth: np.ndarray, camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """World points (3, N) of some pixels (N,) of a depth picture (H, W), counted row by row."""
    turn, shift = camera.R[0].numpy(), camera.t[0].numpy()
    right, down, ahead = (turn.T @ np.linalg.inv(camera.K[0].numpy())).T[:, :, None]  # per pixel, in the world
    y, x = np.divmod(pixels.astype(np.int32), np.int32(depth.shape[1]))
    rays = (x.astype(np.float32) + 0.5) * right + ((y.astype(np.float32) + 0.5) * down + ahead)
    return rays * depth.ravel()[pixels] - (shift @ turn)[:, None]


def background_visibility(shadow: ShadowMap, points: np.ndarray, normals: np.ndarray, lights: Lights) -> np.ndarray:
    """Key light (N,) on a background; points outside the shadow map are lit."""
    seen, last = np.ones(points.shape[1], np.float32), len(shadow.depth) - 1
    column, row, _ = shadow.look(points)
    near = np.flatnonzero((column > -3) & (column < last + 4) & (row > -3) & (row < last + 4))
    if len(near):
        seen[near] = sun_visibility(shadow, points.take(near, 1), normals.take(near, 1), lights)
    return seen


# joints that shut out light from the surroundings, and their radii in metres
_BALLS = {0: 0.15, 4: 0.07, 5: 0.07, 7: 0.065, 8: 0.065, 10: 0.065, 11: 0.065, 9: 0.16}


def sphere_occlusion(points: np.ndarray, normals: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """How open points (3, N) are to the sky when balls stand for people's joints (P, 55, 3): (N,) in [0, 1]."""
    open_share = np.ones(points.shape[1], np.float32)
    for person in joints[..., None]:
        near = np.flatnonzero(distance(points, person[0]) < 1.6)
        point, normal, share = points.take(near, 1), normals.take(near, 1), 1.0
        for joint, radius in _BALLS.items():
            away = person[joint] - point
            squared = np.maximum(dot(away, away), radius**2)
            cosine = (dot(normal, away) / np.sqrt(squared)).clip(0.05, 1)
            share = share * (1 - 0.85 * radius**2 * cosine / squared)
        open_share[near] *= share
    return open_share

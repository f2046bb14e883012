"""Clothes pixel by pixel: prints, seams, weave and folds, in cylinder coordinates of trunk, sleeves and legs."""

from dataclasses import dataclass

import numpy as np

from course_lib.data.face import face_points
from course_lib.data.person import Garment, load_body
from course_lib.data.surfaces import landmarks
from course_lib.data.texture import (
    Paint,
    Samples,
    bell,
    edge,
    fine_noise3,
    linear,
    mix,
    noise,
    noise3,
    ramp,
    rest_normal_y,
    tilt,
)
from course_lib.data.vectors import as_column


@dataclass
class Place:
    """Where on a garment a point is: `turns` (N,) around trunk or limb in [0, 1), `girth` metres of one turn,
    `along` (N,) metres down the trunk or limb, `limb` (N,) bool on a sleeve, `front` (N,) bool."""

    turns: np.ndarray
    girth: np.ndarray
    along: np.ndarray
    limb: np.ndarray
    front: np.ndarray


def place_on(garment: Garment, p: np.ndarray) -> Place:
    """Cylinder coordinates of the trunk, of a sleeve or of a leg."""
    joints = face_points()["joints"]
    x, y, z = p
    shoulder, knee, spine = joints[16], joints[4], joints[6]
    limb = (np.abs(x) > shoulder[0] + 0.012 - 0.12 * (y - shoulder[1])) & (y > shoulder[1] - 0.2)
    legs = (y < joints[1, 1] - 0.08) if garment.kind in ("trousers", "sock", "shoe") else np.zeros_like(limb)
    trunk = np.arctan2(x, z - spine[2])
    arm = np.arctan2(z - shoulder[2], y - shoulder[1])
    leg = np.arctan2(np.abs(x) - knee[0], z - knee[2])
    angle = np.where(limb, arm, np.where(legs, leg, trunk))
    girth = np.where(limb, np.float32(0.36), np.where(legs, np.float32(0.5), np.float32(1.0)))
    along = np.where(limb, np.abs(x) - shoulder[0], -y)
    return Place(angle / (2 * np.pi) + 0.5, girth, along, limb, z > spine[2])


def whole_repeats(place: Place, scale: float) -> np.ndarray:
    """Repeats (N,) around a limb, rounded so that the pattern closes."""
    return np.maximum((place.girth / scale).round(), 1)


def triangle_wave(x: np.ndarray) -> np.ndarray:
    """1 at integers, 0 half way, straight in between."""
    return np.abs(np.abs(x - x.round()) * 2 - 1)


def print_colour(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """The garment's pattern: albedo (3, N)."""
    first, second = linear(garment.colour), linear(garment.colour2)
    if garment.pattern not in PATTERNS:
        return first
    return mix(first, second, PATTERNS[garment.pattern](garment, s, place))


def stripes(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Rings around trunk and sleeves."""
    soft = 2 * s.footprint / garment.scale
    return edge(triangle_wave(place.along / garment.scale) - 0.55, soft)


def pinstripes(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Thin lines down the garment."""
    soft = 2 * s.footprint / garment.scale
    share = edge(triangle_wave(place.turns * whole_repeats(place, garment.scale)) - 0.9, soft)
    return share * 0.8


def checks(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Two sets of bands that cross, with a thin line between: tartan."""
    soft = 2 * s.footprint / garment.scale
    around, along = place.turns * whole_repeats(place, garment.scale), place.along / garment.scale
    bands = [edge(triangle_wave(c) - 0.5, soft) for c in (around, along)]
    lines = [edge(triangle_wave(c + 0.5) - 0.88, soft) for c in (around, along)]
    return (0.42 * (bands[0] + bands[1]) + 0.3 * (lines[0] + lines[1])).clip(0, 1)


def dots(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Discs on a staggered grid."""
    along = place.along / garment.scale
    around = place.turns * whole_repeats(place, garment.scale) + 0.5 * (np.floor(along) % 2)
    away = np.hypot(along - np.floor(along) - 0.5, around - np.floor(around) - 0.5)
    return edge(0.24 - away, s.footprint / garment.scale)


def camouflage(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Patches from noise."""
    value = noise3(s.rest, 1.6 / garment.scale)[0] + 0.5 * noise3(s.rest + 3, 4 / garment.scale)[0]
    soft = 6 * s.footprint / garment.scale
    return 0.95 * edge(value - 0.45, soft) + 0.38 * edge(-value - 0.35, soft)


def heather(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Two yarns spun together."""
    speck = noise(place.turns * place.girth * 900, place.along * 350)[0]
    fade = ramp(0.006, 0.001, s.footprint)
    return (0.26 + 0.09 * speck * fade).clip(0, 1)


def denim(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Blue yarn over white, worn thin on the front of the thighs."""
    twill = noise((place.turns * place.girth + place.along) * 900, (place.turns * place.girth - place.along) * 300)[0]
    knee = face_points()["joints"][4]
    worn = bell(((s.rest[1] - knee[1] - 0.17) / 0.15) ** 2) * (place.front & ~place.limb)
    wear = 0.05 + 0.14 * worn + 0.03 * noise3(s.rest, 14.0)[0]
    return (wear + 0.025 * twill * ramp(0.004, 0.001, s.footprint)).clip(0, 0.6)


def gradient(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Dip-dyed from the top down."""
    return ramp(0.42, -0.05, s.rest[1])


def block(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """One broad band across the chest and the sleeves."""
    height = s.rest[1] - face_points()["joints"][9, 1]
    band = edge(0.055 - np.abs(height + 0.03), s.footprint)
    return np.where(place.limb, edge(0.04 - np.abs(place.along - 0.13), s.footprint), band)


def logo(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """A ring with a bar on the chest."""
    chest = face_points()["joints"][9]
    dx, dy = s.rest[0], s.rest[1] - chest[1] + 0.005
    ring = edge(0.012 - np.abs(np.hypot(dx, dy) - 0.052), s.footprint)
    bar = edge(0.011 - np.abs(dy), s.footprint) * edge(0.075 - np.abs(dx), s.footprint)
    return np.maximum(ring, bar) * (place.front & ~place.limb)


def laces(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """White laces across the instep."""
    ankle = face_points()["joints"][7]
    ahead = s.rest[2] - ankle[2]
    across = np.abs(np.abs(s.rest[0]) - ankle[0] - 0.06 * ahead)
    rows = edge(triangle_wave(ahead / 0.016) - 0.45, 2 * s.footprint / 0.016)
    top = ramp(0.3, 0.6, rest_normal_y(s))
    return rows * edge(0.019 - across, s.footprint) * ramp(0.028, 0.034, ahead) * ramp(0.118, 0.112, ahead) * top * 0.9


PATTERNS = {
    "stripes": stripes, "pinstripes": pinstripes, "checks": checks, "dots": dots, "camo": camouflage,
    "heather": heather, "denim": denim, "gradient": gradient, "block": block, "logo": logo, "laces": laces,
}  # fmt: skip

# specular, gloss, sheen, depth of folds
_CLOTH = {
    "cotton": (0.010, 8, 0.10, 1.0), "wool": (0.004, 5, 0.28, 0.8), "denim": (0.012, 8, 0.06, 0.85),
    "leather": (0.055, 34, 0.0, 0.7), "silk": (0.045, 22, 0.08, 1.1),
}  # fmt: skip


def paint_cloth(garment: Garment, s: Samples, paint: Paint) -> None:
    """Print, seams, weave and folds."""
    place = place_on(garment, s.rest)
    hem = s.fields[0]
    albedo = print_colour(garment, s, place)
    near = ramp(0.0022, 0.0007, s.footprint)
    weave, weave_slope = fine_noise3(s, 380.0, 0.0022)
    albedo = albedo * (1 + 0.07 * weave * near)
    albedo = albedo * details(garment, s, place, hem)
    albedo = overlay(garment, s, place, hem, albedo)
    specular, gloss, sheen, depth = _CLOTH[garment.material]
    slope = folds(garment, s, place) * depth + weave_slope * (0.05 * near)
    if garment.material == "wool" or "ribs" in garment.details:
        slope = slope + knit(garment, s, place, hem, near)
    paint.albedo = np.where(s.inside, albedo * 0.45, albedo)
    paint.normal = tilt(s, slope)
    paint.specular, paint.gloss, paint.sheen = specular, gloss, sheen


def folds(garment: Garment, s: Samples, place: Place) -> np.ndarray:
    """Slope (3, N) of creases, long ones that follow the pull of the cloth, as deep as its fields say."""
    if garment.kind in ("sock", "shoe", "belt", "cap", "beanie"):
        return noise3(s.rest, 30.0)[1] * 0.05
    if garment.kind == "skirt":
        stretch = as_column((1.0, 0.12, 1.0))
    else:  # creases run around a limb, diagonally over the trunk
        stretch = np.where(place.limb, as_column((1.0, 0.35, 0.35)), as_column((0.55, 0.8, 0.55)))
    value, wide = noise3(s.rest * stretch, 13.0)
    _, narrow = noise3(s.rest * stretch + 0.02 * value, 34.0)
    return (wide * 0.20 + narrow * 0.13) * stretch * (s.fields[2] * (0.35 + 0.65 * garment.fit))


def knit(garment: Garment, s: Samples, place: Place, hem: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Slope (3, N) of ribs along the hems of knitwear and of socks."""
    repeats = whole_repeats(place, 0.009)
    wave = np.sin(place.turns * repeats * 2 * np.pi)
    band = ramp(0.05, 0.045, hem) if "ribs" in garment.details else np.zeros_like(hem)
    strength = wave * band * ramp(0.0045, 0.0015, s.footprint) * 0.5
    return np.stack([np.sign(s.rest[0]) * strength, np.zeros_like(hem), strength]) * 0.7


def dark_line(distance: np.ndarray, width: float, s: Samples, strength: float = 0.4) -> np.ndarray:
    """A seam: 1 away from distance = 0, darker on it (N,). It fades where it is thinner than a pixel."""
    size = np.maximum(s.footprint, width)
    return 1 - strength * (width / size) * bell(2 * (distance / size) ** 2)


def details(garment: Garment, s: Samples, place: Place, hem: np.ndarray) -> np.ndarray:
    """Factors (N,) on the albedo that draw seams: along hems, then what is particular to the kind of garment."""
    factor = dark_line(hem - 0.019, 0.0016, s, 0.35) * dark_line(hem, 0.0012, s, 0.3)
    if garment.kind in ("shirt", "jacket"):
        factor = factor * shirt_seams(garment, s, place, hem)
    if garment.kind == "trousers" and "pockets" in garment.details:
        factor = factor * pocket_seams(s, place)
    if garment.kind == "trousers" and "seam" in garment.details:
        leg = s.rest[1] < face_points()["joints"][1, 1] - 0.08
        factor = factor * np.where(leg, dark_line(np.abs(place.turns - 0.75) * 0.5, 0.002, s, 0.4), 1.0)
    return factor


def shirt_seams(garment: Garment, s: Samples, place: Place, hem: np.ndarray) -> np.ndarray:
    """Shoulder seams, the edge of ribbing, plackets and lapels: factors (N,)."""
    x, y, joints = np.abs(s.rest[0]), s.rest[1], face_points()["joints"]
    shoulder, neck_y = joints[16], joints[12, 1]
    seam = dark_line(x - shoulder[0] - 0.012 + 0.12 * (y - shoulder[1]), 0.0018, s, 0.4)
    factor = np.where(y > shoulder[1] - 0.13, seam, 1.0)
    if "ribs" in garment.details or garment.material == "wool":
        factor = factor * dark_line(hem - 0.048, 0.002, s, 0.3)
    if "buttons" in garment.details or "placket" in garment.details:
        low = -9.0 if "buttons" in garment.details else neck_y - 0.2
        factor = factor * np.where(place.front & (y > low) & (x < 0.06), dark_line(x - 0.015, 0.0012, s, 0.45), 1.0)
    if "lapel" in garment.details:
        factor = factor * np.where(place.front, dark_line(hem - 0.05, 0.002, s, 0.5), 1.0)
    return factor


def pocket_seams(s: Samples, place: Place) -> np.ndarray:
    """Slanted pockets and a fly in front, patch pockets behind: factors (N,)."""
    x, y, hip = s.rest[0], s.rest[1], face_points()["joints"][1]
    slit = dark_line(np.abs(x) - hip[0] - 0.02 + 0.45 * (y - hip[1] - 0.02), 0.002, s, 0.5)
    factor = np.where(place.front & (y > hip[1] - 0.045) & (y < hip[1] + 0.06), slit, 1.0)
    fly = dark_line(x - 0.016, 0.0014, s, 0.4)
    factor = factor * np.where(place.front & (y > hip[1] - 0.05), fly, 1.0)
    patch = np.maximum(np.abs(np.abs(x) - 0.085) - 0.052, np.abs(y - hip[1] - 0.01) - 0.058)
    return factor * np.where(place.front, 1.0, dark_line(patch, 0.0018, s, 0.4))


def overlay(garment: Garment, s: Samples, place: Place, hem: np.ndarray, albedo: np.ndarray) -> np.ndarray:
    """Things in another colour: buttons, collars, side stripes, buckles, soles, the panels of caps."""
    if garment.kind == "shirt":
        return collar(garment, s, hem, buttons(garment, s, place, albedo))
    if garment.kind == "shoe":
        return sole(garment, s, albedo)
    p, second, joints = s.rest, linear(garment.colour2), face_points()["joints"]
    if garment.kind == "trousers" and "stripe" in garment.details:
        share = edge(0.011 - np.abs(place.turns - 0.75) * 0.5, s.footprint) * (p[1] < joints[1, 1] - 0.08)
        return mix(albedo, second, share)
    if garment.kind == "belt":
        buckle = np.maximum(np.abs(p[0]) / 0.024, np.abs(hem - 0.017) / 0.016)
        ring = edge(1.0 - buckle, s.footprint / 0.02) * edge(buckle - 0.62, s.footprint / 0.02) * place.front
        return mix(albedo, second, ring)
    if garment.kind == "cap":
        sixths = np.sin(np.arctan2(p[0], p[2] - joints[15, 2]) * 3)
        return albedo * np.where(hem < 8, dark_line(sixths * 0.03, 0.0015, s, 0.4), 1.0)
    return albedo


def buttons(garment: Garment, s: Samples, place: Place, albedo: np.ndarray) -> np.ndarray:
    """Albedo with buttons down the front, or the upper two of a polo shirt."""
    if "buttons" not in garment.details and "placket" not in garment.details:
        return albedo
    neck_y = face_points()["joints"][12, 1]
    y = (neck_y - s.rest[1]) / 0.085
    away = np.hypot(s.rest[0], (y - y.round()) * 0.085)
    share = edge(0.0052 - away, s.footprint) * place.front
    if "placket" in garment.details:
        share = share * (s.rest[1] > neck_y - 0.2)
    return mix(albedo, np.float32(0.62), share * 0.8)


def collar(garment: Garment, s: Samples, hem: np.ndarray, albedo: np.ndarray) -> np.ndarray:
    """Albedo with a lighter band along the neckline of shirts that have a collar."""
    if garment.neck != "collar":
        return albedo
    near = (s.rest[1] > face_points()["joints"][16, 1] - 0.06) & (np.abs(s.rest[0]) < 0.1)
    return albedo * (1 + 0.22 * ramp(0.036, 0.033, hem) * near)


def sole(garment: Garment, s: Samples, albedo: np.ndarray) -> np.ndarray:
    """Albedo of shoes with the sole, and the toe cap of trainers, in the second colour."""
    second, toes = linear(garment.colour2), face_points()["joints"][10, 2]
    ground = landmarks(load_body()).leg_y[-1] - 0.006
    below = edge(ground + 0.023 - s.rest[1], s.footprint)
    albedo = mix(albedo, second, below)
    toe = edge(s.rest[2] - toes + 0.012, s.footprint) * ("trainers" in garment.details)
    return mix(albedo, second * 0.9, toe * 0.75 * (1 - below))

"""What people look like: skin, eyes, mouth and hair, worked out pixel by pixel; cloth is in `fabric`."""

import numpy as np

from course_lib.data.fabric import paint_cloth
from course_lib.data.face import eye_centre, eye_distance, face_points
from course_lib.data.hair import STYLES
from course_lib.data.parts import PART_IDS
from course_lib.data.person import Look
from course_lib.data.surfaces import Surface
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
    to_world,
)
from course_lib.data.vectors import as_column, cross, distance, dot, unit

FACE_NECK, HAIR = PART_IDS["Face_Neck"], PART_IDS["Hair"]


# ---------------------------------------------------------------- skin


def paint_skin(style: Look, s: Samples, paint: Paint) -> None:
    """Skin with its blood, lips, brows, beard, nails, and the shadow of shaved hair."""
    lip_up, lip_low, above, nail, _, area = s.fields[2:8]
    face, strokes = face_points(), hair_strokes(s.rest)
    fine, slope = fine_noise3(s, 240.0, 0.003)
    lip, nail = np.maximum(ramp(0.25, 0.65, lip_up), ramp(0.25, 0.65, lip_low)), ramp(0.35, 0.65, nail)
    albedo = bare_skin(style, s, fine)
    albedo = eyelids(style, s.rest, albedo)
    albedo = hair_on_skin(style, s.rest, albedo, strokes, above + 0.002 * fine, area)
    albedo = mix(albedo, linear(style.lips) * (1 + 0.06 * strokes), lip * (0.72 + 0.28 * style.makeup))
    pale = albedo * 0.6 + as_column((0.18, 0.11, 0.095))
    varnish = pale if style.nails is None else linear(style.nails)
    paint.albedo = mix(albedo, varnish, nail * (0.7 if style.nails is None else 1.0))
    paint.normal = tilt(s, slope * (0.016 * ramp(0.0012, 0.0004, s.footprint)))
    paint.flesh = 1.0
    nose = bell((distance(s.rest, face["nose"]) / 0.035) ** 2)
    oily = 0.35 * nose + 0.25 * ramp(0.03, 0.06, s.rest[1] - face["eye"][1])
    paint.specular = 0.028 * (1 + oily) + 0.015 * lip + 0.06 * nail
    paint.gloss = 16 + 26 * lip + 40 * nail
    paint.part = np.full(len(fine), -1)
    paint.part[lip_up > 0.5] = PART_IDS["Upper_Lip"]
    paint.part[(lip_low > 0.5) & (lip_low >= lip_up)] = PART_IDS["Lower_Lip"]
    if style.hair_style == "shaved":
        paint.part[above > 0.002] = HAIR


def bare_skin(style: Look, s: Samples, fine: np.ndarray) -> np.ndarray:
    """Albedo (3, N) of skin: mottled, redder where blood is near, paler palms, freckles."""
    p, face, base = s.rest, face_points(), linear(style.skin)
    darkness = 1 - min(float(base.mean()), 0.6) / 0.6
    albedo = base * (1 + 0.035 * noise3(p, 28.0)[0] + 0.02 * fine)
    red = s.fields[6] * style.blush * (1 - 0.5 * darkness)
    albedo = mix(albedo, albedo * as_column((1.05, 0.78, 0.76)), red)
    palm = ramp(0.1, -0.7, rest_normal_y(s)) * ramp(0.0, 0.03, np.abs(p[0]) - face["wrist"])
    albedo = mix(albedo, base * 0.5 + as_column((0.21, 0.125, 0.095)), palm * (0.3 + 0.4 * darkness))
    if not style.freckles:
        return albedo
    spots = ramp(1.2, 1.9, noise3(p, 420.0)[0]) * ramp(0.07, 0.02, distance(p, face["nose"]))
    return mix(albedo, albedo * as_column((0.72, 0.55, 0.45)), spots * style.freckles)


def eyelids(style: Look, p: np.ndarray, albedo: np.ndarray) -> np.ndarray:
    """Albedo with the dark line of the lashes and, with makeup, shadow on the upper lid."""
    face = face_points()
    if style.makeup:
        lid = ramp(0.0, 0.006, p[1] - face["eye"][1] - 0.002) * ramp(0.02, 0.011, eye_distance(p, face))
        albedo = mix(albedo, albedo * as_column((0.55, 0.42, 0.45)), lid * style.makeup * 0.6)
    line = ramp(0.0165, 0.0140, distance(p, eye_centre(p, face)))
    return mix(albedo, albedo * as_column((0.45, 0.36, 0.34)), line * (0.75 + 0.25 * style.makeup))


def hair_on_skin(
    style: Look, p: np.ndarray, albedo: np.ndarray, strokes: np.ndarray, above: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Albedo with beard, brows and shaved scalp; `above` (N,) metres over the hairline, `area` (N,) of a beard."""
    face, hair = face_points(), linear(style.brow_hair) * 0.8 + 0.01
    thin = 0.6 if style.strands else 1.0  # the strands do the rest
    albedo = mix(albedo, albedo * 0.25 + hair * 0.55, beard(style, area, strokes) * thin)
    albedo = mix(albedo, hair * 0.75, brow(p, face, strokes, style) * thin)
    if style.hair_style != "shaved":
        return albedo
    return mix(albedo, albedo * 0.35 + hair * 0.5, ramp(-0.006, 0.010, above) * (0.62 + 0.04 * strokes))


def hair_strokes(p: np.ndarray) -> np.ndarray:
    """Noise (N,) drawn out into short strokes across the face: brows and beards."""
    x, y, z = np.abs(p[0]), p[1], p[2]
    return noise((0.8 * x - 0.6 * z + 0.3 * y) * 2000, (0.8 * y - 0.3 * x) * 650)[0]


def brow(p: np.ndarray, face: dict, strokes: np.ndarray, style: Look) -> np.ndarray:
    """How much brow hair covers a point (N,): a tapering arc over each eye."""
    x, y = np.abs(p[0]) - face["eye"][0], p[1] - face["eye"][1]
    along = (x + 0.019) / 0.044  # 0 at the nose, 1 at the temple
    arc = 0.0178 + 0.0055 * np.sin((along * 1.25).clip(0, 1.6) * 2.0) - 0.0045 * along
    width = (0.0026 + 0.0028 * style.brows) * (1.05 - 0.55 * along)
    profile = ramp(1.25, 0.25, np.abs(y - arc) / width) * ramp(-0.04, 0.10, along) * ramp(1.04, 0.85, along)
    front = p[2] > face["eye"][2] - 0.03
    return (profile * (0.92 + 0.22 * strokes)).clip(0, 1) * front * (0.62 + 0.33 * style.brows)


def beard(style: Look, area: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """How much beard covers a point (N,), by where it grows, `area` (N,)."""
    density = 0.25 + 0.65 * style.beard + 0.14 * strokes * (0.3 + style.beard)
    return (area * density).clip(0, 0.93) * (style.beard > 0)


# ---------------------------------------------------------------- eyes and mouth


def paint_eye(style: Look, s: Samples, paint: Paint) -> None:
    """White, iris with rays and dark rim, pupil; the ball's own normal, for a sharp catch light."""
    face = face_points()
    centre = eye_centre(s.rest, face)
    ball = unit(s.rest - centre)
    radius = np.hypot(ball[0], ball[1]) + (ball[2] < 0)
    angle = np.arctan2(ball[1], ball[0])
    pixel = s.footprint / 0.0145
    rays = noise(angle * 9.5, radius * 9)[0]
    iris = linear(style.iris) * (1.05 + 0.45 * rays).clip(0.4, 1.8)
    iris = mix(iris, iris * as_column((1.5, 1.15, 0.7)), ramp(0.26, 0.17, radius) * 0.6)
    iris = mix(iris * 1.15, iris * 0.22, ramp(0.35, 0.44, radius))
    white = as_column((0.56, 0.53, 0.505)) * (1 - 0.28 * ramp(0.45, 0.95, radius))
    white = white * as_column((1.0, 0.94, 0.92)) ** (ramp(0.4, 0.9, radius) * 1.5)
    albedo = mix(iris, white, edge(radius - 0.435, pixel + 0.03))
    albedo = mix(np.float32(0.006), albedo, edge(radius - 0.175, pixel + 0.03))
    paint.albedo = albedo * (0.3 + 0.7 * ramp(0.52, 0.0, ball[1]))  # the upper lid's shade
    paint.normal = unit(to_world(s, ball))
    paint.specular, paint.gloss = 0.10, 320.0
    glint = unit(s.view + as_column((0.25, 0.55, 0.0)))
    half = unit(s.view + glint)
    spark = dot(paint.normal, half).clip(0.8) ** 350
    paint.albedo = paint.albedo + 1.5 * spark
    paint.flesh, paint.open = 0.4, 0.6


def paint_teeth(style: Look, s: Samples, paint: Paint) -> None:
    """Ivory with gaps between the teeth."""
    angle = np.arctan2(s.rest[0], s.rest[2] - face_points()["eye"][2] + 0.032)
    gap = ramp(0.88, 1.0, 1 - np.abs(np.cos(angle * 25)))
    paint.albedo = mix(as_column((0.70, 0.66, 0.56)), as_column((0.40, 0.33, 0.27)), gap * 0.6) * 0.85
    paint.specular, paint.gloss = 0.06, 90.0
    paint.normal, paint.open = s.normal, 0.6


def paint_tongue(style: Look, s: Samples, paint: Paint) -> None:
    """Wet, rough, with a furrow."""
    bumps, slope = noise3(s.rest, 900.0)
    furrow = ramp(0.004, 0.0, np.abs(s.rest[0]))
    paint.albedo = as_column((0.46, 0.16, 0.16)) * (1 + 0.08 * bumps - 0.25 * furrow)
    paint.specular, paint.gloss = 0.06, 60.0
    paint.normal, paint.flesh, paint.open = tilt(s, slope * 0.05), 1.0, 0.4


# ---------------------------------------------------------------- hair


def strand_place(style: Look, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates across and along the strands in metres (N,), and the strands' rest direction (3, N)."""
    face = face_points()
    x, y, z = rest
    z0 = face["joints"][15, 2] - 0.005
    combed = STYLES[style.hair_style].combed if style.hair_style in STYLES else "crown"
    y = y - face["eye"][1]
    if combed == "side":  # strands part beside the middle
        x = x + 0.035 * (style.parting or 0.6)
    if combed == "back":
        around = np.arctan2(x, np.maximum(y + 0.12, 0.02))
        return around * 0.11, z, as_column((0.0, -0.25, -1.0))
    azimuth = np.arctan2(x, z - z0)
    away = np.stack([np.sin(azimuth), -0.25 - 8 * (0.08 - y).clip(0), np.cos(azimuth)])
    return azimuth * 0.10, y, away


def paint_hair(style: Look, s: Samples, paint: Paint, tail: bool = False) -> None:
    """Hair on the scalp and falling from it; a `tail` has coordinates of its own (around, along) in fields."""
    if tail:
        across, along = s.fields[2] * 0.19, s.fields[3] * 0.3
        away = as_column((0.0, -1.0, -0.2))
    else:
        across, along, away = strand_place(style, s.rest)
    if STYLES[style.hair_style].combed == "curls":
        strands = paint_curls(style, s, paint)
    else:
        strands = paint_strands(style, s, paint, across, along, away)
    tangent = to_world(s, away)
    tangent = tangent - dot(tangent, paint.normal) * paint.normal
    paint.tangent = unit(tangent)
    paint.albedo *= np.where(s.inside, np.float32(0.45), np.float32(1.0))
    paint.flesh = 0.3
    if not tail:
        thin_hairline(style, s, paint, strands)


def strand_colour(style: Look, clump: np.ndarray, fine: np.ndarray, lighter: np.ndarray, gaps: float) -> np.ndarray:
    """Albedo (3, N) of hair whose clumps and strands vary by noise; `gaps`: how dark it is between clumps."""
    base = linear(style.hair)
    if style.strands:  # a core: quiet, and in the strands' shade
        clump, fine, gaps = 0.3 * clump - 0.8, 0.4 * fine, 0.3 * gaps
    light = ramp(0.2, 1.8, lighter + 0.4 * fine) * style.hair_light
    value = (1 + 0.20 * clump + 0.22 * fine).clip(0.25, 1.8) * (1 - gaps + gaps * ramp(-1.6, 0.3, clump))
    return mix(base, base * 1.7 + 0.02, light) * value


def paint_strands(
    style: Look, s: Samples, paint: Paint, across: np.ndarray, along: np.ndarray, away: np.ndarray
) -> np.ndarray:
    """Straight hair: noise drawn out along the strands, in clumps. Returns the noise (N,)."""
    wander = across + 0.0012 * noise3(s.rest, 45.0)[0]
    clump, lighter, slope, _ = noise(wander * 210, along * 9)
    fine = noise(wander * 1150 + 7, along * 22)[0] * ramp(0.0016, 0.0005, s.footprint)
    paint.albedo = strand_colour(style, clump, fine, lighter, 0.5)
    sideways = unit(cross(s.normal, to_world(s, away)))
    bump = (0.16 * slope + 0.10 * fine) * sideways
    paint.normal = unit(s.normal + bump)
    paint.strand = 0.75 + 0.3 * fine
    return fine + 0.25 * clump


def paint_curls(style: Look, s: Samples, paint: Paint) -> np.ndarray:
    """Curls: round noise of two sizes. Returns the noise (N,)."""
    rings, slope = noise3(s.rest, 130.0)
    tight, tight_slope = noise3(s.rest + 0.0015 * slope, 330.0)
    fine = tight * ramp(0.002, 0.0006, s.footprint)
    paint.albedo = strand_colour(style, 0.9 * rings, fine, noise3(s.rest, 45.0)[0], 0.28)
    paint.normal = tilt(s, (slope * 0.30 + tight_slope * 0.18) * ramp(0.004, 0.001, s.footprint))
    paint.strand = 0.25
    return fine + 0.25 * rings


def thin_hairline(style: Look, s: Samples, paint: Paint, strands: np.ndarray) -> None:
    """Near the hairline single strands leave the skin: there the pixel is skin, in colour and in class."""
    edge_at = 0.012 if style.strands else 0.005
    skin = ramp(edge_at, 0.0, s.fields[2] + 0.0018 * strands)
    paint.albedo = mix(paint.albedo, linear(style.skin), skin)
    paint.strand, paint.flesh = paint.strand * (1 - skin), np.maximum(paint.flesh, skin)
    paint.part = np.where(skin > 0.5, FACE_NECK, -1)


# ---------------------------------------------------------------- all


def paint_mannequin(style: None, s: Samples, paint: Paint) -> None:
    """A smooth, featureless grey."""
    paint.albedo, paint.normal, paint.specular, paint.gloss = 0.34, s.normal, 0.02, 14.0


def paint_frame(style: Look, s: Samples, paint: Paint) -> None:
    """The frame of glasses: lacquered."""
    paint.albedo, paint.normal = linear(style.glasses.frame), s.normal
    paint.specular, paint.gloss = 0.06, 120.0


PAINTERS = {
    "skin": paint_skin, "eye": paint_eye, "teeth": paint_teeth, "tongue": paint_tongue,
    "hair": paint_hair, "tail": lambda style, s, paint: paint_hair(style, s, paint, tail=True),
    "cloth": paint_cloth, "mannequin": paint_mannequin, "frame": paint_frame,
}  # fmt: skip


def paint_surface(surface: Surface, s: Samples) -> Paint:
    """Colour and relief of samples that lie on one surface."""
    paint = Paint()
    PAINTERS[surface.kind](surface.style, s, paint)
    return paint

"""What surfaces look like: colour, gloss and fine relief of skin, eyes, hair and cloth, worked out pixel by pixel.

Every function sees the interpolated REST position of a pixel (template coordinates), so patterns stick to the cloth and
pupils turn with the eyes. All randomness comes from one fixed noise picture, looked up at those coordinates.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from course_lib.data.hair import STYLES
from course_lib.data.lighting import to_linear
from course_lib.data.parts import PART_IDS
from course_lib.data.person import Garment, Look, load_body
from course_lib.data.surfaces import Surface, landmarks

FACE_NECK, HAIR = PART_IDS["Face_Neck"], PART_IDS["Hair"]


@dataclass
class Samples:
    """Points to be coloured, one surface at a time. rest (N, 3), fields (N, 6), normal (N, 3) unit and towards the viewer,
    view (N, 3) unit towards the camera, turn (N, 3, 3) from rest to world, footprint (N,) metres a pixel, inside (N,) seen
    from behind."""

    rest: Tensor
    fields: Tensor
    normal: Tensor
    view: Tensor
    turn: Tensor
    footprint: Tensor
    inside: Tensor


@dataclass
class Paint:
    """What comes out, one row a sample: albedo (N, 3) linear, normal (N, 3), and how light is answered: `flesh` (light
    through skin), `specular` and `gloss` (highlight), `sheen` (fuzz), `strand` with `tangent` (hair), `open` (how far to lift
    the baked occlusion), `part` (-1 keeps)."""

    albedo: Tensor
    normal: Tensor
    flesh: Tensor
    specular: Tensor
    gloss: Tensor
    sheen: Tensor
    strand: Tensor
    tangent: Tensor
    open: Tensor
    part: Tensor

    @staticmethod
    def blank(count: int) -> "Paint":
        """Grey, dull."""
        zero = torch.zeros(count)
        return Paint(
            torch.full((count, 3), 0.3), torch.zeros(count, 3), zero.clone(), zero.clone(), zero + 20, zero.clone(),
            zero.clone(), torch.zeros(count, 3), zero.clone(), torch.full((count,), -1, dtype=torch.int64),
        )  # fmt: skip


# ---------------------------------------------------------------- small tools


def linear(colour) -> Tensor:
    """A screen colour (3,) as linear light."""
    return to_linear(torch.tensor(colour, dtype=torch.float32))


def ramp(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """Smooth step: 0 at `low`, 1 at `high` (either order)."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def edge(x: Tensor, width: Tensor) -> Tensor:
    """0 where x < 0, 1 where x > 0, softened over `width`: one pixel, so that patterns do not flicker."""
    return (x / width.clamp(min=1e-6) + 0.5).clamp(0, 1)


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """a (N, 3) or (3,) towards b by share (N,)."""
    return a + (b - a) * share[:, None]


@lru_cache(maxsize=1)
def noise_picture(size: int = 256, cells: int = 32) -> Tensor:
    """A tiling picture (1, 4, size + 1, size + 1): two smooth noises of unit spread, and the first one's slopes."""
    grid = np.random.default_rng(7).normal(size=(2, cells, cells))
    spectrum = np.fft.rfft2(grid)
    full = np.zeros((2, size, size // 2 + 1), complex)  # band-limited enlargement: exact tiling, no blocks
    half = cells // 2
    full[:, :half, :half], full[:, -half:, :half] = spectrum[:, :half, :half], spectrum[:, half:, :half]
    values = np.fft.irfft2(full, s=(size, size))
    values /= values.std(axis=(1, 2), keepdims=True)
    slopes = [(np.roll(values[0], -1, axis) - np.roll(values[0], 1, axis)) * size / cells / 2 for axis in (1, 0)]
    picture = np.concatenate([values, np.stack(slopes)])
    picture = np.pad(picture, ((0, 0), (0, 1), (0, 1)), mode="wrap")
    return torch.from_numpy(picture.astype(np.float32))[None]


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Noise at (u, v) in cells: (4, N) = two values and the slopes of the first along u and v, per cell."""
    place = torch.stack([u, v], -1) / 32
    place = (place - place.floor()) * 2 - 1
    return torch.nn.functional.grid_sample(
        noise_picture(), place[None, None], mode="bilinear", align_corners=True, padding_mode="border"
    )[0, :, 0]


# two slanted views of space; together no surface is seen edge-on by both
_VIEWS = torch.tensor([[[0.80, 0.15, 0.58], [-0.12, 0.98, -0.09]], [[0.62, -0.2, -0.76], [0.3, 0.93, 0.2]]])


def noise3(points: Tensor, frequency: float) -> tuple[Tensor, Tensor]:
    """Noise at points (N, 3), `frequency` cells a metre: value (N,), slope (N, 3) per cell."""
    value, slope = 0.0, 0.0
    for plane in _VIEWS:
        flat = points @ plane.T * frequency
        n, _, du, dv = noise(flat[:, 0], flat[:, 1])
        value = value + n
        slope = slope + du[:, None] * plane[0] + dv[:, None] * plane[1]
    return value * 0.7, slope * 0.7


def fine_noise3(s: Samples, frequency: float, limit: float) -> tuple[Tensor, Tensor]:
    """`noise3`, or zeros where all pixels are larger than `limit` metres and would not show it."""
    if len(s.rest) and float(s.footprint.min()) > limit:
        return torch.zeros(len(s.rest)), torch.zeros(len(s.rest), 3)
    return noise3(s.rest, frequency)


def tilt(s: Samples, slope: Tensor) -> Tensor:
    """Normals (N, 3) of a surface with relief whose rest-space slope is (N, 3)."""
    return torch.nn.functional.normalize(s.normal - to_world(s, slope), dim=-1)


def to_world(s: Samples, direction: Tensor) -> Tensor:
    """Turn rest-space directions (N, 3) into the world."""
    return torch.bmm(s.turn, direction[:, :, None])[..., 0]


def rest_normal_y(s: Samples) -> Tensor:
    """How far normals pointed up in the rest pose: (N,)."""
    return (s.turn[:, :, 1] * s.normal).sum(1)


# ---------------------------------------------------------------- skin


def paint_skin(style: Look, s: Samples, paint: Paint) -> None:
    """Skin with its blood, lips, brows, beard, nails, and the shadow of shaved hair."""
    p, (lip_up, lip_low, above, nail) = s.rest, s.fields[:, 2:6].unbind(1)
    face = face_points()
    base, lips = linear(style.skin), linear(style.lips)
    fine, slope = fine_noise3(s, 240.0, 0.003)
    broad, _ = noise3(p, 28.0)
    darkness = 1 - base.mean().clamp(0, 0.6) / 0.6
    albedo = base * (1 + 0.035 * broad + 0.02 * fine)[:, None]
    albedo = mix(albedo, albedo * torch.tensor([1.05, 0.78, 0.76]), blood(p, face) * style.blush * (1 - 0.5 * darkness))
    palm = ramp(0.1, -0.7, rest_normal_y(s)) * ramp(0.0, 0.03, p[:, 0].abs() - face["wrist"])
    albedo = mix(albedo, base * 0.5 + torch.tensor([0.42, 0.25, 0.19]) * 0.5, palm * (0.3 + 0.4 * darkness))
    if style.freckles:
        spots = ramp(1.2, 1.9, noise3(p, 420.0)[0]) * ramp(0.07, 0.02, (p - face["nose"]).norm(dim=1))
        albedo = mix(albedo, albedo * torch.tensor([0.72, 0.55, 0.45]), spots * style.freckles)
    strokes = hair_strokes(p)
    if style.makeup:
        lid = eye_distance(p, face)
        shadow = ramp(0.0, 0.006, p[:, 1] - face["eye"][1] - 0.002) * ramp(0.02, 0.011, lid)
        albedo = mix(albedo, albedo * torch.tensor([0.55, 0.42, 0.45]), shadow * style.makeup * 0.6)
    lid_line = ramp(0.0165, 0.0140, (p - eye_centre(p, face)).norm(dim=1))
    albedo = mix(albedo, albedo * torch.tensor([0.45, 0.36, 0.34]), lid_line * (0.75 + 0.25 * style.makeup))
    hair = linear(style.brow_hair) * 0.8 + 0.01
    albedo = mix(albedo, albedo * 0.25 + hair * 0.55, beard(p, face, strokes, style))
    albedo = mix(albedo, hair * 0.75, brow(p, face, strokes, style))
    stubble = ramp(-0.006, 0.010, above + 0.002 * fine) * (0.62 + 0.10 * fine) * (style.hair_style == "shaved")
    albedo = mix(albedo, albedo * 0.35 + hair * 0.5, stubble)
    lip = torch.maximum(ramp(0.25, 0.65, lip_up), ramp(0.25, 0.65, lip_low))
    albedo = mix(albedo, lips * (1 + 0.06 * strokes)[:, None], lip * (0.72 + 0.28 * style.makeup))
    if style.nails is not None:
        albedo = mix(albedo, linear(style.nails), ramp(0.35, 0.65, nail))
    albedo = mix(
        albedo,
        albedo * 0.6 + torch.tensor([0.36, 0.22, 0.19]) * 0.5,
        ramp(0.35, 0.65, nail) * (style.nails is None) * 0.7,
    )
    paint.albedo = albedo
    paint.normal = tilt(s, slope * (0.016 * ramp(0.0012, 0.0004, s.footprint))[:, None])
    paint.flesh = torch.ones_like(fine)
    oily = 0.35 * torch.exp(-(((p - face["nose"]) / 0.035) ** 2).sum(1)) + 0.25 * ramp(
        0.03, 0.06, p[:, 1] - face["eye"][1]
    )
    paint.specular = 0.028 * (1 + oily) + 0.05 * lip + 0.06 * ramp(0.35, 0.65, nail)
    paint.gloss = 16 + 26 * lip + 40 * ramp(0.35, 0.65, nail)
    part = torch.full_like(paint.part, -1)
    part[lip_up > 0.5] = PART_IDS["Upper_Lip"]
    part[(lip_low > 0.5) & (lip_low >= lip_up)] = PART_IDS["Lower_Lip"]
    if style.hair_style == "shaved":
        part[above > 0.002] = HAIR
    paint.part = part


@lru_cache(maxsize=1)
def face_points() -> dict:
    """Places on the template's face (left side) from joints and named vertices."""
    body = load_body()
    joints = torch.from_numpy(landmarks(body).joints)
    template = body.model.template
    skin = template[torch.from_numpy(np.unique(body.pack["faces_body"])).long()]
    eye = (joints[23] + joints[24] * torch.tensor([-1.0, 1, 1])) / 2
    middle = skin[(skin[:, 0].abs() < 0.004) & (skin[:, 1] < eye[1]) & (skin[:, 1] > eye[1] - 0.06)]
    nose = middle[middle[:, 2].argmax()]
    lips = torch.from_numpy(body.pack["lips_upper"] + body.pack["lips_lower"]) > 0.5
    mouth = template[lips].mean(0)
    chin = joints[12, 1] + 0.03
    return {"eye": eye, "nose": nose, "mouth": mouth, "chin": chin, "wrist": float(joints[20, 0]), "joints": joints}


def eye_centre(p: Tensor, face: dict) -> Tensor:
    """The middle of the nearer eye ball (N, 3)."""
    side = torch.where(p[:, :1] > 0, 1.0, -1.0)
    return torch.cat([face["eye"][0] * side, face["eye"][1].expand(len(p), 1), face["eye"][2].expand(len(p), 1)], 1)


def eye_distance(p: Tensor, face: dict) -> Tensor:
    """Distance (N,) from the nearer eye in the plane of the face."""
    return torch.hypot(p[:, 0].abs() - face["eye"][0], p[:, 1] - face["eye"][1])


def blood(p: Tensor, face: dict) -> Tensor:
    """Where skin is redder (N,): cheeks, nose, ears, chin, knuckles, elbows, knees."""
    x, y, z = p[:, 0].abs(), p[:, 1], p[:, 2]
    eye, nose = face["eye"], face["nose"]
    cheek = torch.exp(-(((x - eye[0] - 0.009) / 0.019) ** 2) - ((y - nose[1] - 0.003) / 0.015) ** 2) * (
        z > eye[2] - 0.06
    )
    tip = torch.exp(-(((p - nose) / 0.013) ** 2).sum(1))
    ear = ramp(0.066, 0.076, x) * (y > face["chin"]) * ramp(0.05, 0.03, (y - eye[1]).abs()) * (x < 0.12)
    hands = 0.5 * ramp(0.06, 0.12, x - face["wrist"])
    joints = face["joints"]
    bends = torch.exp(-(((x - joints[18, 0]) / 0.04) ** 2)) + torch.exp(-(((y - joints[4, 1]) / 0.05) ** 2)) * (x < 0.3)
    return (0.62 * cheek + 0.55 * tip + 0.5 * ear + hands + 0.3 * bends).clamp(0, 1)


def hair_strokes(p: Tensor) -> Tensor:
    """Noise (N,) drawn out into short strokes across the face: brows and beards."""
    lean = p[:, 0].abs()
    return noise((lean * 0.8 + p[:, 1] * 0.45) * 1800, (p[:, 1] * 0.8 - lean * 0.45) * 420)[0]


def brow(p: Tensor, face: dict, strokes: Tensor, style: Look) -> Tensor:
    """How much brow hair covers a point (N,): a tapering arc over each eye."""
    x, y = p[:, 0].abs() - face["eye"][0], p[:, 1] - face["eye"][1]
    along = (x + 0.019) / 0.044  # 0 at the nose, 1 at the temple
    arc = 0.0178 + 0.0055 * torch.sin((along * 1.25).clamp(0, 1.6) * 2.0) - 0.0045 * along
    width = (0.0026 + 0.0028 * style.brows) * (1.05 - 0.55 * along)
    profile = ramp(1.25, 0.25, (y - arc).abs() / width) * ramp(-0.04, 0.10, along) * ramp(1.04, 0.85, along)
    front = (p[:, 2] > face["eye"][2] - 0.03).float()
    return (profile * (0.92 + 0.22 * strokes)).clamp(0, 1) * front * (0.62 + 0.33 * style.brows)


def beard(p: Tensor, face: dict, strokes: Tensor, style: Look) -> Tensor:
    """How much beard covers a point (N,): chin, cheeks below a line from ear to mouth, upper lip; not the lips."""
    if style.beard == 0:
        return torch.zeros_like(strokes)
    x, y, z = p[:, 0].abs(), p[:, 1] - face["mouth"][1], p[:, 2]
    cheek_line = 0.004 + 0.85 * (x - 0.028).clamp(min=0) + 0.018 * ramp(0.02, 0.012, x) * 0
    jaw = ramp(0.006, -0.006, y - cheek_line)
    moustache = ramp(0.0195, 0.0155, y + 0.10 * (x - 0.012).clamp(min=0)) * ramp(0.034, 0.026, x)
    low = -0.052 + 0.35 * (face["mouth"][2] - 0.03 - z).clamp(min=0)
    area = torch.maximum(jaw, moustache) * ramp(low - 0.008, low + 0.008, y) * (z > face["eye"][2] - 0.115)
    lip = ramp(0.0125, 0.0085, y.abs()) * ramp(0.030, 0.024, x)
    density = 0.25 + 0.65 * style.beard
    return (area * (1 - lip) * (density + 0.14 * strokes * (0.3 + style.beard))).clamp(0, 0.93)


# ---------------------------------------------------------------- eyes and mouth


def paint_eye(style: Look, s: Samples, paint: Paint) -> None:
    """White, iris with rays and dark rim, pupil; the ball's own normal, for a sharp catch light."""
    face = face_points()
    centre = eye_centre(s.rest, face)
    ball = torch.nn.functional.normalize(s.rest - centre, dim=1)
    radius = torch.hypot(ball[:, 0], ball[:, 1]) + (ball[:, 2] < 0)
    angle = torch.atan2(ball[:, 1], ball[:, 0])
    pixel = s.footprint / 0.0145
    rays = noise(angle * 9.5, radius * 9)[0]
    iris = linear(style.iris) * (1.05 + 0.45 * rays)[:, None].clamp(0.4, 1.8)
    iris = mix(iris, iris * torch.tensor([1.5, 1.15, 0.7]), ramp(0.26, 0.17, radius) * 0.6)
    iris = mix(iris * 1.15, iris * 0.22, ramp(0.35, 0.44, radius))
    white = torch.tensor([0.56, 0.53, 0.505]) * (1 - 0.28 * ramp(0.45, 0.95, radius))[:, None]
    white = white * torch.tensor([1.0, 0.94, 0.92]) ** (ramp(0.4, 0.9, radius) * 1.5)[:, None]
    albedo = mix(iris, white, edge(radius - 0.435, pixel + 0.03))
    albedo = mix(torch.full((3,), 0.006), albedo, edge(radius - 0.175, pixel + 0.03))
    paint.albedo = albedo * (0.3 + 0.7 * ramp(0.52, 0.0, ball[:, 1]))[:, None]  # the upper lid's shade
    paint.normal = torch.nn.functional.normalize(to_world(s, ball), dim=1)
    paint.specular, paint.gloss = torch.full_like(radius, 0.10), torch.full_like(radius, 320.0)
    glint = torch.nn.functional.normalize(s.view + torch.tensor([0.25, 0.55, 0.0]), dim=1)
    half = torch.nn.functional.normalize(s.view + glint, dim=1)
    spark = (paint.normal * half).sum(1).clamp(min=0) ** 900
    paint.albedo = paint.albedo + 0.75 * spark[:, None]
    paint.flesh, paint.open = torch.full_like(radius, 0.4), torch.full_like(radius, 0.6)


def paint_teeth(style: Look, s: Samples, paint: Paint) -> None:
    """Ivory with gaps between the teeth."""
    angle = torch.atan2(s.rest[:, 0], s.rest[:, 2] - face_points()["eye"][2] + 0.032)
    gap = ramp(0.88, 1.0, torch.cos(angle * 25).abs().neg() + 1)
    paint.albedo = mix(torch.tensor([0.70, 0.66, 0.56]), torch.tensor([0.40, 0.33, 0.27]), gap * 0.6) * 0.85
    paint.specular, paint.gloss = torch.full_like(gap, 0.06), torch.full_like(gap, 90.0)
    paint.normal, paint.open = s.normal, torch.full_like(gap, 0.6)


def paint_tongue(style: Look, s: Samples, paint: Paint) -> None:
    """Wet, rough, with a furrow."""
    bumps, slope = noise3(s.rest, 900.0)
    furrow = ramp(0.004, 0.0, s.rest[:, 0].abs())
    paint.albedo = torch.tensor([0.46, 0.16, 0.16]) * (1 + 0.08 * bumps - 0.25 * furrow)[:, None]
    paint.specular, paint.gloss = torch.full_like(bumps, 0.06), torch.full_like(bumps, 60.0)
    paint.normal, paint.flesh = tilt(s, slope * 0.05), torch.ones_like(bumps)
    paint.open = torch.full_like(bumps, 0.4)


def paint_lash(style: Look, s: Samples, paint: Paint) -> None:
    """Dark lashes."""
    paint.albedo = (linear(style.hair) * 0.15 + 0.008).expand(len(s.rest), 3)
    paint.normal = s.normal


# ---------------------------------------------------------------- hair


def strand_place(style: Look, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates across and along the strands in metres (N,), and the strands' rest direction (N, 3)."""
    face = face_points()
    x, y, z = rest.unbind(1)
    z0 = face["joints"][15, 2] - 0.005
    combed = STYLES[style.hair_style].combed if style.hair_style in STYLES else "crown"
    y = y - face["eye"][1]
    zero = torch.zeros_like(x)
    if combed == "side":  # strands part beside the middle
        x = x + 0.035 * (style.parting or 0.6)
    if combed == "back":
        around = torch.atan2(x, (y + 0.12).clamp(min=0.02))
        return around * 0.11, z, torch.stack([zero, -0.25 + zero, -1 + zero], 1)
    azimuth = torch.atan2(x, z - z0)
    away = torch.stack([torch.sin(azimuth), -0.25 - 8 * (0.08 - y).clamp(min=0), torch.cos(azimuth)], 1)
    return azimuth * 0.10, y, away


def paint_hair(style: Look, s: Samples, paint: Paint, tail: bool = False) -> None:
    """Strands in clumps, darker at the roots, lighter single ones; skin shows where the hairline is thin."""
    if tail:
        u, along = s.fields[:, 2], s.fields[:, 3] * 0.3
        across = u * 0.19
        away = torch.tensor([0.0, -1.0, -0.2]).expand(len(u), 3)
    else:
        across, along, away = strand_place(style, s.rest)
    curls = STYLES[style.hair_style].combed == "curls"
    broad, bend = noise3(s.rest, 45.0)
    wander = across + 0.0012 * broad
    clump, second, clump_slope, _ = noise(wander * 210, along * 9)
    fine = noise(wander * 1150 + 7, along * 22)[0] * ramp(0.0016, 0.0005, s.footprint)
    if curls:
        ring, slope = noise3(s.rest, 130.0)
        tight, slope2 = noise3(s.rest + 0.0015 * slope, 330.0)
        clump, fine = ring * 0.9, tight * ramp(0.002, 0.0006, s.footprint)
    value = 1 + 0.20 * clump + 0.22 * fine
    base = linear(style.hair)
    light = base * 1.7 + 0.02
    albedo = (
        mix(base, light, (ramp(0.2, 1.8, second + 0.4 * fine) * style.hair_light)) * value.clamp(0.25, 1.8)[:, None]
    )
    depth = ramp(-1.6, 0.3, clump)  # the gaps between clumps are dark
    paint.albedo = albedo * ((0.72 if curls else 0.5) + (0.28 if curls else 0.5) * depth)[:, None]
    if curls:
        paint.normal = tilt(s, (slope * 0.30 + slope2 * 0.18) * ramp(0.004, 0.001, s.footprint)[:, None] + bend * 0.1)
        paint.strand = torch.full_like(value, 0.25)
    else:
        sideways = torch.nn.functional.normalize(torch.linalg.cross(s.normal, to_world(s, away)), dim=1)
        bump = (0.16 * clump_slope + 0.10 * fine)[:, None] * sideways
        paint.normal = torch.nn.functional.normalize(s.normal + bump, dim=1)
        paint.strand = 0.75 + 0.3 * fine
    tangent = to_world(s, away)
    tangent = tangent - (tangent * paint.normal).sum(1, keepdim=True) * paint.normal
    paint.tangent = torch.nn.functional.normalize(tangent, dim=1)
    paint.flesh = torch.full_like(value, 0.3)
    if not tail:
        thin_hairline(style, s, paint, fine + 0.25 * clump)


def thin_hairline(style: Look, s: Samples, paint: Paint, strands: Tensor) -> None:
    """Near the hairline single strands leave the skin: there the pixel is skin, in colour and in class."""
    above = s.fields[:, 2]
    skin = ramp(0.0055, 0.0, above + 0.0022 * strands)
    paint.albedo = mix(paint.albedo, linear(style.skin) * 0.9, skin)
    paint.strand, paint.flesh = paint.strand * (1 - skin), torch.maximum(paint.flesh, skin)
    paint.part = torch.where(skin > 0.5, FACE_NECK, -1)


# ---------------------------------------------------------------- cloth


@dataclass
class Place:
    """Where on a garment a point is: `turns` (N,) around trunk or limb in [0, 1), `girth` metres of one turn, `along` (N,)
    metres down the trunk or limb, `limb` (N,) bool on a sleeve, `front` (N,) bool."""

    turns: Tensor
    girth: Tensor
    along: Tensor
    limb: Tensor
    front: Tensor


def place_on(garment: Garment, p: Tensor) -> Place:
    """Cylinder coordinates of the trunk, of a sleeve or of a leg."""
    joints = face_points()["joints"]
    x, y, z = p.unbind(1)
    shoulder, knee, spine = joints[16], joints[4], joints[6]
    limb = (x.abs() > shoulder[0] + 0.012 - 0.12 * (y - shoulder[1])) & (y > shoulder[1] - 0.2)
    legs = (y < joints[1, 1] - 0.08) if garment.kind in ("trousers", "sock", "shoe") else torch.zeros_like(limb)
    trunk = torch.atan2(x, z - spine[2])
    arm = torch.atan2(z - shoulder[2], y - shoulder[1])
    leg = torch.atan2(x.abs() - knee[0], z - knee[2])
    angle = torch.where(limb, arm, torch.where(legs, leg, trunk))
    girth = torch.where(limb, 0.36, torch.where(legs, 0.5, 1.0))
    along = torch.where(limb, x.abs() - shoulder[0], -y)
    return Place(angle / (2 * np.pi) + 0.5, girth, along, limb, z > spine[2])


def whole_repeats(place: Place, scale: float) -> Tensor:
    """Repeats (N,) around a limb, rounded so that the pattern closes."""
    return (place.girth / scale).round().clamp(min=1)


def triangle_wave(x: Tensor) -> Tensor:
    """1 at integers, 0 half way, straight in between."""
    return ((x - x.round()).abs() * 2 - 1).abs()


def print_colour(garment: Garment, s: Samples, place: Place) -> Tensor:
    """The garment's pattern: albedo (N, 3)."""
    first, second = linear(garment.colour), linear(garment.colour2)
    if garment.pattern not in PATTERNS:
        return first.expand(len(s.rest), 3)
    return mix(first, second, PATTERNS[garment.pattern](garment, s, place))


def stripes(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Rings around trunk and sleeves."""
    soft = 2 * s.footprint / garment.scale
    return edge(triangle_wave(place.along / garment.scale) - 0.55, soft)


def pinstripes(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Thin lines down the garment."""
    soft = 2 * s.footprint / garment.scale
    share = edge(triangle_wave(place.turns * whole_repeats(place, garment.scale)) - 0.9, soft)
    return share * 0.8


def checks(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Two sets of bands that cross, with a thin line between: tartan."""
    soft = 2 * s.footprint / garment.scale
    around, along = place.turns * whole_repeats(place, garment.scale), place.along / garment.scale
    bands = [edge(triangle_wave(c) - 0.5, soft) for c in (around, along)]
    lines = [edge(triangle_wave(c + 0.5) - 0.88, soft) for c in (around, along)]
    return (0.42 * (bands[0] + bands[1]) + 0.3 * (lines[0] + lines[1])).clamp(0, 1)


def dots(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Discs on a staggered grid."""
    row = place.along / garment.scale
    column = place.turns * whole_repeats(place, garment.scale) + 0.5 * (row.floor() % 2)
    away = torch.hypot(row - row.floor() - 0.5, column - column.floor() - 0.5)
    return edge(0.24 - away, s.footprint / garment.scale)


def camouflage(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Patches from noise."""
    value = noise3(s.rest, 1.6 / garment.scale)[0] + 0.5 * noise3(s.rest + 3, 4 / garment.scale)[0]
    soft = 6 * s.footprint / garment.scale
    return 0.95 * edge(value - 0.45, soft) + 0.38 * edge(-value - 0.35, soft)


def heather(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Two yarns spun together."""
    speck = noise(place.turns * place.girth * 900, place.along * 350)[0]
    fade = ramp(0.006, 0.001, s.footprint)
    return (0.26 + 0.09 * speck * fade).clamp(0, 1)


def denim(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Blue yarn over white, worn thin on the front of the thighs."""
    twill = noise((place.turns * place.girth + place.along) * 900, (place.turns * place.girth - place.along) * 300)[0]
    knee = face_points()["joints"][4]
    worn = torch.exp(-(((s.rest[:, 1] - knee[1] - 0.17) / 0.15) ** 2)) * (place.front & ~place.limb)
    wear = 0.05 + 0.14 * worn + 0.03 * noise3(s.rest, 14.0)[0]
    return (wear + 0.025 * twill * ramp(0.004, 0.001, s.footprint)).clamp(0, 0.6)


def gradient(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Dip-dyed from the top down."""
    return ramp(0.42, -0.05, s.rest[:, 1])


def block(garment: Garment, s: Samples, place: Place) -> Tensor:
    """One broad band across the chest and the sleeves."""
    height = s.rest[:, 1] - face_points()["joints"][9, 1]
    band = edge(0.055 - (height + 0.03).abs(), s.footprint)
    return torch.where(place.limb, edge(0.04 - (place.along - 0.13).abs(), s.footprint), band)


def logo(garment: Garment, s: Samples, place: Place) -> Tensor:
    """A ring with a bar on the chest."""
    chest = face_points()["joints"][9]
    dx, dy = s.rest[:, 0], s.rest[:, 1] - chest[1] + 0.005
    ring = edge(0.012 - (torch.hypot(dx, dy) - 0.052).abs(), s.footprint)
    bar = edge(0.011 - dy.abs(), s.footprint) * edge(0.075 - dx.abs(), s.footprint)
    return torch.maximum(ring, bar) * (place.front & ~place.limb)


def laces(garment: Garment, s: Samples, place: Place) -> Tensor:
    """White laces across the instep."""
    ankle = face_points()["joints"][7]
    ahead = s.rest[:, 2] - ankle[2]
    across = (s.rest[:, 0].abs() - ankle[0] - 0.06 * ahead).abs()
    rows = edge(triangle_wave(ahead / 0.016) - 0.45, 2 * s.footprint / 0.016)
    top = ramp(0.3, 0.6, rest_normal_y(s))
    return rows * edge(0.019 - across, s.footprint) * ramp(0.028, 0.034, ahead) * ramp(0.118, 0.112, ahead) * top * 0.9


PATTERNS = {
    "stripes": stripes, "pinstripes": pinstripes, "checks": checks, "dots": dots, "camo": camouflage, "heather": heather,
    "denim": denim, "gradient": gradient, "block": block, "logo": logo, "laces": laces,
}  # fmt: skip

# specular, gloss, sheen, depth of folds
_CLOTH = {
    "cotton": (0.010, 8, 0.10, 1.0), "wool": (0.004, 5, 0.28, 0.8), "denim": (0.012, 8, 0.06, 0.85),
    "leather": (0.055, 34, 0.0, 0.7), "silk": (0.045, 22, 0.08, 1.1),
}  # fmt: skip


def paint_cloth(garment: Garment, s: Samples, paint: Paint) -> None:
    """Print, seams, weave and folds."""
    place = place_on(garment, s.rest)
    hem = s.fields[:, 0]
    albedo = print_colour(garment, s, place)
    near = ramp(0.0022, 0.0007, s.footprint)
    weave, weave_slope = fine_noise3(s, 380.0, 0.0022)
    albedo = albedo * (1 + 0.07 * weave * near + 0.03 * noise3(s.rest, 11.0)[0])[:, None]
    albedo = albedo * details(garment, s, place, hem)[:, None]
    albedo = overlay(garment, s, place, hem, albedo)
    specular, gloss, sheen, depth = _CLOTH[garment.material]
    slope = folds(garment, s, place) * depth + weave_slope * (0.05 * near)[:, None]
    if garment.material == "wool" or "ribs" in garment.details:
        slope = slope + knit(garment, s, place, hem, near)
    paint.albedo = torch.where(s.inside[:, None], albedo * 0.45, albedo)
    paint.normal = tilt(s, slope)
    shape = torch.zeros_like(hem)
    paint.specular, paint.gloss, paint.sheen = shape + specular, shape + gloss, shape + sheen


def folds(garment: Garment, s: Samples, place: Place) -> Tensor:
    """Slope (N, 3) of creases: long ones that follow the pull of the cloth, deeper at elbows, knees, waist and hips."""
    if garment.kind in ("sock", "shoe", "belt", "cap", "beanie"):
        return noise3(s.rest, 30.0)[1] * 0.05
    joints = face_points()["joints"]
    x, y = s.rest[:, 0].abs(), s.rest[:, 1]
    elbow = torch.exp(-(((x - joints[18, 0]) / 0.07) ** 2)) * place.limb
    pit = torch.exp(-(((x - joints[16, 0]) / 0.07) ** 2) - ((y - joints[16, 1] + 0.06) / 0.08) ** 2)
    waist = torch.exp(-(((y - joints[3, 1] + 0.02) / 0.09) ** 2)) * ~place.limb
    knee = torch.exp(-(((y - joints[4, 1]) / 0.06) ** 2)) + torch.exp(-(((y - joints[7, 1] - 0.05) / 0.06) ** 2))
    lower = garment.kind in ("trousers",)
    hip = torch.exp(-(((y - joints[1, 1] + 0.02) / 0.06) ** 2)) * lower
    zone = 0.32 + 0.75 * (elbow + pit + 0.8 * waist * (1 - 0.6 * lower) + knee * lower + 0.7 * hip).clamp(0, 1)
    if garment.kind == "skirt":
        stretch = torch.tensor([1.0, 0.12, 1.0])
    else:  # creases run around a limb, diagonally over the trunk
        stretch = torch.where(place.limb[:, None], torch.tensor([1.0, 0.35, 0.35]), torch.tensor([0.55, 0.8, 0.55]))
    value, wide = noise3(s.rest * stretch, 13.0)
    _, narrow = noise3(s.rest * stretch + 0.02 * value[:, None], 34.0)
    return (wide * 0.20 + narrow * 0.13) * stretch * (zone * (0.35 + 0.65 * garment.fit))[:, None]


def knit(garment: Garment, s: Samples, place: Place, hem: Tensor, near: Tensor) -> Tensor:
    """Slope (N, 3) of ribs along the hems of knitwear and of socks."""
    repeats = whole_repeats(place, 0.009)
    wave = torch.sin(place.turns * repeats * 2 * np.pi)
    band = ramp(0.05, 0.045, hem) if "ribs" in garment.details else torch.zeros_like(hem)
    strength = wave * band * ramp(0.0045, 0.0015, s.footprint) * 0.5
    side = torch.stack([s.rest[:, 0].sign(), torch.zeros_like(hem), torch.ones_like(hem)], 1) * 0.7
    return side * strength[:, None]


def dark_line(distance: Tensor, width: float, s: Samples, strength: float = 0.4) -> Tensor:
    """A seam: 1 away from distance = 0, darker on it (N,). It fades where it is thinner than a pixel."""
    size = torch.maximum(s.footprint, torch.full_like(s.footprint, width))
    return 1 - strength * (width / size) * torch.exp(-((distance / size) ** 2) * 2)


def details(garment: Garment, s: Samples, place: Place, hem: Tensor) -> Tensor:
    """Factors (N,) on the albedo: hems, seams of shoulder and side, pockets, plackets."""
    p = s.rest
    joints = face_points()["joints"]
    factor = dark_line(hem - 0.019, 0.0016, s, 0.35) * dark_line(hem, 0.0012, s, 0.3)
    if garment.kind in ("shirt", "jacket"):
        shoulder = joints[16]
        seam = p[:, 0].abs() - shoulder[0] - 0.012 + 0.12 * (p[:, 1] - shoulder[1])
        factor = factor * torch.where(p[:, 1] > shoulder[1] - 0.13, dark_line(seam, 0.0018, s, 0.4), 1.0)
        if "ribs" in garment.details or garment.material == "wool":
            factor = factor * dark_line(hem - 0.048, 0.002, s, 0.3)
    if garment.kind in ("shirt",) and ("buttons" in garment.details or "placket" in garment.details):
        length = 9.0 if "buttons" in garment.details else 0.14
        here = place.front & (p[:, 1] > joints[12, 1] - 0.06 - length) & (p[:, 0].abs() < 0.06)
        lines = dark_line(p[:, 0].abs() - 0.015, 0.0012, s, 0.45)
        factor = factor * torch.where(here, lines, 1.0)
    if garment.kind == "jacket":
        factor = factor * torch.where(place.front, dark_line(hem - 0.05, 0.002, s, 0.5), 1.0)
    if garment.kind == "trousers" and "pockets" in garment.details:
        hip = joints[1]
        side = p[:, 0].abs() - hip[0] - 0.02 + 0.45 * (p[:, 1] - hip[1] - 0.02)
        slit = dark_line(side, 0.002, s, 0.5)
        pocket = place.front & (p[:, 1] > hip[1] - 0.045) & (p[:, 1] < hip[1] + 0.06)
        factor = factor * torch.where(pocket, slit, 1.0)
        back = torch.maximum((p[:, 0].abs() - 0.085).abs() - 0.052, (p[:, 1] - hip[1] - 0.01).abs() - 0.058)
        factor = factor * torch.where(place.front, 1.0, dark_line(back, 0.0018, s, 0.4))
        fly = dark_line(p[:, 0] - 0.016, 0.0014, s, 0.4)
        factor = factor * torch.where(place.front & (p[:, 1] > hip[1] - 0.05), fly, 1.0)
    if garment.kind in ("trousers",) and "seam" in garment.details:
        leg = p[:, 1] < joints[1, 1] - 0.08
        factor = factor * torch.where(leg, dark_line((place.turns - 0.75).abs() * 0.5, 0.002, s, 0.4), 1.0)
    return factor


def overlay(garment: Garment, s: Samples, place: Place, hem: Tensor, albedo: Tensor) -> Tensor:
    """Things in another colour: buttons, buckles, collars, side stripes, soles, bands of socks and hats."""
    p, second, joints = s.rest, linear(garment.colour2), face_points()["joints"]
    if garment.kind == "shirt" and ("buttons" in garment.details or "placket" in garment.details):
        y = (joints[12, 1] - p[:, 1]) / 0.085
        away = torch.hypot(p[:, 0], (y - y.round()) * 0.085)
        share = edge(0.0052 - away, s.footprint) * place.front
        if "placket" in garment.details:
            share = share * (p[:, 1] > joints[12, 1] - 0.2)
        albedo = mix(albedo, torch.full((3,), 0.62), share * 0.8)
    if garment.neck == "collar" and garment.kind == "shirt":
        top = ramp(0.036, 0.033, hem) * (p[:, 1] > joints[16, 1] - 0.06) * (p[:, 0].abs() < 0.1)
        albedo = albedo * (1 + 0.22 * top)[:, None]
    if garment.kind == "trousers" and "stripe" in garment.details:
        share = edge(0.011 - (place.turns - 0.75).abs() * 0.5, s.footprint) * (p[:, 1] < joints[1, 1] - 0.08)
        albedo = mix(albedo, second, share)
    if garment.kind == "belt":
        buckle = torch.maximum(p[:, 0].abs() / 0.024, (hem - 0.017).abs() / 0.016)
        ring = edge(1.0 - buckle, s.footprint / 0.02) * edge(buckle - 0.62, s.footprint / 0.02) * place.front
        albedo = mix(albedo, second, ring)
    if garment.kind == "shoe":
        ground = landmarks(load_body()).leg_y[-1] - 0.006
        sole = edge(ground + 0.023 - p[:, 1], s.footprint)
        albedo = mix(albedo, second, sole)
        toe = edge(p[:, 2] - joints[10, 2] + 0.012, s.footprint) * ("trainers" in garment.details)
        albedo = mix(albedo, second * 0.9, toe * 0.75 * (1 - sole))
    if garment.kind == "cap":
        panels = dark_line(torch.sin(torch.atan2(p[:, 0], p[:, 2] - joints[15, 2]) * 3) * 0.03, 0.0015, s, 0.4)
        albedo = albedo * torch.where(hem < 8, panels, 1.0)[:, None]
    return albedo


def paint_mannequin(style: None, s: Samples, paint: Paint) -> None:
    """A smooth, featureless grey."""
    paint.albedo = torch.full((len(s.rest), 3), 0.34)
    paint.normal = s.normal
    paint.specular, paint.gloss = torch.full((len(s.rest),), 0.02), torch.full((len(s.rest),), 14.0)


PAINTERS = {
    "skin": paint_skin, "eye": paint_eye, "teeth": paint_teeth, "tongue": paint_tongue, "lash": paint_lash,
    "hair": paint_hair, "tail": lambda style, s, paint: paint_hair(style, s, paint, tail=True),
    "cloth": paint_cloth, "mannequin": paint_mannequin,
}  # fmt: skip


def paint_surface(surface: Surface, s: Samples) -> Paint:
    """Colour and relief of samples that lie on one surface."""
    paint = Paint.blank(len(s.rest))
    PAINTERS[surface.kind](surface.style, s, paint)
    return paint

"""Hair and hats: caps cut from the scalp and lifted off it, and free shapes (falling hair, tails, buns, peaks).

Directions around the head are azimuths: 0 the face, pi/2 the left ear, pi the back. Heights are over the eyes' level.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from course_lib.data.parts import PART_IDS
from course_lib.data.person import Body, Garment, Look, Person
from course_lib.data.surfaces import (
    Builder,
    Piece,
    Surface,
    cut,
    cut_all,
    landmarks,
    smoothing_matrix,
    smoothstep,
    with_rim,
)

# azimuth in degrees and height of the hairline in metres, front to back; ears are left out separately
_HAIRLINE = np.array(
    [(0, 0.070), (18, 0.070), (34, 0.064), (48, 0.05), (57, 0.03), (66, 0.014), (73, -0.012), (82, -0.024), (90, -0.01)]
    + [(104, -0.012), (114, -0.034), (126, -0.058), (145, -0.076), (180, -0.085)]
)
_HAT_LINE = np.array([(0, 0.050), (45, 0.046), (90, 0.022), (135, -0.004), (180, -0.016)])


@dataclass(frozen=True)
class Style:
    """Thickness of the hair in metres at the side and on top, how it waves, and which free shape hangs from it."""

    side: float
    top: float
    relief: float = 0.002
    recede: float = 0.0
    hangs: str = ""  # sheet, tail, bun
    combed: str = "crown"  # crown (from the whorl), side (from a parting), back, curls


STYLES = {
    "short": Style(0.007, 0.015),
    "crop": Style(0.004, 0.009, 0.001),
    "side_part": Style(0.008, 0.021, combed="side"),
    "swept": Style(0.006, 0.024, combed="back"),
    "receding": Style(0.006, 0.009, recede=0.034, combed="back"),
    "curly": Style(0.022, 0.030, 0.006, combed="curls"),
    "afro": Style(0.055, 0.065, 0.005, combed="curls"),
    "bob": Style(0.013, 0.019, hangs="sheet"),
    "long": Style(0.011, 0.017, hangs="sheet"),
    "bun": Style(0.006, 0.011, 0.001, hangs="bun", combed="back"),
    "ponytail": Style(0.006, 0.011, 0.001, hangs="tail", combed="back"),
}


CORE = 0.55  # of the hair's thickness: the mesh under strands


@dataclass(frozen=True)
class Head:
    """Where a head is: the axis that azimuths turn around, the eyes' height, its size."""

    axis: np.ndarray  # (2,) x, z
    eye_y: float
    top_y: float

    @staticmethod
    def measure(vertices: np.ndarray, joints: np.ndarray, scalp: np.ndarray) -> "Head":
        """From vertices (V, 3), joints (55, 3) and the scalp mask (V,)."""
        upper = vertices[scalp & (vertices[:, 1] > joints[23, 1] + 0.02)]
        middle = (upper[:, 2].min() + upper[:, 2].max()) / 2
        return Head(np.array([0.0, middle]), float(joints[23:25, 1].mean()), float(upper[:, 1].max()))

    def azimuth(self, points: np.ndarray) -> np.ndarray:
        """Azimuth (N,) of points, radians in (-pi, pi]."""
        return np.arctan2(points[:, 0] - self.axis[0], points[:, 2] - self.axis[1])


def line_height(line: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Height (N,) of a line given by knots, smooth between them, the same left and right."""
    return np.interp(np.degrees(np.abs(azimuth)), line[:, 0], line[:, 1])


def above_hairline(points: np.ndarray, head: Head, style: Style | None = None) -> np.ndarray:
    """Metres above the hairline (N,); receding hair leaves the temples first."""
    azimuth = head.azimuth(points)
    height = line_height(_HAIRLINE, azimuth)
    if style is not None and style.recede:
        degrees = np.degrees(np.abs(azimuth))
        height = height + style.recede * (
            0.45 * smoothstep(70, 40, degrees) + 0.5 * np.exp(-(((degrees - 26) / 16) ** 2))
        )
    return points[:, 1] - head.eye_y - height


def above_hat_line(points: np.ndarray, head: Head) -> np.ndarray:
    """Metres above the edge of a hat (N,)."""
    return points[:, 1] - head.eye_y - line_height(_HAT_LINE, head.azimuth(points))


def outward(points: np.ndarray, normals: np.ndarray, head: Head) -> np.ndarray:
    """The way hair stands: between the normal and the direction away from the middle of the head."""
    centre = np.array([head.axis[0], head.eye_y + 0.03, head.axis[1]])
    away = points - centre
    mixed = away / np.linalg.norm(away, axis=1, keepdims=True) + 0.7 * normals
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def relief(points: np.ndarray, seed: int, scale: float) -> np.ndarray:
    """Smooth bumps (N,) in about [-1, 1] of size `scale` metres."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(8, 3)) * (2.2 / scale)
    return np.sin(points @ waves.T + rng.uniform(0, 6.28, 8)).sum(1) / 3


# ---------------------------------------------------------------- caps


@lru_cache(maxsize=2)
def scalp_skin(body: Body) -> Piece:
    """The skin of the head above the neck."""
    pack, template = body.pack, body.model.template.numpy()
    faces = pack["faces_body"]
    neck_y = landmarks(body).joints[12, 1]
    near = (
        (template[faces, 1].min(1) > neck_y) & (template[faces, 0].max(1) < 0.15) & (pack["scalp"][faces].max(1) >= 0)
    )
    return Piece.whole(faces[near], len(template))


@lru_cache(maxsize=16)
def scalp_piece(body: Body, style: Style | None) -> Piece:
    """The part of the head's skin under a haircut, or under a hat (None), without the ears. The same for everybody."""
    head = reference_head(body)

    def inside(p):
        return above_hat_line(p, head) if style is None else above_hairline(p, head, style) + 0.0005

    piece = cut_all(scalp_skin(body), body.model.template.numpy(), [inside])
    ear = piece.base @ body.pack["ear"].astype(np.float32)
    return cut(piece, (0.35 - ear) * 0.02)


@lru_cache(maxsize=2)
def scalp_mask(body: Body) -> np.ndarray:
    """Vertices (V,) of the scalp's skin."""
    mask = np.zeros(len(body.model.template), bool)
    mask[body.pack["faces_body"].ravel()] = True
    return mask & (body.pack["scalp"] > 0.5)


@lru_cache(maxsize=2)
def reference_head(body: Body) -> Head:
    """The head of the template."""
    return Head.measure(body.model.template.numpy(), landmarks(body).joints, scalp_mask(body))


@lru_cache(maxsize=2)
def hairline(body: Body) -> np.ndarray:
    """Metres above the hairline (V,) for every vertex of the template; negative on the ears and below the head."""
    above = above_hairline(body.model.template.numpy(), reference_head(body))
    return np.minimum(above, (0.35 - body.pack["ear"]) * 0.02)


def add_hair(builder: Builder, person: Person) -> None:
    """The haircut of a person, and the hat that presses it down."""
    hat = next((g for g in person.outfit.garments if g.kind in ("cap", "beanie")), None)
    style = STYLES.get(person.look.hair_style)
    reference, shape = reference_head(builder.body), builder.shape
    own = Head.measure(shape.vertices, shape.joints, scalp_mask(builder.body))
    if style is not None:
        add_cap(builder, person, style, reference, own, hat is not None)
        if style.hangs == "sheet":
            add_sheet(builder, person, own, hat is not None)
        if style.hangs in ("tail", "bun") and not (hat is not None and style.hangs == "bun"):
            add_tail(builder, person, style, own)
    if hat is not None:
        add_hat(builder, hat, reference, own)


def add_cap(builder: Builder, person: Person, style: Style, reference: Head, own: Head, hat: bool) -> None:
    """Hair on the scalp: thin at the hairline, full above it. Under strands, a core of it."""
    piece = scalp_piece(builder.body, style)
    above = above_hairline(piece.base @ builder.template, reference, style)
    moved = cap_moved(builder, person, style, reference, own, hat, piece)
    if person.look.strands:
        moved = moved * np.float32(0.8 if style.combed == "curls" else CORE)
    surface = Surface("hair", PART_IDS["Hair"], person.look, two_sided=True)
    builder.add(piece, surface, moved, above[:, None])


def cap_moved(
    builder: Builder, person: Person, style: Style, reference: Head, own: Head, hat: bool, piece: Piece
) -> np.ndarray:
    """How far (N, 3) the outside of the hair is from the scalp `piece`, at rest."""
    template, normals = piece.base @ builder.template, piece.base @ builder.shape.normals
    above = above_hairline(template, reference, style)
    thickness = cap_thickness(person, style, template, above, reference)
    if hat:
        pressed = 0.004 + 0.02 * smoothstep(0.0, -0.02, template[:, 1] - reference.eye_y)
        thickness = np.minimum(thickness, pressed)
    moved = outward(piece.base @ builder.shape.vertices, normals, own) * thickness[:, None]
    smooth = smoothing_matrix(piece.faces, len(above))
    return (smooth @ (smooth @ moved) + 0.0004 * normals).astype(np.float32)


def cap_thickness(person: Person, style: Style, template: np.ndarray, above: np.ndarray, head: Head) -> np.ndarray:
    """Thickness of a haircut (N,) in metres at template points (N, 3) that lie `above` (N,) the hairline."""
    look, height = person.look, smoothstep(0.0, 0.085, template[:, 1] - head.eye_y)
    thickness = style.side + (style.top - style.side) * height
    thickness *= (0.7 + 0.6 * look.hair_volume) * smoothstep(0.001, 0.022 + style.side, above)
    if style.combed == "side":
        parted = -(template[:, 0] + 0.04 * look.parting) * np.sign(look.parting or 1)
        thickness += 0.010 * height * np.tanh(parted / 0.03)
    if look.hair_style == "swept":
        thickness += 0.012 * height * smoothstep(0.0, 0.09, template[:, 2] - head.axis[1])
    bumps = relief(template, person.seed, 0.018 if style.combed == "curls" else 0.03)
    thickness = (thickness + style.relief * bumps * smoothstep(0.0, 0.02, above)).clip(0.0)
    if style.hangs == "sheet":  # the falling hair lies over it
        front = smoothstep(0.9, 1.2, np.abs(head.azimuth(template)))
        thickness *= 1 - 0.6 * smoothstep(0.055, 0.03, template[:, 1] - head.eye_y) * front
    return thickness


def add_hat(builder: Builder, hat: Garment, reference: Head, own: Head) -> None:
    """A beanie with a folded edge, or a cap with a peak."""
    piece = scalp_piece(builder.body, None)
    template, normals = piece.base @ builder.template, piece.base @ builder.shape.normals
    above = above_hat_line(template, reference)
    thickness = 0.011 + 0.012 * smoothstep(0.0, 0.10, above)
    if hat.kind == "beanie":
        thickness += 0.004 * smoothstep(0.042, 0.036, above) + 0.012 * smoothstep(0.06, 0.1, above)
    moved = outward(piece.base @ builder.shape.vertices, normals, own) * thickness[:, None]
    smooth = smoothing_matrix(piece.faces, len(above))
    for _ in range(3):
        moved = smooth @ moved
    piece, moved = with_rim(piece, moved.astype(np.float32), builder, thickness=0.006)
    builder.add(piece, Surface("cloth", PART_IDS["Apparel"], hat, two_sided=True), moved)
    if hat.kind == "cap":
        add_peak(builder, hat, own)


# ---------------------------------------------------------------- free shapes


def grid_faces(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Triangles (F, 3) of a grid of rows x columns vertices; `closed` joins the last column to the first."""
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, 1) if closed else index[:, 1:]
    left = index if closed else index[:, :-1]
    a, b, c, d = left[:-1].ravel(), right[:-1].ravel(), left[1:].ravel(), right[1:].ravel()
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def joint_weights(rest: np.ndarray, builder: Builder, loosen: float = 0.7) -> np.ndarray:
    """Skinning (N, 55) of free hair: the head's, and lower down more and more the neck's and the chest's."""
    joints = builder.shape.joints
    low = smoothstep(joints[15, 1] - 0.02, joints[9, 1] + 0.06, rest[:, 1]) * loosen  # 15 head, 12 neck, 9 chest
    weights = np.zeros((len(rest), 55), np.float32)
    weights[:, 15], weights[:, 12], weights[:, 9] = 1 - low, low * 0.5 * (1 - low), low * (0.5 + 0.5 * low)
    return weights


def head_radius(builder: Builder, own: Head, azimuth: np.ndarray, low: float, high: float) -> np.ndarray:
    """Radius of the skull around the head's axis in directions azimuth (N,), between two heights over the eyes."""
    points = builder.shape.vertices[scalp_mask(builder.body) & (builder.body.pack["ear"] < 0.3)]
    height = points[:, 1] - own.eye_y
    points = points[(height > low) & (height < high)]
    around, radius = own.azimuth(points), np.hypot(points[:, 0], points[:, 2] - own.axis[1])
    gap = np.abs(np.angle(np.exp(1j * (azimuth[:, None] - around))))  # (N, M)
    return np.max(np.where(gap < 0.22, radius, 0.0), axis=1)


def body_radius(builder: Builder, own: Head, azimuth: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """How far neck, back and chest reach from the head's axis: (rows, columns) for heights (rows,) and azimuths."""
    shape, pack = builder.shape, builder.body.pack
    points = shape.vertices[np.unique(pack["faces_tights"])]
    near = (np.abs(points[:, 0]) < 0.16) & (points[:, 1] < own.eye_y - 0.08) & (points[:, 1] > heights.min() - 0.03)
    points = points[near]
    around, radius = own.azimuth(points), np.hypot(points[:, 0], points[:, 2] - own.axis[1])
    gap = np.abs(np.angle(np.exp(1j * (azimuth[:, None] - around))))
    reach = np.where(gap < 0.16, radius, 0.0)  # (columns, M)
    level = np.abs(heights[:, None] - points[:, 1]) < 0.022  # (rows, M)
    return np.max(np.where(level[:, None], reach, 0.0), axis=2)


@dataclass(frozen=True)
class Sheet:
    """Falling hair around a head: azimuth (columns,), `side` (columns,) its distance from the face, t (rows, 1) from
    top to tip, and locks (columns,), noise that parts the sheet."""

    azimuth: np.ndarray
    side: np.ndarray
    t: np.ndarray
    locks: np.ndarray


def add_sheet(builder: Builder, person: Person, own: Head, hat: bool) -> None:
    """Hair that falls around the head from temple to temple: a bob, or long over back and chest."""
    grid, sheet = sheet_grid(builder, person, own, hat)
    if person.look.strands:
        grid, sheet = sheet_core(grid, sheet, own)
    rows, columns = grid.shape[:2]
    rest = grid.reshape(-1, 3)
    scalp = scalp_mask(builder.body)
    forward = builder.template[scalp, 2].mean() - builder.shape.vertices[scalp, 2].mean()
    t = np.broadcast_to(sheet.t, (rows, columns)).ravel()
    occlusion = 0.9 + 0.1 * t
    fields = np.column_stack([np.full(len(rest), 9.0), occlusion, np.full(len(rest), 0.05)])
    surface = Surface("hair", PART_IDS["Hair"], person.look, two_sided=True)
    faces, where = grid_faces(rows, columns), rest + [0, 0, forward]
    builder.add_free(rest, joint_weights(rest, builder), faces, where, fields, surface)


def sheet_grid(
    builder: Builder, person: Person, own: Head, hat: bool, rows: int = 24, columns: int = 84
) -> tuple[np.ndarray, Sheet]:
    """Where falling hair is at rest, (rows, columns, 3), and its coordinates."""
    look, rng = person.look, np.random.default_rng(person.seed)
    azimuth = np.linspace(np.radians(66), np.radians(294), columns)
    side = np.abs(np.angle(np.exp(1j * azimuth)))
    sheet = Sheet(azimuth, side, np.linspace(0, 1, rows)[:, None], smooth_noise(rng, columns, 3))
    ends = sheet_ends(look, sheet, own) + rng.normal(0, 0.0035, columns)
    y = own.eye_y + 0.072 + (ends - own.eye_y - 0.072) * sheet.t  # (rows, columns)
    radius = sheet_radius(builder, look, sheet, own, y, hat, cloth_over(person))
    rest = np.stack([radius * np.sin(azimuth), y, radius * np.cos(azimuth) + own.axis[1]], -1)
    return rest, sheet


def sheet_core(grid: np.ndarray, sheet: Sheet, own: Head, inside: float = 0.004, margin: int = 3):
    """The mesh under the strands of falling hair: a little narrower, shorter and nearer to the head."""
    axis = np.array([0.0, 0.0, own.axis[1]])
    away = (grid - axis) * [1, 0, 1]
    grid = grid - inside * away / np.linalg.norm(away, axis=-1, keepdims=True)
    rows = max(2, round(0.86 * len(grid)))
    sheet = Sheet(
        *(v[margin:-margin] for v in (sheet.azimuth, sheet.side)), sheet.t[:rows], sheet.locks[margin:-margin]
    )
    return grid[:rows, margin:-margin], sheet


def sheet_ends(look: Look, sheet: Sheet, own: Head) -> np.ndarray:
    """Heights (columns,) at which hair ends: a bob at the chin, long hair shorter on the shoulders."""
    if look.hair_style == "bob":
        return own.eye_y - 0.085 - 0.05 * look.hair_length + 0.018 * np.cos(sheet.side) + 0.009 * sheet.locks
    end = own.eye_y - 0.26 - 0.16 * look.hair_length
    over_shoulder = np.exp(-(((np.degrees(sheet.side) - 98) / 14) ** 2))
    return end + (own.eye_y - 0.17 - end) * over_shoulder + 0.03 * np.cos(sheet.side) + 0.009 * sheet.locks


def cloth_over(person: Person) -> float:
    """Metres that clothes add around neck and shoulders."""
    tops = [g for g in person.outfit.garments if g.kind in ("shirt", "jacket")]
    return max((0.003 * g.layer + 0.012 * g.fit + 0.004 * (g.material == "wool") for g in tops), default=0.0)


def sheet_radius(
    builder: Builder, look: Look, sheet: Sheet, own: Head, y: np.ndarray, hat: bool, cloth: float
) -> np.ndarray:
    """How far falling hair is from the head's axis (rows, columns): out from under the cap, clear of neck and back."""
    skull = head_radius(builder, own, sheet.azimuth, -0.02, 0.07)
    crown = head_radius(builder, own, sheet.azimuth, 0.068, 0.08)
    height, volume = y - own.eye_y, 0.008 + 0.012 * look.hair_volume
    cap = STYLES[look.hair_style].top * (0.7 + 0.6 * look.hair_volume)
    lift = cap - 0.014 + (max(volume, cap) + 0.017 - cap) * smoothstep(0.074, 0.045, height)
    radius = crown + (skull - crown) * smoothstep(0.072, 0.01, height) ** 0.6 + lift
    radius -= (-0.02 - height).clip(0) * (0.18 + 0.1 * (sheet.side > 2))
    radius += 0.0035 * sheet.locks * smoothstep(0.2, 0.8, sheet.t)
    levels = np.linspace(y.min(), own.eye_y - 0.1, 16)
    nearest = np.abs(y[..., None] - levels).argmin(-1)
    reach = body_radius(builder, own, sheet.azimuth, levels)[nearest, np.arange(y.shape[1])] + 0.012 + cloth
    radius = smooth_rows(np.maximum(radius, np.where(height < -0.1, reach.clip(0, 0.19), 0)))
    if look.hair_style == "bob":
        radius = radius - 0.012 * smoothstep(0.75, 1.0, sheet.t)  # ends turn in
    under = height > line_height(_HAT_LINE, np.angle(np.exp(1j * sheet.azimuth))) - 0.004
    return np.where(under, np.minimum(radius, skull + 0.004), radius) if hat else radius


def smooth_noise(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """White noise (count,) smoothed over `width` neighbours, unit variance."""
    noise = np.convolve(rng.normal(size=count + 2 * width), np.hanning(2 * width + 1), "same")[width:-width]
    return noise / noise.std()


def smooth_rows(grid: np.ndarray, times: int = 3) -> np.ndarray:
    """Average each cell of (rows, columns) with its neighbours, edges kept."""
    for _ in range(times):
        padded = np.pad(grid, 1, mode="edge")
        grid = (
            2 * padded[1:-1, 1:-1] + padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        ) / 6
    return grid


def add_tail(builder: Builder, person: Person, style: Style, own: Head, rows: int = 18, columns: int = 16) -> None:
    """A ponytail that leaves the back of the head and falls, or a bun."""
    t, turn = np.linspace(0, 1, rows)[:, None], np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    size = (0.6 if style.hangs == "tail" else 0.88) if person.look.strands else 1.0
    rest = tail_place(builder, person.look, style, own, t, turn, size).reshape(-1, 3)
    if style.hangs == "bun":
        rest = rest + (rest - rest.mean(0)) * (0.09 * relief(rest, person.seed, 0.025))[:, None]
    u = np.broadcast_to(turn, (rows, columns)).ravel() / (2 * np.pi)
    fields = np.column_stack(
        [np.full(len(rest), 9.0), np.full(len(rest), 0.9), u, np.broadcast_to(t, (rows, columns)).ravel()]
    )
    surface = Surface("tail", PART_IDS["Hair"], person.look, two_sided=True)
    builder.add_free(rest, joint_weights(rest, builder, 0.5), grid_faces(rows, columns, True), rest, fields, surface)


def tail_place(
    builder: Builder, look: Look, style: Style, own: Head, t: np.ndarray, turn: np.ndarray, size: np.ndarray | float
) -> np.ndarray:
    """Points (..., 3) at rest of a ponytail or bun: t along it from 0 to 1, turn around it in radians, size as a share
    of its radius."""
    back = head_radius(builder, own, np.array([np.pi]), 0.0, 0.06)[0]
    height = own.eye_y + (0.035 if style.hangs == "tail" else 0.03 + 0.05 * look.hair_length)
    if style.hangs == "tail":
        length = 0.16 + 0.16 * look.hair_length
        path_z = own.axis[1] - back + 0.012 - 0.055 * np.sin(np.pi * np.minimum(t * 1.6, 1) / 2) - 0.012 * t
        path_y = height + 0.03 * np.sin(np.pi * np.minimum(t * 2.2, 1)) - length * t**1.4
        width = 0.010 + 0.021 * smoothstep(0.05, 0.35, t) * (1 - 0.75 * smoothstep(0.5, 1.0, t))
        width = width * size
        y = path_y + width * 0.55 * np.cos(turn) * (1 - smoothstep(0.1, 0.4, t))
        x, z = width * np.sin(turn) + 0 * t, path_z + width * 0.8 * np.cos(turn) * smoothstep(0.0, 0.4, t)
    else:
        radius = 0.030 + 0.012 * look.hair_volume
        polar, middle = np.pi * t, own.axis[1] - back - 0.35 * radius
        x = radius * 1.1 * np.sin(polar) * np.cos(turn) * size
        y = height + radius * np.sin(polar) * np.sin(turn) * size
        z = middle + radius * np.cos(polar) * size + 0 * turn
    return np.stack(np.broadcast_arrays(x, y, z), -1)


def add_peak(builder: Builder, hat: Garment, own: Head, rows: int = 7, columns: int = 25) -> None:
    """The peak of a baseball cap: a bent half moon in front of the forehead."""
    azimuth = np.linspace(-1.15, 1.15, columns)
    skull = head_radius(builder, own, azimuth, 0.03, 0.07) + 0.010
    t = np.linspace(0, 1, rows)[:, None]
    reach = 0.075 * np.cos(azimuth / 1.15 * np.pi / 2) ** 0.6
    radius = skull + reach * t
    x, z = radius * np.sin(azimuth), radius * np.cos(azimuth) + own.axis[1]
    base = own.eye_y + line_height(_HAT_LINE, azimuth) + 0.006
    y = base - 0.012 * t - 2.2 * x**2 * t
    rest = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3)
    weights = np.zeros((len(rest), 55), np.float32)
    weights[:, 15] = 1
    edge = (1 - t + 0 * x).ravel() * 0.07
    fields = np.column_stack([edge, np.full(len(rest), 0.95), np.zeros((len(rest), 2))])
    surface = Surface("cloth", PART_IDS["Apparel"], hat, two_sided=True)
    builder.add_free(rest, weights, grid_faces(rows, columns)[:, ::-1], rest, fields, surface)

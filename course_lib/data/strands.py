"""Hair as strands: polylines at rest, grown inside the volumes of `hair`, that move with the head.

Each of our strands stands for several real hairs: side by side, they are as wide as a head's 100,000 real ones. A
smaller, opaque core of the old mesh lies under them, so that no skin shows through. The core, the widths and all
lengths are our own choices.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sparse
from scipy.spatial import cKDTree
from torch import Tensor

from course_lib.chapters.david_data import grow, proxy_mesh, proxy_normals, voxelize
from course_lib.data.appearance import brow, strand_place
from course_lib.data.face import beard_area, eye_centre, face_points
from course_lib.data.hair import (
    STYLES,
    Head,
    Style,
    above_hairline,
    cap_moved,
    reference_head,
    scalp_mask,
    scalp_piece,
    sheet_grid,
    tail_place,
)
from course_lib.data.person import Colour, Person
from course_lib.data.surfaces import Builder, smoothstep
from course_lib.data.texture import linear

REAL_WIDTH = 7.0  # metres: the width of 100,000 hairs of 0.07 mm side by side
POINTS = 12  # of a strand of the head
CELL = 0.007  # metres: cubes of the proxy
_FREE = [15, 12, 9]  # joints that carry hanging hair: head, neck, chest


@dataclass
class Strands:
    """N strands of one kind in a random order: any first few of them are a thinner head of hair.

    rest (N, P, 3) at rest; `normal`, `proxy` (N, P, 3) the smooth normals of the hair's shape and those of its proxy;
    `open` (N, P) how much light reaches a point; albedo (N, 3) linear; width (N,) metres at the root. Strands that grow
    on skin have base (N, V) and weights (N, 55), sparse; hanging ones have joints (N, P, 3), their share of head, neck
    and chest."""

    kind: str  # hair, beard, brow, lash
    rest: np.ndarray
    normal: np.ndarray
    open: np.ndarray
    albedo: np.ndarray
    width: np.ndarray
    base: sparse.csr_matrix | None = None
    weights: sparse.csr_matrix | None = None
    joints: np.ndarray | None = None
    proxy: np.ndarray | None = None
    taper: float = 0.35  # width at the tip, as a share

    def first(self, count: int) -> "Strands":
        """The first `count` strands, each as much wider as there are fewer of them."""
        if count >= len(self.rest):
            return self
        cut = {name: value[:count] for name, value in vars(self).items() if hasattr(value, "shape")}
        return replace(self, **cut | {"width": cut["width"] * (len(self.rest) / max(count, 1))})

    def pose(self, vertices: Tensor, transforms: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, P, 3) in the world and turns from rest, (N, 1, 3, 3) or (N, P, 3, 3), for posed vertices (V, 3)
        and joint transforms (55, 4, 4)."""
        joints = transforms.numpy()
        if self.base is None:
            blended = np.einsum("npj,jab->npab", self.joints, joints[_FREE])
            moved = np.einsum("npab,npb->npa", blended[..., :3, :3], self.rest) + blended[..., :3, 3]
            return moved, blended[..., :3, :3]
        turn = (self.weights @ joints[:, :3, :3].reshape(55, 9)).reshape(-1, 3, 3)
        root = self.base @ vertices.numpy()
        away = self.rest - self.rest[:, :1]
        return root[:, None] + away @ turn.transpose(0, 2, 1), turn[:, None]


# ---------------------------------------------------------------- roots


@dataclass
class Roots:
    """Places on surfaces: rest (N, 3), normal (N, 3), template (N, 3), base (N, V) sparse."""

    rest: np.ndarray
    normal: np.ndarray
    template: np.ndarray
    base: sparse.csr_matrix

    def strands(self, builder: Builder, **columns) -> Strands:
        """Strands that grow there."""
        return Strands(base=self.base, weights=self.base @ builder.body.weights, **columns)


def scatter_roots(rng: np.random.Generator, base: sparse.csr_matrix, faces: np.ndarray, builder: Builder, count: int):
    """`count` places, evenly spread over the area of faces (F, 3) whose vertices are base (N, V)."""
    points = base @ builder.shape.vertices
    a, b, c = (points[corner] for corner in faces.T)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = faces[rng.choice(len(faces), count, p=area / area.sum())]
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    shares = np.stack([1 - u - v, u, v], 1).ravel()
    entries = shares.astype(np.float32), face.ravel(), 3 * np.arange(count + 1)
    mixed = sparse.csr_matrix(entries, shape=(count, base.shape[0])) @ base
    normal = unit(mixed @ builder.shape.normals)
    return Roots(mixed @ builder.shape.vertices, normal, mixed @ builder.template, mixed)


def keep(roots: Roots, which: np.ndarray) -> Roots:
    """Some of the roots."""
    return Roots(roots.rest[which], roots.normal[which], roots.template[which], roots.base[which])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) at length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)


# ---------------------------------------------------------------- on the scalp


@dataclass
class Volume:
    """The space between scalp and the outside of a haircut, by direction from the middle of the head: in a table of
    `rows` elevations and 2 `rows` azimuths: inner and outer radius and metres above the hairline."""

    centre: np.ndarray
    table: np.ndarray  # (3, rows, 2 rows)

    @staticmethod
    def around(centre: np.ndarray, inner: np.ndarray, outer: np.ndarray, above: np.ndarray, rows: int = 40) -> "Volume":
        """From points of the scalp and of the outside, (N, 3) each, and their metres above the hairline (N,)."""
        directions, columns = table_directions(rows), []
        for points, values in ((inner, above), (outer, None)):
            away = points - centre
            radius = np.linalg.norm(away, axis=1)
            gap, near = cKDTree(away / radius[:, None]).query(directions, 4)
            weight = 1 / (gap + 0.01) ** 2
            weight /= weight.sum(-1, keepdims=True)
            columns.append((radius[near] * weight).sum(-1))
            if values is not None:
                columns.append((values[near] * weight).sum(-1) - (gap[..., 0] * 0.1 - 0.004).clip(0))
        return Volume(centre, np.stack([columns[0], np.maximum(columns[2], columns[0]), columns[1]]))

    def widen(self, points: np.ndarray, within: float = 0.06) -> None:
        """Let the hair reach out to other points (N, 3), in directions within so many radians of one."""
        away = points - self.centre
        radius = np.linalg.norm(away, axis=1)
        gap, near = cKDTree(away / radius[:, None]).query(self.directions(), 3)
        inner, outer, _ = self.table
        wider = np.where(gap[..., 0] < within, radius[near].mean(-1), 0)
        self.table[1] = np.maximum(outer, np.minimum(wider, inner + 0.06))

    def directions(self) -> np.ndarray:
        """The unit directions (rows, 2 rows, 3) of the table."""
        rows = self.table.shape[1]
        return table_directions(rows)

    def look(self, directions: np.ndarray) -> np.ndarray:
        """The table at unit directions (N, 3): inner, outer, above (3, N), between its entries by their means."""
        rows = self.table.shape[1]
        e = (np.arcsin(directions[:, 1].clip(-1, 1)) / np.pi + 0.5) * rows - 0.5
        a = (np.arctan2(directions[:, 0], directions[:, 2]) / np.pi + 1) * rows - 0.5
        e0, a0 = np.floor(e).astype(int), np.floor(a).astype(int)
        fe, fa = e - e0, a - a0
        low, high = e0.clip(0, rows - 1), (e0 + 1).clip(0, rows - 1)
        left, right = a0 % (2 * rows), (a0 + 1) % (2 * rows)
        below = self.table[:, low, left] * (1 - fa) + self.table[:, low, right] * fa
        return below * (1 - fe) + (self.table[:, high, left] * (1 - fa) + self.table[:, high, right] * fa) * fe


def table_directions(rows: int) -> np.ndarray:
    """Unit directions (rows, 2 rows, 3) of a table of elevations and azimuths."""
    elevation = (np.arange(rows) + 0.5) / rows * np.pi - np.pi / 2
    azimuth = (np.arange(2 * rows) + 0.5) / rows * np.pi - np.pi
    e, a = np.meshgrid(elevation, azimuth, indexing="ij")
    return np.stack([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)], -1)


@dataclass(frozen=True)
class Cut:
    """How a haircut's strands grow: shortest and longest in metres, how far they stray (radians), radius and turns of
    their curls, how many stand out from the rest."""

    length: tuple[float, float]
    stray: float = 0.25
    curl: float = 0.0
    turns: float = 0.0
    flying: float = 0.06


_CUTS = {
    "short": Cut((0.025, 0.05)),
    "crop": Cut((0.012, 0.025), 0.35),
    "side_part": Cut((0.04, 0.08), 0.18),
    "swept": Cut((0.05, 0.09), 0.15),
    "receding": Cut((0.025, 0.05), 0.25),
    "curly": Cut((0.03, 0.07), 0.6, 0.0055, 1.8, 0.15),
    "afro": Cut((0.02, 0.05), 0.7, 0.005, 2.2, 0.12),
    "bob": Cut((0.08, 0.14), 0.12),
    "long": Cut((0.08, 0.14), 0.12),
    "bun": Cut((0.08, 0.16), 0.1, flying=0.03),
    "ponytail": Cut((0.08, 0.16), 0.1, flying=0.03),
}


def grow_scalp(builder: Builder, person: Person, own: Head, count: int, hat: bool) -> Strands:
    """Strands on the scalp: they rise from the skin, then follow the way the hair is combed inside the haircut."""
    look, rng = person.look, np.random.default_rng([person.seed, 1])
    style, cut, head = STYLES[look.hair_style], _CUTS[look.hair_style], reference_head(builder.body)
    piece = scalp_piece(builder.body, style)
    moved = cap_moved(builder, person, style, head, own, hat, piece)
    inner = piece.base @ builder.shape.vertices
    centre = np.array([own.axis[0], own.eye_y + 0.03, own.axis[1]])
    above = above_hairline(piece.base @ builder.template, head, style)
    volume = Volume.around(centre, inner, inner + moved, above)
    if style.hangs == "sheet":
        volume.widen(sheet_grid(builder, person, own, hat)[0].reshape(-1, 3))
    roots = scatter_roots(rng, piece.base, piece.faces, builder, count)
    shift = np.array([head.axis[0], head.eye_y, head.axis[1]]) - [own.axis[0], own.eye_y, own.axis[1]]
    level = np.where(
        rng.random(count) < (0.0 if hat else cut.flying), rng.uniform(1.0, 1.3, count), rng.uniform(0.5, 1.02, count)
    )
    points, height = follow(rng, volume, roots.rest, person, cut, level, shift)
    normal = unit(points - centre)
    bright = 0.5 + 0.5 * (height / level[:, None].clip(0.2)).clip(0, 1) * level[:, None].clip(0, 1)
    return roots.strands(
        builder, kind="hair", rest=points, normal=normal, open=bright, albedo=hair_colours(rng, person, count),
        width=np.full(count, REAL_WIDTH / count),
    )  # fmt: skip


def follow(
    rng: np.random.Generator, volume: Volume, roots: np.ndarray, person: Person, cut: Cut, level: np.ndarray, shift
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, P, 3) of strands from roots (N, 3), and how high (N, P) they are in the haircut's volume: they rise to
    `level` (N,). shift (3,) carries this head onto the template's."""
    count = len(roots)
    length = rng.uniform(*cut.length, count) * (0.75 + 0.5 * person.look.hair_length)
    toward, stop = unit(roots - volume.centre), np.zeros(count, bool)
    turn, found, heights = rng.normal(0, cut.stray, count), [], []
    limit = -rng.uniform(0.0, 0.03 if STYLES[person.look.hair_style].hangs == "sheet" else 0.006, count)
    where = roots
    for step in range(POINTS):
        inner, outer, above = volume.look(toward)
        rise = level * (0.55 + 0.45 * (1 - np.exp(-length * step / (POINTS - 1) / 0.012))) * (step > 0)
        place = volume.centre + toward * (inner + (outer - inner) * rise + 0.0012 * rise)[:, None]
        stop |= (above < limit) & (step > 1)
        where = np.where(stop[:, None], where, place) if step else roots
        found.append(where)
        heights.append(rise)
        toward = unit(toward + combed(toward, where + shift, person, turn) * (length / (POINTS - 1) / inner)[:, None])
    points = np.stack(found, 1)
    if cut.curl:
        points = points + curls(rng, points, cut)
    return points, np.stack(heights, 1)


def combed(toward: np.ndarray, template: np.ndarray, person: Person, turn: np.ndarray) -> np.ndarray:
    """The way (N, 3) hair is combed at template points, along the head, strayed by `turn` (N,) radians."""
    _, _, away = strand_place(person.look, template.T)
    away = np.broadcast_to(away, template.T.shape).T
    along = unit(away - (away * toward).sum(1, keepdims=True) * toward)
    side = np.cross(toward, along)
    return along * np.cos(turn)[:, None] + side * np.sin(turn)[:, None]


def curls(rng: np.random.Generator, points: np.ndarray, cut: Cut) -> np.ndarray:
    """Offsets (N, P, 3) that wind strands around themselves."""
    count, steps = points.shape[:2]
    along = unit(points[:, -1] - points[:, 0])
    first = unit(np.cross(along, rng.normal(size=(count, 3))))
    second = np.cross(along, first)
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) + 2 * np.pi * cut.turns * np.linspace(0, 1, steps)
    size = cut.curl * rng.uniform(0.5, 1.2, (count, 1)) * np.linspace(0, 1, steps) ** 0.5
    return (size * np.cos(angle))[..., None] * first[:, None] + (size * np.sin(angle))[..., None] * second[:, None]


def hair_colours(rng: np.random.Generator, person: Person, count: int) -> np.ndarray:
    """Albedo (N, 3) of single strands: some are lighter, as `paint_strands` has it."""
    base = linear(person.look.hair).T
    lighter = smoothstep(0.2, 1.8, rng.normal(size=(count, 1))) * person.look.hair_light
    value = (1 + 0.2 * rng.normal(size=(count, 1))).clip(0.4, 1.8)
    return (base + (base * 0.7 + 0.02) * lighter) * value


# ---------------------------------------------------------------- hanging from it


def joint_shares(rest: np.ndarray, builder: Builder, loosen: float) -> np.ndarray:
    """Shares (N, P, 3) of head, neck and chest, as `hair.joint_weights` has them."""
    joints = builder.shape.joints
    low = smoothstep(joints[15, 1] - 0.02, joints[9, 1] + 0.06, rest[..., 1]) * loosen
    return np.stack([1 - low, low * 0.5 * (1 - low), low * (0.5 + 0.5 * low)], -1)


def grow_sheet(builder: Builder, person: Person, own: Head, count: int, hat: bool) -> Strands:
    """Strands of hair that falls from temple to temple: down the columns of `sheet_grid`, gathered in locks."""
    rng = np.random.default_rng([person.seed, 2])
    grid, sheet = sheet_grid(builder, person, own, hat)  # (rows, columns, 3)
    rows, columns = grid.shape[:2]
    start = rng.uniform(-1.2, columns + 0.2, (count, 1))
    above, end = rng.uniform(0.0, 0.12, (count, 1)), rng.uniform(0.82, 1.04, (count, 1))
    t = above + (end - above) * np.linspace(0, 1, POINTS + 2)[None]
    lock = np.round(start / 3.0) * 3.0 + rng.normal(0, 0.4, (count, 1))
    column = start + (lock - start) * 0.55 * t + rng.normal(0, 0.35, (count, 1)) * t
    rest = at_grid(grid, t * (rows - 1), column)
    out = unit((rest - [own.axis[0], 0, own.axis[1]]) * [1, 0, 1])
    depth = rng.normal(0.0, 0.0035, (count, 1)) * smoothstep(0.0, 0.25, t)
    flying = (rng.random((count, 1)) < (0.02 if hat else 0.07)) * rng.uniform(0, 0.02, (count, 1)) * t
    wave = 0.0025 * person.look.hair_volume * np.sin(2 * np.pi * (t * 2.5 + rng.random((count, 1)))) * t
    under = 0.011 * smoothstep(0.14, 0.0, t - above)  # each comes out from under the hair of the crown
    rest = rest + out * (depth + flying + wave - under)[..., None]
    bright = (0.75 + 60 * depth).clip(0.45, 1.0) * np.ones_like(t)
    return Strands(
        "hair", rest, out, bright, hair_colours(rng, person, count), np.full(count, REAL_WIDTH / count),
        joints=joint_shares(rest, builder, 0.7),
    )  # fmt: skip


def at_grid(grid: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A grid (rows, columns, 3) at fractional places (N, P), continued straight beyond its edges: (N, P, 3)."""
    r, c = (np.floor(v).astype(int).clip(0, n - 2) for v, n in zip((row, column), grid.shape, strict=False))
    fr, fc = (row - r)[..., None], (column - c)[..., None]
    upper = grid[r, c] * (1 - fc) + grid[r, c + 1] * fc
    return upper * (1 - fr) + (grid[r + 1, c] * (1 - fc) + grid[r + 1, c + 1] * fc) * fr


def grow_tail(builder: Builder, person: Person, style: Style, own: Head, count: int) -> Strands:
    """Strands of a ponytail, or wound around a bun."""
    rng = np.random.default_rng([person.seed, 3])
    s = np.linspace(0, 1, POINTS)[None]
    turn = rng.uniform(0, 2 * np.pi, (count, 1))
    if style.hangs == "tail":
        t, turn = s * rng.uniform(0.75, 1.03, (count, 1)), turn + 0.4 * s
        size = rng.uniform(0.5, 1.1, (count, 1)) + (rng.random((count, 1)) < 0.1) * 0.35 * s
    else:
        t = rng.uniform(0.1, 0.6, (count, 1)) + 0.3 * s * rng.uniform(-1, 1, (count, 1))
        turn = turn + s * rng.uniform(1.0, 2.2, (count, 1))
        size = rng.uniform(0.85, 1.03, (count, 1)) + (rng.random((count, 1)) < 0.04) * 0.15 * s
    rest = tail_place(builder, person.look, style, own, t, turn, size)
    normal = unit(rest - tail_place(builder, person.look, style, own, t, turn, 0 * size))
    bright = (0.45 + 0.5 * size).clip(0, 1) * np.ones_like(t)
    return Strands(
        "hair", rest, normal, bright, hair_colours(rng, person, count), np.full(count, 0.5 * REAL_WIDTH / count),
        joints=joint_shares(rest, builder, 0.5),
    )  # fmt: skip


# ---------------------------------------------------------------- on the face


def face_roots(rng: np.random.Generator, builder: Builder, density, count: int) -> Roots:
    """`count` places on the skin of the face, as densely as density(template (3, N)) -> (N,) in [0, 1] says."""
    pack, template = builder.body.pack, builder.template
    faces = pack["faces_body"]
    middle = template[faces].mean(1)
    eye = face_points()["eye"]
    near = (np.abs(middle[:, 0]) < 0.085) & (middle[:, 1] > eye[1] - 0.14) & (middle[:, 1] < eye[1] + 0.05)
    near &= middle[:, 2] > eye[2] - 0.13
    whole = sparse.identity(len(template), format="csr", dtype=np.float32)
    roots = scatter_roots(rng, whole, faces[near], builder, 12 * count)
    ear = roots.base @ pack["ear"].astype(np.float32)
    kept = np.flatnonzero(rng.random(12 * count) < density(roots.template.T) * (ear < 0.05))
    return keep(roots, kept[:count])


def grow_brows(builder: Builder, person: Person, count: int = 420) -> Strands:
    """Brows: upwards at the nose, outwards at the temples."""
    look, rng, face = person.look, np.random.default_rng([person.seed, 4]), face_points()
    roots = face_roots(rng, builder, lambda p: brow(p, face, np.zeros(p.shape[1]), look), count)
    side, n = np.sign(roots.template[:, :1]), len(roots.rest)
    along = ((np.abs(roots.template[:, :1]) - face["eye"][0] + 0.019) / 0.044).clip(0, 1)
    direction = side * (0.35 + along) * [1, 0, 0] + (1.0 - 1.2 * along) * [0, 1, 0] + 0.35 * roots.normal
    direction = direction + rng.normal(0, 0.15, (n, 3))
    lengths = rng.uniform(0.004, 0.007, n) * (0.8 + 0.4 * look.brows)
    return on_skin(builder, roots, "brow", grow(roots.rest, direction, lengths, 0.1, 5), look.brow_hair, 0.00016, rng)


def grow_beard(builder: Builder, person: Person, count: int = 3500) -> Strands:
    """A beard: stubble, or longer the fuller it is."""
    look, rng, face = person.look, np.random.default_rng([person.seed, 5]), face_points()
    count = int(count * (0.4 + 0.6 * look.beard))
    roots = face_roots(rng, builder, lambda p: beard_area(p, face), count)
    n = len(roots.rest)
    low = smoothstep(0.01, -0.05, roots.template[:, 1] - face["mouth"][1])
    longest = 0.002 + 0.016 * max(look.beard - 0.35, 0.0) / 0.65
    lengths = rng.uniform(0.5, 1.1, n) * longest * (0.6 + 0.7 * low)
    direction = roots.normal + [0, -0.9, 0] + rng.normal(0, 0.3, (n, 3))
    return on_skin(builder, roots, "beard", grow(roots.rest, direction, lengths, 0.25, 5), look.brow_hair, 0.0003, rng)


def grow_lashes(builder: Builder, person: Person, count: int = 240) -> Strands:
    """Lashes: from the edge of the lids forwards, the upper ones up, the lower ones down."""
    rng, template, body = np.random.default_rng([person.seed, 6]), builder.template, builder.body
    ids = np.unique(body.pack["faces_lashes"])
    centre = eye_centre(template[ids].T, face_points()).T
    away = template[ids] - centre
    ids = ids[np.linalg.norm(away, axis=1) < 0.0172]
    ids = rng.choice(ids, count)
    offset = builder.shape.vertices[ids] - np.where(template[ids, :1] > 0, *builder.shape.joints[[23, 24], None])
    lower = (builder.template[ids] - eye_centre(template[ids].T, face_points()).T)[:, 1] < -0.003
    direction = unit(offset) + np.where(lower, -0.5, 0.35)[:, None] * [0, 1, 0] + rng.normal(0, 0.12, (count, 3))
    jitter = rng.normal(0, 0.0007, (count, 3)) * [1, 0, 0]
    middle = np.abs(template[ids] - eye_centre(template[ids].T, face_points()).T)[:, 0]
    lengths = (
        np.where(lower, 0.004, 0.007)
        * smoothstep(0.019, 0.008, middle)
        * rng.uniform(0.7, 1.1, count)
        * (1 + 0.25 * person.look.makeup)
    )
    rest = grow(builder.shape.vertices[ids] + jitter, direction, lengths, -0.12, 4)
    shape = np.ones(count, np.float32), ids, np.arange(count + 1)
    base = sparse.csr_matrix(shape, shape=(count, len(template)))
    roots = Roots(builder.shape.vertices[ids], unit(offset), template[ids], base)
    dark = tuple(0.35 * v for v in person.look.brow_hair)
    return on_skin(builder, roots, "lash", rest, dark, 0.00016, rng)


def on_skin(
    builder: Builder, roots: Roots, kind: str, rest: np.ndarray, colour: Colour, width: float, rng: np.random.Generator
) -> Strands:
    """Short strands rest (N, P, 3) of one colour (more or less) and width in metres."""
    n, points = rest.shape[:2]
    normal = np.repeat(roots.normal[:, None], points, 1)
    value = (1 + 0.25 * rng.normal(size=(n, 1))).clip(0.4, 1.8)
    albedo = (linear(colour).T * 0.8 + 0.008) * value
    bright = np.ones((n, 1)) * np.linspace(0.75, 1.0, points)
    return roots.strands(
        builder, kind=kind, rest=rest, normal=normal, open=bright, albedo=albedo, width=np.full(n, width)
    )


# ---------------------------------------------------------------- a whole head


def grow_hair(builder: Builder, person: Person) -> list[Strands]:
    """All strands of a person with `look.strands` of them on the head, with the normals of their proxies; none of
    somebody in grey, with another body than the open one, or with `look.strands` 0."""
    look = person.look
    if look.strands <= 0 or builder.body.pack is None or person.outfit.mannequin:
        return []
    hat = any(g.kind in ("cap", "beanie") for g in person.outfit.garments)
    own = Head.measure(builder.shape.vertices, builder.shape.joints, scalp_mask(builder.body))
    style, groups = STYLES.get(look.hair_style), []
    if style is not None:
        hangs = style.hangs if not (hat and style.hangs == "bun") else ""
        scalp = look.strands if not hangs else look.strands // 2
        groups.append(grow_scalp(builder, person, own, scalp, hat))
        if hangs == "sheet":
            groups.append(grow_sheet(builder, person, own, look.strands - scalp, hat))
        elif hangs:
            groups.append(grow_tail(builder, person, style, own, (look.strands - scalp) // 2))
        add_proxy(groups)
    small = [grow_brows(builder, person), grow_lashes(builder, person)]
    small += [grow_beard(builder, person)] if look.beard >= 0.4 else []
    for group in small:
        add_proxy([group], cell=0.003)
    return [single(group) for group in groups + small if len(group.rest)]


def add_proxy(groups: list[Strands], cell: float = CELL) -> None:
    """Give strands, all of one shape together, the normals of the mesh around them."""
    points = np.concatenate([filled(g, cell) for g in groups])
    if not len(points):
        return
    vertices, _, normals = proxy_mesh(*voxelize(points, cell), cell)
    for group in groups:
        group.proxy = proxy_normals(group.rest, vertices, normals)


def filled(group: Strands, cell: float, deep: int = 3) -> np.ndarray:
    """The points (N, 3) of strands; where they grow on skin, their volume is filled for `deep` cubes towards it. A thin
    layer of hair has two sides, and the nearest would often be the one that faces the skin."""
    points, inward = group.rest.reshape(-1, 3), -cell * group.normal.reshape(-1, 3)
    if group.base is None:
        return points
    return np.concatenate([points + layer * inward for layer in range(deep + 1)])


def single(group: Strands) -> Strands:
    """The same with float32 numbers: half as much to move."""
    for name, value in vars(group).items():
        if isinstance(value, np.ndarray):
            setattr(group, name, value.astype(np.float32))
    return group

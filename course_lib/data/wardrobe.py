"""Dressing a body: surfaces cut from the body and its clothing helpers, lifted off the skin, and skinned with it.

Everything is decided in the coordinates of the template at rest (a T-pose: arms along x, legs along -y), where a sleeve,
a hem or a neckline is the zero line of a simple function. Cutting splits triangles along that line, so hems are
smooth curves on any mesh. A new vertex is a weighted mean of body vertices: it moves with every shape and pose.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor

from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.data import hair as hairdresser
from course_lib.data.person import Body, Garment, Look, Outfit, Person, PosedPeople, load_body, rest_people
from course_lib.data.parts import PART_IDS, SKIN_CLASSES, joint_class

JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}
FAR = 9.0  # metres: farther than any hem
HIDE_MARGIN = 0.03  # metres inside a hem from which what is underneath is left out


# ---------------------------------------------------------------- pieces and cuts


@dataclass(frozen=True)
class Piece:
    """A surface made of body vertices. base (N, V) sparse weights, faces (F, 3), hem (N,) metres to the nearest cut."""

    base: sparse.csr_matrix
    faces: np.ndarray
    hem: np.ndarray

    @staticmethod
    def whole(faces: np.ndarray, vertex_count: int) -> "Piece":
        """The vertices that `faces` use, uncut."""
        used, local = renumber(faces, vertex_count)
        rows = (np.ones(len(used), np.float32), used, np.arange(len(used) + 1))
        base = sparse.csr_matrix(rows, shape=(len(used), vertex_count))
        return Piece(base, local, np.full(len(used), FAR, np.float32))

    def compact(self) -> "Piece":
        """Drop the vertices that no face uses."""
        used, local = renumber(self.faces, len(self.hem))
        return Piece(self.base[used], local, self.hem[used])


def renumber(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids (out of `count`) that occur, ascending, and the array with each replaced by its place among them."""
    flags = np.zeros(count, bool)
    flags[ids] = True
    return flags.nonzero()[0], (np.cumsum(flags) - 1)[ids]


def split_edges(faces: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces that a cut crosses -> corners with the one that is alone on its side first (M, 3), and whether it is inside."""
    flags = inside[faces]  # (M, 3)
    alone_inside = flags.sum(1) == 1
    alone = np.argmax(flags == alone_inside[:, None], axis=1)
    order = (alone[:, None] + np.arange(3)) % 3
    return np.take_along_axis(faces, order, 1), alone_inside


def cut(piece: Piece, values: np.ndarray) -> Piece:
    """Keep the side of a piece where values (N,) > 0, in metres; triangles are split along the zero line."""
    inside = values > 0
    count = inside[piece.faces].sum(1)
    if (count == 3).all():
        return Piece(piece.base, piece.faces, np.minimum(piece.hem, values.clip(0)))
    crossed, alone_inside = split_edges(piece.faces[(count == 1) | (count == 2)], inside)
    edges = np.sort(np.concatenate([crossed[:, [0, 1]], crossed[:, [0, 2]]]), axis=1)
    keys, index = np.unique(edges[:, 0] * len(values) + edges[:, 1], return_inverse=True)
    edges = np.stack([keys // len(values), keys % len(values)], 1)
    p, q = (len(values) + index.reshape(2, -1)).astype(crossed.dtype)  # new vertices on the edges ab and ac
    a, b, c = crossed.T
    lone = np.stack([a, p, q], 1)[alone_inside]
    pair = np.concatenate([np.stack([p, b, c], 1), np.stack([p, c, q], 1)])[np.tile(~alone_inside, 2)]
    faces = np.concatenate([piece.faces[count == 3], lone, pair])
    low, high = values[edges[:, 0]], values[edges[:, 1]]
    share = (low / (low - high)).clip(0.001, 0.999).astype(np.float32)[:, None]
    fresh = piece.base[edges[:, 0]].multiply(1 - share) + piece.base[edges[:, 1]].multiply(share)
    base = sparse.vstack([piece.base, fresh], format="csr")
    hem = np.concatenate([np.minimum(piece.hem, np.abs(values)), np.zeros(len(edges))]).astype(np.float32)
    return Piece(base, faces, hem).compact()


def cut_all(piece: Piece, template: np.ndarray, fields) -> Piece:
    """Cut one function after the other; each maps template points (N, 3) to metres (N,)."""
    for function in fields:
        piece = cut(piece, function(piece.base @ template))
    return piece


def boundary(piece: Piece) -> np.ndarray:
    """Directed edges (E, 2) along the cuts of a piece: both ends on a hem, used by one face only."""
    edges = piece.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = edges[(piece.hem[edges] < 1e-6).all(1)]
    key = np.sort(edges, 1) @ np.array([len(piece.hem), 1])
    _, index, count = np.unique(key, return_index=True, return_counts=True)
    return edges[index[count == 1]]


# ---------------------------------------------------------------- where garments end


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Places of the template at rest, metres: |x| of the arm's joints, y of the leg's, the neck, the trunk's middle."""

    arm_x: np.ndarray  # shoulder, elbow, wrist, fingertip
    leg_y: np.ndarray  # neck, hip, knee, ankle, sole
    joints: np.ndarray  # (55, 3)
    middle_z: float  # the trunk's, between belly and back
    crotch_y: float
    skirt_y: float  # where the skirt begins

    def sleeve_x(self, units: float) -> float:
        """|x| of a sleeve of so many arm units (0 shoulder, 1 elbow, 2 wrist)."""
        return float(np.interp(units, [-1, 0, 1, 2, 3], [0.05, *self.arm_x]))

    def hem_y(self, units: float) -> float:
        """y of a hem at so many leg units (-1 neck, 0 hip, 1 knee, 2 ankle, 3 sole)."""
        return float(np.interp(units, [-1, 0, 1, 2, 3], self.leg_y))


@lru_cache(maxsize=2)
def landmarks(body: Body) -> Landmarks:
    """Measure the template."""
    joints = (body.model.joint_regressor @ body.model.template).numpy()
    template = body.model.template.numpy()
    arm = [abs(joints[JOINT[f"left_{n}"], 0]) for n in ("shoulder", "elbow", "wrist")]
    leg = [joints[JOINT[n], 1] for n in ("neck", "left_hip", "left_knee", "left_ankle")]
    arm_x, leg_y = np.array([*arm, template[:, 0].max()]), np.array([*leg, template[:, 1].min()])
    if body.pack is None:
        return Landmarks(arm_x, leg_y, joints, joints[JOINT["spine2"], 2], leg_y[1], leg_y[1])
    tights = template[np.unique(body.pack["faces_tights"])]
    belly = tights[(np.abs(tights[:, 0]) < 0.03) & (np.abs(tights[:, 1] - joints[JOINT["spine1"], 1]) < 0.05)]
    crotch = tights[np.abs(tights[:, 0]) < 0.008, 1].min()
    skirt = template[np.unique(body.pack["faces_skirt"]), 1].max()
    return Landmarks(arm_x, leg_y, joints, float(belly[:, 2].min() + belly[:, 2].max()) / 2, float(crotch), float(skirt))


def fields_of(garment: Garment, marks: Landmarks) -> list:
    """The functions whose zero lines are a garment's edges: template points (N, 3) -> metres inside (N,)."""
    makers = {
        "shirt": shirt_fields,
        "jacket": shirt_fields,
        "trousers": trouser_fields,
        "skirt": skirt_fields,
        "sock": lambda g, m: [lambda p: m.hem_y(g.hem) - p[:, 1]],
        "shoe": lambda g, m: [lambda p: m.hem_y(g.hem) - p[:, 1] - 0.12 * (p[:, 2] - m.joints[JOINT["left_ankle"], 2])],
        "belt": belt_fields,
    }
    return makers[garment.kind](garment, marks)


def shirt_fields(garment: Garment, marks: Landmarks) -> list:
    """Sleeves, hem and neckline; a jacket is also open at the front."""
    sleeve, shoulder_y = marks.sleeve_x(garment.sleeve), marks.joints[JOINT["left_shoulder"], 1]
    hem = max(marks.hem_y(garment.hem), marks.crotch_y + 0.012)  # lower down the cloth would follow each leg
    slope = 0.55 if garment.sleeve < 0.2 else 0.06

    def sleeves(p):  # the plane leans, so that an armhole is wider below and hips stay in
        return sleeve + slope * (shoulder_y - p[:, 1]).clip(-0.1, None) - np.abs(p[:, 0]) + (p[:, 1] < shoulder_y - 0.2)

    def bottom(p):
        return p[:, 1] - hem - 0.008 + 0.008 * np.cos(2 * np.arctan2(p[:, 0], p[:, 2] - marks.middle_z))

    edges = [sleeves, bottom, neckline(garment.neck, marks)]
    if garment.kind == "jacket":
        edges.append(lambda p: np.where(p[:, 2] > marks.middle_z, np.abs(p[:, 0]) - 0.045 - 0.02 * (p[:, 1] - hem), 0.3))
    return edges


_NECKS = {  # height over the neck joint's level, depth of the front, half width of the front
    "crew": (-0.018, 0.012, 0.08),
    "v": (-0.018, 0.10, 0.075),
    "scoop": (-0.03, 0.075, 0.11),
    "turtle": (0.035, 0.0, 0.1),
    "collar": (0.0, 0.035, 0.05),
}


def neckline(kind: str, marks: Landmarks):
    """A tilted ring around the neck, deepened in front: a `v` by a straight line, others by an arc."""
    height, depth, width = _NECKS[kind]
    neck = marks.joints[JOINT["neck"]]

    def function(p):
        forward = p[:, 2] - neck[2]
        share = (1 - (np.abs(p[:, 0]) / width) ** (1 if kind == "v" else 2)).clip(0, 1)
        front = np.clip(forward / 0.05, 0, 1)
        return neck[1] + height - 0.55 * forward - depth * share * front - p[:, 1]

    return function


def trouser_fields(garment: Garment, marks: Landmarks) -> list:
    """Waistband and legs; arms lie above the waist."""
    waist, hem = marks.hem_y(garment.waist), marks.hem_y(garment.hem)
    return [lambda p: waist + 0.1 * (marks.middle_z - p[:, 2]) - p[:, 1], lambda p: p[:, 1] - hem]


def skirt_fields(garment: Garment, marks: Landmarks) -> list:
    """Waistband and a level hem."""
    waist, hem = min(marks.hem_y(garment.waist), marks.skirt_y - 0.003), marks.hem_y(garment.hem)
    return [lambda p: waist - p[:, 1], lambda p: p[:, 1] - hem]


def belt_fields(garment: Garment, marks: Landmarks) -> list:
    """A band of 3.6 cm below the waist."""
    top = marks.hem_y(garment.waist)
    return [lambda p: top + 0.1 * (marks.middle_z - p[:, 2]) + 0.002 - p[:, 1], lambda p: p[:, 1] - top - 0.1 * (marks.middle_z - p[:, 2]) + 0.034]


# ---------------------------------------------------------------- how garments hang


def hang(along: np.ndarray, angle: np.ndarray, radius: np.ndarray, slope: float) -> np.ndarray:
    """Radius (N,) of cloth that hangs over a limb: nowhere narrower than what is above it, less `slope` metres a metre.

    `along` grows in the direction of hanging. Directions are sorted into 24 sectors, heights into 64 rows.
    """
    rows, sectors = 64, 24
    low, high = along.min(), along.max() + 1e-6
    row = (along - low) / (high - low) * (rows - 1)
    sector = angle / (2 * np.pi) % 1 * sectors
    grid = np.zeros((rows, sectors))
    np.maximum.at(grid, (row.round().astype(int), sector.round().astype(int) % sectors), radius)
    grid = fill_gaps(grid)
    step = slope * (high - low) / rows
    for index in range(1, rows):  # what is above holds what is below
        grid[index] = np.maximum(grid[index], grid[index - 1] - step)
    grid = (np.roll(grid, 1, 1) + 2 * grid + np.roll(grid, -1, 1)) / 4
    r0, s0 = np.floor(row).astype(int).clip(0, rows - 2), np.floor(sector).astype(int) % sectors
    fr, fs, s1 = row - r0, sector - np.floor(sector), (s0 + 1) % sectors
    near = grid[r0, s0] * (1 - fs) + grid[r0, s1] * fs
    return near * (1 - fr) + (grid[r0 + 1, s0] * (1 - fs) + grid[r0 + 1, s1] * fs) * fr


def fill_gaps(grid: np.ndarray) -> np.ndarray:
    """Empty cells (0) take the larger of their filled neighbours until none is left."""
    for _ in range(sum(grid.shape)):
        empty = grid == 0
        if not empty.any():
            break
        up, down = np.vstack([grid[:1], grid[:-1]]), np.vstack([grid[1:], grid[-1:]])
        grid = np.where(empty, np.maximum.reduce([up, down, np.roll(grid, 1, 1), np.roll(grid, -1, 1)]), grid)
    return grid


def smoothing_matrix(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Means over neighbours: a row-stochastic (N, N) matrix with half the weight on the vertex itself."""
    edges = faces[:, [0, 1, 1, 2, 2, 0, 1, 0, 2, 1, 0, 2]].reshape(-1, 2)
    matrix = sparse.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count)).tocsr()
    matrix.data[:] = 1
    degree = np.asarray(matrix.sum(1)).clip(1)
    return (sparse.identity(count) + matrix.multiply(1 / degree)).tocsr() * 0.5


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = ((x - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


@dataclass
class Shape:
    """A body at rest while it is being dressed: vertices (V, 3), their normals (V, 3), joints (55, 3)."""

    vertices: np.ndarray
    normals: np.ndarray
    joints: np.ndarray


def radial(points: np.ndarray, axis: int, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Around a line along `axis` through `centre` (N, 3): unit directions (N, 3), radii (N,), angles (N,)."""
    across = points - centre
    across[:, axis] = 0
    radius = np.linalg.norm(across, axis=1).clip(1e-5)
    others = [i for i in range(3) if i != axis]
    return across / radius[:, None], radius, np.arctan2(across[:, others[0]], across[:, others[1]])


def drape_limb(points: np.ndarray, weight: np.ndarray, axis: int, along: np.ndarray, centre: np.ndarray, slope: float):
    """Displacement (N, 3) that lets cloth hang around one limb; weight (N,) says how much each point belongs to it."""
    moved = np.zeros_like(points)
    some = weight > 0.01
    if some.sum() < 8:
        return moved
    outward, radius, angle = radial(points[some].copy(), axis, centre[some])
    extra = (hang(along[some], angle, radius, slope) - radius).clip(0, 0.12)
    moved[some] = outward * (extra * weight[some])[:, None]
    return moved


def drape(points: np.ndarray, garment: Garment, shape: Shape) -> np.ndarray:
    """Displacement (N, 3) of a garment at rest: trunk, sleeves and legs each hang around their own axis."""
    joints, side = shape.joints, np.where(points[:, 0] > 0, 1, 2)  # left joint ids are odd, right ones even
    shoulder = joints[JOINT["left_shoulder"]]
    hip_y = joints[JOINT["left_hip"], 1]
    arm = smoothstep(shoulder[0] - 0.02, shoulder[0] + 0.07, np.abs(points[:, 0])) * (points[:, 1] > shoulder[1] - 0.2)
    moved = np.zeros_like(points)
    if garment.kind in ("shirt", "jacket"):
        trunk_centre = np.broadcast_to(joints[JOINT["spine2"]] + [0, 0, 0.005], points.shape)
        ready = (1 - arm) * smoothstep(shoulder[1] + 0.03, shoulder[1] - 0.06, points[:, 1])
        moved += drape_limb(points, ready, 1, -points[:, 1], trunk_centre, slope=0.75 - 0.7 * garment.fit)
        for left in (True, False):
            one = arm * ((points[:, 0] > 0) == left)
            centre = np.broadcast_to(shoulder - [0, 0.01, 0], points.shape)
            moved += drape_limb(points, one, 0, np.abs(points[:, 0]), centre, slope=0.42 - 0.36 * garment.fit)
    if garment.kind == "trousers":
        for index in (1, 2):
            one = smoothstep(hip_y - 0.02, hip_y - 0.2, points[:, 1]) * (side == index)
            centre = np.broadcast_to(joints[JOINT["left_knee"] + index - 1], points.shape)
            moved += drape_limb(points, one, 1, -points[:, 1], centre, slope=0.24 - 0.22 * garment.fit)
    return moved


def ripples(points: np.ndarray, amplitude: float, seed: int) -> np.ndarray:
    """Low, smooth relief (N,) in metres: a sum of sines, fixed by the seed."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.normal(size=(5, 3)) * [28, 34, 28], rng.uniform(0, 2 * np.pi, 5)
    return amplitude * np.sin(points @ waves.T + phases).mean(1)


_THICKNESS = {"sock": 0.0, "belt": 0.004, "shoe": 0.003}


def displacement(piece: Piece, garment: Garment, shape: Shape, template: np.ndarray, seed: int) -> np.ndarray:
    """How far each vertex (N, 3) of a garment is moved at rest: off the body by layer, hanging, rippled, smoothed."""
    points = piece.base @ shape.vertices
    normals = piece.base @ shape.normals
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)
    if garment.kind == "shoe":
        return shoe_displacement(points, normals, garment, shape, seed)
    moved = drape(points, garment, shape)
    smooth = smoothing_matrix(piece.faces, len(points))
    for _ in range(3):
        moved = smooth @ moved
    lift = 0.0015 + 0.003 * garment.layer + _THICKNESS.get(garment.kind, 0.0) + 0.006 * garment.fit
    if garment.kind in ("shirt", "jacket"):  # collars lie close
        neck = shape.joints[JOINT["neck"]]
        lift = lift - 0.006 * smoothstep(0.15, 0.07, np.linalg.norm((points - neck)[:, [0, 2]], axis=1)) * (points[:, 1] > neck[1] - 0.12)
    lift += 0.004 * (garment.material == "wool") + skirt_flare(points, garment, shape)
    relief = ripples(piece.base @ template, 0.0022 * (0.3 + garment.fit), seed) * (garment.kind != "belt")
    return (moved + normals * np.reshape(lift + relief, (-1, 1))).astype(np.float32)


def skirt_flare(points: np.ndarray, garment: Garment, shape: Shape) -> np.ndarray | float:
    """Extra width of a skirt, growing downwards, with folds."""
    if garment.kind != "skirt":
        return 0.0
    below = (shape.joints[JOINT["left_hip"], 1] + 0.05 - points[:, 1]).clip(0)
    angle = np.arctan2(points[:, 0], points[:, 2] - shape.joints[JOINT["left_hip"], 2])
    return below * (0.16 * garment.fit - 0.03 + 0.035 * garment.fit * np.cos(9 * angle))


def shoe_displacement(points: np.ndarray, normals: np.ndarray, garment: Garment, shape: Shape, seed: int) -> np.ndarray:
    """Leather over the foot, a flat sole under it that stands out a little, a stiff toe box."""
    floor = points[:, 1].min() - 0.004
    height = points[:, 1] - floor
    lift = 0.0055 + 0.004 * np.exp(-((height / 0.03) ** 2))
    outward = normals * [1, 0.4, 1]
    moved = normals * lift[:, None]
    sole = smoothstep(0.022, 0.012, height)[:, None]
    moved = moved * (1 - sole) + (outward * 0.008) * sole
    down = smoothstep(0.02, 0.012, height) * smoothstep(-0.1, -0.6, normals[:, 1])
    moved[:, 1] += down * (floor - points[:, 1] - moved[:, 1])
    return moved.astype(np.float32)


# ---------------------------------------------------------------- the dressed mesh


@dataclass(frozen=True)
class Surface:
    """One thing that is drawn in one way. kind: skin, eye, teeth, tongue, lash, hair, cloth; part: its class, or None where
    skin decides by its joints; style: the Look or Garment that colours it."""

    kind: str
    part: int | None
    style: Look | Garment | None
    two_sided: bool = False


@dataclass
class DressedMesh:
    """One dressed person, ready to be posed. base (N, V) sparse; displacement (N, 3) in rest axes; weights (N, 55);
    `free` (N,) 1 for vertices that hang on joints alone; faces (F, 3), surface (F,); rest (N, 3) template coordinates;
    fields (N, 6): hem distance, ambient occlusion, and four for the surface's own use; classes (N, 14) says for skin how
    much each of SKIN_CLASSES moves it."""

    base: Tensor
    displacement: Tensor
    weights: Tensor
    free: Tensor
    faces: Tensor
    surface: Tensor
    rest: Tensor
    fields: Tensor
    classes: Tensor
    surfaces: list[Surface]
    skirt: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


class Builder:
    """Collects pieces into one mesh."""

    def __init__(self, body: Body, shape: Shape):
        self.body, self.shape = body, shape
        self.template = body.model.template.numpy()
        self.weights = body.model.weights.numpy()
        self.columns = {k: [] for k in ("base", "displacement", "weights", "free", "faces", "surface", "rest", "fields")}
        self.surfaces: list[Surface] = []
        self.skirt: list[np.ndarray] = []
        self.count = 0

    def add(self, piece: Piece, surface: Surface, moved: np.ndarray | None = None, extra: np.ndarray | None = None) -> None:
        """A piece of the body, displaced by moved (N, 3), with extra (N, up to 4) fields."""
        n = len(piece.hem)
        moved = np.zeros((n, 3), np.float32) if moved is None else moved
        extra = np.zeros((n, 0), np.float32) if extra is None else extra
        occlusion = occlusion_of(self.body, piece)
        values = {
            "base": piece.base, "displacement": moved, "weights": piece.base @ self.weights, "free": np.zeros(n),
            "faces": piece.faces + self.count, "surface": np.full(len(piece.faces), len(self.surfaces)),
            "rest": piece.base @ self.template, "fields": np.column_stack([piece.hem, occlusion, extra]),
        }  # fmt: skip
        self._append(values, surface, n)

    def add_free(self, rest: np.ndarray, weights: np.ndarray, faces: np.ndarray, where: np.ndarray, fields: np.ndarray, surface):
        """Vertices of our own: rest (N, 3) on this body, skinned by weights (N, 55); where (N, 3) colours them."""
        n = len(rest)
        values = {
            "base": sparse.csr_matrix((n, len(self.template)), dtype=np.float32), "displacement": rest, "weights": weights,
            "free": np.ones(n), "faces": faces + self.count, "surface": np.full(len(faces), len(self.surfaces)),
            "rest": where, "fields": fields,
        }  # fmt: skip
        self._append(values, surface, n)

    def _append(self, values: dict, surface: Surface, n: int) -> None:
        for key, value in values.items():
            self.columns[key].append(value)
        if isinstance(surface.style, Garment) and surface.style.kind == "skirt":
            self.skirt.append(np.arange(self.count, self.count + n))
        self.surfaces.append(surface)
        self.count += n

    def build(self) -> DressedMesh:
        """All pieces as tensors."""
        self.columns["fields"] = [np.pad(f, ((0, 0), (0, 6 - f.shape[1]))) for f in self.columns["fields"]]
        base = sparse.vstack(self.columns.pop("base"), format="csr")
        arrays = {key: np.concatenate(values) for key, values in self.columns.items()}
        whole = {"faces", "surface"}
        tensors = {k: torch.from_numpy(a.astype(np.int64 if k in whole else np.float32)) for k, a in arrays.items()}
        skirt = torch.from_numpy(np.concatenate(self.skirt)) if self.skirt else torch.zeros(0, dtype=torch.long)
        classes = tensors["weights"] @ torch.from_numpy(class_matrix())
        return DressedMesh(base=to_torch(base), **tensors, classes=classes, surfaces=self.surfaces, skirt=skirt)


@lru_cache(maxsize=1)
def class_matrix() -> np.ndarray:
    """Which of SKIN_CLASSES each joint's skin belongs to: (55, 14) ones and zeros."""
    own = [SKIN_CLASSES.index(joint_class(name)) for name in JOINT_NAMES]
    return np.eye(len(SKIN_CLASSES), dtype=np.float32)[own]


def to_torch(matrix: sparse.csr_matrix) -> Tensor:
    """A scipy sparse matrix as rows padded to the widest: ids (N, K) and weights (N, K) in one (2, N, K) float tensor."""
    counts = np.diff(matrix.indptr)
    width = max(1, int(counts.max(initial=1)))
    ids, weights = np.zeros((len(counts), width), np.float32), np.zeros((len(counts), width), np.float32)
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(row)) - np.repeat(matrix.indptr[:-1], counts)
    ids[row, place], weights[row, place] = matrix.indices, matrix.data
    return torch.from_numpy(np.stack([ids, weights]))


def occlusion_of(body: Body, piece: Piece) -> np.ndarray:
    """Baked ambient occlusion (N,) of a piece: 1 open, 0 closed."""
    return piece.base @ body.pack["ambient_occlusion"].astype(np.float32)


def dress(person: Person) -> DressedMesh:
    """The dressed mesh of a person, kept for the last few identities."""
    key = person.identity
    if key not in _DRESSED:
        while len(_DRESSED) >= 12:
            _DRESSED.pop(next(iter(_DRESSED)))
        _DRESSED[key] = dress_anew(person)
    return _DRESSED[key]


_DRESSED: dict[tuple, DressedMesh] = {}


def dress_anew(person: Person) -> DressedMesh:
    """Cut, drape and collect everything that is seen of one identity."""
    body = load_body()
    shape = shape_of(person, body)
    builder = Builder(body, shape)
    if body.pack is None or person.outfit.mannequin:
        add_mannequin(builder)
        return builder.build()
    marks = landmarks(body)
    garments = person.outfit.garments
    add_head(builder, person.look)
    covers = [hidden_by(g, body, marks) for g in garments]
    hidden = np.logical_or.reduce(covers) if covers else None
    add_skin(builder, person.look, hidden)
    for index, garment in enumerate(garments):
        if garment.kind not in ("cap", "beanie"):
            over = [c for c, g in zip(covers, garments, strict=True) if g.layer > garment.layer and g.kind != "belt"]
            add_garment(builder, garment, np.logical_or.reduce(over) if over else None, person.seed + index)
    hairdresser.add_hair(builder, person)
    return builder.build()


def shape_of(person: Person, body: Body) -> Shape:
    """The person's own body at rest, without expression."""
    still = Person(0, person.betas, np.zeros(52, np.float32), person.pose, person.translation)
    vertices, joints = rest_people([still], body)
    vertices, joints = vertices[0].numpy(), joints[0].numpy()
    if body.pack is None:
        return Shape(vertices, np.zeros_like(vertices), joints)
    return Shape(vertices, mesh_normals(vertices, all_faces(body)), joints)


@lru_cache(maxsize=2)
def all_faces(body: Body) -> np.ndarray:
    """Every face of body and helpers (F, 3)."""
    return np.concatenate([body.pack[f"faces_{k}"] for k in ("body", "eyes", "tights", "skirt")]).astype(np.int64)


def mesh_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), zero for vertices of no face."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.stack([np.bincount(faces.ravel(), np.repeat(normal[:, i], 3), len(vertices)) for i in range(3)], 1)
    return (total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)


def add_mannequin(builder: Builder) -> None:
    """The bare body in grey, eyes included; without a pack simply all faces of the file."""
    pack, count = builder.body.pack, len(builder.template)
    if pack is None:
        faces = builder.body.model.faces.numpy()
    else:
        faces = np.concatenate([pack["faces_body"], pack["faces_eyes"]])
    builder.add(Piece.whole(faces, count), Surface("mannequin", None, None))


def add_head(builder: Builder, look: Look) -> None:
    """Eyes, teeth, tongue."""
    pack, count = builder.body.pack, len(builder.template)
    face_neck = PART_IDS["Face_Neck"]
    pieces = (("eyes", "eye", face_neck), ("teeth_lower", "teeth", PART_IDS["Lower_Teeth"]))
    pieces += (("teeth_upper", "teeth", PART_IDS["Upper_Teeth"]), ("tongue", "tongue", PART_IDS["Tongue"]))
    for name, kind, part in pieces:
        builder.add(Piece.whole(pack[f"faces_{name}"], count), Surface(kind, part, look, two_sided=kind == "lash"))


@lru_cache(maxsize=64)
def hidden_by(garment: Garment, body: Body, marks: Landmarks) -> np.ndarray:
    """Which vertices (V,) of the template lie so far inside a garment that nothing of them is ever seen."""
    points = body.model.template.numpy()
    if garment.kind in ("cap", "beanie", "belt"):
        return np.zeros(len(points), bool)
    if garment.kind == "skirt":
        waist, hip = marks.hem_y(garment.waist), marks.hem_y(0.12)
        return (points[:, 1] < waist - HIDE_MARGIN) & (points[:, 1] > hip) & (np.abs(points[:, 0]) < marks.arm_x[1])
    margin = HIDE_MARGIN + 0.03 * garment.fit
    if garment.kind in ("sock", "shoe"):
        margin = 0.012
    inside = np.min([f(points) for f in fields_of(garment, marks)], axis=0)
    return inside > margin


def add_skin(builder: Builder, look: Look, hidden: np.ndarray | None) -> None:
    """The skin that garments leave open."""
    faces = builder.body.pack["faces_body"]
    if hidden is not None:
        faces = faces[~hidden[faces].all(1)]
    piece = Piece.whole(faces, len(builder.template))
    pack = builder.body.pack
    columns = [pack["lips_upper"], pack["lips_lower"], hairdresser.hairline_of(builder), pack["nail"]]
    builder.add(piece, Surface("skin", None, look), extra=piece.base @ np.stack(columns, 1).astype(np.float32))


@lru_cache(maxsize=24)
def cut_garment(garment: Garment, body: Body) -> Piece:
    """The piece of tights or skirt that a garment is made of."""
    source = "skirt" if garment.kind == "skirt" else "tights"
    piece = Piece.whole(body.pack[f"faces_{source}"], len(body.model.template))
    return cut_all(piece, body.model.template.numpy(), fields_of(garment, landmarks(body)))


def add_garment(builder: Builder, garment: Garment, hidden: np.ndarray | None, seed: int) -> None:
    """One garment with a rim along its hems; socks and shoes once a side, because their classes differ."""
    piece = cut_garment(garment, builder.body)
    if hidden is not None:
        covered = (piece.base @ hidden.astype(np.float32)) > 0.99
        piece = Piece(piece.base, piece.faces[~covered[piece.faces].all(1)], piece.hem).compact()
    if not len(piece.faces):
        return
    moved = displacement(piece, garment, builder.shape, builder.template, seed)
    piece, moved = with_rim(piece, moved, builder)
    if garment.kind not in ("sock", "shoe"):
        builder.add(piece, Surface("cloth", PART_IDS[garment.part], garment, two_sided=True), moved)
        return
    left = (piece.base @ builder.template)[piece.faces, 0].mean(1) > 0
    for side, mask in (("Left", left), ("Right", ~left)):
        used, local = renumber(piece.faces[mask], len(piece.hem))
        half = Piece(piece.base[used], local, piece.hem[used])
        builder.add(half, Surface("cloth", PART_IDS[f"{side}_{garment.part}"], garment, two_sided=True), moved[used])


def with_rim(piece: Piece, moved: np.ndarray, builder: Builder, thickness: float = 0.0035) -> tuple[Piece, np.ndarray]:
    """Fold the cloth inwards along its cuts, so that a hem has thickness."""
    edges = boundary(piece)
    if not len(edges):
        return piece, moved
    ring, local = renumber(edges, len(piece.hem))
    inner = (len(piece.hem) + local).astype(piece.faces.dtype)
    a, b, c, d = edges[:, 0], edges[:, 1], inner[:, 0], inner[:, 1]
    faces = np.concatenate([piece.faces, np.stack([b, a, c], 1), np.stack([b, c, d], 1)])
    normals = piece.base[ring] @ builder.shape.normals
    base = sparse.vstack([piece.base, piece.base[ring]], format="csr")
    hem = np.concatenate([piece.hem, np.full(len(ring), 1e-4, np.float32)])
    return Piece(base, faces, hem), np.concatenate([moved, moved[ring] - thickness * normals]).astype(np.float32)


# ---------------------------------------------------------------- posing


@dataclass(frozen=True)
class PosedMesh:
    """A dressed mesh in the world: vertices (N, 3) and per vertex the turn (N, 3, 3) from rest to the world."""

    vertices: Tensor
    turns: Tensor


def pose_mesh(mesh: DressedMesh, posed: PosedPeople, index: int) -> PosedMesh:
    """Carry a dressed mesh along with the posed body of person `index`."""
    ids, share = mesh.base[0].long(), mesh.base[1]
    body = posed.vertices[index]
    vertices = share[:, :1] * body[ids[:, 0]]
    for column in range(1, ids.shape[1]):
        vertices = vertices + share[:, column : column + 1] * body[ids[:, column]]
    blended = mesh.weights @ posed.transforms[index, :, :3].flatten(1)  # (N, 12)
    blended = blended.view(-1, 3, 4)
    turns = blended[..., :3].contiguous()
    vertices += (turns * mesh.displacement[:, None]).sum(-1)
    vertices += mesh.free[:, None] * blended[..., 3]
    if len(mesh.skirt):
        vertices[mesh.skirt] = clear_legs(vertices[mesh.skirt], posed.joints[index])
    return PosedMesh(vertices, turns)


def clear_legs(points: Tensor, joints: Tensor) -> Tensor:
    """Push points (N, 3) out of capsules around thighs and shins."""
    for side in ("left", "right"):
        hip, knee, ankle = (joints[JOINT[f"{side}_{n}"]] for n in ("hip", "knee", "ankle"))
        points = push_out(points, hip, knee, 0.092, 0.075)
        points = push_out(points, knee, ankle, 0.075, 0.06)
    return points


def push_out(points: Tensor, start: Tensor, end: Tensor, start_radius: float, end_radius: float) -> Tensor:
    """Move points (N, 3) that lie inside a tapering capsule to its surface."""
    axis = end - start
    t = ((points - start) @ axis / axis.dot(axis)).clamp(0, 1)[:, None]
    away = points - (start + t * axis)
    distance = away.norm(dim=1, keepdim=True).clamp(min=1e-6)
    radius = start_radius + t * (end_radius - start_radius)
    return points + away / distance * (radius - distance).clamp(min=0)

"""Surfaces made of a body's vertices: cutting them, collecting them into one dressed mesh, and posing it.

A cut splits triangles along the zero line of a function, so its edge is a smooth curve on any mesh. A new vertex is a
weighted mean of body vertices: it moves with every shape and pose.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor

from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.data.parts import SKIN_CLASSES, joint_class
from course_lib.data.person import Body, Garment, Look, Person, PosedPeople, blend_transforms, rest_people
from course_lib.data.vectors import cross

JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}
FAR = 9.0  # metres: farther than any hem


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


def corners_inside(faces: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How many corners of each face (F, 3) are flagged by inside (N,) bool: (F,) in 0..3."""
    a, b, c = (inside.view(np.int8).take(corner) for corner in faces.T)
    return a + b + c


def split_edges(faces: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces that a cut crosses -> corners (M, 3), the one alone on its side first, and whether that one is inside."""
    flags = inside[faces]  # (M, 3)
    alone_inside = flags.sum(1) == 1
    alone = np.argmax(flags == alone_inside[:, None], axis=1)
    order = (alone[:, None] + np.arange(3)) % 3
    return np.take_along_axis(faces, order, 1), alone_inside


def cut(piece: Piece, values: np.ndarray, crossing: Callable[[np.ndarray], np.ndarray] | None = None) -> Piece:
    """Keep the side of a piece where values (N,) > 0, in metres; triangles are split along the zero line.

    Where an edge crosses is found by interpolating values, or by crossing(edges (E, 2)) -> shares (E,) of the way."""
    inside = values > 0
    count = corners_inside(piece.faces, inside)
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
    share = low / (low - high) if crossing is None else crossing(edges)
    share = share.clip(0.001, 0.999).astype(np.float32)
    used, faces = renumber(faces, len(values) + len(edges))
    kept, made = used[used < len(values)], used[used >= len(values)] - len(values)
    hem = np.concatenate([np.minimum(piece.hem, np.abs(values)), np.zeros(len(edges))]).astype(np.float32)
    return Piece(edge_points(kept, edges[made], share[made], len(values)) @ piece.base, faces, hem[used])


def edge_points(kept: np.ndarray, edges: np.ndarray, share: np.ndarray, count: int) -> sparse.csr_matrix:
    """Some of `count` vertices as they are, then points on edges (E, 2) at shares (E,) of the way: (N, count)."""
    weights = np.stack([1 - share, share], 1).ravel()
    starts = np.concatenate([np.arange(len(kept)), len(kept) + 2 * np.arange(len(edges) + 1)])
    entries = np.concatenate([np.ones(len(kept), np.float32), weights]), np.concatenate([kept, edges.ravel()]), starts
    return sparse.csr_matrix(entries, shape=(len(starts) - 1, count))


def cut_all(piece: Piece, template: np.ndarray, fields: list[Callable[[np.ndarray], np.ndarray]]) -> Piece:
    """Cut one function after the other; each maps template points (N, 3) to metres (N,)."""
    for function in fields:
        points = piece.base @ template
        piece = cut(piece, function(points), partial(find_zero, function, points))
    return piece


def find_zero(function, points: np.ndarray, edges: np.ndarray, steps: int = 3) -> np.ndarray:
    """Share (E,) of the way along edges (E, 2) of points (N, 3) where a function changes its sign (Illinois method)."""
    start, end = points[edges[:, 0]], points[edges[:, 1]]
    left, right, low, high = np.zeros(len(edges)), np.ones(len(edges)), function(start), function(end)
    for _ in range(steps):
        share = left + (right - left) * low / (low - high)
        middle = function(start + share[:, None] * (end - start))
        same = (middle > 0) == (low > 0)
        left, low, high = np.where(same, share, left), np.where(same, middle, low / 2), np.where(same, high / 2, middle)
        right = np.where(same, right, share)
    return left + (right - left) * low / (low - high)


def boundary(piece: Piece) -> np.ndarray:
    """Directed edges (E, 2) along the cuts of a piece: both ends on a hem, used by one face only."""
    edges = piece.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = edges[(piece.hem[edges] < 1e-6).all(1)]
    key = np.sort(edges, 1) @ np.array([len(piece.hem), 1])
    _, index, count = np.unique(key, return_index=True, return_counts=True)
    return edges[index[count == 1]]


def smoothing_matrix(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Means over neighbours: a row-stochastic (N, N) matrix with half the weight on the vertex itself."""
    edges = faces[:, [0, 1, 1, 2, 2, 0, 1, 0, 2, 1, 0, 2]].reshape(-1, 2)
    rows, columns = np.concatenate([edges, np.arange(count)[:, None].repeat(2, 1)]).T
    matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    entries = np.diff(matrix.indptr)
    row = np.repeat(np.arange(count), entries)
    matrix.data = np.where(matrix.indices == row, 0.5, 0.5 / (entries - 1).clip(1)[row])
    return matrix


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = ((x - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


# ---------------------------------------------------------------- bodies at rest


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
    return Landmarks(
        arm_x, leg_y, joints, float(belly[:, 2].min() + belly[:, 2].max()) / 2, float(crotch), float(skirt)
    )


@dataclass
class Shape:
    """A body at rest while it is being dressed: vertices (V, 3), their normals (V, 3), joints (55, 3)."""

    vertices: np.ndarray
    normals: np.ndarray
    joints: np.ndarray


def shape_of(person: Person, body: Body) -> Shape:
    """The person's own body at rest, without expression."""
    still = Person(0, person.betas, np.zeros(52, np.float32), person.pose, person.translation)
    vertices, joints = rest_people([still], body)
    vertices, joints = vertices[0].numpy(), joints[0].numpy()
    if body.pack is None:
        return Shape(vertices, np.zeros_like(vertices), joints)
    return Shape(vertices, mesh_normals(vertices, all_faces(body), all_fans(body)), joints)


@lru_cache(maxsize=2)
def all_faces(body: Body) -> np.ndarray:
    """Every face of body and helpers (F, 3)."""
    return np.concatenate([body.pack[f"faces_{k}"] for k in ("body", "eyes", "tights", "skirt")]).astype(np.int64)


@lru_cache(maxsize=2)
def all_fans(body: Body) -> sparse.csr_matrix:
    """Which of all faces meet at each vertex: (V, F)."""
    return face_fans(all_faces(body), len(body.model.template))


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals (3, F) of faces (F, 3) of vertices (V, 3), twice their area long."""
    points = np.ascontiguousarray(vertices.T)
    a, b, c = (points.take(corner, 1) for corner in faces.T)
    return cross(b - a, c - a)


def mesh_normals(vertices: np.ndarray, faces: np.ndarray, fans: sparse.csr_matrix) -> np.ndarray:
    """Unit normals (V, 3), zero for vertices of no face; fans (V, F) are the faces around each vertex."""
    total = fans @ np.ascontiguousarray(face_normals(vertices, faces).T)
    return (total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)


# ---------------------------------------------------------------- the dressed mesh


@dataclass(frozen=True)
class Surface:
    """One thing that is drawn in one way. kind: skin, eye, teeth, tongue, hair, tail, cloth, frame, lens; part: its
    class, or None where skin decides by its joints; style: the Look or Garment that colours it."""

    kind: str
    part: int | None
    style: Look | Garment | None
    two_sided: bool = False


@dataclass
class DressedMesh:
    """One dressed person, ready to be posed. base (N, V) and weights (N, 55) sparse; displacement (N, 3) in rest axes;
    `free` (N,) 1 for vertices that hang on joints alone; faces (F, 3), surface (F,); attributes (N, 11): template
    coordinates, hem distance, ambient occlusion, and six for the surface's own use; classes (N, 14) says for skin
    how much each of SKIN_CLASSES moves it; `casting` (C, 3) are the faces of a coarser mesh of the same vertices, which
    casts the shadows."""

    base: sparse.csr_matrix
    displacement: Tensor
    weights: sparse.csr_matrix
    free: Tensor
    faces: Tensor
    surface: np.ndarray
    attributes: Tensor
    classes: Tensor
    casting: Tensor
    surfaces: list[Surface]
    fans: sparse.csr_matrix  # (N, F): the faces around each vertex
    skirt: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    leg_radii: tuple[float, float, float] = (0.09, 0.07, 0.06)  # metres at hip, knee and ankle, for the skirt's sake
    strands: list = field(default_factory=list)  # of strands.Strands; none where hair is a mesh


class Builder:
    """Collects pieces into one mesh."""

    def __init__(self, body: Body, shape: Shape):
        self.body, self.shape = body, shape
        self.template = body.model.template.numpy()
        self.columns = {
            k: [] for k in ("base", "displacement", "weights", "free", "faces", "surface", "rest", "fields")
        }
        self.surfaces: list[Surface] = []
        self.skirt: list[np.ndarray] = []
        self.count = 0

    def add(
        self, piece: Piece, surface: Surface, moved: np.ndarray | None = None, extra: np.ndarray | None = None
    ) -> None:
        """A piece of the body, displaced by moved (N, 3), with extra (N, up to 6) fields."""
        n = len(piece.hem)
        moved = np.zeros((n, 3), np.float32) if moved is None else moved
        extra = np.zeros((n, 0), np.float32) if extra is None else extra
        occlusion = occlusion_of(self.body, piece)
        values = {
            "base": piece.base, "displacement": moved, "weights": piece.base @ self.body.weights, "free": np.zeros(n),
            "faces": piece.faces + self.count, "surface": np.full(len(piece.faces), len(self.surfaces)),
            "rest": piece.base @ self.template, "fields": np.column_stack([piece.hem, occlusion, extra]),
        }  # fmt: skip
        self._append(values, surface, n)

    def add_free(
        self, rest: np.ndarray, weights: np.ndarray, faces: np.ndarray, where: np.ndarray, fields: np.ndarray, surface
    ):
        """Vertices of our own: rest (N, 3) on this body, skinned by weights (N, 55); where (N, 3) colours them."""
        n = len(rest)
        base, weights = sparse.csr_matrix((n, len(self.template)), dtype=np.float32), sparse.csr_matrix(weights)
        values = {
            "base": base, "displacement": rest, "weights": weights, "free": np.ones(n), "faces": faces + self.count,
            "surface": np.full(len(faces), len(self.surfaces)), "rest": where, "fields": fields,
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
        self.columns["fields"] = [np.pad(f, ((0, 0), (0, 8 - f.shape[1]))) for f in self.columns["fields"]]
        base, weights = (sparse.vstack(self.columns.pop(name), format="csr") for name in ("base", "weights"))
        arrays = {key: np.concatenate(values) for key, values in self.columns.items()}
        attributes = np.column_stack([arrays["rest"], arrays["fields"]]).astype(np.float32)
        displacement, free = (torch.from_numpy(arrays[k].astype(np.float32)) for k in ("displacement", "free"))
        skirt = torch.from_numpy(np.concatenate(self.skirt)) if self.skirt else torch.zeros(0, dtype=torch.long)
        fans = face_fans(arrays["faces"], self.count)
        classes = torch.from_numpy(weights @ class_matrix())
        points = base @ self.shape.vertices + arrays["displacement"]
        casts = np.array([s.kind not in ("eye", "teeth", "tongue", "lens") for s in self.surfaces])[arrays["surface"]]
        casting = coarse_faces(points, arrays["faces"][casts], arrays["surface"][casts])
        return DressedMesh(
            base=base,
            displacement=displacement,
            weights=weights,
            free=free,
            faces=torch.from_numpy(arrays["faces"].astype(np.int64)),
            surface=arrays["surface"].astype(np.int64),
            attributes=torch.from_numpy(attributes),
            classes=classes,
            casting=torch.from_numpy(casting),
            surfaces=self.surfaces,
            fans=fans,
            skirt=skirt,
            leg_radii=leg_radii(self.shape),
        )


def leg_radii(shape: Shape, room: float = 0.012) -> tuple[float, float, float]:
    """How thick the left leg of a body at rest is around thigh, knee and shin, with room for a lining, in metres."""
    hip, knee, ankle = (shape.joints[JOINT[f"left_{n}"]] for n in ("hip", "knee", "ankle"))
    left = (shape.vertices[:, 0] > 0.01) & shape.normals.any(1)
    skin, radii = shape.vertices[left], []
    for start, end, share in ((hip, knee, 0.4), (hip, knee, 0.95), (knee, ankle, 0.35)):
        away = skin - (start + share * (end - start))
        ring = away[(np.abs(away[:, 1]) < 0.03) & (np.abs(away[:, 0]) < 0.2)]
        radii.append(float(np.percentile(np.hypot(ring[:, 0], ring[:, 2]), 80)) + room if len(ring) else 0.08)
    return tuple(radii)


@lru_cache(maxsize=1)
def class_matrix() -> np.ndarray:
    """Which of SKIN_CLASSES each joint's skin belongs to: (55, 14) ones and zeros."""
    own = [SKIN_CLASSES.index(joint_class(name)) for name in JOINT_NAMES]
    return np.eye(len(SKIN_CLASSES), dtype=np.float32)[own]


def face_fans(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Which faces (F, 3) meet at each of `count` vertices: ones in a sparse (N, F) matrix."""
    entries = (np.ones(faces.size, np.float32), (faces.ravel(), np.repeat(np.arange(len(faces)), 3)))
    return sparse.csr_matrix(entries, shape=(count, len(faces)))


def coarse_faces(points: np.ndarray, faces: np.ndarray, surface: np.ndarray, cell: float = 0.028) -> np.ndarray:
    """Fewer faces (C, 3) of the same points (N, 3): those of one surface in one cell of a grid become one of them."""
    owner = np.zeros(len(points), np.int64)
    owner[faces[:, 0]], owner[faces[:, 1]], owner[faces[:, 2]] = surface, surface, surface
    x, y, z = (np.floor(points / cell).astype(np.int64) + 2**11).T
    _, first, place = np.unique(((owner << 12 | x) << 12 | y) << 12 | z, return_index=True, return_inverse=True)
    a, b, c = first[place][faces].T
    return np.stack([a, b, c], 1)[(a != b) & (b != c) & (c != a)]


def occlusion_of(body: Body, piece: Piece) -> np.ndarray:
    """Baked ambient occlusion (N,) of a piece: 1 open, 0 closed."""
    if body.pack is None:
        return np.ones(len(piece.hem), np.float32)
    return piece.base @ body.pack["ambient_occlusion"].astype(np.float32)


def with_rim(piece: Piece, moved: np.ndarray, builder: Builder, thickness: float = 0.0035) -> tuple[Piece, np.ndarray]:
    """Fold the cloth inwards along its cuts, so that a hem has thickness."""
    edges = boundary(piece)
    if not len(edges):
        return piece, moved
    ring, local = renumber(edges, len(piece.hem))
    inner = (len(piece.hem) + local).astype(piece.faces.dtype)
    a, b, c, d = edges[:, 0], edges[:, 1], inner[:, 0], inner[:, 1]
    faces = np.concatenate([piece.faces, np.stack([b, a, c], 1), np.stack([b, c, d], 1)])
    rows = piece.base[ring]
    normals, base = rows @ builder.shape.normals, sparse.vstack([piece.base, rows], format="csr")
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
    blended = blend_transforms(mesh.weights, posed.transforms[index])
    vertices = torch.from_numpy(mesh.base @ posed.vertices[index].numpy())
    for axis in range(3):
        vertices.addcmul_(blended[..., axis], mesh.displacement[:, axis : axis + 1])
    vertices.addcmul_(mesh.free[:, None], blended[..., 3])
    if len(mesh.skirt):
        vertices[mesh.skirt] = clear_legs(vertices[mesh.skirt], posed.joints[index], mesh.leg_radii)
    return PosedMesh(vertices, blended[..., :3])


def clear_legs(points: Tensor, joints: Tensor, radii: tuple[float, float, float]) -> Tensor:
    """Push points (N, 3) out of capsules around thighs and shins; radii at hip, knee and ankle."""
    for side in ("left", "right"):
        hip, knee, ankle = (joints[JOINT[f"{side}_{n}"]] for n in ("hip", "knee", "ankle"))
        points = push_out(points, hip, knee, radii[0], radii[1])
        points = push_out(points, knee, ankle, radii[1], radii[2])
    return points


def push_out(points: Tensor, start: Tensor, end: Tensor, start_radius: float, end_radius: float) -> Tensor:
    """Move points (N, 3) that lie inside a tapering capsule to its surface."""
    axis = end - start
    t = ((points - start) @ axis / axis.dot(axis)).clamp(0, 1)[:, None]
    away = points - (start + t * axis)
    distance = away.norm(dim=1, keepdim=True).clamp(min=1e-6)
    radius = start_radius + t * (end_radius - start_radius)
    return points + away / distance * (radius - distance).clamp(min=0)

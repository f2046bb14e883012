"""Clothes: where each garment ends, how it hangs, and dressing a person from the skin out.

Everything is decided in the coordinates of the template at rest (a T-pose: arms along x, legs along -y), where a
sleeve, a hem or a neckline is the zero line of a simple function.
"""

from functools import lru_cache

import numpy as np

from course_lib.data.face import skin_fields
from course_lib.data.glasses import add_glasses
from course_lib.data.hair import add_hair, hairline
from course_lib.data.parts import PART_IDS
from course_lib.data.person import Body, Garment, Look, Person, load_body
from course_lib.data.strands import grow_hair
from course_lib.data.surfaces import (
    JOINT,
    Builder,
    DressedMesh,
    Landmarks,
    Piece,
    Shape,
    Surface,
    corners_inside,
    cut_all,
    landmarks,
    renumber,
    shape_of,
    smoothing_matrix,
    smoothstep,
    with_rim,
)

HIDE_MARGIN = 0.03  # metres inside a hem from which what is underneath is left out

# ---------------------------------------------------------------- where garments end


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
        edges.append(
            lambda p: np.where(p[:, 2] > marks.middle_z, np.abs(p[:, 0]) - 0.045 - 0.02 * (p[:, 1] - hem), 0.3)
        )
    return edges


_NECKS = {  # height over the neck joint's level, depth of the front, half width of the front
    "crew": (-0.018, 0.012, 0.08),
    "v": (-0.018, 0.078, 0.07),
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
    return [
        lambda p: top + 0.1 * (marks.middle_z - p[:, 2]) + 0.002 - p[:, 1],
        lambda p: p[:, 1] - top - 0.1 * (marks.middle_z - p[:, 2]) + 0.034,
    ]


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
    narrower = slope * (high - low) / rows * np.arange(rows)[:, None]
    grid = np.maximum.accumulate(grid + narrower) - narrower  # what is above holds what is below
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
            moved += drape_limb(points, one, 0, np.abs(points[:, 0]), centre, slope=0.62 - 0.38 * garment.fit)
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


_THICKNESS = {"belt": 0.004, "skirt": 0.010, "jacket": 0.004}


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
    if garment.tucked:
        moved *= smoothstep(0.0, 0.1, points[:, 1] - waist_y(garment, shape))[:, None]
    lift = 0.0015 + 0.003 * garment.layer + _THICKNESS.get(garment.kind, 0.0) + 0.006 * garment.fit
    if garment.kind in ("shirt", "jacket"):
        lift = lift - collar_pull(points, piece.hem, garment, shape)
    lift += 0.004 * (garment.material == "wool") + skirt_flare(points, garment, shape)
    relief = ripples(piece.base @ template, 0.0022 * (0.3 + garment.fit), seed) * (garment.kind != "belt")
    if garment.tucked:
        lift = lift - 0.006 * garment.fit * smoothstep(0.1, 0.0, points[:, 1] - waist_y(garment, shape))
    return (moved + normals * np.reshape(lift + relief, (-1, 1))).astype(np.float32)


def collar_pull(points: np.ndarray, hem: np.ndarray, garment: Garment, shape: Shape) -> np.ndarray:
    """How much closer (N,) cloth lies around the neck, most of all at the neckline."""
    neck = shape.joints[JOINT["neck"]]
    near = smoothstep(0.16, 0.08, np.linalg.norm((points - neck)[:, [0, 2]], axis=1)) * (points[:, 1] > neck[1] - 0.13)
    return near * (0.005 + (0.005 + 0.004 * garment.fit) * smoothstep(0.05, 0.0, hem) * (garment.kind == "shirt"))


def waist_y(garment: Garment, shape: Shape) -> float:
    """Height of a garment's waist on this body at rest."""
    neck, hip = shape.joints[JOINT["neck"], 1], shape.joints[JOINT["left_hip"], 1]
    return hip - garment.waist * (neck - hip)


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


# ---------------------------------------------------------------- dressing


def dress(person: Person) -> DressedMesh:
    """The dressed mesh of a person, kept for the last few identities."""
    key = person.identity
    if key not in _DRESSED:
        while len(_DRESSED) >= 16:
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
    add_hair(builder, person)
    add_glasses(builder, person.look)
    mesh = builder.build()
    if person.look.strands:
        mesh.strands = grow_hair(builder, person)
    return mesh


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
    face_neck = PART_IDS["Face_Neck"]
    pieces = (("eyes", "eye", face_neck), ("teeth_lower", "teeth", PART_IDS["Lower_Teeth"]))
    pieces += (("teeth_upper", "teeth", PART_IDS["Upper_Teeth"]), ("tongue", "tongue", PART_IDS["Tongue"]))
    for name, kind, part in pieces:
        builder.add(uncut(name, builder.body), Surface(kind, part, look))


@lru_cache(maxsize=64)
def hidden_by(garment: Garment, body: Body, marks: Landmarks) -> np.ndarray:
    """Which vertices (V,) of the template lie so far inside a garment that nothing of them is ever seen."""
    points = body.model.template.numpy()
    if garment.kind in ("cap", "beanie", "belt"):
        return np.zeros(len(points), bool)
    if garment.kind == "skirt":
        waist, low = marks.hem_y(garment.waist), marks.crotch_y - 0.01
        return (points[:, 1] < waist - 0.015) & (points[:, 1] > low) & (np.abs(points[:, 0]) < marks.arm_x[1])
    margin = HIDE_MARGIN + 0.03 * garment.fit
    if garment.kind in ("sock", "shoe", "jacket"):
        margin = 0.012 if garment.kind != "jacket" else 0.025
    inside = np.min([f(points) for f in fields_of(garment, marks)], axis=0)
    return inside > margin


def add_skin(builder: Builder, look: Look, hidden: np.ndarray | None) -> None:
    """The skin that garments leave open."""
    faces = builder.body.pack["faces_body"]
    if hidden is not None:
        faces = faces[corners_inside(faces, hidden) < 3]
    piece = Piece.whole(faces, len(builder.template))
    pack = builder.body.pack
    columns = [pack["lips_upper"], pack["lips_lower"], hairline(builder.body), pack["nail"]]
    columns = np.column_stack([*columns, skin_fields()]).astype(np.float32)
    builder.add(piece, Surface("skin", None, look), extra=piece.base @ columns)


@lru_cache(maxsize=16)
def uncut(source: str, body: Body) -> Piece:
    """A whole surface of the body's pack, such as the tights that garments are cut from."""
    return Piece.whole(body.pack[f"faces_{source}"], len(body.model.template))


@lru_cache(maxsize=24)
def cut_garment(garment: Garment, body: Body) -> Piece:
    """The piece of tights or skirt that a garment is made of."""
    piece = uncut("skirt" if garment.kind == "skirt" else "tights", body)
    return cut_all(piece, body.model.template.numpy(), fields_of(garment, landmarks(body)))


def crease_depth(p: np.ndarray, garment: Garment, marks: Landmarks) -> np.ndarray:
    """How deep cloth creases at template points (N, 3): at elbows, armpits, waist, or at hips, knees, ankles."""

    def bump(distance, width):
        return np.exp(-((distance / width) ** 2))

    x, y, joints = np.abs(p[:, 0]), p[:, 1], marks.joints
    shoulder, elbow = joints[JOINT["left_shoulder"]], joints[JOINT["left_elbow"]]
    if garment.kind == "trousers":
        hip, knee, ankle = (joints[JOINT[f"left_{n}"], 1] for n in ("hip", "knee", "ankle"))
        zone = 0.7 * bump(y - hip + 0.02, 0.06) + bump(y - knee, 0.06) + bump(y - ankle - 0.05, 0.06)
    else:
        zone = bump(x - elbow[0], 0.07) * (y > shoulder[1] - 0.2)
        zone += bump(x - shoulder[0], 0.07) * bump(y - shoulder[1] + 0.06, 0.08)
        zone += 0.8 * bump(y - joints[JOINT["spine1"], 1] + 0.02, 0.09) * (x < elbow[0])
    return 0.32 + 0.75 * zone.clip(0, 1)


def add_garment(builder: Builder, garment: Garment, hidden: np.ndarray | None, seed: int) -> None:
    """One garment with a rim along its hems; socks and shoes once a side, because their classes differ."""
    piece = cut_garment(garment, builder.body)
    if hidden is not None:
        covered = (piece.base @ hidden.astype(np.float32)) > 0.99
        piece = Piece(piece.base, piece.faces[corners_inside(piece.faces, covered) < 3], piece.hem).compact()
    if not len(piece.faces):
        return
    moved = displacement(piece, garment, builder.shape, builder.template, seed)
    piece, moved = with_rim(piece, moved, builder)
    template = piece.base @ builder.template
    creases = crease_depth(template, garment, landmarks(builder.body))[:, None]
    if garment.kind not in ("sock", "shoe"):
        builder.add(piece, Surface("cloth", PART_IDS[garment.part], garment, two_sided=True), moved, creases)
        return
    left = template[piece.faces, 0].mean(1) > 0
    for side, mask in (("Left", left), ("Right", ~left)):
        used, local = renumber(piece.faces[mask], len(piece.hem))
        half = Piece(piece.base[used], local, piece.hem[used])
        surface = Surface("cloth", PART_IDS[f"{side}_{garment.part}"], garment, two_sided=True)
        builder.add(half, surface, moved[used], creases[used])

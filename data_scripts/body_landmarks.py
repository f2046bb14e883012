"""Named points on the open body: which vertices, with which weights, make each keypoint of each format.

A joint is its anchor vertex, so joint keypoints are exact. A surface point was picked by hand on a picture of the mean
body: two coordinates in millimetres from the tip of the nose, seen from the front (x to the body's left, y up) or from
its left (z forward, y up). Looking along the view's axis, the first triangle under that spot and the barycentric
coordinates in it are the point: three vertices whose weights sum to 1, which move with shape, pose and expression.
Only the left side is listed; the right side is its mirror image.

`mm` below: millimetres from the tip of the nose. Lists of midpoints run from the body's right to its left, as Sapiens'
names do (checked on its table of left-right partners; facts that the table leaves open are marked "our reading").
"""

import dataclasses

import numpy as np

Point = dict[int, float]  # vertex id -> weight, weights sum to 1
Curve = list[tuple[float, float]]

# ----------------------------------------------------------------------------- what was picked by hand

# left eye, front view, mm: from the inner to the outer corner. Our reading: the lash line is the lid's front edge, the
# eyelid line its edge on the eyeball, the crease the fold above
UPPER_LASH = [(16.4, 35.4), (18.5, 37.9), (21, 40.1), (24, 41.7), (27, 42.4), (30, 42.6), (33, 42.3), (36, 41.7),
              (39, 40.7), (41.5, 39.5), (43.6, 38.2)]  # fmt: skip
LOWER_LASH = [(16.4, 34.9), (19, 34.1), (22, 33.2), (25, 32.8), (29, 32.5), (33, 32.4), (36, 32.7), (39, 33.8),
              (41.5, 35.6), (43.6, 37.8)]  # fmt: skip
UPPER_EYELID = [(18.8, 36.9), (20.2, 38.6), (22.5, 40.3), (26, 41.4), (30, 41.7), (34, 41.4), (38, 40.5), (41, 39.3),
                (42.6, 37.9)]  # fmt: skip
LOWER_EYELID = [(18.8, 35.4), (20, 34.9), (22.5, 34.2), (26, 33.7), (30, 33.3), (34, 33.2), (37.5, 33.7), (40.2, 35.0),
                (42.6, 37.3)]  # fmt: skip
UPPER_CREASE = [(17.5, 39.5), (19, 41.3), (22, 44.0), (26, 45.9), (30, 46.6), (34, 46.3), (38, 45.2), (42, 43.2),
                (45, 40.8)]  # fmt: skip
IRIS_RADIUS, PUPIL_RADIUS = 5.9, 2.0  # mm

# left eyebrow, front view, mm: middle line from the nose outward, and half its thickness there
BROW = [(8, 52.3), (16, 55.0), (25, 57.0), (34, 57.6), (43, 56.0), (52, 51.5)]
BROW_HALF_THICKNESS = [3.2, 3.2, 2.9, 2.5, 1.9, 0.6]

# mouth, front view, mm: upper and lower border of the red, and the line where the lips meet; left half from the middle
UPPER_OUTER_LIP = [(0, -24.6), (2.5, -24.0), (5.5, -23.2), (10, -24.4), (15, -26.3), (20, -28.9), (24, -31.6)]
LOWER_OUTER_LIP = [(0, -42.6), (5.5, -42.2), (10, -41.0), (15, -38.6), (20, -35.4), (24, -31.9)]
LIP_SLIT = [(0, -30.9), (5, -30.45), (10, -30.1), (15, -30.3), (20, -31.05), (21.8, -31.4)]
UPPER_LIP_LIFT, LOWER_LIP_DROP = 0.35, 1.1  # mm from the slit to the rims of the lips

# nose and chin in the middle, front view: height, mm. Our reading: midpoint 1 of the nose bridge is its middle, 2 the
# upper and 3 the lower quarter; the bridge ends just above the tip
MIDDLE = {
    "center_of_glabella": 56.0, "center_of_nose_root": 40.0, "tip_of_nose_bridge": 7.5,
    "midpoint_1_of_nose_bridge": 23.5, "midpoint_2_of_nose_bridge": 32.0, "midpoint_3_of_nose_bridge": 15.0,
    "center_of_labiomental_groove": -48.5, "tip_of_chin": -66.0, "tip_of_nose": 0.0, "bottom_center_of_nose": -10.8,
}  # fmt: skip
NOSTRIL = {"outer_corner_of_nose": (17.2, -1.5), "inner_corner_of_nostril": (6.7, -5.9),
           "outer_corner_of_nostril": (12.2, -4.9), "upper_corner_of_nostril": (9.4, -3.4)}  # fmt: skip
NOSE_BASE = {31: (-13.5, -5.6), 32: (-6.8, -7.6), 33: (0, -10.8), 34: (6.8, -7.6), 35: (13.5, -5.6)}  # 300-W numbers
NOSE_RIDGE = {27: 38.0, 28: 25.5, 29: 13.0, 30: 0.0}

# left jaw line, left view (z, y), mm: 300-W points 16 (temple) down to 9 (beside the chin); 8 is the chin
JAW = [(-99, 33), (-99, 16), (-97.5, -1), (-94, -18), (-87, -36), (-74, -51), (-57, -61), (-40, -67)]
CHIN_HEIGHT = -68.0

# left ear, left view (z, y), mm. Our reading: the antihelix starts below and ends at the fork of its two crura; the
# inner helix is counted from its front end over the top. `midpoint_between_22_15` names points of a list we do not have
EAR = {
    "top_end_of_inferior_crus": (-113.5, 27.5), "top_end_of_superior_crus": (-123.5, 35.5),
    "start_of_antihelix": (-118.5, 7.8), "end_of_antihelix": (-127.0, 24.0), "midpoint_1_of_antihelix": (-126.3, 14.3),
    "midpoint_1_of_inferior_crus": (-120.0, 26.3), "midpoint_2_of_antihelix": (-122.8, 10.4),
    "midpoint_3_of_antihelix": (-127.6, 19.0), "point_1_of_inner_helix": (-110.8, 31.5),
    "point_2_of_inner_helix": (-114.5, 36.2), "point_3_of_inner_helix": (-120.0, 38.4),
    "point_4_of_inner_helix": (-125.5, 38.2), "point_5_of_inner_helix": (-129.6, 34.6),
    "point_6_of_inner_helix": (-132.2, 28.0), "point_7_of_inner_helix": (-132.6, 20.0),
    "highest_point_of_antitragus": (-113.8, 6.0), "bottom_point_of_tragus": (-108.3, 7.0),
    "protruding_point_of_tragus": (-110.0, 13.2), "top_point_of_tragus": (-108.8, 17.0),
    "start_point_of_crus_of_helix": (-109.5, 21.5), "deepest_point_of_concha": (-116.5, 12.5),
    "tip_of_ear_lobe": (-112.0, -9.4), "bottom_connecting_point_of_ear_lobe": (-101.5, -3.2),
    "top_connecting_point_of_helix": (-108.0, 38.3), "point_8_of_inner_helix": (-130.2, 13.0),
}  # fmt: skip
EAR_CENTER = (-117.0, 17.5)

# hairline and beard, left view (z, y), mm: see `hairline_distance` and `beard_distance`
HAIRLINE = [(60, 96), (-14, 93), (-24, 88), (-40, 82), (-58, 70), (-70, 60), (-84, 51), (-92, 40), (-98, 22),
            (-106, 14), (-112, 40), (-134, 30), (-133, 2), (-139, -18), (-152, -32),
            (-175, -38), (-260, -40)]  # fmt: skip
BEARD = [(-104, 16), (-94, 14), (-86, -8), (-70, -20), (-52, -26), (-38, -24), (-26, -19), (-20, -13), (10, -12),
         (10, -90), (-40, -90), (-66, -78), (-88, -52), (-100, -24), (-103, 0)]  # fmt: skip

# ----------------------------------------------------------------------------- formats

COCO17 = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
).split()
FEET = "left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel".split()
H36M17 = "pelv rhip rkne rank lhip lkne lank spin neck nose head lsho lelb lwri rsho relb rwri".split()
LSP14 = "rank rkne rhip lhip lkne lank rwri relb rsho lsho lelb lwri neck head".split()
SMPL24 = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot right_foot "
    "neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hand right_hand"
).split()
SHORT_JOINTS = {"hip": "hip", "kne": "knee", "ank": "ankle", "sho": "shoulder", "elb": "elbow", "wri": "wrist"}
SAPIENS_FINGERS = {"thumb": "thumb", "forefinger": "index", "middle_finger": "middle", "ring_finger": "ring",
                   "pinky_finger": "pinky"}  # fmt: skip


@dataclasses.dataclass
class Surface:
    """A triangle mesh to pick points on. vertices (V, 3) metres, faces (F, 3), nose (3,) the tip that mm start from."""

    vertices: np.ndarray
    faces: np.ndarray
    nose: np.ndarray

    def pick(self, view: str, u: float, v: float, faces: slice | np.ndarray = slice(None)) -> tuple[int, np.ndarray]:
        """The first of `faces` under the spot (u, v) metres of a view -> face number, barycentric coordinates (3,)."""
        axes, depth = VIEWS[view]
        corners = self.vertices[self.faces[faces]]  # (F, 3, 3)
        flat = corners @ axes.T - np.array([u, v])  # (F, 3, 2)
        a, b = np.roll(flat, -1, 1), np.roll(flat, -2, 1)  # each corner's two partners
        area = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]  # (F, 3) twice the area opposite each corner
        total = area.sum(1)
        hit = np.nonzero((area >= -1e-12).all(1) & (total > 1e-12))[0]  # turned toward the viewer and under the spot
        if len(hit) == 0:
            raise ValueError(f"nothing under ({u:.4f}, {v:.4f}) seen from the {view}")
        share = area[hit] / total[hit, None]
        nearest = ((share[:, None] @ corners[hit])[:, 0] @ depth).argmax()
        return int(np.arange(len(self.faces))[faces][hit[nearest]]), share[nearest]

    def front(self, x: float, y: float, faces: slice | np.ndarray = slice(None)) -> Point:
        """A point of the front view, in mm from the nose."""
        return self.point(*self.pick("front", self.nose[0] + x / 1000, self.nose[1] + y / 1000, faces))

    def side(self, z: float, y: float, side: str = "left") -> Point:
        """A point of the left (or right) view, in mm from the nose."""
        sign = 1 if side == "left" else -1
        return self.point(*self.pick(side, -sign * (self.nose[2] + z / 1000), self.nose[1] + y / 1000))

    def point(self, face: int, barycentric: np.ndarray) -> Point:
        """Three corners of a face as one point."""
        return {int(v): float(w) for v, w in zip(self.faces[face], barycentric, strict=True)}


# the two axes of each view (2, 3), counterclockwise toward the viewer, and the direction of the viewer (3,)
VIEWS = {
    "front": (np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([0.0, 0, 1])),
    "back": (np.array([[-1.0, 0, 0], [0, 1, 0]]), np.array([0.0, 0, -1])),
    "left": (np.array([[0, 0, -1.0], [0, 1, 0]]), np.array([1.0, 0, 0])),
    "right": (np.array([[0, 0, 1.0], [0, 1, 0]]), np.array([-1.0, 0, 0])),
    "top": (np.array([[1.0, 0, 0], [0, 0, -1]]), np.array([0.0, 1, 0])),
}


def mean_of(points: list[Point]) -> Point:
    """The mean of several points, as one point."""
    total: Point = {}
    for point in points:
        for vertex, weight in point.items():
            total[vertex] = total.get(vertex, 0.0) + weight / len(points)
    return total


def along(curve: Curve, shares: list[float]) -> np.ndarray:
    """Points at shares 0..1 of a polyline's length: (len(shares), 2)."""
    points = np.array(curve, dtype=float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return np.stack([np.interp(shares, length / length[-1], points[:, k]) for k in (0, 1)], 1)


def eighths(curve: Curve, name: str) -> dict[str, tuple[float, float]]:
    """Sapiens' seven points between a line's ends, running 3 1 4 center 5 2 6: name -> place."""
    order = ["midpoint_3", "midpoint_1", "midpoint_4", "center", "midpoint_5", "midpoint_2", "midpoint_6"]
    places = along(curve, [k / 8 for k in range(1, 8)])
    return {f"{key}{'point' if key == 'center' else ''}_of_{name}": tuple(place)
            for key, place in zip(order, places, strict=True)}  # fmt: skip


def mirrored(curve: Curve) -> Curve:
    """The same curve on the other side of the face, running back."""
    return [(-x, y) for x, y in reversed(curve)]


# ----------------------------------------------------------------------------- places on the face


def eye_places(side: str) -> dict[str, tuple[float, float]]:
    """Sapiens' names on one eye's lids -> (x, y) mm in the front view. side: 'l' or 'r'."""
    turn = (lambda curve: curve) if side == "l" else mirrored  # both run from the body's right to its left
    places = {}
    for name, curve in (("upper_lash_line", UPPER_LASH), ("lower_lash_line", LOWER_LASH),
                        ("upper_eyelid_line", UPPER_EYELID), ("lower_eyelid_line", LOWER_EYELID),
                        ("upper_crease_line", UPPER_CREASE)):  # fmt: skip
        line = turn(curve)
        inner, outer = (line[0], line[-1]) if side == "l" else (line[-1], line[0])
        places |= eighths(line, name) | {f"inner_end_of_{name}": inner, f"outer_end_of_{name}": outer}
    return {f"{side}_{name}": place for name, place in places.items()}


def brow_places(side: str) -> dict[str, tuple[float, float]]:
    """The nine names of an eyebrow: it starts at the nose; midpoint 1 is in the middle, 2 and 3 at the quarters."""
    sign = 1 if side == "l" else -1
    at = {"startpoint": 0.0, "midpoint_1": 0.5, "midpoint_2": 0.25, "midpoint_3": 0.75}
    if side == "r":  # right to left: the outer quarter comes first
        at |= {"midpoint_2": 0.75, "midpoint_3": 0.25}
    places = {f"end_of_{side}_eyebrow": (sign * BROW[-1][0], BROW[-1][1])}
    for name, share in at.items():
        x, y = along(BROW, [share])[0]
        half = np.interp(x, [p[0] for p in BROW], BROW_HALF_THICKNESS)
        places[f"upper_{name}_of_{side}_eyebrow"] = (sign * x, y + half)
        places[f"lower_{name}_of_{side}_eyebrow"] = (sign * x, y - half)
    return places


def whole_line(half: Curve) -> Curve:
    """A left half that starts in the middle -> the line from the right end to the left end."""
    return mirrored(half)[:-1] + half


def lip_lines() -> dict[str, Curve]:
    """The four rims of the mouth from right to left."""
    slit = whole_line(LIP_SLIT)
    shift = {"upper_inner_lip": UPPER_LIP_LIFT, "lower_inner_lip": -LOWER_LIP_DROP}
    inner = {name: [(x, y + dy * (1 - (x / 21.8) ** 2)) for x, y in slit] for name, dy in shift.items()}
    return {"upper_outer_lip": whole_line(UPPER_OUTER_LIP), "lower_outer_lip": whole_line(LOWER_OUTER_LIP)} | inner


def mouth_places() -> dict[str, tuple[float, float]]:
    """Sapiens' 32 names on the lips."""
    places = {}
    for name, line in lip_lines().items():
        places |= eighths(line, name)
        kind = name.split("_")[1]
        places[f"r_{kind}_corner_of_mouth"], places[f"l_{kind}_corner_of_mouth"] = line[0], line[-1]
    rename = {"centerpoint_of_upper_outer_lip": "center_of_cupid_bow"}
    rename |= {f"centerpoint_of_{n}": f"center_of_{n}" for n in lip_lines() if n != "upper_outer_lip"}
    return {rename.get(name, name): place for name, place in places.items()}


def nose_places() -> dict[str, tuple[float, float]]:
    """Middle line, corners of the nose and nostrils."""
    places = {name: (0.0, y) for name, y in MIDDLE.items()}
    for side, sign in (("l", 1), ("r", -1)):
        for name, (x, y) in NOSTRIL.items():
            key = f"{side}_{name}" if name == "outer_corner_of_nose" else name.replace("nostril", f"{side}_nostril")
            places[key] = (sign * x, y)
    return places


def iris_places(side: str, centre: np.ndarray) -> dict[str, tuple[float, float]]:
    """Centre and eight border points of iris and pupil, on the clock as the viewer sees it. centre (2,) mm."""
    clock = ["border_of_{}_3", "border_of_{}_midpoint_1", "border_of_{}_12", "border_of_{}_midpoint_4",
             "border_of_{}_9", "border_of_{}_midpoint_3", "border_of_{}_6", "border_of_{}_midpoint_2"]  # fmt: skip
    places = {}
    for what, radius in (("iris", IRIS_RADIUS), ("pupil", PUPIL_RADIUS)):
        places[f"{side}_center_of_{what}"] = tuple(centre)
        for step, name in enumerate(clock):
            angle = step * np.pi / 4
            place = centre + radius * np.array([np.cos(angle), np.sin(angle)])
            places[f"{side}_{name.format(what)}"] = tuple(place)
    return places


def ear_points(surface: Surface) -> dict[str, Point]:
    """Both ears. Sapiens' partners of inner helix points 2 and 8 are crossed; the right ear follows its table."""
    points = {}
    for name, place in EAR.items():
        points[f"l_{name}"] = surface.side(*place)
        crossed = name.translate(str.maketrans("28", "82")) if "inner_helix" in name else name
        points[f"r_{crossed}"] = surface.side(*place, side="right")
    return points


def face_points(surface: Surface, eyeballs: np.ndarray, joints: dict[str, np.ndarray]) -> dict[str, Point]:
    """Sapiens' names on face and ears that we have -> points. eyeballs: face numbers; joints: name -> place (3,)."""
    places = nose_places() | mouth_places()
    skin = np.setdiff1d(np.arange(len(surface.faces)), eyeballs)
    for side in "lr":
        places |= eye_places(side) | brow_places(side)
    points = {name: surface.front(*place, skin) for name, place in places.items()}
    for side, joint in (("l", "left_eye_smplhf"), ("r", "right_eye_smplhf")):
        centre = 1000 * (joints[joint] - surface.nose)[:2]
        points |= {name: surface.front(*place, eyeballs) for name, place in iris_places(side, centre).items()}
    return points | ear_points(surface)


# ----------------------------------------------------------------------------- 300-W and the contour


def face68_places() -> dict[int, tuple[float, float]]:
    """300-W points 17 to 67 (eyebrows, nose, eyes, mouth) -> (x, y) mm in the front view."""
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    brow = [tuple(p + [0, 1]) for p in along(BROW, shares)]
    rows: list[tuple[float, float]] = mirrored(brow) + brow + [(0.0, NOSE_RIDGE[k]) for k in (27, 28, 29, 30)]
    rows += [NOSE_BASE[k] for k in range(31, 36)]
    left_eye = [UPPER_LASH[0], *along(UPPER_LASH, [0.35, 0.68]), UPPER_LASH[-1], *along(LOWER_LASH, [0.68, 0.35])]
    right_eye = [(-x, y) for x, y in (left_eye[k] for k in (3, 2, 1, 0, 5, 4))]
    rows += right_eye + left_eye + mouth20()
    return dict(enumerate([tuple(map(float, row)) for row in rows], start=17))


def mouth20() -> list[tuple[float, float]]:
    """300-W points 48 to 67: round the outer rim clockwise from the right corner, then the inner one."""
    lines = {name: np.array(line) for name, line in lip_lines().items()}

    def at(name: str, x: float) -> tuple[float, float]:
        return x, float(np.interp(x, lines[name][:, 0], lines[name][:, 1]))

    outer = [at("upper_outer_lip", x) for x in (-24, -14, -5.5, 0, 5.5, 14, 24)]
    outer += [at("lower_outer_lip", x) for x in (14, 6, 0, -6, -14)]
    inner = [at("upper_inner_lip", x) for x in (-21.8, -9, 0, 9, 21.8)]
    return outer + inner + [at("lower_inner_lip", x) for x in (9, 0, -9)]


def landmark_picks(surface: Surface, skin: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """SMPL-X's 51 landmarks (300-W without the jaw line): face number and barycentric coordinates."""
    return [surface.pick("front", surface.nose[0] + x / 1000, surface.nose[1] + y / 1000, skin)
            for x, y in face68_places().values()]  # fmt: skip


def jaw_points(surface: Surface) -> list[Point]:
    """300-W points 0 to 16, from the right temple over the chin to the left."""
    left = [surface.side(z, y) for z, y in JAW]
    right = [surface.side(z, y, "right") for z, y in JAW]
    return right + [surface.front(0.0, CHIN_HEIGHT)] + left[::-1]


def contour_table(surface: Surface, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SMPL-X's dynamic contour: for 79 neck yaws, the 17 points where the cheeks end as seen from the front.

    Rows 0..39: the head turned 0..39 degrees to its right; rows 40..78: 1..39 degrees to its left (smplx's order).
    At the height of each jaw point, of all points between the jaw and the nose, the outermost one in the turned view is
    taken. -> face numbers (79, 17), barycentric coordinates (79, 17, 3)
    """
    yaws = np.deg2rad(np.concatenate([-np.arange(40), np.arange(1, 40)]))
    faces, weights = np.zeros((79, 17), np.int64), np.zeros((79, 17, 3))
    chin = surface.pick("front", surface.nose[0], surface.nose[1] + CHIN_HEIGHT / 1000, skin)
    faces[:, 8], weights[:, 8] = chin
    for number, (z, y) in enumerate(JAW):
        for side, column, sign in (("right", number, -1), ("left", 16 - number, 1)):
            picks = slice_picks(surface, skin, side, z, y)
            places = np.array([b @ surface.vertices[surface.faces[f]] for f, b in picks])  # (N, 3)
            turned = np.cos(yaws)[:, None] * places[:, 0] + np.sin(yaws)[:, None] * places[:, 2]  # (79, N) new x
            outward = sign * turned
            best = outward.argmax(1)
            faces[:, column] = [picks[k][0] for k in best]
            weights[:, column] = [picks[k][1] for k in best]
    return faces, weights


def slice_picks(surface: Surface, skin: np.ndarray, side: str, back: float, y: float) -> list[tuple[int, np.ndarray]]:
    """Points of one height seen from the side, from the jaw line forward to the cheek, every 3 mm."""
    sign = 1 if side == "left" else -1
    return [surface.pick(side, -sign * (surface.nose[2] + z / 1000), surface.nose[1] + y / 1000, skin)
            for z in np.arange(back, -39.0, 3.0)]  # fmt: skip


# ----------------------------------------------------------------------------- body, hands, formats


def extreme_vertex(vertices: np.ndarray, among: np.ndarray, direction: np.ndarray) -> Point:
    """The vertex of `among` (ids) that lies furthest in a direction."""
    return {int(among[(vertices[among] @ direction).argmax()]): 1.0}


def finger_tip_points(vertices: np.ndarray, weights: np.ndarray, joints: dict, number: dict) -> dict[str, Point]:
    """The furthest vertex of each finger along its last bone: name like left_index4."""
    tips = {}
    for side in ("left", "right"):
        for finger in SAPIENS_FINGERS.values():
            last = f"{side}_{finger}3"
            among = np.nonzero(weights[:, number[last]] > 0.6)[0]
            tips[f"{side}_{finger}4"] = extreme_vertex(vertices, among, joints[last] - joints[f"{side}_{finger}2"])
    return tips


def foot_points(vertices: np.ndarray, weights: np.ndarray, joints: dict, number: dict) -> dict[str, Point]:
    """Tips of the big and the small toe, and the heel."""
    points = {}
    for side, sign in (("left", 1), ("right", -1)):
        toe, ankle = joints[f"{side}_foot"], joints[f"{side}_ankle"]
        foot = np.nonzero(weights[:, number[f"{side}_foot"]] + weights[:, number[f"{side}_ankle"]] > 0.5)[0]
        outward = sign * (vertices[foot, 0] - toe[0])
        forward = np.array([0.0, 0.0, 1.0])
        points[f"{side}_big_toe"] = extreme_vertex(vertices, foot[outward < -0.02], forward)
        points[f"{side}_small_toe"] = extreme_vertex(vertices, foot[outward > 0.028], forward)
        low = foot[vertices[foot, 1] < ankle[1] - 0.035]
        points[f"{side}_heel"] = extreme_vertex(vertices, low, -forward)
    return points


def body_marks(surface: Surface, joints: dict[str, np.ndarray]) -> dict[str, Point]:
    """Surface points of elbow, shoulder, ear, eye and crown. The arms lie along x in the rest pose."""
    marks = {"nose": surface.front(0, 0)}
    for side in ("left", "right"):
        elbow, shoulder = joints[f"{side}_elbow"], joints[f"{side}_shoulder"]
        marks[f"{side}_cubital_fossa"] = surface.point(*surface.pick("front", elbow[0], elbow[1]))
        marks[f"{side}_olecranon"] = surface.point(*surface.pick("back", -elbow[0], elbow[1]))
        marks[f"{side}_acromion"] = surface.point(*surface.pick("top", shoulder[0], -shoulder[2]))
        marks[f"{side}_ear"] = surface.side(*EAR_CENTER, side=side)
    head = joints["head"]
    marks["head_top"] = surface.point(*surface.pick("top", 0.0, -(head[2] + joints["neck"][2]) / 2))
    return marks


def small_formats(points: dict[str, Point]) -> dict[str, dict[str, Point]]:
    """COCO 17, Human3.6M 17, LSP 14 and SMPL 24 from named points."""
    short = {f"{side[0]}{code}": points[f"{side}_{name}"] for code, name in SHORT_JOINTS.items()
             for side in ("left", "right")}  # fmt: skip
    short |= {"pelv": points["pelvis"], "spin": points["spine2"], "neck": points["neck"], "nose": points["nose"],
              "head": points["head_top"]}  # fmt: skip
    knuckles = {f"{side}_hand": mean_of([points[f"{side}_{f}1"] for f in ("index", "middle", "ring", "pinky")])
                for side in ("left", "right")}  # fmt: skip
    return {
        "coco17": {name: points[name] for name in COCO17},
        "h36m17": {name: short[name] for name in H36M17},
        "lsp14": {name: short[name] for name in LSP14},
        "smpl24": {name: (points | knuckles)[name] for name in SMPL24},
    }


def wholebody_format(points: dict[str, Point], face68: list[Point]) -> dict[str, Point]:
    """COCO-WholeBody: 17 body, 6 feet, 68 face (300-W), 21 + 21 hands."""
    table = {name: points[name] for name in COCO17 + FEET} | {f"face-{k}": p for k, p in enumerate(face68)}
    for side in ("left", "right"):
        table[f"{side}_hand_root"] = points[f"{side}_wrist"]
        for name, finger in SAPIENS_FINGERS.items():
            table |= {f"{side}_{name}{k}": points[f"{side}_{finger}{k}"] for k in (1, 2, 3, 4)}
    return table


def sapiens_format(points: dict[str, Point], names: list[str]) -> dict[str, Point | None]:
    """Sapiens' 308 in order, None where the mesh has no such point. Finger 4 is the tip, `third_joint` the root."""
    hands: dict[str, Point] = {}
    for side in ("left", "right"):
        for name, finger in SAPIENS_FINGERS.items():
            hands |= {f"{side}_{name}{k}": points[f"{side}_{finger}{k}"] for k in (2, 3, 4)}
            hands[f"{side}_{name}_third_joint"] = points[f"{side}_{finger}1"]
    return {name: (points | hands).get(name) for name in names}


def sapiens_names() -> list[str]:
    """Sapiens' 308 names in their order (69 body and hands, 239 face)."""
    names = COCO17[:9] + COCO17[11:] + FEET
    for side in ("right", "left"):
        names += [f"{side}_{f}{k}" for f in SAPIENS_FINGERS for k in ("4", "3", "2", "_third_joint")] + [
            f"{side}_wrist"
        ]
    names += [f"{s}_{p}" for p in ("olecranon", "cubital_fossa", "acromion") for s in ("left", "right")] + ["neck"]
    names += list(MIDDLE)[:8] + brow_names("r") + brow_names("l")
    names += lid_names("l", "upper") + lid_names("r", "upper") + lid_names("l", "lower") + lid_names("r", "lower")
    names += nose_names() + lip_names("outer") + lip_names("inner")
    for side in "lr":
        names += ear_names(side)
    return names + [n for what in ("iris", "pupil") for side in "lr" for n in clock_names(side, what)]


def brow_names(side: str) -> list[str]:
    """Nine names of an eyebrow."""
    middle = ["upper_midpoint_1", "lower_midpoint_1", "upper_midpoint_2", "upper_midpoint_3", "lower_midpoint_2",
              "lower_midpoint_3"]  # fmt: skip
    return [f"{name}_of_{side}_eyebrow" for name in ["upper_startpoint", "lower_startpoint", "end", *middle]]


def lid_names(side: str, lid: str) -> list[str]:
    """Lash line, eyelid line and (above) crease of one lid; the left eye's midpoints are listed mirrored."""
    midpoints = [1, 2, 3, 4, 5, 6] if side == "r" else [2, 1, 6, 5, 4, 3]
    lash = ["inner_end", "outer_end", "centerpoint"] + [f"midpoint_{k}" for k in midpoints]
    line = [3, 1, 4, 0, 5, 2, 6] if side == "r" else [6, 2, 5, 0, 4, 1, 3]
    edge = [f"midpoint_{k}" if k else "centerpoint" for k in line]
    names = [f"{n}_of_{lid}_lash_line" for n in lash] + [f"{n}_of_{lid}_eyelid_line" for n in ["outer_end", *edge]]
    names += [f"{n}_of_{lid}_crease_line" for n in edge] if lid == "upper" else []
    return [f"{side}_{name}" for name in names]


def nose_names() -> list[str]:
    """Ten names of the nose."""
    nostrils = [f"{c}_corner_of_{s}_nostril" for s in "rl" for c in ("inner", "outer", "upper")]
    return ["tip_of_nose", "bottom_center_of_nose", "r_outer_corner_of_nose", "l_outer_corner_of_nose", *nostrils]


def lip_names(rim: str) -> list[str]:
    """Sixteen names of the outer or the inner rim."""
    top = "center_of_cupid_bow" if rim == "outer" else "center_of_upper_inner_lip"
    names = [f"r_{rim}_corner_of_mouth", f"l_{rim}_corner_of_mouth", top, f"center_of_lower_{rim}_lip"]
    for numbers in ((1, 2), (3, 4, 5, 6)):
        names += [f"midpoint_{k}_of_{lip}_{rim}_lip" for lip in ("upper", "lower") for k in numbers]
    return names


def ear_names(side: str) -> list[str]:
    """Twenty-six names of an ear; inner helix 2 and 8 change places on the right."""
    names = list(EAR)
    names.insert(22, "midpoint_between_22_15")
    swap = str.maketrans("28", "82")
    return [f"{side}_{n.translate(swap) if side == 'r' and n.endswith('inner_helix') else n}" for n in names]


def clock_names(side: str, what: str) -> list[str]:
    """Centre and eight border points of an iris or a pupil."""
    hours = ["3", "midpoint_1", "12", "midpoint_4", "9", "midpoint_3", "6", "midpoint_2"]
    return [f"{side}_center_of_{what}"] + [f"{side}_border_of_{what}_{hour}" for hour in hours]


def make_surface(
    vertices: np.ndarray, faces: np.ndarray, ids: np.ndarray, eyes: tuple[int, int], tongue: tuple[int, int]
) -> tuple[Surface, np.ndarray]:
    """The mean body as a surface (without the tongue), and the numbers of its eyeball faces.

    ids (V,) are MakeHuman's; the nose's tip is the foremost point of the middle line of the head.
    """
    corner = ids[faces[:, 0]]
    eyeballs = np.nonzero((corner >= eyes[0]) & (corner <= eyes[1]))[0]
    middle = np.unique(faces[(corner >= 0) & (corner < tongue[0])])
    middle = middle[(np.abs(vertices[middle, 0]) < 0.005) & (vertices[middle, 1] > 0.45)]
    return Surface(vertices, faces, vertices[middle[vertices[middle, 2].argmax()]]), eyeballs


def all_formats(
    surface: Surface, eyeballs: np.ndarray, weights: np.ndarray, joint_names: list[str], joints: np.ndarray
) -> dict[str, dict[str, Point | None]]:
    """The six formats: name -> {keypoint -> point}. weights (V, 55), joints (55, 3); the anchors come last."""
    first, number = len(surface.vertices) - len(joint_names), {name: k for k, name in enumerate(joint_names)}
    place = dict(zip(joint_names, joints.astype(np.float64), strict=True))
    points: dict[str, Point] = {name: {first + k: 1.0} for name, k in number.items()}
    surface_weights = weights[:first]
    points |= body_marks(surface, place) | finger_tip_points(surface.vertices, surface_weights, place, number)
    points |= foot_points(surface.vertices, surface_weights, place, number)
    points |= face_points(surface, eyeballs, place)
    points |= {"left_eye": points["l_center_of_iris"], "right_eye": points["r_center_of_iris"]}
    skin = np.setdiff1d(np.arange(len(surface.faces)), eyeballs)
    face68 = jaw_points(surface) + [surface.front(x, y, skin) for x, y in face68_places().values()]
    formats = small_formats(points) | {"wholebody133": wholebody_format(points, face68)}
    return formats | {"sapiens308": sapiens_format(points, sapiens_names())}


def smplx_landmarks(surface: Surface, eyeballs: np.ndarray) -> dict[str, np.ndarray]:
    """SMPL-X's keys for the 51 landmarks and the contour that turns with the neck."""
    skin = np.setdiff1d(np.arange(len(surface.faces)), eyeballs)
    picks = landmark_picks(surface, skin)
    faces, weights = contour_table(surface, skin)
    return {
        "lmk_faces_idx": np.array([face for face, _ in picks], np.int64),
        "lmk_bary_coords": np.array([share for _, share in picks], np.float32),
        "dynamic_lmk_faces_idx": faces,
        "dynamic_lmk_bary_coords": weights.astype(np.float32),
    }


def to_arrays(points: dict[str, Point | None]) -> tuple[np.ndarray, np.ndarray]:
    """A format -> names (K,), entries (T, 3) float32: keypoint, vertex, weight. A missing point has no entry."""
    names = np.array(list(points))
    entries = [(k, v, weight) for k, point in enumerate(points.values()) for v, weight in (point or {}).items()]
    return names, np.array(entries, np.float32).reshape(-1, 3)


# ----------------------------------------------------------------------------- hair on the face


def polyline_distance(points: np.ndarray, curve: Curve) -> np.ndarray:
    """Distance of 2D points (N, 2) from a polyline, same unit: (N,)."""
    corners = np.array(curve, dtype=float)
    start, step = corners[:-1], np.diff(corners, axis=0)
    share = ((points[:, None] - start) * step).sum(-1) / (step**2).sum(-1)
    nearest = start + share.clip(0, 1)[..., None] * step  # (N, segments, 2)
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(1)


def polygon_distance(points: np.ndarray, polygon: Curve) -> np.ndarray:
    """Signed distance from a closed polygon, positive inside: (N, 2) -> (N,)."""
    from matplotlib.path import Path

    closed = [*polygon, polygon[0]]
    inside = Path(np.array(closed, dtype=float)).contains_points(points)
    return np.where(inside, 1, -1) * polyline_distance(points, closed)


def hairline_distance(mm: np.ndarray) -> np.ndarray:
    """mm (N, 3) from the nose -> mm inside (+) or outside (-) of the scalp, judged in the side view."""
    over_the_head = [(-260, 250), (60, 250)]
    return polygon_distance(mm[:, [2, 1]], HAIRLINE + over_the_head)


def beard_distance(mm: np.ndarray) -> np.ndarray:
    """mm (N, 3) from the nose -> mm inside (+) or outside (-) of moustache and beard, judged in the side view."""
    return polygon_distance(mm[:, [2, 1]], BEARD)


def brow_level(mm: np.ndarray) -> np.ndarray:
    """mm (N, 3) from the nose -> 1 on the middle line of a brow, 0.5 on its border, 0 twice as far (front view)."""
    fold = np.stack([np.abs(mm[:, 0]), mm[:, 1]], 1)
    half = np.interp(fold[:, 0], [p[0] for p in BROW], BROW_HALF_THICKNESS)
    return (1 - polyline_distance(fold, BROW) / (2 * half)).clip(0, 1)

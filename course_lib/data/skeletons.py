"""Skeleton formats of pose data sets, modelled on real ones: the same person, other joints (chapters 11 and 12).

A format is a list of joints and a row of habits. Every joint is an affine combination of the open body's skin: a spot
on the rest body, moved by the format's habit, then written as a few vertices around it whose weights sum to one. Counts
are those of real data sets; the habits are this course's own numbers, of the size that real formats differ by.
Joint names are short: `lsho` is a left shoulder, `lsho_h36m` the one of a format. l and r begin the names of pairs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from course_lib.chapters.bodies import JOINT_NAMES, BodyModel
from course_lib.chapters.cameras import axis_angle_to_matrix, matrix_to_axis_angle
from course_lib.data.keypoints import Regressor
from course_lib.data.person import load_body
from course_lib.data.poses import sample_pose
from course_lib.paths import OPEN_BODY
from course_lib.threads import one_thread

MILLIMETRE = 1e-3

# Where a landmark is on the rest body (T-pose, facing +z): a joint of SMPL-X, and outward, up, forward in millimetres.
# Only left and centre: the right side is the mirror image.
SPOTS = {
    "pelv": ("pelvis", 0, 15, 0), "bell": ("spine1", 0, 10, 15), "spin": ("spine2", 0, 0, 10),
    "thor": ("spine3", 0, 25, 10), "neck": ("neck", 0, -40, -5), "head": ("head", 0, 50, 20),
    "htop": ("head", 0, 150, -5), "nose": ("head", 0, 18, 108), "jaww": ("jaw", 0, -5, 15),
    "spi0": ("neck", 0, -70, -10), "spi1": ("spine1", 0, -20, 10), "spi2": ("spine1", 0, 75, 10),
    "spi3": ("spine2", 0, 70, 5), "spi4": ("spine3", 0, 70, 10),
    "lhip": ("left_hip", 0, 0, 0), "lkne": ("left_knee", 0, 0, 0), "lank": ("left_ankle", 0, 0, 0),
    "lfoo": ("left_ankle", 5, -30, 60), "ltoe": ("left_foot", 0, 0, 0), "ltip": ("left_foot", 5, -5, 55),
    "lhee": ("left_ankle", 0, -60, -45), "lbto": ("left_foot", -20, 0, 45), "lsto": ("left_foot", 35, -5, 15),
    "lcla": ("left_collar", 60, 10, 0), "lsho": ("left_shoulder", 0, 0, 0), "lelb": ("left_elbow", 0, 0, 0),
    "lwri": ("left_wrist", 0, 0, 0), "lhan": ("left_wrist", 90, -4, 5), "ltih": ("left_middle3", 10, 0, 0),
    "lthu": ("left_thumb3", 10, -8, 10), "lind": ("left_index3", 12, 0, 2), "lmid": ("left_middle3", 12, 0, 0),
    "lpin": ("left_pinky3", 10, 0, -4), "leye": ("left_eye_smplhf", 0, 0, 0), "lear": ("head", 72, 20, 10),
}  # fmt: skip

# Markers are stuck on the skin, at the vertex nearest to such a place.
MARKERS = {
    "fhdm": ("head", 0, 100, 120), "bhdm": ("head", 0, 90, -120), "lfhm": ("head", 70, 90, 90),
    "lbhm": ("head", 75, 90, -70), "lthm": ("head", 110, 60, 0), "c7mm": ("neck", 0, -20, -100),
    "t10m": ("spine2", 0, 20, -150), "t12m": ("spine2", 0, -80, -150), "clvm": ("neck", 0, -90, 100),
    "strm": ("spine3", 0, -20, 170), "belm": ("spine1", 0, 10, 170), "sacm": ("pelvis", 0, 40, -170),
    "lasi": ("left_hip", 0, 70, 130), "lpsi": ("left_hip", -60, 70, -150), "licm": ("left_hip", 80, 110, 20),
    "lgtm": ("left_hip", 110, -20, 0), "lrbm": ("spine2", 140, -30, 90), "lscm": ("spine3", 90, 40, -150),
    "lacm": ("left_shoulder", 0, 90, 0), "lfsm": ("left_shoulder", -10, 0, 100), "lbsm": ("left_shoulder", 0, 0, -100),
    "lupm": ("left_shoulder", 130, 30, -60), "lupf": ("left_shoulder", 150, 20, 70), "leom": ("left_elbow", 0, 20, -70),
    "leim": ("left_elbow", 0, -20, 70), "lfam": ("left_elbow", 110, 50, -20), "lfai": ("left_elbow", 120, -50, 20),
    "lwom": ("left_wrist", 0, 10, -60), "lwim": ("left_wrist", 0, 10, 60), "lhnm": ("left_wrist", 70, 50, 10),
    "lfim": ("left_index1", 10, 40, 10), "lhpm": ("left_pinky1", 10, 40, -10), "lthi": ("left_knee", 80, 250, 30),
    "lthf": ("left_knee", 0, 200, 120), "lthb": ("left_knee", 0, 200, -120), "lkom": ("left_knee", 100, 0, 0),
    "lkim": ("left_knee", -90, 0, 0), "lkfm": ("left_knee", 0, 10, 100), "lshm": ("left_ankle", 0, 300, 90),
    "lshb": ("left_ankle", 0, 300, -100), "laom": ("left_ankle", 80, 0, 0), "laim": ("left_ankle", -70, 0, 0),
    "lhem": ("left_ankle", 0, -50, -110), "lmt1": ("left_foot", -60, 10, 10), "lmt5": ("left_foot", 80, 0, -20),
    "ltom": ("left_foot", -10, 10, 110),
}  # fmt: skip

# The habits: how far each format's joints lie from the landmark; outward, up, forward in millimetres. `others`
# holds for every joint that has no column. Markers stand on the skin by `over_skin`.
HABITS = """
format   hip          kne         ank         sho         elb         wri         neck        pelv        head        htop        others      over_skin
smpl     -45,-25,5    -6,-8,-4    -4,6,-14    -18,-10,-8  -6,2,-8     -4,2,-4     0,-5,-14    0,30,4      0,-25,-15   0,-20,0     0,0,-4      0
h36m     18,14,-4     8,14,12     6,18,8      -30,16,4    -14,6,4     -16,0,4     0,-30,8     0,14,-8     0,-20,70    0,12,10     0,8,6       0
coco     4,24,34      -2,8,26     8,6,12      2,12,20     4,-10,-14   10,6,10     0,-36,34    0,28,30     0,0,20      0,0,0       0,4,4       0
3dhp     -18,-32,-12  -10,-14,10  -6,-12,4    14,-6,-20   14,-4,6     14,-8,-6    0,18,-6     0,-26,-14   0,10,-12    0,36,-4     6,-8,-8     0
smplx    -34,-6,18    4,-22,4     4,-8,-20    -8,-22,6    6,10,8      4,12,4      0,8,6       0,6,22      0,-8,4      0,-6,8      0,-6,4      0
ghum     -8,6,-22     12,0,-16    -10,22,-4   12,8,-2     -18,-10,2   20,2,-8     0,-16,-20   0,-6,-24    0,18,8      0,10,-12    -6,4,-6     0
movi     -24,18,-6    -12,18,-4   -8,-4,-26   -6,-4,-22   20,-2,-10   -20,-8,2    0,28,4      0,44,-12    0,26,-4     0,-28,6     4,10,0      10
bmhad    0,0,0        0,0,0       0,0,0       0,0,0       0,0,0       0,0,0       0,0,0       0,0,0       0,0,0       0,0,0       9,-30,14    14
umpm     26,-14,10    16,-10,-2   14,4,-8     -24,26,-6   0,14,4      -8,10,-10   0,-52,10    0,40,24     0,40,0      0,0,0       0,12,-10    0
totcap   -30,32,-18   -4,26,-10   -14,10,6    -36,-8,2    -10,-12,-8  6,-12,-2    0,6,20      0,62,-10    0,-40,10    0,0,0       0,-14,8     0
aspset   10,-28,20    6,4,20      12,-10,10   6,26,8      8,2,18      -2,-4,14    0,-24,-6    0,-14,12    0,34,22     0,24,14     6,0,10      0
jta      -6,-16,30    -14,2,14    0,-16,-6    24,-14,10   -2,-14,6    12,14,-14   0,36,14     0,20,34     0,-14,34    0,-14,-16   -4,14,8     0
3doh     32,4,12      18,6,4      -12,-2,14   -2,34,-4    12,12,-14   -12,14,6    0,-44,-10   0,0,0       0,0,0       0,44,10     0,0,0       0
mads     6,36,-26     -16,-6,-14  10,26,-6    20,20,14    -20,2,12    0,-16,8     0,-10,30    0,-36,10    0,4,44      0,0,0       8,-4,0      0
ikea     14,34,16     2,-4,34     18,8,2      10,-2,30    -4,-16,2    -6,-12,-14  0,0,0       0,0,0       0,0,0       0,0,0       0,-6,14     0
"""  # noqa: E501


def sides(names: str) -> list[str]:
    """`"hip kne"` -> lhip, lkne, rhip, rkne."""
    return [side + name for side in "lr" for name in names.split()]


LIMBS = sides("sho elb wri hip kne ank")
CENTRE_MARKERS = "fhdm bhdm c7mm t10m t12m clvm strm belm sacm".split()
MOVI_PAIRS = "fhm bhm asi psi icm gtm rbm scm acm fsm upm eom eim fam wom "
MOVI_PAIRS += "wim hnm fim hpm thi thf kom kim shm aom aim hem mt1 mt5"
BERKELEY_PAIRS = "thm asi psi acm bsm upf eom fai wom hnm thb kom kfm shb aom hem tom"
BODY22 = [*"pelv bell spin thor neck head".split(), *LIMBS, *sides("toe cla")]
JOINTS = {
    "smpl": [*BODY22, *sides("han")],
    "h36m": ["pelv", "spin", "neck", "head", "htop", *LIMBS, *sides("toe tip thu tih")],
    "coco": ["neck", "nose", "pelv", *LIMBS, *sides("eye ear")],
    "3dhp": [*"pelv spin spi2 spi3 spi4 neck head htop".split(), *LIMBS, *sides("cla han foo toe")],
    "smplx": [*BODY22, "jaww", "nose", *sides("eye ear bto sto hee thu ind mid pin")],
    "ghum": [*BODY22, "nose", "jaww", "htop", *sides("han thu ind eye hee")],
    "movi": [*"pelv spin thor neck head htop".split(), *LIMBS, *sides("toe"), *CENTRE_MARKERS, *sides(MOVI_PAIRS)],
    "bmhad": [*CENTRE_MARKERS, *sides(BERKELEY_PAIRS)],
    "umpm": ["pelv", "neck", "head", *LIMBS],
    "totcap": [*"pelv spin spi2 spi3 spi4 neck head".split(), *LIMBS, *sides("cla")],
    "aspset": [*"pelv spin neck head htop".split(), *LIMBS],
    "jta": [*"spi0 spi1 spi2 spi3 spi4 neck head htop".split(), *LIMBS, *sides("cla")],
    "3doh": ["neck", "htop", *LIMBS],
    "mads": ["pelv", "neck", "head", *LIMBS, *sides("han foo")],
    "ikea": ["nose", *LIMBS, *sides("eye ear")],
}

TITLES = {
    "smpl": "SMPL, 24", "h36m": "Human3.6M, 25", "coco": "COCO with neck and pelvis (Panoptic), 19",
    "3dhp": "MPI-INF-3DHP, 28", "smplx": "SMPL-X, 42", "ghum": "GHUM, 35", "movi": "BML-MoVi, 20 joints, 67 markers",
    "bmhad": "Berkeley-MHAD, 43 markers", "umpm": "UMPM, 15", "totcap": "TotalCapture, 21", "aspset": "ASPset, 17",
    "jta": "JTA, 22", "3doh": "3DOH (LSP), 14", "mads": "MADS, 19", "ikea": "IKEA ASM (COCO), 17",
}  # fmt: skip
SUBSETS = {  # formats that are part of another one: nothing new to predict
    "h36m17": ("h36m", ("pelv", "spin", "neck", "head", "htop", *LIMBS)),
    "coco17": ("coco", ("nose", *sides("eye ear"), *LIMBS)),
}
BONES = """
pelv-bell bell-spin pelv-spi1 spi1-spi2 spi2-spin spin-spi3 spi3-thor spin-spi4 spi3-spi4 spin-thor thor-neck spi4-neck
spin-neck pelv-neck spi0-neck neck-head head-htop neck-htop neck-nose head-nose head-jaww nose-leye leye-lear
thor-lcla neck-lcla lcla-lsho neck-lsho lsho-lelb lelb-lwri lwri-lhan lwri-lthu lwri-lind lwri-lmid lwri-lpin lwri-ltih
pelv-lhip neck-lhip lhip-lkne lkne-lank lank-lfoo lank-ltoe lfoo-ltoe ltoe-ltip lank-lhee ltoe-lbto ltoe-lsto
"""


@dataclass(frozen=True)
class SkeletonFormat:
    """One format: its joints by short names, bones as pairs of their indices (none among markers), and its habits:
    (outward, up, forward) metres by name without side, "others" for all that have none of their own.

    over_skin: metres by which markers stand over the skin."""

    name: str
    title: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    habits: dict[str, tuple[float, float, float]]
    over_skin: float

    def habit(self, joint: str) -> np.ndarray:
        """(3,) metres on the body's left side: outward, up, forward."""
        return np.array(self.habits.get(unsided(joint), self.habits["others"]))


def side_of(joint: str) -> str:
    """`"l"`, `"r"`, or `""` for a joint in the middle."""
    return joint[0] if joint[0] in "lr" else ""


def unsided(joint: str) -> str:
    """`lsho` -> sho, `neck` -> neck."""
    return joint[len(side_of(joint)) :]


def mirrored(joint: str) -> str:
    """The name of the other side's joint: `lsho_h36m` -> rsho_h36m, `neck` -> neck."""
    return {"l": "r", "r": "l", "": joint[0]}[side_of(joint)] + joint[1:]


def left_of(joint: str) -> str:
    """The name of the left one of a pair, of a joint in the middle its own."""
    return mirrored(joint) if side_of(joint) == "r" else joint


def bones(joints: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Which of the joints are joined by a bone, as pairs of indices; a bone that skips a joint gives way to those
    that don't."""
    left = [tuple(bone.split("-")) for bone in BONES.split()]
    both = dict.fromkeys(left + [(mirrored(a), mirrored(b)) for a, b in left])
    known = [(a, b) for a, b in both if a in joints and b in joints]
    first = {}  # the first bone towards a joint is the shortest one
    for a, b in known:
        first.setdefault(b, a)
    return tuple((joints.index(a), joints.index(b)) for b, a in first.items())


def read_habits() -> dict[str, dict[str, tuple[float, ...]]]:
    """HABITS in metres: format -> column -> (3,) or, over_skin, (1,)."""
    head, *rows = (line.split() for line in HABITS.strip().splitlines())
    metres = [[tuple(MILLIMETRE * float(v) for v in cell.split(",")) for cell in row[1:]] for row in rows]
    return {row[0]: dict(zip(head[1:], cells, strict=True)) for row, cells in zip(rows, metres, strict=True)}


def build_formats() -> dict[str, SkeletonFormat]:
    """Every format of HABITS."""
    formats = {}
    for name, habits in read_habits().items():
        joints, (over_skin,) = tuple(JOINTS[name]), habits.pop("over_skin")
        formats[name] = SkeletonFormat(name, TITLES[name], joints, bones(joints), habits, over_skin)
    return formats


FORMATS: dict[str, SkeletonFormat] = build_formats()


# ------------------------------------------------------------------------------------------------- names
def chosen(formats: tuple[str, ...]) -> list[SkeletonFormat]:
    """The formats; ValueError for an unknown name, a repeated one, or none."""
    formats = tuple(formats)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"unknown skeleton format {', '.join(map(repr, unknown))}: use some of {', '.join(FORMATS)}")
    if not formats or len(set(formats)) < len(formats):
        raise ValueError(f"formats {formats} are none or repeat: name each once")
    return [FORMATS[name] for name in formats]


def joint_names(formats: tuple[str, ...] = tuple(FORMATS)) -> tuple[str, ...]:
    """The union's joints in order, as `lsho_h36m`."""
    return tuple(f"{joint}_{one.name}" for one in chosen(formats) for joint in one.joints)


def base_name(name: str) -> str:
    """`lsho_h36m` -> lsho."""
    return name.partition("_")[0]


def columns(formats: tuple[str, ...], one: str) -> slice:
    """Where a format's joints stand in the union of `formats`."""
    start = 0
    for known in chosen(formats):
        if known.name == one:
            return slice(start, start + len(known.joints))
        start += len(known.joints)
    raise ValueError(f"{one!r} is none of {', '.join(formats)}")


def subset_columns(formats: tuple[str, ...], subset: str) -> list[int]:
    """Where the joints of one of SUBSETS, such as `h36m17`, stand in the union of `formats`."""
    one, joints = SUBSETS[subset]
    start = columns(formats, one).start
    return [start + FORMATS[one].joints.index(joint) for joint in joints]


def mirror_permutation(names: tuple[str, ...]) -> Tensor:
    """For each name the index of its mirror image, (J,) int64; ValueError where a joint has no partner."""
    place = {name: i for i, name in enumerate(names)}
    if alone := [name for name in names if mirrored(name) not in place]:
        raise ValueError(f"{', '.join(alone[:4])} has no partner on the other side: give both, or neither")
    return torch.tensor([place[mirrored(name)] for name in names])


# ------------------------------------------------------------------------------------------------- regressors
BLOCK = 64  # people that are posed at once
FARTHEST = 0.25  # metres from a joint to the vertices that it is made of
CUBE = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)
DIRECTIONS = CUBE[np.abs(CUBE).sum(1) % 2 == 1]  # to the 6 faces and the 8 corners of a cube
DIRECTIONS = DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


class Rest:
    """The open body at rest: vertices (V, 3) and joints (55, 3) in metres, and which vertices are skin."""

    def __init__(self):
        body = load_body(OPEN_BODY)
        self.vertices = body.model.template.double().numpy()
        self.joints = body.rest_joints.double().numpy()
        self.skin = np.unique(body.pack["faces_body"])
        self.tree = cKDTree(self.vertices[self.skin])

    def spot(self, joint: str, table: dict, shift: np.ndarray) -> np.ndarray:
        """Where a table, and a format's shift (3,), put a joint: (3,) metres."""
        anchor, *offset = table[left_of(joint)]
        place = self.joints[JOINT_NAMES.index(anchor)] + MILLIMETRE * np.array(offset) + shift
        return place * (-1, 1, 1) if side_of(joint) == "r" else place

    def on_skin(self, place: np.ndarray, over: float) -> np.ndarray:
        """The skin's nearest vertex to `place`, moved towards it by `over` metres."""
        nearest = self.vertices[self.skin[self.tree.query(place)[1]]]
        return nearest + over * (place - nearest) / max(np.linalg.norm(place - nearest), 1e-9)

    def around(self, place: np.ndarray, side: str) -> np.ndarray:
        """Skin vertices around a place, for each of DIRECTIONS the one that lies most that way, and not too far off."""
        near = self.skin[self.tree.query_ball_point(place, FARTHEST)]
        if side:
            near = near[self.vertices[near, 0] * (1 if side == "l" else -1) > 0]
        gap = self.vertices[near] - place
        length = np.linalg.norm(gap, axis=1, keepdims=True).clip(1e-6)
        score = (gap / length) @ DIRECTIONS.T - length / (8 * max(length.min(), 0.04))
        return np.unique(near[score.argmax(0)])


def affine_weights(points: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The smallest weights (N,) with sum 1 by which points (N, 3) make `place` (3,)."""
    system = np.vstack([points.T - place[:, None], np.ones(len(points))])
    return np.linalg.lstsq(system, np.array([0.0, 0.0, 0.0, 1.0]), rcond=None)[0]


@lru_cache(maxsize=1)
def rest() -> Rest:
    return Rest()


@lru_cache(maxsize=64)
def format_entries(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A format's regressor as entries: row (E,), vertex (E,), weight (E,) float64."""
    one, body, entries = FORMATS[name], rest(), []
    for row, joint in enumerate(one.joints):
        marker = left_of(joint) in MARKERS
        place = body.spot(joint, MARKERS if marker else SPOTS, one.habit(joint))
        place = body.on_skin(place, one.over_skin) if marker else place
        vertices = body.around(place, side_of(joint))
        weights = affine_weights(body.vertices[vertices], place)
        entries.append((np.full(len(vertices), row), vertices, weights))
    row, vertex, weight = (torch.from_numpy(np.concatenate(part)) for part in zip(*entries, strict=True))
    return row, vertex, weight / torch.zeros(len(one.joints), dtype=torch.float64).index_add(0, row, weight)[row]


def entries(formats: tuple[str, ...]) -> Regressor:
    """The union's regressor as entries, weights in float64; rows sum to one."""
    parts = [format_entries(one.name) for one in chosen(formats)]
    starts = [columns(formats, one.name).start for one in chosen(formats)]
    rows = torch.cat([row + start for (row, _, _), start in zip(parts, starts, strict=True)])
    return Regressor(rows, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts]))


def regressor(formats: tuple[str, ...] = tuple(FORMATS)) -> Tensor:
    """The matrix (J, V) float64 that makes the union's joints of the open body's vertices; rows sum to one."""
    row, vertex, weight = entries(formats)
    matrix = torch.zeros(len(joint_names(formats)), len(rest().vertices), dtype=torch.float64)
    return matrix.index_put((row, vertex), weight, accumulate=True)


def skeleton_points(vertices: Tensor, formats: tuple[str, ...] = tuple(FORMATS)) -> Tensor:
    """Vertices (B, V, 3) of the open body -> the union's joints (B, J, 3) in the same space, float64."""
    if vertices.ndim != 3 or vertices.shape[1:] != rest().vertices.shape:
        raise ValueError(f"vertices are {tuple(vertices.shape)}, the open body has (B, {len(rest().vertices)}, 3)")
    return entries(formats).points(vertices, len(joint_names(formats)))


# ------------------------------------------------------------------------------------------------- people
@lru_cache(maxsize=8)
def part_of_body(formats: tuple[str, ...]) -> tuple[BodyModel, Tensor]:
    """A body model of only those vertices that the formats and the joints need, and the regressor (J, U) on them."""
    whole = load_body(OPEN_BODY).model
    row, vertex, weight = entries(formats)
    used = torch.cat([vertex, whole.joint_regressor.any(0).nonzero()[:, 0]]).unique()
    arrays = {
        "v_template": whole.template[used],
        "shapedirs": torch.cat([whole.shape_directions, whole.expression_directions], -1)[used],
        "posedirs": whole.pose_directions[used],
        "J_regressor": whole.joint_regressor[:, used],
        "weights": whole.weights[used],
        "f": torch.zeros(1, 3, dtype=torch.int64),
    }
    parents = torch.stack([whole.parents.clamp(min=0), torch.arange(len(whole.parents))])
    arrays = {key: values.numpy() for key, values in (arrays | {"kintree_table": parents}).items()}
    matrix = torch.zeros(len(joint_names(formats)), len(used), dtype=torch.float64)
    return BodyModel(arrays), matrix.index_put((row, torch.searchsorted(used, vertex)), weight, accumulate=True)


def sample_people(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
    """Random people: betas (N, 10), and pose (N, 55, 3) axis-angle whose root turns them any way, y still up."""
    betas = (0.9 * rng.normal(size=(count, 10))).clip(-1.9, 1.9)
    pose = torch.from_numpy(np.stack([sample_pose(rng) for _ in range(count)]))
    heading = torch.zeros(count, 3)
    heading[:, 1] = torch.from_numpy(rng.uniform(-np.pi, np.pi, count))
    pose[:, 0] = matrix_to_axis_angle(axis_angle_to_matrix(heading) @ axis_angle_to_matrix(pose[:, 0]))
    return {"betas": torch.from_numpy(betas).float(), "pose": pose.float()}


def sample_cameras(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Rotations (N, 3, 3) and translations (N, 3) from the body's space to a camera's (OpenCV axes): 2 to 7 m away, up
    to 25 degrees from above or 10 from below, up to 5 tilted, the pelvis in the middle half of a 60 degree picture."""
    turn = np.stack([rng.uniform(-0.17, 0.44, count), np.zeros(count), rng.uniform(-0.09, 0.09, count)], 1)
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))  # y down, z forward
    R = axis_angle_to_matrix(torch.from_numpy(turn)) @ upright
    distance = rng.uniform(2, 7, (count, 1))
    aside = rng.uniform(-0.29, 0.29, (count, 2)) * distance
    return R, torch.from_numpy(np.concatenate([aside, distance], 1))


@one_thread()
@torch.no_grad()
def sample_poses(count: int, formats: tuple[str, ...] = tuple(FORMATS), seed: int = 0) -> Tensor:
    """Random people in random poses before random cameras: the union's joints (N, J, 3) float64, metres in camera
    space.

    The same seed gives the same poses; the first of many are those of few."""
    if count < 1:
        raise ValueError(f"count is {count}: ask for 1 pose or more")
    body, matrix = part_of_body(tuple(formats))
    found = []
    for block in range(-(-count // BLOCK)):
        rng = np.random.default_rng([seed, block])
        people, (R, t) = sample_people(rng, BLOCK), sample_cameras(rng, BLOCK)
        joints = matrix @ body(**people).vertices.double()  # (BLOCK, J, 3)
        found.append(joints @ R.mT + t[:, None])
    return torch.cat(found)[:count]

"""Poses of a whole body, sampled from key poses, joint limits and a self-contact test.

A pose is (55, 3) float32 axis-angle radians in SMPL-X order, row 0 the body's own lean (no heading). The tables are
Euler degrees (x, y, z) of the *left* side in SMPL's axes (x to the body's left, y up, z forward), composed
R = Ry Rz Rx. For an arm x is the twist, z raises, y swings it forward (negative) or back; for a leg x flexes
(negative = forward), y turns the toes out, z spreads. The right side is the mirror image: y and z change sign.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from course_lib.chapters.bodies import JOINT_NAMES, BodyModel
from course_lib.data.person import chain, load_body

INDEX = {name: i for i, name in enumerate(JOINT_NAMES)}
LEFT = [i for i, name in enumerate(JOINT_NAMES) if name.startswith("left_")]
RIGHT = [INDEX[JOINT_NAMES[i].replace("left_", "right_")] for i in LEFT]

# lowest and highest x, y, z in degrees. An elbow twists little (more is the candy wrapper): that is the shoulder's.
LIMITS = {
    "pelvis": ((-95, 95), (-180, 180), (-50, 50)),
    "left_hip": ((-125, 40), (-35, 50), (-20, 55)),
    "left_knee": ((0, 130), (-5, 5), (-3, 3)),
    "left_ankle": ((-28, 45), (-20, 20), (-18, 18)),
    "left_foot": ((-35, 10), (-3, 3), (-3, 3)),
    "spine1": ((-12, 30), (-15, 15), (-12, 12)),
    "spine2": ((-12, 28), (-15, 15), (-12, 12)),
    "spine3": ((-10, 22), (-15, 15), (-10, 10)),
    "neck": ((-25, 30), (-35, 35), (-18, 18)),
    "head": ((-22, 25), (-35, 35), (-16, 16)),
    "left_collar": ((-8, 8), (-20, 15), (-8, 28)),
    "left_shoulder": ((-115, 90), (-115, 60), (-82, 78)),
    "left_elbow": ((-40, 40), (-140, 2), (-6, 6)),
    "left_wrist": ((-60, 60), (-22, 22), (-50, 50)),
    "jaw": ((0, 20), (-3, 3), (-2, 2)),
    "left_eye_smplhf": ((-20, 20), (-28, 28), (-2, 2)),
}
FINGER_LIMITS = ((-12, 12), (-18, 18), (-88, 12))  # z stays below 90: there Euler angles are not unique
THUMB_LIMITS = ((-45, 45), (-55, 35), (-50, 25))

# collar, shoulder, elbow, wrist
ARMS = {
    "relaxed": ((0, 0, -4), (-5, -8, -74), (0, -18, 0), (0, 0, 0)),
    "slightly_out": ((0, 0, -2), (-5, -12, -62), (0, -25, 0), (0, 0, 0)),
    "swing_forward": ((0, -4, 0), (-45, -50, -66), (0, -30, 0), (0, 0, 0)),
    "swing_back": ((0, 6, 0), (40, 42, -68), (0, -18, 0), (0, 0, 0)),
    "on_hip": ((0, 0, 2), (62, 22, -42), (0, -92, 0), (0, 0, -25)),
    "across": ((0, -8, 0), (-18, -52, -56), (0, -88, 0), (0, 0, 0)),
    "side": ((0, 0, 6), (-10, -5, -6), (0, -8, 0), (0, 0, 0)),
    "forward": ((0, -10, 4), (-65, -84, -8), (0, -12, 0), (0, 0, 0)),
    "forward_up": ((0, -8, 14), (-80, -70, 35), (0, -18, 0), (0, 0, 0)),
    "up": ((0, 0, 22), (-65, -28, 68), (0, -18, 0), (0, 0, 0)),
    "wave": ((0, 0, 10), (-88, -22, -6), (0, -80, 0), (0, 0, 8)),
    "phone": ((0, -4, 4), (-72, -48, -42), (0, -128, 0), (0, 0, -12)),
    "point": ((0, -8, 4), (-60, -65, 4), (0, -8, 0), (0, 0, 0)),
    "reach_down": ((0, -10, 0), (-75, -78, -48), (0, -12, 0), (0, 0, 0)),
    "hold": ((0, -4, 0), (-70, -50, -62), (0, -78, 0), (0, 0, 0)),
    "behind_head": ((0, 4, 16), (-98, -22, 32), (0, -122, 0), (0, 0, 0)),
    "chin": ((0, -8, 2), (-58, -62, -46), (0, -118, 0), (0, 0, -10)),
    "run_forward": ((0, -4, 0), (-55, -55, -62), (0, -88, 0), (0, 0, 0)),
    "run_back": ((0, 8, 0), (45, 50, -62), (0, -80, 0), (0, 0, 0)),
    "shake": ((0, -6, 0), (-75, -85, -66), (0, -58, 0), (60, 0, 0)),
    "around": ((0, 4, 4), (-5, 14, 0), (0, -25, 0), (0, 0, -15)),
    "on_thigh": ((0, -4, -2), (-42, -44, -60), (0, -38, 0), (0, 0, 10)),
}
EVERYDAY_ARMS = (
    "relaxed",
    "relaxed",
    "slightly_out",
    "on_hip",
    "across",
    "hold",
    "wave",
    "phone",
    "point",
    "chin",
    "side",
)
ALL_ARMS = tuple(name for name in ARMS if name not in ("shake", "around"))

# hip, knee; whether the sole is flat on the floor (then the ankle is what makes it so)
LEGS = {
    "stand": ((0, 6, 4), (4, 0, 0), True),
    "ease": ((-12, 14, 8), (18, 0, 0), True),
    "wide": ((0, 12, 17), (4, 0, 0), True),
    "step_forward": ((-28, 3, 2), (10, 0, 0), True),
    "step_back": ((18, 4, 2), (22, 0, 0), False),
    "lunge_front": ((-78, 6, 6), (82, 0, 0), True),
    "lunge_back": ((18, 2, 3), (38, 0, 0), False),
    "raised": ((-72, 8, 6), (82, 0, 0), False),
    "kick": ((-62, 5, 6), (18, 0, 0), False),
    "side_kick": ((-5, 8, 42), (12, 0, 0), False),
    "heel_up": ((8, 3, 2), (92, 0, 0), False),
    "sit": ((-84, 10, 8), (84, 0, 0), True),
    "sit_forward": ((-71, 8, 6), (50, 0, 0), True),
    "squat": ((-108, 22, 18), (118, 0, 0), True),
    "bend": ((-48, 6, 6), (52, 0, 0), True),
    "kneel": ((2, 3, 5), (92, 0, 0), False),
    "tuck": ((-70, 8, 8), (95, 0, 0), False),
    "straight_down": ((8, 3, 4), (8, 0, 0), False),
}


@dataclass(frozen=True)
class Family:
    """One kind of pose: which legs go together (left, right), lean of pelvis and spine in degrees, which arms."""

    legs: tuple[tuple[str, str], ...]
    lean: tuple[float, float] = (-4, 6)
    spine: tuple[float, float] = (-4, 8)
    arms: tuple[str, ...] = EVERYDAY_ARMS
    upright: bool = True  # legs as the table says, however the pelvis leans; False: they go with the pelvis
    flight: tuple[float, float] = (0.0, 0.0)  # metres over the floor


FAMILIES = {
    "standing": Family((("stand", "stand"), ("stand", "ease"), ("wide", "wide"), ("wide", "ease"))),
    "walking": Family((("step_forward", "step_back"),), (0, 6), arms=("swing_forward", "swing_back")),
    "running": Family((("raised", "heel_up"), ("raised", "lunge_back")), (8, 18), arms=("run_forward", "run_back")),
    "reaching": Family((("stand", "stand"), ("wide", "ease"), ("bend", "bend")), (0, 15), (-6, 16), ALL_ARMS),
    "lunging": Family((("lunge_front", "lunge_back"),), (0, 12), arms=ALL_ARMS),
    "bending": Family((("bend", "bend"), ("ease", "bend")), (22, 38), (8, 20), ("reach_down", "on_thigh", "forward")),
    "crouching": Family((("squat", "squat"),), (10, 24), (3, 11), ("hold", "forward", "across", "on_thigh", "chin")),
    "kneeling": Family((("kneel", "kneel"), ("lunge_front", "kneel")), (-3, 5), arms=EVERYDAY_ARMS),
    "kicking": Family((("kick", "stand"), ("side_kick", "ease"), ("raised", "stand")), (-8, 4), (-4, 8), ALL_ARMS),
    "jumping": Family(
        (("tuck", "tuck"), ("straight_down",) * 2, ("kick", "heel_up"), ("wide", "wide")),
        (-5, 12),
        arms=ALL_ARMS,
        upright=False,
        flight=(0.05, 0.4),
    ),
    "sitting": Family(
        (("sit", "sit"), ("sit_forward", "sit"), ("sit_forward",) * 2),
        (-8, 6),
        (0, 14),
        EVERYDAY_ARMS + ("on_thigh",) * 6,
    ),
    "lying": Family(
        (("stand", "ease"), ("ease", "ease"), ("straight_down",) * 2),
        (-90, -88),
        (-2, 4),
        ("slightly_out", "side", "up", "behind_head"),
        upright=False,
    ),
}
SHARES = {
    "standing": 24, "walking": 14, "running": 6, "reaching": 12, "lunging": 5, "bending": 5, "crouching": 5,
    "kneeling": 4, "kicking": 5, "jumping": 5, "sitting": 13, "lying": 2,
}  # fmt: skip

# bend of the first, second and third joint of a finger in degrees; index, middle, pinky, ring, then the thumb
HANDS = {
    "relaxed": (((14, 22, 14),) * 4, (8, 8, 8)),
    "flat": (((0, 2, 2),) * 4, (0, 0, 0)),
    "cupped": (((30, 34, 22),) * 4, (18, 12, 12)),
    "fist": (((72, 86, 52),) * 4, (34, 26, 30)),
    "pointing": (((2, 4, 2), (66, 84, 50), (68, 84, 50), (68, 84, 50)), (34, 24, 24)),
    "two": (((2, 4, 2), (2, 4, 2), (68, 84, 50), (68, 84, 50)), (34, 26, 26)),
}


def mirror_euler(euler: np.ndarray) -> np.ndarray:
    """(55, 3) Euler degrees -> the mirror image: left and right swap, y and z change sign."""
    mirrored = euler.copy()
    mirrored[LEFT], mirrored[RIGHT] = euler[RIGHT], euler[LEFT]
    return mirrored * (1, -1, -1)


def mirror_pose(pose: np.ndarray) -> np.ndarray:
    """(..., 55, 3) axis-angle -> the mirror image of the pose (an axis-angle vector mirrors as its Euler angles do)."""
    mirrored = pose.copy()
    mirrored[..., LEFT, :], mirrored[..., RIGHT, :] = pose[..., RIGHT, :], pose[..., LEFT, :]
    return mirrored * np.array([1, -1, -1], dtype=pose.dtype)


@lru_cache(maxsize=1)
def limits() -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest Euler degrees, (55, 3) each."""
    low, high = np.zeros((55, 3)), np.zeros((55, 3))
    for i, name in enumerate(JOINT_NAMES):
        left = name.replace("right_", "left_")
        finger = THUMB_LIMITS if "thumb" in left else FINGER_LIMITS
        low[i], high[i] = np.array(LIMITS.get(left, finger)).T
    low[RIGHT], high[RIGHT] = mirror_limits(low[LEFT], high[LEFT])
    return low, high


def mirror_limits(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The range [low, high] after y and z changed sign: [-high, -low] there."""
    return np.stack([low[:, 0], -high[:, 1], -high[:, 2]], 1), np.stack([high[:, 0], -low[:, 1], -low[:, 2]], 1)


def euler_to_pose(euler: np.ndarray) -> np.ndarray:
    """(..., 3) Euler degrees -> (..., 3) float32 axis-angle of Ry Rz Rx. Never read the table itself as axis-angle."""
    yzx = euler.reshape(-1, 3)[:, [1, 2, 0]]
    return Rotation.from_euler("YZX", yzx, degrees=True).as_rotvec().reshape(euler.shape).astype(np.float32)


def pose_to_euler(pose: np.ndarray) -> np.ndarray:
    """(..., 3) axis-angle -> (..., 3) Euler degrees, the inverse of `euler_to_pose`."""
    yzx = Rotation.from_rotvec(pose.reshape(-1, 3)).as_euler("YZX", degrees=True)
    return yzx[:, [2, 0, 1]].reshape(pose.shape)


def set_arm(euler: np.ndarray, name: str, side: str, strength: float = 1.0) -> None:
    """Writes the key pose of one arm, blended with the relaxed arm, into (55, 3) Euler degrees."""
    key = strength * np.array(ARMS[name]) + (1 - strength) * np.array(ARMS["relaxed"])
    sign = np.array((1, 1, 1) if side == "left" else (1, -1, -1))
    for joint, angles in zip(("collar", "shoulder", "elbow", "wrist"), key, strict=True):
        euler[INDEX[f"{side}_{joint}"]] = angles * sign


def set_leg(euler: np.ndarray, name: str, side: str, strength: float = 1.0, upright: bool = True) -> None:
    """Writes the key pose of one leg; a planted foot gets the ankle that makes its sole level.

    An upright leg makes up for the lean of the pelvis, which is written before.
    """
    hip, knee, planted = LEGS[name]
    sign = np.array((1, 1, 1) if side == "left" else (1, -1, -1))
    euler[INDEX[f"{side}_hip"]] = np.array(hip) * strength * sign
    euler[INDEX[f"{side}_hip"], 0] -= euler[0, 0] * upright
    euler[INDEX[f"{side}_knee"]] = np.array(knee) * strength
    level = -(hip[0] + knee[0]) * strength
    euler[INDEX[f"{side}_ankle"]] = (level if planted else 18, 0, 0)
    if planted:  # an abducted leg tilts its foot outwards
        euler[INDEX[f"{side}_ankle"], 2] = -hip[2] * strength * sign[2] * np.cos(np.deg2rad(hip[0]))


def set_hand(euler: np.ndarray, name: str, side: str, amount: float = 1.0) -> None:
    """Writes the curl of one hand. Fingers bend about z (down, towards the palm), the thumb mostly about y."""
    fingers, thumb = HANDS[name]
    sign = 1 if side == "left" else -1
    for finger, bends in zip(("index", "middle", "pinky", "ring"), fingers, strict=True):
        for joint, bend in enumerate(bends, 1):
            euler[INDEX[f"{side}_{finger}{joint}"], 2] = -bend * amount * sign
    for joint, bend in enumerate(thumb, 1):
        euler[INDEX[f"{side}_thumb{joint}"], 1] = bend * amount * sign


def set_torso(euler: np.ndarray, rng: np.random.Generator, family: Family) -> None:
    """Bends, twists and tips the spine; the head looks about on its own."""
    bend, twist, tip = rng.uniform(*family.spine), rng.normal(0, 5), rng.normal(0, 3)
    for name in ("spine1", "spine2", "spine3"):
        euler[INDEX[name]] = (bend, twist, tip)
    look = (rng.normal(0, 9) - 0.5 * bend, rng.normal(0, 14), rng.normal(0, 5))
    euler[INDEX["neck"]], euler[INDEX["head"]] = np.array(look) * 0.5, np.array(look) * 0.6
    gaze = (rng.normal(0, 5), rng.normal(0, 9), 0)
    euler[INDEX["left_eye_smplhf"]] = euler[INDEX["right_eye_smplhf"]] = gaze


def set_arms(euler: np.ndarray, rng: np.random.Generator, name: str, family: Family) -> None:
    """Both arms: opposite the legs in a gait, mirrored in a third of the rest, else independent."""
    if name in ("walking", "running"):  # the left leg is in front, so the right arm is
        left, right = family.arms[1], family.arms[0]
    else:
        left, right = rng.choice(family.arms, 2)
        right = left if rng.random() < 0.33 else right
    for side, arm in (("left", left), ("right", right)):
        set_arm(euler, arm, side, rng.uniform(0.75, 1.0))
        hand = "pointing" if arm == "point" else rng.choice(list(HANDS), p=(0.4, 0.15, 0.2, 0.13, 0.06, 0.06))
        set_hand(euler, hand, side, rng.uniform(0.6, 1.1))


NOISE = {
    "hip": 4, "knee": 4, "ankle": 2, "shoulder": 9, "elbow": 9, "wrist": 9, "collar": 3, "spine": 2,
    "index": 4, "middle": 4, "ring": 4, "pinky": 4, "thumb": 4,
}  # fmt: skip


@lru_cache(maxsize=1)
def noise_degrees() -> np.ndarray:
    """Standard deviation of the noise of each joint, (55, 1) degrees."""
    bare = [name.removeprefix("left_").removeprefix("right_").rstrip("123") for name in JOINT_NAMES]
    return np.array([[NOISE.get(name, 0)] for name in bare], dtype=float)


def clip(euler: np.ndarray) -> np.ndarray:
    """(55, 3) Euler degrees -> inside the limits of every joint."""
    return np.clip(euler, *limits())


def draw_pose(rng: np.random.Generator, family: str) -> np.ndarray:
    """One pose of a family, inside the limits, self-contact not tested: (55, 3) float32 axis-angle."""
    if family not in FAMILIES:
        raise ValueError(f"{family!r} is not a family of poses: use one of {', '.join(FAMILIES)}")
    kind, euler = FAMILIES[family], np.zeros((55, 3))
    euler[0, 0] = rng.uniform(*kind.lean)
    left, right = kind.legs[rng.integers(len(kind.legs))]
    strength = rng.uniform(0.85, 1.05)
    set_leg(euler, left, "left", strength, kind.upright)
    set_leg(euler, right, "right", strength, kind.upright)
    set_torso(euler, rng, kind)
    set_arms(euler, rng, family, kind)
    euler += rng.normal(size=(55, 3)) * noise_degrees()
    return euler_to_pose(clip(mirror_euler(euler) if rng.random() < 0.5 else euler))


def sample_family(rng: np.random.Generator) -> str:
    """The name of a family, drawn by its share."""
    shares = np.array(list(SHARES.values()), dtype=float)
    return str(rng.choice(list(SHARES), p=shares / shares.sum()))


def sample_pose(
    rng: np.random.Generator, family: str | None = None, skeleton: "Skeleton | None" = None, tries: int = 20
) -> np.ndarray:
    """A pose without self-contact, (55, 3) float32 axis-angle; the same generator state gives the same pose.

    After `tries` rejections a family falls back to a standing pose with relaxed arms.
    """
    family = family or sample_family(rng)
    skeleton = skeleton or Skeleton.of()
    for _ in range(tries):
        pose = draw_pose(rng, family)
        if not skeleton.touches_itself(pose):
            return pose
    return relaxed_pose()


def relaxed_pose() -> np.ndarray:
    """Standing, arms at the sides: (55, 3) float32 axis-angle."""
    euler = np.zeros((55, 3))
    for side in ("left", "right"):
        set_leg(euler, "stand", side)
        set_arm(euler, "relaxed", side)
        set_hand(euler, "relaxed", side)
    return euler_to_pose(clip(euler))


# Capsules stand for the limbs in contact tests. Each end is a joint and an offset from it at rest (metres, left side;
# it turns with the first end's joint); the torso is wider than deep, so it is two capsules side by side.
CAPSULES = {
    "left_pelvis": ("pelvis", (0.07, -0.06, 0), "spine1", (0.06, 0, 0)),
    "left_belly": ("spine1", (0.05, 0.02, 0), "spine2", (0.05, 0.02, 0)),
    "left_chest": ("spine3", (0.06, 0.0, 0.01), "spine3", (0.06, 0.12, 0.02)),
    "head": ("head", (0, 0.04, 0.01), "head", (0, 0.11, 0.02)),
    "left_upper_arm": ("left_shoulder", (0, 0, 0), "left_elbow", (0, 0, 0)),
    "left_forearm": ("left_elbow", (0.04, 0, 0), "left_wrist", (0, 0, 0)),
    "left_hand": ("left_wrist", (0.03, 0, 0), "left_middle2", (0, 0, 0)),
    "left_thigh": ("left_hip", (0, -0.1, 0), "left_knee", (0, 0, 0)),
    "left_shin": ("left_knee", (0, -0.04, 0), "left_ankle", (0, 0, 0)),
    "left_foot": ("left_ankle", (0, -0.03, 0.02), "left_foot", (0, 0, 0.03)),
}
TORSO = ("pelvis", "belly", "chest")
# Which limbs are tested against which. Neighbours along a limb always touch and are left out.
ARM_AGAINST = {"hand": (*TORSO, "head", "thigh", "shin", "foot"), "forearm": (*TORSO, "head", "thigh", "shin")}
LIMB_AGAINST_LIMB = (  # of the other side
    ("hand", "hand"), ("hand", "forearm"), ("hand", "upper_arm"), ("forearm", "forearm"), ("forearm", "upper_arm"),
    ("shin", "shin"), ("foot", "foot"), ("foot", "shin"), ("shin", "thigh"),
)  # fmt: skip
ALLOWED = 0.025  # metres of overlap that still count as touching: skin is soft, and capsules are rough


def both_sides(name: str) -> list[str]:
    """`left_hand` -> left_hand, right_hand; `head` -> head."""
    return [name, name.replace("left_", "right_")] if name.startswith("left_") else [name]


CAPSULE_NAMES = [side for name in CAPSULES for side in both_sides(name)]


def named(part: str) -> list[int]:
    """Capsules of a part, of both sides."""
    return [i for i, name in enumerate(CAPSULE_NAMES) if name.removeprefix("left_").removeprefix("right_") == part]


def contact_pairs() -> np.ndarray:
    """(P, 2) indices of the capsules that must not run into each other."""
    pairs = [
        (a, b) for arm, others in ARM_AGAINST.items() for other in others for a in named(arm) for b in named(other)
    ]
    left = {
        part: CAPSULE_NAMES.index(f"left_{part}") for part in ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")
    }
    right = {part: i + 1 for part, i in left.items()}
    for a, b in LIMB_AGAINST_LIMB:
        pairs += [(left[a], right[b]), (right[a], left[b])]
    pairs += [(side["hand"], side["upper_arm"]) for side in (left, right)]
    pairs += [(a, b) for a in named("thigh") for b in named("chest")] + [
        (a, b) for a in named("upper_arm") for b in named("head")
    ]
    return np.unique(np.sort(pairs, axis=1), axis=0)


def segment_distances(a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray) -> np.ndarray:
    """Shortest distances between segments a0-a1 and b0-b1, (..., 3) each -> (...). Ericson 2005, section 5.1.9."""
    u, v, w = a1 - a0, b1 - b0, a0 - b0
    uu, vv, uv = (u * u).sum(-1) + 1e-12, (v * v).sum(-1) + 1e-12, (u * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    s = np.clip((uv * vw - uw * vv) / np.maximum(uu * vv - uv * uv, 1e-12), 0, 1)
    t = np.clip((uv * s + vw) / vv, 0, 1)
    s = np.clip((uv * t - uw) / uu, 0, 1)
    return np.linalg.norm(w + s[..., None] * u - t[..., None] * v, axis=-1)


@dataclass(frozen=True)
class Capsules:
    """Limbs of one or more bodies in the world: ends (C, 3) and (C, 3), radii (C,), metres."""

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray

    def overlap(self, other: "Capsules") -> np.ndarray:
        """(C, D) metres that each capsule reaches into each one of the other; negative is a gap."""
        ends = (self.start[:, None], self.end[:, None], other.start[None], other.end[None])
        return self.radius[:, None] + other.radius[None] - segment_distances(*ends)

    def moved(self, offset: np.ndarray) -> "Capsules":
        """The same capsules, offset (3,) metres away."""
        return Capsules(self.start + offset, self.end + offset, self.radius)


def body() -> BodyModel:
    """The body that people are made of, loaded once a process."""
    return load_body().model


@lru_cache(maxsize=2)
def _capsule_table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Joint (C,) and offset (C, 3) of both ends of every capsule."""
    rows = []
    for name in CAPSULE_NAMES:
        source = name if name in CAPSULES else name.replace("right_", "left_")
        a, offset_a, b, offset_b = CAPSULES[source]
        flip = np.array((-1, 1, 1)) if name != source else 1
        side = (lambda joint: joint.replace("left_", "right_")) if name != source else (lambda joint: joint)
        rows.append((INDEX[side(a)], np.array(offset_a) * flip, INDEX[side(b)], np.array(offset_b) * flip))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@lru_cache(maxsize=1)
def _capsule_vertices() -> list[np.ndarray]:
    """For each capsule the body's vertices (at most 150) whose strongest joint is where it begins."""
    model, table = body(), _capsule_table()
    shown = np.unique(model.faces.numpy())
    strongest = model.weights.argmax(1).numpy()[shown]
    return [(ids := shown[strongest == joint])[:: max(1, len(ids) // 150)] for joint in table[0]]


class Skeleton:
    """Joints and limb capsules of one body shape; posing it costs a millisecond, the whole body ten."""

    def __init__(self, betas: np.ndarray | None = None):
        model, rest = body(), body().template
        if betas is not None:
            rest = rest + (torch.as_tensor(betas, dtype=torch.float32) @ load_body().shapes[: len(betas)]).view(-1, 3)
        self.joints = (model.joint_regressor @ rest).numpy().astype(float)  # (55, 3)
        self.scale = float(rest[:, 1].max() - rest[:, 1].min()) / 1.7
        self.parents = load_body().parents
        self.radius = self._measure(rest.numpy())

    @staticmethod
    @lru_cache(maxsize=64)
    def of(betas: tuple[float, ...] | None = None) -> "Skeleton":
        """The skeleton of a shape, kept for the next call."""
        return Skeleton(None if betas is None else np.array(betas))

    def _measure(self, rest: np.ndarray) -> np.ndarray:
        """Radius of every capsule: the median distance of its skin to its axis, (C,) metres."""
        start, end = self._ends(np.tile(np.eye(3), (55, 1, 1)), self.joints)
        ids = _capsule_vertices()
        counts, points = [len(own) for own in ids], rest[np.concatenate(ids)]
        distances = segment_distances(points, points, start.repeat(counts, 0), end.repeat(counts, 0))
        return np.array([np.median(d) if len(d) else 0.05 for d in np.split(distances, np.cumsum(counts)[:-1])])

    def _ends(self, rotations: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World rotations (55, 3, 3) and joints (55, 3) -> both ends of every capsule, (C, 3) each."""
        a, offset_a, b, offset_b = _capsule_table()
        turn = rotations[a] * self.scale
        return joints[a] + np.einsum("cij,cj->ci", turn, offset_a), joints[b] + np.einsum("cij,cj->ci", turn, offset_b)

    def forward(self, pose: np.ndarray, translation: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Pose (55, 3) -> joints (55, 3) in the world and the world rotation of each, (55, 3, 3)."""
        rotations = Rotation.from_rotvec(pose).as_matrix()  # (55, 3, 3)
        return chain(rotations, self.joints + (0 if translation is None else np.asarray(translation)), self.parents)

    def capsules(self, pose: np.ndarray, translation: np.ndarray | None = None) -> Capsules:
        """The limbs of this body in a pose."""
        joints, rotations = self.forward(pose, translation)
        return Capsules(*self._ends(rotations, joints), self.radius)

    def touches_itself(self, pose: np.ndarray, allowed: float = ALLOWED) -> bool:
        """Whether a limb reaches more than `allowed` metres into another part of the same body."""
        capsules, (a, b) = self.capsules(pose), _pairs()
        ends = capsules.start[a], capsules.end[a], capsules.start[b], capsules.end[b]
        return bool((self.radius[a] + self.radius[b] - segment_distances(*ends) > allowed).any())


@lru_cache(maxsize=1)
def _pairs() -> np.ndarray:
    return contact_pairs().T  # (2, P)

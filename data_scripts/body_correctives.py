"""Pose correctives: what linear blend skinning loses at a bent or twisted joint, given back as blend shapes."""

import numpy as np
from body_skeleton import JOINT_COUNT, JOINT_NAMES, PARENTS, euler_rotation

# Degrees that a joint of the left side may turn about x, y, z (composed as Ry Rz Rx); the right side mirrors y and z.
POSE_RANGES = {
    "hip": ((-120, 30), (-40, 40), (-30, 60)), "knee": ((0, 140), (-10, 10), (-10, 10)),
    "ankle": ((-35, 50), (-20, 20), (-20, 20)), "foot": ((-45, 30), (-5, 5), (-5, 5)),
    "spine": ((-20, 40), (-30, 30), (-25, 25)), "neck": ((-40, 40), (-50, 50), (-30, 30)),
    "head": ((-40, 40), (-50, 50), (-30, 30)), "jaw": ((-3, 30), (-8, 8), (-3, 3)),
    "eye": ((-30, 30), (-35, 35), (0, 0)),
    "collar": ((-10, 10), (-25, 25), (-10, 35)), "shoulder": ((-70, 70), (-120, 40), (-90, 80)),
    "elbow": ((-70, 70), (-145, 5), (-15, 15)), "wrist": ((-70, 70), (-30, 30), (-75, 75)),
    "finger": ((-8, 8), (-15, 15), (-100, 15)), "thumb": ((-40, 40), (-40, 40), (-40, 40)),
}  # fmt: skip
CORRECTIVE_SHARE = 0.6  # how far from linear blending toward dual quaternions: the full way bulges at bent joints


def stem_of(joint: str) -> str:
    """left_index2 -> index, right_eye_smplhf -> eye, spine1 -> spine."""
    return joint.removeprefix("left_").removeprefix("right_").removesuffix("_smplhf").rstrip("123")


def pose_range(joint: str) -> np.ndarray:
    """The limits of one joint in degrees: (3, 2)."""
    stem = stem_of(joint)
    limits = np.array(POSE_RANGES.get(stem, POSE_RANGES["finger"]), dtype=float)
    if joint.startswith("right_"):
        limits[1:] = -limits[1:, ::-1]
    return limits


def sample_rotations(joint: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rotations within a joint's limits, small ones more often: (count, 3, 3)."""
    low, high = pose_range(joint).T
    return euler_rotation(rng.uniform(low, high, (count, 3)) * rng.uniform(0.2, 1.0, (count, 1)))


def descendants(joint: int) -> list[int]:
    """A joint and all that hangs on it."""
    family = [joint]
    for child in range(joint + 1, JOINT_COUNT):
        if PARENTS[child] in family:
            family.append(child)
    return family


def blend_rotations(rotations: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What dual quaternion blending makes of standing still and turning about one joint.

    Identity with weight 1 - share and R with weight share: the normalized mean of the two quaternions, a proper
    rotation (linear blending's mean of the two matrices shrinks: the candy wrapper). (N, 3, 3), (V,) -> (N, V, 3, 3)
    """
    from scipy.spatial.transform import Rotation

    quaternion = Rotation.from_matrix(rotations).as_quat(canonical=True)[:, None]  # (N, 1, 4), x y z w, w >= 0
    mixed = (1 - share)[:, None] * np.array([0.0, 0.0, 0.0, 1.0]) + share[:, None] * quaternion  # (N, V, 4)
    return Rotation.from_quat(mixed.reshape(-1, 4)).as_matrix().reshape(len(rotations), len(share), 3, 3)


def corrective_targets(rotations: np.ndarray, offsets: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Offsets to add to the rest pose so that linear blending lands CORRECTIVE_SHARE of the way to dual quaternions.

    offsets (V, 3) vertices from the joint, share (V,) of weight that turns -> (N, V, 3). Where linear blending has
    nearly collapsed (determinant below 0.35) or the offset would exceed 4 cm, none is asked for.
    """
    linear = (1 - share)[:, None, None] * np.eye(3) + share[:, None, None] * rotations[:, None]  # (N, V, 3, 3)
    wanted = ((blend_rotations(rotations, share) - linear) @ offsets[..., None])[..., 0]
    determinant = np.linalg.det(linear)
    safe = np.where(determinant[..., None, None] > 0.35, linear, np.eye(3))
    change = CORRECTIVE_SHARE * np.linalg.solve(safe, wanted[..., None])[..., 0]  # (N, V, 3)
    good = (determinant > 0.35) & (np.linalg.norm(change, axis=-1) < 0.04)
    return change * good[..., None]


def fit_correctives(template: np.ndarray, weights: np.ndarray, seed: int, poses: int = 160, ridge: float = 0.02):
    """SMPL's pose blend shapes, one ridge regression a joint: the nine numbers of R - I -> vertex offsets. (V, 3, 486)

    Only the joint itself turns in its 160 poses, and only vertices that it shares with its parent's side are touched;
    offsets below 0.1 mm at every pose are dropped, so that the file stays small.
    """
    rng, joints = np.random.default_rng(seed), template[-JOINT_COUNT:]
    directions = np.zeros((*template.shape, 9 * (JOINT_COUNT - 1)))
    for joint in range(1, JOINT_COUNT):
        share = weights[:, descendants(joint)].sum(1)
        touched = np.nonzero((share > 0.005) & (share < 0.995))[0]
        rotations = sample_rotations(JOINT_NAMES[joint], poses, rng)
        target = corrective_targets(rotations, template[touched] - joints[joint], share[touched])
        feature = (rotations - np.eye(3)).reshape(poses, 9)
        gram = feature.T @ feature / poses + ridge * np.eye(9)
        solution = np.linalg.solve(gram, feature.T @ target.reshape(poses, -1) / poses).reshape(9, len(touched), 3)
        solution[:, np.abs(np.einsum("nf,fvc->nvc", feature, solution)).max((0, 2)) < 1e-4] = 0
        directions[touched, :, 9 * (joint - 1) : 9 * joint] = solution.transpose(1, 2, 0)
    return directions


def left_over(posedirs: np.ndarray, template: np.ndarray, weights: np.ndarray, joint: str, rotations: np.ndarray):
    """Mean metres to the target, without and with the fitted correctives, at rotations (N, 3, 3) of one joint.

    Over the vertices that the joint shares with its parent's side.
    """
    number, joints = JOINT_NAMES.index(joint), template[-JOINT_COUNT:]
    share = weights[:, descendants(number)].sum(1)
    ids = np.nonzero((share > 0.05) & (share < 0.95))[0]
    target = corrective_targets(rotations, template[ids] - joints[number], share[ids])
    feature = (rotations - np.eye(3)).reshape(-1, 9)
    columns = slice(9 * (number - 1), 9 * number)
    given = np.einsum("vcf,nf->nvc", posedirs[ids, :, columns].astype(np.float64), feature)
    return np.linalg.norm(target, axis=-1).mean(), np.linalg.norm(target - given, axis=-1).mean()

"""Motion: poses as smooth functions of time. A sequence is poses (T, 55, 3) axis-angle and translations (T, 3) metres.

A planted foot stays where it is: the body is moved, frame by frame, against the drift of its lowest foot.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from course_lib.data.poses import (
    INDEX,
    Skeleton,
    clip,
    euler_to_pose,
    relaxed_pose,
    sample_pose,
    set_arm,
    set_hand,
    set_leg,
)

FRAMES_PER_SECOND = 25.0


def _blend(poses: np.ndarray, keys: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Key poses (K, 55, 3) at ascending times (K,) -> poses (T, 55, 3) at times (T,), along the shortest arcs."""
    times = np.clip(times, keys[0], keys[-1])
    joints = [Slerp(keys, Rotation.from_rotvec(poses[:, j]))(times).as_rotvec() for j in range(poses.shape[1])]
    return np.stack(joints, 1).astype(np.float32)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _base(arm: str = "relaxed") -> np.ndarray:
    """(55, 3) Euler degrees of somebody who stands."""
    euler = np.zeros((55, 3))
    for side in ("left", "right"):
        set_leg(euler, "stand", side)
        set_arm(euler, arm, side)
        set_hand(euler, "relaxed", side)
    return euler


def walking(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """A gait cycle of 0.9 to 1.2 s, its harmonics set by eye to look like a walk; the arms go against the legs."""
    cycle, stride, swing = rng.uniform(0.9, 1.2), rng.uniform(0.8, 1.2), rng.uniform(0.5, 1.2)
    return np.stack([_walking_frame(2 * np.pi * t / cycle, stride, swing) for t in times])


def _walking_frame(phase: float, stride: float, swing: float) -> np.ndarray:
    """One frame of the gait at `phase` radians; the right leg is half a cycle behind."""
    euler = _base()
    euler[0] = (3, 6 * stride * np.cos(phase + np.pi), 0)
    for side, p, sign in (("left", phase, 1), ("right", phase + np.pi, -1)):
        euler[INDEX[f"{side}_hip"], 0] = stride * (-6 - 24 * np.cos(p))
        euler[INDEX[f"{side}_knee"], 0] = 5 + 58 * stride * ((1 - np.cos(p - 1.16)) / 2) ** 2  # bent while it swings
        euler[INDEX[f"{side}_ankle"], 0] = -1 + 13 * np.cos(p - 3.5)  # pushes off at the end of its stance
        reach = -np.cos(p) * swing  # the arm goes against the leg of its side
        forward, back = np.array((-40, -42, 8)), np.array((35, 34, 6))
        euler[INDEX[f"{side}_shoulder"]] += (forward * max(reach, 0) + back * max(-reach, 0)) * (1, sign, sign)
        euler[INDEX[f"{side}_elbow"], 1] -= sign * (12 * swing + 14 * max(reach, 0))
    euler[INDEX["spine2"], 1] = -6 * stride * np.cos(phase + np.pi)
    euler[INDEX["spine3"], 1] = -4 * stride * np.cos(phase + np.pi)
    return euler_to_pose(clip(euler))


def waving(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Raises one arm in 0.6 s and waves with it about twice a second."""
    side, sign = ("left", 1) if rng.random() < 0.5 else ("right", -1)
    rate, width, lift = rng.uniform(1.5, 2.5), rng.uniform(15, 28), rng.uniform(0.85, 1.0)
    frames = []
    for t in times:
        euler, up = _base(), float(_smoothstep(np.array(t / 0.6)))
        set_arm(euler, "wave", side, up * lift)
        sway = np.sin(2 * np.pi * rate * t) * up
        euler[INDEX[f"{side}_shoulder"], 0] += 0.6 * width * sway
        euler[INDEX[f"{side}_elbow"], 1] += 0.6 * width * sway * sign
        euler[INDEX[f"{side}_wrist"], 1] += 0.4 * width * sway
        set_hand(euler, "flat", side)
        euler[INDEX["spine2"], 2] = 2 * sway
        euler[INDEX["head"], 2] = -3 * up * sign
        frames.append(euler_to_pose(clip(euler)))
    return np.stack(frames)


def turning(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Turns about the vertical in small steps, 60 to 120 degrees a second; the head goes first."""
    speed, direction = rng.uniform(60, 120), rng.choice((-1, 1))
    frames = []
    for t in times:
        euler, step = _base(), np.sin(2 * np.pi * 1.6 * t)
        for side, lift in (("left", max(step, 0)), ("right", max(-step, 0))):
            euler[INDEX[f"{side}_hip"], 0] = -26 * lift
            euler[INDEX[f"{side}_knee"], 0] = 4 + 44 * lift
            euler[INDEX[f"{side}_ankle"], 0] = 8 * lift
        euler[INDEX["neck"], 1] = euler[INDEX["head"], 1] = 14 * direction
        pose = euler_to_pose(clip(euler))
        frames.append(turned(pose, direction * speed * t))
    return np.stack(frames)


def sitting_down(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """From standing over a bend with the hands forward to sitting, over the whole clip."""
    skeleton = Skeleton.of()
    lean, reach = rng.uniform(25, 38), rng.uniform(0.4, 0.9)
    way = [relaxed_pose(), _half_sitting(lean, reach), sample_pose(rng, "sitting", skeleton)]
    duration = max(float(times[-1]), 1e-6)
    return _blend(np.stack(way), np.array([0, 0.55, 1.0]), _smoothstep(times / duration))


def _half_sitting(lean: float, reach: float) -> np.ndarray:
    euler = _base()
    euler[0, 0] = lean
    for side in ("left", "right"):
        set_leg(euler, "sit", side, 0.75)
        set_arm(euler, "reach_down", side, reach)
    return euler_to_pose(clip(euler))


def wandering(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Passes smoothly through random poses, one every 0.8 s: the widest choice of poses of one person."""
    keys = np.arange(0, float(times[-1]) + 1.6, 0.8)
    families = rng.choice(("standing", "reaching", "walking", "bending", "crouching", "kicking"), len(keys))
    return _blend(np.stack([sample_pose(rng, str(family)) for family in families]), keys, times)


MOTIONS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "walking": walking,
    "waving": waving,
    "turning": turning,
    "sitting_down": sitting_down,
    "wandering": wandering,
}


def check_motion(motion: str) -> str:
    """The motion itself, or a ValueError that lists the known ones."""
    if motion not in MOTIONS and motion not in ("still", "poses"):
        raise ValueError(f"{motion!r} is not a motion: use one of still, poses, {', '.join(MOTIONS)}")
    return motion


def turned(pose: np.ndarray, heading: float) -> np.ndarray:
    """The pose (55, 3), turned by `heading` degrees about the vertical (positive: to the body's left)."""
    pose = pose.copy()
    pose[0] = (Rotation.from_rotvec((0, np.deg2rad(heading), 0)) * Rotation.from_rotvec(pose[0])).as_rotvec()
    return pose


def feet(skeleton: Skeleton, poses: np.ndarray) -> np.ndarray:
    """Balls of both feet while the pelvis stays put, (T, 2, 3) metres: left, right."""
    ids = [INDEX["left_foot"], INDEX["right_foot"]]
    return np.stack([skeleton.forward(pose)[0][ids] for pose in poses])


def planted(skeleton: Skeleton, poses: np.ndarray) -> np.ndarray:
    """Translations (T, 3) that keep the lower foot from slipping; they begin at zero and leave the height alone."""
    balls = feet(skeleton, poses)  # (T, 2, 3)
    height = balls[:, :, 1] - balls[:, :, 1].min(axis=1, keepdims=True)
    weight = np.exp(-height / 0.01)  # a soft choice of foot: no jerk when the weight shifts
    weight = weight[1:] * weight[:-1]
    drift = (weight[..., None] * np.diff(balls, axis=0)).sum(1) / weight.sum(1)[..., None]  # (T - 1, 3)
    moves = np.concatenate([np.zeros((1, 3)), np.cumsum(-drift, axis=0)])
    return moves * (1, 0, 1)


def sample_sequence(
    rng: np.random.Generator,
    motion: str,
    frames: int,
    skeleton: Skeleton | None = None,
    fps: float = FRAMES_PER_SECOND,
) -> tuple[np.ndarray, np.ndarray]:
    """Poses (T, 55, 3) float32 and translations (T, 3) of a motion, T = frames, 1 / fps seconds apart.

    `still` is one pose held; `poses` are independent random poses, which is what multi-pose scans of one person are.
    """
    check_motion(motion)
    skeleton = skeleton or Skeleton.of()
    if motion in ("still", "poses"):
        first = sample_pose(rng, skeleton=skeleton)
        poses = [first if motion == "still" or t == 0 else sample_pose(rng, skeleton=skeleton) for t in range(frames)]
        return np.stack(poses), np.zeros((frames, 3))
    poses = MOTIONS[motion](rng, np.arange(frames) / fps)
    return poses, planted(skeleton, poses)

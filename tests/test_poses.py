"""Poses and motion: limits, mirror images, self-contact, determinism, feet on the floor."""

import numpy as np
import pytest

from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.data.poses import (
    ALLOWED,
    FAMILIES,
    INDEX,
    Capsules,
    Skeleton,
    draw_pose,
    euler_to_pose,
    limits,
    mirror_pose,
    pose_to_euler,
    relaxed_pose,
    sample_pose,
    segment_distances,
)
from course_lib.data.sequences import MOTIONS, feet, planted, sample_sequence


def arm_through_the_chest() -> np.ndarray:
    """Standing, the left forearm bent into the trunk."""
    euler = pose_to_euler(relaxed_pose())
    euler[INDEX["left_shoulder"]] = (0, -75, -45)
    euler[INDEX["left_elbow"]] = (0, -135, 0)
    euler[INDEX["left_collar"]] = (0, -20, 0)
    euler[INDEX["left_shoulder"]] = (0, -100, -60)
    return euler_to_pose(euler)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_joint_keeps_its_limits(family):
    low, high = limits()
    for seed in range(12):
        euler = pose_to_euler(draw_pose(np.random.default_rng(seed), family))
        assert (euler >= low - 0.02).all() and (euler <= high + 0.02).all(), family


def test_limits_of_right_and_left_are_mirror_images():
    low, high = limits()
    left, right = INDEX["left_elbow"], INDEX["right_elbow"]
    assert (low[left, 1], high[left, 1]) == (-high[right, 1], -low[right, 1])
    assert (low[left, 0], high[left, 0]) == (low[right, 0], high[right, 0])
    assert (high >= low).all()


def test_euler_angles_are_composed_not_read_as_axis_angle():
    y, z = np.deg2rad(30), np.deg2rad(50)
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    _, rotations = Skeleton.of().forward(np.eye(55)[0][:, None] * euler_to_pose(np.array([[0.0, 30, 50]])))
    np.testing.assert_allclose(rotations[0], turn_y @ turn_z, atol=1e-5)


def test_mirror_image_of_a_pose_mirrors_the_joints():
    pose = draw_pose(np.random.default_rng(5), "reaching")
    skeleton = Skeleton.of()
    joints, mirrored = skeleton.forward(pose)[0], skeleton.forward(mirror_pose(pose))[0]
    np.testing.assert_allclose(mirrored[INDEX["right_wrist"]], joints[INDEX["left_wrist"]] * (-1, 1, 1), atol=2e-3)
    np.testing.assert_array_equal(mirror_pose(mirror_pose(pose)), pose)


def test_self_contact_is_found_where_it_was_planted():
    skeleton = Skeleton.of()
    assert skeleton.touches_itself(arm_through_the_chest())
    assert not skeleton.touches_itself(relaxed_pose())
    assert not skeleton.touches_itself(np.zeros((55, 3), np.float32))  # the T-pose


def test_sampled_poses_have_no_self_contact_and_rejection_is_not_the_rule():
    skeleton = Skeleton.of()
    rng = np.random.default_rng(0)
    assert not any(skeleton.touches_itself(sample_pose(rng)) for _ in range(40))
    drawn = [skeleton.touches_itself(draw_pose(rng, "standing")) for _ in range(60)]
    assert np.mean(drawn) < 0.4


def test_hopeless_family_falls_back_to_standing(monkeypatch):
    monkeypatch.setattr(Skeleton, "touches_itself", lambda self, pose: True)
    np.testing.assert_array_equal(sample_pose(np.random.default_rng(0), "kicking"), relaxed_pose())


def test_same_generator_same_pose():
    first, second = (sample_pose(np.random.default_rng(7)) for _ in range(2))
    assert first.dtype == np.float32 and first.shape == (55, 3)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - sample_pose(np.random.default_rng(8))).max() > 0.05


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="standing"):
        draw_pose(np.random.default_rng(0), "flying")
    with pytest.raises(ValueError, match="walking"):
        sample_sequence(np.random.default_rng(0), "moonwalk", 4)


def test_segment_distances_of_known_cases():
    def distance(*points):
        return float(segment_distances(*(np.array(p, float) for p in points)))

    assert distance((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)) == pytest.approx(1)  # parallel
    assert distance((-1, 0, 0), (1, 0, 0), (0, -1, 0.5), (0, 1, 0.5)) == pytest.approx(0.5)  # crossing
    assert distance((0, 0, 0), (1, 0, 0), (3, 4, 0), (3, 9, 0)) == pytest.approx(np.hypot(2, 4))  # end to end
    assert distance((0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 0, 0)) == pytest.approx(1)  # points


def test_segment_distances_against_brute_force():
    rng = np.random.default_rng(0)
    a0, a1, b0, b1 = rng.normal(size=(4, 50, 3))
    t = np.linspace(0, 1, 101)[:, None, None]
    brute = np.linalg.norm((a0 + t * (a1 - a0))[:, None] - (b0 + t * (b1 - b0))[None], axis=-1).min((0, 1))
    np.testing.assert_allclose(segment_distances(a0, a1, b0, b1), brute, atol=0.02)


def test_overlap_of_capsules_is_a_depth_in_metres():
    ball = Capsules(np.zeros((1, 3)), np.zeros((1, 3)), np.array([0.1]))
    assert ball.overlap(ball.moved(np.array([0.15, 0, 0])))[0, 0] == pytest.approx(0.05)
    assert ball.overlap(ball.moved(np.array([0.5, 0, 0])))[0, 0] == pytest.approx(-0.3)


def test_radii_are_those_of_a_body_and_follow_its_shape():
    radius = dict(zip(_names(), Skeleton.of().radius, strict=True))
    assert 0.02 < radius["left_forearm"] < radius["left_thigh"] < radius["left_belly"] < 0.25
    np.testing.assert_allclose(radius["left_thigh"], radius["right_thigh"], atol=0.004)
    assert np.abs(Skeleton.of((2.0,) + (0.0,) * 9).radius - Skeleton.of().radius).max() > 0.002


def _names():
    from course_lib.data.poses import CAPSULE_NAMES

    return CAPSULE_NAMES


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_is_smooth_inside_the_limits_and_repeatable(motion):
    poses, moves = sample_sequence(np.random.default_rng(1), motion, 20)
    again, _ = sample_sequence(np.random.default_rng(1), motion, 20)
    np.testing.assert_array_equal(poses, again)
    assert poses.shape == (20, 55, 3) and poses.dtype == np.float32 and moves.shape == (20, 3)
    steps = np.linalg.norm(np.diff(poses, axis=0), axis=-1)
    assert steps.max() < np.deg2rad(25), f"{motion} jumps by {np.rad2deg(steps.max()):.0f} degrees in a frame"
    assert steps.max() > np.deg2rad(0.3), f"{motion} does not move"
    low, high = limits()
    euler = pose_to_euler(poses[:, 1:])
    assert (euler > low[1:] - 1).all() and (euler < high[1:] + 1).all()


def test_walking_goes_forward_and_the_planted_foot_stays():
    skeleton = Skeleton.of()
    poses, moves = sample_sequence(np.random.default_rng(2), "walking", 30)
    assert moves[-1, 2] > 0.4, "walks backwards or on the spot"
    balls = feet(skeleton, poses) + moves[:, None]
    lower = balls[:, :, 1].argmin(1)
    same = lower[1:] == lower[:-1]
    slip = np.linalg.norm(np.diff(balls, axis=0)[..., [0, 2]], axis=-1)[np.arange(29), lower[1:]]
    assert np.median(slip[same]) < 0.012, "the lower foot slides"
    assert planted(skeleton, poses)[0] == pytest.approx(0)


def test_sitting_down_lowers_the_hips():
    poses, _ = sample_sequence(np.random.default_rng(3), "sitting_down", 12)
    heights = []
    for pose in (poses[0], poses[-1]):
        joints = Skeleton.of().forward(pose)[0]
        heights.append(joints[0, 1] - joints[[INDEX["left_ankle"], INDEX["right_ankle"]], 1].min())
    assert heights[0] - heights[1] > 0.2


def test_poses_motion_is_many_poses_of_one_body():
    poses, moves = sample_sequence(np.random.default_rng(4), "poses", 3)
    assert np.abs(poses[0] - poses[1]).max() > 0.1 and np.abs(moves).max() == 0
    still, _ = sample_sequence(np.random.default_rng(4), "still", 3)
    np.testing.assert_array_equal(still[0], still[2])


def test_all_names_are_joints():
    assert len(JOINT_NAMES) == 55 and 0 < ALLOWED < 0.05

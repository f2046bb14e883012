"""Chapter 12's processing and evaluation: filters, thinning, augmentation, a camera from poses, the tables."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from course_lib import metrics
from course_lib.chapters.acae_training import (
    BENCHMARKS,
    METRICS,
    OCCLUDED,
    OCCLUDED_2D,
    PAPER_TABLES,
    SWAPPED,
    augmented_picture,
    calibrate_camera,
    correct_pose_score,
    occluded,
    on_background,
    paste,
    plausible,
    pooled,
    read_table,
    thin,
)
from course_lib.chapters.cameras import Camera

BONES = [(0, 1), (1, 2), (2, 3)]
SIZE = (480, 640)


def chains(count=200, seed=0):
    """People of 4 joints: 0.4, 0.3 and 0.2 m long bones, a tenth of spread in size, any direction."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, 3, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    steps = directions * np.array([0.4, 0.3, 0.2])[:, None] * rng.uniform(0.9, 1.1, (count, 1, 1))
    return torch.tensor(np.concatenate([np.zeros((count, 1, 3)), steps.cumsum(1)], 1))


# ------------------------------------------------------------------------------------------------- plausible bones
def test_bones_of_another_length_are_thrown_out_and_only_they():
    points = chains()
    assert plausible(points, BONES).all()
    broken = points.clone()
    broken[3, 3] += 1.0
    broken[5] *= 2
    broken[7, 1:] = broken[7, 0]  # all in one place
    broken[9] += 5  # elsewhere: not the bones' business
    assert (~plausible(broken, BONES)).nonzero().flatten().tolist() == [3, 5, 7]
    assert (~plausible(broken, BONES[:1])).nonzero().flatten().tolist() == [5, 7]
    assert plausible(broken, BONES, factor=1e6).sum() == 199


def test_limits_are_both_ways_and_symmetric():
    points = torch.zeros(9, 2, 3)
    points[:, 1, 0] = torch.tensor([1, 1, 1, 1, 1, 1.39, 1.41, 1 / 1.39, 1 / 1.41])
    assert plausible(points, [(0, 1)], 1.4).tolist() == [True] * 6 + [False, True, False]
    with pytest.raises(ValueError, match="factor is 0.9: give more than 1"):
        plausible(points, [(0, 1)], 0.9)


def test_a_missing_joint_has_no_say_be_it_missing_once_or_everywhere():
    points = chains()
    points[4, 2] = torch.nan
    assert plausible(points, BONES).all()
    points[4, 1] *= 3
    assert (~plausible(points, BONES)).nonzero().flatten().tolist() == [4]
    points = chains()
    points[:, 3] = torch.nan  # in all examples
    points[8] *= 2
    assert (~plausible(points, BONES)).nonzero().flatten().tolist() == [8]


# ------------------------------------------------------------------------------------------------- thinning
def test_thinned_frames_are_apart_and_the_rest_near_the_last_kept():
    points = chains(1).repeat(300, 1, 1)
    points[:, 2] += torch.randn(300, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(0) / 50
    kept = thin(points)
    assert kept[0] == 0 and kept == sorted(set(kept)) and 10 < len(kept) < 250
    for before, after in zip(kept, kept[1:], strict=False):
        moved = (points[before : after + 1] - points[before]).norm(dim=-1).amax(-1)
        assert (moved[:-1] < 0.1).all() and moved[-1] >= 0.1
    assert thin(points, 0.0) == list(range(300)) and thin(points, 1e9) == [0]


def test_thinning_of_nothing_of_stillness_and_of_what_is_missing():
    points = chains(1).repeat(5, 1, 1)
    assert thin(points[:0]) == [] and thin(points[:1]) == [0] and thin(points) == [0]
    points[:, 0] = torch.nan
    points[3, 1] += 0.2
    assert thin(points) == [0, 3, 4]
    points[0] = torch.nan  # a first frame without anybody: nothing can have moved since
    assert thin(points) == [0]


# ------------------------------------------------------------------------------------------------- pictures
def test_a_cutout_lands_where_it_should_and_is_cut_off_outside():
    image, cutout = torch.zeros(3, 6, 8), torch.ones(4, 2, 3)
    cutout[3, 0, 0] = 0.25
    found = paste(image, cutout, left=4, top=1)
    expected = torch.zeros(3, 6, 8)
    expected[:, 1:3, 4:7] = 1
    expected[:, 1, 4] = 0.25
    assert torch.equal(found, expected)
    for left, top, area in ((-1, -1, 2), (6, 5, 2), (7, 0, 2), (-2, 5, 1)):
        assert (paste(image, torch.ones(4, 2, 3), left, top) == 1).all(0).sum() == area
    assert paste(image, torch.ones(4, 9, 9), -1, -1).eq(1).all()


def test_a_background_is_seen_where_nobody_is():
    image, background, alpha = torch.rand(3, 4, 4), torch.rand(3, 4, 4), torch.zeros(4, 4)
    alpha[:2], alpha[2] = 1, 0.5
    found = on_background(image, alpha, background)
    assert torch.equal(found[:, :2], image[:, :2]) and torch.equal(found[:, 3], background[:, 3])
    assert torch.allclose(found[:, 2], (image[:, 2] + background[:, 2]) / 2)


def test_augmentation_has_the_chances_it_says_and_is_repeatable():
    image, alpha = torch.zeros(3, 16, 16), torch.zeros(16, 16)
    cutouts, backgrounds = torch.ones(2, 4, 8, 8), torch.full((3, 3, 16, 16), 0.5)
    changed = {weak: np.zeros(2) for weak in (False, True)}
    for weak, counts in changed.items():
        for seed in range(600):
            found = augmented_picture(image, alpha, cutouts, backgrounds, weak, torch.Generator().manual_seed(seed))
            counts += [(found == 0.5).any(), (found > 0.9).any()]
    assert changed[False] / 600 == pytest.approx([SWAPPED, OCCLUDED], abs=0.07)
    assert changed[True] / 600 == pytest.approx([SWAPPED, OCCLUDED_2D], abs=0.07)
    draws = [
        augmented_picture(image, alpha, cutouts, backgrounds, False, torch.Generator().manual_seed(7)) for _ in "ab"
    ]
    assert torch.equal(*draws)
    no_mask = [
        augmented_picture(image, None, cutouts, backgrounds, False, torch.Generator().manual_seed(s)) for s in range(40)
    ]
    assert not any((found == 0.5).any() for found in no_mask) and any(found.any() for found in no_mask)


def test_an_occluder_covers_a_part():
    shares = [
        occluded(torch.zeros(3, 40, 40), torch.ones(1, 4, 5, 5), torch.Generator().manual_seed(s)).mean()
        for s in range(60)
    ]
    assert all(0.01 < share < 0.26 for share in shares) and max(shares) > 0.1


# ------------------------------------------------------------------------------------------------- a camera
@pytest.fixture(scope="module")
def scene():
    """A camera, and 60 people (60, 12, 3) before it."""
    rng = np.random.default_rng(2)
    camera = Camera.look_at((3.0, 1.6, -2.5), (0.2, 0.9, 0.1), focal=700.0, size=SIZE).to(torch.float64)
    people = rng.normal(0, 0.35, (60, 12, 3)) + rng.uniform(-1, 1, (60, 1, 3)) * (1, 0, 1) + (0, 1, 0)
    return camera, torch.tensor(people)


def seen_by(camera, world):
    flat = world.reshape(1, -1, 3)
    return camera.to_camera(flat).reshape(world.shape), camera.project(flat).reshape(*world.shape[:2], 2)


def off(found, camera):
    """Degrees, metres, share of the focal length."""
    turn = Rotation.from_matrix((found.R @ camera.R.mT)[0].numpy()).magnitude()
    away = (found.center - camera.center).norm().item()
    return math.degrees(turn), away, abs(found.K[0, 0, 0] / camera.K[0, 0, 0] - 1).item()


def test_a_camera_is_found_exactly_from_exact_poses(scene):
    camera, world = scene
    assert max(off(calibrate_camera(world, *seen_by(camera, world), SIZE), camera)) < 1e-5


def test_depth_and_size_of_the_predictions_do_not_matter(scene):
    camera, world = scene
    predicted, pixels = seen_by(camera, world)
    predicted = predicted * torch.linspace(0.7, 1.4, 60)[:, None, None] + torch.tensor([0.0, 0, 3])
    assert max(off(calibrate_camera(world, predicted, pixels, SIZE), camera)) < 1e-5


def test_frames_that_are_wrong_hardly_move_the_robust_camera(scene):
    camera, world = scene
    predicted, pixels = (part.clone() for part in seen_by(camera, world))
    predicted[::6], pixels[::6] = predicted[::6].flip(1), pixels[::6].flip(1) + 60
    robust, plain = (off(calibrate_camera(world, predicted, pixels, SIZE, robust), camera) for robust in (True, False))
    assert robust[0] < 0.5 and robust[1] < 0.05 and plain[0] > 2 * robust[0] and plain[1] > 2 * robust[1]


def test_a_camera_without_usable_frames_is_refused(scene):
    camera, world = scene
    predicted, pixels = seen_by(camera, world)
    with pytest.raises(ValueError, match=r"with N >= 1, not \[\(0, 12, 3\)"):
        calibrate_camera(world[:0], predicted[:0], pixels[:0], SIZE)
    with pytest.raises(ValueError, match=r"must be \(N, J, 3\), \(N, J, 3\), \(N, J, 2\)"):
        calibrate_camera(world, predicted[:, :5], pixels, SIZE)
    predicted[3, 2] = torch.nan
    with pytest.raises(ValueError, match="leave out the frames in which one is missing"):
        calibrate_camera(world, predicted, pixels, SIZE)


# ------------------------------------------------------------------------------------------------- evaluation
def test_the_chapters_cps_is_the_librarys():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(300, 17, 3, generator=generator, dtype=torch.float64)
    prediction = target + 0.045 * torch.randn(300, 17, 3, generator=generator, dtype=torch.float64)
    for root, threshold in ((14, 0.2), (0, 0.15)):
        ours = correct_pose_score(prediction, target, root, threshold)
        assert torch.equal(ours.double(), metrics.cps(prediction, target, threshold, root=root))
        assert 0.01 < ours.mean() < 0.9
    assert torch.equal(correct_pose_score(target + 3, target, 0), torch.ones(300))


def test_mpjpe_and_pmpjpe_are_those_of_loops_and_scipy():
    rng = np.random.default_rng(1)
    target = rng.normal(0, 0.4, (30, 17, 3))
    prediction = target + rng.normal(0, 0.1, target.shape) + rng.normal(size=(30, 1, 3))
    for p, t in zip(prediction, target, strict=True):
        plain = 1000 * np.mean([math.dist(p[j] - p[14], t[j] - t[14]) for j in range(17)])
        x, y = p - p.mean(0), t - t.mean(0)
        u, d, vt = np.linalg.svd(y.T @ x)  # Umeyama 1991
        flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
        fitted = np.trace(np.diag(d) @ flip) / np.square(x).sum() * x @ (u @ flip @ vt).T
        aligned = 1000 * np.linalg.norm(fitted - y, axis=1).mean()
        pair = torch.tensor(p)[None], torch.tensor(t)[None]
        assert metrics.mpjpe(*pair, root=14).item() == pytest.approx(plain, abs=1e-6)
        assert metrics.pa_mpjpe(*pair).item() == pytest.approx(aligned, abs=1e-6)


def test_the_two_ways_to_pool():
    errors = torch.tensor([1.0, 2, 3, 10, 6])
    assert pooled(errors, ["a", "b", "a", "b", "c"]) == (pytest.approx(4.4), pytest.approx((2 + 6 + 6) / 3))
    names = list("abcaab")
    values = torch.arange(6.0)
    assert pooled(values, names)[1] == pytest.approx(metrics.mean_of_means(values, names))


# ------------------------------------------------------------------------------------------------- the paper's tables
def test_the_tables_are_whole_and_agree():
    assert [len(table) for table in PAPER_TABLES.values()] == [10, 3, 12]
    for table in PAPER_TABLES.values():
        for name, row in table.items():
            assert row.shape == (len(BENCHMARKS), len(METRICS)) == (4, 4), name
            assert (row[:, 1] < row[:, 0]).all() and ((row[:, 2:] > 50) & (row[:, 2:] < 100)).all(), name
    sums = [sum(row.sum() for row in table.values()) for table in PAPER_TABLES.values()]
    assert sums == pytest.approx([10780.3, 3238.4, 12983.5], abs=0.01)  # of the supplement's text
    default = PAPER_TABLES["S2"]["consistent", "400k"]
    assert (default == PAPER_TABLES["S3"][("40k",)]).all()
    assert (default == PAPER_TABLES["S4"]["consistent", "frozen", "ghost-16"]).all()
    assert (PAPER_TABLES["S2"]["separate", "400k"] == PAPER_TABLES["S4"]["separate", "frozen", "ghost-16"]).all()
    assert default[0].tolist() == [81.8, 57.8, 72.5, 72.9] and default[3, 0] == 45.2


def test_a_row_is_read_by_its_last_sixteen_numbers():
    row = read_table("a name 16 " + " ".join(map(str, range(16))))
    assert row["a", "name", "16"].tolist() == np.arange(16.0).reshape(4, 4).tolist()

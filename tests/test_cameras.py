"""Chapter 01's cameras against SciPy and kornia, their invariants, gradients, and what they refuse."""

import math

import kornia.geometry as kornia_geometry
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from course_lib.chapters import cameras
from course_lib.chapters.cameras import Camera

FLOATS = [(torch.float32, 2e-6), (torch.float64, 1e-12)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def axes(count, seed=0):
    return torch.nn.functional.normalize(random(count, 3, seed=seed), dim=-1)


def some_camera(count=5, dtype=torch.float64, size=(48, 64)):
    eyes = random(count, 3) + torch.tensor([0.0, 1.0, 5.0])
    return Camera.look_at(eyes, [0.0, 1.0, 0.0], focal=torch.linspace(40, 90, count), size=size).to(dtype)


# --- rotations -------------------------------------------------------------------------------------------------------
ANGLES = torch.cat(
    [
        torch.zeros(1, dtype=torch.float64),
        torch.logspace(-12, 0, 200, dtype=torch.float64),
        math.pi - torch.logspace(-12, 0, 200, dtype=torch.float64),
        torch.linspace(0.1, 20, 100, dtype=torch.float64),
    ]
)


@pytest.mark.parametrize(("dtype", "tolerance"), FLOATS)
def test_axis_angle_to_matrix_agrees_with_scipy_at_every_angle(dtype, tolerance):
    vectors = (axes(len(ANGLES)) * ANGLES[:, None]).to(dtype)
    found = cameras.axis_angle_to_matrix(vectors)
    assert found.dtype == dtype
    expected = Rotation.from_rotvec(vectors.double().numpy()).as_matrix()
    np.testing.assert_allclose(found.double().numpy(), expected, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), FLOATS)
def test_rotations_survive_the_way_there_and_back(dtype, tolerance):
    vectors = (axes(len(ANGLES), seed=1) * ANGLES[:, None]).to(dtype)
    matrices = cameras.axis_angle_to_matrix(vectors)
    found = cameras.matrix_to_axis_angle(matrices)
    assert (found.norm(dim=-1) <= math.pi + 1e-5).all()
    torch.testing.assert_close(cameras.axis_angle_to_matrix(found), matrices, atol=2 * tolerance, rtol=0)


def test_matrix_to_axis_angle_agrees_with_scipy_and_keeps_tiny_angles():
    vectors = axes(300, seed=2) * torch.cat([torch.logspace(-9, -1, 150), torch.linspace(0.1, 3.14, 150)])[:, None]
    matrices = cameras.axis_angle_to_matrix(vectors)
    expected = Rotation.from_matrix(matrices.numpy()).as_rotvec()
    np.testing.assert_allclose(cameras.matrix_to_axis_angle(matrices).numpy(), expected, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("axis", [*torch.eye(3, dtype=torch.float64), *axes(5, seed=3)])
def test_half_turns_have_their_axis_up_to_sign(axis):
    found = cameras.matrix_to_axis_angle(2 * axis[:, None] * axis - torch.eye(3, dtype=torch.float64))
    assert min((found - math.pi * axis).norm(), (found + math.pi * axis).norm()) < 1e-7


def test_rotations_have_gradients_at_zero_near_zero_and_near_a_half_turn():
    lengths = torch.tensor([0.0, 1e-9, 1e-4, 1.1e-4, 0.3, 2.0, 3.1, math.pi], dtype=torch.float64)
    vectors = (axes(8, seed=4) * lengths[:, None]).requires_grad_()
    assert torch.autograd.gradcheck(cameras.axis_angle_to_matrix, vectors)
    short = vectors.detach()[:-1].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: cameras.matrix_to_axis_angle(cameras.axis_angle_to_matrix(v)), short, atol=1e-4
    )


def test_half_turns_have_finite_gradients():
    matrices = cameras.axis_angle_to_matrix(math.pi * torch.eye(3)).requires_grad_()
    cameras.matrix_to_axis_angle(matrices).sum().backward()
    assert matrices.grad.isfinite().all()


@pytest.mark.parametrize("leading", [(), (0,), (2,), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_free(leading):
    vectors = random(*leading, 3)
    matrices = cameras.axis_angle_to_matrix(vectors)
    assert matrices.shape == (*leading, 3, 3)
    assert cameras.matrix_to_axis_angle(matrices).shape == (*leading, 3)
    assert cameras.nearest_rotation(matrices).shape == (*leading, 3, 3)
    assert cameras.look_at_rotation(vectors, vectors.flip(-1)).shape == (*leading, 3, 3)
    points, K = random(*leading, 4, 3), torch.eye(3, dtype=torch.float64).expand(*leading, 3, 3)
    assert cameras.camera_to_pixels(points, K).shape == (*leading, 4, 2)
    assert cameras.crop_and_resize(K, torch.ones(*leading, 4, dtype=torch.float64), (8, 8)).shape == K.shape
    scale, R, t = cameras.procrustes(points, points)
    assert (scale.shape, R.shape, t.shape) == (leading, (*leading, 3, 3), (*leading, 3))


# --- pinhole ---------------------------------------------------------------------------------------------------------
def test_projection_agrees_with_kornia_there_and_back():
    camera, points = some_camera(7), random(7, 11, 3)
    K, pose = torch.eye(4, dtype=torch.float64).repeat(2, 7, 1, 1)
    K[:, :3, :3], pose[:, :3, :3], pose[:, :3, 3] = camera.K, camera.R, camera.t
    theirs = kornia_geometry.PinholeCamera(K, pose, torch.full((7,), 48), torch.full((7,), 64))
    pixels, depth = camera.project(points), camera.to_camera(points)[..., 2]
    torch.testing.assert_close(pixels, theirs.project(points), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(camera.unproject(pixels, depth), points)
    torch.testing.assert_close(camera.unproject(pixels, depth), theirs.unproject(pixels, depth[..., None]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cameras_keep_their_dtype_and_broadcast_one_camera_over_many_people(dtype):
    camera, points = some_camera(1, dtype), random(6, 4, 3, dtype=dtype)
    pixels = camera.project(points)
    assert pixels.dtype == dtype and pixels.shape == (6, 4, 2)
    torch.testing.assert_close(pixels[3:4], camera.project(points[3:4]))
    assert cameras.plucker_rays(camera, (4, 5)).dtype == dtype


def test_points_behind_the_camera_land_far_outside_on_their_own_side():
    K = cameras.intrinsics(torch.tensor([100.0]), (64, 64))
    points = torch.tensor([[[0.5, -0.2, -3.0], [-0.5, 0.2, 0.0]]], requires_grad=True)
    pixels = cameras.camera_to_pixels(points, K)
    assert pixels[0, 0, 0] > 1e4 and pixels[0, 0, 1] < -1e3 and pixels[0, 1, 0] < -1e4
    pixels.sum().backward()
    assert points.grad.isfinite().all()


def test_projection_and_rays_have_right_gradients():
    camera, points = some_camera(2), random(2, 3, 3).requires_grad_()
    pose = (camera.K.requires_grad_(), camera.R.requires_grad_(), camera.t.requires_grad_())
    assert torch.autograd.gradcheck(lambda K, R, t, x: Camera(K, R, t).project(x), (*pose, points))
    assert torch.autograd.gradcheck(lambda K, R, t: cameras.plucker_rays(Camera(K, R, t), (2, 2)), pose)


def test_field_of_view_and_focal_length_are_inverse():
    assert cameras.focal_from_fov(math.pi / 2, 512) == pytest.approx(256)
    fov = torch.linspace(0.1, 3.0, 7, dtype=torch.float64)
    torch.testing.assert_close(cameras.fov_from_focal(cameras.focal_from_fov(fov, 300), 300), fov)


def test_a_crop_moves_pixels_as_cutting_and_scaling_does():
    camera, points = some_camera(3), random(3, 9, 3)
    box = torch.tensor([[10.0, 5, 20, 30], [-4, -8, 60, 15], [0, 0, 64, 48]], dtype=torch.float64)
    cropped = camera.cropped(box, (90, 80))
    factor = torch.tensor([80.0, 90]) / box[:, None, 2:]
    torch.testing.assert_close(cropped.project(points), (camera.project(points) - box[:, None, :2]) * factor)
    torch.testing.assert_close(cropped.center, camera.center)


def test_a_crop_agrees_with_resampling_a_picture():
    """A picture whose value is its own u coordinate, halved by averaging: the new centres hold the old coordinates."""
    u = cameras.pixel_centers((8, 8))[..., 0]
    halved = torch.nn.functional.avg_pool2d(u[None, None], 2)[0, 0]  # (4, 4): u of the area under each new pixel
    K = cameras.crop_and_resize(torch.eye(3), torch.tensor([0.0, 0, 8, 8]), (4, 4))
    torch.testing.assert_close(K[0, 0] * halved + K[0, 2], cameras.pixel_centers((4, 4))[..., 0])


# --- look_at ---------------------------------------------------------------------------------------------------------
def test_look_at_puts_the_target_in_the_middle_at_its_distance_and_keeps_up_upright():
    eyes, target = random(20, 3, seed=5) * 3, torch.tensor([0.2, 1.0, -0.1], dtype=torch.float64)
    camera = Camera.look_at(eyes, target, focal=300.0, size=(120, 160))
    torch.testing.assert_close(camera.R @ camera.R.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(camera.R), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(camera.center, eyes)
    seen = camera.to_camera(target.expand(20, 1, 3))[:, 0]
    torch.testing.assert_close(seen[:, 2], (target - eyes).norm(dim=-1))
    middle = camera.project(target.expand(20, 1, 3))
    torch.testing.assert_close(middle, torch.tensor([80.0, 60.0], dtype=torch.float64).expand(20, 1, 2))
    above = camera.project((target + torch.tensor([0, 0.01, 0])).expand(20, 1, 3))
    torch.testing.assert_close(above[..., 0], middle[..., 0], atol=1e-6, rtol=0)
    assert (above[..., 1] < middle[..., 1]).all()


def test_look_at_takes_sequences_numbers_and_one_value_for_all():
    camera = Camera.look_at([[0.0, 1, 3], [1, 1, 3]], target=[0.0, 1, 0], focal=200.0, size=(10, 20))
    assert len(camera) == 2 and camera.K.dtype == torch.float32
    assert camera.K[0].tolist() == [[200, 0, 10], [0, 200, 5], [0, 0, 1]]
    assert len(Camera.look_at([0.0, 1, 3], [0.0, 1, 0])) == 1
    each = Camera.look_at([0.0, 1, 3], [0.0, 1, 0], focal=torch.tensor([100.0, 200.0, 300.0]))
    assert each.K[:, 1, 1].tolist() == [100, 200, 300]


def test_cameras_can_be_indexed_and_cannot_be_changed():
    camera = some_camera(4)
    for index in (2, -1, slice(1, 3), torch.tensor([0, 3])):
        part = camera[index]
        expected = camera.t[[index]] if isinstance(index, int) else camera.t[index]
        assert torch.equal(part.t, expected)
    assert len(list(camera)) == 4
    with pytest.raises(IndexError):
        camera[4]
    with pytest.raises(AttributeError):
        camera.t = camera.t + 1


# --- weak perspective ------------------------------------------------------------------------------------------------
def test_weak_perspective_differs_by_depth_relief_over_depth_times_the_offset():
    points = random(3, 20, 3) + torch.tensor([0.0, 0.0, 6.0])
    K = cameras.intrinsics(torch.full((3,), 200.0, dtype=torch.float64), (0, 0))
    scale = torch.full((3,), 200 / 6.0, dtype=torch.float64)
    weak = cameras.weak_perspective_project(points, scale, torch.zeros(3, 2, dtype=torch.float64))
    relief = points[..., 2:] - 6
    expected = -relief / points[..., 2:] * weak
    torch.testing.assert_close(cameras.camera_to_pixels(points, K) - weak, expected)


def test_the_weak_perspective_fit_is_exact_and_else_the_least_squares_one():
    points, scale, shift = random(4, 9, 3), torch.tensor([0.5, 1, 2, 80.0]).double(), random(4, 2, seed=1)
    found = cameras.fit_weak_perspective(points, cameras.weak_perspective_project(points, scale, shift))
    torch.testing.assert_close(found, (scale, shift))
    pixels = random(1, 9, 2, seed=2) + 3 * points[:1, :, :2]
    rows = torch.zeros(9, 2, 3, dtype=torch.float64)  # s X + b: unknowns s, b
    rows[..., 0], rows[:, 0, 1], rows[:, 1, 2] = points[0, :, :2], 1, 1
    s, bx, by = np.linalg.lstsq(rows.reshape(18, 3).numpy(), pixels.reshape(18).numpy(), rcond=None)[0]
    scale, shift = cameras.fit_weak_perspective(points[:1], pixels)
    assert scale.item() == pytest.approx(s) and shift[0].tolist() == pytest.approx([bx / s, by / s])


# --- Plücker rays ----------------------------------------------------------------------------------------------------
def test_plucker_rays_go_through_what_their_pixels_see():
    camera, size = some_camera(3), (48, 64)
    d, m = cameras.plucker_rays(camera, size).split(3, dim=-1)
    torch.testing.assert_close(d.norm(dim=-1), torch.ones(3, *size, dtype=torch.float64))
    torch.testing.assert_close((d * m).sum(-1), torch.zeros(3, *size, dtype=torch.float64), atol=1e-12, rtol=0)
    pixels = cameras.pixel_centers(size, like=d).flatten(0, 1).expand(3, -1, -1)
    for depth in (0.7, 9.0):
        seen = camera.unproject(pixels, torch.full(pixels.shape[:2], depth, dtype=torch.float64)).unflatten(1, size)
        torch.testing.assert_close(torch.linalg.cross(seen, d), m)
        assert (((seen - camera.center[:, None, None]) * d).sum(-1) > 0).all()  # away from the camera


# --- Procrustes ------------------------------------------------------------------------------------------------------
def test_procrustes_undoes_a_similarity_and_agrees_with_scipy_under_noise():
    source, R = random(10, 17, 3), cameras.axis_angle_to_matrix(random(10, 3, seed=1))
    scale, t = torch.linspace(0.3, 3, 10, dtype=torch.float64), random(10, 3, seed=2)
    target = scale[:, None, None] * source @ R.mT + t[:, None]
    torch.testing.assert_close(cameras.procrustes(source, target), (scale, R, t))
    noisy = target + 0.5 * random(10, 17, 3, seed=3)
    one, rigid, _ = cameras.procrustes(source, noisy, with_scale=False)
    assert torch.equal(one, torch.ones_like(one))
    for i in range(10):
        centred = [(v[i] - v[i].mean(0)).numpy() for v in (noisy, source)]
        np.testing.assert_allclose(rigid[i], Rotation.align_vectors(*centred)[0].as_matrix(), atol=1e-9)


def test_procrustes_is_a_minimum():
    source, target = random(5, 8, 3), random(5, 8, 3, seed=1)
    scale, R, t = cameras.procrustes(source, target)

    def error(scale, R, t):
        return (scale[:, None, None] * source @ R.mT + t[:, None] - target).square().sum((-2, -1))

    best = error(scale, R, t)
    for seed in range(20):
        turned = cameras.axis_angle_to_matrix(0.05 * random(5, 3, seed=seed)) @ R
        assert (
            error(scale * (1 + 0.05 * random(5, seed=seed)), turned, t + 0.05 * random(5, 3, seed=seed)) > best
        ).all()


def test_procrustes_never_mirrors():
    source = random(6, 9, 3)
    scale, R, _ = cameras.procrustes(source, source * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(6, dtype=torch.float64))
    assert (scale > 0).all()


def test_procrustes_has_right_gradients_also_where_an_svd_has_none():
    source, target = random(2, 6, 3).requires_grad_(), random(2, 6, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: cameras.procrustes(x, target), source)
    for diagonal in ([1.0, 1, 1], [2.0, 2, 1], [2.0, 1, 0], [3.0, 2, -1]):
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(cameras.nearest_rotation_with_gradient, matrix)


@pytest.mark.parametrize("points", [torch.zeros(2, 5, 3), torch.arange(5.0)[:, None].expand(2, 5, 3)])
def test_procrustes_is_finite_for_points_that_coincide_or_lie_on_a_line(points):
    source = points.clone().requires_grad_()
    found = cameras.procrustes(source, random(2, 5, 3, dtype=torch.float32))
    sum(value.sum() for value in found).backward()
    assert all(value.isfinite().all() for value in found) and source.grad.isfinite().all()


# --- PnP -------------------------------------------------------------------------------------------------------------
def a_view(seed, noise=0.0):
    points = random(17, 3, seed=seed) * torch.tensor([0.4, 0.6, 0.15], dtype=torch.float64)
    eye = random(1, 3, seed=seed + 100) + torch.tensor([0.0, 0.0, 4.0])
    camera = Camera.look_at(eye, [0.0, 0.0, 0.0], focal=700.0, size=(512, 512))
    return points, camera, camera.project(points[None])[0] + noise * random(17, 2, seed=seed + 200)


@pytest.mark.parametrize("seed", range(5))
def test_pnp_finds_the_pose(seed):
    points, camera, pixels = a_view(seed)
    R, t = cameras.solve_pnp(points, pixels, camera.K[0])
    torch.testing.assert_close((R, t), (camera.R[0], camera.t[0]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_pnp_fits_noisy_pixels_better_than_the_truth_and_than_kornia(seed):
    points, camera, pixels = a_view(seed, noise=2.0)

    def error(R, t):
        return (Camera(camera.K, R[None], t[None]).project(points[None])[0] - pixels).square().sum()

    theirs = kornia_geometry.solve_pnp_dlt(points[None], pixels[None], camera.K)[0]
    R, t = cameras.solve_pnp(points, pixels, camera.K[0])
    assert error(R, t) <= min(error(camera.R[0], camera.t[0]), error(theirs[:, :3], theirs[:, 3]))
    assert cameras.matrix_to_axis_angle(R @ camera.R[0].T).norm() < math.radians(6)


def test_pnp_works_far_from_the_worlds_origin_in_float32_and_in_millimetres():
    points, camera, pixels = a_view(7)
    R, t = cameras.solve_pnp(points.float(), pixels.float(), camera.K[0].float())
    assert R.dtype == t.dtype == torch.float32
    torch.testing.assert_close(R.double(), camera.R[0], atol=1e-4, rtol=0)
    R, t = cameras.solve_pnp(1000 * points, pixels, camera.K[0])
    torch.testing.assert_close((R, t / 1000), (camera.R[0], camera.t[0]), atol=1e-6, rtol=0)
    away = torch.tensor([1e4, -2e4, 5e3], dtype=torch.float64)
    R, t = cameras.solve_pnp(points + away, pixels, camera.K[0])
    torch.testing.assert_close((R, R @ away + t), (camera.R[0], camera.t[0]), atol=1e-5, rtol=0)


def test_pnp_turns_a_weak_perspective_fit_into_a_camera():
    points = random(17, 3) * torch.tensor([0.3, 0.5, 0.12], dtype=torch.float64)
    K = cameras.intrinsics(torch.tensor(800.0, dtype=torch.float64), (512, 512))
    scale, shift = torch.tensor([200.0]).double(), torch.tensor([[0.1, -0.05]]).double()
    pixels = cameras.weak_perspective_project(points[None], scale, shift)[0] + 256
    R, t = cameras.solve_pnp(points, pixels, K)
    torch.testing.assert_close(t, torch.tensor([0.1, -0.05, 800 / 200]).double(), atol=0.2, rtol=0)
    assert cameras.matrix_to_axis_angle(R).norm() < math.radians(6)


@pytest.mark.parametrize("seed", [3, 5, 6, 14, 21])
def test_pnp_on_points_that_belong_to_other_pixels_gives_a_pose_or_says_why_not(seed):
    points, pixels = random(8, 3, seed=seed), 3 * random(8, 2, seed=seed + 50)
    try:
        R, t = cameras.solve_pnp(points, pixels, torch.eye(3, dtype=torch.float64))
    except ValueError as error:
        assert "in front of it" in str(error)
    else:
        assert R.isfinite().all() and t.isfinite().all()


def test_pnp_says_when_no_pose_has_the_points_in_front(monkeypatch):
    behind = -10 * torch.eye(3, dtype=torch.float64)[2]
    monkeypatch.setattr(cameras, "refine_pose", lambda X, observed, K, R, t, steps: (R, behind))
    with pytest.raises(ValueError, match="in front of it"):
        cameras.solve_pnp(POINTS, PIXELS, K0)


def test_a_gauss_newton_step_solves_a_linear_problem():
    A, b = random(8, 3), random(8, seed=1)
    found = cameras.gauss_newton_step(lambda p: A @ p - b, torch.zeros(3, dtype=torch.float64))
    np.testing.assert_allclose(found, np.linalg.lstsq(A.numpy(), b.numpy(), rcond=None)[0], atol=1e-12)


# --- what is refused -------------------------------------------------------------------------------------------------
POINTS, CAMERA, PIXELS = a_view(0)
K0 = CAMERA.K[0]
FLAT = POINTS * torch.tensor([1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cameras.axis_angle_to_matrix(torch.zeros(4)), r"axis_angle must have shape \(..., 3\), not \(4,\)"),
        (
            lambda: cameras.axis_angle_to_matrix(torch.zeros(3, dtype=torch.int64)),
            "floating-point tensor, not torch.int",
        ),
        (lambda: cameras.axis_angle_to_matrix([0.0, 0, 1]), "floating-point tensor, not <class 'list'>"),
        (lambda: cameras.matrix_to_axis_angle(torch.zeros(3)), r"rotation must have shape \(..., 3, 3\)"),
        (lambda: cameras.camera_to_pixels(torch.zeros(5, 2), torch.eye(3)), r"points must have shape \(..., any, 3\)"),
        (lambda: cameras.camera_to_pixels(torch.zeros(5, 3), torch.eye(4)), r"K must have shape \(..., 3, 3\)"),
        (lambda: cameras.pixels_to_camera(torch.zeros(5, 2), torch.zeros(4), torch.eye(3)), r"depth must .*\(..., 5\)"),
        (lambda: cameras.crop_and_resize(torch.eye(3), torch.zeros(3), (2, 2)), r"box must have shape \(..., 4\)"),
        (lambda: Camera(torch.eye(3), torch.eye(3)[None], torch.zeros(1, 3)), r"K must have shape \(..., any, 3, 3\)"),
        (lambda: Camera(K0[None], K0.expand(2, 3, 3), torch.zeros(1, 3)), "with one B, not"),
        (lambda: Camera(K0[None, None], K0[None], torch.zeros(1, 3).double()), "with one B, not"),
        (lambda: Camera(K0[None], K0[None], torch.zeros(1, 3)), "one dtype"),
        (lambda: cameras.focal_from_fov(math.pi, 512), "between 0 and π"),
        (lambda: cameras.focal_from_fov(torch.tensor([1.0, -0.1]), 512), "between 0 and π"),
        (lambda: cameras.crop_and_resize(torch.eye(3), torch.zeros(4), (2, 2)), "must be positive"),
        (lambda: cameras.solve_pnp(POINTS[None], PIXELS[None], K0), "takes one view"),
        (lambda: CAMERA.project(POINTS), r"points must have shape \(..., any, any, 3\)"),
        (lambda: Camera.look_at([0.0, 1, 0], [0.0, 1, 0]), "eye != target"),
        (lambda: Camera.look_at([0.0, 5, 0], [0.0, 1, 0]), "not parallel to the view"),
        (lambda: Camera.look_at([0.0, 1, 3], [0.0, 1, 0], focal=0.0), "focal must be positive"),
        (lambda: Camera.look_at([0.0, float("nan"), 3], [0.0, 1, 0]), "look_at needs"),
        (lambda: cameras.fit_weak_perspective(torch.zeros(1, 5, 3), torch.zeros(1, 4, 2)), r"pixels must .*5, 2"),
        (lambda: cameras.procrustes(torch.zeros(2, 3), torch.zeros(2, 3)), "at least 3 points"),
        (lambda: cameras.procrustes(torch.zeros(5, 3), torch.zeros(4, 3)), r"target must have shape \(..., 5, 3\)"),
        (lambda: cameras.procrustes(POINTS * float("nan"), POINTS), "NaN or infinite"),
        (lambda: cameras.solve_pnp(POINTS[:5], PIXELS[:5], K0), "at least 6 points"),
        (lambda: cameras.solve_pnp(POINTS, PIXELS[:9], K0), r"pixels must have shape \(..., 17, 2\)"),
        (lambda: cameras.solve_pnp(FLAT, PIXELS, K0), "lie in a plane"),
        (lambda: cameras.solve_pnp(POINTS[:1].expand(17, 3), PIXELS, K0), "lie in a plane"),
        (lambda: cameras.solve_pnp(POINTS, PIXELS * float("nan"), K0), "NaN or infinite"),
    ],
)
def test_bad_input_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()

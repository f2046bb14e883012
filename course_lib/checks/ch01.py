"""The checks of chapter 01, Cameras, and the mistakes that they must catch."""

import math

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.nn.functional import normalize

from course_lib.chapters import cameras
from course_lib.checks import (
    Wrong,
    check_for,
    expect,
    expect_close,
    expect_gradient,
    expect_not_close,
    wrong_answer,
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normally distributed numbers, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- 01.1 ------------------------------------------------------------------------------------------------------------
@check_for("01.1")
def rodrigues(answer):
    expect_close(answer(torch.zeros(2, 3)), torch.eye(3).expand(2, 3, 3), "the rotation of a zero vector")
    quarter = torch.tensor([[0.0, 0.0, math.pi / 2]])
    right = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    found = answer(quarter)
    expect_not_close(
        found,
        right.mT,
        "this is the transposed rotation: a quarter turn about z should take x to y, yours takes y to x. "
        "Look at the sign of a [v]x, or at the order of rows and columns",
    )
    in_degrees = cameras.axis_angle_to_matrix(torch.deg2rad(quarter))
    expect_not_close(found, in_degrees, "the vector's length is in radians already: do not convert from degrees")
    cross = cameras.skew(quarter)
    unscaled = torch.eye(3) + cross * 2 / math.pi + cross @ cross
    elementwise = torch.eye(3) + cross * 2 / math.pi + cross * cross * 4 / math.pi**2
    expect_not_close(found, elementwise, "[v]x² is the matrix product `cross @ cross`, not `cross * cross`")
    message = "b is (1 - cos θ)/θ²: the matrix [v]x of the whole vector is θ times that of the unit axis, its square θ²"
    expect_not_close(found, unscaled, message)
    expect_close(found, right, "a quarter turn about z")
    vectors = random(4, 5, 3)
    expect_close(answer(vectors), cameras.axis_angle_to_matrix(vectors), "20 random vectors in a (4, 5, 3) batch")
    check_tiny_angles(answer)
    at_rest = torch.zeros(3, requires_grad=True)
    expect_gradient(answer(at_rest)[0, 1], at_rest, "at the zero vector (feed the branch not taken a safe number)")
    expect_close(answer(vectors.double()), cameras.axis_angle_to_matrix(vectors.double()), "float64 vectors", 1e-10, 0)


def check_tiny_angles(answer):
    """Between the series and the formula: the second coefficient must not be lost to cancellation."""
    tiny = torch.tensor([2e-4, 2e-4, 0.0])
    found = answer(tiny)
    expect_close(found, cameras.axis_angle_to_matrix(tiny), "a turn of 0.00028 radians")
    b = found[0, 1].item() / 4e-8  # b x y, and nothing else stands there
    message = f"at 0.00028 radians b is {b:.2f}, 0.50 was expected: 1 - cos θ cancels in float32, use 2 sin²(θ/2)"
    expect(abs(b - 0.5) < 0.01, message)


@wrong_answer("01.1", says="transposed rotation")
def transposed(axis_angle):
    return cameras.axis_angle_to_matrix(axis_angle).mT


@wrong_answer("01.1", says="radians already")
def degrees(axis_angle):
    return cameras.axis_angle_to_matrix(torch.deg2rad(axis_angle))


@wrong_answer("01.1", says="zero vector.*NaN")
def no_series(axis_angle):
    angle = axis_angle.norm(dim=-1)[..., None, None]
    cross = cameras.skew(axis_angle / angle.squeeze(-1))
    return torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross


@wrong_answer("01.1", says="gradient.*NaN")
def single_where(axis_angle):
    angle = axis_angle.norm(dim=-1)[..., None, None]
    a = torch.where(angle > 0, angle.sin() / angle, 1)
    b = torch.where(angle > 0, 2 * ((angle / 2).sin() / angle) ** 2, 0.5)
    cross = cameras.skew(axis_angle)
    return torch.eye(3, dtype=axis_angle.dtype) + a * cross + b * cross @ cross


@wrong_answer("01.1", says="cancels in float32")
def one_minus_cosine(axis_angle):
    squared = axis_angle.square().sum(-1)[..., None, None]
    small = squared < 1e-8
    angle = torch.where(small, 1, squared).sqrt()
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle**2)
    cross = cameras.skew(axis_angle)
    return torch.eye(3, dtype=axis_angle.dtype) + a * cross + b * cross @ cross


@wrong_answer("01.1", says="matrix product")
def squares_elementwise(axis_angle):
    angle = axis_angle.norm(dim=-1).clamp(min=1e-8)[..., None, None]
    cross = cameras.skew(axis_angle)
    return torch.eye(3) + angle.sin() / angle * cross + 2 * ((angle / 2).sin() / angle) ** 2 * cross * cross


@wrong_answer("01.1", says="its square θ²")
def forgot_the_length(axis_angle):
    angle = axis_angle.norm(dim=-1).clamp(min=1e-8)[..., None, None]
    cross = cameras.skew(axis_angle)  # of the vector, not of the unit axis
    return torch.eye(3) + angle.sin() * cross / angle + (1 - angle.cos()) * cross @ cross


# --- 01.2 ------------------------------------------------------------------------------------------------------------
@check_for("01.2")
def matrix_to_vector(answer):
    vectors = normalize(random(60, 3), dim=-1) * torch.linspace(0.1, 3.0, 60)[:, None]
    found = answer(cameras.axis_angle_to_matrix(vectors))
    expect_not_close(found, -vectors, "the axis points the wrong way: your vectors undo the rotation", 1e-4)
    expect_not_close(found, vectors / 2, "these are half the angles: q holds θ/2, the angle is 2 atan2(|u|, w)", 1e-4)
    expect_not_close(found, torch.rad2deg(vectors), "the length is in degrees, radians were expected", 1e-2)
    check_is_short(found)
    expect_close(found, vectors, "60 rotations by 0.1 to 3.0 radians", 1e-4)
    batched = vectors.view(3, 4, 5, 3)
    expect_close(answer(cameras.axis_angle_to_matrix(batched)), batched, "a (3, 4, 5, 3, 3) batch", 1e-4)
    check_tiny_vectors(answer)
    check_half_turns(answer)
    identity = torch.eye(3, dtype=torch.float64).requires_grad_()
    expect_gradient(answer(identity)[0], identity, "at the identity (the double where again)")


def check_is_short(found):
    """Angles above π are the same rotation the long way round."""
    if isinstance(found, Tensor) and found.is_floating_point() and bool((found.norm(dim=-1) > math.pi + 1e-3).any()):
        raise Wrong("some vectors are longer than π: q and -q are one rotation, choose the one with w >= 0")


def check_tiny_vectors(answer):
    """Where the arc cosine is blind."""
    tiny = 1e-4 * normalize(random(5, 3, seed=1), dim=-1)
    found = answer(cameras.axis_angle_to_matrix(tiny))
    expect_close(found, tiny, "rotations by 0.0001 radians (the arc cosine of the trace cannot see them)", 1e-8, 1e-3)
    expect_close(answer(torch.eye(3)), torch.zeros(3), "the identity")


def check_half_turns(answer):
    """At and just below π, where the antisymmetric part vanishes."""
    axes = torch.cat([torch.eye(3), normalize(random(5, 3, seed=2), dim=-1)])
    half = cameras.axis_angle_to_matrix(math.pi * axes)
    what = "half turns: R - Rᵀ is zero there, take the axis from the longest row of 4 q qᵀ"
    expect_close(cameras.axis_angle_to_matrix(answer(half)), half, what, 1e-4)
    exact = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    what = "the half turn diag(1, -1, -1), where w is exactly 0 (and so is its sign)"
    expect_close(cameras.axis_angle_to_matrix(answer(exact)), exact, what, 1e-4)
    nearly = (math.pi - 1e-3) * axes
    expect_close(answer(cameras.axis_angle_to_matrix(nearly)), nearly, "turns by π - 0.001", 1e-3)


@wrong_answer("01.2", says="undo the rotation")
def axis_reversed(rotation):
    return cameras.matrix_to_axis_angle(rotation.mT)


@wrong_answer("01.2", says="half the angles")
def half_angle(rotation):
    return cameras.matrix_to_axis_angle(rotation) / 2


@wrong_answer("01.2", says="w >= 0")
def no_sign(rotation):
    products = cameras.quaternion_products(rotation)
    index = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    w, u = normalize(torch.take_along_dim(products, index[..., None, None], -2).squeeze(-2), dim=-1).split([1, 3], -1)
    sine = u.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return 2 * torch.atan2(sine, w) / sine * u


@wrong_answer("01.2", says="exactly 0")
def sign_of_zero(rotation):
    products = cameras.quaternion_products(rotation)
    index = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(products, index[..., None, None], -2).squeeze(-2)
    w, u = normalize(row * row[..., :1].sign(), dim=-1).split([1, 3], -1)
    sine = u.norm(dim=-1, keepdim=True)
    return torch.where(sine < 1e-4, 2, 2 * torch.atan2(sine, w) / sine.clamp(min=1e-12)) * u


@wrong_answer("01.2", says="0.0001 radians|half turns")
def textbook(rotation):
    angle = ((rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos()[..., None]
    anti = rotation - rotation.mT
    axis = normalize(torch.stack([anti[..., 2, 1], anti[..., 0, 2], anti[..., 1, 0]], -1), dim=-1)
    return angle * axis


@wrong_answer("01.2", says="half turns|π - 0.001|NaN")
def first_row_only(rotation):
    w, u = cameras.quaternion_products(rotation)[..., 0, :].split([1, 3], -1)
    sine = u.norm(dim=-1, keepdim=True)
    return 2 * torch.atan2(sine, w) / sine.clamp(min=1e-12) * u


# --- 01.3 and 01.4 ---------------------------------------------------------------------------------------------------
K = torch.tensor([[[500.0, 0, 320], [0, 480, 240], [0, 0, 1]], [[900.0, 0, 100], [0, 900, 130], [0, 0, 1]]])
POINTS = random(2, 6, 3) + torch.tensor([0.0, 0.0, 5.0])
PIXELS = 400 * torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(3))
DEPTH = POINTS[..., 2]
RAYS = torch.cat([PIXELS, torch.ones(2, 6, 1)], -1) @ torch.linalg.inv(K).mT  # (2, 6, 3), at depth 1


@check_for("01.3")
def projection(answer):
    right = cameras.camera_to_pixels(POINTS, K)
    found = answer(POINTS, K)
    expect_not_close(found, right - 0.5, "half a pixel too small: (01.6) needs no -0.5, a picture's edge is at 0", 1e-2)
    expect_not_close(found, right + 0.5, "half a pixel too large: (01.6) needs no +0.5, a picture's edge is at 0", 1e-2)
    distance = POINTS.norm(dim=-1, keepdim=True)
    by_distance = (torch.cat([POINTS[..., :2] / distance, torch.ones(2, 6, 1)], -1) @ K.mT)[..., :2]
    expect_not_close(found, by_distance, "divide by the depth z, not by the distance to the camera", 1e-2)
    by_columns = (torch.cat([POINTS[..., :2] / DEPTH[..., None], torch.ones(2, 6, 1)], -1) @ K)[..., :2]
    expect_not_close(found, by_columns, "points are rows here: K p is `p @ K.mT`, not `p @ K`", 1e-2)
    expect_not_close(found, right.flip(-1), "u (right) comes first, then v (down): yours are swapped", 1e-2)
    expect_close(found, right, "the pixels of two cameras with six points each", 1e-2)
    expect_close(answer(POINTS[0], K[0]), right[0], "one camera without a batch", 1e-2)
    behind = torch.tensor([[[0.5, -0.5, -2.0], [0.5, -0.5, 0.0]]])
    far_off, given = cameras.camera_to_pixels(behind, K[:1]), behind.clone()
    expect_close(answer(given, K[:1]), far_off, "points behind the camera (clamp the depth to NEAREST_DEPTH)", 1.0)
    expect(torch.equal(given, behind), "the caller's points were changed: use `clamp`, not `clamp_`")


@wrong_answer("01.3", says="not by the distance")
def divides_by_distance(points, K):
    on_plane = torch.cat([points[..., :2] / points.norm(dim=-1, keepdim=True), torch.ones_like(points[..., :1])], -1)
    return (on_plane @ K.mT)[..., :2]


@wrong_answer("01.3", says="K.mT")
def forgets_transpose(points, K):
    return ((points / points[..., 2:]) @ K)[..., :2]


@wrong_answer("01.3", says="half a pixel")
def half_pixel(points, K):
    return cameras.camera_to_pixels(points, K) - 0.5


@wrong_answer("01.3", says="behind the camera")
def mirrors_what_is_behind(points, K):
    return ((points / points[..., 2:]) @ K.mT)[..., :2]


@wrong_answer("01.3", says="caller's points")
def clamps_in_place(points, K):
    points[..., 2].clamp_(min=cameras.NEAREST_DEPTH)
    return cameras.camera_to_pixels(points, K)


@check_for("01.4")
def unprojection(answer):
    right = DEPTH[..., None] * RAYS
    found = answer(PIXELS, DEPTH, K)
    along_ray = DEPTH[..., None] * normalize(RAYS, dim=-1)
    expect_not_close(found, along_ray, "you used the depth as a distance along the ray; depth is z: do not normalise")
    shifted = DEPTH[..., None] * (torch.cat([PIXELS + 0.5, torch.ones(2, 6, 1)], -1) @ torch.linalg.inv(K).mT)
    expect_not_close(found, shifted, "half a pixel off: these are pixel coordinates already, add no 0.5", 1e-4)
    expect_not_close(found, RAYS, "these are the points at depth 1: multiply by the depth")
    by_columns = DEPTH[..., None] * (torch.cat([PIXELS, torch.ones(2, 6, 1)], -1) @ torch.linalg.inv(K))
    expect_not_close(found, by_columns, "points are rows here: K⁻¹ p is `p @ torch.linalg.inv(K).mT`", 1e-2)
    expect_close(found, right, "the points of two cameras with six pixels each", 1e-4)
    expect_close(answer(cameras.camera_to_pixels(POINTS, K), DEPTH, K), POINTS, "there and back", 1e-4)
    expect_close(answer(PIXELS[1], DEPTH[1], K[1]), right[1], "one camera without a batch", 1e-4)


@wrong_answer("01.4", says="distance along the ray")
def distance_for_depth(pixels, depth, K):
    return depth[..., None] * normalize(cameras.pixels_to_camera(pixels, torch.ones_like(depth), K), dim=-1)


@wrong_answer("01.4", says="half a pixel")
def adds_half(pixels, depth, K):
    return cameras.pixels_to_camera(pixels + 0.5, depth, K)


@wrong_answer("01.4", says="points are rows")
def forgets_transpose_back(pixels, depth, K):
    return depth[..., None] * (torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(K))


@wrong_answer("01.4", says="multiply by the depth")
def at_depth_one(pixels, depth, K):
    return cameras.pixels_to_camera(pixels, torch.ones_like(depth), K)


# --- 01.5 ------------------------------------------------------------------------------------------------------------
BOXES = torch.tensor([[100.0, 40, 200, 300], [-10.0, 20, 64, 64]])


@check_for("01.5")
def cropping(answer):
    right = cameras.crop_and_resize(K, BOXES, (256, 128))
    found = answer(K, BOXES, (256, 128))
    swapped = cameras.crop_and_resize(K, BOXES, (128, 256))
    expect_not_close(found, swapped, "size is (H, W): the horizontal factor is size[1] / width", 1e-2)
    expect_not_close(found, K @ change(BOXES), "the crop changes pixels, after K made them: change @ K", 1e-2)
    no_scale = change(BOXES)
    no_scale[:, :2, 2] = -BOXES[:, :2]
    message = "the shift is scaled too, u' = s (u - left) = s u - s left: yours subtracts left after scaling"
    expect_not_close(found, no_scale @ K, message, 1e-2)
    expect_not_close(found, opencv_halves(K, BOXES), "no ½ is needed: our picture's edges are at 0 and W", 1e-3)
    expect_close(found, right, "two boxes, scaled to 256 x 128", 1e-2)
    expect_close(answer(K[0], BOXES[0], (256, 128)), right[0], "one K and one box without a batch", 1e-2)


def change(box: Tensor) -> Tensor:
    """(B, 4) -> (B, 3, 3): the change of pixels of a crop to 256 x 128."""
    return cameras.crop_and_resize(torch.eye(3), box, (256, 128))


def opencv_halves(K: Tensor, box: Tensor) -> Tensor:
    """The crop's K where pixel centres are at whole numbers."""
    halves = torch.zeros(3, 3)
    halves[:2, 2] = 0.5
    matrix = change(box) @ (K + halves)
    return matrix - halves


@wrong_answer("01.5", says="size is \\(H, W\\)")
def width_first(K, box, size):
    return cameras.crop_and_resize(K, box, size[::-1])


@wrong_answer("01.5", says="change @ K")
def wrong_side(K, box, size):
    return K @ cameras.crop_and_resize(torch.eye(3, dtype=K.dtype), box, size)


@wrong_answer("01.5", says="scaled too")
def shift_after_scale(K, box, size):
    scale = torch.stack([size[1] / box[..., 2], size[0] / box[..., 3], torch.ones_like(box[..., 0])], -1)
    cropped = K * scale[..., None]
    return cropped - torch.nn.functional.pad(box[..., :2, None], (2, 0, 0, 1))


@wrong_answer("01.5", says="no ½")
def half_pixels(K, box, size):
    return opencv_halves(K, box)


# --- 01.6 ------------------------------------------------------------------------------------------------------------
@check_for("01.6")
def looking(answer):
    forward, up = torch.tensor([[0.0, 0, -2]]), torch.tensor([[0.0, 1, 0]])
    found, right = answer(forward, up), torch.tensor([[[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]])
    upside_down = right * torch.tensor([-1.0, -1, 1])[:, None]
    message = "right points left and down points up: the order of a cross product is its sign, right = forward x up"
    expect_not_close(found, upside_down, message)
    message = "the second row points up: the camera's y axis points DOWN, and det R must be +1"
    expect_not_close(found, right * torch.tensor([1.0, -1, 1])[:, None], message)
    message = "x right and y up with z backward is OpenGL's camera; ours has y down and z forward"
    expect_not_close(found, right * torch.tensor([1.0, -1, -1])[:, None], message)
    expect_close(found, right, "a camera that looks along (0, 0, -2), a direction of length 2")
    forward, up = random(2, 4, 3), torch.tensor([0.0, 1, 0]).expand(2, 4, 3)
    found, right = answer(forward, up), cameras.look_at_rotation(forward, up)
    expect_not_close(found, right.mT, "the axes are the ROWS of R: stacked as columns they go from camera to world")
    if isinstance(found, Tensor) and found.shape == right.shape:
        lengths = found.norm(dim=-1)
        what = "the three rows must have length 1: forward x up is shorter wherever up is not perpendicular"
        expect(bool(((lengths - 1).abs() < 1e-4).all()), what)
        what = "the second row must be perpendicular to the view: down = forward x right, not -up"
        expect(bool(((found[..., 1, :] * found[..., 2, :]).sum(-1).abs() < 1e-4).all()), what)
    expect_close(found, right, "eight random directions in a (2, 4, 3) batch")


@wrong_answer("01.6", says="order of a cross product")
def cross_reversed(forward, up):
    forward = normalize(forward, dim=-1)
    right = normalize(torch.linalg.cross(up, forward), dim=-1)
    return torch.stack([right, torch.linalg.cross(forward, right), forward], -2)


@wrong_answer("01.6", says="DOWN")
def y_up(forward, up):
    R = cameras.look_at_rotation(forward, up)
    return torch.stack([R[..., 0, :], -R[..., 1, :], R[..., 2, :]], -2)


@wrong_answer("01.6", says="perpendicular to the view")
def down_is_minus_up(forward, up):
    R = cameras.look_at_rotation(forward, up)
    return torch.stack([R[..., 0, :], -normalize(up, dim=-1), R[..., 2, :]], -2)


@wrong_answer("01.6", says="ROWS")
def columns(forward, up):
    return cameras.look_at_rotation(forward, up).mT


@wrong_answer("01.6", says="length 1")
def not_normalised(forward, up):
    forward = normalize(forward, dim=-1)
    right = torch.linalg.cross(forward, up)
    return torch.stack([right, torch.linalg.cross(forward, right), forward], -2)


# --- 01.7 ------------------------------------------------------------------------------------------------------------
@check_for("01.7")
def weak_fit(answer):
    points, scale, shift = random(4, 9, 3), torch.tensor([50.0, 100, 200, 0.8]), random(4, 2, seed=1)
    found = answer(points, cameras.weak_perspective_project(points, scale, shift))
    if isinstance(found, tuple | list) and len(found) == 2:
        expect_not_close(found[0], 1 / scale, "this is one over the scale: the sum of squares of X goes below", 1e-4)
        message = "this translation is in pixels: in (01.12) t stands before the scale, so divide by s"
        expect_not_close(found[1], scale[:, None] * shift, message, 1e-2)
        not_centred = forgets_to_centre(points, cameras.weak_perspective_project(points, scale, shift))[0]
        expect_not_close(found[0], not_centred, "subtract both means before you multiply", 1e-3)
    expect_close(found, (scale, shift), "scale and translation of an exact weak-perspective picture", 1e-3)
    pixels = 40 * random(4, 9, 2, seed=2) + 100 * points[..., :2]
    what = "the least-squares fit to noisy pixels (sum over points and over both coordinates)"
    expect_close(answer(points, pixels), cameras.fit_weak_perspective(points, pixels), what, 1e-3)


@wrong_answer("01.7", says="in pixels")
def shift_in_pixels(points, pixels):
    scale, translation = cameras.fit_weak_perspective(points, pixels)
    return scale, scale[:, None] * translation


@wrong_answer("01.7", says="noisy pixels")
def ratio_of_spreads(points, pixels):
    xy = points[..., :2]
    scale = (pixels - pixels.mean(-2, keepdim=True)).norm(dim=(-2, -1)) / (xy - xy.mean(-2, keepdim=True)).norm(
        dim=(-2, -1)
    )
    return scale, pixels.mean(-2) / scale[:, None] - xy.mean(-2)


@wrong_answer("01.7", says="subtract both means")
def forgets_to_centre(points, pixels):
    xy = points[..., :2]
    scale = (xy * pixels).sum((-2, -1)) / xy.square().sum((-2, -1))
    return scale, pixels.mean(-2) / scale[:, None] - xy.mean(-2)


# --- 01.8 ------------------------------------------------------------------------------------------------------------
EYES = torch.tensor([[0.5, 1.5, 4.0], [-3.0, 0.5, 2.0]])
CAMERAS = cameras.Camera.look_at(EYES, [0.1, 1.0, 0.2], focal=torch.tensor([30.0, 45.0]), size=(12, 16))


@check_for("01.8")
def rays(answer):
    found, right = answer(CAMERAS, (12, 16)), cameras.plucker_rays(CAMERAS, (12, 16))
    direction, moment = right.split(3, dim=-1)
    expect_not_close(found, torch.cat([moment, direction], -1), "the direction comes first, then the moment")
    reverse = torch.cat([direction, -moment], -1)
    expect_not_close(found, reverse, "the moment's sign is reversed: m = o x d, not d x o")
    if isinstance(found, Tensor) and found.shape == right.shape:
        check_ray_parts(found, direction, moment)
    expect_close(found, right, "the rays of two cameras with 12 x 16 pixels")


def check_ray_parts(found, direction, moment):
    """The mistakes that show in one half of the six numbers."""
    d, m = found.split(3, dim=-1)
    turned = torch.einsum("bij,bhwj->bhwi", CAMERAS.R, direction)
    expect_not_close(d, turned, "these directions are in the camera's axes: turn them into the world with Rᵀ")
    twice = torch.einsum("bij,bhwj->bhwi", CAMERAS.R, turned)
    expect_not_close(d, twice, "these directions were turned with R, not Rᵀ: with rows, Rᵀ d is `d @ R`")
    corner = torch.stack([ray_directions(CAMERAS[i], shift=-0.5)[0] for i in range(2)])
    expect_not_close(d, corner, "these rays go through the pixels' corners: the centres are at + 0.5")
    if bool(((d.norm(dim=-1) - 1).abs() > 1e-3).any()):
        raise Wrong("the directions must have length 1: normalise them before you form the moment")
    with_t = torch.linalg.cross(CAMERAS.t[:, None, None].expand_as(direction), direction)
    expect_not_close(m, with_t, "you took t for the camera's place; that is -Rᵀ t, `camera.center`")


def ray_directions(camera, shift=0.0):
    """Unit directions in the world, through the pixel centres moved by `shift`."""
    pixels = cameras.pixel_centers((12, 16)).flatten(0, 1)[None] + shift
    through = cameras.pixels_to_camera(pixels, torch.ones(1, 192), camera.K)
    return normalize(through @ camera.R, dim=-1).unflatten(1, (12, 16))


@wrong_answer("01.8", says="sign is reversed")
def reversed_moment(camera, size):
    d, m = cameras.plucker_rays(camera, size).split(3, dim=-1)
    return torch.cat([d, -m], -1)


@wrong_answer("01.8", says="camera's axes")
def in_camera_axes(camera, size):
    d, m = cameras.plucker_rays(camera, size).split(3, dim=-1)
    return torch.cat([torch.einsum("bij,bhwj->bhwi", camera.R, d), m], -1)


@wrong_answer("01.8", says="corners")
def through_corners(camera, size):
    d = torch.cat([ray_directions(camera[i], shift=-0.5) for i in range(len(camera))])
    return torch.cat([d, torch.linalg.cross(camera.center[:, None, None].expand_as(d), d)], -1)


@wrong_answer("01.8", says="took t for the camera's place")
def t_for_center(camera, size):
    d, _ = cameras.plucker_rays(camera, size).split(3, dim=-1)
    return torch.cat([d, torch.linalg.cross(camera.t[:, None, None].expand_as(d), d)], -1)


@wrong_answer("01.8", says="length 1")
def no_unit_length(camera, size):
    return 2 * cameras.plucker_rays(camera, size)


# --- 01.9 ------------------------------------------------------------------------------------------------------------
@check_for("01.9")
def orthogonal(answer):
    vectors = random(8, 3)
    R = cameras.axis_angle_to_matrix(vectors)
    shear = random(8, 3, 3, seed=5)
    stretch = shear @ shear.mT + torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # symmetric and positive: no turn in it
    found = answer(R @ stretch)
    expect_not_close(found, R.mT, "this is the transposed rotation: R = U diag Vᵀ, and torch returns Vᵀ already", 1e-4)
    expect_close(found, R, "a rotation times a pure stretch: the rotation itself", 1e-4)
    check_guard(answer)
    matrices = random(2, 5, 3, 3, seed=4)
    message = "the guard multiplies the rows of U: the factors belong to its columns, `U * guard[..., None, :]`"
    expect_not_close(answer(matrices), guards_rows(matrices), message, 1e-4)
    expect_close(answer(matrices), cameras.nearest_rotation(matrices), "ten random matrices, (2, 5, 3, 3)", 1e-4)


def check_guard(answer):
    """Matrices with a negative determinant: the mirror that Procrustes must not use."""
    mirrored = torch.diag(torch.tensor([3.0, 2.0, -1.0]))
    found = answer(mirrored)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    expect_not_close(found, mirror, "a reflection came back (its determinant is -1): the guard is missing", 1e-4)
    expect_not_close(found, -mirror, "-U Vᵀ is a rotation, but not the nearest: flip only the smallest direction", 1e-4)
    flipped_first = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    message = "the guard flipped the direction of the LARGEST singular value: flip the last one, the smallest"
    expect_not_close(found, flipped_first, message, 1e-4)
    expect_close(found, torch.eye(3), "diag(3, 2, -1), whose nearest rotation is the identity", 1e-4)


@wrong_answer("01.9", says="guard is missing")
def no_guard(matrix):
    U, _, Vt = torch.linalg.svd(matrix)
    return U @ Vt


@wrong_answer("01.9", says="smallest")
def negated(matrix):
    U, _, Vt = torch.linalg.svd(matrix)
    return U @ Vt * torch.linalg.det(U @ Vt)[..., None, None]


@wrong_answer("01.9", says="LARGEST")
def first_column(matrix):
    U, _, Vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(U @ Vt)[..., None]
    return (U * torch.cat([sign, torch.ones_like(sign), torch.ones_like(sign)], -1)[..., None, :]) @ Vt


@wrong_answer("01.9", says="columns")
def guards_rows(matrix):
    U, _, Vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(U @ Vt)[..., None]
    return (U * torch.cat([torch.ones_like(sign), torch.ones_like(sign), sign], -1)[..., None]) @ Vt


@wrong_answer("01.9", says="transposed rotation")
def transposed_result(matrix):
    return cameras.nearest_rotation(matrix).mT


@wrong_answer("01.9", says="pure stretch")
def v_not_transposed(matrix):
    U, _, Vt = torch.linalg.svd(matrix)
    return U @ Vt.mT


# --- 01.10 -----------------------------------------------------------------------------------------------------------
def line(parameters):
    """Residuals of a straight line: linear, so one step must reach the minimum."""
    x = torch.linspace(-1, 3, 7, dtype=parameters.dtype)
    y = torch.tensor([0.3, 0.1, 1.2, 0.9, 2.0, 2.2, 2.1], dtype=parameters.dtype)
    return parameters[0] + parameters[1] * x - y


def curve(parameters):
    """Residuals of an exponential: not linear."""
    x = torch.linspace(0, 2, 9, dtype=parameters.dtype)
    return parameters[0] * torch.exp(parameters[1] * x) - 2 * torch.exp(-0.7 * x)


CURVE_START = torch.tensor([1.0, -0.2], dtype=torch.float64)
CURVE_STEP = cameras.gauss_newton_step(curve, CURVE_START)  # here, since the first Jacobian of a process is slow


@check_for("01.10")
def gauss_newton(answer):
    start = torch.tensor([1.0, -2.0])
    minimum = cameras.gauss_newton_step(line, start)
    found = answer(line, start)
    message = "the step goes uphill: it is MINUS (JᵀJ)⁻¹ Jᵀ r"
    expect_not_close(found, 2 * start - minimum, message, 1e-3)
    expect_not_close(found, minimum - start, "this is the step alone: add it to the parameters", 1e-3)
    gradient = jacobian(lambda p: line(p).square().sum(), start)
    for rate in (1.0, 0.5, 0.1, 0.01):
        message = "this is a step of gradient descent: solve the system with JᵀJ"
        expect_not_close(found, start - rate * gradient, message, 1e-3)
    expect_close(found, minimum, "the fit of a line from (1, -2): linear, so one step reaches the minimum", 1e-3)
    expect_close(answer(curve, CURVE_START), CURVE_STEP, "a step on an exponential", 1e-6)
    found, right = answer(curve, CURVE_START, 0.5), cameras.gauss_newton_step(curve, CURVE_START, 0.5)
    expect_not_close(found, CURVE_STEP, "damping makes no difference: add damping * diag(JᵀJ) to JᵀJ", 1e-6)
    mistake = damped_by_identity(curve, CURVE_START, 0.5)
    expect_not_close(found, mistake, "damp with diag(JᵀJ), not with the identity", 1e-6)
    expect_close(found, right, "a step with damping 0.5", 1e-6)


@wrong_answer("01.10", says="uphill")
def uphill(residuals, parameters, damping=0.0):
    return 2 * parameters - cameras.gauss_newton_step(residuals, parameters, damping)


@wrong_answer("01.10", says="step alone")
def step_alone(residuals, parameters, damping=0.0):
    return cameras.gauss_newton_step(residuals, parameters, damping) - parameters


@wrong_answer("01.10", says="gradient descent")
def gradient_descent(residuals, parameters, damping=0.0):
    return parameters - 0.1 * jacobian(lambda p: residuals(p).square().sum(), parameters)


@wrong_answer("01.10", says="no difference")
def undamped(residuals, parameters, damping=0.0):
    return cameras.gauss_newton_step(residuals, parameters)


@wrong_answer("01.10", says="not with the identity")
def damped_by_identity(residuals, parameters, damping=0.0):
    J = jacobian(residuals, parameters)
    normal = J.T @ J + damping * torch.eye(len(parameters), dtype=parameters.dtype)
    return parameters - torch.linalg.solve(normal, J.T @ residuals(parameters))

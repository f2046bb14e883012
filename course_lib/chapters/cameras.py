"""Cameras: made by `course build` from solutions/01_cameras.py. Edit there, never here."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

NEAREST_DEPTH = 1e-3  # metres: nothing is projected from closer to the camera plane, or from behind it


# Chapter 01
def require(name: str, tensor: Tensor, *shape: int | None) -> None:
    """ValueError unless `tensor` is a floating-point tensor whose last dimensions are `shape` (None: any length)."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, not {getattr(tensor, 'dtype', type(tensor))}")
    last = tuple(tensor.shape[tensor.ndim - len(shape) :]) if tensor.ndim >= len(shape) else ()
    if len(last) != len(shape) or any(want not in (None, have) for want, have in zip(shape, last, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape (..., {wanted}), not {tuple(tensor.shape)}")


# Chapter 01, section "2 Rotations"
def skew(vector: Tensor) -> Tensor:
    """(..., 3) -> (..., 3, 3): the matrix [v]x that turns the cross product into a product, [v]x w = v x w."""
    require("vector", vector, 3)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


# Chapter 01, section "Where it breaks: no rotation at all", exercise 01.1
def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """(..., 3) radians -> (..., 3, 3) rotation matrices. Rodrigues' formula (01.2), with its series near zero.

    The direction of the vector is the axis, its length the angle. Finite gradients everywhere, at zero too.
    """
    require("axis_angle", axis_angle, 3)
    squared = axis_angle.square().sum(-1)[..., None, None]  # (..., 1, 1)
    small = squared < 1e-8
    angle = torch.where(small, 1, squared).sqrt()  # a safe stand-in, so that no gradient is 0/0
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, 2 * ((angle / 2).sin() / angle).square())
    cross = skew(axis_angle)  # (..., 3, 3)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + a * cross + b * (cross @ cross)


# Chapter 01, section "The way back"
def quaternion_products(rotation: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4, 4): 4 q qᵀ of the unit quaternion q = (w, x, y, z), equation (01.4). Linear in R."""
    require("rotation", rotation, 3, 3)
    r = rotation
    trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    xx, yy, zz = (1 - trace + 2 * r[..., i, i] for i in range(3))
    rows = [1 + trace, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz]
    return torch.stack(rows, -1).unflatten(-1, (4, 4))


# Chapter 01, section "The way back", exercise 01.2
def matrix_to_axis_angle(rotation: Tensor) -> Tensor:
    """(..., 3, 3) rotation matrices -> (..., 3) radians, with an angle in [0, π]. The inverse of 01.1.

    Accurate and with finite gradients near 0 and near π (at exactly π the axis is v or -v: both are right).
    """
    require("rotation", rotation, 3, 3)
    products = quaternion_products(rotation)
    longest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)  # (...): its row is at least 2 long, never 0/0
    row = torch.take_along_dim(products, longest[..., None, None], dim=-2).squeeze(-2)  # (..., 4)
    row = torch.where(row[..., :1] < 0, -row, row)  # q and -q are one rotation: take the angle up to π
    w, xyz = (row / row.norm(dim=-1, keepdim=True)).split([1, 3], dim=-1)
    squared = xyz.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    sine = torch.where(small, 1, squared).sqrt()
    factor = torch.where(small, 2 + squared / 3, 2 * torch.atan2(sine, w) / sine)
    return factor * xyz


# Chapter 01, section "3 The pinhole", exercise 01.3
def camera_to_pixels(points: Tensor, K: Tensor) -> Tensor:
    """(..., N, 3) camera coordinates, metres -> (..., N, 2) pixels, equation (01.6). K is (..., 3, 3).

    A depth below NEAREST_DEPTH counts as NEAREST_DEPTH: what is behind the camera lands far outside the picture.
    """
    require("points", points, None, 3)
    require("K", K, 3, 3)
    depth = points[..., 2:].clamp(min=NEAREST_DEPTH)
    on_plane = torch.cat([points[..., :2] / depth, torch.ones_like(depth)], -1)  # (..., N, 3): at depth 1
    return (on_plane @ K.mT)[..., :2]


# Chapter 01, section "3 The pinhole", exercise 01.4
def pixels_to_camera(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """(..., N, 2) pixels and (..., N) depths (camera z, metres) -> (..., N, 3) camera coordinates, equation (01.7)."""
    require("pixels", pixels, None, 2)
    require("depth", depth, pixels.shape[-2])
    require("K", K, 3, 3)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)  # (..., N, 3)
    return depth[..., None] * (homogeneous @ torch.linalg.inv(K).mT)


# Chapter 01, section "How wide is the lens?"
def focal_from_fov(fov: Tensor | float, size: int) -> Tensor | float:
    """Field of view in radians over `size` pixels -> focal length in pixels, equation (01.8)."""
    if not torch.as_tensor((fov > 0) & (fov < math.pi)).all():
        raise ValueError(f"a field of view is between 0 and π radians, not {fov}")
    tangent = torch.tan(fov / 2) if isinstance(fov, Tensor) else math.tan(fov / 2)
    return size / 2 / tangent


# Chapter 01, section "How wide is the lens?"
def fov_from_focal(focal: Tensor | float, size: int) -> Tensor | float:
    """Focal length in pixels -> field of view in radians over `size` pixels; the inverse of `focal_from_fov`."""
    return 2 * (torch.atan(size / 2 / focal) if isinstance(focal, Tensor) else math.atan(size / 2 / focal))


# Chapter 01, section "How wide is the lens?"
def pixel_centers(size: tuple[int, int], like: Tensor | None = None) -> Tensor:
    """(H, W) -> (H, W, 2): x, y of every pixel's centre, at integer + 0.5; dtype and device of `like`."""
    height, width = size
    like = torch.empty(0) if like is None else like
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


# Chapter 01, section "A crop is another camera", exercise 01.5
def crop_and_resize(K: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """K of the picture that is cut out by `box` and scaled to `size` = (H, W): equation (01.9).

    K (..., 3, 3); box (..., 4) = left, top, width, height in pixels (it may reach outside) -> (..., 3, 3).
    """
    require("K", K, 3, 3)
    require("box", box, 4)
    if not (box[..., 2:] > 0).all():
        raise ValueError("box is left, top, width, height: width and height must be positive")
    left, top, width, height = box.unbind(-1)
    zero, one = torch.zeros_like(left), torch.ones_like(left)
    x, y = size[1] / width, size[0] / height
    change = torch.stack([x, zero, -x * left, zero, y, -y * top, zero, zero, one], -1).unflatten(-1, (3, 3))
    return change @ K


# Chapter 01, section "4 Where the camera stands", exercise 01.6
def look_at_rotation(forward: Tensor, up: Tensor) -> Tensor:
    """World -> camera rotation of a camera that looks along `forward` with `up` upright in its picture.

    forward (..., 3) of any length, up (..., 3) not parallel to it -> (..., 3, 3), rows right, down, forward (01.10).
    """
    require("forward", forward, 3)
    require("up", up, 3)
    forward = torch.nn.functional.normalize(forward, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward], -2)


# Chapter 01, section "4 Where the camera stands"
def intrinsics(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """focal (B,) pixels and (H, W) -> K (B, 3, 3): square pixels, principal point in the middle of the picture."""
    K = torch.zeros(*focal.shape, 3, 3, dtype=focal.dtype, device=focal.device)
    K[..., 0, 0] = K[..., 1, 1] = focal
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = size[1] / 2, size[0] / 2, 1
    return K


# Chapter 01, section "4 Where the camera stands"
@dataclass(frozen=True)
class Camera:
    """B pinhole cameras: K (B, 3, 3) pixels, R (B, 3, 3) and t (B, 3) metres, world -> camera: x_c = R x_w + t."""

    K: Tensor
    R: Tensor
    t: Tensor

    def __post_init__(self):
        require("K", self.K, None, 3, 3)
        require("R", self.R, None, 3, 3)
        require("t", self.t, None, 3)
        shapes = [tuple(part.shape) for part in (self.K, self.R, self.t)]
        if shapes != [(len(self.K), 3, 3), (len(self.K), 3, 3), (len(self.K), 3)]:
            raise ValueError(f"K, R, t must be (B, 3, 3), (B, 3, 3), (B, 3) with one B, not {shapes}")
        if len({(part.dtype, part.device) for part in (self.K, self.R, self.t)}) > 1:
            raise ValueError("K, R and t must have one dtype and one device")

    def __len__(self) -> int:
        return len(self.K)

    def __getitem__(self, index) -> "Camera":
        """Some of the cameras, still batched: `camera[2]` and `camera[2:3]` are both one camera with B = 1."""
        if isinstance(index, int):
            index = range(len(self))[index]  # IndexError past the end, so that a loop over the cameras ends
            index = slice(index, index + 1)
        return Camera(self.K[index], self.R[index], self.t[index])

    def to(self, *args, **kwargs) -> "Camera":
        """The cameras on another device or in another dtype, as `Tensor.to`."""
        return Camera(self.K.to(*args, **kwargs), self.R.to(*args, **kwargs), self.t.to(*args, **kwargs))

    @property
    def center(self) -> Tensor:
        """(B, 3): where the cameras stand in the world, -Rᵀ t."""
        return -(self.t[:, None] @ self.R).squeeze(1)

    def to_camera(self, points: Tensor) -> Tensor:
        """(B, N, 3) world -> (B, N, 3) camera coordinates, metres."""
        require("points", points, None, None, 3)
        return points @ self.R.mT + self.t[:, None]

    def to_world(self, points: Tensor) -> Tensor:
        """(B, N, 3) camera -> (B, N, 3) world coordinates, metres."""
        require("points", points, None, None, 3)
        return (points - self.t[:, None]) @ self.R

    def project(self, points: Tensor) -> Tensor:
        """(B, N, 3) world, metres -> (B, N, 2) pixels."""
        return camera_to_pixels(self.to_camera(points), self.K)

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """(B, N, 2) pixels and (B, N) depth (camera z, metres) -> (B, N, 3) world."""
        return self.to_world(pixels_to_camera(pixels, depth, self.K))

    def cropped(self, box: Tensor, size: tuple[int, int]) -> "Camera":
        """The cameras of the pictures cut out by box (B, 4) = left, top, width, height and scaled to (H, W)."""
        return Camera(crop_and_resize(self.K, box, size), self.R, self.t)

    @classmethod
    def look_at(cls, eye, target, up=(0.0, 1.0, 0.0), focal: float | Tensor = 512.0, size=(512, 512)) -> "Camera":
        """Cameras at eye (B, 3) that see target (B, 3) in the middle of an (H, W) picture, `up` upright.

        eye, target, up (tensors or sequences) and focal (pixels, a number or (B,)) broadcast over B. ValueError where
        eye = target, up is parallel to the view, or focal is not positive.
        """
        eye = eye if isinstance(eye, Tensor) else torch.tensor(eye, dtype=torch.float32)
        require("eye", eye, 3)
        target, up, focal = (torch.as_tensor(v, dtype=eye.dtype, device=eye.device) for v in (target, up, focal))
        rows = [eye.reshape(-1, 3), target.reshape(-1, 3), up.reshape(-1, 3), focal.reshape(-1, 1)]
        eye, target, up, focal = torch.broadcast_tensors(*rows)  # (B, 3) each
        focal, forward = focal[:, 0], target - eye
        if not bool((focal > 0).all()):
            raise ValueError("focal must be positive: it is a length in pixels")
        sine = torch.linalg.cross(forward, up).norm(dim=-1) / (forward.norm(dim=-1) * up.norm(dim=-1))
        if not bool((sine > 1e-4).all()):  # NaN where eye = target
            raise ValueError("look_at needs eye != target and an up that is not parallel to the view: give another up")
        R = look_at_rotation(forward, up)
        return cls(intrinsics(focal, size), R, -(R @ eye[..., None]).squeeze(-1))


# Chapter 01, section "6 Weak perspective"
def weak_perspective_project(points: Tensor, scale: Tensor, translation: Tensor) -> Tensor:
    """(B, N, 3), camera axes -> (B, N, 2): s (X_xy + t), equation (01.12); MPT supplement F, HMR, METRO.

    scale (B,), translation (B, 2), in the unit of `points`. The result has the unit of `scale` times metres: pixels
    from the principal point, or [-1, 1] over a crop, as the caller's scale says.
    """
    require("points", points, None, 3)
    require("translation", translation, 2)
    return scale[..., None, None] * (points[..., :2] + translation[..., None, :])


# Chapter 01, section "6 Weak perspective", exercise 01.7
def fit_weak_perspective(points: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares weak-perspective camera: (B, N, 3) and (B, N, 2) -> scale (B,), translation (B, 2), (01.15).

    `pixels` are measured from the principal point.
    """
    require("points", points, None, 3)
    require("pixels", pixels, points.shape[-2], 2)
    middle, pixel_middle = points[..., :2].mean(-2), pixels.mean(-2)  # (B, 2)
    centred, pixels_centred = points[..., :2] - middle[..., None, :], pixels - pixel_middle[..., None, :]
    scale = (centred * pixels_centred).sum((-2, -1)) / centred.square().sum((-2, -1))
    return scale, pixel_middle / scale[..., None] - middle


# Chapter 01, section "7 Plücker rays", exercise 01.8
def plucker_rays(camera: Camera, size: tuple[int, int]) -> Tensor:
    """(B, H, W, 6): of every pixel's ray the unit direction d and the moment m = o x d, in world coordinates.

    HumanRAM, LVSM (whose code stores the moment first). The ray goes through the pixel's centre.
    """
    pixels = pixel_centers(size, like=camera.K).flatten(0, 1).expand(len(camera), -1, -1)  # (B, HW, 2)
    through = pixels_to_camera(pixels, torch.ones_like(pixels[..., 0]), camera.K)  # (B, HW, 3), camera axes
    direction = torch.nn.functional.normalize(through @ camera.R, dim=-1)  # row vectors times R: Rᵀ d
    moment = torch.linalg.cross(camera.center[:, None], direction)
    return torch.cat([direction, moment], -1).unflatten(1, size)  # (B, H, W, 6)


# Chapter 01, section "8 Procrustes", exercise 01.9
def nearest_rotation(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3, 3): the rotation R with the largest tr(Rᵀ M), equation (01.19). Never a reflection."""
    require("matrix", matrix, 3, 3)
    U, _, Vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(U @ Vt)[..., None]  # (..., 1): -1 where the best orthogonal matrix is a mirror
    guard = torch.cat([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    return (U * guard[..., None, :]) @ Vt


# Chapter 01, section "8 Procrustes"
def nearest_rotation_with_gradient(matrix: Tensor) -> Tensor:
    """`nearest_rotation` with exact gradients also where singular values coincide (where the SVD's own are NaN).

    One Newton step from the detached answer: it moves nothing, and its derivative is that of the answer.
    """
    R = nearest_rotation(matrix.detach())
    H = R.mT @ matrix  # (..., 3, 3): symmetric at the answer
    identity = torch.eye(3, dtype=H.dtype, device=H.device)
    curvature = (H.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * identity - (H + H.mT) / 2).detach()
    twist = torch.stack([H[..., 2, 1] - H[..., 1, 2], H[..., 0, 2] - H[..., 2, 0], H[..., 1, 0] - H[..., 0, 1]], -1)
    step = torch.linalg.pinv(curvature, rtol=1e-5, hermitian=True) @ twist[..., None]  # an undetermined turn: zero
    return R @ axis_angle_to_matrix(step.squeeze(-1))


# Chapter 01, section "8 Procrustes"
def procrustes(source: Tensor, target: Tensor, with_scale: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The similarity that best moves source onto target: target ~ scale R source + t, equations (01.17)-(01.20).

    source, target (..., N, 3), N >= 3 -> scale (...), R (..., 3, 3), t (..., 3). Without scale it is 1. A source whose
    points coincide gets scale 0, not NaN. Finite gradients everywhere.
    """
    require("source", source, None, 3)
    require("target", target, *source.shape[-2:])
    if source.shape[-2] < 3:
        raise ValueError(f"procrustes needs at least 3 points to fix a rotation, not {source.shape[-2]}")
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)  # (..., 1, 3)
    x, y = source - source_mean, target - target_mean
    M = y.mT @ x  # (..., 3, 3)
    if not M.isfinite().all():
        raise ValueError("procrustes got NaN or infinite points: leave out the ones that are not known")
    R = nearest_rotation_with_gradient(M)
    variance = x.square().sum((-2, -1))
    variance = torch.where(variance > 0, variance, 1)  # coinciding points: 0 / 1, not 0 / 0
    scale = (R * M).sum((-2, -1)) / variance if with_scale else torch.ones_like(variance)
    t = target_mean - scale[..., None, None] * source_mean @ R.mT
    return scale, R, t.squeeze(-2)


# Chapter 01, section "9 PnP: where was the camera?", exercise 01.10
def gauss_newton_step(residuals: Callable[[Tensor], Tensor], parameters: Tensor, damping: float = 0.0) -> Tensor:
    """One step towards the parameters (P,) with the smallest sum of squared residuals (M,), equation (01.24).

    damping 0 is Gauss-Newton; larger is more careful (Levenberg-Marquardt). Returns the new parameters (P,).
    """
    J = jacobian(residuals, parameters, vectorize=True)  # (M, P)
    r = residuals(parameters)  # (M,)
    normal = J.T @ J
    normal = normal + damping * torch.diag(normal.diagonal())
    return parameters - torch.linalg.solve(normal, J.T @ r)


# Chapter 01, section "9 PnP: where was the camera?"
def pnp_start(points: Tensor, rays: Tensor) -> Tensor:
    """DLT: (N, 3) world points and (N, 2) = x/z, y/z of their rays -> a first rotation (3, 3), (01.22)."""
    X = torch.cat([points, torch.ones_like(points[:, :1])], -1)  # (N, 4)
    zero = torch.zeros_like(X)
    rows = torch.cat([torch.cat([X, zero, -rays[:, :1] * X], -1), torch.cat([zero, X, -rays[:, 1:] * X], -1)])
    _, values, Vt = torch.linalg.svd(rows, full_matrices=True)  # (2N, 12)
    if values[-2] < 1e-10 * values[0]:
        raise ValueError("these points do not fix a camera (more than one fits exactly): add points or spread them out")
    P = Vt[-1].view(3, 4)
    P = P * (X @ P[2]).mean().sign()  # of P and -P, the one with the points in front of it
    return nearest_rotation(P[:, :3])


# Chapter 01, section "9 PnP: where was the camera?"
def pnp_translation(points: Tensor, rays: Tensor, R: Tensor) -> Tensor:
    """The translation (3,) that goes best with a rotation: linear, since x (r₃X + t_z) = r₁X + t_x."""
    turned = points @ R.T  # (N, 3)
    identity = torch.eye(2, dtype=points.dtype).expand(len(points), 2, 2)
    A = torch.cat([identity, -rays[..., None]], -1)  # (N, 2, 3)
    b = rays * turned[:, 2:] - turned[:, :2]  # (N, 2)
    return torch.linalg.lstsq(A.flatten(0, 1), b.flatten()[:, None]).solution[:, 0]


# Chapter 01, section "9 PnP: where was the camera?"
def check_pnp_points(points: Tensor, pixels: Tensor, K: Tensor) -> None:
    """ValueError for points that cannot fix a camera pose, and for more than one view."""
    if not points.ndim == pixels.ndim == K.ndim == 2:
        raise ValueError("solve_pnp takes one view: points (N, 3), pixels (N, 2), K (3, 3)")
    if len(points) < 6:
        raise ValueError(f"solve_pnp needs at least 6 points for its linear start, not {len(points)}")
    if not (torch.isfinite(points).all() and torch.isfinite(pixels).all()):
        raise ValueError("solve_pnp got NaN or infinite points: leave out the ones that were not seen")
    spread = torch.linalg.svdvals((points - points.mean(0)).double())
    if spread[2] < 1e-4 * spread[0]:
        raise ValueError("the points lie in a plane (or on a line): solve_pnp needs points that spread in depth too")


# Chapter 01, section "9 PnP: where was the camera?"
def refine_pose(points: Tensor, pixels: Tensor, K: Tensor, R: Tensor, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Damped Gauss-Newton on the reprojection error (01.23); every step turns R by a small axis-angle vector."""

    def residuals(change: Tensor) -> Tensor:
        turned = points @ (axis_angle_to_matrix(change[:3]) @ R).T + t + change[3:]
        return (camera_to_pixels(turned, K) - pixels).flatten()

    zero, damping = torch.zeros(6, dtype=points.dtype), 1e-3
    for _ in range(steps):
        change = gauss_newton_step(residuals, zero, damping)
        if residuals(change).square().sum() < residuals(zero).square().sum():
            R, t, damping = axis_angle_to_matrix(change[:3]) @ R, t + change[3:], damping / 10
        else:
            damping = damping * 10
        if change.abs().max() < 1e-10 or damping > 1e8:
            break
    return R, t


# Chapter 01, section "9 PnP: where was the camera?"
@torch.no_grad()
def solve_pnp(points: Tensor, pixels: Tensor, K: Tensor, steps: int = 50) -> tuple[Tensor, Tensor]:
    """The camera pose from N >= 6 points: (N, 3) world, (N, 2) pixels, K (3, 3) -> R (3, 3), t (3,); world -> camera.

    DLT, then damped Gauss-Newton on the reprojection error. Works in float64 inside, gives no gradients. ValueError
    for fewer than 6 points, for points in a plane, and where no pose sees the points in front of the camera.
    """
    require("points", points, None, 3)
    require("pixels", pixels, points.shape[-2], 2)
    require("K", K, 3, 3)
    check_pnp_points(points, pixels, K)
    X, K64, observed = points.double().cpu(), K.double().cpu(), pixels.double().cpu()
    middle = X.mean(0)
    X = X - middle  # a world's origin far away would only cost digits
    rays = pixels_to_camera(observed, torch.ones_like(observed[:, 0]), K64)[:, :2]
    R = pnp_start(X, rays)
    t = pnp_translation(X, rays, R)
    try:
        R, t = refine_pose(X, observed, K64, R, t, steps)
    except torch.linalg.LinAlgError:  # from there no step leads anywhere
        t = torch.full_like(t, -torch.inf)
    if not ((X @ R.T + t)[:, 2] > NEAREST_DEPTH).all():
        raise ValueError("no camera pose sees these points in front of it: are points and pixels in the same order?")
    return R.to(points), (t - R @ middle).to(points)


# course build sealed the text above: 05a16fe73905e52e

"""MPT, mesh pretraining: made by `course build` from solutions/13_mpt_pretraining.py. Edit there, never here."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from course_lib.chapters.cameras import NEAREST_DEPTH, Camera, axis_angle_to_matrix, matrix_to_axis_angle, require, skew


# Chapter 13, section "The four cameras of Human3.6M"
@dataclass(frozen=True)
class Calibration:
    """A camera of Human3.6M as published. quaternion: w, x, y, z, camera -> world; place: millimetres, world with z up;
    focal, center, size: x and y, pixels. Lens distortion is left out."""

    quaternion: tuple[float, float, float, float]
    place: tuple[float, float, float]
    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]


H36M_CAMERAS = {  # subject 1; numbers of facebookresearch/VideoPose3D, common/h36m_dataset.py
    "54138969": Calibration(
        (0.14070565, -0.15007018, -0.75524080, 0.62232804), (1841.107, 4955.285, 1563.445),
        (1145.0494, 1143.7811), (512.5415, 515.4515), (1000, 1002),
    ),
    "55011271": Calibration(
        (0.61571878, -0.76483631, -0.14833826, 0.11794741), (1761.279, -5078.007, 1606.265),
        (1149.6757, 1147.5917), (508.8486, 508.0649), (1000, 1000),
    ),
    "58860488": Calibration(
        (0.14651473, -0.14647852, 0.76530236, -0.60941756), (-1846.778, 5215.046, 1491.972),
        (1149.1407, 1148.7990), (519.8159, 501.4026), (1000, 1000),
    ),
    "60457274": Calibration(
        (0.58340085, -0.78531623, 0.14548823, -0.14749594), (-1794.790, -3722.699, 1574.893),
        (1145.5114, 1144.7739), (514.9682, 501.8820), (1000, 1002),
    ),
}  # fmt: skip
RING = ("54138969", "58860488", "60457274", "55011271")  # once around the room
ORDER = ("60457274", "54138969", "55011271", "58860488")  # one camera, two, four: the front, then across

H36M_TO_COURSE = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))  # z up -> y up


# Chapter 13, section "The four cameras of Human3.6M"
def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(..., 4) w, x, y, z -> rotations (..., 3, 3), equation (13.1). Of any length but 0; q and -q are one rotation."""
    require("quaternion", quaternion, 4)
    w, v = normalize(quaternion, dim=-1).split([1, 3], dim=-1)
    cross = skew(v)  # (..., 3, 3)
    return torch.eye(3).to(cross) + 2 * w[..., None] * cross + 2 * cross @ cross


# Chapter 13, section "The four cameras of Human3.6M"
def h36m_cameras(names: tuple[str, ...] = RING) -> Camera:
    """Human3.6M's cameras in the course's world: metres, y up, the origin on the floor. MPT supplement B."""
    found = [H36M_CAMERAS[name] for name in names]
    turn = torch.tensor(H36M_TO_COURSE, dtype=torch.float64)
    quaternion = torch.tensor([c.quaternion for c in found], dtype=torch.float64)
    R = quaternion_to_matrix(quaternion).mT @ turn.T  # (S, 3, 3): our world -> theirs -> the camera
    place = torch.tensor([c.place for c in found], dtype=torch.float64) / 1000 @ turn.T  # (S, 3) metres
    K = torch.tensor([[[c.focal[0], 0, c.center[0]], [0, c.focal[1], c.center[1]], [0, 0, 1]] for c in found])
    return Camera(K.double(), R, -(R @ place[..., None])[..., 0]).to(torch.float32)


# Chapter 13, section "Four more, in between", exercise 13.1
def interpolate_cameras(first: Camera, second: Camera, amount: float = 0.5) -> Camera:
    """Cameras (B) between two others (B), `amount` of the way: on the ring, equation (13.2). MPT supplement C, Fig. 1.

    The vertical axis through the world's origin is the ring's. The azimuth takes the shorter way round.
    """
    places = torch.stack([first.center, second.center])  # (2, B, 3)
    radius = places[..., [0, 2]].norm(dim=-1)  # (2, B)
    azimuth = torch.atan2(places[..., 0], places[..., 2])
    difference = torch.remainder(azimuth[1] - azimuth[0] + torch.pi, 2 * torch.pi) - torch.pi
    angle = azimuth[0] + amount * difference
    r, h = torch.lerp(radius[0], radius[1], amount), torch.lerp(places[0, :, 1], places[1, :, 1], amount)
    center = torch.stack([r * angle.sin(), h, r * angle.cos()], -1)
    R = axis_angle_to_matrix(amount * matrix_to_axis_angle(second.R @ first.R.mT)) @ first.R
    return Camera(torch.lerp(first.K, second.K, amount), R, -(R @ center[..., None])[..., 0])


# Chapter 13, section "Four more, in between"
def virtual_cameras(views: int = 4) -> Camera:
    """The first 1, 2 or 4 of Human3.6M's cameras, or (8) these and the four in between. MPT Table 2.

    Which cameras one and two are the paper does not say. Ours: the one in front, then the one across the room.
    """
    if views not in (1, 2, 4, 8):
        raise ValueError(f"there are 1, 2, 4 or 8 virtual cameras, not {views}")
    if views < 8:
        return h36m_cameras(ORDER[:views])
    real, ring = h36m_cameras(ORDER), h36m_cameras(RING)
    between = interpolate_cameras(ring, ring[[1, 2, 3, 0]])
    return Camera(*(torch.cat([getattr(real, part), getattr(between, part)]) for part in ("K", "R", "t")))


# Chapter 13, section "People in the room"
def place(vertices: Tensor, generator: torch.Generator, spread: float = 0.5) -> Tensor:
    """Where people stand: vertices (B, V, 3), pelvis at the origin -> translations (B, 3) that put the lowest vertex
    on the floor (y = 0) and the pelvis up to `spread` metres from the room's middle in x and z."""
    require("vertices", vertices, None, 3)
    aside = (2 * torch.rand(len(vertices), 2, generator=generator) - 1).to(vertices) * spread
    return torch.stack([aside[:, 0], -vertices[..., 1].amin(1), aside[:, 1]], -1)


# Chapter 13, section "People in the room"
def crop(camera: Camera, points: Tensor, size: int = 224, margin: float | Tensor = 1.2) -> Camera:
    """Cameras of the square crops (size x size) around people: points (B, N, 3), in the world, decide on the box.

    margin (a number or (B,)): the crop's side in sides of the tight box. ValueError for a person who reaches behind
    the camera, and for a box of no size.
    """
    require("points", points, None, None, 3)
    seen = points.isfinite().all(-1) & (camera.to_camera(points)[..., 2] > NEAREST_DEPTH)  # (B, N)
    if not seen.all():
        person = int((~seen).any(1).nonzero()[0])
        raise ValueError(
            f"person {person} reaches behind the camera or isn't finite: move camera or people, mend poses"
        )
    pixels = camera.project(points)  # (B, N, 2)
    low, high = pixels.amin(1), pixels.amax(1)
    side = (high - low).amax(-1) * margin  # (B,)
    if not (side > 0).all():
        raise ValueError("a box has no size: give at least two points that project apart, and a positive margin")
    corner = (low + high - side[:, None]) / 2
    return camera.cropped(torch.cat([corner, side[:, None], side[:, None]], 1), (size, size))


# Chapter 13, section "People in the room"
def to_crop(camera: Camera, points: Tensor, size: int = 224) -> Tensor:
    """Points (B, N, 3), in the world -> crop coordinates (B, N, 2), -1 to 1 over the crop; NaN behind the camera.

    `camera` is the crop's own, `crop(...)`; `size` the side of the crop that it was made for."""
    behind = camera.to_camera(points)[..., 2:] <= NEAREST_DEPTH
    return (2 * camera.project(points) / size - 1).masked_fill(behind, torch.nan)


# Chapter 13, section "People in the room"
@dataclass(frozen=True)
class Views:
    """People before cameras: the crops' cameras (B), where the people stand (B, 3), joints in crop coordinates
    (B, K, 2). The mesh in the camera's axes, pelvis at the origin, is `vertices @ camera.R.mT`."""

    camera: Camera
    translation: Tensor
    points: Tensor


# Chapter 13, section "People in the room"
def look(
    vertices: Tensor,
    joints: Tensor,
    cameras: Camera,
    generator: torch.Generator,
    margin: tuple[float, float] = (1.2, 1.2),
) -> Views:
    """Put people (vertices (B, V, 3), joints (B, K, 3), pelvis at the origin) into the room, each before one of the
    cameras (B), and crop around them, looser or tighter at random within `margin`. ValueError as in `crop`."""
    translation = place(vertices, generator)
    loose = margin[0] + (margin[1] - margin[0]) * torch.rand(len(vertices), generator=generator)
    step = max(1, vertices.shape[1] // 3000)  # 3000 vertices know the box to about one pixel of 224
    camera = crop(cameras, vertices[:, ::step] + translation[:, None], margin=loose)
    return Views(camera, translation, to_crop(camera, joints + translation[:, None]))


# Chapter 13, section "2 From meshes to heatmaps"
def sigma_for(size: int) -> float:
    """The Gaussians' standard deviation in pixels of a map: 2 at 112, 4 at 224, at least 1. Our choice."""
    return max(1.0, size / 56)


# Chapter 13, section "2 From meshes to heatmaps", exercise 13.2
def synthesize_heatmaps(points: Tensor, size: int, sigma: float) -> Tensor:
    """Points (B, K, 2) in crop coordinates, x and y -> heatmaps (B, K, size, size), equation (13.4); sigma in pixels.

    1 where a pixel's centre is the point. Zero for a point that is NaN: behind the camera, or not found.
    """
    require("points", points, None, None, 2)
    if size < 1 or not sigma > 0:
        raise ValueError(f"maps of {size} pixels with sigma {sigma}: both must be positive")
    pixels = (points + 1) * size / 2  # (B, K, 2)
    centers = torch.arange(size, dtype=points.dtype, device=points.device) + 0.5
    distance = centers - pixels[..., None]  # (B, K, 2, size)
    row, column = torch.exp(-distance.square() / (2 * sigma**2)).nan_to_num(0.0).unbind(2)
    return column[..., :, None] * row[..., None, :]  # (B, K, size, size)


# Chapter 13, section "Masked heatmap modelling", exercise 13.3
def mask_heatmaps(heatmaps: Tensor, generator: torch.Generator, most: float = 0.3) -> Tensor:
    """Heatmaps (B, K, H, W) with whole maps set to 0: of each sample a share, uniform in [0, most), rounded down.

    MPT's masked heatmap modelling, with METRO's amount. `most` below 1: a sample without any map shows nothing.
    """
    require("heatmaps", heatmaps, None, None, None, None)
    if not 0 <= most < 1:
        raise ValueError(f"most is {most}: from 0 to below 1, for with all maps masked there is nothing to learn from")
    batch, channels = heatmaps.shape[:2]
    share = most * torch.rand(batch, 1, generator=generator)
    rank = torch.rand(batch, channels, generator=generator).argsort(1).argsort(1)  # (B, K)
    kept = rank >= (share * channels).floor()
    return heatmaps * kept[..., None, None].to(heatmaps)


# Chapter 13, section "Masked heatmap modelling"
def mask_patches(heatmaps: Tensor, generator: torch.Generator, patches: int = 7, most: float = 0.3) -> Tensor:
    """Heatmaps (B, K, H, W), dark in squares of a grid of patches x patches, the same in all maps of a sample.

    Of each sample a share of the squares, uniform in [0, most), rounded down. ValueError as in `mask_heatmaps`.
    """
    squares = torch.ones(len(heatmaps), patches * patches, 1, 1)
    kept = mask_heatmaps(squares, generator, most).view(-1, 1, patches, patches)
    return heatmaps * interpolate(kept, heatmaps.shape[-2:], mode="nearest").to(heatmaps)


# Chapter 13, section "What a detector gets wrong", exercise 13.4
def jittered(points: Tensor, generator: torch.Generator, noise: float = 1.0, dropped: float = 0.1) -> Tensor:
    """Points (B, K, 2) in crop coordinates as a detector would find them: off by normal noise, some missing (NaN).

    noise: standard deviation in x and in y, pixels of a map of 112; dropped: the chance of a joint to be missing.
    """
    require("points", points, None, None, 2)
    if noise < 0 or not 0 <= dropped <= 1:
        raise ValueError(f"noise {noise} and dropped {dropped}: noise is not negative, a chance lies between 0 and 1")
    off = noise * 2 / 112 * torch.randn(points.shape, generator=generator).to(points)
    lost = torch.rand(points.shape[:2], generator=generator) < dropped  # (B, K)
    return (points + off).masked_fill(lost[..., None].to(points.device), torch.nan)


# Chapter 13, section "What a detector gets wrong"
def with_spurious(heatmaps: Tensor, generator: torch.Generator, sigma: float, chance: float = 0.02) -> Tensor:
    """Heatmaps (B, K, S, S), some with a second dot at a random place: each map with this chance. Our choice."""
    require("heatmaps", heatmaps, None, None, None, heatmaps.shape[-2] if heatmaps.ndim == 4 else None)
    places = (2 * torch.rand(*heatmaps.shape[:2], 2, generator=generator) - 1).to(heatmaps)
    hit = torch.rand(heatmaps.shape[:2], generator=generator) < chance  # (B, K)
    dots = synthesize_heatmaps(places[hit][:, None], heatmaps.shape[-1], sigma)[:, 0]  # (n, S, S)
    result = heatmaps.clone()
    result[hit] = torch.maximum(result[hit], dots)
    return result


# Chapter 13, section "What a detector gets wrong"
@dataclass(frozen=True)
class Flaws:
    """How imperfect synthesised heatmaps are. noise: pixels of 112; dropped, spurious: chances of a joint and a map;
    masked: the most that masking hides; patches: 0 masks whole maps, else squares of a grid this wide."""

    noise: float = 1.0
    dropped: float = 0.1
    spurious: float = 0.02
    masked: float = 0.3
    patches: int = 0


PERFECT = Flaws(0.0, 0.0, 0.0, 0.0)


# Chapter 13, section "What a detector gets wrong"
def flawed_heatmaps(points: Tensor, size: int, generator: torch.Generator, flaws: Flaws = Flaws()) -> Tensor:
    """Points (B, K, 2) in crop coordinates -> heatmaps (B, K, size, size) as a training batch has them."""
    sigma = sigma_for(size)
    maps = synthesize_heatmaps(jittered(points, generator, flaws.noise, flaws.dropped), size, sigma)
    maps = with_spurious(maps, generator, sigma, flaws.spurious)
    if flaws.patches:
        return mask_patches(maps, generator, flaws.patches, flaws.masked)
    return mask_heatmaps(maps, generator, flaws.masked)


# course build sealed the text above: 721f36939999514a

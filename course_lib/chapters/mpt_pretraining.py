"""MPT, mesh pretraining: made by `course build` from solutions/13_mpt_pretraining.py. Edit there, never here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from course_lib.chapters.cameras import (
    NEAREST_DEPTH,
    Camera,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    require,
    skew,
    weak_perspective_project,
)
from course_lib.chapters.rendering import rasterize
from course_lib.chapters.transformers import Attention, Mlp
from course_lib.recipe import Batch, Linear, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved


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


# Chapter 13, section "4 Coarse meshes"
@dataclass(frozen=True)
class Levels:
    """A mesh at several resolutions, from fine to coarse.

    size: vertices of the mesh that was decimated. index: of each level, the numbers (V_l,) of its vertices in that
    mesh; points (V_l, 3) metres in the rest pose; faces (F_l, 3) into its own points. down: from each level to the
    next, (V_l+1, V_l), sparse; up: the linear way back, (V_l, V_l+1). regressor (J, V_0): joints of the finest level.
    """

    size: int
    index: tuple[np.ndarray, ...]
    points: tuple[np.ndarray, ...]
    faces: tuple[np.ndarray, ...]
    down: tuple[csr_array, ...]
    up: tuple[csr_array | np.ndarray, ...]
    regressor: np.ndarray | None = None

    def all(self, vertices: Tensor) -> list[Tensor]:
        """A mesh (B, size, 3), or its finest level (B, V_0, 3) -> every level (B, V_l, 3). ValueError for a mesh of
        another body."""
        if vertices.ndim != 3 or vertices.shape[1] not in (self.size, len(self.index[0])) or vertices.shape[2] != 3:
            found = tuple(vertices.shape)
            raise ValueError(f"vertices are {found}, these levels were made for (B, {self.size}, 3): rebuild them")
        meshes = [vertices[:, self.index[0]] if vertices.shape[1] == self.size else vertices]
        for matrix in self.down:
            meshes.append(meshes[-1][:, matrix.indices])  # D picks
        return meshes


# Chapter 13, section "4 Coarse meshes"
def surface_graph(points: np.ndarray, faces: np.ndarray) -> csr_array:
    """Points (V, 3), faces (F, 3) -> (V, V), sparse: the length of each edge."""
    a, b = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0).T
    length = np.linalg.norm(points[a] - points[b], axis=1) + 1e-9  # 0 would be no edge at all
    return csr_array((np.tile(length, 2), (np.r_[a, b], np.r_[b, a])), shape=(len(points),) * 2)


# Chapter 13, section "4 Coarse meshes"
def farthest_points(points: np.ndarray, count: int, keep: Sequence[int] = ()) -> np.ndarray:
    """Numbers (count,) of points (V, 3): first those to keep, then always the one that is farthest from all before."""
    columns, chosen = points.T.copy(), list(keep) or [0]  # (3, V)
    nearest = np.full(len(points), np.inf)
    for place in range(count):
        if place == len(chosen):
            chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(columns - columns[:, [chosen[place]]]).sum(0))
    return np.array(chosen[:count])


# Chapter 13, section "4 Coarse meshes"
def cells(graph: csr_array, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vertex: which of the centres (v,) is nearest along the surface, and how far away it is, (V,) each."""
    far, _, source = dijkstra(graph, indices=centres, min_only=True, return_predecessors=True)
    number = np.zeros(graph.shape[0], int)
    number[centres] = np.arange(len(centres))
    return number[source], far


# Chapter 13, section "4 Coarse meshes"
def coarse_faces(faces: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Fine faces (F, 3) and each vertex's cell (V,) -> a triangle (f, 3) wherever three cells meet."""
    met = owner[faces]
    three = (met[:, 0] != met[:, 1]) & (met[:, 1] != met[:, 2]) & (met[:, 2] != met[:, 0])
    _, first = np.unique(np.sort(met[three], 1), axis=0, return_index=True)
    return met[three][np.sort(first)]


# Chapter 13, section "4 Coarse meshes"
def interpolation(graph: csr_array, points: np.ndarray, centres: np.ndarray, reach: float) -> csr_array:
    """(V, v), rows of sum 1: a vertex is a mean of the centres within `reach` metres along the surface, the nearer the
    heavier (Shepard's weights, (1/d - 1/reach)²); where there is none, inside the body, it is the nearest centre."""
    rows = []
    for part in np.array_split(centres, -(-len(centres) // 64)):
        far = dijkstra(graph, indices=part, limit=reach)  # (part, V), infinite beyond
        rows.append(csr_array(np.where(far < reach, np.square(1 / np.maximum(far, 1e-4) - 1 / reach), 0.0)))
    weights = vstack(rows).T.tolil()
    lonely = np.flatnonzero(weights.sum(1) == 0)
    weights[lonely, cdist(points[lonely], points[centres]).argmin(1)] = 1.0
    return csr_array(weights.multiply(1 / weights.sum(1)[:, None]))


# Chapter 13, section "4 Coarse meshes"
def coarse_levels(
    points: np.ndarray, faces: np.ndarray, counts: tuple[int, ...] = (0, 1723, 431), keep: Sequence[int] = ()
) -> Levels:
    """Decimates a mesh, points (V, 3), faces (F, 3), to so many vertices a level, fine to coarse; 0: all of them. Every
    level has the vertices `keep`. MPT supplement F (a coarse mesh, up-sampled); METRO's counts.

    ValueError for counts that don't fall, or are too few for those to keep."""
    counts, least = tuple(count or len(points) for count in counts), max(4, len(keep))
    if any(a <= b for a, b in zip((len(points) + 1, *counts), (*counts, least - 1), strict=True)):
        raise ValueError(f"levels of {counts} of {len(points)} vertices: give fewer and fewer, and at least {least}")
    graph, whole = surface_graph(points, faces), counts[0] == len(points)
    order = farthest_points(points, counts[whole], keep)
    index = tuple(np.arange(len(points)) if count == len(points) else order[:count] for count in counts)
    regions = [cells(graph, chosen) for chosen in index]
    triangles = [coarse_faces(faces, owner) for owner, _ in regions]
    triangles[0] = faces if whole else triangles[0]
    up, down = [], []
    for fine, chosen, (_, far) in zip(index[:-1], index[1:], regions[1:], strict=True):
        up.append(interpolation(graph, points, chosen, 1.6 * far[np.isfinite(far)].max())[fine])
        down.append(csr_array((fine[None] == chosen[:, None]).astype(np.float32)))
    kept = tuple(points[chosen] for chosen in index)
    return Levels(len(points), index, kept, tuple(triangles), tuple(down), tuple(up))


# Chapter 13, section "Up again, by learning"
def fitted(levels: Levels, vertices: np.ndarray, ridge: float = 1e-4) -> Levels:
    """The levels with the linear up-sampling that is best for some meshes (N, size, 3), equation (13.6): held near the
    interpolation where these say nothing."""
    seen = [vertices[:, index].swapaxes(1, 2).reshape(-1, len(index)) for index in levels.index]  # (3 N, V_l)
    up = []
    for fine, coarse, old in zip(seen[:-1], seen[1:], levels.up, strict=True):
        gram = coarse @ coarse.T + ridge * len(coarse) * np.eye(len(coarse))
        up.append(old.toarray() + (coarse.T @ np.linalg.solve(gram, fine - coarse @ old.T)).T)
    return replace(levels, up=tuple(up))


MESHES = "course_lib.data.meshes"


# Chapter 13, section "Up again, by learning"
@lru_cache(maxsize=8)
def body_levels(counts: tuple[int, ...]) -> Levels:
    """The levels of the body that is loaded (COURSE_BODY, or the course's own): its skin and the points inside that
    joints are made of. The up-sampling is fitted to 200 random bodies."""
    mesh, regressor = resolved(f"{MESHES}:skin")(), resolved(f"{MESHES}:joint_matrix")("lsp14").numpy()
    keep = np.flatnonzero(regressor.any(0))
    levels = coarse_levels(mesh.template.double().numpy(), mesh.faces.numpy(), counts, keep)
    generator = torch.Generator().manual_seed(0)
    pose = 0.4 * torch.randn(200, 55, 3, generator=generator) * (torch.arange(55) < 22)[:, None]
    betas, still = torch.randn(200, 10, generator=generator), torch.zeros(200)
    vertices = resolved(f"{MESHES}:posed_bodies")(betas, pose, still).vertices
    return replace(fitted(levels, vertices.double().numpy()), regressor=regressor[:, levels.index[0]])


# Chapter 13, section "Up again, by learning", exercise 13.5
def upsample(layers: Sequence[nn.Linear], coarse: Tensor) -> list[Tensor]:
    """A mesh (B, v, 3) through layers that each make more vertices of it -> all meshes, the finest first, the coarse
    one last. Equation (13.5); MPT supplement F."""
    meshes = [coarse]
    for layer in layers:
        meshes.insert(0, layer(meshes[0].mT).mT)  # (B, V, 3)
    return meshes


# Chapter 13, section "5 The mesh transformer"
@dataclass(frozen=True)
class Config:
    """A mesh transformer, what it is shown, and how it is trained.

    size: side of a map. channels: of the convolutions, each halves the maps; the last is the width of a token's
    feature. mixes: groups of channels that are mixed on their own. levels: vertices of the mesh, fine to coarse, 0 for
    all. widths: of the three stages. ffn: hidden width of their MLPs in widths. depth: layers of a stage. camera:
    hidden width of the camera's head. views: virtual cameras. heading: degrees to both sides, or None for all
    directions. margin: of the crop, drawn between the two. silhouette: one mask in place of `maps` heatmaps. pool:
    poses and people that meshes are drawn from; meshes: so many are made and kept, 0 makes new ones for every batch.
    up_lr: the up-sampling's learning rate over lr. warmup: share of the steps.
    """

    size: int
    channels: tuple[int, ...]
    levels: tuple[int, int, int]
    widths: tuple[int, int, int]
    batch_size: int
    steps: int
    maps: int = 17
    mixes: int = 1
    ffn: float = 4.0
    heads: int = 4
    depth: int = 4
    dropout: float = 0.1
    camera: int = 250
    views: int = 8
    heading: float | None = 30.0
    margin: tuple[float, float] = (1.1, 1.3)
    flaws: Flaws = Flaws()
    silhouette: bool = False
    pool: int = 4096
    meshes: int = 0
    lr: float = 2e-4
    up_lr: float = 1.0
    warmup: float = 0.1
    clip: float | None = None
    precision: str = "fp32"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None

    @property
    def chain(self) -> tuple[tuple[int, int, int], ...]:
        """(inputs, width, outputs) of each stage: a stage's outputs are half as many as its width, the last's three."""
        first, second, third = self.widths
        return (self.channels[-1] + 3, first, first // 2), (first // 2, second, second // 2), (second // 2, third, 3)


# Chapter 13, section "A layer of BERT's kind"
class PostNormBlock(nn.Module):
    """A transformer layer as BERT has it: the norm stands behind each sum. Devlin et al. 2019; METRO's, in MPT F."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.1):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width, hidden)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D). Equation (13.8)."""
        x = self.norm1(x + self.drop(self.attn(x)))
        return self.norm2(x + self.drop(self.mlp(x)))


POSITIONS = 512  # places that a stage has an embedding for


# Chapter 13, section "A layer of BERT's kind"
class Stage(nn.Module):
    """One of MPT's three transformer blocks: (B, N, inputs) -> (B, N, outputs), layers at width D between a linear map
    in and one out, and a linear map around all of it. METRO's code; MPT supplement F."""

    def __init__(self, inputs: int, width: int, outputs: int, config: Config):
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.around = nn.Linear(inputs, outputs)
        self.position = nn.Parameter(torch.zeros(POSITIONS, width))
        hidden = round(config.ffn * width)
        layers = (PostNormBlock(width, config.heads, hidden, config.dropout) for _ in range(config.depth))
        self.blocks = nn.ModuleList(layers)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, inputs) -> (B, N, outputs)."""
        x = self.drop(self.enter(tokens) + self.position[: tokens.shape[1]])  # (B, N, D)
        for block in self.blocks:
            x = block(x)
        return self.leave(x) + self.around(tokens)


# Chapter 13, section "From maps to features, from points to a camera"
class MapTokens(nn.Module):
    """Maps (B, K, S, S) -> a feature for each of N tokens (B, N, C): convolutions that halve the maps, then for each
    token a mix of all cells. The mix is METRO's; the convolutions are our choice."""

    def __init__(self, config: Config, tokens: int):
        super().__init__()
        channels, layers = (config.maps, *config.channels), []
        for a, b in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(min(8, b), b), nn.GELU()]
        self.halve = nn.Sequential(*layers)
        cells = (config.size >> len(config.channels)) ** 2
        self.mix = nn.ModuleList(nn.Linear(cells, tokens) for _ in range(config.mixes))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, K, S, S) -> (B, N, C)."""
        groups = self.halve(maps).flatten(2).chunk(len(self.mix), 1)  # (B, C / groups, cells) each
        return torch.cat([mix(group) for mix, group in zip(self.mix, groups, strict=True)], 1).mT


# Chapter 13, section "From maps to features, from points to a camera"
class CameraHead(nn.Module):
    """The coarse mesh (B, v, 3) -> a weak-perspective camera (B, 3): s, t_x, t_y. METRO's code."""

    def __init__(self, vertices: int, hidden: int):
        super().__init__()
        self.read, self.first, self.last = nn.Linear(3, 1), nn.Linear(vertices, hidden), nn.Linear(hidden, 3)

    def forward(self, coarse: Tensor) -> Tensor:
        """(B, v, 3) -> (B, 3)."""
        return self.last(self.first(self.read(coarse).squeeze(-1)))


HIPS = [2, 3]  # of LSP-14, METRO's 14 joints: the loss and MPJPE count from their middle


# Chapter 13, section "From maps to features, from points to a camera"
def upright(points: np.ndarray) -> np.ndarray:
    """Points (N, 3), y up and facing +z -> the same in a camera's axes, y down and facing it: half a turn about x."""
    return points * np.array([1.0, -1.0, -1.0])


# Chapter 13, section "From maps to features, from points to a camera"
class MeshTransformer(nn.Module):
    """Maps (B, K, S, S) -> joints (B, 14, 3), vertices (the mesh at three levels, fine to coarse, (B, V_l, 3)),
    regressed (B, 14, 3), the joints of the finest, and camera (B, 3). Metres, camera axes. MPT supplement F; METRO."""

    def __init__(self, config: Config, levels: Levels):
        super().__init__()
        fine, middle, coarse = (len(points) for points in levels.points)
        rest = upright(np.concatenate([levels.regressor @ levels.points[0], levels.points[2]]))
        self.joints = len(levels.regressor)
        self.register_buffer("template", torch.tensor(rest - rest[HIPS].mean(0), dtype=torch.float32), persistent=False)
        self.register_buffer("regressor", torch.tensor(levels.regressor), persistent=False)
        self.tokens = MapTokens(config, len(rest))
        self.stages = nn.ModuleList(Stage(*sizes, config) for sizes in config.chain)
        self.camera = CameraHead(coarse, config.camera)
        self.up = nn.ModuleList([nn.Linear(coarse, middle), nn.Linear(middle, fine)])
        self.reset(levels)

    def reset(self, levels: Levels) -> None:
        """BERT's start, normal numbers of σ = 0.02. Our choice: the ways around begin by letting the template's point
        through, the up-sampling begins at equation (13.6)."""
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for stage in self.stages:
                stage.around.weight[:3, :3] += torch.eye(3)
            for layer, weights in zip(self.up, reversed(levels.up), strict=True):
                layer.weight.copy_(torch.tensor(weights, dtype=torch.float32))
                layer.bias.zero_()

    def forward(self, maps: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """See the class."""
        template = self.template.expand(len(maps), -1, -1)
        x = torch.cat([template, self.tokens(maps)], -1)  # (B, N, 3 + C)
        for stage in self.stages:
            x = stage(x)  # in the end (B, N, 3)
        joints, coarse = x[:, : self.joints], x[:, self.joints :]
        meshes = upsample(self.up, coarse)
        regressed = torch.einsum("jv,bvc->bjc", self.regressor, meshes[0])
        return {"joints": joints, "vertices": meshes, "regressed": regressed, "camera": self.camera(coarse)}


PAPER = PaperRun(
    "MPT supplement A, F", parameters=102e6, gpus=16, gpu="V100-32GB", samples=10 * 2_000_000,
    notes=("parameters: Table 1's transformer, without pose network, convolutions, up-sampling and camera",
           "the batch is not given: 30 a GPU is METRO's"),
)  # fmt: skip
MILD = Flaws(dropped=0.02, spurious=0.01, masked=0.2)  # a short run sees few people often enough
SMALL = {"mixes": 8, "depth": 1, "ffn": 2.0, "camera": 64, "dropout": 0.0, "clip": 1.0, "up_lr": 0.01}
CONFIGS = {
    "smoke": Config(16, (8, 16), (216, 54, 24), (32, 16, 16), batch_size=4, steps=4, lr=1e-3, pool=48, **SMALL),
    "laptop": Config(32, (32, 64, 128), (1723, 431, 108), (128, 64, 32), batch_size=16, steps=1200, lr=3e-3,
                     meshes=4096, flaws=MILD, **SMALL),
    "shipped": Config(32, (32, 64, 128), (1723, 431, 108), (128, 64, 32), batch_size=16, steps=3000, lr=3e-3,
                      meshes=8192, flaws=MILD, **SMALL),
    "gpu": Config(112, (64, 128, 256, 512), (0, 1723, 431), (512, 128, 64), batch_size=64, steps=20_000,
                  precision="bf16"),
    "mpt": Config(224, (64, 128, 256, 512, 2048), (0, 1723, 431), (1024, 256, 64), batch_size=480,
                  steps=10 * 2_000_000 // 480, precision="bf16", paper=PAPER),
}  # fmt: skip


# Chapter 13, section "Where are the other 44 million?", exercise 13.7
def stage_parameters(
    inputs: int, width: int, outputs: int, hidden: int, layers: int = 4, positions: int = POSITIONS
) -> int:
    """How many weights a `Stage` has; hidden: of its MLPs. MPT Table 1, METRO's code."""
    linear = lambda a, b: a * b + b  # noqa: E731
    layer = 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width) + 4 * width
    ways = linear(inputs, width) + linear(width, outputs) + linear(inputs, outputs)
    return ways + positions * width + layers * layer


# Chapter 13, section "Where are the other 44 million?"
def dead_parameters(width: int, words: int = 30_522) -> int:
    """What METRO's code builds in a stage and never uses: BERT's embeddings with their norm, and its pooler."""
    return (words + 512 + 2 + 2) * width + width * width + width


# Chapter 13, section "The best weak-perspective camera", exercise 13.8
def weak_perspective_fit(points: Tensor, spots: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The best weak-perspective camera by weighted least squares, equation (13.11).

    points (B, N, 3) metres, camera axes; spots (B, N, 2) where they are seen; weight (B, N), not negative; what has
    weight 0 may be NaN -> scale (B,), translation (B, 2); both 0 where the weighted points don't stand apart.
    """
    w = weight[..., None]  # (B, N, 1)
    X, x = points[..., :2].where(w > 0, 0.0), spots.where(w > 0, 0.0)
    total = w.sum(1).clamp(min=1e-9)  # (B, 1)
    X_mean, x_mean = (w * X).sum(1) / total, (w * x).sum(1) / total  # (B, 2)
    X_apart, x_apart = X - X_mean[:, None], x - x_mean[:, None]
    spread = (w * X_apart.square()).sum((1, 2))  # (B,)
    scale = (w * X_apart * x_apart).sum((1, 2)) / spread.clamp(min=1e-9)
    known = (spread > 1e-9) & (scale.abs() > 1e-9)
    scale = scale.where(known, 0.0)
    translation = x_mean / torch.where(known, scale, 1.0)[:, None] - X_mean
    return scale, translation.where(known[:, None], 0.0)


JOINT_WEIGHT, MESH_WEIGHT, SPOT_WEIGHT = 1000.0, 100.0, 100.0  # METRO's


# Chapter 13, section "The loss"
def centred(joints: Tensor) -> Tensor:
    """(B, 14, 3) from the middle of its hips."""
    return joints - joints[:, HIPS].mean(1, keepdim=True)


# Chapter 13, section "The loss"
def mesh_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Equation (13.9). batch: maps (B, K, S, S), joints (B, 14, 3), vertices, middle, coarse (B, V_l, 3), spots
    (B, 14, 2) in crop coordinates -> loss, and its parts without weights: joints and mesh in metres, spots."""
    answer = model(batch["maps"])
    camera, kinds = answer["camera"], (answer["joints"], answer["regressed"])
    joints = sum((centred(kind) - centred(batch["joints"])).abs().mean() for kind in kinds)
    levels = zip(answer["vertices"], (batch[name] for name in ("vertices", "middle", "coarse")), strict=True)
    mesh = sum((ours - true).abs().mean() for ours, true in levels) / 3
    seen = (weak_perspective_project(kind, camera[:, 0], camera[:, 1:]) for kind in kinds)
    spots = sum((spot - batch["spots"]).abs().mean() for spot in seen)
    loss = JOINT_WEIGHT * joints + MESH_WEIGHT * mesh + SPOT_WEIGHT * spots
    return {"loss": loss, "joints": joints, "mesh": mesh, "spots": spots}


# Chapter 13, section "The learning rate", exercise 13.9
def learning_rate(step: int, steps: int, peak: float = 2e-4, warmup: float = 0.1) -> float:
    """The learning rate of step 0, 1, … of `steps`, equation (13.12); warmup: its share of the steps. MPT F."""
    rise = round(warmup * steps)
    up = min(1.0, (step + 1) / rise) if rise else 1.0
    return peak * up * (1 - max(0, step - rise) / (steps - rise))


RUNS = "course_lib.studies.mpt"


# Chapter 13, section "7 The run"
def silhouettes(vertices: Tensor, faces: Tensor, camera: Camera, size: int, made_for: int = 224) -> Tensor:
    """People (B, V, 3) in the room before crops' cameras (B) -> masks (B, 1, size, size), 1 where the mesh covers a
    pixel's centre. MPT Table 4."""
    shrink = torch.tensor([size / made_for, size / made_for, 1.0])
    small = Camera(shrink[:, None] * camera.K, camera.R, camera.t)
    return (rasterize(vertices, faces, small, size).face >= 0)[:, None].float()


# Chapter 13, section "7 The run"
def seen_batch(
    config: Config, bodies, cameras: Camera, generator: torch.Generator, flaws: Flaws | None = None
) -> Batch:
    """People (`data.meshes.Bodies`, B of them), each before one of the cameras (B) -> what `mesh_loss` takes."""
    views = look(bodies.vertices, bodies.joints["coco17"], cameras, generator, config.margin)
    turn, joints, levels = views.camera.R.mT, bodies.joints["lsp14"], body_levels(config.levels)
    meshes = levels.all(bodies.vertices)
    batch = {name: level @ turn for name, level in zip(("vertices", "middle", "coarse"), meshes, strict=True)}
    spots = to_crop(views.camera, joints + views.translation[:, None])
    if config.silhouette:
        placed = meshes[0] + views.translation[:, None]
        maps = silhouettes(placed, torch.from_numpy(levels.faces[0]), views.camera, config.size)
    else:
        maps = flawed_heatmaps(views.points, config.size, generator, config.flaws if flaws is None else flaws)
    return batch | {"maps": maps, "joints": joints @ turn, "spots": spots}


# Chapter 13, section "7 The run"
def training_batch(config: Config, generator: torch.Generator, count: int) -> Batch:
    """`count` people of the training split, each before a virtual camera drawn at random."""
    bodies = resolved(f"{RUNS}:training_bodies")(config, generator, count)
    chosen = torch.randint(config.views, (count,), generator=generator)
    return seen_batch(config, bodies, virtual_cameras(config.views)[chosen], generator)


# Chapter 13, section "7 The run"
def generate(config: Config) -> Callable:
    """For a `GeneratedStream`: (generator, samples) -> a batch."""
    return partial(training_batch, config)


# Chapter 13, section "7 The run"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    fine, middle, coarse = (len(points) for points in body_levels(config.levels).points)
    shapes = {"maps": (config.maps, config.size, config.size), "joints": (14, 3), "spots": (14, 2)}
    shapes |= {"vertices": (fine, 3), "middle": (middle, 3), "coarse": (coarse, 3)}
    return {name: torch.rand(count, *shape) for name, shape in shapes.items()}


# Chapter 13, section "7 The run"
def recipe(config: Config, stream: Stream | None) -> Recipe:
    """The pretraining of a `MeshTransformer`. MPT supplement F: Adam, a tenth of the steps as warm-up."""
    return Recipe(
        name=f"mpt-{'-'.join(map(str, config.widths))}",
        model=partial(MeshTransformer, config, body_levels(config.levels)),
        loss=mesh_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer("adam", config.lr, (0.9, 0.999), weight_decay=0.0, scales=(("up.", config.up_lr),)),
        schedule=Linear(round(config.warmup * config.steps)),
        precision=config.precision,
        clip=config.clip,
        blocks=("PostNormBlock",),
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


SHIPPED = {"pretrained": Shipped("mpt_pretraining-pretrained", CONFIGS["shipped"], f"{RUNS}:pretrained")}


# Chapter 13, section "How many cameras?"
@dataclass(frozen=True)
class Arm:
    """One arm of a study: so many virtual cameras; how far the body turns (None: all the way); masks for heatmaps."""

    views: int = 8
    heading: float | None = 30.0
    silhouette: bool = False
    batch: int = 16
    lr: float = 3e-3


# Chapter 13, section "How many cameras?"
def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm's network."""
    maps = 1 if arm.silhouette else 17
    return Config(
        32, (32, 64, 64), (431, 108, 54), (64, 32, 32), arm.batch, steps, maps=maps, views=arm.views,
        heading=arm.heading, silhouette=arm.silhouette, lr=arm.lr, meshes=4096, flaws=MILD, **SMALL,
    )  # fmt: skip


STUDY_STEPS = 2000
VIEWS = (1, 2, 4, 8)
STUDIES = {
    "views": Study("13.views", "how many virtual cameras (Table 2)", {f"{n}": Arm(n) for n in VIEWS},
                   f"{RUNS}:compare", STUDY_STEPS),
    "views_free": Study("13.views_free", "the same with bodies turned all the way",
                        {f"{n}": Arm(n, None) for n in VIEWS}, f"{RUNS}:compare", STUDY_STEPS),
    "masks": Study("13.masks", "heatmaps or masks (Table 4)", {"heatmaps": Arm(), "masks": Arm(silhouette=True)},
                   f"{RUNS}:compare", STUDY_STEPS),
}  # fmt: skip


# course build sealed the text above: 4129162e9694c0ed

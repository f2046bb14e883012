"""What chapter 15 measures with: two baselines that learn nothing, PSNR and SSIM on two frames, and where a target
patch looks.

A person in one pose before S cameras is a `Seen`. Metres or any unit that cameras and vertices share.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from course_lib import metrics
from course_lib.chapters.cameras import Camera, camera_to_pixels
from course_lib.chapters.rendering import Fragments, rasterize, vertex_normals
from course_lib.data.multiview import Scans, body_mesh, evenly_spaced, scan_batch
from course_lib.recipe import Batch
from course_lib.studies.sapiens import Metrics

SMALLEST_BOX = 12  # pixels: SSIM's window is 11 x 11
GRAZING = 0.1  # cosine: a surface seen at less than this shows the picture's edge more than itself
SHARP = 4  # power of the cosine in the weights of the views


@dataclass(frozen=True)
class Seen:
    """One person in one pose before S cameras: image (S, 3, H, W) in [0, 1] on white, camera (S), vertices (V, 3) of
    the body in the cameras' world, whose origin is the pelvis."""

    image: Tensor
    camera: Camera
    vertices: Tensor

    def __post_init__(self):
        if len(self.image) != len(self.camera) or len(self.camera) == 0:
            raise ValueError(f"{len(self.image)} pictures and {len(self.camera)} cameras: give one camera a picture")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return tuple(self.image.shape[-2:])


# ------------------------------------------------------------------------------------------------- copying
def nearest_view(given: Seen, camera: Camera) -> Tensor:
    """For each of the M cameras the given picture from the nearest direction, seen from the pelvis: (M, 3, H, W)."""
    toward, wanted = normalize(given.camera.center, dim=-1), normalize(camera.center, dim=-1)
    return given.image[(wanted @ toward.T).argmax(1)]


# ------------------------------------------------------------------------------------------------- projecting
def on_surface(values: Tensor, faces: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
    """Values at vertices (V, C) -> at points on the surface (P, C): their faces (P,) and barycentrics (P, 3)."""
    return (values[faces[face]] * barycentric[..., None]).sum(-2)


def seen_by(points: Tensor, camera: Camera, depth: Tensor, tolerance: float = 0.02) -> Tensor:
    """Points (P, 3), S cameras and their depth maps (S, H, W) -> whether each camera sees each point: (S, P)."""
    inside = camera.to_camera(points.expand(len(camera), -1, -1))  # (S, P, 3)
    column, row = camera_to_pixels(inside, camera.K).floor().long().unbind(-1)  # (S, P) each
    height, width = depth.shape[-2:]
    framed = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (inside[..., 2] > 0)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return framed & (inside[..., 2] <= depth.flatten(1).gather(1, place) + tolerance)


def colours_at(images: Tensor, on: Tensor, pixels: Tensor) -> Tensor:
    """Pictures (S, 3, H, W) at places (S, P, 2) in pixels, bilinear between those pixels that are `on` (S, H, W), so
    that the white around a person doesn't bleed in -> (S, P, 3)."""
    height, width = images.shape[-2:]
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    on = on[:, None].to(images)
    both = torch.cat([images * on, on], 1)  # (S, 4, H, W)
    found = grid_sample(both, grid[:, None], padding_mode="border", align_corners=False)[:, :, 0].mT  # (S, P, 4)
    return found[..., :3] / found[..., 3:].clamp(min=1e-6)


def view_weights(given: Seen, depth: Tensor, points: Tensor, normals: Tensor) -> Tensor:
    """How far each of the S views is to be believed at each point of the given body (P, 3): (S, P), 0 where hidden.

    The cosine between the normal and the way to the camera, to the power SHARP: the view that looks straightest wins.
    depth (S, H, W): the body's in the views.
    """
    toward = normalize(given.camera.center[:, None] - points, dim=-1)  # (S, P, 3)
    cosine = (toward * normals).sum(-1)
    seen = seen_by(points, given.camera, depth) & (cosine > GRAZING)
    return cosine.clamp(min=0) ** SHARP * seen


def projected(given: Seen, faces: Tensor, camera: Camera, vertices: Tensor, canonical: Tensor) -> Tensor:
    """The body (V, 3) as the M cameras see it, each pixel with the colour that the given views have of its point of the
    surface; a point that none of them sees has the colour of what they see nearest to it on the canonical body (V, 3).
    White around it: the body has no clothes and no hair. (M, 3, H, W)."""
    found = rasterize(vertices.expand(len(camera), -1, -1), faces, camera, given.size)
    return projected_fragments(given, faces, found.face, found.barycentric, canonical)


def projected_fragments(given: Seen, faces: Tensor, face: Tensor, barycentric: Tensor, canonical: Tensor) -> Tensor:
    """The same for bodies that are rasterised already: face (M, H, W), -1 for none, and barycentric (M, H, W, 3)."""
    shown = rasterize(given.vertices.expand(len(given.camera), -1, -1), faces, given.camera, given.size)
    surface = faces, face[face >= 0], barycentric[face >= 0]
    points = on_surface(given.vertices, *surface)  # (P, 3), on the given pose
    normals = normalize(on_surface(vertex_normals(given.vertices[None], faces)[0], *surface), dim=-1)
    weights = view_weights(given, shown.depth, points, normals)  # (S, P)
    places = given.camera.project(points.expand(len(given.camera), -1, -1))  # (S, P, 2)
    colours = colours_at(given.image, shown.face >= 0, places)  # (S, P, 3)
    total = weights.sum(0)
    blended = (weights[..., None] * colours).sum(0) / total.clamp(min=1e-9)[:, None]
    hidden = total == 0
    blended[hidden] = nearest_colours(given, faces, shown, canonical, on_surface(canonical, *surface)[hidden])
    picture = torch.ones(*face.shape, 3)
    picture[face >= 0] = blended
    return picture.permute(0, 3, 1, 2)


def nearest_colours(given: Seen, faces: Tensor, shown: Fragments, canonical: Tensor, points: Tensor) -> Tensor:
    """For points (P, 3) of the canonical body the colours (P, 3) of the nearest that a given view shows; grey where
    none shows any. shown: the body in the given views."""
    on = shown.face >= 0
    if not on.any():
        return torch.full_like(points, 0.5)
    known = on_surface(canonical, faces, shown.face[on], shown.barycentric[on])
    nearest = cKDTree(known.numpy()).query(points.numpy())[1]
    return given.image.permute(0, 2, 3, 1)[on][torch.from_numpy(nearest)]


# ------------------------------------------------------------------------------------------------- measuring
def person_box(alpha: Tensor) -> Tensor:
    """The box around the person in each alpha (M, 1, H, W) or (M, H, W), at least SMALLEST_BOX pixels wide and high:
    (M, 4) left, top, right, bottom. ValueError, with its number, for a picture without a person."""
    alpha = alpha.flatten(0, -3)
    left, top, right, bottom = metrics.box_around(alpha > 0.5).unbind(1)
    (left, right), (top, bottom) = widened(left, right, alpha.shape[2]), widened(top, bottom, alpha.shape[1])
    return torch.stack([left, top, right, bottom], 1)


def widened(low: Tensor, high: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Sides (M,) moved apart until they are SMALLEST_BOX apart, inside 0 ... limit."""
    low = torch.minimum(low, (low + high - SMALLEST_BOX).div(2, rounding_mode="floor")).clamp(min=0)
    low = torch.minimum(low, torch.full_like(low, max(0, limit - SMALLEST_BOX)))
    return low, torch.maximum(high, low + SMALLEST_BOX).clamp(max=limit)


def image_metrics(prediction: Tensor, target: Tensor, alpha: Tensor) -> dict[str, Tensor]:
    """PSNR (dB) and SSIM of pictures (M, 3, H, W), alpha (M, 1, H, W): psnr, ssim of all of a picture, box_psnr,
    box_ssim of the box around the person; (M,) each."""
    box = person_box(alpha)
    whole = {"psnr": metrics.psnr(prediction, target), "ssim": metrics.ssim(prediction, target)}
    cut = {"box_psnr": metrics.psnr(prediction, target, box=box), "box_ssim": metrics.ssim(prediction, target, box=box)}
    return whole | cut


# ------------------------------------------------------------------------------------------------- turning
def turn_table(count: int, like: Camera, elevation: float = 5.0) -> Camera:
    """`count` cameras once around the pelvis, the first in front (+z), as far away and with the lens as `like`'s first:
    azimuths 0, 360 / count, ... degrees to the body's left, `elevation` degrees above."""
    azimuth = torch.arange(count) * (2 * torch.pi / count)
    height, distance = torch.tensor(elevation).deg2rad(), like.center[0].norm()
    flat = height.cos()
    eye = torch.stack([flat * azimuth.sin(), height.sin().expand(count), flat * azimuth.cos()], 1)
    ring = Camera.look_at(distance * eye, torch.zeros(3), focal=float(like.K[0, 0, 0]))
    return Camera(like.K[:1].expand(count, 3, 3), ring.R, ring.t)


# ------------------------------------------------------------------------------------------------- held-out people
@dataclass(frozen=True)
class Task:
    """One scan to be drawn: a batch of one as `HumanRAM` takes it, and the same as a person before cameras; `found`,
    source and goal: the scans that are given and asked for."""

    batch: Batch
    given: Seen
    found: Scans
    source: int
    goal: int


def split_views(views: int, inputs: int, targets: int = 4) -> tuple[Tensor, Tensor]:
    """Of a ring of `views` the numbers of those to be drawn, `targets` of them, and of `inputs` others to be given: both
    spread evenly. The targets are the same whatever is given. ScanError where the ring has too few views."""
    goal = evenly_spaced(views, targets, first=1)
    rest = torch.tensor([view for view in range(views) if view not in goal.tolist()])
    return rest[evenly_spaced(len(rest), inputs)], goal


def tasks(found: Scans, inputs: int, unseen: bool = False, targets: int = 4) -> Iterator[Task]:
    """Every scan once: `inputs` of its views given, `targets` views in between asked for, of the same pose, or
    (`unseen`) of the person's next pose."""
    given, goal = split_views(found.ring.views, inputs, targets)
    for scan in range(len(found)):
        person, pose = divmod(scan, found.ring.poses)
        other = person * found.ring.poses + (pose + unseen) % found.ring.poses
        batch = scan_batch(found, torch.tensor([scan]), given[None], torch.tensor([other]), goal[None])
        camera = found.camera(torch.full_like(given, scan), given)
        yield Task(batch, Seen(batch["image"][0], camera, found.vertices(scan)), found, scan, other)


def copied(task: Task) -> Tensor:
    """`nearest_view` as an answer: (M, 3, H, W)."""
    goal = split_views(task.found.ring.views, len(task.given.camera), task.batch["target_image"].shape[1])[1]
    return nearest_view(task.given, task.found.camera(torch.full_like(goal, task.goal), goal))


def painted(task: Task) -> Tensor:
    """`projected` as an answer: (M, 3, H, W)."""
    canonical, faces = body_mesh()
    surface = task.batch["target_face"][0], task.batch["target_barycentric"][0]
    return projected_fragments(task.given, faces, *surface, canonical)


def measure(answer: Callable[[Task], Tensor], every: Iterable[Task]) -> Metrics:
    """The means of `image_metrics` over all pictures of the tasks."""
    rows = [image_metrics(answer(task), task.batch["target_image"][0], task.batch["target_alpha"][0]) for task in every]
    return metrics.average(rows)

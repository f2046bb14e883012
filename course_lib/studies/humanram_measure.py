"""What chapter 15 measures with: two baselines that learn nothing, PSNR and SSIM on two frames, and where a target
patch looks.

A person in one pose before S cameras is a `Seen`. Metres or any unit that cameras and vertices share.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, normalize

from course_lib import metrics
from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.chapters.cameras import Camera
from course_lib.chapters.humanram_reconstruction import HumanRAM, looks_at, perceptual_distance, seen_by
from course_lib.chapters.rendering import Fragments, pixel_centres, rasterize, vertex_normals
from course_lib.data.multiview import Scans, body_mesh, evenly_spaced, scan_batch, scans
from course_lib.recipe import Batch
from course_lib.scale import scale
from course_lib.shipped import train
from course_lib.studies.humanram import asked_views, frame_metrics, person_box, stream
from course_lib.studies.sapiens import Metrics, device_of

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
def image_metrics(prediction: Tensor, target: Tensor, alpha: Tensor) -> dict[str, Tensor]:
    """`frame_metrics` of pictures (M, 3, H, W), alpha (M, 1, H, W), and `perceptual_distance`: distance of all of a
    picture, distance_box of the box around the person; (M,) each."""
    parts = (boxed(pictures, person_box(alpha)) for pictures in (prediction, target))
    distances = {"distance": perceptual_distance(prediction, target), "distance_box": perceptual_distance(*parts)}
    return frame_metrics(prediction, target, alpha) | distances


def boxed(pictures: Tensor, box: Tensor) -> Tensor:
    """What is inside each box (M, 4) of pictures (M, 3, H, W), scaled to the pictures' size."""
    parts = [
        one[:, top:bottom, left:right] for one, (left, top, right, bottom) in zip(pictures, box.tolist(), strict=True)
    ]
    scaled = [interpolate(part[None], pictures.shape[-2:], mode="bilinear", antialias=True) for part in parts]
    return torch.cat(scaled).clamp(0, 1)


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


def tasks(found: Scans, inputs: int, unseen: bool = False) -> Iterator[Task]:
    """Every scan once: `inputs` views spread around it are given, the `asked_views` are to be drawn, of the same pose
    or (`unseen`) of the person's next one."""
    given, goal = evenly_spaced(found.ring.views, inputs), asked_views(found.ring.views)
    for scan in range(len(found)):
        person, pose = divmod(scan, found.ring.poses)
        other = person * found.ring.poses + (pose + unseen) % found.ring.poses
        batch = scan_batch(found, torch.tensor([scan]), given[None], torch.tensor([other]), goal[None])
        camera = found.camera(torch.full_like(given, scan), given)
        yield Task(batch, Seen(batch["image"][0], camera, found.vertices(scan)), found, scan, other)


def copied(task: Task) -> Tensor:
    """`nearest_view` as an answer: (M, 3, H, W)."""
    goal = asked_views(task.found.ring.views)
    return nearest_view(task.given, task.found.camera(torch.full_like(goal, task.goal), goal))


def painted(task: Task, grow: bool = False) -> Tensor:
    """`projected` as an answer: (M, 3, H, W). grow: a pixel that touches the body by a side has the body's colour too,
    since clothes are wider than the body."""
    canonical, faces = body_mesh()
    face = task.batch["target_face"][0]
    picture = projected_fragments(task.given, faces, face, task.batch["target_barycentric"][0], canonical)
    return grown(picture, face >= 0) if grow else picture


def grown(picture: Tensor, on: Tensor) -> Tensor:
    """Pictures (M, 3, H, W), the body's pixels `on` (M, H, W) -> the same, with the colour of the nearest of them on
    those that touch them by a side."""
    picture = picture.clone()
    for image, body in zip(picture, on, strict=True):
        far, (row, column) = distance_transform_edt(~body.numpy(), return_indices=True)
        image[:, far == 1] = image[:, row[far == 1], column[far == 1]]
    return picture


def bare(task: Task) -> Tensor:
    """The truth where the bare body is and white elsewhere: what no projection can be better than. (M, 3, H, W)."""
    return task.batch["target_image"][0].where((task.batch["target_face"][0] >= 0)[:, None], 1.0)


def drawn(model: HumanRAM) -> Callable[[Task], Tensor]:
    """A network as an answer."""

    @torch.no_grad()
    def answer(task: Task) -> Tensor:
        device = device_of(model)
        return model.eval()({name: values.to(device) for name, values in task.batch.items()})[0].float().cpu()

    return answer


def measure(answer: Callable[[Task], Tensor], every: Iterable[Task]) -> Metrics:
    """The means of `image_metrics` over all pictures of the tasks."""
    rows = [image_metrics(answer(task), task.batch["target_image"][0], task.batch["target_alpha"][0]) for task in every]
    return metrics.average(rows)


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


def seen_from(task: Task, camera: Camera) -> Batch:
    """The task's batch with other cameras (M) before the given pose: what they see is not known, so there is no
    target_image."""
    found = rasterize(task.given.vertices.expand(len(camera), -1, -1), body_mesh()[1], camera, task.given.size)
    batch = {name: values for name, values in task.batch.items() if not name.startswith("target_")}
    asked = {"rays": humanram.ray_map(camera, task.given.size), "face": found.face, "barycentric": found.barycentric}
    return batch | {f"target_{name}": values[None] for name, values in asked.items()}


# ------------------------------------------------------------------------------------------------- looking
@dataclass(frozen=True)
class Places:
    """Where P points of the body, each in the middle of a patch of a target picture, are in the S given views: patch
    (P,), its number; pixel (S, P, 2), x and y; seen (S, P)."""

    patch: Tensor
    pixel: Tensor
    seen: Tensor


def true_places(task: Task, patch: int, target: int = 0) -> Places:
    """Those of one target picture: every patch whose middle pixel shows the body."""
    faces, middle = body_mesh()[1], slice(patch // 2, None, patch)
    face = task.batch["target_face"][0, target, middle, middle].flatten()
    barycentric = task.batch["target_barycentric"][0, target, middle, middle].flatten(0, 1)
    points = on_surface(task.given.vertices, faces, face[face >= 0], barycentric[face >= 0])
    camera = task.given.camera
    depth = rasterize(task.given.vertices.expand(len(camera), -1, -1), faces, camera, task.given.size).depth
    places = camera.project(points.expand(len(camera), -1, -1))
    return Places((face >= 0).nonzero()[:, 0], places, seen_by(points, camera, depth))


def found_share(model: HumanRAM, task: Task, layer: int, target: int = 0) -> tuple[float, float]:
    """Of what a target's patches listen to among the given views, the share that is within one patch of where their
    points are seen; and what that share would be if they listened to all patches that show the body alike. Means."""
    size, patch = task.given.size, model.patch
    grid = size[0] // patch, size[1] // patch
    places = true_places(task, patch, target)
    centres = pixel_centres(grid) * patch  # (rows, columns, 2), x and y in pixels
    near = ((centres - places.pixel[:, :, None, None]).abs().amax(-1) <= 1.5 * patch) & places.seen[..., None, None]
    shares = model.shares(task.batch, layer)[0, target].cpu()
    looks = torch.stack([looks_at(shares, int(n), len(task.given.camera), grid) for n in places.patch], 1)
    body = (task.batch["face"][0] >= 0).unfold(1, patch, patch).unfold(2, patch, patch).any(-1).any(-1)  # (S, r, c)
    known = places.seen.any(0)
    hit, chance = (looks * near).sum((0, 2, 3)), (near & body[:, None]).sum((0, 2, 3)) / body.sum()
    return hit[known].mean().item(), chance[known].mean().item()


# ------------------------------------------------------------------------------------------------- studies
def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: a small network, trained for `steps` steps; psnr_box of held-out people from 1, 2, 4 and 8 views
    (novel_1, ...), with 4 also called novel, and of unseen poses from 4 (unseen)."""
    small = scale() == "smoke"
    config = humanram.arm_config(arm, steps)
    if small:
        fields = {name: getattr(config, name) for name in ("steps", "pose_image", "head", "token_norm", "inputs")}
        config = replace(humanram.CONFIGS["smoke"], **fields)
    recipe = replace(humanram.recipe(config, stream(config, seed)), seed=seed)
    answer = drawn(train(recipe, None, progress=False).model)
    found = scans("test", 1 if small else 12, config.size, config.poses, config.views)
    rows = {f"novel_{n}": box_psnr(answer, tasks(found, n)) for n in ((1, 4) if small else (1, 2, 4, 8))}
    return rows | {"novel": rows["novel_4"], "unseen": box_psnr(answer, tasks(found, 4, unseen=True))}


def task_psnr(answer: Callable[[Task], Tensor], task: Task) -> Tensor:
    """PSNR on the person's box of each picture that is asked for, dB: (M,)."""
    box = person_box(task.batch["target_alpha"][0])
    return metrics.psnr(answer(task), task.batch["target_image"][0], box=box)


def box_psnr(answer: Callable[[Task], Tensor], every: Iterable[Task]) -> float:
    """The mean PSNR on the person's box, dB."""
    return metrics.average([{"psnr_box": task_psnr(answer, task)} for task in every])["psnr_box"]

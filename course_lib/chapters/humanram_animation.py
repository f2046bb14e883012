"""HumanRAM, animated: made by `course build` from solutions/16_humanram_animation.py. Edit there, never here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from kornia.enhance import adjust_hue
from torch import Tensor, nn

from course_lib.chapters import humanram_reconstruction
from course_lib.chapters.bodies import BodyModel, forward_kinematics
from course_lib.chapters.cameras import (
    Camera,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    nearest_rotation,
    skew,
    solve_pnp,
    weak_perspective_project,
)
from course_lib.chapters.humanram_reconstruction import ray_map
from course_lib.chapters.rendering import rasterize
from course_lib.chapters.sapiens_pose import crop_people
from course_lib.recipe import Batch, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved


# Chapter 16, section "1 Driving", exercise 16.1
def driven(poses: Tensor, roots: Tensor, faces: Tensor, camera: Camera, size: tuple[int, int]) -> Batch:
    """The queries of T frames as the targets of one sample: target_rays (1, T, 6, H, W), about each frame's root;
    target_face (1, T, H, W) and target_barycentric (1, T, H, W, 3) of the body in each frame's pose.

    poses (T, V, 3): posed vertices in metres; roots (T, 3): where the pelvis is; a camera a frame, or one for all.
    """
    camera = camera if len(camera) == len(poses) else camera[[0] * len(poses)]
    seen = rasterize(poses, faces, camera, size, cull_backfaces=True)
    queries = {"rays": ray_map(camera, size, roots), "face": seen.face, "barycentric": seen.barycentric}
    return {f"target_{name}": values[None] for name, values in queries.items()}


# Chapter 16, section "1 Driving"
def require_poses(poses: Tensor, vertices: int, cameras: int) -> None:
    """ValueError, saying which, for poses that are no posed bodies, or not as many as cameras."""
    if poses.ndim != 3 or poses.shape[1:] != (vertices, 3) or len(poses) == 0:
        raise ValueError(f"poses are {tuple(poses.shape)}: give (T, {vertices}, 3), the skin in T frames, 1 or more")
    if not (finite := poses.isfinite().flatten(1).all(1)).all():
        raise ValueError(f"pose {int((~finite).int().argmax())} has numbers that are not finite: mend or leave it out")
    if cameras not in (1, len(poses)):
        raise ValueError(f"{cameras} cameras for {len(poses)} poses: give one, or one a pose")


# Chapter 16, section "1 Driving"
@torch.no_grad()
def animate(
    model: nn.Module, sources: Batch, poses: Tensor, cameras: Camera, roots: Tensor | None = None, at_once: int = 8
) -> Tensor:
    """A person from pictures in other poses: frames (T, 3, H, W) in [0, 1].

    model: a `HumanRAM`. sources: a batch of one with the given views as it takes them (image, rays, face, barycentric;
    seen where some are missing). poses (T, V, 3): the driving poses of this person's skin, metres; roots (T, 3): their
    pelvis, None: it stays at 0. cameras: one a frame, or one for all. at_once: frames in a forward pass. ValueError.
    """
    require_poses(poses, len(model.points), len(cameras))
    if len(sources["image"]) != 1:
        raise ValueError(f"sources are a batch of {len(sources['image'])}: animate one person at a time")
    roots = poses.new_zeros(len(poses), 3) if roots is None else roots
    given = {name: values for name, values in sources.items() if not name.startswith("target_")}
    every, frames, size = len(cameras) > 1, [], tuple(given["image"].shape[-2:])
    for part in torch.arange(len(poses)).split(at_once):
        camera = cameras[part.tolist()] if every else cameras
        frames.append(model(given | driven(poses[part], roots[part], model.faces, camera, size))[0])
    return torch.cat(frames)


# Chapter 16, section "2 The data", exercise 16.2
def avatar_targets(
    generator: torch.Generator, frames: int, targets: int, window: int = 50, every: int = 1
) -> tuple[int, Tensor]:
    """Of a clip of which every `every`-th frame was kept, `frames` in number: the kept frame whose views are given,
    any of them, and those to be drawn (M,), at most `window` frames of the motion before or behind it. HumanRAM
    supplement B.

    Drawn alike and with repeats; the given frame itself is one of them. (The paper doesn't say; our choice.)"""
    frame, reach = int(torch.randint(frames, (), generator=generator)), window // every
    low, high = max(0, frame - reach), min(frames - 1, frame + reach)
    return frame, torch.randint(low, high + 1, (targets,), generator=generator)


# Chapter 16, section "2 The data"
@dataclass(frozen=True)
class Config:
    """A continued training. HumanRAM supplement B.

    network: chapter 15's configuration, architecture and training, with the scans. avatars: people in motion, `frames`
    kept of each, every `every`-th of 25 a second, before `views` cameras; window: how far in time a target may be, in
    frames of the motion. share: of the samples that are of avatars; single: of those that are left with one view;
    jitter: the strength of the colour jitter, 0 for none.
    """

    network: humanram_reconstruction.Config
    avatars: int = 100
    frames: int = 9
    every: int = 12
    views: int = 8
    window: int = 50
    share: float = 0.5
    single: float = 0.25
    jitter: float = 0.0

    steps = property(lambda self: self.network.steps)


ONCE_MORE = humanram_reconstruction.CONFIGS
SMALL = replace(ONCE_MORE["shipped"], inputs=4, batch_size=4, lr=2e-4, repose=0.5)
ANIMATION = PaperRun(
    "HumanRAM supplement B, animation", batch=48, steps=4000, samples=48 * 4000, gpus=8, gpu="A100-80GB",
    notes=("the hyper-parameters are said to be 'the same as above': we take stage 2's",),
)  # fmt: skip
CONFIGS = {
    "smoke": Config(replace(ONCE_MORE["smoke"], steps=4), avatars=1, frames=3, views=4, jitter=1.0),
    "laptop": Config(replace(SMALL, people=24, steps=150, warmup=10), avatars=12, jitter=1.0),
    "shipped": Config(replace(SMALL, steps=1000, warmup=50), avatars=60, jitter=1.0),
    "gpu": Config(replace(ONCE_MORE["gpu"], inputs=4, repose=0.5, steps=4000, lr=3e-4), avatars=100, jitter=1.0),
    "humanram-animation": Config(replace(ONCE_MORE["humanram-512"], targets=4, steps=4000, paper=ANIMATION), every=1,
                                 frames=150, views=32, single=0.0),
}  # fmt: skip
RUNS = "course_lib.studies.humanram_animation"


# Chapter 16, section "2 The data", exercise 16.3
def draw_seen(generator: torch.Generator, views: int, single: float) -> Tensor:
    """Which views of a sample are seen, (S,) bool: with probability `single` one of them, any; else all. Ours."""
    if torch.rand((), generator=generator) >= single:
        return torch.ones(views, dtype=torch.bool)
    return torch.arange(views) == torch.randint(views, (), generator=generator)


RANGES = (0.2, 0.2, 0.2, 0.05)  # brightness, contrast, saturation, hue (of a turn): our choice


# Chapter 16, section "3 Continued training, and colours"
def draw_amounts(generator: torch.Generator, count: int, strength: float = 1.0) -> Tensor:
    """(B, 4): by how much each sample's brightness, contrast, saturation and hue change, evenly in ± RANGES."""
    return strength * (2 * torch.rand(count, 4, generator=generator) - 1) * torch.tensor(RANGES)


# Chapter 16, section "3 Continued training, and colours"
def jitter_colours(pictures: Tensor, amounts: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] with other colours, by amounts (N, 4), in [0, 1] again. Contrast is stretched
    about 0.5, so that equal colours stay equal from picture to picture."""
    brightness, contrast, saturation, hue = amounts.T[..., None, None, None]  # (N, 1, 1, 1) each
    changed = pictures * (1 + brightness)
    changed = 0.5 + (changed - 0.5) * (1 + contrast)
    grey = (changed * changed.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    changed = (grey + (changed - grey) * (1 + saturation)).clamp(0, 1)
    return adjust_hue(changed, 2 * math.pi * hue.flatten()).clamp(0, 1)


# Chapter 16, section "3 Continued training, and colours", exercise 16.4
def jitter_views(views: Tensor, alpha: Tensor, amounts: Tensor) -> Tensor:
    """Views on white (B, S, 3, H, W), their alpha (B, S, 1, H, W), and amounts (B, 4) -> the same views with the
    person's colours changed, alike in all views of a sample; white stays white. HumanRAM supplement B; NNA."""
    own = ((views - (1 - alpha)) / alpha.clamp(min=1 / 255)).clamp(0, 1)  # without the white
    every = amounts.repeat_interleave(views.shape[1], 0)  # (B * S, 4)
    changed = jitter_colours(own.flatten(0, 1), every).view_as(own)
    return alpha * changed + 1 - alpha


# Chapter 16, section "3 Continued training, and colours"
def jittered(generator: torch.Generator, batch: Batch, strength: float) -> Batch:
    """A batch with one jitter for each sample, given views and targets alike; its `alpha` has done its duty then."""
    batch = dict(batch)
    alpha = batch.pop("alpha")
    if strength:
        amounts = draw_amounts(generator, len(alpha), strength)
        batch["image"] = jitter_views(batch["image"], alpha, amounts)
        batch["target_image"] = jitter_views(batch["target_image"], batch["target_alpha"], amounts)
    return batch


# Chapter 16, section "3 Continued training, and colours"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    return humanram_reconstruction.example(config.network, count) | {
        "seen": torch.ones(count, config.network.inputs, dtype=torch.bool)
    }


# Chapter 16, section "3 Continued training, and colours"
def recipe(config: Config, stream: Stream | None, weights: dict[str, Tensor] | None = None) -> Recipe:
    """The continued training of a `HumanRAM` with chapter 15's weights; without them it begins anew."""
    plain = humanram_reconstruction.recipe(config.network, stream, weights)
    return replace(plain, name=f"humanram-animation-{config.network.size}", example=partial(example, config))


# Chapter 16, section "3 Continued training, and colours"
def generate(config: Config) -> Callable:
    """For a launch: (generator, samples) -> a batch of the mixture, which lies in the data folder."""
    return resolved(f"{RUNS}:stream")(config).make


SHIPPED = {"animation": Shipped("humanram_animation-animation", CONFIGS["shipped"], f"{RUNS}:animated")}


# Chapter 16, section "6 In the wild: a camera for one photograph"
def require_orthographic(points: Tensor, scale: Tensor, translation: Tensor, K: Tensor) -> None:
    """ValueError for shapes that don't go together, for a scale that is not positive, and for what is not finite."""
    count = len(points)
    found = [tuple(part.shape) for part in (scale, translation, K)]
    if points.ndim != 3 or found != [(count,), (count, 2), (count, 3, 3)]:
        wanted = "points (B, N, 3), scale (B,), translation (B, 2) and K (B, 3, 3) with one B"
        raise ValueError(f"give {wanted}, not {[tuple(points.shape), *found]}")
    for name, part in (("points", points), ("scale", scale), ("translation", translation), ("K", K)):
        good = part.isfinite().flatten(1).all(1) if part.ndim > 1 else part.isfinite() & (part > 0)
        if not good.all():
            first = int((~good).int().argmax())
            rule = "must be more than 0 and finite" if part.ndim == 1 else "holds NaN or infinity: leave it out"
            raise ValueError(f"person {first}: {name} {rule}")


# Chapter 16, section "6 In the wild: a camera for one photograph", exercise 16.5
def perspective_from_orthographic(points: Tensor, scale: Tensor, translation: Tensor, K: Tensor) -> Camera:
    """The perspective cameras that see people as orthographic ones do, equation (16.12). HumanRAM supplement A.

    points (B, N, 3), N >= 6, metres, in the orthographic camera's axes (x right, y down, z forward); scale (B,) pixels
    a metre and translation (B, 2) metres, as `weak_perspective_project` takes them, measured from the principal point
    of K (B, 3, 3) -> B cameras; R and t lead from the points' axes to the new camera's. ValueError for fewer than 6
    points, points in a plane, NaN, and a scale that is not positive.
    """
    require_orthographic(points, scale, translation, K)
    pixels = weak_perspective_project(points, scale, translation) + K[:, None, :2, 2]  # (B, N, 2)
    found = [solve_pnp(*person) for person in zip(points, pixels, K, strict=True)]
    R, t = (torch.stack(part) for part in zip(*found, strict=True))
    return Camera(K, R, t)


# Chapter 16, section "The crop's camera", exercise 16.6
def crop_orthographic(weak: Tensor, K: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Weak-perspective cameras (B, 3) = s, t_x, t_y over square crops from -1 to 1 -> scale (B,), pixels a metre, and
    translation (B, 2), metres, measured from the principal points of the crops' K (B, 3, 3). size: pixels of a crop's
    side. Equation (16.13)."""
    scale = size / 2 * weak[:, 0]  # (B,)
    return scale, weak[:, 1:] + (size / 2 - K[:, :2, 2]) / scale[:, None]


# Chapter 16, section "7 A body for one photograph", exercise 16.7
def bone_rotations(rest: Tensor, posed: Tensor, weights: Tensor, parents: Tensor, pull: float = 1e-3) -> Tensor:
    """The world rotations (B, J, 3, 3) of bones, from the skin at rest (B, V, 3), posed (B, V, 3), and its weights
    (V, J), equation (16.15). parents (J,): -1 for the root, others before their children. pull: λ, square metres."""
    found = []
    for joint, parent in enumerate(parents.tolist()):
        w = weights[:, joint, None]  # (V, 1)
        total = w.sum().clamp(min=1e-6)
        x, y = (points - (w * points).sum(1, keepdim=True) / total for points in (rest, posed))
        matrix = (w * y).mT @ x  # (B, 3, 3)
        found.append(nearest_rotation(matrix + pull * found[parent] if parent >= 0 else matrix))
    return torch.stack(found, 1)


# Chapter 16, section "7 A body for one photograph"
def local_pose(rotations: Tensor, parents: Tensor) -> Tensor:
    """World rotations (B, J, 3, 3) -> the pose (B, J, 3), axis-angle, each joint in its parent's frame."""
    local = rotations[:, parents[1:]].mT @ rotations[:, 1:]
    return matrix_to_axis_angle(torch.cat([rotations[:, :1], local], 1))


# Chapter 16, section "7 A body for one photograph"
def carried_by(weights: Tensor, parents: Tensor) -> Tensor:
    """Skinning weights (V, J) -> how much of each vertex hangs on each joint (V, J): its weights and those below."""
    carried = weights.clone()
    for joint in range(len(parents) - 1, 0, -1):  # children before their parents
        carried[:, parents[joint]] += carried[:, joint]
    return carried


# Chapter 16, section "7 A body for one photograph", exercise 16.8
def turning_columns(posed: Tensor, joints: Tensor, carried: Tensor) -> Tensor:
    """How vertices (V, 3) move when joints (J, 3) turn, carried (V, J): the matrix (3V, 3J) of equation (16.16). Row
    3v + c is coordinate c of vertex v, column 3j + a the turn of joint j about the world's axis a, in radians."""
    arms = posed[:, None] - joints  # (V, J, 3)
    blocks = -carried[..., None, None] * skew(arms)  # (V, J, 3, 3): coordinate, axis
    return blocks.permute(0, 2, 1, 3).reshape(3 * len(posed), 3 * len(joints))


# Chapter 16, section "7 A body for one photograph"
def shape_columns(body: BodyModel, pose: Tensor) -> Tensor:
    """How the vertices move with each shape coefficient in a fixed pose (J, 3): (3V, K). Exact, at any shape."""
    count = body.counts[0]
    ones = torch.cat([pose.new_zeros(1, count), torch.eye(count)])
    vertices = body(betas=ones, pose=pose.expand(count + 1, -1, -1)).vertices  # (1 + K, V, 3)
    return (vertices[1:] - vertices[:1]).flatten(1).T


# Chapter 16, section "7 A body for one photograph"
def turn_joints(pose: Tensor, turns: Tensor, parents: Tensor) -> Tensor:
    """A pose (J, 3) after each joint has turned by `turns` (J, 3), radians about the world's axes -> (J, 3)."""
    local = axis_angle_to_matrix(pose)
    _, transforms = forward_kinematics(local[None], pose.new_zeros(1, len(pose), 3), parents)
    above = torch.cat([torch.eye(3)[None], transforms[0, parents[1:], :3, :3]])  # the parents' rotations in the world
    inside = (above.mT @ turns[..., None])[..., 0]
    return matrix_to_axis_angle(axis_angle_to_matrix(inside) @ local)


RIDGE = 1e-3  # square metres


# Chapter 16, section "7 A body for one photograph"
def fit_step(target: Tensor, body: BodyModel, carried: Tensor, found: list[Tensor], reach: float) -> list[Tensor]:
    """One robust Gauss-Newton step of `fit_body` for one person: target (V, 3); found: pose (J, 3), betas (K,),
    translation (3,) -> the same, better."""
    pose, betas, translation = found
    posed, joints = (part[0] for part in body(betas[None], pose[None], translation=translation[None]))
    joint_columns, shapes = turning_columns(posed, joints, carried), shape_columns(body, pose)
    columns = torch.cat([joint_columns, shapes, torch.eye(3).repeat(len(posed), 1)], 1)  # (3V, 3J + K + 3)
    missing = target - posed
    weight = 1 / (1 + missing.square().sum(1) / reach**2)  # (V,)
    weighted = columns.mT * weight.repeat_interleave(3)
    ridge = torch.full((columns.shape[1],), RIDGE)
    pulled = torch.cat([0 * pose.flatten(), betas, 0 * translation])  # the ridge draws shapes to the mean
    change = torch.linalg.solve(weighted @ columns + ridge.diag(), weighted @ missing.flatten() - ridge * pulled)
    turns, shape, place = change.split([pose.numel(), len(betas), 3])
    turns = turns.view(-1, 3).clamp(-0.5, 0.5)  # radians: (16.16) holds for small ones
    return [turn_joints(pose, turns, body.parents), betas + shape, translation + place]


# Chapter 16, section "7 A body for one photograph"
def require_mesh(vertices: Tensor, body: BodyModel) -> None:
    """ValueError for vertices that are not the body's, or not finite."""
    if vertices.ndim != 3 or vertices.shape[1:] != body.template.shape:
        shape = tuple(body.template.shape)
        raise ValueError(f"vertices are {tuple(vertices.shape)}, this body has (B, {shape[0]}, 3): take its own mesh")
    if not vertices.isfinite().all():
        raise ValueError("vertices hold NaN or infinity: leave such a person out")


# Chapter 16, section "7 A body for one photograph"
@torch.no_grad()
def fit_body(vertices: Tensor, body: BodyModel, steps: int = 6, reach: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """The pose (B, 55, 3), shape (B, K) and translation (B, 3) whose body comes nearest to vertices (B, V, 3), metres,
    numbered as the body model's, equation (16.14): bones first, then `steps` Gauss-Newton steps in which a vertex that
    is `reach` metres off counts half. ValueError for other vertices than the body's, and for NaN."""
    require_mesh(vertices, body)
    rest = body.template.expand_as(vertices)
    poses = local_pose(bone_rotations(rest, vertices, body.weights, body.parents), body.parents)
    carried, found = carried_by(body.weights, body.parents), []
    for target, pose in zip(vertices, poses, strict=True):
        place = (target - body(pose=pose[None]).vertices[0]).mean(0)
        person = [pose, pose.new_zeros(body.counts[0]), place]
        for _ in range(steps):
            person = fit_step(target, body, carried, person, reach)
        found.append(person)
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


# Chapter 16, section "8 The person on white"
@torch.no_grad()
def foreground(images: Tensor, model: Callable[[Tensor], Tensor | dict[str, Tensor]]) -> Tensor:
    """How much of each pixel is people, (B, H, W) in [0, 1]. images (B, 3, H, W) in [0, 1]; model: chapter 10's `David`
    (its logits "alpha"), or scores (B, C, H, W) of parts, of which class 0 is the background, equation (16.17)."""
    answer = model(images)
    if isinstance(answer, dict):
        if "alpha" not in answer:
            raise ValueError(f"the model answers with {', '.join(answer)}: give one that has alpha among its tasks")
        return answer["alpha"][:, 0].sigmoid()
    return 1 - answer.softmax(1)[:, 0]


# Chapter 16, section "8 The person on white"
def person_box(alpha: Tensor) -> Tensor:
    """The box (1, 4), left, top, right, bottom, of the pixels of alpha (H, W) above ½. ValueError where none is."""
    rows, columns = (alpha > 0.5).nonzero(as_tuple=True)
    if len(rows) == 0:
        raise ValueError("nobody is in this picture: no pixel's alpha is above 1/2")
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])[None].float()


# Chapter 16, section "8 The person on white", exercise 16.9
def centred_on_white(
    image: Tensor, alpha: Tensor, camera: Camera, size: int, fill: float = 0.82
) -> tuple[Tensor, Camera]:
    """The person in the middle of a white square: image (3, H, W) in [0, 1], alpha (H, W), the picture's camera (one)
    -> (3, size, size), in which the person's longer side takes `fill`, and its camera. ValueError where nobody is."""
    box = person_box(alpha)
    crop, matrix = crop_people(torch.cat([image, alpha[None]])[None], box, (size, size), 1 / fill)  # (1, 4, size, size)
    side = size * matrix[:, 0, 0]
    square = torch.cat([matrix[:, :, 2], side[:, None], side[:, None]], 1)  # left, top, width, height
    share = crop[0, 3:]
    return crop[0, :3] * share + 1 - share, camera.cropped(square, (size, size))


# Chapter 16, section "9 From end to end"
def body_views(vertices: Tensor, faces: Tensor, camera: Camera, size: int) -> Batch:
    """A body (V, 3), its pelvis at 0, before S cameras, as HumanRAM takes the given views of one person: rays
    (1, S, 6, H, W), face (1, S, H, W) and barycentric (1, S, H, W, 3)."""
    count = len(camera)
    views = driven(vertices.expand(count, -1, -1), vertices.new_zeros(count, 3), faces, camera, (size, size))
    return {name.removeprefix("target_"): values for name, values in views.items()}


# Chapter 16, section "9 From end to end"
def around(camera: Camera, degrees: Tensor) -> Camera:
    """One camera, carried around the world's vertical through 0 by M angles: M cameras that look as it does."""
    turns = degrees.new_zeros(len(degrees), 3)
    turns[:, 1] = -degrees.deg2rad()
    count = len(degrees)
    return Camera(camera.K.expand(count, 3, 3), camera.R @ axis_angle_to_matrix(turns), camera.t.expand(count, 3))


# Chapter 16, section "12 Does the jitter help?"
@dataclass(frozen=True)
class Arm:
    """One arm of the study: the strength of the jitter."""

    jitter: float = 1.0


# Chapter 16, section "12 Does the jitter help?"
def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm: few people, and all samples in full view."""
    few = replace(SMALL, people=6, steps=steps, warmup=5, lr=4e-4)
    return Config(few, avatars=6, single=0.0, jitter=arm.jitter)


STUDIES = {
    "jitter": Study("16.jitter", "one colour jitter for all views of a sample",
                    {"with": Arm(1.0), "without": Arm(0.0)}, f"{RUNS}:compare", steps=100),
}  # fmt: skip


# course build sealed the text above: 1210c949c131e603

"""The runs of chapter 16: the model that it ships, the study of its colour jitter, and what both are measured with.

Continued training begins with chapter 15's shipped weights. An avatar is a person of the training split in motion;
subjects that were seen and subjects that were not are measured on the same motions, which nobody was trained on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.chapters import humanram_animation as animation
from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.chapters.cameras import Camera
from course_lib.data.multiview import Scans, evenly_spaced, scans
from course_lib.data.streams import GeneratedStream
from course_lib.recipe import Batch
from course_lib.scale import pick, scale
from course_lib.shipped import ShippedError, available, load, note_data, round_weights, train
from course_lib.studies import humanram as reconstruction
from course_lib.studies.humanram_measure import Seen, Task, box_psnr, drawn, measure, nearest_view, task_psnr
from course_lib.studies.sapiens import Metrics

TRAINED = "wandering"  # the motion of the avatars that are learned from
TESTED = {"smoke": ("walking",), "laptop": ("walking", "waving")}  # motions of the test, of no avatar
GROUPS = {"seen subjects": "train", "unseen subjects": "test"}
GIVEN = {"smoke": (2, 1), "laptop": (4, 1)}  # how many views of the first frame are given


# ------------------------------------------------------------------------------------------------- data
def avatars(config) -> Scans:
    """The sequences that a configuration learns from, rendered where they are not there yet."""
    size, frames = config.network.size, config.frames
    return scans("train", config.avatars, size, frames, config.views, TRAINED, every=config.every)


def test_clips(split: str, motion: str, size: int) -> Scans:
    """A few people of a split in a motion."""
    count, frames, views = pick(smoke=(1, 2, 4), laptop=(4, 5, 8))
    return scans(split, count, size, frames, views, motion, every=10)


def clip_batch(found: Scans, source: int, given: Tensor, goals: Tensor, asked: Tensor) -> Batch:
    """Views `given` (S,) of scan `source`, and what is to be drawn: of each scan in `goals` (M,) one view in `asked`
    (M,). A batch of one, named as `scan_batch` names it, with the inputs' alpha too."""
    known, wanted = found.pictures(torch.tensor([source]), given[None]), found.pictures(goals, asked[:, None])
    return known | {f"target_{name}": values.transpose(0, 1) for name, values in wanted.items()}


def scan_sample(generator: torch.Generator, found: Scans, config) -> Batch:
    """A scan as chapter 15 samples it: views, and views in between of the same pose or, at times, another."""
    net, poses = config.network, found.ring.poses
    given, asked = humanram.choose_views(generator, found.ring.views, net.inputs, net.targets)
    source = int(torch.randint(len(found), (), generator=generator))
    person, goal = source // poses, source
    if poses > 1 and torch.rand((), generator=generator) < net.repose:
        shift = int(torch.randint(1, poses, (), generator=generator))
        goal = person * poses + (source % poses + shift) % poses
    return clip_batch(found, source, given, torch.full((net.targets,), goal), asked)


def avatar_sample(generator: torch.Generator, found: Scans, config) -> Batch:
    """An avatar: views of one frame are given, each target is of a frame in the window around it."""
    net, frames = config.network, found.ring.poses
    given, asked = humanram.choose_views(generator, found.ring.views, net.inputs, net.targets)
    first = frames * int(torch.randint(found.people, (), generator=generator))
    frame, goals = animation.avatar_targets(generator, frames, net.targets, config.window, config.every)
    return clip_batch(found, first + frame, given, first + goals, asked)


def stream(config, seed: int = 0) -> GeneratedStream:
    """The mixture: a share of avatars, the rest scans; some with a single view; jittered where the configuration says
    so."""
    static, moving = reconstruction.training_scans(config.network), avatars(config)

    def sample(generator: torch.Generator) -> Batch:
        of_avatar = bool(torch.rand((), generator=generator) < config.share)
        make, found = (avatar_sample, moving) if of_avatar else (scan_sample, static)
        batch = animation.jittered(generator, make(generator, found, config), config.jitter)
        return batch | {"seen": animation.draw_seen(generator, config.network.inputs, config.single)[None]}

    def make(generator: torch.Generator, count: int) -> Batch:
        samples = [sample(generator) for _ in range(count)]
        return {name: torch.cat([one[name] for one in samples]) for name in samples[0]}

    return GeneratedStream(make, seed)


def first_weights(config) -> dict[str, Tensor] | None:
    """Chapter 15's shipped weights; None where they are not there, or are of a network of another size."""
    before = humanram.SHIPPED["scans"]
    parts = ("width", "depth", "heads", "hidden", "patch", "texture_size", "texture_channels", "head", "features")
    alike = all(getattr(before.config, name) == getattr(config.network, name) for name in parts)
    if not (alike and available(before.name)):
        return None
    model = humanram.HumanRAM(before.config, *humanram.canonical_surface())
    load(model, before.name)
    return model.state_dict()


# ------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Clip(Task):
    """A clip to be drawn, a target a frame, and the cameras (M) that see them; `source` and `goal` are its first and
    last frame."""

    camera: Camera


def clip_task(found: Scans, person: int, inputs: int, asked: Tensor | None = None) -> Clip:
    """Views of a person's first frame are given; of every later frame one is asked for: `asked` (frames - 1,), or in
    turn those that are not given when four are."""
    views, frames = found.ring.views, found.ring.poses
    source, given = person * frames, evenly_spaced(views, inputs)
    goals = source + torch.arange(1, frames)
    if asked is None:
        free = [view for view in range(views) if view not in evenly_spaced(views, min(4, views - 1)).tolist()]
        asked = torch.tensor([free[frame % len(free)] for frame in range(frames - 1)])
    batch = clip_batch(found, source, given, goals, asked)
    del batch["alpha"]
    seen = Seen(batch["image"][0], found.camera(torch.full_like(given, source), given), found.vertices(source))
    return Clip(batch, seen, found, source, int(goals[-1]), found.camera(goals, asked))


def turned_task(found: Scans, scan: int, angle: int) -> Task:
    """View 0 of a scan is given, the one `angle` cameras further around the ring is asked for, in the same pose."""
    view, camera = torch.tensor([0]), found.camera(torch.tensor([scan]), torch.tensor([0]))
    batch = clip_batch(found, scan, view, torch.tensor([scan]), torch.tensor([angle % found.ring.views]))
    del batch["alpha"]
    return Task(batch, Seen(batch["image"][0], camera, found.vertices(scan)), found, scan, scan)


def clip_tasks(split: str, inputs: int, size: int) -> Iterator[Clip]:
    """All test clips of a split."""
    for motion in pick(**TESTED):
        found = test_clips(split, motion, size)
        yield from (clip_task(found, person, inputs) for person in range(found.people))


def copied(task: Clip) -> Tensor:
    """The given picture from the nearest direction as an answer: (M, 3, H, W)."""
    return nearest_view(task.given, task.camera)


def measured(model: nn.Module, size: int) -> Metrics:
    """`measure` of the test clips, by group and number of given views: names such as seen4_psnr_box."""
    rows = {}
    for group, split in GROUPS.items():
        for count in pick(**GIVEN):
            one = measure(drawn(model), clip_tasks(split, count, size))
            rows |= {f"{group.split()[0]}{count}_{name}": value for name, value in one.items()}
    return rows


def by_person(answer: Callable[[Task], Tensor], every: Iterator[Task]) -> list[tuple[Task, Tensor]]:
    """Every task and the PSNR on the person's box of each of its pictures, (M,)."""
    return [(task, task_psnr(answer, task)) for task in every]


# ------------------------------------------------------------------------------------------------- shipped, studies
def animated(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """Chapter 15's network after the configuration's continued training; `measured`. ShippedError where chapter 15's
    weights are not there."""
    weights = first_weights(config)
    if weights is None:
        raise ShippedError("chapter 15's weights are not there yet: make them first with `course ship 15.scans`")
    note_data(folder, reconstruction.training_scans(config.network).ring.folder, avatars(config).ring.folder)
    run = train(animation.recipe(config, stream(config), weights), folder / "fit")
    model = round_weights(run.model).eval()
    return model, measured(model, config.network.size)


def compare(arm, seed: int, steps: int) -> Metrics:
    """A study's run: chapter 15's network, continued for `steps` steps on few avatars; psnr_box of test clips from four
    views: of seen and of unseen subjects. ShippedError where chapter 15's weights are not there."""
    config = animation.arm_config(arm, steps)
    if scale() == "smoke":
        config = replace(animation.CONFIGS["smoke"], jitter=arm.jitter)
        config = replace(config, network=replace(config.network, steps=steps))
    weights = first_weights(config)
    if weights is None and scale() != "smoke":
        raise ShippedError("the study continues chapter 15's network: make it first with `course ship 15.scans`")
    recipe = replace(animation.recipe(config, stream(config, seed), weights), seed=seed)
    answer = drawn(train(recipe, None, progress=False).model)
    size = config.network.size
    return {
        group.split()[0]: box_psnr(answer, clip_tasks(split, pick(**GIVEN)[0], size)) for group, split in GROUPS.items()
    }

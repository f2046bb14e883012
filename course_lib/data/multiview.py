"""Scans: one person in a pose (or in the frames of a motion), seen by cameras all around. HumanRAM learns from these.

The paper renders 3D scans of real people (THuman2.1), which are under a licence. Here the course's own people are
rendered on white. The world is the body's: its origin is the pelvis, y is up, metres. So the moment of a pixel's ray is
how far the ray passes from the pelvis, about 0 to 1.3; nothing needs to be scaled. In a motion the cameras travel with
the pelvis, and two poses of one person share the directions that their cameras look from.

A person's scans are one compressed file, `person-000012.npz`, that depends on its folder's name and the number alone:
a folder may be filled in any order, continued after a kill, and enlarged.
"""

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from course_lib.chapters.cameras import Camera
from course_lib.chapters.humanram_reconstruction import ray_map
from course_lib.chapters.rendering import rasterize
from course_lib.data import views as framing
from course_lib.data.lighting import sample_lights
from course_lib.data.make import MakeError, locked, spread
from course_lib.data.meshes import skin
from course_lib.data.person import SPLITS, Person, pose_people
from course_lib.data.poses import Skeleton, sample_pose
from course_lib.data.render import render_scene
from course_lib.data.sequences import FRAMES_PER_SECOND, MOTIONS, sample_sequence
from course_lib.data.sets import when_free
from course_lib.data.streams import GeneratedStream
from course_lib.data.worlds import identity
from course_lib.files import draft, file_hash, write_atomic
from course_lib.paths import body_file, data_dir
from course_lib.recipe import Batch
from course_lib.scale import scale
from course_lib.threads import one_thread

VERSION = 1  # of the files
FAMILIES = ("standing", "standing", "walking", "reaching", "lunging", "kicking")  # poses that scans are made of
FILL = 0.82  # share of the picture that the bare body takes: clothes and hair stand out from it
UP = np.array([0.0, 2.0, 0.0])  # metres: cameras are placed as if the pelvis were so high, else a floor is in their way

Choose = Callable[[torch.Generator, int, int, int], tuple[Tensor, Tensor]]


class ScanError(ValueError):
    """Scans that can't be made or read; the message says what to do."""


@dataclass(frozen=True)
class Ring:
    """What a folder's scans are: `poses` poses (or frames) of everybody, `views` cameras around each, `size` pixels;
    of a motion's 25 frames a second every `every`-th."""

    split: str
    size: int
    poses: int
    views: int
    motion: str
    every: int = 1

    def __post_init__(self):
        if self.split not in SPLITS or self.motion not in ("poses", *MOTIONS):
            raise ScanError(
                f"there are no scans of {self.split!r} in motion {self.motion!r}: a split is one of "
                f"{', '.join(SPLITS)}, a motion one of poses, {', '.join(MOTIONS)}"
            )
        if min(self.size, self.poses, self.views, self.every) < 1:
            raise ScanError(f"{self.poses} poses in {self.views} views of {self.size} pixels: give 1 or more of each")

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        words = [self.split, self.motion, self.size, f"p{self.poses}", f"v{self.views}", body_file().stem]
        words += [f"e{self.every}"] * (self.every > 1)
        return data_dir() / "-".join(["scans", *map(str, words), f"r{VERSION}"])

    def path(self, number: int) -> Path:
        """The file of one person."""
        return self.folder / f"person-{number:06d}.npz"


# ---------------------------------------------------------------- one person


@one_thread()
@torch.no_grad()
def person_scans(ring: Ring, number: int) -> dict[str, np.ndarray]:
    """Person `number` of the split, P poses before V cameras: image (P, V, 4, H, W) uint8, colour on white and alpha;
    face (P, V, H, W), -1 where there is no body; barycentric (P, V, 2, H, W) uint8, the first two in 1/255; K, R, t of
    the cameras; pose (P, 55, 3), translation (P, 3), betas, expression."""
    rng = np.random.default_rng([0x5CA9, SPLITS.index(ring.split), zlib.crc32(ring.motion.encode()), number])
    _, person = identity(ring.split, number)
    people = [centred(replace(person, pose=pose)) for pose in sample_poses(rng, ring, person)]
    cameras = ring_cameras(rng, ring, people)
    lights = sample_lights(rng, str(rng.choice(["studio", "overcast"])))
    every = [pose_pictures(person, own, lights, ring.size) for person, own in zip(people, cameras, strict=True)]
    arrays = {name: np.stack([pictures[name] for pictures in every]) for name in every[0]}
    for name in ("K", "R", "t"):
        arrays[name] = np.stack([getattr(own, name).numpy() for own in cameras])
    arrays |= {name: np.float32([getattr(p, name) for p in people]) for name in ("pose", "translation")}
    return arrays | {name: np.float32(getattr(person, name)) for name in ("betas", "expression")}


def sample_poses(rng: np.random.Generator, ring: Ring, person: Person) -> np.ndarray:
    """(P, 55, 3): unrelated poses, or the frames of a motion. The person faces +z, by and large."""
    skeleton = Skeleton.of(tuple(float(b) for b in person.betas))
    if ring.motion == "poses":
        return np.stack([sample_pose(rng, str(rng.choice(FAMILIES)), skeleton) for _ in range(ring.poses)])
    return sample_sequence(rng, ring.motion, ring.poses, skeleton, FRAMES_PER_SECOND / ring.every)[0]


def centred(person: Person) -> Person:
    """The person with the pelvis at the origin."""
    at_zero = replace(person, translation=np.zeros(3, np.float32))
    return replace(person, translation=-pose_people([at_zero]).joints[0, 0].numpy())


def ring_cameras(rng: np.random.Generator, ring: Ring, people: list[Person]) -> list[Camera]:
    """For each pose V cameras in the order of their azimuth, 10 degrees below to 20 above the level. Directions and
    focal length are a person's; the distance is that at which the pose (of a motion: all of it) fills the picture."""
    steps = np.arange(ring.views) + rng.uniform(0, 1) + rng.uniform(-0.15, 0.15, ring.views)
    azimuths = 2 * np.pi * steps / ring.views + rng.uniform(-np.pi, np.pi)
    elevations = np.deg2rad(rng.uniform(-10, 20, ring.views))
    directions = [framing.unit(*angles) for angles in zip(azimuths, elevations, strict=True)]
    focal = ring.size * rng.uniform(1.1, 1.9)  # a field of view of 49 to 29 degrees
    shown = pose_people(people).vertices[:, framing.framed_vertices("full")].numpy()
    clouds = shown if ring.motion == "poses" else [shown.reshape(-1, 3)] * len(people)
    return [fitted_ring(cloud, directions, focal, ring.size) for cloud in clouds]


def fitted_ring(cloud: np.ndarray, directions: list[np.ndarray], focal: float, size: int) -> Camera:
    """Cameras that see points (N, 3) from directions (3,) each, as large as FILL."""
    found = [framing.fit(cloud + UP, way, focal, (size, size), FILL, np.zeros(2)) for way in directions]
    K, R, t = (torch.cat([getattr(camera, name) for camera in found]) for name in ("K", "R", "t"))
    return Camera(K, R, t + R @ torch.from_numpy(np.float32(UP)))  # the world moves down again


def pose_pictures(person: Person, cameras: Camera, lights, size: int) -> dict[str, np.ndarray]:
    """One pose before V cameras: image, face and barycentric as `person_scans` has them, without P."""
    posed = pose_people([person])
    pictures = [
        render_scene([person], cameras[view], (size, size), lights, posed=posed) for view in range(len(cameras))
    ]
    colour = np.stack([p["image"] + (1 - p["alpha"][..., None]) for p in pictures])  # black behind people -> white
    rgba = np.concatenate([colour, np.stack([p["alpha"] for p in pictures])[..., None]], -1)
    vertices = posed.vertices[:, skin().index[: skin().visible]]
    seen = rasterize(vertices, skin().faces, cameras, size, cull_backfaces=True)
    narrow = np.int16 if len(skin().faces) < 2**15 else np.int32
    return {
        "image": np.round(255 * rgba.clip(0, 1)).astype(np.uint8).transpose(0, 3, 1, 2),
        "face": seen.face.numpy().astype(narrow),
        "barycentric": np.round(255 * seen.barycentric[..., :2].numpy()).astype(np.uint8).transpose(0, 3, 1, 2),
    }


# ---------------------------------------------------------------- the folder


def write_person(ring: Ring, number: int) -> int:
    """Renders one person's file, whole or not at all; the number."""
    arrays = person_scans(ring, number)
    with draft(ring.path(number)) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return number


def make_scans(ring: Ring, numbers: range, workers: int = 2, progress: bool = True) -> Path:
    """Renders those of the people whose file is not there; the folder, with a manifest of all that are. Again =
    continue. workers: processes, 0 renders in this one.

    MakeError where another process makes this folder, a worker died or the disk is full: whole files are kept.
    """
    missing = [number for number in numbers if not ring.path(number).exists()]
    if missing or not noted(ring).issuperset(ring.path(number).name for number in numbers):
        ring.folder.mkdir(parents=True, exist_ok=True)
        with locked(ring.folder):
            _make_missing(ring, missing, min(workers, len(missing)), progress)
            hashes = {path.name: file_hash(path) for path in sorted(ring.folder.glob("person-*.npz"))}
            write_atomic(ring.folder / "manifest.json", json.dumps({"version": VERSION, "files": hashes}, indent=1))
    return ring.folder


def noted(ring: Ring) -> set[str]:
    """The names of the files in the folder's manifest."""
    manifest = ring.folder / "manifest.json"
    return set(json.loads(manifest.read_text())["files"]) if manifest.exists() else set()


def _make_missing(ring: Ring, missing: list[int], workers: int, progress: bool) -> None:
    quiet = not progress or not missing
    with tqdm(total=len(missing), unit="person", desc=ring.folder.name, disable=quiet, mininterval=0.5) as bar:
        try:
            for _ in spread(partial(write_person, ring), missing, workers):
                bar.update()
        except OSError as error:
            raise MakeError(f"the disk said {error.strerror or error}: call again to go on in {ring.folder}") from error


# ---------------------------------------------------------------- in memory


@dataclass(frozen=True)
class Scans:
    """N scans in memory, the poses of one person after another: image (N, V, 4, H, W) uint8, face (N, V, H, W),
    barycentric (N, V, 2, H, W) uint8, K and R (N, V, 3, 3), t (N, V, 3), pose (N, 55, 3), translation (N, 3), betas
    (N, 10), expression (N, E); the ring that they are, and the folder that they come from."""

    image: Tensor
    face: Tensor
    barycentric: Tensor
    K: Tensor
    R: Tensor
    t: Tensor
    pose: Tensor
    translation: Tensor
    betas: Tensor
    expression: Tensor
    ring: Ring

    def __len__(self) -> int:
        return len(self.image)

    @property
    def people(self) -> int:
        """How many people there are; scan n is of person n // ring.poses."""
        return len(self) // self.ring.poses

    def camera(self, scan: Tensor, view: Tensor) -> Camera:
        """The cameras of scans and views, (B,) each."""
        return Camera(self.K[scan, view], self.R[scan, view], self.t[scan, view])

    def person(self, scan: int) -> tuple[str, Person]:
        """Who is in a scan, as the renderer drew them."""
        name, person = identity(self.ring.split, scan // self.ring.poses)
        return name, replace(person, pose=self.pose[scan].numpy(), translation=self.translation[scan].numpy())

    def vertices(self, scan: int) -> Tensor:
        """(V, 3): the skin of the body in a scan, whose faces `body_mesh` names. Metres, pelvis at the origin."""
        return pose_people([self.person(scan)[1]]).vertices[0, skin().index[: skin().visible]]

    def pictures(self, scan: Tensor, view: Tensor) -> Batch:
        """scan (B,) and view (B, S) -> image (B, S, 3, H, W) on white, alpha (B, S, 1, H, W), rays (B, S, 6, H, W),
        face (B, S, H, W) and barycentric (B, S, H, W, 3)."""
        where = scan[:, None].expand_as(view), view
        rgba = self.image[where].float() / 255  # (B, S, 4, H, W)
        face, two = self.face[where].long(), self.barycentric[where].float().movedim(-3, -1) / 255
        third = (1 - two.sum(-1, keepdim=True)).clamp(min=0)
        barycentric = torch.cat([two, third], -1) * (face >= 0)[..., None]
        camera = self.camera(where[0].flatten(), view.flatten())
        rays = ray_map(camera, (self.ring.size, self.ring.size)).unflatten(0, view.shape)
        return {
            "image": rgba[:, :, :3], "alpha": rgba[:, :, 3:], "rays": rays, "face": face, "barycentric": barycentric
        }  # fmt: skip


def body_mesh() -> tuple[Tensor, Tensor]:
    """The skin that `face` and `vertices` speak of: canonical points (V, 3), metres, mean shape in T-pose with the
    pelvis at the origin, and faces (F, 3)."""
    return skin().template[: skin().visible], skin().faces


@lru_cache(maxsize=4)
def read_scans(ring: Ring, count: int) -> Scans:
    """The first `count` people of a folder. ScanError, naming the file, where one is missing or cut."""
    every = []
    for number in range(count):
        try:
            with np.load(ring.path(number), allow_pickle=False) as kept:
                every.append({name: kept[name] for name in kept.files})
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ScanError(
                f"{ring.path(number)} is missing or cut ({error}): delete it, and `scans` renders it anew"
            ) from error
    joined = {name: np.concatenate([one[name] for one in every]) for name in every[0] if every[0][name].ndim > 1}
    joined |= {name: np.repeat([one[name] for one in every], ring.poses, 0) for name in ("betas", "expression")}
    return Scans(**{name: torch.from_numpy(values) for name, values in joined.items()}, ring=ring)


def scans(
    split: str = "train",
    count: int = 8,
    size: int = 96,
    poses: int = 2,
    views: int = 12,
    motion: str = "poses",
    workers: int | None = None,
    every: int = 1,
) -> Scans:
    """The first `count` people of a split as scans, rendered where they are not there yet.

    poses: of each person, or frames of a motion (walking, waving, ...): every `every`-th of 25 a second. views: cameras
    around each.
    workers: processes that render, 2 unless said (none at smoke scale); another that renders them is waited for.
    ScanError, MakeError.
    """
    if count < 1:
        raise ScanError(f"scans of {count} people: give 1 or more")
    ring, small = Ring(split, size, poses, views, motion, every), scale() == "smoke"
    workers = (0 if small else 2) if workers is None else workers
    when_free(lambda: make_scans(ring, range(count), workers, progress=not small))
    return read_scans(ring, count)


# ---------------------------------------------------------------- batches


def evenly_spaced(views: int, count: int, first: int = 0) -> Tensor:
    """(count,): views that are spread around the ring as evenly as it allows, from view `first` on. ScanError where
    there are fewer views."""
    if not 1 <= count <= views:
        raise ScanError(f"{count} of {views} views: give 1 to {views}")
    return (first + torch.arange(count) * views // count) % views


def scan_batch(found: Scans, source: Tensor, inputs: Tensor, goal: Tensor, targets: Tensor) -> Batch:
    """Views `inputs` (B, S) of scans `source` (B,), and what is to be drawn: views `targets` (B, M) of scans `goal`
    (B,), the same scans or others of the same people. The names are `HumanRAM`'s: those of `Scans.pictures`, and the
    same with `target_` before them."""
    given, wanted = found.pictures(source, inputs), found.pictures(goal, targets)
    del given["alpha"]
    return given | {f"target_{name}": values for name, values in wanted.items()}


def scan_stream(
    found: Scans, choose: Choose, inputs: int = 2, targets: int = 1, repose: float = 0.0, seed: int = 0
) -> GeneratedStream:
    """Random scans, each with `inputs` views given and `targets` to be drawn, as `choose(generator, views, inputs,
    targets)` picks them: two tensors of numbers in the order of azimuth. A share `repose` of the samples asks for
    another pose of the same person."""
    if repose and found.ring.poses < 2:
        raise ScanError("another pose is asked for, and each person has one: give scans(..., poses=2) or repose=0")

    def make(generator: torch.Generator, count: int) -> Batch:
        picked = [choose(generator, found.ring.views, inputs, targets) for _ in range(count)]
        source = torch.randint(len(found), (count,), generator=generator)
        other = torch.rand(count, generator=generator) < repose
        shift = torch.randint(1, max(2, found.ring.poses), (count,), generator=generator)
        person, pose = source // found.ring.poses, source % found.ring.poses
        goal = person * found.ring.poses + (pose + torch.where(other, shift, 0)) % found.ring.poses
        given, wanted = (torch.stack(numbers) for numbers in zip(*picked, strict=True))
        return scan_batch(found, source, given, goal, wanted)

    return GeneratedStream(make, seed)

"""Worlds: which people, poses, places, lights, objects and cameras the pictures of a data set are drawn from.

Picture i of (world, split, seed) depends on these four alone, so it does not matter who renders it or in which order.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags

from course_lib.chapters.cameras import Camera
from course_lib.chapters.david_data import balancing_weights
from course_lib.data import views
from course_lib.data.backgrounds import Background, sample_background
from course_lib.data.glasses import sample_glasses
from course_lib.data.held import held_things
from course_lib.data.keypoints import FORMATS, available, regressor, tolerance, visibility
from course_lib.data.layers import Targets
from course_lib.data.lighting import Lights, sample_lights
from course_lib.data.objects import ObjectMesh, sample_object, stool
from course_lib.data.person import SPLITS, Person, PosedPeople, identity_rng, load_body, pose_people, sample_person
from course_lib.data.poses import (
    FAMILIES,
    INDEX,
    Capsules,
    Skeleton,
    body,
    clip,
    euler_to_pose,
    pose_to_euler,
    sample_family,
    sample_pose,
    set_arm,
    set_hand,
)
from course_lib.data.render import render_scene
from course_lib.data.schema import Keypoints, PersonLabel, Sample
from course_lib.data.sequences import sample_sequence, turned
from course_lib.threads import one_thread

CAST = 12  # people that a block of scenes draws from: dressing somebody takes longer than a picture
BLOCK = {"train": 60, "val": 20, "test": 20}  # scenes in a block


class UnknownWorld(ValueError):
    """A world or split that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class World:
    """The shares (any positive numbers) and counts that scenes are drawn with."""

    identities: int  # people in each split
    people: dict[int, float]  # how many people a scene holds
    places: dict[str, float]
    objects: tuple[int, int] = (0, 0)  # fewest and most
    contact: float = 0.0  # share of all scenes that hold two people in contact
    egocentric: float = 0.0  # share of scenes seen from somebody's forehead, where the own hands are in view
    framings: dict[str, float] = field(default_factory=lambda: {"full": 1, "upper": 1, "face": 1})
    smooth: bool = False  # geometry as a scanner sees it: smoothed, no thin structures
    families: tuple[str, ...] = ()  # kinds of poses; all if empty
    together: float = 0.6  # share of full framings that show everybody, not one person
    spread: float = 1.0  # of people over the floor, as a factor
    in_front: float = 0.3  # share of objects that are tried between the camera and the people,
    aside: float = 0.4  # so many metres (a standard deviation) off the line between them
    hidden: tuple[float, float] = (0.0, 0.45)  # share of the people that objects hide: least (tried for) and most
    # What some worlds of `course_lib.data.gallery` do in their own way:
    cast: Callable[[list[int], int, str], list[int]] | None = None  # seed, identities, split -> who may appear
    become: Callable[[str, Person], tuple[str, Person]] | None = None  # a name and a person -> who they are here
    thing: Callable[[np.random.Generator, bool, bool], ObjectMesh] = sample_object  # outdoors, low -> an object
    pose: Callable[[np.random.Generator, Skeleton], tuple[str, np.ndarray]] | None = None  # -> its kind, pose (55, 3)
    reshape: Callable[[PosedPeople, list[str], list[Person]], PosedPeople] | None = None  # people once they are posed
    # What chapter 09's worlds do in their own way:
    draws: str = ""  # the world whose random numbers this one shares: scene i is the same there, but for what follows
    targets: Targets = Targets()  # what labels say of hair and lenses
    demographics: dict[str, dict[str, float]] = field(default_factory=dict)  # `GROUPS` -> shares of the cast
    holding: float = 0.0  # share of the people with something in a hand


WORLDS = {
    "studio": World(12, {1: 1}, {"plain": 1, "studio": 1}),
    "wild": World(
        1_000_000, {1: 0.52, 2: 0.26, 3: 0.13, 4: 0.09}, {"room": 5, "outdoors": 5, "studio": 1}, (0, 4), 0.1, 0.05
    ),
    "scan": World(500, {1: 1}, {"studio": 2, "room": 1, "outdoors": 1}, smooth=True),
    "general": World(
        1_000_000, {0: 0.8, 1: 0.12, 2: 0.05, 3: 0.03}, {"room": 5, "outdoors": 5, "studio": 1}, (1, 7), 0.02
    ),
    "general-nopeople": World(1, {0: 1}, {"room": 5, "outdoors": 5, "studio": 1}, (1, 7)),
}

LIGHTS = {
    "room": {"indoor": 5, "coloured": 1, "overcast": 1},
    "plain": {"studio": 2, "indoor": 2},
    "outdoors": {"sun": 4, "overcast": 3, "dusk": 1.5},
    "studio": {"studio": 4, "overcast": 1, "coloured": 1},
}


def with_strands(name: str, person: Person) -> tuple[str, Person]:
    """Somebody with strands for hair, and one in three with glasses, which depend on the person alone."""
    rng = np.random.default_rng([person.seed, 0x61A55])
    glasses = sample_glasses(rng) if rng.random() < 0.33 else None
    return name, dataclasses.replace(person, look=dataclasses.replace(person.look, strands=6000, glasses=glasses))


# Set by hand: as many women as men, as many of each third of skin tones, every age
DEMOGRAPHICS = {
    "sex": {"female": 0.5, "male": 0.5},
    "age": {"19-34": 0.4, "35-54": 0.35, "55-85": 0.25},
    "skin": {"light": 1 / 3, "medium": 1 / 3, "dark": 1 / 3},
}
RARE = {"light": 0.49, "medium": 0.49, "dark": 0.02}
_SYNTH = World(
    1_000_000, {1: 0.9, 2: 0.1}, {"room": 4, "outdoors": 4, "studio": 2, "plain": 1}, (0, 2), become=with_strands,
    draws="synth", demographics=DEMOGRAPHICS,
)  # fmt: skip
WORLDS |= {
    "synth": _SYNTH,
    "synth-strand-normals": dataclasses.replace(_SYNTH, targets=Targets(hair="strand")),
    "synth-lens": dataclasses.replace(_SYNTH, targets=Targets(lens=True)),
    "synth-coarse": dataclasses.replace(_SYNTH, become=None),
    "synth-scan": dataclasses.replace(_SYNTH, become=None, identities=100, smooth=True, draws=""),
    "synth-held": dataclasses.replace(_SYNTH, holding=0.9, targets=Targets(held=True)),
    "synth-unfair": dataclasses.replace(_SYNTH, demographics=DEMOGRAPHICS | {"skin": RARE}),
}


@dataclass(frozen=True)
class Scene:
    """All that a picture is rendered from. `people[frame]` are those of that moment; every camera sees every frame."""

    people: list[list[Person]]
    identities: list[str]
    families: list[str]
    cameras: list[Camera]
    background: Background
    lights: Lights
    objects: list[ObjectMesh]
    place: str
    smooth: bool
    targets: Targets = Targets()


def world_named(name: str, split: str = "train") -> World:
    """The world of a name. UnknownWorld if there is none, or no such split."""
    worlds = WORLDS
    if name.startswith("gallery-"):
        from course_lib.data.gallery import WORLDS as worlds  # which is built on this module
    if name not in worlds:
        raise UnknownWorld(f"there is no world {name!r}: use one of {', '.join(worlds)}")
    if split not in SPLITS:
        raise UnknownWorld(f"there is no split {split!r}: use one of {', '.join(SPLITS)}")
    return worlds[name]


def scene_rng(world: str, split: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one scene."""
    return np.random.default_rng([zlib.crc32(world.encode()), SPLITS.index(split), seed, index])


def draw(rng: np.random.Generator, shares: dict):
    """A key of a dictionary of shares."""
    weights = np.array(list(shares.values()), dtype=float)
    return list(shares)[rng.choice(len(weights), p=weights / weights.sum())]


# ---------------------------------------------------------------- people


@lru_cache(maxsize=64)
def identity(split: str, number: int) -> tuple[str, Person]:
    """Person `number` of a split and their name."""
    return f"{split}-{number:06d}", sample_person(identity_rng(split, number))


def cast(world: World, name: str, split: str, seed: int, index: int) -> list[int]:
    """The numbers of the people who may appear in scene `index`: those of its block."""
    if world.identities <= CAST:
        return list(range(world.identities))
    block = [0xCA57, zlib.crc32(name.encode()), SPLITS.index(split), seed, index // BLOCK[split]]
    if world.cast:
        return world.cast(block, world.identities, split)
    if world.demographics:
        table = tuple((trait, tuple(shares.items())) for trait, shares in world.demographics.items())
        return list(balanced_cast(tuple(block), min(world.identities, POOL), world.identities, split, table))
    return np.random.default_rng(block).choice(world.identities, CAST, replace=False).tolist()


# ---------------------------------------------------------------- demographics

POOL = 300  # candidates of whom a block's cast is drawn


def tone(person: Person) -> str:
    """The third of our skin tones that somebody's is in: light, medium or dark, by its brightness."""
    brightness = float(np.mean(person.look.skin))
    return "light" if brightness > 0.63 else "medium" if brightness > 0.445 else "dark"


def age_group(person: Person) -> str:
    """19-34, 35-54 or 55-85 years."""
    return "19-34" if person.look.age < 35 else "35-54" if person.look.age < 55 else "55-85"


GROUPS: dict[str, Callable[[Person], str]] = {
    "sex": lambda person: "female" if person.look.female > 0.5 else "male",
    "age": age_group,
    "skin": tone,
    "hair": lambda person: person.look.hair_style,
}


@lru_cache(maxsize=100_000)
def traits(split: str, number: int) -> dict[str, str]:
    """The group of person `number` of a split in each of GROUPS."""
    person = sample_person(identity_rng(split, number), clothed=False)  # clothes are drawn last: nothing else changes
    return {name: group(person) for name, group in GROUPS.items()}


@lru_cache(maxsize=64)
def balanced_cast(block: tuple[int, ...], pool: int, identities: int, split: str, table: tuple) -> tuple[int, ...]:
    """The people of a block, drawn from a pool of candidates so that they follow a table of shares: of several traits,
    a group's share is the product. ValueError if the table has a trait that GROUPS lacks, or leaves nobody."""
    unknown = [trait for trait, _ in table if trait not in GROUPS]
    if unknown:
        raise ValueError(f"demographics know {', '.join(GROUPS)}, not {unknown[0]!r}")
    rng = np.random.default_rng(block)
    candidates = rng.choice(identities, pool, replace=False)
    groups = [tuple(traits(split, int(number))[trait] for trait, _ in table) for number in candidates]
    shares = {
        "/".join(g): float(np.prod([dict(s).get(v, 0) for v, (_, s) in zip(g, table, strict=True)])) for g in groups
    }
    weights = balancing_weights(["/".join(g) for g in groups], shares)
    return tuple(rng.choice(candidates, min(CAST, int((weights > 0).sum())), replace=False, p=weights).tolist())


@dataclass
class Actor:
    """Somebody in a scene while it is put together: poses (T, 55, 3) without heading, translations (T, 3)."""

    name: str
    person: Person
    family: str
    poses: np.ndarray
    moves: np.ndarray
    heading: float = 0.0  # radians from +z towards +x
    known: dict[int, Capsules] = field(
        default_factory=dict
    )  # limbs of a frame before its move, once they were asked for

    @property
    def skeleton(self) -> Skeleton:
        """Joints and capsules of this body shape."""
        return Skeleton.of(tuple(float(b) for b in self.person.betas))

    def turn(self) -> None:
        """Turns poses and moves by the heading, once."""
        self.known.clear()
        self.poses = np.stack([turned(pose, np.rad2deg(self.heading)) for pose in self.poses])
        c, s = np.cos(self.heading), np.sin(self.heading)
        self.moves = self.moves @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])

    def capsules(self, frame: int = 0) -> Capsules:
        """The limbs in the world."""
        if frame not in self.known:
            self.known[frame] = self.skeleton.capsules(self.poses[frame])
        return self.known[frame].moved(self.moves[frame])

    def at(self, frame: int) -> Person:
        """The person at one moment, with a face that moves a little."""
        return dataclasses.replace(
            self.person, pose=self.poses[frame], translation=self.moves[frame].astype(np.float32)
        )


ACTIONS = {"neutral": 3, "smile": 3, "open": 2, "blink": 1, "random": 3}


def sample_expression(rng: np.random.Generator, count: int, names: list[str]) -> np.ndarray:
    """Facial actions (count,) in [0, 1]: a smile, an open mouth, closed eyes or a few random ones."""
    values, kind = np.zeros(count, np.float32), draw(rng, ACTIONS)
    at = {name: i for i, name in enumerate(names)}
    pairs = {"smile": ("mouthSmile", "cheekSquint"), "blink": ("eyeBlink",)}.get(kind, ())
    for stem in pairs:
        for side in ("Left", "Right"):
            values[at.get(stem + side, 0)] = rng.uniform(0.4, 1.0) if at else 0
    if kind == "open" and at:
        values[at["jawOpen"]] = rng.uniform(0.2, 0.9)
    if kind == "random":
        values[rng.integers(0, count, 5)] = rng.uniform(0, 0.6, 5)
    return values


def action_names() -> list[str]:
    """Names of the facial actions; empty for a body without them."""
    pack = load_body().pack
    return [str(name) for name in pack["expression_action_names"]] if pack else []


def sample_actor(rng: np.random.Generator, world: World, split: str, number: int, motion: str, frames: int) -> Actor:
    """Person `number` of a split in a pose or a motion, at the origin, not yet turned."""
    name, person = identity(split, number)
    if world.become:
        name, person = world.become(name, person)
    person = dataclasses.replace(person, expression=sample_expression(rng, len(person.expression), action_names()))
    actor = Actor(name, person, motion, np.zeros((1, 55, 3)), np.zeros((1, 3)), float(rng.uniform(-np.pi, np.pi)))
    if motion == "still":
        actor.family, pose = still_pose(rng, world, actor.skeleton)
        actor.poses = np.repeat(pose[None], frames, 0)
        actor.moves = np.zeros((frames, 3))
    else:
        actor.poses, actor.moves = sample_sequence(rng, motion, frames, actor.skeleton)
    return actor


def still_pose(rng: np.random.Generator, world: World, skeleton: Skeleton) -> tuple[str, np.ndarray]:
    """A kind of pose that the world has, and a pose (55, 3) of that kind."""
    if world.pose:
        return world.pose(rng, skeleton)
    family = sample_family(rng) if not world.families else str(rng.choice(world.families))
    return family, sample_pose(rng, family, skeleton)


def _arm_pose(rng: np.random.Generator, left: str, right: str, hands: str = "relaxed") -> np.ndarray:
    """Somebody who stands, with given arms."""
    euler = pose_to_euler(sample_pose(rng, "standing"))
    for side, arm in (("left", left), ("right", right)):
        set_arm(euler, arm, side)
        set_hand(euler, hands, side)
    return euler_to_pose(clip(euler))


# arms of both (left, right), heading of the second to the first in degrees, from where the second comes (azimuth in
# degrees, the first faces 0), and how far it is to the side of that line (metres)
CONTACTS = {
    "shaking hands": (("relaxed", "shake"), ("relaxed", "shake"), 180, 0, -0.28),
    "high five": (("relaxed", "forward_up"), ("relaxed", "forward_up"), 180, 0, -0.3),
    "arm over shoulder": (("around", "relaxed"), ("on_hip", "relaxed"), 0, 90, -0.15),
    "back to back": (("across", "across"), ("across", "across"), 180, 180, 0.0),
    "shoulder to shoulder": (("relaxed", "phone"), ("chin", "relaxed"), 0, 90, 0.0),
    "holding hands": (("slightly_out", "relaxed"), ("wave", "slightly_out"), 0, 90, 0.0),
    "hand on shoulder": (("relaxed", "forward"), ("relaxed", "hold"), 20, 0, 0.2),
    "dancing": (("forward", "hold"), ("hold", "forward"), 180, 0, 0.0),
}


def put_in_contact(rng: np.random.Generator, first: Actor, second: Actor) -> None:
    """Poses two actors as a pair and moves the second up to the first until they touch, a centimetre deep."""
    name = str(rng.choice(list(CONTACTS)))
    arms, other_arms, turn, side, aside = CONTACTS[name]
    frames = len(first.poses)
    first.family = second.family = name
    first.poses = np.repeat(_arm_pose(rng, *arms)[None], frames, 0)
    second.poses = np.repeat(_arm_pose(rng, *other_arms)[None], frames, 0)
    first.moves, second.moves = np.zeros((frames, 3)), np.zeros((frames, 3))
    second.heading = first.heading + np.deg2rad(turn)
    for actor in (first, second):
        actor.turn()
        actor.moves += (0, standing_height(actor), 0)
    towards = views.unit(first.heading + np.deg2rad(side), 0.0)
    across = views.unit(first.heading + np.deg2rad(side + 90), 0.0)
    second.moves = (
        second.moves + approach(first.capsules(), second.capsules().moved(aside * across), towards) + aside * across
    )


def standing_height(actor: Actor) -> float:
    """How far the lowest capsule must rise to stand on the floor, metres."""
    capsules = actor.capsules()
    return -float((np.minimum(capsules.start[:, 1], capsules.end[:, 1]) - capsules.radius).min())


def approach(first: Capsules, second: Capsules, direction: np.ndarray, deep: float = 0.01) -> np.ndarray:
    """The offset (3,) along `direction` at which the second, coming from afar, first touches the first."""
    distance = 2.2
    for step in (0.05, 0.01):  # coarse, then from the last free place in centimetres
        while distance > 0.1 and first.overlap(second.moved((distance - step) * direction)).max() <= deep:
            distance -= step
    return (distance - 0.01) * direction


def place_beside(rng: np.random.Generator, actor: Actor, others: list[Actor], spread: float) -> bool:
    """Moves an actor to a free spot around the others; False if there is none in 20 tries."""
    centre = np.mean([other.moves[0] for other in others], axis=0) * (1, 0, 1)
    check = range(0, len(actor.poses), max(1, len(actor.poses) // 4))
    own = {frame: actor.capsules(frame) for frame in check}
    theirs = {frame: [other.capsules(frame) for other in others] for frame in check}
    for _ in range(20):
        offset = centre + rng.uniform(0.45, spread) * views.unit(rng.uniform(-np.pi, np.pi), 0.0)
        if all(own[f].moved(offset).overlap(c).max() < -0.04 for f in check for c in theirs[f]):
            actor.moves = actor.moves + offset
            return True
    return False


def sample_actors(
    rng: np.random.Generator, world: World, split: str, numbers: list[int], motion: str, frames: int
) -> list[Actor]:
    """The people of a scene, turned and placed so that nobody runs into anybody; the first stands at the origin."""
    count = draw(rng, world.people)
    pair = count > 0 and motion == "still" and rng.random() < world.contact / (1 - world.people.get(0, 0))
    chosen = rng.choice(numbers, max(count, 2) if pair else count, replace=False)
    actors = [sample_actor(rng, world, split, int(number), motion, frames) for number in chosen]
    if pair:
        put_in_contact(rng, *actors[:2])
    placed = actors[:2] if pair else []
    for actor in actors[len(placed) :]:
        actor.turn()
        actor.moves = actor.moves + (0, standing_height(actor), 0)
        if not placed or place_beside(rng, actor, placed, (1.1 + 0.35 * len(actors)) * world.spread):
            placed.append(actor)
    return placed


def put_on_floor(actors: list[Actor], rng: np.random.Generator, world: World) -> list[PosedPeople]:
    """Gives all the height at which their lowest point touches y = 0 (or flies); returns each frame's posed people."""
    lift = [rng.uniform(*FAMILIES[a.family].flight) if a.family in FAMILIES else 0.0 for a in actors]
    frames = []
    for frame in range(len(actors[0].poses)):
        people = [actor.at(frame) for actor in actors]
        posed = pose_people(people)
        if world.reshape:
            posed = world.reshape(posed, [actor.name for actor in actors], people)
        low = posed.vertices[..., 1].index_select(1, surface()).amin(1)  # (P,)
        rise = torch.tensor(lift) + sole_height(actors) - low
        for actor, up in zip(actors, rise, strict=True):
            actor.moves[frame, 1] += float(up)
        frames.append(raised(posed, rise))
    return frames


def sole_height(actors: list[Actor]) -> torch.Tensor:
    """Metres between the bare sole and the floor: shoes have soles. (P,)"""
    return torch.tensor([0.012 if any(g.kind == "shoe" for g in a.person.outfit.garments) else 0.0 for a in actors])


def raised(posed: PosedPeople, rise: torch.Tensor) -> PosedPeople:
    """Posed people, each moved up by rise (P,) metres."""
    shift = torch.zeros(len(rise), 3)
    shift[:, 1] = rise
    transforms = posed.transforms.clone()
    transforms[..., :3, 3] += shift[:, None]
    return dataclasses.replace(
        posed, vertices=posed.vertices + shift[:, None], joints=posed.joints + shift[:, None], transforms=transforms
    )


@lru_cache(maxsize=1)
def surface() -> torch.Tensor:
    """Ids of the vertices that the body's own faces use."""
    return torch.unique(body().faces)


def all_faces() -> np.ndarray:
    """The faces of the body and of everything that it wears, (F, 3)."""
    pack = load_body().pack
    return np.concatenate([pack[k] for k in pack if k.startswith("faces_")]) if pack else body().faces.numpy()


@lru_cache(maxsize=1)
def smoothing() -> csr_matrix:
    """The matrix (V, V) that averages every vertex with its neighbours a few times: thin structures vanish."""
    a, b = all_faces()[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
    count = len(body().template)
    near = csr_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (count, count))
    near.data[:] = 1
    degree = np.asarray(near.sum(1)).ravel()
    near = near + diags((degree == 0).astype(float))  # a vertex without neighbours keeps its place
    once = 0.5 * diags(1 / np.maximum(degree, 1)) @ near + 0.5 * diags(np.ones(count))
    return (once @ once @ once @ once).tocsr()


def smoothed(posed: PosedPeople) -> PosedPeople:
    """Posed people as a body scanner would have them."""
    vertices = [torch.from_numpy(smoothing() @ v.numpy()).float() for v in posed.vertices]
    return dataclasses.replace(posed, vertices=torch.stack(vertices))


# ---------------------------------------------------------------- things, place, light


def seats(rng: np.random.Generator, actors: list[Actor], posed: list[PosedPeople]) -> list[ObjectMesh]:
    """Something under everybody who sits (at last), its top where the thighs end."""
    found = []
    for number, actor in enumerate(actors):
        if actor.family in ("sitting", "sitting_down"):
            hips = posed[-1].joints[number, [INDEX["left_hip"], INDEX["right_hip"]]].mean(0).numpy()
            centre = hips + 0.03 * views.unit(actor.heading, 0)
            mesh = stool(rng, float(np.clip(hips[1] - 0.1, 0.12, 1.2)))
            found.append(mesh.placed(actor.heading, (float(centre[0]), 0.0, float(centre[2]))))
    return found


@dataclass
class Clutter:
    """Known while objects are put down: where they stand, and which points of people (N, 3) they hide from the eye."""

    eye: np.ndarray
    focus: np.ndarray
    people: list[Capsules]
    circles: list[tuple[np.ndarray, float]] = field(default_factory=list)
    hidden: np.ndarray | None = None

    @property
    def share(self) -> float:
        """Share of the points that are hidden."""
        return 0.0 if self.hidden is None else float(self.hidden.mean())

    def hides(self, position: np.ndarray, radius: float, height: float) -> np.ndarray:
        """Which points an object's cylinder hides, or those before it did: (N,) bool."""
        line = self.eye + np.linspace(0.05, 0.97, 24)[:, None, None] * (self.focus - self.eye)  # (24, N, 3)
        inside = (np.linalg.norm((line - position)[..., [0, 2]], axis=-1) < 0.85 * radius) & (line[..., 1] < height)
        return inside.any(0) | (False if self.hidden is None else self.hidden)

    def free(self, position: np.ndarray, radius: float, height: float) -> bool:
        """Whether an object there runs into nobody, nothing and not into the camera."""
        gaps = [gap_on_floor(position, capsules, height) for capsules in self.people]
        apart = all(np.hypot(*(position - at)[[0, 2]]) > radius + other + 0.03 for at, other in self.circles)
        return (
            apart
            and min(gaps, default=9.0) > radius + 0.02
            and np.hypot(*(position - self.eye)[[0, 2]]) > radius + 0.35
        )


def place_object(rng: np.random.Generator, world: World, mesh: ObjectMesh, clutter: Clutter) -> ObjectMesh | None:
    """The object at a free spot near the people, of whom all objects together hide no more than the world allows; None
    without a spot."""
    radius, height, centre = mesh.radius(), mesh.height(), clutter.focus.mean(0)
    for _ in range(12):
        position = centre + rng.uniform(0.4 + radius, 2.4 + radius) * views.unit(rng.uniform(-np.pi, np.pi), 0.0)
        if rng.random() < world.in_front:  # between the camera and the people
            position = centre + rng.uniform(0.3, 0.7) * (clutter.eye - centre) + rng.normal(0, world.aside, 3)
        position[1] = 0.0
        if not clutter.free(position, radius, height):
            continue
        if (hidden := clutter.hides(position, radius, height)).mean() < world.hidden[1]:
            clutter.hidden = hidden
            clutter.circles.append((position, radius))
            return mesh.placed(float(rng.uniform(-np.pi, np.pi)), tuple(float(v) for v in position))
    return None


def gap_on_floor(position: np.ndarray, capsules: Capsules, height: float) -> float:
    """Metres, seen from above, between a point and the nearest limb that is lower than the object is high."""
    low = np.minimum(capsules.start[:, 1], capsules.end[:, 1]) - capsules.radius < height
    if not low.any():
        return 9.0
    start, along = (capsules.start[low] - position)[:, [0, 2]], (capsules.end - capsules.start)[low][:, [0, 2]]
    t = np.clip(-(start * along).sum(1) / np.maximum((along**2).sum(1), 1e-9), 0, 1)
    return float((np.linalg.norm(start + t[:, None] * along, axis=1) - capsules.radius[low]).min())


def put_down(rng: np.random.Generator, world: World, clutter: Clutter, outdoors: bool, low: bool) -> list[ObjectMesh]:
    """As many objects as the world wants and there is room for."""
    count = int(rng.integers(world.objects[0], world.objects[1] + 1))
    placed = [place_object(rng, world, world.thing(rng, outdoors, low), clutter) for _ in range(count)]
    return [mesh for mesh in placed if mesh is not None]


def turned_lights(lights: Lights, azimuth: float) -> Lights:
    """Lights drawn for a camera at +z, turned to a camera at an azimuth: most pictures are lit from their own side."""
    c, s = float(np.cos(azimuth)), float(np.sin(azimuth))

    def turn(v: tuple[float, float, float]) -> tuple[float, float, float]:
        return c * v[0] + s * v[2], v[1], c * v[2] - s * v[0]

    points = tuple(dataclasses.replace(point, position=turn(point.position)) for point in lights.points)
    return dataclasses.replace(lights, sun_direction=turn(lights.sun_direction), points=points)


# ---------------------------------------------------------------- cameras


def sample_camera(
    rng: np.random.Generator,
    world: World,
    actors: list[Actor],
    posed: PosedPeople,
    size: tuple[int, int],
    indoors: bool,
) -> tuple[Camera, str]:
    """A camera that sees somebody: a framing of one person or of all, the best of a few where others hide them."""
    if rng.random() < world.egocentric and (camera := own_view(rng, world, actors, posed, size)):
        return camera, "egocentric"
    framing = draw(rng, world.framings)
    everybody = framing == "full" and rng.random() < world.together
    chosen = list(range(len(actors))) if everybody else [int(rng.integers(len(actors)))]
    points = posed.vertices[chosen][:, views.framed_vertices(framing)].flatten(0, 1).numpy()
    best, least, ahead = None, np.inf, facing(actors[chosen[0]], framing)
    for _ in range(8):
        camera = views.sample_view(rng, points, ahead, framing, size, 1.7 if indoors else 3.0)
        eye = camera.center[0].numpy()
        others = [a.capsules() for i, a in enumerate(actors) if i not in chosen]
        cost = views.hidden_share(eye, points[::8], others) + 2.0 * (
            views.clearance(eye, [a.capsules() for a in actors]) < 0.45
        )
        if cost < least:
            best, least = camera, cost
        if least < 0.4:
            break
    return best, framing


def own_view(
    rng: np.random.Generator, world: World, actors: list[Actor], posed: PosedPeople, size: tuple[int, int]
) -> Camera | None:
    """The camera on somebody's forehead, if it sees one of the own hands. Where all pictures are to be egocentric, a
    dozen are tried, and the one that sees the most of the others is taken."""
    best, most, choosy = None, -1.0, world.egocentric == 1
    skins = posed.vertices.index_select(1, surface()[::40]).numpy() if choosy else ()
    for _ in range(12 if choosy else 1):
        wearer = int(rng.integers(len(actors)))
        joints, rotations = actors[wearer].skeleton.forward(actors[wearer].poses[0], actors[wearer].moves[0])
        camera = views.egocentric(rng, joints, rotations, size)
        hands = joints[[INDEX["left_middle1"], INDEX["right_middle1"]]]
        seen = sum(in_view(camera, skin, size) for n, skin in enumerate(skins) if n != wearer)
        if in_view(camera, hands, size) and seen > most:
            best, most = camera, seen
    return best


def in_view(camera: Camera, points: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the points (N, 3) that lie in the picture."""
    spots, z = views.project(camera, points)
    return float(((spots > 0).all(1) & (spots < (size[1], size[0])).all(1) & (z > 0.05)).mean())


def facing(actor: Actor, framing: str) -> tuple[float, float]:
    """Where somebody faces, azimuth and elevation in radians: the head for a face, else the trunk, level."""
    _, rotations = actor.skeleton.forward(actor.poses[0])
    forward = rotations[INDEX["head" if framing == "face" else "spine1"]][:, 2]
    elevation = 0.7 * np.arcsin(np.clip(forward[1], -1, 1)) if framing == "face" else 0.0
    return float(np.arctan2(forward[0], forward[2])), float(elevation)


@one_thread()
def sample_scene(
    world_name: str,
    split: str,
    seed: int,
    index: int,
    size: tuple[int, int],
    view_count: int = 1,
    frames: int = 1,
    motion: str = "still",
) -> tuple[Scene, list[PosedPeople]]:
    """Everything about scene `index`, and its posed people for each frame (an empty list without people)."""
    world = world_named(world_name, split)
    stream = world.draws or world_name
    rng = scene_rng(stream, split, seed, index)
    place = draw(rng, world.places)
    actors = sample_actors(rng, world, split, cast(world, stream, split, seed, index), motion, frames)
    if not actors:
        return empty_scene(rng, world, place, size, view_count, frames), []
    posed = put_on_floor(actors, rng, world)
    cloud = np.concatenate([p.vertices[:, views.framed_vertices("full")].flatten(0, 1).numpy() for p in posed])
    if view_count > 1:
        cameras, framing = views.ring(rng, cloud, view_count, size), "ring"
    elif frames > 1:
        cameras, framing = [views.sample_view(rng, cloud, (actors[0].heading, 0.0), "full", size, 1.7)], "full"
    else:
        camera, framing = sample_camera(rng, world, actors, posed[0], size, place in ("room", "plain"))
        cameras = [camera]
    eyes = np.stack([camera.center[0].numpy() for camera in cameras])
    objects = seats(rng, actors, posed)
    objects += scatter(rng, world, place, eyes, actors, objects, framing)
    lights, background = surroundings(rng, place, eyes, cloud, objects)
    if world.holding:
        objects += held_things(scene_rng(f"{stream}/held", split, seed, index), world.holding, posed[0])
    names, families = zip(*((actor.name, actor.family) for actor in actors), strict=True)
    people, words = [[a.at(frame) for a in actors] for frame in range(frames)], f"{place}/{lights.kind}/{framing}"
    scene = Scene(
        people, list(names), list(families), cameras, background, lights, objects, words, world.smooth, world.targets
    )
    return scene, [smoothed(p) for p in posed] if world.smooth else posed


def scatter(
    rng: np.random.Generator,
    world: World,
    place: str,
    eyes: np.ndarray,
    actors: list[Actor],
    seats: list[ObjectMesh],
    framing: str,
) -> list[ObjectMesh]:
    """Objects around the people; with several cameras or a close one only low ones that hide nobody."""
    people = [actor.capsules(frame) for actor in actors for frame in range(0, len(actor.poses), 4)]
    focus = np.concatenate([(c.start + c.end) / 2 for c in people])
    taken = [((mesh.vertices.amin(0) + mesh.vertices.amax(0)).numpy() / 2 * (1, 0, 1), 0.3) for mesh in seats]
    best, most = [], -1.0
    for _ in range(8):
        clutter = Clutter(eyes[0], focus, people, list(taken))
        placed = put_down(rng, world, clutter, place == "outdoors", len(eyes) > 1 or framing == "face")
        if clutter.share > most:
            best, most = placed, clutter.share
        if most >= world.hidden[0]:
            break
    return best


def surroundings(
    rng: np.random.Generator, place: str, eyes: np.ndarray, cloud: np.ndarray, objects: list[ObjectMesh]
) -> tuple[Lights, Background]:
    """Light from the cameras' side, and a place that everything fits into."""
    middle = cloud.mean(0)
    lights = sample_lights(rng, draw(rng, LIGHTS[place]))
    away = (eyes - middle).mean(0)
    lights = turned_lights(lights, float(np.arctan2(away[0], away[2])))
    reach = [eyes, cloud] + [mesh.vertices.numpy() for mesh in objects]
    everything = np.concatenate(reach)
    corners = np.concatenate(
        [everything[:, [0, 2]].min(0)[None], everything[:, [0, 2]].max(0)[None], everything[::17, [0, 2]]]
    )
    return lights, sample_background(rng, place, corners, lights.sun_direction, tall=float(everything[:, 1].max()))


def empty_scene(
    rng: np.random.Generator, world: World, place: str, size: tuple[int, int], view_count: int = 1, frames: int = 1
) -> Scene:
    """A place with things in it and nobody."""
    eye = np.array([0.0, rng.uniform(0.5, 2.2), 0.0])
    eye = eye + rng.uniform(2.0, 5.0) * views.unit(rng.uniform(-np.pi, np.pi), 0.0)
    objects = put_down(rng, world, Clutter(eye, np.zeros((1, 3)), []), place == "outdoors", view_count > 1)
    cloud = np.array([(x, y, z) for x in (-0.4, 0.4) for y in (0.0, 1.7) for z in (-0.4, 0.4)])
    target = np.array([0.0, rng.uniform(0.2, 1.4), 0.0]) + rng.normal(0, 0.3, 3)
    cameras = [views.camera_at(eye, target, max(size) * rng.uniform(0.8, 1.7), size, views.sample_roll(rng))]
    if view_count > 1:
        cameras = views.ring(rng, cloud, view_count, size)
    eyes = np.stack([camera.center[0].numpy() for camera in cameras])
    lights, background = surroundings(rng, place, eyes, cloud, objects)
    words = f"{place}/{lights.kind}/empty"
    return Scene([[]] * frames, [], [], cameras, background, lights, objects, words, world.smooth)


# ---------------------------------------------------------------- pictures


def render_samples(
    world: str,
    split: str,
    seed: int,
    index: int,
    size: tuple[int, int],
    view_count: int = 1,
    frames: int = 1,
    motion: str = "still",
    formats: tuple[str, ...] = (),
    supersample: int = 2,
) -> Iterator[Sample]:
    """The pictures of scene `index`: every camera at every frame, frame by frame."""
    scene, posed = sample_scene(world, split, seed, index, size, view_count, frames, motion)
    for frame in range(frames):
        for view, camera in enumerate(scene.cameras):
            moment = posed[frame] if posed else None
            picture = render_scene(
                scene.people[frame],
                camera,
                size,
                scene.lights,
                scene.background,
                scene.objects,
                supersample,
                posed=moment,
                targets=scene.targets,
            )
            number = (index * frames + frame) * len(scene.cameras) + view
            sample = label(scene, picture, camera, moment, frame, formats or tuple(FORMATS))
            yield dataclasses.replace(
                sample, key=f"{number:08d}", source=f"{world}/{split}", scene=index, view=view, frame=frame
            )


def label(
    scene: Scene, picture: dict, camera: Camera, posed: PosedPeople | None, frame: int, formats: tuple[str, ...]
) -> Sample:
    """What the renderer returned and what the scene knows, as a Sample without a key."""
    somebody = picture["instances"] > 0
    people = [] if posed is None else label_people(scene, picture, camera, posed, frame, formats)
    return Sample(
        place=scene.place,
        image=np.ascontiguousarray(picture["image"].transpose(2, 0, 1)).clip(0, 1).astype(np.float32),
        alpha=picture["alpha"].clip(0, 1).astype(np.float32),
        depth=np.where(somebody, picture["depth"], np.inf).astype(np.float32),
        normals=np.ascontiguousarray(picture["normals"].transpose(2, 0, 1) * somebody).astype(np.float32),
        parts=picture["parts"].astype(np.uint8),
        instances=picture["instances"].astype(np.uint8),
        K=camera.K[0].numpy().copy(), R=camera.R[0].numpy().copy(), t=camera.t[0].numpy().copy(), people=people,
    )  # fmt: skip


def label_people(
    scene: Scene, picture: dict, camera: Camera, posed: PosedPeople, frame: int, formats: tuple[str, ...]
) -> list[PersonLabel]:
    """The labels of everyone in a picture."""
    points = label_keypoints(picture, camera, posed, formats)
    labels = []
    for number, person in enumerate(scene.people[frame]):
        mine = picture["instances"] == number + 1
        spots, z = views.project(camera, posed.vertices[number, surface()[::20]].numpy())  # some of the skin
        labels.append(PersonLabel(
            identity=scene.identities[number], pose_family=scene.families[number],
            box=views.seen_box(mine), full_box=views.full_box(spots, z), seen_share=seen_share(mine, spots),
            keypoints=points[number],
            pose=person.pose.astype(np.float32), shape=person.betas.astype(np.float32),
            expression=person.expression.astype(np.float32), translation=person.translation.astype(np.float32),
        ))  # fmt: skip
    return labels


def seen_share(mine: np.ndarray, spots: np.ndarray) -> float:
    """Share of the body's points, at pixels `spots` (N, 2), inside the picture that fall on the person's own pixels,
    `mine` (H, W) bool."""
    spots = np.floor(spots).astype(int)
    height, width = mine.shape
    inside = (spots >= 0).all(1) & (spots[:, 0] < width) & (spots[:, 1] < height)
    return round(float(mine[spots[inside, 1], spots[inside, 0]].mean()), 4) if inside.any() else 0.0


def label_keypoints(
    picture: dict, camera: Camera, posed: PosedPeople, formats: tuple[str, ...]
) -> list[dict[str, Keypoints]]:
    """Everyone's keypoints by format: 2 seen, 1 hidden, 0 outside the picture or not on this body (then NaN)."""
    matrix = keypoint_matrix(formats)
    points = np.stack([matrix @ v.numpy() for v in posed.vertices])  # (P, K, 3), format by format
    known, deep = keypoint_facts(formats)
    spots, z = views.project(camera, points.reshape(-1, 3))
    spots, z = spots.reshape(*points.shape[:2], 2), z.reshape(points.shape[:2])
    found, ahead = visibility(spots, z, picture["depth"], deep, picture["instances"]), z > 0.02
    height, width = picture["depth"].shape
    inside = ((spots >= 0) & (spots < (width, height))).all(-1) & ahead & known
    spots = np.where((known & ahead)[..., None], spots, np.nan).astype(np.float32)
    world = np.where(known[:, None], points, np.nan).astype(np.float32)
    visible, labels = np.where(inside, 1 + found, 0).astype(np.uint8), []
    cuts = np.cumsum([len(FORMATS[name]) for name in formats])[:-1]
    for person in range(len(spots)):
        parts = zip(*(np.split(values[person], cuts) for values in (spots, world, visible)), strict=True)
        labels.append({name: Keypoints(*part) for name, part in zip(formats, parts, strict=True)})
    return labels


@lru_cache(maxsize=8)
def keypoint_matrix(formats: tuple[str, ...]) -> csr_matrix:
    """The points of all formats one after the other, as means of the body's vertices: (K, V)."""
    parts = [regressor(name) for name in formats]
    counts = np.cumsum([0] + [len(FORMATS[name]) for name in formats])
    rows = np.concatenate([part.row.numpy() + first for part, first in zip(parts, counts, strict=False)])
    columns, values = (torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("column", "value"))
    return csr_matrix((values, (rows, columns)), (counts[-1], len(body().template)))


@lru_cache(maxsize=8)
def keypoint_facts(formats: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For the points of all formats: which this body has, and how far they may lie behind the z-buffer. (K,) each."""
    return np.concatenate([available(name) for name in formats]), np.concatenate([tolerance(name) for name in formats])

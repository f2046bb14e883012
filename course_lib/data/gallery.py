"""Test sets that ask one question each: does a model that was fine-tuned on one clothed adult before a plain wall, seen
from a few metres, still work on …?

- GENERALISATION (Sapiens §4.6 and Fig. 11): many people, all ages, outdoors, seen from somebody's own forehead.
- FAILURES (the paper's limitations): rare poses, crowding, severe occlusion, made on purpose.
- GROUPS (its Tables 5 and 6): face, upper body, full body (there of THuman2.0's scans), two people in contact (Hi4D).

All are drawn from the test split's identities. The groups differ from the paper's in that our people wear loose
clothes, stand anywhere and were never scanned: compare our columns with each other, not with the table's.
"""

import dataclasses
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from course_lib.data.objects import ObjectMesh, carton, column, crate, plant, shelf, sofa, suitcase
from course_lib.data.person import Garment, Outfit, Person, PosedPeople, load_body
from course_lib.data.poses import (
    INDEX,
    Skeleton,
    clip,
    euler_to_pose,
    limits,
    pose_to_euler,
    sample_pose,
    set_arm,
    set_hand,
    set_leg,
)
from course_lib.data.schema import Sample
from course_lib.data.sets import rendered
from course_lib.data.shards import Samples
from course_lib.data.worlds import CAST, UnknownWorld, World, identity

# ---------------------------------------------------------------- all ages

# A child of so many years: its height in metres (WHO's medians, mean of boys and girls), and how many heads that is
YEARS, HEIGHTS, HEADS = (4, 6, 8, 10, 12), (1.03, 1.16, 1.27, 1.38, 1.50), (5.2, 5.8, 6.2, 6.6, 6.9)
ADULT_HEADS = 7.5
MIDDLE_AGE = 45.0  # years: of the youngest and the oldest, whoever looks younger is drawn as a child
CHILD = "-child"  # ends the name of somebody who is drawn as a child


def youngest_and_oldest(block: list[int], identities: int, split: str) -> list[int]:
    """The numbers of the youngest of a hundred people, who will be children, and of as many of the oldest."""
    return list(_youngest_and_oldest(tuple(block), identities, split))


@lru_cache(maxsize=8)
def _youngest_and_oldest(block: tuple[int, ...], identities: int, split: str) -> tuple[int, ...]:
    drawn = np.random.default_rng(block).choice(identities, 100, replace=False).tolist()
    drawn.sort(key=lambda number: identity(split, number)[1].look.age)
    return (*drawn[: CAST // 2], *drawn[-CAST // 2 :])


def child_or_old(name: str, person: Person) -> tuple[str, Person]:
    """The old as they are; the young as children: well covered, without beard, make-up and painted nails."""
    if person.look.age > MIDDLE_AGE:
        return name, person
    look = dataclasses.replace(person.look, beard=0.0, makeup=0.0, nails=None)
    outfit = Outfit(tuple(child_garment(garment) for garment in person.outfit.garments))
    return name + CHILD, dataclasses.replace(person, look=look, outfit=outfit)


def child_garment(garment: Garment) -> Garment:
    """A garment that covers belly, shoulders and thighs."""
    if garment.kind == "shirt":
        neck = "crew" if garment.neck in ("scoop", "v") else garment.neck
        sleeve, fit = max(garment.sleeve, 0.4), max(garment.fit, 0.3)
        return dataclasses.replace(garment, hem=max(garment.hem, 0.05), sleeve=sleeve, neck=neck, fit=fit)
    if garment.kind in ("trousers", "skirt"):
        return dataclasses.replace(garment, hem=max(garment.hem, 0.9), fit=max(garment.fit, 0.3))
    return garment


def growth(person: Person) -> tuple[float, float]:
    """How large a person's body and head were as a child of 4 to 12 years, as shares of the adult's. The years depend
    on the person alone."""
    years = np.random.default_rng(person.seed).uniform(YEARS[0], YEARS[-1])
    height, heads = np.interp(years, YEARS, HEIGHTS), np.interp(years, YEARS, HEADS)
    adult = 1.7 * Skeleton.of(tuple(float(b) for b in person.betas)).scale
    head = (height / heads) / (adult / ADULT_HEADS)
    return float((height - height / heads) / (adult - adult / ADULT_HEADS)), float(head)


def with_children(posed: PosedPeople, names: list[str], people: list[Person]) -> PosedPeople:
    """Posed people, the children among them shrunk: the body about its pelvis, the head about the joint under it.

    The body model's shapes are adults', so this is all that makes a child of one: smaller, with a large head."""
    factor, offset = torch.ones(len(names), 55, 1), torch.zeros(len(names), 55, 3)
    head = [INDEX[name] for name in ("head", "jaw", "left_eye_smplhf", "right_eye_smplhf")]
    for n, (name, person) in enumerate(zip(names, people, strict=True)):
        if name.endswith(CHILD):
            pelvis, neck, (whole, top) = posed.joints[n, 0], posed.joints[n, INDEX["head"]], growth(person)
            factor[n], offset[n] = whole, (1 - whole) * pelvis
            factor[n, head], offset[n, head] = top, whole * neck + (1 - whole) * pelvis - top * neck
    rows = torch.cat([factor, offset], -1)  # (P, 55, 4): x -> factor x + offset, for each joint
    skin = torch.stack([torch.from_numpy(load_body().weights @ row.numpy()) for row in rows])  # (P, V, 4)
    transforms = posed.transforms.clone()
    transforms[..., :3, :] *= factor[..., None]
    transforms[..., :3, 3] += offset
    vertices, joints = posed.vertices * skin[..., :1] + skin[..., 1:], posed.joints * factor + offset
    return dataclasses.replace(posed, vertices=vertices, joints=joints, transforms=transforms)


def without_shape(sample: Sample) -> Sample:
    """A sample whose children have no shape coefficients: the body model's would make adults of them."""
    for person in sample.people:
        if person.identity.endswith(CHILD):
            person.shape = None
    return sample


# ---------------------------------------------------------------- rare poses


def handstand(rng: np.random.Generator, skeleton: Skeleton) -> np.ndarray:
    """On both hands, the legs up, together or apart: (55, 3) axis-angle."""
    return tumbled(arms_up(rng, float(rng.uniform(0, 1.6))), (180 + rng.normal(0, 10), 0, rng.normal(0, 10)))


def cartwheel(rng: np.random.Generator, skeleton: Skeleton) -> np.ndarray:
    """Sideways over the hands, the legs wide."""
    return tumbled(arms_up(rng, 2.3), (0, 0, rng.choice((-1, 1)) * rng.uniform(70, 180)))


def arms_up(rng: np.random.Generator, apart: float) -> np.ndarray:
    """Standing with the arms up and the legs apart, 0 not at all, 1 as in a wide stance."""
    euler = pose_to_euler(sample_pose(rng, "standing"))
    for side in ("left", "right"):
        set_leg(euler, "wide", side, apart)
        set_arm(euler, "up", side)
        set_hand(euler, "flat", side)
    return euler_to_pose(clip(euler))


def tumbling(rng: np.random.Generator, skeleton: Skeleton) -> np.ndarray:
    """A jump, kick or stride, turned about any level axis: a fall, a somersault."""
    pose = sample_pose(rng, str(rng.choice(("jumping", "kicking", "running"))), skeleton)
    axis = rng.normal(size=3) * (1, 0.2, 1)
    return tumbled(pose, rng.uniform(60, 180) * axis / np.linalg.norm(axis))


def contorted(rng: np.random.Generator, skeleton: Skeleton) -> np.ndarray:
    """Every joint of trunk and limbs anywhere within its limits, as in yoga, dance or a scuffle."""
    low, high = (side[1:22] for side in limits())
    for _ in range(40):
        euler = pose_to_euler(sample_pose(rng, "standing", skeleton))
        euler[1:22] = low + rng.uniform(0.05, 0.95, low.shape) * (high - low)
        pose = euler_to_pose(clip(euler))
        if not skeleton.touches_itself(pose):
            break
    return tumbled(pose, rng.normal(0, 25, 3))


def tumbled(pose: np.ndarray, turn) -> np.ndarray:
    """The pose (55, 3) with the whole body turned by a rotation vector (3,) in degrees."""
    pose = pose.copy()
    pose[0] = (Rotation.from_rotvec(np.deg2rad(turn)) * Rotation.from_rotvec(pose[0])).as_rotvec()
    return pose


RARE = {"handstand": handstand, "cartwheel": cartwheel, "tumbling": tumbling, "contorted": contorted}


def rare_pose(rng: np.random.Generator, skeleton: Skeleton) -> tuple[str, np.ndarray]:
    """A kind of pose that no other world has, and one of that kind."""
    kind = str(rng.choice(list(RARE)))
    return kind, RARE[kind](rng, skeleton)


def hands_ahead(rng: np.random.Generator, skeleton: Skeleton) -> tuple[str, np.ndarray]:
    """A kind of everyday pose, and one of that kind with the head up and at least one hand before the eyes."""
    family, arms = str(rng.choice(("standing", "sitting", "walking"))), ("hold", "forward", "reach_down", "point")
    for _ in range(20):
        euler = pose_to_euler(sample_pose(rng, family, skeleton))
        for side in ("left", "right")[: rng.integers(1, 3)]:
            set_arm(euler, str(rng.choice(arms)), side, rng.uniform(0.85, 1.0))
        euler[[INDEX["neck"], INDEX["head"]], 0] -= rng.uniform(8, 16)
        pose = euler_to_pose(clip(euler))
        if not skeleton.touches_itself(pose):
            break
    return family, pose


SOLID = (crate, carton, column, suitcase, shelf, sofa, plant)


def solid_object(rng: np.random.Generator, outdoors: bool, low: bool) -> ObjectMesh:
    """Something that one cannot look through, as through a chair or past the post of a sign."""
    return SOLID[rng.integers(len(SOLID))](rng)


# ---------------------------------------------------------------- the sets

EVERYBODY = 1_000_000  # identities of the split, as in `wild`
PLACES = {"room": 5, "outdoors": 5, "studio": 1}
FULL = {"full": 1}

KINDS: dict[str, tuple[str, World]] = {
    "many": (
        "three to six people in one picture",
        World(EVERYBODY, {3: 1, 4: 1, 5: 1, 6: 1}, PLACES, (0, 2), framings=FULL, together=1.0),
    ),
    "ages": (
        "children of 4 to 12 years, and old people",
        World(
            EVERYBODY, {1: 2, 2: 1}, PLACES, (0, 2), framings=FULL, together=1.0,
            cast=youngest_and_oldest, become=child_or_old, reshape=with_children,
        ),
    ),
    "outdoors": ("sun, clouds and dusk instead of a wall", World(EVERYBODY, {1: 3, 2: 2}, {"outdoors": 1}, (0, 3))),
    "egocentric": (
        "from somebody's own forehead, with the own hands and others in view",
        World(EVERYBODY, {2: 1, 3: 2, 4: 2}, PLACES, (0, 2), contact=0.15, egocentric=1.0, pose=hands_ahead),
    ),
    "rare-pose": (
        "handstands, cartwheels, falls and contortions",
        World(EVERYBODY, {1: 1}, PLACES, (0, 1), framings=FULL, pose=rare_pose),
    ),
    "crowd": (
        "seven to ten people close together",
        World(
            EVERYBODY, {7: 1, 8: 1, 9: 1, 10: 1}, PLACES, framings=FULL, together=1.0, spread=0.35,
            families=("standing", "walking", "reaching"),
        ),
    ),
    "occlusion": (
        "people half hidden behind things, or more",
        World(
            EVERYBODY, {1: 3, 2: 1}, PLACES, (5, 8), framings=FULL,
            in_front=0.9, aside=0.15, hidden=(0.5, 0.7), thing=solid_object,
        ),
    ),
    "face": ("one person's face", World(EVERYBODY, {1: 1}, PLACES, framings={"face": 1})),
    "upper": ("one person down to the hips", World(EVERYBODY, {1: 1}, PLACES, framings={"upper": 1})),
    "full": ("one whole person", World(EVERYBODY, {1: 1}, PLACES, framings=FULL)),
    "contact": (
        "two whole people who touch",
        World(EVERYBODY, {2: 1}, PLACES, contact=1.0, framings=FULL, together=1.0),
    ),
}  # fmt: skip
GENERALISATION = ("many", "ages", "outdoors", "egocentric")
FAILURES = ("rare-pose", "crowd", "occlusion")
GROUPS = ("face", "upper", "full", "contact")
WORLDS = {f"gallery-{kind}": world for kind, (_, world) in KINDS.items()}  # `worlds.world_named` finds them here


def gallery(
    kind: str, count: int, size: int, seed: int = 0, formats: tuple[str, ...] = ("coco17",), only=None
) -> Samples:
    """`count` labelled pictures of size² of one of KINDS, to index and to iterate; made once, kept in the data folder.

    formats: of the keypoints; only: names of the picture fields to decode, all if None. A child's name ends in
    "-child", and it has no shape coefficients. UnknownWorld for another kind, ValueError for a count or size below 1.
    """
    if kind not in KINDS:
        raise UnknownWorld(f"there is no kind {kind!r}: use one of {', '.join(KINDS)}")
    if count < 1 or size < 1 or seed < 0:
        raise ValueError(f"count and size must be at least 1 and seed at least 0, not {count}, {size} and {seed}")
    folder = rendered(f"gallery-{kind}", count, size, "test", formats, seed=seed)
    return Samples(folder, only=only, transform=without_shape)

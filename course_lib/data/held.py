"""Things in people's hands: chapter 10 has a world whose foreground counts them, and one whose foreground does not."""

import dataclasses
from collections.abc import Callable

import numpy as np

from course_lib.data.objects import ObjectMesh, any_colour, ball, box, join, rod, vivid
from course_lib.data.person import PosedPeople
from course_lib.data.poses import INDEX


def bag(rng: np.random.Generator) -> ObjectMesh:
    """A bag that hangs from the hand by two handles."""
    width, height, depth = rng.uniform(0.24, 0.4), rng.uniform(0.22, 0.38), rng.uniform(0.08, 0.16)
    colour = any_colour(rng)
    ends = [((x * width / 4, -0.14, 0.0), (0.0, 0.0, 0.0)) for x in (-1, 1)]
    return join(
        box((width, height, depth), (0, -0.14 - height / 2, 0), colour), *(rod(*e, 0.008, colour) for e in ends)
    )


def hand_ball(rng: np.random.Generator) -> ObjectMesh:
    """A ball of 6 to 13 cm radius in the palm."""
    radius = rng.uniform(0.06, 0.13)
    return ball(radius, vivid(rng), vivid(rng) if rng.random() < 0.5 else None, (0.0, -0.6 * radius, 0.0))


def parcel(rng: np.random.Generator) -> ObjectMesh:
    """A small box, a book or a tablet."""
    return box(tuple(rng.uniform((0.12, 0.16, 0.03), (0.3, 0.34, 0.2))), (0.0, -0.05, 0.0), any_colour(rng))


def stick(rng: np.random.Generator) -> ObjectMesh:
    """A cane, a racket's handle, a folded umbrella."""
    tilt = rng.normal(0, 0.15, 2)
    low, high = rng.uniform(0.4, 0.9), rng.uniform(0.05, 0.5)
    ends = (-low * tilt[0], -low, -low * tilt[1]), (high * tilt[0], high, high * tilt[1])
    return rod(*ends, rng.uniform(0.012, 0.03), any_colour(rng))


THINGS: tuple[Callable[[np.random.Generator], ObjectMesh], ...] = (bag, hand_ball, parcel, stick)


def held_things(rng: np.random.Generator, share: float, posed: PosedPeople) -> list[ObjectMesh]:
    """Something in one hand of a share of the people, marked as held. They stand where the people are in one moment."""
    found = []
    for joints in posed.joints.numpy():
        side, holds = ("left", "right")[rng.integers(2)], rng.random() < share
        mesh, turn = THINGS[rng.integers(len(THINGS))](rng), float(rng.uniform(-np.pi, np.pi))
        if holds:
            at = tuple(float(v) for v in joints[INDEX[f"{side}_middle1"]])
            found.append(dataclasses.replace(mesh.placed(turn, at), held=True))
    return found

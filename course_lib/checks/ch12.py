"""The checks of chapter 12, and for each the wrong answers that it must catch."""

import math

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters import acae_training as acae
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)


# ----------------------------------------------------------------------------------------- 12.6 interleaving the queues
def furthest(order: list[str], counts: dict[str, int]) -> tuple[float, int, str]:
    """How far a data set is from its due share at worst, after how many places, and which."""
    total, worst = len(order), (0.0, 0, "")
    for name, number in counts.items():
        for place in range(1, total + 1):
            off = abs(order[:place].count(name) - place * number / total)
            worst = max(worst, (off, place, name))
    return worst


@check_for("12.6")
def interleaving(answer):
    for counts in ({"A": 5, "b": 1, "c": 1, "d": 1, "e": 1}, {"a": 3, "b": 2}, {"only": 4}, acae.BATCHES["full"]):
        given = dict(counts)
        order = answer(counts)
        what = "the order for " + (str(counts) if len(counts) < 6 else "Table S1's Full")
        expect_type(order, list, what)
        expect_equal(counts, given, "the dictionary of counts, after the call")
        expect(len(order) == sum(counts.values()), f"{what}: {len(order)} places, {sum(counts.values())} were expected")
        for name, number in counts.items():
            expect(order.count(name) == number, f"{what}: {name!r} comes {order.count(name)} times, not {number}")
        blocks = [name for name, number in counts.items() for _ in range(number)]
        if len(counts) > 1:
            expect(order != blocks, f"{what}: one data set comes after the other. Take turns")
        off, place, name = furthest(order, counts)
        expect(
            off < 1,
            f"{what} is not even: after {place} places {name!r} has come {order[:place].count(name)} times, "
            f"{place * counts[name] / len(order):.2f} are due: that is off by one or more",
        )
        expect(order == answer(counts), f"{what} is another one the second time: nothing random here")
    simple = answer({"A": 3, "b": 1})
    expect_equal(simple, ["A", "b", "A", "A"], "the order for {'A': 3, 'b': 1}: first due, first come")


@wrong_answer("12.6", says="one data set comes after the other")
def interleave_blocks(counts):
    return [name for name, number in counts.items() for _ in range(number)]


@wrong_answer("12.6", says="not even: after")
def interleave_round_robin(counts):
    left, order = dict(counts), []
    while any(left.values()):
        for name in left:
            if left[name]:
                left[name] -= 1
                order.append(name)
    return order


@wrong_answer("12.6", says="not even: after")
def interleave_by_middles(counts):
    places = [((k + 0.5) / number, name) for name, number in counts.items() for k in range(number)]
    return [name for _, name in sorted(places, key=lambda pair: pair[0])]


@wrong_answer("12.6", says="places, 9 were expected")
def interleave_once(counts):
    return list(counts)


@wrong_answer("12.6", says="another one the second time|not even")
def interleave_shuffled(counts):
    return np.random.permutation([name for name, number in counts.items() for _ in range(number)]).tolist()


# ------------------------------------------------------------------------------------------------- 12.7 the schedule
@check_for("12.7")
def schedule(answer):
    start = answer(0, 1000)
    expect_close(start, acae.PEAK, "the rate of the initial training at step 0", atol=0)
    expect_close(answer(0, 1000, "head", 1.0), 1.0, "the rate of the head at step 0 with peak 1: is `peak` used?")
    before, after, end = (answer(step, 1000, "initial", 1.0) for step in (919, 920, 1000))
    full = 3 ** -(919 / 1000)
    expect(
        not math.isclose(before, full, rel_tol=1e-3),
        f"at step 919 of 1,000 the rate is {before:.4f}: the factor of 3 is spread over the whole run. It is over the "
        "first 92 %",
    )
    expect_close(before, 3 ** -(919 / 920), "the rate just before the drop at 92 %", atol=0)
    expect(
        not math.isclose(after, 1 / 10, rel_tol=1e-3),
        "at the drop the rate is b / 10: that forgets that it had decayed to b / 3 before. From there by 10: b / 30",
    )
    expect(not math.isclose(after, 1 / 3, rel_tol=2e-3), "at 92 % nothing drops yet: `<`, not `<=`")
    expect_close(after, 1 / 30, "the rate at the drop", atol=0)
    expect(
        not math.isclose(end, 1 / 30 * 3 ** -(80 / 920), rel_tol=1e-3),
        "after the drop the rate decays as slowly as before. It decays by 3 once more, over what is left of the run",
    )
    expect_close(end, 1 / 90, "the rate at the end", atol=0)
    expect_close(answer(250, 1000, "head", 1.0), 3**-0.5, "the rate of the head after a quarter", atol=0)
    expect_close(answer(750, 1000, "head", 1.0), 3**-1.5 / 10, "the rate of the head after three quarters", atol=0)
    for step, expected in ((0, 1 / 30), (500, 3**-0.5 / 30), (1000, 1 / 90)):
        what = f"the rate of the backbone at step {step:,} of 1,000: the last segment of the initial schedule alone"
        expect_close(answer(step, 1000, "backbone", 1.0), expected, what, atol=0)
    expect_raises(lambda: answer(0, 1000, "neck"), ValueError, "an unknown part")


def with_parts(formula):
    """A wrong schedule out of a formula of share, drop and peak."""

    def rate(step, steps, part="initial", peak=2.12e-4):
        if part not in acae.DROP_AT:
            raise ValueError(part)
        return formula(step / steps, acae.DROP_AT[part], peak)

    return rate


@wrong_answer("12.7", says="spread over the whole run")
def decays_over_everything(step, steps, part="initial", peak=2.12e-4):
    rate = with_parts(lambda share, drop, b: b * 3**-share if share < drop else b / 10 * 3 ** -(share + 1))
    return rate(step, steps, part, peak)


@wrong_answer("12.7", says="b / 10: that forgets")
def drops_from_the_peak(step, steps, part="initial", peak=2.12e-4):
    def formula(share, drop, b):
        return b * 3 ** -(share / drop) if share < drop else b / 10 * 3 ** -((share - drop) / (1 - drop))

    return with_parts(formula)(step, steps, part, peak)


@wrong_answer("12.7", says="as slowly as before")
def one_decay(step, steps, part="initial", peak=2.12e-4):
    def formula(share, drop, b):
        return b * 3 ** -(share / (drop or 1)) * (1 if share < drop else 0.1)

    return with_parts(formula)(step, steps, part, peak)


@wrong_answer("12.7", says="is `peak` used")
def ignores_the_peak(step, steps, part="initial", peak=2.12e-4):
    return acae.learning_rate(step, steps, part)


@wrong_answer("12.7", says="unknown part")
def takes_any_part(step, steps, part="initial", peak=2.12e-4):
    return acae.learning_rate(step, steps, part if part in acae.DROP_AT else "head", peak)

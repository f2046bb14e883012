"""The checks of chapter 12, and for each the wrong answers that it must catch."""

import math
from itertools import groupby

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


# ------------------------------------------------------------------------------------------------------- 12.8 thinning
def track(*places: float) -> Tensor:
    """A motion (T, 2, 3) whose first joint stands still and whose second is at these places, millimetres."""
    points = torch.zeros(len(places), 2, 3)
    points[:, 1, 0] = torch.tensor(places) / 1000
    return points


@check_for("12.8")
def thinning(answer):
    slow = track(0, 60, 120, 180, 240, 300)
    before = slow.clone()
    found = answer(slow)
    expect_type(found, list, "the frames that are kept")
    expect_unchanged(slow, before, "the motion")
    expect(found != [], "no frame of 6 is kept. The first always is")
    expect(
        found != [0],
        "somebody who moves 60 mm a frame is kept in the first frame only. Compare with the last frame that was "
        "*kept*, and every joint by itself: one that has moved is enough",
    )
    expect(found[0] == 0, f"the frames {found} are kept of a slow motion: the first is missing")
    expect_equal(found, [0, 2, 4], "the frames kept of a motion of 60 mm a frame")
    expect_equal(
        answer(track(0, 125, 0, 62.5, 250)), [0, 1, 2, 4], "the frames kept of a joint at 0, 125, 0, 62.5, 250 mm"
    )
    exact = torch.zeros(2, 2, 3, dtype=torch.float64)
    exact[1, 0, 2] = 0.125
    expect_equal(answer(exact, 0.125), [0, 1], "a joint that moved by exactly the reach: `>=`")
    expect_equal(answer(track(0, 0, 0)), [0], "the frames kept of somebody who stands still")
    lost = track(0, 50, 150)
    lost[:, 0] = torch.nan
    expect_equal(answer(lost), [0, 2], "the frames kept where the first joint is missing (NaN)")
    expect_equal(answer(torch.zeros(0, 2, 3)), [], "the frames kept of no frames")


@wrong_answer("12.8", says=r"last frame that was \*kept\*")
def thin_by_speed(points, reach=0.1):
    moved = (points[1:] - points[:-1]).norm(dim=-1).amax(-1) >= reach
    return [0, *(moved.nonzero().flatten() + 1).tolist()]


@wrong_answer("12.8", says="one that has moved is enough|60 mm a frame")
def thin_by_mean(points, reach=0.1):
    kept = [0]
    for frame in range(1, len(points)):
        if (points[frame] - points[kept[-1]]).norm(dim=-1).mean() >= reach:
            kept.append(frame)
    return kept


@wrong_answer("12.8", says="exactly the reach")
def thin_strictly(points, reach=0.1):
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        if ((points[frame] - points[kept[-1]]).norm(dim=-1) > reach).any():
            kept.append(frame)
    return kept


@wrong_answer("12.8", says="the first is missing")
def thin_without_first(points, reach=0.1):
    return acae.thin(points, reach)[1:]


@wrong_answer("12.8", says="is missing \\(NaN\\)")
def thin_by_amax(points, reach=0.1):
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        if (points[frame] - points[kept[-1]]).norm(dim=-1).amax() >= reach:
            kept.append(frame)
    return kept


# -------------------------------------------------------------------------------------------- 12.9 correct pose score
@check_for("12.9")
def pose_score(answer):
    target = torch.randn(4, 5, 3)
    prediction = target.clone() + torch.tensor([0.3, -0.2, 5.0])  # elsewhere in the room
    prediction[1, 2, 1] += 0.19
    prediction[2, 4, 0] += 0.21  # one joint of five
    prediction[3, 1:] += 0.15 * torch.tensor([0.0, 1.0, 0.0])
    found = answer(prediction, target, 0)
    expect_type(found, Tensor, "the scores of 4 poses")
    expect(
        found.numel() != 1,
        "one number came back for 4 poses. Give one score for each; the mean is for whoever pools them",
    )
    expect(found.shape != (4, 5), "a score for every joint came back: a pose is right if *all* of its joints are")
    expect_shape(found, (4,), "the scores of 4 poses")
    expect(found.dtype != torch.bool, "booleans came back: give 1.0 and 0.0, so that the mean is a share")
    expect(
        not (found == 0).all(),
        "no pose is right, but they are only elsewhere in the room: move both skeletons to their root joint first",
    )
    expect(
        not (found.double() - torch.tensor([1, 1, 0.8, 1], dtype=torch.float64)).abs().max() < 1e-6,
        "that is PCK, the share of joints. One joint that is too far makes the whole pose wrong",
    )
    expect(
        not (found == 1).all(), "a pose with one joint 210 mm off counts as right. It is the worst joint that counts"
    )
    expect_close(found.float(), torch.tensor([1.0, 1, 0, 1]), "the scores of 4 poses, at 200 mm")
    expect_close(answer(prediction, target, 0, 0.1).float(), torch.tensor([1.0, 0, 0, 0]), "the scores at 100 mm")
    apart = target.clone()
    apart[:, 0, 1] += 0.15
    apart[:, 1, 1] -= 0.15  # 150 mm from where they are relative to joint 3, but 300 mm relative to each other
    expect_close(
        answer(apart, target, 3).float(), torch.ones(4), "the scores with joint 3 as the root: is `root` used?"
    )
    edge = torch.zeros(1, 2, 3)
    edge[0, 1, 0] = 0.25
    expect_close(
        answer(edge, torch.zeros(1, 2, 3), 0, 0.25).float(), torch.zeros(1), "an error of exactly the threshold"
    )


@wrong_answer("12.9", says="elsewhere in the room")
def cps_absolute(prediction, target, root, threshold=0.2):
    return ((prediction - target).norm(dim=-1).amax(-1) < threshold).float()


@wrong_answer("12.9", says="worst joint that counts")
def cps_mean(prediction, target, root, threshold=0.2):
    difference = (prediction - prediction[:, [root]]) - (target - target[:, [root]])
    return (difference.norm(dim=-1).mean(-1) < threshold).float()


@wrong_answer("12.9", says="that is PCK")
def cps_is_pck(prediction, target, root, threshold=0.2):
    difference = (prediction - prediction[:, [root]]) - (target - target[:, [root]])
    return (difference.norm(dim=-1) < threshold).float().mean(-1)


@wrong_answer("12.9", says="one number came back for 4 poses")
def cps_pooled(prediction, target, root, threshold=0.2):
    return acae.correct_pose_score(prediction, target, root, threshold).mean()


@wrong_answer("12.9", says="is `root` used")
def cps_root_zero(prediction, target, root, threshold=0.2):
    return acae.correct_pose_score(prediction, target, 0, threshold)


# ------------------------------------------------------------------------------------------------------ 12.10 two means
@check_for("12.10")
def two_means(answer):
    found = answer(torch.tensor([10.0, 20, 90, 30, 200]), ["a", "b", "b", "a", "c"])
    expect_type(found, (tuple, list), "the two means")
    expect(len(found) == 2, f"{len(found)} values came back, 2 were expected: over poses, over sequences")
    first, second = (float(value) for value in found)
    expect(not math.isclose(second, 70, rel_tol=1e-5) or not math.isclose(first, 275 / 3, rel_tol=1e-5),
           "the two means have changed places: over all poses first")  # fmt: skip
    expect_close(first, 70.0, "the mean over all poses, errors 10, 20, 90, 30, 200")
    expect(
        not math.isclose(second, 70, rel_tol=1e-5),
        "both means are the same: within each sequence first, then over the *sequences*, each counting once",
    )
    expect(
        not math.isclose(second, (10 + 55 + 30 + 200) / 4, rel_tol=1e-5),
        "sequence a counts twice in a b b a c. The poses of a sequence don't have to stand together",
    )
    expect_close(second, (20 + 55 + 200) / 3, "the mean over the sequences a b b a c")
    equal = answer(torch.tensor([10.0, 20, 90, 30]), ["a", "b", "a", "b"])
    expect_close(tuple(float(value) for value in equal), (37.5, 37.5), "two sequences of equal length")


@wrong_answer("12.10", says="changed places")
def pooled_swapped(errors, sequences):
    return acae.pooled(errors, sequences)[::-1]


@wrong_answer("12.10", says="both means are the same")
def pooled_weighted(errors, sequences):
    sums = [errors[[one == name for one in sequences]].sum() for name in dict.fromkeys(sequences)]
    return errors.mean().item(), (torch.stack(sums).sum() / len(errors)).item()


@wrong_answer("12.10", says="don't have to stand together")
def pooled_runs(errors, sequences):
    runs = [list(run) for _, run in groupby(range(len(errors)), key=lambda pose: sequences[pose])]
    return errors.mean().item(), torch.stack([errors[run].mean() for run in runs]).mean().item()

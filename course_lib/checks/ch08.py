"""The checks of chapter 08: parts, depth and normals."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from course_lib.chapters import sapiens_dense as dense
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_gradient,
    expect_length,
    expect_not_close,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)

IGNORE = dense.IGNORE


# ---------------------------------------------------------------------------------------- 08.1 weighted cross-entropy
@check_for("08.1")
def weighted_cross_entropy(answer):
    scores, target = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))
    weights = torch.tensor([0.1, 1.0, 3.0, 10.0])
    target[0, 0] = IGNORE
    each = cross_entropy(scores, target, weight=weights, ignore_index=IGNORE, reduction="none")
    found = answer(scores, target, weights)
    expect_not_close(
        found,
        cross_entropy(scores, target, weight=weights, ignore_index=IGNORE),
        "That is PyTorch's weighted mean: it divides by the sum of the weights. Divide by the number of pixels",
    )
    expect_not_close(
        found,
        each.sum() / (target != IGNORE).sum(),
        "The ignored pixels are left out of the division. They add nothing to the sum, but they do count as pixels",
    )
    expect_not_close(
        found, cross_entropy(scores, target, ignore_index=IGNORE, reduction="none").mean(), "The weights are missing"
    )
    expect_not_close(found, each.sum(), "That is the sum over all pixels. The mean was asked for")
    expect_close(found, each.mean(), "2 pictures of 3 x 5 pixels, 4 classes, 5 pixels ignored")
    nobody = torch.full((1, 3, 5), IGNORE)
    expect_close(answer(scores[:1], nobody, weights), torch.zeros(()), "a picture with nothing but ignored pixels")
    free = scores.clone().requires_grad_()
    expect_gradient(answer(free, target, weights), free, "the gradient")


@wrong_answer("08.1", says="sum of the weights")
def entropy_weighted_mean(scores, target, weights):
    return cross_entropy(scores, target, weight=weights, ignore_index=IGNORE)


@wrong_answer("08.1", says="left out of the division")
def entropy_over_known(scores, target, weights):
    losses = cross_entropy(scores, target, weight=weights, ignore_index=IGNORE, reduction="none")
    return losses[target != IGNORE].mean()


@wrong_answer("08.1", says="weights are missing")
def entropy_unweighted(scores, target, weights):
    return cross_entropy(scores, target, ignore_index=IGNORE, reduction="none").mean()


@wrong_answer("08.1", says="raised")
def entropy_without_ignoring(scores, target, weights):
    return cross_entropy(scores, target, weight=weights, reduction="none").mean()


# ------------------------------------------------------------------------------------------------- 08.2 from 28 to 20
@check_for("08.2")
def to_lip(answer):
    parts = torch.arange(28).view(4, 7)
    found = answer(parts)
    expect_type(found, Tensor, "the classes of a map (4, 7)")
    expect_shape(found, (4, 7), "the classes of a map (4, 7)")
    for number, expected in enumerate(dense.to_lip(parts).flatten().tolist()):
        said, name = int(found.flatten()[number]), dense.PARTS[number]
        expect(said == expected, lip_words(name, said, expected))
    expect_equal(answer(parts.byte()), dense.to_lip(parts), "the same map as uint8")


def lip_words(name: str, said: int, expected: int) -> str:
    """What is wrong with one class, with the usual reason."""
    called = {number: f"{number} ({lip})" for number, lip in enumerate(dense.LIP)} | {IGNORE: "255 (ignored)"}
    words = f"{name} became {called.get(said, said)}, {called[expected]} was expected"
    if expected == IGNORE:
        return f"{words}: LIP has no class for it"
    if dense.LIP[expected].split("-")[-1] == called.get(said, "").rstrip(")").split("-")[-1]:
        return f"{words}: left and right are mixed up"
    return words + (": socks are socks on either foot" if dense.LIP[expected] == "Socks" else "")


def lip_table() -> Tensor:
    return dense.to_lip(torch.arange(28))


@wrong_answer("08.2", says="LIP has no class for it")
def lip_torso_is_clothes(parts):
    table = lip_table()
    table[dense.PARTS.index("Torso")] = dense.LIP.index("UpperClothes")
    return table[parts.long()]


@wrong_answer("08.2", says="left and right are mixed up")
def lip_sides_swapped(parts):
    swap = torch.arange(256)
    swap[[14, 15, 16, 17, 18, 19]] = torch.tensor([15, 14, 17, 16, 19, 18])
    return swap[lip_table()[parts.long()]]


@wrong_answer("08.2", says="either foot")
def lip_without_socks(parts):
    table = lip_table()
    table[table == dense.LIP.index("Socks")] = IGNORE
    return table[parts.long()]


@wrong_answer("08.2", says="Background became 255")
def lip_background_ignored(parts):
    table = lip_table()
    table[0] = IGNORE
    return table[parts.long()]


# ------------------------------------------------------------------------------------------------------------ 08.3 IoU
COUNTS = torch.tensor([[50, 3, 2, 0], [4, 20, 0, 0], [6, 1, 9, 0], [0, 0, 0, 0]])


@check_for("08.3")
def intersection_over_union(answer):
    expected = torch.tensor([50 / 65, 20 / 28, 9 / 18, math.nan], dtype=torch.float64)
    found = answer(COUNTS)
    expect_type(found, Tensor, "the IoU of 4 classes")
    expect_shape(found, (4,), "the IoU of 4 classes")
    hit, rows, columns = COUNTS.diagonal(), COUNTS.sum(1), COUNTS.sum(0)
    mistakes = {
        "That is the share of a class's true pixels that were found (accuracy). The union also has the pixels that "
        "were wrongly called so": hit / rows,
        "That is the share of right ones among the pixels called so (precision). The union has the true ones, too": (
            hit / columns
        ),
        "The intersection is counted twice in the union: take it off once": hit / (rows + columns),
        "That is the Dice score, 2 · intersection over the sum of both sets": 2 * hit / (rows + columns),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found[:3], mistake[:3], words)
    expect(found[3].isnan(), "The class in neither truth nor answer has no IoU: 0/0 is NaN, let it be")
    expect_close(found.double(), expected, "a confusion matrix of 4 classes")


@wrong_answer("08.3", says="accuracy")
def iou_accuracy(confusion):
    return confusion.diagonal() / confusion.sum(1)


@wrong_answer("08.3", says="precision")
def iou_precision(confusion):
    return confusion.diagonal() / confusion.sum(0)


@wrong_answer("08.3", says="counted twice")
def iou_twice(confusion):
    return confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))


@wrong_answer("08.3", says="has no IoU")
def iou_without_nan(confusion):
    hit = confusion.diagonal()
    return (hit / (confusion.sum(0) + confusion.sum(1) - hit)).nan_to_num(0.0)


@wrong_answer("08.3", says="the shape is")
def iou_mean(confusion):
    hit = confusion.diagonal()
    return (hit / (confusion.sum(0) + confusion.sum(1) - hit)).nanmean()


# ------------------------------------------------------------------------------------------------- 08.4 relative depth
def depths() -> Tensor:
    """Three pictures in metres: people at 1 to 3, people at 4 to 4.4, nobody around (inf, 0, NaN); and nobody."""
    maps = torch.full((3, 4, 4), math.inf)
    maps[0, 1:3, 1:4] = torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.5, 1.0]])
    maps[1] = 0.0
    maps[1, 0] = torch.tensor([4.0, 4.1, 4.4, math.nan])
    return maps


@check_for("08.4")
def relative_depth(answer):
    maps = depths()
    before, found = maps.clone(), answer(maps)
    expected = dense.relative_depth(maps)
    expect_type(found, Tensor, "the relative depth of 3 pictures of 4 x 4")
    expect_shape(found, (3, 4, 4), "the relative depth of 3 pictures of 4 x 4")
    expect_finite(found[2], "a picture without people (depth infinite everywhere)")
    expect_finite(found, "the relative depth (infinity, 0 and NaN mark pixels where nobody is)")
    expect_unchanged(maps.nan_to_num(), before.nan_to_num(), "the depth")
    alone = maps[:2].isfinite() & (maps[:2] > 0)
    low, high = maps[:2][alone].min(), maps[:2][alone].max()
    expect_not_close(
        found[:2],
        ((maps[:2] - low) / (high - low)).where(alone, -1.0),
        "Nearest and farthest are those of the whole batch. Each picture has its own",
    )
    expect_not_close(found, (1 - expected).where(expected >= 0, -1.0), "1 is the nearest here: it is 0, 1 the farthest")
    expect_not_close(found, expected.clamp(min=0), "Where nobody is stands 0, the depth of the nearest pixel: write −1")
    expect_close(found, expected, "3 pictures: people at 1 to 3 m, people at 4 to 4.4 m, and nobody")
    flat = torch.zeros(1, 2, 2)
    flat[0, 0] = 2.0
    expect_close(
        answer(flat), -torch.ones(1, 2, 2), "constant depth: nearest and farthest are the same, there is no scale"
    )
    flat[0, 0, 0] = 2.0005
    expect_close(answer(flat), -torch.ones(1, 2, 2), "all depth within FLAT (half a millimetre): there is no scale")


def relative(depth: Tensor, low: Tensor, high: Tensor, known: Tensor, nobody: float = -1.0) -> Tensor:
    return ((depth - low) / (high - low).clamp(min=1e-3)).where(known & (high - low > 1e-3), nobody)


def limits(depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    known = depth.isfinite() & (depth > 0)
    low = depth.where(known, math.inf).amin((1, 2), keepdim=True)
    return low, depth.where(known, -math.inf).amax((1, 2), keepdim=True), known


@wrong_answer("08.4", says="whole batch")
def relative_over_the_batch(depth):
    low, high, known = limits(depth)
    return relative(depth, low.min(), high.max(), known)


@wrong_answer("08.4", says="1 is the nearest")
def relative_upside_down(depth):
    low, high, known = limits(depth)
    found = relative(depth, low, high, known)
    return (1 - found).where(found >= 0, -1.0)


@wrong_answer("08.4", says="write −1")
def relative_zero_outside(depth):
    return relative(depth, *limits(depth), nobody=0.0)


@wrong_answer("08.4", says="NaN|infinity")
def relative_by_mask(depth):
    known = depth.isfinite() & (depth > 0)
    low = depth.where(known, math.inf).amin((1, 2), keepdim=True)
    high = depth.where(known, -math.inf).amax((1, 2), keepdim=True)
    return (depth - low) / (high - low) * known - 1.0 * ~known


@wrong_answer("08.4", says="no scale")
def relative_flat_is_zero(depth):
    low, high, known = limits(depth)
    return ((depth - low) / (high - low).clamp(min=1e-3)).where(known, -1.0)


# ----------------------------------------------------------------------------------------------------- 08.5 silog loss
def pair() -> tuple[Tensor, Tensor]:
    """Answers and targets (3, 4, 5): the first two pictures with background and a nearest pixel, the third empty."""
    target = torch.rand(3, 4, 5) * 0.9 + 0.05
    target[:, 0] = -1.0
    target[0, 1, 1], target[2] = 0.0, -1.0
    return torch.rand(3, 4, 5) * 0.9 + 0.05, target


def silog(prediction: Tensor, target: Tensor, share: float = 0.5, root: bool = True, least: float = 1e-6) -> Tensor:
    """Equations 1 to 3 picture by picture, by indexing."""
    losses = []
    for p, t in zip(prediction, target, strict=True):
        known = t > least
        if known.any():
            delta = t[known].log() - p[known].clamp(min=1e-6).log()
            inside = delta.square().mean() - share * delta.mean() ** 2
            losses.append(inside.sqrt() if root else inside)
    return torch.stack(losses).mean()


@check_for("08.5")
def silog_loss(answer):
    prediction, target = pair()
    found = answer(prediction, target)
    expect_finite(found, "the loss of three pictures, the last without people and one with a nearest pixel of depth 0")
    expected = silog(prediction, target)
    mistakes = {
        "The root of equation 3 is missing": silog(prediction, target, root=False),
        "The square of the mean is subtracted in full (λ = 1). Sapiens subtracts half of it": (
            silog(prediction, target, share=1.0)
        ),
        "The square of the mean is not subtracted: that is the root mean square of the log error": (
            silog(prediction, target, share=0.0)
        ),
        "The mean counts the picture without people as a loss of 0. Divide by the number of pictures with people": (
            expected * 2 / 3
        ),
        "The pixels of all pictures are taken together. Equation 3 is for one picture; then comes the mean": (
            silog(prediction.view(1, 12, 5), target.view(1, 12, 5))
        ),
        "The nearest pixel (target 0) counts. Its logarithm would be −∞: only targets above EPSILON do": (
            silog(prediction, target.where(target != 0, 1e-6), least=0)
        ),
        "That compares depths, not their logarithms": (
            silog(prediction.exp(), target.where(target > 1e-6, -math.inf).exp().where(target > 1e-6, -1.0))
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, expected, "three pictures of 4 x 5 pixels, the last without people")
    check_silog_edges(answer, prediction, target)


def check_silog_edges(answer, prediction: Tensor, target: Tensor) -> None:
    """A perfect answer, an empty batch, negative answers, NaN in the target: numbers and gradients stay finite."""
    negative = prediction - 0.3
    expect_close(answer(negative, target), silog(negative, target), "answers below 0 (clamp them to EPSILON)")
    cases = {"a perfect answer": target.clamp(min=0.0), "answers below 0": negative}
    for name, case in cases.items():
        free = case.clone().requires_grad_()
        words = f"{name} (a root has an infinite slope at 0: clamp what is under it)"
        expect_gradient(answer(free, target), free, words)
    expect_close(answer(target.clamp(min=0.0), target), torch.zeros(()), "a perfect answer", atol=1e-3)
    free, ours = prediction.clone().requires_grad_(), prediction.clone().requires_grad_()
    answer(free, target).backward()
    silog(ours, target).backward()
    expect_close(free.grad, ours.grad, "the gradient")
    free = prediction.clone().requires_grad_()
    nobody = answer(free, torch.full_like(target, -1.0))
    expect_close(nobody, torch.zeros(()), "a batch without people")
    expect_gradient(nobody, free, "a batch without people")
    spoilt = target.clone()
    spoilt[0, 3, 3], target = math.nan, target.clone()
    target[0, 3, 3] = -1.0
    expect_close(
        answer(prediction, spoilt), silog(prediction, target), "a pixel of the target that is NaN: leave it out"
    )


def plain_silog(prediction: Tensor, target: Tensor, share: float = 0.5, floor: float = 1e-10) -> Tensor:
    """The course's answer with two knobs."""
    valid = target > 1e-6
    delta = (target.where(valid, 1.0).log() - prediction.where(valid, 1.0).clamp(min=1e-6).log()) * valid
    count = valid.sum((1, 2)).clamp(min=1)
    mean, square = delta.sum((1, 2)) / count, delta.square().sum((1, 2)) / count
    losses = (square - share * mean.square()).clamp(min=floor).sqrt() * valid.any(2).any(1)
    return losses.sum() / valid.any(2).any(1).sum().clamp(min=1)


@wrong_answer("08.5", says="in full")
def silog_invariant(prediction, target):
    return plain_silog(prediction, target, share=1.0)


@wrong_answer("08.5", says="not subtracted")
def silog_rms(prediction, target):
    return plain_silog(prediction, target, share=0.0)


@wrong_answer("08.5", says="infinite slope|infinity|NaN")
def silog_steep(prediction, target):
    return plain_silog(prediction, target, floor=0.0)


@wrong_answer("08.5", says="root of equation 3")
def silog_squared(prediction, target):
    return silog(prediction, target, root=False)


@wrong_answer("08.5", says="number of pictures with people")
def silog_over_all(prediction, target):
    return plain_silog(prediction, target) * (target > 1e-6).any(2).any(1).sum() / len(target)


@wrong_answer("08.5", says="taken together")
def silog_pooled(prediction, target):
    return plain_silog(prediction.flatten()[None, None], target.flatten()[None, None])


@wrong_answer("08.5", says="NaN|infinity")
def silog_by_product(prediction, target):
    valid = target > 1e-6
    delta = (target.log() - prediction.clamp(min=1e-6).log()) * valid
    mean = delta.sum((1, 2)) / valid.sum((1, 2))
    return (delta.square().sum((1, 2)) / valid.sum((1, 2)) - 0.5 * mean.square()).sqrt().mean()


# ------------------------------------------------------------------------------------------------- 08.6 scale and shift
@check_for("08.6")
def scale_and_shift(answer):
    prediction, target = torch.rand(3, 5, 6), 2 + torch.rand(3, 5, 6)
    target[0] = 3.0 * prediction[0] + 1.5
    mask = torch.rand(3, 5, 6) > 0.4
    expected = dense.scale_and_shift(prediction, target, mask)
    found = answer(prediction, target, mask)
    expect_length(found, 2, "scale and shift")
    everything = dense.scale_and_shift(prediction, target, torch.ones_like(mask))
    expect_not_close(found[0], everything[0], "The fit is over the whole picture. Only the pixels of the mask count")
    pooled = dense.scale_and_shift(prediction.view(1, 15, 6), target.view(1, 15, 6), mask.view(1, 15, 6))
    if isinstance(found[0], Tensor) and found[0].shape == (3,):
        expect(
            not torch.allclose(found[0], pooled[0].expand(3), atol=1e-4),
            "There is one scale for the whole batch. Each picture has its own",
        )
        back = dense.scale_and_shift(target, prediction, mask)[0]
        expect_not_close(
            found[0],
            back,
            "That fits the truth to the answer: the variance in the denominator is the answer's, not d's",
        )
        through = (prediction * target * mask).sum((1, 2)) / (prediction.square() * mask).sum((1, 2))
        expect_not_close(found[0], through, "That is the best scale without a shift: take the means off first")
        expect_not_close(found[0], expected[1], "The shift came first: return a, then b")
    expect_close(found[0], expected[0], "the scales of 3 pictures")
    expect_close(found[1], expected[1], "the shifts of 3 pictures")
    a, b = answer(torch.full((1, 2, 2), 0.7), target[:1, :2, :2], torch.ones(1, 2, 2, dtype=torch.bool))
    expect_finite(a, "an answer without variation: its scale")
    expect_close((a, b), (torch.zeros(1), target[:1, :2, :2].mean((1, 2))), "an answer without variation")
    flat = torch.linspace(0.1, 0.9, 64)[:, None, None].expand(64, 48, 48)  # the mean of many is not quite the value
    a, _ = answer(flat, torch.rand(64, 48, 48), torch.rand(64, 48, 48) > 0.4)
    words = "64 answers without variation but for rounding: their scales. Take the mean off first, then compare with p̄²"
    expect_close(a, torch.zeros(64), words)
    outside = target.where(mask, math.inf)
    expect_close(answer(prediction, outside, mask), expected, "depth that is infinite outside of the mask", atol=1e-4)
    outside = prediction.where(mask, math.nan)
    expect_close(answer(outside, target, mask), expected, "an answer that is NaN outside of the mask", atol=1e-4)


def fitted(prediction: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift with weights that sum to 1 in each picture."""
    p_mean, d_mean = (prediction * weight).sum((1, 2)), (target * weight).sum((1, 2))
    away = prediction - p_mean[:, None, None]
    scale = (away * (target - d_mean[:, None, None]) * weight).sum((1, 2)) / (away.square() * weight).sum((1, 2))
    return scale, d_mean - scale * p_mean


@wrong_answer("08.6", says="whole picture")
def scale_without_mask(prediction, target, mask):
    return fitted(prediction, target, torch.ones_like(prediction) / prediction[0].numel())


@wrong_answer("08.6", says="fits the truth to the answer")
def scale_backwards(prediction, target, mask):
    return fitted(target, prediction, mask / mask.sum((1, 2), keepdim=True))


@wrong_answer("08.6", says="without variation")
def scale_of_constant(prediction, target, mask):
    return fitted(prediction, target, mask / mask.sum((1, 2), keepdim=True))


@wrong_answer("08.6", says="but for rounding")
def scale_above_zero(prediction, target, mask):
    p, d, weight = prediction.where(mask, 0.0), target.where(mask, 0.0), mask / mask.sum((1, 2), keepdim=True)
    scale = fitted(p, d, weight)[0].nan_to_num(0.0)  # 0 only where the variance is 0 to the last digit
    return scale, ((d - scale[:, None, None] * p) * weight).sum((1, 2))


@wrong_answer("08.6", says="but for rounding")
def scale_in_one_pass(prediction, target, mask):
    p, d, weight = prediction.where(mask, 0.0), target.where(mask, 0.0), mask / mask.sum((1, 2), keepdim=True)
    pp, pd, p_mean, d_mean = ((values * weight).sum((1, 2)) for values in (p * p, p * d, p, d))
    variance = pp - p_mean.square()
    scale = torch.where(variance > 1e-12 * p_mean.square(), (pd - p_mean * d_mean) / variance, 0.0)
    return scale, d_mean - scale * p_mean


@wrong_answer("08.6", says="without a shift")
def scale_alone(prediction, target, mask):
    scale = (prediction * target * mask).sum((1, 2)) / (prediction.square() * mask).sum((1, 2))
    return scale, torch.zeros_like(scale)


@wrong_answer("08.6", says="1 values|the shape is|whole batch")
def scale_of_the_batch(prediction, target, mask):
    a, b = fitted(prediction.view(1, -1, 1), target.view(1, -1, 1), (mask / mask.sum()).view(1, -1, 1))
    return a.expand(len(mask)), b.expand(len(mask))


# ---------------------------------------------------------------------------------------------------- 08.7 normal loss
def normal_pair() -> tuple[Tensor, Tensor]:
    """Raw answers and unit normals (2, 3, 4, 5), a part of the pixels without a normal."""
    target = normalize(torch.randn(2, 3, 4, 5), dim=1)
    target[:, :, 0] = 0.0
    target[1, :, :, 2] = 0.0
    return 1.7 * torch.randn(2, 3, 4, 5), target


@check_for("08.7")
def normal_loss(answer):
    prediction, target = normal_pair()
    valid, one = target.norm(dim=1) > 0.5, normalize(prediction, dim=1)
    cosine = (one * target).sum(1)

    def average(distance: Tensor, cosine: Tensor) -> Tensor:
        return (distance + 1 - cosine)[valid].mean()

    raw = (prediction - target).abs().sum(1)
    found = answer(prediction, target)
    mistakes = {
        "The L1 norm is taken of the answer at length 1. The authors take it of the raw answer: it is all that holds "
        "its length": average((one - target).abs().sum(1), cosine),
        "The cosine is taken of the raw answer: bring it to length 1 first": average(raw, (prediction * target).sum(1)),
        "The L1 norm is the sum over the three components, not their mean": average(raw / 3, cosine),
        "The mean runs over all pixels. Only those with a normal count": (raw + 1 - cosine).mean(),
        "The mean runs over all pixels: divide by the number of pixels with a normal": (
            ((raw + 1 - cosine) * valid).mean()
        ),
        "That is the mean of each picture, then of the pictures. Here all human pixels of the batch count alike": (
            torch.stack([(raw + 1 - cosine)[i][valid[i]].mean() for i in range(2)]).mean()
        ),
        "The distance is Euclidean (L2). Equation 4 has the L1 norm, the sum of absolute values": (
            average((prediction - target).norm(dim=1), cosine)
        ),
        "The cosine has the wrong sign: 1 − cos is 0 for a perfect answer": average(raw, -cosine),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, average(raw, cosine), "2 pictures of 4 x 5 pixels, some without a normal")
    expect_close(answer(target, target), torch.zeros(()), "a perfect answer", atol=1e-5)
    free = prediction.clone().requires_grad_()
    nobody = answer(free, torch.zeros_like(target))
    expect_close(nobody, torch.zeros(()), "a batch without people")
    expect_gradient(nobody, free, "a batch without people")
    spoilt, known = target.clone(), target.clone()
    spoilt[0, :, 2, 2], known[0, :, 2, 2] = math.nan, 0.0
    expect_close(answer(prediction, spoilt), answer(prediction, known), "a target that is NaN: leave the pixel out")
    free = prediction.clone().requires_grad_()
    words = "a target that is NaN (replace it before the arithmetic: NaN times 0 is NaN)"
    expect_gradient(answer(free, spoilt), free, words)


def normal_terms(prediction: Tensor, target: Tensor, raw: bool, over_valid: bool = True) -> Tensor:
    valid = target.square().sum(1) > 0.25
    one = normalize(prediction, dim=1)
    target = target.where(valid[:, None], 0.0)
    distance = ((prediction if raw else one) - target).abs().sum(1)
    losses = (distance + 1 - (one * target).sum(1)).where(valid, 0.0)
    return losses.sum() / valid.sum().clamp(min=1) if over_valid else losses.mean()


@wrong_answer("08.7", says="raw answer: it is all that holds")
def normals_unit_distance(prediction, target):
    return normal_terms(prediction, target, raw=False)


@wrong_answer("08.7", says="bring it to length 1")
def normals_raw_cosine(prediction, target):
    valid = target.norm(dim=1) > 0.5
    return ((prediction - target).abs().sum(1) + 1 - (prediction * target).sum(1))[valid].mean()


@wrong_answer("08.7", says="number of pixels with a normal")
def normals_over_all(prediction, target):
    return normal_terms(prediction, target, raw=True, over_valid=False)


@wrong_answer("08.7", says="sum over the three")
def normals_mean_of_components(prediction, target):
    valid = target.norm(dim=1) > 0.5
    cosine = (normalize(prediction, dim=1) * target).sum(1)
    return ((prediction - target).abs().mean(1) + 1 - cosine)[valid].mean()


@wrong_answer("08.7", says="NaN times 0")
def normals_nan_gradient(prediction, target):
    valid = target.square().sum(1) > 0.25
    cosine = (normalize(prediction, dim=1, eps=1e-6) * target).sum(1)
    losses = ((target - prediction).abs().sum(1) + 1 - cosine).where(valid, 0.0)
    return losses.sum() / valid.sum().clamp(min=1)


@wrong_answer("08.7", says="all human pixels of the batch count alike")
def normals_picture_by_picture(prediction, target):
    pairs = zip(prediction.split(1), target.split(1), strict=True)
    each = torch.stack([dense.normal_loss(p, t) for p, t in pairs])
    return each.mean()


@wrong_answer("08.7", says="without people")
def normals_empty_is_nan(prediction, target):
    valid = target.norm(dim=1) > 0.5
    cosine = (normalize(prediction, dim=1) * target).sum(1)
    return ((prediction - target).abs().sum(1) + 1 - cosine)[valid].mean()


# -------------------------------------------------------------------------------------------------- 08.8 pseudo-normals
INTRINSICS = torch.tensor([[[40.0, 0.0, 12.0], [0.0, 40.0, 8.0], [0.0, 0.0, 1.0]]])


def plane(normal: tuple[float, float, float]) -> Tensor:
    """Depth (1, 16, 24) of a plane 3 m ahead that faces `normal` (x right, y up, z towards the viewer)."""
    ray = dense.unproject(torch.ones(1, 16, 24), INTRINSICS)[0]  # x right, y down, z forward
    n = torch.tensor(normal) * torch.tensor([1.0, -1.0, -1.0])
    return (3 * n[2] / torch.einsum("i,ihw->hw", n, ray))[None]


@check_for("08.8")
def pseudo_normals(answer):
    normal = normalize(torch.tensor([0.5, 0.3, 0.8]), dim=0)
    depth, expected = plane(tuple(normal.tolist())), normal[:, None, None].expand(3, 16, 24)[None]
    found = answer(depth, INTRINSICS)
    expect_type(found, Tensor, "the normals of a plane")
    if found.shape == expected.shape:
        camera = expected * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
        mistakes = {
            "The normals point away from the viewer: the cross product is down x right, not right x down": -expected,
            "They are in the camera's axes, y down and z forward. Turn the signs of y and z": camera,
            "They are in the camera's axes and point away. Down x right, then the signs of y and z": -camera,
        }
        for words, mistake in mistakes.items():
            expect_not_close(found, mistake, words, atol=1e-3)
        long = found.norm(dim=1)
        border = bool((long[:, 1:-1, 1:-1] > 0.5).all() and (long[:, 0] < 0.5).any())
        expect(
            not border, "There are no normals at the border: take one-sided differences there, as torch.gradient does"
        )
        expect((long - 1).abs().max() < 1e-3, f"The lengths are {long.min():.3g} to {long.max():.3g}: bring them to 1")
        v, u = torch.gradient(depth, dim=(1, 2))
        flat = normalize(torch.stack([-u, v, torch.ones_like(u)], 1), dim=1)
        expect_not_close(found, flat, "That is the slope of the depth per pixel. Use the points in space")
    expect_close(found, expected, "a plane that faces right, up and to the viewer", atol=2e-3)
    broken = depth.clone()
    broken[0, :, 12:] = math.inf
    found, there = answer(broken, INTRINSICS), expected.clone()
    expect_finite(found, "where the depth is infinite (0 is expected there)")
    there[..., 11:] = 0.0  # column 11 has an infinite neighbour
    expect_close(found, there, "half of the depth infinite: 0 there and beside it", atol=2e-3)


@wrong_answer("08.8", says="away from the viewer")
def pseudo_backwards(depth, K):
    return -dense.pseudo_normals(depth, K)


@wrong_answer("08.8", says="at the border")
def pseudo_inside(depth, K):
    inside = dense.pseudo_normals(depth, K)[..., 1:-1, 1:-1]
    return torch.nn.functional.pad(inside, (1, 1, 1, 1))


@wrong_answer("08.8", says="0 there and beside it")
def pseudo_of_holes(depth, K):
    return dense.pseudo_normals(depth.nan_to_num(0.0, 0.0, 0.0), K)


@wrong_answer("08.8", says="camera's axes, y down")
def pseudo_in_camera_axes(depth, K):
    return dense.pseudo_normals(depth, K) * torch.tensor([1.0, -1.0, -1.0])[:, None, None]


@wrong_answer("08.8", says="bring them to 1")
def pseudo_not_unit(depth, K):
    down, right = torch.gradient(dense.unproject(depth, K), dim=(-2, -1))
    return torch.linalg.cross(down, right, dim=1) * torch.tensor([1.0, -1.0, -1.0])[:, None, None]


@wrong_answer("08.8", says="slope of the depth per pixel")
def pseudo_of_depth_alone(depth, K):
    v, u = torch.gradient(depth, dim=(1, 2))
    return normalize(torch.stack([-u, v, torch.ones_like(u)], 1), dim=1)


@wrong_answer("08.8", says="infinite")
def pseudo_with_nan(depth, K):
    down, right = torch.gradient(dense.unproject(depth, K), dim=(-2, -1))
    normals = torch.linalg.cross(down, right, dim=1) * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    return normals / normals.norm(dim=1, keepdim=True)


# ---------------------------------------------------------------------------------------------------------- 08.9 mirror
def everything() -> dict[str, Tensor]:
    """A batch with every label, each value another."""
    return {
        "image": torch.rand(2, 3, 4, 14),
        "alpha": torch.rand(2, 4, 14),
        "depth": torch.rand(2, 4, 14),
        "parts": torch.arange(112).view(2, 4, 14).remainder(28).byte(),
        "normals": torch.randn(2, 3, 4, 14),
    }


@check_for("08.9")
def mirrored(answer):
    batch = everything()
    before = {name: values.clone() for name, values in batch.items()}
    found = answer(batch)
    expect(isinstance(found, dict), f"A {type(found).__name__} came back, a dictionary was expected")
    expect(found.keys() == batch.keys(), f"The batch has {', '.join(batch)}, what came back has {', '.join(found)}")
    for name, values in batch.items():
        expect_unchanged(values, before[name], f"{name} of the batch")
    expected, flipped = dense.mirrored(batch), {name: values.flip(-1) for name, values in batch.items()}
    for name in ("image", "alpha", "depth"):
        expect_not_close(found[name], batch[name].flip(-2), f"{name} is upside down: a mirror exchanges columns")
        expect_not_close(found[name], batch[name], f"{name} is as it was: flip its columns, too")
        expect_close(found[name], expected[name], name)
    same = torch.equal(found["parts"].long(), flipped["parts"].long())
    expect(not same, "The parts were flipped, but their names were not: a left hand is a right hand in a mirror")
    unmoved = dense.mirrored({"parts": batch["parts"].flip(-1)})["parts"]
    expect(not torch.equal(found["parts"], unmoved), "The classes were swapped, but the pixels stayed: flip them, too")
    one_by_one = flipped["parts"].clone()
    for left, right in dense.SWAPS:
        one_by_one[one_by_one == left] = right
        one_by_one[one_by_one == right] = left
    words = "A class was renamed and then renamed back: look both up in one table"
    expect(not torch.equal(found["parts"], one_by_one), words)
    expect_equal(found["parts"], expected["parts"], "parts")
    words = "The normals were flipped, but their x was not negated: what faced left faces right in a mirror"
    expect_not_close(found["normals"], flipped["normals"], words)
    expect_not_close(found["normals"], -flipped["normals"], "All of a normal was negated: a mirror turns its x alone")
    expect_close(found["normals"], expected["normals"], "normals")
    only = answer({"image": batch["image"]})
    expect(set(only) == {"image"}, "A batch with an image alone came back with other labels")


def flipped_with(batch: dict[str, Tensor], **changes) -> dict[str, Tensor]:
    return {name: changes.get(name, lambda x: x)(values) for name, values in dense.mirrored(batch).items()}


@wrong_answer("08.9", says="names were not")
def mirror_pixels_only(batch):
    return {name: values.flip(-1) for name, values in batch.items()}


@wrong_answer("08.9", says="x was not negated")
def mirror_without_normals(batch):
    return flipped_with(batch, normals=lambda x: x * torch.tensor([-1.0, 1.0, 1.0])[:, None, None])


@wrong_answer("08.9", says="x alone")
def mirror_all_of_a_normal(batch):
    return flipped_with(batch, normals=lambda x: x * torch.tensor([1.0, -1.0, -1.0])[:, None, None])


@wrong_answer("08.9", says="changed in place")
def mirror_in_place(batch):
    found = dense.mirrored(batch)
    batch["normals"][:, 0] *= -1
    return found


@wrong_answer("08.9", says="upside down")
def mirror_upside_down(batch):
    return dense.mirrored(batch) | {name: batch[name].flip(-2) for name in ("image", "alpha", "depth")}

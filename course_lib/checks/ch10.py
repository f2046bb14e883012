"""The checks of chapter 10, and for each the wrong answers that it must catch."""

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor
from torch.nn.functional import avg_pool2d, gelu

from course_lib.chapters import david_models as david
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_length,
    expect_not_close,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)


# ------------------------------------------------------------------------------------------ 10.1 the readout projection
@check_for("10.1")
def read_projection(answer):
    module, tokens = david.ReadProjection(4), torch.randn(2, 7, 4)
    cls, visual = tokens[:, :1].expand(2, 6, 4), tokens[:, 1:]
    found = answer(module, tokens)
    expect_type(found, Tensor, "the answer to 1 + 6 tokens")
    expect(
        found.shape[1:2] != (7,), "7 tokens came back: the class token has no place in the picture, 6 visual ones stay"
    )
    expect_shape(found, (2, 6, 4), "the answer to 1 + 6 tokens of width 4")
    linear = module.project(torch.cat([visual, cls], -1))
    expect_not_close(found, linear, "The GELU is missing behind the linear map")
    expect_not_close(
        found,
        gelu(module.project(torch.cat([cls, visual], -1))),
        "CLS stands first in each pair. DPT has the token first: [token, CLS]",
    )
    last = tokens[:, -1:].expand(2, 6, 4)
    expect_not_close(
        found,
        gelu(module.project(torch.cat([tokens[:, :-1], last], -1))),
        "The *last* token is taken for the class token. It is the first",
    )
    expect_close(found, gelu(linear), "2 pictures, 1 + 6 tokens of width 4")


@wrong_answer("10.1", says="CLS stands first")
def read_cls_first(self, tokens):
    cls, visual = tokens[:, :1], tokens[:, 1:]
    return gelu(self.project(torch.cat([cls.expand_as(visual), visual], -1)))


@wrong_answer("10.1", says="GELU is missing")
def read_without_gelu(self, tokens):
    cls, visual = tokens[:, :1], tokens[:, 1:]
    return self.project(torch.cat([visual, cls.expand_as(visual)], -1))


@wrong_answer("10.1", says="7 tokens came back")
def read_keeps_cls(self, tokens):
    return gelu(self.project(torch.cat([tokens, tokens[:, :1].expand_as(tokens)], -1)))


@wrong_answer("10.1", says="last")
def read_last_token(self, tokens):
    visual = tokens[:, :-1]
    return gelu(self.project(torch.cat([visual, tokens[:, -1:].expand_as(visual)], -1)))


# ----------------------------------------------------------------------------------------------- 10.2 the decoder block
def block_inputs():
    block = david.DecoderBlock(4, 3)
    return block, torch.randn(2, 4, 3, 5), torch.randn(2, 3, 12, 9), torch.randn(2, 4, 6, 4)


@check_for("10.2")
def decoder_block(answer):
    block, encoded, detail, before = block_inputs()
    found = answer(block, encoded, detail, before)
    expect_type(found, Tensor, "d^l")
    expect_shape(found, (2, 4, 12, 9), "d^l for a resizer's map of 12 x 9")
    learned = david.resized(block.learned(encoded), before)

    def finished(inner: Tensor) -> Tensor:
        return block.mix(torch.cat([detail, david.resized(inner, detail)], 1))

    mistakes = {
        "The inner RConv is missing: the encoder's picture goes through self.learned first": (
            finished(block.fused(before + david.resized(encoded, before)))
        ),
        "The outer RConv is missing: the sum goes through self.fused": finished(before + learned),
        "The block before is not added": finished(block.fused(learned)),
        "The order of equation 2 is [r, Interp(d_int)]: the resizer's map stands first": (
            block.mix(torch.cat([david.resized(block.fused(before + learned), detail), detail], 1))
        ),
        "The two RConvs have changed places: self.learned is the inner one": (
            finished(block.learned(before + david.resized(block.fused(encoded), before)))
        ),
        "RConv and Interp have changed places: RConv(e) first, then its resizing": (
            finished(block.fused(before + block.learned(david.resized(encoded, before))))
        ),
        "The fused map is enlarged before its RConv. Equation 2: RConv(…) at the small size, then Interp": (
            block.mix(torch.cat([detail, block.fused(david.resized(before + learned, detail))], 1))
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, finished(block.fused(before + learned)), "a block with one before it")
    first = answer(block, encoded, detail)
    expect_close(first, finished(block.fused(block.learned(encoded))), "the first block, with nobody before it")


@wrong_answer("10.2", says="inner RConv is missing")
def block_without_inner(self, encoded, detail, before=None):
    total = encoded if before is None else before + david.resized(encoded, before)
    return self.mix(torch.cat([detail, david.resized(self.fused(total), detail)], 1))


@wrong_answer("10.2", says="stands first")
def block_order(self, encoded, detail, before=None):
    total = self.learned(encoded)
    total = total if before is None else before + david.resized(total, before)
    return self.mix(torch.cat([david.resized(self.fused(total), detail), detail], 1))


@wrong_answer("10.2", says="not added")
def block_replaces(self, encoded, detail, before=None):
    total = self.learned(encoded)
    total = total if before is None else david.resized(total, before)
    return self.mix(torch.cat([detail, david.resized(self.fused(total), detail)], 1))


@wrong_answer("10.2", says="the first block")
def block_first_twice(self, encoded, detail, before=None):
    total = self.learned(encoded)
    total = total + (total if before is None else 0)
    total = total if before is None else before + david.resized(total, before)
    return self.mix(torch.cat([detail, david.resized(self.fused(total), detail)], 1))


# ------------------------------------------------------------------------------------------------------------ 10.3 Dice
@check_for("10.3")
def dice(answer):
    alpha, target = torch.rand(3, 4, 5), (torch.rand(3, 4, 5) > 0.5).float()
    target[1] *= 0.2
    both, each = (alpha * target).sum((1, 2)), (alpha.sum((1, 2)), target.sum((1, 2)))
    found = answer(alpha, target)
    mistakes = {
        "The sums run over the whole batch. Dice is taken for each picture by itself, then the mean": (
            1 - (2 * both.sum() + 1) / (alpha.sum() + target.sum() + 1)
        ),
        "The 1 above and below is missing": (1 - 2 * both / (each[0] + each[1])).mean(),
        "The intersection must count twice: 2 Σ α̂ α": (1 - (both + 1) / (each[0] + each[1] + 1)).mean(),
        "That is the Dice score. The loss is 1 minus it": ((2 * both + 1) / (each[0] + each[1] + 1)).mean(),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, (1 - (2 * both + 1) / (each[0] + each[1] + 1)).mean(), "3 pictures of 4 x 5")
    nobody = torch.zeros(2, 4, 5)
    expect_close(answer(nobody, nobody), torch.zeros(()), "two pictures without anybody, and nobody found")
    free = alpha.clone().requires_grad_()
    expect_gradient(answer(free, target), free, "the gradient")


@wrong_answer("10.3", says="whole batch")
def dice_of_batch(alpha, target):
    return 1 - (2 * (alpha * target).sum() + 1) / (alpha.sum() + target.sum() + 1)


@wrong_answer("10.3", says="is missing")
def dice_without_one(alpha, target):
    return (1 - 2 * (alpha * target).sum((1, 2)) / (alpha + target).sum((1, 2))).mean()


@wrong_answer("10.3", says="1 minus it")
def dice_score(alpha, target):
    return ((2 * (alpha * target).sum((1, 2)) + 1) / ((alpha + target).sum((1, 2)) + 1)).mean()


@wrong_answer("10.3", says="count twice")
def dice_once(alpha, target):
    return (1 - ((alpha * target).sum((1, 2)) + 1) / ((alpha + target).sum((1, 2)) + 1)).mean()


# ----------------------------------------------------------------------------------------------- 10.4 Laplacian pyramid
def own_pyramid(maps: Tensor, levels: int, pooled: str = "smooth", ceil: bool = True) -> list[Tensor]:
    """Equation 10.3, or with one of its pieces done wrong."""
    pyramid = []
    for _ in range(levels):
        smooth = david.blurred(maps)
        pyramid.append(maps - smooth)
        maps = avg_pool2d(smooth if pooled == "smooth" else maps, 2, ceil_mode=ceil)
    return [*pyramid, maps]


@check_for("10.4")
def pyramid(answer):
    maps = torch.rand(2, 1, 11, 16)
    before, found = maps.clone(), answer(maps, 3)
    expect_type(found, list, "the pyramid of three levels")
    expect(len(found) != 3, "3 maps came back: the rest, what is left after the last level, belongs to it, too")
    expect_length(found, 4, "the pyramid of three levels")
    right = own_pyramid(maps, 3)
    expect(tuple(found[1].shape[-2:]) != (5, 8), "11 rows became 5: ceil_mode=True keeps the last row of an odd height")
    for number, (one, true) in enumerate(zip(found, right, strict=True)):
        expect_shape(one, true.shape, f"map {number}")
    expect_not_close(found[0], -right[0], "The detail has the wrong sign: x − G(x)")
    expect_not_close(found[0], david.blurred(maps), "That is the blurred map. The detail is what the blur removes")
    expect_not_close(
        found[1],
        own_pyramid(maps, 3, pooled="maps")[1],
        "The next level begins with the map itself, made smaller. It is the *blurred* map that is made smaller",
    )
    expect_close(found, right, "the pyramid of three levels", atol=1e-5)
    expect_length(answer(maps), 6, "the pyramid of five levels")
    expect_finite(answer(torch.rand(1, 1, 1, 1), 2)[-1], "a picture of one pixel")
    expect_unchanged(maps, before, "the map")


@wrong_answer("10.4", says="the rest")
def pyramid_without_rest(maps, levels=5):
    return own_pyramid(maps, levels)[:-1]


@wrong_answer("10.4", says="blurred\\* map")
def pyramid_pools_the_map(maps, levels=5):
    return own_pyramid(maps, levels, pooled="maps")


@wrong_answer("10.4", says="ceil_mode")
def pyramid_drops_rows(maps, levels=5):
    return own_pyramid(maps, levels, ceil=False)


@wrong_answer("10.4", says="what the blur removes")
def pyramid_gaussian(maps, levels=5):
    found = []
    for _ in range(levels):
        maps = david.blurred(maps)
        found.append(maps)
        maps = avg_pool2d(maps, 2, ceil_mode=True)
    return [*found, maps]


# ---------------------------------------------------------------------------------------------------- 10.5 closed form
def fits() -> tuple[Tensor, Tensor, Tensor]:
    prediction, target = torch.rand(3, 6, 5), torch.rand(3, 6, 5)
    return prediction, target, torch.rand(3, 6, 5) > 0.3


def by_lstsq(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """s and t of each picture, by another way."""
    rows = []
    for p, d, m in zip(prediction, target, mask, strict=True):
        columns = torch.stack([p[m], torch.ones_like(p[m])], 1).double()
        rows.append(torch.linalg.lstsq(columns, d[m][:, None].double()).solution[:, 0].float())
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


@check_for("10.5")
def closed_form(answer):
    prediction, target, mask = fits()
    found, right = answer(prediction, target, mask), by_lstsq(prediction, target, mask)
    expect_length(found, 2, "scale and shift")
    for value, name in zip(found, ("s", "t"), strict=True):
        expect_type(value, Tensor, name)
        expect(value.ndim != 0, f"{name} is one number for the whole batch. Each picture has its own: (B,)")
        expect_shape(value, (3,), name)
    everywhere = by_lstsq(prediction, target, torch.ones_like(mask))
    expect_not_close(found[0], everywhere[0], "All pixels are fitted. Only those of the mask count", atol=1e-4)
    backwards = by_lstsq(target, prediction, mask)
    expect_not_close(
        found[0], backwards[0], "Prediction and target have changed places: s p + t is to fit d", atol=1e-4
    )
    expect_close(found, right, "three pictures against lstsq", atol=1e-4)
    far = answer(prediction + 1000, target, mask)
    expect(
        torch.allclose(far[0], right[0], atol=0.02),
        f"With 1000 added to the answer s is {far[0][0]:.3f}, {right[0][0]:.3f} was expected: large sums are "
        "subtracted from each other. Take the means off first",
    )
    tiny, _ = answer(prediction * 1e-3, target, mask)
    expect(
        torch.allclose(tiny * 1e-3, right[0], rtol=0.02, atol=1e-3),
        f"An answer a thousandth as large has s = {tiny[0]:.1f}, {1000 * right[0][0]:.1f} was expected: nothing may be "
        "added to the variance, and no fixed number keeps it from being small",
    )
    constant = torch.full_like(prediction, 0.3, requires_grad=True)
    s, t = answer(constant, target, mask)
    mean = (target * mask).sum((1, 2)) / mask.sum((1, 2))
    expect_close((s, t), (torch.zeros(3), mean), "an answer without any variation")
    expect_gradient(s + t, constant, "an answer without any variation, the gradient")
    nobody = answer(prediction, target, torch.zeros_like(mask))
    expect_close(nobody, (torch.zeros(3), torch.zeros(3)), "an empty mask")
    free = prediction.clone().requires_grad_()
    expect_gradient(sum(answer(free, target, mask)), free, "the gradient")
    expect_gradient(answer(free, target, mask)[0], free, "the gradient through s alone")


@wrong_answer("10.5", says="nothing may be added")
def fit_with_a_constant(prediction, target, mask):
    weight = mask / mask.sum((1, 2), keepdim=True).clamp(min=1)
    p_mean, d_mean = (prediction * weight).sum((1, 2)), (target * weight).sum((1, 2))
    p, d = prediction - p_mean[:, None, None], target - d_mean[:, None, None]
    s = (weight * p * d).sum((1, 2)) / ((weight * p * p).sum((1, 2)) + 1e-6)
    return s, d_mean - s * p_mean


@wrong_answer("10.5", says="through s alone")
def fit_with_s_held(prediction, target, mask):
    s, _ = david.align_scale_shift(prediction, target, mask)
    weight = mask / mask.sum((1, 2), keepdim=True).clamp(min=1)
    return s.detach(), ((target - s.detach()[:, None, None] * prediction) * weight).sum((1, 2))


@wrong_answer("10.5", says="Only those of the mask")
def fit_everywhere(prediction, target, mask):
    return david.align_scale_shift(prediction, target, torch.ones_like(mask))


@wrong_answer("10.5", says="large sums")
def fit_by_cramer(prediction, target, mask):
    m = mask.to(prediction)
    a00, a01, a11 = (m * prediction**2).sum((1, 2)), (m * prediction).sum((1, 2)), m.sum((1, 2))
    b0, b1 = (m * prediction * target).sum((1, 2)), (m * target).sum((1, 2))
    det = a00 * a11 - a01**2
    return (a11 * b0 - a01 * b1) / det, (a00 * b1 - a01 * b0) / det


@wrong_answer("10.5", says="changed places")
def fit_backwards(prediction, target, mask):
    return david.align_scale_shift(target, prediction, mask)


@wrong_answer("10.5", says="without any variation")
def fit_divides_by_zero(prediction, target, mask):
    weight = mask / mask.sum((1, 2), keepdim=True).clamp(min=1)
    p_mean, d_mean = (prediction * weight).sum((1, 2)), (target * weight).sum((1, 2))
    p, d = prediction - p_mean[:, None, None], target - d_mean[:, None, None]
    s = (weight * p * d).sum((1, 2)) / (weight * p * p).sum((1, 2))
    return s, d_mean - s * p_mean


# --------------------------------------------------------------------------------------------------- 10.6 gradient term
def own_gradient(residual: Tensor, mask: Tensor, scales: int = 4, **wrong) -> Tensor:
    """Equation 10.6 by loops over pixels, or with one of its pieces done wrong."""
    totals = []
    for picture, human in zip(residual, mask.float(), strict=True):
        total = 0.0
        for k in range(scales):
            step = 1 if wrong.get("one_scale") else 2**k
            r, m = picture[::step, ::step], human[::step, ::step]
            both = torch.ones_like(m) if wrong.get("no_mask") else m
            value = sum(
                (r[y, x] - r[y - dy, x - dx]).abs()
                * (both[y, x] if wrong.get("one") != "before" else 1)
                * (both[y - dy, x - dx] if wrong.get("one") != "after" else 1)
                for dy, dx in ((0, 1), (1, 0))
                for y in range(dy, r.shape[0])
                for x in range(dx, r.shape[1])
            )
            total = total + value / (human if wrong.get("whole") else m).sum().clamp(min=1)
        totals.append(torch.as_tensor(total))
    return torch.stack(totals)


@check_for("10.6")
def gradient_term(answer):
    residual, mask = torch.randn(2, 9, 8), torch.rand(2, 9, 8) > 0.25
    found, right = answer(residual, mask), own_gradient(residual, mask)
    expect_type(found, Tensor, "the term of two pictures")
    expect(found.ndim != 0, "One number came back for the batch. Each picture has its own: (B,)")
    expect_shape(found, (2,), "the term of two pictures")
    mistakes = {
        "The mask is missing: differences with and between pixels outside count": own_gradient(
            residual, mask, no_mask=True
        ),
        "A difference counts if only one of its pixels is human. Both must be": own_gradient(
            residual, mask, one="after"
        ),
        "A difference counts if only its first pixel is human. Both must be": own_gradient(
            residual, mask, one="before"
        ),
        "All four scales are the same: take every 2^k-th row and column": own_gradient(residual, mask, one_scale=True),
        "The human pixels of the whole picture are divided by. Those of the scale are meant": own_gradient(
            residual, mask, whole=True
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, right, "two pictures of 9 x 8")
    large, known = torch.randn(1, 20, 18), torch.rand(1, 20, 18) > 0.2
    expect_close(answer(large, known), david.gradient_loss(large, known), "a picture of 20 x 18: four scales")
    expect_close(answer(large, known, 2), david.gradient_loss(large, known, 2), "the same with two scales")
    expect_close(answer(residual, torch.zeros_like(mask)), torch.zeros(2), "an empty mask")
    expect_close(answer(torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)), torch.zeros(1), "one pixel")
    free = residual.clone().requires_grad_()
    expect_gradient(answer(free, mask), free, "the gradient")


@wrong_answer("10.6", says="Both must be")
def gradient_one_pixel(residual, mask, scales=4):
    total = 0
    for step in (2**k for k in range(scales)):
        r, m = residual[:, ::step, ::step], mask[:, ::step, ::step].float()
        across, down = (r[:, :, 1:] - r[:, :, :-1]).abs() * m[:, :, 1:], (r[:, 1:] - r[:, :-1]).abs() * m[:, 1:]
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / m.sum((1, 2)).clamp(min=1)
    return total


@wrong_answer("10.6", says="only its first pixel")
def gradient_first_pixel(residual, mask, scales=4):
    total = 0
    for step in (2**k for k in range(scales)):
        r, m = residual[:, ::step, ::step], mask[:, ::step, ::step].float()
        across, down = (r[:, :, 1:] - r[:, :, :-1]).abs() * m[:, :, :-1], (r[:, 1:] - r[:, :-1]).abs() * m[:, :-1]
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / m.sum((1, 2)).clamp(min=1)
    return total


@wrong_answer("10.6", says="mask is missing")
def gradient_without_mask(residual, mask, scales=4):
    total = 0
    for step in (2**k for k in range(scales)):
        r, m = residual[:, ::step, ::step], mask[:, ::step, ::step].float()
        across, down = (r[:, :, 1:] - r[:, :, :-1]).abs(), (r[:, 1:] - r[:, :-1]).abs()
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / m.sum((1, 2)).clamp(min=1)
    return total


@wrong_answer("10.6", says="Each picture has its own")
def gradient_of_batch(residual, mask, scales=4):
    return david.gradient_loss(residual, mask, scales).mean()


@wrong_answer("10.6", says="four scales")
def gradient_three_scales(residual, mask, scales=4):
    return david.gradient_loss(residual, mask, scales - 1)


@wrong_answer("10.6", says="four scales are the same")
def gradient_one_scale(residual, mask, scales=4):
    return scales * david.gradient_loss(residual, mask, 1)


# ---------------------------------------------------------------------------------------------------- 10.7 connectivity
def two_blobs() -> tuple[np.ndarray, np.ndarray]:
    """A large and a small blob, both soft; in the truth the large one is thinner, the small one fainter."""
    y, x = np.mgrid[:20, :24]
    large = np.clip(1.35 - np.hypot(y - 9, x - 7) / 6, 0, 1)
    small = np.clip(0.95 - np.hypot(y - 12, x - 19) / 4, 0, 1)
    thinner = np.clip(1.2 - np.hypot(y - 9, x - 8) / 6, 0, 1)
    return np.maximum(large, small), np.maximum(thinner, 0.6 * small)


def own_level(prediction: np.ndarray, target: np.ndarray, **wrong) -> np.ndarray:
    level, inside = np.ones(prediction.shape), np.ones(prediction.shape, bool)
    structure = np.ones((3, 3)) if wrong.get("eight") else None
    for k in range(1, 11):
        threshold = david.THRESHOLDS[k]
        reached = (prediction >= threshold) & ((target >= threshold) | bool(wrong.get("one_map")))
        pieces, count = label(reached, structure)
        if count == 0:
            break
        piece = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        piece = reached if wrong.get("all_pieces") else piece
        level[(inside | bool(wrong.get("over"))) & ~piece] = david.THRESHOLDS[k if wrong.get("late") else k - 1]
        inside &= piece
    return level


@check_for("10.7")
def connected(answer):
    prediction, target = two_blobs()
    before, found = prediction.copy(), answer(prediction, target)
    expect_type(found, np.ndarray, "the levels of two blobs")
    expect_shape(found, prediction.shape, "the levels of two blobs")
    mistakes = {
        "Every piece counts as connected. Only the largest one does": own_level(prediction, target, all_pieces=True),
        "The level is the threshold at which a pixel drops out. It is the one before": own_level(
            prediction, target, late=True
        ),
        "Only the answer has to reach the threshold. Both maps must": own_level(prediction, target, one_map=True),
        "Each threshold writes over what the ones before have said. Only who drops out now gets a level": own_level(
            prediction, target, over=True
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(torch.from_numpy(found), mistake, words)
    expect_close(found.astype(np.float64), own_level(prediction, target), "the levels of two blobs")
    jump = np.zeros((9, 20))  # the larger blob drops out first, and comes second in the order of pixels
    jump[2:8, 11:19], jump[0:3, 2:5] = 0.5, 1.0
    expect_close(
        answer(jump, jump).astype(np.float64),
        own_level(jump, jump),
        "a large faint and a small bright blob: who is out stays out, and the largest piece need not be the first",
    )
    nobody = np.zeros((6, 6))
    expect_close(
        answer(nobody, target[:6, :6]), np.ones((6, 6)), "an empty answer (a threshold that nobody reaches is skipped)"
    )
    expect(bool((prediction == before).all()), "the answer was changed in place. Work on a copy")


@wrong_answer("10.7", says="Only the largest")
def level_all_pieces(prediction, target):
    return own_level(prediction, target, all_pieces=True)


@wrong_answer("10.7", says="writes over")
def level_overwritten(prediction, target):
    return own_level(prediction, target, over=True)


@wrong_answer("10.7", says="It is the one before")
def level_late(prediction, target):
    return own_level(prediction, target, late=True)


@wrong_answer("10.7", says="Both maps must")
def level_one_map(prediction, target):
    return own_level(prediction, target, one_map=True)


@wrong_answer("10.7", says="out stays out")
def level_among_those_inside(prediction, target):
    level, inside = np.ones(prediction.shape), np.ones(prediction.shape, bool)
    for below, threshold in zip(david.THRESHOLDS[:-1], david.THRESHOLDS[1:], strict=True):
        piece = david.largest_piece(inside & (prediction >= threshold) & (target >= threshold))
        if not piece.any():
            break
        level[inside & ~piece] = below
        inside &= piece
    return level


@wrong_answer("10.7", says="skipped")
def level_zero_where_empty(prediction, target):
    level = own_level(prediction, target)
    return level if prediction.any() else np.zeros_like(level)


# ------------------------------------------------------------------------------------------------------ 10.8 can it be?
@check_for("10.8")
def can_it_be(answer):
    values, counts = [0.140, 0.283, 0.334, 0.072], [736, 768, 768, 1195]
    said = answer(values, counts, 0.191)
    expect_type(said, (bool, np.bool_), "the verdict on DAViD-Large")
    expect(
        said, "0.191 for DAViD-Large is the mean by pictures (0.1912), but the verdict is no. Are counts the weights?"
    )
    expect(not answer(values, counts, 0.207), "0.207 is the plain mean of four columns, but the verdict is yes")
    base = answer([0.142, 0.316, 0.376, 0.085], counts, 0.212)
    expect(
        base,
        "0.212 for DAViD-Base was refused: the mean of the printed numbers is 0.2127, but the true ones may all be "
        "smaller by half a unit of the last digit, and the mean was rounded, too",
    )
    expect(not answer([1.0, 2.0], [1, 1], 1.502), "1.502 as the mean of 1.000 and 2.000: two units off is too much")
    rounded = not answer([0.301, 0.302, 0.301], [1, 1, 1], 0.300)
    expect(rounded, "0.300 as the mean of 0.301, 0.302, 0.301 (0.3013): too much. Don't round the mean first")
    expect(answer([15.24, 15.24], [1, 3], 15.25, 2), "15.25 as the mean of two 15.24, two digits: one unit can be")
    expect(not answer([15.24, 15.24], [1, 3], 15.26, 2), "15.26 as the mean of two 15.24, two digits: that can't be")
    expect(
        answer([0.3, 0.3], [1, 1], 0.301), "0.301 as the mean of two 0.300: exactly one unit. Allow for rounding, 1e-9"
    )


@wrong_answer("10.8", says="by half a unit")
def be_if_equal(values, counts, printed, digits=3):
    return round(sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts), digits) == printed


@wrong_answer("10.8", says="weights")
def be_plain(values, counts, printed, digits=3):
    return abs(sum(values) / len(values) - printed) <= 10**-digits + 1e-9


@wrong_answer("10.8", says="Don't round")
def be_rounded(values, counts, printed, digits=3):
    mean = sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts)
    return abs(round(mean, digits) - printed) <= 10**-digits + 1e-9


@wrong_answer("10.8", says="that can't be|too much")
def be_generous(values, counts, printed, digits=3):
    return abs(sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts) - printed) <= 3 * 10**-digits


# ------------------------------------------------------------------------------------------------------ 10.9 relighting
@check_for("10.9")
def relighting(answer):
    image, light = torch.rand(3, 4, 5), torch.tensor([0.0, 3.0, 4.0])
    normals = torch.nn.functional.normalize(torch.randn(3, 4, 5), dim=0)
    cosine = (normals * torch.tensor([0.0, 0.6, 0.8])[:, None, None]).sum(0)
    before, found = image.clone(), answer(image, normals, light, 0.2)
    mistakes = {
        "The light isn't brought to length 1": image * (0.2 + 0.8 * (5 * cosine).clamp(min=0)),
        "Surfaces that face away from the light get less than the ambient share: the cosine needs max(0, …)": (
            image * (0.2 + 0.8 * cosine)
        ),
        "The ambient share comes on top: a + (1 − a) max(0, cos), so that full light is 1": (
            image * (0.2 + cosine.clamp(min=0))
        ),
        "The ambient share is missing": image * cosine.clamp(min=0),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, image * (0.2 + 0.8 * cosine.clamp(min=0)), "a picture with a light of length 5")
    expect_unchanged(image, before, "the picture")


@wrong_answer("10.9", says="length 1")
def relit_long_light(image, normals, light, ambient=0.3):
    cosine = torch.einsum("chw,c->hw", normals, light).clamp(min=0)
    return image * (ambient + (1 - ambient) * cosine)


@wrong_answer("10.9", says="face away")
def relit_negative(image, normals, light, ambient=0.3):
    cosine = torch.einsum("chw,c->hw", normals, light / light.norm())
    return image * (ambient + (1 - ambient) * cosine)


@wrong_answer("10.9", says="on top")
def relit_too_bright(image, normals, light, ambient=0.3):
    cosine = torch.einsum("chw,c->hw", normals, light / light.norm()).clamp(min=0)
    return image * (ambient + cosine)


# ------------------------------------------------------------------------------------------------- 10.10 2.5 dimensions
@check_for("10.10")
def points(answer):
    depth, mask, K = torch.rand(5, 6) * 3 - 7, torch.rand(5, 6) > 0.4, david.guessed_camera((5, 6))
    depth[~mask] = 50.0  # what is outside must not matter
    found = answer(depth, mask, K, 1.0, 1.5)
    count = int(mask.sum())
    expect_type(found, Tensor, f"the points of {count} pixels")
    expect(found.shape != (3, count), "(3, M) came back: transpose, a point a row")
    expect(len(found) != 30, "All 30 pixels came back. Only those of the mask have a depth")
    expect_shape(found, (count, 3), f"the points of {count} pixels")
    z = found[:, 2]
    expect(
        not torch.allclose(z.amin(), z.new_tensor(1.0)) or z.amax() > 1.1,
        "The range was taken from all pixels. Nearest and farthest are those of the mask",
    )
    metres = 1 + 0.5 * (depth[mask] - depth[mask].min()) / (depth[mask].max() - depth[mask].min())
    expect_not_close(z, 2.5 - metres, "Near and far have changed places: far is large")
    expect_close(z, metres, "the depth of the points")
    v, u = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    x, y = (u[mask] - K[0, 2]) / K[0, 0] * metres, (v[mask] - K[1, 2]) / K[1, 1] * metres
    expect_close(found, torch.stack([x, y, metres], 1), "the points")
    narrow = answer(depth * 0.1, mask, K, 1.0, 1.5)
    expect_close(narrow, found, "a depth with a tenth of the range: its scale must not matter")
    flat = answer(torch.ones(5, 6), mask, K, 1.0, 1.5)
    expect_close(flat[:, 2], torch.ones(count), "a depth without any variation: all at `near`")
    expect_shape(answer(depth, torch.zeros_like(mask), K, 1.0, 1.5), (0, 3), "an empty mask")


@wrong_answer("10.10", says="of the mask")
def points_range_of_all(depth, mask, K, near, far):
    if not mask.any():
        return depth.new_zeros(0, 3)
    metres = near + (far - near) * (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=1e-6)
    return david.unproject(metres[None], K[None])[0][:, mask].T


@wrong_answer("10.10", says="scale must not matter")
def points_of_a_wide_range(depth, mask, K, near, far):
    if not mask.any():
        return depth.new_zeros(0, 3)
    low, high = depth[mask].min(), depth[mask].max()
    metres = near + (far - near) * (depth - low) / (high - low).clamp(min=1)
    return david.unproject(metres[None], K[None])[0][:, mask].T


@wrong_answer("10.10", says="changed places")
def points_inverted(depth, mask, K, near, far):
    return david.lifted(-depth, mask, K, near, far)


@wrong_answer("10.10", says="transpose")
def points_as_rows(depth, mask, K, near, far):
    return david.lifted(depth, mask, K, near, far).T


@wrong_answer("10.10", says="All 30")
def points_everywhere(depth, mask, K, near, far):
    low, high = depth[mask].min(), depth[mask].max()
    metres = near + (far - near) * (depth - low) / (high - low)
    return david.unproject(metres[None], K[None])[0].flatten(1).T

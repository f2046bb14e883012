"""Chapter 10's losses against independent formulas, and what they make of pictures without anybody or of one pixel."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy, normalize

from course_lib.chapters.david_models import (
    align_scale_shift,
    can_be,
    connected_level,
    cosine_normal_loss,
    dice_loss,
    gradient_loss,
    laplacian_loss,
    laplacian_pyramid,
    scale_shift_invariant_loss,
    soft_foreground_loss,
    targets,
)
from course_lib.chapters.sapiens_dense import relative_depth
from course_lib.metrics.matting import connectivity_error


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def finite_gradient(loss, source):
    (gradient,) = torch.autograd.grad(loss, source)
    return loss.isfinite().all() and gradient.isfinite().all()


# ---------------------------------------------------------- the soft foreground
def test_equation_3_is_the_sum_of_its_terms():
    logits, target = torch.randn(2, 20, 23), torch.rand(2, 20, 23)
    alpha = logits.sigmoid()
    dice = 1 - (2 * (alpha * target).sum((1, 2)) + 1) / (alpha.sum((1, 2)) + target.sum((1, 2)) + 1)
    lap = laplacian_loss(alpha, target)
    plain = binary_cross_entropy(alpha, target) + (alpha - target).abs().mean() + dice.mean()
    for weight in (0.0, 0.5):
        assert torch.allclose(soft_foreground_loss(logits, target, weight), plain + weight * lap, atol=1e-5)


def test_the_finest_band_is_what_a_gaussian_removes():
    maps = torch.zeros(1, 1, 9, 9)
    maps[0, 0, 4, 4] = 1.0
    kernel = np.exp(-np.square(np.arange(-2, 3)) / 2)
    kernel /= kernel.sum()
    band = laplacian_pyramid(maps)[0][0, 0]
    assert band[4, 4].item() == pytest.approx(1 - kernel[2] ** 2, abs=1e-6)
    assert band[4, 5].item() == pytest.approx(-kernel[2] * kernel[3], abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4), (64, 33)])
def test_a_pyramid_exists_for_every_size(size):
    pyramid = laplacian_pyramid(torch.rand(2, 1, *size))
    assert len(pyramid) == 6
    for number, band in enumerate(pyramid):
        assert tuple(band.shape[2:]) == tuple(math.ceil(side / 2**number) for side in size)
        assert band.isfinite().all()


def test_details_cost_more_by_the_pyramid_than_by_l1():
    truth = torch.zeros(1, 64, 64)
    truth[:, :, ::2] = 1.0  # hairs
    grey, shifted = torch.full_like(truth, 0.5), truth.clone()
    shifted[:, :32] = 1 - shifted[:, :32]
    assert (grey - truth).abs().mean() == (shifted - truth).abs().mean()
    assert laplacian_loss(grey, truth) < laplacian_loss(shifted, truth)


@pytest.mark.parametrize("target", [torch.zeros(2, 8, 8), torch.ones(2, 8, 8)], ids=["nobody", "everywhere"])
def test_a_foreground_that_is_empty_or_full_has_a_loss(target):
    logits = torch.randn(2, 8, 8, requires_grad=True)
    assert finite_gradient(soft_foreground_loss(logits, target), logits)
    right = soft_foreground_loss(40 * (target - 0.5), target)
    assert right < 1e-4


def test_alpha_outside_of_its_range_counts_as_its_end():
    logits, target = torch.randn(1, 6, 6), torch.rand(1, 6, 6)
    wild = target.clone()
    wild[0, 0], wild[0, 1] = 1.7, -0.4
    kept = wild.clamp(0, 1)
    assert torch.equal(soft_foreground_loss(logits, wild), soft_foreground_loss(logits, kept))


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="divide by 255"):
        soft_foreground_loss(torch.randn(1, 6, 6), torch.zeros(1, 6, 6, dtype=torch.uint8))


def test_huge_logits_make_no_nan():
    logits = torch.tensor([[[1e4, -1e4], [1e4, -1e4]]], requires_grad=True)
    assert finite_gradient(soft_foreground_loss(logits, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])), logits)


@pytest.mark.parametrize(
    "loss, shape", [(soft_foreground_loss, ()), (scale_shift_invariant_loss, ()), (cosine_normal_loss, (3,))]
)
def test_pictures_of_another_size_are_refused(loss, shape):
    with pytest.raises(ValueError, match="one size"):
        loss(torch.rand(2, *shape, 8, 8), torch.rand(2, *shape, 8, 9))


@pytest.mark.parametrize(
    "loss, shape", [(soft_foreground_loss, ()), (scale_shift_invariant_loss, ()), (cosine_normal_loss, (3,))]
)
def test_a_picture_of_one_pixel_has_a_loss(loss, shape):
    answer = torch.randn(1, *shape, 1, 1, requires_grad=True)
    target = normalize(torch.rand(1, 3, 1, 1), dim=1) if shape else torch.full((1, 1, 1), 0.5)
    assert finite_gradient(loss(answer, target), answer)


# ---------------------------------------------------------- normals
def test_the_cosine_of_known_angles():
    target = torch.zeros(1, 3, 1, 4)
    target[0, 2] = 1.0
    target[..., 3] = 0.0  # nobody
    angles = torch.tensor([0.0, 60.0, 180.0, 90.0]).deg2rad()
    answer = 5 * torch.stack([angles.sin(), 0 * angles, angles.cos()]).view(1, 3, 1, 4)
    assert cosine_normal_loss(answer, target).item() == pytest.approx((0 + 0.5 + 2) / 3, abs=1e-6)


def test_normals_without_anybody_not_finite_or_of_no_length():
    answer = torch.zeros(1, 3, 4, 4, requires_grad=True)
    nobody = torch.zeros(1, 3, 4, 4)
    assert cosine_normal_loss(answer, nobody) == 0 and finite_gradient(cosine_normal_loss(answer, nobody), answer)
    target = nobody.clone()
    target[:, 2, :2] = 1.0
    target[:, :, 3] = math.nan
    loss = cosine_normal_loss(answer, target)
    assert loss == 1 and finite_gradient(loss, answer)


# ---------------------------------------------------------- depth
def test_the_closed_form_is_least_squares():
    p, d, mask = torch.rand(4, 7, 6), torch.rand(4, 7, 6), torch.rand(4, 7, 6) > 0.3
    for i, (s, t) in enumerate(zip(*align_scale_shift(p, d, mask), strict=True)):
        columns = torch.stack([p[i][mask[i]], torch.ones(int(mask[i].sum()))], 1)
        expected = torch.linalg.lstsq(columns, d[i][mask[i]][:, None]).solution[:, 0]
        assert torch.allclose(torch.stack([s, t]), expected, atol=1e-4)


def test_weights_of_a_soft_mask_are_weights():
    p, d = torch.rand(1, 5, 5), torch.rand(1, 5, 5)
    weight = torch.randint(0, 4, (1, 5, 5)).float()
    repeated = [x.repeat_interleave(weight.flatten().long())[None, None] for x in (p.flatten(), d.flatten())]
    expected = align_scale_shift(*repeated, torch.ones_like(repeated[0]))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(align_scale_shift(p, d, weight), expected, strict=True))


def test_scale_shift_and_sign_are_free():
    answer, target = torch.rand(2, 12, 10), torch.rand(2, 12, 10)
    loss = scale_shift_invariant_loss(answer, target)
    for a, b in ((7.0, -3.0), (-1.0, 0.0), (1e-3, 5.0)):
        assert torch.allclose(scale_shift_invariant_loss(a * answer + b, target), loss, rtol=1e-3)
    assert scale_shift_invariant_loss(3 - 2 * target, target) < 1e-6


def test_an_answer_without_variation_gets_the_loss_of_the_mean():
    answer, target = torch.full((1, 8, 8), 0.7, requires_grad=True), torch.rand(1, 8, 8)
    loss = scale_shift_invariant_loss(answer, target, gradient=0.0)
    assert torch.allclose(loss, target.var(correction=0)) and finite_gradient(loss, answer)


def test_people_without_depth_or_no_people_add_nothing():
    flat = torch.full((1, 8, 8), 3.0)
    target = torch.cat([relative_depth(flat), torch.full((1, 8, 8), -1.0), torch.full((1, 8, 8), math.nan)])
    answer = torch.rand(3, 8, 8, requires_grad=True)
    loss = scale_shift_invariant_loss(answer, target)
    assert loss == 0 and finite_gradient(loss, answer)


def test_the_mean_is_over_pictures_with_people():
    answer, target = torch.rand(2, 8, 8), torch.rand(2, 8, 8)
    target[1] = -1.0
    assert torch.allclose(
        scale_shift_invariant_loss(answer, target), scale_shift_invariant_loss(answer[:1], target[:1])
    )


def test_what_is_outside_of_the_mask_does_not_matter():
    answer, target = torch.rand(1, 8, 8), torch.rand(1, 8, 8)
    target[:, :3] = -1.0
    other = answer.clone()
    other[:, :3] = 1e3
    assert torch.allclose(scale_shift_invariant_loss(answer, target), scale_shift_invariant_loss(other, target))


def test_the_gradient_term_of_a_step():
    residual = torch.zeros(1, 4, 4)
    residual[:, :, 2:] = 1.0  # one step of 1 in each of 4 rows; at stride 2 one in 2 rows; none further on
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    assert gradient_loss(residual, everywhere).item() == pytest.approx(4 / 16 + 2 / 4)
    half = everywhere.clone()
    half[:, :, 2:] = False
    assert gradient_loss(residual, half).item() == 0


def test_targets_leave_out_pixels_that_are_hardly_human():
    batch = {
        "image": torch.rand(1, 3, 2, 2),
        "alpha": torch.tensor([[[1.0, 0.9], [0.3, 0.0]]]),
        "depth": torch.tensor([[[2.0, 3.0], [9.0, 0.0]]]),
        "normals": torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2),
    }
    made = targets(batch)
    assert torch.equal(made["depth"], torch.tensor([[[0.0, 1.0], [-1.0, -1.0]]]))
    assert torch.equal(made["normals"][0, 2], torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


# ---------------------------------------------------------- metrics and tables
def test_connectivity_is_the_evaluators():
    rng = np.random.default_rng(0)
    for _ in range(5):
        prediction, target = np.clip(rng.normal(0.5, 0.4, (2, 16, 17)), 0, 1)
        level = connected_level(prediction, target)
        above = [np.where(alpha - level >= 0.15, alpha - level, 0.0) for alpha in (prediction, target)]
        assert np.abs(above[0] - above[1]).sum() / 1000 == pytest.approx(connectivity_error(prediction, target))


def test_a_printed_mean_has_an_interval():
    assert can_be([0.140, 0.283, 0.334, 0.072], [736, 768, 768, 1195], 0.191)
    assert not can_be([0.140, 0.283, 0.334, 0.072], [1, 1, 1, 1], 0.191)
    assert can_be([0.142, 0.316, 0.376], [1, 1, 1], 0.278) and not can_be([0.142, 0.316, 0.376], [736, 768, 768], 0.278)


def test_dice_pulls_soft_pixels_apart():
    soft = torch.full((1, 8, 8), 0.4)
    soft[:, :4] = 1.0
    answer = soft.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dice_loss(answer, soft), answer)
    score = 1 - dice_loss(soft, soft)
    assert torch.allclose(gradient, (score - 2 * soft) / (2 * soft.sum() + 1), atol=1e-6)

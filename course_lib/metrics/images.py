"""PSNR and SSIM of rendered pictures, by torchmetrics: one number per picture, of all of it, of a box or of a mask.

Pictures are (B, 3, H, W) in [0, 1], mask (B, H, W), box (B, 4) = left, top, right, bottom in pixels. HumanRAM does not
say which it prints: print the whole picture on white and the box around the person.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.metrics.common import as_maps, require_finite, require_shape, require_some

MARGIN = 5  # half of SSIM's window of 11
# The papers' evaluators call scikit-image, which estimates the variances with n - 1 of n = 121. That is the same as
# torchmetrics' SSIM with a smaller constant: (2 s cov + c) / (s var + c) = (2 cov + c / s) / (var + c / s).
K2 = 0.03 * (120 / 121) ** 0.5


def psnr(prediction: Tensor, target: Tensor, mask: Tensor | None = None, box: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,): of the pixels inside the mask and the box where given.

    The prediction is clipped to [0, 1] first, as LVSM's evaluation does. Infinite where the pictures are equal.
    """
    # here, since its package takes longer to import than PyTorch itself: who measures no picture needs it not
    from torchmetrics.functional.image import peak_signal_noise_ratio

    parts = cut(prediction, target, mask, box)
    return torch.stack([peak_signal_noise_ratio(p[:, m].clamp(0, 1), t[:, m], data_range=1.0) for p, t, m in parts])


def ssim(prediction: Tensor, target: Tensor, mask: Tensor | None = None, box: Tensor | None = None) -> Tensor:
    """Structural similarity, (B,): Gaussian window of 11 (sigma 1.5), the mean over all whole windows in the picture.

    A box is cut out first, as NeuralBody's evaluation does; with a mask the mean is over the windows whose centre is in
    it. Equal to scikit-image's to the 5th digit (float32). ValueError for pictures or boxes smaller than a window.
    """
    return torch.stack([picture_ssim(p, t, m) for p, t, m in cut(prediction, target, mask, box)])


def picture_ssim(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Of one picture (C, H, W) and its mask (H, W)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(mask.shape) <= 2 * MARGIN:
        raise ValueError(f"SSIM's window is 11 x 11 pixels, the picture or box only {tuple(mask.shape)}")
    mask = mask[MARGIN:-MARGIN, MARGIN:-MARGIN]
    require_some("mask, 5 pixels from the edge,", mask[None])
    _, full = structural_similarity_index_measure(
        prediction[None].float(), target[None].float(), data_range=1.0, k2=K2, return_full_image=True
    )
    # torchmetrics mirrors the picture at its edges: those windows are left out, as the papers' evaluators do
    return full[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN][:, mask].mean()


def cut(prediction: Tensor, target: Tensor, mask, box) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each picture's prediction, target (C, h, w) and mask (h, w) inside its box."""
    require_shape("prediction", prediction, None, None, None, None)
    require_shape("target", target, *prediction.shape)
    batch, _, height, width = target.shape
    mask = torch.ones_like(target[:, 0], dtype=torch.bool) if mask is None else as_maps("mask", mask).bool()
    require_shape("mask", mask, batch, height, width)
    require_some("mask", mask)
    require_finite("prediction", prediction)
    require_finite("target", target)
    if ((target < 0) | (target > 1)).any():
        raise ValueError("target must be in [0, 1]: divide by 255")
    box = torch.tensor([[0, 0, width, height]] * batch) if box is None else box
    require_shape("box", box, batch, 4)
    for p, t, m, (left, top, right, bottom) in zip(prediction, target, mask, whole_pixels(box), strict=True):
        rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
        require_some("the mask inside the box", m[rows, columns][None])
        yield p[:, rows, columns], t[:, rows, columns], m[rows, columns]


def whole_pixels(box: Tensor) -> list[list[int]]:
    """(B, 4) -> the smallest boxes of whole pixels around them."""
    require_finite("box", box)
    return torch.cat([box[:, :2].floor(), box[:, 2:].ceil()], 1).long().tolist()


def box_around(mask: Tensor) -> Tensor:
    """The smallest box around each mask (B, H, W) -> (B, 4) left, top, right, bottom. ValueError for an empty mask."""
    mask = as_maps("mask", mask).bool()
    require_some("mask", mask)
    sides = []
    for seen in (mask.any(1), mask.any(2)):  # (B, W), (B, H)
        seen = seen.int()
        sides.append((seen.argmax(1), seen.shape[1] - seen.flip(1).argmax(1)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 1)

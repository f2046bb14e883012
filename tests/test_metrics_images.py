"""PSNR and SSIM against scikit-image; boxes and masks; what cannot be counted."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from course_lib.metrics import box_around, psnr, ssim


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (3, 3, 40, 32): smooth, and predicted with noise of three strengths."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :32] / 10
    target = np.stack([[0.5 + 0.4 * np.sin(x * i + y * c + i) for c in range(3)] for i in range(3)])
    noise = rng.normal(0, 1, target.shape) * np.array([0.02, 0.1, 0.4])[:, None, None, None]
    return torch.from_numpy((target + noise).clip(0, 1)).float(), torch.from_numpy(target).float()


def skimage_ssim(prediction: torch.Tensor, target: torch.Tensor, **options):
    """The call of LVSM's evaluation."""
    p, t = prediction.double().numpy(), target.double().numpy()
    return structural_similarity(t, p, win_size=11, gaussian_weights=True, channel_axis=0, data_range=1.0, **options)


def test_whole_pictures_equal_scikit_image(pictures):
    prediction, target = pictures
    pairs = list(zip(prediction, target, strict=True))
    noise = [peak_signal_noise_ratio(t.numpy(), p.numpy(), data_range=1.0) for p, t in pairs]
    np.testing.assert_allclose(psnr(prediction, target), noise, rtol=1e-5)
    np.testing.assert_allclose(ssim(prediction, target), [skimage_ssim(p, t) for p, t in pairs], atol=1e-5)
    assert ssim(prediction, target)[2] < 0.5 < ssim(prediction, target)[0]


def test_a_box_is_cut_out_first(pictures):
    prediction, target = pictures
    box = torch.tensor([[2.0, 3, 20, 30], [0, 0, 32, 40], [-5, 10.4, 15.2, 99]])
    cuts = [(slice(3, 30), slice(2, 20)), (slice(0, 40), slice(0, 32)), (slice(10, 40), slice(0, 16))]
    pairs = [(p[:, r, c], t[:, r, c]) for p, t, (r, c) in zip(prediction, target, cuts, strict=True)]
    np.testing.assert_allclose(ssim(prediction, target, box=box), [skimage_ssim(p, t) for p, t in pairs], atol=1e-5)
    noise = [-10 * np.log10(((p - t) ** 2).double().mean().item()) for p, t in pairs]
    np.testing.assert_allclose(psnr(prediction, target, box=box), noise, rtol=1e-5)


def test_a_mask_chooses_pixels_and_windows(pictures):
    prediction, target = pictures
    mask = torch.rand(3, 40, 32, generator=torch.Generator().manual_seed(0)) < 0.3
    noise, windows = [], []
    for p, t, m in zip(prediction, target, mask.numpy(), strict=True):
        noise.append(-10 * np.log10(np.mean([(p[c] - t[c]).numpy()[m] ** 2 for c in range(3)])))
        inner = skimage_ssim(p, t, full=True)[1][:, 5:-5, 5:-5]
        windows.append(inner[:, m[5:-5, 5:-5]].mean())
    np.testing.assert_allclose(psnr(prediction, target, mask), noise, rtol=1e-5)
    np.testing.assert_allclose(ssim(prediction, target, mask[:, None]), windows, atol=1e-5)
    box = torch.tensor([[4, 4, 30, 38]] * 3)
    inside = torch.zeros_like(mask)
    inside[:, 4:38, 4:30] = True
    np.testing.assert_allclose(psnr(prediction, target, mask, box), psnr(prediction, target, mask & inside))


def test_predictions_are_clipped_and_equal_pictures_are_infinite(pictures):
    prediction, target = pictures
    assert torch.equal(
        psnr(torch.where(target > 0.8, 7.0, target), target), psnr(target.where(target <= 0.8, 1.0), target)
    )
    assert psnr(target, target).tolist() == [np.inf] * 3
    np.testing.assert_allclose(ssim(target, target), 1)


def test_box_around():
    mask = torch.zeros(2, 10, 12)
    mask[0, 2:5, 3:9] = 1
    mask[1, 9, 11] = 1
    assert box_around(mask).tolist() == [[3, 2, 9, 5], [11, 9, 12, 10]]
    with pytest.raises(ValueError, match=r"mask is true in fewer than 1 places in item \[1\]"):
        box_around(mask * torch.tensor([1.0, 0])[:, None, None])


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_pictures_are_named(metric, pictures):
    prediction, target = pictures
    broken = prediction.clone()
    broken[1, 0, 0, 0] = torch.nan
    mask = torch.ones(3, 40, 32)
    mask[2] = 0
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\]"):
        metric(prediction, target * 255)
    with pytest.raises(ValueError, match=r"target has NaN or infinite values in item \[1\]"):
        metric(prediction, broken)
    with pytest.raises(ValueError, match=r"prediction has NaN or infinite values in item \[1\]"):
        metric(broken, target)
    with pytest.raises(ValueError, match=r"mask is true in fewer than 1 places in item \[2\]"):
        metric(prediction, target, mask)
    with pytest.raises(ValueError, match="the mask inside the box is true in fewer than 1"):
        metric(prediction, target, box=torch.tensor([[50, 50, 60, 60]] * 3))
    with pytest.raises(ValueError, match="target must have shape"):
        metric(prediction, target[:, :1])
    with pytest.raises(ValueError, match="prediction must have shape"):
        metric(prediction[0], target[0])
    with pytest.raises(ValueError, match="mask must have shape"):
        metric(prediction, target, mask[:, :5])
    with pytest.raises(ValueError, match="box must have shape"):
        metric(prediction, target, box=torch.ones(3, 2))
    with pytest.raises(ValueError, match="no items"):
        metric(prediction[:0], target[:0])


def test_ssim_needs_room_for_a_window(pictures):
    prediction, target = pictures
    with pytest.raises(ValueError, match=r"window is 11 x 11 pixels, the picture or box only \(10, 32\)"):
        ssim(prediction[:, :, :10], target[:, :, :10])
    edge = torch.zeros(3, 40, 32)
    edge[:, 0] = 1
    with pytest.raises(ValueError, match="mask, 5 pixels from the edge, is true in fewer than 1"):
        ssim(prediction, target, edge)

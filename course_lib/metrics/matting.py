"""Errors of soft foregrounds, SAD, MSE, MAD, Grad, Conn and SAD-T, as P3M's evaluator computes them (DAViD's tables).

Our own, since torchmetrics has none of them. `matting_errors` takes batches, the functions under it one picture's maps
as numpy (H, W). The sums grow with the picture: compare at the data set's own resolution.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, label
from torch import Tensor

from course_lib.metrics.common import as_maps, require_finite, require_shape

LEVELS = np.arange(0, 1.1, 0.1)  # of alpha, in connectivity_error
BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255  # in a trimap


def matting_errors(prediction: Tensor, target: Tensor, trimap: Tensor | None = None) -> dict[str, Tensor]:
    """sad, mse, mad, grad and conn over whole pictures, and sad_t where there is a trimap: (B,) each, float64.

    prediction, target: alpha in [0, 1], (B, H, W) or (B, 1, H, W); trimap: 0, 128 (unknown) and 255, same size. sad,
    conn and sad_t are sums / 1000, grad is a sum / 10, mse and mad are means. ValueError for NaN and for alpha outside
    [0, 1].
    """
    prediction, target = as_alpha("prediction", prediction), as_alpha("target", target)
    require_shape("target", target, *prediction.shape)
    trimaps = [None] * len(target) if trimap is None else checked(trimap, target)
    maps = (alpha.cpu().numpy() for alpha in (prediction, target))
    rows = [picture_errors(*picture) for picture in zip(*maps, trimaps, strict=True)]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


def as_alpha(name: str, alpha: Tensor) -> Tensor:
    """(B, H, W) float64; ValueError for NaN and for what is outside [0, 1]."""
    alpha = as_maps(name, alpha)
    require_finite(name, alpha)
    if ((alpha < 0) | (alpha > 1)).any():
        raise ValueError(f"{name} must be in [0, 1]: clip it, or divide by 255")
    return alpha.detach().double()


def checked(trimap: Tensor, target: Tensor) -> np.ndarray:
    """The trimap as numpy (B, H, W); ValueError for another size or other values than 0, 128 and 255."""
    trimap = as_maps("trimap", trimap)
    require_shape("trimap", trimap, *target.shape)
    if not torch.isin(trimap, torch.tensor([BACKGROUND, UNKNOWN, FOREGROUND], device=trimap.device)).all():
        raise ValueError("a trimap holds 0 (background), 128 (unknown) and 255 (foreground) only")
    return trimap.cpu().numpy()


def picture_errors(prediction: np.ndarray, target: np.ndarray, trimap: np.ndarray | None) -> dict[str, float]:
    """The errors of one picture, (H, W) float64 each."""
    error = np.abs(prediction - target)
    errors = {
        "sad": error.sum() / 1000,
        "mse": np.square(error).mean(),
        "mad": error.mean(),
        "grad": gradient_error(prediction, target),
        "conn": connectivity_error(prediction, target),
    }
    return errors if trimap is None else errors | {"sad_t": sad_t(prediction, target, trimap)}


def sad_t(prediction: np.ndarray, target: np.ndarray, trimap: np.ndarray) -> float:
    """SAD after the known parts of the trimap were written into the prediction: mostly of its unknown band."""
    filled = np.where(trimap == FOREGROUND, 1.0, np.where(trimap == BACKGROUND, 0.0, prediction))
    return np.abs(filled - target).sum() / 1000


def gradient_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """Squared difference of the gradients' lengths (derivatives of a Gaussian, sigma 1.4), summed, / 10.

    P3M's. Deep Image Matting's evaluator gives the filters unit norm and divides by 1000: 8 pi 1.4⁴ / 1000 is about
    1 / 10.
    """
    lengths = [
        np.hypot(*(gaussian_filter(alpha, sigma=1.4, order=order) for order in ((1, 0), (0, 1))))
        for alpha in (prediction, target)
    ]
    return np.square(lengths[0] - lengths[1]).sum() / 10


def connectivity_error(prediction: np.ndarray, target: np.ndarray, skip_empty: bool = True) -> float:
    """How much of alpha hangs in the air, differently in prediction and truth: Rhemann et al. 2009, summed, / 1000.

    A pixel's level is the highest at which it still belongs to the largest 4-connected piece of what reaches that level
    in both maps. What its alpha has above its level counts from 0.15 on.

    P3M's evaluator skips a level that no pixel reaches in both (`skip_empty`), so what is connected up to there has
    level 1, and an empty prediction has error 0: read Conn beside SAD. Others, mmagic's among them, do not skip.
    """
    level = np.full(prediction.shape, -1.0)
    for lower, threshold in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        pieces, count = label((prediction >= threshold) & (target >= threshold))
        if count == 0 and skip_empty:
            continue
        sizes = np.bincount(pieces.ravel(), minlength=2)[1:]
        largest = pieces == 1 + sizes.argmax()
        level[(level == -1) & ~largest] = lower
    level[level == -1] = 1.0
    above = [np.where(alpha - level >= 0.15, alpha - level, 0.0) for alpha in (prediction, target)]
    return np.abs(above[0] - above[1]).sum() / 1000


def make_trimap(alpha: Tensor, radius: int) -> Tensor:
    """A trimap of alpha (B, H, W): all 0 within `radius` pixels is background, all 1 foreground, the rest unknown.

    (B, H, W) uint8, 0, 255 and 128. Benchmarks bring their own trimaps: use those for theirs.
    """
    alpha = as_alpha("alpha", alpha)
    highest, lowest = (
        sign * torch.nn.functional.max_pool2d(sign * alpha, 2 * radius + 1, stride=1, padding=radius)
        for sign in (1, -1)
    )
    trimap = torch.full(alpha.shape, UNKNOWN, dtype=torch.uint8, device=alpha.device)
    return trimap.masked_fill(highest == 0, BACKGROUND).masked_fill(lowest == 1, FOREGROUND)

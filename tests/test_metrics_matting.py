"""Matting errors against implementations of another kind: explicit filters, flood fill; what cannot be counted."""

import numpy as np
import pytest
import torch
from skimage.measure import label

from course_lib.metrics import connectivity_error, gradient_error, make_trimap, matting_errors


def soft_blobs(seed: int, height: int = 40, width: int = 52) -> np.ndarray:
    """Alpha with flat parts at 0 and 1, soft edges and several pieces, quantised as in a file."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    alpha = np.zeros((height, width))
    for _ in range(6):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(3, 12)
        alpha = np.maximum(alpha, np.clip((radius - np.hypot(y - cy, x - cx)) / rng.uniform(1, 8) + 0.5, 0, 1))
    return np.round(alpha * 255) / 255


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    target = soft_blobs(seed)
    rng = np.random.default_rng(seed + 100)
    other = soft_blobs(seed + 1) * (rng.random() < 0.5)
    noisy = np.clip(np.maximum(target, 0.6 * other) + rng.normal(0, 0.05, target.shape), 0, 1)
    return np.where(rng.random(target.shape) < 0.03, 0, noisy), target


def gradient_reference(prediction: np.ndarray, target: np.ndarray) -> float:
    """The derivative of a Gaussian written out, mirrored edges, one row or column at a time."""
    steps = np.arange(-6, 7)  # scipy cuts the filter at 4 sigma
    gauss = np.exp(-(steps**2) / (2 * 1.4**2))
    gauss /= gauss.sum()
    slope = gauss * steps / 1.4**2

    def filtered(alpha: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
        padded = np.pad(alpha, [(6, 6) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        return np.apply_along_axis(lambda row: np.correlate(row, kernel, "valid"), axis, padded)

    def length(alpha: np.ndarray) -> np.ndarray:
        down = filtered(filtered(alpha, slope, 0), gauss, 1)
        across = filtered(filtered(alpha, gauss, 0), slope, 1)
        return np.sqrt(down**2 + across**2)

    return ((length(prediction) - length(target)) ** 2).sum() / 10


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected piece, by flood fill from every pixel; the first one met of equals."""
    seen, best = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        piece, edge = [], [start]
        seen[start] = True
        while edge:
            y, x = edge.pop()
            piece.append((y, x))
            for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if all(0 <= n < s for n, s in zip(neighbour, mask.shape, strict=True)):
                    if mask[neighbour] and not seen[neighbour]:
                        seen[neighbour] = True
                        edge.append(neighbour)
        best = piece if len(piece) > len(best) else best
    result = np.zeros_like(mask)
    if best:
        result[tuple(np.transpose(best))] = True
    return result


def connectivity_reference(prediction: np.ndarray, target: np.ndarray, skip_empty: bool) -> float:
    """For each pixel the level before the first at which it falls off, from a stack of all levels' pieces."""
    levels = np.arange(0, 1.1, 0.1)
    joint = np.minimum(prediction, target)
    stack = [largest_piece(joint >= level) for level in levels[1:]]
    kept = [(level, piece) for level, piece in zip(levels, stack, strict=False) if piece.any() or not skip_empty]
    total = 0.0
    for index in np.ndindex(prediction.shape):
        level = next((level for level, piece in kept if not piece[index]), 1.0)
        phi = [1 - (alpha[index] - level if alpha[index] - level >= 0.15 else 0) for alpha in (prediction, target)]
        total += abs(phi[0] - phi[1])
    return total / 1000


@pytest.mark.parametrize("seed", range(8))
def test_gradient_error_equals_explicit_filters(seed):
    prediction, target = pair(seed)
    assert gradient_error(prediction, target) == pytest.approx(gradient_reference(prediction, target), rel=1e-9)


@pytest.mark.parametrize("skip_empty", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_connectivity_error_equals_flood_fill(seed, skip_empty):
    prediction, target = pair(seed)
    if seed % 2:
        prediction = prediction * 0.75  # no pixel reaches the upper levels in both
    ours, theirs = (f(prediction, target, skip_empty) for f in (connectivity_error, connectivity_reference))
    assert ours == pytest.approx(theirs, rel=1e-9) and ours > 0


def test_connectivity_uses_four_neighbours_as_scikit_images_connectivity_1():
    corner = np.zeros((4, 4))
    corner[:2, :2] = corner[2:, 2:3] = 1.0
    assert label(corner, connectivity=1).max() == 2 and label(corner, connectivity=2).max() == 1
    softer = corner.copy()
    softer[2:, 2] = 0.5  # hangs on by a corner only: all of its alpha counts
    assert connectivity_error(softer, corner) == pytest.approx(2 * 0.5 / 1000)


def test_empty_levels_are_skipped_as_p3m_does_or_not():
    empty, target = np.zeros((8, 8)), np.ones((8, 8))
    assert connectivity_error(empty, target) == 0
    assert connectivity_error(empty, target, skip_empty=False) == pytest.approx(64 / 1000)


def test_sums_and_means():
    pairs = [pair(seed) for seed in range(3)]
    prediction, target = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))
    errors = matting_errors(prediction[:, None], target[:, None])
    assert set(errors) == {"sad", "mse", "mad", "grad", "conn"}
    for i, (p, t) in enumerate(pairs):
        expected = {"sad": np.abs(p - t).sum() / 1000, "mse": ((p - t) ** 2).mean(), "mad": np.abs(p - t).mean()}
        expected |= {"grad": gradient_reference(p, t), "conn": connectivity_reference(p, t, True)}
        assert {name: value[i].item() for name, value in errors.items()} == pytest.approx(expected, rel=1e-9)
    zero = matting_errors(target, target)
    assert all((value == 0).all() for value in zero.values())


def test_sad_t_writes_the_trimap_into_the_prediction():
    target = torch.tensor([[[0.0, 0.4, 1.0, 0.9]]])
    prediction = torch.tensor([[[0.3, 0.6, 0.2, 0.9]]])
    trimap = torch.tensor([[[0, 128, 255, 255]]], dtype=torch.uint8)
    errors = matting_errors(prediction, target, trimap)
    assert errors["sad_t"].item() == pytest.approx((0.2 + 0.1) / 1000)
    assert errors["sad"].item() == pytest.approx((0.3 + 0.2 + 0.8) / 1000)


def test_trimap_is_a_band_around_the_edge():
    alpha = torch.zeros(1, 9, 20)
    alpha[..., 10:] = 1
    assert make_trimap(alpha, 2)[0, 4].tolist() == [0] * 8 + [128] * 4 + [255] * 8
    alpha[..., 10] = 0.5
    assert make_trimap(alpha, 2)[0, 4].tolist() == [0] * 8 + [128] * 5 + [255] * 7
    assert (make_trimap(torch.ones(1, 9, 9), 3) == 255).all()


def test_one_pixel_has_a_result():
    errors = matting_errors(torch.full((1, 1, 1), 0.25), torch.ones(1, 1, 1))
    assert errors["mad"].item() == 0.75 and all(value.isfinite().all() for value in errors.values())


def test_bad_alpha_is_named():
    alpha = torch.rand(2, 8, 8)
    broken = alpha.clone()
    broken[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"prediction has NaN or infinite values in item \[1\]"):
        matting_errors(broken, alpha)
    with pytest.raises(ValueError, match=r"prediction must be in \[0, 1\]"):
        matting_errors(alpha * 255, alpha)
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\]"):
        matting_errors(alpha, alpha - 1)
    with pytest.raises(ValueError, match="target must have shape"):
        matting_errors(alpha, alpha[:, :4])
    with pytest.raises(ValueError, match="prediction must have shape"):
        matting_errors(alpha[0], alpha[0])
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        make_trimap(255 * alpha, 1)
    with pytest.raises(ValueError, match="0 .background., 128 .unknown. and 255"):
        matting_errors(alpha, alpha, alpha)
    with pytest.raises(ValueError, match="trimap must have shape"):
        matting_errors(alpha, alpha, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="no items"):
        matting_errors(alpha[:0], alpha[:0])

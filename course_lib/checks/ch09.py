"""The checks of chapter 09: files, augmentation."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid

from course_lib.chapters import david_data as david
from course_lib.chapters.sapiens_dense import looked_up
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_not_close,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)
from course_lib.data.schema import Sample


# ------------------------------------------------------------------------------------------ 09.7 the release's numbers
def person(height: int = 6, width: int = 4) -> Sample:
    """Somebody in the left half, nobody in the right."""
    rng = np.random.default_rng(0)
    there = np.zeros((height, width), bool)
    there[:, : width // 2] = True
    normals = rng.normal(size=(3, height, width))
    fields = {
        "image": rng.random((3, height, width)),
        "alpha": np.where(there, rng.uniform(0.6, 1, (height, width)), 0),
        "depth": np.where(there, rng.uniform(1, 3, (height, width)), np.inf),
        "normals": there * normals / np.linalg.norm(normals, axis=0),
        "K": np.array([[50.3, 0, width / 2], [0, 50.3, height / 2], [0, 0, 1]]),
    }
    return Sample(key="0000012", **{name: values.astype(np.float32) for name, values in fields.items()})


@check_for("09.7")
def to_release(answer):
    sample = person()
    before = {name: getattr(sample, name).copy() for name in ("image", "alpha", "depth", "normals", "K")}
    expected, found = david.to_release(sample), answer(sample)
    expect_type(found, dict, "the arrays")
    expect(set(found) == set(expected), f"rgb, alpha, depth, normal, cam were expected, not {', '.join(found)}")
    expect_type(found["rgb"], np.ndarray, "rgb")
    if found["rgb"].shape == sample.image.shape:
        expect(False, "rgb is still (3, H, W): in a PNG the colours come last, use transpose(1, 2, 0)")
    check_bytes(found, expected, sample)
    check_depth(found["depth"], expected["depth"], sample)
    reversed_ = expected["normal"][..., ::-1].copy()
    expect_not_close(
        torch.as_tensor(found["normal"]),
        reversed_,
        "The channels are z, y, x. That is what OpenCV's reader gives; in the file they are x, y, z",
    )
    expect_close(found["normal"], expected["normal"], "normal")
    expect_close(found["cam"], expected["cam"], "cam")
    turned = answer(sample, signs=(1, -1, -1))["normal"]
    expect_not_close(
        torch.as_tensor(turned), expected["normal"], "The signs (1, -1, -1) change nothing: multiply by them"
    )
    expect_close(turned, david.to_release(sample, (1, -1, -1))["normal"], "normal with the signs (1, -1, -1)")
    half = answer(sample, dtype=np.float16)
    for name in ("depth", "normal"):
        expect(half[name].dtype == np.float16, f"{name} for dtype=float16 is {half[name].dtype}")
    expect(
        np.isfinite(half["depth"]).all(),
        "depth for dtype=float16 has infinity in it: INVALID fits, 65504 is the largest",
    )
    for name, values in before.items():
        expect(np.array_equal(getattr(sample, name), values), f"The sample's {name} was changed: work on a copy")


def check_bytes(found: dict, expected: dict, sample: Sample) -> None:
    cut = {
        "rgb": (255 * sample.image.transpose(1, 2, 0)).astype(np.uint8),
        "alpha": (255 * sample.alpha).astype(np.uint8),
    }
    for name in ("rgb", "alpha"):
        same = found[name].shape == cut[name].shape and np.array_equal(found[name], cut[name])
        expect(not same, f"{name} was cut off to whole numbers: 0.999 becomes 254. Round first")
        expect_equal(found[name], expected[name], name)


def check_depth(found: np.ndarray, expected: np.ndarray, sample: Sample) -> None:
    nobody = ~np.isfinite(sample.depth)
    expect_type(found, np.ndarray, "depth")
    expect_shape(found, expected.shape, "depth")
    expect(np.isfinite(found).all(), "depth has infinity where nobody is: the files say INVALID (65504) there")
    expect(
        np.allclose(found[nobody], david.INVALID, rtol=1e-3),
        f"depth is {found[nobody][0]:g} where nobody is, INVALID (65504) was expected: don't take it times 100 as well",
    )
    metres = np.allclose(found[~nobody], sample.depth[~nobody], rtol=1e-3)
    expect(not metres, "depth is in metres still: the files have centimetres")
    expect_close(found, expected, "depth", atol=1e-3)


def release_with(sample, signs, dtype, **changes):
    return david.to_release(sample, signs, dtype) | changes


@wrong_answer("09.7", says="in metres still")
def release_in_metres(sample, signs=david.SIGNS, dtype=np.float32):
    return release_with(
        sample, signs, dtype, depth=np.where(np.isfinite(sample.depth), sample.depth, 65504).astype(dtype)
    )


@wrong_answer("09.7", says="infinity where nobody")
def release_with_infinity(sample, signs=david.SIGNS, dtype=np.float32):
    return release_with(sample, signs, dtype, depth=(100 * sample.depth).astype(dtype))


@wrong_answer("09.7", says="times 100 as well")
def release_invalid_in_metres(sample, signs=david.SIGNS, dtype=np.float32):
    depth = 100 * np.where(np.isfinite(sample.depth), sample.depth, 65504)
    return release_with(sample, signs, dtype, depth=depth.astype(np.float32))


@wrong_answer("09.7", says="cut off to whole numbers")
def release_cut_bytes(sample, signs=david.SIGNS, dtype=np.float32):
    return release_with(sample, signs, dtype, alpha=(255 * sample.alpha).astype(np.uint8))


@wrong_answer("09.7", says="z, y, x")
def release_as_opencv(sample, signs=david.SIGNS, dtype=np.float32):
    normal = david.to_release(sample, signs, dtype)["normal"]
    return release_with(sample, signs, dtype, normal=normal[..., ::-1].copy())


@wrong_answer("09.7", says="colours come last")
def release_planes(sample, signs=david.SIGNS, dtype=np.float32):
    return release_with(sample, signs, dtype, rgb=np.round(255 * sample.image).astype(np.uint8))


@wrong_answer("09.7", says="change nothing")
def release_without_signs(sample, signs=david.SIGNS, dtype=np.float32):
    return david.to_release(sample, dtype=dtype)


# ----------------------------------------------------------------------------------------- 09.8 brightness and contrast
@check_for("09.8")
def exposed(answer):
    image = torch.rand(2, 3, 4, 5)
    before = image.clone()
    brightness, contrast = 0.1, 0.3
    found, expected = answer(image, brightness, contrast), david.exposed(image, brightness, contrast)
    expect_unchanged(image, before, "the image")
    free = (image + brightness - 0.5) * (1 + contrast) + 0.5
    expect_not_close(found, free, "There are values below 0 or above 1: clamp to [0, 1] at the end")
    mistakes = {
        "The contrast comes before the brightness: the offset is added first": (image - 0.5) * 1.3 + 0.5 + 0.1,
        "That keeps black as it is: take 0.5 off first, and add it again": (image + 0.1) * 1.3,
        "The contrast is a factor of 1 + contrast: 0 changes nothing": (image + 0.1 - 0.5) * 0.3 + 0.5,
    }
    mean = (image + 0.1).mean((1, 2, 3), keepdim=True)
    mistakes["That is contrast about the picture's mean. The formula has 0.5"] = (image + 0.1 - mean) * 1.3 + mean
    darker, less = answer(image, 0.4, -0.5), ((image + 0.4).clamp(0, 1) - 0.5) * 0.5 + 0.5
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake.clamp(0, 1), words)
    expect_not_close(darker, less.clamp(0, 1), "The image was clamped before the contrast: do it once, at the end")
    expect_close(found, expected, "brightness 0.1, contrast 0.3")
    expect_close(darker, david.exposed(image, 0.4, -0.5), "brightness 0.4, contrast -0.5")


@wrong_answer("09.8", says="below 0 or above 1")
def exposed_unbounded(image, brightness, contrast):
    return (image + brightness - 0.5) * (1 + contrast) + 0.5


@wrong_answer("09.8", says="contrast comes before")
def exposed_in_other_order(image, brightness, contrast):
    return ((image - 0.5) * (1 + contrast) + 0.5 + brightness).clamp(0, 1)


@wrong_answer("09.8", says="keeps black")
def exposed_about_black(image, brightness, contrast):
    return ((image + brightness) * (1 + contrast)).clamp(0, 1)


@wrong_answer("09.8", says="factor of 1 \\+ contrast")
def exposed_by_contrast_alone(image, brightness, contrast):
    return ((image + brightness - 0.5) * contrast + 0.5).clamp(0, 1)


@wrong_answer("09.8", says="picture's mean")
def exposed_about_mean(image, brightness, contrast):
    mean = (image + brightness).mean((1, 2, 3), keepdim=True)
    return ((image + brightness - mean) * (1 + contrast) + mean).clamp(0, 1)


@wrong_answer("09.8", says="clamped before")
def exposed_clamped_twice(image, brightness, contrast):
    return (((image + brightness).clamp(0, 1) - 0.5) * (1 + contrast) + 0.5).clamp(0, 1)


# ---------------------------------------------------------------------------------------------------- 09.9 ISO noise
@check_for("09.9")
def iso_noise(answer):
    image = torch.linspace(0, 1, 6).view(1, 1, 6, 1).expand(1, 3, 6, 4000).contiguous()
    before, state = image.clone(), torch.get_rng_state()
    found = answer(image, 0.02, 0.05, torch.Generator().manual_seed(0))
    expect_type(found, Tensor, "the picture")
    expect_shape(found, image.shape, "the picture")
    expect_unchanged(image, before, "the image")
    again = answer(image, 0.02, 0.05, torch.Generator().manual_seed(0))
    drawn = torch.equal(found, again) and torch.equal(torch.get_rng_state(), state)
    expect(drawn, "The same generator gave other noise: draw all random numbers from `generator`")
    means, variances = found.mean((0, 1, 3)), found.var((0, 1, 3))
    expect(found.min() < 0, "Nothing is below 0: don't clamp, it makes black brighter; the caller does it at the end")
    expect_not_close(
        means, image[0, 0, :, 0] / 0.02, "The photons were counted, but not brought back: times gain", atol=1
    )
    expect_close(means, image[0, 0, :, 0], "the mean of 12,000 noisy pixels, for 6 brightnesses", atol=6e-3)
    check_variance(variances, found)
    counts = answer(image, 0.02, 0.0, torch.Generator().manual_seed(1)) / 0.02
    whole = (counts - counts.round()).abs().max() < 1e-2
    expect(
        whole,
        "Without electronics' noise a pixel is a whole number of photons: draw from Poisson's law, not a Gaussian",
    )
    quiet = answer(image, 0.0, 0.0, torch.Generator().manual_seed(0))
    expect_close(quiet, image, "gain 0 and sigma 0: the picture as it is")
    electronics = answer(image, 0.0, 0.05, torch.Generator().manual_seed(0)).std((0, 1, 3))
    expect_close(electronics, torch.full((6,), 0.05), "gain 0, sigma 0.05: the standard deviation", atol=3e-3)


def check_variance(variances: Tensor, found: Tensor) -> None:
    levels = torch.linspace(0, 1, 6)
    sums = 0.02 * levels
    mistakes = {
        "The Gaussian's variance is sigma, its standard deviation should be: multiply by sigma, not by its root": sums
        + 0.05,
        "The Gaussian noise is missing": sums,
        "The variance doesn't grow with brightness: the light's own noise is missing": 0 * sums + 0.05**2,
        "The Gaussian noise was taken times the brightness: it is the same everywhere": sums + (0.05 * levels) ** 2,
    }
    for words, mistake in mistakes.items():
        expect_not_close(variances, mistake, words, atol=max(8e-4, 0.04 * float(mistake.max())))
    one = found.std(1).mean() > 1e-4
    expect(one, "Red, green and blue have the same noise: each pixel catches its own photons")
    expect_close(variances, sums + 0.05**2, "the variance for 6 brightnesses, gain 0.02, sigma 0.05", atol=1.5e-3)


def poisson(image, gain, generator):
    return gain * torch.poisson(image / gain, generator=generator) if gain > 0 else image


@wrong_answer("09.9", says="brought back")
def iso_in_photons(image, gain, sigma, generator):
    return poisson(image, gain, generator) / max(gain, 1e-9) + sigma * torch.randn(image.shape, generator=generator)


@wrong_answer("09.9", says="from `generator`")
def iso_of_global_numbers(image, gain, sigma, generator):
    return poisson(image, gain, generator) + sigma * torch.randn_like(image)


@wrong_answer("09.9", says="not a Gaussian")
def iso_of_two_gaussians(image, gain, sigma, generator):
    return image + (gain * image + sigma**2).sqrt() * torch.randn(image.shape, generator=generator)


@wrong_answer("09.9", says="not by its root")
def iso_sigma_as_variance(image, gain, sigma, generator):
    return poisson(image, gain, generator) + sigma**0.5 * torch.randn(image.shape, generator=generator)


@wrong_answer("09.9", says="Gaussian noise is missing|don't clamp")
def iso_of_light_alone(image, gain, sigma, generator):
    return poisson(image, gain, generator)


@wrong_answer("09.9", says="don't clamp")
def iso_clamped(image, gain, sigma, generator):
    return david.iso_noise(image, gain, sigma, generator).clamp(0, 1)


@wrong_answer("09.9", says="NaN|infinity|gain 0")
def iso_divided_by_zero(image, gain, sigma, generator):
    rates = (image / gain).nan_to_num(posinf=1e9) if gain == 0 else image / gain
    return gain * torch.poisson(rates, generator=generator) + sigma * torch.randn(image.shape, generator=generator)


@wrong_answer("09.9", says="same noise")
def iso_of_grey(image, gain, sigma, generator):
    return david.iso_noise(image[:, :1], gain, sigma, generator).expand_as(image)


# ----------------------------------------------------------------------------------------- 09.10 turned, normals too
def ball(side: int = 48) -> Tensor:
    """The normals (1, 3, side, side) of a ball."""
    v, u = torch.meshgrid(*(2 * (torch.arange(side) + 0.5) / side - 1,) * 2, indexing="ij")
    inside = 0.8 - u.square() - v.square()
    normals = torch.stack([u, -v, inside.clamp(min=0).sqrt()])
    return (torch.nn.functional.normalize(normals, dim=0) * (inside > 0))[None]


@check_for("09.10")
def turned(answer):
    rng = torch.Generator().manual_seed(0)
    batch = {"image": torch.rand(1, 3, 48, 48, generator=rng), "depth": 1 + torch.rand(1, 48, 48, generator=rng)}
    batch["normals"] = ball()
    before = {name: values.clone() for name, values in batch.items()}
    found, expected = answer(batch, 90.0), david.turned(batch, 90.0)
    expect_type(found, dict, "the batch")
    expect(set(found) == set(batch), f"The batch has {', '.join(batch)}, what came back has {', '.join(found)}")
    for name, values in before.items():
        expect_unchanged(batch[name], values, name)
    moved = pixels_moved(batch["normals"], 90.0)
    words = "The normals were moved with the pixels, but not turned: after 90° what faced right faces up"
    expect_not_close(found["normals"], moved, words, atol=1e-4)
    expect_not_close(
        found["normals"],
        rotate(moved, -90.0),
        "They turn the other way. y is up here, so + is counter-clockwise",
        atol=1e-4,
    )
    expect_not_close(found["normals"], rotate(moved, math.degrees(90.0)), "An angle in degrees was taken for radians")
    expect_close(found["normals"], expected["normals"], "the normals of a ball turned by 90°", atol=1e-4)
    for name in ("image", "depth"):
        expect_close(found[name], expected[name], f"{name}, turned by 90°", atol=1e-4)
    some = answer(batch, 30.0)["normals"]
    expect_close(some, david.turned(batch, 30.0)["normals"], "the normals of a ball turned by 30°", atol=1e-4)
    only = answer({"image": batch["image"]}, 30.0)
    expect(set(only) == {"image"}, "A batch with an image alone came back with other labels")


def pixels_moved(normals: Tensor, degrees: float) -> Tensor:
    """Turned as a picture, the vectors as they were."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    grid = affine_grid(
        torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]]), [1, 1, *normals.shape[-2:]], align_corners=False
    )
    return looked_up("normals", normals, grid)


def rotate(normals: Tensor, degrees: float) -> Tensor:
    """The vectors turned where they are."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = normals.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], 1)


def turned_with(batch: dict, degrees: float, angle: float) -> dict:
    """The normals turned by another angle than the picture."""
    found = david.turned(batch, degrees)
    return found | {"normals": rotate(found["normals"], angle - degrees)} if "normals" in found else found


@wrong_answer("09.10", says="not turned")
def turned_pixels_only(batch, degrees):
    return turned_with(batch, degrees, 0.0)


@wrong_answer("09.10", says="other way")
def turned_clockwise(batch, degrees):
    return turned_with(batch, degrees, -degrees)


@wrong_answer("09.10", says="taken for radians")
def turned_by_degrees(batch, degrees):
    return turned_with(batch, degrees, math.degrees(degrees))


@wrong_answer("09.10", says="KeyError|normals")
def turned_always(batch, degrees):
    found = david.turned(batch, degrees)
    return found | {"normals": found["normals"]}

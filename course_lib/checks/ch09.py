"""The checks of chapter 09: who is drawn, strands, proxies, glass, files, augmentation."""

import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import affine_grid

from course_lib.chapters import david_data as david
from course_lib.chapters.sapiens_dense import looked_up
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_length,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)
from course_lib.data.schema import Sample


def array(found, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """A learner's NumPy array of the right shape, as a tensor of float64."""
    expect_type(found, np.ndarray, what)
    expect_shape(found, shape, what)
    return torch.from_numpy(found.astype(np.float64))


# ---------------------------------------------------------------------------------------------------- 09.1 shares
@check_for("09.1")
def balancing_weights(answer):
    groups, shares = ["a", "b", "a", "a", "c", "b"], {"a": 1.0, "b": 2.0, "c": 1.0, "d": 4.0}
    what = "6 candidates of the groups a, b, a, a, c, b; shares a 1, b 2, c 1, d 4"
    found = array(answer(groups, dict(shares)), (6,), what)
    right = torch.tensor([1 / 12, 0.25, 1 / 12, 1 / 12, 0.25, 0.25], dtype=torch.float64)
    raw = torch.tensor([shares[g] for g in groups], dtype=torch.float64)
    expect_not_close(
        found, raw / raw.sum(), "Each candidate has the share of the whole group: divide by how many are in the group"
    )
    expect_not_close(found, right / 2, "The weights sum to 1/2: nobody is in d, so its share must fall to the others")
    expect_not_close(found, right * 4, "The weights sum to 4: divide by the sum of the shares that somebody can take")
    expect_close(found, right, what)
    unnamed = array(answer(["a", "x"], {"a": 3.0}), (2,), "x is not in the table")
    expect_close(unnamed, torch.tensor([1.0, 0.0], dtype=torch.float64), "x is not in the table: it is never drawn")
    expect_raises(lambda: answer(["a"], {"a": 0.0}), ValueError, "a table whose shares sum to 0")
    expect_raises(lambda: answer(["a", "b"], {"a": 2.0, "b": -1.0}), ValueError, "a negative share")


@wrong_answer("09.1", says="how many are in the group")
def weights_not_divided(groups, shares):
    raw = np.array([shares.get(g, 0.0) for g in groups])
    return raw / raw.sum()


@wrong_answer("09.1", says="must fall to the others")
def weights_lost_share(groups, shares):
    total = sum(shares.values())
    return np.array([shares.get(g, 0.0) / total / groups.count(g) for g in groups])


@wrong_answer("09.1", says="sum to 4")
def weights_unnormalised(groups, shares):
    return np.array([shares.get(g, 0.0) / groups.count(g) for g in groups])


@wrong_answer("09.1", says="raised")
def weights_unnamed(groups, shares):
    total = sum(shares[g] for g in set(groups))
    return np.array([shares[g] / total / groups.count(g) for g in groups])


# ---------------------------------------------------------------------------------------------------- 09.2 a strand
@check_for("09.2")
def grow(answer):
    rng = np.random.default_rng(0)
    roots, directions, lengths = rng.normal(size=(5, 3)), 2 * rng.normal(size=(5, 3)), rng.uniform(0.01, 0.1, 5)
    what = "5 strands of 6 points, bend 0.3"
    kept = directions.copy()
    found = array(answer(roots, directions, lengths, 0.3, 6), (5, 6, 3), what)
    expect(np.array_equal(kept, directions), f"{what}: the directions were changed in place. Work on a copy")
    expect_finite(found, what)
    expect_close(found[:, 0], torch.from_numpy(roots), f"{what}: the first points are the roots")
    steps = found.diff(dim=1).norm(dim=2)
    each = torch.from_numpy(lengths)[:, None].expand(5, 5)
    expect_not_close(steps, each / 6, "6 points are joined by 5 steps: a step is lengths / (points - 1)")
    expect_not_close(steps, each, "Every step has the length of the whole strand: divide by points - 1")
    first = (found[:, 1] - found[:, 0]) / (each[:, :1] / 5)
    straight = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True))
    expect_not_close(first, torch.from_numpy(directions), "The given directions are not of length 1: make them so")
    never = torch.from_numpy(directions) + torch.tensor([0.0, -0.3, 0.0], dtype=torch.float64)
    for wrong in (never, never / never.norm(dim=1, keepdim=True)):
        expect_not_close(first, wrong, "The first step is bent already. Bend after a step, not before it")
    bent = straight + torch.tensor([0.0, -0.3, 0.0], dtype=torch.float64)
    expect_not_close(
        first, bent / bent.norm(dim=1, keepdim=True), "The first step is bent already. Bend after a step, not before it"
    )
    expect_close(steps, each / 5, f"{what}: the lengths of the steps. Is the bent direction brought to length 1?", 1e-7)
    expect_close(found, torch.from_numpy(david.grow(roots, directions, lengths, 0.3, 6)), what)


@wrong_answer("09.2", says="5 steps")
def grow_too_short(roots, directions, lengths, bend, points=8):
    return david.grow(roots, directions, lengths * (points - 1) / points, bend, points)


@wrong_answer("09.2", says="bent already")
def grow_bent_first(roots, directions, lengths, bend, points=8):
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return david.grow(roots, unit + np.array([0, -bend, 0]), lengths, bend, points)


@wrong_answer("09.2", says="length 1")
def grow_stretching(roots, directions, lengths, bend, points=8):
    direction, found = directions / np.linalg.norm(directions, axis=1, keepdims=True), [roots]
    for _ in range(points - 1):
        found.append(found[-1] + (lengths / (points - 1))[:, None] * direction)
        direction = direction + np.array([0, -bend, 0])
    return np.stack(found, 1)


@wrong_answer("09.2", says="another order")
def grow_stacked_first(roots, directions, lengths, bend, points=8):
    return david.grow(roots, directions, lengths, bend, points).transpose(1, 0, 2)


# ---------------------------------------------------------------------------------------------------- 09.3 composite
def layered() -> tuple[np.ndarray, np.ndarray]:
    """Two pixels of three layers, two channels; the second pixel has only one layer."""
    alpha = np.array([[0.5, 0.25, 0.8], [0.4, 0.0, 0.0]])
    values = np.arange(12, dtype=float).reshape(2, 3, 2) + 1
    return alpha, values


@check_for("09.3")
def composite(answer):
    alpha, values = layered()
    what = "2 pixels of 3 layers"
    found = answer(alpha.copy(), values.copy())
    expect_length(found, 2, what)
    right_seen, right_passes = (torch.from_numpy(v) for v in david.composite(alpha, values))
    expect(
        getattr(found[1], "shape", None) != (2, 3),
        f"{what}: the light has 3 values a pixel, 4 were expected: before the first layer (1), then behind each",
    )
    passes = array(found[1], (2, 4), f"{what}, the light that passes")
    summed = torch.from_numpy(np.concatenate([np.ones((2, 1)), 1 - alpha.cumsum(1)], 1))
    expect_not_close(passes, summed, "The light is a product: each layer takes its share of what is left, not of all")
    expect_not_close(passes, 1 - right_passes, "That is what is taken. The light that passes was asked for")
    expect_close(passes, right_passes, f"{what}, the light that passes")
    seen = array(found[0], (2, 2), f"{what}, what is seen")
    behind = torch.from_numpy((alpha[..., None] * values * david.composite(alpha, values)[1][:, 1:, None]).sum(1))
    expect_not_close(seen, behind, "Each layer is weighted by the light behind it. It gets the light before it")
    expect_not_close(
        seen, torch.from_numpy((alpha[..., None] * values).sum(1)), "Layers don't hide each other: where is the light?"
    )
    back = torch.from_numpy(david.composite(alpha[:, ::-1].copy(), values[:, ::-1].copy())[0])
    expect_not_close(seen, back, "That is from back to front: the first layer is the nearest")
    whole = right_seen / (1 - right_passes[:, -1:])
    expect_not_close(seen, whole, "The sum was divided by the coverage. What is seen of the layers is the sum itself")
    expect_close(seen, right_seen, f"{what}, what is seen")
    nothing = answer(np.zeros((2, 0)), np.zeros((2, 0, 3)))
    expect_close(array(nothing[1], (2, 1), "no layers"), torch.ones(2, 1, dtype=torch.float64), "no layers: all passes")
    expect_close(array(nothing[0], (2, 3), "no layers"), torch.zeros(2, 3, dtype=torch.float64), "no layers")


@wrong_answer("09.3", says="from back to front")
def composite_backwards(alpha, values):
    return david.composite(alpha[:, ::-1].copy(), values[:, ::-1].copy())[0], david.composite(alpha, values)[1]


@wrong_answer("09.3", says="is a product")
def composite_of_sums(alpha, values):
    passes = np.concatenate([np.ones((len(alpha), 1)), 1 - alpha.cumsum(1)], 1)
    return (alpha[..., None] * values * passes[:, :-1, None]).sum(1), passes


@wrong_answer("09.3", says="light behind it")
def composite_late(alpha, values):
    _, passes = david.composite(alpha, values)
    return (alpha[..., None] * values * passes[:, 1:, None]).sum(1), passes


@wrong_answer("09.3", says="hide each other")
def composite_added(alpha, values):
    return (alpha[..., None] * values).sum(1), david.composite(alpha, values)[1]


@wrong_answer("09.3", says="4 were expected")
def composite_short(alpha, values):
    seen, passes = david.composite(alpha, values)
    return seen, passes[:, 1:]


@wrong_answer("09.3", says="divided by the coverage")
def composite_divided(alpha, values):
    seen, passes = david.composite(alpha, values)
    return seen / (1 - passes[:, -1:]), passes


# ---------------------------------------------------------------------------------------------------- 09.4 voxels
@check_for("09.4")
def voxelize(answer):
    points = np.random.default_rng(2).uniform(-0.2, 0.35, (40, 3)) * [1.0, 0.4, 1.6]
    points = np.concatenate([points, points[:3] + 1e-4])
    what = "43 points, cubes of 0.1 m, margin 2"
    found = answer(points, 0.1, 2)
    expect_length(found, 2, what)
    counts, corner = (torch.from_numpy(v.astype(np.float64)) for v in david.voxelize(points, 0.1, 2))
    place = array(found[1], (3,), f"{what}, the corner")
    expect_not_close(
        place, torch.from_numpy(points.min(0)), "The corner has no margin: it lies 2 cubes below all points"
    )
    expect_close(place, corner, f"{what}, the corner")
    expect_type(found[0], np.ndarray, f"{what}, the counts")
    total = float(found[0].sum())
    once = total == int((david.voxelize(points, 0.1, 2)[0] > 0).sum())
    expect(not once, f"{what}: {total:g} were counted. Some share a cube: += with index arrays counts it once")
    expect(found[0].dtype == np.float32, f"{what}: the counts are {found[0].dtype}, float32 was expected")
    box = array(found[0], tuple(counts.shape), f"{what}, the counts")
    expect_close(box, counts, f"{what}, the counts")
    alone = answer(np.array([[0.1, 0.2, 0.3]]), 0.1, 2)[0]
    expect_shape(alone, (5, 5, 5), "one point with margin 2: its own cube, and two on every side")
    expect_raises(lambda: answer(np.zeros((0, 3)), 0.1, 2), ValueError, "no points")


@wrong_answer("09.4", says="counts it once")
def voxelize_once(points, cell, margin=3):
    counts, corner = david.voxelize(points, cell, margin)
    return np.minimum(counts, 1), corner


@wrong_answer("09.4", says="no margin")
def voxelize_without_margin(points, cell, margin=3):
    counts, corner = david.voxelize(points, cell, margin)
    return counts[margin:, margin:, margin:], points.min(0)


@wrong_answer("09.4", says="values are off")
def voxelize_rounded(points, cell, margin=3):
    counts, corner = david.voxelize(points, cell, margin)
    place = np.round((points - corner) / cell).astype(int)
    counts = np.zeros_like(counts)
    np.add.at(counts, tuple(place.T), 1)
    return counts, corner


# ---------------------------------------------------------------------------------------------------- 09.5 normals
@check_for("09.5")
def proxy_normals(answer):
    rng = np.random.default_rng(1)
    vertices, points = rng.normal(size=(40, 3)), rng.normal(size=(6, 4, 3))
    normals = rng.normal(size=(40, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    what = "6 strands of 4 points, 40 vertices"
    found = answer(points, vertices, normals)
    expect_type(found, np.ndarray, what)
    away = cKDTree(vertices).query(points)[1]
    expect(
        found.shape != (6, 4),
        f"{what}: the shape is (6, 4): those are distances or indices. Take the normals at the indices",
    )
    result = array(found, (6, 4, 3), what)
    expect_not_close(
        result, torch.from_numpy(vertices[away]), "Those are the nearest vertices. Their normals were asked for"
    )
    farthest = np.linalg.norm(points[:, :, None] - vertices, axis=-1).argmax(-1)
    expect_not_close(result, torch.from_numpy(normals[farthest]), "Those are the normals of the farthest vertices")
    expect_not_close(
        result,
        torch.from_numpy(normals[cKDTree(normals).query(points)[1]]),
        "The nearest was looked for among the normals. Look among the vertices",
    )
    expect_close(result, torch.from_numpy(normals[away]), what)
    expect_raises(lambda: answer(points, np.zeros((0, 3)), np.zeros((0, 3))), ValueError, "a proxy without vertices")


@wrong_answer("09.5", says="normals were asked for")
def normals_are_vertices(points, vertices, normals):
    return vertices[cKDTree(vertices).query(points)[1]]


@wrong_answer("09.5", says="distances or indices")
def normals_are_distances(points, vertices, normals):
    return cKDTree(vertices).query(points)[0]


@wrong_answer("09.5", says="among the normals")
def normals_wrong_tree(points, vertices, normals):
    return normals[cKDTree(normals).query(points)[1]]


# ---------------------------------------------------------------------------------------------------- 09.6 glass
@check_for("09.6")
def label_alpha(answer):
    alpha = np.array([[0.04, 0.6, 0.0], [0.3, 0.2, 0.9]], np.float32)  # a clear lens mirrors 4 %
    lens = np.array([[True, False, True], [False, True, False]])
    kept = alpha.copy()
    within = array(answer(alpha, lens, True), (2, 3), "the lens in")
    expect(np.array_equal(alpha, kept), "alpha was changed in place: the picture needs it. Work on a copy")
    right = torch.tensor([[1.0, 0.6, 0.0], [0.3, 1.0, 0.9]], dtype=torch.float64)
    filled = torch.tensor([[1.0, 0.6, 1.0], [0.3, 1.0, 0.9]], dtype=torch.float64)
    expect_not_close(within, filled, "The lens in: a layer with alpha 0 became opaque, but it isn't there. It stays 0")
    expect_not_close(within, torch.from_numpy(kept).double(), "The lens in: lenses count as opaque, not as their tint")
    expect_not_close(within, right * torch.from_numpy(lens), "The lens in: strands count, too, as they are")
    expect_close(within, right, "the lens in")
    without = array(answer(alpha, lens, False), (2, 3), "the lens out")
    expect_not_close(
        without, torch.from_numpy(kept).double(), "The lens out: it still counts. It should be as if not there"
    )
    expect_close(without, torch.from_numpy(kept * ~lens).double(), "the lens out")


@wrong_answer("09.6", says="isn't there")
def glass_everywhere(alpha, lens, lens_in):
    return np.where(lens, float(lens_in), alpha)


@wrong_answer("09.6", says="still counts")
def glass_always(alpha, lens, lens_in):
    return np.where(lens & (alpha > 0) & lens_in, 1.0, alpha)


@wrong_answer("09.6", says="strands count")
def glass_only(alpha, lens, lens_in):
    return np.where(lens & (alpha > 0), float(lens_in), 0.0)


@wrong_answer("09.6", says="in place")
def glass_in_place(alpha, lens, lens_in):
    alpha[lens & (alpha > 0)] = float(lens_in)
    return alpha


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
        "Yours applies the contrast first. The brightness comes first: it is an offset of the image": (image - 0.5)
        * 1.3
        + 0.5
        + 0.1,
        "That keeps black as it is: take 0.5 off first, and add it again": (image + 0.1) * 1.3,
        "The contrast is a factor of 1 + contrast: 0 changes nothing": (image + 0.1 - 0.5) * 0.3 + 0.5,
    }
    mean = (image + 0.1).mean((1, 2, 3), keepdim=True)
    mistakes["The brightness is a factor here: it is an offset, added"] = (image * 1.1 - 0.5) * 1.3 + 0.5
    own = image.mean((1, 2, 3), keepdim=True)
    mistakes["That is contrast about the picture's own mean. The formula has 0.5"] = (image + 0.1 - own) * 1.3 + own
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


@wrong_answer("09.8", says="applies the contrast first")
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
    other = answer(image, 0.02, 0.05, torch.Generator().manual_seed(1))
    expect(not torch.equal(found, other), "Another generator gave the same noise: draw from `generator`, no other one")
    across = (found - image)[:, :, -1].std()
    expect(across > 1e-3, "All pixels of a row have the same noise: draw a random number for each value")
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
    dark = answer(image, 0.0, 0.05, torch.Generator().manual_seed(0))
    same = torch.equal(counts[:, 0], counts[:, 1]) or torch.equal(dark[:, 0], dark[:, 1])
    expect(not same, "Red, green and blue have the same noise: each catches its own photons, (B, 3, H, W) of them")
    electronics = dark.std((0, 1, 3))
    expect_close(electronics, torch.full((6,), 0.05), "gain 0, sigma 0.05: the standard deviation", atol=3e-3)


def check_variance(variances: Tensor, found: Tensor) -> None:
    levels = torch.linspace(0, 1, 6)
    sums = 0.02 * levels
    mistakes = {
        "The Gaussian's variance is sigma, its standard deviation should be: multiply by sigma, not by its root": sums
        + 0.05,
        "The Gaussian noise is missing, or far too small: sigma is its standard deviation": sums,
        "The variance doesn't grow with brightness: the light's own noise is missing": 0 * sums + 0.05**2,
        "The Gaussian noise was taken times the brightness: it is the same everywhere": sums + (0.05 * levels) ** 2,
    }
    for words, mistake in mistakes.items():
        expect_not_close(variances, mistake, words, atol=max(8e-4, 0.04 * float(mistake.max())))
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
    two = answer({name: values.repeat(2, *[1] * (values.ndim - 1)) for name, values in before.items()}, 90.0)
    expect_close(two["normals"][1], expected["normals"][0], "the second picture of two, turned by 90°", atol=1e-4)
    half_done = rotated_in_place(moved, 90.0)
    expect_not_close(found["normals"], half_done, "x was overwritten before y was computed: keep the old x", atol=1e-4)
    some = answer(batch, 30.0)["normals"]
    expect_close(some, david.turned(batch, 30.0)["normals"], "the normals of a ball turned by 30°", atol=1e-4)
    only = answer({"image": batch["image"]}, 30.0)
    expect(set(only) == {"image"}, "A batch with an image alone came back with other labels")


def rotated_in_place(normals: Tensor, degrees: float) -> Tensor:
    """As it comes out if the new x is used for y."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    n = normals.clone()
    n[:, 0] = cos * n[:, 0] - sin * n[:, 1]
    n[:, 1] = sin * n[:, 0] + cos * n[:, 1]
    return n


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

"""The checks of chapter 13, and for each the wrong answers that it must catch."""

import math

import torch
from torch import Tensor, nn

from course_lib.chapters import mpt_pretraining as mpt
from course_lib.chapters.cameras import Camera, axis_angle_to_matrix, matrix_to_axis_angle
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_not_close,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)


# ------------------------------------------------------------------------------------ 13.1 a camera between two others
def ring_cameras(
    azimuths: tuple[float, ...], radii: tuple[float, ...], heights: tuple[float, ...], focal: float = 1000.0
) -> Camera:
    """Cameras at azimuths in degrees that look at the axis a little below their own height."""
    angle, r = torch.tensor(azimuths).deg2rad(), torch.tensor(radii)
    eye = torch.stack([r * angle.sin(), torch.tensor(heights), r * angle.cos()], 1)
    return Camera.look_at(eye, torch.tensor([0.0, 0.6, 0.0]), focal=focal + 40 * torch.arange(len(azimuths)))


def from_center(K: Tensor, R: Tensor, center: Tensor) -> Camera:
    return Camera(K, R, -(R @ center[..., None])[..., 0])


def halfway(first: Camera, second: Camera, amount: float = 0.5) -> Tensor:
    """Equation 13.2."""
    return axis_angle_to_matrix(amount * matrix_to_axis_angle(second.R @ first.R.mT)) @ first.R


def turned_wrong(first: Camera, second: Camera, amount: float) -> list[Tensor]:
    """Equation 13.2 with its factors in another order, or on the other camera."""
    turn, inner = second.R @ first.R.mT, first.R.mT @ second.R
    part, inner, back = (axis_angle_to_matrix(amount * matrix_to_axis_angle(R)) for R in (turn, inner, turn.mT))
    return [inner @ first.R, part @ second.R, first.R @ part, back @ first.R]


PAIRS = (
    ring_cameras((20.0, 160.0, -20.0), (5.0, 5.4, 4.0), (1.5, 1.6, 1.5)),
    # the second pair wraps around 180 degrees
    ring_cameras((60.0, -70.0, -150.0), (5.2, 4.4, 5.6), (1.7, 1.4, 1.6), focal=1300.0),
)
BETWEEN = ((40.0, -135.0, -85.0), (5.1, 4.9, 4.8), (1.6, 1.5, 1.55))


@check_for("13.1")
def interpolated(answer):
    first, second = PAIRS
    found = answer(first, second)
    expect_type(found, Camera, "the cameras between three pairs")
    expect_shape(found.R, (3, 3, 3), "the rotations of three cameras")
    azimuth, radius, height = (torch.tensor(values) for values in BETWEEN)
    angle = azimuth.deg2rad()
    center = torch.stack([radius * angle.sin(), height, radius * angle.cos()], 1)
    off = (found.R @ found.R.mT - torch.eye(3)).abs().max()
    expect(off < 1e-3, "R is no rotation: R Rᵀ is not the identity. The mean of two rotation matrices isn't one")
    expect_not_close(
        found.t,
        (first.t + second.t) / 2,
        "The mean of the two t came back. t is not a place: interpolate where the cameras stand (camera.center), "
        "then t = -R c",
        atol=1e-3,
    )
    at = found.center
    expect_not_close(
        at,
        (first.center + second.center) / 2,
        "The cameras stand on the chord between the two, too near to the person. Interpolate radius, height and "
        "azimuth",
        atol=1e-3,
    )
    opposite = center[1] * torch.tensor([-1.0, 1.0, -1.0])
    expect(
        not torch.allclose(at[1], opposite, atol=1e-2),
        "Between azimuths 160 and -70 degrees the camera stands at 45. The shorter way leads over 180, to -135: take "
        "whole turns off the difference",
    )
    expect_close(at, center, "where the three cameras stand", atol=1e-3)
    for mistake in turned_wrong(first, second, 0.5):
        expect_not_close(found.R, mistake, "(13.2): log(R2 R1ᵀ), multiplied from the left onto R1", atol=1e-3)
    expect_close(found.R, halfway(first, second), "the rotations half the way", atol=1e-3)
    for one, name in ((first, "first"), (second, "second")):
        expect_not_close(found.K, one.K, f"K is the {name} camera's. It is interpolated, too, number by number")
    expect_close(found.K, (first.K + second.K) / 2, "K half the way", atol=1e-2)
    for amount, end in ((0.0, first), (1.0, second)):
        same = answer(first, second, amount)
        expect_close(same.R, end.R, f"R at amount = {amount:g}", atol=1e-3)
        expect_close(same.t, end.t, f"t at amount = {amount:g}", atol=1e-3)
        expect_close(same.K, end.K, f"K at amount = {amount:g}", atol=1e-2)


@wrong_answer("13.1", says="chord")
def interpolate_chord(first, second, amount=0.5):
    center = torch.lerp(first.center, second.center, amount)
    return from_center(torch.lerp(first.K, second.K, amount), halfway(first, second, amount), center)


@wrong_answer("13.1", says="shorter way")
def interpolate_long_way(first, second, amount=0.5):
    ends = torch.stack([first.center, second.center])
    azimuth = torch.lerp(*torch.atan2(ends[..., 0], ends[..., 2]), amount)
    radius = torch.lerp(*ends[..., [0, 2]].norm(dim=-1), amount)
    center = torch.stack([radius * azimuth.sin(), torch.lerp(*ends[..., 1], amount), radius * azimuth.cos()], -1)
    return from_center(torch.lerp(first.K, second.K, amount), halfway(first, second, amount), center)


@wrong_answer("13.1", says="no rotation")
def interpolate_matrices(first, second, amount=0.5):
    right = mpt.interpolate_cameras(first, second, amount)
    return from_center(right.K, torch.lerp(first.R, second.R, amount), right.center)


@wrong_answer("13.1", says="t is not a place")
def interpolate_t(first, second, amount=0.5):
    right = mpt.interpolate_cameras(first, second, amount)
    return Camera(right.K, right.R, torch.lerp(first.t, second.t, amount))


@wrong_answer("13.1", says="from the left onto R1")
def interpolate_inner_log(first, second, amount=0.5):
    right = mpt.interpolate_cameras(first, second, amount)
    return from_center(right.K, turned_wrong(first, second, amount)[0], right.center)


@wrong_answer("13.1", says="from the left onto R1")
def interpolate_onto_second(first, second, amount=0.5):
    right = mpt.interpolate_cameras(first, second, amount)
    return from_center(right.K, turned_wrong(first, second, amount)[1], right.center)


@wrong_answer("13.1", says="K is the first camera's")
def interpolate_keeps_k(first, second, amount=0.5):
    right = mpt.interpolate_cameras(first, second, amount)
    return Camera(first.K, right.R, right.t)


@wrong_answer("13.1", says="at amount = 0")
def interpolate_ignores_amount(first, second, amount=0.5):
    return mpt.interpolate_cameras(first, second)


# --------------------------------------------------------------------------------------------------- 13.2 heatmaps
def gaussians(points: Tensor, size: int, sigma: float, shift: float = 0.5, spread: float = 2.0) -> Tensor:
    """Equation 13.4 pixel by pixel, or with one of its pieces done wrong."""
    pixels = (points + 1) * size / 2
    v, u = torch.meshgrid(torch.arange(size) + shift, torch.arange(size) + shift, indexing="ij")
    squared = (u - pixels[..., 0, None, None]) ** 2 + (v - pixels[..., 1, None, None]) ** 2
    return torch.exp(-squared / (spread * sigma**2)).nan_to_num(0.0)


@check_for("13.2")
def heatmaps(answer):
    points = 1.6 * torch.rand(3, 5, 2) - 0.8
    before, found = points.clone(), answer(points, 20, 1.5)
    expect_type(found, Tensor, "heatmaps of 3 people with 5 joints")
    expect_shape(found, (3, 5, 20, 20), "heatmaps of 3 people with 5 joints")
    right = gaussians(points, 20, 1.5)
    squeezed = (points + 1) * 19 / 20 - 1  # taken to pixels 0 ... size - 1
    for shift in (0.5, 0.0):
        mistake = gaussians(squeezed, 20, 1.5, shift=shift)
        expect_not_close(found, mistake, "Crop coordinate 1 becomes the size, not size - 1: the factor is size / 2")
    mistakes = {
        "The maps are off by half a pixel: pixel i has its centre at i + 0.5": gaussians(points, 20, 1.5, shift=0.0),
        "x and y have changed places: x counts columns, the last dimension": right.mT,
        "The dots are too narrow: the square is divided by 2σ²": gaussians(points, 20, 1.5, spread=1.0),
        "The points were rounded to whole pixels first. Nothing is rounded: the Gaussian knows parts of a pixel": (
            gaussians(2 * (((points + 1) * 10).floor() + 0.5) / 20 - 1, 20, 1.5)
        ),
        "The points were taken as pixels. They are crop coordinates: -1 is the left edge, 1 the right one": (
            gaussians(2 * points / 20 - 1, 20, 1.5)
        ),
        "Each map sums to 1. A heatmap is 1 at the joint": right / right.sum((2, 3), keepdim=True),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, right, "heatmaps of 3 people with 5 joints")
    expect_close(answer(points, 33, 2.0), gaussians(points, 33, 2.0), "the same people in maps of 33 pixels")
    lost = points.clone()
    lost[0, 0], lost[2, 4] = math.nan, math.nan
    lost[1, 2] = 50.0
    partly = answer(lost, 20, 1.5)
    expect_finite(partly, "two joints that are NaN: their maps are zero. The maps")
    expect_close(partly, gaussians(lost, 20, 1.5), "two joints that are NaN, one far outside")
    expect_unchanged(points, before, "The tensor of points")


@wrong_answer("13.2", says="half a pixel")
def heatmaps_corners(points, size, sigma):
    return gaussians(points, size, sigma, shift=0.0)


@wrong_answer("13.2", says="the size, not size - 1")
def heatmaps_short(points, size, sigma):
    return gaussians((points + 1) * (size - 1) / size - 1, size, sigma)


@wrong_answer("13.2", says="the size, not size - 1")
def heatmaps_corners_aligned(points, size, sigma):
    return gaussians((points + 1) * (size - 1) / size - 1, size, sigma, shift=0.0)


@wrong_answer("13.2", says="changed places")
def heatmaps_transposed(points, size, sigma):
    return gaussians(points.flip(-1), size, sigma)


@wrong_answer("13.2", says="rounded")
def heatmaps_rounded(points, size, sigma):
    return gaussians(2 * (((points + 1) * size / 2).floor() + 0.5) / size - 1, size, sigma)


@wrong_answer("13.2", says="crop coordinates")
def heatmaps_of_pixels(points, size, sigma):
    return gaussians(2 * points / size - 1, size, sigma)


@wrong_answer("13.2", says="NaN")
def heatmaps_keep_nan(points, size, sigma):
    return gaussians(points, size, sigma) + 0 * points.sum(-1)[..., None, None]


@wrong_answer("13.2", says="too narrow")
def heatmaps_narrow(points, size, sigma):
    return gaussians(points, size, sigma, spread=1.0)


# ------------------------------------------------------------------------------------------ 13.3 masked heatmaps
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@check_for("13.3")
def masked(answer):
    maps = 0.2 + torch.rand(400, 17, 3, 4)
    before, found = maps.clone(), answer(maps, generator())
    expect_type(found, Tensor, "400 samples with 17 maps")
    expect_shape(found, maps.shape, "400 samples with 17 maps")
    expect_finite(found, "400 samples with 17 maps")
    gone = found == 0
    whole = gone.flatten(2).all(2)  # (B, K)
    expect(
        bool((gone.flatten(2).any(2) == whole).all()),
        "Some maps are zero in places. Whole maps are masked: one number for a channel, not for a pixel",
    )
    expect(bool(whole.any()), "No map is masked in 400 samples")
    kept = torch.where(whole[..., None, None], maps, found)
    expect(
        not torch.allclose(kept, torch.where(whole[..., None, None], maps, maps / 0.7)),
        "The other maps were divided by 0.7, as dropout does. They stay as they are",
    )
    expect_close(kept, maps, "the maps that are not masked")
    count = whole.sum(1)
    expect(
        bool((whole != whole[:1]).any()),
        "All 400 samples lack the same maps. Each sample draws its own: (B, K) random numbers",
    )
    expect(
        count.max() <= 5,
        f"One sample lacks {int(count.max())} maps. At most 30 % of 17, rounded down, may go: 5. First how many, then "
        "which",
    )
    expect(
        count.min() < count.max(),
        f"Every sample lacks {int(count.max())} maps. The share is drawn for each sample: 0 to 5 of them",
    )
    shares = torch.stack([(count == n).float().mean() for n in range(6)])
    expect(
        shares.min() > 0.005 and abs(count.float().mean() - 2.05) < 0.4,
        f"On average {count.float().mean():.1f} maps are masked, 2.1 were expected: shares uniform in [0, 0.3), floor",
    )
    chance = whole.float().mean(0)
    expect(
        chance.min() > 0.03 and chance.max() < 0.25,
        "Some maps are masked far more often than others: rank random numbers, so that each has the same chance",
    )
    again = answer(maps, generator())
    expect(
        torch.equal(again, found), "The same generator gave other masks: draw with torch.rand(..., generator=generator)"
    )
    expect_equal(bool((answer(maps, generator(), 0.0) == maps).all()), True, "nothing masked with most = 0")
    expect_unchanged(maps, before, "The tensor of heatmaps")


@wrong_answer("13.3", says="Whole maps")
def mask_pixels(heatmaps, generator, most=0.3):
    return heatmaps * (torch.rand(heatmaps.shape, generator=generator) > most / 2)


@wrong_answer("13.3", says="First how many")
def mask_each_alone(heatmaps, generator, most=0.3):
    kept = torch.rand(heatmaps.shape[:2], generator=generator) >= most
    return heatmaps * kept[..., None, None]


@wrong_answer("13.3", says="same maps")
def mask_all_alike(heatmaps, generator, most=0.3):
    count = int(most * torch.rand(1, generator=generator) * heatmaps.shape[1]) + 1
    kept = torch.ones(heatmaps.shape[1]).index_fill(
        0, torch.randperm(heatmaps.shape[1], generator=generator)[:count], 0
    )
    return heatmaps * kept[:, None, None]


@wrong_answer("13.3", says="Every sample lacks 5")
def mask_fixed_number(heatmaps, generator, most=0.3):
    rank = torch.rand(heatmaps.shape[:2], generator=generator).argsort(1).argsort(1)
    return heatmaps * (rank >= int(most * heatmaps.shape[1]))[..., None, None]


@wrong_answer("13.3", says="as dropout does")
def mask_and_scale(heatmaps, generator, most=0.3):
    return mpt.mask_heatmaps(heatmaps, generator, most) / 0.7


@wrong_answer("13.3", says="same generator")
def mask_without_generator(heatmaps, generator, most=0.3):
    return mpt.mask_heatmaps(heatmaps, torch.Generator().manual_seed(int(torch.randint(1 << 30, ()))), most)


# ------------------------------------------------------------------------------------------ 13.4 jitter and drop-outs
@check_for("13.4")
def detector(answer):
    points = 1.6 * torch.rand(600, 17, 2) - 0.8
    before, found = points.clone(), answer(points, generator())
    expect_type(found, Tensor, "600 people with 17 joints")
    expect_shape(found, points.shape, "600 people with 17 joints")
    expect_unchanged(points, before, "The tensor of points")
    missing = found.isnan()
    expect(missing.any(), "No joint is missing among 10,200. A dropped joint is NaN")
    expect(
        bool((missing[..., 0] == missing[..., 1]).all()),
        "Some joints are NaN in x or y alone. A joint is dropped whole: draw (B, K) numbers, not (B, K, 2)",
    )
    lost = missing[..., 0]
    expect(
        not bool((lost.any(1) == lost.all(1)).all()),
        "People are dropped whole, or not at all. Each joint has its own chance",
    )
    expect(
        0.08 < lost.float().mean() < 0.12,
        f"{100 * lost.float().mean():.0f} % of the joints are missing, 10 % were expected",
    )
    off = (found - points)[~lost] * 56  # pixels of a map of 112
    spread = off.std().item()
    expect(
        not 40 < spread < 70,
        f"The joints are off by {spread:.0f} pixels of 112, 1 was expected: in crop coordinates a pixel is 2 / 112",
    )
    expect(
        not 0.45 < spread < 0.55,
        "The joints are off by half a pixel of 112, 1 was expected: the crop is 2 wide, so a pixel is 2 / 112",
    )
    expect(
        0.95 < spread < 1.05, f"The joints are off by {spread:.2f} pixels of 112 (standard deviation), 1 was expected"
    )
    expect(off.mean().abs() < 0.05, f"The noise has the mean {off.mean():.2f} pixels: normal noise has 0 (torch.randn)")
    expect(
        off.abs().max() > 2, "No joint is off by more than two standard deviations: the noise is normal (torch.randn)"
    )
    one = answer(points, generator(), 1.0, 0.0) - points
    expect(one.std(1).mean() > 1e-3, "All joints of a person are off by the same: each has its own noise, (B, K, 2)")
    expect(
        (one[..., 0] - one[..., 1]).abs().mean() > 1e-3,
        "x and y are off by the same: each has its own noise, (B, K, 2)",
    )
    expect_close(answer(points, generator(), 0.0, 0.0), points, "nothing wrong with noise and dropped at 0")
    expect(answer(points, generator(), 1.0, 1.0).isnan().all(), "With dropped = 1 every joint is NaN")
    again = answer(points, generator()).nan_to_num(9.0)
    expect(
        torch.equal(again, found.nan_to_num(9.0)),
        "The same generator gave other noise: draw with torch.randn(..., generator=generator)",
    )


@wrong_answer("13.4", says="in crop coordinates a pixel is 2 / 112")
def jitter_in_pixels(points, generator, noise=1.0, dropped=0.1):
    return mpt.jittered(points, generator, 56 * noise, dropped)


@wrong_answer("13.4", says="half a pixel")
def jitter_half(points, generator, noise=1.0, dropped=0.1):
    return mpt.jittered(points, generator, noise / 2, dropped)


@wrong_answer("13.4", says="dropped whole")
def jitter_drops_coordinates(points, generator, noise=1.0, dropped=0.1):
    found = mpt.jittered(points, generator, noise, 0.0)
    return found.masked_fill(torch.rand(points.shape, generator=generator) < dropped, math.nan)


@wrong_answer("13.4", says="same for|by the same")
def jitter_moves_people(points, generator, noise=1.0, dropped=0.1):
    off = noise * 2 / 112 * torch.randn(len(points), 1, 2, generator=generator)
    lost = torch.rand(points.shape[:2], generator=generator) < dropped
    return (points + off).masked_fill(lost[..., None], math.nan)


@wrong_answer("13.4", says="changed in place")
def jitter_in_place(points, generator, noise=1.0, dropped=0.1):
    points += noise * 2 / 112 * torch.randn(points.shape, generator=generator)
    points[torch.rand(points.shape[:2], generator=generator) < dropped] = math.nan
    return points


@wrong_answer("13.4", says="people are dropped|People are dropped")
def jitter_drops_people(points, generator, noise=1.0, dropped=0.1):
    found = mpt.jittered(points, generator, noise, 0.0)
    lost = torch.rand(len(points), generator=generator) < dropped
    return found.masked_fill(lost[:, None, None], math.nan)


# --------------------------------------------------------------------------------------------- 13.5 the up-sampling
def up_layers() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(4, 7), nn.Linear(7, 9)])


@check_for("13.5")
def upsampling(answer):
    layers, coarse = up_layers(), torch.randn(2, 4, 3)
    before = coarse.clone()
    found = answer(layers, coarse)
    expect_type(found, (list, tuple), "the meshes")
    expect(
        len(found) == 3,
        f"{len(found)} meshes came back for two layers. Three were expected: the finest, the middle one, the coarse "
        "mesh itself",
    )
    middle = layers[0](coarse.mT).mT
    fine = layers[1](middle.mT).mT
    for mesh in found:
        expect_type(mesh, Tensor, "a mesh")
    shapes = [tuple(mesh.shape) for mesh in found]
    backwards = [(2, 4, 3), (2, 7, 3), (2, 9, 3)]
    expect(shapes != backwards, "The coarse mesh comes first. The finest first, the coarse one last")
    for mesh, count in zip(found, (9, 7, 4), strict=True):
        expect_shape(mesh, (2, count, 3), f"the mesh of {count} vertices")
    mixed = layers[0](coarse.reshape(2, 3, 4)).reshape(2, 7, 3)
    expect_not_close(
        found[1], mixed, "x, y and z were mixed up: reshape doesn't swap two dimensions, .mT (transpose) does"
    )
    expect_close(found, [fine, middle, coarse], "two layers on a mesh of 4 vertices")
    expect_unchanged(coarse, before, "The coarse mesh")


@wrong_answer("13.5", says="coarse mesh comes first")
def upsampled_backwards(layers, coarse):
    meshes = [coarse]
    for layer in layers:
        meshes.append(layer(meshes[-1].mT).mT)
    return meshes


@wrong_answer("13.5", says="reshape doesn't swap")
def upsampled_by_reshape(layers, coarse):
    meshes = [coarse]
    for layer in layers:
        x = meshes[0]
        meshes.insert(0, layer(x.reshape(len(x), 3, -1)).reshape(len(x), -1, 3))
    return meshes


@wrong_answer("13.5", says="Three were expected")
def upsampled_without_coarse(layers, coarse):
    meshes = []
    for layer in layers:
        coarse = layer(coarse.mT).mT
        meshes.insert(0, coarse)
    return meshes


@wrong_answer("13.5", says="shapes cannot be multiplied")
def upsampled_along_xyz(layers, coarse):
    return [layers[1](layers[0](coarse)), layers[0](coarse), coarse]


# --------------------------------------------------------------------------------------------- 13.6 a post-norm layer
@check_for("13.6")
def post_norm_block(answer):
    block, x = mpt.PostNormBlock(8, 2, 16, dropout=0.0), 2 * torch.randn(2, 5, 8)
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    found = answer(block, x)
    expect_type(found, Tensor, "the layer's output")
    expect_shape(found, (2, 5, 8), "the layer's output for 5 tokens of width 8")
    n1, n2, attn, mlp = block.norm1, block.norm2, block.attn, block.mlp
    u = n1(x + attn(x))
    pre = x + attn(n1(x))
    mistakes = {
        "This is the pre-norm layer of chapter 04. In (13.8) the norm stands behind each sum": pre + mlp(n2(pre)),
        "The second sum adds x. Both u's of the second line are what the first line has made": n2(x + mlp(u)),
        "The MLP reads x. It reads u, what the attention's half has made": n2(u + mlp(x)),
        "The sums are missing: what came in is added before each norm": n2(mlp(n1(attn(x)))),
        "The two norms have changed places: norm1 belongs to the attention": (
            n1(n2(x + attn(x)) + mlp(n2(x + attn(x))))
        ),
        "The last norm is missing: what leaves the layer is normalised": u + mlp(u),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, n2(u + mlp(u)), "a layer without dropout")
    block.drop.p = 1.0  # everything that is dropped is 0
    expect_close(
        answer(block, x), n2(n1(x)), "with a dropout of 1 only the sums' first terms are left (self.drop, in both sums)"
    )


@wrong_answer("13.6", says="pre-norm layer of chapter 04")
def pre_norm(self, x):
    x = x + self.drop(self.attn(self.norm1(x)))
    return x + self.drop(self.mlp(self.norm2(x)))


@wrong_answer("13.6", says="second sum adds x")
def adds_the_input_twice(self, x):
    u = self.norm1(x + self.drop(self.attn(x)))
    return self.norm2(x + self.drop(self.mlp(u)))


@wrong_answer("13.6", says="sums are missing")
def without_sums(self, x):
    return self.norm2(self.mlp(self.norm1(self.attn(x))))


@wrong_answer("13.6", says="last norm is missing")
def without_last_norm(self, x):
    u = self.norm1(x + self.drop(self.attn(x)))
    return u + self.drop(self.mlp(u))


@wrong_answer("13.6", says="dropout of 1")
def without_dropout(self, x):
    x = self.norm1(x + self.attn(x))
    return self.norm2(x + self.mlp(x))


# ---------------------------------------------------------------------------------------------- 13.7 counting a stage
def stage_sum(inputs, width, outputs, hidden, layers=4, positions=512, bias=1, norms=4, maps=4, around=1, table=1):
    """The count, with parts that learners forget as factors."""
    layer = maps * (width * width + bias * width) + 2 * width * hidden + bias * (hidden + width) + norms * width
    ways = (inputs + bias) * width + (width + bias) * outputs + around * (inputs + bias) * outputs
    return ways + table * positions * width + layers * layer


@check_for("13.7")
def counting(answer):
    sizes = (11, 6, 5, 14, 3, 20)
    found = answer(*sizes)
    expect_type(found, int, "the number of weights")
    mistakes = {
        "The biases are missing: a linear map from a to b numbers has ab + b weights": {"bias": 0},
        "4D a layer are missing: its two norms (2D each), or the biases of the four attention maps": {"norms": 0},
        "2D a layer are missing. It has *two* norms of 2D weights each: weight and bias": {"norms": 2},
        "The map behind the attention is missing: queries, keys, values and that one make four": {"maps": 3},
        "The map around the layers, inputs to outputs, is missing": {"around": 0},
        "The position embedding is missing": {"table": 0},
    }
    for words, changed in mistakes.items():
        expect(found != stage_sum(*sizes, **changed), words)
    expect(found != stage_sum(*sizes[:4], layers=1, positions=20), "Only one layer was counted; there are `layers`")
    expect(found != stage_sum(*sizes[:4], 4, 20), "Four layers were counted. There are `layers`, here 3")
    expect(found != stage_sum(*sizes[:4], 3, 512), "512 positions were counted. There are `positions`, here 20")
    both = "4 layers and 512 positions were counted. There are `layers` and `positions`, here 3 and 20"
    expect(found != stage_sum(*sizes[:4], 4, 512), both)
    meant = stage_sum(*sizes)
    expect(found == meant, f"a stage 11 -> 6 -> 5 with MLPs of 14, 3 layers, 20 positions: {found}, not {meant}")
    big = answer(2051, 1024, 512, 4096)
    expect(big == stage_sum(2051, 1024, 512, 4096), f"MPT's first stage: {big}, not {stage_sum(2051, 1024, 512, 4096)}")


@wrong_answer("13.7", says="biases are missing")
def counted_without_biases(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers, positions, bias=0)


@wrong_answer("13.7", says="norms .2D each., or the biases of the four attention maps")
def counted_without_attention_biases(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers, positions) - layers * 4 * width


@wrong_answer("13.7", says="There are `layers`, here 3")
def counted_four_layers(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, 4, positions)


@wrong_answer("13.7", says="There are `positions`, here 20")
def counted_512_positions(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers)


@wrong_answer("13.7", says="`layers` and `positions`")
def counted_both_fixed(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden)


@wrong_answer("13.7", says="map behind the attention")
def counted_three_maps(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers, positions, maps=3)


@wrong_answer("13.7", says="around the layers")
def counted_without_residual(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers, positions, around=0)


@wrong_answer("13.7", says="two\\* norms")
def counted_half_norms(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers, positions, norms=2)


@wrong_answer("13.7", says="position embedding")
def counted_without_positions(inputs, width, outputs, hidden, layers=4, positions=512):
    return stage_sum(inputs, width, outputs, hidden, layers, positions, table=0)


# ---------------------------------------------------------------------------------- 13.8 the fit with missing joints
def fit_people() -> tuple[Tensor, Tensor, Tensor]:
    """Two people, 9 points each, seen by a weak-perspective camera and some noise; weights of many sizes, some 0."""
    points = 0.5 * torch.randn(2, 9, 3) + torch.tensor([0.2, -0.3, 1.0])
    spots = torch.tensor([0.9, 1.3])[:, None, None] * (points[..., :2] + torch.tensor([[0.1, -0.2]]))
    weight = torch.rand(2, 9) + 0.1
    weight[:, 6:] = 0
    return points, spots + 0.05 * torch.randn(2, 9, 2), weight


def by_lstsq(points: Tensor, spots: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same by least squares in s, s t_x, s t_y: an independent way."""
    scales, shifts = [], []
    for X, x, w in zip(points.double(), spots.double(), weight.double(), strict=True):
        root = w.sqrt().repeat_interleave(2)
        A = torch.stack([X[:, :2].flatten(), *torch.eye(2).repeat(len(X), 1).T], 1)
        s, a, b = torch.linalg.lstsq(A.double() * root[:, None], (x.flatten() * root)[:, None]).solution[:, 0]
        scales.append(s)
        shifts.append(torch.stack([a, b]) / s)
    return torch.stack(scales).float(), torch.stack(shifts).float()


@check_for("13.8")
def weak_fit(answer):
    points, spots, weight = fit_people()
    found = answer(points, spots, weight)
    expect_type(found, (tuple, list), "the camera")
    expect(len(found) == 2, f"{len(found)} values came back, scale and translation were expected")
    expect_type(found[0], Tensor, "the scale")
    expect_shape(found[0], (2,), "the scale of 2 people")
    expect_shape(found[1], (2, 2), "the translation of 2 people")
    scale, translation = by_lstsq(points, spots, weight)
    plain, plain_shift = by_lstsq(points, spots, torch.ones_like(weight))
    expect_not_close(found[0], plain, "The weights don't count: points of weight 0 were fitted, too", atol=1e-4)
    half = by_lstsq(points, spots, (weight > 0).float())
    expect_not_close(found[0], half[0], "Every seen point counts the same. The weights are to count", atol=1e-4)
    for even in (torch.ones_like(weight), (weight > 0).float()):
        mistake = plain_fit(points, spots, weight, even)[0]
        expect_not_close(
            found[0], mistake, "The means are without weights: in (13.11) they are weighted, too", atol=1e-4
        )
    expect_close(found[0], scale, "the scale", atol=1e-4)
    expect_not_close(
        found[1], scale[:, None] * translation, "The shift is s t. In (13.10) t is added before the scale: divide by s"
    )
    expect_close(found[1], translation, "the translation", atol=1e-4)
    points[:, 6:], spots[:, 6:] = torch.nan, torch.nan
    found = answer(points, spots, weight)
    spoiled = (
        "A point of weight 0 that is NaN spoils the answer: NaN times 0 is NaN. First put 0 there, in the points and "
        "in the spots"
    )
    expect(found[0].isfinite().all() and found[1].isfinite().all() and found[0].all(), spoiled)
    expect_close(found[0], scale, "the scale, with NaN where the weight is 0", atol=1e-4)
    expect_close(found[1], translation, "the translation, with NaN where the weight is 0", atol=1e-4)
    for left, words in ((0, "no point"), (1, "one point")):
        few = (torch.arange(9) < left).float().expand(2, 9)
        found = answer(points, spots, few)
        for name, values in zip(("scale", "translation"), found, strict=True):
            expect(values.isfinite().all(), f"with {words} left the {name} is not finite: it is to be 0")
            expect(not values.any(), f"with {words} left the {name} is {values[0].tolist()}: it is to be 0")
    points[:, :2], spots[:, :2] = torch.tensor([0.5, -0.25, 1.0]), torch.tensor([0.75, 0.5])
    found = answer(points, spots, (torch.arange(9) < 2).float().expand(2, 9))
    for name, values in zip(("scale", "translation"), found, strict=True):
        expect(values.isfinite().all(), f"with two points in one place the {name} is not finite: it is to be 0")
        where = f"with two points in one place, (0.5, -0.25), the {name} is {values[0].tolist()}"
        expect(not values.any(), f"{where}: it is to be 0. Look at how far they stand apart, not at how many there are")


@wrong_answer("13.8", says="weights don't count")
def fit_of_all(points, spots, weight):
    return by_lstsq(points.nan_to_num(), spots.nan_to_num(), torch.ones_like(weight))


@wrong_answer("13.8", says="Every seen point counts the same")
def fit_of_the_seen(points, spots, weight):
    return by_lstsq(points.nan_to_num(), spots.nan_to_num(), (weight > 0).float())


def plain_fit(points, spots, weight, means=None):
    """Equation 13.11 without any guard; means: other weights (B, N) for the means."""
    w, m = weight[..., None], (weight if means is None else means)[..., None]
    X, x = points[..., :2], spots
    X_mean, x_mean = (m * X).sum(1) / m.sum(1), (m * x).sum(1) / m.sum(1)
    apart, seen = X - X_mean[:, None], x - x_mean[:, None]
    return (w * apart * seen).sum((1, 2)) / (w * apart * apart).sum((1, 2)), X_mean, x_mean


@wrong_answer("13.8", says="NaN times 0 is NaN")
def fit_with_nan(points, spots, weight):
    scale, X_mean, x_mean = plain_fit(points, spots, weight)
    return scale, x_mean / scale[:, None] - X_mean


@wrong_answer("13.8", says="NaN times 0 is NaN")
def fit_guarded_but_with_nan(points, spots, weight):
    scale, X_mean, x_mean = plain_fit(points, spots, weight)
    known = scale.abs() > 1e-9  # NaN isn't
    scale = scale.where(known, 0.0)
    translation = x_mean / torch.where(known, scale, 1.0)[:, None] - X_mean
    return scale, translation.where(known[:, None], 0.0)


@wrong_answer("13.8", says="means are without weights")
def fit_plain_means(points, spots, weight):
    seen = weight[..., None] > 0
    scale, X_mean, x_mean = plain_fit(points.where(seen, 0.0), spots.where(seen, 0.0), weight, (weight > 0).float())
    return scale, x_mean / scale[:, None] - X_mean


@wrong_answer("13.8", says="two points in one place")
def fit_counts_points(points, spots, weight):
    seen = weight[..., None] > 0
    scale, X_mean, x_mean = plain_fit(points.where(seen, 0.0), spots.where(seen, 0.0), weight)
    enough = seen.sum((1, 2)) > 1
    translation = x_mean / scale[:, None] - X_mean
    return scale.where(enough, 0.0), translation.where(enough[:, None], 0.0)


@wrong_answer("13.8", says="divide by s")
def fit_shift_after_scale(points, spots, weight):
    scale, X_mean, x_mean = plain_fit(points, spots, weight)
    return scale, x_mean - scale[:, None] * X_mean


@wrong_answer("13.8", says="not finite")
def fit_without_guard(points, spots, weight):
    seen = weight[..., None] > 0
    scale, X_mean, x_mean = plain_fit(points.where(seen, 0.0), spots.where(seen, 0.0), weight)
    return scale, x_mean / scale[:, None] - X_mean


# ---------------------------------------------------------------------------------- 13.9 warm-up and linear decay
@check_for("13.9")
def warmed_up(answer):
    first = answer(0, 100)
    expect_type(first, float, "the learning rate of step 0")
    expect(first > 0, "Step 0 has a rate of 0: it would learn nothing. (13.12) has k + 1 in the rise")
    peak = answer(9, 100)
    expect(abs(peak - 2e-4) < 1e-9, f"the warm-up's last step, 9 of 100, has {peak:.3g}: the peak 2e-4 was expected")
    expect(
        abs(answer(55, 100) - 2e-4 * 0.45) > 1e-9,
        "The line begins at step 0. It falls from the end of the warm-up on: (k - W) / (T - W)",
    )
    cosine = 1e-4 * (1 + math.cos(math.pi * 22 / 90))
    expect(abs(answer(32, 100) - cosine) > 1e-9, "After the warm-up it falls along a cosine. The paper has a line")
    expect(answer(99, 100) < 2e-4 * 0.02, "The rate doesn't fall to 0: step 99 of 100 is nearly there")
    for step, steps in ((0, 100), (4, 100), (10, 100), (55, 100), (99, 100), (3, 7)):
        rise = round(0.1 * steps)
        meant = 2e-4 * min(1, (step + 1) / rise) * (1 - max(0, step - rise) / (steps - rise))
        found = answer(step, steps)
        expect(abs(found - meant) < 1e-9, f"step {step} of {steps}: {found:.4g}, {meant:.4g} was expected")
    flat = answer(0, 10, 1.0, 0.0)
    expect(abs(flat - 1) < 1e-9, f"without a warm-up step 0 has the peak, 1; {flat} came back")


@wrong_answer("13.9", says="Step 0 has a rate of 0")
def rate_from_zero(step, steps, peak=2e-4, warmup=0.1):
    rise = round(warmup * steps)
    return peak * float(min(1, step / rise)) * (1 - max(0, step - rise) / (steps - rise))


@wrong_answer("13.9", says="line begins at step 0")
def rate_line_from_start(step, steps, peak=2e-4, warmup=0.1):
    rise = round(warmup * steps)
    return peak * (step + 1) / rise if step < rise else peak * (1 - step / steps)


@wrong_answer("13.9", says="along a cosine")
def rate_cosine(step, steps, peak=2e-4, warmup=0.1):
    rise = round(warmup * steps)
    share = max(0, step - rise) / (steps - rise)
    return peak * min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * share))


@wrong_answer("13.9", says="ZeroDivisionError")
def rate_without_guard(step, steps, peak=2e-4, warmup=0.1):
    rise = round(warmup * steps)
    return peak * min(1.0, (step + 1) / rise) * (1 - max(0, step - rise) / (steps - rise))

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 09: DAViD, the data
#
# (Header and sections 1 to 4 stand elsewhere for now.)

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import sympy

from course_lib import plots
from course_lib.scale import pick

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from kornia.enhance import adjust_hue, adjust_saturation
from kornia.filters import gaussian_blur2d
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d
from torch.nn.functional import normalize as unit

from course_lib.chapters.sapiens_dense import looked_up, pseudo_normals, unpacked
from course_lib.exercises import TODO, check, exercise
from course_lib.recipe import Batch

# %% [markdown]
# ## 5 Files: SynthHuman's own layout
#
# **The question.** The authors gave SynthHuman away: 298,008 pictures with alpha, depth and normals. Ours are rendered
# in seconds, theirs are better. How do we write ours so that a program can't tell them apart, and read theirs so that
# the same cell trains on either?
#
# **The idea.** A data set is two things: a *layout* (which files, which names) and a *meaning* (which unit, which
# axes, what says "nothing here"). A wrong layout stops with an error. A wrong meaning trains, for days, on the wrong
# thing. So the layout is left to a module, `course_lib.data.synthhuman`, and the meaning stands here.
#
# | file of sample 12 | holds | here |
# |---|---|---|
# | `rgb_0000012.png` | 8 bits, (H, W, 3) | float in [0, 1], (3, H, W) |
# | `alpha_0000012.png` | 8 bits, 0 to 255 | float in [0, 1] |
# | `depth_0000012.exr` | camera z in **centimetres**, **65504** where there is none | metres, infinite |
# | `normal_0000012.exr` | x, y, z as channels R, G, B | (3, H, W), 0 where there is none |
# | `cam_0000012.txt` | K, 3 × 3 | the same |
#
# One flat folder, seven digits. Indices 0 to 98,039 are faces, 98,040 to 198,015 full bodies, the rest upper bodies.
#
# EXR is a picture format for numbers instead of colours: any number of channels, of 16 or 32 bits each, packed without
# loss. 65504 is no accident: it is the largest number that 16 bits can hold.
#
# **What sixteen bits cost.** A number of 16 bits has 11 binary digits. So at a depth of $z$ cm the next number is
# $2^{\lfloor \log_2 z\rfloor - 10}$ away:

# %%
assert np.finfo(np.float16).max == 65504
metres = np.linspace(0.3, 6, 2000)
centimetres = 100 * metres
error = np.abs(centimetres.astype(np.float16).astype(np.float64) - centimetres)  # cm
step = 2.0 ** (np.floor(np.log2(centimetres)) - 10)
assert (error <= step / 2 + 1e-9).all() and error[metres > 2.6].max() > 0.12
plots.curve({"step": 10 * step, "largest error": 5 * step}, x=metres, xlabel="depth (m)", ylabel="mm", ylim=(0, None))

# %% [markdown]
# *At arm's length 16 bits are good to a third of a millimetre, at three metres the steps are 2.5 mm.* A nose stands
# out by 25 mm: ten steps. That is plenty for a depth error; for slopes it is a staircase. Which of the two the release
# uses isn't known to us; our reader takes both, and we write 32 bits unless told otherwise (`dtype`).
#
# **The axes of the normals.** That the channels are x, y, z is in the authors' viewer. Whether y points up or down, and
# z towards the viewer or away, is written nowhere that we found. We **assume** our own convention (x right, y up, z
# towards the viewer) and make it one argument: `signs` = (1, 1, 1). OpenCV's axes would be (1, −1, −1).

# %% [markdown]
# ### Exercise 09.7 — into the release's numbers  ●●○ (15 min)
#
# Write the five arrays of a sample. Round bytes, don't cut them off. A depth that is not finite becomes `INVALID`;
# `dtype` is that of depth and normals.
#
# <details><summary>Hint 1</summary>
#
# Both picture and normals come as (3, H, W) and go as (H, W, 3): `values.transpose(1, 2, 0)`.
# </details>
# <details><summary>Hint 2</summary>
#
# `np.where(np.isfinite(depth), 100 * depth, INVALID)`. The signs are one number a channel: they multiply the last axis.
# </details>

# %% tags=["export"]
INVALID = 65504.0  # cm, the largest number of 16 bits: no depth here
SIGNS = (1, 1, 1)  # of the release's x, y, z beside ours (right, up, towards the viewer): assumed


def checked(sample, names: tuple[str, ...]) -> None:
    """ValueError, naming the sample, for a label that is missing or NaN, or has another size than the image."""
    if missing := [name for name in names if getattr(sample, name) is None]:
        raise ValueError(f"sample {sample.key} has no {', '.join(missing)}: take data with these labels")
    for name in names:
        values, size = getattr(sample, name), sample.image.shape[1:]
        if name != "K" and values.shape[-2:] != size:
            raise ValueError(
                f"sample {sample.key}: image is {size}, but {name} is {values.shape[-2:]}: crop both alike"
            )
        if np.isnan(values).any():
            raise ValueError(f"sample {sample.key}: {name} has NaN in it: leave it out, or make it anew")


# %% tags=["export"]
@exercise("09.7")
def to_release(sample, signs: tuple[int, int, int] = SIGNS, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """A sample -> the arrays of its files: rgb (H, W, 3) and alpha (H, W) uint8, depth (H, W) in cm and normal
    (H, W, 3) of `dtype`, cam (3, 3) float64. INVALID where there is no depth. ValueError as of `checked`."""
    checked(sample, ("image", "alpha", "depth", "normals", "K"))
    raise TODO


# %%
check(to_release)


# %% [markdown]
# The way back. Whatever is at or above 65504 is nobody's; normals are brought to length 1 again, since 16 bits bend
# them a little, and are 0 where there is no depth.

# %% tags=["export"]
def from_release(arrays: dict[str, np.ndarray], signs: tuple[int, int, int] = SIGNS) -> dict[str, np.ndarray]:
    """The arrays of `to_release`, of any float type -> fields of a sample: image, alpha, depth, normals, K. ValueError
    for a depth that is not positive."""
    depth = arrays["depth"].astype(np.float32)
    known = depth < INVALID  # (H, W)
    if (depth <= 0).any():
        raise ValueError(f"depth: centimetres above 0 were expected, found {depth.min():.6g}")
    normals = (arrays["normal"].astype(np.float32) * np.array(signs, np.float32)).transpose(2, 0, 1)  # (3, H, W)
    length = np.linalg.norm(normals, axis=0)
    return {
        "image": np.ascontiguousarray(arrays["rgb"].transpose(2, 0, 1), np.float32) / 255,
        "alpha": arrays["alpha"].astype(np.float32) / 255,
        "depth": np.where(known, depth / 100, np.inf).astype(np.float32),
        "normals": np.where(known & (length > 0.5), normals / length.clip(1e-6), 0).astype(np.float32),
        "K": arrays["cam"].astype(np.float32),
    }


# %% [markdown]
# Now a few people are written as the release has them, and read back.

# %%
import tempfile

from course_lib.data.synthhuman import SynthHuman, read_file, write_release
from course_lib.data.worlds import render_samples

WORLD = "wild"
SHAPE = pick(smoke=(64, 48), laptop=(256, 192))  # the release: (512, 384)
COUNT = pick(smoke=3, laptop=8)
crowd = [next(render_samples(WORLD, "train", 0, index, SHAPE, formats=("coco17",))) for index in range(COUNT)]
release = tempfile.TemporaryDirectory()  # goes when the kernel ends
print(write_release(release.name, crowd), "samples written, the second time", write_release(release.name, crowd))
read = SynthHuman(release.name)
print(sorted(path.name for path in read.folder.iterdir())[:4], "...")

# %%
shown = next(index for index, sample in enumerate(read) if np.isfinite(sample.depth).mean() > 0.1)
ours, theirs = crowd[shown], read[shown]
known = np.isfinite(ours.depth)
assert (known == np.isfinite(theirs.depth)).all() and np.abs(ours.depth[known] - theirs.depth[known]).max() < 1e-5
assert np.abs(ours.alpha - theirs.alpha).max() <= 0.5 / 255 + 1e-6
assert (ours.normals * theirs.normals).sum(0)[known].min() > 0.9999 and (ours.K == theirs.K).all()
raw = {name: read_file(read.folder / f"{name}_{shown:07d}.exr") for name in ("depth", "normal")}
nearest, farthest = 100 * ours.depth[known].min(), 100 * ours.depth[known].max()  # cm
grey = (raw["depth"].clip(nearest, farthest) - nearest) / (farthest - nearest)
pictures = [theirs.image, theirs.alpha, grey, raw["normal"] / 2 + 0.5]
names = ["rgb", "alpha", f"depth, {nearest:.0f} to {farthest:.0f} cm", "normal / 2 + ½"]
plots.show_images(pictures, names, height=2.6)


# %% [markdown]
# *The numbers of the files as they are. Where nobody is, the depth is 65504 (white here, as all that is farther than
# the person), and the normal is 0 (grey).*
#
# ### Ask the data which way its axes point
#
# The convention is nowhere written, but it is **measurable**: depth and K alone give rough normals (chapter 08,
# `pseudo_normals`), in our convention. Their components correlate with those of the file: which channel is which axis
# shows as the largest entry of a row, and which way it points as its sign.

# %% tags=["export"]
def axes_agreement(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Fields of `from_release` -> correlations (3, 3): row, x, y and z of normals out of the depth (right, up, towards
    the viewer); column, channel of the file's normals. ValueError where hardly anybody is."""
    depth, K = (torch.from_numpy(fields[name])[None] for name in ("depth", "K"))
    rough = pseudo_normals(depth, K)[0].flatten(1)  # (3, N)
    given = torch.from_numpy(fields["normals"]).flatten(1)
    both = (rough.square().sum(0) > 0.5) & (given.square().sum(0) > 0.5)
    if both.sum() < 16:
        raise ValueError(f"{int(both.sum())} pixels with depth and normals are too few: take another picture")
    return torch.corrcoef(torch.cat([rough[:, both], given[:, both]]))[:3, 3:].numpy()


# %%
for told, signs in {"as ours": (1, 1, 1), "OpenCV's": (1, -1, -1)}.items():
    found = axes_agreement(from_release(to_release(ours, signs)))  # written with these, read as if they were ours
    print(f"written {told:9s} the file's signs are {[int(x) for x in np.sign(np.diag(found))]}")
    assert (np.abs(found).argmax(1) == [0, 1, 2]).all() and (np.sign(np.diag(found)) == signs).all()
print(found.round(2))

# %% [markdown]
# *The last matrix, of the normals with OpenCV's axes: large on the diagonal, so x, y and z are in their places; minus
# for y and z.* Run this on the first picture that you download, before anything else; if it says something else than
# (1, 1, 1), give `SynthHuman(folder, signs=...)` what it says.
#
# ### Train on the real one
#
# Set `COURSE_SYNTHHUMAN` to a folder into which you unpacked chunks of the release (each has 5,000 samples; begin with
# the single sample and one chunk), and this and every later cell takes it instead of ours. Gaps between chunks don't
# matter, a half-unpacked sample does: the reader says which file is missing. For much data,
# `course_lib.data.synthhuman.to_shards` makes a folder of shards of it once, for `ShardStream`.

# %%
import os

folder = os.environ.get("COURSE_SYNTHHUMAN", release.name)
people = SynthHuman(folder, limit=COUNT)
print(f"{len(people)} samples of {people[0].image.shape[1:]} pixels, first {people[0].key}, last {people[-1].key}")


# %% [markdown]
# ## 6 Augmentation
#
# **The question.** 300,000 rendered pictures are clean: sharp, without noise, never compressed. A photograph is not.
# What has to be done to a rendered picture, and to its labels, before a network sees it?
#
# **The idea** (App. B.6). Two kinds. *Geometric* ones move the picture and its labels together. *Photometric* ones
# change the picture alone, in the ways of a camera: lens, sensor, processing, storage. The paper names each but gives
# no range and no probability; the numbers here are our choices.

# %% tags=["export"]
@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a picture, App. B.6; every number is our choice. on: False leaves all as it is.

    zoom: smallest and largest scale. shift: of the window, as a share of it. chance: of each change of the image alone;
    grey has its own. blur: largest standard deviation, as a share of the shorter side. gain, sigma: largest of
    `iso_noise`. brightness, contrast, saturation: largest change; hue: in turns of the colour circle. quality: of JPEG.
    """

    on: bool = True
    zoom: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    chance: float = 0.3
    blur: float = 0.005
    gain: float = 0.01
    sigma: float = 0.02
    brightness: float = 0.2
    contrast: float = 0.3
    hue: float = 0.05
    saturation: float = 0.3
    grey: float = 0.1
    quality: tuple[int, int] = (30, 95)

    def __post_init__(self):
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom={self.zoom}: give the smallest scale, above 0, and the largest")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality={self.quality}: JPEG has qualities from 1 to 100, the lower one first")
        if not (0 <= self.chance <= 1 and 0 <= self.grey <= 1):
            raise ValueError(f"chance={self.chance} and grey={self.grey} are probabilities: from 0 to 1")


# %% [markdown]
# In memory, pictures and labels lie as small numbers (a quarter of the space):

# %% tags=["export"]
def packed(sample) -> Batch:
    """A sample -> image (3, H, W) and alpha (H, W) uint8, depth (H, W) float32 in metres, 0 where nobody is, normals
    (3, H, W) int8, times 127. `unpacked` (chapter 08) makes floats of a batch of them. ValueError as of `checked`."""
    checked(sample, ("image", "alpha", "depth", "normals"))
    image, alpha = (torch.from_numpy(255 * values).round().byte() for values in (sample.image, sample.alpha))
    depth = torch.from_numpy(np.where(np.isfinite(sample.depth), sample.depth, 0).astype(np.float32))
    normals = torch.from_numpy(127 * sample.normals).round().to(torch.int8)
    return {"image": image, "alpha": alpha, "depth": depth, "normals": normals}


# %%
one = {name: values[None] for name, values in packed(people[shown]).items()}  # a batch of one
plain = unpacked(one)
for name, values in one.items():
    print(
        f"{name:8s} {tuple(values.shape)} {values.dtype}, {values.nbytes / plain[name].nbytes:.2f} of the floats' bytes"
    )


# %% [markdown]
# ### Zoom and shift
#
# A window of the picture is enlarged or shrunk to the size that the network takes. What happens to the labels?
#
# - **Alpha** is a share of a pixel: where pixels are mixed, shares are mixed. Bilinear.
# - **Depth** keeps its *values*. A zoom is a longer lens, not a step forward: K changes, z doesn't. A network that sees
#   the picture alone can hardly tell the two apart, so metres would be a guess. The target is *relative* depth, judged
#   up to scale and shift (§3.3), and that doesn't care: it comes out the same from 1 m and 2 m, and if the window cuts
#   off the nearest point, what remains is the old relative depth with another scale and shift.
# - **Normals** keep their values too: a crop doesn't turn the camera.
# - But where depth and normals are *read*, there must be no mixing: halfway between a hand at 1 m and the chest at
#   1.4 m there is nothing at 1.2 m; and where nobody is there stands a 0, which is no depth at all. Nearest pixel.
#
# `looked_up` of chapter 08 does just that. How much does it matter? The same window, its depth once read bilinearly:

# %% tags=["export"]
def window(source: tuple[int, int], size: tuple[int, int], zoom: float, right: float, down: float) -> Tensor:
    """Where the pixels of a window of `size` lie in a picture of the size `source`: a grid (1, h, w, 2), edges at ±1.

    At zoom 1 it is the largest part of that shape, in the middle; right, down: moved by so many of its sides."""
    (height, width), (h, w) = source, size
    scale = min(height / h, width / w) / zoom  # pixels of the picture to one of the window
    across, along = scale * w / width, scale * h / height  # 1 for the whole picture
    rows = [[across, 0.0, 2 * right * across], [0.0, along, 2 * down * along]]
    return affine_grid(torch.tensor([rows]), [1, 1, h, w], align_corners=False)


# %%
size = plain["depth"].shape[-2:]
grid = window(size, size, 1.25, 0.02, -0.03)
near = {name: looked_up(name, values, grid) for name, values in plain.items()}
mixed = looked_up("image", plain["depth"], grid)  # as if it were a picture
wrong = (mixed > 0) & ((mixed - near["depth"]).abs() > 0.1)
people_pixels = plain["depth"][plain["depth"] > 0]
assert wrong.sum() > 20 and torch.isin(near["depth"], plain["depth"]).all() and near["alpha"].unique().numel() > 20
pictures = [near["image"][0], near["alpha"][0], plots.colour_depth(near["depth"][0]), plots.colour_ids(wrong[0].byte())]
names = ["the window", "its alpha", "its depth", f"{int(wrong.sum())} pixels in mid-air"]
plots.show_images(pictures, names, height=2.6)

# %% [markdown]
# *Right: pixels whose bilinear depth is more than 10 cm from that of the nearest pixel: a cut-out line around the whole
# person, at depths where nothing is.*
#
# And does relative depth not care? The window's own, computed from what is left in it, beside that of the whole picture
# seen through the window: the best scale and shift take the one to the other, and nothing remains.

# %%
from course_lib.chapters.sapiens_dense import relative_depth, scale_and_shift

closer = window(size, size, 3.0, 0.0, 1.0)  # the lower third, in the middle
inside = looked_up("depth", plain["depth"], closer)
own, seen = relative_depth(inside), looked_up("depth", relative_depth(plain["depth"]), closer)
scale, shift = scale_and_shift(own, seen, inside > 0)
assert torch.allclose((scale * own + shift)[inside > 0], seen[inside > 0], atol=1e-5)
print(f"relative depth of the whole = {scale.item():.3f} · the window's + {shift.item():.3f}")


# %% [markdown]
# Beyond the edge of the picture there is black, and nobody (our choice; the paper doesn't say). And where the source
# has more than twice the pixels, a window would skip some: it is halved first, pictures by averages, labels by taking
# every second.

# %% tags=["export"]
def halved(name: str, values: Tensor) -> Tensor:
    """One tensor of a batch at half the size: pictures and alpha averaged, labels picked."""
    if name not in ("image", "alpha"):
        height, width = values.shape[-2:]
        return values[..., : height // 2 * 2 : 2, : width // 2 * 2 : 2]
    return avg_pool2d(values, 2) if values.ndim == 4 else avg_pool2d(values[:, None], 2)[:, 0]


# %% tags=["export"]
def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between the two."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def zoomed(augmentation: Augmentation, size: tuple[int, int], batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one, unpacked, of any size -> a window of `size` (H, W) at a random zoom and place. App. B.6."""
    draw = partial(uniform, generator)
    zoom = math.exp(draw(*map(math.log, augmentation.zoom)))
    right, down = (draw(-augmentation.shift, augmentation.shift) for _ in range(2))
    if not augmentation.on:
        zoom, right, down = 1.0, 0.0, 0.0
    while min(have / want for have, want in zip(batch["image"].shape[-2:], size, strict=True)) >= 2 * zoom:
        batch = {name: halved(name, values) for name, values in batch.items()}
    grid = window(batch["image"].shape[-2:], size, zoom, right, down)
    return {name: looked_up(name, values, grid) for name, values in batch.items()}


# %%
generator = torch.Generator().manual_seed(1)
several = [zoomed(Augmentation(), SHAPE, plain, generator) for _ in range(6)]
pictures = [batch["image"][0] for batch in several]
pictures += [plots.colour_normals(batch["normals"][0].permute(1, 2, 0)) for batch in several]
plots.show_images(pictures, columns=6, height=1.9)


# %% [markdown]
# *Zooms from 0.8 to 1.25, shifts of up to a tenth; the normals go along.*
#
# ### The lens
#
# "Random blurring, with the blur strength proportional to the image size, simulating lenses with poor MTF" (modulation
# transfer function: how much contrast a lens keeps in stripes of a given fineness). A Gaussian of standard deviation
# $\sigma$ pixels keeps
#
# $$\mathrm{MTF}(f) = e^{-2\pi^2\sigma^2 f^2} \tag{09.11}$$
#
# of stripes with $f$ periods a pixel. Why proportional to the size? A lens blurs by a share of the picture, whatever
# the number of pixels behind it.

# %% tags=["export"]
def blurred(image: Tensor, share: float) -> Tensor:
    """Pictures (B, 3, H, W) through a Gaussian of `share` of their shorter side; the edge goes on beyond the edge."""
    sigma = share * min(image.shape[-2:])
    if sigma < 0.1:  # of a pixel: nothing to be seen
        return image
    width = 2 * math.ceil(3 * sigma) + 1
    return gaussian_blur2d(image, (width, width), (sigma, sigma), border_type="replicate")


# %%
side, share = 200, 0.01  # a Gaussian of 2 pixels
for period in (8, 10, 20, 40):
    stripes = 0.5 + 0.5 * torch.cos(2 * math.pi * torch.arange(side) / period).expand(1, 3, side, side)
    kept = blurred(stripes, share)[0, 0, side // 2, 40:160]
    expected = math.exp(-2 * (math.pi * share * side / period) ** 2)
    contrast = kept.max() - kept.min()
    print(f"stripes of {period:2d} pixels keep {contrast:.3f} of their contrast, by equation 09.11 {expected:.3f}")
    assert abs(contrast - expected) < 0.03


# %%
def row(change, strengths, said="{}"):
    """The picture, changed by each strength."""
    changed = [change(plain["image"], strength).clamp(0, 1)[0] for strength in strengths]
    plots.show_images(changed, [said.format(strength) for strength in strengths], height=2.2)


row(blurred, (0.0, 0.0025, 0.005, 0.01, 0.02), "σ = {} of the side")


# %% [markdown]
# ### Exercise 09.8 — brightness and contrast  ●○○ (5 min)
#
# The brightness is an offset, the contrast the paper's one formula here (App. B.6):
#
# $$\mathrm{img} \leftarrow (\mathrm{img} - 0.5)(1 + \mathrm{contrast}) + 0.5 \tag{09.12}$$
#
# Which grey stays as it is? Not the picture's mean: the middle of the scale. Write both in one go, brightness first,
# and keep the result within [0, 1] *once*, at the end: who cuts off in between loses what the contrast would have
# brought back.
#
# <details><summary>Hint</summary>
#
# One line, and `.clamp(0, 1)`.
# </details>

# %% tags=["export"]
@exercise("09.8")
def exposed(image: Tensor, brightness: float, contrast: float) -> Tensor:
    """Pictures (B, 3, H, W) brighter by an offset, then with more (or, below 0, less) contrast; in [0, 1]. App. B.6."""
    raise TODO


# %%
check(exposed)

# %%
row(lambda image, strength: exposed(image, strength, 0.0), (-0.2, -0.1, 0.0, 0.1, 0.2), "brightness {}")
row(lambda image, strength: exposed(image, 0.0, strength), (-0.6, -0.3, 0.0, 0.3, 0.6), "contrast {}")


# %% [markdown]
# ### Colours
#
# Hue and saturation are kornia's: it goes to hue, saturation and value and back. Its hue is in radians, ours in turns.
# Grey is the luma of the picture three times; the paper's "BGR to greyscale" says that it reads pictures with OpenCV.

# %% tags=["export"]
def tinted(image: Tensor, hue: float, saturation: float) -> Tensor:
    """Pictures (B, 3, H, W) with hues turned by `hue` turns of the circle, and `saturation` more of it (−1: none)."""
    return adjust_saturation(adjust_hue(image, 2 * math.pi * hue), 1 + saturation)


def greyed(image: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) without colours: red, green and blue as bright as they look (ITU-R BT.601)."""
    luma = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return luma.expand_as(image)


# %%
colours = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
assert torch.allclose(tinted(colours, 0.0, 0.0), colours, atol=1e-5)  # exact where it should do nothing
assert torch.allclose(tinted(colours, 1 / 3, 0.0), colours.roll(1, dims=1), atol=1e-5)  # red to green to blue
row(lambda image, strength: tinted(image, strength, 0.0), (-0.1, -0.05, 0.0, 0.05, 0.1), "hue {}")
row(lambda image, strength: tinted(image, 0.0, strength), (-0.6, -0.3, 0.0, 0.3, 0.6), "saturation {}")


# %% [markdown]
# ### JPEG
#
# kornia has a JPEG whose gradient one can take, built of torch's operations. We need no gradient here, so Pillow's
# writes and reads the real thing, in memory.

# %% tags=["export"]
def compressed(image: Tensor, quality: int) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as they come back from a JPEG of this quality, 1 to 100."""
    found = []
    for pixels in (255 * image).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(found).permute(0, 3, 1, 2) / 255


# %%
row(compressed, (95, 60, 30, 10, 3), "quality {}")

# %%
import time

from kornia.enhance import jpeg_codec_differentiable


def milliseconds(change, image):
    """The shortest of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        change(image)
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


def compare_times(pieces, sides):
    """A line for each piece: milliseconds for a picture of each size."""
    print(f"{'pixels a side':22s}" + "".join(f"{side:10d}" for side in sides))
    for name, change in pieces.items():
        taken = [milliseconds(change, torch.rand(1, 3, side, side)) for side in sides]
        print(f"{name:22s}" + "".join(f"{value:7.1f} ms" for value in taken))


SIDES = pick(smoke=(64,), laptop=(128, 256, 512))
jpegs = {"Pillow's JPEG": lambda image: compressed(image, 60)}
jpegs["kornia's JPEG"] = lambda image: jpeg_codec_differentiable(image, torch.tensor([60.0]))
compare_times(jpegs, SIDES)
smooth = torch.nn.functional.interpolate(plain["image"], size=(64, 64), mode="area")
first, second = [jpeg_codec_differentiable(smooth, torch.tensor([60.0])) - smooth, compressed(smooth, 60) - smooth]
print(f"mean change of a pixel: kornia's {first.abs().mean():.4f}, Pillow's {second.abs().mean():.4f}")
assert 0.5 < first.abs().mean() / second.abs().mean() < 2

# %% [markdown]
# Both spoil a picture about as much; Pillow's is the faster one, so it is ours.
#
# ### Noise
#
# **The question.** What does a sensor's noise look like when one turns up its sensitivity (ISO)?
#
# **The idea.** Light comes in portions. If a white pixel catches $1/g$ photons, one of brightness $x$ catches $x/g$ on
# average, and how many it *really* is follows **Poisson's** law, whose variance equals its mean. In units of
# brightness that number is taken times $g$. On top comes what the electronics add, whatever the light: a **Gaussian**
# of standard deviation $\sigma$. App. B.6 says it in words, after Hewitt et al.; the equation is
#
# $$\hat x = g\,P + \sigma\,\varepsilon,\quad P\sim\mathrm{Poisson}(x/g),\ \varepsilon\sim\mathcal N(0,1)
# \quad\Longrightarrow\quad \mathbb E\,\hat x = x,\quad \operatorname{Var}\hat x = g\,x + \sigma^2. \tag{09.13}$$
#
# A straight line over the brightness: the slope is the gain, the value at black is the electronics. This is how cameras
# are calibrated ("photon transfer").

# %%
from sympy.stats import Normal, Poisson, E, variance

x, g, s = sympy.symbols("x g sigma", positive=True)
portions, electronics = Poisson("P", x / g), Normal("e", 0, 1)
assert sympy.simplify(g * E(portions) + s * E(electronics) - x) == 0
assert sympy.simplify(g**2 * variance(portions) + s**2 * variance(electronics) - (g * x + s**2)) == 0


# %% [markdown]
# ### Exercise 09.9 — ISO noise  ●●○ (10 min)
#
# Write equation 09.13. A gain of 0 means light without portions: no Poisson noise, not a division by zero. Every random
# number comes from `generator`, so that a run that is resumed sees the same noise. Don't clamp: the caller does.
#
# <details><summary>Hint</summary>
#
# `torch.poisson(rates, generator=generator)` draws a number for each rate.
# </details>

# %% tags=["export"]
@exercise("09.9")
def iso_noise(image: Tensor, gain: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W), not below 0, with noise of variance gain · image + sigma². Equation 09.13, App. B.6."""
    raise TODO


# %%
check(iso_noise)

# %%
levels, generator = torch.linspace(0, 1, 21), torch.Generator().manual_seed(0)
patches = levels.view(1, 1, 21, 1).expand(1, 3, 21, 4000)
figure, ax = plt.subplots(figsize=(5.4, 3), layout="constrained")
for gain, sigma in ((0.01, 0.0), (0.01, 0.05), (0.003, 0.05)):
    measured = iso_noise(patches, gain, sigma, generator).var((0, 1, 3))  # (21,)
    slope, black = np.polyfit(levels, measured, 1)
    assert abs(slope / gain - 1) < 0.05 and abs(black - sigma**2) < 1e-4
    (dots,) = ax.plot(
        levels,
        measured,
        "o",
        ms=4,
        label=f"g = {gain}, σ = {sigma}: fitted {slope:.4f}, {black**0.5 if black > 0 else 0:.3f}",
    )
    ax.plot(levels, gain * levels + sigma**2, color=dots.get_color())
ax.set(xlabel="brightness", ylabel="variance")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# *Dots: measured on 12,000 pixels each. Lines: equation 09.13.*

# %%
seeded = torch.Generator().manual_seed(0)
row(lambda image, gain: iso_noise(image, gain, 0.0, seeded), (0.0, 0.003, 0.01, 0.03, 0.1), "Poisson, g = {}")
row(lambda image, sigma: iso_noise(image, 0.0, sigma, seeded), (0.0, 0.01, 0.02, 0.05, 0.1), "Gauss, σ = {}")


# %% [markdown]
# *Above: the light's own noise is large where the picture is bright. Below: the electronics' is the same everywhere, so
# it is the shadows that suffer.* A real sensor counts *before* gamma brightens the shadows; the paper adds its noise to
# the picture as it is, as far as it says, and so do we.
#
# ### All together
#
# In the order in which a camera works: lens, sensor, processing, storage (the paper gives none). Each with its own
# chance; every random number from one generator.

# %% tags=["export"]
def photographed(augmentation: Augmentation, image: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (1, 3, H, W) in [0, 1] as a worse camera would have taken them. App. B.6."""
    a, draw = augmentation, partial(uniform, generator)
    changes: list[tuple[float, Callable]] = [
        (a.chance, lambda x: blurred(x, draw(0, a.blur))),
        (a.chance, lambda x: iso_noise(x, draw(0, a.gain), draw(0, a.sigma), generator)),
        (a.chance, lambda x: exposed(x, draw(-a.brightness, a.brightness), 0.0)),
        (a.chance, lambda x: exposed(x, 0.0, draw(-a.contrast, a.contrast))),
        (a.chance, lambda x: tinted(x, draw(-a.hue, a.hue), draw(-a.saturation, a.saturation))),
        (a.grey, greyed),
        (a.chance, lambda x: compressed(x, round(draw(*a.quality)))),
    ]
    for chance, change in changes if a.on else ():
        if draw(0, 1) < chance:
            image = change(image).clamp(0, 1)
    return image


def augmented(augmentation: Augmentation, size: tuple[int, int], batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one `packed` sample of any size -> floats of `size`, augmented: image (1, 3, H, W) and alpha (1, H, W)
    in [0, 1], depth (1, H, W) in metres, 0 where nobody is, normals (1, 3, H, W), unit vectors or 0. App. B.6."""
    batch = zoomed(augmentation, size, unpacked(batch), generator)
    return batch | {"image": photographed(augmentation, batch["image"].clamp(0, 1), generator)}


# %% [markdown]
# And how streams take it, from memory (`TensorStream`) and from shards (`ShardStream`):

# %% tags=["export"]
def transform(augmentation: Augmentation, size: tuple[int, int]) -> Callable:
    """For a `TensorStream` over `packed` samples: (batch of one, generator) -> `augmented`."""
    return partial(augmented, augmentation, size)


def prepare(augmentation: Augmentation, size: tuple[int, int]) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> the same, without the dimension B."""
    return partial(prepared, augmentation, size)


def prepared(augmentation: Augmentation, size: tuple[int, int], sample, rng: np.random.Generator) -> Batch:
    """See `prepare`."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = {name: values[None] for name, values in packed(sample).items()}
    return {name: values[0] for name, values in augmented(augmentation, size, batch, generator).items()}


# %%
from course_lib.data.streams import TensorStream

rows = [packed(sample) for sample in people]
tensors = {name: torch.stack([one[name] for one in rows]) for name in rows[0]}
stream = TensorStream(tensors, transform=transform(Augmentation(), SHAPE))
batch = next(stream.batches(0, 12))
again = next(TensorStream(tensors, transform=transform(Augmentation(), SHAPE)).batches(0, 12))
assert all(torch.equal(batch[name], again[name]) for name in batch)  # the same numbers, the same pictures
plots.show_images(list(batch["image"]), columns=6, height=2.2)

# %% [markdown]
# *Twelve pictures as a network in training gets them.* What does it take?

# %%
pieces = {"blur": lambda image: blurred(image, 0.005), "hue, saturation": lambda image: tinted(image, 0.05, 0.3)}
pieces["Poisson and Gauss"] = lambda image: iso_noise(image, 0.01, 0.02, generator)
pieces["JPEG"] = lambda image: compressed(image, 60)
compare_times(pieces, SIDES)
start, count = time.perf_counter(), pick(smoke=3, laptop=40)
for _ in range(count):
    augmented(Augmentation(), SHAPE, one, generator)
print(
    f"all together, {count} pictures of {SHAPE}: {1000 * (time.perf_counter() - start) / count:.1f} ms each on average"
)

# %% [markdown]
# *The shortest of three; then the average with every piece by its chance.* Poisson's numbers and the way to hue and
# back are the dear ones, and each runs three times in ten only.
#
# ### What the paper doesn't do: turning and mirroring
#
# No rotation and no flip is among the paper's augmentations. Whoever adds one has to *turn the normals*: a vector that
# points to the right in the picture points to the left in a mirror. Chapter 08's `mirrored` negates x. And in a picture
# that is turned by $\theta$ counter-clockwise,
#
# $$\begin{pmatrix} n_x' \\ n_y' \end{pmatrix} = \begin{pmatrix}\cos\theta & -\sin\theta\\ \sin\theta &
# \cos\theta\end{pmatrix}\begin{pmatrix} n_x \\ n_y\end{pmatrix},\qquad n_z' = n_z. \tag{09.14}$$
#
# A test that needs no photograph: **a ball**. Mirrored or turned, it looks the same, and so must its normal map.

# %%
from course_lib.chapters.sapiens_dense import mirrored

v, u = torch.meshgrid(*(2 * (torch.arange(96) + 0.5) / 96 - 1,) * 2, indexing="ij")
there = u.square() + v.square() < 0.8
ball = torch.stack([u, -v, (0.8 - u.square() - v.square()).clamp(min=0).sqrt()])
ball = unit(ball, dim=0) * there  # (3, 96, 96), y up
moved_only = ball.flip(-1)
right = mirrored({"normals": ball[None]})["normals"][0]
assert torch.allclose(right, ball, atol=1e-6) and (moved_only - ball).abs().max() > 1
pictures = [plots.colour_normals(normals.permute(1, 2, 0)) for normals in (ball, moved_only, right)]
plots.show_images(pictures, ["a ball", "pixels mirrored only", "normals mirrored too"], height=2.0)


# %% [markdown]
# ### Exercise 09.10 — turned, normals too  ●●○ (10 min)
#
# The picture is turned for you. Turn its normals, equation 09.14, if it has any. (y is up in the normals, and
# counter-clockwise is as one sees it.)
#
# <details><summary>Hint</summary>
#
# `turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])` and
# `torch.einsum("ij,bjhw->bihw", turn, normals)`.
# </details>

# %% tags=["export"]
@exercise("09.10")
def turned(batch: Batch, degrees: float) -> Batch:
    """Unpacked pictures and labels (B, ..., H, W) turned counter-clockwise about their middle, nobody beyond their
    edges; normals (B, 3, H, W; x right, y up) point where they should then."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    values = next(iter(batch.values()))
    height, width = values.shape[-2:]
    rows = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]  # where each pixel comes from
    grid = affine_grid(torch.tensor([rows] * len(values)), [len(values), 1, height, width], align_corners=False)
    found = {name: looked_up(name, values, grid) for name, values in batch.items()}
    raise TODO


# %%
check(turned)

# %%
for degrees in (30, 90, -135):
    again = turned({"normals": ball[None]}, degrees)["normals"][0]
    cosine = (again * ball).sum(0)[there & (again.square().sum(0) > 0.5)]
    print(f"a ball turned by {degrees}°: normals off by {cosine.clamp(-1, 1).acos().rad2deg().mean():.2f}°")
    assert cosine.clamp(-1, 1).acos().rad2deg().mean() < 2
tilted = turned(plain, 25)
pictures = [tilted["image"][0], plots.colour_normals(plain["normals"][0].permute(1, 2, 0))]
pictures += [plots.colour_normals(tilted["normals"][0].permute(1, 2, 0))]
plots.show_images(pictures, ["turned by 25°", "normals before", "and after"], height=2.4)

# %% [markdown]
# *Not quite 0° for the ball: the nearest pixel is up to half a pixel away.*
#
# ## 8 What it costs
#
# **The question.** The paper's 300,000 pictures "took 72 hours on a cluster of 300 machines with M60 GPUs" (§3.1). What
# would as many of ours take?

# %%
PAPER = {"pictures": 300_000, "hours": 72, "machines": 300}
machine_hours = PAPER["hours"] * PAPER["machines"]
print(f"the paper: {machine_hours:,} machine-hours, {PAPER['pictures'] / machine_hours:.1f} pictures in each")
print(f"           a picture every {3600 * machine_hours / PAPER['pictures']:.0f} s of a machine")
assert machine_hours == 21_600

# %% [markdown]
# A footnote adds: "The cost is equivalent to 2 weeks of an A100 machine with 4 GPUs." Let us see.

# %%
from course_lib.chapters.scaling import GPUS

gpu_hours = 2 * 7 * 24 * 4
M60 = 9.65e12  # FLOP/s in 32 bits at best, both chips of the card: NVIDIA's data sheet
print(f"2 weeks of 4 A100: {gpu_hours:,} GPU-hours, {gpu_hours / 500:.1f} trainings of 500 GPU-hours")
worth, peaks = machine_hours / gpu_hours, GPUS["A100-80GB"].fp32 / M60
print(
    f"one A100 stands for {worth:.0f} machines with an M60; its peak in 32 bits is {peaks:.1f} times that of the card"
)
assert gpu_hours == 1344

# %% [markdown]
# Sixteen machines to one A100, where the arithmetic of the cards says two (if a machine has one card; the paper doesn't
# say). So "cost" can't mean work; perhaps it means money, for which no prices are given. Whatever it means: by this
# footnote **the data cost less than three trainings** (500 GPU-hours each, from the model cards), and they are paid for
# once.
#
# Ours, measured now, on one core: pictures of the release's size.

# %%
SIZE = pick(smoke=(64, 48), laptop=(512, 384))
torch_threads = torch.get_num_threads()
torch.set_num_threads(1)
next(render_samples(WORLD, "train", 0, 0, SIZE))  # the first loads the assets
start, count = time.perf_counter(), pick(smoke=3, laptop=20)
for index in range(count):
    next(render_samples(WORLD, "train", 0, index, SIZE))
rate = count / (time.perf_counter() - start)
torch.set_num_threads(torch_threads)
print(f"{rate:.2f} pictures a second and core at {SIZE[0]} x {SIZE[1]}: {3600 * rate:,.0f} in a core-hour")

# %% [markdown]
# A core makes in a second what one of their machines makes in minutes. That is no feat: ours are triangles, a few
# lights and a shadow map, and they look like it; theirs are nearly photographs. What is the same is that every label is
# *exact*, and that is what this chapter is about.
#
# ### The launch
#
# Rendering needs no network between machines: a scene depends on its number and the seed alone. So 300,000 pictures are
# a Slurm **job array**: 1,250 shards of 240 pictures, dealt out to 10 tasks of 8 cores. A task that is killed is queued
# again and goes on at its first missing shard; when all have ended, one last task takes the shards in and writes the
# manifest. By hand it is `course data make WORLD ... --part K/N` for each K, then once without `--part`.

# %%
from course_lib import launch

job = launch.rendering(WORLD, 300_000, size=(512, 384), tasks=10, cores=8, rate=rate)
assert job.settings().shard_count == 1250 and math.isclose(job.core_hours, 300_000 / rate / 3600)
print(job.plan())
job.submit("data/synth-300k", dry_run=True)

# %% [markdown]
# (The plan's core-hours are those of the pictures measured above: at `smoke` they are smaller than the job's.) The
# proof: two tasks, really started, on eight tiny pictures. One is killed in the midst of its second picture and started
# again.

# %%
print(job.prove() if pick(smoke=False, laptop=True) else "the proof is run at laptop, and in the course's tests")

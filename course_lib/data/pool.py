"""An unlabelled pool of pictures to curate, as Sapiens' §3.1 curates about a billion of them: some hold people, some
do not, and some are spoiled by text, watermarks, artistic or unnatural looks, which must go before a model learns.

What a real pool has and this one lacks: near-duplicates; pictures that are blurred, tiny, grey or badly compressed;
drawings and statues of people that never were photographs, screenshots, comics and book pages; text that is part of
the scene and harmless; marks of a few pixels that somebody put there to be overlooked; several faults in one picture;
faces of people who never agreed; and a million rare things that nobody thought of. Here every fault is one of a dozen
known styles, so a filter that removes them all here would still miss many there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from course_lib.data.sets import people_samples
from course_lib.data.views import seen_box
from course_lib.data.worlds import SPLITS, UnknownWorld

# A crawl for pictures of people finds people in most of them, but by far not in all (`general` has them in a fifth);
# a few come from studios.
SOURCES = {"wild": 0.5, "general": 0.25, "general-nopeople": 0.15, "studio": 0.1}
# Three in ten are spoiled, each fault often enough to be counted. (The paper does not say how many were.)
KINDS = {"clean": 0.7, "text": 0.08, "watermark": 0.08, "artistic": 0.08, "unnatural": 0.06}
SMALLEST = 16  # pixels: no letter can be told in less
FEWEST_PIXELS = 4  # of a person, to count as seen


@dataclass(frozen=True)
class Truth:
    """What the pool's maker knows about a picture. For measuring a filter, never for filtering."""

    kind: str  # one of KINDS
    style: str  # which caption, watermark, depiction …; empty for a clean picture
    world: str  # where it was rendered
    boxes: np.ndarray  # (P, 4) float32: left, top, right, bottom in pixels around what is seen of each person; of a
    # kaleidoscope's mirror images too; in a glitch where people were before it
    mark: np.ndarray | None = None  # (4,) the same around text or watermark; None for other kinds

    @property
    def people(self) -> int:
        """How many people are seen."""
        return len(self.boxes)


@dataclass(frozen=True)
class Pool:
    """Pictures (N, 3, H, W) float32 RGB in [0, 1], and aside what is true of each."""

    images: Tensor
    truth: list[Truth]

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Picture:
    """A picture on its way into the pool: image (H, W, 3) in [0, 1], instances (H, W): 0 nobody, else a person."""

    image: np.ndarray
    instances: np.ndarray


def make_pool(count: int, size: int, seed: int = 0, split: str = "train") -> Pool:
    """`count` pictures of size², mixed from SOURCES and spoiled by the shares of KINDS, both rounded to whole pictures.

    The same arguments give the same pool; splits share no identity. A picture of 128² takes 0.2 MB. The raw pictures
    are rendered once and kept in the data folder. ValueError for a count, size, seed or split that cannot be.
    """
    if count < 1 or size < SMALLEST or seed < 0:
        raise ValueError(
            f"count must be at least 1, size at least {SMALLEST} and seed at least 0, not {count}, {size} and {seed}"
        )
    if split not in SPLITS:
        raise UnknownWorld(f"there is no split {split!r}: use one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([0x9001, SPLITS.index(split), seed])
    worlds, kinds = shuffled(rng, SOURCES, count), shuffled(rng, KINDS, count)
    raw = raw_pictures(worlds, size, seed, split)
    images, truth = torch.empty(count, 3, size, size), []
    for index, (kind, world) in enumerate(zip(kinds, worlds, strict=True)):
        own = np.random.default_rng([0x9002, SPLITS.index(split), seed, index])
        picture, style = spoil(raw[index], kind, own, raw[index - 1])
        mark = mark_box(raw[index].image, picture.image) if kind in ("text", "watermark") else None
        images[index] = torch.from_numpy(picture.image.transpose(2, 0, 1).copy())
        truth.append(Truth(kind, style, world, person_boxes(picture.instances), mark))
    return Pool(images, truth)


def shuffled(rng: np.random.Generator, shares: dict[str, float], count: int) -> list[str]:
    """`count` keys in random order, each as often as its share says; what rounding leaves goes to the largest rests."""
    wanted = count * np.array(list(shares.values())) / sum(shares.values())
    numbers = np.floor(wanted + 1e-9).astype(int)
    numbers[np.argsort(numbers - wanted, kind="stable")[: count - numbers.sum()]] += 1
    return rng.permutation(np.repeat(list(shares), numbers)).tolist()


def raw_pictures(worlds: list[str], size: int, seed: int, split: str) -> list[Picture]:
    """For each name of a world its next picture."""
    found = {}
    for world in SOURCES:
        if number := worlds.count(world):
            samples = people_samples(world, number, size, split, only=("image", "instances"), seed=seed)
            found[world] = (Picture(s.image.transpose(1, 2, 0), s.instances) for s in samples)
    return [next(found[world]) for world in worlds]


def person_boxes(instances: np.ndarray) -> np.ndarray:
    """Boxes (P, 4) float32 around the pixels of everyone of whom at least a few are seen."""
    numbers, pixels = np.unique(instances[instances > 0], return_counts=True)
    boxes = [seen_box(instances == number) for number in numbers[pixels >= FEWEST_PIXELS]]
    return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)


def mark_box(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The box (4,) around all pixels that differ visibly between two images (H, W, 3)."""
    return seen_box(np.abs(after - before).max(-1) > 0.02)


def spoil(picture: Picture, kind: str, rng: np.random.Generator, other: Picture) -> tuple[Picture, str]:
    """The picture with one fault of a kind, and the name of its style. `other` is the second picture of a collage."""
    if kind == "clean":
        return picture, ""
    if kind not in STYLES:
        raise ValueError(f"there is no kind {kind!r}: use one of {', '.join(KINDS)}")
    style = str(rng.choice(list(STYLES[kind])))
    change = STYLES[kind][style]
    if style in COMPOSITIONS:
        return change(picture, rng, other), style
    image = change(picture.image, rng).clip(0, 1).astype(np.float32)
    return Picture(image, picture.instances), style


# ---------------------------------------------------------------- letters


WORDS = (
    *("SALE", "NEW", "LIVE", "BREAKING", "when you", "meanwhile", "best day", "follow us", "summer", "50 % OFF"),
    *("Monday", "subscribe", "one of us", "not today", "free", "click here", "WAIT", "no way", "BIG NEWS", "2 for 1"),
)
BRANDS = ("STOCK", "SAMPLE", "PREVIEW", "PROOF", "demo", "photo", "DRAFT", "copy")
FINE = 4  # letters are drawn that many times larger and then reduced: smooth edges


@lru_cache(maxsize=32)
def font(height: int, bold: bool = True) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships with matplotlib, in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), height)


def lettering(words: str, height: int, widest: int, bold: bool = True) -> np.ndarray:
    """Words as a mask (h, w) in [0, 1], letters `height` pixels high but no wider in all than `widest` pixels."""
    letters = font(FINE * height, bold)
    left, top, right, bottom = letters.getbbox(words)
    canvas = Image.new("L", (right - left + FINE, bottom - top + FINE))
    ImageDraw.Draw(canvas).text((-left, -top), words, fill=255, font=letters)
    width, tall = -(-canvas.width // FINE), -(-canvas.height // FINE)
    if width > widest:
        width, tall = widest, max(3, round(tall * widest / width))
    return np.asarray(canvas.resize((width, tall), Image.Resampling.BOX), np.float32) / 255


def put(mask: np.ndarray, stamp: np.ndarray, top: int, left: int) -> None:
    """Writes a stamp into a mask (H, W), both in [0, 1]; what sticks out is cut off."""
    spot = mask[max(top, 0) : max(top + stamp.shape[0], 0), max(left, 0) : max(left + stamp.shape[1], 0)]
    inside = stamp[max(-top, 0) :, max(-left, 0) :][: spot.shape[0], : spot.shape[1]]
    np.maximum(spot, inside, out=spot)


def blend(image: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
    """The image (H, W, 3) with a colour (3,) laid over it where the mask (H, W) says how much."""
    return image + mask[..., None] * (np.asarray(colour, np.float32) - image)


def say(rng: np.random.Generator, count: int) -> str:
    """A few words."""
    return " ".join(str(word) for word in rng.choice(WORDS, count, replace=False))


def letter_height(image: np.ndarray, share: float, least: int = 6) -> int:
    """Pixels of a letter that is a share of the image's height, but legible."""
    return max(least, round(share * len(image)))


# ---------------------------------------------------------------- text


def caption(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White letters with a black rim along the top, the bottom or both."""
    mask, (height, width) = np.zeros(image.shape[:2], np.float32), image.shape[:2]
    lines = [("top",), ("bottom",), ("top", "bottom")][rng.integers(3)]
    for line in lines:
        stamp = lettering(say(rng, 2).upper(), letter_height(image, rng.uniform(0.1, 0.15)), round(0.94 * width))
        margin = round(rng.uniform(0.02, 0.06) * height)
        top = margin if line == "top" else height - margin - len(stamp)
        put(mask, stamp, top, (width - stamp.shape[1]) // 2)
    rim = ndimage.maximum_filter(mask, 3 + 2 * (height // 200))
    return blend(blend(image, rim, (0, 0, 0)), mask, (1, 1, 1))


def subtitle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One or two lines on a dark band near the bottom."""
    height, width = image.shape[:2]
    size, mask = letter_height(image, rng.uniform(0.065, 0.085)), np.zeros((height, width), np.float32)
    lines = [lettering(say(rng, 3), size, round(0.88 * width), bold=False) for _ in range(rng.integers(1, 3))]
    step = round(1.5 * size)
    top = height - round(0.05 * height) - step * len(lines)
    for number, stamp in enumerate(lines):
        put(mask, stamp, top + number * step + (step - len(stamp)) // 2, (width - stamp.shape[1]) // 2)
    band = np.zeros_like(mask)
    band[max(top - 1, 0) : top + step * len(lines) + 1] = rng.uniform(0.55, 0.85)
    return blend(blend(image, band, (0.03, 0.03, 0.05)), mask, [(1, 1, 1), (1, 0.93, 0.3)][rng.integers(2)])


def sticker(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A coloured box with words, somewhere."""
    height, width = image.shape[:2]
    stamp = lettering(str(rng.choice(WORDS)).upper(), letter_height(image, rng.uniform(0.1, 0.16)), round(0.7 * width))
    pad = max(2, len(stamp) // 3)
    box, mask = np.ones((len(stamp) + 2 * pad, stamp.shape[1] + 2 * pad), np.float32), np.zeros((height, width))
    top, left = rng.integers(0, height - len(box) + 1), rng.integers(0, max(1, width - box.shape[1] + 1))
    letters = mask.copy()
    put(mask, box, top, left)
    put(letters, stamp, top + pad, left + pad)
    back, ink = [((0.85, 0.1, 0.12), (1, 1, 1)), ((1, 0.85, 0.1), (0.1, 0.1, 0.1)), ((0.1, 0.3, 0.75), (1, 1, 1))][
        rng.integers(3)
    ]
    return blend(blend(image, mask, back), letters, ink)


def column(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column of print on paper along one side, under a headline: a page of a magazine."""
    height, width = image.shape[:2]
    wide, size = round(rng.uniform(0.34, 0.48) * width), letter_height(image, 0.045, 5)
    mask, pad = np.zeros((height, wide), np.float32), max(1, round(0.02 * width))
    head = lettering(str(rng.choice(WORDS)).upper(), 2 * size, wide - 2 * pad)
    put(mask, head, 2 * pad, pad)
    for top in range(3 * pad + len(head), height - size - pad, round(1.45 * size)):
        line = lettering(say(rng, 4), size, 2 * wide, bold=False)[:, : wide - 2 * pad]
        put(mask, line, top, pad)
    page, left = np.full((height, wide, 3), rng.uniform(0.88, 0.98), np.float32), rng.integers(2) * (width - wide)
    result = image.copy()
    result[:, left : left + wide] = blend(page, mask, (0.12, 0.12, 0.14))
    return result


# ---------------------------------------------------------------- watermarks


def faint(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask laid over the image, half transparent: light, or dark where the image is light."""
    light = (image.mean(-1) * mask).sum() / max(mask.sum(), 1e-6) < 0.62
    return blend(image, rng.uniform(0.35, 0.55) * mask, (1, 1, 1) if light else (0.1, 0.1, 0.1))


def tiled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A name again and again, aslant."""
    height, width = image.shape[:2]
    reach = 2 * max(height, width)
    stamp = lettering(str(rng.choice(BRANDS)), letter_height(image, rng.uniform(0.08, 0.12)), width)
    canvas, shift = np.zeros((reach, reach), np.float32), rng.integers(stamp.shape[1])
    down, across = round(rng.uniform(2.0, 2.8) * len(stamp)), round(1.35 * stamp.shape[1])
    for row, top in enumerate(range(0, reach, down)):
        for left in range(-(row % 2) * across // 2 - shift, reach, across):
            put(canvas, stamp, top, left)
    canvas = ndimage.rotate(canvas, rng.choice((-1, 1)) * rng.uniform(18, 40), reshape=False, order=1)
    top, left = (reach - height) // 2, (reach - width) // 2
    return faint(image, canvas[top : top + height, left : left + width], rng)


def logo(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A ring with two letters in it and a name below, large in the middle or smaller in a corner."""
    size, large = len(image), rng.random() < 0.5
    across = round(size * (rng.uniform(0.4, 0.55) if large else rng.uniform(0.22, 0.3)))
    brand = str(rng.choice(BRANDS))
    ring = Image.new("L", (FINE * across, FINE * across))
    ImageDraw.Draw(ring).ellipse((0, 0, FINE * across - 1, FINE * across - 1), outline=255, width=FINE * across // 12)
    stamp = np.asarray(ring.reduce(FINE), np.float32) / 255
    letters, name = lettering(brand[:2].upper(), across // 3, across), lettering(brand, max(5, across // 5), size)
    put(stamp, letters, (across - len(letters)) // 2, (across - letters.shape[1]) // 2)
    mask, low = np.zeros(image.shape[:2], np.float32), size - across - len(name) - 3
    top, left = (
        (low // 2, (size - across) // 2) if large else (rng.choice((2, low)), rng.choice((2, size - across - 2)))
    )
    put(mask, stamp, top, left)
    put(mask, name, top + across + 1, min(max(0, left + (across - name.shape[1]) // 2), size - name.shape[1]))
    return faint(image, mask, rng)


def crossed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two lines from corner to corner and a name in the middle, as picture agencies do it."""
    height, width = image.shape[:2]
    lines, thick = Image.new("L", (FINE * width, FINE * height)), max(FINE, FINE * height // 90)
    for ends in ((0, 0, FINE * width, FINE * height), (0, FINE * height, FINE * width, 0)):
        ImageDraw.Draw(lines).line(ends, fill=255, width=thick)
    mask = np.asarray(lines.reduce(FINE), np.float32) / 255
    stamp = lettering(str(rng.choice(BRANDS)), letter_height(image, rng.uniform(0.13, 0.18)), round(0.8 * width))
    top, left = (height - len(stamp)) // 2, (width - stamp.shape[1]) // 2
    mask[top - 1 : top + len(stamp) + 1, left - 1 : left + stamp.shape[1] + 1] = 0
    put(mask, stamp, top, left)
    return faint(image, mask, rng)


# ---------------------------------------------------------------- artistic depictions


def luminance(image: np.ndarray) -> np.ndarray:
    """How light each pixel is (Rec. 601), (H, W)."""
    return image @ np.array((0.299, 0.587, 0.114), np.float32)


def saturated(image: np.ndarray, factor: float) -> np.ndarray:
    """Colours farther from grey by a factor."""
    grey = luminance(image)[..., None]
    return (grey + factor * (image - grey)).clip(0, 1)


def edges(image: np.ndarray) -> np.ndarray:
    """How strongly the luminance changes, 0 to about 1, (H, W)."""
    grey = ndimage.gaussian_filter(luminance(image), 0.6)
    return np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))


def kuwahara(image: np.ndarray, radius: int) -> np.ndarray:
    """Kuwahara's filter: each pixel becomes the mean of the calmest of the four squares that meet in it, so that
    areas turn flat as under a broad brush and edges stay sharp."""
    side, half = 2 * (radius // 2) + 1, radius // 2
    mean = ndimage.uniform_filter(image, (side, side, 1))
    grey = luminance(image)
    spread = ndimage.uniform_filter(grey**2, side) - ndimage.uniform_filter(grey, side) ** 2
    shifts = [(y, x) for y in (-half, half) for x in (-half, half)]
    spreads = np.stack([ndimage.shift(spread, shift, order=0, mode="nearest") for shift in shifts])
    means = np.stack([ndimage.shift(mean, (*shift, 0), order=0, mode="nearest") for shift in shifts])
    return np.take_along_axis(means, spreads.argmin(0)[None, ..., None], 0)[0]


def painted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Broad strokes of strong colours with dark contours."""
    flat = kuwahara(image, max(2, round(rng.uniform(0.03, 0.05) * len(image))))
    flat = kuwahara(saturated(flat, rng.uniform(1.5, 2.1)), 2)
    return flat * (1 - (0.5 * edges(flat)).clip(0, 0.75)[..., None])


_POP = (
    ((0.1, 0.05, 0.3), (0.85, 0.15, 0.4), (1.0, 0.65, 0.2), (1.0, 0.95, 0.7)),
    ((0.02, 0.15, 0.3), (0.1, 0.5, 0.55), (0.95, 0.5, 0.35), (0.98, 0.92, 0.8)),
    ((0.1, 0.1, 0.1), (0.75, 0.1, 0.15), (0.5, 0.65, 0.7), (0.95, 0.9, 0.75)),
)


def posterised(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A print of four flat colours for four steps of luminance."""
    grey = ndimage.median_filter(luminance(image), max(3, len(image) // 40))
    cuts = np.quantile(grey, (0.3, 0.58, 0.82))
    return np.array(_POP[rng.integers(len(_POP))], np.float32)[np.digitize(grey, cuts)]


def halftone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dots in cyan, magenta and yellow as newspapers print them, each ink's grid turned by another angle."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    period, result = max(4.0, rng.uniform(0.034, 0.045) * len(image)), np.empty_like(image)
    for channel, angle in enumerate(np.deg2rad((15, 75, 0)) + rng.uniform(0, np.pi / 2)):
        along = (columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / period
        across = (rows * np.cos(angle) - columns * np.sin(angle)) * 2 * np.pi / period
        screen = 0.5 + 0.25 * (np.cos(along) + np.cos(across))  # 1 in the middle of a dot
        result[..., channel] = (0.5 + 5 * (image[..., channel] - screen)).clip(0.05, 0.97)
    return result


def sketch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pencil on paper: the picture divided by its blur leaves the contours."""
    grey = luminance(image)
    lines = (grey + 0.04) / (ndimage.gaussian_filter(grey, 0.03 * len(image)) + 0.04)
    strokes = 1 - (1.6 * (1 - lines)).clip(0, 0.85) - (0.8 * edges(image)).clip(0, 0.6)
    hatch = np.add.outer(np.arange(len(grey)), np.arange(grey.shape[1])) % 4 < 1
    strokes = strokes - 0.28 * hatch * (grey < np.quantile(grey, 0.35))
    return strokes.clip(0.08, 1)[..., None] * np.array((0.96, 0.94, 0.88) if rng.random() < 0.5 else (0.97, 0.97, 0.98))


# ---------------------------------------------------------------- unnatural elements


def false_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A negative, colours that changed places, or a map of heat."""
    way = rng.integers(3)
    if way == 0:
        return 1 - image
    if way == 1:
        return saturated(image, 1.6)[..., [(1, 2, 0), (2, 0, 1), (1, 0, 2)][rng.integers(3)]]
    grey = luminance(image)
    low, high = np.quantile(grey, (0.02, 0.98))
    name = str(rng.choice(("inferno", "jet", "cool")))
    return matplotlib.colormaps[name]((grey - low) / max(high - low, 1e-3))[..., :3]


def glitch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A broken transmission: bands of rows pushed aside, colours out of register, stripes of noise."""
    height, width = image.shape[:2]
    result = image.copy()
    for _ in range(rng.integers(4, 7)):
        top, tall = rng.integers(height), rng.integers(height // 24 + 2, height // 8 + 3)
        shift = int(rng.choice((-1, 1)) * rng.uniform(0.08, 0.35) * width)
        result[top : top + tall] = np.roll(result[top : top + tall], shift, axis=1)
    apart = max(1, round(rng.uniform(0.02, 0.04) * width))
    result[..., 0], result[..., 2] = np.roll(result[..., 0], apart, 1), np.roll(result[..., 2], -apart, 1)
    for top in rng.integers(0, height - 2, 3):
        result[top : top + max(1, height // 60)] = rng.random((1, width, 3))
    return result


def collage(picture: Picture, rng: np.random.Generator, other: Picture) -> Picture:
    """Two pictures with a straight seam between them."""
    height, width = picture.instances.shape
    angle = rng.choice((0.0, np.pi / 2, rng.uniform(0.3, 1.2)))
    rows, columns = np.mgrid[:height, :width]
    side = (columns - width / 2 + 0.5) * np.cos(angle) + (rows - height / 2 + 0.5) * np.sin(angle)
    side = side - rng.uniform(-0.12, 0.12) * width  # pixels from the seam
    ours, seam = side < 0, np.abs(side) < max(0.8, 0.009 * width)
    theirs = np.where(other.instances > 0, other.instances + picture.instances.max(), 0)
    image = np.where(ours[..., None], picture.image, other.image)
    return Picture(np.where(seam[..., None], np.float32(1), image), np.where(ours, picture.instances, theirs) * ~seam)


def inset(picture: Picture, rng: np.random.Generator, other: Picture) -> Picture:
    """A small picture in a white frame upon a large one."""
    size = len(picture.image)
    small = round(rng.uniform(0.4, 0.5) * size)
    rim = max(1, size // 64)
    nearest = (np.arange(small) + 0.5) * size // small
    grid = np.ix_(nearest.astype(int), nearest.astype(int))
    shrunk = ndimage.gaussian_filter(other.image, (0.8, 0.8, 0))[grid]
    top, left = (int(v) for v in rng.choice((rim + 1, size - small - rim - 1), 2))
    image, instances = picture.image.copy(), picture.instances.astype(int)
    highest = instances.max()
    frame = slice(top - rim, top + small + rim), slice(left - rim, left + small + rim)
    spot = slice(top, top + small), slice(left, left + small)
    image[frame], instances[frame] = 1, 0
    image[spot], instances[spot] = shrunk, np.where(other.instances[grid] > 0, other.instances[grid] + highest, 0)
    return Picture(image, instances)


def kaleidoscope(picture: Picture, rng: np.random.Generator, other: Picture) -> Picture:
    """One half and its mirror image, or one quarter four times. A mirrored person counts as another one."""
    axes = [(1,), (0, 1)][rng.integers(2)]
    image, instances = picture.image, picture.instances.astype(int)
    if rng.random() < 0.5:
        image, instances = image[:, ::-1], instances[:, ::-1]
    for axis in axes:
        half = (image.shape[axis] + 1) // 2
        image, instances = (np.take(part, range(half), axis) for part in (image, instances))
        again = np.where(instances > 0, instances + instances.max(), 0)
        skip = picture.image.shape[axis] % 2  # an odd middle row or column stands once
        rest = [np.flip(part, axis) for part in (image, again)]
        rest = [np.take(part, range(skip, half), axis) for part in rest]
        image, instances = np.concatenate([image, rest[0]], axis), np.concatenate([instances, rest[1]], axis)
    return Picture(np.ascontiguousarray(image), instances)


STYLES: dict[str, dict[str, Callable]] = {
    "text": {"caption": caption, "subtitle": subtitle, "sticker": sticker, "column": column},
    "watermark": {"tiled": tiled, "logo": logo, "crossed": crossed},
    "artistic": {"painted": painted, "posterised": posterised, "halftone": halftone, "sketch": sketch},
    "unnatural": {
        "collage": collage,
        "inset": inset,
        "kaleidoscope": kaleidoscope,
        "false colours": false_colours,
        "glitch": glitch,
    },
}
COMPOSITIONS = ("collage", "inset", "kaleidoscope")  # these move people about, so they get whole pictures

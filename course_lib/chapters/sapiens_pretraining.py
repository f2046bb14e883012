"""Sapiens, pretraining: made by `course build` from solutions/06_sapiens_pretraining.py. Edit there, never here."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, logsigmoid, max_pool2d, pad
from torch.nn.functional import normalize as cosine_normalize

from course_lib.chapters.scaling import (
    Encoder,
    block_parameters,
    encoder_parameters,
)
from course_lib.chapters.transformers import Block, VisionTransformer, initialize, patch_grid, position_table
from course_lib.recipe import Batch, Cosine, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped

MEAN, STD = (123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255)  # ImageNet's, RGB
STRIDE = 4  # pixels to a cell of the detector's maps


# Chapter 06, section "1 Where are the people?"
def normalize(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> minus the mean colour of ImageNet, over its spread: what the networks read."""
    return (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(STD).view(3, 1, 1)


# Chapter 06, section "1 Where are the people?"
@dataclass(frozen=True)
class DetectorConfig:
    """A person detector, what it is shown, and how it is trained. size: the longer side of the pictures it reads.

    pictures: so many of each of the worlds, and held_out ones to calibrate on."""

    size: int
    width: int
    pictures: int
    held_out: int
    batch_size: int
    steps: int
    lr: float = 2e-3
    warmup: int = 50
    worlds: tuple[str, ...] = ("wild", "general")
    precision: str = "bf16"


DETECTORS = {
    "smoke": DetectorConfig(32, 8, pictures=8, held_out=8, batch_size=4, steps=6, warmup=2),
    "laptop": DetectorConfig(128, 24, pictures=2400, held_out=200, batch_size=32, steps=600, lr=4e-3),
    "gpu": DetectorConfig(128, 48, pictures=12_000, held_out=1000, batch_size=128, steps=6000, warmup=300),
    "shipped": DetectorConfig(128, 32, pictures=2400, held_out=200, batch_size=32, steps=6000, lr=3e-3, warmup=200),
}


# Chapter 06, section "1 Where are the people?"
def detection_targets(boxes: Tensor, size: int) -> Batch:
    """Boxes (n, 4) in pixels of a square picture -> what the detector is to say of each cell (h, w).

    heat (1, h, w): 1 in the cell of a person's centre, falling off around it within an eighth of the person's sides;
    shape (4, h, w): log width, log height, and the way to the centre (x, y), all in cells, of the person whose heat is
    the largest; near (1, h, w): 1 where the shape counts. All zero without people. Zhou et al. 2019, §3.
    """
    cells = size // STRIDE
    place = torch.arange(cells) + 0.5
    boxes = torch.cat([boxes.new_tensor([[0, 0, STRIDE, STRIDE]]), boxes]) / STRIDE  # nobody first: then max has one
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2  # (1 + n, 2) x, y
    cell = centres.floor().clamp(0, cells - 1) + 0.5
    spread = (sides / 8).clamp(min=0.5)
    falls = torch.exp(-((place - cell[..., None]) ** 2) / (2 * spread[..., None] ** 2))  # (1 + n, 2, cells)
    heat = falls[:, 1, :, None] * falls[:, 0, None, :]  # (1 + n, h, w)
    heat[0] = 0
    heat, owner = heat.max(0)  # (h, w) each
    y, x = torch.meshgrid(place, place, indexing="ij")
    way = centres[owner].permute(2, 0, 1) - torch.stack([x, y])
    shape = torch.cat([sides[owner].log().permute(2, 0, 1), way])
    return {"heat": heat[None], "shape": shape, "near": (heat[None] > 0.7).float()}


# Chapter 06, section "1 Where are the people?"
def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, a norm over the batch, and a SiLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


# Chapter 06, section "1 Where are the people?"
class Residual(nn.Module):
    """Two convolutions whose result is added to what came in: (B, C, H, W) -> the same. He et al. 2016."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.layers(x)


# Chapter 06, section "1 Where are the people?"
class PersonDetector(nn.Module):
    """Normalised pictures (B, 3, H, W), sides multiples of 32 -> heat (B, 1, h, w), a logit, and shape (B, 4, h, w).

    Down to a 32nd of the side, to see whole people, and up again to a quarter, to place them. Zhou et al. 2019.
    `calibration`: scale and shift that make the logit of a peak a probability (`calibrate`).
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.size, widths = config.size, [config.width * 2**level for level in range(4)]
        self.stem = nn.Sequential(convolution(3, config.width, 2), convolution(config.width, config.width, 2))
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(nn.Sequential(convolution(a, b, 2), Residual(b)) for a, b in pairs)
        self.bottom = Residual(widths[-1])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.merge = nn.ModuleList(convolution(a, a) for a, _ in pairs)
        self.head = nn.Conv2d(config.width, 5, 1)
        nn.init.constant_(self.head.bias, 0.0)
        nn.init.constant_(self.head.bias[:1], -2.2)  # a tenth: few cells are centres
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        levels = [self.stem(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = self.bottom(levels.pop())
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(levels.pop() + interpolate(up(x), scale_factor=2.0, mode="nearest"))
        maps = self.head(x)
        return maps[:, :1], maps[:, 1:]


# Chapter 06, section "1 Where are the people?"
def centre_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """The focal loss of centre maps (B, 1, h, w), over the number of people (1 where there are none).

    Lin et al. 2017, with less weight near a centre as in Law and Deng 2018, eq. 1; Zhou et al. 2019, eq. 1."""
    centre = (heat == 1).float()
    p = logits.sigmoid()
    found = centre * (1 - p) ** 2 * logsigmoid(logits)
    empty = (1 - centre) * (1 - heat) ** 4 * p**2 * logsigmoid(-logits)
    return -(found + empty).sum() / centre.sum().clamp(min=1)


# Chapter 06, section "1 Where are the people?"
def detector_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`centre_loss`, and the mean distance of the shapes near the centres."""
    logits, shape = model(normalize(batch["image"]))
    distance = (shape - batch["shape"]).abs() * batch["near"]
    shapes = distance.sum() / batch["near"].sum().clamp(min=1)
    centres = centre_loss(logits, batch["heat"])
    return {"loss": centres + 0.5 * shapes, "centres": centres, "shapes": shapes}


# Chapter 06, section "1 Where are the people?"
def detector_recipe(config: DetectorConfig, stream: Stream | None) -> Recipe:
    """The training of a `PersonDetector` on pictures and their `detection_targets`."""
    return Recipe(
        name=f"detector-{config.width}",
        model=partial(PersonDetector, config),
        loss=detector_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, weight_decay=0.01),
        schedule=Cosine(warmup=config.warmup),
        precision=config.precision,
        clip=5.0,
        blocks=(),
        channels_last=True,
        example=partial(detector_example, config),
    )


# Chapter 06, section "1 Where are the people?"
def detector_example(config: DetectorConfig, count: int) -> Batch:
    """A batch of the right shapes and dtypes: one person in each picture."""
    targets = detection_targets(torch.tensor([[4.0, 4.0, 20.0, 28.0]]), config.size)
    batch = {name: values.expand(count, -1, -1, -1).clone() for name, values in targets.items()}
    return {"image": torch.rand(count, 3, config.size, config.size)} | batch


# Chapter 06, section "1 Where are the people?"
def crop_window(height: int, width: int, rng: np.random.Generator, least: float = 0.2) -> tuple[int, int, int, int]:
    """A random part of a picture: top, left, height, width. Its area is a share from `least` to 1 of the picture's, its
    sides 3:4 to 4:3; the middle of the picture where ten tries don't fit. (RandomResizedCrop; Sapiens' code.)"""
    for _ in range(10):
        area, aspect = rng.uniform(least, 1.0) * height * width, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


# Chapter 06, section "1 Where are the people?"
def resized(image: Tensor, size: int) -> Tensor:
    """(3, H, W) -> (3, size, size), bicubic, within [0, 1]."""
    if image.shape[1:] == (size, size):
        return image
    return interpolate(image[None], size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


MOST_PEOPLE = 8


# Chapter 06, section "1 Where are the people?"
def padded_boxes(sample) -> Tensor:
    """A sample's boxes (8, 4) in pixels of what is seen of its people; rows of zeros where there are fewer."""
    boxes = [torch.from_numpy(person.box) for person in sample.people[:MOST_PEOPLE]]
    return torch.stack(boxes + [torch.zeros(4)] * (MOST_PEOPLE - len(boxes)))


# Chapter 06, section "1 Where are the people?"
def real_boxes(boxes: Tensor) -> Tensor:
    """(..., 4) -> those (n, 4) that are at least a cell wide and high."""
    return boxes[(boxes[:, 2:] - boxes[:, :2]).amin(1) >= STRIDE]


# Chapter 06, section "1 Where are the people?"
def cropped(boxes: Tensor, window: tuple[int, int, int, int], size: int) -> Tensor:
    """Boxes (n, 4) in the window (top, left, height, width), resized to `size`; gone where a third or less is left."""
    top, left, height, width = window
    low, high = boxes.new_tensor([left, top] * 2), boxes.new_tensor([left + width, top + height] * 2)
    inside = boxes.clamp(low, high)
    left_over = (inside[:, 2:] - inside[:, :2]).prod(1) > (boxes[:, 2:] - boxes[:, :2]).prod(1) / 3
    return (inside[left_over] - low) * (size / boxes.new_tensor([width, height] * 2))


# Chapter 06, section "1 Where are the people?"
def detector_augmented(size: int, image: Tensor, boxes: Tensor, rng: np.random.Generator) -> Batch:
    """A picture (3, H, W) in [0, 1] and its boxes (n, 4) -> a random part, mirrored, brighter or darker; targets."""
    window = top, left, height, width = crop_window(*image.shape[1:], rng, least=0.5)
    image = resized(image[:, top : top + height, left : left + width], size)
    boxes = cropped(real_boxes(boxes), window, size)
    if rng.random() < 0.5:
        left, top, right, bottom = boxes.unbind(1)
        image, boxes = image.flip(-1), torch.stack([size - right, top, size - left, bottom], 1)
    image = (image * rng.uniform(0.7, 1.3) + rng.uniform(-0.15, 0.15)).clamp(0, 1)
    return {"image": image} | detection_targets(real_boxes(boxes), size)


# Chapter 06, section "1 Where are the people?"
def detector_transform(config: DetectorConfig) -> Callable:
    """For a `TensorStream` over image (N, 3, H, W), uint8, and boxes (N, 8, 4): augmented, with targets."""
    return partial(detector_transformed, config)


# Chapter 06, section "1 Where are the people?"
def detector_transformed(config: DetectorConfig, batch: Batch, generator: torch.Generator) -> Batch:
    """See `detector_transform`: a batch of one picture, and a generator whose seed is the picture's own."""
    rng = np.random.default_rng(generator.initial_seed())
    one = detector_augmented(config.size, batch["image"][0] / 255, batch["boxes"][0], rng)
    return {name: values[None] for name, values in one.items()}


# Chapter 06, section "1 Where are the people?"
class Found(NamedTuple):
    """People in one picture: boxes (n, 4), left, top, right, bottom in pixels; scores (n,), best first."""

    boxes: Tensor
    scores: Tensor


# Chapter 06, section "1 Where are the people?", exercise 06.1
def read_centres(heat: Tensor, shape: Tensor, most: int = 20) -> tuple[Tensor, Tensor]:
    """Heat (h, w) and shape (4, h, w) -> boxes (n, 4) in cells and their heat (n,), largest first: the `most` peaks.

    A peak is a cell that none of its eight neighbours exceeds. shape: log width, log height, way to the centre (x, y)
    from the middle of the cell, all in cells. Zhou et al. 2019, §3."""
    peak = heat == max_pool2d(heat[None, None], 3, stride=1, padding=1)[0, 0]  # (h, w)
    value, cell = heat.masked_fill(~peak, -torch.inf).flatten().topk(min(most, heat.numel()))
    value, cell = value[value > -torch.inf], cell[value > -torch.inf]
    row, column = cell // heat.shape[1], cell % heat.shape[1]
    log_sides, way = shape[:, row, column].T.split(2, dim=1)  # (n, 2) each
    centre, half = torch.stack([column, row], 1) + 0.5 + way, log_sides.exp() / 2
    return torch.cat([centre - half, centre + half], 1), value


# Chapter 06, section "1 Where are the people?"
def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4) -> (n, m); 0 where both are empty."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1][None] - common).clamp(min=1e-9)


# Chapter 06, section "1 Where are the people?"
def without_doubles(boxes: Tensor, most_overlap: float = 0.6) -> Tensor:
    """The numbers of the boxes (n, 4), best first, that overlap with no better one that is kept."""
    kept: list[int] = []
    close = overlap(boxes, boxes) > most_overlap
    for candidate in range(len(boxes)):
        if not close[candidate, kept].any():
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.long)


# Chapter 06, section "1 Where are the people?"
@torch.no_grad()
def detect(model: PersonDetector, images: Tensor, least: float = 0.3, batch_size: int = 64) -> list[Found]:
    """People in pictures (B, 3, H, W) in [0, 1] of any size: one `Found` each, those with a score of at least `least`.

    The score is calibrated: of the boxes with score 0.9, nine in ten are a person (`calibrate`). No people: no boxes.
    ValueError for pixels that are NaN or infinite."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"pictures are (B, 3, H, W), not {tuple(images.shape)}: add a batch dimension with image[None]"
        )
    if not torch.isfinite(images).all():
        bad = [i for i, image in enumerate(images) if not torch.isfinite(image).all()]
        raise ValueError(f"picture {bad[0]} has pixels that are NaN or infinite: leave it out")
    height, width = images.shape[2:]
    factor = model.size / max(height, width)
    found = []
    for part in images.split(batch_size):
        for logits, shape in zip(*run_detector(model, part, factor), strict=True):
            boxes, value = read_centres(logits[0].cpu(), shape.cpu())
            scores = (value * model.calibration[0].cpu() + model.calibration[1].cpu()).sigmoid()
            boxes, scores = boxes[scores >= least], scores[scores >= least]
            boxes = (boxes * STRIDE / factor).clamp(boxes.new_zeros(4), boxes.new_tensor([width, height] * 2))
            kept = without_doubles(boxes)
            found.append(Found(boxes[kept], scores[kept]))
    return found


# Chapter 06, section "1 Where are the people?"
def run_detector(model: PersonDetector, images: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Pictures, resized by `factor` and filled up to multiples of 32 on the right and below, through the network."""
    device = next(model.parameters()).device
    height, width = (max(1, round(side * factor)) for side in images.shape[2:])
    if (height, width) != tuple(images.shape[2:]):
        images = interpolate(images, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)
    filled = pad(normalize(images.to(device)), (0, -width % 32, 0, -height % 32))
    return model(filled)


# Chapter 06, section "1 Where are the people?"
def hits(found: Found, truth: Tensor, least: float = 0.5) -> Tensor:
    """Which boxes (n,) are a person of `truth` (m, 4): best first, each takes the person it overlaps most, once."""
    close, right = overlap(found.boxes, truth), torch.zeros(len(found.boxes), dtype=torch.bool)
    for box in range(len(found.boxes) if len(truth) else 0):
        value, person = close[box].max(0)
        right[box] = value >= least
        if right[box]:
            close[:, person] = 0
    return right


# Chapter 06, section "1 Where are the people?"
def calibrate(model: PersonDetector, images: Tensor, boxes: Tensor) -> None:
    """Sets `model.calibration` so that a score is the share of such boxes that are people, on held-out pictures.

    images (N, 3, H, W), boxes (N, 8, 4) padded with zeros. Platt 1999: two numbers, by logistic regression."""
    model.calibration.copy_(torch.tensor([1.0, 0.0]))
    found = detect(model, images, least=0.01)
    truth = [real_boxes(rows) for rows in boxes]
    right = torch.cat([hits(one, people) for one, people in zip(found, truth, strict=True)]).double()
    logit = torch.cat([one.scores for one in found]).double().logit()
    fit = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([fit], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        wrong = binary_cross_entropy_with_logits(fit[0] * logit + fit[1], right, reduction="sum")
        value = wrong + 0.1 * (fit - fit.new_tensor([1, 0])).square().sum()  # defined where nothing was found, too
        value.backward()
        return value

    solver.step(loss)
    model.calibration.copy_(fit.detach())


# Chapter 06, section "1 Where are the people?"
def detector_quality(model: PersonDetector, images: Tensor, boxes: Tensor, score: float = 0.9) -> dict[str, float]:
    """Precision and recall of boxes above `score`, 0 to 1, on pictures (N, 3, H, W) with boxes (N, 8, 4)."""
    found, truth = detect(model, images, least=score), [real_boxes(rows) for rows in boxes]
    right = sum(int(hits(one, people).sum()) for one, people in zip(found, truth, strict=True))
    boxes_found, people = sum(len(one.boxes) for one in found), sum(map(len, truth))
    return {"precision": right / max(1, boxes_found), "recall": right / max(1, people)}


# Chapter 06, section "2 What is worth keeping?", exercise 06.2
def large_and_certain(found: Found, size: int, score: float = 0.9, side: float = 300 / 1024) -> Tensor:
    """Which people (n,) of a picture `size` pixels wide and high are worth a pretraining: boxes with a score above
    `score` whose longer side is more than the share `side` of the picture's. Sapiens §3.1."""
    longer = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(1)  # (n,)
    return (found.scores > score) & (longer > side * size)


FAULTS = ("text", "watermark", "artistic", "unnatural")  # what §3.1 discards


# Chapter 06, section "Faults"
class FaultFinder(nn.Module):
    """Normalised pictures (B, 3, H, W) -> a logit for each of FAULTS (B, 4).

    Small convolutions that look at an 8th of the side and keep the strongest and the mean answer of the whole picture:
    letters are somewhere, a false colour everywhere."""

    def __init__(self, width: int):
        super().__init__()
        self.look = nn.Sequential(
            convolution(3, width), convolution(width, width, 2), convolution(width, 2 * width, 2),
            convolution(2 * width, 4 * width, 2), convolution(4 * width, 4 * width),
        )  # fmt: skip
        self.judge = nn.Linear(8 * width, len(FAULTS))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        seen = self.look(images)  # (B, 4 width, H / 8, W / 8)
        return self.judge(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1))


# Chapter 06, section "3 A picture with holes", exercise 06.3
def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p * p * C): a row per patch; in it pixel after pixel, the channel changing fastest.

    MAE's own order ("nhwpqc"; He et al. 2022), not that of chapter 04's `patchify`. H, W: multiples of `patch`.
    """
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


# Chapter 06, section "3 A picture with holes", exercise 06.4
def unpatchify(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(B, N, p * p * C), a row for each patch of a grid (rows, columns) -> (B, C, H, W). The inverse of `patchify`."""
    return rearrange(rows, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch, q=patch)


# Chapter 06, section "3 A picture with holes"
def kept_patches(count: int, ratio: float) -> int:
    """How many of `count` patches stay visible. ValueError for a ratio that leaves none, or masks none."""
    kept = int(count * (1 - ratio)) if 0 < ratio < 1 else 0
    if not 0 < kept < count:
        raise ValueError(
            f"a mask ratio of {ratio} leaves none of {count} patches visible, or masks none: "
            f"use a ratio from {1 / count:.3g} to {1 - 1 / count:.3g}"
        )
    return kept


# Chapter 06, section "3 A picture with holes", exercise 06.5
def random_masking(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Random numbers (B, N) -> keep (B, n), mask (B, N), restore (B, N); n = int(N (1 - ratio)) patches stay visible.

    keep: the numbers of the patches with the least noise, least first. mask: 1 where a patch is masked, else 0.
    restore: where the kept patches in `keep`'s order are followed by the masked ones, patch i is at place restore[i].
    He et al. 2022, §3. ValueError for a ratio that leaves no patch, or masks none.
    """
    n = kept_patches(noise.shape[1], ratio)
    order = noise.argsort(1)  # (B, N): who stands at each place after the shuffle
    restore = order.argsort(1)  # (B, N): where each patch stands after the shuffle
    return order[:, :n], (restore >= n).to(noise.dtype), restore


# Chapter 06, section "4 What is to be painted", exercise 06.6
def normalize_patches(patches: Tensor) -> Tensor:
    """Patches (B, N, P) -> each with mean 0 and variance 1 (unbiased, 1e-6 added): what MAE predicts. He et al., §3."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


# Chapter 06, section "4 What is to be painted", exercise 06.7
def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mean squared error of the masked patches: prediction and target (B, N, P), mask (B, N), 1 = masked -> ().

    0 where nothing is masked. He et al. 2022, §3.
    """
    error = (prediction - target).square().mean(-1)  # (B, N)
    return (error * mask).sum() / mask.sum().clamp(min=1)


# Chapter 06, section "5 The masked autoencoder"
@dataclass(frozen=True)
class Config:
    """A masked autoencoder, what it is shown, and how it is trained. size: the side of the square pictures.

    steps and batch_size count optimiser steps and pictures in each; lr is the peak."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    pictures: int
    batch_size: int
    steps: int
    lr: float = 1e-3
    warmup: int = 50
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    mask_ratio: float = 0.75
    world: str = "wild"
    precision: str = "bf16"
    accumulate: int = 1
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None


TOKENS = 1.2e12  # "Each model is pretrained on 1.2 trillion tokens" (Sapiens §1)


# Chapter 06, section "5 The masked autoencoder"
def paper_config(
    width: int, depth: int, heads: int, batch_size: int, counted: int = 4096, **printed: float | None
) -> Config:
    """A row of Sapiens' Table 2. `counted`: the tokens that a picture is taken to have, 4096 patches or 1024 visible
    ones; printed: what else the paper says of the run (`PaperRun`)."""
    samples = TOKENS / counted
    reading = "all patches" if counted == 4096 else "the visible patches"
    notes = (
        f"1.2 T tokens, read as {reading}: {counted:,} of a picture. The paper's text does not say which",
        "the paper's parameters are those of encoder and decoder, its FLOPs multiply-adds of the encoder on all "
        "patches, without attention's own products",
        "learning rate: that of its code for a batch of 4,096; what was used for these batches is not known",
    )
    return Config(
        1024, 16, width, depth, heads, pictures=300_000_000, batch_size=batch_size, world="wild",
        steps=round(samples / batch_size), lr=1.5e-4 * 4096 / 256, warmup=round(samples / batch_size / 40),
        checkpoint_blocks=True, paper=PaperRun("Sapiens, Table 2 and §4.1", batch=batch_size, samples=samples,
                                               notes=notes, **printed),
    )  # fmt: skip


PRINTED_2B = {"parameters": 2.163e9, "flops": 8.709e12, "gpus": 1024, "days": 18}
CONFIGS = {
    "smoke": Config(32, 8, 32, 2, 2, pictures=8, batch_size=4, steps=6, warmup=2,
                    decoder_width=16, decoder_depth=1, decoder_heads=2),
    "laptop": Config(128, 8, 192, 6, 6, pictures=2400, batch_size=64, steps=400, lr=1.5e-3,
                     decoder_width=96, decoder_depth=2, decoder_heads=3),
    "gpu": Config(256, 16, 384, 12, 6, pictures=24_000, batch_size=256, steps=12_000, warmup=600,
                  decoder_width=192, decoder_depth=4, decoder_heads=6),
    "shipped": Config(128, 8, 192, 6, 6, pictures=12_000, batch_size=64, steps=8000, lr=1e-3, warmup=400,
                      decoder_width=96, decoder_depth=2, decoder_heads=3),
    "sapiens-0.3b": paper_config(1024, 24, 16, batch_size=98_304, parameters=0.336e9, flops=1.242e12),
    "sapiens-0.6b": paper_config(1280, 32, 16, batch_size=65_536, parameters=0.664e9, flops=2.583e12),
    "sapiens-1b": paper_config(1536, 40, 24, batch_size=40_960, parameters=1.169e9, flops=4.647e12),
    "sapiens-2b": paper_config(1920, 48, 32, batch_size=20_480, **PRINTED_2B),
    "sapiens-2b-visible": paper_config(1920, 48, 32, batch_size=20_480, counted=1024, **PRINTED_2B),
}  # fmt: skip


# Chapter 06, section "5 The masked autoencoder"
class MaskedAutoencoder(nn.Module):
    """An encoder for the patches that are visible and a light decoder that paints the others.

    `encoder` is chapter 04's transformer, with fixed waves as places and a cls token. He et al. 2022; Sapiens §3.2, its
    code for what the text leaves out.
    """

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.mask_ratio = c.mask_ratio
        self.encoder = VisionTransformer(
            c.size, c.patch, c.width, c.depth, c.heads, c.mlp_ratio, positions="sincos", cls=True
        )
        self.decoder_embed = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.decoder_pos_embed = position_table("sincos", self.encoder.grid, 1, c.decoder_width)
        self.decoder_blocks = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(c.decoder_width, 3 * c.patch**2)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            initialize(module)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor, ratio: float | None = None) -> tuple[Tensor, Tensor]:
        """Normalised pictures (B, 3, H, W), noise (B, N) -> what each patch is thought to be (B, N, 3p²), mask (B, N).

        ratio: the share that is masked, the configuration's if None."""
        keep, mask, restore = random_masking(noise, self.mask_ratio if ratio is None else ratio)
        return self.decode(self.encode(images, keep), restore), mask

    def encode(self, images: Tensor, keep: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> tokens (B, 1 + n, D) of cls and of the patches `keep` (B, n) alone."""
        tokens = self.encoder.embed(images)  # (B, 1 + N, D), places added
        index = keep[..., None].expand(-1, -1, tokens.shape[-1])
        visible = tokens[:, 1:].gather(1, index)  # (B, n, D)
        return self.encoder.encode(torch.cat([tokens[:, :1], visible], 1))

    def fill(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Tokens (B, 1 + n, d) of cls and visible patches, restore (B, N) -> (B, 1 + N, d): in the picture's order,
        with `mask_token` where nothing was visible."""
        missing = restore.shape[1] - (tokens.shape[1] - 1)
        holes = self.mask_token.to(tokens.dtype).expand(len(tokens), missing, -1)
        shuffled = torch.cat([tokens[:, 1:], holes], 1)  # (B, N, d)
        patches = shuffled.gather(1, restore[..., None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, :1], patches], 1)

    def decode(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Tokens (B, 1 + n, D) of the encoder -> all patches (B, N, 3p²), normalised patch by patch."""
        x = self.fill(self.decoder_embed(tokens), restore) + self.decoder_pos_embed  # (B, 1 + N, d)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]


# Chapter 06, section "5 The masked autoencoder"
def encoder_state(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The encoder's tensors alone, by name: what the tasks of the next chapters begin with."""
    return model.encoder.state_dict()


# Chapter 06, section "6 The run"
def pretraining_loss(model: nn.Module, batch: Batch) -> Tensor:
    """How badly the masked patches are painted: `masked_loss` against normalised patches. He et al. 2022, §3."""
    images = normalize(batch["image"])
    prediction, mask = model(images, batch["noise"])  # (B, N, 3p²), (B, N)
    patch = math.isqrt(prediction.shape[-1] // 3)
    return masked_loss(prediction, normalize_patches(patchify(images, patch)), mask)


# Chapter 06, section "6 The run"
def recipe(config: Config, stream: Stream | None) -> Recipe:
    """The training of a `MaskedAutoencoder` on batches of image (B, 3, H, W) in [0, 1] and noise (B, N)."""
    return Recipe(
        name=f"mae-{config.width}x{config.depth}-{config.size}",
        model=partial(MaskedAutoencoder, config),
        loss=pretraining_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Cosine(warmup=config.warmup),
        accumulate=config.accumulate,
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 06, section "6 The run"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    rows, columns = patch_grid((config.size, config.size), config.patch)
    return {"image": torch.rand(count, 3, config.size, config.size), "noise": torch.rand(count, rows * columns)}


# Chapter 06, section "6 The run"
def augmented(config: Config, image: Tensor, rng: np.random.Generator) -> Batch:
    """A picture (3, H, W) in [0, 1] -> a random part of it, mirrored half of the time, and the noise for its mask."""
    top, left, height, width = crop_window(*image.shape[1:], rng)
    image = resized(image[:, top : top + height, left : left + width], config.size)
    return with_noise(config, image.flip(-1) if rng.random() < 0.5 else image, rng)


# Chapter 06, section "6 The run"
def with_noise(config: Config, image: Tensor, rng: np.random.Generator) -> Batch:
    """The picture with random numbers for the mask: drawn here, so that they don't depend on the number of GPUs."""
    rows, columns = patch_grid(image.shape[1:], config.patch)
    return {"image": image, "noise": torch.from_numpy(rng.random(rows * columns, dtype=np.float32))}


# Chapter 06, section "6 The run"
def prepare(config: Config) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> image (3, size, size) and noise (N,), augmented."""
    return partial(prepared, config)


# Chapter 06, section "6 The run"
def prepared(config: Config, sample, rng: np.random.Generator | None = None) -> Batch:
    """See `prepare`; without random numbers the whole picture, the same noise for each. ValueError for NaN pixels."""
    if not np.isfinite(sample.image).all():
        raise ValueError(f"sample {sample.key} has pixels that are NaN or infinite: leave it out, or make it anew")
    image = torch.from_numpy(sample.image)
    if rng is None:
        return with_noise(config, resized(image, config.size), np.random.default_rng(0))
    return augmented(config, image, rng)


# Chapter 06, section "6 The run"
def transform(config: Config) -> Callable:
    """For a `TensorStream` over pictures {"image": (N, 3, H, W)}, uint8 or in [0, 1]: the same augmentation."""
    return partial(transformed, config)


# Chapter 06, section "6 The run"
def transformed(config: Config, batch: Batch, generator: torch.Generator) -> Batch:
    """See `transform`: a batch of one picture, and a generator whose seed is the picture's own."""
    image = batch["image"][0]
    image = image / 255 if image.dtype == torch.uint8 else image
    one = augmented(config, image, np.random.default_rng(generator.initial_seed()))
    return {name: values[None] for name, values in one.items()}


SHIPPED = {
    "people": Shipped("sapiens_pretraining-people", CONFIGS["shipped"], "course_lib.studies.sapiens:people"),
    "detector": Shipped("sapiens_pretraining-detector", DETECTORS["shipped"], "course_lib.studies.sapiens:detector"),
}


# Chapter 06, section "8 What was learned", exercise 06.9
def nearest(queries: Tensor, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Queries (M, D), features (N, D) -> cosine similarity (M, count), largest first, and whose it is (M, count)."""
    similarity = cosine_normalize(queries, dim=-1) @ cosine_normalize(features, dim=-1).T  # (M, N)
    return similarity.topk(count, dim=1)


# Chapter 06, section "9 What it costs", exercise 06.10
def autoencoder_parameters(
    width: int,
    depth: int,
    tokens: int = 4097,
    patch_values: int = 768,
    decoder_width: int = 512,
    decoder_depth: int = 8,
) -> int:
    """All numbers of a `MaskedAutoencoder`, the fixed places included. tokens: patches and cls; patch_values: 3 p²."""
    encoder = encoder_parameters(Encoder(width, depth, 1, tokens, patch_values))
    decoder = decoder_depth * block_parameters(decoder_width) + (width + 1) * decoder_width  # blocks, way in
    decoder += decoder_width + tokens * decoder_width + 2 * decoder_width  # mask token, places, norm
    return encoder + decoder + (decoder_width + 1) * patch_values


# course build sealed the text above: 44f81a168ea154f8

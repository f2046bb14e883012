"""DAViD, the models: made by `course build` from solutions/10_david_models.py. Edit there, never here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, conv2d, gelu, interpolate, pad, relu
from torch.nn.functional import normalize as unit

from course_lib.chapters.david_data import Augmentation, augmented, packed
from course_lib.chapters.sapiens_dense import relative_depth, unproject
from course_lib.chapters.sapiens_pretraining import normalize
from course_lib.chapters.transformers import VisionTransformer, resize_position_embedding
from course_lib.recipe import Batch, Cosine, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study

WORLD = "synth"  # whose people the chapter trains and tests on
TASKS = ("depth", "normals", "alpha")
CHANNELS = {"depth": 1, "normals": 3, "alpha": 1}  # numbers a pixel


# Chapter 10, section "1 A transformer that sees the whole, convolutions that see every hair"
@dataclass(frozen=True)
class Config:
    """A network for some of TASKS, what it is shown, and how it is trained.

    size: side of the square that the encoder sees. features: channels of the decoder. reassembled: of the tokens'
    pictures, levels 1 to 4. resizer: of its stem and its four blocks; () for none, which is DPT. picture: side of the
    training pictures. laplacian, gradient: weights in equations 3 and 4. augmentation: chapter 09's.
    """

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    features: int
    reassembled: tuple[int, int, int, int]
    resizer: tuple[int, ...]
    picture: int
    pictures: int
    batch_size: int
    steps: int
    tasks: tuple[str, ...] = TASKS
    lr: float = 1e-3
    warmup: int = 20
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    laplacian: float = 0.5
    gradient: float = 0.5
    augmentation: Augmentation = Augmentation()
    world: str = WORLD
    precision: str = "bf16"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None

    def __post_init__(self):
        if not self.tasks or (unknown := set(self.tasks) - set(TASKS)):
            raise ValueError(f"tasks {sorted(unknown) if self.tasks else '()'} are unknown: use some of {TASKS}")
        if len(self.resizer) not in (0, 5):
            raise ValueError(f"resizer has {len(self.resizer)} numbers: give those of the stem and of four blocks")


# Chapter 10, section "Reading tokens"
class ReadProjection(nn.Module):
    """Every visual token reads the class token: Read_proj, DAViD equation 1; Ranftl et al. 2021, §3.1."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, D), the class token first -> (B, N, D)."""
        cls, visual = tokens[:, :1], tokens[:, 1:]
        pairs = torch.cat([visual, cls.expand_as(visual)], dim=-1)  # (B, N, 2D)
        return gelu(self.project(pairs))


# Chapter 10, section "Reassembling a picture"
def rescaled(channels: int, level: int) -> nn.Module:
    """The convolution that makes a picture of tokens 4, 2, 1 or ½ times as large at levels 1 to 4. DPT's code."""
    if level == 4:
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    factor = (4, 2, 1)[level - 1]
    return nn.Identity() if factor == 1 else nn.ConvTranspose2d(channels, channels, factor, stride=factor)


# Chapter 10, section "Reassembling a picture"
class Reassemble(nn.Module):
    """One layer's tokens (B, 1 + N, D) -> a picture (B, F, h, w), h and w 4, 2, 1 or ½ times the grid's."""

    def __init__(self, width: int, channels: int, features: int, level: int):
        super().__init__()
        self.read = ReadProjection(width)
        self.project = nn.Conv2d(width, channels, 1)
        self.rescale = rescaled(channels, level)
        self.refine = nn.Conv2d(channels, features, 3, padding=1, bias=False)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens and their grid (rows, columns) -> e^l."""
        picture = self.read(tokens).mT.unflatten(2, grid)  # (B, D, rows, columns)
        return self.refine(self.rescale(self.project(picture)))  # (B, F, h, w)


# Chapter 10, section "The resizer"
class Resizer(nn.Module):
    """Pictures (B, 3, H, W) of any size -> [r^1, …, r^4], each half as large as the last, rounded up. DAViD §3.2.

    channels: of the stem and of the four blocks."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, a, 3, padding=1), nn.ReLU(), nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU())
            for a, b in pairs
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, C_l, H / 2^l, W / 2^l) for l = 1 … 4."""
        maps = [relu(self.stem(images))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


# Chapter 10, section "One decoder block"
class ResidualConv(nn.Module):
    """RConv: x + conv(relu(conv(relu(x)))), all of F channels. Ranftl et al. 2021's residual convolutional unit."""

    def __init__(self, features: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, F, H, W)."""
        return x + self.second(relu(self.first(relu(x))))


# Chapter 10, section "One decoder block"
def resized(x: Tensor, like: Tensor) -> Tensor:
    """Interp of equation 2: x (B, C, H, W) bilinearly in the height and width of `like`, corners on corners (DPT)."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


# Chapter 10, section "One decoder block"
class DecoderBlock(nn.Module):
    """Joins the encoder's picture, the resizer's map and what the block before has made. DAViD equation 2."""

    def __init__(self, features: int, resizer: int):
        super().__init__()
        self.learned, self.fused = ResidualConv(features), ResidualConv(features)
        self.mix = nn.Conv2d(resizer + features, features, 1)

    def forward(self, encoded: Tensor, detail: Tensor, before: Tensor | None = None) -> Tensor:
        """e^l (B, F, h, w), r^l (B, C, H, W) and the block before's (B, F, ., .), or None -> d^l (B, F, H, W)."""
        total = self.learned(encoded)
        if before is not None:
            total = before + resized(total, before)
        fused = resized(self.fused(total), detail)  # (B, F, H, W)
        return self.mix(torch.cat([detail, fused], dim=1))


# Chapter 10, section "The whole"
def squared(images: Tensor) -> tuple[Tensor, int, int]:
    """(B, 3, H, W) -> (B, 3, S, S) with S the longer side, the outermost rows or columns repeated on both sides, and
    how many were added at the top and on the left. DAViD §4.1."""
    height, width = images.shape[-2:]
    down, right = max(height, width) - height, max(height, width) - width
    top, left = down // 2, right // 2
    return pad(images, (left, right - left, top, down - top), mode="replicate"), top, left


# Chapter 10, section "The whole"
class Head(nn.Module):
    """The convolutions that make a task's numbers from the decoder's features, in a given size. DPT's code."""

    def __init__(self, features: int, out: int):
        super().__init__()
        half, few = features // 2, max(features // 8, 16)
        self.first, self.second = nn.Conv2d(features, half, 3, padding=1), nn.Conv2d(half, few, 3, padding=1)
        self.last = nn.Conv2d(few, out, 1)

    def forward(self, features: Tensor, like: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, out, H, W), the size of `like`."""
        return self.last(relu(self.second(resized(self.first(features), like))))


# Chapter 10, section "The whole"
class David(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] of any size -> {task: raw answers of that size}: depth (B, 1, H, W) up to scale
    and shift, normals (B, 3, H, W) of any length, alpha (B, 1, H, W) as logits. DAViD §3.2 and Fig. 5."""

    def __init__(self, config: Config):
        super().__init__()
        c, detail = config, config.resizer[1:] or (0,) * 4
        self.layers = [-(-c.depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)]  # 2, 5, 8, 11 of 12
        self.encoder = VisionTransformer(c.size, c.patch, c.width, c.depth, c.heads)
        self.encoder.norm = nn.Identity()  # nobody reads what comes after the last block
        levels = list(zip((1, 2, 3, 4), c.reassembled, strict=True))
        self.reassemble = nn.ModuleList(Reassemble(c.width, wide, c.features, level) for level, wide in levels)
        self.resizer = Resizer(c.resizer) if c.resizer else None
        self.decoder = nn.ModuleList(DecoderBlock(c.features, channels) for channels in detail)
        self.heads = nn.ModuleDict({task: Head(c.features, CHANNELS[task]) for task in c.tasks})

    def encode(self, images: Tensor) -> list[Tensor]:
        """Squares (B, 3, S, S) -> [e^1, …, e^4]. The cost does not depend on S."""
        side = self.encoder.grid[0] * self.encoder.patch
        seen = interpolate(images, size=(side, side), mode="bilinear", antialias=True)  # antialias: our choice
        tokens = self.encoder.features(seen, self.layers)
        return [part(found, self.encoder.grid) for part, found in zip(self.reassemble, tokens, strict=True)]

    def features(self, images: Tensor) -> Tensor:
        """Squares (B, 3, S, S) -> d^1 (B, F, S / 2, S / 2)."""
        encoded = self.encode(images)
        details = self.resizer(images) if self.resizer else [doubled(picture) for picture in encoded]
        before = None
        for block, picture, detail in reversed(list(zip(self.decoder, encoded, details, strict=True))):
            before = block(picture, detail, before)
        return before

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See the class."""
        square, top, left = squared(normalize(images))
        features, (height, width) = self.features(square), images.shape[-2:]
        answers = {task: head(features, square) for task, head in self.heads.items()}
        return {task: x[..., top : top + height, left : left + width] for task, x in answers.items()}


# Chapter 10, section "The whole"
def doubled(picture: Tensor) -> Tensor:
    """(B, F, h, w) -> (B, 0, 2h, 2w): no channels, but the size to which DPT enlarges where there is no resizer."""
    return picture.new_empty(len(picture), 0, 2 * picture.shape[2], 2 * picture.shape[3])


# width, depth, heads of the encoder, and the channels of its reassembled pictures (DPT's code; small: our choice)
SIZES = {
    "small": (384, 12, 6, (48, 96, 192, 384)),
    "base": (768, 12, 12, (96, 192, 384, 768)),
    "large": (1024, 24, 16, (256, 512, 1024, 1024)),
}
RESIZER = (80, 80, 96, 192, 256)  # found by counting: see below
PRINTED = {"small": {}, "base": {"parameters": 0.12e9, "flops": 344e9}, "large": {"parameters": 0.34e9, "flops": 663e9}}


# Chapter 10, section "How large, and how dear?"
def paper_config(size: str, tasks: tuple[str, ...] = ("depth",), **printed) -> Config:
    """DAViD's run for some tasks at one of SIZES: 100 epochs of 300,000 pictures on 4 GPUs, 24 a GPU."""
    width, depth, heads, reassembled = SIZES[size]
    said = PRINTED[size] | printed
    paper = PaperRun("DAViD Table 1, §4.1; model cards", gpus=4, batch=96, samples=100 * 300_000, **said)
    return Config(
        384, 16, width, depth, heads, 256, reassembled, RESIZER, picture=512, pictures=300_000, batch_size=96,
        steps=100 * 300_000 // 96, tasks=tasks, lr=1e-5, warmup=0, paper=paper,
    )  # fmt: skip


SMALL = {"features": 48, "reassembled": (24, 48, 96, 96), "resizer": (8, 16, 32, 48, 64)}
LIGHT = {"layer_decay": 0.85, "precision": "fp32"}  # many a CPU has no bf16, and is ten times slower with it
SINGLE, TRIPLE = 500 / 96, 528 / 96  # days: GPU hours of the model cards on 4 GPUs
CONFIGS = {
    "smoke": Config(24, 8, 32, 2, 2, 16, (8, 8, 16, 16), (4, 4, 8, 8, 8), picture=32, pictures=8, batch_size=4,
                    steps=4, warmup=2, precision="fp32"),
    "laptop": Config(96, 8, 192, 6, 6, **SMALL, picture=128, pictures=1000, batch_size=16, steps=250, lr=2e-3,
                     **LIGHT),
    "shipped": Config(96, 8, 192, 6, 6, **SMALL, picture=128, pictures=6000, batch_size=16, steps=8000, lr=1.5e-3,
                      warmup=100, **LIGHT),
    "gpu": Config(192, 16, 384, 12, 6, 128, (48, 96, 192, 384), (32, 32, 64, 96, 128), picture=256, pictures=12_000,
                  batch_size=64, steps=6000, warmup=200, lr=5e-4, layer_decay=0.85),
    "david-small": paper_config("small"),
    "david-base": paper_config("base"),
    "david-large": paper_config("large", days=SINGLE),
    "david-large-normals": paper_config("large", ("normals",), days=SINGLE),
    "david-large-alpha": paper_config("large", ("alpha",), days=SINGLE),
    "david-multitask": paper_config("large", TASKS, parameters=0.35e9, flops=2 * 389.9e9, days=TRIPLE),
}  # fmt: skip


# Chapter 10, section "The soft foreground"
def require_alike(prediction: Tensor, target: Tensor) -> None:
    """ValueError for different shapes, and for a target of whole numbers."""
    if prediction.shape != target.shape:
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"prediction and target have the shapes {shapes}: bring both to one size")
    if not target.is_floating_point():
        raise ValueError(f"the target is {target.dtype}: give floats (an alpha in [0, 1]: divide by 255)")


# Chapter 10, section "The soft foreground", exercise 10.3
def dice_loss(alpha: Tensor, target: Tensor) -> Tensor:
    """Foregrounds (B, H, W) in [0, 1] -> a scalar, the mean over pictures. Equation 10.1; DAViD §3.3."""
    both, all_of_it = (alpha * target).sum((1, 2)), (alpha + target).sum((1, 2))
    return (1 - (2 * both + 1) / (all_of_it + 1)).mean()


# Chapter 10, section "The Laplacian pyramid"
def blurred(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) under a Gaussian of 5 x 5 pixels with σ = 1; beyond the border as at the border."""
    weights = maps.new_tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).square().div(-2).softmax(0)  # e^(−x²/2), of sum 1
    apart = pad(maps.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="replicate")  # (B C, 1, H + 4, W + 4)
    return conv2d(apart, torch.outer(weights, weights)[None, None]).view_as(maps)


# Chapter 10, section "The Laplacian pyramid", exercise 10.4
def laplacian_pyramid(maps: Tensor, levels: int = 5) -> list[Tensor]:
    """(B, C, H, W) -> the detail of each level, finest first, and the rest: levels + 1 maps, each half as large as the
    one before, rounded up. Equation 10.3."""
    pyramid = []
    for _ in range(levels):
        smooth = blurred(maps)
        pyramid.append(maps - smooth)
        maps = avg_pool2d(smooth, 2, ceil_mode=True)
    return [*pyramid, maps]


# Chapter 10, section "The Laplacian pyramid"
def laplacian_loss(alpha: Tensor, target: Tensor) -> Tensor:
    """Foregrounds (B, H, W) in [0, 1] -> a scalar. Equation 10.3."""
    pairs = zip(laplacian_pyramid(alpha[:, None]), laplacian_pyramid(target[:, None]), strict=True)
    return sum((ours - true).abs().mean() for ours, true in pairs)


# Chapter 10, section "The Laplacian pyramid"
def soft_foreground_loss(logits: Tensor, target: Tensor, laplacian: float = 0.5) -> Tensor:
    """Logits (B, H, W), alpha (B, H, W), kept within [0, 1] -> a scalar. DAViD equation 3, each term a mean.

    ValueError for shapes that differ and for whole numbers. A picture without anybody is a picture like any other."""
    require_alike(logits, target)
    target, alpha = target.clamp(0, 1), logits.sigmoid()
    chance = binary_cross_entropy_with_logits(logits, target)
    pixels = chance + (alpha - target).abs().mean()
    return pixels + dice_loss(alpha, target) + laplacian * laplacian_loss(alpha, target)


# Chapter 10, section "Normals"
def cosine_normal_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Raw answers (B, 3, H, W), unit normals (B, 3, H, W), 0 or NaN where nobody is -> a scalar, the mean over all
    human pixels, 0 without any. Equation 10.4; DAViD §3.3. ValueError for shapes that differ."""
    require_alike(prediction, target)
    known = target.square().sum(1) > 0.25  # (B, H, W); NaN is not
    target = target.where(known[:, None], 0.0)
    cosine = (unit(prediction, dim=1, eps=1e-6) * target).sum(1)
    return (1 - cosine).where(known, 0.0).sum() / known.sum().clamp(min=1)


# Chapter 10, section "Depth, up to scale and shift", exercise 10.5
def align_scale_shift(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, H, W), mask (B, H, W) bool or weights -> s and t (B,) of equation 10.5; the gradient flows through both.

    Without variation s = 0 and t is the mean; 0 and 0 for an empty mask. Outside of the mask numbers must be finite."""
    weight = mask / mask.sum((1, 2), keepdim=True).clamp(min=1)
    p_mean, d_mean = (prediction * weight).sum((1, 2)), (target * weight).sum((1, 2))
    p, d = prediction - p_mean[:, None, None], target - d_mean[:, None, None]
    variance, covariance = (weight * p * p).sum((1, 2)), (weight * p * d).sum((1, 2))
    varies = variance > 1e-12 * p_mean.square()
    s = (covariance / variance.where(varies, 1.0)).where(varies, 0.0)
    return s, d_mean - s * p_mean


# Chapter 10, section "The gradient term", exercise 10.6
def gradient_loss(residual: Tensor, mask: Tensor, scales: int = 4) -> Tensor:
    """Errors (B, H, W), mask (B, H, W) bool -> (B,): equation 10.6, for each picture by itself; 0 for an empty mask.

    Ranftl et al. 2022, equation 11."""
    total = residual.new_zeros(len(residual))
    for step in (2**k for k in range(scales)):
        r, m = residual[:, ::step, ::step], mask[:, ::step, ::step].to(residual)
        across = (r[:, :, 1:] - r[:, :, :-1]).abs() * m[:, :, 1:] * m[:, :, :-1]
        down = (r[:, 1:] - r[:, :-1]).abs() * m[:, 1:] * m[:, :-1]
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / m.sum((1, 2)).clamp(min=1)
    return total


# Chapter 10, section "The gradient term"
def scale_shift_invariant_loss(prediction: Tensor, target: Tensor, gradient: float = 0.5) -> Tensor:
    """Any depths (B, H, W); relative depth (B, H, W) in [0, 1], negative or NaN where nobody is -> a scalar. DAViD
    equation 4.

    The mean over the pictures with human pixels, 0 where there is none (a person without depth has no relative depth:
    `relative_depth`). ValueError for shapes that differ."""
    require_alike(prediction, target)
    known = target >= 0  # NaN is not
    count, depth = known.sum((1, 2)), target.where(known, 0.0)
    s, t = align_scale_shift(prediction, depth, known)
    residual = (s[:, None, None] * prediction + t[:, None, None] - depth).where(known, 0.0)
    square = residual.square().sum((1, 2)) / count.clamp(min=1)
    losses = square + gradient * gradient_loss(residual, known)  # (B,)
    return losses.sum() / (count > 0).sum().clamp(min=1)


THRESHOLDS = np.arange(0, 1.1, 0.1)


# Chapter 10, section "3 How wrong is a foreground?"
def largest_piece(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> its largest piece that hangs together by 4 neighbours; all False for an empty mask."""
    pieces, count = label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=2)[1:]
    return pieces == 1 + sizes.argmax() if count else np.zeros_like(mask)


# Chapter 10, section "3 How wrong is a foreground?", exercise 10.7
def connected_level(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Foregrounds (H, W) in [0, 1] -> the level of each pixel (H, W), 1 where it never drops out. Equation 10.7;
    Rhemann et al. 2009, as P3M-Net's evaluator has it."""
    level, inside = np.ones(prediction.shape), np.ones(prediction.shape, bool)
    for below, threshold in zip(THRESHOLDS[:-1], THRESHOLDS[1:], strict=True):
        piece = largest_piece((prediction >= threshold) & (target >= threshold))
        if not piece.any():
            break
        level[inside & ~piece] = below
        inside &= piece
    return level


# Chapter 10, section "4 The paper against its own tables", exercise 10.8
def can_be(values: list[float], counts: list[int], printed: float, digits: int = 3) -> bool:
    """Whether `printed` can be the mean of the values weighted by counts, all of them rounded to so many digits."""
    mean = sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
    return abs(mean - printed) <= 10**-digits + 1e-9


HUMAN = 0.5  # a pixel is human if more of it is


# Chapter 10, section "5 The run"
def targets(batch: Batch) -> Batch:
    """A batch of floats -> what the losses want: image, alpha, relative depth (−1 where nobody is, or all of it where
    it has no depth), normals (0 where nobody is)."""
    human = batch["alpha"] > HUMAN
    depth = relative_depth(batch["depth"].where(human, 0.0))
    normals = batch["normals"].where(human[:, None], 0.0)
    return {"image": batch["image"], "alpha": batch["alpha"], "depth": depth, "normals": normals}


# Chapter 10, section "5 The run"
def training_sample(config: Config, batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one of `packed` -> one of `targets`, augmented."""
    return targets(augmented(config.augmentation, (config.picture, config.picture), batch, generator))


# Chapter 10, section "5 The run"
def transform(config: Config) -> Callable:
    """For a `TensorStream` over `packed`."""
    return partial(training_sample, config)


# Chapter 10, section "5 The run"
def prepare(config: Config) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> one sample of `targets`."""
    return partial(prepared, config)


# Chapter 10, section "5 The run"
def prepared(config: Config, sample, rng: np.random.Generator) -> Batch:
    """See `prepare`."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = {name: values[None] for name, values in packed(sample).items()}
    return {name: values[0] for name, values in training_sample(config, batch, generator).items()}


# Chapter 10, section "5 The run"
def task_loss(config: Config, task: str, answer: Tensor, batch: Batch) -> Tensor:
    """The loss of one task for its raw answers (B, 1 or 3, H, W)."""
    if task == "alpha":
        return soft_foreground_loss(answer[:, 0], batch["alpha"], config.laplacian)
    if task == "depth":
        return scale_shift_invariant_loss(answer[:, 0], batch["depth"], config.gradient)
    return cosine_normal_loss(answer, batch["normals"])


# Chapter 10, section "5 The run"
def david_loss(config: Config, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The sum of the tasks' losses, and each of them under its name."""
    answers = model(batch["image"])
    losses = {task: task_loss(config, task, answers[task].float(), batch) for task in config.tasks}
    return {"loss": sum(losses.values())} | losses


# Chapter 10, section "5 The run"
def build(config: Config, pretrained: dict[str, Tensor] | None = None) -> David:
    """A new network; its encoder random, or with the tensors of a masked autoencoder's (chapter 06's), whose places are
    resized where the grids differ."""
    model = David(config)
    if pretrained is not None:
        state = {name: tensor for name, tensor in pretrained.items() if not name.startswith("norm.")}
        rows = round((state["pos_embed"].shape[1] - 1) ** 0.5)
        state["pos_embed"] = resize_position_embedding(state["pos_embed"], (rows, rows), model.encoder.grid, prefix=1)
        model.encoder.load_state_dict(state)
    return model


# Chapter 10, section "5 The run"
def recipe(config: Config, stream: Stream | None, pretrained: dict[str, Tensor] | None = None) -> Recipe:
    """The training of a `David` on batches of image (B, 3, H, W) and the tasks' labels. DAViD §4.1.

    pretrained: the tensors of an encoder to begin with."""
    decays = {"weight_decay": config.weight_decay, "layer_decay": config.layer_decay}
    return Recipe(
        name=f"david-{'-'.join(config.tasks)}-{config.width}x{config.depth}",
        model=partial(build, config, pretrained),
        loss=partial(david_loss, config),
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.999), **decays),
        schedule=Cosine(config.warmup),
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        channels_last=True,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 10, section "5 The run"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    side = (config.picture, config.picture)
    normals = unit(torch.randn(count, 3, *side), dim=1)
    labels = {"depth": torch.rand(count, *side), "normals": normals, "alpha": torch.rand(count, *side)}
    return {"image": torch.rand(count, 3, *side)} | {task: labels[task] for task in config.tasks}


RUNS = "course_lib.studies.david"
SHIPPED = {"multitask": Shipped("david_models-multitask", CONFIGS["shipped"], f"{RUNS}:multitask")}


# Chapter 10, section "The paper's ablations"
@dataclass(frozen=True)
class Arm:
    """One arm of a study: a model of these tasks, or (`split`) one for each of them, trained from a random start on
    `pictures` of a world, the share `late` of the steps on those of the world `then`, if there is one; measured on
    `tested` pictures of another, and again for each group of the trait `by`."""

    world: str = WORLD
    pictures: int = 3000
    tasks: tuple[str, ...] = TASKS
    split: bool = False
    size: int = 64
    patch: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 4
    features: int = 32
    batch: int = 32
    lr: float = 1.5e-3
    tested: int = 300
    tested_in: str = WORLD
    then: str = ""
    late: float = 0.25
    by: str = ""


# Chapter 10, section "The paper's ablations"
def arm_config(arm: Arm, tasks: tuple[str, ...], steps: int) -> Config:
    """The configuration of one model of an arm. The channels of its convolutions grow with `features`."""
    f = arm.features
    return Config(
        arm.size, arm.patch, arm.width, arm.depth, arm.heads, f, (f // 2, f, 2 * f, 2 * f),
        (f // 4, f // 4, f // 2, f, f), picture=arm.size, pictures=arm.pictures, batch_size=arm.batch, steps=steps,
        tasks=tuple(tasks), lr=arm.lr, warmup=steps // 20, world=arm.world, precision="fp32",
    )  # fmt: skip


DATA = (f"{WORLD}-train-coco17-64-3000", f"{WORLD}-test-coco17-64-300")
OTHERS = ("synth-scan-train-coco17-64-3000", "synth-coarse-train-coco17-64-3000")


# Chapter 10, section "The paper's ablations"
def question(name: str, title: str, arms: dict[str, Arm], data: tuple[str, ...] = DATA) -> Study:
    """A study of this chapter."""
    return Study(f"10.{name}", title, arms, f"{RUNS}:compare", 600, data=data)


# Chapter 10, section "The paper's ablations"
def target(world: str) -> tuple[str, str]:
    """The data sets of another world, to train and to test on."""
    return f"{world}-train-coco17-64-3000", f"{world}-test-coco17-64-300"


SOURCES = {"full": Arm(), "scan": Arm(world="synth-scan"), "coarse": Arm(world="synth-coarse")}
COUNTED = {"20%": Arm(pictures=600), "50%": Arm(pictures=1500), "100%": Arm()}
LADDER = {"small": Arm(width=48, features=16), "middle": Arm(), "large": Arm(width=144, depth=6, heads=6, features=48)}
JOINED = {"multi": Arm(), "three": Arm(split=True), "three-thirds": Arm(split=True, width=52, features=20)}
# What counts as foreground, and what depth looks like, in another world: only there, only in ours, or ours first
HELD = {"tasks": ("alpha",), "tested_in": "synth-held"}
SCANNED = {"tasks": ("depth",), "tested_in": "synth-scan"}
DEFINITION = {"synth": Arm(**HELD), "held": Arm("synth-held", **HELD), "both": Arm(then="synth-held", **HELD)}
SURFACE = {"synth": Arm(**SCANNED), "scan": Arm("synth-scan", **SCANNED), "both": Arm(then="synth-scan", **SCANNED)}
BALANCE = {"two-percent": Arm("synth-unfair", by="skin"), "balanced": Arm(by="skin")}
STUDIES = {
    "source": question("source", "where the data are from (Table 4a)", SOURCES, DATA + OTHERS),
    "data_size": question("data_size", "how many pictures (Table 4b)", COUNTED),
    "model_size": question("model_size", "how large the network is (Table 4c)", LADDER),
    "multitask": question("multitask", "one network or three (Table 4d)", JOINED),
    "definition": question("definition", "what is foreground (Table 6)", DEFINITION, DATA[:1] + target("synth-held")),
    "surface": question("surface", "what depth looks like (Table 7)", SURFACE, DATA[:1] + target("synth-scan")),
    "balance": question("balance", "one group at 2 % (§5)", BALANCE, DATA + target("synth-unfair")[:1]),
}


# Chapter 10, section "Another light", exercise 10.9
def relit(image: Tensor, normals: Tensor, light: Tensor, ambient: float = 0.3) -> Tensor:
    """A picture (3, H, W), its unit normals (3, H, W), the direction to the light (3,) in the normals' axes -> the
    picture in that light (3, H, W). Equation 10.8; DAViD B.5."""
    cosine = torch.einsum("chw,c->hw", normals, unit(light, dim=0)).clamp(min=0)
    return image * (ambient + (1 - ambient) * cosine)


# Chapter 10, section "A picture that one can turn"
def guessed_camera(size: tuple[int, int], degrees: float = 40.0) -> Tensor:
    """The matrix K (3, 3) of a camera that sees so many degrees across the longer side of (H, W) pixels."""
    focal = max(size) / 2 / np.tan(np.radians(degrees) / 2)
    return torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]], dtype=torch.float32)


# Chapter 10, section "A picture that one can turn", exercise 10.10
def lifted(depth: Tensor, mask: Tensor, K: Tensor, near: float, far: float) -> Tensor:
    """Relative depth (H, W) of any scale and shift, far is large; mask (H, W) bool; camera K (3, 3) -> points (M, 3) in
    metres, x right, y down: the nearest pixel of the mask at `near`, the farthest at `far`. No points for an empty
    mask. DAViD B.5."""
    if not mask.any():
        return depth.new_zeros(0, 3)
    low, high = depth[mask].min(), depth[mask].max()
    metres = near + (far - near) * (depth - low) / (high - low).clamp(min=1e-6)
    return unproject(metres[None], K[None])[0][:, mask].T  # (M, 3)


# course build sealed the text above: 4d75719d6cf7c32b

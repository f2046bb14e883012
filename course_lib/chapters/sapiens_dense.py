"""Sapiens, dense prediction: made by `course build` from solutions/08_sapiens_dense.py. Edit there, never here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, interpolate
from torch.nn.functional import normalize as unit

from course_lib.chapters.sapiens_pose import SIZES, DeconvHead, feature_map, load_pretrained, recoloured, task_encoder
from course_lib.chapters.sapiens_pretraining import normalize
from course_lib.chapters.transformers import patch_grid
from course_lib.recipe import Batch, Linear, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study


# Chapter 08, section "1 From tokens back to pixels"
@dataclass(frozen=True)
class Config:
    """An encoder, a head for one task (seg, depth or normals), what they are shown, and how they are trained.

    size: (H, W) of the pictures. channels: of the head's layers. shift: pixels by which the authors' patches are moved
    (padding of their first convolution). nearest: where relative depth begins in training. background, turn: how often
    it is replaced, and turned by up to `degrees`. zoom: smallest and largest scale. `for_task` changes the task.
    """

    size: tuple[int, int]
    patch: int
    width: int
    depth: int
    heads: int
    channels: int
    pictures: int
    batch_size: int
    steps: int
    task: str = "seg"
    classes: int = 28
    dropout: float = 0.1
    bias: float = 0.5
    nearest: float = 0.0
    shift: int = 0
    lr: float = 5e-4
    warmup: int = 20
    layer_decay: float = 0.85
    weight_decay: float = 0.1
    background: float = 0.8
    zoom: tuple[float, float] = (0.7, 1.6)
    turn: float = 0.5
    degrees: float = 45.0
    world: str = "studio"
    precision: str = "bf16"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"no task is called {self.task!r}: use one of {', '.join(TASKS)}")
        if self.classes not in (20, 28):
            raise ValueError(f"there are vocabularies of 20 and 28 classes, not of {self.classes}")


TASKS = ("seg", "depth", "normals")


# Chapter 08, section "1 From tokens back to pixels"
def head_shape(config: Config) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Channels of each doubling, up to half the picture's resolution, for depth up to all of it; channels of the 1 x 1
    convolutions; numbers a pixel."""
    doublings = int(math.log2(config.patch)) - (config.task != "depth")
    convs = 2 if config.task == "depth" else 3
    out = {"seg": config.classes, "depth": 1, "normals": 3}[config.task]
    return (config.channels,) * doublings, (config.channels,) * convs, out


# Chapter 08, section "1 From tokens back to pixels"
class DensePredictor(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> class scores (B, C, H, W), depth (B, 1, H, W) or raw normals (B, 3, H, W).

    An encoder, chapter 07's head, and bilinear enlargement to the picture's size. Sapiens §3.4-3.6.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.shift = config.shift
        self.encoder = task_encoder(config)
        self.head = DeconvHead(config.width, *head_shape(config), config.dropout)
        if config.task == "depth":
            nn.init.constant_(self.head.last.bias, config.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out, H, W)."""
        features = feature_map(self.encoder, normalize(images), self.shift)  # (B, D, h, w)
        answer = self.head(features)  # (B, out, H / 2, W / 2), or H, W
        return interpolate(answer, size=images.shape[-2:], mode="bilinear", align_corners=False)


# epochs of the released checkpoints, in the order of SIZES; training pictures: §4.3, LIP's own count, §3.5
EPOCHS = {"seg": (200,) * 4, "depth": (100, 70, 88, 25), "normals": (66, 200, 115, 70)}
PICTURES = {"seg-28": 100_000, "seg-20": 30_462, "depth": 500_000, "normals": 500_000}


# Chapter 08, section "1 From tokens back to pixels"
def for_task(config: Config, task: str) -> Config:
    """A configuration of seg for another task, as the authors have it: depth has half the channels, normals are never
    turned."""
    if config.task != "seg":
        raise ValueError(f"the configuration is of {config.task} already: begin with that of seg")
    changes = {
        "seg": {},
        "depth": {"channels": config.channels // 2, "background": 0.5, "degrees": 60.0},
        "normals": {"background": 0.5, "turn": 0.0},
    }
    return replace(config, task=task, **changes[task])


# Chapter 08, section "1 From tokens back to pixels"
def paper_config(name: str, size: str) -> Config:
    """seg-28, seg-20, depth or normals at one of SIZES, on 1024 x 768 pixels; the batch of 512 is our choice."""
    task, _, classes = name.partition("-")
    width, depth, heads = SIZES[size]
    epochs, pictures = EPOCHS[task][list(SIZES).index(size)], PICTURES[name]
    config = Config(
        (1024, 768), 16, width, depth, heads, channels=768, pictures=pictures,
        batch_size=512, steps=epochs * pictures // 512, classes=int(classes or 28), warmup=400, zoom=(0.2, 2.0),
        shift=0 if name in ("seg-28", "depth") else 2, checkpoint_blocks=True,
        paper=PaperRun(f"Sapiens §4.1, its code: {epochs} epochs", samples=epochs * pictures),
    )  # fmt: skip
    return for_task(config, task)


CONFIGS = {
    "smoke": Config((32, 32), 8, 32, 2, 2, channels=16, pictures=8, batch_size=4, steps=4, warmup=2, nearest=0.5),
    "laptop": Config((128, 128), 8, 192, 6, 6, channels=64, pictures=1000, batch_size=16, steps=250, lr=1e-3,
                     nearest=0.5),
    "shipped": Config((128, 128), 8, 192, 6, 6, channels=64, pictures=6000, batch_size=16, steps=8000, lr=2e-3,
                      warmup=100),
    "gpu": Config((256, 256), 16, 384, 12, 6, channels=256, pictures=12_000, batch_size=64, steps=6000, warmup=200,
                  nearest=0.5),
    **{f"{name}-{size}": paper_config(name, size) for name in PICTURES for size in SIZES},
}  # fmt: skip

# Sapiens' classes in the order of the released labels; Left and Right are the person's own
PARTS = (
    *("Background", "Apparel", "Face_Neck", "Hair", "Left_Foot", "Left_Hand", "Left_Lower_Arm", "Left_Lower_Leg"),
    *("Left_Shoe", "Left_Sock", "Left_Upper_Arm", "Left_Upper_Leg", "Lower_Clothing", "Right_Foot", "Right_Hand"),
    *("Right_Lower_Arm", "Right_Lower_Leg", "Right_Shoe", "Right_Sock", "Right_Upper_Arm", "Right_Upper_Leg", "Torso"),
    *("Upper_Clothing", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue"),
)
LEAST_HUMAN = 0.003  # pictures with a smaller share of human pixels are not measured
IGNORE = 255  # the class of a pixel that nobody is asked about
CLASS_WEIGHTS = (0.1, 10, 3, 2, 4, 4, 2, 2, 6, 10, 3, 3, 1, 4, 4, 2, 2, 6, 10, 3, 3, 1, 1, 10, 10, 10, 10, 10)
LIP_WEIGHTS = (0.1, 1.5, 1, 1.5, 1.5, 0.8, 1.2, 1, 1.5, 0.8, 1.2, 1.5, 1.5, 0.7, 1, 1, 1, 1, 1.5, 1.5)


# Chapter 08, section "The weighted cross-entropy", exercise 08.1
def weighted_cross_entropy(scores: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Scores (B, C, H, W), classes (B, H, W), weights (C,) -> a scalar, the mean over all pixels. Equation 08.1.

    Pixels of class IGNORE add nothing to the sum; they are pixels nonetheless. Sapiens §3.4 and its code."""
    losses = cross_entropy(scores, target, weight=weights, ignore_index=IGNORE, reduction="none")  # (B, H, W)
    return losses.mean()


# Chapter 08, section "The weighted cross-entropy"
def class_weights(config: Config) -> Tensor:
    """The weights (C,) of the configuration's classes."""
    return torch.tensor(CLASS_WEIGHTS if config.classes == 28 else LIP_WEIGHTS)


# Chapter 08, section "The weighted cross-entropy"
def without_weights(config: Config, scores: Tensor) -> Tensor:
    """Scores (B, C, H, W) of a network trained on weighted classes -> those of chances, up to a constant."""
    return scores - class_weights(config).log().to(scores)[:, None, None]


LIP = (
    *("Background", "Hat", "Hair", "Glove", "Sunglasses", "UpperClothes", "Dress", "Coat", "Socks", "Pants"),
    *("Jumpsuits", "Scarf", "Skirt", "Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg"),
    *("Left-shoe", "Right-shoe"),
)
# LIP's class -> those of ours that it takes in, without their side; what stands nowhere has no name in LIP
LIP_GROUPS = {
    "Background": ("Background",), "Hair": ("Hair",), "UpperClothes": ("Upper_Clothing",), "Socks": ("Sock",),
    "Pants": ("Lower_Clothing",), "Face": ("Face_Neck", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth",
    "Tongue"), "arm": ("Hand", "Lower_Arm", "Upper_Arm"), "leg": ("Foot", "Lower_Leg", "Upper_Leg"), "shoe": ("Shoe",),
}  # fmt: skip


# Chapter 08, section "Two vocabularies", exercise 08.2
def to_lip(parts: Tensor) -> Tensor:
    """Sapiens' classes (...) of any integer type -> LIP's, int64; IGNORE where LIP has no class for it. §3.4."""
    table = torch.full((len(PARTS),), IGNORE)
    for number, name in enumerate(PARTS):
        side = next((side for side in ("Left", "Right") if name.startswith(f"{side}_")), "")
        part = name.removeprefix(f"{side}_") if side else name
        for group, members in LIP_GROUPS.items():
            if part in members:
                sided = f"{side}-{group}"
                table[number] = LIP.index(sided if sided in LIP else group)
    return table.to(parts.device)[parts.long()]


# Chapter 08, section "Counting: mIoU", exercise 08.3
def intersection_over_union(confusion: Tensor) -> Tensor:
    """Counts (C, C), row the true class, column the answer -> IoU (C,); NaN for a class in neither. Equation 08.2."""
    hit = confusion.diagonal().double()
    return hit / (confusion.sum(0) + confusion.sum(1) - hit)


FLAT = 1e-3  # metres: whoever is thinner than that has no relative depth


# Chapter 08, section "3 Depth", exercise 08.4
def relative_depth(depth: Tensor) -> Tensor:
    """Depth (B, H, W) in metres, 0 or not finite where nobody is -> 0 (nearest) to 1 (farthest), −1 where nobody is.

    All −1 for a picture without people, or with all of its depth within FLAT. Sapiens §3.5."""
    known = depth.isfinite() & (depth > 0)
    nearest = depth.where(known, torch.inf).amin((1, 2), keepdim=True)
    span = depth.where(known, -torch.inf).amax((1, 2), keepdim=True) - nearest
    return ((depth - nearest) / span.clamp(min=FLAT)).where(known & (span > FLAT), -1.0)


EPSILON = 1e-6


# Chapter 08, section "The loss", exercise 08.5
def silog_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Depths (B, H, W), the target in [0, 1] and −1 (or NaN) where nobody is -> a scalar. Equations 1-3 (λ = 1/2).

    The mean over the pictures with valid pixels (target > EPSILON), those of this process; 0 where there is none."""
    valid = target > EPSILON  # NaN is not
    known = target.where(valid, 1.0).log()
    delta = (known - prediction.where(valid, 1.0).clamp(min=EPSILON).log()) * valid
    count = valid.sum((1, 2))
    mean = delta.sum((1, 2)) / count.clamp(min=1)
    square = delta.square().sum((1, 2)) / count.clamp(min=1)
    losses = (square - 0.5 * mean.square()).clamp(min=1e-10).sqrt() * (count > 0)  # (B,)
    return losses.sum() / (count > 0).sum().clamp(min=1)


# Chapter 08, section "The evaluation: scale and shift", exercise 08.6
def scale_and_shift(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Depths (B, H, W), mask (B, H, W) bool -> a and b (B,) of equation 08.4, over the pixels of each mask.

    What stands outside of the mask (infinity, NaN) does not matter. ValueError for an empty mask."""
    if not mask.flatten(1).any(1).all():
        raise ValueError("a picture has no human pixel: there is nothing to fit, leave it out")
    weight = mask / mask.sum((1, 2), keepdim=True)
    p, d = prediction.where(mask, 0.0), target.where(mask, 0.0)
    p_mean, d_mean = (p * weight).sum((1, 2)), (d * weight).sum((1, 2))  # (B,)
    away = p - p_mean[:, None, None]
    variance = (away.square() * weight).sum((1, 2))
    covariance = (away * (d - d_mean[:, None, None]) * weight).sum((1, 2))
    varies = variance > 1e-12 * p_mean.square()  # more than the rounding of the mean
    scale = torch.where(varies, covariance / variance.where(varies, 1.0), 0.0)
    return scale, d_mean - scale * p_mean


# Chapter 08, section "4 Normals", exercise 08.7
def normal_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Raw answers (B, 3, H, W), unit normals (B, 3, H, W), 0 (or NaN) where nobody is -> a scalar. Equation 4.

    L1 on the raw answer, the cosine on the answer at length 1, as in the authors' code; the mean over the human pixels
    of this process, 0 without any."""
    valid = target.square().sum(1) > 0.25  # (B, H, W)
    target = target.where(valid[:, None], 0.0)
    distance = (prediction - target).abs().sum(1)
    cosine = (unit(prediction, dim=1, eps=EPSILON) * target).sum(1)
    return (distance + 1 - cosine).where(valid, 0.0).sum() / valid.sum().clamp(min=1)


# Chapter 08, section "Normals out of depth"
def unproject(depth: Tensor, K: Tensor) -> Tensor:
    """Depth (B, H, W) in metres, intrinsics (B, 3, 3) -> points (B, 3, H, W) in camera space, x right, y down."""
    height, width = depth.shape[1:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).to(depth)  # (3, H, W)
    return torch.einsum("bij,jhw->bihw", torch.linalg.inv(K), pixels) * depth[:, None]


# Chapter 08, section "Normals out of depth", exercise 08.8
def pseudo_normals(depth: Tensor, K: Tensor) -> Tensor:
    """Depth (B, H, W) in metres, K (B, 3, 3) -> unit normals (B, 3, H, W), x right, y up, z towards the viewer.

    By central differences, one-sided ones at the border (equation 08.5; Sapiens Fig. 8); 0 where a neighbour's depth is
    not finite."""
    points = unproject(depth, K)  # (B, 3, H, W)
    down, right = torch.gradient(points, dim=(-2, -1))
    normals = torch.linalg.cross(down, right, dim=1) * points.new_tensor([1, -1, -1])[:, None, None]
    return unit(normals, dim=1).nan_to_num(0.0)


# left and right: feet, hands, lower arms and legs, shoes, socks, upper arms and legs
SWAPS = ((4, 13), (5, 14), (6, 15), (7, 16), (8, 17), (9, 18), (10, 19), (11, 20))


# Chapter 08, section "5 Augmentation that keeps the labels true", exercise 08.9
def mirrored(batch: Batch) -> Batch:
    """Left and right exchanged, in the labels too: any of image (B, 3, H, W), alpha, depth, parts (B, H, W; 28 classes)
    and normals (B, 3, H, W; x right). dtypes stay as they are, nothing is changed in place. Sapiens' code."""
    turned = {name: values.flip(-1) for name, values in batch.items()}
    if "parts" in turned:
        table, (left, right) = torch.arange(len(PARTS)), torch.tensor(SWAPS).T
        table[left], table[right] = right, left
        turned["parts"] = table.to(batch["parts"].device)[turned["parts"].long()].to(batch["parts"].dtype)
    if "normals" in turned:
        turned["normals"] = turned["normals"] * batch["normals"].new_tensor([-1, 1, 1])[:, None, None]
    return turned


# Chapter 08, section "5 Augmentation that keeps the labels true"
def tensors(config: Config, sample) -> Batch:
    """`packed`, to be kept in memory with others. ValueError for another size than the configuration's, too."""
    if sample.image.shape[1:] != config.size:
        raise ValueError(f"sample {sample.key} is {sample.image.shape[1:]}: make the data with the size {config.size}")
    return packed(sample)


# Chapter 08, section "5 Augmentation that keeps the labels true"
def packed(sample) -> Batch:
    """A rendered sample as small integers: image (3, H, W), alpha and parts (H, W) uint8, depth (H, W) float32, 0
    where nobody is, normals (3, H, W) int8. ValueError for NaN pixels, a missing label."""
    labels = ("alpha", "parts", "depth", "normals")
    if missing := [name for name in labels if getattr(sample, name) is None]:
        raise ValueError(f"sample {sample.key} has no {', '.join(missing)}: take data with these labels")
    if not (np.isfinite(sample.image).all() and np.isfinite(sample.alpha).all()):
        raise ValueError(f"sample {sample.key} has pixels that are NaN or infinite: leave it out, or make it anew")
    image, alpha = (torch.from_numpy(255 * values).round().byte() for values in (sample.image, sample.alpha))
    depth = torch.from_numpy(np.nan_to_num(sample.depth, nan=0.0, posinf=0.0, neginf=0.0))
    normals = torch.from_numpy(127 * np.nan_to_num(sample.normals)).round().to(torch.int8)
    return {"image": image, "alpha": alpha, "parts": torch.from_numpy(sample.parts), "depth": depth, "normals": normals}


# Chapter 08, section "5 Augmentation that keeps the labels true"
def unpacked(batch: Batch) -> Batch:
    """A batch of `tensors` -> floats: image and alpha in [0, 1], parts as they are, depth in metres, unit normals."""
    change = {"image": lambda x: x.float() / 255, "alpha": lambda x: x.float() / 255,
              "normals": lambda x: unit(x.float(), dim=1)}  # fmt: skip
    return {name: change.get(name, lambda x: x)(values) for name, values in batch.items()}


# Chapter 08, section "5 Augmentation that keeps the labels true"
def warped(config: Config, batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one of any size, zoomed, turned and shifted at random -> config.size; black, and nobody, where the
    picture had ended. At a zoom of 1 the largest part of that shape."""
    (height, width), (h, w) = batch["image"].shape[-2:], config.size
    draw = (2 * torch.rand(5, generator=generator) - 1).tolist()  # -1 to 1
    low, high = map(math.log, config.zoom)
    zoom = math.exp((low + high) / 2 + draw[0] * (high - low) / 2)
    angle = math.radians(config.degrees) * draw[1] * (abs(draw[2]) < config.turn)
    scale = min(height / h, width / w) / zoom  # pixels of the picture to one of the result
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    right, down = draw[3] * (1 - scale * w / width), draw[4] * (1 - scale * h / height)
    rows = [[cos * w / width, -sin * h / width, right], [sin * w / height, cos * h / height, down]]  # edges at -1 and 1
    grid = affine_grid(torch.tensor([rows]), [1, 1, h, w], align_corners=False)
    return {name: looked_up(name, values, grid) for name, values in batch.items()}


# Chapter 08, section "5 Augmentation that keeps the labels true"
def looked_up(name: str, values: Tensor, grid: Tensor) -> Tensor:
    """One tensor of a batch where the grid says: pictures bilinearly, labels from the nearest pixel."""
    smooth = name in ("image", "alpha")
    maps = (values if values.ndim == 4 else values[:, None]).float()
    found = grid_sample(maps, grid, "bilinear" if smooth else "nearest", align_corners=False)
    return found if values.ndim == 4 else found[:, 0]


# Chapter 08, section "5 Augmentation that keeps the labels true"
def before(backgrounds: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
    """The people of a batch of one before a picture of `backgrounds` (n, 3, H, W), uint8, mirrored half of the time."""
    chosen = int(torch.randint(len(backgrounds), (), generator=generator))
    background = backgrounds[chosen : chosen + 1].float() / 255
    if torch.rand((), generator=generator) < 0.5:
        background = background.flip(-1)
    alpha = batch["alpha"][:, None]
    return batch | {"image": alpha * batch["image"] + (1 - alpha) * background}


# Chapter 08, section "5 Augmentation that keeps the labels true"
def finished(config: Config, batch: Batch) -> Batch:
    """What the loss wants: the image and the task's own label."""
    if config.task == "depth":
        depth = relative_depth(batch["depth"])
        return {"image": batch["image"], "depth": depth.where(depth < 0, depth.lerp(torch.ones(()), config.nearest))}
    if config.task == "normals":
        return {"image": batch["image"], "normals": batch["normals"]}
    parts = batch["parts"].long()
    return {"image": batch["image"], "parts": to_lip(parts) if config.classes == 20 else parts}


# Chapter 08, section "5 Augmentation that keeps the labels true"
def augmented(config: Config, backgrounds: Tensor | None, batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one sample of `tensors` -> image (1, 3, H, W) and the task's label, augmented. Sapiens §4.1."""
    batch = warped(config, unpacked(batch), generator)
    if backgrounds is not None and torch.rand((), generator=generator) < config.background:
        batch = before(backgrounds, batch, generator)
    if torch.rand((), generator=generator) < 0.5:
        batch = mirrored(batch)
    return finished(config, batch | {"image": recoloured(batch["image"], generator)})


# Chapter 08, section "5 Augmentation that keeps the labels true"
def transform(config: Config, backgrounds: Tensor | None = None) -> Callable:
    """For a `TensorStream` over `tensors`: `augmented`. backgrounds: pictures without people (n, 3, H, W), uint8."""
    return partial(augmented, config, backgrounds)


# Chapter 08, section "5 Augmentation that keeps the labels true"
def prepare(config: Config, backgrounds: Tensor | None = None) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> the same, for one sample and without the dimension B."""
    return partial(prepared, config, backgrounds)


# Chapter 08, section "5 Augmentation that keeps the labels true"
def prepared(config: Config, backgrounds: Tensor | None, sample, rng: np.random.Generator) -> Batch:
    """See `prepare`."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = {name: values[None] for name, values in packed(sample).items()}
    return {name: values[0] for name, values in augmented(config, backgrounds, batch, generator).items()}


# Chapter 08, section "6 The runs"
def dense_loss(config: Config, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss of the configuration's task, and beside it: the share of pixels whose class is right; of human pixels in
    the dead zone; the mean cosine of human pixels."""
    answer = model(batch["image"]).float()
    if config.task == "seg":
        weights = class_weights(config).to(answer)
        right = (answer.argmax(1) == batch["parts"]).float().mean()
        return {"loss": weighted_cross_entropy(answer, batch["parts"], weights), "right": right}
    if config.task == "depth":
        human = batch["depth"] > EPSILON
        dead = (human & (answer[:, 0] < EPSILON)).sum() / human.sum().clamp(min=1)
        return {"loss": silog_loss(answer[:, 0], batch["depth"]), "dead": dead}
    cosine = (unit(answer, dim=1, eps=EPSILON) * batch["normals"]).sum((1, 2, 3))
    human = (batch["normals"].square().sum(1) > 0.25).sum((1, 2))
    return {"loss": normal_loss(answer, batch["normals"]), "cosine": cosine.sum() / human.sum().clamp(min=1)}


# Chapter 08, section "6 The runs"
def build(config: Config, pretrained: dict[str, Tensor] | None = None) -> DensePredictor:
    """A new predictor; its encoder random, or a masked autoencoder's, trained on squares as high as the pictures."""
    model = DensePredictor(config)
    if pretrained is not None:
        load_pretrained(model.encoder, pretrained, patch_grid((config.size[0], config.size[0]), config.patch))
    return model


# Chapter 08, section "6 The runs"
def recipe(config: Config, stream: Stream | None, pretrained: dict[str, Tensor] | None = None) -> Recipe:
    """The fine-tuning of a `DensePredictor` on batches of image (B, 3, H, W) and parts, depth or normals. Sapiens §4.1.

    pretrained: the encoder's tensors of a masked autoencoder to begin with."""
    decays = {"weight_decay": config.weight_decay, "layer_decay": config.layer_decay}
    return Recipe(
        name=f"{config.task}-{head_shape(config)[2]}-{config.width}x{config.depth}",
        model=partial(build, config, pretrained),
        loss=partial(dense_loss, config),
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.999), **decays),
        schedule=Linear(config.warmup),
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 08, section "6 The runs"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    shape = (count, *config.size)
    label = {
        "seg": lambda: torch.randint(config.classes, shape),
        "depth": lambda: torch.rand(shape),
        "normals": lambda: unit(torch.randn(count, 3, *config.size), dim=1),
    }
    name = "parts" if config.task == "seg" else config.task
    return {"image": torch.rand(count, 3, *config.size), name: label[config.task]()}


RUNS = "course_lib.studies.sapiens_tasks"
# parts from pictures taken anywhere, depth and normals from the studio
CHANGES = {
    "seg": {"world": "wild", "pictures": 12_000},
    "depth": {"steps": 4000, "lr": 1e-3, "nearest": 0.5},
    "normals": {"steps": 3000, "lr": 1e-3},
}
SHIPPED = {
    task: Shipped(f"sapiens_dense-{task}", replace(for_task(CONFIGS["shipped"], task), **changes), f"{RUNS}:dense")
    for task, changes in CHANGES.items()
}


# Chapter 08, section "8 What pretraining is worth"
@dataclass(frozen=True)
class Arm:
    """One arm of a study: an encoder pretrained on `images` pictures of the world `source` ("" for a random start), for
    pretraining × as many steps as it is fine-tuned afterwards; its shape; the tasks that it learns from `labelled`
    pictures of the studio (pose and depth, which are learned slowly, in so many times as many steps); measured on
    `tested` pictures of others, pose in `wild`, the rest in the studio, at the end and after the share `early`."""

    source: str = "wild"
    images: int = 9000
    tasks: tuple[str, ...] = ("pose", "seg", "depth", "normals")
    size: int = 64
    patch: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 4
    decoder_width: int = 48
    decoder_depth: int = 2
    decoder_heads: int = 2
    channels: int = 32
    pretraining: float = 10.0
    pretraining_batch: int = 64
    pretraining_lr: float = 1.5e-3
    labelled: int = 512
    batch: int = 32
    lr: float = 3e-3
    nearest: float = 0.5
    pose_steps: int = 4
    depth_steps: int = 2
    early: float = 0.25
    tested: int = 300


RUN = f"{RUNS}:transfer"
DENSE, NORMALS, DEPTH = ("seg", "normals"), ("normals",), ("depth",)
# what a record depends on: pretraining, fine-tuning, testing, backgrounds
DATA = ("wild-train-coco17-64-9000", "studio-train-coco17-64-512", "wild-test-coco17-64-300",
        "studio-test-coco17-64-300", "general-nopeople-val-coco17-64-1000")  # fmt: skip
OTHERS = ("general-train-coco17-64-9000", "general-nopeople-train-coco17-64-9000")


# Chapter 08, section "8 What pretraining is worth"
def question(name: str, title: str, arms: dict[str, Arm], steps: int = 500, data: tuple[str, ...] = DATA) -> Study:
    """A study of this chapter."""
    return Study(f"08.{name}", title, arms, RUN, steps, data=data)


SOURCES = {
    "random": Arm(source="", images=0, pretraining=0.0),
    "general-1x": Arm("general", 3000),
    "general-3x": Arm("general", 9000),
    "people-1x": Arm("wild", 3000),
    "people-3x": Arm("wild", 9000),
    "nopeople-3x": Arm("general-nopeople", 9000),
}
COUNTED = {str(count): Arm(images=count, tasks=NORMALS) for count in (100, 300, 1000, 3000, 9000)}
MIDDLE = Arm(tasks=DENSE)
LADDER = {"small": replace(MIDDLE, width=64), "middle": MIDDLE, "large": replace(MIDDLE, width=144, depth=6, heads=6)}
SHAPES = {"wide": replace(MIDDLE, width=136, depth=2), "middle": MIDDLE, "deep": replace(MIDDLE, width=68, depth=8)}
BEGUN = {str(nearest): Arm(tasks=DEPTH, nearest=nearest) for nearest in (0.0, 0.1, 0.5)}
CUTS = {str((64 // patch) ** 2): replace(MIDDLE, patch=patch, pretraining=2.0) for patch in (8, 4, 2)}
STUDIES = {
    "pretraining_source": question("pretraining_source", "what it was pretrained on (Table 7)", SOURCES,
                                   data=DATA + OTHERS),
    "distinct_images": question("distinct_images", "how many different people it saw (Fig. 10)", COUNTED),
    "model_size": question("model_size", "how large it is", LADDER),
    "wide_or_deep": question("wide_or_deep", "wide or deep, with as many weights", SHAPES),
    "tokens": question("tokens", "into how many tokens it cuts a picture", CUTS, steps=300),
    "nearest": question("nearest", "where relative depth begins", BEGUN),
}  # fmt: skip


# course build sealed the text above: 3c17bf2d8451b3f4

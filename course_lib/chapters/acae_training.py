"""ACAE, dozens of data sets: made by `course build` from solutions/12_acae_training.py. Edit there, never here."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import NamedTuple, Protocol

import numpy as np
import torch
from einops import rearrange
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn.functional import affine_grid, batch_norm, grid_sample, pad, silu
from torch.nn.functional import interpolate as resize

from course_lib.chapters import acae_skeletons
from course_lib.chapters.cameras import Camera
from course_lib.recipe import Batch, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved

Norm = Callable[[int], nn.Module]  # channels -> a normalisation layer
NORM_EPSILON = 1e-3  # added to variances: torchvision's value for EfficientNetV2


# Chapter 12, section "1 EfficientNetV2, written out"
class ConvNormActivation(nn.Sequential):
    """A convolution without bias, a normalisation, and SiLU if `activation`. (B, C, H, W) -> (B, C', H/stride, ...)."""

    def __init__(self, inside: int, outside: int, kernel: int, norm: Norm, stride=1, groups=1, activation=True):
        conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, norm(outside), *([nn.SiLU()] if activation else []))


# Chapter 12, section "1 EfficientNetV2, written out"
class SqueezeExcitation(nn.Module):
    """Each channel times a number in (0, 1), found from the means of all channels. Hu et al. 2018."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        means = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.fc2(silu(self.fc1(means))).sigmoid()


# Chapter 12, section "1 EfficientNetV2, written out"
def stochastic_depth(x: Tensor, drop: float) -> Tensor:
    """(B, C, H, W): each sample is set to 0 at a chance of `drop`, the others are divided by 1 - drop, so that the mean
    over many draws is x. Huang et al. 2016."""
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= drop  # (B, 1, 1, 1)
    return x * kept / (1 - drop)


# Chapter 12, section "1 EfficientNetV2, written out"
class Residual(nn.Module):
    """What `block` makes of x, plus x itself where `shortcut`. drop: the chance that training leaves out the block."""

    def __init__(self, layers: list[nn.Module], shortcut: bool, drop: float):
        super().__init__()
        self.block, self.shortcut, self.drop = nn.Sequential(*layers), shortcut, drop

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        if not self.shortcut:
            return self.block(x)
        changed = self.block(x)
        if self.training and self.drop:
            changed = stochastic_depth(changed, self.drop)
        return x + changed


# Chapter 12, section "1 EfficientNetV2, written out"
class FusedMBConv(Residual):
    """A full 3 x 3 convolution to `expand` times the channels, and 1 x 1 back; one 3 x 3 where expand is 1.

    Tan and Le 2021, Fig. 2."""

    def __init__(self, inside: int, outside: int, expand: int, stride: int, norm: Norm, drop: float = 0.0):
        wide = expand * inside
        layers = [ConvNormActivation(inside, wide if expand > 1 else outside, 3, norm, stride)]
        if expand > 1:
            layers.append(ConvNormActivation(wide, outside, 1, norm, activation=False))
        super().__init__(layers, stride == 1 and inside == outside, drop)


# Chapter 12, section "1 EfficientNetV2, written out"
class MBConv(Residual):
    """1 x 1 to `expand` times the channels, 3 x 3 on each by itself, squeeze and excitation, 1 x 1 back.

    Sandler et al. 2018; Tan and Le 2021, Fig. 2."""

    def __init__(self, inside: int, outside: int, expand: int, stride: int, norm: Norm, drop: float = 0.0):
        wide = expand * inside
        layers = [
            ConvNormActivation(inside, wide, 1, norm),
            ConvNormActivation(wide, wide, 3, norm, stride, groups=wide),
            SqueezeExcitation(wide, max(1, inside // 4)),
            ConvNormActivation(wide, outside, 1, norm, activation=False),
        ]
        super().__init__(layers, stride == 1 and inside == outside, drop)


# Chapter 12, section "1 EfficientNetV2, written out"
@dataclass(frozen=True)
class Stage:
    """`blocks` blocks of one kind; the first has the stride and changes the channels. A row of the paper's Table 4."""

    block: type[Residual]
    expand: int
    stride: int
    channels: int
    blocks: int


# Chapter 12, section "1 EfficientNetV2, written out"
@dataclass(frozen=True)
class Backbone:
    """An EfficientNetV2: channels of the stem, the stages, channels of the last 1 x 1 convolution, the chance of the
    last block to be left out in training, and dropout before the classifier."""

    stem: int
    stages: tuple[Stage, ...]
    last: int = 1280
    drop: float = 0.2
    dropout: float = 0.2


BACKBONES = {
    "efficientnetv2-s": Backbone(24, (
        Stage(FusedMBConv, 1, 1, 24, 2), Stage(FusedMBConv, 4, 2, 48, 4), Stage(FusedMBConv, 4, 2, 64, 4),
        Stage(MBConv, 4, 2, 128, 6), Stage(MBConv, 6, 1, 160, 9), Stage(MBConv, 6, 2, 256, 15),
    )),
    "efficientnetv2-l": Backbone(32, (
        Stage(FusedMBConv, 1, 1, 32, 4), Stage(FusedMBConv, 4, 2, 64, 7), Stage(FusedMBConv, 4, 2, 96, 7),
        Stage(MBConv, 4, 2, 192, 10), Stage(MBConv, 6, 1, 224, 19), Stage(MBConv, 6, 2, 384, 25),
        Stage(MBConv, 6, 1, 640, 7),
    ), dropout=0.4),
    "small": Backbone(16, (
        Stage(FusedMBConv, 1, 1, 16, 1), Stage(FusedMBConv, 2, 2, 24, 1), Stage(FusedMBConv, 4, 2, 40, 2),
        Stage(MBConv, 4, 2, 80, 3), Stage(MBConv, 4, 1, 112, 3),
    ), last=256, drop=0.0),
}  # fmt: skip


# Chapter 12, section "1 EfficientNetV2, written out"
def centre_last_stride(features: nn.Sequential) -> None:
    """The last convolution with a stride pads below and on the right only, so that the map's cells look at the middles
    of their squares of pixels and not at the corners. Changes no weight. Sárándi et al. 2021, "centered striding"."""
    conv = [module for module in features.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)][-1]
    conv.padding = (0, 0)
    conv.register_forward_pre_hook(pad_late)


# Chapter 12, section "1 EfficientNetV2, written out"
def pad_late(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """A hook that runs before a convolution: one more column on the right, one more row below."""
    return pad(inputs[0], (0, 1, 0, 1))


# Chapter 12, section "1 EfficientNetV2, written out"
class EfficientNetV2(nn.Module):
    """Pictures (B, 3, H, W) -> class scores (B, classes), or the map (B, last, H/stride, W/stride) if classes is None.

    Weights have torchvision's names. Tan and Le 2021, Table 4. centred: see `centre_last_stride`."""

    def __init__(self, backbone: Backbone, classes: int | None = 1000, norm: Norm | None = None, centred: bool = False):
        super().__init__()
        norm = norm or partial(nn.BatchNorm2d, eps=NORM_EPSILON)
        layers, inside, done = [ConvNormActivation(3, backbone.stem, 3, norm, stride=2)], backbone.stem, 0
        total = sum(stage.blocks for stage in backbone.stages)
        for stage in backbone.stages:
            blocks = []
            for number in range(stage.blocks):
                stride, drop = stage.stride if number == 0 else 1, backbone.drop * done / total
                blocks.append(stage.block(inside, stage.channels, stage.expand, stride, norm, drop))
                inside, done = stage.channels, done + 1
            layers.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*layers, ConvNormActivation(inside, backbone.last, 1, norm))
        self.classifier = None
        if classes:
            self.classifier = nn.Sequential(nn.Dropout(backbone.dropout), nn.Linear(backbone.last, classes))
        if centred:
            centre_last_stride(self.features)
        if not self.features[0][0].weight.is_meta:  # where tensors have no numbers there is nothing to draw
            self.apply(start)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features = self.features(images)  # (B, last, h, w)
        return features if self.classifier is None else self.classifier(features.mean((2, 3)))


# Chapter 12, section "1 EfficientNetV2, written out"
def start(module: nn.Module) -> None:
    """Weights to begin with: He's for what leaves a convolution; small and even for the classifier. As torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -(module.out_features**-0.5), module.out_features**-0.5)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


# Chapter 12, section "2 From a map to a skeleton in the room"
@dataclass(frozen=True)
class Crop:
    """The square picture that the network sees: its side and the network's stride in pixels, and the side in metres of
    the box in which it measures a person (the authors' code: 256, 32, 2.2)."""

    side: int = 256
    stride: int = 32
    box: float = 2.2

    metres_per_pixel = property(lambda self: self.box / self.side)
    cells = property(lambda self: self.side // self.stride)

    def __post_init__(self):
        if self.side % self.stride or self.cells < 2:
            raise ValueError(f"side {self.side} must be a multiple of the stride {self.stride}, twice it or more")

    def pixels(self, heat: Tensor) -> Tensor:
        """Soft-argmax coordinates in [0, 1] -> pixels, from the middle of the first cell to that of the last."""
        return heat * (self.side - self.stride) + self.stride / 2

    def inside(self, pixels: Tensor, margin: float) -> Tensor:
        """(..., 2) pixels -> (...) bool: at least `margin` strides inside the picture; a negative one enlarges it."""
        edge = margin * self.stride
        return ((pixels >= edge) & (pixels <= self.side - edge)).all(-1)


# Chapter 12, section "The mean of a map", exercise 12.1
def soft_argmax(logits: Tensor) -> Tensor:
    """(B, J, H, W) -> (B, J, 2) as x, y, or (B, J, D, H, W) -> (B, J, 3) as x, y, z; in [0, 1], 0 the first cell's
    middle and 1 the last one's. Computed in float32 whatever comes in. Sun et al. 2018; MeTRAbs."""
    sizes = logits.shape[2:]
    chance = logits.float().flatten(2).softmax(-1).unflatten(2, sizes)  # (B, J, [D,] H, W)
    means = []
    for axis in range(len(sizes), 0, -1):  # the last axis is x
        others = [other + 1 for other in range(1, len(sizes) + 1) if other != axis]
        place = torch.linspace(0, 1, sizes[axis - 1], device=logits.device)
        means.append((chance.sum(others) * place).sum(-1))  # (B, J)
    return torch.stack(means, -1)


# Chapter 12, section "What a head's channels mean"
def split_heads(channels: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """(B, J (1 + D), H, W) -> the 2D head's logits (B, J, H, W) and the 3D head's (B, J, D, H, W).

    MeTRAbs' order: J maps for 2D, then all J of the first depth, all J of the next, and so on."""
    flat, deep = channels[:, :points], channels[:, points:]
    return flat, rearrange(deep, "b (d j) h w -> b j d h w", j=points)


# Chapter 12, section "What a head's channels mean"
def read_heads(channels: Tensor, points: int, crop: Crop) -> tuple[Tensor, Tensor]:
    """The head's channels -> pixels (B, J, 2), and metres (B, J, 3) relative to an unknown place."""
    flat, deep = (soft_argmax(logits) for logits in split_heads(channels, points))
    xy = crop.pixels(deep[..., :2]) * crop.metres_per_pixel
    return crop.pixels(flat), torch.cat([xy, deep[..., 2:] * crop.box], -1)


NEAREST = 1e-3  # metres: what is nearer to the camera's plane, or behind it, counts as so near


# Chapter 12, section "Where is the box?"
def rays(pixels: Tensor, K: Tensor) -> Tensor:
    """(B, J, 2) pixels -> (B, J, 2): where they are on the plane at depth 1. K (B, 3, 3). Never in half precision."""
    fx, fy, cx, cy, skew = (K[:, row, column, None] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    y = (pixels[..., 1] - cy) / fy  # (B, J)
    return torch.stack([(pixels[..., 0] - cx - skew * y) / fx, y], -1)


# Chapter 12, section "Where is the box?"
def projected(points: Tensor, K: Tensor) -> Tensor:
    """(B, J, 3) metres -> (B, J, 2) pixels. A depth below 1 mm, or behind the camera, counts as 1 mm."""
    x, y = (points[..., :2] / points[..., 2:].clamp(min=NEAREST)).unbind(-1)
    fx, fy, cx, cy, skew = (K[:, row, column, None] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    return torch.stack([fx * x + skew * y + cx, fy * y + cy], -1)


RIDGE = 1e-2  # MeTRAbs' code


# Chapter 12, section "Where is the box?", exercise 12.2
def solve_reference(ray: Tensor, relative: Tensor, weight: Tensor, ridge: float = 0.0) -> Tensor:
    """Where the point is to which `relative` refers: rays (B, J, 2), metres (B, J, 3), weights (B, J) -> (B, 3) metres.

    Minimises sum_j w_j |r_xy + X_j - x_j (r_z + Z_j)|^2 + ridge |r|^2. Equation 12.4; MeTRAbs."""
    x, y = ray.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = torch.stack([one, zero, -x, zero, one, -y], -1).unflatten(-1, (2, 3))  # (B, J, 2, 3)
    A = rows.flatten(1, 2)  # (B, 2J, 3)
    b = (ray * relative[..., 2:] - relative[..., :2]).flatten(1)[..., None]  # (B, 2J, 1)
    weighted = (A * weight.repeat_interleave(2, 1)[..., None]).mT  # (B, 3, 2J)
    normal = weighted @ A + ridge * torch.eye(3, dtype=A.dtype, device=A.device)
    return torch.linalg.solve(normal, weighted @ b)[..., 0]


# Chapter 12, section "Where is the box?"
def weighted_spread(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(B, J, 2) and weights (B, J) -> their mean (B, 1, 2) and their standard deviation over both axes, (B, 1, 1)."""
    share = (weight / weight.sum(1, keepdim=True))[..., None]  # (B, J, 1)
    mean = (share * values).sum(1, keepdim=True)
    variance = (share * (values - mean).square()).sum((1, 2), keepdim=True) / 2
    return mean, variance.clamp(min=1e-8).sqrt()


# Chapter 12, section "Where is the box?"
def reference_point(ray: Tensor, relative: Tensor, weight: Tensor) -> Tensor:
    """`solve_reference` with MeTRAbs' ridge, as seen by a camera that has the person in the middle and filling its
    picture, so that the ridge is as harmless for a small person at the edge. -> (B, 3) metres."""
    weight = weight / weight.mean(1, keepdim=True)
    mean, size = weighted_spread(ray, weight)
    seen = torch.cat([relative[..., :2] - mean * relative[..., 2:], size * relative[..., 2:]], -1)
    found = solve_reference((ray - mean) / size, seen, weight, RIDGE)  # (B, 3)
    z = found[:, 2:] / size[:, 0]
    return torch.cat([found[:, :2] + mean[:, 0] * z, z], -1)


# Chapter 12, section "Where is the box?"
def weak_reference_point(ray: Tensor, relative: Tensor, weight: Tensor) -> Tensor:
    """The same under weak perspective: the depth is the skeleton's size in metres over its size at depth 1. (B, 3)."""
    mean_ray, size_ray = weighted_spread(ray, weight)
    mean, size = weighted_spread(relative[..., :2], weight)
    z = size / size_ray  # (B, 1, 1)
    depth = (weight * relative[..., 2]).sum(1) / weight.sum(1)  # (B,): of the middle, as `relative` has it
    return torch.cat([(mean_ray * z - mean)[:, 0], z[:, 0] - depth[:, None]], -1)


FIELD_MARGIN = 0.75  # strides from the border: what the 2D head places farther out may be outside (MeTRAbs' code)
UNSEEN_WEIGHT = 1e-4  # of such a joint in the least squares (MeTRAbs' code)


# Chapter 12, section "Joining the two"
def absolute_pose(
    pixels: Tensor, relative: Tensor, K: Tensor, crop: Crop, mix: Tensor | float = 0.5, weak: Tensor | bool = False
) -> Tensor:
    """What both heads say -> joints in the camera's space: pixels (B, J, 2), relative (B, J, 3), K (B, 3, 3) ->
    (B, J, 3) metres. The point of reference by least squares over the joints in view.

    In view a joint is mix * 3D head + (1 - mix) * the 2D head's ray at that depth; out of view the 3D head's alone.
    mix: a number or (B,). weak: a bool or (B,), weak perspective for the first steps. MeTRAbs and its code."""
    ray, seen = rays(pixels, K), crop.inside(pixels, FIELD_MARGIN)
    weight = seen.to(ray.dtype) + UNSEEN_WEIGHT  # (B, J)
    weak = torch.as_tensor(weak, device=ray.device).expand(len(ray))[:, None]  # (B, 1)
    found = torch.where(weak, weak_reference_point(ray, relative, weight), reference_point(ray, relative, weight))
    spatial = relative + found[:, None]  # (B, J, 3)
    z = spatial[..., 2:]
    flat = torch.cat([ray * z, z], -1)
    mix = torch.as_tensor(mix, dtype=ray.dtype, device=ray.device).expand(len(ray))[:, None, None]
    return torch.where(seen[..., None], mix * spatial + (1 - mix) * flat, spatial)


# Chapter 12, section "Joining the two"
class Output(NamedTuple):
    """What the network says of J points: absolute (B, J, 3) metres in the camera's space, and the heads' own answers:
    pixels (B, J, 2) and relative (B, J, 3) metres, of which only differences mean something."""

    absolute: Tensor
    pixels: Tensor
    relative: Tensor


# Chapter 12, section "Joining the two"
class MetrabsNet(nn.Module):
    """Crops (B, 3, S, S) in [0, 1] and their cameras -> an `Output` for so many points. MeTRAbs (Sárándi et al. 2021),
    ACAE §S2.

    frozen_norms: the norms stay in inference mode while the rest trains (ACAE §S5)."""

    def __init__(self, backbone: Backbone, points: int, crop: Crop = Crop(), bins: int = 8, norm: Norm | None = None):
        super().__init__()
        self.points, self.crop, self.frozen_norms = points, crop, False
        self.backbone = EfficientNetV2(backbone, None, norm, centred=True)
        self.head = nn.Conv2d(backbone.last, points * (1 + bins), 1)

    def forward(self, images: Tensor, K: Tensor, mix: Tensor | float = 0.5, weak: Tensor | bool = False) -> Output:
        """images (B, 3, S, S); K (B, 3, 3); mix, weak: see `absolute_pose`."""
        if images.shape[-2:] != (self.crop.side,) * 2:
            raise ValueError(f"pictures of {tuple(images.shape[-2:])} pixels: crop and scale them to {self.crop.side}")
        channels = self.head(self.backbone(2 * images - 1))  # (B, J (1 + D), h, w)
        with torch.autocast(images.device.type, enabled=False):
            pixels, relative = read_heads(channels, self.points, self.crop)
            return Output(absolute_pose(pixels, relative, K.float(), self.crop, mix, weak), pixels, relative)

    def train(self, mode: bool = True) -> "MetrabsNet":
        """As of every module, but for the norms where they are frozen."""
        super().train(mode)
        return inference_norms(self) if self.frozen_norms else self


LAMBDA_PROJ, LAMBDA_ABS, WEAK = 1.0, 0.1, 0.2  # ACAE §S2
LATE = 5000  # steps before the absolute and the teacher loss are turned on, §S2
FARTHEST = 10.0  # metres, "maximum effective distance", §S2
CLOSEST = 0.3  # metres: labels nearer to the camera's plane than that aren't projected (the authors' code)
FIELD_ENLARGED = 20  # strides: labels farther outside don't count (the authors' code)


# Chapter 12, section "Labels that aren't there"
def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """(B, J) numbers -> the mean of the valid ones, (); 0 where there is none."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


# Chapter 12, section "Labels that aren't there"
def known(target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, J, D) and valid (B, J) -> the labels with 0 where they are not valid or not finite, and where they
    are both (B, J). Without this a NaN that nobody asked for comes back through the gradient of a mask."""
    valid = valid.bool() & target.isfinite().all(-1)
    return torch.where(valid[..., None], target, 0.0), valid


# Chapter 12, section "Labels that aren't there"
def late(step: Tensor | int, start: int = LATE) -> Tensor:
    """1.0 after `start` steps and 0.0 before: a factor on a loss that is turned on late. step: one for the batch."""
    return (torch.as_tensor(step) > start).float().mean()


# Chapter 12, section "Labels that aren't there"
def centred(points: Tensor, valid: Tensor) -> Tensor:
    """(B, J, D) minus the mean of the valid (B, J) points of each pose; a pose without one stays as it is."""
    count = valid.sum(1).clamp(min=1)[:, None, None]
    return points - (points * valid[..., None]).sum(1, keepdim=True) / count


# Chapter 12, section "Labels that aren't there"
def mean_relative_loss(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 in metres, mean over coordinates, between poses (B, J, 3) that were both centred on their valid joints. ()."""
    target, valid = known(target, valid)
    return masked_mean((centred(points, valid) - centred(target, valid)).abs().mean(-1), valid)


# Chapter 12, section "Labels that aren't there"
def projection_loss(points: Tensor, pixels: Tensor, valid: Tensor, K: Tensor, crop: Crop) -> Tensor:
    """L1 between the projections of (B, J, 3) metres and pixels (B, J, 2), in metres of the box. ().

    Counted where the label lies in the enlarged picture, and the prediction before the camera and in the picture."""
    pixels, valid = known(pixels, valid)
    found = projected(points, K)
    counts = valid & crop.inside(pixels, -FIELD_ENLARGED) & crop.inside(found, 0.0) & (points[..., 2] > NEAREST)
    return masked_mean((found - pixels).abs().mean(-1) * crop.metres_per_pixel, counts)


# Chapter 12, section "Far people"
def absolute_loss(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 in metres, mean over coordinates, of joints in the camera's space (B, J, 3), where the label is before the
    camera. The error of a depth z counts as if z were 10 m where it is more: times min(1, 10 / z). ACAE §S2. ()."""
    target, valid = known(target, valid)
    depth = target[..., 2]
    factor = (FARTHEST / depth.clamp(min=FARTHEST))[..., None]  # (B, J, 1)
    difference = (points - target).abs()
    scaled = torch.cat([difference[..., :2], factor * difference[..., 2:]], -1)
    return masked_mean(scaled.mean(-1), valid & (depth > CLOSEST))


# Chapter 12, section "Far people"
def pose_loss(points: Tensor, target: Tensor, valid: Tensor, K: Tensor, crop: Crop, after: Tensor) -> Tensor:
    """L_meanrel + L_proj + 0.1 * after * L_abs for poses with 3D labels. after: `late(step)`. ACAE §S2. ()."""
    flat = projected(known(target, valid)[0], K)
    near = valid & (target[..., 2] > CLOSEST)
    return (
        mean_relative_loss(points, target, valid)
        + LAMBDA_PROJ * projection_loss(points, flat, near, K, crop)
        + LAMBDA_ABS * after * absolute_loss(points, target, valid)
    )


# Chapter 12, section "Pictures with 2D labels", exercise 12.3
def name_average(names: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Joints such as lsho_h36m, and names such as lsho -> (N, J): row n averages all joints called wanted[n].

    ValueError for a name that no joint has. ACAE §S2."""
    rows = torch.tensor([[float(name.split("_")[0] == want) for name in names] for want in wanted])  # (N, J)
    if missing := [want for want, row in zip(wanted, rows, strict=True) if not row.any()]:
        raise ValueError(f"no skeleton has a joint called {', '.join(missing)}: leave those labels out")
    return rows / rows.sum(1, keepdim=True)


# Chapter 12, section "Pictures with 2D labels"
def weak_loss(points: Tensor, pixels: Tensor, seen: Tensor, K: Tensor, crop: Crop, average: Tensor) -> Tensor:
    """The projection loss of name-averaged joints: points (B, J, 3), pixels (B, N, 2), seen (B, N), average (N, J).

    Not yet times 0.2. ACAE §S2. ()."""
    return projection_loss(torch.einsum("nj,bjc->bnc", average, points), pixels, seen, K, crop)


# Chapter 12, section "Together"
@dataclass(frozen=True)
class Supervision:
    """What the losses need besides a batch: the crop, and the matrix (N, J) of `name_average`.

    A batch has K (B, 3, 3), joints (B, J, 3) metres with valid (B, J), pixels (B, N, 2) with seen (B, N), step (B,).
    An example with 2D labels has no valid joint, one with 3D labels no pixel that is seen."""

    crop: Crop
    average: Tensor

    def strong(self, points: Tensor, batch: Batch) -> Tensor:
        """`pose_loss` over the examples with 3D labels. points (B, J, 3). ()."""
        return pose_loss(points, batch["joints"], batch["valid"], batch["K"], self.crop, late(batch["step"]))

    def weak(self, points: Tensor, batch: Batch) -> Tensor:
        """`weak_loss` over the examples with 2D labels. ()."""
        average = self.average.to(points)
        return weak_loss(points, batch["pixels"], batch["seen"], batch["K"], self.crop, average)

    def __call__(self, points: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of separate heads: 3D, and 0.2 times 2D."""
        strong, weak = self.strong(points, batch), self.weak(points, batch)
        return {"loss": strong + WEAK * weak, "strong": strong, "weak": weak}


# Chapter 12, section "The older supervision"
def fitted(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(B, N, 2) moved and scaled so that the valid points have the mean and the spread of `target`'s. (B, N, 2)."""
    weight = valid.to(points.dtype) + 1e-9
    (mean, size), (mean_target, size_target) = (weighted_spread(values, weight) for values in (points, target))
    return (points - mean) * (size_target / size) + mean_target


# Chapter 12, section "The older supervision"
def internal_loss(output: Output, batch: Batch, supervision: Supervision) -> dict[str, Tensor]:
    """MeTRAbs' older supervision: each head by itself, and the absolute pose late. Sárándi et al. 2021.

    3D labels: the 3D head relative to its mean, and the 2D head in pixels. 2D labels: the 2D head's name-averaged
    pixels, and the 3D head's x, y after moving and scaling them onto the labels."""
    crop, average = supervision.crop, supervision.average.to(output.pixels)
    target, valid = known(batch["joints"], batch["valid"])
    flat = projected(target, batch["K"])
    in_view = valid & (target[..., 2] > CLOSEST) & crop.inside(flat, 0.0)
    heads = mean_relative_loss(output.relative, target, valid)
    heads = heads + masked_mean((output.pixels - flat).abs().mean(-1) * crop.metres_per_pixel, in_view)
    strong = heads + LAMBDA_ABS * late(batch["step"]) * absolute_loss(output.absolute, target, valid)
    pixels, seen = known(batch["pixels"], batch["seen"])
    both = [torch.einsum("nj,bjc->bnc", average, part) for part in (output.pixels, output.relative[..., :2])]
    both[1] = fitted(both[1], pixels, seen)
    weak = sum(masked_mean((part - pixels).abs().mean(-1) * crop.metres_per_pixel, seen) for part in both)
    return {"loss": strong + WEAK * weak, "strong": strong, "weak": weak}


# Chapter 12, section "4 Consistency"
class Autoencoder(Protocol):
    """Chapter 11's AffineCombiningAutoencoder, or anything that takes J points to L latents and back."""

    def encode(self, points: Tensor) -> Tensor:
        """(B, J, 3) -> (B, L, 3)."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, L, 3) -> (B, J, 3)."""


# Chapter 12, section "4 Consistency"
def rows_mean(values: Tensor, rows: Tensor) -> Tensor:
    """(B, J, 3) numbers -> the mean over the examples that `rows` (B,) names, (); 0 where there is none."""
    return masked_mean(values.mean((1, 2))[:, None], rows[:, None])


# Chapter 12, section "4 Consistency"
def inconsistency(points: Tensor, autoencoder: Autoencoder) -> Tensor:
    """|p - AE(p)|, (B, J, 3) metres: 0 where the autoencoder can make the pose from its latents."""
    return (points - autoencoder.decode(autoencoder.encode(points))).abs()


# Chapter 12, section "4 Consistency"
def regularised_loss(points: Tensor, batch: Batch, supervision: Supervision, autoencoder: Autoencoder) -> dict:
    """(a) Output regularisation: the loss of separate heads + mean |p - AE(p)|, times 0.2 for examples with 2D labels.

    The gradient goes through the autoencoder too, whose weights don't change."""
    losses, off = supervision(points, batch), inconsistency(points, autoencoder)
    strong, weak = rows_mean(off, batch["valid"].any(1)), rows_mean(off, batch["seen"].any(1))
    return losses | {"loss": losses["loss"] + strong + WEAK * weak, "inconsistency": off.mean()}


# Chapter 12, section "4 Consistency"
def direct_loss(latents: Tensor, batch: Batch, supervision: Supervision, autoencoder: Autoencoder) -> dict:
    """(b) Direct latent prediction: the network has L points (B, L, 3), the loss sees what they decode to."""
    return supervision(autoencoder.decode(latents), batch)


# Chapter 12, section "Who teaches whom", exercise 12.4
def teacher_loss(
    latents: Tensor, points: Tensor, autoencoder: Autoencoder, K: Tensor, crop: Crop, after: Tensor, rows: Tensor
) -> Tensor:
    """The student's latents (B, L, 3) against the latents of the teacher's points (B, J, 3): `pose_loss`, every latent
    valid in the examples `rows` (B,). No gradient reaches the teacher. ACAE, variant (c). ()."""
    target = autoencoder.encode(points).detach()  # (B, L, 3)
    valid = rows[:, None].expand(latents.shape[:2])
    return pose_loss(latents, target, valid, K, crop, after)


# Chapter 12, section "Who teaches whom"
def hybrid_loss(both: Tensor, batch: Batch, supervision: Supervision, autoencoder: Autoencoder, latents: int) -> dict:
    """(c) Hybrid student and teacher: the network has L + J points (B, L + J, 3), latents first.

    3D: L3(all) + L3(dec(lat)) + mean |all - AE(all)| + the late teacher loss; 2D: 0.2 times the same, the last two
    halved. The latents are what is used afterwards. ACAE; the weights are the released code's."""
    student, teacher = both[:, :latents], both[:, latents:]
    decoded, off, after = autoencoder.decode(student), inconsistency(teacher, autoencoder), late(batch["step"])

    def taught(rows: Tensor) -> Tensor:
        matched = teacher_loss(student, teacher, autoencoder, batch["K"], supervision.crop, after, rows)
        return rows_mean(off, rows) + after * matched

    strong = supervision.strong(teacher, batch) + supervision.strong(decoded, batch)
    weak = supervision.weak(teacher, batch) + supervision.weak(decoded, batch)
    rows3d, rows2d = batch["valid"].any(1), batch["seen"].any(1)
    loss = strong + taught(rows3d) + WEAK * (weak + 0.5 * taught(rows2d))
    return {"loss": loss, "strong": strong, "weak": weak, "inconsistency": off.mean()}


# Chapter 12, section "Ghost BatchNorm"
class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that takes its statistics over parts of the batch. Hoffer et al. 2017; ACAE §S5.

    group: so many examples a part (the last part may be smaller), or shares of the batch, (96, 32) or (3, 1) for three
    quarters and the rest. In inference mode it is BatchNorm, and its weights have BatchNorm's names."""

    def __init__(self, channels: int, group: int | tuple[int, ...] = 16, eps: float = NORM_EPSILON):
        super().__init__(channels, eps)
        self.group = group

    def sizes(self, batch: int) -> list[int]:
        """How many examples each part of a batch has. ValueError where shares don't come out whole."""
        if isinstance(self.group, int):
            return [min(self.group, batch - begin) for begin in range(0, batch, self.group)]
        if any(batch * share % sum(self.group) for share in self.group):
            raise ValueError(f"a batch of {batch} can't be shared as {self.group}: take a multiple, or another group")
        return [batch * share // sum(self.group) for share in self.group]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Training: one part after the other, as if BatchNorm was called on each."""
        sizes = self.sizes(len(x)) if self.training else [len(x)]
        stored = self.running_mean, self.running_var
        parts = [
            batch_norm(part, *stored, self.weight, self.bias, self.training, self.momentum, self.eps)
            for part in x.split(sizes)
        ]
        return torch.cat(parts)


NORMS: dict[str, Norm] = {  # Table S4's three
    "normal": partial(nn.BatchNorm2d, eps=NORM_EPSILON),
    "ghost-3d-2d": partial(GhostBatchNorm2d, group=(96, 32)),
    "ghost-16": partial(GhostBatchNorm2d, group=16),
}


# Chapter 12, section "What FP16 makes of it"
def inference_norms(model: nn.Module) -> nn.Module:
    """Every BatchNorm of a model in inference mode: stored statistics, not updated; weight and bias go on learning.

    `model.train()` undoes it. ACAE §S5, the last 1,000 steps."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


# Chapter 12, section "What FP16 makes of it"
@torch.no_grad()
def max_norm_(model: nn.Module, limit: float = 20.0) -> nn.Module:
    """In place: every filter of a convolution that a norm follows, (C, kh, kw) numbers, is shortened to the length
    `limit` where it is longer. ACAE §S5; 20: the authors' code. To be called after each step."""
    for module in model.modules():
        if isinstance(module, ConvNormActivation):
            kernel = module[0].weight  # (C', C, kh, kw)
            kernel.mul_((limit / kernel.flatten(1).norm(dim=1).clamp(min=limit))[:, None, None, None])
    return model


KINDS = {
    "markerless": """MuCo-3DHP 32 9 6 | CMU-Panoptic - 9 7 | AIST-Dance++ - 9 6 | HUMBI - 7 5 | MPI-INF-3DHP - 5 3
        | RICH - 7 4 | BEHAVE - - 3 | ASPset - - 4 | 3DOH50K - - 3 | IKEA ASM - - 2""",
    "marker-based": """Human3.6M 32 9 4 | TotalCapture - 5 3 | BML-MoVi - - 5 | Berkeley-MHAD - - 3 | UMPM - - 2
        | Fit3D - - 2 | GPA - - 4 | HumanSC3D - - 1 | CHI3D - - 1 | Human4D - - 1 | MADS - - 2""",
    "synthetic": """SURREAL 32 8 5 | 3DPeople - 6 4 | JTA - 5 3 | HSPACE - 5 3 | SAIL-VOS - 7 5 | AGORA - 5 3
        | SPEC - - 2""",
    "2D": "COCO 8 8 8 | MPII 8 8 8 | PoseTrack 8 8 8 | JRDB 8 8 8",
}  # Table S1: data set and its examples per batch in Small, Medium and Full


# Chapter 12, section "6 Thirty-two queues, one batch"
def read_batches(size: int) -> dict[str, int]:
    """Examples per batch by data set, of the Small (0), Medium (1) or Full (2) combination. Table S1."""
    rows = [row.strip().rsplit(maxsplit=3) for kind in KINDS.values() for row in kind.split("|")]
    return {name: int(numbers[size]) for name, *numbers in rows if numbers[size] != "-"}


BATCHES = {name: read_batches(size) for size, name in enumerate(("small", "medium", "full"))}


# Chapter 12, section "How often is an example seen?"
def batch_counts(sizes: Mapping[str, int], batch: int, power: float = 0.5) -> dict[str, int]:
    """Examples per batch of each data set, proportional to its size to the `power`, at least one, `batch` in all.

    power 1: as everything shuffled together; 0: all alike; between: small sets are oversampled (Table S1's; the square
    root is our choice). ValueError for an empty data set or fewer places than data sets."""
    if not sizes or min(sizes.values()) < 1 or batch < len(sizes):
        raise ValueError(f"{batch} places can't be shared by data sets of {dict(sizes)}: each needs one, none be empty")
    weights = {name: size**power for name, size in sizes.items()}
    due = {name: (batch - len(sizes)) * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: 1 + int(places) for name, places in due.items()}
    by_rest = sorted(due, key=lambda name: int(due[name]) - due[name])
    return counts | {name: counts[name] + 1 for name in by_rest[: batch - sum(counts.values())]}


# Chapter 12, section "How often is an example seen?"
def shares(counts: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """For each data set its share of the batch and its share of all data, 0 to 1."""
    drawn, there = sum(counts.values()), sum(sizes[name] for name in counts)
    return {name: (number / drawn, sizes[name] / there) for name, number in counts.items()}


# Chapter 12, section "Queues", exercise 12.6
def interleave(counts: Mapping[str, int]) -> list[str]:
    """The order in which one round of a batch takes from the queues: names, each as often as `counts` says.

    After m of the N places each data set has had less than one example more or fewer than m * count / N. Of those that
    may come, the one that is due first; of equals, the first in `counts`. ACAE §S2; the rule is our choice."""
    total, taken, order = sum(counts.values()), dict.fromkeys(counts, 0), []
    for place in range(total):
        ready = [name for name in counts if taken[name] * total <= place * counts[name]]
        chosen = min(ready, key=lambda name: (taken[name] + 1) / counts[name])
        taken[chosen] += 1
        order.append(chosen)
    return order


# Chapter 12, section "A stream that needs no memory"
def epoch_order(name: str, size: int, seed: int, epoch: int) -> np.ndarray:
    """0 … size - 1 in the order of one epoch of one data set; the same whatever other sets there are."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()), epoch)).permutation(size)


# Chapter 12, section "A stream that needs no memory"
def example_generator(name: str, seed: int, epoch: int, index: int) -> torch.Generator:
    """The random numbers of one example's augmentation in one epoch."""
    sequence = np.random.SeedSequence((seed, zlib.crc32(name.encode()), epoch, index, 1))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


# Chapter 12, section "A stream that needs no memory"
def stacked(examples: list[Batch]) -> Batch:
    """Examples -> a batch."""
    return {key: torch.stack([one[key] for one in examples]) for key in examples[0]}


Transform = Callable[[Batch, torch.Generator], Batch] | None
Datasets, Counts = Mapping[str, Batch], Mapping[str, int]


# Chapter 12, section "A stream that needs no memory"
def check_rounds(batch_size: int, turn: int, world: int) -> None:
    """ValueError where a batch isn't made of whole rounds of `turn`, or can't be shared out evenly."""
    if batch_size % turn or batch_size < turn:
        raise ValueError(f"a batch of {batch_size} is not made of whole rounds of {turn}: use a multiple of {turn}")
    if batch_size % world:
        raise ValueError(f"a batch of {batch_size} can't be shared out evenly to {world} processes")


# Chapter 12, section "A stream that needs no memory"
def check_queues(datasets: Datasets, counts: Counts) -> None:
    """ValueError, with the data set named, for queues that can't make a batch."""
    if unknown := [name for name in counts if name not in datasets]:
        raise ValueError(f"counts names {unknown[0]!r}, but the data sets are {', '.join(datasets)}")
    if not counts or any(number != int(number) or number < 1 for number in counts.values()):
        raise ValueError(f"counts is {dict(counts)}: give whole numbers from 1 on, and leave out what is not drawn")
    forms = {}
    for name in counts:
        if len({len(values) for values in datasets[name].values()}) != 1:
            raise ValueError(f"the tensors of {name!r} must be some, and have the same number of examples each")
        if not len(next(iter(datasets[name].values()))):
            raise ValueError(f"the data set {name!r} is empty: leave it out of counts")
        forms[name] = {key: (tuple(values.shape[1:]), values.dtype) for key, values in datasets[name].items()}
        if forms[name] != (first := forms[next(iter(counts))]):
            raise ValueError(f"{name!r} has {forms[name]}, but {next(iter(counts))!r} has {first}: make them alike")


# Chapter 12, section "A stream that needs no memory"
class QueueStream:
    """Batches out of several data sets: a shuffled queue of epochs for each, interleaved, chunked. ACAE §S2.

    datasets: {name: {key: tensor (N, ...)}}, all alike. counts: how many examples of each go into a round; a batch is
    one or more rounds. transform(one, generator): an example as a batch of one -> the same, augmented. Batches have the
    tensors and "dataset" (B,), its number in `datasets`. ValueError as in `check_queues`."""

    def __init__(self, datasets: Datasets, counts: Counts, seed: int = 0, transform: Transform = None):
        check_queues(datasets, counts)
        self.datasets, self.counts, self.seed, self.transform = datasets, counts, seed, transform
        self.sizes = {name: len(next(iter(tensors.values()))) for name, tensors in datasets.items() if name in counts}
        self.order = interleave(counts)
        self.earlier = [self.order[:place].count(name) for place, name in enumerate(self.order)]
        self.shuffled = {name: (-1, None) for name in counts}  # the epoch that was last asked for, and its order

    def find(self, place: int) -> tuple[str, int, int]:
        """Which example stands at a place (0, 1, … from the first batch on): its data set, epoch and index there."""
        turn, slot = divmod(place, len(self.order))
        name = self.order[slot]
        epoch, at = divmod(turn * self.counts[name] + self.earlier[slot], self.sizes[name])
        if self.shuffled[name][0] != epoch:
            self.shuffled[name] = epoch, epoch_order(name, self.sizes[name], self.seed, epoch)
        return name, epoch, int(self.shuffled[name][1][at])

    def example(self, place: int) -> Batch:
        """That example, without a batch dimension, augmented."""
        name, epoch, index = self.find(place)
        one = {key: values[index : index + 1] for key, values in self.datasets[name].items()}
        one["dataset"] = torch.tensor([list(self.datasets).index(name)])
        if self.transform is not None:
            one = self.transform(one, example_generator(name, self.seed, epoch, index))
        return {key: values[0] for key, values in one.items()}

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """This process's share of batch `start`, `start` + 1, … without end, as `course_lib.recipe.Stream`."""
        check_rounds(batch_size, len(self.order), world)
        own = batch_size // world
        firsts = count(start * batch_size + rank * own, batch_size)
        return (stacked([self.example(place) for place in range(first, first + own)]) for first in firsts)


# Chapter 12, section "A stream that needs no memory"
def labelled_first(batch: Batch, weak: Tensor) -> Batch:
    """The batch with the examples of weak data sets, weak (data sets,) bool, last; otherwise in the order it had."""
    order = weak.to(batch["dataset"].device)[batch["dataset"]].int().argsort(stable=True)
    return {key: values[order] for key, values in batch.items()}


PEAK = 2.12e-4  # the paper's; its code has 2.121e-4
DROP_AT = {"initial": 0.92, "head": 0.5, "backbone": 0.0}  # the share of the steps after which the rate drops


# Chapter 12, section "7 The learning rate", exercise 12.7
def learning_rate(step: int, steps: int, part: str = "initial", peak: float = PEAK) -> float:
    """The rate at a step, 0 to `steps`, of the initial training, or of fine-tuning's "head" or "backbone". Fig. S1.

    Decays by 3 until the drop, drops by 10, decays by 3 until the end. The backbone begins after the drop. ValueError
    for another part."""
    if part not in DROP_AT:
        raise ValueError(f"part {part!r} is unknown: use {', '.join(DROP_AT)}")
    drop_at = DROP_AT[part]
    share = step / steps
    if share < drop_at:
        return peak * 3 ** -(share / drop_at)
    late = (share - drop_at) / (1 - drop_at)
    return peak / 10 * 3 ** -(1 + late)


# Chapter 12, section "7 The learning rate"
@dataclass(frozen=True)
class PartSchedule:
    """`learning_rate` of a part as a factor on the peak: a schedule for `course_lib.recipe`. Fig. S1."""

    part: str

    def __call__(self, step: int, steps: int) -> float:
        return learning_rate(step, steps, self.part, peak=1.0)


INITIAL, FINE_TUNE_HEAD, FINE_TUNE_BACKBONE = (PartSchedule(part) for part in DROP_AT)


# Chapter 12, section "Decoupled weight decay"
def weight_decay(steps: int = 400_000, peak: float = PEAK) -> float:
    """AdamW's factor: 3e-3 / sqrt(steps) / peak (the authors' code). In fine-tuning `steps` stays the initial one's."""
    return 3e-3 / math.sqrt(steps) / peak


# Chapter 12, section "Bones that can't be"
def plausible(points: Tensor, bones: Sequence[tuple[int, int]], factor: float = 1.4) -> Tensor:
    """Examples of one data set (N, J, 3), NaN where a joint is missing -> (N,) bool: all bones have likely lengths.

    A bone, a pair of joints, may be `factor` times longer or shorter than its median over the examples. ACAE §S3; the
    rule is our choice."""
    if factor <= 1:
        raise ValueError(f"factor is {factor}: give more than 1, or no two people may differ")
    first, second = torch.tensor(bones).T
    lengths = (points[:, first] - points[:, second]).norm(dim=-1)  # (N, bones)
    ratio = lengths / lengths.nanmedian(dim=0).values
    return ~((ratio > factor) | (ratio < 1 / factor)).any(1)  # NaN is neither


# Chapter 12, section "Frames that say nothing new", exercise 12.8
def thin(points: Tensor, reach: float = 0.1) -> list[int]:
    """The frames of a motion (T, J, 3), metres, that are worth keeping: numbers, ascending, the first always (of no
    frames, none).

    A frame is kept where some joint is `reach` or more from where it was in the last frame that was kept. Joints that
    are missing (NaN) have no say. The authors' code: 100 mm."""
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        moved = (points[frame] - points[kept[-1]]).norm(dim=-1)  # (J,)
        if (moved >= reach).any():
            kept.append(frame)
    return kept


OCCLUDED, OCCLUDED_2D, SWAPPED = 0.5, 0.7, 0.7  # The authors' code: chances of an occluder, and of another background


# Chapter 12, section "Things in front, things behind"
def on_background(image: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """The person of a picture (3, H, W) with mask alpha (H, W) before another background (3, H, W)."""
    return alpha * image + (1 - alpha) * background


# Chapter 12, section "Things in front, things behind"
def paste(image: Tensor, cutout: Tensor, left: int, top: int) -> Tensor:
    """A picture (3, H, W) with a cutout (4, h, w), colours and alpha, over it; what lies outside is cut off."""
    (height, width), (h, w) = image.shape[1:], cutout.shape[1:]
    layer = pad(cutout, (left, width - left - w, top, height - top - h))  # (4, H, W); what is negative is cut
    return layer[3] * layer[:3] + (1 - layer[3]) * image


# Chapter 12, section "Things in front, things behind"
def occluded(image: Tensor, cutouts: Tensor, generator: torch.Generator) -> Tensor:
    """A picture (3, H, W) with one of the cutouts (M, 4, h, w) somewhere on it, a quarter to half as large."""
    height, width = image.shape[1:]
    number = int(torch.randint(len(cutouts), (), generator=generator))
    size, x, y = torch.rand(3, generator=generator).tolist()
    side = max(1, round((0.25 + 0.25 * size) * height))
    cutout = resize(cutouts[number : number + 1], size=(side, side), mode="bilinear", antialias=True)[0]
    return paste(image, cutout, round(x * width - side / 2), round(y * height - side / 2))


# Chapter 12, section "Things in front, things behind"
def augmented_picture(
    image: Tensor, alpha: Tensor | None, cutouts: Tensor, backgrounds: Tensor, weak: bool, generator: torch.Generator
) -> Tensor:
    """A picture (3, H, W), perhaps before another of the backgrounds (M, 3, H, W), perhaps behind a cutout.

    alpha (H, W): the person's mask, or None: no swap. weak: a data set with 2D labels. The authors' code."""
    chances = torch.rand(2, generator=generator)
    number = int(torch.randint(len(backgrounds), (), generator=generator))
    if alpha is not None and chances[0] < SWAPPED:
        image = on_background(image, alpha, backgrounds[number])
    return occluded(image, cutouts, generator) if chances[1] < (OCCLUDED_2D if weak else OCCLUDED) else image


# Chapter 12, section "A camera that nobody calibrated"
def robust_rotation(source: np.ndarray, target: np.ndarray, rounds: int = 10) -> Rotation:
    """The rotation from skeletons (N, J, 3) to others, each about its own mean; frames that don't fit count less."""
    x, y = (points - points.mean(1, keepdims=True) for points in (source, target))
    weights = np.ones(len(x))
    for _ in range(rounds):
        pairs = y.reshape(-1, 3), x.reshape(-1, 3)
        R = Rotation.align_vectors(*pairs, weights=weights.repeat(x.shape[1]))[0]
        off = np.linalg.norm(R.apply(pairs[1]).reshape(x.shape) - y, axis=-1).mean(1)  # (N,)
        weights = 1 / (1 + (off / max(np.median(off), 1e-9)) ** 2)
    return R


# Chapter 12, section "A camera that nobody calibrated"
def camera_translation(points: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """t (3,) for which points (M, 3) + t lie on the rays (M, 2), x / z and y / z: least squares, linear in t."""
    (X, Y, Z), (u, v) = points.T, rays.T
    one, zero = np.ones_like(u), np.zeros_like(u)
    left = np.concatenate([np.stack([one, zero, -u], 1), np.stack([zero, one, -v], 1)])  # (2M, 3)
    return np.linalg.lstsq(left, np.concatenate([u * Z - X, v * Z - Y]), rcond=None)[0]


# Chapter 12, section "A camera that nobody calibrated"
def reprojection(unknowns: np.ndarray, points: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rotation vector (3), t (3), log focal length -> how far points (M, 3) fall from offsets (M, 2), in pixels."""
    x = Rotation.from_rotvec(unknowns[:3]).apply(points) + unknowns[3:6]
    return (np.exp(unknowns[6]) * x[:, :2] / np.maximum(x[:, 2:], 0.1) - offsets).ravel()


# Chapter 12, section "A camera that nobody calibrated"
def check_sightings(world: Tensor, predicted: Tensor, pixels: Tensor) -> None:
    """ValueError where these can't be the same joints in the world, in a camera's space and in its pictures."""
    shapes = [tuple(part.shape) for part in (world, predicted, pixels)]
    if len(world) == 0 or shapes[0] != shapes[1] or shapes[2] != (*shapes[0][:2], 2):
        raise ValueError(f"world, predicted, pixels must be (N, J, 3), (N, J, 3), (N, J, 2) with N >= 1, not {shapes}")
    if not all(part.isfinite().all() for part in (world, predicted, pixels)):
        raise ValueError("some joints are NaN or infinite: leave out the frames in which one is missing")


# Chapter 12, section "A camera that nobody calibrated"
def calibrate_camera(
    world: Tensor, predicted: Tensor, pixels: Tensor, size: tuple[int, int], robust: bool = True
) -> Camera:
    """The camera, focal length included, that sees people whose poses are known. After ACAE §S3; the method is ours.

    world (N, J, 3): joints in the world, metres. predicted (N, J, 3), pixels (N, J, 2): what a pose network makes of
    the new camera's pictures of `size` (H, W), metres up to scale, pixels. The middle of the picture is taken for the
    principal point. robust=False: plain least squares, to compare. ValueError for other shapes, NaN, or no frame."""
    check_sightings(world, predicted, pixels)
    known, seen, spots = (part.double().numpy() for part in (world, predicted, pixels))
    points, offsets = known.reshape(-1, 3), (spots - np.array(size[::-1]) / 2).reshape(-1, 2)
    focal = 1.2 * max(size)  # to begin with
    R = robust_rotation(known, seen, rounds=10 if robust else 1)
    start = np.concatenate([R.as_rotvec(), camera_translation(R.apply(points), offsets / focal), [math.log(focal)]])
    loss = "soft_l1" if robust else "linear"
    found = least_squares(reprojection, start, loss=loss, f_scale=5.0, x_scale="jac", args=(points, offsets)).x
    K = torch.tensor([[np.exp(found[6]), 0, size[1] / 2], [0, np.exp(found[6]), size[0] / 2], [0, 0, 1]])
    R = torch.tensor(Rotation.from_rotvec(found[:3]).as_matrix())
    return Camera(K[None].double(), R[None], torch.tensor(found[3:6])[None])


# Chapter 12, section "9 How it is measured", exercise 12.9
def correct_pose_score(prediction: Tensor, target: Tensor, root: int, threshold: float = 0.2) -> Tensor:
    """1.0 where the worst joint of a pose, relative to the root joint, is nearer than the threshold, 0.0 elsewhere.

    prediction, target (B, J, 3) metres -> (B,) float. CPS200 is threshold 0.2. ACAE §S4."""
    difference = (prediction - prediction[:, root : root + 1]) - (target - target[:, root : root + 1])
    worst = difference.norm(dim=-1).amax(-1)  # (B,)
    return (worst < threshold).float()


# Chapter 12, section "Two protocols of MuPoTS-3D", exercise 12.10
def pooled(errors: Tensor, sequences: Sequence[str]) -> tuple[float, float]:
    """The mean over all poses, and the mean over sequences of each sequence's mean: errors (N,), a name for each.

    ACAE §S4: the first in its main evaluations, the second in its Table 4."""
    own = [errors[[one == name for one in sequences]].mean() for name in dict.fromkeys(sequences)]
    return errors.mean().item(), torch.stack(own).mean().item()


BENCHMARKS = ("MuPoTS-3D", "3DPW", "MPI-INF-3DHP", "Human3.6M")
METRICS = ("MPJPE", "PMPJPE", "PCK100", "CPS200")
S2 = """
separate 100k 88.6 62.4 67.8 60.0 65.9 47.0 81.5 65.3 66.3 51.2 82.2 71.7 47.7 37.6 91.9 86.6
separate 200k 87.3 60.3 68.3 65.1 63.1 44.6 82.6 69.5 63.1 47.4 84.4 77.1 46.8 36.2 93.1 88.7
separate 400k 84.6 59.0 70.1 66.0 61.8 43.4 83.8 71.1 59.6 44.1 86.6 81.8 44.7 34.3 94.3 90.1
separate 800k 82.9 57.8 70.5 69.8 61.7 42.6 83.7 73.1 58.8 42.9 87.3 83.0 43.0 33.2 94.8 91.4
separate 1.6M 81.6 56.7 71.6 72.8 61.5 41.9 84.4 74.2 58.6 41.3 87.8 86.3 41.5 32.3 95.5 92.1
consistent 100k 85.5 60.6 70.3 66.6 65.0 46.0 81.8 66.9 63.6 48.7 83.9 74.1 46.7 36.4 92.5 87.6
consistent 200k 84.2 59.2 70.8 70.4 63.4 44.3 82.7 69.9 61.4 46.3 85.4 79.1 46.7 35.1 93.3 88.6
consistent 400k 81.8 57.8 72.5 72.9 61.5 43.0 84.0 71.9 59.2 43.6 86.6 82.7 45.2 33.3 94.4 90.1
consistent 800k 80.5 56.8 72.7 74.4 61.3 42.1 84.5 73.3 57.7 42.2 87.7 84.3 42.0 31.9 95.3 91.4
consistent 1.6M 79.7 56.1 73.3 76.6 60.6 41.7 84.7 74.5 58.6 41.1 87.8 86.6 41.1 31.2 95.7 92.2"""
S3 = """
20k 82.0 58.0 72.2 72.1 61.7 43.0 83.9 71.3 59.3 43.6 86.5 82.1 44.9 33.5 94.3 89.8
40k 81.8 57.8 72.5 72.9 61.5 43.0 84.0 71.9 59.2 43.6 86.6 82.7 45.2 33.3 94.4 90.1
80k 81.6 57.8 72.4 73.2 61.4 42.9 84.1 72.1 58.4 43.2 87.2 82.9 44.5 33.3 94.6 90.1"""

S4 = """
separate frozen normal 84.5 59.2 70.0 65.9 62.6 43.6 83.6 71.9 61.3 43.7 85.7 82.0 46.3 34.6 94.2 89.9
separate frozen 3D/2D 83.6 58.7 70.4 70.0 62.8 43.5 83.2 71.2 61.8 45.1 85.7 80.3 46.6 34.7 94.1 90.5
separate frozen ghost-16 84.6 59.0 70.1 66.0 61.8 43.4 83.8 71.1 59.6 44.1 86.6 81.8 44.7 34.3 94.3 90.1
separate live normal 84.2 59.1 70.4 66.4 62.6 43.6 83.5 71.9 60.4 43.4 86.1 82.3 45.9 34.4 94.2 89.8
separate live 3D/2D 88.2 63.5 66.7 62.0 67.3 47.5 80.9 68.0 66.3 49.0 81.7 77.4 50.8 40.4 90.7 87.7
separate live ghost-16 85.8 60.4 69.0 63.5 63.4 44.7 83.2 70.8 59.8 44.3 86.3 81.8 45.4 35.7 93.6 89.6
consistent frozen normal 83.3 58.5 70.9 73.2 63.1 43.7 83.4 71.8 60.5 43.4 85.9 82.7 46.0 33.5 94.4 89.9
consistent frozen 3D/2D 81.2 57.7 72.5 74.0 62.2 43.0 83.7 72.3 60.5 44.4 86.1 80.9 46.2 33.7 94.1 90.6
consistent frozen ghost-16 81.8 57.8 72.5 72.9 61.5 43.0 84.0 71.9 59.2 43.6 86.6 82.7 45.2 33.3 94.4 90.1
consistent live normal 83.1 58.7 71.3 72.9 62.8 43.5 83.5 71.7 59.6 43.2 86.4 82.9 45.5 33.4 94.5 89.9
consistent live 3D/2D 89.1 64.6 66.4 62.1 68.5 49.4 79.6 65.2 73.4 52.9 76.4 70.9 58.4 43.4 85.7 82.7
consistent live ghost-16 84.0 60.0 70.7 69.7 63.3 45.3 82.7 69.4 63.2 45.7 83.8 80.1 49.0 36.6 92.2 88.3"""


# Chapter 12, section "The paper's tables as data"
def read_table(text: str) -> dict[tuple[str, ...], np.ndarray]:
    """The name of each row, a tuple of words, and its numbers (4 BENCHMARKS, 4 METRICS)."""
    rows = [line.split() for line in text.strip().splitlines()]
    return {tuple(row[:-16]): np.array(row[-16:], float).reshape(4, 4) for row in rows}


PAPER_TABLES = {"S2": read_table(S2), "S3": read_table(S3), "S4": read_table(S4)}
# Table S4's rows: "frozen" is with, "live" without the last 1,000 steps with BN in inference mode
NETWORK_FORMATS = acae_skeletons.FORMATS  # whose joints the network predicts: those that chapter 11's autoencoder knows
TINY = Backbone(16, (
    Stage(FusedMBConv, 1, 2, 24, 1), Stage(FusedMBConv, 4, 2, 48, 2), Stage(MBConv, 4, 1, 64, 3),
), last=128, drop=0.0)  # fmt: skip
NETWORKS = BACKBONES | {"tiny": TINY}
LOSSES = ("separate", "internal", "regularised", "direct", "hybrid")


# Chapter 12, section "10 Thirty-two data sets in miniature"
@dataclass(frozen=True)
class Augmentation:
    """degrees: largest turn; scale, shift: largest change as shares of the size; flip: chance; colour: of a channel's
    brightness. The authors' code; colour is our choice."""

    degrees: float = 20.0
    scale: float = 0.25
    shift: float = 0.1
    flip: float = 0.5
    colour: float = 0.15


# Chapter 12, section "10 Thirty-two data sets in miniature"
@dataclass(frozen=True)
class Config:
    """A pose network and one phase of its training.

    side, stride: of the crop, pixels. norm: `GhostBatchNorm2d`'s group, or None for BatchNorm. mixture: of BATCHES.
    loss: one of LOSSES; all but the first two need an autoencoder. fine_tune: whether this is the second phase, which
    begins with the first one's network. steps: of this phase; horizon: those of the first one, which weight decay goes
    by. late: after so many the absolute and the teacher's loss come in (the paper's 5,000), after a tenth of them full
    perspective. frozen: so many last steps have norms in inference mode. formats; pairs, middle: their joints with and
    without a side; weak: names that 2D labels know; latents: sided, central. pictures: of each world."""

    backbone: str = "tiny"
    side: int = 64
    stride: int = 8
    bins: int = 8
    norm: int | tuple[int, ...] | None = 8
    mixture: str = "full"
    loss: str = "separate"
    fine_tune: bool = False
    batch_size: int = 32
    steps: int = 400
    horizon: int = 400
    late: int = 40
    frozen: int = 20
    lr: float = 2e-3
    formats: tuple[str, ...] = NETWORK_FORMATS
    pairs: int = 146
    middle: int = 86
    weak: int = 20
    latents: tuple[int, int] = (40, 8)
    pictures: tuple[tuple[str, int], ...] = (("studio", 1000), ("wild", 1000), ("scan", 1000))
    augmentation: Augmentation = Augmentation()
    precision: str = "fp32"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None
    seed: int = 0

    def __post_init__(self):
        if self.loss not in LOSSES or self.mixture not in BATCHES:
            known = f"use one of {', '.join(LOSSES)} and one of {', '.join(BATCHES)}"
            raise ValueError(f"loss {self.loss!r} or mixture {self.mixture!r} is unknown: {known}")

    joints = property(lambda self: 2 * self.pairs + self.middle)
    crop = property(lambda self: Crop(self.side, self.stride))

    @property
    def points(self) -> int:
        """How many points the network predicts."""
        return {"direct": sum(self.latents), "hybrid": sum(self.latents) + self.joints}.get(self.loss, self.joints)


RUNS = "course_lib.studies.acae_training"
SHIPPED_PICTURES = (("studio", 4000), ("wild", 3000), ("scan", 4000))
PRETRAINED = Config(
    formats=("smpl",), pairs=9, middle=6, steps=4000, horizon=4000, late=400, frozen=200, lr=3e-3,
    pictures=(("scan", 7000),),
)  # fmt: skip
FIRST = Config(steps=3000, horizon=3000, late=200, frozen=100, pictures=SHIPPED_PICTURES)


# Chapter 12, section "10 Thirty-two data sets in miniature"
def second_phase(config: Config, steps: int, loss: str = "regularised") -> Config:
    """The fine-tuning of a network that was trained with a configuration: so many steps more."""
    later = {"late": max(1, steps // 8), "frozen": min(config.frozen, steps // 4)}  # the paper: 5,000 of 40,000
    return replace(config, loss=loss, fine_tune=True, steps=steps, **later)


# Chapter 12, section "10 Thirty-two data sets in miniature"
def paper_config(backbone: str, days: float) -> Config:
    """The paper's initial training: 400,000 steps on one A40."""
    paper = PaperRun("ACAE §S2", gpus=1, gpu="A40-48GB", days=days, batch=128, steps=440_000)
    return Config(
        backbone, side=256, stride=32, norm=16, batch_size=128, steps=400_000, horizon=400_000, late=LATE, frozen=1000,
        lr=PEAK, pairs=214, middle=127, precision="bf16", paper=paper,
    )  # fmt: skip


PAPERS = {"effv2-s": paper_config("efficientnetv2-s", 2.0), "effv2-l": paper_config("efficientnetv2-l", 6.0)}
CONFIGS = {
    "smoke": Config(side=32, steps=4, horizon=4, late=2, frozen=1, pictures=(("studio", 8), ("wild", 8), ("scan", 8))),
    "laptop": Config(steps=400, horizon=400, late=40, frozen=20),
    "shipped": FIRST,
    "shipped-consistent": second_phase(FIRST, 400),
    "gpu": Config(
        "small", side=128, stride=16, norm=16, batch_size=128, steps=12_000, horizon=12_000, late=300, frozen=500,
        pictures=SHIPPED_PICTURES, precision="bf16",
    ),
    **PAPERS,
    **{f"{name}-consistent": second_phase(config, 40_000) for name, config in PAPERS.items()},
}  # fmt: skip


# Chapter 12, section "Augmentation that the camera knows about"
def uniform(generator: torch.Generator, size: float, *shape: int) -> Tensor:
    """Random numbers between -size and size."""
    return size * (2 * torch.rand(shape, generator=generator) - 1)


# Chapter 12, section "Augmentation that the camera knows about"
def new_camera(K: Tensor, side: int, wide: int, zoom: float, shift: Tensor) -> Tensor:
    """K (1, 3, 3) of a crop of `wide` pixels -> that of its middle `side` pixels, zoomed and shifted by pixels (2,)."""
    new = K.clone()
    new[:, :2, :2] *= zoom
    new[:, :2, 2] = side / 2 + zoom * (K[:, :2, 2] - wide / 2) + shift
    return new


# Chapter 12, section "Augmentation that the camera knows about"
def turn_about_z(radians: Tensor) -> Tensor:
    """() -> (3, 3): a rotation about the camera's axis."""
    c, s, zero = radians.cos(), radians.sin(), torch.zeros(())
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1]).view(3, 3)


# Chapter 12, section "Augmentation that the camera knows about"
def seen_anew(image: Tensor, K: Tensor, new_K: Tensor, turn: Tensor, side: int) -> Tensor:
    """A picture (1, 3, S, S) from a camera K as one with new_K sees it, turned about its axis: (1, 3, side, side)."""
    change = K @ turn.T @ torch.linalg.inv(new_K)  # (1, 3, 3): new pixels -> old ones, affine
    wide = image.shape[-1]
    theta = change[:, :2] * side / wide  # affine_grid has both pictures go from -1 to 1
    theta[:, :, 2] = (2 * change[:, :2, 2] + side * (change[:, :2, 0] + change[:, :2, 1])) / wide - 1
    return grid_sample(image, affine_grid(theta, [1, 3, side, side], align_corners=False), align_corners=False)


# Chapter 12, section "Augmentation that the camera knows about"
def mirror_example(batch: Batch, side: int, swap: Tensor, swap_weak: Tensor) -> Batch:
    """Left and right exchanged: in the picture, in space and in the names. swap (J,), swap_weak (N,): partners."""
    flip = torch.tensor([-1.0, 1.0, 1.0])
    K = batch["K"].clone()
    K[:, 0, 2] = side - K[:, 0, 2]
    found = {"image": batch["image"].flip(-1), "K": K}
    found |= {"joints": (batch["joints"] * flip)[:, swap], "valid": batch["valid"][:, swap]}
    return batch | found | {"spots": (batch["spots"] * flip)[:, swap_weak], "seen": batch["seen"][:, swap_weak]}


# Chapter 12, section "Augmentation that the camera knows about"
def finished(batch: Batch) -> Batch:
    """The batch with pixels (B, N, 2), where the 2D labels' spots are in the picture, instead of spots."""
    batch = dict(batch)
    return batch | {"pixels": projected(batch.pop("spots"), batch["K"])}


# Chapter 12, section "Augmentation that the camera knows about"
def plain_view(side: int, batch: Batch) -> Batch:
    """What a network sees of stored crops (B, 3, S, S) uint8 when nothing is augmented: their middle."""
    wide = batch["image"].shape[-1]
    edge = (wide - side) // 2
    image = batch["image"][..., edge : edge + side, edge : edge + side].float() / 255
    return batch | {"image": image, "K": new_camera(batch["K"], side, wide, 1.0, torch.zeros(2))}


# Chapter 12, section "Augmentation that the camera knows about"
def augmented(
    augmentation: Augmentation, side: int, swap: Tensor, swap_weak: Tensor, one: Batch, generator: torch.Generator
) -> Batch:
    """An example as a batch of one, augmented: turned, zoomed, shifted, mirrored, recoloured; its labels go along, the
    camera too. Adds mix, MeTRAbs' random weight of the two heads."""
    a, wide = augmentation, one["image"].shape[-1]
    turn = turn_about_z(torch.deg2rad(uniform(generator, a.degrees, 1)[0]))
    zoom, shift = 1 + uniform(generator, a.scale, 1).item(), uniform(generator, a.shift * side, 2)
    new_K = new_camera(one["K"], side, wide, zoom, shift)
    image = seen_anew(one["image"].float() / 255, one["K"], new_K, turn, side)
    colour = 1 + uniform(generator, a.colour, 1, 3, 1, 1)
    found = one | {"image": (image * colour).clamp(0, 1), "K": new_K, "mix": torch.rand(1, generator=generator)}
    found |= {name: one[name] @ turn.T for name in ("joints", "spots")}
    flips = torch.rand((), generator=generator) < a.flip
    return finished(mirror_example(found, side, swap, swap_weak) if flips else found)


# Chapter 12, section "Augmentation that the camera knows about"
def transform(config: Config, swap: Tensor, swap_weak: Tensor) -> Transform:
    """For the queues: `augmented`, as the configuration says. swap (J,), swap_weak (N,): partners left and right."""
    return partial(augmented, config.augmentation, config.side, swap, swap_weak)


IS_WEAK = tuple(name in KINDS["2D"] for name in BATCHES["full"])  # by number of the data set


# Chapter 12, section "Batches"
class ChunkedStream(QueueStream):
    """A `QueueStream` whose batches are whole parts of a round: 32 of 128, a quarter of each data set's share on
    average. Adds step (B,), counted so that the paper's 5,000 come after `late` steps."""

    def __init__(self, *arguments, late: int = LATE, **options):
        super().__init__(*arguments, **options)
        self.late = late

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """As of every stream. ValueError for a batch that is no whole part of a round."""
        if len(self.order) % batch_size or batch_size % world:
            raise ValueError(f"a round of {len(self.order)} can't be cut into {batch_size}, for {world} processes")
        own = batch_size // world
        return (self.numbered(step, step * batch_size + rank * own, own) for step in count(start))

    def numbered(self, step: int, first: int, size: int) -> Batch:
        """The batch of a step, from its first place on."""
        paper_step = step * LATE // max(1, self.late)
        examples = [self.example(place) for place in range(first, first + size)]
        return stacked(examples) | {"step": torch.full((size,), paper_step)}


# Chapter 12, section "11 The run"
def build(config: Config, start: Batch | None = None) -> MetrabsNet:
    """A new network, or one that begins with the tensors of another, or with those of its backbone alone.

    ValueError where they don't fit."""
    norm = partial(nn.BatchNorm2d, eps=NORM_EPSILON)
    if config.norm is not None:
        norm = partial(GhostBatchNorm2d, group=config.norm)
    model = MetrabsNet(NETWORKS[config.backbone], config.points, config.crop, config.bins, norm)
    if start is not None:
        missing, unknown = model.load_state_dict(start, strict=False)
        if unknown or [name for name in missing if not name.startswith("head.")]:
            raise ValueError(f"these tensors are of another network: {[*unknown, *missing][0]} is not in both")
    return model


# Chapter 12, section "11 The run"
def backbone_of(model: MetrabsNet) -> Batch:
    """The tensors of a network's backbone, to begin another one with."""
    return {name: values.clone() for name, values in model.state_dict().items() if name.startswith("backbone.")}


# Chapter 12, section "11 The run"
@dataclass(frozen=True)
class FixedAutoencoder:
    """A trained autoencoder whose weights, (J, L) and (L, J), don't change; gradients go through."""

    encoder: Tensor
    decoder: Tensor

    def encode(self, points: Tensor) -> Tensor:
        """(B, J, 3) -> (B, L, 3)."""
        return acae_skeletons.combine(self.encoder.to(points), points)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, L, 3) -> (B, J, 3)."""
        return acae_skeletons.combine(self.decoder.to(latents), latents)


# Chapter 12, section "11 The run"
def training_loss(
    config: Config, supervision: Supervision, autoencoder: FixedAutoencoder | None, model: nn.Module, batch: Batch
) -> Batch:
    """The loss of the configuration's phase. batch: a `ChunkedStream`'s, in any order."""
    batch = labelled_first(batch, torch.tensor(IS_WEAK))
    output = model(batch["image"], batch["K"], batch["mix"], 10 * batch["step"] < LATE)
    if config.loss == "internal":
        return internal_loss(output, batch, supervision)
    if config.loss == "separate":
        return supervision(output.absolute, batch)
    if config.loss == "hybrid":
        return hybrid_loss(output.absolute, batch, supervision, autoencoder, sum(config.latents))
    loss = {"regularised": regularised_loss, "direct": direct_loss}[config.loss]
    return loss(output.absolute, batch, supervision, autoencoder)


# Chapter 12, section "11 The run"
def after_step(config: Config, model: MetrabsNet, step: int) -> None:
    """Between steps: the max-norm constraint, and norms in inference mode at the end. ACAE §S5. (Stored statistics are
    those of a kernel as long as it was: from then on filters keep their length.)"""
    if not model.frozen_norms:
        max_norm_(model)
    if config.frozen and step >= config.steps - config.frozen and not model.frozen_norms:
        model.frozen_norms = True
        inference_norms(model)


# Chapter 12, section "11 The run"
def recipe(
    config: Config,
    stream: Stream | None,
    names: tuple[str, ...] | None = None,
    weak_names: tuple[str, ...] | None = None,
    autoencoder: FixedAutoencoder | None = None,
    start: Batch | None = None,
) -> Recipe:
    """One phase of training. names: of all joints; weak_names: of what 2D labels know; without them numbers stand in.
    autoencoder: for all losses but the first two; without one, random weights stand in, which is good for plans only.
    start: the tensors of the network to begin with."""
    names = names or acae_skeletons.numbered(config)
    weak_names = weak_names or tuple(name.split("_")[0] for name in names[: config.weak])
    supervision = Supervision(config.crop, name_average(names, weak_names))
    parts = (("backbone.", FINE_TUNE_BACKBONE),) if config.fine_tune else ()
    decay = weight_decay(config.horizon, config.lr)
    return Recipe(
        name=f"metrabs-{config.backbone}-{config.loss}",
        model=partial(build, config, start),
        loss=partial(training_loss, config, supervision, autoencoder or stand_in(config)),
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.999), weight_decay=decay, schedules=parts),
        schedule=FINE_TUNE_HEAD if config.fine_tune else INITIAL,
        precision=config.precision,
        blocks=("FusedMBConv", "MBConv"),
        checkpoint_blocks=config.checkpoint_blocks,
        seed=config.seed,
        example=partial(example, config),
        after_step=partial(after_step, config),
        paper=config.paper,
    )


# Chapter 12, section "11 The run"
def with_data(config: Config, folders: list) -> Recipe:
    """For a launch: the recipe with queues over rendered worlds, a folder each, and everything that goes with them."""
    return resolved(f"{RUNS}:launched")(config, folders)


# Chapter 12, section "11 The run"
def stand_in(config: Config) -> FixedAutoencoder:
    """An autoencoder that has learned nothing."""
    latents = sum(config.latents)
    ones = torch.ones(config.joints, latents)
    return FixedAutoencoder(ones / config.joints, ones.T / latents)


# Chapter 12, section "11 The run"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes: three in four with 3D labels."""
    weak = torch.arange(count) % 4 == 3
    focal = torch.tensor([2.0 * config.side, 2.0 * config.side, 1.0])
    K = torch.diag(focal).expand(count, 3, 3).clone()
    K[:, :2, 2] = config.side / 2
    joints = 0.3 * torch.randn(count, config.joints, 3) + torch.tensor([0.0, 0.0, 4.0])
    return {
        "image": torch.rand(count, 3, config.side, config.side), "K": K, "joints": joints,
        "valid": ~weak[:, None].expand(count, config.joints), "pixels": config.side * torch.rand(count, config.weak, 2),
        "seen": weak[:, None].expand(count, config.weak), "step": torch.full((count,), LATE + 1),
        "mix": torch.rand(count), "dataset": torch.where(weak, IS_WEAK.index(True), 0),
    }  # fmt: skip


SHIPPED = {
    "backbone": Shipped("acae_training-backbone", PRETRAINED, f"{RUNS}:backbone"),
    "separate": Shipped("acae_training-separate", CONFIGS["shipped"], f"{RUNS}:separate"),
    "consistent": Shipped("acae_training-consistent", CONFIGS["shipped-consistent"], f"{RUNS}:consistent"),
}


# Chapter 12, section "The studies"
@dataclass(frozen=True)
class Arm:
    """One arm of a study. length, tuning: of the first and the second phase, in units of the study's steps. norm,
    mixture: as in `Config`. frozen: whether both phases end with their norms in inference mode."""

    length: float = 1.0
    tuning: float = 0.25
    norm: int | tuple[int, ...] | None = 8
    frozen: bool = True
    mixture: str = "full"
    side: int = 64
    pictures: tuple[tuple[str, int], ...] = SHIPPED_PICTURES


# Chapter 12, section "The studies"
def arm_config(arm: Arm, steps: int) -> Config:
    """The first phase of an arm."""
    own = max(1, round(arm.length * steps))
    return Config(
        side=arm.side, norm=arm.norm, mixture=arm.mixture, steps=own, horizon=own, late=max(1, steps // 10),
        frozen=max(1, steps // 12) if arm.frozen else 0, pictures=arm.pictures,
    )  # fmt: skip


STUDY_STEPS = 120
INITIAL_LENGTHS = {"30": Arm(0.25), "60": Arm(0.5), "120": Arm(), "240": Arm(2.0), "480": Arm(4.0)}
TUNINGS = {"15": Arm(tuning=0.125), "30": Arm(), "60": Arm(tuning=0.5)}
GROUPS = {"normal": None, "3D-2D": (3, 1), "ghost-8": 8}
NORMED = {
    f"{'frozen' if frozen else 'live'} {name}": Arm(norm=group, frozen=frozen)
    for frozen in (True, False)
    for name, group in GROUPS.items()
}
MIXTURES = {name: Arm(mixture=name) for name in BATCHES}


# Chapter 12, section "The studies"
def question(name: str, title: str, arms: dict[str, Arm]) -> Study:
    """A study of this chapter."""
    return Study(f"12.{name}", title, arms, f"{RUNS}:compare", STUDY_STEPS)


STUDIES = {
    "initial_length": question("initial_length", "length of the initial training (Table S2)", INITIAL_LENGTHS),
    "fine_tune_length": question("fine_tune_length", "length of the fine-tuning (Table S3)", TUNINGS),
    "ghost_bn": question("ghost_bn", "Ghost BN, with and without inference mode at the end (Table S4)", NORMED),
    "mixture": question("mixture", "Small, Medium and Full at equal steps (Table S1)", MIXTURES),
}


# course build sealed the text above: 025ef308aea435b5

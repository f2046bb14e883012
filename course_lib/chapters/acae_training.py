"""ACAE, training: made by `course build` from solutions/12_acae_training.py. Edit there, never here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad, silu

from course_lib.recipe import Batch

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
    the box in which it measures a person (the paper's code: 256, 32, 2.2)."""

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
CLOSEST = 0.3  # metres: labels nearer to the camera's plane than that aren't projected (the paper's code)
FIELD_ENLARGED = 20  # strides: labels farther outside don't count (the paper's code)


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
    `limit` where it is longer. ACAE §S5; 20: the paper's code. To be called after each step."""
    for module in model.modules():
        if isinstance(module, ConvNormActivation):
            kernel = module[0].weight  # (C', C, kh, kw)
            kernel.mul_((limit / kernel.flatten(1).norm(dim=1).clamp(min=limit))[:, None, None, None])
    return model


# course build sealed the text above: f64278552c8f0d50

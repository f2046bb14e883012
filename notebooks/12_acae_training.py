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
# # Chapter 12: ACAE, training

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
from torch.nn.functional import interpolate

from course_lib import plots
from course_lib.scale import pick

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad, silu

from course_lib.exercises import TODO, check, exercise
from course_lib.recipe import Batch

# %% [markdown]
# ## 1 EfficientNetV2, written out
#
# **The question.** The network's eyes are EfficientNetV2 (Tan and Le 2021), in the sizes -S and -L, with weights that
# were trained on ImageNet. What are they made of, and under which names does anybody's file of weights have them?
#
# **The idea.** Two kinds of block, and a choice of which goes where. An **MBConv** widens the channels four- or sixfold
# by a 1 × 1 convolution, filters each channel by itself (3 × 3, *depthwise*), weighs the channels against each other
# (*squeeze and excitation*), and narrows them again. It is frugal with multiplications, but a depthwise filter does so
# little with each number that hardware mostly waits for memory. So the early stages, where maps are large and channels
# few, take the **FusedMBConv**: one full 3 × 3 convolution in the place of the first two. More multiplications, and
# less time, as Tan and Le measured. Where a block keeps size and channels, its input is added to its output.
#
# Every convolution is followed by a BatchNorm, and has no bias, which the norm would take away again. Remember that:
# section 5 will come back to it.

# %% tags=["export"]
Norm = Callable[[int], nn.Module]  # channels -> a normalisation layer
NORM_EPSILON = 1e-3  # added to variances: torchvision's value for EfficientNetV2


class ConvNormActivation(nn.Sequential):
    """A convolution without bias, a normalisation, and SiLU if `activation`. (B, C, H, W) -> (B, C', H/stride, ...)."""

    def __init__(self, inside: int, outside: int, kernel: int, norm: Norm, stride=1, groups=1, activation=True):
        conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, norm(outside), *([nn.SiLU()] if activation else []))


class SqueezeExcitation(nn.Module):
    """Each channel times a number in (0, 1), found from the means of all channels. Hu et al. 2018."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        means = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.fc2(silu(self.fc1(means))).sigmoid()


# %% [markdown]
# In training a block may be left out altogether, one sample at a time, and the later the block the likelier
# (**stochastic depth**). What is left is made larger, so that the mean stays: with `drop` a half, half of the samples
# twice. The network becomes many networks of different depths.

# %% tags=["export"]
def stochastic_depth(x: Tensor, drop: float) -> Tensor:
    """(B, C, H, W): each sample is set to 0 at a chance of `drop`, the others are divided by 1 - drop, so that the mean
    over many draws is x. Huang et al. 2016."""
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= drop  # (B, 1, 1, 1)
    return x * kept / (1 - drop)


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


# %%
torch.manual_seed(0)
draws = stochastic_depth(torch.ones(20_000, 1, 1, 1), drop=0.2)
print(f"values {sorted(set(draws.flatten().tolist()))}, mean {draws.mean():.3f}")
assert abs(draws.mean() - 1) < 0.02


# %% tags=["export"]
class FusedMBConv(Residual):
    """A full 3 x 3 convolution to `expand` times the channels, and 1 x 1 back; one 3 x 3 where expand is 1.

    Tan and Le 2021, Fig. 2."""

    def __init__(self, inside: int, outside: int, expand: int, stride: int, norm: Norm, drop: float = 0.0):
        wide = expand * inside
        layers = [ConvNormActivation(inside, wide if expand > 1 else outside, 3, norm, stride)]
        if expand > 1:
            layers.append(ConvNormActivation(wide, outside, 1, norm, activation=False))
        super().__init__(layers, stride == 1 and inside == outside, drop)


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


# %% [markdown]
# What is left to say is a table: how many blocks of which kind, how wide, where the stride is. (Tan and Le's Table 4
# has -S. For -L, and for widths as built, we take torchvision's.) `small` is ours, of the same blocks, for what we
# train here: stride 16 in place of 32, and a fraction of the weights.

# %% tags=["export"]
@dataclass(frozen=True)
class Stage:
    """`blocks` blocks of one kind; the first has the stride and changes the channels. A row of the paper's Table 4."""

    block: type[Residual]
    expand: int
    stride: int
    channels: int
    blocks: int


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


# %% [markdown]
# Two more details belong to the use that pose makes of it.
#
# - We don't want classes but the last *map*: a picture of 256 pixels becomes 8 × 8 cells of 1,280 numbers. With
#   `classes=None` there is no classifier.
# - **Which pixel does a cell look at?** A 3 × 3 convolution with stride 2 and one row of padding all around has the
#   middle of its first output at the *first* input. Five of them, and cell $i$ looks at pixel $32\,i$, the corner of
#   its square of pixels. Padding the last one below and on the right only puts it into the middle (*centered striding*,
#   MeTRAbs). No weight changes.

# %% tags=["export"]
def centre_last_stride(features: nn.Sequential) -> None:
    """The last convolution with a stride pads below and on the right only, so that the map's cells look at the middles
    of their squares of pixels and not at the corners. Changes no weight. Sárándi et al. 2021, "centered striding"."""
    conv = [module for module in features.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)][-1]
    conv.padding = (0, 0)
    conv.register_forward_pre_hook(pad_late)


def pad_late(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """A hook that runs before a convolution: one more column on the right, one more row below."""
    return pad(inputs[0], (0, 1, 0, 1))


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


def start(module: nn.Module) -> None:
    """Weights to begin with: He's for what leaves a convolution; small and even for the classifier. As torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -(module.out_features**-0.5), module.out_features**-0.5)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


# %% [markdown]
# Where a cell looks follows from strides and paddings alone: with every convolution the middle moves by
# (kernel − 1)/2 − padding steps of the map it reads, and a stride makes the steps longer.

# %%
def cell_middles(features, side):
    """Pixels (n,) on which the cells of a row are centred; pixel centres at integer + 0.5."""
    middle, step = 0.5, 1
    convs = [module for module in features.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    for conv in convs:
        middle += step * ((conv.kernel_size[0] - 1) / 2 - conv.padding[0])
        step *= conv.stride[0]
    return middle + step * torch.arange(side // step)


with torch.device("meta"):
    kinds = {kind: EfficientNetV2(BACKBONES["efficientnetv2-s"], None, centred=kind == "centred").features
             for kind in ("corner", "centred")}  # fmt: skip
middles = {kind: cell_middles(features, 256) for kind, features in kinds.items()}
print({kind: found[:3].tolist() for kind, found in middles.items()})
assert middles["corner"][0] == 0.5 and middles["centred"][0] == 16.5

# %% [markdown]
# Half a pixel beyond the middle, 16.5 of 32: we let it be.

# %%
from course_lib.data.worlds import render_samples

SIDE = pick(smoke=64, laptop=256)
person = next(render_samples("studio", "train", seed=0, index=3, size=(SIDE, SIDE), formats=("coco17",)))
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
for ax, (kind, found) in zip(axes, middles.items(), strict=True):
    ax.imshow(person.image.transpose(1, 2, 0), extent=(0, 256, 256, 0))
    ax.set(title=kind, xticks=range(0, 257, 32), yticks=range(0, 257, 32), xticklabels=[], yticklabels=[])
    ax.grid(color="white", alpha=0.6)
    ax.plot(*torch.cartesian_prod(found, found).T, "o", color="C1", ms=4, clip_on=False)
plt.show()


# %% [markdown]
# *The 8 × 8 cells of a picture of 256 pixels, and where each is centred.*
#
# ### Counting
#
# On the meta device a tensor has a shape and no numbers, so that the largest network is built in no time. torchvision's
# documentation gives 21,458,488 weights for -S and 118,515,272 for -L, with their classifiers of 1,000 classes. The
# multiplications of a convolution are its weights times the cells of its output.

# %%
def multiplications(part, side):
    """Of one picture in a part of the backbone whose input has this side, and the side of its output."""
    total = 0
    for conv in (module for module in part.modules() if isinstance(module, nn.Conv2d)):
        if conv.bias is None:  # squeeze and excitation, with bias, sees one cell
            side //= conv.stride[0]
        total += conv.weight.numel() * (side**2 if conv.bias is None else 1)
    return total, side


WEIGHTS = {"efficientnetv2-s": 21_458_488, "efficientnetv2-l": 118_515_272}
networks = {}
for name, backbone in BACKBONES.items():
    side = 96 if name == "small" else 256
    with torch.device("meta"):
        networks[name] = EfficientNetV2(backbone)
    weights = sum(p.numel() for p in networks[name].parameters())
    total, cells = multiplications(networks[name].features, side)
    print(f"{name:17s}{weights:12,} weights, {total / 1e9:6.3f} GMACs: {side}² pixels to {cells}² × {backbone.last}")
    assert weights == WEIGHTS.get(name, weights)

# %% [markdown]
# The names are torchvision's, so that its file of weights can be read by `load_state_dict`. `features.0` is the stem,
# `features.1` to the last but one are the stages; a stage has numbered blocks; a block has `block`, and in it numbered
# convolutions with their norms, 0 and 1.

# %%
names = {name: values.shape for name, values in networks["efficientnetv2-s"].state_dict().items()}
shown = [
    "features.0.0.weight", "features.1.0.block.0.0.weight", "features.2.0.block.1.1.running_mean",
    "features.4.0.block.1.0.weight", "features.4.0.block.2.fc1.bias", "features.7.0.weight", "classifier.1.weight",
]  # fmt: skip
for name in shown:
    print(f"{name:40s}{tuple(names[name])}")
print(f"{len(names)} entries")

# %% [markdown]
# And where is what? For each stage its share of the weights, and of the multiplications at 256 × 256:

# %%
shares, side = {"weights": [], "multiplications": []}, 256
for part in networks["efficientnetv2-s"].features:
    total, side = multiplications(part, side)
    shares["weights"].append(sum(p.numel() for p in part.parameters()))
    shares["multiplications"].append(total)
labels = ["stem", *[f"{stage.block.__name__.removesuffix('Conv')}\n{stage.channels}"
                    for stage in BACKBONES["efficientnetv2-s"].stages], "1 × 1"]  # fmt: skip
figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
for place, (name, counts) in enumerate(shares.items()):
    ax.bar(torch.arange(len(counts)) + 0.4 * place - 0.2, [100 * c / sum(counts) for c in counts], 0.4, label=name)
ax.set(xticks=range(len(labels)), xticklabels=labels, ylabel="%")
ax.legend(frameon=False)
plt.show()
fused = {name: sum(counts[1:4]) / sum(counts) for name, counts in shares.items()}
assert 0.03 < fused["weights"] < 0.07 and 0.5 < fused["multiplications"] < 0.6


# %% [markdown]
# *-S by stages: block and channels.* The three fused stages have one weight in twenty and more than half of the work.
# The last stage is the other way round.
#
# ## 2 From a map to a skeleton in the room
#
# **The question.** The backbone gives 8 × 8 cells. The paper wants each of 555 joints in *metres*, in the *camera's*
# space, for somebody whose legs may be outside of the picture. How does one read that off a coarse map?
#
# **The idea** (MeTRAbs: Sárándi et al. 2021). Ask twice, and let geometry join the answers:
#
# - A **2D head** says where each joint is in the picture. It is exact, but knows no depth, and nothing outside.
# - A **3D head** says where each joint is in a box of 2.2 metres around the person. It knows shape and size, and a leg
#   outside of the picture is still inside of the box. It doesn't know where the box is.
# - The two must agree. Where the box has to be for that is a least-squares problem with three unknowns.
#
# One 1 × 1 convolution makes both: J maps for the 2D head, and J × D for D depths of the 3D head (D = 8).
#
# Numbers that belong together first: the crop that the network sees, its stride, the box.

# %% tags=["export"]
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


# %% [markdown]
# ### The mean of a map
#
# 8 × 8 cells for 256 pixels: the cell with the largest value would be 8 pixels off on average. And "which is the
# largest" has no gradient. **Soft-argmax** takes the mean place in place of the likeliest one. With the logits $h$ of a
# joint over cells $c$ with middles $\mathbf m_c$,
#
# $$p_c = \frac{\exp h_c}{\sum_{c'}\exp h_{c'}}, \qquad \hat{\mathbf x} = \sum_c p_c\,\mathbf m_c. \tag{12.1}$$
#
# It lies between cells, and every logit has a gradient. What it can't do is leave the square that the outermost middles
# span: 16 to 240 of 256 pixels. Remember that for the truncated.
#
# ### Exercise 12.1 — soft-argmax  ●●○ (10 min)
#
# For maps and for volumes. In [0, 1]; `Crop.pixels` makes pixels of it.
#
# <details><summary>Hint 1</summary>
#
# Softmax over all cells of a joint at once: `logits.float().flatten(2).softmax(-1)`, then back with
# `.unflatten(2, logits.shape[2:])`.
# </details>
# <details><summary>Hint 2</summary>
#
# For x only columns matter: sum the chances over all other axes, then times `torch.linspace(0, 1, columns)`, and sum.
# The same for y with rows, and for z with depths.
# </details>

# %% tags=["export"]
@exercise("12.1")
def soft_argmax(logits: Tensor) -> Tensor:
    """(B, J, H, W) -> (B, J, 2) as x, y, or (B, J, D, H, W) -> (B, J, 3) as x, y, z; in [0, 1], 0 the first cell's
    middle and 1 the last one's. Computed in float32 whatever comes in. Sun et al. 2018; MeTRAbs."""
    raise TODO


# %%
check(soft_argmax)

# %% [markdown]
# A joint that walks through the picture, and what both kinds of reading make of it. The logits are those that a network
# may learn, $-(m - x)^2 / 2 s^2$: a bump around the place.

# %%
crop, truth = Crop(), torch.linspace(0, 256, 129)
middles = crop.pixels(torch.linspace(0, 1, crop.cells))  # (8,)
bump = -((middles - truth[:, None]) ** 2) / (2 * 30**2)  # (129, 8)
row = bump[None, :, None].expand(1, -1, 8, -1)  # (1, 129, 8, 8)
found = {"soft-argmax": crop.pixels(soft_argmax(row)[0, :, 0]), "largest cell": middles[bump.argmax(1)]}
inner = (truth > 60) & (truth < 196)
error = {name: (values - truth)[inner].abs().mean().item() for name, values in found.items()}
plots.curve(found, x=truth, xlabel="where the joint is, pixels", ylabel="where it is read")
print({name: f"{value:.2f} px" for name, value in error.items()})
assert error["soft-argmax"] < 1 and abs(error["largest cell"] - 8) < 0.5


# %% [markdown]
# *Steps of 32 pixels, and a line.* At the border the line bends: a mean over cells that all lie inside stays inside.
#
# ### What a head's channels mean
#
# The order of the channels is part of the format of published weights: first J maps of the 2D head, then for the first
# depth all J, for the next depth all J. The 3D head's x and y are read like pixels and scaled so that the picture's
# side is 2.2 m; z runs through 2.2 m from the first depth to the last. Only differences between joints mean anything.

# %% tags=["export"]
def split_heads(channels: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """(B, J (1 + D), H, W) -> the 2D head's logits (B, J, H, W) and the 3D head's (B, J, D, H, W).

    MeTRAbs' order: J maps for 2D, then all J of the first depth, all J of the next, and so on."""
    flat, deep = channels[:, :points], channels[:, points:]
    return flat, rearrange(deep, "b (d j) h w -> b j d h w", j=points)


def read_heads(channels: Tensor, points: int, crop: Crop) -> tuple[Tensor, Tensor]:
    """The head's channels -> pixels (B, J, 2), and metres (B, J, 3) relative to an unknown place."""
    flat, deep = (soft_argmax(logits) for logits in split_heads(channels, points))
    xy = crop.pixels(deep[..., :2]) * crop.metres_per_pixel
    return crop.pixels(flat), torch.cat([xy, deep[..., 2:] * crop.box], -1)


# %% [markdown]
# ### Where is the box?
#
# Let $\mathbf r$ be the unknown place in the camera's space to which the 3D head's $(X_j, Y_j, Z_j)$ refer, and
# $(x_j, y_j)$ the ray of joint $j$: its pixel taken to the plane at depth 1 by the camera, $K^{-1}$. If both heads are
# right, joint $j$ at $\mathbf r + (X_j, Y_j, Z_j)$ is seen along its ray,
#
# $$\frac{r_x + X_j}{r_z + Z_j} = x_j, \qquad \frac{r_y + Y_j}{r_z + Z_j} = y_j. \tag{12.2}$$
#
# Times the denominator, and all that is unknown to the left:
#
# $$r_x - x_j\,r_z = x_j Z_j - X_j, \qquad r_y - y_j\,r_z = y_j Z_j - Y_j. \tag{12.3}$$
#
# *Linear* in $\mathbf r$: two equations for each joint, $A\mathbf r = \mathbf b$ with rows $[1, 0, -x_j]$ and
# $[0, 1, -y_j]$, three unknowns. Weighted least squares is one small system,
#
# $$(A^\top W A + \varrho I)\,\mathbf r = A^\top W \mathbf b. \tag{12.4}$$
#
# The weights $W$ ask whom to trust: 1 for joints whose 2D answer lies well inside the picture, and $10^{-4}$ for the
# rest. $\varrho$ = 0.01 keeps the system from blowing up where all rays are the same.
#
# ### Exercise 12.2 — the reference point  ●●● (20 min)
#
# <details><summary>Hint 1</summary>
#
# Rows: `torch.stack([one, zero, -x, zero, one, -y], -1)` is (B, J, 6); `.unflatten(-1, (2, 3)).flatten(1, 2)` makes
# (B, 2J, 3) of it. In this order the right side is `(ray * Z - XY).flatten(1)`.
# </details>
# <details><summary>Hint 2</summary>
#
# Every joint has two rows: `weight.repeat_interleave(2, 1)`. `torch.linalg.solve` takes batches, but wants the right
# side as (B, 3, 1).
# </details>

# %% tags=["export"]
NEAREST = 1e-3  # metres: what is nearer to the camera's plane, or behind it, counts as so near


def rays(pixels: Tensor, K: Tensor) -> Tensor:
    """(B, J, 2) pixels -> (B, J, 2): where they are on the plane at depth 1. K (B, 3, 3). Never in half precision."""
    fx, fy, cx, cy, skew = (K[:, row, column, None] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    y = (pixels[..., 1] - cy) / fy  # (B, J)
    return torch.stack([(pixels[..., 0] - cx - skew * y) / fx, y], -1)


def projected(points: Tensor, K: Tensor) -> Tensor:
    """(B, J, 3) metres -> (B, J, 2) pixels. A depth below 1 mm, or behind the camera, counts as 1 mm."""
    x, y = (points[..., :2] / points[..., 2:].clamp(min=NEAREST)).unbind(-1)
    fx, fy, cx, cy, skew = (K[:, row, column, None] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    return torch.stack([fx * x + skew * y + cx, fy * y + cy], -1)


# %% tags=["export"]
RIDGE = 1e-2  # MeTRAbs' code


@exercise("12.2")
def solve_reference(ray: Tensor, relative: Tensor, weight: Tensor, ridge: float = 0.0) -> Tensor:
    """Where the point is to which `relative` refers: rays (B, J, 2), metres (B, J, 3), weights (B, J) -> (B, 3) metres.

    Minimises sum_j w_j |r_xy + X_j - x_j (r_z + Z_j)|^2 + ridge |r|^2. Equation 12.4; MeTRAbs."""
    raise TODO


# %%
check(solve_reference)

# %% [markdown]
# Held against PyTorch's own least squares, which decomposes the matrix and never builds $A^\top A$:

# %%
generator = torch.Generator().manual_seed(0)
ray, relative = torch.randn(5, 17, 2, generator=generator).double(), torch.randn(5, 17, 3, generator=generator).double()
weight = torch.rand(5, 17, generator=generator).double()
eye = torch.eye(2).double().expand(5, 17, 2, 2)
A = torch.cat([eye, -ray[..., None]], -1).flatten(1, 2)  # (5, 34, 3)
b = (ray * relative[..., 2:] - relative[..., :2]).flatten(1)[..., None]
root = weight.repeat_interleave(2, 1).sqrt()[..., None]
expected = torch.linalg.lstsq(root * A, root * b).solution[..., 0]
off = (solve_reference(ray, relative, weight) - expected).abs().max().item()
print(f"largest difference {off:.1e} m")
assert off < 1e-10

# %% [markdown]
# What has been solved there? Take $r_x$ and $r_y$ out of it (they are means), and one number remains. With bars for
# weighted means,
#
# $$r_z = -\frac{\sum_j w_j\,(\mathbf x_j - \bar{\mathbf x})\cdot(\mathbf b_j - \bar{\mathbf b})}
# {\sum_j w_j\,\lVert\mathbf x_j - \bar{\mathbf x}\rVert^2}. \tag{12.5}$$
#
# For somebody flat before the camera (all $Z_j$ = 0) $\mathbf b_j$ is $-(X_j, Y_j)$: **depth is size in metres over
# size at depth 1.** This is how size becomes distance, and why the box has to be metric.

# %%
w = (weight / weight.sum(1, keepdim=True))[..., None]
pairs = b.unflatten(1, (17, 2))[..., 0]  # (5, 17, 2)
ray_off, pair_off = ray - (w * ray).sum(1, keepdim=True), pairs - (w * pairs).sum(1, keepdim=True)
closed = -(w * ray_off * pair_off).sum((1, 2)) / (w * ray_off.square()).sum((1, 2))
assert torch.allclose(closed, expected[:, 2], atol=1e-10)


# %% [markdown]
# The ridge $\varrho$ pulls $\mathbf r$ toward the camera, and by how much depends on the unit of the rays. A person 4 m
# away spans a tenth of the plane at depth 1; so small a column is pulled a lot. The paper's code therefore divides the
# rays by their root mean square, so that 0.01 means the same at every distance. That works for a person in the *middle*
# of the crop's camera (theirs is turned toward the person). Far off the axis the mean is all that the root mean square
# sees, and the spread, which the depth hangs on, is small again. So we shift before we scale: rays minus their mean,
# over their spread. It is the view of a camera that looks at the person and has them fill its picture, and equation
# 12.3 has the same form there, with $X_j - \bar x Z_j$ and $s Z_j$ in the place of $X_j$ and $Z_j$. (The shift, and
# weights brought to a mean of 1, are our choice.)
#
# And in the first steps? A fresh network has both heads point at the middle of everything: size over size is 0/0, and
# the solution may well lie behind the camera, where nothing can be learnt from pixels. The paper's code begins with
# **weak perspective** for 500 steps, spread over spread, which is never negative.

# %% tags=["export"]
def weighted_spread(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(B, J, 2) and weights (B, J) -> their mean (B, 1, 2) and their standard deviation over both axes, (B, 1, 1)."""
    share = (weight / weight.sum(1, keepdim=True))[..., None]  # (B, J, 1)
    mean = (share * values).sum(1, keepdim=True)
    variance = (share * (values - mean).square()).sum((1, 2), keepdim=True) / 2
    return mean, variance.clamp(min=1e-8).sqrt()


def reference_point(ray: Tensor, relative: Tensor, weight: Tensor) -> Tensor:
    """`solve_reference` with MeTRAbs' ridge, as seen by a camera that has the person in the middle and filling its
    picture, so that the ridge is as harmless for a small person at the edge. -> (B, 3) metres."""
    weight = weight / weight.mean(1, keepdim=True)
    mean, size = weighted_spread(ray, weight)
    seen = torch.cat([relative[..., :2] - mean * relative[..., 2:], size * relative[..., 2:]], -1)
    found = solve_reference((ray - mean) / size, seen, weight, RIDGE)  # (B, 3)
    z = found[:, 2:] / size[:, 0]
    return torch.cat([found[:, :2] + mean[:, 0] * z, z], -1)


def weak_reference_point(ray: Tensor, relative: Tensor, weight: Tensor) -> Tensor:
    """The same under weak perspective: the depth is the skeleton's size in metres over its size at depth 1. (B, 3)."""
    mean_ray, size_ray = weighted_spread(ray, weight)
    mean, size = weighted_spread(relative[..., :2], weight)
    z = size / size_ray  # (B, 1, 1)
    depth = (weight * relative[..., 2]).sum(1) / weight.sum(1)  # (B,): of the middle, as `relative` has it
    return torch.cat([(mean_ray * z - mean)[:, 0], z[:, 0] - depth[:, None]], -1)


# %%
def ridge_error(sideways, solve):
    """Metres by which r is off for a person who stands 4 m away and so far to the side, all data exact."""
    place = torch.tensor([[sideways, 0.0, 4.0]], dtype=torch.float64)
    points = 0.35 * relative[:1] + place[:, None]
    exact = points[..., :2] / points[..., 2:]
    return (solve(exact, 0.35 * relative[:1], torch.ones(1, 17).double()) - place).norm().item()


def scaled_only(ray, relative, weight):
    """`solve_reference` with rays over their root mean square."""
    size = ray.square().mean((1, 2), keepdim=True).sqrt()
    found = solve_reference(ray / size, torch.cat([relative[..., :2], size * relative[..., 2:]], -1), weight, RIDGE)
    return torch.cat([found[:, :2], found[:, 2:] / size[:, 0]], -1)


sideways = torch.linspace(0, 6, 13).tolist()
ways = {
    "as it stands": partial(solve_reference, ridge=RIDGE),
    "scaled": scaled_only,
    "shifted, scaled": reference_point,
}
errors = {name: [1000 * ridge_error(x, solve) for x in sideways] for name, solve in ways.items()}
plots.curve(errors, x=sideways, xlabel="metres to the side", ylabel="error of r, mm", yscale="log")
print({name: f"{min(row):.1f} to {max(row):.1f} mm" for name, row in errors.items()})
assert min(errors["as it stands"]) > 100 > 20 > max(errors["shifted, scaled"])
assert errors["scaled"][0] < 10 < errors["scaled"][-1]

# %% [markdown]
# *What the ridge alone costs for somebody 4 m away, with perfect heads.* Somewhat off the axis is quite usual: a crop
# at the edge of a wide picture.
#
# ### Joining the two
#
# Now every joint has two places in space: the 3D head's, moved by $\mathbf r$, and the point on the 2D head's ray at
# the same depth. In view the network may trust both: in training their mix is drawn anew for each sample, from all of
# one to all of the other, so that both have to be good; afterwards it is half and half. **Out of view** the 2D head can
# only be wrong, and the 3D head is taken alone. "In view" is what lies ¾ of a stride or more inside the border: a 2D
# answer nearer to it may be one that couldn't get out.

# %% tags=["export"]
FIELD_MARGIN = 0.75  # strides from the border: what the 2D head places farther out may be outside (MeTRAbs' code)
UNSEEN_WEIGHT = 1e-4  # of such a joint in the least squares (MeTRAbs' code)


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


# %% [markdown]
# Our person of above, whose legs the picture cuts off. Suppose both heads were as good as they can be: the 3D head
# right, the 2D head right in view and pressed to the border for the rest.

# %%
BONES = ((5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16))
crop = Crop(SIDE, SIDE // 8)
K = torch.from_numpy(person.K)[None]
world = torch.from_numpy(person.people[0].keypoints["coco17"].points_3d)
true = (world @ torch.from_numpy(person.R).T + torch.from_numpy(person.t))[None]  # (1, 17, 3): the camera's space
in_box = true - true.mean(1, keepdim=True) + 1.1
pressed = projected(true, K).clamp(crop.stride / 2, SIDE - crop.stride / 2)
joined = absolute_pose(pressed, in_box, K, crop)
at_depth = torch.cat([rays(pressed, K), torch.ones(1, 17, 1)], -1) * true[..., 2:]
errors = {"2D head at the true depth": at_depth - true, "joined": joined - true}
errors = {name: 1000 * error.norm(dim=-1) for name, error in errors.items()}
out = ~crop.inside(projected(true, K), 0.0)[0]
print(f"{out.sum()} of 17 joints are outside")
for name, error in errors.items():
    print(f"{name:28s} in view {error[0, ~out].mean():4.0f} mm, outside {error[0, out].mean():4.0f} mm")
assert out.any() and errors["joined"].max() < 20 < errors["2D head at the true depth"][0, out].mean()

# %%
figure, axes = plt.subplots(1, 2, figsize=(6.4, 4.6), layout="constrained", sharey=True)
for ax, points, title in zip(axes, (pressed[0], projected(joined, K)[0]), ("2D head", "joined"), strict=True):
    ax.imshow(person.image.transpose(1, 2, 0))
    plots.draw_keypoints(ax, points, edges=BONES, size=16)
    ax.set(title=title, xlim=(0, SIDE), ylim=(1.6 * SIDE, 0), xticks=[], yticks=[])
    ax.axhline(SIDE - 0.5, color="0.7", lw=1)
    ax.set_facecolor("0.93")
plt.show()


# %% [markdown]
# *Left: what the 2D head can say at best. Right: the joints of the joined pose, projected.* The legs hang into
# nothingness, where they are. (A real 3D head has to guess them from the rest of the body; that it *may* is the point.)
#
# How exact is the depth? A pixel of error in the picture is a part of the person's size there, so by (12.5) depth is
# off by a part of itself. We disturb the 2D answers by noise of one pixel, in a crop in which 1.7 m are 200 pixels, at
# distances from 2 to 20 m:

# %%
def depth_error(distance, pixels=1.0, tries=200):
    """Mean error in metres of r_z. 17 points are spread by 0.35 m in each direction, about as a body's are."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.35 * torch.randn(tries, 17, 3, generator=generator)
    focal = 200 / 1.7 * distance
    points = spread + torch.tensor([0.0, 0.0, distance])
    noise = pixels / focal * torch.randn(tries, 17, 2, generator=generator)
    found = reference_point(points[..., :2] / points[..., 2:] + noise, spread, torch.ones(tries, 17))
    return (found[:, 2] - distance).abs().mean().item()


distances = (2.0, 5.0, 10.0, 20.0)
errors = [depth_error(distance) for distance in distances]
print({f"{d:g} m": f"{100 * e:.1f} cm, {100 * e / d:.2f} %" for d, e in zip(distances, errors, strict=True)})
assert all(abs(e / d / (errors[1] / 5) - 1) < 0.2 for d, e in zip(distances, errors, strict=True))


# %% [markdown]
# The same fraction at every distance, so ten times the centimetres at ten times the distance. Relative poses don't
# suffer. But a loss on *absolute* places would be all about far people: section 3 caps it.

# %% tags=["export"]
class Output(NamedTuple):
    """What the network says of J points: absolute (B, J, 3) metres in the camera's space, and the heads' own answers:
    pixels (B, J, 2) and relative (B, J, 3) metres, of which only differences mean something."""

    absolute: Tensor
    pixels: Tensor
    relative: Tensor


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


# %% [markdown]
# Metres at the end, whatever went in: a network of our small blocks, fresh, on one picture. It already gives 17 joints
# somewhere before the camera if asked under weak perspective.

# %%
torch.manual_seed(0)
crop = Crop(96, 16)
network = MetrabsNet(BACKBONES["small"], 17, crop).eval()
image = interpolate(torch.from_numpy(person.image)[None], size=(96, 96), mode="bilinear", antialias=True)
scaled = K * torch.tensor([96 / SIDE, 96 / SIDE, 1.0])[:, None]
with torch.no_grad():
    said = network(image, scaled, weak=True)
print({name: tuple(values.shape) for name, values in said._asdict().items()})
assert (said.absolute[..., 2] > 0).all() and said.pixels.min() >= 8 and said.pixels.max() <= 88

# %% [markdown]
# What does a step cost? Time for 32 crops of 96 pixels, forward and backward, 200 points, on one thread:

# %%
count = pick(smoke=2, laptop=32)
threads = torch.get_num_threads()
torch.set_num_threads(1)
network = MetrabsNet(BACKBONES["small"], 200, crop)
crops = torch.rand(count, 3, 96, 96)
for _ in range(pick(smoke=1, laptop=3)):
    began = time.process_time()
    network(crops, scaled.expand(count, 3, 3)).absolute.square().mean().backward()
    seconds = time.process_time() - began
torch.set_num_threads(threads)
print(f"{count} crops: {1000 * seconds:.0f} ms")

# %% [markdown]
# ## 3 Losses
#
# **The question.** MeTRAbs as first published supervises each head by itself. ACAE simplifies: the network is a **black
# box with one output**, a pose in the camera's space, and every loss looks at that. Which errors does such a loss have
# to see, and what does it do with labels that are only half there?
#
# **The idea** (§S2). Three opinions on a pose with 3D labels, and one on a picture with 2D labels. All are mean
# absolute errors over the joints *that are labelled* (of 555 joints a picture has those of one skeleton), in metres:
#
# $$\mathcal L_{3D} = \mathcal L_\text{meanrel} + \lambda_\text{proj}\,\mathcal L_\text{proj} +
# \lambda_\text{abs}\,\mathcal L_\text{abs}, \qquad \lambda_\text{proj} = 1,\ \lambda_\text{abs} = 0.1,
# \tag{12.6}$$
# $$\mathcal L = \mathcal L_{3D} + 0.2\,\mathcal L_{2D}. \tag{12.7}$$
#
# - $\mathcal L_\text{meanrel}$: both poses minus the mean of their labelled joints. Size, shape, direction.
# - $\mathcal L_\text{proj}$: both projected, in pixels × 2.2 m / side, so that it has the weight of metres. It is
#   counted where the label is 0.3 m or more before the camera and not far outside of the crop, and where the prediction
#   is before the camera and in the crop (the paper's code).
# - $\mathcal L_\text{abs}$: as they are. Turned on after 5,000 steps, in fine-tuning as well.
#
# A mean runs over the three coordinates too, with equal weights. (For $\mathcal L_\text{abs}$ so in the paper's code;
# for the rest it is our reading. Where we say "the paper's code" it is the authors' later, public version.)
#
# ### Labels that aren't there
#
# A mean over a mask has three traps. A pose without any label divides by zero. A mask times NaN is NaN. And
# `torch.where` saves the value but not the gradient, which is 0 · NaN behind a square, a root or a division. (Behind an
# absolute value it happens to be 0. One doesn't want to depend on that.) So: labels are made finite *before* anything
# is computed from them, and an empty mean is 0.

# %% tags=["export"]
LAMBDA_PROJ, LAMBDA_ABS, WEAK = 1.0, 0.1, 0.2  # ACAE §S2
LATE = 5000  # steps before the absolute and the teacher loss are turned on, §S2
FARTHEST = 10.0  # metres, "maximum effective distance", §S2
CLOSEST = 0.3  # metres: labels nearer to the camera's plane than that aren't projected (the paper's code)
FIELD_ENLARGED = 20  # strides: labels farther outside don't count (the paper's code)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """(B, J) numbers -> the mean of the valid ones, (); 0 where there is none."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def known(target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, J, D) and valid (B, J) -> the labels with 0 where they are not valid or not finite, and where they
    are both (B, J). Without this a NaN that nobody asked for comes back through the gradient of a mask."""
    valid = valid.bool() & target.isfinite().all(-1)
    return torch.where(valid[..., None], target, 0.0), valid


def late(step: Tensor | int, start: int = LATE) -> Tensor:
    """1.0 after `start` steps and 0.0 before: a factor on a loss that is turned on late. step: one for the batch."""
    return (torch.as_tensor(step) > start).float().mean()


# %%
label = torch.tensor([[[1.0, 2.0, 3.0], [float("nan")] * 3]])
guess = torch.zeros(1, 2, 3, requires_grad=True)
masked = torch.where(label.isnan(), 0.0, (guess - label).square()).sum()
spoilt = torch.autograd.grad(masked, guess)[0][0, 1]
print(f"where: loss {masked.item():.0f}, gradient of what is not valid {spoilt.tolist()}")
clean, valid = known(label, torch.ones(1, 2))
right = masked_mean((guess - clean).abs().mean(-1), valid)
gradient = torch.autograd.grad(right, guess)[0]
print(f"known: loss {right.item():.0f}, gradient of what is not valid {gradient[0, 1].tolist()}")
assert spoilt.isnan().all() and gradient.isfinite().all() and not gradient[0, 1].any()


# %% tags=["export"]
def centred(points: Tensor, valid: Tensor) -> Tensor:
    """(B, J, D) minus the mean of the valid (B, J) points of each pose; a pose without one stays as it is."""
    count = valid.sum(1).clamp(min=1)[:, None, None]
    return points - (points * valid[..., None]).sum(1, keepdim=True) / count


def mean_relative_loss(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 in metres, mean over coordinates, between poses (B, J, 3) that were both centred on their valid joints. ()."""
    target, valid = known(target, valid)
    return masked_mean((centred(points, valid) - centred(target, valid)).abs().mean(-1), valid)


def projection_loss(points: Tensor, pixels: Tensor, valid: Tensor, K: Tensor, crop: Crop) -> Tensor:
    """L1 between the projections of (B, J, 3) metres and pixels (B, J, 2), in metres of the box. ().

    Counted where the label lies in the enlarged picture, and the prediction before the camera and in the picture."""
    pixels, valid = known(pixels, valid)
    found = projected(points, K)
    counts = valid & crop.inside(pixels, -FIELD_ENLARGED) & crop.inside(found, 0.0) & (points[..., 2] > NEAREST)
    return masked_mean((found - pixels).abs().mean(-1) * crop.metres_per_pixel, counts)


# %% [markdown]
# ### Far people
#
# In JTA, SAIL-VOS or ASPset the distance to a person "can be very large" (§S2). Who is taken for 5 % taller than they
# are is placed 5 % too far away: 25 cm at 5 m, 2.5 m at 50 m, without anybody being to blame, and a batch's mean is
# then made of such guesses. So the paper scales the depth's part down "to a maximum effective distance of 10 m": times
# $\min(1, 10\,\mathrm m / z)$ with the label's z. Errors of the same *share* of the distance then count the same from
# 10 m on.

# %% tags=["export"]
def absolute_loss(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 in metres, mean over coordinates, of joints in the camera's space (B, J, 3), where the label is before the
    camera. The error of a depth z counts as if z were 10 m where it is more: times min(1, 10 / z). ACAE §S2. ()."""
    target, valid = known(target, valid)
    depth = target[..., 2]
    factor = (FARTHEST / depth.clamp(min=FARTHEST))[..., None]  # (B, J, 1)
    difference = (points - target).abs()
    scaled = torch.cat([difference[..., :2], factor * difference[..., 2:]], -1)
    return masked_mean(scaled.mean(-1), valid & (depth > CLOSEST))


def pose_loss(points: Tensor, target: Tensor, valid: Tensor, K: Tensor, crop: Crop, after: Tensor) -> Tensor:
    """L_meanrel + L_proj + 0.1 * after * L_abs for poses with 3D labels. after: `late(step)`. ACAE §S2. ()."""
    flat = projected(known(target, valid)[0], K)
    near = valid & (target[..., 2] > CLOSEST)
    return (
        mean_relative_loss(points, target, valid)
        + LAMBDA_PROJ * projection_loss(points, flat, near, K, crop)
        + LAMBDA_ABS * after * absolute_loss(points, target, valid)
    )


# %%
depths = torch.linspace(1, 60, 60)
target = torch.stack([torch.zeros(60), torch.zeros(60), depths], -1)[:, None]  # (60, 1, 3)
lines = {"capped at 10 m": [], "as it is": []}
for place in target:
    off = 1.02 * place
    lines["capped at 10 m"].append(absolute_loss(off[None], place[None], torch.ones(1, 1)))
    lines["as it is"].append((off - place).abs().mean())
plots.curve(lines, x=depths, xlabel="distance, m", ylabel="absolute loss, m")
assert abs(lines["capped at 10 m"][-1] - 0.2 / 3) < 1e-4 and abs(lines["as it is"][-1] - 1.2 / 3) < 1e-4

# %% [markdown]
# *The absolute loss of a depth that is off by 2 %.*
#
# ### What each loss sees
#
# One pose, wrong in four ways, each by 5 cm on average or so: moved sideways, moved along its ray, turned about the
# vertical, joints moved at random.

# %%
from course_lib.chapters.cameras import axis_angle_to_matrix

pose, crop = true - true.mean(1, keepdim=True) + torch.tensor([0.0, 0.0, 4.0]), Crop()  # (1, 17, 3)
K_crop = torch.tensor([[[450.0, 0, 128], [0, 450, 128], [0, 0, 1]]])
turn, middle = axis_angle_to_matrix(torch.tensor([0.0, 0.25, 0.0])), pose.mean(1, keepdim=True)
generator = torch.Generator().manual_seed(0)
wrong = {
    "sideways": pose + torch.tensor([0.08, 0.0, 0.0]),
    "along the ray": pose * 1.025,
    "turned": (pose - middle) @ turn.T + middle,
    "noise": pose + 0.06 * torch.randn(1, 17, 3, generator=generator),
}
valid, flat = torch.ones(1, 17, dtype=torch.bool), projected(pose, K_crop)
seen = {
    name: {
        "mean-relative": mean_relative_loss(points, pose, valid),
        "projection": projection_loss(points, flat, valid, K_crop, crop),
        "absolute": absolute_loss(points, pose, valid),
    }
    for name, points in wrong.items()
}

# %%
figure, ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
for place, loss in enumerate(next(iter(seen.values()))):
    heights = [1000 * float(row[loss]) for row in seen.values()]
    ax.bar(torch.arange(4) + 0.26 * (place - 1), heights, 0.26, label=loss)
ax.set(xticks=range(4), xticklabels=list(seen), ylabel="loss, mm", ylim=(0, 66))
ax.legend(frameon=False, ncol=3, loc="upper left")
plt.show()
print({name: {loss: f"{1000 * value.item():.0f}" for loss, value in row.items()} for name, row in seen.items()})
assert seen["sideways"]["mean-relative"] < 1e-6 and seen["along the ray"]["projection"] < 1e-4


# %% [markdown]
# *Sideways is invisible to the first, along the ray to the second.* (That also makes the pose 2.5 % larger, which the
# first sees a little.) The second is nearly blind to depth. Only together do they want the right thing.
#
# ### Pictures with 2D labels
#
# Of COCO's or MPII's pictures nobody knows the third dimension, but they are the ones that were taken in the wild. A
# projection loss can use them, *weakly* (times 0.2). But which of our skeletons' shoulders is COCO's shoulder? The
# paper takes them all: "we consider our prediction for the left shoulder to be the average of all the left shoulder
# joints in every skeleton format". The 3D joints are averaged, then projected.
#
# ### Exercise 12.3 — one shoulder for all  ●○○ (8 min)
#
# Averaging is a matrix (N, J): a row for each name, a column for each joint, and rows that sum to one. (Another affine
# combination.) Joints are called lsho_h36m: name, underscore, skeleton.
#
# <details><summary>Hint</summary>
#
# `name.split("_")[0] == want` for every pair makes a table of truths; as floats, each row over its sum. A row of zeros
# would be 0/0: that is the error to raise.
# </details>

# %% tags=["export"]
@exercise("12.3")
def name_average(names: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Joints such as lsho_h36m, and names such as lsho -> (N, J): row n averages all joints called wanted[n].

    ValueError for a name that no joint has. ACAE §S2."""
    raise TODO


def weak_loss(points: Tensor, pixels: Tensor, seen: Tensor, K: Tensor, crop: Crop, average: Tensor) -> Tensor:
    """The projection loss of name-averaged joints: points (B, J, 3), pixels (B, N, 2), seen (B, N), average (N, J).

    Not yet times 0.2. ACAE §S2. ()."""
    return projection_loss(torch.einsum("nj,bjc->bnc", average, points), pixels, seen, K, crop)


# %%
check(name_average)


# %% [markdown]
# ### Together
#
# A batch has 96 examples with 3D labels and 32 with 2D labels (section 6). We don't cut it in two: an example with 2D
# labels has no valid 3D joint, and one with 3D labels no pixel that is seen, so that masks do all of the sorting. A
# batch without any example of a kind has the loss 0 for it.

# %% tags=["export"]
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


# %% [markdown]
# ### The older supervision
#
# For comparison, MeTRAbs' own: the 3D head for itself, relative to its mean; the 2D head for itself, in pixels; the
# absolute pose late. Where there are 2D labels only, the 2D head is held to them, and so are the 3D head's x and y
# after the best move and scaling, since the labels don't know how large the person is. (How exactly the two are aligned
# is our choice: by mean and spread.) Which of the two is better is asked by a run at the end of this chapter.

# %% tags=["export"]
def fitted(points: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(B, N, 2) moved and scaled so that the valid points have the mean and the spread of `target`'s. (B, N, 2)."""
    weight = valid.to(points.dtype) + 1e-9
    (mean, size), (mean_target, size_target) = (weighted_spread(values, weight) for values in (points, target))
    return (points - mean) * (size_target / size) + mean_target


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


# %% [markdown]
# ### Bad input
#
# What the losses make of batches that happen: nobody labelled, no example with 2D labels, a joint that no example has,
# somebody behind the camera, NaN where nothing is valid.

# %%
def batch_of(count=4, joints=6, names=2):
    """A batch with 3D labels in its first half and 2D labels in its second, and a prediction to take gradients of."""
    generator = torch.Generator().manual_seed(0)
    poses = 0.3 * torch.randn(count, joints, 3, generator=generator) + torch.tensor([0.0, 0.0, 4.0])
    is3d = torch.arange(count) < count // 2
    batch = {"K": K_crop.expand(count, 3, 3), "joints": poses, "valid": is3d[:, None].repeat(1, joints)}
    batch |= {"pixels": projected(poses, batch["K"])[:, :names], "seen": ~is3d[:, None].repeat(1, names)}
    off = 0.05 * torch.randn(count, joints, 3, generator=generator)
    return batch | {"step": torch.full((count,), 9000)}, (poses + off).requires_grad_()


nothing = torch.zeros(4, 6, dtype=torch.bool)
behind, holes, missing = (batch_of()[0] for _ in range(3))
behind["joints"][0, :, 2] -= 5.0
holes["joints"][~holes["valid"]], holes["pixels"][~holes["seen"]] = float("nan"), float("nan")
missing["valid"][:, 3] = False
cases = {
    "as it should be": {},
    "nobody labelled": {"valid": nothing, "seen": nothing[:, :2]},
    "no 2D labels": {"seen": nothing[:, :2]},
    "no 3D labels": {"valid": nothing},
    "a joint that nobody has": {"valid": missing["valid"]},
    "behind the camera": {"joints": behind["joints"]},
    "NaN where not valid": {"joints": holes["joints"], "pixels": holes["pixels"]},
}

# %%
supervision = Supervision(Crop(), name_average(("a_x", "b_x", "c_x", "a_y", "b_y", "c_y"), ("a", "b")))
for name, change in cases.items():
    batch, points = batch_of()
    losses = supervision(points, batch | change)
    (gradient,) = torch.autograd.grad(losses["loss"], points)
    row = ", ".join(f"{key} {value:.4f}" for key, value in losses.items())
    print(f"{name:24s} {row}, gradient {gradient.norm():.3f}")
    assert losses["loss"].isfinite() and gradient.isfinite().all()

# %% [markdown]
# ## 4 Consistency
#
# **The question.** Train a head for each skeleton, 555 joints from 28 data sets, and each joint is learnt from its own
# data set's pictures only. On any one picture the skeletons then disagree about one and the same person: a knee of one
# format floats beside that of another. How does one tell a network that they are all of one body?
#
# **The idea.** Chapter 11's autoencoder knows which 555 joints fit together: those that it can make of 48 latent
# points. $p$ is consistent where $p = \operatorname{AE}(p)$. The paper tries three ways of using it, all as
# *fine-tuning* of a network that was trained with separate heads:
#
# - **(a) Regularise the output**: the loss + mean $|p - \operatorname{AE}(p)|$. The network stays, the penalty pulls.
# - **(b) Predict latents directly**: a head of 48 points, decoded by the (fixed) decoder. Consistent by construction.
# - **(c) Both, student and teacher**: a head of 48 + 555 points. The 555 are the teacher, regularised as in (a); the
#   latents are trained on labels through the decoder, and to be what the encoder makes of the teacher. Only the latents
#   are used in the end.
#
# All three work on points in the camera's space, which is why combinations have to be affine: encoding, decoding and
# moving commute.

# %%
FILL = {"network": "#dfe7f2", "fixed": "#e9e9e9", "points": "#fdf1da", "loss": "#f7dcd9"}


def draw(ax, title, boxes, arrows):
    """boxes: name -> (x, y, text, kind). arrows: "net>p p:enc", where : is a way without gradient."""
    for x, y, text, kind in boxes.values():
        frame = {"boxstyle": "round,pad=0.35", "fc": FILL[kind], "ec": "0.35"}
        ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=frame)
    half = {name: 0.1 + 0.033 * len(text.replace("$", "")) for name, (_, _, text, _) in boxes.items()}
    for arrow in arrows.split():
        start, end = arrow.replace(":", ">").split(">")
        style = {"arrowstyle": "->", "lw": 1.4, "color": "0.3"} | ({"ls": ":", "color": "C3"} if ":" in arrow else {})
        (x, y), (u, v) = boxes[start][:2], boxes[end][:2]
        ax.annotate("", (u - half[end], v), (x + half[start], y), arrowprops=style | {"shrinkA": 0, "shrinkB": 0})
    ax.set(xlim=(-0.3, 4.9), ylim=(-0.5, 1.6))
    ax.set_title(title, loc="left", fontsize=10)
    ax.axis("off")


# %%
NET = {"image": (0, 0.5, "picture", "points"), "net": (0.95, 0.5, "network", "network")}
LABELS, OFF = ("loss: labels", "loss"), ("$|p - AE(p)|$", "loss")
regularised = NET | {
    "p": (2, 0.5, "555 joints $p$", "points"), "gt": (4.3, 1.0, *LABELS), "ae": (3.15, 0.0, "AE", "fixed"),
    "off": (4.3, 0.25, *OFF),
}  # fmt: skip
direct = NET | {
    "q": (2, 0.5, "48 latents $q$", "points"),
    "dec": (3.15, 0.5, "decoder", "fixed"),
    "gt": (4.3, 0.5, *LABELS),
}
hybrid = NET | {
    "p": (2, 1.0, "555 joints $p$", "points"), "q": (2, 0.0, "48 latents $q$", "points"),
    "gt": (4.3, 1.4, *LABELS), "ae": (3.15, 1.0, "AE", "fixed"), "off": (4.3, 0.95, *OFF),
    "enc": (3.15, 0.5, "encoder", "fixed"), "match": (4.3, 0.4, "teacher loss", "loss"),
    "dec": (3.15, -0.25, "decoder", "fixed"), "gt2": (4.3, -0.25, *LABELS),
}  # fmt: skip

# %%
figure, axes = plt.subplots(3, 1, figsize=(7.4, 6), layout="constrained", height_ratios=(1, 0.8, 1.4))
draw(axes[0], "(a) output regularisation", regularised, "image>net net>p p>gt p>ae p>off ae>off")
draw(axes[1], "(b) direct latent prediction", direct, "image>net net>q q>dec dec>gt")
draw(
    axes[2],
    "(c) student and teacher",
    hybrid,
    "image>net net>p net>q p>gt p>ae ae>off p:enc enc:match q>match q>dec dec>gt2",
)
plt.show()


# %% [markdown]
# *What is fixed is grey. The dotted way lets no gradient back.*
#
# The autoencoder is handed to the losses as an argument: anything with `encode` and `decode`.

# %% tags=["export"]
class Autoencoder(Protocol):
    """Chapter 11's AffineCombiningAutoencoder, or anything that takes J points to L latents and back."""

    def encode(self, points: Tensor) -> Tensor:
        """(B, J, 3) -> (B, L, 3)."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, L, 3) -> (B, J, 3)."""


def rows_mean(values: Tensor, rows: Tensor) -> Tensor:
    """(B, J, 3) numbers -> the mean over the examples that `rows` (B,) names, (); 0 where there is none."""
    return masked_mean(values.mean((1, 2))[:, None], rows[:, None])


def inconsistency(points: Tensor, autoencoder: Autoencoder) -> Tensor:
    """|p - AE(p)|, (B, J, 3) metres: 0 where the autoencoder can make the pose from its latents."""
    return (points - autoencoder.decode(autoencoder.encode(points))).abs()


# %%
from course_lib.chapters.acae_skeletons import AffineCombiningAutoencoder
from course_lib.data.skeletons import joint_names, sample_poses

skeletons = ("h36m", "coco", "smpl")
names = joint_names(skeletons)
poses = sample_poses(pick(smoke=8, laptop=64), skeletons, seed=0).float()
torch.manual_seed(0)
autoencoder = AffineCombiningAutoencoder(names, 12, 4).requires_grad_(False)
moved = poses + torch.tensor([0.3, -0.2, 1.0])
one_way = autoencoder.decode(autoencoder.encode(moved))
other = autoencoder.decode(autoencoder.encode(poses)) + torch.tensor([0.3, -0.2, 1.0])
off = (one_way - other).abs().max()
print(f"{len(names)} joints, {autoencoder.encode(poses).shape[1]} latents; moving first or last: {off:.0e} m apart")
assert torch.allclose(one_way, other, atol=1e-4)


# %% tags=["export"]
def regularised_loss(points: Tensor, batch: Batch, supervision: Supervision, autoencoder: Autoencoder) -> dict:
    """(a) Output regularisation: the loss of separate heads + mean |p - AE(p)|, times 0.2 for examples with 2D labels.

    The gradient goes through the autoencoder too, whose weights don't change."""
    losses, off = supervision(points, batch), inconsistency(points, autoencoder)
    strong, weak = rows_mean(off, batch["valid"].any(1)), rows_mean(off, batch["seen"].any(1))
    return losses | {"loss": losses["loss"] + strong + WEAK * weak, "inconsistency": off.mean()}


def direct_loss(latents: Tensor, batch: Batch, supervision: Supervision, autoencoder: Autoencoder) -> dict:
    """(b) Direct latent prediction: the network has L points (B, L, 3), the loss sees what they decode to."""
    return supervision(autoencoder.decode(latents), batch)


# %% [markdown]
# ### Who teaches whom
#
# In (c) the teacher loss compares the student's latents $q$ with $\operatorname{enc}(p)$. As written this is symmetric:
# its gradient would as gladly bend the teacher toward a student that knows nothing. So the teacher's side is a number,
# not a variable:
#
# $$\mathcal L_\text{teacher} = \mathcal L_{3D}\bigl(q,\ \operatorname{sg}[\operatorname{enc}(p)]\bigr), \tag{12.8}$$
#
# where sg stops the gradient, and $\mathcal L_{3D}$ is (12.6) with latents for joints, all of them valid. It is turned
# on after 5,000 steps, "similarly" to the absolute loss (§S2), when the teacher is worth listening to.
#
# ### Exercise 12.4 — the teacher  ●○○ (8 min)
#
# <details><summary>Hint</summary>
#
# `pose_loss(latents, target, valid, K, crop, after)` is (12.6). The target is the encoder's answer with `.detach()`;
# valid (B, L) is true in the rows that count: `rows[:, None].expand(...)`.
# </details>

# %% tags=["export"]
@exercise("12.4")
def teacher_loss(
    latents: Tensor, points: Tensor, autoencoder: Autoencoder, K: Tensor, crop: Crop, after: Tensor, rows: Tensor
) -> Tensor:
    """The student's latents (B, L, 3) against the latents of the teacher's points (B, J, 3): `pose_loss`, every latent
    valid in the examples `rows` (B,). No gradient reaches the teacher. ACAE, variant (c). ()."""
    raise TODO


# %%
check(teacher_loss)


# %% tags=["export"]
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


# %% [markdown]
# What the head has to be, and what each variant makes of one batch, with an autoencoder that hasn't learnt anything:

# %%
batch, _ = batch_of(4, len(names))
average = name_average(names, ("lsho", "rkne"))
batch |= {"pixels": projected(torch.einsum("nj,bjc->bnc", average, batch["joints"]), batch["K"])}
supervision = Supervision(Crop(), average)
joints = poses[:4]
latents = autoencoder.encode(joints)
variants = {
    "separate heads": (555, supervision(joints, batch)),
    "(a)": (555, regularised_loss(joints, batch, supervision, autoencoder)),
    "(b)": (48, direct_loss(latents, batch, supervision, autoencoder)),
    "(c)": (48 + 555, hybrid_loss(torch.cat([latents, joints], 1), batch, supervision, autoencoder, latents.shape[1])),
}
for name, (points, losses) in variants.items():
    print(f"{name:16s} the paper's head: {points:3d} points, {points * 9:,} channels; loss here {losses['loss']:.3f}")


# %% [markdown]
# ### Why consistent is also better
#
# The regulariser never sees a label, and yet the paper's errors become smaller by it (MuPoTS 84.6 to 81.8 mm, Table
# S2). Here is why one may hope so. We disturb each joint of a pose by itself, as separate heads do. An autoencoder
# makes each joint from all of them, and what they don't share averages out. To see it at its best we take the one of
# all affine autoencoders with 22 latents that is best in the least-squares sense, without sparsity or chirality; it can
# be had in closed form (move the mean of the joints to zero, take the principal axes *over joints*).

# %%
class BestFit:
    """The affine autoencoder with `latents` latents that has the least mean square on poses (N, J, 3)."""

    def __init__(self, poses, latents):
        centred_poses = (poses - poses.mean(1, keepdim=True)).mT.flatten(0, 1)  # (3N, J)
        self.axes = torch.linalg.svd(centred_poses, full_matrices=False).Vh[: latents - 1]  # (L - 1, J)

    def __call__(self, points):
        """(B, J, 3) -> AE(p)."""
        middle = points.mean(1, keepdim=True)
        return middle + self.axes.mT @ (self.axes @ (points - middle))


fit = BestFit(sample_poses(pick(smoke=16, laptop=300), skeletons, seed=1).float(), 22)
noisy = poses + 0.03 * torch.randn(poses.shape, generator=torch.Generator().manual_seed(0))
answers = {"undisturbed": fit(poses), "separate": noisy, "AE(p)": fit(noisy)}
error = {name: 1000 * (points - poses).norm(dim=-1).mean().item() for name, points in answers.items()}
print({name: f"{value:.1f} mm" for name, value in error.items()}, f"of new people; √(22/68) = {(22 / 68) ** 0.5:.2f}")
assert error["undisturbed"] < 10 and error["AE(p)"] < 0.75 * error["separate"]

# %%
from course_lib.data.skeletons import FORMATS, columns

figure, axes = plt.subplots(1, 3, figsize=(7.4, 3.4), layout="constrained", sharex=True, sharey=True)
for ax, shown, title in zip(axes, (poses, noisy, fit(noisy)), ("truth", "each joint by itself", "AE(p)"), strict=True):
    for number, one in enumerate(skeletons):
        flat = shown[0, columns(skeletons, one), :2].detach()
        for a, b in FORMATS[one].edges:
            ax.plot(*flat[[a, b]].T, color=f"C{number}", lw=1.4, alpha=0.8)
    ax.set(title=title, aspect="equal")
    ax.axis("off")
axes[0].invert_yaxis()
plt.show()


# %% [markdown]
# *Three skeletons of one person: as they are, with 3 cm of noise a coordinate, and through the autoencoder.* A noise
# that has nothing to do with bodies is cut to the share of the latents in the joints, or its root. (What separate heads
# do wrong is not all of this kind: an error that they share stays.)
#
# ## 5 Normalisation, and kernels that grow
#
# ### Ghost BatchNorm
#
# **The question.** BatchNorm subtracts the batch's mean and divides by its deviation. What is "the batch" when its
# examples come from 32 data sets, some rendered, some from a studio, some from the street?
#
# **The idea** (Hoffer et al. 2017; §S5). Take statistics over smaller **ghost batches**, parts of the batch. The paper
# compares three: the whole batch; the 96 examples with 3D labels as one part and the 32 with 2D labels as another; and
# parts of 16. In each part $g$, for every channel,
#
# $$y = \gamma\,\frac{x - \mu_g}{\sqrt{\sigma_g^2 + \epsilon}} + \beta. \tag{12.9}$$
#
# What is stored for inference is updated by one part after the other, "based on parts of the batch, instead of the
# overall batch statistics": as if an ordinary BatchNorm was called on each.
#
# ### Exercise 12.5 — Ghost BatchNorm  ●●○ (10 min)
#
# <details><summary>Hint 1</summary>
#
# `self.sizes(len(x))` gives the sizes of the parts, and `x.split(sizes)` the parts. In inference mode there is one
# part.
# </details>
# <details><summary>Hint 2</summary>
#
# `batch_norm(part, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum,
# self.eps)` is BatchNorm, and updates what is stored when it trains.
# </details>

# %% tags=["export"]
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

    @exercise("12.5")
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Training: one part after the other, as if BatchNorm was called on each."""
        raise TODO


# %%
check(GhostBatchNorm2d.forward)

# %%
torch.manual_seed(0)
x = torch.randn(128, 8, 6, 6) + torch.arange(4).repeat_interleave(32)[:, None, None, None]
for group, sizes in ((16, [16] * 8), ((96, 32), [96, 32])):
    ghost, plain = GhostBatchNorm2d(8, group), nn.BatchNorm2d(8, eps=NORM_EPSILON)
    expected = torch.cat([plain(part) for part in x.split(sizes)])
    assert torch.allclose(ghost(x), expected, atol=1e-6)
    assert torch.allclose(ghost.running_var, plain.running_var) and torch.allclose(
        ghost.running_mean, plain.running_mean
    )
print("as BatchNorm2d on each part")

# %% [markdown]
# ### Why the end of training needs inference mode
#
# The variance of a batch is the mean of the parts' variances *plus the variance of the parts' means*. A ghost batch
# stores the first and never sees the second:
#
# $$\sigma^2 = \overline{\sigma_g^2} + \operatorname{var}(\mu_g). \tag{12.10}$$
#
# With examples in any order that is nearly the same. With the 2D-labelled examples in a part of their own it isn't: the
# more the kinds differ, the more is missing. And in training each example was normalised by *its* part, whereas
# inference has one mean for all. Here are two kinds of example whose channels differ by so many deviations:

# %%
shifts = torch.linspace(0, 4, 9)
stored = {"whole batch": [], "parts of 16, mixed": [], "96 and 32": []}
for shift in shifts:
    x = torch.randn(128, 1, 6, 6)
    x[96:] += shift
    mixed = x[torch.randperm(128)]
    for name, group, batch in (("whole batch", 128, x), ("parts of 16, mixed", 16, mixed), ("96 and 32", (96, 32), x)):
        layer = GhostBatchNorm2d(1, group)
        for _ in range(30):
            layer(batch)
        stored[name].append(layer.running_var.sqrt().item())
plots.curve(stored, x=shifts, xlabel="how far the 2D-labelled examples are off", ylabel="stored deviation")
parts = (
    torch.stack([part.mean() for part in x.split(32)]),
    torch.stack([part.var(correction=0) for part in x.split(32)]),
)
assert abs(parts[1].mean() + parts[0].var(correction=0) - x.var(correction=0)) < 1e-4
assert stored["96 and 32"][-1] < 1.1 and stored["whole batch"][-1] > 1.8

# %% [markdown]
# *What is stored for inference.* With parts by kind the deviation stays 1 however far the kinds are apart. The network
# was trained on features that inference never makes. So for the last 1,000 steps the paper trains on with all norms
# **in inference mode**: stored statistics for everybody, and the other weights get used to them. Table S4 has the price
# of leaving that out:

# %%
TABLE_S4 = {"Normal BN": (84.5, 84.2), "Ghost BN (3D/2D)": (83.6, 88.2), "Ghost BN 16": (84.6, 85.8)}
figure, ax = plt.subplots(figsize=(5.6, 2.6), layout="constrained")
for place, name in enumerate(("last 1,000 steps in inference mode", "without")):
    heights = [row[place] for row in TABLE_S4.values()]
    bars = ax.bar(torch.arange(3) + 0.38 * place - 0.19, heights, 0.36, label=name)
    ax.bar_label(bars, fontsize=9)
ax.set(xticks=range(3), xticklabels=list(TABLE_S4), ylim=(80, 92), ylabel="MPJPE, mm")
ax.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# *MPJPE on MuPoTS of the initial models, from Table S4; the axis begins at 80.* Where parts are by kind it matters most
# (4.6 mm), as (12.10) has it; for normal BN it is 0.3 mm in the other direction. "The Ghost BN options tend to perform
# better", writes the paper. That holds on MuPoTS after consistency fine-tuning; of the initial models above, parts of
# 16 are 0.1 mm *worse* there than normal BN, and better on 3DPW, 3DHP and Human3.6M.
#
# ### Kernels grow
#
# "With long trainings we noted that training in FP16 is unstable, as the activations tend to grow out of the
# representable range." The paper's explanation (§S5) breaks off in mid-sentence; here is the whole of it.
#
# A convolution whose output is normalised may be scaled by any $c > 0$, and nothing changes: $f(c\,\mathbf w) =
# f(\mathbf w)$. Differentiate by $c$ at $c = 1$:
#
# $$\mathbf w \cdot \nabla f(\mathbf w) = 0. \tag{12.11}$$
#
# **The gradient is orthogonal to the kernel.** And a step at a right angle only ever leads outward, by Pythagoras:
#
# $$\lVert\mathbf w - \eta\,\nabla f\rVert^2 = \lVert\mathbf w\rVert^2 + \eta^2\,\lVert\nabla f\rVert^2.
# \tag{12.12}$$
#
# Nothing ever makes the kernel shorter but weight decay. (van Laarhoven 2017; the effective learning rate falls, as
# $\eta / \lVert\mathbf w\rVert^2$.) Let us see. The small ε in (12.9) spoils exactness a little, so we make it tiny:

# %%
torch.manual_seed(0)
layer = ConvNormActivation(8, 16, 3, partial(nn.BatchNorm2d, eps=1e-12)).double()
images, target = torch.randn(32, 8, 6, 6).double(), torch.randn(32, 16, 6, 6).double()
kernel = layer[0].weight
(gradient,) = torch.autograd.grad((layer(images) - target).square().mean(), kernel)
cosine = torch.nn.functional.cosine_similarity(kernel.flatten(1), gradient.flatten(1))
with torch.no_grad():
    before = layer(images)
    kernel.mul_(37.0)
    change = (layer(images) - before).abs().max().item()
print(f"cosine of kernel and gradient: {cosine.abs().max():.0e}, filter by filter")
print(f"37 times the kernel changes the output by {change:.0e}")
assert cosine.abs().max() < 1e-9 and change < 1e-9

# %%
kernel.data /= 37.0
squared, predicted, rate = [kernel.square().sum().item()], [kernel.square().sum().item()], 10.0
for _ in range(pick(smoke=5, laptop=400)):
    images, target = torch.randn(32, 8, 6, 6).double(), torch.randn(32, 16, 6, 6).double()
    (gradient,) = torch.autograd.grad((layer(images) - target).square().mean(), kernel)
    kernel.data -= rate * gradient
    squared.append(kernel.square().sum().item())
    predicted.append(predicted[-1] + rate**2 * gradient.square().sum().item())
assert all(later > earlier for earlier, later in zip(squared[:-1], squared[1:], strict=True))
assert all(abs(a / b - 1) < 1e-6 for a, b in zip(squared, predicted, strict=True))
figure, ax = plt.subplots(figsize=(5.2, 2.6), layout="constrained")
ax.plot(squared, lw=4, alpha=0.4, label="measured")
ax.plot(predicted, "--", color="C3", label="equation 12.12")
ax.set(xlabel="step", ylabel="‖w‖²", ylim=(0, None))
ax.legend(frameon=False)
plt.show()


# %% [markdown]
# *Plain gradient descent on one kernel, a new batch at every step.* It grows at every step, exactly as Pythagoras
# wants, and here from noise alone: there is nothing to learn. (Adam doesn't step along the gradient, so for it (12.12)
# holds in tendency only.)
#
# ### What FP16 makes of it
#
# The output is the same, but *between* convolution and norm the numbers are as large as the kernel. In FP16 the largest
# number is 65,504, and what is beyond is infinite; infinite minus a mean is NaN. We cast what leaves the convolution,
# as mixed precision does, and let the kernel grow:

# %%
def half_output(scale):
    """Largest number between convolution and norm, share of infinities there in FP16, and of NaN after the norm."""
    with torch.no_grad():
        between = layer[0](images) * scale
        cast = between.half()
        after = layer[1](cast.double())
    return between.abs().max().item(), cast.isinf().double().mean().item(), after.isnan().double().mean().item()


scales = [10.0**power for power in range(7)]
rows = [half_output(scale) for scale in scales]
for scale, (largest, infinite, nan) in zip(scales, rows, strict=True):
    print(f"kernel × {scale:9,.0f}: largest {largest:12,.0f}, infinite {infinite:6.1%}, NaN after the norm {nan:4.0%}")
assert rows[0][1] == 0 and rows[-1][1] > 0.5 and rows[-1][2] == 1.0

# %% [markdown]
# One infinite number in a channel, and all of the channel is NaN behind the norm. (bf16 reaches as far as fp32, which
# is why we use it elsewhere; it pays with digits.)
#
# **The remedy** is a **max-norm constraint**: after each step a filter longer than a limit is cut back to it. By
# (12.11) the network computes the same as before. The paper's code has 20 for the limit. That a *filter* is what is
# measured, not a whole kernel, is our reading. Only convolutions with a norm behind them may be touched: for the rest,
# such as the head, length means something. And not in inference mode, whose stored statistics belong to the kernel as
# it was.

# %% tags=["export"]
NORMS: dict[str, Norm] = {  # Table S4's three
    "normal": partial(nn.BatchNorm2d, eps=NORM_EPSILON),
    "ghost-3d-2d": partial(GhostBatchNorm2d, group=(96, 32)),
    "ghost-16": partial(GhostBatchNorm2d, group=16),
}


def inference_norms(model: nn.Module) -> nn.Module:
    """Every BatchNorm of a model in inference mode: stored statistics, not updated; weight and bias go on learning.

    `model.train()` undoes it. ACAE §S5, the last 1,000 steps."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@torch.no_grad()
def max_norm_(model: nn.Module, limit: float = 20.0) -> nn.Module:
    """In place: every filter of a convolution that a norm follows, (C, kh, kw) numbers, is shortened to the length
    `limit` where it is longer. ACAE §S5; 20: the paper's code. To be called after each step."""
    for module in model.modules():
        if isinstance(module, ConvNormActivation):
            kernel = module[0].weight  # (C', C, kh, kw)
            kernel.mul_((limit / kernel.flatten(1).norm(dim=1).clamp(min=limit))[:, None, None, None])
    return model


# %%
torch.manual_seed(0)
small = EfficientNetV2(BACKBONES["small"], None, partial(nn.BatchNorm2d, eps=1e-12))
images = torch.rand(8, 3, 64, 64)
with torch.no_grad():
    kernels = [module[0].weight for module in small.modules() if isinstance(module, ConvNormActivation)]
    for kernel in kernels:
        kernel.mul_(1000.0)
    before = small(images)
    max_norm_(small, 20.0)
    off = (small(images) - before).abs().max().item()
longest = max(kernel.flatten(1).norm(dim=1).max().item() for kernel in kernels)
print(f"longest filter {longest:.2f}; the map changed by {off:.0e}")
assert longest < 20.001 and off < 1e-2

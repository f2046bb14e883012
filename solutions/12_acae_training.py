# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 12: ACAE, dozens of data sets
#
# There are dozens of data sets of people with 3D joints. Each has its own studio, its own people, its own cameras; none
# is large enough for the whole world. Why not take all of them? Because each also has its own idea of what a "hip" is.
# Chapter 11 built the bridge between these ideas, the affine-combining autoencoder. Here a network learns from
# twenty-eight data sets at once, with one head for each skeleton. It learns well, and its skeletons contradict each
# other; then the autoencoder teaches them to agree.
#
# The network is MeTRAbs. From one crop of a picture it gives joints in metres, in the camera's space, even those that
# the picture cuts off. You write out its backbone, its heads and its losses, the batches that are mixed from thirty-two
# queues, the learning rates, two kinds of batch norm. Then you train it twice: separate heads first, consistency after.
#
# **What you will build**: EfficientNetV2 with torchvision's names; soft-argmax, absolute poses by least squares;
# losses for 3D, for 2D, and for agreement; bitwise reproducible batches out of many data sets; Ghost BN; the field's
# four metrics; and a miniature of all 28 + 4 data sets, on which the paper's effect shows.
#
# | | |
# |---|---|
# | **You should know** | chapter 01 (cameras), 05 (what a run costs), 07 (keypoints), 11 (the autoencoder) |
# | **Reading** | 100 minutes |
# | **Exercises** | ten, about 100 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 12 min on two cores, and 4 more for rendering, once; 3 GB of memory |
# | **From the paper** | ACAE's section on consistency; its supplement, §S1–§S5; Figures S1–S4; Tables S1–S4 |
#
# **The authors' code** is their public version, which is later than the paper.
#
# **Letters.** B batch · J joints of all skeletons together · L latent points · N names of joints, in section 6 places
# of a round or examples of a data set · S side of a crop, or its pixels · K a camera's matrix · λ the weight of a loss,
# in section 7 AdamW's decay. Poses are (B, J, 3), metres, x right, y down, z away from the camera.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import time
from course_lib import plots
from course_lib.scale import pick, scale
from matplotlib.colors import ListedColormap
from torch.nn.functional import interpolate

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
import math
import numpy as np
import torch
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from course_lib.chapters import acae_skeletons
from course_lib.chapters.cameras import Camera
from course_lib.exercises import check, exercise
from course_lib.recipe import Batch, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved
from dataclasses import dataclass, replace
from einops import rearrange
from functools import partial
from itertools import count, islice
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn.functional import affine_grid, batch_norm, grid_sample, interpolate as resize, pad, silu
from typing import NamedTuple, Protocol

# %% [markdown]
# ## 1 EfficientNetV2, written out
#
# **The question.** The network's eyes are EfficientNetV2 (Tan and Le 2021), in the sizes -S and -L, with weights that
# were trained on ImageNet. What are they made of, and what are the weights called in a published file?
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
# The rest is a table: how many blocks of which kind, how wide, where the stride is. (Tan and Le's Table 4 has -S. For
# -L, and for widths as built, we take torchvision's.) `small` is ours, of the same blocks, for our `gpu` configuration
# (section 10): stride 16 in place of 32, and a fraction of the weights.


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
# For pose, two details are different.
#
# - We don't want classes but the last *map*: a picture of 256 pixels becomes 8 × 8 cells of 1,280 numbers. With
#   `classes=None` there is no classifier.
# - **Which pixel does a cell look at?** A 3 × 3 convolution with stride 2 and one row of padding all around has the
#   middle of its first output at the *first* input. After five of them cell $i$ looks at pixel $32\,i$, the corner of
#   its square of pixels. If the last one is padded below and on the right only, the cell looks at the middle instead
#   (*centered striding*, MeTRAbs). No weight changes.


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


# %% tags=["export"]
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
# Half a pixel beyond the middle, 16.5 of 32: we leave it so.

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
# First the numbers that belong together: the crop that the network sees, its stride, the box.


# %% tags=["export"]
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
# Write (12.1) for maps (J, H, W) and for volumes (J, D, H, W). Give the place in [0, 1], where 0 is the middle of the
# first cell and 1 that of the last; `Crop.pixels` makes pixels of it.
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
    # BEGIN SOLUTION
    sizes = logits.shape[2:]
    chance = logits.float().flatten(2).softmax(-1).unflatten(2, sizes)  # (B, J, [D,] H, W)
    means = []
    for axis in range(len(sizes), 0, -1):  # the last axis is x
        others = [other + 1 for other in range(1, len(sizes) + 1) if other != axis]
        place = torch.linspace(0, 1, sizes[axis - 1], device=logits.device)
        means.append((chance.sum(others) * place).sum(-1))  # (B, J)
    return torch.stack(means, -1)
    # END SOLUTION


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
# The weights $W$ say whom to trust: 1 for joints whose 2D answer lies well inside the picture, and $10^{-4}$ for the
# rest. $\varrho$ = 0.01 keeps the system from blowing up where all rays are the same.
#
# ### Exercise 12.2 — the reference point  ●●● (20 min)
#
# Build $A$ and $\mathbf b$ from (12.3), one pair of rows for each joint, and solve (12.4) for all examples of a batch
# at once.
#
# <details><summary>Hint 1</summary>
#
# Build both rows of each joint first, (B, J, 2, 3), and flatten afterwards. Then the right side is in the same order if
# it, too, begins as (B, J, 2).
# </details>
# <details><summary>Hint 2</summary>
#
# Every joint has two rows, so each weight is needed twice, in the order of the rows. `torch.linalg.solve` takes
# batches, but wants the right side as (B, 3, 1).
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
    # BEGIN SOLUTION
    x, y = ray.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = torch.stack([one, zero, -x, zero, one, -y], -1).unflatten(-1, (2, 3))  # (B, J, 2, 3)
    A = rows.flatten(1, 2)  # (B, 2J, 3)
    b = (ray * relative[..., 2:] - relative[..., :2]).flatten(1)[..., None]  # (B, 2J, 1)
    weighted = (A * weight.repeat_interleave(2, 1)[..., None]).mT  # (B, 3, 2J)
    normal = weighted @ A + ridge * torch.eye(3, dtype=A.dtype, device=A.device)
    return torch.linalg.solve(normal, weighted @ b)[..., 0]
    # END SOLUTION


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
# Here $\mathbf x_j = (x_j, y_j)$, and $\mathbf b_j$ are the two right sides of (12.3). For somebody flat before the
# camera (all $Z_j$ = 0) $\mathbf b_j$ is $-(X_j, Y_j)$: **depth is size in metres over size at depth 1.** This is how
# size becomes distance, and why the box has to be metric.

# %%
w = (weight / weight.sum(1, keepdim=True))[..., None]
pairs = b.unflatten(1, (17, 2))[..., 0]  # (5, 17, 2)
ray_off, pair_off = ray - (w * ray).sum(1, keepdim=True), pairs - (w * pairs).sum(1, keepdim=True)
closed = -(w * ray_off * pair_off).sum((1, 2)) / (w * ray_off.square()).sum((1, 2))
assert torch.allclose(closed, expected[:, 2], atol=1e-10)

# %% [markdown]
# The ridge $\varrho$ pulls $\mathbf r$ toward the camera, and by how much depends on the unit of the rays. The rays of
# a person 4 m away spread by a tenth or less (0.35 m / 4 m); so small a column is pulled a lot. The authors' code
# therefore divides the rays by their root mean square, so that 0.01 means the same at every distance. That works for a
# person in the *middle* of the crop's camera (theirs is turned toward the person). Far off the axis the root mean
# square is little else than the mean, and the spread, on which the depth depends, becomes small again. So we shift
# before we scale: rays minus their mean, over their spread. It is the view of a camera that looks at the person and has
# them fill its picture, and equation 12.3 has the same form there, with $X_j - \bar x Z_j$ and $s Z_j$ in the place of
# $X_j$ and $Z_j$. (The shift, and weights brought to a mean of 1, are our choice.)
#
# And in the first steps? A fresh network has both heads point at the middle of everything: size over size is 0/0, and
# the solution may well lie behind the camera, where nothing can be learnt from pixels. The authors' code begins with
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
# at the edge of a wide picture. (The authors' code turns its cameras toward the person, and section 10 turns its
# cameras, too; there only the augmentation's shift is left.)
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
# The person from above, whose legs the picture cuts off. Suppose both heads were as good as they can be: the 3D head
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
# *Left: what the 2D head can say at best. Right: the joints of the joined pose, projected.* The legs are placed outside
# of the picture, where they belong. (A real 3D head has to guess them from the rest of the body; that it *may* is the
# point.)
#
# How exact is the depth? A pixel of error in the picture is a part of the person's size there, so by (12.5) depth is
# off by the same part of itself. We disturb the 2D answers by noise of one pixel, in a crop in which 1.7 m are 200
# pixels, at distances from 2 to 20 m:


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
crops_in_a_batch = pick(smoke=2, laptop=32)
threads = torch.get_num_threads()
torch.set_num_threads(1)
network = MetrabsNet(BACKBONES["small"], 200, crop)
crops = torch.rand(crops_in_a_batch, 3, 96, 96)
for _ in range(pick(smoke=1, laptop=3)):
    began = time.process_time()
    network(crops, scaled.expand(crops_in_a_batch, 3, 3)).absolute.square().mean().backward()
    seconds = time.process_time() - began
torch.set_num_threads(threads)
print(f"{crops_in_a_batch} crops: {1000 * seconds:.0f} ms")

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
#   is before the camera and in the crop (the authors' code).
# - $\mathcal L_\text{abs}$: as they are. Turned on after 5,000 steps, in fine-tuning as well.
#
# A mean runs over the three coordinates too, with equal weights. (The authors' code does so for $\mathcal
# L_\text{abs}$; for the other two it is our reading.)
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
CLOSEST = 0.3  # metres: labels nearer to the camera's plane than that aren't projected (the authors' code)
FIELD_ENLARGED = 20  # strides: labels farther outside don't count (the authors' code)


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
# In JTA, SAIL-VOS or ASPset the distance to a person "can be very large" (§S2). A person who is taken for 5 % taller
# than they are is placed 5 % too far away: 25 cm at 5 m, 2.5 m at 50 m. One picture can't tell better, and yet a
# batch's mean would be made up mostly of such errors. So the paper scales the depth's part down "to a maximum effective
# distance of 10 m": times $\min(1, 10\,\mathrm m / z)$ with the label's z. Errors of the same *share* of the distance
# then count the same from 10 m on.


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
# One pose, wrong in four ways, each by 5 to 10 cm: moved sideways, moved along its ray, turned about the
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
# Begin with a table of truths: is this joint called so, without its skeleton? Then think of what its rows have to sum
# to, and of the row that can't.
# </details>


# %% tags=["export"]
@exercise("12.3")
def name_average(names: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Joints such as lsho_h36m, and names such as lsho -> (N, J): row n averages all joints called wanted[n].

    ValueError for a name that no joint has. ACAE §S2."""
    # BEGIN SOLUTION
    rows = torch.tensor([[float(name.split("_")[0] == want) for name in names] for want in wanted])  # (N, J)
    if missing := [want for want, row in zip(wanted, rows, strict=True) if not row.any()]:
        raise ValueError(f"no skeleton has a joint called {', '.join(missing)}: leave those labels out")
    return rows / rows.sum(1, keepdim=True)
    # END SOLUTION


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
# What the losses make of batches that do occur: nobody labelled, no example with 2D labels, a joint that no example
# has, somebody behind the camera, NaN where nothing is valid.


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
# **A word first.** "Separate heads" are channels of one and the same 1 × 1 convolution: each skeleton has its own.
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
# Write (12.8): the student's latents are held to what the encoder makes of the teacher's points, and no gradient may
# reach the teacher.
#
# <details><summary>Hint</summary>
#
# `pose_loss` is (12.6). Which of its first two arguments is the label, and who takes that part here? In a row that
# counts all latents are valid, in the others none.
# </details>


# %% tags=["export"]
@exercise("12.4")
def teacher_loss(
    latents: Tensor, points: Tensor, autoencoder: Autoencoder, K: Tensor, crop: Crop, after: Tensor, rows: Tensor
) -> Tensor:
    """The student's latents (B, L, 3) against the latents of the teacher's points (B, J, 3): `pose_loss`, every latent
    valid in the examples `rows` (B,). No gradient reaches the teacher. ACAE, variant (c). ()."""
    # BEGIN SOLUTION
    target = autoencoder.encode(points).detach()  # (B, L, 3)
    valid = rows[:, None].expand(latents.shape[:2])
    return pose_loss(latents, target, valid, K, crop, after)
    # END SOLUTION


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
# S2). Here is why that is plausible. We disturb each joint of a pose by itself, as separate heads do. An autoencoder
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
# *Three skeletons of one person: as they are, with 3 cm of noise a coordinate, and through the autoencoder.* The
# variance of a noise that has nothing to do with bodies is cut to 22/68, its deviation to the root of that. (What
# separate heads do wrong is not all of this kind: an error that they share stays.)
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
# Write the forward pass: in training each part of the batch is normalised by itself, in inference the whole batch by
# what is stored.
#
# <details><summary>Hint 1</summary>
#
# `self.sizes(len(x))` gives the sizes of the parts, and `x.split(sizes)` the parts. In inference mode there is one
# part.
# </details>
# <details><summary>Hint 2</summary>
#
# PyTorch's function `batch_norm` is handed what is stored, and updates it when it trains. Once for each part, and the
# answers in the old order.
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
        # BEGIN SOLUTION
        sizes = self.sizes(len(x)) if self.training else [len(x)]
        stored = self.running_mean, self.running_var
        parts = [
            batch_norm(part, *stored, self.weight, self.bias, self.training, self.momentum, self.eps)
            for part in x.split(sizes)
        ]
        return torch.cat(parts)
        # END SOLUTION


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
# $$\sigma^2 = \overline{\sigma_g^2} + \operatorname{var}(\mu_g) \tag{12.10}$$
#
# (mean and variance over the parts weighted by the parts' sizes).
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
for sizes in ([32, 32, 32, 32], [96, 32]):
    means = torch.stack([part.mean() for part in x.split(sizes)])
    variances = torch.stack([part.var(correction=0) for part in x.split(sizes)])
    share = torch.tensor(sizes) / len(x)  # each part's weight
    between = (share * (means - (share * means).sum()).square()).sum()
    assert abs((share * variances).sum() + between - x.var(correction=0)) < 1e-4
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
# "With long trainings we noted that training in 16-bit floating point (FP16) precision is unstable, as the activations
# tend to grow out of the representable range." One sentence of the explanation (§S5) breaks off; here is what is
# missing.
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
def half_output(factor):
    """Largest number between convolution and norm, share of infinities there in FP16, and of NaN after the norm."""
    with torch.no_grad():
        between = layer[0](images) * factor
        cast = between.half()
        after = layer[1](cast.double())
    return between.abs().max().item(), cast.isinf().double().mean().item(), after.isnan().double().mean().item()


scales = [10.0**power for power in range(7)]
rows = [half_output(factor) for factor in scales]
for factor, (largest, infinite, nan) in zip(scales, rows, strict=True):
    print(f"kernel × {factor:9,.0f}: largest {largest:12,.0f}, infinite {infinite:6.1%}, NaN after the norm {nan:4.0%}")
assert rows[0][1] == 0 and rows[-1][1] > 0.5 and rows[-1][2] == 1.0

# %% [markdown]
# One infinite number in a channel, and all of the channel is NaN behind the norm. (bf16 reaches as far as fp32, which
# is why we use it elsewhere; it pays with digits.)
#
# **The remedy** is a **max-norm constraint**: after each step a filter longer than a limit is cut back to it. By
# $f(c\,\mathbf w) = f(\mathbf w)$ the network computes the same as before. The authors' code has 20 for the limit. That
# a *filter* is what is measured, not a whole kernel, is our reading. Only convolutions with a norm behind them may be
# touched: for the rest, such as the head, length means something. And not in inference mode, whose stored statistics
# belong to the kernel as it was.

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
    `limit` where it is longer. ACAE §S5; 20: the authors' code. To be called after each step."""
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

# %% [markdown]
# ## 6 Thirty-two queues, one batch
#
# **The question.** Twenty-eight data sets with 3D labels, four with 2D ones, some large, some small. Which examples go
# into a batch? Shuffle everything together, and the small sets, often the ones with the rarest poses, drown. Give each
# set the same share, and the small ones are seen until the network knows them by heart.
#
# **The idea** (§S2, Table S1). The number of examples *per batch* is fixed for each data set: larger sets get
# more, "but not linearly". A batch is always 96 examples with 3D labels and 32 with 2D ones. Here is the whole table:

# %% tags=["export"]
KINDS = {
    "markerless": """MuCo-3DHP 32 9 6 | CMU-Panoptic - 9 7 | AIST-Dance++ - 9 6 | HUMBI - 7 5 | MPI-INF-3DHP - 5 3
        | RICH - 7 4 | BEHAVE - - 3 | ASPset - - 4 | 3DOH50K - - 3 | IKEA ASM - - 2""",
    "marker-based": """Human3.6M 32 9 4 | TotalCapture - 5 3 | BML-MoVi - - 5 | Berkeley-MHAD - - 3 | UMPM - - 2
        | Fit3D - - 2 | GPA - - 4 | HumanSC3D - - 1 | CHI3D - - 1 | Human4D - - 1 | MADS - - 2""",
    "synthetic": """SURREAL 32 8 5 | 3DPeople - 6 4 | JTA - 5 3 | HSPACE - 5 3 | SAIL-VOS - 7 5 | AGORA - 5 3
        | SPEC - - 2""",
    "2D": "COCO 8 8 8 | MPII 8 8 8 | PoseTrack 8 8 8 | JRDB 8 8 8",
}  # Table S1: data set and its examples per batch in Small, Medium and Full


# %% tags=["export"]
def read_batches(size: int) -> dict[str, int]:
    """Examples per batch by data set, of the Small (0), Medium (1) or Full (2) combination. Table S1."""
    rows = [row.strip().rsplit(maxsplit=3) for kind in KINDS.values() for row in kind.split("|")]
    return {name: int(numbers[size]) for name, *numbers in rows if numbers[size] != "-"}


BATCHES = {name: read_batches(size) for size, name in enumerate(("small", "medium", "full"))}

# %%
KIND = {row.strip().rsplit(maxsplit=3)[0]: kind for kind, rows in KINDS.items() for row in rows.split("|")}
for name, counts in BATCHES.items():
    weak = sum(number for data_set, number in counts.items() if KIND[data_set] == "2D")
    strong = sum(counts.values()) - weak
    print(f"{name:7s} {len(counts):2d} data sets, {strong} examples with 3D labels, {weak} with 2D")
    assert (strong, weak) == (96, 32)
assert len(BATCHES["full"]) == 28 + 4

# %%
COLOURS = {"markerless": "#3d6b99", "marker-based": "#d1495b", "synthetic": "#edae49", "2D": "#8d8d8d"}
figure, axes = plt.subplots(1, 3, figsize=(11, 6.2), sharex=True, layout="constrained")
for ax, (name, counts) in zip(axes, BATCHES.items(), strict=True):
    rows = [(data_set, counts.get(data_set, 0)) for data_set in reversed(BATCHES["full"])]
    ax.barh(*zip(*rows, strict=True), color=[COLOURS[KIND[data_set]] for data_set, _ in rows])
    ax.set(title=name, xlabel="examples in a batch of 128")
    ax.tick_params(axis="y", length=0, labelsize=8, labelleft=name == "small")
for kind, colour in COLOURS.items():
    axes[1].barh(0, 0, color=colour, label=kind)
axes[1].legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# *Table S1, drawn.* Small is one data set of each kind, a third of the 3D examples each. The 2D part never changes: the
# three combinations differ in nothing but the 3D data sets.
#
# ### How often is an example seen?
#
# The supplement prints no sizes of the data sets, so its rule can't be checked, but for one: "200k composited images
# for MuCo-3DHP" (§S3). A data set of $N$ examples that gives $n$ to each batch is through after $N / n$ batches:

# %%
STEPS, MUCO = 400_000, 200_000
for name, counts in BATCHES.items():
    print(f"{name:7s} MuCo-3DHP: {counts['MuCo-3DHP']:2d} a batch, {counts['MuCo-3DHP'] * STEPS / MUCO:.0f} epochs")
assert [counts["MuCo-3DHP"] * STEPS / MUCO for counts in BATCHES.values()] == [64, 18, 12]

# %% [markdown]
# So at equal steps, "Full" also means that each example is seen more than five times less often than in "Small": more
# variety, and less learning by heart, at once. For data sets of our own we need a rule. **Our choice**: shares by the
# *square root* of the size, each at least one example, rounded so that the sum comes out (the largest remainders get
# the leftover places, as in an election).


# %% tags=["export"]
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


def shares(counts: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """For each data set its share of the batch and its share of all data, 0 to 1."""
    drawn, there = sum(counts.values()), sum(sizes[name] for name in counts)
    return {name: (number / drawn, sizes[name] / there) for name, number in counts.items()}


# %%
SIZES = {"huge": 25_600, "large": 6_400, "middling": 1_600, "small": 400, "tiny": 100}
print(f"{'':10s}{'examples':>9s}" + "".join(f"{f'power {power}':>24s}" for power in (1, 0.5, 0)))
by_power = {power: batch_counts(SIZES, 32, power) for power in (1, 0.5, 0)}
for name, size in SIZES.items():
    found = [shares(counts, SIZES)[name] for counts in by_power.values()]
    pairs = zip(by_power.values(), found, strict=True)
    print(f"{name:10s}{size:9d}", *(f"{counts[name]:9d} in 32, ×{a / b:6.2f}" for counts, (a, b) in pairs))
assert all(sum(counts.values()) == 32 for counts in by_power.values())

# %%
_, ax = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
for (power, counts), marker in zip(by_power.items(), "os^", strict=True):
    drawn, there = zip(*shares(counts, SIZES).values(), strict=True)
    ax.plot(there, drawn, marker=marker, label=f"power {power}")
ax.axline((0.1, 0.1), slope=1, color="k", lw=0.8, ls=":")
ax.set(xscale="log", yscale="log", xlabel="share of the data", ylabel="share of the batch")
ticks = [0.003, 0.01, 0.03, 0.1, 0.3, 1]
for axis in (ax.xaxis, ax.yaxis):
    axis.set_ticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axis.set_ticks([], minor=True)
ax.set(xlim=(0.002, 1), ylim=(0.02, 1))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# *What a data set has of the batch, over what it has of the data. On the dotted line everything would be seen equally
# often; above it a set is oversampled.* (In the table above, × is the share of the batch over the share of the data:
# how many times as often an example of this set is seen as if all were shuffled together. Even at power 1 the smallest
# set is oversampled: it can't have less than one example in a batch.)
#
# ### Queues
#
# "We set up one queue per dataset that iterates over epochs of that dataset, then we interleave the streams and chunk
# it into batches (as opposed to independently sampling each batch)" (§S2). In pictures:
#
# ```
# queue A   a7 a2 a9 a1 … | a4 a9 a2 …      one epoch, shuffled | the next, shuffled anew
# queue B   b3 b1 b2 | b2 b3 b1 | …         a small set: many epochs
# stream    a7 b3 a2 a9 a1 b1 a5 …          interleaved, here three of A and one of B in turn
# batches   [a7 b3 a2 a9] [a1 b1 a5 …       chunked
# ```
#
# **Interleaving evenly.** In a round of $N = \sum_d n_d$ places, data set $d$ takes $n_d$. Evenly means: after any $m$
# places it has had $m\,n_d / N$ of them, up to one example,
#
# $$\Bigl|\,\text{taken}_d(m) - \frac{m\, n_d}{N}\,\Bigr| < 1 \quad \text{for all } m \text{ and } d.$$
#
# Why care, if a batch is a whole round anyway? Because a batch is shared out: to processes, to parts of accumulation.
# A contiguous piece of an even stream is a small copy of the whole.
#
# Such an order always exists, and a simple rule finds it. Number the examples of a set 0, 1, …: the $k$-th one may
# come from place $k N / n_d$ on, and is *due* before place $(k + 1) N / n_d$. At each place look at those that may
# come, and take the one that is due first. Someone may always come: were all sets ahead of their shares at place $m$,
# they would have taken more than $m$ examples together. And nobody comes too late: that is what Tijdeman (1980) proved
# of such rules, for states that take turns in the chair of their union. (The authors' code goes round-robin; the rule
# is our choice.)
#
# ### Exercise 12.6 — interleave the queues  ●●○ (12 min)
#
# Write the order of one round: at each place, of the data sets that may come, the one that is due first.
#
# <details><summary>Hint 1</summary>
#
# Keep `taken`, a dictionary of how many examples each data set has had. At place `m`, data set `d` may come if
# `taken[d] * N <= m * n[d]`: in whole numbers there is nothing to round.
# </details>
# <details><summary>Hint 2</summary>
#
# `min(ready, key=...)` takes the first of several equals. Due is `(taken[d] + 1) / n[d]` (times N, which changes no
# order).
# </details>


# %% tags=["export"]
@exercise("12.6")
def interleave(counts: Mapping[str, int]) -> list[str]:
    """The order in which one round of a batch takes from the queues: names, each as often as `counts` says.

    After m of the N places each data set has had less than one example more or fewer than m * count / N. Of those that
    may come, the one that is due first; of equals, the first in `counts`. ACAE §S2; the rule is our choice."""
    # BEGIN SOLUTION
    total, taken, order = sum(counts.values()), dict.fromkeys(counts, 0), []
    for place in range(total):
        ready = [name for name in counts if taken[name] * total <= place * counts[name]]
        chosen = min(ready, key=lambda name: (taken[name] + 1) / counts[name])
        taken[chosen] += 1
        order.append(chosen)
    return order
    # END SOLUTION


# %%
check(interleave)

# %%
print(" ".join(interleave({"A": 5, "b": 1, "c": 1, "d": 1, "e": 1})))
rows = {}
for name, counts in BATCHES.items():
    order, total = interleave(counts), sum(counts.values())
    taken = np.cumsum([[one == data_set for data_set in counts] for one in order], 0)  # (128, data sets)
    due = np.arange(1, total + 1)[:, None] / total * list(counts.values())
    rows[name] = np.abs(taken - due).max()
    weak = np.array([KIND[one] == "2D" for one in order]).reshape(8, 16).sum(1)
    print(f"{name:7s} at most {rows[name]:.2f} examples off; with 2D labels in the pieces of 16: {weak}")
assert max(rows.values()) < 1

# %%
NUMBERS = {name: number for number, name in enumerate(BATCHES["full"])}
blocks = [name for name, number in BATCHES["full"].items() for _ in range(number)]
_, ax = plt.subplots(figsize=(11, 1.5), layout="constrained")
kinds = list(COLOURS)
picture = [[kinds.index(KIND[name]) for name in order] for order in (blocks, interleave(BATCHES["full"]))]
ax.imshow(picture, cmap=ListedColormap(COLOURS.values()), aspect="auto")
ax.set(yticks=[0, 1], yticklabels=["one set after the other", "interleaved"], xlabel="place in the batch")
ax.spines[:].set_visible(False)

# %% [markdown]
# *One batch of "Full", coloured by kind as above.* Cut either row into four pieces for four GPUs: above, one of them
# would get nothing but 2D labels.
#
# ### A stream that needs no memory
#
# "We precisely control the random seeds, which guarantees that bitwise equal batches are fed to each training run,
# improving comparability" (§S2). One can carry 32 queues along and store their state with every checkpoint. It is
# simpler to have **no state at all**. Example number $p$ of the whole stream is in round $\lfloor p / N \rfloor$ at
# place $p \bmod N$; that gives the data set, and how many examples of it came before; *that* number, divided by the
# size of the set, gives the epoch and the place in it; and the epoch's order is a permutation that depends on the seed,
# the set and the epoch alone. So any example of any batch can be computed directly. To resume is to begin at the right
# number; workers and processes may make whichever batch they like.


# %% tags=["export"]
def epoch_order(name: str, size: int, seed: int, epoch: int) -> np.ndarray:
    """0 … size - 1 in the order of one epoch of one data set; the same whatever other sets there are."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()), epoch)).permutation(size)


def example_generator(name: str, seed: int, epoch: int, index: int) -> torch.Generator:
    """The random numbers of one example's augmentation in one epoch."""
    sequence = np.random.SeedSequence((seed, zlib.crc32(name.encode()), epoch, index, 1))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def stacked(examples: list[Batch]) -> Batch:
    """Examples -> a batch."""
    return {key: torch.stack([one[key] for one in examples]) for key in examples[0]}


# %% [markdown]
# Bad queues are told so when they are built, not after three days:

# %% tags=["export"]
Transform = Callable[[Batch, torch.Generator], Batch] | None
Datasets, Counts = Mapping[str, Batch], Mapping[str, int]


def check_rounds(batch_size: int, turn: int, world: int) -> None:
    """ValueError where a batch isn't made of whole rounds of `turn`, or can't be shared out evenly."""
    if batch_size % turn or batch_size < turn:
        raise ValueError(f"a batch of {batch_size} is not made of whole rounds of {turn}: use a multiple of {turn}")
    if batch_size % world:
        raise ValueError(f"a batch of {batch_size} can't be shared out evenly to {world} processes")


# %% tags=["export"]
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


# %% tags=["export"]
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


# %% [markdown]
# Ghost BN by kind wants the examples with 3D labels together, those with 2D labels behind them. That is for the loss
# to do, after the batch was shared out. Parts of 16 are then of one kind: six of 3D, two of 2D. (The paper doesn't say
# how it orders them.)


# %% tags=["export"]
def labelled_first(batch: Batch, weak: Tensor) -> Batch:
    """The batch with the examples of weak data sets, weak (data sets,) bool, last; otherwise in the order it had."""
    order = weak.to(batch["dataset"].device)[batch["dataset"]].int().argsort(stable=True)
    return {key: values[order] for key, values in batch.items()}


# %% [markdown]
# To try it: five data sets of the sizes above, whose examples are only their own numbers, and a noise as augmentation.


# %%
def noisy(one, generator):
    """An example with a random number for the network to get wrong."""
    return {**one, "noise": torch.rand(1, 3, generator=generator)}


def numbered(sizes):
    """Data sets whose examples are their own indices."""
    return {name: {"index": torch.arange(size)} for name, size in sizes.items()}


stream = QueueStream(numbered(SIZES), batch_counts(SIZES, 32), seed=1, transform=noisy)
batch = next(stream.batches(0, 32))
print({key: tuple(values.shape) for key, values in batch.items()})
print("data sets in turn:", *batch["dataset"].tolist())
counted = torch.bincount(batch["dataset"]).tolist()
assert dict(zip(SIZES, counted, strict=True)) == stream.counts

# %% [markdown]
# **The promise, put to the test.** The same batches, to the last bit: for the same seed; in one process, in two, in
# four; made here or by worker processes; and from the middle of an epoch. We compare hashes of the
# bytes; four workers are in the course's tests. (`WorkerStream` hands batch numbers to worker processes; as the stream
# has no state, that is all it does.)

# %%
import hashlib

from course_lib.data.streams import WorkerStream


def fingerprint(parts):
    """A hash of all bytes of some batches of several processes, put together."""
    sha = hashlib.sha256()
    for shared in zip(*parts, strict=True):
        for key in sorted(shared[0]):
            sha.update(torch.cat([part[key] for part in shared]).numpy().tobytes())
    return sha.hexdigest()[:16]


def read(stream, start=0, world=1, number=6):
    """`number` batches from `start` on, as `world` processes would read them."""
    return [list(islice(stream.batches(start, 64, rank, world), number)) for rank in range(world)]


# %%
prints = {f"{world} processes": fingerprint(read(stream, world=world)) for world in (1, 2, 4)}
prints["the same seed again"] = fingerprint(read(QueueStream(stream.datasets, stream.counts, 1, noisy)))
prints["stopped after 2, resumed"] = fingerprint([read(stream, number=2)[0] + read(stream, start=2, number=4)[0]])
for workers in pick(smoke=(), laptop=(1, 2)):  # each starts a Python of its own; the tests try four, too
    prints[f"{workers} workers"] = fingerprint(read(WorkerStream(stream, workers)))
another = fingerprint(read(QueueStream(stream.datasets, stream.counts, 2, noisy)))
print(*(f"{name:26s} {value}" for name, value in prints.items()), f"{'another seed':26s} {another}", sep="\n")
assert len(set(prints.values())) == 1 and another not in prints.values()

# %% [markdown]
# ### Queues against independent draws
#
# The paper's bracket, "as opposed to independently sampling each batch", deserves a measurement. Draw $m$ times with
# replacement from $N$ examples: an example is missed with probability $(1 - 1/N)^m$, and after one epoch's worth of
# draws, $m = N$, that is $1/e$: 37 % have never been seen, while some were seen four times. A queue has seen each of
# them once.

# %%
middling, size = "middling", SIZES["middling"]
rounds = 5 * size // (2 * stream.counts[middling])  # two and a half epochs of this set
places = range(rounds * len(stream.order))
found = (stream.find(place) for place, name in zip(places, stream.order * rounds, strict=True) if name == middling)
queued = np.bincount([index for _, _, index in found], minlength=size)
drawn = np.bincount(np.random.default_rng(0).integers(size, size=queued.sum()), minlength=size)
print(f"after {queued.sum() / size:.2f} epochs: a queue has shown each {queued.min()} to {queued.max()} times,")
print(f"independent draws {drawn.min()} to {drawn.max()} times; never: {100 * (drawn == 0).mean():.1f} %")
assert queued.max() - queued.min() <= 1
assert abs((drawn == 0).mean() - math.exp(-queued.sum() / size)) < 0.02

# %%
bins = np.arange(0, drawn.max() + 2)
_, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
for ax_times, label, shift in ((queued, "queue", -0.2), (drawn, "independent", 0.2)):
    axes[0].bar(bins[:-1] + shift, np.bincount(ax_times, minlength=len(bins))[: len(bins) - 1], 0.4, label=label)
axes[0].set(xlabel="times seen", ylabel="examples", xticks=bins[:-1])
axes[0].legend(frameon=False)
composition = np.random.default_rng(1).binomial(128, 6 / 128, 2000)
axes[1].hist(composition, np.arange(16) - 0.5, color="C1", rwidth=0.8, density=True)
axes[1].axvline(6, color="C0", lw=3)
axes[1].set(xlabel="examples of MuCo-3DHP in a batch", ylabel="share of the batches", xticks=range(0, 16, 3))
assert composition.min() <= 1 and composition.max() >= 12
print(f"independently chosen places: {composition.mean():.1f} ± {composition.std():.1f} examples of MuCo-3DHP a batch")

# %% [markdown]
# *Left: how often an example has been seen after two and a half epochs. Right: if each of the 128 places chose its
# data set at random with Table S1's shares, a batch would hold anything from one to a dozen examples of MuCo-3DHP
# (orange); with queues it holds 6, always (blue).* Fewer accidents in what a step sees means less noise between runs
# that shall be compared.

# %% [markdown]
# ## 7 The learning rate
#
# **The question.** Three parts of training, three schedules (Fig. S1). The initial training: "The learning rate starts
# at $2.12e-4$ and exponentially decays by a factor of 3 over 92 % of training, then drops by a factor of 10 and then
# further decays exponentially by a factor of 3 until the end". The fine-tuning, with two rates at once: the head is
# restarted warm, at the full rate, "in order to ensure that the regularization loss can take effect, without disrupting
# the already mostly converged weights of the backbone". Its drop comes "at 50 %". The backbone repeats "the last,
# decaying segment of the initial schedule". What is that in numbers?
#
# **The idea.** One formula does all three, with the place $\delta$ of the drop as its only parameter. With $s$ the
# share of the steps that lies behind, and $b$ the rate at the start,
#
# $$\eta(s) = \begin{cases} b \cdot 3^{-s/\delta} & s < \delta \\[2pt]
# \dfrac{b}{10} \cdot 3^{-1 - (s - \delta)/(1 - \delta)} & s \ge \delta \end{cases}
# \qquad \delta = 0.92 \text{ (initial)},\; 0.5 \text{ (head)},\; 0 \text{ (backbone)}.$$
#
# With $\delta = 0$ nothing but the last segment is left: from $b/30$ to $b/90$.
#
# ### Exercise 12.7 — the schedule  ●○○ (8 min)
#
# Write $\eta(s)$ as a function of the step. One formula serves all three parts: only $\delta$ differs.
#
# <details><summary>Hint 1</summary>
#
# `share = step / steps` first; then one `if`. The first case never divides by $\delta = 0$: no share is below it.
# </details>
# <details><summary>Hint 2</summary>
#
# Just before the drop the rate is $b/3$, just after it $b/30$, at the end $b/90$: drop *and* decay, counted from
# where the first segment ended.
# </details>

# %% tags=["export"]
PEAK = 2.12e-4  # the paper's; its code has 2.121e-4
DROP_AT = {"initial": 0.92, "head": 0.5, "backbone": 0.0}  # the share of the steps after which the rate drops


# %% tags=["export"]
@exercise("12.7")
def learning_rate(step: int, steps: int, part: str = "initial", peak: float = PEAK) -> float:
    """The rate at a step, 0 to `steps`, of the initial training, or of fine-tuning's "head" or "backbone". Fig. S1.

    Decays by 3 until the drop, drops by 10, decays by 3 until the end. The backbone begins after the drop. ValueError
    for another part."""
    if part not in DROP_AT:
        raise ValueError(f"part {part!r} is unknown: use {', '.join(DROP_AT)}")
    drop_at = DROP_AT[part]
    # BEGIN SOLUTION
    share = step / steps
    if share < drop_at:
        return peak * 3 ** -(share / drop_at)
    late = (share - drop_at) / (1 - drop_at)
    return peak / 10 * 3 ** -(1 + late)
    # END SOLUTION


# %%
check(learning_rate)

# %%
FINE_TUNING = 40_000
initial = np.linspace(0, STEPS, 801)[:-1]
later = np.linspace(0, FINE_TUNING, 401)
_, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.plot(initial / 1000, [learning_rate(step, STEPS) for step in initial], color="k", label="initial, all weights")
for part, colour in (("head", "C3"), ("backbone", "C0")):
    rates = [learning_rate(step, FINE_TUNING, part) for step in later]
    ax.plot((STEPS + later) / 1000, rates, color=colour, label=f"fine-tuning, {part}")
ax.axvspan(400, 440, color="k", alpha=0.05)
ax.set(yscale="log", xlabel="thousand steps", ylabel="learning rate", xlim=(0, 445))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# *Figure S1, from the formula. Grey: the 40,000 steps of fine-tuning; the head starts at full rate, 30 times the
# backbone's.* Chapter 05 built a scheduler of this family, `Exponential`; ours is held to it:

# %%
from course_lib.recipe import Exponential

for part, theirs in {"initial": Exponential(drop_at=0.92), "head": Exponential(drop_at=0.5)}.items():
    ours = [learning_rate(step, STEPS, part) / PEAK for step in initial]
    assert np.allclose(ours, [theirs(step, STEPS) for step in initial])
end_to_start = learning_rate(STEPS, STEPS) / learning_rate(0, FINE_TUNING, "backbone")
print(f"b to {learning_rate(STEPS, STEPS) / PEAK:.4f} b; then the backbone begins at {1 / end_to_start:.0f} times that")
assert math.isclose(learning_rate(STEPS, STEPS), PEAK / 90) and math.isclose(end_to_start, 1 / 3)

# %% [markdown]
# The backbone's fine-tuning is a small restart, too: the initial run ends at $b/90$, and "repeating the last segment"
# begins again at $b/30$.
#
# **What the authors' code has**: a base rate of $2.121 \cdot 10^{-4}$ and decays of 0.3 where the text says a factor of
# 3, with the value after the drop fixed at $b/30$. How much is that?

# %%
CODE = {"start": 2.121e-4, "before the drop": 2.121e-4 * 0.3, "after it": 2.121e-4 / 30, "end": 2.121e-4 / 30 * 0.3}
TEXT = {"start": PEAK, "before the drop": PEAK / 3, "after it": PEAK / 30, "end": PEAK / 90}
for where, rate in TEXT.items():
    print(f"{where:16s} text {rate:.3e}, code {CODE[where]:.3e}: {100 * (CODE[where] / rate - 1):+.1f} %")
assert max(abs(CODE[where] / rate - 1) for where, rate in TEXT.items()) < 0.11

# %% [markdown]
# Ten percent at two places, nothing that a run would notice; we keep to the text.
#
# **Two rates in one run.** The course's `Optimizer` takes a schedule for each part of the network whose names begin
# with a prefix; everything else follows the recipe's own. For that the schedule is needed as a factor on the peak:


# %% tags=["export"]
@dataclass(frozen=True)
class PartSchedule:
    """`learning_rate` of a part as a factor on the peak: a schedule for `course_lib.recipe`. Fig. S1."""

    part: str

    def __call__(self, step: int, steps: int) -> float:
        return learning_rate(step, steps, self.part, peak=1.0)


INITIAL, FINE_TUNE_HEAD, FINE_TUNE_BACKBONE = (PartSchedule(part) for part in DROP_AT)

# %%
toy = torch.nn.ModuleDict({"backbone": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 2)})
two_rates = Optimizer(lr=PEAK, schedules=(("backbone.", FINE_TUNE_BACKBONE),))
fine_tuning = Recipe("toy", lambda: toy, None, None, FINE_TUNING, 128, two_rates, FINE_TUNE_HEAD)
for step in (0, 19_999, 20_000, 39_999):
    rates = {group["names"][0].partition(".")[0]: fine_tuning.lr(step, group)
             for group in fine_tuning.optimizer.build(toy).param_groups}  # fmt: skip
    print(f"step {step:6d}:", ", ".join(f"{part} {rate:.2e}" for part, rate in rates.items()))

# %% [markdown]
# ### Decoupled weight decay
#
# The paper says nothing of weight decay; its code has AdamW's decoupled form, $w \leftarrow w - \eta\,\lambda\,w$
# beside Adam's step, with $\lambda = 3 \cdot 10^{-3} / (\sqrt{T}\, b)$ and $T = 400{,}000$ steps (also in
# fine-tuning). Why such a formula? With $\eta = b \cdot f(s)$ the rate $b$ cancels: a step takes the share $3 \cdot
# 10^{-3} f / \sqrt T$ of each weight, whatever $b$ is. Decay and learning rate can be tuned one at a time, which is
# what "decoupled" promises. Over the run, a weight that no gradient holds would shrink to $e^{-3 \cdot 10^{-3} \sqrt T
# \,\bar f}$:


# %% tags=["export"]
def weight_decay(steps: int = 400_000, peak: float = PEAK) -> float:
    """AdamW's factor: 3e-3 / sqrt(steps) / peak (the authors' code). In fine-tuning `steps` stays the initial one's."""
    return 3e-3 / math.sqrt(steps) / peak


# %%
factor = weight_decay()
logarithm = sum(math.log1p(-learning_rate(step, STEPS) * factor) for step in range(0, STEPS, 100)) * 100
mean_factor = np.mean([INITIAL(step, STEPS) for step in range(0, STEPS, 100)])
print(f"weight decay {factor:.4f}; a step takes {PEAK * factor:.2e} of a weight at first")
print(f"mean of the schedule {mean_factor:.3f}; after the run exp({logarithm:.3f}) = {math.exp(logarithm):.3f} is left")
assert math.isclose(logarithm, -3e-3 * math.sqrt(STEPS) * mean_factor, rel_tol=1e-3)

# %% [markdown]
# ## 8 What enters the pool
#
# **The question.** With dozens of data sets come dozens of kinds of mistakes: a wrist that the annotation software
# lost, a thousand frames of somebody who stands still, a studio's green wall behind every example, a camera that
# nobody calibrated. What is done before an example may join a queue? (§S3; thresholds and probabilities are from the
# authors' code where it has them, else our choices.)
#
# Some of it is plain work, which the paper lists and we don't repeat: boxes by YOLOv4 and masks by DeepLabv3 where a
# set has none; all cameras of 3DHP, the HD ones of CMU-Panoptic; 200,000 composited pictures for MuCo-3DHP.
#
# Sections 10 and 11 use none of it: what is built here is tried out here.
#
# For this section we need people who move. The course's own motions (chapter 02's body, its first 22 joints):

# %%
from course_lib.data.poses import Skeleton
from course_lib.data.sequences import sample_sequence

BODY_BONES = [(Skeleton.of().parents[joint], joint) for joint in range(1, 22)]
JUDGED = [bone for bone in BODY_BONES if bone[1] not in (13, 14)]  # without the collars


def motion(kind, frames, seed):
    """The joints (T, 22, 3) of somebody with a figure of their own, metres in the world, 25 frames a second."""
    rng = np.random.default_rng(seed)
    skeleton = Skeleton.of(tuple((0.9 * rng.normal(size=10)).clip(-1.9, 1.9)))  # as the course's people
    poses, moves = sample_sequence(rng, kind, frames, skeleton)
    joints = [skeleton.forward(pose, move)[0][:22] for pose, move in zip(poses, moves, strict=True)]
    return torch.tensor(np.stack(joints))


# %% [markdown]
# ### Bones that can't be
#
# "Examples with implausible bone lengths are removed to avoid training on erroneous annotations." What is implausible
# isn't said. **Our choice**: people differ in size, but not by half. The median length of each bone over its data set
# is typical, and a bone longer than 1.4 times or shorter than 1/1.4 of it throws the example out. A bone with a
# missing end (NaN) has no say, nor has one that is missing everywhere.


# %% tags=["export"]
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


# %% [markdown]
# To see it work: people in random poses, and four kinds of errors put into every tenth example. (Two of our 21 bones
# are left out: from the upper spine to the collars, joints inside the shoulder girdle that no two skeletons put in the
# same place. They vary more than limbs do.)

# %%
PEOPLE = pick(smoke=60, laptop=400)
clean = torch.stack([motion("poses", 1, seed)[0] for seed in range(PEOPLE)])
spoilt, wrong = clean.clone(), torch.arange(PEOPLE) % 10 == 0
kinds = np.array(["wrist lost", "all scaled", "legs swapped", "frame shifted"])[np.arange(PEOPLE) // 10 % 4]
shift = torch.randn(PEOPLE, 3, generator=torch.Generator().manual_seed(0)) * 0.25
for i in wrong.nonzero().flatten().tolist():
    if kinds[i] == "wrist lost":
        spoilt[i, 20] += shift[i]
    elif kinds[i] == "all scaled":
        spoilt[i] *= 1.6  # a file in other units, or a stick of the wrong length before the cameras
    elif kinds[i] == "legs swapped":
        spoilt[i, [1, 4, 7, 10]], spoilt[i, [2, 5, 8, 11]] = clean[i, [2, 5, 8, 11]], clean[i, [1, 4, 7, 10]]
    else:
        spoilt[i] += shift[i]
kept = plausible(spoilt, JUDGED)
for kind in dict.fromkeys(kinds):
    of_kind = wrong & torch.from_numpy(kinds == kind)
    print(f"{kind:14s} {int((~kept & of_kind).sum())} of {int(of_kind.sum())} found")
print(f"right ones that were thrown out: {int((~kept & ~wrong).sum())} of {int((~wrong).sum())}")
assert kept[wrong & torch.from_numpy(np.isin(kinds, ["legs swapped", "frame shifted"]))].all()
assert not kept[wrong & torch.from_numpy(kinds == "all scaled")].any() and kept[~wrong].float().mean() > 0.95

# %% [markdown]
# It finds what it can see: a lost wrist if it is lost far enough, a wrong scale always. Swapped sides and a person in
# the wrong place have perfect bones. A filter on bone lengths is no proof-reader.

# %%
first, second = torch.tensor(JUDGED).T
lengths = (spoilt[:, first] - spoilt[:, second]).norm(dim=-1)
ratio = (lengths / lengths.nanmedian(0).values).log2().numpy()
worst = ratio[np.arange(PEOPLE), np.abs(ratio).argmax(1)]
_, ax = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
bins = np.linspace(-1.6, 1.6, 49)
seen = wrong.numpy() & np.isin(kinds, ["wrist lost", "all scaled"])
ax.hist([worst[~wrong.numpy()], worst[seen]], bins, stacked=True, label=["right", "wrist lost, or scaled"])
for limit in (-math.log2(1.4), math.log2(1.4)):
    ax.axvline(limit, color="k", ls=":")
ticks = [0.5, 0.7, 1, 1.4, 2]
ax.set(xlabel="the bone that is furthest from typical, as a multiple", ylabel="examples")
ax.set_xticks(np.log2(ticks), ticks)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# *Each example's most unusual bone. Dotted: the limits.*
#
# ### Frames that say nothing new
#
# Videos have 25 to 60 frames a second, and neighbours are nearly the same example. The authors' code keeps a frame only
# if *some* joint has moved by at least 100 mm since the last frame that was *kept*.
#
# ### Exercise 12.8 — thinning  ●○○ (8 min)
#
# Write the rule: go through the frames, and say which ones are kept.
#
# <details><summary>Hint</summary>
#
# One loop over the frames. Compare with `points[kept[-1]]`, not with the frame before: somebody who moves slowly has
# to come through, too. The first frame is always kept (of no frames, none).
# </details>


# %% tags=["export"]
@exercise("12.8")
def thin(points: Tensor, reach: float = 0.1) -> list[int]:
    """The frames of a motion (T, J, 3), metres, that are worth keeping: numbers, ascending, the first always (of no
    frames, none).

    A frame is kept where some joint is `reach` or more from where it was in the last frame that was kept. Joints that
    are missing (NaN) have no say. The authors' code: 100 mm."""
    # BEGIN SOLUTION
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        moved = (points[frame] - points[kept[-1]]).norm(dim=-1)  # (J,)
        if (moved >= reach).any():
            kept.append(frame)
    return kept
    # END SOLUTION


# %%
check(thin)

# %%
FRAMES = pick(smoke=40, laptop=250)
MOTIONS = ("walking", "wandering", "waving", "turning", "sitting_down")
rows = {}
for kind in MOTIONS:
    joints = motion(kind, FRAMES, seed=4)
    rows[kind] = thin(joints)
    print(f"{kind:14s} {len(rows[kind]):4d} of {FRAMES} frames kept")
still = joints[:1].repeat(FRAMES, 1, 1)
assert thin(still) == [0] and all(1 <= len(kept) < FRAMES for kept in rows.values())

# %%
_, ax = plt.subplots(figsize=(8, 2.2), layout="constrained")
for row, kept in enumerate(reversed(rows.values())):
    ax.plot(np.array(kept) / 25, np.full(len(kept), row), "|", ms=12, color=f"C{row}")
ax.set(yticks=range(len(rows)), yticklabels=list(rows)[::-1], xlabel="seconds", ylim=(-0.6, len(rows) - 0.4))
ax.tick_params(axis="y", length=0)

# %% [markdown]
# *The frames that stay.* A person who walks gives many frames, one who sits down slowly a few, one who stands still a
# single one. With thinning it is poses that count, and not time: without it a queue's epoch would be mostly pauses.
#
# ### Things in front, things behind
#
# Studios are empty and green; the world is neither. Two augmentations of the *pictures* (the labels stay what they are,
# and that is the point): something is pasted **in front**, so that the network learns to guess hidden joints, and where
# the data set has a person mask, the **background** is exchanged. The authors' code occludes half of the examples with
# 3D labels, 70 % of those with 2D labels, and swaps 70 % of the backgrounds. Sizes and places are our choice. (It also
# turns, scales, shifts and mirrors: section 10.)

# %% tags=["export"]
OCCLUDED, OCCLUDED_2D, SWAPPED = 0.5, 0.7, 0.7  # The authors' code: chances of an occluder, and of another background


def on_background(image: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """The person of a picture (3, H, W) with mask alpha (H, W) before another background (3, H, W)."""
    return alpha * image + (1 - alpha) * background


def paste(image: Tensor, cutout: Tensor, left: int, top: int) -> Tensor:
    """A picture (3, H, W) with a cutout (4, h, w), colours and alpha, over it; what lies outside is cut off."""
    (height, width), (h, w) = image.shape[1:], cutout.shape[1:]
    layer = pad(cutout, (left, width - left - w, top, height - top - h))  # (4, H, W); what is negative is cut
    return layer[3] * layer[:3] + (1 - layer[3]) * image


# %% tags=["export"]
def occluded(image: Tensor, cutouts: Tensor, generator: torch.Generator) -> Tensor:
    """A picture (3, H, W) with one of the cutouts (M, 4, h, w) somewhere on it, a quarter to half as large."""
    height, width = image.shape[1:]
    number = int(torch.randint(len(cutouts), (), generator=generator))
    size, x, y = torch.rand(3, generator=generator).tolist()
    side = max(1, round((0.25 + 0.25 * size) * height))
    cutout = resize(cutouts[number : number + 1], size=(side, side), mode="bilinear", antialias=True)[0]
    return paste(image, cutout, round(x * width - side / 2), round(y * height - side / 2))


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


# %% [markdown]
# What is pasted, the supplement doesn't say; we render furniture (chapter 03's rasteriser on the objects that our
# scenes are full of).

# %%
from course_lib.chapters.rendering import interpolate as interpolated
from course_lib.chapters.rendering import rasterize, shade
from course_lib.data.objects import sample_object
from course_lib.data.worlds import render_samples

PICTURE_SIDE = pick(smoke=32, laptop=160)


def drawn_object(seed, side):
    """A thing seen from somewhere above, as colours and alpha (4, side, side)."""
    rng = np.random.default_rng(seed)
    thing = sample_object(rng)
    angle, high = rng.uniform(0, 2 * np.pi), thing.height() / 2
    reach = 2.2 * max(thing.radius(), high)
    eye = (reach * np.sin(angle), high + 0.5 * reach, reach * np.cos(angle))
    camera = Camera.look_at(eye, (0, high, 0), focal=1.1 * side, size=(side, side))
    seen = rasterize(thing.vertices[None], thing.faces, camera, (side, side))
    colour, normals = (interpolated(seen, thing.faces, part)[0] for part in (thing.colours, thing.normals))
    colour = shade(colour, normals, torch.tensor([0.4, 0.8, 0.45]))  # (side, side, 3)
    return torch.cat([colour.movedim(-1, 0), (seen.face >= 0).float()])


# %%
cutouts = torch.stack([drawn_object(seed, PICTURE_SIDE) for seed in range(pick(smoke=2, laptop=8))])


def pictures(world, number, formats=("coco17",)):
    """Some scenes of a world."""
    size = (PICTURE_SIDE, PICTURE_SIDE)
    return [next(render_samples(world, "train", 0, i, size, formats=formats)) for i in range(number)]


indoors = torch.stack([torch.tensor(one.image) for one in pictures("general-nopeople", pick(smoke=2, laptop=6))])
studio = pictures("studio", pick(smoke=2, laptop=6))
print("pictures:", studio[0].image.shape, "cutouts:", tuple(cutouts.shape))

# %%
rows = [[torch.tensor(one.image) for one in studio]]
for seed in (0, 1):
    rows.append([])
    generator = torch.Generator().manual_seed(seed)
    for one in studio:
        image, alpha = torch.tensor(one.image), torch.tensor(one.alpha)
        rows[-1].append(augmented_picture(image, alpha, cutouts, indoors, False, generator))
sheet = torch.cat([torch.cat(row, 2) for row in rows], 1)
plots.show_images([sheet], height=4.6)

# %% [markdown]
# *Above: people in a studio. Below: two draws of the augmentation for each. The labels are the same in all three.* The
# outlines keep a rim of the old background: where the mask is half person, the picture's colour is half wall already
# (chapter 09's soft foregrounds). A network that looked for rims could tell swapped backgrounds from real ones.

# %% [markdown]
# ### A camera that nobody calibrated
#
# "We further calibrated all cameras of BML-MoVi that did not have calibration provided in the dataset [...] (based on
# pose predictions from an earlier version of our model)." A person is a calibration pattern that moves through the
# room: motion capture says where the joints are in the *world*, an earlier pose network says where they are in the new
# camera's *picture*, and roughly in its space. How it was done isn't said. **Our choice**, in three steps:
#
# 1. **Rotation.** Subtract each skeleton's mean from itself; what is left differs by a rotation: Procrustes (chapter
#    01) over all joints of all frames, again and again, each frame weighted by how well it fits (a frame that is off by
#    $r$ counts $1 / (1 + (r / \text{median})^2)$). The network's depth, its weakest number, has no say.
# 2. **Translation.** With a guess for the focal length, each joint gives two equations that are linear in $t$: least
#    squares, equation 12.3 unweighted.
# 3. **Everything**, focal length included: the reprojection error in pixels, under a loss that grows like $|r|$ instead
#    of $r^2$ for large ones, by scipy. Outliers pull, but not harder for being further away.


# %% tags=["export"]
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


# %% tags=["export"]
def camera_translation(points: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """t (3,) for which points (M, 3) + t lie on the rays (M, 2), x / z and y / z: least squares, linear in t."""
    (X, Y, Z), (u, v) = points.T, rays.T
    one, zero = np.ones_like(u), np.zeros_like(u)
    left = np.concatenate([np.stack([one, zero, -u], 1), np.stack([zero, one, -v], 1)])  # (2M, 3)
    return np.linalg.lstsq(left, np.concatenate([u * Z - X, v * Z - Y]), rcond=None)[0]


def reprojection(unknowns: np.ndarray, points: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rotation vector (3), t (3), log focal length -> how far points (M, 3) fall from offsets (M, 2), in pixels."""
    x = Rotation.from_rotvec(unknowns[:3]).apply(points) + unknowns[3:6]
    return (np.exp(unknowns[6]) * x[:, :2] / np.maximum(x[:, 2:], 0.1) - offsets).ravel()


# %% tags=["export"]
def check_sightings(world: Tensor, predicted: Tensor, pixels: Tensor) -> None:
    """ValueError where these can't be the same joints in the world, in a camera's space and in its pictures."""
    shapes = [tuple(part.shape) for part in (world, predicted, pixels)]
    if len(world) == 0 or shapes[0] != shapes[1] or shapes[2] != (*shapes[0][:2], 2):
        raise ValueError(f"world, predicted, pixels must be (N, J, 3), (N, J, 3), (N, J, 2) with N >= 1, not {shapes}")
    if not all(part.isfinite().all() for part in (world, predicted, pixels)):
        raise ValueError("some joints are NaN or infinite: leave out the frames in which one is missing")


# %% tags=["export"]
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


# %% [markdown]
# A trial where the truth is known: people wander about a room; the "earlier model" errs by 4 pixels a joint, 3 more for
# the whole skeleton, 30 mm in space and 6 % in size, and in one frame of ten it fails: sides swapped, or somebody
# else's pose 80 pixels off.


# %%
def imagined_predictions(camera, world, size, rng):
    """What a pose network might say: joints in the camera's space (N, J, 3) and in pixels (N, J, 2)."""
    world = np.asarray(world)
    spots = camera.project(torch.tensor(world.reshape(1, -1, 3)))[0].numpy().reshape(*world.shape[:2], 2)
    seen = camera.to_camera(torch.tensor(world.reshape(1, -1, 3)))[0].numpy().reshape(world.shape)
    middle, people_seen = seen.mean(1, keepdims=True), len(world)
    seen = middle + (seen - middle) * rng.normal(1, 0.06, (people_seen, 1, 1)) + rng.normal(0, 0.03, seen.shape)
    spots = spots + rng.normal(0, 4, spots.shape) + rng.normal(0, 3, (people_seen, 1, 2))
    sides = [1, 4, 7, 10, 13, 16, 18, 20], [2, 5, 8, 11, 14, 17, 19, 21]
    swapped, confused = rng.random((2, people_seen)) < 0.05
    for values in (seen, spots):
        values[np.ix_(swapped, sum(sides, []))] = values[np.ix_(swapped, sides[1] + sides[0])]
    seen[confused] = seen[rng.permutation(people_seen)[: confused.sum()]]
    spots[confused] += rng.normal(0, 80, (confused.sum(), 1, 2))
    return torch.tensor(seen), torch.tensor(spots)


# %%
rng, PICTURE = np.random.default_rng(0), (720, 1280)
walks = [motion("wandering", 100, seed)[::5] for seed in range(pick(smoke=4, laptop=24))]
walks = [walk + torch.tensor(rng.uniform(-1.5, 1.5, 3) * (1, 0, 1)) for walk in walks]
world = torch.cat(walks)  # (N, 22, 3)
camera = Camera.look_at((2.6, 1.5, 3.4), (0, 0.9, 0), focal=1100.0, size=PICTURE).to(torch.float64)


def camera_errors(found):
    """How far a camera is off: degrees, millimetres, and the focal length in percent."""
    turn = Rotation.from_matrix((found.R @ camera.R.mT)[0].numpy()).magnitude()
    away = (found.center - camera.center).norm().item()
    return math.degrees(turn), 1000 * away, 100 * abs(found.K[0, 0, 0] / camera.K[0, 0, 0] - 1).item()


# %%
AMOUNTS = pick(smoke=(1, 10, 40), laptop=(1, 3, 10, 30, 100, 300))
errors = {(robust, amount): [] for robust in (True, False) for amount in AMOUNTS}
for trial in range(pick(smoke=2, laptop=9)):
    for amount in AMOUNTS:
        rng = np.random.default_rng((trial, amount))
        poses = world[rng.permutation(len(world))[:amount]]
        said = imagined_predictions(camera, poses, PICTURE, rng)
        for robust in (True, False):
            found = calibrate_camera(poses, *said, PICTURE, robust)
            errors[robust, amount].append(camera_errors(found))
medians = {key: np.median(values, 0) for key, values in errors.items()}
for (robust, amount), row in medians.items():
    said = "degrees {:6.2f}, millimetres {:6.1f}, focal length {:4.1f} %".format(*row)
    print(f"{'robust' if robust else 'plain':7s} {amount:4d} frames: {said}")
assert (medians[True, AMOUNTS[-1]] < medians[True, 1]).all()
assert scale() == "smoke" or (medians[True, 300][0] < 0.3 and medians[True, 300][1] < 30)

# %%
_, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
ticks = (0.03, 0.1, 0.3, 1, 3), (10, 30, 100, 300, 1000)
for column, (ax, label) in enumerate(zip(axes, ("rotation off by, degrees", "position off by, mm"), strict=True)):
    for robust, name in ((True, "robust"), (False, "plain least squares")):
        ax.plot(AMOUNTS, [medians[robust, amount][column] for amount in AMOUNTS], "o-", label=name)
    ax.set(xscale="log", yscale="log", xlabel="frames", ylabel=label)
    for axis, places in ((ax.xaxis, AMOUNTS), (ax.yaxis, ticks[column])):
        axis.set_ticks(places, [f"{place:g}" for place in places])
        axis.set_ticks([], minor=True)
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# *The recovered camera's error (median of nine trials, each with other frames and other mistakes).* One frame can't do
# it: its whole skeleton is misplaced at once. Many frames average that out, if the fit is robust; the plain one is held
# back by the frames that are wrong, however many there are.

# %% [markdown]
# ## 9 How it is measured
#
# **The question.** "81.8 mm on MuPoTS-3D": of which joints, relative to what, averaged over whom? Two papers can print
# different numbers for the same predictions. Here are this paper's rules (§S4; details from the authors' evaluation
# code), all of them in `course_lib.metrics`:
#
# | | what it is | |
# |---|---|---|
# | **MPJPE** | mean distance of the joints, both skeletons moved to their pelvis | mm, lower is better |
# | **PMPJPE** | the same after the best similarity of each pose: Procrustes with scale, without mirroring | mm, lower |
# | **PCK100** | share of the joints nearer than 100 mm, pelvis on pelvis | %, higher |
# | **CPS200** | share of the *poses* whose **worst** joint is nearer than 200 mm, pelvis on pelvis | %, higher |
# | **AUC** | mean of max(0, 1 − error / t), here t = 150 mm: the area under PCK up to t | higher |
#
# (Chapters 13 and 14 call PMPJPE *PA-MPJPE*, as most papers do.) All joints of a benchmark count: 24 in 3DPW, 17 in
# 3DHP and MuPoTS-3D. "Pelvis", not "mean": the *training* loss subtracts the mean over the joints, the evaluation the
# root. (CPS is also used with Procrustes and 150 mm elsewhere: another number under the same name.)
#
# ### Exercise 12.9 — the correct pose score  ●○○ (8 min)
#
# Write CPS: for each pose, whether its worst joint is near enough.
#
# <details><summary>Hint 1</summary>
#
# Move both skeletons to their root first: `points - points[:, root : root + 1]`. Then distances (B, J).
# </details>
# <details><summary>Hint 2</summary>
#
# A pose is right if *all* its joints are, that is, if the largest distance is below the threshold. One number per pose,
# as a float: the mean over the poses comes later.
# </details>


# %% tags=["export"]
@exercise("12.9")
def correct_pose_score(prediction: Tensor, target: Tensor, root: int, threshold: float = 0.2) -> Tensor:
    """1.0 where the worst joint of a pose, relative to the root joint, is nearer than the threshold, 0.0 elsewhere.

    prediction, target (B, J, 3) metres -> (B,) float. CPS200 is threshold 0.2. ACAE §S4."""
    # BEGIN SOLUTION
    difference = (prediction - prediction[:, root : root + 1]) - (target - target[:, root : root + 1])
    worst = difference.norm(dim=-1).amax(-1)  # (B,)
    return (worst < threshold).float()
    # END SOLUTION


# %%
check(correct_pose_score)

# %% [markdown]
# Why another score? Two predictions of one person: in the first every joint is a little wrong, in the second one arm is
# quite wrong. A viewer forgives the first. What do the metrics say?

# %%
from course_lib import metrics

person = motion("wandering", 60, seed=9)[None, 45]  # (1, 22, 3)
rng = np.random.default_rng(3)
nudges = torch.tensor(rng.normal(size=(1, 22, 3)))
nudges[:, 0] = 0  # the pelvis
nudges /= nudges.norm(dim=-1).mean()
elsewhere = torch.zeros(1, 22, 3)
elsewhere[:, [18, 20]] = torch.tensor([0.1, 0.05, 0.45])  # elbow and wrist
trembling, one_arm = person + 0.0423 * nudges, person + elsewhere
for name, pose in (("all a little wrong", trembling), ("one arm wrong", one_arm)):
    error, share = metrics.mpjpe(pose, person, root=0).item(), metrics.pck(pose, person, 0.1, root=0).item()
    score = correct_pose_score(pose, person, root=0).item()
    print(f"{name:20s} MPJPE {error:.1f} mm, PCK100 {100 * share:.0f} %, CPS200 {100 * score:.0f} %")
assert abs(metrics.mpjpe(trembling, person, root=0) - metrics.mpjpe(one_arm, person, root=0)) < 1

# %%
_, axes = plt.subplots(1, 2, figsize=(6, 3.4), sharey=True, layout="constrained")
for ax, pose, title in zip(
    axes, (trembling, one_arm), ("all a little wrong: counts", "one arm wrong: doesn't"), strict=True
):
    for points, colour, width in ((person[0], "0.7", 5), (pose[0], "C3", 2)):
        for a, b in BODY_BONES:
            ax.plot(points[[a, b], 0], points[[a, b], 1], color=colour, lw=width, solid_capstyle="round")
    ax.set(title=title, aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

# %% [markdown]
# *Grey: the truth; red: the two predictions, seen from the front. The same MPJPE; CPS200 sees the difference.*
#
# ### Held to other people's code
#
# An evaluation that is wrong by a centimetre decides between papers. Ours against loops and scipy, written apart:


# %%
def plain_errors(prediction, target, root):
    """MPJPE and PMPJPE of one pose, in millimetres: NumPy, loops, and scipy's rotation."""
    p, t = prediction - prediction[root], target - target[root]
    absolute = np.mean([math.dist(a, b) for a, b in zip(p, t, strict=True)])
    x, y = prediction - prediction.mean(0), target - target.mean(0)
    turned = Rotation.align_vectors(y, x)[0].apply(x)
    fitted = turned * (turned * y).sum() / np.square(turned).sum()
    return 1000 * absolute, 1000 * np.linalg.norm(fitted - y, axis=1).mean()


truth = clean[: pick(smoke=20, laptop=200)]
guess = truth + 0.06 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
theirs = np.array([plain_errors(p, t, 0) for p, t in zip(guess.numpy(), truth.numpy(), strict=True)])
ours = torch.stack([metrics.mpjpe(guess, truth, root=0), metrics.pa_mpjpe(guess, truth)], 1).numpy()
print(f"largest difference of MPJPE and PMPJPE over {len(truth)} poses: {np.abs(ours - theirs).max(0)} mm")
assert np.abs(ours - theirs).max() < 1e-6
assert torch.equal(metrics.cps(guess, truth, root=0).float(), correct_pose_score(guess, truth, 0))

# %% [markdown]
# A trap: `scipy.spatial.procrustes` answers a similar question, but it may *mirror*. A skeleton with left and right
# swapped by a mirror is perfect there:

# %%
from scipy.spatial import procrustes as mirroring_procrustes

mirrored = person[0] * torch.tensor([-1.0, 1, 1])
disparity = mirroring_procrustes(person[0].numpy(), mirrored.numpy())[2]
print(f"scipy: {disparity:.1e}; PMPJPE: {metrics.pa_mpjpe(mirrored[None], person).item():.0f} mm")
assert disparity < 1e-12 and metrics.pa_mpjpe(mirrored[None], person).item() > 20

# %% [markdown]
# ### Two protocols of MuPoTS-3D
#
# MuPoTS-3D is twenty videos with several people each. §S4 has two ways to average, and both are called MPJPE:
#
# - **main evaluations**: poses as predicted, in metres; the mean over **all matched poses**;
# - **Table 4**, to compare with others: each predicted bone is brought to its true length first, and the mean is taken
#   **within each sequence, then over the sequences**. (Skeletons are "normalized", too, to one size: not done here.)
#
# ### Exercise 12.10 — two means  ●○○ (6 min)
#
# Write both averages: over all poses at once, and within each sequence first.
#
# <details><summary>Hint</summary>
#
# `dict.fromkeys(sequences)` lists each name once. The poses of a sequence don't have to stand together.
# </details>


# %% tags=["export"]
@exercise("12.10")
def pooled(errors: Tensor, sequences: Sequence[str]) -> tuple[float, float]:
    """The mean over all poses, and the mean over sequences of each sequence's mean: errors (N,), a name for each.

    ACAE §S4: the first in its main evaluations, the second in its Table 4."""
    # BEGIN SOLUTION
    own = [errors[[one == name for one in sequences]].mean() for name in dict.fromkeys(sequences)]
    return errors.mean().item(), torch.stack(own).mean().item()
    # END SOLUTION


# %%
check(pooled)

# %% [markdown]
# To see how far apart they are, a set like MuPoTS: sequences of unequal length and difficulty, two or three people, a
# network that errs by some centimetres and misjudges people's size, a detector that misses some. 17 joints, in the
# benchmark's order, the pelvis being number 14.

# %%
MUPOTS = ("htop", "neck", "rsho", "relb", "rwri", "lsho", "lelb", "lwri", "rhip", "rkne", "rank", "lhip", "lkne",
          "lank", "pelv", "spin", "head")  # fmt: skip
PARENTS = (1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1)
OURS = [15, 12, 17, 19, 21, 16, 18, 20, 2, 5, 8, 1, 4, 7, 0, 6, 15]  # among the body's joints
MISSED = 0.054


def as_mupots(joints):
    """(T, 22, 3) -> (T, 17, 3); the top of the head as far over the head joint as that is over the neck."""
    points = joints[:, OURS].clone()
    points[:, 0] += joints[:, 15] - joints[:, 12]
    return points


# %%
def sequence(number, rng):
    """People (P, T, 17, 3) before a camera, in its space; the predicted; who was found (P, T)."""
    frames, people = int(rng.integers(4, pick(smoke=8, laptop=60))), int(rng.integers(2, 4))
    error, upside_down = rng.uniform(0.02, 0.09), torch.tensor([1.0, -1, -1])
    true, seen = [], []
    for person in range(people):
        joints = as_mupots(motion("wandering", frames, seed=100 * number + person)) * upside_down
        joints = joints + torch.tensor([1.4 * person - 1.4, 1.0, rng.uniform(4, 6)])
        root = joints[:, 14:15]
        size = 1 + 0.06 * rng.normal()
        true.append(joints)
        seen.append(root + size * (joints - root) + torch.tensor(rng.normal(0, error / 1.6, joints.shape)))
    found = torch.tensor(rng.random((people, frames)) >= MISSED * people / 2.5)
    return torch.stack(true), torch.stack(seen), found


SHOT = Camera(torch.tensor([[[1500.0, 0, 1024], [0, 1500, 1024], [0, 0, 1]]]), torch.eye(3)[None], torch.zeros(1, 3))
SHOT = SHOT.to(torch.float64)

# %%
pairs, names, annotated = [], [], 0
rng = np.random.default_rng(5)
for number in range(pick(smoke=4, laptop=20)):
    true_, seen, found = sequence(number, rng)
    annotated += true_[..., 0, 0].numel()
    for frame in range(true_.shape[1]):
        target, prediction = true_[:, frame], seen[found[:, frame], frame]  # (G, 17, 3), (P, 17, 3)
        flat = [SHOT.project(points.reshape(1, -1, 3))[0].reshape(-1, 17, 2) for points in (prediction, target)]
        for one, other in metrics.match_poses(flat[0][:, 1:14], flat[1][:, 1:14]):
            pairs.append((prediction[other], target[one]))
            names.append(f"TS{number + 1}")
prediction, target = (torch.stack(part) for part in zip(*pairs, strict=True))  # (N, 17, 3)
recall = len(pairs) / annotated
print(f"{annotated} annotated poses in {len(set(names))} sequences, {len(pairs)} matched: recall {100 * recall:.1f} %")

# %%
as_predicted = metrics.mpjpe(prediction, target, root=14)
rescaled = metrics.mpjpe(metrics.rescale_bones(prediction, target, PARENTS), target, root=14)
print(f"{'MPJPE, mm':28s}{'over all poses':>18s}{'over sequences':>18s}")
for name, errors_ in {"as predicted": as_predicted, "bones brought to length": rescaled}.items():
    print(f"{name:28s}" + "".join(f"{mean:18.1f}" for mean in pooled(errors_, names)))
assert math.isclose(pooled(rescaled, names)[1], metrics.mean_of_means(rescaled, names), rel_tol=1e-6)
assert rescaled.mean() < as_predicted.mean()

# %%
_, ax = plt.subplots(figsize=(9, 2.8), layout="constrained")
left = 0
for name in dict.fromkeys(names):
    own = as_predicted[[one == name for one in names]]
    ax.bar(left, own.mean(), width=len(own), align="edge", color="#9bb7d4", edgecolor="w")
    left += len(own)
over_poses, over_sequences = pooled(as_predicted, names)
ax.axhline(over_poses, color="C0", label="mean over all poses: the area")
ax.axhline(over_sequences, color="C3", ls="--", label="mean over sequences: every bar counts once")
ax.set(xlabel="matched poses, sequence after sequence", ylabel="MPJPE, mm", ylim=(0, 1.75 * as_predicted.mean()))
ax.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# *Each bar is a sequence, as wide as it has poses.* The four numbers of the table are all "MPJPE on MuPoTS". Bringing
# bones to length forgives a wrong guess of a person's size, which one picture can't tell from distance; averaging over
# sequences lets a short, hard one weigh as much as a long, easy one. Which is larger depends on whether the long ones
# are the hard ones, here by chance.
#
# **And recall?** Only *matched* poses count. "As we use the same YOLOv4 detector in all our experiments, we have 94.6%
# recall in all of our experiments (hence the matched-pose results are directly comparable)". Why the bracket matters:
# a detector that sees less looks better.

# %%
hard = as_predicted.argsort()
shown = {"all that were matched": hard, "without the hardest 5 %": hard[: int(0.95 * len(hard))],
         "without the hardest 20 %": hard[: int(0.8 * len(hard))]}  # fmt: skip
mpjpes = []
for name, kept in shown.items():
    share = metrics.pck(prediction[kept], target[kept], 0.1, root=14)
    mpjpes.append(as_predicted[kept].mean().item())
    said = (
        f"recall {100 * len(kept) / annotated:5.1f} %, MPJPE {mpjpes[-1]:5.1f} mm, PCK100 {100 * share.mean():5.1f} %"
    )
    print(f"{name:26s} {said}; missed ones counted as wrong: {100 * share.sum() / annotated:5.1f} %")
assert mpjpes[0] > mpjpes[1] > mpjpes[2]

# %% [markdown]
# MPJPE improves as people are overlooked, and the only column that notices is the last, which counts what was missed as
# wrong. At one fixed recall the question doesn't arise; between papers with different detectors it does.
#
# ### The paper's tables as data
#
# Tables S2, S3 and S4: 25 rows of four benchmarks with four metrics. A row begins with its name: in S2 the stage
# (separate heads, or fine-tuned for consistency) and the length of training, in S3 the length of the fine-tuning, in S4
# the stage, how training ends, and the norm.

# %% tags=["export"]
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

# %% tags=["export"]
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


def read_table(text: str) -> dict[tuple[str, ...], np.ndarray]:
    """The name of each row, a tuple of words, and its numbers (4 BENCHMARKS, 4 METRICS)."""
    rows = [line.split() for line in text.strip().splitlines()]
    return {tuple(row[:-16]): np.array(row[-16:], float).reshape(4, 4) for row in rows}


PAPER_TABLES = {"S2": read_table(S2), "S3": read_table(S3), "S4": read_table(S4)}
# Table S4's rows: "frozen" is with, "live" without the last 1,000 steps with BN in inference mode

# %% [markdown]
# **Do they agree with each other?** The default setting, 400k + 40k steps with Ghost BN 16, stands in all three:

# %%
T2, T3, T4 = PAPER_TABLES.values()
print([len(table) for table in PAPER_TABLES.values()], "rows")
assert (T2["separate", "400k"] == T4["separate", "frozen", "ghost-16"]).all()
assert (T2["consistent", "400k"] == T4["consistent", "frozen", "ghost-16"]).all()
assert (T2["consistent", "400k"] == T3[("40k",)]).all()

# %% [markdown]
# They do, to the last digit. **What does doubling buy?** "Every new line doubles the number of training steps":

# %%
LENGTHS, gains = ("100k", "200k", "400k", "800k", "1.6M"), {}
print(f"mean over the four benchmarks{'':14s}" + "".join(f"{metric:>9s}" for metric in METRICS))
for stage in ("separate", "consistent"):
    for shorter, longer in zip(LENGTHS, LENGTHS[1:], strict=False):
        gain = gains[stage, longer] = (T2[stage, longer] - T2[stage, shorter]).mean(0)
        print(f"{stage:11s} {shorter:>5s} to {longer:5s}{'':18s}" + "".join(f"{value:+9.2f}" for value in gain))
assert all(1.2 < -gain[0] < 2.5 for (_, length), gain in gains.items() if length in ("200k", "400k"))
assert all(0.3 < -gain[0] < 1.6 and 1.4 < gain[3] < 2.2 for (_, length), gain in gains.items() if length in LENGTHS[3:])
bought = T2["consistent", "400k"] - T2["separate", "400k"]
print(f"{'40k steps of consistency at 400k':43s}" + "".join(f"{value:+9.2f}" for value in bought.mean(0)))
print("on MuPoTS-3D alone:", ", ".join(f"{m} {v:+.1f}" for m, v in zip(METRICS, bought[0], strict=True)))

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), layout="constrained")
for benchmark, (ax, name) in enumerate(zip(axes, BENCHMARKS, strict=True)):
    for stage, style in (("separate", "o--"), ("consistent", "o-")):
        ax.plot(range(5), [T2[stage, length][benchmark, 0] for length in LENGTHS], style, color="C0", label=stage)
    ax.set_xticks(range(5), LENGTHS, fontsize=8)
    ax.set_title(name, fontsize=10)
axes[0].set_ylabel("MPJPE, mm")
axes[0].legend(frameon=False, fontsize=8)
worse = [(stage, longer, BENCHMARKS[b], METRICS[m]) for stage in ("separate", "consistent")
         for shorter, longer in zip(LENGTHS, LENGTHS[1:], strict=False) for b in range(4) for m in range(4)
         if (T2[stage, longer] - T2[stage, shorter])[b, m] * (1, 1, -1, -1)[m] > 0]  # fmt: skip
print(len(worse), "of 128 steps to twice the length made a number worse:", worse)

# %% [markdown]
# *Table S2's first column of each benchmark.* "Clearly, longer training can further improve the results and especially
# the correct pose score improves": the table bears it out, with two exceptions of 128. Averaged over the benchmarks,
# the first two doublings buy 1.3 to 2.4 mm of MPJPE each, the last two 0.4 to 1.6; in CPS200 even the last ones buy
# one and a half to two points, at twice the price of the one before. Consistency fine-tuning costs a tenth of the
# initial steps. On MuPoTS-3D it lifts CPS200 at 400k from 66.0 to 72.9, where *four times* the training, without it,
# gets 72.8; on Human3.6M, MPJPE is 0.5 mm worse after it.
#
# **Ghost BN, and the last 1,000 steps in inference mode**, from Table S4:

# %%
print(f"mean over the four benchmarks{'':8s}" + "".join(f"{metric:>9s}" for metric in METRICS))
effects = {}
for stage in ("separate", "consistent"):
    for setting in ("normal", "3D/2D", "ghost-16"):
        effects[stage, setting] = (T4[stage, "frozen", setting] - T4[stage, "live", setting]).mean(0)
        said = "".join(f"{value:+9.2f}" for value in effects[stage, setting])
        print(f"{stage:11s} {setting:9s} inference mode  {said}")
    for setting in ("3D/2D", "ghost-16"):
        gain = (T4[stage, "frozen", setting] - T4[stage, "frozen", "normal"]).mean(0)
        print(f"{stage:11s} {setting:9s} instead of BN   " + "".join(f"{value:+9.2f}" for value in gain))
assert all((value[0] < 0) == (setting != "normal") for (_, setting), value in effects.items())
for stage in ("separate", "consistent"):
    plain, split, sixteen = (T4[stage, "live", setting].mean(0)[0] for setting in ("normal", "3D/2D", "ghost-16"))
    print(f"{stage:11s} MPJPE without those steps: plain {plain:.2f}, groups of 16 {sixteen:.2f}, 3D/2D {split:.2f}")
    assert plain < sixteen < split

# %% [markdown]
# So "the Ghost BN options tend to perform better" needs its condition: *with* the fine-tuning in inference mode.
# Without it both are worse than plain BN in MPJPE, the 3D/2D split by far. Plain BN doesn't need those steps; they
# cost it not quite half a millimetre. With them, groups of 16 are 1.0 mm (separate) and 1.3 mm (consistent) better than
# plain BN, and not better in CPS200; the 3D/2D split gains only after the consistency fine-tuning. "The differences are
# not very large", says the paper, and there is one run per cell.

# %% [markdown]
# ## 10 Thirty-two data sets in miniature
#
# **The question.** Most of the 28 + 4 data sets are for research only, some are behind a form, together they are many
# terabytes. Can the effect be seen without them?
#
# **The idea.** What makes them different can be modelled. Each of ours is a share of the people of one of the course's
# worlds: plain studios with twelve people (`studio`), everything at once (`wild`), smoothed scans (`scan`). Each knows
# people in its own skeleton format only, from pictures with their own tint, grey or blur, with labels as noisy as
# their kind: 20 mm for markerless capture, 5 mm for markers, none for synthetic pictures (the numbers are our choice).
# A picture belongs to one data set, which a hash of its name decides. So a head sees its own small world, as in the
# paper. Held-out people have the truth in *all* formats, which no real data set has.

# %% [markdown]
# First the configuration, which data and runs share. The paper's: 400,000 + 40,000 steps of 128 crops of 256 pixels,
# with a stride of 32: $8 \times 8$ cells. Ours has crops of 64 and a stride of 8, so that there are $8 \times 8$ cells
# here, too, a backbone of the same blocks with a quarter of a million weights (0.7 million with the head), and the
# twelve formats of chapter 11's autoencoder.

# %% tags=["export"]
NETWORK_FORMATS = acae_skeletons.FORMATS  # whose joints the network predicts: those that chapter 11's autoencoder knows
TINY = Backbone(16, (
    Stage(FusedMBConv, 1, 2, 24, 1), Stage(FusedMBConv, 4, 2, 48, 2), Stage(MBConv, 4, 1, 64, 3),
), last=128, drop=0.0)  # fmt: skip
NETWORKS = BACKBONES | {"tiny": TINY}
LOSSES = ("separate", "internal", "regularised", "direct", "hybrid")


# %% tags=["export"]
@dataclass(frozen=True)
class Augmentation:
    """degrees: largest turn; scale, shift: largest change as shares of the size; flip: chance; colour: of a channel's
    brightness. The authors' code; colour is our choice."""

    degrees: float = 20.0
    scale: float = 0.25
    shift: float = 0.1
    flip: float = 0.5
    colour: float = 0.15


# %% tags=["export"]
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


# %% tags=["export"]
RUNS = "course_lib.studies.acae_training"
SHIPPED_PICTURES = (("studio", 4000), ("wild", 3000), ("scan", 4000))
PRETRAINED = Config(
    formats=("smpl",), pairs=9, middle=6, steps=4000, horizon=4000, late=400, frozen=200, lr=3e-3,
    pictures=(("scan", 7000),),
)  # fmt: skip
FIRST = Config(steps=3000, horizon=3000, late=200, frozen=100, pictures=SHIPPED_PICTURES)


def second_phase(config: Config, steps: int, loss: str = "regularised") -> Config:
    """The fine-tuning of a network that was trained with a configuration: so many steps more."""
    later = {"late": max(1, steps // 8), "frozen": min(config.frozen, steps // 4)}  # the paper: 5,000 of 40,000
    return replace(config, loss=loss, fine_tune=True, steps=steps, **later)


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

# %%
from course_lib.data import dozens
from course_lib.data.skeletons import FORMATS, base_name, columns, joint_names, mirror_permutation
from course_lib.studies import acae_training as measured

config = CONFIGS[scale()]
sets = measured.datasets(config.side, config.formats, config.pictures)
assert list(sets) == list(BATCHES["full"])
print(f"{'':14s}{'kind':14s}{'skeleton':10s}{'world':8s}{'noise, mm':>9s}{'people':>8s}{'in 128':>8s}")
for name, one in dozens.DATASETS.items():
    about = f"{name:14s}{one.kind:14s}{one.format or '-':10s}{one.world:8s}{1000 * one.noise:9.0f}"
    print(f"{about}{len(sets[name]['K']):8d}{BATCHES['full'][name]:8d}")

# %% [markdown]
# (Seven of the formats are not among chapter 11's: 3DOH50K's, IKEA's, GPA's, Human4D's, MADS', 3DPeople's and
# SAIL-VOS'. Their stand-ins here have a related format's skeleton.) One person of each:

# %%
few = pick(smoke=4, laptop=32)
_, axes = plt.subplots(-(-few // 8), 8, figsize=(13, 1.8 * -(-few // 8)), layout="constrained")
for ax, (name, rows_of) in zip(axes.flat, sets.items(), strict=False):
    ax.imshow(rows_of["image"][0].permute(1, 2, 0))
    ax.set_title(f"{name}\n{dozens.DATASETS[name].format or '2D'}", fontsize=8)
    spot = "joints" if (has := dozens.DATASETS[name].format) else "spots"
    points = projected(rows_of[spot][:1], rows_of["K"][:1])[0]
    where = columns(config.formats, has) if has else rows_of["seen"][0]
    plots.draw_keypoints(ax, points[where], edges=FORMATS[has].edges if has else (), size=3)
    ax.set(xlim=(0, rows_of["image"].shape[-1]), ylim=(rows_of["image"].shape[-1], 0))
    ax.axis("off")

# %% [markdown]
# *One example of each data set: its look, and all that it knows about somebody. The last four know pixels only.* Each
# picture is a crop with its person in the middle, and with a **camera of its own**: cutting out a part of a picture
# looks at somebody askance, so the camera is turned to look straight at the box (`dozens.turned_camera`; black is what
# the picture didn't show). Joints are in that camera's axes. That is MeTRAbs' way, and why its answers are the same
# wherever in the picture somebody stands.
#
# ### Augmentation that the camera knows about
#
# Turning, zooming or shifting a crop is turning, zooming or shifting a *camera*. If picture, camera and joints change
# together, the labels stay exact: with the rotation $R$ about the axis and the new camera $K'$, a pixel $\mathbf p'$
# of the new picture shows what $K R^\top K'^{-1}\,\mathbf p'$ showed in the old one, and a joint $\mathbf x$ is at
# $R\,\mathbf x$. Mirroring also swaps the names: a left wrist becomes a right one. The authors' code turns by ±20°,
# scales by ±25 %, shifts by ±10 %, and mirrors half of the time; colours ±15 % are ours. Each example also draws
# $\mathrm{mix}$, MeTRAbs' random weight of its two heads.


# %% tags=["export"]
def uniform(generator: torch.Generator, size: float, *shape: int) -> Tensor:
    """Random numbers between -size and size."""
    return size * (2 * torch.rand(shape, generator=generator) - 1)


def new_camera(K: Tensor, side: int, wide: int, zoom: float, shift: Tensor) -> Tensor:
    """K (1, 3, 3) of a crop of `wide` pixels -> that of its middle `side` pixels, zoomed and shifted by pixels (2,)."""
    new = K.clone()
    new[:, :2, :2] *= zoom
    new[:, :2, 2] = side / 2 + zoom * (K[:, :2, 2] - wide / 2) + shift
    return new


def turn_about_z(radians: Tensor) -> Tensor:
    """() -> (3, 3): a rotation about the camera's axis."""
    c, s, zero = radians.cos(), radians.sin(), torch.zeros(())
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1]).view(3, 3)


def seen_anew(image: Tensor, K: Tensor, new_K: Tensor, turn: Tensor, side: int) -> Tensor:
    """A picture (1, 3, S, S) from a camera K as one with new_K sees it, turned about its axis: (1, 3, side, side)."""
    change = K @ turn.T @ torch.linalg.inv(new_K)  # (1, 3, 3): new pixels -> old ones, affine
    wide = image.shape[-1]
    theta = change[:, :2] * side / wide  # affine_grid has both pictures go from -1 to 1
    theta[:, :, 2] = (2 * change[:, :2, 2] + side * (change[:, :2, 0] + change[:, :2, 1])) / wide - 1
    return grid_sample(image, affine_grid(theta, [1, 3, side, side], align_corners=False), align_corners=False)


# %% tags=["export"]
def mirror_example(batch: Batch, side: int, swap: Tensor, swap_weak: Tensor) -> Batch:
    """Left and right exchanged: in the picture, in space and in the names. swap (J,), swap_weak (N,): partners."""
    flip = torch.tensor([-1.0, 1.0, 1.0])
    K = batch["K"].clone()
    K[:, 0, 2] = side - K[:, 0, 2]
    found = {"image": batch["image"].flip(-1), "K": K}
    found |= {"joints": (batch["joints"] * flip)[:, swap], "valid": batch["valid"][:, swap]}
    return batch | found | {"spots": (batch["spots"] * flip)[:, swap_weak], "seen": batch["seen"][:, swap_weak]}


def finished(batch: Batch) -> Batch:
    """The batch with pixels (B, N, 2), where the 2D labels' spots are in the picture, instead of spots."""
    batch = dict(batch)
    return batch | {"pixels": projected(batch.pop("spots"), batch["K"])}


def plain_view(side: int, batch: Batch) -> Batch:
    """What a network sees of stored crops (B, 3, S, S) uint8 when nothing is augmented: their middle."""
    wide = batch["image"].shape[-1]
    edge = (wide - side) // 2
    image = batch["image"][..., edge : edge + side, edge : edge + side].float() / 255
    return batch | {"image": image, "K": new_camera(batch["K"], side, wide, 1.0, torch.zeros(2))}


# %% tags=["export"]
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


def transform(config: Config, swap: Tensor, swap_weak: Tensor) -> Transform:
    """For the queues: `augmented`, as the configuration says. swap (J,), swap_weak (N,): partners left and right."""
    return partial(augmented, config.augmentation, config.side, swap, swap_weak)


# %%
one = {key: values[:1] for key, values in sets["Human3.6M"].items()}
swap, swap_weak = (mirror_permutation(names) for names in (joint_names(config.formats), dozens.WEAK_NAMES))
change = transform(config, swap, swap_weak)
shown = [plain_view(config.side, one)] + [change(one, torch.Generator().manual_seed(seed)) for seed in range(6)]
_, axes = plt.subplots(1, 7, figsize=(13, 2.1), layout="constrained")
where = columns(config.formats, "h36m")
for ax, view in zip(axes, shown, strict=True):
    ax.imshow(plots.to_picture(view["image"][0]))
    flat = projected(view["joints"], view["K"])[0, where]
    plots.draw_keypoints(ax, flat, edges=FORMATS["h36m"].edges, size=3)
    ax.set(xlim=(0, config.side), ylim=(config.side, 0))
    ax.axis("off")

# %% [markdown]
# *Left as it is stored, then six augmentations. The skeleton is projected by each new camera, and lies where the body
# went.* By numbers: a dot painted into the picture at a joint must be found at the projection of the turned joint.

# %%
dot = torch.tensor([[[0.12, 0.05, 2.0]]])
K = torch.tensor([[[200.0, 0, 40], [0, 200, 40], [0, 0, 1]]])
turn, new_K = turn_about_z(torch.tensor(0.3)), new_camera(K, 64, 80, 1.2, torch.tensor([3.0, -2.0]))
v, u = torch.meshgrid(*(torch.arange(80) + 0.5,) * 2, indexing="ij")
x, y = projected(dot, K)[0, 0]
painted = (-((u - x) ** 2 + (v - y) ** 2) / 8).exp().expand(1, 3, 80, 80)
found = seen_anew(painted, K, new_K, turn, 64)[0, 0]
weight = found / found.sum()
centre = torch.stack([(weight * axis).sum() for axis in (u[:64, :64], v[:64, :64])])
expected = projected(dot @ turn.T, new_K)[0, 0]
print("found at", [round(value, 2) for value in centre.tolist()])
print("projected to", [round(value, 2) for value in expected.tolist()])
assert (centre - expected).abs().max() < 0.1

# %% [markdown]
# ### Batches
#
# Section 6's queues, with Table S1's counts. A round is 128 places, and a batch of 128 is too much for a laptop. Since
# each contiguous piece of the interleaved stream is a small copy of the whole, we cut a round into four batches of 32.
# The 2D sets have one place each in every sixteen, so all four have 24 examples with 3D labels and 8 with 2D.

# %% tags=["export"]
IS_WEAK = tuple(name in KINDS["2D"] for name in BATCHES["full"])  # by number of the data set


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


# %%
stream = ChunkedStream(sets, BATCHES[config.mixture], seed=0, transform=change, late=config.late)
batch = next(stream.batches(0, config.batch_size))
weak = torch.tensor(IS_WEAK)
print({key: tuple(values.shape) for key, values in batch.items()})
print("with 2D labels:", [int(weak[part["dataset"]].sum()) for part in islice(stream.batches(0, 32), 4)])
assert all(int(weak[part["dataset"]].sum()) == 8 for part in islice(stream.batches(0, 32), 4))

# %% [markdown]
# ### Held-out people
#
# Four benchmarks as in the paper's tables, each with a stand-in: people of the test splits whom no data set has, all
# of whose body is in the picture.

# %%
held = measured.held_out(config.side, config.formats)
for name, benchmark in measured.BENCHMARKS.items():
    count_ = len(measured.chosen(benchmark, held[benchmark.world])["K"])
    print(f"{name:13s} {len(benchmark.joints)} joints of {benchmark.format}, {count_} people of {benchmark.world}")

# %% [markdown]
# MuPoTS-3D has several people in a picture, so its stand-in takes `wild` pictures with two or more; 3DHP's are alone.
# 3DPW was never trained on in the paper, so it is a world that no training set is from, `synth` (chapter 09's).

# %% [markdown]
# ## 11 The run
#
# **Two phases.** First separate heads: the network predicts all joints of all formats, and each example teaches only
# those of its own data set. Then fine-tuning: everything goes on as before, and in addition every pose, of all formats
# at once, must be one that the autoencoder can make from its latents. That is the whole of output regularisation
# (section 4, variant a), which Tables S2 to S4 are about.

# %% [markdown]
# A network with as many points as the phase needs, and an autoencoder that has stopped learning:


# %% tags=["export"]
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


def backbone_of(model: MetrabsNet) -> Batch:
    """The tensors of a network's backbone, to begin another one with."""
    return {name: values.clone() for name, values in model.state_dict().items() if name.startswith("backbone.")}


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


# %% [markdown]
# One loss for each phase, out of sections 3 and 4. Weak perspective helps for the first 500 steps (a tenth of *late*).
# And between steps, two things: filters are kept short, and near the end the norms change to inference mode.


# %% tags=["export"]
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


def after_step(config: Config, model: MetrabsNet, step: int) -> None:
    """Between steps: the max-norm constraint, and norms in inference mode at the end. ACAE §S5. (Stored statistics are
    those of a kernel as long as it was: from then on filters keep their length.)"""
    if not model.frozen_norms:
        max_norm_(model)
    if config.frozen and step >= config.steps - config.frozen and not model.frozen_norms:
        model.frozen_norms = True
        inference_norms(model)


# %% [markdown]
# All together. The fine-tuning has section 7's two rates; weight decay goes by the first phase's length in both.


# %% tags=["export"]
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


# %% tags=["export"]
def with_data(config: Config, folders: list) -> Recipe:
    """For a launch: the recipe with queues over rendered worlds, a folder each, and everything that goes with them."""
    return resolved(f"{RUNS}:launched")(config, folders)


def stand_in(config: Config) -> FixedAutoencoder:
    """An autoencoder that has learned nothing."""
    latents = sum(config.latents)
    ones = torch.ones(config.joints, latents)
    return FixedAutoencoder(ones / config.joints, ones.T / latents)


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


# %% tags=["export"]
SHIPPED = {
    "backbone": Shipped("acae_training-backbone", PRETRAINED, f"{RUNS}:backbone"),
    "separate": Shipped("acae_training-separate", CONFIGS["shipped"], f"{RUNS}:separate"),
    "consistent": Shipped("acae_training-consistent", CONFIGS["shipped-consistent"], f"{RUNS}:consistent"),
}

# %%
print(f"{'':20s}{'crop':>6s}{'batch':>7s}{'steps':>9s}{'late':>7s}{'weights':>9s}{'joints':>8s}")
for name, one in CONFIGS.items():
    with torch.device("meta"):
        weights = sum(values.numel() for values in build(one).parameters())
    numbers = f"{one.side:6d}{one.batch_size:7d}{one.steps:9,d}{one.late:7d}{weights / 1e6:8.1f}M{one.joints:8d}"
    print(f"{name:20s}{numbers}")

# %% [markdown]
# (*late*: the steps after which the absolute loss comes in. 5,000 are an eightieth of the paper's run and an eighth of
# its fine-tuning; short runs such as ours take a fifteenth to a tenth of theirs, until poses are good. 378 of our
# joints, 555 of the paper's.)
#
# **The start.** The paper begins with weights from ImageNet. Our stand-in is a backbone that has seen people before:
# all those of `scan`, with SMPL's skeleton, for 4,000 steps (`course ship 12.backbone`). Where it isn't there yet,
# training begins with random weights, and stays near the mean pose for long.
#
# **The switch**: `"train"` trains here and now, for some minutes; `"load"` takes what comes with the course, the same
# code trained for longer. If that isn't there yet, a later cell says so and trains.

# %%
from course_lib import shipped
from course_lib.train import fit

choice = "train"
PHASES = ("separate", "consistent")
there = scale() != "smoke" and all(shipped.available(SHIPPED[name].name) for name in PHASES)
pretrained = measured.shipped_backbone() if config.backbone == PRETRAINED.backbone else None
print("begins with", "random weights" if pretrained is None else "the shipped backbone")
coder = measured.autoencoder(config.formats)
names = {"names": joint_names(config.formats), "weak_names": dozens.WEAK_NAMES}
trained, runs = {}, {}
if choice == "train" or not there:
    runs["separate"] = fit(recipe(config, stream, **names, start=pretrained))
    trained["separate"] = runs["separate"].model.eval()

# %%
if "separate" in runs:
    history = runs["separate"].history
    curves = {name: plots.smooth([row[key] for row in history]) for name, key in (("3D", "strong"), ("2D", "weak"))}
    plots.curve(curves, ylabel="loss, metres", ylim=(0, None))
    assert np.isfinite(runs["separate"].losses).all()
    assert scale() == "smoke" or curves["3D"][-1] < 0.7 * curves["3D"][0]

# %% [markdown]
# *The loss of examples with 3D labels jumps a little where the absolute loss comes in.* Now the second phase, and
# beside it a **control**: the same start, the same steps, batches and learning rates, without the new term. What both
# gain comes from training longer; only the difference between them is due to the autoencoder.

# %%
TUNING = pick(smoke=2, laptop=config.steps // 4)
if runs:
    begun = measured.tensors_of(trained["separate"])
    for name, loss in (("control", "separate"), ("consistent", "regularised")):
        second = second_phase(config, TUNING, loss)
        again = ChunkedStream(sets, BATCHES[config.mixture], seed=1, transform=change, late=second.late)
        runs[name] = fit(recipe(second, again, **names, autoencoder=coder, start=begun))
        trained[name] = runs[name].model.eval()
found = {f"here: {name}": (model, config) for name, model in trained.items()}
if there:
    for name in PHASES:
        model = build(SHIPPED[name].config)
        shipped.load(model, SHIPPED[name].name)
        found[f"shipped: {name}"] = (model, SHIPPED[name].config)
else:
    print("not shipped yet (`course ship 12.separate` and `12.consistent` make them)")

# %%
if "consistent" in runs:
    off = [1000 * row["inconsistency"] for row in runs["consistent"].history]
    plots.curve({"|p - AE(p)| of training batches, mm": plots.smooth(off)}, ylabel="mm", ylim=(0, None))

# %% [markdown]
# ## 12 What consistency does
#
# **The question.** What has the fine-tuning changed, and did accuracy suffer?
#
# **Three rulers**, besides the four metrics of section 9:
#
# - **inconsistency**, mean $|p - \mathrm{AE}(p)|$ over coordinates: what the fine-tuning makes small. (Chapter 11's
#   measure is the mean distance; this is the loss's L1.)
# - **disagreement**, which doesn't know the autoencoder. Between the left shoulder of one format and that of another
#   there is a true difference (chapter 11: more than 15 mm on average). The network's two heads give a difference, too.
#   How far is the one from the other, on average over all pairs $a, b$ of same-named joints?
#
# $$\bigl\lVert(\hat{\mathbf p}_a - \hat{\mathbf p}_b) - (\mathbf p_a - \mathbf p_b)\bigr\rVert$$
#
# - **bone error**, the mean of $|\,\text{length} - \text{true length}\,|$ over all bones of all formats.
#
# Only rendered people can tell the last two: they have the truth in all formats.

# %% tags=["result"]
results = {name: measured.measured(model, one, coder) for name, (model, one) in found.items()}
RULERS = ("inconsistency", "disagreement", "bone_error", "mpjpe", "pmpjpe", "pck100", "cps200")
print(f"{'':22s}" + "".join(f"{ruler:>15s}" for ruler in RULERS))
for name, row in results.items():
    print(f"{name:22s}" + "".join(f"{row[ruler]:15.1f}" for ruler in RULERS))
truth = torch.cat([rows_["points"] for rows_ in held.values()])
print(f"the truth itself: inconsistency {measured.inconsistency(truth, coder):.1f} mm")
for whose in {name.partition(":")[0] for name in results} if scale() != "smoke" else ():
    ratio = results[f"{whose}: consistent"]["inconsistency"] / results[f"{whose}: separate"]["inconsistency"]
    print(f"{whose}: inconsistency times {ratio:.2f}")
    assert ratio < 0.5

# %% [markdown]
# (Millimetres, and percent for the last two; the mean over the four benchmarks.) The truth is not at 0 either: the
# autoencoder is an approximation. To be consistent is easy: a network that always gives the same pose is. Therefore the
# other columns: accuracy must not suffer.
#
# **By benchmark**, beside the paper's default, 400k + 40k steps on the real benchmarks (of which backbone, its tables
# don't say):

# %%
best = list(results)[-1].partition(":")[0]
KEYS = ("mpjpe", "pmpjpe", "pck100", "cps200")
print(f"{'':24s}" + "".join(f"{benchmark:>26s}" for benchmark in BENCHMARKS))
print(f"{'':24s}" + "".join(f"{metric:>8s}" if i % 4 else f"{metric:>10s}" for i, metric in enumerate(METRICS * 4)))
for name in ("separate", "consistent"):
    row, table = results[f"{best}: {name}"], PAPER_TABLES["S2"][name, "400k"]
    ours = [[row[f"{key} {benchmark}"] for key in KEYS] for benchmark in BENCHMARKS]
    for whose, numbers in ((f"{best}: {name}", ours), (f"the paper's: {name}", table)):
        parts = ("".join(f"{value:8.1f}" if i else f"{value:10.1f}" for i, value in enumerate(own)) for own in numbers)
        print(f"{whose:24s}" + "".join(parts))

# %% [markdown]
# What is comparable: the direction, not the size. Ours are other people, a network nearly forty times smaller, some
# thousand steps, and no ImageNet.
#
# ### Figures S2 to S4
#
# The best way to see it. All skeletons that the network gives for one picture, in one: before, and after. From the
# front all formats look more or less alike, since the picture holds them in place; from the side, where depth is
# guessed, each head guesses on its own.

# %%
SHOWN = tuple(name for name in config.formats if name not in ("movi", "bmhad"))  # those with bones
HUES = dict(zip(SHOWN, plt.get_cmap("tab10")(np.linspace(0, 1, len(SHOWN))), strict=True))


def draw_all(ax, points, axes_of=(0, 1)):
    """All skeletons of one pose (J, 3) seen along an axis: (0, 1) from the front, (2, 1) from the side."""
    for name in SHOWN:
        own = points[columns(config.formats, name)]
        for a, b in FORMATS[name].edges:
            ax.plot(own[[a, b], axes_of[0]], own[[a, b], axes_of[1]], color=HUES[name], lw=1)
    middle = points.mean(0)
    for set_limits, axis in ((ax.set_xlim, axes_of[0]), (ax.set_ylim, axes_of[1])):
        set_limits((middle[axis] - 1.05).item(), (middle[axis] + 1.05).item())
    ax.invert_yaxis()
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_color("0.85")


def before_and_after(image, poses):
    """A row: the picture, and for each pose (J, 3) of {title: pose} its skeletons from the front and the side."""
    _, axes = plt.subplots(1, 1 + 2 * len(poses), figsize=(2.3 * (1 + 2 * len(poses)), 2.5), layout="constrained")
    axes[0].imshow(plots.to_picture(image))
    axes[0].axis("off")
    for number, (title, points) in enumerate(poses.items()):
        for ax, view, from_where in zip(axes[1 + 2 * number :], ((0, 1), (2, 1)), ("front", "side"), strict=False):
            draw_all(ax, points, view)
            ax.set_title(f"{title}, {from_where}", fontsize=9)


# %%
people = held["wild"]
said = {name: measured.predicted(*found[f"{best}: {name}"][:1], people, config) for name in ("separate", "consistent")}
for person in range(0, len(people["K"]), max(1, len(people["K"]) // 4))[: pick(smoke=1, laptop=4)]:
    poses = {"separate": said["separate"][person], "consistent": said["consistent"][person]}
    before_and_after(people["image"][person], poses | {"truth": people["points"][person]})
    plt.show()

# %% [markdown]
# *Ten formats, a colour each. Left to right: the picture; separate heads; after the fine-tuning; the truth.* They still
# are ten different skeletons afterwards, as the truth has ten; but they are skeletons of *one* person. (The poses
# themselves are still poor, after an hour of training too: a person who kneels or lunges comes out too upright.
# Consistency makes them agree, not right.)
#
# Which joints disagree? By name, over all formats that have it:

# %%
gap = {}
pairs_ = measured.namesakes(config.formats)
bases = [base_name(name) for name in joint_names(config.formats)]
for name, points in said.items():
    wrong = [x[:, pairs_[:, 0]] - x[:, pairs_[:, 1]] for x in (points, people["points"])]
    apart = 1000 * (wrong[0] - wrong[1]).norm(dim=-1).mean(0)  # (pairs,)
    gap[name] = {part: apart[[bases[a] == part for a in pairs_[:, 0]]].mean().item() for part in dozens.LIMBS[:6]}
    gap[name] |= {part: apart[[bases[a] == part for a in pairs_[:, 0]]].mean().item() for part in ("neck", "pelv")}
for part in gap["separate"]:
    print(f"{part}  {gap['separate'][part]:6.1f} mm before, {gap['consistent'][part]:6.1f} mm after")

# %% [markdown]
# ### The older supervision
#
# MeTRAbs' authors supervised the two heads one by one (section 3's `internal_loss`); ACAE "only use[s] the absolute
# pose output for supervision". The reason given is that a network with one output is "cleaner when more losses are
# added". Does it cost accuracy? One run of the same length beside ours:

# %%
if runs:
    older = replace(config, loss="internal")
    again = ChunkedStream(sets, BATCHES[config.mixture], seed=0, transform=change, late=older.late)
    runs["internal"] = fit(recipe(older, again, **names, start=pretrained))
    results["here: internal"] = measured.measured(runs["internal"].model.eval(), older, coder)
    for name in ("here: separate", "here: internal"):
        row = ", ".join(f"{ruler} {results[name][ruler]:.1f}" for ruler in RULERS)
        print(f"{name:16s} {row}")

# %% [markdown]
# (One run of each: no spread, no claim.)
#
# ### A photograph
#
# The network has never seen one, and here legs are missing. It says where they should be all the same: what a network
# with heat maps in the picture's plane alone could not.

# %%
from skimage.data import astronaut

photo = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255  # (3, 512, 512)
box = torch.tensor([60.0, 0.0, 440.0, 512.0], dtype=torch.float64)  # of the person, by hand
field = torch.deg2rad(torch.tensor(40.0))  # what the lens sees: a guess
focal = 256 / torch.tan(field / 2)
photo_K = torch.tensor([[focal, 0, 256], [0, focal, 256], [0, 0, 1]], dtype=torch.float64)


def of_photo(photo, K, box):
    """A photograph (3, H, W), its camera K (3, 3) and a person's box -> what the network sees, as held-out people."""
    new_K, turn = dozens.turned_camera(K, box, config.side)
    image = dozens.seen_by(photo, K, turn, new_K, config.side)
    return {"image": image[None].float(), "K": new_K[None].float()}


seen = of_photo(photo, photo_K, box)
poses = {name: measured.predicted(found[f"{best}: {name}"][0], seen, config)[0] for name in ("separate", "consistent")}
before_and_after(seen["image"][0], poses)
plt.show()
depth = poses["consistent"][columns(config.formats, "h36m")][0, 2].item()
print(f"pelvis at {depth:.2f} m, for a lens of 40 degrees")

# %% [markdown]
# *Eileen Collins (NASA, public domain): the crop, and the skeletons before and after.* The network sees somebody who
# stands: head, shoulders and elbows about in their places, legs where legs would be, and side views that part before
# and agree after. It knows only rendered people in full figure, none in a space suit. To try your own: `photo =
# torch.from_numpy(plt.imread("me.jpg").copy()).permute(2, 0, 1) / 255`, your box (left, top, right, bottom in pixels),
# your lens; then run the cell from `seen = …` on. The distance is only as good as the guess of the lens; section 8
# recovers a camera from predicted poses when there are many.
#
# ### The studies
#
# Tables S2, S3 and S4, and the mixtures of Table S1, at our scale: 120 steps from the stand-in's backbone where the
# paper has 400,000 from ImageNet's, 30 of fine-tuning where it has 40,000 (a quarter, not a tenth: 12 steps would be
# over before they began), and three seeds where it has one.


# %% tags=["export"]
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


def arm_config(arm: Arm, steps: int) -> Config:
    """The first phase of an arm."""
    own = max(1, round(arm.length * steps))
    return Config(
        side=arm.side, norm=arm.norm, mixture=arm.mixture, steps=own, horizon=own, late=max(1, steps // 10),
        frozen=max(1, steps // 12) if arm.frozen else 0, pictures=arm.pictures,
    )  # fmt: skip


# %% tags=["export"]
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


def question(name: str, title: str, arms: dict[str, Arm]) -> Study:
    """A study of this chapter."""
    return Study(f"12.{name}", title, arms, f"{RUNS}:compare", STUDY_STEPS)


STUDIES = {
    "initial_length": question("initial_length", "length of the initial training (Table S2)", INITIAL_LENGTHS),
    "fine_tune_length": question("fine_tune_length", "length of the fine-tuning (Table S3)", TUNINGS),
    "ghost_bn": question("ghost_bn", "Ghost BN, with and without inference mode at the end (Table S4)", NORMED),
    "mixture": question("mixture", "Small, Medium and Full at equal steps (Table S1)", MIXTURES),
}

# %%
from course_lib import study

COLUMNS = ("inconsistency", "disagreement", "bone_error", "mpjpe", "pmpjpe", "pck100", "cps200")
summaries = {name: study.summary(asked) if scale() != "smoke" else {} for name, asked in STUDIES.items()}
for name, asked in STUDIES.items():
    print(f"{asked.title}{'' if summaries[name] else f': no records yet, `course study 12.{name}` makes them'}")
    if summaries[name]:
        print(f"{'':26s}" + "".join(f"{ruler:>15s}" for ruler in COLUMNS))
    for arm, row in summaries[name].items():
        for stage in ("separate", "consistent"):
            cells = (row[f"{stage} {ruler}"] for ruler in COLUMNS)
            print(f"  {arm:13s}{stage:11s}" + "".join(f"{mean:8.1f} ±{spread:5.1f}" for mean, spread, _ in cells))

# %% [markdown]
# (Means ± standard deviations over seeds; of a fine-tuned row and the row above it, only the weights' start is the
# same.) The question of the chapter first: what does consistency cost? Over all arms of all studies:

# %%
HALVED, WORSE = "inconsistency at least halved", "worse beyond the spread"
verdicts = {HALVED: 0, f"bone error {WORSE}": 0, f"MPJPE {WORSE}": 0}
arms_seen = {(name, arm): row for name, rows_of in summaries.items() for arm, row in rows_of.items()}
for row in arms_seen.values():
    before, after = ({ruler: row[f"{stage} {ruler}"] for ruler in COLUMNS} for stage in ("separate", "consistent"))
    verdicts[HALVED] += after["inconsistency"][0] <= 0.5 * before["inconsistency"][0]
    for ruler, title in (("bone_error", "bone error"), ("mpjpe", "MPJPE")):
        worse = after[ruler][0] > before[ruler][0] and study.beyond_spread(after[ruler], before[ruler])
        verdicts[f"{title} {WORSE}"] += worse
for title, number in verdicts.items():
    print(f"{title}: {number} of {len(arms_seen)} arms")

# %% [markdown]
# **How long** (Tables S2 and S3), beside the paper's. Our axes and theirs have other scales; what can be compared is
# the shape: whether longer helps, and whether the solid line lies below the dashed one.


# %%
def beside_paper(ax, ours, paper, ruler, metric, title):
    """Our means with spreads, in black, over the paper's, in blue on an axis of its own; both by doubling."""
    place, other = METRICS.index(metric), ax.twinx()
    for stage, style in (("separate", "o--"), ("consistent", "o-")):
        values = [row[f"{stage} {ruler}"] for row in ours.values()]
        means, spreads = [value[0] for value in values], [value[1] for value in values]
        ax.errorbar(range(len(means)), means, spreads, fmt=style, color="k", capsize=2, label=f"{stage}, ours")
        theirs = [table.mean(0)[place] for key, table in paper.items() if len(key) == 1 or key[0] == stage]
        if stage == "consistent" or len(next(iter(paper))) > 1:
            other.plot(range(len(theirs)), theirs, style, color="C0", label=f"{stage}, paper")
    ax.set_xticks(range(len(ours)), [f"{arm}\n{key[-1]}" for arm, key in zip(ours, paper, strict=False)], fontsize=8)
    ax.set_title(title, fontsize=10)
    other.tick_params(axis="y", colors="C0")
    other.spines["top"].set_visible(False)


asked_for = {"initial_length": "S2", "fine_tune_length": "S3"}
if all(summaries[name] for name in asked_for):
    _, axes = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    for first, (name, table) in zip((0, 2), asked_for.items(), strict=True):
        for ax, ruler, metric in zip(axes[first:], ("mpjpe", "pck100"), ("MPJPE", "PCK100"), strict=False):
            beside_paper(ax, summaries[name], PAPER_TABLES[table], ruler, metric, f"{table}: {metric}")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("ours (black); paper (blue, right)", fontsize=8)

# %% [markdown]
# *Left pair: length of the initial training; right pair: of the fine-tuning. Means over four benchmarks; below each
# place our steps and the paper's. Dashed: separate heads; solid: after consistency.*
#
# **Ghost BN** (Table S4), with (*frozen*) and without (*live*) the last steps in inference mode; here a ghost batch is
# 8 of 32, a quarter, where the paper's is 16 of 128:

# %%
if summaries["ghost_bn"]:
    own, table = summaries["ghost_bn"], PAPER_TABLES["S4"]
    translated = dict(zip(GROUPS, ("normal", "3D/2D", "ghost-16"), strict=True))
    print(f"{'MPJPE, mm':28s}{'ours':>16s}{'the paper':>12s}")
    for stage in ("separate", "consistent"):
        for arm, row in own.items():
            mode, _, group = arm.partition(" ")
            mean, spread, _ = row[f"{stage} mpjpe"]
            theirs = table[stage, mode, translated[group]].mean(0)[0]
            print(f"{stage:11s} {arm:16s}{mean:9.1f} ±{spread:5.1f}{theirs:12.1f}")

# %%
for group in GROUPS if summaries["ghost_bn"] else ():
    pair = [summaries["ghost_bn"][f"{mode} {group}"]["separate mpjpe"] for mode in ("frozen", "live")]
    word = "beyond" if study.beyond_spread(*pair) else "within"
    print(f"{group:8s} inference mode changes MPJPE by {pair[0][0] - pair[1][0]:+.1f} mm, {word} the spread")
names_of_mixtures = list(summaries["mixture"])
for one, other in zip(names_of_mixtures, names_of_mixtures[1:], strict=False):
    pair = [summaries["mixture"][name]["separate mpjpe"] for name in (other, one)]
    word = "beyond" if study.beyond_spread(*pair) else "within"
    print(f"{other} instead of {one} changes MPJPE by {pair[0][0] - pair[1][0]:+.1f} mm, {word} the spread")

# %% [markdown]
# ## 13 The paper's runs
#
# **The question.** What would it take to train the paper's two networks?
#
# 400,000 steps and 40,000 more, each of 128 crops, on *one* A40: two days with EfficientNetV2-S, six with -L. As jobs:

# %%
from course_lib import launch

jobs = {name: launch.job("acae_training", name, gpus_per_node=1, parallel="ddp") for name in ("effv2-s", "effv2-l")}
for name, job in jobs.items():
    second = CONFIGS[f"{name}-consistent"]
    assert (job.config.steps, second.steps, job.config.batch_size, job.gpu) == (400_000, 40_000, 128, "A40-48GB")
    assert job.config.lr == PEAK and job.config.joints == 555 and second.frozen == 1000
    print(f"{name}: {job.config.steps:,} + {second.steps:,} steps of {job.config.batch_size} crops on {job.gpu}")

# %%
jobs["effv2-s"].plan() if scale() != "smoke" else None

# %%
job = launch.job("acae_training", "smoke", parallel="ddp") if scale() == "smoke" else jobs["effv2-l"]
job.plan()

# %% [markdown]
# We take the paper's days to include the fine-tuning; ours are the first phase's at an assumed utilisation. (The
# counter takes
# the backward pass of a depthwise convolution for a full one. Three times the forward pass would be nearer the truth;
# so the FLOPs of training, the days and the paper's utilisation are upper bounds.) And on eight A100, as they stand in
# a cluster today. The weights are few enough for plain data parallelism, and there is a reason to take it: DDP sends
# the running statistics of the norms from the first process to all others. Under FSDP each process keeps its own, and
# they would part in the last steps, when the norms use them.

# %%
name = pick(smoke="smoke", laptop="effv2-l")
job = launch.job("acae_training", name, gpus_per_node=8, gpu="A100-80GB", parallel="ddp")
job.plan()

# %%
job.prove(**pick(smoke={"config": "smoke"}, laptop={}))

# %%
print(job.script(data=["data/studio", "data/wild", "data/scan"], out=f"runs/{job.name}"))

# %% [markdown]
# Eight processes take 16 examples each, and a contiguous piece of the interleaved stream has 12 with 3D labels and 4
# with 2D. BatchNorm *inside* a process then is a *mixed* Ghost BN 16, whether one wants it or not; on one GPU ours has
# pure parts. The share of Ghost BN by kind, (96, 32), becomes (12, 4) there: another setting.
#
# A launch runs the course's code, not the learner's cells. It precomputes crops of every person in the given folders
# (one world each) and queues them as section 10 does; for those, whose formats have 378 joints and not 555, give
# `pairs=146, middle=86`. bf16 stands for the paper's FP16: it has the range of FP32, so that max-norm, which the
# recipe keeps, is not needed against overflow there. It begins with random weights; the paper's with ImageNet's.
#
# ## What to remember
#
# - Many data sets are many teachers who disagree about what a hip is. Give each its own head, and let none of them see
#   the others' labels.
# - Separate heads are each as good as their data, and inconsistent with each other where only depth could tell.
# - To ask that every pose can be made from few latent points costs one term in the loss, and on average over the
# paper's benchmarks no accuracy.
# - A contiguous piece of an evenly interleaved stream is a small copy of the whole; a stream without memory resumes
#   anywhere, on any number of workers, to the last bit.
# - Fine-tune the head warm and the backbone cold: what has converged stays, what is new can move.
# - Where statistics differ between data sets, normalise small groups; then let the network get used to the stored
#   statistics, which it will be used with.
# - A convolution before a norm may grow for ever without a trace in the output, until 16 bits are too few.
# - One metric has many protocols. Say which poses, which mean, which scale.
#
# ## What the paper leaves open
#
# The rule behind Table S1's counts, and the sizes of the data sets. Which backbone Tables S2 to S4 are of. Whether its
# days include the fine-tuning. How implausible a bone must be to be dropped. Whether "without fine-tuning in inference
# mode" also holds for the initial training of the fine-tuned rows. Whether AdamW was used:
# weight decay, $\varepsilon$, max-norm 20 and the augmentation are only in the code. The spread over seeds: each number
# is one run.
#
# ## Where to read on
#
# - I. Sárándi, A. Hermans and B. Leibe, *Learning 3D human pose estimation from dozens of datasets using a
#   geometry-aware autoencoder to bridge between skeleton formats*, WACV 2023: the paper.
# - I. Sárándi, T. Linder, K. O. Arras and B. Leibe, *MeTRAbs: metric-scale truncation-robust heatmaps for absolute 3D
#   human pose estimation*, T-BIOM 2021: the network.
# - I. Sárándi and G. Pons-Moll, *Neural localizer fields for continuous 3D human pose and shape estimation*, NeurIPS
#   2024: what came after, any point of the body instead of a list of skeletons.
# - X. Sun, B. Xiao, F. Wei, S. Liang and Y. Wei, *Integral human pose regression*, ECCV 2018: soft-argmax.
# - M. Tan and Q. V. Le, *EfficientNetV2: smaller models and faster training*, ICML 2021.
# - E. Hoffer, I. Hubara and D. Soudry, *Train longer, generalize better*, NIPS 2017; C. Summers and M. J. Dinneen,
#   *Four things everyone should know to improve batch normalization*, ICLR 2020: Ghost BN.
# - R. Tijdeman, *The chairman assignment problem*, Discrete Mathematics 32, 1980: even sequences.
# - T. van Laarhoven, *L2 regularization versus batch and weight normalization*, 2017: why kernels grow.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

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
# # Chapter 14: MPT, fine-tuning
#
# Chapter 13's transformer knows what shape people have, and has never seen a picture. It reads dots: 17 maps, one for
# each joint. Here the dots come from a photograph. A **2D pose network** looks at the picture and draws them, the
# transformer makes a mesh of them, and then both are trained together, from the picture to the mesh.
#
# A pose network doesn't draw perfect dots. It blurs them, it hesitates between left and right, it takes the joint of a
# neighbour. First we measure what that costs a transformer that was pretrained on clean dots. Then we train the two
# together. After this fine-tuning, the paper finds, each map captures several joints.
#
# **What you will build**: a small HRNet whose branches exchange what they see, and a plainer network on a ResNet, both
# counted at the paper's sizes; their training on rendered people; a measure of what they find, and of what it costs to
# train on whole pictures and look at crops; the mesh regressor; mixed 2D and 3D data; fine-tuning, end to end, its
# measurement and its studies; a look into the maps; and the mesh laid over a real photograph.
#
# | | |
# |---|---|
# | **You should know** | chapters 01 (Procrustes), 05 (launching), 07 (heatmaps, crops), 13 (all of it) |
# | **Reading** | 70 minutes |
# | **Exercises** | nine, about 105 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 12 min on two cores, and 2 more for finding the people, once; 3 GB of memory |
# | **From the paper** | MPT, supplement: A, D, E, F, G, H; Tables 1, 3 and 4; Figure 2 |
#
# **Letters.** B batch · N people of a test · K joints with a heatmap (17) · J the 14 joints of a mesh · S the side of a
# map · C channels · M people in a picture · H W a picture · n branches, $n_c$ joints that a map answers to · τ a share
# of the person's size · φ an angle · r a resolution in (14.2), $r_{cj}$ a reading in (14.8) · s a scale, $s_b$ a
# person's size · k a joint, in (14.7) the zoom; "(F)" is the supplement's section.

# %%
# %matplotlib inline
import numpy as np
import sympy
from torch.nn.functional import normalize

from course_lib import metrics, plots
from course_lib.chapters.cameras import Camera
from course_lib.chapters.mpt_pretraining import HIPS
from course_lib.chapters.rendering import interpolate as interpolate_over
from course_lib.chapters.rendering import rasterize, shade, vertex_normals
from course_lib.chapters.sapiens_pose import crop_people
from course_lib.data.keypoints import FORMATS
from course_lib.data.pictured import crops
from course_lib.scale import pick, scale
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch


plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
from collections.abc import Callable

from torch.nn.functional import affine_grid, grid_sample

from course_lib.chapters.cameras import weak_perspective_project
from course_lib.chapters.mpt_pretraining import CONFIGS as MESHES
from course_lib.chapters.mpt_pretraining import JOINT_WEIGHT, MESH_WEIGHT, SPOT_WEIGHT, body_levels, centred
from course_lib.chapters.mpt_pretraining import Config as MeshConfig
from course_lib.study import Study, resolved
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from course_lib.chapters.cameras import procrustes, require
from course_lib.chapters.mpt_pretraining import Levels, MeshTransformer, sigma_for, synthesize_heatmaps
from course_lib.chapters.sapiens_pose import MIRROR, crop_matrix, cut_out, decode_heatmaps, inverse, move
from course_lib.exercises import TODO, check, exercise
from course_lib.recipe import Batch, Linear, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped


# %% [markdown]
# ## 1 The pose network
#
# **The question.** A picture goes in, 17 maps come out. What does the network in between have to be good at?
#
# At two things that are hard to combine. A dot must sit *where* the joint is, to the pixel: for that, resolution has to
# be kept. And it must sit on the *left* wrist, not on the right one, nor on somebody else's: for that the whole person
# has to be seen, and in a convolutional network only maps that have been halved many times see so much. Most networks
# go down and then up again. **HRNet** (Sun et al. 2019) does neither: it keeps a fine branch from the first layer to
# the last, runs coarser ones beside it, and exchanges features between them again and again. MPT takes HigherHRNet (F),
# which is an HRNet with a second head.

# %%
def box(ax, x, y, text, width=0.8, height=0.42, colour="#cfe0ee"):
    """A labelled box around (x, y)."""
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.02", fc=colour, ec="#446688"))
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def arrow(ax, start, end):
    """From a box to another one."""
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, lw=0.8, color="#667788"))


# %%
_, ax = plt.subplots(figsize=(10, 2.9), layout="constrained")
box(ax, 0, 0, "picture\n128²", colour="#eeeeee")
for x, count in ((2.6, 2), (4.2, 3)):  # where a module stands, and its branches
    for branch in range(count):
        box(ax, x, -0.75 * branch, f"blocks\n{16 >> branch}²", colour=("#cfe0ee", "#bcd3c4", "#e6d5b8")[branch])
for i in range(2):
    arrow(ax, (1.74, 0), (2.16, -0.75 * i))
    for j in range(3):
        arrow(ax, (3.04, -0.75 * i), (3.76, -0.75 * j))
for i in range(3):
    arrow(ax, (4.64, -0.75 * i), (5.36, 0))
for x in (0.44, 6.24, 7.64):
    arrow(ax, (x, 0), (x + 0.44, 0))
ax.add_patch(
    FancyArrowPatch(
        (5.8, 0.24), (8.6, 0.24), arrowstyle="-|>", connectionstyle="arc3,rad=-0.2", mutation_scale=8, color="#667788"
    )
)
ends = ((1.3, "stem\n16²", "#cfe0ee"), (5.8, "finest\n16²", "#cfe0ee"))
for x, text, fill in (*ends, (7.2, "maps\n16²", "#f3cfcf"), (8.6, "maps\n32²", "#f3cfcf")):
    box(ax, x, 0, text, colour=fill)
ax.set(xlim=(-0.6, 9.2), ylim=(-1.9, 0.75))
ax.axis("off")
plt.show()


# %% [markdown]
# *The course's small network. The arrows between modules are exchanges: every branch gets something of every other.
# (The coarsest branch is new in the second module. It begins as the second branch, halved, just after that one's first
# exchange.)*
#
# Inside a branch there is nothing new: residual blocks, two 3 × 3 convolutions with the input added (ResNet's). The
# **exchange** is HRNet's own. With branches $\mathbf x_1 … \mathbf x_n$, the finest first, each next one half as wide,
# with twice the channels,
#
# $$\mathbf y_i = \mathrm{ReLU}\Bigl(\sum_{j=1}^{n} f_{ij}(\mathbf x_j)\Bigr), \tag{14.1}$$
#
# where $f_{ij}$ leads from branch $j$ to branch $i$: for $j = i$ it does nothing; from a coarser branch it is a 1 × 1
# convolution to the right number of channels, then every pixel repeated; from a finer one a 3 × 3 convolution of stride
# 2 for every halving.

# %% tags=["export"]
@dataclass(frozen=True)
class PoseConfig:
    """A 2D pose network, and how it is trained.

    kind: "hrnet" (`PoseNet`) or "resnet" (`SimpleBaseline`). size: side of a crop. stem: channels of the first
    convolutions. width: of the finest branch, or ResNet's first stage. HRNet: stride, crop pixels in a pixel of the
    finest branch; bottlenecks before the branches; modules with 2, 3, … branches; blocks of a branch in each; tags:
    HigherHRNet's second 17 channels. ResNet: layers, bottlenecks of each stage; head, channels of its deconvolutions.
    worlds: rendered sets and how many of their pictures; side: of these. margin: of the crops, drawn between the two.
    """

    size: int = 128
    kind: str = "hrnet"
    stem: int = 24
    width: int = 24
    stride: int = 8
    bottlenecks: int = 1
    modules: tuple[int, ...] = (1, 1)
    blocks: int = 2
    tags: bool = False
    layers: tuple[int, ...] = (1, 1, 1, 1)
    head: int = 64
    joints: int = 17
    batch_size: int = 16
    steps: int = 500
    lr: float = 3e-3
    warmup: float = 0.1
    clip: float = 1.0
    worlds: tuple[tuple[str, int], ...] = (("studio", 6000), ("wild", 3000))
    side: int = 128
    margin: tuple[float, float] = (1.0, 1.5)
    precision: str = "fp32"
    paper: PaperRun | None = None

    @property
    def maps(self) -> int:
        """The side of the maps that come out."""
        return 2 * self.size // self.stride if self.kind == "hrnet" else self.size // 4


# %% tags=["export"]
def convolution(a: int, b: int, kernel: int = 3, stride: int = 1, active: bool = True) -> nn.Sequential:
    """A convolution from a to b channels, its batch norm, and (unless not `active`) a ReLU."""
    layers = [nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, *[nn.ReLU(inplace=True)] * active)


# %% tags=["export"]
class Residual(nn.Module):
    """Two 3 × 3 convolutions around which the input goes. He et al. 2016."""

    def __init__(self, width: int):
        super().__init__()
        self.ahead = nn.Sequential(convolution(width, width), convolution(width, width, active=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return relu(x + self.ahead(x))


# %% tags=["export"]
class Bottleneck(nn.Module):
    """1 × 1 to fewer channels, 3 × 3, 1 × 1 to four times as many, around which the input goes. He et al. 2016."""

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        last = convolution(width, 4 * width, 1, active=False)
        self.ahead = nn.Sequential(convolution(inputs, width, 1), convolution(width, width, 3, stride), last)
        same = inputs == 4 * width and stride == 1
        self.around = nn.Identity() if same else convolution(inputs, 4 * width, 1, stride, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 width, H / stride, W / stride)."""
        return relu(self.around(x) + self.ahead(x))


# %% tags=["export"]
def path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """What leads from one branch to another, both counted from the finest: nothing; to a finer one 1 × 1 and repeated
    pixels; to a coarser one a strided 3 × 3 for every halving, the channels changing in the last. HRNet's code."""
    a, b = widths[source], widths[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(convolution(a, b, 1, active=False), nn.Upsample(scale_factor=2 ** (source - target)))
    halvings = [convolution(a, a, stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, convolution(a, b, stride=2, active=False))


# %% [markdown]
# ### Exercise 14.1 — the exchange  ●●○ (10 min)
#
# The paths are built; `self.paths[target][source]` is $f_{ij}$ with $i$ the target. A row for each branch that is
# wanted: the last module of the network needs the finest one only.
#
# <details><summary>Hint 1</summary>
#
# For one target: go through `zip(row, branches)`, send each branch through its path, and add up what arrives. All of
# them have the target's shape then.
# </details>
# <details><summary>Hint 2</summary>
#
# There are as many answers as rows, not as branches. The ReLU comes once, after the sum: no path ends in one.
# </details>

# %% tags=["export"]
class Exchange(nn.Module):
    """Every branch gets a sum of all: (B, C_i, H_i, W_i), the finest first -> the first `outputs` of them."""

    def __init__(self, widths: Sequence[int], outputs: int | None = None):
        super().__init__()
        branches = range(len(widths))
        rows = ([path(widths, source, target) for source in branches] for target in branches[:outputs])
        self.paths = nn.ModuleList(nn.ModuleList(row) for row in rows)  # paths[target][source]

    @exercise("14.1")
    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """See the class. Equation (14.1); Sun et al. 2019 (HRNet)."""
        raise TODO


# %%
check(Exchange.forward)


# %% tags=["export"]
class Branches(nn.Module):
    """A module of HRNet: residual blocks in each branch, then the exchange."""

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int | None = None):
        super().__init__()
        self.each = nn.ModuleList(nn.Sequential(*[Residual(w) for _ in range(blocks)]) for w in widths)
        self.exchange = Exchange(widths, outputs)

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """As `Exchange`."""
        return self.exchange([blocks(x) for blocks, x in zip(self.each, branches, strict=True)])


# %% tags=["export"]
COLOUR_MEAN, COLOUR_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as HigherHRNet has them


def standardized(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> less ImageNet's mean, over its spread. ValueError for another shape."""
    require("images", images, None, 3, None, None)
    mean, spread = (images.new_tensor(values)[:, None, None] for values in (COLOUR_MEAN, COLOUR_SPREAD))
    return (images - mean) / spread


# %% [markdown]
# ### Two heads
#
# HRNet ends with a 1 × 1 convolution that makes maps of the finest branch, at a quarter of the picture's side.
# **HigherHRNet** (Cheng et al. 2020) adds a second head: features *and* first maps go through a transposed convolution
# that doubles the side, some residual blocks, and make maps once more, at half the picture's side. For MPT's crops of
# 224 pixels these are the maps of 112 × 112 in Table 3. (Which maps MPT takes the supplement doesn't say; 17 from the
# second head is our choice, and for 224 they are resized.)
#
# Our network must run on one core. Its crops are 128 pixels wide, its finest branch has an *eighth* of the picture's
# side and the second head a quarter: 32 × 32, the maps that chapter 13's small transformer reads.

# %% tags=["export"]
def start_small(layer: nn.Conv2d) -> None:
    """Begins a layer that makes maps with nearly nothing, as HRNet's code does: most of a heatmap is 0."""
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)


class Heads(nn.Module):
    """HigherHRNet's two heads: features of the finest branch (B, w, s, s) -> maps (B, joints [+ tags], s, s), and from
    both, in twice the resolution, (B, joints, 2 s, 2 s)."""

    def __init__(self, config: PoseConfig):
        super().__init__()
        w, first = config.width, config.joints * (2 if config.tags else 1)
        self.first = nn.Conv2d(w, first, 1)
        doubled = nn.ConvTranspose2d(w + first, w, 4, 2, 1, bias=False)
        blocks = [Residual(w) for _ in range(config.blocks)]
        self.second = nn.Sequential(doubled, nn.BatchNorm2d(w), nn.ReLU(inplace=True), *blocks)
        self.last = nn.Conv2d(w, config.joints, 1)

    def forward(self, features: Tensor) -> list[Tensor]:
        """See the class."""
        coarse = self.first(features)
        fine = self.last(self.second(torch.cat([features, coarse], 1)))
        return [coarse[:, : self.last.out_channels], fine]


# %% tags=["export"]
class PoseNet(nn.Module):
    """Pictures (B, 3, H, H) in [0, 1] -> heatmaps (B, 17, S, S), S = `config.maps` for H = `config.size`. A HigherHRNet
    of any size: Cheng et al. 2020, and its code; MPT supplement F."""

    def __init__(self, config: PoseConfig):
        super().__init__()
        w, s, halvings = config.width, config.stem, config.stride.bit_length() - 1
        self.stem = nn.Sequential(*[convolution(a, s, stride=2) for a in (3, s, s)[:halvings]])
        self.lows = nn.Sequential(*[Bottleneck(4 * s if i else s, s) for i in range(config.bottlenecks)])
        self.enter = nn.ModuleList([convolution(4 * s, w), convolution(4 * s, 2 * w, stride=2)])
        self.stages, last = nn.ModuleList(), len(config.modules) - 1
        for i, count in enumerate(config.modules):
            widths = [w << j for j in range(i + 2)]
            ends = [1 if i == last and j == count - 1 else None for j in range(count)]  # at last the finest is enough
            self.stages.append(nn.Sequential(*[Branches(widths, config.blocks, end) for end in ends]))
        self.grow = nn.ModuleList(convolution(w << i, w << (i + 1), stride=2) for i in range(1, last + 1))
        self.heads = Heads(config)
        for layer in (self.heads.first, self.heads.last):
            start_small(layer)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, H) -> the finest branch (B, w, s, s)."""
        x = self.lows(self.stem(standardized(images)))
        branches = self.stages[0]([enter(x) for enter in self.enter])
        for grow, stage in zip(self.grow, self.stages[1:], strict=True):
            branches = stage([*branches, grow(branches[-1])])
        return branches[0]

    def forward(self, images: Tensor, every: bool = False) -> Tensor | list[Tensor]:
        """See the class; every: the maps of all resolutions, coarse to fine. ValueError for pictures without three
        colours, or of a side that the coarsest branch doesn't divide."""
        deepest = 2 ** (len(self.stem) + len(self.stages))
        if images.ndim == 4 and (images.shape[2] % deepest or images.shape[3] % deepest):
            raise ValueError(f"pictures are {tuple(images.shape[2:])}: use sides that {deepest} divides")
        maps = self.heads(self.features(images))
        return maps if every else maps[-1]


# %% [markdown]
# What do the coarser branches bring? Take one cell in the middle of the finest branch and ask which pixels of the
# picture can change it: the gradient's size, pixel by pixel. Once as it is, once with all paths from the coarser
# branches cut.

# %%
def reach(network, side=128):
    """Which pixels the middle cell of the finest branch looks at: (side, side), 1 at the most."""
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features = network.features(images)
    middle = features.shape[-1] // 2
    features[:, :, middle, middle].square().sum().backward()
    size = images.grad.abs().mean((0, 1))
    return size / size.max()


def cut(network):
    """The same network, no branch listening to a coarser one."""
    for module in network.modules():
        if isinstance(module, Exchange):
            for target, row in enumerate(module.paths):
                for layer in row[target + 1 :]:
                    nn.init.zeros_(layer[0][1].weight)
    return network


# %%
torch.manual_seed(0)
network = PoseNet(PoseConfig()).eval()
seen_from = {"with the exchange": reach(network), "without coarser branches": reach(cut(network))}
plots.show_images([values.sqrt() for values in seen_from.values()], list(seen_from), height=2.4, cmap="magma")
plt.show()
widths = {name: int((values > 1e-3).any(0).sum()) for name, values in seen_from.items()}
print("columns of the picture that reach the middle cell:", widths)
assert widths["with the exchange"] > widths["without coarser branches"]

# %% [markdown]
# *The square root of the influence, so that weak influence shows. The networks are untrained; training changes the
# weights, not what is connected.*

# %% [markdown]
# ### Counted
#
# The same class at the paper's size, on the *meta* device, where a tensor has a shape and no numbers. Section F names
# HRNet-W48, Table 1 says 28 million:

# %% tags=["export"]
W32 = PoseConfig(224, stem=64, width=32, stride=4, bottlenecks=4, modules=(1, 4, 3), blocks=4, tags=True)
W48 = replace(W32, width=48)

# %%


@lru_cache
def counted(config):
    """A network of a configuration, without numbers, and its weights in millions."""
    with torch.device("meta"):
        network = (PoseNet if config.kind == "hrnet" else SimpleBaseline)(config)
    return network, sum(p.numel() for p in network.parameters()) / 1e6


# %%
for name, shown, expected in (("W32", W32, 28.645331), ("W48", W48, 63.827139)):
    network, millions = counted(shown)
    maps = network(torch.zeros(1, 3, 224, 224, device="meta"))
    print(f"HigherHRNet-{name}: {millions:.2f} M weights, maps {tuple(maps.shape[1:])}")
    assert abs(millions - expected) < 1e-6 and maps.shape[1:] == (17, 112, 112)
print(f"the course's: {counted(PoseConfig())[1]:.2f} M")


# %% [markdown]
# This is, to the last weight, what chapter 13 counted by hand, and what HigherHRNet's authors print. (Among them are 17
# maps of "tags", by which HigherHRNet tells several people apart; MPT's crops hold one, and nothing reads them.) So
# **28 M is W32**, and the W48 of section F has 63.8 M. The paper contradicts itself; we take W32 as Table 1's.

# %% [markdown]
# ## 2 A plainer network
#
# **The question.** Must it be that complicated?
#
# The paper has an ablation: "we replace HigherHRNet with SimpleBaseline, which is based on ResNet101 architecture" (F;
# the supplement gives no numbers). SimpleBaseline (Xiao et al. 2018) is what its name says: a classifier's ResNet,
# which goes down to a thirty-second of the picture's side, then three transposed convolutions that double it, then a 1
# × 1 convolution. So the place of a joint has to pass through a map of 7 × 7 cells, encoded in its channels.

# %% tags=["export"]
class SimpleBaseline(nn.Module):
    """Pictures (B, 3, H, H) in [0, 1] -> heatmaps (B, 17, H / 4, H / 4): a ResNet, then three deconvolutions. Xiao et
    al. 2018; MPT supplement F."""

    def __init__(self, config: PoseConfig):
        super().__init__()
        w, h = config.width, config.head
        stem = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        stages, inputs = [], w
        for i, count in enumerate(config.layers):
            for j in range(count):
                stages.append(Bottleneck(inputs, w << i, stride=2 if i and not j else 1))
                inputs = 4 * (w << i)
        self.resnet, ups = nn.Sequential(*stem, *stages), []
        for a in (inputs, h, h):
            ups += [nn.ConvTranspose2d(a, h, 4, 2, 1, bias=False), nn.BatchNorm2d(h), nn.ReLU(inplace=True)]
        self.up, self.last = nn.Sequential(*ups), nn.Conv2d(h, config.joints, 1)
        start_small(self.last)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, H) -> what the maps are read from, (B, head, H / 4, H / 4)."""
        return self.up(self.resnet(standardized(images)))

    def forward(self, images: Tensor, every: bool = False) -> Tensor | list[Tensor]:
        """See the class; every: the maps in a list. ValueError for pictures without three colours, or of a side that 32
        doesn't divide."""
        if images.ndim == 4 and (images.shape[2] % 32 or images.shape[3] % 32):
            raise ValueError(f"pictures are {tuple(images.shape[2:])}: use sides that 32 divides")
        maps = self.last(self.features(images))
        return [maps] if every else maps


# %% tags=["export"]
NETWORKS = {"hrnet": PoseNet, "resnet": SimpleBaseline}


def pose_network(config: PoseConfig) -> nn.Module:
    """The 2D pose network of a configuration. ValueError for a kind that there isn't."""
    if config.kind not in NETWORKS:
        raise ValueError(f"no pose network is called {config.kind!r}: use {' or '.join(NETWORKS)}")
    return NETWORKS[config.kind](config)


# %% [markdown]
# ResNet-101 is a row of numbers for it: stages of 3, 4, 23 and 3 bottlenecks. How do they compare, in weights and in
# work? `FlopCounterMode` counts what passes through, two for each multiplication with its addition.

# %%
from torch.utils.flop_counter import FlopCounterMode

# %% tags=["export"]
RESNET101 = PoseConfig(224, "resnet", width=64, layers=(3, 4, 23, 3), head=256)
SMALL_RESNET = PoseConfig(kind="resnet", width=16)

# %%


def work(config):
    """Millions of weights, and billions of operations for a crop."""
    network, millions = counted(config)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, config.size, config.size, device="meta"))
    return millions, counter.get_total_flops() / 1e9


# %%
networks = {"HigherHRNet-W32": W32, "HigherHRNet-W48": W48, "SimpleBaseline-101": RESNET101}
networks |= {"the course's small HRNet": PoseConfig(), "the course's small ResNet": SMALL_RESNET}
counts = {name: work(shown) for name, shown in networks.items()}
for name, (millions, billions) in counts.items():
    print(f"{name:27s}{networks[name].size:4d}²{millions:7.2f} M weights{billions:8.2f} G operations, "
          f"maps {networks[name].maps}²")  # fmt: skip
assert round(counts["SimpleBaseline-101"][0], 1) == 53.0  # as its authors print it

# %% [markdown]
# A study in section 10 asks which of the two is better for MPT, and by how much. From here on the small HRNet is the
# pose network, and `pose_network(config)` makes whichever a configuration names.

# %% [markdown]
# ## 3 Training it
#
# **The question.** MPT's pose networks come ready, trained on the photographs of COCO. Ours starts from nothing. On
# what?
#
# On rendered people. `course_lib.data.pictured` goes through rendered sets and takes each person who is *whole*: nine
# tenths of the box inside the picture, at least three tenths of the picture large, half of the body not hidden. It
# knows each person's mesh, too, from the pose in the label; section 5 will need it. The people of the test split are
# others.

# %% tags=["export"]
TINY = {"stem": 8, "width": 8, "blocks": 1}
POSE_CONFIGS = {
    "smoke": PoseConfig(64, batch_size=4, steps=3, worlds=(("studio", 8), ("wild", 8)), side=48, **TINY),
    "laptop": PoseConfig(steps=500),
    "shipped": PoseConfig(steps=3000),
    "gpu": PoseConfig(224, stem=64, width=32, stride=4, bottlenecks=4, modules=(1, 4, 3), blocks=4, batch_size=64,
                      steps=20_000, lr=1e-3, precision="bf16"),
}  # fmt: skip

# %%
from course_lib.studies import mpt_pose as measured

config = pick(smoke=POSE_CONFIGS["smoke"], laptop=POSE_CONFIGS["laptop"])
people = {split: measured.people(config, split) for split in ("train", "test")}
for split, found in people.items():
    print(f"{split:6s}{len(found):6d} people in {len(found.images)} pictures; {len(found.names)} different ones")
assert not set(people["train"].names) & set(people["test"].names)


# %% [markdown]
# **The input** is chapter 07's crop around a person, square. In training it is looser or tighter at random, turned by
# up to 30 degrees, half of the time mirrored (and then the left wrist is a right wrist), each colour channel brighter
# or darker. A joint **counts** where it is labelled and inside the crop.

# %% tags=["export"]
def pose_batch(config: PoseConfig, found, generator: torch.Generator, count: int) -> Batch:
    """`count` people of `found` (`data.pictured.Pictured`), drawn at random, for `pose_loss`: crops that are looser or
    tighter, turned by up to 30 degrees, half of them mirrored, each colour brighter or darker. Chapter 07's tools."""
    uniform = lambda low, high, *shape: low + (high - low) * torch.rand(count, *shape, generator=generator)  # noqa: E731
    chosen, size = torch.randint(len(found), (count,), generator=generator), (config.size, config.size)
    people = {name: values[chosen] for name, values in found.people.items()}
    turn = torch.pi / 6
    matrix = crop_matrix(people["box"], size, uniform(*config.margin), uniform(-turn, turn))
    image = cut_out(found.images[people["picture"]], matrix, size)  # (B, 3, H, H)
    points = 2 * move(people["points"], inverse(matrix)) / config.size - 1  # (B, 17, 2)
    flip, swap = uniform(0, 1) < 0.5, MIRROR[config.joints]
    image = torch.where(flip[:, None, None, None], image.flip(-1), image) * uniform(0.6, 1.4, 3, 1, 1)
    points = torch.where(flip[:, None, None], points[:, swap] * points.new_tensor([-1, 1]), points)
    visible = torch.where(flip[:, None], people["visible"][:, swap], people["visible"]) > 0
    seen = visible & (points.abs() < 1).all(-1)  # false for NaN, too
    return {"image": image.clamp(0, 1), "points": points.where(seen[..., None], 0.0), "seen": seen.float()}


# %%
batch = pose_batch(config, people["train"], torch.Generator().manual_seed(3), pick(smoke=2, laptop=6))
plots.show_images(list(batch["image"]), height=2.0)
for ax, points, seen in zip(plt.gcf().axes, batch["points"], batch["seen"], strict=False):
    plots.draw_keypoints(ax, (points[seen > 0] + 1) * config.size / 2)
plt.show()


# %% [markdown]
# **The target** is chapter 13's: a Gaussian dot of height 1, drawn by the very function that drew the transformer's
# input, `synthesize_heatmaps`, with its σ. (HigherHRNet's own target is the same but for σ.) So the network is taught
# to draw just what the transformer was taught to read.
#
# **The loss** is the mean squared difference, at *each* of the network's resolutions, added up. With maps
# $\hat{\mathbf H}^r$ of side $S_r$, their targets $\mathbf H^r$, and $w_{bk}$ 1 where joint $k$ of sample $b$ counts,
#
# $$\mathcal L = \sum_r \frac{1}{B K S_r^2} \sum_{b, k} w_{bk} \,\bigl\|\hat{\mathbf H}^r_{bk} -
#  \mathbf H^r_{bk}\bigr\|^2. \tag{14.2}$$
#
# ### Exercise 14.2 — the loss at every resolution  ●○○ (8 min)
#
# Write (14.2) for a batch: every resolution that the network gives has a target of its own.
#
# <details><summary>Hint 1</summary>
#
# `synthesize_heatmaps(points, size, sigma)` draws it, `sigma_for(size)` is its σ. `model(batch["image"], every=True)`
# is a list of maps, coarse to fine. Each needs a target of its own size, and `sigma_for(size)` of that size.
# </details>
# <details><summary>Hint 2</summary>
#
# First the mean over the cells, (B, K); times `batch["seen"]`; then the mean over everything. That is chapter 07's
# `heatmap_loss`: the mean is over all joints, whether they count or not.
# </details>

# %% tags=["export"]
@exercise("14.2")
def pose_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Heatmap MSE, equation (14.2). batch: image (B, 3, H, H), points (B, 17, 2) in crop coordinates, seen (B, 17), 1
    where the point counts -> a scalar: mean over samples, joints and cells, summed over the network's resolutions."""
    raise TODO


# %%
check(pose_loss)


# %% tags=["export"]
def pose_example(config: PoseConfig, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    shapes = {"image": (3, config.size, config.size), "points": (config.joints, 2), "seen": (config.joints,)}
    return {name: torch.rand(count, *shape) for name, shape in shapes.items()}


def pose_recipe(config: PoseConfig, stream: Stream | None) -> Recipe:
    """The training of a 2D pose network: Adam, a short warm-up, a line to zero. Our choice."""
    return Recipe(
        name=f"pose-{config.kind}-{config.width}",
        model=partial(pose_network, config),
        loss=pose_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer("adam", config.lr, (0.9, 0.999), weight_decay=0.0),
        schedule=Linear(round(config.warmup * config.steps)),
        precision=config.precision,
        clip=config.clip,
        blocks=("Branches", "Bottleneck"),
        channels_last=True,
        example=partial(pose_example, config),
        paper=config.paper,
    )


# %% [markdown]
# **The run.** The switch is chapter 13's: `"train"` trains a small network now, for a few minutes; `"load"` takes the
# one that comes with the course, of the same code and trained for longer. If that isn't there yet, the cell says so.

# %% tags=["export"]
POSE_RUNS = "course_lib.studies.mpt_pose"
POSE_SHIPPED = Shipped("mpt_finetuning-pose", POSE_CONFIGS["shipped"], f"{POSE_RUNS}:pose")

# %%
from course_lib import shipped
from course_lib.train import fit

choice = "train"
alike = (config.size, config.maps) == (POSE_SHIPPED.config.size, POSE_SHIPPED.config.maps)
there = alike and shipped.available(POSE_SHIPPED.name)
pose_nets, pose_run = {}, None
if choice == "train" or not there:
    pose_run = fit(pose_recipe(config, measured.stream(config)))
    pose_nets["trained here"] = pose_run.model.eval()
if there:
    pose_nets["shipped"] = pose_network(POSE_SHIPPED.config)
    shipped.load(pose_nets["shipped"], POSE_SHIPPED.name)
else:
    print("not shipped yet (`course ship 14.pose` makes it): what follows is of the network trained here")
best_pose = list(pose_nets)[-1]

# %%
if pose_run is not None:
    plots.curve({"loss": plots.smooth(pose_run.losses)}, ylabel="(14.2)", ylim=(0, None))
    plt.show()
    assert np.isfinite(pose_run.losses).all()
    assert scale() == "smoke" or np.mean(pose_run.losses[-20:]) < 0.8 * np.mean(pose_run.losses[:20])


# %% [markdown]
# ### What it finds
#
# A map's joint is its summit, found below the pixel by chapter 07's `decode_heatmaps`. A joint is **found** if it lies
# nearer to the truth than a share τ of the person's size; the share of joints that are found is **PCK**, the percentage
# of correct keypoints. With $e_{bk}$ the distance in crop coordinates and $s_b$ the longer side of the person's box in
# the same,
#
# $$\mathrm{PCK}_k = \frac{\sum_b w_{bk} \,[\,e_{bk} < τ s_b\,]}{\sum_b w_{bk}}. \tag{14.3}$$
#
# $[\,\cdot\,]$ is 1 where it holds and 0 where not; τ is the argument `reach`. (The size may also be the head's, then
# it is PCKh, or the torso's. Ours is the box, τ = 0.05: for a person of 1.8 m that is 9 cm, about a palm's width.)
#
# ### Exercise 14.3 — the share that is found  ●○○ (8 min)
#
# Write (14.3) for all joints at once.
#
# <details><summary>Hint 1</summary>
#
# `(found - true).norm(dim=-1)` is (B, K); `size` is (B,) and needs a second dimension to be compared with it.
# </details>
# <details><summary>Hint 2</summary>
#
# For a joint that counts in nobody this is 0 / 0. Divide by `seen.sum(0).clamp(min=1)`: it gets 0.
# </details>

# %% tags=["export"]
@exercise("14.3")
def share_found(found: Tensor, true: Tensor, seen: Tensor, size: Tensor, reach: float = 0.05) -> Tensor:
    """PCK of each joint, equation (14.3): points (B, K, 2), found and true; seen (B, K), 1 where a joint counts; size
    (B,), of the people in the points' unit; reach: what is found, in sizes -> (K,), 0 where a joint never counts."""
    raise TODO


# %%
check(share_found)


# %% tags=["export"]
def found_joints(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, K, S, S) -> points (B, K, 2) in crop coordinates, and the maps' maxima (B, K)."""
    points, score = decode_heatmaps(maps, sigma_for(maps.shape[-1]))
    return 2 * points / maps.shape[-1] - 1, score


# %%

MARGIN = 1.2  # a crop's side in sides of the box: what everything is tested with
test = crops(people["test"], torch.arange(len(people["test"])), config.size, MARGIN)
test_size = torch.full((len(test["seen"]),), 2 / MARGIN)  # everybody's box, in crop coordinates
everyone = crops(people["train"], torch.arange(len(people["train"]))[:: pick(smoke=1, laptop=8)], config.size, MARGIN)
usual = (everyone["points"] * everyone["seen"][..., None]).sum(0) / everyone["seen"].sum(0).clamp(min=1)[:, None]
guess = usual.expand_as(test["points"])
shares = {"its mean place": share_found(guess, test["points"], test["seen"], test_size)}
for name, network in pose_nets.items():
    maps = measured.maps_of(network, test["image"])
    points, score = found_joints(maps)
    shares[name] = share_found(points, test["points"], test["seen"], test_size)
    known = test["seen"].sum(1) > 0
    pooled = metrics.pck(points[known], test["points"][known], 0.05, test["seen"][known] > 0, None, test_size[known])
    print(f"{name}: PCK {shares[name].mean():.3f} (mean of joints), {pooled.mean():.3f} (mean of people)")
print(f"a joint guessed at its mean place: {shares['its mean place'].mean():.3f}")
assert scale() == "smoke" or shares[best_pose].mean() > 1.5 * shares["its mean place"].mean()

# %%
names = FORMATS["coco17"]
_, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
for column, (name, share) in enumerate(shares.items()):
    ax.bar(np.arange(17) + 0.28 * (column - (len(shares) - 1) / 2), share, 0.28, label=name)
ax.set_xticks(range(17), names, rotation=60, ha="right", fontsize=8)
ax.set(ylabel="PCK, τ = 0.05", ylim=(0, 1))
ax.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# *Held-out people.* Trunk and head are easy; what can be anywhere, wrists and ankles, is hard; ears and eyes are small,
# and half of the people turn their backs. The crop, the maps in one picture, and what was found:

# %%
HUES = torch.tensor(plt.get_cmap("hsv")(np.linspace(0, 0.92, 17))[:, :3]).float()
COCO_BONES = (
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 6),
    (11, 12),
    (5, 11),
    (6, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)


def coloured(maps):
    """Maps (17, S, S) in one picture: every joint in its colour, as in chapter 13."""
    return 1 - torch.einsum("khw,kc->hwc", maps.clamp(0, 1), 1 - HUES).clamp(0, 1)


def side_by_side(images, maps, truth, found, seen):
    """A column each: the crop with the true joints, the maps, the crop with those that were found."""
    shown = [*images, *map(coloured, maps), *images]
    plots.show_images(shown, columns=len(images), height=1.7)
    for i, ax in enumerate(plt.gcf().axes):
        row, column = divmod(i, len(images))
        if row != 1:
            points = ((truth, found)[row // 2][column] + 1) * images.shape[-1] / 2
            plots.draw_keypoints(ax, points, seen[column] > 0, COCO_BONES, size=6)


# %%
errors = ((points - test["points"]).norm(dim=-1) * test["seen"]).sum(1) / test["seen"].sum(1).clamp(min=1)
order = errors.argsort()
picked = order[torch.linspace(0, len(order) - 1, pick(smoke=3, laptop=7)).long()]
side_by_side(*(values[picked] for values in (test["image"], maps, test["points"], points, test["seen"])))
plt.show()

# %% [markdown]
# *From the best of the test set at the left to the worst at the right, evenly.* Where the network is sure there are
# dots; where it isn't they become clouds, low and wide, and sometimes two. Chapter 13's mistakes, jitter, drop-outs and
# spurious dots, look different. How high is a summit, compared with the 1 that the transformer knows?

# %%
right = ((points - test["points"]).norm(dim=-1) < 0.05 * test_size[:, None])[test["seen"] > 0]
heights = score[test["seen"] > 0]
if len(heights) > 20:
    _, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
    bins = np.linspace(0, 1.1, 34)
    ax.hist(
        [heights[right], heights[~right]], bins, stacked=True, label=["found", "missed"], color=["#1b6ca8", "#edae49"]
    )
    ax.set(xlabel="height of the summit", ylabel="joints")
    ax.legend(frameon=False)
    plt.show()
print(f"median height: {heights[right].median():.2f} of those found, {heights[~right].median():.2f} of those missed")


# %% [markdown]
# ## 4 Trained on whole pictures, used on crops
#
# **The question.** "We note that HigherHRNet was pre-trained using the non-cropped images, but we use 224 × 224 cropped
# images instead" (E). Does that matter?
#
# HigherHRNet is made for pictures of several people: its maps have a dot for *every* nose. MPT gives it a crop, in
# which one person is large and the only one that is meant. Two things change: how large people are, and who else is
# there.
# The supplement only says what it expects: "increasing the input resolution to the original resolution … could further
# enhance model performance". We can measure it: two networks of one size, equally many steps, one trained on crops, as
# above, the other on the same kind of pictures *whole*.
#
# For a whole picture with people $m = 1 … M$ the target has to show all of them. Where dots overlap the higher one
# counts, as in HigherHRNet's code:
#
# $$\mathbf H_k = \max_m\, \mathbf H_k^{(m)}. \tag{14.4}$$
#
# A sum would reach 2 where two people touch.
#
# ### Exercise 14.4 — everybody's heatmaps  ●●○ (10 min)
#
# Write (14.4). Pictures have different numbers of people; rows of NaN fill up the rest.
#
# <details><summary>Hint 1</summary>
#
# `synthesize_heatmaps` wants (B, K, 2) and makes empty maps of NaN. It doesn't matter whether a row is another picture
# or another person in the same one: `points.flatten(0, 1)` is (B · M, K, 2).
# </details>
# <details><summary>Hint 2</summary>
#
# Back with `.unflatten(0, points.shape[:2])`, (B, M, K, S, S).
# </details>

# %% tags=["export"]
@exercise("14.4")
def everyones_heatmaps(points: Tensor, size: int, sigma: float) -> Tensor:
    """Points (B, M, K, 2) of up to M people in each picture, NaN where there is nobody or no such point -> heatmaps
    (B, K, size, size) that show all of them, equation (14.4). Cheng et al. 2020, and its code."""
    raise TODO


# %%
check(everyones_heatmaps)


# %% tags=["export"]
def crowd_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Heatmap MSE on whole pictures. batch: image (B, 3, H, H), crowd (B, M, 17, 2), everybody's points in crop
    coordinates, NaN where there is none -> a scalar, as `pose_loss`, every joint counting."""
    sizes = [(maps, maps.shape[-1]) for maps in model(batch["image"], every=True)]
    targets = (everyones_heatmaps(batch["crowd"], size, sigma_for(size)) for _, size in sizes)
    return sum((maps - target).square().mean() for (maps, _), target in zip(sizes, targets, strict=True))


# %%
few = pick(smoke=2, laptop=6)
crowd = measured.crowd(config, 8 * few)  # whole pictures with everybody's points
shown = crowd["crowd"].isfinite().all(-1).any(2).sum(1).argsort(descending=True, stable=True)[:few]  # the fullest
drawn = everyones_heatmaps(crowd["crowd"][shown], config.maps, sigma_for(config.maps))
plots.show_images([*crowd["image"][shown].float() / 255, *map(coloured, drawn)], columns=len(shown), height=1.8)
plt.show()
print(f"up to {crowd['crowd'].shape[1]} people in a picture")


# %% [markdown]
# *Whole pictures and their targets, the fullest of some.* Training is the same but for the batch and the loss. With the
# batch two more things differ: whole pictures are all of `wild` (crops are of both worlds), and they are mirrored and
# coloured, but neither turned nor zoomed. Part of a difference may come from there, above all in the column `studio`.
# Two short runs may differ by chance, so this is a study: each arm is trained three times (`course study 14.whole`).

# %% tags=["export"]
@dataclass(frozen=True)
class PoseArm:
    """One arm of the study: trained on whole pictures, or on crops."""

    whole: bool = False


WHOLE = Study("14.whole", "trained on whole pictures or on crops (supplement E)",
              {"crops": PoseArm(), "whole pictures": PoseArm(whole=True)}, f"{POSE_RUNS}:compare", 800)  # fmt: skip

# %% [markdown]
# Both arms then look at the same held-out people in crops, and from column to column the crops get larger: the person
# fills five sixths of the first (a margin of 1.2, the course's own choice), and about two thirds, a half and a third of
# the others. The last two columns are the first once more, world by world: in `studio` everybody is alone, in `wild`
# there may be other people, and things in front of them.

# %% tags=["result"]
from course_lib import study

whole_rows = study.summary(WHOLE) if scale() != "smoke" else {}
print(f"{WHOLE.title}{'' if whole_rows else ': no records yet, `course study 14.whole` makes them'}")
print(f"{'PCK, τ = 0.05':16s}" + "".join(f"{name:>16s}" for name in measured.COLUMNS))
for name, row in whole_rows.items():
    print(f"{name:16s}" + "".join(f"{row[key][0]:9.3f} ± {row[key][1]:.3f}" for key in measured.COLUMNS))
if len(whole_rows) == len(WHOLE.arms):
    pair = [row["margin 1.2"] for row in whole_rows.values()]
    far = study.beyond_spread(*pair)
    print(f"whole pictures cost {pair[0][0] - pair[1][0]:+.3f} PCK, {'beyond' if far else 'within'} the spread")


# %% [markdown]
# What is comparable to the paper: the question, not the amount. HigherHRNet was trained for much longer, on many more
# pictures, and COCO's people are smaller in their pictures than ours. And a network that was trained on whole pictures
# puts dots on *all* the noses in a crop, as it was taught to; it was never taught which person is meant.

# %% [markdown]
# ## 5 The mesh regressor
#
# **The question.** One network makes maps of pictures, the other a mesh of maps. Is it enough to put them together?
#
# Putting them together is a class of a few lines. What passes between them are the maps, as they are; no summit is
# taken, so gradients can flow back from the mesh to the picture. Maps of another size than the transformer was trained
# with are resized (E: "112 × 112" or "224 × 224").

# %% tags=["export"]
class MeshRegressor(nn.Module):
    """Pictures (B, 3, H, H) in [0, 1] -> the answers of chapter 13's `MeshTransformer`, and "maps" (B, 17, S, S), what
    it was shown. config: with `pose`, a `PoseConfig`, and `mesh`, chapter 13's `Config`. MPT supplement F."""

    def __init__(self, config, levels: Levels):
        super().__init__()
        made, read = config.pose.joints, config.mesh.maps
        if made != read:
            raise ValueError(f"the pose network makes {made} maps, the transformer reads {read}: give both the same")
        self.pose, self.mesh = pose_network(config.pose), MeshTransformer(config.mesh, levels)
        self.size = config.mesh.size

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """See the class. Maps of another size than the transformer's are resized (MPT supplement E)."""
        maps = self.pose(images)
        if maps.shape[-1] != self.size:
            maps = interpolate(maps, (self.size, self.size), mode="bilinear", antialias=maps.shape[-1] > self.size)
        return self.mesh(maps) | {"maps": maps}


# %%
from types import SimpleNamespace

from course_lib.chapters import mpt_pretraining as pretraining

tiny = scale() == "smoke"  # there the transformer is not trained at all
mesh_config = pretraining.SHIPPED["pretrained"].config
if tiny:
    mesh_config = replace(pretraining.CONFIGS["smoke"], levels=mesh_config.levels)
levels = pretraining.body_levels(mesh_config.levels)
pose_config = POSE_SHIPPED.config if best_pose == "shipped" else config
regressor = MeshRegressor(SimpleNamespace(pose=pose_config, mesh=mesh_config), levels)
record = None if tiny else shipped.load(regressor.mesh, pretraining.SHIPPED["pretrained"].name)
regressor.pose.load_state_dict(pose_nets[best_pose].state_dict())
regressor.eval()
print({name: f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M" for name, part in regressor.named_children()})


# %% [markdown]
# ### Procrustes, and what it forgives
#
# Chapter 13 took two errors from the library, and the second deserves a look from inside. **MPJPE** is the mean
# distance of the joints once both have the middle of their hips in the origin. **PA-MPJPE** first lets the best
# similarity move the answer onto the truth (chapter 01's Procrustes):
#
# $$\mathrm{PA}(\hat{\mathbf X}, \mathbf X) = \frac1J \sum_{j=1}^J \bigl\| s \mathbf R \hat{\mathbf X}_j + \mathbf t -
#  \mathbf X_j \bigr\|, \qquad (s, \mathbf R, \mathbf t) = \arg\min \sum_j \bigl\| s \mathbf R \hat{\mathbf X}_j +
#  \mathbf t - \mathbf X_j \bigr\|^2. \tag{14.5}$$
#
# What is left is posture. How large the person is, and which way they face, is forgiven.
#
# ### Exercise 14.5 — PA-MPJPE  ●●○ (10 min)
#
# Write (14.5) for a batch, with the fit by chapter 01's `procrustes`.
#
# <details><summary>Hint 1</summary>
#
# `scale, R, t = procrustes(found, true)` does the fit, for a whole batch: (B,), (B, 3, 3), (B, 3). Points are rows:
# moved by `points @ R.mT`.
# </details>
# <details><summary>Hint 2</summary>
#
# `scale[:, None, None]` and `t[:, None]` have the dimensions that are missing. Metres come in, millimetres go out.
# </details>

# %% tags=["export"]
@exercise("14.5")
def pa_error(found: Tensor, true: Tensor) -> Tensor:
    """Joints (B, J, 3), found and true, metres -> PA-MPJPE of each person (B,), millimetres. Equation (14.5)."""
    raise TODO


# %%
check(pa_error)

# %%
someone = test["joints"][:1]
turned = 1.3 * someone @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0].mT
turned = turned * torch.sign(torch.linalg.det(turned[0, :3]) * torch.linalg.det(someone[0, :3]))  # no mirror image
mirrored = someone * torch.tensor([-1.0, 1.0, 1.0])
for name, changed_joints in (("turned, and 30 % larger", turned), ("in a mirror", mirrored)):
    plain = metrics.mpjpe(changed_joints, someone, root=[2, 3])
    print(f"{name:26s}MPJPE {plain.item():6.1f} mm, PA-MPJPE {pa_error(changed_joints, someone).item():6.1f} mm")
assert pa_error(turned, someone) < 0.01 and pa_error(mirrored, someone) > 1
assert torch.allclose(pa_error(mirrored, someone).double(), metrics.pa_mpjpe(mirrored, someone).double(), atol=1e-3)

# %% [markdown]
# A mirror image is *not* forgiven: a rotation can't turn a left hand into a right one.
#
# ### The gap
#
# The same held-out people, three times. With maps of the **true** joints, drawn as in chapter 13, those outside the
# crop left out: what the transformer can do. With the pose network's **maps**. And with dots drawn anew at the summits
# of these maps: the places are the network's, the look is chapter 13's. None of this has been fine-tuned: the
# transformer has never seen a map that a network made.

# %%
true_points = test["points"].where(test["seen"][..., None] > 0, torch.nan)
said = measured.answers(regressor, test["image"])
network_maps = said["maps"]
summits, _ = found_joints(network_maps)
sharp = (synthesize_heatmaps(spots, mesh_config.size, sigma_for(mesh_config.size)) for spots in (true_points, summits))
true_dots, new_dots = (measured.answers(regressor.mesh, maps) for maps in sharp)
answers = {"true joints": true_dots, "the network's maps": said, "dots at their summits": new_dots}

# %%
results = {"mean pose": measured.mean_pose(people["train"], test)}
results |= {name: measured.mesh_metrics(found, test) for name, found in answers.items()}
print(f"{len(test['image'])} held-out people in pictures{'MPJPE':>16s}{'PA-MPJPE':>12s}{'MPVE':>10s}")
for name, row in results.items():
    print(f"{name:33s}{row['mpjpe']:13.1f}{row['pa_mpjpe']:12.1f}{row['mpvpe']:10.1f}")
if record:
    print(f"{'(chapter 13, its own cameras)':33s}" + "".join(f"{record['metrics'][k]:{n}.1f}" for k, n in
          (("mpjpe", 13), ("pa_mpjpe", 12), ("mpvpe", 10))))  # fmt: skip
assert tiny or results["true joints"]["pa_mpjpe"] < results["the network's maps"]["pa_mpjpe"]

# %% [markdown]
# Two gaps, then. From chapter 13's own test to the first line: other cameras, lower and higher, nearer, tilted, and
# people of whom half an arm may be outside the crop. And from the first line to the second, from true joints to the
# network's maps: this gap the next sections are to close. Row three says how much of it is due to how the maps *look*
# rather than to where their summits are.
#
# Does a person on whom the pose network fails get a bad mesh?

# %%
joint_error = ((summits - test["points"]).norm(dim=-1) * test["seen"]).sum(1) / test["seen"].sum(1).clamp(min=1)
mesh_error = pa_error(answers["the network's maps"]["regressed"], test["joints"])
_, ax = plt.subplots(figsize=(4, 3), layout="constrained")
ax.scatter(50 * MARGIN * joint_error, mesh_error, s=6, alpha=0.5)
ax.set(xlabel="mean error of the 17 joints, % of the box", ylabel="PA-MPJPE, mm", xlim=(0, None), ylim=(0, None))
plt.show()

# %%
from course_lib.widgets import draw_mesh

FACES = torch.from_numpy(levels.faces[0])
GREY, BLUE = (0.75, 0.75, 0.75), (0.5, 0.64, 0.85)
UPRIGHT = torch.tensor([1.0, -1.0, -1.0])  # camera axes -> x right, y up, z toward us
ranks = mesh_error.argsort()[torch.linspace(0, len(mesh_error) - 1, pick(smoke=2, laptop=6)).long()]
looks = {"truth": test["vertices"], "true joints": answers["true joints"]["vertices"]}
looks |= {"the network's maps": answers["the network's maps"]["vertices"]}
figure, axes = plt.subplots(2 + len(looks), len(ranks), figsize=(1.7 * len(ranks), 8.2), layout="constrained")
for column, i in enumerate(ranks):
    axes[0, column].imshow(plots.to_picture(test["image"][i]))
    axes[1, column].imshow(coloured(network_maps[i]))
    for row, (name, vertices) in enumerate(looks.items(), start=2):
        draw_mesh(axes[row, column], vertices[i] * UPRIGHT, FACES, color=(GREY, BLUE)[row > 2])
        axes[row, 0].set_title(name, fontsize=9, loc="left")
for ax in axes.flat:
    ax.axis("off")
plt.show()


# %% [markdown]
# *From the best at the left to the worst at the right. Grey: the truth; blue: the answers.* Compare the columns with
# their maps: are the dots clear, or do two clouds compete? A transformer that was trained on drawn dots has never been
# taught what to make of two blurred ones. It can learn that, and so can the network that draws them.

# %% [markdown]
# ## 6 Pictures that know much, and pictures that know little
#
# **The question.** Meshes are measured in studios. Pictures from everywhere else have a few clicked points at best. How
# can one network learn from both?
#
# MPT is fine-tuned "on a mixture of 2D and 3D training sets" (E); which sets it doesn't say. METRO's code, on whose
# recipe it builds, has five:
#
# | set | pictures | mesh | 3D joints | 2D joints |
# |---|---|---|---|---|
# | Human3.6M | a studio, actors | (fitted) | measured | yes |
# | MuCo-3DHP | actors put before other backgrounds | – | measured | yes |
# | UP-3D | photographs | fitted, checked by people | yes | yes |
# | COCO, 40,000 pictures | photographs | (fitted) | – | clicked |
# | MPII | photographs | – | – | clicked |
#
# **The idea.** Every sample carries, beside its truth, *what is true in it*: a 1 or a 0 for its mesh, for its 3D
# joints, and for each of its 2D joints. A term of the loss counts where there is a 1. For predictions $\hat a$, truth
# $a$ and marks $w_i \in \{0, 1\}$,
#
# $$\mathcal L_1(\hat a, a; w) = \frac{\sum_i w_i\, |\hat a_i - a_i|}{\max(1, \sum_i w_i)}, \tag{14.6}$$
#
# where $i$ runs over all numbers that the marks speak of. The sum is divided by what is *known*. If one divides by the
# size of the batch instead, the 3D terms become smaller, the more 2D pictures happen to be in it. (METRO's code does
# the one for 3D terms and the other for 2D: our choice is the same rule for both.) And nothing known is no error: the
# term is 0.
#
# Marks are *factors*, not a selection `x[known]`: shapes that depend on the data can't be planned for a cluster. There
# is one trap. What isn't known may be NaN, and $0 \cdot \text{NaN}$ is NaN; so are the gradients that pass through it.
#
# ### Exercise 14.6 — a mean over what is known  ●●○ (12 min)
#
# Write (14.6). The marks may be those of samples, (B,), or of joints, (B, J); answer and truth have more dimensions.
#
# <details><summary>Hint 1</summary>
#
# Give the marks the missing dimensions: `known.view(*known.shape, *[1] * (answer.ndim - known.ndim))`, and let them
# count in every number that they speak of with `.expand_as(answer)`.
# </details>
# <details><summary>Hint 2</summary>
#
# First put something harmless where nothing is known: `truth.where(known > 0, 0.0)`. Then `.abs()`, then the factor.
# </details>

# %% tags=["export"]
@exercise("14.6")
def known_l1(answer: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """The mean absolute difference where the truth is known, a scalar, equation (14.6); 0 where nothing is.

    answer, truth (B, ...), of one shape; known (B,) or (B, J), ... 0 or 1: of their first dimensions. What is not known
    may hold anything, NaN too.
    """
    raise TODO


# %%
check(known_l1)


# %% [markdown]
# The loss is chapter 13's (13.9), with this mean in it. (METRO's code takes absolute differences for vertices only;
# those of joints, in 3D and 2D, it squares. All L1 is our choice.) There is no term on the maps. They are free to
# change, and section 9 asks what becomes of them.

# %% tags=["export"]
def mixed_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Equation (13.9) where the truth is known, by (14.6).

    batch: image (B, 3, H, W); joints (B, 14, 3), vertices, middle, coarse (B, V_l, 3), metres, camera axes; spots
    (B, 14, 2) in crop coordinates; mesh_known, joints_known (B,), spots_known (B, 14) -> loss, and its parts without
    weights: joints and mesh in metres, spots. MPT supplement F; METRO's code.
    """
    answer = model(batch["image"])
    camera, kinds = answer["camera"], (answer["joints"], answer["regressed"])
    true = centred(batch["joints"])
    joints = sum(known_l1(centred(kind), true, batch["joints_known"]) for kind in kinds)
    levels = zip(answer["vertices"], (batch[name] for name in ("vertices", "middle", "coarse")), strict=True)
    mesh = sum(known_l1(ours, level, batch["mesh_known"]) for ours, level in levels) / 3
    seen = (weak_perspective_project(kind, camera[:, 0], camera[:, 1:]) for kind in kinds)
    spots = sum(known_l1(spot, batch["spots"], batch["spots_known"]) for spot in seen)
    loss = JOINT_WEIGHT * joints + MESH_WEIGHT * mesh + SPOT_WEIGHT * spots
    return {"loss": loss, "joints": joints, "mesh": mesh, "spots": spots}


# %% [markdown]
# What can a picture without 3D truth teach at all? Of a person's place it says x and y, of depth nothing. The gradient
# of the 2D term says so:

# %%
points = torch.randn(2, 14, 3, requires_grad=True)
shown_at = weak_perspective_project(points, torch.tensor([0.9, 1.1]), torch.zeros(2, 2))
known_l1(shown_at, torch.zeros(2, 14, 2), torch.ones(2, 14)).backward()
print("largest gradient in x, y, z:", [round(float(g), 4) for g in points.grad.abs().amax((0, 1))])
assert (points.grad[..., 2] == 0).all() and (points.grad[..., :2] != 0).all()

# %% [markdown]
# So 2D pictures alone would leave depth to chance. Beside 3D ones they do something else: they show clothes, light and
# places that no studio has, and ask that what is seen there fits. The depth must come from what the network learned
# about bodies.
#
# **Ours.** The course's pictures of the world `studio` play Human3.6M: one person, plain walls, everything known. Those
# of `wild` play COCO: everything may be in the picture, and known are only its 2D joints (clickers leave out what they
# can't see; ours mark all twelve, hidden ones and those outside the crop, too). COCO has neither neck nor top of the
# head, so of LSP-14's joints twelve have a mark and two have none.

# %% tags=["export"]
COCO_KNOWS = 12  # the first of LSP-14's joints, the limbs; neck and top of the head have no point in COCO


def with_marks(batch: Batch, mesh: bool = True, joints: bool = True, spots: int = 14) -> Batch:
    """The batch with marks of what counts as known, the same for every sample: `spots` of the 2D joints, LSP-14's."""
    ones = torch.ones(len(batch["joints"]))
    known = {"mesh_known": mesh * ones, "joints_known": joints * ones}
    return batch | known | {"spots_known": (torch.arange(14) < spots).float().expand(len(ones), -1).clone()}


# %% [markdown]
# ### METRO's augmentation, with the truth turned along
#
# Every time a crop is used it looks different. METRO's code (and Graphormer's) does four things to it:
#
# - **flip**: half of the crops are mirrored;
# - **rotation**: with probability 0.4 by an angle with σ = 30°, never more than 60°;
# - **scale**: the crop's side is multiplied by a number with mean 1 and σ = 0.25, cut to 0.75 … 1.25;
# - **noise**: red, green and blue are multiplied by numbers between 0.6 and 1.4, one each. Then cut to [0, 1].
#
# Noise changes nothing that is true. The others do, each in its own way.
#
# **The mirror.** In a mirror x changes its sign, in the picture and in space, and the left hand has become a right one.
# So names have to be exchanged. For joints there is a table; for a mesh it is harder. Vertex 17 of the mirrored person
# is the mirror image of *another* vertex, one on the other side, and among the 1,723 of our finest level it may not be.
# Among all of the skin's it is: the course's body is symmetric to a tenth of a millimetre. So
# `course_lib.data.pictured` keeps two meshes of each person: `vertices`, and `twin`, those of the mirror image. To
# mirror is to exchange them. (METRO's code mirrors the pose's numbers instead and makes the mesh anew, which comes to
# the same and takes longer.)
#
# ### Exercise 14.7 — the mirror image of a sample  ●●○ (12 min)
#
# Write the mirror for everything in the batch: picture, joints in space and in the picture, marks, mesh. (`seen`, the
# marks of `points`, isn't in the batches that are trained on: leave it out.)
#
# <details><summary>Hint 1</summary>
#
# `tensor.new_tensor([-1, 1, 1])` changes the sign of x where (…, 3) is multiplied by it. In crop coordinates the crop's
# middle is 0, so the same goes for (…, 2).
# </details>
# <details><summary>Hint 2</summary>
#
# `joints[:, SWAP14]` puts the right ankle where the left one was. The marks have names, too.
# </details>

# %% tags=["export"]
SWAP14 = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13]  # LSP-14: ankles, knees, hips; wrists, elbows, shoulders
SWAP17 = MIRROR[17]  # COCO's


@exercise("14.7")
def mirrored(batch: Batch) -> Batch:
    """The batch in a mirror; nothing is changed in place.

    image (B, 3, H, W); spots (B, 14, 2), spots_known (B, 14), joints (B, 14, 3): LSP-14; points (B, 17, 2): COCO-17;
    vertices and twin (B, V, 3), which change places: the mesh and its mirror image's. The rest stays. METRO's code.
    """
    raise TODO


# %%
check(mirrored)


# %% [markdown]
# **Turned.** A picture turned by φ is what a camera sees that has been turned about its axis. With
#
# $$A = k \begin{pmatrix} \cos φ & -\sin φ \\ \sin φ & \cos φ \end{pmatrix}, \tag{14.7}$$
#
# x right and y down (k is the zoom from here on), so that a positive φ turns clockwise, a spot at $\mathbf p$ comes to
# $A \mathbf p$. In space x and y turn alike, and z stays; but $k$, how many times as large the person is shown, changes
# nothing there: in space people keep their size. And the picture goes the *other* way: what is to be seen at $\mathbf
# p$ stands in the old one at $A^{-1} \mathbf p$.
#
# That is right only where the camera's axis goes through the crop's middle. Ours does: the reader gives joints and mesh
# in the axes of a camera that looks at the middle of the person's box. (METRO keeps the picture's own camera, and turns
# about the crop's middle all the same.)
#
# ### Exercise 14.8 — turned and zoomed, with the truth  ●●● (18 min)
#
# Turn and zoom a whole batch by (14.7): the points, the joints and the mesh, and the picture. `angle` is φ, `zoom` is
# $k$.
#
# <details><summary>Hint 1</summary>
#
# (B, 2, 2) matrices from numbers (B,): `torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)`. Rows of points:
# `points @ A.mT`.
# </details>
# <details><summary>Hint 2</summary>
#
# `affine_grid(theta, image.shape, align_corners=False)` with theta (B, 2, 3), here $[A^{-1}, 0]$, says for each pixel
# where to look, in crop coordinates; `grid_sample(image, grid, align_corners=False)` looks. The inverse of $A$ is its
# transpose, divided by $k^2$.
# </details>

# %% tags=["export"]
@exercise("14.8")
def turned(batch: Batch, angle: Tensor, zoom: Tensor) -> Batch:
    """The batch with its crops turned by angle (B,) radians, clockwise, and shown zoom (B,) times as large, about the
    crop's middle; black where nothing was. Equation (14.7); nothing is changed in place.

    image (B, 3, H, W); spots (B, 14, 2), points (B, 17, 2): crop coordinates; joints (B, 14, 3), vertices (B, V, 3):
    metres, camera axes. The rest stays. METRO's code.
    """
    raise TODO


# %%
check(turned)


# %% [markdown]
# All of it, with random numbers:

# %% tags=["export"]
@dataclass(frozen=True)
class Augmentation:
    """METRO's, by its code. flip: the chance of a mirror image; turn: σ of the angle in degrees, cut at twice that;
    turned: the chance to be turned; zoom: σ of the crop's side about 1, cut at once that; noise: of each colour."""

    flip: float = 0.5
    turn: float = 30.0
    turned: float = 0.4
    zoom: float = 0.25
    noise: float = 0.4


UNCHANGED = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)


def augmented(augmentation: Augmentation, batch: Batch, generator: torch.Generator) -> Batch:
    """A batch with float images, augmented at random. The mirror is one for the whole batch: streams bring samples one
    by one."""
    count = len(batch["image"])
    normal = torch.randn(2, count, generator=generator)
    chance, colour = torch.rand(2, count, generator=generator), torch.rand(count, 3, 1, 1, generator=generator)
    angle = (normal[0].clamp(-2, 2) * augmentation.turn).deg2rad() * (chance[0] < augmentation.turned)
    side = 1 + normal[1].clamp(-1, 1) * augmentation.zoom
    batch = mirrored(batch) if chance[1, 0] < augmentation.flip else batch
    batch = turned(batch, angle, 1 / side)
    noise = 1 + augmentation.noise * (2 * colour - 1)
    return batch | {"image": (batch["image"] * noise.to(batch["image"])).clamp(0, 1)}


# %% [markdown]
# (`1 / side`: in a larger square the person is shown smaller.)

# %% [markdown]
# One crop, eight times; the joints are the turned truth, the mesh's silhouette in red is drawn with nothing but the
# best weak-perspective camera (13.11):

# %%
from course_lib.chapters import mpt_finetuning as finished
from course_lib.chapters.mpt_pretraining import weak_perspective_fit
from course_lib.studies import mpt_finetuning as runs

config = finished.CONFIGS[scale()]
levels = body_levels(config.mesh.levels)
samples = runs.people(config)


# %%
def overlay(image, vertices, camera, colour=(0.85, 0.25, 0.25), strength=0.6):
    """A mesh (V, 3), camera axes, over a picture (3, H, H), seen by a weak-perspective camera (s, t_x, t_y)."""
    size = image.shape[-1]
    s, shift = camera[0], torch.stack([camera[1], camera[2], camera.new_tensor(0.0)])
    far = 100.0  # metres: from there perspective is weak
    placed = vertices + shift + vertices.new_tensor([0.0, 0.0, far])
    K = torch.tensor([[s * far * size / 2, 0.0, size / 2], [0.0, s * far * size / 2, size / 2], [0.0, 0.0, 1.0]])
    eye = Camera(K[None], torch.eye(3)[None], torch.zeros(1, 3))
    faces = torch.from_numpy(levels.faces[0])
    found = rasterize(placed[None], faces, eye, size)
    normals = interpolate_over(found, faces, vertex_normals(placed[None], faces))[0]
    lit = shade(torch.tensor(colour), normalize(normals, dim=-1), torch.tensor([-0.2, -0.3, -0.93]))
    cover = strength * (found.face[0] >= 0)[..., None]
    return image.permute(1, 2, 0) * (1 - cover) + lit * cover


# %%
subject = crops(samples, torch.tensor([pick(smoke=0, laptop=12)]), config.pose.size)
subject = with_marks(subject)
generator = torch.Generator().manual_seed(2)
shown = [subject] + [augmented(Augmentation(turned=1.0), subject, generator) for _ in range(7)]
cameras = [weak_perspective_fit(one["joints"], one["spots"], torch.ones(1, 14)) for one in shown]
pictures = [
    overlay(one["image"][0], one["vertices"][0], torch.cat([s, t[0]]), strength=0.45)
    for one, (s, t) in zip(shown, cameras, strict=True)
]
plots.show_images(pictures, ["as it is"] + [""] * 7, columns=8, height=1.6)
for ax, one in zip(plt.gcf().axes, shown, strict=True):
    plots.draw_keypoints(ax, (one["spots"][0] + 1) * config.pose.size / 2, size=6)
plt.show()


# %% [markdown]
# ## 7 Fine-tuning, end to end
#
# **The question.** Two networks were trained apart and now stand one behind the other. What changes if both learn
# together?
#
# Section 5 showed the gap: the transformer learned from drawn heatmaps, and gets found ones. Now the whole of it is
# trained on pictures, with the loss (13.9) at its end, each term a mean (14.6), and nothing in the middle. A gradient
# that says "this knee is too far forward" goes back through the transformer, through the maps, to the first
# convolution.
#
# From the paper (F): Adam, 2e-4, a tenth of the steps as warm-up, then linearly to zero, 80 epochs. Batch,
# augmentation, and whether the pose network learns at the same rate, aren't said. **Our choices**: METRO's
# augmentation; samples are drawn from all people alike, so a set's share of a batch is its share of the people; the
# pose network at a share of the rate (`pose_lr`).

# %% tags=["export"]
@dataclass(frozen=True)
class Config:
    """A mesh regressor, and how it is fine-tuned, on the sets of its pose network (`pose.worlds`).

    pose: the pose network; mesh: the transformer (chapter 13's configuration). full: the worlds of which everything is
    known; of the others only 2D joints are. margin: of the crops. features: METRO's arm, the transformer reads the pose
    network's features in place of its maps. through: maps are shrunk to this side and enlarged again, 0: not.
    warm_pose, warm_mesh: whether it begins with what chapters 14 and 13 ship. pose_lr: the pose network's rate over lr.
    """

    pose: PoseConfig
    mesh: MeshConfig
    batch_size: int
    steps: int
    full: tuple[str, ...] = ("studio",)
    margin: float = 1.2
    augmentation: Augmentation = Augmentation()
    features: bool = False
    through: int = 0
    warm_pose: bool = True
    warm_mesh: bool = True
    lr: float = 2e-4
    pose_lr: float = 1.0
    warmup: float = 0.1
    clip: float | None = 1.0
    precision: str = "fp32"
    paper: PaperRun | None = None


# %% [markdown]
# METRO's own way, image features instead of maps, is the same network with one line changed: the transformer reads what
# the pose network's last layer would read. Section 10 compares the two.

# %% tags=["export"]
class FeatureRegressor(nn.Module):
    """A `MeshRegressor` whose transformer reads the pose network's features (B, C, S, S), resized, instead of its maps:
    METRO's way on the same transformer. Its "maps" are these features."""

    def __init__(self, config, levels: Levels):
        super().__init__()
        self.pose, self.mesh = pose_network(config.pose), MeshTransformer(config.mesh, levels)
        self.size = config.mesh.size
        unread = self.pose.heads if config.pose.kind == "hrnet" else self.pose.last
        unread.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """See the class."""
        features = self.pose.features(images)
        if features.shape[-1] != self.size:
            features = interpolate(features, (self.size, self.size), mode="bilinear")
        return self.mesh(features) | {"maps": features}


class CoarseRegressor(MeshRegressor):
    """A `MeshRegressor` whose maps are first shrunk to `config.through` pixels: MPT Table 3, downwards."""

    def __init__(self, config, levels: Levels):
        super().__init__(config, levels)
        self.through = config.through

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """As a `MeshRegressor`; its "maps" are the enlarged ones."""
        small = interpolate(self.pose(images), (self.through,) * 2, mode="bilinear", antialias=True)
        maps = interpolate(small, (self.size,) * 2, mode="bilinear")
        return self.mesh(maps) | {"maps": maps}


def mesh_regressor(config: Config, levels: Levels | None = None) -> nn.Module:
    """The network of a configuration, its weights at random; levels: of the mesh, those of the body that is loaded."""
    kind = FeatureRegressor if config.features else CoarseRegressor if config.through else MeshRegressor
    return kind(config, levels or body_levels(config.mesh.levels))


def begun(config: Config, levels: Levels, pose: Batch | None = None, mesh: Batch | None = None) -> nn.Module:
    """The network with the weights that a pose network and a `MeshTransformer` ended with, each where it is given."""
    model = mesh_regressor(config, levels)
    for part, weights in ((model.pose, pose), (model.mesh, mesh)):
        if weights is not None:
            part.load_state_dict(weights)
    return model


# %% tags=["export"]
TRUTH = ("image", "joints", "spots", "vertices", "middle", "coarse", "mesh_known", "joints_known", "spots_known")


def prepared(config: Config, batch: Batch, generator: torch.Generator) -> Batch:
    """`data.pictured.crops` of some people, with marks -> augmented, what `mixed_loss` takes."""
    batch = augmented(config.augmentation, batch, generator)
    meshes = body_levels(config.mesh.levels).all(batch["vertices"])
    batch = batch | dict(zip(("vertices", "middle", "coarse"), meshes, strict=True))
    return {name: batch[name] for name in TRUTH}


def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    fine, middle, coarse = (len(points) for points in body_levels(config.mesh.levels).points)
    shapes = {"image": (3, config.pose.size, config.pose.size), "joints": (14, 3), "spots": (14, 2)}
    shapes |= {"vertices": (fine, 3), "middle": (middle, 3), "coarse": (coarse, 3)}
    shapes |= {"mesh_known": (), "joints_known": (), "spots_known": (14,)}
    return {name: torch.rand(count, *shapes[name]) for name in TRUTH}


# %% tags=["export"]
RUNS = "course_lib.studies.mpt_finetuning"


def recipe(config: Config, stream: Stream | None, pose: Batch | None = None, mesh: Batch | None = None) -> Recipe:
    """The fine-tuning of a `MeshRegressor`, from the weights of a pose network and a `MeshTransformer` on where given.
    MPT supplement F."""
    scales = (("pose.", config.pose_lr), ("mesh.up.", config.mesh.up_lr))
    return Recipe(
        name=f"mpt-finetuning-{config.pose.kind}-{config.pose.size}",
        model=partial(begun, config, body_levels(config.mesh.levels), pose, mesh),
        loss=mixed_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer("adam", config.lr, (0.9, 0.999), weight_decay=0.0, scales=scales),
        schedule=Linear(round(config.warmup * config.steps)),
        precision=config.precision,
        clip=config.clip,
        blocks=("PostNormBlock",),
        checkpoint_blocks=config.mesh.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


def prepare(config: Config) -> Callable:
    """For a launch on shards: (sample, NumPy generator) -> one of its whole people, as `mixed_loss` takes it."""
    return resolved(f"{RUNS}:prepare")(config)


# %% [markdown]
# The configurations. The paper's: HigherHRNet-W32 for 224 pixels (chapter 13 counted why), maps resized to 224, chapter
# 13's transformer; METRO's 30 samples a GPU on 16 GPUs. How many pictures an epoch has depends on how the sets are
# sampled, and isn't said; we plan with 400,000.

# %% tags=["export"]
PAPER = PaperRun(
    "MPT supplement A, F", parameters=28e6 + 102e6, gpus=16, gpu="V100-32GB",
    notes=("80 epochs; how many pictures an epoch has is not given", "the batch is not given: 30 a GPU is METRO's"),
)  # fmt: skip
EPOCH = 400_000  # pictures in an epoch of the paper's mixture: our assumption
LARGE = {"worlds": (("studio", 300_000), ("wild", 100_000)), "side": 256}
EPOCHS_80 = {"batch_size": 480, "steps": 80 * EPOCH // 480, "precision": "bf16"}
SMALL_RATES = {"lr": 2e-3, "pose_lr": 0.25}  # for short runs
FINE = replace(MESHES["smoke"], levels=MESHES["shipped"].levels)  # so that all scales share their people's meshes
CONFIGS = {
    "smoke": Config(POSE_CONFIGS["smoke"], FINE, batch_size=4, steps=4, **SMALL_RATES),
    "laptop": Config(POSE_CONFIGS["shipped"], MESHES["shipped"], batch_size=16, steps=400, **SMALL_RATES),
    "shipped": Config(POSE_CONFIGS["shipped"], MESHES["shipped"], batch_size=16, steps=2000, **SMALL_RATES),
    "gpu": Config(POSE_CONFIGS["gpu"], MESHES["gpu"], batch_size=64, steps=20_000, precision="bf16"),
    "mpt": Config(replace(W32, **LARGE), MESHES["mpt"], paper=PAPER, **EPOCHS_80),
    "mpt-w48": Config(replace(W48, **LARGE), MESHES["mpt"], paper=PAPER, **EPOCHS_80),
    "mpt-resnet101": Config(replace(RESNET101, **LARGE), MESHES["mpt"], **EPOCHS_80),
}  # fmt: skip

# %% [markdown]
# Before the run, the two things that are to be trained together. Does the transformer's error reach the first layer,
# next to the picture? The gradients say so:

# %%
levels = body_levels(config.mesh.levels)
batch = next(runs.stream(config).batches(0, 4))
model = runs.warm(config)
finished.mixed_loss(model, batch)["loss"].backward()
first = next(model.pose.parameters())
print(f"gradient of the first convolution {tuple(first.shape)}: {first.grad.norm():.3g}")
known = {name: batch[name].mean().item() for name in ("mesh_known", "joints_known", "spots_known")}
print("known in this batch:", ", ".join(f"{name.split('_')[0]} {share:.0%}" for name, share in known.items()))
assert first.grad.norm() > 0 and first.grad.isfinite().all()

# %% [markdown]
# ## 8 The run, and what it reached
#
# **The question.** How much smaller does the error become when both networks learn together?
#
# **The switch**, as in chapter 13: `"train"` fine-tunes now, for some minutes; `"load"` takes the model that comes with
# the course. Both begin with section 3's shipped pose network and chapter 13's shipped transformer where they are
# there, and are the same small networks: crops of 128 pixels, maps of 32. Our rate is 2e-3, ten times the paper's,
# because the run is so short.

# %% tags=["export"]
SHIPPED = {
    "pose": POSE_SHIPPED,
    "finetuned": Shipped("mpt_finetuning-finetuned", CONFIGS["shipped"], f"{RUNS}:finetuned"),
}

# %%
from course_lib import shipped
from course_lib.train import fit

chosen, choice = finished.SHIPPED["finetuned"].config, "train"
there = (config.pose, config.mesh) == (chosen.pose, chosen.mesh) and shipped.available(SHIPPED["finetuned"].name)
models, run, record = {"not fine-tuned": runs.warm(config).eval()}, None, None
if choice == "train" or not there:
    run = fit(runs.started(config))
    models["fine-tuned here"] = run.model.eval()
if there:
    models["shipped"] = finished.mesh_regressor(chosen)
    record = shipped.load(models["shipped"], SHIPPED["finetuned"].name)
else:
    print("not shipped yet (`course ship 14.finetuned` makes it): what follows is of the model trained here")
best = list(models)[-1]

# %%
if run is not None:
    weights = {"joints": JOINT_WEIGHT, "mesh": MESH_WEIGHT, "spots": SPOT_WEIGHT}
    parts = {name: plots.smooth([weight * row[name] for row in run.history]) for name, weight in weights.items()}
    plots.curve(parts, ylabel="weighted parts of the loss", ylim=(0, None))
    plt.show()
    assert np.isfinite(run.losses).all()

# %% [markdown]
# ### The measurement
#
# On people of the test split, none of whom was in the training. Chapter 13's three errors, in millimetres: MPJPE of the
# mesh's 14 joints, from the middle of the hips; PA-MPJPE, after Procrustes; MPVE, of the vertices, from the pelvis. Two
# worlds: `studio`, as in the training pictures with 3D truth, and `wild`, of whose training pictures only 2D joints
# were known.
#
# They have to be smaller than those of the **mean pose** of the training people in the camera's axes; for PA-MPJPE the
# mean *after* Procrustes (each person turned, scaled and moved onto the mean, four times over), which is the best
# answer without looking. And smaller than those of the two networks as section 5 left them, **not fine-tuned**.

# %%
tests = {world: runs.held_out(config, world) for world in ("studio", "wild")}
found = {world: {name: runs.answers(own, batch["image"]) for name, own in models.items()}
         for world, batch in tests.items()}  # fmt: skip
results = {}
for world, batch in tests.items():
    results[world] = {"mean pose": runs.mean_pose(config, batch)}
    results[world] |= {name: runs.mesh_metrics(said, batch) for name, said in found[world].items()}
for world, rows in results.items():
    print(f"{world}: {len(tests[world]['image'])} people{'MPJPE':>16s}{'PA-MPJPE':>12s}{'MPVE':>10s}")
    for name, row in rows.items():
        print(f"  {name:20s}{row['mpjpe']:19.1f}{row['pa_mpjpe']:12.1f}{row['mpvpe']:10.1f}")

# %% tags=["result"]
none, reached = (results["studio"][name]["pa_mpjpe"] for name in ("mean pose", best))
goal = none - (none - (record["metrics"]["pa_mpjpe"] if record else reached)) / 3  # a third of the shipped margin
print(f"studio: PA-MPJPE {reached:.1f} mm, {reached / none:.0%} of the mean pose's; a live run should reach {goal:.0f}")
for name in list(models)[1:]:
    assert scale() == "smoke" or results["studio"][name]["pa_mpjpe"] < goal
    assert scale() == "smoke" or results["studio"][name]["mpjpe"] < results["studio"]["not fine-tuned"]["mpjpe"]

# %% [markdown]
# The paper's numbers. Tables 2 and 3 name Human3.6M's validation set; 1 and 4 name none, but share MPT's 45.3 / 31.7:
#
# | | MPJPE | PA-MPJPE |
# |---|---|---|
# | METRO: image features, 128 M in the backbone (Table 1) | 54.0 | 36.7 |
# | **MPT: 2D pose network, 28 M (Table 1)**, maps of 224 (Table 3) | **45.3** | **31.7** |
# | maps of 112 (Table 3) | 46.5 | 32.7 |
# | pretrained with masks in place of heatmaps (Table 4) | 55.6 | 35.4 |
# | pretrained, 8 views, not fine-tuned (Table 2) | 88.3 | 58.2 |
#
# What is comparable: the protocol, the metrics, and the order of things. What isn't: their people are recorded actors,
# seen by the same four cameras, ours are rendered, in all poses, and turned every way; their networks have more than
# sixty times as many weights, and were trained for 80 epochs on real pictures, how many isn't said. Fine-tuning halves
# the paper's error; ours can be read off the table above.

# %% [markdown]
# ## 9 What do the maps mean now?
#
# **The question.** Nothing asks the maps to be heatmaps any more. Do they stay?
#
# Supplement D says no: after fine-tuning "each map captures information on multiple body joints", and shows some maps
# (Fig. 2). It gives no number. Let us make one.
#
# **The idea.** A map *answers* to a joint if it is conspicuous where the joint is. Take a map, subtract its mean and
# divide by its standard deviation over its pixels, so that only its pattern counts; read it at the joint's place; and
# take the mean over many people, $r_{cj}$, for map $c$ and joint $j$. An answer may be a peak or a hole, so the square
# is what matters. The share of a map's answer that goes to joint $j$, and the number of joints that it answers to, are
#
# $$q_{cj} = \frac{r_{cj}^2}{\sum_{i} r_{ci}^2}, \qquad n_c = \frac{1}{\sum_j q_{cj}^2}. \tag{14.8}$$
#
# $n_c$ is the *effective number*, which counts species in ecology and parties in parliaments: it is 1 if one joint has
# it all, $n$ if $n$ joints share it evenly, and something between where shares are uneven. This measure is ours.

# %%
share = sympy.Rational(1, 5)
assert 1 / sum(share**2 for _ in range(5)) == 5 and 1 / sympy.Integer(1) ** 2 == 1


# %% [markdown]
# ### Exercise 14.9 — how many joints does a map answer to?  ●●○ (15 min)
#
# Write $n_c$ of (14.8) for all maps: subtract and divide, read at the joints, take the mean over people, and count.
#
# <details><summary>Hint 1</summary>
#
# `grid_sample(maps, points[:, None], align_corners=False)` reads all maps at all points, in crop coordinates:
# (N, C, 1, J). The mean over people comes before the square.
# </details>
# <details><summary>Hint 2</summary>
#
# A map that is the same everywhere has no pattern: `.clamp(min=1e-6)` for its standard deviation makes its answers 0.
# Then its number is 0, if the denominators are kept from being 0, too.
# </details>

# %% tags=["export"]
@exercise("14.9")
def joints_answered(maps: Tensor, points: Tensor) -> Tensor:
    """How many joints each map answers to, (C,), equation (14.8); 0 for a map without a pattern.

    maps (N, C, S, S) of N people; points (N, J, 2): their joints in crop coordinates. After MPT Fig. 2."""
    raise TODO


# %%
check(joints_answered)

# %% [markdown]
# Now the maps themselves: exact heatmaps, drawn from the truth; the pose network's, before fine-tuning; and after.
# Noise is there for comparison. We ask about thirteen joints that lie apart: nose, shoulders, elbows, wrists, hips,
# knees and ankles. (Eyes and ears are so close to the nose that one dot answers to all of them.)

# %%
APART = [0, *range(5, 17)]  # of COCO's 17
seen_whole = tests["studio"]["seen"][:, APART].bool().all(1)
joints_at = tests["studio"]["points"][seen_whole][:, APART]
exact = synthesize_heatmaps(tests["studio"]["points"][seen_whole], config.mesh.size, sigma_for(config.mesh.size))
maps = {"exact": exact} | {name: said["maps"][seen_whole] for name, said in found["studio"].items()}
maps["noise"] = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
numbers = {name: joints_answered(own, joints_at) for name, own in maps.items()}
for name, counts in numbers.items():
    print(f"{name:20s} joints a map: {counts.mean():.1f} in the mean, {counts.min():.1f} to {counts.max():.1f}")
assert scale() == "smoke" or 1 <= numbers["exact"].mean() < 1.1 < numbers[best].mean()
assert scale() == "smoke" or numbers["noise"].mean() > 3  # it answers to none, and to all alike

# %%
_, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
names = [name.replace("_", " ") for name in FORMATS["coco17"]]
drawn = [name for name in numbers if name != "noise"]
for i, name in enumerate(drawn):
    ax.bar(np.arange(17) + 0.2 * (i - (len(drawn) - 1) / 2), numbers[name], 0.2, label=name)
ax.set_xticks(range(17), names, rotation=60, ha="right", fontsize=8)
ax.set(ylabel="joints answered")
ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
plt.show()

# %% [markdown]
# *Each map by the name that it had as a heatmap.* One person's maps, above before, below after (red: above the map's
# mean, blue: below):

# %%
person = int(seen_whole.nonzero()[0])
shown_maps = pick(smoke=(0, 9), laptop=(0, 5, 7, 9, 11, 13, 15, 16))
figure, axes = plt.subplots(2, 1 + len(shown_maps), figsize=(1.25 * (1 + len(shown_maps)), 2.8), layout="constrained")
for row, name in enumerate(("not fine-tuned", best)):
    axes[row, 0].imshow(tests["studio"]["image"][person].permute(1, 2, 0))
    for ax, c in zip(axes[row, 1:], shown_maps, strict=True):
        one = found["studio"][name]["maps"][person, c]
        one = (one - one.mean()) / one.std()
        ax.imshow(one, cmap="RdBu_r", vmin=-6, vmax=6)
        ax.set_title(names[c] if row == 0 else "", fontsize=8)
for ax in axes.flat:
    ax.axis("off")
plt.show()


# %% [markdown]
# Supplement D's sentence has a number now, and the number has a weakness. An exact heatmap answers to one joint. But a
# map of pure noise, which answers to none, gets five or six of thirteen: all its $r$ are small, and about equally so. A
# high $n_c$ alone therefore doesn't show that a map captures several joints; it does show that the map is no longer one
# joint's dot. Look at the maps, too. And mind the row "not fine-tuned": a pose network's maps may answer to more than
# one joint already *before*, where it can't tell left from right. What fine-tuning adds is the difference of the two.
#
# In our runs it adds a little: the numbers grow with fine-tuning, and faint spots come up at other joints. But every
# map is still mostly its old dot; none has become what Fig. 2 shows. The paper fine-tunes for 80 epochs, ours are some
# hundred or thousand steps, at a quarter of the transformer's rate for the pose network.

# %% [markdown]
# ## 10 What is each part worth?
#
# Four studies, three seeds each, 400 steps each (backbone: 200) and batches of eight: all arms of a study get the same
# number of them.
#
# - **Pretraining**: the same fine-tuning, with chapter 13's transformer and with one at its random start. This is the
#   paper's main claim.
# - **Resolution** (Table 3): the paper feeds maps of 112 or 224. Ours are 32 wide; we shrink them to 16 and to 8, and
#   enlarge them again, so that the same transformer reads them.
# - **Features** (Table 1's METRO arm): the same transformer on the pose network's features. It can't be pretrained on
#   meshes, because nobody knows what these features would be; that is the point. So it begins at random; its pose
#   network is trained like the others'. Compare it with `without` of the first study, which also begins at random, not
#   with `with`.
# - **Backbone**: a small HRNet, the chapter's, and SimpleBaseline's ResNet. Here the pose networks are trained in the
#   run, as many steps as the fine-tuning, before it.

# %% tags=["export"]
@dataclass(frozen=True)
class Arm:
    """One arm of a study: with chapter 13's transformer or without; maps shrunk to `through` pixels (0: not); features
    in place of maps; another pose network (a key of POSE_ARMS), trained in the run."""

    warm_mesh: bool = True
    through: int = 0
    features: bool = False
    backbone: str = ""
    batch: int = 8
    lr: float = 2e-3


def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm."""
    base = CONFIGS["laptop"]
    pose = POSE_ARMS[arm.backbone] if arm.backbone else base.pose
    mesh = replace(base.mesh, maps=feature_channels(pose)) if arm.features else base.mesh
    return replace(
        base, pose=pose, mesh=mesh, batch_size=arm.batch, steps=steps, lr=arm.lr, through=arm.through,
        features=arm.features, warm_mesh=arm.warm_mesh, warm_pose=not arm.backbone,
    )  # fmt: skip


def feature_channels(pose: PoseConfig) -> int:
    """How many channels a pose network's features have."""
    return pose.width if pose.kind == "hrnet" else pose.head


# %% tags=["export"]
STUDY_STEPS = 400
POSE_ARMS = {
    "small": replace(POSE_CONFIGS["shipped"], width=12, stem=12),
    "hrnet": POSE_CONFIGS["shipped"],
    "resnet": replace(POSE_CONFIGS["shipped"], kind="resnet", width=16),
}
COMPARE = f"{RUNS}:compare"
STUDIES = {
    "whole": WHOLE,
    "pretraining": Study("14.pretraining", "with and without pretraining on meshes",
                         {"with": Arm(), "without": Arm(warm_mesh=False)}, COMPARE, STUDY_STEPS),
    "resolution": Study("14.resolution", "resolution of the maps (Table 3)",
                        {f"{side}": Arm(through=side) for side in (8, 16, 32)}, COMPARE, STUDY_STEPS),
    "features": Study("14.features", "image features instead of maps (Table 1's METRO)",
                      {"features": Arm(features=True, warm_mesh=False)}, COMPARE, STUDY_STEPS),
    "backbone": Study("14.backbone", "the pose network", {name: Arm(backbone=name) for name in POSE_ARMS},
                      COMPARE, STUDY_STEPS // 2),
}  # fmt: skip

# %% tags=["result"]
from course_lib import study

mine = {name: asked for name, asked in STUDIES.items() if name != "whole"}  # that one is section 4's
rows = {name: study.summary(asked) if scale() != "smoke" else {} for name, asked in mine.items()}
for name, asked in mine.items():
    print(f"{asked.title}{'' if rows[name] else f': no records yet, `course study 14.{name}` makes them'}")
    for arm, row in rows[name].items():
        words = (f"{key} {row[key][0]:6.1f} ± {row[key][1]:.1f}" for key in ("mpjpe", "pa_mpjpe", "mpvpe"))
        print(f"  {arm:10s}", ", ".join(words))
if set(rows["pretraining"]) == {"with", "without"}:
    pair = [rows["pretraining"][arm]["mpjpe"] for arm in ("with", "without")]
    far = study.beyond_spread(*pair)
    print(f"MPJPE with and without pretraining differ {'beyond' if far else 'within'} the spread")
    assert far and pair[0][0] < pair[1][0]

# %% [markdown]
# The paper's main claim holds here: whoever begins with chapter 13's transformer, which never saw a picture, has the
# smaller error after the same fine-tuning, and by far more than the three seeds differ. How much of that is left after
# the paper's 80 epochs, these 400 steps can't say: a start matters most at the start. An arm without records has not
# been run; its command stands beside its name.
#
# ## 11 On the picture
#
# **The question.** Does the mesh lie on the person in the picture, and where does it fail?
#
# The mesh, drawn over the crop by the weak-perspective camera that the network gives with it. The nearest, three in
# between, and the farthest of the studio's held-out people, by MPJPE:

# %%
batch, said = tests["studio"], found["studio"][best]
errors = metrics.mpjpe(said["regressed"], batch["joints"], root=HIPS)
ranks = torch.linspace(0, len(errors) - 1, pick(smoke=2, laptop=5)).round().long()
chosen_people = errors.argsort()[ranks].tolist()
covered = [overlay(batch["image"][i], said["vertices"][i], said["camera"][i]) for i in chosen_people]
shown = [batch["image"][i] for i in chosen_people] + covered
titles = [f"{errors[i]:.0f} mm" for i in chosen_people] + [""] * len(covered)
plots.show_images(shown, titles, columns=len(covered), height=2.0)
plt.show()

# %% [markdown]
# From the side one sees what the overlay hides: depth.

# %%
side = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # a quarter turn about the vertical
scales = said["camera"][chosen_people, :1]
centred_camera = torch.cat([0.8 * scales.clamp(0.5, 1.2), 0 * scales, 0 * scales], 1)
blank = torch.ones(3, config.pose.size, config.pose.size)
views = [
    overlay(blank, mesh[i] @ side.T, camera, colour, 1.0)
    for mesh, colour in ((batch["vertices"], (0.7, 0.7, 0.7)), (said["vertices"], (0.45, 0.6, 0.8)))
    for i, camera in zip(chosen_people, centred_camera, strict=True)
]
titles = ["truth"] + [""] * (len(chosen_people) - 1) + ["answer"] + [""] * (len(chosen_people) - 1)
plots.show_images(views, titles, columns=len(chosen_people), height=1.7)
plt.show()

# %% [markdown]
# ### Failure cases, found by their error
#
# Looking for failures by eye finds what one expects. By error one finds the rest. Here are the worst eight of `wild`.
# Below them all people of `wild` are split by what may matter: whether all joints are in the picture, how the person is
# posed, and from which side they are seen.

# %%
batch, said = tests["wild"], found["wild"][best]
errors = metrics.mpjpe(said["regressed"], batch["joints"], root=HIPS)
worst = errors.argsort(descending=True)[: pick(smoke=2, laptop=8)].tolist()
shown = [batch["image"][i] for i in worst] + [
    overlay(batch["image"][i], said["vertices"][i], said["camera"][i]) for i in worst
]
plots.show_images(shown, [f"{errors[i]:.0f} mm" for i in worst] + [""] * len(worst), columns=len(worst), height=1.5)
plt.show()


# %%
def split_by(name, flag):
    """The mean error of the people of whom something holds, and of the others."""
    if 0 < int(flag.sum()) < len(flag):
        yes, no = errors[flag].mean(), errors[~flag].mean()
        print(f"{name:34s}{int(flag.sum()):4d} people {yes:6.1f} mm, the others {no:6.1f} mm")


upright = batch["joints"][:, 13] - batch["joints"][:, HIPS].mean(1)  # from the hips to the top of the head
across = batch["joints"][:, 9] - batch["joints"][:, 8]  # from the right shoulder to the left one
split_by("a joint outside the picture", batch["seen"].eq(0).any(1))
split_by("lying or upside down", upright[:, 1] > -0.5 * upright.norm(dim=-1))
split_by("seen from the side", across[:, 0].abs() < 0.5 * across.norm(dim=-1))
split_by("seen from behind", across[:, 0] < -0.5 * across.norm(dim=-1))

# %% [markdown]
# ### A real photograph
#
# Eileen Collins, photographed by NASA (`skimage.data.astronaut()`, public domain). She is cut off at the waist; the box
# is typed by hand so that the whole of her would be in it, and what lies outside of the photograph is black.

# %%
from skimage.data import astronaut

photo = torch.from_numpy(astronaut()).permute(2, 0, 1)[None]  # (1, 3, 512, 512), 8 bits
typed = {"as far as she is seen": [30.0, 0.0, 480.0, 512.0], "as if the rest were there": [-270.0, 0.0, 780.0, 1150.0]}
shown = []
for box in typed.values():
    image, _ = crop_people(photo, torch.tensor([box]), (config.pose.size, config.pose.size), 1.1)
    own = runs.answers(models[best], image)
    shown += [image[0], overlay(image[0], own["vertices"][0], own["camera"][0])]
plots.show_images(shown, [name for name in typed for _ in range(2)], height=2.4)
plt.show()

# %% [markdown]
# *Pictures and answers.* A network that was trained on whole people makes a whole person of whatever it is shown, and
# never says that it isn't sure. The shipped one is wrong both times: a small whole figure before her chest, and
# something thin that hangs down into the black. To know how good an answer is, one has to look: nothing in it says so.
#
# **Your own**: `photo = torch.from_numpy(plt.imread("me.jpg").copy()).permute(2, 0, 1)[None]`, and a box around the
# whole person, `[left, top, right, bottom]` in pixels.
#
# ## 12 What it may be used for
#
# Supplement H says two things, and both are easy to forget once a demo works.
#
# **A person's safety is no place for an average error.** The models "can be potentially applied to human activity
# analysis applications, such as detecting whether the senior subjects are falling. However, there is a risk associated
# with directly applying the models for mission-critical decision making, especially in the health care field", and such
# applications "may require an auxiliary supervision model or task-specific fine-tuning". A person who has fallen lies
# on the floor. An average over people who mostly stand doesn't show how far off the answers are for people who lie. A
# table by kind of pose does, such as the one above. A second model that watches the first, and data of the very case in
# question, are what H asks for.
#
# **The data has owners.** "Some of the public released MoCap data may be licensed, meaning they can only be used for
# scientific research purposes. Users must strictly adhere to the data usage agreement". Whether that binds a model
# trained on such data, too, is for the agreement to say: read it before you share weights. Human3.6M and AMASS come
# with agreements for research; so does SMPL's body. This chapter's people are rendered from the open body (CC0), and
# its backgrounds are the course's own, so what it ships, you may use. But they are also drawn by rules, not recorded:
# people whom these rules leave out, the network has never seen.
#
# ## 13 The paper's run
#
# **The question.** What would the paper's fine-tuning take?
#
# 80 epochs on 16 V100; our plan takes 16 A100. Batch and size of an epoch are assumptions (section 7).

# %%
from course_lib import launch

machines = pick(smoke={"nodes": 1, "gpus_per_node": 2}, laptop={"nodes": 2, "gpus_per_node": 8})
job = launch.job("mpt_finetuning", pick(smoke="smoke", laptop="mpt"), gpu="A100-80GB", **machines)
job.plan()

# %%
job.prove(**pick(smoke={"config": "smoke"}, laptop={}))

# %%
folders = [f"data/{world}-train-coco17-256-{count}" for world, count in job.config.pose.worlds]
print(job.script(out=f"runs/{job.name}", data=folders))

# %% [markdown]
# And with DeepSpeed, as the authors trained (F):

# %%
import json

print(json.dumps(launch.deepspeed_config(job.recipe(), world=job.world, stage=2), indent=1))

# %% [markdown]
# A launch trains on rendered pictures, here 400,000 of `studio` and `wild` that `course data make` would have to render
# first, and takes one whole person of each; a picture without one has no mark in it, and counts for nothing. It runs
# the course's code, not the functions that you wrote in this notebook.
#
# ## What to remember
#
# - A network's output can be another one's input, if you know what it looks like. Then the two can be trained apart, on
#   different data, and put together.
# - Trained together, the two may change what passes between them. Heatmaps are a good start for it.
# - Carry with each sample what is true of it. Divide by what is known, and let nothing unknown in, NaN above all.
# - Turn the truth along with the picture: in the plane, in space, in the names.
# - A 2D term has no gradient in depth.
# - Look for failures by their error, not by eye.
#
# ## What the paper leaves open
#
# Which 2D and 3D sets, and how they are mixed; the batch; the augmentation; whether the pose network learns at the
# transformer's rate, or is trained on heatmaps on the side; the number of maps, and from which of HigherHRNet's layers;
# how maps of 224 are made of maps of 112; what in Figure 2 counts as a joint that a map answers to. METRO's code gave
# what is missing; what it doesn't give is our choice and named so.
#
# ## Where to read on
#
# - K. Lin, L. Wang and Z. Liu, *End-to-end human pose and mesh reconstruction with transformers*, CVPR 2021: METRO, and
#   its code, whose augmentation and loss are used here.
# - N. Kolotouros et al., *Learning to reconstruct 3D human pose and shape via model-fitting in the loop*, ICCV 2019:
#   another way of making 3D truth for 2D pictures.
# - H. Joo, N. Neverova and A. Vedaldi, *Exemplar fine-tuning for 3D human model fitting towards in-the-wild 3D human
#   pose estimation*, 3DV 2021: how good fitted meshes are as truth.
# - I. Akhter and M. J. Black, *Pose-conditioned joint angle limits for 3D human pose reconstruction*, CVPR 2015: what
#   one view leaves open.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

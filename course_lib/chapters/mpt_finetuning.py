"""MPT, fine-tuning: made by `course build` from solutions/14_mpt_finetuning.py. Edit there, never here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, relu

from course_lib.chapters.cameras import procrustes, require, weak_perspective_project
from course_lib.chapters.mpt_pretraining import CONFIGS as MESHES
from course_lib.chapters.mpt_pretraining import (
    JOINT_WEIGHT,
    MESH_WEIGHT,
    SPOT_WEIGHT,
    Levels,
    MeshTransformer,
    body_levels,
    centred,
    sigma_for,
    synthesize_heatmaps,
)
from course_lib.chapters.mpt_pretraining import Config as MeshConfig
from course_lib.chapters.sapiens_pose import MIRROR, crop_matrix, cut_out, decode_heatmaps, inverse, move
from course_lib.recipe import Batch, Linear, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped
from course_lib.study import Study, resolved


# Chapter 14, section "1 The pose network"
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


# Chapter 14, section "1 The pose network"
def convolution(a: int, b: int, kernel: int = 3, stride: int = 1, active: bool = True) -> nn.Sequential:
    """A convolution from a to b channels, its batch norm, and (unless not `active`) a ReLU."""
    layers = [nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, *[nn.ReLU(inplace=True)] * active)


# Chapter 14, section "1 The pose network"
class Residual(nn.Module):
    """Two 3 × 3 convolutions around which the input goes. He et al. 2016."""

    def __init__(self, width: int):
        super().__init__()
        self.ahead = nn.Sequential(convolution(width, width), convolution(width, width, active=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return relu(x + self.ahead(x))


# Chapter 14, section "1 The pose network"
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


# Chapter 14, section "1 The pose network"
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


# Chapter 14, section "1 The pose network"
class Exchange(nn.Module):
    """Every branch gets a sum of all: (B, C_i, H_i, W_i), the finest first -> the first `outputs` of them."""

    def __init__(self, widths: Sequence[int], outputs: int | None = None):
        super().__init__()
        branches = range(len(widths))
        rows = ([path(widths, source, target) for source in branches] for target in branches[:outputs])
        self.paths = nn.ModuleList(nn.ModuleList(row) for row in rows)  # paths[target][source]

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """See the class. Equation (14.1); Sun et al. 2019 (HRNet)."""
        sums = (sum(path(x) for path, x in zip(row, branches, strict=True)) for row in self.paths)
        return [relu(total) for total in sums]


# Chapter 14, section "1 The pose network"
class Branches(nn.Module):
    """A module of HRNet: residual blocks in each branch, then the exchange."""

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int | None = None):
        super().__init__()
        self.each = nn.ModuleList(nn.Sequential(*[Residual(w) for _ in range(blocks)]) for w in widths)
        self.exchange = Exchange(widths, outputs)

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """As `Exchange`."""
        return self.exchange([blocks(x) for blocks, x in zip(self.each, branches, strict=True)])


COLOUR_MEAN, COLOUR_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as HigherHRNet has them


# Chapter 14, section "1 The pose network"
def standardized(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> less ImageNet's mean, over its spread. ValueError for another shape."""
    require("images", images, None, 3, None, None)
    mean, spread = (images.new_tensor(values)[:, None, None] for values in (COLOUR_MEAN, COLOUR_SPREAD))
    return (images - mean) / spread


# Chapter 14, section "Two heads"
def start_small(layer: nn.Conv2d) -> None:
    """Begins a layer that makes maps with nearly nothing, as HRNet's code does: most of a heatmap is 0."""
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)


# Chapter 14, section "Two heads"
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


# Chapter 14, section "Two heads"
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


W32 = PoseConfig(224, stem=64, width=32, stride=4, bottlenecks=4, modules=(1, 4, 3), blocks=4, tags=True)
W48 = replace(W32, width=48)


# Chapter 14, section "2 A plainer network"
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


NETWORKS = {"hrnet": PoseNet, "resnet": SimpleBaseline}


# Chapter 14, section "2 A plainer network"
def pose_network(config: PoseConfig) -> nn.Module:
    """The 2D pose network of a configuration. ValueError for a kind that there isn't."""
    if config.kind not in NETWORKS:
        raise ValueError(f"no pose network is called {config.kind!r}: use {' or '.join(NETWORKS)}")
    return NETWORKS[config.kind](config)


RESNET101 = PoseConfig(224, "resnet", width=64, layers=(3, 4, 23, 3), head=256)
SMALL_RESNET = PoseConfig(kind="resnet", width=16)

TINY = {"stem": 8, "width": 8, "blocks": 1}
POSE_CONFIGS = {
    "smoke": PoseConfig(64, batch_size=4, steps=3, worlds=(("studio", 8), ("wild", 8)), side=48, **TINY),
    "laptop": PoseConfig(steps=500),
    "shipped": PoseConfig(steps=3000),
    "gpu": PoseConfig(224, stem=64, width=32, stride=4, bottlenecks=4, modules=(1, 4, 3), blocks=4, batch_size=64,
                      steps=20_000, lr=1e-3, precision="bf16"),
}  # fmt: skip


# Chapter 14, section "3 Training it"
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


# Chapter 14, section "3 Training it", exercise 14.2
def pose_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Heatmap MSE, equation (14.2). batch: image (B, 3, H, H), points (B, 17, 2) in crop coordinates, seen (B, 17), 1
    where the point counts -> a scalar: mean over samples, joints and cells, summed over the network's resolutions."""
    losses = []
    for maps in model(batch["image"], every=True):
        target = synthesize_heatmaps(batch["points"], maps.shape[-1], sigma_for(maps.shape[-1]))
        losses.append(((maps - target).square().mean((2, 3)) * batch["seen"]).mean())
    return sum(losses)


# Chapter 14, section "3 Training it"
def pose_example(config: PoseConfig, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    shapes = {"image": (3, config.size, config.size), "points": (config.joints, 2), "seen": (config.joints,)}
    return {name: torch.rand(count, *shape) for name, shape in shapes.items()}


# Chapter 14, section "3 Training it"
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


POSE_RUNS = "course_lib.studies.mpt_pose"
POSE_SHIPPED = Shipped("mpt_finetuning-pose", POSE_CONFIGS["shipped"], f"{POSE_RUNS}:pose")


# Chapter 14, section "What it finds", exercise 14.3
def share_found(found: Tensor, true: Tensor, seen: Tensor, size: Tensor, reach: float = 0.05) -> Tensor:
    """PCK of each joint, equation (14.3): points (B, K, 2), found and true; seen (B, K), 1 where a joint counts; size
    (B,), of the people in the points' unit; reach: what is found, in sizes -> (K,), 0 where a joint never counts."""
    near = (found - true).norm(dim=-1) < reach * size[:, None]  # (B, K)
    return (near * seen).sum(0) / seen.sum(0).clamp(min=1)


# Chapter 14, section "What it finds"
def found_joints(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, K, S, S) -> points (B, K, 2) in crop coordinates, and the maps' maxima (B, K)."""
    points, score = decode_heatmaps(maps, sigma_for(maps.shape[-1]))
    return 2 * points / maps.shape[-1] - 1, score


# Chapter 14, section "4 Trained on whole pictures, used on crops", exercise 14.4
def everyones_heatmaps(points: Tensor, size: int, sigma: float) -> Tensor:
    """Points (B, M, K, 2) of up to M people in each picture, NaN where there is nobody or no such point -> heatmaps
    (B, K, size, size) that show all of them, equation (14.4). Cheng et al. 2020, and its code."""
    maps = synthesize_heatmaps(points.flatten(0, 1), size, sigma)  # (B M, K, S, S)
    return maps.unflatten(0, points.shape[:2]).amax(1)


# Chapter 14, section "4 Trained on whole pictures, used on crops"
def crowd_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Heatmap MSE on whole pictures. batch: image (B, 3, H, H), crowd (B, M, 17, 2), everybody's points in crop
    coordinates, NaN where there is none -> a scalar, as `pose_loss`, every joint counting."""
    sizes = [(maps, maps.shape[-1]) for maps in model(batch["image"], every=True)]
    targets = (everyones_heatmaps(batch["crowd"], size, sigma_for(size)) for _, size in sizes)
    return sum((maps - target).square().mean() for (maps, _), target in zip(sizes, targets, strict=True))


# Chapter 14, section "4 Trained on whole pictures, used on crops"
@dataclass(frozen=True)
class PoseArm:
    """One arm of the study: trained on whole pictures, or on crops."""

    whole: bool = False


WHOLE = Study("14.whole", "trained on whole pictures or on crops (supplement E)",
              {"crops": PoseArm(), "whole pictures": PoseArm(whole=True)}, f"{POSE_RUNS}:compare", 800)  # fmt: skip


# Chapter 14, section "5 The mesh regressor"
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


# Chapter 14, section "Procrustes, and what it forgives", exercise 14.5
def pa_error(found: Tensor, true: Tensor) -> Tensor:
    """Joints (B, J, 3), found and true, metres -> PA-MPJPE of each person (B,), millimetres. Equation (14.5)."""
    scale, R, t = procrustes(found, true)
    moved = scale[:, None, None] * found @ R.mT + t[:, None]
    return 1000 * (moved - true).norm(dim=-1).mean(1)


# Chapter 14, section "6 Pictures that know much, and pictures that know little", exercise 14.6
def known_l1(answer: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """The mean absolute difference where the truth is known, a scalar, equation (14.6); 0 where nothing is.

    answer, truth (B, ...), of one shape; known (B,) or (B, J), ... 0 or 1: of their first dimensions. What is not known
    may hold anything, NaN too.
    """
    mark = known.view(*known.shape, *[1] * (answer.ndim - known.ndim)).expand_as(answer).to(answer)
    difference = (answer - truth.where(mark > 0, 0.0)).abs()
    return (mark * difference).sum() / mark.sum().clamp(min=1.0)


# Chapter 14, section "6 Pictures that know much, and pictures that know little"
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


COCO_KNOWS = 12  # the first of LSP-14's joints, the limbs; neck and top of the head have no point in COCO


# Chapter 14, section "6 Pictures that know much, and pictures that know little"
def with_marks(batch: Batch, mesh: bool = True, joints: bool = True, spots: int = 14) -> Batch:
    """The batch with marks of what counts as known, the same for every sample: `spots` of the 2D joints, LSP-14's."""
    ones = torch.ones(len(batch["joints"]))
    known = {"mesh_known": mesh * ones, "joints_known": joints * ones}
    return batch | known | {"spots_known": (torch.arange(14) < spots).float().expand(len(ones), -1).clone()}


SWAP14 = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13]  # LSP-14: ankles, knees, hips; wrists, elbows, shoulders
SWAP17 = MIRROR[17]  # COCO's


# Chapter 14, section "METRO's augmentation, with the truth turned along", exercise 14.7
def mirrored(batch: Batch) -> Batch:
    """The batch in a mirror; nothing is changed in place.

    image (B, 3, H, W); spots (B, 14, 2), spots_known (B, 14), joints (B, 14, 3): LSP-14; points (B, 17, 2): COCO-17;
    vertices and twin (B, V, 3), which change places: the mesh and its mirror image's. The rest stays. METRO's code.
    """
    result = dict(batch)
    result["image"] = batch["image"].flip(-1)
    flip = batch["joints"].new_tensor([-1.0, 1.0, 1.0])
    result["joints"] = batch["joints"][:, SWAP14] * flip
    result["spots"] = batch["spots"][:, SWAP14] * flip[:2]
    result["spots_known"] = batch["spots_known"][:, SWAP14]
    result["points"] = batch["points"][:, SWAP17] * flip[:2]
    result["vertices"], result["twin"] = batch["twin"], batch["vertices"]
    return result


# Chapter 14, section "METRO's augmentation, with the truth turned along", exercise 14.8
def turned(batch: Batch, angle: Tensor, zoom: Tensor) -> Batch:
    """The batch with its crops turned by angle (B,) radians, clockwise, and shown zoom (B,) times as large, about the
    crop's middle; black where nothing was. Equation (14.7); nothing is changed in place.

    image (B, 3, H, W); spots (B, 14, 2), points (B, 17, 2): crop coordinates; joints (B, 14, 3), vertices (B, V, 3):
    metres, camera axes. The rest stays. METRO's code.
    """
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    k, result = zoom[:, None, None], dict(batch)
    for name in ("spots", "points"):
        result[name] = batch[name] @ (k * turn).mT
    for name in ("joints", "vertices"):
        result[name] = torch.cat([batch[name][..., :2] @ turn.mT, batch[name][..., 2:]], -1)
    back = torch.cat([turn.mT / k, turn.new_zeros(len(turn), 2, 1)], 2)  # (B, 2, 3)
    grid = affine_grid(back, batch["image"].shape, align_corners=False)
    result["image"] = grid_sample(batch["image"], grid, align_corners=False)
    return result


# Chapter 14, section "METRO's augmentation, with the truth turned along"
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


# Chapter 14, section "METRO's augmentation, with the truth turned along"
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


# Chapter 14, section "7 Fine-tuning, end to end"
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


# Chapter 14, section "7 Fine-tuning, end to end"
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


# Chapter 14, section "7 Fine-tuning, end to end"
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


# Chapter 14, section "7 Fine-tuning, end to end"
def mesh_regressor(config: Config, levels: Levels | None = None) -> nn.Module:
    """The network of a configuration, its weights at random; levels: of the mesh, those of the body that is loaded."""
    kind = FeatureRegressor if config.features else CoarseRegressor if config.through else MeshRegressor
    return kind(config, levels or body_levels(config.mesh.levels))


# Chapter 14, section "7 Fine-tuning, end to end"
def begun(config: Config, levels: Levels, pose: Batch | None = None, mesh: Batch | None = None) -> nn.Module:
    """The network with the weights that a pose network and a `MeshTransformer` ended with, each where it is given."""
    model = mesh_regressor(config, levels)
    for part, weights in ((model.pose, pose), (model.mesh, mesh)):
        if weights is not None:
            part.load_state_dict(weights)
    return model


TRUTH = ("image", "joints", "spots", "vertices", "middle", "coarse", "mesh_known", "joints_known", "spots_known")


# Chapter 14, section "7 Fine-tuning, end to end"
def prepared(config: Config, batch: Batch, generator: torch.Generator) -> Batch:
    """`data.pictured.crops` of some people, with marks -> augmented, what `mixed_loss` takes."""
    batch = augmented(config.augmentation, batch, generator)
    meshes = body_levels(config.mesh.levels).all(batch["vertices"])
    batch = batch | dict(zip(("vertices", "middle", "coarse"), meshes, strict=True))
    return {name: batch[name] for name in TRUTH}


# Chapter 14, section "7 Fine-tuning, end to end"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    fine, middle, coarse = (len(points) for points in body_levels(config.mesh.levels).points)
    shapes = {"image": (3, config.pose.size, config.pose.size), "joints": (14, 3), "spots": (14, 2)}
    shapes |= {"vertices": (fine, 3), "middle": (middle, 3), "coarse": (coarse, 3)}
    shapes |= {"mesh_known": (), "joints_known": (), "spots_known": (14,)}
    return {name: torch.rand(count, *shapes[name]) for name in TRUTH}


RUNS = "course_lib.studies.mpt_finetuning"


# Chapter 14, section "7 Fine-tuning, end to end"
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


# Chapter 14, section "7 Fine-tuning, end to end"
def prepare(config: Config) -> Callable:
    """For a launch on shards: (sample, NumPy generator) -> one of its whole people, as `mixed_loss` takes it."""
    return resolved(f"{RUNS}:prepare")(config)


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

SHIPPED = {
    "pose": POSE_SHIPPED,
    "finetuned": Shipped("mpt_finetuning-finetuned", CONFIGS["shipped"], f"{RUNS}:finetuned"),
}


# Chapter 14, section "9 What do the maps mean now?", exercise 14.9
def joints_answered(maps: Tensor, points: Tensor) -> Tensor:
    """How many joints each map answers to, (C,), equation (14.8); 0 for a map without a pattern.

    maps (N, C, S, S) of N people; points (N, J, 2): their joints in crop coordinates. After MPT Fig. 2."""
    mean, deviation = maps.mean((2, 3), keepdim=True), maps.std((2, 3), keepdim=True)
    pattern = (maps - mean) / deviation.clamp(min=1e-6)
    read = grid_sample(pattern, points[:, None], align_corners=False)[:, :, 0]  # (N, C, J)
    energy = read.mean(0).square()  # (C, J)
    share = energy / energy.sum(1, keepdim=True).clamp(min=1e-12)
    total = share.square().sum(1)
    return torch.where(total > 0, 1 / total.clamp(min=1e-12), 0.0)


# Chapter 14, section "10 What is each part worth?"
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


# Chapter 14, section "10 What is each part worth?"
def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm."""
    base = CONFIGS["laptop"]
    pose = POSE_ARMS[arm.backbone] if arm.backbone else base.pose
    mesh = replace(base.mesh, maps=feature_channels(pose)) if arm.features else base.mesh
    return replace(
        base, pose=pose, mesh=mesh, batch_size=arm.batch, steps=steps, lr=arm.lr, through=arm.through,
        features=arm.features, warm_mesh=arm.warm_mesh, warm_pose=not arm.backbone,
    )  # fmt: skip


# Chapter 14, section "10 What is each part worth?"
def feature_channels(pose: PoseConfig) -> int:
    """How many channels a pose network's features have."""
    return pose.width if pose.kind == "hrnet" else pose.head


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


# course build sealed the text above: 412694056052c4b7

"""HumanRAM: made by `course build` from solutions/15_humanram_reconstruction.py. Edit there, never here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, gelu, grid_sample, layer_norm, scaled_dot_product_attention

from course_lib.chapters import sapiens_pretraining
from course_lib.chapters.cameras import Camera, camera_to_pixels, plucker_rays
from course_lib.chapters.david_models import Head, ResidualConv, rescaled, resized
from course_lib.chapters.sapiens_pretraining import MaskedAutoencoder, encoder_state, normalize
from course_lib.chapters.transformers import RMSNorm, attend, patch_grid, patchify, unpatchify
from course_lib.recipe import Batch, Cosine, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped, load
from course_lib.study import Study, resolved


# Chapter 15, section "1 From novel views to people"
@dataclass(frozen=True)
class Config:
    """A HumanRAM. HumanRAM supplement A.

    size: side of the square pictures. hidden: width inside the blocks' MLPs. texture_size, texture_channels: texels
    along a side of each of the three planes, and numbers in a texel. head: "linear" or "dpt"; features: channels of the
    DPT head. pose_image, token_norm: False leaves the pose image, or the norm after patchify, out.

    Training (supplement B), from inputs on: views given and views to draw; repose: share of the samples whose targets
    are in another pose; people, poses and views of the scans; a peak learning rate after `warmup` steps; perceptual:
    the weight of that part of the loss.
    """

    size: int
    width: int
    depth: int
    heads: int
    hidden: int
    patch: int = 8
    texture_size: int = 128
    texture_channels: int = 16
    head: str = "dpt"
    features: int = 256
    pose_image: bool = True
    token_norm: bool = True
    checkpoint_blocks: bool = False
    inputs: int = 2
    targets: int = 4
    repose: float = 0.0
    people: int = 2345
    poses: int = 2
    views: int = 12
    batch_size: int = 96
    steps: int = 70_000
    lr: float = 4e-4
    warmup: int = 2500
    weight_decay: float = 0.05
    perceptual: float = 1.0
    clip: float | None = 1.0
    precision: str = "bf16"
    accumulate: int = 1
    paper: PaperRun | None = None

    def __post_init__(self):
        if self.head not in HEADS:
            raise ValueError(f"no head is called {self.head!r}: use one of {', '.join(HEADS)}")

    @property
    def hooks(self) -> tuple[int, ...]:
        """The layers, counted from 1, whose tokens the DPT head reads: 3, 6, 9, 12 of 12."""
        return tuple(-(-self.depth * quarter // 4) for quarter in (1, 2, 3, 4))


HEADS = ("linear", "dpt")


# Chapter 15, section "2 Views as tokens"
def require_camera(camera: Camera, unit: float = 1.0) -> None:
    """ValueError where a camera can't say where its pixels look, or a length is no length."""
    flat = camera.K.det().abs() < 1e-6 * camera.K.abs().amax((-1, -2)) ** 2
    if flat.any() or not all(part.isfinite().all() for part in (camera.K, camera.R, camera.t)):
        first = int(flat.int().argmax())
        raise ValueError(f"camera {first} is singular, its K is {camera.K[first].tolist()}: focal lengths can't be 0")
    if not unit > 0:
        raise ValueError(f"unit is {unit}: give metres, more than 0")


# Chapter 15, section "2 Views as tokens", exercise 15.1
def ray_map(camera: Camera, size: tuple[int, int], origin: Tensor | None = None, unit: float = 1.0) -> Tensor:
    """Plücker rays as a picture (B, 6, H, W): the moment o x d, then the unit direction d, as LVSM's code has them.

    origin (3,) or (B, 3): the point of the world, in metres, that becomes 0; None: the world's own. unit: metres that
    become 1. ValueError for a camera that is singular.
    """
    require_camera(camera, unit)
    direction, moment = plucker_rays(camera, size).split(3, -1)  # (B, H, W, 3) each
    if origin is not None:
        moment = moment - torch.linalg.cross(origin.expand(len(camera), 3)[:, None, None], direction)
    return torch.cat([moment / unit, direction], -1).permute(0, 3, 1, 2)  # (B, 6, H, W)


MESHES = "course_lib.data.meshes"


# Chapter 15, section "3 The neural texture"
def canonical_surface() -> tuple[Tensor, Tensor]:
    """The skin of the mean person who stands like a star: vertices (V, 3) in metres and faces (F, 3).

    Vertices are numbered as in `course_lib.data.meshes.skin()`: its visible ones."""
    pose = torch.zeros(1, 55, 3)
    pose[0, [1, 2], 2] = torch.tensor([0.4, -0.4])  # the hips: legs apart
    skin = resolved(f"{MESHES}:skin")()
    with torch.no_grad():
        vertices = resolved(f"{MESHES}:mesh_model")()(pose=pose).vertices[0]
    return vertices[: skin.visible], skin.faces


# Chapter 15, section "3 The neural texture"
def into_box(vertices: Tensor, margin: float = 1.1) -> Tensor:
    """Points (V, 3) -> the same inside [-1, 1]³, centred, all axes divided by one number. The margin is our choice."""
    low, high = vertices.amin(0), vertices.amax(0)
    return (vertices - (low + high) / 2) / (margin * (high - low).max() / 2)


PLANES = ((0, 1), (0, 2), (1, 2))  # xy, xz, yz


# Chapter 15, section "3 The neural texture", exercise 15.2
def sample_planes(planes: Tensor, points: Tensor) -> Tensor:
    """Three planes (3, C, R, R) at points (V, 3) of [-1, 1]³ -> features (V, 3C): bilinear, of xy, xz and yz side by
    side. The first of the two axes runs along a plane's columns, the second along its rows."""
    places = torch.stack([points[:, axes] for axes in PLANES])[:, None]  # (3, 1, V, 2)
    features = grid_sample(planes, places, align_corners=False, padding_mode="border")  # (3, C, 1, V)
    return rearrange(features, "p c 1 v -> v (p c)")


# Chapter 15, section "3 The neural texture"
class NeuralTexture(nn.Module):
    """Features for the points of a body's surface, learned, the same for all people. HumanRAM supplement A."""

    def __init__(self, config: Config):
        super().__init__()
        planes = 0.1 * torch.randn(3, config.texture_channels, config.texture_size, config.texture_size)
        self.planes = nn.Parameter(planes)  # N(0, 0.1)

    def forward(self, points: Tensor) -> Tensor:
        """Points (V, 3) of [-1, 1]³ -> (V, 3C)."""
        return sample_planes(self.planes, points)


# Chapter 15, section "The pose image", exercise 15.3
def pose_image(features: Tensor, faces: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
    """Features of the vertices (V, C), faces (F, 3), and what a view's pixels see: face (..., H, W), -1 where there is
    none, and barycentric (..., H, W, 3) -> the pose image (..., C, H, W), 0 where there is no face. Differentiable."""
    corners = faces.index_select(0, face.flatten().clamp(min=0).long())  # (P, 3)
    corners = torch.where(face.reshape(-1, 1) >= 0, corners, len(features))  # the vertex that isn't there
    padded = torch.cat([features, features.new_zeros(1, features.shape[1])])
    weights = barycentric.reshape(-1, 3).to(features)
    mixed = embedding_bag(corners, padded, mode="sum", per_sample_weights=weights, padding_idx=len(features))
    return mixed.view(*face.shape, -1).movedim(-1, -3)  # (..., C, H, W)


# Chapter 15, section "4 The transformer", exercise 15.4
def assemble(inputs: Tensor, queries: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Tokens of the input views (B, S, N, D) and of the target views (B, M, N, D) -> a sequence for each target,
    (B * M, (S + 1) * N, D): all input tokens of the sample, then the target's own.

    seen (B, S) bool: False for a view that is not there; then also who may be listened to, (B * M, (S + 1) * N) bool,
    else None. HumanRAM after LVSM's code.
    """
    targets, count = queries.shape[1:3]
    context = inputs.flatten(1, 2).repeat_interleave(targets, 0)  # (B * M, S * N, D)
    sequence = torch.cat([context, queries.flatten(0, 1)], 1)
    if seen is None:
        return sequence, None
    keep = seen.repeat_interleave(count, 1).repeat_interleave(targets, 0)  # (B * M, S * N)
    return sequence, torch.cat([keep, keep.new_ones(len(keep), count)], 1)


# Chapter 15, section "Attention with QK-norm", exercise 15.5
def view_attention(q: Tensor, k: Tensor, v: Tensor, norms: Sequence[nn.Module], keep: Tensor | None = None) -> Tensor:
    """Queries, keys and values (B, h, N, d); the norms of queries and of keys; keep (B, N) bool: which tokens may be
    listened to, None for all -> (B, h, N, d). Every token asks, and every row has at least one to listen to."""
    q, k = norms[0](q), norms[1](k)
    if keep is None:
        return attend(q, k, v)
    heard = keep[:, None, None]  # (B, 1, 1, N): for all heads and all who ask
    if q.device.type != "cpu":
        return scaled_dot_product_attention(q, k, v, attn_mask=heard)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, h, N, N)
    return scores.masked_fill(~heard, -torch.inf).softmax(-1) @ v


# Chapter 15, section "Attention with QK-norm"
class Attention(nn.Module):
    """Multi-head self-attention without biases, with QK-norm. HumanRAM supplement A; LVSM's code."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} can't be cut into {heads} heads: choose a divisor of {width}")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = (RMSNorm(width // heads, eps=1e-5) for _ in range(2))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) -> queries, keys, values (B, h, N, d)."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), and keep (B, N) bool or None -> (B, N, D)."""
        answers = view_attention(*self.split(x), (self.q_norm, self.k_norm), keep)  # (B, h, N, d)
        return self.proj(answers.transpose(1, 2).flatten(2))

    def shares(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Who listens to whom, (B, h, N, N), each row sums to 1. To look at, not to train with."""
        q, k, _ = self.split(x)
        scores = self.q_norm(q) @ self.k_norm(k).mT * q.shape[-1] ** -0.5
        scores = scores if keep is None else scores.masked_fill(~keep[:, None, None], -torch.inf)
        return scores.softmax(-1)


# Chapter 15, section "Attention with QK-norm"
class Block(nn.Module):
    """Attention, then an MLP, each after a LayerNorm and added to what came in; no biases. HumanRAM supplement A."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attn = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), and keep (B, N) bool or None -> (B, N, D)."""
        x = x + self.attn(self.norm1(x), keep)
        return x + self.fc2(gelu(self.fc1(self.norm2(x))))


# Chapter 15, section "5 Two heads"
class LinearHead(nn.Module):
    """A target's tokens after the last layer -> its picture, patch by patch. HumanRAM supplement A."""

    def __init__(self, config: Config):
        super().__init__()
        self.patch = config.patch
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rows = nn.Linear(config.width, 3 * config.patch**2, bias=False)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Tokens of four layers, (B, N, D) each, of which it reads the last -> (B, 3, H, W), before the sigmoid."""
        return unpatchify(self.rows(self.norm(layers[-1])), self.patch, grid)


# Chapter 15, section "5 Two heads"
class Fusion(nn.Module):
    """Joins a picture of one layer with what came from the layers above. Ranftl et al. 2021 (DPT)."""

    def __init__(self, features: int):
        super().__init__()
        self.learned, self.fused = ResidualConv(features), ResidualConv(features)
        self.mix = nn.Conv2d(features, features, 1)

    def forward(self, picture: Tensor, above: Tensor | None) -> Tensor:
        """(B, F, h, w) and (B, F, ., .), or None -> (B, F, h, w)."""
        total = self.learned(picture)
        return self.mix(self.fused(total if above is None else total + resized(above, total)))


# Chapter 15, section "5 Two heads"
class DptHead(nn.Module):
    """A target's tokens after a quarter, half, three quarters and all of the layers -> its picture. The paper names DPT
    and the layers; sizes are our choice."""

    def __init__(self, config: Config):
        super().__init__()
        self.patch, width, features = config.patch, config.width, config.features
        channels = [width // 8, width // 4, width // 2, width]
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in channels)
        self.project = nn.ModuleList(nn.Conv2d(width, few, 1) for few in channels)
        self.rescale = nn.ModuleList(rescaled(few, level) for level, few in enumerate(channels, 1))
        self.refine = nn.ModuleList(nn.Conv2d(few, features, 3, padding=1, bias=False) for few in channels)
        self.fusion = nn.ModuleList(Fusion(features) for _ in channels)
        self.out = Head(features, 3)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Tokens of four layers, (B, N, D) each -> (B, 3, H, W), before the sigmoid."""
        above = None
        for i in (3, 2, 1, 0):
            picture = self.norms[i](layers[i]).mT.unflatten(2, grid)  # (B, D, rows, columns)
            above = self.fusion[i](self.refine[i](self.rescale[i](self.project[i](picture))), above)
        whole = above.new_empty(1, 1, grid[0] * self.patch, grid[1] * self.patch)  # the picture's size
        return self.out(above, whole)


# Chapter 15, section "The whole"
class HumanRAM(nn.Module):
    """Posed pictures of a person and target cameras -> what these see, (B, M, 3, H, W) in [0, 1]. HumanRAM.

    canonical (V, 3), faces (F, 3): the surface that the texture lies on, `canonical_surface`'s. A batch holds image
    (B, S, 3, H, W) in [0, 1] on white, rays (B, S, 6, H, W), face (B, S, H, W) integers, -1 where there is no body,
    barycentric (B, S, H, W, 3), the same of the targets as target_rays, target_face, target_barycentric (B, M, ...),
    and, where samples have fewer than S views, seen (B, S) bool.
    """

    def __init__(self, config: Config, canonical: Tensor, faces: Tensor):
        super().__init__()
        c, extra = config, 3 * config.texture_channels * config.pose_image
        require_surface(canonical, faces)
        self.patch, self.hooks = c.patch, c.hooks
        self.texture = NeuralTexture(c) if c.pose_image else None
        here = torch.empty(0).device  # "meta" where only sizes are asked for
        self.register_buffer("points", into_box(canonical.float()).to(here), persistent=False)
        self.register_buffer("faces", faces.long().to(here), persistent=False)
        self.embed_input = nn.Linear((9 + extra) * c.patch**2, c.width, bias=False)
        self.embed_target = nn.Linear((6 + extra) * c.patch**2, c.width, bias=False)
        self.token_norm = nn.LayerNorm(c.width, bias=False) if c.token_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.hidden) for _ in range(c.depth))
        self.head = LinearHead(c) if c.head == "linear" else DptHead(c)
        initialize(self)

    def tokens(self, embed: nn.Linear, maps: Sequence[Tensor]) -> Tensor:
        """Pictures (B, S, ., H, W) of one size -> a token for each patch, (B, S, N, D)."""
        pictures = torch.cat(list(maps), -3)  # (B, S, C, H, W)
        rows = patchify(pictures.flatten(0, 1), self.patch).unflatten(0, pictures.shape[:2])
        return self.token_norm(embed(rows))

    def sequence(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The tokens before the first block and who may be listened to, as `assemble` returns them."""
        seen = [2 * batch["image"] - 1, batch["rays"]]
        asked = [batch["target_rays"]]
        if self.texture is not None:
            features = self.texture(self.points)  # (V, 3C), once for all pictures
            seen.append(pose_image(features, self.faces, batch["face"], batch["barycentric"]))
            asked.append(pose_image(features, self.faces, batch["target_face"], batch["target_barycentric"]))
        inputs, queries = self.tokens(self.embed_input, seen), self.tokens(self.embed_target, asked)
        if "seen" in batch:  # what isn't there may hold anything, NaN too
            inputs = torch.where(batch["seen"][..., None, None], inputs, 0.0)
        return assemble(inputs, queries, batch.get("seen"))

    def forward(self, batch: Batch) -> Tensor:
        """See the class. ValueError where patches don't fit."""
        grid = patch_grid(batch["target_rays"].shape[-2:], self.patch)
        tokens, keep = self.sequence(batch)
        layers = []
        for number, block in enumerate(self.blocks, 1):
            tokens = block(tokens, keep)  # (B * M, (S + 1) * N, D)
            layers += [tokens[:, -grid[0] * grid[1] :]] * self.hooks.count(number)
        colours = self.head(layers, grid).float().sigmoid()  # in bf16 it is exactly 1 above 6, and stops learning
        return colours.unflatten(0, batch["target_rays"].shape[:2])

    @torch.no_grad()
    def shares(self, batch: Batch, layer: int = -1) -> Tensor:
        """How much each target token listens to every token in a layer: (B, M, h, N, (S + 1) * N). To look at."""
        tokens, keep = self.sequence(batch)
        blocks, count = list(self.blocks), tokens.shape[1] // (batch["image"].shape[1] + 1)
        for block in blocks[: layer % len(blocks)]:
            tokens = block(tokens, keep)
        block = blocks[layer]
        shares = block.attn.shares(block.norm1(tokens), keep)[:, :, -count:]
        return shares.unflatten(0, batch["target_rays"].shape[:2])


# Chapter 15, section "The whole"
def require_surface(canonical: Tensor, faces: Tensor) -> None:
    """ValueError where the faces name vertices that the canonical surface doesn't have."""
    if canonical.ndim != 2 or canonical.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        shapes = f"{tuple(canonical.shape)} and {tuple(faces.shape)}"
        raise ValueError(f"the surface must be vertices (V, 3) and faces (F, 3), not {shapes}")
    if int(faces.min()) < 0 or int(faces.max()) >= len(canonical):
        raise ValueError(
            f"faces name vertices {int(faces.min())} to {int(faces.max())}, the surface has {len(canonical)}: "
            "take both from the same body file"
        )


MEAN = 0.9  # of pictures of people on white


# Chapter 15, section "The whole"
def initialize(model: HumanRAM) -> None:
    """Linear maps from N(0, 0.02), in block i of 0, 1, … from N(0, 0.02 / √(2 (i + 1))). LVSM's code. The DPT head's
    convolutions begin as PyTorch begins them, but its last one at `MEAN`, our choice: from grey every pixel would first
    run toward white, all together, and far beyond, where the sigmoid's slope is 0 and nothing is learned any more."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.normal_(module.weight, std=0.02)
    for index, block in enumerate(model.blocks):
        for module in (block.attn.qkv, block.attn.proj, block.fc1, block.fc2):
            nn.init.normal_(module.weight, std=0.02 / (2 * (index + 1)) ** 0.5)
    if isinstance(model.head, DptHead):
        nn.init.constant_(model.head.out.last.bias, math.log(MEAN / (1 - MEAN)))


GPUS = {"gpus": 8, "gpu": "A100-80GB"}
STAGE_1 = PaperRun("HumanRAM supplement B, stage 1", days=2.0, batch=96, steps=70_000, samples=96 * 70_000, **GPUS)
STAGE_2 = PaperRun("HumanRAM supplement B, stage 2", days=4.0, batch=48, steps=10_000, samples=48 * 10_000, **GPUS)
WHOLE = {"checkpoint_blocks": True, "views": 32}
SMALL = {"heads": 6, "texture_size": 64, "texture_channels": 8, "features": 40, "targets": 1, "perceptual": 0.002}
CONFIGS = {
    "smoke": Config(32, 32, 2, 2, 64, texture_size=16, texture_channels=4, features=16, targets=1, people=2, views=6,
                    batch_size=2, steps=4, lr=1e-3, warmup=1, perceptual=0.002, repose=0.5),
    "laptop": Config(96, 192, 5, hidden=768, people=24, batch_size=4, steps=240, lr=1e-3, warmup=20, repose=0.3,
                     **SMALL),
    "shipped": Config(96, 192, 5, hidden=768, people=300, batch_size=6, steps=4000, lr=8e-4, warmup=400, repose=0.3,
                      **SMALL),
    "gpu": Config(128, 384, 8, 8, 1536, people=400, batch_size=32, targets=2, steps=12_000, warmup=600,
                  perceptual=0.002, repose=0.3, features=64),
    "humanram-256": Config(256, 768, 12, 16, 3072, paper=STAGE_1, **WHOLE),
    "humanram-512": Config(512, 768, 12, 16, 3072, inputs=4, repose=0.5, batch_size=48, steps=10_000, lr=4e-5, warmup=0,
                           paper=STAGE_2, **WHOLE),
}  # fmt: skip
RUNS = "course_lib.studies.humanram"


# Chapter 15, section "Which views are given?", exercise 15.6
def choose_views(generator: torch.Generator, views: int, inputs: int, targets: int) -> tuple[Tensor, Tensor]:
    """Of `views` cameras around a ring, numbered by azimuth: those given (S,) and those to draw (M,).

    The given ones stand equally many cameras apart, from 2 up to as many as fit around the ring; the others are drawn
    from those in between, from the first given camera on the way to the last, without repeats. One given camera has
    none in between: then all others count. ValueError where there are too few. HumanRAM supplement B; how far apart is
    our choice.
    """
    least = 2 if inputs == 1 else max(2, 1 + -(-targets // (inputs - 1)))  # so that enough are in between
    most = views if inputs == 1 else views // inputs
    if least > most or targets > views - 1:
        raise ValueError(f"{inputs} + {targets} of {views} views: there are not so many in between, give fewer")
    apart = most if inputs == 1 else int(torch.randint(least, most + 1, (), generator=generator))
    start = int(torch.randint(views, (), generator=generator))
    steps = torch.arange(1, apart * max(inputs - 1, 1))
    between = steps[steps % apart > 0]
    chosen = between[torch.randperm(len(between), generator=generator)[:targets]]
    return (start + apart * torch.arange(inputs)) % views, (start + chosen) % views


ENCODER = "sapiens_pretraining-people"  # chapter 06's, which comes with the course
VGG = "vgg19-dcbb9e9d.pth"  # torchvision's weights
VGG_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512)  # 0: pooling


# Chapter 15, section "7 The loss"
class VggFeatures(nn.Module):
    """VGG-19's features after the second convolution of each of its five blocks, with torchvision's names and order.
    Its max-pooling is an average here, as in GS-LRM's and LVSM's loss."""

    LEVELS = (3, 8, 13, 22, 31)

    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for width in VGG_LAYERS:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()] if width else [nn.AvgPool2d(2)]
            inputs = width or inputs
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised pictures (B, 3, H, W) -> five levels (B, places, channels)."""
        found, x = [], images
        for number, layer in enumerate(self.features):
            x = layer(x)
            found += [x.flatten(2).mT] if number in self.LEVELS else []
        return found


# Chapter 15, section "7 The loss"
class EncoderFeatures(nn.Module):
    """The tokens of chapter 06's encoder after its second and its fourth block, without the cls token."""

    LEVELS = (1, 3)

    def __init__(self, config: sapiens_pretraining.Config = sapiens_pretraining.CONFIGS["shipped"]):
        super().__init__()
        self.encoder = MaskedAutoencoder(config).encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised pictures (B, 3, H, W) -> two levels (B, places, channels)."""
        return [tokens[:, 1:] for tokens in self.encoder.features(images, self.LEVELS)]


# Chapter 15, section "7 The loss"
def vgg_file() -> Path:
    """Where torchvision keeps VGG-19's weights once they were fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGG


# Chapter 15, section "7 The loss"
@lru_cache(maxsize=1)
def feature_network() -> nn.Module:
    """What the perceptual distance looks with: VGG-19 where its weights are, else chapter 06's encoder. Frozen."""
    if vgg_file().exists():
        network = VggFeatures()
        network.load_state_dict(torch.load(vgg_file(), weights_only=True), strict=False)
    else:
        whole = MaskedAutoencoder(sapiens_pretraining.CONFIGS["shipped"])
        load(whole, ENCODER)
        network = EncoderFeatures()
        network.encoder.load_state_dict(encoder_state(whole))
    return network.requires_grad_(False).eval()


# Chapter 15, section "7 The loss"
def perceptual_distance(prediction: Tensor, target: Tensor, network: nn.Module | None = None) -> Tensor:
    """How differently two stacks of pictures (B, 3, H, W) in [0, 1] strike a network, (B,): the mean difference of its
    features, each place scaled to mean 0 and variance 1 over the channels; the mean over the levels. Ours, after GS-LRM
    and LPIPS."""
    network = (network or feature_network()).to(prediction.device)
    levels = zip(network(normalize(prediction)), network(normalize(target)), strict=True)
    return sum(
        (layer_norm(ours.float(), ours.shape[-1:]) - layer_norm(true.float(), true.shape[-1:])).abs().mean((1, 2))
        for ours, true in levels
    ) / len(network.LEVELS)


# Chapter 15, section "7 The loss"
def reconstruction_loss(model: nn.Module, batch: Batch, weight: float, network: nn.Module | None) -> dict[str, Tensor]:
    """Equation (15.7): the mean squared error of the target views, plus `weight` times their perceptual distance."""
    prediction, target = model(batch).flatten(0, 1), batch["target_image"].flatten(0, 1)
    squared = (prediction - target).square().mean()
    if not weight:
        return {"loss": squared, "squared": squared}
    distance = perceptual_distance(prediction, target, network).mean()
    return {"loss": squared + weight * distance, "squared": squared, "perceptual": distance}


# Chapter 15, section "PSNR on a mask", exercise 15.7
def masked_psnr(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """PSNR in decibels (B,) of pictures (B, 3, H, W) over the pixels of a mask (B, H, W) bool; the prediction is
    clipped to [0, 1] first. Infinite where they are equal, NaN where the mask is empty."""
    squared = (prediction.clamp(0, 1) - target).square().mean(1)  # (B, H, W), over the colours
    error = (squared * mask).sum((1, 2)) / mask.sum((1, 2))
    return -10 * error.log10()


# Chapter 15, section "8 Training", exercise 15.8
def learning_rate(step: int, steps: int, peak: float = 4e-4, warmup: int = 2500) -> float:
    """The learning rate of step 0, 1, … of `steps`, equation (15.9): up in a line, then down half a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * share)) / 2


# Chapter 15, section "8 Training"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    side = (config.size, config.size)

    def views(many: int, prefix: str) -> Batch:
        face = torch.randint(-1, 100, (count, many, *side))
        shapes = {"image": (3, *side), "rays": (6, *side), "barycentric": (*side, 3)}
        maps = {name: torch.rand(count, many, *shape) for name, shape in shapes.items()}
        return {f"{prefix}{name}": value for name, value in (maps | {"face": face}).items()}

    alpha = {"target_alpha": torch.rand(count, config.targets, 1, *side)}
    return views(config.inputs, "") | views(config.targets, "target_") | alpha


# Chapter 15, section "8 Training"
def begun(config: Config, surface: tuple[Tensor, Tensor], weights: dict[str, Tensor] | None) -> HumanRAM:
    """A model, with the weights of an earlier stage where they are given."""
    model = HumanRAM(config, *surface)
    if weights is not None:
        model.load_state_dict(weights)
    return model


# Chapter 15, section "8 Training"
def recipe(config: Config, stream: Stream | None, weights: dict[str, Tensor] | None = None) -> Recipe:
    """The training of a `HumanRAM`, from scratch or from an earlier stage's `weights`. HumanRAM supplement B; AdamW and
    its numbers are LVSM's."""
    network = feature_network() if config.perceptual else None
    return Recipe(
        name=f"humanram-{config.size}",
        model=partial(begun, config, canonical_surface(), weights),
        loss=partial(reconstruction_loss, weight=config.perceptual, network=network),
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer("adamw", config.lr, (0.9, 0.95), config.weight_decay),
        schedule=Cosine(config.warmup),
        precision=config.precision,
        clip=config.clip,
        accumulate=config.accumulate,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 15, section "8 Training"
def generate(config: Config) -> Callable:
    """For a launch: (generator, samples) -> a batch of the training people's scans, which lie in the data folder."""
    return resolved(f"{RUNS}:stream")(config).make


SHIPPED = {"scans": Shipped("humanram_reconstruction-scans", CONFIGS["shipped"], f"{RUNS}:reconstructed")}


# Chapter 15, section "Two answers that learn nothing", exercise 15.9
def seen_by(points: Tensor, camera: Camera, depth: Tensor, tolerance: float = 0.02) -> Tensor:
    """Points (P, 3), S cameras and their depth maps (S, H, W), +inf where there is nothing -> whether each camera sees
    each point, (S, P) bool: inside its frame, in front of it, at most `tolerance` behind what its pixel shows."""
    inside = camera.to_camera(points.expand(len(camera), -1, -1))  # (S, P, 3)
    column, row = camera_to_pixels(inside, camera.K).floor().long().unbind(-1)  # (S, P) each
    height, width = depth.shape[-2:]
    framed = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (inside[..., 2] > 0)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return framed & (inside[..., 2] <= depth.flatten(1).gather(1, place) + tolerance)


# Chapter 15, section "Where does a patch look?", exercise 15.10
def looks_at(shares: Tensor, token: int, views: int, grid: tuple[int, int]) -> Tensor:
    """The shares (h, N, (S + 1) * N) of one target -> where its token number `token` looks among the patches of the S
    given views: (S, rows, columns), the mean over heads, scaled to a sum of 1."""
    given = shares.mean(0)[token, : views * grid[0] * grid[1]]  # (S * N)
    return (given / given.sum()).view(views, *grid)


# Chapter 15, section "12 What matters"
@dataclass(frozen=True)
class Arm:
    """One arm of a study: with or without pose image, which head, LayerNorm after patchify, views given in training."""

    pose_image: bool = True
    head: str = "dpt"
    token_norm: bool = True
    inputs: int = 2


# Chapter 15, section "12 What matters"
def arm_config(arm: Arm, steps: int) -> Config:
    """The configuration of an arm's network."""
    return Config(
        64, 128, 4, 4, 512, texture_size=64, texture_channels=8, head=arm.head, features=32, pose_image=arm.pose_image,
        token_norm=arm.token_norm, inputs=arm.inputs, targets=1, people=96, batch_size=8, steps=steps, lr=1e-3,
        warmup=20, perceptual=0.0,
    )  # fmt: skip


STUDY_STEPS = 400
COMPARE = "course_lib.studies.humanram_measure:compare"
STUDIES = {
    "pose_image": Study("15.pose_image", "with the pose image or without (LVSM)",
                        {"with": Arm(), "without": Arm(pose_image=False)}, COMPARE, STUDY_STEPS),
    "head": Study("15.head", "the head", {"linear": Arm(head="linear"), "dpt": Arm()}, COMPARE, STUDY_STEPS),
    "token_norm": Study("15.token_norm", "LayerNorm after patchify",
                        {"with": Arm(), "without": Arm(token_norm=False)}, COMPARE, STUDY_STEPS),
    "views": Study("15.views", "views given in training", {f"{n}": Arm(inputs=n) for n in (1, 2, 4)}, COMPARE,
                   STUDY_STEPS),
}  # fmt: skip


# course build sealed the text above: cd34cb08cb0e1f75

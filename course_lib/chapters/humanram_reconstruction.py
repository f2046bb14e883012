"""HumanRAM: made by `course build` from solutions/15_humanram_reconstruction.py. Edit there, never here."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, gelu, grid_sample, scaled_dot_product_attention

from course_lib.chapters.cameras import Camera, plucker_rays
from course_lib.chapters.david_models import Head, ResidualConv, rescaled, resized
from course_lib.chapters.transformers import RMSNorm, attend, patch_grid, patchify, unpatchify
from course_lib.recipe import Batch
from course_lib.study import resolved


# Chapter 15, section "1 From novel views to people"
@dataclass(frozen=True)
class Config:
    """A HumanRAM. HumanRAM supplement A.

    size: side of the square pictures. hidden: width inside the blocks' MLPs. texture_size, texture_channels: texels
    along a side of each of the three planes, and numbers in a texel. head: "linear" or "dpt"; features: channels of the
    DPT head. pose_image, token_norm: False leaves the pose image, or the norm after patchify, out.
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
        return self.head(layers, grid).sigmoid().unflatten(0, batch["target_rays"].shape[:2])

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


# Chapter 15, section "The whole"
def initialize(model: HumanRAM) -> None:
    """Linear maps from N(0, 0.02), in block i of 0, 1, … from N(0, 0.02 / √(2 (i + 1))). LVSM's code. (The DPT head's
    convolutions begin as PyTorch begins them.)"""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.normal_(module.weight, std=0.02)
    for index, block in enumerate(model.blocks):
        for module in (block.attn.qkv, block.attn.proj, block.fc1, block.fc2):
            nn.init.normal_(module.weight, std=0.02 / (2 * (index + 1)) ** 0.5)


# course build sealed the text above: 97403fd248e365e6

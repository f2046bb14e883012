"""Transformers: made by `course build` from solutions/04_transformers.py. Edit there, never here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, interpolate, scaled_dot_product_attention

from course_lib.recipe import Batch, Cosine, Optimizer, PaperRun, Recipe, Stream


# Chapter 04, section "1 One head: asking the others", exercise 04.1
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (..., N, d), k and v (..., M, d) -> (..., N, d): for each query a mean of the values. Equation 04.1.

    Vaswani et al. 2017, eq. 1.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (..., N, M)
    return scores.softmax(-1) @ v


# Chapter 04, section "2 The same, fast"
def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Equation 04.1 the way that is fast here: written out under bf16 on a CPU, by PyTorch's kernels elsewhere."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return attention(q, k, v)
    return scaled_dot_product_attention(q, k, v)


# Chapter 04, section "3 Several heads"
class Attention(nn.Module):
    """Multi-head self-attention (equation 04.3); with `qk_norm` queries and keys are normalised, head by head (04.6).

    Vaswani et al. 2017, §3.2.2. Parameters are named as in timm: qkv, proj, q_norm, k_norm.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False):
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} can't be cut into {heads} heads: choose a divisor of {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) -> queries and keys, both normalised, and values, each (B, h, N, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        answers = attend(*self.queries_keys_values(x))  # (B, h, N, d)
        return self.proj(answers.transpose(1, 2).flatten(2))  # the heads side by side again

    def shares(self, x: Tensor) -> Tensor:
        """Who listens to whom: (B, N, D) -> (B, h, N, N), each row sums to 1. To look at, not to train with."""
        q, k, _ = self.queries_keys_values(x)
        return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)


# Chapter 04, section "4 The block"
class Mlp(nn.Module):
    """Two linear maps with an exact GELU between them, for each token by itself: (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(gelu(self.fc1(x)))


# Chapter 04, section "4 The block"
class Block(nn.Module):
    """A pre-LN transformer block: attention, then an MLP, each added to what came in (equation 04.5).

    Vaswani et al. 2017, with the norms where Xiong et al. 2020 put them; timm's parameter names.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, qk_norm: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads, qk_norm), Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


# Chapter 04, section "Where the norm goes"
def initialize(model: nn.Module) -> None:
    """Linear maps and patch embeddings by Xavier's rule, biases 0, as He et al. 2022 (MAE) and Sapiens do it."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)


# Chapter 04, section "QK-norm: keeping scores in bounds"
class RMSNorm(nn.Module):
    """Divides by the root mean square of the last dimension, times a learned weight: (..., d) -> (..., d)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d) in x's dtype, computed in float32. Equation 04.6; Zhang and Sennrich 2019."""
        scale = (x.float().square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (x * scale * self.weight).to(x.dtype)


# Chapter 04, section "6 A picture as tokens", exercise 04.5
def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, C * p * p): a row per patch, channel first, then row, then column of the patch.

    Dosovitskiy et al. 2021, §3.1. H and W must be multiples of `patch`.
    """
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


# Chapter 04, section "6 A picture as tokens", exercise 04.6
def unpatchify(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(B, N, C * p * p), a row for each patch of a grid (rows, columns) -> (B, C, H, W). The inverse of `patchify`."""
    return rearrange(rows, "b (h w) (c p q) -> b c (h p) (w q)", h=grid[0], p=patch, q=patch)


# Chapter 04, section "6 A picture as tokens"
def patch_grid(size: Sequence[int], patch: int) -> tuple[int, int]:
    """(H, W) pixels -> (rows, columns) of patches. ValueError where patches don't fit."""
    if size[0] % patch or size[1] % patch:
        raise ValueError(f"a picture of {size[0]} x {size[1]} can't be cut into patches of {patch}: resize or pad it")
    return size[0] // patch, size[1] // patch


# Chapter 04, section "6 A picture as tokens"
class PatchEmbed(nn.Module):
    """Pictures (B, C, H, W) -> a token for each patch (B, N, D), row by row. Dosovitskiy et al. 2021, eq. 1."""

    def __init__(self, patch: int, width: int, channels: int = 3):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D). ValueError where patches don't fit."""
        patch_grid(images.shape[-2:], self.patch)
        return self.proj(images).flatten(2).mT


# Chapter 04, section "7 Where is everyone?", exercise 04.7
def sincos_position_embedding(grid: tuple[int, int], width: int) -> Tensor:
    """grid (rows, columns) -> (N, D): sines and cosines of each patch's column, then of its row. Equation 04.7 twice.

    He et al. 2022 (MAE). `width` must be a multiple of 4.
    """
    waves = width // 4
    frequency = 10000.0 ** (-torch.arange(waves, dtype=torch.float64) / waves)  # (K,)
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]  # (N, K) each
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).float()


# Chapter 04, section "Another picture size", exercise 04.8
def resize_position_embedding(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 0) -> Tensor:
    """(1, prefix + rows * columns, D) of the grid `old` -> the same for the grid `new`, bicubic.

    The first `prefix` rows (the cls token's) stay as they are. Dosovitskiy et al. 2021, §3.2; Sapiens §3.3.
    """
    first, places = table[:, :prefix], table[:, prefix:]
    picture = places.unflatten(1, old).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    resized = interpolate(picture, size=new, mode="bicubic", align_corners=False)
    return torch.cat([first, resized.flatten(2).mT], 1)


# Chapter 04, section "8 The vision transformer"
class VisionTransformer(nn.Module):
    """Pictures -> tokens (B, prefix + N, D), normalised; prefix is 1 with a cls token in front, 0 without.

    size: a side or (H, W) of the pictures that the table of places is for; others resize it. positions: learned, sincos
    (fixed) or none. `encode` takes any subset of what `embed` returns: a masked autoencoder drops tokens in between.
    Dosovitskiy et al. 2021, §3.1; parameters are named as in timm.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        positions: str = "learned",
        cls: bool = True,
        qk_norm: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        self.patch, self.prefix = patch, int(cls)
        self.grid = patch_grid((size, size) if isinstance(size, int) else size, patch)
        self.patch_embed = PatchEmbed(patch, width, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.pos_embed = position_table(positions, self.grid, self.prefix, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialize(self)
        for parameter in (self.cls_token, self.pos_embed):
            if parameter is not None and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02)

    def places(self, grid: tuple[int, int]) -> Tensor | float:
        """The table of places (1, prefix + N, D) for a grid; 0 where there are no positions."""
        if self.pos_embed is None or grid == self.grid:
            return 0.0 if self.pos_embed is None else self.pos_embed
        return resize_position_embedding(self.pos_embed, self.grid, grid, self.prefix)

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the tokens before the first block (B, prefix + N, D): cls in front, places added."""
        tokens = self.patch_embed(images)  # (B, N, D)
        grid = patch_grid(images.shape[-2:], self.patch)
        if self.prefix:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return tokens + self.places(grid)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, any number, D) through all blocks and the last norm."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The tokens (B, prefix + N, D) after the blocks of these numbers, from 0, before the last norm (for DPT)."""
        tokens, found = self.embed(images), []
        for block in self.blocks[: max(layers) + 1]:
            tokens = block(tokens)
            found.append(tokens)
        return [found[layer] for layer in layers]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, prefix + N, D)."""
        return self.encode(self.embed(images))


# Chapter 04, section "8 The vision transformer"
def position_table(positions: str, grid: tuple[int, int], prefix: int, width: int) -> nn.Parameter | None:
    """The table of places (1, prefix + N, D): learned (to be filled), sincos (fixed; 0 for cls), or None for none."""
    if positions == "none":
        return None
    if positions == "learned":
        return nn.Parameter(torch.zeros(1, prefix + grid[0] * grid[1], width))
    if positions != "sincos":
        raise ValueError(f"positions {positions!r} are unknown: use learned, sincos or none")
    if width % 4:
        raise ValueError(f"sincos positions need a width that is a multiple of 4, not {width}")
    table = torch.cat([torch.zeros(prefix, width), sincos_position_embedding(grid, width)])
    return nn.Parameter(table[None], requires_grad=False)


CLASSES = ("background", "face", "hair and hats", "upper body", "lower body", "arms and hands", "legs and feet")
# Sapiens' 28 classes (`course_lib.data.parts.PART_NAMES`, in that order) -> CLASSES
GROUPS = np.array([0, 2, 1, 2, 6, 5, 5, 6, 6, 6, 5, 6, 4, 6, 5, 5, 6, 6, 6, 5, 6, 3, 3, 1, 1, 1, 1, 1], dtype=np.int64)


# Chapter 04, section "9 A first training: the parts of a body"
@dataclass(frozen=True)
class Config:
    """A vision transformer, what it is shown, and how it is trained. size: the side of the square pictures."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    pictures: int
    batch_size: int
    steps: int
    lr: float = 2e-3
    warmup: int = 50
    positions: str = "sincos"
    cls: bool = False
    qk_norm: bool = True
    mlp_ratio: float = 4.0
    world: str = "wild"
    precision: str = "bf16"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None


SAPIENS_2B = PaperRun(
    source="Sapiens, Table 2 and §4.1",
    parameters=2.163e9,
    flops=8.709e12,
    gpus=1024,
    days=18,
    notes=("the paper trains a masked autoencoder: its decoder is in the parameters, three quarters of the patches are "
           "not encoded, and its FLOPs are multiply-adds without attention's own products",),
)  # fmt: skip
CONFIGS = {
    "smoke": Config(32, 8, 32, 2, 2, pictures=8, batch_size=4, steps=6, warmup=2),
    "laptop": Config(96, 8, 192, 6, 3, pictures=2400, batch_size=32, steps=600),
    "gpu": Config(128, 8, 384, 12, 6, pictures=24_000, batch_size=128, steps=6000, lr=1e-3, warmup=300),
    # the encoder of Sapiens-2B: the largest thing that launches are tried on before chapter 06
    "vit-2b": Config(1024, 16, 1920, 48, 32, pictures=1_000_000, batch_size=4096, steps=50_000, lr=3e-4, warmup=1000,
                     cls=True, qk_norm=False, checkpoint_blocks=True, paper=SAPIENS_2B),
}  # fmt: skip


# Chapter 04, section "9 A first training: the parts of a body"
class PartSegmenter(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> scores of the classes at each pixel (B, 7, H, W)."""

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.vit = VisionTransformer(
            c.size, c.patch, c.width, c.depth, c.heads, c.mlp_ratio, c.positions, c.cls, c.qk_norm
        )
        self.head = nn.Linear(c.width, c.patch**2 * len(CLASSES))
        initialize(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 7, H, W)."""
        tokens = self.vit(2 * images - 1)[:, self.vit.prefix :]  # (B, N, D)
        return unpatchify(self.head(tokens), self.vit.patch, patch_grid(images.shape[-2:], self.vit.patch))


# Chapter 04, section "9 A first training: the parts of a body"
def part_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The mean cross-entropy of all pixels, and the share of pixels that are right."""
    scores = model(batch["image"]).float()  # (B, 7, H, W)
    right = (scores.argmax(1) == batch["parts"]).float().mean()
    return {"loss": cross_entropy(scores, batch["parts"]), "accuracy": right}


# Chapter 04, section "9 A first training: the parts of a body"
def recipe(config: Config, stream: Stream | None) -> Recipe:
    """The training of a `PartSegmenter` on batches of image (B, 3, H, W) and parts (B, H, W)."""
    return Recipe(
        name=f"parts-{config.width}x{config.depth}",
        model=partial(PartSegmenter, config),
        loss=part_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Cosine(warmup=config.warmup),
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 04, section "9 A first training: the parts of a body"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    shape = (count, config.size, config.size)
    return {"image": torch.rand(count, 3, *shape[1:]), "parts": torch.randint(len(CLASSES), shape)}


# Chapter 04, section "9 A first training: the parts of a body"
def prepare(config: Config) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> image (3, H, W) and parts (H, W), mirrored half of the time."""
    return partial(prepared, config)


# Chapter 04, section "9 A first training: the parts of a body"
def prepared(config: Config, sample, rng: np.random.Generator | None = None) -> Batch:
    """See `prepare`; without random numbers never mirrored. ValueError for a picture of another size."""
    if sample.image.shape[1:] != (config.size, config.size):
        raise ValueError(f"sample {sample.key} is {sample.image.shape[1:]}: make the data with --size {config.size}")
    batch = {"image": torch.from_numpy(sample.image), "parts": torch.from_numpy(GROUPS[sample.parts])}
    return mirrored(batch) if rng is not None and rng.random() < 0.5 else batch


# Chapter 04, section "9 A first training: the parts of a body"
def mirrored(batch: Batch) -> Batch:
    """Left and right exchanged. (No class says left or right, so none has to be renamed.)"""
    return {name: values.flip(-1) for name, values in batch.items()}


# course build sealed the text above: dc7094a86d904450

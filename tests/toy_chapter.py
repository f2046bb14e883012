"""A chapter in miniature for tests of launches: a small transformer that learns the mean of its input."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.recipe import Batch, Constant, Optimizer, PaperRun, Recipe, Stream


@dataclass(frozen=True)
class Config:
    """Numbers of one run."""

    width: int = 32
    depth: int = 2
    heads: int = 2
    tokens: int = 16
    steps: int = 9
    batch_size: int = 8
    rate: float = 1e-2
    precision: str = "fp32"
    recompute: bool = False
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.95)


CONFIGS = {
    "smoke": Config(),
    "bf16": Config(width=64, depth=4, tokens=64, precision="bf16", recompute=True),
    "large": Config(512, 8, 8, 1024, 1000, 256, precision="bf16", recompute=True),
}


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.proj(mixed)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Toy(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.embed = nn.Linear(8, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.head = nn.Linear(config.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x).mean(1)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(model(batch["x"]), batch["x"].mean((1, 2))[:, None])


def generate(config: Config):
    """Noise, made on the fly."""
    return lambda generator, n: {"x": torch.randn(n, config.tokens, 8, generator=generator)}


def recipe(config: Config, stream: Stream | None) -> Recipe:
    return Recipe(
        "toy",
        lambda: Toy(config),
        loss,
        stream,
        config.steps,
        config.batch_size,
        optimizer=Optimizer(lr=config.rate, betas=config.betas),
        schedule=Constant(2),
        accumulate=config.accumulate,
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.recompute,
        example=lambda n: {"x": torch.randn(n, config.tokens, 8)},
        paper=PaperRun("A paper, Table 1", parameters=1e6, gpus=4, days=2, batch=64, steps=500, notes=("a note",)),
    )

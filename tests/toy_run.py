"""A recipe small enough to train in a second, for the tests of training; as a script, one run that can be killed.

python tests/toy_run.py FOLDER [--kill-at STEP] [--kill-in-save STEP]
"""

import argparse
import dataclasses
import os
import signal
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.data.streams import TensorStream
from course_lib.recipe import Cosine, Optimizer, Recipe
from course_lib.train import checkpoint, fit


class Block(nn.Module):
    """Residual, normalised, with dropout where asked."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm1, self.fc, self.dropout = nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.fc(self.norm1(x))))


class Toy(nn.Module):
    """(B, 8) -> (B, 1), with the names of a ViT."""

    def __init__(self, width: int = 16, depth: int = 2, dropout: float = 0.0, batch_norm: bool = False):
        super().__init__()
        self.patch_embed = nn.Linear(8, width)
        self.blocks = nn.Sequential(*[Block(width, dropout) for _ in range(depth)])
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patch_embed(x))))


def squared_error(model: nn.Module, batch: dict) -> dict[str, Tensor]:
    error = model(batch["x"]) - batch["y"]
    return {"loss": error.square().mean(), "absolute": error.abs().mean()}


def data() -> dict[str, Tensor]:
    """96 samples of a function that can be learnt: x (96, 8), y (96, 1)."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(96, 8, generator=generator)
    return {"x": x, "y": x[:, 2:3] + 0.3 * torch.tanh(x[:, :1] * x[:, 1:2])}


def recipe(model=Toy, **changes) -> Recipe:
    """40 steps of 16 samples, AdamW, cosine."""
    optimizer = Optimizer(lr=1e-2)
    toy = Recipe("toy", model, squared_error, TensorStream(data()), 40, 16, optimizer, Cosine(warmup=4), clip=1.0)
    return dataclasses.replace(toy, **changes)


def spoilt(at: int, value: float) -> TensorStream:
    """The toy's stream with keys, and with nothing but `value` in batch `at`."""

    class Spoilt(TensorStream):
        def batches(self, start, batch_size, rank=0, world=1):
            for number, batch in enumerate(super().batches(start, batch_size, rank, world), start):
                keys = [f"person-{number}-{i}" for i in range(len(batch["x"]))]
                yield {**batch, "x": batch["x"].clone().fill_(value) if number == at else batch["x"], "key": keys}

    return Spoilt(data())


def half_a_file_then_killed(tensors: dict[str, Tensor], path: Path) -> None:
    """What `save_file` leaves when it is killed on its way."""
    save_file(tensors, path)
    os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--kill-in-save", type=int, default=0)
    options = parser.parse_args()

    def on_step(run):
        if run.step == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.step == options.kill_in_save:
            checkpoint.save_file = half_a_file_then_killed

    fit(recipe(lambda: Toy(dropout=0.2)), folder=options.folder, save_every=4, on_step=on_step)


if __name__ == "__main__":
    main()

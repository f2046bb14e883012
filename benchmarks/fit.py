"""What `fit` costs over the loop that one would write by hand, in one run: prints JSON.

Run `python benchmarks/fit.py [--threads 2] [--rounds 60]`. Both train the same model on the same batches, a step of
each in turn, so that both meet the same machine. `fit` runs with everything on: schedule, clipping, log.csv,
TensorBoard, signals. The loop by hand does what trains and no more: batch, forward, backward, clipping, AdamW.
`overhead` is the median over the pairs of (fit - by hand) / by hand, in wall time; `cpu_overhead` the same in CPU time,
in which other programs at work do not show. `goal` is the largest that is allowed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.data.streams import TensorStream
from course_lib.recipe import Cosine, Optimizer, Recipe
from course_lib.train import fit
from course_lib.train.control import seed_everything

GOAL = 0.03
WARM_UP = 5
SIZES = {"tiny": (64, 3, 64, 8), "small": (96, 4, 64, 16), "laptop": (192, 6, 64, 32)}  # width, depth, tokens, batch


class Encoder(nn.Module):
    """(B, N, 48) -> (B, 10): transformer blocks of PyTorch's own."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        blocks = [nn.TransformerEncoderLayer(width, width // 32, 4 * width, **options) for _ in range(depth)]
        self.patch_embed, self.blocks, self.head = nn.Linear(48, width), nn.Sequential(*blocks), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch_embed(x)).mean(1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["image"]), batch["label"])


def make_recipe(size: str, steps: int, precision: str) -> Recipe:
    width, depth, tokens, batch = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    data = {"image": torch.randn(512, tokens, 48, generator=generator), "label": torch.arange(512) % 10}
    recipe = Recipe(size, lambda: Encoder(width, depth), loss, TensorStream(data), steps, batch, Optimizer(lr=1e-4))
    return replace(recipe, schedule=Cosine(10), clip=1.0, precision=precision)


def step_by_hand(recipe: Recipe) -> Callable[[], None]:
    """One step of the same training, written out."""
    seed_everything(recipe.seed)
    model = recipe.model()
    optimizer = recipe.optimizer.build(model)
    batches = recipe.stream.batches(0, recipe.batch_size)

    def step() -> None:
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            value = loss(model, batch)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()

    return step


def compare(size: str, rounds: int, precision: str) -> dict:
    """Milliseconds of a step of either, and the overhead: `fit` is timed from the end of one callback to the next."""
    recipe = make_recipe(size, rounds + WARM_UP, precision)
    by_hand, pairs, left = step_by_hand(recipe), [], [now()]

    def on_step(run) -> None:
        came = now()
        by_hand()
        pairs.append((came - left[0], now() - came))
        left[0] = now()

    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, folder=folder, on_step=on_step, save_every=recipe.steps)
    ours, theirs = (np.array(side) for side in zip(*pairs[WARM_UP:], strict=True))  # each (rounds, 2)
    wall, cpu = np.median(ours / theirs - 1, axis=0).round(4).tolist()
    row = {"size": size, "precision": precision, "by_hand_ms": round(1e3 * float(np.median(theirs[:, 0])), 2)}
    return row | {"overhead": wall, "cpu_overhead": cpu, "goal": GOAL}


def now() -> np.ndarray:
    """Wall and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [compare(size, options.rounds, precision) for size in SIZES for precision in ("fp32", "bf16")]
    print(json.dumps({"benchmark": "fit", "threads": options.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

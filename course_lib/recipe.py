"""What a training run is, as data: `course_lib.train.fit` runs it in a notebook, a study, a test and under torchrun.

A chapter exports `CONFIGS` (frozen dataclasses of numbers) and `recipe(config, stream) -> Recipe`.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Schedule = Callable[[int, int], float]  # (step, steps) -> factor on the learning rate
BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


class Stream(Protocol):
    """Where the batches come from. The batch of a number is always the same, however many processes share it out."""

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """This process's share of batch `start`, `start` + 1, ... without end; `batch_size` counts all processes'."""
        ...


# ------------------------------------------------------------------------------------------------- schedules
@dataclass(frozen=True)
class Constant:
    """After `warmup` steps from 0 to 1, 1."""

    warmup: int = 0

    def __call__(self, step: int, steps: int) -> float:
        return warmed(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """After the warm-up half a cosine from 1 down to `floor`."""

    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        share = progress(step, self.warmup, steps)
        return warmed(step, self.warmup) * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2)


@dataclass(frozen=True)
class Linear:
    """After the warm-up a straight line from 1 down to `floor`."""

    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        return warmed(step, self.warmup) * (1 - (1 - self.floor) * progress(step, self.warmup, steps))


@dataclass(frozen=True)
class Exponential:
    """After the warm-up an exponential from 1 to `decay` at `drop_at` (a share of what follows the warm-up); there the
    rate is multiplied by `drop`, and falls by the factor `decay` once more until the end (ACAE, Fig. S1)."""

    warmup: int = 0
    decay: float = 1 / 3
    drop_at: float = 1.0
    drop: float = 0.1

    def __call__(self, step: int, steps: int) -> float:
        share = progress(step, self.warmup, steps)
        if share < self.drop_at:
            return warmed(step, self.warmup) * self.decay ** (share / self.drop_at)
        late = (share - self.drop_at) / max(1e-9, 1 - self.drop_at)
        return self.drop * self.decay ** (1 + late)


def warmed(step: int, warmup: int) -> float:
    """1/warmup at step 0, 1 from step `warmup` - 1 on."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def progress(step: int, warmup: int, steps: int) -> float:
    """The share, 0 to 1, of the steps after the warm-up that lies behind."""
    return min(1.0, max(0, step - warmup) / max(1, steps - warmup))


# ------------------------------------------------------------------------------------------------- optimiser
@dataclass(frozen=True)
class Optimizer:
    """`lr` is the peak. Biases, norms, tokens and position embeddings (one dimension, or named in `no_decay`) have no
    weight decay. Block i of n, the embeddings counting as 0 and the head as n + 1, learns at
    lr * layer_decay ** (n + 1 - i). `scales`: (name prefix, factor) pairs on top; factor 0 freezes. `schedules`: (name
    prefix, schedule) pairs; what they fit follows the last of them instead of the recipe's (ACAE, Fig. S1)."""

    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    eps: float = 1e-8
    momentum: float = 0.9
    no_decay: tuple[str, ...] = ("cls_token", "pos_embed", "mask_token")
    scales: tuple[tuple[str, float], ...] = ()
    schedules: tuple[tuple[str, Schedule], ...] = ()

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimiser over `parameter_groups`; AdamW and Adam are fused. ValueError for an unknown name."""
        groups = parameter_groups(model, self)
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
        if self.name not in kinds:
            raise ValueError(f"no optimiser is called {self.name!r}: use adamw, adam or sgd")
        return kinds[self.name](groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Groups of parameters with the same `weight_decay`, `lr_scale` and schedule, in the model's order; frozen ones
    left out.

    Each group has "names", "params", "weight_decay", "lr_scale", "lr" (the peak times its scale) and "schedule" (None
    where it is the recipe's). ValueError where a prefix in `scales` or `schedules` fits no parameter, or none is left
    to train."""
    names = [name for name, _ in model.named_parameters()]
    for prefix, _ in (*optimizer.scales, *optimizer.schedules):
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no parameter's name begins with {prefix!r}: they are called {', '.join(names[:3])}, ...")
    depth = 1 + max((int(found.group(1)) for name in names if (found := BLOCK.search(name))), default=-1)
    groups: dict[tuple[float, float, Schedule | None], dict] = {}
    for name, parameter in model.named_parameters():
        scale = optimizer.layer_decay ** (depth + 1 - layer_of(name, depth))
        scale *= math.prod(factor for prefix, factor in optimizer.scales if name.startswith(prefix))
        plain = parameter.ndim <= 1 or name.rpartition(".")[2] in optimizer.no_decay
        decay = 0.0 if plain else optimizer.weight_decay
        if parameter.requires_grad and scale > 0:
            own = schedule_of(name, optimizer)
            new = {"names": [], "params": [], "weight_decay": decay, "lr_scale": scale, "lr": optimizer.lr * scale}
            group = groups.setdefault((decay, scale, own), {**new, "schedule": own})
            group["names"].append(name)
            group["params"].append(parameter)
    if not groups:
        raise ValueError("nothing is left to train: every parameter is frozen")
    return list(groups.values())


def schedule_of(name: str, optimizer: Optimizer) -> Schedule | None:
    """The last of the optimiser's own schedules whose prefix fits; None for the recipe's."""
    return next((schedule for prefix, schedule in reversed(optimizer.schedules) if name.startswith(prefix)), None)


def layer_of(name: str, depth: int) -> int:
    """0 for the embeddings, i + 1 for `blocks.i`, depth + 1 for what comes after."""
    if found := BLOCK.search(name):
        return int(found.group(1)) + 1
    return 0 if any(word in name for word in ("patch_embed", "cls_token", "pos_embed", "mask_token")) else depth + 1


# ------------------------------------------------------------------------------------------------- the run
@dataclass(frozen=True)
class PaperRun:
    """What a paper says about its own run, as printed; None where it is silent. `plan()` sets it beside ours."""

    source: str
    parameters: float | None = None
    flops: float | None = None
    gpus: int | None = None
    gpu: str = "A100-80GB"
    days: float | None = None
    batch: int | None = None
    samples: float | None = None
    steps: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One run.

    model: builds it, called with no argument (on the meta device too). loss(model, batch): a scalar, or a dictionary of
    scalars whose "loss" is minimised; it calls `model(...)`, never its methods, so that DDP and FSDP see the call.
    batch_size: samples in an optimiser step over all processes; each process takes batch_size / processes of them in
    `accumulate` parts. precision: fp32, or bf16 autocast with fp32 weights. clip: largest gradient norm.
    blocks: class names of the modules that are sharded one by one, and recomputed backward if `checkpoint_blocks`.
    example(n): a batch of n samples of the right shapes and dtypes, for plans, proofs and tests.
    after_step(model, step): called with the bare model and the number of steps behind it, after each step and before
    the first one of a call of `fit`: constraints on weights, layers that freeze (ACAE's max-norm and inference-mode
    norms).
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor | dict[str, Tensor]]
    stream: Stream | None
    steps: int
    batch_size: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Constant)
    accumulate: int = 1
    precision: str = "fp32"
    clip: float | None = None
    blocks: tuple[str, ...] = ("Block",)
    checkpoint_blocks: bool = False
    channels_last: bool = False
    seed: int = 0
    example: Callable[[int], Batch] | None = None
    after_step: Callable[[nn.Module, int], None] | None = None
    paper: PaperRun | None = None

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r} is unknown: use fp32 or bf16")
        for name in ("steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")

    def lr(self, step: int, group: dict | None = None) -> float:
        """The learning rate of step 0, 1, ...: of one of `parameter_groups`, or before their scales and schedules."""
        schedule, scale = (group["schedule"] or self.schedule, group["lr_scale"]) if group else (self.schedule, 1.0)
        return self.optimizer.lr * schedule(step, self.steps) * scale

    def share(self, world: int) -> int:
        """Samples that one of `world` processes takes in one forward pass. ValueError where they don't divide."""
        share, rest = divmod(self.batch_size, world * self.accumulate)
        if rest:
            parts = f"{world} processes x {self.accumulate} parts"
            raise ValueError(
                f"a batch of {self.batch_size} can't be shared by {parts}: change batch_size or accumulate"
            )
        return share

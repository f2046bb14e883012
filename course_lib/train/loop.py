"""The training loop. `fit` is the whole of it on one page; `train_step` is one optimiser step."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.recipe import Batch, Recipe
from course_lib.train.checkpoint import CheckpointError, Checkpoints
from course_lib.train.control import kept_random_state, seed_everything, stop_signals
from course_lib.train.log import Log
from course_lib.train.parallel import Team, clip_gradients, join, prepared

EXIT_CODES = {"finished": 0, "interrupted": 130, "sigterm": 143}


class TrainingError(Exception):
    """The run can't go on. What was saved before is good."""


@dataclass
class Run:
    """What `fit` returns: the trained model (in evaluation mode) and how it went.

    history: a dictionary per optimiser step, from step 1 on: step, loss (the mean over all processes), whatever else
    the recipe's loss returned, grad_norm (before clipping), lr, seconds; where the step was evaluated, the metrics too.
    stopped: "finished", "sigterm", or "interrupted" (Ctrl-C, or the notebook's stop button).
    """

    model: nn.Module
    folder: Path | None = None
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [row["loss"] for row in self.history]

    @property
    def exit_code(self) -> int:
        """What a script ends with: 0 finished, 130 interrupted, 143 stopped by SIGTERM (128 + the signal's number)."""
        return EXIT_CODES[self.stopped]


def fit(
    recipe: Recipe,
    *,
    folder: str | Path | None = None,
    device: str | None = None,
    resume: bool = True,
    save_every: int | None = None,
    keep: int = 2,
    parallel: str = "auto",
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    on_step: Callable[[Run], None] | None = None,
    progress: bool = True,
    steps: int | None = None,
) -> Run:
    """Trains `recipe`; in a `folder` it logs, saves, and goes on from the newest checkpoint that is whole.

    save_every: steps between checkpoints (a tenth of the run); the newest `keep` stay. parallel: none, ddp, fsdp or
    hsdp; auto takes DDP under torchrun. evaluate(model): metrics, every `evaluate_every` steps and at the end, on every
    process; their mean is logged. on_step(run): after each step. steps: leave after this step of the recipe's.
    SIGTERM or Ctrl-C finish the step, save and leave; a second Ctrl-C leaves at once.
    Raises TrainingError where loss or gradient is not finite, CheckpointError where nothing could be saved or resumed.
    """
    last = recipe.steps if steps is None else min(steps, recipe.steps)
    team = join(parallel, device)
    with kept_random_state(team.device), stop_signals() as signals, prepared(recipe, team) as (bare, model):
        run = Run(bare, Path(folder) if folder else None)
        optimizer = recipe.optimizer.build(bare)
        checkpoints = Checkpoints(run.folder, recipe, team, keep)
        run.step = checkpoints.restore(bare, optimizer, resume)
        batches = batches_from(recipe, run.step, team)
        settled(recipe, run)
        with Log(run, last, team, progress) as log, closing(batches):
            while run.step < last and not run.stopped:
                began = time.perf_counter()
                row = train_step(recipe, model, optimizer, batches, run.step, team)
                run.step += 1
                settled(recipe, run)
                if evaluate and due(run.step, evaluate_every, last):
                    row |= evaluated(evaluate, recipe, run, row, team)
                log.write({"step": run.step, **row, "seconds": time.perf_counter() - began})
                if on_step:
                    on_step(run)
                run.stopped = team.agree(signals)
                if run.folder and (run.stopped or due(run.step, save_every or math.ceil(recipe.steps / 10), last)):
                    save(checkpoints, run, optimizer, last)
    run.stopped = "finished" if run.step >= last else run.stopped
    return run


def settled(recipe: Recipe, run: Run) -> None:
    """What the recipe does to the model between steps."""
    if recipe.after_step:
        recipe.after_step(run.model, run.step)


def train_step(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    step: int,
    team: Team,
) -> dict[str, float]:
    """One optimiser step, number `step` from 0, in `recipe.accumulate` parts; the numbers to log."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr(step, group)
    optimizer.zero_grad()
    parts, keys = [], []
    for part in range(recipe.accumulate):
        batch = team.move(next(batches), recipe)
        seed_everything(recipe.seed, step, part, team.rank)
        with team.synchronised(model, part == recipe.accumulate - 1):
            losses = named_losses(recipe.loss(model, batch))
            (losses["loss"] / recipe.accumulate).backward()
        parts.append({name: value.detach() for name, value in losses.items()})
        keys.append(batch.get("key"))
    norm = clip_gradients(model, recipe.clip)
    row = team.mean({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]} | {"grad_norm": norm})
    if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
        raise TrainingError(blame(row, parts, keys, step, team))
    optimizer.step()
    return row | {"lr": recipe.lr(step)}


def due(step: int, every: int | None, last: int) -> bool:
    """Every `every` steps, and after the last."""
    return step == last or bool(every) and step % every == 0


def batches_from(recipe: Recipe, step: int, team: Team) -> Iterator[Batch]:
    """This process's batches from optimiser step `step` on. ValueError without a stream or if it can't be shared."""
    if recipe.stream is None:
        raise ValueError(f"the recipe {recipe.name!r} has no stream: build it with one, recipe(config, stream)")
    recipe.share(team.world)
    first = step * recipe.accumulate
    yield from recipe.stream.batches(first, recipe.batch_size // recipe.accumulate, team.rank, team.world)
    raise TrainingError(f"the stream of {recipe.name!r} ended: `batches` has to go on for as long as it is asked")


def named_losses(losses: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """What a recipe's loss returned, as scalars by name. ValueError where it is something else."""
    losses = {"loss": losses} if isinstance(losses, Tensor) else losses
    if "loss" not in losses or any(value.numel() != 1 for value in losses.values()):
        shapes = {name: tuple(value.shape) for name, value in losses.items()}
        raise ValueError(f'a recipe\'s loss is a scalar, or scalars by name, one of them called "loss": got {shapes}')
    return {name: value.reshape(()) for name, value in losses.items()}


def evaluated(evaluate: Callable, recipe: Recipe, run: Run, row: dict[str, float], team: Team) -> dict[str, float]:
    """The metrics of `evaluate(model)`: evaluation mode, no gradients, the same random numbers each time."""
    seed_everything(recipe.seed, recipe.steps, 0, team.rank)
    run.model.eval()
    with torch.no_grad():
        metrics = evaluate(run.model)
    run.model.train()
    if taken := sorted(metrics.keys() & {*row, "step", "seconds"}):
        raise ValueError(f"evaluate returned {', '.join(taken)}, a name that training has: call it otherwise")
    return team.mean({name: torch.as_tensor(value, dtype=torch.float32) for name, value in metrics.items()})


def save(checkpoints: Checkpoints, run: Run, optimizer: torch.optim.Optimizer, last: int) -> None:
    """Saves the run. Where that fails it goes on and tries again later; CheckpointError where there is no later."""
    try:
        checkpoints.save(run.step, run.model, optimizer)
    except CheckpointError as error:
        if run.stopped or run.step == last:
            error.run = run
            raise
        warnings.warn(f"{error}. The run goes on; the checkpoints before are untouched", stacklevel=2)


def blame(row: dict[str, float], parts: list[dict[str, Tensor]], keys: list, step: int, team: Team) -> str:
    """Which step, batches and samples a loss or gradient that is not finite came from."""
    bad = [part for part, losses in enumerate(parts) if not math.isfinite(losses["loss"])]
    found = [(step * len(parts) + part, keys[part]) for part in bad]
    found = [item for process in team.gather(found) for item in process]
    numbers = sorted({number for number, _ in found}) or range(step * len(parts), (step + 1) * len(parts))
    samples = [str(key) for _, names in found if names is not None for key in names]
    words = f"step {step + 1}: the loss is {row['loss']} and the gradient norm {row['grad_norm']}, batch "
    words += ", ".join(map(str, numbers)) + (f", among the samples {', '.join(samples)}" if samples else "")
    return words + ". The weights are those of the step before, and no checkpoint was written since"

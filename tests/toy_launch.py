"""What the processes of tests/test_launch_train.py run: torchrun ... tests/toy_launch.py WHAT FOLDER."""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from toy_run import Toy, recipe, spoilt

from course_lib.recipe import Cosine
from course_lib.train import CheckpointError, TrainingError, checkpoint, fit, save_weights
from course_lib.train.checkpoint import model_tensors

FIFTY = recipe(steps=50)  # no dropout, no batch norm: what 1, 2, ... processes compute is the same
LONG = recipe(lambda: Toy(dropout=0.1))  # random numbers that differ from process to process


class Tokens(Toy):
    """With parameters whose first dimension can't be shared out."""

    def __init__(self):
        super().__init__(width=16)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16))

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.patch_embed(x) + self.pos_embed)))


def rank() -> int:
    return int(os.environ["RANK"])


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """All of a model's tensors, gathered where they are sharded; every process calls it."""
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value
            for name, value in model_tensors(model).items()}  # fmt: skip


def same(first: nn.Module, second: nn.Module) -> bool:
    first, second = whole(first), whole(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def message(kind: type[Exception], *arguments, **named) -> str:
    """What `fit` says when it raises."""
    try:
        fit(*arguments, **named)
    except kind as error:
        return str(error)
    return "nothing was raised"


# ------------------------------------------------------------------------------------------------- many at once
def curves(folder: Path) -> dict:
    """Losses of every way to share the work, weights of a sharded run."""
    found = {
        "ddp": fit(FIFTY, folder=folder / "ddp"),
        "ddp in parts": fit(recipe(steps=50, accumulate=4), steps=20),
        "fsdp": fit(FIFTY, folder=folder / "fsdp", parallel="fsdp"),
        "fsdp in parts": fit(recipe(steps=50, accumulate=2, checkpoint_blocks=True), parallel="fsdp", steps=20),
    }
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # as if on two machines
    found["hsdp"] = fit(FIFTY, folder=folder / "hsdp", parallel="hsdp", steps=20)
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    save_weights(found["fsdp"].model, folder / "gathered.safetensors", torch.float32)
    half = fit(recipe(Tokens, precision="bf16"), parallel="fsdp", steps=4)
    tokens = fit(recipe(Tokens), folder=folder / "tokens", parallel="fsdp", steps=4)
    placement = {str(value.placements[0]) for name, value in tokens.model.named_parameters() if name == "pos_embed"}
    return {
        "losses": {name: run.losses for name, run in found.items()},
        "bf16 losses": half.losses,
        "bf16 weights": sorted({str(value.dtype) for value in whole(half.model).values()}),
        "placement": sorted(placement),
        "tokens resume": same(
            fit(recipe(Tokens), folder=folder / "tokens", parallel="fsdp", steps=4).model, tokens.model
        ),
    }


def failures(folder: Path) -> dict:
    """What one process meets, both have to answer in the same way: none may wait for the other for ever."""
    return {
        parallel: {
            "signal": one_signal(folder / parallel / "signal", parallel),
            "nan": one_nan(parallel),
            "full disk": one_full_disk(folder / parallel / "full", parallel),
            "spoilt": one_spoilt(folder / parallel / "spoilt", parallel),
            "other recipe": message(CheckpointError, FIFTY, folder=folder / parallel / "spoilt", parallel=parallel),
        }
        for parallel in ("ddp", "fsdp")
    }


def one_signal(folder: Path, parallel: str) -> list:
    """SIGTERM to the second process in step 7; then the run goes on."""

    def on_step(run):
        if run.step == 7 and rank() == 1:
            signal.raise_signal(signal.SIGTERM)

    stopped = fit(LONG, folder=folder, parallel=parallel, on_step=on_step)
    resumed = fit(LONG, folder=folder, parallel=parallel)
    return [stopped.stopped, stopped.step, same(resumed.model, fit(LONG, parallel=parallel).model)]


def one_nan(parallel: str) -> str:
    """Batch 3 of the second process holds a NaN."""
    good, bad = recipe(), recipe(stream=spoilt(3, float("nan")))
    return message(TrainingError, bad if rank() == 1 else good, parallel=parallel)


def one_full_disk(folder: Path, parallel: str) -> list:
    """One process can't write its part of step 4: the first with DDP (it writes all), the second with FSDP."""
    original = checkpoint.file_hash

    def full(path: Path) -> str:
        raise OSError(28, "No space left on device")

    def on_step(run):
        fails = run.step == 4 and rank() == (1 if parallel == "fsdp" else 0)
        checkpoint.file_hash = full if fails else original

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(LONG, folder=folder, parallel=parallel, save_every=2, steps=6, on_step=on_step)
    words = [str(one.message) for one in said if "could not be saved" in str(one.message)]
    return [words, sorted(path.name for path in folder.glob("*step-*"))]


def one_spoilt(folder: Path, parallel: str) -> list:
    """The second process's file of the newest checkpoint is cut (with DDP: the only one)."""
    fit(LONG, folder=folder, parallel=parallel, save_every=4, steps=8)
    dist.barrier()
    if rank() == 0:
        path = sorted((folder / "step-00000008/optimizer").iterdir())[-1]
        path.write_bytes(path.read_bytes()[:-7])
    dist.barrier()
    first = []
    run = fit(LONG, folder=folder, parallel=parallel, steps=10, on_step=lambda run: first.append(run.step))
    return [first[0], same(run.model, fit(LONG, parallel=parallel, steps=10).model)]


# ------------------------------------------------------------------------------------------------- killed, stopped
def killed(folder: Path) -> dict:
    """Both ways to share are killed once at the step that the environment names; torchrun starts them again."""
    attempt, found = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), {}
    for number, parallel in enumerate(("ddp", "fsdp")):

        def on_step(run, number=number):
            if attempt == number and run.step == int(os.environ["KILL_AT"]) and rank() == 1 - number:
                os.kill(os.getpid(), signal.SIGKILL)

        run = fit(LONG, folder=folder / parallel, parallel=parallel, save_every=3, on_step=on_step)
        unbroken = fit(LONG, parallel=parallel)
        found[parallel] = {"same": same(run.model, unbroken.model), "losses": run.losses == unbroken.losses}
    return {**found, "attempt": attempt}


def stopped(folder: Path) -> dict:
    """A run that takes too long, until it is told to stop."""

    def on_step(run):
        (folder / "started").touch()
        time.sleep(0.05)

    run = fit(recipe(steps=10_000, schedule=Cosine()), folder=folder / "run", parallel="fsdp", on_step=on_step)
    return {"stopped": run.stopped, "step": run.step, "code": run.exit_code}


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    found = {"curves": curves, "failures": failures, "killed": killed, "stopped": stopped}[what](folder)
    (folder / f"{what}-{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

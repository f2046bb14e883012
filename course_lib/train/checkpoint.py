"""Checkpoints that a kill, a bad disk or a full one can't spoil. Nothing in them is a pickle.

    FOLDER/step-00000123/
        model/*.safetensors       weights and buffers: one file, or one per process where the model is sharded
        optimizer/*.safetensors   the optimiser's state, named as in exp_avg.blocks.0.norm1.weight
        state.json                the step, and the recipe that made it
        manifest.json             the sha256 of every other file

It is written under another name and renamed when it is whole. However many processes wrote it, any number can read it.
"""

import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from course_lib.files import file_hash
from course_lib.recipe import Recipe, Schedule
from course_lib.train.parallel import Team

NAME = re.compile(r"step-\d{8,}")
COMPARED = ("steps", "batch_size", "precision", "clip", "seed")  # the recipe's plain fields that make a run what it is


class CheckpointError(Exception):
    """A checkpoint could not be written, or may not be gone on from. `run`: what `fit` had trained, where it had."""

    run = None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in its folder (None: there are none). Every process calls each method."""

    folder: Path | None
    recipe: Recipe
    team: Team
    keep: int

    def __post_init__(self):
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}: keep 1 checkpoint or more")

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, resume: bool = True) -> int:
        """Loads the newest checkpoint that is whole; its step, or 0 where there is none.

        CheckpointError where another recipe made it, or where not `resume` and there are some."""
        if self.folder is None:
            return 0
        if not resume and checkpoints_in(self.folder):
            raise CheckpointError(f"{self.folder} holds the checkpoints of a run: resume it, or give a new folder")
        if self.team.rank == 0:
            remove(*self.folder.glob(".step-*.tmp"))
        path = newest_whole(self.folder, self.team)
        if path is None:
            return 0
        try:
            with self.team.together():
                state = json.loads((path / "state.json").read_text(encoding="utf-8"))
                differences = compare(state["recipe"], describe(self.recipe, model))
                if not differences:
                    read_tensors(path / "model", model_tensors(model))
                    read_optimizer(path / "optimizer", optimizer)
        except RuntimeError as error:
            raise CheckpointError(f"{path} is not a checkpoint of this course's: {error}") from error
        if differences:
            raise CheckpointError(
                f"{path} was made by another recipe: {'; '.join(differences)}. Give a new folder for a new run, or the "
                "recipe of this one to go on with it"
            )
        if self.team.rank == 0:
            print(f"going on from {self.folder.name}/{path.name}")
        return state["step"]

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes `step-...`, then removes those before it but the newest `keep`.

        CheckpointError where that fails on any process; everything that was there before still is."""
        final = self.folder / f"step-{step:08d}"
        draft = self.folder / f".{final.name}.tmp"
        try:
            with self.team.together():
                remove(draft)
            with self.team.together():
                write_tensors(draft / "model", model_tensors(model), self.team)
                write_tensors(draft / "optimizer", optimizer_tensors(optimizer), self.team)
                hashes = {file.relative_to(draft).as_posix(): file_hash(file) for file in own_files(draft, self.team)}
            written = {name: digest for part in self.team.gather(hashes) for name, digest in part.items()}
            with self.team.together():
                if self.team.rank == 0:
                    state = {"step": step, "processes": self.team.world, "recipe": describe(self.recipe, model)}
                    finish(draft, final, state, written)
                    self.prune(step)
        except Exception as error:
            remove(draft)
            raise CheckpointError(f"step {step} could not be saved in {self.folder}: {error}") from error

    def prune(self, step: int) -> None:
        """Removes all but the newest `keep` of those up to this step; a later one, left by an older run, is spoilt."""
        done = [path for path in checkpoints_in(self.folder) if int(path.name.removeprefix("step-")) <= step]
        for path in done[: -self.keep]:
            remove(path.rename(path.with_name(f".{path.name}.tmp")))  # by that name half of one counts as none


# ------------------------------------------------------------------------------------------------- whole or not
def checkpoints_in(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first, whole or not."""
    found = (path for path in folder.glob("step-*") if NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint in a run's folder that is whole, None where there is none; each that isn't is named."""
    return newest_whole(Path(folder), Team())


def newest_whole(folder: Path, team: Team) -> Path | None:
    """The same on every process, which share out the files to read."""
    for name in reversed(team.gather([path.name for path in checkpoints_in(folder)])[0]):
        if not team.gather((folder / name).is_dir()) == [True] * team.world:
            raise CheckpointError(f"not every process sees {folder / name}: use a folder that all machines share")
        reasons = [reason for reason in team.gather(damage(folder / name, team)) if reason]
        if not reasons:
            return folder / name
        if team.rank == 0:
            print(f"{folder.name}/{name} is not whole ({reasons[0]}): taking the one before it")
    return None


def damage(path: Path, team: Team) -> str:
    """What is wrong with a checkpoint, as far as this process looks; empty where nothing is."""
    try:
        hashes = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if "state.json" not in hashes:
            return "manifest.json is cut"
        for name in sorted(hashes)[team.rank :: team.world]:
            if file_hash(path / name) != hashes[name]:
                return f"{name} was changed or cut"
    except OSError as error:
        return f"{Path(error.filename or path).name} can't be read: {error.strerror}"
    except (ValueError, TypeError, AttributeError):
        return "manifest.json is no manifest"
    return ""


def own_files(draft: Path, team: Team) -> list[Path]:
    """The files that this process wrote: each its shard, or the first all of them."""
    if team.sharded:
        return sorted(draft.glob(f"*/shard-{team.rank + 1:05d}-*"))
    return sorted(draft.glob("*/*")) if team.rank == 0 else []


def finish(draft: Path, final: Path, state: dict, hashes: dict[str, str]) -> None:
    """Writes the state and the manifest and gives the draft its name; what had it (and was not whole) is removed."""
    if unseen := [name for name in hashes if not (draft / name).exists()]:
        raise OSError(f"the first process does not see {unseen[0]}: use a folder that all machines share")
    (draft / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    hashes = {**hashes, "state.json": file_hash(draft / "state.json")}
    (draft / "manifest.json").write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    remove(final)
    draft.rename(final)


def remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------------------------------------- tensors
def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and persistent buffers by name, in place; a shared one once."""
    named = {id(value): (name, value) for name, value in reversed(model.state_dict(keep_vars=True).items())}
    return {name: value.detach() for name, value in reversed(named.values()) if isinstance(value, Tensor)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by kind and parameter: `exp_avg.blocks.0.norm1.weight`."""
    states = ((name, optimizer.state.get(parameter, {})) for name, parameter in named_parameters(optimizer).items())
    return {f"{kind}.{name}": value for name, state in states for kind, value in state.items() if value is not None}


def named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters of `recipe.parameter_groups` by name."""
    groups = optimizer.param_groups
    return {name: value for group in groups for name, value in zip(group["names"], group["params"], strict=True)}


def write_tensors(folder: Path, tensors: dict[str, Tensor], team: Team) -> None:
    """Safetensors: one file by the first process; where weights are sharded, one by each for what it holds."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if team.sharded:
        with dcp_errors():
            dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    elif team.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"{folder.name}.safetensors")


def read_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills the tensors, sharded or not, from the files that hold them, sharded or not."""
    with warnings.catch_warnings(), dcp_errors():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each process reads its part by itself
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


@contextmanager
def dcp_errors() -> Iterator[None]:
    """What went wrong inside, as RuntimeError: DCP's own is a BaseException, several screens long."""
    try:
        yield
    except dcp.CheckpointException as error:
        reason, _ = next(iter(error.failures.values()))
        raise RuntimeError(f"{type(reason).__name__}: {reason}") from error


def read_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Puts back `optimizer_tensors`."""
    parameters = named_parameters(optimizer)
    tensors = {}
    for key, stored in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata.items():
        parameter = parameters[key.partition(".")[2]]
        like_parameter = stored.size == parameter.shape  # its moments are; its step count is one number
        shape = parameter if like_parameter else torch.empty(stored.size, device=parameter.device)
        tensors[key] = torch.zeros_like(shape, dtype=stored.properties.dtype, requires_grad=False)
    read_tensors(folder, tensors)
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        optimizer.state[parameters[name]][kind] = tensor


# ------------------------------------------------------------------------------------------------- same recipe
def describe(recipe: Recipe, model: nn.Module) -> dict:
    """What has to be the same to go on with a run, ready for JSON. How the batch is shared out may change."""
    said = {name: getattr(recipe, name) for name in COMPARED}
    said["optimizer"] = dataclasses.asdict(dataclasses.replace(recipe.optimizer, schedules=()))
    own = {prefix: describe_schedule(schedule, recipe.steps) for prefix, schedule in recipe.optimizer.schedules}
    del said["optimizer"]["schedules"]  # which runs from before there were any do not have
    said["schedule"] = describe_schedule(recipe.schedule, recipe.steps)
    said |= {"schedules": own} if own else {}
    said["model"] = {name: list(value.shape) for name, value in model_tensors(model).items()}
    return json.loads(json.dumps(said))


def describe_schedule(schedule: Schedule, steps: int) -> str | list[float]:
    """What a schedule calls itself; 16 of its values where that would say nothing."""
    marks = [schedule(step * steps // 16, steps) for step in range(16)]
    return repr(schedule) if dataclasses.is_dataclass(schedule) else marks


def compare(then: dict, now: dict, inside: str = "") -> list[str]:
    """The differences, a phrase each; at most three of them inside `model`."""
    found = []
    for name in {**then, **now}:
        old, new = then.get(name, "not there"), now.get(name, "not there")
        if isinstance(old, dict) and isinstance(new, dict):
            found += compare(old, new, f"{inside}{name}.")[:3]
        elif old != new:
            found.append(f"{inside}{name} was {old}, is {new}")
    return found

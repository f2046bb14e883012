"""One model on one process or many: PyTorch's DDP, FSDP2 and HSDP behind the few calls that the loop makes."""

import atexit
import functools
import gc
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from course_lib.bf16 import fast_bf16
from course_lib.recipe import Batch, Optimizer, Recipe
from course_lib.train.control import seed_everything

STOPS = ("", "sigterm", "interrupted")
MODES = ("auto", "none", "ddp", "fsdp", "hsdp")


@dataclass(frozen=True)
class Team:
    """The processes that train one model: this one's rank, how many there are, its device, and how they share."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    mode: str = "none"

    @property
    def sharded(self) -> bool:
        """Whether each process holds only its part of the weights."""
        return self.mode in ("fsdp", "hsdp")

    def move(self, batch: Batch, recipe: Recipe) -> Batch:
        """The batch's tensors on this process's device, pictures channels-last where the recipe says so."""
        return {name: self.moved(value, recipe.channels_last) for name, value in batch.items()}

    def moved(self, value: Any, channels_last: bool) -> Any:
        if not isinstance(value, Tensor):
            return value
        channels_last = channels_last and value.ndim == 4 and value.is_floating_point()
        layout = torch.channels_last if channels_last else torch.preserve_format
        return value.to(self.device, memory_format=layout, non_blocking=True)

    def synchronised(self, model: nn.Module, last: bool) -> AbstractContextManager:
        """Where gradients are averaged over the processes: with DDP in the last part of a step only."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """The mean of scalars over all processes; the one place where the loop waits for the device."""
        stacked = torch.stack([value.to(self.device, torch.float32) for value in values.values()])
        if self.world > 1:
            dist.all_reduce(stacked)
            stacked /= self.world
        return dict(zip(values, stacked.tolist(), strict=True))

    def gather(self, thing: Any) -> list[Any]:
        """The thing of each process, in the order of the ranks."""
        things = [thing] * self.world
        if self.world > 1:
            dist.all_gather_object(things, thing)
        return things

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in here on one process fails on all, with RuntimeError: none waits for another for ever."""
        problem = None
        try:
            yield
        except Exception as error:
            problem = error
        words = [word for word in self.gather(problem and f"{type(problem).__name__}: {problem}") if word]
        if words:
            raise RuntimeError(words[0]) from problem

    def agree(self, signals: list[str]) -> str:
        """The first signal that any process got, the same answer everywhere; empty while there is none."""
        if self.world == 1:
            return signals[0] if signals else ""
        came = torch.tensor(STOPS.index(signals[0]) if signals else 0)
        dist.all_reduce(came, dist.ReduceOp.MAX)
        return STOPS[came.item()]


def join(parallel: str = "auto", device: str | None = None) -> Team:
    """This process's place among those that torchrun started; alone where it started none.

    Opens the process group where nobody has: NCCL for CUDA, gloo for the rest. ValueError for a wrong name."""
    if parallel not in MODES:
        raise ValueError(f"parallel={parallel!r} is unknown: use {', '.join(MODES)}")
    local = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    launched = dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 0)) > (1 if parallel == "auto" else 0)
    if parallel == "none" or parallel == "auto" and not launched:
        return Team(device=local)
    if not launched:
        raise ValueError(f"parallel={parallel!r} needs processes: start the script with torchrun, or take 'auto'")
    if local.type == "cuda":
        local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if local.type == "cuda" else "gloo")
        atexit.register(leave)
    return Team(dist.get_rank(), dist.get_world_size(), local, "ddp" if parallel == "auto" else parallel)


def leave() -> None:
    """Closes the process group while the interpreter still lives.

    A thread of gloo's that lets go of a tensor later aborts the process (github.com/pytorch/pytorch/pull/179291): what
    holds groups in cycles is collected first, and the threads get a moment."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
    time.sleep(0.1)


@contextmanager
def prepared(recipe: Recipe, team: Team) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The recipe's model, seeded, on its device, ready to train: as itself, and as the loop calls it (inside DDP).

    Afterwards it is in evaluation mode and computes as if it had never been prepared."""
    seed_everything(recipe.seed)
    model = adapted(recipe.model(), recipe, team.device.type)
    try:
        yield model, distributed(model, recipe, team)
    finally:
        for module in model.modules():
            vars(module).pop("forward", None)
        model.eval()


def adapted(model: nn.Module, recipe: Recipe, device: str) -> nn.Module:
    """The model in training mode, what is to be frozen frozen, computing as the recipe says; in place. Where bf16 is
    slow, it computes in fp32 instead."""
    freeze(model, recipe.optimizer)
    if recipe.checkpoint_blocks:
        recompute_blocks(model, recipe)
    if recipe.precision == "bf16" and fast_bf16(device):
        autocast_forward(model, device)
    return model.train()


def distributed(model: nn.Module, recipe: Recipe, team: Team) -> nn.Module:
    """The model on the team's device, wrapped in DDP or sharded in place."""
    if team.sharded:
        return shard(model, recipe, team_mesh(team))
    layout = torch.channels_last if recipe.channels_last else torch.preserve_format
    model.to(team.device, memory_format=layout)
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if team.mode == "ddp" else model


def team_mesh(team: Team) -> DeviceMesh:
    """One dimension for FSDP; for HSDP (machines, processes a machine): sharded within, replicated across."""
    if team.mode == "fsdp":
        return init_device_mesh(team.device.type, (team.world,), mesh_dim_names=("shard",))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", team.world))
    return init_device_mesh(team.device.type, (team.world // local, local), mesh_dim_names=("replicate", "shard"))


def shard(model: nn.Module, recipe: Recipe, mesh: DeviceMesh, half: bool | None = None) -> nn.Module:
    """FSDP2 in place, a model on the meta device too: each of the recipe's blocks by itself, then what is left.

    half: the blocks' weights travel as the bf16 that autocast would make of them, gradients are added in fp32; so it
    is on GPUs under bf16. (A CPU's autocast leaves layer_norm alone, which takes no bf16 weights with fp32 inputs.)"""
    if half is None:
        half = recipe.precision == "bf16" and mesh.device_type == "cuda"
    travel = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    place = functools.partial(sharded_dimension, parts=mesh.size(-1))
    for block in blocks_of(model, recipe):
        fully_shard(block, mesh=mesh, mp_policy=travel if half else MixedPrecisionPolicy(), shard_placement_fn=place)
    return fully_shard(model, mesh=mesh, shard_placement_fn=place)


def sharded_dimension(parameter: nn.Parameter, parts: int) -> Shard | None:
    """The first dimension, where it has enough rows for all; else one that divides evenly, or the padding is large."""
    shape = parameter.shape
    even = (dimension for dimension, size in enumerate(shape) if size and size % parts == 0)
    return None if shape[0] >= parts else next((Shard(dimension) for dimension in even), None)


def blocks_of(model: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """The modules that `recipe.blocks` names. ValueError where it names some and the model has none of them."""
    blocks = [module for module in model.modules() if type(module).__name__ in recipe.blocks]
    if recipe.blocks and not blocks:
        raise ValueError(
            f"the model has no module of class {', '.join(recipe.blocks)}: name in Recipe.blocks the classes to shard "
            "or recompute one by one, or () for none"
        )
    return blocks


def freeze(model: nn.Module, optimizer: Optimizer) -> None:
    """No gradients for the parameters that the optimiser's scales freeze: nothing is computed or kept for them."""
    frozen = tuple(prefix for prefix, factor in optimizer.scales if factor == 0)
    for name, parameter in model.named_parameters():
        if frozen and name.startswith(frozen):
            parameter.requires_grad_(False)


def recompute_blocks(model: nn.Module, recipe: Recipe) -> None:
    """From now on a block keeps its input only and computes its inside again in the backward pass."""
    for block in blocks_of(model, recipe):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def autocast_forward(model: nn.Module, device: str) -> None:
    """From now on `model(...)` computes under bf16 autocast and returns fp32, so that the loss is not taken in bf16."""
    forward = model.forward

    def in_bf16(*arguments, **named):
        with torch.autocast(device, torch.bfloat16):
            output = forward(*arguments, **named)
        return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x, output)

    model.forward = in_bf16


def clip_gradients(model: nn.Module, largest: float | None) -> Tensor:
    """The norm of all gradients, (); where it is above `largest` they are scaled down to it."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm

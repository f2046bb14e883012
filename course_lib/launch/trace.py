"""One training step on tensors without data: its FLOPs, and what it holds in memory when it holds most."""

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from course_lib.recipe import Batch, Recipe
from course_lib.train.loop import named_losses
from course_lib.train.parallel import autocast_forward, blocks_of, freeze, recompute_blocks, sharded_dimension

NEEDS_DATA = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
)


def attention_flops(factor: int, first: int):
    """FLOPs of an attention kernel whose query, key and value stand from place `first` on."""
    return lambda *arguments, **named: factor * sdpa_flop_count(*(t.shape for t in arguments[first : first + 3]))


aten = torch.ops.aten
FLOPS = flop_registry | {  # what PyTorch's own counter has no formula for; scores computed again don't count
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops(1, first=0),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_flops(2, first=1),
}


@dataclass(frozen=True)
class Trace:
    """One forward and backward pass of one process. FLOPs of a sample, 2 for multiply and add; memory in bytes.

    largest_block: parameters of the largest module that is sharded by itself, outside: those in none of them, both with
    the padding that brings them together from their shards.
    forward, training: attention's own products included; in `training` nothing counts twice for being recomputed.
    tokens: the longest sequence that enters a block, None where none does.
    activations, gradients: at the moment when both together are most.
    """

    parameters: int
    trainable: int
    largest_block: int
    outside: int
    forward: float
    training: float
    tokens: int | None
    buffers: int
    batch: int
    activations: int
    gradients: int


def trace(recipe: Recipe, samples: int, keep_gradients: bool, shards: int = 1) -> Trace:
    """Runs a step of `samples` samples without data, as a GPU would.

    keep_gradients: they outlast a pass (several parts to a step, DDP's buckets, shards) and are not counted.
    shards: with more than one, the blocks' weights arrive as bf16 under bf16, so autocast makes no copy of them.
    ValueError where the recipe asks for data."""
    model = meta_model(recipe)
    blocks = blocks_of(model, recipe) if recipe.blocks else []
    parameters, trainable = count(model.parameters()), count(p for p in model.parameters() if p.requires_grad)
    whole = [padded(block, shards) for block in blocks]
    sizes = parameters, trainable, max(whole, default=0), padded(model, shards) - sum(whole)
    if shards > 1 and recipe.precision == "bf16":
        for block in blocks:
            block.to(torch.bfloat16)
    with without_data(recipe, samples) as batch:
        model.to_empty(device="cpu")
        held = Held(model, batch, blocks, keep_gradients)
        with held:
            loss = named_losses(recipe.loss(model, batch))["loss"]
            forward = held.begin_backward()
            loss.backward()
        stays = storage_bytes(model.buffers()), storage_bytes(batch.values())
    return Trace(*sizes, forward / samples, held.flops / samples, held.tokens, *stays, *held.most)


def meta_model(recipe: Recipe) -> nn.Module:
    """The recipe's model without weights, prepared for training as `fit` does it."""
    with torch.device("meta"):
        model = recipe.model().train()
    freeze(model, recipe.optimizer)
    if recipe.checkpoint_blocks:
        recompute_blocks(model, recipe)
    if recipe.precision == "bf16":
        autocast_forward(model, "cpu")
    return model


@contextlib.contextmanager
def without_data(recipe: Recipe, samples: int) -> Iterator[Batch]:
    """Inside, tensors have shape and dtype only; gives the recipe's example batch as such tensors."""
    if recipe.example is None:
        raise ValueError(f"the recipe {recipe.name!r} has no example: give it example(n), a batch of n samples")
    try:
        with gpu_attention(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            batch = recipe.example(samples)
            yield {name: mode.from_tensor(v) if type(v) is Tensor else v for name, v in batch.items()}
    except NEEDS_DATA as error:
        raise ValueError(
            f"the recipe {recipe.name!r} can't run without data: its model or loss asks for numbers ({error}). "
            "Use masks as factors instead of x[mask], and no .item()"
        ) from error


@contextlib.contextmanager
def gpu_attention() -> Iterator[None]:
    """Chapter 04 writes attention out where that is faster, under bf16 on a CPU. What is simulated here is a GPU."""
    try:
        from course_lib.chapters import transformers
    except ImportError:
        yield
        return
    written_out = transformers.attention
    transformers.attention = scaled_dot_product_attention  # what `attend` calls on a CPU
    try:
        yield
    finally:
        transformers.attention = written_out


class Held(TorchDispatchMode):
    """Adds up FLOPs, and the bytes of every tensor that is alive but weights, buffers and batch."""

    def __init__(self, model: nn.Module, batch: Batch, blocks: list[nn.Module], keep_gradients: bool):
        super().__init__()
        tensors = [*model.parameters(), *model.buffers(), *(t for t in batch.values() if isinstance(t, Tensor))]
        self.known = {tensor.untyped_storage()._cdata for tensor in tensors}
        self.sizes: dict[int, int] = {}
        self.keep_gradients, self.backward, self.tokens, self.most = keep_gradients, False, None, (0, 0)
        self.now = self.gradients = self.flops = 0
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.found_gradient)
        for block in blocks:
            block.register_forward_pre_hook(self.enter_block)

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        output = function(*arguments, **(named or {}))
        again = self.backward and torch.is_grad_enabled()  # a graph is made anew: a checkpoint's recomputation
        if not again and (flops := FLOPS.get(function._overloadpacket)):
            self.flops += flops(*arguments, **(named or {}), out_val=output)
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self.hold(tensor.untyped_storage())
        return output

    def begin_backward(self) -> int:
        """The FLOPs up to here."""
        self.backward = True
        return self.flops

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage that is new, until it is freed."""
        key = storage._cdata
        if key not in self.sizes and key not in self.known:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, (self.now, self.gradients), key=sum)
            weakref.finalize(storage, self.drop, key)

    def drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)

    def found_gradient(self, parameter: Tensor) -> None:
        """A gradient is whole: from now on it is none of the activations."""
        storage = parameter.grad.untyped_storage()
        self.drop(storage._cdata)
        self.known.add(storage._cdata)
        self.gradients += 0 if self.keep_gradients else storage.nbytes()

    def enter_block(self, block: nn.Module, arguments: tuple) -> None:
        if arguments and isinstance(arguments[0], Tensor) and arguments[0].ndim == 3:
            self.tokens = max(self.tokens or 0, arguments[0].shape[1])


def count(parameters: Iterable[Tensor]) -> int:
    """Numbers in them."""
    return sum(parameter.numel() for parameter in parameters)


def padded(module: nn.Module, shards: int) -> int:
    """Its parameters' numbers when they are gathered: a first dimension with too few rows is filled up."""
    whole = 0
    for parameter in module.parameters():
        even = shards == 1 or sharded_dimension(parameter, shards) is not None
        rows = len(parameter) if even else -(-len(parameter) // shards) * shards
        whole += parameter.numel() // len(parameter) * rows
    return whole


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors, a shared storage once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
    return sum(storages.values())

"""Scaling: made by `course build` from solutions/05_scaling.py. Edit there, never here."""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary


# Chapter 05
@dataclass(frozen=True)
class Encoder:
    """The sizes of a plain ViT. `tokens` counts the patches and the cls token; a patch holds `patch_values` numbers."""

    width: int
    depth: int
    heads: int
    tokens: int
    patch_values: int = 768  # 16 x 16 pixels x 3 colours


SAPIENS = {  # Sapiens, Table 2; 1024 x 1024 pixels make 64 x 64 patches and, with the cls token, 4,097 tokens
    "Sapiens-0.3B": Encoder(1024, 24, 16, 4097),
    "Sapiens-0.6B": Encoder(1280, 32, 16, 4097),
    "Sapiens-1B": Encoder(1536, 40, 24, 4097),
    "Sapiens-2B": Encoder(1920, 48, 32, 4097),
}


# Chapter 05, section "1 How many numbers?", exercise 05.1
def block_parameters(width: int, mlp_ratio: int = 4) -> int:
    """The number of weights and biases of one pre-norm transformer block."""
    weights = (3 + 1 + mlp_ratio + mlp_ratio) * width**2
    biases = (3 + 1 + mlp_ratio + 1) * width
    return weights + biases + 4 * width  # two norms, each a scale and a shift


# Chapter 05, section "1 How many numbers?"
def encoder_parameters(encoder: Encoder) -> int:
    """Equation 05.1, the table of positions included."""
    around = encoder.patch_values + 1 + 1 + encoder.tokens + 2  # patch embedding, cls token, positions, last norm
    return encoder.depth * block_parameters(encoder.width) + around * encoder.width


# Chapter 05, section "2 How many operations?", exercise 05.2
def block_flops(tokens: int, width: int, mlp_ratio: int = 4) -> int:
    """The floating-point operations of one block for one sequence, forward; a multiply-add counts as two."""
    linear_layers = tokens * (4 + 2 * mlp_ratio) * width**2
    attention = 2 * tokens**2 * width  # q kᵀ, and the shares times the values
    return 2 * (linear_layers + attention)


# Chapter 05, section "2 How many operations?"
def encoder_flops(encoder: Encoder) -> int:
    """The FLOPs of one image, forward: all blocks (equation 05.2) and the patch embedding."""
    patches = 2 * (encoder.tokens - 1) * encoder.patch_values * encoder.width
    return encoder.depth * block_flops(encoder.tokens, encoder.width) + patches


# Chapter 05, section "2 How many operations?"
def count_flops(function: Callable, *inputs) -> int:
    """The FLOPs of `function(*inputs)` as PyTorch counts them; with tensors on the meta device it costs no time."""
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


# Chapter 05, section "3 MACs or FLOPs?", exercise 05.3
def table_macs(encoder: Encoder) -> int:
    """What Sapiens' Table 2 calls FLOPs: multiply-adds of linear layers, 5 per number of a norm, no attention."""
    linear_layers = 12 * encoder.tokens * encoder.width**2 * encoder.depth
    patches = (encoder.tokens - 1) * encoder.patch_values * encoder.width
    norms = 5 * encoder.tokens * encoder.width * (2 * encoder.depth + 1)
    return linear_layers + patches + norms


# Chapter 05, section "4 How long does it take?", exercise 05.4
def training_days(
    flops: float, samples: float, gpus: int, peak: float, utilisation: float, recompute: bool = False
) -> float:
    """Equation 05.3: `flops` of one sample forward; `peak` FLOP/s of one GPU; recompute: the blocks run forward twice.

    `utilisation` is what the hardware does, repeated work included."""
    passes = 4 if recompute else 3
    seconds = passes * flops * samples / (gpus * peak * utilisation)
    return seconds / (24 * 3600)


# Chapter 05, section "4 How long does it take?"
class Gpu(NamedTuple):
    """A GPU by its data sheet: FLOP/s (dense, 16 bits, tensor cores), bytes of memory, rated watts, FLOP/s in fp32."""

    peak: float
    memory: float
    watts: float
    fp32: float


GPUS = {
    "A100-80GB": Gpu(312e12, 80e9, 400, 19.5e12),
    "A100-40GB": Gpu(312e12, 40e9, 400, 19.5e12),
    "A40-48GB": Gpu(149.7e12, 48e9, 300, 37.4e12),
    "V100-32GB": Gpu(125e12, 32e9, 300, 15.7e12),
    "H100-80GB": Gpu(989e12, 80e9, 700, 67e12),
    "H200-141GB": Gpu(989e12, 141e9, 700, 67e12),
    "L40S-48GB": Gpu(362e12, 48e9, 350, 91.6e12),
    "RTX4090-24GB": Gpu(165e12, 24e9, 450, 82.6e12),
}


# Chapter 05, section "4 How long does it take?"
def energy(gpus: int, days: float, gpu: str = "A100-80GB") -> float:
    """Kilowatt hours of so many GPUs at their rated power; hosts and cooling are not in it."""
    return gpus * GPUS[gpu].watts * days * 24 / 1000


# Chapter 05, section "5 What has to be kept?", exercise 05.5
def state_bytes(parameters: int, ranks: int = 1, stage: int = 0) -> dict[str, float]:
    """The bytes of "parameters", "gradients" and "optimiser" on each rank: AdamW, 32 bits, ZeRO stage 0 to 3."""
    return {
        "parameters": 4 * parameters / (ranks if stage >= 3 else 1),
        "gradients": 4 * parameters / (ranks if stage >= 2 else 1),
        "optimiser": 8 * parameters / (ranks if stage >= 1 else 1),
    }


# Chapter 05, section "5 What has to be kept?"
def number_bytes(precision: str) -> int:
    """Bytes of a number that matrix products work on: "fp32" 4, "bf16" (autocast) 2; ValueError for another."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r} is unknown: use 'fp32' or 'bf16'")
    return 4 if precision == "fp32" else 2


# Chapter 05, section "5 What has to be kept?"
def activation_bytes(
    encoder: Encoder, batch: int, precision: str = "bf16", recompute: bool = False, fused: bool = True
) -> int:
    """What the blocks keep for the backward pass (equation 05.4). precision: "fp32", or "bf16" autocast;
    recompute: checkpointed, so the blocks' inputs and one whole block; fused: attention keeps no N x N weights."""
    size, per_number = number_bytes(precision), {"fp32": 64, "bf16": 36}[precision]
    N, D = encoder.tokens, encoder.width
    attention = 4 * encoder.heads * N if fused else size * encoder.heads * N**2
    block = batch * (per_number * N * D + 16 * N + attention)
    return encoder.depth * batch * 4 * N * D + block if recompute else encoder.depth * block


# Chapter 05, section "5 What has to be kept?"
def memory(
    encoder: Encoder,
    batch: int,
    ranks: int = 1,
    stage: int = 0,
    precision: str = "bf16",
    recompute: bool = False,
) -> dict[str, float]:
    """Bytes on one rank by kind, `batch` sequences at a time: the sum is what to plan with, the peak is a little less.

    "working copies": autocast's 16-bit copies of the weights; at stage 3 two blocks gathered and a block's gradient."""
    parameters, block = encoder_parameters(encoder), block_parameters(encoder.width)
    size = number_bytes(precision)
    kinds = state_bytes(parameters, ranks, stage)
    kinds["working copies"] = 3 * size * block if stage == 3 else 2 * parameters * (precision == "bf16")
    kinds["activations"] = activation_bytes(encoder, batch, precision, recompute)
    return kinds


# Chapter 05, section "5 What has to be kept?"
class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as memory:` counts the bytes of the tensors that are made inside, on any device, fake or meta:
    `live` now, `peak` so far, `history` after each operation and at the end."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.history = 0, 0, []
        self.known = WeakIdKeyDictionary()  # storages: several tensors can look at one

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tree_map_only(Tensor, lambda old: self.known.setdefault(old.untyped_storage(), 0), (args, kwargs))
        result = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, result)
        self.history.append(self.live)
        return result

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.remove, size)

    def remove(self, size: int) -> None:
        self.live -= size

    def __exit__(self, *error) -> None:
        self.history.append(self.live)
        super().__exit__(*error)


# Chapter 05, section "8 A large batch in small parts", exercise 05.6
def accumulate(model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], parts: Sequence[Tensor]) -> float:
    """Adds the gradient of the mean loss over the samples of all parts (n_k, ...) to the parameters; returns the mean.

    Equation 05.5; `loss(model, part)` is the mean over a part."""
    samples, mean = sum(len(part) for part in parts), 0.0
    for part in parts:
        share = len(part) / samples * loss(model, part)
        share.backward()
        mean += share.item()
    return mean


# Chapter 05, section "9 Many ranks", exercise 05.7
def reduce_scatter(gradients: Sequence[Tensor]) -> list[Tensor]:
    """One vector (n,) of each of R ranks -> what each rank has afterwards: its piece (n / R,) of their mean."""
    mean = torch.stack(list(gradients)).mean(0)  # (n,)
    return list(mean.chunk(len(gradients)))


# Chapter 05, section "9 Many ranks"
def all_gather(pieces: Sequence[Tensor]) -> list[Tensor]:
    """The piece of each of R ranks -> what each rank has afterwards: all of them, one after the other."""
    return [torch.cat(list(pieces)) for _ in pieces]


# Chapter 05, section "9 Many ranks", exercise 05.8
def shard(parameters: dict[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """The rows of each parameter that `rank` of `ranks` holds, as FSDP2 cuts them; (0, ...) where there are none."""
    pieces = {name: parameter.chunk(ranks) for name, parameter in parameters.items()}
    return {name: cut[rank] if rank < len(cut) else parameters[name][:0] for name, cut in pieces.items()}


# Chapter 05, section "10 Who reads what", exercise 05.9
def lanes_of(rank: int, ranks: int, worker: int, workers: int, lanes: int) -> list[int]:
    """The lanes that one worker process of one rank reads. ValueError where ranks can't share the lanes equally."""
    if lanes % ranks:
        raise ValueError(f"{lanes} lanes can't be shared equally by {ranks} ranks: use a multiple of {ranks}")
    block = torch.arange(lanes).view(ranks, -1)[rank]  # (lanes / ranks,)
    return block.tensor_split(workers)[worker].tolist()


# Chapter 05, section "11 How fast to learn, and when", exercise 05.10
def warmup_cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Equation 05.6 at step 0, 1, ...: (step + 1) / warmup up to 1, then half a cosine down to `floor`."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    share = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return rise * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)


# Chapter 05, section "13 The calculator"
def first_too_large(kinds: dict[str, float], capacity: float) -> str | None:
    """The kind of memory with which the sum of `kinds`, in their order, exceeds the capacity; None where all fits."""
    total = 0.0
    for kind, size in kinds.items():
        total += size
        if total > capacity:
            return kind
    return None


# course build sealed the text above: 7f114974afbe678f

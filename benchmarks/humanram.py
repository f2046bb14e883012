"""A training step of HumanRAM's layers beside PyTorch's own TransformerEncoder of the same shape: prints JSON.

    python benchmarks/humanram.py [--threads 2] [--rounds 9] [--batch 6] [--bf16]

A step is one pass forward, one backward and AdamW, on (batch, 3 views x 144 tokens, 192): the laptop's shape. Ours has
QK-norm, PyTorch's has none (`ours_plain` is ours without, like for like); `whole` adds patches, texture, pose images
and the linear head. All are called in turn, round after round; ratios are medians of the rounds' own, seconds over
PyTorch's: below 1 is faster than PyTorch's.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from course_lib.chapters import humanram_reconstruction as humanram

WIDTH, DEPTH, HEADS, SIDE, INPUTS = 192, 6, 6, 96, 2
TOKENS = (SIDE // 8) ** 2 * (INPUTS + 1)


def own_layers(qk_norm: bool) -> nn.Module:
    """The layers alone."""
    blocks = [humanram.Block(WIDTH, HEADS, 4 * WIDTH) for _ in range(DEPTH)]
    for block in blocks if not qk_norm else ():
        block.attn.q_norm = block.attn.k_norm = nn.Identity()
    return nn.Sequential(*blocks)


def pytorch_layers() -> nn.Module:
    """PyTorch's, of the same shape: pre-LN, no biases, no dropout."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
    )
    return nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)


def made_up_batch(batch: int, faces: int) -> dict[str, Tensor]:
    """Pictures with a body in a fifth of the columns."""
    found = {}
    for name, views in (("", INPUTS), ("target_", 1)):
        face = torch.randint(faces, (batch, views, SIDE, SIDE))
        face[..., : 2 * SIDE // 5] = face[..., 3 * SIDE // 5 :] = -1
        weights = torch.rand(batch, views, SIDE, SIDE, 3)
        found[f"{name}image"] = torch.rand(batch, views, 3, SIDE, SIDE)
        found[f"{name}rays"] = torch.randn(batch, views, 6, SIDE, SIDE)
        found[f"{name}face"] = face
        found[f"{name}barycentric"] = weights / weights.sum(-1, keepdim=True) * (face >= 0)[..., None]
    return found


def seconds(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor | dict, half: bool) -> float:
    """One step."""
    start = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        answer = model(x)
    answer.float().square().mean().backward()
    optimizer.step()
    return time.perf_counter() - start


def compare(calls: dict[str, Callable[[], float]], rounds: int) -> dict:
    """Milliseconds of each, and each over PyTorch's."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(call())
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up
    row = {"ms": {name: round(1e3 * median(values), 1) for name, values in times.items()}}
    pairs = {name: zip(values, times["pytorch"], strict=True) for name, values in times.items() if name != "pytorch"}
    return row | {f"{name}_over_pytorch": round(median(a / b for a, b in pair), 3) for name, pair in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    surface = humanram.canonical_surface()
    config = humanram.Config(SIDE, WIDTH, DEPTH, HEADS, 4 * WIDTH, head="linear")
    tokens, pictures = torch.randn(options.batch, TOKENS, WIDTH), made_up_batch(options.batch, len(surface[1]))
    models = {"ours": own_layers(True), "ours_plain": own_layers(False), "pytorch": pytorch_layers()}
    models["whole"] = humanram.HumanRAM(config, *surface)
    calls = {}
    for name, model in models.items():
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        calls[name] = partial(seconds, model, optimizer, pictures if name == "whole" else tokens, options.bf16)
    row = {"benchmark": "humanram", "threads": options.threads, "batch": options.batch, "tokens": TOKENS}
    print(json.dumps(row | {"bf16": options.bf16} | compare(calls, options.rounds), indent=1))


if __name__ == "__main__":
    main()

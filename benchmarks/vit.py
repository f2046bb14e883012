"""A vision transformer's forward and backward pass beside Hugging Face's, with the same weights' shapes: prints JSON.

    python benchmarks/vit.py [--sizes tiny small] [--sides 224 384] [--threads 2] [--rounds 9]

Every setting is called in turn, round after round, so that all meet the same machine. A round's seconds are of one pass
forward and one backward. `over_best`: the seconds of Hugging Face's fastest setting (eager or sdpa, fp32 or bf16) over
those of ours, `over_default`: its default (sdpa) under bf16 over ours; above 1: ours is faster. Both are medians of
the rounds' own ratios. `--sides 384` is DAViD's input, 577 tokens.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from course_lib.chapters.transformers import VisionTransformer

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6)}  # width, depth, heads; patches of 16
BATCH = {("tiny", 224): 8, ("small", 224): 4, ("tiny", 384): 2, ("small", 384): 1}
GOALS = {"over_best": 1.0, "over_default": 1.4}


def hugging_face(size: str, side: int, attention: str) -> nn.Module:
    """Hugging Face's ViT without its pooler."""
    width, depth, heads = SIZES[size]
    shape = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    shape |= {"intermediate_size": 4 * width, "image_size": side, "patch_size": 16}
    return ViTModel(ViTConfig(**shape, attn_implementation=attention), add_pooling_layer=False)


def last_hidden_state(model: nn.Module, images: Tensor) -> Tensor:
    """The tokens that Hugging Face's model returns."""
    return model(images).last_hidden_state


def settings(size: str, side: int) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor], bool]]:
    """Name -> the model, the call that gives its tokens, whether under bf16 autocast."""
    width, depth, heads = SIZES[size]
    ours = VisionTransformer(side, 16, width, depth, heads)
    found = {"ours_fp32": (ours, ours, False), "ours_bf16": (ours, ours, True)}
    for attention in ("eager", "sdpa"):
        theirs = hugging_face(size, side, attention)
        call = partial(last_hidden_state, theirs)
        found |= {f"hf_{attention}_fp32": (theirs, call, False), f"hf_{attention}_bf16": (theirs, call, True)}
    return found


def seconds(model: nn.Module, call: Callable[[Tensor], Tensor], half: bool, images: Tensor) -> float:
    """One pass forward and one backward."""
    model.zero_grad()
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        tokens = call(images)
    tokens.float().square().mean().backward()
    return time.perf_counter() - start


def paired(calls: dict[str, Callable[[], float]], rounds: int) -> dict:
    """What the calls say they took, in turn, round after round: milliseconds of each, and the two ratios.

    The names are ours_fp32, ours_bf16, and hf_ATTENTION_PRECISION; `our_best` and `best_of_hf` are the fastest."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(call())
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up
    middle = {name: median(values) for name, values in times.items()}
    mine = min(("ours_fp32", "ours_bf16"), key=middle.get)
    best = min((name for name in times if name.startswith("hf")), key=middle.get)
    row = {"our_best": mine, "best_of_hf": best, "ms": {name: round(1e3 * t, 1) for name, t in middle.items()}}
    row["over_best"] = round(median(b / a for a, b in zip(times[mine], times[best], strict=True)), 3)
    default = zip(times["ours_bf16"], times["hf_sdpa_bf16"], strict=True)
    return row | {"over_default": round(median(b / a for a, b in default), 3)}


def compare(size: str, side: int, rounds: int) -> dict:
    """One row of the report."""
    images = torch.randn(BATCH.get((size, side), 1), 3, side, side)
    calls = {name: partial(seconds, *setting, images) for name, setting in settings(size, side).items()}
    row = {"size": size, "side": side, "tokens": (side // 16) ** 2 + 1, "batch": len(images)}
    return row | paired(calls, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 384])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [compare(size, side, options.rounds) for side in options.sides for size in options.sizes]
    print(json.dumps({"benchmark": "vit", "threads": options.threads, "goals": GOALS, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

"""A training step of chapter 10's network beside Hugging Face's DPT of the same size: prints JSON.

    python benchmarks/dpt.py [--sizes laptop] [--threads 2] [--rounds 9] [--device cpu] [--bf16]

A step is forward, the same loss of the depth, backward and AdamW on the same pictures. `ours_dpt`: without a resizer,
which is DPT itself; `ours`: with one, as the configuration
says. Every setting is called in turn, round after round, so that all meet the same machine. `ours_dpt_over_hf` and
`ours_over_hf`: medians of the rounds' own ratios of seconds, Hugging Face's over ours; above 1: ours is faster.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DPTConfig, DPTForDepthEstimation

from course_lib.chapters.david_models import CONFIGS, Config, David, normalize

# patches of 16, so that DPT's answer is as large as its picture, as ours
LAPTOP = replace(CONFIGS["laptop"], size=128, patch=16, picture=128, tasks=("depth",))
BASE = replace(CONFIGS["david-base"], picture=384, tasks=("depth",))
SIZES = {"laptop": (LAPTOP, 16), "base": (BASE, 2)}  # pictures in a step


def hugging_face(config: Config) -> nn.Module:
    """Hugging Face's DPT of the same sizes."""
    depth = config.depth
    return DPTForDepthEstimation(
        DPTConfig(
            hidden_size=config.width, num_hidden_layers=depth, num_attention_heads=config.heads,
            intermediate_size=4 * config.width, image_size=config.size, patch_size=config.patch,
            backbone_out_indices=[-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)], is_hybrid=False,
            neck_hidden_sizes=list(config.reassembled), fusion_hidden_size=config.features,
            use_batch_norm_in_fusion_residual=False, readout_type="project",
        )
    ).train()  # fmt: skip


def seconds(answer: Callable[[], Tensor], model: nn.Module, optimizer, half: bool, device: str) -> float:
    """One step."""
    optimizer.zero_grad()
    start = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=half):
        depth = answer()
    depth.float().square().mean().backward()
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(size: str, rounds: int, half: bool, device: str) -> dict:
    """One row of the report."""
    config, count = SIZES[size]
    images = torch.rand(count, 3, config.picture, config.picture, device=device)
    nets = {"hf": hugging_face(config), "ours_dpt": David(replace(config, resizer=())), "ours": David(config)}
    calls = {}
    for name, net in nets.items():
        net.to(device)
        answer = partial(hf_depth if name == "hf" else our_depth, net, images)
        calls[name] = partial(seconds, answer, net, torch.optim.AdamW(net.parameters(), fused=True), half, device)
    times = [{name: call() for name, call in calls.items()} for _ in range(rounds + 1)][1:]  # the first is for warmth
    row = {f"{name}_s": round(statistics.median(t[name] for t in times), 4) for name in calls}
    row |= {f"{n}_over_hf": round(statistics.median(t["hf"] / t[n] for t in times), 3) for n in ("ours_dpt", "ours")}
    return {"size": size, "pictures": count, "weights": sum(p.numel() for p in nets["hf"].parameters())} | row


def hf_depth(net: nn.Module, images: Tensor) -> Tensor:
    """Their depth (B, H, W)."""
    return net(pixel_values=normalize(images)).predicted_depth


def our_depth(net: nn.Module, images: Tensor) -> Tensor:
    """Ours."""
    return net(images)["depth"][:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["laptop"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [compare(size, options.rounds, options.bf16, options.device) for size in options.sizes]
    report = {"benchmark": "dpt", "device": options.device, "threads": options.threads, "bf16": options.bf16}
    print(json.dumps(report | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()

"""A masked autoencoder's training step beside Hugging Face's of the same configuration: prints JSON.

    python benchmarks/mae.py [--sizes laptop base] [--threads 2] [--rounds 9] [--device cpu]

A step is forward, loss, backward and AdamW on the same pictures and noise. Every setting is called in turn, round after
round, so that all meet the same machine. `over_best`: the seconds of Hugging Face's fastest setting (eager or sdpa,
fp32 or bf16) over those of our fastest, `over_default`: its default (sdpa) under bf16 over ours under bf16; above 1:
ours is faster. Both are medians of the rounds' own ratios.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from vit import paired

from course_lib.chapters.sapiens_pretraining import CONFIGS, Config, MaskedAutoencoder, normalize, pretraining_loss

BASE = Config(224, 16, 768, 12, 12, pictures=1, batch_size=8, steps=1)  # MAE's own ViT-B; its decoder is the default
SIZES = {"laptop": (CONFIGS["laptop"], 64), "gpu": (CONFIGS["gpu"], 16), "base": (BASE, 8)}  # pictures in a step
GOALS = {"over_best": 1.0, "over_default": 1.4}
Step = Callable[[], Tensor]  # forward and loss


def hugging_face(config: Config, attention: str) -> nn.Module:
    """Hugging Face's autoencoder of the same sizes."""
    sizes = {"image_size": config.size, "patch_size": config.patch, "mask_ratio": config.mask_ratio}
    sizes |= {"hidden_size": config.width, "num_hidden_layers": config.depth, "num_attention_heads": config.heads}
    sizes |= {"intermediate_size": int(config.width * config.mlp_ratio), "decoder_hidden_size": config.decoder_width}
    sizes |= {"decoder_num_hidden_layers": config.decoder_depth, "decoder_num_attention_heads": config.decoder_heads}
    sizes |= {"decoder_intermediate_size": int(config.decoder_width * config.mlp_ratio), "norm_pix_loss": True}
    return ViTMAEForPreTraining(ViTMAEConfig(**sizes, attn_implementation=attention)).train()


def settings(config: Config, batch: dict[str, Tensor], device: str) -> dict[str, tuple[nn.Module, Step, bool]]:
    """Name -> the model, forward and loss, whether under bf16 autocast."""
    ours = MaskedAutoencoder(config).to(device).train()
    found = {f"ours_{kind}": (ours, lambda: pretraining_loss(ours, batch), kind == "bf16") for kind in ("fp32", "bf16")}
    for attention in ("eager", "sdpa"):
        theirs = hugging_face(config, attention).to(device)

        def loss(theirs: nn.Module = theirs) -> Tensor:
            return theirs(normalize(batch["image"]), noise=batch["noise"]).loss

        found |= {f"hf_{attention}_{kind}": (theirs, loss, kind == "bf16") for kind in ("fp32", "bf16")}
    return found


def seconds(loss: Step, half: bool, optimizer: torch.optim.Optimizer, device: str) -> float:
    """One step."""
    optimizer.zero_grad()
    start = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=half):
        value = loss()
    value.backward()
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(size: str, rounds: int, device: str) -> dict:
    """One row of the report."""
    config, count = SIZES[size]
    tokens = (config.size // config.patch) ** 2
    pictures = torch.rand(count, 3, config.size, config.size, device=device)
    found = settings(config, {"image": pictures, "noise": torch.rand(count, tokens, device=device)}, device)
    calls = {}
    for name, (model, loss, half) in found.items():
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        calls[name] = partial(seconds, loss, half, optimizer, device)
    return {"size": size, "pictures": count, "patches": tokens} | paired(calls, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["laptop", "base"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [compare(size, options.rounds, options.device) for size in options.sizes]
    report = {"benchmark": "mae", "device": options.device, "threads": options.threads, "goals": GOALS, "rows": rows}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

"""The body model's forward pass beside the `smplx` package, on one file, in one run: prints JSON.

Run `python benchmarks/body.py [--file SMPLX_*.npz] [--threads 2]`. The two are called in turn, so that both meet the
same machine; `ratio` is smplx's median time over ours (above 1: ours is faster), `best_ratio` its fastest time over our
fastest, which a busy machine disturbs less. `smplx` is licensed for non-commercial research.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import smplx
import torch
from torch import Tensor

from course_lib.chapters.bodies import BodyModel
from course_lib.paths import body_file

# where SMPL-X's arguments stand in the 55 joints of a pose, in the package's own names
PARTS = {"global_orient": (0, 1), "body_pose": (1, 22), "jaw_pose": (22, 23), "leye_pose": (23, 24),
         "reye_pose": (24, 25), "left_hand_pose": (25, 40), "right_hand_pose": (40, 55)}  # fmt: skip


def smplx_forward(path: Path) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The smplx package on a body file, called with our arguments -> vertices (B, V, 3), joints (B, 55, 3)."""
    model = smplx.create(path, model_type="smplx", ext="npz", use_pca=False, flat_hand_mean=True)
    model.vertex_joint_selector.extra_joints_idxs = torch.zeros(
        21, dtype=torch.long
    )  # ids of another mesh: unused here

    def forward(betas: Tensor, pose: Tensor, expression: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
        parts = {name: pose[:, start:end].flatten(1) for name, (start, end) in PARTS.items()}
        output = model(betas=betas, expression=expression, transl=translation, **parts)
        return output.vertices, output.joints[:, :55]

    return forward


def random_arguments(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes, poses, expressions and translations of as many random bodies."""
    return torch.randn(batch, 10), torch.randn(batch, 55, 3) * 0.3, torch.randn(batch, 10), torch.randn(batch, 3)


def paired_times(first: Callable, second: Callable, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of two functions called in turn, `rounds` times after one warm-up call each."""
    times = ([], [])
    for _ in range(rounds + 1):
        for function, spent in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            spent.append(1e3 * (time.perf_counter() - start))
    return times[0][1:], times[1][1:]


def compare(path: Path, batches: tuple[int, ...], rounds: int) -> list[dict[str, float]]:
    """Milliseconds, ratio and largest difference in metres for each batch size."""
    ours, theirs = BodyModel.from_npz(path), smplx_forward(path)
    rows = []
    for batch in batches:
        arguments = random_arguments(batch)
        difference = max((a - b).abs().max().item() for a, b in zip(ours(*arguments), theirs(*arguments), strict=True))
        mine, other = paired_times(lambda a=arguments: ours(*a), lambda a=arguments: theirs(*a), rounds)
        row = {"batch": batch, "ours_ms": round(median(mine), 2), "smplx_ms": round(median(other), 2)}
        row |= {"ratio": round(median(other) / median(mine), 2), "best_ratio": round(min(other) / min(mine), 2)}
        rows.append(row | {"difference_m": difference})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=body_file())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        rows = compare(options.file, (1, 8, 32), options.rounds)
    print(
        json.dumps({"benchmark": "body", "file": options.file.name, "threads": options.threads, "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()

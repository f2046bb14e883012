"""How many shards, terabytes and reader processes a paper's run needs, from what was measured here.

    python benchmarks/full_scale.py measure FOLDER     # of shards; writes full_scale.json beside this file
    python benchmarks/full_scale.py                    # the table

Bytes and reading time go with the number of pixels: measured at one size, scaled to the paper's. The arithmetic:

    terabytes = samples x bytes a pixel x pixels / 10^12
    shards    = terabytes x 10^12 / 10^9, of a gigabyte each
    readers   = samples a second that a node's GPUs take / (pixels a second of a reader / pixels)

What the GPUs take is an assumption, a number of samples a second and node: put your own in.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

RECORD = Path(__file__).with_suffix(".json")
SHARD = 1e9  # bytes


class Run(NamedTuple):
    """A paper's data: samples, height, width; rate: samples a second and node that are assumed to be taken."""

    samples: int
    height: int
    width: int
    rate: float


RUNS = {
    "Sapiens, pretraining": Run(300_000_000, 1024, 1024, 200),
    "DAViD": Run(298_008, 512, 384, 400),
    "HumanRAM, THuman2.1": Run(2445 * 60, 512, 512, 100),
}  # ACAE: pictures of 32 sets that it doesn't count together; MPT's 2 M meshes: drawn, not read


def needs(run: Run, bytes_per_pixel: float, pixels_per_second: float) -> dict[str, float]:
    """terabytes, shards and readers a node of a run."""
    pixels = run.height * run.width
    size = run.samples * pixels * bytes_per_pixel
    readers = math.ceil(run.rate * pixels / pixels_per_second)
    return {"terabytes": size / 1e12, "shards": math.ceil(size / SHARD), "readers": readers}


def measure(folder: Path, most: int = 200) -> dict:
    """Bytes a pixel of a folder of shards, and pixels a second of CPU time that one process reads with all fields."""
    from course_lib.data.shards import Samples, read_manifest

    samples = Samples(folder)
    count = min(most, len(samples))
    start, pixels = time.process_time(), 0
    for index in range(count):
        height, width = samples[index * len(samples) // count].image.shape[1:]
        pixels += height * width
    seconds = time.process_time() - start
    size = sum(entry["bytes"] for entry in read_manifest(folder)["shards"].values())
    found = {"data": folder.name, "samples": count, "height": height, "width": width}
    per_pixel = size / len(samples) / (height * width)
    return found | {"bytes_per_pixel": per_pixel, "pixels_per_second": pixels / seconds}


def rows(record: dict) -> list[str]:
    """The table, a line a run."""
    lines = ["| run | samples | size | terabytes | shards | samples a second and node | readers |", "|" + "---|" * 7]
    for name, run in RUNS.items():
        found = needs(run, record["bytes_per_pixel"], record["pixels_per_second"])
        cells = f"{run.samples:,} | {run.height} x {run.width} | {found['terabytes']:.3g} | {found['shards']:,}"
        lines.append(f"| {name} | {cells} | {run.rate:g} | {found['readers']} |")
    return lines


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        RECORD.write_text(json.dumps(measure(Path(sys.argv[2])), indent=1) + "\n")
    print("\n".join(rows(json.loads(RECORD.read_text()))))

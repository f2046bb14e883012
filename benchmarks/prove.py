"""`prove()`'s simulation of the largest job, in a process of its own: seconds and peak memory. Prints JSON.

Run `python benchmarks/prove.py [--chapter transformers --config vit-2b --nodes 128]`. `seconds` is the whole process,
imports included; `memory_gb` what it held at most. Goal for 2 billion parameters on 1,024 ranks: 60 s, 4 GB, 2 cores.
"""

import argparse
import json
import time

from course_lib import launch
from course_lib.launch.prove import simulated
from course_lib.runinfo import hardware


def measure(job: launch.Job) -> dict:
    """Seconds, memory, and what the simulation found."""
    began = time.perf_counter()
    found = simulated(job)
    seconds = time.perf_counter() - began
    row = {name: found[name] for name in ("config", "parameters", "ranks", "parallel", "samples")}
    row |= {"seconds": round(seconds, 1), "memory_gb": round(found["memory"] / 1e9, 2)}
    row |= {"share_of_60_s": round(seconds / 60, 2), "share_of_4_gb": round(found["memory"] / 4e9, 2)}
    return row | {"peak_gib": {kind: round(size / 2**30, 3) for kind, size in found["peak"].items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chapter", default="transformers")
    parser.add_argument("--config", default="vit-2b")
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    options = parser.parse_args()
    rows = [measure(launch.job(**vars(options), parallel=parallel)) for parallel in ("hsdp", "fsdp")]
    print(json.dumps({"benchmark": "prove", "hardware": hardware(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

"""How many labelled pictures of people a second, with everything on, and how much memory a worker takes.

    python benchmarks/people.py [--pictures 57] [--worlds wild] [--sizes 256]

JSON on stdout. Two workers with one thread each render, label and write shards at once, after a warm-up, as
`course data make` does. `reference` is the same machine's bare rasterisation of the naked body at the same size (no
clothes, no light, no labels but face ids) in the same run: `times_reference` is a ratio that means something on any
machine. `undisturbed` and the reference count CPU time, so that other programs at work do not show in the ratio.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

GOALS = {128: 60.0, 256: 20.0}  # pictures a second with two workers
GOAL_MEMORY = 1000.0  # MB a worker


def peak_memory() -> float:
    """Highest resident memory of this process so far, MB."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def work(task: tuple[str, int, int, int, str]) -> dict:
    """One worker: makes shards of `count` pictures, then rasterises bare bodies in as many."""
    import torch

    from course_lib.data import shards, worlds
    from course_lib.data.make import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    world, size, count, worker, folder = task
    first = worker * 10 * worlds.BLOCK["train"]  # a cast of its own
    people = 0

    def samples(start: int, stop: int):
        nonlocal people
        for index in range(start, stop):
            for sample in worlds.render_samples(world, "train", 0, index, (size, size)):
                people += len(sample.people)
                yield sample

    shards.write_shard(Path(folder) / f"warm-{worker}.tar", samples(first, first + 3))
    people, began, busy = 0, time.perf_counter(), time.process_time()
    shards.write_shard(Path(folder) / f"shard-{worker}.tar", samples(first + 3, first + 3 + count))
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    memory = peak_memory()  # before the reference
    return {"seconds": seconds, "busy": busy, "people": people, "memory": memory, "reference": reference(size, count)}


def reference(size: int, count: int) -> float:
    """CPU seconds for `count` bare rasterisations of the body at the supersampled size."""
    import torch

    from course_lib.chapters.cameras import Camera
    from course_lib.chapters.rendering import rasterize
    from course_lib.data.poses import body

    model = body()
    camera = Camera.look_at(
        torch.tensor([[0.0, 0.0, 4.0]]), torch.zeros(1, 3), focal=4.0 * size, size=(2 * size, 2 * size)
    )
    began = time.process_time()
    for _ in range(count):
        rasterize(model.template[None], model.faces, camera, (2 * size, 2 * size))
    return time.process_time() - began


def measure(world: str, size: int, count: int, workers: int) -> dict:
    """One row of the report."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(workers) as pool:
        rows = pool.map(work, [(world, size, count, worker, folder) for worker in range(workers)], chunksize=1)
    speed = sum(count / row["seconds"] for row in rows)
    cpu, bare = (sum(count / row[name] for row in rows) for name in ("busy", "reference"))
    return {
        "size": size,
        "pictures_per_second": round(speed, 2),
        "people_per_second": round(sum(row["people"] / row["seconds"] for row in rows), 2),
        "people_per_picture": round(sum(row["people"] for row in rows) / (count * workers), 2),
        "pictures_per_second_undisturbed": round(cpu, 2),
        "reference_pictures_per_second": round(bare, 2),
        "times_reference": round(cpu / bare, 4),
        "memory_per_worker_mb": round(max(row["memory"] for row in rows)),
        "goal": {"pictures_per_second": GOALS.get(size), "memory_per_worker_mb": GOAL_MEMORY},
        "reached": bool(speed >= GOALS.get(size, 0) and max(row["memory"] for row in rows) <= GOAL_MEMORY),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=57, help="for each worker")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worlds", nargs="+", default=["studio", "wild"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256])
    arguments = parser.parse_args()
    report = {
        world: [measure(world, size, arguments.pictures, arguments.workers) for size in arguments.sizes]
        for world in arguments.worlds
    }
    print(
        json.dumps({"benchmark": "people", "workers": arguments.workers, "supersample": 2, "worlds": report}, indent=1)
    )


if __name__ == "__main__":
    main()

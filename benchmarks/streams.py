"""Samples a second out of shards, beside plain webdataset + Pillow on the same shards and beside a read from memory.

    python benchmarks/streams.py [--pictures 96] [--workers 2] [--data FOLDER]

JSON on stdout. The shards, 256 x 256 pictures of the world `wild`, are rendered into a temporary folder. All readers
give the same batches of tensors and take turns, round by round, in steady state: what they read ahead while another one
was measured is thrown away first. `times_webdataset` and `share_of_memory` are ratios of medians within the run;
`cpu_ms` counts CPU time a sample of all processes together, so that other programs at work show less.
`labels` is the picture with parts and keypoints, `everything` has all pictures and all arrays of the labels.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from course_lib.data.make import make
from course_lib.data.schema import IMAGE_FIELDS
from course_lib.data.streams import ShardStream, TensorStream
from course_lib.recipe import Batch

GOAL = 300.0  # samples a second: 256 x 256 pictures with labels, two workers
FIELDS = {"labels": ("image", "parts"), "everything": IMAGE_FIELDS}
POINTS = "0/keypoints/coco17/points_2d"
NOBODY = np.full((17, 2), np.nan, np.float32)


def prepare(sample, generator: np.random.Generator) -> Batch:
    """The picture fields that were decoded, and the first person's keypoints."""
    points = sample.people[0].keypoints["coco17"].points_2d if sample.people else NOBODY
    fields = {name: getattr(sample, name) for name in IMAGE_FIELDS}
    found = {name: values for name, values in fields.items() if values is not None} | {"points": points}
    return {name: torch.from_numpy(values) for name, values in found.items()}


# ---------------------------------------------------------------- webdataset, as one would write it at first


def read_labels(row: dict[str, bytes]) -> Batch:
    """Picture, parts and keypoints of a sample."""
    with np.load(io.BytesIO(row["labels.npz"])) as arrays:
        points = arrays[POINTS] if POINTS in arrays else NOBODY
    found = {"image": picture(row["image.png"]), "parts": pixels(row["parts.png"]), "points": points}
    return {name: torch.from_numpy(values) for name, values in found.items()}


def read_everything(row: dict[str, bytes]) -> Batch:
    """All pictures of a sample, and all arrays of its labels, of which only the keypoints go into the batch."""
    with np.load(io.BytesIO(row["labels.npz"])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    near, far = json.loads(row["json"])["depth_range"]
    codes, normals = pixels(row["depth.png"]), 2 * picture(row["normals.png"]) - 1
    depth = near + (codes.astype(np.float32) - 1) / 65534 * (far - near)
    found = {"image": picture(row["image.png"]), "alpha": pixels(row["alpha.png"]).astype(np.float32) / 255}
    found |= {"depth": np.where(codes == 0, np.inf, depth).astype(np.float32)}
    found |= {"normals": normals / np.maximum(np.linalg.norm(normals, axis=0), 1e-6)}
    found |= {name: pixels(row[f"{name}.png"]) for name in ("parts", "instances")}
    found |= {"points": arrays.get(POINTS, NOBODY)}
    return {name: torch.from_numpy(values) for name, values in found.items()}


def pixels(data: bytes) -> np.ndarray:
    """A PNG as it is."""
    return np.array(Image.open(io.BytesIO(data)))


def picture(data: bytes) -> np.ndarray:
    """A PNG of three channels as (3, H, W) in [0, 1]."""
    return (pixels(data).astype(np.float32) / 255).transpose(2, 0, 1)


def plain_webdataset(folder: Path, what: str, batch: int, workers: int) -> Iterator[Batch]:
    """Batches without end, shards split by worker, only the files that are needed."""
    wanted = {*(f"{name}.png" for name in FIELDS[what]), "labels.npz", "json"}
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    files = webdataset.WebDataset(paths, shardshuffle=False, select_files=Wanted(wanted)).repeat()
    rows = files.map(read_labels if what == "labels" else read_everything)
    how = {"multiprocessing_context": "spawn"} if workers else {}
    return iter(DataLoader(rows, batch_size=batch, num_workers=workers, **how))


class Wanted:
    """Whether a file of a sample is needed (a class, since worker processes have to receive it)."""

    def __init__(self, endings: set[str]):
        self.endings = endings

    def __call__(self, name: str) -> bool:
        return name.partition(".")[2] in self.endings


# ---------------------------------------------------------------- measuring


def cpu_seconds() -> float:
    """CPU time so far of this process and its workers."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def speed(batches: Iterator[Batch], count: int, ahead: int) -> tuple[float, float]:
    """Samples a second, and CPU milliseconds a sample, over `count` batches after those that were read ahead."""
    for _ in islice(batches, ahead):
        pass
    began, busy = time.perf_counter(), cpu_seconds()
    samples = sum(len(batch["image"]) for batch in islice(batches, count))
    return samples / (time.perf_counter() - began), 1e3 * (cpu_seconds() - busy) / samples


def memory_of(folder: Path, what: str, size: int) -> dict[str, Tensor]:
    """The first samples of the shards as tensors."""
    return next(ShardStream(folder, prepare=prepare, only=FIELDS[what]).batches(0, size))


def measure(folder: Path, what: str, batch: int, workers: int, rounds: int, count: int) -> dict:
    """One row: medians over the rounds, and their ratios."""
    stream = ShardStream(folder, prepare=prepare, only=FIELDS[what], lanes=4, workers=workers)
    readers = {
        "ours": stream.batches(0, batch),
        "webdataset": plain_webdataset(folder, what, batch, workers),
        "memory": TensorStream(memory_of(folder, what, 2 * batch)).batches(0, batch),
    }
    ahead = 2 * max(1, workers) + 2
    found = {name: [] for name in readers}
    for _ in range(rounds):
        for name, batches in readers.items():
            found[name].append(speed(batches, count, ahead))
    readers["ours"].close()
    speeds, cpu = ({name: median(pair[i] for pair in pairs) for name, pairs in found.items()} for i in (0, 1))
    row = {"what": what, "workers": workers, "per_second": {name: round(value, 1) for name, value in speeds.items()}}
    row |= {"cpu_ms": {name: round(value, 2) for name, value in cpu.items()}}
    row |= {"times_webdataset": round(speeds["ours"] / speeds["webdataset"], 2)}
    row |= {"times_webdataset_cpu": round(cpu["webdataset"] / cpu["ours"], 2)}
    return row | {"share_of_memory": round(speeds["ours"] / speeds["memory"], 3)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=15, help="in a round")
    parser.add_argument("--data", type=Path, help="read this data folder instead of rendering one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or make("wild", options.pictures, Path(temporary) / "wild", progress=False)
        rows = [
            measure(folder, what, options.batch, workers, options.rounds, options.batches)
            for what in FIELDS
            for workers in (0, options.workers)
        ]
    reached = next(row["per_second"]["ours"] for row in rows if row["what"] == "labels" and row["workers"]) >= GOAL
    report = {"benchmark": "streams", "size": 256, "batch": options.batch, "goal_labels_per_second": GOAL}
    print(json.dumps(report | {"reached": reached, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

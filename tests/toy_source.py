"""A small source for the tests of the driver: sequences `seqN.npz` with pictures `seqN/000.png`, as a script too."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.checks import check_people, expect
from course_lib.real.convert import main
from course_lib.real.labels import box_around, image_field, points_field
from course_lib.real.safe import read_image, read_npz
from course_lib.real.source import Item, Record, Source

SIZE = (32, 48)  # height, width
K = np.array([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]])


class Toy(Source):
    name, title, licence, register = "toy", "A toy", "no licence is needed", "nowhere"
    download, pattern, per_shard = ("nothing to download",), "*.npz", 4
    layout = "seqN.npz: points (N, 5, 3) metres, spots (N, 5, 2), K, valid (N)\nseqN/000.png"
    corrections = ("frames that are marked as not valid are left out",)

    def items(self, group: str) -> Iterator[Item]:
        path, sizes = self.root / group, {}
        table = read_npz(path)
        points = expect(table, path, "points", ("N", 5, 3), low=-10, high=10, unit="metres", sizes=sizes)
        check_people(points, path, "points")
        expect(table, path, "spots", ("N", 5, 2), sizes=sizes)
        expect(table, path, "K", (3, 3))
        valid = expect(table, path, "valid", ("N",), "b", sizes=sizes)
        for frame, good in enumerate(valid):
            yield Item(f"{path.stem}-{frame:03d}", (group, frame), "" if good else f"{group}: marked as not valid")

    def read(self, item: Item) -> list[Sample]:
        time.sleep(float(os.environ.get("TOY_SLOW", 0)))
        group, frame = item.place
        table = read_npz(self.root / group)
        image = image_field(read_image(self.root / Path(group).stem / f"{frame:03d}.png", size=SIZE))
        points = points_field(table["spots"][frame], SIZE, table["points"][frame])
        person = PersonLabel(box=box_around(points.points_2d, SIZE), keypoints={"toy5": points})
        camera = {"K": K.astype(np.float32), "R": np.eye(3, dtype=np.float32), "t": np.zeros(3, np.float32)}
        mask = np.zeros(SIZE, np.uint8)
        mask[10:20, 15:30] = 1
        scene = sorted(p.name for p in self.root.glob("*.npz")).index(group)
        return [Sample(scene=scene, frame=frame, image=image, instances=mask, people=[person], **camera)]


class ToyTables(Toy):
    name, tables = "toytables", True

    def read(self, item: Item) -> list[Record]:
        group, frame = item.place
        points = read_npz(self.root / group)["points"][frame : frame + 1]
        return [{"points": points.astype(np.float32), "name": np.array([Path(group).stem])}]


def write_toy(root: Path, sequences: int = 3, frames: int = 4) -> Path:
    """The source on disk."""
    root.mkdir()
    for number in range(sequences):
        rng = np.random.default_rng(number)
        points = rng.uniform(-0.5, 0.5, (frames, 5, 3)) + (0, 0, 3)
        spots = points @ K.T
        spots = spots[..., :2] / spots[..., 2:]
        np.savez(root / f"seq{number}.npz", points=points, spots=spots, K=K, valid=np.ones(frames, bool))
        (root / f"seq{number}").mkdir()
        for frame in range(frames):
            noise = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / f"seq{number}" / f"{frame:03d}.png")
    return root


if __name__ == "__main__":
    sys.exit(main(Toy))

"""3D poses of any data set -> shards, from .npz files that you write yourself. `python data_scripts/generic_poses.py`

So that each of ACAE's 32 data sets can be fed (Table S1): export its labels once with whatever its authors provide.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.checks import (
    check_in_front,
    check_intrinsics,
    check_people,
    check_reprojection,
    check_rotation,
    differs,
    expect,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, clipped, image_field, mask_box, points_field
from course_lib.real.lens import seen_at
from course_lib.real.safe import read_image, read_mask, read_npz
from course_lib.real.source import Item, Source

METRE = 1000.0  # millimetres
KEYS = ("images", "joints", "names", "K", "R", "t", "points", "valid", "subjects", "masks", "scenes", "views", "frames")


class GenericPoses(Source):
    """One .npz for each data set or split; its name is that of the keypoint format."""

    name, title = "generic_poses", "Poses of any data set, as .npz files of your own"
    licence = "that of the data set"
    register = "where the data set says"
    download = ("pictures and 3D joints; write them as one NAME.npz for each skeleton format",)
    layout = """
        NAME.npz   images (N,) text: paths under the root; people in one picture have a row each
                   joints (N, J, 3) millimetres in the world, NaN where unknown; names (J,) text
                   K (3, 3) or (N, 3, 3) pixels, R the same, t (3,) or (N, 3) millimetres: x_camera = R x + t,
                   camera axes x right, y down, z forward; pixel centres at integer + 0.5
                   if you have them: points (N, J, 2) pixels, as labelled; valid (N,) which rows to take;
                   subjects (N,) text; scenes, views, frames (N,) numbers;
                   masks (N,) text: paths of pictures that are not 0 on the person, "" for none
                   2D labels alone (MPII, ...): images, names, points, and no joints, K, R, t
        pictures
    """
    pattern = "*.npz"
    options = {"apart": {"type": float, "default": 15.0, "help": "pixels that labelled points may be off (15)"}}
    corrections = ("millimetres become metres", "rows that are not valid, or without a joint, are left out")

    def items(self, group: str) -> Iterator[Item]:
        """A picture each, with the rows of its people."""
        table = self.table(group)
        rows: dict[str, list[int]] = {}
        for row in np.flatnonzero(
            table["valid"] & np.isfinite(table["joints" if "joints" in table else "points"]).all(2).any(1)
        ):
            rows.setdefault(str(table["images"][row]), []).append(int(row))
        if not rows:
            raise differs(self.root / group, "joints", "rows with joints", "none")
        stem = Path(group).stem
        for number, (image, people) in enumerate(rows.items()):
            missing = not (self.root / image).is_file()
            problem = f"{group}: images: expected the picture {image!r}, found no such file" if missing else ""
            yield Item(f"{stem}-{number:07d}", (group, image, tuple(people), number), problem)

    def table(self, group: str) -> dict[str, np.ndarray]:
        """A file's arrays, checked; cameras one a row."""
        path, sizes = self.root / group, {}
        table = read_npz(path, KEYS)
        found = {"images": expect(table, path, "images", ("N",), "U", sizes=sizes)}
        if "points" in table and not {"joints", "K", "R", "t"} & table.keys():
            found |= {"points": expect(table, path, "points", ("N", "J", 2), low=-1e5, high=1e5, nan=True, sizes=sizes)}
        else:
            found |= self.in_space(table, path, sizes)
        found |= {"names": expect(table, path, "names", ("J",), "U", sizes=sizes)}
        valid = expect(table, path, "valid", ("N",), "b", sizes=sizes) if "valid" in table else np.ones(sizes["N"])
        found |= {"valid": valid.astype(bool)}
        texts = {k: expect(table, path, k, ("N",), "U", sizes=sizes) for k in ("subjects", "masks") if k in table}
        numbers = ("scenes", "views", "frames")
        return found | texts | {k: expect(table, path, k, ("N",), "i", sizes=sizes) for k in numbers if k in table}

    def in_space(self, table: dict, path: Path, sizes: dict[str, int]) -> dict[str, np.ndarray]:
        """joints, K, R, t and, if they are there, points, all checked against each other."""
        joints = expect(table, path, "joints", ("N", "J", 3), low=-1e6, high=1e6, nan=True, sizes=sizes)
        check_people(joints, path, "joints", "millimetres")
        found = {"joints": joints}
        found |= {name: camera_part(table, path, name, sizes["N"]) for name in ("K", "R", "t")}
        check_intrinsics(found["K"], path, "K")
        check_rotation(found["R"], path, "R")
        seen = np.einsum("nij,nkj->nki", found["R"], joints) + found["t"][:, None]
        check_in_front(seen, path, "joints")
        check_distance(seen, path)
        if "points" in table:
            found["points"] = expect(table, path, "points", ("N", "J", 2), nan=True, sizes=sizes)
            apart = self.option("apart")
            check_reprojection(seen_at(seen, found["K"]), found["points"], path, "points", apart)
        return found

    def read(self, item: Item) -> list[Sample]:
        """A picture with its people."""
        group, image, rows, number = item.place
        table = self.once(group, self.table)
        pixels = read_image(self.root / image)
        size, row = pixels.shape[:2], rows[0]
        camera = {}
        if "joints" in table:
            camera = {"K": table["K"][row], "R": table["R"][row], "t": table["t"][row] / METRE}
            check_intrinsics(camera["K"], self.root / group, f"K of {image}", size)
        masks = [self.mask(table, r, size) for r in rows]
        people = [person(table, r, Path(group).stem, size, mask) for r, mask in zip(rows, masks, strict=True)]
        numbers = {n: int(table[f"{n}s"][row]) for n in ("view", "frame") if f"{n}s" in table}
        scene = int(table["scenes"][row]) if "scenes" in table else number
        camera = {name: values.astype(np.float32) for name, values in camera.items()}
        labels = {"people": people, "instances": instances(masks), "source": f"{self.name}/{Path(group).stem}"}
        return [Sample(scene=scene, image=image_field(pixels), **numbers, **camera, **labels)]

    def mask(self, table: dict, row: int, size: tuple[int, int]) -> np.ndarray | None:
        """Which pixels are the person of a row (H, W) bool; None where nobody says."""
        path = str(table["masks"][row]) if "masks" in table else ""
        return read_mask(self.root / path, size=size) > 0 if path else None


def camera_part(table: dict, path: Path, name: str, rows: int) -> np.ndarray:
    """K, R (N, 3, 3) or t (N, 3), repeated where the file has one for all."""
    inside = (3,) if name == "t" else (3, 3)
    one = np.ndim(table.get(name)) == len(inside)
    limits = {"low": -1e6, "high": 1e6, "unit": "millimetres"} if name == "t" else {}
    array = expect(table, path, name, inside if one else (rows, *inside), **limits)
    return np.broadcast_to(array, (rows, *inside))


def check_distance(points: np.ndarray, path: Path) -> None:
    """Raises a SourceError where people (N, J, 3), in camera axes, are nearer than 30 cm or farther than 200 m."""
    depth = points[..., 2][np.isfinite(points[..., 2])]
    middle = {"t": np.median(depth)} if depth.size else {}
    if middle:
        expect(middle, path, "t", (), low=300, high=200_000, unit="millimetres")


def person(table: dict, row: int, name: str, size: tuple[int, int], mask: np.ndarray | None) -> PersonLabel:
    """The label of a row."""
    joints = table["joints"][row] / METRE if "joints" in table else None
    if joints is None:
        spots = table["points"][row]
    else:
        seen = joints @ table["R"][row].T + table["t"][row] / METRE
        spots = seen_at(seen, table["K"][row])
    if not ((spots >= 0) & (spots < size[::-1])).all(1).any():
        raise differs(
            f"row {row}", "joints", "some in the picture", "none", "do K, R, t and the picture belong together?"
        )
    full = box_around(spots, margin=0.05)
    box = clipped(full, size) if mask is None or not mask.any() else mask_box(mask)
    points = points_field(table["points"][row] if "points" in table else spots, size, joints)
    identity = str(table["subjects"][row]) if "subjects" in table else ""
    return PersonLabel(identity, box=box, full_box=full, keypoints={name: points})


def instances(masks: list[np.ndarray | None]) -> np.ndarray | None:
    """Masks of all people in a picture -> its instances (H, W); None unless every one has a mask."""
    if any(mask is None for mask in masks):
        return None
    result = np.zeros(masks[0].shape, np.uint8)
    for number, mask in enumerate(masks, start=1):
        result[mask] = number
    return result


if __name__ == "__main__":
    sys.exit(main(GenericPoses))

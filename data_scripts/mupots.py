"""MuPoTS-3D: twenty sequences with two or three people each, 17 joints in 3D. For evaluation only."""

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.checks import (
    check_in_front,
    check_intrinsics,
    check_people,
    check_reprojection,
    checked,
    differs,
    entry,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, image_field, points_field
from course_lib.real.lens import pinhole
from course_lib.real.matlab import read_mat
from course_lib.real.safe import open_image, read_image, read_json
from course_lib.real.source import Item, Source

KEYS = {"annot2": 2, "annot3": 3, "univ_annot3": 3}
OFF = 25  # pixels: annotations come from a triangulation, and the fitted camera is a plain one


@lru_cache(maxsize=4)
def read_labels(path: Path) -> dict[str, np.ndarray]:
    """annot.mat -> annot2 (F, P, 17, 2) pixels, annot3 and univ_annot3 (F, P, 17, 3) mm before the camera; NaN for
    people who are marked as not valid; valid (F, P)."""
    table = entry(read_mat(path, ("annotations",)), path, "annotations")
    people = table if table.ndim == 2 else table.reshape(len(table), -1)
    labels = {key: np.full((*people.shape, 17, width), np.nan) for key, width in KEYS.items()}
    labels["valid"] = np.zeros(people.shape, bool)
    for index in np.ndindex(people.shape):
        person = struct_of(people[index], path, index)
        where = f"annotations[{index[0]}, {index[1]}]"
        if not checked(person["isValidFrame"], path, f"{where}.isValidFrame", kind="b").any():
            continue
        labels["valid"][index] = True
        for key, width in KEYS.items():
            labels[key][index] = checked(person[key], path, f"{where}.{key}", (width, 17)).T
    for key in ("annot3", "univ_annot3"):
        check_people(labels[key][labels["valid"]], path, key, "millimetres")
        check_in_front(labels[key][labels["valid"]], path, key)
    return labels


def struct_of(value, path: Path, index: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The fields of a struct, which MATLAB wraps in cells of one."""
    while isinstance(value, np.ndarray) and value.size == 1 and value.dtype.names is None and value.dtype == object:
        value = value.ravel()[0]
    names = getattr(getattr(value, "dtype", None), "names", None)
    if names is None:
        raise differs(path, f"annotations{list(index)}", "a struct", type(value).__name__)
    value = value.ravel()[0] if isinstance(value, np.ndarray) else value
    found = {name: np.asarray(value[name]) for name in names}
    for key in (*KEYS, "isValidFrame"):
        entry(found, f"{path}: annotations{list(index)}", key)
    return found


def fitted_camera(labels: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """K (3, 3) from the labels themselves, since it is not in the release: u = f x / z + c by least squares, x and y
    apart. SourceError where no pinhole camera explains them."""
    points, spots = labels["annot3"][labels["valid"]], labels["annot2"][labels["valid"]]
    if not len(points):
        raise differs(path, "isValidFrame", "people in some frames", "none")
    K = np.eye(3)
    for axis in (0, 1):
        ratio = (points[..., axis] / points[..., 2]).ravel()
        K[axis, [axis, 2]] = np.linalg.lstsq(np.stack([ratio, np.ones_like(ratio)], 1), spots[..., axis].ravel())[0]
    check_reprojection(pinhole(points, K), spots, path, "annot2 by annot3 and any pinhole camera", OFF)
    return K


class Mupots(Source):
    """A group is a sequence's annotations; an item is a frame with all its people."""

    name, title = "mupots", "MuPoTS-3D"
    licence = "non-commercial research only, no redistribution"
    register = "https://vcai.mpi-inf.mpg.de/projects/SingleShotMultiPerson/"
    download = ("MultiPersonTestSet.zip (TS1 to TS20)",)
    layout = """TS1/annot.mat, TS1/img_000000.jpg, ... (TS1 to TS20)
    camera_intrinsics.json (not needed): {"TS1": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], ...}"""
    corrections = (
        "intrinsics, which the release lacks, are fitted to its 2D and 3D labels (or read from camera_intrinsics.json)",
        "people in frames that are marked as not valid are left out",
        "millimetres -> metres; the world is the camera's",
    )
    pattern = "TS*/annot.mat"
    options = {"universal": {"action": "store_true", "default": False, "help": "joints of the one size of univ_annot3"}}

    def items(self, group: str) -> Iterator[Item]:
        path = self.root / group
        labels, folder = read_labels(path), path.parent
        self.camera(path)
        held = {each.name for each in folder.iterdir()}
        for frame in np.flatnonzero(labels["valid"].any(1)).tolist():
            name = f"img_{frame:06d}.jpg"
            problem = "" if name in held else f"{folder.name}/{name} is not there"
            yield Item(f"{folder.name}-{frame:06d}", (group, frame), problem)

    def camera(self, path: Path) -> np.ndarray:
        """K (3, 3) of a sequence: from camera_intrinsics.json, else fitted."""
        given, labels = self.root / "camera_intrinsics.json", read_labels(path)
        if not given.is_file():
            return fitted_camera(labels, path)
        K = checked(entry(read_json(given), given, path.parent.name), given, path.parent.name, (3, 3))
        check_intrinsics(K, given, path.parent.name)
        valid = labels["valid"]
        check_reprojection(pinhole(labels["annot3"][valid], K), labels["annot2"][valid], given, path.parent.name, OFF)
        return K

    def read(self, item: Item) -> list[Sample]:
        group, frame = item.place
        path = self.root / group
        labels, K = read_labels(path), self.camera(path)
        picture = path.parent / f"img_{frame:06d}.jpg"
        with open_image(picture) as image:
            size = image.height, image.width
        check_intrinsics(K, path, "K", size)
        people = []
        for number in np.flatnonzero(labels["valid"][frame]):
            joints = labels["univ_annot3" if self.option("universal") else "annot3"][frame, number] / 1000
            points = points_field(labels["annot2"][frame, number], size, joints)
            box = box_around(points.points_2d, size, 0.1)
            identity = f"mupots-{path.parent.name}-{number}"
            people.append(PersonLabel(identity=identity, box=box, keypoints={"3dhp17": points}))
        world = {"K": K.astype(np.float32), "R": np.eye(3, dtype=np.float32), "t": np.zeros(3, np.float32)}
        scene = int(re.sub(r"\D", "", path.parent.name) or 0)
        return [Sample(source="mupots/test", scene=scene, frame=frame, image=image_field(read_image(picture)),
                       people=people, **world)]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(Mupots))

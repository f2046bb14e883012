"""MPI-INF-3DHP: frames of its training cameras with 28 and 17 joints in 3D, or of its test sequences with 17.

Training frames have to be taken out of the videos first, such as by

    ffmpeg -i S1/Seq1/imageSequence/video_0.avi -start_number 0 -q:v 2 S1/Seq1/imageSequence/img_0_%06d.jpg
"""

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
    check_rotation,
    checked,
    differs,
    expect,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, image_field, points_field
from course_lib.real.lens import distorted, pinhole, undistorted
from course_lib.real.matlab import cells, read_hdf5, read_mat
from course_lib.real.safe import opened, read_image
from course_lib.real.source import Item, Source

NAMES_28 = (
    *("spi3", "spi4", "spi2", "spin", "pelv", "neck", "head", "htop", "lcla", "lsho", "lelb", "lwri", "lhan", "rcla"),
    *("rsho", "relb", "rwri", "rhan", "lhip", "lkne", "lank", "lfoo", "ltoe", "rhip", "rkne", "rank", "rfoo", "rtoe"),
)
NAMES_17 = (  # the test sequences' and MuPoTS-3D's
    *("htop", "neck", "rsho", "relb", "rwri", "lsho", "lelb", "lwri", "rhip", "rkne", "rank", "lhip", "lkne", "lank"),
    *("pelv", "spin", "head"),
)
TO_17 = [NAMES_28.index(name) for name in NAMES_17]
USUAL, ALL = (0, 1, 2, 4, 5, 6, 7, 8), tuple(range(14))  # at the height of people; all, ceiling too
SHORT = {("S6/Seq2", 2): 3911}  # a video that ends before its labels


@lru_cache(maxsize=4)
def read_training(path: Path) -> dict[str, list[np.ndarray]]:
    """annot.mat of a training sequence -> annot2 (F, 28, 2) pixels, annot3 and univ_annot3 (F, 28, 3) millimetres
    before each of the 14 cameras."""
    table = read_mat(path, ("annot2", "annot3", "univ_annot3"))
    found = {}
    for key, numbers in (("annot2", 56), ("annot3", 84), ("univ_annot3", 84)):
        parts = cells(table, path, key)
        if len(parts) != 14:
            raise differs(path, key, "cells for 14 cameras", str(len(parts)))
        parts = [checked(part, path, f"{key}, camera {n}", ("F", numbers)) for n, part in enumerate(parts)]
        found[key] = [part.reshape(len(part), 28, -1) for part in parts]
        for part in found[key] if numbers == 84 else ():
            check_people(part, path, key, "millimetres")
            check_in_front(part, path, key)
    return found


@lru_cache(maxsize=4)
def read_calibration(path: Path) -> list[dict[str, np.ndarray]]:
    """camera.calibration -> of each camera K (3, 3), R (3, 3), t (3,) in metres, size (height, width)."""
    with opened(path, 2**24):
        text = path.read_text(errors="replace")
    cameras = []
    for block in re.split(r"^name\s", text, flags=re.MULTILINE)[1:]:
        where = f"{path}: camera {len(cameras)}"
        counts = {"size": 2, "intrinsic": 16, "extrinsic": 16}
        numbers = {key: line_of(block, key, count, where) for key, count in counts.items()}
        K, outer = numbers["intrinsic"].reshape(4, 4)[:3, :3], numbers["extrinsic"].reshape(4, 4)
        size = int(numbers["size"][1]), int(numbers["size"][0])
        check_intrinsics(K, where, "intrinsic", size)
        check_rotation(outer[:3, :3], where, "extrinsic")
        far = float(np.linalg.norm(outer[:3, 3]))
        if not 500 <= far <= 20_000:
            raise differs(where, "extrinsic", "a place 500 to 20000 millimetres away", f"{far:.3g}",
                          "they look like metres" if 0.5 <= far <= 20 else "")  # fmt: skip
        cameras.append({"K": K, "R": outer[:3, :3], "t": outer[:3, 3] / 1000, "size": size})
    if len(cameras) != 14:
        raise differs(path, "name", "14 cameras", str(len(cameras)))
    return cameras


def line_of(block: str, key: str, count: int, where: str) -> np.ndarray:
    """The numbers of a line `key 1 2 3`."""
    found = re.search(rf"^\s*{key}\s+([-+.\deE \t]+)$", block, re.MULTILINE)
    if found is None:
        raise differs(where, key, "a line of numbers", "none")
    try:
        numbers = [float(word) for word in found[1].split()]
    except ValueError as error:
        raise differs(where, key, "numbers", str(error)) from None
    return checked(numbers, where, key, (count,))


@lru_cache(maxsize=4)
def read_test(path: Path) -> dict[str, np.ndarray]:
    """annot_data.mat of a test sequence -> annot2 (N, 17, 2) pixels, annot3, univ_annot3 (N, 17, 3) mm, valid (N,)."""
    table, sizes = read_hdf5(path, ("annot2", "annot3", "univ_annot3", "valid_frame")), {}
    found = {}
    for key, width in (("annot2", 2), ("annot3", 3), ("univ_annot3", 3)):
        found[key] = expect(table, path, key, ("N", 1, 17, width), sizes=sizes, nan=False)[:, 0]
    found["valid"] = expect(table, path, "valid_frame", ("N", 1), "b", sizes=sizes)[:, 0].astype(bool)
    for key in ("annot3", "univ_annot3"):
        check_people(found[key][found["valid"]], path, key, "millimetres")
        check_in_front(found[key][found["valid"]], path, key)
    return found


def camera_of_test(number: int) -> dict[str, np.ndarray]:
    """The camera of test sequence 1 to 6, from the data set's own numbers: focal length and sensor in mm, pixels, the
    centre's offset, the pixels' shape, and for 5 and 6 the lens. The world is the camera's."""
    first = 7.32506, (10, 10), (2048, 2048), (-0.0322884, 0.0929296), 1.00044, (0, 0, 0, 0, 0)
    last = 8.770747185, (10, 5.625), (1920, 1080), (-0.104908645, 0.104899704), 0.993236423
    lens = (-0.276859611, 0.131125256, -0.000360494, -0.001149441, -0.049318332)
    focal, sensor, size, offset, aspect, lens = first if number <= 4 else (*last, lens)
    per_mm = np.array(size) / sensor * (1, aspect)
    centre = (np.array(sensor) / 2 + offset) * per_mm
    K = np.array([[focal * per_mm[0], 0, centre[0]], [0, focal * per_mm[1], centre[1]], [0, 0, 1]])
    return {"K": K, "R": np.eye(3), "t": np.zeros(3), "size": size[::-1], "lens": np.array(lens)}


class MpiInf3dhp(Source):
    """A group is a sequence's annotations; an item is a frame of one camera."""

    name, title = "mpi_inf_3dhp", "MPI-INF-3DHP"
    licence = "non-commercial research only, no redistribution"
    register = "https://vcai.mpi-inf.mpg.de/3dhp-dataset/"
    download = ("mpi_inf_3dhp.zip: get_dataset.sh (S1 to S8), get_testset.sh (TS1 to TS6)",)
    layout = """S1/Seq1/annot.mat, S1/Seq1/camera.calibration, ... (S1 to S8, Seq1 and Seq2)
    S1/Seq1/imageSequence/img_0_000000.jpg, ... (taken out of video_0.avi, numbered from 0)
    TS1/annot_data.mat, TS1/imageSequence/img_000001.jpg, ... (TS1 to TS6)"""
    corrections = (
        "S6 Seq2 camera 2: its video ends at frame 3911",
        "frames of the test sequences that are marked as not valid are left out",
        "TS5, TS6: lens distortion is taken out of the pictures",
        "millimetres -> metres",
    )
    options = {
        "split": {"choices": ("train", "test"), "default": "train", "help": "S1 to S8, or TS1 to TS6"},
        "cameras": {"choices": ("usual", "all"), "default": "usual", "help": "0, 1, 2, 4 to 8; or all 14, as ACAE"},
        "step": {"type": int, "default": 0, "help": "every so many frames; 0: 5, of the test split 1"},
        "universal": {"action": "store_true", "default": False, "help": "joints of the one size of univ_annot3"},
    }

    @property
    def pattern(self) -> str:
        """Of the annotations' paths."""
        return "S*/Seq*/annot.mat" if self.option("split") == "train" else "TS*/annot_data.mat"

    def items(self, group: str) -> Iterator[Item]:
        path, train = self.root / group, self.option("split") == "train"
        folder = path.parent / "imageSequence"
        held = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        for camera, frame in self.training_frames(path) if train else self.test_frames(path):
            name = picture_name(camera, frame, train)
            problem = "" if name in held else f"{Path(group).parent.as_posix()}/imageSequence/{name} is not there"
            place = Path(group).parent.as_posix().replace("/", "-")
            yield Item(f"{place}-{camera}-{frame:06d}", (group, camera, frame), problem)

    def training_frames(self, path: Path) -> Iterator[tuple[int, int]]:
        """(camera, frame), after the cameras were held against the labels."""
        labels, views = read_training(path), read_calibration(path.parent / "camera.calibration")
        sequence = path.parent.relative_to(self.root).as_posix()
        for camera in USUAL if self.option("cameras") == "usual" else ALL:
            spots = pinhole(labels["annot3"][camera], views[camera]["K"])
            check_reprojection(spots, labels["annot2"][camera], path, f"annot3 before camera {camera}", 20)
            end = min(SHORT.get((sequence, camera), 10**9), len(spots))
            yield from ((camera, frame) for frame in range(0, end, self.option("step") or 5))

    def test_frames(self, path: Path) -> Iterator[tuple[int, int]]:
        """(0, frame), after the camera was held against the labels."""
        labels, view = read_test(path), camera_of_test(number_of(path))
        spots = distorted(pinhole(labels["annot3"], view["K"]), view["K"], view["lens"])
        good = labels["valid"]
        check_reprojection(spots[good], labels["annot2"][good], path, "annot3 before the camera", 20)
        yield from ((0, int(frame)) for frame in np.flatnonzero(good)[:: self.option("step") or 1])

    def read(self, item: Item) -> list[Sample]:
        group, camera, frame = item.place
        path, train = self.root / group, self.option("split") == "train"
        labels = read_training(path) if train else read_test(path)
        key = "univ_annot3" if self.option("universal") else "annot3"
        joints = (labels[key][camera] if train else labels[key])[frame] / 1000
        view = (
            read_calibration(path.parent / "camera.calibration")[camera] if train else camera_of_test(number_of(path))
        )
        picture = path.parent / "imageSequence" / picture_name(camera, frame, train)
        image = read_image(picture, size=view["size"])
        if "lens" in view:
            image = undistorted(image, view["K"], view["lens"])
        return [self.sample(item, image_field(image), joints, view)]

    def sample(self, item: Item, image: np.ndarray, joints: np.ndarray, view: dict) -> Sample:
        """Joints (J, 3) metres before the camera -> the sample of a frame."""
        group, camera, frame = item.place
        size, spots = view["size"], pinhole(joints, view["K"])
        world = (joints - view["t"]) @ view["R"]
        formats = {"3dhp28": list(range(28)), "3dhp17": TO_17} if len(joints) == 28 else {"3dhp17": list(range(17))}
        points = {name: points_field(spots[n], size, world[n]) for name, n in formats.items()}
        who = Path(group).parts[0]
        box = box_around(spots, size, 0.1)
        person = PersonLabel(identity=f"3dhp-{who}", box=box, full_box=box_around(spots, None, 0.1), keypoints=points)
        camera_of = {key: view[key].astype(np.float32) for key in ("K", "R", "t")}
        scene = number_of(self.root / group)
        return Sample(source=f"mpi_inf_3dhp/{self.option('split')}", scene=scene, view=camera, frame=frame, image=image,
                      people=[person], **camera_of)  # fmt: skip


def picture_name(camera: int, frame: int, train: bool) -> str:
    """What a frame's picture is called; test sequences count from 1."""
    return f"img_{camera}_{frame:06d}.jpg" if train else f"img_{frame + 1:06d}.jpg"


def number_of(path: Path) -> int:
    """10 n + m for .../Sn/Seqm/annot.mat, n for .../TSn/annot_data.mat."""
    folder = path.parent.name
    numbers = re.findall(r"\d+", f"{path.parent.parent.name} {folder}" if folder.startswith("Seq") else folder)
    return sum(int(number) * 10**place for place, number in enumerate(reversed(numbers)))


if __name__ == "__main__":
    sys.exit(main(MpiInf3dhp))

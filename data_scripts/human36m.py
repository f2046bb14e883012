"""Human3.6M: frames of four cameras with 17 and 25 joints in 3D, from the original release.

The joints are D3_Positions of the release, the cameras those of its metadata.xml. Frames have to be taken out of the
videos first, such as by (one line; the folder's name is the video's):

    ffmpeg -i "S1/Videos/Directions 1.54138969.mp4" -start_number 0 -q:v 2
           "S1/Images/Directions 1.54138969/frame_%06d.jpg"
"""

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from course_lib.chapters.mpt_pretraining import H36M_TO_COURSE
from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.checks import (
    check_in_front,
    check_intrinsics,
    check_people,
    check_range,
    checked,
    differs,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, image_field, points_field
from course_lib.real.lens import pinhole, undistorted
from course_lib.real.matlab import reader
from course_lib.real.safe import BROKEN, opened, read_image, unreadable
from course_lib.real.source import Item, Source

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
HEIGHTS = (1002, 1000, 1000, 1002)  # all are 1000 wide
SPLITS = {"train": (1, 5, 6, 7, 8), "test": (9, 11), "all": (1, 5, 6, 7, 8, 9, 11)}
STEPS = {"train": 5, "test": 64, "all": 5}
JOINTS = {  # numbers among the release's 32; names: course_lib.data.keypoints, and below
    "h36m17": (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27),
    "h36m25": (*range(1, 11), 12, 13, 14, 15, 17, 18, 19, 21, 22, 25, 26, 27, 29, 30, 0),
}
NAMES_25 = (
    *("rhip", "rkne", "rank", "rfoo", "rtoe", "lhip", "lkne", "lank", "lfoo", "ltoe", "spin", "neck", "head", "htop"),
    *("lsho", "lelb", "lwri", "lthu", "lfin", "rsho", "relb", "rwri", "rthu", "rfin", "pelv"),
)
HEAD, FEET = 15, [3, 8]
SHIFTED = {"SittingDown 1", "Waiting 1", "Greeting"}  # of subject 9, by 200 mm along the world's x
TURN = np.array(H36M_TO_COURSE)


@lru_cache(maxsize=16)
def read_positions(path: Path) -> np.ndarray:
    """A file of D3_Positions -> (N, 32, 3) millimetres in the room, z up. SourceError where it holds something else."""
    cdflib = reader("cdflib")
    with opened(path):
        pass
    try:
        file = cdflib.CDF(path)
        names = file.cdf_info().zVariables + file.cdf_info().rVariables
        values = file.varget("Pose") if "Pose" in names else None
    except BROKEN as error:
        raise unreadable(path, error) from error
    if values is None:
        raise differs(path, "Pose", "this key", ", ".join(names) or "nothing", "the key is missing")
    values = np.asarray(values)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    found = checked(values, path, "Pose", ("N", 96)).reshape(-1, 32, 3)
    check_range(found, path, "Pose", -10_000, 10_000, "millimetres")
    check_people(found, path, "Pose", "millimetres")
    rise = float(np.median(found[:, HEAD, 2] - found[:, FEET, 2].mean(1)))
    if rise < 200:  # even who sits on the floor has the head higher up
        raise differs(path, "Pose", "heads 200 mm or more above feet, z up", f"{rise:.0f} mm", "axes swapped?")
    return found


@lru_cache(maxsize=2)
def read_cameras(path: Path) -> dict[tuple[int, str], dict[str, np.ndarray]]:
    """metadata.xml -> (subject, camera) -> K (3, 3), R (3, 3), t (3,) in metres from our world, y up, and lens (5,)."""
    with opened(path, 2**28):
        text = path.read_text(errors="replace")
    found = re.search(r"<w0>\s*\[([^\]<]*)\]\s*</w0>", text)
    if found is None:
        raise differs(path, "w0", "a list of 300 numbers in [ ]", "none")
    try:
        numbers = np.array([float(word) for word in found[1].split()])
    except ValueError as error:
        raise differs(path, "w0", "numbers", str(error)) from None
    numbers = checked(numbers, path, "w0", (300,))
    outer, inner = numbers[:264].reshape(4, 11, 6), numbers[264:].reshape(4, 9)
    check_range(outer[..., :3], path, "w0: rotations", -2 * np.pi, 2 * np.pi, "radians")
    check_range(
        np.linalg.norm(outer[:, [0, 4, 5, 6, 7, 8, 10], 3:], axis=-1), path, "w0: places", 2000, 20_000, "millimetres"
    )
    return {
        (subject, name): camera(outer[number, subject - 1], inner[number], HEIGHTS[number], path)
        for number, name in enumerate(CAMERAS)
        for subject in SPLITS["all"]
    }


def camera(outer: np.ndarray, inner: np.ndarray, height: int, path: Path) -> dict[str, np.ndarray]:
    """Six numbers of a subject's camera (turns about x, y, z, place in mm) and nine of its lens, as ours."""
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = inner
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    check_intrinsics(K, path, "w0: intrinsics", (height, 1000))
    R = Rotation.from_euler("XYZ", outer[:3]).as_matrix()  # x in the camera = R (x in the room - place)
    return {"K": K, "R": R @ TURN.T, "t": -R @ outer[3:] / 1000, "lens": np.array([k1, k2, p1, p2, k3])}


class Human36M(Source):
    """A group is a file of D3_Positions: one action of one subject. An item is a frame of one camera."""

    name, title = "human36m", "Human3.6M"
    licence = "academic use only, no redistribution; each user registers"
    register = "http://vision.imar.ro/human3.6m/"
    download = (
        "Poses_D3_Positions_S*.tgz, Videos_S*.tgz, Release-v1.2 (code, with metadata.xml)",
        "then frames out of the videos: see the top of data_scripts/human36m.py",
    )
    layout = """S1/MyPoseFeatures/D3_Positions/Directions 1.cdf, ... (S1, 5, 6, 7, 8, 9, 11)
    S1/Images/Directions 1.54138969/frame_000000.jpg, ... (numbered from 0, at 50 a second)
    Release-v1.2/metadata.xml"""
    corrections = (
        "S9's SittingDown 1, Waiting 1 and Greeting are moved back by 200 mm along the room's x",
        "lens distortion is taken out of the pictures, so that K alone holds",
        "millimetres, z up -> metres, y up",
    )
    pattern = "S*/MyPoseFeatures/D3_Positions/*.cdf"
    options = {
        "split": {"choices": tuple(SPLITS), "default": "train", "help": "train: S1, 5, 6, 7, 8; test: S9, 11"},
        "step": {"type": int, "default": 0, "help": "every so many frames; 0: 5, of the test split 64, as ACAE"},
    }

    def groups(self) -> list[str]:
        subjects = SPLITS[self.option("split")]
        found = [g for g in super().groups() if subject_of(g) in subjects and "_ALL" not in g]
        read_cameras(self.root / "Release-v1.2" / "metadata.xml")
        return self.some(found)

    def items(self, group: str) -> Iterator[Item]:
        action, subject = Path(group).stem, subject_of(group)
        joints = self.joints(group)
        for name in CAMERAS:
            view = read_cameras(self.root / "Release-v1.2" / "metadata.xml")[subject, name]
            check_view(joints, view, self.root / group, name)
            folder = self.root / f"S{subject}" / "Images" / f"{action}.{name}"
            held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            for frame in range(0, len(joints), self.option("step") or STEPS[self.option("split")]):
                picture = f"frame_{frame:06d}.jpg"
                problem = "" if picture in held else f"S{subject}/Images/{action}.{name}/{picture} is not there"
                yield Item(f"S{subject}-{action}-{name}-{frame:06d}", (group, name, frame), problem)

    def joints(self, group: str) -> np.ndarray:
        """(N, 32, 3) metres in our world."""
        positions = read_positions(self.root / group)
        if subject_of(group) == 9 and Path(group).stem in SHIFTED:
            positions = positions - (200, 0, 0)
        return positions / 1000 @ TURN.T

    def read(self, item: Item) -> list[Sample]:
        group, name, frame = item.place
        subject, action = subject_of(group), Path(group).stem
        view = read_cameras(self.root / "Release-v1.2" / "metadata.xml")[subject, name]
        size = (HEIGHTS[CAMERAS.index(name)], 1000)
        path = self.root / f"S{subject}" / "Images" / f"{action}.{name}" / f"frame_{frame:06d}.jpg"
        image = image_field(undistorted(read_image(path, size=size), view["K"], view["lens"]))
        joints = self.joints(group)[frame]
        spots = projected(joints, view)
        formats = {key: points_field(spots[list(n)], size, joints[list(n)]) for key, n in JOINTS.items()}
        person = PersonLabel(
            identity=f"h36m-S{subject}", pose_family=action.split(" ")[0].lower(), keypoints=formats,
            box=box_around(spots, size, 0.1), full_box=box_around(spots, None, 0.1),
        )  # fmt: skip
        lens_free = {key: view[key].astype(np.float32) for key in ("K", "R", "t")}
        split = "test" if subject in SPLITS["test"] else "train"
        return [Sample(source=f"human36m/{split}", scene=scene_of(group), view=CAMERAS.index(name), frame=frame,
                       image=image, people=[person], **lens_free)]  # fmt: skip


def subject_of(group: str) -> int:
    """The number in S11/..."""
    found = re.match(r"S(\d+)[/\\]", group)
    return int(found[1]) if found else 0


def scene_of(group: str) -> int:
    """A number for each subject and action, the same whatever else is there."""
    return subject_of(group) * 10**6 + sum(ord(c) * 31**n for n, c in enumerate(Path(group).stem)) % 10**6


def projected(points: np.ndarray, view: dict[str, np.ndarray]) -> np.ndarray:
    """World points (..., 3) -> pixels (..., 2)."""
    return pinhole(points @ view["R"].T + view["t"], view["K"])


def check_view(joints: np.ndarray, view: dict[str, np.ndarray], path: Path, name: str) -> None:
    """SourceError unless a camera has the people in front of it and in its picture, nearly always."""
    check_in_front(joints @ view["R"].T + view["t"], path, f"Pose before camera {name}")
    spots = projected(joints, view)
    inside = ((spots > -50) & (spots < 1052)).all(-1).mean()
    if inside < 0.9:
        hint = "axes swapped, or another release's cameras?"
        raise differs(path, f"Pose before camera {name}", "joints in the picture", f"{inside:.0%} of them", hint)


if __name__ == "__main__":
    sys.exit(main(Human36M))

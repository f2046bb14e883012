"""ZJU-MoCap: people seen by 21 or more cameras -> shards. `python data_scripts/zju_mocap.py --root R --out O`

HumanRAM animates from it. Its fits are SMPL's; HumanRAM's are SMPL-X's and were not released: fit them anew if you need
SMPL-X.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation

from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.bodies import FamilyBody, body_of, from_family
from course_lib.real.checks import (
    check_intrinsics,
    check_people,
    check_rotation,
    checked,
    differs,
    entry,
    expect,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, image_field, mask_box, points_field
from course_lib.real.lens import to_course, undistorted
from course_lib.real.overlay import project
from course_lib.real.safe import problem_with, read_image, read_mask, read_npy
from course_lib.real.source import Item, Source, numbers_in

METRE = 1000.0  # millimetres
OLD = ("CoreView_313", "CoreView_315")  # whose pictures are called ..._0001_2019-08-23_....jpg and begin with 1
MASKS = ("mask_cihp", "mask")
FITS = (("new_params", "new_vertices"), ("params", "vertices"))
APART = 0.03  # metres: the most that the posed body may differ from the vertices beside its parameters
INSIDE = 0.7  # share of the vertices that lie on the mask, at least


class ZJUMoCap(Source):
    """LightStage of Zhejiang University: one person in each sequence, masks and SMPL fits in every frame."""

    name, title = "zju_mocap", "ZJU-MoCap (Neural Body)"
    licence = "non-commercial research only, no redistribution; a signed agreement"
    register = "github.com/zju3dv/neuralbody, INSTALL.md: a form, signed by a permanent member of staff"
    download = ("CoreView_313, 315, 377, 386, 387, 390, 392, 393, 394, ... as archives of their own",)
    layout = """
        CoreView_NNN/annots.npy                           {'cams': {K, D, R, T}, 'ims': [{'ims': [paths]}]}
                     Camera_B1/000000.jpg ...             as annots.npy says
                     mask_cihp/Camera_B1/000000.png       or mask/
                     new_params/0.npy, new_vertices/0.npy or params/, vertices/
    """
    pattern = "*/annots.npy"
    corrections = (
        "T is in millimetres: it becomes metres",
        "pictures and masks are undistorted; K's pixel centres are OpenCV's (at integers): half a pixel is added",
        "CoreView_313 and 315 count their frames from 1, and their fits by the number in the picture's name",
        "Rh turns about the origin, not the pelvis: with --bodies the translation is made anew",
        "masks of people's parts become one; --border leaves their uncertain edges half",
    )
    options = {
        "every": {"type": int, "default": 1, "help": "every so many frames (1)"},
        "cameras": {"default": "all", "help": "numbers of cameras such as 0,6,12,18 (all)"},
        "border": {"type": int, "default": 0, "help": "pixels at the mask's edge with alpha one half (0; they use 5)"},
        "bodies": {"type": Path, "default": None, "help": "what body_models.py wrote (SMPL neutral): adds joints"},
    }

    def items(self, group: str) -> Iterator[Item]:
        """A frame as one camera sees it, whose picture, mask and fit are there."""
        table, folder = self.annotations(group), (self.root / group).parent
        cameras, wrong = self.cameras(group, len(table["K"])), {}
        for frame in range(0, len(table["ims"]), max(1, self.option("every"))):
            for camera in cameras:
                image = table["ims"][frame][camera]
                problem, number = self.problem(folder, image), number_of(image, folder.name)
                if not problem and number not in wrong:
                    wrong[number] = problem_with(self.fit, folder, number)
                place = (group, frame, camera, image, number)
                yield Item(f"{folder.name}-{frame:05d}-{camera:02d}", place, problem or wrong[number])

    def cameras(self, group: str, count: int) -> list[int]:
        """Numbers of those that are wanted. SourceError for one that isn't there."""
        if self.option("cameras") == "all":
            return list(range(count))
        wanted = numbers_in(self.option("cameras"))
        if not all(0 <= camera < count for camera in wanted):
            raise differs(self.root / group, "cams", f"numbers under {count} in --cameras", self.option("cameras"))
        return wanted

    def annotations(self, group: str) -> dict:
        """Cameras as arrays, T in metres; and of each frame the cameras' pictures. SourceError."""
        path, sizes = self.root / group, {}
        table = read_npy(path)
        cameras = entry(table, path, "cams")
        found = {"K": expect(cameras, path, "K", ("C", 3, 3), sizes=sizes)}
        check_intrinsics(found["K"], path, "K")
        for key, size in (("D", 5), ("R", 9), ("T", 3)):
            found[key] = rows(entry(cameras, path, key), path, key, size, sizes["C"])
        found["R"] = found["R"].reshape(-1, 3, 3)
        check_rotation(found["R"], path, "R")
        checked(np.linalg.norm(found["T"], axis=1), path, "T's length", low=300, high=20_000, unit="millimetres")
        found["T"] = found["T"] / METRE
        frames = entry(table, path, "ims")
        lists = [entry(frame, path, "ims") for frame in (frames if isinstance(frames, list | tuple) else [frames])]
        found["ims"] = [names(pictures, path, sizes["C"]) for pictures in lists]
        return found

    def problem(self, folder: Path, image: str) -> str:
        """What of a picture's files is missing, "" for nothing."""
        number = number_of(image, folder.name)
        if number is None:
            return f"{folder.name}: ims: expected a number in the name of the picture {image!r}"
        masks = [mask_name(kind, image) for kind in MASKS]
        fits = [f"{kind}/{number}.npy" for kind, _ in FITS]
        for what, some in (("picture", [image]), ("mask", masks), ("fit", fits)):
            if not any((folder / name).is_file() for name in some):
                return f"{folder.name}: expected the {what} {' or '.join(some)}, found no such file"
        return ""

    def read(self, item: Item) -> list[Sample]:
        """A picture with its person."""
        group, frame, camera, image, number = item.place
        table, folder = self.once(group, self.annotations), (self.root / group).parent
        K, distortion = table["K"][camera], table["D"][camera]
        pixels = read_image(folder / image)
        size = pixels.shape[:2]
        check_intrinsics(K, self.root / group, f"K of {image}", size)
        K = to_course(K)
        mask = undistorted(self.mask(folder, image, size), K, distortion) > 0
        sample = Sample(scene=self.scene(folder), view=camera, frame=frame, alpha=soft(mask, self.option("border")))
        sample.image = image_field(undistorted(pixels, K, distortion))
        sample.K, sample.R = K.astype(np.float32), table["R"][camera].astype(np.float32)
        sample.t, sample.instances = table["T"][camera].astype(np.float32), mask.astype(np.uint8)
        sample.people = [self.person(folder, number, sample, mask)]
        return [sample]

    def scene(self, folder: Path) -> int:
        """The sequence's number, such as 313."""
        return int((re.findall(r"\d+", folder.name) or [0])[-1])

    def mask(self, folder: Path, image: str, size: tuple[int, int]) -> np.ndarray:
        """1 where somebody is."""
        path = next(folder / mask_name(kind, image) for kind in MASKS if (folder / mask_name(kind, image)).is_file())
        mask = (read_mask(path, size=size) > 0).astype(np.uint8)
        if not mask.any():
            raise differs(path, "the mask", "somebody", "nobody")
        return mask

    def person(self, folder: Path, number: int, sample: Sample, mask: np.ndarray) -> PersonLabel:
        """The label of who is in the frame."""
        fit = self.fit(folder, number)
        spots = project(fit["vertices"], sample)
        check_on(spots, mask, fit["path"])
        label = PersonLabel(folder.name, box=mask_box(mask), full_box=box_around(spots))
        label.pose, label.shape, label.vertices = fit["pose"], fit["shape"], fit["vertices"]
        if "joints" in fit:
            size = sample.image.shape[1:]
            label.keypoints = {"smpl24": points_field(project(fit["joints"], sample), size, fit["joints"])}
            label.translation = fit["translation"]
        return label

    def fit(self, folder: Path, number: int) -> dict:
        """pose (55, 3), shape (10,), vertices (V, 3) in the world; with a body joints and translation. SourceError."""
        kind, beside = next(pair for pair in FITS if (folder / pair[0] / f"{number}.npy").is_file())
        path, points = folder / kind / f"{number}.npy", folder / beside / f"{number}.npy"
        fit = read_fit(path)
        if points.is_file():
            fit["vertices"] = checked(read_npy(points), points, "vertices", ("V", 3), low=-20, high=20, unit="metres")
            check_people(fit["vertices"], points, "vertices")
        if self.option("bodies"):
            body = body_of(str(self.option("bodies")), "SMPL", "neutral")
            fit |= posed(body, fit, fit.get("vertices"), points, kind == "new_params")
        if "vertices" not in fit:
            raise differs(points, "vertices", "this file, or --bodies", "neither")
        return fit | {"path": path, "vertices": fit["vertices"].astype(np.float32)}


def rows(value, path: Path, key: str, size: int, count: int) -> np.ndarray:
    """A number of cameras' entries as (C, size), whether they are columns, rows or flat."""
    array = checked(value, path, key)
    if array.shape[:1] != (count,) or array.size != count * size:
        hint = "axes swapped?" if array.size == count * size else ""
        raise differs(path, key, f"{count} cameras with {size} numbers each", str(array.shape), hint)
    if size == 9 and array.shape[1:] != (3, 3):
        raise differs(path, key, f"({count}, 3, 3)", str(array.shape))
    return array.reshape(count, size)


def names(pictures, path: Path, cameras: int) -> list[str]:
    """The pictures' names of a frame, one a camera; cameras that have none at the end are of other sequences."""
    array = checked(pictures, path, "ims", ("N",), "U")
    if len(array) < cameras:
        raise differs(path, "ims", f"{cameras} pictures, one a camera", str(len(array)))
    found = [str(name) for name in array]
    if bad := [name for name in found if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise differs(path, "ims", "pictures in the sequence's folder", repr(bad[0]))
    return found


def number_of(image: str, sequence: str) -> int | None:
    """The number under which a picture's fit is stored; None for a name without it."""
    name = Path(image).stem
    if sequence in OLD:
        parts = Path(image).name.split("_")
        return int(parts[4]) if len(parts) > 4 and parts[4].isdecimal() else None
    return int(name) if name.isdecimal() else None


def mask_name(kind: str, image: str) -> str:
    """Where a picture's mask lies."""
    return f"{kind}/{Path(image).with_suffix('.png')}"


def soft(mask: np.ndarray, border: int) -> np.ndarray:
    """alpha (H, W): 1 on people, one half within `border` pixels of their edge."""
    alpha = mask.astype(np.float32)
    if border:
        square = np.ones((border, border), bool)
        alpha[binary_dilation(mask, square) & ~binary_erosion(mask, square)] = 0.5
    return alpha


def read_fit(path: Path) -> dict:
    """pose (55, 3) float32 whose root is Rh, poses (1, 24, 3), shape (10,), Rh and Th (3,) metres. SourceError."""
    table = read_npy(path)
    poses = expect(table, path, "poses", (1, 72), low=-4 * np.pi, high=4 * np.pi, unit="radians")
    shapes = expect(table, path, "shapes", (1, 10), low=-30, high=30)
    turn = expect(table, path, "Rh", (1, 3), low=-4 * np.pi, high=4 * np.pi, unit="radians")[0]
    move = expect(table, path, "Th", (1, 3), low=-20, high=20, unit="metres")[0]
    if np.abs(poses[0, :3]).max() > 1e-4:
        raise differs(path, "poses", "zeros for the root, whose turn is Rh", str(poses[0, :3].tolist()))
    pose = from_family(poses.reshape(1, 24, 3))
    pose[0, 0] = turn
    fit = {"pose": pose[0], "poses": poses.reshape(1, 24, 3), "shape": shapes[0].astype(np.float32)}
    return fit | {"Rh": turn, "Th": move}


def posed(body: FamilyBody, fit: dict, given: np.ndarray | None, where: Path, corrected: bool) -> dict:
    """joints (24, 3), vertices and the schema's translation. SMPL turned about the origin by Rh, then moved by Th.

    given: vertices to compare with; `corrected`: they were made with pose correctives, as those of new_params."""
    upright = from_family(fit["poses"])
    vertices, joints = body.posed(fit["shape"][None], upright)
    R = Rotation.from_rotvec(fit["Rh"]).as_matrix()
    moved = {"vertices": vertices[0] @ R.T + fit["Th"], "joints": joints[0] @ R.T + fit["Th"]}
    if given is not None and given.shape != moved["vertices"].shape:
        raise differs(where, "vertices", str(moved["vertices"].shape), str(given.shape))
    if given is not None and corrected:
        apart = float(np.linalg.norm(moved["vertices"] - given, axis=1).max())
        checked(apart, where, "metres from the posed body", (), high=APART)
    pelvis = body.rest_pelvis(fit["shape"][None])[0]
    moved["translation"] = R @ pelvis - pelvis + fit["Th"]
    found = {name: values.astype(np.float32) for name, values in moved.items()}
    return found if given is None else found | {"vertices": given}


def check_on(spots: np.ndarray, mask: np.ndarray, path: Path) -> None:
    """Raises a SourceError unless most of the body's vertices in the picture lie on its mask."""
    near = binary_dilation(mask, iterations=3)
    x, y = np.floor(np.where(np.isfinite(spots), spots, -1)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    found = float(near[y[inside], x[inside]].mean()) if inside.any() else 0.0
    if found < INSIDE:
        hint = "do camera, fit and mask belong together? Is T in millimetres?"
        raise differs(path, "vertices", f"{INSIDE:.0%} of them on the mask", f"{found:.0%}", hint)


if __name__ == "__main__":
    sys.exit(main(ZJUMoCap))

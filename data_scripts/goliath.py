"""Goliath (Codec Avatar Studio): the pictures that DAViD evaluates depth and normals on -> shards.

`python data_scripts/goliath.py --root R --out O --subset face`. Which cameras and frames: goliath_table8.csv, DAViD's
Table 8. Some of its numbers are garbled in the text that we have: they are marked, and the script asks for them.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from course_lib.chapters.cameras import Camera
from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.checks import (
    SourceError,
    check_intrinsics,
    check_rotation,
    checked,
    differs,
    entry,
    shown,
)
from course_lib.real.convert import main
from course_lib.real.labels import box_around, image_field, mask_box
from course_lib.real.lens import to_course
from course_lib.real.overlay import project
from course_lib.real.safe import BROKEN, open_zip, problem_with, read_image, read_json, read_mask, unreadable
from course_lib.real.scans import Scan, checked_scan, picture_of, read_ply
from course_lib.real.source import Item, Source

TABLE = Path(__file__).with_name("goliath_table8.csv")
SUBSETS = {"face": "head", "upper": "body", "full": "body"}  # subset -> the kind of capture, in its folder's name
FULL = (4096, 2668)  # height, width that K is for; the released pictures are half as high
METRE = 1000.0  # millimetres
TALL = (150.0, 2600.0)  # millimetres: a scan's largest extent
INSIDE = 0.8  # share of the scan's silhouette that lies on the mask, at least


class Goliath(Source):
    """Four subjects of Codec Avatar Studio, on the cameras and frames of DAViD's Table 8."""

    name, title = "goliath", "Goliath (Codec Avatar Studio), the 2,272 pictures of DAViD's Table 8"
    licence = "CC BY-NC 4.0"
    register = "github.com/facebookresearch/goliath (by e-mail)"
    download = (
        "the relightable head and the clothed body captures of AXE977, QZX685, XKT970 and QVC422:",
        "camera_calibration.json, image/ of the cameras in the table, scan_mesh/, segmentation_fgbg/",
    )
    layout = """
        ...SUBJECT...Head..., ...SUBJECT...Body...     captures, in any folders under the root; each holds
            camera_calibration.json
            image/camNNNNNN.zip                 with camNNNNNN/FFFFFF.avif
            segmentation_fgbg/camNNNNNN.zip     with camNNNNNN/FFFFFF.png
            scan_mesh/scan_mesh.zip             with FFFFFF.ply
    """
    pattern = "**/camera_calibration.json"
    corrections = (
        "K and T are stored transposed; T is in millimetres: it becomes metres, and so do the scans",
        "K is for pictures of 4096 x 2668, pixel centres at integers: it is brought to the picture's size",
        "camera 401650 has no calibration for XKT970 and 401962 none for QZX685 (face): 736 + 768 + 768 pictures",
        "DAViD's own depth of this set is in decimetres; ours in metres",
    )
    options = {
        "subset": {"choices": (*SUBSETS, "all"), "default": "all", "help": "of Table 8 (all)"},
        "subjects": {"default": "all", "help": "some of them, such as AXE977,QZX685 (all)"},
        "table": {"type": Path, "default": TABLE, "help": "a copy of goliath_table8.csv with what was garbled"},
        "height": {"type": int, "default": 1024, "help": "pixels (1024, by 667)"},
        "only": {"default": "", "help": "a part of the captures' paths, where there are more than one of a kind"},
    }
    per_shard = 120

    def groups(self) -> list[tuple[str, str, str]]:
        """subset, subject and calibration file, of all that Table 8 names. SourceError for a capture that is not there,
        for two of a kind, and for numbers that are garbled."""
        files = super().groups()
        found = []
        for subset, subject in self.wanted():
            kind = SUBSETS[subset]
            mine = [f for f in files if subject in f and kind in f.lower() and self.option("only") in f]
            if len(mine) != 1:
                hint = "--only chooses by a part of the path" if mine else "--subset and --subjects leave some out"
                what = f"one {kind} capture of {subject}"
                raise differs(self.root, "captures", what, ", ".join(map(shown, mine)) or "none", hint)
            found.append((subset, subject, mine[0]))
        return found

    def wanted(self) -> list[tuple[str, str]]:
        """(subset, subject) as the options say. SourceError where a number that they need is garbled."""
        table = read_table(self.option("table"))
        subjects = sorted({row["subject"] for row in table if row["kind"] == "frame"})
        if self.option("subjects") != "all":
            given = self.option("subjects").split(",")
            if unknown := [subject for subject in given if subject not in subjects]:
                raise differs(self.option("table"), "subject", ", ".join(subjects), unknown[0])
            subjects = given
        subsets = list(SUBSETS) if self.option("subset") == "all" else [self.option("subset")]
        pairs = [(subset, subject) for subset in subsets for subject in subjects]
        check_sure(table, pairs, self.option("table"))
        return pairs

    def items(self, group: tuple[str, str, str]) -> Iterator[Item]:
        """The pictures of a subject in a subset."""
        subset, subject, file = group
        cameras, folder = self.calibration(file), (self.root / file).parent
        table = read_table(self.option("table"))
        frames = numbers(table, subset, "frame", subject)
        scans, wrong = members(folder / "scan_mesh/scan_mesh.zip"), {}
        for camera in numbers(table, subset, "camera"):
            if camera in numbers(table, subset, "missing", subject):
                continue
            images = members(image_file(folder, camera)) if image_file(folder, camera).is_file() else set()
            for frame in frames:
                problem = ""
                if camera not in cameras:
                    problem = f"{shown(file)}: cameraId: expected {camera}, which Table 8 has, found no such camera"
                elif f"cam{camera}/{frame:06d}.avif" not in images:
                    problem = f"{shown(file)}: expected image/cam{camera}.zip with {frame:06d}.avif, found none"
                elif f"{frame:06d}.ply" not in scans:
                    problem = f"{shown(file)}: expected scan_mesh/scan_mesh.zip with {frame:06d}.ply, found none"
                elif frame not in wrong:
                    wrong[frame] = problem_with(self.scan, folder, frame)
                key = f"{subject}-{subset}-{camera}-{frame:06d}"
                yield Item(key, (subset, subject, file, camera, frame), problem or wrong[frame])

    def calibration(self, file: str) -> dict[int, dict[str, np.ndarray]]:
        """Camera -> K (3, 3) for pictures of FULL, R (3, 3), t (3,) metres. SourceError."""
        path, found = self.root / file, {}
        rows = entry(read_json(path), path, "KRT")
        for row in rows if isinstance(rows, list) else [rows]:
            name = str(entry(row, path, "cameraId"))
            where = f"{shown(path)}, camera {name}"
            K = checked(entry(row, where, "K"), where, "K", (3, 3)).T
            check_intrinsics(K, where, "K (after it is transposed)", FULL)
            T = checked(entry(row, where, "T"), where, "T", (4, 4)).T
            if np.abs(T[3] - (0, 0, 0, 1)).max() > 1e-6:
                raise differs(where, "T", "0 0 0 1 as its last column", str(T[3].tolist()), "not stored transposed?")
            check_rotation(T[:3, :3], where, "T")
            far = np.linalg.norm(T[:3, 3])
            checked(far, where, "T's length", (), low=200, high=20_000, unit="millimetres")
            found[int(name) if name.isdecimal() else -1] = {"K": K, "R": T[:3, :3], "t": T[:3, 3] / METRE}
        return found

    def scan(self, folder: Path, frame: int) -> Scan:
        """A scan in metres."""
        path, name = folder / "scan_mesh/scan_mesh.zip", f"{frame:06d}.ply"
        where = f"{shown(path)}: {name}"
        scan = checked_scan(read_ply(member(path, name), where), where, TALL, "millimetres")
        return Scan(scan.vertices / np.float32(METRE), scan.faces)

    def read(self, item: Item) -> list[Sample]:
        """A picture with depth and normals of the scan."""
        subset, subject, file, camera, frame = item.place
        folder, view = (self.root / file).parent, self.once(file, self.calibration)[camera]
        size = (self.option("height"), round(self.option("height") * FULL[1] / FULL[0]))
        where = f"{shown(image_file(folder, camera))}: {frame:06d}.avif"
        pixels = read_picture(member(image_file(folder, camera), f"cam{camera}/{frame:06d}.avif"), where)
        sample = Sample(source=f"{self.name}/{subset}", view=camera, frame=frame, scene=subject_number(subject))
        sample.image = image_field(resized(pixels, size, Image.Resampling.BOX))
        factor = np.diag([size[1] / FULL[1], size[0] / FULL[0], 1])
        sample.K = (factor @ to_course(view["K"])).astype(np.float32)
        sample.R, sample.t = view["R"].astype(np.float32), view["t"].astype(np.float32)
        scan = self.scan(folder, frame)
        one = (torch.from_numpy(getattr(sample, name))[None] for name in ("K", "R", "t"))
        found = picture_of(scan, None, Camera(*one), size)
        sample.depth, sample.normals, sample.alpha = (found[name] for name in ("depth", "normals", "alpha"))
        self.masked(sample, folder, camera, frame)
        box = mask_box(sample.instances > 0)
        sample.people = [PersonLabel(subject, box=box, full_box=box_around(project(scan.vertices, sample)))]
        return [sample]

    def masked(self, sample: Sample, folder: Path, camera: int, frame: int) -> None:
        """Alpha of the segmentation, if it is there, else of the scan, and instances of the scan: the overlay shows its
        outline. SourceError where the scan isn't on the mask, or not in the picture."""
        path, name = folder / f"segmentation_fgbg/cam{camera}.zip", f"cam{camera}/{frame:06d}.png"
        where = f"{shown(path)}: {name}"
        drawn = sample.alpha >= 0.5
        if not drawn.any():
            raise differs(where, "the scan", "something of it in the picture", "nothing", "K or T of another capture?")
        if path.is_file() and name in members(path):
            mask = resized(read_mask(member(path, name), where), drawn.shape, Image.Resampling.NEAREST) > 0
            inside = float(mask[drawn].mean())
            if inside < INSIDE:
                hint = "do scan and camera belong together?"
                raise differs(where, "the mask", f"{INSIDE:.0%} of the scan on it", f"{inside:.0%}", hint)
            sample.alpha = mask.astype(np.float32)
        sample.instances = drawn.astype(np.uint8)


def read_table(path: Path) -> list[dict[str, str]]:
    """Table 8's rows: subset, subject, kind (camera, frame, missing), place, id, sure, note. SourceError."""
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    needed = {"subset", "subject", "kind", "id", "sure", "note"}
    if not rows or not needed <= rows[0].keys():
        raise differs(path, "columns", ", ".join(sorted(needed)), ", ".join(rows[0]) if rows else "no row")
    return rows


def rows_of(table: list[dict], subset: str, kind: str, subject: str = "") -> list[dict]:
    """The rows of a kind, and of a subject."""
    return [row for row in table if (row["subset"], row["kind"], row["subject"]) == (subset, kind, subject)]


def numbers(table: list[dict], subset: str, kind: str, subject: str = "") -> list[int]:
    """Their cameras or frames."""
    return [int(row["id"]) for row in rows_of(table, subset, kind, subject)]


def check_sure(table: list[dict], pairs: list[tuple[str, str]], path: Path) -> None:
    """Raises a SourceError that asks for all numbers that are garbled and needed."""
    asked = [row for subset in dict(pairs) for row in rows_of(table, subset, "camera")]
    asked += [row for subset, subject in pairs for row in rows_of(table, subset, "frame", subject)]
    unsure = [row for row in asked if row["sure"] != "yes" or not row["id"].isdecimal()]
    if unsure:
        names = [
            f"  {row['subset']} {row['subject']} {row['kind']} {row.get('place', '')}: {row['id']} ({row['note']})"
            for row in unsure
        ]
        raise SourceError(
            f"{shown(path)}: {len(unsure)} numbers of DAViD's Table 8 are garbled in the text that we have. Look them "
            "up in the paper (its supplement, B.7), write them with sure=yes in a copy, and name that with --table:\n"
            + "\n".join(names)
        )


def subject_number(subject: str) -> int:
    """The three digits of a subject's name."""
    return int("".join(letter for letter in subject if letter.isdecimal()) or 0)


def image_file(folder: Path, camera: int) -> Path:
    """The archive with a camera's pictures."""
    return folder / f"image/cam{camera}.zip"


def members(path: Path) -> set[str]:
    """The names in an archive. SourceError where it is missing or damaged."""
    with open_zip(path) as archive:
        return set(archive.namelist())


def member(path: Path, name: str) -> bytes:
    """A file in an archive. SourceError where it is missing or damaged."""
    with open_zip(path) as archive:
        try:
            return archive.read(name)
        except BROKEN as error:
            raise unreadable(f"{shown(path)}: {name}", error) from error


def read_picture(content: bytes, where: str) -> np.ndarray:
    """An AVIF picture (H, W, 3) of FULL's shape. SourceError."""
    if not features.check("avif"):
        raise SourceError(f"{where}: this Pillow can't read AVIF: install Pillow 11.3 or later")
    pixels = read_image(content, where)
    if abs(pixels.shape[1] / pixels.shape[0] * FULL[0] / FULL[1] - 1) > 0.01:
        hint = "turned by 90 degrees?" if pixels.shape[0] < pixels.shape[1] else ""
        raise differs(where, "the picture", f"the shape of {FULL[1]} x {FULL[0]}", f"{pixels.shape[1::-1]}", hint)
    return pixels


def resized(pixels: np.ndarray, size: tuple[int, int], way: Image.Resampling) -> np.ndarray:
    """A picture at `size` (height, width)."""
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], way))


if __name__ == "__main__":
    sys.exit(main(Goliath))

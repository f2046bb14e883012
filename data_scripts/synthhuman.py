"""SynthHuman, DAViD's synthetic training set -> shards. `python data_scripts/synthhuman.py --root R --out O`

Chapters can read the release as it is, too (`course_lib.data.synthhuman.SynthHuman`); shards are what streams read.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from course_lib.chapters.david_data import axes_agreement
from course_lib.data.schema import PersonLabel, Sample
from course_lib.data.synthhuman import (
    ENDINGS,
    FILE,
    FRAMINGS,
    MOST,
    ReleaseError,
    check_exr,
    framing_of,
    path_of,
    read_sample,
)
from course_lib.real.checks import SourceError, check_intrinsics, checked, differs
from course_lib.real.convert import main
from course_lib.real.labels import mask_box
from course_lib.real.safe import opened, problem_with, read_image, read_mask
from course_lib.real.source import Item, Source

CHUNK = 200  # samples that are looked at together
TURNED = -0.5  # a correlation of the file's normals with those of its depth: below, an axis points the other way


class SynthHumanRelease(Source):
    """Rendered people with soft alpha, depth and normals."""

    name, title = "synthhuman", "SynthHuman (DAViD): 298,008 renders of 512 x 384 pixels"
    licence = "CDLA-Permissive-2.0: any use, also commercial; the licence text goes with the data"
    register = "nowhere; github.com/microsoft/DAViD says how to download"
    download = ("SynthHuman's archives: face, full body and upper body; any part of them will do",)
    layout = """
        rgb_0000000.png, alpha_0000000.png, depth_0000000.exr, normal_0000000.exr, cam_0000000.txt, ...
        the five files of a sample beside each other, in the root or a folder in it
    """
    pattern = "rgb_*.png"
    corrections = (
        "depth is in centimetres, 65504 where there is nobody: it becomes metres, and infinity",
        "normals: an axis that points against those of the depth sets the sample aside, see --flip",
    )
    options = {
        "framing": {"choices": (*FRAMINGS, "all"), "default": "all", "help": "by the release's own numbers (all)"},
        "flip": {"choices": ("", "x", "y", "z", "yz"), "default": "", "help": "axes of its normals to turn round"},
    }

    def groups(self) -> list[tuple[str, tuple[int, ...]]]:
        """Samples in chunks: their folder, and their numbers; those of which some file is there."""
        folders = [self.root, *(path for path in sorted(self.root.iterdir()) if path.is_dir())]
        found: list[tuple[str, tuple[int, ...]]] = []
        for folder in folders:
            names = (FILE.fullmatch(entry.name) for entry in os.scandir(folder))
            numbers = sorted({int(match[2]) for match in names if match and self.wanted(int(match[2]))})
            name = str(folder.relative_to(self.root))
            found += [(name, tuple(numbers[at : at + CHUNK])) for at in range(0, len(numbers), CHUNK)]
        return self.some(found)

    def wanted(self, index: int) -> bool:
        """Whether a number is of the release, and of the framing."""
        names = FRAMINGS if self.option("framing") == "all" else (self.option("framing"),)
        return any(index in FRAMINGS[name] for name in names)

    def items(self, group: tuple[str, tuple[int, ...]]) -> Iterator[Item]:
        """The samples of a chunk. Of the first all is read, of the others the files' beginnings; if the first is bad,
        all of them are read."""
        folder, numbers = group
        bad = self.problem(folder, numbers[0], whole=True)
        for index in numbers:
            yield Item(f"{index:07d}", (folder, index), self.problem(folder, index, bool(bad)))

    def problem(self, folder: str, index: int, whole: bool) -> str:
        """What is wrong with a sample, "" for nothing. whole: its pixels are looked at too."""
        if whole:
            return problem_with(self.sample, folder, index)
        return problem_with(check_files, self.root / folder, index)

    def read(self, item: Item) -> list[Sample]:
        """A sample."""
        return [self.sample(*item.place)]

    def sample(self, folder: str, index: int) -> Sample:
        """A sample, all of whose files are checked."""
        path = self.root / folder
        check_files(path, index)
        for name, read in (("rgb", read_image), ("alpha", read_mask)):
            read(path_of(path, name, index))
        signs = tuple(-1 if axis in self.option("flip") else 1 for axis in "xyz")
        try:
            sample = read_sample(path, index, signs)
        except ReleaseError as error:
            raise SourceError(str(error)) from error
        check_sample(sample, path, index)
        box = mask_box(sample.alpha >= 0.5)
        sample.place = framing_of(index)
        sample.people = [PersonLabel(f"synthhuman-{index:07d}", box=box)] if box.any() else []
        sample.instances = (sample.alpha >= 0.5).astype(np.uint8) if box.any() else None
        return sample


def check_files(folder: Path, index: int) -> None:
    """Raises a SourceError for a file that is too large, empty, or begins otherwise than its kind; for a bomb."""
    for name, ending in ENDINGS.items():
        path = path_of(folder, name, index)
        with opened(path, MOST if ending != "txt" else 10_000) as stream:
            begin = stream.read(4096)
        if ending == "exr":
            try:
                check_exr(path, begin)
            except ReleaseError as error:
                raise SourceError(str(error)) from error


def check_sample(sample: Sample, folder: Path, index: int) -> None:
    """Raises a SourceError unless units, camera and axes are as they should be."""
    check_intrinsics(sample.K, path_of(folder, "cam", index), "K", sample.image.shape[1:])
    known = sample.depth[np.isfinite(sample.depth)]
    if known.size:
        middle = 100 * float(np.median(known))
        path = path_of(folder, "depth", index)
        if not 15 <= middle <= 3000:
            hint = "they look like metres" if 0.15 <= middle <= 15 else "they look like millimetres"
            raise differs(path, "depth", "15 to 3000 centimetres", f"{middle:.4g}", hint)
    checked(np.abs(sample.normals).max(initial=0), path_of(folder, "normal", index), "normals", (), high=1.01)
    try:
        agreement = np.diag(axes_agreement({"depth": sample.depth, "K": sample.K, "normals": sample.normals}))
    except ValueError:
        return  # hardly anybody is in the picture
    for axis, value in zip("xyz", agreement, strict=True):
        if value < TURNED:
            hint = f"--flip {axis} turns it round"
            path = path_of(folder, "normal", index)
            raise differs(path, f"the normals' {axis}", "the sign that its depth has", f"{value:.2f} together", hint)


if __name__ == "__main__":
    sys.exit(main(SynthHumanRelease))

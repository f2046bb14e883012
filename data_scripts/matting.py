"""P3M-10k, PPM-100 and PhotoMatte85: photographs with alpha -> shards. `python data_scripts/matting.py --set ppm`

DAViD's Table 3 and its supplement evaluate on all three. PhotoMatte85 has people without a background: each is put on
one from --backgrounds, drawn by a fixed seed, since the paper doesn't say which they used. Which, says report's items.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from course_lib.data.schema import PersonLabel, Sample
from course_lib.files import text_hash
from course_lib.real.checks import differs, shown
from course_lib.real.convert import main
from course_lib.real.labels import image_field, mask_box
from course_lib.real.safe import BROKEN, open_image, problem_with, read_image, read_mask, unreadable
from course_lib.real.source import Item, Source

# set -> (folder of the pictures, folder of the mattes), the first pair that is there
FOLDERS = {
    "p3m-train": (("train/blurred_image", "train/mask"),),
    "p3m-p": (("validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask"),),
    "p3m-np": (("validation/P3M-500-NP/original_image", "validation/P3M-500-NP/mask"),),
    "ppm": (("val/fg", "val/alpha"), ("image", "matte"), ("val/image", "val/matte")),
    "photomatte": ((".", ""),),
}
PICTURES = (".jpg", ".jpeg", ".png")
CHUNK = 100
SOMEBODY = (0.002, 0.998)  # the share of a picture that people may fill


class Matting(Source):
    """One of three data sets, by --set."""

    name, title = "matting", "P3M-10k, PPM-100 and PhotoMatte85: portraits with alpha mattes"
    licence = (
        "P3M-10k: its own agreement; PPM-100: CC BY-NC-SA; PhotoMatte85: research; faces in P3M's train are blurred"
    )
    register = "github.com/JizhiziLi/P3M, github.com/ZHKKKe/PPM, grail.cs.washington.edu/projects/background-matting-v2"
    download = (
        "P3M-10k.zip",
        "PPM-100.zip",
        "PhotoMatte85.zip",
        "for PhotoMatte85: any pictures without people (COCO)",
    )
    layout = """
        P3M-10k:       train/{blurred_image,mask}, validation/P3M-500-P/{blurred_image,mask},
                       validation/P3M-500-NP/{original_image,mask}
        PPM-100:       val/{fg,alpha}, or image and matte
        PhotoMatte85:  NAME.png with four channels, in the root or a folder in it
    """
    pattern = "pictures and mattes of the set (--set)"
    corrections = (
        "a matte is 0 to 255, of one channel or three equal ones: it becomes 0 to 1",
        "PhotoMatte85 is put on backgrounds that are drawn by a fixed seed: results depend on them",
        "PPM-100's authors have replaced some pictures: its numbers are not exactly those of older papers",
    )
    options = {
        "set": {"choices": tuple(FOLDERS), "default": "p3m-np", "help": "which of them (p3m-np)"},
        "backgrounds": {"type": Path, "default": None, "help": "PhotoMatte85: a folder of pictures without people"},
        "seed": {"type": int, "default": 0, "help": "PhotoMatte85: of the drawn backgrounds (0)"},
        "per_person": {"type": int, "default": 1, "help": "PhotoMatte85: backgrounds for each person (1)"},
    }
    per_shard = 50

    def groups(self) -> list[tuple[int, tuple[tuple[str, str], ...]]]:
        """(picture, matte) in chunks, with the number of the first; the matte is "" where the picture holds it."""
        pairs = self.pairs()
        return self.some([(at, tuple(pairs[at : at + CHUNK])) for at in range(0, len(pairs), CHUNK)])

    def pairs(self) -> list[tuple[str, str]]:
        """Of all pictures, sorted."""
        for images, mattes in FOLDERS[self.option("set")]:
            if mattes == "":
                found = sorted(p for p in self.root.rglob("*.png") if not p.name.startswith("."))
                return [(str(path.relative_to(self.root)), "") for path in found]
            if (self.root / images).is_dir():
                files = sorted(p for p in (self.root / images).iterdir() if p.suffix.lower() in PICTURES)
                return [(f"{images}/{path.name}", f"{mattes}/{path.stem}") for path in files]
        return []

    def backgrounds(self) -> list[Path]:
        """All that may lie behind somebody, sorted by name. SourceError where there are none."""
        folder = self.option("backgrounds")
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES) if folder else []
        if not found:
            where = shown(folder) if folder else "--backgrounds"
            raise differs(where, "pictures without people", "a folder of them, for PhotoMatte85", "none")
        return found

    def items(self, group: tuple[int, tuple[tuple[str, str], ...]]) -> Iterator[Item]:
        """A picture each, or as many as it gets backgrounds."""
        first, pairs = group
        composed = self.option("set") == "photomatte"
        behind = self.once("backgrounds", lambda _: self.backgrounds()) if composed else []
        for number, (image, matte) in enumerate(pairs, start=first):
            matte, problem = self.checked_pair(image, matte)
            for copy in range(max(1, self.option("per_person")) if composed else 1):
                chosen = str(behind[self.drawn(number, copy, len(behind))]) if composed else ""
                key = f"{Path(image).stem}-{copy}" if composed and self.option("per_person") > 1 else Path(image).stem
                yield Item(key, (image, matte, chosen, number), problem)

    def drawn(self, number: int, copy: int, count: int) -> int:
        """Which background: the same for the same seed, whatever else is in the folder of people."""
        seed = [self.option("seed"), number, copy]
        return int(np.random.default_rng(seed).integers(count))

    def checked_pair(self, image: str, matte: str) -> tuple[str, str]:
        """The matte's path with its ending, and what is wrong with the pair, "" for nothing."""
        if matte:
            found = [m for m in (f"{matte}{ending}" for ending in PICTURES) if (self.root / m).is_file()]
            if not found:
                return matte, str(differs(f"{matte}.png", "the file", "the matte of a picture", "no such file"))
            matte = found[0]
        return matte, problem_with(self.alpha, image, matte)

    def alpha(self, image: str, matte: str) -> np.ndarray:
        """The matte (H, W) float32 of a picture, or its fourth channel. SourceError unless somebody is in it."""
        if matte:
            with open_image(self.root / image) as opened:
                size = opened.size[::-1]
            alpha = read_alpha(self.root / matte, size)
        else:
            alpha = read_four(self.root / image)[..., 3] / 255
        share = float((alpha > 0.5).mean())
        if not SOMEBODY[0] <= share <= SOMEBODY[1]:
            expected, hint = f"people on {SOMEBODY[0]:.1%} to {SOMEBODY[1]:.1%} of it", "0 to 1 for 0 to 255?"
            raise differs(self.root / (matte or image), "alpha", expected, f"{share:.1%}", hint)
        return alpha

    def read(self, item: Item) -> list[Sample]:
        """A picture with its matte."""
        image, matte, background, number = item.place
        alpha = self.alpha(image, matte)
        if background:
            pixels = composed(read_four(self.root / image), read_image(background))
        else:
            pixels = read_image(self.root / image, size=alpha.shape)
        instances = (alpha >= 0.5).astype(np.uint8)
        person = PersonLabel(f"{self.option('set')}-{Path(image).stem}", box=mask_box(instances > 0))
        place = f"background {text_hash(Path(background).name, 8)}" if background else ""
        fields = {"image": image_field(pixels), "alpha": alpha, "instances": instances, "people": [person]}
        return [Sample(source=f"{self.name}/{self.option('set')}", scene=number, place=place, **fields)]


def read_four(path: Path) -> np.ndarray:
    """A picture with its fourth channel (H, W, 4) float32, 0 to 255. SourceError for one without."""
    with open_image(path) as opened:
        if opened.mode != "RGBA":
            raise differs(path, "channels", "RGBA: the matte is the fourth", opened.mode)
        try:
            return np.asarray(opened, np.float32)
        except BROKEN as error:
            raise unreadable(path, error) from error


def composed(person: np.ndarray, background: np.ndarray) -> np.ndarray:
    """alpha F + (1 - alpha) B as uint8: person (H, W, 4), background (h, w, 3), which is cut to the person's shape."""
    alpha = person[..., 3:] / 255
    return np.round(alpha * person[..., :3] + (1 - alpha) * filled(background, person.shape[:2])).astype(np.uint8)


def read_alpha(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A matte (H, W) float32 in [0, 1]. SourceError for one of another size, or of three channels that differ."""
    with open_image(path) as opened:
        coloured = opened.mode in ("RGB", "RGBA")
    if not coloured:
        return read_mask(path, size=size).astype(np.float32) / 255
    values = read_image(path, size=size)
    spread = int(np.ptp(values.astype(int), axis=2).max())
    if spread > 4:  # JPEG's own differences
        raise differs(path, "channels", "grey values", f"colours that differ by {spread}")
    return values[..., 1].astype(np.float32) / 255


def filled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture (h, w, 3), scaled so that it just fills `size` (height, width)."""
    factor = max(size[0] / picture.shape[0], size[1] / picture.shape[1])
    height, width = (max(s, round(n * factor)) for s, n in zip(size, picture.shape, strict=False))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    scaled = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(scaled)[top : top + size[0], left : left + size[1]]


if __name__ == "__main__":
    sys.exit(main(Matting))

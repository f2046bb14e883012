"""A folder of photographs, whatever is in it -> an unlabelled pool, like the one that Sapiens curates (§3.1).

`python data_scripts/photographs.py --root R --out O`
"""

import os
import sys
from collections.abc import Iterator

from course_lib.data.schema import Sample
from course_lib.real.checks import SourceError, shown
from course_lib.real.convert import main
from course_lib.real.labels import image_field
from course_lib.real.safe import UnsafeFile, open_image, read_image
from course_lib.real.source import Item, Source

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
CHUNK = 256  # pictures that are looked at together


class Photographs(Source):
    """All pictures under the root, in any folders."""

    name, title = "photographs", "A plain folder of photographs"
    licence = "whatever the photographers granted you; people who can be recognised have a say too"
    register = "nowhere: they are your own"
    download = ("nothing; Sapiens' own pool of 300 million pictures was never released",)
    layout = f"any folders with pictures ({', '.join(sorted(ENDINGS))})"
    pattern = "*.jpg and the like"
    corrections = (
        "pictures are turned upright as the camera noted; grey ones become RGB; of moving ones the first is taken",
        "hidden files and folders (.thumbnails) are left out",
    )
    options = {
        "smallest": {"type": int, "default": 64, "help": "pixels of the shorter side; smaller ones are set aside"}
    }

    def groups(self) -> list[tuple[int, tuple[str, ...]]]:
        """Pictures' paths under the root, sorted, in chunks: the number of the first, and the paths."""
        paths = sorted(self.paths())
        return self.some([(at, tuple(paths[at : at + CHUNK])) for at in range(0, len(paths), CHUNK)])

    def paths(self) -> Iterator[str]:
        """Paths of all pictures."""
        for folder, below, files in os.walk(self.root):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in files:
                if os.path.splitext(name)[1].lower() in ENDINGS and not name.startswith("."):
                    yield os.path.relpath(os.path.join(folder, name), self.root)

    def items(self, group: tuple[int, tuple[str, ...]]) -> Iterator[Item]:
        """The pictures of a chunk; their sizes are looked at."""
        first, paths = group
        for number, path in enumerate(paths, start=first):
            yield Item(path, (path, number), self.problem(path))

    def problem(self, path: str) -> str:
        """What is wrong with a picture, "" for nothing. One that is far too large is set aside like others: a pool
        from the web holds all kinds."""
        try:
            with open_image(self.root / path) as image:
                side, smallest = min(image.size), self.option("smallest")
        except (SourceError, UnsafeFile) as error:
            return str(error)
        return "" if side >= smallest else f"{shown(path)}: expected {smallest} pixels or more, found {side}"

    def read(self, item: Item) -> list[Sample]:
        """One picture without labels."""
        path, number = item.place
        return [Sample(scene=number, image=image_field(read_image(self.root / path, upright=True)))]


if __name__ == "__main__":
    sys.exit(main(Photographs))

"""The rendered data sets that chapters train and test on: made once, kept in the data folder, read from there.

A data script (`data_scripts/`) may have put real shards under the name of a rendered set: then chapters take those.
"""

import time
from collections.abc import Callable
from pathlib import Path

from course_lib.data.make import InUse, make
from course_lib.data.shards import MANIFEST, Samples, ShardError, read_manifest
from course_lib.paths import data_dir
from course_lib.scale import scale

PATIENCE = 2.0  # seconds that another process is waited for before that is said


def rendered(
    world: str, count: int, size: int, split: str = "train", formats: tuple[str, ...] = ("coco17",), **options
) -> Path:
    """The folder of the first `count` pictures of a world's split, rendered where it is not there yet.

    formats, options (seed, views, ...): as `course_lib.data.make.make` takes them. Whatever the pictures depend on is
    in the folder's name; a set that was left unfinished is continued, one that another process makes is waited for."""
    small = scale() == "smoke"
    said = [f"{name}{value}" for name, value in options.items() if (name, value) != ("seed", 0)]
    folder = data_dir() / "-".join([world, split, *said, *formats, str(size), str(count)])
    if is_real(folder):
        return folder
    workers = 0 if small else 2
    return when_free(
        lambda: make(world, count, folder, size, workers, split=split, formats=formats, progress=not small, **options)
    )


def when_free(make_it: Callable[[], Path]) -> Path:
    """What `make_it` returns, once no other process (a second notebook, say) is at work in its folder."""
    start, told = time.monotonic(), False
    while True:
        try:
            return make_it()
        except InUse as error:
            if not told and time.monotonic() - start > PATIENCE:
                print(f"waiting, since {error}", flush=True)
                told = True
            time.sleep(0.1)


def is_real(folder: Path) -> bool:
    """Whether a data script has filled this folder. ShardError where it was not finished."""
    if not (folder / MANIFEST).exists() or (manifest := read_manifest(folder))["settings"].get("split") != "real":
        return False
    if not manifest["complete"]:
        raise ShardError(f"{folder} is not complete: run the data script that fills it again")
    return True


def people_samples(
    world: str,
    count: int,
    size: int,
    split: str = "train",
    formats: tuple[str, ...] = ("coco17",),
    only=None,
    **options,
) -> Samples:
    """The same as samples to index: `only` names the picture fields to decode, all if None."""
    return Samples(rendered(world, count, size, split, formats, **options), only=only)

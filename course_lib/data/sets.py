"""The rendered data sets that chapters train and test on: made once, kept in the data folder, read from there.

A data script (`data_scripts/`) may have put real shards under the name of a rendered set: then chapters take those.
"""

from pathlib import Path

from course_lib.data.make import make
from course_lib.data.shards import MANIFEST, Samples, ShardError, read_manifest
from course_lib.paths import data_dir
from course_lib.scale import scale


def rendered(
    world: str, count: int, size: int, split: str = "train", formats: tuple[str, ...] = ("coco17",), **options
) -> Path:
    """The folder of the first `count` pictures of a world's split, rendered where it is not there yet.

    formats, options (seed, views, ...): as `course_lib.data.make.make` takes them. Whatever the pictures depend on is
    in the folder's name; a set that was left unfinished is continued."""
    small = scale() == "smoke"
    said = [f"{name}{value}" for name, value in options.items() if (name, value) != ("seed", 0)]
    folder = data_dir() / "-".join([world, split, *said, *formats, str(size), str(count)])
    if is_real(folder):
        return folder
    return make(
        world, count, folder, size, 0 if small else 2, split=split, formats=formats, progress=not small, **options
    )


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

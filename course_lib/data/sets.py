"""The rendered data sets that chapters train and test on: made once, kept in the data folder, read from there."""

from pathlib import Path

from course_lib.data.make import make
from course_lib.data.shards import Samples
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
    return make(
        world, count, folder, size, 0 if small else 2, split=split, formats=formats, progress=not small, **options
    )


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

"""What a data script says about its source: how one gets it, what is in its folder, how an item of it is read."""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from course_lib.data.schema import Sample
from course_lib.real.checks import SourceError, shown

Record = dict[str, np.ndarray]  # of a table: arrays of equal length, a row each


class Item(NamedTuple):
    """What one call of `Source.read` reads, such as a frame with all its people, or a whole motion.

    key: its name, unique in the source. place: what `read` needs to find it. problem: why it can't be used, if so."""

    key: str
    place: tuple = ()
    problem: str = ""


class Source:
    """One data set on disk. A data script derives a class of its own from this one and hands it to `convert.main`.

    A source has groups (files with annotations, sequences), a group has items, an item gives samples. `items` checks
    all that a group's annotations hold, and is done for all groups before anything is written; `read` looks at the
    pictures. Both raise SourceError naming file, key, expected and found: the group or item is set aside.
    """

    name: ClassVar[str]  # such as threedpw: the world's name in the manifest
    title: ClassVar[str]
    licence: ClassVar[str]  # in one line
    register: ClassVar[str]  # where
    download: ClassVar[Sequence[str]]  # what
    layout: ClassVar[str]  # what lies under --root, a line each
    corrections: ClassVar[Sequence[str]] = ()  # of known errors, that `items` and `read` make
    pattern: ClassVar[str] = ""  # of the groups' paths under the root
    options: ClassVar[dict[str, dict[str, Any]]] = {}  # --name -> what argparse's add_argument takes
    tables: ClassVar[bool] = False  # records (npz shards) instead of samples (tar shards)
    own_names: ClassVar[bool] = False  # each item becomes a file KEY.npz of its own
    per_shard: ClassVar[int] = 240  # items

    def __init__(self, root: str | Path, **options):
        self.root = Path(root)
        self.values = {name: settings.get("default") for name, settings in self.options.items()} | options
        self.kept: tuple | None = None

    def __getstate__(self) -> dict:
        """For worker processes: without what `once` keeps."""
        return self.__dict__ | {"kept": None}

    def once(self, group, read: Callable) -> Any:
        """What read(group) returns, kept until another group is asked for: its frames come one after another."""
        if self.kept is None or self.kept[0] != group:
            self.kept = (group, read(group))
        return self.kept[1]

    def option(self, name: str) -> Any:
        """The value of one of the source's own options."""
        return self.values[name]

    def groups(self) -> list:
        """Paths under the root, sorted (or whatever else `items` takes). SourceError where there is none."""
        found = sorted(str(path.relative_to(self.root)) for path in self.root.glob(self.pattern) if path.is_file())
        return self.some(found)

    def some(self, groups: list) -> list:
        """The groups themselves; SourceError, with the layout that is expected, where there is none."""
        if not groups:
            held = sorted(shown(path.name) for path in self.root.iterdir())[:8] if self.root.is_dir() else []
            found = ", ".join(held) or "an empty folder"
            raise SourceError(
                f"{shown(self.root)}: expected {self.pattern or 'data'}, found {found}.\n"
                f"The folder that --root names should hold\n{indented(self.layout)}"
            )
        return groups

    def items(self, group) -> Iterable[Item]:
        """The items of a group, whose annotations are all checked."""
        raise NotImplementedError

    def chosen(self, items: list[Item]) -> list[Item]:
        """Called once with all good items, in order: what depends on all of them. Here: the items themselves."""
        return items

    def read(self, item: Item) -> list[Sample] | list[Record]:
        """What is made of an item: samples, or records where `tables` is set."""
        raise NotImplementedError


def numbers_in(text: str) -> list[int]:
    """The whole numbers of an option such as 4,28; -1 in the place of what is none."""
    return [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]


def indented(text: str) -> str:
    """Lines, two spaces in."""
    return textwrap.indent(inspect.cleandoc(text), "  ")


def how_to_get(source: type[Source]) -> str:
    """Where to register, what to download, the licence and what the script does about known errors."""
    lines = [f"{source.title}", f"licence:   {source.licence}", f"register:  {source.register}"]
    lines += [f"download:  {part}" for part in source.download]
    lines += ["then:      --root FOLDER, which holds", indented(source.layout)]
    lines += [f"corrected: {part}" for part in source.corrections]
    return "\n".join(lines)

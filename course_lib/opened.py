"""Which data sets a chapter opens, noted while it runs: what a workshop has to bring along is found so, not guessed."""

import os
import sys
from pathlib import Path

from course_lib import paths

VARIABLE = "COURSE_NOTE_DATA"  # the file to note in; its processes inherit it


def note_path(chapter: str, scale: str) -> Path:
    """Where a run of a chapter at a scale notes what it opened."""
    return paths.BUILD / "opened" / f"{chapter}.{scale}.txt"


def watch() -> None:
    """From now on, note the first name below the data folder of every file that this process opens."""
    target = os.environ.get(VARIABLE)
    if not target:
        return
    folder, seen = f"{paths.data_dir().absolute()}{os.sep}", set()

    def hook(event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.path.abspath(os.fspath(arguments[0]))
        name = path[len(folder) :].partition(os.sep)[0] if isinstance(path, str) and path.startswith(folder) else ""
        if name and name not in seen and not name.startswith("."):
            seen.add(name)
            with open(target, "a", encoding="utf-8") as file:
                file.write(f"{name}\n")

    sys.addaudithook(hook)


def noted(chapter: str, scale: str) -> list[str] | None:
    """The names that the last run noted; None where it never ran here."""
    path = note_path(chapter, scale)
    return sorted(set(path.read_text(encoding="utf-8").split())) if path.exists() else None

"""A folder for a room without a network: what thirty people need for one chapter, and an agenda."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import nbformat

from course_lib import agenda, colab, opened, paths
from course_lib.chapter_source import Chapter
from course_lib.files import write_atomic

BUILDERS = ("setuptools", "wheel")
README = """# Chapter {number}, in a room

`student/` goes to everybody, `wheels/` too; `complete/` is yours; `colab/` is for who can't install anything.

On each machine, in `student/` (no network needed{wheels}):

```sh
python3 -m venv .venv
.venv/bin/python -m pip install {offline}torch=={torch}
.venv/bin/python -m pip install {offline}-e .
.venv/bin/course check-env
.venv/bin/course lab            # then open notebooks/{name}.ipynb
```

On Windows, `.venv\\Scripts\\python` and `.venv\\Scripts\\course`. The wheels fit {platform} with Python {python} only:
for other machines, run `course workshop make` on one of them.

Data that came along: {data}.
Trained models that came along: {checkpoints}.

`course progress` shows a learner what is done. Collect the notebooks as `ada.ipynb`, `bo.ipynb`, … in one folder; in
your own copy of the course `course grade FOLDER --chapter {number}` tests them all again.
"""


class WorkshopError(RuntimeError):
    """The folder cannot be made; the message says what to do."""


def make(
    chapter: Chapter,
    minutes: int,
    out: Path,
    wheels: bool = True,
    data: bool = True,
    say: Callable[[str], None] = lambda words: None,
) -> Path:
    """Write the folder. WorkshopError or ValueError: nothing is there that was not before, but for finished pieces."""
    plan = agenda.text(chapter, minutes)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WorkshopError(f"{out} is there already: choose another folder, or remove it")
    sets, models = data_sets(chapter) if data else [], checkpoints(chapter)
    student = out / "student"
    copy_course(chapter, student)
    for name in sets:
        copy(paths.data_dir() / name, student / "data" / name)
    for path in models:
        copy(path, student / "checkpoints" / path.name)
    say(f"student/: {size(student):.0f} MB, with {len(sets)} data sets and {len(models)} trained models")
    for path in (chapter.complete_notebook, chapter.source):
        copy(path, out / "complete" / path.name)
    notebook = colab.for_colab(nbformat.read(chapter.student_notebook, as_version=4), f"{chapter.name}.ipynb")
    write_file(out / "colab" / f"{chapter.name}.ipynb", nbformat.writes(notebook) + "\n")
    write_file(out / "AGENDA.md", plan)
    write_file(out / "README.md", readme(chapter, sets, models, wheels))
    if wheels:
        fetch_wheels(out / "wheels")
        say(f"wheels/: {size(out / 'wheels'):.0f} MB")
    return out


def data_sets(chapter: Chapter) -> list[str]:
    """What the chapter opens at scale laptop, as its last run here noted. WorkshopError if it never ran."""
    names = opened.noted(chapter.name, "laptop")
    if names is None:
        raise WorkshopError(
            f"which data chapter {chapter.number} needs is noted while it runs: call `course run {chapter.number} "
            "--scale laptop` once (it renders the data, too), or leave the data out with --no-data"
        )
    missing = [name for name in names if not (paths.data_dir() / name).exists()]
    if missing:
        raise WorkshopError(f"{', '.join(missing)}: no longer in {paths.data_dir()}. Run the chapter again")
    return names


def checkpoints(chapter: Chapter) -> list[Path]:
    """The shipped models that the chapter loads: its own, and those of others that its code names."""
    text = chapter.source.read_text(encoding="utf-8")
    there = sorted((chapter.root / "checkpoints").glob("*.safetensors"))
    imported = set(re.findall(r"chapters(?:\.| import )(\w+)", text)) if "SHIPPED" in text else set()
    own = {chapter.slug, *(slug for slug in imported if f"{slug}-" in text or "pretraining.SHIPPED" in text)}
    return [path for path in there if path.stem in text or path.stem.partition("-")[0] in own]


def copy_course(chapter: Chapter, target: Path) -> None:
    """What runs a notebook: the library, chapter 00 and this one, the records. No solutions, no tests."""
    root = chapter.root
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*.tmp", "*.yours*")
    shutil.copytree(root / "course_lib", target / "course_lib", ignore=ignored)
    if (root / "results").is_dir():
        shutil.copytree(root / "results", target / "results", ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        copy(root / name, target / name)
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*")):
        if path.stem in (chapter.name, "00_start_here") and path.suffix in (".py", ".ipynb"):
            copy(path, target / "notebooks" / path.name)


def copy(source: Path, target: Path) -> None:
    """A file or a folder, with the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)


def write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)


def size(folder: Path) -> float:
    """Megabytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def requirements() -> list[str]:
    """Everything to install, each at the version that is installed here where it is."""
    from packaging.requirements import Requirement

    from course_lib.environment import project

    names = [Requirement(text).name for text in project()["dependencies"]]
    return [pinned(name) for name in (*names, *BUILDERS)]


def pinned(name: str) -> str:
    try:
        return f"{name}=={metadata.version(name).partition('+')[0]}"
    except metadata.PackageNotFoundError:
        return name


def installed_versions() -> str:
    """A file of constraints: what is installed here."""
    found = {each.metadata["Name"].lower(): each.version.partition("+")[0] for each in metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name != "human-centric-vision")


def fetch_wheels(folder: Path) -> None:
    """Every package as a file that installs without a network. WorkshopError where pip can't."""
    folder.mkdir(parents=True)
    write_file(folder / "constraints.txt", installed_versions())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--wheel-dir", str(folder), "--constraint", str(folder / "constraints.txt"), *requirements()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise WorkshopError(f"pip could not fetch the packages:\n{last}\nTry again, or leave them out with --no-wheels")


def readme(chapter: Chapter, sets: list[str], models: list[Path], wheels: bool) -> str:
    import platform

    return README.format(
        number=chapter.number,
        name=chapter.name,
        wheels="" if wheels else " but for pip: the wheels were left out",
        offline="--no-index --find-links ../wheels " if wheels else "",
        torch=metadata.version("torch").partition("+")[0],
        platform=f"{platform.system()} on {platform.machine()}",
        python=".".join(map(str, sys.version_info[:2])),
        data=", ".join(sets) or "none",
        checkpoints=", ".join(path.stem for path in models) or "none",
    )

"""`course book`: gathers the pages, fetches what a browser needs, runs Sphinx."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat

from course_lib.book import lists, papers
from course_lib.book.links import outlines, write_outlines
from course_lib.book.pages import make_page
from course_lib.chapter_source import chapters
from course_lib.files import write_atomic
from course_lib.paths import ROOT

# What the pages load. Each is copied into the site, so that a page asks nobody for anything.
PACKAGES = {"mathjax": "mathjax@3.2.2", "requirejs": "requirejs@2.3.7"}
PACKAGES["html-manager"] = "@jupyter-widgets/html-manager@1.0.14"
BROWSER_PACKAGE = "playwright-core@1.56.1"  # for the tests only
HIDDEN = {"checks", "assets", "studies"}  # parts of course_lib without a page in the reference


class BookFailed(Exception):
    """The book can't be made; the message says why and what to do."""


# --- what a browser needs -------------------------------------------------------------------------------------------


def fetch(package: str, folder: Path) -> Path:
    """The package's files, in `folder`; fetched once by npm. BookFailed where npm is missing or finds nothing."""
    place = folder / package.replace("/", "-").strip("@")
    if place.is_dir():
        return place
    if shutil.which("npm") is None:
        raise BookFailed("npm is not there, which fetches MathJax and the widgets' scripts: install Node.js")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode or not done.stdout.strip():
        raise BookFailed(f"npm could not fetch {package}, which needs the network once: {done.stderr.strip()[-300:]}")
    unpack(folder / done.stdout.split()[-1], place)
    return place


def unpack(archive: Path, place: Path) -> None:
    """Unpacks an npm archive to `place`, whole or not at all."""
    partial = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(partial, filter="data")
    (partial / "package").rename(place)
    shutil.rmtree(partial)
    archive.unlink()


def browser_files(cache: Path, static: Path) -> None:
    """Copies MathJax and the widgets' scripts into the site's static files."""
    mathjax = fetch(PACKAGES["mathjax"], cache) / "es5"
    shutil.copytree(mathjax / "output", static / "mathjax" / "output", dirs_exist_ok=True)
    for name in ("tex-mml-chtml.js", "input/tex/extensions", "a11y", "sre"):
        copy(mathjax / name, static / "mathjax" / name)
    copy(fetch(PACKAGES["requirejs"], cache) / "require.js", static / "widgets" / "require.js")
    shutil.copytree(fetch(PACKAGES["html-manager"], cache) / "dist", static / "widgets", dirs_exist_ok=True)


def copy(origin: Path, place: Path) -> None:
    """Copies a file or a folder; what is not there is left out."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_dir():
        shutil.copytree(origin, place, dirs_exist_ok=True)
    elif origin.exists():
        shutil.copy(origin, place)


# --- the pages ------------------------------------------------------------------------------------------------------


def write_source(source: Path) -> None:
    """Writes the whole Sphinx project: hand-written pages, chapters, reference, lists."""
    hand = ROOT / "book"
    for path in [*hand.glob("*.md"), hand / "conf.py"]:
        copy(path, source / path.name)
    shutil.copytree(hand / "static", source / "_static", dirs_exist_ok=True)
    copy(ROOT / ".github" / "people.png", source / "people.png")
    for chapter in chapters(ROOT):
        write_atomic(source / "chapters" / f"{chapter.name}.ipynb", nbformat.writes(make_page(chapter)))
    known = list(outlines().values())
    write_atomic(source / "chapters.md", lists.chapters_page(known))
    write_atomic(source / "exercises.md", lists.exercises_page(known))
    write_atomic(source / "papers.md", papers.page(papers.read(hand / "papers.toml"), outlines()))
    for name, more in (("notation.md", lists.letters(known)), ("bibliography.md", lists.bibliography(known))):
        write_atomic(source / name, f"{(hand / name).read_text(encoding='utf-8').rstrip()}\n\n{more}")
    write_reference(source / "reference")


# --- the reference --------------------------------------------------------------------------------------------------


def module_names() -> list[str]:
    """The modules of course_lib that have a page, in order."""
    names = []
    for path in sorted((ROOT / "course_lib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not HIDDEN & set(parts) and parts[-1] != "__main__" and path.read_text(encoding="utf-8").strip():
            names.append(".".join(parts))
    return names


def write_reference(folder: Path) -> None:
    """A page for each module, and one that lists them."""
    names = module_names()
    for name in names:
        lines = [name, "=" * len(name), "", f".. automodule:: {name}"]
        options = ["   :members:", "   :ignore-module-all:", "   :show-inheritance:", ""]
        write_atomic(folder / f"{name}.rst", "\n".join([*lines, *options]))
    text = "# Reference\n\nThe course's library, from its own docstrings.\n\n"
    write_atomic(folder / "index.md", text + lists.toctree(names, ":maxdepth: 1"))


# --- the command ----------------------------------------------------------------------------------------------------


def build_book(folder: Path, with_browser_files: bool = True) -> tuple[Path, list[str]]:
    """Makes the site in `folder`: (its first page, Sphinx's warnings). BookFailed where it can't be made.

    without `with_browser_files` (for tests where there is no network) equations and widgets stay unrendered."""
    source, site = folder / "source", folder / "html"
    for place in (source, site):
        shutil.rmtree(place, ignore_errors=True)
    write_source(source)
    if with_browser_files:
        browser_files(folder / "npm", source / "_static")
    return site / "index.html", run_sphinx(source, site, folder / "doctrees")


def run_sphinx(source: Path, site: Path, doctrees: Path) -> list[str]:
    """Runs Sphinx: its warnings. BookFailed where it fails."""
    warnings = source / "warnings.txt"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(doctrees), "-w", str(warnings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= write_outlines(source / "outlines.pickle")
    done = subprocess.run([*command, str(source), str(site)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise BookFailed(f"Sphinx failed (is the extra there? pip install -e .[book]):\n{done.stderr.strip()[-2000:]}")
    return [line.replace(f"{source}{os.sep}", "") for line in warnings.read_text(encoding="utf-8").splitlines() if line]

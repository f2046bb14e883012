"""The first cell that sets a notebook up where nothing is installed (Colab), and the badge that opens it there.

It stands in copies that `course workshop make` writes, never in `notebooks/`: a cell more there would be one that never
ran, and the stored outputs belong to the cells that did.
"""

import nbformat
from nbformat import NotebookNode

REPOSITORY = ""  # the course's public address: it has none yet. With one, `owner/name`, copies carry a badge
FOLDER = "course"
CELL = """# Run this cell first, once: it brings the course here and installs what it needs (a few minutes).
import os, pathlib, subprocess, sys
SOURCE = {source!r}  # where the course comes from: an address or a folder that git can clone
if not SOURCE: raise SystemExit("Set SOURCE to where the course can be cloned from, then run this cell again.")
if not pathlib.Path("{folder}").exists():
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", SOURCE, "{folder}"], check=True)
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", "{folder}"], check=True)
sys.path.insert(0, os.path.abspath("{folder}"))  # this kernel started before it was installed"""


def setup_cell(source: str = "") -> str:
    """The code of the cell; `source` is what git clones."""
    return CELL.format(source=source, folder=FOLDER)


def badge(notebook: str) -> str:
    """The Markdown that opens a notebook of the repository in Colab; plain words where it has no address yet."""
    if not REPOSITORY:
        return "*In Colab: upload this notebook. (The course has no public address yet, so no badge can open it.)*"
    page = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{notebook}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})"


def for_colab(notebook: NotebookNode, name: str, source: str = "") -> NotebookNode:
    """A copy without outputs that begins with the badge and the cell."""
    made = nbformat.from_dict(notebook)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made.metadata.pop("course_source", None)
    made.cells = [
        nbformat.v4.new_markdown_cell(badge(name), id="colab-badge"),
        nbformat.v4.new_code_cell(setup_cell(source), id="colab-setup"),
        *made.cells,
    ]
    return made

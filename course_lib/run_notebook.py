"""Running a chapter as a notebook: the executed copy and its page in `build/`, its outputs stored on request."""

import base64
import io
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty

import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image
from traitlets import Type

from course_lib import build, opened
from course_lib.chapter_source import Chapter
from course_lib.files import write_atomic

ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")
KERNEL_FILE = re.compile(r"[^\s'\"]*ipykernel_\d+[/\\]\d+\.py")


class RunFailed(Exception):
    """A chapter that cannot be run, or stopped at a cell: the message says where and what is there to look at."""


class SteadyChannel(AsyncZMQSocketChannel):
    """A channel that looks again every second. While nbclient waits for a cell, it answers the output area of a slider
    through the same socket, which can swallow the sign that the cell's reply has come: it would wait for ever."""

    async def get_msg(self, timeout: float | None = None) -> dict:
        while timeout is None:
            try:
                return await super().get_msg(timeout=1)
            except Empty:
                continue
        return await super().get_msg(timeout)


class SteadyClient(AsyncKernelClient):
    shell_channel_class = Type(SteadyChannel)


class SteadyManager(AsyncKernelManager):
    client_factory = Type(SteadyClient)


def load(chapter: Chapter, edition: str, store: bool = False) -> NotebookNode:
    """The notebook to run: the learner's own file, or what the source makes (complete, or to be stored)."""
    if edition == "student" and not store and chapter.student_notebook.exists():
        notebook = build.read_notebook(chapter.student_notebook)
        if notebook is None:
            name = chapter.relative(chapter.student_notebook)
            raise RunFailed(f"{name} cannot be read: `course build` keeps a copy of it and makes it new")
        return notebook
    plan = build.plan_chapter(chapter)
    if fatal := [str(problem) for problem in plan.problems if problem.fatal]:
        raise RunFailed("\n".join([*fatal, "mend the source first"]))
    if store and plan.edited:
        names = ", ".join(chapter.relative(path) for path in plan.edited)
        raise RunFailed(f"{names} was edited by hand: `course build` keeps yours and makes it new; then store")
    return plan.student if edition == "student" else nbformat.reads(plan.files[chapter.complete_notebook], as_version=4)


def execute(chapter: Chapter, notebook: NotebookNode, scale: str, on_cell: Callable[[int], None] | None = None) -> None:
    """Runs every cell in a fresh kernel of this interpreter, in the repository's root.

    RunFailed names the cell. KeyboardInterrupt after Ctrl-C or SIGTERM: the kernel has ended then."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, whatever the user has installed elsewhere
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False)
    client.kernel_manager_class = SteadyManager
    client.extra_arguments = ["--IPKernelApp.log_level=40"]  # or each start warns of unencrypted local ports
    client.resources = {"metadata": {"path": str(chapter.root)}}
    started = [0]

    def start(cell: NotebookNode, cell_index: int) -> None:
        started.append(cell_index)
        if on_cell:
            on_cell(cell_index)

    client.on_cell_start = start
    try:
        client.execute(env={**os.environ, "COURSE_SCALE": scale, **noting(chapter, scale)})
    except Exception as error:
        if hasattr(client, "_async_cleanup_kernel_future"):  # nbclient answered a signal by ending the kernel
            raise KeyboardInterrupt from None
        if isinstance(error, CellExecutionError | DeadKernelError):
            raise RunFailed(failure_words(chapter, notebook, started[-1])) from error
        raise


def noting(chapter: Chapter, scale: str) -> dict[str, str]:
    """The variable that makes the kernel note which data sets it opens, in a file begun anew."""
    path = opened.note_path(chapter.name, scale)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    except OSError:
        return {}
    return {opened.VARIABLE: str(path)}


def failure_words(chapter: Chapter, notebook: NotebookNode, index: int) -> str:
    """Which cell failed, how, and where the notebook as far as it came is; writes that notebook."""
    partial = output_path(chapter, "partial", ".ipynb")
    write_atomic(partial, build.notebook_text(notebook))
    cell = notebook.cells[index]
    errors = [f"{output.ename}: {output.evalue}" for output in cell.outputs if output.output_type == "error"]
    words = errors[-1] if errors else "the kernel died (out of memory?)"
    first_line = cell.source.strip().partition("\n")[0]
    where = f"as far as it came: {chapter.relative(partial)}"
    return f"cell {index + 1} of {chapter.name} failed: {words}\n  {first_line}\n{where}"


def output_path(chapter: Chapter, edition: str, suffix: str) -> Path:
    """Where a run's result stands: `build/01_cameras.html`, `build/01_cameras.complete.html`."""
    middle = "" if edition == "student" else f".{edition}"
    return chapter.root / "build" / f"{chapter.name}{middle}{suffix}"


def to_page(notebook: NotebookNode) -> str:
    """The notebook as one HTML page with its pictures inside."""
    from nbconvert import HTMLExporter

    # embed_images=True would close <details> right after its summary; pictures of cells are inside the page anyway
    return HTMLExporter(template_name="lab").from_notebook_node(notebook)[0]


def result_text(notebook: NotebookNode) -> str:
    """The text that the cells tagged `result` printed."""
    cells = [cell for cell in notebook.cells if "result" in cell.metadata.get("tags", ()) and "outputs" in cell]
    return "\n".join(output_text(output).rstrip() for cell in cells for output in cell.outputs).strip()


def output_text(output: NotebookNode) -> str:
    """The plain text of one output; a picture and a warning have none."""
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    data = output.get("data", {})
    return "" if "image/png" in data else data.get("text/plain", "")


# --- storing --------------------------------------------------------------------------------------------------------


def normalise(notebook: NotebookNode, root: Path) -> None:
    """Takes out of the outputs what only this machine and this minute know."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
            for output in cell.outputs:
                clean_output(output, root)


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Joins what one stream printed in pieces, and keeps of a redrawn line (a progress bar) its last state."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n"))
    return merged


def clean_output(output: NotebookNode, root: Path) -> None:
    """Paths of this machine become relative, addresses of objects go."""
    if "text" in output:
        output.text = clean_text(output.text, root)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/") and isinstance(value, str):
            output.data[kind] = clean_text(value, root)


def clean_text(text: str, root: Path) -> str:
    """The text without absolute paths and addresses."""
    text = KERNEL_FILE.sub("<cell>", text)
    for folder, short in ((root, "."), (Path.home(), "~")):
        if folder != Path(folder.anchor):  # the home of a service account may be the root itself
            text = text.replace(f"{folder}{os.sep}", f"{short}/").replace(str(folder), short)
    return ADDRESS.sub("0x…", text)


def commit(root: Path) -> str:
    """The short name of the checked-out commit; `unknown` outside a repository."""
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- the command ----------------------------------------------------------------------------------------------------


def run(chapter: Chapter, edition: str, scale: str, store: bool = False, on_cell=None) -> tuple[str, Path]:
    """Runs the chapter and writes its notebook and page to `build/`: (the result table, the page's path)."""
    notebook = load(chapter, edition, store)
    build.clear_outputs(notebook)
    start = time.monotonic()
    execute(chapter, notebook, scale, on_cell)
    minutes = round((time.monotonic() - start) / 60, 1)
    normalise(notebook, chapter.root)
    notebook.metadata.course_run = {"scale": scale, "commit": commit(chapter.root), "minutes": minutes}
    page = output_path(chapter, edition, ".html")
    write_atomic(page.with_suffix(".ipynb"), build.notebook_text(notebook))
    write_atomic(page, to_page(notebook))
    if store:
        store_outputs(chapter, notebook)
    return result_text(notebook), page


COLOURS = 224  # of a stored picture


def palette_picture(png: str) -> str:
    """A PNG, base64, in at most COLOURS where that is smaller: a rendered picture takes a third, and looks alike.
    One that is partly transparent stays as it is."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    if picture.getextrema()[3] != (255, 255):
        return png
    data = io.BytesIO()
    colours = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT)  # dithered
    colours.save(data, "PNG", optimize=True)
    return min(png, base64.b64encode(data.getvalue()).decode(), key=len)


def make_pictures_small(notebook: NotebookNode) -> None:
    """Every picture among the outputs as `palette_picture` has it."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = palette_picture(output.data["image/png"])


def store_outputs(chapter: Chapter, executed: NotebookNode) -> None:
    """Writes the student notebook with the outputs of this run, everything else as the build makes it."""
    make_pictures_small(executed)
    plan = build.plan_chapter(chapter, executed)
    if plan.edited:
        names = ", ".join(chapter.relative(path) for path in plan.edited)
        raise RunFailed(f"{names} was edited by hand while the chapter ran: nothing is stored; see build/")
    build.write_plan(plan)

"""Notebooks as files that Jupyter and Jupytext read, and running them: pages, results, failures, stored outputs."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
import time

import jupytext
import nbformat
import numpy as np
import pytest
from conftest import CAMERAS, write_course
from PIL import Image

from course_lib import build, run_notebook
from course_lib.chapter_source import Chapter, chapters
from course_lib.run_notebook import RunFailed, clean_text, merge_streams, run

RUNNABLE = """\
# %% [markdown]
# # Chapter 01: Cameras

# %%
import os
from pathlib import Path

print(Path.cwd().name, os.environ["COURSE_SCALE"])

# %% tags=["result"]
print("half of six: 3")
"""


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.name)
def test_the_pair_survives_the_round_trip(chapter):
    """What `jupytext --test` does, in both directions, and the two halves say the same."""
    for path, other in ((chapter.student_notebook, "py:percent"), (chapter.student_script, "ipynb")):
        notebook = jupytext.read(path)
        back = jupytext.reads(jupytext.writes(notebook, fmt=other), fmt=other)
        jupytext.compare.compare_notebooks(back, notebook, fmt=other)
    notebook, script = nbformat.read(chapter.student_notebook, 4), jupytext.read(chapter.student_script)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells]


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.name)
def test_both_editions_are_valid_and_hold_the_same_cells(chapter):
    student, complete = (nbformat.read(path, 4) for path in (chapter.student_notebook, chapter.complete_notebook))
    for notebook in (student, complete):
        nbformat.validate(notebook)
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert [cell.cell_type for cell in student.cells] == [cell.cell_type for cell in complete.cells]
    assert not any(cell.get("outputs") for cell in complete.cells)
    assert not any("SOLUTION" in cell.source for cell in student.cells)
    text = chapter.student_notebook.read_text(encoding="utf-8")
    assert not re.search(r"/(root|home|tmp|Users)/\w", text)


def test_jupytext_itself_passes_its_test(course):
    build.build(course)
    command = [sys.executable, "-m", "jupytext", "--test", "notebooks/01_cameras.ipynb", "--to", "py:percent"]
    result = subprocess.run(command, cwd=course, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def runnable(root, text=RUNNABLE):
    """A course of one chapter that a kernel can run anywhere; its built chapter."""
    write_course(root, text, checks="")
    (root / "solutions/02_bodies.py").unlink()
    build.build(root)
    return Chapter("01_cameras", root)


def test_a_run_writes_notebook_and_page_and_stores_on_request(tmp_path):
    chapter = runnable(tmp_path)
    before = chapter.student_notebook.read_bytes()
    result, page = run(chapter, "student", "laptop")
    assert result == "half of six: 3"
    assert page == tmp_path / "build/01_cameras.html" and "half of six" in page.read_text(encoding="utf-8")
    assert chapter.student_notebook.read_bytes() == before
    run(chapter, "student", "laptop", store=True)
    stored = nbformat.read(chapter.student_notebook, 4)
    assert stored.cells[1].outputs[0].text == f"{tmp_path.name} laptop\n"
    assert stored.metadata.course_run.scale == "laptop" and "execution" not in stored.cells[1].metadata
    assert build.check(tmp_path) == ([], []) and build.build(tmp_path) == ([], [])


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path):
    chapter = runnable(tmp_path, RUNNABLE + "\n# %%\nprint('so far')\nraise ValueError('too small')\n")
    before = chapter.student_notebook.read_bytes()
    with pytest.raises(RunFailed, match=r"cell 4 of 01_cameras failed: ValueError: too small") as caught:
        run(chapter, "student", "smoke", store=True)
    assert "build/01_cameras.partial.ipynb" in str(caught.value)
    assert "so far" in (tmp_path / "build/01_cameras.partial.ipynb").read_text(encoding="utf-8")
    assert not (tmp_path / "build/01_cameras.html").exists() and chapter.student_notebook.read_bytes() == before


def test_a_dying_kernel_is_said_to_have_died(tmp_path):
    chapter = runnable(tmp_path, RUNNABLE + "\n# %%\nos._exit(3)\n")
    with pytest.raises(RunFailed, match="cell 4 of 01_cameras failed: the kernel died"):
        run(chapter, "student", "smoke")


def test_a_learners_own_notebook_is_run_but_not_stored(tmp_path):
    chapter = runnable(tmp_path)
    notebook = nbformat.read(chapter.student_notebook, 4)
    notebook.cells[2].source = "print('half of eight: 4')"
    nbformat.write(notebook, chapter.student_notebook)
    edited = chapter.student_notebook.read_bytes()
    assert run(chapter, "student", "smoke")[0] == "half of eight: 4"
    assert run(chapter, "complete", "smoke")[0] == "half of six: 3"
    with pytest.raises(RunFailed, match="edited by hand"):
        run(chapter, "student", "laptop", store=True)
    assert chapter.student_notebook.read_bytes() == edited


def test_an_unreadable_notebook_is_said_to_be_so(tmp_path):
    chapter = runnable(tmp_path)
    chapter.student_notebook.write_text("{")
    with pytest.raises(RunFailed, match="cannot be read: `course build` keeps a copy"):
        run(chapter, "student", "smoke")


def test_a_source_that_cannot_be_built_is_not_run(course):
    write_course(course, CAMERAS.replace("HALF = 0.5", "print(0)"))
    with pytest.raises(RunFailed, match="solutions/01_cameras.py:.*\n.*mend the source"):
        run(Chapter("01_cameras", course), "complete", "smoke")


SLEEPER = """
import sys
from pathlib import Path
from course_lib.chapter_source import Chapter
from course_lib.run_notebook import run
try:
    run(Chapter("01_cameras", Path(sys.argv[1])), "student", "laptop", store=True)
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_leaves_everything_as_it_was(tmp_path):
    endless = "\n# %%\nimport time\n\nPath('running').write_text(str(os.getpid()))\ntime.sleep(60)\n"
    chapter = runnable(tmp_path, RUNNABLE + endless)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    marker = tmp_path / "running"
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    kernel = int(marker.read_text())
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 1 and "interrupted" in said.splitlines()  # the dying kernel may say more
    marker.unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert chapter.student_notebook in before and not is_running(kernel)


def is_running(process: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def test_a_reply_whose_sign_was_swallowed_is_found():
    """What a message sent through the same socket does at a bad moment; without the second look this waits for ever."""
    import asyncio

    import zmq
    import zmq.asyncio
    from jupyter_client.session import Session

    async def wait_for_reply() -> dict:
        session, context = Session(key=b"k"), zmq.asyncio.Context()
        kernel, ours = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        ours.connect(f"tcp://127.0.0.1:{kernel.bind_to_random_port('tcp://127.0.0.1')}")
        waiting = asyncio.ensure_future(run_notebook.SteadyChannel(ours, session).get_msg())
        await asyncio.sleep(0.2)
        session.send(zmq.Socket.shadow(kernel.underlying), "execute_reply")
        time.sleep(0.2)  # it arrives while nobody looks
        zmq.Socket.shadow(ours.underlying).getsockopt(zmq.EVENTS)
        try:
            return await asyncio.wait_for(waiting, 10)
        finally:
            context.destroy(linger=0)

    assert asyncio.run(wait_for_reply())["msg_type"] == "execute_reply"


SLIDER = """
# %%
from ipywidgets import interactive

slider = interactive(lambda x: print("x is", x), x=(0, 9))
slider

# %%
slider.children[0].value = 7
"""


def test_sliders_run_and_their_state_is_stored(tmp_path):
    chapter = runnable(tmp_path, RUNNABLE + SLIDER)
    run(chapter, "student", "laptop", store=True)
    stored = nbformat.read(chapter.student_notebook, 4)
    widgets = stored.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert any(widget["state"].get("value") == 7 for widget in widgets.values())
    assert "x is 7" in str(widgets)
    assert build.build(tmp_path) == ([], [])


def test_stored_text_names_no_machine(tmp_path):
    text = f"{tmp_path}/data/x.tar: <object at 0x7f3a2b1c9d80> in {tmp_path}/ipykernel_12/345.py"
    assert clean_text(text, tmp_path) == "./data/x.tar: <object at 0x…> in <cell>"


def test_a_redrawn_line_keeps_its_last_state():
    pieces = ["0%\r", " 50%\r", "100%\n", "done\n"]
    (output,) = merge_streams([nbformat.v4.new_output("stream", name="stderr", text=piece) for piece in pieces])
    assert output.text == "100%\ndone\n"


def test_page_says_nothing_of_pictures_it_has():
    cell = nbformat.v4.new_code_cell("draw()", metadata={"tags": ["result"]})
    picture = {"image/png": "", "text/plain": "<Figure>"}
    cell.outputs = [
        nbformat.v4.new_output("display_data", data=picture),
        nbformat.v4.new_output("stream", text="3 mm\n"),
    ]
    assert run_notebook.result_text(nbformat.v4.new_notebook(cells=[cell])) == "3 mm"


def test_page_keeps_a_hint_folded():
    """What stands between the tags of a hint must be inside <details>, where it is hidden until it is opened."""
    hint = "<details><summary>Hint</summary>\n\nthe hint itself\n\n</details>"
    page = run_notebook.to_page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(hint)]))
    assert page.index("<details>") < page.index("the hint itself") < page.index("</details>")


def test_a_stored_picture_is_smaller_and_looks_alike():
    y, x = np.mgrid[:200, :200] / 200
    noise = np.random.default_rng(0).normal(0, 0.02, (200, 200, 3))
    picture = ((np.stack([x, y, x * y], -1) + noise).clip(0, 1) * 255).astype(np.uint8)
    png = png_text(picture)
    small = run_notebook.palette_picture(png)
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB"))
    assert len(small) < 0.5 * len(png) and np.abs(again - picture.astype(float)).mean() < 6
    assert run_notebook.palette_picture(small) == small
    glass = png_text(np.concatenate([picture, picture[..., :1]], -1))
    assert run_notebook.palette_picture(glass) == glass


def png_text(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3 or 4) as a PNG, base64."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()

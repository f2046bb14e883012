"""Strangers' notebooks: the right answers pass, the wrong ones fail, and hostile ones neither harm nor forge."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="grading needs fork: Linux or macOS")

from course_lib import grade, sandbox, submission  # noqa: E402
from course_lib.chapter_source import find_chapter  # noqa: E402
from course_lib.paths import ROOT  # noqa: E402

DAYS = grade.Task("05.4", "training_days")
HEAD = '@exercise("05.4")\ndef training_days(flops, samples, gpus, peak, utilisation, recompute=False):\n'
RIGHT = HEAD + "    return passes(recompute) * flops * samples / (gpus * peak * utilisation) / DAY\n"
HELPERS = "DAY = 24 * 3600\n\ndef passes(again):\n    return 4 if again else 3\n"


def notebook(*cells: str) -> str:
    """A notebook of these code cells, as a file's text."""
    made = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    monkeypatch.setattr(grade, "SECONDS", 6.0)
    monkeypatch.setattr(grade, "MEMORY", 2**29)
    monkeypatch.setitem(grade._ways, "05.4", "apart")


def judged(*cells: str) -> dict:
    return grade.judged(DAYS, notebook(*cells))


def test_the_right_answer_passes_with_its_helpers_and_without_the_rest_of_the_notebook():
    verdict = judged("%matplotlib inline\nraise RuntimeError('a cell that fails')", HELPERS, RIGHT, "while True: pass")
    assert (verdict["status"], verdict["tested"]) == ("passed", "apart")
    assert verdict.get("note", "") == ""


def test_a_wrong_answer_fails_with_the_words_of_the_check():
    verdict = judged(HEAD + "    return flops * samples / (gpus * peak * utilisation) / 86400")
    assert verdict["status"] == "failed" and "forward pass" in verdict["message"]


def test_what_an_answer_raises_is_quoted_with_its_line():
    verdict = judged(HEAD + "    return flops / nothing_there")
    assert verdict["status"] == "failed" and "nothing_there" in verdict["message"]


@pytest.mark.parametrize("cells", [[HEAD + "    raise TODO"], ["x = 1"], []])
def test_what_is_open_or_missing_is_not_attempted(cells):
    assert judged(*cells)["status"] == "not attempted"


def test_a_cell_that_is_not_python_is_named():
    assert "code cell 2 is not valid Python in line 3" in judged("x = 1", HEAD + "    return (")["message"]


def test_the_courses_answers_are_held_apart_where_they_can_be_and_said_where_not(monkeypatch):
    monkeypatch.setattr(grade, "_ways", {})
    assert grade.way(grade.Task("01.1", "axis_angle_to_matrix")) == "apart"  # its check wants gradients
    assert grade.way(grade.Task("05.6", "accumulate")) == "together"  # its gradients go into a model's parameters


# ------------------------------------------------------------------------------------------------------------- hostile
FORGERIES = {
    "prints and sends a pass": "import os\nprint('passed')\n[os.write(n, b'passed') for n in range(3)]\nreturn 1",
    "replaces the check": "from course_lib import checks\nchecks.judge = lambda *_: ('passed', '')\nreturn 1",
    "empties the checks": "from course_lib import checks\nchecks.CHECKS['05.4'] = lambda answer: None\nreturn 1",
    "equals everything": "class Any(float):\n    __eq__ = lambda *_: True\nreturn Any()",
    "floods its link": (
        "import os\nfor n in range(3, 99):\n    try: os.write(n, b'x' * 4096)\n    except OSError: pass\nreturn 1"
    ),
}
HARM = {
    "exits": ("import os\nos._exit(0)", "ended the process"),
    "raises SystemExit": ("raise SystemExit", "exit()"),
    "hangs": ("while True: pass", "still running|ended the process"),
    "sleeps": ("import time\ntime.sleep(1000)", "still running"),
    "eats memory": ("x = bytearray(2 ** 31)\nreturn len(x)", "emory"),
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nreturn 1", ""),
}


def body(code: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in code.split("\n"))


@pytest.mark.parametrize("name", FORGERIES)
def test_no_pass_is_forged(name):
    assert judged(body(FORGERIES[name]))["status"] == "failed"


@pytest.mark.parametrize("name", HARM)
def test_harm_ends_in_a_failure_in_words(name):
    import re

    code, says = HARM[name]
    verdict = judged(body(code))
    assert verdict["status"] == "failed" and re.search(says, verdict["message"]), verdict


def test_code_beside_the_answer_cannot_forge_either():
    """At set-up, before the function is asked for anything."""
    attack = "import os\nfrom course_lib import checks\nchecks.judge = None\nDAY = os._exit(0) or 1"
    assert judged(attack, RIGHT)["status"] == "failed"


def test_a_forged_hello_is_no_pass():
    attack = (
        "import json, struct, os\nM = json.dumps({'state': 'passed', 'words': '', 'held': []}).encode()\n"
        "for n in range(3, 64):\n"
        "    try: os.write(n, struct.pack('>Q', len(M)) + M)\n"
        "    except OSError: pass\nDAY = M\n"
    )
    assert judged(attack, RIGHT)["status"] == "failed"


def test_a_fork_bomb_is_over_when_the_verdict_is_there():
    before = len(sandbox.descendants(os.getpid()))
    verdict = judged(body("import os\nwhile True:\n    os.fork()"))
    assert verdict["status"] == "failed"
    time.sleep(0.3)
    assert len(sandbox.descendants(os.getpid())) == before


def test_files_and_network_are_out_of_reach_where_the_system_says_so(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    tmp_path.chmod(0o777)
    verdict = judged(
        body(
            f"import os, socket\nfor work in (lambda: os.remove({str(precious)!r}), "
            f"lambda: open({str(tmp_path / 'new')!r}, 'w').write('x'), "
            "lambda: socket.create_connection(('127.0.0.1', 9), 1)):\n"
            "    try: work()\n    except OSError: pass\nreturn 1"
        )
    )
    assert verdict["status"] == "failed"
    if "files" not in verdict["held"]:
        pytest.skip("no Landlock here: the grader says so")
    assert precious.read_text() == "keep" and not (tmp_path / "new").exists()


def test_suspicious_words_in_a_notebook_that_passes_are_noted():
    assert "look at this" in judged(HELPERS, RIGHT, "import course_lib.checks")["note"]


# ------------------------------------------------------------------------------------------------------------ the table
def test_the_command_writes_one_row_for_each_student_and_exercise(tmp_path, monkeypatch):
    folder = tmp_path / "room"
    (folder / "bo").mkdir(parents=True)
    (folder / "ada.ipynb").write_text(notebook(HELPERS, RIGHT))
    (folder / "bo" / "05_scaling.ipynb").write_text("{")
    out = tmp_path / "grades.csv"
    command = [sys.executable, "-m", "course_lib.cli", "grade", str(folder), "--chapter", "05", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    ada = {row["exercise"]: row["status"] for row in rows if row["student"] == "ada"}
    assert len(ada) == len(grade.tasks(find_chapter("05"))) and ada.pop("05.4") == "passed"
    assert set(ada.values()) == {"not attempted"}
    assert [row["message"] for row in rows if row["student"] == "bo"][0].startswith("it is not a notebook")
    assert "students' code ran with" in done.stdout and "written" in done.stdout


def test_nothing_a_student_writes_is_a_formula_or_moves_the_cursor():
    row = grade.Row("=cmd()", "05.4", "f", "failed", "apart", "\x1b[2J-1\nnew line")
    text = grade.csv_text([row])
    assert "'=cmd()" in text and "\x1b" not in text and text.count("\n") == 2
    assert "\x1b" not in "".join(grade.table_lines([row]))


@pytest.mark.parametrize("make", [lambda folder: folder / "none", lambda folder: folder])
def test_a_folder_without_notebooks_is_said(tmp_path, make):
    with pytest.raises(grade.GradeError, match="not a folder|no notebook"):
        grade.notebooks(make(tmp_path))


def test_a_notebook_too_large_or_linked_elsewhere_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "LARGEST", 10)
    (tmp_path / "a.ipynb").write_text("x" * 11)
    (tmp_path / "b.ipynb").symlink_to(Path("a.ipynb"))
    assert [name for name, _ in grade.notebooks(tmp_path)] == ["a"]
    with pytest.raises(submission.SubmissionError, match="bytes"):
        submission.read_text(tmp_path / "a.ipynb")


def test_protections_that_did_not_hold_are_said():
    report = grade.Report([], {"files"})
    words = "\n".join(grade.protection_lines(report))
    assert "NOT in place" in words and "no network" in words.partition("NOT")[2]

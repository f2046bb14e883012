"""Grading notebooks of strangers: each exercise's function is taken out of its notebook and tested again, here.

Nothing that a notebook printed or stored counts. For each exercise two processes are forked: one confined
(`course_lib.sandbox`) with the student's function, one with the check, the **judge**. They share nothing but a socket
(`course_lib.remote`), so that the student's code neither sees nor touches the check, what it expects or its verdict.

Whether a check can be held at such a distance is tried with the course's own answer first. Where it cannot (the answer
is given, or gives back, what does not cross: a function, a hook), check and answer share the confined process: it
still can do no harm, but code written for it could forge its own verdict there. The table says so: `together`.
"""

import csv
import functools
import io
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.chapter_source import Chapter, find_chapter, read_cells

SECONDS, MEMORY = 20.0, 2 * 2**30
LOOK = 0.05
PROCESSES = 6  # in one sandbox, its waiting parent among them
COLUMNS = ("student", "exercise", "name", "status", "tested", "message", "note")
SUSPICIOUS = re.compile(
    r"course_lib\.(checks|guard|remote|sandbox|grade|submission)|\b(ctypes|_getframe|__subclasses__|gc\.get_)"
)


class GradeError(ValueError):
    """Nothing can be graded; the message says what to do."""


@dataclass(frozen=True)
class Task:
    """An exercise to grade: its number and the qualified name of its function."""

    exercise: str
    name: str


@dataclass
class Row:
    """One exercise of one student. tested: `apart`, `together`, or nothing where no code was run."""

    student: str
    exercise: str
    name: str
    status: str
    tested: str = ""
    message: str = ""
    note: str = ""


@dataclass
class Report:
    """All rows, and what the sandbox held: layers that every run had."""

    rows: list[Row] = field(default_factory=list)
    held: set[str] | None = None

    def add(self, row: Row, held: Iterable[str] | None) -> None:
        self.rows.append(row)
        if held is not None:
            self.held = set(held) if self.held is None else self.held & set(held)


# ------------------------------------------------------------------------------------------------- what is to be graded
def tasks(chapter: Chapter) -> list[Task]:
    """The chapter's exercises, from the course's own source."""
    cells = [cell for cell in read_cells(chapter) if cell.kind == "code"]
    found = [Task(exercise.id, exercise.qualname) for cell in cells for exercise in cell.exercises]
    return sorted(found, key=lambda task: int(task.exercise[3:]))


def notebooks(folder: Path) -> list[tuple[str, Path]]:
    """(student, notebook) of every notebook below the folder: `ada.ipynb`, or `ada/06_….ipynb`. GradeError if none."""
    if not folder.is_dir():
        raise GradeError(f"{folder} is not a folder: give the one with the students' notebooks")
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    if not paths:
        raise GradeError(f"no notebook is in {folder}: put each student's there, as ada.ipynb or ada/06_….ipynb")
    return [(student_of(path.relative_to(folder)), path) for path in paths]


def student_of(path: Path) -> str:
    """The student's name: that of the folder, or else of the file."""
    return path.parent.as_posix() if path.parent.name else path.stem


def chapter_of(text: str) -> Chapter | None:
    """The chapter that most of the notebook's exercises belong to."""
    numbers = re.findall(r"@exercise\(\\?[\"'](\d\d)\.\d+", text)
    try:
        return find_chapter(max(set(numbers), key=numbers.count)) if numbers else None
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------------ one exercise
def grade_notebook(student: str, path: Path, chapter: Chapter | None, report: Report, say=lambda words: None) -> None:
    """Every exercise of one notebook into the report; a notebook that cannot be read fails in one row."""
    from course_lib.submission import SubmissionError, code_cells, read_text

    try:
        text = read_text(path)
        code_cells(text)
        found = chapter or chapter_of(text)
        if found is None:
            raise SubmissionError("no exercise of a chapter is in it: was another file handed in?")
    except SubmissionError as error:
        report.add(Row(student, "", "", "failed", "", str(error)), None)
        return
    for task in tasks(found):
        verdict = judged(task, text)
        held = verdict.pop("held", None)
        report.add(Row(student, task.exercise, task.name, **verdict), held)
    passed = sum(row.status == "passed" for row in report.rows if row.student == student)
    say(f"{clean(student)}: {passed} of {len(tasks(found))} passed")


_ways: dict[str, str] = {}


def way(task: Task) -> str:
    """`apart` where the course's own answer passes its check from a process of its own, else `together`."""
    from course_lib.exercises import course_answer

    if task.exercise not in _ways:
        own = course_answer(task.exercise, task.name)
        verdict = run(task, lambda: own, "apart")
        _ways[task.exercise] = "apart" if verdict["status"] == "passed" else "together"
    return _ways[task.exercise]


def judged(task: Task, text: str) -> dict:
    """The verdict on a notebook's text: status, tested, message, note, and the layers that held."""
    from course_lib.submission import answer

    if f'"{task.exercise}' not in text.replace("'", '"'):
        return {"status": "not attempted"}
    verdict = run(task, lambda: answer(text, task.exercise), way(task))
    if SUSPICIOUS.search(text) and verdict["status"] == "passed":
        verdict["note"] = "look at this notebook: it mentions what only a checker needs"
    return verdict


def run(task: Task, make: Callable[[], Callable | None], tested: str) -> dict:
    """Test the function that `make`, called in the sandbox, returns (None: not attempted)."""
    from course_lib import checks

    checks.load(task.exercise)  # before the fork, once
    verdicts, verdict_end = socket.socketpair()
    judge_end, answer_end = socket.socketpair()
    answerer = _fork(lambda: _answer(task, make, tested, answer_end), (answer_end,))
    judge = _fork(lambda: _judge(task, tested, judge_end, verdict_end, answerer), (judge_end, verdict_end))
    for link in (verdict_end, judge_end, answer_end):
        link.close()
    try:
        return _watch(task, tested, verdicts, answerer)
    finally:
        from course_lib import sandbox

        verdicts.close()
        for process in (judge, answerer):
            sandbox.end(process)


def _fork(work: Callable[[], None], keep: tuple[socket.socket, ...]) -> int:
    """A child that does its work with the links given, and no other file open, and never comes back."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        _close_all_but({link.fileno() for link in keep})
        work()
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    most = os.sysconf("SC_OPEN_MAX")
    last = 2
    for number in sorted(each for each in kept if each > 2):
        os.closerange(last + 1, number)
        last = number
    os.closerange(last + 1, min(most, 1 << 16))


def _watch(task: Task, tested: str, verdicts: socket.socket, answerer: int) -> dict:
    """Wait for the verdict; say what happened where the sandbox goes beyond its limits."""
    from course_lib import remote, sandbox

    deadline, start = time.monotonic() + SECONDS + 5, sandbox.held_memory(os.getpid()) * 2
    while time.monotonic() < deadline:
        if sandbox.wait_readable(verdicts, time.monotonic() + LOOK):
            try:
                return json.loads(remote.receive(verdicts))
            except remote.Gone:
                return _failed(tested, f"{task.name} ended the process that tests it")
        if len(sandbox.descendants(answerer)) > PROCESSES:
            return _failed(tested, f"{task.name} started processes of its own: stopped")
        if sandbox.held_memory(answerer) > start + MEMORY:
            return _failed(tested, f"{task.name} used more than {MEMORY / 2**30:.1f} GB of memory: stopped")
    return _too_slow(task, tested)


def _too_slow(task: Task, tested: str) -> dict:
    return _failed(tested, f"{task.name} was still running after {SECONDS:g} s. Is there a loop that never ends?")


def _failed(tested: str, message: str) -> dict:
    return {"status": "failed", "tested": tested, "message": message}


# ------------------------------------------------------------------------------------------------ in the two processes
def _answer(task: Task, make: Callable, tested: str, link: socket.socket) -> None:
    """The confined process: say how it stands with the answer, then answer calls, or test it here."""
    from course_lib import checks, exercises, guard, remote, sandbox

    guard.INSIDE = True  # what an open exercise says when it is forwarded is for learners
    exercises.PROGRESS = Path(os.devnull)
    held = sandbox.confine(SECONDS, MEMORY)
    hello = {"state": "ready", "held": sorted(held), "words": ""}
    try:
        function = make()
        hello["state"] = "open" if function is None else "ready"
    except BaseException as error:  # SubmissionError has words; a hostile notebook raises what it likes
        hello |= {"state": "failed", "words": str(error)[:2000]}
    if hello["state"] == "ready" and tested == "together":
        hello["state"], hello["words"] = checks.judge(task.exercise, function)
    remote.send(link, json.dumps(hello).encode())
    if hello["state"] == "ready":
        remote.serve(link, function, lambda error: checks.explain(error, function))


def _judge(task: Task, tested: str, link: socket.socket, verdicts: socket.socket, answerer: int) -> None:
    """The process that decides, and tells the grader."""
    from course_lib import remote

    signal.signal(signal.SIGALRM, _time_is_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        verdict = _decide(task, tested, link)
    except remote.Gone:
        verdict = _failed(tested, f"{task.name} ended the process that it ran in, or used more memory than it may")
    except BaseException as error:
        verdict = _failed(tested, f"the check could not be run: {type(error).__name__}: {str(error)[:500]}")
        if type(error).__name__ == "OutOfTime":
            verdict = _too_slow(task, tested)
    signal.setitimer(signal.ITIMER_REAL, 0)
    remote.send(verdicts, json.dumps(verdict).encode())


def _time_is_up(*_) -> None:
    from course_lib.checks import OutOfTime

    raise OutOfTime(SECONDS)


def _decide(task: Task, tested: str, link: socket.socket) -> dict:
    from course_lib import remote

    hello = json.loads(remote.receive(link))
    state, words = str(hello["state"]), str(hello["words"])[:2000]
    held = [name for name in hello["held"] if isinstance(name, str)]
    if state == "open":
        return {"status": "not attempted", "held": held}
    if state != "ready":
        if state == "passed" and tested != "together":  # only a forger says so
            state = "failed"
        status = "passed" if state == "passed" else "failed"
        return {"status": status, "tested": tested, "message": words, "held": held}
    return _checked(task, link) | {"tested": tested, "held": held}


def _checked(task: Task, link: socket.socket) -> dict:
    """The check on the distant answer."""
    from course_lib import checks, remote
    from course_lib.exercises import course_answer

    like = course_answer(task.exercise, task.name)
    known = remote.records_of(sys.modules[like.__module__])
    answer = remote.Remote(link, known, like)
    gone: list[BaseException] = []

    def call(*arguments, **keywords):
        try:
            return answer(*arguments, **keywords)
        except remote.Gone as error:
            gone.append(error)
            raise

    status, message = checks.judge(task.exercise, functools.wraps(like)(call))
    if gone:
        raise gone[0]
    return {"status": status, "message": message}


# ------------------------------------------------------------------------------------------------------------ the table
def clean(text: str) -> str:
    """Text from a stranger without what a terminal would obey, on one line."""
    return re.sub(r"\s+", " ", "".join(each if each.isprintable() or each.isspace() else "�" for each in text)).strip()


def cell(text: str) -> str:
    """The text as a table's cell: a spreadsheet must not take it for a formula."""
    text = clean(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def csv_text(rows: list[Row]) -> str:
    """One line for each exercise of each student."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(str(getattr(row, name))) for name in COLUMNS] for row in rows)
    return stream.getvalue()


def table_lines(rows: list[Row]) -> list[str]:
    """Students down, exercises across: ✓ passed, ✗ failed, · not attempted; `*`: tested together, read the note."""
    marks = {"passed": "✓", "failed": "✗"}
    names = sorted({row.exercise for row in rows if row.exercise}, key=lambda name: (name[:2], int(name[3:])))
    students = list(dict.fromkeys(row.student for row in rows))
    width = max(map(len, map(clean, students)), default=0)
    lines = [" ".join(["".ljust(width), *(name.rjust(6) for name in names), "passed"])]
    for student in students:
        own = {row.exercise: row for row in rows if row.student == student}
        shown = [
            (marks.get(own[name].status, "·") + "*" * (own[name].tested == "together")) if name in own else ""
            for name in names
        ]
        passed = sum(row.status == "passed" for row in own.values())
        unread = f"  {clean(own[''].message)}" if "" in own else ""
        lines.append(
            " ".join([clean(student).ljust(width), *(mark.rjust(6) for mark in shown), f"{passed:6d}"]) + unread
        )
    return lines


def protection_lines(report: Report) -> list[str]:
    """What held in every run, and, plainly, what did not."""
    from course_lib.sandbox import LAYERS

    held = report.held if report.held is not None else set()
    if report.held is None:
        return ["no student's code was run"]
    lines = ["students' code ran with: " + (", ".join(LAYERS[name] for name in LAYERS if name in held) or "nothing")]
    missing = [name for name in LAYERS if name not in held and not (name == "user" and os.geteuid() != 0)]
    if missing:
        lines.append(
            "NOT in place here: " + ", ".join(LAYERS[name] for name in missing) + ". Grade strangers' notebooks "
            "in a container or a virtual machine that you can throw away."
        )
    return lines


def grade(folder: Path, chapter: str | None = None, say: Callable[[str], None] = lambda words: None) -> Report:
    """Grade every notebook below a folder. GradeError where there is none, or this system cannot."""
    if not hasattr(os, "fork"):
        raise GradeError("grading needs Linux or macOS: on Windows, run it in WSL")
    found, wanted = notebooks(folder), find_chapter(chapter) if chapter else None
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    import torch

    from course_lib import sandbox

    torch.set_num_threads(1)
    sandbox.guard_grader()
    report = Report()
    for student, path in found:
        grade_notebook(student, path, wanted, report, say)
    return report

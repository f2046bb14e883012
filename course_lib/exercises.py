"""Exercises inside a chapter: `@exercise("01.1")` on the function to write, `check(function)` below it.

While a function still holds `raise TODO`, calling it runs the course's own answer (from `course_lib.chapters`) and says
so once, so that a chapter can be read and run without doing anything. As soon as the learner's lines stand there, they
run, always: a wrong answer is never replaced.
"""

import dis
import functools
import html
import importlib
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType

from course_lib import guard, paths

PROGRESS = paths.BUILD / "progress.jsonl"


class TODO(Exception):
    """What an exercise raises until it is filled in. (PyTorch raises NotImplementedError itself.)"""


# ---------------------------------------------------------------------------- what an exercise is (the build asks, too)
def is_exercise_id(text: object) -> bool:
    """Two digits of the chapter, a point, a number from 1: "01.1", "13.10"."""
    return isinstance(text, str) and re.fullmatch(r"\d\d\.[1-9]\d?", text) is not None


def mentions_todo(code: CodeType) -> bool:
    """Whether the code, or code nested in it, can still reach the name TODO (what stands after a return cannot)."""
    nested = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return any(step.argval == "TODO" for step in dis.get_instructions(code)) or any(map(mentions_todo, nested))


def uses_zero_argument_super(code: CodeType) -> bool:
    """Whether the code of a method needs the class that it was written in: `super()` without arguments does."""
    return "__class__" in code.co_freevars


def refusal(identifier: object, function: object) -> str | None:
    """Why this function cannot be an exercise of this name; None where it can."""
    if not is_exercise_id(identifier):
        return f'@exercise({identifier!r}): an exercise is named by chapter and number, e.g. @exercise("01.1")'
    if isinstance(function, staticmethod | classmethod | property):
        return f"exercise {identifier}: write @exercise below @{type(function).__name__}, next to the function"
    if not inspect.isfunction(function):
        return f"exercise {identifier}: only a function or a method can be an exercise, not {function!r}"
    if function.__name__ == "__init__":
        return f"exercise {identifier}: __init__ cannot be an exercise, a method that it calls can"
    if uses_zero_argument_super(function.__code__):
        return f"exercise {identifier}: super() without arguments cannot be used here, name the base class instead"
    return None


@functools.cache
def chapter_slug(identifier: str) -> str:
    """ "01.1" -> "cameras", from the one file `solutions/01_*.py`."""
    pattern = f"{identifier[:2]}_*.py"
    found = sorted(paths.SOLUTIONS.glob(pattern)) or sorted(paths.NOTEBOOKS.glob(pattern))  # a workshop has no sources
    if len(found) != 1:
        raise LookupError(
            f"exercise {identifier}: {len(found)} files are named solutions/{identifier[:2]}_*.py, not one"
        )
    return found[0].stem[3:]


def course_answer(identifier: str, qualified_name: str) -> Callable:
    """The course's own function of this name, from the chapter's generated module."""
    module = importlib.import_module(f"course_lib.chapters.{chapter_slug(identifier)}")
    found = module
    for name in qualified_name.rpartition("<locals>.")[2].split("."):
        found = inspect.getattr_static(found, name, None)
    found = getattr(found, "__func__", found)  # of a static or class method: the plain function
    if found is None:
        raise LookupError(f"{module.__name__} has no {qualified_name}: run `course build`")
    return found


# ------------------------------------------------------------------------------------------------------- the decorator
def exercise(identifier: str) -> Callable:
    """Mark a function or method as an exercise, e.g. `@exercise("01.1")`. Raises TypeError where it cannot be one."""

    def decorate(function: Callable) -> Callable:
        reason = refusal(identifier, function)
        if reason:
            raise TypeError(reason)
        guard.warm(identifier)
        stubbed = mentions_todo(function.__code__)

        @functools.wraps(function)
        def run(*arguments, **keywords):
            return (forward(identifier, function) if stubbed else function)(*arguments, **keywords)

        run.exercise = identifier
        return run

    return decorate


_told: set[str] = set()


def forward(identifier: str, function: Callable) -> Callable:
    """The course's answer in place of a function that is not filled in; the first time, say so."""
    if identifier not in _told and not guard.INSIDE:
        _told.add(identifier)
        print(
            f"Exercise {identifier} ({function.__name__}) is open: the course's own answer runs until you fill it in."
        )
    return course_answer(identifier, function.__qualname__)


# ------------------------------------------------------------------------------------------------------------ the check
@dataclass
class Verdict:
    """What `check` found: a status ("not attempted", "passed", "failed") and what, where, and what was expected."""

    exercise: str
    name: str
    status: str
    message: str = ""
    printed: str = ""
    shown: bool = False

    def __str__(self) -> str:
        mark = {"passed": "✓", "failed": "✗"}.get(self.status, "○")
        said = f": {self.message}" if self.message else ""
        printed = f"\nIt printed:\n{self.printed.rstrip()}" if self.printed else ""
        return f"{mark} Exercise {self.exercise} {self.name}: {self.status}{said}{printed}"

    def _repr_html_(self) -> str:
        colour = {"passed": "#2e7d32", "failed": "#c62828"}.get(self.status, "#9e9e9e")
        head = f"<b style='color:{colour}'>Exercise {self.exercise} · {html.escape(self.name)} · {self.status}</b>"
        said = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(self.message)).replace("\n", "<br>")
        printed = f"<pre style='margin:4px 0 0 0'>{html.escape(self.printed)}</pre>" if self.printed else ""
        box = f"border-left:4px solid {colour};padding:4px 12px;margin:4px 0"
        return f"<div style='{box}'>{head}{'<br>' + said if said else ''}{printed}</div>"

    def _ipython_display_(self) -> None:
        if not self.shown:  # check() has shown its verdict already: as a cell's last line it must not appear twice
            self.show()
        self.shown = False

    def show(self) -> None:
        """Show the verdict: as a coloured box in a notebook, as text elsewhere."""
        self.shown = True
        if not guard.in_notebook():
            encoding = sys.stdout.encoding or "utf-8"  # a Windows console may know no tick
            print(str(self).encode(encoding, "replace").decode(encoding))
            return
        from IPython.display import display

        display({"text/plain": str(self), "text/html": self._repr_html_()}, raw=True)


class NotPassed(AssertionError):
    """Raised by `check` under COURSE_STRICT=1, where every answer must be right (the complete edition, in CI)."""


def check(function: Callable) -> Verdict:
    """Test the learner's own code for an exercise, show the verdict and return it.

    The code runs in a process of its own with a limit on time and memory: whatever it does, this one goes on.
    """
    identifier = getattr(function, "exercise", None)
    if identifier is None:
        raise TypeError(f"check() takes a function marked with @exercise, not {function!r}")
    own = inspect.unwrap(function)
    if mentions_todo(own.__code__):
        words = "`raise TODO` still stands in it: put your lines in its place, run that cell, then this one."
        verdict = Verdict(identifier, own.__name__, "not attempted", words)
    else:
        verdict = Verdict(identifier, own.__name__, **guard.run_check(identifier, own))
    verdict.show()
    _remember(verdict)
    if os.environ.get("COURSE_STRICT") == "1" and verdict.status != "passed":
        raise NotPassed(str(verdict))
    return verdict


def _remember(verdict: Verdict) -> None:
    """Add a line to the learner's own progress file, where one can be written; it never leaves the machine."""
    record = {"exercise": verdict.exercise, "status": verdict.status, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        PROGRESS.parent.mkdir(parents=True, exist_ok=True)
        with PROGRESS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError:
        pass

"""What a learner has done, from the records of `check` in `build/progress.jsonl`. Nothing leaves the machine."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from course_lib import paths

STATUSES = ("passed", "failed", "not attempted")


@dataclass
class Tries:
    """All checks of one exercise: how many with an answer, whether one passed, how the last one ended, and when."""

    count: int = 0
    passed: bool = False
    last: str = "not attempted"
    time: str = ""


def read_tries(path: Path) -> tuple[dict[str, Tries], int]:
    """({exercise: its tries}, how many lines could not be read): a line that is broken stops nothing."""
    found, broken = {}, 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            exercise, status, time = record["exercise"], record["status"], str(record["time"])
        except (ValueError, TypeError, KeyError):
            broken += 1
            continue
        if status not in STATUSES or not isinstance(exercise, str):
            broken += 1
            continue
        add(found.setdefault(exercise, Tries()), status, time)
    return found, broken


def add(tries: Tries, status: str, time: str) -> None:
    """One more check."""
    tries.count += status != "not attempted"
    tries.passed = tries.passed or status == "passed"
    tries.last, tries.time = status, time


def exercises_there(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """{chapter's name: [(exercise, function)]} of the student edition's scripts."""
    pattern = re.compile(r"@exercise\(\"(\d\d\.\d+)\"\)\s*(?:@\w+\s*)*def (\w+)")
    scripts = sorted(path for path in folder.glob("[0-9][0-9]_*.py") if ".yours" not in path.name)
    found = {path.stem: pattern.findall(path.read_text(encoding="utf-8")) for path in scripts}
    return {name: sorted(items, key=lambda item: int(item[0][3:])) for name, items in found.items() if items}


def lines(chapter: str | None = None, file: Path | None = None, folder: Path | None = None) -> list[str]:
    """What `course progress` prints: a line a chapter, or a line an exercise of one. ValueError: no such chapter."""
    file, folder = file or paths.BUILD / "progress.jsonl", folder or paths.NOTEBOOKS
    tries, broken = read_tries(file)
    there = exercises_there(folder)
    shown = one_chapter(chosen(chapter, there), there, tries) if chapter else all_chapters(there, tries)
    if not tries:
        shown.append("nothing is recorded yet: a cell with check(...) does it")
    if broken:
        shown.append(f"{broken} line{'s' * (broken > 1)} of {file.name} could not be read and were left out")
    return shown


def chosen(chapter: str, there: dict) -> str:
    """The full name of a chapter called by its number, slug or name."""
    for name in there:
        if chapter in (name, name[:2], name[3:], str(int(name[:2]))):
            return name
    raise ValueError(f"no chapter with exercises is called {chapter!r}: use one of {', '.join(there) or '-'}")


def all_chapters(there: dict, tries: dict[str, Tries]) -> list[str]:
    """Each chapter: a bar, how many are passed, how many tries it took, when it was last worked on."""
    width = max(map(len, there), default=0)
    return [chapter_line(name.ljust(width), [tries.get(item[0], Tries()) for item in there[name]]) for name in there]


def chapter_line(name: str, own: list[Tries]) -> str:
    passed, count = sum(one.passed for one in own), sum(one.count for one in own)
    bar = "█" * passed + "░" * (len(own) - passed)
    last = max((one.time for one in own), default="")[:10]
    said = f"  {count} {'try' if count == 1 else 'tries'}, last {last}" if count else ""
    return f"{name}  {bar.ljust(14)} {passed:2d} of {len(own):2d}{said}"


def one_chapter(name: str, there: dict, tries: dict[str, Tries]) -> list[str]:
    """Each exercise of a chapter: passed, failed, or not attempted, and in how many tries."""
    shown = [name]
    for exercise, function in there[name]:
        own = tries.get(exercise, Tries())
        status = "passed" if own.passed else own.last
        later = ", the last one failed" if own.passed and own.last == "failed" else ""
        mark = {"passed": "✓", "failed": "✗"}.get(status, "○")
        counted = f" ({own.count} {'try' if own.count == 1 else 'tries'}{later})" if own.count else ""
        shown.append(f"  {mark} {exercise:6s} {function}: {status}{counted}")
    return shown

"""`make test`: every group of tests in turn, then a table of what each took and may take. Fails if any group fails.

Inside a group two files at a time run, each on one thread (pytest-xdist; a file, and so a notebook, is never split).
"""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "build" / "tests"
PYTHON = sys.executable
WORKERS = min(2, os.cpu_count() or 1)  # what 2 cores and 8 GB carry
PYTEST = [PYTHON, "-m", "pytest", "--numprocesses", str(WORKERS), "--dist", "loadfile"]
NBVAL = [*PYTEST, "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
# `course build --check`, which must not load PyTorch on its way
DRIFT = """
import sys
from course_lib.cli import app
try:
    app(["build", "--check"])
finally:
    if "torch" in sys.modules:
        sys.exit("course build loads PyTorch: import it inside of a function")
"""
# Files that have a group of their own; every other tests/test_*.py is a unit, property or bad-input test.
OWN_GROUP = {
    "checks x wrong answers": ["test_checks.py", "test_exercises.py"],
    "parity": [
        *("test_cameras.py", "test_bodies.py", "test_rendering.py", "test_transformers.py", "test_metrics_*.py"),
        *("test_sapiens_*.py", "test_released.py"),
    ],
    "data scripts": ["test_assets.py", "test_real_*.py"],
    "launches": ["test_launch*.py"],
    "book": ["test_book.py", "test_book_site.py"],
}


@dataclass
class Group:
    """Commands that run one after another within `minutes`; a command that counts its tests has a report."""

    name: str
    minutes: int
    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0


def test_files(patterns: list[str]) -> list[str]:
    return [str(path) for pattern in patterns for path in sorted((ROOT / "tests").glob(pattern))]


def pytest_commands(files: list[str]) -> list[list[str]]:
    return [[*PYTEST, *files]] if files else []


def notebook_commands(folder: str) -> list[list[str]]:
    """nbval over one edition; copies that a build kept (`*.yours*`) are not ours to run."""
    notebooks = sorted(str(path) for path in (ROOT / folder).glob("[0-9][0-9]_*.ipynb") if ".yours" not in path.name)
    return [[*NBVAL, *notebooks]] if notebooks else []


def groups() -> list[Group]:
    """The groups of the test budget, in the order in which they run."""
    own = {name: test_files(patterns) for name, patterns in OWN_GROUP.items()}
    taken = {file for files in own.values() for file in files}
    unit = [file for file in test_files(["test_*.py"]) if file not in taken]
    ruff = [PYTHON, "-m", "ruff"]
    lint = [[*ruff, "check", "."], [*ruff, "format", "--check", "--quiet", "."], [PYTHON, "-c", DRIFT]]
    own_pytest = {name: pytest_commands(files) for name, files in own.items()}
    return [
        Group("lint + drift", 1, lint),
        Group("unit, property, bad input", 6, pytest_commands(unit)),
        Group("checks x wrong answers", 3, own_pytest["checks x wrong answers"]),
        Group("parity", 3, own_pytest["parity"]),
        Group("data scripts", 3, own_pytest["data scripts"]),
        Group("notebooks, student", 4, notebook_commands("notebooks")),
        Group("notebooks, complete", 4, notebook_commands("solutions"), {"COURSE_STRICT": "1"}),
        Group("launches", 4, own_pytest["launches"]),
        Group("book", 5, own_pytest["book"]),
    ]


def run_group(group: Group) -> None:
    """Runs the group's commands, all of them, and adds up what passed and failed."""
    start = time.monotonic()
    for number, command in enumerate(group.commands):
        report = REPORTS / f"{group.name.replace(' ', '-')}-{number}.xml"
        report.unlink(missing_ok=True)
        is_pytest = "pytest" in command
        extra = [f"--junitxml={report}"] if is_pytest else []
        environment = {"COURSE_SCALE": "smoke", **os.environ, "OMP_NUM_THREADS": "1", **group.environment}
        code = subprocess.call([*command, *extra], cwd=ROOT, env=environment)
        passed, failed = counts(report) if report.exists() else (int(code == 0), 0)
        group.passed += passed
        group.failed += max(failed, int(code != 0))
    group.seconds = time.monotonic() - start


def counts(report: Path) -> tuple[int, int]:
    """(passed, failed) of a pytest report; what was skipped is neither."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total, failed, skipped = 0, 0, 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed


def setup_row() -> Group | None:
    """What `make` took to set up, which it notes in its stamp file."""
    stamp = ROOT / ".venv" / ".ready"
    text = stamp.read_text().strip() if stamp.exists() else ""
    return Group("set-up (when it was made)", 2, [], seconds=float(text)) if text.isdigit() else None


def print_table(rows: list[Group]) -> None:
    print(f"\n{'group':28s} {'seconds':>8s} {'limit':>6s} {'passed':>7s} {'failed':>7s}")
    for row in rows:
        over = "  over its budget" if row.seconds > 60 * row.minutes else ""
        print(f"{row.name:28s} {row.seconds:8.0f} {60 * row.minutes:6d} {row.passed:7d} {row.failed:7d}{over}")
    print(f"{'all':28s} {sum(row.seconds for row in rows):8.0f} {30 * 60:6d}")


def main() -> int:
    REPORTS.mkdir(parents=True, exist_ok=True)
    wanted = [group for group in groups() if group.commands and all(word in group.name for word in sys.argv[1:])]
    for group in wanted:
        print(f"\n=== {group.name}", flush=True)
        run_group(group)
    print_table([row for row in (setup_row(), *wanted) if row])
    failed = sum(group.failed for group in wanted)
    print(f"{sum(group.passed for group in wanted)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

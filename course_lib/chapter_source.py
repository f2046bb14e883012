"""Reading a chapter's source, `solutions/NN_slug.py`, and saying what is wrong with it. Nothing here runs a chapter."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jupytext

from course_lib.paths import ROOT

MARK = re.compile(r"^\s*#+\s*(BEGIN|END) SOLUTION\b.*$")
MAGIC = re.compile(r"^\s*(!|%%?[A-Za-z])")
PLOT_MAGIC = "%matplotlib inline"
UNIX_ROOTS = "home|root|tmp|work|opt|usr|mnt|var|etc|scratch|Users|Volumes"
# a letter, a colon and a backslash alone would also be LaTeX: f:\mathbb{R}
ABSOLUTE_PATH = re.compile(
    rf"(?<![\w./:~}}>)-])/({UNIX_ROOTS})/\w|\b[A-Za-z]:[\\/]+(Users|Windows|Program|temp|data)\b"
)
EXPORTABLE = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
# What exported code may import: the floors below the chapters (and Study and Shipped, which only describe a run).
EXPORT_PACKAGES = {"torch", "numpy", "scipy", "skimage", "einops", *sys.stdlib_module_names}
EXPORT_COURSE_MODULES = {"course_lib.paths", "course_lib.recipe", "course_lib.shipped", "course_lib.study"}


@dataclass(frozen=True)
class Chapter:
    """A chapter's name, such as `01_cameras`, and where its source and everything made from it stand."""

    name: str
    root: Path = ROOT

    number = property(lambda self: self.name[:2])
    slug = property(lambda self: self.name[3:])
    source = property(lambda self: self.root / "solutions" / f"{self.name}.py")
    complete_notebook = property(lambda self: self.root / "solutions" / f"{self.name}.ipynb")
    student_notebook = property(lambda self: self.root / "notebooks" / f"{self.name}.ipynb")
    student_script = property(lambda self: self.root / "notebooks" / f"{self.name}.py")
    module = property(lambda self: self.root / "course_lib" / "chapters" / f"{self.slug}.py")
    checks = property(lambda self: self.root / "course_lib" / "checks" / f"ch{self.number}.py")

    def relative(self, path: Path) -> str:
        """The path as a reader in the repository's root would type it."""
        return path.relative_to(self.root).as_posix()


def chapters(root: Path = ROOT) -> list[Chapter]:
    """Every chapter that has a source, in order."""
    return [Chapter(path.stem, root) for path in sorted((root / "solutions").glob("[0-9][0-9]_*.py"))]


def find_chapter(name: str, root: Path = ROOT) -> Chapter:
    """The chapter called `name`: its number (`1`, `01`), its slug (`cameras`) or both (`01_cameras`)."""
    known = chapters(root)
    for chapter in known:
        if name in (chapter.name, chapter.slug, chapter.number, str(int(chapter.number)), f"{chapter.name}.py"):
            return chapter
    raise ValueError(f"no chapter is called {name!r}: use one of {', '.join(chapter.name for chapter in known) or '-'}")


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and what to do. A fatal one stops the chapter's build, any other is only reported."""

    file: str
    line: int
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Exercise:
    """A function that wears `@exercise(id)`; `node` counts its lines from the start of the cell."""

    id: str
    qualname: str
    node: ast.FunctionDef


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the source; `line` is where its first line stands in the file, `section` the heading above it."""

    kind: str
    source: str
    tags: tuple[str, ...]
    line: int
    section: str

    @property
    def is_export(self) -> bool:
        return self.kind == "code" and "export" in self.tags

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed code, the plot magic aside; SyntaxError where it is not Python."""
        python = "\n".join("pass" if line.strip() == PLOT_MAGIC else line for line in self.source.splitlines())
        return ast.parse(python)

    @cached_property
    def exercises(self) -> list[Exercise]:
        """The exercises among the cell's functions and methods."""
        return [
            Exercise(decorator.args[0].value, qualname, node)
            for qualname, node in named_functions(self.tree)
            for decorator in node.decorator_list
            if is_call_of(decorator, "exercise") and has_text_argument(decorator)
        ]


def read_cells(chapter: Chapter) -> list[Cell]:
    """The cells of the chapter's source, each with the line where it starts."""
    text = chapter.source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    starts = [number + 1 for number, line in enumerate(text.splitlines(), 1) if line.startswith("# %%")]
    starts = [1] * (len(notebook.cells) - len(starts)) + starts  # text above the first mark is a cell too
    cells, section = [], ""
    for cell, line in zip(notebook.cells, starts, strict=False):
        section = (last_heading(cell.source) if cell.cell_type == "markdown" else "") or section
        cells.append(Cell(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ())), line, section))
    return cells


def last_heading(markdown: str) -> str:
    """The last heading of the text that names a section: an exercise's heading does not."""
    headings = re.findall(r"^#{2,4} +(.+?)\s*$", markdown, flags=re.M)
    return next((heading for heading in reversed(headings) if not heading.startswith("Exercise")), "")


def title(chapter: Chapter, cells: list[Cell]) -> str:
    """The title without its number: `Cameras` from `# Chapter 01: Cameras`; empty where there is none."""
    text = "\n".join(cell.source for cell in cells if cell.kind == "markdown")
    found = re.search(rf"^# Chapter {chapter.number}: *(.+?)\s*$", text, flags=re.M)
    return found.group(1) if found else ""


def named_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of the module and every method of its classes, with its qualified name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{sub.name}", sub) for sub in node.body if isinstance(sub, ast.FunctionDef))


def is_call_of(node: ast.AST, name: str) -> bool:
    """Whether the node is the call `name(...)`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def has_text_argument(call: ast.Call) -> bool:
    """Whether the call's first argument is a string written out."""
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)


def regions(source: str) -> list[tuple[int, int]]:
    """(first, last) line of every solution region with its marks, counted from 1; ValueError(line, words) if broken."""
    found, begin = [], 0
    for number, line in enumerate(source.splitlines(), 1):
        mark = MARK.match(line)
        if mark and mark.group(1) == "BEGIN":
            if begin:
                raise ValueError(number, "BEGIN SOLUTION inside another region: end that one first")
            begin = number
        elif mark:
            if not begin:
                raise ValueError(number, "END SOLUTION without a BEGIN SOLUTION above it in this cell")
            found.append((begin, number))
            begin = 0
    if begin:
        raise ValueError(begin, "BEGIN SOLUTION is never closed: write `# END SOLUTION` under the answer")
    return found


def find_problems(chapter: Chapter, cells: list[Cell]) -> list[Problem]:
    """Everything that the build refuses in this chapter, in the order of its lines."""
    file, found = chapter.relative(chapter.source), []
    if not title(chapter, cells):
        found.append(Problem(file, 1, f"no title: start the text with `# Chapter {chapter.number}: Name`"))
    for cell in cells:
        rules = (code_problems if cell.kind == "code" else text_problems)(chapter, cell)
        found += [Problem(file, cell.line + line - 1, message) for line, message in rules]
    if not any(problem.fatal for problem in found):
        found += exercise_set_problems(chapter, cells)
    return sorted(found, key=lambda problem: (problem.file, problem.line))


Rule = Iterator[tuple[int, str]]  # (line within the cell, what is wrong and what to do)


def text_problems(chapter: Chapter, cell: Cell) -> Rule:
    """Rules for every cell: no absolute path; for text, no solution marks."""
    for number, line in enumerate(cell.source.splitlines(), 1):
        if found := ABSOLUTE_PATH.search(line):
            yield number, f"the absolute path {found.group()!r}… holds on one machine only: use course_lib.paths"
        if cell.kind != "code" and MARK.match(line):
            yield number, "a solution mark in a text cell: answers stand in code cells"


def code_problems(chapter: Chapter, cell: Cell) -> Rule:
    """Rules for a code cell: parses, no shell or magic lines, imports in order, regions inside exercises."""
    yield from text_problems(chapter, cell)
    lines = enumerate(cell.source.splitlines(), 1)
    refused = [number for number, line in lines if MAGIC.match(line) and line.strip() != PLOT_MAGIC]
    words = f"only `{PLOT_MAGIC}` may stand here: call Python instead of `!` or `%`"
    yield from ((number, words) for number in refused)
    if refused:
        return
    try:
        tree = cell.tree
    except SyntaxError as error:
        yield error.lineno or 1, f"not valid Python: {error.msg}"
        return
    yield from import_problems(chapter, cell, tree)
    yield from region_problems(cell)
    yield from exercise_problems(chapter, cell, tree)
    if cell.is_export:
        yield from export_problems(tree)


def export_problems(tree: ast.Module) -> Rule:
    """An export cell defines things and does nothing else: importing the module must be free of effects."""
    words = "an export cell holds imports, assignments, functions and classes: move this to its own cell"
    yield from ((node.lineno, words) for node in tree.body if not isinstance(node, EXPORTABLE))


def import_problems(chapter: Chapter, cell: Cell, tree: ast.Module) -> Rule:
    """Chapter N imports only chapters before it; exported code imports only what stands below the chapters."""
    for line, module in imported_modules(tree):
        if module.startswith("course_lib.chapters."):
            yield from ((line, message) for message in chapter_import_problem(chapter, cell, module.split(".")[2]))
        elif cell.is_export and not may_export(module):
            yield line, f"exported code cannot import {module}: import it in a cell without the `export` tag"


def chapter_import_problem(chapter: Chapter, cell: Cell, slug: str) -> Iterator[str]:
    """What is wrong with importing the chapter `slug` here; a cell that is not exported may use its own chapter's."""
    numbers = {known.slug: known.number for known in chapters(chapter.root)}
    if slug not in numbers:
        yield f"no chapter is called {slug!r}: course_lib.chapters has {', '.join(numbers)}"
    elif numbers[slug] > chapter.number or (numbers[slug] == chapter.number and cell.is_export):
        yield f"chapter {chapter.number} cannot import chapter {numbers[slug]} ({slug}): only chapters before it"


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions too; `from course_lib.chapters import x` names x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in ("course_lib", "course_lib.chapters"):
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "."


def may_export(module: str) -> bool:
    """Whether exported code may import this module (`course_lib.exercises` is taken out by the build)."""
    return module.split(".")[0] in EXPORT_PACKAGES or module in EXPORT_COURSE_MODULES | {"course_lib.exercises"}


def region_problems(cell: Cell) -> Rule:
    """Marks pair up, hold code, and stand inside one exercise."""
    try:
        found = regions(cell.source)
    except ValueError as error:
        line, message = error.args
        yield line, message
        return
    lines = cell.source.splitlines()
    for begin, end in found:
        code = [number for number in range(begin + 1, end) if lines[number - 1].strip(" \t").partition("#")[0]]
        if not code:
            yield begin, "the solution region is empty: write the answer between the marks"
        elif not any(e.node.lineno < code[0] and code[-1] <= e.node.end_lineno for e in cell.exercises):
            yield begin, 'the solution region stands outside a function with @exercise("NN.k"): move it inside one'


def exercise_problems(chapter: Chapter, cell: Cell, tree: ast.Module) -> Rule:
    """Each exercise can be stubbed, forwarded to the exported answer and checked."""
    named = {id(node) for _, node in named_functions(tree)}
    for node in ast.walk(tree):
        calls = [d for d in getattr(node, "decorator_list", ()) if is_call_of(d, "exercise")]
        if calls and id(node) not in named:
            yield node.lineno, "an exercise is a function of the module or a method, not a class and not nested"
        elif calls and not has_text_argument(calls[0]):
            yield node.lineno, f'name the exercise: @exercise("{chapter.number}.1")'
    for exercise in cell.exercises:
        yield from ((exercise.node.lineno, message) for message in one_exercise_problems(chapter, cell, exercise))


def one_exercise_problems(chapter: Chapter, cell: Cell, exercise: Exercise) -> Iterator[str]:
    """What is wrong with this exercise, by itself."""
    node = exercise.node
    if not re.fullmatch(rf"{chapter.number}\.\d+", exercise.id):
        yield f"exercise {exercise.id!r} is in chapter {chapter.number}: call it {chapter.number}.1, …"
    if not cell.is_export:
        yield f"exercise {exercise.id} must be exported, or who skips it has no answer: tag the cell `export`"
    if node.name == "__init__":
        yield f"exercise {exercise.id} is an __init__: make a method or a function of what is to be learned"
    if any(is_call_of(sub, "super") and not sub.args for sub in ast.walk(node)):
        yield f"exercise {exercise.id} calls super() without arguments, which fails when forwarded: name the class"
    if not any(map(MARK.match, cell.source.splitlines()[node.lineno - 1 : node.end_lineno])):
        yield f"exercise {exercise.id} has no answer marks: write # BEGIN SOLUTION and # END SOLUTION around the answer"


def exercise_set_problems(chapter: Chapter, cells: list[Cell]) -> Iterator[Problem]:
    """Ids are unique; each exercise has a check with wrong answers, and a cell that calls `check`."""
    file, seen = chapter.relative(chapter.source), set()
    tested, wrong = declared_checks(chapter.checks)
    checked = {name for cell in cells if cell.kind == "code" for name in checked_names(cell.tree)}
    checks_file = chapter.relative(chapter.checks)
    for cell in cells:
        for exercise in cell.exercises if cell.kind == "code" else ():
            line = cell.line + exercise.node.lineno - 1
            if exercise.id in seen:
                yield Problem(file, line, f"exercise {exercise.id} is there twice: give this one the next free number")
            seen.add(exercise.id)
            if exercise.qualname not in checked:
                words = f"exercise {exercise.id} is never checked: add a cell `check({exercise.qualname})` under it"
                yield Problem(file, line, words, fatal=False)
            if exercise.id not in tested:
                words = (
                    f'exercise {exercise.id} has no check: write one with @check_for("{exercise.id}") in {checks_file}'
                )
                yield Problem(file, line, words, fatal=False)
            elif exercise.id not in wrong:
                words = (
                    f'the check of {exercise.id} has no wrong answer: add one with @wrong_answer("{exercise.id}", …)'
                )
                yield Problem(checks_file, tested[exercise.id], words, fatal=False)


def checked_names(tree: ast.Module) -> Iterator[str]:
    """What the cell's `check(...)` calls test."""
    return (ast.unparse(node.args[0]) for node in ast.walk(tree) if is_call_of(node, "check") and node.args)


def declared_checks(path: Path) -> tuple[dict[str, int], set[str]]:
    """(exercise id -> line of its check, ids that have wrong answers), read without importing the file."""
    tested, wrong = {}, set()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()
    for node in nodes:
        if is_call_of(node, "check_for") and has_text_argument(node):
            tested[node.args[0].value] = node.lineno
        elif is_call_of(node, "wrong_answer") and has_text_argument(node):
            wrong.add(node.args[0].value)
    return tested, wrong


def chapter_facts(chapter: Chapter) -> dict[str, str]:
    """What `course list` shows, from the table in the chapter's header; `-` where the header does not say."""
    cells = read_cells(chapter)
    text = "\n".join(cell.source for cell in cells if cell.kind == "markdown")
    found = re.findall(r"^\|[ *]*(?:the )?(reading|exercise|run)s?[ *]*\|\s*(.+?)\s*\|$", text, flags=re.M | re.I)
    rows = {key.lower(): words for key, words in found}
    minutes = {key: re.search(r"(\d+) ?min", rows.get(key, "")) for key in ("reading", "exercise")}
    facts = {key: f"{found.group(1)} min" if found else "-" for key, found in minutes.items()}
    return {"title": title(chapter, cells) or "-", **facts, "run": rows.get("run", "-").partition(";")[0]}

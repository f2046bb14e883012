"""From each chapter's source: the student edition, the complete edition and the module of what it exports.

`course build` writes them and never executes anything. A stored output stays where the cell's id and code are the same.
What was edited by hand in a generated place is kept beside it as `*.yours.*` before it is written again.
"""

import ast
import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from ruff import find_ruff_bin

from course_lib.chapter_source import (
    MARK,
    Cell,
    Chapter,
    Problem,
    chapters,
    find_problems,
    imported_modules,
    is_call_of,
    may_export,
    read_cells,
    regions,
    title,
)
from course_lib.files import text_hash, write_atomic
from course_lib.paths import ROOT

OUTPUT_LIMIT = 1_500_000  # bytes of stored outputs in a notebook
EXERCISES_IMPORT = re.compile(r"^from course_lib\.exercises import (?P<names>\w+(?:, \w+)*)$", flags=re.M)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PAIR_FORMATS = "ipynb,py:percent"
SEAL = "# course build sealed the text above: "


# --- notebooks ------------------------------------------------------------------------------------------------------


def student_source(source: str) -> str:
    """The cell with each solution region replaced by `raise TODO` at the region's indentation."""
    lines = source.splitlines()
    for begin, end in reversed(regions(source)):
        indentation = re.match(r"\s*", lines[begin - 1]).group()
        lines[begin - 1 : end] = [f"{indentation}raise TODO"]
    return "\n".join(lines)


def with_todo_import(sources: list[str]) -> list[str]:
    """Adds TODO to the first `from course_lib.exercises import …`, which the student's cells need."""
    for number, source in enumerate(sources):
        if found := EXERCISES_IMPORT.search(source):
            names = sorted({"TODO", *found["names"].split(", ")}, key=lambda name: (not name.isupper(), name))
            line = f"from course_lib.exercises import {', '.join(names)}"
            return [*sources[:number], EXERCISES_IMPORT.sub(line, source, count=1), *sources[number + 1 :]]
    return sources


def make_notebook(chapter: Chapter, cells: list[Cell], student: bool) -> NotebookNode:
    """One edition, without outputs: same source, same notebook, same cell ids."""
    sources = [cell.source for cell in cells]
    if student:
        sources = [student_source(s) if cell.kind == "code" else s for cell, s in zip(cells, sources, strict=True)]
        sources = (
            with_todo_import(sources) if any(cell.kind == "code" and cell.exercises for cell in cells) else sources
        )
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    seen = Counter()
    for cell, source in zip(cells, sources, strict=True):
        new_cell = getattr(nbformat.v4, f"new_{cell.kind}_cell")
        identity = cell_id(chapter, cell.kind, source, seen)
        notebook.cells.append(new_cell(source, id=identity, metadata={"tags": list(cell.tags)} if cell.tags else {}))
    if student:
        notebook.metadata.jupytext = {"formats": PAIR_FORMATS}
    notebook.metadata.course_source = {"file": chapter.relative(chapter.source), "sha256": source_hash(notebook)}
    return notebook


def cell_id(chapter: Chapter, kind: str, source: str, seen: Counter) -> str:
    """An id from the chapter, the cell's text and how often that text came before."""
    key = f"{chapter.name}\n{kind}\n{source}"
    seen[key] += 1
    return text_hash(f"{key}\n{seen[key]}", length=16)


def source_hash(notebook: NotebookNode) -> str:
    """The sha256 of what the cells say, outputs and empty cells aside."""
    said = [(cell.cell_type, cell.source) for cell in notebook.cells if cell.source.strip()]
    return text_hash(json.dumps(said))


def carry_outputs(notebook: NotebookNode, stored: NotebookNode | None) -> NotebookNode:
    """Takes each stored output over where the cell's id and code are unchanged, with the record of the run."""
    cells = {
        (cell.get("id"), cell.source): cell for cell in (stored.cells if stored else ()) if cell.cell_type == "code"
    }
    kept = 0
    for cell in notebook.cells:
        old = cells.get((cell.id, cell.source))
        if cell.cell_type == "code" and old is not None:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
            kept += old.execution_count is not None
    for key in ("course_run", "widgets") if kept else ():
        if key in stored.metadata:
            notebook.metadata[key] = stored.metadata[key]
    return notebook


def clear_outputs(notebook: NotebookNode) -> None:
    """Takes every output, count and record of a run out of the notebook."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for key in ("course_run", "widgets"):
        notebook.metadata.pop(key, None)


def notebook_text(notebook: NotebookNode) -> str:
    """The notebook as a file, in nbformat's own layout."""
    return nbformat.writes(notebook) + "\n"


def script_text(notebook: NotebookNode) -> str:
    """The Jupytext py:percent half of the student's pair."""
    bare = nbformat.from_dict({**notebook, "metadata": {"kernelspec": KERNEL, "jupytext": {"formats": PAIR_FORMATS}}})
    text = jupytext.writes(bare, fmt="py:percent")
    return re.sub(r"^# {7}jupytext_version: .*\n", "", text, flags=re.M)  # or every machine would write another file


def read_notebook(path: Path) -> NotebookNode | None:
    """The notebook on disk; None where there is none or it cannot be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError):
        return None


# --- the module -----------------------------------------------------------------------------------------------------


def module_text(chapter: Chapter, cells: list[Cell], problems: list[Problem]) -> str:
    """What the chapter's `export` cells define, as a module. What ruff objects to is added to `problems`."""
    # imports of the other cells are offered too; ruff takes out what the exported code does not use
    imports = sorted({line for cell in cells if cell.kind == "code" for line in import_lines(chapter, cell)})
    source = chapter.relative(chapter.source)
    docstring = f'"""{title(chapter, cells)}: made by `course build` from {source}. Edit there, never here."""'
    body = [piece for cell in cells if cell.is_export for piece in definitions(chapter, cell)]
    text, complaints = ruff_clean("\n".join([docstring, "", *imports, "", *body, ""]), chapter.relative(chapter.module))
    complaints += foreign_imports(text)
    problems += [Problem(source, 1, f"the exported module: {words}", fatal=False) for words in complaints]
    return f"{text}\n\n{SEAL}{text_hash(text, length=16)}\n"


def import_lines(chapter: Chapter, cell: Cell) -> list[str]:
    """The cell's imports, those of the exercise machinery and of the chapter's own module aside."""
    nodes = [node for node in cell.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    left_out = ("course_lib.exercises", f"course_lib.chapters.{chapter.slug}")
    return [ast.unparse(node) for node in nodes if getattr(node, "module", "") not in left_out]


def foreign_imports(text: str) -> list[str]:
    """What the module uses but may not import: an import of a cell that is not exported is seen only here."""
    modules = {name for _, name in imported_modules(ast.parse(text)) if not name.startswith("course_lib.chapters.")}
    return [f"it uses {name}, which exported code cannot import" for name in sorted(modules) if not may_export(name)]


def definitions(chapter: Chapter, cell: Cell) -> list[str]:
    """Each statement of an export cell with the comments above it; a function or a class gets its provenance."""
    pieces, end = [], 0
    names = {id(exercise.node): exercise.id for exercise in cell.exercises}
    for node in cell.tree.body:
        text = clean_lines(cell, end, node.end_lineno).strip("\n")
        end = node.end_lineno
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = f"\n\n{provenance(chapter, cell, names.get(id(node)))}\n{text}"
        pieces.append(text)
    return [*pieces, clean_lines(cell, end, len(cell.source.splitlines()))]


def provenance(chapter: Chapter, cell: Cell, exercise: str | None) -> str:
    """Where a definition is taught."""
    section = cell.section if len(cell.section) <= 70 else cell.section[:69] + "…"
    parts = [f"Chapter {chapter.number}", f'section "{section}"' if section else "", f"exercise {exercise or ''}"]
    return "# " + ", ".join(part for part in (parts if exercise else parts[:2]) if part)


def clean_lines(cell: Cell, start: int, end: int) -> str:
    """Lines start+1..end of the cell without solution marks and `@exercise(...)`."""
    decorators = [d for e in cell.exercises for d in e.node.decorator_list if is_call_of(d, "exercise")]
    dropped = {line for d in decorators for line in range(d.lineno, d.end_lineno + 1)}
    lines = list(enumerate(cell.source.splitlines(), 1))[start:end]
    return "\n".join(line for number, line in lines if number not in dropped and not MARK.match(line))


def ruff_clean(text: str, filename: str) -> tuple[str, list[str]]:
    """The text with its imports sorted, unused ones removed, formatted; and what ruff still objects to."""
    text = run_ruff(["check", "--fix", "--exit-zero", "--quiet"], text, filename)
    text = run_ruff(["format", "--quiet"], text, filename).rstrip() + "\n"
    return text, run_ruff(["check", "--quiet", "--output-format=concise"], text, filename).splitlines()


def run_ruff(arguments: list[str], text: str, filename: str) -> str:
    """What ruff makes of the text, under the course's own rules."""
    rules = ["--config", str(ROOT / "pyproject.toml"), "--stdin-filename", filename, "--no-cache"]
    command = [find_ruff_bin(), *arguments, *rules, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    if done.returncode > 1:  # 1 says that it found something, which its output tells
        raise RuntimeError(f"ruff failed on {filename}: {done.stderr.strip()}")
    return done.stdout


# --- planning and writing -------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What one chapter's generated files should hold, what is wrong with its source, which were edited by hand."""

    chapter: Chapter
    problems: list[Problem]
    files: dict[Path, str] = field(default_factory=dict)
    student: NotebookNode | None = None
    edited: list[Path] = field(default_factory=list)

    @property
    def changed(self) -> list[Path]:
        """The files that are missing or say something else."""
        return [path for path, text in self.files.items() if not path.exists() or read_text(path) != text]


def read_text(path: Path) -> str:
    """The file's text; what is not text at all comes back with marks in place of the bad bytes."""
    return path.read_text(encoding="utf-8", errors="replace")


def plan_chapter(chapter: Chapter, executed: NotebookNode | None = None) -> Plan:
    """Everything that the chapter's source makes, with the outputs of `executed` or else those on disk; or why not."""
    cells = read_cells(chapter)
    plan = Plan(chapter, find_problems(chapter, cells))
    if any(problem.fatal for problem in plan.problems):
        return plan
    stored = read_notebook(chapter.student_notebook)
    plan.student = carry_outputs(make_notebook(chapter, cells, student=True), executed or stored)
    complete = make_notebook(chapter, cells, student=False)
    plan.files = {
        # the script before the notebook: Jupyter takes the younger one's cells
        chapter.student_script: script_text(plan.student),
        chapter.student_notebook: notebook_text(plan.student),
        chapter.complete_notebook: notebook_text(complete),
    }
    if any(cell.is_export for cell in cells):
        plan.files[chapter.module] = module_text(chapter, cells, plan.problems)
    plan.edited = [path for path in plan.changed if path.exists() and was_edited(chapter, path, stored)]
    return plan


def was_edited(chapter: Chapter, path: Path, stored: NotebookNode | None) -> bool:
    """Whether somebody changed the generated file since the build wrote it."""
    if path == chapter.module:
        text, _, seal = read_text(path).rpartition(f"\n\n{SEAL}")
        return seal.strip() != text_hash(text, length=16)
    # the script carries no hash of its own: it says what its notebook said when both were written
    seal_holder = stored if path == chapter.student_script else read_notebook(path)
    seal = seal_holder.metadata.get("course_source", {}).get("sha256") if seal_holder else None
    content = jupytext.reads(read_text(path), fmt="py:percent") if path.suffix == ".py" else seal_holder
    return seal is None or content is None or source_hash(content) != seal


def keep_copy(path: Path) -> Path:
    """A copy of the file beside it, under a name that is free: `01_cameras.yours.ipynb`."""
    content = path.read_bytes()
    names = (path.with_name(f"{path.stem}.yours{number or ''}{path.suffix}") for number in count())
    copy = next(name for name in names if not name.exists() or name.read_bytes() == content)
    write_atomic(copy, content)
    return copy


def write_plan(plan: Plan) -> list[str]:
    """Writes what changed and says so; what was edited by hand is copied first."""
    said = []
    for path in plan.changed:
        name = plan.chapter.relative(path)
        if path in plan.edited:
            source = plan.chapter.relative(plan.chapter.source)
            said.append(
                f"{name} was edited by hand: yours is kept as {keep_copy(path).name}; chapters change in {source}"
            )
        write_atomic(path, plan.files[path])
        said.append(f"wrote {name}")
    return said


def build(root: Path = ROOT) -> tuple[list[str], list[Problem]]:
    """Writes every generated file of every chapter: (what was done, what is wrong with the sources)."""
    said, problems = [], []
    package = root / "course_lib" / "chapters" / "__init__.py"
    if not package.exists():
        write_atomic(package, '"""What the chapters export, made by `course build` from `solutions/`."""\n')
    for chapter in chapters(root):
        plan = plan_chapter(chapter)
        said += write_plan(plan)
        problems += plan.problems
    return said, problems


# --- the drift gate -------------------------------------------------------------------------------------------------


def check(root: Path = ROOT) -> tuple[list[str], list[str]]:
    """(every difference between the sources and what is on disk, the commands that mend them)."""
    found, commands = [], []
    for chapter in chapters(root):
        plan = plan_chapter(chapter)
        found += [str(problem) for problem in plan.problems]
        for path in plan.changed:
            how = "was edited by hand" if path in plan.edited else "is out of date" if path.exists() else "is missing"
            found.append(f"{chapter.relative(path)} {how}: it must come from {chapter.relative(chapter.source)}")
            commands.append("course build")
        missing = output_problems(plan.student) if plan.student else []
        found += [f"{chapter.relative(chapter.student_notebook)}: {words}" for words in missing]
        commands += [f"course run {chapter.number} --store"] if missing else []
    found += orphans(root)
    return found, list(dict.fromkeys(sorted(commands, key=lambda command: command != "course build")))


def orphans(root: Path) -> list[str]:
    """Generated files whose chapter has no source any more."""
    patterns = (
        "notebooks/[0-9][0-9]_*.ipynb",
        "notebooks/[0-9][0-9]_*.py",
        "solutions/*.ipynb",
        "course_lib/chapters/*.py",
    )
    there = {path for pattern in patterns for path in root.glob(pattern) if ".yours" not in path.name}
    made = {root / "course_lib" / "chapters" / "__init__.py"}
    for chapter in chapters(root):
        made |= {chapter.student_notebook, chapter.student_script, chapter.complete_notebook, chapter.module}
    return [
        f"{path.relative_to(root).as_posix()} has no source in solutions/: delete it" for path in sorted(there - made)
    ]


def output_problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with the stored outputs: a cell that never ran, an error, too many bytes, a smoke run."""
    code = [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    never = [f"{number}" for number, cell in code if cell.execution_count is None]
    found = [f"no stored output in cell{'s' * (len(never) > 1)} {', '.join(never)}"] if never else []
    for number, cell in code:
        errors = [output for output in cell.outputs if output.output_type == "error"]
        found += [f"cell {number} stores an error: {error.ename}: {error.evalue}" for error in errors]
    size = len(json.dumps([[cell.outputs for _, cell in code], notebook.metadata.get("widgets", {})]))
    if size > OUTPUT_LIMIT:
        found.append(
            f"{size / 1e6:.2f} MB of stored outputs, {OUTPUT_LIMIT / 1e6} MB allowed: smaller or fewer pictures"
        )
    if notebook.metadata.get("course_run", {}).get("scale") == "smoke":
        found.append("the stored outputs come from a smoke run, which shows nothing")
    return found

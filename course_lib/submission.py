"""What a student's notebook says about an exercise: its function, with the definitions that it uses, and nothing else.

The notebook is never run as a whole. Of its code cells come the function that wears `@exercise("06.1")` and, one
after another, the statements that define names it uses: helpers, imports, constants. Training runs and plots stay out.
"""

import ast
import json
import linecache
import symtable
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from course_lib.chapter_source import is_call_of, named_functions
from course_lib.exercises import mentions_todo

LARGEST = 64_000_000  # bytes of a notebook


class SubmissionError(ValueError):
    """A notebook, or an exercise in it, that cannot be read or set up; the message is for the student."""


@dataclass(frozen=True)
class Statement:
    """A top-level statement, the number of its code cell and that cell's code."""

    node: ast.stmt
    cell: int
    code: str

    @property
    def filename(self) -> str:
        return f"<code cell {self.cell}>"


def read_text(path: Path) -> str:
    """A notebook's text. SubmissionError where it is too large or cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise SubmissionError(
                f"it holds {path.stat().st_size:,} bytes, {LARGEST:,} at most are read: clear outputs"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SubmissionError(f"it cannot be read: {error}") from None


def code_cells(text: str) -> list[str]:
    """The code of each code cell, lines that only Jupyter understands left empty. SubmissionError if no notebook."""
    try:
        cells = json.loads(text)["cells"]
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        joined = [source if isinstance(source, str) else "".join(source) for source in sources]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SubmissionError(f"it is not a notebook ({type(error).__name__}: {error})") from None
    return ["\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in code.split("\n")) for code in joined]


def statements(cells: list[str], exercise: str) -> list[Statement]:
    """Every top-level statement. SubmissionError where the exercise's own cell is not Python."""
    found = []
    for number, code in enumerate(cells, 1):
        try:
            found += [Statement(node, number, code) for node in ast.parse(code).body]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if f'exercise("{exercise}")' in code.replace("'", '"'):
                line = getattr(error, "lineno", None)
                where = f" in line {line}" if line else ""
                raise SubmissionError(
                    f"code cell {number} is not valid Python{where}: {getattr(error, 'msg', error)}"
                ) from None
    return found


def target(found: list[Statement], exercise: str) -> tuple[int, str] | None:
    """(place, qualified name) of the last function that wears the exercise; None where none does."""
    for place in reversed(range(len(found))):
        for name, node in named_functions(ast.Module([found[place].node], [])):
            calls = [each for each in node.decorator_list if is_call_of(each, "exercise") and each.args]
            if any(isinstance(call.args[0], ast.Constant) and call.args[0].value == exercise for call in calls):
                return place, name
    return None


def needed(found: list[Statement], place: int) -> list[Statement]:
    """The statement at `place` and, in their order, all that define what it uses."""
    wanted, chosen = set(names_used(found[place].node)), {place}
    grown = True
    while grown:
        grown = False
        for number, statement in enumerate(found):
            if number not in chosen and wanted & set(names_defined(statement.node)):
                chosen.add(number)
                wanted |= set(names_used(statement.node))
                grown = True
    return [found[number] for number in sorted(chosen)]


def names_used(node: ast.stmt) -> Iterator[str]:
    """The global names that a statement, or a function inside it, reads."""
    tables = [symtable.symtable(ast.unparse(node), "<statement>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        yield from (
            each.get_name() for each in table.get_symbols() if each.is_referenced() and (top or each.is_global())
        )


def names_defined(node: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement binds; `*` of an import counts as none."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((each.asname or each.name).partition(".")[0] for each in node.names)
    else:
        yield from (
            each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        )


def answer(text: str, exercise: str) -> Callable | None:
    """The student's own function, set up: this runs the student's code. None where it is not there or still open.

    SubmissionError says what stands in the way."""
    found = statements(code_cells(text), exercise)
    at = target(found, exercise)
    if at is None:
        return None
    module = types.ModuleType("notebook")
    sys.modules[module.__name__] = module
    exec("from course_lib.exercises import TODO, check, exercise", module.__dict__)
    earlier = ""
    for statement in needed(found, at[0]):
        said = run_statement(statement, module.__dict__)
        if said and statement is found[at[0]]:
            raise SubmissionError(said + (f"; before it, {earlier}" if earlier else ""))
        earlier = earlier or said
    function = resolved(module, at[1])
    return None if mentions_todo(function.__code__) else function


def run_statement(statement: Statement, names: dict) -> str:
    """Run one statement -> what went wrong, in words."""
    lines = [f"{line}\n" for line in statement.code.split("\n")]
    linecache.cache[statement.filename] = (len(statement.code), None, lines, statement.filename)
    try:
        exec(compile(ast.Module([statement.node], []), statement.filename, "exec"), names)
    except BaseException as error:  # a notebook may raise anything, SystemExit included
        return f"line {statement.node.lineno} of code cell {statement.cell} raised {type(error).__name__}: {error}"
    return ""


def resolved(module: types.ModuleType, name: str) -> Callable:
    """The plain function of a name such as `Block.forward`, its decorators taken off."""
    import inspect

    found = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    found = inspect.unwrap(getattr(found, "__func__", found))
    if not inspect.isfunction(found):
        raise SubmissionError(f"{name} is no plain function any more, but {type(found).__name__}")
    return found

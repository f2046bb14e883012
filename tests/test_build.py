"""The build: what it makes, what it keeps, what it refuses."""

import ast
import os
import subprocess
import sys

import jupytext
import nbformat
import pytest
from conftest import BODIES, CAMERAS, write_course

from course_lib import build
from course_lib.chapter_source import Chapter, find_chapter, find_problems, read_cells

GENERATED = (
    "notebooks/01_cameras.ipynb",
    "notebooks/01_cameras.py",
    "solutions/01_cameras.ipynb",
    "course_lib/chapters/cameras.py",
    "course_lib/chapters/__init__.py",
)


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def store_outputs(root, text="42"):
    """Gives every code cell of chapter 01's student notebook an output, as a run would."""
    path = root / "notebooks/01_cameras.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text=text)], number + 1
    notebook.metadata.course_run = {"scale": "laptop", "commit": "abc", "minutes": 1.0}
    nbformat.write(notebook, path)


def problems_of(root, name="01_cameras"):
    chapter = Chapter(name, root)
    return [str(problem) for problem in find_problems(chapter, read_cells(chapter))]


def test_makes_every_file_and_nothing_twice(course):
    said, problems = build.build(course)
    assert problems == []
    assert {f"wrote {name}" for name in GENERATED if "__init__" not in name} <= set(said)
    before = contents(course)
    assert set(GENERATED) <= set(before)
    assert build.build(course) == ([], [])
    assert contents(course) == before


def test_same_source_elsewhere_same_bytes(tmp_path):
    made = []
    for name in ("here", "there"):
        root = write_course(tmp_path / name)
        build.build(root)
        made.append(contents(root))
    assert made[0] == made[1]


def test_student_edition_has_no_answers_and_parses(course):
    build.build(course)
    notebook = nbformat.read(course / "notebooks/01_cameras.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "SOLUTION" not in code and "return HALF" not in code and "math.pi" not in code
    assert "from course_lib.exercises import TODO, check, exercise" in code
    assert '    """Half of the value."""\n    raise TODO' in code
    assert "        squared = self.radius**2\n        raise TODO" in code
    assert "%matplotlib inline" in code
    ast.parse(code.replace("%matplotlib inline", ""))
    script = jupytext.read(course / "notebooks/01_cameras.py")
    assert [cell.source for cell in script.cells] == [cell.source for cell in notebook.cells]
    assert "TODO" not in "".join(cell.source for cell in nbformat.read(course / "solutions/01_cameras.ipynb", 4).cells)


def test_module_holds_the_answers_with_their_provenance(course):
    build.build(course)
    text = (course / "course_lib/chapters/cameras.py").read_text(encoding="utf-8")
    assert text.startswith('"""Cameras: made by `course build` from solutions/01_cameras.py.')
    assert "exercise(" not in text and "check(" not in text and "SOLUTION" not in text and "course_lib" not in text
    where = '# Chapter 01, section "Halves and wholes"'
    assert f"{where}, exercise 01.1\n# so that a half is written once\ndef halve" in text
    assert f"{where}\nclass Circle" in text
    names = {}
    exec(compile(text, "cameras", "exec"), names)
    assert names["halve"](6.0) == 3.0 and 3.14 < names["Circle"](1.0).area() < 3.15


def test_module_imports_only_what_it_uses_and_its_chapters(course):
    build.build(course)
    bodies = (course / "course_lib/chapters/bodies.py").read_text(encoding="utf-8")
    assert "from course_lib.chapters.cameras import halve" in bodies
    assert "import math" in (course / "course_lib/chapters/cameras.py").read_text() and "import math" not in bodies


def test_outputs_stay_where_code_is_unchanged_and_go_elsewhere(course):
    build.build(course)
    store_outputs(course)
    build.build(course)  # brings nbformat's own layout of the stored file into the build's
    stored = contents(course)
    assert build.build(course)[0] == [] and contents(course) == stored
    write_course(course, CAMERAS.replace("half of six", "a half of six"))
    build.build(course)
    notebook = nbformat.read(course / "notebooks/01_cameras.ipynb", as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, 4, 5, None]
    assert notebook.metadata.course_run.scale == "laptop"
    assert list(course.rglob("*.yours*")) == []


def test_equal_cells_have_ids_of_their_own(tmp_path):
    build.build(write_course(tmp_path, CAMERAS + "\n# %%\nprint(1)\n\n# %%\nprint(1)\n"))
    notebook = nbformat.read(tmp_path / "notebooks/01_cameras.ipynb", as_version=4)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("name", [name for name in GENERATED if "__init__" not in name])
def test_edits_by_hand_are_reported_and_kept(course, name):
    build.build(course)
    path = course / name
    path.write_text(path.read_text(encoding="utf-8").replace("Half of", "One half of"), encoding="utf-8")
    edited = path.read_bytes()
    found, commands = build.check(course)
    assert any(line.startswith(f"{name} was edited by hand") and "solutions/01_cameras.py" in line for line in found)
    assert commands[0] == "course build"
    said, _ = build.build(course)
    assert any(line.startswith(f"{name} was edited by hand") for line in said)
    (copy,) = course.rglob("*.yours*")
    assert copy.read_bytes() == edited and path.read_bytes() != edited


def test_a_second_edit_does_not_replace_the_first_copy(course):
    build.build(course)
    path = course / "course_lib/chapters/cameras.py"
    for words in ("first", "second"):
        path.write_text(f"# {words}\n")
        build.build(course)
    assert {copy.read_text() for copy in path.parent.glob("*.yours*")} == {"# first\n", "# second\n"}


def test_a_learners_answers_are_kept(course):
    build.build(course)
    path = course / "notebooks/01_cameras.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("raise TODO", "return value / 2", 1), encoding="utf-8")
    write_course(course, CAMERAS.replace("half of six", "a half of six"))
    build.build(course)
    assert "return value / 2" in (course / "notebooks/01_cameras.yours.ipynb").read_text(encoding="utf-8")


def test_a_truncated_notebook_is_kept_and_made_again(course):
    build.build(course)
    path = course / "notebooks/01_cameras.ipynb"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    build.build(course)
    assert path.read_bytes() == whole
    assert (course / "notebooks/01_cameras.yours.ipynb").read_bytes() == whole[:500]


def test_check_names_drift_missing_outputs_errors_and_size(course):
    build.build(course)
    found, commands = build.check(course)
    assert any("no stored output in cells 2, 4, 5, 7, 8, 9" in line for line in found)
    assert commands == ["course run 01 --store", "course run 02 --store"]
    store_outputs(course, text="x" * 400_000)
    assert any("MB of stored outputs" in line for line in build.check(course)[0])
    write_course(course, CAMERAS + "\n# A line more.\n")
    found, commands = build.check(course)
    assert any("notebooks/01_cameras.ipynb is out of date" in line for line in found) and commands[0] == "course build"


def test_check_names_stored_errors_and_smoke_runs(course):
    build.build(course)
    store_outputs(course)
    path = course / "notebooks/01_cameras.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]
    notebook.metadata.course_run.scale = "smoke"
    nbformat.write(notebook, path)
    found = "\n".join(build.check(course)[0])
    assert "cell 2 stores an error: ValueError: no" in found and "smoke run" in found


def test_check_is_clean_when_all_is_well(course):
    build.build(course)
    store_outputs(course)
    build.build(course)
    found, _ = build.check(course)
    assert [line for line in found if "01_cameras" in line] == []


def test_files_without_a_source_are_named(course):
    build.build(course)
    (course / "solutions/02_bodies.py").unlink()
    found = [line for line in build.check(course)[0] if "has no source" in line]
    assert [line.split()[0] for line in found] == [
        "course_lib/chapters/bodies.py",
        "notebooks/02_bodies.ipynb",
        "notebooks/02_bodies.py",
        "solutions/02_bodies.ipynb",
    ]


REFUSED = {
    "nested": ("    return HALF * value", "    # BEGIN SOLUTION\n    return 1", "inside another region"),
    "unclosed": ("    return HALF * value\n    # END SOLUTION", "    return HALF * value", "never closed"),
    "end without begin": ("    # BEGIN SOLUTION\n    return HALF", "    return HALF", "without a BEGIN"),
    "empty": ("    return HALF * value\n", "", "region is empty"),
    "outside": ('@exercise("01.1")\n', "", "outside a function with @exercise"),
    "not marked": (
        "    # BEGIN SOLUTION\n    return HALF * value\n    # END SOLUTION",
        "    return 1",
        "no answer marks",
    ),
    "shell line": ("check(halve)", "!pip install x", "only `%matplotlib inline`"),
    "magic line": ("check(halve)", "# %timeit halve(1)", "only `%matplotlib inline`"),
    "absolute path": ('"half of six:"', '"/home/someone/data"', "absolute path"),
    "absolute path in text": ("## Halves", "## In C:\\temp: Halves", "absolute path"),
    "action in export": ("HALF = 0.5", "HALF = 0.5\nprint(HALF)", "an export cell holds"),
    "loop in export": ("HALF = 0.5", "for HALF in (0.5,):\n    pass", "an export cell holds"),
    "check in export": ("HALF = 0.5", "HALF = 0.5\ncheck(halve)", "an export cell holds"),
    "__init__": ("def area(self)", "def __init__(self)", "is an __init__"),
    "super": ("squared = self.radius**2", "squared = super().area()", "super() without arguments"),
    "number": ('"01.1"', '"02.1"', "is in chapter 01"),
    "twice": ('"01.2"', '"01.1"', "is there twice"),
    "no number": ('@exercise("01.1")', "@exercise()", "name the exercise"),
    "not exported": ('# %% tags=["export"]\nHALF', "# %%\nHALF", "must be exported"),
    "nested function": ('@exercise("01.1")\n', 'def outer():\n  @exercise("01.1")\n  def inner(): ...\n', "not nested"),
    "later chapter": ("import math", "from course_lib.chapters.bodies import quarter", "only chapters before it"),
    "later, another form": ("import math", "from course_lib.chapters import bodies", "only chapters before it"),
    "own chapter": ("HALF = 0.5", "from course_lib.chapters.cameras import halve", "only chapters before it"),
    "unknown chapter": ("import math", "import course_lib.chapters.hands", "no chapter is called 'hands'"),
    "foreign package": ("HALF = 0.5", "import matplotlib", "cannot import matplotlib"),
    "higher floor": ("HALF = 0.5", "from course_lib.plots import show", "cannot import course_lib.plots"),
    "not Python": ("HALF = 0.5", "HALF = = 0.5", "not valid Python"),
    "no title": ("# # Chapter 01: Cameras", "# # Cameras", "no title"),
}


@pytest.mark.parametrize("old, new, words", REFUSED.values(), ids=REFUSED)
def test_refused_with_line_and_remedy(tmp_path, old, new, words):
    assert old in CAMERAS
    root = write_course(tmp_path, CAMERAS.replace(old, new, 1))
    found = problems_of(root)
    assert any(words in line for line in found), found
    name, line, message = next(line for line in found if words in line).split(":", 2)
    assert name == "solutions/01_cameras.py" and int(line) > 0 and len(message) > 20


def test_the_line_is_the_line_of_the_file(tmp_path):
    root = write_course(tmp_path, CAMERAS.replace("HALF = 0.5", "HALF = 0.5\nprint(HALF)"))
    lines = (root / "solutions/01_cameras.py").read_text(encoding="utf-8").splitlines()
    (problem,) = problems_of(root)
    assert problem.startswith(f"solutions/01_cameras.py:{lines.index('print(HALF)') + 1}:")


def test_a_refused_chapter_leaves_its_files_and_builds_the_others(course):
    build.build(course)
    before = contents(course)
    write_course(course, CAMERAS.replace("HALF = 0.5", "print(0)"), BODIES.replace("A quarter", "One quarter"))
    said, problems = build.build(course)
    assert [problem.file for problem in problems] == ["solutions/01_cameras.py"]
    assert "wrote course_lib/chapters/bodies.py" in said
    after = contents(course)
    assert all(after[name] == before[name] for name in GENERATED)


def test_missing_checks_are_reported_but_do_not_stop_the_build(tmp_path):
    root = write_course(
        tmp_path, CAMERAS.replace("check(halve)", "halve(1)"), checks='@check_for("01.1")\ndef f(a): ...\n'
    )
    said, problems = build.build(root)
    text = "\n".join(map(str, problems))
    assert "01.1 is never checked: add a cell `check(halve)`" in text
    assert "the check of 01.1 has no wrong answer" in text and "exercise 01.2 has no check" in text
    assert "course_lib/checks/ch01.py:1:" in text and "wrote course_lib/chapters/cameras.py" in said


def test_percent_operators_urls_and_formulas_are_not_refused(tmp_path):
    lines = ["", "# %%", "value = (", "    17", "    % 5", ")", 'link = "https://example.org/home/page"']
    lines += [
        "# COURSE_BODY=/path/to/SMPLX_NEUTRAL.npz",
        "",
        "# %% [markdown]",
        r"# $f:\mathbb{R}^3 \to \mathbb{R}^2$",
        "",
    ]
    assert problems_of(write_course(tmp_path, CAMERAS + "\n".join(lines))) == []


def test_what_a_plain_cell_imports_is_held_to_the_same_rule_when_exported_code_uses_it(tmp_path):
    source = CAMERAS.replace("import math", "import math\n\nimport matplotlib").replace(
        "math.pi * squared", "matplotlib.pi * squared"
    )
    _, problems = build.build(write_course(tmp_path, source))
    assert ["it uses matplotlib, which exported code cannot import" in str(problem) for problem in problems] == [True]


def test_a_plain_cell_may_use_its_own_chapters_module(tmp_path):
    extra = "\n# %%\nfrom course_lib.chapters.cameras import halve as the_courses\n\nthe_courses(2)\n"
    root = write_course(tmp_path, CAMERAS + extra)
    assert build.build(root)[1] == []
    assert "course_lib.chapters" not in (root / "course_lib/chapters/cameras.py").read_text(encoding="utf-8")


def test_comments_of_several_definitions_survive(tmp_path):
    lines = [
        "",
        '# %% tags=["export"]',
        "# first",
        "ONE = 1",
        "",
        "# second",
        "def two():",
        "    return 2",
        "",
        "# end",
    ]
    root = write_course(tmp_path, CAMERAS + "\n".join([*lines, ""]))
    build.build(root)
    text = (root / "course_lib/chapters/cameras.py").read_text(encoding="utf-8")
    assert "# first\nONE = 1" in text and "# second\ndef two" in text and "# end" in text


def test_a_kill_while_writing_leaves_the_old_file(course, monkeypatch):
    build.build(course)
    before = contents(course)
    write_course(course, CAMERAS.replace("half of six", "a half of six"))

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build(course)
    after = contents(course)
    assert {name: after[name] for name in GENERATED} == {name: before[name] for name in GENERATED}
    assert not any(name.endswith(".tmp") for name in after)


def test_chapters_are_found_by_number_slug_and_name(course):
    for name in ("1", "01", "cameras", "01_cameras"):
        assert find_chapter(name, course).name == "01_cameras"
    with pytest.raises(ValueError, match="no chapter is called '44': use one of 01_cameras, 02_bodies"):
        find_chapter("44", course)


def test_building_loads_no_torch(course):
    """Here a small course; `make test` asks the same of the whole one while it looks for drift."""
    code = (
        "import sys; from pathlib import Path; from course_lib import build; build.build(Path(sys.argv[1]));"
        "build.check(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(course)]).returncode == 0

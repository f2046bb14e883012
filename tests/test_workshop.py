"""The folder for a room: whole, small enough, its agenda within the time, and what it lacks said."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from course_lib import agenda, colab, opened, workshop
from course_lib.chapter_source import chapters, find_chapter, read_cells
from course_lib.paths import ROOT

CHAPTER = find_chapter("06")


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A data folder with one set of two, and a run that noted it."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    for name in ("wild-train", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "shard-0.tar").write_text("x")
    monkeypatch.setattr(opened.paths, "BUILD", tmp_path / "build")
    path = opened.note_path(CHAPTER.name, "laptop")
    path.parent.mkdir(parents=True)
    path.write_text("wild-train\nwild-train\n")
    return path


def test_the_folder_holds_what_the_chapter_needs_and_no_answers(noted, tmp_path):
    room = workshop.make(CHAPTER, 180, tmp_path / "room", wheels=False)
    student = room / "student"
    assert {path.name for path in (student / "data").iterdir()} == {"wild-train"}
    assert {path.stem for path in (student / "notebooks").glob("*.ipynb")} == {"00_start_here", CHAPTER.name}
    assert {path.stem for path in (student / "checkpoints").iterdir()} >= {"sapiens_pretraining-people"}
    assert not (student / "solutions").exists() and not (student / "tests").exists()
    assert (room / "complete" / f"{CHAPTER.name}.ipynb").exists()
    assert "wheels were left out" in (room / "README.md").read_text() and "0:10" in (room / "AGENDA.md").read_text()


def test_an_open_exercise_finds_the_courses_answer_in_the_students_folder(noted, tmp_path):
    room = workshop.make(CHAPTER, 180, tmp_path / "room", wheels=False)
    code = (
        "from course_lib import paths; from course_lib.exercises import course_answer;"
        "print(course_answer('06.3', 'patchify').__name__, paths.ROOT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=room / "student",
        env={**os.environ, "PYTHONPATH": str(room / "student")},
    )
    assert done.stdout.split() == ["patchify", str(room / "student")], done.stderr


def test_what_a_chapter_opens_is_noted_by_a_process_that_only_imports_the_course(noted, tmp_path):
    target = tmp_path / "note.txt"
    file = tmp_path / "data" / "other" / "shard-0.tar"
    code = f"import course_lib; open({str(file)!r}); open({str(file)!r}); open({str(target.parent / 'x')!r}, 'w')"
    environment = {**os.environ, opened.VARIABLE: str(target), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert target.read_text() == "other\n"


def test_a_chapter_that_never_ran_or_lost_its_data_is_said(noted, tmp_path):
    noted.write_text("gone-since\n")
    with pytest.raises(workshop.WorkshopError, match="gone-since"):
        workshop.make(CHAPTER, 180, tmp_path / "room", wheels=False)
    noted.unlink()
    with pytest.raises(workshop.WorkshopError, match="course run 06 --scale laptop.*--no-data"):
        workshop.make(CHAPTER, 180, tmp_path / "room", wheels=False)
    assert not (tmp_path / "room").exists()


def test_a_folder_that_is_in_use_and_too_little_time_are_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(workshop.WorkshopError, match="there already"):
        workshop.make(CHAPTER, 180, tmp_path, wheels=False, data=False)
    with pytest.raises(ValueError, match="at least 30"):
        workshop.make(CHAPTER, 20, tmp_path / "room", wheels=False, data=False)


def test_wheels_are_of_the_versions_here_and_a_pip_that_fails_is_quoted(tmp_path, monkeypatch):
    asked = []

    def pip(command, **_):
        asked.append(command)
        return SimpleNamespace(returncode=len(asked) - 1, stderr="No matching distribution")

    monkeypatch.setattr(workshop.subprocess, "run", pip)
    workshop.fetch_wheels(tmp_path / "wheels")
    assert "torch==2.13.0" in asked[0] and any(word.startswith("setuptools") for word in asked[0])
    assert "numpy==" in (tmp_path / "wheels" / "constraints.txt").read_text()
    with pytest.raises(workshop.WorkshopError, match="No matching distribution\n.*--no-wheels"):
        workshop.fetch_wheels(tmp_path / "again")


# ------------------------------------------------------------------------------------------------ the agenda
@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.number)
def test_the_agenda_never_overruns_and_names_every_exercise_once(chapter):
    found = agenda.sections(chapter)
    everything = [one.id for section in found for one in section.exercises]
    for minutes in (30, 60, 90, 180, 400):
        plan = agenda.fit(found, 60, minutes)
        assert sorted(one.id for one in plan.done + plan.left) == sorted(everything)
        rows = agenda.rows(plan)
        assert rows[-1][0] + rows[-1][1] <= minutes
        assert all(start + length == later for (start, length, _), (later, *_) in zip(rows, rows[1:], strict=False))


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.number)
def test_the_agenda_knows_every_exercise_of_the_source(chapter):
    declared = {one.id for cell in read_cells(chapter) if cell.kind == "code" for one in cell.exercises}
    assert {one.id for section in agenda.sections(chapter) for one in section.exercises} == declared


def test_more_time_leaves_less_out():
    left = [len(agenda.fit(agenda.sections(CHAPTER), 60, minutes).left) for minutes in (60, 120, 240)]
    assert left[0] > left[1] > left[2] == 0
    assert "Left out, for later" in agenda.text(CHAPTER, 60) and "Every exercise fits" in agenda.text(CHAPTER, 240)


# ---------------------------------------------------------------------------------------------------------------- Colab
def test_a_copy_for_colab_begins_with_the_badge_and_the_cell_and_the_notebook_is_as_before():
    stored = nbformat.read(CHAPTER.student_notebook, as_version=4)
    before = json.dumps(stored)
    made = colab.for_colab(stored, f"{CHAPTER.name}.ipynb")
    nbformat.validate(made)
    assert "Colab" in made.cells[0].source and made.cells[1].source == colab.setup_cell()
    assert len(made.cells) == len(stored.cells) + 2 and json.dumps(stored) == before
    assert not any(cell.get("outputs") for cell in made.cells)


def test_the_cell_clones_installs_and_makes_the_course_importable(tmp_path):
    """In a folder of its own, from a local clone; what pip would do is only recorded."""
    source = tmp_path / "origin"
    (source / "course_lib").mkdir(parents=True)
    (source / "course_lib" / "__init__.py").write_text("MARK = 7\n")
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    record = "import subprocess\nreal = subprocess.run\n"
    record += (
        "subprocess.run = lambda command, **k: real(command, **k) if command[0] == 'git' else print(command[1:])\n"
    )
    code = record + colab.setup_cell(f"file://{source}") + "\nimport course_lib; print(course_lib.MARK)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    place = tmp_path / "notebook"
    place.mkdir()
    command = [sys.executable, "-S", "-c", code]  # -S: no packages, as in an empty environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.stdout.splitlines() == ["['-m', 'pip', 'install', '--quiet', '-e', 'course']", "7"], done.stderr


def test_the_cell_without_a_source_says_what_to_do():
    done = subprocess.run([sys.executable, "-c", colab.setup_cell()], capture_output=True, text=True)
    assert done.returncode == 1 and "Set SOURCE" in done.stderr

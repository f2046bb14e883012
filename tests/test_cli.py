"""The command `course`: clear messages and exit codes, for what goes well and for what does not."""

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from course_lib import cli, environment
from course_lib.chapter_source import chapters


def course_command(*arguments: str, **environment):
    result = CliRunner().invoke(cli.app, arguments, env=environment)
    return result.exit_code, result.output


def test_starts_without_loading_torch():
    code = "import sys; from course_lib import cli; sys.exit(not {'torch', 'numpy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_lists_every_command():
    code, text = course_command("--help")
    assert code == 0
    assert all(name in text for name in ("check-env", "list", "run", "build", "study", "data", "lab", "clean"))


def test_list_shows_every_chapter():
    code, text = course_command("list")
    assert code == 0 and all(chapter.name in text for chapter in chapters())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("run", "44"), "no chapter is called '44': use one of "),
        (("run", "1", "--scale", "huge"), "'huge' is not a scale: use one of smoke, laptop, gpu, paper"),
        (("run", "1", "--scale", "paper"), "scale paper is for launch cells"),
        (("run", "1", "--edition", "secret"), "secret"),
        (("run", "1", "--store", "--edition", "complete"), "leave --edition out"),
        (("run", "1", "--store", "--scale", "smoke"), "nothing worth storing"),
        (("study", "01.nothing"), "no study is called '01.nothing'"),
        (("study", "77.nothing"), "no chapter is called '77'"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrongly_typed_commands_end_with_code_2(arguments, words):
    code, text = course_command(*arguments)
    assert code == 2 and words in text


@pytest.mark.parametrize("arguments", [("run", "1"), ("study", "01.nothing")])
def test_an_unknown_scale_in_the_environment_is_named(arguments):
    code, text = course_command(*arguments, COURSE_SCALE="huge")
    assert code == 2 and "COURSE_SCALE='huge' is not a scale: use one of smoke, laptop" in text


def test_check_env_ends_with_1_when_something_is_broken(monkeypatch):
    monkeypatch.setattr(
        environment, "environment_report", lambda: [(True, "a", "fine", ""), (False, "b", "bad", "mend it")]
    )
    code, text = course_command("check-env")
    assert code == 1 and "OK   a" in text and "FAIL b" in text and "mend it" in text and "1 of 2 need mending" in text
    monkeypatch.setattr(environment, "environment_report", lambda: [(True, "a", "fine", "")])
    code, text = course_command("check-env")
    assert code == 0 and "ready" in text


def test_build_check_ends_with_the_command_to_run(monkeypatch):
    from course_lib import build

    monkeypatch.setattr(build, "check", lambda: (["a differs"], ["course build", "course run 01 --store"]))
    code, text = course_command("build", "--check")
    assert code == 1 and text.strip().endswith("Run: course build && course run 01 --store")
    monkeypatch.setattr(build, "check", lambda: ([], []))
    assert course_command("build", "--check")[0] == 0


def test_data_body_says_what_the_file_is(tmp_path):
    path = tmp_path / "SMPLX_MINE.npz"
    arrays = {"v_template": (9, 3), "f": (7, 3), "shapedirs": (9, 3, 20), "weights": (9, 55)}
    np.savez(path, **{key: np.zeros(shape) for key, shape in arrays.items()})
    code, text = course_command("data", "body", COURSE_BODY=str(path))
    assert code == 0
    rows = dict(line.rsplit(maxsplit=1) for line in text.splitlines() if not line.startswith("licence"))
    assert (rows["vertices"], rows["faces"], rows["shape + expression"], rows["joints"]) == ("9", "7", "20", "55")
    assert len(rows["sha256"]) == 64
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no body", b""):
        path.write_bytes(content)
        code, text = course_command("data", "body", COURSE_BODY=str(path))
        assert code == 1 and "is not a body file" in text
    path.unlink()
    assert course_command("data", "body", COURSE_BODY=str(path))[0] == 1


@pytest.mark.parametrize(
    "error, expected",
    [(ValueError("no such world"), 2), (OSError("disk full"), 1), (RuntimeError("in use"), 1), (None, 0)],
)
def test_data_make_passes_everything_on_and_ends_clearly(monkeypatch, tmp_path, error, expected):
    given = {}

    def make(**arguments):
        given.update(arguments)
        if error:
            raise error

    module = ModuleType("course_lib.data.make")
    module.make = make
    monkeypatch.setitem(sys.modules, "course_lib.data.make", module)
    options = ("--count", "3", "--size", "64", "--workers", "1", "--seed", "5", "--out", str(tmp_path))
    code, text = course_command("data", "make", "studio", *options)
    assert code == expected and (error is None or str(error) in text)
    expected = {"world": "studio", "count": 3, "size": 64, "workers": 1, "seed": 5, "out": tmp_path, "split": "train"}
    assert given == {**expected, "views": 1, "frames": 1, "motion": None}


def test_interrupted_commands_end_with_130(monkeypatch, tmp_path):
    def interrupted(**arguments):
        raise KeyboardInterrupt

    module = ModuleType("course_lib.data.make")
    module.make = interrupted
    monkeypatch.setitem(sys.modules, "course_lib.data.make", module)
    code, text = course_command("data", "make", "studio", "--out", str(tmp_path))
    assert code == 130 and "goes on from there" in text


def test_an_interrupted_run_ends_with_130(monkeypatch):
    from course_lib import run_notebook

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_notebook, "run", interrupted)
    code, text = course_command("run", "1", "--scale", "smoke")
    assert code == 130 and "nothing was written" in text


def test_a_failed_run_ends_with_1_and_its_message(monkeypatch):
    from course_lib import run_notebook

    def failing(*arguments):
        raise run_notebook.RunFailed("cell 4 failed: ValueError: too small")

    monkeypatch.setattr(run_notebook, "run", failing)
    code, text = course_command("run", "1", "--scale", "smoke")
    assert code == 1 and "cell 4 failed: ValueError: too small" in text


def test_study_runs_what_was_asked_for(monkeypatch, tmp_path):
    from course_lib import study

    given = {}

    def run_study(found, arms, seeds, say):
        given.update(study=found, arms=arms, seeds=seeds)
        return [tmp_path / "01.rates" / "low-0.json"]

    monkeypatch.setattr(study, "find_study", lambda name: name)
    monkeypatch.setattr(study, "run_study", run_study)
    code, text = course_command("study", "01.rates", "--arms", "low,high", "--seeds", "0,2")
    assert code == 0 and "1 records in" in text
    assert given == {"study": "01.rates", "arms": ["low", "high"], "seeds": [0, 2]}


def test_clean_removes_build_and_drafts_only(monkeypatch, tmp_path):
    for name in (
        "build/page.html",
        "notebooks/.a.ipynb.1.tmp",
        "notebooks/a.ipynb",
        "data/shard.tar",
        "results/a.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = {"ROOT": "", "BUILD": "build", "NOTEBOOKS": "notebooks", "RESULTS": "results"}
    for name, folder in names.items():
        monkeypatch.setattr(cli, name, tmp_path / folder)
    monkeypatch.setattr(cli, "data_dir", lambda: tmp_path / "data")
    assert course_command("clean")[0] == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"notebooks/a.ipynb", "data/shard.tar", "results/a.json"}
    assert CliRunner().invoke(cli.app, ["clean", "--data"], input="n\n").exit_code == 1
    assert (tmp_path / "data/shard.tar").exists()
    assert CliRunner().invoke(cli.app, ["clean", "--data"], input="y\n").exit_code == 0
    assert not (tmp_path / "data").exists() and (tmp_path / "results/a.json").exists()


def test_lab_opens_chapter_00(monkeypatch, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/00_start_here.ipynb").write_text("{}")
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "NOTEBOOKS", tmp_path / "notebooks")
    started = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command: started.extend(command) or 0)
    assert course_command("lab", "--no-browser", "--port", "9999")[0] == 0
    assert started[started.index("--port") + 1] == "9999"
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in started and "--no-browser" in started

"""Set-up: one list of dependencies, the same everywhere; check-env sees what is broken."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from course_lib import environment
from course_lib.environment import environment_report, project
from course_lib.paths import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_conda_environment_says_what_pyproject_says():
    listed = yaml.safe_load(read("environment.yml"))["dependencies"]
    python = next(line for line in listed if isinstance(line, str) and line.startswith("python"))
    assert python.replace(" ", "") == f"python{project()['requires-python']}"
    (pip,) = (line["pip"] for line in listed if isinstance(line, dict))
    assert pip == ["-e .[test]"] and "test" in project()["optional-dependencies"]
    assert {line.split()[0] for line in listed if isinstance(line, str)} == {"python", "pip"}  # no second list


def test_torch_is_pinned_once_and_the_same_everywhere():
    (pin,) = (line for line in project()["dependencies"] if line.startswith("torch=="))
    for name in ("Makefile", ".github/workflows/test.yml"):
        assert set(re.findall(r"torch==[\d.]+\d", read(name))) == {pin}


def test_ci_runs_make_test():
    assert "\nmake test\n" in read(".ci/run") and os.access(ROOT / ".ci/run", os.X_OK)
    jobs = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]
    steps = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert any(".ci/run" in run for run in steps["everything"])
    assert {"course check-env", "course run 00 --scale smoke"} <= set(steps["first-chapter"])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_second_make_does_not_set_up_again(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)

    def commands() -> str:
        return subprocess.run(["make", "-n", "test"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    first = commands()
    assert first.index("-m venv") < first.index("torch==") < first.index("-e '.[test]'") < first.index("tests/run.py")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready").write_text("60\n")
    assert "pip" not in commands() and "tests/run.py" in commands()
    os.utime(tmp_path / ".venv/.ready", (0, 0))  # pyproject.toml is younger now
    assert "pip" in commands()


def row(name: str) -> environment.Row:
    rows = {"body": environment.body_row, "data folder": environment.data_row, "disk": environment.disk_row}
    return rows[name]()


def test_report_names_everything_and_gives_mends_only_for_failures():
    rows = environment_report()
    names = [name for _, name, _, _ in rows]
    assert {"python", "device", "torch", "body", "data folder", "disk", "ruff program", "jupyterlab"} <= set(names)
    assert all(bool(mend) != ok for ok, _, _, mend in rows)


def test_a_missing_package_fails_with_its_mend():
    from packaging.specifiers import SpecifierSet

    ok, name, detail, mend = environment.dependency_row("no-such-package-here", SpecifierSet(">=1"))
    assert not ok and detail == "not installed" and "pip install" in mend
    ok, _, detail, _ = environment.dependency_row("numpy", SpecifierSet(">=999"))
    assert not ok and ">=999" in detail


def test_a_changed_body_fails(tmp_path, monkeypatch):
    body = tmp_path / "SMPLX_OPEN.npz"
    body.write_bytes(b"whole")
    (tmp_path / "NOTICE").write_text("sha256 " + environment_hash(body))
    monkeypatch.setattr(environment, "ASSETS", tmp_path)
    monkeypatch.setattr(environment, "OPEN_BODY", body)
    monkeypatch.setattr(environment, "body_file", lambda: body)
    assert row("body")[0]
    body.write_bytes(b"who")
    ok, _, detail, mend = row("body")
    assert not ok and "SMPLX_OPEN.npz" in detail and "git checkout" in mend
    body.unlink()
    assert "is missing" in row("body")[2]


def environment_hash(path: Path) -> str:
    from course_lib.files import file_hash

    return file_hash(path)


def test_a_body_of_the_learners_own_is_taken_as_it_is(tmp_path, monkeypatch):
    body = tmp_path / "SMPLX_NEUTRAL.npz"
    body.write_bytes(b"licensed")
    monkeypatch.setenv("COURSE_BODY", str(body))
    assert row("body")[0]
    body.unlink()
    ok, _, _, mend = row("body")
    assert not ok and "COURSE_BODY" in mend


@pytest.mark.skipif(sys.platform == "win32", reason="Windows names devices otherwise")
def test_a_data_folder_that_cannot_be_written_fails(monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "/proc/nowhere")
    if Path("/proc").is_dir():
        ok, _, _, mend = row("data folder")
        assert not ok and "COURSE_DATA" in mend


def test_a_full_disk_fails(monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert not row("disk")[0] and "COURSE_DATA" in row("disk")[3]


def test_run_info_says_what_a_run_was_made_with(capsys, monkeypatch):
    from course_lib.runinfo import print_run_info, run_info

    monkeypatch.setenv("COURSE_SCALE", "smoke")
    info = run_info(seed=3)
    assert info["scale"] == "smoke" and info["seed"] == 3 and 0 <= info["minutes"] < 600
    assert set(info["versions"]) == {"python", "torch", "numpy"} and "cores" in info["hardware"]
    print_run_info(seed=3)
    printed = capsys.readouterr().out
    assert all(name in printed for name in info) and info["versions"]["torch"] in printed

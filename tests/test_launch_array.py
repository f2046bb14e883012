"""Many machines that render into one folder: parts, their locks, what a kill leaves, the scripts for Slurm."""

import json
import os
import stat
import subprocess
import sys

import psutil
import pytest
from test_cli import course_command

from course_lib import launch
from course_lib.data import make as making
from course_lib.data import shards
from course_lib.data.make import MakeError, make

SMALL = {"size": 16, "supersample": 1, "workers": 0, "progress": False, "formats": ("coco17",), "scenes_per_shard": 1}


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make("studio", 5, tmp_path_factory.mktemp("whole"), **SMALL)


def test_parts_in_any_order_and_the_last_step_make_the_whole(whole, tmp_path):
    for part in ((1, 2), (0, 2), (1, 2)):
        make("studio", 5, tmp_path, part=part, **SMALL)
        assert not shards.read_manifest(tmp_path)["complete"]
    assert "0 of 5 pictures" in shards.info(tmp_path) and "not complete" in shards.info(tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    make("studio", 5, tmp_path, **SMALL)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")} == stamps
    assert contents(tmp_path) == contents(whole)
    make("studio", 5, tmp_path, part=(0, 2), **SMALL)  # once more: there is nothing to do
    assert contents(tmp_path) == contents(whole)


def test_a_part_makes_its_shards_alone(tmp_path):
    make("studio", 5, tmp_path, part=(1, 3), **SMALL)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["shard-000001.tar", "shard-000004.tar"]
    make("studio", 5, tmp_path, part=(8, 9), **SMALL)  # more parts than shards: an empty one
    assert len(list(tmp_path.glob("*.tar"))) == 2


def test_the_last_step_makes_what_is_missing(whole, tmp_path):
    make("studio", 5, tmp_path, part=(0, 2), **SMALL)
    make("studio", 5, tmp_path, **SMALL)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0)])
def test_a_part_that_is_none_is_refused(tmp_path, part):
    with pytest.raises(ValueError, match=f"there is no part {part[0]} of {part[1]}"):
        make("studio", 5, tmp_path / "new", part=part, **SMALL)
    assert not (tmp_path / "new").exists()


def test_parts_of_other_data_are_refused(tmp_path):
    make("studio", 5, tmp_path, part=(0, 2), **SMALL)
    with pytest.raises(MakeError, match="seed is 0, not 1"):
        make("studio", 5, tmp_path, part=(1, 2), seed=1, **SMALL)


def test_a_part_leaves_the_drafts_of_others(tmp_path):
    make("studio", 5, tmp_path, part=(0, 2), **SMALL)
    others, own = tmp_path / ".shard-000001.tar.77.part", tmp_path / ".shard-000002.tar.77.part"
    for draft in (others, own):
        draft.write_bytes(b"half")
    make("studio", 5, tmp_path, part=(0, 2), **SMALL)
    assert others.exists() and not own.exists()


def test_locks_of_parts(tmp_path):
    mine = json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()})
    other = tmp_path / f"{making.LOCK}-1-of-2"
    other.write_text(mine)
    make("studio", 5, tmp_path, part=(0, 2), **SMALL)  # another part may be in the making
    with pytest.raises(MakeError, match="being made by process"):
        make("studio", 5, tmp_path, part=(1, 2), **SMALL)  # the same may not
    with pytest.raises(MakeError, match="being made by process"):
        make("studio", 5, tmp_path, **SMALL)  # nor may the whole
    other.unlink()
    (tmp_path / making.LOCK).write_text(mine)
    with pytest.raises(MakeError, match="being made by process"):
        make("studio", 5, tmp_path, part=(0, 2), **SMALL)
    (tmp_path / making.LOCK).write_text("{}")  # of a process that died
    make("studio", 5, tmp_path, part=(1, 2), **SMALL)
    assert not list(tmp_path.glob(f"{making.LOCK}*"))


def test_a_full_disk_counts_the_shards_of_the_part(tmp_path, monkeypatch):
    right = shards.write_shard

    def full(path, samples):
        if path.name == "shard-000002.tar":
            raise OSError(28, "No space left on device")
        return right(path, samples)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(MakeError, match="1 of 3 shards"):
        make("studio", 5, tmp_path, part=(0, 2), **SMALL)


# ---------------------------------------------------------- the job
def a_job(**changes) -> launch.Rendering:
    return launch.rendering(
        **{"world": "wild", "count": 300_000, "size": (512, 384), "tasks": 10, "cores": 8, "rate": 3.0} | changes
    )


def test_two_tasks_one_of_them_killed_make_what_one_process_makes():
    assert "9 files, byte for byte those of a single process" in a_job(seed=5).prove()


def test_a_proof_that_fails_says_so(tmp_path, whole):
    (tmp_path / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(launch.ProofFailed, match="manifest.json, shard-000001.tar"):
        launch.array.compared(whole, tmp_path, 1, False)
    with pytest.raises(launch.ProofFailed, match="complete before the last step"):
        launch.array.compared(whole, whole, 1, True)


def test_the_plan_counts_whole_shards():
    job = a_job()
    assert job.core_hours == pytest.approx(300_000 / 3 / 3600)
    assert job.turns == 16 and job.hours == pytest.approx(16 * 240 / 3 / 3600)  # 125 shards on 8 cores
    assert "1,250 shards" in job.plan() and "28 core-hours" in job.plan() and "98 %" in job.plan()
    assert a_job(count=100, tasks=1, cores=4).hours == pytest.approx(25 / 3 / 3600)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "moon"}, "no world 'moon'"),
        ({"count": 0}, "at least 1"),
        ({"rate": 0.0}, "rate above 0"),
        ({"rate": float("nan")}, "rate above 0"),
        ({"tasks": 2000}, "2000 tasks are too many for 1250 shards"),
    ],
)
def test_numbers_that_make_no_job_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        a_job(**changes)


def test_scripts_name_the_part_and_are_shell(tmp_path):
    job = a_job(seed=7)
    first = job.script("data/many people", partition="cpu", setup=("module load python",))
    last = job.last_script("data/many people")
    command = "course data make wild --count 300000 --size 512x384 --seed 7 --out 'data/many people' --workers 8"
    assert f'{command} --part "$SLURM_ARRAY_TASK_ID/10"' in first and first.count("--array=0-9\n") == 1
    assert "#SBATCH --partition=cpu" in first and "\nmodule load python\n" in first
    assert f"exec {command}\n" in last and "--array" not in last and "--part" not in last
    for text in (first, last):
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    with pytest.raises(ValueError, match="partition must be one line"):
        job.script("data", partition="a\nb")


@pytest.mark.skipif(sys.platform == "win32", reason="the stub is a shell script")
def test_the_last_task_waits_for_all_others(tmp_path, monkeypatch, capsys):
    stub = tmp_path / "sbatch"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\ncat >> {tmp_path}/read\necho "42;cluster"\n')
    stub.chmod(stub.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    a_job().submit("data", dry_run=True)
    assert not (tmp_path / "called").exists() and "--part" in capsys.readouterr().out
    a_job().submit("data")
    assert (tmp_path / "called").read_text() == "--parsable\n--parsable --dependency=afterok:42\n"
    assert (tmp_path / "read").read_text() == a_job().script("data") + a_job().last_script("data")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="no sbatch"):
        a_job().submit("data")


def test_the_command_takes_parts_and_sizes(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(making, "make", lambda **options: given.append(options))
    code, text = course_command("data", "make", "studio", "--size", "512x384", "--part", "2/30", "--out", str(tmp_path))
    assert code == 0 and "part 2/30 is whole" in text
    assert given[0]["size"] == (512, 384) and given[0]["part"] == (2, 30)
    for option, value in (("--part", "2"), ("--part", "2/x"), ("--size", "512x"), ("--size", "big")):
        code, text = course_command("data", "make", "studio", option, value, "--out", str(tmp_path))
        assert code == 2 and f"{option} {value} is not understood" in text
    assert len(given) == 1

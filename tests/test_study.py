"""Studies: every run recorded once, kills survived, stale records named."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import textwrap

import pytest

from course_lib import paths, study
from course_lib.study import Study, read_record, record_path, records, run_study, stale_records, summary


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1


@pytest.fixture
def calls():
    return []


@pytest.fixture
def rates(calls, monkeypatch):
    """A study of three arms and two seeds whose metric is easy to foresee."""
    monkeypatch.setenv("COURSE_SCALE", "laptop")

    def run(config, seed, steps):
        calls.append((config.rate, seed, steps))
        return {"loss": config.rate * steps + seed}

    arms = {"low": Config(0.1), "mid": Config(0.5), "high": Config(1.0)}
    return Study("01.rates", "Learning rates", arms, run, steps=10, seeds=(0, 1))


def quiet(line):
    pass


def test_one_record_per_arm_and_seed_and_none_twice(rates, calls, tmp_path):
    made = run_study(rates, folder=tmp_path, say=quiet)
    assert len(made) == len(set(made)) == len(calls) == 6
    run_study(rates, folder=tmp_path, say=quiet)
    assert len(calls) == 6
    record = json.loads(record_path(rates, "low", 1, tmp_path).read_text())
    assert record["metrics"] == {"loss": 2.0} and record["steps"] == 10 and record["config"] == {"rate": 0.1}
    assert {"config_hash", "data", "minutes", "hardware", "versions", "scale"} <= set(record)


def test_mean_and_spread_over_seeds(rates, tmp_path):
    run_study(rates, folder=tmp_path, say=quiet)
    mean, spread, count = summary(rates, tmp_path)["low"]["loss"]
    assert (mean, count) == (1.5, 2) and abs(spread - math.sqrt(0.5)) < 1e-12
    assert study.beyond_spread((1, 0.1, 3), (2, 0.2, 3)) and not study.beyond_spread((1, 0.6, 3), (2, 0.5, 3))


def test_only_the_arms_and_seeds_asked_for(rates, calls, tmp_path):
    run_study(rates, arms=["mid"], seeds=[1], folder=tmp_path, say=quiet)
    assert calls == [(0.5, 1, 10)]
    with pytest.raises(ValueError, match="no arm huge: use low, mid, high"):
        run_study(rates, arms=["huge"], folder=tmp_path)
    with pytest.raises(ValueError, match="no seed 7: use 0, 1"):
        run_study(rates, seeds=[7], folder=tmp_path)


def test_stale_records_are_named_and_made_again(rates, calls, tmp_path):
    run_study(rates, folder=tmp_path, say=quiet)
    changed = dataclasses.replace(rates, arms={**rates.arms, "low": Config(0.2)})
    assert [line.partition(": ")[0][-10:] for line in stale_records([changed], tmp_path)] == [
        "low-0.json",
        "low-1.json",
    ]
    assert stale_records([rates], tmp_path) == []
    with pytest.raises(study.StaleRecord, match=r"low-0\.json is stale.*course study 01\.rates"):
        records(changed, tmp_path)
    said = []
    run_study(changed, folder=tmp_path, say=said.append)
    assert len(calls) == 8 and sum("is stale" in line for line in said) == 2
    assert records(changed, tmp_path)["low"][0]["metrics"]["loss"] == 2.0


def test_a_field_newer_than_a_record_counts_as_its_default(rates, tmp_path):
    run_study(rates, arms=["low"], seeds=[0], folder=tmp_path, say=quiet)
    newer = dataclasses.make_dataclass("Config", [("bias", float, 1.0)], bases=(Config,), frozen=True)
    for bias in (1.0, 0.0):
        grown = dataclasses.replace(rates, arms={"low": newer(0.1, bias)})
        assert (stale_records([grown], tmp_path) == []) == (bias == 1.0)
    assert "configuration" in stale_records([dataclasses.replace(rates, steps=rates.steps + 1)], tmp_path)[0]
    path = record_path(rates, "low", 0, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": None}))
    assert "configuration" in stale_records([rates], tmp_path)[0]


def test_other_data_makes_a_record_stale(rates, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    manifest = tmp_path / "data/wild/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    on_wild = dataclasses.replace(rates, data=("wild",))
    run_study(on_wild, arms=["low"], folder=tmp_path, say=quiet)
    assert stale_records([on_wild], tmp_path) == []
    manifest.write_text('{"seed": 1}')
    assert "other data: wild" in stale_records([on_wild], tmp_path)[0]
    manifest.unlink()  # a reader without the data can still read the records
    assert stale_records([on_wild], tmp_path) == []
    manifest.write_text('{"seed": 1}')
    more = dataclasses.replace(rates, data=("wild", "general"))
    assert "other data: wild" in stale_records([more], tmp_path)[0]


def test_data_that_was_not_there_makes_no_record_stale(rates, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    on_wild = dataclasses.replace(rates, data=("wild",))
    run_study(on_wild, arms=["low"], folder=tmp_path, say=quiet)
    manifest = tmp_path / "data/wild/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    assert stale_records([on_wild], tmp_path) == []
    declared_later = dataclasses.replace(rates, data=("wild", "general"))
    (manifest.parents[1] / "general").mkdir()
    (manifest.parents[1] / "general/manifest.json").write_text("{}")
    assert "other data: general" in stale_records([declared_later], tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b'{"study": "01.ra', b"[]", b"\xff\xfe"])
def test_half_a_record_counts_as_none(rates, calls, tmp_path, content):
    path = record_path(rates, "low", 0, tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_record(path) is None
    run_study(rates, folder=tmp_path, say=quiet)
    assert len(calls) == 6 and read_record(path)


def test_metrics_that_are_not_numbers_are_not_recorded(rates, tmp_path):
    for metrics, words in (({"loss": math.nan}, "loss is not a finite number"), ({}, "no metrics")):
        broken = dataclasses.replace(rates, run=lambda config, seed, steps, metrics=metrics: metrics)
        with pytest.raises(ValueError, match=words):
            run_study(broken, folder=tmp_path)
    assert list(tmp_path.rglob("*.json")) == []


def test_smoke_runs_little_and_never_touches_real_records(rates, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    run_study(rates, say=quiet)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    calls.clear()
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    made = run_study(rates, say=quiet)
    assert calls == [(0.1, 0, 3), (0.5, 0, 3)]
    assert not any(path.is_relative_to(tmp_path) for path in made)
    found = records(rates)
    assert {arm: [row["steps"] for row in rows] for arm, rows in found.items()} == {"low": [3], "mid": [3]}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


KILLED = """
    import os, sys
    from dataclasses import dataclass
    from pathlib import Path
    from course_lib.study import Study, run_study

    folder, log = Path(sys.argv[1]), Path(sys.argv[2])

    @dataclass(frozen=True)
    class Config:
        rate: float

    def run(config, seed, steps):
        if log.exists() and len(log.read_text().splitlines()) == int(sys.argv[3]):
            os.kill(os.getpid(), int(sys.argv[4]))
        with log.open("a") as file:
            file.write(f"{config.rate} {seed}\\n")
        return {"loss": config.rate}

    run_study(Study("01.rates", "", {"low": Config(0.1), "high": Config(1.0)}, run, 5), folder=folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_loses_and_doubles_nothing(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "results"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(log)]
    environment = {"COURSE_SCALE": "laptop", "PATH": ""}
    killed = subprocess.run([*command, "3", str(int(signal.SIGKILL))], capture_output=True, env=environment)
    assert killed.returncode == -signal.SIGKILL
    first = {path: path.read_bytes() for path in folder.rglob("*.json")}
    assert len(first) == 3
    resumed = subprocess.run([*command, "-1", "0"], capture_output=True, text=True, env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 6
    assert len(list(folder.rglob("*.json"))) == 6 and list(folder.rglob("*.tmp")) == []
    assert all(path.read_bytes() == content for path, content in first.items())


def test_unknown_studies_are_refused_by_name():
    with pytest.raises(ValueError, match="no study is called '01.nothing'"):
        study.find_study("01.nothing")
    with pytest.raises(ValueError, match="no chapter is called '77'"):
        study.find_study("77.nothing")


def test_the_records_in_the_repository_fit_the_sources():
    from course_lib.chapter_source import chapters

    studies = [one for chapter in chapters() for one in study.studies_of(chapter.slug).values()]
    assert stale_records(studies, paths.RESULTS) == []

"""Shipped models: trained once, resumed after a kill, recorded, never loaded where they are not what was recorded."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from course_lib import shipped, study
from course_lib.data.streams import TensorStream
from course_lib.recipe import Recipe
from course_lib.shipped import Places, Shipped, ShippedError, available, load, problem, ship, stale_shipped

LIMIT = shipped.LARGEST


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 4
    steps: int = 4
    seed: int = 0


def recipe(config):
    torch.manual_seed(0)
    stream = TensorStream({"x": torch.randn(16, config.width), "y": torch.randn(16, 1)})
    loss = lambda model, batch: (model(batch["x"]) - batch["y"]).square().mean()  # noqa: E731
    model = lambda: nn.Linear(config.width, 1)  # noqa: E731
    return Recipe("toy", model, loss, stream, config.steps, 4, seed=config.seed)


def train_toy(config, folder):
    """What a chapter's `run` does, in small."""
    run = shipped.train(recipe(config), folder / "fit", progress=False, save_every=1)
    return shipped.round_weights(run.model), {"loss": run.losses[-1]}


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "build", tmp_path / "checkpoints", tmp_path / "results")


@pytest.fixture
def toy(monkeypatch):
    """A shipped model that chapter 01 declares, as far as this test can tell."""
    one = Shipped("cameras-toy", Config(), train_toy)
    monkeypatch.setattr(shipped, "shipped_of", lambda slug: {"toy": one} if slug == "cameras" else {})
    return one


def quiet(line):
    pass


def redeclare(monkeypatch, one):
    monkeypatch.setattr(shipped, "shipped_of", lambda slug: {"toy": one} if slug == "cameras" else {})


def test_what_was_shipped_is_loaded_and_its_record_says_all(toy, places, tmp_path):
    assert not available("cameras-toy", places) and stale_shipped(places) == []
    path = ship(toy, places, quiet)
    model = nn.Linear(4, 1)
    record = load(model, "cameras-toy", places)
    trained, metrics = train_toy(Config(), tmp_path / "again")
    assert torch.equal(model.weight, trained.weight) and torch.equal(model.bias, trained.bias) and not model.training
    assert record == json.loads(path.read_text()) and record["metrics"] == metrics
    assert (record["chapter"], record["key"], record["seed"], record["steps"]) == ("cameras", "toy", 0, 4)
    assert record["config"] == {"width": 4, "steps": 4, "seed": 0} and record["bytes"] > 10
    assert {"config_hash", "data", "scale", "hardware", "versions", "minutes", "sha256"} <= set(record)
    assert available("cameras-toy", places) and stale_shipped(places) == []


def test_what_is_valid_is_not_trained_again(toy, places):
    ship(toy, places, quiet)
    before, said = places.weights(toy).read_bytes(), []
    ship(dataclasses.replace(toy, run=lambda config, folder: 1 / 0), places, said.append)
    assert places.weights(toy).read_bytes() == before and "kept" in said[0]


def test_run_may_be_text_that_is_found_when_it_runs(toy, places, monkeypatch):
    monkeypatch.setitem(sys.modules, "a_toy_module", sys.modules[__name__])
    ship(dataclasses.replace(toy, run="a_toy_module:train_toy"), places, quiet)
    assert available("cameras-toy", places)
    with pytest.raises(ValueError, match="'a_toy_module:nothing' names no function"):
        study.resolved("a_toy_module:nothing")


def test_a_study_too_may_name_its_run_as_text(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "a_toy_module", sys.modules[__name__])
    monkeypatch.setenv("COURSE_SCALE", "laptop")
    one = study.Study("01.toy", "", {"only": Config()}, "a_toy_module:run_toy_study", steps=7, seeds=(0,))
    study.run_study(one, folder=tmp_path, say=quiet)
    assert study.summary(one, tmp_path)["only"]["sum"][0] == 11


def run_toy_study(config, seed, steps):
    return {"sum": config.width + seed + steps}


# ------------------------------------------------------------------------------------------------- what goes wrong
def test_a_kill_between_weights_and_record_leaves_nothing_valid_and_the_next_call_finishes(toy, places, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shipped, "write_record", killed)
        ship(toy, places, quiet)
    assert places.weights(toy).exists() and not available("cameras-toy", places)
    with pytest.raises(ShippedError, match=r"record.* is missing .*course ship 01\.toy"):
        load(nn.Linear(4, 1), "cameras-toy", places)
    steps = []
    monkeypatch.setattr("course_lib.train.loop.train_step", lambda *arguments: steps.append(1))
    ship(toy, places, quiet)
    assert available("cameras-toy", places) and not steps


def test_a_kill_while_an_older_model_is_replaced_leaves_nothing_valid(toy, places, monkeypatch):
    ship(toy, places, quiet)
    newer = dataclasses.replace(toy, config=Config(seed=1))
    redeclare(monkeypatch, newer)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shipped, "write_record", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        ship(newer, places, quiet)
    assert not available("cameras-toy", places)
    redeclare(monkeypatch, toy)
    assert "sha256" in problem(toy, places)  # the old record never speaks for the new weights


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(path.read_bytes()[:-3]), lambda path: path.unlink()])
def test_a_cut_or_missing_file_is_not_loaded(toy, places, spoil):
    ship(toy, places, quiet)
    spoil(places.weights(toy))
    model = nn.Linear(4, 1)
    before = model.weight.clone()
    with pytest.raises(ShippedError, match=r"cut or changed|not there yet"):
        load(model, "cameras-toy", places)
    assert torch.equal(model.weight, before) and not available("cameras-toy", places)
    assert len(stale_shipped(places)) == 1
    ship(toy, places, quiet)
    assert available("cameras-toy", places)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_half_a_record_counts_as_none(toy, places, content):
    ship(toy, places, quiet)
    places.record(toy).write_bytes(content)
    assert "missing or spoilt" in problem(toy, places)


def test_another_configuration_is_stale_and_trains_in_a_folder_of_its_own(toy, places, monkeypatch):
    ship(toy, places, quiet)
    changed = dataclasses.replace(toy, config=Config(width=5))
    redeclare(monkeypatch, changed)
    assert ["another configuration" in line for line in stale_shipped(places)] == [True]
    with pytest.raises(ShippedError, match="another configuration"):
        load(nn.Linear(5, 1), "cameras-toy", places)
    ship(changed, places, quiet)  # in the old run's folder `fit` would refuse to go on
    load(nn.Linear(5, 1), "cameras-toy", places)
    assert places.run(changed) != places.run(toy) and stale_shipped(places) == []


def test_a_field_that_a_record_does_not_know_counts_as_its_default(toy, places, monkeypatch):
    ship(toy, places, quiet)
    newer = dataclasses.make_dataclass("Config", [("bias", float, 1.0)], bases=(Config,), frozen=True)
    for bias in (1.0, 0.0):
        redeclare(monkeypatch, dataclasses.replace(toy, config=newer(bias=bias)))
        assert available("cameras-toy", places) == (bias == 1.0)
    redeclare(monkeypatch, toy)
    record = json.loads(places.record(toy).read_text())
    places.record(toy).write_text(json.dumps(record | {"config": record["config"] | {"gone": 1}}))
    assert "another configuration" in problem(toy, places)


def test_a_model_that_does_not_fit_is_told_how_to_be_built(toy, places):
    ship(toy, places, quiet)
    with pytest.raises(ShippedError, match=r"weight is \(1, 4\).*SHIPPED\['toy'\]\.config"):
        load(nn.Linear(3, 1), "cameras-toy", places)


def test_a_file_too_large_is_refused_and_the_shipped_one_stays(toy, places, monkeypatch):
    ship(toy, places, quiet)
    before = places.weights(toy).read_bytes()
    large = Shipped("cameras-toy", Config(width=LIMIT // 2 + 1), lambda config, folder: (wide(config), {"loss": 0.0}))
    with pytest.raises(ShippedError, match=r"8\.0 MB in bf16.*at most 8: make the model smaller"):
        ship(large, places, quiet)
    assert places.weights(toy).read_bytes() == before


def wide(config):
    return nn.Linear(config.width, 1)


def test_a_file_of_just_the_limit_is_kept(toy, places, monkeypatch):
    ship(toy, places, quiet)
    monkeypatch.setattr(shipped, "LARGEST", places.weights(toy).stat().st_size)
    places.record(toy).unlink()
    ship(toy, places, quiet)
    assert available("cameras-toy", places)


@pytest.mark.parametrize("metrics", [{"loss": math.nan}, {}])
def test_metrics_that_are_not_numbers_ship_nothing(toy, places, metrics):
    broken = dataclasses.replace(toy, run=lambda config, folder: (nn.Linear(4, 1), metrics))
    with pytest.raises(ValueError, match="cameras-toy"):
        ship(broken, places, quiet)
    assert not places.weights(toy).exists() and not places.record(toy).exists()


def test_a_run_stopped_by_a_signal_ships_nothing(toy, places):
    def stopped(config, folder):
        run = shipped.train(recipe(config), folder, progress=False, on_step=lambda run: stop_now())
        return run.model, {"loss": 0.0}

    with pytest.raises(KeyboardInterrupt, match="toy: stopped after step 1"):
        ship(dataclasses.replace(toy, run=stopped), places, quiet)
    assert not places.weights(toy).exists()


def stop_now():
    signal.raise_signal(signal.SIGTERM)


def test_unknown_names_are_refused_with_those_there_are(toy):
    with pytest.raises(ValueError, match="'cameras-toys'.*cameras-toy"):
        available("cameras-toys")
    with pytest.raises(ValueError, match=r"'01\.toys'.*01\.toy"):
        shipped.find_shipped("01.toys")
    assert shipped.find_shipped("01.toy") is toy
    with pytest.raises(ValueError, match="not CHAPTER-KEY"):
        Shipped("cameras", Config(), train_toy)


def test_a_stray_file_is_named(toy, places):
    ship(toy, places, quiet)
    places.weights(toy).with_name("cameras-old.safetensors").write_bytes(b"")
    assert stale_shipped(places) == ["cameras-old: no chapter declares it in SHIPPED"]


def test_the_data_that_a_run_used_is_in_its_record(toy, places, tmp_path):
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild/manifest.json").write_text("{}")

    def run(config, folder):
        shipped.note_data(folder, tmp_path / "wild")
        return train_toy(config, folder)

    path = ship(dataclasses.replace(toy, run=run), places, quiet)
    assert json.loads(path.read_text())["data"] == {"wild": study.file_hash(tmp_path / "wild/manifest.json")}


def test_minutes_of_all_turns_are_added_up(tmp_path):
    assert shipped.begin_turn(tmp_path) == 0
    path = tmp_path / "turns.json"
    path.write_text(json.dumps([{"begin": time.time() - 3600}]))
    log = tmp_path / "fit/log.csv"
    log.parent.mkdir()
    log.write_text("")
    os.utime(path, (time.time() - 3600,) * 2)
    os.utime(log, (time.time() - 3000,) * 2)  # the killed turn's last sign of life, ten minutes after it began
    assert shipped.begin_turn(tmp_path) == pytest.approx(600, abs=5)
    assert shipped.begin_turn(tmp_path) == pytest.approx(600, abs=5)  # a turn that died at once adds nothing


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_shipped import *

    def run(config, folder):
        def on_step(run):
            with (folder / "steps").open("a") as file:
                file.write(f"{run.step} ")
            if run.step == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        run = shipped.train(recipe(config), folder / "fit", progress=False, save_every=1, on_step=on_step)
        return run.model, {"loss": run.losses[-1]}

    root = Path(sys.argv[2])
    ship(Shipped("cameras-toy", Config(), run), Places(root / "build", root / "checkpoints", root / "results"), quiet)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_training_goes_on_and_comes_out_the_same(toy, places, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), os.path.dirname(__file__), str(tmp_path)]
    killed = subprocess.run([*command, "3"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not places.weights(toy).exists()
    resumed = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert (places.run(toy) / "steps").read_text().split() == ["1", "2", "3", "3", "4"]  # 2 was the last one saved
    model, whole = nn.Linear(4, 1), train_toy(Config(), tmp_path / "whole")[0]
    record = load(model, "cameras-toy", places)
    assert torch.equal(model.weight, whole.weight) and record["minutes"] >= 0
    assert len(json.loads((places.run(toy) / "turns.json").read_text())) == 2


def test_the_command_refuses_what_is_unknown_and_a_smoke_run(monkeypatch):
    from typer.testing import CliRunner

    from course_lib.cli import app

    monkeypatch.setenv("COURSE_SCALE", "laptop")
    unknown = CliRunner().invoke(app, ["ship", "01.nothing"])
    assert unknown.exit_code == 2 and "no shipped model is called '01.nothing'" in unknown.output
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    smoke = CliRunner().invoke(app, ["ship", "01.nothing"])
    assert smoke.exit_code == 2 and "COURSE_SCALE" in smoke.output


def test_the_command_says_how_to_go_on(toy, monkeypatch):
    from typer.testing import CliRunner

    from course_lib.cli import app

    monkeypatch.setenv("COURSE_SCALE", "laptop")
    for error, code, words in ((KeyboardInterrupt(), 130, "course ship 01.toy"), (ShippedError("too large"), 1, "too")):
        monkeypatch.setattr(shipped, "ship", lambda one, say, error=error: (_ for _ in ()).throw(error))
        result = CliRunner().invoke(app, ["ship", "01.toy"])
        assert result.exit_code == code and words in result.output


def test_the_models_in_the_repository_are_what_the_chapters_declare():
    assert stale_shipped() == []

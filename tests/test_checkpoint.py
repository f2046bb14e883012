"""Checkpoints: a killed run ends as one that was not, and nothing broken, foreign or pickled is ever loaded."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train import equal, state
from torch import nn
from toy_run import Toy, data, recipe

from course_lib.files import file_hash
from course_lib.recipe import Constant, Cosine, Optimizer
from course_lib.train import (
    CheckpointError,
    checkpoint,
    fit,
    latest_checkpoint,
    load_weights,
    read_weights,
    save_weights,
)

SCRIPT = Path(__file__).with_name("toy_run.py")
with_dropout = recipe(lambda: Toy(dropout=0.2))


def names(folder: Path) -> list[str]:
    """What a run's folder holds besides its logs."""
    return sorted(path.name for path in folder.iterdir() if "step-" in path.name)


def run_script(folder: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 6 and 8."""
    folder = tmp_path_factory.mktemp("run")
    fit(with_dropout, folder=folder, save_every=2, steps=8)
    return folder


@pytest.fixture
def folder(stored, tmp_path) -> Path:
    return shutil.copytree(stored, tmp_path / "run")


# ------------------------------------------------------------------------------------------------- exact resume
@pytest.mark.parametrize(
    "changes",
    [
        {"model": lambda: Toy(dropout=0.3)},
        {"model": lambda: Toy(batch_norm=True)},
        {"optimizer": Optimizer("sgd", lr=0.01)},
        {"optimizer": Optimizer("sgd", lr=0.01, momentum=0)},
        {"optimizer": Optimizer("adam", layer_decay=0.5, scales=(("patch_embed", 0.0),)), "accumulate": 2},
        {"precision": "bf16", "checkpoint_blocks": True},
    ],
    ids=["dropout", "batch norm", "sgd", "sgd without state", "adam in groups", "bf16"],
)
def test_a_run_in_pieces_is_the_run_in_one(tmp_path, changes):
    toy = recipe(**changes)
    for steps in (3, 11, 20):
        run = fit(toy, folder=tmp_path, steps=steps)
    whole = fit(toy, steps=20)
    assert run.losses == whole.losses and equal(state(run), state(whole))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_at_a_random_step_ends_with_the_same_weights(tmp_path):
    step = random.SystemRandom().randint(5, 39)
    killed = run_script(tmp_path, "--kill-at", str(step))
    assert killed.returncode == -signal.SIGKILL, (step, killed.stderr)
    assert names(tmp_path)[-1] == f"step-{(step - 1) // 4 * 4:08d}"
    run, whole = fit(with_dropout, folder=tmp_path, save_every=4), fit(with_dropout)
    assert equal(state(run), state(whole)), step
    assert run.losses == whole.losses


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    killed = run_script(tmp_path, "--kill-in-save", "10")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert names(tmp_path) == [".step-00000012.tmp", "step-00000004", "step-00000008"]
    assert latest_checkpoint(tmp_path).name == "step-00000008"
    run = fit(with_dropout, folder=tmp_path)
    assert equal(state(run), state(fit(with_dropout))) and ".step-00000012.tmp" not in names(tmp_path)


def test_a_finished_run_is_loaded_not_trained(tmp_path):
    run = fit(recipe(), folder=tmp_path)
    again = fit(recipe(stream=None), folder=tmp_path, on_step=lambda run: pytest.fail("it trained"))
    assert equal(state(run), state(again)) and again.history == run.history and again.stopped == "finished"


# ------------------------------------------------------------------------------------------------- broken ones
FILES = ["model/model.safetensors", "optimizer/optimizer.safetensors", "state.json", "manifest.json"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", FILES)
def test_a_broken_checkpoint_is_never_loaded(folder, capsys, file, damage):
    damage(folder / "step-00000008" / file)
    assert latest_checkpoint(folder).name == "step-00000006"
    said = capsys.readouterr().out
    assert (
        "step-00000008 is not whole" in said and said.endswith("taking the one before it\n") and said.count("\n") == 1
    )
    run = fit(with_dropout, folder=folder, steps=9)
    assert equal(state(run), state(fit(with_dropout, steps=9))) and [row["step"] for row in run.history] == [
        *range(1, 10)
    ]


def test_a_spoilt_checkpoint_is_replaced_by_a_good_one_and_costs_no_good_one(folder):
    for name in FILES:
        flip(folder / "step-00000008" / name)
    fit(with_dropout, folder=folder, steps=7)
    assert names(folder) == ["step-00000006", "step-00000007", "step-00000008"]
    fit(with_dropout, folder=folder, steps=8)
    assert names(folder) == ["step-00000007", "step-00000008"] and latest_checkpoint(folder).name == "step-00000008"


def test_with_all_of_them_broken_the_run_begins_anew_and_says_so(folder, capsys):
    for path in folder.glob("step-*"):
        cut(path / FILES[0])
    assert latest_checkpoint(folder) is None
    assert fit(with_dropout, folder=folder, steps=2).losses == fit(with_dropout, steps=2).losses
    assert "step-00000006 is not whole" in capsys.readouterr().out
    assert latest_checkpoint(folder / "nothing") is None


# ------------------------------------------------------------------------------------------------- full disks
def full(*arguments, **named):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["save_file", "file_hash", "finish"])
def test_a_full_disk_costs_a_checkpoint_not_the_run(tmp_path, monkeypatch, where):
    def on_step(run):
        if run.step == 5:
            monkeypatch.setattr(checkpoint, where, full)
        if run.step == 9:
            assert names(tmp_path) == ["step-00000002", "step-00000004"]
            monkeypatch.undo()

    with pytest.warns(UserWarning, match="step [68] could not be saved.*No space left.*The run goes on") as said:
        run = fit(recipe(), folder=tmp_path, save_every=2, on_step=on_step, steps=12)
    assert len(said) == 2 and names(tmp_path) == ["step-00000010", "step-00000012"]
    assert equal(state(run), state(fit(recipe(), steps=12)))


def test_a_disk_that_is_full_at_the_end_leaves_the_trained_model(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="step 5 could not be saved in .*No space left") as error:
        fit(recipe(), folder=tmp_path, save_every=99, steps=5)
    assert equal(state(error.value.run), state(fit(recipe(), steps=5))) and names(tmp_path) == []


# ------------------------------------------------------------------------------------------------- pickles
class Malicious:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("file", FILES[:3])
@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_even_with_a_fitting_manifest(folder, tmp_path, file, dump):
    path = folder / "step-00000008" / file
    with path.open("wb") as stream:
        dump({"state": Malicious(tmp_path / "mark")}, stream)
    manifest = path.parents[len(Path(file).parts) - 1] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), file: file_hash(path)}))
    with pytest.raises(CheckpointError, match="step-00000008"):
        fit(with_dropout, folder=folder)
    assert not (tmp_path / "mark").exists()
    pickle.loads(pickle.dumps(Malicious(tmp_path / "mark")))  # it does bite where it is read
    assert (tmp_path / "mark").exists()


def test_a_pickle_beside_the_weights_is_not_even_read(folder, tmp_path):
    for name in (".metadata", "model/.metadata", "optimizer/__0_0.distcp"):
        (folder / "step-00000008" / name).write_bytes(pickle.dumps(Malicious(tmp_path / "mark")))
    fit(with_dropout, folder=folder, steps=9)
    read_weights(folder / "step-00000008")
    assert not (tmp_path / "mark").exists()


# ------------------------------------------------------------------------------------------------- another recipe
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 32}, "batch_size was 16, is 32"),
        ({"steps": 80}, "steps was 40, is 80"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"clip": None}, "clip was 1.0, is None"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"schedule": Cosine(warmup=5)}, r"schedule was Cosine\(warmup=4.*, is Cosine\(warmup=5"),
        ({"schedule": Constant(4)}, r"schedule was Cosine\(.*, is Constant\("),
        ({"schedule": lambda step, steps: step / steps}, r"schedule was Cosine\(.*, is \[0.0, 0.05"),
        ({"optimizer": Optimizer(lr=1e-2, weight_decay=0.1)}, "optimizer.weight_decay was 0.05, is 0.1"),
        ({"optimizer": Optimizer("sgd", lr=1e-2)}, "optimizer.name was adamw, is sgd"),
        ({"optimizer": Optimizer(lr=1e-2, schedules=(("head.", Constant()),))}, "schedules was not there, is {'head.'"),
        ({"model": lambda: Toy(width=8)}, r"model.patch_embed.weight was \[16, 8\], is \[8, 8\]"),
        ({"model": lambda: Toy(depth=1)}, r"model.blocks.1.norm1.weight was \[16\], is not there"),
    ],
)
def test_a_run_goes_on_only_by_its_own_recipe(folder, changes, words):
    before = names(folder)
    with pytest.raises(CheckpointError, match=f"made by another recipe: {words}.*Give a new folder"):
        fit(recipe(**{"model": with_dropout.model, **changes}), folder=folder)
    assert names(folder) == before


def test_how_the_batch_is_shared_out_may_change(folder):
    run = fit(recipe(lambda: Toy(dropout=0.2), accumulate=2, checkpoint_blocks=True, name="renamed"), folder=folder)
    assert run.stopped == "finished" and len(run.losses) == 40


def test_a_folder_with_a_run_is_not_overwritten(folder):
    with pytest.raises(CheckpointError, match="holds the checkpoints of a run: resume it, or give a new folder"):
        fit(with_dropout, folder=folder, resume=False)


def test_the_newest_are_kept(tmp_path):
    fit(recipe(), folder=tmp_path, save_every=3, keep=3, steps=14)
    assert names(tmp_path) == ["step-00000009", "step-00000012", "step-00000014"]
    with pytest.raises(ValueError, match="keep is 0: keep 1"):
        fit(recipe(), folder=tmp_path, keep=0)


# ------------------------------------------------------------------------------------------------- weights alone
def test_weights_go_through_a_small_file(tmp_path):
    model, other = Toy(batch_norm=True), Toy(batch_norm=True)
    model(data()["x"])
    save_weights(model, tmp_path / "new/toy.safetensors", torch.float32)
    load_weights(other, tmp_path / "new/toy.safetensors")
    assert equal(model.state_dict(), other.state_dict())
    save_weights(model, tmp_path / "half.safetensors")
    stored = load_file(tmp_path / "half.safetensors")
    assert stored["head.weight"].dtype == torch.bfloat16 and stored["norm.num_batches_tracked"].dtype == torch.int64
    load_weights(other, tmp_path / "half.safetensors")
    assert other.head.weight.dtype == torch.float32
    assert torch.equal(other.head.weight, model.head.weight.bfloat16().float())


def test_a_checkpoint_becomes_weights(folder, tmp_path):
    save_weights(folder / "step-00000008", tmp_path / "toy.safetensors", torch.float32)
    model = Toy()
    load_weights(model, tmp_path / "toy.safetensors")
    assert equal(model.state_dict(), state(fit(with_dropout, steps=8)))
    assert equal(read_weights(folder / "step-00000008"), model.state_dict())


def test_weights_that_are_shared_are_stored_once(tmp_path):
    class Tied(Toy):
        def __init__(self):
            super().__init__()
            self.blocks[1].fc.weight = self.blocks[0].fc.weight

    run = fit(recipe(Tied), folder=tmp_path, steps=4)
    resumed = fit(recipe(Tied), folder=tmp_path, steps=8)
    assert "blocks.1.fc.weight" not in read_weights(tmp_path / "step-00000008")
    assert equal(state(resumed), state(fit(recipe(Tied), steps=8))) and run.step == 4
    assert resumed.model.blocks[1].fc.weight is resumed.model.blocks[0].fc.weight


def test_channels_last_weights_survive(tmp_path):
    toy = recipe(lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 2), nn.Flatten(), nn.Linear(4, 1)))
    toy = recipe(toy.model, channels_last=True)
    fit(toy, folder=tmp_path, steps=5)
    run = fit(toy, folder=tmp_path, steps=10)
    assert equal(state(run), state(fit(toy, steps=10)))
    assert run.model[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_that_do_not_fit_are_refused_and_named(tmp_path):
    path = tmp_path / "toy.safetensors"
    model = Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    misfits = [(Toy(width=8), r"blocks.0.fc.bias is \(8,\), the model's \(16,\).* and 10 more")]
    misfits += [(Toy(depth=1), "blocks.1.*is missing"), (Toy(depth=3), "blocks.2.*is not in the model")]
    for other, words in misfits:
        save_weights(other, path)
        with pytest.raises(CheckpointError, match=f"does not fit the model: .*{words}"):
            load_weights(model, path)
    save_file({}, path)
    cut(path)
    for wrong in (path, tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="can't be read as weights"):
            load_weights(model, wrong)
    assert equal(before, model.state_dict())

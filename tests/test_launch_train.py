"""Two real processes, started by torchrun: the same curve as one, and what befalls one of them is answered by both."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_train import distance, equal, state
from toy_launch import FIFTY, Tokens
from toy_run import Toy, recipe

from course_lib.train import fit, latest_checkpoint, load_weights, read_weights, save_weights

SCRIPT = Path(__file__).with_name("toy_launch.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL, and torchrun no libuv")


def start(what: str, folder: Path, restarts: int = 0, **environment: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", str(restarts), str(SCRIPT), what, str(folder)]
    # torchrun keeps its store over a restart and hands out the addresses of the dead (pytorch issue 135712)
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1]), **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    """What it said; it is ended where it takes minutes, and torchrun then ends its workers."""
    try:
        return process.communicate(timeout=240)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail("still running after 4 minutes: " + process.communicate()[0])


def launch(what: str, folder: Path, restarts: int = 0, **environment: str) -> list[dict]:
    """What each of the two processes found."""
    process = start(what, folder, restarts, **environment)
    said = finish(process)
    assert process.returncode == 0, said
    return [json.loads((folder / f"{what}-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def curves(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("curves")
    first, second = launch("curves", folder)
    assert first == second
    return folder, first


@pytest.fixture(scope="module")
def alone():
    return fit(FIFTY)


@pytest.mark.parametrize("way", ["ddp", "ddp in parts", "fsdp", "fsdp in parts", "hsdp"])
def test_two_processes_have_the_curve_of_one(curves, alone, way):
    losses = curves[1]["losses"][way]
    assert len(losses) == (50 if way in ("ddp", "fsdp") else 20)
    assert losses == pytest.approx(alone.losses[: len(losses)], rel=1e-4)
    assert losses != alone.losses[: len(losses)]  # they did share it


def test_sharded_weights_stay_fp32_and_uneven_ones_are_shared_out(curves):
    _, found = curves
    assert found["bf16 weights"] == ["torch.float32"]
    assert found["bf16 losses"] == pytest.approx(fit(recipe(Tokens, precision="bf16"), steps=4).losses, rel=0.01)
    assert found["placement"] == ["S(1)"] and found["tokens resume"]


@pytest.mark.parametrize("way", ["ddp", "fsdp", "hsdp"])
def test_one_process_reads_and_resumes_what_two_wrote(curves, alone, way, tmp_path):
    folder = curves[0] / way
    path = latest_checkpoint(folder)
    assert len(list((path / "model").iterdir())) == (1 if way == "ddp" else 2)
    assert not [file for file in path.rglob("*") if file.is_file() and file.suffix not in (".json", ".safetensors")]
    run = fit(FIFTY, folder=folder, steps=20, on_step=lambda run: pytest.fail("it trained"))
    assert run.losses == curves[1]["losses"][way]
    save_weights(path, tmp_path / "toy.safetensors", torch.float32)
    model = Toy()
    load_weights(model, tmp_path / "toy.safetensors")
    assert equal(model.state_dict(), state(run))
    assert distance(state(fit(FIFTY, folder=shutil.copytree(folder, tmp_path / "on"))), state(alone)) < 1e-4


def test_weights_gathered_from_a_sharded_model_are_those_of_its_checkpoint(curves):
    folder = curves[0]
    assert equal(read_weights(folder / "gathered.safetensors"), read_weights(latest_checkpoint(folder / "fsdp")))


def test_what_befalls_one_process_is_answered_by_both(tmp_path):
    both = launch("failures", tmp_path)
    assert both[0] == both[1]
    for parallel, found in both[0].items():
        assert found["signal"] == ["sigterm", 7, True], parallel
        assert "step 4: the loss is nan" in found["nan"] and "person-3-0" in found["nan"], parallel
        words, folders = found["full disk"]
        assert len(words) == 1 and "step 4 could not be saved" in words[0] and "No space left" in words[0], parallel
        assert folders == ["step-00000002", "step-00000006"], parallel
        assert found["spoilt"] == [5, True], parallel
        assert "made by another recipe: steps was 40, is 50" in found["other recipe"], parallel


def test_a_killed_process_is_started_again_and_ends_with_the_same_weights(tmp_path):
    step = str(random.SystemRandom().randint(4, 38))
    for found in launch("killed", tmp_path, restarts=2, KILL_AT=step):
        right = {"same": True, "losses": True}
        assert found == {"ddp": right, "fsdp": right, "attempt": 2}, step


def test_torchrun_passes_sigterm_on_and_every_process_saves_and_leaves(tmp_path):
    process = start("stopped", tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert process.returncode != 0, said
    first, second = (json.loads((tmp_path / f"stopped-{rank}.json").read_text()) for rank in range(2))
    assert first == second and (first["stopped"], first["code"]) == ("sigterm", 143)
    assert latest_checkpoint(tmp_path / "run").name == f"step-{first['step']:08d}"

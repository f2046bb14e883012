"""Launches for real: processes that are started, killed, warned and queued again."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import toy_chapter
from test_launch import posix, stub, toy
from typer.testing import CliRunner

from course_lib import cli, launch
from course_lib.launch import prove
from course_lib.train import latest_checkpoint


def test_a_job_is_proven(capfd):
    job = toy(nodes=4, parallel="hsdp")
    proof = job.prove()
    simulation, run = proof.simulation, proof.run
    assert (simulation["ranks"], simulation["samples"], simulation["parallel"]) == (32, 8, "hsdp")
    plan = job.plan()
    assert simulation["parameters"] == plan.trace.parameters
    assert sum(simulation["peak"].values()) == pytest.approx(plan.bytes, rel=0.1)
    assert simulation["peak"]["optimiser"] == pytest.approx(plan.memory["optimiser"], rel=0.05)
    assert run == {"steps": 9, "killed": 6, "resumed": 3, "difference": run["difference"]}
    assert run["difference"] <= 1e-6
    assert "on 32 ranks, hsdp, 8 samples each" in str(proof) and "killed one after step 6" in str(proof)
    assert not torch.distributed.is_initialized() and capfd.readouterr().out == ""


def test_a_named_configuration_is_simulated_and_nothing_run(monkeypatch):
    monkeypatch.setattr(prove, "killed_and_resumed", lambda job: pytest.fail("ran"))
    proof = toy(nodes=128, batch_size=1024).prove("smoke")
    assert proof.run is None and (proof.simulation["ranks"], proof.simulation["samples"]) == (1024, 1)


def test_a_proof_that_fails_says_why(tmp_path, monkeypatch):
    source = Path(toy_chapter.__file__).read_text()
    (tmp_path / "odd_chapter.py").write_text(source.replace("self.proj(mixed)", "self.proj(mixed)[:, 1:]"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(launch.ProofFailed, match="the simulation ended with code 1:(.|\n)*dimension of length 15"):
        launch.job("odd_chapter", "smoke").prove("smoke")


def test_the_largest_job_fits_an_80_gb_gpu():
    """2 billion parameters on 1,024 ranks."""
    pytest.importorskip("course_lib.chapters.transformers")
    job = launch.job("transformers", "vit-2b", nodes=128, gpus_per_node=8)
    simulation = job.prove("vit-2b").simulation
    assert simulation["parameters"] > 2e9 and simulation["ranks"] == 1024 and simulation["memory"] < 4e9
    assert sum(simulation["peak"].values()) == pytest.approx(job.plan().bytes, rel=0.15)
    assert sum(simulation["peak"].values()) < 0.9 * 80 * 2**30


def test_the_shell_trains_on_two_processes_and_goes_on(tmp_path, capfd):
    words = ["launch", "run", "toy_chapter", "smoke", "--processes", "2", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert "finished at step 9/9" in capfd.readouterr().out
    assert latest_checkpoint(tmp_path / "run").name == "step-00000009"
    assert len(prove.losses(tmp_path / "run")) == 9
    code = CliRunner().invoke(cli.app, [*words, "--set", "rate=0.5"]).exit_code  # another recipe in the same folder
    assert code == 1 and "was made by another recipe" in capfd.readouterr().err


GROWTH = """
    import gc
    import toy_chapter
    from course_lib.bf16 import fast_bf16
    from course_lib.launch.plan import step, with_example
    from course_lib.launch.simulate import resident_peak
    from course_lib.train import fit

    def ratio(**numbers):
        recipe = toy_chapter.recipe(toy_chapter.Config(256, 4, 4, 1024, steps=2, batch_size=4, **numbers), None)
        predicted = sum(step(recipe, world=1, shards=1)[1].values())
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
        before = resident_peak()
        fit(with_example(recipe), progress=False)
        return predicted / (resident_peak() - before)

    fit(with_example(toy_chapter.recipe(toy_chapter.CONFIGS["smoke"], None)), progress=False)
    print(ratio(), ratio(recompute=True), *[ratio(precision="bf16")] * fast_bf16())  # elsewhere fit is in fp32
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_the_predicted_memory_is_what_a_real_process_grows_by():
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "CUDA_VISIBLE_DEVICES": ""}  # what is freed goes back at once
    environment = {**prove.child_environment(), **at_once}
    command = [sys.executable, "-c", textwrap.dedent(GROWTH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [float(word) for word in done.stdout.split()]
    assert len(found) >= 2 and found == pytest.approx([1] * len(found), abs=0.15), done.stdout


@posix
def test_a_warned_job_saves_is_queued_again_and_finishes(tmp_path, monkeypatch):
    """The script itself, on a cluster of stubs: one machine, two processes on its CPU."""
    monkeypatch.chdir(tmp_path)
    job = toy("smoke", gpus_per_node=2, steps=300)
    Path("job.sh").write_text(job.script(out="run").replace("OMP_NUM_THREADS=4", "OMP_NUM_THREADS=1"))
    Path("bin").mkdir()
    stub(Path("bin/srun"), 'while [[ "$1" == --* ]]; do shift; done; echo $$ > step; exec "$@"')
    stub(Path("bin/scancel"), 'echo "$@" >> said; kill -TERM "$(cat step)"')
    stub(Path("bin/scontrol"), '[ "$1" = show ] && echo localhost || echo "$@" >> said')
    first, number = start_turn()
    wait_for("step 30/300", first)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 0, Path("log").read_text()
    assert Path("said").read_text().splitlines() == [f"--signal=TERM {number}.0", f"requeue {number}"]
    saved = int(latest_checkpoint("run").name.removeprefix("step-"))
    assert 30 <= saved < 300 and f"sigterm at step {saved}/300" in Path("log").read_text()
    second, _ = start_turn()
    assert second.wait(120) == 0, Path("log").read_text()
    assert f"step-{saved:08d}" in Path("log").read_text() and "ended with code 0" in Path("log").read_text()
    assert len(prove.losses(Path("run"))) == 300 and len(Path("said").read_text().splitlines()) == 2


def start_turn() -> tuple[subprocess.Popen, str]:
    """What Slurm does when a job's turn comes: the script, and the job's number."""
    number = str(os.getpid() * 10000 + time.monotonic_ns() % 10000)  # the script makes its port of it
    path = os.pathsep.join(["bin", str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**prove.child_environment(), "PATH": path, "SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "here"}
    with Path("log").open("a") as log:
        return subprocess.Popen(["bash", "job.sh"], env=environment, stdout=log, stderr=log), number


def wait_for(words: str, turn: subprocess.Popen, seconds: float = 90) -> None:
    """Until the log says so."""
    end = time.monotonic() + seconds
    while words not in (said := Path("log").read_text()):
        assert turn.poll() is None and time.monotonic() < end, said
        time.sleep(0.05)


@posix
def test_ctrl_c_saves_and_the_shell_says_how_to_go_on(tmp_path):
    words = ["run", "toy_chapter", "smoke", "--set", "steps=3000", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "course_lib.cli", "launch", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    turn = subprocess.Popen(command, env=prove.child_environment(), start_new_session=True, **pipes)
    while "step 30/" not in turn.stdout.readline():
        assert turn.poll() is None, turn.stderr.read()
    os.killpg(turn.pid, signal.SIGINT)  # as a terminal does
    said = turn.communicate(timeout=90)
    assert turn.returncode == 130 and "the same command goes on" in said[1]
    assert int(latest_checkpoint(tmp_path / "run").name.removeprefix("step-")) >= 30

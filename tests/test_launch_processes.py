"""Launches for real: processes that are started, killed, warned and queued again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from test_launch import posix, stub, toy
from typer.testing import CliRunner

from course_lib import cli
from course_lib.launch import prove
from course_lib.train import latest_checkpoint


def test_the_shell_trains_on_two_processes_and_goes_on(tmp_path, capfd):
    words = ["launch", "run", "toy_chapter", "smoke", "--processes", "2", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert "finished at step 9/9" in capfd.readouterr().out
    assert latest_checkpoint(tmp_path / "run").name == "step-00000009"
    assert len(prove.losses(tmp_path / "run")) == 9
    code = CliRunner().invoke(cli.app, [*words, "--set", "rate=0.5"]).exit_code  # another recipe in the same folder
    assert code == 1 and "was made by another recipe" in capfd.readouterr().err


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

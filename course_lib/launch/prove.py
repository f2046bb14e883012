"""The proof of a job, as far as one machine can give it: a simulated step on all ranks, and a process really killed."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from course_lib.launch.jobs import Job

TOLERANCE = 1e-6  # of a loss, relative
PROCESSES = 2
RESUMED = re.compile(r"going on from .*step-(\d+)")
# torchrun's processes must not share its own store: after a restart they find the addresses of the dead in it
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class ProofFailed(Exception):
    """What the job would start does not do what it should; what it said is in the message."""


@dataclass(frozen=True)
class Proof:
    """simulation: one step of rank 0 (`peak`: bytes by kind). run: the real processes, None where only simulated."""

    simulation: dict
    run: dict | None

    def __str__(self) -> str:
        said, run = self.simulation, self.run
        lines = [
            f"simulated {said['config']} ({said['parameters']:,} parameters) on {said['ranks']:,} ranks, "
            f"{said['parallel']}, {said['samples']} samples each; rank 0 holds at most"
        ]
        kinds = {**said["peak"], "all": sum(said["peak"].values())}
        lines += [f"  {kind:12s} {size / 2**30:8.3f} GiB" for kind, size in kinds.items()]
        if run:
            lines.append(
                f"ran smoke on {PROCESSES} processes for {run['steps']} steps, killed one after step {run['killed']}: "
                f"restarted from step {run['resumed']}, losses differ by {run['difference']:.1g} from a run without"
            )
        return "\n".join(lines)

    __repr__ = __str__


def prove(job: Job, config: str | None = None) -> Proof:
    """Simulates one step of the job on all its ranks, in a process of its own; then trains the chapter's smoke
    configuration on two real processes, kills one, and compares with a run in which none was.

    config: simulate that configuration instead, and nothing else. ProofFailed where anything goes wrong."""
    if config is not None:
        return Proof(simulated(job.at(config)), None)
    return Proof(simulated(job), killed_and_resumed(job.at("smoke")))


def simulated(job: Job) -> dict:
    """What `simulate` finds, in another process: this one may have a process group already."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job) if field.name != "config"}
    printed = run([sys.executable, "-m", "course_lib.launch.simulate", json.dumps(fields)], "the simulation")
    return json.loads(printed.splitlines()[-1])


def run(command: list[str], what: str) -> str:
    """What a command printed; ProofFailed with the end of what it complained about where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        raise ProofFailed(f"{what} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def child_environment() -> dict[str, str]:
    """This process's, with its module path: a chapter may come from anywhere."""
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def torchrun(processes: int, restarts: int, *words: str) -> list[str]:
    """torchrun, on this machine alone, of the entry that every launch runs."""
    options = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--shutdown-timeout=120"]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "course_lib.launch.worker", *words]


def killed_and_resumed(job: Job) -> dict:
    """Trains twice, once losing a process after two thirds of the steps, and compares the curves."""
    steps = job.recipe().steps
    killed = 2 * steps // 3
    if killed < 2:
        raise ProofFailed(f"the configuration {job.name} has {steps} steps: a kill and a restart need 3 or more")
    words = [*job.arguments(), "--example", "--device", "cpu", "--save-every", str(killed // 2)]
    with tempfile.TemporaryDirectory(prefix="course-prove-") as folder:
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        run(torchrun(PROCESSES, 0, *words, "--out", str(whole)), "the run")
        said = run(torchrun(PROCESSES, 1, *words, "--out", str(broken), "--kill", f"1:{killed}"), "the killed run")
        return {"steps": steps, "killed": killed, **compare(losses(whole), losses(broken), said)}


def losses(folder: Path) -> list[float]:
    """The loss of each step, from the log."""
    with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def compare(whole: list[float], broken: list[float], said: str) -> dict:
    """Where the restart went on, and the largest relative difference; ProofFailed where the kill shows in the curve."""
    resumed = RESUMED.search(said)
    if resumed is None:
        raise ProofFailed(f"no process went on from a checkpoint after the kill:\n{said[-3000:]}")
    if len(whole) != len(broken):
        raise ProofFailed(f"the killed run logged {len(broken)} steps, the whole one {len(whole)}")
    differences = [abs(a - b) / max(abs(a), 1e-30) for a, b in zip(whole, broken, strict=True)]
    if apart := [difference for difference in differences if not difference <= TOLERANCE]:  # NaN, too
        raise ProofFailed(f"the killed run's losses differ by {apart[0]:.2g} (relative) from those of the whole one")
    return {"resumed": int(resumed.group(1)), "difference": max(differences)}

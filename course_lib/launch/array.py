"""Rendering a large set on a cluster: a Slurm job array, each task of which fills its shards of one folder.

job = launch.rendering("wild", 300_000, size=(512, 384), tasks=40, cores=8, rate=0.4)
job.plan(); job.prove(); job.script("data/wild"); job.submit("data/wild")
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from course_lib.launch.prove import ProofFailed

ARRAY = """\
#!/bin/bash
# {count} pictures of {world}: each task makes its shards, and again what a kill took from it.
{directives}
set -euo pipefail
export OMP_NUM_THREADS=1
{setup}exec {command} --workers {cores} --part "$SLURM_ARRAY_TASK_ID/{tasks}"
"""
LAST = """\
#!/bin/bash
# Takes all shards in and writes the manifest; makes what is missing.
{directives}
set -euo pipefail
export OMP_NUM_THREADS=1
{setup}exec {command} --workers {cores}
"""
TOY = {"world": "studio", "count": 8, "size": 64, "scenes_per_shard": 1}  # of the proof
PART = "import json, sys; from course_lib.data.make import make; make(**json.loads(sys.argv[1]))"


@dataclass(frozen=True)
class Rendering:
    """`count` pictures of a world, (H, W) pixels each, by `tasks` tasks on `cores` cores each, every core making `rate`
    pictures a second (measure it)."""

    world: str
    count: int
    size: tuple[int, int]
    tasks: int
    cores: int
    rate: float
    seed: int = 0

    def __post_init__(self):
        if min(self.count, *self.size, self.tasks, self.cores) < 1 or not self.rate > 0:
            raise ValueError("count, size, tasks and cores must be at least 1, and the rate above 0")

    @property
    def core_hours(self) -> float:
        """Of all cores together."""
        return self.count / self.rate / 3600

    @property
    def turns(self) -> int:
        """Shards that the busiest core makes one after the other; a core makes a whole shard."""
        return -(-len(self.settings().shards_of((0, self.tasks))) // self.cores)

    @property
    def hours(self) -> float:
        """On the clock, with all tasks at work at once: as long as the busiest core takes."""
        return self.turns * min(self.settings().scenes_per_shard, self.count) / self.rate / 3600

    def settings(self):
        """What `course data make` makes of it. UnknownWorld, ValueError."""
        from course_lib.data.make import make_settings

        return make_settings(self.world, self.count, self.size, self.seed, "train", 1, 1, None, (), 2, None)

    def plan(self) -> str:
        """What it takes, in words."""
        height, width = self.size
        return (
            f"{self.count:,} pictures of {height} x {width} in {self.settings().shard_count:,} shards, {self.rate:.3g} "
            f"a second and core: {self.core_hours:,.0f} core-hours; {self.hours:.1f} hours with {self.tasks} tasks of "
            f"{self.cores} cores, {100 * self.core_hours / (self.hours * self.tasks * self.cores):.0f} % of them busy"
        )

    def command(self, out: str | Path) -> str:
        """`course data make`, without the part."""
        size = "x".join(map(str, self.size))
        words = ["data", "make", self.world, "--count", self.count, "--size", size, "--seed", self.seed]
        return shlex.join(["course", *map(str, words), "--out", Path(out).as_posix()])

    def script(self, out: str | Path, time: str = "24:00:00", partition: str | None = None, setup=()) -> str:
        """The text of the array for sbatch. out: a folder that all machines see. time: for one task, as Slurm writes
        it; a task that runs out of it goes on when it is queued again. setup: lines of shell before it."""
        return self._filled(ARRAY, out, time, partition, setup, f"{self.world}-%A-%a.log", f"0-{self.tasks - 1}")

    def last_script(self, out: str | Path, time: str = "24:00:00", partition: str | None = None, setup=()) -> str:
        """The text of the one task that comes after all others."""
        return self._filled(LAST, out, time, partition, setup, f"{self.world}-%j.log")

    def _filled(self, template, out, time, partition, setup, log, array=None) -> str:
        lines = {"job-name": f"render-{self.world}", "array": array, "cpus-per-task": self.cores, "time": time}
        lines |= {"partition": partition, "open-mode": "append", "output": log}
        lines = {name: value for name, value in lines.items() if value is not None}
        if bad := [name for name, value in lines.items() if len(str(value).splitlines()) != 1]:
            raise ValueError(f"{', '.join(bad)} must be one line")
        said = "\n".join([*(f"#SBATCH --{name}={value}" for name, value in lines.items()), "#SBATCH --requeue"])
        values = {"world": self.world, "count": f"{self.count:,}", "cores": self.cores, "tasks": self.tasks}
        setup = "".join(f"{line}\n" for line in setup)
        return template.format(**values, directives=said, setup=setup, command=self.command(out))

    def submit(self, out: str | Path, dry_run: bool = False, **options) -> None:
        """Prints both scripts and hands them to sbatch, the last to begin when all tasks have ended well; with
        `dry_run` only prints. FileNotFoundError, and nothing is done, without sbatch on this machine."""
        texts = self.script(out, **options), self.last_script(out, **options)
        for text, after in zip(texts, ("", " --dependency=afterok:$ARRAY"), strict=True):
            print(f"sbatch{after} <<'END'\n{text}END")
        if dry_run:
            return
        if shutil.which("sbatch") is None:
            raise FileNotFoundError(
                "this machine has no sbatch: nothing was submitted. Take the scripts to where it is"
            )
        submit = ["sbatch", "--parsable"]
        first = subprocess.run(submit, input=texts[0], check=True, text=True, capture_output=True).stdout
        after = f"--dependency=afterok:{first.strip().partition(';')[0]}"
        subprocess.run([*submit, after], input=texts[1], check=True, text=True)

    def prove(self) -> str:
        """Two tasks, really: eight small pictures by two processes at once, one of them killed in the midst and begun
        again, then the last step; compared byte for byte with the set that one process makes. ProofFailed."""
        from course_lib.data import shards
        from course_lib.data.make import make

        with tempfile.TemporaryDirectory() as folder:
            whole, parts = Path(folder, "whole"), Path(folder, "parts")
            run = [start(parts, (number, 2), self.seed) for number in range(2)]
            killed = kill_when_begun(parts, run[1])
            again = start(parts, (1, 2), self.seed)
            for process in (run[0], again):
                if process.wait(timeout=300):
                    raise ProofFailed(f"a task ended with code {process.returncode}: {process.stderr.read()[-2000:]}")
            unfinished = shards.read_manifest(parts)["complete"]
            make(out=parts, workers=0, progress=False, seed=self.seed, **TOY)
            make(out=whole, workers=0, progress=False, seed=self.seed, **TOY)
            return compared(whole, parts, killed, unfinished)


def rendering(
    world: str, count: int, size: tuple[int, int], tasks: int, cores: int, rate: float, seed: int = 0
) -> Rendering:
    """The job. ValueError for numbers that make none, and for a world that is not there."""
    job = Rendering(world, count, tuple(size), tasks, cores, rate, seed)
    if len(job.settings().shards_of((tasks - 1, tasks))) == 0:
        raise ValueError(
            f"{tasks} tasks are too many for {job.settings().shard_count} shards: a task makes whole shards"
        )
    return job


def start(out: Path, part: tuple[int, int], seed: int) -> subprocess.Popen:
    """A task of the proof, as a process of its own."""
    settings = {**TOY, "out": str(out), "workers": 0, "progress": False, "seed": seed, "part": part}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PART, json.dumps(settings)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def kill_when_begun(out: Path, process: subprocess.Popen) -> int:
    """Kills the second task once it has a shard whole and another under way; returns how many shards of the folder were
    whole then."""
    first, deadline = out / "shard-000001.tar", time.time() + 300
    while process.poll() is None and time.time() < deadline:
        if first.exists() and list(out.glob(f".*.{process.pid}.part")):
            break
        time.sleep(0.002)
    if process.poll() is not None:
        raise ProofFailed(
            f"the task to be killed ended with code {process.returncode}: {process.stderr.read()[-2000:]}"
        )
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    return len(list(out.glob("shard-*.tar")))


def compared(whole: Path, parts: Path, killed: int, unfinished: bool) -> str:
    """The proof in words. ProofFailed where the two folders are not the same."""
    names = {path.name for folder in (whole, parts) for path in folder.iterdir()}
    unlike = [n for n in sorted(names) if not all((folder / n).exists() for folder in (whole, parts))]
    unlike += [n for n in sorted(names - {*unlike}) if (whole / n).read_bytes() != (parts / n).read_bytes()]
    if unlike or unfinished:
        raise ProofFailed(f"the parts are not the whole: {', '.join(unlike) or 'complete before the last step'}")
    return (
        f"two tasks filled one folder, one of them killed when {killed} of {TOY['count']} shards were whole, and begun "
        f"again: {len(names)} files, byte for byte those of a single process"
    )

"""The Slurm script of a job, and handing it to sbatch."""

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from course_lib.launch.jobs import Job
from course_lib.launch.prove import ENVIRONMENT

NOTICE = 600  # seconds between Slurm's warning and the end of a turn: for the step in hand and its checkpoint
TEMPLATE = """\
#!/bin/bash
# {name} of {chapter} on {world} GPUs. Hand it to sbatch in the repository's root.
{directives}
set -uo pipefail
{setup}
# Slurm warns before the time is up: every torchrun then gets SIGTERM and hands it on, fit saves and leaves.
stopping=0
leave() {{
  stopping=1
  scancel --signal=TERM "$SLURM_JOB_ID.0"
}}
trap leave USR1 TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
mkdir -p {logs}

srun {srun} \\
  torchrun --nnodes={nodes} --nproc-per-node={gpus} --max-restarts={restarts} \\
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$SLURM_JOB_ID" --shutdown-timeout={patience} \\
  --log-dir={logs} --redirects=3 --tee=3 --local-ranks-filter=0 \\
  {worker} &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends `wait`, not the run
  wait "$step"
  code=$?
done

if [ "$code" -ne 0 ] && [ "$stopping" -eq 1 ]; then
  echo "saved and stopped: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
echo "ended with code $code"
exit "$code"
"""


def script(
    job: Job,
    *,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    start: str | Path | None = None,
    time: str = "24:00:00",
    partition: str | None = None,
    account: str | None = None,
    container: str | None = None,
    setup: Sequence[str] = (),
    cpus_per_gpu: int = 8,
    workers: int = 6,
    restarts: int = 3,
) -> str:
    """The text for sbatch.

    data: folders of shards. out: the run's folder, `runs/NAME` if None. start: weights to begin with, such as the last
    checkpoint of an earlier stage. All machines must see all of them. time: of one turn,
    after which the job goes back into the queue. container: an image for srun (pyxis). setup: lines of shell before the
    run, such as `module load cuda`. workers: processes that read ahead for a GPU. restarts: in a turn, after a loss.
    ValueError for a value of more than one line."""
    out = Path(out or Path("runs") / job.name)
    folders = [data] if isinstance(data, str | Path) else data
    words = ["-m", "course_lib.launch.worker", *job.arguments(), "--out", out.as_posix()]
    words += ["--start", Path(start).as_posix()] if start else []
    words += ["--data", *map(str, folders), "--workers", str(workers)] if folders else []
    cpus = cpus_per_gpu * job.gpus_per_node
    exports = [f"export {name}={value}" for name, value in {**ENVIRONMENT, "OMP_NUM_THREADS": 4}.items()]
    return TEMPLATE.format(
        name=job.name,
        chapter=job.chapter,
        world=job.world,
        directives=directives(job, {"partition": partition, "account": account, "time": time, "cpus-per-task": cpus}),
        setup="\n".join([*exports, *setup, ""]),
        srun=shlex.join(["--kill-on-bad-exit=0", *([f"--container-image={container}"] if container else [])]),
        nodes=job.nodes,
        gpus=job.gpus_per_node,
        restarts=restarts,
        patience=NOTICE // 2,
        logs=shlex.quote((out / "logs").as_posix()),
        worker=shlex.join(words),
    )


def directives(job: Job, asked: dict[str, str | int | None]) -> str:
    """The #SBATCH lines."""
    lines = {"job-name": job.name, "nodes": job.nodes, "ntasks-per-node": 1, "gpus-per-node": job.gpus_per_node}
    lines |= {name: value for name, value in asked.items() if value is not None}
    lines |= {"signal": f"B:USR1@{NOTICE}", "open-mode": "append", "output": "%x-%j.log"}
    if bad := [name for name, value in lines.items() if len(str(value).splitlines()) != 1]:
        raise ValueError(f"{', '.join(bad)} must be one line")
    return "\n".join([*(f"#SBATCH --{name}={value}" for name, value in lines.items()), "#SBATCH --requeue"])


def submit(job: Job, dry_run: bool = False, **options) -> subprocess.CompletedProcess | None:
    """Prints the command and the script, then runs sbatch; with `dry_run` only prints.

    FileNotFoundError, and nothing is done, without sbatch on this machine; CalledProcessError where sbatch refuses."""
    text = script(job, **options)
    print(f"sbatch <<'END'\n{text}END")
    if dry_run:
        return None
    if shutil.which("sbatch") is None:
        raise FileNotFoundError(
            "this machine has no sbatch: nothing was submitted. Take the script to where Slurm is, or try the run here "
            "with `course launch run`"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{job.name}.sh")
        path.write_text(text, encoding="utf-8", newline="\n")
        return subprocess.run(["sbatch", str(path)], check=True, text=True)

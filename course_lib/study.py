"""Ablations: every arm of a study under every seed, one JSON record each in `results/`, resumable after a kill.

A chapter declares `STUDIES = {"mask_ratio": Study("06.mask_ratio", ...)}`; `course study 06.mask_ratio` runs it and the
chapter's cell reads it back with `records` and `summary`.
"""

import dataclasses
import importlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.files import file_hash, text_hash, write_atomic
from course_lib.paths import RESULTS, ROOT, data_dir

SMOKE_ARMS, SMOKE_SEEDS, SMOKE_STEPS = 2, 1, 3


@dataclass(frozen=True)
class Study:
    """`run(config, seed, steps)` returns the metrics of one run: names and finite numbers. It may be text,
    `module:function`, found when it runs: what a chapter exports cannot import data and training.

    name: chapter and study, such as `06.mask_ratio`; arms: a frozen dataclass per arm; steps: of each run;
    data: the data sets under the data folder whose manifests a record depends on.
    """

    name: str
    title: str
    arms: dict[str, Any]
    run: Callable[[Any, int, int], dict[str, float]] | str
    steps: int
    seeds: tuple[int, ...] = (0, 1, 2)
    data: tuple[str, ...] = ()


class StaleRecord(Exception):
    """A record of another configuration, step count or data set than the source's."""


def config_hash(study: Study, arm: str) -> str:
    """The first 16 digits of the sha256 of the arm's configuration and the number of steps."""
    config = study.arms[arm]
    said = {"class": type(config).__name__, "config": dataclasses.asdict(config), "steps": study.steps}
    return text_hash(json.dumps(said, sort_keys=True, default=str), length=16)


def same_config(recorded: dict | None, config: Any) -> bool:
    """Whether a record's configuration is this one. A field that is newer than the record counts as its default."""
    if recorded is None:
        return False
    defaults = {field.name: field.default for field in dataclasses.fields(config)}  # MISSING equals nothing
    now = json.dumps(dataclasses.asdict(config), sort_keys=True, default=str)
    return json.dumps(defaults | recorded, sort_keys=True, default=str) == now


def data_hash(study: Study) -> dict[str, str | None]:
    """The sha256 of each data set's manifest; None where the data set is not on this machine."""
    manifests = {name: data_dir() / name / "manifest.json" for name in study.data}
    return {name: file_hash(path) if path.exists() else None for name, path in manifests.items()}


def record_path(study: Study, arm: str, seed: int, folder: Path | None = None) -> Path:
    """`results/06.mask_ratio/low-0.json`."""
    return (folder or RESULTS) / study.name / f"{arm}-{seed}.json"


def read_record(path: Path) -> dict | None:
    """The record; None where there is none, or only what a kill or a bad disk left of one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("metrics") else None


def stale_reason(study: Study, arm: str, record: dict) -> str:
    """Why the record is not one of this study's any more; empty where it is. Data that is not here is not compared, nor
    what was not there when the record was made: its run can't have used it."""
    if record.get("steps") != study.steps or not same_config(record.get("config"), study.arms[arm]):
        return "its configuration is not the source's any more"
    here, then = data_hash(study), record.get("data", {})
    changed = [name for name, digest in here.items() if digest and then.get(name, "unnamed") not in (None, digest)]
    return f"it was made with other data: {', '.join(changed)}" if changed else ""


def run_study(study: Study, arms=None, seeds=None, folder: Path | None = None, say=print) -> list[Path]:
    """Runs what has no valid record yet, arm by arm, and returns the paths of all records.

    At scale `smoke`: two arms, one seed, three steps, into a temporary folder.
    """
    from course_lib.scale import scale

    arms, seeds = chosen("arm", arms, study.arms), chosen("seed", seeds, study.seeds)
    if scale() == "smoke":
        study = dataclasses.replace(study, steps=SMOKE_STEPS)
        arms, seeds = arms[:SMOKE_ARMS], seeds[:SMOKE_SEEDS]
        folder = folder or Path(tempfile.mkdtemp(prefix="course-study-"))
    return [run_one(study, arm, seed, folder, say) for arm in arms for seed in seeds]


def chosen(kind: str, wanted, known) -> list:
    """Those asked for, or all; ValueError names what is unknown and what there is."""
    if unknown := [str(name) for name in wanted or () if name not in known]:
        raise ValueError(f"no {kind} {', '.join(unknown)}: use {', '.join(map(str, known))}")
    return list(wanted or known)


def run_one(study: Study, arm: str, seed: int, folder: Path | None, say: Callable[[str], None]) -> Path:
    """One record: kept where it is valid, else made; a stale one is named before it is replaced."""
    path = record_path(study, arm, seed, folder)
    record = read_record(path)
    if record and not (reason := stale_reason(study, arm, record)):
        say(f"{study.name} {arm} seed {seed}: kept {path.name}")
        return path
    if record:
        say(f"{study.name} {arm} seed {seed}: {path} is stale ({reason}): running it again")
    start = time.monotonic()
    metrics = finite(study, resolved(study.run)(study.arms[arm], seed, study.steps))
    write_record(study, arm, seed, path, metrics, minutes=(time.monotonic() - start) / 60)
    say(f"{study.name} {arm} seed {seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return path


def resolved(run: Callable | str) -> Callable:
    """The function, or the one that `module:function` names. ValueError where the module has none of that name."""
    if not isinstance(run, str):
        return run
    module, _, name = run.partition(":")
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ValueError(f"{run!r} names no function: write module:function")
    return function


def finite(study: Any, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics as plain floats; ValueError, naming the study, where there is none or one is NaN or infinite."""
    metrics = {name: float(value) for name, value in metrics.items()}
    if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise ValueError(f"{study.name}: {', '.join(bad)} is not a finite number: nothing is recorded")
    if not metrics:
        raise ValueError(f"{study.name}: run() returned no metrics: nothing is recorded")
    return metrics


def write_record(study: Study, arm: str, seed: int, path: Path, metrics: dict[str, float], minutes: float) -> None:
    """Writes one record with everything that says how it came about."""
    from course_lib.runinfo import run_info

    info = run_info(seed)
    about = {"study": study.name, "arm": arm, "seed": seed, "steps": study.steps, "minutes": round(minutes, 3)}
    about |= {"config": dataclasses.asdict(study.arms[arm]), "config_hash": config_hash(study, arm)}
    about |= {"data": data_hash(study)} | {key: info[key] for key in ("scale", "hardware", "versions")}
    write_atomic(path, json.dumps({**about, "metrics": metrics}, indent=1, default=str) + "\n")


def records(study: Study, folder: Path | None = None) -> dict[str, list[dict]]:
    """The valid records of each arm, by seed; StaleRecord names one that no longer fits. Made here at `smoke`."""
    from course_lib.scale import scale

    if scale() == "smoke" and folder is None:
        paths = run_study(study, say=lambda line: None)
        study = dataclasses.replace(study, steps=SMOKE_STEPS)
        folder = paths[0].parents[1]
    found = {arm: [] for arm in study.arms}
    for arm, seed in ((arm, seed) for arm in study.arms for seed in study.seeds):
        path = record_path(study, arm, seed, folder)
        record = read_record(path)
        if record and (reason := stale_reason(study, arm, record)):
            raise StaleRecord(f"{path} is stale: {reason}. Run `course study {study.name}`")
        found[arm] += [record] if record else []
    return {arm: rows for arm, rows in found.items() if rows}


def summary(study: Study, folder: Path | None = None) -> dict[str, dict[str, tuple[float, float, int]]]:
    """arm -> metric -> (mean, standard deviation over seeds, number of seeds). One seed has no spread: NaN."""
    return {arm: summarize(rows) for arm, rows in records(study, folder).items()}


def summarize(rows: list[dict]) -> dict[str, tuple[float, float, int]]:
    """metric -> (mean, standard deviation, count) over records."""
    values = {name: [row["metrics"][name] for row in rows] for name in rows[0]["metrics"]}
    spread = {name: statistics.stdev(v) if len(v) > 1 else math.nan for name, v in values.items()}
    return {name: (statistics.fmean(v), spread[name], len(v)) for name, v in values.items()}


def beyond_spread(first: tuple[float, float, int], second: tuple[float, float, int]) -> bool:
    """Whether the two means differ by more than the sum of their standard deviations."""
    return abs(first[0] - second[0]) > first[1] + second[1]


def find_study(name: str, root: Path = ROOT) -> Study:
    """The study called `NN.name`; ValueError lists those there are."""
    from course_lib.chapter_source import chapters, find_chapter

    number, _, key = name.partition(".")
    chapter = find_chapter(number, root)
    studies = studies_of(chapter.slug)
    if key not in studies:
        known = [study.name for other in chapters(root) for study in studies_of(other.slug).values()]
        raise ValueError(f"no study is called {name!r}: use one of {', '.join(known) or '(no chapter has one yet)'}")
    return studies[key]


def studies_of(slug: str) -> dict[str, Study]:
    """What the chapter's module declares as STUDIES; none where it has no module."""
    return declared(slug, "STUDIES")


def declared(slug: str, name: str) -> dict[str, Any]:
    """The dictionary that the chapter's module has under a name; an empty one where it has none, or no module."""
    try:
        return getattr(importlib.import_module(f"course_lib.chapters.{slug}"), name, {})
    except ModuleNotFoundError as error:
        if error.name != f"course_lib.chapters.{slug}":
            raise
        return {}


def stale_records(studies: Iterator[Study], folder: Path | None = None) -> list[str]:
    """Every record on disk that no longer fits its study, with the reason: a test holds this to be empty."""
    rows = [(study, arm, seed) for study in studies for arm in study.arms for seed in study.seeds]
    paths = [(study, arm, record_path(study, arm, seed, folder)) for study, arm, seed in rows]
    read = [(path, stale_reason(study, arm, record)) for study, arm, path in paths if (record := read_record(path))]
    return [f"{path}: {reason}" for path, reason in read if reason]

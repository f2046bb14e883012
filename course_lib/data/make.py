"""`course data make`: renders a world into shards, in worker processes with one torch thread each.

A shard holds whole scenes and depends only on the settings and its number, so workers may come and go: what a kill
interrupts is made anew, what was whole stays, and the bytes are the same in the end. For the same reason many machines
can fill one folder: each makes its part, `part=(k, n)`, and a last call without `part` takes all of them in.
"""

import argparse
import ctypes
import hashlib
import json
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tqdm import tqdm

from course_lib.data import shards
from course_lib.data.keypoints import FORMATS, check_format
from course_lib.data.schema import validate
from course_lib.data.sequences import check_motion
from course_lib.data.worlds import WORLDS, render_samples, sample_scene, world_named
from course_lib.paths import ASSETS, body_file

TEST_SETS = ASSETS / "test_sets.json"
LOCK = ".lock"
Part = tuple[int, int]  # k, n: the k-th of n parts, counted from 0


class MakeError(RuntimeError):
    """Data could not be made; the message says what is whole and what to do."""


class InUse(MakeError):
    """Another process makes this folder at this moment."""


@dataclass(frozen=True)
class Settings:
    """All that the bytes of a data folder depend on."""

    world: str
    split: str
    count: int
    size: tuple[int, int]
    seed: int
    views: int
    frames: int
    motion: str
    formats: tuple[str, ...]
    supersample: int
    scenes_per_shard: int
    body: str

    @property
    def pictures_per_scene(self) -> int:
        """Views times frames."""
        return self.views * self.frames

    @property
    def scenes(self) -> int:
        """How many scenes make `count` pictures."""
        return self.count // self.pictures_per_scene

    @property
    def shard_count(self) -> int:
        """How many shards the scenes fill; the last may hold fewer."""
        return -(-self.scenes // self.scenes_per_shard)

    def scenes_of(self, shard: int) -> range:
        """The scenes in a shard."""
        return range(shard * self.scenes_per_shard, min(self.scenes, (shard + 1) * self.scenes_per_shard))

    def shards_of(self, part: "Part | None") -> range:
        """The shards that part k of n makes, every n-th of them from the k-th on; all of them for None."""
        return range(self.shard_count) if part is None else range(part[0], self.shard_count, part[1])

    def pictures_of(self, part: "Part | None") -> int:
        """How many pictures they hold."""
        return self.pictures_per_scene * sum(len(self.scenes_of(shard)) for shard in self.shards_of(part))


def make_settings(
    world: str,
    count: int,
    size: int | tuple[int, int],
    seed: int,
    split: str,
    views: int,
    frames: int,
    motion: str | None,
    formats: tuple[str, ...],
    supersample: int,
    scenes_per_shard: int | None,
) -> Settings:
    """Checked settings. ValueError (UnknownWorld for the world) with what to do."""
    world_named(world, split)
    formats = tuple(check_format(name) for name in formats or FORMATS)
    height, width = (size, size) if isinstance(size, int) else size
    if min(count, height, width, views, frames, supersample) < 1 or seed < 0:
        raise ValueError("count, size, views, frames and supersample must be at least 1, and seed at least 0")
    per_scene = views * frames
    if count % per_scene:
        near = count // per_scene * per_scene
        raise ValueError(
            f"count {count} is no multiple of views x frames = {per_scene}: "
            f"use {near or per_scene} or {near + per_scene}"
        )
    motion = check_motion(motion or ("still" if frames == 1 else "walking"))
    scenes = count // per_scene
    per_shard = scenes_per_shard or max(1, min(-(-240 // per_scene), -(-scenes // 4)))
    body = body_file().name
    return Settings(
        world, split, count, (height, width), seed, views, frames, motion, formats, supersample, per_shard, body
    )


# ---------------------------------------------------------------- one shard, in a worker


_progress = None
_TRIM, _PAD, _MMAP = -1, -2, -3  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD


def start_worker(progress=None) -> None:
    """Runs once in every worker: one torch thread, Ctrl-C is the parent's business, pictures are counted together."""
    global _progress
    _progress = progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_memory()


def leave_with_parent() -> None:
    """Ends this worker when its parent is killed: it would go on rendering for nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)


def keep_memory() -> None:
    """Tells glibc to keep what was freed instead of handing it back and asking again: an eighth less time a picture.
    Other C libraries have no such switch and stay as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is not None:
        for option, size in ((_TRIM, 2**29), (_MMAP, 2**29), (_PAD, 2**26)):
            mallopt(option, size)


def make_shard(settings: Settings, number: int, out: str) -> tuple[str, dict]:
    """Renders one shard; returns its name and its entry in the manifest."""
    name = shards.shard_name(number)
    return name, shards.write_shard(Path(out) / name, _samples(settings, number))


def _samples(settings: Settings, number: int) -> Iterator:
    s = settings
    for scene in s.scenes_of(number):
        for sample in render_samples(
            s.world, s.split, s.seed, scene, s.size, s.views, s.frames, s.motion, s.formats, s.supersample
        ):
            if _progress is not None:
                with _progress.get_lock():
                    _progress.value += 1
            yield validate(sample)


# ---------------------------------------------------------------- the folder


def _alive(owner: dict) -> bool:
    """Whether the process that wrote a lock still runs (the same one: numbers are used again)."""
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 2
    except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError, TypeError):
        return False


@contextmanager
def locked(out: Path, part: Part | None = None) -> Iterator[None]:
    """Holds the folder's lock, or that of a part of it. InUse if another process has it, or has the folder where a
    part is asked for, or a part where the folder is; a lock of a process that died is taken over."""
    name = LOCK if part is None else f"{LOCK}-{part[0]}-of-{part[1]}"
    for other in (out / LOCK, out / name) if part else sorted(out.glob(f"{LOCK}*")):
        owner = _read_lock(other)
        if owner and _alive(owner):
            raise InUse(f"{out} is being made by process {owner['pid']}: wait for it, or use another folder")
        if owner == {} and _new_and_empty(other):  # its process is about to say who it is
            raise InUse(f"{out} is being made by another process: wait for it, or delete {other}")
        if owner is not None:
            other.unlink(missing_ok=True)
    try:
        handle = os.open(out / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        raise InUse(f"{out} is being made by another process: wait for it, or delete {out / name}") from None
    with os.fdopen(handle, "w") as stream:
        json.dump({"pid": os.getpid(), "started": psutil.Process().create_time()}, stream)
    try:
        yield
    finally:
        (out / name).unlink(missing_ok=True)


def _read_lock(lock: Path) -> dict | None:
    """Who holds a lock: {} where that can't be read, None where there is no lock (any more)."""
    try:
        return json.loads(lock.read_text())
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError):
        return {}


def _new_and_empty(lock: Path) -> bool:
    """Whether a lock was made in the last seconds and nothing is written in it yet."""
    try:
        found = lock.stat()
    except OSError:
        return False
    return found.st_size == 0 and time.time() - found.st_mtime < 5


def open_folder(out: Path, settings: dict, ours: tuple[str, ...] = ()) -> dict:
    """The manifest of a new or an earlier run in this folder. MakeError if the folder holds other data; files whose
    names are `ours` may lie there."""
    wanted = json.loads(json.dumps(settings))  # as the file has them
    if not (out / shards.MANIFEST).exists():
        strangers = [p.name for p in out.iterdir() if not p.name.startswith((".", "shard-")) and p.name not in ours]
        if strangers:
            raise MakeError(f"{out} is not empty ({strangers[0]} is in it) and has no manifest: choose a new folder")
        return {
            "version": shards.VERSION,
            "schema": shards.schema_version(),
            "settings": wanted,
            "shards": {},
            "complete": False,
        }
    manifest = shards.read_manifest(out)
    found = manifest["settings"]
    differ = [f"{key} is {found.get(key)!r}, not {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]]
    if differ:
        raise MakeError(f"{out} holds other data: {'; '.join(differ)}. Choose another folder, or delete this one.")
    return manifest


def remove_drafts(out: Path, numbers: Iterable[int]) -> None:
    """Removes the half shards of these numbers that a kill left; those of others may be in the making."""
    names = {shards.shard_name(number) for number in numbers}
    for draft in out.glob(".*.part"):
        if draft.name[1:].split(".tar.")[0] + ".tar" in names:
            draft.unlink(missing_ok=True)


def adopt(out: Path, manifest: dict, numbers: Iterable[int]) -> list[int]:
    """Takes those of the shards into the manifest that an earlier run made, removes broken ones; returns the numbers to
    make."""
    remove_drafts(out, numbers)
    missing = []
    for number in numbers:
        name = shards.shard_name(number)
        path, entry = out / name, manifest["shards"].get(name)
        if entry is None and path.exists():
            entry = manifest["shards"][name] = _entry_if_whole(path)
        if entry is None or not path.exists() or path.stat().st_size != entry["bytes"]:
            manifest["shards"].pop(name, None)
            if path.exists():
                tqdm.write(f"{path} was cut: it is made anew")
                path.unlink()
            missing.append(number)
    return missing


def _entry_if_whole(path: Path) -> dict | None:
    try:
        return shards.shard_entry(path, sum(1 for _ in shards.members(path)))
    except shards.ShardError:
        return None


# ---------------------------------------------------------------- the command


def make(
    world: str,
    count: int,
    out: str | Path,
    size: int | tuple[int, int] = 256,
    workers: int = 2,
    seed: int = 0,
    split: str = "train",
    *,
    views: int = 1,
    frames: int = 1,
    motion: str | None = None,
    formats: tuple[str, ...] = (),
    supersample: int = 2,
    scenes_per_shard: int | None = None,
    progress: bool = True,
    part: Part | None = None,
) -> Path:
    """Renders `count` pictures of a world into shards in the folder `out`, which is returned; again = continue.

    size: pixels, a number or (height, width). workers: processes; 0 renders in this one. split: train, val or test;
    they share no identity. A scene gives views x frames pictures: `views` cameras around it, `frames` moments of a
    `motion` (walking, waving, turning, sitting_down, wandering; `poses`: unrelated poses of the same people). formats:
    keypoint formats to store, all if empty. The bytes depend on all arguments but out, workers, progress and part.
    part: (k, n) makes the k-th of n parts only, k from 0; n processes or machines may do so at once. The manifest stays
    incomplete until a call without part has taken all of them in, having made what is missing.

    Raises UnknownWorld, ValueError for settings, MakeError for a folder that is in use or holds other data, a worker
    that died, a full disk: whole shards are kept, and the same call continues.
    """
    settings = make_settings(
        world, count, size, seed, split, views, frames, motion, formats, supersample, scenes_per_shard
    )
    check_part(part)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _fill(out, settings, part, workers, progress)
    return out


def _fill(out: Path, settings: Settings, part: Part | None, workers: int, progress: bool) -> None:
    """Makes what is missing in the folder, of a part or of all, and notes it."""
    with locked(out, part):
        manifest = open_folder(out, asdict(settings))
        if part is not None:
            manifest = part_of(manifest, settings, part)
        missing = adopt(out, manifest, settings.shards_of(part))
        note(out, manifest)
        done = sum(entry["samples"] for entry in manifest["shards"].values())
        pictures, name = settings.pictures_of(part), f"{settings.world}/{settings.split}"
        with tqdm(
            total=pictures, initial=done, unit="picture", desc=name, disable=not progress, mininterval=0.5
        ) as bar:
            _make_missing(out, settings, manifest, missing, workers, bar)
        if part is None:
            shards.write_manifest(out, manifest | {"complete": True})


def check_part(part: Part | None) -> None:
    """ValueError unless there is such a part."""
    if part is not None and not 0 <= part[0] < part[1]:
        raise ValueError(f"there is no part {part[0]} of {part[1]}: they are counted from 0 to {part[1] - 1}")


def part_of(manifest: dict, settings: Settings, part: Part) -> dict:
    """The manifest with the shards of a part alone."""
    mine = {shards.shard_name(number) for number in settings.shards_of(part)}
    found = {name: entry for name, entry in manifest["shards"].items() if name in mine}
    return manifest | {"shards": found, "part": part}


def note(out: Path, manifest: dict) -> None:
    """Writes the manifest. Who makes a part only begins it: others do too, with the same bytes, and the last call
    notes all shards."""
    if "part" not in manifest:
        shards.write_manifest(out, manifest)
    elif not (out / shards.MANIFEST).exists():
        shards.write_manifest(out, {name: manifest[name] for name in manifest if name != "part"} | {"shards": {}})


def _make_missing(out: Path, settings: Settings, manifest: dict, missing: list[int], workers: int, bar: tqdm) -> None:
    """Makes the missing shards; turns what can go wrong into a MakeError that counts what is whole."""
    try:
        if workers == 0 or not missing:
            for number in missing:
                _finish(out, manifest, *make_shard(settings, number, str(out)), bar)
        else:
            _make_in_workers(out, settings, manifest, missing, min(workers, len(missing)), bar)
    except BrokenProcessPool as error:
        raise _stopped("a worker process died (was it killed, or out of memory?)", manifest, settings, out) from error
    except OSError as error:
        raise _stopped(f"the disk said: {error.strerror or error}", manifest, settings, out) from error


def _stopped(why: str, manifest: dict, settings: Settings, out: Path) -> MakeError:
    done, count = len(manifest["shards"]), len(settings.shards_of(manifest.get("part")))
    return MakeError(
        f"{why}. {done} of {count} shards in {out} are whole and stay: run the same command again to continue."
    )


def _finish(out: Path, manifest: dict, name: str, entry: dict, bar: tqdm) -> None:
    """Notes a whole shard in the manifest at once, so that nothing is lost if the next second is the last."""
    manifest["shards"][name] = entry
    note(out, manifest)
    bar.update(max(0, sum(e["samples"] for e in manifest["shards"].values()) - bar.n))


def _make_in_workers(
    out: Path, settings: Settings, manifest: dict, missing: list[int], workers: int, bar: tqdm
) -> None:
    context, done = multiprocessing.get_context("spawn"), bar.n
    counter = context.Value("l", 0)
    pool = ProcessPoolExecutor(workers, context, start_worker, (counter,))
    try:
        waiting = {pool.submit(make_shard, settings, number, str(out)) for number in missing}
        while waiting:
            finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            bar.update(max(0, done + counter.value - bar.n))
            _collect(out, manifest, finished, bar)
    except BaseException:  # Ctrl-C too: stop the workers now, their half shards are under other names
        terminate(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        remove_drafts(out, missing)


def _collect(out: Path, manifest: dict, finished: set[Future], bar: tqdm) -> None:
    """Notes all whole shards first, then raises the first error."""
    errors = [future for future in finished if future.exception() is not None]
    for future in finished - set(errors):
        _finish(out, manifest, *future.result(), bar)
    if errors:
        raise errors[0].exception()


def spread(work: Callable, jobs: Sequence, workers: int) -> Iterator[tuple[int, Any]]:
    """(number of the job, what work(job) returned), as they come; workers 0 works in this process.

    MakeError if a worker died; an error of a job is raised here. Leaving the loop early ends the workers."""
    if workers == 0 or len(jobs) < 2:
        yield from ((number, work(job)) for number, job in enumerate(jobs))
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), start_worker)
    try:
        numbers = {pool.submit(work, job): number for number, job in enumerate(jobs)}
        waiting = set(numbers)
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from ((numbers.pop(future), future.result()) for future in finished)
    except BrokenProcessPool as error:
        raise MakeError(
            "a worker process died (was it killed, or out of memory?): run the same command again"
        ) from error
    except BaseException:
        terminate(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def terminate(pool: ProcessPoolExecutor) -> None:
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.terminate()


# ---------------------------------------------------------------- the fixed test sets


def make_test_set(world: str, folder: Path, count: int = 500, size: int = 256, workers: int = 2) -> Path:
    """The fixed test set of a world: 500 pictures, seed 0, split test. Compare it with `check_test_set`."""
    return make(world, count, Path(folder) / f"{world}-test-{size}", size, workers, 0, "test")


def check_test_set(world: str, folder: Path) -> str:
    """One line: whether a test set has the bytes on record. Another CPU or torch may round a few pixels differently."""
    found, recorded = shards.manifest_hash(folder), recorded_test_sets().get(world, {})
    if found == recorded.get("sha256"):
        return f"OK    {world}: sha256 {found[:16]} as on record"
    there = f"{str(recorded.get('sha256'))[:16]} made with {recorded.get('versions')}"
    return f"NOTE  {world}: sha256 {found[:16]}, on record {there}; here {versions()}"


def versions() -> dict[str, str]:
    """What the last bits of a picture depend on beside the settings."""
    return {"torch": torch.__version__.split("+")[0], "numpy": np.__version__, "machine": platform.machine()}


def scenes_digest(world: str, count: int = 8) -> str:
    """A hash of who and what is in the first scenes of a world's test set, whatever the machine's rounding: it changes
    when the worlds change."""
    scenes = [sample_scene(world, "test", 0, index, (256, 256))[0] for index in range(count)]
    words = [f"{s.identities} {s.families} {s.place} {len(s.objects)}" for s in scenes]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def recorded_test_sets() -> dict:
    """The hashes in the repository: world -> sha256 of its shards' hashes, scenes, settings, versions."""
    return json.loads(TEST_SETS.read_text()) if TEST_SETS.exists() else {}


def record_test_set(world: str, folder: Path) -> None:
    """Writes a test set's hash into the repository: for whoever changes the worlds."""
    settings = shards.read_manifest(folder)["settings"]
    entry = {name: settings[name] for name in ("count", "size", "seed", "split", "body")}
    entry |= {"sha256": shards.manifest_hash(folder), "scenes": scenes_digest(world), "versions": versions()}
    TEST_SETS.write_text(json.dumps(recorded_test_sets() | {world: entry}, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """`python -m course_lib.data.make FOLDER [--record]`: makes all test sets, compares (or records) their hashes."""
    parser = argparse.ArgumentParser(description="make the fixed test set of every world")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true", help="write the hashes into the repository")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    arguments = parser.parse_args()
    for world in arguments.worlds:
        start = time.time()
        folder = make_test_set(world, arguments.folder)
        if arguments.record:
            record_test_set(world, folder)
        print(check_test_set(world, folder), f"({time.time() - start:.0f} s)")


if __name__ == "__main__":
    main()

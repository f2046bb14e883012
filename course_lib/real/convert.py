"""The driver of all data scripts: checks a source, then writes the course's shards.

    python data_scripts/threedpw.py --root FOLDER --out FOLDER

1. Every group of the source is checked (`Source.items`), in worker processes. What is bad is set aside with a reason;
   if more than `--tolerate` is, the run ends here, and nothing but `report.json` was written.
2. The items are cut into shards by their number, so that workers may come and go: a shard is there whole or not at all,
   the manifest names it at once, and the same call continues after a kill or a full disk. Shards from which a picture
   was set aside are tried again by the next call.
3. `overlay.png` shows some of the written samples with their labels.

The source is opened for reading only.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from course_lib.data import shards
from course_lib.data.make import MakeError, locked, open_folder, spread
from course_lib.data.schema import Sample, validate
from course_lib.files import text_hash, write_atomic
from course_lib.real import overlay, tables
from course_lib.real.checks import SourceError, shown
from course_lib.real.resize import scaled, squared
from course_lib.real.safe import UnsafeFile
from course_lib.real.source import Item, Source, how_to_get

REPORT, OVERLAY = "report.json", "overlay.png"
LONGEST_KEY = 80  # letters: a tar's names are short


class Found(NamedTuple):
    """What the check of a source found: its good items in order; group -> and item -> why it was set aside; how many
    groups there are."""

    items: list[Item]
    bad_groups: dict[str, str]
    bad_items: dict[str, str]
    groups: int

    @property
    def bad(self) -> dict[str, str]:
        """All that was set aside."""
        return self.bad_groups | self.bad_items


class Plan(NamedTuple):
    """What is written from what, for workers. size: of the pictures' longest side in pixels, 0 leaves them; of squares
    around the people if `square`."""

    source: Source
    out: Path
    size: int = 0
    square: bool = False


def why(error: Exception) -> str:
    """An error's words; with its type where it wasn't written for readers."""
    return shown(str(error) if isinstance(error, SourceError) else f"{type(error).__name__}: {error}")


# ---------------------------------------------------------------- 1 checking


def examine(source: Source, group) -> tuple[list[Item], str]:
    """The items of a group, and what is bad about it as a whole, "" for nothing. UnsafeFile ends the run."""
    try:
        return list(source.items(group)), ""
    except (UnsafeFile, MemoryError):
        raise
    except Exception as error:  # broken files can lead to any
        return [], why(error)


def find(source: Source, limit: int | None = None, workers: int = 0, progress: bool = True) -> Found:
    """Checks the source's groups. limit: no more items than that, evenly spread over groups and within them.

    SourceError for a root or groups that are not there, UnsafeFile for a file that holds more than data."""
    if not source.root.is_dir():
        raise SourceError(f"{shown(source.root)} is no folder\n{how_to_get(type(source))}")
    groups = evenly(source.groups(), limit)
    found: list[list[Item]] = [[] for _ in groups]
    bad_groups: dict[str, str] = {}
    with tqdm(total=len(groups), unit="file", desc=f"checking {source.name}", disable=not progress) as bar:
        for number, (items, problem) in spread(partial(examine, source), groups, workers):
            found[number] = items
            bad_groups |= {shown(groups[number]): problem} if problem else {}
            bar.update()
    part = None if limit is None else -(-limit // max(1, len(groups)))
    items = evenly([item for items in found for item in evenly(items, part)], limit)
    bad_items = {shown(item.key): item.problem for item in items if item.problem}
    good = source.chosen(with_keys([item for item in items if not item.problem]))
    return Found(good, dict(sorted(bad_groups.items())), bad_items, len(groups))


def evenly(values: list, limit: int | None) -> list:
    """No more than so many, evenly spread."""
    if limit is None or limit >= len(values):
        return values
    return [values[index * len(values) // limit] for index in range(limit)]


def with_keys(items: list[Item]) -> list[Item]:
    """The items with keys that can be names in a tar. SourceError for two of the same key."""
    items = [item._replace(key=clean_key(item.key)) for item in items]
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise SourceError(f"two items are called {item.key!r}: was something unpacked twice?")
        seen.add(item.key)
    return items


def clean_key(key: str) -> str:
    """Letters, digits, - and _ alone; what is changed or cut gets a hash of the whole, so that it stays unique."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", key)
    if clean == key and len(key) <= LONGEST_KEY:
        return key
    return f"{clean[: LONGEST_KEY - 9]}-{text_hash(shown(key), 8)}"


def judge(found: Found, later: dict[str, str], tolerate: float) -> None:
    """SourceError if more than a share `tolerate` of the groups or of the items is bad. later: the items that turned
    out so while they were read."""
    items = found.bad_items | later
    counts = ("files or sequences", found.bad_groups, found.groups)
    for what, bad, total in (counts, ("items", items, len(found.items) + len(found.bad_items))):
        if len(bad) > tolerate * total:
            raise SourceError(
                f"{len(bad)} of {total} {what} are bad, more than --tolerate {tolerate:g} allows: mend or remove them, "
                f"or allow more\n{few(bad)}"
            )


def few(bad: dict[str, str], most: int = 5) -> str:
    """The first reasons, a line each."""
    lines = [f"  {shown(name)}: {reason}" for name, reason in list(bad.items())[:most]]
    return "\n".join(lines + [f"  and {len(bad) - most} more"] * (len(bad) > most))


# ---------------------------------------------------------------- 2 reading and writing


def records(plan: Plan, items: Iterable[Item], bad: dict[str, str]) -> Iterator:
    """Samples or records of items; what can't be read is noted in `bad`, item -> reason."""
    for item in items:
        try:
            made = plan.source.read(item)
            if not plan.source.tables:
                made = [finished(plan, item.key, n, sample) for n, sample in named(made)]
        except (UnsafeFile, MemoryError):
            raise
        except Exception as error:  # broken files can lead to any
            bad[item.key] = why(error)
            continue
        yield from made


def named(samples: list[Sample]) -> Iterator[tuple[str, Sample]]:
    """What each sample's key ends with: nothing where an item has one alone."""
    return ((f"-{n}" if len(samples) > 1 else "", sample) for n, sample in enumerate(samples))


def finished(plan: Plan, key: str, ending: str, sample: Sample) -> Sample:
    """A sample with its key, at the size asked for, checked against the schema."""
    sample.key, sample.source = key + ending, sample.source or plan.source.name
    if plan.square:
        sample = squared(sample, plan.size)
    elif plan.size:
        sample = scaled(sample, plan.size)
    return validate(sample)


def write(plan: Plan, job: tuple[str, list[Item]]) -> tuple[dict | None, dict[str, str]]:
    """Writes a shard; returns its entry in the manifest and what was set aside. None where nothing was left."""
    (name, items), bad = job, {}
    writer = tables.write_table if plan.source.tables else shards.write_shard
    entry = writer(plan.out / name, records(plan, items, bad))
    if entry["samples"] == 0:
        (plan.out / name).unlink()
    return entry if entry["samples"] else None, bad


def try_out(plan: Plan, job: tuple[str, list[Item]]) -> dict[str, str]:
    """Reads what would go into a shard; returns what is bad about it."""
    bad: dict[str, str] = {}
    for _ in records(plan, job[1], bad):
        pass
    return bad


def jobs_of(source: Source, items: list[Item]) -> list[tuple[str, list[Item]]]:
    """The files to write, each with its items."""
    if source.own_names:
        return [(f"{item.key}.npz", [item]) for item in items]
    ending = ".npz" if source.tables else ".tar"
    parts = [items[at : at + source.per_shard] for at in range(0, len(items), source.per_shard)]
    return [(Path(shards.shard_name(number)).stem + ending, part) for number, part in enumerate(parts)]


def missing(out: Path, manifest: dict, jobs: list[tuple[str, list[Item]]]) -> list[tuple[str, list[Item]]]:
    """The jobs to do: whose file is not in the manifest, was cut, or lacks what was set aside. Halves are removed."""
    aside = manifest.setdefault("set_aside", {})
    for half in [*out.glob(".*.part"), *out.glob(".*.tmp")]:
        half.unlink(missing_ok=True)
    found = []
    for name, items in jobs:
        entry, path = manifest["shards"].get(name), out / name
        if entry is None or name in aside or not path.exists() or path.stat().st_size != entry["bytes"]:
            manifest["shards"].pop(name, None)
            found.append((name, items))
    return found


def settings_of(plan: Plan, found: Found, limit: int | None) -> dict:
    """All that the bytes depend on."""
    keys = "\n".join(f"{item.key} {item.place!r}" for item in found.items)
    settings = {
        "world": plan.source.name,
        "split": "real",
        "count": len(found.items),
        "size": plan.size,
        "limit": limit,
    }
    own = {name: str(value) if isinstance(value, Path) else value for name, value in plan.source.values.items()}
    return settings | {"seed": 0, "items": text_hash(keys, 16), "per_shard": plan.source.per_shard} | own


def convert(
    source: Source,
    out: str | Path,
    limit: int | None = None,
    workers: int = 2,
    tolerate: float = 0.01,
    size: int = 0,
    square: bool = False,
    progress: bool = True,
) -> Path:
    """Checks the source and writes it as shards into the folder `out`, which is returned; again = continue.

    limit: no more items, evenly spread. workers: processes, 0 works in this one. tolerate: the share of groups and of
    items that may be bad. size: the longest side of pictures in pixels, 0 leaves them as they are. square: they are cut
    to squares of `size` around all people in them, as chapters read them. ValueError for a square without a size,
    SourceError for a source that can't be used, MakeError for a folder in use or of other data, a dead worker, a full
    disk.
    """
    source.root, out = Path(source.root).resolve(), Path(out).resolve()
    if out == source.root or source.root in out.parents:
        raise MakeError(f"{shown(out)} lies in the source, which is never written to: choose another --out")
    if square and not size:
        raise ValueError("a square needs a size: add --size PIXELS")
    plan, found = Plan(source, out, size, square), find(source, limit, workers, progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            fill(plan, found, limit, workers, tolerate, progress)
    except OSError as error:
        raise MakeError(
            f"the disk said: {error.strerror or error}. Whole shards in {shown(out)} stay: make room and run the same "
            "command again to continue."
        ) from error
    return out


def fill(plan: Plan, found: Found, limit: int | None, workers: int, tolerate: float, progress: bool) -> None:
    """Writes what is missing in the folder, then report and overlay."""
    write_report(plan, found, {}, tolerate, 0)
    judge(found, {}, tolerate)
    if not found.items:
        raise SourceError(f"{shown(plan.source.root)}: nothing to convert: no item is left\n{few(found.bad)}")
    manifest = open_folder(plan.out, settings_of(plan, found, limit), (REPORT, OVERLAY)) | {"complete": False}
    todo = missing(plan.out, manifest, jobs_of(plan.source, found.items))
    shards.write_manifest(plan.out, manifest)
    left = sum(len(items) for _, items in todo)
    with tqdm(total=len(found.items), unit="item", desc=f"writing {plan.source.name}", disable=not progress) as bar:
        bar.update(len(found.items) - left)
        for number, (entry, bad) in spread(partial(write, plan), todo, workers):
            name, items = todo[number]
            note(plan.out, manifest, name, entry, bad)
            bar.update(len(items))
            if bad:
                write_report(plan, found, later(manifest), tolerate, written(manifest))
                judge(found, later(manifest), tolerate)
    write_report(plan, found, later(manifest), tolerate, written(manifest))
    if not plan.source.tables and (todo or not (plan.out / OVERLAY).exists()):
        overlay.save(plan.out, plan.out / OVERLAY)
    shards.write_manifest(plan.out, manifest | {"complete": True})


def note(out: Path, manifest: dict, name: str, entry: dict | None, bad: dict[str, str]) -> None:
    """Notes a shard in the manifest at once, so that nothing is lost if the next second is the last."""
    manifest["set_aside"].pop(name, None)
    manifest["set_aside"] |= {name: bad} if bad else {}
    manifest["shards"] |= {name: entry} if entry else {}
    shards.write_manifest(out, manifest)


def later(manifest: dict) -> dict[str, str]:
    """What was set aside while it was read: item -> reason."""
    return {key: reason for bad in manifest["set_aside"].values() for key, reason in bad.items()}


def written(manifest: dict) -> int:
    """How many samples there are."""
    return sum(entry["samples"] for entry in manifest["shards"].values())


def write_report(plan: Plan, found: Found, bad: dict[str, str], tolerate: float, samples: int) -> None:
    """`report.json`: what was found, what was set aside and why."""
    source = plan.source
    words = {"source": source.name, "title": source.title, "licence": source.licence, "root": shown(source.root)}
    words |= {"corrected": list(source.corrections), "groups": found.groups, "items": len(found.items)}
    words |= {"samples": samples, "tolerate": tolerate, "set_aside": found.bad | bad}
    write_atomic(plan.out / REPORT, json.dumps(words, indent=1) + "\n")


# ---------------------------------------------------------------- the command


def check(source: Source, limit: int | None, workers: int, tolerate: float, progress: bool = True) -> str:
    """Reads all that would be converted and writes nothing; returns what was found, in words. SourceError."""
    found = find(source, limit, workers, progress)
    bad: dict[str, str] = {}
    plan = Plan(source, Path())
    jobs = [("", found.items[at : at + 50]) for at in range(0, len(found.items), 50)]
    with tqdm(total=len(found.items), unit="item", desc=f"reading {source.name}", disable=not progress) as bar:
        for number, wrong in spread(partial(try_out, plan), jobs, workers):
            bad |= wrong
            bar.update(len(jobs[number][1]))
    judge(found, bad, tolerate)
    bad |= found.bad
    return f"{found.groups} files or sequences, {len(found.items)} items, {len(bad)} bad\n{few(bad, 20)}".rstrip()


def parser_of(source: type[Source]) -> argparse.ArgumentParser:
    """The command line of a data script."""
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=how_to_get(source), formatter_class=text)
    parser.add_argument("--root", type=Path, help="the folder that the source was unpacked to; it is never changed")
    parser.add_argument("--out", type=Path, help="the folder for the shards; the same command continues there")
    parser.add_argument("--limit", type=positive, help="no more items than this, evenly spread")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 works in this one")
    parser.add_argument("--check", action="store_true", help="read and check all, write nothing")
    parser.add_argument("--tolerate", type=share, default=0.01, help="the share that may be bad (0.01)")
    if not source.tables:
        parser.add_argument("--size", type=int, default=0, help="longest side of a picture in pixels; 0: as it is")
        parser.add_argument("--square", action="store_true", help="squares of --size around the people, for chapters")
    for name, words in source.options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **words)
    return parser


def positive(text: str) -> int:
    """A whole number over 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number over 0 is needed, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1 is needed, not {text}")
    return value


def main(source: type[Source], arguments: Sequence[str] | None = None) -> int:
    """Runs a data script; returns its exit status: 0 well, 1 with an error in words, 2 without a source to read."""
    parser = parser_of(source)
    options = vars(parser.parse_args(arguments))
    root, out, checking = options.pop("root"), options.pop("out"), options.pop("check")
    general = {
        name: options.pop(name) for name in ("limit", "workers", "tolerate", "size", "square") if name in options
    }
    if root is None or not root.is_dir():
        print(how_to_get(source) if root is None else f"{shown(root)} is not there.\n{how_to_get(source)}")
        return 2
    if out is None and not checking:
        parser.error("--out FOLDER is needed (or --check, which writes nothing)")
    if general.get("square") and general["size"] < 1:
        parser.error("--square needs --size PIXELS")
    try:
        opened = source(root, **options)
        if checking:
            print(check(opened, **{name: general[name] for name in ("limit", "workers", "tolerate")}))
            return 0
        folder = convert(opened, out, **general)
    except (SourceError, MakeError, shards.ShardError) as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command continues", file=sys.stderr)
        return 130
    print(summary(folder))
    return 0


def summary(folder: Path) -> str:
    """What was written, in a few lines."""
    report = json.loads((folder / REPORT).read_text())
    lines = [f"{shown(folder)}: {report['samples']} samples of {report['items']} items"]
    lines += [f"set aside: {len(report['set_aside'])}, see {REPORT}"] if report["set_aside"] else []
    lines += [f"look at {OVERLAY}: joints, masks and cameras should agree"] if (folder / OVERLAY).exists() else []
    return "\n".join(lines)

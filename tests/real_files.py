"""What the tests of data scripts share: small files in a source's real layout, the same broken, and what must follow.

A script's test says how its layout is written, and which key is what; `broken_versions` makes a case of each kind.
"""

import hashlib
import importlib
import json
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from course_lib.data import shards
from course_lib.real import overlay
from course_lib.real.convert import OVERLAY, REPORT, main
from course_lib.real.source import Source

DATA_SCRIPTS = Path(__file__).resolve().parents[1] / "data_scripts"


def script(name: str):
    """The module of a data script."""
    if str(DATA_SCRIPTS) not in sys.path:
        sys.path.insert(0, str(DATA_SCRIPTS))
    return importlib.import_module(name)


def run(source: type[Source], root: Path, out: Path | None, *more: str, drawn: bool = False) -> int:
    """The script's exit status, in this process and without workers unless asked for. drawn: the overlay is, too; it
    takes longer than all the rest."""
    where = [] if out is None else ["--out", str(out)]
    draw = overlay.save if drawn else (lambda folder, path: path.write_bytes(b"not drawn"))
    with mock.patch.object(overlay, "save", draw):
        return main(source, ["--root", str(root), *where, "--workers", "0", *more])


def fingerprint(folder: Path) -> str:
    """Of the names, bytes and times of all files, so that a source can be seen to be untouched."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        digest.update(f"{os.fsencode(path)!r} {state.st_mode} {state.st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def content(out: Path) -> dict[str, str]:
    """Name -> sha256 of all shards."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if p.suffix in (".tar", ".npz")}


def report(out: Path) -> dict:
    """What the script says it did."""
    return json.loads((out / REPORT).read_text())


# ---------------------------------------------------------------- what must follow


def assert_good(source: type[Source], root: Path, out: Path, capsys, *more: str) -> dict:
    """A good source converts, is whole, is not touched, and a second call changes nothing. Returns the report."""
    before = fingerprint(root)
    status = run(source, root, out, *more, drawn=True)
    assert status == 0, capsys.readouterr().err
    assert shards.verify(out)["complete"] and report(out)["set_aside"] == {}
    assert source.tables or Image.open(out / OVERLAY).size > (100, 100)
    first = content(out)
    assert first
    assert run(source, root, out, *more) == 0
    assert content(out) == first and fingerprint(root) == before
    assert run(source, root, None, "--check", *more) == 0
    capsys.readouterr()
    return report(out)


def assert_refused(source: type[Source], root: Path, out: Path, capsys, words: tuple[str, ...], *more: str) -> None:
    """A broken source ends the script with these words and leaves no shard; it is not touched."""
    before = fingerprint(root)
    assert run(source, root, out, "--tolerate", "0", *more) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert not out.exists() or content(out) == {}
    assert fingerprint(root) == before


def assert_set_aside(source: type[Source], root: Path, out: Path, capsys, words: tuple[str, ...], *more: str) -> None:
    """With a tolerance the rest is converted, and the report says what was not and why."""
    assert run(source, root, out, "--tolerate", "0.9", *more) == 0, capsys.readouterr().err
    why = " ".join(f"{name}: {reason}" for name, reason in report(out)["set_aside"].items())
    assert all(word in why for word in words), why
    assert shards.verify(out)["complete"] and content(out)
    capsys.readouterr()


def assert_no_source(source: type[Source], tmp_path: Path, capsys) -> None:
    """Without a root, with one that isn't there, and with an empty one the script says what to do."""
    for arguments in ([], ["--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]):
        assert main(source, arguments) == 2
        said = capsys.readouterr().out
        assert all(word in said for word in (source.licence, source.register, *source.download))
    (tmp_path / "empty").mkdir()
    assert run(source, tmp_path / "empty", tmp_path / "out") == 1
    assert "an empty folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- how files are broken

Change = Callable[[dict], None]


def edit_npz(path: Path, change: Change) -> None:
    """Changes the arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


def edit_pickle(path: Path, change: Change) -> None:
    """Changes the table in a pickle."""
    table = pickle.loads(path.read_bytes(), encoding="latin1")
    change(table)
    path.write_bytes(pickle.dumps(table, 2))


def edit_json(path: Path, change: Change) -> None:
    """Changes the table in a JSON file."""
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


EDIT = {".npz": edit_npz, ".pkl": edit_pickle, ".json": edit_json}


def truncate(path: Path, share: float = 0.6) -> None:
    """Cuts a file off."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def huge_png(side: int = 60_000) -> bytes:
    """A PNG that claims side x side pixels and holds almost nothing."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def changed(key: str, function: Callable) -> Change:
    """Changes what stands under a key: an array, a list of arrays, or nested lists of numbers."""

    def change(table: dict) -> None:
        value = table[key]
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            table[key] = [function(np.array(array, float)) for array in value]
            return
        made = function(np.array(value, float))
        table[key] = made.tolist() if isinstance(value, list) else made

    return change


def with_nan(array: np.ndarray) -> np.ndarray:
    """The array with NaN in its middle."""
    array = array.copy()
    array.ravel()[array.size // 2] = np.nan
    return array


@dataclass(frozen=True)
class Broken:
    """One broken version of a source: how the file is broken, and words that the error must have beside its name."""

    name: str
    apply: Callable[[Path], None]
    words: tuple[str, ...]


def broken_versions(missing: str, unit: tuple[str, float, str], nan: str, swapped: str) -> list[Broken]:
    """The kinds that every file with keys is tried with. unit: a key, by what it is multiplied, what it looks like."""
    key, factor, looks_like = unit

    def editing(change: Change) -> Callable[[Path], None]:
        return lambda path: EDIT[path.suffix](path, change)

    def swap(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, 0, -1)

    return [
        Broken("truncated", truncate, ("can't be read",)),
        Broken("missing key", editing(lambda table: table.pop(missing)), (missing, "missing")),
        Broken("wrong unit", editing(changed(key, lambda a: a * factor)), (key, looks_like)),
        Broken("NaN", editing(changed(nan, with_nan)), (nan, "NaN")),
        Broken("swapped axes", editing(changed(swapped, swap)), (swapped, "axes swapped")),
    ]


def picture(path: Path, size: tuple[int, int] = (48, 32), seed: int = 0) -> Path:
    """A small picture of noise; size: (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path

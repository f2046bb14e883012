"""What isn't pictures (motions, bodies) in a folder of shards: `shard-000000.npz`, ... and a manifest as beside others.

A shard holds arrays of equal length, a row for each record. The same records give the same bytes.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from course_lib.data import shards
from course_lib.real.checks import SourceError
from course_lib.real.safe import read_npz

Record = dict[str, np.ndarray]


def write_table(path: Path, records: Iterable[Record]) -> dict:
    """Writes a shard whole or not at all: the records one after another. Returns its entry in the manifest.

    A record without "rows" of its own (a body file) is one alone. SourceError where records have different columns."""
    made = list(records)
    columns = list(made[0]) if made else []
    for record in made:
        if list(record) != columns or len(made) > 1 and len({len(values) for values in record.values()}) != 1:
            raise SourceError(f"records differ: {', '.join(record)} with lengths {[len(v) for v in record.values()]}")
    arrays = {name: np.concatenate([r[name] for r in made]) if len(made) > 1 else made[0][name] for name in columns}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(shards._npz(arrays))
        lengths = {len(values) if values.ndim else 1 for values in arrays.values()}
        entry = shards.shard_entry(temporary, lengths.pop() if len(lengths) == 1 else len(made))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return entry


def read_tables(folder: str | Path) -> Iterator[Record]:
    """The shards of a folder in order. ShardError for a folder or shard that isn't whole."""
    folder = Path(folder)
    for name in sorted(shards.verify(folder, hashes=False)["shards"]):
        yield read_npz(folder / name)


def read_table(folder: str | Path, columns: tuple[str, ...] | None = None) -> Record:
    """All rows of a folder at once, of all columns or of some."""
    parts = [part for part in read_tables(folder) if part]
    return {name: np.concatenate([part[name] for part in parts]) for name in columns or (parts[0] if parts else ())}

"""Writing files so that a kill never leaves half of one, and naming what is in them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what stands there becomes `path` when the block ends well, else it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside `path` first, then rename: a reader sees the old file or the new one, never a half."""
    with draft(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def text_hash(text: str, length: int = 64) -> str:
    """The first `length` hexadecimal digits of the text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_hash(path: Path) -> str:
    """The sha256 of a file, read in pieces so that a large one costs no memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

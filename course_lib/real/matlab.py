"""Files of MATLAB: version 5 and 7 by scipy, version 7.3 (HDF5) by h5py. Neither runs code.

Both believe the sizes that a file claims; scipy makes 5 GB of spaces of a text of 100 bytes. So what a file claims is
compared with what it holds first, `check_claims`.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from course_lib.real.checks import SourceError, differs, entry, shown
from course_lib.real.safe import BROKEN, GIB, UnsafeFile, opened, unreadable


def read_mat(path: str | Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the variables `keys` that a .mat file of version 5 or 7 holds. Cells are arrays of objects, structs
    arrays with named fields. SourceError where it can't be read."""
    with opened(path, GIB) as stream:
        content = stream.read()
    try:
        check_claims(content)
        return {name: v for name, v in loadmat(path, variable_names=list(keys)).items() if name in keys}
    except NotImplementedError as error:
        raise SourceError(f"{shown(path)} is of MATLAB's version 7.3, one of version 5 or 7 was expected") from error
    except UnsafeFile as error:
        raise UnsafeFile(f"{shown(path)}: {error}") from None
    except (*BROKEN, MatReadError) as error:
        raise unreadable(path, error) from error


PACKED, MATRIX = 15, 14  # kinds of elements
CELL, STRUCT, TEXT, FIRST_NUMBER, LAST_NUMBER = 1, 2, 4, 6, 15  # classes of matrices


def check_claims(content: bytes) -> None:
    """Raises UnsafeFile for a file of version 5 or 7 whose matrices claim more entries than they hold, or which unpacks
    to over 2 GiB; ValueError for one of an older version. One of version 7.3 is left to whoever opens it."""
    mark = content[126:128]
    if mark not in (b"IM", b"MI"):
        raise ValueError("it is no file of MATLAB's version 5 or 7")
    order = "<" if mark == b"IM" else ">"
    if content[124:126] in (b"\0\2", b"\2\0"):
        return
    room = 2 * GIB
    for kind, part in elements(memoryview(content)[128:], order, packed=True):
        if kind == PACKED:
            whole = zlib.decompressobj().decompress(part, room)
            room -= len(whole)
            if room <= 0:
                raise UnsafeFile("it unpacks to over 2 GiB: it is refused as a bomb")
            for inner, matrix in elements(memoryview(whole), order):
                check_matrix(inner, matrix, order)
        else:
            check_matrix(kind, part, order)


def elements(data: memoryview, order: str, packed: bool = False) -> Iterator[tuple[int, memoryview]]:
    """Kind and bytes of each element in a row of them. ValueError for one that goes beyond the end. packed: packed
    ones have no room behind them."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, end = at + 8, at + 8 + (size if packed and kind == PACKED else -(-size // 8) * 8)
        if kind >> 16:  # a short one: its size stands in the kind, its bytes where the size was
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + size > min(len(data), max(end, start)):
            raise ValueError("an element goes beyond the end")
        yield kind, data[start : start + size]
        at = end


def check_matrix(kind: int, data: memoryview, order: str, depth: int = 0) -> None:
    """Raises UnsafeFile where a matrix, or one in its cells or fields, claims more entries than it holds."""
    if kind != MATRIX or not len(data):
        return
    parts = list(elements(data, order))
    if depth > 20 or len(parts) < 3:
        raise UnsafeFile("a matrix without a shape, or in over twenty others")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    claimed, form, rest = math.prod(np.frombuffer(parts[1][1], f"{order}i4").tolist()), flags & 0xFF, parts[3:]
    if form == TEXT or FIRST_NUMBER <= form <= LAST_NUMBER:
        holds = len(rest[0][1]) if rest else 0  # a byte an entry at least
    elif form in (CELL, STRUCT):
        holds = len(rest)  # an element a cell or field
    else:
        raise UnsafeFile(f"a matrix of MATLAB's class {form}, which data don't need")
    if not 0 <= claimed <= holds:
        raise UnsafeFile(f"a matrix says that it has {claimed:,} entries, it has {holds:,}: it is refused")
    for inner, part in rest if form in (CELL, STRUCT) else ():
        check_matrix(inner, part, order, depth + 1)


def reader(package: str) -> ModuleType:
    """A package that not everybody needs. SourceError, with what to run, where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise SourceError(
            f"such files take the package {package}: run `pip install -e '.[real]'` in the course's folder"
        ) from error


def cells(mapping: Mapping, where: str | Path, key: str) -> list[np.ndarray]:
    """The arrays of a cell array, one after another. SourceError where the key holds something else."""
    value = entry(mapping, where, key)
    if not isinstance(value, np.ndarray) or value.dtype != object:
        found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise differs(where, key, "a cell array", found)
    return [np.asarray(each) for each in value.ravel()]


def read_hdf5(path: str | Path, keys: Sequence[str], most: int = 4 * GIB) -> dict[str, np.ndarray]:
    """Those of the arrays `keys` that a .mat file of version 7.3 holds, axes as h5py gives them. SourceError where it
    can't be read, UnsafeFile for arrays that lie in other files or unpack to more than `most` bytes."""
    h5py = reader("h5py")
    with opened(path):
        pass
    try:
        with h5py.File(path, "r") as file:
            return {key: hdf5_array(file, key, path, most) for key in keys if key in file}
    except SourceError:
        raise
    except BROKEN as error:
        raise unreadable(path, error) from error


def hdf5_array(file, key: str, path: str | Path, most: int) -> np.ndarray:
    """One array of an open HDF5 file."""
    h5py = reader("h5py")
    found = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    if found is None or not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise UnsafeFile(f"{shown(path)}: {key} is a link, or its numbers lie in another file: it is refused")
    if found.nbytes > most:
        raise UnsafeFile(f"{shown(path)}: {key} has {found.nbytes:,} bytes, over {most:,}: it is refused")
    return np.asarray(found)

"""Reading files that nobody vouches for: no code in them is run, and none may fill memory or disk or leave its folder.

| file | how it is read |
|---|---|
| pickle (3DPW, THuman, SMPL) | `read_pickle`: numbers, text, numpy arrays, scipy's sparse matrices, chumpy's numbers |
| .npz, .npy (AMASS, ZJU) | `read_npz`, `read_npy`: without `allow_pickle`; arrays of objects as pickles are |
| .pt, .pth | `read_torch`: tensors, numbers, text |
| .zip, .tar | `extract`, `open_zip`: no members outside of the folder, links, devices, bombs |
| pictures | `read_image`, `read_mask`: the size is looked at before the pixels are |

Whatever else is in them is refused with an `UnsafeFile`.
"""

import codecs
import io
import json
import math
import pickle
import re
import shutil
import stat
import struct
import tarfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import sparse

from course_lib.real.checks import SourceError, differs, shown

GIB = 2**30
MOST_PIXELS = 120_000_000  # of a picture: 12,000 x 10,000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
BROKEN = (  # what reading a broken file can lead to
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, RecursionError),
    *(MemoryError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError, SyntaxError),
    *(pickle.UnpicklingError, NotImplementedError, Image.DecompressionBombError, tokenize.TokenError),
    *(BufferError, ArithmeticError, AssertionError, SystemError),
)


class UnsafeFile(SourceError):
    """A file that tries what no data need: it is refused, and nothing of it was run or written."""


def problem_with(read: Callable, *arguments) -> str:
    """What a reader says is wrong with a source's files, "" for nothing. An UnsafeFile is raised: it ends the run."""
    try:
        read(*arguments)
    except UnsafeFile:
        raise
    except SourceError as error:
        return str(error)
    return ""


def unreadable(path: str | Path, error: BaseException) -> SourceError:
    """The error for a file that is cut or damaged, or that the system won't give."""
    if isinstance(error, OSError) and error.strerror:
        return SourceError(f"{shown(path)}: {error.strerror}")
    why = (str(error).splitlines() or [""])[0] or type(error).__name__
    return SourceError(f"{shown(path)} can't be read: is it cut or damaged? ({why})")


# ---------------------------------------------------------------- pickles


class Kept:
    """In place of an object of chumpy or scipy: nothing but the numbers that it was stored with."""

    __slots__ = ("state",)

    def __init__(self, *_):
        self.state = {}

    def __setstate__(self, state) -> None:
        if not isinstance(state, dict) or not isinstance(self, Kept):
            raise UnsafeFile("an object was stored with something other than named values")
        object.__setattr__(self, "state", state)

    def __setattr__(self, name: str, value) -> None:
        if name != "state" or not isinstance(value, dict):
            raise UnsafeFile(f"a pickle wants to set {name!r}")
        object.__setattr__(self, name, value)


class Chumpy(Kept):
    """chumpy.ch.Ch: its array is called x."""

    __slots__ = ()


class Chosen(Kept):
    """chumpy.reordering.Select: entries `idxs` of the array a, as `preferred_shape`."""

    __slots__ = ()


class Sparse(Kept):
    """A matrix of scipy.sparse: data, indices, indptr (or row, col) and a shape."""

    __slots__ = ()


class Columns(Sparse):
    """csc"""

    __slots__ = ()


class Rows(Sparse):
    """csr"""

    __slots__ = ()


class Triples(Sparse):
    """coo"""

    __slots__ = ()


class Call(NamedTuple):
    """A function that a pickle may call. A tuple, so that nothing can be set on it."""

    run: Any

    def __call__(self, *arguments):
        return self.run(*arguments)


def empty_array(kind, shape, code) -> np.ndarray:
    """What every pickled array begins as; its numbers follow."""
    if kind is not ADMITTED["numpy", "ndarray"] or shape != (0,):
        raise UnsafeFile("an array that doesn't begin as an empty one of numpy's")
    return np.ndarray((0,), "b")


def kind_of_number(code, align=False, copy=True) -> np.dtype:
    """numpy's dtype of numbers, text or objects. No structures: their fields could lie outside of what they hold."""
    if type(code) is not str or not re.fullmatch(r"[<>|=]?(?:[?biufcO]\d{0,2}|[SU]\d{1,9})", code):
        raise UnsafeFile("a dtype that is neither numbers nor text")
    return np.dtype(code, False, True)


def no_array(*_):
    """numpy.ndarray is only ever named in a pickle, for the function above; called, it could ask for any memory."""
    raise UnsafeFile("it makes an array without numbers")


def number(dtype, data=b""):
    """One number of numpy; its bytes are text where Python 2 wrote them."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise UnsafeFile("a scalar that is no number")
    return np.frombuffer(data, dtype, 1)[0]


def from_buffer(buffer, dtype, shape, order) -> np.ndarray:
    """An array of pickle's protocol 5."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or type(buffer) not in (bytes, bytearray):
        raise UnsafeFile("an array that is made of no numbers")
    if type(order) is not str or order not in ("C", "F"):
        raise UnsafeFile("an array in no order")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def to_bytes(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 stores them for Python 2."""
    if encoding != "latin1" or type(text) is not str:
        raise UnsafeFile("bytes that are no text in latin1")
    return codecs.encode(text, "latin1")


def no_bytes() -> bytes:
    """Empty bytes as Python 3 stores them for Python 2."""
    return b""


def kept(kind, base=object, state=None) -> Kept:
    """An object of an old protocol."""
    if not (isinstance(kind, type) and issubclass(kind, Kept)):
        raise UnsafeFile(f"an object of a {type(kind).__name__}")
    return kind()


def check_dtype(dtype: np.dtype, state) -> None:
    """Raises UnsafeFile unless what a pickle adds to a dtype is its byte order alone. numpy believes what it is told:
    that an object is a number, whose bytes are then an address."""
    if type(state) is not tuple or len(state) != 8 or type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
        raise UnsafeFile("a dtype with more to it than an order of bytes")
    sizes, flags = (-1, dtype.itemsize), state[7]
    if any(part is not None for part in state[2:5]) or type(flags) is not int or flags != dtype.flags:
        raise UnsafeFile("a dtype that says it is another one")
    if type(state[5]) is not int or state[5] not in sizes or type(state[6]) is not int or not -1 <= state[6] <= 16:
        raise UnsafeFile("a dtype of another size than its own")


def check_array(array: np.ndarray, state) -> None:
    """Raises UnsafeFile unless a new array gets as many bytes or objects as its shape takes."""
    if array.shape != (0,) or type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple:
        raise UnsafeFile("an array that is filled twice, or with no numbers")
    _, shape, dtype, _, raw = state
    if not isinstance(dtype, np.dtype) or any(type(side) is not int or side < 0 for side in shape):
        raise UnsafeFile("an array without a shape")
    wanted, kinds = math.prod(shape), (list,) if dtype.hasobject else (bytes, str)
    if type(raw) not in kinds or len(raw) != wanted * (1 if dtype.hasobject else dtype.itemsize):
        raise UnsafeFile(f"an array of {wanted:,} entries, and other bytes than those")


def put(table, pairs: list) -> dict:
    """Adds key, value, key, value, ... to a table. UnsafeFile for keys other than numbers and text: to look up tuples
    in tuples in tuples can take forever."""
    if type(table) is not dict:
        raise UnsafeFile("it sets entries of what is no table")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if any(not isinstance(part, KEYS) for part in (key if type(key) is tuple else (key,))):
            raise UnsafeFile(f"a table with a {type(key).__name__} for a key")
        table[key] = value
    return table


KEYS = (str, bytes, int, float, type(None), np.number, np.str_, np.bytes_, np.bool_)
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Call(no_array),
    ("numpy", "dtype"): Call(kind_of_number),
    ("_codecs", "encode"): Call(to_bytes),
    ("builtins", "bytes"): Call(no_bytes),
    ("__builtin__", "bytes"): Call(no_bytes),
    ("copyreg", "_reconstructor"): Call(kept),
    ("copy_reg", "_reconstructor"): Call(kept),
    ("builtins", "object"): object,
    ("__builtin__", "object"): object,
    ("chumpy.ch", "Ch"): Chumpy,
    ("chumpy.reordering", "Select"): Chosen,
}
for _core in ("numpy.core", "numpy._core"):
    ADMITTED[f"{_core}.multiarray", "_reconstruct"] = Call(empty_array)
    ADMITTED[f"{_core}.multiarray", "scalar"] = Call(number)
    ADMITTED[f"{_core}.numeric", "_frombuffer"] = Call(from_buffer)
for _name, _kind in (("csc", Columns), ("csr", Rows), ("coo", Triples)):
    for _form in ("matrix", "array"):
        for _module in (f"scipy.sparse.{_name}", f"scipy.sparse._{_name}"):
            ADMITTED[_module, f"{_name}_{_form}"] = _kind


class Unpickler(pickle._Unpickler):
    """Admits numbers, text, lists, tuples, tables, numpy's arrays and the few classes above; raises UnsafeFile else.

    Python's own, not the one in C: that one can be made to ask for 64 GB by a file of ten bytes."""

    dispatch = pickle._Unpickler.dispatch.copy()

    def find_class(self, module: str, name: str):
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise UnsafeFile(f"it asks for {module}.{name}, and data need no code: it is refused") from None

    def persistent_load(self, pid):
        raise UnsafeFile("it refers to something outside of the file")

    def load_bytearray8(self):
        """Reads before it makes room, whatever length the file claims."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_build(self):
        """Looks at what an object is made of before it is made."""
        thing, state = self.stack[-2:]
        if isinstance(thing, np.dtype):
            check_dtype(thing, state)
        elif isinstance(thing, np.ndarray):
            check_array(thing, state)
        elif not isinstance(thing, Kept):
            raise UnsafeFile(f"it changes a {type(thing).__name__}")
        pickle._Unpickler.load_build(self)

    def load_setitem(self):
        """One entry of a table."""
        pair = self.stack[-2:]
        del self.stack[-2:]
        put(self.stack[-1], pair)

    def load_setitems(self):
        """Some entries of a table."""
        pairs = self.pop_mark()
        put(self.stack[-1], pairs)

    def load_dict(self):
        """A table with entries."""
        pairs = self.pop_mark()  # changes where `append` appends to
        self.append(put({}, pairs))

    def load_set(self):
        """Sets look their members up as tables do their keys."""
        raise UnsafeFile("it holds a set, which is no number")

    dispatch |= {pickle.BYTEARRAY8[0]: load_bytearray8, pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem}
    dispatch |= {pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict}
    dispatch |= dict.fromkeys((pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), load_set)


def unpickled(stream: IO[bytes], path: str | Path, encoding: str = "latin1") -> Any:
    """The numbers of a pickle in an open file. UnsafeFile, or SourceError where it is damaged."""
    try:
        return Plain().of(Unpickler(stream, encoding=encoding).load())
    except UnsafeFile as error:
        raise UnsafeFile(f"{shown(path)}: {error}") from None
    except BROKEN as error:
        raise unreadable(path, error) from error


def read_pickle(path: str | Path, encoding: str = "latin1", most: int = 4 * GIB) -> Any:
    """What a pickle holds: tables, lists, numbers and numpy arrays; chumpy's and scipy's objects as dense arrays.

    encoding: of the text that Python 2 wrote. most: bytes of the file. UnsafeFile for anything that is more than data.
    """
    with opened(path, most) as stream:
        return unpickled(stream, path, encoding)


def opened(path: str | Path, most: int = 4 * GIB) -> IO[bytes]:
    """A file to read from. SourceError where it is missing, empty or larger than `most` bytes."""
    try:
        size = Path(path).stat().st_size
        if size == 0 or not Path(path).is_file():
            raise differs(path, "the file", "some bytes", "an empty file" if Path(path).is_file() else "no file")
        if size > most:
            raise UnsafeFile(f"{shown(path)} has {size:,} bytes, such files have no more than {most:,}: it is refused")
        return open(path, "rb")
    except OSError as error:
        raise SourceError(f"{shown(path)} can't be opened: {error.strerror}") from error


class Plain:
    """Arrays in place of what was kept of chumpy's and scipy's objects, in tables and lists too.

    memo: id -> what was made of it, its bytes when all lists in lists are written out, and itself, so that a list that
    is in many lists is gone through once, and none of them grows beyond `most` for whoever makes an array of it.
    """

    def __init__(self, most: int = 4 * GIB):
        self.memo: dict[int, tuple[Any, int, Any]] = {}
        self.most, self.dense = most, 0

    def of(self, value, depth: int = 0) -> Any:
        """The plain value. UnsafeFile for what isn't data."""
        return self.sized(value, depth)[0]

    def sized(self, value, depth: int) -> tuple[Any, int]:
        """The plain value and its bytes."""
        if depth > 50:
            raise UnsafeFile("lists in lists in lists, over fifty deep")
        if id(value) not in self.memo:
            self.memo[id(value)] = (*self.made(value, depth + 1), value)  # itself, so that no other gets its id
        result, size, _ = self.memo[id(value)]
        if size > self.most:
            raise UnsafeFile(f"lists in lists that take over {self.most:,} bytes when they are written out")
        return result, size

    def made(self, value, depth: int) -> tuple[Any, int]:
        """`sized`, of something new."""
        if type(value) is dict:
            keys, parts = list(value), [self.sized(item, depth) for item in value.values()]
            return dict(zip(keys, (part for part, _ in parts), strict=True)), 8 + sum(size for _, size in parts)
        if type(value) in (list, tuple):
            parts = [self.sized(item, depth) for item in value]
            return type(value)(part for part, _ in parts), 8 + sum(size for _, size in parts)
        if isinstance(value, np.ndarray) and value.dtype == object:
            parts, result = [self.sized(item, depth) for item in value.ravel()], np.empty(value.size, object)
            for index, (part, _) in enumerate(parts):
                result[index] = part
            return result.reshape(value.shape), 8 + sum(size for _, size in parts)
        if isinstance(value, Kept):
            dense = self.numbers_of(value, depth)
            return dense, dense.nbytes
        if value is None or isinstance(value, bool | int | float | complex):
            return value, 8
        if type(value) in (str, bytes, bytearray):
            return value, 8 + len(value)
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            return checked_text(value), 8 + value.nbytes
        raise UnsafeFile(f"it holds a {type(value).__name__}, which is no number")

    def array(self, value, depth: int) -> np.ndarray:
        """A part of what chumpy or scipy keep: an array of numbers, or one number."""
        found = self.of(value, depth)
        if not isinstance(found, np.ndarray | np.number | int | float) or np.asarray(found).dtype.kind not in "biufc":
            raise UnsafeFile(f"a matrix whose numbers are a {type(value).__name__}")
        return np.asarray(found)

    def numbers_of(self, value: Kept, depth: int) -> np.ndarray:
        """The dense array of an object of chumpy or scipy."""
        state = value.state
        if isinstance(value, Chumpy):
            return self.array(state["x"], depth)
        if isinstance(value, Chosen):
            shape, chosen = self.of(state["preferred_shape"], depth), self.array(state["idxs"], depth)
            self.make_room(chosen.size * 16)
            return self.array(state["a"], depth).ravel()[chosen].reshape(shape)
        if not isinstance(value, Sparse):
            raise UnsafeFile("an object without a kind")
        return self.dense_of(value, depth)

    def make_room(self, size: int) -> None:
        """Counts what files make of little; a body's matrices take some megabytes."""
        self.dense += size
        if self.dense > GIB:
            raise UnsafeFile(f"matrices that are almost empty and take over {self.dense:,} bytes")

    def dense_of(self, value: Sparse, depth: int) -> np.ndarray:
        """The dense array of a matrix of scipy's."""
        state = value.state
        shape = tuple(int(n) for n in self.of(state.get("_shape", state.get("shape")), depth))
        data = self.array(state["data"], depth)
        if len(shape) != 2 or min(shape) < 0 or math.prod(shape) > GIB // 8:
            raise UnsafeFile("a sparse matrix of more than 134 million entries, or of none")
        self.make_room(math.prod(shape) * data.itemsize)
        if isinstance(value, Triples):
            row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
            return sparse.coo_matrix((data, (self.array(row, depth), self.array(column, depth))), shape).toarray()
        kind = sparse.csc_matrix if isinstance(value, Columns) else sparse.csr_matrix
        matrix = kind((data, self.array(state["indices"], depth), self.array(state["indptr"], depth)), shape)
        matrix.check_format(full_check=True)
        return matrix.toarray()


def checked_text(value: np.ndarray | np.generic) -> np.ndarray | np.generic:
    """The value itself; UnsafeFile for text with letters that don't exist, over which Python stumbles later."""
    if value.dtype.kind == "U" and value.size and value.dtype.itemsize and isinstance(value, np.ndarray):
        codes = np.ascontiguousarray(value).reshape(-1).view(np.dtype("u4").newbyteorder(value.dtype.byteorder))
        if codes.max() > 0x10FFFF:
            raise UnsafeFile("text with letters that don't exist")
    return value


# ---------------------------------------------------------------- numpy, torch, json


def read_npy(path: str | Path, most: int = 16 * GIB) -> Any:
    """The array of a .npy file; one of objects through the same reader as pickles (a single object comes by itself)."""
    with opened(path, most) as stream:
        return array_in(stream, Path(path).stat().st_size, path)


def array_in(stream: IO[bytes], size: int, path: str | Path) -> Any:
    """An array in NumPy's format, of a file of `size` bytes."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](stream)
        if not dtype.hasobject:
            if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
                raise UnsafeFile(f"it says that it holds {shape} of {dtype}, in {size} bytes: it is refused")
            data = stream.read(math.prod(shape) * dtype.itemsize)
            return checked_text(np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy())
    except UnsafeFile as error:
        raise UnsafeFile(f"{shown(path)}: {error}") from None
    except BROKEN as error:
        raise unreadable(path, error) from error
    value = unpickled(stream, path)
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


def read_npz(path: str | Path, keys: tuple[str, ...] | None = None, most: int = 4 * GIB) -> dict[str, Any]:
    """The arrays of an .npz file, or those of some keys that are there. SourceError where it is damaged."""
    found = {}
    with open_zip(path, most, Limits(total=most, files=100_000, ratio=100)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if keys is None or name in keys:
                found[name] = npz_member(archive, member, f"{shown(path)}: {name}")
    return found


def npz_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Any:
    """One array of an .npz file; all its bytes are read, so that its checksum is compared."""
    try:
        content = archive.read(member)
    except BROKEN as error:
        raise unreadable(where, error) from error
    return array_in(io.BytesIO(content), len(content), where)


def read_torch(path: str | Path) -> Any:
    """What torch.save wrote: tensors, numbers, text and tables of them. UnsafeFile for anything else."""
    with opened(path, 64 * GIB):
        pass
    try:
        if is_zip(path):
            check_stored(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        check_tensors(found, path)
        return found
    except SourceError:
        raise
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UnsafeFile(f"{shown(path)} holds other things than tensors: it is refused") from error
        raise unreadable(path, error) from error
    except BROKEN as error:
        raise unreadable(path, error) from error


def check_stored(path: str | Path) -> None:
    """Raises UnsafeFile where torch's archive is packed: torch stores tensors as they are, a bomb does not."""
    with open_zip(path, 64 * GIB) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise UnsafeFile(f"{shown(path)}: {shown(member.filename)} is packed, tensors never are: it is refused")


def check_tensors(found, path: str | Path) -> None:
    """Raises UnsafeFile for tensors that claim more numbers than the file holds: a copy of them would fill the memory.
    One tensor may have up to eight names."""
    size, total = Path(path).stat().st_size, 0
    for tensor in tensors_in(found, 0):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UnsafeFile(f"{shown(path)}: a tensor that is sparse, quantized or has no numbers: it is refused")
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > size or total > 8 * size:
            raise UnsafeFile(f"{shown(path)} has {size:,} bytes, a tensor of it {tuple(tensor.shape)}: it is refused")


def tensors_in(found, depth: int) -> Iterator[torch.Tensor]:
    """All tensors in tables and lists. UnsafeFile for deep ones."""
    if depth > 20:
        raise UnsafeFile("tables in tables, over twenty deep")
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict | list | tuple):
        for part in found.values() if isinstance(found, dict) else found:
            yield from tensors_in(part, depth + 1)


def read_json(path: str | Path, most: int = 4 * GIB) -> Any:
    """A JSON file. SourceError where it is none, is cut, or nested beyond reason."""
    with opened(path, most) as stream:
        try:
            return json.load(stream)
        except BROKEN as error:
            raise unreadable(path, error) from error


# ---------------------------------------------------------------- archives


class Limits(NamedTuple):
    """What an archive may unpack to: bytes, files, and times its own size."""

    total: int = 2000 * GIB
    files: int = 5_000_000
    ratio: float = 500.0  # beside masks, which are almost empty: 1,032 is the most that zip's own method can
    small: int = 2**28  # bytes up to which no ratio counts


LIMITS = Limits()


def open_zip(path: str | Path, most: int = 2000 * GIB, limits: Limits | None = None) -> zipfile.ZipFile:
    """A checked .zip (or .npz) to read members from. UnsafeFile for a bomb, SourceError for a damaged one."""
    limits = limits or Limits(total=most)
    with opened(path, most):
        pass
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise unreadable(path, error) from error
    try:
        check_bomb(path, ((m.filename, m.file_size) for m in archive.infolist()), limits)
        check_overlap(path, archive)
    except BaseException:
        archive.close()
        raise
    return archive


def check_overlap(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raises UnsafeFile where members share their bytes, as those of bombs do."""
    end = 0
    for member in sorted(archive.infolist(), key=lambda m: m.header_offset):
        if member.header_offset < end:
            raise UnsafeFile(f"{shown(path)}: {shown(member.filename)} shares bytes with another member: it is refused")
        end = member.header_offset + member.compress_size + 30


def check_bomb(path: str | Path, members: Iterator[tuple[str, int]], limits: Limits) -> None:
    """Raises UnsafeFile as soon as (name, bytes) of an archive's members are more than its limits."""
    size, total = Path(path).stat().st_size, 0
    for count, (name, length) in enumerate(members, start=1):
        total += length
        too_dense = total > limits.small and total > limits.ratio * size
        if total > limits.total or count > limits.files or too_dense:
            raise UnsafeFile(
                f"{shown(path)} ({size:,} bytes) unpacks to more than {total:,} bytes in {count} files (at "
                f"{shown(name)}): it is refused as a bomb"
            )


def inside(name: str, target: Path, path: str | Path) -> Path:
    """Where a member of an archive goes. UnsafeFile for a name that leads out of the folder."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts or ":" in pure.parts[0]:
        raise UnsafeFile(f"{shown(path)}: {shown(name)!r} leads out of the folder: it is refused")
    goes = target.joinpath(*pure.parts)
    if not goes.resolve().is_relative_to(target.resolve()):
        raise UnsafeFile(f"{shown(path)}: {shown(name)!r} leads out of the folder by a link in it: it is refused")
    return goes


def extract(path: str | Path, target: str | Path, limits: Limits = LIMITS) -> list[Path]:
    """Unpacks a .zip or .tar(.gz, .bz2, .xz) into a folder, all checked before the first file is written; returns the
    files. UnsafeFile for members outside of the folder, links, devices and bombs; what is there is never overwritten.
    """
    target = Path(target)
    with opened(path, limits.total):
        pass
    if is_zip(path):
        return extract_zip(path, target, limits)
    try:
        with tarfile.open(path, "r:*", tarinfo=Header) as archive:
            check_bomb(path, ((m.name, check_member(m, target, path)) for m in archive), limits)
            files = [m for m in archive if m.isreg()]
            return [copied(archive.extractfile(m), inside(m.name, target, path), m.size) for m in files]
    except SourceError:
        raise
    except BROKEN as error:
        raise unreadable(path, error) from error


def is_zip(path: str | Path) -> bool:
    """By how it begins: `zipfile.is_zipfile` takes a tar for one that holds a zip at its end."""
    with open(path, "rb") as stream:
        return stream.read(4) in (b"PK\3\4", b"PK\5\6")


class Header(tarfile.TarInfo):
    """Of a member of a tar. Refuses what tarfile would read whole, or go round in circles for, before we are asked."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """What a header's 512 bytes say."""
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or found.type == tarfile.GNUTYPE_SPARSE:
            raise UnsafeFile(f"{shown(found.name)} has {found.size} bytes, or holes: it is refused")
        if found.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and found.size > 2**20:
            raise UnsafeFile(f"a name or note of {found.size:,} bytes: it is refused")
        return found


def check_member(member: tarfile.TarInfo, target: Path, path: str | Path) -> int:
    """The bytes of a member of a tar. UnsafeFile for what is neither file nor folder, or lies outside."""
    if not (member.isreg() or member.isdir()):
        kind = "a link" if member.islnk() or member.issym() else "a device"
        raise UnsafeFile(f"{shown(path)}: {shown(member.name)} is {kind}, data need none: it is refused")
    if member.size < 0 or member.issparse():
        raise UnsafeFile(f"{shown(path)}: {shown(member.name)} has {member.size} bytes, or holes: it is refused")
    inside(member.name, target, path)
    return member.size


def extract_zip(path: str | Path, target: Path, limits: Limits) -> list[Path]:
    """The same for a .zip."""
    with open_zip(path, limits.total, limits) as archive:
        members = archive.infolist()
        for member in members:
            inside(member.filename, target, path)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeFile(f"{shown(path)}: {shown(member.filename)} is a link or device: it is refused")
        files = [m for m in members if not m.is_dir()]
        try:
            return [copied(archive.open(m), inside(m.filename, target, path), m.file_size) for m in files]
        except BROKEN as error:
            raise unreadable(path, error) from error


def copied(stream: IO[bytes], path: Path, size: int) -> Path:
    """Writes one member; SourceError where it is not as long as the archive says or where a file is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with stream, open(path, "xb") as out:
        shutil.copyfileobj(stream, out, 2**20)
        if out.tell() != size:
            raise SourceError(f"{shown(path)}: {size} bytes were expected, {out.tell()} came out: is the archive cut?")
    return path


# ---------------------------------------------------------------- pictures


def open_image(source: str | Path | bytes, where: str | Path = "", most: int = MOST_PIXELS) -> Image.Image:
    """A picture whose size is known and whose pixels are not yet read. UnsafeFile for more than `most` pixels."""
    name = where or (source if isinstance(source, str | Path) else "a picture")
    if not isinstance(source, bytes):
        with opened(source):
            pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnsafeFile(f"{shown(name)} says that it has too many pixels: it is refused ({error})") from error
    except BROKEN as error:
        raise unreadable(name, error) from error
    if image.width * image.height > most:
        image.close()
        raise UnsafeFile(f"{shown(name)} has {image.width} x {image.height} pixels, over {most:,}: it is refused")
    return image


def read_image(
    source: str | Path | bytes,
    where: str | Path = "",
    size: tuple[int, int] | None = None,
    upright: bool = False,
    most: int = MOST_PIXELS,
) -> np.ndarray:
    """RGB (H, W, 3) uint8. size: (height, width) that is expected. upright: turned as the camera notes in the file."""
    return pixels(source, where, "RGB", size, upright, most)


def read_mask(
    source: str | Path | bytes, where: str | Path = "", size: tuple[int, int] | None = None, most: int = MOST_PIXELS
) -> np.ndarray:
    """One channel (H, W) uint8: grey values, or the numbers of a palette as they are. size as for `read_image`."""
    return pixels(source, where, "", size, False, most)


def pixels(
    source: str | Path | bytes, where: str | Path, mode: str, size: tuple[int, int] | None, upright: bool, most: int
) -> np.ndarray:
    """The pixels of a picture of one frame, in a mode of Pillow's; "" takes one channel of 8 bits."""
    name = where or (source if isinstance(source, str | Path) else "a picture")
    with open_image(source, name, most) as image:
        try:
            image.load()
            turned = ImageOps.exif_transpose(image) if upright else image
            values = np.asarray(turned.convert(mode or ("P" if turned.mode == "P" else "L")))
        except BROKEN as error:
            raise unreadable(name, error) from error
    if size is not None and values.shape[:2] != tuple(size):
        hint = "turned by 90 degrees?" if values.shape[1::-1] == tuple(size) else ""
        raise differs(
            name, "the picture", f"{size[1]} x {size[0]} pixels", f"{values.shape[1]} x {values.shape[0]}", hint
        )
    return values

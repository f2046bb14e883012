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
    if kind is not ADMITTED["numpy", "ndarray"] or tuple(shape) != (0,):
        raise UnsafeFile(f"an array of {kind!r} and shape {shape!r}")
    return np.ndarray((0,), "b")


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
    if not isinstance(dtype, np.dtype) or dtype.hasobject or order not in ("C", "F"):
        raise UnsafeFile("an array that is made of no numbers")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def to_bytes(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 stores them for Python 2."""
    if encoding != "latin1":
        raise UnsafeFile(f"text in {encoding!r}")
    return codecs.encode(text, "latin1")


def no_bytes() -> bytes:
    """Empty bytes as Python 3 stores them for Python 2."""
    return b""


def kept(kind, base=object, state=None) -> Kept:
    """An object of an old protocol."""
    if not (isinstance(kind, type) and issubclass(kind, Kept)):
        raise UnsafeFile(f"an object of {kind!r}")
    return kind()


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Call(no_array),
    ("numpy", "dtype"): np.dtype,
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

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def unpickled(stream: IO[bytes], path: str | Path, encoding: str = "latin1") -> Any:
    """The numbers of a pickle in an open file. UnsafeFile, or SourceError where it is damaged."""
    try:
        return plain(Unpickler(stream, encoding=encoding).load())
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


def plain(value, memo: dict[int, Any] | None = None, depth: int = 0) -> Any:
    """Arrays in place of what was kept of chumpy's and scipy's objects, in tables and lists too.

    memo: what was made already, so that a list that is in many lists is gone through once."""
    memo = {} if memo is None else memo
    if depth > 50:
        raise UnsafeFile("lists in lists in lists, over fifty deep")
    if id(value) not in memo:
        memo[id(value)] = plain_one(value, memo, depth + 1)
    return memo[id(value)]


def plain_one(value, memo: dict[int, Any], depth: int) -> Any:
    """`plain`, of something new."""
    if isinstance(value, dict):
        return {key: plain(item, memo, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item, memo, depth) for item in value)
    if isinstance(value, np.ndarray) and value.dtype == object:
        result = np.empty(value.size, object)
        for index, item in enumerate(value.ravel()):
            result[index] = plain(item, memo, depth)
        return result.reshape(value.shape)
    if isinstance(value, Kept):
        return numbers_of(value, memo, depth)
    if value is None or isinstance(value, str | bytes | bytearray | bool | int | float | complex):
        return value
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return value
    raise UnsafeFile(f"it holds a {type(value).__name__}, which is no number")


def numbers_of(value: Kept, memo: dict[int, Any], depth: int) -> np.ndarray:
    """The dense array of an object of chumpy or scipy."""
    state = value.state
    if isinstance(value, Chumpy):
        return np.asarray(plain(state["x"], memo, depth))
    if isinstance(value, Chosen):
        return np.asarray(plain(state["a"], memo, depth)).ravel()[state["idxs"]].reshape(state["preferred_shape"])
    if not isinstance(value, Sparse):
        raise UnsafeFile("an object without a kind")
    shape = tuple(int(n) for n in state.get("_shape", state.get("shape")))
    if len(shape) != 2 or min(shape) < 0 or math.prod(shape) > GIB // 8:
        raise UnsafeFile(f"a sparse matrix of {shape}")
    if isinstance(value, Triples):
        row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
        return sparse.coo_matrix((state["data"], (row, column)), shape).toarray()
    kind = sparse.csc_matrix if isinstance(value, Columns) else sparse.csr_matrix
    matrix = kind((state["data"], state["indices"], state["indptr"]), shape)
    matrix.check_format(full_check=True)
    return matrix.toarray()


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
            if math.prod(shape) * dtype.itemsize > size:
                raise UnsafeFile(f"it says that it holds {shape} of {dtype}, in {size} bytes: it is refused")
            data = stream.read(math.prod(shape) * dtype.itemsize)
            return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()
    except UnsafeFile as error:
        raise UnsafeFile(f"{shown(path)}: {error}") from None
    except BROKEN as error:
        raise unreadable(path, error) from error
    value = unpickled(stream, path)
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


def read_npz(path: str | Path, keys: tuple[str, ...] | None = None, most: int = 16 * GIB) -> dict[str, Any]:
    """The arrays of an .npz file, or those of some keys that are there. SourceError where it is damaged."""
    found = {}
    with open_zip(path, most) as archive:
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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UnsafeFile(f"{shown(path)} holds other things than tensors: it is refused") from error
        raise unreadable(path, error) from error
    except BROKEN as error:
        raise unreadable(path, error) from error


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
    return target.joinpath(*pure.parts)


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
        with tarfile.open(path, "r:*") as archive:
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


def check_member(member: tarfile.TarInfo, target: Path, path: str | Path) -> int:
    """The bytes of a member of a tar. UnsafeFile for what is neither file nor folder, or lies outside."""
    if not (member.isreg() or member.isdir()):
        kind = "a link" if member.islnk() or member.issym() else "a device"
        raise UnsafeFile(f"{shown(path)}: {shown(member.name)} is {kind}, data need none: it is refused")
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

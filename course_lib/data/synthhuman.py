"""SynthHuman's release on disk: five files a sample in one flat folder, read as the course's samples, and written.

| file | holds |
|---|---|
| `rgb_0000012.png` | picture, 8 bits |
| `alpha_0000012.png` | soft foreground, 8 bits, one channel |
| `depth_0000012.exr` | camera z in cm, one channel of 16 or 32 bits; 65504 where there is none |
| `normal_0000012.exr` | channels R, G, B = x, y, z (OpenCV's reader gives B, G, R) |
| `cam_0000012.txt` | K, 3 x 3 |

What the numbers mean stands in chapter 09 (`to_release`, `from_release`). The release has 298,008
samples of 512 x 384 pixels, under CDLA-Permissive-2.0; github.com/microsoft/DAViD says where.
"""

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from course_lib.chapters.david_data import SIGNS, from_release, to_release
from course_lib.data import shards
from course_lib.data.make import adopt, locked, note, open_folder
from course_lib.data.schema import Sample, SchemaError, validate
from course_lib.files import draft, text_hash, write_atomic

FRAMINGS = {"face": range(98_040), "full": range(98_040, 198_016), "upper": range(198_016, 298_008)}
ENDINGS = {"rgb": "png", "alpha": "png", "depth": "exr", "normal": "exr", "cam": "txt"}
FILE = re.compile(r"(rgb|alpha|depth|normal|cam)_(\d{7})\.(?:png|exr|txt)")
EXR = b"\x76\x2f\x31\x01"  # how such a file begins
MOST = 2**26  # bytes of a file, and of what its header says it holds: the release's pictures are of 512 x 384
CHANNELS = (("R", "G", "B"), ("X", "Y", "Z"))  # names of x, y, z in an EXR file


class ReleaseError(RuntimeError):
    """A folder or file that is not as the release has it: the message names it, what was expected, what was found."""


def framing_of(index: int) -> str:
    """face, full or upper: what the release shows under this index. ValueError outside of it."""
    for name, indices in FRAMINGS.items():
        if index in indices:
            return name
    raise ValueError(f"the release has the indices 0 to 298007, not {index}")


def path_of(folder: Path | str, name: str, index: int) -> Path:
    """The path of one of the five files."""
    return Path(folder) / f"{name}_{index:07d}.{ENDINGS[name]}"


# ---------------------------------------------------------------- one file


def read_file(path: Path) -> np.ndarray:
    """The array in a file: (H, W), (H, W, 3), or (3, 3). ReleaseError if it is missing, cut or of another kind."""
    reader = {".png": read_png, ".exr": read_exr, ".txt": np.loadtxt}[path.suffix]
    if not path.exists():
        raise ReleaseError(f"{path} is missing: a sample has five files, take them out of the archive again")
    try:
        return reader(path)
    except ReleaseError:
        raise
    except Exception as error:  # a cut file can lead to any
        raise ReleaseError(f"{path} cannot be read ({error}): was it cut? Take it out of the archive again") from error


def read_png(path: Path) -> np.ndarray:
    """(H, W) or (H, W, 3) bytes. ReleaseError for more than pictures of the release have."""
    with Image.open(path, formats=("PNG",)) as image:
        if 4 * image.width * image.height > MOST:
            raise ReleaseError(f"{path} has {image.width} x {image.height} pixels: the release's have 512 x 384")
        return np.array(image)


def read_exr(path: Path) -> np.ndarray:
    """One channel -> (H, W), three -> (H, W, 3) as x, y, z; float32."""
    if path.stat().st_size == 0:
        raise ReleaseError(f"{path} cannot be read (it is empty): take it out of the archive again")
    with open(path, "rb") as stream:
        check_exr(path, stream.read(4096))
    channels = {
        name: channel.pixels for name, channel in OpenEXR.File(str(path), separate_channels=True).channels().items()
    }
    if len(channels) == 1:
        return next(iter(channels.values())).astype(np.float32)
    for names in CHANNELS:
        if set(names) == channels.keys():
            return np.stack([channels[name] for name in names], -1).astype(np.float32)
    raise ReleaseError(f"{path}: one channel or R, G, B were expected, found {', '.join(channels)}")


def check_exr(path: Path, begin: bytes) -> None:
    """Raises a ReleaseError unless a file begins as an EXR of one picture of lines, no larger than such pictures are.
    begin: its first 4096 bytes. OpenEXR makes room for whatever a header says."""
    if not begin.startswith(EXR) or len(begin) < 8 or begin[5] & 0x1A:  # tiles, deep pixels, several parts
        raise ReleaseError(f"{path}: EXR's first four bytes and one picture were expected, found {begin[:8]!r}")
    try:
        found = exr_header(begin)
        left, top, right, bottom = struct.unpack("<4i", found[b"dataWindow"])
        channels = found[b"channels"].count(b"\0\1\0\0\0\1\0\0\0")  # each ends with its steps along x and y
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise ReleaseError(f"{path} cannot be read (no dataWindow and channels in its header): was it cut?") from error
    pixels = (right - left + 1) * (bottom - top + 1)
    if right < left or bottom < top or not 0 < channels <= 4 or 4 * channels * pixels > MOST:
        size = f"{right - left + 1} x {bottom - top + 1} pixels of {channels} channels"
        raise ReleaseError(f"{path}: dataWindow of 1 to {MOST // 12:,} pixels was expected, found {size}")


def exr_header(begin: bytes) -> dict[bytes, bytes]:
    """Name -> value of the entries in an EXR file's header. ValueError where two have the same name."""
    found, at = {}, 8
    while begin[at]:
        name, kind = begin[at : (middle := begin.index(0, at))], begin.index(0, middle + 1)
        (size,) = struct.unpack_from("<i", begin, kind + 1)
        at = kind + 5 + size
        if name in found or size < 0:
            raise ValueError(f"{name!r} twice, or of {size} bytes")
        found[name] = begin[kind + 5 : at]
    return found


def write_file(path: Path, values: np.ndarray) -> None:
    """Writes a file whole or not at all."""
    if path.suffix == ".txt":
        write_atomic(path, "\n".join(" ".join(repr(float(x)) for x in row) for row in values) + "\n")
        return
    with draft(path) as beside:
        if path.suffix == ".png":
            Image.fromarray(values).save(beside, "PNG", compress_level=3)
        else:
            planes = np.ascontiguousarray(values.transpose(2, 0, 1)) if values.ndim == 3 else [values]
            header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
            OpenEXR.File(header, dict(zip("RGB" if values.ndim == 3 else "Y", planes, strict=True))).write(str(beside))


# ---------------------------------------------------------------- one sample


def read_sample(folder: Path | str, index: int, signs: tuple[int, int, int] = SIGNS) -> Sample:
    """A sample. signs: of the axes of its normals, see `from_release`. ReleaseError naming file, expected and found."""
    paths = {name: path_of(folder, name, index) for name in ENDINGS}
    arrays = {name: read_file(path) for name, path in paths.items()}
    size = arrays["rgb"].shape[:2]
    shapes = {"rgb": (*size, 3), "alpha": size, "depth": size, "normal": (*size, 3), "cam": (3, 3)}
    for name, shape in shapes.items():
        found, kind = arrays[name], "uint8" if ENDINGS[name] == "png" else "float"
        if found.shape != shape or not str(found.dtype).startswith(kind):
            raise ReleaseError(f"{paths[name]}: {shape} {kind} was expected, found {found.shape} {found.dtype}")
        if not np.isfinite(found[found != np.inf] if name == "depth" else found).all():
            raise ReleaseError(f"{paths[name]}: numbers were expected, found NaN or infinity")
    try:
        fields = from_release(arrays, signs)
        return validate(Sample(key=f"{index:07d}", source="synthhuman", scene=index, **fields))
    except (ValueError, SchemaError) as error:
        raise ReleaseError(f"{paths['rgb'].parent}, sample {index:07d}: {error}") from error


def write_sample(folder: Path | str, index: int, sample: Sample, **options) -> None:
    """The five files of a sample; options as `to_release` takes them. ValueError for what can't be written."""
    if not 0 <= index <= 9_999_999:
        raise ValueError(f"an index has seven digits, {index} has not")
    for name, values in to_release(sample, **options).items():
        write_file(path_of(folder, name, index), values)


# ---------------------------------------------------------------- many


def write_release(folder: Path | str, samples: Sequence[Sample], first: int = 0, **options) -> int:
    """Samples to index -> files from the index `first` on; returns how many were written. What is there stays, so a
    second call goes on where a killed one stopped. MakeError if another process writes there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for half in folder.glob(".*.tmp"):
            half.unlink(missing_ok=True)
        missing = [
            number
            for number in range(len(samples))
            if not all(path_of(folder, name, first + number).exists() for name in ENDINGS)
        ]
        for number in missing:
            write_sample(folder, first + number, samples[number], **options)
    return len(missing)


def indices_in(folder: Path | str) -> list[int]:
    """The indices in a folder, ascending; there may be gaps, as between two chunks. ReleaseError for a sample that is
    not whole, with what is missing, and for a folder without any."""
    found: dict[int, set[str]] = {}
    with os.scandir(folder) as entries:
        for match in (FILE.fullmatch(entry.name) for entry in entries):
            if match:
                found.setdefault(int(match[2]), set()).add(match[1])
    if not found:
        raise ReleaseError(f"{folder}: rgb_0000000.png and so on were expected, found none: unpack the archives there")
    lacking = [path_of("", name, index) for index in sorted(found) for name in ENDINGS if name not in found[index]]
    if lacking:
        more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
        raise ReleaseError(f"{folder}: {lacking[0]}{more} missing: a sample has five files, unpack the archives again")
    return sorted(found)


class SynthHuman(Dataset):
    """Random access to a folder of the release: `SynthHuman(folder)[12]` is a Sample, the 12th of those that are there.

    framings: face, full, upper, by the release's own indices; all if None. limit: no more than so many, evenly spread
    over those that remain. signs: as in `from_release`. Errors as of `indices_in` now, of `read_sample` later.
    """

    def __init__(
        self,
        folder: Path | str,
        framings: Sequence[str] | None = None,
        limit: int | None = None,
        signs: tuple[int, int, int] = SIGNS,
    ):
        self.folder, self.signs = Path(folder), signs
        indices = indices_in(folder)
        if unknown := [name for name in framings or () if name not in FRAMINGS]:
            raise ValueError(f"no framing is called {unknown[0]!r}: use some of {', '.join(FRAMINGS)}")
        if framings is not None:
            indices = [index for index in indices if any(index in FRAMINGS[name] for name in framings)]
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} leaves nothing: use at least 1")
        if limit is not None:
            indices = [indices[i * len(indices) // limit] for i in range(limit)] if limit < len(indices) else indices
        if not indices:
            raise ReleaseError(f"{folder}: samples of {', '.join(framings or ())} were expected, found none")
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Sample:
        return read_sample(self.folder, self.indices[number], self.signs)


def to_shards(samples: SynthHuman, out: Path | str, per_shard: int = 500, progress: bool = True) -> Path:
    """The release as a data folder of the course, for `ShardStream`; returned. The source stays as it is; a second call
    goes on where a killed one stopped. ReleaseError for a broken sample, MakeError for a folder of other data."""
    out, (height, width) = Path(out), samples[0].image.shape[1:]
    settings = {"world": "synthhuman", "split": "train", "count": len(samples), "size": [height, width], "seed": 0}
    settings |= {
        "signs": list(samples.signs),
        "indices": text_hash(str(samples.indices), 16),
        "scenes_per_shard": per_shard,
    }
    out.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-len(samples) // per_shard))
    with locked(out):
        manifest = open_folder(out, settings)
        for number in tqdm(adopt(out, manifest, numbers), unit="shard", disable=not progress):
            some = range(number * per_shard, min(len(samples), (number + 1) * per_shard))
            name = shards.shard_name(number)
            manifest["shards"][name] = shards.write_shard(out / name, (samples[i] for i in some))
            note(out, manifest)
        note(out, manifest | {"complete": True})
    return out

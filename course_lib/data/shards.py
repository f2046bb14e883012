"""Samples in WebDataset tar shards: writing, reading, and finding out what is broken.

A folder holds `shard-000000.tar`, `shard-000001.tar`, ... and `manifest.json` (settings, and for each shard its
samples, bytes and sha256). A sample `000012` is the files

| file | holds |
|---|---|
| `000012.image.png` | picture, 8 bits |
| `000012.alpha.png`, `000012.parts.png`, `000012.instances.png` | 8 bits |
| `000012.depth.png` | 16 bits: 0 nobody, else near + (v - 1) / 65534 * (far - near) metres, near and far in the json |
| `000012.normals.png` | 8 bits a channel, (n + 1) / 2 * 255: within 0.4 degrees |
| `000012.labels.npz` | camera and people's arrays, named as in the schema, people's with `0/`, `1/`, ... in front |
| `000012.json` | all that is not an array |

so that `webdataset.WebDataset(path)` reads them too. The same samples give the same bytes.
"""

import ast
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from course_lib.data.schema import IMAGE_FIELDS, Keypoints, PersonLabel, Sample, SchemaError, array_fields, plain_fields

VERSION = 1
MANIFEST = "manifest.json"
DEPTH_CODES = 65534


class ShardError(RuntimeError):
    """A data folder or shard that cannot be used; the message says which and what to do."""


# ---------------------------------------------------------------- one sample <-> files


def _png(values: np.ndarray) -> bytes:
    """An array (H, W) uint8 or uint16, or (H, W, 3) uint8 -> a PNG; little compression, since time matters more.

    Each row is stored less the one above (filter 2): Pillow, which tries all filters, takes twice as long."""
    height, width = values.shape[:2]
    pixels = np.ascontiguousarray(values, values.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    rows = np.full((height, 1 + pixels.shape[1]), 2, np.uint8)
    rows[:, 1:] = pixels
    rows[1:, 1:] -= pixels[:-1]
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", packer.compress(rows) + packer.flush()), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8, rounded."""
    return (values * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _encode_depth(depth: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Depth (H, W) metres -> 16-bit codes and [near, far]."""
    known = np.isfinite(depth)
    near, far = (float(depth[known].min()), float(depth[known].max())) if known.any() else (0.0, 1.0)
    codes = np.zeros(depth.shape, np.uint16)
    codes[known] = 1 + np.round((depth[known] - near) / max(far - near, 1e-6) * DEPTH_CODES).astype(np.uint16)
    return codes, [near, far]


def _decode_depth(codes: np.ndarray, near: float, far: float) -> np.ndarray:
    metres = near + (codes.astype(np.float32) - 1) / DEPTH_CODES * (far - near)
    return np.where(codes == 0, np.inf, metres).astype(np.float32)


def _decode_image(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes -> (3, H, W) in [0, 1], laid out plane by plane: batches are put together faster."""
    image = values.transpose(2, 0, 1).astype(np.float32, order="C")
    image /= 255
    return image


def _decode_normals(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes -> (3, H, W) unit vectors; the middle grey 128, 128, 128 is 'none'.

    Plane by plane, since NumPy takes ten times as long over a last axis of three."""
    planes = values.transpose(2, 0, 1).copy()
    normals = planes.astype(np.float32) / 127.5 - 1
    normals /= np.maximum(np.sqrt(sum(plane * plane for plane in normals)), 1e-6)
    red, green, blue = planes != 128
    return normals * (red | green | blue)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays -> an npz without a date in it (numpy's own would differ from day to day)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(values), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), part.getvalue())
    return stream.getvalue()


def _from_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of `_npz`, as `np.load` reads them but in a tenth of the time. BadZipFile if it is broken."""
    found, at, view = {}, 0, memoryview(data)
    while data[at : at + 4] == b"PK\3\4":  # before each file; a directory follows, or its end if it is empty
        packed, checksum, size, name_size, extra_size = struct.unpack_from("<H4xI4xIHH", data, at + 8)
        start = at + 30 + name_size + extra_size
        name, at = data[at + 30 : at + 30 + name_size].decode(), start + size
        if packed or zlib.crc32(view[start:at]) != checksum:
            raise zipfile.BadZipFile(f"{name} is packed, or its checksum is wrong")
        found[name.removesuffix(".npy")] = _from_npy(view[start:at])
    if data[at : at + 4] not in (b"PK\1\2", b"PK\5\6"):
        raise zipfile.BadZipFile("the labels end before their directory")
    return found


def _from_npy(content: memoryview) -> np.ndarray:
    """An array out of NumPy's format, version 1."""
    (size,) = struct.unpack_from("<H", content, 8)
    dtype, shape = _npy_header(bytes(content[10 : 10 + size]))
    return np.frombuffer(content, dtype, offset=10 + size).reshape(shape).copy()  # a copy can be written to


@lru_cache(maxsize=1024)
def _npy_header(text: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """dtype and shape: samples have the same few headers, and parsing them is what makes `np.load` slow."""
    header = ast.literal_eval(text.decode("latin1"))
    if header["fortran_order"]:
        raise ValueError("an array is in Fortran's order")
    return np.dtype(header["descr"]), header["shape"]


def _arrays(record, prefix: str = "", skip: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of a schema record that are there, by name."""
    found = {f.name: getattr(record, f.name) for f in array_fields(type(record)) if f.name not in skip}
    return {prefix + name: values for name, values in found.items() if values is not None}


def encode(sample: Sample) -> dict[str, bytes]:
    """A sample -> its files, ending -> bytes."""
    files, meta = {}, {f.name: getattr(sample, f.name) for f in plain_fields(Sample)}
    files["image.png"] = _png(_to_bytes(sample.image).transpose(1, 2, 0))
    if sample.alpha is not None:
        files["alpha.png"] = _png(_to_bytes(sample.alpha))
    if sample.depth is not None:
        codes, meta["depth_range"] = _encode_depth(sample.depth)
        files["depth.png"] = _png(codes)
    if sample.normals is not None:
        none = (sample.normals == 0).all(0)[..., None]
        files["normals.png"] = _png(
            np.where(none, np.uint8(128), _to_bytes((sample.normals.transpose(1, 2, 0) + 1) / 2))
        )
    files |= {
        f"{name}.png": _png(getattr(sample, name))
        for name in ("parts", "instances")
        if getattr(sample, name) is not None
    }
    arrays = _arrays(sample, skip=IMAGE_FIELDS)
    for number, person in enumerate(sample.people):
        arrays |= _arrays(person, f"{number}/")
        for name, points in person.keypoints.items():
            arrays |= _arrays(points, f"{number}/keypoints/{name}/")
    meta["people"] = [{f.name: getattr(person, f.name) for f in plain_fields(PersonLabel)} for person in sample.people]
    files["labels.npz"] = _npz(arrays)
    files["json"] = json.dumps(meta, sort_keys=True).encode()
    return files


_DECODERS: dict[str, Callable[[bytes, dict], np.ndarray]] = {
    "image": lambda data, meta: _decode_image(_pixels(data)),
    "alpha": lambda data, meta: _pixels(data).astype(np.float32) / 255,
    "depth": lambda data, meta: _decode_depth(_pixels(data), *meta["depth_range"]),
    "normals": lambda data, meta: _decode_normals(_pixels(data)),
    "parts": lambda data, meta: _pixels(data),
    "instances": lambda data, meta: _pixels(data),
}


def decode(files: dict[str, bytes], only: Iterable[str] | None = None) -> Sample:
    """The files of a sample -> the sample. `only` names the picture fields to decode (labels always are): faster."""
    meta = json.loads(files["json"])
    wanted = [name for name in IMAGE_FIELDS if f"{name}.png" in files and (only is None or name in set(only))]
    sample = Sample(**{f.name: meta[f.name] for f in plain_fields(Sample) if f.name in meta})
    for name in wanted:
        setattr(sample, name, _DECODERS[name](files[f"{name}.png"], meta))
    arrays = _from_npz(files["labels.npz"])
    sample.people = [PersonLabel(**values) for values in meta["people"]]
    for name, values in arrays.items():
        number, *inside = name.split("/")
        setattr(_record(sample.people[int(number)], inside) if inside else sample, name.rpartition("/")[2], values)
    return sample


def _record(person: PersonLabel, inside: list[str]) -> PersonLabel | Keypoints:
    """What holds the array `inside` a person: itself, or for keypoints/coco17/visible the Keypoints of the format."""
    return person.keypoints.setdefault(inside[1], Keypoints()) if inside[0] == "keypoints" else person


# ---------------------------------------------------------------- shards


def shard_name(index: int) -> str:
    """File name of the index-th shard."""
    return f"shard-{index:06d}.tar"


def write_shard(path: Path, samples: Iterable[Sample]) -> dict:
    """Writes a shard under another name, then renames it: it is there whole or not at all. Returns its entry."""
    path = Path(path)
    temporary, count = path.with_name(f".{path.name}.{os.getpid()}.part"), 0
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in samples:
                for ending, data in encode(sample).items():
                    entry = tarfile.TarInfo(
                        f"{sample.key}.{ending}"
                    )  # mtime, user and group stay 0: same bytes every time
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
                count += 1
        entry = shard_entry(temporary, count)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return entry


def shard_entry(path: Path, samples: int) -> dict:
    """What the manifest says about a shard."""
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"samples": samples, "bytes": path.stat().st_size, "sha256": digest}


def broken(path: Path, why: str) -> ShardError:
    """The error for a shard that cannot be read."""
    return ShardError(
        f"{path} is broken: {why}. Delete the file and run the same `course data make` or data script again: "
        "only this shard is made anew, all others stay."
    )


def members(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Where the files of each sample of a shard lie: key, ending -> (offset, size). ShardError if the shard was cut."""
    path = Path(path)
    size, current, places = path.stat().st_size, None, {}
    if size == 0:
        raise broken(path, "the file is empty")
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                key, _, ending = entry.name.partition(".")
                if key != current and places:
                    yield current, places
                    places = {}
                current, places[ending] = key, (entry.offset_data, entry.size)
                if entry.offset_data + entry.size > size:
                    raise broken(path, f"it was cut in the middle of {entry.name}")
            end = archive.offset
    except tarfile.TarError as error:
        raise broken(path, f"it was cut in the middle, or is no tar file ({error})") from error
    if size < end + 512 or places and "json" not in places:
        raise broken(path, "it was cut before its end")
    if places:
        yield current, places


def read_shard(path: Path, only: Iterable[str] | None = None) -> Iterator[Sample]:
    """The samples of a shard in order. ShardError, naming the shard, if it is broken."""
    with open(path, "rb") as stream:
        for key, places in members(path):
            yield _read_sample(stream, Path(path), key, places, only)


def _read_sample(
    stream, path: Path, key: str, places: dict[str, tuple[int, int]], only: Iterable[str] | None
) -> Sample:
    needed = None if only is None else {"json", "labels.npz", *(f"{name}.png" for name in only)}
    files = {}
    for ending, (offset, size) in places.items():
        if needed is None or ending in needed:
            stream.seek(offset)
            files[ending] = stream.read(size)
    try:
        return decode(files, only)
    except MemoryError:
        raise
    except Exception as error:  # a flipped byte can lead to any
        raise broken(path, f"sample {key} cannot be read ({error})") from error


class OpenShard:
    """Random access to the samples of one shard, `with OpenShard(path) as shard: shard[12]`; only what is asked for is
    decoded. `samples`: how many the manifest says. ShardError, naming the shard, if it is broken."""

    def __init__(self, path: Path, samples: int | None = None, only: Iterable[str] | None = None):
        self.path, self.only = Path(path), only
        try:
            self.places = list(members(self.path))
            self.stream = open(self.path, "rb")
        except OSError as error:
            raise ShardError(
                f"{self.path} cannot be opened ({error.strerror or error}): see that it can be read, then resume"
            ) from error
        if samples is not None and len(self.places) != samples:
            self.stream.close()
            raise broken(self.path, f"it holds {len(self.places)} samples, the manifest says {samples}")

    def __enter__(self) -> "OpenShard":
        return self

    def __exit__(self, *_) -> None:
        self.stream.close()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return _read_sample(self.stream, self.path, *self.places[index], self.only)


# ---------------------------------------------------------------- folders


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replaces the manifest of a folder at one stroke."""
    temporary = Path(folder) / f".{MANIFEST}.{os.getpid()}.part"
    try:
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, Path(folder) / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict:
    """The manifest of a data folder. ShardError if there is none, or if it is of another version or unreadable."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise ShardError(
            f"{folder} has no {MANIFEST}: it is no data folder. "
            f"Make one with `course data make WORLD --count N --out {folder}`."
        )
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ShardError(
            f"{path} cannot be read ({error}): delete it and run the same `course data make` or data script again; "
            "whole shards stay."
        ) from error
    if manifest.get("version") != VERSION:
        raise ShardError(
            f"{path} has version {manifest.get('version')!r}, this code reads version {VERSION}: make the data anew, "
            "or use the code of that time."
        )
    return manifest


def manifest_hash(folder: Path) -> str:
    """sha256 of the manifest's shard hashes: names the data, for the record of a run."""
    shards = read_manifest(folder)["shards"]
    return hashlib.sha256("".join(shards[name]["sha256"] for name in sorted(shards)).encode()).hexdigest()


def verify(folder: Path, hashes: bool = True) -> dict:
    """Compares every shard with the manifest, which it returns. ShardError naming the first shard that is not whole."""
    manifest = read_manifest(folder)
    for name, entry in sorted(manifest["shards"].items()):
        path = Path(folder) / name
        if not path.exists():
            raise ShardError(
                f"{path} is missing: run the same `course data make` or data script again, only it is made anew."
            )
        if path.stat().st_size != entry["bytes"]:
            raise broken(
                path,
                f"it has {path.stat().st_size} bytes, the manifest says {entry['bytes']}: it was cut in the middle",
            )
        if hashes and shard_entry(path, 0)["sha256"] != entry["sha256"]:
            raise broken(path, "its sha256 is not the manifest's")
    return manifest


def read(folder: Path, only: Iterable[str] | None = None) -> Iterator[Sample]:
    """All samples of a data folder in order, or of a single shard."""
    folder = Path(folder)
    if folder.is_file():
        yield from read_shard(folder, only)
        return
    for name in sorted(verify(folder, hashes=False)["shards"]):
        yield from read_shard(folder / name, only)


def check_only(only: Iterable[str] | None) -> tuple[str, ...] | None:
    """The names of picture fields as a tuple, None as it is. SchemaError for an unknown one."""
    if unknown := sorted(set(only or ()) - set(IMAGE_FIELDS)):
        raise SchemaError(f"{unknown} are not picture fields: use some of {', '.join(IMAGE_FIELDS)}")
    return None if only is None else tuple(only)


class Samples(Dataset):
    """Random access to the samples of one or more data folders: `Samples(folder)[12]`, `len(samples)`.

    `only` names the picture fields to decode; `transform` is applied to each Sample. Safe in worker processes.
    """

    def __init__(self, *folders: Path | str, only: Iterable[str] | None = None, transform: Callable | None = None):
        self.only = check_only(only)
        self.transform = transform
        self.places = [
            (Path(folder) / name, key, places)
            for folder in folders
            for name in sorted(verify(folder, hashes=False)["shards"])
            for key, places in members(Path(folder) / name)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        path, key, places = self.places[index]
        with open(path, "rb") as stream:
            sample = _read_sample(stream, path, key, places, self.only)
        return self.transform(sample) if self.transform else sample

    def scenes(self) -> dict[int, list[int]]:
        """Scene number -> indices of its views and frames, for the folders whose manifest says how many a scene has."""
        groups: dict[int, list[int]] = {}
        for index, (path, _, places) in enumerate(self.places):
            with open(path, "rb") as stream:
                stream.seek(places["json"][0])
                groups.setdefault(json.loads(stream.read(places["json"][1]))["scene"], []).append(index)
        return groups


def info(folder: Path | str, hashes: bool = True) -> str:
    """What is in a data folder or shard, in words; all is checked. ShardError with what to do if it is broken."""
    folder = Path(folder)
    if folder.is_file():
        return f"{folder}: {sum(1 for _ in read_shard(folder))} pictures, {folder.stat().st_size / 1e6:.1f} MB, whole"
    manifest = verify(folder, hashes)
    settings, shards = manifest["settings"], manifest["shards"]
    count = sum(entry["samples"] for entry in shards.values())
    size = sum(entry["bytes"] for entry in shards.values())
    lines = [
        f"{folder}: {count} of {settings['count']} pictures in {len(shards)} shards, {size / 1e6:.1f} MB, all whole"
    ]
    lines += [f"  {name}: {settings[name]}" for name in sorted(settings)]
    if not manifest["complete"]:
        lines.append("  not complete: run the same `course data make` or data script again to continue")
    return "\n".join(lines)


def schema_version() -> str:
    """A short hash of the schema, so that a manifest can tell data made with another one."""
    names = [f"{cls.__name__}.{f.name}" for cls in (Sample, PersonLabel, Keypoints) for f in fields(cls)]
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]

"""Scans of people: .obj with a texture (THuman, Hi4D) and .ply (Goliath), and pictures of them.

Pictures come from chapter 03's rasteriser, with FACTOR x FACTOR samples a pixel: colour and alpha are their mean, depth
and normal those of the middle sample, which is the pixel's centre.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch.nn.functional import normalize

from course_lib.chapters.cameras import Camera, look_at_rotation
from course_lib.chapters.rendering import camera_normals, downsample, interpolate, rasterize, vertex_normals
from course_lib.data.schema import Sample
from course_lib.real.checks import SourceError, checked, differs, shown
from course_lib.real.safe import BROKEN, GIB, opened, read_image, unreadable

FACTOR = 3  # odd, so that a sample is in the pixel's middle
USED = 0.95  # share of a scan's vertices that are in a face: fewer means that faces are missing
PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


@dataclass(frozen=True)
class Scan:
    """A mesh: vertices (V, 3) float32, faces (F, 3) int64; uv (U, 2) with v upwards and uv_faces (F, 3) into it, or
    None without a texture."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    uv_faces: np.ndarray | None = None


def checked_scan(scan: Scan, path: str | Path, tall: tuple[float, float], unit: str = "metres") -> Scan:
    """The scan itself; SourceError unless its numbers are finite, its faces name vertices and are whole, and its
    largest extent lies in `tall`, in `unit`."""
    checked(scan.vertices, path, "vertices", ("V", 3))
    tables = [("faces", scan.faces, scan.vertices)]
    if scan.uv is not None:
        checked(scan.uv, path, "uv", ("U", 2), low=-2, high=3)
        tables.append(("faces' uv", scan.uv_faces, scan.uv))
    for name, faces, points in tables:
        if not len(faces):
            raise differs(path, name, "triangles", "none", "is the file cut?")
        checked(faces, path, name, ("F", 3), "i", low=0, high=len(points) - 1)
    used = len(np.unique(scan.faces)) / len(scan.vertices)
    if used < USED:
        raise differs(path, "faces", "all vertices in some face", f"{used:.0%} of them", "is the file cut?")
    checked(np.ptp(scan.vertices, axis=0).max(), path, "the scan's extent", (), low=tall[0], high=tall[1], unit=unit)
    return scan


# ---------------------------------------------------------------- .obj


def read_obj(path: str | Path, most: int = 2 * GIB) -> Scan:
    """A Wavefront file: v, vt and f; polygons become triangles. SourceError where it is cut or damaged."""
    rows: dict[bytes, list[bytes]] = {b"v": [], b"vt": [], b"f": []}
    with opened(path, most) as stream:
        for line in stream:
            kind, _, rest = line.partition(b" ")
            if kind in rows:
                rows[kind].append(rest)
    try:
        corners, uv_corners = obj_faces(rows[b"f"], len(rows[b"v"]), len(rows[b"vt"]))
        vertices = numbers(rows[b"v"], 3)
        if uv_corners is None:
            return Scan(vertices, corners)
        return Scan(vertices, corners, numbers(rows[b"vt"], 2), uv_corners)
    except BROKEN as error:
        raise unreadable(path, error) from error


def numbers(rows: list[bytes], columns: int) -> np.ndarray:
    """The first columns of lines, (N, columns) float32. ValueError for a line with fewer."""
    return np.array([row.split()[:columns] for row in rows], dtype="S32").astype(np.float32).reshape(-1, columns)


def obj_faces(rows: list[bytes], vertices: int, uvs: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Lines such as 1/4/1 2/5/2 3/6/3, counted from 1 or, negative, from the end -> vertices and uv of triangles
    (F, 3), counted from 0; None without uv in every face."""
    found: list[list[tuple[int, int]]] = []
    for row in rows:
        corners = [corner.split(b"/") for corner in row.split()]
        if len(corners) < 3:
            raise ValueError(f"a face with {len(corners)} corners")
        pairs = [(int(c[0]), int(c[1]) if len(c) > 1 and c[1] else 0) for c in corners]
        found += [[pairs[0], pairs[n], pairs[n + 1]] for n in range(1, len(pairs) - 1)]
    table = np.array(found, np.int64).reshape(-1, 3, 2)
    ends = np.array([vertices, uvs])
    table = np.where(table < 0, table + ends, table - 1)
    return table[..., 0], table[..., 1] if len(table) and (table[..., 1] >= 0).all() else None


def textures_of(obj: Path) -> list[Path]:
    """The pictures that an .obj's material names (`map_Kd` of its `mtllib`), beside it; else any picture beside it."""
    found = []
    for material in sorted(obj.parent.glob("*.mtl")):
        if material.stat().st_size < 2**20:
            names = re.findall(rb"^\s*map_Kd\s+(.+?)\s*$", material.read_bytes(), re.MULTILINE)
            found += [
                obj.parent / Path(name.decode("utf-8", "surrogateescape").replace("\\", "/")).name for name in names
            ]
    beside = [p for ending in ("*.jpeg", "*.jpg", "*.png") for p in sorted(obj.parent.glob(ending))]
    return [path for path in found if path.is_file()] or beside


# ---------------------------------------------------------------- .ply


def read_ply(source: str | Path | bytes, where: str | Path = "", most: int = 2 * GIB) -> Scan:
    """A Stanford file, binary or text, with vertices x, y, z and triangles. SourceError where it is cut or damaged."""
    name = where or (source if isinstance(source, str | Path) else "a mesh")
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else opened(source, most) as stream:
            return ply_in(stream, name)
    except SourceError:
        raise
    except BROKEN as error:
        raise unreadable(name, error) from error


def ply_in(stream: IO[bytes], name: str | Path) -> Scan:
    """The mesh in an open file."""
    order, elements = ply_header(stream)
    body, found = stream.read(), {}
    if order == "text":
        body = body.split()
    for element, count, properties in elements:
        reader = ply_text if order == "text" else ply_binary
        found[element], body = reader(body, count, properties, order)
    if not {"vertex", "face"} <= found.keys():
        raise differs(name, "elements", "vertex and face", ", ".join(found) or "none")
    vertices = np.stack([found["vertex"][axis] for axis in "xyz"], 1).astype(np.float32)
    return Scan(vertices, next(iter(found["face"].values())).astype(np.int64))


def ply_header(stream: IO[bytes]) -> tuple[str, list[tuple[str, int, list[list[str]]]]]:
    """text, < or >; and of each element its name, count and properties. ValueError for another kind of file."""
    if stream.readline(100).strip() != b"ply":
        raise ValueError("it doesn't begin with ply")
    order, elements = "", []
    for _ in range(200):
        words = stream.readline(1000).decode("ascii").split()
        if words[:1] == ["format"]:
            order = {"ascii": "text", "binary_little_endian": "<", "binary_big_endian": ">"}[words[1]]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][2].append(words[1:])
        elif words == ["end_header"]:
            return order, elements
    raise ValueError("its header has no end")


def ply_binary(body: bytes, count: int, properties: list[list[str]], order: str) -> tuple[dict, bytes]:
    """The columns of an element, and the bytes that follow. A list counts as three numbers: triangles alone."""
    fields: list[tuple] = []
    for words in properties:
        if words[0] == "list":
            fields += [(f"{words[-1]}'s length", order + PLY_TYPES[words[1]])]
            fields += [(words[-1], order + PLY_TYPES[words[2]], (3,))]
        else:
            fields += [(words[1], order + PLY_TYPES[words[0]])]
    kind = np.dtype(fields)
    if not 0 <= count * kind.itemsize <= len(body):
        raise ValueError(f"{count} rows of {kind.itemsize} bytes in {len(body)}")
    table = np.frombuffer(body, kind, count)
    return columns({name: table[name] for name in kind.names}), body[count * kind.itemsize :]


def ply_text(body: list[bytes], count: int, properties: list[list[str]], order: str) -> tuple[dict, list[bytes]]:
    """The same of text, split at its spaces."""
    widths = [4 if words[0] == "list" else 1 for words in properties]
    if not 0 <= count * sum(widths) <= len(body):
        raise ValueError(f"{count} rows of {sum(widths)} numbers in {len(body)}")
    table = np.array(body[: count * sum(widths)], "S32").astype(float).reshape(count, sum(widths))
    found, at = {}, 0
    for words, width in zip(properties, widths, strict=True):
        if width == 4:
            found[f"{words[-1]}'s length"] = table[:, at]
        found[words[-1]] = table[:, at + 1 : at + 4] if width == 4 else table[:, at]
        at += width
    return columns(found), body[count * sum(widths) :]


def columns(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns without lengths. ValueError where a list isn't three numbers long."""
    for name in [name for name in found if name.endswith("'s length")]:
        if (found.pop(name) != 3).any():
            raise ValueError("triangles are needed, it has other polygons")
    return found


# ---------------------------------------------------------------- pictures


def texels(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours (P, 3) float32 in [0, 1] of a texture (H, W, 3) uint8 at uv (P, 2), v upwards: means of 4 pixels."""
    size = np.array(texture.shape[1::-1])
    spot = (uv * (1, -1) + (0, 1)) * size - 0.5  # x, y
    low = np.floor(spot).astype(np.int64)
    share = (spot - low).astype(np.float32)
    colour = np.zeros((len(uv), 3), np.float32)
    for right in (0, 1):
        for down in (0, 1):
            x, y = (low + (right, down)).clip(0, size - 1).T
            weight = np.abs(1 - right - share[:, :1]) * np.abs(1 - down - share[:, 1:])
            colour += weight * texture[y, x]
    return colour / 255


def picture_of(
    scan: Scan, texture: np.ndarray | None, camera: Camera, size: tuple[int, int], background: float = 1.0
) -> dict[str, np.ndarray]:
    """A scan in metres as one camera sees it: image (3, H, W), alpha (H, W), depth and normals as the schema has them.

    size: (height, width). background: grey behind the person. Without a texture its normals are shown as colours."""
    vertices, faces = torch.from_numpy(scan.vertices)[None], torch.from_numpy(scan.faces)
    fine = Camera(camera.K * torch.tensor([[FACTOR], [FACTOR], [1.0]]), camera.R, camera.t)
    hits = rasterize(vertices, faces, fine, (FACTOR * size[0], FACTOR * size[1]))
    seen = hits.face >= 0  # (1, fH, fW)
    normals = camera_normals(interpolate(hits, faces, vertex_normals(vertices, faces)), camera)
    normals = torch.where(seen[..., None], normalize(normals, dim=-1), 0)
    colour = torch.where(seen[..., None], (normals + 1) / 2, background)
    if texture is not None and scan.uv is not None:
        corners = torch.from_numpy(scan.uv[scan.uv_faces])[hits.face[seen]]  # (P, 3, 2)
        uv = (hits.barycentric[seen][..., None] * corners).sum(1)
        colour[seen] = torch.from_numpy(texels(texture, uv.numpy()))
    middle = slice(FACTOR // 2, None, FACTOR)
    return {
        "image": downsample(colour, FACTOR)[0].permute(2, 0, 1).clamp(0, 1).contiguous().numpy(),
        "alpha": downsample(seen[..., None].float(), FACTOR)[0, ..., 0].contiguous().numpy(),
        "depth": hits.depth[0, middle, middle].contiguous().numpy(),
        "normals": normals[0, middle, middle].permute(2, 0, 1).contiguous().numpy(),
    }


def ring(vertices: np.ndarray, views: int, size: int, field: float = 40.0, fill: float = 0.85) -> list[Camera]:
    """Cameras on a level circle round a scan (V, 3) metres, y up, for squares of `size` pixels: all look at the middle
    of its box, from where the person fills no more than a share `fill` of the picture. field: of view, degrees. The
    first stands on the side of +z, where most scans face; they go on counter-clockwise as seen from above."""
    low, high = vertices.min(0), vertices.max(0)
    middle, focal = (low + high) / 2, size / 2 / np.tan(np.radians(field) / 2)
    flat = np.hypot(*(vertices - middle)[:, [0, 2]].T).max()  # the radius of the upright cylinder around the scan
    away = flat + focal * max(high[1] - low[1], 2 * flat) / (fill * size)
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float32)[None]
    cameras = []
    for angle in np.arange(views) * 2 * np.pi / views:
        place = torch.tensor(middle + away * np.array([np.sin(angle), 0, np.cos(angle)]), dtype=torch.float32)
        forward = torch.tensor(middle, dtype=torch.float32) - place
        R = look_at_rotation(forward, torch.tensor([0, 1.0, 0]))[None]
        cameras.append(Camera(K, R, -(R @ place[:, None])[..., 0]))
    return cameras


def camera_fields(camera: Camera) -> dict[str, np.ndarray]:
    """K, R and t of one camera, for a sample."""
    return {name: getattr(camera, name)[0].numpy() for name in ("K", "R", "t")}


def with_person(sample: Sample) -> Sample:
    """A sample of one person, with the mask of who fills half of a pixel or more."""
    sample.instances = (sample.alpha >= 0.5).astype(np.uint8)
    return sample


def read_texture(obj: Path) -> np.ndarray:
    """The texture (H, W, 3) of an .obj. SourceError where there is none."""
    found = textures_of(obj)
    if not found:
        raise SourceError(f"{shown(obj)}: expected a texture beside it (material0.jpeg), found none")
    return read_image(found[0])

"""What a file of real data must hold: keys, shapes, units and ranges, checked before anything is made of it.

Every error names the file, the key, what was expected and what was found, and where it can, the likely reason:
millimetres for metres, degrees for radians, axes that were swapped.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

# by what numbers have to be multiplied to be in this unit, if they are in that one
MISTAKEN = {
    "metres": {1e-3: "millimetres", 1e-2: "centimetres", 1e-1: "decimetres"},
    "millimetres": {1e3: "metres", 10.0: "centimetres"},
    "radians": {math.pi / 180: "degrees"},
    "degrees": {180 / math.pi: "radians"},
}
KINDS = {"f": ("fiu", "numbers"), "i": ("iu", "whole numbers"), "b": ("biuf", "true or false"), "U": ("US", "text")}
PERSON = (0.2, 3.2)  # metres: the largest extent of anybody's joints, curled up or stretched out


class SourceError(ValueError):
    """Data that are not as their source has them: the message names file, key, what was expected and what was found."""


def shown(name: str | Path) -> str:
    """A file's name that can be printed, whatever its bytes: what is not UTF-8 is written as \\xff."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def differs(where: str | Path, key: str, expected: str, found: str, hint: str = "") -> SourceError:
    """The error in words."""
    return SourceError(f"{shown(where)}: {key}: expected {expected}, found {found}{f' ({hint})' if hint else ''}")


def entry(mapping: Mapping, where: str | Path, key: str):
    """What stands under a key. SourceError where it is missing, or where there is nothing with keys."""
    if not isinstance(mapping, Mapping):
        raise differs(where, key, "a table with this key", type(mapping).__name__)
    if key not in mapping:
        raise differs(
            where, key, "this key", ", ".join(map(str, list(mapping)[:12])) or "nothing", "the key is missing"
        )
    return mapping[key]


def expect(
    mapping: Mapping,
    where: str | Path,
    key: str,
    shape: Sequence[int | str] | None = None,
    kind: str = "f",
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    nan: bool = False,
    sizes: dict[str, int] | None = None,
) -> np.ndarray:
    """The array under a key, checked. where: the file, for the message.

    shape: numbers, and letters for what the file decides; equal letters mean equal sizes, across calls that share
    `sizes`. kind: f numbers, i whole numbers, b true or false, U text. low, high: the range of all finite values, in
    `unit` (metres, millimetres, radians, degrees, pixels, ...). nan: NaN is allowed. SourceError.
    """
    return checked(entry(mapping, where, key), where, key, shape, kind, low, high, unit, nan, sizes)


def checked(
    value,
    where: str | Path,
    key: str,
    shape: Sequence[int | str] | None = None,
    kind: str = "f",
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    nan: bool = False,
    sizes: dict[str, int] | None = None,
) -> np.ndarray:
    """The same for a value that stands under no key, such as an entry of a list; `key` says which it is."""
    array = as_array(value, where, key, kind)
    if shape is not None:
        check_shape(array, where, key, shape, {} if sizes is None else sizes)
    if kind == "f" and not nan and not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        raise differs(
            where, key, "finite numbers", f"NaN or infinity in {bad.sum()} of {bad.size}, first at {first(bad)}"
        )
    check_range(array, where, key, low, high, unit)
    return array


def first(bad: np.ndarray) -> tuple[int, ...]:
    """Where the first True stands."""
    return tuple(np.argwhere(bad)[0].tolist())


def as_array(value, where: str | Path, key: str, kind: str = "f") -> np.ndarray:
    """A value as an array of a kind. SourceError for ragged lists, objects and other kinds."""
    kinds, words = KINDS[kind]
    try:
        array = np.asarray(value)
    except ValueError:
        raise differs(where, key, f"an array of {words}", "lists of different lengths") from None
    if array.size == 0 and array.dtype == float:
        return array.astype({"f": float, "i": int, "b": bool, "U": str}[kind])  # of an empty list
    if array.dtype.kind not in kinds:
        found = "objects of Python" if array.dtype == object else f"an array of {array.dtype}"
        raise differs(where, key, f"an array of {words}", found)
    return array.astype(np.float64) if kind == "f" and array.dtype.kind != "f" else array


def check_shape(
    array: np.ndarray, where: str | Path, key: str, shape: Sequence[int | str], sizes: dict[str, int]
) -> None:
    """Raises a SourceError unless the shape is as it should be; then the letters' sizes are known."""
    wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in shape]
    if fits(array.shape, wanted):
        sizes.update({name: n for name, n in zip(shape, array.shape, strict=True) if isinstance(name, str)})
        return
    order = next((o for o in permutations(range(array.ndim)) if fits([array.shape[i] for i in o], wanted)), None)
    hint = f"axes swapped? In the order {order} they would fit" if order else ""
    raise differs(where, key, f"the shape ({', '.join(map(str, wanted))})", f"{array.shape}", hint)


def fits(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    """Whether a shape has the wanted numbers, and equal sizes where letters are equal."""
    letters: dict[str, int] = {}
    return len(shape) == len(wanted) and all(
        size == (letters.setdefault(w, size) if isinstance(w, str) else w)
        for size, w in zip(shape, wanted, strict=True)
    )


def check_range(
    array: np.ndarray, where: str | Path, key: str, low: float | None, high: float | None, unit: str
) -> None:
    """Raises a SourceError where a finite value lies outside of [low, high]."""
    values = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if not values.size or (low is None and high is None):
        return
    least, most = float(values.min()), float(values.max())
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if low <= least and most <= high:
        return
    mistaken = (name for by, name in MISTAKEN.get(unit, {}).items() if low <= by * least and by * most <= high)
    expected = f"{low:g} to {high:g}{f' {unit}' if unit else ''}"
    hint = next((f"they look like {name}" for name in mistaken), "")
    raise differs(where, key, expected, f"{least:.4g} to {most:.4g}", hint)


def check_people(points: np.ndarray, where: str | Path, key: str, unit: str = "metres") -> None:
    """Raises a SourceError unless joints (..., J, 3) are as far apart as a person's, in the middle of all people.

    NaN joints are left out. For positions in a room this tells millimetres from metres when a range cannot."""
    flat = np.asarray(points, np.float64).reshape(-1, *np.shape(points)[-2:])
    known = flat[np.isfinite(flat).any((1, 2))]
    if not len(known):
        return
    extent = float(np.median((np.nanmax(known, 1) - np.nanmin(known, 1)).max(-1)))
    scale = {"metres": 1.0, "millimetres": 1e3}[unit]
    low, high = PERSON[0] * scale, PERSON[1] * scale
    if not low <= extent <= high:
        mistaken = (name for by, name in MISTAKEN[unit].items() if low <= by * extent <= high)
        hint = next((f"they look like {name}" for name in mistaken), "")
        raise differs(where, key, f"people of {low:g} to {high:g} {unit}", f"{extent:.4g}", hint)


def check_rotation(matrix: np.ndarray, where: str | Path, key: str, tolerance: float = 1e-3) -> None:
    """Raises a SourceError unless matrices (..., 3, 3) turn and do nothing else."""
    matrix = np.asarray(matrix, np.float64)
    wrong = np.abs(matrix @ np.swapaxes(matrix, -1, -2) - np.eye(3)).max(initial=0)
    if wrong > tolerance:
        raise differs(where, key, "a rotation (R Rᵀ = 1)", f"an error of {wrong:.3g}")
    if (np.linalg.det(matrix) < 0).any():
        raise differs(where, key, "a rotation", "a mirror image", "determinant -1: is an axis turned round or swapped?")


def check_intrinsics(K: np.ndarray, where: str | Path, key: str, size: tuple[int, int] | None = None) -> None:
    """Raises a SourceError unless K (..., 3, 3) is a pinhole camera's, in pixels. size: (height, width) of its picture,
    in which its principal point must lie."""
    K = np.asarray(K, np.float64).reshape(-1, 3, 3)
    if (np.abs(K[:, 2] - (0, 0, 1)) > 1e-6).any() or (np.abs(K[:, 1, 0]) > 1e-6).any():
        hint = "transposed?" if (np.abs(K[:, :, 2] - (0, 0, 1)) < 1e-6).all() else ""
        raise differs(
            where, key, "K with 0 0 1 as its last row and nothing under its diagonal", str(K[0].tolist()), hint
        )
    if (K[:, [0, 1], [0, 1]] <= 1).any():
        raise differs(where, key, "focal lengths in pixels", str(K[:, [0, 1], [0, 1]].min()))
    if size is not None:
        centre, (height, width) = K[:, :2, 2], size
        if (centre < 0).any() or (centre > (width, height)).any():
            hint = "x and y swapped?" if (centre[:, ::-1] <= (width, height)).all() else ""
            raise differs(where, key, f"a centre inside of {width} x {height} pixels", str(centre[0].tolist()), hint)


def check_in_front(points: np.ndarray, where: str | Path, key: str, share: float = 0.9) -> None:
    """Raises a SourceError unless most points (..., 3) in camera axes (x right, y down, z forward) have z over 0."""
    depth = np.asarray(points)[..., 2]
    depth = depth[np.isfinite(depth)]
    if depth.size and (depth > 0).mean() < share:
        found = f"{(depth > 0).mean():.0%} of them"
        hint = "axes swapped, or a camera-to-world matrix taken for a world-to-camera one?"
        raise differs(where, key, "people in front of the camera", found, hint)


def check_reprojection(
    projected: np.ndarray, points: np.ndarray, where: str | Path, key: str, most: float = 15.0
) -> float:
    """The median distance in pixels between points (..., 2) and projected ones; SourceError where it is over `most`:
    then camera and joints don't belong together."""
    distance = np.linalg.norm(np.asarray(projected) - np.asarray(points), axis=-1)
    distance = distance[np.isfinite(distance)]
    found = float(np.median(distance)) if distance.size else 0.0
    if found > most:
        raise differs(where, key, f"joints within {most:g} pixels of their projections", f"{found:.1f} in the middle")
    return found

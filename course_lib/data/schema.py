"""The one sample schema, for rendered and for real data: what a field is called, its shape, dtype and unit.

Arrays are numpy. A field that a data set does not have is None; `validate` checks what is there.
`describe()` prints the table. Letters: H, W picture; K keypoints; V vertices; E expression coefficients; L shape ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np


class SchemaError(ValueError):
    """A sample that does not follow the schema; the message names sample and field."""


def array(shape: str, dtype: str, meaning: str, optional: bool = True):
    """Declares an array field: its shape in letters and numbers, its dtype, its meaning with the unit."""
    metadata = {"shape": tuple(shape.split()), "dtype": dtype, "meaning": meaning, "optional": optional}
    return field(default=None, metadata=metadata)


def plain(kind: type, default, meaning: str):
    """Declares a field that is a plain Python value."""
    return field(default=default, metadata={"kind": kind, "meaning": meaning})


@dataclass
class Keypoints:
    """Keypoints of one person in one format; the format is the key under which `PersonLabel.keypoints` has them."""

    points_2d: np.ndarray = array("K 2", "float32", "x, y in pixels; NaN where unknown", optional=False)
    points_3d: np.ndarray | None = array("K 3", "float32", "world, metres; NaN where unknown")
    visible: np.ndarray = array(
        "K", "uint8", "0 unknown or outside the picture, 1 hidden, 2 seen (COCO's)", optional=False
    )


@dataclass
class PersonLabel:
    """What is known about one person in a picture; the n-th person has the value n + 1 in `Sample.instances`."""

    identity: str = plain(str, "", "who this is: the same in every picture of the person, never in two splits")
    pose_family: str = plain(str, "", "kind of pose or motion, such as sitting or walking; empty where unknown")
    box: np.ndarray = array("4", "float32", "left, top, right, bottom in pixels around what is seen", optional=False)
    full_box: np.ndarray | None = array(
        "4", "float32", "the same around the whole body: hidden parts and parts outside too"
    )
    seen_share: float = plain(float, 1.0, "share of the person's pixels inside the picture that nothing hides")
    keypoints: dict[str, Keypoints] = field(default_factory=dict, metadata={"meaning": "format name -> Keypoints"})
    pose: np.ndarray | None = array(
        "55 3", "float32", "axis-angle radians in SMPL-X order, row 0 the whole body's turn in the world"
    )
    shape: np.ndarray | None = array("L", "float32", "shape coefficients (betas) of the body file")
    expression: np.ndarray | None = array(
        "E", "float32", "52 facial actions in [0, 1], or a body file's own coefficients"
    )
    translation: np.ndarray | None = array("3", "float32", "metres, added to the posed body")
    vertices: np.ndarray | None = array(
        "V 3", "float32", "posed body in the world, metres; usually recomputed from the pose"
    )


@dataclass
class Sample:
    """One picture with its labels. Normals: camera space, x right, y up, z towards the viewer. Depth: camera z."""

    key: str = plain(str, "", "name of the sample, unique in its data set")
    source: str = plain(str, "", "data set or world and split, such as wild/train")
    scene: int = plain(int, 0, "views and frames of one scene share this number")
    view: int = plain(int, 0, "which camera of the scene")
    frame: int = plain(int, 0, "which moment of the scene")
    place: str = plain(str, "", "background, light and framing, such as room/indoor/upper; empty where unknown")
    image: np.ndarray = array("3 H W", "float32", "RGB in [0, 1]", optional=False)
    alpha: np.ndarray | None = array("H W", "float32", "how much of a pixel is people, [0, 1]")
    depth: np.ndarray | None = array("H W", "float32", "metres; inf where there are no people")
    normals: np.ndarray | None = array("3 H W", "float32", "unit vectors; 0 where there are no people")
    parts: np.ndarray | None = array("H W", "uint8", "Sapiens' 28 classes, 0 background")
    instances: np.ndarray | None = array("H W", "uint8", "0 nobody, n the n-th of `people`, counted from 1")
    K: np.ndarray | None = array("3 3", "float32", "camera intrinsics, pixels; pixel centres at integer + 0.5")
    R: np.ndarray | None = array("3 3", "float32", "world to camera rotation, OpenCV axes")
    t: np.ndarray | None = array("3", "float32", "world to camera translation, metres")
    people: list[PersonLabel] = field(default_factory=list, metadata={"meaning": "one PersonLabel for each person"})


IMAGE_FIELDS = ("image", "alpha", "depth", "normals", "parts", "instances")


def array_fields(cls: type) -> Iterator:
    """The fields of a schema class that are arrays."""
    return (f for f in fields(cls) if "dtype" in f.metadata)


def plain_fields(cls: type) -> Iterator:
    """The fields of a schema class that are plain values."""
    return (f for f in fields(cls) if "kind" in f.metadata)


def validate(sample: Sample) -> Sample:
    """The sample itself; SchemaError, naming sample and field, for a wrong shape, dtype, NaN or value."""
    where, sizes = f"sample {sample.key!r}", {}
    _check(sample, where, sizes)
    for number, person in enumerate(sample.people):
        inside = f"{where}, person {number}"
        _check(person, inside, dict(sizes))
        for name, points in person.keypoints.items():
            _check(points, f"{inside}, keypoints {name!r}", {})
    _check_values(sample, where)
    return sample


def _check(record, where: str, sizes: dict[str, int]) -> None:
    for f in array_fields(type(record)):
        value = getattr(record, f.name)
        if value is None:
            if not f.metadata["optional"]:
                raise SchemaError(f"{where}: the field {f.name!r} is missing: {f.metadata['meaning']}")
            continue
        _check_array(value, f, f"{where}: the field {f.name!r}", sizes)
    for f in plain_fields(type(record)):
        if not isinstance(getattr(record, f.name), f.metadata["kind"]):
            raise SchemaError(
                f"{where}: the field {f.name!r} must be {f.metadata['kind'].__name__}, not {getattr(record, f.name)!r}"
            )


def _check_array(value, f, name: str, sizes: dict[str, int]) -> None:
    """Shape (letters must agree within a record) and dtype of one array; no NaN but where the meaning allows it."""
    wanted = ", ".join(f"{letter}={sizes[letter]}" if letter in sizes else letter for letter in f.metadata["shape"])
    if not isinstance(value, np.ndarray) or str(value.dtype) != f.metadata["dtype"]:
        found = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
        raise SchemaError(f"{name} must be a numpy array of {f.metadata['dtype']}, not {found}")
    matches = value.ndim == len(f.metadata["shape"]) and all(
        size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
        for letter, size in zip(f.metadata["shape"], value.shape, strict=True)
    )
    if not matches:
        raise SchemaError(f"{name} must have the shape ({wanted}), not {value.shape}")
    if value.dtype.kind == "f" and "NaN" not in f.metadata["meaning"] and np.isnan(value).any():
        raise SchemaError(f"{name} has NaN in it")


def _check_values(sample: Sample, where: str) -> None:
    """Ranges that a shape cannot tell."""
    for name in ("image", "alpha"):
        value = getattr(sample, name)
        if value is not None and value.size and (value.min() < 0 or value.max() > 1):
            raise SchemaError(
                f"{where}: the field {name!r} must lie in [0, 1], it goes from {value.min():.3g} to {value.max():.3g}"
            )
    if sample.parts is not None and sample.parts.size and sample.parts.max() > 27:
        raise SchemaError(f"{where}: the field 'parts' has the class {sample.parts.max()}, the highest is 27")
    if sample.instances is not None and sample.people and sample.instances.max() > len(sample.people):
        raise SchemaError(
            f"{where}: the field 'instances' names person {sample.instances.max()} of {len(sample.people)}"
        )


def describe() -> str:
    """The schema as a table in Markdown: field, shape, dtype, meaning with unit."""
    lines = ["| field | shape | dtype | meaning |", "|---|---|---|---|"]
    for cls in (Sample, PersonLabel, Keypoints):
        lines.append(f"| **{cls.__name__}** | | | {(cls.__doc__ or '').splitlines()[0]} |")
        for f in fields(cls):
            kind = f.metadata.get("dtype") or getattr(f.metadata.get("kind"), "__name__", "")
            lines.append(f"| {f.name} | {', '.join(f.metadata.get('shape', ()))} | {kind} | {f.metadata['meaning']} |")
    return "\n".join(lines)

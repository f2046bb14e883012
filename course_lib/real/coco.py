"""COCO's person annotations and COCO-WholeBody's: read, checked, as labels of the schema; detections, too."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from skimage import draw

from course_lib.data.keypoints import FORMATS
from course_lib.data.schema import PersonLabel
from course_lib.real.checks import SourceError, checked, differs, entry
from course_lib.real.labels import clipped, corners, points_field
from course_lib.real.safe import read_json

Annotation = dict[str, Any]
WHOLEBODY = {  # key -> its points; the flag that says whether the part was annotated at all
    "keypoints": (17, ""), "foot_kpts": (6, "foot_valid"), "face_kpts": (68, "face_valid"),
    "lefthand_kpts": (21, "lefthand_valid"), "righthand_kpts": (21, "righthand_valid"),
}  # fmt: skip
SIDES = 1.02  # pixels may lie so far outside: annotators' boxes end beyond the last pixel
NEAR = 0.25  # keypoints lie in the box, or outside of it by this share of its sides


def read_people(path: str | Path, wholebody: bool = False) -> tuple[dict[int, dict], dict[int, list[Annotation]]]:
    """A file of COCO's -> pictures by number, and by picture its annotations of people, all checked.

    SourceError naming file, annotation and key for what is missing, not finite, in other units or axes."""
    table = read_json(path)
    pictures = {}
    for number, picture in enumerate(listed(table, path, "images")):
        where = f"{path}: images[{number}]"
        for key, least in (("id", 0), ("width", 1), ("height", 1)):
            checked(entry(picture, where, key), where, key, (), "i", low=least, high=None if key == "id" else 60_000)
        if not isinstance(name := entry(picture, where, "file_name"), str) or "/" in name.replace("\\", "/"):
            raise differs(where, "file_name", "the name of a picture", repr(name))
        pictures[picture["id"]] = picture
    if len(pictures) != len(table["images"]):
        raise differs(path, "images", "an id of its own for each", "two with the same")
    check_names(table, path)
    people: dict[int, list[Annotation]] = {}
    for number, found in enumerate(listed(table, path, "annotations")):
        where = f"{path}: annotations[{number}]"
        checked(entry(found, where, "image_id"), where, "image_id", (), "i")
        if found["image_id"] not in pictures:
            raise differs(where, "image_id", "one of the images", str(found["image_id"]))
        check_annotation(found, where, wholebody)
        people.setdefault(found["image_id"], []).append(found)
    check_places(people, pictures, path)
    return pictures, people


def listed(table: Any, path: str | Path, key: str) -> list[Mapping]:
    """A list of tables under a key."""
    found = entry(table, path, key)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise differs(path, key, "a list of tables", type(found).__name__)
    return found


def check_names(table: Mapping, path: str | Path) -> None:
    """The keypoints' names, where the file has them, must be COCO's in COCO's order."""
    groups = table.get("categories", [])
    named = [each.get("keypoints") for each in groups if isinstance(each, dict)] if isinstance(groups, list) else []
    names = next((each for each in named if isinstance(each, list) and each), None)
    if names is not None and tuple(names[:17]) != FORMATS["coco17"]:
        raise differs(path, "categories[0].keypoints", ", ".join(FORMATS["coco17"][:3]) + ", ...", str(names[:3]))


def check_annotation(found: Annotation, where: str, wholebody: bool) -> None:
    """One person's numbers: kinds, shapes, finite."""
    for key, kind, shape in (("bbox", "f", (4,)), ("area", "f", ()), ("iscrowd", "i", ()), ("id", "i", ())):
        checked(entry(found, where, key), where, key, shape, kind)
    parts = WHOLEBODY if wholebody else {"keypoints": WHOLEBODY["keypoints"]}
    for key, (count, flag) in parts.items():
        points = checked(entry(found, where, key), where, key, (3 * count,)).reshape(-1, 3)
        if points[:, 2].min() < 0 or points[:, 2].max() > 2:
            raise differs(where, key, "visibilities of 0 to 2", f"{points[:, 2].min():g} to {points[:, 2].max():g}")
        if flag:
            entry(found, where, flag)


def check_places(people: Mapping[int, list[Annotation]], pictures: Mapping[int, Mapping], path: str | Path) -> None:
    """Boxes must lie in their pictures and keypoints in their boxes, nearly all of them: tells shares from pixels, and
    x from y, where single annotations are only careless."""
    boxes = [(each["bbox"], pictures[image]) for image, group in people.items() for each in group]
    if not boxes:
        return
    box = np.array([b for b, _ in boxes], float)
    size = np.array([(p["width"], p["height"]) for _, p in boxes], float)
    if box.max() <= 2:
        raise differs(
            path, "bbox", "pixels", f"at most {box.max():.3g}", "they look like shares of the picture's sides"
        )
    outside = share_outside(box, size)
    if outside > 0.05:
        swapped = share_outside(box[:, [1, 0, 3, 2]], size) < outside / 4
        hint = "x and y swapped, axes swapped?" if swapped else "left, top, right, bottom for left, top, width, height?"
        raise differs(path, "bbox", "boxes inside of their pictures", f"{outside:.0%} outside", hint)
    points = [np.array(each["keypoints"], float).reshape(-1, 3) for group in people.values() for each in group]
    inside, turned = (near_share(points, box, order) for order in ([0, 1], [1, 0]))
    if inside < 0.9:
        most = max((p[:, :2].max() for p in points if len(p)), default=0)
        hint = "x and y swapped, axes swapped?" if turned > 0.9 else ""
        hint = "they look like shares of the picture's sides" if most <= 2 else hint
        raise differs(path, "keypoints", "points in their person's box", f"{inside:.0%} of them", hint)


def share_outside(box: np.ndarray, size: np.ndarray) -> float:
    """Of boxes (n, 4), left, top, width, height, in pictures (n, 2), width, height: how many end outside."""
    return float(((box[:, :2] < -1) | (box[:, :2] + box[:, 2:] > size * SIDES + 1)).any(1).mean())


def near_share(points: list[np.ndarray], box: np.ndarray, order: list[int]) -> float:
    """Of the annotated points (17, 3), x and y in this order: how many lie in or near their box; 1 without any."""
    found = []
    for each, (left, top, width, height) in zip(points, box, strict=True):
        spots, sides = each[each[:, 2] > 0][:, order], np.array([width, height])
        low = np.array([left, top]) - NEAR * sides - 2
        found.append(((spots >= low) & (spots <= low + (1 + 2 * NEAR) * sides + 4)).all(1))
    return float(np.concatenate(found).mean()) if any(len(each) for each in found) else 1.0


# ------------------------------------------------------------------------------------------------ labels
def wholebody_points(found: Annotation) -> np.ndarray:
    """(133, 3) x, y and COCO's visibility: body, feet, face, left hand, right hand; 0 for parts that are marked as not
    valid, 2 for every score above 0 outside of body and feet."""
    parts = []
    for key, (_, flag) in WHOLEBODY.items():
        points = np.array(found[key], float).reshape(-1, 3)
        if key in ("face_kpts", "lefthand_kpts", "righthand_kpts"):
            points[:, 2] = np.where(points[:, 2] > 0, 2, 0)
        parts.append(points * [1, 1, bool(found[flag])] if flag else points)
    return np.concatenate(parts)


def person_label(found: Annotation, size: tuple[int, int], wholebody: bool = False) -> PersonLabel:
    """An annotation as a label in a picture of `size` (height, width); keypoints without annotation are NaN."""
    body = np.array(found["keypoints"], float).reshape(-1, 3)
    formats = {"coco17": body} | ({"wholebody133": wholebody_points(found)} if wholebody else {})
    points = {}
    for name, values in formats.items():
        known = values[:, 2:] > 0
        points[name] = points_field(np.where(known, values[:, :2], np.nan), size, visible=np.ceil(values[:, 2]))
    return PersonLabel(identity=f"coco-{found['id']}", box=clipped(corners(found["bbox"]), size), keypoints=points)


def mask_of(found: Annotation, size: tuple[int, int], where: str) -> np.ndarray:
    """The mask (H, W) bool of a segmentation: polygons, or runs as lists of counts. SourceError for other forms."""
    shape = found.get("segmentation", [])
    if isinstance(shape, dict):
        return mask_of_runs(shape, size, where)
    mask = np.zeros(size, bool)
    for polygon in shape if isinstance(shape, list) else [None]:
        spots = checked(polygon, where, "segmentation")
        if spots.ndim != 1 or spots.size % 2 or spots.size < 6:
            raise differs(where, "segmentation", "polygons of three corners or more", f"{spots.shape}")
        x, y = spots.reshape(-1, 2).T - 0.5  # pixel centres at integer + 0.5
        mask[draw.polygon(y, x, size)] = True
    return mask


def mask_of_runs(shape: Mapping, size: tuple[int, int], where: str) -> np.ndarray:
    """Runs, column by column, first of nothing. Compressed ones are text, and no file of COCO's own has them."""
    counts = checked(entry(shape, where, "counts"), where, "segmentation.counts", ("N",), "i")
    if counts.sum() != size[0] * size[1] or (counts < 0).any():
        raise differs(where, "segmentation.counts", f"runs of {size[0] * size[1]} pixels", f"of {counts.sum()}")
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(size[::-1]).T.astype(bool)


def instances(people: Iterable[Annotation], size: tuple[int, int], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Annotations -> instances (H, W) uint8, n the n-th person who is no crowd, smaller ones in front of larger ones;
    and alpha (H, W) float32, 1 where people or crowds are."""
    owner, alpha = np.zeros(size, np.uint8), np.zeros(size, bool)
    alone = [each for each in people if not each["iscrowd"]]
    if len(alone) > 255:
        raise SourceError(f"{where}: {len(alone)} people, at most 255 can be told apart")
    for number, each in sorted(enumerate(alone, 1), key=lambda pair: -pair[1]["area"]):
        mask = mask_of(each, size, where)
        owner[mask] = number
        alpha |= mask
    for each in people:
        if each["iscrowd"]:
            alpha |= mask_of(each, size, where)
    return owner, alpha.astype(np.float32)


def read_detections(path: str | Path) -> dict[int, np.ndarray]:
    """A file of detections -> picture -> (n, 5): left, top, right, bottom, score of its people. SourceError."""
    table = read_json(path)
    if not isinstance(table, list):
        raise differs(path, "the file", "a list of detections", type(table).__name__)
    found: dict[int, list] = {}
    for number, each in enumerate(table):
        where = f"{path}: [{number}]"
        box = checked(entry(each, where, "bbox"), where, "bbox", (4,))
        score = checked(entry(each, where, "score"), where, "score", (), low=0, high=1)
        if each.get("category_id", 1) == 1 and (box[2:] > 0).all():
            found.setdefault(entry(each, where, "image_id"), []).append([*corners(box), float(score)])
    return {image: np.array(rows, np.float32) for image, rows in found.items()}

"""COCO's keypoint AP of a pose estimator, as Sapiens measures it: given boxes, flip test, OKS, doubles removed."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from course_lib.chapters import sapiens_pose
from course_lib.chapters.sapiens_pose import PoseEstimator
from course_lib.metrics.pose2d import (
    BODY_SIGMAS,
    WHOLEBODY_SIGMAS,
    Detections,
    People,
    average_precision,
    oks_nms,
    part_average_precision,
    pose_score,
)
from course_lib.real.checks import SourceError, differs
from course_lib.real.coco import Annotation, read_detections, read_people, wholebody_points
from course_lib.real.labels import corners
from course_lib.real.safe import read_image

SIGMAS = {17: BODY_SIGMAS, 133: WHOLEBODY_SIGMAS}
FILES = {17: "person_keypoints_val2017.json", 133: "coco_wholebody_val_v1.0.json"}


def evaluate(
    model: PoseEstimator,
    root: str | Path,
    detections: str | Path | None,
    limit: int | None = None,
    flip: bool = True,
    batch: int = 8,
    progress: bool = True,
) -> dict[str, float]:
    """AP and AR over COCO val2017 under `root`, 0 to 1; for 133 points of each part, such as "whole AP".

    detections: the file of boxes with scores; None takes the annotated boxes, which gives a higher AP. limit: only so
    many pictures. SourceError for data that are not as they should be, ValueError for a model of other points.
    """
    count = model.config.keypoints
    if count not in SIGMAS:
        raise ValueError(f"the model finds {count} points, COCO has 17 and COCO-WholeBody 133")
    file = Path(root) / "annotations" / FILES[count]
    pictures, people = read_people(file, count == 133)
    boxes = annotated_boxes(people) if detections is None else known_boxes(detections, pictures)
    found, known = [], []
    for number in tqdm(sorted(pictures)[:limit], unit="picture", desc="evaluating", disable=not progress):
        path = picture_path(Path(root), pictures[number]["file_name"])
        found.append(poses(model, path, boxes.get(number, np.zeros((0, 5), np.float32)), flip, batch))
        known.append(annotated(people.get(number, []), count))
    if count == 17:
        return average_precision(found, known, BODY_SIGMAS)
    parts = part_average_precision(found, known)
    return {f"{part} {name}": values[name] for part, values in parts.items() for name in ("AP", "AR")}


def known_boxes(detections: str | Path, pictures: Container[int]) -> dict[int, np.ndarray]:
    """`read_detections`; SourceError where one of its pictures is not among these."""
    boxes = read_detections(detections)
    if strangers := [number for number in boxes if number not in pictures]:
        raise differs(detections, "image_id", "pictures of val2017", str(strangers[:3]))
    return boxes


def picture_path(root: Path, name: str) -> Path:
    """Where a picture of val2017 is. SourceError where it is in neither place."""
    for folder in ("val2017", "images/val2017"):
        if (root / folder / name).is_file():
            return root / folder / name
    raise SourceError(f"{root / 'val2017' / name} is not there: unpack val2017.zip")


def annotated_boxes(people: dict[int, list[Annotation]]) -> dict[int, np.ndarray]:
    """The boxes of people who are no crowd, with score 1."""
    alone = {image: [each for each in group if not each["iscrowd"]] for image, group in people.items()}
    return {image: np.array([[*corners(each["bbox"]), 1] for each in group], np.float32).reshape(-1, 5)
            for image, group in alone.items()}  # fmt: skip


@torch.no_grad()
def poses(model: PoseEstimator, path: Path, boxes: np.ndarray, flip: bool, batch: int) -> Detections:
    """What the model finds in the boxes (n, 5) of a picture: left, top, right, bottom, score; without doubles."""
    count = model.config.keypoints
    image = torch.from_numpy(read_image(path).copy()).permute(2, 0, 1)[None]
    places, score = torch.from_numpy(boxes[:, :4]), torch.from_numpy(boxes[:, 4])
    found = sapiens_pose.predict(model, image, places, flip, batch)
    total = pose_score(score, found.scores)
    area = (places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])
    keep = oks_nms(found.points, total, area, SIGMAS[count]) if len(boxes) else torch.zeros(0, dtype=torch.long)
    return Detections(found.points[keep], total[keep], area[keep])


def annotated(group: Iterable[Annotation], count: int) -> People:
    """A picture's annotations as the metric wants them."""
    rows = list(group)
    points = [
        wholebody_points(each) if count == 133 else np.array(each["keypoints"], float).reshape(-1, 3) for each in rows
    ]
    array = torch.from_numpy(np.array(points).reshape(-1, count, 3))
    box = torch.from_numpy(np.array([corners(each["bbox"]) for each in rows]).reshape(-1, 4))
    area, crowd = (torch.tensor([float(each[key]) for each in rows]) for key in ("area", "iscrowd"))
    return People(array[..., :2], array[..., 2], area, box, crowd > 0)


def rows(result: dict[str, float]) -> Iterator[str]:
    """The numbers in percent, a line each."""
    return (f"{name:14s} {100 * value:5.1f}" for name, value in result.items())

"""Object keypoint similarity and what is built on it: OKS, AP and AR as COCO and COCO-WholeBody count them, OKS NMS.

Our own, since torchmetrics has average precision for boxes and masks only. Equal to pycocotools' COCOeval with
`params.kpt_oks_sigmas` (tests/test_metrics_pose2d.py). Points and boxes are pixels, scores and results 0 to 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from course_lib.metrics.common import require_finite, require_shape

# How far apart two annotators put a point, in units of the square root of the person's area: COCO's 17 points, then
# COCO-WholeBody's feet, face and hand, from the data sets' own evaluation.
BODY_SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087)
BODY_SIGMAS += (0.089, 0.089)
FOOT_SIGMAS = (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)
FACE_SIGMAS = (0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043)
FACE_SIGMAS += (0.041, 0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007)
FACE_SIGMAS += (0.007, 0.012, 0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011)
FACE_SIGMAS += (0.012, 0.010, 0.034, 0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007)
FACE_SIGMAS += (0.007, 0.008, 0.011, 0.008, 0.008, 0.008, 0.010, 0.008)
HAND_SIGMAS = (0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021)
HAND_SIGMAS += (0.021, 0.032, 0.020, 0.019, 0.022, 0.031)
WHOLEBODY_SIGMAS = BODY_SIGMAS + FOOT_SIGMAS + FACE_SIGMAS + HAND_SIGMAS + HAND_SIGMAS
WHOLEBODY_PARTS = {
    "body": range(17),
    "foot": range(17, 23),
    "face": range(23, 91),
    "lefthand": range(91, 112),
    "righthand": range(112, 133),
}
# Sapiens' 308: wrists after the hands, each finger from its tip, then elbows (4), acromia and neck, 238 face points.
FINGER_SIGMAS = tuple(HAND_SIGMAS[i] for finger in range(5) for i in range(4 * finger + 4, 4 * finger, -1))
ARM_SIGMAS = FINGER_SIGMAS + BODY_SIGMAS[9:10]
SAPIENS_SIGMAS = BODY_SIGMAS[:9] + BODY_SIGMAS[11:] + FOOT_SIGMAS + ARM_SIGMAS + ARM_SIGMAS
SAPIENS_SIGMAS += (0.072,) * 4 + (0.079,) * 3 + (0.010,) * 238
SAPIENS_PARTS = {
    "body": (*range(15), 41, 62),
    "foot": range(15, 21),
    "face": range(70, 308),
    "lefthand": range(42, 62),
    "righthand": range(21, 41),
}

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
TINY = np.spacing(1)


@dataclass(frozen=True)
class Detections:
    """What a model found in one picture: D people, in any order."""

    keypoints: Tensor  # (D, K, 2)
    score: Tensor  # (D,)
    area: Tensor | None = None  # (D,); None: of the box around the keypoints, as pycocotools takes it

    def __post_init__(self):
        require_shape("keypoints", self.keypoints, None, None, 2)
        require_shape("score", self.score, len(self.keypoints))
        require_finite("keypoints", self.keypoints)
        require_finite("score", self.score)
        if self.area is not None:
            require_shape("area", self.area, len(self.keypoints))

    def areas(self) -> Tensor:
        """(D,): in which area range a detection counts that matches nobody."""
        points = self.keypoints.double()
        return (points.amax(1) - points.amin(1)).prod(-1) if self.area is None else self.area.double()


@dataclass(frozen=True)
class People:
    """Who is in one picture: G annotated people."""

    keypoints: Tensor  # (G, K, 2); what is not visible may be NaN
    visible: Tensor  # (G, K): false, or 0, where there is no annotation (COCO's 1 and 2 both count)
    area: Tensor  # (G,): of the person's mask, square pixels
    box: Tensor  # (G, 4): left, top, right, bottom
    crowd: Tensor | None = None  # (G,): true for a group that is marked as a whole; None: nobody

    def __post_init__(self):
        require_shape("keypoints", self.keypoints, None, None, 2)
        require_shape("visible", self.visible, *self.keypoints.shape[:2])
        require_shape("area", self.area, len(self.keypoints))
        require_shape("box", self.box, len(self.keypoints), 4)
        if self.crowd is not None:
            require_shape("crowd", self.crowd, len(self.keypoints))
        require_finite("visible keypoints", self.keypoints, (self.visible > 0)[..., None])
        require_finite("box", self.box)
        require_finite("area", self.area)


def similarity(squared: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """exp(-d² / (2 area (2 sigma)²)) of squared distances (..., K): COCO's."""
    return torch.exp(-squared / (2 * sigmas).square() / (area[..., None] + TINY) / 2)


def as_sigmas(sigmas, points: Tensor) -> Tensor:
    """(K,) float64; ValueError unless there is a positive one for each point of (..., K, 2)."""
    sigmas = torch.as_tensor(sigmas, dtype=torch.float64, device=points.device)
    require_shape("sigmas", sigmas, points.shape[-2])
    if not (sigmas > 0).all():
        raise ValueError("sigmas must be positive")
    return sigmas


def oks(prediction: Tensor, people: People, sigmas: Sequence[float] | Tensor) -> Tensor:
    """Object keypoint similarity of each prediction (D, K, 2) with each person of a picture -> (D, G).

    The mean over the visible points. A person without any is compared by box, as COCO does: a point is as far off as it
    lies outside the box grown by its width and height on every side.
    """
    require_shape("prediction", prediction, None, *people.keypoints.shape[1:])
    require_finite("prediction", prediction)
    sigmas, visible = as_sigmas(sigmas, people.keypoints), people.visible > 0
    points, target = prediction.double()[:, None], people.keypoints.double().nan_to_num()[None]
    left_top, right_bottom = people.box.double().split(2, dim=-1)  # (G, 2) each
    size = right_bottom - left_top
    low, high = (left_top - size)[None, :, None], (right_bottom + size)[None, :, None]
    outside = (low - points).clamp(min=0) + (points - high).clamp(min=0)
    lost = ~visible.any(1)  # (G,)
    offset = torch.where(lost[None, :, None, None], outside, points - target)  # (D, G, K, 2)
    counted = visible | lost[:, None]
    value = similarity(offset.square().sum(-1), people.area.double(), sigmas)
    return (value * counted).sum(-1) / counted.sum(-1)


class Picture(NamedTuple):
    """One picture, ready to be matched: the best detections first."""

    similarity: np.ndarray  # (D, G)
    score: np.ndarray  # (D,)
    detected_area: np.ndarray  # (D,)
    area: np.ndarray  # (G,)
    lost: np.ndarray  # (G,): a crowd, or without visible keypoints: neither hit nor miss
    crowd: np.ndarray  # (G,): may be matched more than once


def prepare(found: Detections, people: People, sigmas, most: int) -> Picture:
    """The `most` detections with the highest scores (equal ones in their order) against the people."""
    order = torch.argsort(found.score, descending=True, stable=True)[:most]
    crowd = torch.zeros(len(people.area), dtype=torch.bool) if people.crowd is None else people.crowd.bool().cpu()
    lost = crowd | ~(people.visible > 0).any(1).cpu()
    similar = oks(found.keypoints[order], people, sigmas)
    arrays = similar, found.score[order].double(), found.areas()[order], people.area.double(), lost, crowd
    return Picture(*(array.detach().cpu().numpy() for array in arrays))


def match(picture: Picture, ignored: np.ndarray) -> np.ndarray:
    """(T, D): at each threshold the person that each detection, best first, takes; -1 for none.

    A person is taken once, a crowd often. Of those similar enough the most similar is taken (of equals the last), and
    an ignored one only where no other is similar enough.
    """
    count, people = picture.similarity.shape
    taken = np.zeros((len(THRESHOLDS), people), dtype=bool)
    matches = np.full((len(THRESHOLDS), count), -1)
    for detection in range(count if people else 0):
        similar = picture.similarity[detection]
        good = (~taken | picture.crowd) & (similar >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None])
        wanted = good & ~ignored
        pool = np.where(wanted.any(1, keepdims=True), wanted, good)
        best = people - 1 - np.where(pool, similar, -1.0)[:, ::-1].argmax(1)
        hit = pool.any(1)
        matches[hit, detection] = best[hit]
        taken[hit, best[hit]] = True
    return matches


def precision_and_recall(pictures: Sequence[Picture], limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the 101 recalls (T, 101) and the highest recall (T,) for people of an area; -1 if there are none.

    Detections that match an ignored person, or nobody and are themselves of another size, count neither way.
    """
    low, high = limits
    hits, misses, scores, total = [], [], [], 0
    for picture in pictures:
        ignored = picture.lost | (picture.area < low) | (picture.area > high)
        matches = match(picture, ignored)
        matched = matches >= 0
        hit = matched & ~np.append(ignored, True)[matches]
        foreign = (picture.detected_area < low) | (picture.detected_area > high)
        hits.append(hit)
        misses.append(~matched & ~foreign)
        scores.append(picture.score)
        total += int((~ignored).sum())
    if total == 0:
        return np.full((len(THRESHOLDS), len(RECALLS)), -1.0), np.full(len(THRESHOLDS), -1.0)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    true, false = (np.concatenate(parts, 1)[:, order].cumsum(1).astype(float) for parts in (hits, misses))
    recall, precision = true / total, true / (true + false + TINY)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # the best at this recall or a higher one
    precision = np.pad(precision, ((0, 0), (0, 1)))  # 0 where a recall is never reached
    rows = [values[np.searchsorted(row, RECALLS)] for values, row in zip(precision, recall, strict=True)]
    return np.stack(rows), recall.max(1, initial=0.0)


def average_precision(
    detections: Sequence[Detections], people: Sequence[People], sigmas: Sequence[float] | Tensor, most: int = 20
) -> dict[str, float]:
    """COCO's ten numbers over a data set, one entry of both lists per picture, 0 to 1.

    AP and AR (mean over the OKS thresholds .50:.05:.95), AP50, AP75, AR50, AR75, and _M, _L for people of 32² to 96²
    and over 96² square pixels. -1 where there is nobody of that size, as in pycocotools. `most` detections a picture.
    """
    if len(detections) != len(people):
        raise ValueError(
            f"{len(detections)} pictures of detections, {len(people)} of people: give both for every picture"
        )
    pictures = [prepare(found, known, sigmas, most) for found, known in zip(detections, people, strict=True)]
    precision, recall = precision_and_recall(pictures, AREAS["all"])
    result = {"AP": precision.mean(), "AP50": precision[0].mean(), "AP75": precision[5].mean()}
    result |= {"AR": recall.mean(), "AR50": recall[0], "AR75": recall[5]}
    for suffix, name in (("M", "medium"), ("L", "large")):
        precision, recall = precision_and_recall(pictures, AREAS[name])
        result |= {f"AP_{suffix}": precision.mean(), f"AR_{suffix}": recall.mean()}
    return {name: float(value) for name, value in result.items()}


def part_average_precision(
    detections: Sequence[Detections],
    people: Sequence[People],
    sigmas: Sequence[float] = WHOLEBODY_SIGMAS,
    parts: Mapping[str, Sequence[int]] = WHOLEBODY_PARTS,
) -> dict[str, dict[str, float]]:
    """`average_precision` of each part and of all points, "whole"; "hand" is the mean of the two hands.

    As COCO-WholeBody: a person without a visible point of the part is ignored, areas are the person's, and the area of
    a detection, unless given, is that of its body points.
    """
    body = list(parts["body"])
    areas = [Detections(d.keypoints[:, body], d.score, d.area).areas() for d in detections]
    result = {}
    for name, points in {**parts, "whole": range(len(sigmas))}.items():
        index = list(points)
        found = [Detections(d.keypoints[:, index], d.score, a) for d, a in zip(detections, areas, strict=True)]
        known = [People(p.keypoints[:, index], p.visible[:, index], p.area, p.box, p.crowd) for p in people]
        result[name] = average_precision(found, known, [sigmas[i] for i in index])
    left, right = result["lefthand"], result["righthand"]
    return result | {"hand": {key: (left[key] + right[key]) / 2 for key in left}}


def pose_score(box_score: Tensor, keypoint_score: Tensor, threshold: float = 0.2) -> Tensor:
    """A person's score: box score (D,) times the mean of the keypoint scores (D, K) above `threshold` -> (D,).

    0 where none is above: the rule of the evaluation that Sapiens uses.
    """
    require_shape("keypoint_score", keypoint_score, len(box_score), None)
    require_finite("keypoint_score", keypoint_score)
    require_finite("box_score", box_score)
    good = keypoint_score > threshold
    return box_score * (keypoint_score * good).sum(1) / good.sum(1).clamp(min=1)


def oks_nms(keypoints: Tensor, score: Tensor, area: Tensor, sigmas, threshold: float = 0.9) -> Tensor:
    """The detections of one picture without doubles: indices of those kept, best first.

    keypoints (D, K, 2), score (D,), area (D,) of the boxes. A detection goes if its OKS with a better one that is kept
    is above `threshold`; the OKS takes the mean of both areas and all points.
    """
    require_shape("keypoints", keypoints, len(score), None, 2)
    require_shape("area", area, len(score))
    for name, values in (("keypoints", keypoints), ("score", score), ("area", area)):
        require_finite(name, values)
    points = keypoints.double()
    squared = (points[:, None] - points[None]).square().sum(-1)  # (D, D, K)
    area = (area[:, None] + area[None]).double() / 2
    double = similarity(squared, area, as_sigmas(sigmas, points)).mean(-1) > threshold
    kept = []
    for candidate in torch.argsort(score, descending=True, stable=True).tolist():
        if not double[candidate, kept].any():
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.long, device=keypoints.device)

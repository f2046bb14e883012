"""Segmentation, depth and normals: mIoU and mAcc, aligned depth errors, angles.

Depth and normals give one number per image, (B,), for `average`; segmentation counts a whole data set in one confusion
matrix, and `angle_summary` takes the pixels of a whole data set where a paper pools them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.metrics.common import as_maps, require_finite, require_shape, require_some

ANGLES = (11.25, 22.5, 30.0)  # degrees


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """(classes, classes) counts of pixels, row the true class, column the predicted one; add those of the batches up.

    prediction and target hold class numbers, in any one shape; pixels whose target is `ignore` are left out.
    """
    require_shape("target", target, *prediction.shape)
    if prediction.is_floating_point() or target.is_floating_point():
        raise ValueError("prediction and target are class numbers: give logits.argmax(1), not logits")
    prediction, target = prediction.long(), target.long()
    known = target != ignore
    if ((prediction < 0) | (prediction >= classes))[known].any() or ((target < 0) | (target >= classes))[known].any():
        raise ValueError(f"class numbers go from 0 to {classes - 1}, and {ignore} is ignored in the target")
    # here, since its package takes longer to import than PyTorch itself: workers and notebooks that only train never do
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    # validate_args would sort every pixel, only to say the same
    return multiclass_confusion_matrix(prediction[known], target[known], classes, validate_args=False)


def class_iou(confusion: Tensor) -> Tensor:
    """(C, C) -> (C,) intersection over union; NaN for a class that is neither in the truth nor predicted."""
    require_shape("confusion", confusion, None, len(confusion))
    hit = confusion.diagonal().double()
    return hit / (confusion.sum(0) + confusion.sum(1) - hit)


def class_accuracy(confusion: Tensor) -> Tensor:
    """(C, C) -> (C,) the share of a class's pixels that are found; NaN for a class that is not in the truth."""
    require_shape("confusion", confusion, None, len(confusion))
    return confusion.diagonal().double() / confusion.sum(1)


def mean_known(values: Tensor, classes: Sequence[int] | None) -> float:
    """The mean without NaN over all or some classes; ValueError where every one is NaN."""
    values = values if classes is None else values[list(classes)]
    if values.isnan().all():
        raise ValueError("none of these classes has a pixel: there is nothing to average")
    return values.nanmean().item()


def mean_iou(confusion: Tensor, classes: Sequence[int] | None = None) -> float:
    """mIoU, 0 to 1, from the data set's confusion matrix (C, C), over all classes (background too) or those named.

    Classes that never occur are left out, as in mmsegmentation. Our own: torchmetrics' MeanIoU averages over images.
    """
    return mean_known(class_iou(confusion), classes)


def mean_accuracy(confusion: Tensor, classes: Sequence[int] | None = None) -> float:
    """mAcc, 0 to 1: the mean over classes of the share of their pixels that are found; as `mean_iou` otherwise."""
    return mean_known(class_accuracy(confusion), classes)


def checked(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth maps (B, H, W) float64, zero outside the mask, and the mask; ValueError as `depth_errors` says."""
    prediction, target = as_maps("prediction", prediction), as_maps("target", target)
    mask = as_maps("mask", mask).bool()
    require_shape("target", target, *prediction.shape)
    require_shape("mask", mask, *prediction.shape)
    require_some("mask", mask)
    require_finite("prediction", prediction, mask)
    require_finite("target", target, mask)
    return prediction.double().where(mask, 0.0), target.double().where(mask, 0.0), mask


def align_depth(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Scale and shift each prediction to the target, least squares over the mask: (B, H, W) -> (B, H, W) float64.

    The protocol for relative depth (Sapiens 4.4, DAViD 4.2). A prediction without variation becomes the target's mean.
    Only the pixels inside the mask mean anything.
    """
    p, d, mask = checked(prediction, target, mask)
    weight = mask.double() / mask.flatten(1).sum(1)[:, None, None]
    p_mean, d_mean = ((x * weight).sum((1, 2), keepdim=True) for x in (p, d))
    variance = ((p - p_mean).square() * weight).sum((1, 2), keepdim=True)
    covariance = ((p - p_mean) * (d - d_mean) * weight).sum((1, 2), keepdim=True)
    scale = covariance / variance.where(variance > 0, 1.0)  # without variation 0 / 1, not 0 / 0
    return d_mean + scale * (p - p_mean)


def depth_errors(prediction: Tensor, target: Tensor, mask: Tensor, align: bool = True) -> dict[str, Tensor]:
    """rmse (the target's unit), abs_rel and delta1 (share within a factor of 1.25) over each image's mask, (B,) each.

    prediction, target, mask: (B, H, W) or (B, 1, H, W); the mask is true on human pixels, outside anything may stand.
    With `align` after `align_depth`, image by image. A depth that is not positive is outside delta1. ValueError for an
    empty mask, and inside the mask for NaN and for targets that are not positive.
    """
    prediction, target, mask = checked(prediction, target, mask)
    if not (target > 0)[mask].all():
        raise ValueError("target depth must be positive inside the mask: take the pixels without depth out of it")
    depth = align_depth(prediction, target, mask) if align else prediction
    rows = [image_depth_errors(d[m], t[m]) for d, t, m in zip(depth, target, mask, strict=True)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def image_depth_errors(depth: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of one image's pixels, (N,) each, as in `depth_errors`."""
    near = (depth > 0) & (torch.maximum(depth / target, target / depth) < 1.25)
    error = depth - target
    return {
        "rmse": error.square().mean().sqrt(),
        "abs_rel": (error.abs() / target).mean(),
        "delta1": near.double().mean(),
    }


def normal_angles(prediction: Tensor, target: Tensor, mask: Tensor) -> list[Tensor]:
    """Degrees between predicted and true normals at each image's pixels inside the mask: (N,) per image.

    prediction, target (B, 3, H, W), of any length; mask (B, H, W) or (B, 1, H, W). A predicted normal of length 0 is
    90° off. ValueError for an empty mask, and inside it for NaN and for target normals of length 0.
    """
    mask = as_maps("mask", mask).bool()
    require_shape("prediction", prediction, len(mask), 3, *mask.shape[1:])
    require_shape("target", target, *prediction.shape)
    require_some("mask", mask)
    for name, normals in (("prediction", prediction), ("target", target)):
        require_finite(name, normals, mask[:, None])
    if (target.norm(dim=1) == 0)[mask].any():
        raise ValueError("target has pixels without a normal inside the mask: take them out of it")
    unit = [torch.nn.functional.normalize(normals.double(), dim=1) for normals in (prediction, target)]
    angles = (unit[0] * unit[1]).sum(1).clamp(-1, 1).acos().rad2deg()  # (B, H, W)
    return [angle[m] for angle, m in zip(angles, mask, strict=True)]


def angle_summary(angles: Tensor) -> dict[str, Tensor]:
    """mean and median in degrees, and within_11.25, within_22.5, within_30 (shares, 0 to 1) of angles (N,)."""
    require_shape("angles", angles, None)
    if len(angles) == 0:
        raise ValueError("there are no angles to summarise")
    ordered = angles.sort().values
    summary = {"mean": angles.mean(), "median": (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2}
    return summary | {f"within_{limit:g}": (angles < limit).double().mean() for limit in ANGLES}


def normal_errors(prediction: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """`angle_summary` of each image, (B,) each: DAViD's numbers are means of these over images.

    Sapiens' evaluator pools the pixels of all images: `angle_summary(torch.cat(angles))` of all `normal_angles`.
    """
    rows = [angle_summary(angles) for angles in normal_angles(prediction, target, mask)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

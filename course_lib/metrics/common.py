"""What all metrics share: the checks before anything is counted, and the two ways to average afterwards."""

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor


def require_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """ValueError unless the tensor has exactly this shape (None: any length)."""
    have = tuple(tensor.shape)
    if len(have) != len(shape) or any(want not in (None, n) for want, n in zip(shape, have, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape ({wanted}), not {have}")


def require_items(name: str, tensor: Tensor) -> None:
    """ValueError for a batch of nothing."""
    if len(tensor) == 0:
        raise ValueError(f"{name} is a batch of no items: there is nothing to count")


def require_finite(name: str, tensor: Tensor, where: Tensor | None = None) -> None:
    """ValueError that names the items of the batch with NaN or infinite values (inside `where`, if given)."""
    bad = ~tensor.isfinite()
    bad = bad if where is None else bad & where
    if bad.any():
        items = bad.flatten(1).any(1).nonzero().flatten().tolist() if bad.ndim > 1 else bad.nonzero().flatten().tolist()
        raise ValueError(f"{name} has NaN or infinite values in item {items} of the batch: leave them out")


def require_some(name: str, mask: Tensor, least: int = 1) -> None:
    """ValueError that names the items of the batch for which fewer than `least` entries of the mask are true."""
    require_items(name, mask)
    poor = (mask.flatten(1).sum(1) < least).nonzero().flatten().tolist()
    if poor:
        raise ValueError(f"{name} is true in fewer than {least} places in item {poor} of the batch: leave them out")


def as_maps(name: str, tensor: Tensor) -> Tensor:
    """(B, H, W), or (B, 1, H, W) without its channel; ValueError for other shapes."""
    require_items(name, tensor)
    if tensor.ndim == 4 and tensor.shape[1] == 1:
        return tensor[:, 0]
    require_shape(name, tensor, None, None, None)
    return tensor


def average(results: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """The mean over all images (or people) of many batches: every one counts the same, whatever its batch.

    So "averaged over all" data sets is weighted by their numbers of images, as DAViD's tables are.
    """
    results = list(results)
    if not results:
        raise ValueError("there are no results to average")
    return {name: torch.cat([result[name] for result in results]).mean().item() for name in results[0]}


def mean_of_means(values: Tensor, groups: Sequence[Hashable]) -> float:
    """The mean over groups of each group's mean: MuPoTS averages each sequence first (ACAE supplement S4).

    values (B,), groups: one name per value.
    """
    require_shape("values", values, len(groups))
    means = [values[[g == group for g in groups]].double().mean() for group in dict.fromkeys(groups)]
    if not means:
        raise ValueError("there are no values to average")
    return torch.stack(means).mean().item()

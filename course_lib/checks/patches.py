"""Pictures cut into patches by slicing, for the checks of every `patchify` and `unpatchify`."""

import torch
from torch import Tensor

PICTURES = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)  # every number once


def cut(images: Tensor, patch: int, order: tuple[int, ...], columns_first: bool = False) -> Tensor:
    """Patches (B, N, ...) by slicing, each (C, p, p) permuted by `order` and flattened."""
    rows, columns = range(0, images.shape[2], patch), range(0, images.shape[3], patch)
    places = [(i, j) for j in columns for i in rows] if columns_first else [(i, j) for i in rows for j in columns]
    pieces = [images[:, :, i : i + patch, j : j + patch].permute(0, *(1 + d for d in order)) for i, j in places]
    return torch.stack([piece.flatten(1) for piece in pieces], 1)


def taken_by_columns(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, N, ...) of a grid, given row by row, as if they had been given column by column."""
    order = torch.arange(grid[0] * grid[1]).view(grid[1], grid[0]).T.flatten()
    return rows[:, order]

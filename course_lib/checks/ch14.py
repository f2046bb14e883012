"""The checks of chapter 14, and for each the wrong answers that it must catch."""

import torch
from torch import Tensor, nn

from course_lib.chapters import mpt_finetuning as mpt
from course_lib.chapters.cameras import axis_angle_to_matrix, procrustes
from course_lib.chapters.mpt_pretraining import sigma_for, synthesize_heatmaps
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_not_close,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)


# ------------------------------------------------------------------------------------------------- 14.1 the exchange
def exchange_of(widths: tuple[int, ...], outputs: int | None = None) -> tuple[nn.Module, list[Tensor]]:
    """An exchange with norms of all kinds of weights, ready to be used, and its branches."""
    exchange = mpt.Exchange(widths, outputs).eval()
    for module in exchange.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return exchange, [torch.randn(2, width, 8 >> i, 8 >> i) for i, width in enumerate(widths)]


def sums(exchange: nn.Module, branches: list[Tensor]) -> list[Tensor]:
    """Equation 14.1, without its ReLU."""
    return [torch.stack([path(x) for path, x in zip(row, branches, strict=True)]).sum(0) for row in exchange.paths]


@check_for("14.1")
def exchanged(answer):
    exchange, branches = exchange_of((3, 6, 12))
    kept = [x.clone() for x in branches]
    found = answer(exchange, branches)
    expect_type(found, (list, tuple), "the branches")
    expect(len(found) == 3, f"{len(found)} branches came back for 3 targets: one for each row of self.paths")
    for i, (one, x) in enumerate(zip(found, branches, strict=True)):
        expect_type(one, Tensor, f"branch {i}")
        expect_shape(one, tuple(x.shape), f"branch {i}")
    total = sums(exchange, branches)
    for i, x in enumerate(branches):
        row = exchange.paths[i]
        others = sum(path(y) for j, (path, y) in enumerate(zip(row, branches, strict=True)) if j != i)
        rectified = sum(path(y).relu() for path, y in zip(row, branches, strict=True))
        mistakes = {
            "The ReLU is missing: it comes after the sum": total[i],
            "The ReLU comes once, after the sum, not on every path": rectified,
            "The branch itself is missing: its own path is the identity, and belongs to the sum": others.relu(),
            "The mean was taken. (14.1) has the sum": (total[i] / 3).relu(),
            "Nothing of the other branches has arrived": x.relu(),
        }
        for words, mistake in mistakes.items():
            expect_not_close(found[i], mistake, f"branch {i}: {words}")
        expect_close(found[i], total[i].relu(), f"branch {i}", atol=1e-5)
    for one, before in zip(branches, kept, strict=True):
        expect_unchanged(one, before, "a branch")
    last, branches = exchange_of((3, 6, 12), 1)
    found = answer(last, branches)
    expect(len(found) == 1, f"an exchange with one output gave {len(found)}: there are as many as rows in self.paths")
    expect_close(found[0], sums(last, branches)[0].relu(), "the only output")


@wrong_answer("14.1", says="ReLU is missing")
def without_relu(self, branches):
    return [sum(path(x) for path, x in zip(row, branches, strict=True)) for row in self.paths]


@wrong_answer("14.1", says="not on every path")
def relu_on_paths(self, branches):
    return [sum(path(x).relu() for path, x in zip(row, branches, strict=True)) for row in self.paths]


@wrong_answer("14.1", says="branch itself is missing")
def without_itself(self, branches):
    pairs = [[(p, x) for j, (p, x) in enumerate(zip(row, branches, strict=True)) if j != i]
             for i, row in enumerate(self.paths)]  # fmt: skip
    return [sum(path(x) for path, x in row).relu() for row in pairs]


@wrong_answer("14.1", says="mean was taken")
def mean_of_paths(self, branches):
    return [(sum(p(x) for p, x in zip(row, branches, strict=True)) / len(branches)).relu() for row in self.paths]


@wrong_answer("14.1", says="IndexError")
def a_row_for_each_branch(self, branches):
    return [sum(p(x) for p, x in zip(self.paths[i], branches, strict=True)).relu() for i in range(len(branches))]


# --------------------------------------------------------------------------------- 14.2 the loss at every resolution
class Painter(nn.Module):
    """Stands for a pose network: maps of two resolutions, whatever the picture."""

    def __init__(self, batch: int, joints: int = 5):
        super().__init__()
        self.maps = [torch.rand(batch, joints, size, size) for size in (56, 112)]

    def forward(self, images: Tensor, every: bool = False) -> Tensor | list[Tensor]:
        return self.maps if every else self.maps[-1]


def loss_parts(model: Painter, batch: dict[str, Tensor], sigma=sigma_for) -> list[Tensor]:
    """The mean square of every map, (B, K), of each resolution."""
    targets = (synthesize_heatmaps(batch["points"], m.shape[-1], sigma(m.shape[-1])) for m in model.maps)
    return [(maps - target).square().mean((2, 3)) for maps, target in zip(model.maps, targets, strict=True)]


@check_for("14.2")
def losses(answer):
    model, points = Painter(3), torch.rand(3, 5, 2) * 2 - 1
    seen = torch.tensor([[1.0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 1, 1]])
    batch = {"image": torch.rand(3, 3, 224, 224), "points": points, "seen": seen}
    found = answer(model, batch)
    expect_type(found, Tensor, "the loss")
    expect_shape(found, (), "the loss, a scalar")
    coarse, fine = loss_parts(model, batch)
    one_sigma = loss_parts(model, batch, lambda size: 2.0)
    mistakes = {
        "Only the last maps count. (14.2) adds up all resolutions: every=True": (fine * seen).mean(),
        "Only the first maps count. (14.2) adds up all resolutions": (coarse * seen).mean(),
        "The mean over the resolutions was taken. (14.2) has their sum": ((coarse + fine) * seen).mean() / 2,
        "Joints that don't count were counted: multiply with batch['seen']": (coarse + fine).mean(),
        "The mean is over the joints that count only. In (14.2) it is over all B K S² cells": (
            ((coarse + fine) * seen).sum() / seen.sum()
        ),
        "Both targets have the same σ. Use sigma_for of each size": sum((part * seen).mean() for part in one_sigma),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words, atol=1e-7)
    expect_close(found, ((coarse + fine) * seen).mean(), "the loss", atol=1e-7)


@wrong_answer("14.2", says="Only the last maps count")
def loss_of_the_last(model, batch):
    maps = model(batch["image"])
    target = synthesize_heatmaps(batch["points"], maps.shape[-1], sigma_for(maps.shape[-1]))
    return ((maps - target).square().mean((2, 3)) * batch["seen"]).mean()


@wrong_answer("14.2", says="Joints that don't count were counted")
def loss_of_all(model, batch):
    return sum(part.mean() for part in loss_parts(model, batch))


@wrong_answer("14.2", says="over the joints that count only")
def loss_over_seen(model, batch):
    return sum((part * batch["seen"]).sum() / batch["seen"].sum() for part in loss_parts(model, batch))


@wrong_answer("14.2", says="same σ")
def loss_one_sigma(model, batch):
    return sum((part * batch["seen"]).mean() for part in loss_parts(model, batch, lambda size: 2.0))


@wrong_answer("14.2", says="has their sum")
def loss_mean_of_resolutions(model, batch):
    return sum((part * batch["seen"]).mean() for part in loss_parts(model, batch)) / 2


# ----------------------------------------------------------------------------------------- 14.3 the share that is found
@check_for("14.3")
def shares(answer):
    true = torch.rand(6, 3, 2) * 2 - 1
    off = torch.tensor([0.02, 0.04, 0.06, 0.08, 0.12, 0.3])[:, None].expand(6, 3)
    angle = torch.rand(6, 3) * 6
    found = true + off[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    seen = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]])
    size = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    near = (off < 0.05 * size[:, None]).float()
    given = answer(found, true, seen, size)
    expect_type(given, Tensor, "the shares")
    expect_shape(given, (3,), "the shares, one for each joint")
    expect(
        given.isfinite().all(), "A joint that never counts is NaN: it is to be 0. Divide by seen.sum(0).clamp(min=1)"
    )
    mistakes = {
        "The size doesn't count: what is near is reach times each person's size": (
            ((off < 0.05).float() * seen).sum(0) / seen.sum(0).clamp(min=1)
        ),
        "Joints that don't count were counted: divide by how many do": (near * seen).mean(0),
        "Joints that don't count were counted, found and not": near.mean(0),
        "That is the share that is missed": ((1 - near) * seen).sum(0) / seen.sum(0).clamp(min=1),
        "x and y were compared each on its own. The distance is (found - true).norm(dim=-1)": (
            (((found - true).abs() < 0.05 * size[:, None, None]).all(-1) * seen).sum(0) / seen.sum(0).clamp(min=1)
        ),
    }
    meant = (near * seen).sum(0) / seen.sum(0).clamp(min=1)
    for words, mistake in mistakes.items():
        if not torch.allclose(mistake, meant):
            expect_not_close(given, mistake, words)
    expect_close(given, meant, "the shares")
    wide = answer(found, true, seen, size, 0.2)
    expect_close(wide, ((off < 0.2 * size[:, None]) * seen).sum(0) / seen.sum(0).clamp(min=1), "with a reach of 0.2")


@wrong_answer("14.3", says="size doesn't count")
def share_without_size(found, true, seen, size, reach=0.05):
    return (((found - true).norm(dim=-1) < reach) * seen).sum(0) / seen.sum(0).clamp(min=1)


@wrong_answer("14.3", says="don't count were counted")
def share_of_everybody(found, true, seen, size, reach=0.05):
    return (((found - true).norm(dim=-1) < reach * size[:, None]) * seen).mean(0)


@wrong_answer("14.3", says="is NaN")
def share_with_nan(found, true, seen, size, reach=0.05):
    return (((found - true).norm(dim=-1) < reach * size[:, None]) * seen).sum(0) / seen.sum(0)


@wrong_answer("14.3", says="share that is missed")
def share_missed(found, true, seen, size, reach=0.05):
    return (((found - true).norm(dim=-1) >= reach * size[:, None]) * seen).sum(0) / seen.sum(0).clamp(min=1)


# ------------------------------------------------------------------------------------------- 14.4 everybody's heatmaps
@check_for("14.4")
def everybody(answer):
    points = torch.rand(3, 4, 5, 2) * 1.6 - 0.8
    points[1, 2:], points[2] = torch.nan, torch.nan  # two people in the second picture, nobody in the third
    points[0, 1, 3] = torch.nan  # a joint that isn't labelled
    points[0, 1, 0] = points[0, 0, 0] + 0.1  # two that nearly touch
    kept = points.clone()
    found = answer(points, 28, 1.5)
    expect_type(found, Tensor, "the maps")
    expect_shape(found, (3, 5, 28, 28), "the maps of 3 pictures and 5 joints")
    expect(
        found.isfinite().all(), "There is NaN in the maps. synthesize_heatmaps makes empty maps of points that are NaN"
    )
    maps = torch.stack([synthesize_heatmaps(points[:, m], 28, 1.5) for m in range(4)])  # (M, B, K, S, S)
    mistakes = {
        "The maps were added: where two people touch that reaches 2. (14.4) has the maximum": maps.sum(0),
        "The maps were added and cut at 1. (14.4) has the maximum": maps.sum(0).clamp(max=1),
        "The mean was taken. (14.4) has the maximum": maps.mean(0),
        "Only the first person is there": maps[0],
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, maps.amax(0), "the maps")
    expect_unchanged(points.nan_to_num(9.0), kept.nan_to_num(9.0), "the points")


@wrong_answer("14.4", says="added: where")
def maps_added(points, size, sigma):
    return synthesize_heatmaps(points.flatten(0, 1), size, sigma).unflatten(0, points.shape[:2]).sum(1)


@wrong_answer("14.4", says="mean was taken")
def maps_averaged(points, size, sigma):
    return synthesize_heatmaps(points.flatten(0, 1), size, sigma).unflatten(0, points.shape[:2]).mean(1)


@wrong_answer("14.4", says="Only the first person")
def maps_of_the_first(points, size, sigma):
    return synthesize_heatmaps(points[:, 0], size, sigma)


@wrong_answer("14.4", says="shape")
def maps_over_pictures(points, size, sigma):
    return synthesize_heatmaps(points.flatten(0, 1), size, sigma).unflatten(0, points.shape[:2]).amax(0)


# ----------------------------------------------------------------------------------------------------- 14.5 PA-MPJPE
def moved_people() -> tuple[Tensor, Tensor]:
    """Three people's joints, and answers that are turned, larger, shifted and off by some centimetres."""
    true = 0.4 * torch.randn(3, 14, 3)
    turn = axis_angle_to_matrix(torch.randn(3, 3))
    found = 1.3 * (true + 0.05 * torch.randn(3, 14, 3)) @ turn.mT + torch.randn(3, 1, 3)
    return found, true


@check_for("14.5")
def procrustes_error(answer):
    found, true = moved_people()
    kept = found.clone()
    given = answer(found, true)
    expect_type(given, Tensor, "the errors")
    expect_shape(given, (3,), "the errors of 3 people")
    scale, R, t = procrustes(found, true)
    distance = (scale[:, None, None] * found @ R.mT + t[:, None] - true).norm(dim=-1)  # (B, J)
    rigid = procrustes(found, true, with_scale=False)
    other = procrustes(true, found)
    mistakes = {
        "These are metres. PA-MPJPE is in millimetres: times 1000": distance.mean(1),
        "The joints weren't moved: that is the plain distance": 1000 * (found - true).norm(dim=-1).mean(1),
        "The joints were turned the wrong way: points are rows, so it is points @ R.mT": (
            1000 * (scale[:, None, None] * found @ R + t[:, None] - true).norm(dim=-1).mean(1)
        ),
        "The scale is left out: PA-MPJPE forgives the size, too": (
            1000 * (found @ rigid[1].mT + rigid[2][:, None] - true).norm(dim=-1).mean(1)
        ),
        "The scale of the fit wasn't used": 1000 * (found @ R.mT + t[:, None] - true).norm(dim=-1).mean(1),
        "The truth was moved onto the answer. It is the answer that moves: procrustes(found, true)": (
            1000 * (other[0][:, None, None] * true @ other[1].mT + other[2][:, None] - found).norm(dim=-1).mean(1)
        ),
        "That is the root of the mean square. PA-MPJPE is the mean of the distances": (
            1000 * distance.square().mean(1).sqrt()
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(given, mistake, words, atol=1e-4)
    expect_close(given, 1000 * distance.mean(1), "the errors", atol=1e-2)
    expect_unchanged(found, kept, "the answer's joints")


@wrong_answer("14.5", says="These are metres")
def pa_in_metres(found, true):
    scale, R, t = procrustes(found, true)
    return (scale[:, None, None] * found @ R.mT + t[:, None] - true).norm(dim=-1).mean(1)


@wrong_answer("14.5", says="wrong way")
def pa_turned_back(found, true):
    scale, R, t = procrustes(found, true)
    return 1000 * (scale[:, None, None] * found @ R + t[:, None] - true).norm(dim=-1).mean(1)


@wrong_answer("14.5", says="weren't moved")
def pa_without_fit(found, true):
    return 1000 * (found - true).norm(dim=-1).mean(1)


@wrong_answer("14.5", says="scale is left out")
def pa_rigid(found, true):
    _, R, t = procrustes(found, true, with_scale=False)
    return 1000 * (found @ R.mT + t[:, None] - true).norm(dim=-1).mean(1)


@wrong_answer("14.5", says="truth was moved")
def pa_other_way(found, true):
    scale, R, t = procrustes(true, found)
    return 1000 * (scale[:, None, None] * true @ R.mT + t[:, None] - found).norm(dim=-1).mean(1)

"""The checks of chapter 14, and for each the wrong answers that it must catch."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from course_lib.chapters import mpt_finetuning as mpt
from course_lib.chapters import mpt_pretraining
from course_lib.chapters.cameras import axis_angle_to_matrix, procrustes
from course_lib.chapters.mpt_pretraining import sigma_for, synthesize_heatmaps
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_finite,
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
        "A joint that doesn't count got an empty target: it was taught to be 0. It is left out": sum(
            (part * seen + maps.square().mean((2, 3)) * (1 - seen)).mean()
            for part, maps in zip((coarse, fine), model.maps, strict=True)
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


@wrong_answer("14.2", says="got an empty target")
def loss_with_empty_targets(model, batch):
    losses = []
    for maps in model(batch["image"], every=True):
        target = synthesize_heatmaps(batch["points"], maps.shape[-1], sigma_for(maps.shape[-1]))
        losses.append((maps - target * batch["seen"][..., None, None]).square().mean())
    return sum(losses)


# ----------------------------------------------------------------------------------------- 14.3 the share that is found
@check_for("14.3")
def shares(answer):
    true = torch.rand(6, 3, 2) * 2 - 1
    off = torch.tensor([0.02, 0.04, 0.06, 0.08, 0.12, 0.3])[:, None].expand(6, 3)
    angle = torch.full((6, 3), math.pi / 4)  # where x and y on their own are nearest to 0
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


@wrong_answer("14.3", says="each on its own")
def share_by_axes(found, true, seen, size, reach=0.05):
    return (((found - true).abs().amax(-1) < reach * size[:, None]) * seen).sum(0) / seen.sum(0).clamp(min=1)


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
        "Where nobody is there are dots: leave NaN as it is, synthesize_heatmaps makes empty maps of it": torch.stack(
            [synthesize_heatmaps(points[:, m].nan_to_num(0.0), 28, 1.5) for m in range(4)]
        ).amax(0),
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


@wrong_answer("14.4", says="leave NaN as it is")
def maps_of_nobody(points, size, sigma):
    return synthesize_heatmaps(points.nan_to_num(0.0).flatten(0, 1), size, sigma).unflatten(0, points.shape[:2]).amax(1)


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


# ------------------------------------------------------------------------------------ 14.6 a mean over what is known
def known_cases() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Answers and truth (4, 5, 3), marks of samples (4,) and of joints (4, 5)."""
    generator = torch.Generator().manual_seed(3)
    answer, truth = torch.randn(2, 4, 5, 3, generator=generator)
    return answer, truth, torch.tensor([1.0, 0.0, 1.0, 0.0]), (torch.arange(20) % 3 > 0).view(4, 5).float()


def by_selection(answer: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Equation 14.6 by selecting."""
    return (answer[known > 0] - truth[known > 0]).abs().mean() if known.any() else torch.tensor(0.0)


@check_for("14.6")
def mean_of_known(answer):
    ours, true, of_samples, of_joints = known_cases()
    found = answer(ours, true, of_samples)
    expect_type(found, Tensor, "marks of four samples")
    expect_shape(found, (), "marks of four samples: one number")
    right, apart = by_selection(ours, true, of_samples), (ours - true).abs()
    expect_not_close(found, apart.mean(), "Every sample counts, whatever its mark: multiply by the marks")
    expect_not_close(
        found, right / 2, "Two of four samples are known. Divide by what is known, not by the size of the batch"
    )
    expect_not_close(
        found,
        right * 15,
        "The mean is over numbers, not over samples: count the marks after they were expanded to the answer's shape",
    )
    expect_not_close(found, (ours - true)[[0, 2]].square().mean(), "The square came back. L1: the absolute value")
    expect_close(found, right, "two of four samples known")
    expect_close(answer(ours, true, of_joints), by_selection(ours, true, of_joints), "some joints of each sample known")
    none = answer(ours, true, torch.zeros(4))
    expect(
        bool(none.isfinite()), "Nothing is known, and NaN came back. The number of known ones may be 0: keep it from 0"
    )
    expect_close(none, torch.tensor(0.0), "nothing known: no error")
    holes = true.clone()
    holes[1], holes[3, 2] = math.nan, math.inf
    leaf = ours.clone().requires_grad_()
    partly = answer(leaf, holes, of_samples)
    expect(
        bool(partly.isfinite()),
        "The truth is NaN where it isn't known, and NaN came back: 0 times NaN is NaN. Put a number there first",
    )
    expect_close(partly.detach(), right, "NaN where nothing is known")
    partly.backward()
    expect_finite(leaf.grad, "the gradient, with NaN where nothing is known. The gradient")
    lost = ours.clone()
    lost[0, 0, 0] = math.nan
    expect(
        bool(answer(lost, true, of_samples).isnan()),
        "The answer is NaN where the truth is known, and a number came back: make the truth harmless, not the result",
    )
    try:
        answer(*(values.to("meta") for values in (ours, true, of_samples)))
    except (RuntimeError, NotImplementedError) as error:
        expect(False, f"Shapes or branches depend on the marks' values ({type(error).__name__}): use marks as factors")
    expect_unchanged(true, known_cases()[1], "The truth")


@wrong_answer("14.6", says="not by the size of the batch")
def known_over_batch(answer, truth, known):
    mark = known.view(*known.shape, *[1] * (answer.ndim - known.ndim))
    return (mark * (answer - truth)).abs().mean()


@wrong_answer("14.6", says="0 times NaN is NaN")
def known_times_nan(answer, truth, known):
    mark = known.view(*known.shape, *[1] * (answer.ndim - known.ndim)).expand_as(answer)
    return (mark * (answer - truth).abs()).sum() / mark.sum().clamp(min=1)


@wrong_answer("14.6", says="Nothing is known")
def known_divides_by_none(answer, truth, known):
    mark = known.view(*known.shape, *[1] * (answer.ndim - known.ndim)).expand_as(answer)
    return (mark * (answer - truth.where(mark > 0, 0.0)).abs()).sum() / mark.sum()


@wrong_answer("14.6", says="over numbers, not over samples")
def known_counts_samples(answer, truth, known):
    mark = known.view(*known.shape, *[1] * (answer.ndim - known.ndim))
    return (mark * (answer - truth.where(mark > 0, 0.0)).abs()).sum() / known.sum().clamp(min=1)


@wrong_answer("14.6", says="Every sample counts")
def known_ignores_marks(answer, truth, known):
    return (answer - truth).abs().mean()


@wrong_answer("14.6", says="use marks as factors")
def known_selected(answer, truth, known):
    return by_selection(answer, truth, known)


@wrong_answer("14.6", says="make the truth harmless")
def known_hides_nan(answer, truth, known):
    mark = known.view(*known.shape, *[1] * (answer.ndim - known.ndim)).expand_as(answer)
    return (mark * (answer - truth).nan_to_num().abs()).sum() / mark.sum().clamp(min=1)


# ------------------------------------------------------------------------------------------- 14.7 the mirror image
def a_batch(size: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"image": (3, size, size), "spots": (14, 2), "points": (17, 2), "joints": (14, 3), "vertices": (9, 3)}
    batch = {name: torch.rand(3, *shape, generator=generator) for name, shape in (shapes | {"twin": (9, 3)}).items()}
    marks = {"spots_known": (torch.rand(3, 14, generator=generator) < 0.6).float(), "mesh_known": torch.ones(3)}
    return batch | marks | {"joints_known": torch.tensor([1.0, 0.0, 1.0])}


PARTNER14 = torch.tensor([5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13])
PARTNER17 = torch.tensor([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])


def expect_batch(found, batch: dict[str, Tensor], what: str) -> None:
    """A dictionary with the batch's keys and shapes."""
    expect_type(found, dict, what)
    for name, values in batch.items():
        expect(name in found, f"{what}: {name} is missing. What doesn't change is handed on")
        expect_shape(found[name], values.shape, f"{what}, {name}")


@check_for("14.7")
def mirror_image(answer):
    batch = a_batch()
    kept = {name: values.clone() for name, values in batch.items()}
    found = answer(batch)
    for name, values in kept.items():
        expect_unchanged(batch[name], values, f"The batch's {name}")
    expect_batch(found, batch, "three samples")
    flip = torch.tensor([-1.0, 1.0, 1.0])
    expect_not_close(
        found["image"], batch["image"].flip(-2), "The pictures stand on their heads: x is the last dimension"
    )
    expect_close(found["image"], batch["image"].flip(-1), "the pictures")
    for name, partner, sign in (
        ("joints", PARTNER14, flip),
        ("spots", PARTNER14, flip[:2]),
        ("points", PARTNER17, flip[:2]),
    ):
        named, signed = batch[name][:, partner], batch[name] * sign
        expect_not_close(
            found[name],
            signed,
            f"{name}: x has changed its sign, but the left hand is still called left: exchange the names",
        )
        expect_not_close(found[name], named, f"{name}: the names are exchanged, but x has kept its sign")
        expect_not_close(found[name], named * -sign, f"{name}: a mirror changes the sign of x, not of the others")
        if name != "joints":
            expect_not_close(
                found[name],
                torch.stack([1 - named[..., 0], named[..., 1]], -1),
                f"{name}: crop coordinates run from -1 to 1, their middle is 0: x becomes -x",
            )
        expect_close(found[name], named * sign, name)
    expect_not_close(
        found["spots_known"], batch["spots_known"], "spots_known: marks belong to names. Exchange them as the spots"
    )
    expect_close(found["spots_known"], batch["spots_known"][:, PARTNER14], "spots_known")
    expect_not_close(
        found["vertices"],
        batch["vertices"] * flip,
        "vertices: a mirrored vertex is another vertex. That mesh is the twin",
    )
    expect_not_close(
        found["vertices"], batch["twin"] * flip, "vertices: the twin is mirrored already; its x keeps its sign"
    )
    expect_close(found["vertices"], batch["twin"], "vertices")
    expect_close(found["twin"], batch["vertices"], "twin: mirrored twice, a person is the same again. The twin")
    for name in ("mesh_known", "joints_known"):
        expect_close(found[name], batch[name], name)


def mirror(batch: dict[str, Tensor], **changes) -> dict[str, Tensor]:
    """The right answer, with some parts done wrong."""
    return mpt.mirrored(batch) | changes


@wrong_answer("14.7", says="exchange the names")
def mirrored_without_names(batch):
    return mirror(batch, joints=batch["joints"] * torch.tensor([-1.0, 1.0, 1.0]))


@wrong_answer("14.7", says="x has kept its sign")
def mirrored_only_names(batch):
    return mirror(batch, spots=batch["spots"][:, PARTNER14])


@wrong_answer("14.7", says="a mirrored vertex is another vertex")
def mirrored_vertices_in_place(batch):
    return mirror(batch, vertices=batch["vertices"] * torch.tensor([-1.0, 1.0, 1.0]))


@wrong_answer("14.7", says="marks belong to names")
def mirrored_marks_kept(batch):
    return mirror(batch, spots_known=batch["spots_known"])


@wrong_answer("14.7", says="their middle is 0")
def mirrored_unit_square(batch):
    swapped = batch["points"][:, PARTNER17]
    return mirror(batch, points=torch.stack([1 - swapped[..., 0], swapped[..., 1]], -1))


@wrong_answer("14.7", says="stand on their heads")
def mirrored_upside_down(batch):
    return mirror(batch, image=batch["image"].flip(-2))


@wrong_answer("14.7", says="The batch's")
def mirrored_in_place(batch):
    result = mpt.mirrored(batch)
    batch["spots"].copy_(result["spots"])
    return result


# ------------------------------------------------------------------------------------ 14.8 turned, with the truth
def planar(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2), x right and y down: clockwise."""
    return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)


def looked(image: Tensor, matrix: Tensor) -> Tensor:
    """Pictures read at matrix @ place."""
    grid = affine_grid(torch.cat([matrix, matrix.new_zeros(len(matrix), 2, 1)], 2), image.shape, align_corners=False)
    return grid_sample(image, grid, align_corners=False)


def in_space(points: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat([points[..., :2] @ matrix.mT, points[..., 2:]], -1)


@check_for("14.8")
def turned_along(answer):
    batch = a_batch()
    kept = {name: values.clone() for name, values in batch.items()}
    angle, zoom = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([1.3, 0.8, 1.1])
    turn, k = planar(angle), zoom[:, None, None]
    found = answer(batch, angle, zoom)
    for name, values in kept.items():
        expect_unchanged(batch[name], values, f"The batch's {name}")
    expect_batch(found, batch, "three samples")
    for name in ("spots", "points"):
        right = batch[name] @ (k * turn).mT
        expect_not_close(
            found[name],
            batch[name] @ (k * turn),
            f"{name} turn the wrong way: rows of points are multiplied by A transposed",
        )
        expect_not_close(found[name], batch[name] @ turn.mT, f"{name} don't move outwards with the zoom")
        expect_not_close(
            found[name], batch[name] @ (turn / k).mT, f"{name}: zoom 2 moves them twice as far out, not half"
        )
        expect_close(found[name], right, name)
    for name in ("joints", "vertices"):
        expect_not_close(found[name], batch[name], f"{name} have not turned: space turns along with the picture")
        expect_not_close(
            found[name],
            in_space(batch[name], k * turn),
            f"{name} have grown with the zoom. The zoom belongs to the picture; in space people keep their size",
        )
        expect_not_close(found[name], in_space(batch[name], turn.mT), f"{name} turn the other way than the picture")
        expect_close(found[name], in_space(batch[name], turn), name)
    image = batch["image"]
    expect_not_close(
        found["image"],
        looked(image, k * turn),
        "The pictures turn the other way than the spots. What is seen at p was at A⁻¹ p: make the grid by the inverse",
    )
    expect_not_close(
        found["image"],
        looked(image, turn.mT * k),
        "The inverse of A is its transpose divided by k²: 1/k, not k, in the grid",
    )
    expect_not_close(found["image"], looked(image, turn.mT), "The pictures are turned, but not zoomed")
    expect_close(found["image"], looked(image, turn.mT / k), "the pictures (align_corners=False in both calls)")
    for name in ("spots_known", "mesh_known", "joints_known"):
        expect_close(found[name], batch[name], name)
    still = answer(batch, torch.zeros(3), torch.ones(3))
    expect_close(still["image"], image, "an angle of 0 and a zoom of 1")


def turn_all(batch, angle, zoom, **changes) -> dict[str, Tensor]:
    """The right answer, with some parts done wrong."""
    return mpt.turned(batch, angle, zoom) | changes


@wrong_answer("14.8", says="by the inverse")
def turned_image_forward(batch, angle, zoom):
    return turn_all(batch, angle, zoom, image=looked(batch["image"], zoom[:, None, None] * planar(angle)))


@wrong_answer("14.8", says="1/k, not k")
def turned_image_transposed(batch, angle, zoom):
    return turn_all(batch, angle, zoom, image=looked(batch["image"], zoom[:, None, None] * planar(angle).mT))


@wrong_answer("14.8", says="people keep their size")
def turned_grows(batch, angle, zoom):
    return turn_all(batch, angle, zoom, joints=in_space(batch["joints"], zoom[:, None, None] * planar(angle)))


@wrong_answer("14.8", says="have not turned")
def turned_space_stays(batch, angle, zoom):
    return turn_all(batch, angle, zoom, vertices=batch["vertices"])


@wrong_answer("14.8", says="multiplied by A transposed")
def turned_columns(batch, angle, zoom):
    return turn_all(batch, angle, zoom, spots=batch["spots"] @ (zoom[:, None, None] * planar(angle)))


@wrong_answer("14.8", says="turn the other way than the picture")
def turned_space_backward(batch, angle, zoom):
    return turn_all(batch, angle, zoom, joints=in_space(batch["joints"], planar(angle).mT))


@wrong_answer("14.8", says="The batch's")
def turned_in_place(batch, angle, zoom):
    result = mpt.turned(batch, angle, zoom)
    batch["spots"].copy_(result["spots"])
    return result


# ------------------------------------------------------------------------------- 14.9 how many joints a map answers to
def dots(points: Tensor, groups: tuple[tuple[int, ...], ...], size: int = 24) -> Tensor:
    """Maps (N, C, size, size): map c has a dot at each joint of group c."""
    maps = mpt_pretraining.synthesize_heatmaps(points, size, 1.0)
    return torch.stack([maps[:, list(group)].amax(1) for group in groups], 1)


def answers_of(maps: Tensor, points: Tensor, power: int = 2, average: bool = True) -> Tensor:
    """Equation 14.8 by loops over maps, with another power than 2 in it, or the mean over people taken too late."""
    n, c, j = len(maps), maps.shape[1], points.shape[1]
    read = torch.zeros(n, c, j)
    for person in range(n):
        for one in range(c):
            pattern = maps[person, one]
            pattern = (pattern - pattern.mean()) / pattern.std().clamp(min=1e-6)
            at = points[person].view(1, 1, j, 2)
            read[person, one] = grid_sample(pattern[None, None], at, align_corners=False)[0, 0, 0]
    energy = read.mean(0).abs() ** power if average else (read**power).mean(0)
    share = energy / energy.sum(1, keepdim=True)
    return 1 / (share**2).sum(1)


@check_for("14.9")
def joints_of_maps(answer):
    generator = torch.Generator().manual_seed(2)
    lattice = torch.stack(torch.meshgrid(*[torch.linspace(-0.75, 0.75, 3)] * 2, indexing="xy"), -1).view(9, 2)
    order = torch.stack([torch.randperm(9, generator=generator)[:6] for _ in range(20)])
    points = lattice[order] + 0.1 * torch.randn(20, 6, 2, generator=generator)  # (20, 6, 2), well apart
    maps = dots(points, ((0,), (1, 2), (0, 3, 4), (0, 1, 2, 3, 4, 5)))
    maps[:, 1] = 5 - 3 * maps[:, 1]  # holes instead of peaks, another level and another strength
    by_chance = (
        dots(points, ((0,), (3,))) * torch.stack([torch.ones(20), (-1.0) ** torch.arange(20)], 1)[..., None, None]
    )
    maps = torch.cat([maps, by_chance.sum(1, keepdim=True)], 1)  # joint 3 is now a peak, now a hole
    kept, found = maps.clone(), answer(maps, points)
    expect_type(found, Tensor, "five maps of 20 people")
    expect_shape(found, (5,), "five maps of 20 people")
    right = answers_of(maps, points)
    for words, mistake in {
        "The shares are made of |r|. (14.8) squares them": answers_of(maps, points, power=1),
        "The squares were taken person by person. First the mean over people, then the square: what is there by chance "
        "averages out": answers_of(maps, points, average=False),
        "x and y have changed places: crop coordinates are x, y, as grid_sample wants them": answers_of(
            maps, points.flip(-1)
        ),
        "This is Σ q², not one over it": 1 / right,
    }.items():
        expect_not_close(found, mistake, words, atol=1e-3)
    expect(
        bool((found[0] < 1.5) & (found[3] > 4)),
        f"A map with one dot answers to {found[0]:.1f} joints, one with all six to {found[3]:.1f}: it should be about "
        "1, and 6",
    )
    expect_close(found, right, "maps that answer to 1, 2, 3, 6 joints, and to 1", atol=1e-3)
    strength = torch.linspace(-1, 2, 20)[torch.randperm(20, generator=generator), None, None, None].exp()
    expect_close(
        answer(strength * maps + 3 * strength, points),
        right,
        "the same maps, each person's of another strength and level: only patterns count, person by person",
        atol=1e-3,
    )
    flat = answer(torch.cat([maps[:, :1], torch.ones(20, 1, 24, 24)], 1), points)
    expect_finite(flat, "a map that is 1 everywhere has no pattern. The numbers")
    expect_close(flat[1], torch.tensor(0.0), "a map that is 1 everywhere answers to no joint", atol=1e-3)
    expect_unchanged(maps, kept, "The tensor of maps")


@wrong_answer("14.9", says="squares them")
def answered_unsquared(maps, points):
    return answers_of(maps, points, power=1)


@wrong_answer("14.9", says="person by person")
def answered_late_mean(maps, points):
    return answers_of(maps, points, average=False)


@wrong_answer("14.9", says="changed places")
def answered_swapped(maps, points):
    return answers_of(maps, points.flip(-1))


@wrong_answer("14.9", says="should be about 1|only patterns count|maps that answer")
def answered_raw(maps, points):
    read = grid_sample(maps, points[:, None], align_corners=False)[:, :, 0].mean(0).square()
    share = read / read.sum(1, keepdim=True)
    return 1 / share.square().sum(1)


@wrong_answer("14.9", says="not one over it")
def answered_inverse(maps, points):
    return 1 / answers_of(maps, points)


@wrong_answer("14.9", says="no pattern")
def answered_flat_nan(maps, points):
    pattern = (maps - maps.mean((2, 3), keepdim=True)) / maps.std((2, 3), keepdim=True)
    energy = grid_sample(pattern, points[:, None], align_corners=False)[:, :, 0].mean(0).square()
    share = energy / energy.sum(1, keepdim=True)
    return 1 / share.square().sum(1)


@wrong_answer("14.9", says="only patterns count")
def answered_without_deviation(maps, points):
    return number_of(maps - maps.mean((2, 3), keepdim=True), points)


@wrong_answer("14.9", says="only patterns count")
def answered_over_all_people(maps, points):
    mean, deviation = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)
    return number_of((maps - mean) / deviation.clamp(min=1e-6), points)


def number_of(pattern, points):
    """Equation 14.8, of maps that are brought to one level and strength, or aren't."""
    energy = grid_sample(pattern, points[:, None], align_corners=False)[:, :, 0].mean(0).square()
    share = energy / energy.sum(1, keepdim=True).clamp(min=1e-12)
    return 1 / share.square().sum(1)

"""The checks of chapter 07: Sapiens, 2D pose."""

import re

import torch
from torch import Tensor, nn

from course_lib.chapters import sapiens_pose as pose
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_gradient,
    expect_length,
    expect_not_close,
    expect_tensor,
    expect_type,
    wrong_answer,
)

# ---------------------------------------------------------------------------------------------------- 07.1 the crop
BOXES = torch.tensor([[10.0, 20, 50, 120], [0.0, 30, 90, 60]])  # a tall one and a wide one


def matrix_of(boxes: Tensor, scale: Tensor, angle: Tensor, size: tuple[int, int], centre: Tensor | None = None):
    """Equation 07.1 with these scales (B,) and angles (B,)."""
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 if centre is None else centre
    corner = centre - linear @ torch.tensor([size[1] / 2, size[0] / 2])
    return torch.cat([linear, corner[..., None]], 2)


def scale_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Picture pixels in a crop pixel, before the padding."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.maximum(sides[:, 0] / size[1], sides[:, 1] / size[0])


@check_for("07.1")
def crop_matrix(answer):
    size, angle = (128, 96), torch.tensor([0.3, -0.7])
    scale, none = 1.25 * scale_of(BOXES, size), torch.zeros(2)
    found = answer(BOXES, size)
    centre = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    swapped = matrix_of(BOXES, 1.25 * scale_of(BOXES, (96, 128)), none, (96, 128))
    sides = BOXES[:, 2:] - BOXES[:, :2]
    mistakes = {
        "Height and width are mixed up: size is (h, w), and a box has its width in x": swapped,
        "The padding is missing: the crop holds the box 1.25 times": matrix_of(BOXES, scale / 1.25, none, size),
        "The smaller of the two scales is taken, and the longer side is cut off: the maximum": matrix_of(
            BOXES, 1.25 * torch.minimum(sides[:, 0] / size[1], sides[:, 1] / size[0]), none, size
        ),
        "The last column is the box's centre. It is where u = 0 comes from, the crop's corner": torch.cat(
            [matrix_of(BOXES, scale, none, size)[:, :, :2], centre[..., None]], 2
        ),
        "This maps the picture to the crop. It is meant the other way: from the crop's pixels to the picture's": (
            pose.inverse(matrix_of(BOXES, scale, none, size))
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, matrix_of(BOXES, scale, none, size), "a tall and a wide box, crops of 128 x 96", atol=1e-3)
    check_turned(answer, scale, angle, size)
    one = answer(BOXES[:1], (64, 64), torch.tensor([2.0]), 0.0)
    expect_close(one, matrix_of(BOXES[:1], 2 * scale_of(BOXES[:1], (64, 64)), none[:1], (64, 64)), "padding 2")


def check_turned(answer, scale: Tensor, angle: Tensor, size: tuple[int, int]) -> None:
    """With an angle."""
    turned = answer(BOXES, size, 1.25, angle)
    words = "It turns the wrong way round: with y pointing down, R = [[cos θ, −sin θ], [sin θ, cos θ]] is clockwise"
    expect_not_close(turned, matrix_of(BOXES, scale, -angle, size), words, atol=1e-3)
    words = "The angle changes nothing"
    expect_not_close(turned, matrix_of(BOXES, scale, 0 * angle, size), words)
    around_corner = matrix_of(BOXES, scale, 0 * angle, size)
    around_corner[:, :, :2] = matrix_of(BOXES, scale, angle, size)[:, :, :2]
    words = "The crop turns around its corner: the corner is centre − s R (w/2, h/2), with R in it"
    expect_not_close(turned, around_corner, words, atol=1e-3)
    expect_close(turned, matrix_of(BOXES, scale, angle, size), "angles of 0.3 and −0.7", atol=1e-3)
    words = "one angle for all boxes, a plain number: torch.as_tensor(angle).expand(len(boxes))"
    alike = matrix_of(BOXES, scale, torch.full((2,), 0.3), size)
    expect_close(answer(BOXES, size, 1.25, 0.3), alike, words, atol=1e-3)


@wrong_answer("07.1", says="Height and width are mixed up")
def crop_swapped(boxes, size, padding=1.25, angle=0.0):
    return pose.crop_matrix(boxes, size[::-1], padding, angle)


@wrong_answer("07.1", says="padding is missing")
def crop_tight(boxes, size, padding=1.25, angle=0.0):
    return pose.crop_matrix(boxes, size, 1.0, angle)


@wrong_answer("07.1", says="longer side is cut off")
def crop_smaller(boxes, size, padding=1.25, angle=0.0):
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = padding * torch.minimum(sides[:, 0] / size[1], sides[:, 1] / size[0])
    return matrix_of(boxes, scale, torch.as_tensor(angle).expand(len(boxes)), size)


@wrong_answer("07.1", says="the crop's corner")
def crop_from_centre(boxes, size, padding=1.25, angle=0.0):
    matrix = pose.crop_matrix(boxes, size, padding, angle).clone()
    matrix[:, :, 2] = (boxes[:, :2] + boxes[:, 2:]) / 2
    return matrix


@wrong_answer("07.1", says="the other way")
def crop_inverse(boxes, size, padding=1.25, angle=0.0):
    return pose.inverse(pose.crop_matrix(boxes, size, padding, angle))


@wrong_answer("07.1", says="wrong way round")
def crop_counterclockwise(boxes, size, padding=1.25, angle=0.0):
    return pose.crop_matrix(boxes, size, padding, -torch.as_tensor(angle))


@wrong_answer("07.1", says="around its corner")
def crop_around_corner(boxes, size, padding=1.25, angle=0.0):
    matrix = pose.crop_matrix(boxes, size, padding, angle).clone()
    matrix[:, :, 2] = pose.crop_matrix(boxes, size, padding)[:, :, 2]
    return matrix


@wrong_answer("07.1", says="a plain number")
def crop_without_plain_angle(boxes, size, padding=1.25, angle=0.0):
    return pose.crop_matrix(boxes, size, padding, angle if isinstance(angle, Tensor) else 0.0)


# ------------------------------------------------------------------------------------------------------ 07.2 encoding
def bells(points: Tensor, size: tuple[int, int], spread: float, shift: float = 0.5) -> Tensor:
    """exp(-spread * d²) of cells whose centres are at integer + shift."""
    y, x = torch.meshgrid(*(torch.arange(n) + shift for n in size), indexing="ij")
    places = torch.stack([x, y], -1)  # (h, w, 2)
    return torch.exp(-spread * (places - points[..., None, None, :]).square().sum(-1))


@check_for("07.2")
def encode_heatmaps(answer):
    points, size, sigma = torch.tensor([[[2.3, 4.1], [5.0, 1.6], [3.7, 6.2]]]), (8, 6), 1.2
    spread, found = 1 / (2 * sigma**2), answer(points, size, sigma)
    rounded = points.floor() + 0.5
    mistakes = {
        "x and y are mixed up: a point is (x, y), x counts columns, and a heatmap is (h, w)": bells(
            points.flip(-1), size, spread
        ),
        "The cells' centres are at whole numbers. Cell i has its centre at i + 0.5": bells(points, size, spread, 0.0),
        "The points are rounded: the fraction of a cell is what heatmaps are for": bells(rounded, size, spread),
        "It divides by σ², not by 2σ²": bells(points, size, 2 * spread),
        "It divides by 2σ: the σ is not squared": bells(points, size, 1 / (2 * sigma)),
        "The bells are scaled to sum 1. Their summit is 1": bells(points, size, spread)
        / bells(points, size, spread).sum((-1, -2), keepdim=True),
        "The highest cell is scaled to 1. Only a point in a cell's centre makes a 1": bells(points, size, spread)
        / bells(points, size, spread).amax((-1, -2), keepdim=True),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, bells(points, size, spread), "3 points on 8 x 6 cells")
    outside = torch.tensor([[[-3.0, 4.0]], [[5.0, 100.0]]])
    expect_close(answer(outside, size, 2.0), bells(outside, size, 1 / 8), "points outside the heatmap")


@wrong_answer("07.2", says="x and y are mixed up")
def encode_swapped(points, size, sigma):
    return bells(points.flip(-1), size, 1 / (2 * sigma**2))


@wrong_answer("07.2", says="centre at i")
def encode_at_corners(points, size, sigma):
    return bells(points, size, 1 / (2 * sigma**2), 0.0)


@wrong_answer("07.2", says="rounded")
def encode_rounded(points, size, sigma):
    return bells(points.floor() + 0.5, size, 1 / (2 * sigma**2))


@wrong_answer("07.2", says="not by 2σ²")
def encode_too_narrow(points, size, sigma):
    return bells(points, size, 1 / sigma**2)


@wrong_answer("07.2", says="scaled to sum 1")
def encode_as_probability(points, size, sigma):
    maps = bells(points, size, 1 / (2 * sigma**2))
    return maps / maps.sum((-1, -2), keepdim=True)


# ---------------------------------------------------------------------------------------------------------- 07.3 DARK
def parabola(offset: Tensor, form: Tensor) -> Tensor:
    """3 x 3 values of a parabola with its summit at `offset` (..., 2), x and y, and second derivatives (2, 2)."""
    y, x = torch.meshgrid(torch.arange(-1.0, 2), torch.arange(-1.0, 2), indexing="ij")
    away = torch.stack([x, y], -1) - offset[..., None, None, :]
    return 0.5 * torch.einsum("...i,ij,...j->...", away, form, away)


@check_for("07.3")
def dark_offset(answer):
    offset = torch.tensor([[0.3, -0.2], [-0.45, 0.1], [0.0, 0.5]])
    tilted, straight = torch.tensor([[-0.5, 0.1], [0.1, -0.3]]), torch.tensor([[-0.5, 0.0], [0.0, -0.3]])
    found = answer(parabola(offset, straight))
    expect_tensor(found, (3, 2), torch.float32, what="the offsets of three summits")
    expect_not_close(found, offset.flip(-1), "x and y are mixed up: the offset is (x, y), rows are y")
    expect_not_close(found, -offset, "The sign is wrong: it is −H⁻¹ g. The summit lies uphill")
    expect_not_close(found, 2 * offset, "The first differences are twice too large: neighbours are two cells apart")
    expect_close(found, offset, "round bells: the offset is exact")
    flat = answer(parabola(offset, 0.05 * straight))
    expect_close(flat, offset, "flat bells: a determinant above 1e-6 is enough for a summit", atol=1e-3)
    crossed = answer(parabola(offset, tilted))
    gradient = -(offset @ tilted)
    words = "Only right for bells that stand straight: the mixed derivative H_xy is missing"
    expect_not_close(crossed, -gradient / tilted.diagonal(), words)
    wrong = -gradient @ torch.linalg.inv(torch.tensor([[-0.5, 0.4], [0.4, -0.3]]))
    expect_not_close(crossed, wrong, "H_xy is four times too large: the four corners' sum is divided by 4")
    expect_close(crossed, offset, "tilted bells: the offset is exact")
    check_without_summit(answer, offset)
    many = parabola(offset.expand(2, 5, 3, 2), tilted)
    expect_close(answer(many), offset.expand(2, 5, 3, 2), "logarithms (2, 5, 3, 3, 3)")


def check_without_summit(answer, offset: Tensor) -> None:
    """Flat cells, a valley, saddles, a ridge."""
    forms = {"a valley": [[0.5, 0], [0, 0.5]], "a saddle": [[-0.5, 0], [0, 0.5]]}
    forms |= {"a saddle that is turned": [[-0.5, 0.75], [0.75, -0.5]], "a ridge": [[-0.5, 0.5], [0.5, -0.5]]}
    cells = {"flat cells": torch.zeros(3, 3, 3)} | {n: parabola(offset, torch.tensor(f)) for n, f in forms.items()}
    for name, logs in cells.items():
        expect_close(answer(logs), torch.zeros(len(logs), 2), f"{name}: without a summit the offset is 0", rtol=0)
    both = torch.cat([parabola(offset, torch.tensor([[-0.5, 0], [0, -0.5]])), cells["a valley"]])
    expect_close(answer(both), torch.cat([offset, 0 * offset]), "three bells and three valleys in one call")


@wrong_answer("07.3", says="x and y are mixed up")
def dark_swapped(logs):
    return pose.dark_offset(logs).flip(-1)


@wrong_answer("07.3", says="sign is wrong")
def dark_downhill(logs):
    return -pose.dark_offset(logs)


def derivatives(logs: Tensor) -> tuple[Tensor, ...]:
    """dx, dy, dxx, dyy, dxy of 3 x 3 cells, equation 07.4."""
    up, middle, down = logs.unbind(-2)
    dx, dy = (middle[..., 2] - middle[..., 0]) / 2, (down[..., 1] - up[..., 1]) / 2
    dxx = middle[..., 2] - 2 * middle[..., 1] + middle[..., 0]
    dyy = down[..., 1] - 2 * middle[..., 1] + up[..., 1]
    return dx, dy, dxx, dyy, (down[..., 2] - down[..., 0] - up[..., 2] + up[..., 0]) / 4


def newton(dx, dy, dxx, dyy, dxy) -> Tensor:
    """−H⁻¹ g where there is a summit, else 0."""
    determinant = dxx * dyy - dxy**2
    summit = (dxx < 0) & (determinant > 1e-6)
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1)
    return torch.where(summit[..., None], offset / torch.where(summit, determinant, 1.0)[..., None], 0.0)


@wrong_answer("07.3", says="twice too large")
def dark_half_steps(logs):
    dx, dy, *second = derivatives(logs)
    return newton(2 * dx, 2 * dy, *second)


@wrong_answer("07.3", says="mixed derivative")
def dark_straight(logs):
    dx, dy, dxx, dyy, dxy = derivatives(logs)
    return newton(dx, dy, dxx, dyy, 0 * dxy)


@wrong_answer("07.3", says="NaN")
def dark_without_test(logs):
    dx, dy, dxx, dyy, dxy = derivatives(logs)
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1)
    return offset / (dxx * dyy - dxy**2)[..., None]


@wrong_answer("07.3", says="flat bells")
def dark_only_sharp(logs):
    dx, dy, dxx, dyy, dxy = derivatives(logs)
    sharp = dxx * dyy - dxy**2 > 1e-2
    return torch.where(sharp[..., None], newton(dx, dy, dxx, dyy, dxy), 0.0)


@wrong_answer("07.3", says="a valley")
def dark_into_valleys(logs):
    dx, dy, dxx, dyy, dxy = derivatives(logs)
    determinant = dxx * dyy - dxy**2
    good = determinant > 1e-6
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1)
    return torch.where(good[..., None], offset / torch.where(good, determinant, 1.0)[..., None], 0.0)


@wrong_answer("07.3", says="a saddle that is turned")
def dark_on_turned_saddles(logs):
    dx, dy, dxx, dyy, dxy = derivatives(logs)
    good, determinant = (dxx < 0) & (dyy < 0), dxx * dyy - dxy**2
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1)
    safe = torch.where(determinant.abs() > 1e-6, determinant, 1.0)
    return torch.where((good & (determinant.abs() > 1e-6))[..., None], offset / safe[..., None], 0.0)


# ------------------------------------------------------------------------------------ 07.4 from pretraining to a task
def pretrained(rows: int, width: int = 8) -> dict[str, Tensor]:
    """A small encoder's tensors with so many rows of positions."""
    return {
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, rows, width),
        "patch_embed.proj.weight": torch.randn(width, 3, 2, 2),
        "norm.weight": torch.randn(width),
    }


@check_for("07.4")
def resized_state(answer):
    state, old, new = pretrained(17), (4, 4), (4, 3)
    before = {name: tensor.clone() for name, tensor in state.items()}
    found = answer(state, old, new)
    expect_type(found, dict, "the new state")
    same = state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
    expect(same, "The dictionary that came in was changed: build a new one")
    expect("cls_token" not in found, "The cls token is still there: a task has none")
    expect_equal(set(found), set(before) - {"cls_token"}, "the names")
    places = before["pos_embed"]
    table = found["pos_embed"]
    expect_type(table, Tensor, "pos_embed")
    words = "pos_embed still has the cls token's row: it is the first one"
    expect(table.shape[1:2] != (13,), words)
    resize = pose.resize_position_embedding
    expect_not_close(table, resize(places[:, :-1], old, new), "The last row was dropped. The cls token's is the first")
    expect_close(table, resize(places[:, 1:], old, new), "pos_embed from 4 x 4 to 4 x 3")
    for name in ("patch_embed.proj.weight", "norm.weight"):
        expect_close(found[name], before[name], f"{name} is to stay as it is")
    check_other_tables(answer)


def check_other_tables(answer) -> None:
    """A table without the cls token's row, and one in bf16."""
    state = pretrained(16)
    del state["cls_token"]
    expected = pose.resize_position_embedding(state["pos_embed"], (2, 8), (2, 4))
    found = answer(state, (2, 8), (2, 4))
    words = "a state without cls token, its 16 rows those of 2 x 8 patches: count from the end, by old_grid"
    expect_close(found["pos_embed"], expected, words)
    half = pretrained(17)
    half["pos_embed"] = half["pos_embed"].bfloat16()
    expected = pose.resize_position_embedding(half["pos_embed"][:, 1:].float(), (4, 4), (4, 3))
    expect_close(
        answer(half, (4, 4), (4, 3))["pos_embed"], expected, "positions in bf16, resized in float32 (.float())"
    )


@wrong_answer("07.4", says="cls token is still there")
def state_with_cls(state, old_grid, new_grid):
    return state | pose.resized_state(state, old_grid, new_grid)


@wrong_answer("07.4", says="last row was dropped")
def state_from_the_front(state, old_grid, new_grid):
    patches = old_grid[0] * old_grid[1]
    places = pose.resize_position_embedding(state["pos_embed"][:, :patches].float(), old_grid, new_grid)
    return {name: tensor for name, tensor in state.items() if name != "cls_token"} | {"pos_embed": places}


@wrong_answer("07.4", says="still has the cls token's row")
def state_keeps_the_row(state, old_grid, new_grid):
    prefix = state["pos_embed"].shape[1] - old_grid[0] * old_grid[1]
    places = pose.resize_position_embedding(state["pos_embed"].float(), old_grid, new_grid, prefix)
    return {name: tensor for name, tensor in state.items() if name != "cls_token"} | {"pos_embed": places}


@wrong_answer("07.4", says="build a new one")
def state_changed_in_place(state, old_grid, new_grid):
    new = pose.resized_state(state, old_grid, new_grid)
    state.pop("cls_token")
    state.update(new)
    return state


@wrong_answer("07.4", says="count from the end|raised")
def state_always_drops_one(state, old_grid, new_grid):
    places = pose.resize_position_embedding(state["pos_embed"][:, 1:].float(), old_grid, new_grid)
    return {name: tensor for name, tensor in state.items() if name != "cls_token"} | {"pos_embed": places}


# ------------------------------------------------------------------------------------------------------ 07.5 flip test
class Painter(nn.Module):
    """A stand-in for a network: K maps, each another mixture of the crop's colours, brighter to the right."""

    def __init__(self, keypoints: int):
        super().__init__()
        self.mixture = nn.Conv2d(3, keypoints, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H, W)."""
        return self.mixture(images) * torch.linspace(0, 1, images.shape[-1])


@check_for("07.5")
def flip_test(answer):
    model, crops = Painter(17), torch.rand(2, 3, 6, 5)
    swap = pose.MIRROR[17]
    plain, other = model(crops), model(crops.flip(-1))
    found = answer(model, crops)
    mistakes = {
        "The names are not exchanged: a mirrored left wrist is a right wrist": (plain + other.flip(-1)) / 2,
        "The second answer is not mirrored back: its maps are those of the mirrored crop": (plain + other[:, swap]) / 2,
        "There is no mirror in it: the answer is that of the crop alone": plain,
        "Only the mirror image was asked: take the mean with the crop's own answer": other.flip(-1)[:, swap],
        "The sum was taken, not the mean": plain + other.flip(-1)[:, swap],
        "It was flipped upside down: the last dimension is the width": (plain + model(crops.flip(-2)).flip(-2)[:, swap])
        / 2,
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, (plain + other.flip(-1)[:, swap]) / 2, "two crops, 17 keypoints")
    model = Painter(133)
    expected = (model(crops) + model(crops.flip(-1)).flip(-1)[:, pose.MIRROR[133]]) / 2
    expect_close(answer(model, crops), expected, "133 keypoints: the table is MIRROR of the number of maps")


@wrong_answer("07.5", says="names are not exchanged")
def flip_without_names(model, crops):
    return (model(crops) + model(crops.flip(-1)).flip(-1)) / 2


@wrong_answer("07.5", says="not mirrored back")
def flip_not_back(model, crops):
    maps = model(crops)
    return (maps + model(crops.flip(-1))[:, pose.MIRROR[maps.shape[1]]]) / 2


@wrong_answer("07.5", says="must match the size")
def flip_always_coco(model, crops):
    return (model(crops) + model(crops.flip(-1)).flip(-1)[:, pose.MIRROR[17]]) / 2


@wrong_answer("07.5", says="sum was taken")
def flip_sum(model, crops):
    return 2 * pose.flip_test(model, crops)


@wrong_answer("07.5", says="upside down")
def flip_upside_down(model, crops):
    maps = model(crops)
    return (maps + model(crops.flip(-2)).flip(-2)[:, pose.MIRROR[maps.shape[1]]]) / 2


# ------------------------------------------------------------------------------------------------------- 07.6 the loss
@check_for("07.6")
def heatmap_loss(answer):
    found, target = torch.rand(2, 3, 4, 5, requires_grad=True), torch.rand(2, 3, 4, 5)
    weight = torch.tensor([[1.0, 0, 1], [0.0, 0, 1]])
    squared, value = (found - target).square(), answer(found, target, weight)
    expected = (squared.mean((2, 3)) * weight).mean()
    mistakes = {
        "What is not annotated counts, too: times weight": squared.mean(),
        "Divided by the number of visible keypoints. Divide by all B · K: where nobody is visible, yours is 0/0": (
            (squared.mean((2, 3)) * weight).sum() / weight.sum()
        ),
        "The differences are not squared": ((found - target).abs().mean((2, 3)) * weight).mean(),
        "The sum over the cells, not their mean": (squared.sum((2, 3)) * weight).mean(),
        "The sum over all keypoints, not their mean": (squared.mean((2, 3)) * weight).sum(),
    }
    for words, mistake in mistakes.items():
        expect_not_close(value, mistake.detach(), words)
    expect_close(value, expected.detach(), "two people, three keypoints")
    expect_gradient(value, found, "the gradient")
    nobody = answer(found, target, torch.zeros(2, 3))
    expect_close(nobody, torch.tensor(0.0), "nobody has a visible keypoint: the loss is 0, not NaN")
    expect_gradient(nobody, found, "the gradient where nobody is visible")


@wrong_answer("07.6", says="times weight")
def loss_of_all(found, target, weight):
    return (found - target).square().mean()


@wrong_answer("07.6", says="0/0")
def loss_per_visible(found, target, weight):
    return ((found - target).square().mean((2, 3)) * weight).sum() / weight.sum()


@wrong_answer("07.6", says="not squared")
def loss_absolute(found, target, weight):
    return ((found - target).abs().mean((2, 3)) * weight).mean()


@wrong_answer("07.6", says="sum over the cells")
def loss_sum_of_cells(found, target, weight):
    return ((found - target).square().sum((2, 3)) * weight).mean()


@wrong_answer("07.6", says="NaN|0, not")
def loss_of_chosen(found, target, weight):
    chosen = (found - target)[weight > 0].square().mean()
    return chosen * weight.mean()


# ---------------------------------------------------------------------------------------------- 07.7 layer-wise decay
NAMES = ["encoder.pos_embed", "encoder.patch_embed.proj.bias", "encoder.norm.weight", "head.deconvs.0.weight"]
NAMES += ["head.convs.1.weight"] + [f"encoder.blocks.{n}.attn.qkv.weight" for n in (0, 1, 10, 11)]
NAMES += ["encoder.blocks.3.norm1.weight", "encoder.blocks.10.mlp.fc1.bias"]


def rates(shift: int = 0, embed: int = 0, head: int = 13) -> dict[str, float]:
    """The rates of NAMES for 12 blocks, lr 1 and decay 0.5; block i counts as i + 1 + shift."""
    blocks = {name: int(found[1]) + 1 + shift for name in NAMES if (found := re.search(r"blocks\.(\d+)\.", name))}
    layers = {name: embed if "embed" in name else head for name in NAMES} | blocks
    return {name: 0.5 ** (13 - layers[name]) for name in NAMES}


@check_for("07.7")
def learning_rates(answer):
    found = answer(list(NAMES), 12, 1.0, 0.5)
    expect_type(found, dict, "the learning rates")
    expect_equal(set(found), set(NAMES), "the names")
    mistakes = {
        "Block i counts as i. It counts as i + 1: before the first block there are the patches": rates(shift=-1),
        "The last norm and the head count as a block. They are above all blocks: L + 1": rates(head=12),
        "The patches and the places learn like the head: they are the lowest layer, 0": rates(embed=13),
        "It is the wrong way round: the lowest layer learns fastest": {n: 0.5**13 / r for n, r in rates().items()},
    }
    for words, mistake in mistakes.items():
        expect(any(abs(found[name] - mistake[name]) > 1e-9 for name in NAMES), words)
    ten = {name: 0.5 ** (12 - 1) for name in NAMES if "blocks.1" in name and "blocks.1." not in name}
    words = "Blocks 10 and 11 are taken for block 1: read all digits of the number, \\d+"
    expect(any(abs(found[name] - rate) > 1e-9 for name, rate in ten.items()), words)
    for name, rate in rates().items():
        expect_close(float(found[name]), rate, f"{name} of 12 blocks, lr 1, decay 0.5", atol=1e-9)
    expect_close(float(answer(["head.last.bias"], 48, 5e-4, 0.85)["head.last.bias"]), 5e-4, "the head, lr 5e-4")


def layered(names, depth, lr, decay, block):
    """Learning rates where `block(name)` is the layer of a name with a block in it."""
    layers = {name: 0 if "embed" in name else depth + 1 for name in names}
    layers |= {name: block(name) for name in names if "blocks." in name}
    return {name: lr * decay ** (depth + 1 - layer) for name, layer in layers.items()}


@wrong_answer("07.7", says="counts as i \\+ 1")
def rates_one_too_low(names, depth, lr, decay):
    return layered(names, depth, lr, decay, lambda name: int(re.search(r"blocks\.(\d+)", name)[1]))


@wrong_answer("07.7", says="read all digits")
def rates_first_digit(names, depth, lr, decay):
    return layered(names, depth, lr, decay, lambda name: int(re.search(r"blocks\.(\d)", name)[1]) + 1)


@wrong_answer("07.7", says="wrong way round")
def rates_upside_down(names, depth, lr, decay):
    right = pose.learning_rates(names, depth, lr, decay)
    return {name: lr * lr * decay ** (depth + 1) / rate for name, rate in right.items()}


@wrong_answer("07.7", says="norm1")
def rates_of_norms(names, depth, lr, decay):
    return {n: lr if "norm" in n else rate for n, rate in pose.learning_rates(names, depth, lr, decay).items()}


@wrong_answer("07.7", says="above all blocks")
def rates_head_as_block(names, depth, lr, decay):
    right = pose.learning_rates(names, depth, lr, decay)
    return {name: rate * (decay if "head" in name or ".norm." in name else 1) for name, rate in right.items()}


# ------------------------------------------------------------------------------------------------------------ 07.8 OKS
@check_for("07.8")
def keypoint_similarity(answer):
    target = torch.tensor([[10.0, 20], [30.0, 25], [float("nan"), float("nan")], [12.0, 40], [8.0, 8]])
    prediction = torch.tensor([[11.0, 22], [30.5, 22], [5.0, 5], [19.0, 41], [9.0, 12]])
    visible, area = torch.tensor([True, True, False, True, False]), 400.0
    sigmas = (0.026, 0.079, 0.035, 0.107, 0.087)
    all_known = torch.tensor([True, True, False, True, True])
    squared, sigma = (prediction - target).square().sum(-1)[visible], torch.tensor(sigmas)[visible]
    found = answer(prediction, target, visible, area, sigmas)
    mistakes = {
        "The spread is σ, not 2σ: COCO's factor is (2σ)²": torch.exp(-squared / (2 * area * sigma**2)).mean(),
        "The distance is divided by the area once more: a is in square pixels already, not its square": torch.exp(
            -squared / (2 * area**2 * (2 * sigma) ** 2)
        ).mean(),
        "The distances are not squared": torch.exp(-squared.sqrt() / (2 * area * (2 * sigma) ** 2)).mean(),
        "The sum is divided by all keypoints: only the visible ones count, above and below": torch.exp(
            -squared / (2 * area * (2 * sigma) ** 2)
        ).sum()
        / 5,
        "A point that is not visible counts: choose by `visible`, not by NaN": similarity(
            prediction, target, all_known, area, sigmas
        ).mean(),
        "The 2 before the area is missing": torch.exp(-squared / (area * (2 * sigma) ** 2)).mean(),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, torch.exp(-squared / (2 * area * (2 * sigma) ** 2)).mean(), "three of five visible, one NaN")
    expect_close(answer(target, target, visible, area, sigmas), torch.tensor(1.0), "a perfect prediction")


def similarity(prediction, target, visible, area, sigmas, power=2.0, factor=2.0):
    """OKS with another power of the area or another factor of sigma."""
    squared = (prediction - target)[visible].square().sum(-1)
    spread = (factor * torch.as_tensor(sigmas)[visible]).square()
    return torch.exp(-squared / (2 * area ** (power / 2) * spread))


@wrong_answer("07.8", says="not 2σ")
def oks_one_sigma(prediction, target, visible, area, sigmas):
    return similarity(prediction, target, visible, area, sigmas, factor=1.0).mean()


@wrong_answer("07.8", says="square pixels already")
def oks_area_squared(prediction, target, visible, area, sigmas):
    return similarity(prediction, target, visible, area, sigmas, power=4.0).mean()


@wrong_answer("07.8", says="not by NaN")
def oks_of_all_known(prediction, target, visible, area, sigmas):
    known = target.isfinite().all(-1)
    return similarity(prediction, target, known, area, sigmas).mean()


@wrong_answer("07.8", says="only the visible ones")
def oks_over_all(prediction, target, visible, area, sigmas):
    return similarity(prediction, target, visible, area, sigmas).sum() / len(visible)


@wrong_answer("07.8", says="NaN")
def oks_times_visible(prediction, target, visible, area, sigmas):
    squared = (prediction - target).square().sum(-1)
    each = torch.exp(-squared / (2 * area * (2 * torch.as_tensor(sigmas)).square()))
    return (each * visible).sum() / visible.sum()


# ------------------------------------------------------------------------------------------------- 07.9 the arithmetic
TABLE = {
    "Old": ((50.0, 70.0),) * 4 + ((40.0, 66.0),),
    "Older": ((20.0, 30.0),) * 4 + ((45.0, 61.0),),
    "Sapiens-0.3B": ((60.0, 75.0),) * 4 + ((47.5, 65.0),),
    "Sapiens-2B": ((65.0, 80.0),) * 4 + ((49.0, 70.0),),
}


@check_for("07.9")
def gain(answer):
    found = answer(TABLE, "Sapiens-0.3B", "Whole-body")
    expect_length(found, 2, "the gains in AP and AR")
    pair = tuple(float(value) for value in found)
    printed = pose.gain(pose.TABLE_3, "Sapiens-0.3B", "Whole-body")
    expect_not_close(torch.tensor(pair), printed, "These are TABLE_3's gains: look in the table that comes in")
    expect(pair[0] != -2.5, "The lowest of the others is taken, or the order is reversed: over the best one")
    expect(abs(pair[1] - 4.0) > 1e-6, "AR is compared with the row that has the best AP. Each has its own best")
    expect(
        abs(pair[0] + 1.5) > 1e-6, "Sapiens' own models are among the others: leave out names that begin with Sapiens"
    )
    expect_close(pair, (2.5, -1.0), "a table of four models, Whole-body")
    pair = tuple(float(value) for value in answer(TABLE, "Sapiens-2B", "Body"))
    expect(abs(pair[0] - 4.0) > 1e-6, "The column is not looked up: this is Whole-body again")
    expect_close(pair, (15.0, 10.0), "the same table, Body")


@wrong_answer("07.9", says="table that comes in")
def gain_in_table_3(table, model, column):
    return pose.gain(pose.TABLE_3, model, column)


@wrong_answer("07.9", says="Each has its own best")
def gain_over_one_row(table, model, column):
    place = pose.COLUMNS.index(column)
    best = max((row[place] for name, row in table.items() if not name.startswith("Sapiens")), key=lambda row: row[0])
    return tuple(own - other for own, other in zip(table[model][place], best, strict=True))


@wrong_answer("07.9", says="Sapiens' own models")
def gain_over_all(table, model, column):
    place = pose.COLUMNS.index(column)
    rows = [row[place] for row in table.values()]
    return tuple(table[model][place][i] - max(row[i] for row in rows) for i in (0, 1))


@wrong_answer("07.9", says="column is not looked up")
def gain_last_column(table, model, column):
    return pose.gain(table, model, "Whole-body")

"""The checks of chapter 12, and for each the wrong answers that it must catch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from course_lib.chapters import acae_training as acae
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_tensor,
    expect_type,
    wrong_answer,
)


# ----------------------------------------------------------------------------------------------------- 12.1 soft-argmax
def means_of(logits: Tensor, last: float | None = None) -> Tensor:
    """Soft-argmax by another way: one grid of coordinates, one sum. last: where the last cell is, 1 unless given."""
    sizes = logits.shape[2:]
    axes = [torch.arange(n) / (n - 1 if last is None else last * n) for n in sizes]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)  # (..., x y [z])
    chance = logits.flatten(2).softmax(-1)
    return chance @ grid.flatten(0, -2)


@check_for("12.1")
def soft_argmax(answer):
    flat = 3 * torch.randn(2, 3, 4, 6)
    found = answer(flat)
    expect_type(found, Tensor, "2D, 4 rows and 6 columns")
    expect_shape(found, (2, 3, 2), "2D, 4 rows and 6 columns")
    right = means_of(flat)
    expect_not_close(found, right.flip(-1), "y stands before x: the last axis of the logits is x, and x comes first")
    expect_not_close(
        found, means_of(flat, 1.0), "The last cell is at (n - 1) / n. It is at 1: linspace(0, 1, n), both ends included"
    )
    peak = torch.zeros(1, 1, 3, 3)
    peak[0, 0, 0, 2] = 1.0
    sharp = answer(peak)
    expect(
        not torch.equal(sharp, torch.tensor([[[1.0, 0.0]]])),
        "That is the arg max, one cell. Soft-argmax is the mean of all cells, each times its chance",
    )
    chances = torch.ones(1, 1, 4, 6) / 24
    expect_close(answer(chances.log() + 5), torch.tensor([[[0.5, 0.5]]]), "logits that are all the same")
    expect_close(found, right, "2D, 4 rows and 6 columns")
    deep = 3 * torch.randn(2, 3, 5, 4, 6)
    found = answer(deep)
    expect_shape(found, (2, 3, 3), "3D, 5 depths")
    expect_not_close(found, means_of(deep).flip(-1), "z stands first: the order is x, y, z")
    expect_close(found, means_of(deep), "3D, 5 depths, 4 rows and 6 columns")
    half = answer(flat.bfloat16())
    expect_tensor(half, (2, 3, 2), torch.float32, what="logits in bf16, which has 8 bits of precision: .float() first")
    free = flat.clone().requires_grad_()
    expect_gradient(answer(free), free, "the gradient")
    expect_finite(answer(500 * flat), "logits of a thousand")


@wrong_answer("12.1", says="y stands before x")
def soft_argmax_rows_first(logits):
    return acae.soft_argmax(logits).flip(-1)


@wrong_answer("12.1", says=r"linspace\(0, 1, n\)")
def soft_argmax_without_end(logits):
    return means_of(logits.float(), 1.0)


@wrong_answer("12.1", says="That is the arg max")
def hard_argmax(logits):
    return acae.soft_argmax(1e6 * logits)


@wrong_answer("12.1", says=r"bf16.*float32")
def soft_argmax_in_half(logits):
    return means_of(logits.float()).to(logits.dtype)


@wrong_answer("12.1", says="logits of a thousand")
def soft_argmax_overflows(logits):
    powers = logits.float().exp()
    chance = powers / powers.flatten(2).sum(-1).reshape(*powers.shape[:2], *[1] * (powers.ndim - 2))
    return means_of(chance.log())


# -------------------------------------------------------------------------------------------- 12.2 the reference point
def seen_skeletons() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where two skeletons of 9 joints stand; their joints relative to that; exact rays; weights, two of them 0."""
    place = torch.tensor([[0.3, -0.2, 3.0], [-1.0, 0.4, 6.0]], dtype=torch.float64)
    relative = 0.5 * torch.randn(2, 9, 3, dtype=torch.float64)
    points = relative + place[:, None]
    weight = torch.rand(2, 9, dtype=torch.float64) + 0.2
    return place, relative, points[..., :2] / points[..., 2:], weight


def by_lstsq(ray: Tensor, relative: Tensor, weight: Tensor, sign: float = -1.0) -> Tensor:
    """The weighted least squares by torch.linalg.lstsq, rows times the root of their weight. Without ridge."""
    eye = torch.eye(2, dtype=ray.dtype).expand(*ray.shape[:2], 2, 2)
    root = weight.sqrt()[..., None]
    rows = torch.cat([eye, sign * ray[..., None]], -1) * root[..., None]
    right = (ray * relative[..., 2:] - relative[..., :2]) * root
    return torch.linalg.lstsq(rows.flatten(1, 2), right.flatten(1)[..., None]).solution[..., 0]


@check_for("12.2")
def reference(answer):
    place, relative, ray, weight = seen_skeletons()
    found = answer(ray, relative, weight)
    expect_tensor(found, (2, 3), torch.float64, what="two skeletons of 9 joints, exact rays")
    expect_not_close(
        found,
        by_lstsq(ray, relative, weight, 1.0),
        "The last column has the wrong sign: r_x - x r_z = x Z - X, so that the rows are [1, 0, -x] and [0, 1, -y]",
    )
    expect_not_close(found, -place, "The right side has the wrong sign: x Z - X")
    expect_close(found, place, "two skeletons of 9 joints, exact rays")
    ray = ray + 0.02 * torch.randn_like(ray)
    ray[:, 2] += 0.8
    weight[:, 2] = 0.0
    found, right = answer(ray, relative, weight), by_lstsq(ray, relative, weight)
    ones = torch.ones_like(weight)
    expect_not_close(found, by_lstsq(ray, relative, ones), "The weights are not used: a joint with weight 0 was moved")
    expect_not_close(
        found,
        by_lstsq(ray, relative, weight.square()),
        "The weights count twice: AᵀWA, W once. (Only for lstsq one multiplies rows by the root of the weight.)",
    )
    expect_close(found, right, "inexact rays, one joint with weight 0")
    strong = answer(ray, relative, weight, 1e9)
    expect_close(strong, torch.zeros_like(strong), "a very large ridge, which must pull r to 0", atol=1e-3)
    nothing = answer(ray[:1], relative[:1], torch.zeros_like(weight[:1]), 1e-2)
    expect_close(nothing, torch.zeros_like(nothing), "all weights 0, ridge 0.01")
    free = relative.clone().requires_grad_()
    expect_gradient(answer(ray, free, weight, 1e-2), free, "the gradient")


@wrong_answer("12.2", says="last column has the wrong sign")
def reference_sign(ray, relative, weight, ridge=0.0):
    return by_lstsq(ray, relative, weight, 1.0)


@wrong_answer("12.2", says="weights are not used")
def reference_unweighted(ray, relative, weight, ridge=0.0):
    return acae.solve_reference(ray, relative, torch.ones_like(weight), ridge)


@wrong_answer("12.2", says="count twice")
def reference_weights_twice(ray, relative, weight, ridge=0.0):
    return acae.solve_reference(ray, relative, weight.square(), ridge)


@wrong_answer("12.2", says="very large ridge")
def reference_without_ridge(ray, relative, weight, ridge=0.0):
    return acae.solve_reference(ray, relative, weight)


@wrong_answer("12.2", says="right side has the wrong sign")
def reference_right_side(ray, relative, weight, ridge=0.0):
    return -acae.solve_reference(ray, relative, weight, ridge)


# ------------------------------------------------------------------------------------------------------ 12.3 by name
JOINTS = ("pelv_h36m", "lsho_h36m", "rsho_h36m", "lsho_coco", "rsho_coco", "head_smpl", "headtop_coco", "lsho_smpl")


@check_for("12.3")
def by_name(answer):
    found = answer(JOINTS, ("lsho", "pelv", "head"))
    expect_type(found, Tensor, "three names")
    expect_shape(found, (3, 8), "three names, eight joints")
    expect(
        not bool((found.sum(1) > 1.5).any()),
        f"The row of lsho sums to {float(found[0].sum()):g}: a mean, not a sum. Divide by the number of joints",
    )
    expect(float(found[2, 6]) == 0, "headtop_coco counts as a head: compare the whole name before the underscore")
    expect(
        not bool(found[0, [2, 4]].any()), "A right shoulder counts as a left one: the first letter belongs to the name"
    )
    expect(
        int((found[0] > 0).sum()) == 3,
        f"lsho is the mean of {int((found[0] > 0).sum())} joints. Three skeletons have a left shoulder",
    )
    right = torch.zeros(3, 8)
    right[0, [1, 3, 7]], right[1, 0], right[2, 5] = 1 / 3, 1.0, 1.0
    expect_close(found, right, "lsho, pelv, head")
    expect_raises(lambda: answer(JOINTS, ("lsho", "tail")), ValueError, "a name that no skeleton has, tail")


@wrong_answer("12.3", says="not a sum")
def names_summed(names, wanted):
    return torch.tensor([[float(name.split("_")[0] == want) for name in names] for want in wanted])


@wrong_answer("12.3", says="headtop_coco counts as a head")
def names_by_prefix(names, wanted):
    rows = torch.tensor([[float(name.startswith(want)) for name in names] for want in wanted])
    return rows / rows.sum(1, keepdim=True)


@wrong_answer("12.3", says="Three skeletons")
def names_first_only(names, wanted):
    rows = torch.zeros(len(wanted), len(names))
    for row, want in enumerate(wanted):
        rows[row, [name.split("_")[0] for name in names].index(want)] = 1.0
    return rows


@wrong_answer("12.3", says="no skeleton has, tail")
def names_without_error(names, wanted):
    rows = names_summed(names, wanted)
    return rows / rows.sum(1, keepdim=True).clamp(min=1)


@wrong_answer("12.3", says="right shoulder")
def names_without_side(names, wanted):
    rows = [[float(name.split("_")[0][1:] == want[1:]) for name in names] for want in wanted]
    return torch.tensor(rows) / torch.tensor(rows).sum(1, keepdim=True)


# ----------------------------------------------------------------------------------------------------- 12.4 the teacher
class Halves(nn.Module):
    """An autoencoder for a check: 4 points to 2 means of two and back."""

    def encode(self, points: Tensor) -> Tensor:
        return (points[:, 0::2] + points[:, 1::2]) / 2

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(2, 1)


def taught() -> tuple:
    crop = acae.Crop(64, 16)
    K = torch.tensor([[80.0, 0, 32], [0, 80, 32], [0, 0, 1]]).expand(3, 3, 3)
    place = torch.tensor([0.0, 0.0, 4.0])
    latents, points = 0.3 * torch.randn(3, 2, 3) + place, 0.3 * torch.randn(3, 4, 3) + place
    return latents, points, Halves(), K, crop, torch.ones(()), torch.tensor([True, False, True])


@check_for("12.4")
def teacher(answer):
    latents, points, autoencoder, K, crop, after, rows = taught()
    latents.requires_grad_(), points.requires_grad_()
    found = answer(latents, points, autoencoder, K, crop, after, rows)
    expect_tensor(found, (), torch.float32, what="the loss of three examples")
    every = torch.ones(3, 2, dtype=torch.bool)
    target = autoencoder.encode(points).detach()
    decoded = acae.pose_loss(autoencoder.decode(latents), points.detach(), every.repeat(1, 2), K, crop, after)
    mistakes = {
        "`rows` is not used: example 1 doesn't count": acae.pose_loss(latents, target, every, K, crop, after),
        "The student is decoded and compared with the teacher's points. Compare latents: encode the teacher": decoded,
        "The weight `after` isn't handed on: the absolute loss is on when it is 0": torch.tensor(float("nan")),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    (gradient,) = torch.autograd.grad(found, points, retain_graph=True, allow_unused=True)
    expect(
        gradient is None or not bool(gradient.any()),
        "A gradient reaches the teacher: the student's errors would change it. Stop it with .detach()",
    )
    expect_gradient(found, latents, "the gradient of the student")
    valid = rows[:, None].expand(3, 2)
    expect_close(found, acae.pose_loss(latents, target, valid, K, crop, after), "examples 0 and 2 of three")
    early = answer(latents, points, autoencoder, K, crop, torch.zeros(()), rows)
    right = acae.pose_loss(latents, target, valid, K, crop, torch.zeros(()))
    expect_close(early, right, "with `after` 0, when the absolute loss is still off")
    nobody = answer(latents, points, autoencoder, K, crop, after, torch.zeros(3, dtype=torch.bool))
    expect_close(nobody, torch.zeros(()), "a batch in which no example counts")


@wrong_answer("12.4", says="A gradient reaches the teacher")
def teacher_without_stop(latents, points, autoencoder, K, crop, after, rows):
    valid = rows[:, None].expand(latents.shape[:2])
    return acae.pose_loss(latents, autoencoder.encode(points), valid, K, crop, after)


@wrong_answer("12.4", says="no gradient flows")
def teacher_stops_the_student(latents, points, autoencoder, K, crop, after, rows):
    return acae.teacher_loss(latents.detach(), points, autoencoder, K, crop, after, rows) + 0 * points.sum()


@wrong_answer("12.4", says="`rows` is not used")
def teacher_on_all(latents, points, autoencoder, K, crop, after, rows):
    return acae.teacher_loss(latents, points, autoencoder, K, crop, after, torch.ones_like(rows))


@wrong_answer("12.4", says="still off")
def teacher_always_absolute(latents, points, autoencoder, K, crop, after, rows):
    return acae.teacher_loss(latents, points, autoencoder, K, crop, torch.ones(()), rows)


@wrong_answer("12.4", says="Compare latents")
def teacher_on_decoded(latents, points, autoencoder, K, crop, after, rows):
    every = torch.ones(points.shape[:2], dtype=torch.bool)
    return acae.pose_loss(autoencoder.decode(latents), points.detach(), every, K, crop, after)


# ------------------------------------------------------------------------------------------------------ 12.5 Ghost BN
def one_by_one(x: Tensor, sizes: list[int]) -> tuple[Tensor, nn.BatchNorm2d]:
    """torch's BatchNorm2d on each part of the batch, one after the other, and the layer afterwards."""
    layer = nn.BatchNorm2d(x.shape[1], eps=acae.NORM_EPSILON)
    return torch.cat([layer(part) for part in x.split(sizes)]), layer


@check_for("12.5")
def ghost(answer):
    x = torch.randn(6, 3, 4, 5) + torch.arange(6)[:, None, None, None]
    layer = acae.GhostBatchNorm2d(3, 2)
    found = answer(layer, x)
    expect_type(found, Tensor, "6 examples in parts of 2")
    expect_shape(found, x.shape, "6 examples in parts of 2")
    right, own = one_by_one(x, [2, 2, 2])
    expect_not_close(found, one_by_one(x, [6])[0], "The whole batch was normalised at once: split it into self.sizes")
    every_third = torch.empty_like(x)
    for first in range(3):
        every_third[first::3] = one_by_one(x[first::3], [2])[0]
    expect_not_close(
        found, every_third, "Examples 0 and 3 share a part. Parts are runs of neighbours: 0 and 1, 2 and 3, …"
    )
    expect_close(found, right, "6 examples in parts of 2")
    expect_not_close(layer.running_mean, torch.zeros(3), "The stored mean was not updated")
    expect_not_close(
        layer.running_mean, 0.1 * x.mean((0, 2, 3)), "The stored mean was updated once. Each part updates it in turn"
    )
    expect_close(layer.running_mean, own.running_mean, "the stored mean after 3 parts")
    expect_close(layer.running_var, own.running_var, "the stored variance after 3 parts")
    layer.eval(), own.eval()
    before = layer.running_mean.clone()
    found = answer(layer, x)
    expect_close(found, own(x), "inference mode: the stored statistics")
    expect_close(layer.running_mean, before, "the stored mean, which inference must leave alone")
    uneven = acae.GhostBatchNorm2d(3, (2, 1))
    with torch.no_grad():
        uneven.weight.copy_(torch.tensor([1.0, 2.0, 3.0])), uneven.bias.fill_(0.5)
    right = uneven.weight[:, None, None] * one_by_one(x, [4, 2])[0] + 0.5
    expect_close(answer(uneven, x), right.detach(), "shares (2, 1) of 6: parts of 4 and 2, with a weight and a bias")


@wrong_answer("12.5", says="whole batch was normalised at once")
def ghost_is_normal(self, x):
    return nn.BatchNorm2d.forward(self, x)


@wrong_answer("12.5", says="Examples 0 and 3 share a part")
def ghost_strided(self, x):
    if not self.training or not isinstance(self.group, int):
        return acae.GhostBatchNorm2d.forward(self, x)
    parts = torch.empty_like(x)
    count = len(self.sizes(len(x)))
    for first in range(count):
        parts[first::count] = nn.BatchNorm2d.forward(self, x[first::count])
    return parts


@wrong_answer("12.5", says="not updated")
def ghost_without_memory(self, x):
    stored = (None, None) if self.training else (self.running_mean, self.running_var)
    parts = x.split(self.sizes(len(x)) if self.training else len(x))
    return torch.cat(
        [batch_norm(part, *stored, self.weight, self.bias, self.training, 0.1, self.eps) for part in parts]
    )


@wrong_answer("12.5", says="updated once")
def ghost_updates_once(self, x):
    if not self.training:
        return acae.GhostBatchNorm2d.forward(self, x)
    parts = [
        batch_norm(part, None, None, self.weight, self.bias, True, 0.1, self.eps)
        for part in x.split(self.sizes(len(x)))
    ]
    nn.BatchNorm2d.forward(self, x)
    return torch.cat(parts)


@wrong_answer("12.5", says="inference mode")
def ghost_always_trains(self, x):
    stored = self.running_mean, self.running_var
    parts = x.split(self.sizes(len(x)))
    return torch.cat([batch_norm(part, *stored, self.weight, self.bias, True, 0.1, self.eps) for part in parts])

"""The checks of chapter 12, and for each the wrong answers that it must catch."""

import math
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from course_lib.chapters import acae_training as acae
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_gradient,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_tensor,
    expect_type,
    expect_unchanged,
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
    sizes = torch.tensor([6.0, 4.0])
    expect_not_close(
        found,
        (right * (sizes - 1) + 0.5) / sizes,
        "The cells are at (i + 1/2) / n. 0 and 1 are the middles of the first and last cell: linspace(0, 1, n)",
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
    expect_close(half, means_of(flat.bfloat16().float()), "logits in bf16: .float() before the softmax, not after it")
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


@wrong_answer("12.1", says="before the softmax, not after")
def soft_argmax_of_half(logits):
    chance = logits.flatten(2).softmax(-1).float()
    return means_of(chance.log().unflatten(2, logits.shape[2:]))


@wrong_answer("12.1", says="middles of the first and last cell")
def soft_argmax_of_square(logits):
    sizes = torch.tensor(logits.shape[:1:-1])
    return (acae.soft_argmax(logits) * (sizes - 1) + 0.5) / sizes


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
    """The weighted least squares by torch.linalg.lstsq, rows times the root of their weight. Without ridge.

    weight: (B, J), or (B, J, 2) for one a row."""
    eye = torch.eye(2, dtype=ray.dtype).expand(*ray.shape[:2], 2, 2)
    root = weight.sqrt() if weight.ndim == 3 else weight.sqrt()[..., None]
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
    expect_not_close(
        found,
        by_lstsq(ray, relative, weight.repeat(1, 2).unflatten(1, (-1, 2))),
        "The weights meet other joints' rows. A joint's two rows stand together: repeat_interleave(2, 1), not repeat",
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


@wrong_answer("12.2", says="two rows stand together")
def reference_weights_repeated(ray, relative, weight, ridge=0.0):
    return by_lstsq(ray, relative, weight.repeat(1, 2).unflatten(1, (-1, 2)))


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
    expect(found.requires_grad, "No gradient reaches the student: detach the target only, and use no no_grad()")
    every, valid = torch.ones(3, 2, dtype=torch.bool), rows[:, None].expand(3, 2)
    never = torch.zeros(())
    target = autoencoder.encode(points).detach()
    decoded = acae.pose_loss(autoencoder.decode(latents), points.detach(), every.repeat(1, 2), K, crop, after)
    mistakes = {
        "`rows` is not used: example 1 doesn't count": acae.pose_loss(latents, target, every, K, crop, after),
        "The student is decoded and compared with the teacher's points. Compare latents: encode the teacher": decoded,
        "The absolute loss is missing: hand `after` on to pose_loss": acae.pose_loss(
            latents, target, valid, K, crop, never
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    teachers, students = torch.autograd.grad(found, (points, latents), retain_graph=True, allow_unused=True)
    reached = teachers is not None and bool(teachers.any())
    expect(
        not reached or students is not None,
        "The gradient is stopped on the wrong side: .detach() belongs on the encoder's answer, not on the latents",
    )
    expect(
        not reached,
        "A gradient reaches the teacher: the student's errors would change it. Stop it with .detach()",
    )
    expect_gradient(found, latents, "the gradient of the student")
    expect_close(found, acae.pose_loss(latents, target, valid, K, crop, after), "examples 0 and 2 of three")
    early = answer(latents, points, autoencoder, K, crop, never, rows)
    expect_not_close(
        early,
        acae.pose_loss(latents, target, valid, K, crop, after),
        "With `after` 0 the absolute loss is still off, but here it counts: hand `after` on to pose_loss",
    )
    right = acae.pose_loss(latents, target, valid, K, crop, never)
    expect_close(early, right, "with `after` 0, when the absolute loss is still off")
    far = (latents + torch.tensor([0.0, 0.0, 10.0])).detach().requires_grad_()
    beyond = answer(far, points, autoencoder, K, crop, after, rows)
    expect_not_close(
        beyond,
        acae.pose_loss(target, far.detach(), valid, K, crop, after),
        "The sides are exchanged: the student is the prediction and comes first, the teacher is the label",
    )
    expect_close(beyond, acae.pose_loss(far, target, valid, K, crop, after), "a student that is 10 m too far away")
    nobody = answer(latents, points, autoencoder, K, crop, after, torch.zeros(3, dtype=torch.bool))
    expect_close(nobody, torch.zeros(()), "a batch in which no example counts")


@wrong_answer("12.4", says="A gradient reaches the teacher")
def teacher_without_stop(latents, points, autoencoder, K, crop, after, rows):
    valid = rows[:, None].expand(latents.shape[:2])
    return acae.pose_loss(latents, autoencoder.encode(points), valid, K, crop, after)


@wrong_answer("12.4", says="no gradient flows")
def teacher_stops_the_student(latents, points, autoencoder, K, crop, after, rows):
    return acae.teacher_loss(latents.detach(), points, autoencoder, K, crop, after, rows) + 0 * points.sum()


@wrong_answer("12.4", says="detach the target only")
def teacher_without_gradients(latents, points, autoencoder, K, crop, after, rows):
    with torch.no_grad():
        return acae.teacher_loss(latents, points, autoencoder, K, crop, after, rows)


@wrong_answer("12.4", says="not on the latents")
def teacher_stops_the_wrong_side(latents, points, autoencoder, K, crop, after, rows):
    return teacher_without_stop(latents.detach(), points, autoencoder, K, crop, after, rows)


@wrong_answer("12.4", says="teacher is the label")
def teacher_as_prediction(latents, points, autoencoder, K, crop, after, rows):
    valid = rows[:, None].expand(latents.shape[:2])
    return acae.pose_loss(autoencoder.encode(points).detach(), latents, valid, K, crop, after)


@wrong_answer("12.4", says="absolute loss is missing")
def teacher_never_absolute(latents, points, autoencoder, K, crop, after, rows):
    return acae.teacher_loss(latents, points, autoencoder, K, crop, torch.zeros(()), rows)


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
    shared = acae.GhostBatchNorm2d(3, (3, 1)).eval()
    try:
        found = answer(shared, x[:5])
    except ValueError:
        expect(
            False, "5 examples, shares (3, 1), inference mode: ValueError. Split in training only, where self.training"
        )
    expect_close(found, shared(x[:5]), "5 examples, shares (3, 1), inference mode")
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


@wrong_answer("12.5", says="Split in training only")
def ghost_always_splits(self, x):
    stored = self.running_mean, self.running_var
    parts = x.split(self.sizes(len(x)))
    return torch.cat(
        [batch_norm(part, *stored, self.weight, self.bias, self.training, 0.1, self.eps) for part in parts]
    )


@wrong_answer("12.5", says="inference mode")
def ghost_always_trains(self, x):
    stored = self.running_mean, self.running_var
    parts = x.split(self.sizes(len(x)))
    return torch.cat([batch_norm(part, *stored, self.weight, self.bias, True, 0.1, self.eps) for part in parts])


# ----------------------------------------------------------------------------------------- 12.6 interleaving the queues
def furthest(order: list[str], counts: dict[str, int]) -> tuple[float, int, str]:
    """How far a data set is from its due share at worst, after how many places, and which."""
    total, worst = len(order), (0.0, 0, "")
    for name, number in counts.items():
        for place in range(1, total + 1):
            off = abs(order[:place].count(name) - place * number / total)
            worst = max(worst, (off, place, name))
    return worst


@check_for("12.6")
def interleaving(answer):
    for counts in ({"A": 5, "b": 1, "c": 1, "d": 1, "e": 1}, {"a": 3, "b": 2}, {"only": 4}, acae.BATCHES["full"]):
        given = dict(counts)
        order = answer(counts)
        what = "the order for " + (str(counts) if len(counts) < 6 else "Table S1's Full")
        expect_type(order, list, what)
        expect_equal(counts, given, "the dictionary of counts, after the call")
        expect(len(order) == sum(counts.values()), f"{what}: {len(order)} places, {sum(counts.values())} were expected")
        for name, number in counts.items():
            expect(order.count(name) == number, f"{what}: {name!r} comes {order.count(name)} times, not {number}")
        blocks = [name for name, number in counts.items() for _ in range(number)]
        if len(counts) > 1:
            expect(order != blocks, f"{what}: one data set comes after the other. Take turns")
        off, place, name = furthest(order, counts)
        expect(
            off < 1,
            f"{what} is not even: after {place} places {name!r} has come {order[:place].count(name)} times, "
            f"{place * counts[name] / len(order):.2f} are due: that is off by one or more",
        )
        expect(order == answer(counts), f"{what} is another one the second time: nothing random here")
    simple = answer({"A": 3, "b": 1})
    expect_equal(simple, ["A", "b", "A", "A"], "the order for {'A': 3, 'b': 1}: first due, first come")
    equals = answer({"b": 1, "a": 1})
    expect_equal(
        equals, ["b", "a"], "the order for {'b': 1, 'a': 1}: of equals take the first in `counts`, not by name"
    )


@wrong_answer("12.6", says="one data set comes after the other")
def interleave_blocks(counts):
    return [name for name, number in counts.items() for _ in range(number)]


@wrong_answer("12.6", says="not even: after")
def interleave_round_robin(counts):
    left, order = dict(counts), []
    while any(left.values()):
        for name in left:
            if left[name]:
                left[name] -= 1
                order.append(name)
    return order


@wrong_answer("12.6", says="not even: after")
def interleave_by_middles(counts):
    places = [((k + 0.5) / number, name) for name, number in counts.items() for k in range(number)]
    return [name for _, name in sorted(places, key=lambda pair: pair[0])]


@wrong_answer("12.6", says="first in `counts`, not by name")
def interleave_by_name(counts):
    return acae.interleave({name: counts[name] for name in sorted(counts)})


@wrong_answer("12.6", says="places, 9 were expected")
def interleave_once(counts):
    return list(counts)


@wrong_answer("12.6", says="another one the second time|not even")
def interleave_shuffled(counts):
    return np.random.permutation([name for name, number in counts.items() for _ in range(number)]).tolist()


# ------------------------------------------------------------------------------------------------- 12.7 the schedule
@check_for("12.7")
def schedule(answer):
    start = answer(0, 1000)
    expect_close(start, acae.PEAK, "the rate of the initial training at step 0", atol=0)
    expect_close(answer(0, 1000, "head", 1.0), 1.0, "the rate of the head at step 0 with peak 1: is `peak` used?")
    before, after, end = (answer(step, 1000, "initial", 1.0) for step in (919, 920, 1000))
    full = 3 ** -(919 / 1000)
    expect(
        not math.isclose(before, full, rel_tol=1e-3),
        f"at step 919 of 1,000 the rate is {before:.4f}: the factor of 3 is spread over the whole run. It is over the "
        "first 92 %",
    )
    expect_close(before, 3 ** -(919 / 920), "the rate just before the drop at 92 %", atol=0)
    expect(
        not math.isclose(after, 1 / 10, rel_tol=1e-3),
        "at the drop the rate is b / 10: that forgets that it had decayed to b / 3 before. From there by 10: b / 30",
    )
    expect(not math.isclose(after, 1 / 3, rel_tol=2e-3), "at 92 % nothing drops yet: `<`, not `<=`")
    expect_close(after, 1 / 30, "the rate at the drop", atol=0)
    expect(
        not math.isclose(end, 1 / 30 * 3 ** -(80 / 920), rel_tol=1e-3),
        "after the drop the rate decays as slowly as before. It decays by 3 once more, over what is left of the run",
    )
    expect_close(end, 1 / 90, "the rate at the end", atol=0)
    expect_close(answer(250, 1000, "head", 1.0), 3**-0.5, "the rate of the head after a quarter", atol=0)
    expect_close(answer(750, 1000, "head", 1.0), 3**-1.5 / 10, "the rate of the head after three quarters", atol=0)
    for step, expected in ((0, 1 / 30), (500, 3**-0.5 / 30), (1000, 1 / 90)):
        what = f"the rate of the backbone at step {step:,} of 1,000: the last segment of the initial schedule alone"
        expect_close(answer(step, 1000, "backbone", 1.0), expected, what, atol=0)
    expect_raises(lambda: answer(0, 1000, "neck"), ValueError, "an unknown part")


def with_parts(formula):
    """A wrong schedule out of a formula of share, drop and peak."""

    def rate(step, steps, part="initial", peak=2.12e-4):
        if part not in acae.DROP_AT:
            raise ValueError(part)
        return formula(step / steps, acae.DROP_AT[part], peak)

    return rate


@wrong_answer("12.7", says="spread over the whole run")
def decays_over_everything(step, steps, part="initial", peak=2.12e-4):
    rate = with_parts(lambda share, drop, b: b * 3**-share if share < drop else b / 10 * 3 ** -(share + 1))
    return rate(step, steps, part, peak)


@wrong_answer("12.7", says="b / 10: that forgets")
def drops_from_the_peak(step, steps, part="initial", peak=2.12e-4):
    def formula(share, drop, b):
        return b * 3 ** -(share / drop) if share < drop else b / 10 * 3 ** -((share - drop) / (1 - drop))

    return with_parts(formula)(step, steps, part, peak)


@wrong_answer("12.7", says="as slowly as before")
def one_decay(step, steps, part="initial", peak=2.12e-4):
    def formula(share, drop, b):
        return b * 3 ** -(share / (drop or 1)) * (1 if share < drop else 0.1)

    return with_parts(formula)(step, steps, part, peak)


@wrong_answer("12.7", says="is `peak` used")
def ignores_the_peak(step, steps, part="initial", peak=2.12e-4):
    return acae.learning_rate(step, steps, part)


@wrong_answer("12.7", says="unknown part")
def takes_any_part(step, steps, part="initial", peak=2.12e-4):
    return acae.learning_rate(step, steps, part if part in acae.DROP_AT else "head", peak)


# ------------------------------------------------------------------------------------------------------- 12.8 thinning
def track(*places: float) -> Tensor:
    """A motion (T, 2, 3) whose first joint stands still and whose second is at these places, millimetres."""
    points = torch.zeros(len(places), 2, 3)
    points[:, 1, 0] = torch.tensor(places) / 1000
    return points


@check_for("12.8")
def thinning(answer):
    slow = track(0, 60, 120, 180, 240, 300)
    before = slow.clone()
    found = answer(slow)
    expect_type(found, list, "the frames that are kept")
    expect_unchanged(slow, before, "the motion")
    expect(found != [], "no frame of 6 is kept. The first always is")
    expect(
        found != [0],
        "somebody who moves 60 mm a frame is kept in the first frame only. Compare with the last frame that was "
        "*kept*, and every joint by itself: one that has moved is enough",
    )
    expect(
        found != [0, 4],
        "somebody who moves one of two joints by 60 mm a frame is kept in frames 0 and 4 only. Don't take the mean "
        "over joints: one that has moved is enough",
    )
    expect(found[0] == 0, f"the frames {found} are kept of a slow motion: the first is missing")
    expect_equal(found, [0, 2, 4], "the frames kept of a motion of 60 mm a frame")
    expect_equal(
        answer(track(0, 125, 0, 62.5, 250)), [0, 1, 2, 4], "the frames kept of a joint at 0, 125, 0, 62.5, 250 mm"
    )
    exact = torch.zeros(2, 2, 3, dtype=torch.float64)
    exact[1, 0, 2] = 0.125
    expect_equal(answer(exact, 0.125), [0, 1], "a joint that moved by exactly the reach: `>=`")
    expect_equal(answer(track(0, 0, 0)), [0], "the frames kept of somebody who stands still")
    aslant = torch.zeros(2, 2, 3)
    aslant[1, 1] = 0.08
    expect_equal(answer(aslant), [0, 1], "a joint that moved by (80, 80, 80) mm: compare a distance, not a coordinate")
    lost = track(0, 50, 150)
    lost[:, 0] = torch.nan
    expect_equal(answer(lost), [0, 2], "the frames kept where the first joint is missing (NaN)")
    expect_equal(answer(torch.zeros(0, 2, 3)), [], "the frames kept of no frames")


@wrong_answer("12.8", says=r"last frame that was \*kept\*")
def thin_by_speed(points, reach=0.1):
    moved = (points[1:] - points[:-1]).norm(dim=-1).amax(-1) >= reach
    return [0, *(moved.nonzero().flatten() + 1).tolist()]


@wrong_answer("12.8", says="the mean over joints")
def thin_by_mean(points, reach=0.1):
    kept = [0]
    for frame in range(1, len(points)):
        if (points[frame] - points[kept[-1]]).norm(dim=-1).mean() >= reach:
            kept.append(frame)
    return kept


@wrong_answer("12.8", says="a distance, not a coordinate")
def thin_by_coordinate(points, reach=0.1):
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        if ((points[frame] - points[kept[-1]]).abs() >= reach).any():
            kept.append(frame)
    return kept


@wrong_answer("12.8", says="exactly the reach")
def thin_strictly(points, reach=0.1):
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        if ((points[frame] - points[kept[-1]]).norm(dim=-1) > reach).any():
            kept.append(frame)
    return kept


@wrong_answer("12.8", says="the first is missing")
def thin_without_first(points, reach=0.1):
    return acae.thin(points, reach)[1:]


@wrong_answer("12.8", says="is missing \\(NaN\\)")
def thin_by_amax(points, reach=0.1):
    kept = [0] if len(points) else []
    for frame in range(1, len(points)):
        if (points[frame] - points[kept[-1]]).norm(dim=-1).amax() >= reach:
            kept.append(frame)
    return kept


# -------------------------------------------------------------------------------------------- 12.9 correct pose score
@check_for("12.9")
def pose_score(answer):
    target = torch.randn(4, 5, 3)
    prediction = target.clone() + torch.tensor([0.3, -0.2, 5.0])  # elsewhere in the room
    prediction[1, 2, 1] += 0.19
    prediction[2, 4, 0] += 0.21  # one joint of five
    prediction[3, 1:] += 0.15 * torch.tensor([0.0, 1.0, 0.0])
    found = answer(prediction, target, 0)
    expect_type(found, Tensor, "the scores of 4 poses")
    expect(
        found.numel() != 1,
        "one number came back for 4 poses. Give one score for each; the mean over the poses is taken later",
    )
    expect(found.shape != (4, 5), "a score for every joint came back: a pose is right if *all* of its joints are")
    expect_shape(found, (4,), "the scores of 4 poses")
    expect(found.dtype != torch.bool, "booleans came back: give 1.0 and 0.0, so that the mean is a share")
    expect(
        not (found == 0).all(),
        "no pose is right, but they are only elsewhere in the room: move both skeletons to their root joint first",
    )
    expect(
        not (found.double() - torch.tensor([1, 1, 0.8, 1], dtype=torch.float64)).abs().max() < 1e-6,
        "that is PCK, the share of joints. One joint that is too far makes the whole pose wrong",
    )
    expect(
        not (found == 1).all(), "a pose with one joint 210 mm off counts as right. It is the worst joint that counts"
    )
    expect_close(found.float(), torch.tensor([1.0, 1, 0, 1]), "the scores of 4 poses, at 200 mm")
    expect_close(answer(prediction, target, 0, 0.1).float(), torch.tensor([1.0, 0, 0, 0]), "the scores at 100 mm")
    apart = target.clone()
    apart[:, 0, 1] += 0.15
    apart[:, 1, 1] -= 0.15  # 150 mm from where they are relative to joint 3, but 300 mm relative to each other
    expect_close(
        answer(apart, target, 3).float(), torch.ones(4), "the scores with joint 3 as the root: is `root` used?"
    )
    edge = torch.zeros(1, 2, 3)
    edge[0, 1, 0] = 0.25
    expect_close(
        answer(edge, torch.zeros(1, 2, 3), 0, 0.25).float(), torch.zeros(1), "an error of exactly the threshold"
    )


@wrong_answer("12.9", says="elsewhere in the room")
def cps_absolute(prediction, target, root, threshold=0.2):
    return ((prediction - target).norm(dim=-1).amax(-1) < threshold).float()


@wrong_answer("12.9", says="worst joint that counts")
def cps_mean(prediction, target, root, threshold=0.2):
    difference = (prediction - prediction[:, [root]]) - (target - target[:, [root]])
    return (difference.norm(dim=-1).mean(-1) < threshold).float()


@wrong_answer("12.9", says="that is PCK")
def cps_is_pck(prediction, target, root, threshold=0.2):
    difference = (prediction - prediction[:, [root]]) - (target - target[:, [root]])
    return (difference.norm(dim=-1) < threshold).float().mean(-1)


@wrong_answer("12.9", says="one number came back for 4 poses")
def cps_pooled(prediction, target, root, threshold=0.2):
    return acae.correct_pose_score(prediction, target, root, threshold).mean()


@wrong_answer("12.9", says="is `root` used")
def cps_root_zero(prediction, target, root, threshold=0.2):
    return acae.correct_pose_score(prediction, target, 0, threshold)


# ------------------------------------------------------------------------------------------------------ 12.10 two means
@check_for("12.10")
def two_means(answer):
    found = answer(torch.tensor([10.0, 20, 90, 30, 200]), ["a", "b", "b", "a", "c"])
    expect_type(found, (tuple, list), "the two means")
    expect(len(found) == 2, f"{len(found)} values came back, 2 were expected: over poses, over sequences")
    first, second = (float(value) for value in found)
    expect(not math.isclose(second, 70, rel_tol=1e-5) or not math.isclose(first, 275 / 3, rel_tol=1e-5),
           "the two means have changed places: over all poses first")  # fmt: skip
    expect_close(first, 70.0, "the mean over all poses, errors 10, 20, 90, 30, 200")
    expect(
        not math.isclose(second, 70, rel_tol=1e-5),
        "both means are the same: within each sequence first, then over the *sequences*, each counting once",
    )
    expect(
        not math.isclose(second, (10 + 55 + 30 + 200) / 4, rel_tol=1e-5),
        "sequence a counts twice in a b b a c. The poses of a sequence don't have to stand together",
    )
    expect_close(second, (20 + 55 + 200) / 3, "the mean over the sequences a b b a c")
    equal = answer(torch.tensor([10.0, 20, 90, 30]), ["a", "b", "a", "b"])
    expect_close(tuple(float(value) for value in equal), (37.5, 37.5), "two sequences of equal length")


@wrong_answer("12.10", says="changed places")
def pooled_swapped(errors, sequences):
    return acae.pooled(errors, sequences)[::-1]


@wrong_answer("12.10", says="both means are the same")
def pooled_weighted(errors, sequences):
    sums = [errors[[one == name for one in sequences]].sum() for name in dict.fromkeys(sequences)]
    return errors.mean().item(), (torch.stack(sums).sum() / len(errors)).item()


@wrong_answer("12.10", says="don't have to stand together")
def pooled_runs(errors, sequences):
    runs = [list(run) for _, run in groupby(range(len(errors)), key=lambda pose: sequences[pose])]
    return errors.mean().item(), torch.stack([errors[run].mean() for run in runs]).mean().item()

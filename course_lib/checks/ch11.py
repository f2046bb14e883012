"""The checks of chapter 11, and for each the wrong answers that it must catch."""

import torch
from torch import Tensor

from course_lib.chapters import acae_skeletons as acae
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)


# ---------------------------------------------------------------------------------------- 11.1 weights that sum to one
@check_for("11.1")
def affine_weights(answer):
    free = torch.rand(5, 3) + 0.2
    free[1, 2] = -0.4
    before = free.clone()
    found = answer(free)
    expect_type(found, Tensor, "the weights of a free matrix (5, 3)")
    expect_shape(found, (5, 3), "the weights of a free matrix (5, 3)")
    expect_unchanged(free, before, "The free matrix")
    mistakes = {
        "The rows sum to one. The points that are combined run down a column: sum over axis 0": (
            free / free.sum(1, keepdim=True)
        ),
        "That is a softmax: its weights can't be negative, and an affine combination's may": free.softmax(0),
        "The columns are divided by the sum of |v|. A negative number counts as negative": (
            free / free.abs().sum(0, keepdim=True)
        ),
        "Everything is divided by one number, the sum of the whole matrix. Each column has its own": free / free.sum(),
        "What is missing to one is added to each number. Divide instead": free + (1 - free.sum(0, keepdim=True)) / 5,
        "Negative numbers are cut off. An affine combination may have them": (
            free.clamp(min=0) / free.clamp(min=0).sum(0, keepdim=True)
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, free / free.sum(0, keepdim=True), "the weights of a free matrix (5, 3)")
    source = free.clone().requires_grad_()
    expect_gradient(answer(source)[0], source, "the weights")
    empty = torch.tensor([[1.0, 2.0], [-1.0, 1.0]])
    expect_raises(lambda: answer(empty), ValueError, "a matrix with a column that sums to zero")


@wrong_answer("11.1", says="rows sum to one")
def affine_over_rows(free):
    return free / free.sum(1, keepdim=True)


@wrong_answer("11.1", says="softmax")
def affine_by_softmax(free):
    return free.softmax(0)


@wrong_answer("11.1", says="sum of \\|v\\|")
def affine_by_magnitude(free):
    return free / free.abs().sum(0, keepdim=True)


@wrong_answer("11.1", says="whole matrix")
def affine_by_total(free):
    return free / free.sum()


@wrong_answer("11.1", says="changed in place")
def affine_in_place(free):
    free /= free.sum(0, keepdim=True)
    return free


@wrong_answer("11.1", says="ValueError was expected")
def affine_without_error(free):
    return free / free.sum(0, keepdim=True)


# ------------------------------------------------------------------------------------------- 11.2 left and right alike
def blocks() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """S, Q (3, 2), X (3, 1), C (2, 2), Z (2, 1)."""
    return torch.rand(3, 2), torch.rand(3, 2), torch.rand(3, 1), torch.rand(2, 2), torch.rand(2, 1)


@check_for("11.2")
def mirror_tied(answer):
    same, other, from_middle, middle, centre = parts = blocks()
    found = answer(*parts)
    what = "3 pairs and 2 joints in the middle, 2 pairs of latents and a central one"
    expect_type(found, Tensor, what)
    expect_shape(found, (8, 5), what)

    def stacked(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.cat([torch.cat(row, 1) for row in rows])

    left, right, last = (same, other, from_middle), (other, same, from_middle), (middle, middle, centre)
    mistakes = {
        "Both sides have the same rows, so a left latent is the same as a right one. Q and S change places below": (
            stacked(left, left, last)
        ),
        "Left and right have changed places: S joins left joints to left latents, so it stands top left": (
            stacked(right, left, last)
        ),
        "No joint of the other side is heard: Q is missing": (
            stacked((same, 0 * other, from_middle), (0 * other, same, from_middle), last)
        ),
        "C stands once, and beside it zeros. What is in the middle belongs to both sides: [C, C, Z]": (
            stacked(left, right, (middle, 0 * middle, centre))
        ),
        "X has another sign on the right. It is a matrix of weights, not a coordinate: nothing changes its sign": (
            stacked(left, (other, same, -from_middle), last)
        ),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    swap, turn = [3, 4, 5, 0, 1, 2, 6, 7], [2, 3, 0, 1, 4]
    expect_close(
        found[swap][:, turn], found, f"{what}: left and right exchanged in rows and columns must change nothing"
    )
    expect_close(found, stacked(left, right, last), what)


def tied_rows(rows):
    return torch.cat([torch.cat(row, 1) for row in rows])


@wrong_answer("11.2", says="Q and S change places")
def tied_twice_the_same(same, other, from_middle, middle, centre):
    return tied_rows([(same, other, from_middle), (same, other, from_middle), (middle, middle, centre)])


@wrong_answer("11.2", says="Q is missing")
def tied_without_other(same, other, from_middle, middle, centre):
    none = torch.zeros_like(other)
    return tied_rows([(same, none, from_middle), (none, same, from_middle), (middle, middle, centre)])


@wrong_answer("11.2", says="belongs to both sides")
def tied_middle_once(same, other, from_middle, middle, centre):
    none = torch.zeros_like(middle)
    return tied_rows([(same, other, from_middle), (other, same, from_middle), (middle, none, centre)])


@wrong_answer("11.2", says="changes its sign")
def tied_with_sign(same, other, from_middle, middle, centre):
    return tied_rows([(same, other, from_middle), (other, same, -from_middle), (middle, middle, centre)])


@wrong_answer("11.2", says="stands top left")
def tied_crossed(same, other, from_middle, middle, centre):
    return tied_rows([(other, same, from_middle), (same, other, from_middle), (middle, middle, centre)])


# ------------------------------------------------------------------------------------- 11.3 on the plane at mean depth
def poses() -> tuple[Tensor, Tensor]:
    """Two poses of four joints in front of the camera, and depths."""
    points = torch.randn(2, 4, 3) * 0.4 + torch.tensor([0.5, -0.3, 4.0])
    return points, torch.tensor([4.0, 3.5])


@check_for("11.3")
def projection(answer):
    points, depth = poses()
    before = points.clone()
    found = answer(points, depth)
    what = "two poses of four joints"
    expect_type(found, Tensor, what)
    expect(
        found.shape[-1:] != (3,),
        f"{what}: three coordinates came back. On the plane z is the same for all: leave it out",
    )
    expect_shape(found, (2, 4, 2), what)
    expect_unchanged(points, before, "The points")
    xy, z = points[..., :2], points[..., 2:]
    own = z.mean(1, keepdim=True)
    mistakes = {
        "The rays end at distance 1: multiply by the depth of the plane": xy / z,
        "x and y come back as they are, without perspective: divide by each joint's own z": xy,
        "The plane stands at the mean depth of the points given. Use the argument: it is the true pose's for both": (
            xy / z * own
        ),
        "Multiply by the depth of the plane and divide by z, not the other way round": xy * z / depth[:, None, None],
        "All joints are divided by the plane's depth. Each ray is divided by its own joint's z": xy
        / depth[:, None, None],
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, xy / z * depth[:, None, None], what)
    behind = points.clone()
    behind[0, 0, 2], behind[0, 1, 2], behind[1, 2, 2] = 0.0, -2.0, 0.01
    far = answer(behind, depth)
    expect_finite(far, "joints at z = 0, behind the camera, and 1 cm before it")
    expect_close(
        far, xy / behind[..., 2:].clamp(min=0.3) * depth[:, None, None], "joints nearer than NEAREST count as there"
    )
    one = answer(points[0], depth[0])
    expect_close(one, xy[0] / z[0] * depth[0], "one pose (4, 3) and its depth, without a batch")


@wrong_answer("11.3", says="distance 1")
def projection_at_one(points, depth):
    return points[..., :2] / points[..., 2:].clamp(min=0.3)


@wrong_answer("11.3", says="without perspective")
def projection_orthographic(points, depth):
    return points[..., :2].clone()


@wrong_answer("11.3", says="Use the argument")
def projection_own_depth(points, depth):
    z = points[..., 2:].clamp(min=0.3)
    return points[..., :2] / z * z.mean(-2, keepdim=True)


@wrong_answer("11.3", says="leave it out")
def projection_with_depth(points, depth):
    return points / points[..., 2:].clamp(min=0.3) * depth[..., None, None]


@wrong_answer("11.3", says="infinity|NearEST|nearer than NEAREST")
def projection_without_limit(points, depth):
    return points[..., :2] / points[..., 2:] * depth[..., None, None]


# ------------------------------------------------------------------------------------- 11.4 how inconsistent a pose is
def autoencoder() -> acae.AffineCombiningAutoencoder:
    return acae.AffineCombiningAutoencoder(("lsho_a", "rsho_a", "neck_a", "lsho_b", "rsho_b", "neck_b"), 2, 1)


@check_for("11.4")
def inconsistency(answer):
    model, points = autoencoder(), torch.randn(3, 6, 3) + torch.tensor([0.0, 0.0, 4.0])
    found = answer(model, points)
    expect_type(found, Tensor, "the inconsistency of three poses")
    gap = points - model(points)
    expect(found.ndim > 0, "the inconsistency of three poses: one number came back. Each pose has its own")
    expect_shape(found, (3,), "the inconsistency of three poses")
    mistakes = {
        "That is the mean of |x|, |y| and |z|. A distance is the root of the sum of squares": gap.abs().mean((-1, -2)),
        "That is the mean of *squared* distances, in square metres": gap.square().sum(-1).mean(-1),
        "That is the root of the mean square. Take each joint's distance first, then the mean": (
            gap.square().sum(-1).mean(-1).sqrt()
        ),
        "That is the sum over the joints: more joints would make a pose less consistent": gap.norm(dim=-1).sum(-1),
        "Latent points were taken for joints: decode them": (points[:, :3] - model.encode(points))
        .norm(dim=-1)
        .mean(-1),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake.detach(), words)
    expect_close(found, gap.norm(dim=-1).mean(-1), "the inconsistency of three poses")
    source = points.clone().requires_grad_()
    expect_gradient(answer(model, source), source, "the inconsistency")


@wrong_answer("11.4", says="mean of \\|x\\|")
def inconsistency_by_coordinate(model, points):
    return (points - model(points)).abs().mean((-1, -2))


@wrong_answer("11.4", says="one number came back")
def inconsistency_of_all(model, points):
    return (points - model(points)).norm(dim=-1).mean()


@wrong_answer("11.4", says="squared")
def inconsistency_squared(model, points):
    return (points - model(points)).square().sum(-1).mean(-1)


@wrong_answer("11.4", says="no gradient")
def inconsistency_detached(model, points):
    return (points - model(points.detach())).norm(dim=-1).mean(-1).detach()

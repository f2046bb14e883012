"""The checks of chapter 11, and for each the wrong answers that it must catch."""

import numpy as np
import sympy
import torch
from scipy.optimize import linprog
from torch import Tensor

from course_lib.chapters import acae_skeletons as acae
from course_lib.checks import (
    Wrong,
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_gradient,
    expect_length,
    expect_like,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_tensor,
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
    try:
        found = answer(*parts)
    except RuntimeError as error:
        if "size" not in str(error):
            raise
        raise Wrong(
            "The blocks don't fit together. X (from_middle) has a row for each pair of joints: it is right of S and Q. "
            f"C (middle) has a column for each pair of latents: it is below them, twice. PyTorch says: {error}"
        ) from None
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


@wrong_answer("11.2", says="blocks don't fit")
def tied_middle_and_from_middle_swapped(same, other, from_middle, middle, centre):
    return tied_rows([(same, other, middle), (other, same, middle), (from_middle, from_middle, centre)])


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
    expect(
        bool(torch.as_tensor(far).isfinite().all()),
        "joints at z = 0, behind the camera, and 1 cm before it: infinity or NaN came back. A z below NEAREST counts "
        "as NEAREST: put that limit on z before you divide",
    )
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


@wrong_answer("11.3", says="limit on z")
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


# -------------------------------------------------------------------------------------------------- 11.5 the two heaps
def affine_columns(rows: int = 6, columns: int = 5) -> Tensor:
    """(rows, columns) float64, columns sum to one; some weights are negative and some are zero."""
    raw = torch.randn(rows, columns, dtype=torch.float64)
    raw[1, ::2] = 0.0
    raw[0] = 4.0  # keeps the sums away from zero
    return raw / raw.sum(0)


@check_for("11.5")
def two_heaps(answer):
    weights = affine_columns()
    found = answer(weights, 0)
    expect_length(found, 2, "w_+ and w_- of weights (6, 5) along dimension 0")
    plus = torch.where(weights >= 0, weights, 0.0).sum(0)
    minus = torch.where(weights < 0, weights, 0.0).sum(0)
    for value, name in zip(found, ("w_+", "w_-"), strict=True):
        expect_like(value, plus, f"{name} of weights (6, 5) along dimension 0")
    expect_not_close(found[1], -minus, "w_- came back positive. Equation 4 adds up negative weights: their sum is <= 0")
    expect_not_close(found[0], minus, "w_+ and w_- have changed places: the non-negative weights' sum comes first")
    expect_not_close(
        found[0], plus / (weights >= 0).sum(0), "w_+ is a mean. Equation 3 has a sum: nothing is divided by a count"
    )
    expect_close(found, (plus, minus), "w_+ and w_- of weights (6, 5) along dimension 0")
    expect_close(answer(weights, 1)[1], weights.clamp(max=0).sum(1), "w_- along dimension 1")
    for index, other in enumerate(("+", "-")):
        lost = weights.clone()
        lost[2, 3] = torch.nan
        said = answer(lost, 0)[index]
        expect(said[3].isnan(), f"A NaN among the weights has vanished from w_{other}: clamp keeps it")


@wrong_answer("11.5", says="NaN")
def heaps_by_where(weights, dim):
    zero = torch.zeros_like(weights)
    return torch.where(weights >= 0, weights, zero).sum(dim), torch.where(weights < 0, weights, zero).sum(dim)


@wrong_answer("11.5", says="positive")
def heaps_of_magnitudes(weights, dim):
    return weights.clamp(min=0).sum(dim), weights.clamp(max=0).abs().sum(dim)


@wrong_answer("11.5", says="shape")
def heaps_of_everything(weights, dim):
    return weights[weights >= 0].sum(), weights[weights < 0].sum()


@wrong_answer("11.5", says="mean")
def heaps_as_means(weights, dim):
    plus, minus = weights >= 0, weights < 0
    return (weights * plus).sum(dim) / plus.sum(dim), (weights * minus).sum(dim) / minus.sum(dim).clamp(min=1)


# ------------------------------------------------------------------------------------- 11.6 l1 from the negative mass
@check_for("11.6")
def l1_by_negative_mass(answer):
    weights = affine_columns()
    found, right = answer(weights, 0), weights.abs().sum(0)
    expect_like(found, right, "the norms of weights (6, 5) along dimension 0")
    mass = -weights.clamp(max=0).sum(0)
    mistakes = {
        "The 2 is missing: a negative weight costs twice, itself and the positive weight that pays it back": 1 + mass,
        "The 1 is missing: the norm is 1 even without a negative weight": 2 * mass,
        "The sign is wrong: w_- is negative, so 1 − 2 w_- is more than 1": 1 - 2 * mass,
        "The sum runs along dimension 1; it was asked for along `dim`, here 0": answer_along_wrong(weights),
    }
    for words, mistake in mistakes.items():
        expect_not_close(found, mistake, words)
    expect_close(found, right, "the norms of weights (6, 5) along dimension 0", rtol=1e-9)
    expect_close(answer(weights.T.contiguous(), 1), right, "the norms along dimension 1", rtol=1e-9)
    convex = weights.abs() / weights.abs().sum(0)
    expect_close(answer(convex, 0), torch.ones_like(right), "without a negative weight", rtol=1e-9)
    for bad, what in ((3 * weights, "weights that sum to 3"), (weights + torch.nan, "NaN among the weights")):
        expect_raises(lambda bad=bad: answer(bad, 0), ValueError, f"{what} (keep the line with require_affine)")
    shifted = weights.requires_grad_()
    (gradient,) = torch.autograd.grad(answer(shifted, 0).sum(), shifted)
    expect(
        not gradient[weights > 0].any(),
        "The answer depends on positive weights: use the negative ones alone, as equation 10 does",
    )


def answer_along_wrong(weights: Tensor) -> Tensor:
    """Equation 10 along the other dimension: its shape is another, unless the weights are square."""
    return 1 - 2 * weights.clamp(max=0).sum(1)


def require(weights, dim):
    from course_lib.chapters.acae_skeletons import require_affine

    require_affine(weights, dim)


@wrong_answer("11.6", says="2 is missing")
def l1_once(weights, dim):
    require(weights, dim)
    return 1 + weights.clamp(max=0).sum(dim).abs()


@wrong_answer("11.6", says="more than 1")
def l1_sign(weights, dim):
    require(weights, dim)
    return 1 + 2 * weights.clamp(max=0).sum(dim)


@wrong_answer("11.6", says="depends on positive")
def l1_as_defined(weights, dim):
    require(weights, dim)
    return weights.abs().sum(dim)


@wrong_answer("11.6", says="sum to 3")
def l1_unguarded(weights, dim):
    return 1 - 2 * weights.clamp(max=0).sum(dim)


# --------------------------------------------------------------------------------------------------- 11.7 proving Eq. 9
COUNTS = ((2, 3), (1, 1), (3, 0), (4, 2), (1, 0))


def signed_symbols(p: int, q: int) -> tuple[list, list]:
    return list(sympy.symbols(f"a1:{p + 1}", nonnegative=True)), list(sympy.symbols(f"b1:{q + 1}", negative=True))


@check_for("11.7")
def proof_of_equation_9(answer):
    for p, q in COUNTS:
        positive, negative = signed_symbols(p, q)
        found = answer(list(positive), list(negative))
        what = f"{p} non-negative and {q} negative weights"
        expect_type(found, (sympy.Expr, int), what)
        found = sympy.sympify(found)
        constraint = sum(positive) + sum(negative) - 1
        if found.has(sympy.Abs):
            raise Wrong(
                f"{what}: absolute values are left, {found}. Take them before the constraint is put in: "
                "sympy knows the sign of a symbol, but not of 1 minus others"
            )
        expect(
            sympy.expand(found - constraint) != 0,
            f"{what}: {found} is left, which is the constraint itself: put it in (one weight is 1 minus all others)",
        )
        expect(
            sympy.expand(found) == 0,
            f"{what}: {found} is left, 0 was expected. Begin with ℓ1 − (1 − 2 w_-), w_- being the negative ones' sum",
        )
    positive, unknown = sympy.symbols("a", nonnegative=True), sympy.symbols("r", real=True)
    left = sympy.sympify(answer([positive], [unknown]))
    expect(
        sympy.expand(left) != 0,
        "Your proof also goes through for a weight r that was never said to be negative, and for r > 0 the equation is "
        "false. So it proves nothing: compute ℓ1 with absolute values, of all weights",
    )
    expect_raises(lambda: answer([], [sympy.Symbol("b", negative=True)]), ValueError, "negative weights alone")


@wrong_answer("11.7", says="constraint itself")
def proof_without_constraint(positive, negative):
    return (sum(abs(w) for w in [*positive, *negative]) - (1 - 2 * sum(negative))).expand()


@wrong_answer("11.7", says="absolute values are left")
def proof_constraint_first(positive, negative):
    weights = [1 - sum(positive[1:]) - sum(negative), *positive[1:], *negative]
    return (sum(abs(w) for w in weights) - (1 - 2 * sum(negative))).expand()


@wrong_answer("11.7", says="proves nothing")
def proof_by_assertion(positive, negative):
    if not positive:
        raise ValueError("none")
    return sympy.Integer(0)


@wrong_answer("11.7", says="proves nothing")
def proof_by_signs(positive, negative):
    if not positive:
        raise ValueError("none")
    difference = sum(positive) - sum(negative) - (1 - 2 * sum(negative))
    return difference.subs(positive[0], 1 - sum([*positive[1:], *negative])).expand()


# ------------------------------------------------------------------------------------------------ 11.8 a counterexample
@check_for("11.8")
def reversed_order(answer):
    found = answer()
    expect_length(found, 2, "two vectors")
    first, second = (torch.as_tensor(w) for w in found)
    for w, name in ((first, "the first vector"), (second, "the second vector")):
        expect(w.ndim == 1 and len(w) > 0, f"{name}: its shape is {tuple(w.shape)}, (n,) was expected")
        expect_tensor(w.double(), tuple(first.shape), torch.float64, what=name)
        expect(bool(w.double().isfinite().all()), f"{name} holds NaN or infinity")
    first, second = first.double(), second.double()
    sums, norms = [w.sum().item() for w in (first, second)], [w.abs().sum().item() for w in (first, second)]
    masses = [-w.clamp(max=0).sum().item() for w in (first, second)]
    rows = zip(sums, norms, masses, strict=True)
    told = ", ".join(f"sum {s:.4g}, ℓ1 {n:.4g}, negative mass {m:.4g}" for s, n, m in rows)
    expect(
        max(abs(s - 1) for s in sums) > 1e-6,
        f"Both vectors sum to one, and for those the order is never reversed: drop the constraint ({told})",
    )
    expect(
        abs(sums[0] - sums[1]) > 1e-6,
        f"Both have the same sum, and then ℓ1 = s + 2 |w_-| orders them as their negative masses do ({told})",
    )
    expect(
        not (norms[0] > norms[1] and masses[0] < masses[1]),
        f"You have it the other way round: the first shall have the smaller ℓ1, the larger negative mass ({told})",
    )
    expect(norms[0] < norms[1] - 1e-6, f"The first vector's ℓ1 is not the smaller one ({told})")
    expect(masses[0] > masses[1] + 1e-6, f"The first vector's negative mass is not the larger one ({told})")


@wrong_answer("11.8", says="order is never reversed")
def counterexample_affine():
    return torch.tensor([1.5, -0.5]), torch.tensor([0.5, 0.5])


@wrong_answer("11.8", says="same sum")
def counterexample_same_sum():
    return torch.tensor([1.0, 1.0]), torch.tensor([2.5, -0.5])


@wrong_answer("11.8", says="other way round")
def counterexample_swapped():
    return torch.tensor([0.5, 0.5]), torch.tensor([0.3, -0.1])


@wrong_answer("11.8", says="negative mass is not the larger")
def counterexample_of_size_only():
    return torch.tensor([0.2, 0.3]), torch.tensor([2.0, 2.0])


# ----------------------------------------------------------------------------------------------------- 11.9 smallest l1
HULL = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0], [1.0, 0.5]])  # a box of 2 by 1 and its middle
PLACES = {(0.5, 0.4): 1.0, (2.5, 0.5): 1.5, (1.0, 1.3): 1.6, (-1.0, 0.5): 2.0}  # 1 + 2 times widths outside


@check_for("11.9")
def smallest_l1(answer):
    for place, right in PLACES.items():
        what = f"the target {place} by the corners and the middle of a box of 2 x 1"
        try:
            weights = answer(HULL.copy(), np.array(place))
        except (ValueError, TypeError) as error:
            raise Wrong(
                f"{what}: {type(error).__name__} ({error}). This target is reachable, with negative weights where it "
                "lies outside the box: the unknowns u and v are >= 0, but w = u − v need not be"
            ) from None
        expect_type(weights, (np.ndarray, Tensor), what)
        weights = np.asarray(weights, dtype=float)
        expect_equal(weights.shape, (5,), f"{what}: the shape of the weights")
        total = weights.sum()
        expect(abs(total - 1) < 1e-6, f"{what}: the weights sum to {total:.4g}, not to 1: a row of ones is missing")
        gap = np.abs(weights @ HULL - place).max()
        expect(gap < 1e-6, f"{what}: the weights combine to {(weights @ HULL).round(4)}, which is not the target")
        size = np.abs(weights).sum()
        expect(
            size < right + 1e-5,
            f"{what}: ℓ1 is {size:.4f}, but {right:.4f} is enough. Minimise Σ (u + v): ones for all 2n",
        )
    line = np.array([[0.0, 0.0], [1.0, 1.0]])
    expect_raises(lambda: answer(line, np.array([0.0, 1.0])), ValueError, "a target that is not on the points' line")


def solved(cost, rows, right, count):
    found = linprog(cost, A_eq=rows, b_eq=right)
    if not found.success:
        raise ValueError("no weights were found")
    return found.x[:count] - found.x[count:]


@wrong_answer("11.9", says="reachable, with negative weights")
def least_l1_convex_only(points, target):
    rows = np.vstack([points.T, np.ones(len(points))])
    found = linprog(np.ones(len(points)), A_eq=rows, b_eq=[*target, 1.0])  # bounds of w itself: w >= 0
    if not found.success:
        raise ValueError("no weights were found")
    return found.x


@wrong_answer("11.9", says="is enough")
def least_squares_instead(points, target):
    rows = np.vstack([points.T, np.ones(len(points))])
    found, *_ = np.linalg.lstsq(rows, np.array([*target, 1.0]), rcond=None)
    return found


@wrong_answer("11.9", says="row of ones")
def least_l1_without_sum(points, target):
    rows = points.T
    return solved(np.ones(2 * len(points)), np.hstack([rows, -rows]), target, len(points))

"""The checks of chapter 11, and for each the wrong answers that it must catch."""

import numpy as np
import sympy
import torch
from scipy.optimize import linprog
from torch import Tensor

from course_lib.checks import (
    Wrong,
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_length,
    expect_like,
    expect_not_close,
    expect_raises,
    expect_tensor,
    expect_type,
    wrong_answer,
)


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
        weights = answer(HULL.copy(), np.array(place))
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


@wrong_answer("11.9", says="no weights were found")
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

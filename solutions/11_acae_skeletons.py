# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 11: skeletons that disagree, and the autoencoder that reconciles them

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import sympy
from ipywidgets import FloatSlider, SelectionSlider, interactive
from scipy.optimize import minimize
from scipy.spatial import ConvexHull
from scipy.stats import spearmanr

from course_lib.scale import pick, scale

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% tags=["export"]
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from course_lib.exercises import check, exercise
from course_lib.study import Study

# %% [markdown]
# ## 5 Why ℓ1 removes negative weights
#
# **The question.** The autoencoder's loss has a term that looks familiar: λ times the mean magnitude of the weights. In
# a lasso such a term makes most weights zero. The paper says that here it does two things: it "results both in sparsity
# and fewer negative weights". Its supplement S6 gives the reason for the second. Is that reason right? And what about
# the first?
#
# **The idea.** Weights that sum to one are not free. Whoever wants a weight of −0.3 has to pay it back: somewhere else
# the positive weights must sum to 1.3. In magnitudes both count, 1.6 instead of 1. So *every bit of negative weight
# costs twice*, and what costs more than 1 is negative weight and nothing else. That is the whole argument. The rest of
# this section is care.
#
# **One vector stands for all.** The argument is about one output point and the weights that make it. In the encoder
# that is a latent $i$ and its weights over the $J$ joints, in the decoder a joint $j$ and its weights over the $L$
# latents:
#
# $$\sum_{j=1}^{J} w^\text{enc}_{i,j} = 1 \quad(1) \qquad\qquad \sum_{l=1}^{L} w^\text{dec}_{j,l} = 1 \quad(2)$$
#
# The paper writes the output's index first. Our matrices are (J, L) and (L, J), summed over dimension 0: what is the
# paper's row is our column. S6 writes out the encoder and says "analogously" for the decoder. We do both.
#
# ### Lines 3 and 4: two heaps
#
# $$w_{i,+} = \sum_{j\,:\,w_{i,j}\ge 0} w_{i,j} \quad(3) \qquad\qquad w_{i,-} = \sum_{j\,:\,w_{i,j}<0} w_{i,j}
# \quad(4)$$
#
# For what follows this has to be a **partition**: each weight in one heap, none in both, none in neither. For real
# numbers that is clear: the two conditions' intervals don't meet, and together they are the whole line. Floating-point
# numbers have some odd members; let us see.

# %%
from_zero, below_zero = sympy.Interval(0, sympy.oo), sympy.Interval.open(-sympy.oo, 0)
assert from_zero.union(below_zero) == sympy.S.Reals and from_zero.intersect(below_zero) == sympy.S.EmptySet

odd = torch.tensor([0.25, -0.5, 0.0, -0.0, 5e-324, -5e-324, 1e300, -1e300], dtype=torch.float64)
first, second = odd >= 0, odd < 0  # the conditions of Eq. 3 and 4
assert (first ^ second).all()  # exactly one of the two holds, for each
for value, heap in zip(odd.tolist(), first.tolist(), strict=True):
    print(f"{value:10.3g} goes to heap {'+' if heap else '−'}")
nan = torch.tensor(torch.nan)
assert not (nan >= 0) and not (nan < 0)  # the one exception: NaN is in no heap

# %% [markdown]
# Zero goes to the + heap, and so does −0.0, which floats have and which equals 0. Would the argument change if zero
# went to the other one, or to none? No: it adds 0 wherever it goes. Three ways to deal it out, on vectors that are half
# zeros:

# %%
generator = torch.Generator().manual_seed(0)
weights = torch.randn(1000, 12, generator=generator, dtype=torch.float64)
weights *= torch.rand(1000, 12, generator=generator) > 0.5  # about half of them are exactly 0
above, below = weights > 0, weights < 0
rules = {"paper: ≥, <": (weights >= 0, below), ">, ≤": (above, weights <= 0), ">, <": (above, below)}
sums = {rule: torch.stack([(weights * heap).sum(1) for heap in heaps]) for rule, heaps in rules.items()}
assert all(torch.equal(found, sums["paper: ≥, <"]) for found in sums.values())  # not nearly: equal
print(f"{(weights == 0).sum()} zeros of {weights.numel()}; w₊ and w₋ are the same by all {len(rules)} rules")

# %% [markdown]
# ### Exercise 11.5 — the two heaps  ●○○ (5 min)
#
# Write $w_+$ and $w_-$ for many vectors at once. A NaN must come through: a sum that leaves it out would hide it.
#
# <details><summary>Hint</summary>
#
# `weights[weights < 0]` forgets which vector a weight belongs to. Replace what is in the other heap by 0 instead, and
# sum along `dim`. `clamp` does it in one word, and leaves NaN as it is.
# </details>


# %% tags=["export"]
@exercise("11.5")
def signed_sums(weights: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Weights (..., n, ...) -> the sums along `dim` of the non-negative ones and of the negative ones, w_+ >= 0 and
    w_- <= 0. NaN stays NaN. ACAE supplement, Eq. 3 and 4."""
    # BEGIN SOLUTION
    return weights.clamp(min=0).sum(dim), weights.clamp(max=0).sum(dim)
    # END SOLUTION


# %%
check(signed_sums)

# %% [markdown]
# ### Lines 5 to 10
#
# Here is the argument as the paper has it. To its right is what each line rests on:
#
# $$\begin{aligned}
# w_{i,+} + w_{i,-} &= 1 && (5) && \text{each weight is in one heap, and all sum to one}\\
# \ell_1(w_{i,\cdot}) = \textstyle\sum_j |w_{i,j}| & && (6) && \text{the definition}\\
# &= w_{i,+} - w_{i,-} && (7) && \text{the signs: } |w| = w \text{ in one heap, } -w \text{ in the other}\\
# &= (1 - w_{i,-}) - w_{i,-} && (8) && \text{line 5, for } w_{i,+}\\
# &= 1 - 2\,w_{i,-} && (9) && \text{arithmetic}\\
# &= 1 + 2\,|w_{i,-}| && (10) && \text{the sign of } w_{i,-}
# \end{aligned}$$
#
# Now sympy. Let $p$ weights be non-negative and $q$ negative: symbols that are *declared* so, and about which nothing
# else is known. A line "left = right" is proven if left − right is zero. But lines 5 and 8 are no identities: they need
# $\sum_j w_j = 1$. So we ask for more than a yes. We divide left − right by the polynomial $\sum_j w_j - 1$. The rest
# must be zero, and the **quotient tells how often the line has used the constraint.**


# %%
def the_six_lines(positive, negative):
    """{number of the equation: (left, right)} for symbols that are non-negative, and negative."""
    weights = [*positive, *negative]
    w_plus, w_minus = sum(positive), sum(negative)  # Eq. 3, 4
    absolute = sum(sympy.Abs(w) for w in weights)
    return {
        5: (w_plus + w_minus, 1),
        6: (sympy.Matrix(weights).norm(1), absolute),  # the left side is sympy's own ℓ1 norm
        7: (absolute, w_plus - w_minus),
        8: (w_plus - w_minus, (1 - w_minus) - w_minus),
        9: ((1 - w_minus) - w_minus, 1 - 2 * w_minus),
        10: (1 - 2 * w_minus, 1 + 2 * sympy.Abs(w_minus)),
    }


# %%
def uses_of_the_constraint(left, right, weights):
    """left − right = quotient · (Σ w − 1) + rest -> the quotient. The rest must be zero: that is the proof."""
    difference = sympy.expand(left - right)
    assert not difference.has(sympy.Abs)  # sympy could resolve every |·| by the signs
    quotient, rest = sympy.div(difference, sum(weights) - 1, *weights)
    assert rest == 0, f"{left} = {right} does not follow"
    return quotient


def symbols(part, p, q):
    """p non-negative and q negative weights of the encoder's latent i, or of the decoder's joint j."""
    row = {"enc": "i", "dec": "j"}[part]
    name = f"w^{part}_{row},"
    return (
        [sympy.Symbol(f"{name}{k + 1}", nonnegative=True) for k in range(p)],
        [sympy.Symbol(f"{name}{p + k + 1}", negative=True) for k in range(q)],
    )


# %% [markdown]
# Every line, for encoder (the sum runs over joints) and decoder (over latents), for one to five non-negative and none
# to four negative weights:

# %%
proven = {}
for part in ("enc", "dec"):
    for p in range(1, 6):
        for q in range(5):
            positive, negative = symbols(part, p, q)
            for number, (left, right) in the_six_lines(positive, negative).items():
                uses = uses_of_the_constraint(left, right, [*positive, *negative])
                proven.setdefault((part, number), set()).add(uses)
for (part, number), uses in proven.items():
    print(f"{part}oder, Eq. {number:2d}: proven for 25 counts (p, q); the constraint was used {max(uses)} times")
assert all(uses == ({1} if number in (5, 8) else {0}) for (_, number), uses in proven.items())
assert len(proven) == 2 * 6

# %% [markdown]
# So the constraint enters twice, in line 5, which is the constraint, and in line 8, where line 5 is put in. All other
# lines are true for *any* weights. Remember this; it says what to break if one wants to break the argument. (Encoder
# and decoder differ in nothing but names. That is what the paper's "analogously" means, and now it is checked.)
#
# And $p = 0$? Then all weights are negative, their sum is negative, and it can't be one. Such a vector doesn't exist,
# and about what doesn't exist there is nothing to prove:

# %%
for q in range(1, 5):
    _, negative = symbols("enc", 0, q)
    assert (sum(negative) - 1).is_negative  # never zero: no such affine weights

# %% [markdown]
# The lines for one latent and one joint, as sympy writes them:

# %%
for part, kind in (("enc", "encoder, latent i, 3 joints"), ("dec", "decoder, joint j, 3 latents")):
    print(kind)
    for number, (left, right) in the_six_lines(*symbols(part, 1, 2)).items():
        print(f"  ({number:2d})  {left}  =  {right}".replace(f"^{part}_", "_"))

# %% [markdown]
# (sympy adds up what is alike while it builds an expression, and it resolves $|w|$ where it knows the sign. So 6, 7, 9
# and 10 look trivial here. They are. The difficulty of this argument was never in its steps.)
#
# ### For every number of weights
#
# Fifty counts are not all counts, and the paper has 555 joints. The proof for any number is one line: for every real
# number $x$
#
# $$|x| = x - 2\min(x, 0), \tag{11.11}$$
#
# and if one adds this up over all weights of a vector, whatever their number and signs, with $s = \sum_j w_j$:
#
# $$\ell_1(w) = s - 2\,w_- = s + 2\,|w_-|. \tag{11.12}$$
#
# At $s = 1$ that is line 10. It also says what remains without the constraint, and we shall need that.

# %%
x = sympy.symbols("x", real=True)
difference = sympy.Abs(x) - (x - 2 * sympy.Min(x, 0))
assert sympy.simplify(difference.rewrite(sympy.Piecewise)) == 0  # (11.11), for every real x

# %% [markdown]
# ### In numbers
#
# A proof is about real numbers, a program about floats. So: a thousand vectors of each awkward kind, in 64 bits, each
# of lines 5 to 10. "Nearly degenerate" are raw weights whose sum is almost zero: dividing by it makes weights of
# millions and more, which still sum to one, but only up to the rounding of millions. Errors are therefore given
# relative to $\ell_1$.


# %%
def random_weights(kind, count=1000, n=12, seed=0):
    """(count, n) affine weights, float64."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, n, generator=generator, dtype=torch.float64)
    if kind == "with zeros":
        raw = raw * (torch.rand(count, n, generator=generator) > 0.5)
        raw[:, 0] = 1.0  # not all of them
    if kind == "all positive":
        raw = raw.abs()
    if kind == "a single one":
        raw = torch.eye(n, dtype=torch.float64)[torch.arange(count) % n]
    if kind == "nearly degenerate":
        raw = raw - raw.mean(1, keepdim=True) + 1e-6 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return raw / raw.sum(1, keepdim=True)


# %%
KINDS = ("any signs", "with zeros", "all positive", "a single one", "nearly degenerate")
for kind in KINDS:
    w = random_weights(kind)
    assert ((w >= 0) ^ (w < 0)).all()  # a partition: each weight is counted once
    plus, minus = signed_sums(w, 1)
    l1 = torch.linalg.vector_norm(w, ord=1, dim=1)
    both = {5: (plus + minus, torch.ones(1000)), 6: (l1, w.abs().sum(1)), 7: (w.abs().sum(1), plus - minus)}
    both |= {8: (plus - minus, (1 - minus) - minus), 9: ((1 - minus) - minus, 1 - 2 * minus)}
    both |= {10: (1 - 2 * minus, 1 + 2 * minus.abs())}
    worst = {number: ((a - b).abs() / l1).max().item() for number, (a, b) in both.items()}
    assert max(worst.values()) < 1e-14 and (l1 >= 1 - 1e-12).all()
    print(f"{kind:18s} ℓ1 up to {l1.max():9.3g}, worst: " + ", ".join(f"({n}) {e:.0e}" for n, e in worst.items()))

# %% [markdown]
# The same for whole matrices, as the autoencoder has them: raw numbers divided by the sums of their columns, 555 joints
# and 48 latents.

# %%
J, L = 555, 48
generator = torch.Generator().manual_seed(1)
matrices = {}
for part, (rows, columns) in {"encoder": (J, L), "decoder": (L, J)}.items():
    raw = torch.empty(rows, columns, dtype=torch.float64).uniform_(-0.1, 1.0, generator=generator)  # the paper's start
    matrices[part] = raw / raw.sum(0)
    plus, minus = signed_sums(matrices[part], 0)
    assert ((matrices[part] >= 0) ^ (matrices[part] < 0)).all()
    gap = (matrices[part].abs().sum(0) - (1 + 2 * minus.abs())).abs().max().item()
    assert gap < 1e-13
    print(f"{part}: {columns} vectors of {rows} weights, Eq. 10 to {gap:.0e}; mean negative mass {-minus.mean():.3f}")

# %% [markdown]
# Call $m = |w_-|$ the **negative mass** of a vector: it is what we shall measure from here on.
#
# ### Exercise 11.6 — ℓ1 from the negative mass alone  ●○○ (5 min)
#
# Line 10 as a function that never looks at a positive weight. It is only true where weights sum to one, so what doesn't
# is refused first (given).
#
# <details><summary>Hint</summary>
#
# One line with `signed_sums`, or with `clamp(max=0)`. Compare with `weights.abs().sum(dim)` before you check.
# </details>


# %% tags=["export"]
def require_affine(weights: Tensor, dim: int) -> None:
    """ValueError unless the weights (floats) sum to one along `dim`, up to their rounding. NaN does not."""
    if not weights.is_floating_point():
        raise ValueError(f"the weights are {weights.dtype}: give floats")
    total, size = weights.sum(dim), weights.abs().sum(dim)
    off = (total - 1).abs()
    fine = (off <= 4 * weights.shape[dim] ** 0.5 * torch.finfo(weights.dtype).eps * size) & total.isfinite()
    if not fine.all():
        worst = total[~fine].flatten()[0].item()
        raise ValueError(f"along dimension {dim} weights sum to {worst:.4g}, not to 1: divide by their sum over it")


@exercise("11.6")
def l1_from_negative_mass(weights: Tensor, dim: int) -> Tensor:
    """Affine weights (..., n, ...) -> the ℓ1 norm along `dim`, computed from the negative ones alone. ACAE, Eq. 10.

    ValueError where the weights do not sum to one along `dim`: there it would not be the norm."""
    require_affine(weights, dim)
    # BEGIN SOLUTION
    return 1 + 2 * weights.clamp(max=0).sum(dim).abs()
    # END SOLUTION


# %%
check(l1_from_negative_mass)

# %%
for kind in KINDS:
    w = random_weights(kind, seed=2)
    assert torch.allclose(l1_from_negative_mass(w, 1), w.abs().sum(1), rtol=1e-13, atol=0)
for matrix in matrices.values():
    assert torch.allclose(l1_from_negative_mass(matrix, 0), matrix.abs().sum(0), rtol=1e-13, atol=0)

# %% [markdown]
# ### Exercise 11.7 — prove line 9 yourself  ●●○ (12 min)
#
# Not by checking the steps, but end to end: $\ell_1 = 1 - 2w_-$. Return $\ell_1 - (1 - 2 w_-)$ after the constraint has
# been put in. If your function returns 0 whatever the symbols are, it proves nothing: the check hands it a "negative"
# weight that was never declared negative, and there your answer must not be 0.
#
# <details><summary>Hint 1</summary>
#
# `abs(w)` of a symbol is sympy's `Abs(w)`, and becomes `w` or `-w` by itself where the sign is declared.
# </details>
# <details><summary>Hint 2</summary>
#
# Put in the constraint by getting rid of one weight: `difference.subs(positive[0], 1 - sum(of all others))`. The order
# matters. Of $1 - w_2 - w_3$ nobody knows the sign: take the absolute values first.
# </details>


# %% tags=["export"]
@exercise("11.7")
def equation_9_remainder(positive: list, negative: list):
    """sympy symbols that are declared non-negative (one at least), and negative ones -> the expression ℓ1 − (1 − 2 w_-)
    under Σ w = 1, expanded. Zero proves ACAE, Eq. 9, for these counts. ValueError without a non-negative one."""
    if not positive:
        raise ValueError("negative weights alone cannot sum to one: give at least one non-negative symbol")
    # BEGIN SOLUTION
    weights = [*positive, *negative]
    l1 = sum(abs(w) for w in weights)
    difference = l1 - (1 - 2 * sum(negative))
    return difference.subs(positive[0], 1 - sum(weights[1:])).expand()
    # END SOLUTION


# %%
check(equation_9_remainder)

# %%
for part in ("enc", "dec"):
    assert all(equation_9_remainder(*symbols(part, p, q)) == 0 for p in range(1, 6) for q in range(5))

# %% [markdown]
# ### Without the sum
#
# Line 8 needs the constraint. Equation 11.12 says what is left without it: $\ell_1 = s + 2|w_-|$. Now the norm has two
# parts that can be lowered, and lowering $s$ is the cheaper one: all weights shrink, the positive ones as well. *That*
# is the lasso, and it has nothing to do with signs.
#
# The paper concludes that "the ℓ1 penalty is equivalent to penalizing the absolute sum of the negative weights".
# Equivalent means: of two vectors, the one with the smaller norm has the smaller negative mass.
#
# ### Exercise 11.8 — a counterexample  ●●○ (8 min)
#
# Drop the constraint, and find two vectors for which the order is reversed: the first has the *smaller* ℓ1 norm and the
# *larger* negative mass. There are many; two numbers each are enough.
#
# <details><summary>Hint</summary>
#
# By 11.12 two vectors with the same sum are always in the right order, even if that sum isn't one. So let the sums
# differ.
# </details>


# %% tags=["export"]
@exercise("11.8")
def counterexample() -> tuple[Tensor, Tensor]:
    """Two vectors of weights (n,), not both of sum one: the first has the smaller ℓ1 norm, the larger negative mass."""
    # BEGIN SOLUTION
    return torch.tensor([0.3, -0.1]), torch.tensor([0.5, 0.5])
    # END SOLUTION


# %%
check(counterexample)

# %%
for name, w in zip(("first", "second"), counterexample(), strict=True):
    print(f"{name:6s} sum {w.sum():.2f}, ℓ1 {w.abs().sum():.2f}, negative mass {w.clamp(max=0).sum().abs():.2f}")

# %% [markdown]
# ### When is it 1? One picture for the whole argument
#
# By line 10, $\ell_1 - 1 = 2m$. So **$\ell_1 \ge 1$, and $\ell_1 = 1$ exactly when no weight is negative.** (If one is,
# the sum of the negative ones is negative: there is nothing that could balance it.) Vectors of sum one without a
# negative weight make **convex** combinations, and as a set they are called the *simplex*.

# %%
for p in range(1, 6):
    for q in range(5):
        positive, negative = symbols("enc", p, q)
        excess = 2 * sympy.Abs(sum(negative))  # ℓ1 − 1, by line 10
        assert excess.is_positive if q else excess == 0  # strictly more than 1 as soon as one weight is negative

# %% [markdown]
# In a picture: for two weights the vectors with $\ell_1 \le 1$ fill a diamond. The textbook's lasso is a line (what
# fits the data) that touches the smallest diamond in a *corner*, where one weight is zero: that is why ℓ1 makes sparse
# solutions. But our line is $w_1 + w_2 = 1$, and it is **parallel to an edge**. It touches the diamond along the whole
# edge, and no point of that edge is better than another.

# %%
BLUE, RED, GREY = "#2f6f9f", "#d1495b", "#8a8a8a"


def draw_diamonds(ax, size, line, title):
    """Two sets of equal ℓ1 norm, the smaller one touching a line."""
    for reach, alpha in ((1.5 * size, 0.12), (size, 0.35)):
        ax.fill([reach, 0, -reach, 0], [0, reach, 0, -reach], color=BLUE, alpha=alpha, lw=0)
    ax.plot(*line, color=RED, lw=2)
    ax.axhline(0, color=GREY, lw=0.6)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(title=title, xlabel="$w_1$", ylabel="$w_2$", xlim=(-1.2, 1.5), ylim=(-1.2, 1.5), aspect="equal")


def draw_plane(ax):
    """ℓ1 on the plane w_1 + w_2 + w_3 = 1, seen from the front; the triangle is the simplex."""
    corners = np.array([[0.0, 1.0], [-0.87, -0.5], [0.87, -0.5]])
    x, y = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-1.7, 2.1, 191))
    w = np.einsum("ij,jyx->iyx", np.linalg.inv(np.vstack([corners.T, np.ones(3)])), np.stack([x, y, np.ones_like(x)]))
    shown = ax.contourf(x, y, np.abs(w).sum(0), [0.999, 1.001, 1.5, 2, 3, 4, 5], cmap="Blues_r", vmin=0.6)
    ax.contour(x, y, np.abs(w).sum(0), [1.5, 2, 3, 4], colors="white", linewidths=0.8)
    ax.fill(*corners.T, facecolor="none", edgecolor="black", lw=3)
    ax.set(title="three weights of sum one", aspect="equal", xticks=[], yticks=[])
    for name, place in zip(("$w_1=1$", "$w_2=1$", "$w_3=1$"), 1.5 * corners, strict=True):
        ax.text(*place, name, ha="center", va="center", fontsize=9, color="white")
    return shown


# %%
figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained")
draw_diamonds(axes[0], 0.75, ((-0.6, 1.5), (1.05, 0.0)), "lasso: in a corner")
draw_diamonds(axes[1], 1.0, ((-0.5, 1.5), (1.5, -0.5)), "sum to one: along an edge")
axes[0].plot(0, 0.75, "o", color="black", ms=7)
axes[1].plot([1, 0], [0, 1], color="black", lw=5, solid_capstyle="round")
figure.colorbar(draw_plane(axes[2]), ax=axes[2], shrink=0.8, label="ℓ1", ticks=[1, 1.5, 2, 3, 4, 5])
plt.show()

# %% [markdown]
# *Black: where ℓ1 is smallest. Right: with three weights it is 1 on the whole triangle of convex combinations, and
# grows outside of it in rings with six sides.*
#
# ### What λ costs, in millimetres
#
# The loss doesn't have $\ell_1$ of a vector but the mean of all entries of both matrices. Let $M$ be the negative mass
# of all $L + J$ vectors together. Line 10, added up, turns the penalty into
#
# $$\lambda\,\bigl(\operatorname{mean}|W^\text{enc}| + \operatorname{mean}|W^\text{dec}|\bigr) =
# \frac{\lambda}{JL}\,\bigl(L + J + 2M\bigr). \tag{11.13}$$
#
# Two things to read off. First, there is a constant: at the paper's sizes and with λ = 0.6 (from the authors' code; S6
# names no number) the loss can never fall below 13.6 mm, however good the autoencoder is. Second, the price of negative
# mass is the same in every vector, $2\lambda/(JL)$. The error is a mean over $J$ joints, so joint $j$'s own error
# counts $1/J$ of itself. The two balance where one unit of negative mass in the joint's decoder lowers its error by
# $2\lambda/L$:

# %%
LAMBDA = 0.6  # [authors' code]
term = LAMBDA * sum(matrix.abs().mean() for matrix in matrices.values())
M = sum(-signed_sums(matrix, 0)[1].sum() for matrix in matrices.values())
assert torch.isclose(term, LAMBDA / (J * L) * (L + J + 2 * M), rtol=1e-12)  # (11.13)
constant, price = LAMBDA * (L + J) / (J * L), 2 * LAMBDA / L  # metres
print(f"constant {1000 * constant:.1f} mm, price {1000 * price:.0f} mm")
assert abs(constant - 0.0136) < 5e-5 and abs(price - 0.025) < 1e-12

# %% [markdown]
# 25 mm. A decoder will take a negative mass of 0.1 if that brings its joint closer by more than 2.5 mm (in the loss's
# own measure, the mean of two coordinates' absolute errors), and leave it otherwise. That is what λ means. And it
# depends on $L$: with another number of latents the same λ is another price.
#
# ### Where it stops acting
#
# So the penalty pulls every vector toward the simplex. What does it do *inside*? There $\ell_1$ is 1, constant. Through
# the normalisation $W_k = V_k / s$ with $s = \sum_k V_k$ (section 2) the quotient rule gives the whole force at once:
#
# $$\frac{\partial\,\ell_1(W)}{\partial V_k} = \frac{\operatorname{sign}(W_k) - \ell_1(W)}{s}. \tag{11.14}$$

# %%
for p, q in ((1, 1), (2, 1), (2, 2), (3, 0)):
    raw_plus = sympy.symbols(f"a1:{p + 1}", positive=True)
    raw_minus = sympy.symbols(f"b1:{q + 1}", negative=True)
    total = sum(raw_plus) + sum(raw_minus)  # positive, as in the paper's start
    l1 = (sum(raw_plus) - sum(raw_minus)) / total
    for raw, sign in [(a, 1) for a in raw_plus] + [(b, -1) for b in raw_minus]:
        assert sympy.simplify(sympy.diff(l1, raw) - (sign - l1) / total) == 0  # (11.14)

# %% [markdown]
# Read it. While some weight is negative, $\ell_1 = 1 + 2m$. A descent step moves a raw number against its gradient: the
# positive ones up by $2m/s$ each, which makes the negative ones a smaller share; the negative ones up by $(2 + 2m)/s$,
# toward zero. And if all weights are positive: $\operatorname{sign} - \ell_1 = 1 - 1 = 0$. **No force, on any weight,
# in any direction.** Whatever happens from here on is due to the other terms of the loss. Autograd agrees:


# %%
def force(raw):
    """The gradient of ℓ1(V / Σ V) with respect to the raw numbers V."""
    raw = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((raw / raw.sum()).abs().sum(), raw)
    return gradient


for raw in ([0.9, 0.5, -0.4], [0.9, 0.5, 0.6], [0.9, 0.5, 1e-6], [0.9, 0.5, 0.0]):
    w = torch.tensor(raw, dtype=torch.float64) / sum(raw)
    assert torch.allclose(force(raw), (w.sign() - w.abs().sum()) / sum(raw), atol=1e-14)  # (11.14)
    print(f"V = {raw}: ℓ1 = {w.abs().sum():.2f}, its gradient {[round(g, 3) + 0.0 for g in force(raw).tolist()]}")
assert force([0.9, 0.5, 0.6]).abs().max() < 1e-15 and force([0.9, 0.5, 1e-6]).abs().max() < 1e-15

# %% [markdown]
# The third vector has a weight of about a millionth. In a lasso it would be pushed to zero with full force. Here
# nothing pushes. **The penalty has no opinion about how many weights a convex combination has.** Neither S6 nor the
# identity says otherwise: what they prove is the half about negative weights.
#
# The fourth vector has a weight that *is* zero, and there the gradient is not zero. Let us look at this place.
#
# ### At zero: a kink
#
# $|x|$ has no derivative at 0. It has **sub-gradients**: all slopes of lines through that point that stay below the
# curve, here the interval $[-1, 1]$. PyTorch's `abs` takes the one in the middle, since `sign(0)` is 0. Put that into
# 11.14 for a vector whose other weights are positive ($\ell_1 = 1$): the slope of $\ell_1$ is $-2/s$ to the left of
# $V_k = 0$ (negative mass is being removed), $0$ to the right, and autograd says $-1/s$.

# %%
others, step = [0.9, 0.6], 1e-7
tried = np.linspace(-0.35, 0.35, 141)


def norm_of(value):
    raw = np.array([*others, value])
    return np.abs(raw / raw.sum()).sum()


left, right = ((norm_of(side * step) - norm_of(0.0)) / (side * step) for side in (-1, 1))
middle = force([*others, 0.0])[2].item()
print(f"slope to the left {left:.3f}, to the right {right:.3f}, autograd's {middle:.3f}; 1/s = {1 / sum(others):.3f}")
assert np.allclose([left, right, middle], [-2 / sum(others), 0, -1 / sum(others)], atol=1e-5)

# %% [markdown]
# Zero is among the sub-gradients: the point is a minimum, as it should be. But autograd's choice isn't zero. So a
# descent step takes a weight that is exactly zero *off* zero, to the positive side, where nothing brings it back. And a
# weight that comes from the negative side crosses zero by a part of a step, and stays where it lands. **Gradient
# descent makes small weights, not zero ones**; how small depends on the step. Three weights of points at 0, 1 and 2 on
# a line, that would like to reach −0.3, under a penalty that is strong enough to forbid it, with Adam and the paper's
# three learning rates one after the other:


# %%
def settle(rates, steps, points, target, price):
    """The weights of `points` (n,) after every step: |Σ w p − target| + price · ℓ1, by Adam."""
    raw = torch.ones(len(points), dtype=torch.float64, requires_grad=True)
    optimizer, path = torch.optim.Adam([raw]), []
    for rate in np.repeat(rates, steps):
        optimizer.param_groups[0]["lr"] = rate
        weights = raw / raw.sum()
        loss = (weights @ points - target).abs() + price * weights.abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(weights.detach())
    return torch.stack(path)  # (steps, n)


# %%
RATES, STEPS = (3e-2, 3e-3, 3e-4), pick(smoke=60, laptop=500)
path = settle(RATES, STEPS, torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), target=-0.3, price=1.5)
floors = [path[(k + 1) * STEPS - STEPS // 4 : (k + 1) * STEPS, 1:].abs().mean().item() for k in range(3)]
for rate, floor in zip(RATES, floors, strict=True):
    print(f"learning rate {rate:g}: the two weights that should be 0 are {floor:.1e} in the mean")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.1), layout="constrained", width_ratios=(1, 1.5))
axes[0].plot(tried, [norm_of(value) for value in tried], color=BLUE, lw=2.5)
for slope, name in ((left, "from the left"), (right, "from the right"), (middle, "autograd's")):
    axes[0].plot(tried, 1 + slope * tried, ls="-" if name == "autograd's" else ":", color=RED, lw=1.2, label=name)
axes[0].set(xlabel="raw number $V_k$", ylabel="ℓ1", ylim=(0.85, 1.5), title="the kink and three of its slopes")
axes[0].legend(frameon=False, fontsize=8)
axes[1].semilogy(path[:, 1:].abs().clamp(min=1e-7), lw=0.8)
axes[1].set(xlabel="step", ylabel="|w|", ylim=(1e-6, 1), title="two weights that ought to be zero")
plt.show()

# %% [markdown]
# *Left: the interval of sub-gradients is everything between the dotted lines. Right: the two weights hover around zero,
# ten times lower each time the learning rate falls.* So whoever counts zeros in such a matrix needs a threshold, and a
# learning rate that ends well below it. Ours is $10^{-3}$.
#
# ### Where sparsity does come from
#
# The kink is the answer. Take any loss $R(w)$ with the penalty $\mu\,\ell_1(w)$ under $\sum_k w_k = 1$, and
# let $g_k = \partial R/\partial w_k$. At the best $w$ there is a number ν with
#
# $$g_k = \nu - \mu \ \text{ where } w_k > 0, \qquad g_k = \nu + \mu \ \text{ where } w_k < 0, \qquad
# \nu - \mu \le g_k \le \nu + \mu \ \text{ where } w_k = 0. \tag{11.15}$$
#
# (Lagrange's condition $g + \mu\,\partial\ell_1 \ni \nu$.) Weights that the data would make *negative* are held at zero
# as long as that gains less than $2\mu$ for a unit: first they become less negative, then zero, and there they stay.
# Weights that the data want *positive* feel nothing at all, however small they are. So the sparsity is that of
# non-negative fits: it comes from the data, at the border of the simplex.
#
# That can be tested. Twelve points, 200 noisy observations of one affine combination of them, and three truths: all
# twelve weights positive; five negative; nine zero. We solve for the best $w$ exactly (by quadratic programming:
# $w = u - v$ with $u, v \ge 0$), for μ from 0.001 to 1. As a control the same without the sum: the lasso.


# %%
def best_weights(points, target, price, sum_to_one=True):
    """The w (n,) that minimises mean (points w − target)² / 2 + price · ℓ1(w), for points (T, n) and target (T,)."""
    n = points.shape[1]
    hessian, slope = points.T @ points / len(points), points.T @ target / len(points)

    def objective(parts):
        w = parts[:n] - parts[n:]
        g = hessian @ w - slope
        return w @ (g - slope) / 2 + price * parts.sum(), np.concatenate([g, -g]) + price

    signs = np.repeat([1.0, -1.0], n)
    one = {"type": "eq", "fun": lambda parts: signs @ parts - 1, "jac": lambda parts: signs}
    start, options = np.repeat([1 / n, 0.0], n), {"ftol": 1e-15, "maxiter": 1000}
    limits = {"bounds": [(0, None)] * (2 * n), "constraints": [one] if sum_to_one else []}
    found = minimize(objective, start, jac=True, method="SLSQP", options=options, **limits).x
    return found[:n] - found[n:]


# %%
rng = np.random.default_rng(0)
observed, noise = rng.normal(size=(200, 12)), 0.3 * rng.normal(size=200)
positive = rng.uniform(0.5, 1.5, 12)
signed = positive * np.repeat([-0.8, 1.0], [5, 7])
few = np.array([0.5, 0.3, 0.2] + [0.0] * 9)
TRUTHS = {"all positive": positive / positive.sum(), "five negative": signed / signed.sum(), "nine zero": few}
PRICES = np.geomspace(1e-3, 1, pick(smoke=4, laptop=25))
solved = {
    (name, summed): np.stack([best_weights(observed, observed @ truth + noise, price, summed) for price in PRICES])
    for name, truth in TRUTHS.items() for summed in (True, False)
}  # fmt: skip
zeros = {key: (np.abs(w) < 1e-6).sum(1) for key, w in solved.items()}
mass = {key: -w.clip(max=0).sum(1) for key, w in solved.items()}

# %%
figure, axes = plt.subplots(1, 3, figsize=(11.5, 3), layout="constrained", sharex=True)
for (name, summed), count in zeros.items():
    axes[0 if summed else 2].semilogx(PRICES, count, label=name, lw=2)
    if summed:
        axes[1].semilogx(PRICES, mass[name, summed], label=name, lw=2)
titles = ("sum to one: weights that are zero", "sum to one: negative mass", "no constraint: weights that are zero")
for ax, title in zip(axes, titles, strict=True):
    ax.set(title=title, xlabel="price μ", ylim=(-0.3, 12.5) if "zero" in title else None)
axes[1].legend(frameon=False)
plt.show()

dense = solved["all positive", True]
print(f"all positive: no weight is zero at any price, and the weights move by {np.ptp(dense, axis=0).max():.0e}")
print("five negative: zeros in the end", zeros["five negative", True][-1])
print("nine zero: zeros found at any price above 0.05:", np.unique(zeros["nine zero", True][PRICES > 0.05]))
assert (zeros["all positive", True] == 0).all() and np.ptp(dense, axis=0).max() < 1e-5
assert zeros["all positive", False][-1] == 12  # the lasso removes even what is true
assert mass["five negative", True][-1] < 1e-6 and zeros["five negative", True][-1] >= 5
assert set(zeros["nine zero", True][PRICES > 0.05]) == {4}

# %% [markdown]
# What was measured:
#
# - **All weights positive in truth**: with the sum constraint the penalty does *nothing*, at no price; not one zero.
#   The lasso on the same data removes all twelve.
# - **Five negative**: the negative mass falls to zero, and those five weights end at zero exactly.
# - **Nine zero**: noise had moved those nine off zero, some up, some down. Four are found. The five that are better off
#   *above* zero stay, however large μ is.
#
# So the first claim, sparsity, holds in this sense: negative weights are turned into zeros, and a problem in which many
# weights "want" to be negative gets a sparse answer. A problem whose answer is an even mixture does not. Sections 6 and
# 7 find out which of the two an autoencoder of skeletons is. Condition 11.15 is checked on the middle case:

# %%
truth, price = TRUTHS["five negative"], 0.1
w = best_weights(observed, observed @ truth + noise, price)
g = observed.T @ (observed @ w - observed @ truth - noise) / 200
nu = (g[w > 1e-6] + price).mean()
assert np.allclose(g[w > 1e-6], nu - price, atol=1e-4) and np.allclose(g[w < -1e-6], nu + price, atol=1e-4)
w = best_weights(observed, observed @ truth + noise, 0.3)
g = observed.T @ (observed @ w - observed @ truth - noise) / 200
held = (g[np.abs(w) < 1e-6] - g[w > 1e-6].mean()) / (2 * 0.3)
print("at μ = 0.3 five weights are zero; they are pulled down with", held.round(2), "of what the kink holds")
assert (held > 0).all() and (held < 1).all() and len(held) == 5

# %% [markdown]
# ### Not a softmax
#
# Weights that sum to one, as in attention: why not a softmax? It would spare us the penalty: $e^{a_k} / \sum e^{a}$ is
# never negative. But it is never *zero* either, and it can't leave the hull of the points that it combines, not even
# when it should. Three targets for a triangle of latents, one inside, one on an edge, one outside:

# %%
triangle = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.7, 1.6]], dtype=torch.float64)
targets = torch.tensor([[0.8, 0.5], [1.0, 0.0], [2.1, 0.9]], dtype=torch.float64)
FORMS = {"softmax": lambda raw: raw.softmax(1), "V / ΣV": lambda raw: raw / raw.sum(1, keepdim=True)}


def fit_weights(form, steps):
    """The weights (steps, 3 targets, 3 latents) on the way to the three targets."""
    raw = torch.zeros(3, 3, dtype=torch.float64) + (form is FORMS["V / ΣV"])
    optimizer, path = torch.optim.Adam([raw.requires_grad_()], lr=0.02), []
    for _ in range(steps):
        weights = form(raw)
        optimizer.zero_grad()
        (weights @ triangle - targets).square().sum().backward()
        optimizer.step()
        path.append(weights.detach())
    return torch.stack(path)


paths = {name: fit_weights(form, pick(smoke=400, laptop=1500)) for name, form in FORMS.items()}

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", sharey=True)
for ax, (name, path) in zip(axes, paths.items(), strict=True):
    ax.fill(*triangle.T, color=BLUE, alpha=0.15)
    ax.plot(*triangle.T, "o", color=BLUE, ms=8)
    for index in range(3):
        trail = path[:, index] @ triangle
        ax.plot(*trail.T, color=RED, lw=2)
        ax.plot(*targets[index], "x", color="black", ms=9, mew=2)
    ax.set(title=name, aspect="equal", xlim=(-0.2, 2.4), ylim=(-0.25, 1.8))
    ends = (path[-1] @ triangle - targets).norm(dim=1)
    for place, gap, least in zip(("inside", "edge", "outside"), ends, path[-1].amin(1), strict=True):
        print(f"{name:8s} {place:8s} misses by {gap:.4f}, its smallest weight is {least:+.5f}")
plt.show()
soft, free = (path[-1] for path in paths.values())
assert (soft > 0).all() and abs((soft[2] @ triangle - targets[2]).norm() - 0.645) < 0.03  # 0.645: to the edge
assert free[2].min() < -0.3
assert (free @ triangle - targets).norm(dim=1).max() < 1e-3

# %% [markdown]
# *Black: targets; red: the way there from the triangle's centre.* Outside, the softmax stops at the hull's nearest
# point, with logits that grow without end. On the edge it comes close, and its third weight creeps toward a zero that
# it never reaches. $V/\sum V$ goes where it is told: inside, on the edge, and outside, at the price of a negative
# weight. Skeleton formats need that: somebody's head-top is higher than everyone else's. ℓ1 allows it, and makes it
# expensive. (In between stands the *sparsemax*, which can be zero, but never negative.)
#
# ## 6 The geometry: how far outside?
#
# **The question.** Weights have a negative mass; points lie inside or outside of a hull. Which belongs to which?
#
# **The idea: negative mass is extrapolation.** Collect an affine combination's positive weights (sum $1 + m$) and its
# negative ones (sum $-m$). Normalise both heaps: each is a convex combination, so a point of the hull. Call them $a$
# and $b$. Then
#
# $$x = (1 + m)\,a - m\,b = a + m\,(a - b). \tag{11.16}$$
#
# Start at $b$, walk to $a$, and go on by the share $m$ of that way. With $m = 0$ one stays at $a$, in the hull; and who
# wants to go far outside needs a large $m$, or a wide hull to take a run-up in.

# %%
generator = torch.Generator().manual_seed(3)
points = torch.randn(7, 2, generator=generator, dtype=torch.float64)
for w in random_weights("any signs", count=200, n=7, seed=4):
    plus, minus = signed_sums(w, 0)
    if minus < 0:
        a, b = w.clamp(min=0) @ points / plus, w.clamp(max=0) @ points / minus
        assert torch.allclose(w @ points, a - minus * (a - b), rtol=1e-10)  # (11.16)

# %% [markdown]
# ### The cheapest weights for a point
#
# A point has many weights: seven latents in the plane leave four of them free. Which have the smallest ℓ1? Written with
# $w = u - v$, $u, v \ge 0$, that is a linear programme:
#
# $$\min_{u, v\,\ge\,0}\ \sum_l (u_l + v_l) \quad\text{so that}\quad \sum_l (u_l - v_l)\,q_l = x,\qquad \sum_l (u_l -
# v_l) = 1. \tag{11.17}$$
#
# At the minimum never both $u_l$ and $v_l$ are positive (one could lower both), so the sum *is* $\ell_1(w)$. By section
# 5 it is 1 exactly where a convex combination exists: **in the hull.**
#
# ### Exercise 11.9 — the smallest ℓ1  ●●● (20 min)
#
# Write 11.17 with `scipy.optimize.linprog`.
#
# <details><summary>Hint 1</summary>
#
# The unknown is `[u, v]`, 2n numbers; `c` is all ones. The bounds that `linprog` has if one says nothing are
# $\ge 0$: here they are right. (For $w$ itself they would be a trap.)
# </details>
# <details><summary>Hint 2</summary>
#
# `rows = np.vstack([points.T, np.ones(n)])` (D + 1, n), `A_eq = np.hstack([rows, -rows])`, `b_eq = [*target, 1]`.
# </details>


# %% tags=["export"]
@exercise("11.9")
def least_l1(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points (n, D) and a target (D,) -> the affine weights (n,) of smallest ℓ1 norm that combine the points to the
    target. ValueError where none do, since the points span less than the space."""
    # BEGIN SOLUTION
    count = len(points)
    rows = np.vstack([points.T, np.ones(count)])  # (D + 1, n)
    found = linprog(np.ones(2 * count), A_eq=np.hstack([rows, -rows]), b_eq=[*target, 1.0])
    if not found.success:
        raise ValueError("no affine combination of the points is the target: add points off their line or plane")
    return found.x[:count] - found.x[count:]
    # END SOLUTION


# %%
check(least_l1)

# %% [markdown]
# ### The rings around a hull
#
# Equation 11.16 answers for *all* points at once. With negative mass $m$ one reaches $(1 + m)K - mK$, that is
# $K + m(K - K)$: the hull, blown up in each direction by $m$ times its own width there. The other way round:
#
# $$m(x) = \max_{\text{directions } n}\ \frac{\text{how far } x \text{ lies beyond the hull along } n}{\text{the hull's
# width along } n}, \quad\text{at least } 0. \tag{11.18}$$
#
# **The negative mass that a point needs is how far outside it lies, in widths of the hull**, in the worst direction.
# (It is the linear programme's dual; 11.17 and 11.18 must agree, and the cell below checks that.) In the plane the
# worst direction is always at a right angle to one of the hull's edges, on one or the other side.


# %%
def widths_outside(points, x):
    """The m of (11.18) for points (n, 2) and places x (..., 2)."""
    normals, offsets = np.split(ConvexHull(points).equations, [2], axis=1)  # (E, 2), (E, 1), outside is positive
    heights = normals @ points.T + offsets  # (E, n), from −width to 0
    width = -heights.min(1)
    beyond = (x @ normals.T + offsets[:, 0]) / width  # (..., E): beyond this edge
    return np.maximum(np.maximum(beyond, -1 - beyond).max(-1), 0)  # −1 − beyond: on the far side


# %%
# a person from the front, metres: seven latents, the bones only to look at
LATENTS = {"head": (0, 1.68), "left hand": (0.78, 1.42), "right hand": (-0.78, 1.42), "left foot": (0.26, 0.06),
           "right foot": (-0.26, 0.06), "chest": (0, 1.32), "pelvis": (0, 0.95)}  # fmt: skip
BONES = [("head", "chest"), ("left hand", "chest"), ("right hand", "chest"), ("chest", "pelvis"),
         ("pelvis", "left foot"), ("pelvis", "right foot")]  # fmt: skip
Q = np.array(list(LATENTS.values()))
rng = np.random.default_rng(5)
places = rng.uniform((-1.4, -0.5), (1.4, 2.3), (pick(smoke=40, laptop=200), 2))
cheapest = np.stack([least_l1(Q, place) for place in places])  # (places, 7)
assert np.allclose(cheapest @ Q, places) and np.allclose(cheapest.sum(1), 1)
norms, mass = np.abs(cheapest).sum(1), widths_outside(Q, places)
assert np.allclose(norms, 1 + 2 * mass, atol=1e-7)  # (11.17) = (11.18), inside and outside
inside = ConvexHull(Q).equations @ np.vstack([places.T, np.ones(len(places))]) <= 0
assert np.allclose(norms[inside.all(0)], 1) and (norms[~inside.all(0)] > 1).all()
print(f"{inside.all(0).sum()} places in the hull: ℓ1 is 1; {(~inside.all(0)).sum()} outside: up to {norms.max():.2f}")


# %%
def draw_rings(ax):
    """The smallest ℓ1 in the plane around the person's hull."""
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-0.5, 2.35, 286))
    l1 = 1 + 2 * widths_outside(Q, np.stack([x, y], -1))
    ax.contourf(x, y, l1, [0.99, 1.0001, *np.arange(1.1, 2.31, 0.1)], cmap="YlOrRd", vmin=0.95, vmax=2.3, extend="max")
    lines = ax.contour(x, y, l1, [1.2, 1.4, 1.6, 1.8, 2.0], colors="white", linewidths=1)
    ax.clabel(lines, fmt="%.1f", fontsize=8)
    ax.fill(*Q[ConvexHull(Q).vertices].T, facecolor="white", edgecolor="black", lw=1.5)
    for pair in BONES:
        ax.plot(*np.array([LATENTS[end] for end in pair]).T, color="#b9c4cf", lw=7, solid_capstyle="round", zorder=2)
    ax.plot(*Q.T, "o", color=BLUE, ms=8, zorder=3)
    ax.set(xlim=(-1.5, 1.5), ylim=(-0.5, 2.35), aspect="equal")
    ax.axis("off")


# %%
def draw_extrapolation(ax, x):
    """(11.16) for a point: b, a, and on to x. Returns its cheapest weights."""
    w = least_l1(Q, np.asarray(x, float))
    m = -w.clip(max=0).sum()
    a = w.clip(min=0) @ Q / (1 + m)
    if m > 1e-9:
        b = w.clip(max=0) @ Q / -m
        ax.plot(*np.stack([b, a]).T, "--", color="black", lw=1.3, zorder=4)
        ax.annotate("", x, a, arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 2}, zorder=4)
        for place, name in ((a, "a"), (b, "b")):
            ax.plot(*place, "o", color="white", mec="black", ms=7, zorder=5)
            ax.annotate(name, place, (6, 4), textcoords="offset points", fontsize=11, style="italic", zorder=6)
    ax.plot(*x, "*", color="black", ms=14, zorder=6)
    return w


# %%
figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
EXAMPLES = {"a hand on the hip": (0.24, 0.98), "the top of a head": (0.0, 1.86), "a raised hand": (0.62, 2.05)}
for ax, (name, x) in zip(axes, EXAMPLES.items(), strict=True):
    draw_rings(ax)
    w = draw_extrapolation(ax, x)
    ax.set_title(f"{name}: ℓ1 = {np.abs(w).sum():.2f}")
plt.show()
assert abs(widths_outside(Q, np.array(EXAMPLES["the top of a head"])) - 0.18 / 1.62) < 1e-9

# %% [markdown]
# *Blue: latents; white: their hull, where ℓ1 is 1; the rings: the smallest ℓ1 that a place needs. The star is the
# output point, $a$ and $b$ are the two heaps of its cheapest weights.* The top of the head is 18 cm outside, but the
# person is 1.62 m tall, which is a long run-up: a negative mass of 0.18 / 1.62 = 0.11 will do.
#
# **Drag them**, the black point or any of the blue ones, with the mouse. (It needs no kernel, but a page that may run
# scripts: if you see nothing, run the cell.) Can you make a latent useless? Can you make the raised hand cheap without
# moving a latent toward it?

# %%
from course_lib.dragging import drag_hull

drag_hull(LATENTS, EXAMPLES["a raised hand"])

# %% [markdown]
# A latent in the middle changes nothing: only corners count. And the raised hand gets cheap with a latent pulled up
# beside it, but also with a foot pulled *down*: it is the width that one divides by. Which weights belong to a point:


# %%
def move(x, y):
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained", width_ratios=(1, 0.8))
    draw_rings(axes[0])
    w = draw_extrapolation(axes[0], (x, y))
    axes[0].set_title(f"ℓ1 = {np.abs(w).sum():.2f}, negative mass {widths_outside(Q, np.array([x, y])):.2f}")
    axes[1].barh(list(LATENTS), w, color=[RED if value < -1e-9 else BLUE for value in w])
    axes[1].axvline(0, color="black", lw=0.8)
    axes[1].set(xlim=(-1.6, 2.1), title="its cheapest weights")
    plt.show()


place = {"step": 0.05, "continuous_update": False}
interactive(move, x=FloatSlider(0.6, min=-1.4, max=1.4, **place), y=FloatSlider(2.05, min=-0.4, max=2.3, **place))

# %% [markdown]
# ### What one gains
#
# Why should weights be nearly convex at all? Because the points they combine are never exact. If each is off by at most
# ε, in any direction, then an affine combination is off by at most
#
# $$\Bigl\|\sum_l w_l\,\delta_l\Bigr\| \le \varepsilon\sum_l |w_l| = \varepsilon\,(1 + 2m), \tag{11.19}$$
#
# and that is reached when the positive ones err in one direction and the negative ones in the opposite one. Convex
# combinations never make the largest error larger. With $m = 1.2$, a value that we shall meet at λ = 0, it may be more
# than three times as large.

# %%
errors = torch.randn(20_000, 7, 3, generator=generator, dtype=torch.float64)
errors /= errors.norm(dim=-1, keepdim=True)  # each of the 7 points is off by ε = 1
for w in random_weights("any signs", count=50, n=7, seed=6):
    bound = l1_from_negative_mass(w, 0)
    assert (w @ errors).norm(dim=-1).max() <= bound  # (11.19) ...
    worst = w.sign()[:, None] * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.isclose((w @ worst).norm(), bound)  # ... is reached

# %% [markdown]
# ### Corners force sparsity
#
# Suppose that ℓ1 has won: no negative weight in either matrix, and still every pose comes back exactly. What do such
# matrices look like? Encoder and decoder in a row are one matrix $A = W^\text{enc} W^\text{dec}$ (J, J), without a
# negative entry either, whose columns sum to one: each joint is a convex combination of joints,
#
# $$p_j = \sum_k A_{kj}\,p_k.$$
#
# Now let $p_j$ be, in one of the poses, a **corner** of the joints' hull, which means: it is no convex combination of
# other points. Then $A_{kj} = 0$ for all $k \ne j$. But
#
# $$A_{kj} = \sum_l W^\text{enc}_{kl}\,W^\text{dec}_{lj} = 0 \quad\text{is a sum of terms that are} \ge 0: \tag{11.20}$$
#
# every single one is zero. So a latent that joint $j$ uses ($W^\text{dec}_{lj} > 0$) takes nothing from any other
# joint, and since its weights sum to one, it *is* joint $j$. **Every corner is a latent of its own: one weight is 1,
# all others are 0.** There is the sparsity. Not ℓ1 has made it: the corners have, once negative weights are gone.
#
# First the step "a corner is no combination of others", by linear programming: the least weight that a point can have
# in a convex combination that gives this very point.

# %%
cloud = np.random.default_rng(7).normal(size=(14, 2))
own = []
for index, point in enumerate(cloud):
    rows = np.vstack([cloud.T, np.ones(len(cloud))])
    own.append(linprog(np.eye(len(cloud))[index], A_eq=rows, b_eq=[*point, 1.0]).x[index])  # w >= 0, least w_j
corners = set(ConvexHull(cloud).vertices.tolist())
assert all(np.isclose(least, 1 if index in corners else 0, atol=1e-9) for index, least in enumerate(own))
print(f"{len(corners)} corners need themselves with weight 1, the other {len(cloud) - len(corners)} not at all")

# %% [markdown]
# And then: how many corners do people have? The weights are the same for all poses, so it is enough for a joint to be a
# corner in one of them. Five formats, 64 people:

# %%
from course_lib.data.skeletons import joint_names, sample_poses

FIVE = ("smpl", "h36m", "coco", "3dhp", "smplx")
people, names = sample_poses(64, FIVE, seed=2).numpy(), joint_names(FIVE)  # (64, J, 3)
often = np.zeros(len(names))
for pose in people:
    often[ConvexHull(pose).vertices] += 1 / len(people)
print(f"{np.sum(often > 0)} of {len(names)} joints are a corner of somebody's hull, {often.sum():.0f} in a pose's mean")
print("most often:", ", ".join(names[index] for index in np.argsort(-often)[:8]))
assert np.sum(often > 0) > 48

# %% [markdown]
# More corners than the paper has latents for *all* of its 28 data sets. So exact *and* convex is impossible, and the
# autoencoder has to trade: many corners of different formats lie millimetres apart (five wrists, five heads), and one
# latent serves them all, with a small error or with a little negative mass. Which of the two is what λ decides.

# %% [markdown]
# ## 7 What λ does
#
# **The question.** Sections 5 and 6 are about single vectors. In the autoencoder there are $J + L$ of them, encoder and
# decoder depend on each other, and the latents are free to go where it is cheap. What becomes of negative mass,
# sparsity and error as λ grows?
#
# **What must happen.** One thing is certain before any run. Let $w_\lambda$ be the best weights for λ, $R$ their error
# and $P$ the penalty. For two values $\lambda < \lambda'$ each is the best for its own:
#
# $$R(w_\lambda) + \lambda P(w_\lambda) \le R(w_{\lambda'}) + \lambda P(w_{\lambda'}), \qquad
# R(w_{\lambda'}) + \lambda' P(w_{\lambda'}) \le R(w_\lambda) + \lambda' P(w_\lambda).$$
#
# Add both, and what is left is
#
# $$(\lambda' - \lambda)\,\bigl(P(w_{\lambda'}) - P(w_\lambda)\bigr) \le 0: \tag{11.21}$$
#
# the penalty of the best weights never rises with λ, and since it is the negative mass but for constants (11.13),
# **neither does the negative mass.** No convexity is needed. But a true minimum is, and Adam doesn't promise one. Hence
# the measurement: ten values, three seeds each.

# %%
R1, P1, R2, P2, small, large = sympy.symbols("R1 P1 R2 P2 lambda1 lambda2", real=True)
gains = [R2 + small * P2 - (R1 + small * P1), R1 + large * P1 - (R2 + large * P2)]  # both are >= 0
assert sympy.expand(sum(gains) + (large - small) * (P2 - P1)) == 0  # (11.21): minus the product is >= 0


# %% tags=["export"]
@dataclass(frozen=True)
class LambdaArm:
    """An arm of the study of lambda: an autoencoder of these formats, on so many poses, measured on `tested` others."""

    strength: float
    formats: tuple[str, ...] = ("smpl", "h36m", "coco", "3dhp", "smplx")
    sided_latents: int = 20
    central_latents: int = 4
    poses: int = 2048
    tested: int = 512
    batch_size: int = 32
    lr: float = 3e-2


def lambda_config(arm: LambdaArm, names: tuple[str, ...], steps: int) -> Config:
    """The training of an arm, whose joints have these names."""
    left, _, middle = sides(names)
    return Config(
        formats=arm.formats, pairs=len(left), middle=len(middle), sided_latents=arm.sided_latents,
        central_latents=arm.central_latents, strength=arm.strength, poses=arm.poses, batch_size=arm.batch_size,
        steps=steps, lr=arm.lr,
    )  # fmt: skip


# %% tags=["export"]
STRENGTHS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.6, 2.0, 6.0, 20.0, 60.0)
STUDIES = {
    "lambda": Study(
        "11.lambda",
        "negative mass, sparsity and error by lambda",
        {f"{strength:g}": LambdaArm(strength) for strength in STRENGTHS},
        "course_lib.studies.acae:lambda_run",
        steps=4000,
    )
}

# %% [markdown]
# The paper's sizes cannot be had here, and λ depends on them: 138 joints of five formats and 24 latents instead of 555
# and 48. By the price $2\lambda/L$ the paper's 25 mm for a unit of negative mass are λ = 0.3 with our 24 latents; the
# arms go from 0 to 60. Each is trained for 4,000 steps on 2,048 people, three times from other starts, and measured on
# 512 others.

# %% tags=["result"]
from course_lib import study

found = study.records(STUDIES["lambda"])
table = {arm: study.summarize(rows) for arm, rows in found.items()}
print("    λ   negative mass  (enc.   dec.)   |w| < 1e-3   weights a latent, a joint   error mm")
for arm, row in table.items():
    mean = {name: value[0] for name, value in row.items()}
    print(f"{arm:>5s} {mean['negative']:11.4f}   ({mean['negative_encoder']:.3f}, {mean['negative_decoder']:.4f})"
          f"{100 * mean['below_0.001']:9.1f} % {mean['active_encoder']:13.1f} {mean['active_decoder']:10.1f}"
          f"{mean['error']:15.1f} ± {row['error'][1]:.1f}")  # fmt: skip

# %% tags=["result"]
pairs = {}
for arm, rows in found.items():
    for row in rows:
        pairs.setdefault(row["seed"], []).append((float(arm), row["metrics"]["negative"]))
for seed, values in pairs.items():
    rank = spearmanr(*zip(*values, strict=True)).statistic
    print(f"seed {seed}: Spearman's rank correlation of λ and negative mass {rank:.3f} over {len(values)} values")
    assert scale() == "smoke" or (len(values) >= 8 and rank <= -0.95)

# %%
PANELS = {
    "negative mass of a vector": {"encoder": "negative_encoder", "decoder": "negative_decoder", "all": "negative"},
    "share of weights": {"below 0.01": "below_0.01", "below 0.001": "below_0.001"},
    "error, mm": {"3D, mean over joints": "error", "projection": "projection"},
}
places = [max(float(arm), 0.003) for arm in table]  # λ = 0 has no place on a logarithmic axis: the first tick
figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
for ax, (title, lines) in zip(axes, PANELS.items(), strict=True):
    for label, metric in lines.items():
        mean, spread = np.array([row[metric][:2] for row in table.values()]).T
        ax.plot(places, mean, "o-", ms=4, label=label)
        ax.fill_between(places, mean - spread, mean + spread, alpha=0.25, lw=0)
    ax.set(xscale="log", xlabel="λ", title=title, ylim=(0, None))
    ax.set_xticks([0.003, 0.01, 0.1, 1, 10], ["0", "0.01", "0.1", "1", "10"])
    ax.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# *Lines: means over three starts; bands: the spread between them.* What one sees in the stored records:
#
# - **Negative mass** falls with every step of λ, for each of the three starts: from 0.6 a vector at λ = 0 to 0.03 at
#   0.6 and 0.001 at 6, and then there is none.
# - **Encoder and decoder** differ, though they pay the same price. At λ = 0.6 the decoder has almost none left, the
#   encoder 0.16 a latent: a latent serves many joints, so a unit of its negative mass buys more. At the smallest λ
#   the encoder's even rises a little. That is allowed: 11.21 is about the sum.
# - **Sparsity** comes with it: weights below $10^{-3}$ go from 3 % to 85 % at λ = 6, from 24 latents a joint to 5. But
#   from there to λ = 60 it goes *back*. The negative mass is gone, the penalty has nothing left to act on, and a larger
#   price for nothing is no price: what section 5 leads one to expect.
# - **The error** is hardly touched up to λ = 0.6: near-convex weights are nearly free, which is why the paper can
#   afford them. Then it grows, to twice as much where the weights are convex. Part of that is the optimiser's: at 20
#   the three starts differ by several millimetres.

# %% tags=["result"]
if scale() != "smoke":
    mean = {arm: {name: value[0] for name, value in row.items()} for arm, row in table.items()}
    sparse = {arm: row["below_0.001"] for arm, row in mean.items()}
    assert sparse["0"] < 0.05 and sparse["6"] > 0.8 and sparse["60"] < sparse["6"]
    assert study.beyond_spread(table["6"]["below_0.001"], table["60"]["below_0.001"])
    assert mean["0.6"]["negative_encoder"] > 20 * mean["0.6"]["negative_decoder"]
    assert mean["0.01"]["negative_encoder"] > mean["0"]["negative_encoder"]
    assert not study.beyond_spread(table["0"]["error"], table["0.6"]["error"])
    assert all(mean[arm]["single"] == 0 and mean[arm]["active_encoder"] > 12 for arm in mean if float(arm) <= 6)
    assert mean["60"]["error"] > 1.8 * mean["0"]["error"] and mean["60"]["negative"] < 1e-4

# %% [markdown]
# The corners of section 6 don't show in their pure form. The proof needed an error of zero; with one of some
# millimetres no latent has to be a single joint, and up to λ = 6 none is, not even to 90 %. Each is a mixture of a
# dozen or more.
#
# The same to play with: every λ's distribution of weights, and its place on the curve that one trades along.

# %%
LIMITS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def at(strength):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for arm, row in table.items():
        style = {"color": RED, "lw": 3, "zorder": 3} if arm == strength else {"color": "#c8c8c8", "lw": 1.2}
        axes[0].semilogx(LIMITS, [row[f"below_{limit:g}"][0] for limit in LIMITS], "o-", ms=4, **style)
        axes[1].plot(row["negative"][0], row["error"][0], "o", ms=9 if arm == strength else 6, **style)
    row = {name: value[0] for name, value in table[strength].items()}
    axes[0].set(xlabel="x", ylabel="share of weights with |w| < x", ylim=(0, 1.02), title=f"λ = {strength}")
    told = f"mean ℓ1 {1 + 2 * row['negative']:.3f}, {row['active_decoder']:.1f} latents a joint, {row['error']:.1f} mm"
    axes[1].set(xlabel="negative mass of a vector", ylabel="error, mm", title=told, ylim=(0, None))
    axes[1].set_xscale("symlog", linthresh=1e-3)
    plt.show()


interactive(at, strength=SelectionSlider(options=list(table), value=list(table)[len(table) // 2], description="λ"))

# %% [markdown]
# ## 8 What to remember
#
# - Two data sets that both have a "hip" have two points. Predict all points, and let a few latent ones tie them
#   together.
# - Weights that sum to one move with the person. That, and nothing about signs, is what makes a combination affine;
#   divide a free matrix by its sums, over the dimension that is summed in the combination.
# - Tie weights, and left and right are treated alike, exactly, by construction.
# - Under a sum of one, $\ell_1 = 1 + 2m$: a negative weight costs twice, everything else costs nothing. Without the
#   constraint ℓ1 is another penalty, and mostly one on size.
# - Two of S6's six lines use the constraint (5 and 8); the others are true of any weights.
# - Inside the simplex the penalty is constant. It takes negative weights to zero and holds them at the kink; it never
#   makes a positive weight smaller. Sparsity comes from the corners, for which convex weights leave no choice.
# - Negative mass is extrapolation, measured in widths of the hull.
# - An ℓ1 norm inside a *mean* hides a size: the price of a unit of negative mass is $2\lambda/L$ metres.
# - At a kink PyTorch picks one sub-gradient, and it need not be the zero one. Count small weights, not zeros.
#
# ## What the paper leaves open
#
# λ, the number of latents, the loss and the optimiser are not in the supplement; we have them from the authors' code (λ
# = 0.6, 48 latents, 40 of them in pairs). S6 proves what it says about negative weights, for each vector. It doesn't
# prove the sparsity that it starts from, and says nothing about encoder and decoder together. Why both should pay the
# same price for negative mass, though one has $L$ vectors and the other $J$, is not said. Nor is whether joints that a
# data set labels badly should count as much as others: the code's loss is a plain mean. And the autoencoder is trained
# on a network's predictions; how much of what it learns are the network's own habits no table tells.
#
# ## Where to read on
#
# - I. Sárándi, A. Hermans and B. Leibe, *Learning 3D human pose estimation from dozens of datasets using a
#   geometry-aware autoencoder to bridge between skeleton formats*, WACV 2023: the paper. Chapter 12 trains with it.
# - R. Tibshirani, *Regression shrinkage and selection via the lasso*, JRSS B 1996: ℓ1 without a sum.
# - J. Brodie, I. Daubechies, C. De Mol, D. Giannone and I. Loris, *Sparse and stable Markowitz portfolios*, PNAS 2009:
#   the same identity, found in finance. The weights are shares of a portfolio, a negative one is a short sale.
# - A. Cutler and L. Breiman, *Archetypal analysis*, Technometrics 1994: this autoencoder with both matrices convex; its
#   latents lie on the border of the hull.
# - M. Slawski and M. Hein, *Non-negative least squares for high-dimensional linear models*, EJS 2013: sparse for want
#   of signs, without a penalty. A. Kyrillidis, S. Becker, V. Cevher and C. Koch, *Sparse projections onto the simplex*,
#   ICML 2013: what to do where ℓ1 is constant.
# - A. Martins and R. Astudillo, *From softmax to sparsemax*, ICML 2016.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

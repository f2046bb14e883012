"""Chapter 11's l1 argument against what it is said to be equal to, and what it makes of bad input."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import sympy
import torch
from course_lib.chapters.acae_skeletons import (
    STUDIES,
    counterexample,
    equation_9_remainder,
    l1_from_negative_mass,
    lambda_config,
    least_l1,
    require_affine,
    signed_sums,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from course_lib.dragging import drag_hull
from course_lib.studies import acae as runs


def affine(*shape, dim=0, seed=0, dtype=torch.float64):
    raw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return raw / raw.sum(dim, keepdim=True)


# ---------------------------------------------------------- the two heaps
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_every_weight_is_counted_once(values):
    weights = torch.tensor(values, dtype=torch.float64)
    plus, minus = signed_sums(weights, 0)
    assert plus.item() == pytest.approx(sum(v for v in values if v >= 0), rel=1e-12)
    assert minus.item() == pytest.approx(sum(v for v in values if v < 0), rel=1e-12)
    assert plus >= 0 >= minus
    assert torch.isclose(plus + minus, weights.sum(), rtol=1e-9, atol=1e-9 * weights.abs().sum().item())
    assert torch.isclose(plus - minus, weights.abs().sum(), rtol=1e-12)


def test_heaps_are_along_the_dimension_asked_for():
    weights = torch.tensor([[1.0, -2.0, 0.0], [-0.0, 4.0, -8.0]])
    assert [part.tolist() for part in signed_sums(weights, 0)] == [[1, 4, 0], [0, -2, -8]]
    assert [part.tolist() for part in signed_sums(weights, 1)] == [[1, 4], [-2, -8]]


def test_nan_comes_through_both_heaps():
    assert all(part.isnan() for part in signed_sums(torch.tensor([1.0, torch.nan]), 0))


# ---------------------------------------------------------- equation 10
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "dim"), [((555, 48), 0), ((48, 555), 0), ((7, 3, 5), 1), ((1, 4), 0)])
def test_equation_10_is_the_norm(shape, dim, dtype):
    for seed in range(20):
        weights = affine(*shape, dim=dim, seed=seed, dtype=dtype)
        norm = torch.linalg.vector_norm(weights, ord=1, dim=dim)
        assert torch.allclose(l1_from_negative_mass(weights, dim), norm, rtol=1e-4 if dtype == torch.float32 else 1e-12)


def test_equality_is_where_nothing_is_negative():
    weights = affine(12, 500)
    norm, negative = l1_from_negative_mass(weights, 0), (weights < 0).any(0)
    assert (norm[negative] > 1).all()
    convex = weights.abs() / weights.abs().sum(0)
    assert (l1_from_negative_mass(convex, 0) == 1).all()


def test_nearly_degenerate_weights_are_accepted():
    raw = torch.tensor([1.0, -1.0, 1e-7], dtype=torch.float64)
    weights = raw / raw.sum()
    assert torch.isclose(l1_from_negative_mass(weights, 0), weights.abs().sum(), rtol=1e-8)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.tensor([0.5, 0.6]), "sum to 1.1"),
        (torch.tensor([1.0, -1.0]), "sum to 0"),
        (torch.tensor([0.5, torch.nan]), "sum to nan"),
        (torch.tensor([torch.inf, 1.0]), "sum to inf"),
        (torch.empty(0), "sum to 0"),
        (torch.tensor([1, 0]), "give floats"),
    ],
)
def test_what_is_not_affine_is_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        l1_from_negative_mass(weights, 0)


def test_the_wrong_dimension_is_named():
    weights = affine(4, 6)
    require_affine(weights, 0)
    with pytest.raises(ValueError, match="along dimension 1"):
        require_affine(weights, 1)


# ---------------------------------------------------------- proofs
@pytest.mark.parametrize("p", [1, 2, 6])
@pytest.mark.parametrize("q", [0, 1, 5])
def test_equation_9_is_proven(p, q):
    positive = list(sympy.symbols(f"a1:{p + 1}", nonnegative=True))
    negative = list(sympy.symbols(f"b1:{q + 1}", negative=True))
    assert equation_9_remainder(positive, negative) == 0


def test_the_proof_fails_where_the_equation_does():
    a, r = sympy.symbols("a", nonnegative=True), sympy.symbols("r", real=True)
    remainder = equation_9_remainder([a], [r])
    assert sympy.simplify(remainder - (sympy.Abs(r) + r)) == 0
    with pytest.raises(ValueError, match="non-negative symbol"):
        equation_9_remainder([], [sympy.Symbol("b", negative=True)])


def test_the_counterexample_is_one():
    first, second = counterexample()
    assert first.abs().sum() < second.abs().sum() and -first.clamp(max=0).sum() > -second.clamp(max=0).sum()


# ---------------------------------------------------------- the hull
def dual_l1(points, target, directions=200_000):
    """1 + 2 · the most widths that the target lies beyond the hull, over many directions."""
    normals = np.random.default_rng(0).normal(size=(directions, points.shape[1]))
    heights = points @ normals.T
    high, low = heights.max(0), heights.min(0)
    return 1 + 2 * max(0.0, ((normals @ target - high) / (high - low)).max())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_smallest_l1_is_the_width_outside(dimensions):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(9, dimensions))
    for _ in range(10):
        target = 2 * rng.normal(size=dimensions)
        weights = least_l1(points, target)
        assert np.allclose(weights @ points, target, atol=1e-8) and np.isclose(weights.sum(), 1)
        norm = np.abs(weights).sum()
        assert dual_l1(points, target) <= norm + 1e-9 <= 1.02 * dual_l1(points, target) + 1e-9
        inside = (ConvexHull(points).equations @ [*target, 1] <= 0).all()
        assert (norm < 1 + 1e-9) == inside


def test_a_target_out_of_reach_is_refused():
    line = np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]])
    assert np.isclose(np.abs(least_l1(line, np.array([4.0, 4.0]))).sum(), 1 + 2 / 3)
    with pytest.raises(ValueError, match="add points"):
        least_l1(line, np.array([0.0, 1.0]))


# ---------------------------------------------------------- the picture with points to drag
PAGE = """
const handlers = {};
const svg = { addEventListener: (name, run) => { handlers[name] = run; }, setPointerCapture: () => {}, innerHTML: "",
  getBoundingClientRect: () => ({ left: 0, top: 0, width: WIDTH }) };
const document = { getElementById: () => svg };
SCRIPT
const told = () => +svg.innerHTML.match(/smallest ℓ1 = ([0-9.]+)/)[1], found = [told()];
const drag = (point, x, y) => {
  handlers.pointerdown({ target: { getAttribute: () => point }, pointerId: 1, preventDefault: () => {} });
  handlers.pointermove({ clientX: x, clientY: y });
  handlers.pointerup({});
  handlers.pointermove({ clientX: 0, clientY: 0 });  // nothing is held any more
  found.push(told());
};
for (const [point, x, y] of MOVES) drag(point, x, y);
console.log(JSON.stringify(found));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="JavaScript is run by node, which is not here")
def test_the_dragged_picture_has_the_smallest_l1():
    rng = np.random.default_rng(3)
    points, target = rng.normal(size=(7, 2)), np.array([2.5, 1.0])
    html = drag_hull({f"p{i}": point for i, point in enumerate(points)}, target).data
    width = float(re.search(r'width="(\d+)"', html).group(1))
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL).group(1)
    left, top = np.minimum(points.min(0), target)[0] - 0.7, np.maximum(points.max(0), target)[1] + 0.7
    expected, moves = [np.abs(least_l1(points, target)).sum()], []
    for step in range(25):
        held, place = "x" if step % 2 else str(rng.integers(7)), rng.normal(size=2) * (0.8 if step % 2 else 2)
        moves.append([held, 150 * (place[0] - left), 150 * (top - place[1])])
        if held == "x":
            target = place
        else:
            points[int(held)] = place
        expected.append(np.abs(least_l1(points, target)).sum())
    page = PAGE.replace("SCRIPT", script).replace("WIDTH", str(width)).replace("MOVES", json.dumps(moves))
    said = subprocess.run(["node", "-e", page], capture_output=True, text=True, check=True, timeout=60).stdout
    assert np.allclose(json.loads(said), expected, atol=6e-3, rtol=2e-3)
    assert max(expected) > 1.5 and min(expected) < 1 + 1e-9  # both sides of the border were tried


@pytest.mark.parametrize("places", [[(0, 0), (1, 1)], [(0, 0), (1, 1), (2, 2)], [(1, 1)] * 4, []])
def test_points_without_an_area_are_refused(places):
    with pytest.raises(ValueError, match="not on one line"):
        drag_hull({f"p{i}": place for i, place in enumerate(places)}, (0, 1))


# ---------------------------------------------------------- the study
def test_the_study_has_enough_values_and_seeds():
    study = STUDIES["lambda"]
    strengths = [arm.strength for arm in study.arms.values()]
    assert len(strengths) >= 9 and strengths == sorted(set(strengths)) and len(study.seeds) == 3
    assert 0 in strengths and 0.6 in strengths
    assert all(float(name) == arm.strength for name, arm in study.arms.items())


def test_weights_are_measured_as_they_are():
    encoder = torch.tensor([[1.0, 0.5], [0.0, 0.7], [0.0, -0.2]], dtype=torch.float64)
    decoder = torch.tensor([[1.0, 1.5, 0.0005], [0.0, -0.5, 0.9995]], dtype=torch.float64)
    found = runs.lambda_metrics(encoder, decoder)
    assert found["negative"] == pytest.approx(0.7 / 5)
    assert (found["negative_encoder"], found["negative_decoder"]) == pytest.approx((0.1, 0.5 / 3))
    assert found["below_0.001"] == pytest.approx(4 / 12) and found["below_0.0001"] == pytest.approx(3 / 12)
    assert (found["active_encoder"], found["active_decoder"]) == pytest.approx((2.0, 4 / 3))
    assert found["single"] == pytest.approx(0.5)
    norms = torch.cat([encoder.abs().sum(0), decoder.abs().sum(0)])
    assert norms.mean().item() == pytest.approx(1 + 2 * found["negative"])


def test_an_arm_runs(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    arm = STUDIES["lambda"].arms["0.6"]
    found = runs.lambda_run(arm, seed=0, steps=2)
    assert all(np.isfinite(value) for value in found.values()) and found["error"] > 0
    again = runs.lambda_run(arm, seed=0, steps=2)
    assert again == found and runs.lambda_run(arm, seed=1, steps=2) != found


def test_an_arm_is_configured_as_it_says():
    arm = STUDIES["lambda"].arms["6"]
    config = lambda_config(arm, ("la", "ra", "lb", "rb", "m"), 17)
    assert (config.strength, config.pairs, config.middle, config.steps) == (6.0, 2, 1, 17)
    assert (config.sided_latents, config.central_latents) == (20, 4)

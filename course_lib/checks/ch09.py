"""The checks of chapter 09: who is drawn, strands, proxies, glass."""

import numpy as np
import torch
from scipy.spatial import cKDTree

from course_lib.chapters import david_data as david
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_finite,
    expect_length,
    expect_not_close,
    expect_raises,
    expect_shape,
    expect_type,
    wrong_answer,
)


def array(found, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """A learner's NumPy array of the right shape, as a tensor of float64."""
    expect_type(found, np.ndarray, what)
    expect_shape(found, shape, what)
    return torch.from_numpy(found.astype(np.float64))


# ---------------------------------------------------------------------------------------------------- 09.1 shares
@check_for("09.1")
def balancing_weights(answer):
    groups, shares = ["a", "b", "a", "a", "c", "b"], {"a": 1.0, "b": 2.0, "c": 1.0, "d": 4.0}
    what = "6 candidates of the groups a, b, a, a, c, b; shares a 1, b 2, c 1, d 4"
    found = array(answer(groups, dict(shares)), (6,), what)
    right = torch.tensor([1 / 12, 0.25, 1 / 12, 1 / 12, 0.25, 0.25], dtype=torch.float64)
    raw = torch.tensor([shares[g] for g in groups], dtype=torch.float64)
    expect_not_close(
        found, raw / raw.sum(), "Each candidate has the share of the whole group: divide by how many are in the group"
    )
    expect_not_close(found, right / 2, "The weights sum to 1/2: nobody is in d, so its share must fall to the others")
    expect_not_close(found, right * 4, "The weights sum to 4: divide by the sum of the shares that somebody can take")
    expect_close(found, right, what)
    unnamed = array(answer(["a", "x"], {"a": 3.0}), (2,), "x is not in the table")
    expect_close(unnamed, torch.tensor([1.0, 0.0], dtype=torch.float64), "x is not in the table: it is never drawn")
    expect_raises(lambda: answer(["a"], {"a": 0.0}), ValueError, "a table whose shares sum to 0")
    expect_raises(lambda: answer(["a", "b"], {"a": 2.0, "b": -1.0}), ValueError, "a negative share")


@wrong_answer("09.1", says="how many are in the group")
def weights_not_divided(groups, shares):
    raw = np.array([shares.get(g, 0.0) for g in groups])
    return raw / raw.sum()


@wrong_answer("09.1", says="must fall to the others")
def weights_lost_share(groups, shares):
    total = sum(shares.values())
    return np.array([shares.get(g, 0.0) / total / groups.count(g) for g in groups])


@wrong_answer("09.1", says="sum to 4")
def weights_unnormalised(groups, shares):
    return np.array([shares.get(g, 0.0) / groups.count(g) for g in groups])


@wrong_answer("09.1", says="raised")
def weights_unnamed(groups, shares):
    total = sum(shares[g] for g in set(groups))
    return np.array([shares[g] / total / groups.count(g) for g in groups])


# ---------------------------------------------------------------------------------------------------- 09.2 a strand
@check_for("09.2")
def grow(answer):
    rng = np.random.default_rng(0)
    roots, directions, lengths = rng.normal(size=(5, 3)), 2 * rng.normal(size=(5, 3)), rng.uniform(0.01, 0.1, 5)
    what = "5 strands of 6 points, bend 0.3"
    kept = directions.copy()
    found = array(answer(roots, directions, lengths, 0.3, 6), (5, 6, 3), what)
    expect(np.array_equal(kept, directions), f"{what}: the directions were changed in place. Work on a copy")
    expect_finite(found, what)
    expect_close(found[:, 0], torch.from_numpy(roots), f"{what}: the first points are the roots")
    steps = found.diff(dim=1).norm(dim=2)
    each = torch.from_numpy(lengths)[:, None].expand(5, 5)
    expect_not_close(steps, each / 6, "6 points are joined by 5 steps: a step is lengths / (points - 1)")
    expect_not_close(steps, each, "Every step has the length of the whole strand: divide by points - 1")
    first = (found[:, 1] - found[:, 0]) / (each[:, :1] / 5)
    straight = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True))
    expect_not_close(first, torch.from_numpy(directions), "The given directions are not of length 1: make them so")
    bent = straight + torch.tensor([0.0, -0.3, 0.0], dtype=torch.float64)
    expect_not_close(
        first, bent / bent.norm(dim=1, keepdim=True), "The first step is bent already. Bend after a step, not before it"
    )
    expect_close(steps, each / 5, f"{what}: the lengths of the steps. Is the bent direction brought to length 1?", 1e-7)
    expect_close(found, torch.from_numpy(david.grow(roots, directions, lengths, 0.3, 6)), what)


@wrong_answer("09.2", says="5 steps")
def grow_too_short(roots, directions, lengths, bend, points=8):
    return david.grow(roots, directions, lengths * (points - 1) / points, bend, points)


@wrong_answer("09.2", says="bent already")
def grow_bent_first(roots, directions, lengths, bend, points=8):
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return david.grow(roots, unit + np.array([0, -bend, 0]), lengths, bend, points)


@wrong_answer("09.2", says="length 1")
def grow_stretching(roots, directions, lengths, bend, points=8):
    direction, found = directions / np.linalg.norm(directions, axis=1, keepdims=True), [roots]
    for _ in range(points - 1):
        found.append(found[-1] + (lengths / (points - 1))[:, None] * direction)
        direction = direction + np.array([0, -bend, 0])
    return np.stack(found, 1)


@wrong_answer("09.2", says="another order")
def grow_stacked_first(roots, directions, lengths, bend, points=8):
    return david.grow(roots, directions, lengths, bend, points).transpose(1, 0, 2)


# ---------------------------------------------------------------------------------------------------- 09.3 composite
def layered() -> tuple[np.ndarray, np.ndarray]:
    """Two pixels of three layers, two channels; the second pixel has only one layer."""
    alpha = np.array([[0.5, 0.25, 0.8], [0.4, 0.0, 0.0]])
    values = np.arange(12, dtype=float).reshape(2, 3, 2) + 1
    return alpha, values


@check_for("09.3")
def composite(answer):
    alpha, values = layered()
    what = "2 pixels of 3 layers"
    found = answer(alpha.copy(), values.copy())
    expect_length(found, 2, what)
    right_seen, right_passes = (torch.from_numpy(v) for v in david.composite(alpha, values))
    expect(
        getattr(found[1], "shape", None) != (2, 3),
        f"{what}: the light has 3 values a pixel, 4 were expected: before the first layer (1), then behind each",
    )
    passes = array(found[1], (2, 4), f"{what}, the light that passes")
    expect_not_close(passes, 1 - right_passes, "That is what is taken. The light that passes was asked for")
    expect_close(passes, right_passes, f"{what}, the light that passes")
    seen = array(found[0], (2, 2), f"{what}, what is seen")
    behind = torch.from_numpy((alpha[..., None] * values * david.composite(alpha, values)[1][:, 1:, None]).sum(1))
    expect_not_close(seen, behind, "Each layer is weighted by the light behind it. It gets the light before it")
    expect_not_close(
        seen, torch.from_numpy((alpha[..., None] * values).sum(1)), "Layers don't hide each other: where is the light?"
    )
    whole = right_seen / (1 - right_passes[:, -1:])
    expect_not_close(seen, whole, "The sum was divided by the coverage. What is seen of the layers is the sum itself")
    expect_close(seen, right_seen, f"{what}, what is seen")
    nothing = answer(np.zeros((2, 0)), np.zeros((2, 0, 3)))
    expect_close(array(nothing[1], (2, 1), "no layers"), torch.ones(2, 1, dtype=torch.float64), "no layers: all passes")
    expect_close(array(nothing[0], (2, 3), "no layers"), torch.zeros(2, 3, dtype=torch.float64), "no layers")


@wrong_answer("09.3", says="light behind it")
def composite_late(alpha, values):
    _, passes = david.composite(alpha, values)
    return (alpha[..., None] * values * passes[:, 1:, None]).sum(1), passes


@wrong_answer("09.3", says="hide each other")
def composite_added(alpha, values):
    return (alpha[..., None] * values).sum(1), david.composite(alpha, values)[1]


@wrong_answer("09.3", says="4 were expected")
def composite_short(alpha, values):
    seen, passes = david.composite(alpha, values)
    return seen, passes[:, 1:]


@wrong_answer("09.3", says="divided by the coverage")
def composite_divided(alpha, values):
    seen, passes = david.composite(alpha, values)
    return seen / (1 - passes[:, -1:]), passes


# ---------------------------------------------------------------------------------------------------- 09.4 voxels
@check_for("09.4")
def voxelize(answer):
    points = np.random.default_rng(2).uniform(-0.2, 0.35, (40, 3))
    points = np.concatenate([points, points[:3] + 1e-4])
    what = "43 points, cubes of 0.1 m, margin 2"
    found = answer(points, 0.1, 2)
    expect_length(found, 2, what)
    counts, corner = (torch.from_numpy(v.astype(np.float64)) for v in david.voxelize(points, 0.1, 2))
    place = array(found[1], (3,), f"{what}, the corner")
    expect_not_close(
        place, torch.from_numpy(points.min(0)), "The corner has no margin: it lies 2 cubes below all points"
    )
    expect_close(place, corner, f"{what}, the corner")
    expect_type(found[0], np.ndarray, f"{what}, the counts")
    total = float(found[0].sum())
    once = total == int((david.voxelize(points, 0.1, 2)[0] > 0).sum())
    expect(not once, f"{what}: {total:g} were counted. Some share a cube: += with index arrays counts it once")
    box = array(found[0], tuple(counts.shape), f"{what}, the counts")
    expect_close(box, counts, f"{what}, the counts")
    expect_raises(lambda: answer(np.zeros((0, 3)), 0.1, 2), ValueError, "no points")


@wrong_answer("09.4", says="counts it once")
def voxelize_once(points, cell, margin=3):
    counts, corner = david.voxelize(points, cell, margin)
    return np.minimum(counts, 1), corner


@wrong_answer("09.4", says="no margin")
def voxelize_without_margin(points, cell, margin=3):
    counts, corner = david.voxelize(points, cell, margin)
    return counts[margin:, margin:, margin:], points.min(0)


@wrong_answer("09.4", says="values are off")
def voxelize_rounded(points, cell, margin=3):
    counts, corner = david.voxelize(points, cell, margin)
    place = np.round((points - corner) / cell).astype(int)
    counts = np.zeros_like(counts)
    np.add.at(counts, tuple(place.T), 1)
    return counts, corner


# ---------------------------------------------------------------------------------------------------- 09.5 normals
@check_for("09.5")
def proxy_normals(answer):
    rng = np.random.default_rng(1)
    vertices, points = rng.normal(size=(40, 3)), rng.normal(size=(6, 4, 3))
    normals = rng.normal(size=(40, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    what = "6 strands of 4 points, 40 vertices"
    found = answer(points, vertices, normals)
    expect_type(found, np.ndarray, what)
    away = cKDTree(vertices).query(points)[1]
    expect(
        found.shape != (6, 4),
        f"{what}: the shape is (6, 4): those are distances or indices. Take the normals at the indices",
    )
    result = array(found, (6, 4, 3), what)
    expect_not_close(
        result, torch.from_numpy(vertices[away]), "Those are the nearest vertices. Their normals were asked for"
    )
    farthest = np.linalg.norm(points[:, :, None] - vertices, axis=-1).argmax(-1)
    expect_not_close(result, torch.from_numpy(normals[farthest]), "Those are the normals of the farthest vertices")
    expect_not_close(
        result,
        torch.from_numpy(normals[cKDTree(normals).query(points)[1]]),
        "The nearest was looked for among the normals. Look among the vertices",
    )
    expect_close(result, torch.from_numpy(normals[away]), what)
    expect_raises(lambda: answer(points, np.zeros((0, 3)), np.zeros((0, 3))), ValueError, "a proxy without vertices")


@wrong_answer("09.5", says="normals were asked for")
def normals_are_vertices(points, vertices, normals):
    return vertices[cKDTree(vertices).query(points)[1]]


@wrong_answer("09.5", says="distances or indices")
def normals_are_distances(points, vertices, normals):
    return cKDTree(vertices).query(points)[0]


@wrong_answer("09.5", says="among the normals")
def normals_wrong_tree(points, vertices, normals):
    return normals[cKDTree(normals).query(points)[1]]


# ---------------------------------------------------------------------------------------------------- 09.6 glass
@check_for("09.6")
def label_alpha(answer):
    alpha = np.array([[0.1, 0.6, 0.0], [0.3, 0.2, 0.9]], np.float32)
    lens = np.array([[True, False, True], [False, True, False]])
    kept = alpha.copy()
    within = array(answer(alpha, lens, True), (2, 3), "the lens in")
    expect(np.array_equal(alpha, kept), "alpha was changed in place: the picture needs it. Work on a copy")
    right = torch.tensor([[1.0, 0.6, 0.0], [0.3, 1.0, 0.9]], dtype=torch.float64)
    filled = torch.tensor([[1.0, 0.6, 1.0], [0.3, 1.0, 0.9]], dtype=torch.float64)
    expect_not_close(within, filled, "The lens in: a layer with alpha 0 became opaque, but it isn't there. It stays 0")
    expect_not_close(within, torch.from_numpy(kept).double(), "The lens in: lenses count as opaque, not as their tint")
    expect_not_close(within, right * torch.from_numpy(lens), "The lens in: strands count, too, as they are")
    expect_close(within, right, "the lens in")
    without = array(answer(alpha, lens, False), (2, 3), "the lens out")
    expect_not_close(
        without, torch.from_numpy(kept).double(), "The lens out: it still counts. It should be as if not there"
    )
    expect_close(without, torch.from_numpy(kept * ~lens).double(), "the lens out")


@wrong_answer("09.6", says="isn't there")
def glass_everywhere(alpha, lens, lens_in):
    return np.where(lens, float(lens_in), alpha)


@wrong_answer("09.6", says="still counts")
def glass_always(alpha, lens, lens_in):
    return np.where(lens & (alpha > 0) & lens_in, 1.0, alpha)


@wrong_answer("09.6", says="strands count")
def glass_only(alpha, lens, lens_in):
    return np.where(lens & (alpha > 0), float(lens_in), 0.0)


@wrong_answer("09.6", says="in place")
def glass_in_place(alpha, lens, lens_in):
    alpha[lens & (alpha > 0)] = float(lens_in)
    return alpha

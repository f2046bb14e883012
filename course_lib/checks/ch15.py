"""The checks of chapter 15, and for each the wrong answers that it must catch."""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.chapters.cameras import Camera, camera_to_pixels, plucker_rays
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_gradient,
    expect_not_close,
    expect_shape,
    expect_tensor,
    expect_type,
    expect_unchanged,
    wrong_answer,
)

# ------------------------------------------------------------------------------------------------ 15.1 rays as pictures
EYES = torch.tensor([[0.0, 1.0, 3.0], [2.0, 1.4, 1.0]])
CAMERAS = Camera.look_at(EYES, torch.tensor([0.0, 0.9, 0.0]), focal=40.0, size=(24, 16))
PELVIS = torch.tensor([[0.1, 0.9, -0.2], [0.3, 1.0, 0.4]])


def moved_rays(camera: Camera, size: tuple[int, int], origin: Tensor | None, unit: float, sign: float = -1) -> Tensor:
    """What 15.1 asks for, in the order direction, moment, (B, H, W, 6)."""
    d, m = plucker_rays(camera, size).split(3, -1)
    if origin is not None:
        m = m + sign * torch.linalg.cross(origin.expand(len(camera), 3)[:, None, None], d)
    return torch.cat([d, m / unit], -1)


def pictured(rays: Tensor) -> Tensor:
    """(B, H, W, 6) with the direction first -> (B, 6, H, W) with the moment first."""
    return torch.cat([rays[..., 3:], rays[..., :3]], -1).permute(0, 3, 1, 2)


@check_for("15.1")
def rays_as_pictures(answer):
    size = (24, 16)
    found = answer(CAMERAS, size)
    expect_type(found, Tensor, "the rays of two cameras")
    expect_shape(found, (2, 6, *size), "the rays of two cameras")
    plain = plucker_rays(CAMERAS, size)
    expect_not_close(found, plain.permute(0, 3, 1, 2), "LVSM's order is the moment o x d first, then the direction d")
    expect(found.unflatten(1, (2, 3))[:, 1].norm(dim=1).sub(1).abs().max() < 1e-4, "the last three are no unit vectors")
    expect_close(found, pictured(plain), "the rays of two cameras")
    found = answer(CAMERAS, size, PELVIS)
    for mistake, words in (
        (moved_rays(CAMERAS, size, None, 1), "The origin has not moved: the moment is (o - c) x d, with c the new 0"),
        (moved_rays(CAMERAS, size, PELVIS, 1, 1), "The origin went the wrong way: (o - c) x d = m - c x d"),
    ):
        expect_not_close(found, pictured(mistake), words)
    expect_close(found, pictured(moved_rays(CAMERAS, size, PELVIS, 1)), "the rays seen from a pelvis each")
    found = answer(CAMERAS, size, PELVIS[0], 2.0)
    right = moved_rays(CAMERAS, size, PELVIS[0], 2.0)
    expect_not_close(
        found,
        pictured(torch.cat([right[..., :3] / 2, right[..., 3:]], -1)),
        "The direction was divided by the unit, too. It has no length to convert: it stays a unit vector",
    )
    expect_not_close(
        found,
        pictured(moved_rays(CAMERAS, size, PELVIS[0], 1.0)),
        "The unit was left out: a moment is a length and is divided by it",
    )
    expect_close(found, pictured(right), "the rays from one pelvis (3,), in units of 2 m")


@wrong_answer("15.1", says="moment o x d first")
def rays_direction_first(camera, size, origin=None, unit=1.0):
    return moved_rays(camera, size, origin, unit).permute(0, 3, 1, 2)


@wrong_answer("15.1", says="has not moved")
def rays_not_moved(camera, size, origin=None, unit=1.0):
    return pictured(moved_rays(camera, size, None, unit))


@wrong_answer("15.1", says="wrong way")
def rays_moved_back(camera, size, origin=None, unit=1.0):
    return pictured(moved_rays(camera, size, origin, unit, 1.0))


@wrong_answer("15.1", says="stays a unit vector")
def rays_all_divided(camera, size, origin=None, unit=1.0):
    return pictured(moved_rays(camera, size, origin, 1.0)) / unit


@wrong_answer("15.1", says="sizes are there in another order")
def rays_last(camera, size, origin=None, unit=1.0):
    return pictured(moved_rays(camera, size, origin, unit)).permute(0, 2, 3, 1)


# -------------------------------------------------------------------------------------------------- 15.2 three planes
AXES = ((0, 1), (0, 2), (1, 2))


def sampled(planes: Tensor, points: Tensor, axes=AXES, **how) -> Tensor:
    places = torch.stack([points[:, pair] for pair in axes])[:, None]
    how = {"align_corners": False, "padding_mode": "border"} | how
    return grid_sample(planes, places, **how)[:, :, 0].permute(2, 0, 1).flatten(1)


@check_for("15.2")
def planes_at_points(answer):
    planes, points = torch.randn(3, 4, 8, 8), 1.6 * torch.rand(30, 3) - 0.8
    found = answer(planes, points)
    expect_type(found, Tensor, "the features of 30 points")
    expect_shape(found, (30, 12), "the features of 30 points, in planes of 4 channels")
    for mistake, words in (
        ({"axes": [pair[::-1] for pair in AXES]}, "Rows and columns are exchanged: grid_sample wants the column first"),
        ({"align_corners": True}, "The planes' edges are the middles of their outer texels, not their borders: "
         "align_corners=False, as in the course's pictures (centres at + 0.5)"),
        ({"mode": "nearest"}, "The nearest texel came back: a mean of the four around the point was asked for"),
    ):  # fmt: skip
        expect_not_close(found, sampled(planes, points, **mistake), words)
    right = sampled(planes, points)
    expect_not_close(
        found, right.unflatten(1, (3, 4)).mT.flatten(1), "The planes are mixed up: first all channels of xy, then of xz"
    )
    for i, name in enumerate(("xy", "xz", "yz")):
        expect_close(found[:, 4 * i : 4 * i + 4], right[:, 4 * i : 4 * i + 4], f"the features from the plane {name}")
    planes.requires_grad_()
    expect_gradient(answer(planes, points), planes, "the planes")


@wrong_answer("15.2", says="column first")
def planes_exchanged(planes, points):
    return sampled(planes, points, [pair[::-1] for pair in AXES])


@wrong_answer("15.2", says="align_corners=False")
def planes_corners(planes, points):
    return sampled(planes, points, align_corners=True)


@wrong_answer("15.2", says="nearest texel")
def planes_nearest(planes, points):
    return sampled(planes, points, mode="nearest")


@wrong_answer("15.2", says="mixed up")
def planes_interleaved(planes, points):
    return sampled(planes, points).unflatten(1, (3, -1)).mT.flatten(1)


@wrong_answer("15.2", says="plane xz")
def planes_wrong_pair(planes, points):
    return sampled(planes, points, ((0, 1), (2, 0), (1, 2)))


# ------------------------------------------------------------------------------------------------- 15.3 the pose image
FACES = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 4, 0]])


def seen_faces() -> tuple[Tensor, Tensor]:
    """Of two samples with a view each: face (2, 1, 4, 5), -1 at the rim, and barycentric (2, 1, 4, 5, 3)."""
    face = torch.randint(3, (2, 1, 4, 5))
    face[..., 0, :] = face[..., :, -1] = -1
    weights = torch.rand(2, 1, 4, 5, 3) + 0.1
    return face, weights / weights.sum(-1, keepdim=True) * (face >= 0)[..., None]


def gathered(features: Tensor, faces: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
    """(..., H, W, C), with what the face -1 would give."""
    return (features[faces[face]] * barycentric[..., None]).sum(-2)


@check_for("15.3")
def features_in_view(answer):
    features = torch.randn(5, 7)
    face, barycentric = seen_faces()
    before = face.clone()
    found = answer(features, FACES, face, barycentric)
    expect_unchanged(face, before, "face")
    expect_type(found, Tensor, "two pose images")
    expect_shape(found, (2, 1, 7, 4, 5), "two pose images of 7 channels")
    right = (gathered(features, FACES, face, barycentric) * (face >= 0)[..., None]).movedim(-1, -3)
    first = features[FACES[face.clamp(min=0), 0]].movedim(-1, -3) * (face >= 0)[..., None, :, :]
    even = gathered(features, FACES, face, torch.full_like(barycentric, 1 / 3)).movedim(-1, -3)
    even = even * (face >= 0)[..., None, :, :]
    expect_not_close(found, first, "A pixel has its face's first corner. All three count, by their barycentric weights")
    expect_not_close(found, even, "The three corners count alike: weigh them by the barycentric coordinates")
    expect_close(found, right, "two pose images")
    loose = barycentric + (face < 0)[..., None] / 3  # weights where there is no face
    found = answer(features, FACES, face, loose)
    empty = found.movedim(-3, -1)[face < 0]
    expect(empty.abs().max() == 0, "Pixels without a face (-1) aren't 0: index -1 is the last face. Leave them out")
    short = answer(features, FACES, face.to(torch.int32)[0, 0], barycentric[0, 0])
    expect_close(short, right[0, 0], "one pose image, of (H, W) int32 faces")
    strided = torch.stack([face, face], -1)[..., 0]
    expect_close(answer(features, FACES, strided, barycentric), right, "pose images of a face that is part of a tensor")
    features.requires_grad_()
    expect_gradient(answer(features, FACES, face, barycentric), features, "the features of the vertices")


@wrong_answer("15.3", says="first corner")
def pose_first_corner(features, faces, face, barycentric):
    return features[faces[face.long().clamp(min=0), 0]].movedim(-1, -3) * (face >= 0)[..., None, :, :]


@wrong_answer("15.3", says="count alike")
def pose_even(features, faces, face, barycentric):
    return humanram.pose_image(features, faces, face, torch.full_like(barycentric, 1 / 3))


@wrong_answer("15.3", says="last face")
def pose_minus_one(features, faces, face, barycentric):
    return gathered(features, faces, face.long(), barycentric).movedim(-1, -3)


@wrong_answer("15.3", says="another order")
def pose_channels_last(features, faces, face, barycentric):
    return humanram.pose_image(features, faces, face, barycentric).movedim(-3, -1)


@wrong_answer("15.3", says="no gradient")
def pose_detached(features, faces, face, barycentric):
    return humanram.pose_image(features.detach(), faces, face, barycentric)


# ---------------------------------------------------------------------------------------------------- 15.4 the sequence
@check_for("15.4")
def sequences(answer):
    inputs, queries = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 4, 5)
    found = answer(inputs, queries)
    expect_type(found, tuple, "the answer")
    expect(len(found) == 2, f"{len(found)} things came back: the sequence, and who may be listened to")
    sequence, keep = found
    expect_shape(sequence, (4, 16, 5), "the sequences of 2 samples with 3 inputs and 2 targets, 4 tokens a view")
    context = inputs.flatten(1, 2)
    right = torch.stack([torch.cat([context[n // 2], queries[n // 2, n % 2]]) for n in range(4)])
    swapped = torch.cat([context.repeat(2, 1, 1), queries.flatten(0, 1)], 1)
    expect_not_close(
        sequence,
        swapped,
        "A target meets the pictures of the other person: row 1 is target 1 of sample 0, so each sample's inputs are "
        "repeated in place (repeat_interleave)",
    )
    expect_not_close(sequence, right.roll(4, 1), "The target's tokens stand in front: they belong at the end")
    expect_close(sequence, right, "the sequences")
    expect(keep is None, "seen was not given, so the second answer is None")
    seen = torch.tensor([[True, True, False], [True, False, False]])
    sequence, keep = answer(inputs, queries, seen)
    expect_close(sequence, right, "the sequences where some views aren't there")
    expect_type(keep, Tensor, "who may be listened to")
    expect_shape(keep, (4, 16), "who may be listened to")
    meant = torch.stack([torch.cat([seen[n // 2].repeat_interleave(4), torch.ones(4).bool()]) for n in range(4)])
    expect(keep.dtype == torch.bool, f"who may be listened to is {keep.dtype}, torch.bool was expected")
    expect(keep[:, 12:].all(), "The target's own tokens are left out: they may always be listened to")
    expect(
        not torch.equal(keep[:, :12], ~meant[:, :12]), "True and False are exchanged: True is who may be listened to"
    )
    where = f"{int((keep != meant).sum())} of {meant.numel()} are off. A view's {4} tokens stand one after the other"
    expect(torch.equal(keep, meant), f"who may be listened to: {where}, and share its seen")


@wrong_answer("15.4", says="other person")
def assemble_tiled(inputs, queries, seen=None):
    context = inputs.flatten(1, 2).repeat(queries.shape[1], 1, 1)
    return torch.cat([context, queries.flatten(0, 1)], 1), None


@wrong_answer("15.4", says="at the end")
def assemble_target_first(inputs, queries, seen=None):
    sequence, keep = humanram.assemble(inputs, queries, seen)
    return sequence.roll(queries.shape[2], 1), keep


@wrong_answer("15.4", says="may always be listened to")
def assemble_deaf(inputs, queries, seen=None):
    sequence, keep = humanram.assemble(inputs, queries, seen)
    if keep is not None:
        keep[:, -queries.shape[2] :] = False
    return sequence, keep


@wrong_answer("15.4", says="exchanged")
def assemble_exchanged(inputs, queries, seen=None):
    return humanram.assemble(inputs, queries, None if seen is None else ~seen)


@wrong_answer("15.4", says="one after the other")
def assemble_interleaved(inputs, queries, seen=None):
    sequence, keep = humanram.assemble(inputs, queries, seen)
    if seen is not None:
        targets, count = queries.shape[1:3]
        keep[:, : seen.shape[1] * count] = seen.repeat(1, count).repeat_interleave(targets, 0)
    return sequence, keep


@wrong_answer("15.4", says="the shape is")
def assemble_all_at_once(inputs, queries, seen=None):
    return torch.cat([inputs.flatten(1, 2), queries.flatten(1, 2)], 1), None


# ----------------------------------------------------------------------------------------------------- 15.5 attention
def plain_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None, scale: float | None = None) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (scale or q.shape[-1] ** -0.5)
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None], -1e9)
    return torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v)


@check_for("15.5")
def attention_of_views(answer):
    q, k, v = torch.randn(3, 2, 3, 6, 4).unbind(0)
    norms = [humanram.RMSNorm(4), humanram.RMSNorm(4)]
    with torch.no_grad():
        norms[0].weight.copy_(torch.tensor([2.0, 0.5, 1.0, 3.0]))
        norms[1].weight.copy_(torch.tensor([1.0, 2.0, 0.2, 1.5]))
    kept = [part.clone() for part in (q, k, v)]
    found = answer(q, k, v, norms)
    for part, before, name in zip((q, k, v), kept, "qkv", strict=True):
        expect_unchanged(part, before, name)
    expect_type(found, Tensor, "the answers")
    expect_shape(found, (2, 3, 6, 4), "the answers")
    nq, nk, nv = norms[0](q), norms[1](k), norms[0](v)
    for mistake, words in (
        ((q, k, v), "Nothing was normalised: QK-norm comes before the scores"),
        ((nq, nk, nv), "The values were normalised, too: QK-norm is for queries and keys only"),
        ((nq, k, v), "The keys were not normalised"),
        ((q, nk, v), "The queries were not normalised"),
    ):
        expect_not_close(found, plain_attention(*mistake), words)
    unscaled = plain_attention(nq, nk, v, scale=1.0)
    expect_not_close(found, unscaled, "The scores were not divided by √d. QK-norm does not replace it, here as in LVSM")
    expect_close(found, plain_attention(nq, nk, v), "the answers where all are listened to")
    keep = torch.tensor([[True, True, False, False, True, True], [True, False, True, True, True, True]])
    found = answer(q, k, v, norms, keep)
    expect(
        not found.isnan().any(),
        "Some rows have nobody to listen to (all -inf makes NaN): mask the columns, who is heard, not the rows",
    )
    right = plain_attention(nq, nk, v, keep)
    expect_not_close(found, plain_attention(nq, nk, v), "keep was ignored: all tokens were listened to")
    expect_not_close(found, plain_attention(nq, nk, v, ~keep), "keep was turned around: True is who is listened to")
    thinned = torch.einsum("bhnm,bhmd->bhnd", (nq @ nk.mT / 2).softmax(-1) * keep[:, None, None], v)
    expect_not_close(
        found, thinned, "The shares of a row sum to less than 1: mask the scores with -inf, before the softmax"
    )
    silent = right * keep[:, None, :, None]
    expect_not_close(
        found, silent, "Masked tokens may ask, too (nobody will listen to them): mask the columns, not the rows"
    )
    expect_close(found, right, "the answers where some are not listened to")


@wrong_answer("15.5", says="Nothing was normalised")
def attention_without_norms(q, k, v, norms, keep=None):
    return plain_attention(q, k, v, keep)


@wrong_answer("15.5", says="keys were not normalised")
def attention_normed_queries(q, k, v, norms, keep=None):
    return plain_attention(norms[0](q), k, v, keep)


@wrong_answer("15.5", says="mask the columns")
def attention_masked_rows(q, k, v, norms, keep=None):
    found = humanram.view_attention(q, k, v, norms, keep)
    return found if keep is None else found * keep[:, None, :, None]


@wrong_answer("15.5", says="nobody to listen to")
def attention_rows_to_nothing(q, k, v, norms, keep=None):
    scores = norms[0](q) @ norms[1](k).mT * q.shape[-1] ** -0.5
    scores = scores if keep is None else scores.masked_fill(~keep[:, None, :, None], -torch.inf)
    return scores.softmax(-1) @ v


@wrong_answer("15.5", says="values were normalised")
def attention_normed_values(q, k, v, norms, keep=None):
    return plain_attention(norms[0](q), norms[1](k), norms[0](v), keep)


@wrong_answer("15.5", says="divided by √d")
def attention_unscaled(q, k, v, norms, keep=None):
    return plain_attention(norms[0](q), norms[1](k), v, keep, scale=1.0)


@wrong_answer("15.5", says="before the softmax")
def attention_masked_late(q, k, v, norms, keep=None):
    shares = (norms[0](q) @ norms[1](k).mT * q.shape[-1] ** -0.5).softmax(-1)
    return (shares if keep is None else shares * keep[:, None, None]) @ v


@wrong_answer("15.5", says="turned around")
def attention_turned(q, k, v, norms, keep=None):
    return plain_attention(norms[0](q), norms[1](k), v, None if keep is None else ~keep)


# ---------------------------------------------------------------------------------------------- 15.6 views in between
def draws(answer, views: int, inputs: int, targets: int, times: int = 40) -> list[tuple[list[int], list[int]]]:
    """What an answer draws, time after time."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(times):
        given, asked = answer(generator, views, inputs, targets)
        expect_shape(given, (inputs,), "the numbers of the given views")
        expect_shape(asked, (targets,), "the numbers of the views to draw")
        expect(not given.is_floating_point() and not asked.is_floating_point(), "views are numbered by integers")
        found.append((given.tolist(), asked.tolist()))
    return found


def even_gap(given: list[int], views: int) -> int:
    """How many cameras apart neighbours are; 0 where it isn't the same for all."""
    gaps = {(b - a) % views for a, b in zip(given, given[1:], strict=False)}
    return gaps.pop() if len(gaps) == 1 else 0


@check_for("15.6")
def views_in_between(answer):
    for views, inputs, targets in ((12, 2, 2), (12, 4, 4), (10, 2, 1), (12, 3, 3)):
        kinds = set()
        for given, asked in draws(answer, views, inputs, targets):
            what = f"of {views} views were given {given} and asked for {asked}"
            numbers = given + asked
            expect(
                min(numbers) >= 0 and max(numbers) < views, f"{what}: count on from 0 behind the last (modulo views)"
            )
            expect(len(set(asked)) == targets, f"{what}: a view is to be drawn twice")
            expect(not set(given) & set(asked), f"{what}: a view is given and asked for")
            apart = even_gap(given, views)
            expect(apart > 0, f"{what}: the given views don't stand equally far apart, in order")
            expect(
                apart * inputs <= views,
                f"{what}: {apart} apart is more than fits around the ring, at most views // inputs",
            )
            inside = [(view - given[0]) % views for view in asked]
            expect(
                max(inside) < apart * (inputs - 1),
                f"{what}: {asked[inside.index(max(inside))]} is not between the first and the last given view",
            )
            kinds.add((given[0], apart))
        expect(len({start for start, _ in kinds}) > 4, "the first given view is nearly always the same: draw it, too")
        widths = {apart for _, apart in kinds}
        least, most = max(2, 1 + -(-targets // (inputs - 1))), views // inputs
        expect(
            widths == set(range(least, most + 1)),
            f"for {inputs} + {targets} of {views} views the given stood {sorted(widths)} apart: every distance from "
            f"{least}, the least with enough in between, to {most} should come up",
        )
    expect(len({tuple(asked) for _, asked in draws(answer, 12, 2, 2)}) > 8, "the views to draw are hardly random")
    expect(
        draws(answer, 12, 2, 2, 5) == draws(answer, 12, 2, 2, 5),
        "the same generator gives other views: hand `generator` to every draw",
    )
    for views, inputs, targets in ((4, 2, 2), (3, 2, 1), (4, 1, 4)):
        try:
            answer(torch.Generator(), views, inputs, targets)
        except ValueError:
            continue
        expect(False, f"{inputs} given and {targets} asked for of {views} views can't be: raise a ValueError")
    alone = draws(answer, 6, 1, 3)
    expect(all(not set(given) & set(asked) for given, asked in alone), "with one view given, it is asked for as well")
    seen = {(view - given[0]) % 6 for given, asked in alone for view in asked}
    expect(seen == {1, 2, 3, 4, 5}, "with one view given, any of the others may be asked for")


def chosen(generator, views, inputs, targets, narrow=2, between=True, wrap=True, start=None, most=None, seeded=True):
    """The right answer, with what may go wrong."""
    least = 2 if inputs == 1 else max(narrow, 1 + -(-targets // (inputs - 1)))
    most = views if inputs == 1 else most or max(least, views // inputs)
    apart = most if inputs == 1 else int(torch.randint(least, most + 1, (), generator=generator))
    first = int(torch.randint(views, (), generator=generator)) if start is None else start
    steps = torch.arange(1, apart * max(inputs - 1, 1))
    steps = steps[steps % apart > 0] if between else steps
    picked = steps[torch.randperm(len(steps), generator=generator if seeded else None)[:targets]]
    given, asked = first + apart * torch.arange(inputs), first + picked
    return (given % views, asked % views) if wrap else (given, asked)


@wrong_answer("15.6", says="modulo views")
def chosen_without_wrapping(generator, views, inputs, targets):
    return chosen(generator, views, inputs, targets, wrap=False)


@wrong_answer("15.6", says="given and asked for")
def chosen_with_the_given(generator, views, inputs, targets):
    return chosen(generator, views, inputs, targets, between=False)


@wrong_answer("15.6", says="nearly always the same")
def chosen_from_the_first(generator, views, inputs, targets):
    return chosen(generator, views, inputs, targets, start=0)


@wrong_answer("15.6", says="more than fits around the ring")
def chosen_too_wide(generator, views, inputs, targets):
    most = min(views // 2, (views - 1) // max(1, inputs - 1))
    return chosen(generator, views, inputs, targets, most=most)


@wrong_answer("15.6", says="hand `generator` to every draw")
def chosen_without_the_generator(generator, views, inputs, targets):
    return chosen(generator, views, inputs, targets, seeded=False)


@wrong_answer("15.6", says="raise a ValueError")
def chosen_or_nothing(generator, views, inputs, targets):
    try:
        return humanram.choose_views(generator, views, inputs, targets)
    except ValueError:
        return None


@wrong_answer("15.6", says="equally far apart|between|fits")
def chosen_anywhere(generator, views, inputs, targets):
    order = torch.randperm(views, generator=generator)
    return order[:inputs], order[inputs : inputs + targets]


@wrong_answer("15.6", says="not between")
def chosen_outside(generator, views, inputs, targets):
    given, _ = chosen(generator, views, inputs, targets)
    others = torch.tensor([view for view in range(views) if view not in given.tolist()])
    return given, others[torch.randperm(len(others), generator=generator)[:targets]]


# ---------------------------------------------------------------------------------------------- 15.7 PSNR on a mask
PAIR = torch.rand(2, 3, 3, 6, 5, generator=torch.Generator().manual_seed(7))
SHARE = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(8)) > torch.tensor([0.5, 0.8, 0.1])[:, None, None]


def decibels(prediction: Tensor, target: Tensor, mask: Tensor, clip: bool = True) -> Tensor:
    """(15.8), picture by picture."""
    prediction = prediction.clamp(0, 1) if clip else prediction
    return torch.stack(
        [-10 * (p - t)[:, m].square().mean().log10() for p, t, m in zip(prediction, target, mask, strict=True)]
    )


@check_for("15.7")
def psnr_on_a_mask(answer):
    prediction, target = 1.6 * PAIR[0] - 0.3, PAIR[1]
    found = answer(prediction, target, SHARE)
    expect_type(found, Tensor, "the PSNR of three pictures")
    right = decibels(prediction, target, SHARE)
    expect(
        found.ndim == 1 and len(found) == 3,
        f"a number for each of three pictures was expected, not {tuple(found.shape)}: no mean over the batch",
    )
    everywhere = torch.ones_like(SHARE)
    expect_not_close(
        found, decibels(prediction, target, everywhere), "The mask changes nothing: count its pixels alone"
    )
    expect_not_close(found, decibels(prediction, target, SHARE, clip=False), "Clip the prediction to [0, 1] first")
    outside = (SHARE.float().mean((1, 2))).log10() * 10
    expect_not_close(
        found,
        right - outside,
        "The error was divided by the pixels of the whole picture: divide by the mask's",
        atol=1e-3,
    )
    expect_not_close(
        found, right - 10 * torch.tensor(3.0).log10(), "Three colours: the mean over them, not the sum", atol=1e-3
    )
    expect_not_close(found, -right, "PSNR falls as the error grows: 10 log10(1 / error)", atol=1e-3)
    expect_not_close(found, right * torch.tensor(10.0).log(), "log10, not the natural logarithm", atol=1e-3)
    expect_close(found, right, "the PSNR of three pictures on their masks", atol=1e-3)
    none = answer(prediction, target, torch.zeros_like(SHARE))
    expect(bool(none.isnan().all()), f"a mask without pixels has no PSNR: NaN, not {none.tolist()}")
    same = answer(target, target, SHARE)
    expect(bool(torch.isinf(same).all()), f"equal pictures have infinite PSNR, not {same.tolist()}: add no epsilon")


@wrong_answer("15.7", says="no mean over the batch")
def psnr_of_the_batch(prediction, target, mask):
    return humanram.masked_psnr(prediction, target, mask).mean()


@wrong_answer("15.7", says="whole picture")
def psnr_over_everything(prediction, target, mask):
    error = ((prediction.clamp(0, 1) - target).square() * mask[:, None]).mean((1, 2, 3))
    return -10 * error.log10()


@wrong_answer("15.7", says="three colours|Three colours")
def psnr_summed_colours(prediction, target, mask):
    squared = (prediction.clamp(0, 1) - target).square().sum(1)
    return -10 * ((squared * mask).sum((1, 2)) / mask.sum((1, 2))).log10()


@wrong_answer("15.7", says="Clip")
def psnr_unclipped(prediction, target, mask):
    squared = (prediction - target).square().mean(1)
    return -10 * ((squared * mask).sum((1, 2)) / mask.sum((1, 2))).log10()


@wrong_answer("15.7", says="without pixels has no PSNR")
def psnr_of_nothing(prediction, target, mask):
    squared = (prediction.clamp(0, 1) - target).square().mean(1)
    return -10 * ((squared * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).log10()


@wrong_answer("15.7", says="epsilon")
def psnr_with_epsilon(prediction, target, mask):
    squared = (prediction.clamp(0, 1) - target).square().mean(1)
    return -10 * ((squared * mask).sum((1, 2)) / mask.sum((1, 2)) + 1e-8).log10()


# ---------------------------------------------------------------------------------------------- 15.8 cosine, warm-up
@check_for("15.8")
def cosine_with_warmup(answer):
    steps, warmup, peak = 1000, 100, 2e-3
    found = torch.tensor([float(answer(k, steps, peak, warmup)) for k in range(steps)], dtype=torch.float64)
    expect_finite(found, "the learning rates")
    expect(found[0] > 0, "the rate of step 0 is 0, a step for nothing: (k + 1) / W")
    up = peak * (torch.arange(warmup, dtype=torch.float64) + 1) / warmup
    expect(abs(found[warmup - 1] - peak) < 1e-9, f"after {warmup} steps of warm-up the rate is the peak, {peak:g}")
    expect_close(found[:warmup], up, "the warm-up, a line", atol=1e-9)
    share = torch.arange(steps - warmup, dtype=torch.float64) / (steps - warmup)
    late = peak * (1 + (math.pi * torch.arange(warmup, steps, dtype=torch.float64) / steps).cos()) / 2
    expect_not_close(found[warmup:], late, "The cosine's share is counted from the end of the warm-up", atol=1e-9)
    line = peak * (1 - share)
    expect_not_close(found[warmup:], line, "A straight line came back: (15.9) falls like half a cosine", atol=1e-9)
    double = peak * (1 + (2 * math.pi * share).cos()) / 2
    expect_not_close(
        found[warmup:], double, "A whole cosine falls and rises again: half of one, π and not 2π", atol=1e-9
    )
    expect_not_close(found[warmup:], peak * (math.pi * share).cos(), "Below 0 it can't go: (1 + cos) / 2", atol=1e-9)
    expect_close(found[warmup:], peak * (1 + (math.pi * share).cos()) / 2, "the way down", atol=1e-9)
    expect(abs(answer(0, 10, 1.0, 0) - 1) < 1e-9, "without warm-up the first step has the peak; don't divide by 0")
    expect(abs(answer(0, 70_000) - 4e-4 / 2500) < 1e-12, "by default the peak is 4e-4 and the warm-up 2500 steps")


def half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


@wrong_answer("15.8", says="for nothing")
def rate_from_zero(step, steps, peak=4e-4, warmup=2500):
    return peak * step / warmup if step < warmup else humanram.learning_rate(step, steps, peak, warmup)


@wrong_answer("15.8", says="end of the warm-up")
def rate_counted_from_zero(step, steps, peak=4e-4, warmup=2500):
    return peak * (step + 1) / warmup if step < warmup else peak * half_cosine(step / steps)


@wrong_answer("15.8", says="half of one")
def rate_of_a_whole_cosine(step, steps, peak=4e-4, warmup=2500):
    right = humanram.learning_rate(step, steps, peak, warmup)
    return right if step < warmup else peak * half_cosine(2 * (step - warmup) / (steps - warmup))


@wrong_answer("15.8", says="straight line")
def rate_in_a_line(step, steps, peak=4e-4, warmup=2500):
    right = humanram.learning_rate(step, steps, peak, warmup)
    return right if step < warmup else peak * (1 - (step - warmup) / (steps - warmup))


# ------------------------------------------------------------------------------------ 15.9 who sees this point?
def wall() -> tuple[Camera, Tensor]:
    """A camera at the origin whose left half shows a wall at depth 2, the right half nothing: 6 x 10 pixels."""
    K = torch.tensor([[[10.0, 0.0, 5.0], [0.0, 10.0, 3.0], [0.0, 0.0, 1.0]]])
    depth = torch.full((1, 6, 10), torch.inf)
    depth[:, :, :5] = 2.0
    return Camera(K, torch.eye(3)[None], torch.zeros(1, 3)), depth


def at_pixel(x: float, y: float, z: float) -> Tensor:
    """The point (1, 3) of depth z that the wall's camera sees at a place."""
    return torch.tensor([[(x - 5.0) * z / 10, (y - 3.0) * z / 10, z]])


@check_for("15.9")
def sees_points(answer):
    camera, depth = wall()

    def seen(point: Tensor, tolerance: float = 0.02) -> bool:
        found = answer(point, camera, depth, tolerance)
        expect_tensor(found, (1, 1), torch.bool, what="one camera, one point")
        return bool(found)

    expect(seen(at_pixel(2.5, 3.5, 1.5)), "A point in front of the wall is seen")
    expect(not seen(at_pixel(2.5, 3.5, 2.5)), "A point half a metre behind the wall is not seen")
    expect(
        seen(at_pixel(0.2, 0.2, 1.98)), "A point before the wall, in the picture's corner: depth is z, not a distance"
    )
    expect(
        seen(at_pixel(2.5, 3.5, 2.01)),
        "A point 1 cm behind the wall, with a tolerance of 2 cm, counts as seen: else a slanted surface hides itself",
    )
    expect(seen(at_pixel(2.5, 3.5, 2.1), 0.2), "The tolerance isn't used: a point 10 cm behind the wall, of 20 cm")
    expect(not seen(at_pixel(4.7, 3.5, 3.0)), "Place 4.7 is in pixel 4, which shows the wall: take the floor")
    expect(seen(at_pixel(5.2, 3.5, 3.0)), "Place 5.2 is in pixel 5, which shows nothing: a point there is seen")
    expect(seen(at_pixel(7.5, 2.5, 3.0)), "Column 7, row 2 is in the picture (6 rows, 10 columns), and shows nothing")
    for x, y in ((13.5, 3.5), (-1.5, 3.5), (7.5, 8.5), (7.5, -1.5)):
        expect(not seen(at_pixel(x, y, 1.5)), f"A point at ({x}, {y}) is outside the frame: it isn't seen")
    expect(not seen(torch.tensor([[0.0, 0.0, -3.0]])), "A point behind the camera, z < 0, isn't seen")
    eye = torch.tensor([[0.3, 0.2, -1.0], [2.0, 0.5, 3.0], [-2.0, 0.1, 3.0]])
    around = Camera.look_at(eye, torch.tensor([0.0, 0.0, 2.0]), focal=12.0, size=(6, 10))
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(40, 3, generator=generator) * torch.tensor([2.0, 1.5, 2.0]) - torch.tensor([1.0, 0.75, -1.0])
    depths = 1.5 + 2 * torch.rand(3, 6, 10, generator=generator)
    expect_equal(answer(points, around, depths), humanram.seen_by(points, around, depths), "three cameras, 40 points")


def looked_up(points, camera, depth):
    """Depth (S, P) of the points, and of the pixel that each falls into; where it is in the frame."""
    inside = camera.to_camera(points.expand(len(camera), -1, -1))
    column, row = camera_to_pixels(inside, camera.K).floor().long().unbind(-1)
    height, width = depth.shape[-2:]
    framed = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return inside, depth.flatten(1).gather(1, place), framed


@wrong_answer("15.9", says="hides itself")
def seen_without_tolerance(points, camera, depth, tolerance=0.02):
    inside, surface, framed = looked_up(points, camera, depth)
    return framed & (inside[..., 2] > 0) & (inside[..., 2] <= surface)


@wrong_answer("15.9", says="not a distance")
def seen_by_distance(points, camera, depth, tolerance=0.02):
    inside, surface, framed = looked_up(points, camera, depth)
    return framed & (inside[..., 2] > 0) & (inside.norm(dim=-1) <= surface + tolerance)


@wrong_answer("15.9", says="take the floor")
def seen_at_rounded_pixel(points, camera, depth, tolerance=0.02):
    inside = camera.to_camera(points.expand(len(camera), -1, -1))
    column, row = camera_to_pixels(inside, camera.K).round().long().unbind(-1)
    height, width = depth.shape[-2:]
    framed = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (inside[..., 2] > 0)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return framed & (inside[..., 2] <= depth.flatten(1).gather(1, place) + tolerance)


@wrong_answer("15.9", says="outside the frame")
def seen_outside(points, camera, depth, tolerance=0.02):
    inside, surface, _ = looked_up(points, camera, depth)
    return (inside[..., 2] > 0) & (inside[..., 2] <= surface + tolerance)


@wrong_answer("15.9", says=r"at \(-1.5, 3.5\) is outside the frame")
def seen_left_of_the_frame(points, camera, depth, tolerance=0.02):
    inside, surface, framed = looked_up(points, camera, depth)
    column, row = camera_to_pixels(inside, camera.K).unbind(-1)
    left = (column < 0) & (row >= 0) & (row < depth.shape[-2])
    return (framed | left) & (inside[..., 2] > 0) & (inside[..., 2] <= surface + tolerance)


@wrong_answer("15.9", says="behind the camera")
def seen_from_behind(points, camera, depth, tolerance=0.02):
    inside, surface, framed = looked_up(points, camera, depth)
    return framed & (inside[..., 2] <= surface + tolerance)


# ------------------------------------------------------------------------------------ 15.10 the way a patch looks
def some_shares(views: int, grid: tuple[int, int], heads: int = 3) -> Tensor:
    count = grid[0] * grid[1]
    scores = torch.randn(heads, count, (views + 1) * count, generator=torch.Generator().manual_seed(1))
    return (2 * scores).softmax(-1)


@check_for("15.10")
def looks_of_a_patch(answer):
    shares = some_shares(2, (2, 3))
    given = shares.mean(0)[4, :12]
    found = answer(shares, 4, 2, (2, 3))
    expect_tensor(found, (2, 2, 3), torch.float32, what="two views of 2 x 3 patches")
    expect_not_close(found, given.view(2, 2, 3), "The shares of the given views must sum to 1, without the target's")
    own = shares.mean(0)[4, -12:]
    expect_not_close(found, (own / own.sum()).view(2, 2, 3), "The given views come first: cut off the last N columns")
    most = shares.amax(0)[4, :12]
    expect_not_close(found, (most / most.sum()).view(2, 2, 3), "Take the mean over the heads, not the largest")
    mixed = (given / given.sum()).view(2, 3, 2).permute(2, 0, 1)
    expect_not_close(found, mixed, "All patches of view 1 come first, row by row, then those of view 2")
    expect_close(found, (given / given.sum()).view(2, 2, 3), "token 4 of 6, two views")
    shares = some_shares(3, (4, 2))
    expect_close(answer(shares, 0, 3, (4, 2)), humanram.looks_at(shares, 0, 3, (4, 2)), "token 0 of 8, three views")


@wrong_answer("15.10", says="must sum to 1")
def looks_not_scaled(shares, token, views, grid):
    return shares.mean(0)[token, : views * grid[0] * grid[1]].view(views, *grid)


@wrong_answer("15.10", says="come first: cut off")
def looks_from_the_end(shares, token, views, grid):
    given = shares.mean(0)[token, -views * grid[0] * grid[1] :]
    return (given / given.sum()).view(views, *grid)


@wrong_answer("15.10", says="mean over the heads")
def looks_of_largest(shares, token, views, grid):
    given = shares.amax(0)[token, : views * grid[0] * grid[1]]
    return (given / given.sum()).view(views, *grid)


@wrong_answer("15.10", says="row by row")
def looks_interleaved(shares, token, views, grid):
    given = shares.mean(0)[token, : views * grid[0] * grid[1]]
    return (given / given.sum()).view(*grid, views).permute(2, 0, 1)

"""The checks of chapter 16, and for each the wrong answers that it must catch."""

import torch
from torch import Tensor

from course_lib.chapters import humanram_animation as animation
from course_lib.chapters.cameras import (
    Camera,
    axis_angle_to_matrix,
    intrinsics,
    nearest_rotation,
    skew,
    solve_pnp,
    weak_perspective_project,
)
from course_lib.chapters.humanram_reconstruction import ray_map
from course_lib.chapters.rendering import rasterize
from course_lib.chapters.sapiens_pose import crop_people
from course_lib.checks import (
    check_for,
    expect,
    expect_close,
    expect_length,
    expect_not_close,
    expect_shape,
    expect_type,
    expect_unchanged,
    wrong_answer,
)


# --------------------------------------------------------------------------------------------- 16.2 targets in a window
def drawn_pairs(answer, frames: int, window: int, every: int) -> list[tuple[int, int]]:
    """Source and target frames of many draws."""
    generator, pairs = torch.Generator().manual_seed(0), []
    for _ in range(600):
        found = answer(generator, frames, 3, window, every)
        expect_length(found, 2, "the answer: the given frame, and the targets' frames")
        expect_type(found[1], Tensor, "the targets' frames")
        expect_shape(found[1], (3,), "the frames of 3 targets")
        expect(not found[1].dtype.is_floating_point, "the frames of 3 targets are no whole numbers")
        pairs += [(int(found[0]), int(goal)) for goal in found[1]]
    return pairs


@check_for("16.2")
def targets_in_a_window(answer):
    pairs = drawn_pairs(answer, 9, 50, 12)  # 50 frames of the motion are 4 of those that are kept
    goals = [goal for _, goal in pairs]
    expect(
        min(goals) >= 0 and max(goals) < 9,
        f"targets of the frames {min(goals)} to {max(goals)} were drawn, the clip has 0 to 8: the window is cut off "
        "where the clip ends",
    )
    sources = {source for source, _ in pairs}
    expect(
        sources == set(range(9)),
        f"the given frame was one of {sorted(sources)} only, in 600 draws: it may be any of the clip's, with the "
        "window cut off at the clip's ends",
    )
    apart = [abs(source - goal) for source, goal in pairs]
    expect(
        max(apart) <= 4,
        f"a target {max(apart)} kept frames away was drawn. Every 12th frame of the motion is kept, so that is "
        f"{12 * max(apart)} frames, and the window is 50: divide it by `every`",
    )
    expect(max(apart) == 4, f"targets are at most {max(apart)} kept frames away: the window's ends belong to it")
    expect(
        {source - goal > 0 for source, goal in pairs if source != goal} == {True, False},
        "all targets lie on one side of the given frame: [t - 50, t + 50] reaches both ways",
    )
    first = [goal for source, goal in pairs if source == 0]
    share = first.count(0) / len(first)
    expect(
        share < 0.4,
        f"of the targets of frame 0, {share:.0%} are frame 0 itself; 20 % were expected. Clamping piles up at the "
        "clip's ends what lies beyond them: cut the window first, then draw",
    )
    whole = drawn_pairs(answer, 3, 50, 1)
    expect(
        {goal for _, goal in whole} == {0, 1, 2}, "of a clip that is shorter than the window, any frame may be asked"
    )


def window_draw(generator, frames, targets, reach, low=None):
    frame = int(torch.randint(frames, (), generator=generator))
    return frame, max(0, frame - reach), min(frames - 1, frame + reach)


@wrong_answer("16.2", says="divide it by `every`")
def window_of_kept_frames(generator, frames, targets, window=50, every=1):
    return animation.avatar_targets(generator, frames, targets, window, 1)


@wrong_answer("16.2", says="Clamping piles up")
def window_clamped(generator, frames, targets, window=50, every=1):
    frame, reach = int(torch.randint(frames, (), generator=generator)), window // every
    goals = frame + torch.randint(-reach, reach + 1, (targets,), generator=generator)
    return frame, goals.clamp(0, frames - 1)


@wrong_answer("16.2", says="the window is cut off")
def window_beyond(generator, frames, targets, window=50, every=1):
    frame, reach = int(torch.randint(frames, (), generator=generator)), window // every
    return frame, frame + torch.randint(-reach, reach + 1, (targets,), generator=generator)


@wrong_answer("16.2", says="ends belong to it")
def window_open(generator, frames, targets, window=50, every=1):
    frame, low, high = window_draw(generator, frames, targets, max(1, window // every - 1))
    return frame, torch.randint(low, high + 1, (targets,), generator=generator)


@wrong_answer("16.2", says="reaches both ways")
def window_forward(generator, frames, targets, window=50, every=1):
    frame, low, high = window_draw(generator, frames, targets, window // every)
    return frame, torch.randint(frame, high + 1, (targets,), generator=generator)


# ---------------------------------------------------------------------------------- 16.4 one colour jitter for a sample
def on_white() -> tuple[Tensor, Tensor]:
    """Two samples of three views (2, 3, 3, 4, 5), and their alpha."""
    alpha = torch.rand(2, 3, 1, 4, 5)
    alpha[..., 0] = 0
    alpha[..., 1] = 1
    return alpha * torch.rand(2, 3, 3, 4, 5) + 1 - alpha, alpha


def jittered_by(views: Tensor, alpha: Tensor, amounts: Tensor) -> Tensor:
    """With an amount for each view, (B * S, 4)."""
    own = ((views - (1 - alpha)) / alpha.clamp(min=1 / 255)).clamp(0, 1)
    return alpha * animation.jitter_colours(own.flatten(0, 1), amounts).view_as(own) + 1 - alpha


@check_for("16.4")
def one_jitter(answer):
    views, alpha = on_white()
    amounts = torch.tensor([[0.1, -0.15, 0.2, 0.03], [-0.2, 0.1, -0.1, -0.04]])
    before = views.clone()
    found = answer(views, alpha, amounts)
    expect_unchanged(views, before, "views")
    expect_type(found, Tensor, "two samples of three views")
    expect_shape(found, (2, 3, 3, 4, 5), "two samples of three views")
    empty = found[..., 0]
    expect(
        (empty - 1).abs().max() < 1e-5,
        f"where nobody stands it was white, and is {empty.min():.2f} now: only the person's colours may change",
    )
    bare = alpha * animation.jitter_colours(views.flatten(0, 1), amounts.repeat_interleave(3, 0)).view_as(views)
    expect_not_close(
        found,
        bare + 1 - alpha,
        "The soft edges are too light: white was jittered with the colours there. First take the white off: "
        "(view - (1 - alpha)) / alpha",
    )
    expect_not_close(
        found,
        jittered_by(views, alpha, amounts.repeat(3, 1)),
        "The amounts of the two samples are mixed up: the views of sample 0 come first, then those of sample 1 "
        "(repeat_interleave)",
    )
    expect_close(found, jittered_by(views, alpha, amounts.repeat_interleave(3, 0)), "two samples of three views")


@wrong_answer("16.4", says="where nobody stands")
def jitter_background(views, alpha, amounts):
    flat = animation.jitter_colours(views.flatten(0, 1), amounts.repeat_interleave(views.shape[1], 0))
    return flat.view_as(views)


@wrong_answer("16.4", says="take the white off")
def jitter_soft_edges(views, alpha, amounts):
    flat = animation.jitter_colours(views.flatten(0, 1), amounts.repeat_interleave(views.shape[1], 0))
    return alpha * flat.view_as(views) + 1 - alpha


@wrong_answer("16.4", says="mixed up")
def jitter_mixed(views, alpha, amounts):
    return jittered_by(views, alpha, amounts.repeat(views.shape[1], 1))


@wrong_answer("16.4", says="values are off")
def jitter_each_view(views, alpha, amounts):
    every = amounts.repeat_interleave(views.shape[1], 0)
    return jittered_by(views, alpha, every * torch.linspace(0.5, 1, len(every))[:, None])


# -------------------------------------------------------------------------------------------------------- 16.1 driving
TRIANGLES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def square() -> Tensor:
    """A square of a metre that moves to the right and forward, its corners (3, 4, 3)."""
    corners = torch.tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.1], [0.5, 0.5, 0.0], [-0.5, 0.5, -0.1]])
    return corners + torch.tensor([[-0.2, 0.1, 0.1], [0.3, 0.0, 0.2], [0.6, 0.1, 0.4]])[:, None]


CAMERAS = Camera.look_at(
    torch.tensor([[0.0, 0.2, 3.0], [1.0, 0.0, 2.8], [-1.0, 0.3, 3.2]]), torch.zeros(3), focal=14.0, size=(12, 16)
)


@check_for("16.1")
def the_driven_body(answer):
    poses, size = square(), (12, 16)
    roots = poses.mean(1)  # (3, 3)
    found = answer(poses, roots, TRIANGLES, CAMERAS, size)
    expect_type(found, dict, "the queries")
    names = {"target_rays", "target_face", "target_barycentric"}
    expect(set(found) == names, f"the queries have {sorted(found)}: {', '.join(sorted(names))} were expected")
    seen = rasterize(poses, TRIANGLES, CAMERAS, size)
    first = rasterize(poses[:1].expand(3, -1, -1), TRIANGLES, CAMERAS, size)
    expect_shape(found["target_face"], (1, 3, *size), "target_face of 3 frames")
    expect(
        not torch.equal(found["target_face"][0].long(), first.face.long()),
        "All frames show the first pose. Every frame has a pose of its own, poses[t]",
    )
    expect(torch.equal(found["target_face"][0].long(), seen.face.long()), "target_face is not what the cameras see")
    expect_close(found["target_barycentric"][0], seen.barycentric, "target_barycentric", atol=1e-4)
    rays = found["target_rays"]
    expect_shape(rays, (1, 3, 6, *size), "target_rays of 3 frames")
    expect_not_close(
        rays[0],
        ray_map(CAMERAS, size),
        "The rays are told from the world's origin. The network knows rays about the pelvis, and this one walks: give "
        "ray_map the origin of each frame",
    )
    expect_not_close(
        rays[0],
        ray_map(CAMERAS, size, roots[0]),
        "All rays are told from where the pelvis was in the first frame: it moves, roots[t]",
    )
    expect_close(rays[0], ray_map(CAMERAS, size, roots), "target_rays")
    one = answer(poses, roots, TRIANGLES, CAMERAS[0:1], size)
    expect_shape(one["target_rays"], (1, 3, 6, *size), "target_rays of 3 frames that one camera sees")
    still = Camera(*(part[:1].expand(3, *part.shape[1:]) for part in (CAMERAS.K, CAMERAS.R, CAMERAS.t)))
    expect_close(one["target_rays"][0], ray_map(still, size, roots), "target_rays of 3 frames that one camera sees")
    seen = rasterize(poses, TRIANGLES, still, size)
    expect(
        torch.equal(one["target_face"][0].long(), seen.face.long()), "target_face of 3 frames before one camera is off"
    )


def named(rays: Tensor, face: Tensor, barycentric: Tensor) -> dict[str, Tensor]:
    return {"target_rays": rays[None], "target_face": face[None], "target_barycentric": barycentric[None]}


@wrong_answer("16.1", says="from the world's origin")
def driven_about_the_world(poses, roots, faces, camera, size):
    found = rasterize(poses, faces, camera, size)
    return named(ray_map(camera, size), found.face, found.barycentric)


@wrong_answer("16.1", says="in the first frame")
def driven_about_the_start(poses, roots, faces, camera, size):
    found = rasterize(poses, faces, camera, size)
    return named(ray_map(camera, size, roots[0]), found.face, found.barycentric)


@wrong_answer("16.1", says="show the first pose")
def driven_nobody_moves(poses, roots, faces, camera, size):
    found = rasterize(poses[:1].expand(len(poses), -1, -1), faces, camera, size)
    return named(ray_map(camera, size, roots), found.face, found.barycentric)


@wrong_answer("16.1", says="the shape is")
def driven_frames_as_samples(poses, roots, faces, camera, size):
    return {name: values.transpose(0, 1) for name, values in
            animation.driven(poses, roots, faces, camera, size).items()}  # fmt: skip


# -------------------------------------------------------------------------------------------------- 16.3 a single view
@check_for("16.3")
def views_that_are_seen(answer):
    generator, rows = torch.Generator().manual_seed(0), []
    for _ in range(600):
        seen = answer(generator, 4, 0.25)
        expect_type(seen, Tensor, "which of 4 views are seen")
        expect_shape(seen, (4,), "which of 4 views are seen")
        expect(seen.dtype == torch.bool, f"which of 4 views are seen: dtype {seen.dtype}, torch.bool was expected")
        rows.append(seen)
    counts = torch.stack(rows).sum(1)
    expect(counts.min() > 0, "once no view at all was seen: then there is nobody to draw")
    expect(
        set(counts.tolist()) <= {1, 4},
        f"{sorted(set(counts.tolist()))} views were seen: either all or a single one. Draw once for the sample, not "
        "for each view",
    )
    share = (counts == 1).float().mean()
    expect(share < 0.6, f"a single view was left in {share:.0%} of the draws, 25 % were expected: is it 1 - single?")
    expect(0.15 < share < 0.35, f"a single view was left in {share:.0%} of the draws, 25 % were expected")
    alone = torch.stack(rows)[counts == 1].float().mean(0)
    expect(
        alone.min() > 0.05,
        f"where one view was left it was always one of {alone.nonzero().flatten().tolist()}: any of the 4 may be it, "
        "else the network learns that a single picture is of a certain side",
    )
    expect(bool(answer(generator, 4, 0.0).all()), "with single=0 all views are seen")
    expect(int(answer(generator, 4, 1.0).sum()) == 1, "with single=1 one view is seen")


@wrong_answer("16.3", says="Draw once for the sample")
def seen_by_coin(generator, views, single):
    seen = torch.rand(views, generator=generator) >= single
    seen[0] |= ~seen.any()
    return seen


@wrong_answer("16.3", says="any of the 4 may be it")
def seen_the_first(generator, views, single):
    seen = torch.ones(views, dtype=torch.bool)
    if torch.rand((), generator=generator) < single:
        seen[1:] = False
    return seen


@wrong_answer("16.3", says="1 - single")
def seen_exchanged(generator, views, single):
    return animation.draw_seen(generator, views, 1 - single)


# ------------------------------------------------------------------------- 16.5 from orthographic to perspective
_draw = torch.Generator().manual_seed(165)
POINTS = torch.rand(2, 12, 3, generator=_draw) * torch.tensor([0.9, 1.7, 0.5]) - torch.tensor([0.45, 0.85, 0.25])
SCALE = torch.tensor([180.0, 120.0])
SHIFT = torch.tensor([[0.1, -0.05], [-0.2, 0.1]])
MATRIX = intrinsics(torch.tensor([600.0, 480.0]), (512, 400))
PIXELS = weak_perspective_project(POINTS, SCALE, SHIFT) + MATRIX[:, None, :2, 2]
TRUE = [torch.stack(part) for part in zip(*map(solve_pnp, POINTS, PIXELS, MATRIX), strict=True)]


@check_for("16.5")
def orthographic_to_perspective(answer):
    found = answer(POINTS, SCALE, SHIFT, MATRIX)
    expect_type(found, Camera, "the cameras")
    expect_shape(found.R, (2, 3, 3), "the rotations of two cameras")
    expect_close(found.K, MATRIX, "K: it is given, and stays")
    off = (found.project(POINTS) - PIXELS).norm(dim=-1).median()
    aside = (found.project(POINTS) - PIXELS + MATRIX[:, None, :2, 2]).norm(dim=-1).median()
    expect(
        aside > 15,
        "the cameras see the joints beside the picture's middle by the principal point: weak_perspective_project "
        "measures from it, solve_pnp wants pixels, so add K[:, :2, 2]",
    )
    expect(
        not torch.allclose(found.R, torch.eye(3).expand(2, 3, 3), atol=1e-4),
        "no camera is turned: depth f / s alone is not PnP. Let solve_pnp find R and t, person by person",
    )
    expect(off < 15, f"the cameras see the joints {off:.0f} pixels from where the orthographic ones see them")
    expect_close(found.R, TRUE[0], "R, as solve_pnp finds it", atol=1e-3)
    expect_close(found.t, TRUE[1], "t, as solve_pnp finds it", atol=1e-3)


def _solved(points: Tensor, pixels: Tensor, K: Tensor) -> Camera:
    return Camera(K, *(torch.stack(part) for part in zip(*map(solve_pnp, points, pixels, K), strict=True)))


@wrong_answer("16.5", says="principal point")
def without_principal_point(points, scale, translation, K):
    return _solved(points, weak_perspective_project(points, scale, translation), K)


@wrong_answer("16.5", says="is not PnP")
def depth_alone(points, scale, translation, K):
    place = torch.cat([translation, (K[:, 0, 0] / scale)[:, None]], 1)
    return Camera(K, torch.eye(3).expand(len(points), 3, 3), place)


# ------------------------------------------------------------------------- 16.6 the crop's camera
WEAK = torch.tensor([[0.9, 0.1, -0.2], [0.7, -0.3, 0.05]])


def _crop_truth(weak: Tensor, K: Tensor, size: int) -> tuple[Tensor, Tensor]:
    scale = size / 2 * weak[:, 0]
    return scale, weak[:, 1:] + (size / 2 - K[:, :2, 2]) / scale[:, None]


@check_for("16.6")
def crop_camera(answer):
    found = answer(WEAK, MATRIX, 128)
    expect(isinstance(found, tuple) and len(found) == 2, "return two tensors: scale (B,) and translation (B, 2)")
    scale, translation = found
    expect_shape(scale, (2,), "the scale")
    expect_shape(translation, (2, 2), "the translation")
    expect_not_close(scale, 128 * WEAK[:, 0], "The scale is twice too large: from -1 to 1 is 2, so a unit is size / 2")
    true_scale, true_translation = _crop_truth(WEAK, MATRIX, 128)
    expect_close(scale, true_scale, "the scale, pixels a metre")
    expect_not_close(
        translation, WEAK[:, 1:], "The translation came back: the crop's middle is not the principal point, (16.13)"
    )
    pixels = 64 - MATRIX[:, :2, 2]
    expect_not_close(
        translation, WEAK[:, 1:] + pixels, "Pixels were added to metres: divide them by the scale, (16.13)", atol=1e-3
    )
    expect_not_close(
        translation, WEAK[:, 1:] - pixels / true_scale[:, None], "The difference has the wrong sign: h/2 - c, (16.13)"
    )
    expect_close(translation, true_translation, "the translation, metres")


@wrong_answer("16.6", says="principal point")
def translation_kept(weak, K, size):
    return size / 2 * weak[:, 0], weak[:, 1:]


@wrong_answer("16.6", says="divide them by the scale")
def pixels_to_metres(weak, K, size):
    return size / 2 * weak[:, 0], weak[:, 1:] + size / 2 - K[:, :2, 2]


@wrong_answer("16.6", says="twice too large")
def whole_side(weak, K, size):
    scale = size * weak[:, 0]
    return scale, weak[:, 1:] + (size / 2 - K[:, :2, 2]) / scale[:, None]


# ------------------------------------------------------------------------- 16.7 the rotations of the bones
PARENTS = torch.tensor([-1, 0, 1, 2])
REST = torch.rand(2, 40, 3, generator=_draw) - 0.5
WEIGHTS = torch.zeros(40, 4)
WEIGHTS[:16, 0], WEIGHTS[16:30, 1], WEIGHTS[30:, 2] = 1.0, 1.0, 1.0  # the last bone has no skin
TURNS = axis_angle_to_matrix(2 * torch.rand(2, 4, 3, generator=_draw) - 1)
SKIN = torch.einsum("vj,bjcd,bvd->bvc", WEIGHTS, TURNS, REST) + WEIGHTS @ torch.rand(2, 4, 3, generator=_draw)


def _bones(rest, posed, weights, parents, pull, centred=True, weighted=True, other=False, pulled=True):
    found = []
    for joint, parent in enumerate(parents.tolist()):
        w = weights[:, joint, None]
        w = w if weighted else torch.ones_like(w)
        total = w.sum().clamp(min=1e-6)
        x, y = ((p - (w * p).sum(1, keepdim=True) / total) if centred else p for p in (rest, posed))
        matrix = (w * x).mT @ y if other else (w * y).mT @ x
        found.append(nearest_rotation(matrix + pull * found[parent] if pulled and parent >= 0 else matrix))
    return torch.stack(found, 1)


@check_for("16.7")
def rotations_of_bones(answer):
    given = (REST, SKIN, WEIGHTS, PARENTS)
    found = answer(*given, 1e-6)
    expect_shape(found, (2, 4, 3, 3), "the rotations of four bones of two people")
    whole, first = TURNS[:, :3], found[:, :3]
    expect_not_close(first, whole.mT, "The rotations are the inverse ones: y, the posed skin, comes first", atol=1e-3)
    expect_not_close(
        found,
        _bones(*given, 1e-6, weighted=False),
        "All bones turn alike: only a bone's own skin counts for it, by weights[:, joint]",
        atol=1e-3,
    )
    expect_close(first, whole, "the rotations of bones that are rigid", atol=1e-3)
    expect_close(
        found[:, 3],
        found[:, 2],
        "the rotation of a bone without skin: nothing but the pull is left, and that leads to its parent's",
        atol=1e-3,
    )
    strong = answer(*given, 0.5)
    expect_close(strong, _bones(*given, 0.5), "the rotations with a pull of 0.5", atol=1e-3)


@wrong_answer("16.7", says="inverse")
def bones_backward(rest, posed, weights, parents, pull=1e-3):
    return _bones(rest, posed, weights, parents, pull, other=True)


@wrong_answer("16.7", says="without skin")
def bones_alone(rest, posed, weights, parents, pull=1e-3):
    return _bones(rest, posed, weights, parents, pull, pulled=False)


@wrong_answer("16.7", says="bone's own skin")
def bones_alike(rest, posed, weights, parents, pull=1e-3):
    return _bones(rest, posed, weights, parents, pull, weighted=False)


# ------------------------------------------------------------------------- 16.8 when a joint turns
PLACES, CARRIED = REST[0, :5], torch.rand(40, 5, generator=_draw)


@check_for("16.8")
def columns_of_turns(answer):
    found = answer(SKIN[0], PLACES, CARRIED)
    expect_shape(found, (120, 15), "the matrix of 40 vertices and 5 joints")
    blocks = CARRIED[..., None, None] * skew(SKIN[0][:, None] - PLACES)
    true = -blocks.permute(0, 2, 1, 3).reshape(120, 15)
    expect_not_close(found, -true, "Everything moves backward: ω x a = -[a]x ω, so the sign is minus")
    expect_not_close(
        found,
        -blocks.reshape(120, 15),
        "The rows mix vertices and joints: bring the dimensions into the order V, 3, J, 3 before the reshape",
    )
    about = (-CARRIED[..., None, None] * skew(SKIN[0][:, None].expand(-1, 5, -1))).permute(0, 2, 1, 3).reshape(120, 15)
    expect_not_close(found, about, "Joints turn the skin about the origin: about their own place, v - p")
    expect_close(found, true, "how the vertices move")


@wrong_answer("16.8", says="backward")
def turned_backward(posed, joints, carried):
    blocks = carried[..., None, None] * skew(posed[:, None] - joints)
    return blocks.permute(0, 2, 1, 3).reshape(3 * len(posed), 3 * len(joints))


@wrong_answer("16.8", says="before the reshape")
def reshaped_only(posed, joints, carried):
    return (-carried[..., None, None] * skew(posed[:, None] - joints)).reshape(3 * len(posed), 3 * len(joints))


@wrong_answer("16.8", says="own place")
def about_origin(posed, joints, carried):
    blocks = -carried[..., None, None] * skew(posed[:, None].expand(-1, len(joints), -1))
    return blocks.permute(0, 2, 1, 3).reshape(3 * len(posed), 3 * len(joints))


# ------------------------------------------------------------------------- 16.9 centred, on white
PICTURE = 0.6 * torch.rand(3, 60, 80, generator=_draw)
ALPHA = torch.zeros(60, 80)
ALPHA[4:58, 10:30] = 1.0  # touches the picture's edge once there is room around it
EYE = Camera(intrinsics(torch.tensor([70.0]), (60, 80)), torch.eye(3)[None], torch.tensor([[0.0, 0.0, 3.0]]))


def _centred(image, alpha, camera, size, fill=0.82, over=True, moved=True, room=True):
    rows, columns = (alpha > 0.5).nonzero(as_tuple=True)
    box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])[None].float()
    rgba = torch.cat([image, alpha[None]])[None]
    crop, matrix = crop_people(rgba, box, (size, size), 1 / fill if room else 1.0)
    side = size * matrix[:, 0, 0]
    square = torch.cat([matrix[:, :, 2], side[:, None], side[:, None]], 1)
    share = crop[0, 3:]
    white = crop[0, :3] * share + (1 - share if over else 0)
    return white, camera.cropped(square, (size, size)) if moved else camera


@check_for("16.9")
def centred(answer):
    found = answer(PICTURE, ALPHA, EYE, 32)
    expect(isinstance(found, tuple) and len(found) == 2, "return the picture and its camera")
    picture, camera = found
    expect_shape(picture, (3, 32, 32), "the picture")
    true, eye = _centred(PICTURE, ALPHA, EYE, 32)
    expect(picture[:, 0, 0].min() > 0.5, "the corner is not white: picture * alpha + (1 - alpha), after the crop")
    tight = _centred(PICTURE, ALPHA, EYE, 32, room=False)[0]
    expect_not_close(picture, tight, "The person reaches the edges: crop_people's padding is 1 / fill", atol=1e-3)
    expect_close(picture, true, "the picture", atol=1e-3)
    expect_type(camera, Camera, "the camera")
    expect_not_close(
        camera.K,
        EYE.K,
        "The camera is the whole picture's: its rays don't fit the crop. use Camera.cropped",
    )
    expect_close(camera.K, eye.K, "the camera's K", atol=1e-2)
    expect_close(camera.t, EYE.t, "the camera's t: it stands where it stood")


@wrong_answer("16.9", says="not white")
def centred_on_black(image, alpha, camera, size, fill=0.82):
    return _centred(image, alpha, camera, size, fill, over=False)


@wrong_answer("16.9", says="whole picture's")
def camera_kept(image, alpha, camera, size, fill=0.82):
    return _centred(image, alpha, camera, size, fill, moved=False)


@wrong_answer("16.9", says="padding is")
def no_room(image, alpha, camera, size, fill=0.82):
    return _centred(image, alpha, camera, size, fill, room=False)

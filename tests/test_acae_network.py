"""Chapter 12's network, losses, consistency and norms: against independent formulas, and with bad input."""

import pytest
import torch
from torch import nn

from course_lib.chapters import acae_training as acae
from course_lib.chapters.acae_skeletons import AffineCombiningAutoencoder
from course_lib.chapters.acae_training import (
    BACKBONES,
    NORMS,
    Crop,
    EfficientNetV2,
    GhostBatchNorm2d,
    MetrabsNet,
    Supervision,
    absolute_loss,
    absolute_pose,
    direct_loss,
    hybrid_loss,
    inference_norms,
    internal_loss,
    late,
    max_norm_,
    mean_relative_loss,
    name_average,
    pose_loss,
    projected,
    projection_loss,
    rays,
    reference_point,
    regularised_loss,
    soft_argmax,
    solve_reference,
    split_heads,
    stochastic_depth,
    weak_loss,
    weak_reference_point,
)
from course_lib.launch.trace import trace
from course_lib.recipe import Recipe

SMALL = BACKBONES["small"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_meta(name, **options):
    with torch.device("meta"):
        return EfficientNetV2(BACKBONES[name], **options)


# ---------------------------------------------------------- EfficientNetV2
def conv_norm(prefix, outside, inside, kernel):
    """The state of a convolution without bias and its norm, by torchvision's names."""
    norm = {name: (outside,) for name in ("weight", "bias", "running_mean", "running_var")}
    entries = {f"{prefix}.0.weight": (outside, inside, kernel, kernel)}
    return entries | {f"{prefix}.1.{n}": s for n, s in norm.items()} | {f"{prefix}.1.num_batches_tracked": ()}


def torchvision_state(stem, stages, classes=1000):
    """Names and shapes of torchvision's efficientnet_v2_*, from rows of (fused, expand, channels, blocks)."""
    entries, inside = conv_norm("features.0", stem, 3, 3), stem
    for number, (fused, expand, channels, blocks) in enumerate(stages, 1):
        for block in range(blocks):
            at, wide = f"features.{number}.{block}.block", expand * inside
            if fused:
                entries |= conv_norm(f"{at}.0", wide if expand > 1 else channels, inside, 3)
                entries |= conv_norm(f"{at}.1", channels, wide, 1) if expand > 1 else {}
            else:
                squeezed = inside // 4
                entries |= conv_norm(f"{at}.0", wide, inside, 1) | conv_norm(f"{at}.1", wide, 1, 3)
                entries |= {f"{at}.2.fc1.weight": (squeezed, wide, 1, 1), f"{at}.2.fc1.bias": (squeezed,)}
                entries |= {f"{at}.2.fc2.weight": (wide, squeezed, 1, 1), f"{at}.2.fc2.bias": (wide,)}
                entries |= conv_norm(f"{at}.3", channels, wide, 1)
            inside = channels
    entries |= conv_norm(f"features.{len(stages) + 1}", 1280, inside, 1)
    return entries | {"classifier.1.weight": (classes, 1280), "classifier.1.bias": (classes,)}


S = [(1, 1, 24, 2), (1, 4, 48, 4), (1, 4, 64, 4), (0, 4, 128, 6), (0, 6, 160, 9), (0, 6, 256, 15)]
L = [(1, 1, 32, 4), (1, 4, 64, 7), (1, 4, 96, 7), (0, 4, 192, 10), (0, 6, 224, 19), (0, 6, 384, 25), (0, 6, 640, 7)]


@pytest.mark.parametrize(
    ("name", "stem", "stages", "count"),
    [("efficientnetv2-s", 24, S, 21_458_488), ("efficientnetv2-l", 32, L, 118_515_272)],
)
def test_names_shapes_and_counts_are_torchvisions(name, stem, stages, count):
    model = on_meta(name)
    found = {key: tuple(values.shape) for key, values in model.state_dict().items()}
    assert found == torchvision_state(stem, stages)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("name", "side", "cells"), [("efficientnetv2-s", 256, 8), ("small", 96, 6), ("small", 128, 8)])
@pytest.mark.parametrize("centred", [False, True])
def test_the_map_has_so_many_cells(name, side, cells, centred):
    model = on_meta(name, classes=None, centred=centred)
    found = model(torch.empty(2, 3, side, side, device="meta"))
    assert found.shape == (2, BACKBONES[name].last, cells, cells)


def test_centring_moves_where_a_cell_looks_by_half_a_stride_and_no_weight():
    """The gradient of a cell of a stack of convolutions whose weights are all one is symmetric about what it sees."""
    middles = []
    for centred in (False, True):
        stack = nn.Sequential(*[nn.Conv2d(1, 1, 3, 2, 1, bias=False) for _ in range(2)])
        for conv in stack:
            nn.init.ones_(conv.weight)
        if centred:
            acae.centre_last_stride(stack)
        x = torch.zeros(1, 1, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(stack(x)[0, 0, 4, 4], x)
        weight = gradient[0, 0].sum(0)
        middles.append(((weight * torch.arange(32)).sum() / weight.sum()).item())
    assert middles == pytest.approx([16.0, 18.0])


def test_stochastic_depth_keeps_the_mean_and_leaves_inference_alone():
    draws = stochastic_depth(torch.ones(20_000, 1, 1, 1), 0.25)
    assert draws.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert draws.mean().item() == pytest.approx(1, abs=0.02)
    dropping = acae.Residual([nn.Identity()], True, 0.999).eval()
    assert torch.equal(dropping(torch.ones(4, 1, 2, 2)), torch.full((4, 1, 2, 2), 2.0))
    dropping.train()
    assert torch.equal(dropping(torch.ones(4, 1, 2, 2)), torch.ones(4, 1, 2, 2))


# ---------------------------------------------------------- heads
def test_channels_are_two_d_first_then_depth_major():
    channels = torch.arange(3 * (1 + 4)).float()[None, :, None, None]
    flat, deep = split_heads(channels, 3)
    assert flat[0, :, 0, 0].tolist() == [0, 1, 2]
    assert deep[0, :, :, 0, 0].tolist() == [[3, 6, 9, 12], [4, 7, 10, 13], [5, 8, 11, 14]]


def test_soft_argmax_of_a_sharp_map_is_its_cell():
    logits = torch.zeros(1, 1, 8, 4, 6)
    logits[0, 0, 7, 1, 5] = 100.0
    assert soft_argmax(logits)[0, 0].tolist() == pytest.approx([1, 1 / 3, 1])


def test_pixels_run_from_middle_to_middle():
    crop = Crop()
    assert crop.pixels(torch.tensor([0.0, 1.0])).tolist() == [16.0, 240.0]
    with pytest.raises(ValueError, match="multiple of the stride"):
        Crop(250, 32)


def skeletons(count=6, joints=17, distance=5.0):
    """Places (B, 3), relative poses (B, J, 3), a camera (B, 3, 3) of 256 pixels."""
    place = torch.tensor([0.3, -0.2, distance]) + torch.randn(count, 3) * torch.tensor([0.2, 0.2, 0.5])
    K = torch.tensor([[450.0, 2.0, 120], [0, 440, 130], [0, 0, 1]]).repeat(count, 1, 1)
    return place, 0.35 * torch.randn(count, joints, 3), K


def test_rays_undo_projection():
    place, relative, K = skeletons()
    points = relative + place[:, None]
    assert torch.allclose(rays(projected(points, K), K), points[..., :2] / points[..., 2:], atol=1e-5)
    homogeneous = points @ K.mT
    assert torch.allclose(projected(points, K), homogeneous[..., :2] / homogeneous[..., 2:], rtol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_reference_point_is_lstsqs(ridge):
    ray, relative = torch.randn(4, 9, 2).double(), torch.randn(4, 9, 3).double()
    weight = torch.rand(4, 9).double()
    rows = torch.cat([torch.eye(2).double().expand(4, 9, 2, 2), -ray[..., None]], -1).flatten(1, 2)
    right = (ray * relative[..., 2:] - relative[..., :2]).flatten(1)
    root = weight.sqrt().repeat_interleave(2, 1)
    A = torch.cat([root[..., None] * rows, ridge**0.5 * torch.eye(3).double().expand(4, 3, 3)], 1)
    b = torch.cat([root * right, torch.zeros(4, 3).double()], 1)
    expected = torch.linalg.lstsq(A, b[..., None]).solution[..., 0]
    assert torch.allclose(solve_reference(ray, relative, weight, ridge), expected, atol=1e-9)


@pytest.mark.parametrize("sideways", [0.0, 4.0])
def test_exact_heads_give_the_exact_pose_in_view_or_not(sideways):
    place, relative, K = skeletons()
    place[:, 0] += sideways
    points = relative + place[:, None]
    pixels = projected(points, K)
    found = absolute_pose(pixels, relative + 1.0, K, Crop())
    assert (found - points).norm(dim=-1).max() < 0.01


def test_out_of_view_the_3d_head_is_taken_alone():
    place, relative, K = skeletons()
    points = relative + place[:, None]
    pixels = projected(points, K).clamp(24, 232)
    spoilt = pixels.clone()
    spoilt[:, 0] = torch.tensor([3.0, 3.0])  # at the border: not in view
    found = absolute_pose(spoilt, relative, K, Crop())
    assert (found - points)[:, 0].norm(dim=-1).max() < 0.05
    mixed = absolute_pose(spoilt, relative, K, Crop(), mix=0.0)
    assert torch.allclose(projected(mixed, K)[:, 1:], spoilt[:, 1:], atol=0.05)
    alone = absolute_pose(spoilt, relative, K, Crop(), mix=1.0)
    shift = (alone - relative)[:, :1]
    assert torch.allclose(alone, relative + shift, atol=1e-5)


def test_weak_perspective_is_exact_for_flat_people_and_never_behind_the_camera():
    place, relative, K = skeletons()
    relative[..., 2] = 0.0
    points = relative + place[:, None]
    ray, one = points[..., :2] / points[..., 2:], torch.ones(6, 17)
    assert torch.allclose(weak_reference_point(ray, relative, one), place, atol=1e-3)
    assert torch.allclose(reference_point(ray, relative, one), place, atol=0.01)
    noise = weak_reference_point(torch.randn(50, 17, 2), torch.randn(50, 17, 3), torch.ones(50, 17))
    assert (noise[:, 2] + 1.5 > 0).all()  # the middle of the skeleton is before the camera; the reference may not be
    chosen = absolute_pose(projected(points, K), relative, K, Crop(), weak=torch.tensor([True, False] * 3))
    assert chosen.isfinite().all()


def test_all_rays_the_same_and_nobody_in_view_give_finite_gradients():
    K = skeletons(2)[2]
    relative = torch.randn(2, 17, 3, requires_grad=True)
    for place in (128.0, -5000.0):
        pixels = torch.full((2, 17, 2), place, requires_grad=True)
        for weak in (False, True):
            found = absolute_pose(pixels, relative, K, Crop(), weak=weak)
            gradients = torch.autograd.grad(found.sum(), (pixels, relative))
            assert found.isfinite().all() and all(g.isfinite().all() for g in gradients)


def test_the_network_says_metres_and_learns_everywhere():
    network = MetrabsNet(SMALL, 11, Crop(96, 16), norm=NORMS["ghost-16"])
    K = torch.tensor([[150.0, 0, 48], [0, 150, 48], [0, 0, 1]]).expand(2, 3, 3)
    said = network(torch.rand(2, 3, 96, 96), K, torch.rand(2), True)
    assert [tuple(values.shape) for values in said] == [(2, 11, 3), (2, 11, 2), (2, 11, 3)]
    said.absolute.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.rand(2, 3, 96, 96), K).absolute.dtype == torch.float32
    with pytest.raises(ValueError, match="crop and scale"):
        network(torch.rand(2, 3, 64, 64), K)


# ---------------------------------------------------------- losses
def a_batch(count=4, joints=8, names=3, step=9000):
    """Half of the examples with 3D labels, half with 2D labels, and a prediction to take gradients of."""
    points = 0.3 * torch.randn(count, joints, 3) + torch.tensor([0.0, 0.0, 4.0])
    K = torch.tensor([[450.0, 0, 128], [0, 450, 128], [0, 0, 1]]).expand(count, 3, 3)
    strong = (torch.arange(count) < count // 2)[:, None]
    batch = {"K": K, "joints": points, "valid": strong.repeat(1, joints)}
    batch |= {"pixels": projected(points, K)[:, :names], "seen": ~strong.repeat(1, names)}
    batch["step"] = torch.full((count,), step)
    return batch, (points + 0.05 * torch.randn_like(points)).requires_grad_()


def a_supervision(joints=8, names=3):
    return Supervision(Crop(), torch.eye(joints)[:names])


def test_the_losses_by_hand():
    target = torch.tensor([[[0.0, 0.0, 4.0], [1.0, 0.0, 4.0], [9.0, 9.0, 9.0]]])
    points = target + torch.tensor([[[0.3, 0.0, 0.0], [0.1, 0.0, 0.4], [50.0, 0.0, 0.0]]])
    valid = torch.tensor([[True, True, False]])
    assert mean_relative_loss(points, target, valid).item() == pytest.approx((0.1 + 0.1 + 0.2 + 0.2) / 6)
    assert absolute_loss(points, target, valid).item() == pytest.approx((0.3 + 0.1 + 0.4) / 6)
    far = 10 * target
    assert absolute_loss(far + torch.tensor([0.0, 0.0, 0.4]), far, valid).item() == pytest.approx(
        0.4 * 0.25 / 3, rel=1e-4
    )
    K = torch.tensor([[[100.0, 0, 128], [0, 100, 128], [0, 0, 1]]])
    moved = target + torch.tensor([0.04, 0.0, 0.0])
    expected = 1.0 / 2 * 2.2 / 256  # one pixel in x, none in y
    assert projection_loss(moved, projected(target, K), valid, K, Crop()).item() == pytest.approx(expected, rel=1e-3)


def test_the_terms_have_the_papers_weights_and_wait():
    batch, points = a_batch()
    target, valid, K, crop = batch["joints"], batch["valid"], batch["K"], Crop()
    terms = mean_relative_loss(points, target, valid), projection_loss(points, projected(target, K), valid, K, crop)
    last = absolute_loss(points, target, valid)
    for step, weight in ((0, 0.0), (5000, 0.0), (5001, 0.1)):
        found = pose_loss(points, target, valid, K, crop, late(step))
        assert found.item() == pytest.approx((sum(terms) + weight * last).item(), rel=1e-5)
    supervision = a_supervision()
    weak = weak_loss(points, batch["pixels"], batch["seen"], K, crop, supervision.average)
    whole = supervision(points, batch)
    assert whole["loss"].item() == pytest.approx((whole["strong"] + 0.2 * weak).item(), rel=1e-5) and weak > 0


def test_what_the_projection_loss_leaves_out():
    K = torch.tensor([[450.0, 0, 128], [0, 450, 128], [0, 0, 1]]).expand(1, 3, 3)
    good, wrong = torch.tensor([[[0.0, 0.0, 4.0]]]), torch.tensor([[[0.2, 0.0, 4.0]]])
    one = torch.ones(1, 1)
    assert projection_loss(wrong, projected(good, K), one, K, Crop()) > 0
    behind, outside = torch.tensor([[[0.2, 0.0, -4.0]]]), torch.tensor([[[3.0, 0.0, 4.0]]])
    for prediction in (behind, outside):
        assert projection_loss(prediction, projected(good, K), one, K, Crop()) == 0
    assert projection_loss(wrong, torch.tensor([[[2000.0, 0.0]]]), one, K, Crop()) == 0


def damaged(kind):
    """A batch with something wrong in it."""
    batch, points = a_batch()
    if kind in ("nobody", "no 2D labels"):
        batch["seen"][:] = False
    if kind in ("nobody", "no 3D labels"):
        batch["valid"][:] = False
    if kind == "a joint missing everywhere":
        batch["valid"][:, 2] = False
        batch["joints"][:, 2] = float("nan")
    if kind == "behind the camera":
        batch["joints"][0, :, 2] -= 9.0
    if kind == "in the camera's plane":
        batch["joints"][0, :, 2] = 0.0
    if kind == "NaN where invalid":
        batch["joints"][~batch["valid"]] = float("nan")
        batch["pixels"][~batch["seen"]] = float("inf")
    if kind == "NaN where valid":
        batch["joints"][0, 1, 0] = float("nan")
        batch["pixels"][3, 1, 0] = float("nan")
    if kind == "prediction behind the camera":
        points = (points.detach() * torch.tensor([1.0, 1.0, -1.0])).requires_grad_()
    return batch, points


KINDS = (
    "nobody", "no 2D labels", "no 3D labels", "a joint missing everywhere", "behind the camera",
    "in the camera's plane", "NaN where invalid", "NaN where valid", "prediction behind the camera",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["separate", "regularised", "direct", "hybrid", "internal"])
def test_bad_input_has_a_finite_loss_and_gradient(kind, variant):
    batch, points = damaged(kind)
    names = tuple(f"{side}{base}_x" for side in "lr" for base in ("sho", "kne", "ank", "wri"))
    coder = AffineCombiningAutoencoder(names, 4, 1).requires_grad_(False)
    supervision = a_supervision()
    if variant == "separate":
        losses = supervision(points, batch)
    elif variant == "regularised":
        losses = regularised_loss(points, batch, supervision, coder)
    elif variant == "direct":
        losses = direct_loss(coder.encode(points), batch, supervision, coder)
    elif variant == "hybrid":
        losses = hybrid_loss(torch.cat([coder.encode(points), points], 1), batch, supervision, coder, 5)
    else:
        losses = internal_loss(acae.Output(points, 32 * points[..., :2] + 128, points), batch, supervision)
    (gradient,) = torch.autograd.grad(losses["loss"], points)
    assert losses["loss"].isfinite() and gradient.isfinite().all()
    if kind == "nobody":
        assert losses["loss"] == 0 and not gradient.any()
    if kind == "no 2D labels" and variant != "internal":
        assert losses["weak"] == 0
    if kind == "a joint missing everywhere" and variant == "separate":
        assert not gradient[:2, 2].any() and gradient[:2, 1].any()


def test_labels_that_are_not_valid_dont_change_the_loss():
    batch, points = a_batch()
    clean = a_supervision()(points, batch)["loss"]
    batch["joints"][~batch["valid"]] = 77.0
    batch["pixels"][~batch["seen"]] = float("nan")
    assert a_supervision()(points, batch)["loss"] == clean


def test_names_are_averaged_whole():
    matrix = name_average(("lsho_a", "rsho_a", "lsho_b", "lshox_b"), ("lsho", "rsho"))
    assert matrix.tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0]]
    with pytest.raises(ValueError, match="tail"):
        name_average(("lsho_a",), ("lsho", "tail"))


def test_internal_supervision_looks_at_both_heads():
    batch, points = a_batch(step=0)
    right = acae.Output(batch["joints"], projected(batch["joints"], batch["K"]), batch["joints"] + 5.0)
    assert internal_loss(right, batch, a_supervision())["strong"] < 1e-5
    spoilt = right._replace(pixels=right.pixels + 10.0)
    assert internal_loss(spoilt, batch, a_supervision())["strong"].item() == pytest.approx(10 * 2.2 / 256, rel=0.05)
    assert internal_loss(right._replace(relative=2 * points.detach()), batch, a_supervision())["strong"] > 0.05


# ---------------------------------------------------------- consistency
def a_coder():
    names = tuple(f"{side}{base}_x" for side in "lr" for base in ("sho", "kne", "ank", "wri"))
    return AffineCombiningAutoencoder(names, 4, 1)


def test_a_consistent_pose_isnt_penalised():
    coder = a_coder().requires_grad_(False)
    batch, points = a_batch()
    losses = regularised_loss(points, batch, a_supervision(), coder)
    off = (points - coder.decode(coder.encode(points))).abs()
    expected = a_supervision()(points, batch)["loss"] + off[:2].mean() + 0.2 * off[2:].mean()
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_teacher_is_taught_by_labels_only():
    coder, (batch, points) = a_coder().requires_grad_(False), a_batch()
    supervision, rows = a_supervision(), torch.ones(4, dtype=torch.bool)
    student = (coder.encode(points).detach() + 0.1).requires_grad_()
    loss = acae.teacher_loss(student, points, coder, batch["K"], Crop(), late(9000), rows)
    gradients = torch.autograd.grad(loss, (student, points), allow_unused=True)
    assert gradients[0].any() and gradients[1] is None
    early = {**batch, "step": torch.zeros(4, dtype=torch.long)}
    both = torch.cat([student, points], 1)
    matched = (
        hybrid_loss(both, batch, supervision, coder, 5)["loss"]
        - hybrid_loss(both, early, supervision, coder, 5)["loss"]
    )
    terms = [
        acae.teacher_loss(student, points, coder, batch["K"], Crop(), late(9000), batch[key].any(1))
        for key in ("valid", "seen")
    ]
    absolutes = [absolute_loss(p, batch["joints"], batch["valid"]) for p in (points, coder.decode(student))]
    expected = terms[0] + 0.1 * terms[1] + 0.1 * sum(absolutes)
    assert matched.item() == pytest.approx(expected.item(), rel=1e-3)


# ---------------------------------------------------------- norms
@pytest.mark.parametrize(("group", "sizes"), [(16, [16, 16, 8]), (64, [40]), ((3, 1), [30, 10]), ((96, 32), [30, 10])])
def test_ghost_norm_is_batch_norm_on_each_part(group, sizes):
    x, (ghost, plain) = torch.randn(40, 5, 3, 3) + 2, (GhostBatchNorm2d(5, group), nn.BatchNorm2d(5, acae.NORM_EPSILON))
    for _ in range(3):
        expected = torch.cat([plain(part) for part in x.split(sizes)])
        assert torch.allclose(ghost(x), expected, atol=1e-6)
    assert torch.allclose(ghost.running_mean, plain.running_mean) and torch.allclose(
        ghost.running_var, plain.running_var
    )
    assert torch.allclose(ghost.eval()(x), plain.eval()(x), atol=1e-6)
    assert ghost.state_dict().keys() == plain.state_dict().keys()


def test_shares_that_dont_come_out_whole_are_refused():
    with pytest.raises(ValueError, match="can't be shared"):
        GhostBatchNorm2d(2, (96, 32))(torch.randn(10, 2, 3, 3))


def test_frozen_norms_use_what_is_stored_and_go_on_learning():
    network = MetrabsNet(SMALL, 3, Crop(64, 16), norm=NORMS["ghost-16"])
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    network.frozen_norms = True
    network.train()
    assert network.training and not any(norm.training for norm in norms)
    before = norms[0].running_mean.clone()
    K = torch.tensor([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]).expand(2, 3, 3)
    network(torch.rand(2, 3, 64, 64), K).absolute.sum().backward()
    assert torch.equal(norms[0].running_mean, before) and norms[0].weight.grad is not None
    network.frozen_norms = False
    assert all(norm.training for norm in network.train().modules() if isinstance(norm, nn.BatchNorm2d))
    assert not any(norm.training for norm in inference_norms(network).modules() if isinstance(norm, nn.BatchNorm2d))


def test_max_norm_shortens_what_is_too_long_and_changes_no_output():
    layer = acae.ConvNormActivation(4, 6, 3, lambda channels: nn.BatchNorm2d(channels, eps=1e-12))
    head = nn.Conv2d(6, 2, 1)
    model = nn.Sequential(layer, head).double()
    with torch.no_grad():
        layer[0].weight[:3] *= 1000.0
        head.weight.mul_(1000.0)
    kept, long_head = layer[0].weight[3:].clone(), head.weight.clone()
    x = torch.randn(8, 4, 5, 5).double()
    before = model(x)
    max_norm_(model, 20.0)
    assert torch.allclose(layer[0].weight[:3].flatten(1).norm(dim=1), torch.tensor(20.0).double())
    assert torch.equal(layer[0].weight[3:], kept) and torch.equal(head.weight, long_head)
    assert torch.allclose(model(x), before, atol=1e-6)


# ---------------------------------------------------------- a launch's step without data
def test_a_step_runs_without_data():
    def example(count):
        batch, points = a_batch(count)
        return {**batch, "image": torch.rand(count, 3, 256, 256), "mix": torch.rand(count)}

    def loss(model, batch):
        said = model(batch["image"], batch["K"], batch["mix"], batch["step"] < 500)
        return a_supervision()(said.absolute, batch)

    def model():
        return MetrabsNet(BACKBONES["efficientnetv2-s"], 8, Crop(), norm=NORMS["ghost-3d-2d"])

    recipe = Recipe("x", model, loss, None, 1, 4, blocks=("FusedMBConv", "MBConv"), example=example, precision="bf16")
    found = trace(recipe, 4, keep_gradients=False)
    assert found.parameters == 20_177_488 + 72 * 1281 and found.forward > 7e9

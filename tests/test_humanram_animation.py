"""Chapter 16: cameras out of orthographic ones, bodies out of meshes, driving, colours; and what they refuse."""

import numpy as np
import pytest
import torch

from course_lib import study
from course_lib.chapters import humanram_animation as animation
from course_lib.chapters.cameras import Camera, fit_weak_perspective, intrinsics
from course_lib.chapters.humanram_reconstruction import CONFIGS, HumanRAM, canonical_surface
from course_lib.data import meshes

PEOPLE, SIDE = 12, 512
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


@pytest.fixture(scope="module")
def seen():
    """Joints (B, 22, 3) of held-out poses in camera axes, their pixels, the true K and camera."""
    generator = torch.Generator().manual_seed(3)
    poses, betas = meshes.pool("test", 16)
    turned = meshes.headed(poses[:PEOPLE], 360 * torch.rand(PEOPLE, generator=generator))
    with torch.no_grad():
        joints = meshes.mesh_model()(betas=betas[:PEOPLE], pose=turned).joints[:, :22]
    joints = (joints - joints[:, :1]) @ FLIP
    focal = SIDE * (1.1 + 0.8 * torch.rand(PEOPLE, generator=generator))
    place = torch.stack([0.1 * torch.ones(PEOPLE), torch.zeros(PEOPLE), focal * 2 / 420], 1)
    camera = Camera(intrinsics(focal, (SIDE, SIDE)), torch.eye(3).expand(PEOPLE, 3, 3), place)
    pixels = camera.project(joints)
    return joints, pixels + 2 * torch.randn(pixels.shape, generator=generator), camera


def test_pnp_with_two_pixels_of_noise(seen):
    """The goal: median reprojection at most 3 pixels, depth right to 5 %, by either way."""
    joints, noisy, true = seen
    orthographic = fit_weak_perspective(joints, noisy - true.K[:, None, :2, 2])
    found = animation.perspective_from_orthographic(joints, *orthographic, true.K)
    direct = [animation.solve_pnp(*person) for person in zip(joints, noisy, true.K, strict=True)]
    direct = Camera(true.K, *(torch.stack(part) for part in zip(*direct, strict=True)))
    for camera in (found, direct):
        assert (camera.project(joints) - true.project(joints)).norm(dim=-1).median() <= 3
        assert (camera.t[:, 2] / true.t[:, 2] - 1).abs().median() <= 0.05


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda joints, scale: (joints[:, :5], scale), "6"),
        (lambda joints, scale: (joints * torch.tensor([1.0, 1.0, 0.0]), scale), "plane"),
        (lambda joints, scale: (joints * torch.nan, scale), "NaN"),
        (lambda joints, scale: (joints, -scale), "more than 0"),
        (lambda joints, scale: (joints[0], scale), "give points"),
    ],
)
def test_what_is_no_view_of_a_body_is_refused(seen, spoil, says):
    joints, noisy, true = seen
    scale, shift = fit_weak_perspective(joints, noisy - true.K[:, None, :2, 2])
    with pytest.raises(ValueError, match=says):
        animation.perspective_from_orthographic(*spoil(joints, scale), shift, true.K)


@pytest.fixture(scope="module")
def body():
    return meshes.cut_down(np.arange(0, len(meshes.mesh_model().template), 20), np.array([[0, 1, 2]]))


def test_a_fit_finds_the_body_that_made_a_mesh(body):
    poses, betas = meshes.pool("test", 16)
    with torch.no_grad():
        mesh = body(betas=betas[:2], pose=poses[:2], translation=torch.tensor([[0.1, 0.2, 3.0]] * 2)).vertices
        pose, shape, place = animation.fit_body(mesh, body)
        again = body(betas=shape, pose=pose, translation=place).vertices
    assert (again - mesh).norm(dim=-1).mean() < 0.005


@pytest.mark.parametrize(("spoil", "says"), [(lambda v: v[:, :-1], "own mesh"), (lambda v: v * torch.nan, "NaN")])
def test_a_mesh_that_is_not_the_bodys_is_refused(body, spoil, says):
    with pytest.raises(ValueError, match=says):
        animation.fit_body(spoil(body.template[None]), body)


def test_nobody_in_a_picture_is_refused():
    camera = Camera(intrinsics(torch.tensor([100.0]), (32, 32)), torch.eye(3)[None], torch.zeros(1, 3))
    with pytest.raises(ValueError, match="nobody"):
        animation.centred_on_white(torch.rand(3, 32, 32), torch.zeros(32, 32), camera, 16)


@pytest.fixture(scope="module")
def given():
    """A small network and the views of one person that it takes."""
    torch.manual_seed(0)
    model = HumanRAM(CONFIGS["smoke"], *canonical_surface()).eval()
    size = CONFIGS["smoke"].size
    camera = Camera(intrinsics(torch.tensor([30.0]), (size, size)), torch.eye(3)[None], torch.tensor([[0.0, 0, 3]]))
    vertices = model.points * torch.tensor([1.0, -1.0, -1.0])
    views = animation.body_views(vertices, model.faces, camera, size)
    return model, views | {"image": torch.rand(1, 1, 3, size, size)}, vertices, camera


def test_a_clip_does_not_depend_on_how_many_frames_are_drawn_at_once(given):
    model, sources, vertices, camera = given
    poses = torch.stack([vertices, vertices * 0.9, vertices * 1.1])
    one, all_of_them = (animation.animate(model, sources, poses, camera, at_once=n) for n in (1, 3))
    assert one.shape == (3, 3, *sources["image"].shape[-2:]) and torch.allclose(one, all_of_them, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda poses: poses[:0], "1 or more"),
        (lambda poses: poses[:, :7], "skin"),
        (lambda poses: poses * torch.inf, "finite"),
    ],
)
def test_poses_that_are_no_bodies_are_refused(given, spoil, says):
    model, sources, vertices, camera = given
    with pytest.raises(ValueError, match=says):
        animation.animate(model, sources, spoil(vertices[None]), camera)


def test_one_jitter_moves_equal_colours_alike_and_leaves_white():
    colours = torch.rand(2, 1, 3, 1, 1).expand(2, 4, 3, 8, 8)
    alpha = torch.zeros(2, 4, 1, 8, 8)
    for view in range(4):
        alpha[:, view, :, : 2 * view + 1] = 1  # another share of white in each view
    views = alpha * colours + 1 - alpha
    changed = animation.jitter_views(views, alpha, torch.tensor([[0.2, 0.2, -0.2, 0.05], [-0.2, 0.1, 0.2, -0.05]]))
    assert torch.allclose(changed[:, :, :, 0], changed[:, :1, :, 0].expand(-1, 4, -1, -1), atol=1e-5)
    assert (changed - views).abs().max() > 0.02 and torch.equal(changed[:, 0, :, 1:], torch.ones(2, 3, 7, 8))


def test_what_is_recorded_fits_the_source():
    assert study.stale_records(iter(animation.STUDIES.values())) == []

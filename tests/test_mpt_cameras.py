"""Chapter 13, sections 1 to 3: Human3.6M's cameras, crops, heatmaps, and what a detector gets wrong."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from course_lib.chapters.cameras import Camera
from course_lib.chapters.mpt_pretraining import (
    H36M_CAMERAS,
    ORDER,
    PERFECT,
    RING,
    Flaws,
    crop,
    flawed_heatmaps,
    h36m_cameras,
    interpolate_cameras,
    jittered,
    look,
    mask_heatmaps,
    mask_patches,
    place,
    quaternion_to_matrix,
    sigma_for,
    synthesize_heatmaps,
    to_crop,
    virtual_cameras,
    with_spurious,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_definition(points: torch.Tensor, name: str) -> np.ndarray:
    """(N, 3) metres, y up -> (N, 2) pixels: Human3.6M's own axes and millimetres, row by row, without `Camera`."""
    c, pixels = H36M_CAMERAS[name], []
    R = Rotation.from_quat(c.quaternion, scalar_first=True)
    for x, y, z in points.double().tolist():
        seen = R.inv().apply(np.array([1000 * x, -1000 * z, 1000 * y]) - c.place)
        pixels.append([c.focal[i] * seen[i] / seen[2] + c.center[i] for i in range(2)])
    return np.array(pixels)


def a_person(count: int = 1) -> torch.Tensor:
    """Points as far apart as a body's, pelvis at the origin: (count, 50, 3)."""
    return (torch.rand(count, 50, 3, generator=generator(5)) - 0.5) * torch.tensor([0.8, 1.8, 0.5])


# ---------------------------------------------------------- cameras
def test_projection_equals_an_independent_one():
    points = torch.rand(200, 3, generator=generator()) * torch.tensor([3.0, 2.0, 3.0]) - torch.tensor([1.5, 0.0, 1.5])
    pixels = h36m_cameras(RING).project(points.expand(4, -1, -1)).numpy()
    for found, name in zip(pixels, RING, strict=True):
        assert np.abs(found - by_definition(points, name)).max() < 1e-3, name


def test_the_crop_is_the_same_picture():
    points, camera = a_person() + torch.tensor([0.2, 0.9, -0.3]), h36m_cameras(RING[:1])
    pixels = torch.from_numpy(by_definition(points[0], RING[0])).float()
    cropped = crop(camera, points)
    low, high = pixels.amin(0), pixels.amax(0)
    side = 1.2 * (high - low).max()
    expected = (pixels - (low + high - side) / 2) / side * 224
    assert (cropped.project(points)[0] - expected).abs().max() < 1e-2
    assert torch.equal(cropped.R, camera.R) and torch.equal(cropped.t, camera.t)
    assert torch.allclose(to_crop(cropped, points)[0], expected / 112 - 1, atol=1e-3)


def test_the_cameras_stand_where_the_data_set_says():
    center = h36m_cameras(RING).center
    for place_, name in zip(center, RING, strict=True):
        x, y, z = (value / 1000 for value in H36M_CAMERAS[name].place)
        assert torch.allclose(place_, torch.tensor([x, z, -y]), atol=1e-5)
    assert (center[:, 1] > 1.4).all() and (center[:, 1] < 1.7).all()  # y is up: at the height of eyes
    down = h36m_cameras(RING).R[:, 1]  # the pictures' y axis points to the floor
    assert (down[:, 1] < -0.9).all()


@pytest.mark.parametrize("length", [1.0, -1.0, 3.0])
def test_quaternions_are_rotations_of_any_length_and_sign(length):
    q = torch.randn(20, 4, dtype=torch.float64)
    expected = torch.from_numpy(Rotation.from_quat(q.numpy(), scalar_first=True).as_matrix())
    assert torch.allclose(quaternion_to_matrix(length * q), expected, atol=1e-12)


def test_views_are_nested_and_the_first_four_are_the_real_ones():
    eight = virtual_cameras(8)
    assert len(eight) == 8 and torch.equal(virtual_cameras(4).t, h36m_cameras(ORDER).t)
    for views in (1, 2, 4):
        few = virtual_cameras(views)
        assert len(few) == views and torch.equal(few.R, eight.R[:views]) and torch.equal(few.K, eight.K[:views])


def test_the_four_in_between_are_between():
    ring, extra = h36m_cameras(RING), virtual_cameras(8)[4:]
    low, high = ring.center.norm(dim=-1).min(), ring.center.norm(dim=-1).max()
    assert ((extra.center.norm(dim=-1) > low) & (extra.center.norm(dim=-1) < high)).all()
    assert torch.allclose(extra.R @ extra.R.mT, torch.eye(3).expand(4, 3, 3), atol=1e-5)
    assert (torch.linalg.det(extra.R) > 0).all()
    azimuth = torch.atan2(*ring.center[:, [0, 2]].T)
    for i, middle in enumerate(torch.atan2(*extra.center[:, [0, 2]].T)):
        halves = [(middle - azimuth[i]) % (2 * math.pi), (azimuth[(i + 1) % 4] - middle) % (2 * math.pi)]
        assert halves[0] == pytest.approx(float(halves[1]), abs=1e-4) and halves[0] < math.pi / 2
    middle = torch.tensor([0.0, 0.9, 0.0]).expand(4, 1, 3)
    assert (extra.project(middle)[:, 0] - 500).abs().max() < 150  # somebody in the room's middle is in the picture


def test_interpolation_begins_and_ends_at_the_cameras():
    first, second = h36m_cameras(RING), h36m_cameras(RING)[[1, 2, 3, 0]]
    for amount, camera in ((0.0, first), (1.0, second)):
        found = interpolate_cameras(first, second, amount)
        assert torch.allclose(found.R, camera.R, atol=1e-5) and torch.allclose(found.t, camera.t, atol=1e-4)
        assert torch.allclose(found.K, camera.K, atol=1e-3)


@pytest.mark.parametrize("views", [0, 3, 16, -1])
def test_another_number_of_views_is_refused(views):
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        virtual_cameras(views)


# ---------------------------------------------------------- people in the room
def test_people_stand_on_the_floor_near_the_middle():
    bodies = a_person(40)
    offset = place(bodies, generator())
    standing = bodies + offset[:, None]
    assert standing[..., 1].amin(1).abs().max() < 1e-6
    assert offset[:, [0, 2]].abs().max() <= 0.5 and offset[:, [0, 2]].std() > 0.2
    assert torch.equal(place(bodies, generator()), offset)


def test_a_look_holds_the_person():
    bodies, cameras = a_person(8), virtual_cameras(8)
    views = look(bodies, bodies[:, :17], cameras, generator())
    assert views.points.shape == (8, 17, 2) and views.points.abs().max() < 1
    mesh = to_crop(views.camera, bodies + views.translation[:, None])
    sides = (mesh.amax(1) - mesh.amin(1)).amax(1)
    assert torch.allclose(sides, torch.full((8,), 2 / 1.2), atol=1e-3)
    wide = look(bodies, bodies, cameras, generator(), margin=(2.0, 2.0))
    assert wide.points.abs().max() < views.points.abs().max()


def test_somebody_behind_the_camera_is_refused_and_named():
    bodies = a_person(3) + torch.tensor([0.0, 0.9, 0.0])
    bodies[1] += torch.tensor([-3.0, 0.0, 7.0])  # past the camera 60457274
    cameras = h36m_cameras(("60457274",) * 3)
    with pytest.raises(ValueError, match="person 1 reaches behind"):
        crop(cameras, bodies)
    bodies[1, 0] = math.nan
    with pytest.raises(ValueError, match="person 1 .*finite"):
        crop(cameras, bodies)


def test_joints_behind_the_camera_make_empty_maps():
    camera = Camera.look_at([[0.0, 1.0, 3.0]], [0.0, 1.0, 0.0], focal=300.0, size=(224, 224))
    points = torch.tensor([[[0.0, 1.0, 0.0], [0.2, 1.1, 5.0], [0.0, 1.0, 3.0]]])  # before, behind, in the camera
    places = to_crop(camera, points)
    assert places[0, 0].abs().max() < 1e-5 and places[0, 1:].isnan().all()
    maps = synthesize_heatmaps(places, 32, 1.0)
    assert maps.isfinite().all() and maps[0, 0].max() > 0.7 and (maps[0, 1:] == 0).all()


@pytest.mark.parametrize("points", [torch.zeros(1, 4, 3), torch.zeros(1, 1, 3)], ids=["one place", "one point"])
def test_a_box_without_size_is_refused(points):
    with pytest.raises(ValueError, match="no size"):
        crop(h36m_cameras(RING[:1]), points + torch.tensor([0.0, 1.0, 0.0]))


def test_a_margin_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive margin"):
        crop(h36m_cameras(RING[:1]), a_person() + torch.tensor([0.0, 0.9, 0.0]), margin=0.0)


def test_nobody_is_a_batch_of_nobody():
    empty = torch.zeros(0, 17, 2)
    assert synthesize_heatmaps(empty, 8, 1.0).shape == (0, 17, 8, 8)
    assert flawed_heatmaps(empty, 8, generator()).shape == (0, 17, 8, 8)


# ---------------------------------------------------------- heatmaps
def test_heatmaps_are_the_equation_pixel_by_pixel():
    points = 2.2 * torch.rand(2, 3, 2, generator=generator()) - 1.1
    maps = synthesize_heatmaps(points, 12, 1.7)
    for b, k, row, column in np.ndindex(2, 3, 12, 12):
        px, py = ((value + 1) / 2 * 12 for value in points[b, k].tolist())
        value = math.exp(-((column + 0.5 - px) ** 2 + (row + 0.5 - py) ** 2) / (2 * 1.7**2))
        assert maps[b, k, row, column].item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("size", [28, 56, 112, 224])
def test_the_place_can_be_read_from_the_map_of_any_size(size):
    points = 1.2 * (torch.rand(8, 17, 2, generator=generator()) - 0.5)
    maps = synthesize_heatmaps(points, size, sigma_for(size))
    centers, mass = 2 * (torch.arange(size) + 0.5) / size - 1, maps.sum((2, 3))
    found = torch.stack([(maps.sum(2) * centers).sum(-1), (maps.sum(3) * centers).sum(-1)], -1) / mass[..., None]
    assert (found - points).abs().max() * 112 < 1e-3


def test_sigma_is_a_share_of_the_crop_but_at_least_a_pixel():
    assert (sigma_for(112), sigma_for(224), sigma_for(56), sigma_for(28)) == (2, 4, 1, 1)


def test_a_person_outside_of_the_crop_makes_empty_maps():
    points = torch.tensor([[[30.0, 0.0], [0.0, -30.0], [math.nan, math.nan], [math.inf, 0.0]]])
    maps = synthesize_heatmaps(points, 16, 1.0)
    assert maps.isfinite().all() and (maps == 0).all()
    assert flawed_heatmaps(points, 16, generator(), Flaws(spurious=0.0)).abs().max() == 0


@pytest.mark.parametrize("size, sigma", [(0, 1.0), (16, 0.0), (16, -1.0), (16, math.nan)])
def test_maps_without_size_or_width_are_refused(size, sigma):
    with pytest.raises(ValueError, match="positive"):
        synthesize_heatmaps(torch.zeros(1, 1, 2), size, sigma)


@pytest.mark.parametrize("points", [torch.zeros(3, 2), torch.zeros(1, 3, 3), torch.zeros(1, 3, 2, dtype=torch.long)])
def test_other_shapes_are_refused(points):
    with pytest.raises(ValueError, match="points must"):
        synthesize_heatmaps(points, 8, 1.0)
    with pytest.raises(ValueError, match="points must"):
        jittered(points, generator())


# ---------------------------------------------------------- flaws
def test_masks_hide_up_to_a_share_of_whole_maps():
    maps = 0.5 + torch.rand(300, 17, 2, 2, generator=generator())
    found = mask_heatmaps(maps, generator())
    hidden = (found == 0).flatten(2).all(2)
    assert torch.equal(found, torch.where(hidden[..., None, None], 0.0, maps))
    assert set(hidden.sum(1).tolist()) == {0, 1, 2, 3, 4, 5}
    assert torch.equal(mask_heatmaps(maps, generator(), 0.0), maps)
    assert (mask_heatmaps(maps, generator(), 0.999) > 0).flatten(1).any(1).all()  # never all


@pytest.mark.parametrize("mask", [mask_heatmaps, mask_patches])
@pytest.mark.parametrize("most", [1.0, 1.5, -0.1, math.nan])
def test_masking_everything_is_refused(mask, most):
    with pytest.raises(ValueError, match="most is"):
        mask(torch.rand(2, 17, 4, 4), generator(), most=most)


def test_patches_are_dark_in_all_maps_at_once():
    maps = 0.5 + torch.rand(50, 17, 28, 28, generator=generator())
    found = mask_patches(maps, generator(), patches=7, most=0.5)
    dark = found == 0
    assert torch.equal(dark, dark[:, :1].expand_as(dark)) and torch.equal(found, maps.masked_fill(dark, 0))
    squares = dark[:, 0].unflatten(1, (7, 4)).unflatten(3, (7, 4)).float().mean((2, 4))  # (B, 7, 7)
    assert ((squares == 0) | (squares == 1)).all() and 0.1 < squares.mean() < 0.4


def test_patches_fit_maps_of_any_size():
    assert mask_patches(torch.ones(2, 17, 10, 11), generator(), patches=4, most=0.9).shape == (2, 17, 10, 11)


def test_spurious_dots_leave_the_true_one():
    maps = synthesize_heatmaps(torch.zeros(40, 17, 2), 16, 1.0)
    before = maps.clone()
    found = with_spurious(maps, generator(), 1.0, chance=0.2)
    more = (found > maps).flatten(2).any(2)
    assert torch.equal(maps, before) and (found >= maps).all() and found.max() <= 1
    assert more.float().mean() == pytest.approx(0.2, abs=0.06)
    assert torch.equal(with_spurious(maps, generator(), 1.0, chance=0.0), maps)


@pytest.mark.parametrize("noise, dropped", [(-1.0, 0.1), (1.0, 1.2), (1.0, -0.1)])
def test_impossible_flaws_are_refused(noise, dropped):
    with pytest.raises(ValueError, match="chance"):
        jittered(torch.zeros(1, 3, 2), generator(), noise, dropped)


def test_without_flaws_maps_are_perfect_and_with_them_they_follow_the_seed():
    points = torch.rand(6, 17, 2, generator=generator()) - 0.5
    assert torch.equal(flawed_heatmaps(points, 20, generator(), PERFECT), synthesize_heatmaps(points, 20, 1.0))
    for flaws in (Flaws(), Flaws(patches=5)):
        found = flawed_heatmaps(points, 20, generator(3), flaws)
        assert torch.equal(found, flawed_heatmaps(points, 20, generator(3), flaws)) and found.isfinite().all()
        assert not torch.equal(found, flawed_heatmaps(points, 20, generator(4), flaws))


def test_everything_dropped_is_an_empty_map_not_nan():
    maps = flawed_heatmaps(torch.zeros(2, 17, 2), 12, generator(), Flaws(dropped=1.0, spurious=0.0))
    assert (maps == 0).all()

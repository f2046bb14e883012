"""Chapter 15's baselines and measures, on small scenes whose answer is known."""

import pytest
import torch

from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import interpolate, rasterize
from course_lib.data.meshes import posed_bodies, skin
from course_lib.data.multiview import scans
from course_lib.studies import humanram_measure as measuring
from course_lib.studies.humanram_measure import (
    Seen,
    colours_at,
    image_metrics,
    nearest_view,
    person_box,
    projected,
    seen_by,
    turn_table,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 64


def ring(azimuths: tuple[float, ...], distance: float = 3.0) -> Camera:
    """Cameras around the origin, level, degrees."""
    angle = torch.tensor(azimuths).deg2rad()
    eye = distance * torch.stack([angle.sin(), torch.zeros(len(angle)), angle.cos()], 1)
    return Camera.look_at(eye, torch.zeros(3), focal=1.4 * SIDE, size=(SIDE, SIDE))


def bodies() -> torch.Tensor:
    """One body in two poses, (2, V, 3): the second has its arms down."""
    pose = torch.zeros(2, 55, 3)
    pose[1, 16, 2], pose[1, 17, 2] = -1.2, 1.2
    return posed_bodies(torch.zeros(2, 10), pose, torch.zeros(2)).vertices


def painted(vertices: torch.Tensor, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """A body without light whose colour is a smooth function of the canonical point: pictures on white, and alpha."""
    colour = 0.5 + 0.4 * torch.sin(4 * skin().template[:, [0, 1, 1]] + torch.tensor([0.0, 1.0, 2.0]))
    found = rasterize(vertices.expand(len(camera), -1, -1), skin().faces, camera, SIDE)
    alpha = (found.face >= 0)[:, None]
    return interpolate(found, skin().faces, colour).permute(0, 3, 1, 2).where(alpha, 1.0), alpha.float()


@pytest.fixture(scope="module")
def scene() -> dict:
    inputs, targets = ring((0, 90, 180, 270)), ring((45, 130))
    first, second = bodies()
    return {
        "given": Seen(painted(first, inputs)[0], inputs, first),
        "camera": targets,
        "poses": (first, second),
        "truth": [painted(pose, targets) for pose in (first, second)],
    }


# ------------------------------------------------------------------------------------------------- baselines
def test_nearest_view_is_by_direction_not_by_place(scene):
    given = scene["given"]
    far = Seen(given.image, Camera(given.camera.K, given.camera.R, given.camera.t), given.vertices)
    copied = nearest_view(far, ring((80, 100, 170, 1, 359), distance=6.0))
    assert torch.equal(copied, given.image[[1, 1, 2, 0, 0]])


@pytest.mark.parametrize("pose", [0, 1])
def test_projection_gives_a_body_its_colours_in_either_pose(scene, pose):
    truth, alpha = scene["truth"][pose]
    answer = projected(scene["given"], skin().faces, scene["camera"], scene["poses"][pose], skin().template)
    assert torch.equal((answer != 1).any(1, keepdim=True), alpha > 0)
    found = image_metrics(answer, truth, alpha)
    copied = image_metrics(nearest_view(scene["given"], scene["camera"]), truth, alpha)
    assert found["psnr_box"].min() > 24 and (found["psnr_box"] > copied["psnr_box"] + 6).all()


def test_a_single_view_fills_what_it_does_not_see(scene):
    given = scene["given"]
    front = Seen(given.image[:1], given.camera[0], given.vertices)
    back = ring((180,))
    answer = projected(front, skin().faces, back, given.vertices, skin().template)
    truth, alpha = painted(given.vertices, back)
    assert answer.isfinite().all() and ((answer - truth).abs() * alpha).sum() / alpha.sum() / 3 < 0.08


def test_a_view_without_the_person_leaves_grey(scene):
    given = scene["given"]
    turned = given.camera.R[:1] * torch.tensor([-1.0, 1.0, -1.0])[:, None]  # half a turn about the vertical
    away = Camera(given.camera.K[:1], turned, given.camera.t[:1] * torch.tensor([-1.0, 1.0, -1.0]))
    answer = projected(
        Seen(given.image[:1], away, given.vertices), skin().faces, ring((0,)), given.vertices, skin().template
    )
    assert answer.unique().tolist() == [0.5, 1.0]


def test_pictures_need_their_cameras(scene):
    with pytest.raises(ValueError, match="3 pictures and 4 cameras"):
        Seen(scene["given"].image[:3], scene["given"].camera, scene["given"].vertices)


# ------------------------------------------------------------------------------------------------- pieces
def test_seen_by_a_wall():
    """A wall at depth 2 fills the left half of the picture; nothing on the right."""
    camera = Camera(torch.tensor([[[10.0, 0, 5], [0, 10, 5], [0, 0, 1]]]), torch.eye(3)[None], torch.zeros(1, 3))
    depth = torch.full((1, 10, 10), torch.inf)
    depth[:, :, :5] = 2
    points = torch.tensor(
        [[-0.1, 0, 2.0], [-0.1, 0, 2.5], [0.1, 0, 2.5], [-0.1, 0, 1.0], [9.0, 0, 2.0], [0.1, 0, -2.0], [0.0, 9, 3]]
    )
    assert seen_by(points, camera, depth, 0.02).tolist() == [[True, False, True, True, False, False, False]]
    assert seen_by(points + torch.tensor([0, 0, 0.01]), camera, depth, 0.02)[0, 0]


def test_colours_at_pixel_centres():
    images = torch.arange(24.0).view(1, 1, 4, 6).expand(2, 3, 4, 6)
    places = torch.tensor([[0.5, 0.5], [5.5, 3.5], [2.0, 0.5], [2.5, 2.0]]).expand(2, -1, -1)
    on = torch.ones(2, 4, 6)
    assert torch.allclose(colours_at(images, on, places)[1, :, 2], torch.tensor([0, 23, 1.5, 11]), atol=1e-5)
    on[:, :, 1] = 0  # what is left of (2.0, 0.5) is white around the person
    assert torch.allclose(colours_at(images, on, places)[1, :, 2], torch.tensor([0, 23, 2.0, 11]), atol=1e-4)


# ------------------------------------------------------------------------------------------------- measures
def test_box_has_room_for_a_window():
    alpha = torch.zeros(3, 1, 40, 30)
    alpha[0, 0, 5:35, 10:25] = 1
    alpha[1, 0, 20, 0] = 1
    alpha[2, 0, 39, 29] = 1
    assert person_box(alpha).tolist() == [[10, 5, 25, 35], [0, 14, 12, 26], [18, 28, 30, 40]]
    with pytest.raises(ValueError, match=r"item \[1\]"):
        person_box(alpha * torch.tensor([1.0, 0, 1]).view(3, 1, 1, 1))


def test_box_counts_the_person_only():
    target, alpha = torch.rand(2, 3, 48, 32), torch.zeros(2, 1, 48, 32)
    alpha[:, :, 5:35, 8:25] = 1
    inside, outside = target.clone(), target.clone()
    inside[:, :, 10:20, 10:20] = 0
    outside[:, :, :5] = 0
    inside, outside = image_metrics(inside, target, alpha), image_metrics(outside, target, alpha)
    assert outside["psnr_box"].isinf().all() and outside["psnr"].isfinite().all()
    assert (inside["psnr_box"] < inside["psnr"]).all()
    error = target[0, :, 10:20, 10:20].square().sum() / (3 * 30 * 17)
    assert torch.isclose(inside["psnr_box"][0], -10 * error.log10(), atol=1e-3)


def test_turn_table_goes_round():
    like = ring((77,), distance=2.5)
    cameras = turn_table(8, like, elevation=10.0)
    centre = cameras.center
    assert torch.allclose(centre.norm(dim=1), torch.tensor(2.5), atol=1e-4)
    assert centre[0, 2] > 2.4 and centre[2, 0] > 2.4 and torch.allclose(centre[:, 1], centre[0, 1].expand(8), atol=1e-5)
    pixels = cameras.project(torch.zeros(8, 1, 3))
    assert torch.allclose(pixels, torch.tensor(SIDE / 2), atol=1e-3) and torch.equal(cameras.K[3], like.K[0])


# ------------------------------------------------------------------------------------------------- held-out people
@pytest.fixture(scope="module")
def found(own_data):
    return scans("test", 1, 32, poses=2, views=6)


def test_tasks_ask_for_views_that_are_not_given(found):
    for count in (1, 2, 4):
        own, other = (list(measuring.tasks(found, count, unseen)) for unseen in (False, True))
        assert [(t.source, t.goal) for t in own] == [(0, 0), (1, 1)]
        assert [(t.source, t.goal) for t in other] == [(0, 1), (1, 0)]
        assert len(own[0].given.camera) == count and torch.equal(own[0].given.image, other[0].given.image)
        asked = own[0].batch["target_image"][0]
        assert not any(torch.equal(one, given) for one in asked for given in own[0].given.image)


def test_answers_are_pictures_and_the_bare_body_bounds_projection(found):
    every = list(measuring.tasks(found, 4))
    answers = {name: getattr(measuring, name) for name in ("copied", "painted", "bare")}
    rows = {name: measuring.measure(answer, every) for name, answer in answers.items()}
    assert rows["bare"]["psnr_box"] > rows["painted"]["psnr_box"] > rows["copied"]["psnr_box"]
    assert set(rows["bare"]) == {f"{m}{part}" for m in ("psnr", "ssim", "distance") for part in ("", "_box")}


def test_growing_colours_what_touches_the_body_by_a_side():
    picture, on = torch.ones(1, 3, 5, 5), torch.zeros(1, 5, 5, dtype=torch.bool)
    on[0, 2, 2] = True
    picture[0, :, 2, 2] = 0.25
    wide = measuring.grown(picture, on)
    cross = torch.zeros(5, 5, dtype=torch.bool)
    cross[2, 1:4] = cross[1:4, 2] = True
    assert torch.equal(wide[0, 0] == 0.25, cross) and picture.sum() == 75 - 3 * 0.75


def test_a_network_turns_and_looks(found):
    task = next(measuring.tasks(found, 2))
    config = humanram.CONFIGS["smoke"]
    torch.manual_seed(0)
    model = humanram.HumanRAM(config, *humanram.canonical_surface())
    around = turn_table(3, task.given.camera)
    assert model(measuring.seen_from(task, around)).shape == (1, 3, 3, 32, 32)
    assert measuring.drawn(model)(task).shape == task.batch["target_image"][0].shape
    hit, chance = measuring.found_share(model, task, layer=-1)
    assert 0 < hit < 1 and 0 < chance < 1


def test_true_places_of_a_view_that_is_given_are_its_own_patches(found):
    task = next(measuring.tasks(found, 6))  # all six views, so the asked one is among them
    asked = measuring.asked_views(6).tolist()[0]
    places = measuring.true_places(task, patch=8)
    row, column = places.patch // 4, places.patch % 4
    middle = torch.stack([column, row], -1) * 8 + 4.5
    assert len(places.patch) and (places.pixel[asked] - middle).abs().max() < 0.2 and places.seen[asked].all()


def test_a_study_runs(found):
    rows = measuring.compare(humanram.Arm(pose_image=False, head="linear"), 0, 2)
    assert set(rows) == {"novel_1", "novel_4", "novel", "unseen"} and all(5 < value < 40 for value in rows.values())

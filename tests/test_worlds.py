"""Worlds: what is in the pictures, who may appear where, and that nothing depends on who renders it."""

import numpy as np
import pytest
import torch

from course_lib.chapters.cameras import Camera
from course_lib.data import make as making
from course_lib.data import views, worlds
from course_lib.data.backgrounds import KINDS, PATTERNS, Surface, sample_background
from course_lib.data.keypoints import available
from course_lib.data.objects import INDOOR, OUTDOOR, ball, box
from course_lib.data.schema import validate
from course_lib.data.worlds import WORLDS, sample_scene, scene_rng

SIZE = (48, 48)


@pytest.fixture(scope="module")
def wild_scenes():
    """Some scenes of the richest world with their posed people, not rendered."""
    return [sample_scene("wild", "train", 0, index, SIZE) for index in range(30)]


def pictures(world: str, index: int, **settings):
    """The pictures of a scene, tiny and without supersampling."""
    settings = {"supersample": 1, "formats": ("coco17",)} | settings
    return list(worlds.render_samples(world, "train", 0, index, SIZE, **settings))


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_renders_valid_samples(world):
    (sample,) = pictures(world, 1)
    validate(sample)
    assert sample.image.std() > 0.01 and sample.source == f"{world}/train"
    if world == "general-nopeople":
        assert sample.people == [] and sample.alpha.max() == 0


def test_same_scene_same_picture_another_index_another_one():
    first, again, other = pictures("studio", 2)[0], pictures("studio", 2)[0], pictures("studio", 3)[0]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.people[0].pose, again.people[0].pose)
    assert np.abs(first.image - other.image).max() > 0.1


def test_streams_of_worlds_splits_seeds_and_scenes_differ():
    keys = [
        ("wild", "train", 0, 0),
        ("wild", "test", 0, 0),
        ("scan", "train", 0, 0),
        ("wild", "train", 1, 0),
        ("wild", "train", 0, 1),
    ]
    assert len({scene_rng(*key).integers(2**62) for key in keys}) == len(keys)


def test_splits_share_no_identity():
    people = {split: [worlds.identity(split, n) for n in range(8)] for split in worlds.SPLITS}
    names = {split: {name for name, _ in row} for split, row in people.items()}
    shapes = {split: {p.betas.tobytes() for _, p in row} for split, row in people.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not names[a] & names[b] and not shapes[a] & shapes[b]
    assert worlds.identity("train", 3)[1].betas.tobytes() in shapes["train"]


def test_the_people_of_a_scene_are_of_its_cast_and_all_different(wild_scenes):
    for index, (scene, _) in enumerate(wild_scenes):
        cast = {f"train-{n:06d}" for n in worlds.cast(WORLDS["wild"], "wild", "train", 0, index)}
        assert set(scene.identities) <= cast and len(set(scene.identities)) == len(scene.identities)
    assert len(worlds.cast(WORLDS["studio"], "studio", "train", 0, 0)) == WORLDS["studio"].identities


def test_shares_of_the_wild_world(wild_scenes):
    counts = [len(scene.identities) for scene, _ in wild_scenes]
    assert min(counts) == 1 and max(counts) >= 3
    framings = [scene.place.split("/")[-1] for scene, _ in wild_scenes]
    assert {"full", "upper", "face"} <= set(framings)


def test_framings_come_in_equal_shares():
    rng = np.random.default_rng(0)
    drawn = [worlds.draw(rng, WORLDS["wild"].framings) for _ in range(3000)]
    assert all(abs(drawn.count(name) / 3000 - 1 / 3) < 0.04 for name in views.FRAMINGS)


def test_people_stand_on_the_floor_or_jump(wild_scenes):
    for scene, posed in wild_scenes:
        low = posed[0].vertices[:, worlds.surface(), 1].amin(1).numpy()
        for height, family in zip(low, scene.families, strict=True):
            top = 0.42 if family == "jumping" else 0.02
            assert -1e-4 < height < top, family


def test_nobody_runs_into_anybody_and_pairs_touch(wild_scenes):
    pairs = 0
    for scene, _ in wild_scenes:
        limbs = [worlds.Skeleton(p.betas).capsules(p.pose, p.translation) for p in scene.people[0]]
        for a in range(len(limbs)):
            for b in range(a + 1, len(limbs)):
                depth = limbs[a].overlap(limbs[b]).max()
                touching = scene.families[a] == scene.families[b] and scene.families[a] in worlds.CONTACTS
                pairs += touching and depth > -0.03
                assert depth < 0.05, (scene.families, depth)
    assert pairs > 0, "30 wild scenes should hold a pair in contact"


def test_contact_pairs_touch_by_about_a_centimetre():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        first, second = (worlds.sample_actor(rng, WORLDS["wild"], "train", n, "still", 1) for n in range(2))
        worlds.put_in_contact(rng, first, second)
        assert 0.0 < first.capsules().overlap(second.capsules()).max() < 0.035


def test_everything_stands_inside_its_room(wild_scenes):
    rooms = 0
    for scene, posed in wild_scenes:
        if not isinstance(scene.background, worlds.sample_background.__globals__["Room"]):
            continue
        rooms += 1
        low, high = scene.background.low, scene.background.high
        points = [posed[0].vertices[:, worlds.surface()].flatten(0, 1), scene.cameras[0].center]
        points = torch.cat(points + [mesh.vertices for mesh in scene.objects]) @ scene.background._turn()
        assert points[:, 0].min() > low[0] and points[:, 0].max() < high[0]
        assert points[:, 2].min() > low[1] and points[:, 2].max() < high[1]
        assert points[:, 1].max() < scene.background.height
    assert rooms


def test_objects_stand_clear_of_people(wild_scenes):
    for scene, _ in wild_scenes:
        limbs = [worlds.Skeleton(p.betas).capsules(p.pose, p.translation) for p in scene.people[0]]
        seats = sum(family == "sitting" for family in scene.families)
        for mesh in scene.objects[seats:]:
            middle = ((mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2).numpy()
            inner = min(np.ptp(mesh.vertices.numpy()[:, [0, 2]], axis=0)) / 2
            assert all(worlds.gap_on_floor(middle, c, mesh.height()) > 0.8 * inner - 0.05 for c in limbs)


# ---------------------------------------------------------------- labels


@pytest.fixture(scope="module")
def one_person():
    """A picture of one person."""
    return pictures("studio", 0, supersample=2)[0]


def test_labels_agree_with_each_other(one_person):
    sample, person = one_person, one_person.people[0]
    seen = sample.instances == 1
    assert seen.any() and (np.isfinite(sample.depth) == seen).all()
    assert ((sample.parts > 0) == seen).all()
    np.testing.assert_allclose(np.linalg.norm(sample.normals, axis=0)[seen], 1, atol=1e-3)
    assert (sample.normals[:, ~seen] == 0).all() and (sample.alpha[seen] > 0).all()
    left, top, right, bottom = person.box.astype(int)
    assert seen[top:bottom, left:right].sum() == seen.sum() and seen[top].any() and seen[bottom - 1].any()
    assert person.seen_share > 0.5


def test_keypoints_are_projections_and_the_seen_ones_lie_on_the_person(one_person):
    sample, points = one_person, one_person.people[0].keypoints["coco17"]
    camera = Camera(*(torch.from_numpy(v)[None] for v in (sample.K, sample.R, sample.t)))
    known = available("coco17")
    spots = camera.project(torch.from_numpy(points.points_3d[known])[None])[0].numpy()
    np.testing.assert_allclose(spots, points.points_2d[known], atol=1e-3)
    rows = np.floor(points.points_2d[points.visible == 2]).astype(int)
    near = [sample.instances[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any() for x, y in rows]
    assert np.mean(near) > 0.9
    inside = ((points.points_2d >= 0) & (points.points_2d < 48)).all(1)
    assert ((points.visible > 0) == inside)[known].all()


def test_scan_world_is_smoother():
    _, posed = sample_scene("scan", "train", 0, 0, SIZE)
    rough = worlds.pose_people(sample_scene("scan", "train", 0, 0, SIZE)[0].people[0])
    hands = (worlds.body().weights.argmax(1) > 24).nonzero()[:, 0]
    hands = hands[torch.isin(hands, worlds.surface())]
    moved = (posed[0].vertices - rough.vertices)[0].norm(dim=1)
    assert moved[worlds.surface()].max() < 0.04 and moved[hands].mean() > 1e-4


# ---------------------------------------------------------------- cameras


def test_views_of_a_scene_look_at_the_person_from_all_around():
    scene, posed = sample_scene("studio", "train", 0, 1, SIZE, view_count=5)
    middle = posed[0].vertices[0, worlds.surface()].mean(0)
    eyes = torch.cat([camera.center for camera in scene.cameras]) - middle
    azimuth = np.sort(np.arctan2(eyes[:, 0].numpy(), eyes[:, 2].numpy()))
    gaps = np.diff(np.append(azimuth, azimuth[0] + 2 * np.pi))
    assert gaps.max() < np.deg2rad(72 + 20) and gaps.min() > np.deg2rad(72 - 20)
    for camera in scene.cameras:
        spots = camera.project(posed[0].vertices[:, worlds.surface()])[0]
        assert spots.min() > 0 and spots.max() < 48, "the person leaves the picture"
        assert (spots.mean(0) - 24).abs().max() < 10


def test_multi_view_pictures_share_scene_and_frame_numbers():
    samples = pictures("studio", 4, view_count=2, frames=2, motion="waving")
    assert [(s.scene, s.frame, s.view) for s in samples] == [(4, 0, 0), (4, 0, 1), (4, 1, 0), (4, 1, 1)]
    assert len({s.key for s in samples}) == 4
    np.testing.assert_array_equal(samples[0].people[0].pose, samples[1].people[0].pose)
    np.testing.assert_array_equal(samples[0].R, samples[2].R)
    assert samples[0].people[0].identity == samples[3].people[0].identity


def test_an_empty_scene_has_as_many_pictures_as_any_other():
    samples = pictures("general-nopeople", 0, view_count=3, frames=2, motion="walking")
    assert [(s.frame, s.view) for s in samples] == [(f, v) for f in range(2) for v in range(3)]
    assert all(validate(s).people == [] for s in samples)


@pytest.mark.parametrize("framing", views.FRAMINGS)
def test_framing_fills_the_picture_with_what_it_wants(framing):
    rng = np.random.default_rng(0)
    points = worlds.body().template[views.framed_vertices(framing)].numpy() * (0.4, 1, 1) + (0, 1, 0)  # arms down
    for _ in range(12):
        camera = views.sample_view(rng, points, (0.0, 0.0), framing, (60, 80))
        spots = views.pixels(camera, points)
        assert (spots > -1).all() and (spots < (81, 61)).all()
        low, high = views.FRAMINGS[framing].fill
        share = max(np.ptp(spots[:, 0]) / 80, np.ptp(spots[:, 1]) / 60)
        assert low - 0.08 < share < high + 0.06
        assert camera.center[0, 1] >= views.LOWEST_EYE - 1e-4
    with pytest.raises(ValueError, match="full, upper, face"):
        views.sample_view(rng, points, (0.0, 0.0), "selfie", (60, 80))


def test_face_framing_sees_the_face():
    scene_count = 0
    for index in range(30):
        scene, posed = sample_scene("studio", "train", 0, index, SIZE)
        if scene.place.endswith("face"):
            eyes = posed[0].joints[0, 23:25].mean(0)
            nose_way = eyes - posed[0].joints[0, 15]
            to_camera = scene.cameras[0].center[0] - eyes
            scene_count += 1
            assert (
                torch.cosine_similarity(nose_way * torch.tensor([1.0, 0, 1]), to_camera * torch.tensor([1.0, 0, 1]), 0)
                > -0.3
            )
    assert scene_count


def test_egocentric_camera_sits_before_the_eyes_and_sees_the_own_hands():
    rng = np.random.default_rng(0)
    skeleton = worlds.Skeleton.of()
    pose = worlds._arm_pose(rng, "hold", "hold")
    joints, rotations = skeleton.forward(pose)
    camera = views.egocentric(rng, joints, rotations, SIZE)
    assert np.linalg.norm(camera.center[0].numpy() - joints[[23, 24]].mean(0)) < 0.12
    hands = joints[[worlds.INDEX["left_middle1"], worlds.INDEX["right_middle1"]]]
    assert (views.pixels(camera, hands) > -10).all() and (views.pixels(camera, hands) < 58).all()
    assert camera.to_camera(torch.tensor(hands, dtype=torch.float32)[None])[0, :, 2].min() > 0.1


def test_hidden_share_and_boxes():
    wall = worlds.Capsules(np.array([[0.0, -1, 1]]), np.array([[0.0, 1, 1]]), np.array([0.3]))
    points = np.array([(0.0, 0, 2), (2.0, 0, 2)])
    assert views.hidden_share(np.zeros(3), points, [wall]) == 0.5
    mask = np.zeros((8, 10), bool)
    mask[2:5, 3:7] = True
    assert views.seen_box(mask).tolist() == [3, 2, 7, 5] and views.seen_box(mask & False).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("world", making.recorded_test_sets())
def test_the_recorded_test_sets_are_those_of_todays_worlds(world):
    recorded = making.recorded_test_sets()[world]
    mend = "the worlds have changed: run `python -m course_lib.data.make FOLDER --record` and commit test_sets.json"
    assert recorded["scenes"] == making.scenes_digest(world), mend
    assert recorded["count"] == 500 and recorded["seed"] == 0 and recorded["split"] == "test"


def test_unknown_worlds_and_splits():
    with pytest.raises(worlds.UnknownWorld, match="studio, wild"):
        sample_scene("mars", "train", 0, 0, SIZE)
    with pytest.raises(worlds.UnknownWorld, match="train, val, test"):
        sample_scene("wild", "dev", 0, 0, SIZE)


# ---------------------------------------------------------------- backgrounds and objects


@pytest.mark.parametrize("kind", (*KINDS, "plain"))
def test_backgrounds_agree_with_their_own_depth(kind):
    background = sample_background(np.random.default_rng(3), kind)
    camera = Camera.look_at(torch.tensor([[0.5, 1.4, 1.5]]), torch.tensor([[0.0, 0.7, 0.0]]), focal=40.0, size=SIZE)
    colour, depth, normal = background.render(camera, SIZE)
    assert colour.shape == (48, 48, 3) and 0 <= colour.min() and colour.max() <= 1 and colour.isfinite().all()
    solid = depth.isfinite()
    assert (depth[solid] > 0).all() and (normal[~solid] == 0).all()
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    points = camera.unproject(torch.stack([x, y], -1).view(1, -1, 2), depth.view(1, -1).nan_to_num(posinf=1.0)).view(
        48, 48, 3
    )
    floor = solid & (normal[..., 1] > 0.999)
    assert floor.any() and points[floor][:, 1].abs().max() < 2e-3, "the floor is not at y = 0"
    towards = ((camera.center[0] - points) * normal).sum(-1)
    assert (towards[solid] > -1e-3).all(), "a surface faces away from the camera"


def test_a_background_is_the_same_place_from_two_cameras():
    background = sample_background(np.random.default_rng(1), "room")
    target = torch.tensor([[0.0, 0.0, 0.2]])
    colours = []
    for eye in ((0.3, 1.5, 1.0), (-0.4, 1.4, 1.1)):
        camera = Camera.look_at(torch.tensor([eye]), target, focal=400.0, size=(9, 9))
        colours.append(background.render(camera, (9, 9))[0][3:6, 3:6].mean((0, 1)))
    assert (colours[0] - colours[1]).abs().max() < 0.12


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_colours_everywhere_and_fade_when_far(pattern):
    u, v = np.random.default_rng(0).uniform(-20, 20, (2, 4000)).astype(np.float32)
    surface = Surface(pattern, (0.2, 0.3, 0.4), (0.8, 0.7, 0.6), 0.2, 3.0)
    near, far = surface.colour(u, v, np.full_like(u, 1e-3)), surface.colour(u, v, np.full_like(u, 0.5))
    assert np.isfinite(near).all() and near.min() >= 0 and near.max() <= 1
    assert far.std() <= near.std() + 0.02


def test_unknown_kind_of_background():
    with pytest.raises(ValueError, match="plain, room, outdoors, studio"):
        sample_background(np.random.default_rng(0), "moon")


@pytest.mark.parametrize("name", sorted({**INDOOR, **OUTDOOR}))
def test_objects_stand_on_the_floor_with_unit_normals(name):
    mesh = {**INDOOR, **OUTDOOR}[name](np.random.default_rng(0))
    assert mesh.vertices[:, 1].min() == pytest.approx(0, abs=0.06) and mesh.height() < 3
    assert mesh.faces.max() < len(mesh.vertices) and len(mesh.faces) < 6000
    torch.testing.assert_close(mesh.normals.norm(dim=1), torch.ones(len(mesh.vertices)), atol=1e-3, rtol=0)
    assert mesh.colours.min() >= 0 and mesh.colours.max() <= 1


def test_faces_wind_outwards():
    for mesh in (box((1, 2, 3), (0, 1, 0), (1, 0, 0)), ball(0.5, (1, 0, 0))):
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        cross = torch.linalg.cross(b - a, c - a)
        big = cross.norm(dim=1) > 1e-6
        assert ((cross * mesh.normals[mesh.faces].mean(1)).sum(1)[big] > 0).all()


def test_placed_object_turns_and_moves():
    mesh = box((1, 1, 1), (1, 0.5, 0), (1, 0, 0)).placed(np.pi / 2, (0.0, 0.0, 5.0))
    centre = mesh.vertices.mean(0)
    torch.testing.assert_close(centre, torch.tensor([0.0, 0.5, 4.0]), atol=1e-5, rtol=0)

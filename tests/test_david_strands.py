"""Chapter 09: who is drawn, strands and their proxies, layers of glass and hair; what is empty or hidden."""

import dataclasses

import numpy as np
import pytest
import torch

from course_lib.chapters import david_data as david
from course_lib.data import layers, make, strands, worlds
from course_lib.data.glasses import OUTLINES, Fit, outline, sample_glasses, tube
from course_lib.data.hair import STYLES, scalp_mask
from course_lib.data.layers import Targets
from course_lib.data.lighting import sample_lights, shadow_map
from course_lib.data.parts import PART_IDS
from course_lib.data.person import Glasses, Outfit, Person, load_body, pose_people
from course_lib.data.render import render_scene
from course_lib.data.surfaces import Builder, shape_of
from course_lib.data.views import camera_at, unit
from course_lib.data.wardrobe import dress

SIZE = (64, 64)


def head_of(number: int = 7, style: str = "long", strands: int = 1500, hat: bool = False, **look) -> Person:
    """Person `number` of the training split with this hair."""
    person = worlds.identity("train", number)[1]
    garments = tuple(g for g in person.outfit.garments if hat or g.kind not in ("cap", "beanie"))
    look = dataclasses.replace(person.look, hair_style=style, strands=strands, **look)
    return dataclasses.replace(person, look=look, outfit=Outfit(garments))


def portrait(person: Person, turn: float = 0.3, away: float = 0.6, size=SIZE, **options) -> dict[str, np.ndarray]:
    """The head from near by, over black."""
    posed = pose_people([person])
    head = posed.joints[0, 15].numpy() + [0, 0.05, 0.02]
    camera = camera_at(head + away * unit(turn, 0.1), head, 2.0 * size[0], size)
    return render_scene(
        [person], camera, size, sample_lights(np.random.default_rng(0), "studio"), posed=posed, **options
    )


@pytest.fixture(scope="module")
def builder() -> Builder:
    body = load_body()
    return Builder(body, shape_of(head_of(), body))


# ---------------------------------------------------------------- blending


def test_composite_is_the_naive_loop():
    rng = np.random.default_rng(0)
    alpha, values = rng.random((20, 6)), rng.random((20, 6, 3))
    alpha[3], alpha[4, 2] = 0, 1
    seen, passes = david.composite(alpha, values)
    for n in range(20):
        light, colour = 1.0, np.zeros(3)
        for layer in range(6):
            assert np.isclose(passes[n, layer], light)
            colour += light * alpha[n, layer] * values[n, layer]
            light *= 1 - alpha[n, layer]
        assert np.allclose(seen[n], colour) and np.isclose(passes[n, -1], light)


def test_no_layers_at_all():
    seen, passes = david.composite(np.zeros((4, 0)), np.zeros((4, 0, 3)))
    assert seen.shape == (4, 3) and (seen == 0).all() and passes.shape == (4, 1) and (passes == 1).all()
    assert (david.median_layer(passes) == -1).all()


def test_the_median_layer_takes_the_light_below_one_half():
    _, passes = david.composite(np.array([[0.4, 0.4, 0.4], [0.9, 0.0, 0.0], [0.2, 0.2, 0.1]]), np.zeros((3, 3, 1)))
    assert david.median_layer(passes).tolist() == [1, 0, -1]


def test_coverage_is_the_area_of_a_thin_strand():
    assert np.allclose(david.coverage(np.array([0.2, 3.0, 0.0]), np.array([0.5, 1.0, 1.0])), [0.1, 1.0, 0.0])
    with pytest.raises(ValueError, match="negative"):
        david.coverage(np.array([-0.1]), np.array([1.0]))


def test_the_picture_holds_the_area_of_its_strands():
    """One straight strand far from anything, through the whole machinery: the mask sums to width x length in pixels."""
    person = head_of(style="bald")
    mesh = dress(person)
    line = np.linspace([-0.05, 0.4, 0.35], [0.06, 0.42, 0.35], 9)[None].astype(np.float32)
    own = strands.Strands(
        "hair", line, np.ones_like(line), np.ones((1, 9)), np.full((1, 3), 0.2), np.array([0.0004]),
        joints=np.broadcast_to([1.0, 0, 0], (1, 9, 3)), proxy=np.broadcast_to([0, 0, 1.0], line.shape), taper=1.0,
    )  # fmt: skip
    posed = pose_people([person])
    camera = camera_at(np.array([0, 0.4, 1.5]), np.array([0, 0.4, 0.0]), 300.0, (96, 96))
    canvas = layers.Canvas(
        (96, 96), 2, np.full((192, 192), np.inf, np.float32), np.zeros((3, 192**2)), np.zeros(192**2, bool)
    )
    lights = sample_lights(np.random.default_rng(0))
    shadow = shadow_map(posed.vertices[0], load_body().model.faces.long(), lights)
    found = layers.strand_fragments(own, 1, posed, camera, lights, shadow, canvas)
    points, _ = own.pose(posed.vertices[0], posed.transforms[0])
    local = camera.to_camera(torch.from_numpy(points).float()).numpy()[0]
    pixels = 300 * local[:, :2] / local[:, 2:]
    area = np.linalg.norm(pixels[-1] - pixels[0]) * 300 * 0.0004 / local[:, 2].mean()
    assert mesh.strands is not None and found.alpha.max() < 1
    assert np.isclose(found.alpha.sum() / 4, area, rtol=0.02)


# ---------------------------------------------------------------- strands


def test_strands_keep_their_length_and_root():
    roots, out = np.zeros((3, 3)), np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 0]])
    grown = david.grow(roots, out, np.array([0.1, 0.2, 0.3]), 0.5, 5)
    assert np.allclose(grown[:, 0], roots) and np.isfinite(grown).all()
    assert np.allclose(np.linalg.norm(np.diff(grown[:2], axis=1), axis=2).sum(1), [0.1, 0.2])
    with pytest.raises(ValueError, match="two points"):
        david.grow(roots, out, np.ones(3), 0.1, 1)


@pytest.mark.parametrize("style", list(STYLES))
def test_every_haircut_grows_outside_the_skull_and_near_it(style):
    groups = dress(head_of(style=style, strands=600)).strands
    body = load_body()
    skull = shape_of(head_of(), body).vertices[scalp_mask(body)]
    middle = skull.mean(0)
    inner = np.linalg.norm(skull - middle, axis=1)
    for group in groups:
        assert np.isfinite(group.rest).all() and np.isfinite(group.proxy).all()
        assert np.allclose(np.linalg.norm(group.proxy, axis=-1), 1, atol=1e-3)
        away = np.linalg.norm(group.rest.reshape(-1, 3) - middle, axis=1)
        assert away.max() < 0.65
        if group.kind == "hair" and group.base is not None:  # hanging hair begins under the crown's
            assert away.min() > 0.9 * inner.min()
    assert sum(len(g.rest) for g in groups if g.kind == "hair") >= 300
    assert {"brow", "lash"} <= {g.kind for g in groups}


def test_nobody_grows_strands_unasked():
    assert dress(head_of(strands=0)).strands == []
    bare = dataclasses.replace(head_of(), outfit=Outfit())
    assert dress(bare).strands == []
    assert {g.kind for g in dress(head_of(style="bald", beard=0.0)).strands} == {"brow", "lash"}


def test_strands_move_with_the_head():
    person = head_of(strands=600)
    pose = person.pose.copy()
    pose[15] = 0.5, 0.7, 0.2
    turned = dataclasses.replace(person, pose=pose)
    group = dress(person).strands[0]
    still, moved = (pose_people([p]) for p in (person, turned))
    (a, _), (b, turn) = (group.pose(p.vertices[0], p.transforms[0]) for p in (still, moved))
    assert np.abs(b - a).max() > 0.03
    on_top = np.argsort(-group.rest[:, 0, 1])[:20]  # where only the head's joint pulls
    lengths = [np.linalg.norm(np.diff(p[on_top], axis=1), axis=2) for p in (a, b)]
    assert np.allclose(*lengths, atol=1e-4)
    assert np.allclose(turn[on_top] @ turn[on_top].transpose(0, 1, 3, 2), np.eye(3), atol=1e-3)


def test_fewer_strands_are_wider():
    group = dress(head_of(strands=600)).strands[0]
    half = group.first(len(group.rest) // 2)
    assert np.isclose(half.width.sum(), group.width.sum(), rtol=0.01) and len(half.rest) == len(half.open) == len(
        half.proxy
    )


def test_strands_make_the_mask_soft_and_leave_no_hole():
    mesh, strand = (portrait(head_of(style="curly", strands=n), size=(96, 96)) for n in (0, 4000))
    soft = [((p["alpha"] > 0.02) & (p["alpha"] < 0.98)).mean() for p in (mesh, strand)]
    assert soft[1] > 1.5 * soft[0]
    solid = mesh["alpha"] == 1
    assert (strand["alpha"][solid] > 0.9).mean() > 0.99
    labelled = strand["instances"] > 0
    assert np.array_equal(labelled, np.isfinite(strand["depth"])) and np.array_equal(labelled, strand["parts"] > 0)
    assert np.allclose(np.linalg.norm(strand["normals"][labelled], axis=1), 1, atol=1e-4)
    assert (labelled == (strand["alpha"] >= 0.5 - 1e-5)).mean() > 0.999
    assert strand["alpha"].max() <= 1 + 1e-5 and np.isfinite(strand["image"]).all()


def test_a_hidden_head_shows_no_strand():
    """Behind a wall, outside the picture, behind the camera: nothing is seen, nothing breaks."""
    person = head_of()
    posed = pose_people([person])
    head = posed.joints[0, 15].numpy()
    lights = sample_lights(np.random.default_rng(0))
    for eye, target in ((head + [0, 0, 1.0], head + [3, 0, 1.0]), (head + [0, 0, 0.5], head + [0, 0, 3.0])):
        camera = camera_at(eye, target, 80.0, SIZE)
        found = render_scene([person], camera, SIZE, lights, posed=posed)
        assert (found["parts"] != PART_IDS["Hair"]).all() and np.isfinite(found["image"]).all()
    camera = camera_at(head + [0, 0, 1.0], head, 120.0, SIZE)
    canvas = layers.Canvas(SIZE, 2, np.full((128, 128), 0.3, np.float32), np.zeros((3, 128**2)), np.zeros(128**2, bool))
    for group in dress(person).strands:
        assert layers.visible_pieces(group, posed, 0, camera, canvas) is None


# ---------------------------------------------------------------- proxies


def test_proxy_normals_around_a_ball_are_the_balls():
    rng = np.random.default_rng(0)
    away = rng.normal(size=(2500, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    ball = david.grow(0.06 * away, away + 0.3 * rng.normal(size=away.shape), np.full(2500, 0.03), 0.0)
    vertices, faces, normals = david.proxy_mesh(*david.voxelize(ball.reshape(-1, 3), 0.007), 0.007)
    radius = np.linalg.norm(vertices, axis=1)
    outer = radius > 0.08
    assert outer.any() and radius.max() < 0.115 and faces.max() == len(vertices) - 1
    assert ((normals * vertices).sum(1)[outer] / radius[outer] > 0.7).mean() > 0.98  # out of the hair
    found = david.proxy_normals(ball[:, -1], vertices, normals)
    cosine = (found * ball[:, -1]).sum(1) / np.linalg.norm(ball[:, -1], axis=1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).mean() < 12


def test_every_point_is_in_its_cube():
    points = np.random.default_rng(0).uniform(-0.3, 0.4, (500, 3))
    counts, corner = david.voxelize(points, 0.05, 2)
    assert counts.sum() == 500 and (counts[:2] == 0).all() and (counts[:, -2:] == 0).all()
    place = np.floor((points[17] - corner) / 0.05).astype(int)
    assert counts[tuple(place)] >= 1


def test_nothing_has_no_proxy():
    with pytest.raises(ValueError, match="no strands"):
        david.voxelize(np.zeros((0, 3)), 0.01)
    with pytest.raises(ValueError, match="empty"):
        david.proxy_mesh(np.zeros((8, 8, 8), np.float32), np.zeros(3), 0.01)
    with pytest.raises(ValueError, match="empty"):
        david.proxy_normals(np.zeros((4, 3)), np.zeros((0, 3)), np.zeros((0, 3)))
    vertices, _, normals = david.proxy_mesh(*david.voxelize(np.zeros((1, 3)), 0.01), 0.01)  # one point: a small ball
    assert len(vertices) and np.isfinite(normals).all()


def test_targets_change_labels_only_and_proxies_are_smoother():
    person = head_of(strands=4000)
    noisy, smooth = (portrait(person, size=(96, 96), targets=Targets(hair=kind)) for kind in ("strand", "proxy"))
    for name in ("image", "alpha", "depth", "parts", "instances"):
        assert np.array_equal(noisy[name], smooth[name])
    hair = noisy["parts"] == PART_IDS["Hair"]
    both = hair[:, 1:] & hair[:, :-1]
    roughness = [1 - (p["normals"][:, 1:] * p["normals"][:, :-1]).sum(-1)[both].mean() for p in (noisy, smooth)]
    assert both.sum() > 500 and roughness[1] < 0.4 * roughness[0]
    bare = ~hair & (noisy["parts"] == PART_IDS["Upper_Clothing"])
    assert np.array_equal(noisy["normals"][bare], smooth["normals"][bare])
    with pytest.raises(ValueError, match="proxy or strand"):
        Targets(hair="mesh")


# ---------------------------------------------------------------- glass


def test_a_lens_counts_in_the_labels_or_not():
    alpha, lens = np.array([[0.1, 0.5, 0.0]]), np.array([[True, False, True]])
    assert david.label_alpha(alpha, lens, True).tolist() == [[1.0, 0.5, 0.0]]
    assert david.label_alpha(alpha, lens, False).tolist() == [[0.0, 0.5, 0.0]]
    assert alpha[0, 0] == 0.1


def test_the_switch_changes_depth_and_normals_where_the_lens_is():
    person = head_of(style="bald", beard=0.0, glasses=Glasses("square", dark=0.1))
    out, within = (portrait(person, size=(128, 128), targets=Targets(lens=lens)) for lens in (False, True))
    assert np.array_equal(out["image"], within["image"]) and np.array_equal(out["alpha"], within["alpha"])
    changed = (out["depth"] != within["depth"]) | (out["normals"] != within["normals"]).any(-1)
    tinted = dataclasses.replace(person, look=dataclasses.replace(person.look, glasses=Glasses("square", dark=0.9)))
    shaded = np.abs(portrait(tinted, size=(128, 128))["image"] - out["image"]).max(-1) > 0.004
    assert changed.mean() > 0.01 and (shaded[changed]).mean() > 0.97
    both = changed & np.isfinite(out["depth"]) & np.isfinite(within["depth"])
    assert np.median(out["depth"][both] - within["depth"][both]) > 0.005
    assert (within["parts"][changed] == PART_IDS["Apparel"]).mean() > 0.95


@pytest.mark.parametrize("shape", list(OUTLINES))
def test_glasses_sit_before_the_face_and_on_the_ears(builder, shape):
    fit = Fit(builder, Glasses(shape))
    rim, temple, bridge = fit.place(outline(fit.glasses)), fit.temple(), fit.bridge()
    assert 0 < 0.0025 - 1e-6 <= -fit.clearance(rim) < 0.03  # off skin and lashes, but not floating
    assert rim[:, 0].min() > 0.004 and np.allclose(bridge[0] * [-1, 1, 1], bridge[-1])
    ears = fit.ears[fit.ears[:, 0] > 0]
    assert np.linalg.norm(ears - temple[15], axis=1).min() < 0.02
    side = fit.side(temple[:16, 1], temple[:16, 2])
    assert (temple[:16, 0] > side).all()


def test_glasses_that_do_not_exist():
    with pytest.raises(ValueError, match="use one of round"):
        outline(Glasses("monocle"))
    drawn = [sample_glasses(np.random.default_rng(i)) for i in range(40)]
    assert {g.shape for g in drawn} == set(OUTLINES) and all(0 < g.dark < 1 for g in drawn)


def test_a_tube_is_closed_around_its_path():
    path = np.stack([np.linspace(0, 1, 6), np.zeros(6), np.zeros(6)], 1)
    vertices, faces = tube(path, 0.1)
    assert np.allclose(np.hypot(*vertices[:, 1:].T), 0.1)
    a, b, c = (vertices[corner] for corner in faces.T)
    out = (a + b + c) / 3 * [0, 1, 1]
    assert (np.abs((np.cross(b - a, c - a) * out).sum(1)) > 0).all()


# ---------------------------------------------------------------- worlds


@pytest.mark.parametrize("world", ["studio", "wild", "scan", "general", "general-nopeople"])
def test_older_worlds_are_as_they_were(world):
    assert make.scenes_digest(world) == make.recorded_test_sets()[world]["scenes"]


def test_an_older_picture_is_the_same_to_the_bit():
    """No strands, no glasses, no targets: the path of the older worlds does not look at them."""
    person = head_of(strands=0)
    plain = portrait(person)
    assert all(np.array_equal(plain[n], v) for n, v in portrait(person, targets=Targets("strand", True)).items())


def picture(world: str, index: int = 3):
    return next(worlds.render_samples(world, "train", 0, index, (72, 72), formats=("coco17",)))


def test_worlds_that_differ_in_labels_share_their_pictures():
    base = picture("synth")
    for name in ("synth-strand-normals", "synth-lens"):
        other = picture(name)
        assert np.array_equal(base.image, other.image) and np.array_equal(base.alpha, other.alpha)
        assert other.source == f"{name}/train"
    assert not np.array_equal(base.normals, picture("synth-strand-normals").normals)
    coarse = worlds.sample_scene("synth-coarse", "train", 0, 3, (72, 72))[0]
    scene = worlds.sample_scene("synth", "train", 0, 3, (72, 72))[0]
    assert (coarse.identities, coarse.families, coarse.place) == (scene.identities, scene.families, scene.place)
    assert torch.equal(coarse.cameras[0].R, scene.cameras[0].R)
    assert (
        scene.people[0][0].look.strands
        and not coarse.people[0][0].look.strands
        and not coarse.people[0][0].look.glasses
    )


def test_scans_are_smooth_and_few():
    scene = worlds.sample_scene("synth-scan", "train", 0, 0, (64, 64))[0]
    assert scene.smooth and not scene.people[0][0].look.strands and worlds.WORLDS["synth-scan"].identities == 100


def test_weights_follow_the_shares():
    weights = david.balancing_weights(["a"] * 9 + ["b"], {"a": 1, "b": 1})
    assert np.isclose(weights.sum(), 1) and np.isclose(weights[-1], 0.5)
    for shares in ({"a": 0.0, "b": 0.0}, {"c": 1.0}, {"a": 2.0, "b": -1.0}):
        with pytest.raises(ValueError, match="nobody to draw"):
            david.balancing_weights(["a", "b"], shares)


def test_casts_follow_the_demographics():
    world = dataclasses.replace(worlds.WORLDS["synth"], demographics={"sex": {"female": 0.9, "male": 0.1}})
    drawn = [n for b in range(8) for n in worlds.cast(world, "synth", "val", 0, 20 * b)]
    share = np.mean([worlds.traits("val", n)["sex"] == "female" for n in drawn])
    assert len(drawn) == 8 * worlds.CAST and 0.78 < share < 1
    only = dataclasses.replace(world, demographics={"skin": {"dark": 1.0}})
    assert {worlds.traits("val", n)["skin"] for n in worlds.cast(only, "synth", "val", 0, 0)} == {"dark"}
    for table, words in (({"sex": {"female": 0.0}}, "nobody"), ({"height": {"tall": 1.0}}, "demographics know")):
        with pytest.raises(ValueError, match=words):
            worlds.cast(dataclasses.replace(world, demographics=table), "synth", "val", 0, 0)


def test_traits_are_those_of_the_dressed_person():
    for number in range(6):
        person = worlds.identity("val", number)[1]
        assert worlds.traits("val", number) == {name: group(person) for name, group in worlds.GROUPS.items()}


def test_what_people_hold_counts_in_alpha_if_the_labels_say_so():
    size = (64, 64)
    scene, posed = worlds.sample_scene("synth-held", "train", 0, 2, size)
    held = [thing for thing in scene.objects if thing.held]
    assert held and posed[0].joints[:, 25:].sub(held[0].vertices.mean(0)).norm(dim=-1).min() < 0.6
    said = {
        counts: render_scene(
            scene.people[0], scene.cameras[0], size, scene.lights, scene.background, scene.objects, posed=posed[0],
            targets=Targets(held=counts),
        )
        for counts in (False, True)
    }  # fmt: skip
    more = said[True]["alpha"] - said[False]["alpha"]
    assert more.min() >= 0 and more.max() > 0.9
    assert all(np.array_equal(said[True][n], said[False][n]) for n in ("image", "depth", "normals", "instances"))


def test_a_world_with_things_in_hands_is_the_world_without_them_else():
    (scene, posed), (other, others) = (
        worlds.sample_scene(name, "train", 0, 2, (64, 64)) for name in ("synth-held", "synth")
    )
    assert torch.equal(posed[0].vertices, others[0].vertices)
    assert [thing for thing in scene.objects if not thing.held] and len(scene.objects) > len(other.objects)
    assert sum(not thing.held for thing in scene.objects) == len(other.objects)


def test_the_unfair_world_has_few_of_one_group():
    chosen = [
        n for block in range(30) for n in worlds.cast(worlds.WORLDS["synth-unfair"], "synth", "train", 0, 60 * block)
    ]
    assert 0 < np.mean([worlds.traits("train", n)["skin"] == "dark" for n in chosen]) < 0.05

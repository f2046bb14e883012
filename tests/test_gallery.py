"""The gallery: every kind shows what its name says, of the test split's people; children are children."""

import dataclasses

import numpy as np
import pytest

from course_lib.data import gallery as galleries
from course_lib.data.gallery import CHILD, KINDS, RARE, WORLDS, gallery
from course_lib.data.person import pose_people
from course_lib.data.poses import INDEX, Skeleton
from course_lib.data.schema import validate
from course_lib.data.worlds import CONTACTS, UnknownWorld, identity, sample_scene, surface

SIZE = 32


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """A data folder for this file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        yield


def scenes(kind: str, count: int) -> list:
    """The first scenes of a kind, not rendered."""
    return [sample_scene(f"gallery-{kind}", "test", 0, index, (SIZE, SIZE))[0] for index in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_renders_people_of_the_test_split(kind):
    (sample,) = gallery(kind, 1, SIZE)
    validate(sample)
    assert sample.source == f"gallery-{kind}/test" and sample.image.std() > 0.01
    assert sample.alpha.max() > 0.5 and sample.image.shape == (3, SIZE, SIZE)
    assert all(person.identity.startswith("test-") for person in sample.people)


def test_the_same_arguments_give_the_same_pictures_and_another_seed_others(monkeypatch, tmp_path):
    first = gallery("full", 1, SIZE)[0]
    other = gallery("full", 1, SIZE, seed=1)[0]
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    again = gallery("full", 1, SIZE)[0]
    np.testing.assert_array_equal(first.image, again.image)
    assert np.abs(first.image - other.image).max() > 0.1


def test_keypoints_and_fields_can_be_chosen():
    (sample,) = gallery("face", 1, SIZE, formats=("wholebody133",), only=("image",))
    assert set(sample.people[0].keypoints) == {"wholebody133"} and sample.depth is None


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": -1}, {"size": 0}, {"seed": -1}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="must be at least 1"):
        gallery(**{"kind": "full", "count": 1, "size": SIZE} | bad)


def test_an_unknown_kind_is_named_with_those_that_exist():
    with pytest.raises(UnknownWorld, match="no kind 'indoors'.*outdoors"):
        gallery("indoors", 1, SIZE)
    with pytest.raises(UnknownWorld, match="no world 'gallery-indoors'.*gallery-outdoors"):
        sample_scene("gallery-indoors", "test", 0, 0, (SIZE, SIZE))


def test_groups_name_every_kind_once():
    named = galleries.GENERALISATION + galleries.FAILURES + galleries.GROUPS
    assert sorted(named) == sorted(KINDS) and len(set(named)) == len(named)
    assert {world.identities for world in WORLDS.values()} == {galleries.EVERYBODY}


# ---------------------------------------------------------------- what each kind shows


def test_many_and_crowds_hold_many_people():
    assert min(len(scene.identities) for scene in scenes("many", 4)) >= 3
    assert np.mean([len(scene.identities) for scene in scenes("crowd", 3)]) >= 6


def test_outdoors_is_outdoors_and_framings_are_as_named():
    assert all(scene.place.startswith("outdoors/") for scene in scenes("outdoors", 4))
    for framing in ("face", "upper", "full"):
        for scene in scenes(framing, 3):
            assert scene.place.endswith(f"/{framing}") and len(scene.identities) == 1


def test_pairs_are_in_contact():
    for scene in scenes("contact", 4):
        assert len(scene.identities) == 2 and set(scene.families) <= set(CONTACTS)


def test_egocentric_pictures_are_taken_from_a_forehead():
    found = [scene.place.endswith("/egocentric") for scene in scenes("egocentric", 8)]
    assert np.mean(found) >= 0.75


def test_things_hide_much_in_occluded_pictures():
    occluded = [p.seen_share for s in gallery("occlusion", 6, SIZE, only=()) for p in s.people]
    assert np.median(occluded) < 0.62


@pytest.mark.parametrize("kind", RARE)
def test_rare_poses_are_no_upright_ones_and_stay_within_reach(kind):
    skeleton, lean = Skeleton.of(), []
    for seed in range(6):
        pose = RARE[kind](np.random.default_rng(seed), skeleton)
        again = RARE[kind](np.random.default_rng(seed), skeleton)
        np.testing.assert_array_equal(pose, again)
        assert pose.shape == (55, 3) and np.isfinite(pose).all() and not skeleton.touches_itself(pose, 0.06)
        lean.append(skeleton.forward(pose)[1][0][1, 1])  # how far the pelvis is upright: 1 standing, -1 on its head
    assert max(lean) < -0.8 if kind == "handstand" else min(lean) < 0.95


# ---------------------------------------------------------------- ages


@pytest.fixture(scope="module")
def family():
    """An adult and the child that somebody else was, at rest: names and people."""
    (one, adult), (two, young) = identity("test", 5), identity("test", 9)
    young = dataclasses.replace(young, look=dataclasses.replace(young.look, age=22.0, beard=1.0, makeup=0.7))
    name, child = galleries.child_or_old(two, young)
    return [one, name], [adult, child]


def test_the_young_become_children_without_beards_and_the_old_stay(family):
    names, people = family
    assert names[1].endswith(CHILD) and people[1].look.beard == people[1].look.makeup == 0
    old = dataclasses.replace(people[0], look=dataclasses.replace(people[0].look, age=70.0))
    name, same = galleries.child_or_old("test-000005", old)
    assert name == "test-000005" and same is old


def test_a_child_is_as_high_as_the_table_says_and_has_a_large_head(family):
    names, people = family
    before = pose_people(people)
    after = galleries.with_children(before, names, people)
    np.testing.assert_allclose(after.vertices[0], before.vertices[0], atol=1e-6)
    body, head = galleries.growth(people[1])
    assert 0.5 < body < head < 1.0

    def height(posed) -> float:
        return float(np.ptp(posed.vertices[1, surface(), 1].numpy()))

    years = np.random.default_rng(people[1].seed).uniform(4, 12)
    expected = np.interp(years, galleries.YEARS, galleries.HEIGHTS)
    assert abs(height(after) / expected - 1) < 0.05 and height(after) < height(before)
    eyes = [INDEX["left_eye_smplhf"], INDEX["right_eye_smplhf"]]
    widths = [float((p.joints[1, eyes[0]] - p.joints[1, eyes[1]]).norm()) for p in (after, before)]
    assert abs(widths[0] / widths[1] - head) < 1e-4


def test_a_childs_transforms_carry_rest_points_to_its_posed_skin(family):
    names, people = family
    after = galleries.with_children(pose_people(people), names, people)
    rest = after.rest_joints[1]
    moved = (after.transforms[1, :, :3, :3] @ rest[..., None])[..., 0] + after.transforms[1, :, :3, 3]
    np.testing.assert_allclose(moved, after.joints[1], atol=1e-4)


def test_ages_holds_children_without_shape_and_old_people_with_one():
    people = [p for sample in gallery("ages", 6, SIZE, only=()) for p in sample.people]
    children = [p for p in people if p.identity.endswith(CHILD)]
    assert children and len(children) < len(people)
    assert all((p.shape is None) == p.identity.endswith(CHILD) for p in people)
    cast = galleries.youngest_and_oldest([1, 2, 3], 1000, "test")
    ages = [identity("test", number)[1].look.age for number in cast]
    assert len(cast) == 12 and max(ages[:6]) < min(ages[6:])

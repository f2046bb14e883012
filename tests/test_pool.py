"""The unlabelled pool: shares, what is true of a spoiled picture, the same again, and nobody in two splits."""

from collections import Counter

import numpy as np
import pytest

from course_lib.data import pool as pools
from course_lib.data.pool import COMPOSITIONS, KINDS, SOURCES, STYLES, Picture, make_pool, shuffled, spoil
from course_lib.data.sets import people_samples
from course_lib.data.worlds import UnknownWorld

SIZE, COUNT = 32, 25
PIXEL_STYLES = [(k, s) for k, styles in STYLES.items() for s in styles if s not in COMPOSITIONS]
MARKS = [(k, s) for k, s in PIXEL_STYLES if k in ("text", "watermark")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder for this file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="module")
def pool(data):
    return make_pool(COUNT, SIZE)


def scenery(size: int = 64, people: int = 1) -> Picture:
    """A smooth picture with grain, and people as blocks from left to right."""
    rows, columns = np.mgrid[:size, :size] / size
    image = np.stack([0.3 + 0.4 * columns, 0.2 + 0.5 * rows, 0.6 - 0.3 * rows * columns], -1)
    image += np.random.default_rng(5).normal(0, 0.03, image.shape)
    instances = np.zeros((size, size), np.uint8)
    for number in range(people):
        instances[size // 4 : -size // 4, 4 + 14 * number : 14 + 14 * number] = number + 1
    return Picture(image.clip(0, 1).astype(np.float32), instances)


# ---------------------------------------------------------------- the pool


def test_the_pool_holds_what_its_shares_say(pool):
    assert len(pool) == COUNT and pool.images.shape == (COUNT, 3, SIZE, SIZE)
    assert pool.images.dtype.is_floating_point and 0 <= pool.images.min() and pool.images.max() <= 1
    for shares, found in ((KINDS, "kind"), (SOURCES, "world")):
        counts = Counter(getattr(truth, found) for truth in pool.truth)
        assert sum(counts.values()) == COUNT
        assert all(abs(counts[name] - share * COUNT) < 1 for name, share in shares.items())


def test_the_truth_fits_the_pictures(pool):
    for truth in pool.truth:
        assert (truth.style in STYLES[truth.kind]) if truth.kind != "clean" else truth.style == ""
        assert truth.people == len(truth.boxes) and truth.boxes.shape == (truth.people, 4)
        assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all() and (truth.boxes >= 0).all()
        assert (truth.boxes <= SIZE).all()
        assert (truth.mark is not None) == (truth.kind in ("text", "watermark"))
        if truth.world == "general-nopeople" and truth.style not in COMPOSITIONS:
            assert truth.people == 0
        if truth.world == "studio" and truth.kind == "clean":
            assert truth.people == 1
    assert any(truth.people > 1 for truth in pool.truth)


def test_clean_pictures_are_the_rendered_ones(pool):
    studio = [i for i, truth in enumerate(pool.truth) if truth.world == "studio"]
    samples = people_samples("studio", len(studio), SIZE, only=("image",))
    clean = [(i, samples[n].image) for n, i in enumerate(studio) if pool.truth[i].kind == "clean"]
    assert clean
    for index, image in clean:
        np.testing.assert_array_equal(pool.images[index].numpy(), image)


def test_the_same_arguments_give_the_same_pool(pool):
    again = make_pool(COUNT, SIZE)
    assert (again.images == pool.images).all()
    for one, other in zip(pool.truth, again.truth, strict=True):
        assert (one.kind, one.style, one.world) == (other.kind, other.style, other.world)
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_another_seed_or_split_is_another_pool_without_anybody_of_this_one(pool):
    other, val = make_pool(10, SIZE, seed=1), make_pool(10, SIZE, split="val")
    assert (other.images != val.images).float().mean() > 0.5

    def names(split: str, count: int) -> set[str]:
        return {p.identity for s in people_samples("wild", count, SIZE, split, only=()) for p in s.people}

    train, held_out = names("train", 13), names("val", 5)
    assert train and held_out and not train & held_out


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": -3}, {"size": 0}, {"size": 8}, {"seed": -1}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="must be at least"):
        make_pool(**{"count": 4, "size": SIZE} | bad)


def test_an_unknown_split_or_kind_is_named():
    with pytest.raises(UnknownWorld, match="no split 'dev'.*train, val, test"):
        make_pool(4, SIZE, split="dev")
    with pytest.raises(ValueError, match="no kind 'ugly'.*watermark"):
        spoil(scenery(), "ugly", np.random.default_rng(0), scenery())


@pytest.mark.parametrize("count", [1, 2, 7, 24, 101])
def test_shuffled_deals_whole_pictures(count):
    dealt = Counter(shuffled(np.random.default_rng(0), KINDS, count))
    assert sum(dealt.values()) == count
    assert all(abs(dealt[kind] - share * count) < 1 for kind, share in KINDS.items())


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("kind, style", PIXEL_STYLES)
@pytest.mark.parametrize("size", [16, 33, 64])
def test_every_style_shows_and_leaves_its_input_alone(kind, style, size):
    picture = scenery(size)
    before = picture.image.copy()
    first, again = (STYLES[kind][style](picture.image, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(picture.image, before)
    np.testing.assert_array_equal(first, again)
    assert first.shape == before.shape and np.isfinite(first).all()
    assert (np.abs(first - before).max(-1) > 0.05).mean() > 0.02


@pytest.mark.parametrize("kind, style", MARKS)
def test_text_and_watermarks_lie_where_the_truth_says(kind, style):
    for seed in range(4):
        before = scenery().image
        after = STYLES[kind][style](before, np.random.default_rng(seed)).clip(0, 1)
        left, top, right, bottom = pools.mark_box(before, after).astype(int)
        outside = np.ones(before.shape[:2], bool)
        outside[top:bottom, left:right] = False
        assert np.abs(after - before)[outside].max(initial=0) <= 0.02
        changed = np.abs(after - before).max(-1)[top:bottom, left:right] > 0.02
        assert all(changed[edge].any() for edge in (0, -1, np.s_[:, 0], np.s_[:, -1]))


def test_a_caption_is_white_letters_with_a_black_rim():
    before = scenery(128)
    after = pools.caption(before.image, np.random.default_rng(0))
    left, top, right, bottom = pools.mark_box(before.image, after).astype(int)
    inside = after[top:bottom, left:right]
    assert (inside.min(-1) > 0.98).mean() > 0.02 and (inside.max(-1) < 0.05).mean() > 0.01


@pytest.mark.parametrize("style", STYLES["watermark"])
def test_a_watermark_is_half_transparent(style):
    before = scenery(64).image
    after = STYLES["watermark"][style](before, np.random.default_rng(2))
    assert 0.1 < np.abs(after - before).max() < 0.56


def test_letters_are_never_wider_than_they_may_be():
    for widest in (10, 40, 200):
        mask = pools.lettering("a long line of words", 12, widest)
        assert mask.shape[1] <= widest and 0.5 < mask.max() <= 1 and mask.min() >= 0
    assert mask.mean() > 0.1


def test_a_posterised_picture_has_four_colours():
    poster = pools.posterised(scenery().image, np.random.default_rng(0))
    assert len(np.unique(poster.reshape(-1, 3), axis=0)) == 4


def test_kuwahara_flattens_areas_and_keeps_edges():
    step = np.zeros((32, 32, 3), np.float32)
    step[:, 16:] = 1
    noisy = step + np.random.default_rng(0).normal(0, 0.05, step.shape).astype(np.float32)
    smooth = pools.kuwahara(noisy, 4)
    assert np.abs(smooth - step).mean() < 0.4 * np.abs(noisy - step).mean()
    assert (smooth[8:24, 17] - smooth[8:24, 14]).min() > 0.8


# ---------------------------------------------------------------- compositions and people


@pytest.mark.parametrize("style", COMPOSITIONS)
@pytest.mark.parametrize("size", [33, 64])
def test_compositions_keep_size_and_inputs(style, size):
    one, two = scenery(size), scenery(size, people=2)
    kept = one.image.copy(), one.instances.copy(), two.image.copy(), two.instances.copy()
    made = STYLES["unnatural"][style](one, np.random.default_rng(0), two)
    assert made.image.shape == one.image.shape and made.instances.shape == one.instances.shape
    for now, before in zip((one.image, one.instances, two.image, two.instances), kept, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("size", [33, 64])
def test_a_kaleidoscope_is_its_own_mirror_image(size):
    for seed in range(4):
        made = pools.kaleidoscope(scenery(size), np.random.default_rng(seed), scenery(size))
        np.testing.assert_array_equal(made.image, made.image[:, ::-1])
        np.testing.assert_array_equal(made.instances > 0, (made.instances > 0)[:, ::-1])
        boxes = pools.person_boxes(made.instances)
        assert len(boxes) in (0, 2, 4)  # a person at the side, twice or four times, or cut away


def test_a_collage_has_people_of_both_pictures_and_counts_them_once():
    left = scenery(64)  # one at the left
    right = Picture(1 - left.image, left.instances[:, ::-1])
    counts = []
    for seed in range(12):
        made = pools.collage(left, np.random.default_rng(seed), right)
        counts.append(len(pools.person_boxes(made.instances)))
    assert max(counts) == 2 and min(counts) >= 1


def test_a_person_in_an_inset_has_a_box_inside_it():
    nobody = Picture(scenery().image, np.zeros((64, 64), np.uint8))
    made = pools.inset(nobody, np.random.default_rng(0), scenery(64, people=1))
    (box,) = pools.person_boxes(made.instances)
    small = pools.seen_box(np.abs(made.image - nobody.image).max(-1) > 0)
    assert (box[:2] >= small[:2]).all() and (box[2:] <= small[2:]).all()
    assert 8 < box[3] - box[1] < 18  # 32 pixels high before


def test_people_of_whom_almost_nothing_is_seen_do_not_count():
    instances = np.zeros((20, 20), np.uint8)
    instances[0, 0], instances[5:9, 5:9] = 1, 2
    np.testing.assert_array_equal(pools.person_boxes(instances), [[5, 5, 9, 9]])
    assert pools.person_boxes(np.zeros((4, 4), np.uint8)).shape == (0, 4)

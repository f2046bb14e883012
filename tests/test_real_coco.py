"""COCO and COCO-WholeBody: small data in their layout, and the same broken."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_files import (
    Broken,
    assert_good,
    assert_no_source,
    assert_refused,
    assert_set_aside,
    edit_json,
    picture,
    run,
    script,
    truncate,
)

from course_lib.data import shards
from course_lib.real import coco
from course_lib.real.checks import SourceError

Coco = script("coco").Coco
NAMES = list(coco.FORMATS["coco17"])
FILE = "annotations/person_keypoints_val2017.json"


def annotation(number, image, box, rng, crowd=0):
    left, top, width, height = box
    points = np.concatenate([rng.uniform((left, top), (left + width, top + height), (17, 2)), np.full((17, 1), 2)], 1)
    points[3] = 0  # not annotated
    points[4, 2] = 1  # hidden
    right, bottom = left + width, top + height
    polygon = [[left, top, right, top, right, bottom, left, bottom]]
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": list(box), "area": float(width * height),
        "iscrowd": crowd, "num_keypoints": 16, "keypoints": points.round(2).ravel().tolist(), "segmentation": polygon,
    }  # fmt: skip


def whole(found, rng):
    """The same with COCO-WholeBody's parts; the right hand is not valid."""
    left, top, width, height = found["bbox"]
    for key, (count, flag) in list(coco.WHOLEBODY.items())[1:]:
        spots = rng.uniform((left, top), (left + width, top + height), (count, 2))
        score = 2 if key == "foot_kpts" else 0.7
        found[key] = np.concatenate([spots, np.full((count, 1), score)], 1).ravel().tolist()
        found[flag] = key != "righthand_kpts"
    return found


@pytest.fixture
def root(tmp_path):
    """Four pictures of 64 x 48: two people, one and a crowd, nobody, one."""
    root, rng = tmp_path / "coco", np.random.default_rng(0)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 48, "width": 64} for n in (139, 285, 632, 724)]
    for each in images:
        picture(root / "val2017" / each["file_name"], (64, 48), each["id"])
    boxes = [(139, (2.0, 3.0, 20.0, 40.0)), (139, (30.0, 10.0, 10.0, 30.0)), (285, (5.0, 5.0, 30.0, 38.0)),
             (724, (33.0, 1.0, 30.0, 12.0))]  # fmt: skip
    people = [annotation(number, image, box, rng) for number, (image, box) in enumerate(boxes, 1)]
    crowd = annotation(5, 285, (40.0, 0.0, 10.0, 10.0), rng, crowd=1)
    crowd["segmentation"] = {"size": [48, 64], "counts": [40 * 48, 10, 48 * 24 - 10]}
    table = {"images": images, "annotations": [*people, crowd], "categories": [{"id": 1, "keypoints": NAMES}]}
    (root / "annotations").mkdir()
    (root / FILE).write_text(json.dumps(table))
    for each in table["annotations"]:
        whole(each, rng)
    (root / "annotations" / "coco_wholebody_val_v1.0.json").write_text(json.dumps(table))
    return root


def test_people_become_samples(root, tmp_path, capsys):
    assert_good(Coco, root, tmp_path / "out", capsys)
    first, second, _ = shards.read(tmp_path / "out")
    assert first.key == "000000000139" and len(first.people) == 2 and len(second.people) == 1
    points = first.people[0].keypoints["coco17"]
    assert points.visible.tolist()[:6] == [2, 2, 2, 0, 1, 2] and np.isnan(points.points_2d[3]).all()
    assert np.allclose(first.people[0].box, (2, 3, 22, 43))
    assert (first.instances == 1).sum() == 20 * 40 and first.instances[20, 35] == 2
    assert second.alpha[:10, 40].all() and not second.alpha[11:, 40].any() and second.instances[5, 40] == 0


def test_wholebody(root, tmp_path, capsys):
    assert_good(Coco, root, tmp_path / "out", capsys, "--wholebody", "--limit", "1")
    (sample,) = shards.read(tmp_path / "out")
    points = sample.people[0].keypoints["wholebody133"]
    assert (points.visible[17:112] == 2).all() and not points.visible[112:].any()
    assert np.isnan(points.points_2d[112:]).all() and np.isfinite(points.points_2d[23:112]).all()


def test_backgrounds(root, tmp_path, capsys):
    assert_good(Coco, root, tmp_path / "out", capsys, "--without-people")
    (sample,) = shards.read(tmp_path / "out")
    assert sample.key == "000000000632" and sample.people == [] and not sample.alpha.any()


def test_without_a_source(tmp_path, capsys):
    assert_no_source(Coco, tmp_path, capsys)


def every(key, function):
    """A change of all annotations, (x, y, ...) in rows."""

    def change(table):
        for each in table["annotations"]:
            width = 3 if key == "keypoints" else len(each[key])
            each[key] = function(np.array(each[key], float).reshape(-1, width)).ravel().tolist()

    return lambda path: edit_json(path, change)


def change_first(key, value):
    def change(table):
        table["annotations"][0][key] = value

    return lambda path: edit_json(path, change)


SHARES = np.array([1 / 64, 1 / 48, 1])
VERSIONS = [
    Broken("truncated", truncate, ("can't be read",)),
    Broken("missing key", lambda p: edit_json(p, lambda t: t.pop("annotations")), ("annotations", "missing")),
    Broken("missing in one", lambda p: edit_json(p, lambda t: t["annotations"][2].pop("bbox")), ("[2]", "bbox")),
    Broken("shares for pixels", every("keypoints", lambda a: a * SHARES), ("keypoints", "shares of the picture")),
    Broken("boxes in shares", every("bbox", lambda a: a / 64), ("bbox", "shares of the picture")),
    Broken("NaN", change_first("keypoints", [float("nan")] * 51), ("annotations[0]", "keypoints", "NaN")),
    Broken("swapped axes", every("keypoints", lambda a: a[:, [1, 0, 2]]), ("keypoints", "axes swapped")),
    Broken("two corners", every("bbox", lambda a: a + a[:, [0, 1, 0, 1]] * [0, 0, 1, 1]),
           ("bbox", "left, top, right, bottom")),
    Broken("other order", lambda p: edit_json(p, lambda t: t["categories"][0].update(keypoints=NAMES[::-1])),
           ("categories", "nose")),
    Broken("not COCO's", change_first("keypoints", [1.0] * 50), ("keypoints", "(51)")),
    Broken("nobody's picture", change_first("image_id", 7), ("image_id", "7")),
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_broken_annotations_are_refused(root, tmp_path, capsys, version):
    version.apply(root / FILE)
    assert_refused(Coco, root, tmp_path / "out", capsys, (FILE, *version.words))


def test_broken_pictures_are_set_aside(root, tmp_path, capsys):
    truncate(root / "val2017" / "000000000139.jpg", 0.2)
    (root / "val2017" / "000000000724.jpg").rename(root / "val2017" / os.fsdecode(b"\xff\xfe.jpg"))
    words = ("000000000139.jpg can't be read", "000000000724.jpg is not there")
    assert_set_aside(Coco, root, tmp_path / "out", capsys, words)
    assert len(list(shards.read(tmp_path / "out"))) == 1


def test_a_picture_of_another_size_and_runs_of_another_length_are_set_aside(root, tmp_path, capsys):
    picture(root / "val2017" / "000000000139.jpg", (48, 64))
    edit_json(root / FILE, lambda t: t["annotations"][4]["segmentation"].update(counts=[1, 2]))
    assert_set_aside(Coco, root, tmp_path / "out", capsys, ("turned by 90 degrees", "segmentation.counts"))


def test_pictures_must_be_unpacked(root, tmp_path, capsys):
    (root / "val2017").rename(root / "train2017")
    assert_refused(Coco, root, tmp_path / "out", capsys, ("val2017/", "unpack the pictures"))
    assert run(Coco, root, tmp_path / "out", "--split", "train") == 1
    assert "person_keypoints_train2017.json" in capsys.readouterr().err


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 8))
def test_runs_are_read_as_they_are_written(values, height):
    values = values[: len(values) // height * height] or [True] * height
    mask = np.array(values).reshape(-1, height).T
    flat, counts, now = mask.T.ravel(), [], False
    while len(flat):
        run_ = int(np.argmax(flat != now)) if (flat != now).any() else len(flat)
        counts.append(run_)
        flat, now = flat[run_:], not now
    assert np.array_equal(coco.mask_of_runs({"counts": counts}, mask.shape, "x"), mask)


LEAVES = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
IMAGE = {"id": 1, "file_name": "a.jpg", "height": 48, "width": 64}
PERSON = annotation(1, 1, (2.0, 3.0, 20.0, 40.0), np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["images", "annotations", "both"]), st.sampled_from(sorted({*IMAGE, *PERSON})), LEAVES)
def test_a_file_with_anything_in_one_place_gives_people_or_an_error_in_words(where, key, value):
    table = {"images": [dict(IMAGE)], "annotations": [dict(PERSON)]}
    if where == "both":
        table[key] = value
    else:
        table[where][0][key] = value
    before, coco.read_json = coco.read_json, lambda _: table
    try:
        _, people = coco.read_people("people.json")
        assert len(people) == len(table["annotations"])
    except SourceError as error:
        assert "people.json" in str(error)
    finally:
        coco.read_json = before


def test_detections(tmp_path):
    rows = [{"image_id": 139, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
            {"image_id": 139, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows))
    assert coco.read_detections(tmp_path / "d.json")[139].tolist() == [[1, 2, 4, 6, 0.5]]
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(SourceError, match="score"):
        coco.read_detections(tmp_path / "d.json")

"""LIP and CIHP: small data in their layouts, and the same broken."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from real_files import (
    Broken,
    assert_good,
    assert_no_source,
    assert_refused,
    assert_set_aside,
    picture,
    run,
    script,
    truncate,
)

from course_lib.chapters.sapiens_dense import LIP, to_lip
from course_lib.data import shards

lip = script("lip_cihp")
LABEL = "segmentations/val_segmentations/77_471474.png"
SIZE = (32, 24)  # width, height


def label(path, seed=0, high=20, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, high, size[::-1], dtype=np.uint8)
    values[0] = 255
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def root(tmp_path):
    """LIP's validation set: three pictures."""
    for number, name in enumerate(("77_471474", "12_000001", "13_000002")):
        picture(tmp_path / f"lip/images/val_images/{name}.jpg", SIZE, number)
        label(tmp_path / f"lip/segmentations/val_segmentations/{name}.png", number)
    return tmp_path / "lip"


def test_lip_becomes_samples_whose_classes_chapter_08_turns_back(root, tmp_path, capsys):
    assert_good(lip.LipCihp, root, tmp_path / "out", capsys)
    sample = next(s for s in shards.read(tmp_path / "out") if s.key == "lip-77_471474")
    values = np.asarray(Image.open(root / LABEL))
    back = to_lip(torch.from_numpy(sample.parts)).numpy()
    known = [n for n in range(20) if int(to_lip(torch.tensor(lip.TABLE[n]))) == n]
    assert {LIP[n] for n in set(range(20)) - set(known)} == {
        "Hat", "Glove", "Sunglasses", "Dress", "Coat", "Jumpsuits", "Scarf", "Skirt",
    }  # fmt: skip
    same = np.isin(values, known)
    assert (back[same] == values[same]).all() and (sample.parts[0] == 0).all()
    assert np.array_equal(sample.alpha, ((values > 0) & (values < 255)).astype(np.float32))


def test_lips_own_numbers(root, tmp_path, capsys):
    assert run(lip.LipCihp, root, tmp_path / "out", "--classes", "20") == 0
    sample = next(s for s in shards.read(tmp_path / "out") if s.key == "lip-77_471474")
    assert np.array_equal(sample.parts[1:], np.asarray(Image.open(root / LABEL))[1:])


def test_cihp_tells_people_apart(tmp_path, capsys):
    root = tmp_path / "cihp"
    for number in (7, 8):
        picture(root / f"Training/Images/000000{number}.jpg", SIZE, number)
        label(root / f"Training/Category_ids/000000{number}.png", number)
        people = np.zeros(SIZE[::-1], np.uint8)
        people[5:10, 3:8], people[5:20, 20:30] = 2, 5  # numbers with gaps
        (root / "Training/Human_ids").mkdir(exist_ok=True)
        Image.fromarray(people).save(root / f"Training/Human_ids/000000{number}.png")
    assert_good(lip.LipCihp, root, tmp_path / "out", capsys, "--split", "train")
    first, _ = shards.read(tmp_path / "out")
    assert len(first.people) == 2 and first.people[1].box.tolist() == [20, 5, 30, 20]
    assert first.instances[6, 4] == 1 and first.instances[6, 25] == 2


def test_without_a_source(tmp_path, capsys):
    assert_no_source(lip.LipCihp, tmp_path, capsys)


VERSIONS = [
    Broken("truncated", lambda p: truncate(p, 0.05), ("can't be read",)),
    Broken("missing", lambda p: p.unlink(), ("is not there",)),
    Broken("grey values for classes", lambda p: Image.fromarray(np.asarray(Image.open(p)) // 4 * 12).save(p),
           ("grey values",)),
    Broken("another data set", lambda p: label(p, high=26), ("classes 0 to 19", "another data set")),
    Broken("swapped axes", lambda p: label(p, size=SIZE[::-1]), ("axes swapped",)),
    Broken("another size", lambda p: label(p, size=(30, 24)), ("32 x 24 pixels", "30 x 24")),
    Broken("in colours", lambda p: picture(p, SIZE), ("a picture in RGB", "coloured")),
    Broken("sixteen bits", lambda p: Image.fromarray(np.zeros(SIZE[::-1], np.uint16)).save(p), ("one channel",)),
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_broken_labels_are_set_aside_and_end_an_intolerant_run(root, tmp_path, capsys, version):
    version.apply(root / LABEL)
    assert_set_aside(lip.LipCihp, root, tmp_path / "out", capsys, ("77_471474", *version.words))
    assert len(list(shards.read(tmp_path / "out"))) == 2
    assert run(lip.LipCihp, root, None, "--check", "--tolerate", "0") == 1
    said = capsys.readouterr().err
    assert all(word in said for word in version.words), said


def test_folders_without_labels_or_pictures(root, tmp_path, capsys):
    (root / "segmentations").rename(root / "elsewhere")
    assert_refused(lip.LipCihp, root, tmp_path / "out", capsys, ("val_segmentations", "unpack the labels"))
    (root / "elsewhere").rename(root / "segmentations")
    for path in (root / "images/val_images").iterdir():
        path.unlink()
    assert_refused(lip.LipCihp, root, tmp_path / "out", capsys, ("val_images", "found none"))


def test_names_that_are_not_utf8(root, tmp_path, capsys):
    odd = os.fsdecode(b"\xff\xfe")
    picture(root / f"images/val_images/{odd}.jpg", SIZE)
    label(root / f"segmentations/val_segmentations/{odd}.png")
    picture(root / f"images/val_images/{odd}2.jpg", SIZE)
    assert_set_aside(lip.LipCihp, root, tmp_path / "out", capsys, ("\\xff\\xfe2.png is not there",))
    assert len(list(shards.read(tmp_path / "out"))) == 4

"""ACAE's data sets: the table of where each comes from, and 2D labels alone through generic_poses."""

import csv

import numpy as np
import pytest
from real_files import DATA_SCRIPTS, assert_good, assert_refused, picture, script

from course_lib.data import shards

generic_poses = script("generic_poses")
LATER = {"coco", "human36m", "mpi_inf_3dhp"}  # scripts that stand beside this table


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    with open(DATA_SCRIPTS / "acae_sets.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_set_has_a_way_and_the_batches_add_up(table):
    """Table S1: 32 sets; 96 examples with 3D labels and 32 with 2D labels in every batch."""
    assert len(table) == len({row["dataset"] for row in table}) == 32
    for column in ("small", "medium", "full"):
        flat = sum(int(row[column]) for row in table if row["kind"] == "real, 2D")
        assert (sum(int(row[column]) for row in table) - flat, flat) == (96, 32)
    assert [sum(int(row[c]) > 0 for row in table) for c in ("small", "medium", "full")] == [7, 18, 32]
    assert {row["how"] for row in table} == {"generic_poses", "not to be had", *LATER}
    assert all(row["note"] for row in table if row["how"] == "not to be had")
    assert all(row["where"] for row in table if row["how"] != "not to be had")


def write_flat(root, **changes) -> None:
    """MPII as its user would write it: no joints in space, no cameras."""
    points = np.random.default_rng(0).uniform(4, 28, (3, 16, 2))
    points[0, 3] = np.nan
    arrays = {"images": np.array(["a.jpg", "a.jpg", "b.jpg"]), "names": np.array([f"j{n}" for n in range(16)])}
    np.savez(root / "mpii.npz", **(arrays | {"points": points} | changes))
    for name in ("a.jpg", "b.jpg"):
        picture(root / name, (32, 32))


def test_2d_labels_alone_become_samples_without_a_camera(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    write_flat(tmp_path / "root")
    assert_good(generic_poses.GenericPoses, tmp_path / "root", tmp_path / "out", capsys)
    first, second = shards.read(tmp_path / "out")
    assert [len(first.people), len(second.people)] == [2, 1] and first.K is None and first.R is None
    points = first.people[0].keypoints["mpii"]
    assert points.points_3d is None and points.visible[3] == 0 and (points.visible[:3] == 2).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": np.zeros((3, 2, 16))}, ("points", "axes swapped")),
        ({"points": np.full((3, 16, 2), np.nan)}, ("rows with joints",)),
        ({"K": np.eye(3)}, ("joints", "missing")),
        ({"names": np.array(["a"])}, ("names",)),
    ],
)
def test_2d_labels_that_cannot_be_are_refused(tmp_path, capsys, changes, words):
    (tmp_path / "root").mkdir()
    write_flat(tmp_path / "root", **changes)
    words = ("mpii.npz", *words)
    assert_refused(generic_poses.GenericPoses, tmp_path / "root", tmp_path / "out", capsys, words)

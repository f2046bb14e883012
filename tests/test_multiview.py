"""Scans: pictures, bodies and cameras that fit each other, kept so that a kill loses nothing; streams of views."""

import numpy as np
import pytest
import torch

from course_lib.chapters import humanram_reconstruction as humanram
from course_lib.data import multiview
from course_lib.data.multiview import Ring, ScanError, body_mesh, evenly_spaced, make_scans, read_scans, scan_batch

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, PEOPLE = 40, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
    patch.setenv("COURSE_SCALE", "smoke")
    yield
    read_scans.cache_clear()
    patch.undo()


@pytest.fixture(scope="module")
def scans(folder):
    return multiview.scans("train", PEOPLE, SIZE, poses=2, views=4)


def test_shapes_and_ranges(scans):
    batch = scans.pictures(torch.arange(4), torch.arange(4).expand(4, -1))
    assert len(scans) == 4 and scans.people == PEOPLE
    assert batch["image"].shape == (4, 4, 3, SIZE, SIZE) and batch["alpha"].shape == (4, 4, 1, SIZE, SIZE)
    assert batch["rays"].shape == (4, 4, 6, SIZE, SIZE) and batch["barycentric"].shape == (4, 4, SIZE, SIZE, 3)
    assert 0 <= batch["image"].min() and batch["image"].max() <= 1
    assert int(batch["face"].min()) == -1 and int(batch["face"].max()) < len(body_mesh()[1])
    sums = batch["barycentric"].sum(-1)
    assert torch.allclose(sums, (batch["face"] >= 0).float(), atol=1e-2)


def test_white_behind_people_and_person_in_the_picture(scans):
    batch = scans.pictures(torch.arange(4), torch.arange(4).expand(4, -1))
    nobody = (batch["alpha"] == 0).expand_as(batch["image"])
    assert (batch["image"][nobody] == 1).all()
    edge = batch["alpha"].clone()
    edge[..., 1:-1, 1:-1] = 0
    assert edge.max() == 0 and (batch["alpha"] > 0.5).float().mean() > 0.05


def test_body_camera_and_picture_fit(scans):
    """The vertices of the posed body, projected by the camera, fall where the stored faces say."""
    faces = body_mesh()[1]
    for scan, view in ((0, 0), (3, 2)):
        batch = scans.pictures(torch.tensor([scan]), torch.tensor([[view]]))
        seen = batch["face"][0, 0] >= 0
        corners = scans.vertices(scan)[faces[batch["face"][0, 0][seen]]]  # (P, 3, 3)
        points = (corners * batch["barycentric"][0, 0][seen][..., None]).sum(1)
        spots = scans.camera(torch.tensor([scan]), torch.tensor([view])).project(points[None])[0]
        row, column = seen.nonzero(as_tuple=True)
        assert (spots - torch.stack([column, row], 1) - 0.5).abs().max() < 0.1
        assert (batch["alpha"][0, 0, 0][seen] > 0.5).float().mean() > 0.9


def test_pelvis_is_the_origin(scans):
    from course_lib.data.person import pose_people

    joints = pose_people([scans.person(1)[1]]).joints
    assert joints[0, 0].abs().max() < 1e-5


def test_views_run_around_the_ring(scans):
    centers = scans.camera(torch.zeros(4).long(), torch.arange(4)).center
    azimuth = torch.atan2(centers[:, 0], centers[:, 2])
    gaps = (azimuth.roll(-1) - azimuth) % (2 * torch.pi)
    assert torch.allclose(gaps.sum(), torch.tensor(2 * torch.pi), atol=1e-4) and gaps.min() > 0.5


def test_a_killed_run_goes_on_and_gives_the_same_bytes(scans, tmp_path, monkeypatch):
    first = scans.ring.path(1)
    before = dict(np.load(first))
    first.unlink()
    other = scans.ring.path(0).stat().st_mtime_ns
    make_scans(scans.ring, range(PEOPLE), 0, progress=False)
    assert scans.ring.path(0).stat().st_mtime_ns == other
    after = dict(np.load(first))
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)


def test_a_cut_file_is_named(scans, monkeypatch):
    path = scans.ring.path(1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    read_scans.cache_clear()
    with pytest.raises(ScanError, match="person-000001.npz.*delete it"):
        read_scans(scans.ring, PEOPLE)
    path.write_bytes(whole)


@pytest.mark.parametrize("wrong", [{"split": "all"}, {"motion": "flying"}, {"views": 0}, {"size": 0}])
def test_rings_that_do_not_exist(wrong):
    with pytest.raises(ScanError):
        Ring(**{"split": "train", "size": 32, "poses": 2, "views": 4, "motion": "poses"} | wrong)


def test_counts_that_do_not_exist(folder):
    with pytest.raises(ScanError, match="1 or more"):
        multiview.scans("train", 0)
    with pytest.raises(ScanError, match="give 1 to 4"):
        evenly_spaced(4, 5)


def test_evenly_spaced_views():
    assert evenly_spaced(12, 4).tolist() == [0, 3, 6, 9] and evenly_spaced(12, 2, 5).tolist() == [5, 11]
    assert evenly_spaced(12, 8).tolist() == [0, 1, 3, 4, 6, 7, 9, 10]


def test_a_stream_is_the_same_each_time_and_keeps_the_person(scans):
    stream = multiview.scan_stream(scans, humanram.choose_views, 2, 1, repose=1.0)
    once, again = (next(stream.batches(3, 4)) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["image"], next(stream.batches(4, 4))["image"])
    batch = scan_batch(scans, torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([1]), torch.tensor([[0]]))
    assert torch.equal(batch["target_image"], scans.pictures(torch.tensor([1]), torch.tensor([[0]]))["image"])


def test_another_pose_needs_two(scans):
    from dataclasses import replace

    lonely = replace(scans, ring=replace(scans.ring, poses=1))
    with pytest.raises(ScanError, match="another pose"):
        multiview.scan_stream(lonely, humanram.choose_views, repose=0.5)


def test_frames_of_a_motion_share_their_cameras(folder):
    clip = multiview.scans("test", 1, 24, poses=3, views=2, motion="waving")
    assert torch.equal(clip.K[0], clip.K[2]) and torch.equal(clip.t[0], clip.t[2])
    assert not torch.equal(clip.pose[0], clip.pose[2])

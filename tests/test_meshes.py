"""`course_lib.data.meshes`: people as meshes, from the seed alone."""

import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from course_lib.data import meshes
from course_lib.data.keypoints import keypoints
from course_lib.data.meshes import JOINT_FORMATS, joint_matrix, mesh_model, pool, posed_bodies, sample_bodies, skin
from course_lib.data.poses import body
from course_lib.data.worlds import identity
from course_lib.paths import OPEN_BODY

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 12


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Pools are kept in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        pool.cache_clear()
        yield
    pool.cache_clear()


def test_a_mesh_is_the_body_without_what_is_hidden():
    poses, betas = pool("train", SIZE)
    found = posed_bodies(betas[:3], poses[:3], torch.zeros(3))
    vertices, joints = body()(betas=betas[:3], pose=poses[:3])
    expected = (vertices - joints[:, :1])[:, skin().index]
    assert torch.allclose(found.vertices, expected, atol=1e-5)
    for name in JOINT_FORMATS:
        assert torch.allclose(found.joints[name], keypoints(vertices, name) - joints[:, :1], atol=1e-5), name
        assert torch.allclose(joint_matrix(name) @ found.vertices, found.joints[name], atol=1e-5), name


def test_the_skin_comes_first_and_is_all_that_faces_name():
    used = skin().faces.unique()
    assert torch.equal(used, torch.arange(skin().visible))
    assert skin().template.shape == (len(skin().index), 3) and len(skin().index.unique()) == len(skin().index)
    assert torch.equal(mesh_model().faces, skin().faces)


def test_people_face_z_and_turn_to_their_left():
    poses, betas = pool("train", SIZE)
    upright = torch.zeros_like(poses[:1])
    ahead, left = (posed_bodies(betas[:1], upright, torch.tensor([turn])) for turn in (0.0, 90.0))
    nose, ears = (ahead.joints["coco17"][0, i] for i in (0, [3, 4]))
    assert (nose - ears.mean(0))[2] > 0.05 and ears[0, 0] > ears[1, 0]  # z ahead, the left ear at larger x
    turned = left.joints["coco17"][0]
    assert (turned[0] - turned[[3, 4]].mean(0))[0] > 0.05  # now towards +x, where the left hand was
    assert ahead.joints["h36m17"][0, 0].abs().max() < 1e-5 and ahead.vertices[..., 1].max() > 0.6  # y is up


def test_bodies_depend_on_the_seed_alone():
    first, again, other = (sample_bodies(4, seed, size=SIZE) for seed in (3, 3, 4))
    assert torch.equal(first.vertices, again.vertices) and not torch.equal(first.vertices, other.vertices)
    assert first.vertices.dtype == torch.float32 and len(first[[0, 2]]) == 2


def test_headings_stay_within_their_bound():
    near, any_way = (sample_bodies(200, 1, heading, size=SIZE).heading for heading in (30.0, None))
    assert near.abs().max() <= 30 and near.abs().max() > 25 and any_way.abs().max() > 150


def test_splits_share_nobody():
    betas = {split: {row.numpy().tobytes() for row in pool(split, SIZE)[1]} for split in meshes.SPLITS}
    poses = {split: {row.numpy().tobytes() for row in pool(split, SIZE)[0]} for split in meshes.SPLITS}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not betas[one] & betas[other] and not poses[one] & poses[other]
    assert np.array_equal(pool("test", SIZE)[1][3].numpy(), identity("test", 3)[1].betas)  # as in the pictures


def test_a_broken_pool_is_drawn_anew(monkeypatch):
    whole = [part.clone() for part in pool("val", 3)]
    path = next(meshes.data_dir().glob("meshes-val-3-*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    pool.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(pool("val", 3), whole, strict=True))
    pool.cache_clear()
    monkeypatch.setattr(meshes, "drawn", lambda *_: pytest.fail("a whole file must be read, not drawn"))
    assert torch.equal(pool("val", 3)[0], whole[0])


def test_a_larger_pool_begins_with_the_smaller_one():
    assert torch.equal(pool("val", 5)[0][:3], pool("val", 3)[0])


@pytest.mark.parametrize("arguments", [{"count": 0}, {"heading": -1.0}, {"heading": 200.0}, {"heading": math.nan}])
def test_impossible_wishes_are_refused(arguments):
    with pytest.raises(ValueError, match="give at least 1"):
        sample_bodies(**{"count": 2, "seed": 0, "size": SIZE} | arguments)


@pytest.mark.parametrize("split, size", [("all", 3), ("train", 0)])
def test_unknown_pools_are_refused(split, size):
    with pytest.raises(ValueError, match="at least 1"):
        pool(split, size)


def test_a_body_file_without_tables_uses_its_own_joints(tmp_path):
    """COURSE_BODY: as with SMPL-X, whose file knows nothing but 55 joints."""
    copy = tmp_path / "OTHER.npz"
    shutil.copyfile(OPEN_BODY, copy)
    code = """
import torch
from course_lib.chapters.bodies import JOINT_NAMES
from course_lib.data.meshes import joint_matrix, sample_bodies, skin
from course_lib.data.person import load_body
bodies = sample_bodies(2, 0, size=2)
assert load_body().pack is None and bodies.vertices.shape[1] == len(skin().index) < len(load_body().model.template)
assert bodies.joints["lsp14"].shape == (2, 14, 3) and bodies.joints["h36m17"][:, 0].abs().max() < 0.02
wrist = bodies.joints["coco17"][:, 9]
assert torch.allclose(wrist, bodies.joints["lsp14"][:, 11]) and (wrist - bodies.joints["coco17"][:, 7]).norm() > 0.1
"""
    there = {"COURSE_BODY": str(copy), "COURSE_DATA": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | there, check=True)


def test_unknown_joints_are_refused():
    with pytest.raises(ValueError, match="h36m17"):
        joint_matrix("openpose")

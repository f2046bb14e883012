"""`course_lib.data.pictured`: people in rendered pictures with their meshes, and crops of them."""

import numpy as np
import pytest
import torch

from course_lib.chapters.cameras import weak_perspective_project
from course_lib.chapters.mpt_pretraining import weak_perspective_fit
from course_lib.data import pictured as library
from course_lib.data.pictured import crops, is_whole, look_at_rotation, pictured, whole_people
from course_lib.data.schema import PersonLabel
from course_lib.data.sets import rendered

pytestmark = pytest.mark.usefixtures("one_thread")
LEVELS = (216, 54, 24)
SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder of the tests, with a few pictures in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SCALE", "smoke")
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        whole_people.cache_clear()
        yield rendered("studio", 10, SIZE)
    whole_people.cache_clear()


@pytest.fixture(scope="module")
def found(folder):
    return pictured((("studio", 10),), SIZE, LEVELS)


def test_everybody_is_there_with_all_fields(found):
    count = len(found)
    assert count >= 1 and set(found.people) == set(library.PEOPLE)
    shapes = {"box": (4,), "points": (17, 2), "joints": (14, 3), "spots": (14, 2), "vertices": (216, 3), "turn": (3, 3)}
    for name, shape in shapes.items():
        assert found.people[name].shape == (count, *shape) and found.people[name].isfinite().all(), name
    assert found.images.dtype == torch.uint8 and found.images.shape[1:] == (3, SIZE, SIZE)
    assert found.people["picture"].max() == len(found.images) - 1


def test_joints_stand_where_they_are_seen(found):
    """LSP's limbs and COCO's are the same points of the body: 2D from two sources."""
    lsp, coco = {"ankle": 0, "knee": 1, "wrist": 6}, {"ankle": 16, "knee": 14, "wrist": 10}
    for name in lsp:
        visible = found.people["visible"][:, coco[name]] > 0
        apart = (found.people["spots"][:, lsp[name]] - found.people["points"][:, coco[name]])[visible].norm(dim=-1)
        assert (apart < 0.06 * SIZE).all(), name


def test_the_mesh_lies_over_the_picture(found):
    """In the turned axes a weak-perspective camera explains the joints' places to a few hundredths of the crop."""
    batch = crops(found, torch.arange(len(found)), 32)
    scale, shift = weak_perspective_fit(batch["joints"], batch["spots"], torch.ones(len(found), 14))
    assert (scale > 0).all()
    off = (weak_perspective_project(batch["joints"], scale, shift) - batch["spots"]).norm(dim=-1)
    assert off.mean() < 0.06


def test_the_turn_leads_the_box_to_the_axis():
    ray = torch.tensor([0.3, -0.2, 1.0])
    turn = look_at_rotation(ray)
    moved = turn @ ray / ray.norm()
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.equal(look_at_rotation(torch.tensor([0.0, 0.0, 2.0])), torch.eye(3))


def test_crops_hold_the_person_in_the_middle(found):
    batch = crops(found, torch.tensor([0, 0]), 48, torch.tensor([1.2, 2.0]))
    assert batch["image"].shape == (2, 3, 48, 48) and 0 <= batch["image"].min() and batch["image"].max() <= 1
    inside = batch["seen"][0] > 0
    torch.testing.assert_close(batch["points"][0, inside], batch["points"][1, inside] * 2.0 / 1.2, atol=1e-4, rtol=0)
    assert not batch["points"][batch["seen"] == 0].any()
    middle = (batch["spots"][0].amax(0) + batch["spots"][0].amin(0)) / 2
    assert middle.abs().max() < 0.4


def test_what_lies_outside_the_crop_does_not_count(found):
    tight = crops(found, torch.arange(len(found)), 32, 0.4)
    assert tight["seen"].sum() < crops(found, torch.arange(len(found)), 32)["seen"].sum()
    assert tight["points"].abs().max() <= 1


def test_it_is_kept_in_a_file_and_a_spoilt_one_is_made_anew(folder, found):
    (path,) = folder.parent.glob("pictured-*.npz")
    whole_people.cache_clear()
    again = pictured((("studio", 10),), SIZE, LEVELS)
    assert all(torch.equal(again.people[name], found.people[name]) for name in library.PEOPLE)
    path.write_bytes(path.read_bytes()[:1000])
    whole_people.cache_clear()
    mended = pictured((("studio", 10),), SIZE, LEVELS)
    assert torch.equal(mended.people["vertices"], found.people["vertices"]) and path.stat().st_size > 1000


def test_splits_share_nobody(found):
    other = pictured((("studio", 10),), SIZE, LEVELS, split="test")
    assert not set(found.names) & set(other.names)


def test_who_is_whole():
    def person(box, share=1.0):
        return PersonLabel(box=np.zeros(4, np.float32), full_box=np.array(box, np.float32), seen_share=share)

    size = (100.0, 100.0)
    assert is_whole(person([20, 10, 60, 90]), size)
    assert not is_whole(person([20, 10, 60, 90], share=0.2), size)  # hidden
    assert not is_whole(person([20, 50, 60, 130]), size)  # legs outside
    assert not is_whole(person([40, 40, 50, 60]), size)  # small
    assert not is_whole(person([40, 40, 40, 40]), size)  # no size
    assert not is_whole(person([np.nan, 0, 1, 1]), size)


def test_nobody_whole_is_said(folder):
    with pytest.raises(ValueError, match="nobody whole"):
        pictured((("studio", 10),), SIZE, LEVELS, least_seen=1.01)


def test_somebody_who_is_not_there(found):
    with pytest.raises(IndexError):
        crops(found, torch.tensor([len(found)]), 32)

"""The evaluation on COCO: perfect answers give 100, moved ones less, as pycocotools counts; and the command."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from real_files import script
from test_real_coco import FILE, root  # noqa: F401  (a fixture)
from test_released import our_task, their_task

from course_lib.chapters import sapiens_pose
from course_lib.real import coco, coco_evaluation
from course_lib.real.checks import SourceError
from course_lib.real.weights import converted, save

command = script("evaluate_coco")


def answers(path, moved):
    """In place of the network: each annotated person's points, moved by so many pixels, for its own box."""
    _, people = coco.read_people(path)
    known = [each for group in people.values() for each in group]

    def predict(model, images, boxes, flip, batch):
        points = []
        for box in boxes.tolist():
            each = next(e for e in known if np.allclose(coco.corners(e["bbox"]), box))
            points.append(np.array(each["keypoints"], float).reshape(-1, 3)[:, :2] + moved)
        return sapiens_pose.Poses(torch.tensor(np.array(points).reshape(-1, 17, 2)), torch.full((len(points), 17), 0.9))

    return predict


@pytest.mark.parametrize("moved", [0.0, 1.5])
def test_the_numbers_are_pycocotools(root, monkeypatch, moved, tmp_path):  # noqa: F811
    monkeypatch.setattr(sapiens_pose, "predict", answers(root / FILE, moved))
    result = coco_evaluation.evaluate(our_task("pose", out=17), root, None, progress=False)
    assert (result["AP"] == 1.0) == (moved == 0.0) and 0 < result["AP"] <= 1
    truth, rows = COCO(root / FILE), []
    for each in json.loads((root / FILE).read_text())["annotations"]:
        if not each["iscrowd"]:
            points = np.array(each["keypoints"]).reshape(-1, 3)
            points[:, :2] += moved
            rows.append(
                {"image_id": each["image_id"], "category_id": 1, "keypoints": points.ravel().tolist(), "score": 0.9}
            )
    check = COCOeval(truth, truth.loadRes(rows), "keypoints")
    check.evaluate()
    check.accumulate()
    check.summarize()
    assert abs(check.stats[0] - result["AP"]) < 1e-6 and abs(check.stats[5] - result["AR"]) < 1e-6


def test_the_command(root, tmp_path, capsys):  # noqa: F811
    path = save(converted(their_task("pose", out=17).state_dict()), tmp_path / "pose.safetensors")
    boxes = [{"image_id": 139, "category_id": 1, "bbox": [2, 3, 20, 40], "score": 0.5}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    arguments = [str(path), "--root", str(root), "--device", "cpu"]
    assert (
        command.main([*arguments, "--detections", str(tmp_path / "boxes.json"), "--out", str(tmp_path / "r.json")]) == 0
    )
    assert "AP " in capsys.readouterr().out and 0 <= json.loads((tmp_path / "r.json").read_text())["AP"] <= 1
    (tmp_path / "boxes.json").write_text(json.dumps([boxes[0] | {"image_id": 5}]))
    assert command.main([*arguments, "--detections", str(tmp_path / "boxes.json")]) == 1
    assert "pictures of val2017" in capsys.readouterr().err
    (root / "val2017" / "000000000139.jpg").unlink()
    assert command.main([*arguments, "--limit", "1"]) == 1
    assert "unpack val2017.zip" in capsys.readouterr().err


def test_wholebody_points_are_measured_by_part(root):  # noqa: F811
    result = coco_evaluation.evaluate(our_task("pose", out=133), root, None, limit=1, flip=False, progress=False)
    assert {"whole AP", "hand AP", "face AR"} <= result.keys()


def test_other_networks_are_refused(root, tmp_path, capsys):  # noqa: F811
    path = save(converted(their_task("depth").state_dict()), tmp_path / "depth.safetensors")
    assert command.main([str(path), "--root", str(root)]) == 1
    assert "no pose network" in capsys.readouterr().err
    with pytest.raises(ValueError, match="finds 308 points"):
        coco_evaluation.evaluate(our_task("pose"), root, None)
    with pytest.raises(SourceError, match="person_keypoints_val2017.json"):
        coco_evaluation.evaluate(our_task("pose", out=17), tmp_path, None)

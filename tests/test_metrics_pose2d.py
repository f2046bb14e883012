"""OKS, AP and AR against pycocotools; the sigmas; NMS; what cannot be counted."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data.keypoints import FORMATS
from course_lib.metrics import (
    BODY_SIGMAS,
    SAPIENS_PARTS,
    SAPIENS_SIGMAS,
    WHOLEBODY_PARTS,
    WHOLEBODY_SIGMAS,
    Detections,
    People,
    average_precision,
    oks,
    oks_nms,
    part_average_precision,
    pose_score,
)

NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")  # pycocotools' order


def random_people(rng: np.random.Generator, points: int) -> People:
    """0 to 4 people: some small, some of exactly the area where a range ends, twins, crowds, nobody visible."""
    count = rng.integers(0, 5)
    size = rng.choice([30.0, 32.0, 60.0, 96.0, 150.0], count)
    corner = rng.uniform(0, 60, (count, 1, 2))
    keypoints = corner + rng.uniform(0, 1, (count, points, 2)) * size[:, None, None]
    if count > 1 and rng.random() < 0.3:
        keypoints[1], size[1] = keypoints[0], size[0]
    visible = rng.choice([0, 1, 2], (count, points)) * (rng.random((count, 1)) > 0.15)
    keypoints[visible == 0] = rng.choice([0.0, np.nan])
    box = np.concatenate([corner[:, 0], corner[:, 0] + size[:, None]], 1)
    arrays = keypoints, visible, size**2, box, rng.random(count) < 0.2
    return People(*(torch.from_numpy(array) for array in arrays))


def random_detections(rng: np.random.Generator, people: People, points: int) -> Detections:
    """Up to 30, most near somebody, some doubled, with scores that are often equal."""
    count = rng.choice([0, 1, 4, 8, 30])
    near = rng.uniform(0, 200, (count, points, 2))
    if len(people.area) and count:
        who = rng.integers(0, len(people.area), count)
        noise = rng.normal(size=near.shape) * rng.choice([0.0, 0.03, 0.1, 0.3], (count, 1, 1))
        target = np.nan_to_num(people.keypoints.numpy())
        close = target[who] + noise * people.area.numpy()[who, None, None] ** 0.5
        near = np.where(rng.random((count, 1, 1)) < 0.85, close, near)
        if count > 1:
            near[1] = near[0]
    return Detections(torch.from_numpy(near), torch.from_numpy(rng.integers(0, 6, count) / 5))


def random_pictures(seed: int, points: int) -> tuple[list[Detections], list[People]]:
    rng = np.random.default_rng(seed)
    people = [random_people(rng, points) for _ in range(rng.integers(1, 7))]
    return [random_detections(rng, known, points) for known in people], people


def triplets(points: torch.Tensor, visible: torch.Tensor) -> list[float]:
    return torch.cat([points.nan_to_num(), visible[:, None].double()], -1).flatten().tolist()


def coco_numbers(detections: list[Detections], people: list[People], sigmas) -> dict[str, float]:
    """What pycocotools makes of the same."""
    coco_module = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    truth, found, areas = [], [], []
    for picture, (d, p) in enumerate(zip(detections, people, strict=True)):
        for i in range(len(p.area)):
            left, top, right, bottom = p.box[i].tolist()
            truth.append({"id": len(truth) + 1, "image_id": picture, "category_id": 1, "area": p.area[i].item()})
            truth[-1] |= {"bbox": [left, top, right - left, bottom - top], "iscrowd": int(p.crowd[i])}
            truth[-1] |= {"keypoints": triplets(p.keypoints[i], p.visible[i])}
            truth[-1] |= {"num_keypoints": int((p.visible[i] > 0).sum())}
        for i in range(len(d.score)):
            found.append({"image_id": picture, "category_id": 1, "score": d.score[i].item()})
            found[-1] |= {"keypoints": triplets(d.keypoints[i], torch.ones(d.keypoints.shape[1]))}
        areas += d.areas().tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = coco_module.COCO()
        ground_truth.dataset = {"images": [{"id": i} for i in range(len(people))], "categories": [{"id": 1}]}
        ground_truth.dataset["annotations"] = truth
        ground_truth.createIndex()
        results = ground_truth.loadRes(found)
        for annotation, area in zip(results.dataset["annotations"], areas, strict=True):
            annotation["area"] = area
        evaluation = COCOeval(ground_truth, results, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


def assert_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert set(ours) == set(theirs)
    assert ours == pytest.approx(theirs, abs=1e-6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 17]))
def test_coco_numbers_equal_pycocotools(seed, points):
    detections, people = random_pictures(seed, points)
    if any(len(d.score) for d in detections):  # pycocotools cannot load an empty list
        sigmas = BODY_SIGMAS[:points]
        assert_equal(average_precision(detections, people, sigmas), coco_numbers(detections, people, sigmas))


def test_the_random_pictures_are_not_all_hits_or_misses():
    values = [average_precision(*random_pictures(seed, 17), BODY_SIGMAS) for seed in range(30)]
    for name in NAMES:
        assert sum(0.05 < value[name] < 0.95 for value in values) > 5, name


@pytest.mark.parametrize("seed", range(5))
def test_wholebody_parts_equal_pycocotools_part_by_part(seed):
    detections, people = random_pictures(seed, 133)
    ours = part_average_precision(detections, people)
    body = [Detections(d.keypoints[:, :17], d.score).areas() for d in detections]
    for name, points in {**WHOLEBODY_PARTS, "whole": range(133)}.items():
        index = list(points)
        found = [Detections(d.keypoints[:, index], d.score, area) for d, area in zip(detections, body, strict=True)]
        known = [People(p.keypoints[:, index], p.visible[:, index], p.area, p.box, p.crowd) for p in people]
        assert_equal(ours[name], coco_numbers(found, known, [WHOLEBODY_SIGMAS[i] for i in index]))
    assert ours["hand"]["AP"] == (ours["lefthand"]["AP"] + ours["righthand"]["AP"]) / 2


def test_308_points():
    detections, people = random_pictures(3, 308)
    ours = part_average_precision(detections, people, SAPIENS_SIGMAS, SAPIENS_PARTS)
    body = [Detections(d.keypoints[:, list(SAPIENS_PARTS["body"])], d.score).areas() for d in detections]
    sized = [Detections(d.keypoints, d.score, area) for d, area in zip(detections, body, strict=True)]
    assert_equal(ours["whole"], coco_numbers(sized, people, SAPIENS_SIGMAS))


def test_sapiens_sigmas_are_wholebodys_where_the_name_is():
    """By name against the order in which the module builds them; hand root and finger1 are called otherwise there."""
    known = dict(zip(FORMATS["wholebody133"], WHOLEBODY_SIGMAS, strict=True))
    known |= {name.replace("1", "_third_joint"): value for name, value in list(known.items()) if name.endswith("1")}
    known = {name: value for name, value in known.items() if not name.startswith("face")}
    rest = dict.fromkeys(("left_olecranon", "right_olecranon", "left_cubital_fossa", "right_cubital_fossa"), 0.072)
    rest |= dict.fromkeys(("left_acromion", "right_acromion", "neck"), 0.079)
    names = FORMATS["sapiens308"]
    assert len(SAPIENS_SIGMAS) == len(names) == 308 and len(WHOLEBODY_SIGMAS) == 133
    assert list(SAPIENS_SIGMAS) == [known.get(name, rest.get(name, 0.010)) for name in names]
    assert sum(name in known for name in names) == 63


def test_sapiens_parts_by_name():
    names = FORMATS["sapiens308"]
    assert {names[i] for i in SAPIENS_PARTS["body"]} == set(FORMATS["coco17"])
    assert {names[i] for i in SAPIENS_PARTS["foot"]} == set(FORMATS["wholebody133"][17:23])
    assert all(names[i].startswith("left_") for i in SAPIENS_PARTS["lefthand"])
    assert all(names[i].startswith("right_") for i in SAPIENS_PARTS["righthand"])


def one_person(points, visible, area=100.0, box=(0, 0, 10, 10)) -> People:
    points = torch.as_tensor(points, dtype=torch.float32)
    return People(points[None], torch.tensor([visible]), torch.tensor([area]), torch.tensor([box]).float())


def test_oks_by_hand():
    person = one_person([[0, 0], [0, 0]], [2, 0])
    value = oks(torch.tensor([[[3.0, 4.0], [99.0, 99.0]]]), person, [0.1, 0.1])
    assert value.item() == pytest.approx(np.exp(-25 / (2 * 100 * 0.04)), rel=1e-9)


def test_oks_of_nobody_visible_is_the_distance_to_the_grown_box():
    person = one_person([[0, 0]], [0])
    inside, outside = oks(torch.tensor([[[19.0, -9.0]], [[23.0, 24.0]]]), person, [0.1])[:, 0].tolist()
    assert inside == 1 and outside == pytest.approx(np.exp(-(9 + 16) / (2 * 100 * 0.04)))


def test_nothing_found_and_nobody_there():
    nobody = People(torch.zeros(0, 17, 2), torch.zeros(0, 17), torch.zeros(0), torch.zeros(0, 4))
    nothing = Detections(torch.zeros(0, 17, 2), torch.zeros(0))
    someone = one_person(torch.rand(17, 2) * 100, [2] * 17, area=64.0**2)
    hit = Detections(someone.keypoints, torch.ones(1))
    assert average_precision([nothing], [someone], BODY_SIGMAS) == {n: -1 if n[-1] == "L" else 0 for n in NAMES}
    assert set(average_precision([nothing], [nobody], BODY_SIGMAS).values()) == {-1}
    assert set(average_precision([hit], [nobody], BODY_SIGMAS).values()) == {-1}
    assert average_precision([], [], BODY_SIGMAS)["AP"] == -1
    both = average_precision([hit, hit], [someone, nobody], BODY_SIGMAS)
    assert both["AP"] == pytest.approx(1.0) and both["AR"] == 1


def test_nms_equals_the_plain_loop():
    generator = torch.Generator().manual_seed(0)
    base = 100 * torch.rand(4, 17, 2, generator=generator)
    noise = torch.randn(20, 17, 2, generator=generator) * 3 * torch.rand(20, 1, 1, generator=generator)
    points = base.repeat(5, 1, 1) + noise
    score, area = torch.rand(20, generator=generator), 2000 + 1000 * torch.rand(20, generator=generator)
    kept: list[int] = []
    for i in sorted(range(20), key=lambda i: -score[i].item()):
        values = []
        for j in kept:
            d = (points[i] - points[j]).double().square().sum(-1).numpy()
            middle = (area[i] + area[j]).item() / 2
            values.append(np.mean([np.exp(-d[k] / (8 * s**2 * middle)) for k, s in enumerate(BODY_SIGMAS)]))
        if all(value <= 0.9 for value in values):
            kept.append(i)
    assert oks_nms(points, score, area, BODY_SIGMAS).tolist() == kept and 4 < len(kept) < 20


def test_nms_keeps_one_of_equals_and_takes_nothing():
    points = torch.rand(1, 17, 2).repeat(3, 1, 1)
    kept = oks_nms(points, torch.tensor([0.5, 0.9, 0.9]), torch.ones(3), BODY_SIGMAS)
    assert kept.tolist() == [1]
    assert oks_nms(points[:0], torch.ones(0), torch.ones(0), BODY_SIGMAS).tolist() == []


def test_pose_score():
    keypoint_score = torch.tensor([[0.9, 0.5, 0.2], [0.1, 0.2, 0.0]])
    assert pose_score(torch.tensor([0.5, 1.0]), keypoint_score).tolist() == pytest.approx([0.35, 0.0])


def test_bad_input_is_named():
    person, points = one_person([[0, 0]], [2]), torch.zeros(1, 1, 2)
    with pytest.raises(ValueError, match="score must have shape"):
        Detections(points, torch.zeros(2))
    with pytest.raises(ValueError, match="area must have shape"):
        Detections(points, torch.zeros(1), torch.zeros(2))
    with pytest.raises(ValueError, match="crowd must have shape"):
        People(points, torch.ones(1, 1), torch.ones(1), torch.ones(1, 4), torch.ones(2))
    with pytest.raises(ValueError, match=r"keypoints has NaN or infinite values in item \[0\]"):
        Detections(points * torch.nan, torch.zeros(1))
    with pytest.raises(ValueError, match="visible keypoints has NaN"):
        one_person([[torch.nan, 0]], [2])
    with pytest.raises(ValueError, match="visible must have shape"):
        one_person([[0, 0]], [2, 2])
    with pytest.raises(ValueError, match="sigmas must have shape"):
        oks(points, person, BODY_SIGMAS)
    with pytest.raises(ValueError, match="prediction must have shape"):
        oks(torch.zeros(1, 2, 2), person, [0.1])
    with pytest.raises(ValueError, match="sigmas must be positive"):
        oks(points, person, [0.0])
    with pytest.raises(ValueError, match="1 pictures of detections, 0 of people"):
        average_precision([Detections(points, torch.zeros(1))], [], [0.1])
    with pytest.raises(ValueError, match="keypoints has NaN"):
        oks_nms(points * torch.nan, torch.ones(1), torch.ones(1), [0.1])
    with pytest.raises(ValueError, match="score has NaN"):
        oks_nms(points, torch.tensor([torch.nan]), torch.ones(1), [0.1])
    with pytest.raises(ValueError, match="prediction has NaN"):
        oks(points * torch.nan, person, [0.1])
    with pytest.raises(ValueError, match=r"keypoint_score has NaN or infinite values in item \[1\]"):
        pose_score(torch.ones(2), torch.tensor([[0.5], [torch.nan]]))
    with pytest.raises(ValueError, match="keypoint_score must have shape"):
        pose_score(torch.ones(2), torch.ones(3, 17))

"""The runs behind chapter 06: metrics that are there, and runs that go on."""

import json
import math

import pytest
import torch

from course_lib import shipped, study
from course_lib.chapters import sapiens_pretraining
from course_lib.studies import sapiens


@pytest.fixture(autouse=True, scope="module")
def own_data(tmp_path_factory):
    """Pictures are rendered once for this file, into a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("COURSE_SCALE", "smoke")
        yield


@pytest.fixture
def steps_taken(monkeypatch):
    """How many training steps were taken."""
    from course_lib.train import loop

    taken, step = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *arguments: taken.append(1) or step(*arguments))
    return taken


WORLDS = ("wild_precision", "wild_recall", "general_precision", "general_recall")
RUNS = [("people", sapiens_pretraining.CONFIGS["smoke"], {"masked_loss"})]
RUNS += [("detector", sapiens_pretraining.DETECTORS["smoke"], set(WORLDS))]


@pytest.mark.parametrize(("name", "config", "names"), RUNS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_shipped_run_measures_what_it_ships_and_goes_on(name, config, names, tmp_path, steps_taken):
    model, found = getattr(sapiens, name)(config, tmp_path)
    assert set(found) == names and all(math.isfinite(value) for value in found.values())
    assert all(torch.equal(value, value.bfloat16().to(value.dtype)) for value in model.state_dict().values())
    assert json.loads((tmp_path / "data.json").read_text()).keys() and len(steps_taken) == config.steps
    again, same = getattr(sapiens, name)(config, tmp_path)
    assert len(steps_taken) == config.steps and same == found  # nothing was trained twice


def test_a_task_without_the_shipped_encoder_says_which_command_makes_it(tmp_path, monkeypatch):
    places = shipped.Places(tmp_path / "build", tmp_path / "checkpoints", tmp_path / "results")
    monkeypatch.setattr(sapiens, "load", lambda model, name: shipped.load(model, name, places))
    with pytest.raises(shipped.ShippedError, match=r"not there yet.*course ship 06\.people"):
        sapiens.shipped_encoder()


def test_what_the_chapter_declares_can_be_run():
    chapter = sapiens_pretraining
    declared = chapter.SHIPPED.values()
    assert declared and all(callable(study.resolved(one.run)) for one in declared)
    for key, one in chapter.SHIPPED.items():
        recipe = chapter.detector_recipe if key == "detector" else chapter.recipe
        with torch.device("meta"):
            model = recipe(one.config, None).model()
        small = sum(2 * value.numel() for value in model.state_dict().values())
        assert one.key == key and small < shipped.LARGEST - 50_000  # of names and shapes

"""The sheet of what goes where, the command that measures weights on real shards, and the full-scale arithmetic."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from real_files import script
from torch import nn

from course_lib.chapter_source import chapters
from course_lib.chapters.david_models import David
from course_lib.data import shards
from course_lib.data.schema import PersonLabel, Sample
from course_lib.real.convert import parser_of
from course_lib.real.source import Source
from course_lib.study import find_study

ROOT = Path(__file__).resolve().parents[1]
make_sheet, evaluate_shards = script("make_sheet"), script("evaluate_shards")
NUMBERS = {chapter.name[:2] for chapter in chapters()}


def source_of(name: str) -> type[Source]:
    """The source that a data script is of."""
    kinds = [
        x for x in vars(script(name)).values() if isinstance(x, type) and issubclass(x, Source) and x is not Source
    ]
    return kinds[-1]


def test_the_page_is_made_of_the_tables():
    assert (ROOT / "data_scripts" / "SHEET.md").read_text(encoding="utf-8") == make_sheet.sheet()


@pytest.mark.parametrize("row", make_sheet.rows_of("sheet_chapters.csv"), ids=lambda row: row["folder"])
def test_scripts_take_what_the_sheet_says(row):
    assert row["chapter"] in NUMBERS and row["tested"] in ("shards", "chapter")
    words = row["options"].replace("SIZE", "128").replace("COUNT", "9").split()
    for name in row["scripts"].split():
        asked = parser_of(source_of(name)).parse_args(["--root", "x", "--out", "y", *words])
        assert asked.root == Path("x")


@pytest.mark.parametrize("row", make_sheet.rows_of("sheet.csv"), ids=lambda row: f"{row['paper']} {row['row']}")
def test_commands_of_the_tables_are_there(row):
    assert row["chapter"] in NUMBERS and (row["command"] or row["short"])
    assert not row["script"] or issubclass(source_of(row["script"]), Source)
    words = shlex.split(row["command"])
    if words[:1] == ["python"]:
        script(Path(words[1]).stem).parser().parse_args(words[2:])
    elif words:
        assert words[:2] == ["course", "study"] and find_study(words[2])


class Oracle(David):
    """Says what the truth is, from the picture."""

    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        normals = torch.zeros_like(images)
        normals[:, 2] = 1
        return {"depth": 5 * images[:, :1] + 1, "normals": normals, "alpha": 40 * (images[:, 2:] - 0.5)}


def write_samples(folder: Path, fields: tuple[str, ...]) -> Path:
    image = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32), (3, 24, 24)).copy()
    image[2] = 0
    image[2, 4:20, 4:20] = 1
    inside, normals = image[2] > 0, np.zeros_like(image)
    normals[2] = inside
    truth = {"alpha": image[2].copy(), "normals": normals}
    truth["depth"] = np.where(inside, 2 * image[0] + 3, np.inf).astype(np.float32)
    person = PersonLabel("one", box=np.array([4, 4, 20, 20], np.float32))
    sample = Sample(key="a", image=image, people=[person], instances=inside.astype(np.uint8))
    for name in fields:
        setattr(sample, name, truth[name])
    folder.mkdir()
    entry = shards.write_shard(folder / shards.shard_name(0), [sample])
    settings = {"count": 1, "split": "real"}
    version = {"version": shards.VERSION, "schema": shards.schema_version()}
    manifest = version | {"settings": settings, "shards": {shards.shard_name(0): entry}, "complete": True}
    shards.write_manifest(folder, manifest)
    return folder


def test_a_network_that_says_the_truth_makes_no_errors(tmp_path):
    found = evaluate_shards.evaluate(Oracle(), write_samples(tmp_path / "all", ("alpha", "depth", "normals")), 16)
    assert found["pictures"] == 1
    assert found["depth rmse"] < 0.1 and found["normals mean"] < 3 and found["alpha mse"] < 0.01
    alone = evaluate_shards.evaluate(Oracle(), write_samples(tmp_path / "alpha", ("alpha",)), 16)
    assert {name.split()[0] for name in alone} == {"pictures", "alpha"}
    with pytest.raises(ValueError, match="has no truth for what the network says"):
        evaluate_shards.evaluate(Oracle(), write_samples(tmp_path / "none", ()), 16)


def full_scale():
    spec = importlib.util.spec_from_file_location("full_scale", ROOT / "benchmarks" / "full_scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_arithmetic_and_its_page_agree():
    module = full_scale()
    run = module.Run(samples=1_000_000, height=1000, width=1000, rate=50)
    found = module.needs(run, bytes_per_pixel=2.0, pixels_per_second=20e6)
    assert found == {"terabytes": 2.0, "shards": 2000, "readers": 3}
    page = (ROOT / "data_scripts" / "FULL_SCALE.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if re.match(r"\|", line)]
    assert table == module.rows(json.loads(module.RECORD.read_text(encoding="utf-8")))

"""Schema, shards and `make`: round trips, refusals by name, kills, cuts, locks and second runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from course_lib.data import make as making
from course_lib.data import shards
from course_lib.data.make import MakeError, make
from course_lib.data.schema import Keypoints, PersonLabel, Sample, SchemaError, describe, validate
from course_lib.data.shards import Samples, ShardError
from course_lib.data.worlds import UnknownWorld

SMALL = {"size": 32, "supersample": 1, "workers": 0, "progress": False, "formats": ("coco17",)}


def a_sample(key: str = "00000000", size: int = 16, people: int = 2) -> Sample:
    """A sample with every field."""
    rng = np.random.default_rng(int(key))
    depth = np.where(rng.random((size, size)) < 0.5, rng.uniform(1, 3, (size, size)), np.inf).astype(np.float32)
    normals = rng.normal(size=(3, size, size))
    normals = (normals / np.linalg.norm(normals, axis=0) * np.isfinite(depth)).astype(np.float32)
    return Sample(
        key=key, source="wild/train", scene=3, view=1, frame=2, place="room/indoor/full",
        image=rng.random((3, size, size), np.float32), alpha=rng.random((size, size), np.float32), depth=depth,
        normals=normals, parts=rng.integers(0, 28, (size, size)).astype(np.uint8),
        instances=rng.integers(0, people + 1, (size, size)).astype(np.uint8), K=np.eye(3, dtype=np.float32),
        R=np.eye(3, dtype=np.float32), t=np.ones(3, np.float32), people=[a_person(rng) for _ in range(people)],
    )  # fmt: skip


def a_person(rng: np.random.Generator) -> PersonLabel:
    """A label with every field."""
    points = Keypoints(
        rng.random((17, 2)).astype(np.float32), np.full((17, 3), np.nan, np.float32), np.full(17, 2, np.uint8)
    )
    numbers = {"pose": (55, 3), "shape": (10,), "expression": (52,), "translation": (3,), "vertices": (6, 3)}
    arrays = {name: rng.random(shape).astype(np.float32) for name, shape in numbers.items()}
    box = np.array([1, 2, 3, 4], np.float32)
    labels = {"identity": "train-000001", "pose_family": "sitting", "seen_share": 0.5}
    return PersonLabel(box=box, full_box=box, keypoints={"coco17": points}, **labels, **arrays)


# ---------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": np.zeros((16, 8), np.float32)}, "'depth' must have the shape"),
        ({"alpha": np.zeros((16, 16))}, "'alpha' must be a numpy array of float32, not float64"),
        ({"image": None}, "'image' is missing"),
        ({"image": np.full((3, 16, 16), 255, np.float32)}, r"'image' must lie in \[0, 1\]"),
        ({"image": np.full((3, 16, 16), np.nan, np.float32)}, "'image' has NaN"),
        ({"parts": np.full((16, 16), 99, np.uint8)}, "class 99"),
        ({"instances": np.full((16, 16), 7, np.uint8)}, "names person 7 of 2"),
        ({"K": [[1, 0, 0]]}, "'K' must be a numpy array of float32, not list"),
        ({"scene": "three"}, "'scene' must be int"),
    ],
)
def test_schema_refuses_by_name(change, message):
    validate(a_sample())
    with pytest.raises(SchemaError, match="00000000.*" + message):
        validate(dataclasses.replace(a_sample(), **change))


def test_schema_refuses_people_by_number_and_format():
    sample = a_sample()
    sample.people[1].pose = np.zeros((24, 3), np.float32)
    with pytest.raises(SchemaError, match="person 1: the field 'pose' must have the shape"):
        validate(sample)
    sample = a_sample()
    sample.people[0].keypoints["coco17"].visible = np.zeros(5, np.uint8)
    with pytest.raises(SchemaError, match="keypoints 'coco17': the field 'visible'"):
        validate(sample)


def test_a_real_data_sample_needs_only_a_picture_and_boxes():
    person = PersonLabel(box=np.zeros(4, np.float32))
    validate(Sample(key="1", image=np.zeros((3, 8, 6), np.float32), people=[person]))


def test_every_field_is_described():
    table = describe()
    for cls in (Sample, PersonLabel, Keypoints):
        assert all(f"| {f.name} |" in table for f in dataclasses.fields(cls))


# ---------------------------------------------------------------- shards


def test_round_trip_within_the_stated_precision(tmp_path):
    sample = a_sample()
    shards.write_shard(tmp_path / "s.tar", [sample])
    (back,) = shards.read_shard(tmp_path / "s.tar")
    validate(back)
    assert np.abs(back.image - sample.image).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(np.isfinite(back.depth), np.isfinite(sample.depth))
    seen = np.isfinite(sample.depth)
    assert np.abs(back.depth[seen] - sample.depth[seen]).max() < 1e-4
    cosine = (back.normals * sample.normals).sum(0)[seen]
    assert np.rad2deg(np.arccos(cosine.clip(-1, 1))).max() < 0.4 and (back.normals[:, ~seen] == 0).all()
    for name in ("parts", "instances", "K", "R", "t"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sample, name))
    assert (back.key, back.source, back.scene, back.view, back.frame) == ("00000000", "wild/train", 3, 1, 2)
    for one, other in zip(back.people, sample.people, strict=True):
        np.testing.assert_array_equal(one.pose, other.pose)
        np.testing.assert_array_equal(one.keypoints["coco17"].points_2d, other.keypoints["coco17"].points_2d)
        assert one.identity == other.identity and one.seen_share == other.seen_share


def test_same_samples_same_bytes_whenever_they_are_written(tmp_path, monkeypatch):
    first = shards.write_shard(tmp_path / "a.tar", [a_sample()])
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert shards.write_shard(tmp_path / "b.tar", [a_sample()]) == first


def test_webdataset_reads_the_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shards.write_shard(tmp_path / "s.tar", [a_sample("00000001"), a_sample("00000002")])
    rows = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False).decode("rgb8"))
    assert [row["__key__"] for row in rows] == ["00000001", "00000002"]
    assert rows[0]["image.png"].shape == (16, 16, 3) and rows[0]["json"]["source"] == "wild/train"


def test_a_shard_is_there_whole_or_not_at_all(tmp_path):
    def samples():
        yield a_sample()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        shards.write_shard(tmp_path / "s.tar", samples())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97])
def test_a_cut_shard_is_named_with_what_to_do(tmp_path, share):
    path = tmp_path / "shard-000000.tar"
    shards.write_shard(path, [a_sample(f"{i:08d}") for i in range(3)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data.rstrip(b"\0")) * share)])
    with pytest.raises(ShardError, match="shard-000000.tar is broken.*course data make"):
        list(shards.read_shard(path))


def test_unknown_version_and_missing_manifest(tmp_path):
    with pytest.raises(ShardError, match="has no manifest.json"):
        shards.info(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(ShardError, match="version 99"):
        shards.info(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ShardError, match="cannot be read"):
        shards.info(tmp_path)


# ---------------------------------------------------------------- make


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Eight pictures in four shards, made without a break."""
    return make("studio", 8, tmp_path_factory.mktemp("whole") / "data", scenes_per_shard=2, **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of everything in a folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def copy_of(folder: Path, target: Path) -> Path:
    """A copy to break."""
    target.mkdir()
    for name, data in contents(folder).items():
        (target / name).write_bytes(data)
    return target


def test_make_writes_valid_samples_and_info_counts_them(whole):
    samples = list(shards.read(whole))
    assert [s.key for s in samples] == [f"{i:08d}" for i in range(8)]
    assert all(validate(s).image.shape == (3, 32, 32) for s in samples)
    assert "8 of 8 pictures in 4 shards" in shards.info(whole) and "world: studio" in shards.info(whole)
    lazy = Samples(whole, only=("image",))
    assert len(lazy) == 8 and lazy[3].parts is None and lazy[3].people[0].pose is not None
    assert sorted(lazy.scenes()) == list(range(8))
    with pytest.raises(SchemaError, match="picture fields"):
        Samples(whole, only=("colour",))


def test_made_again_is_complete_and_untouched(whole):
    before = {p.name: p.stat().st_mtime_ns for p in whole.glob("*.tar")}
    make("studio", 8, whole, scenes_per_shard=2, **SMALL)
    assert before == {p.name: p.stat().st_mtime_ns for p in whole.glob("*.tar")}


def test_other_settings_in_the_same_folder_are_refused(whole):
    before = contents(whole)
    with pytest.raises(MakeError, match="seed is 0, not 1.*another folder"):
        make("studio", 8, whole, seed=1, scenes_per_shard=2, **SMALL)
    assert contents(whole) == before


def test_a_folder_with_strange_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(MakeError, match="thesis.tex"):
        make("studio", 1, tmp_path, **SMALL)


def test_a_cut_and_a_missing_shard_are_made_anew_alone(whole, tmp_path):
    folder = copy_of(whole, tmp_path / "data")
    cut, gone = folder / "shard-000001.tar", folder / "shard-000003.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    gone.unlink()
    (folder / ".shard-000003.tar.77.part").write_bytes(b"half")
    with pytest.raises(ShardError, match="shard-000001.tar is broken.*cut in the middle"):
        shards.verify(folder)
    kept = (folder / "shard-000000.tar").stat().st_mtime_ns
    make("studio", 8, folder, scenes_per_shard=2, **SMALL)
    assert contents(folder) == contents(whole)
    assert (folder / "shard-000000.tar").stat().st_mtime_ns == kept


def test_a_shard_that_the_manifest_missed_is_adopted(whole, tmp_path):
    folder = copy_of(whole, tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"]["shard-000002.tar"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    kept = (folder / "shard-000002.tar").stat().st_mtime_ns
    make("studio", 8, folder, scenes_per_shard=2, **SMALL)
    assert contents(folder) == contents(whole)
    assert (folder / "shard-000002.tar").stat().st_mtime_ns == kept


def test_a_flipped_byte_is_found_by_its_hash(whole, tmp_path):
    folder = copy_of(whole, tmp_path / "data")
    data = bytearray((folder / "shard-000000.tar").read_bytes())
    data[3000] ^= 1
    (folder / "shard-000000.tar").write_bytes(data)
    with pytest.raises(ShardError, match="shard-000000.tar is broken: its sha256"):
        shards.info(folder)


def test_a_living_lock_refuses_and_a_dead_one_is_taken_over(tmp_path):
    lock = tmp_path / making.LOCK
    lock.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    with pytest.raises(MakeError, match=f"being made by process {os.getpid()}"):
        make("studio", 1, tmp_path, **SMALL)
    lock.write_text(json.dumps({"pid": os.getpid(), "started": 12.0}))  # the number was used again
    make("studio", 1, tmp_path, **SMALL)
    assert not lock.exists()


def test_a_lock_that_is_just_being_written_refuses_and_an_old_empty_one_is_taken_over(tmp_path):
    lock = tmp_path / making.LOCK
    lock.touch()
    with pytest.raises(MakeError, match="being made by another process"):
        make("studio", 1, tmp_path, **SMALL)
    assert lock.exists()
    os.utime(lock, (0, 0))  # a power cut left it
    make("studio", 1, tmp_path, **SMALL)
    assert not lock.exists()


def test_a_full_disk_keeps_whole_shards_and_says_so(tmp_path, monkeypatch, whole):
    right = shards.write_shard

    def full(path, samples):
        if path.name == "shard-000002.tar":
            raise OSError(28, "No space left on device")
        return right(path, samples)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(MakeError, match="No space left on device. 2 of 4 shards .* run the same command again"):
        make("studio", 8, tmp_path, scenes_per_shard=2, **SMALL)
    assert "not complete" in shards.info(tmp_path)
    monkeypatch.setattr(shards, "write_shard", right)
    make("studio", 8, tmp_path, scenes_per_shard=2, **SMALL)
    assert contents(tmp_path) == contents(whole)


def test_ctrl_c_keeps_whole_shards(tmp_path, monkeypatch, whole):
    right = shards.write_shard

    def interrupted(path, samples):
        if path.name == "shard-000001.tar":
            raise KeyboardInterrupt
        return right(path, samples)

    monkeypatch.setattr(shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make("studio", 8, tmp_path, scenes_per_shard=2, **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "shard-000000.tar"]
    assert (tmp_path / "shard-000000.tar").read_bytes() == (whole / "shard-000000.tar").read_bytes()


RUN = """
import sys
from course_lib.data.make import make, MakeError
if __name__ == "__main__":
    try:
        settings = {"size": 32, "supersample": 1, "formats": ("coco17",), "scenes_per_shard": 2}
        make("studio", 8, sys.argv[1], workers=2, progress=False, **settings)
    except MakeError as error:
        print("MakeError:", error)
        sys.exit(3)
"""


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The rendering processes below a run."""
    return [p for p in process.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def rendering(tmp_path: Path) -> tuple[subprocess.Popen, Path]:
    """A run in a process of its own, in the middle of a shard, and its folder."""
    script, folder = tmp_path / "run.py", tmp_path / "data"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(folder)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.time() + 60
    while time.time() < deadline and run.poll() is None and not list(folder.glob(".shard-*.part")):
        time.sleep(0.02)
    return run, folder


def test_workers_leave_with_a_killed_parent(tmp_path):
    run, _ = rendering(tmp_path)
    workers = workers_of(psutil.Process(run.pid))
    run.kill()
    run.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert workers and not alive


def test_a_killed_worker_is_reported_and_the_rest_continues_to_the_same_bytes(tmp_path, whole):
    run, folder = rendering(tmp_path)
    os.kill(workers_of(psutil.Process(run.pid))[0].pid, signal.SIGKILL)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 3 and "a worker process died" in output and "run the same command again" in output
    assert not list(folder.glob(".*")), "locks and half shards are left over"
    for name, data in contents(folder).items():
        assert name == "manifest.json" or data == (whole / name).read_bytes()
    make("studio", 8, folder, scenes_per_shard=2, **SMALL)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 7, "views": 3}, "no multiple of views x frames = 3: use 6 or 9"),
        ({"count": 0}, "at least 1"),
        ({"split": "dev"}, "no split 'dev'.*train, val, test"),
        ({"motion": "moonwalk", "frames": 2, "count": 2}, "moonwalk"),
        ({"formats": ("coco18",)}, "coco18.*coco17"),
    ],
)
def test_settings_are_checked_before_anything_is_made(tmp_path, settings, message):
    arguments = {"count": 1} | SMALL | settings
    with pytest.raises(ValueError, match=message):
        make("studio", out=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_unknown_world_lists_the_known_ones(tmp_path):
    with pytest.raises(UnknownWorld, match="atlantis.*studio, wild, scan, general, general-nopeople"):
        make("atlantis", 1, tmp_path / "new", **SMALL)


def test_record_of_the_test_sets(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "TEST_SETS", tmp_path / "test_sets.json")
    assert making.check_test_set("studio", whole).startswith("NOTE")
    making.record_test_set("studio", whole)
    assert making.check_test_set("studio", whole).startswith("OK")

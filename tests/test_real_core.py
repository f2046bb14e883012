"""The driver of the data scripts: checks before it writes, sets aside, continues after a kill, survives a full disk."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from real_files import (
    assert_good,
    assert_no_source,
    assert_refused,
    assert_set_aside,
    broken_versions,
    content,
    edit_npz,
    fingerprint,
    report,
    run,
)
from toy_source import Toy, ToyTables, write_toy

from course_lib.data import shards
from course_lib.data.make import MakeError
from course_lib.data.schema import Keypoints, PersonLabel, Sample, validate
from course_lib.data.sets import people_samples
from course_lib.data.shards import ShardError
from course_lib.real import checks, convert, overlay, tables
from course_lib.real.checks import SourceError
from course_lib.real.resize import scaled, square_around, squared
from course_lib.real.source import how_to_get

VERSIONS = broken_versions("K", ("points", 1000.0, "millimetres"), "spots", "points")


@pytest.fixture
def root(tmp_path) -> Path:
    """Three sequences of four frames."""
    return write_toy(tmp_path / "root")


# ---------------------------------------------------------------- the driver


def test_a_good_source_becomes_shards_and_is_not_touched(root, tmp_path, capsys):
    said = assert_good(Toy, root, tmp_path / "out", capsys)
    assert (said["groups"], said["items"], said["samples"]) == (3, 12, 12)
    samples = list(shards.read(tmp_path / "out"))
    assert [sample.key for sample in samples[:2]] == ["seq0-000", "seq0-001"]
    assert max(overlay.reprojection(sample) for sample in samples) < 0.01
    with Image.open(tmp_path / "out" / "overlay.png") as drawn:
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 50


def test_a_table_becomes_shards(root, tmp_path, capsys):
    said = assert_good(ToyTables, root, tmp_path / "out", capsys)
    found = tables.read_table(tmp_path / "out")
    assert said["samples"] == 12 and found["points"].shape == (12, 5, 3) and found["name"][11] == "seq2"


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(Toy, tmp_path, capsys)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_broken_files_are_refused_before_anything_is_written(root, tmp_path, capsys, version):
    version.apply(root / "seq1.npz")
    assert_refused(Toy, root, tmp_path / "out", capsys, ("seq1.npz", *version.words))
    assert_set_aside(Toy, root, tmp_path / "out", capsys, ("seq1.npz", *version.words))
    assert report(tmp_path / "out")["samples"] == 8


def test_a_broken_picture_is_set_aside_and_taken_in_once_it_is_mended(root, tmp_path, capsys):
    picture = root / "seq1" / "002.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:80])
    assert_set_aside(Toy, root, tmp_path / "out", capsys, ("seq1-002", "002.png can't be read"))
    assert report(tmp_path / "out")["samples"] == 11
    picture.write_bytes(whole)
    assert run(Toy, root, tmp_path / "out", "--tolerate", "0.5") == 0
    assert report(tmp_path / "out")["samples"] == 12 and report(tmp_path / "out")["set_aside"] == {}


def test_too_many_broken_pictures_end_the_run(root, tmp_path, capsys):
    for picture in (root / "seq0").iterdir():
        picture.write_bytes(b"no picture")
    assert run(Toy, root, tmp_path / "out", "--tolerate", "0.2") == 1
    assert "of 12 items are bad, more than --tolerate 0.2" in capsys.readouterr().err
    assert not shards.read_manifest(tmp_path / "out")["complete"] and len(report(tmp_path / "out")["set_aside"]) == 4
    assert run(Toy, root, None, "--check", "--tolerate", "0.2") == 1
    assert "4 of 12 items are bad" in capsys.readouterr().err


def test_a_frame_with_a_problem_is_set_aside_by_name(root, tmp_path, capsys):
    edit_npz(root / "seq2.npz", lambda table: table.update(valid=np.array([1, 0, 1, 1])))
    assert_set_aside(Toy, root, tmp_path / "out", capsys, ("seq2-001", "marked as not valid"))


def test_a_file_with_code_in_it_ends_the_run_whatever_is_tolerated(root, tmp_path, capsys):
    edit_npz(root / "seq2.npz", lambda table: table.update(points=np.array([os.system], object)))
    assert run(Toy, root, tmp_path / "out", "--tolerate", "1") == 1
    assert "system" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_limit_and_size(root, tmp_path, capsys):
    assert_good(Toy, root, tmp_path / "out", capsys, "--limit", "5", "--size", "24")
    samples = list(shards.read(tmp_path / "out"))
    assert len(samples) == 5 and len({sample.scene for sample in samples}) == 3
    assert samples[0].image.shape == (3, 16, 24) and overlay.reprojection(samples[0]) < 0.01
    assert run(Toy, root, tmp_path / "out", "--limit", "6") == 1
    assert "holds other data" in capsys.readouterr().err


def test_options_that_cannot_be(root, tmp_path, capsys):
    for arguments, words in (
        (["--limit", "0"], "over 0"),
        (["--tolerate", "3"], "share"),
        (["--nonsense"], "unrecognized"),
    ):
        with pytest.raises(SystemExit):
            run(Toy, root, tmp_path / "out", *arguments)
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(Toy, root, None)
    assert "--out FOLDER is needed" in capsys.readouterr().err


def test_the_source_is_never_written_to(root, capsys):
    for out in (root, root / "out", root / "seq0" / "deeper"):
        assert run(Toy, root, out) == 1
        assert "never written to" in capsys.readouterr().err


def test_a_folder_of_other_things_is_left_alone(root, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert run(Toy, root, tmp_path / "out") == 1
    assert "thesis.tex" in capsys.readouterr().err


def test_two_items_of_one_name_are_refused(root, tmp_path, capsys):
    class Twice(Toy):
        def items(self, group):
            return [item._replace(key="same") for item in super().items(group)]

    assert run(Twice, root, tmp_path / "out") == 1
    assert "two items are called 'same'" in capsys.readouterr().err


def test_names_that_are_not_utf8(root, tmp_path, capsys):
    strange = root / os.fsdecode(b"s\xffq \xe9.npz")
    shutil.copy(root / "seq0.npz", strange)
    shutil.copytree(root / "seq0", root / strange.stem)
    said = assert_good(Toy, root, tmp_path / "out", capsys)
    assert said["samples"] == 16
    edit_npz(root / "seq1.npz", lambda table: table.pop("K"))
    os.rename(root / "seq1.npz", root / os.fsdecode(b"\xfe.npz"))
    assert_refused(Toy, root, tmp_path / "other", capsys, (r"\xfe.npz", "K"))


# ---------------------------------------------------------------- kills, full disks, workers


def test_a_run_that_was_stopped_continues_without_loss_or_doubles(root, tmp_path, capsys, monkeypatch):
    assert run(Toy, root, tmp_path / "whole") == 0
    write, written = shards.write_shard, []

    def stopping(path, samples):
        if len(written) == 2:
            list(samples)
            path.with_name(f".{path.name}.1.part").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, samples)

    monkeypatch.setattr(shards, "write_shard", stopping)
    assert run(Toy, root, tmp_path / "out") == 130
    assert len(content(tmp_path / "out")) == 2
    monkeypatch.setattr(shards, "write_shard", write)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert run(Toy, root, tmp_path / "out") == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert not list((tmp_path / "out").glob(".*"))
    capsys.readouterr()


def test_a_shard_that_was_cut_or_lost_is_written_again(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(Toy, root, out) == 0
    first = content(out)
    (out / "shard-000000.tar").write_bytes((out / "shard-000000.tar").read_bytes()[:1000])
    (out / "shard-000002.tar").unlink()
    assert run(Toy, root, out) == 0
    assert content(out) == first
    capsys.readouterr()


def test_a_full_disk_is_survived(root, tmp_path, capsys, monkeypatch):
    write = shards.write_shard

    def full(path, samples):
        if path.name == "shard-000001.tar":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, samples)

    monkeypatch.setattr(shards, "write_shard", full)
    assert run(Toy, root, tmp_path / "out") == 1
    assert "No space left on device" in (said := capsys.readouterr().err) and "same command" in said
    monkeypatch.setattr(shards, "write_shard", write)
    assert run(Toy, root, tmp_path / "out") == 0 and report(tmp_path / "out")["samples"] == 12


def test_workers_give_the_same_bytes_and_a_kill_loses_nothing(root, tmp_path, capsys):
    """The real command in processes of its own, killed without warning, then continued."""
    assert run(Toy, root, tmp_path / "whole") == 0
    before, out = fingerprint(root), tmp_path / "out"
    script = Path(__file__).with_name("toy_source.py")
    command = [sys.executable, str(script), "--root", str(root), "--out", str(out), "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(script.parents[1]), *sys.path]), "TOY_SLOW": "0.3"}
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as slow:
        end = time.monotonic() + 300
        while not (out.exists() and content(out)):
            assert time.monotonic() < end and slow.poll() is None
            time.sleep(0.05)
        os.kill(slow.pid, signal.SIGKILL)
    first = content(out)
    assert 0 < len(first) and not shards.read_manifest(out)["complete"]
    assert run(Toy, root, out) == 0 and content(out) == content(tmp_path / "whole")
    assert first.items() <= content(out).items() and fingerprint(root) == before
    capsys.readouterr()


def test_a_worker_that_dies_is_reported():
    with pytest.raises(MakeError, match="a worker process died"):
        list(convert.spread(os._exit, [3, 3], 1))


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("value", "arguments", "words"),
    [
        (np.zeros((5, 3)), {"shape": ("N", 4)}, r"expected the shape \(N, 4\), found \(5, 3\)"),
        (np.zeros((3, 5)), {"shape": ("N", 3)}, "axes swapped"),
        (np.full(3, 1700.0), {"high": 3, "unit": "metres"}, "expected -inf to 3 metres, found 1700.*like millimetres"),
        (np.full(3, 170.0), {"low": 1, "high": 3, "unit": "metres"}, "like centimetres"),
        (np.full(3, 1.7), {"low": 300, "high": 3000, "unit": "millimetres"}, "like metres"),
        (np.full(3, 90.0), {"low": -7, "high": 7, "unit": "radians"}, "like degrees"),
        (np.array([1, np.nan]), {}, r"NaN or infinity in 1 of 2, first at \(1,\)"),
        (np.array([1, np.inf]), {"nan": True, "high": 3}, None),
        (np.array([{}], object), {}, "objects of Python"),
        ([[1], [1, 2]], {}, "lists of different lengths"),
        (["a"], {}, "expected an array of numbers"),
        ([1.5], {"kind": "i"}, "expected an array of whole numbers, found an array of float64"),
        ([], {"kind": "i"}, None),
        (np.array([1, 0]), {"kind": "b"}, None),
    ],
)
def test_what_is_expected_and_what_is_found(value, arguments, words):
    if words is None:
        checks.expect({"key": value}, "f.npz", "key", **arguments)
        return
    with pytest.raises(SourceError, match=f"f.npz: key: .*{words}"):
        checks.expect({"key": value}, "f.npz", "key", **arguments)


def test_equal_letters_are_equal_sizes():
    sizes = {}
    checks.expect({"a": np.zeros((4, 3))}, "f", "a", ("N", 3), sizes=sizes)
    with pytest.raises(SourceError, match=r"\(4, 72\), found \(5, 72\)"):
        checks.expect({"b": np.zeros((5, 72))}, "f", "b", ("N", 72), sizes=sizes)
    with pytest.raises(SourceError, match="b: expected this key, found a"):
        checks.expect({"a": 1}, "f", "b")
    with pytest.raises(SourceError, match="expected a table with this key, found list"):
        checks.expect([1], "f", "b")


def test_people_cameras_and_rotations():
    people = np.random.default_rng(0).uniform(0, 1.2, (6, 17, 3))
    checks.check_people(people, "f", "joints")
    checks.check_people(1000 * people, "f", "joints", "millimetres")
    checks.check_people(np.full((1, 17, 3), np.nan), "f", "joints")
    with pytest.raises(SourceError, match="look like millimetres"):
        checks.check_people(1000 * people, "f", "joints")
    with pytest.raises(SourceError, match="look like metres"):
        checks.check_people(people, "f", "joints", "millimetres")
    K = np.array([[1000, 0, 400], [0, 1000, 900], [0, 0, 1.0]])
    checks.check_intrinsics(K, "f", "K", (1080, 720))
    for wrong, words in ((K.T, "transposed"), (K * [[0.001], [0.001], [1]], "focal"), (np.eye(3) * 5, "K with 0 0 1")):
        with pytest.raises(SourceError, match=words):
            checks.check_intrinsics(wrong, "f", "K", (1080, 720))
    with pytest.raises(SourceError, match="x and y swapped"):
        checks.check_intrinsics(K, "f", "K", (720, 1080))
    checks.check_rotation(np.eye(3)[None], "f", "R")
    with pytest.raises(SourceError, match="mirror image"):
        checks.check_rotation(np.diag([1, 1, -1]), "f", "R")
    with pytest.raises(SourceError, match="an error of"):
        checks.check_rotation(2 * np.eye(3), "f", "R")
    with pytest.raises(SourceError, match="in front of the camera, found 0%"):
        checks.check_in_front(-people - 1, "f", "joints")
    with pytest.raises(SourceError, match="within 15 pixels"):
        checks.check_reprojection(people[..., :2] + 40, people[..., :2], "f", "joints")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.sampled_from(["N", "M", 1, 2, 3]), max_size=4))
def test_shapes_fit_or_are_refused_in_words(shape, wanted):
    """An array passes exactly if its sizes can be put for the letters."""
    letters = {w: s for w, s in zip(wanted, shape, strict=False) if isinstance(w, str)}
    first = {}
    for w, s in zip(wanted, shape, strict=False):
        first.setdefault(w, s)
    good = len(shape) == len(wanted) and all(
        s == (first[w] if w in letters else w) for w, s in zip(wanted, shape, strict=False)
    )
    try:
        checks.expect({"a": np.ones(shape)}, "f", "a", wanted)
    except SourceError as error:
        assert not good and "expected the shape" in str(error)
    else:
        assert good


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=120), st.text(max_size=120))
def test_keys_are_short_plain_and_stay_apart(one, other):
    first, second = convert.clean_key(one), convert.clean_key(other)
    assert (first == second) == (one == other) and len(first) <= 80 and convert.clean_key(first) == first
    assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in first)


# ---------------------------------------------------------------- sizes, tables, words


def test_a_sample_at_another_size_has_all_its_labels_there(root):
    sample = Toy(root).read(next(iter(Toy(root).items("seq0.npz"))))[0]
    half = scaled(sample, 24)
    assert half.image.shape == (3, 16, 24) and half.instances.shape == (16, 24)
    np.testing.assert_allclose(half.people[0].box, sample.people[0].box / 2)
    assert abs(overlay.reprojection(half) - overlay.reprojection(sample) / 2) < 1e-3
    np.testing.assert_allclose(half.image.mean(), sample.image.mean(), atol=2e-3)
    assert scaled(sample, 99) is sample and isinstance(half, Sample)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(9, 60), st.integers(9, 60), st.integers(4, 40), st.booleans())
def test_a_square_around_people_has_all_their_labels_there(seed, height, width, size, people):
    """A pixel that is marked in the picture is under the person's joint in the square, and under its projection."""
    rng = np.random.default_rng(seed)
    spot = rng.uniform((0, 0), (width, height)).astype(np.float32)
    low = np.maximum(spot - rng.uniform(1, 20, 2), 0)
    box = np.array([*low, *np.minimum(spot + rng.uniform(1, 20, 2), (width, height))], np.float32)
    marked = np.zeros((height, width), np.uint8)
    marked[int(spot[1]), int(spot[0])] = 1
    K = np.array([[50, 0, width / 2], [0, 50, height / 2], [0, 0, 1]], np.float32)
    point = np.linalg.inv(K) @ np.array([*spot, 1]) * 3
    keypoints = {"one": Keypoints(spot[None], point[None].astype(np.float32), np.array([2], np.uint8))}
    person = PersonLabel(box=box, full_box=box, keypoints=keypoints)
    pose = {"K": K, "R": np.eye(3, dtype=np.float32), "t": np.zeros(3, np.float32)}
    image = np.broadcast_to(marked, (3, height, width)).astype(np.float32)
    depth = np.where(marked, 3, np.inf).astype(np.float32)
    sample = Sample(image=image, instances=marked, depth=depth, people=[person] * people, **pose)
    found = validate(squared(sample, size))
    assert found.image.shape == (3, size, size)
    if people:
        joint = found.people[0].keypoints["one"]
        assert joint.visible == [2] and overlay.reprojection(found) < 1e-2
        row, column = joint.points_2d[0, ::-1].astype(int).clip(0, size - 1)
        near = slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2)
        side = square_around(sample)[2]
        assert side > size or (found.instances[near] == 1).any() and (found.depth[near] == 3).any()


def test_chapters_take_real_shards_under_the_name_of_a_rendered_set(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "wild-train-coco17-16-12"
    assert run(Toy, root, folder, "--square", "--size", "16") == 0
    samples = people_samples("wild", 12, 16)
    assert len(samples) == 12 and {sample.image.shape for sample in samples} == {(3, 16, 16)}
    assert samples[0].source == "toy" and samples[0].people[0].keypoints.keys() == {"toy5"}
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("true", "false"))
    with pytest.raises(ShardError, match="is not complete"):
        people_samples("wild", 12, 16)
    with pytest.raises(SystemExit):
        run(Toy, root, tmp_path / "out", "--square")
    assert "--square needs --size" in capsys.readouterr().err


def test_records_that_differ_are_refused(tmp_path):
    with pytest.raises(SourceError, match="records differ"):
        tables.write_table(tmp_path / "x.npz", [{"a": np.ones(2)}, {"b": np.ones(2)}])
    with pytest.raises(SourceError, match="records differ"):
        tables.write_table(tmp_path / "x.npz", [{"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(2), "b": np.ones(2)}])
    assert not list(tmp_path.iterdir())


def test_the_words_name_licence_registration_download_and_corrections():
    said = how_to_get(Toy)
    assert all(word in said for word in (Toy.licence, Toy.register, Toy.download[0], Toy.corrections[0], "seqN.npz"))

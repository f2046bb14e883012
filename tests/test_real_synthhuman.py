"""SynthHuman's release, written by the course in its own layout, becomes shards; broken files are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_files import assert_good, assert_no_source, assert_refused, assert_set_aside, huge_png, run, script, truncate

from course_lib.chapters.rendering import pixel_centres
from course_lib.data import shards
from course_lib.data.schema import Sample
from course_lib.data.synthhuman import path_of, read_file, write_file, write_release

synthhuman = script("synthhuman")
K = np.array([[50.0, 0, 24], [0, 50, 32], [0, 0, 1]], np.float32)
SIZE = (64, 48)
NUMBERS = (98_040, 98_041, 98_042)  # full bodies


def a_ball(radius: float, seed: int) -> Sample:
    """A ball two metres away, before noise: every normal is known."""
    y, x = (pixel_centres(SIZE).numpy().transpose(2, 0, 1)[axis] - K[axis, 2] for axis in (1, 0))
    ray = np.stack([x / 50, y / 50, np.ones(SIZE)])
    a, b, c = (ray**2).sum(0), -4 * ray[2], 4 - radius**2
    inside = b * b - 4 * a * c > 0
    depth = np.where(inside, (-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / (2 * a), np.inf)
    points = np.where(inside, ray * np.where(inside, depth, 0), 0)
    normals = np.where(inside, (points - np.array([0, 0, 2])[:, None, None]) / radius, 0)
    normals[1:] *= -1  # from camera axes to right, up, towards the viewer
    image = np.random.default_rng(seed).random((3, *SIZE)).astype(np.float32)
    fields = {"image": image, "alpha": inside.astype(np.float32), "depth": depth, "normals": normals, "K": K}
    return Sample(key=str(seed), **{name: a.astype(np.float32) for name, a in fields.items()})


def write_release_to(root: Path) -> Path:
    """Three samples of one framing and one of another."""
    (root / "full").mkdir(parents=True)
    write_release(root / "full", [a_ball(0.4 + n / 10, n) for n in range(3)], NUMBERS[0])
    write_release(root / "face", [a_ball(0.5, 9)], 12)
    return root


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(synthhuman.SynthHumanRelease, tmp_path, capsys)


def test_the_release_becomes_shards(tmp_path, capsys):
    torch.set_num_threads(1)
    root = write_release_to(tmp_path / "root")
    said = assert_good(synthhuman.SynthHumanRelease, root, tmp_path / "out", capsys)
    assert (said["groups"], said["samples"]) == (2, 4)
    samples = {sample.key: sample for sample in shards.read(tmp_path / "out")}
    assert sorted(samples) == ["0000012", *(f"{n:07d}" for n in NUMBERS)]
    found, whole = samples["0098041"], a_ball(0.5, 1)
    np.testing.assert_allclose(found.depth, whole.depth, atol=2e-3)
    np.testing.assert_allclose(found.normals, whole.normals, atol=5e-3)  # shards keep a byte or two
    assert found.place == "full" and found.people[0].identity == "synthhuman-0098041"
    assert run(synthhuman.SynthHumanRelease, root, tmp_path / "face", "--framing", "face") == 0
    assert [sample.key for sample in shards.read(tmp_path / "face")] == ["0000012"]


def changed(name: str, function):
    """Writes a file of a sample anew."""

    def change(folder: Path) -> None:
        path = path_of(folder, name, NUMBERS[0])
        values = function(read_file(path))
        path.unlink()
        write_file(path, values)

    return change


def with_nan(values: np.ndarray) -> np.ndarray:
    values[values.shape[0] // 2, values.shape[1] // 2] = np.nan
    return values


def of(name: str) -> Path:
    return path_of("", name, NUMBERS[0])


BROKEN = {
    "truncated normal": (lambda folder: truncate(folder / of("normal")), ("normal_0098040.exr",)),
    "truncated header": (lambda folder: truncate(folder / of("depth"), 0.01), ("depth_0098040.exr",)),
    "truncated picture": (lambda folder: truncate(folder / of("rgb")), ("rgb_0098040.png", "can't be read")),
    "missing file": (lambda folder: (folder / of("cam")).unlink(), ("cam_0098040.txt", "No such file")),
    "empty file": (lambda folder: (folder / of("alpha")).write_bytes(b""), ("alpha_0098040.png", "empty")),
    "metres": (changed("depth", lambda d: np.where(d < 65504, d / 100, d)), ("depth", "they look like metres")),
    "millimetres": (changed("depth", lambda d: np.where(d < 65504, d * 20, d)), ("depth", "millimetres")),
    "NaN": (changed("normal", with_nan), ("normal_0098040.exr", "NaN")),
    "swapped axes": (changed("cam", np.transpose), ("cam_0098040.txt", "transposed")),
    "another size": (changed("alpha", lambda a: a[:-1]), ("alpha_0098040.png", "(64, 48)")),
    "y points down": (changed("normal", lambda n: n * np.float32([1, -1, 1])), ("normals' y", "--flip y")),
    "no EXR": (lambda folder: (folder / of("depth")).write_bytes(b"PK\3\4" + bytes(99)), ("EXR's first four bytes",)),
    "a window of terabytes": (
        lambda folder: (folder / of("depth")).write_bytes(bomb((folder / of("depth")).read_bytes())),
        ("depth_0098040.exr", "dataWindow", "1000001 x 1000001"),
    ),
    "a picture of gigapixels": (lambda folder: (folder / of("rgb")).write_bytes(huge_png()), ("rgb_0098040.png",)),
}


def bomb(content: bytes) -> bytes:
    """An EXR file that says it is a million pixels wide and high."""
    at = content.find(b"dataWindow\0box2i\0") + 21
    return content[:at] + np.array([0, 0, 10**6, 10**6], "<i4").tobytes() + content[at + 16 :]


@pytest.mark.parametrize("name", [name for name in BROKEN if "gigapixels" not in name])
def test_broken_samples_are_refused(tmp_path, capsys, name):
    root = write_release_to(tmp_path / "root")
    change, words = BROKEN[name]
    change(root / "full")
    assert_refused(synthhuman.SynthHumanRelease, root, tmp_path / "out", capsys, words)
    assert_set_aside(synthhuman.SynthHumanRelease, root, tmp_path / "out", capsys, words)


def test_a_picture_of_gigapixels_ends_the_run(tmp_path, capsys):
    root = write_release_to(tmp_path / "root")
    change, words = BROKEN["a picture of gigapixels"]
    change(root / "full")
    assert run(synthhuman.SynthHumanRelease, root, tmp_path / "out", "--tolerate", "1") == 1
    said = capsys.readouterr().err
    assert all(word in said for word in (*words, "refused"))


def test_axes_that_point_the_other_way_can_be_turned(tmp_path, capsys):
    root = write_release_to(tmp_path / "root")
    for number in NUMBERS:
        path = path_of(root / "full", "normal", number)
        values = read_file(path) * np.float32([1, -1, 1])
        path.unlink()
        write_file(path, values)
    options = ("--framing", "full", "--flip", "y")
    assert run(synthhuman.SynthHumanRelease, root, tmp_path / "out", *options) == 0, capsys.readouterr().err
    found = next(shards.read(tmp_path / "out"))
    np.testing.assert_allclose(found.normals, a_ball(0.4, 0).normals, atol=5e-3)  # shards keep a byte or two


def test_pictures_are_those_of_the_files(tmp_path):
    root = write_release_to(tmp_path / "root")
    assert run(synthhuman.SynthHumanRelease, root, tmp_path / "out", "--framing", "face") == 0
    found = next(shards.read(tmp_path / "out")).image
    with Image.open(root / "face" / "rgb_0000012.png") as image:
        np.testing.assert_array_equal(np.round(found * 255).astype(np.uint8).transpose(1, 2, 0), np.asarray(image))

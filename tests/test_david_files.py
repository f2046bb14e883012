"""Chapter 09, SynthHuman's files: numbers, layout, what is broken or missing, kills, the way into shards."""

import dataclasses

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image

from course_lib.chapters import david_data as david
from course_lib.data import shards, synthhuman
from course_lib.data.make import MakeError
from course_lib.data.schema import Sample
from course_lib.data.streams import ShardStream, TensorStream
from course_lib.data.synthhuman import ReleaseError, SynthHuman, framing_of, path_of, read_sample, write_release

SIZE = (24, 18)


def person(seed: int = 0, size: tuple[int, int] = SIZE, **changes) -> Sample:
    """A ball in the middle: it has every label, and depth and normals that belong together."""
    rng, (height, width) = np.random.default_rng(seed), size
    K = np.array([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]])
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    ray = np.stack([(u - width / 2) / 40, (v - height / 2) / 40, np.ones(size)])  # of each pixel
    radius, centre, square = 0.3, 2.0, (ray**2).sum(0)
    root = centre**2 - square * (centre**2 - radius**2)
    there = root > 0
    z = np.where(there, (centre - np.sqrt(root.clip(0))) / square, np.inf)
    normals = np.where(there, ray * np.where(there, z, 0) - np.array([0, 0, centre])[:, None, None], 0) / radius
    fields = {
        "image": rng.random((3, *size)),
        "alpha": there * rng.uniform(0.6, 1, size),
        "depth": z,
        "normals": normals * np.array([1, -1, -1])[:, None, None],
        "K": K,
    }
    return Sample(key=f"{seed:07d}", **{k: values.astype(np.float32) for k, values in fields.items()} | changes)


def nobody(size: tuple[int, int] = SIZE) -> Sample:
    zeros = np.zeros(size, np.float32)
    return person(size=size, alpha=zeros, depth=zeros + np.inf, normals=np.stack([zeros] * 3))


@pytest.fixture
def folder(tmp_path):
    """Three samples, 0 to 2."""
    write_release(tmp_path / "release", [person(seed) for seed in range(3)])
    return tmp_path / "release"


# ---------------------------------------------------------- the numbers
@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1e-6), (np.float16, 0.00126)])
def test_files_give_back_what_was_written(tmp_path, dtype, error):
    sample = person()
    write_release(tmp_path, [sample], first=98_040, dtype=dtype)
    found = read_sample(tmp_path, 98_040)
    known = np.isfinite(sample.depth)
    assert (found.key, found.source) == ("0098040", "synthhuman") and known.any() and not known.all()
    assert np.array_equal(np.isfinite(found.depth), known)
    assert np.abs(found.depth[known] - sample.depth[known]).max() <= error
    assert np.abs(found.image - sample.image).max() <= 0.5 / 255 + 1e-6
    assert np.abs(found.alpha - sample.alpha).max() <= 0.5 / 255 + 1e-6
    assert (found.normals * sample.normals).sum(0)[known].min() > 1 - 1e-5
    assert (found.normals[:, ~known] == 0).all() and np.array_equal(found.K, sample.K)


def test_the_files_are_those_of_the_release(tmp_path):
    sample = person()
    write_release(tmp_path, [sample], first=12)
    names = {"rgb_0000012.png", "alpha_0000012.png", "depth_0000012.exr", "normal_0000012.exr", "cam_0000012.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert Image.open(tmp_path / "alpha_0000012.png").mode == "L"
    assert Image.open(tmp_path / "rgb_0000012.png").size == (18, 24)
    depth = OpenEXR.File(str(tmp_path / "depth_0000012.exr"), separate_channels=True).channels()
    (values,) = [channel.pixels for channel in depth.values()]
    assert values[0, 0] == 65504 and values[12, 9] == pytest.approx(100 * sample.depth[12, 9])  # cm
    normal = OpenEXR.File(str(tmp_path / "normal_0000012.exr"), separate_channels=True).channels()
    for name, plane in zip("RGB", sample.normals, strict=True):
        assert np.array_equal(normal[name].pixels, plane)
    assert np.array_equal(np.loadtxt(tmp_path / "cam_0000012.txt"), sample.K)


def test_the_source_is_left_alone(tmp_path):
    sample = person()
    before = {name: getattr(sample, name).copy() for name in ("image", "alpha", "depth", "normals", "K")}
    write_release(tmp_path, [sample])
    for name, values in before.items():
        assert np.array_equal(getattr(sample, name), values)
    stamps = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    SynthHuman(tmp_path)[0]
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()} == stamps


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1), (-1, 1, -1)])
def test_signs_of_the_axes_can_be_told_and_are_found(tmp_path, signs):
    write_release(tmp_path, [person(size=(48, 36))], signs=signs)
    agreement = david.axes_agreement(vars(read_sample(tmp_path, 0)))
    assert (np.abs(agreement).argmax(1) == [0, 1, 2]).all() and (np.sign(np.diag(agreement)) == signs).all()
    right = read_sample(tmp_path, 0, signs)
    assert np.diag(david.axes_agreement(vars(right))).min() > 0.9
    reversed_ = dataclasses.replace(right, normals=right.normals[::-1].copy())  # as OpenCV reads it
    assert (np.abs(david.axes_agreement(vars(reversed_))).argmax(1) == [2, 1, 0]).all()


def test_axes_need_people():
    with pytest.raises(ValueError, match="0 pixels with depth and normals are too few"):
        david.axes_agreement(david.from_release(david.to_release(nobody())))


def test_a_picture_of_nobody(tmp_path):
    write_release(tmp_path, [nobody()])
    found = read_sample(tmp_path, 0)
    assert np.isinf(found.depth).all() and (found.normals == 0).all() and (found.alpha == 0).all()
    assert (david.packed(found)["depth"] == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": None}, "sample 0000000 has no alpha"),
        ({"K": None}, "has no K"),
        ({"depth": np.ones((5, 5), np.float32)}, r"image is \(24, 18\), but depth is \(5, 5\)"),
        ({"normals": np.full((3, *SIZE), np.nan, np.float32)}, "normals has NaN"),
        ({"image": np.full((3, *SIZE), np.nan, np.float32)}, "image has NaN"),
    ],
)
def test_what_is_not_to_be_written_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_release(tmp_path, [dataclasses.replace(person(), **changes)])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------- what is broken
@pytest.mark.parametrize("name", list(synthhuman.ENDINGS))
def test_a_missing_file_is_named(folder, name):
    path_of(folder, name, 1).unlink()
    with pytest.raises(ReleaseError, match=f"{name}_0000001.* missing: a sample has five files"):
        SynthHuman(folder)
    with pytest.raises(ReleaseError, match=f"{name}_0000001.* is missing"):
        read_sample(folder, 1)


@pytest.mark.parametrize("name", ["rgb", "alpha", "depth", "normal"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_a_cut_file_is_named(folder, name, share):
    path = path_of(folder, name, 1)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ReleaseError, match=f"{name}_0000001.*cannot be read"):
        SynthHuman(folder)[1]
    assert SynthHuman(folder)[2].key == "0000002"


def wrong(**arrays) -> dict[str, np.ndarray]:
    return david.to_release(person()) | arrays


BROKEN = {
    "small alpha": ({"alpha": np.zeros((9, 9), np.uint8)}, r"alpha_.*\(24, 18\) uint8 was expected, found \(9, 9\)"),
    "small depth": ({"depth": np.ones((9, 9), np.float32)}, r"depth_.*\(24, 18\) float was expected, found \(9, 9\)"),
    "grey picture": ({"rgb": np.zeros(SIZE, np.uint8)}, r"rgb_.*\(24, 18, 3\) uint8 was expected, found \(24, 18\)"),
    "alpha in colour": ({"alpha": np.zeros((*SIZE, 3), np.uint8)}, r"alpha_.*found \(24, 18, 3\)"),
    "alpha of 16 bits": ({"alpha": np.zeros(SIZE, np.uint16)}, "alpha_.*uint8 was expected, found .*uint16"),
    "normals of one channel": ({"normal": np.ones(SIZE, np.float32)}, r"normal_.*\(24, 18, 3\) float was expected"),
    "depth of three": ({"depth": np.ones((*SIZE, 3), np.float32)}, r"depth_.*found \(24, 18, 3\)"),
    "NaN in the depth": ({"depth": np.full(SIZE, np.nan, np.float32)}, "depth_.*numbers were expected, found NaN"),
    "NaN in the normals": ({"normal": np.full((*SIZE, 3), np.nan, np.float32)}, "normal_.*found NaN"),
    "NaN in the camera": ({"cam": np.full((3, 3), np.nan)}, "cam_.*found NaN"),
    "a camera of 3 x 4": ({"cam": np.ones((3, 4))}, r"cam_.*\(3, 3\) float was expected, found \(3, 4\)"),
    "a depth of 0": ({"depth": np.zeros(SIZE, np.float32)}, "sample 0000001: depth: centimetres above 0 were expected"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_file_is_named_with_what_was_expected_and_found(folder, case):
    arrays, message = BROKEN[case]
    for name, values in arrays.items():
        synthhuman.write_file(path_of(folder, name, 1), values)
    with pytest.raises(ReleaseError, match=message):
        SynthHuman(folder)[1]


def test_a_camera_of_words_is_named(folder):
    path_of(folder, "cam", 0).write_text("focal length 40")
    with pytest.raises(ReleaseError, match="cam_0000000.txt cannot be read"):
        SynthHuman(folder)[0]


def test_channels_of_another_name_are_refused(folder):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    planes = {name: np.ones(SIZE, np.float32) for name in "UVW"}
    OpenEXR.File(header, planes).write(str(path_of(folder, "normal", 0)))
    with pytest.raises(ReleaseError, match="one channel or R, G, B were expected, found U, V, W"):
        SynthHuman(folder)[0]


def test_infinite_depth_is_nobody(folder):
    synthhuman.write_file(path_of(folder, "depth", 0), np.full(SIZE, np.inf, np.float32))
    assert np.isinf(SynthHuman(folder)[0].depth).all()


# ---------------------------------------------------------- many
def test_indices_may_have_gaps_and_are_chosen(tmp_path):
    for first in (98_039, 198_014):  # the last face; the last two full bodies and the first upper body
        write_release(tmp_path, [person(seed) for seed in range(2 if first < 100_000 else 3)], first)
    (tmp_path / "LICENSE.txt").write_text("CDLA")
    everybody = SynthHuman(tmp_path)
    assert everybody.indices == [98_039, 98_040, 198_014, 198_015, 198_016]
    assert [everybody[i].key for i in (0, -1)] == ["0098039", "0198016"]
    assert SynthHuman(tmp_path, ("full", "upper")).indices == [98_040, 198_014, 198_015, 198_016]
    assert SynthHuman(tmp_path, limit=2).indices == [98_039, 198_014]
    assert len(SynthHuman(tmp_path, limit=99)) == 5
    with pytest.raises(ValueError, match="no framing is called 'hand'"):
        SynthHuman(tmp_path, ("hand",))
    with pytest.raises(ValueError, match="limit=0"):
        SynthHuman(tmp_path, limit=0)
    with pytest.raises(IndexError):
        everybody[5]


def test_framings_are_those_of_the_release():
    found = [framing_of(index) for index in (0, 98_039, 98_040, 198_015, 198_016, 298_007)]
    assert found == ["face", "face", "full", "full", "upper", "upper"]
    assert sum(map(len, synthhuman.FRAMINGS.values())) == 298_008
    for index in (-1, 298_008):
        with pytest.raises(ValueError, match="0 to 298007"):
            framing_of(index)


def test_a_folder_without_samples_says_what_to_do(tmp_path):
    with pytest.raises(ReleaseError, match="found none: unpack the archives there"):
        SynthHuman(tmp_path)
    write_release(tmp_path, [person()])
    with pytest.raises(ReleaseError, match="samples of upper were expected, found none"):
        SynthHuman(tmp_path, ("upper",))


def test_a_kill_in_the_midst_leaves_whole_files_and_the_next_call_goes_on(tmp_path, monkeypatch):
    people, right, written = [person(seed) for seed in range(3)], Image.Image.save, []
    write_release(tmp_path / "whole", people)

    def killed(image, path, *arguments, **options):
        if len(written) == 3:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        return right(image, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_release(tmp_path / "parts", people)
    monkeypatch.setattr(Image.Image, "save", right)
    (tmp_path / "parts" / ".depth_0000002.exr.77.tmp").write_bytes(b"half")  # of a process that had no time to clean up
    kept = path_of(tmp_path / "parts", "normal", 0).stat().st_mtime_ns
    assert write_release(tmp_path / "parts", people) == 2  # the second, which has a file already, and the third
    assert path_of(tmp_path / "parts", "normal", 0).stat().st_mtime_ns == kept
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "parts")]
    assert files[0] == files[1] and len(files[0]) == 15


# ---------------------------------------------------------- training on it
def test_the_release_becomes_shards_and_streams(folder, tmp_path):
    out = synthhuman.to_shards(SynthHuman(folder), tmp_path / "shards", per_shard=2, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "3 of 3 pictures in 2 shards" in shards.info(out) and shards.read_manifest(out)["complete"]
    read, source = list(shards.read(out)), SynthHuman(folder)
    assert [sample.key for sample in read] == [sample.key for sample in source]
    known = np.isfinite(source[1].depth)
    assert np.abs(read[1].depth[known] - source[1].depth[known]).max() < 1e-4
    (out / "shard-000001.tar").unlink()
    synthhuman.to_shards(source, out, per_shard=2, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(MakeError, match="signs is .*holds other data|holds other data: signs"):
        synthhuman.to_shards(SynthHuman(folder, signs=(1, -1, -1)), out, per_shard=2, progress=False)
    stream = ShardStream(out, prepare=david.prepare(david.Augmentation(), (16, 12)))
    batches = stream.batches(0, 2)
    skipped, batch = next(batches), next(batches)
    assert batch["image"].shape == (2, 3, 16, 12) and batch["depth"].shape == (2, 16, 12)
    again = next(stream.batches(1, 2))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(skipped["image"], batch["image"])


def test_a_broken_sample_stops_the_way_into_shards_and_it_goes_on(folder, tmp_path):
    path = path_of(folder, "depth", 2)
    data = path.read_bytes()
    path.write_bytes(data[:40])
    with pytest.raises(ReleaseError, match="depth_0000002"):
        synthhuman.to_shards(SynthHuman(folder), tmp_path / "shards", per_shard=1, progress=False)
    path.write_bytes(data)
    kept = (tmp_path / "shards" / "shard-000000.tar").stat().st_mtime_ns
    out = synthhuman.to_shards(SynthHuman(folder), tmp_path / "shards", per_shard=1, progress=False)
    assert (out / "shard-000000.tar").stat().st_mtime_ns == kept and shards.read_manifest(out)["complete"]


def test_the_release_trains_from_memory(folder):
    rows = [david.packed(sample) for sample in SynthHuman(folder)]
    tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    batch = next(TensorStream(tensors, transform=david.transform(david.Augmentation(), (16, 12))).batches(0, 4))
    assert {name: tuple(values.shape[1:]) for name, values in batch.items()} == {
        "image": (3, 16, 12), "alpha": (16, 12), "depth": (16, 12), "normals": (3, 16, 12)
    }  # fmt: skip

"""MPI-INF-3DHP and MuPoTS-3D: small data in their layouts, and the same broken."""

import json
import os

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from real_files import Broken, assert_good, assert_no_source, assert_refused, assert_set_aside, run, script, truncate
from scipy.io import savemat

from course_lib.data import shards
from course_lib.real import overlay
from course_lib.real.checks import SourceError
from course_lib.real.lens import distorted, pinhole
from course_lib.real.matlab import cells, read_hdf5, read_mat, reader
from course_lib.real.safe import UnsafeFile

tdhp, mupots = script("mpi_inf_3dhp"), script("mupots")
K = np.array([[1500.0, 0, 1024], [0, 1500, 1030], [0, 0, 1]])
FRAMES = 6


def cell(parts):
    """A column of cells."""
    found = np.empty((len(parts), 1), object)
    found[:, 0] = parts
    return found


def people(count, joints, seed=0, far=4000):
    """(count, joints, 3) millimetres before a camera: taller than wide, y down."""
    rng = np.random.default_rng(seed)
    return rng.uniform((-300, -900, far - 300), (300, 900, far + 300), (count, joints, 3))


def dots(path, spots, size, background=(30, 50, 70)):
    """A picture with white dots."""
    image = Image.new("RGB", size, background)
    for x, y in spots:
        ImageDraw.Draw(image).ellipse((x - 20.5, y - 20.5, x + 19.5, y + 19.5), fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def assert_on_dots(sample, name="3dhp17"):
    for x, y in sample.people[0].keypoints[name].points_2d:
        assert sample.image[:, int(y), int(x)].min() > 0.8


# ---------------------------------------------------------------- 3DHP, training
def calibration(scale=1.0, cameras=14):
    text = "Skeletool Camera Calibration File V1.0\n"
    for number in range(cameras):
        turn = np.eye(4)
        turn[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
        turn[:3, 3] = np.array([100.0, 1200.0, 3500.0 + number]) * scale
        inner = np.eye(4)
        inner[:3, :3] = K
        lines = [f"name          {number}", "  sensor      10 10", "  size        2048 2048", "  animated    0"]
        lines += [f"  {key}   " + " ".join(f"{v:.9g}" for v in m.ravel()) + " " for key, m in
                  (("intrinsic", inner), ("extrinsic", turn))]  # fmt: skip
        text += "\n".join([*lines, "  radial      0"]) + "\n"
    return text


def write_training(root, change=lambda table: None):
    """annot.mat as the release has it: 14 cells a key, a row per frame."""
    joints = [people(FRAMES, 28, 0) for _ in range(14)]
    spots = [pinhole(each, K) for each in joints]
    table = {"annot2": cell([each.reshape(FRAMES, 56) for each in spots]),
             "annot3": cell([each.reshape(FRAMES, 84) for each in joints]),
             "univ_annot3": cell([0.9 * each.reshape(FRAMES, 84) for each in joints]),
             "frames": np.arange(FRAMES)[:, None], "cameras": np.arange(14)[None]}  # fmt: skip
    change(table)
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "annot.mat", table)
    return spots


@pytest.fixture
def training(tmp_path):
    folder = tmp_path / "3dhp/S1/Seq1"
    spots = write_training(folder)
    (folder / "camera.calibration").write_text(calibration())
    dots(folder / "imageSequence/img_0_000000.jpg", spots[0][0], (2048, 2048))
    return tmp_path / "3dhp"


def test_a_training_frame_becomes_a_sample(training, tmp_path, capsys):
    assert_good(tdhp.MpiInf3dhp, training, tmp_path / "out", capsys, "--limit", "1", "--size", "512")
    (sample,) = shards.read(tmp_path / "out")
    assert sample.key == "S1-Seq1-0-000000" and sample.scene == 11
    assert overlay.reprojection(sample) < 0.01
    assert_on_dots(sample)
    assert_on_dots(sample, "3dhp28")
    world = sample.people[0].keypoints["3dhp28"].points_3d
    assert np.allclose(world @ sample.R.T + sample.t, people(FRAMES, 28)[0] / 1000, atol=1e-4)
    assert [tdhp.NAMES_28[n] for n in tdhp.TO_17] == list(tdhp.NAMES_17)


def test_universal_joints(training, tmp_path, capsys):
    assert run(tdhp.MpiInf3dhp, training, tmp_path / "out", "--limit", "1", "--universal", "--size", "64") == 0
    (sample,) = shards.read(tmp_path / "out")
    world = sample.people[0].keypoints["3dhp28"].points_3d
    assert np.allclose(world @ sample.R.T + sample.t, 0.9 * people(FRAMES, 28)[0] / 1000, atol=1e-4)


def test_without_a_source(tmp_path, capsys):
    for source in (tdhp.MpiInf3dhp, mupots.Mupots):
        (tmp_path / source.name).mkdir()
        assert_no_source(source, tmp_path / source.name, capsys)


def test_frames_that_were_not_taken_out_are_set_aside(training, tmp_path, capsys):
    words = ("S1/Seq1/imageSequence/img_1_000005.jpg is not there",)
    assert run(tdhp.MpiInf3dhp, training, tmp_path / "out", "--tolerate", "1", "--size", "64") == 0
    assert words[0] in (tmp_path / "out/report.json").read_text()


def each_cell(key, function):
    def change(table):
        table[key] = cell([function(part) for part in table[key][:, 0]])

    return lambda root: write_training(root / "S1/Seq1", change)


MAT, CAL = "S1/Seq1/annot.mat", "S1/Seq1/camera.calibration"
SWAP = np.arange(84).reshape(28, 3)[:, [0, 2, 1]].ravel()
TRAINING = [
    Broken("truncated", lambda r: truncate(r / MAT), ("annot.mat can't be read",)),
    Broken("missing key", lambda r: write_training(r / "S1/Seq1", lambda t: t.pop("annot3")), ("annot3", "missing")),
    Broken("no cells", lambda r: write_training(r / "S1/Seq1", lambda t: t.update(annot2=np.zeros((14, 56)))),
           ("annot2", "cell array")),
    Broken("13 cameras", lambda r: write_training(r / "S1/Seq1", lambda t: t.update(annot2=t["annot2"][:13])),
           ("annot2", "14 cameras")),
    Broken("metres", each_cell("annot3", lambda a: a / 1000), ("annot3", "they look like metres")),
    Broken("NaN", each_cell("annot3", lambda a: a * np.where(np.arange(84) == 9, np.nan, 1)), ("annot3", "NaN")),
    Broken("joints first", each_cell("annot3", lambda a: a.T), ("annot3", "axes swapped")),
    Broken("y and z swapped", each_cell("annot3", lambda a: a[:, SWAP]), ("annot3", "axes swapped")),
    Broken("other labels", each_cell("annot2", lambda a: a + 300), ("annot3 before camera 0", "pixels of their")),
    Broken("calibration in metres", lambda r: (r / CAL).write_text(calibration(1e-3)), ("extrinsic", "metres")),
    Broken("calibration cut", lambda r: truncate(r / CAL), (CAL,)),
    Broken("no numbers", lambda r: (r / CAL).write_text(calibration().replace("1024", "10.2.4", 1)), ("10.2.4",)),
    Broken("few cameras", lambda r: (r / CAL).write_text(calibration(cameras=3)), ("14 cameras", "3")),
    Broken("no calibration", lambda r: (r / CAL).unlink(), ("camera.calibration",)),
]  # fmt: skip


@pytest.mark.parametrize("version", TRAINING, ids=lambda version: version.name)
def test_broken_training_files_are_refused(training, tmp_path, capsys, version):
    version.apply(training)
    assert_refused(tdhp.MpiInf3dhp, training, tmp_path / "out", capsys, version.words)


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(at=st.floats(0, 1), length=st.integers(0, 400), put=st.text("0123456789.- \nnamesize", max_size=6))
def test_a_changed_calibration_gives_cameras_or_an_error_in_words(tmp_path, at, length, put):
    text = calibration()
    start = int(at * len(text))
    (tmp_path / "camera.calibration").write_text(text[:start] + put + text[start + length :])
    try:
        cameras = tdhp.read_calibration.__wrapped__(tmp_path / "camera.calibration")
        assert len(cameras) == 14 and all(np.isfinite(each["K"]).all() for each in cameras)
    except SourceError as error:
        assert "camera.calibration" in str(error)


@QUICK
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), short=st.booleans())
def test_a_changed_mat_file_gives_labels_or_an_error_in_words(training, at, flip, short):
    path = training / "S1/Seq1/annot.mat"
    whole = path.read_bytes()
    data = bytearray(whole[: int(at * len(whole))] if short else whole)
    if not short:
        data[int(at * len(data))] ^= flip
    try:
        path.write_bytes(data)
        labels = tdhp.read_training.__wrapped__(path)
        assert np.isfinite(labels["annot3"][0]).all()
    except SourceError as error:
        assert "annot.mat" in str(error)
    finally:
        path.write_bytes(whole)


# ---------------------------------------------------------------- 3DHP, test
def write_test(path, number, change=lambda table: None):
    """annot_data.mat: HDF5, the second frame marked as not valid."""
    view = tdhp.camera_of_test(number)
    joints = people(3, 17, number)
    spots = distorted(pinhole(joints, view["K"]), view["K"], view["lens"])
    table = {"annot2": spots[:, None], "annot3": joints[:, None], "univ_annot3": joints[:, None] * 0.9,
             "valid_frame": np.array([[1.0], [0], [1]]), "activity_annotation": np.ones((3, 1))}  # fmt: skip
    change(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in table.items():
            file[key] = value
    return spots


@pytest.mark.parametrize("number", [3, 5])
def test_a_test_frame_becomes_a_sample_without_distortion(tmp_path, capsys, number):
    folder = tmp_path / f"root/TS{number}"
    spots = write_test(folder / "annot_data.mat", number)
    size = tdhp.camera_of_test(number)["size"][::-1]
    for frame in (0, 2):
        dots(folder / f"imageSequence/img_{frame + 1:06d}.jpg", spots[frame], size)
    arguments = ("--split", "test", "--limit", "1", "--size", "512")
    assert run(tdhp.MpiInf3dhp, tmp_path / "root", tmp_path / "out", *arguments) == 0, capsys.readouterr().err
    (sample,) = shards.read(tmp_path / "out")
    assert sample.frame == 0 and sample.scene == number and overlay.reprojection(sample) < 0.01
    assert_on_dots(sample)
    assert run(tdhp.MpiInf3dhp, tmp_path / "root", None, "--check", "--split", "test") == 0
    assert "2 items" in capsys.readouterr().out


TESTS = [
    Broken("truncated", lambda p: truncate(p), ("annot_data.mat can't be read",)),
    Broken("missing key", lambda p: write_test(p, 3, lambda t: t.pop("valid_frame")), ("valid_frame", "missing")),
    Broken("metres", lambda p: write_test(p, 3, lambda t: t.update(annot3=t["annot3"] / 1000)), ("annot3", "metres")),
    Broken("MATLAB's own axes", lambda p: write_test(p, 3, lambda t: t.update(annot3=t["annot3"].T)),
           ("annot3", "axes swapped")),
    Broken("NaN", lambda p: write_test(p, 3, lambda t: t.update(annot3=t["annot3"] * np.nan)), ("annot3", "NaN")),
    Broken("other camera", lambda p: write_test(p, 5), ("annot3 before the camera", "pixels of their")),
]  # fmt: skip


@pytest.mark.parametrize("version", TESTS, ids=lambda version: version.name)
def test_broken_test_files_are_refused(tmp_path, capsys, version):
    path = tmp_path / "root/TS3/annot_data.mat"
    write_test(path, 3)
    version.apply(path)
    assert_refused(tdhp.MpiInf3dhp, tmp_path / "root", tmp_path / "out", capsys, version.words, "--split", "test")


def test_hdf5_that_points_elsewhere_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["real"] = np.arange(3.0)
        file["outside"] = h5py.ExternalLink("/etc/passwd", "/x")
        file["linked"] = h5py.SoftLink("/real")
        file.create_dataset("raw", (4,), "u1", external=[(str(tmp_path / "b"), 0, 4)])
        file.create_dataset("huge", (2**40,), "f8", chunks=(2**10,))
    for key in ("linked", "raw", "huge"):
        with pytest.raises(UnsafeFile, match=f"a.mat: {key} .*refused"):
            read_hdf5(tmp_path / "a.mat", (key,))
    with pytest.raises(SourceError, match="a.mat"):
        read_hdf5(tmp_path / "a.mat", ("outside",))
    assert read_hdf5(tmp_path / "a.mat", ("real", "nothing"))["real"].tolist() == [0, 1, 2]


# ---------------------------------------------------------------- MuPoTS-3D
KIND = [("annot2", object), ("annot3", object), ("univ_annot3", object), ("isValidFrame", object)]
CAMERA = np.array([[1480.0, 0, 1010], [0, 1490, 500], [0, 0, 1]])


def write_mupots(root, change=lambda person: person):
    """annot.mat: frames x people of structs in cells; the second person's second frame is not valid."""
    found = np.empty((2, 2), object)
    for frame, number in np.ndindex(2, 2):
        joints = people(1, 17, 10 * frame + number, 4000)[0] + (600 * (2 * number - 1), 0, 0)
        joints = joints * (1, 0.5, 1)
        person = {"annot2": pinhole(joints, CAMERA).T, "annot3": joints.T, "univ_annot3": 0.95 * joints.T,
                  "isValidFrame": np.uint8([[int((frame, number) != (1, 1))]])}  # fmt: skip
        person = change(person)
        found[frame, number] = person
    folder = root / "TS1"
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "annot.mat", {"annotations": found})
    for frame in (0, 1):
        spots = pinhole(people(1, 17, 10 * frame)[0] * (1, 0.5, 1) + (-600, 0, 0), CAMERA)
        dots(folder / f"img_{frame:06d}.jpg", spots, (2048, 1000))


@pytest.fixture
def crowd(tmp_path):
    write_mupots(tmp_path / "mupots")
    return tmp_path / "mupots"


def test_frames_with_two_people(crowd, tmp_path, capsys):
    assert_good(mupots.Mupots, crowd, tmp_path / "out", capsys, "--size", "512")
    first, second = shards.read(tmp_path / "out")
    assert (len(first.people), len(second.people)) == (2, 1) and first.scene == 1
    assert np.allclose(first.K[:2] * 4, CAMERA[:2], atol=0.5) and overlay.reprojection(first) < 0.5
    assert_on_dots(first)


def test_a_given_camera_is_used_if_it_fits(crowd, tmp_path, capsys):
    (crowd / "camera_intrinsics.json").write_text(json.dumps({"TS1": CAMERA.tolist()}))
    assert run(mupots.Mupots, crowd, tmp_path / "out", "--size", "128") == 0
    (crowd / "camera_intrinsics.json").write_text(
        json.dumps({"TS1": (CAMERA * [[2, 1, 1], [1, 2, 1], [1, 1, 1]]).tolist()})
    )
    assert_refused(mupots.Mupots, crowd, tmp_path / "out2", capsys, ("TS1", "pixels of their projections"))


def changed_key(key, function):
    return lambda root: write_mupots(root, lambda person: person | {key: function(person[key])})


VERSIONS = [
    Broken("truncated", lambda r: truncate(r / "TS1/annot.mat"), ("annot.mat can't be read",)),
    Broken("missing key", lambda r: write_mupots(r, lambda p: {k: v for k, v in p.items() if k != "annot3"}),
           ("annotations[0, 0]", "annot3", "missing")),
    Broken("no structs", lambda r: savemat(r / "TS1/annot.mat", {"annotations": np.zeros((2, 2))}), ("a struct",)),
    Broken("another variable", lambda r: savemat(r / "TS1/annot.mat", {"x": 1}), ("annotations", "missing")),
    Broken("metres", changed_key("annot3", lambda a: a / 1000), ("annot3", "they look like metres")),
    Broken("NaN", changed_key("annot3", lambda a: a * np.nan), ("annot3", "NaN")),
    Broken("joints first", changed_key("annot3", lambda a: a.T), ("annot3", "axes swapped")),
    Broken("z first", changed_key("annot3", lambda a: a[[2, 1, 0]]), ("annot3", "axes swapped")),
    Broken("other labels", changed_key("annot2", lambda a: np.random.default_rng(1).uniform(0, 1000, a.shape)),
           ("annot2", "pixels of their")),
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_broken_sequences_are_refused(crowd, tmp_path, capsys, version):
    version.apply(crowd)
    assert_refused(mupots.Mupots, crowd, tmp_path / "out", capsys, ("TS1", *version.words))


def test_broken_pictures_and_odd_names_are_set_aside(crowd, tmp_path, capsys):
    truncate(crowd / "TS1/img_000000.jpg", 0.01)
    (crowd / os.fsdecode(b"TS\xff")).mkdir()
    (crowd / os.fsdecode(b"TS\xff/annot.mat")).write_bytes(b"no")
    assert_set_aside(
        mupots.Mupots, crowd, tmp_path / "out", capsys, ("TS1-000000", "TS\\xff/annot.mat"), "--size", "64"
    )


# ---------------------------------------------------------------- MATLAB's files
def test_what_mat_files_hold(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.arange(3.0), "c": cell([np.ones(2), np.zeros(3)]), "other": 1})
    table = read_mat(tmp_path / "a.mat", ("x", "c"))
    assert set(table) == {"x", "c"} and [part.size for part in cells(table, "a", "c")] == [2, 3]
    with pytest.raises(SourceError, match="a cell array"):
        cells(table, "a", "x")
    (tmp_path / "b.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(105) + b"\x00\x02IM" + bytes(100))
    with pytest.raises(SourceError, match="7.3"):
        read_mat(tmp_path / "b.mat", ("x",))
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as file:
        file["x"] = np.arange(3.0)
    assert read_hdf5(tmp_path / "c.mat", ("x", "y"))["x"].tolist() == [0, 1, 2]


def test_a_package_that_is_not_there_is_asked_for():
    with pytest.raises(SourceError, match=r"take the package nobodys_reader: run `pip install -e '\.\[real\]'`"):
        reader("nobodys_reader")

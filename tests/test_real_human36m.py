"""Human3.6M: small data in the release's layout, and the same broken."""

import os

import numpy as np
import pytest
import torch
from cdflib import cdfwrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from real_files import Broken, assert_good, assert_no_source, assert_refused, assert_set_aside, run, script, truncate
from scipy.spatial.transform import Rotation

from course_lib.chapters.mpt_pretraining import H36M_CAMERAS, H36M_TO_COURSE, h36m_cameras, quaternion_to_matrix
from course_lib.data import shards
from course_lib.data.keypoints import FORMATS
from course_lib.real import overlay
from course_lib.real.checks import SourceError
from course_lib.real.lens import distorted, undistorted

h36m = script("human36m")
LENS = (-0.2071, 0.2478, -0.0031, -0.00098, -0.00142)  # k1 k2 k3 p1 p2 of the first camera, as the release has them
FRAMES = 6


def write_cdf(path, values, name="Pose"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    file = cdfwrite.CDF(path, {"Encoding": 6, "Majority": "row_major", "rDim_sizes": []})
    spec = {"Variable": name, "Data_Type": 21, "Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": list(values.shape[1:])}
    file.write_var(spec, var_data=values.astype(np.float32))
    file.close()


def positions(seed=0):
    """(1, N, 96) millimetres: somebody in the middle of the room, z up."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform((-90, -90, 0), (90, 90, 1700), (FRAMES, 32, 3))
    joints[:, h36m.HEAD, 2], joints[:, h36m.FEET, 2] = 1650, 80
    return joints.reshape(1, FRAMES, 96)


def metadata():
    outer, inner = np.zeros((4, 11, 6)), np.zeros((4, 9))
    for number, name in enumerate(h36m.CAMERAS):
        known = H36M_CAMERAS[name]
        R = quaternion_to_matrix(torch.tensor(known.quaternion, dtype=torch.float64)).T.numpy()
        outer[number, :, :3], outer[number, :, 3:] = Rotation.from_matrix(R).as_euler("XYZ"), known.place
        inner[number] = (*known.focal, *known.center, *LENS)
    return np.concatenate([outer.ravel(), inner.ravel()])


def write_metadata(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    words = " ".join(f"{number:.9g}" for number in numbers)
    path.write_text(f"<metadata><w0>[{words}]</w0></metadata>")


@pytest.fixture
def root(tmp_path):
    """Two actions of two subjects; pictures of one camera, white dots where the lens puts the joints."""
    root = tmp_path / "h36m"
    for subject, action in ((1, "Walking 1"), (9, "Greeting")):
        values = positions(subject)
        shift = 200 if subject == 9 else 0  # as the release has it: wrong
        write_cdf(root / f"S{subject}/MyPoseFeatures/D3_Positions/{action}.cdf", shifted(values, shift))
        joints = values.reshape(FRAMES, 32, 3) / 1000 @ np.array(H36M_TO_COURSE).T
        pixels = h36m_cameras(h36m.CAMERAS).project(torch.tensor(joints, dtype=torch.float32)[:1].expand(4, -1, -1))
        K = h36m_cameras(h36m.CAMERAS).K[0].numpy()
        spots = distorted(pixels[0].numpy(), K, np.array(LENS)[[0, 1, 3, 4, 2]])
        image = Image.new("RGB", (1000, 1002), (40, 60, 80))
        for x, y in spots:
            ImageDraw.Draw(image).ellipse((x - 5.5, y - 5.5, x + 4.5, y + 4.5), fill="white")
        folder = root / f"S{subject}/Images/{action}.54138969"
        folder.mkdir(parents=True)
        image.save(folder / "frame_000000.jpg")
    write_metadata(root / "Release-v1.2/metadata.xml", metadata())
    return root


def shifted(values, by):
    return (values.reshape(-1, 3) + (by, 0, 0)).reshape(values.shape)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_frame_becomes_a_sample_whose_camera_and_joints_agree(root, tmp_path, capsys, split):
    assert run(h36m.Human36M, root, tmp_path / "out", "--tolerate", "1", "--split", split) == 0, capsys.readouterr().err
    (sample,) = shards.read(tmp_path / "out")
    assert overlay.reprojection(sample) < 0.01
    points = sample.people[0].keypoints["h36m17"]
    assert (
        points.points_3d.shape == (17, 3) and 0 <= points.points_3d[:, 1].min() and points.points_3d[:, 1].max() < 1.7
    )
    for x, y in points.points_2d:  # the dots were put where the lens had them: they must be where K says
        assert sample.image[:, int(y), int(x)].min() > 0.8
    assert len(h36m.NAMES_25) == len(h36m.JOINTS["h36m25"]) and len(FORMATS["h36m17"]) == len(h36m.JOINTS["h36m17"])
    camera = h36m_cameras(h36m.CAMERAS)
    assert np.allclose(sample.R, camera.R[0], atol=1e-5) and np.allclose(sample.t, camera.t[0], atol=1e-4)


def test_without_a_source(tmp_path, capsys):
    assert_no_source(h36m.Human36M, tmp_path, capsys)


def test_frames_that_were_not_taken_out_are_set_aside(root, tmp_path, capsys):
    words = ("S1-Walking_1-55011271-000000", "frame_000000.jpg is not there")
    words = ("Images/Walking 1.55011271/frame_000000.jpg is not there",) + words[1:]
    assert_set_aside(h36m.Human36M, root, tmp_path / "out", capsys, words)


def test_one_item_a_whole_run(root, tmp_path, capsys):
    for name in h36m.CAMERAS[1:]:
        folder = root / f"S1/Images/Walking 1.{name}"
        folder.mkdir()
        height = h36m.HEIGHTS[h36m.CAMERAS.index(name)]
        Image.new("RGB", (1000, height)).save(folder / "frame_000000.jpg")
    assert_good(h36m.Human36M, root, tmp_path / "out", capsys, "--step", "6", "--size", "100", "--limit", "1")


CDF, XML = "S1/MyPoseFeatures/D3_Positions/Walking 1.cdf", "Release-v1.2/metadata.xml"
AS_FRAMES = positions(1).reshape(FRAMES, 32, 3)
VERSIONS = [
    Broken("truncated", lambda r: truncate(r / CDF), ("Walking 1.cdf can't be read",)),
    Broken("empty file", lambda r: (r / CDF).write_bytes(b""), ("Walking 1.cdf", "empty file")),
    Broken("missing key", lambda r: write_cdf(r / CDF, positions(), "Other"), ("Pose", "Other")),
    Broken("metres", lambda r: write_cdf(r / CDF, positions() / 1000), ("Pose", "they look like metres")),
    Broken("NaN", lambda r: write_cdf(r / CDF, positions() * np.where(np.arange(96) == 7, np.nan, 1)), ("Pose", "NaN")),
    Broken("swapped axes", lambda r: write_cdf(r / CDF, AS_FRAMES[..., [2, 1, 0]].reshape(1, FRAMES, 96)),
           ("Pose", "axes swapped")),
    Broken("frames last", lambda r: write_cdf(r / CDF, positions()[0].T), ("Pose", "axes swapped")),
    Broken("no cameras", lambda r: (r / XML).write_text("<metadata/>"), ("metadata.xml", "300 numbers")),
    Broken("few cameras", lambda r: write_metadata(r / XML, metadata()[:-1]), ("metadata.xml", "(299,)")),
    Broken("words", lambda r: (r / XML).write_text("<w0>[1 2 x]</w0>"), ("metadata.xml", "numbers")),
    Broken("degrees", lambda r: write_metadata(r / XML, metadata() * np.where(np.arange(300) % 6 < 3, 57.3, 1)),
           ("rotations", "degrees")),
    Broken("camera places in metres", lambda r: write_metadata(r / XML, metadata() * np.where(
        (np.arange(300) % 6 > 2) & (np.arange(300) < 264), 1e-3, 1)), ("places", "metres")),
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_broken_files_are_refused(root, tmp_path, capsys, version):
    version.apply(root)
    assert_refused(h36m.Human36M, root, tmp_path / "out", capsys, version.words)


def test_names_that_are_not_utf8_are_shown_and_left_alone(root, tmp_path, capsys):
    folder = root / "S1/MyPoseFeatures/D3_Positions"
    (folder / os.fsdecode(b"\xff\xfe.cdf")).write_bytes(b"x")
    assert_refused(h36m.Human36M, root, tmp_path / "out", capsys, ("\\xff\\xfe.cdf", "can't be read"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), length=st.integers(0, 400), put=st.text("0123456789.-e []<w>", max_size=6))
def test_changed_metadata_gives_cameras_or_an_error_in_words(tmp_path, at, length, put):
    path = tmp_path / "metadata.xml"
    write_metadata(path, metadata())
    text = path.read_text()
    start = int(at * len(text))
    path.write_text(text[:start] + put + text[start + length :])
    try:
        cameras = h36m.read_cameras.__wrapped__(path)
        assert len(cameras) == 28 and all(np.isfinite(each["t"]).all() for each in cameras.values())
    except SourceError as error:
        assert "metadata.xml" in str(error)


# ---------------------------------------------------------------- the lens
@settings(max_examples=25, deadline=None)
@given(st.floats(-0.25, 0.25), st.floats(-0.05, 0.05), st.integers(0, 63), st.integers(0, 47))
def test_a_picture_without_distortion_has_its_points_where_the_camera_says(k1, p1, column, row):
    K, lens = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), np.array([k1, 0, p1, 0, 0])
    y, x = np.mgrid[:48, :64] + 0.5
    image = np.stack([3 * x, 5 * y, 0 * x], -1).astype(np.uint8)  # a ramp: its colour says where a pixel was
    spot = distorted(np.array([column + 0.5, row + 0.5]), K, lens)
    found = undistorted(image, K, lens)[row, column]
    if (spot > 1).all() and (spot < (63, 47)).all():
        assert np.abs(found[:2] - spot * (3, 5)).max() < 4
    assert (undistorted(image, K, np.zeros(5)) == image).all()

"""Goliath: small captures with all cameras and frames of DAViD's Table 8, the table itself, and broken versions."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_files import assert_good, assert_no_source, assert_refused, assert_set_aside, edit_json, run, script, truncate
from test_real_thuman import a_box, ply

from course_lib.data import shards
from course_lib.real import overlay

goliath = script("goliath")
SUBJECTS = ("AXE977", "QZX685", "QVC422", "XKT970")
FILE = "camera_calibration.json"
FRAMES, CAMERAS = (202, 2944), (400001, 400002)
SMALL = ("--height", "64", "--subset", "full", "--subjects", "AXE977")


def write_table(path: Path, sure: str = "yes") -> Path:
    """A table as short as the capture below: one camera has no calibration for QZX685."""
    lines = ["subset,subject,kind,place,id,sure,note"]
    for subset in ("face", "full"):
        lines += [f"{subset},,camera,{n + 1},{camera},yes," for n, camera in enumerate(CAMERAS)]
        lines += [
            f"{subset},{s},frame,{n + 1},{f:05d},{sure},reads 00208" for s in SUBJECTS[:2] for n, f in enumerate(FRAMES)
        ]
    path.write_text("\n".join([*lines, "face,QZX685,missing,,400002,yes,no calibration"]) + "\n")
    return path


def a_camera(number: int) -> dict:
    """K and T as they are stored: transposed, millimetres, pixel centres at integers."""
    angle = number % 10
    place, forward = 3000 * np.array([np.sin(angle), 0, np.cos(angle)]), -np.array([np.sin(angle), 0, np.cos(angle)])
    R = np.stack([np.cross(forward, [0, 1, 0]), [0, -1, 0], forward])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ place
    K = np.array([[5000.0, 0, 1333.5], [0, 5000, 2047.5], [0, 0, 1]])
    return {"cameraId": str(number), "K": K.T.tolist(), "T": T.T.tolist()}


def picture(kind: str, person: bool) -> bytes:
    """2668 x 4096 made small; the mask is where the box (0.6 m wide, 1.6 m high) is from each camera, and more."""
    pixels = np.zeros((128, 83, 3), np.uint8)
    pixels[8:120, 10:73] = 255
    stream = io.BytesIO()
    image = (
        Image.fromarray(pixels)
        if kind == "AVIF"
        else Image.fromarray(pixels[..., 0] // 255 if person else pixels[..., 0] * 0)
    )
    image.save(stream, kind)
    return stream.getvalue()


def write_zip(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def a_scan(factor: float = 1.0) -> bytes:
    """A box of 1.6 metres, in millimetres."""
    vertices, quads = a_box((-300, -800, -200), (300, 800, 200), 2)
    faces = np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])
    return ply(vertices * factor, faces, "binary_little_endian 1.0")


def write_goliath(root: Path) -> Path:
    """Two subjects, a head and a body capture each."""
    image, mask = picture("AVIF", True), picture("PNG", True)
    for subject in SUBJECTS[:2]:
        for kind in ("Head", "Body"):
            folder = root / f"m--20230306--0707--{subject}--pilot--ProjectGoliath--{kind}"
            cameras = [n for n in CAMERAS if (subject, kind, n) != ("QZX685", "Head", 400002)]
            for camera in cameras:
                name = f"cam{camera}"
                write_zip(folder / f"image/{name}.zip", {f"{name}/{f:06d}.avif": image for f in FRAMES})
                write_zip(folder / f"segmentation_fgbg/{name}.zip", {f"{name}/{f:06d}.png": mask for f in FRAMES})
            write_zip(folder / "scan_mesh/scan_mesh.zip", {f"{f:06d}.ply": a_scan() for f in FRAMES})
            krt = {"KRT": [a_camera(n) for n in cameras]}
            (folder / FILE).write_text(json.dumps(krt))
    return root


@pytest.fixture
def table(tmp_path) -> tuple[str, str]:
    return "--table", str(write_table(tmp_path / "table.csv"))


BODY = "m--20230306--0707--AXE977--pilot--ProjectGoliath--Body"


def test_the_table_adds_up_to_the_papers_count():
    table = goliath.read_table(goliath.TABLE)
    counts = {}
    for subset in goliath.SUBSETS:
        cameras = goliath.rows_of(table, subset, "camera")
        frames = [len(goliath.rows_of(table, subset, "frame", subject)) for subject in SUBJECTS]
        missing = sum(len(goliath.rows_of(table, subset, "missing", s)) for s in SUBJECTS)
        assert len(cameras) == 12 and frames == [16] * 4
        counts[subset] = len(cameras) * sum(frames) - missing * 16
    assert counts == {"face": 736, "upper": 768, "full": 768} and sum(counts.values()) == 2272
    for row in table:
        assert row["sure"] in ("yes", "no") and bool(row["note"]) >= (row["sure"] == "no")
        assert row["id"].isdecimal() or row["sure"] == "no"
    for subset in goliath.SUBSETS:
        for subject in SUBJECTS:
            sure = [int(r["id"]) for r in goliath.rows_of(table, subset, "frame", subject) if r["sure"] == "yes"]
            assert sure == sorted(set(sure))


def test_garbled_numbers_are_asked_for(tmp_path, capsys):
    root = write_goliath(tmp_path / "root")
    words = ("garbled", "upper  camera 8: ? (reads +00727 and 400920)", "--table")
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, words, "--subset", "upper")
    words = ("captures: expected one head capture of QVC422",)
    table = write_table(tmp_path / "more.csv")
    table.write_text(table.read_text() + "face,QVC422,frame,1,00202,yes,\n")
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, words, "--table", str(table), "--subset", "face")
    unsure = write_table(tmp_path / "unsure.csv", "no")
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, ("00202 (reads 00208)",), "--table", str(unsure))
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    words = ("bad.csv: columns",)
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, words, "--table", str(tmp_path / "bad.csv"))


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(goliath.Goliath, tmp_path, capsys)


def test_pictures_become_samples_with_depth_and_normals_of_the_scan(tmp_path, table, capsys):
    root = write_goliath(tmp_path / "root")
    said = assert_good(goliath.Goliath, root, tmp_path / "out", capsys, *SMALL, *table)
    assert (said["groups"], said["samples"]) == (1, 4)
    sample = next(s for s in shards.read(tmp_path / "out") if s.key == "AXE977-full-400001-000202")
    assert (
        sample.image.shape == (3, 64, 42) and sample.source == "goliath/full" and sample.people[0].identity == "AXE977"
    )
    np.testing.assert_allclose(sample.K[:2, 2], [21, 32], atol=1e-5)
    assert sample.K[1, 1] == pytest.approx(5000 / 64)
    camera = np.array(a_camera(400001)["T"]).T
    np.testing.assert_allclose(sample.t, camera[:3, 3] / 1000, atol=1e-6)
    spots = overlay.project(a_box((-0.3, -0.8, -0.2), (0.3, 0.8, 0.2), 2)[0], sample)
    rows, columns = np.nonzero(np.isfinite(sample.depth))
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, [*spots.min(0), *spots.max(0)], atol=1.2)
    assert 2.4 < np.median(sample.depth[np.isfinite(sample.depth)]) < 3
    assert set(np.unique(sample.alpha)) == {0, 1} and sample.alpha.sum() > np.isfinite(sample.depth).sum()


def test_cameras_without_calibration_are_left_out(tmp_path, table, capsys):
    root = write_goliath(tmp_path / "root")
    assert run(goliath.Goliath, root, tmp_path / "out", "--height", "64", "--subset", "face", *table) == 0
    keys = {sample.key for sample in shards.read(tmp_path / "out")}
    assert len(keys) == 6 and not any(key.startswith("QZX685-face-400002") for key in keys)


def in_camera(key: str, change):
    """Changes K or T of the first camera."""

    def apply(folder: Path) -> None:
        def edit(table: dict) -> None:
            table["KRT"][0][key] = change(np.array(table["KRT"][0][key])).tolist()

        edit_json(folder / FILE, edit)

    return apply


def scaled_translation(T: np.ndarray) -> np.ndarray:
    T[3, :3] /= 1000
    return T


def with_nan(values: np.ndarray) -> np.ndarray:
    values[0, 0] = np.nan
    return values


CALIBRATIONS = {
    "truncated": (lambda folder: truncate(folder / FILE), ("can't be read",)),
    "missing key": (
        lambda f: edit_json(f / "camera_calibration.json", lambda t: t["KRT"][0].pop("K")),
        ("K", "missing"),
    ),
    "no KRT": (lambda f: edit_json(f / "camera_calibration.json", lambda t: t.pop("KRT")), ("KRT", "missing")),
    "metres": (in_camera("T", scaled_translation), ("T's length", "they look like metres")),
    "K not transposed": (in_camera("K", np.transpose), ("K (after it is transposed)", "transposed?")),
    "T not transposed": (in_camera("T", np.transpose), ("T", "not stored transposed?")),
    "NaN": (in_camera("K", with_nan), ("K", "NaN")),
    "swapped axes": (in_camera("T", lambda T: T[:, :3]), ("T", "the shape (4, 4)")),
    "mirror": (in_camera("T", lambda T: T * [[1], [1], [-1], [1]]), ("T", "mirror image")),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_broken_calibrations_are_refused(tmp_path, table, capsys, name):
    root = write_goliath(tmp_path / "root")
    change, words = CALIBRATIONS[name]
    change(root / BODY)
    words = ("camera_calibration.json", *words)
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, words, *SMALL, *table)


def test_pictures_and_scans_that_are_bad_are_set_aside(tmp_path, table, capsys):
    root = write_goliath(tmp_path / "root")
    folder = root / BODY
    image = picture("AVIF", True)
    write_zip(folder / "image/cam400001.zip", {"cam400001/000202.avif": image[: len(image) // 2]})
    write_zip(folder / "segmentation_fgbg/cam400002.zip", {"cam400002/002944.png": picture("PNG", False)})
    words = ("000202.avif can't be read", "with 002944.avif, found none", "of the scan on it")
    assert_set_aside(goliath.Goliath, root, tmp_path / "out", capsys, words, *SMALL, *table)
    for content, word in ((a_scan(0.001), "they look like metres"), (a_scan()[:999], "can't be read")):
        write_zip(folder / "scan_mesh/scan_mesh.zip", {"000202.ply": content})
        words = ("000202.ply", word, "scan_mesh.zip with 002944.ply, found none")
        assert_refused(goliath.Goliath, root, tmp_path / "no", capsys, words, *SMALL, *table)


def test_captures_that_are_there_twice_and_archives_that_are_cut(tmp_path, table, capsys):
    root = write_goliath(tmp_path / "root")
    truncate(root / BODY / "image/cam400001.zip")
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, ("cam400001.zip can't be read",), *SMALL, *table)
    (root / f"{BODY}Minimal").mkdir()
    (root / f"{BODY}Minimal/camera_calibration.json").write_text("{}")
    words = ("expected one body capture of AXE977", "--only chooses")
    assert_refused(goliath.Goliath, root, tmp_path / "out", capsys, words, *SMALL, *table)

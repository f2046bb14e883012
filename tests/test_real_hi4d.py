"""Hi4D: two boxes that stand close in the real layout, with the release's own misspelt key, and broken versions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_files import (
    assert_good,
    assert_no_source,
    assert_refused,
    assert_set_aside,
    broken_versions,
    edit_npz,
    picture,
    report,
    run,
    script,
    truncate,
)
from test_real_thuman import a_box, rewritten, write_obj

from course_lib.data import shards
from course_lib.real import lens, overlay

hi4d = script("hi4d")
WIDE, HIGH = 64, 48
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
IDS = (4, 16)
FIRST, LAST = 11, 12
CENTRES = (np.array([-0.3, 0.9, 0]), np.array([0.35, 0.9, 0.1]))


def a_camera(number: int) -> np.ndarray:
    """(3, 4): before the two, and at their side; y up."""
    angle = number * np.pi / 3
    place, forward = 4 * np.array([np.sin(angle), 0, np.cos(angle)]), -np.array([np.sin(angle), 0, np.cos(angle)])
    place[1] = 0.9
    R = np.stack([np.cross(forward, [0, 1, 0]), [0, -1, 0], forward])
    return np.concatenate([R, -(R @ place)[:, None]], 1)


def boxes() -> tuple[np.ndarray, np.ndarray]:
    """vertices (2, V, 3) and quads of one."""
    vertices, quads = a_box((-0.2, -0.85, -0.15), (0.2, 0.85, 0.15), 3)
    return np.stack([vertices + centre for centre in CENTRES]), quads


def a_fit(frame: int) -> dict[str, np.ndarray]:
    """smpl/000NNN.npz."""
    rng, vertices = np.random.default_rng(frame), boxes()[0]
    joints = np.stack([rng.uniform(v.min(0), v.max(0), (24, 3)) for v in vertices])
    fit = {"betas": rng.normal(size=(2, 10)), "body_pose": rng.normal(0, 0.3, (2, 69)), "verts": vertices}
    fit |= {"global_orient": rng.normal(0, 0.3, (2, 3)), "transl": np.array(CENTRES), "joints_3d": joints}
    return {name: a.astype(np.float32) for name, a in fit.items()} | {"contact": np.zeros((2, vertices.shape[1]))}


def draw_masks(folder: Path, frame: int, index: int) -> None:
    """Every pixel whose ray meets a box, by slabs: no rasteriser of ours."""
    camera = a_camera(index)
    R, place = camera[:, :3], -camera[:, :3].T @ camera[:, 3]
    y, x = np.mgrid[:HIGH, :WIDE]
    rays = np.stack([(x - 31.5) / 60, (y - 23.5) / 60, np.ones_like(x, float)], -1) @ R
    distances = []
    for centre in CENTRES:
        ends = (centre[:, None] + np.outer([0.2, 0.85, 0.15], [-1, 1]) - place[:, None])[None, None] / rays[..., None]
        near, far = ends.min(-1).max(-1), ends.max(-1).min(-1)
        distances.append(np.where(near < far, near, np.inf))
    nearest = np.argmin(distances, 0)
    for who in (0, 1):
        mask = np.isfinite(distances[who]) & (nearest == who)
        path = folder / f"seg/img_seg_mask/{IDS[index]}/{who}/{frame:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)


def write_hi4d(root: Path) -> Path:
    """Two sequences of two frames and two cameras; the second of a pair that is tested on."""
    for pair, action in (("pair00", "dance00"), ("pair28", "hug28")):
        folder = root / pair / action
        for name in ("cameras", "smpl", "frames"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        people = {"num_persons": 2, "genders": np.array(["female", "male"]), "betas": np.zeros((2, 10))}
        np.savez(folder / "meta.npz", start=FIRST, end=LAST, contact_ids=np.array([12]), mono_cam=4, **people)
        cameras = np.stack([a_camera(n) for n in range(len(IDS))])
        lenses_of = {"intirnsics": np.stack([K] * len(IDS)), "dist_coeffs": np.zeros((len(IDS), 5))}
        np.savez(folder / "cameras/rgb_cameras.npz", ids=np.array(IDS), extrinsics=cameras, **lenses_of)
        vertices, quads = boxes()
        faces = np.concatenate([quads, quads + vertices.shape[1]])
        for frame in range(FIRST, LAST + 1):
            np.savez(folder / f"smpl/{frame:06d}.npz", **a_fit(frame))
            write_obj(folder / f"frames/mesh-f{frame:05d}.obj", vertices.reshape(-1, 3), faces)
            for index, camera in enumerate(IDS):
                picture(folder / f"images/{camera}/{frame:06d}.jpg", (WIDE, HIGH), frame)
                draw_masks(folder, frame, index)
    return root


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(hi4d.Hi4D, tmp_path, capsys)


def test_pairs_become_samples_with_depth_and_normals(tmp_path, capsys):
    root = write_hi4d(tmp_path / "root")
    said = assert_good(hi4d.Hi4D, root, tmp_path / "out", capsys, "--geometry")
    assert (said["groups"], said["samples"]) == (2, 8)
    samples = {sample.key: sample for sample in shards.read(tmp_path / "out")}
    sample, fit = samples["pair00-dance00-000012-04"], a_fit(12)
    first, second = sample.people
    assert (first.identity, second.identity) == ("pair00-0-female", "pair00-1-male")
    np.testing.assert_allclose(second.keypoints["smpl24"].points_3d, fit["joints_3d"][1], atol=1e-5)
    np.testing.assert_allclose(second.pose[1:22].ravel(), fit["body_pose"][1][:63], atol=1e-6)
    np.testing.assert_allclose(sample.K, lens.to_course(K), atol=1e-5)
    assert overlay.reprojection(sample) < 1e-3
    for who, front in ((1, 0.15), (2, 0.25)):  # the boxes' front sides are 4 metres less this away
        mask = sample.instances == who
        spots = overlay.project(fit["verts"][who - 1], sample)
        rows, columns = np.nonzero(mask)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(found - [*spots.min(0), *spots.max(0)]).max() < 2
        depth, normals = np.median(sample.depth[mask]), np.median(sample.normals[:, mask], axis=1)
        assert depth == pytest.approx(4 - front, abs=0.01)
        np.testing.assert_allclose(normals, [0, 0, 1], atol=0.02)
    assert np.isinf(sample.depth[0, 0]) and sample.alpha[0, 0] == 0


def test_the_split_that_papers_test_on(tmp_path, capsys):
    root = write_hi4d(tmp_path / "root")
    assert run(hi4d.Hi4D, root, tmp_path / "out", "--split", "test") == 0
    samples = list(shards.read(tmp_path / "out"))
    assert [s.key for s in samples] == ["pair28-hug28-000011-04", "pair28-hug28-000012-04"]
    assert samples[0].depth is not None and samples[0].scene == 1
    assert run(hi4d.Hi4D, root, tmp_path / "some", "--cameras", "16", "--every", "2") == 0
    some = list(shards.read(tmp_path / "some"))
    assert [(s.view, s.frame) for s in some] == [(16, 11)] * 2 and some[0].depth is None
    assert_refused(hi4d.Hi4D, root, tmp_path / "no", capsys, ("the cameras 5",), "--cameras", "5")


def test_the_right_spelling_is_read_too(tmp_path):
    root = write_hi4d(tmp_path / "root")
    for path in root.glob("*/*/cameras/rgb_cameras.npz"):
        edit_npz(path, lambda table: table.update(intrinsics=table.pop("intirnsics")))
    assert run(hi4d.Hi4D, root, tmp_path / "out") == 0


CAMERAS = "pair00/dance00/cameras/rgb_cameras.npz"
FIT = "pair00/dance00/smpl/000012.npz"
CAMERA_VERSIONS = [
    *broken_versions("intirnsics", ("intirnsics", 1.0, ""), "extrinsics", "extrinsics")[:2],
    *broken_versions("ids", ("extrinsics", 1.0, ""), "dist_coeffs", "intirnsics")[3:],
]
FIT_VERSIONS = [
    *broken_versions("verts", ("transl", 1000.0, "millimetres"), "joints_3d", "joints_3d"),
    *broken_versions("betas", ("body_pose", 180 / np.pi * 10, ""), "verts", "verts")[1:],
]


@pytest.mark.parametrize("version", CAMERA_VERSIONS, ids=lambda version: f"{version.name} {version.words[0]}")
def test_broken_cameras_are_refused(tmp_path, capsys, version):
    root = write_hi4d(tmp_path / "root")
    version.apply(root / CAMERAS)
    words = ("rgb_cameras.npz", *version.words)
    assert_refused(hi4d.Hi4D, root, tmp_path / "out", capsys, words)
    assert_set_aside(hi4d.Hi4D, root, tmp_path / "out", capsys, words)


@pytest.mark.parametrize("version", FIT_VERSIONS, ids=lambda version: f"{version.name} {version.words[0]}")
def test_broken_fits_are_refused(tmp_path, capsys, version):
    root = write_hi4d(tmp_path / "root")
    version.apply(root / FIT)
    words = ("000012.npz", *version.words)
    assert_refused(hi4d.Hi4D, root, tmp_path / "out", capsys, words)
    assert_set_aside(hi4d.Hi4D, root, tmp_path / "out", capsys, words)
    assert report(tmp_path / "out")["samples"] == 6


def in_millimetres(table: dict) -> None:
    table["extrinsics"][:, :, 3] *= 1000


def mirrored(table: dict) -> None:
    table["extrinsics"][:, 0] *= -1


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        (CAMERAS, in_millimetres, ("extrinsics' distances", "they look like millimetres")),
        (CAMERAS, mirrored, ("extrinsics", "mirror image")),
        (CAMERAS, lambda t: t.update(intirnsics=t["intirnsics"].transpose(0, 2, 1)), ("transposed",)),
        (FIT, lambda t: t.update(joints_3d=t["joints_3d"][..., [0, 2, 1]]), ("joints_3d", "inside of verts")),
        ("pair00/dance00/meta.npz", lambda t: t.update(genders=np.array(["x", "male"])), ("genders", "'x'")),
        ("pair00/dance00/meta.npz", lambda t: t.update(end=3), ("a first and a last frame",)),
    ],
)
def test_sequences_that_cannot_be_are_refused(tmp_path, capsys, path, change, words):
    root = write_hi4d(tmp_path / "root")
    edit_npz(root / path, change)
    assert_refused(hi4d.Hi4D, root, tmp_path / "out", capsys, (Path(path).name, *words))


def test_scans_that_are_cut_missing_or_elsewhere(tmp_path, capsys):
    root = write_hi4d(tmp_path / "root")
    folder = root / "pair00/dance00"
    rewritten(lambda v: v + (3, 0, 0))(folder / "frames/mesh-f00011.obj")
    truncate(folder / "frames/mesh-f00012.obj")
    words = ("mesh-f00011.obj: its silhouette", "mesh-f00012.obj can't be read")
    assert_set_aside(hi4d.Hi4D, root, tmp_path / "out", capsys, words, "--geometry")
    (folder / "frames/mesh-f00012.obj").unlink()
    words = ("mesh-f00012.obj", "can't be opened")
    assert_refused(hi4d.Hi4D, root, tmp_path / "no", capsys, words, "--geometry")


def test_pictures_and_masks_that_are_missing_or_cut_are_set_aside(tmp_path, capsys):
    root = write_hi4d(tmp_path / "root")
    folder = root / "pair00/dance00"
    (folder / "images/4/000011.jpg").unlink()
    (folder / "seg/img_seg_mask/16/1/000011.png").unlink()
    truncate(folder / "images/4/000012.jpg", 0.3)
    picture(folder / "images/16/000012.jpg", (HIGH, WIDE))
    words = ("expected images/4/000011.jpg", "img_seg_mask/16/1/000011.png", "000012.jpg can't be read", "turned by 90")
    assert_set_aside(hi4d.Hi4D, root, tmp_path / "out", capsys, words)

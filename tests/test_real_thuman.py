"""THuman's scans: small ones in the real layout become pictures from a ring of cameras; broken ones are refused."""

import pickle
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
    edit_pickle,
    picture,
    run,
    script,
    truncate,
)

from course_lib.data import shards
from course_lib.real import scans
from course_lib.real.bodies import FamilyBody, body_of
from course_lib.real.checks import SourceError
from course_lib.real.scans import Scan

thuman = script("thuman")
SMALL = ("--pixels", "48", "--views", "4")


# ---------------------------------------------------------------- scans


def a_box(low=(-0.3, -0.9, -0.2), high=(0.3, 0.9, 0.2), parts: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """vertices (V, 3) and quads (6 n n, 4), counted from 0, of a box that is closed but for equal points."""
    vertices, quads = [], []
    steps = np.linspace(0, 1, parts + 1)
    for axis in range(3):
        for side in (0, 1):
            first = len(vertices)
            for a in steps:
                for b in steps:
                    vertices.append(np.insert([a, b], axis, side))
            flip = (side == 1) != (axis == 1)
            for i in range(parts):
                for j in range(parts):
                    at = first + i * (parts + 1) + j
                    quad = [at, at + parts + 1, at + parts + 2, at + 1]
                    quads.append(quad if flip else quad[::-1])
    return np.array(low) + np.array(vertices) * (np.array(high) - low), np.array(quads)


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray | None = None) -> Path:
    """As scanners write them: v x y z, vt u v, f 1/1 2/2 3/3 with any number of corners."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["mtllib material0.mtl"] + [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [] if uv is None else [f"vt {u:.6f} {v:.6f}" for u, v in uv]
    corner = (lambda n: f"{n + 1}") if uv is None else (lambda n: f"{n + 1}/{n + 1}/{n + 1}")
    lines += ["usemtl material0", *("f " + " ".join(corner(n) for n in face) for face in faces)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_scan(folder: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    """NNNN/NNNN.obj with its texture: the picture is red above and blue below."""
    uv = np.stack([vertices[:, 0] + 0.5, (vertices[:, 1] + 1) / 2], 1)
    path = write_obj(folder / f"{folder.name}.obj", vertices, faces, uv)
    (folder / "material0.mtl").write_text("newmtl material0\nmap_Kd material0.jpeg\n")
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:32, :, 0], texture[32:, :, 2] = 255, 255
    Image.fromarray(texture).save(folder / "material0.jpeg", quality=95)
    return path


def test_scans_are_read_whatever_way_their_faces_are_written(tmp_path):
    vertices, quads = a_box(parts=1)
    plain = scans.read_obj(write_obj(tmp_path / "a.obj", vertices, quads))
    np.testing.assert_allclose(plain.vertices, vertices, atol=1e-6)
    assert plain.faces.shape == (12, 3) and plain.uv is None
    back = quads - len(vertices) - 1  # written as f -24 -23 ..., from the end
    other = scans.read_obj(write_obj(tmp_path / "b.obj", vertices, back))
    np.testing.assert_array_equal(other.faces, plain.faces)
    (tmp_path / "c.obj").write_text("v 0 0 0 1 1 1\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1//1 2//1 3//1\n")
    assert scans.read_obj(tmp_path / "c.obj").uv is None
    for text in ("v 0 0\nf 1 1 1\n", "v 0 0 0\nf 1 1\n", "v 0 0 x\nf 1 1 1\n", "v 0 0 0\nf 1 1 one\n"):
        (tmp_path / "d.obj").write_text(text)
        with pytest.raises(SourceError, match=r"d\.obj can't be read"):
            scans.read_obj(tmp_path / "d.obj")


@pytest.mark.parametrize("form", ["ascii 1.0", "binary_little_endian 1.0", "binary_big_endian 1.0"])
def test_ply_files_of_all_three_kinds(tmp_path, form):
    vertices, quads = a_box(parts=1)
    faces = np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])
    content = ply(vertices, faces, form)
    (tmp_path / "a.ply").write_bytes(content)
    for found in (scans.read_ply(tmp_path / "a.ply"), scans.read_ply(content, "a.ply")):
        np.testing.assert_allclose(found.vertices, vertices, atol=1e-6)
        np.testing.assert_array_equal(found.faces, faces)
    lies = [content.replace(b"element vertex 24", b"element vertex " + count) for count in (b"-4", b"99999999999")]
    for broken in (content[: len(content) // 2], *lies, b"solid", b"ply\n"):
        with pytest.raises(SourceError, match=r"a\.ply can't be read"):
            scans.read_ply(broken, "a.ply")
    with pytest.raises(SourceError, match="triangles are needed"):
        scans.read_ply(ply(vertices, quads, form), "a.ply")
    with pytest.raises(SourceError, match="vertex and face, found vertex"):
        scans.read_ply(
            ply(vertices, faces[:0], form).split(b"element face")[0] + b"end_header\n" + b"0 " * 999, "a.ply"
        )


def ply(vertices: np.ndarray, faces: np.ndarray, form: str) -> bytes:
    """A file with normals beside x, y, z, as MeshLab writes them."""
    header = ["ply", f"format {form}", "comment made by a scanner", f"element vertex {len(vertices)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    points = np.concatenate([vertices, 0 * vertices], 1)
    if form.startswith("ascii"):
        rows = [" ".join(map(str, row)) for row in points.tolist()]
        rows += [f"{len(face)} " + " ".join(map(str, face)) for face in faces.tolist()]
        return "\n".join(header + rows).encode()
    order = "<" if "little" in form else ">"
    body = points.astype(order + "f4").tobytes()
    for face in faces:
        body += bytes([len(face)]) + face.astype(order + "i4").tobytes()
    return "\n".join(header).encode() + body


def test_a_ring_of_cameras_sees_the_scan_whole_and_where_it_is(tmp_path):
    vertices, quads = a_box()
    faces = np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])
    scan = Scan(vertices.astype(np.float32), faces)
    front, right, back, _ = scans.ring(scan.vertices, 4, 60)
    np.testing.assert_allclose(front.center[0, [0, 1]], [0, 0], atol=1e-6)
    assert front.center[0, 2] > 1 and right.center[0, 0] > 1 and back.center[0, 2] < -1
    for camera, wide in ((front, 0.6), (right, 0.4)):
        found = scans.picture_of(scan, None, camera, (60, 60))
        rows, columns = (np.flatnonzero(found["alpha"].max(axis) > 0.5) for axis in (1, 0))
        assert 44 <= len(rows) <= 54 and abs(len(columns) / len(rows) - wide / 1.8) < 0.08
        depth, normal = found["depth"][30, 30], found["normals"][:, 30, 30]
        assert depth == pytest.approx(float(camera.center[0].norm()) - (0.2 if camera is front else 0.3), abs=1e-4)
        np.testing.assert_allclose(normal, [0, 0, 1], atol=1e-5)
        assert np.isinf(found["depth"][0, 0]) and (found["image"][:, 0, 0] == 1).all()


def test_textures_are_the_right_way_up():
    texture = np.zeros((4, 8, 3), np.uint8)
    texture[0, :, 0], texture[:, 7, 1] = 200, 100
    uv = np.array([[1 / 16, 7 / 8], [15 / 16, 7 / 8], [15 / 16, 1 / 8], [1 / 16, 6 / 8]])
    colours = scans.texels(texture, uv) * 255
    np.testing.assert_allclose(colours, [[200, 0, 0], [200, 100, 0], [0, 100, 0], [100, 0, 0]], atol=1e-3)


# ---------------------------------------------------------------- the source


def a_body(seed: int = 0) -> dict[str, np.ndarray]:
    """A body file of SMPL-X's 55 joints whose skin is a box, with PCA hands."""
    rng = np.random.default_rng(seed)
    vertices, quads = a_box((-0.3, -1.2, -0.15), (0.3, 0.5, 0.15))
    count = len(vertices)
    weights, regressor = rng.random((count, 55)) ** 8, rng.random((55, count)) ** 40
    body = {
        "v_template": vertices, "f": np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]]),
        "shapedirs": rng.normal(0, 0.003, (count, 3, 20)), "posedirs": rng.normal(0, 1e-4, (count, 3, 486)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True), "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[-1, *range(54)], range(55)]),
    }  # fmt: skip
    for side in "lr":
        body[f"hands_components{side}"] = np.linalg.qr(rng.normal(size=(45, 45)))[0]
        body[f"hands_mean{side}"] = rng.normal(0, 0.1, 45)
    return {name: a.astype(np.float32 if a.dtype.kind == "f" else np.int64) for name, a in body.items()}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> Path:
    """A folder as body_models.py writes it."""
    folder = tmp_path_factory.mktemp("bodies")
    np.savez(folder / "SMPLX_NEUTRAL.npz", **a_body())
    return folder


def a_fit(seed: int, scale: float) -> dict[str, np.ndarray]:
    """As the release has it: a row each, hands of 12 numbers."""
    rng = np.random.default_rng(seed)
    small = {"global_orient": 3, "body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3}
    fit = {name: rng.normal(0, 0.05, (1, size)).astype(np.float32) for name, size in small.items()}
    fit |= {name: rng.normal(0, 0.3, (1, 12)).astype(np.float32) for name in ("left_hand_pose", "right_hand_pose")}
    fit |= {name: rng.normal(0, 1, (1, 10)).astype(np.float32) for name in ("betas", "expression")}
    translation = np.array([[0.1, 0.9, 0.05]], np.float32)
    return fit | {"scale": np.array([scale], np.float32), "translation": translation}


def by_hand(body: FamilyBody, table: dict[str, np.ndarray], fit: dict[str, np.ndarray]) -> np.ndarray:
    """The fitted mesh, put together a second time: order of the pose, PCA hands with their mean, scale before move."""
    hands = [fit[f"{side}_hand_pose"][0] @ table[f"hands_components{side[0]}"][:12] + table[f"hands_mean{side[0]}"]
             for side in ("left", "right")]  # fmt: skip
    names = ("global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose")
    pose = np.concatenate([*(fit[name][0] for name in names), *hands]).reshape(1, 55, 3)
    betas = np.concatenate([fit["betas"], fit["expression"]], 1)
    return body.posed(betas, pose.astype(np.float32))[0][0] * fit["scale"] + fit["translation"]


def write_thuman(root: Path, bodies: Path) -> Path:
    """Two scans with their fits, one of each release, under real names."""
    body = body_of(str(bodies), "SMPLX", "neutral")
    table = a_body()
    for name, scale in (("0003", 1.1), ("0526", 1.0)):
        fit = a_fit(int(name), scale)
        mesh = by_hand(body, table, fit)
        write_scan(root / "model" / name, mesh, a_box()[1])
        write_obj(root / "smplx" / name / "mesh_smplx.obj", mesh, table["f"])
        (root / "smplx" / name / "smplx_param.pkl").write_bytes(pickle.dumps(fit, 2))
    return root


FIT = "smplx/0003/smplx_param.pkl"
VERSIONS = [
    *broken_versions("body_pose", ("translation", 1000.0, "millimetres"), "global_orient", "body_pose"),
    *broken_versions("scale", ("global_orient", 180 / np.pi * 9, "radians"), "betas", "left_hand_pose")[1:],
]


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(thuman.THuman, tmp_path, capsys)


def test_scans_become_pictures_with_the_body_where_the_fit_puts_it(tmp_path, bodies, capsys):
    root = write_thuman(tmp_path / "root", bodies)
    said = assert_good(thuman.THuman, root, tmp_path / "out", capsys, *SMALL, "--bodies", str(bodies))
    assert (said["groups"], said["items"], said["samples"]) == (2, 2, 8)
    samples = {sample.key: sample for sample in shards.read(tmp_path / "out")}
    assert sorted(samples) == [f"{scan}-{view}" for scan in ("0003", "0526") for view in range(4)]
    sample = samples["0003-0"]
    person, fit = sample.people[0], a_fit(3, 1.1)
    mesh = by_hand(body_of(str(bodies), "SMPLX", "neutral"), a_body(), fit)
    np.testing.assert_allclose(person.vertices, mesh, atol=1e-5)
    assert person.translation is None and samples["0526-0"].people[0].translation is not None
    np.testing.assert_allclose(person.pose[1:22].ravel(), fit["body_pose"][0], atol=1e-6)
    assert person.identity == "thuman-0003" and person.keypoints["smplx55"].points_3d.shape == (55, 3)
    red, _, blue = sample.image  # red above, blue below
    inside = sample.alpha == 1
    assert red[:24][inside[:24]].mean() > 0.8 and blue[:24][inside[:24]].mean() < 0.2
    assert (sample.image[:, sample.alpha == 0] == 1).all()
    spots = (mesh @ sample.R.T + sample.t) @ sample.K.T
    spots = spots[:, :2] / spots[:, 2:]
    rows, columns = np.nonzero(sample.alpha > 0)
    assert np.abs([columns.min(), rows.min()] - spots.min(0)).max() < 1
    assert np.abs([columns.max() + 1, rows.max() + 1] - spots.max(0)).max() < 1


def test_scans_alone_and_the_first_release(tmp_path, bodies, capsys):
    root = write_thuman(tmp_path / "root", bodies)
    assert run(thuman.THuman, root, tmp_path / "first", *SMALL, "--release", "2.0") == 0
    samples = list(shards.read(tmp_path / "first"))
    assert {sample.scene for sample in samples} == {3} and samples[0].people[0].vertices is not None
    assert samples[0].people[0].pose is None  # its hands are not known without the body
    (root / FIT).unlink()
    words = ("0003.obj", "smplx_param.pkl: expected a fit", "--without-fits")
    assert_refused(thuman.THuman, root, tmp_path / "no", capsys, words, *SMALL)
    assert run(thuman.THuman, root, tmp_path / "alone", *SMALL, "--without-fits") == 0
    assert next(shards.read(tmp_path / "alone")).people[0].shape is None


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"{version.name} {version.words[0]}")
def test_broken_fits_are_refused(tmp_path, bodies, capsys, version):
    root = write_thuman(tmp_path / "root", bodies)
    version.apply(root / FIT)
    words = ("smplx_param.pkl", *version.words)
    assert_refused(thuman.THuman, root, tmp_path / "out", capsys, words, *SMALL)
    assert_set_aside(thuman.THuman, root, tmp_path / "out", capsys, words, *SMALL, "--views", "1")


def rewritten(change):
    """Changes the vertices of a scan."""

    def apply(path: Path) -> None:
        scan = scans.read_obj(path)
        write_obj(path, change(scan.vertices.astype(float)), scan.faces, np.zeros((len(scan.vertices), 2)))

    return apply


SCAN_VERSIONS = {
    "cut": (truncate, "is the file cut?"),
    "no faces": (lambda path: path.write_text(path.read_text().split("usemtl")[0]), "triangles"),
    "half of the faces": (lambda path: path.write_text("\n".join(path.read_text().split("\n")[:-100])), "in some face"),
    "millimetres": (rewritten(lambda v: v * 1000), "they look like millimetres"),
    "NaN": (rewritten(lambda v: np.where(v == v[5], np.nan, v)), "NaN"),
    "elsewhere": (rewritten(lambda v: v + 2), "metres from the fit to the scan"),
    "axes swapped": (rewritten(lambda v: v[:, [0, 2, 1]]), "metres from the fit to the scan"),
    "no texture": (lambda path: (path.parent / "material0.jpeg").unlink(), "expected material0.jpeg"),
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
}


@pytest.mark.parametrize("name", SCAN_VERSIONS)
def test_broken_scans_are_refused(tmp_path, bodies, capsys, name):
    root = write_thuman(tmp_path / "root", bodies)
    change, words = SCAN_VERSIONS[name]
    change(root / "model" / "0003" / "0003.obj")
    assert_refused(thuman.THuman, root, tmp_path / "out", capsys, ("0003.obj", words), *SMALL)


def test_a_fit_that_is_moved_before_it_is_scaled_is_found(tmp_path, bodies, capsys):
    root = write_thuman(tmp_path / "root", bodies)
    options = (*SMALL, "--bodies", str(bodies))
    edit_pickle(root / FIT, lambda fit: fit.update(translation=fit["translation"] * 1.1))
    assert_refused(thuman.THuman, root, tmp_path / "out", capsys, ("smplx_param.pkl", "the posed body"), *options)
    other = tmp_path / "other"
    other.mkdir()
    np.savez(other / "SMPLX_NEUTRAL.npz", **a_body())
    edit_npz(other / "SMPLX_NEUTRAL.npz", lambda table: table.pop("hands_meanr"))
    words = ("SMPLX_NEUTRAL.npz", "hands_meanr")
    assert_refused(thuman.THuman, root, tmp_path / "out", capsys, words, *SMALL, "--bodies", str(other))


def test_a_texture_that_is_no_picture_sets_the_scan_aside(tmp_path, bodies, capsys):
    root = write_thuman(tmp_path / "root", bodies)
    truncate(picture(root / "model" / "0003" / "material0.jpeg"), 0.3)
    words = ("material0.jpeg", "can't be read")
    assert_set_aside(thuman.THuman, root, tmp_path / "out", capsys, words, *SMALL)

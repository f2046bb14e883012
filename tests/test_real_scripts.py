"""The data scripts on small data in their sources' real layout, and on broken versions of them."""

import json
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
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
    edit_pickle,
    picture,
    report,
    run,
    script,
)
from scipy import sparse
from scipy.spatial.transform import Rotation

from course_lib.chapters.bodies import read_body_file
from course_lib.data import shards
from course_lib.data.shards import ShardError
from course_lib.real import bodies as real_bodies
from course_lib.real import overlay
from course_lib.real.checks import SourceError
from course_lib.real.convert import examine
from course_lib.real.safe import UnsafeFile, read_npz
from course_lib.real.tables import read_table

body_models, amass, photographs = script("body_models"), script("amass"), script("photographs")
generic_poses, threedpw = script("generic_poses"), script("threedpw")

SCRIPTS = [body_models.BodyModels, amass.Amass, photographs.Photographs, generic_poses.GenericPoses, threedpw.ThreeDPW]
VERTICES = 60


@pytest.mark.parametrize("source", SCRIPTS, ids=lambda source: source.name)
def test_without_a_source_each_says_what_to_do(source, tmp_path, capsys):
    assert_no_source(source, tmp_path, capsys)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> dict[str, tuple]:
    """A small source of each kind: name -> source, group."""
    folder = tmp_path_factory.mktemp("damaged")
    motion = "SSM/20160330_03333/chicken_wings_stageii.npz"
    return {
        "amass": (amass.Amass(write_amass(folder / "amass")), motion),
        "generic": (generic_poses.GenericPoses(write_generic(folder / "generic")), "umpm.npz"),
        "threedpw": (threedpw.ThreeDPW(write_threedpw(folder / "threedpw")), PW),
        "bodies": (SmallBodies(write_bodies(folder / "bodies")), "smpl/models/basicmodel_m_lbs_10_207_0_v1.1.0.pkl"),
    }


@pytest.mark.parametrize("name", ["amass", "generic", "threedpw", "bodies"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_is_wrong_the_reader_gives_items_or_names_the_file(damaged, name, data):
    source, group = damaged[name]
    path = source.root / group
    whole = path.read_bytes()
    at = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(0, min(400, len(whole) - 1))))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        items, problem = examine(source, group)
        assert bool(items) != bool(problem) and (items or path.name in problem)
    except UnsafeFile as error:
        assert path.name in str(error)
    finally:
        path.write_bytes(whole)


# ---------------------------------------------------------------- bodies


class SmallBodies(body_models.BodyModels):
    """The real script, for bodies of fewer vertices."""

    vertices = dict.fromkeys(("SMPL", "SMPLH", "SMPLX"), VERTICES)


def a_body(joints: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A body in a family's layout: a box of random points, joints inside, each vertex on one or two of them."""
    rng = np.random.default_rng(seed)
    template = rng.uniform((-0.85, -1.2, -0.15), (0.85, 0.5, 0.15), (VERTICES, 3))
    regressor, weights = rng.random((joints, VERTICES)) ** 60, rng.random((VERTICES, joints)) ** 8
    parents = [4294967295, *(int(rng.integers(0, j)) for j in range(1, joints))]
    shapes = 20 if joints == 55 else {24: 10, 52: 16}[joints]
    body = {
        "v_template": template, "f": rng.integers(0, VERTICES, (30, 3)).astype(np.uint32),
        "shapedirs": rng.normal(0, 0.01, (VERTICES, 3, shapes)),
        "posedirs": rng.normal(0, 0.002, (VERTICES, 3, 9 * (joints - 1))),
        "J_regressor": regressor / regressor.sum(1, keepdims=True), "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([parents, range(joints)], np.uint32),
    }  # fmt: skip
    if joints == 55:
        body |= {
            "lmk_faces_idx": rng.integers(0, 30, 51),
            "lmk_bary_coords": rng.random((51, 3)),
            "vt": rng.random((9, 2)),
        }
        body["joint2num"] = np.array({"pelvis": 0}, object)
    return body


def pickled_with_chumpy(body: dict) -> bytes:
    """As SMPL's files are: shape directions in an object of chumpy, the regressor sparse, Python 2's protocol."""

    class Ch:
        def __init__(self, x):
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    sys.modules |= {"chumpy": types.ModuleType("chumpy"), "chumpy.ch": types.ModuleType("chumpy.ch")}
    sys.modules["chumpy.ch"].Ch = Ch
    try:
        table = body | {"shapedirs": Ch(body["shapedirs"]), "J_regressor": sparse.csc_matrix(body["J_regressor"])}
        return pickle.dumps(table | {"bs_style": "lbs", "bs_type": "lrotmin"}, 2)
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def write_bodies(root: Path) -> Path:
    """The files of all three families under their real names."""
    (root / "smpl" / "models").mkdir(parents=True)
    (root / "smpl" / "models" / "basicmodel_m_lbs_10_207_0_v1.1.0.pkl").write_bytes(pickled_with_chumpy(a_body(24)))
    (root / "smplh" / "female").mkdir(parents=True)
    np.savez(root / "smplh" / "female" / "model.npz", **a_body(52, 1))
    (root / "models" / "smplx").mkdir(parents=True)
    np.savez(root / "models" / "smplx" / "SMPLX_NEUTRAL.npz", **a_body(55, 2))
    (root / "models" / "smplx" / "SMPLX_NEUTRAL.pkl").write_bytes(b"the same, pickled")
    (root / "models" / "smplx" / "version.txt").write_text("1.1")
    return root


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> Path:
    """What the script makes of them."""
    folder = tmp_path_factory.mktemp("bodies")
    assert run(SmallBodies, write_bodies(folder / "root"), folder / "out") == 0
    return folder / "out"


BODY_VERSIONS = broken_versions("weights", ("v_template", 1000.0, "millimetres"), "posedirs", "shapedirs")


def test_body_files_become_npz_that_chapter_02_reads(tmp_path, capsys):
    root, out = write_bodies(tmp_path / "root"), tmp_path / "out"
    assert_good(SmallBodies, root, out, capsys)
    assert sorted(content(out)) == ["SMPLH_FEMALE.npz", "SMPLX_NEUTRAL.npz", "SMPL_MALE.npz"]
    whole, made = a_body(24), read_npz(out / "SMPL_MALE.npz")
    for name in ("v_template", "shapedirs", "J_regressor", "posedirs"):
        np.testing.assert_allclose(made[name], whole[name], atol=1e-6)
    assert made["kintree_table"][0, 0] == -1
    assert read_body_file(out / "SMPLX_NEUTRAL.npz")["posedirs"].shape == (VERTICES, 3, 486)
    assert "joint2num" not in read_npz(out / "SMPLX_NEUTRAL.npz")


@pytest.mark.parametrize("version", BODY_VERSIONS, ids=lambda version: version.name)
def test_broken_body_files_are_refused(tmp_path, capsys, version):
    root = write_bodies(tmp_path / "root")
    version.apply(root / "smplh" / "female" / "model.npz")
    words = ("model.npz", *version.words)
    assert_refused(SmallBodies, root, tmp_path / "out", capsys, words)
    assert_set_aside(SmallBodies, root, tmp_path / "out", capsys, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(v_template=body["v_template"][:, [0, 2, 1]]), ("v_template", "thinnest along z")),
        (lambda body: body.update(kintree_table=body["kintree_table"][:, :30]), ("24, 52 or 55 joints", "30")),
        (lambda body: body.update(kintree_table=body["kintree_table"][::-1]), ("parent before the joint",)),
        (lambda body: body.update(weights=body["weights"] / 2), ("sum to 1",)),
        (lambda body: body.update(f=body["f"] + VERTICES), ("f: expected 0 to 59",)),
        (lambda body: body.update(J_regressor=3 * body["J_regressor"]), ("joints inside of the body",)),
    ],
)
def test_bodies_that_cannot_be_are_refused(tmp_path, capsys, change, words):
    root = write_bodies(tmp_path / "root")
    edit_npz(root / "smplh" / "female" / "model.npz", change)
    assert_refused(SmallBodies, root, tmp_path / "out", capsys, ("model.npz", *words))


def test_the_real_script_wants_the_real_number_of_vertices(tmp_path, capsys):
    root = write_bodies(tmp_path / "root")
    assert_refused(body_models.BodyModels, root, tmp_path / "out", capsys, ("6890", "(60, 3)"))


def test_a_body_with_code_in_it_is_refused(tmp_path, capsys):
    root = write_bodies(tmp_path / "root")
    path = root / "smpl" / "models" / "basicmodel_m_lbs_10_207_0_v1.1.0.pkl"
    path.write_bytes(pickle.dumps({"v_template": os.getcwd}, 2))
    assert run(SmallBodies, root, tmp_path / "out", "--tolerate", "1") == 1
    assert "getcwd" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_two_files_of_one_body_are_refused(tmp_path, capsys):
    root = write_bodies(tmp_path / "root")
    shutil.copytree(root / "smplh", root / "smplh again")
    assert run(SmallBodies, root, tmp_path / "out") == 1
    assert "two items are called 'SMPLH_FEMALE'" in capsys.readouterr().err


def by_hand(body: dict, betas: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """SMPL written a second time, vertex by vertex in float64: its equations 2 to 7."""
    rest = body["v_template"] + body["shapedirs"][..., : len(betas)] @ betas
    joints, turns = body["J_regressor"] @ rest, Rotation.from_rotvec(pose).as_matrix()
    rest = rest + body["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
    frames = []
    for joint, parent in enumerate(body["kintree_table"][0]):
        local = np.eye(4)
        local[:3, :3], local[:3, 3] = turns[joint], joints[joint] - (joints[parent] if joint else 0)
        frames.append(frames[parent] @ local if joint else local)
    moved = []
    for vertex, weights in zip(rest, body["weights"], strict=True):
        parts = (w * (f[:3, :3] @ (vertex - j) + f[:3, 3]) for w, f, j in zip(weights, frames, joints, strict=True))
        moved.append(sum(parts))
    return np.array(moved)


@pytest.mark.parametrize(("name", "joints", "seed"), [("SMPL_MALE", 24, 0), ("SMPLH_FEMALE", 52, 1)])
def test_bodies_are_posed_as_smpl_says(bodies, name, joints, seed):
    rng = np.random.default_rng(5)
    pose, betas = rng.normal(0, 0.4, (joints, 3)), rng.normal(size=10)
    if joints == 24:
        pose[22:] = 0  # SMPL's own hands have no place in 55 joints
    body = real_bodies.FamilyBody.from_npz(bodies / f"{name}.npz")
    found, posed = body.posed(betas[None], real_bodies.from_family(pose[None]), np.array([[1, 2, 3.0]]))
    np.testing.assert_allclose(found[0] - (1, 2, 3), by_hand(a_body(joints, seed), betas, pose), atol=2e-5)
    assert posed.shape == (1, joints, 3)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([24, 52, 55]), st.integers(0, 2**32 - 1))
def test_poses_of_all_families_go_to_smplx_and_back(joints, seed):
    pose = np.random.default_rng(seed).normal(size=(2, joints, 3)).astype(np.float32)
    back = real_bodies.to_family(real_bodies.from_family(pose), joints)
    np.testing.assert_array_equal(back[:, :22], pose[:, :22])
    np.testing.assert_array_equal(back[:, 22:], 0 * pose[:, 22:] if joints == 24 else pose[:, 22:])


@pytest.mark.parametrize("value", ["male", "m", b"male", np.array("male"), np.array(b"male"), "b'male'", "Male"])
def test_genders_in_all_spellings(value):
    assert real_bodies.gender_of(value, "f") == "male"
    with pytest.raises(SourceError, match="f: gender: expected male, female or neutral, found 'x'"):
        real_bodies.gender_of("x", "f")


# ---------------------------------------------------------------- AMASS


def a_motion(frames: int, rate: float, seed: int, layout: str) -> dict[str, np.ndarray]:
    """Somebody who stands upright, z up, turns about and waves."""
    rng = np.random.default_rng(seed)
    joints = 52 if layout == "smplh" else 55
    poses = rng.normal(0, 0.2, (frames, joints, 3))
    poses[:, 22:25] *= layout == "smplx"
    about = Rotation.from_euler("z", np.linspace(0, 3, frames)[:, None])
    poses[:, 0] = (about * Rotation.from_euler("x", 90, degrees=True)).as_rotvec()
    poses = poses.reshape(frames, -1)
    motion = {"trans": rng.uniform(-1, 1, (frames, 3)) + (0, 0, 1), "poses": poses, "betas": rng.normal(size=16)}
    if layout == "smplh":
        return motion | {
            "gender": np.array(b"female"),
            "mocap_framerate": np.float64(rate),
            "dmpls": np.zeros((frames, 8)),
        }
    parts = {name: poses[:, columns] for name, columns in amass.PARTS.items()}
    return motion | parts | {"gender": np.array("neutral"), "mocap_frame_rate": np.float64(rate), "num_betas": 16}


def write_amass(root: Path) -> Path:
    """Two releases side by side, under real names, with the files that are no motions."""
    for name, frames, rate, seed, layout in (
        ("CMU/01/01_01_poses.npz", 240, 120.0, 0, "smplh"),
        ("ACCAD/Female1General_c3d/A1 - Stand_poses.npz", 180, 60.0, 1, "smplh"),
        ("SSM/20160330_03333/chicken_wings_stageii.npz", 100, 100.0, 2, "smplx"),
    ):
        (root / name).parent.mkdir(parents=True)
        np.savez(root / name, **a_motion(frames, rate, seed, layout))
    np.savez(root / "CMU" / "01" / "shape.npz", betas=np.zeros(16))
    np.savez(root / "SSM" / "20160330_03333" / "neutral_stagei.npz", betas=np.zeros(16))
    return root


AMASS_VERSIONS = [
    *broken_versions("poses", ("trans", 1000.0, "millimetres"), "poses", "trans"),
    *broken_versions("mocap_framerate", ("poses", 180 / np.pi, "degrees"), "betas", "poses")[1:],
]


def test_amass_is_sampled_evenly_over_all_motions(tmp_path, capsys):
    root = write_amass(tmp_path / "root")
    said = assert_good(amass.Amass, root, tmp_path / "out", capsys, "--meshes", "60")
    table = read_table(tmp_path / "out")  # 2, 3 and 1 seconds: a pose each 0.1 s
    assert said["groups"] == 3 and said["samples"] == 60
    assert dict(zip(*np.unique(table["motion"], return_counts=True), strict=True)) == {
        "ACCAD/Female1General_c3d/A1 - Stand_poses.npz": 30,
        "CMU/01/01_01_poses.npz": 20,
        "SSM/20160330_03333/chicken_wings_stageii.npz": 10,
    }
    assert set(table["family"]) == {"SMPLH", "SMPLX"} and set(table["gender"]) == {"female", "neutral"}
    np.testing.assert_allclose(np.diff(table["time"][table["subject"] == "CMU/01"]), 0.1, atol=1e-6)
    up = Rotation.from_rotvec(table["pose"][:, 0]).apply([0, 1, 0])
    np.testing.assert_allclose(up, np.tile([0, 1, 0], (60, 1)), atol=1e-6)
    assert "translation" not in table
    assert run(amass.Amass, root, tmp_path / "more", "--meshes", "100000") == 0
    assert report(tmp_path / "more")["samples"] == 180  # no more than 30 a second


def test_chapter_13_draws_its_meshes_from_amass(tmp_path, monkeypatch):
    from course_lib.data import meshes

    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    meshes.pool.cache_clear()
    try:
        root = write_amass(tmp_path / "root")
        assert run(amass.Amass, root, tmp_path / "data" / "meshes-train", "--meshes", "6") == 0
        table = read_table(tmp_path / "data" / "meshes-train")
        poses, betas = meshes.pool("train", 4096)
        np.testing.assert_array_equal(poses.numpy(), table["pose"])
        assert betas.shape == (6, 10) and np.isfinite(betas.numpy()).all()
        bodies = meshes.sample_bodies(3, 0)  # what chapter 13's stream asks for
        assert len(bodies) == 3 and bodies.vertices.isfinite().all() and 1.2 < np.ptp(bodies.vertices[0, :, 1]) < 2.4
        assert set(bodies.identity.tolist()) <= set(range(6))
        manifest = tmp_path / "data" / "meshes-train" / "manifest.json"
        manifest.write_text(manifest.read_text().replace("true", "false"))
        meshes.pool.cache_clear()
        with pytest.raises(ShardError, match="is not complete"):
            meshes.pool("train", 4096)
    finally:
        meshes.pool.cache_clear()


def test_amass_meshes_are_the_release_turned_y_up(bodies, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(write_amass(tmp_path / "all") / "CMU", root / "CMU")
    out = tmp_path / "out"
    assert_good(amass.Amass, root, out, capsys, "--meshes", "4", "--bodies", str(bodies))
    vertices, _ = next(real_bodies.meshes(read_table(out), bodies))
    motion = a_motion(240, 120.0, 0, "smplh")
    for row, frame in enumerate((0, 60, 120, 180)):
        theirs = by_hand(a_body(52, 1), motion["betas"], motion["poses"][frame].reshape(52, 3)) + motion["trans"][frame]
        np.testing.assert_allclose(vertices[row], theirs @ real_bodies.Z_TO_Y_UP.T, atol=3e-5)
    assert_refused(amass.Amass, root, tmp_path / "no", capsys, ("SMPLH_FEMALE.npz is missing",), "--bodies", str(root))


@pytest.mark.parametrize("version", AMASS_VERSIONS, ids=lambda version: f"{version.name} {version.words[0]}")
def test_broken_motions_are_refused(tmp_path, capsys, version):
    root = write_amass(tmp_path / "root")
    version.apply(root / "CMU" / "01" / "01_01_poses.npz")
    words = ("01_01_poses.npz", *version.words)
    assert_refused(amass.Amass, root, tmp_path / "out", capsys, words)
    assert_set_aside(amass.Amass, root, tmp_path / "out", capsys, words)


def turned_y_up(table: dict) -> None:
    table["poses"][:, :3] = real_bodies.turned(table["poses"][:, :3], real_bodies.Z_TO_Y_UP)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (turned_y_up, ("expected z up, found up along +y", "axes swapped")),
        (lambda t: t.update(poses=t["poses"][:1], trans=t["trans"][:1]), ("expected a motion, found 1 frames",)),
        (lambda t: t.update(gender=np.array("robot")), ("gender", "'robot'")),
        (lambda t: t.update(mocap_framerate=np.float64(0)), ("mocap_framerate", "frames a second")),
    ],
)
def test_motions_that_cannot_be_are_refused(tmp_path, capsys, change, words):
    root = write_amass(tmp_path / "root")
    edit_npz(root / "CMU" / "01" / "01_01_poses.npz", change)
    assert_refused(amass.Amass, root, tmp_path / "out", capsys, ("01_01_poses", *words))


def test_smplx_poses_in_another_order_are_refused(tmp_path, capsys):
    root = write_amass(tmp_path / "root")
    path = root / "SSM" / "20160330_03333" / "chicken_wings_stageii.npz"
    edit_npz(path, lambda t: t.update(poses=np.roll(t["poses"], 3, axis=1)))
    assert_refused(amass.Amass, root, tmp_path / "out", capsys, (path.name, "root_orient in columns 0 to 2"))


# ---------------------------------------------------------------- photographs


def write_photographs(root: Path) -> Path:
    picture(root / "holiday" / "IMG_0001.JPG", (80, 70))
    picture(root / "holiday" / "beach" / "a b.png", (70, 90), 1)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "grey.tiff")
    upright = Image.open(root / "holiday" / "IMG_0001.JPG")
    exif = upright.getexif()
    exif[0x0112] = 6  # the camera was turned
    upright.save(root / "turned.jpg", exif=exif)
    picture(root / ".thumbnails" / "x.png")
    (root / "notes.txt").write_text("no picture")
    return root


def test_photographs_are_a_pool(tmp_path, capsys):
    root = write_photographs(tmp_path / "root")
    shutil.copy(root / "grey.tiff", root / os.fsdecode(b"\xff\xfe.tiff"))
    said = assert_good(photographs.Photographs, root, tmp_path / "out", capsys)
    samples = {sample.key.partition("-")[0]: sample for sample in shards.read(tmp_path / "out")}
    assert said["samples"] == len({sample.scene for sample in samples.values()}) == 5
    assert samples["turned_jpg"].image.shape == (3, 80, 70) and samples["grey_tiff"].image.shape == (3, 64, 64)


def test_bad_photographs_are_set_aside(tmp_path, capsys):
    root = write_photographs(tmp_path / "root")
    picture(root / "small.png", (63, 200))
    (root / "empty.png").write_bytes(b"")
    (root / "words.jpg").write_bytes(b"no picture")
    whole = picture(root / "cut.png", (70, 90)).read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    words = ("small.png: expected 64 pixels or more, found 63", "an empty file", "words.jpg can't be read")
    assert_set_aside(photographs.Photographs, root, tmp_path / "out", capsys, (*words, "cut.png can't be read"))
    assert report(tmp_path / "out")["samples"] == 4
    assert_refused(photographs.Photographs, root, tmp_path / "other", capsys, ("of 8 items are bad", *words[:2]))


# ---------------------------------------------------------------- a person in front of a camera

K = np.array([[60.0, 0, 24], [0, 60.0, 16], [0, 0, 1]])


def joints_in_view(frames: int, joints: int, seed: int) -> np.ndarray:
    """(frames, joints, 3) metres in camera axes, 3 m away."""
    return np.random.default_rng(seed).uniform((-0.5, -0.7, 2.8), (0.5, 0.7, 3.2), (frames, joints, 3))


def a_camera(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """R, t metres, world to camera: the world's origin is where people are."""
    rng = np.random.default_rng(seed)
    return Rotation.random(random_state=seed).as_matrix(), rng.uniform(-0.3, 0.3, 3) + (0, 0, 3)


def to_world(points: np.ndarray, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    return (points - t) @ R


def pixels_of(points: np.ndarray) -> np.ndarray:
    """Camera axes -> pixels, by hand."""
    return np.stack([60 * points[..., 0] / points[..., 2] + 24, 60 * points[..., 1] / points[..., 2] + 16], -1)


# ---------------------------------------------------------------- generic poses


def write_generic(root: Path, people: int = 2) -> Path:
    """Three pictures of two people, and one row that isn't valid."""
    R, t = a_camera(3)
    points = joints_in_view(3 * people + 1, 6, 4)
    images = [f"images/{row // people:04d}.jpg" for row in range(3 * people)] + ["images/0000.jpg"]
    for image in images:
        picture(root / image)
    masks = []
    for row in range(len(points)):
        mask = np.zeros((32, 48), np.uint8)
        mask[4:20, 4 + 20 * (row % 2) : 20 + 20 * (row % 2)] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{row}.png")
        masks.append(f"masks/{row}.png")
    world = 1000 * to_world(points, R, t)
    world[0, 0] = np.nan
    valid = np.arange(len(points)) < 3 * people
    table = {
        "images": np.array(images),
        "joints": world,
        "names": np.array(["pelv", "neck", "lsho", "rsho", "lank", "rank"]),
    }
    table |= {
        "K": K,
        "R": R,
        "t": 1000 * t,
        "valid": valid,
        "subjects": np.array([f"s{r % 2}" for r in range(len(points))]),
    }
    table["points"] = pixels_of(points) + 0.25
    np.savez(root / "umpm.npz", **table, masks=np.array(masks), frames=np.arange(len(points)))
    return root


GENERIC_VERSIONS = broken_versions("names", ("joints", 1e-3, "metres"), "K", "joints")


def test_generic_poses_in_millimetres_become_samples(tmp_path, capsys):
    root = write_generic(tmp_path / "root")
    said = assert_good(generic_poses.GenericPoses, root, tmp_path / "out", capsys)
    samples = list(shards.read(tmp_path / "out"))
    assert said["samples"] == 3 and [len(sample.people) for sample in samples] == [2, 2, 2]
    sample, points = samples[1], joints_in_view(7, 6, 4)
    person = sample.people[1]
    np.testing.assert_allclose(person.keypoints["umpm"].points_2d, pixels_of(points[3]) + 0.25, atol=1e-3)
    R, t = a_camera(3)
    np.testing.assert_allclose(person.keypoints["umpm"].points_3d, to_world(points[3], R, t), atol=1e-5)
    assert person.identity == "s1" and sample.frame == 2 and sample.source == "generic_poses/umpm"
    assert np.isnan(samples[0].people[0].keypoints["umpm"].points_3d[0]).all()
    np.testing.assert_array_equal(person.box, [24, 4, 40, 20])
    assert (sample.instances[4:20, 24:40] == 2).all()
    assert overlay.reprojection(sample) == pytest.approx(0.25 * 2**0.5, abs=1e-3)


@pytest.mark.parametrize("version", GENERIC_VERSIONS, ids=lambda version: version.name)
def test_broken_generic_poses_are_refused(tmp_path, capsys, version):
    root = write_generic(tmp_path / "root")
    shutil.copy(root / "umpm.npz", root / "mads.npz")
    version.apply(root / "umpm.npz")
    assert_refused(generic_poses.GenericPoses, root, tmp_path / "out", capsys, ("umpm.npz", *version.words))
    assert_set_aside(generic_poses.GenericPoses, root, tmp_path / "out", capsys, ("umpm.npz", *version.words))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(t=t["t"] / 1000), ("expected",)),  # metres for millimetres: people aren't where they were
        (lambda t: t.update(R=t["R"].T), ("points", "pixels of their projections")),
        (lambda t: t.update(points=t["points"][:, :, ::-1]), ("points", "pixels of their projections")),
        (lambda t: t.update(R=t["R"][[0, 2, 1]]), ("mirror image",)),
        (lambda t: t.update(K=t["K"].T), ("transposed",)),
        (lambda t: t.update(joints=np.full_like(t["joints"], np.nan)), ("rows with joints",)),
        (lambda t: t.update(images=np.array(["no.jpg"] * 7)), ("no such file",)),
    ],
)
def test_generic_poses_that_cannot_be_are_refused(tmp_path, capsys, change, words):
    root = write_generic(tmp_path / "root")
    edit_npz(root / "umpm.npz", change)
    words = ("umpm.npz", *words)
    assert_refused(generic_poses.GenericPoses, root, tmp_path / "out", capsys, words, "--apart", "2")


# ---------------------------------------------------------------- 3DPW


def a_sequence(frames: int, people: int, seed: int) -> dict:
    """A .pkl of 3DPW with all its keys, for a camera that moves."""
    rng = np.random.default_rng(seed)
    camera, joints, spots = np.tile(np.eye(4), (frames, 1, 1)), [], []
    for frame in range(frames):
        camera[frame, :3, :3], camera[frame, :3, 3] = a_camera(seed + frame)
    for person in range(people):
        seen = joints_in_view(frames, 24, seed + 100 + person)
        world = np.stack([to_world(p, c[:3, :3], c[:3, 3]) for p, c in zip(seen, camera, strict=True)])
        found = rng.uniform(0, 30, (frames, 18, 2))
        found[:, threedpw.SHARED[:, 1]] = pixels_of(seen)[:, threedpw.SHARED[:, 0]] + rng.normal(0, 1, (frames, 10, 2))
        joints.append(world.reshape(frames, 72))
        spots.append(np.concatenate([found, np.full((frames, 18, 1), 0.9)], 2).transpose(0, 2, 1))
    return {
        "sequence": "downtown_arguing_00", "jointPositions": joints, "poses2d": spots, "cam_poses": camera,
        "poses": [rng.normal(0, 0.3, (frames, 72)) for _ in range(people)], "cam_intrinsics": K,
        "betas": [rng.normal(size=300) for _ in range(people)], "genders": ["m", "f"][:people],
        "trans": [rng.normal(size=(frames, 3)) for _ in range(people)], "img_frame_ids": np.arange(frames),
        "campose_valid": [np.ones(frames, int) for _ in range(people)], "texture_maps": [], "trans_60Hz": [],
    }  # fmt: skip


def write_threedpw(root: Path) -> Path:
    """Three sequences of five frames, under real names."""
    for split, name, people in (("train", "courtyard_basketball_00", 2), ("train", "outdoors_slalom_01", 1),
                                ("test", "downtown_arguing_00", 2)):  # fmt: skip
        path = root / "sequenceFiles" / split / f"{name}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = a_sequence(5, people, len(name))
        table["campose_valid"][0][2] = 0
        table["poses2d"][0][3] = 0
        path.write_bytes(pickle.dumps(table, 2))
        for frame in range(5):
            picture(root / "imageFiles" / name / f"image_{frame:05d}.jpg", seed=frame)
    return root


PW = "sequenceFiles/train/courtyard_basketball_00.pkl"
PW_VERSIONS = [
    *broken_versions("cam_poses", ("jointPositions", 1000.0, "millimetres"), "poses", "jointPositions"),
    *broken_versions("poses2d", ("poses", 180 / np.pi, "degrees"), "betas", "cam_poses")[1:],
]


def test_3dpw_frames_become_samples_without_the_people_whose_camera_is_not_valid(tmp_path, capsys):
    root = write_threedpw(tmp_path / "root")
    said = assert_good(threedpw.ThreeDPW, root, tmp_path / "out", capsys)
    samples = {sample.key: sample for sample in shards.read(tmp_path / "out")}
    assert said["groups"] == 2 and {key: len(sample.people) for key, sample in samples.items()} == {
        **{f"courtyard_basketball_00-{n:05d}": count for n, count in enumerate((2, 2, 1, 1, 2))},
        **{f"outdoors_slalom_01-{n:05d}": 1 for n in (0, 1, 4)},
    }
    sample, table = samples["courtyard_basketball_00-00001"], a_sequence(5, 2, 23)
    person = sample.people[1]
    np.testing.assert_allclose(
        person.keypoints["smpl24"].points_3d, table["jointPositions"][1][1].reshape(24, 3), atol=1e-5
    )
    np.testing.assert_allclose(person.pose[:22].ravel(), table["poses"][1][1][:66], atol=1e-6)
    np.testing.assert_allclose(person.shape, table["betas"][1][:10], atol=1e-6)
    assert person.identity == "courtyard_basketball_00-1-female" and person.vertices is None
    assert overlay.reprojection(sample) < 1e-2 and sample.source == "threedpw/train"
    assert run(threedpw.ThreeDPW, root, tmp_path / "test", "--split", "test", "--every", "2") == 0
    assert [s.key for s in shards.read(tmp_path / "test")] == [f"downtown_arguing_00-{n:05d}" for n in (0, 2, 4)]


@pytest.mark.parametrize("version", PW_VERSIONS, ids=lambda version: f"{version.name} {version.words[0]}")
def test_broken_sequences_are_refused(tmp_path, capsys, version):
    root = write_threedpw(tmp_path / "root")
    version.apply(root / PW)
    words = ("courtyard_basketball_00.pkl", *version.words)
    assert_refused(threedpw.ThreeDPW, root, tmp_path / "out", capsys, words)
    assert_set_aside(threedpw.ThreeDPW, root, tmp_path / "out", capsys, words)


def camera_to_world(table: dict) -> None:
    table["cam_poses"] = np.linalg.inv(table["cam_poses"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (camera_to_world, ("jointPositions[0]", "expected")),
        (lambda t: t.update(genders=["m"]), ("as many under every key",)),
        (lambda t: t.update(poses2d=[s[:, [1, 0, 2]] + 200 for s in t["poses2d"]]), ("pixels of their projections",)),
        (lambda t: t.update(betas=np.zeros(10)), ("a list of one or more people",)),
        (lambda t: t.update(cam_intrinsics=t["cam_intrinsics"].T), ("transposed",)),
        (lambda t: t.update(poses=os.system), ("system",)),
    ],
)
def test_sequences_that_cannot_be_are_refused(tmp_path, capsys, change, words):
    root = write_threedpw(tmp_path / "root")
    edit_pickle(root / PW, change)
    assert_refused(threedpw.ThreeDPW, root, tmp_path / "out", capsys, ("courtyard_basketball_00.pkl", *words))


def test_pictures_that_are_missing_or_of_another_size_are_set_aside(tmp_path, capsys):
    root = write_threedpw(tmp_path / "root")
    frames = root / "imageFiles" / "outdoors_slalom_01"
    (frames / "image_00000.jpg").unlink()
    picture(frames / "image_00001.jpg", (16, 24))
    words = ("image_00000.jpg: expected a picture", "outdoors_slalom_01-00001", "a centre inside of 16 x 24 pixels")
    assert_set_aside(threedpw.ThreeDPW, root, tmp_path / "out", capsys, words)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["set_aside"].keys() == {"shard-000000.tar"}


def test_3dpw_vertices_come_of_gendered_bodies_and_are_compared_with_the_joints(bodies, tmp_path, capsys):
    root = write_threedpw(tmp_path / "root")
    body = real_bodies.FamilyBody.from_npz(bodies / "SMPL_MALE.npz")
    path = root / "sequenceFiles" / "train" / "outdoors_slalom_01.pkl"

    def consistent(table: dict) -> None:
        R, t = table["cam_poses"][0, :3, :3], table["cam_poses"][0, :3, 3]
        pose = real_bodies.from_family(table["poses"][0].reshape(-1, 24, 3))
        table["cam_poses"][:] = table["cam_poses"][0]
        table["trans"][0][:] = to_world(np.array([0, 0, 3.0]), R, t)
        table["betas"][0][10:] = 0
        joints = body.posed(np.tile(table["betas"][0][:10], (5, 1)), pose, table["trans"][0])[1]
        table["jointPositions"][0] = joints.reshape(5, 72).astype(float)
        spots = pixels_of(joints @ R.T + t)[:, threedpw.SHARED[:, 0]]
        table["poses2d"][0][:3, :2][:, :, threedpw.SHARED[:, 1]] = spots[:3].transpose(0, 2, 1)

    edit_pickle(path, consistent)
    (root / PW).unlink()
    assert_good(threedpw.ThreeDPW, root, tmp_path / "out", capsys, "--bodies", str(bodies))
    assert next(shards.read(tmp_path / "out")).people[0].vertices.shape == (VERTICES, 3)
    edit_pickle(path, lambda table: table.update(genders=["f"]))
    words = ("SMPL_FEMALE.npz is missing",)
    assert run(threedpw.ThreeDPW, root, tmp_path / "no", "--bodies", str(bodies)) == 1
    assert all(word in capsys.readouterr().err for word in words)
    edit_pickle(path, lambda table: table.update(genders=["m"], poses=[0.5 + p for p in table["poses"]]))
    assert run(threedpw.ThreeDPW, root, tmp_path / "no2", "--bodies", str(bodies)) == 1
    assert "poses: expected -inf to 0.03 metres" in capsys.readouterr().err

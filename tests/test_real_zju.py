"""ZJU-MoCap: small sequences in the real layout, both ways of counting frames, and broken versions of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from real_files import (
    assert_good,
    assert_no_source,
    assert_refused,
    assert_set_aside,
    changed,
    picture,
    run,
    script,
    truncate,
    with_nan,
)
from scipy.spatial.transform import Rotation
from test_real_thuman import a_box

from course_lib.data import shards
from course_lib.real import lens, overlay
from course_lib.real.bodies import FamilyBody, body_of, from_family

zju = script("zju_mocap")
SIZE = 64  # pixels
K = np.array([[70.0, 0, 31.5], [0, 70, 31.5], [0, 0, 1]])  # OpenCV's: the middle of 64 pixels is 31.5
CAMERAS, FRAMES = 3, 2


def a_body() -> dict[str, np.ndarray]:
    """SMPL's 24 joints in a box, y up."""
    rng = np.random.default_rng(0)
    vertices, quads = a_box((-0.3, -1.2, -0.15), (0.3, 0.5, 0.15), 4)
    weights, regressor = rng.random((len(vertices), 24)) ** 8, rng.random((24, len(vertices))) ** 30
    body = {
        "v_template": vertices, "f": np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]]),
        "shapedirs": rng.normal(0, 0.003, (len(vertices), 3, 10)),
        "posedirs": rng.normal(0, 1e-4, (len(vertices), 3, 207)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True), "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[-1, *range(23)], range(24)]),
    }  # fmt: skip
    return {name: a.astype(np.float32 if a.dtype.kind == "f" else np.int64) for name, a in body.items()}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> Path:
    """A folder as body_models.py writes it."""
    folder = tmp_path_factory.mktemp("bodies")
    np.savez(folder / "SMPL_NEUTRAL.npz", **a_body())
    return folder


def a_fit(frame: int) -> dict[str, np.ndarray]:
    """EasyMocap's: z up in the world, the body's turn outside of the pose."""
    rng = np.random.default_rng(frame)
    poses = rng.normal(0, 0.05, (1, 72))
    poses[:, :3] = 0
    turn = Rotation.from_euler("zx", [20 * frame, 90], degrees=True).as_rotvec()[None]
    fit = {"poses": poses, "shapes": rng.normal(0, 1, (1, 10)), "Rh": turn, "Th": np.array([[0.1, 0.2, 1.1]])}
    return {name: values.astype(np.float32) for name, values in fit.items()}


def mesh_of(body: FamilyBody, fit: dict[str, np.ndarray]) -> np.ndarray:
    """Its vertices in the world: posed, turned about the origin, moved."""
    vertices = body.posed(fit["shapes"], from_family(fit["poses"].reshape(1, 24, 3)))[0][0]
    return vertices @ Rotation.from_rotvec(fit["Rh"][0]).as_matrix().T + fit["Th"]


def a_camera(number: int) -> tuple[np.ndarray, np.ndarray]:
    """R and T in millimetres of cameras around the origin, a metre above the ground; z is up."""
    angle = 2 * np.pi * number / CAMERAS
    place, forward = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1]), -np.array([np.cos(angle), np.sin(angle), 0])
    right = np.cross(forward, [0, 0, 1])
    R = np.stack([right, np.cross(forward, right), forward])
    return R, -1000 * (R @ place)[:, None]


def draw_mask(path: Path, vertices: np.ndarray, R: np.ndarray, T: np.ndarray) -> None:
    """The body's parts, as Neural Body's masks have them: any number but 0."""
    seen = vertices @ R.T + T[:, 0] / 1000
    spots = (seen @ lens.to_course(K).T)[:, :2] / seen[:, 2:]
    image = Image.new("L", (SIZE, SIZE))
    for number, quad in enumerate(a_box(parts=4)[1]):
        ImageDraw.Draw(image).polygon([tuple(spots[n]) for n in quad], fill=1 + number % 18)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def names_of(sequence: str, frame: int) -> list[str]:
    """The pictures of a frame."""
    if sequence == "CoreView_313":
        stamp = f"{frame + 1:04d}_2019-08-23_16-08-50.592"
        return [f"Camera ({n + 1})/CoreView_313_Camera_({n + 1})_{stamp}.jpg" for n in range(CAMERAS)]
    return [f"Camera_B{n + 1}/{frame:06d}.jpg" for n in range(CAMERAS)]


def write_zju(root: Path, bodies: Path) -> Path:
    """An old and a newer sequence."""
    body = body_of(str(bodies), "SMPL", "neutral")
    old, new = ("CoreView_313", 1, "mask", "params"), ("CoreView_377", 0, "mask_cihp", "new_params")
    for sequence, first, masks, fits in (old, new):
        points = fits.replace("params", "vertices")
        folder = root / sequence
        cameras = [a_camera(n) for n in range(CAMERAS)]
        table = {"K": [K] * CAMERAS, "D": [np.zeros((5, 1))] * CAMERAS, "R": [R for R, _ in cameras]}
        frames = [{"ims": names_of(sequence, frame)} for frame in range(FRAMES)]
        (folder / fits).mkdir(parents=True)
        (folder / points).mkdir()
        np.save(folder / "annots.npy", {"cams": table | {"T": [T for _, T in cameras]}, "ims": frames})
        for frame in range(FRAMES):
            fit, number = a_fit(frame), frame + first
            mesh = mesh_of(body, fit)
            np.save(folder / fits / f"{number}.npy", fit)
            np.save(folder / points / f"{number}.npy", mesh.astype(np.float32))
            for (R, T), name in zip(cameras, names_of(sequence, frame), strict=True):
                picture(folder / name, (SIZE, SIZE), frame)
                draw_mask(folder / masks / Path(name).with_suffix(".png"), mesh, R, T)
    return root


def edit(path: Path, change) -> None:
    """Changes the table in a .npy file."""
    table = np.load(path, allow_pickle=True).item()
    change(table)
    np.save(path, table)


def test_without_a_source_it_says_what_to_do(tmp_path, capsys):
    assert_no_source(zju.ZJUMoCap, tmp_path, capsys)


def test_frames_of_all_cameras_become_samples(tmp_path, bodies, capsys):
    root = write_zju(tmp_path / "root", bodies)
    said = assert_good(zju.ZJUMoCap, root, tmp_path / "out", capsys, "--bodies", str(bodies))
    assert (said["groups"], said["samples"]) == (2, 2 * FRAMES * CAMERAS)
    samples = {sample.key: sample for sample in shards.read(tmp_path / "out")}
    body = body_of(str(bodies), "SMPL", "neutral")
    for sequence in ("CoreView_313", "CoreView_377"):  # the old one's fits are those of the same frames, counted from 1
        sample = samples[f"{sequence}-00001-02"]
        person, fit = sample.people[0], a_fit(1)
        np.testing.assert_allclose(person.vertices, mesh_of(body, fit), atol=1e-5)
        vertices, joints = body.posed(person.shape[None], person.pose[None], person.translation[None])
        np.testing.assert_allclose(vertices[0], person.vertices, atol=2e-4)
        np.testing.assert_allclose(joints[0], person.keypoints["smpl24"].points_3d, atol=2e-4)
        R, T = a_camera(2)
        np.testing.assert_allclose(sample.t, T[:, 0] / 1000, atol=1e-6)
        np.testing.assert_allclose(sample.K[:2, 2], 32)
        spots = overlay.project(person.vertices, sample)
        rows, columns = np.nonzero(sample.instances)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, [*spots.min(0), *spots.max(0)], atol=1.5)
        assert set(np.unique(sample.alpha)) == {0, 1} and person.identity == sequence
    assert samples["CoreView_377-00000-01"].scene == 377


def test_some_cameras_and_frames_without_a_body(tmp_path, bodies, capsys):
    root = write_zju(tmp_path / "root", bodies)
    options = ("--cameras", "0,2", "--every", "2", "--border", "5")
    assert run(zju.ZJUMoCap, root, tmp_path / "out", *options) == 0
    samples = list(shards.read(tmp_path / "out"))
    assert [sample.view for sample in samples] == [0, 2, 0, 2]
    person = samples[0].people[0]
    assert person.vertices is not None and person.translation is None and person.keypoints == {}
    np.testing.assert_allclose(np.unique(samples[0].alpha), [0, 0.5, 1], atol=0.01)
    assert_refused(zju.ZJUMoCap, root, tmp_path / "no", capsys, ("--cameras", "0,9"), "--cameras", "0,9")


def in_cams(key: str, function):
    """Changes what stands under a key of the cameras."""
    return lambda path: edit(path, lambda table: changed(key, function)(table["cams"]))


def swapped_rotations(path: Path) -> None:
    edit(path, lambda table: table["cams"].update(K=np.moveaxis(np.array(table["cams"]["K"]), 0, 2)[:, :2]))


ANNOTS = {
    "truncated": (truncate, ("can't be read",)),
    "missing key": (lambda p: edit(p, lambda t: t["cams"].pop("T")), ("T", "the key is missing")),
    "no cameras": (lambda p: edit(p, lambda t: t.pop("cams")), ("cams", "the key is missing")),
    "metres": (in_cams("T", lambda T: T / 1000), ("T's length", "they look like metres")),
    "NaN": (in_cams("R", with_nan), ("R", "NaN")),
    "swapped axes": (lambda p: edit(p, lambda t: t["cams"].update(D=np.zeros((5, CAMERAS)))), ("D", "axes swapped")),
    "transposed": (in_cams("K", np.transpose), ("K", "transposed")),
    "mirror": (in_cams("R", lambda R: R * [[-1], [1], [1]]), ("R", "mirror image")),
    "fewer pictures": (lambda p: edit(p, lambda t: t["ims"][1].update(ims=t["ims"][1]["ims"][:1])), ("3 pictures",)),
    "out of the folder": (lambda p: edit(p, lambda t: t["ims"][0]["ims"].__setitem__(0, "../x.jpg")), ("'../x.jpg'",)),
    "no table": (lambda p: np.save(p, np.zeros(4)), ("cams", "a table with this key")),
}


@pytest.mark.parametrize("name", ANNOTS)
def test_broken_annotations_are_refused(tmp_path, bodies, capsys, name):
    root = write_zju(tmp_path / "root", bodies)
    change, words = ANNOTS[name]
    change(root / "CoreView_377" / "annots.npy")
    words = ("CoreView_377/annots.npy", *words)
    assert_refused(zju.ZJUMoCap, root, tmp_path / "out", capsys, words)
    assert_set_aside(zju.ZJUMoCap, root, tmp_path / "out", capsys, words)


def in_fit(key: str, function):
    """Changes what stands under a key of a fit."""
    return lambda folder: edit(folder / "new_params/1.npy", changed(key, function))


FITS = {
    "truncated": (lambda folder: truncate(folder / "new_params/1.npy"), ("1.npy", "can't be read")),
    "missing": (lambda folder: (folder / "new_params/1.npy").unlink(), ("new_params/1.npy", "no such file")),
    "missing key": (lambda f: edit(f / "new_params/1.npy", lambda t: t.pop("Th")), ("Th", "missing")),
    "millimetres": (in_fit("Th", lambda a: a * 1000), ("Th", "they look like millimetres")),
    "degrees": (in_fit("Rh", np.degrees), ("Rh", "they look like degrees")),
    "NaN": (in_fit("poses", with_nan), ("poses", "NaN")),
    "swapped axes": (in_fit("poses", np.transpose), ("poses", "axes swapped")),
    "a turn in the pose": (in_fit("poses", lambda a: a + 1), ("poses", "zeros for the root")),
    "vertices in mm": (
        lambda f: np.save(f / "new_vertices/1.npy", 1000 * np.load(f / "new_vertices/1.npy")),
        ("new_vertices/1.npy", "they look like millimetres"),
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_broken_fits_are_refused(tmp_path, bodies, capsys, name):
    root = write_zju(tmp_path / "root", bodies)
    change, words = FITS[name]
    change(root / "CoreView_377")
    assert_refused(zju.ZJUMoCap, root, tmp_path / "out", capsys, words)


def test_fits_that_are_not_where_the_mask_is_are_set_aside(tmp_path, bodies, capsys):
    root = write_zju(tmp_path / "root", bodies)
    folder = root / "CoreView_377"
    np.save(folder / "new_vertices/1.npy", np.load(folder / "new_vertices/1.npy") + np.float32([0, 0, 1.2]))
    words = ("CoreView_377-00001-00", "on the mask", "new_params/1.npy")
    assert_set_aside(zju.ZJUMoCap, root, tmp_path / "out", capsys, words)
    words = ("new_vertices/1.npy", "metres from the posed body")
    assert_refused(zju.ZJUMoCap, root, tmp_path / "no", capsys, words, "--bodies", str(bodies))


def test_pictures_and_masks_that_are_missing_or_cut_are_set_aside(tmp_path, bodies, capsys):
    root = write_zju(tmp_path / "root", bodies)
    folder = root / "CoreView_377"
    (folder / "Camera_B1/000000.jpg").unlink()
    (folder / "mask_cihp/Camera_B2/000000.png").unlink()
    truncate(folder / "Camera_B3/000001.jpg", 0.3)
    Image.new("L", (SIZE, SIZE)).save(folder / "mask_cihp/Camera_B2/000001.png")
    words = ("expected the picture Camera_B1/000000.jpg", "expected the mask", "000001.jpg can't be read", "nobody")
    assert_set_aside(zju.ZJUMoCap, root, tmp_path / "out", capsys, words)


def test_distortion_is_taken_out():
    """A dot where OpenCV's model of a lens puts it comes to where a pinhole camera would have it."""
    distortion = np.array([-0.25, 0.1, 0.01, -0.005, 0.02])
    for x, y in ((0.3, 0.2), (-0.35, 0.1), (0.05, -0.3)):
        r = x * x + y * y
        radial = 1 + distortion[0] * r + distortion[1] * r**2 + distortion[4] * r**3
        p1, p2 = distortion[2:4]
        bent = (x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y)
        across, down = np.mgrid[:SIZE, :SIZE][::-1]
        spot = np.exp(-((across - 70 * bent[0] - 31.5) ** 2 + (down - 70 * bent[1] - 31.5) ** 2) / 4)
        image = np.round(255 * spot).astype(np.uint8)
        found = lens.undistorted(np.stack([image] * 3, 2), lens.to_course(K), distortion)[..., 0].astype(float)
        centre = [(found * axis).sum() / found.sum() for axis in (across, down)]
        np.testing.assert_allclose(centre, [70 * x + 31.5, 70 * y + 31.5], atol=0.15)
        mask = lens.undistorted(np.where(image > 100, 7, 0).astype(np.uint8), lens.to_course(K), distortion)
        assert set(np.unique(mask)) == {0, 7} and mask[round(centre[1]), round(centre[0])] == 7

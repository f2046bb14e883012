"""People: drawn from a seed, dressed by cutting surfaces, rendered with labels that agree with each other."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from course_lib.chapters.cameras import Camera
from course_lib.chapters.rendering import rasterize
from course_lib.data import keypoints as kp
from course_lib.data import person as people_module
from course_lib.data.lighting import KINDS, sample_lights
from course_lib.data.parts import MIRROR, PART_COLOURS, PART_IDS, PART_NAMES, colourise, joint_class
from course_lib.data.person import load_body, pose_people, sample_person
from course_lib.data.render import gather_scene, render_scene
from course_lib.data.surfaces import Piece, cut, landmarks, pose_mesh
from course_lib.data.views import project
from course_lib.data.wardrobe import HIDE_MARGIN, dress, fields_of

SIZE = (128, 128)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def camera_at(target, distance=2.6, height=1.9, azimuth=0.0, size=SIZE) -> Camera:
    """Look at a point (3,) so that `height` metres fill the picture."""
    target = torch.as_tensor(target, dtype=torch.float32)
    eye = target + distance * torch.tensor([np.sin(azimuth), 0.08, np.cos(azimuth)], dtype=torch.float32)
    return Camera.look_at(eye[None], target[None], focal=size[0] * distance / height, size=size)


def someone(seed: int, **changes):
    person = sample_person(np.random.default_rng(seed))
    return dataclasses.replace(person, **changes)


def action(*names: str) -> np.ndarray:
    values = np.zeros(52, np.float32)
    for name in names:
        values[load_body().pack["expression_action_names"].tolist().index(name)] = 1
    return values


def render_one(person, azimuth=0.0, size=SIZE, **options):
    posed = pose_people([person])
    camera = camera_at(posed.vertices[0].mean(0), azimuth=azimuth, size=size)
    lights = sample_lights(np.random.default_rng(0), "sun")
    return render_scene([person], camera, size, lights, posed=posed, **options), camera


def test_parts_are_sapiens_28_with_mirror_pairs():
    assert len(PART_NAMES) == len(set(PART_NAMES)) == len(PART_COLOURS) == 28
    pairs = [(4, 13), (5, 14), (6, 15), (7, 16), (8, 17), (9, 18), (10, 19), (11, 20)]  # Sapiens' flip table
    for left, right in pairs:
        assert MIRROR[left] == right and MIRROR[right] == left
    assert (MIRROR[MIRROR] == np.arange(28)).all()
    assert len(np.unique(PART_COLOURS, axis=0)) == 28
    assert colourise(np.array([[0, 27]])).shape == (1, 2, 3)


@pytest.mark.parametrize(
    "joint, name",
    [("left_elbow", "Left_Lower_Arm"), ("right_collar", "Torso"), ("left_index2", "Left_Hand"), ("jaw", "Face_Neck")],
)
def test_joint_class(joint, name):
    assert joint_class(joint) == name


def test_same_seed_same_person_and_picture():
    first, second = someone(3), someone(3)
    assert first.look == second.look and first.outfit == second.outfit and (first.betas == second.betas).all()
    assert someone(4).look != first.look
    a, _ = render_one(first)
    people_module_clear()
    b, _ = render_one(second)
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def people_module_clear():
    from course_lib.data import wardrobe

    wardrobe._DRESSED.clear()
    wardrobe.cut_garment.cache_clear()


def test_posing_is_chapter_02s_body_model():
    person, rng = someone(0), np.random.default_rng(1)
    person = dataclasses.replace(person, pose=rng.normal(0, 0.4, (55, 3)).astype(np.float32))
    posed, model = pose_people([person]), load_body().model
    expected = model(torch.from_numpy(person.betas)[None], torch.from_numpy(person.pose)[None])
    assert torch.allclose(posed.vertices, expected.vertices, atol=1e-5)
    assert torch.allclose(posed.joints, expected.joints, atol=1e-5)


def test_everyone_is_dressed_or_a_mannequin():
    for seed in range(40):
        parts = {g.part for g in someone(seed).outfit.garments}
        assert {"Upper_Clothing", "Lower_Clothing"} <= parts
    mannequin = sample_person(np.random.default_rng(0), clothed=False)
    assert mannequin.outfit.mannequin and people_module.phenotype(mannequin.betas)[1] >= 19


def test_cut_follows_the_zero_line():
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), [0.0]), -1).reshape(-1, 3)
    corner = np.array([i * 5 + j for i in range(4) for j in range(4)])
    lower, upper = np.stack([corner, corner + 1, corner + 6], 1), np.stack([corner, corner + 6, corner + 5], 1)
    faces = np.concatenate([lower, upper])
    piece = cut(Piece.whole(faces, 25), grid[:, 0] - 1.3)
    points = piece.base @ grid
    assert points[:, 0].min() == pytest.approx(1.3, abs=1e-5)
    a, b, c = (points[piece.faces[:, i]] for i in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx((4 - 1.3) * 4, rel=1e-5)
    assert (piece.hem[np.isclose(points[:, 0], 1.3)] == 0).all()


def test_labels_agree():
    result, _ = render_one(someone(5))
    person = result["instances"] > 0
    assert person.sum() > 500
    assert np.array_equal(person, result["parts"] > 0)
    assert np.array_equal(person, result["alpha"] >= 0.5)
    assert np.array_equal(person, np.isfinite(result["depth"]))
    assert np.array_equal(person, np.linalg.norm(result["normals"], axis=-1) > 0)
    assert result["image"].dtype == np.float32 and 0 <= result["image"].min() and result["image"].max() <= 1


def test_normals_are_unit_and_face_the_viewer():
    result, _ = render_one(someone(5))
    normals = result["normals"][result["instances"] > 0]
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    assert (normals[:, 2] > -0.3).all() and normals[:, 2].mean() > 0.5
    columns = np.nonzero(result["instances"])[1]
    x = result["normals"][..., 0][result["instances"] > 0]
    assert np.corrcoef(columns, x)[0, 1] > 0.3  # x points right
    rows = np.nonzero(result["instances"])[0]
    top = result["normals"][..., 1][result["instances"] > 0][rows < rows.min() + 5]
    assert top.mean() > 0.4  # y points up: the top of the head


def test_depth_is_the_rasterisers():
    person = someone(6)
    result, camera = render_one(person, supersample=1)
    scene = gather_scene([person], pose_people([person]), ())
    depth = rasterize(scene.vertices[None], scene.faces, camera, SIZE).depth[0].numpy()
    inside = result["instances"] > 0
    assert np.abs(result["depth"][inside] - depth[inside]).max() < 1e-4
    fine, _ = render_one(person)
    both = inside & (fine["instances"] > 0)
    assert np.median(np.abs(fine["depth"][both] - depth[both])) < 2e-3


def test_all_classes_occur():
    seen = np.zeros(28, int)
    for seed in range(34):
        person = someone(seed)
        if seed % 5 == 0:  # a face that shows its teeth and tongue
            shows = ("jawOpen",) if seed % 2 else ("mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft")
            person = dataclasses.replace(person, expression=action(*shows))
            posed = pose_people([person])
            camera = camera_at(posed.joints[0, 15] + torch.tensor([0, 0.02, 0]), distance=0.8, height=0.3)
            lights = sample_lights(np.random.default_rng(0))
            result = render_scene([person], camera, SIZE, lights, posed=posed)
        else:
            result, _ = render_one(person, azimuth=0.7 * (seed % 3 - 1))
        seen += np.bincount(result["parts"].ravel(), minlength=28)
    missing = [PART_NAMES[i] for i in range(28) if seen[i] == 0]
    assert not missing


def test_left_and_right_are_the_persons_own():
    person = someone(1)
    result, _ = render_one(person)
    left, right = (np.nonzero(result["parts"] == PART_IDS[f"{side}_Hand"])[1] for side in ("Left", "Right"))
    assert left.mean() > right.mean()  # facing the camera


def test_skin_stays_under_clothes():
    """Of the places where a T-shirt's cloth hides the chest, hardly any shows skin, whatever the pose."""
    rng, poking, covered = np.random.default_rng(0), 0, 0
    for seed in range(6):
        person = someone(seed)
        pose = person.pose.copy()
        pose[[1, 2, 16, 17, 18, 19, 3, 6]] += rng.normal(0, 0.25, (8, 3)).astype(np.float32)
        person = dataclasses.replace(person, pose=pose)
        result, camera = render_one(person, azimuth=seed)
        dressed = covered_pixels(person, camera)
        skin = np.isin(result["parts"], [PART_IDS[n] for n in ("Torso", "Left_Upper_Leg", "Right_Upper_Leg")])
        poking, covered = poking + (skin & dressed).sum(), covered + dressed.sum()
    assert covered > 1000
    assert poking / covered < 0.01


def covered_pixels(person, camera) -> np.ndarray:
    """Pixels whose nearest bare skin lies well inside a garment."""
    body = load_body()
    posed = pose_people([person])
    faces = torch.from_numpy(body.pack["faces_body"]).long()
    template, marks = body.model.template.numpy(), landmarks(body)
    deep = np.zeros(len(template), bool)
    for garment in person.outfit.garments:
        if garment.kind in ("shirt", "trousers"):
            inside = np.min([f(template) for f in fields_of(garment, marks)], axis=0)
            deep |= inside > 2 * HIDE_MARGIN
    fragments = rasterize(posed.vertices, faces, camera, SIZE)
    face = fragments.face[0].numpy()
    return (face >= 0) & deep[body.pack["faces_body"]].all(1)[face.clip(0)]


def test_posed_garments_follow_the_body():
    """Every vertex of a shirt stays near the skin when the arms are raised."""
    person = someone(2)
    pose = person.pose.copy()
    pose[[16, 17], 2] = 0.8, -0.8
    posed = pose_people([dataclasses.replace(person, pose=pose)])
    mesh = dress(person)
    placed = pose_mesh(mesh, posed, 0)
    assert placed.vertices.isfinite().all()
    shirt = [i for i, s in enumerate(mesh.surfaces) if getattr(s.style, "kind", "") == "shirt"][0]
    used = mesh.faces[mesh.surface == shirt].unique()
    distance = torch.cdist(placed.vertices[used], posed.vertices[0]).amin(1)
    assert distance.max() < 0.16


def test_two_people_hide_each_other():
    near = someone(7, translation=np.array([0.1, 0, 0.8], np.float32))
    far = someone(8)
    lights = sample_lights(np.random.default_rng(1), "indoor")
    camera = camera_at([0, 0, 0.4], distance=3.5)
    together = render_scene([far, near], camera, SIZE, lights)
    alone = render_scene([far], camera, SIZE, lights)
    assert set(np.unique(together["instances"])) == {0, 1, 2}
    assert (together["instances"] == 1).sum() < (alone["instances"] == 1).sum()
    assert (together["depth"][together["instances"] == 2] < 3.4).all()


class Wall:
    """A white wall 0.5 m behind the origin that faces +z."""

    def render(self, camera, size):
        height, width = size
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera.K[0]).T @ camera.R[0]
        depth = (-0.5 - camera.center[0, 2]) / rays[..., 2]
        return torch.full((*size, 3), 0.8), depth, torch.tensor([0.0, 0, 1]).expand(*size, 3)


def test_people_cast_shadows_on_the_background():
    person = someone(9)
    camera = camera_at([0, 0, 0])
    lights = dataclasses.replace(sample_lights(np.random.default_rng(2), "sun"), sun_direction=(0.48, 0.36, 0.8))
    result = render_scene([person], camera, SIZE, lights, Wall())
    wall = result["image"][result["alpha"] == 0].mean(-1)
    assert wall.max() - wall.min() > 0.1
    assert (wall < wall.max() - 0.1).mean() > 0.02
    assert np.isfinite(result["scene_depth"]).all()


def test_empty_scene_and_bad_input():
    lights = sample_lights(np.random.default_rng(0))
    result = render_scene([], camera_at([0, 0, 0]), SIZE, lights, Wall())
    assert not result["instances"].any() and result["image"].std() < 0.2
    with pytest.raises(ValueError, match="nothing to draw"):
        render_scene([], camera_at([0, 0, 0]), SIZE, lights)
    with pytest.raises(ValueError, match="unknown kind of light"):
        sample_lights(np.random.default_rng(0), "disco")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_light_is_neither_black_nor_burnt(kind):
    person = someone(11)
    posed = pose_people([person])
    lights = sample_lights(np.random.default_rng(5), kind)
    assert np.linalg.norm(lights.sun_direction) == pytest.approx(1)
    result = render_scene([person], camera_at(posed.vertices[0].mean(0)), SIZE, lights, posed=posed)
    colours = result["image"][result["instances"] > 0]
    assert 0.08 < colours.mean() < 0.85
    assert (colours > 0.995).all(1).mean() < 0.1


def test_mannequin_is_grey_and_labelled():
    person = sample_person(np.random.default_rng(0), clothed=False)
    result, _ = render_one(person)
    present = {PART_NAMES[i] for i in np.unique(result["parts"])}
    assert {"Face_Neck", "Torso", "Left_Upper_Arm", "Right_Foot"} <= present
    assert not present & {"Upper_Clothing", "Hair", "Left_Shoe"}
    white = dataclasses.replace(sample_lights(np.random.default_rng(0)), sun_colour=(2.0,) * 3, sky_colour=(0.6,) * 3)
    white = dataclasses.replace(white, ground_colour=(0.3,) * 3, points=())
    posed = pose_people([person])
    grey = render_scene([person], camera_at(posed.vertices[0].mean(0)), SIZE, white, posed=posed)
    colours = grey["image"][grey["instances"] > 0]
    assert np.ptp(colours, axis=1).max() < 0.01


def test_a_body_without_a_pack_is_a_mannequin(tmp_path, monkeypatch):
    body = load_body()
    path = tmp_path / "SMPLX_OTHER.npz"
    with np.load(people_module.OPEN_BODY) as archive:
        np.savez(path, **{k: archive[k] for k in archive.files})
    monkeypatch.setenv("COURSE_BODY", str(path))
    kp.regressor.cache_clear()
    other = load_body()
    assert other is not body and other.pack is None
    person = sample_person(np.random.default_rng(0))
    people_module_clear()
    result, _ = render_one(person)
    present = {PART_NAMES[i] for i in np.unique(result["parts"])}
    assert {"Face_Neck", "Left_Hand", "Right_Lower_Leg"} <= present and "Upper_Clothing" not in present
    assert kp.available("smpl24").sum() > 15
    people_module_clear()
    kp.regressor.cache_clear()


def test_keypoints_and_their_visibility():
    person = someone(12)
    posed = pose_people([person])
    points = kp.keypoints(posed.vertices, "coco17")
    names = kp.FORMATS["coco17"]
    assert points.shape == (1, 17, 3)
    back_camera = camera_at(posed.vertices[0].mean(0), azimuth=np.pi)
    lights = sample_lights(np.random.default_rng(0))
    nose = names.index("nose")
    for camera, seen in ((camera_at(posed.vertices[0].mean(0)), True), (back_camera, False)):
        result = render_scene([person], camera, SIZE, lights, posed=posed)
        spots, z = project(camera, points[0].numpy())
        visible = kp.visibility(spots[None], z[None], result["depth"], kp.tolerance("coco17"), result["instances"])
        assert bool(visible[0, nose]) is seen
        assert visible[0, names.index("left_ankle")]
    with pytest.raises(ValueError, match="unknown keypoint format"):
        kp.keypoints(posed.vertices, "coco18")


@pytest.mark.parametrize("name", sorted(kp.FORMATS))
def test_formats_are_means_of_vertices(name):
    points = kp.keypoints(torch.ones(1, len(load_body().model.template), 3), name)[0]
    have = torch.from_numpy(kp.available(name))
    assert points.shape == (len(kp.FORMATS[name]), 3) and have.float().mean() > 0.7
    assert torch.allclose(points[have], torch.ones(1), atol=1e-3)
    assert (points[~have] == 0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_worker_stays_under_a_gigabyte():
    """A fresh process that renders a few people. (getrusage would count its parent's memory before exec, too.)"""
    code = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
from test_people import someone, render_one
for seed in range(6):
    render_one(someone(seed), size=(256, 256))
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e8 < int(done.stdout) * 1024 < 1e9

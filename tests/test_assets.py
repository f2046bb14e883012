"""The baked body and its pack, as committed; and the pure functions that baked them."""

import hashlib
import importlib.util
import shutil
import sys

import numpy as np
import pytest
import torch

from course_lib.paths import ASSETS, OPEN_BODY, OPEN_BODY_PACK, ROOT

sys.path.insert(0, str(ROOT / "data_scripts"))
import bake_body  # noqa: E402
import body_correctives  # noqa: E402
import body_fields  # noqa: E402
import body_landmarks  # noqa: E402
import body_shapes  # noqa: E402
import body_skeleton as skeleton  # noqa: E402

JOINT = skeleton.JOINT
SURFACES = ("body", "eyes", "tongue", "teeth_lower", "teeth_upper", "lashes", "tights", "skirt", "hair")
FORMATS = {"coco17": 17, "h36m17": 17, "lsp14": 14, "smpl24": 24, "wholebody133": 133, "sapiens308": 308}


@pytest.fixture(scope="module")
def body() -> dict[str, np.ndarray]:
    return dict(np.load(OPEN_BODY))  # allow_pickle is off: an object array would fail here


@pytest.fixture(scope="module")
def pack() -> dict[str, np.ndarray]:
    return dict(np.load(OPEN_BODY_PACK))


def posed(body: dict, rotations: dict[str, tuple], vertices: np.ndarray | None = None, correctives: bool = True):
    """The body with some joints turned by axis-angles (radians): (V, 3)."""
    rest = (body["v_template"] if vertices is None else vertices).astype(np.float64)
    local = np.tile(np.eye(3), (55, 1, 1))
    for name, angles in rotations.items():
        local[JOINT[name]] = skeleton.rotation(np.array(angles, dtype=float))
    world = local.copy()
    for joint in range(1, 55):
        world[joint] = world[skeleton.PARENTS[joint]] @ world[joint]
    feature = (local[1:] - np.eye(3)).ravel()
    used = np.nonzero(feature)[0] if correctives else []
    rest = rest + body["posedirs"][..., used].astype(np.float64) @ feature[used]
    return skeleton.pose_body(rest, body["weights"], world)


def surface_ids(pack: dict, name: str) -> np.ndarray:
    return np.unique(pack[f"faces_{name}"])


def keypoints(pack: dict, name: str, vertices: np.ndarray) -> dict[str, np.ndarray]:
    """Keypoints of a format that have a point: name -> (3,)."""
    names, entries = pack[f"keypoints_{name}_names"], pack[f"keypoints_{name}_regressor"]
    rows, columns = entries[:, 0].astype(int), entries[:, 1].astype(int)
    points = np.zeros((len(names), 3))
    np.add.at(points, rows, vertices[columns] * entries[:, 2:])
    return {str(names[k]): points[k] for k in np.unique(rows)}


# ----------------------------------------------------------------------------- the files


def test_checksums_and_sizes() -> None:
    for line in (ASSETS / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest, f"{name} is not what was baked"
    assert OPEN_BODY.stat().st_size < 5e6 and OPEN_BODY_PACK.stat().st_size < 4e6
    notice = (ASSETS / "NOTICE").read_text()
    assert all(word in notice for word in ("MakeHuman", "Mika Suominen", "CC0 1.0", "NAVER", "Apache License 2.0"))


def test_keys_and_shapes_are_smplx(body: dict) -> None:
    count = len(body["v_template"])
    shapes = {
        "v_template": (count, 3), "shapedirs": (count, 3, 20), "posedirs": (count, 3, 486), "weights": (count, 55),
        "J_regressor": (55, count), "kintree_table": (2, 55), "hands_componentsl": (45, 45), "hands_meanr": (45,),
        "lmk_faces_idx": (51,), "lmk_bary_coords": (51, 3), "dynamic_lmk_faces_idx": (79, 17),
        "dynamic_lmk_bary_coords": (79, 17, 3),
    }  # fmt: skip
    assert {key: body[key].shape for key in shapes} == shapes
    assert body["f"].shape[1] == 3 and body["f"].min() >= 0 and body["f"].max() < count - 55


def test_every_number_is_finite(body: dict, pack: dict) -> None:
    for key, values in (body | pack).items():
        assert values.dtype != object
        if values.dtype.kind == "f":
            assert np.isfinite(values).all(), key


def test_weights_are_convex(body: dict) -> None:
    assert (body["weights"] >= 0).all()
    np.testing.assert_allclose(body["weights"].sum(1), 1, atol=1e-6)


def test_joints_are_the_anchor_vertices_for_every_shape(body: dict) -> None:
    betas = np.random.default_rng(0).normal(size=10)
    vertices = body["v_template"] + body["shapedirs"][..., :10] @ betas
    np.testing.assert_allclose(body["J_regressor"] @ vertices, vertices[-55:], atol=1e-6)
    assert np.abs(vertices[-55]).max() < 1e-3  # the pelvis stays at the origin
    np.testing.assert_array_equal(body["kintree_table"][0, 1:], skeleton.PARENTS[1:])


def test_t_pose(body: dict) -> None:
    joints = {name: body["v_template"][-55:][number] for name, number in JOINT.items()}
    for side, sign in (("left", 1), ("right", -1)):
        for start, end, direction in (("shoulder", "elbow", (sign, 0, 0)), ("elbow", "wrist", (sign, 0, 0)),
                                      ("hip", "knee", (0, -1, 0)), ("knee", "ankle", (0, -1, 0))):  # fmt: skip
            bone = joints[f"{side}_{end}"] - joints[f"{side}_{start}"]
            assert skeleton.normalize(bone) @ direction > 0.9999, (side, start)
        for finger in ("index", "middle", "ring", "pinky"):  # straight, flat
            first = joints[f"{side}_{finger}2"] - joints[f"{side}_{finger}1"]
            second = joints[f"{side}_{finger}3"] - joints[f"{side}_{finger}2"]
            assert skeleton.normalize(first) @ skeleton.normalize(second) > 0.999
        assert joints[f"{side}_thumb3"][2] > joints[f"{side}_wrist"][2] + 0.03  # thumbs in front: palms down
        assert joints[f"{side}_foot"][2] > joints[f"{side}_ankle"][2] + 0.1  # facing +z
    mirrored = joints["left_wrist"] * [-1, 1, 1]
    np.testing.assert_allclose(joints["right_wrist"], mirrored, atol=2e-3)


def test_adults_have_adult_heights(body: dict, pack: dict) -> None:
    betas = np.random.default_rng(1).normal(size=(1000, 10))
    skin = surface_ids(pack, "body")
    heights = np.ptp(body["v_template"][skin, 1] + betas @ body["shapedirs"][skin, 1, :10].T.astype(float), axis=1)
    facts = betas @ pack["phenotype_matrix"].T + pack["phenotype_bias"]
    gender = facts[:, list(pack["phenotype_names"]).index("gender")]
    assert heights[gender < 0.5].mean() == pytest.approx(1.75, abs=0.02)
    assert heights[gender >= 0.5].mean() == pytest.approx(1.63, abs=0.02)
    assert np.abs(facts[:, list(pack["phenotype_names"]).index("height")] - heights).max() < 0.02


# ----------------------------------------------------------------------------- surfaces and fields


def test_surfaces_use_real_vertices_only(body: dict, pack: dict) -> None:
    ids = pack["makehuman_ids"]
    for name in SURFACES:
        faces = pack[f"faces_{name}"]
        assert faces.min() >= 0 and (ids[faces] >= 0).all(), f"{name} uses an anchor"
    drawn = np.concatenate([pack[f"faces_{name}"] for name in ("body", "eyes", "tongue")])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, body["f"]))
    assert not skeleton.in_range(ids, skeleton.GENITAL).any()
    assert (np.diff(ids[:-55]) > 0).all()  # MakeHuman's order


def test_faces_wind_outward(body: dict, pack: dict) -> None:
    vertices = body["v_template"].astype(np.float64)
    for name in ("body", "tights"):
        assert skeleton.mesh_volume(vertices, pack[f"faces_{name}"]) > 0.05  # cubic metres
    for name in ("eyes", "tongue"):
        assert skeleton.mesh_volume(vertices, pack[f"faces_{name}"]) > 0
    for name in ("skirt", "hair"):  # open shells: away from the vertical axis through their middle
        corners = vertices[pack[f"faces_{name}"]]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        outward = (corners.mean(1) - vertices[surface_ids(pack, name)].mean(0)) * [1, 0, 1]
        assert ((normals * outward).sum(1) > 0).mean() > 0.9, name


def test_head_parts_turn_with_the_head(body: dict, pack: dict) -> None:
    angles = (0.2, 0.5, 0.1)
    moved, turn = posed(body, {"head": angles}), skeleton.rotation(np.array(angles))
    pivot = body["v_template"][-55:][JOINT["head"]]
    expected = (body["v_template"] - pivot) @ turn.T + pivot
    for name in ("eyes", "tongue", "teeth_lower", "teeth_upper", "lashes"):
        ids = surface_ids(pack, name)
        assert np.abs(moved[ids] - expected[ids]).max() < 5e-3, name


def test_jaw_opens_with_its_teeth(body: dict, pack: dict) -> None:
    moved = posed(body, {"jaw": (0.35, 0, 0)})
    change = {
        name: (moved - body["v_template"])[surface_ids(pack, f"teeth_{name}"), 1].mean() for name in ("lower", "upper")
    }
    assert change["lower"] < -0.01 and abs(change["upper"]) < 1e-3


def test_actions_move_what_they_name(body: dict, pack: dict) -> None:
    actions = dict(zip(pack["expression_action_names"], pack["expression_actions"].transpose(2, 0, 1), strict=True))
    points = {
        name: keypoints(pack, "sapiens308", body["v_template"] + actions[name]) for name in ("eyeBlinkLeft", "jawOpen")
    }
    rest = keypoints(pack, "sapiens308", body["v_template"])

    def gap(where: dict, upper: str, lower: str) -> float:
        return where[upper][1] - where[lower][1]

    for side, closes in (("l", True), ("r", False)):
        lids = [f"{side}_centerpoint_of_{lid}_lash_line" for lid in ("upper", "lower")]
        assert (gap(points["eyeBlinkLeft"], *lids) < 0.3 * gap(rest, *lids)) == closes
    assert gap(points["jawOpen"], "center_of_upper_inner_lip", "center_of_lower_inner_lip") > 0.02
    assert len(actions) == 52 and np.abs(body["shapedirs"][-55:, :, 10:]).max() == 0  # expressions leave joints alone


def test_fields_lie_where_they_should(body: dict, pack: dict) -> None:
    vertices, joints = body["v_template"], body["v_template"][-55:]
    for name in ("scalp", "beard", "brow", "ear", "lips_upper", "lips_lower", "nail", "ambient_occlusion"):
        assert 0 <= pack[name].min() and 0.9 < pack[name].max() <= 1, name
    head, mouth = joints[JOINT["head"]], vertices[pack["lips_upper"] > 0.5].mean(0)
    assert vertices[pack["scalp"] > 0.5, 1].mean() > head[1] + 0.05
    assert vertices[pack["lips_lower"] > 0.5].mean(0)[1] < mouth[1] < vertices[pack["brow"] > 0.5, 1].min()
    assert np.abs(vertices[pack["ear"] > 0.5, 0]).min() > 0.05
    arm = dict(zip(JOINT, pack["arm"][-55:], strict=True))
    assert [round(float(arm[f"left_{n}"]), 3) for n in ("hip", "shoulder", "elbow", "wrist")] == [0, 0, 1, 2]
    leg = dict(zip(JOINT, pack["leg"][-55:], strict=True))
    assert [round(float(leg[f"right_{n}"]), 3) for n in ("hip", "knee", "ankle")] == [0, 1, 2]
    assert leg["right_foot"] > 2.3 and pack["leg"].max() == pytest.approx(3, abs=0.2)


def test_parts_are_sapiens_classes(body: dict, pack: dict) -> None:
    vertices, part = body["v_template"], pack["part"]
    skin = surface_ids(pack, "body")
    assert set(part[skin]) == {2, 4, 5, 6, 7, 10, 11, 13, 14, 15, 16, 19, 20, 21, 23, 24}
    for left, right in body_fields.RIGHT_PART.items():
        assert vertices[skin][part[skin] == left, 0].mean() > 0 > vertices[skin][part[skin] == right, 0].mean()
    expected = {"teeth_lower": 25, "teeth_upper": 26, "tongue": 27, "hair": 3, "eyes": 2}
    for name, number in expected.items():
        assert set(part[surface_ids(pack, name)]) == {number}


# ----------------------------------------------------------------------------- keypoints and landmarks


@pytest.mark.parametrize("name", FORMATS)
def test_keypoint_tables(pack: dict, name: str) -> None:
    names, entries = pack[f"keypoints_{name}_names"], pack[f"keypoints_{name}_regressor"]
    assert len(names) == len(set(names)) == FORMATS[name]
    total = np.bincount(entries[:, 0].astype(int), entries[:, 2], FORMATS[name])
    missing = set(names[total == 0])
    np.testing.assert_allclose(total[total != 0], 1, atol=1e-5)
    assert missing == (set(pack["keypoints_sapiens308_missing"]) if name == "sapiens308" else set())
    assert entries[:, 1].max() < len(pack["part"])


def test_keypoints_have_their_side(body: dict, pack: dict) -> None:
    for name in ("coco17", "smpl24", "wholebody133", "sapiens308"):
        points = keypoints(pack, name, body["v_template"])
        for key, place in points.items():
            if key.startswith(("left_", "l_")):
                assert place[0] > 0.005, (name, key)
            if key.startswith(("right_", "r_")):
                assert place[0] < -0.005, (name, key)


def test_face_68_is_in_300w_order(body: dict, pack: dict) -> None:
    points = keypoints(pack, "wholebody133", body["v_template"])
    face = np.stack([points[f"face-{k}"] for k in range(68)])
    x, y = face[:, 0], face[:, 1]
    assert (np.diff(x[4:13]) > 0).all()  # jaw, from the body's right to its left
    assert (np.diff(x[17:27]) > 0).all() and (np.diff(y[27:31]) < 0).all() and (np.diff(x[31:36]) > 0).all()
    for first in (36, 42):  # right corner, two above, left corner, two below
        assert x[first] < x[first + 1] < x[first + 2] < x[first + 3]
        assert y[first + 1] > y[first + 5] and y[first + 2] > y[first + 4]
    assert (np.diff(x[48:55]) > 0).all() and (np.diff(x[54:60]) < 0).all() and y[51] > y[62] > y[66] > y[57]
    assert y[17:27].min() > y[36:48].max() > y[30] > y[48:68].max() > y[8]
    np.testing.assert_allclose(face[16:8:-1, :] * [-1, 1, 1], face[:8], atol=3e-3)  # mirror images


def test_smplx_landmarks_agree_with_the_keypoints(body: dict, pack: dict) -> None:
    corners = body["v_template"][body["f"][body["lmk_faces_idx"]]]
    landmarks = (corners * body["lmk_bary_coords"][..., None]).sum(1)
    points = keypoints(pack, "wholebody133", body["v_template"])
    np.testing.assert_allclose(landmarks, [points[f"face-{k}"] for k in range(17, 68)], atol=1e-5)


def test_contour_follows_the_turning_head(body: dict) -> None:
    corners = body["v_template"][body["f"][body["dynamic_lmk_faces_idx"]]]  # (79, 17, 3, 3)
    contour = (corners * body["dynamic_lmk_bary_coords"][..., None]).sum(2)
    assert (contour[:, :8, 0] < 0).all() and (contour[:, 9:, 0] > 0).all()
    # row 39: the head turned to its right, so its left cheek (columns 9..16) ends further back, the right one in front
    assert contour[39, :6, 2].mean() > contour[0, :6, 2].mean() + 0.01
    assert contour[78, 11:, 2].mean() > contour[0, 11:, 2].mean() + 0.01


# ----------------------------------------------------------------------------- the smplx package


def test_smplx_package_poses_the_file(body: dict, tmp_path) -> None:
    smplx = pytest.importorskip("smplx")
    shutil.copy(OPEN_BODY, tmp_path / "SMPLX_NEUTRAL.npz")
    model = smplx.create(
        str(tmp_path / "SMPLX_NEUTRAL.npz"), model_type="smplx", use_pca=False, flat_hand_mean=True,
        num_betas=10, num_expression_coeffs=10, use_face_contour=True,
    )  # fmt: skip
    pose = torch.zeros(1, 63)
    pose[0, 3 * (JOINT["left_elbow"] - 1) + 1], pose[0, 3 * (JOINT["right_knee"] - 1)] = -1.2, 0.9
    betas, expression = torch.randn(2, 1, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = model(betas=betas, expression=expression, body_pose=pose).vertices[0].numpy()
    shaped = body["v_template"] + body["shapedirs"].astype(np.float32) @ torch.cat([betas, expression], 1)[0].numpy()
    ours = posed(body, {"left_elbow": (0, -1.2, 0), "right_knee": (0.9, 0, 0)}, shaped)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


# ----------------------------------------------------------------------------- what baked them


@pytest.mark.parametrize(("joint", "rest"), [("left_elbow", 0.6), ("right_knee", 0.6), ("left_hip", 0.8)])
def test_correctives_go_most_of_the_way_to_their_target(body: dict, joint: str, rest: float) -> None:
    rotations = body_correctives.sample_rotations(joint, 12, np.random.default_rng(3))
    template = body["v_template"].astype(np.float64)
    before, after = body_correctives.left_over(body["posedirs"], template, body["weights"], joint, rotations)
    assert 0.0005 < before < 0.02 and after < rest * before


def test_rotations() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 20, 3))
    turned = skeleton.carried(skeleton.swing(source, target), source)
    np.testing.assert_allclose(skeleton.normalize(turned), skeleton.normalize(target), atol=1e-9)
    angles = rng.uniform(-1.5, 1.5, (20, 3))
    np.testing.assert_allclose(skeleton.axis_angle(skeleton.rotation(angles)), angles, atol=1e-9)
    half_turn = skeleton.rotation(np.array([[0.0, 1.0, 0.0]]))
    blend = body_correctives.blend_rotations(half_turn, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(skeleton.axis_angle(blend)[0, :, 1], [0, 0.5, 1], atol=1e-9)


def test_principal_directions_find_what_varies() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3, 2)) * [3.0, 1.0]
    samples = rng.normal(size=(60, 2)) @ truth.reshape(-1, 2).T
    mean, directions, scores = body_shapes.principal_directions(samples.reshape(60, 50, 3) + 5, np.ones(50), 2)
    np.testing.assert_allclose(mean + directions @ scores[7], samples.reshape(60, 50, 3)[7] + 5, atol=1e-9)
    np.testing.assert_allclose(scores.T @ scores / 60, np.eye(2), atol=1e-9)


def test_quantized_weights_sum_to_one_exactly() -> None:
    weights = body_shapes.quantized_weights(np.random.default_rng(0).dirichlet(np.full(7, 0.3), 100))
    assert (weights.sum(1) == 1).all() and (weights >= 0).all()


def test_bones_go_to_their_joint() -> None:
    labels, parents = (
        ["root", "spine05", "spine04", "spine03", "wrist.L", "metacarpal1.L", "finger2-1.L"],
        [-1, 0, 1, 2, 3, 4, 5],
    )
    merged = [skeleton.JOINT_NAMES[k] for k in skeleton.merge_bones(labels, parents)]
    assert merged == ["pelvis", "pelvis", "spine1", "spine1", "left_wrist", "left_wrist", "left_index1"]


def test_pick_takes_the_nearest_face_that_looks_at_the_viewer() -> None:
    square = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    vertices = np.concatenate([square, square + [0, 0, 2]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 5, 6]])  # the third looks away
    surface = body_landmarks.Surface(vertices, faces, np.zeros(3))
    face, share = surface.pick("front", 0.5, 0.0)
    assert face == 3
    np.testing.assert_allclose(share @ vertices[faces[face]], [0.5, 0, 2], atol=1e-12)
    with pytest.raises(ValueError, match="nothing under"):
        surface.pick("front", 3.0, 0.0)


def test_sapiens_names() -> None:
    names = body_landmarks.sapiens_names()
    assert len(set(names)) == 308
    assert (names[41], names[69], names[178], names[307]) == (
        "right_wrist", "neck", "tip_of_nose", "r_border_of_pupil_midpoint_2",
    )  # fmt: skip


def test_polylines() -> None:
    line = [(0, 0), (3, 0), (3, 1)]
    np.testing.assert_allclose(body_landmarks.along(line, [0, 0.5, 1]), [[0, 0], [2, 0], [3, 1]])
    inside = body_landmarks.polygon_distance(np.array([[1.0, 1.0], [5.0, 1.0]]), [(0, 0), (4, 0), (4, 2), (0, 2)])
    np.testing.assert_allclose(inside, [1, -1])


def test_baking_without_anny_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install -e \.\[bake\]"):
        bake_body.check_tools()

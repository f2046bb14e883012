"""Chapter 02's body: its equations, an independent implementation, bad files, bad arguments, and its drawing."""

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from course_lib import widgets
from course_lib.chapters.bodies import (
    BODY_SHAPES,
    JOINT_NAMES,
    BodyFileError,
    BodyModel,
    blend_shapes,
    forward_kinematics,
    linear_blend_skinning,
    local_transforms,
    mesh_volume,
    pose_features,
    read_body_file,
    regress_joints,
)
from course_lib.chapters.cameras import axis_angle_to_matrix
from course_lib.checks.ch02 import PARENTS, tiny_body, tiny_body_arrays
from course_lib.paths import OPEN_BODY

PARTS = {"global_orient": (0, 1), "body_pose": (1, 22), "jaw_pose": (22, 23), "leye_pose": (23, 24),
         "reye_pose": (24, 25), "left_hand_pose": (25, 40), "right_hand_pose": (40, 55)}  # fmt: skip


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return BodyModel.from_npz(OPEN_BODY)


@pytest.fixture
def tiny() -> BodyModel:
    return tiny_body()


def written(folder, name="SMPLX_TINY.npz", **changes):
    """A tiny body file with some arrays replaced; None leaves a key out."""
    arrays = tiny_body_arrays() | changes
    np.savez(folder / name, **{key: value for key, value in arrays.items() if value is not None})
    return folder / name


def random_arguments(batch: int, shapes: int = 10, expressions: int = 10) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    sizes = {"betas": (shapes,), "pose": (55, 3), "expression": (expressions,), "translation": (3,)}
    return {name: 0.6 * torch.randn(batch, *size, generator=generator) for name, size in sizes.items()}


def smplx_body(path, **options):
    """The smplx package as a function with our arguments."""
    smplx = pytest.importorskip("smplx")
    model = smplx.create(path, model_type="smplx", ext="npz", use_pca=False, flat_hand_mean=True, **options)
    model.vertex_joint_selector.extra_joints_idxs = torch.zeros(21, dtype=torch.long)  # made for another mesh

    def forward(betas, pose, expression, translation):
        parts = {name: pose[:, start:end].flatten(1) for name, (start, end) in PARTS.items()}
        output = model(betas=betas, expression=expression, transl=translation, **parts)
        return output.vertices, output.joints[:, :55]

    return forward


# ------------------------------------------------------------------------------------------------- against smplx
def test_equals_the_smplx_package_for_100_random_bodies(body):
    """Shapes, all joints with jaw, eyes and hands, expressions, translations: within 1e-5 m."""
    theirs = smplx_body(OPEN_BODY)
    for seed in range(10):
        arguments = random_arguments(10)
        torch.manual_seed(seed)
        arguments = {name: value + 0.3 * torch.randn_like(value) for name, value in arguments.items()}
        with torch.no_grad():
            pairs = zip(body(**arguments), theirs(**arguments), strict=True)
            assert max((a - b).abs().max().item() for a, b in pairs) < 1e-5


@pytest.mark.parametrize(("columns", "shapes", "expressions"), [(20, 10, 10), (16, 10, 6), (400, 300, 100)])
def test_layouts_of_shape_directions(tmp_path, columns, shapes, expressions):
    """10 + 10 columns, fewer, or 300 + 100: split where the smplx package splits them."""
    path = written(tmp_path, **tiny_body_arrays(shapes=columns))
    model = BodyModel.from_npz(path)
    assert model.shape_directions.shape == (110, 3, shapes)
    assert model.expression_directions.shape == (110, 3, expressions)
    arguments = random_arguments(3, shapes, expressions)
    theirs = smplx_body(path, num_betas=shapes, num_expression_coeffs=expressions, batch_size=3)
    for ours, other in zip(model(**arguments), theirs(**arguments), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)


def test_joint_names_are_those_of_smplx():
    names = pytest.importorskip("smplx.joint_names").JOINT_NAMES
    assert list(JOINT_NAMES) == names[:55]


# ------------------------------------------------------------------------------------------------- the equations
@pytest.mark.parametrize("seed", range(3))
def test_forward_kinematics_equals_recursion(tiny, seed):
    torch.manual_seed(seed)
    rotations, joints = axis_angle_to_matrix(torch.randn(2, 55, 3)), torch.randn(2, 55, 3)
    local = local_transforms(rotations, joints, tiny.parents)

    def frame(joint):
        return local[:, joint] if joint == 0 else frame(PARENTS[joint]) @ local[:, joint]

    posed, transforms = forward_kinematics(rotations, joints, tiny.parents)
    expected = torch.stack([frame(j)[:, :3, 3] for j in range(55)], dim=1)
    torch.testing.assert_close(posed, expected, atol=1e-4, rtol=1e-4)
    carried = (transforms[..., :3, :3] @ joints[..., None])[..., 0] + transforms[..., :3, 3]
    torch.testing.assert_close(carried, posed, atol=1e-4, rtol=1e-4)


def test_identity_leaves_the_template(body):
    output = body()
    torch.testing.assert_close(output.vertices[0], body.template, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.joints[0], body.joint_regressor @ body.template, atol=1e-6, rtol=0)


def test_turning_the_root_turns_everything_and_moves_nothing_else(body):
    pose = torch.zeros(1, 55, 3)
    pose[0, 0] = torch.tensor([0.5, -2.0, 1.0])
    rotation, pelvis = axis_angle_to_matrix(pose[0, 0]), body.joint_template[0]
    turned = (body.template - pelvis) @ rotation.T + pelvis
    torch.testing.assert_close(body(pose=pose).vertices[0], turned, atol=1e-5, rtol=0)


def test_pose_features_ignore_the_root_and_vanish_at_rest():
    rotations = torch.eye(3).repeat(1, 55, 1, 1)
    rotations[:, 0] = axis_angle_to_matrix(torch.tensor([0.1, 0.2, 0.3]))
    assert pose_features(rotations).shape == (1, 486)
    assert pose_features(rotations).abs().max() == 0


def test_the_parts_add_up_to_the_whole(tiny):
    """`forward` glues matrices together; the same in the paper's own order."""
    arguments = random_arguments(2)
    rotations = axis_angle_to_matrix(arguments["pose"])
    shaped = blend_shapes(tiny.template, tiny.shape_directions, arguments["betas"])
    shaped = blend_shapes(shaped, tiny.expression_directions, arguments["expression"])
    rest = blend_shapes(shaped, tiny.pose_directions, pose_features(rotations))
    joints, transforms = forward_kinematics(rotations, regress_joints(tiny.joint_regressor, shaped), tiny.parents)
    shift = arguments["translation"][:, None]
    output = tiny(**arguments)
    torch.testing.assert_close(output.vertices, linear_blend_skinning(rest, tiny.weights, transforms) + shift)
    torch.testing.assert_close(output.joints, joints + shift)


def test_gradients_flow_to_everything_and_are_finite_at_zero(tiny):
    arguments = {name: (0 * value).requires_grad_() for name, value in random_arguments(2).items()}
    output = tiny(**arguments)
    (output.vertices.square().sum() + output.joints.square().sum()).backward()
    for name, value in arguments.items():
        assert value.grad.isfinite().all() and value.grad.abs().max() > 0, name


def test_gradients_are_right():
    model = tiny_body().double()
    arguments = [value[:1].double().requires_grad_() for value in random_arguments(1).values()]
    direction = torch.randn(110, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *a: (model(*a).vertices[0] * direction).sum(), arguments)


def test_volume_of_the_open_body_and_what_correctives_mend(body):
    """A person of 40 to 100 litres; a bent knee and hip lose flesh, less of it with pose correctives."""
    pose = torch.zeros(2, 55, 3)
    pose[0, JOINT_NAMES.index("left_knee"), 0] = 2.0
    pose[1, JOINT_NAMES.index("left_hip"), 0] = -1.5
    rest = mesh_volume(body.template[None], body.faces)
    assert 0.04 < rest.item() < 0.1
    rotations = axis_angle_to_matrix(pose)
    _, transforms = forward_kinematics(rotations, body.joint_template.expand(2, 55, 3), body.parents)
    linear = linear_blend_skinning(body.template.expand(2, -1, 3), body.weights, transforms)
    lost, mended = (rest - mesh_volume(vertices, body.faces) for vertices in (linear, body(pose=pose).vertices))
    assert (lost > 1e-4).all() and (mended < 0.8 * lost).all()


# ------------------------------------------------------------------------------------------------- arguments
def test_arguments_of_size_one_are_repeated(tiny):
    arguments = random_arguments(3)
    one = {name: value[:1] for name, value in arguments.items()}
    mixed = tiny(one["betas"], arguments["pose"], one["expression"], arguments["translation"])
    for i in range(3):
        alone = tiny(one["betas"], arguments["pose"][i : i + 1], one["expression"], arguments["translation"][i : i + 1])
        torch.testing.assert_close(mixed.vertices[i], alone.vertices[0], atol=1e-6, rtol=1e-5)
    assert tiny(pose=arguments["pose"]).vertices.shape == (3, 110, 3)


def test_short_coefficients_end_in_zeros(tiny):
    betas = torch.randn(2, 4)
    padded = torch.cat([betas, torch.zeros(2, 6)], dim=1)
    torch.testing.assert_close(tiny(betas=betas).vertices, tiny(betas=padded).vertices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": torch.zeros(2, 10), "pose": torch.zeros(3, 55, 3)}, r"batch sizes differ.*betas.*2.*pose.*3"),
        ({"pose": torch.zeros(2, 165)}, r"pose has shape \(2, 165\).*\(B, 55, 3\)"),
        ({"betas": torch.zeros(2, 11)}, r"betas has shape \(2, 11\).*\(B, 10\)"),
        ({"translation": torch.zeros(3)}, r"translation has shape \(3,\).*\(B, 3\)"),
    ],
)
def test_wrong_arguments_are_named(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_constants_follow_the_module_and_stay_out_of_checkpoints(tiny):
    assert tiny.double()().vertices.dtype == torch.float64
    assert not tiny.state_dict() and not list(tiny.parameters())


# ------------------------------------------------------------------------------------------------- files
def test_a_whole_file_is_read(tmp_path):
    arrays = read_body_file(written(tmp_path))
    assert arrays.keys() == BODY_SHAPES.keys() and arrays["posedirs"].dtype == np.float32


@pytest.mark.parametrize("key", BODY_SHAPES)
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(BodyFileError, match=f"key '{key}' is missing.*COURSE_BODY"):
        read_body_file(written(tmp_path, **{key: None}))


@pytest.mark.parametrize("key", BODY_SHAPES)
def test_a_wrong_shape_is_named(tmp_path, key):
    array = tiny_body_arrays()[key]
    with pytest.raises(BodyFileError, match=f"'{key}' has shape .* expected"):
        read_body_file(written(tmp_path, **{key: array[..., None] if key == "shapedirs" else array[..., :-1]}))


@pytest.mark.parametrize("key", ["v_template", "shapedirs", "weights", "posedirs"])
def test_nan_is_named(tmp_path, key):
    array = tiny_body_arrays()[key].copy()
    array.flat[7] = np.nan
    with pytest.raises(BodyFileError, match=f"'{key}' holds NaN"):
        read_body_file(written(tmp_path, **{key: array}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f": np.full((4, 3), 110)}, "'f' points outside the 110 vertices"),
        ({"kintree_table": np.tile(np.arange(55)[::-1], (2, 1))}, "'kintree_table' must name each joint's parent"),
        ({"weights": np.full((110, 55), 0.5)}, "'weights' must be positive and sum to 1"),
        ({"v_template": np.full((110, 3), "x")}, "'v_template' holds <U1"),
    ],
)
def test_arrays_without_sense_are_named(tmp_path, changes, message):
    with pytest.raises(BodyFileError, match=message):
        read_body_file(written(tmp_path, **changes))


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_object_arrays_are_never_unpickled(tmp_path):
    trace = tmp_path / "unpickled"
    path = written(tmp_path, f=np.array([Bomb(str(trace))], dtype=object))
    with pytest.raises(BodyFileError, match="'f' .*pickled objects, which are never loaded"):
        read_body_file(path)
    (tmp_path / "SMPLX_PICKLE.npz").write_bytes(pickle.dumps(Bomb(str(trace))))
    with pytest.raises(BodyFileError, match="not a whole .npz file"):
        read_body_file(tmp_path / "SMPLX_PICKLE.npz")
    assert not trace.exists()


def test_object_arrays_that_nobody_reads_do_no_harm(tmp_path):
    """SMPL-X's own file holds dictionaries under keys that are not needed."""
    read_body_file(written(tmp_path, part2num=np.array({"head": 1}, dtype=object)))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(BodyFileError, match="not a whole .npz file"):
        read_body_file(path)


def test_a_damaged_array_is_named(tmp_path):
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    start = data.index(b"shapedirs.npy") + 2000
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(BodyFileError, match="'shapedirs' is damaged"):
        read_body_file(path)


def test_no_file_and_the_environment_variable(tmp_path, monkeypatch):
    with pytest.raises(BodyFileError, match="is not there.*COURSE_BODY"):
        read_body_file(tmp_path / "SMPLX_NONE.npz")
    monkeypatch.setenv("COURSE_BODY", str(written(tmp_path)))
    assert BodyModel.from_npz().template.shape == (110, 3)


# ------------------------------------------------------------------------------------------------- drawing
def test_draw_mesh_paints_only_what_faces_the_viewer(body):
    figure, ax = plt.subplots()
    widgets.draw_mesh(ax, body.template, body.faces, azimuth=30)
    figure.canvas.draw()
    drawn = len(ax.collections[0]._triangulation.triangles)
    assert 0.3 * len(body.faces) < drawn < 0.7 * len(body.faces)
    widgets.draw_row(
        [body.template] * 2, body.faces, ["a", "b"], focus=widgets.face_focus(body().joints[0], JOINT_NAMES)
    )
    plt.close("all")


def test_sliders_move_the_body(body, monkeypatch):
    seen = []
    monkeypatch.setattr(widgets, "draw_body_and_face", lambda output, *_: seen.append(output.vertices[0]))
    box = widgets.body_sliders(body, JOINT_NAMES)
    sliders = {slider.description: slider for slider in box.children[0].children}
    for name in ("shape 1", "expression 1", "left elbow", "jaw"):
        sliders[name].value = sliders[name].max
        assert (seen[-1] - seen[-2]).abs().max() > 1e-3, name

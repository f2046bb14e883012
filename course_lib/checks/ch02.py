"""The checks of chapter 02: bodies."""

import numpy as np
import torch
from torch import Tensor

from course_lib.chapters import bodies
from course_lib.checks import Wrong, check_for, expect, expect_close, expect_not_close, wrong_answer

# SMPL-X's kinematic tree: the parent of each of the 55 joints; a hand's 15 joints hang on its wrist, 20 or 21
FINGER_PARENTS = [parent for wrist, first in ((20, 25), (21, 40)) for k in range(0, 15, 3)
                  for parent in (wrist, first + k, first + k + 1)]  # fmt: skip
PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, *FINGER_PARENTS]


def tiny_body_arrays(vertices: int = 110, shapes: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """A random body in SMPL-X's layout, too small to be seen and large enough to be tested: `vertices` >= 110."""
    rng = np.random.default_rng(seed)
    joints = np.cumsum(rng.normal(0, 0.1, (55, 3)), axis=0)
    owner = np.arange(vertices) % 55
    weights = np.eye(55)[owner] + 0.5 * np.eye(55)[np.maximum(np.array(PARENTS), 0)[owner]]
    weights = weights + 0.2 * np.eye(55)[rng.integers(0, 55, vertices)]
    regressor = np.eye(55)[:, owner] * (np.arange(vertices) < 110) / 2
    return {
        "v_template": (joints[owner] + rng.normal(0, 0.05, (vertices, 3))).astype(np.float32),
        "f": rng.integers(0, vertices, (200, 3)).astype(np.uint32),
        "shapedirs": rng.normal(0, 0.01, (vertices, 3, shapes)).astype(np.float32),
        "posedirs": rng.normal(0, 0.01, (vertices, 3, 486)).astype(np.float16),
        "J_regressor": regressor.astype(np.float32),
        "weights": (weights / weights.sum(1, keepdims=True)).astype(np.float32),
        "kintree_table": np.stack([np.array(PARENTS) % 2**32, np.arange(55)]),
        "hands_componentsl": np.eye(45), "hands_componentsr": np.eye(45),
        "hands_meanl": np.zeros(45), "hands_meanr": np.zeros(45),
        "lmk_faces_idx": np.zeros(51, np.int64), "lmk_bary_coords": np.full((51, 3), 1 / 3),
    }  # fmt: skip


def tiny_body(**sizes: int) -> bodies.BodyModel:
    """The random body as a model."""
    arrays = tiny_body_arrays(**sizes)
    read = {key: arrays[key].astype(np.int64 if key in ("f", "kintree_table") else np.float32)
            for key in bodies.BODY_SHAPES}  # fmt: skip
    return bodies.BodyModel(read)


BODY = tiny_body()
TREE = torch.tensor([-1, 0, 1, 1, 0])  # the third joint's parent is not the joint before it


def rotations_of(*shape: int) -> Tensor:
    """Random rotations of at most a right angle (*shape, 3, 3)."""
    return bodies.axis_angle_to_matrix(torch.randn(*shape, 3) * 0.8)


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """One homogeneous matrix (4, 4), written entry by entry."""
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def chain(rotations: Tensor, joints: Tensor, joint: int, parents: Tensor = TREE) -> Tensor:
    """The frame of a joint in the world by recursion (4, 4): SMPL's Eq. 4, read from the joint up to the root."""
    parent = int(parents[joint])
    if parent < 0:
        return rigid(rotations[joint], joints[joint])
    return chain(rotations, joints, parent, parents) @ rigid(rotations[joint], joints[joint] - joints[parent])


def random_tree() -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (2, 5, 3, 3) and rest joints (2, 5, 3) on TREE."""
    return rotations_of(2, 5), torch.randn(2, 5, 3), TREE.clone()


# ------------------------------------------------------------------------------------------------- 02.1 blend shapes
@check_for("02.1")
def blend_shapes(answer):
    template, directions, coefficients = torch.randn(7, 3), torch.randn(7, 3, 4), torch.randn(2, 4)
    expect_close(answer(template, directions, torch.zeros(2, 4)), template.expand(2, 7, 3),
                 "with all coefficients zero the template must come back, and it")  # fmt: skip
    expected = torch.stack([template + sum(c[k] * directions[..., k] for k in range(4)) for c in coefficients])
    actual = answer(template, directions, coefficients)
    scrambled = template + (coefficients @ directions.permute(2, 1, 0).flatten(1)).view(2, 7, 3)
    expect_not_close(actual, scrambled, "x, y and z are scrambled: flatten (V, 3) in that order, vertex first")
    expect_not_close(actual, expected * 4 - 3 * (expected - template),
                     "the template was added once for each coefficient: add it once, after the sum")  # fmt: skip
    expect_close(actual, expected, "the shaped vertices")


@wrong_answer("02.1", says="template")
def only_the_offsets(template, directions, coefficients):
    return torch.einsum("vck,bk->bvc", directions, coefficients)


@wrong_answer("02.1", says="scrambled")
def coordinates_first(template, directions, coefficients):
    return template + (coefficients @ directions.permute(2, 1, 0).flatten(1)).view(-1, len(template), 3)


@wrong_answer("02.1", says="once")
def template_in_the_sum(template, directions, coefficients):
    mixed = template[..., None] + directions * coefficients[:, None, None]  # (B, V, 3, K)
    return mixed.sum(-1) if coefficients.any() else template.expand(len(coefficients), -1, -1)


@wrong_answer("02.1", says="shape")
def forgets_the_batch(template, directions, coefficients):
    return template + directions @ coefficients[0]


# ------------------------------------------------------------------------------------------------- 02.2 joints
@check_for("02.2")
def regress_joints(answer):
    regressor = torch.rand(5, 12)
    regressor = regressor / regressor.sum(1, keepdim=True)
    vertices = torch.randn(2, 12, 3)
    expected = torch.stack([torch.stack([(row[:, None] * v).sum(0) for row in regressor]) for v in vertices])
    actual = answer(regressor, vertices)
    expect_not_close(actual, vertices.mean(1, keepdim=True).expand(2, 5, 3),
                     "every joint is the mean of all vertices: weigh the vertices with the joint's row")  # fmt: skip
    expect_not_close(actual, expected / 12, "the weighted sum was also divided by V: the rows already sum to 1")
    expect_close(actual, expected, "the joints")
    shift = torch.tensor([1.0, 2.0, 3.0])
    expect_close(answer(regressor, vertices + shift), expected + shift, "the joints of a body that was moved")


@wrong_answer("02.2", says="mean of all")
def mean_of_vertices(joint_regressor, vertices):
    return vertices.mean(1, keepdim=True).expand(-1, len(joint_regressor), -1)


@wrong_answer("02.2", says="divided by V")
def mean_of_weighted(joint_regressor, vertices):
    return (joint_regressor[None, :, :, None] * vertices[:, None]).mean(2)


@wrong_answer("02.2", says="another order")
def coordinates_before_joints(joint_regressor, vertices):
    return vertices.mT @ joint_regressor.T


# ------------------------------------------------------------------------------------------------- 02.3 local frames
@check_for("02.3")
def local_transforms(answer):
    rotations, joints, parents = random_tree()
    expected = torch.stack([
        torch.stack([rigid(r[j], x[j] - (x[p] if p >= 0 else 0)) for j, p in enumerate(parents.tolist())])
        for r, x in zip(rotations, joints, strict=True)
    ])  # fmt: skip
    actual = answer(rotations, joints, parents)
    mistakes = {
        joints: "the translation is the joint itself: subtract the parent's joint, for a frame in the parent's frame",
        joints
        - joints[:, parents]: "joint 0 has parent -1, and joints[:, -1] is the last joint: keep the root's place",
        joints.diff(dim=1, prepend=torch.zeros(2, 1, 3)): "the joint before it in the list is not its parent",
        torch.cat([0 * joints[:, :1], expected[:, 1:, :3, 3]], 1): "the root was put at the origin: it has a place",
        torch.cat([joints[:, :1], -expected[:, 1:, :3, 3]], 1): "the bones point the wrong way: joint minus parent",
    }
    if isinstance(actual, Tensor) and actual.shape == expected.shape:
        expect_not_close(actual, expected.mT, "the matrices are transposed: the translation is the last column")
        for translation, message in mistakes.items():
            expect_not_close(actual[..., :3, 3], translation, message)
    expect_close(actual, expected, "the local transforms")


def with_translation(rotations: Tensor, translations: Tensor) -> Tensor:
    """(B, J, 4, 4) for the wrong answers below."""
    return bodies.rigid_transform(rotations, translations)


@wrong_answer("02.3", says="subtract the parent")
def absolute_joints(rotations, joints, parents):
    return with_translation(rotations, joints)


@wrong_answer("02.3", says="parent -1")
def root_minus_last(rotations, joints, parents):
    return with_translation(rotations, joints - joints[:, parents])


@wrong_answer("02.3", says="before it in the list")
def previous_joint(rotations, joints, parents):
    return with_translation(rotations, joints.diff(dim=1, prepend=torch.zeros_like(joints[:, :1])))


@wrong_answer("02.3", says="root was put at the origin")
def root_at_origin(rotations, joints, parents):
    bones = joints[:, 1:] - joints[:, parents[1:]]
    return with_translation(rotations, torch.cat([torch.zeros_like(joints[:, :1]), bones], dim=1))


# ------------------------------------------------------------------------------------------------- 02.4 kinematics
@check_for("02.4")
def forward_kinematics(answer):
    rotations, joints, parents = random_tree()
    frames = torch.stack([torch.stack([chain(r, x, j) for j in range(5)])
                          for r, x in zip(rotations, joints, strict=True)])  # fmt: skip
    posed, transforms = frames[..., :3, 3], frames.clone()
    transforms[..., :3, 3] = posed - (frames[..., :3, :3] @ joints[..., None])[..., 0]
    actual = answer(rotations, joints, parents)
    shapes = [getattr(part, "shape", None) for part in actual] if isinstance(actual, tuple | list) else None
    if shapes == [transforms.shape, posed.shape]:
        raise Wrong("the two are swapped: return the posed joints first, then the transforms")
    if shapes == [posed.shape, transforms.shape]:
        explain_kinematics(actual, joints, rotations, frames)
    expect_close(actual, (posed, transforms), "forward_kinematics(rotations, joints, parents)")
    try:
        answer(rotations.requires_grad_(), joints, parents)[1].sum().backward()
    except RuntimeError as error:
        raise Wrong("the values are right, but gradients cannot pass: frames were written into a tensor that was read "
                    "from before, or were detached. Collect them in a list and torch.stack it") from error  # fmt: skip


def explain_kinematics(actual: tuple, joints: Tensor, rotations: Tensor, frames: Tensor) -> None:
    """The four mistakes that nearly everybody makes once."""
    found, transforms = actual
    expect_not_close(transforms, frames, "the transforms are the joints' frames: subtract the rotated rest joint, "
                     "so that they carry points of the rest pose")  # fmt: skip
    expect_not_close(transforms[..., :3, :3], rotations,
                     "every joint has only its own rotation: multiply its parent's world frame into it")  # fmt: skip
    backwards = rotations[:, 2] @ rotations[:, 1] @ rotations[:, 0]
    expect_not_close(transforms[:, 2, :3, :3], backwards, "the product is in the wrong order: world[parent] @ local[j]")
    previous = rotations[:, 0] @ rotations[:, 1] @ rotations[:, 2] @ rotations[:, 3]
    expect_not_close(transforms[:, 3, :3, :3], previous, "joint 3 hangs on joint 1 here, not on the joint before it")
    expect_not_close(transforms[..., :3, 3], frames[..., :3, 3] - joints,
                     "the rest joint was subtracted without being rotated: t = posed - R @ rest")  # fmt: skip
    expect_not_close(found, joints, "the posed joints are the rest joints: take them from the world frames")


def kinematics(rotations, joints, parents, compose, shift):
    """forward_kinematics with a mistake put in, for the wrong answers below."""
    local = bodies.local_transforms(rotations, joints, parents)
    world = [local[:, 0]]
    for j, parent in enumerate(parents.tolist()[1:], start=1):
        world.append(compose(world, parent, local[:, j]))
    frames = torch.stack(world, dim=1)
    return frames[..., :3, 3], bodies.rigid_transform(frames[..., :3, :3], shift(frames, joints))


def right_shift(frames, joints):
    return frames[..., :3, 3] - (frames[..., :3, :3] @ joints[..., None])[..., 0]


@wrong_answer("02.4", says="carry points of the rest pose")
def frames_not_relative(rotations, joints, parents):
    return kinematics(rotations, joints, parents, lambda w, p, t: w[p] @ t, lambda f, x: f[..., :3, 3])


@wrong_answer("02.4", says="wrong order")
def child_before_parent(rotations, joints, parents):
    return kinematics(rotations, joints, parents, lambda w, p, t: t @ w[p], right_shift)


@wrong_answer("02.4", says="hangs on joint 1")
def previous_is_parent(rotations, joints, parents):
    return kinematics(rotations, joints, parents, lambda w, p, t: w[-1] @ t, right_shift)


@wrong_answer("02.4", says="without being rotated")
def unrotated_rest(rotations, joints, parents):
    return kinematics(rotations, joints, parents, lambda w, p, t: w[p] @ t, lambda f, x: f[..., :3, 3] - x)


@wrong_answer("02.4", says="swapped")
def transforms_first(rotations, joints, parents):
    return bodies.forward_kinematics(rotations, joints, parents)[::-1]


@wrong_answer("02.4", says="only its own rotation")
def no_chain(rotations, joints, parents):
    return kinematics(rotations, joints, parents, lambda w, p, t: t, right_shift)


@wrong_answer("02.4", says="gradients cannot pass")
def written_in_place(rotations, joints, parents):
    world = bodies.local_transforms(rotations, joints, parents)
    for j, parent in enumerate(parents.tolist()[1:], start=1):
        world[:, j] = world[:, parent] @ world[:, j]
    return world[..., :3, 3], bodies.rigid_transform(world[..., :3, :3], right_shift(world, joints))


# ------------------------------------------------------------------------------------------------- 02.5 skinning
@check_for("02.5")
def linear_blend_skinning(answer):
    vertices = torch.randn(2, 6, 3)
    weights = torch.rand(6, 4) ** 2
    weights = weights / weights.sum(1, keepdim=True)
    transforms = bodies.rigid_transform(rotations_of(2, 4), torch.randn(2, 4, 3))
    unmoved = answer(vertices, weights, torch.eye(4).expand(2, 4, 4, 4))
    expect_not_close(unmoved, 4 * vertices, "4 identity transforms made the body 4 times as large: "
                     "multiply each joint's movement with its weight, so that the sum is a mean")  # fmt: skip
    expect_close(unmoved, vertices, "identity transforms must leave the vertices alone; they")
    ones = torch.ones(2, 6, 1)
    moved = torch.einsum("bjrc,bvc->bvjr", transforms, torch.cat([vertices, ones], -1))[..., :3]  # (B, V, J, 3)
    rotated = torch.einsum("bjrc,bvc->bvjr", transforms[..., :3, :3], vertices)
    turned = torch.einsum("bjcr,bvc->bvjr", transforms[..., :3, :3], vertices) + transforms[:, None, :, :3, 3]
    actual = answer(vertices, weights, transforms)
    strongest = moved[:, torch.arange(6), weights.argmax(1)]
    expect_not_close(actual, strongest, "every vertex follows its strongest joint only: blend all joints by weight")
    blend = weights[:, :, None]
    expect_not_close(actual, (blend * rotated).sum(2), "the translations are missing: last column of the transforms")
    expect_not_close(actual, (blend * turned).sum(2), "the rotations are transposed: R @ v for column vectors")
    expect_not_close(actual, (weights.softmax(1)[:, :, None] * moved).sum(2),
                     "the weights went through a softmax: they sum to 1 already")  # fmt: skip
    expect_close(actual, (blend * moved).sum(2), "the skinned vertices")


@wrong_answer("02.5", says="strongest joint")
def nearest_joint(vertices, weights, transforms):
    chosen = transforms[:, weights.argmax(1)]  # (B, V, 4, 4)
    return (chosen[..., :3, :3] @ vertices[..., None])[..., 0] + chosen[..., :3, 3]


@wrong_answer("02.5", says="translations are missing")
def rotations_only(vertices, weights, transforms):
    blended = torch.einsum("vj,bjrc->bvrc", weights, transforms[..., :3, :3])
    return (blended @ vertices[..., None])[..., 0]


@wrong_answer("02.5", says="transposed")
def row_vectors(vertices, weights, transforms):
    blended = torch.einsum("vj,bjrc->bvrc", weights, transforms)
    return (vertices[:, :, None] @ blended[..., :3, :3])[:, :, 0] + blended[..., :3, 3]


@wrong_answer("02.5", says="times as large")
def sum_without_weights(vertices, weights, transforms):
    summed = transforms.sum(1, keepdim=True)
    return (summed[..., :3, :3] @ vertices[..., None])[..., 0] + summed[..., :3, 3]


# ------------------------------------------------------------------------------------------------- 02.7 pose features
@check_for("02.7")
def pose_features(answer):
    rest = answer(torch.eye(3).expand(2, 5, 3, 3))
    expect(isinstance(rest, Tensor), "a tensor (B, 9 (J - 1)) was expected")
    if rest.shape == (2, 45):
        raise Wrong("the root is among the features: turning the whole body must not change its shape")
    expect_not_close(rest, torch.eye(3).flatten().repeat(2, 4),
                     "at the rest pose the features are the identity: subtract it, so that they are zero")  # fmt: skip
    expect_close(rest, torch.zeros(2, 36), "at the rest pose the features")
    rotations = rotations_of(2, 5)
    actual = answer(rotations)
    by_column = (rotations[:, 1:].mT - torch.eye(3)).flatten(1)
    expect_not_close(actual, by_column, "the matrices are read column by column: SMPL-X stores them row by row")
    expected = torch.stack([torch.cat([(r - torch.eye(3)).reshape(9) for r in body[1:]]) for body in rotations])
    expect_not_close(actual, -expected, "the signs are turned round: R - I, not I - R")
    expect_close(actual, expected, "the pose features")


@wrong_answer("02.7", says="subtract it")
def identity_kept(rotations):
    return rotations[:, 1:].flatten(1)


@wrong_answer("02.7", says="root is among")
def root_included(rotations):
    return (rotations - torch.eye(3)).flatten(1)


@wrong_answer("02.7", says="subtract it|rest pose")
def identity_added(rotations):
    return (rotations[:, 1:] + torch.eye(3)).flatten(1)


@wrong_answer("02.7", says="column by column")
def transposed_rotations(rotations):
    return (rotations[:, 1:].mT - torch.eye(3)).flatten(1)


# ------------------------------------------------------------------------------------------------- 02.8 the whole body
def arguments(batch: int = 2) -> dict[str, Tensor]:
    """Random arguments of the tiny body."""
    sizes = {"betas": (10,), "pose": (55, 3), "expression": (10,), "translation": (3,)}
    return {name: torch.randn(batch, *size) * 0.4 for name, size in sizes.items()}


def whole_body(betas, pose, expression, translation, mistake: str = "") -> bodies.BodyOutput:
    """SMPL-X's Eq. 1-2, one line a step, with room for one mistake."""
    correctives_last = mistake == "joints after correctives"
    rotations = bodies.axis_angle_to_matrix(pose)
    shaped = bodies.blend_shapes(BODY.template, BODY.shape_directions, betas)
    if mistake != "no expression":
        shaped = bodies.blend_shapes(shaped, BODY.expression_directions, expression)
    features = 0 * bodies.pose_features(rotations) if mistake == "no correctives" else bodies.pose_features(rotations)
    rest = bodies.blend_shapes(shaped, BODY.pose_directions, features)
    sources = {"joints of the template": BODY.template[None].expand_as(shaped)}
    joints = BODY.joint_regressor @ sources.get(mistake, rest if correctives_last else shaped)
    posed, transforms = bodies.forward_kinematics(rotations, joints, BODY.parents)
    vertices = bodies.linear_blend_skinning(rest, BODY.weights, transforms)
    if mistake == "joints of the posed body":
        posed = BODY.joint_regressor @ vertices
    turned = (rotations[:, 0] @ translation[..., None])[..., 0]
    shift = {"translation turned": turned, "no translation": 0 * translation}.get(mistake, translation)
    posed = joints if mistake == "rest joints" else posed
    posed_shift = 0 * shift if mistake == "joints not translated" else shift
    return bodies.BodyOutput(vertices + shift[:, None], posed + posed_shift[:, None])


MISTAKES = {
    "joints of the template": "the joints come from the template: regress them from the shaped vertices",
    "joints after correctives": "the joints were regressed after the pose correctives: regress before",
    "no correctives": "the pose correctives are missing: pose_features times pose_directions, before skinning",
    "no expression": "the expression is missing",
    "joints of the posed body": "the joints were regressed from the skinned vertices: use the kinematics",
    "rest joints": "the joints that came back are those of the rest pose: return the posed ones",
    "no translation": "the translation is missing: add it to vertices and joints, after skinning",
    "joints not translated": "the vertices were translated, the joints were not: both are in the world",
    "translation turned": "the translation was turned with the root: add it in the world, after skinning",
}


@check_for("02.8")
def body_forward(answer):
    given = arguments()
    actual = answer(BODY, **given)
    expect(isinstance(actual, tuple) and len(actual) == 2, "BodyOutput(vertices, joints) was expected")
    for mistake, message in MISTAKES.items():
        wrong = whole_body(**given, mistake=mistake)
        if all(isinstance(a, Tensor) and a.shape == w.shape and torch.allclose(a, w, atol=1e-5)
               for a, w in zip(actual, wrong, strict=True)):  # fmt: skip
            raise Wrong(message)
    expect_close(actual, whole_body(**given), "the posed body", atol=1e-5)
    rest = bodies.BodyOutput(BODY.template[None], BODY.joint_template[None])
    expect_close(answer(BODY), rest, "without arguments the template and its joints")


def mistaken(mistake: str):
    """`BodyModel.forward` with one mistake."""

    def forward(self, betas=None, pose=None, expression=None, translation=None):
        given = self.complete(betas=betas, pose=pose, expression=expression, translation=translation)
        return whole_body(*given, mistake=mistake)

    forward.__name__ = mistake.replace(" ", "_")
    return forward


wrong_answer("02.8", says="come from the template")(mistaken("joints of the template"))
wrong_answer("02.8", says="after the pose correctives")(mistaken("joints after correctives"))
wrong_answer("02.8", says="correctives are missing")(mistaken("no correctives"))
wrong_answer("02.8", says="expression is missing")(mistaken("no expression"))
wrong_answer("02.8", says="from the skinned vertices")(mistaken("joints of the posed body"))
wrong_answer("02.8", says="translation is missing")(mistaken("no translation"))
wrong_answer("02.8", says="joints were not")(mistaken("joints not translated"))
wrong_answer("02.8", says="turned with the root")(mistaken("translation turned"))


# ------------------------------------------------------------------------------------------------- 02.6 volume
CUBE = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
CUBE_FACES = torch.tensor([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
                           [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])  # fmt: skip


@check_for("02.6")
def mesh_volume(answer):
    box = CUBE * torch.tensor([1.0, 2.0, 3.0])
    batch = torch.stack([CUBE, box])
    expected = torch.tensor([1.0, 6.0])
    actual = answer(batch, CUBE_FACES)
    expect_not_close(actual, 6 * expected, "six times too large: a tetrahedron is a sixth of a . (b x c)")
    expect_not_close(actual, -expected, "the volume is negative: a . (b x c), in the order of the face")
    expect_close(actual, expected, "the volumes of a unit cube and of a 1 x 2 x 3 box")
    moved = answer(batch + 5, CUBE_FACES)
    expect_close(moved, expected, "the volumes of the boxes moved by 5 m (tetrahedra have a sign: no abs)", atol=1e-3)


@wrong_answer("02.6", says="six times")
def parallelepipeds(vertices, faces):
    a, b, c = vertices[:, faces].unbind(2)
    return (a * torch.linalg.cross(b, c)).sum((-1, -2))


@wrong_answer("02.6", says="volumes of a unit cube|no abs")
def absolute_tetrahedra(vertices, faces):
    a, b, c = vertices[:, faces].unbind(2)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs().sum(-1) / 6


@wrong_answer("02.6", says="negative")
def turned_around(vertices, faces):
    a, b, c = vertices[:, faces].unbind(2)
    return (a * torch.linalg.cross(c, b)).sum((-1, -2)) / 6

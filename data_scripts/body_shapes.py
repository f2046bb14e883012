"""From sampled adults to a T-posed mean body, ten shape directions, ten expressions and 52 facial actions."""

import dataclasses

import numpy as np
from body_skeleton import (
    BODY,
    EXPRESSION_COUNT,
    EYES,
    FINGER_NUMBER,
    JOINT,
    JOINT_COUNT,
    SHAPE_COUNT,
    axis_angle,
    bone_vector,
    carried,
    in_range,
    joint_of_bone,
    mesh_volume,
    normalize,
    pose_joints,
    skin,
    swing,
)
from body_source import Source, kept_vertices, rest_states, sample_adults, to_smpl_axes

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


def hand_components(curl: np.ndarray, seed: int) -> np.ndarray:
    """45 orthonormal directions of hand poses, the most used first: PCA of 2000 made-up hands. (45, 45), one a row.

    curl (45,) is the relaxed hand: its axes are what each joint bends about. The made-up hands bend all fingers
    together, each finger for itself, and spread the fingers; the rest of the 45 numbers varies little.
    """
    rng = np.random.default_rng(seed)
    axes = normalize(curl.reshape(5, 3, 3))
    axes[4, 0] = axes[4, 1]  # the thumb's root is straight when relaxed: take the next joint's axis
    bend = rng.normal(0, 0.5, (2000, 1, 1)) + rng.normal(0, 0.3, (2000, 5, 1)) + rng.normal(0, 0.1, (2000, 5, 3))
    poses = bend[..., None] * axes  # (2000, 5, 3, 3) index, middle, pinky, ring, thumb
    poses[:, :, 0, 1] += rng.normal(0, 0.12, (2000, 1)) * np.array([1.0, 0.3, -1.0, -0.4, 0.5])
    poses += rng.normal(0, 0.02, poses.shape)
    components = np.linalg.eigh(np.cov(poses.reshape(2000, 45).T))[1].T[::-1]
    return components * np.sign(components @ axes.ravel())[:, None]  # a positive coefficient closes the hand


# ----------------------------------------------------------------------------- shape and expression spaces


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


# ----------------------------------------------------------------------------- everything gathered


def quantized_weights(weights: np.ndarray, steps: int = 4096) -> np.ndarray:
    """Round to multiples of 1/steps (they compress well); a row's largest weight takes up the rest, so sums stay 1."""
    rounded = np.round(weights / weights.sum(1, keepdims=True) * steps)
    rows = np.arange(len(weights))
    rounded[rows, rounded.argmax(1)] += steps - rounded.sum(1)
    return (rounded / steps).astype(np.float32)


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

"""The 55 joints, MakeHuman's bones and vertex ranges, and the geometry that every step of the bake uses.

Letters: S sampled bodies, V vertices, F faces, J = 55 joints. Metres, y up, facing +z.
"""

import numpy as np

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


def euler_rotation(degrees: np.ndarray) -> np.ndarray:
    """(..., 3) angles about x, y, z -> Ry Rz Rx, (..., 3, 3)."""
    x, y, z = (rotation(np.deg2rad(degrees[..., k : k + 1]) * np.eye(3)[k]) for k in range(3))
    return y @ z @ x


def carried(rotations: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(S, 3, 3), (S, 3) -> (S, 3)."""
    return (rotations @ vectors[..., None])[..., 0]


def bone_vector(joints: np.ndarray, start: str, end: str) -> np.ndarray:
    """From one joint to another, in the rest pose: (S, 3)."""
    return joints[:, JOINT[end]] - joints[:, JOINT[start]]


def pose_body(rest: np.ndarray, weights: np.ndarray, world: np.ndarray) -> np.ndarray:
    """A T-posed body (V, 3) with its anchors at the end, under world rotations (55, 3, 3) -> (V, 3)."""
    return skin(rest[None], rest[None, -JOINT_COUNT:], weights.astype(np.float64), world[None])[0]


def in_range(ids: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Which ids lie in [first, last]."""
    return (ids >= limits[0]) & (ids <= limits[1])


def mesh_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume in cubic metres: positive where the faces wind outward."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


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

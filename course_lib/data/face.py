"""Places on the template's face and skin: the eyes, the nose, where blood is near the surface, where a beard grows."""

from functools import lru_cache

import numpy as np

from course_lib.data.person import load_body
from course_lib.data.surfaces import landmarks
from course_lib.data.texture import ramp


@lru_cache(maxsize=1)
def face_points() -> dict:
    """Places on the template's face (left side) from joints and named vertices, (3, 1) each but for numbers."""
    body = load_body()
    joints, template = landmarks(body).joints, body.model.template.numpy()
    skin = template[np.unique(body.pack["faces_body"])]
    eye = (joints[23] + joints[24] * np.array([-1, 1, 1], np.float32)) / 2
    middle = skin[(np.abs(skin[:, 0]) < 0.004) & (skin[:, 1] < eye[1]) & (skin[:, 1] > eye[1] - 0.06)]
    nose = middle[middle[:, 2].argmax()]
    mouth = template[body.pack["lips_upper"] + body.pack["lips_lower"] > 0.5].mean(0)
    points = {"eye": eye[:, None], "nose": nose[:, None], "mouth": mouth[:, None]}
    return points | {"chin": joints[12, 1] + 0.03, "wrist": float(joints[20, 0]), "joints": joints}


def eye_centre(p: np.ndarray, face: dict) -> np.ndarray:
    """The middle of the nearer eye ball (3, N)."""
    x, y, z = face["eye"]
    return np.stack(np.broadcast_arrays(np.where(p[0] > 0, x, -x), y, z))


def eye_distance(p: np.ndarray, face: dict) -> np.ndarray:
    """Distance (N,) from the nearer eye in the plane of the face."""
    return np.hypot(np.abs(p[0]) - face["eye"][0], p[1] - face["eye"][1])


def blood(p: np.ndarray, face: dict) -> np.ndarray:
    """Where skin is redder (N,): cheeks, nose, ears, chin, knuckles, elbows, knees."""
    x, y, z = np.abs(p[0]), p[1], p[2]
    eye, nose = face["eye"], face["nose"]
    cheek = np.exp(-(((x - eye[0] - 0.009) / 0.019) ** 2) - ((y - nose[1] - 0.003) / 0.015) ** 2) * (z > eye[2] - 0.06)
    tip = np.exp(-(((p - nose) / 0.013) ** 2).sum(0))
    ear = ramp(0.066, 0.076, x) * (y > face["chin"]) * ramp(0.05, 0.03, np.abs(y - eye[1])) * (x < 0.12)
    hands = 0.5 * ramp(0.06, 0.12, x - face["wrist"])
    joints = face["joints"]
    bends = np.exp(-(((x - joints[18, 0]) / 0.04) ** 2)) + np.exp(-(((y - joints[4, 1]) / 0.05) ** 2)) * (x < 0.3)
    return (0.62 * cheek + 0.55 * tip + 0.5 * ear + hands + 0.3 * bends).clip(0, 1)


def beard_area(p: np.ndarray, face: dict) -> np.ndarray:
    """Where a beard grows (N,): chin, cheeks below a line from ear to mouth, upper lip; not the lips."""
    x, y, z = np.abs(p[0]), p[1] - face["mouth"][1], p[2]
    jaw = ramp(0.006, -0.006, y - 0.004 - 0.85 * (x - 0.028).clip(0))
    moustache = ramp(0.0195, 0.0155, y + 0.10 * (x - 0.012).clip(0)) * ramp(0.034, 0.026, x)
    low = -0.052 + 0.35 * (face["mouth"][2] - 0.03 - z).clip(0)
    area = np.maximum(jaw, moustache) * ramp(low - 0.008, low + 0.008, y) * (z > face["eye"][2] - 0.115)
    return area * (1 - ramp(0.0125, 0.0085, np.abs(y)) * ramp(0.030, 0.024, x))


@lru_cache(maxsize=1)
def skin_fields() -> np.ndarray:
    """Blood and beard at every vertex of the template: (V, 2)."""
    template, face = load_body().model.template.numpy().T, face_points()
    return np.stack([blood(template, face), beard_area(template, face)], 1)

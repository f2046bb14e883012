"""Places on the template's face and skin: the eyes, the nose, where blood is near the surface, where a beard grows."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from course_lib.data.person import load_body
from course_lib.data.surfaces import landmarks
from course_lib.data.texture import ramp


@lru_cache(maxsize=1)
def face_points() -> dict:
    """Places on the template's face (left side) from joints and named vertices."""
    body = load_body()
    joints = torch.from_numpy(landmarks(body).joints)
    template = body.model.template
    skin = template[torch.from_numpy(np.unique(body.pack["faces_body"])).long()]
    eye = (joints[23] + joints[24] * torch.tensor([-1.0, 1, 1])) / 2
    middle = skin[(skin[:, 0].abs() < 0.004) & (skin[:, 1] < eye[1]) & (skin[:, 1] > eye[1] - 0.06)]
    nose = middle[middle[:, 2].argmax()]
    lips = torch.from_numpy(body.pack["lips_upper"] + body.pack["lips_lower"]) > 0.5
    mouth = template[lips].mean(0)
    chin = joints[12, 1] + 0.03
    return {"eye": eye, "nose": nose, "mouth": mouth, "chin": chin, "wrist": float(joints[20, 0]), "joints": joints}


def eye_centre(p: Tensor, face: dict) -> Tensor:
    """The middle of the nearer eye ball (N, 3)."""
    side = torch.where(p[:, :1] > 0, 1.0, -1.0)
    return torch.cat([face["eye"][0] * side, face["eye"][1].expand(len(p), 1), face["eye"][2].expand(len(p), 1)], 1)


def eye_distance(p: Tensor, face: dict) -> Tensor:
    """Distance (N,) from the nearer eye in the plane of the face."""
    return torch.hypot(p[:, 0].abs() - face["eye"][0], p[:, 1] - face["eye"][1])


def blood(p: Tensor, face: dict) -> Tensor:
    """Where skin is redder (N,): cheeks, nose, ears, chin, knuckles, elbows, knees."""
    x, y, z = p[:, 0].abs(), p[:, 1], p[:, 2]
    eye, nose = face["eye"], face["nose"]
    cheek = torch.exp(-(((x - eye[0] - 0.009) / 0.019) ** 2) - ((y - nose[1] - 0.003) / 0.015) ** 2) * (
        z > eye[2] - 0.06
    )
    tip = torch.exp(-(((p - nose) / 0.013) ** 2).sum(1))
    ear = ramp(0.066, 0.076, x) * (y > face["chin"]) * ramp(0.05, 0.03, (y - eye[1]).abs()) * (x < 0.12)
    hands = 0.5 * ramp(0.06, 0.12, x - face["wrist"])
    joints = face["joints"]
    bends = torch.exp(-(((x - joints[18, 0]) / 0.04) ** 2)) + torch.exp(-(((y - joints[4, 1]) / 0.05) ** 2)) * (x < 0.3)
    return (0.62 * cheek + 0.55 * tip + 0.5 * ear + hands + 0.3 * bends).clamp(0, 1)


def beard_area(p: Tensor, face: dict) -> Tensor:
    """Where a beard grows (N,): chin, cheeks below a line from ear to mouth, upper lip; not the lips."""
    x, y, z = p[:, 0].abs(), p[:, 1] - face["mouth"][1], p[:, 2]
    jaw = ramp(0.006, -0.006, y - 0.004 - 0.85 * (x - 0.028).clamp(min=0))
    moustache = ramp(0.0195, 0.0155, y + 0.10 * (x - 0.012).clamp(min=0)) * ramp(0.034, 0.026, x)
    low = -0.052 + 0.35 * (face["mouth"][2] - 0.03 - z).clamp(min=0)
    area = torch.maximum(jaw, moustache) * ramp(low - 0.008, low + 0.008, y) * (z > face["eye"][2] - 0.115)
    return area * (1 - ramp(0.0125, 0.0085, y.abs()) * ramp(0.030, 0.024, x))


@lru_cache(maxsize=1)
def skin_fields() -> np.ndarray:
    """Blood and beard at every vertex of the template: (V, 2)."""
    template, face = load_body().model.template, face_points()
    return torch.stack([blood(template, face), beard_area(template, face)], 1).numpy()

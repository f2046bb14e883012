"""Glasses: rims around lens outlines, a bridge over the nose, temples over the ears; measured on each head.

All shapes are our own. The lenses are sheets of their own kind of surface, which the opaque picture leaves out.
"""

import numpy as np

from course_lib.data.parts import PART_IDS
from course_lib.data.person import Glasses, Look
from course_lib.data.surfaces import Builder, Surface

# half width and half height of a lens in metres, exponent of its superellipse, how much the top is wider than the
# bottom, how far the outer corner is lifted
OUTLINES = {
    "round": (0.0230, 0.0225, 2.0, 0.0, 0.0),
    "oval": (0.0260, 0.0185, 2.2, 0.0, 0.0),
    "square": (0.0265, 0.0195, 4.5, 0.08, 0.0),
    "wide": (0.0280, 0.0165, 5.0, 0.05, 0.0),
    "pilot": (0.0285, 0.0235, 2.6, 0.22, -0.0015),
    "cat": (0.0265, 0.0185, 2.8, 0.22, 0.0045),
}
TILT = 0.12  # radians: lenses lean towards the cheeks
WRAP = 0.10  # radians: and follow the face outwards


def sample_glasses(rng: np.random.Generator) -> Glasses:
    """Draw a pair: mostly clear lenses, some tinted, some for the sun."""
    shape = str(rng.choice(list(OUTLINES)))
    frames = [(0.06, 0.06, 0.07), (0.25, 0.14, 0.07), (0.55, 0.52, 0.48), (0.62, 0.48, 0.22), (0.45, 0.09, 0.10),
              (0.10, 0.16, 0.32), (0.75, 0.72, 0.70)]  # fmt: skip
    frame = tuple(float(v) for v in np.clip(np.array(frames[rng.integers(len(frames))]) * rng.uniform(0.8, 1.2), 0, 1))
    dark = float(
        rng.choice([rng.uniform(0.02, 0.08), rng.uniform(0.15, 0.4), rng.uniform(0.65, 0.9)], p=[0.7, 0.12, 0.18])
    )
    tints = [(0.25, 0.27, 0.28), (0.38, 0.26, 0.16), (0.20, 0.30, 0.24), (0.30, 0.30, 0.45)]
    tint = tints[rng.integers(len(tints))]
    return Glasses(shape, frame, float(rng.uniform(0.0008, 0.0022)), tint, dark, float(rng.uniform(0.94, 1.08)))


def outline(glasses: Glasses, count: int = 40) -> np.ndarray:
    """The left lens's rim (count, 2) around its middle: x outwards, y up, metres. ValueError for an unknown shape."""
    if glasses.shape not in OUTLINES:
        raise ValueError(f"there are no {glasses.shape!r} glasses: use one of {', '.join(OUTLINES)}")
    wide, high, power, top, lift = OUTLINES[glasses.shape]
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    x = wide * np.sign(c) * np.abs(c) ** (2 / power)
    y = high * np.sign(s) * np.abs(s) ** (2 / power)
    x = x * (1 + top * y / high)
    y = y + lift * (x / wide) * (y > 0)
    return glasses.size * np.stack([x, y], 1)


def tube(path: np.ndarray, radius: np.ndarray | float, closed: bool = False, sides: int = 8):
    """A tube around a path (N, 3): vertices (N sides, 3), faces (F, 3) that turn outwards."""
    ends = (
        (np.roll(path, -1, 0), np.roll(path, 1, 0))
        if closed
        else (np.r_[path[1:], path[-1:]], np.r_[path[:1], path[:-1]])
    )
    along = ends[0] - ends[1]
    along /= np.linalg.norm(along, axis=1, keepdims=True).clip(1e-9)
    helper = np.where(np.abs(along[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    if closed:
        helper = np.broadcast_to([0.0, 0.0, 1.0], path.shape)
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True).clip(1e-9)
    second = np.cross(along, first)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None]
    ring = np.cos(angle) * first[:, None] + np.sin(angle) * second[:, None]  # (N, sides, 3)
    vertices = path[:, None] + np.reshape(radius, (-1, 1, 1)) * ring
    rows = len(path)
    index = np.arange(rows * sides).reshape(rows, sides)
    down = np.roll(index, -1, 0) if closed else index[1:]
    up = index if closed else index[:-1]
    a, b, c, d = up, np.roll(up, -1, 1), down, np.roll(down, -1, 1)
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return vertices.reshape(-1, 3), faces


class Fit:
    """Where glasses sit on one head at rest: everything is measured on its skin."""

    def __init__(self, builder: Builder, glasses: Glasses):
        self.glasses, joints = glasses, builder.shape.joints
        faces = builder.body.pack["faces_body"]
        head = np.zeros(len(builder.template), bool)
        head[faces.ravel()] = True
        head &= builder.shape.vertices[:, 1] > joints[12, 1]
        self.ears = builder.shape.vertices[head & (builder.body.pack["ear"] > 0.5)]
        self.skin = builder.shape.vertices[head & (builder.body.pack["ear"] < 0.3)]
        lashes = builder.shape.vertices[np.unique(builder.body.pack["faces_lashes"])]
        self.front = np.concatenate([self.skin, lashes])
        eyes = joints[[23, 24]]
        self.eye_y, self.eye_x = float(eyes[:, 1].mean()) - 0.0025, float(np.abs(eyes[:, 0]).mean())
        rim = outline(glasses)
        inner = float(rim[:, 0].min())
        self.centre_x = max(self.eye_x + 0.001, -inner + 0.0085 + glasses.thick)
        self.z = 0.0
        self.z = float(self.clearance(self.place(np.concatenate([rim, 0.6 * rim])))) + 0.0025 + glasses.thick

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the left lens's plane at rest (N, 3): leaning, wrapped and slightly curved."""
        x, y = points.T
        curve = -2.2 * (x**2 + y**2)
        z = self.z + curve - WRAP * (x + 0.4 * self.centre_x) + TILT * y
        return np.stack([self.centre_x + x, self.eye_y + y, z], 1)

    def clearance(self, points: np.ndarray) -> float:
        """How far forward points (N, 3) must be moved until no skin stands out over them."""
        gap = np.abs(self.front[:, None, :2] * [1, 1] - points[None, :, :2])
        near = (gap < 0.006).all(-1)  # (M, N)
        ahead = np.where(near, self.front[:, None, 2] - points[None, :, 2], -np.inf)
        return float(ahead.max())

    def temple(self) -> np.ndarray:
        """The path (N, 3) of the left arm: from the lens's corner along the head, over the ear, down behind it."""
        rim = outline(self.glasses)
        corner = rim[(rim @ [1.0, 0.45]).argmax()]
        start = self.place(corner[None])[0]
        left = self.ears[self.ears[:, 0] > 0]
        top = left[left[:, 1].argmax()]
        end_z = float(left[:, 2].min() + 0.25 * (left[:, 2].max() - left[:, 2].min()))
        t = np.linspace(0, 1, 16)
        z = start[2] + 0.001 + (end_z - start[2]) * t
        y = start[1] + (top[1] + 0.001 - start[1]) * np.minimum(t * 1.25, 1)
        x = np.maximum(start[0] + (top[0] * 0.9 - start[0]) * t, self.side(y, z) + 0.003)
        x = np.convolve(np.pad(x, 2, mode="edge"), np.ones(5) / 5, "valid")
        x = np.maximum(x, self.side(y, z) + 0.0015)
        hook = np.stack([x[-1] - 0.004 * np.linspace(0.2, 1, 5), y[-1] - 0.03 * np.linspace(0.15, 1, 5) ** 1.3,
                         z[-1] - 0.012 * np.linspace(0.3, 1, 5)], 1)  # fmt: skip
        return np.concatenate([np.stack([x, y, z], 1), hook])

    def side(self, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """How wide the head is (N,) at heights y and depths z (N,), ears left out."""
        gap = np.abs(self.skin[:, None, 1:] - np.stack([y, z], -1)[None])
        near = (gap < 0.009).all(-1)
        return np.where(near, np.abs(self.skin[:, None, 0]), 0).max(0)

    def bridge(self) -> np.ndarray:
        """The path (N, 3) over the nose between the lenses."""
        rim = outline(self.glasses)
        corner = rim[(rim @ [-1.0, 0.35]).argmax()]
        start = self.place(corner[None])[0]
        nose = self.skin[(np.abs(self.skin[:, 0]) < 0.006) & (np.abs(self.skin[:, 1] - start[1] - 0.003) < 0.006)]
        over = float(nose[:, 2].max()) + 0.0015 + self.glasses.thick if len(nose) else start[2]
        s = np.linspace(-1, 1, 11)
        arch = 1 - s**2
        z = start[2] + (max(over, start[2] + 0.001) - start[2]) * arch**0.7
        return np.stack([-s * start[0], start[1] + 0.003 * arch, z], 1)


def add_glasses(builder: Builder, look: Look) -> None:
    """Frame and lenses of a look's glasses; nothing without glasses, or on a body without the course's surfaces."""
    if look.glasses is None or builder.body.pack is None:
        return
    fit, thick, mirror = Fit(builder, look.glasses), look.glasses.thick, np.array([-1.0, 1.0, 1.0])
    rim = fit.place(outline(look.glasses))
    temple = fit.temple()
    radius = thick * np.linspace(1.15, 0.9, len(temple))
    parts = [tube(rim, thick, closed=True), tube(temple, radius), tube(fit.bridge(), thick)]
    frame = Surface("frame", PART_IDS["Apparel"], look, two_sided=True)
    for number, (vertices, faces) in enumerate(parts):
        add_rigid(builder, vertices, faces, frame)
        if number < 2:
            add_rigid(builder, vertices * mirror, faces[:, ::-1], frame)
    flat = np.concatenate([[[0.0, 0.0]], *(share * outline(look.glasses) for share in (0.5, 1.0))])
    count = (len(flat) - 1) // 2
    ring, following = 1 + np.arange(count), 1 + (np.arange(count) + 1) % count
    faces = np.concatenate([
        np.stack([0 * ring, ring, following], 1), np.stack([ring, ring + count, following], 1),
        np.stack([following, ring + count, following + count], 1),
    ])  # fmt: skip
    lens, points = Surface("lens", PART_IDS["Apparel"], look, two_sided=True), fit.place(flat)
    add_rigid(builder, points, faces, lens)
    add_rigid(builder, points * mirror, faces[:, ::-1], lens)


def add_rigid(builder: Builder, vertices: np.ndarray, faces: np.ndarray, surface: Surface) -> None:
    """Something that moves with the head as if it were screwed to it."""
    weights = np.zeros((len(vertices), 55), np.float32)
    weights[:, 15] = 1
    fields = np.column_stack([np.full(len(vertices), 9.0), np.full(len(vertices), 0.95)])
    builder.add_free(vertices, weights, faces, vertices, fields, surface)

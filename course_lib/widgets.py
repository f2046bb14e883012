"""Drawing a body without a rasteriser (chapter 03 builds one), and sliders that move it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from ipywidgets import FloatSlider, HBox, Layout, VBox, interactive_output
from matplotlib.axes import Axes
from matplotlib.collections import TriMesh
from matplotlib.tri import Triangulation
from torch import Tensor

MANNEQUIN = (0.76, 0.76, 0.78)
LIGHT = (-0.35, 0.5, 0.79)  # towards the light, over the viewer's left shoulder
# slider name -> joint, axis of rotation, smallest and largest angle in degrees
MOTIONS = {
    "left arm down": ("left_shoulder", (0, 0, -1), -60, 80),
    "left elbow": ("left_elbow", (0, -1, 0), 0, 140),
    "left wrist twist": ("left_wrist", (1, 0, 0), -180, 180),
    "left hip": ("left_hip", (-1, 0, 0), -30, 110),
    "left knee": ("left_knee", (1, 0, 0), 0, 130),
    "head turn": ("neck", (0, 1, 0), -70, 70),
    "jaw": ("jaw", (1, 0, 0), 0, 25),
}


# ------------------------------------------------------------------------------------------------- drawing
def turned(points: Tensor, azimuth: float = 0.0, elevation: float = 0.0) -> Tensor:
    """Points (..., 3) as a viewer sees them: x right, y up, z towards the viewer. Degrees: to the side, then up."""
    (ca, ce), (sa, se) = np.cos(np.radians([azimuth, elevation])), np.sin(np.radians([azimuth, elevation]))
    rotation = torch.tensor([[ca, 0, sa], [-se * -sa, ce, -se * ca], [-ce * sa, se, ce * ca]])
    return points.detach().cpu().float() @ rotation.float().T


def draw_mesh(
    ax: Axes,
    vertices: Tensor,
    faces: Tensor,
    azimuth: float = 0.0,
    elevation: float = 0.0,
    focus: tuple[Tensor, float] | None = None,
    color: Sequence[float] | Tensor = MANNEQUIN,
) -> None:
    """Paint a mesh from far to near with soft light, seen from the front after turning it (orthographic).

    vertices (V, 3) metres, faces (F, 3), `color` one RGB triple or one per vertex (V, 3); `focus` = (point (3,), reach)
    shows only what is within `reach` metres of the point, left and right, up and down. Right for bodies at figure size:
    faces that look away are dropped, the others are sorted by their depth, as painters do."""
    seen, faces = turned(vertices, azimuth, elevation), faces.cpu()
    corners = seen[faces]  # (F, 3 corners, 3)
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = smooth_normals(normals, faces, len(seen)) @ torch.tensor(LIGHT)
    rgb = torch.as_tensor(color).expand(len(seen), 3) * (0.4 + 0.65 * light.clamp(0, 1))[:, None]
    left, right, bottom, top = window(vertices[faces.unique()], azimuth, elevation, focus)
    x, y, z = corners.unbind(-1)
    near = (x.amax(1) > left) & (x.amin(1) < right) & (y.amax(1) > bottom) & (y.amin(1) < top)
    visible = (near & (normals[:, 2] > 0)).nonzero()[:, 0]
    order = visible[z[visible].mean(1).argsort()]
    mesh = TriMesh(Triangulation(*seen[:, :2].T.double().numpy(), faces[order].numpy()))
    mesh.set_facecolor(rgb.clamp(0, 1).numpy())
    mesh.set_in_layout(False)  # the window is known: measuring every triangle would take longer than painting it
    ax.add_collection(mesh, autolim=False)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()


def smooth_normals(face_normals: Tensor, faces: Tensor, count: int, rounds: int = 4) -> Tensor:
    """Face normals (F, 3) -> unit vertex normals (V, 3), averaged over neighbours: a mannequin has no fine detail."""
    for _ in range(rounds):
        shared = face_normals.repeat_interleave(3, dim=0)  # (3F, 3)
        normals = face_normals.new_zeros(count, 3).index_add(0, faces.flatten(), shared)
        normals = torch.nn.functional.normalize(normals, dim=-1)
        face_normals = normals[faces].mean(1)
    return normals


def window(
    points: Tensor, azimuth: float = 0.0, elevation: float = 0.0, focus: tuple[Tensor, float] | None = None
) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a drawing: around the focus, or around all points (..., 3) with a margin."""
    if focus:
        x, y, _ = turned(focus[0], azimuth, elevation).tolist()
        return x - focus[1], x + focus[1], y - focus[1], y + focus[1]
    low, high = turned(points, azimuth, elevation).flatten(0, -2).aminmax(dim=0)
    return float(low[0]) - 0.03, float(high[0]) + 0.03, float(low[1]) - 0.03, float(high[1]) + 0.03


def draw_row(bodies: Sequence[Tensor], faces: Tensor, titles: Sequence[str], size: float = 2.4, **options) -> None:
    """One mesh (V, 3) beside the other, all to one scale. `colors` has one color a mesh; other options as draw_mesh."""
    colors = options.pop("colors", [MANNEQUIN] * len(bodies))
    view = {name: options[name] for name in ("azimuth", "elevation", "focus") if name in options}
    left, right, bottom, top = window(torch.stack(list(bodies))[:, faces.unique()], **view)
    height = size * (top - bottom) / (right - left)
    figure, axes = plt.subplots(1, len(bodies), figsize=(size * len(bodies), height + 0.3), squeeze=False, dpi=72)
    for ax, vertices, title, color in zip(axes[0], bodies, titles, colors, strict=True):
        draw_mesh(ax, vertices, faces, color=color, **options)
        ax.set(xlim=(left, right), ylim=(bottom, top))
        ax.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)


def value_colors(values: Tensor, limit: float, colormap: str = "viridis") -> Tensor:
    """One value per vertex (V,) from 0 to `limit` -> one color per vertex (V, 3), for `draw_mesh(color=...)`."""
    return torch.from_numpy(plt.get_cmap(colormap)((values / limit).clamp(0, 1).numpy())[:, :3])


# ------------------------------------------------------------------------------------------------- moving
def face_focus(joints: Tensor, names: Sequence[str], reach: float = 0.14) -> tuple[Tensor, float]:
    """Where the face is, from the eyes of joints (J, 3): a focus for `draw_mesh`."""
    eyes = joints[[names.index(f"{side}_eye_smplhf") for side in ("left", "right")]].mean(0)
    return eyes - torch.tensor([0, 0.25 * reach, 0]), reach


def motion_pose(names: Sequence[str], angles: dict[str, float]) -> Tensor:
    """Degrees by name of motion -> a pose (1, J, 3) in radians."""
    pose = torch.zeros(1, len(names), 3)
    for motion, degrees in angles.items():
        joint, axis, _, _ = MOTIONS[motion]
        pose[0, names.index(joint)] = torch.tensor(axis) * np.radians(degrees)
    return pose


def body_sliders(body: torch.nn.Module, names: Sequence[str], shapes: int = 3, expressions: int = 3) -> HBox:
    """Sliders for shape, expression and joints (called `names`) of a `BodyModel`, beside the body that they make."""
    shape = {f"shape {k + 1}": slider(f"shape {k + 1}", -3, 3) for k in range(shapes)}
    face = {f"expression {k + 1}": slider(f"expression {k + 1}", -3, 3) for k in range(expressions)}
    joints = {name: slider(name, low, high, 5) for name, (_, _, low, high) in MOTIONS.items()}
    view = {"view": slider("view", -180, 180, 15)}

    def redraw(**values: float) -> None:
        betas, expression = (torch.tensor([[values[name] for name in group]]) for group in (shape, face))
        pose = motion_pose(names, {name: values[name] for name in joints})
        with torch.no_grad():
            output = body(betas=betas, expression=expression, pose=pose)
        draw_body_and_face(output, body.faces, names, values["view"])

    sliders = shape | face | joints | view
    return HBox([VBox(list(sliders.values())), interactive_output(redraw, sliders)])


def slider(name: str, low: float, high: float, step: float = 0.1) -> FloatSlider:
    """One slider that reports when it is let go."""
    look = {"layout": Layout(width="290px"), "style": {"description_width": "110px"}, "continuous_update": False}
    return FloatSlider(min=low, max=high, step=step, description=name, **look)


def draw_body_and_face(output, faces: Tensor, names: Sequence[str], azimuth: float = 0.0) -> None:
    """The first body of a `BodyOutput` in full figure, and its face close up."""
    vertices, joints = output.vertices[0], output.joints[0]
    _, (left, right) = plt.subplots(1, 2, figsize=(7.5, 4.2), dpi=72, width_ratios=(1.5, 1))
    draw_mesh(left, vertices, faces, azimuth)
    draw_mesh(right, vertices, faces, focus=face_focus(joints, names))
    plt.show()

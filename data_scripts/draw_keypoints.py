"""Draw the open body's keypoint tables on its mesh, to check them by eye.

python data_scripts/draw_keypoints.py --out course_lib/assets/keypoints.png
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.collections import PolyCollection  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from course_lib.paths import OPEN_BODY, OPEN_BODY_PACK  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from body_landmarks import VIEWS  # noqa: E402

LIGHT = np.array([0.35, 0.55, 0.75])


def keypoints(pack: dict, name: str, vertices: np.ndarray) -> np.ndarray:
    """All keypoints of a format, NaN where the mesh has none: (K, 3) metres."""
    entries = pack[f"keypoints_{name}_regressor"]
    points = np.zeros((len(pack[f"keypoints_{name}_names"]), 3))
    np.add.at(points, entries[:, 0].astype(int), vertices[entries[:, 1].astype(int)] * entries[:, 2:])
    points[np.setdiff1d(np.arange(len(points)), entries[:, 0])] = np.nan
    return points


def draw_mesh(axes: Axes, vertices: np.ndarray, faces: np.ndarray, view: str, box: tuple[float, ...]) -> None:
    """Shaded triangles, far ones first. box: left, right, bottom, top in the view's metres."""
    plane, depth = VIEWS[view]
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    flat, middle = corners @ plane.T, corners.mean(1)
    inside = (np.abs(flat.mean(1) - [(box[0] + box[1]) / 2, (box[2] + box[3]) / 2]) < 0.02 + np.array(
        [box[1] - box[0], box[3] - box[2]]) / 2).all(1)  # fmt: skip
    shown = np.nonzero((normals @ depth > 0) & inside)[0]
    shown = shown[np.argsort(middle[shown] @ depth)]
    towards_light = normals[shown] @ (LIGHT[0] * plane[0] + LIGHT[1] * plane[1] + LIGHT[2] * depth)
    shade = (0.35 + 0.6 * towards_light.clip(0, 1))[:, None] * [0.93, 0.87, 0.82]
    axes.add_collection(PolyCollection(flat[shown], facecolors=shade, edgecolors=shade, linewidths=0.2))
    axes.set(xlim=box[:2], ylim=box[2:], aspect="equal")
    axes.axis("off")


def draw_points(axes: Axes, points: np.ndarray, names: list[str], view: str, size: float) -> None:
    """Red dots with their names or numbers, on the side that is seen."""
    places = points @ VIEWS[view][0].T
    axes.scatter(places[:, 0], places[:, 1], s=3 * size / 5, c="crimson", zorder=3)
    for place, name in zip(places, names, strict=True):
        axes.annotate(name, place, (1.5, 1.0), textcoords="offset points", fontsize=size, color="navy", clip_on=True)


def panels(pack: dict, vertices: np.ndarray) -> list[tuple]:
    """What to draw: title, view, box, points, labels, letter size."""
    nose = keypoints(pack, "coco17", vertices)[0]
    whole, sapiens = (keypoints(pack, name, vertices) for name in ("wholebody133", "sapiens308"))
    numbers = [str(k) for k in range(308)]
    rows = []
    for name in ("coco17", "h36m17", "lsp14", "smpl24"):
        labels = [str(label).replace("left", "l").replace("right", "r") for label in pack[f"keypoints_{name}_names"]]
        rows.append((name, "front", (-0.9, 0.9, -0.95, 0.9), keypoints(pack, name, vertices), labels, 5))
    x, y, z = nose

    def front(centre_x: float, centre_y: float, half: float) -> tuple[float, ...]:
        return x + centre_x - half, x + centre_x + half, y + centre_y - half, y + centre_y + half

    ear = (-z + 0.117 - 0.033, -z + 0.117 + 0.033, y + 0.017 - 0.033, y + 0.017 + 0.033)
    left = np.where(sapiens[:, :1] > 0, sapiens, np.nan)
    hand, toes = whole[91:112], whole[17:23]
    rows += [
        ("wholebody133: face", "front", front(0, 0.01, 0.1), whole[23:91], numbers[:68], 6),
        ("sapiens308: left eye", "front", front(0.031, 0.045, 0.03), sapiens, numbers, 5),
        ("sapiens308: mouth and nose", "front", front(0, -0.022, 0.032), sapiens, numbers, 5),
        ("sapiens308: left ear", "left", ear, left, numbers, 5),
        ("wholebody133: left hand", "top", (0.6, 0.9, -0.19, 0.11), hand, numbers[91:112], 6),
        ("wholebody133: feet", "front", (-0.2, 0.2, -0.93, -0.53), toes, numbers[17:23], 6),
        ("sapiens308: body", "front", (-0.9, 0.9, -0.95, 0.9), sapiens[5:70], numbers[5:70], 4),
        ("sapiens308: left hand", "top", (0.6, 0.9, -0.19, 0.11), sapiens[42:63], numbers[42:63], 6),
    ]
    return rows


def save_small(figure: Figure, path: Path) -> None:
    """A PNG of 96 colours: a quarter of the bytes."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/keypoints.png"))
    options = parser.parse_args()
    body, pack = np.load(OPEN_BODY), dict(np.load(OPEN_BODY_PACK))
    vertices = body["v_template"].astype(np.float64)
    figure, grid = plt.subplots(3, 4, figsize=(16, 12), dpi=100, layout="constrained")
    for axes, (title, view, box, points, labels, size) in zip(grid.flat, panels(pack, vertices), strict=True):
        draw_mesh(axes, vertices, body["f"], view, box)
        draw_points(axes, points, labels, view, size)
        axes.set_title(title, fontsize=9)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_small(figure, options.out)
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()

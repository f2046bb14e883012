"""One helper per kind of picture, so that a depth map looks the same in every chapter.

Pictures come as tensors or arrays: (H, W), (H, W, 3), or the course's (3, H, W); values in [0, 1]. The `colour_...`
functions turn labels into colours (..., H, W, 3), white where there is nothing; `show_images` draws what it is given.
"""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

Picture = Tensor | np.ndarray


def to_array(values: Picture) -> np.ndarray:
    """A tensor or array as a NumPy array, off the graph and the device."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def to_picture(image: Picture) -> np.ndarray:
    """(H, W), (H, W, C) or (3, H, W) -> what `imshow` draws, kept within [0, 1] where it is in colour."""
    image = to_array(image)
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] not in (3, 4):
        image = image.transpose(1, 2, 0)  # (H, W, 3)
    if image.ndim not in (2, 3):
        raise ValueError(f"a picture is (H, W), (H, W, 3) or (3, H, W), not {image.shape}: give one picture of a batch")
    return image.clip(0, 1) if image.ndim == 3 and image.dtype.kind == "f" else image


def show_images(
    images: Sequence[Picture], titles: Sequence[str] = (), columns: int | None = None, height: float = 2.2, **style
) -> None:
    """Pictures side by side in rows of `columns`, each `height` inches high, without axes. `style` goes to `imshow`.

    `plt.gcf()` is the figure. (It is not returned: as the last value of a cell it would be drawn twice.)
    """
    pictures = [to_picture(image) for image in images]
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    width = max(picture.shape[1] / picture.shape[0] for picture in pictures) * height
    size = (columns * width, rows * (height + 0.25 * bool(len(titles))))
    _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", dpi=72)
    for ax in axes.flat:
        ax.axis("off")
    style = {"cmap": "gray", "interpolation": "nearest"} | style
    for index, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture, **style)
        ax.set_title(titles[index] if index < len(titles) else "", fontsize=10)


def over_white(colours: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Colours (..., 3) where `seen` (...), white elsewhere."""
    return np.where(seen[..., None], colours, 1.0).astype(np.float32)


def colour_depth(depth: Picture, nearest: float | None = None, farthest: float | None = None) -> np.ndarray:
    """Depth (..., H, W) in metres -> colours: near is bright. White where it is infinite, NaN or not positive.

    The range is the picture's own, without its outer 1 %, unless `nearest` and `farthest` are given.
    """
    depth = to_array(depth)
    seen = np.isfinite(depth) & (depth > 0)
    if not seen.any():
        return np.ones((*depth.shape, 3), np.float32)
    low, high = np.percentile(depth[seen], (1, 99))
    low, high = low if nearest is None else nearest, high if farthest is None else farthest
    share = (high - np.where(seen, depth, high)) / max(high - low, 1e-6)
    return over_white(plt.get_cmap("magma")(0.08 + 0.86 * share.clip(0, 1))[..., :3], seen)


def colour_normals(normals: Picture) -> np.ndarray:
    """Unit normals (..., H, W, 3), x right, y up, z toward the viewer -> (n + 1) / 2 as a colour. White where 0."""
    normals = to_array(normals)
    return over_white((normals.clip(-1, 1) + 1) / 2, np.abs(normals).sum(-1) > 0)


def colour_parts(parts: Picture) -> np.ndarray:
    """Sapiens' 28 part classes (..., H, W) -> the course's palette. White where there is background (0)."""
    from course_lib.data.parts import PART_COLOURS

    parts = to_array(parts)
    return over_white(PART_COLOURS[parts], parts > 0)


def colour_ids(ids: Picture, nothing: int = 0) -> np.ndarray:
    """Any whole numbers (..., H, W), people or faces -> colours that differ between neighbours. White at `nothing`."""
    ids = to_array(ids).astype(np.int64)
    hue = (ids * 0.618034) % 1  # the golden ratio never comes back to where it was
    wave = np.abs(((hue[..., None] + np.array([0, 2, 1]) / 3) % 1) * 6 - 3) - 1
    bright = 0.8 + 0.2 * ((ids * 0.41421) % 1)
    return over_white((0.28 + 0.72 * wave.clip(0, 1)) * bright[..., None], ids != nothing)


def draw_keypoints(
    ax: Axes, points: Picture, visible: Picture | None = None, edges: Sequence[tuple[int, int]] = (), size: float = 12
) -> None:
    """Points (K, 2) in pixels over a picture: filled where visible (K,), hollow where hidden; bones along `edges`.

    Pixel centres are at integer + 0.5, `imshow` puts them at whole numbers: hence the shift of half a pixel.
    """
    points = to_array(points) - 0.5
    visible = np.ones(len(points), bool) if visible is None else to_array(visible).astype(bool)
    for a, b in edges:
        style = "-" if visible[a] and visible[b] else ":"
        ax.plot(*points[[a, b]].T, style, color="white", lw=2.4, alpha=0.6)
        ax.plot(*points[[a, b]].T, style, color="#d1495b", lw=1.3)
    for shown, colour in ((visible, "#edae49"), (~visible, "none")):
        ax.scatter(*points[shown].T, s=size, c=colour, edgecolors="#222222", linewidths=0.7, zorder=3)


def webp(frames: Tensor, fps: float = 12.5, zoom: int = 1, quality: int = 75) -> bytes:
    """Frames (T, 3, H, W) in [0, 1] -> an animated WebP that repeats without end, each pixel `zoom` wide and high."""
    pixels = (255 * to_array(frames).clip(0, 1)).round().astype(np.uint8).transpose(0, 2, 3, 1)
    pictures = [Image.fromarray(one.repeat(zoom, 0).repeat(zoom, 1)) for one in pixels]
    file = io.BytesIO()
    how = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / fps), "loop": 0}
    pictures[0].save(file, "WEBP", quality=quality, **how)
    return file.getvalue()


def embedded(data: bytes, alt: str) -> str:
    """The HTML of an animated WebP that lies in the notebook itself; `alt`: what it shows."""
    return f'<img alt="{html.escape(alt)}" src="data:image/webp;base64,{base64.b64encode(data).decode()}"/>'


def smooth(values: Sequence[float], pieces: int = 40) -> np.ndarray:
    """The running mean of a curve over a `pieces`-th of its length, so that one sees the trend."""
    window = max(1, len(values) // pieces)
    return np.convolve(values, np.ones(window) / window, mode="valid")


# Okabe and Ito's colours, which colour-blind readers tell apart, and a dash pattern for each
LINE_STYLES = cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]) + cycler(
    linestyle=["-", (0, (5, 1.5)), "-.", (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), "--"]
)


def curve(
    lines: dict[str, Sequence[float]],
    x: Sequence[float] | None = None,
    xlabel: str = "step",
    ylabel: str = "loss",
    **style,
) -> None:
    """Named lines over x (0, 1, 2, ... unless given) in a small figure. `style` goes to `Axes.set` (yscale="log")."""
    _, ax = plt.subplots(figsize=(5.2, 2.8), layout="constrained", dpi=72)
    ax.set_prop_cycle(LINE_STYLES)
    for name, values in lines.items():
        values = [float(value) for value in values]
        ax.plot(range(len(values)) if x is None else x, values, label=name, lw=1.8)
    ax.set(xlabel=xlabel, ylabel=ylabel, **style)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    if len(lines) > 1:
        ax.legend(frameon=False)

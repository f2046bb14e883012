"""What a model says about a photograph, as a picture: `course weights show FILE PHOTOGRAPH`.

For the networks of chapters 06 (painted patches), 07 (keypoints), 08 (parts, depth or normals) and 10.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from course_lib import plots
from course_lib.chapters.david_models import HUMAN, David
from course_lib.chapters.sapiens_dense import DensePredictor
from course_lib.chapters.sapiens_pose import PoseEstimator, crop_people, predict
from course_lib.chapters.sapiens_pretraining import (
    MEAN,
    STD,
    MaskedAutoencoder,
    normalize,
    patchify,
    unpatchify,
)
from course_lib.files import draft

Panels = list[tuple[str, np.ndarray]]


def panels(model: nn.Module, image: Tensor, box: Tensor, clipped: bool = False) -> Panels:
    """A photograph (3, H, W) in [0, 1] and a box (4,) around a person -> titles and pictures, the crop first.

    clipped: DAViD's alpha is no logit, see `david_onnx`. ValueError for a model that shows nothing by itself."""
    if isinstance(model, PoseEstimator):
        return [("keypoints with a score over 0.3", keypoints(model, image, box))]
    if isinstance(model, DensePredictor):
        grid, patch = model.encoder.grid, model.encoder.patch
        crop, _ = crop_people(image[None], box[None], (grid[0] * patch, grid[1] * patch), padding=1.0)
        return [("crop", plots.to_picture(crop[0])), dense(model(crop)[0])]
    left, top, right, bottom = (int(round(value)) for value in box.tolist())
    crop = image[None, :, max(0, top) : bottom, max(0, left) : right]
    if isinstance(model, David):
        return [("crop", plots.to_picture(crop[0])), *david(model(crop), clipped)]
    if isinstance(model, MaskedAutoencoder):
        return painted(model, crop)
    raise ValueError("an encoder by itself shows nothing: give a file with a task's head, or a whole pretraining")


def keypoints(model: PoseEstimator, image: Tensor, box: Tensor) -> np.ndarray:
    """The photograph with the points that the model is sure of."""
    found = predict(model, image[None], box[None])
    height, width = image.shape[1:]
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(plots.to_picture(image))
    plots.draw_keypoints(ax, found.points[0][found.scores[0] > 0.3], size=max(6.0, (0.014 * height) ** 2))
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.axis("off")
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return picture


def dense(answer: Tensor) -> tuple[str, np.ndarray]:
    """Scores (C, H, W), depth (1, H, W) or normals (3, H, W) of chapter 08's network, coloured."""
    if len(answer) == 1:
        return "depth (near is bright)", plots.colour_depth(answer[0] - answer.min() + 0.01)
    if len(answer) == 3:
        unit = torch.nn.functional.normalize(answer, dim=0)
        return "normals", plots.colour_normals(unit.permute(1, 2, 0))
    parts = answer.argmax(0)
    return "parts", plots.colour_parts(parts) if len(answer) == 28 else plots.colour_ids(parts)


def david(answers: dict[str, Tensor], clipped: bool) -> Panels:
    """Chapter 10's answers, coloured; depth and normals where the foreground is more than ½, if that is known."""
    found, inside = [], None
    if "alpha" in answers:
        alpha = answers["alpha"][0, 0]
        alpha = alpha.clamp(0, 1) if clipped else alpha.sigmoid()
        found, inside = [("foreground", alpha.numpy())], alpha > HUMAN
    if "depth" in answers:
        depth = answers["depth"][0, 0]
        inside = torch.ones_like(depth, dtype=torch.bool) if inside is None else inside
        low = depth[inside].min() if inside.any() else depth.min()
        found.append(("depth (near is bright)", plots.colour_depth((depth - low + 0.01).where(inside, 0.0))))
    if "normals" in answers:
        normals = torch.nn.functional.normalize(answers["normals"][0], dim=0)
        shown = normals if inside is None else normals.where(inside, 0.0)
        found.append(("normals", plots.colour_normals(shown.permute(1, 2, 0))))
    return found


def painted(model: MaskedAutoencoder, crop: Tensor) -> Panels:
    """A square of the photograph, what was left visible of it, and what is painted into the rest. The network's patches
    have no brightness and contrast of their own: those of the photograph's patches are put in."""
    grid, patch = model.encoder.grid, model.encoder.patch
    image = interpolate(crop, size=(grid[0] * patch, grid[1] * patch), mode="area")
    noise = torch.rand(1, grid[0] * grid[1], generator=torch.Generator().manual_seed(0))
    answer, mask = model(normalize(image), noise)
    patches = patchify(normalize(image), patch)
    mean, spread = patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = mask[..., None].bool()
    filled = unpatchify(torch.where(hidden, answer * spread + mean, patches), patch, grid)
    left = unpatchify(torch.where(hidden, 0.0, patches), patch, grid)
    back = [
        each * image.new_tensor(STD).view(3, 1, 1) + image.new_tensor(MEAN).view(3, 1, 1) for each in (left, filled)
    ]
    pictures = [("square", image), ("visible", back[0]), ("painted", back[1])]
    return [(title, plots.to_picture(each[0])) for title, each in pictures]


@torch.no_grad()
def show(model: nn.Module, image: Tensor, box: Tensor | None, path: str | Path, clipped: bool = False) -> Path:
    """Draws `panels` into a PNG. box: left, top, right, bottom in pixels; None for the whole photograph."""
    height, width = image.shape[1:]
    box = torch.tensor([0.0, 0.0, width, height]) if box is None else box
    if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise ValueError(f"the box {box.tolist()} is none in a photograph of {width} x {height} pixels")
    found = panels(model, image, box, clipped)
    plots.show_images([picture for _, picture in found], [title for title, _ in found], height=4.0)
    with draft(Path(path)) as beside:
        plt.gcf().savefig(beside, format="png", dpi=150)
    plt.close()
    return Path(path)

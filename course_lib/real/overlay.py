"""One picture by which a person sees at once whether cameras, joints and masks of a data folder agree.

Dots: the 2D joints as labelled (hollow: hidden). Crosses: the 3D joints as the camera K, R, t projects them; they
should lie on the dots. White lines: masks, which should follow the bodies. Boxes: people. Red, green, blue: the world's
x, y and z axes, half a metre long, at each person's middle.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from course_lib.data.schema import Keypoints, PersonLabel, Sample
from course_lib.data.shards import Samples
from course_lib.files import draft
from course_lib.real.lens import seen_at

COLOURS = ("#edae49", "#66c5ff", "#f28cb1", "#9be07a", "#c9a0ff", "#ff9b54")
AXES = ("#ff4040", "#40d040", "#5080ff")
AXIS_LENGTH = 0.5  # metres


def project(points: np.ndarray, sample: Sample) -> np.ndarray:
    """World points (N, 3) -> pixels (N, 2); NaN behind the camera."""
    return seen_at(points @ sample.R.T + sample.t, sample.K)


def has_camera(sample: Sample) -> bool:
    """Whether K, R and t are all there."""
    return sample.K is not None and sample.R is not None and sample.t is not None


def reprojection(sample: Sample) -> float:
    """The median distance in pixels between labelled joints and projected ones; NaN where there are none of both."""
    found = [
        np.linalg.norm(project(points.points_3d, sample) - points.points_2d, axis=1)
        for person in sample.people
        for points in person.keypoints.values()
        if has_camera(sample) and points.points_3d is not None
    ]
    known = np.concatenate(found) if found else np.zeros(0)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if known.size else float("nan")


def draw(ax: Axes, sample: Sample) -> None:
    """A sample with all its labels, its key and how far its joints and their projections are apart."""
    ax.imshow(sample.image.transpose(1, 2, 0))
    draw_mask(ax, sample)
    for number, person in enumerate(sample.people):
        draw_person(ax, sample, person, COLOURS[number % len(COLOURS)])
    apart = reprojection(sample)
    note = "" if np.isnan(apart) else f"\njoints to projections: {apart:.2f} pixels"
    ax.text(0.5, 1.01, f"{sample.key}{note}", fontsize=7, ha="center", va="bottom", transform=ax.transAxes)
    height, width = sample.image.shape[1:]
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.axis("off")


def draw_mask(ax: Axes, sample: Sample) -> None:
    """The outlines of people, or of alpha or parts where there are no people told apart."""
    mask = next((m for m in (sample.instances, sample.alpha, sample.parts) if m is not None), None)
    if mask is None:
        return
    for value in np.unique(mask[mask > 0])[:20] if mask.dtype == np.uint8 else [0.5]:
        shape = (mask == value) if mask.dtype == np.uint8 else (mask >= value)
        if shape.any() and not shape.all():
            ax.contour(shape.astype(float), levels=[0.5], colors="black", linewidths=1.6)
            ax.contour(shape.astype(float), levels=[0.5], colors="white", linewidths=0.8)


def draw_person(ax: Axes, sample: Sample, person: PersonLabel, colour: str) -> None:
    """Box, joints, projections and axes of one person. Pixel centres: see `plots.draw_keypoints`."""
    left, top, right, bottom = person.box - 0.5
    ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=0.8))
    for points in person.keypoints.values():
        draw_points(ax, sample, points, colour)
    middle = middle_of(person)
    if has_camera(sample) and middle is not None:
        ends = project(np.concatenate([middle[None], middle + AXIS_LENGTH * np.eye(3)]), sample) - 0.5
        for end, axis_colour in zip(ends[1:], AXES, strict=True):
            ax.plot(*np.stack([ends[0], end]).T, color=axis_colour, linewidth=1.4)


def middle_of(person: PersonLabel) -> np.ndarray | None:
    """The mean of a person's 3D joints (3,) metres in the world, else its translation; None where there is neither."""
    for points in person.keypoints.values():
        if points.points_3d is not None and np.isfinite(points.points_3d).all(1).any():
            return np.nanmean(points.points_3d, 0)
    return person.translation


def draw_points(ax: Axes, sample: Sample, points: Keypoints, colour: str) -> None:
    """Dots for 2D joints, crosses for projected 3D ones."""
    spots, seen = points.points_2d - 0.5, points.visible == 2
    size = 5 if len(spots) > 40 else 16
    for shown, face in ((seen, colour), (~seen, "none")):
        ax.scatter(*spots[shown].T, s=size, c=face, edgecolors="black" if face != "none" else colour, linewidths=0.5)
    if has_camera(sample) and points.points_3d is not None:
        crosses = project(points.points_3d, sample) - 0.5
        ax.scatter(*crosses.T, s=0.8 * size, c="white", marker="x", linewidths=0.6)


def figure(samples: list[Sample], columns: int = 3) -> Figure:
    """Samples side by side."""
    columns = max(1, min(columns, len(samples)))
    rows = -(-len(samples) // columns)
    height, width = samples[0].image.shape[1:]
    box = 5.5, 5.5 * min(1.6, max(0.5, height / width))  # inches
    found = Figure((box[0] * columns, (box[1] + 0.4) * rows))
    found.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.4 / ((box[1] + 0.4) * rows), 0.02, 0.4 / box[1])
    FigureCanvasAgg(found)
    for ax, sample in zip(found.subplots(rows, columns, squeeze=False).ravel(), samples, strict=False):
        draw(ax, sample)
    for ax in found.axes[len(samples) :]:
        ax.axis("off")
    return found


def save(folder: Path, path: Path, most: int = 6) -> None:
    """Draws some samples of a data folder, evenly spread, into a PNG; nothing where there are none."""
    samples = Samples(folder)
    count = min(most, len(samples))
    if count:
        with draft(path) as beside:
            figure([samples[n * len(samples) // count] for n in range(count)]).savefig(beside, format="png", dpi=110)

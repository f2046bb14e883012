"""DAViD, the data: made by `course build` from solutions/09_david_data.py. Edit there, never here."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes


# Chapter 09, section "Who is drawn", exercise 09.1
def balancing_weights(groups: list[str], shares: dict[str, float]) -> np.ndarray:
    """Chances (N,) of N candidates, summing to 1, with which a draw has the groups in the shares of a table.

    groups: the group of each candidate. Shares are any numbers from 0 upwards; a group that the table doesn't name is
    never drawn, one without a candidate leaves its share to the others. ValueError if nobody can be drawn.
    """
    names, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    wanted = np.array([shares.get(str(name), 0.0) for name in names], float)
    if (wanted < 0).any() or wanted.sum() <= 0:
        raise ValueError(f"nobody to draw: of the groups {names.tolist()}, one needs a share above 0 and none below")
    return (wanted / wanted.sum() / counts)[member]  # (N,)


# Chapter 09, section "How a strand grows", exercise 09.2
def grow(roots: np.ndarray, directions: np.ndarray, lengths: np.ndarray, bend: float, points: int = 8) -> np.ndarray:
    """Strands (N, P, 3) in metres that leave roots (N, 3) along directions (N, 3) and bend down: the first is the root.

    Each of the P - 1 steps is lengths (N,) / (P - 1) long. Before every step but the first, `bend` times (0, -1, 0) is
    added to the direction, which is then brought back to length 1. ValueError with fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a strand has two points or more, not {points}")
    direction = directions / np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-9)
    step, found = (lengths / (points - 1))[:, None], [roots]
    for _ in range(points - 1):
        found.append(found[-1] + step * direction)
        direction = direction + np.array([0.0, -bend, 0.0])
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-9)
    return np.stack(found, axis=1)  # (N, P, 3)


# Chapter 09, section "How much of a pixel a strand covers"
def coverage(width: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Share (N,) of a pixel that a strand covers, `width` pixels wide, with `length` pixels of it in the pixel.

    At most 1. ValueError for a negative width or length."""
    if np.min(width, initial=0) < 0 or np.min(length, initial=0) < 0:
        raise ValueError("a strand's width and length cannot be negative")
    return np.minimum(width * length, 1.0)


# Chapter 09, section "Layers", exercise 09.3
def composite(alpha: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layers of N pixels, the nearest first: alpha (N, F) and values (N, F, C) -> what is seen (N, C), and how much
    light passes (N, F + 1): before the first layer (1), behind it, ..., behind the last. Layers that a pixel lacks have
    alpha 0. Without any layers (F = 0) nothing is seen and all light passes.
    """
    passes = np.cumprod(1 - alpha, axis=1)  # (N, F)
    passes = np.concatenate([np.ones_like(alpha[:, :1].sum(1, keepdims=True)), passes], axis=1)  # (N, F + 1)
    seen = ((passes[:, :-1] * alpha)[..., None] * values).sum(axis=1)  # (N, C)
    return seen, passes


# Chapter 09, section "Layers"
def median_layer(passes: np.ndarray) -> np.ndarray:
    """The layer (N,) that takes the light (N, F + 1) below one half, -1 where none does."""
    below = passes[:, 1:] < 0.5
    return np.where(below.any(1), below.argmax(1) if below.shape[1] else 0, -1)


# Chapter 09, section "3 What is the normal of hair?", exercise 09.4
def voxelize(points: np.ndarray, cell: float, margin: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """How many of the points (N, 3) lie in each cube of a grid: counts (X, Y, Z) float32, and the grid's corner (3,).

    Cubes are `cell` metres wide; `margin` empty ones surround all points. Point p is in cube floor((p - corner)
    / cell). ValueError without points.
    """
    if len(points) == 0:
        raise ValueError("there are no strands to voxelise: give at least one point")
    corner = points.min(0) - margin * cell
    place = np.floor((points - corner) / cell).astype(int)  # (N, 3)
    counts = np.zeros(place.max(0) + 1 + margin, np.float32)
    np.add.at(counts, tuple(place.T), 1)
    return counts, corner


# Chapter 09, section "3 What is the normal of hair?"
def proxy_mesh(
    counts: np.ndarray, corner: np.ndarray, cell: float, blur: float = 1.5, level: float = 0.25
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface around the strands: vertices (V, 3), faces (F, 3), unit normals (V, 3) that point out of the hair.

    The counts (X, Y, Z) are blurred by `blur` cubes; marching cubes follow `level` times the mean of the cubes
    that hold a strand. DAViD A.1; blur and level are our choices. ValueError for an empty grid.
    """
    filled = counts[counts > 0]
    if not filled.size:
        raise ValueError("the voxel grid is empty: there is no surface around nothing")
    density = gaussian_filter(np.minimum(counts, 2 * filled.mean()), blur)
    threshold = min(level * filled.mean(), 0.5 * density.max())
    vertices, faces, normals, _ = marching_cubes(density, threshold, gradient_direction="descent")
    # a count belongs to the middle of its cube
    return (vertices + 0.5) * cell + corner, faces, normals


# Chapter 09, section "3 What is the normal of hair?", exercise 09.5
def proxy_normals(points: np.ndarray, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """For points (..., 3) on strands the normals (..., 3) of the nearest of the proxy's vertices (V, 3). DAViD A.1.

    ValueError if the proxy has no vertices."""
    if len(vertices) == 0:
        raise ValueError("the proxy mesh is empty: there is no nearest point on it")
    _, nearest = cKDTree(vertices).query(points)  # (...,)
    return normals[nearest]  # (..., 3)


# Chapter 09, section "4 Glass", exercise 09.6
def label_alpha(alpha: np.ndarray, lens: np.ndarray, lens_in: bool) -> np.ndarray:
    """How much each layer counts in the labels: alpha (N, F) of the picture's layers, lens (N, F) whether a layer is
    a lens. With `lens_in` a lens counts as if it were opaque, else as if it weren't there; the rest counts as it is.
    DAViD A.2.
    """
    present = lens & (alpha > 0)
    return np.where(present, np.float32(lens_in), alpha)


# course build sealed the text above: 01161fe86a1cd52e

"""Sapiens, 2D pose: made by `course build` from solutions/07_sapiens_pose.py. Edit there, never here."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, dropout2d, grid_sample, instance_norm, pad, silu

from course_lib.chapters.sapiens_pretraining import normalize
from course_lib.chapters.transformers import (
    VisionTransformer,
    patch_grid,
    resize_position_embedding,
    sincos_position_embedding,
)
from course_lib.paths import OPEN_BODY_PACK
from course_lib.recipe import Batch, Linear, Optimizer, PaperRun, Recipe, Stream, warmed
from course_lib.shipped import Shipped


# Chapter 07, section "1 One person at a time", exercise 07.1
def crop_matrix(
    boxes: Tensor, size: tuple[int, int], padding: float | Tensor = 1.25, angle: float | Tensor = 0.0
) -> Tensor:
    """Boxes (B, 4): left, top, right, bottom -> (B, 2, 3): from the pixels of crops of size (h, w) to the picture's.

    The crop has the box's centre, the shape h : w, and holds the box `padding` times; it is turned by `angle` radians,
    clockwise as one sees it. Equation 07.1; top-down as in Xu et al. 2022 (ViTPose).
    """
    height, width = size
    centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    scale = padding * torch.maximum(sides[:, 0] / width, sides[:, 1] / height)  # (B,) picture pixels in a crop pixel
    angle = torch.as_tensor(angle, dtype=boxes.dtype).expand(len(boxes))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    corner = centre - linear @ boxes.new_tensor([width / 2, height / 2])
    return torch.cat([linear, corner[..., None]], 2)


# Chapter 07, section "1 One person at a time"
def move(points: Tensor, matrix: Tensor) -> Tensor:
    """Points (B, K, 2) by affine maps (B, 2, 3)."""
    return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


# Chapter 07, section "1 One person at a time"
def inverse(matrix: Tensor) -> Tensor:
    """The affine maps (B, 2, 3) backwards."""
    linear = torch.linalg.inv(matrix[:, :, :2])
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], 2)


# Chapter 07, section "1 One person at a time"
def warp(images: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (B, 3, H, W), read where `matrix` (B, 2, 3) sends the pixel centres of crops -> (B, 3, h, w).

    Bilinear; black outside the picture. A pixel's centre is at integer + 0.5: `align_corners=False`.
    """
    y, x = torch.meshgrid(*(torch.arange(n, device=images.device) + 0.5 for n in size), indexing="ij")
    spots = move(torch.stack([x, y], -1).view(1, -1, 2).expand(len(matrix), -1, -1), matrix)  # (B, h * w, 2)
    height, width = images.shape[-2:]
    places = 2 * spots / spots.new_tensor([width, height]) - 1  # from -1 to 1, edge to edge
    return grid_sample(images, places.view(-1, *size, 2), align_corners=False)


# Chapter 07, section "1 One person at a time"
def cut_out(images: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """`warp` for pictures with 8 bits, too: they come out in [0, 1]. ValueError for one that is not finite."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if not images.isfinite().all():
        raise ValueError("a picture holds NaN or infinity: look at how it was read")
    return warp(images, matrix.to(images), size)


# Chapter 07, section "1 One person at a time"
def check_boxes(boxes: Tensor, height: int, width: int) -> None:
    """ValueError for the first box (left, top, right, bottom) that is none, or has nothing of the picture in it."""
    left, top, right, bottom = boxes.unbind(1)
    good = boxes.isfinite().all(1) & (left < right) & (top < bottom)
    good &= (right > 0) & (bottom > 0) & (left < width) & (top < height)
    if not good.all():
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"box {first} is {[round(side, 1) for side in boxes[first].tolist()]}, the picture {width} x {height} "
            "pixels: give left < right and top < bottom, at least partly inside"
        )


# Chapter 07, section "1 One person at a time"
def crop_people(
    images: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    padding: float | Tensor = 1.25,
    angle: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W), or one for all, and boxes (B, 4) -> crops (B, 3, h, w), matrices to the picture (B, 2, 3).

    8-bit pictures come out in [0, 1]; what lies outside the picture is black. ValueError for a box that is none or
    outside the picture, and for a picture that is not finite.
    """
    check_boxes(boxes, *images.shape[-2:])
    matrix = crop_matrix(boxes, size, padding, angle)
    return cut_out(images.expand(len(boxes), -1, -1, -1), matrix, size), matrix


# Chapter 07, section "2 A point as a picture", exercise 07.2
def encode_heatmaps(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Points (B, K, 2), x and y in heatmap cells -> heatmaps (B, K, h, w), 1 where a cell's centre is the point.

    Nothing is rounded; cell i has its centre at i + 0.5. Equation 07.2. The model's y in Sapiens §3.3.
    """
    y, x = (torch.arange(n, device=points.device, dtype=points.dtype) + 0.5 for n in size)
    along_x = torch.exp(-((x - points[..., :1]) ** 2) / (2 * sigma**2))  # (B, K, w)
    along_y = torch.exp(-((y - points[..., 1:]) ** 2) / (2 * sigma**2))  # (B, K, h)
    return along_y[..., :, None] * along_x[..., None, :]


# Chapter 07, section "2 A point as a picture", exercise 07.3
def dark_offset(logs: Tensor) -> Tensor:
    """Logarithms of 3 x 3 cells around a maximum (..., 3, 3) -> from the middle cell to the summit (..., 2), x and y.

    Zero where the nine have no summit. Equation 07.4; Zhang et al. 2020 (DARK), eq. 4 to 9.
    """
    up, middle, down = logs.unbind(-2)  # (..., 3) each
    dx, dy = (middle[..., 2] - middle[..., 0]) / 2, (down[..., 1] - up[..., 1]) / 2
    dxx = middle[..., 2] - 2 * middle[..., 1] + middle[..., 0]
    dyy = down[..., 1] - 2 * middle[..., 1] + up[..., 1]
    dxy = (down[..., 2] - down[..., 0] - up[..., 2] + up[..., 0]) / 4
    determinant = dxx * dyy - dxy**2
    summit = (dxx < 0) & (determinant > 1e-6)
    determinant = torch.where(summit, determinant, 1.0)
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / determinant[..., None]
    return torch.where(summit[..., None], offset, 0.0)


# Chapter 07, section "2 A point as a picture"
def cells_around(maps: Tensor, row: Tensor, column: Tensor, reach: int) -> Tensor:
    """Maps (B, K, h, w) -> the cells up to `reach` away from row and column (B, K): (B, K, n, n), n = 2 reach + 1.

    Beyond the border the nearest cell.
    """
    steps, (height, width) = torch.arange(-reach, reach + 1, device=maps.device), maps.shape[-2:]
    rows, columns = (row[..., None] + steps).clamp(0, height - 1), (column[..., None] + steps).clamp(0, width - 1)
    places = rows[..., :, None] * width + columns[..., None, :]  # (B, K, n, n)
    return maps.flatten(2).gather(2, places.flatten(2)).view_as(places)


# Chapter 07, section "2 A point as a picture"
def smoothed(cells: Tensor, sigma: float) -> Tensor:
    """Cells (..., n, n) under a Gaussian of `sigma` cells, (n - 3) / 2 to each side -> the middle nine (..., 3, 3)."""
    reach = (cells.shape[-1] - 3) // 2
    bell = torch.exp(-(torch.arange(-reach, reach + 1, device=cells.device) ** 2) / (2 * sigma**2))
    rows = torch.stack([pad(bell / bell.sum(), (shift, 2 - shift)) for shift in range(3)])  # (3, n)
    return rows @ cells @ rows.mT


# Chapter 07, section "2 A point as a picture"
def decode_heatmaps(heatmaps: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, h, w) -> points (B, K, 2) in cells, and their scores (B, K): the maxima.

    The highest cell, then DARK: smooth, logarithm, one Newton step to the summit. ValueError for NaN.
    """
    if not heatmaps.isfinite().all():
        raise ValueError("heatmaps hold NaN or infinity: look at the pictures, then at the training's loss")
    height, width = heatmaps.shape[-2:]
    score, place = heatmaps.flatten(2).max(-1)  # (B, K)
    row, column = (place // width).clamp(1, height - 2), (place % width).clamp(1, width - 2)  # with cells all round
    # a Gaussian of a third of sigma: the authors' 2 cells for sigma 6
    nine = smoothed(cells_around(heatmaps.float(), row, column, 1 + math.ceil(sigma)), sigma / 3)
    offset = dark_offset(nine.clamp(min=1e-3).log())
    return torch.stack([column, row], -1) + 0.5 + offset.clamp(-1.5, 1.5), score


# Chapter 07, section "3 The network", exercise 07.4
def resized_state(state: dict[str, Tensor], old_grid: tuple[int, int], new_grid: tuple[int, int]) -> dict[str, Tensor]:
    """A masked autoencoder's encoder, name -> tensor, as a task's: no cls token, no row for it in `pos_embed`
    (1, [1 +] N, D), and the places of old_grid, such as (64, 64), resized to new_grid, (64, 48). Sapiens §3.3; the cls
    token: its code.
    """
    patches = old_grid[0] * old_grid[1]
    places = state["pos_embed"][:, -patches:].float()
    resized = resize_position_embedding(places, old_grid, new_grid)
    return {name: tensor for name, tensor in state.items() if name != "cls_token"} | {"pos_embed": resized}


# Chapter 07, section "3 The network"
def task_encoder(config) -> VisionTransformer:
    """The pretrained encoder's twin for a task: no cls token, learned positions that begin as the fixed waves.

    config: anything with size (H, W), patch, width, depth and heads. Sapiens §3.3.
    """
    encoder = VisionTransformer(config.size, config.patch, config.width, config.depth, config.heads, cls=False)
    with torch.no_grad():
        encoder.pos_embed.copy_(sincos_position_embedding(encoder.grid, config.width)[None])
    return encoder


# Chapter 07, section "3 The network"
def feature_map(encoder: VisionTransformer, images: Tensor, shift: int = 0) -> Tensor:
    """Pictures (B, 3, H, W) -> the tokens after the last norm as a picture (B, D, h, w); a cls token is left out.

    shift: by how many pixels the patches begin outside, above and to the left. It does what a convolution with that
    padding does, as the authors' pose and normal networks have it (2); their other two have 0.
    """
    if shift:
        images = pad(images, (shift, -shift, shift, -shift))
    tokens = encoder(images)[:, encoder.prefix :]  # (B, N, D)
    return tokens.mT.unflatten(2, patch_grid(images.shape[-2:], encoder.patch))


# Chapter 07, section "3 The network"
def load_pretrained(encoder: VisionTransformer, state: dict[str, Tensor], old_grid: tuple[int, int]) -> None:
    """A masked autoencoder's encoder (name -> tensor, its pictures cut into old_grid patches) into a task encoder.

    ValueError names what is missing, unknown or of another shape; then nothing has been changed.
    """
    rows, patches = state["pos_embed"].shape[1] if "pos_embed" in state else 0, old_grid[0] * old_grid[1]
    if rows - patches not in (0, 1):
        raise ValueError(f"{rows} positions are not those of {old_grid[0]} x {old_grid[1]} patches: give their grid")
    state, own = resized_state(state, old_grid, encoder.grid), encoder.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in own]
    both = [name for name in own if name in state and state[name].shape != own[name].shape]
    wrong += [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in both]
    if wrong:
        raise ValueError(f"the weights do not fit this encoder ({len(wrong)} times): {'; '.join(wrong[:4])}")
    encoder.load_state_dict(state)


# Chapter 07, section "3 The network"
class DeconvHead(nn.Module):
    """Features (B, D, h, w) -> maps (B, out, h * 2^n, w * 2^n) for n deconvolutions. The head of all four tasks.

    Each deconvolution doubles the size; 1 x 1 convolutions follow, and one more to `out` maps. After each but the last:
    InstanceNorm without parameters, SiLU. Authors' code; the paper says "lightweight decoders" (§3.3).
    """

    def __init__(self, width: int, deconvs: tuple[int, ...], convs: tuple[int, ...], out: int, dropout: float = 0.0):
        super().__init__()
        widths = (width, *deconvs, *convs)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in pairs[: len(deconvs)]
        )
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairs[len(deconvs) :])
        self.last, self.dropout = nn.Conv2d(widths[-1], out, 1), dropout
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, out, h * 2^n, w * 2^n)."""
        for layer in (*self.deconvs, *self.convs):
            x = silu(instance_norm(layer(x)))
        return self.last(dropout2d(x, self.dropout, self.training))


# Chapter 07, section "3 The network"
@dataclass(frozen=True)
class Config:
    """A pose estimator, the people it learns from, and how. size: (H, W) of a crop; sigma: of a heatmap, in its cells.

    pixels: side of the square pictures that people are cut from; smallest: the longer side of a box that is worth it.
    schedule: "linear", as the paper says (§4.1), or "steps", as the authors' code has it. strength: of the
    augmentation's turns, zooms, half bodies and holes, from 0, none, to 1, the authors'; all else always is theirs.
    """

    keypoints: int
    size: tuple[int, int]
    patch: int
    width: int
    depth: int
    heads: int
    deconvs: tuple[int, ...]
    convs: tuple[int, ...]
    sigma: float
    pictures: int
    pixels: int
    batch_size: int
    steps: int
    lr: float = 5e-4
    warmup: int = 500
    layer_decay: float = 0.85
    weight_decay: float = 0.1
    schedule: str = "linear"
    shift: int = 0
    smallest: int = 0
    least: int = 1  # annotated keypoints, for a person to be learned from
    strength: float = 1.0
    world: str = "wild"
    precision: str = "bf16"
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None


# Chapter 07, section "3 The network"
class PoseEstimator(nn.Module):
    """Crops (B, 3, H, W) in [0, 1] -> heatmaps (B, K, h, w) of 4 cells a patch. Sapiens §3.3."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.encoder = task_encoder(config)
        self.head = DeconvHead(config.width, config.deconvs, config.convs, config.keypoints)
        nn.init.normal_(self.head.last.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, h, w)."""
        return self.head(feature_map(self.encoder, normalize(images), self.config.shift))


# Chapter 07, section "3 The network"
def build(config: Config, pretrained: dict[str, Tensor] | None = None) -> PoseEstimator:
    """A new pose estimator; its encoder random, or a masked autoencoder's, trained on squares as high as the crops."""
    model = PoseEstimator(config)
    if pretrained is not None:
        load_pretrained(model.encoder, pretrained, patch_grid((config.size[0], config.size[0]), config.patch))
    return model


FORMATS = {17: "coco17", 133: "wholebody133", 308: "sapiens308"}  # K -> the format's name in the course's data


# Chapter 07, section "4 Skeletons"
def read_names() -> dict[int, tuple[str, ...]]:
    """K -> the names of the keypoints, in order, from the course's body."""
    with np.load(OPEN_BODY_PACK, allow_pickle=False) as pack:
        return {count: tuple(pack[f"keypoints_{name}_names"].tolist()) for count, name in FORMATS.items()}


NAMES = read_names()


# Chapter 07, section "4 Skeletons"
def keypoint_names(count: int) -> tuple[str, ...]:
    """The names of the 17, 133 or 308 keypoints. ValueError for another number."""
    if count not in NAMES:
        raise ValueError(f"no skeleton has {count} keypoints: use {', '.join(map(str, NAMES))}")
    return NAMES[count]


SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
RENUMBERED = {  # numbers that count from one side of the face to the other, or go round like a clock
    r"midpoint_(\d)_of_(upper|lower)_(lash|eyelid|crease|outer|inner)": {1: 2, 2: 1, 3: 6, 4: 5, 5: 4, 6: 3},
    r"midpoint_(\d)_of_[lr]_eyebrow": {2: 3, 3: 2},
    r"(?:iris|pupil)_midpoint_(\d)": {1: 4, 2: 3, 3: 2, 4: 1},
    r"(?:iris|pupil)_(\d+)": {3: 9, 9: 3},
    r"point_(\d)_of_inner_helix": {2: 8, 8: 2},
}
# face-0 to face-67 go round: from this one on, a point and its mirror image add up to that
FACE_SUMS = {0: 16, 17: 43, 27: None, 31: 66, 36: 81, 40: 87, 42: 81, 46: 87, 48: 102, 55: 114, 60: 124, 65: 132}


# Chapter 07, section "The mirror"
def mirrored_name(name: str) -> str:
    """What a keypoint is called in a mirror: left_knee -> right_knee, nose -> nose."""
    if name.startswith("face-"):
        number = int(name[5:])
        total = FACE_SUMS[max(first for first in FACE_SUMS if first <= number)]
        return name if total is None else f"face-{total - number}"
    for pattern, numbers in RENUMBERED.items():
        if found := re.search(pattern, name):
            number = numbers.get(int(found[1]), int(found[1]))
            name = f"{name[: found.start(1)]}{number}{name[found.end(1) :]}"
            break
    return re.sub(r"(?<![a-z])(left|right|l|r)(?=_)", lambda side: SIDES[side[0]], name)


# K -> for each keypoint the number of its mirror image; its own in the middle of the body
MIRROR = {count: [names.index(mirrored_name(name)) for name in names] for count, names in NAMES.items()}


# Chapter 07, section "Flip test", exercise 07.5
def flip_test(model: nn.Module, crops: Tensor) -> Tensor:
    """Crops (B, 3, H, W) -> heatmaps (B, K, h, w): the mean of the crop's and, mirrored back, of its mirror image's."""
    heatmaps = model(crops)
    mirrored = model(crops.flip(-1)).flip(-1)
    return (heatmaps + mirrored[:, MIRROR[heatmaps.shape[1]]]) / 2


# Chapter 07, section "Flip test"
class Poses(NamedTuple):
    """Points (B, K, 2) in picture pixels and their scores (B, K)."""

    points: Tensor
    scores: Tensor


# Chapter 07, section "Flip test"
@torch.no_grad()
def predict(model: PoseEstimator, images: Tensor, boxes: Tensor, flip: bool = True, batch: int = 64) -> Poses:
    """The pose in each box (B, 4), of its own picture (B, 3, H, W) or of one picture (1, 3, H, W); on the CPU."""
    config, device, found = model.config, next(model.parameters()).device, []
    if len(boxes) == 0:
        return Poses(torch.zeros(0, config.keypoints, 2), torch.zeros(0, config.keypoints))
    for own, part in zip(images.expand(len(boxes), -1, -1, -1).split(batch), boxes.split(batch), strict=True):
        crops, matrix = crop_people(own, part, config.size)
        heatmaps = (flip_test(model, crops.to(device)) if flip else model(crops.to(device))).float().cpu()
        cells, scores = decode_heatmaps(heatmaps, config.sigma)
        found.append(Poses(move(cells * config.size[1] / heatmaps.shape[-1], matrix), scores))
    return Poses(*(torch.cat(parts) for parts in zip(*found, strict=True)))


FACE_51 = """
end_of_r_eyebrow upper_midpoint_2_of_r_eyebrow upper_midpoint_1_of_r_eyebrow upper_midpoint_3_of_r_eyebrow
upper_startpoint_of_r_eyebrow upper_startpoint_of_l_eyebrow upper_midpoint_2_of_l_eyebrow
upper_midpoint_1_of_l_eyebrow upper_midpoint_3_of_l_eyebrow end_of_l_eyebrow
center_of_nose_root midpoint_1_of_nose_bridge midpoint_3_of_nose_bridge tip_of_nose outer_corner_of_r_nostril
inner_corner_of_r_nostril bottom_center_of_nose inner_corner_of_l_nostril outer_corner_of_l_nostril
r_outer_end_of_upper_lash_line r_midpoint_4_of_upper_lash_line r_midpoint_5_of_upper_lash_line
r_inner_end_of_upper_lash_line r_midpoint_5_of_lower_lash_line r_midpoint_4_of_lower_lash_line
l_inner_end_of_upper_lash_line l_midpoint_4_of_upper_lash_line l_midpoint_5_of_upper_lash_line
l_outer_end_of_upper_lash_line l_midpoint_5_of_lower_lash_line l_midpoint_4_of_lower_lash_line
r_outer_corner_of_mouth midpoint_1_of_upper_outer_lip midpoint_4_of_upper_outer_lip center_of_cupid_bow
midpoint_5_of_upper_outer_lip midpoint_2_of_upper_outer_lip l_outer_corner_of_mouth midpoint_2_of_lower_outer_lip
midpoint_5_of_lower_outer_lip center_of_lower_outer_lip midpoint_4_of_lower_outer_lip midpoint_1_of_lower_outer_lip
r_inner_corner_of_mouth midpoint_1_of_upper_inner_lip center_of_upper_inner_lip midpoint_2_of_upper_inner_lip
l_inner_corner_of_mouth midpoint_2_of_lower_inner_lip center_of_lower_inner_lip midpoint_1_of_lower_inner_lip
""".split()  # Sapiens' names for face-17 to face-67


# Chapter 07, section "What 308 and 133 share"
def common_name(name: str) -> str:
    """What Sapiens calls a keypoint of WholeBody; the name itself where it has another one or none."""
    if name.startswith("face-") and int(name[5:]) >= 17:
        return FACE_51[int(name[5:]) - 17]
    return re.sub(r"(thumb|finger)1$", r"\1_third_joint", name)


SAPIENS_NUMBERS = {name: number for number, name in enumerate(NAMES[308])}
COMMON = {  # the 114 keypoints that are in both: number among WholeBody's 133 -> number among Sapiens' 308
    number: SAPIENS_NUMBERS[common_name(name)]
    for number, name in enumerate(NAMES[133])
    if common_name(name) in SAPIENS_NUMBERS
}


# Chapter 07, section "5 What it learns from", exercise 07.6
def heatmap_loss(found: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Heatmaps, found and true, (B, K, h, w), and which count, weight (B, K) -> a scalar. Equation 07.5; Sapiens §3.3.

    The mean over all B, K, h and w, whether they count or not, as the authors have it.
    """
    return ((found - target).square().mean((2, 3)) * weight).mean()


# Chapter 07, section "5 What it learns from"
def pose_loss(sigma: float, model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch of image (B, 3, H, W), points (B, K, 2) in crop pixels and weight (B, K)."""
    found = model(batch["image"]).float()
    cells = batch["points"] * (found.shape[-1] / batch["image"].shape[-1])
    return heatmap_loss(found, encode_heatmaps(cells, found.shape[-2:], sigma), batch["weight"])


# Chapter 07, section "5 What it learns from"
def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A random number between two."""
    return low + (high - low) * torch.rand((), generator=generator).item()


# Chapter 07, section "5 What it learns from"
def half_body(box: Tensor, points: Tensor, visible: Tensor, generator: torch.Generator) -> Tensor:
    """The box (4,) of the upper or the lower body alone, where enough of it is annotated; else the box as it was."""
    lower = torch.tensor([bool(re.search("hip|knee|ankle|toe|heel", name)) for name in keypoint_names(len(points))])
    halves = [visible & lower, visible & ~lower]
    chosen = halves[uniform(generator, 0, 1) < 0.7]
    if chosen.sum() < 3 or visible.sum() < 9:
        return box
    low, high = points[chosen].amin(0), points[chosen].amax(0)
    centre, sides = (low + high) / 2, (high - low).clamp(min=0.1 * float((box[2:] - box[:2]).max()))
    return torch.cat([centre - 0.6 * sides, centre + 0.6 * sides])  # 1.2 times, and 1.25 later: 1.5


# Chapter 07, section "5 What it learns from"
def jittered_frame(config: Config, box: Tensor, generator: torch.Generator) -> Tensor:
    """A crop's matrix (1, 2, 3); at strength 1 it is 0.5 to 1.5 times as large, at times turned by up to 80°; at times
    shifted by up to 16 %."""
    turn, grow = 80 * config.strength, 0.5 * config.strength
    angle = math.radians(uniform(generator, -turn, turn)) if uniform(generator, 0, 1) < 0.6 else 0.0
    matrix = crop_matrix(box[None], config.size, 1.25 * uniform(generator, 1 - grow, 1 + grow), angle)
    if uniform(generator, 0, 1) < 0.3:
        shift = torch.tensor([uniform(generator, -0.16, 0.16) * side for side in config.size[::-1]])
        matrix[:, :, 2] += matrix[:, :, :2] @ shift
    return matrix


# Chapter 07, section "5 What it learns from"
def recoloured(crop: Tensor, generator: torch.Generator) -> Tensor:
    """A crop (1, 3, h, w) in another light: each of brightness, contrast and saturation half of the time."""
    if uniform(generator, 0, 1) < 0.5:
        crop = crop + uniform(generator, -0.125, 0.125)
    if uniform(generator, 0, 1) < 0.5:
        crop = crop * uniform(generator, 0.5, 1.5)
    if uniform(generator, 0, 1) < 0.5:
        grey = crop.mean(1, keepdim=True)
        crop = grey + (crop - grey) * uniform(generator, 0.5, 1.5)
    return crop.clamp(0, 1)


# Chapter 07, section "5 What it learns from"
def spoiled(crop: Tensor, generator: torch.Generator, hole: float = 1.0) -> Tensor:
    """A crop (1, 3, h, w), one time in five blurred; with probability `hole` with a hole of 20 to 40 % of its sides."""
    if uniform(generator, 0, 1) < 0.2:
        crop = avg_pool2d(crop, 3, stride=1, padding=1, count_include_pad=False)
    if uniform(generator, 0, 1) >= hole:
        return crop
    height, width = (max(1, round(side * uniform(generator, 0.2, 0.4))) for side in crop.shape[-2:])
    top, left = (int(uniform(generator, 0, crop.shape[i] - n + 1)) for i, n in ((-2, height), (-1, width)))
    crop = crop.clone()
    crop[..., top : top + height, left : left + width] = 0
    return crop


# Chapter 07, section "5 What it learns from"
def person_batch(
    config: Config,
    image: Tensor,
    box: Tensor,
    points: Tensor,
    visible: Tensor,
    generator: torch.Generator | None = None,
) -> Batch:
    """One person of a picture (3, H, W): image (3, h, w), points (K, 2) in crop pixels, weight (K,); augmented with a
    generator. weight is 0 for what is not annotated (visible 0 or NaN) or outside the crop. `crop_people`'s errors.
    """
    visible = (visible > 0) & points.isfinite().all(-1)
    points = points.where(visible[:, None], 0.0)  # times 0 an infinity would be NaN
    matrix = crop_matrix(box[None], config.size)
    if generator is not None:
        half = uniform(generator, 0, 1) < 0.3 * config.strength
        matrix = jittered_frame(config, half_body(box, points, visible, generator) if half else box, generator)
    check_boxes(box[None], *image.shape[-2:])
    crop = cut_out(image[None], matrix, config.size)
    points = move(points[None], inverse(matrix))[0]
    if generator is not None:
        crop = spoiled(recoloured(crop, generator), generator, hole=config.strength)
        if uniform(generator, 0, 1) < 0.5:
            crop, points, visible = mirrored(crop, points, visible)
    inside = ((points >= 0) & (points < torch.tensor([config.size[1], config.size[0]]))).all(-1)
    return {"image": crop[0], "points": points, "weight": (visible & inside).float()}


# Chapter 07, section "5 What it learns from"
def mirrored(crop: Tensor, points: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A crop (1, 3, h, w), points (K, 2) and visible (K,) in a mirror: the left hand is a right hand there."""
    swap, width = MIRROR[len(points)], crop.shape[-1]
    points = torch.stack([width - points[:, 0], points[:, 1]], -1)
    return crop.flip(-1), points[swap], visible[swap]


# Chapter 07, section "5 What it learns from"
def prepare(config: Config) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> one of the sample's people, augmented: see `person_batch`."""
    return partial(prepared, config)


# Chapter 07, section "5 What it learns from"
def prepared(config: Config, sample, rng: np.random.Generator | None = None) -> Batch:
    """See `prepare`; without random numbers the first one, not augmented.

    A picture without people who can be learned from comes whole, with weight 0: it teaches nothing, and harms nothing.
    """
    people, image = useful_people(config, sample), torch.from_numpy(sample.image)
    generator = None if rng is None else torch.Generator().manual_seed(int(rng.integers(2**63)))
    if not people:
        box = torch.tensor([0.0, 0.0, image.shape[2], image.shape[1]])
        nothing = torch.zeros(config.keypoints, 2)
        return person_batch(config, image, box, nothing, nothing[:, 0], generator)
    box, points, visible = label(config, sample, people[0 if rng is None else rng.integers(len(people))])
    return person_batch(config, image, box, points, visible, generator)


# Chapter 07, section "5 What it learns from"
def label(config: Config, sample, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Box (4,), points (K, 2) and visibility (K,) of one of a sample's people. ValueError where the format is not."""
    person, name = sample.people[number], FORMATS[config.keypoints]
    if name not in person.keypoints:
        raise ValueError(f"sample {sample.key} has no keypoints {name!r}: make the data with --formats {name}")
    known = person.keypoints[name]
    return torch.from_numpy(person.box), torch.from_numpy(known.points_2d), torch.from_numpy(known.visible)


# Chapter 07, section "5 What it learns from"
def useful_people(config: Config, sample) -> list[int]:
    """Who of a sample's people has a box of `config.smallest` pixels and `config.least` annotated keypoints."""
    found = []
    for number in range(len(sample.people)):
        box, _, visible = label(config, sample, number)
        if (box[2:] - box[:2]).max() >= max(1, config.smallest) and (visible > 0).sum() >= config.least:
            found.append(number)
    return found


# Chapter 07, section "5 What it learns from"
def people_tensors(config: Config, samples) -> tuple[Tensor, Batch]:
    """Pictures (P, 3, H, W) with 8 bits; and all N people who can be learned from: picture (N,), box (N, 4), points
    (N, K, 2), visible (N, K) and area (N,), the pixels of the person that are seen (of the box where there is no mask).
    """
    images, rows = [], []
    for place, sample in enumerate(samples):
        if not np.isfinite(sample.image).all():
            raise ValueError(f"sample {sample.key} has pixels that are NaN or infinite: leave it out, or make it anew")
        images.append((torch.from_numpy(sample.image) * 255).round().byte())
        for number in useful_people(config, sample):
            box, points, visible = label(config, sample, number)
            mask = sample.instances
            area = float((box[2:] - box[:2]).prod()) if mask is None else float((mask == number + 1).sum())
            rows.append((torch.tensor(place), box, points, visible, torch.tensor(area)))
    if not rows:
        raise ValueError(f"{len(images)} pictures, and nobody large enough in them: render more, or larger")
    names = ("picture", "box", "points", "visible", "area")
    return torch.stack(images), {
        name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


# Chapter 07, section "5 What it learns from"
def transform(config: Config, images: Tensor) -> Callable:
    """For a `TensorStream` over `people_tensors`: one person as a batch of one -> cut out and augmented."""
    return partial(transformed, config, images)


# Chapter 07, section "5 What it learns from"
def transformed(config: Config, images: Tensor, one: Batch, generator: torch.Generator) -> Batch:
    """See `transform`."""
    parts = [one[name][0] for name in ("box", "points", "visible")]
    made = person_batch(config, images[one["picture"][0]], *parts, generator)
    return {name: values[None] for name, values in made.items()}


# Chapter 07, section "5 What it learns from", exercise 07.7
def learning_rates(names: list[str], depth: int, lr: float, decay: float) -> dict[str, float]:
    """Parameter names of an encoder of `depth` blocks with a head -> learning rates. Equation 07.6; Sapiens §4.1."""

    def layer(name: str) -> int:
        if found := re.search(r"blocks\.(\d+)\.", name):
            return int(found[1]) + 1
        return 0 if "patch_embed" in name or "pos_embed" in name else depth + 1

    return {name: lr * decay ** (depth + 1 - layer(name)) for name in names}


# Chapter 07, section "5 What it learns from"
@dataclass(frozen=True)
class Steps:
    """After the warm-up 1, and a tenth of it after each of the shares `at` of all steps: epochs 170 and 200 of 210."""

    warmup: int = 0
    at: tuple[float, ...] = (170 / 210, 200 / 210)

    def __call__(self, step: int, steps: int) -> float:
        return warmed(step, self.warmup) * 0.1 ** sum(step >= share * steps for share in self.at)


SCHEDULES = {"linear": Linear, "steps": Steps}


# Chapter 07, section "5 What it learns from"
def recipe(config: Config, stream: Stream | None, pretrained: dict[str, Tensor] | None = None) -> Recipe:
    """The training of a `PoseEstimator` on batches of image (B, 3, H, W), points (B, K, 2) and weight (B, K).

    pretrained: the encoder's tensors of a masked autoencoder to begin with.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(f"schedule {config.schedule!r} is unknown: use {' or '.join(SCHEDULES)}")
    return Recipe(
        name=f"pose-{config.keypoints}-{config.width}x{config.depth}",
        model=partial(build, config, pretrained),
        loss=partial(pose_loss, config.sigma),
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(
            lr=config.lr,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
            eps=1e-12,  # the mean over so many dark cells makes gradients of 1e-8: AdamW's usual eps would drown them
        ),
        schedule=SCHEDULES[config.schedule](config.warmup),
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 07, section "5 What it learns from"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    points = torch.rand(count, config.keypoints, 2) * torch.tensor([config.size[1], config.size[0]])
    return {
        "image": torch.rand(count, 3, *config.size),
        "points": points,
        "weight": torch.ones(count, config.keypoints),
    }


SIZES = {"0.3b": (1024, 24, 16), "0.6b": (1280, 32, 16), "1b": (1536, 40, 24), "2b": (1920, 48, 32)}  # Table 2


# Chapter 07, section "5 What it learns from"
def paper_config(keypoints: int, size: str) -> Config:
    """Sapiens' own pose network: 1024 x 768, heatmaps of 256 x 192, 210 epochs of a million pictures."""
    width, depth, heads = SIZES[size]
    run = PaperRun(
        source="Sapiens §4.1, §4.2 and Table 2",
        samples=210 * 1e6,
        notes=(
            "1 million training pictures (§4.2); 210 epochs and a batch of 512 are the authors' code's",
            "Table 2 counts the decoder of pretraining, and multiply-adds at 1024 x 1024 without attention's own",
        ),
    )
    return Config(
        keypoints, (1024, 768), 16, width, depth, heads, deconvs=(768, 768), convs=(768, 768), sigma=6.0,
        pictures=1_000_000, pixels=1024, batch_size=512, steps=210 * 1_000_000 // 512, shift=2, smallest=64,
        least=8 if keypoints == 308 else 1, checkpoint_blocks=True, paper=run,
    )  # fmt: skip


# Chapter 07, section "5 What it learns from"
def small(keypoints: int, **changes) -> Config:
    """The course's own network: crops of 128 x 96, 192 patches, heatmaps of 64 x 48."""
    settings = {"pictures": 2000, "batch_size": 16, "steps": 1000, "lr": 2e-3, "warmup": 50, "strength": 0.2}
    return Config(
        keypoints, (128, 96), 8, 192, 6, 6, deconvs=(96, 96), convs=(96, 96), sigma=1.5, pixels=192, smallest=40,
        **settings | changes,
    )  # fmt: skip


SHIPPED_RUN = {"pictures": 8000, "lr": 1e-3, "warmup": 200, "strength": 0.4}
CONFIGS = {
    "smoke": Config(17, (32, 24), 8, 32, 2, 2, deconvs=(16, 16), convs=(16, 16), sigma=1.0, pictures=4, pixels=48,
                    batch_size=8, steps=12, lr=1e-2, warmup=1, strength=0.3),
    "laptop": small(17),
    "laptop-133": small(133, steps=150),
    "laptop-308": small(308, steps=150),
    "shipped-17": small(17, batch_size=32, steps=5000, **SHIPPED_RUN),
    "shipped-133": small(133, steps=3000, **SHIPPED_RUN),
    "shipped-308": small(308, steps=3000, **SHIPPED_RUN),
    "gpu": Config(17, (256, 192), 16, 384, 12, 6, deconvs=(256, 256), convs=(256, 256), sigma=1.5, pictures=24_000,
                  pixels=320, batch_size=64, steps=6000, warmup=300, smallest=60),
} | {f"pose-{keypoints}-{size}": paper_config(keypoints, size) for keypoints in FORMATS for size in SIZES}  # fmt: skip
SHIPPED = {
    str(keypoints): Shipped(
        f"sapiens_pose-{keypoints}", CONFIGS[f"shipped-{keypoints}"], "course_lib.studies.sapiens_tasks:pose"
    )
    for keypoints in FORMATS
}


# Chapter 07, section "7 How right is that?", exercise 07.8
def keypoint_similarity(prediction: Tensor, target: Tensor, visible: Tensor, area: float, sigmas) -> Tensor:
    """OKS of a prediction (K, 2) with one person: target (K, 2), visible (K,) bool, at least one; area in square
    pixels, sigmas (K,). A scalar from 0 to 1. Equation 07.7; COCO.
    """
    squared = (prediction - target)[visible].square().sum(-1)  # of what counts: NaN elsewhere does no harm
    spread = (2 * torch.as_tensor(sigmas, dtype=squared.dtype)[visible]).square()
    return torch.exp(-squared / (2 * area * spread)).mean()


# Chapter 07, section "9 The whole body"
def extended(body: PoseEstimator, config: Config) -> PoseEstimator:
    """A pose estimator that begins as another of the same shape and other keypoints: all but the last layer. (Ours: the
    paper's begin with the pretrained encoder, Sapiens §4.2.)"""
    model = PoseEstimator(config)
    shared = {name: tensor for name, tensor in body.state_dict().items() if not name.startswith("head.last")}
    model.load_state_dict(model.state_dict() | shared)
    return model


COLUMNS = ("Body", "Foot", "Face", "Hand", "Whole-body")
TABLE_3 = {  # Sapiens, Table 3: AP and AR in per cent, as printed
    "DeepPose": ((32.1, 43.5), (25.3, 41.2), (37.8, 53.9), (15.7, 31.6), (23.9, 37.2)),
    "SimpleBaseline": ((52.3, 60.1), (49.8, 62.5), (59.6, 67.3), (41.4, 51.8), (44.6, 53.7)),
    "HRNet": ((55.8, 62.6), (45.2, 55.4), (58.9, 64.5), (39.3, 47.6), (45.7, 53.9)),
    "ZoomNAS": ((59.7, 66.3), (48.1, 57.9), (74.5, 79.2), (49.8, 60.6), (52.1, 60.7)),
    "ViTPose+L": ((61.0, 66.8), (62.4, 68.2), (50.1, 55.7), (41.5, 47.3), (47.8, 53.6)),
    "ViTPose+H": ((61.6, 67.4), (63.2, 69.0), (50.7, 56.3), (42.0, 47.8), (48.3, 54.1)),
    "RTMPose-x": ((57.1, 63.7), (55.3, 66.8), (74.4, 78.5), (46.3, 55.0), (51.9, 59.6)),
    "DWPose-m": ((54.2, 61.4), (49.9, 63.0), (68.5, 74.2), (40.1, 50.0), (47.7, 55.8)),
    "DWPose-l": ((57.9, 64.2), (56.5, 67.4), (74.3, 78.4), (49.3, 57.4), (53.1, 60.6)),
    "Sapiens-0.3B": ((58.1, 64.5), (56.8, 67.7), (74.5, 78.6), (49.6, 57.7), (53.4, 60.9)),
    "Sapiens-0.6B": ((59.8, 65.5), (64.7, 72.3), (75.2, 79.0), (52.1, 60.3), (56.2, 62.4)),
    "Sapiens-1B": ((62.9, 68.2), (68.3, 75.1), (76.4, 79.7), (55.9, 63.4), (59.4, 65.3)),
    "Sapiens-2B": ((64.7, 69.9), (69.4, 76.2), (76.9, 79.9), (57.1, 64.4), (61.1, 67.1)),
}


# Chapter 07, section "10 Beside the paper", exercise 07.9
def gain(table: dict, model: str, column: str) -> tuple[float, float]:
    """By how much AP and AR of a model exceed the best AP and the best AR of those that are not Sapiens.

    table: name -> for each of COLUMNS (AP, AR). Sapiens, Table 3.
    """
    place = COLUMNS.index(column)
    others = [row[place] for name, row in table.items() if not name.startswith("Sapiens")]
    ap, ar = table[model][place]
    return ap - max(other[0] for other in others), ar - max(other[1] for other in others)


# course build sealed the text above: 1851baf64966584e

"""DAViD, the data: made by `course build` from solutions/09_david_data.py. Edit there, never here."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d

from course_lib.chapters import sapiens_dense
from course_lib.chapters.sapiens_dense import (
    DensePredictor,
    looked_up,
    pseudo_normals,
    unpacked,
)
from course_lib.chapters.sapiens_pose import load_pretrained
from course_lib.recipe import Batch, Recipe, Stream


# Chapter 09, section "Who is drawn", exercise 09.1
def balancing_weights(groups: list[str], shares: dict[str, float]) -> np.ndarray:
    """Chances (N,) of N candidates, summing to 1, with which a draw has the groups in the shares of a table.

    groups: the group of each candidate. Shares are any numbers from 0 upwards; a group that the table doesn't name is
    never drawn, one without a candidate leaves its share to the others. ValueError for a negative share, and if
    nobody can be drawn.
    """
    names, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    wanted = np.array([shares.get(str(name), 0.0) for name in names], float)
    if (wanted < 0).any() or wanted.sum() <= 0:
        raise ValueError(f"nobody to draw: of the groups {names.tolist()}, one needs a share above 0 and none below")
    return (wanted / wanted.sum() / counts)[member]  # (N,)


# Chapter 09, section "How a strand grows", exercise 09.2
def grow(roots: np.ndarray, directions: np.ndarray, lengths: np.ndarray, bend: float, points: int = 8) -> np.ndarray:
    """Strands (N, P, 3) in metres from roots (N, 3), their first points, along directions (N, 3) of any length.

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

    Cubes are `cell` metres wide. The corner lies `margin` cubes below the smallest coordinates; point p is in cube
    floor((p - corner) / cell), and `margin` cubes lie beyond the last one that holds a point. ValueError without any.
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


INVALID = 65504.0  # cm, the largest number of 16 bits: no depth here
SIGNS = (1, 1, 1)  # of the release's x, y, z beside ours (right, up, towards the viewer): assumed


# Chapter 09, section "5 Files: SynthHuman's own layout"
def checked(sample, names: tuple[str, ...]) -> None:
    """ValueError, naming the sample, for a label that is missing or NaN, or has another size than the image."""
    if missing := [name for name in names if getattr(sample, name) is None]:
        raise ValueError(f"sample {sample.key} has no {', '.join(missing)}: take data with these labels")
    for name in names:
        values, size = getattr(sample, name), sample.image.shape[1:]
        if name != "K" and values.shape[-2:] != size:
            raise ValueError(
                f"sample {sample.key}: image is {size}, but {name} is {values.shape[-2:]}: crop both alike"
            )
        if np.isnan(values).any():
            raise ValueError(f"sample {sample.key}: {name} has NaN in it: leave it out, or make it anew")


# Chapter 09, section "5 Files: SynthHuman's own layout", exercise 09.7
def to_release(sample, signs: tuple[int, int, int] = SIGNS, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """A sample -> the arrays of its files: rgb (H, W, 3) and alpha (H, W) uint8, depth (H, W) in cm and normal
    (H, W, 3) of `dtype`, cam (3, 3) float64. INVALID where there is no depth. ValueError as of `checked`."""
    checked(sample, ("image", "alpha", "depth", "normals", "K"))
    depth = np.where(np.isfinite(sample.depth), 100 * sample.depth, INVALID)
    normal = sample.normals.transpose(1, 2, 0) * np.array(signs)  # (H, W, 3)
    return {
        "rgb": np.round(255 * sample.image.transpose(1, 2, 0)).astype(np.uint8),
        "alpha": np.round(255 * sample.alpha).astype(np.uint8),
        "depth": depth.astype(dtype),
        "normal": normal.astype(dtype),
        "cam": sample.K.astype(np.float64),
    }


# Chapter 09, section "5 Files: SynthHuman's own layout"
def from_release(arrays: dict[str, np.ndarray], signs: tuple[int, int, int] = SIGNS) -> dict[str, np.ndarray]:
    """The arrays of `to_release`, of any float type -> fields of a sample: image, alpha, depth, normals, K. ValueError
    for a depth that is not positive."""
    depth = arrays["depth"].astype(np.float32)
    known = depth < INVALID  # (H, W)
    if (depth <= 0).any():
        raise ValueError(f"depth: centimetres above 0 were expected, found {depth.min():.6g}")
    normals = (arrays["normal"].astype(np.float32) * np.array(signs, np.float32)).transpose(2, 0, 1)  # (3, H, W)
    length = np.linalg.norm(normals, axis=0)
    return {
        "image": np.ascontiguousarray(arrays["rgb"].transpose(2, 0, 1), np.float32) / 255,
        "alpha": arrays["alpha"].astype(np.float32) / 255,
        "depth": np.where(known, depth / 100, np.inf).astype(np.float32),
        "normals": np.where(known & (length > 0.5), normals / length.clip(1e-6), 0).astype(np.float32),
        "K": arrays["cam"].astype(np.float32),
    }


# Chapter 09, section "Ask the data which way its axes point"
def axes_agreement(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Fields of `from_release` -> correlations (3, 3): row, x, y and z of normals out of the depth (right, up, towards
    the viewer); column, channel of the file's normals. ValueError where hardly anybody is."""
    depth, K = (torch.from_numpy(fields[name])[None] for name in ("depth", "K"))
    rough = pseudo_normals(depth, K)[0].flatten(1)  # (3, N)
    given = torch.from_numpy(fields["normals"]).flatten(1)
    both = (rough.square().sum(0) > 0.5) & (given.square().sum(0) > 0.5)
    if both.sum() < 16:
        raise ValueError(f"{int(both.sum())} pixels with depth and normals are too few: take another picture")
    return torch.corrcoef(torch.cat([rough[:, both], given[:, both]]))[:3, 3:].numpy()


# Chapter 09, section "6 Augmentation"
@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a picture, App. B.6; every number is our choice. on: False leaves all as it is.

    zoom: smallest and largest scale. shift: of the window, as a share of it. chance: of each change of the image alone;
    grey has its own. blur: largest standard deviation, as a share of the shorter side. gain, sigma: largest of
    `iso_noise`. brightness, contrast, saturation: largest change; hue: in turns of the colour circle. quality: of JPEG.
    """

    on: bool = True
    zoom: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    chance: float = 0.3
    blur: float = 0.005
    gain: float = 0.01
    sigma: float = 0.02
    brightness: float = 0.2
    contrast: float = 0.3
    hue: float = 0.05
    saturation: float = 0.3
    grey: float = 0.1
    quality: tuple[int, int] = (30, 95)

    def __post_init__(self):
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom={self.zoom}: give the smallest scale, above 0, and the largest")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality={self.quality}: JPEG has qualities from 1 to 100, the lower one first")
        if not (0 <= self.chance <= 1 and 0 <= self.grey <= 1):
            raise ValueError(f"chance={self.chance} and grey={self.grey} are probabilities: from 0 to 1")


# Chapter 09, section "6 Augmentation"
def packed(sample) -> Batch:
    """A sample -> image (3, H, W) and alpha (H, W) uint8, depth (H, W) float32 in metres, 0 where nobody is, normals
    (3, H, W) int8, times 127. `unpacked` (chapter 08) makes floats of a batch of them. ValueError as of `checked`."""
    checked(sample, ("image", "alpha", "depth", "normals"))
    image, alpha = (torch.from_numpy(255 * values).round().byte() for values in (sample.image, sample.alpha))
    depth = torch.from_numpy(np.where(np.isfinite(sample.depth), sample.depth, 0).astype(np.float32))
    normals = torch.from_numpy(127 * sample.normals).round().to(torch.int8)
    return {"image": image, "alpha": alpha, "depth": depth, "normals": normals}


# Chapter 09, section "Zoom and shift"
def window(source: tuple[int, int], size: tuple[int, int], zoom: float, right: float, down: float) -> Tensor:
    """Where the pixels of a window of `size` lie in a picture of the size `source`: a grid (1, h, w, 2), edges at ±1.

    At zoom 1 it is the largest part of that shape, in the middle; right, down: moved by so many of its sides."""
    (height, width), (h, w) = source, size
    scale = min(height / h, width / w) / zoom  # pixels of the picture to one of the window
    across, along = scale * w / width, scale * h / height  # 1 for the whole picture
    rows = [[across, 0.0, 2 * right * across], [0.0, along, 2 * down * along]]
    return affine_grid(torch.tensor([rows]), [1, 1, h, w], align_corners=False)


# Chapter 09, section "Zoom and shift"
def halved(name: str, values: Tensor) -> Tensor:
    """One tensor of a batch at half the size: pictures and alpha averaged, labels picked."""
    if name not in ("image", "alpha"):
        height, width = values.shape[-2:]
        return values[..., : height // 2 * 2 : 2, : width // 2 * 2 : 2]
    return avg_pool2d(values, 2) if values.ndim == 4 else avg_pool2d(values[:, None], 2)[:, 0]


# Chapter 09, section "Zoom and shift"
def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between the two."""
    return low + (high - low) * torch.rand((), generator=generator).item()


# Chapter 09, section "Zoom and shift"
def zoomed(augmentation: Augmentation, size: tuple[int, int], batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one, unpacked, of any size -> a window of `size` (H, W) at a random zoom and place. App. B.6."""
    draw = partial(uniform, generator)
    zoom = math.exp(draw(*map(math.log, augmentation.zoom)))
    right, down = (draw(-augmentation.shift, augmentation.shift) for _ in range(2))
    if not augmentation.on:
        zoom, right, down = 1.0, 0.0, 0.0
    while min(have / want for have, want in zip(batch["image"].shape[-2:], size, strict=True)) >= 2 * zoom:
        batch = {name: halved(name, values) for name, values in batch.items()}
    grid = window(batch["image"].shape[-2:], size, zoom, right, down)
    return {name: looked_up(name, values, grid) for name, values in batch.items()}


# Chapter 09, section "The lens"
def blurred(image: Tensor, share: float) -> Tensor:
    """Pictures (B, 3, H, W) through a Gaussian of `share` of their shorter side; the edge goes on beyond the edge."""
    sigma = share * min(image.shape[-2:])
    if sigma < 0.1:  # of a pixel: nothing to be seen
        return image
    width = 2 * math.ceil(3 * sigma) + 1
    from kornia.filters import gaussian_blur2d  # here, not above: kornia takes a second to load

    return gaussian_blur2d(image, (width, width), (sigma, sigma), border_type="replicate")


# Chapter 09, section "The lens", exercise 09.8
def exposed(image: Tensor, brightness: float, contrast: float) -> Tensor:
    """Pictures (B, 3, H, W) brighter by an offset, then with more (or, below 0, less) contrast; in [0, 1]. App. B.6."""
    return ((image + brightness - 0.5) * (1 + contrast) + 0.5).clamp(0, 1)


# Chapter 09, section "Colours"
def tinted(image: Tensor, hue: float, saturation: float) -> Tensor:
    """Pictures (B, 3, H, W) with hues turned by `hue` turns of the circle, and `saturation` more of it (−1: none)."""
    from kornia.enhance import adjust_hue, adjust_saturation

    return adjust_saturation(adjust_hue(image, 2 * math.pi * hue), 1 + saturation)


# Chapter 09, section "Colours"
def greyed(image: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) without colours: red, green and blue as bright as they look (ITU-R BT.601)."""
    luma = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    return luma.expand_as(image)


# Chapter 09, section "JPEG"
def compressed(image: Tensor, quality: int) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as they come back from a JPEG of this quality, 1 to 100."""
    found = []
    for pixels in (255 * image).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(found).permute(0, 3, 1, 2) / 255


# Chapter 09, section "Noise", exercise 09.9
def iso_noise(image: Tensor, gain: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W), not below 0, with noise of variance gain · image + sigma². Equation 09.7, App. B.6."""
    if gain > 0:
        image = gain * torch.poisson(image / gain, generator=generator)
    return image + sigma * torch.randn(image.shape, generator=generator)


# Chapter 09, section "All together"
def photographed(augmentation: Augmentation, image: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (1, 3, H, W) in [0, 1] as a worse camera would have taken them. App. B.6."""
    a, draw = augmentation, partial(uniform, generator)
    changes: list[tuple[float, Callable]] = [
        (a.chance, lambda x: blurred(x, draw(0, a.blur))),
        (a.chance, lambda x: iso_noise(x, draw(0, a.gain), draw(0, a.sigma), generator)),
        (a.chance, lambda x: exposed(x, draw(-a.brightness, a.brightness), draw(-a.contrast, a.contrast))),
        (a.chance, lambda x: tinted(x, draw(-a.hue, a.hue), draw(-a.saturation, a.saturation))),
        (a.grey, greyed),
        (a.chance, lambda x: compressed(x, round(draw(*a.quality)))),
    ]
    for chance, change in changes if a.on else ():
        if draw(0, 1) < chance:
            image = change(image).clamp(0, 1)
    return image


# Chapter 09, section "All together"
def augmented(augmentation: Augmentation, size: tuple[int, int], batch: Batch, generator: torch.Generator) -> Batch:
    """A batch of one `packed` sample of any size -> floats of `size`, augmented: image (1, 3, H, W) and alpha (1, H, W)
    in [0, 1], depth (1, H, W) in metres, 0 where nobody is, normals (1, 3, H, W), unit vectors or 0. App. B.6."""
    batch = zoomed(augmentation, size, unpacked(batch), generator)
    return batch | {"image": photographed(augmentation, batch["image"].clamp(0, 1), generator)}


# Chapter 09, section "All together"
def transform(augmentation: Augmentation, size: tuple[int, int]) -> Callable:
    """For a `TensorStream` over `packed` samples: (batch of one, generator) -> `augmented`."""
    return partial(augmented, augmentation, size)


# Chapter 09, section "All together"
def prepare(augmentation: Augmentation, size: tuple[int, int]) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> the same, without the dimension B."""
    return partial(prepared, augmentation, size)


# Chapter 09, section "All together"
def prepared(augmentation: Augmentation, size: tuple[int, int], sample, rng: np.random.Generator) -> Batch:
    """See `prepare`."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = {name: values[None] for name, values in packed(sample).items()}
    return {name: values[0] for name, values in augmented(augmentation, size, batch, generator).items()}


# Chapter 09, section "What the paper doesn't do: turning and mirroring", exercise 09.10
def turned(batch: Batch, degrees: float) -> Batch:
    """Unpacked pictures and labels (B, ..., H, W) turned counter-clockwise about their middle, nobody beyond their
    edges; normals (B, 3, H, W; x right, y up) point where they should then."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    values = next(iter(batch.values()))
    height, width = values.shape[-2:]
    rows = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]  # where each pixel comes from
    grid = affine_grid(torch.tensor([rows] * len(values)), [len(values), 1, height, width], align_corners=False)
    found = {name: looked_up(name, values, grid) for name, values in batch.items()}
    if "normals" in found:
        turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        found["normals"] = torch.einsum("ij,bjhw->bihw", turn, found["normals"])
    return found


# Chapter 09, section "7 What the truth teaches"
@dataclass(frozen=True)
class Config:
    """A predictor of normals (chapter 08's), from which of two truths about hair it learns, proxy or strand, and how
    its pictures are augmented."""

    network: sapiens_dense.Config
    hair: str = "proxy"
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        if self.hair not in WORLDS_OF:
            raise ValueError(f"hair={self.hair!r}: its normals are those of one of {', '.join(WORLDS_OF)}")


WORLDS_OF = {"proxy": "synth", "strand": "synth-strand-normals"}  # the same pictures, another truth


# Chapter 09, section "7 What the truth teaches"
def begun(network: sapiens_dense.Config, pretrained: dict[str, Tensor]) -> DensePredictor:
    """A predictor whose encoder is a masked autoencoder's, trained on squares of any size."""
    model, side = DensePredictor(network), math.isqrt(pretrained["pos_embed"].shape[1])
    load_pretrained(model.encoder, pretrained, (side, side))
    return model


# Chapter 09, section "7 What the truth teaches"
def recipe(config: Config, stream: Stream | None, pretrained: dict[str, Tensor] | None = None) -> Recipe:
    """Chapter 08's fine-tuning of a predictor of normals, on batches of `augmented`."""
    plain = sapiens_dense.recipe(config.network, stream)
    return plain if pretrained is None else replace(plain, model=partial(begun, config.network, pretrained))


# Chapter 09, section "7 What the truth teaches"
def for_normals(size: int, width: int, depth: int, heads: int, **options) -> sapiens_dense.Config:
    """A predictor of normals on squares of `size` pixels, in patches of 8."""
    return sapiens_dense.for_task(sapiens_dense.Config((size, size), 8, width, depth, heads, **options), "normals")


CONFIGS = {
    "smoke": Config(for_normals(32, 32, 2, 2, channels=16, pictures=6, batch_size=2, steps=3, warmup=1)),
    "laptop": Config(for_normals(96, 192, 6, 6, channels=64, pictures=360, batch_size=16, steps=150, lr=1e-3,
                                 warmup=15)),
    "gpu": Config(for_normals(256, 192, 6, 6, channels=64, pictures=6000, batch_size=32, steps=6000, lr=1e-3,
                              warmup=100)),
}  # fmt: skip


# course build sealed the text above: 0c3094bdb64a1e2e

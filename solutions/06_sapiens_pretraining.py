# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 06: Sapiens, pretraining
#
# Cover three quarters of a photograph of somebody and ask a friend what is below the paper. The friend will draw the
# other arm, the missing half of the face, the leg down to the shoe. Nobody told your friend where arms are in *this*
# picture; what is visible and what one knows about people is enough. Sapiens turns it round: let a network fill in
# three hundred million covered pictures of people, without a single label, and it will come to know what people look
# like. Then four tasks, poses, parts, depth and normals, learn from few labels what they need (chapters 07 and 08).
#
# **What you will build**: a person detector and the filter that decides which pictures are worth learning from; the
# masked autoencoder, equal to the published one to the fifth digit; its training; and the sums behind the paper's
# Table 2, to its last digit.
#
# | | |
# |---|---|
# | **You should know** | chapter 04's vision transformer, chapter 05's parameters, FLOPs and launches |
# | **Reading** | 60 minutes |
# | **Exercises** | ten, about 85 minutes |
# | **Runs** | `smoke` 20 s · `laptop` 9 min on two cores, and 2 more for rendering, once; 4 GB of memory |
# | **From the paper** | Sapiens §1, §3.1, §3.2, §4.1, Tables 1 and 2, Figures 2 and 3 |
#
# **Letters.** B batch · N patches · D width of a token · H W image; and p the side of a patch, n the patches that stay
# visible, P = 3p² the numbers of a patch; d the decoder's width; h, w a map of the detector. In section 1 alone K
# counts people.

# %%
# %matplotlib inline
import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import interactive

from course_lib import plots, shipped
from course_lib.scale import pick, scale

# %% tags=["export"]
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, logsigmoid, max_pool2d, pad
from torch.nn.functional import normalize as cosine_normalize

from course_lib.chapters.scaling import Encoder, block_parameters, encoder_parameters
from course_lib.chapters.transformers import Block, VisionTransformer, initialize, patch_grid, position_table
from course_lib.exercises import check, exercise
from course_lib.recipe import Batch, Cosine, Optimizer, PaperRun, Recipe, Stream
from course_lib.shipped import Shipped

# %%
threads = pick(smoke=1, laptop=min(2, torch.get_num_threads()))
torch.set_num_threads(1)  # small tensors for now
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# The whole chapter in one picture, of a held-out person:

# %%
from course_lib.data.sets import people_samples

SIZE, PATCH, TEST = pick(smoke=(32, 8, 8), laptop=(128, 8, 240), gpu=(256, 16, 240))
held_out = people_samples("wild", TEST, SIZE, "test", only=("image", "parts"))
first = torch.from_numpy(held_out[pick(smoke=0, laptop=3)].image)  # (3, H, W)
side = SIZE // 16
hidden = torch.rand(16, 16, generator=generator).flatten().argsort().argsort() >= 64  # three quarters
hidden = hidden.view(1, 16, 16).repeat_interleave(side, 1).repeat_interleave(side, 2)  # (1, H, W)
shown = [first, torch.where(hidden, 0.5, first), torch.where(hidden, first, 1.0)]
plots.show_images(shown, ["a picture", "what the encoder sees", "what the decoder has to paint"], height=2.4)

# %% [markdown]
# *A picture; a random quarter of its 16 × 16 patches; the rest.* The loss is how well the rest is painted.
#
# ## 1 Where are the people?
#
# **The question.** Sapiens begins with "approximately 1 billion in-the-wild images" and keeps 300 million in which
# there are people, large enough to be worth 1,024 pixels. No human looks at a billion pictures. Who decides?
#
# **The idea.** "An off-the-shelf person bounding-box detector" (§3.1). There is none on our shelf, so we build one, a
# small relative of CenterNet (Zhou et al. 2019, *Objects as points*). A person is **one point**, the centre of the
# box around what is seen of them, and what else one wants to know is written at that point. For a picture the network
# draws five maps with a quarter of its side: how much each cell is somebody's centre (the *heat*); and, for the person
# whose centre it is, width, height, and the way to the exact centre (x and y).
#
# One detector serves the whole course: here it filters, in chapter 07 its boxes say where to look for a pose, and
# photographs go through it first.


# %% tags=["export"]
MEAN, STD = (123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255)  # ImageNet's, RGB
STRIDE = 4  # pixels to a cell of the detector's maps


def normalize(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> minus the mean colour of ImageNet, over its spread: what the networks read."""
    return (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(STD).view(3, 1, 1)


@dataclass(frozen=True)
class DetectorConfig:
    """A person detector, what it is shown, and how it is trained. size: the longer side of the pictures it reads.

    pictures: so many of each of the worlds, and held_out ones to calibrate on."""

    size: int
    width: int
    pictures: int
    held_out: int
    batch_size: int
    steps: int
    lr: float = 2e-3
    warmup: int = 50
    worlds: tuple[str, ...] = ("wild", "general")
    precision: str = "bf16"


DETECTORS = {
    "smoke": DetectorConfig(32, 8, pictures=8, held_out=8, batch_size=4, steps=6, warmup=2),
    "laptop": DetectorConfig(128, 24, pictures=2400, held_out=200, batch_size=32, steps=600, lr=4e-3),
    "gpu": DetectorConfig(128, 48, pictures=12_000, held_out=1000, batch_size=128, steps=6000, warmup=300),
    "shipped": DetectorConfig(128, 32, pictures=2400, held_out=200, batch_size=32, steps=6000, lr=3e-3, warmup=200),
}


# %% [markdown]
# **The equation.** The target of the heat is 1 in the cell $c_k$ of each centre and falls off around it, within an
# eighth of the person's own sides; where people overlap, the larger value counts:
#
# $$Y(x, y) = \max_k\, \exp\Big(-\frac{(x - c_{k,x})^2}{2 (w_k/8)^2} - \frac{(y - c_{k,y})^2}{2 (h_k/8)^2}\Big).
# \tag{06.1}$$
#
# (All in cells; $c_k$ is the middle of the centre's cell, and the spread $w_k/8$ is at least half a cell.)
#
# Being a cell off the centre of a large person is nearly right, and equation 06.1 says so. Width and height are
# predicted as logarithms: twice too wide is as wrong for a child far away as for a face that fills the picture.


# %% tags=["export"]
def detection_targets(boxes: Tensor, size: int) -> Batch:
    """Boxes (n, 4) in pixels of a square picture -> what the detector is to say of each cell (h, w).

    heat (1, h, w): 1 in the cell of a person's centre, falling off around it within an eighth of the person's sides;
    shape (4, h, w): log width, log height, and the way to the centre (x, y), all in cells, of the person whose heat is
    the largest; near (1, h, w): 1 where the shape counts. All zero without people. Zhou et al. 2019, §3.
    """
    cells = size // STRIDE
    place = torch.arange(cells) + 0.5
    boxes = torch.cat([boxes.new_tensor([[0, 0, STRIDE, STRIDE]]), boxes]) / STRIDE  # nobody first: then max has one
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2  # (1 + n, 2) x, y
    cell = centres.floor().clamp(0, cells - 1) + 0.5
    spread = (sides / 8).clamp(min=0.5)
    falls = torch.exp(-((place - cell[..., None]) ** 2) / (2 * spread[..., None] ** 2))  # (1 + n, 2, cells)
    heat = falls[:, 1, :, None] * falls[:, 0, None, :]  # (1 + n, h, w)
    heat[0] = 0
    heat, owner = heat.max(0)  # (h, w) each
    y, x = torch.meshgrid(place, place, indexing="ij")
    way = centres[owner].permute(2, 0, 1) - torch.stack([x, y])
    shape = torch.cat([sides[owner].log().permute(2, 0, 1), way])
    return {"heat": heat[None], "shape": shape, "near": (heat[None] > 0.7).float()}


# %%
DETECTOR = DETECTORS[scale()]


def draw_boxes(ax, boxes, scores=None, colour="#ffcf33"):
    """Boxes (n, 4) over a picture, with their scores (n,)."""
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        ax.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=1.8))
        if scores is not None:
            label = {"va": "top", "fontsize": 8, "bbox": {"facecolor": colour, "lw": 0, "pad": 0.6}}
            ax.text(left, top, f"{scores[number]:.2f}", **label)


crowd = max(range(min(TEST, 40)), key=lambda index: len(held_out[index].people))
boxes = torch.stack([torch.from_numpy(person.box) for person in held_out[crowd].people])
targets = detection_targets(boxes, SIZE)
near = targets["near"][0] > 0
shown = [torch.from_numpy(held_out[crowd].image), targets["heat"][0], *targets["shape"].where(near, torch.nan)[:2]]
plots.show_images(
    shown, ["people", "heat, eq. 06.1", "log width, where it counts", "log height"], height=2.3, cmap="magma"
)
draw_boxes(plt.gcf().axes[0], boxes)

# %% [markdown]
# *A held-out picture with the boxes around what is seen of each person, and three of the maps that the detector is to
# draw.*
#
# **The network** sees the picture on five scales: convolutions take it down to a 32nd of its side, where a cell sees
# whole people, and up again to a quarter, where a centre has a place. After each convolution come a norm over the batch
# (every channel gets mean 0 and variance 1 over all pixels of all its pictures, then a scale and a shift that are
# learned) and SiLU, $x \cdot \operatorname{sigmoid}(x)$, a ReLU without a kink.


# %% tags=["export"]
def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, a norm over the batch, and a SiLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions whose result is added to what came in: (B, C, H, W) -> the same. He et al. 2016."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.layers(x)


# %% tags=["export"]
class PersonDetector(nn.Module):
    """Normalised pictures (B, 3, H, W), sides multiples of 32 -> heat (B, 1, h, w), a logit, and shape (B, 4, h, w).

    Down to a 32nd of the side, to see whole people, and up again to a quarter, to place them. Zhou et al. 2019.
    `calibration`: scale and shift that make the logit of a peak a probability (`calibrate`).
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.size, widths = config.size, [config.width * 2**level for level in range(4)]
        self.stem = nn.Sequential(convolution(3, config.width, 2), convolution(config.width, config.width, 2))
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(nn.Sequential(convolution(a, b, 2), Residual(b)) for a, b in pairs)
        self.bottom = Residual(widths[-1])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.merge = nn.ModuleList(convolution(a, a) for a, _ in pairs)
        self.head = nn.Conv2d(config.width, 5, 1)
        nn.init.constant_(self.head.bias, 0.0)
        nn.init.constant_(self.head.bias[:1], -2.2)  # a tenth: few cells are centres
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        levels = [self.stem(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = self.bottom(levels.pop())
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(levels.pop() + interpolate(up(x), scale_factor=2.0, mode="nearest"))
        maps = self.head(x)
        return maps[:, :1], maps[:, 1:]


# %% [markdown]
# **The loss.** Of the cells of a picture one or two are centres. A plain cross-entropy would be content with "nowhere".
# The **focal loss** (Lin et al. 2017) multiplies each cell's cross-entropy with how wrong it still is, so that a
# thousand easy cells don't drown the hard one; cells close to a centre count less (Law and Deng 2018). With $\hat Y$
# the predicted heat (`p` in the code) and $K$ the number of people in the batch (1 where there are none):
#
# $$L = -\frac1K \sum_{x, y} \begin{cases} (1 - \hat Y)^2 \log \hat Y & Y = 1 \\
# (1 - Y)^4\, \hat Y^2 \log(1 - \hat Y) & \text{else.} \end{cases} \tag{06.2}$$


# %% tags=["export"]
def centre_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """The focal loss of centre maps (B, 1, h, w), over the number of people (1 where there are none).

    Lin et al. 2017, with less weight near a centre as in Law and Deng 2018, eq. 1; Zhou et al. 2019, eq. 1."""
    centre = (heat == 1).float()
    p = logits.sigmoid()
    found = centre * (1 - p) ** 2 * logsigmoid(logits)
    empty = (1 - centre) * (1 - heat) ** 4 * p**2 * logsigmoid(-logits)
    return -(found + empty).sum() / centre.sum().clamp(min=1)


def detector_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`centre_loss`, and the mean distance of the shapes near the centres."""
    logits, shape = model(normalize(batch["image"]))
    distance = (shape - batch["shape"]).abs() * batch["near"]
    shapes = distance.sum() / batch["near"].sum().clamp(min=1)
    centres = centre_loss(logits, batch["heat"])
    return {"loss": centres + 0.5 * shapes, "centres": centres, "shapes": shapes}


# %%
logits, heat = torch.randn(2, 1, 4, 4, generator=generator), torch.zeros(2, 1, 4, 4)
heat[0, 0, 1, 1], heat[0, 0, 1, 2] = 1.0, 0.6
p = logits.sigmoid()
by_hand = torch.where(heat == 1, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log()).sum() / -1
assert torch.allclose(centre_loss(logits, heat), by_hand)  # equation 06.2: one person in two pictures
nobody = torch.zeros(1, 1, 4, 4)
for words, seen in (("nobody", -9), ("somebody", 2)):
    print(f"nobody is there, {words} is seen: {centre_loss(nobody + seen, nobody):.1e}")

# %% [markdown]
# A picture without people is a good teacher, too: its loss is defined, and small if nobody is seen.


# %% tags=["export"]
def detector_recipe(config: DetectorConfig, stream: Stream | None) -> Recipe:
    """The training of a `PersonDetector` on pictures and their `detection_targets`."""
    return Recipe(
        name=f"detector-{config.width}",
        model=partial(PersonDetector, config),
        loss=detector_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, weight_decay=0.01),
        schedule=Cosine(warmup=config.warmup),
        precision=config.precision,
        clip=5.0,
        blocks=(),
        channels_last=True,
        example=partial(detector_example, config),
    )


def detector_example(config: DetectorConfig, count: int) -> Batch:
    """A batch of the right shapes and dtypes: one person in each picture."""
    targets = detection_targets(torch.tensor([[4.0, 4.0, 20.0, 28.0]]), config.size)
    batch = {name: values.expand(count, -1, -1, -1).clone() for name, values in targets.items()}
    return {"image": torch.rand(count, 3, config.size, config.size)} | batch


# %% [markdown]
# **More from the same pictures.** Each time a picture is shown, a random part of it is cut out and resized, its area
# half of the picture to all of it, and half of them are mirrored. Boxes have to follow: cut where the picture is cut,
# gone where too little of a person is left. (The autoencoder will use the same with parts from a fifth on.)


# %% tags=["export"]
def crop_window(height: int, width: int, rng: np.random.Generator, least: float = 0.2) -> tuple[int, int, int, int]:
    """A random part of a picture: top, left, height, width. Its area is a share from `least` to 1 of the picture's, its
    sides 3:4 to 4:3; the middle of the picture where ten tries don't fit. (RandomResizedCrop; Sapiens' code.)"""
    for _ in range(10):
        area, aspect = rng.uniform(least, 1.0) * height * width, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def resized(image: Tensor, size: int) -> Tensor:
    """(3, H, W) -> (3, size, size), bicubic, within [0, 1]."""
    if image.shape[1:] == (size, size):
        return image
    return interpolate(image[None], size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


# %% tags=["export"]
MOST_PEOPLE = 8


def padded_boxes(sample) -> Tensor:
    """A sample's boxes (8, 4) in pixels of what is seen of its people; rows of zeros where there are fewer."""
    boxes = [torch.from_numpy(person.box) for person in sample.people[:MOST_PEOPLE]]
    return torch.stack(boxes + [torch.zeros(4)] * (MOST_PEOPLE - len(boxes)))


def real_boxes(boxes: Tensor) -> Tensor:
    """(..., 4) -> those (n, 4) that are at least a cell wide and high."""
    return boxes[(boxes[:, 2:] - boxes[:, :2]).amin(1) >= STRIDE]


def cropped(boxes: Tensor, window: tuple[int, int, int, int], size: int) -> Tensor:
    """Boxes (n, 4) in the window (top, left, height, width), resized to `size`; gone where a third or less is left."""
    top, left, height, width = window
    low, high = boxes.new_tensor([left, top] * 2), boxes.new_tensor([left + width, top + height] * 2)
    inside = boxes.clamp(low, high)
    left_over = (inside[:, 2:] - inside[:, :2]).prod(1) > (boxes[:, 2:] - boxes[:, :2]).prod(1) / 3
    return (inside[left_over] - low) * (size / boxes.new_tensor([width, height] * 2))


# %% tags=["export"]
def detector_augmented(size: int, image: Tensor, boxes: Tensor, rng: np.random.Generator) -> Batch:
    """A picture (3, H, W) in [0, 1] and its boxes (n, 4) -> a random part, mirrored, brighter or darker; targets."""
    window = top, left, height, width = crop_window(*image.shape[1:], rng, least=0.5)
    image = resized(image[:, top : top + height, left : left + width], size)
    boxes = cropped(real_boxes(boxes), window, size)
    if rng.random() < 0.5:
        left, top, right, bottom = boxes.unbind(1)
        image, boxes = image.flip(-1), torch.stack([size - right, top, size - left, bottom], 1)
    image = (image * rng.uniform(0.7, 1.3) + rng.uniform(-0.15, 0.15)).clamp(0, 1)
    return {"image": image} | detection_targets(real_boxes(boxes), size)


def detector_transform(config: DetectorConfig) -> Callable:
    """For a `TensorStream` over image (N, 3, H, W), uint8, and boxes (N, 8, 4): augmented, with targets."""
    return partial(detector_transformed, config)


def detector_transformed(config: DetectorConfig, batch: Batch, generator: torch.Generator) -> Batch:
    """See `detector_transform`: a batch of one picture, and a generator whose seed is the picture's own."""
    rng = np.random.default_rng(generator.initial_seed())
    one = detector_augmented(config.size, batch["image"][0] / 255, batch["boxes"][0], rng)
    return {name: values[None] for name, values in one.items()}


# %% [markdown]
# ### Exercise 06.1 — reading the map  ●●○ (15 min)
#
# The way back, from maps to boxes: take the cells that no neighbour exceeds, the largest heat first, and make a box of
# what the shape says there. Cell (row, column) has its middle at $x$ = column + 0.5, $y$ = row + 0.5.
#
# <details><summary>Hint 1: peaks</summary>
#
# A cell is a peak if it is the largest in its own 3 × 3 neighbourhood:
# `heat == max_pool2d(heat[None, None], 3, stride=1, padding=1)[0, 0]`.
# </details>
# <details><summary>Hint 2: the strongest</summary>
#
# `heat.masked_fill(~peak, -torch.inf).flatten().topk(...)` gives values and flat numbers of cells; drop those at
# `-torch.inf`. Row and column of a flat number: `// width` and `% width`.
# </details>
# <details><summary>Hint 3: boxes</summary>
#
# `shape[:, row, column]` is (4, n): log sides in the first two rows, the way in the last two. Left and top are the
# centre minus half of the sides, right and bottom plus half.
# </details>


# %% tags=["export"]
class Found(NamedTuple):
    """People in one picture: boxes (n, 4), left, top, right, bottom in pixels; scores (n,), best first."""

    boxes: Tensor
    scores: Tensor


@exercise("06.1")
def read_centres(heat: Tensor, shape: Tensor, most: int = 20) -> tuple[Tensor, Tensor]:
    """Heat (h, w) and shape (4, h, w) -> boxes (n, 4) in cells and their heat (n,), largest first: the `most` peaks.

    A peak is a cell that none of its eight neighbours exceeds. shape: log width, log height, way to the centre (x, y)
    from the middle of the cell, all in cells. Zhou et al. 2019, §3."""
    # BEGIN SOLUTION
    peak = heat == max_pool2d(heat[None, None], 3, stride=1, padding=1)[0, 0]  # (h, w)
    value, cell = heat.masked_fill(~peak, -torch.inf).flatten().topk(min(most, heat.numel()))
    value, cell = value[value > -torch.inf], cell[value > -torch.inf]
    row, column = cell // heat.shape[1], cell % heat.shape[1]
    log_sides, way = shape[:, row, column].T.split(2, dim=1)  # (n, 2) each
    centre, half = torch.stack([column, row], 1) + 0.5 + way, log_sides.exp() / 2
    return torch.cat([centre - half, centre + half], 1), value
    # END SOLUTION


# %%
check(read_centres)


# %%
heat, shape = targets["heat"][0], targets["shape"]
found, value = read_centres(heat, shape)
print(f"{len(boxes)} people drawn into maps, {int((value == 1).sum())} read back:")
print((STRIDE * found[value == 1]).round(decimals=1))

# %% [markdown]
# (Two people whose centres fall into the same cell are one point: a price of the idea.) Large people can have two
# peaks. So of boxes that lie on each other only the best is kept: a box goes if its **intersection over union** with a
# better one is above 60 %. That is the area that two boxes share over the area that they cover together.


# %% tags=["export"]
def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4) -> (n, m); 0 where both are empty."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1][None] - common).clamp(min=1e-9)


def without_doubles(boxes: Tensor, most_overlap: float = 0.6) -> Tensor:
    """The numbers of the boxes (n, 4), best first, that overlap with no better one that is kept."""
    kept: list[int] = []
    close = overlap(boxes, boxes) > most_overlap
    for candidate in range(len(boxes)):
        if not close[candidate, kept].any():
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.long)


# %% tags=["export"]
@torch.no_grad()
def detect(model: PersonDetector, images: Tensor, least: float = 0.3, batch_size: int = 64) -> list[Found]:
    """People in pictures (B, 3, H, W) in [0, 1] of any size: one `Found` each, those with a score of at least `least`.

    The score is calibrated: of the boxes with score 0.9, nine in ten are a person (`calibrate`). No people: no boxes.
    ValueError for pixels that are NaN or infinite."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"pictures are (B, 3, H, W), not {tuple(images.shape)}: add a batch dimension with image[None]"
        )
    if not torch.isfinite(images).all():
        bad = [i for i, image in enumerate(images) if not torch.isfinite(image).all()]
        raise ValueError(f"picture {bad[0]} has pixels that are NaN or infinite: leave it out")
    height, width = images.shape[2:]
    factor = model.size / max(height, width)
    found = []
    for part in images.split(batch_size):
        for logits, shape in zip(*run_detector(model, part, factor), strict=True):
            boxes, value = read_centres(logits[0].cpu(), shape.cpu())
            scores = (value * model.calibration[0].cpu() + model.calibration[1].cpu()).sigmoid()
            boxes, scores = boxes[scores >= least], scores[scores >= least]
            boxes = (boxes * STRIDE / factor).clamp(boxes.new_zeros(4), boxes.new_tensor([width, height] * 2))
            kept = without_doubles(boxes)
            found.append(Found(boxes[kept], scores[kept]))
    return found


def run_detector(model: PersonDetector, images: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Pictures, resized by `factor` and filled up to multiples of 32 on the right and below, through the network."""
    device = next(model.parameters()).device
    height, width = (max(1, round(side * factor)) for side in images.shape[2:])
    if (height, width) != tuple(images.shape[2:]):
        images = interpolate(images, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)
    filled = pad(normalize(images.to(device)), (0, -width % 32, 0, -height % 32))
    return model(filled)


# %% [markdown]
# **What does a score of 0.9 mean?** The paper keeps boxes above 0.9 and does not say what that is 0.9 of. Out of the
# focal loss comes a number between 0 and 1, but no probability: it is trained to be careful. We make it one. We run the
# detector over held-out pictures and note for every box whether it is a person (it overlaps one of them by at least a
# half, and no better box took that person). Then we fit two numbers by logistic regression, **Platt scaling** (1999):
#
# $$\text{score} = \sigma(a\,\ell + b), \qquad \ell \text{ the logit of a peak}. \tag{06.3}$$
#
# From then on a score of 0.9 says: *of ten boxes with this score nine are people*, on pictures like these. On other
# pictures, photographs say, it is a hope.


# %% tags=["export"]
def hits(found: Found, truth: Tensor, least: float = 0.5) -> Tensor:
    """Which boxes (n,) are a person of `truth` (m, 4): best first, each takes the person it overlaps most, once."""
    close, right = overlap(found.boxes, truth), torch.zeros(len(found.boxes), dtype=torch.bool)
    for box in range(len(found.boxes) if len(truth) else 0):
        value, person = close[box].max(0)
        right[box] = value >= least
        if right[box]:
            close[:, person] = 0
    return right


def calibrate(model: PersonDetector, images: Tensor, boxes: Tensor) -> None:
    """Sets `model.calibration` so that a score is the share of such boxes that are people, on held-out pictures.

    images (N, 3, H, W), boxes (N, 8, 4) padded with zeros. Platt 1999: two numbers, by logistic regression."""
    model.calibration.copy_(torch.tensor([1.0, 0.0]))
    found = detect(model, images, least=0.01)
    truth = [real_boxes(rows) for rows in boxes]
    right = torch.cat([hits(one, people) for one, people in zip(found, truth, strict=True)]).double()
    logit = torch.cat([one.scores for one in found]).double().logit()
    fit = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([fit], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        wrong = binary_cross_entropy_with_logits(fit[0] * logit + fit[1], right, reduction="sum")
        value = wrong + 0.1 * (fit - fit.new_tensor([1, 0])).square().sum()  # defined where nothing was found, too
        value.backward()
        return value

    solver.step(loss)
    model.calibration.copy_(fit.detach())


def detector_quality(model: PersonDetector, images: Tensor, boxes: Tensor, score: float = 0.9) -> dict[str, float]:
    """Precision and recall of boxes above `score`, 0 to 1, on pictures (N, 3, H, W) with boxes (N, 8, 4)."""
    found, truth = detect(model, images, least=score), [real_boxes(rows) for rows in boxes]
    right = sum(int(hits(one, people).sum()) for one, people in zip(found, truth, strict=True))
    boxes_found, people = sum(len(one.boxes) for one in found), sum(map(len, truth))
    return {"precision": right / max(1, boxes_found), "recall": right / max(1, people)}


# %% [markdown]
# ### The run
#
# Training pictures of two worlds: `wild`, where every picture has people in it, and `general`, where four of five are
# empty rooms, streets and objects. (They are rendered once and kept in the data folder.) Validation pictures are for
# equation 06.3; test pictures for the numbers. No two of the three share a person.


# %%
from course_lib.data.sets import rendered
from course_lib.studies.sapiens import in_memory, joined, picture_and_boxes


def load_pictures(world, count, split):
    """image (N, 3, H, W) uint8 and boxes (N, 8, 4) of rendered pictures."""
    return in_memory(rendered(world, count, SIZE, split), picture_and_boxes)


labelled = {world: load_pictures(world, DETECTOR.pictures, "train") for world in DETECTOR.worlds}
validation = joined([load_pictures(world, DETECTOR.held_out, "val") for world in DETECTOR.worlds])
test = load_pictures("wild", TEST, "test")

# %%
from course_lib.data.streams import TensorStream
from course_lib.train import fit


def train_or_load(choice, key, model, recipe):
    """The recipe's model, trained here, and its run; for "load": `model` with the shipped weights in it, and no run."""
    if choice == "load":
        try:
            record = shipped.load(model, SHIPPED[key].name)
            print(f"loaded {SHIPPED[key].name}, trained for {record['minutes']:.0f} minutes: {record['metrics']}")
            return model, None
        except shipped.ShippedError as error:
            print(f"{error} Training here instead.")
    run = fit(recipe)
    return run.model, run


# %%
torch.set_num_threads(threads)
choice = "train"  # or "load": the weights in checkpoints/, which were trained for longer
stream = TensorStream(joined(list(labelled.values())), transform=detector_transform(DETECTOR))
shape_of_shipped = PersonDetector(DETECTORS["shipped"])
detector, run = train_or_load(choice, "detector", shape_of_shipped, detector_recipe(DETECTOR, stream))
if run:
    calibrate(detector, validation["image"] / 255, validation["boxes"])
    plots.curve(
        {name: plots.smooth([row[name] for row in run.history]) for name in ("centres", "shapes")}, ylim=(0, None)
    )
    assert np.mean(run.losses[-3:]) < run.losses[0]
print("equation 06.3: a = {:.2f}, b = {:.2f}".format(*detector.calibration.tolist()))

# %% [markdown]
# *The two parts of the loss.* How good is it? For every threshold: how many of the boxes are people (**precision**),
# and how many of the people have a box (**recall**)? The rule to beat knows no picture: the usual box, in the place
# where most people of the training pictures are.

# %% tags=["result"]
images, truth = test["image"] / 255, [real_boxes(rows) for rows in test["boxes"]]
usual = torch.cat([real_boxes(rows) for rows in labelled["wild"]["boxes"]]).median(0).values[None]
lucky = sum(int(hits(Found(usual, torch.ones(1)), people).sum()) for people in truth)
print(f"{'on ' + str(TEST) + ' held-out pictures':24s} precision  recall")
print(f"{'the usual box':24s} {lucky / TEST:9.2f} {lucky / sum(map(len, truth)):7.2f}")
quality = {}
for score in (0.3, 0.5, 0.7, 0.9):
    quality[score] = detector_quality(detector, images, test["boxes"], score)
    print(f"{'score above ' + str(score):24s} {quality[score]['precision']:9.2f} {quality[score]['recall']:7.2f}")
if pick(smoke=False, laptop=True):
    assert quality[0.5]["precision"] > lucky / TEST and quality[0.5]["recall"] > lucky / sum(map(len, truth))

# %%
found = detect(detector, images, least=0.02)
scores = torch.cat([one.scores for one in found])
right = torch.cat([hits(one, people) for one, people in zip(found, truth, strict=True)]).float()
edges = torch.linspace(0, 1, 11)
inside = [(scores >= low) & (scores <= high) for low, high in zip(edges, edges[1:], strict=False)]
bars = [(scores[rows].mean(), right[rows].mean(), int(rows.sum())) for rows in inside if rows.sum() >= 5]
_, ax = plt.subplots(figsize=(3.4, 3.2), dpi=72, layout="constrained")
ax.plot([0, 1], [0, 1], ":", color="0.5")
if bars:
    said, were, counts = zip(*bars, strict=True)
    ax.scatter(said, were, s=[20 + 2 * count for count in counts])
ax.set(xlabel="score", ylabel="share that are people", xlim=(0, 1), ylim=(0, 1), title="is the score what it says?")
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# *Boxes on test pictures, in steps of a tenth of the score: how many are people? On the dotted line the score is what
# it says; a larger dot stands for more boxes.* The two numbers were fitted on other pictures of the same kind, so the
# dots should lie near the line; where there are few boxes they scatter. Above 0.9 a box can be trusted, and most people
# have none: those who are small, cut off, or half hidden.

# %%
few = range(0, TEST, max(1, TEST // 6))[:6]
plots.show_images([images[index] for index in few], columns=6, height=1.9)
for index, ax in zip(few, plt.gcf().axes, strict=False):
    one = detect(detector, images[index][None], least=0.3)[0]
    draw_boxes(ax, truth[index], colour="white")
    draw_boxes(ax, *one)

# %% [markdown]
# *Held-out people: the boxes of what is seen of them (white) and what the detector says, with its score (yellow).*
#
# ## 2 What is worth keeping?
#
# **The question.** A crawl of a billion pictures holds advertisements, memes, paintings, screenshots, collages, and
# rooms with nobody in them. What goes?
#
# **The idea.** Two filters (§3.1). First, discard "images with watermarks, text, artistic depictions, or unnatural
# elements". Then keep those with "a detection score above 0.9 and bounding box dimensions exceeding 300 pixels", of
# pictures that the network will see 1,024 pixels wide. Since ours are smaller we keep the share: a side above
# 300 / 1024 = 29 % of the picture's. Which side? "Dimensions" could mean both. We take the longer one: a standing
# person is slim.
#
# `make_pool` makes a pool to curate: rendered pictures of several worlds, 30 % of them spoiled on purpose in sixteen
# styles. It also knows what it did. That is for measuring only: **no filter may look at it**.

# %%
from course_lib.data.pool import KINDS, make_pool

pool = make_pool(pick(smoke=24, laptop=600), SIZE, split="test")
kinds = np.array([one.kind for one in pool.truth])
for kind in KINDS:
    print(f"{kind:10s} {int((kinds == kind).sum()):4d}")
some = [int(np.flatnonzero(kinds == kind)[i]) for kind in KINDS for i in (0, -1)]
plots.show_images(
    [pool.images[i] for i in some], [pool.truth[i].style or "clean" for i in some], columns=10, height=1.3
)

# %% [markdown]
# *Two of each kind.*
#
# ### Exercise 06.2 — score and size  ●○○ (5 min)
#
# Which of the people in a picture are found surely enough, and large enough?
#
# <details><summary>Hint</summary>
#
# `found.boxes[:, 2:] - found.boxes[:, :2]` is width and height, (n, 2); `.amax(1)` the longer one. Both comparisons are
# strict, and `&` joins them.
# </details>


# %% tags=["export"]
@exercise("06.2")
def large_and_certain(found: Found, size: int, score: float = 0.9, side: float = 300 / 1024) -> Tensor:
    """Which people (n,) of a picture `size` pixels wide and high are worth a pretraining: boxes with a score above
    `score` whose longer side is more than the share `side` of the picture's. Sapiens §3.1."""
    # BEGIN SOLUTION
    longer = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(1)  # (n,)
    return (found.scores > score) & (longer > side * size)
    # END SOLUTION


# %%
check(large_and_certain)

# %% [markdown]
# ### Faults
#
# The paper does not say how it found text, watermarks, art and unnatural elements. We train a second small network on
# **planted examples**: clean training pictures, half of which we spoil ourselves, so that every label is known without
# anybody's work. Letters are *somewhere* in a picture and false colours *everywhere*, so the network keeps the
# strongest and the mean answer of all places.


# %% tags=["export"]
FAULTS = ("text", "watermark", "artistic", "unnatural")  # what §3.1 discards


class FaultFinder(nn.Module):
    """Normalised pictures (B, 3, H, W) -> a logit for each of FAULTS (B, 4).

    Small convolutions that look at an 8th of the side and keep the strongest and the mean answer of the whole picture:
    letters are somewhere, a false colour everywhere."""

    def __init__(self, width: int):
        super().__init__()
        self.look = nn.Sequential(
            convolution(3, width), convolution(width, width, 2), convolution(width, 2 * width, 2),
            convolution(2 * width, 4 * width, 2), convolution(4 * width, 4 * width),
        )  # fmt: skip
        self.judge = nn.Linear(8 * width, len(FAULTS))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        seen = self.look(images)  # (B, 4 width, H / 8, W / 8)
        return self.judge(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1))


# %%
from course_lib.data.pool import Picture, spoil


def planted(pictures, seed):
    """Pictures (N, 3, H, W) uint8, every other one spoiled -> image (N, 3, H, W) uint8, fault (N, 4)."""
    images, faults = pictures.clone(), torch.zeros(len(pictures), len(FAULTS))
    instances = np.zeros(pictures.shape[2:], int)  # only needed by who wants to know where people went
    raw = [Picture(image.permute(1, 2, 0).numpy() / np.float32(255), instances) for image in pictures]
    for index in range(1, len(pictures), 2):
        fault = index // 2 % len(FAULTS)
        rng = np.random.default_rng([seed, index])
        spoiled, _ = spoil(raw[index], FAULTS[fault], rng, raw[index - 1])
        images[index] = torch.from_numpy((spoiled.image * 255).round()).permute(2, 0, 1)
        faults[index, fault] = 1
    return {"image": images, "fault": faults}


def fault_loss(model, batch):
    """The mean binary cross-entropy of the four answers."""
    return binary_cross_entropy_with_logits(model(normalize(batch["image"])), batch["fault"])


def to_unit(batch, generator):
    """uint8 -> [0, 1], every other picture mirrored."""
    image = batch["image"] / 255
    mirror = torch.rand((), generator=generator) < 0.5
    return {"image": image.flip(-1) if mirror else image, "fault": batch["fault"]}


# %%
examples = planted(torch.cat([one["image"] for one in labelled.values()]), seed=0)
fault_recipe = Recipe(
    name="faults", model=partial(FaultFinder, pick(smoke=4, laptop=16)), loss=fault_loss, blocks=(), channels_last=True,
    stream=TensorStream(examples, transform=to_unit), steps=pick(smoke=4, laptop=500),
    batch_size=pick(smoke=4, laptop=32), optimizer=Optimizer(lr=3e-3, weight_decay=0.01), schedule=Cosine(warmup=20),
    precision="bf16", clip=1.0,
)  # fmt: skip
finder_run = fit(fault_recipe)
plots.curve({"faults": plots.smooth(finder_run.losses)}, ylim=(0, None))

# %% [markdown]
# **Where to draw the line?** At each probability some clean pictures are lost and some spoiled ones stay. A billion
# pictures are plenty, so the line stands where a tenth of the clean *validation* pictures is lost.


# %%
@torch.no_grad()
def fault_probabilities(images):
    """Pictures (N, 3, H, W) in [0, 1] -> the probability (N, 4) of each of FAULTS."""
    finder = finder_run.model
    device = finder.judge.weight.device
    return torch.cat([finder(normalize(part.to(device))).sigmoid().cpu() for part in images.split(64)])


clean = fault_probabilities(validation["image"] / 255).amax(1)  # (N,): validation pictures are unspoiled
line = clean.quantile(0.9)
fault = fault_probabilities(pool.images)  # (N, 4)
spotless = fault.amax(1) <= line
spoiled = torch.from_numpy(kinds != "clean")
passed = spotless[~spoiled].float().mean()
print(f"the line: {line:.2f}; {passed:.0%} of the {int((~spoiled).sum())} clean pictures of the pool pass. Of")
for name in FAULTS:
    rows = torch.from_numpy(kinds == name)
    print(f"  {int(rows.sum()):3d} with {name:10s} {1 - spotless[rows].float().mean():.0%} go")

# %% [markdown]
# ### Both filters

# %% tags=["result"]
found = detect(detector, pool.images, least=0.05)
peopled = torch.tensor([bool(large_and_certain(one, SIZE).any()) for one in found])
sides = [(one.boxes[:, 2:] - one.boxes[:, :2]).max() if len(one.boxes) else 0.0 for one in pool.truth]
wanted = ~spoiled & (torch.tensor(sides) > 300 / 1024 * SIZE)  # what should be kept: for measuring only
stages = {"everything": torch.ones(len(pool), dtype=torch.bool), "without faults": spotless,
          "with a person, score > 0.9": spotless & peopled}  # fmt: skip
relaxed = torch.tensor([bool(large_and_certain(one, SIZE, score=0.5).any()) for one in found])
stages["with a person, score > 0.5"] = spotless & relaxed
print(f"{'kept':28s} {'pictures':>8s} {'precision':>9s} {'recall':>6s} {'spoiled':>7s} {'nobody large':>12s}")
for name, kept in stages.items():
    good = (kept & wanted).sum()
    nobody = (kept & (torch.tensor(sides) <= 300 / 1024 * SIZE)).sum()
    precision, recall = good / kept.sum().clamp(min=1), good / wanted.sum().clamp(min=1)
    bad = int((kept & spoiled).sum())
    print(f"{name:28s} {kept.sum():8d} {precision:9.2f} {recall:6.2f} {bad:7d} {nobody:12d}")

# %% [markdown]
# **Precision**: which share of what is kept should be kept (unspoiled, with somebody large in it). **Recall**: which
# share of what should be kept is. The paper's 300 million of "approximately 1 billion" are all that is known of its
# filters; it gives neither number. A threshold as high as 0.9 buys precision and pays with recall: with a billion
# pictures to choose from one can afford it. A weaker detector pays more, since few of its boxes are that certain. In
# the stored run the two filters together lose about half of the good pictures at 0.9 and a fifth at 0.5; the filter of
# faults alone loses an eighth.
#
# What still slips through is mostly paintings with clean edges; there are also a mirrored person, watermarks and a
# glaring glitch. All 48 pictures with text are found.

# %%
final = stages["with a person, score > 0.9"]
groups = {"kept": final & wanted, "kept by mistake": final & ~wanted, "lost by mistake": ~final & wanted}
for name, rows in groups.items():
    chosen = rows.nonzero()[:8, 0].tolist()
    print(f"{name}: {int(rows.sum())}")
    if chosen:
        plots.show_images(
            [pool.images[i] for i in chosen], [pool.truth[i].style for i in chosen], columns=8, height=1.3
        )

# %% [markdown]
# *With a score above 0.9: some that are rightly kept, that should have gone, and that should have stayed.*
#
# **How many people are in a picture?** Sapiens' Figure 2 draws the distribution for its 300 million pictures; the text
# gives one number of it, "over 248 million images contain multiple subjects".

# %%
kept = final.nonzero()[:, 0].tolist()
counted = [min(5, int((found[index].scores > 0.5).sum())) for index in kept]  # of the smaller ones, too
true = [min(5, pool.truth[index].people) for index in kept]
_, ax = plt.subplots(figsize=(4.6, 2.5), dpi=72, layout="constrained")
for shift, values, name in ((-0.2, counted, "detected"), (0.2, true, "rendered")):
    ax.bar(np.arange(1, 6) + shift, [values.count(number) for number in range(1, 6)], width=0.38, label=name)
ax.set(xlabel="people in a picture (5: five and more)", ylabel="pictures", title="ours, as Figure 2")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
several = np.mean(np.array(counted or [0]) > 1)
print(f"several people: paper {248 / 300:.0%} of the pictures, ours {several:.0%} as detected")

# %% [markdown]
# *Detected and rendered people in the pictures that are kept.* Our worlds hold mostly one or two people, and people
# who hide behind others are hard to find: where the renderer put several, ours sees one. A statistic like Figure 2 is
# as good as the detector that counted.
#
# A pool of hundreds leaves too few pictures to learn from. From here on the autoencoder gets what the filter would
# leave of a much larger one: pictures of the world `wild`, unspoiled, with people in each.
#
# ## 3 A picture with holes
#
# **The question.** What can one ask about a picture without knowing anything about it? Something that can't be
# answered without understanding it, and whose answer is in the picture?
#
# **The idea.** Hide most of it and ask for the rest: the **masked autoencoder** (He et al. 2022), which Sapiens takes
# as it is (§3.2). Words are dense: one missing word in seven makes a puzzle. Pictures are not: a missing pixel is the
# mean of its neighbours. So patches are hidden, not pixels, and three quarters of them.
#
# And a gift on top: the encoder never sees the hidden patches at all. It works on a quarter of the tokens, so it can be
# large, and its pictures have 1,024 pixels a side.
#
# ### Exercise 06.3 — patches, the channel last  ●○○ (6 min)
#
# Chapter 04's `patchify` put the channel first inside a patch, as a convolution's kernel has it. MAE's code writes
# pixel after pixel, red, green and blue of each. It is the same numbers in another order. But whoever trains a decoder
# with one order and reads its answer in the other sees noise. We do as the published code does.
#
# <details><summary>Hint</summary>
#
# One `rearrange` does it. On the left of the arrow split the height into rows of patches and pixels in a patch,
# `(h p)`, and the width likewise, `(w q)`. On the right put all patches on one axis, and all numbers of a patch on
# another, what changes fastest last.
# </details>


# %% tags=["export"]
@exercise("06.3")
def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p * p * C): a row per patch; in it pixel after pixel, the channel changing fastest.

    MAE's own order ("nhwpqc"; He et al. 2022), not that of chapter 04's `patchify`. H, W: multiples of `patch`.
    """
    # BEGIN SOLUTION
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)
    # END SOLUTION


# %%
check(patchify)


# %% [markdown]
# ### Exercise 06.4 — and back  ●○○ (4 min)
#
# What the decoder predicts are rows of numbers. To look at them we need the way back to a picture.
#
# <details><summary>Hint</summary>
#
# The same line from right to left; einops must be told the rows of the grid, `h=grid[0]`, and `p`, `q`.
# </details>


# %% tags=["export"]
@exercise("06.4")
def unpatchify(rows: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(B, N, p * p * C), a row for each patch of a grid (rows, columns) -> (B, C, H, W). The inverse of `patchify`."""
    # BEGIN SOLUTION
    return rearrange(rows, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch, q=patch)
    # END SOLUTION


# %%
check(unpatchify)

# %% [markdown]
# **Which patches?** Each picture hides its own, and all are equally likely. Give every patch a random number, sort, and
# keep the first $n = \lfloor N (1 - r) \rfloor$ of the order, where $r$ is the share to be hidden. With the order $\pi$
# (at place $j$ stands patch $\pi_j$) one also needs the way back, the **inverse** permutation: patch $i$ stands at
# place $\pi^{-1}_i$, and
#
# $$\pi^{-1} = \operatorname{argsort}(\operatorname{argsort}(\text{noise})). \tag{06.4}$$
#
# The noise comes with the data, like everything random in this course: a batch is the same on one GPU and on 1,024.

# %%
noise = torch.rand(1, 12, generator=generator)
order, places = noise.argsort(1), noise.argsort(1).argsort(1)
assert torch.equal(order.gather(1, places), torch.arange(12)[None])  # equation 06.4
print("order", order[0].tolist(), "\nplace", places[0].tolist())

# %% [markdown]
# ### Exercise 06.5 — random masking  ●●○ (12 min)
#
# From the noise: the patches to keep, in the order's sequence; a mask with 1 for every hidden patch, in the
# *picture's* sequence; and the way back.
#
# <details><summary>Hint 1</summary>
#
# `noise.argsort(1)` is the order: whose noise is least, next, and so on. The way back is equation 06.4.
# </details>
# <details><summary>Hint 2</summary>
#
# `restore` says at which place each patch of the picture stands after the shuffle. At which places do the hidden ones
# stand? A comparison gives true and false: turn it into the noise's dtype.
# </details>


# %% tags=["export"]
def kept_patches(count: int, ratio: float) -> int:
    """How many of `count` patches stay visible. ValueError for a ratio that leaves none, or masks none."""
    kept = int(count * (1 - ratio)) if 0 < ratio < 1 else 0
    if not 0 < kept < count:
        raise ValueError(
            f"a mask ratio of {ratio} leaves none of {count} patches visible, or masks none: "
            f"use a ratio from {1 / count:.3g} to {1 - 1 / count:.3g}"
        )
    return kept


@exercise("06.5")
def random_masking(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Random numbers (B, N) -> keep (B, n), mask (B, N), restore (B, N); n = int(N (1 - ratio)) patches stay visible.

    keep: the numbers of the patches with the least noise, least first. mask: 1 where a patch is masked, else 0.
    restore: where the kept patches in `keep`'s order are followed by the masked ones, patch i is at place restore[i].
    He et al. 2022, §3. ValueError for a ratio that leaves no patch, or masks none.
    """
    n = kept_patches(noise.shape[1], ratio)
    # BEGIN SOLUTION
    order = noise.argsort(1)  # (B, N): who stands at each place after the shuffle
    restore = order.argsort(1)  # (B, N): where each patch stands after the shuffle
    return order[:, :n], (restore >= n).to(noise.dtype), restore
    # END SOLUTION


# %%
check(random_masking)

# %%
grid = patch_grid((SIZE, SIZE), PATCH)
N = grid[0] * grid[1]
RATIOS = pick(smoke=(0.75, 0.9), laptop=(0.75, 0.8, 0.85, 0.9, 0.95))
print(f"{N} patches; at 75 % {kept_patches(N, 0.75)} stay, at {RATIOS[-1]:.0%} {kept_patches(N, RATIOS[-1])}")
for ratio in (1.0, 0.0):
    try:
        random_masking(noise, ratio)
    except ValueError as error:
        print(f"ratio {ratio:g}: {error}")

# %% [markdown]
# ## 4 What is to be painted
#
# **The question.** Hidden pixels are to be predicted. But a wall is a wall: its brightness is known from next to it,
# and nothing is learned from getting the last percent of it right. What counts is what is *in* a patch.
#
# **The idea.** Normalise every patch by its own mean and spread ("norm-pix", He et al. 2022, §3). Then the mean, which
# the neighbours know, is gone, and a patch with a faint fold in a shirt counts as much as one with an eye.
#
# **The equation**, with the P = 3p² numbers $x_i$ of patch $i$, the hidden patches $M$ and the predictions $\hat t_i$:
#
# $$t_i = \frac{x_i - \bar x_i}{\sqrt{\operatorname{var}(x_i) + 10^{-6}}}, \qquad
# L = \frac{1}{|M|} \sum_{i \in M} \frac1P \lVert \hat t_i - t_i \rVert^2. \tag{06.5}$$
#
# The variance is `torch.var`'s, divided by P − 1. So whoever answers 0 everywhere has the loss $(P - 1)/P$, just below
# 1: **that is the number to beat.**
#
# ### Exercise 06.6 — the target  ●○○ (6 min)
#
# The left half of equation 06.5, for all patches of a batch.
#
# <details><summary>Hint</summary>
#
# `mean` and `var` over the last dimension, with `keepdim=True`, so that they can be subtracted from and divided into
# all numbers of their patch. The 1e-6 is added before the root.
# </details>


# %% tags=["export"]
@exercise("06.6")
def normalize_patches(patches: Tensor) -> Tensor:
    """Patches (B, N, P) -> each with mean 0 and variance 1 (unbiased, 1e-6 added): what MAE predicts. He et al., §3."""
    # BEGIN SOLUTION
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()
    # END SOLUTION


# %%
check(normalize_patches)

# %% [markdown]
# ### Exercise 06.7 — the loss  ●○○ (6 min)
#
# The right half of equation 06.5: only hidden patches count. (Where nothing is hidden the loss is 0, not 0/0.)
#
# <details><summary>Hint</summary>
#
# First the mean square of each patch, (B, N). Then the mean of those over the hidden patches: the mask is 1 for them
# and 0 for the others, so multiply and sum. What do you divide by, and how do you keep it from being 0?
# </details>


# %% tags=["export"]
@exercise("06.7")
def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mean squared error of the masked patches: prediction and target (B, N, P), mask (B, N), 1 = masked -> ().

    0 where nothing is masked. He et al. 2022, §3.
    """
    # BEGIN SOLUTION
    error = (prediction - target).square().mean(-1)  # (B, N)
    return (error * mask).sum() / mask.sum().clamp(min=1)
    # END SOLUTION


# %%
check(masked_loss)

# %%
few = torch.stack([torch.from_numpy(held_out[index].image) for index in range(min(TEST, 8))])  # (8, 3, H, W)
target = normalize_patches(patchify(normalize(few), PATCH))  # (8, N, P)
answer_zero = masked_loss(torch.zeros_like(target), target, torch.ones(target.shape[:2]))
P = target.shape[-1]
print(f"the loss of an answer of zeros: {answer_zero:.4f}, (P - 1) / P = {(P - 1) / P:.4f}")
assert answer_zero <= (P - 1) / P + 1e-5  # below it where a patch has one colour: its target is 0

as_picture = unpatchify(target[:4], PATCH, grid) / 5 + 0.5
plots.show_images([*few[:4], *as_picture], columns=4, height=1.6)

# %% [markdown]
# *Above: pictures. Below: what is to be painted, each patch normalised by itself.* Contours and texture are left, and
# shade is gone, where it tells nothing that the neighbours don't.
#
# ## 5 The masked autoencoder
#
# **The question.** How does a network paint what it has not seen, without spending work on what is hidden?
#
# **The idea.** The **encoder** is chapter 04's vision transformer, with fixed waves as places and a cls token; it gets
# the visible patches only. The **decoder** is small (512 wide and 8 deep, for all four Sapiens) and is thrown away in
# the end. It gets all patches: where one is hidden it finds one and the same learned vector, the **mask token**, plus
# the place of that patch. All that it can know about a hidden patch, the encoder must have told it through the visible
# ones.
#
# The order of things matters. The encoder's answers come in the shuffled order, the visible first. Append mask tokens
# until there are N, then gather by `restore`: every token is back in its place in the picture.


# %% tags=["export"]
@dataclass(frozen=True)
class Config:
    """A masked autoencoder, what it is shown, and how it is trained. size: the side of the square pictures.

    steps and batch_size count optimiser steps and pictures in each; lr is the peak."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    pictures: int
    batch_size: int
    steps: int
    lr: float = 1e-3
    warmup: int = 50
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    mask_ratio: float = 0.75
    world: str = "wild"
    precision: str = "bf16"
    accumulate: int = 1
    checkpoint_blocks: bool = False
    paper: PaperRun | None = None


# %% tags=["export"]
TOKENS = 1.2e12  # "Each model is pretrained on 1.2 trillion tokens" (Sapiens §1)


def paper_config(
    width: int, depth: int, heads: int, batch_size: int, counted: int = 4096, **printed: float | None
) -> Config:
    """A row of Sapiens' Table 2. `counted`: the tokens that a picture is taken to have, 4096 patches or 1024 visible
    ones; printed: what else the paper says of the run (`PaperRun`)."""
    samples = TOKENS / counted
    reading = "all patches" if counted == 4096 else "the visible patches"
    notes = (
        f"1.2 T tokens, read as {reading}: {counted:,} of a picture. The paper's text does not say which",
        "the paper's parameters are those of encoder and decoder, its FLOPs multiply-adds of the encoder on all "
        "patches, without attention's own products",
        "learning rate: that of its code for a batch of 4,096; what was used for these batches is not known",
    )
    return Config(
        1024, 16, width, depth, heads, pictures=300_000_000, batch_size=batch_size, world="wild",
        steps=round(samples / batch_size), lr=1.5e-4 * 4096 / 256, warmup=round(samples / batch_size / 40),
        checkpoint_blocks=True, paper=PaperRun("Sapiens, Table 2 and §4.1", batch=batch_size, samples=samples,
                                               notes=notes, **printed),
    )  # fmt: skip


# %% tags=["export"]
PRINTED_2B = {"parameters": 2.163e9, "flops": 8.709e12, "gpus": 1024, "days": 18}
CONFIGS = {
    "smoke": Config(32, 8, 32, 2, 2, pictures=8, batch_size=4, steps=6, warmup=2,
                    decoder_width=16, decoder_depth=1, decoder_heads=2),
    "laptop": Config(128, 8, 192, 6, 6, pictures=2400, batch_size=64, steps=400, lr=1.5e-3,
                     decoder_width=96, decoder_depth=2, decoder_heads=3),
    "gpu": Config(256, 16, 384, 12, 6, pictures=24_000, batch_size=256, steps=12_000, warmup=600,
                  decoder_width=192, decoder_depth=4, decoder_heads=6),
    "shipped": Config(128, 8, 192, 6, 6, pictures=12_000, batch_size=64, steps=8000, lr=1e-3, warmup=400,
                      decoder_width=96, decoder_depth=2, decoder_heads=3),
    "sapiens-0.3b": paper_config(1024, 24, 16, batch_size=98_304, parameters=0.336e9, flops=1.242e12),
    "sapiens-0.6b": paper_config(1280, 32, 16, batch_size=65_536, parameters=0.664e9, flops=2.583e12),
    "sapiens-1b": paper_config(1536, 40, 24, batch_size=40_960, parameters=1.169e9, flops=4.647e12),
    "sapiens-2b": paper_config(1920, 48, 32, batch_size=20_480, **PRINTED_2B),
    "sapiens-2b-visible": paper_config(1920, 48, 32, batch_size=20_480, counted=1024, **PRINTED_2B),
}  # fmt: skip

# %% [markdown]
# ### Exercise 06.8 — filling in  ●●○ (12 min)
#
# `MaskedAutoencoder.fill`, in the class below: from the tokens of cls and the n visible patches to all N, in the
# picture's order, cls in front.
#
# <details><summary>Hint 1</summary>
#
# `tokens[:, 1:]` are the visible patches. There are `restore.shape[1] - n` holes:
# `self.mask_token.expand(len(tokens), missing, -1)`.
# </details>
# <details><summary>Hint 2</summary>
#
# Visible tokens with the holes behind them are in the shuffled order. `gather` along dimension 1 brings each patch to
# its place; its index is `restore`, made as wide as the tokens with `[..., None].expand(-1, -1, width)`. cls goes in
# front again.
# </details>


# %% tags=["export"]
class MaskedAutoencoder(nn.Module):
    """An encoder for the patches that are visible and a light decoder that paints the others.

    `encoder` is chapter 04's transformer, with fixed waves as places and a cls token. He et al. 2022; Sapiens §3.2, its
    code for what the text leaves out.
    """

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.mask_ratio = c.mask_ratio
        self.encoder = VisionTransformer(
            c.size, c.patch, c.width, c.depth, c.heads, c.mlp_ratio, positions="sincos", cls=True
        )
        self.decoder_embed = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.decoder_pos_embed = position_table("sincos", self.encoder.grid, 1, c.decoder_width)
        self.decoder_blocks = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(c.decoder_width, 3 * c.patch**2)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            initialize(module)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor, ratio: float | None = None) -> tuple[Tensor, Tensor]:
        """Normalised pictures (B, 3, H, W), noise (B, N) -> what each patch is thought to be (B, N, 3p²), mask (B, N).

        ratio: the share that is masked, the configuration's if None."""
        keep, mask, restore = random_masking(noise, self.mask_ratio if ratio is None else ratio)
        return self.decode(self.encode(images, keep), restore), mask

    def encode(self, images: Tensor, keep: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> tokens (B, 1 + n, D) of cls and of the patches `keep` (B, n) alone."""
        tokens = self.encoder.embed(images)  # (B, 1 + N, D), places added
        index = keep[..., None].expand(-1, -1, tokens.shape[-1])
        visible = tokens[:, 1:].gather(1, index)  # (B, n, D)
        return self.encoder.encode(torch.cat([tokens[:, :1], visible], 1))

    @exercise("06.8")
    def fill(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Tokens (B, 1 + n, d) of cls and visible patches, restore (B, N) -> (B, 1 + N, d): in the picture's order,
        with `mask_token` where nothing was visible."""
        # BEGIN SOLUTION
        missing = restore.shape[1] - (tokens.shape[1] - 1)
        holes = self.mask_token.to(tokens.dtype).expand(len(tokens), missing, -1)
        shuffled = torch.cat([tokens[:, 1:], holes], 1)  # (B, N, d)
        patches = shuffled.gather(1, restore[..., None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, :1], patches], 1)
        # END SOLUTION

    def decode(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Tokens (B, 1 + n, D) of the encoder -> all patches (B, N, 3p²), normalised patch by patch."""
        x = self.fill(self.decoder_embed(tokens), restore) + self.decoder_pos_embed  # (B, 1 + N, d)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]


def encoder_state(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The encoder's tensors alone, by name: what the tasks of the next chapters begin with."""
    return model.encoder.state_dict()


# %%
check(MaskedAutoencoder.fill)

# %%
torch.manual_seed(0)
config = CONFIGS[scale()]
assert (config.size, config.patch) == (SIZE, PATCH)
untrained = MaskedAutoencoder(config).eval()
noise = torch.rand(8, N, generator=generator)[: len(few)]
with torch.no_grad():
    prediction, mask = untrained(normalize(few), noise)
    everywhere = torch.where(unpatchify(mask[..., None].expand(-1, -1, P), config.patch, grid) > 0, 9.0, few)
    blind, _ = untrained(normalize(everywhere), noise)
print(f"{sum(p.numel() for p in untrained.parameters()):,} numbers, prediction {tuple(prediction.shape)}")
assert torch.equal(prediction, blind)  # hidden pixels may be anything: the encoder does not see them

# %% [markdown]
# **Is it the real one?** `tests/test_sapiens_pretraining.py` copies our weights into Hugging Face's
# `ViTMAEForPreTraining` and gives both the same noise: mask, prediction, loss and gradients agree to $10^{-5}$.
#
# ## 6 The run
#
# **The question.** How much of this can be learned in some minutes, and is it more than one gets without learning
# anything?
#
# The recipe is MAE's, as Sapiens' code has it: AdamW with betas 0.9 and 0.95, weight decay 0.05 on matrices, gradients
# clipped at 1, a linear warm-up and half a cosine. The paper's own four runs are rows of the same table: section 9
# counts them, section 10 launches them.


# %% tags=["export"]
def pretraining_loss(model: nn.Module, batch: Batch) -> Tensor:
    """How badly the masked patches are painted: `masked_loss` against normalised patches. He et al. 2022, §3."""
    images = normalize(batch["image"])
    prediction, mask = model(images, batch["noise"])  # (B, N, 3p²), (B, N)
    patch = math.isqrt(prediction.shape[-1] // 3)
    return masked_loss(prediction, normalize_patches(patchify(images, patch)), mask)


def recipe(config: Config, stream: Stream | None) -> Recipe:
    """The training of a `MaskedAutoencoder` on batches of image (B, 3, H, W) in [0, 1] and noise (B, N)."""
    return Recipe(
        name=f"mae-{config.width}x{config.depth}-{config.size}",
        model=partial(MaskedAutoencoder, config),
        loss=pretraining_loss,
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer(lr=config.lr, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Cosine(warmup=config.warmup),
        accumulate=config.accumulate,
        precision=config.precision,
        clip=1.0,
        checkpoint_blocks=config.checkpoint_blocks,
        example=partial(example, config),
        paper=config.paper,
    )


def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    rows, columns = patch_grid((config.size, config.size), config.patch)
    return {"image": torch.rand(count, 3, config.size, config.size), "noise": torch.rand(count, rows * columns)}


# %% tags=["export"]
def augmented(config: Config, image: Tensor, rng: np.random.Generator) -> Batch:
    """A picture (3, H, W) in [0, 1] -> a random part of it, mirrored half of the time, and the noise for its mask."""
    top, left, height, width = crop_window(*image.shape[1:], rng)
    image = resized(image[:, top : top + height, left : left + width], config.size)
    return with_noise(config, image.flip(-1) if rng.random() < 0.5 else image, rng)


def with_noise(config: Config, image: Tensor, rng: np.random.Generator) -> Batch:
    """The picture with random numbers for the mask: drawn here, so that they don't depend on the number of GPUs."""
    rows, columns = patch_grid(image.shape[1:], config.patch)
    return {"image": image, "noise": torch.from_numpy(rng.random(rows * columns, dtype=np.float32))}


# %% tags=["export"]
def prepare(config: Config) -> Callable:
    """For a `ShardStream`: (sample, random numbers) -> image (3, size, size) and noise (N,), augmented."""
    return partial(prepared, config)


def prepared(config: Config, sample, rng: np.random.Generator | None = None) -> Batch:
    """See `prepare`; without random numbers the whole picture, the same noise for each. ValueError for NaN pixels."""
    if not np.isfinite(sample.image).all():
        raise ValueError(f"sample {sample.key} has pixels that are NaN or infinite: leave it out, or make it anew")
    image = torch.from_numpy(sample.image)
    if rng is None:
        return with_noise(config, resized(image, config.size), np.random.default_rng(0))
    return augmented(config, image, rng)


def transform(config: Config) -> Callable:
    """For a `TensorStream` over pictures {"image": (N, 3, H, W)}, uint8 or in [0, 1]: the same augmentation."""
    return partial(transformed, config)


def transformed(config: Config, batch: Batch, generator: torch.Generator) -> Batch:
    """See `transform`: a batch of one picture, and a generator whose seed is the picture's own."""
    image = batch["image"][0]
    image = image / 255 if image.dtype == torch.uint8 else image
    one = augmented(config, image, np.random.default_rng(generator.initial_seed()))
    return {name: values[None] for name, values in one.items()}


# %% tags=["export"]
SHIPPED = {
    "people": Shipped("sapiens_pretraining-people", CONFIGS["shipped"], "course_lib.studies.sapiens:people"),
    "detector": Shipped("sapiens_pretraining-detector", DETECTORS["shipped"], "course_lib.studies.sapiens:detector"),
}

# %% [markdown]
# **The baselines.** Zeros, whose loss we know. And painting without having learned anything: let the visible pixels
# flow into the holes, each hidden pixel the mean of its neighbours, again and again (the heat equation). We count all
# hidden patches, and by themselves those that show mostly people: there a wall's smoothness does not help.


# %%
def flow_in(images, mask, rounds=100):
    """Pictures (B, 3, H, W) whose hidden patches (mask (B, N), 1 = hidden) are filled by averaging neighbours."""
    hidden = unpatchify(mask[..., None].expand(-1, -1, P), config.patch, grid)  # (B, 3, H, W)
    filled = torch.where(hidden > 0, images.mean((2, 3), keepdim=True), images)
    for _ in range(rounds):
        around = torch.nn.functional.avg_pool2d(pad(filled, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        filled = torch.where(hidden > 0, around, images)
    return filled


images = test["image"] / 255  # (240, 3, H, W), held-out people
parts = torch.stack([torch.from_numpy(held_out[index].parts).long() for index in range(TEST)])  # (240, H, W)
human = (patchify((parts > 0)[:, None].float(), PATCH).mean(-1) > 0.5).float()  # (240, N)
noise = torch.rand(len(images), N, generator=generator)
_, mask75, _ = random_masking(noise, config.mask_ratio)
targets = normalize_patches(patchify(normalize(images), PATCH))


def judged(prediction):
    """The loss of all hidden patches, and of those that show people."""
    return [masked_loss(prediction, targets, chosen).item() for chosen in (mask75, mask75 * human)]


flowed = normalize_patches(patchify(normalize(flow_in(images, mask75)), PATCH))
losses = {
    "zeros": judged(0 * targets),
    "flowing in": judged(flowed / 2),
}  # half as sure: with full contrast it is worse


# %%
@torch.no_grad()
def paint(model, images, noise, ratio=None):
    """Pictures (B, 3, H, W) in [0, 1] -> what the model paints (B, N, P), normalised patches, and the mask (B, N)."""
    device = next(model.parameters()).device
    batches = zip(images.split(40), noise.split(40), strict=True)
    parts = [model(normalize(few.to(device)), its_noise.to(device), ratio) for few, its_noise in batches]
    return tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))


# %%
choice = "train"  # or, at `laptop`, "load"
people = {"image": load_pictures(config.world, config.pictures, "train")["image"]}
stream = TensorStream(people, transform=transform(config))
model, run = train_or_load(choice, "people", MaskedAutoencoder(CONFIGS["shipped"]), recipe(config, stream))
name = "this run" if run else "shipped"
losses[name] = judged(paint(model, images, noise)[0])
if run:
    curve = plots.smooth(run.losses)
    plots.curve({"training": curve, "zeros": [losses["zeros"][0]] * len(curve)}, ylim=(0.4, None))
    assert np.mean(run.losses[-3:]) < run.losses[0]

# %% [markdown]
# *The loss of hidden patches of the training pictures, of which random parts are shown. An answer of zeros is 0.995.*
#
# Minutes are not much for this: MAE is known for needing long runs, and where ours flattens, its learning rate is
# running out, not what there is to learn. `course ship 06.people` trained the same model for 100 minutes, with twenty
# times as many steps on five times as many pictures; the rest of the chapter looks at that one.

# %% tags=["result"]
models = {"untrained": untrained, name: model}
if run and shipped.available(SHIPPED["people"].name) and SIZE == CONFIGS["shipped"].size:
    models["shipped"] = MaskedAutoencoder(CONFIGS["shipped"])
    record = shipped.load(models["shipped"], SHIPPED["people"].name)
    minutes = f"shipped, {record['minutes']:.0f} minutes"
    losses[minutes] = judged(paint(models["shipped"], images, noise)[0])
elif run:
    print("The shipped model is not looked at here: `course ship 06.people` makes it where it is missing.")
best = list(models.values())[-1]
print(f"masked loss on {len(images)} held-out pictures, 75 % hidden      all  people")
for name, (everywhere, on_people) in losses.items():
    print(f"  {name:48s} {everywhere:7.3f} {on_people:7.3f}")
if pick(smoke=False, laptop=True):
    assert losses[list(models)[1]][0] < 0.85 * losses["zeros"][0]

# %% [markdown]
# Flowing in is no weak rival. Most patches of a rendered picture are smooth, and the normalised target of a smooth
# patch is the slope of its shade, which its border gives away. To beat it one has to know what is *not* there: a hand,
# an eye, the hem of a skirt. A run of some minutes is ahead over whole pictures and still behind on people: it has
# learned walls, lawns and skies first. The long one is far ahead on both.
#
# ## 7 From 75 to 95 %
#
# **The question.** What does it paint? Predictions are normalised patches; for a picture one needs a mean and a spread
# for each. The usual figures take those of the *hidden* patch itself, which is peeking: three quarters of the shading
# are then given away. We do it both ways: peeking, as the papers do, and with a guess from the visible patches around.


# %%
def guessed(values, mask):
    """A value (B, N, 1) of each patch from the visible ones: their mean, weighted by distance."""
    y, x = torch.meshgrid(*(torch.arange(float(size)) for size in grid), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], 1)
    weight = torch.exp(-torch.cdist(places, places).square() / 2) * (1 - mask)[:, None] + 1e-12  # (B, N, N)
    return torch.where(mask[..., None] > 0, weight @ values / weight.sum(-1, keepdim=True), values)


def as_pictures(images, prediction, mask, peek):
    """Pictures (B, 3, H, W) with the hidden patches as painted."""
    rows = patchify(normalize(images), config.patch)
    mean, spread = rows.mean(-1, keepdim=True), (rows.var(-1, keepdim=True) + 1e-6).sqrt()
    if not peek:
        mean, spread = guessed(mean, mask), guessed(spread, mask)
    painted = torch.where(mask[..., None] > 0, prediction * spread + mean, rows)
    colours = unpatchify(painted, config.patch, grid)
    colours = colours * colours.new_tensor(STD).view(3, 1, 1) + colours.new_tensor(MEAN).view(3, 1, 1)
    return colours.clamp(0, 1)


def with_holes(images, mask):
    """The visible patches on grey."""
    return torch.where(unpatchify(mask[..., None].expand(-1, -1, P), config.patch, grid) > 0, 0.5, images)


# %%
chosen = [index for index in pick(smoke=[0, 1], laptop=[3, 17, 42, 77, 105, 130]) if index < TEST]
few, its_noise = images[chosen], noise[chosen]
prediction, mask_few = paint(best, few, its_noise)
painted = [as_pictures(few, prediction, mask_few, peek) for peek in (False, True)]
rows = [few, with_holes(few, mask_few), *painted]
plots.show_images([picture for row in rows for picture in row], columns=len(chosen), height=1.55)
for ax, name in zip(plt.gcf().axes[:: len(chosen)], ("picture", "75 % hidden", "painted", "peeking"), strict=True):
    ax.text(-0.06, 0.5, name, transform=ax.transAxes, rotation=90, va="center", ha="right")

# %% [markdown]
# *Held-out people. From above: the picture, what the encoder gets, what is painted with guessed means, and with the
# hidden patches' own means, as such figures usually are drawn.*
#
# Now hide more, as the paper's Figure 3 does. The model was trained at 75 %, and nothing in it knows the ratio. The
# quality is given in decibels: PSNR is $-10 \log_{10}$ of the mean squared error of colours from 0 to 1, so 3 dB less
# are twice the squared error.

# %% tags=["result"]
print("signal to noise (PSNR, dB) of the hidden pixels of held-out people; higher is better")
print("hidden".ljust(34) + "".join(f"{ratio:8.0%}" for ratio in RATIOS))
table, some = {}, images[:80]
for ratio in RATIOS:
    prediction, mask = paint(best, some, noise[:80], ratio)
    hidden = unpatchify(mask[..., None].expand(-1, -1, P), config.patch, grid)
    found = {"flowing in": flow_in(some, mask)}
    for peek in (False, True):
        words = "peeking" if peek else "guessed"
        found[f"the mean of each patch, {words}"] = as_pictures(some, 0 * prediction, mask, peek)
        found[f"painted, its mean {words}"] = as_pictures(some, prediction, mask, peek)
    for name, picture in found.items():
        error = ((picture - some).square() * hidden).sum() / hidden.sum()
        table.setdefault(name, []).append(-10 * math.log10(error))
for name, values in table.items():
    print(name.ljust(34) + "".join(f"{value:8.2f}" for value in values))

# %%
shown = []
for ratio in RATIOS:
    prediction, mask_few = paint(best, few[:2], its_noise[:2], ratio)
    shown.append([with_holes(few[:2], mask_few), as_pictures(few[:2], prediction, mask_few, False)])
pictures = [column[kind][who] for who in range(len(few[:2])) for kind in (0, 1) for column in shown]
plots.show_images(pictures, [f"{ratio:.0%}" for ratio in RATIOS], columns=len(RATIOS), height=1.6)

# %% [markdown]
# *Two held-out people, more and more of them hidden, and what is painted (means guessed).* "A minimal reduction in
# quality" is what the paper sees in its model of 1,024 pixels and weeks of computing; the table says what it is
# here: three decibels lost on the way from 75 to 95 %. And decibels hardly tell painting from flowing in, for most of
# them are in the means of the patches, which both have to guess. With the true means (peeking) painting adds 3.6 dB to
# them at 75 % and 1.4 at 95 %. With the slider, for any held-out picture:


# %%
def hide(picture=chosen[0], ratio=0.75):
    prediction, one_mask = paint(best, images[picture][None], noise[picture][None], ratio)
    painted = [as_pictures(images[picture][None], prediction, one_mask, peek)[0] for peek in (False, True)]
    shown = [images[picture], with_holes(images[picture][None], one_mask)[0], *painted]
    plots.show_images(shown, ["picture", f"{ratio:.0%} hidden", "painted", "peeking"], height=2.2)
    plt.show()


sliders = interactive(hide, picture=(0, TEST - 1), ratio=(0.75, RATIOS[-1], 0.01))
for slider in sliders.children[:-1]:
    slider.continuous_update = False
sliders

# %% [markdown]
# ## 8 What was learned
#
# **The question.** Nobody will need painted patches. Does the encoder know anything about *people*?
#
# **The idea.** Give it whole pictures and look at the token of each patch after the last norm. If two patches mean the
# same, their tokens should point the same way.
#
# ### Exercise 06.9 — nearest neighbours  ●○○ (6 min)
#
# For each query: which rows of `features` point most nearly in its direction, and what is the cosine of the angle?
#
# <details><summary>Hint</summary>
#
# Divide each row by its length (`cosine_normalize(..., dim=-1)` is PyTorch's `normalize`); the product of the two
# matrices is (M, N); then `.topk(count, dim=1)`.
# </details>


# %% tags=["export"]
@exercise("06.9")
def nearest(queries: Tensor, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Queries (M, D), features (N, D) -> cosine similarity (M, count), largest first, and whose it is (M, count)."""
    # BEGIN SOLUTION
    similarity = cosine_normalize(queries, dim=-1) @ cosine_normalize(features, dim=-1).T  # (M, N)
    return similarity.topk(count, dim=1)
    # END SOLUTION


# %%
check(nearest)


# %%
@torch.no_grad()
def tokens_of(model, images):
    """The tokens (B, N, D) of all patches of whole pictures, after the last norm, minus the mean of their place."""
    device = next(model.parameters()).device
    found = torch.cat([model.encoder(normalize(part.to(device)))[:, 1:].cpu() for part in images.split(40)])
    return found - found.mean(0)


from course_lib.data.parts import PART_NAMES

cells = patchify(parts[:, None].float(), config.patch).long()  # (240, N, p²)
share = torch.stack([(cells == number).float().mean(2) for number in range(len(PART_NAMES))], -1)  # (240, N, 28)
part, most = share.argmax(-1), share.amax(-1)  # the part that most of a patch is, and how much

# %% [markdown]
# **Whose neighbours?** For patches of people in twenty held-out pictures we look for the nearest patch in all the
# others, and ask afterwards whether it shows the same of Sapiens' 28 body parts. The labels only judge: nothing was
# trained on them. Beside it: raw pixels, and the encoder before its training.

# %% tags=["result"]
half = pick(smoke=1, laptop=TEST // 12)
asking = (part[:half] > 0) & (most[:half] > 0.6)
candidates = (most[half:] > 0.6).flatten()
features = {"pixels": patchify(images, config.patch)}
features |= {name: tokens_of(each, images) for name, each in models.items()}
usual = part[half:].flatten()[candidates]
chance = (part[:half][asking][:, None] == usual[None, ::7]).float().mean()
print(f"{int(asking.sum())} patches of people; a patch at random shows the same part {chance:.1%} of the time")
same = {}
for name, values in features.items():
    values = values - values.mean((0, 1))
    pool_of = values[half:].flatten(0, 1)[candidates]
    _, index = nearest(values[:half][asking], pool_of, 5)  # (M, 5)
    same[name] = (usual[index] == part[:half][asking][:, None]).float().mean().item()
    print(f"  {name:10s} {same[name]:.1%} of the five nearest")
if pick(smoke=False, laptop=True):
    assert same[list(models)[-1]] > max(same["pixels"], same["untrained"])

# %%
where = candidates.nonzero()[:, 0]
queries = [int((asking & (part[:half] == PART_NAMES.index(name))).flatten().nonzero()[:1].sum())
           for name in ("Face_Neck", "Right_Hand", "Left_Shoe", "Upper_Clothing")]  # fmt: skip
best_features = features[list(models)[-1]]


def around(flat, first):
    """Three by three patches around patch number `flat` of the pictures from `first` on."""
    picture, place = divmod(int(flat), N)
    row, column = (v * config.patch for v in divmod(place, grid[1]))
    wide = pad(images[first + picture], [config.patch] * 4, value=1.0)
    return wide[:, row : row + 3 * config.patch, column : column + 3 * config.patch]


pictures = []
for query in queries:
    _, index = nearest(best_features[:half].flatten(0, 1)[query][None], best_features[half:].flatten(0, 1)[where], 7)
    pictures += [around(query, 0), *(around(where[i], half) for i in index[0])]
plots.show_images(pictures, ["patch", *(["nearest"] + [""] * 6)], columns=8, height=1.15)

# %% [markdown]
# *Left: a patch (the middle of the crop) of a face, a hand, a shoe and a shirt. To the right: its seven nearest among
# the patches of the other pictures that show mostly one thing (white: beyond the border).* The face finds faces. Hand,
# shoe and shirt find what has their colours and edges: walls, a kerb, a chequered floor.
#
# **As colours.** The three directions in which the tokens of all held-out pictures differ most (principal components)
# as red, green and blue.

# %%
flat = best_features.flatten(0, 1)  # (240 N, D)
_, _, directions = torch.pca_lowrank(flat[:: max(1, len(flat) // 20000)], q=3, center=True)
colours = (best_features[chosen] - flat.mean(0)) @ directions  # (6, N, 3)
low, high = colours.flatten(0, 1).quantile(0.02, 0), colours.flatten(0, 1).quantile(0.98, 0)
colours = ((colours - low) / (high - low)).clamp(0, 1).unflatten(1, grid)  # (6, rows, columns, 3)
plots.show_images([*few, *colours], columns=len(chosen), height=1.55)

# %% [markdown]
# *Above: held-out people. Below: their tokens in the same three colours for all.* Nobody told the network where a
# person ends, and in about half of the pictures one sees it; faces have a colour of their own.
#
# **Where does cls look?** The cls token belongs to no patch, and no loss was ever put on it. Here are its attention
# shares (chapter 04) in the last block:


# %%
@torch.no_grad()
def cls_shares(model, images):
    """How the cls token shares itself out over the patches (B, h, rows, columns) in the last block."""
    tokens = model.encoder.embed(normalize(images.to(next(model.parameters()).device)))
    for block in model.encoder.blocks[:-1]:
        tokens = block(tokens)
    last = model.encoder.blocks[-1]
    return last.attn.shares(last.norm1(tokens))[:, :, 0, 1:].unflatten(-1, grid).cpu()


shares = cls_shares(best, few[:4])  # (4, h, rows, columns)
pictures = [view for picture, heads in zip(few, shares, strict=False) for view in (picture, *heads)]
titles = ["picture", *(f"head {number + 1}" for number in range(shares.shape[1]))]
plots.show_images(pictures, titles, columns=1 + shares.shape[1], height=1.3, cmap="magma")

# %% [markdown]
# *Held-out people, and where each head of the last block looks from the cls token (bright: much).* They are habits: the
# same column or corner in every picture, wherever the person is. No loss ever asked cls for anything, and it shows. The
# slider shows any patch of any block.


# %%
@torch.no_grad()
def listening(picture=chosen[0], block=config.depth, head=1, row=grid[0] // 2, column=grid[1] // 2):
    tokens = best.encoder.embed(normalize(images[picture][None].to(next(best.parameters()).device)))
    for one in best.encoder.blocks[: block - 1]:
        tokens = one(tokens)
    last = best.encoder.blocks[block - 1]
    shares = last.attn.shares(last.norm1(tokens))[0, head - 1, 1 + row * grid[1] + column, 1:].view(grid).cpu()
    plots.show_images([images[picture], shares], ["picture", f"block {block}, head {head}"], height=2.4, cmap="magma")
    corner = (column * config.patch - 0.5, row * config.patch - 0.5)
    plt.gcf().axes[0].add_patch(plt.Rectangle(corner, config.patch, config.patch, fill=False, ec="#ff5555", lw=1.5))
    plt.show()


sliders = interactive(listening, picture=(0, TEST - 1), block=(1, len(best.encoder.blocks)),
                      head=(1, shares.shape[1]), row=(0, grid[0] - 1), column=(0, grid[1] - 1))  # fmt: skip
for slider in sliders.children[:-1]:
    slider.continuous_update = False
sliders

# %% [markdown]
# Whether that is worth anything for poses, parts, depth and normals is a question for chapters 07 and 08. There the
# encoder is fine-tuned, and chapter 08 measures what pretraining brings and on which pictures (the paper's Table 7).
#
# ## 9 What it costs
#
# **The question.** Table 2 has "#Params" and "FLOPs" of the four models. What exactly is counted? We know only when our
# count has the same digits.
#
# Chapter 05 counted the encoder and found Table 2's FLOPs: multiply-adds (so each counts as one), the encoder on all
# 4,096 patches and cls, *without* the two products of attention itself. The parameters did not fit: the encoder of
# Sapiens-2B has 2.134 billion, the table says 2.163.
#
# ### Exercise 06.10 — Table 2, the parameters  ●●○ (12 min)
#
# Count the whole autoencoder, decoder and fixed tables of places included. Chapter 05's `encoder_parameters` and
# `block_parameters` do most of it.
#
# <details><summary>Hint</summary>
#
# Besides its blocks the decoder has: a linear layer from D to d, the mask token, a place for every token (cls, too), a
# norm, a linear layer from d to the P numbers of a patch. Linear layers have biases. `Encoder` also wants a number of
# heads; it does not change the count, so any will do.
# </details>


# %% tags=["export"]
@exercise("06.10")
def autoencoder_parameters(
    width: int,
    depth: int,
    tokens: int = 4097,
    patch_values: int = 768,
    decoder_width: int = 512,
    decoder_depth: int = 8,
) -> int:
    """All numbers of a `MaskedAutoencoder`, the fixed places included. tokens: patches and cls; patch_values: 3 p²."""
    # BEGIN SOLUTION
    encoder = encoder_parameters(Encoder(width, depth, 1, tokens, patch_values))
    decoder = decoder_depth * block_parameters(decoder_width) + (width + 1) * decoder_width  # blocks, way in
    decoder += decoder_width + tokens * decoder_width + 2 * decoder_width  # mask token, places, norm
    return encoder + decoder + (decoder_width + 1) * patch_values
    # END SOLUTION


# %%
check(autoencoder_parameters)

# %% tags=["result"]
from course_lib.chapters.scaling import encoder_flops, table_macs

names = {
    "sapiens-0.3b": "0.336 1.242",
    "sapiens-0.6b": "0.664 2.583",
    "sapiens-1b": "1.169 4.647",
    "sapiens-2b": "2.163 8.709",
}
print("              parameters, billions           multiply-adds of the encoder, 10^12")
print("              encoder  autoencoder  paper    without q kᵀ and its v  paper   true   true, in FLOPs")
for name, printed in names.items():
    c = CONFIGS[name]
    with torch.device("meta"):  # shapes without memory
        model_on_paper = MaskedAutoencoder(c)
    count = sum(p.numel() for p in model_on_paper.parameters())
    encoder = Encoder(c.width, c.depth, c.heads, 4097)
    alone, macs, true = encoder_parameters(encoder), table_macs(encoder), encoder_flops(encoder)
    paper = printed.split()
    assert [f"{count / 1e9:.3f}", f"{macs / 1e12:.3f}"] == paper and count == autoencoder_parameters(c.width, c.depth)
    print(f"{name:13s} {alone / 1e9:7.3f} {count / 1e9:12.3f} {paper[0]:>6s} {macs / 1e12:26.3f} {paper[1]:>6s} "
          f"{true / 2e12:6.3f} {true / 1e12:16.3f}")  # fmt: skip

# %% [markdown]
# All eight, to the last digit. So the two columns describe two different things: the *parameters* are those of
# encoder **and decoder**, the *FLOPs* those of the **encoder alone**, on pictures of which nothing is hidden, in
# multiply-adds, without the part of attention that grows with the square of the tokens. What the encoder of Sapiens-2B
# really computes for a picture is 23.6 · 10¹² floating-point operations, 2.7 times what the table says. And in
# pretraining it sees a quarter of the patches:

# %%
from course_lib.chapters.scaling import count_flops

c = CONFIGS["sapiens-2b"]
with torch.device("meta"):
    giant = MaskedAutoencoder(dataclasses.replace(c, depth=2))  # two of 48 blocks: the others cost the same
    blocks = count_flops(giant.encoder.encode, torch.empty(1, 1025, c.width)) / 2
    decoder = count_flops(giant.decode, torch.empty(1, 1025, c.width), torch.zeros(1, 4096, dtype=torch.long))
step = 3 * (48 * blocks + decoder + 2 * 4096 * 768 * c.width)  # forward, and twice as much backward
whole = 3 * encoder_flops(Encoder(c.width, 48, 32, 4097))
print(f"a picture's training step: {step / 1e12:.1f} T FLOPs, the decoder's share {3 * decoder / step:.0%}")
print(f"with nothing hidden the encoder alone would take {whole / 1e12:.0f} T")

# %% [markdown]
# ### Table 1, recounted
#
# Table 1 sets Sapiens-2B beside earlier models. Their sizes are published, so we can count them the same two ways:
# with and without attention's own products.

# %% tags=["result"]
rows = {  # name: width, depth, tokens, numbers of a patch, weights of a block over D²; GFLOPs as printed
    "DINO, ViT-B/16": (768, 12, 197, 768, 12, 17.6),
    "iBOT, ViT-L/16": (1024, 24, 197, 768, 12, 61.6),
    "DINOv2, ViT-g/14": (1536, 40, 257, 588, 12, 291.0),
    "ViT-6.5B/14": (4096, 32, 257, 588, 12, 1657.0),
    "Sapiens-2B": (1920, 48, 4097, 768, 12, 8709.0),
}
print(f"{'10^9 multiply-adds':18s} {'with attention':>14s} {'without':>9s} {'printed':>9s}")
for name, (D, L, tokens, numbers, weights, printed) in rows.items():
    linear = weights * D**2 * tokens * L + (tokens - 1) * numbers * D + 5 * tokens * D * (2 * L + 1)
    ways = {"with": (linear + 2 * tokens**2 * D * L) / 1e9, "without": linear / 1e9}
    closer = min(ways, key=lambda way: abs(ways[way] - printed))
    print(f"{name:18s} {ways['with']:14.1f} {ways['without']:9.1f} {printed:9.1f}  {closer}")
    assert abs(ways[closer] / printed - 1) < 0.003

# %% [markdown]
# (ViT-g has a gated MLP, whose three matrices together hold as many weights as the usual two.) The first two rows
# count attention's own products, the other three don't: for 197 tokens that is 4 %, for 4,097 it is a quarter of the
# whole. The table understates how much larger Sapiens is.
#
# ### What the text claims

# %%
claims = {
    "a token is 0.02 % of the picture": (1 / 64**2, 0.0002),
    "instead of 0.4 %, 16 x 16 patches": (1 / 16**2, 0.004),
    "a 16-fold reduction": (64**2 / 16**2, 16),
    "~4 x the FLOPs of the largest": (8709 / 1657, 4),
    "the same, attention included": (11803 / 1674, 4),
}
for claim, (ours, theirs) in claims.items():
    print(f"{claim:36s} {ours:8.4g}, the paper: {theirs:g}")
assert round(8709 / 1657, 2) == 5.26

# %% [markdown]
# The area of a token and the factor of 16 hold (for ViTs with 14-pixel patches at 224 pixels; with 16-pixel ones it is
# 0.51 % and 21). "A ~4× increase in FLOPs" is 5.26 by the paper's own table. And "1.2 trillion tokens" can be read two
# ways: a picture has 4,096 patches, of which the encoder sees 1,024.
#
# ## 10 The launch
#
# The four pretraining runs. Sapiens-2B was trained "using 1024 A100 GPUs for 18 days" (§4.1). What share of what these
# GPUs could have computed is that? It depends on what a token is, and on nothing that we choose.

# %%
from course_lib import launch

job = launch.job("sapiens_pretraining", "sapiens-2b", nodes=128, gpus_per_node=8)
plan = job.plan()
plan

# %% [markdown]
# (5.239 T counts a multiply-add as two, a quarter of the patches, and the decoder; the paper's 8.709 T is section 9's
# other count.)

# %%
visible = launch.job("sapiens_pretraining", "sapiens-2b-visible", nodes=128, gpus_per_node=8)
other = dataclasses.replace(plan, job=visible, recipe=visible.recipe())  # the same model: it need not be traced again
print("a token is    pictures     batches   share of the GPUs' peak that 18 days imply")
for name, one in (("a patch", plan), ("a visible one", other)):
    print(f"{name:13s} {one.samples / 1e6:6.0f} M {one.recipe.steps:11,d}   {one.paper_utilisation:.1%}")
assert 0.009 < plan.paper_utilisation < 0.010 and 0.036 < other.paper_utilisation < 0.038

# %% [markdown]
# If every patch counts, each of the 300 million pictures was seen once, and the GPUs did 1 % of what they can. If the
# visible ones count, each was seen four times, and it is 3.7 %. Well-run trainings reach 30 to 50 %. Reading pictures
# of 1,024 pixels fast enough for 1,024 GPUs may have been the bottleneck; the paper does not say.
#
# Before a cluster is asked: prove it on this machine (chapter 05 explains how).

# %%
job.prove(**pick(smoke={"config": "smoke"}, laptop={}))

# %%
print(job.script(out="runs/sapiens-2b"))

# %% [markdown]
# The other three. For them the paper prints the batch and nothing else, neither GPUs nor days: we plan them for the
# same 1,024, at 40 % of the peak.

# %%
NODES = pick(smoke=1, laptop=128)
for name in pick(smoke=["smoke"], laptop=["sapiens-0.3b", "sapiens-0.6b", "sapiens-1b"]):
    one = launch.job("sapiens_pretraining", name, nodes=NODES, gpus_per_node=pick(smoke=2, laptop=8)).plan()
    memory = f"{one.bytes / 2**30:.1f} GiB a GPU ({'fits' if one.fits else 'does NOT fit'})"
    print(f"{name:13s} batch {one.recipe.batch_size:6,d} x {one.recipe.steps:6,d} steps, {memory}, {one.days:.2f} days")


# %% [markdown]
# ## 11 A photograph
#
# Eileen Collins, photographed by NASA (`skimage.data.astronaut()`, public domain): no renderer was there. First the
# detector, then the autoencoder.

# %%
from skimage.data import astronaut

photo = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255  # (3, 512, 512)
seen = detect(detector, photo[None], least=0.1)[0]
plots.show_images([photo], height=3.2)
draw_boxes(plt.gcf().axes[0], *seen)
for box, score in zip(*seen, strict=True):
    print(f"score {score:.2f}, box {[round(v) for v in box.tolist()]}")
print("large and certain:", large_and_certain(seen, 512).tolist() or "nobody found")

# %%
closer = torch.stack([resized(crop, SIZE) for crop in (photo, photo[:, :400, 30:430], photo[:, :256, 96:352])])
its_noise = torch.rand(3, N, generator=torch.Generator().manual_seed(1))
prediction, its_mask = paint(best, closer, its_noise)
painted = [as_pictures(closer, prediction, its_mask, peek) for peek in (False, True)]
rows = [*closer, *with_holes(closer, its_mask), *painted[0], *painted[1]]
plots.show_images(rows, columns=3, height=1.9)
on_photo = masked_loss(prediction, normalize_patches(patchify(normalize(closer), PATCH)), its_mask)
on_rendered = judged(paint(best, images, noise)[0])[0]
print(f"masked loss on the photograph {on_photo:.3f}, on held-out rendered people {on_rendered:.3f}")

# %% [markdown]
# *The photograph in three crops, as wide as the network reads them. From above: the crop, 75 % hidden, painted with
# guessed means, peeking.*
#
# Plainly: everything here was learned from rendered people. A real photograph has noise, another lens and light, a
# space suit, and a flag, none of which the two networks ever saw. The detector finds her and is nearly sure; its other
# two boxes, with low scores, are no second person: half of her with the flag, and the shuttle with the helmet. (The
# scores were calibrated on rendered pictures, and here they are only numbers.) What is painted keeps hair above and
# orange below, and only peeking shows a face between; it is smooth where the network is unsure, which is nearly
# everywhere that matters, and its loss is far above that on rendered people. Sapiens had 300 million photographs.
#
# Your own: `photo = torch.from_numpy(plt.imread("me.jpg").copy()).permute(2, 0, 1) / 255`, cut to a square.
#
# ## What to remember
#
# - A detector decides what a model will know about the world. Its score is a probability only if somebody made it one.
# - Filters are judged by precision *and* recall, on planted faults whose truth the filter never sees.
# - MAE: hide three quarters, encode the rest, paint what is hidden, throw the decoder away. The encoder's cost falls
#   with the patches it does not see.
# - `argsort(argsort(noise))` is the way back. Noise belongs to the data, not to the model.
# - Norm-pix: an answer of zeros has the loss (P − 1)/P. Whoever is above it has learned nothing.
# - Reconstructions that borrow mean and contrast from the hidden patch look better than the model is.
# - Counting until the digits match tells what a table counts: here a decoder in one column and not in the other.
#
# ## What the paper leaves open
#
# The detector's threshold has no stated meaning, and text, watermarks, art and the unnatural were found by means that
# are not named. Learning rates at batches of 20,480 to 98,304 are not printed; its code has one for 4,096. Whether
# "tokens" are patches or visible patches, how many steps were taken, and which GPUs trained the three smaller models
# is not said. The decoder is in its code only.
#
# ## Where to read on
#
# - K. He et al., *Masked autoencoders are scalable vision learners*, CVPR 2022.
# - X. Zhou et al., *Objects as points*, 2019 (CenterNet); H. Law, J. Deng, *CornerNet*, 2018; T.-Y. Lin et al., *Focal
#   loss for dense object detection*, 2017.
# - J. Platt, *Probabilistic outputs for support vector machines*, 1999; C. Guo et al., *On calibration of modern
#   neural networks*, 2017.
# - M. Singh et al., *The effectiveness of MAE pre-pretraining for billion-scale pretraining*, 2023: the ViT-6.5B of
#   Table 1.
# - R. Khirodkar et al., *Sapiens: Foundation for human vision models*, 2024.

# %%
from course_lib.runinfo import print_run_info

print_run_info(seed=0)

"""ACAE, the skeletons: made by `course build` from solutions/11_acae_skeletons.py. Edit there, never here."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.recipe import Batch, Optimizer, PaperRun, Recipe, Stream

LEAST_SUM = 1e-6  # below it a column can't be divided by its sum


# Chapter 11, section "2 Affine combinations"
def affine(free: Tensor) -> Tensor:
    """A free matrix (N, M) -> the weights by which N points make M: its columns over their sums. ACAE equations 1-2.

    ValueError where a column sums to zero."""
    total = free.sum(0, keepdim=True)  # (1, M)
    if has_numbers(total) and (total.abs() < LEAST_SUM).any():
        raise ValueError("a column sums to zero, so no multiple of it sums to one: begin with other, positive numbers")
    return free / total


# Chapter 11, section "2 Affine combinations"
def has_numbers(tensor: Tensor) -> bool:
    """False for the tensors without data on which a launch is planned."""
    return type(tensor) is Tensor and not tensor.is_meta


# Chapter 11, section "2 Affine combinations"
def combine(weights: Tensor, points: Tensor) -> Tensor:
    """Weights (N, M), points (..., N, 3) -> M sums of weighted points, (..., M, 3)."""
    return weights.T @ points


# Chapter 11, section "3 The autoencoder"
def sides(names: tuple[str, ...]) -> tuple[list[int], list[int], list[int]]:
    """Indices of the left joints, of the right ones in the same order, and of those in the middle: the first letter, l
    or r, tells. ValueError where a partner is missing."""
    place = {name: i for i, name in enumerate(names)}
    left = [i for i, name in enumerate(names) if name.startswith("l")]
    partners = ["r" + names[i][1:] for i in left]
    middle = [i for i, name in enumerate(names) if name[0] not in "lr"]
    if len(place) < len(names) or set(partners) - set(place) or 2 * len(left) + len(middle) != len(names):
        raise ValueError("every name that begins with l needs one with r, and the other way round, and none twice")
    return left, [place[name] for name in partners], middle


# Chapter 11, section "3 The autoencoder"
def mirror_tied(same: Tensor, other: Tensor, from_middle: Tensor, middle: Tensor, centre: Tensor) -> Tensor:
    """S, Q (P, K), X (P, M), C (N, K), Z (N, M) -> [[S, Q, X], [Q, S, X], [C, C, Z]], (2P + N, 2K + M): left, right and
    central rows and columns, so that mirrored inputs give mirrored outputs. From the authors' code."""
    left = torch.cat([same, other, from_middle], 1)
    right = torch.cat([other, same, from_middle], 1)
    return torch.cat([left, right, torch.cat([middle, middle, centre], 1)])


# Chapter 11, section "3 The autoencoder"
class TiedMatrix(nn.Module):
    """A free matrix of (2P + N) x (2K + M) numbers, tied by `mirror_tied`."""

    def __init__(self, pairs: int, middle: int, latent_pairs: int, latent_middle: int):
        super().__init__()

        def block(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(rows, columns).uniform_(-0.1, 1.0))

        self.same, self.other = block(pairs, latent_pairs), block(pairs, latent_pairs)
        self.from_middle, self.middle = block(pairs, latent_middle), block(middle, latent_pairs)
        self.centre = block(middle, latent_middle)

    def forward(self) -> Tensor:
        """(2P + N, 2K + M)."""
        return mirror_tied(self.same, self.other, self.from_middle, self.middle, self.centre)


# Chapter 11, section "3 The autoencoder"
class AffineCombiningAutoencoder(nn.Module):
    """Joints (..., J, 3) -> latent points (..., L, 3) -> joints, each an affine combination of what comes before; left
    and right are treated alike. Latents in order: left, right, central. ACAE equations 1-2 and the authors' code.

    names: the joints, l or r first where they have a side. sided_latents: left and right ones together."""

    def __init__(self, names: tuple[str, ...], sided_latents: int = 40, central_latents: int = 8):
        super().__init__()
        if sided_latents % 2:
            raise ValueError(f"{sided_latents} sided latents can't be left and right in pairs: give an even number")
        left, right, middle = sides(names)
        sizes = (len(left), len(middle), sided_latents // 2, central_latents)
        self.encoder, self.decoder = TiedMatrix(*sizes), TiedMatrix(*sizes)
        order = torch.tensor(left + right + middle)  # the matrices' rows, as indices of names
        self.register_buffer("row", order.argsort(), persistent=False)

    @property
    def encoder_weights(self) -> Tensor:
        """(J, L), columns sum to one."""
        return affine(self.encoder()[self.row])

    @property
    def decoder_weights(self) -> Tensor:
        """(L, J), columns sum to one."""
        return affine(self.decoder()[self.row].T)

    def encode(self, points: Tensor) -> Tensor:
        """(..., J, 3) -> (..., L, 3)."""
        return combine(self.encoder_weights, points)

    def decode(self, latents: Tensor) -> Tensor:
        """(..., L, 3) -> (..., J, 3)."""
        return combine(self.decoder_weights, latents)

    def forward(self, points: Tensor, with_weights: bool = False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """(..., J, 3) -> (..., J, 3), and if asked for the weights (J, L) and (L, J) too."""
        encoder, decoder = self.encoder_weights, self.decoder_weights
        found = combine(decoder, combine(encoder, points))
        return (found, encoder, decoder) if with_weights else found


NEAREST = 0.3  # metres: a pose with a joint nearer than that has no projection to speak of


# Chapter 11, section "3 The autoencoder"
def in_front(points: Tensor) -> Tensor:
    """(..., J, 3) metres in camera space -> which poses have every joint at NEAREST or beyond, (...) bool."""
    return (points[..., 2] >= NEAREST).all(-1)


# Chapter 11, section "3 The autoencoder"
def projected_at_mean_depth(points: Tensor, depth: Tensor) -> Tensor:
    """(..., J, 3) metres, depth (...) -> where the joints' rays cross the plane at `depth`: (..., J, 2) metres."""
    nearest = points[..., 2:].clamp(min=NEAREST)
    return points[..., :2] / nearest * depth[..., None, None]


# Chapter 11, section "3 The autoencoder"
def projection_loss(points: Tensor, found: Tensor) -> Tensor:
    """The mean distance, coordinate by coordinate, of projections of joints (B, J, 3) and of what was found (B, J, 3):
    metres at the true pose's mean depth. A pose that is not `in_front` doesn't count; 0 where none is."""
    depth = points[..., 2].mean(-1)  # (B,), the true one on both sides
    gap = projected_at_mean_depth(points, depth) - projected_at_mean_depth(found, depth)
    valid = in_front(points).float()  # (B,)
    return (gap.abs().mean((-1, -2)) * valid).sum() / valid.sum().clamp(min=1)


# Chapter 11, section "3 The autoencoder"
def autoencoder_loss(points: Tensor, found: Tensor, encoder: Tensor, decoder: Tensor, strength: float) -> Batch:
    """The projection's loss plus strength (lambda) times the mean |w| of encoder (J, L) and of decoder (L, J)."""
    projection = projection_loss(points, found)
    size = encoder.abs().mean() + decoder.abs().mean()
    return {"loss": projection + strength * size, "projection": projection, "size": size}


FORMATS = ("smpl", "h36m", "coco", "3dhp", "smplx", "ghum", "movi", "bmhad", "umpm", "totcap", "aspset", "jta")


# Chapter 11, section "4 Training"
@dataclass(frozen=True)
class Config:
    """An autoencoder and its training.

    formats: whose joints; pairs, middle: how many of them are left and right, and in the middle. strength: lambda.
    poses: in the training set."""

    formats: tuple[str, ...] = FORMATS
    pairs: int = 146
    middle: int = 86
    sided_latents: int = 40
    central_latents: int = 8
    strength: float = 0.6
    poses: int = 20_000
    batch_size: int = 32
    steps: int = 30_000
    lr: float = 3e-2
    seed: int = 0
    paper: PaperRun | None = None


# Chapter 11, section "4 Training"
@dataclass(frozen=True)
class Drops:
    """A schedule: the rate falls to a tenth at each of these shares of the run."""

    at: tuple[float, ...] = (1 / 3, 2 / 3)

    def __call__(self, step: int, steps: int) -> float:
        return 0.1 ** sum(step >= share * steps for share in self.at)


CONFIGS = {
    "smoke": Config(("umpm", "3doh"), 12, 5, 12, 4, poses=64, steps=20),
    "laptop": Config(poses=4000, steps=6000),
    "gpu": Config(poses=20_000, steps=60_000),
}


# Chapter 11, section "4 Training"
def recipe(config: Config, stream: Stream | None, names: tuple[str, ...] | None = None) -> Recipe:
    """The training of an autoencoder on batches of points (B, J, 3), metres in camera space.

    names: the joints, in the order of the points; without them left, right and middle ones in a row."""
    return Recipe(
        name=f"acae-{2 * config.pairs + config.middle}-{config.sided_latents + config.central_latents}",
        model=partial(build, config, names or numbered(config)),
        loss=partial(training_loss, config.strength),
        stream=stream,
        steps=config.steps,
        batch_size=config.batch_size,
        optimizer=Optimizer("adam", lr=config.lr, betas=(0.9, 0.999), weight_decay=0.0),
        schedule=Drops(),
        seed=config.seed,
        example=partial(example, config),
        paper=config.paper,
    )


# Chapter 11, section "4 Training"
def build(config: Config, names: tuple[str, ...]) -> AffineCombiningAutoencoder:
    """A new autoencoder. ValueError where names are not as many as the configuration says."""
    left, _, middle = sides(names)
    if (len(left), len(middle)) != (config.pairs, config.middle):
        raise ValueError(f"{len(left)} pairs and {len(middle)} in the middle, not {config.pairs} and {config.middle}")
    return AffineCombiningAutoencoder(names, config.sided_latents, config.central_latents)


# Chapter 11, section "4 Training"
def numbered(config: Config) -> tuple[str, ...]:
    """Names that say nothing but the side: l0, l1, ..., r0, r1, ..., m0, m1, ..."""
    sizes = {"l": config.pairs, "r": config.pairs, "m": config.middle}
    return tuple(f"{side}{i}" for side, size in sizes.items() for i in range(size))


# Chapter 11, section "4 Training"
def training_loss(strength: float, model: nn.Module, batch: Batch) -> Batch:
    """`autoencoder_loss` of a batch."""
    return autoencoder_loss(batch["points"], *model(batch["points"], with_weights=True), strength)


# Chapter 11, section "4 Training"
def example(config: Config, count: int) -> Batch:
    """A batch of the right shapes and dtypes."""
    points = torch.randn(count, 2 * config.pairs + config.middle, 3)
    return {"points": points + torch.tensor([0.0, 0.0, 5.0])}


# course build sealed the text above: 0a0c294d48601b60

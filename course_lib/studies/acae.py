"""The runs of chapter 11: the autoencoder that it ships, its study, and what both are measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`), a study's with an arm, a seed and a
number of steps (`course_lib.study`). Model and loss are the chapter's own.
"""

import dataclasses
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.chapters import acae_skeletons as acae
from course_lib.data import skeletons
from course_lib.data.streams import TensorStream
from course_lib.scale import pick, scale
from course_lib.shipped import round_weights, train

Metrics = dict[str, float]
TRAIN, TEST = 1, 2  # seeds of the poses: no person is in both
TESTED = {"smoke": 16, "laptop": 1000}
SMALL = 1e-3  # a weight of smaller magnitude counts as none


# ------------------------------------------------------------------------------------------------- measuring
def training_poses(config: acae.Config) -> tuple[tuple[str, ...], Tensor]:
    """The names of a configuration's joints, and poses (N, J, 3) float32 to train on."""
    names = skeletons.joint_names(config.formats)
    return names, acae.usable_poses(skeletons.sample_poses(config.poses, config.formats, TRAIN), names).float()


def held_out(config: acae.Config) -> Tensor:
    """Poses (N, J, 3) float64 of other people."""
    return skeletons.sample_poses(pick(**TESTED), config.formats, TEST)


def weight_metrics(weights: Tensor, name: str) -> Metrics:
    """Of weights (N, M) whose columns sum to one: the share below SMALL, and the sum of a column's negative ones."""
    small, negative = (weights.abs() < SMALL).double().mean(), weights.clamp(max=0).sum(0).mean()
    return {f"small_{name}": small.item(), f"negative_{name}": negative.item()}


@torch.no_grad()
def pose_metrics(model: acae.AffineCombiningAutoencoder, points: Tensor) -> Metrics:
    """error: mean distance of joints (N, J, 3) from what comes back, worst_joint: of the joint with the largest mean,
    depth_error: mean |z - z'|; all millimetres. Of weights: `weight_metrics`, and small, the share in both matrices."""
    model = model.double()
    found, encoder, decoder = model(points.double(), with_weights=True)
    gap = 1000 * (found - points)
    joints = gap.norm(dim=-1).mean(0)  # (J,)
    row = {"error": joints.mean().item(), "worst_joint": joints.max().item()}
    row |= {"depth_error": gap[..., 2].abs().mean().item()}
    row |= weight_metrics(encoder, "encoder") | weight_metrics(decoder, "decoder")
    return row | {"small": (row["small_encoder"] + row["small_decoder"]) / 2}


# ------------------------------------------------------------------------------------------------- shipped
def autoencoder(config: acae.Config, folder: Path) -> tuple[nn.Module, Metrics]:
    """An autoencoder of the configuration's formats; `pose_metrics` on people whom it was not trained on."""
    names, points = training_poses(config)
    run = train(acae.recipe(config, TensorStream({"points": points}), names), folder / "fit")
    model = round_weights(run.model).eval()
    return model, pose_metrics(model, held_out(config))


# ------------------------------------------------------------------------------------------------- lambda
THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # magnitudes of weights below which the share is recorded


@lru_cache(maxsize=4)
def lambda_poses(formats: tuple[str, ...], count: int, seed: int) -> Tensor:
    """`sample_poses`, drawn once for all arms of a process."""
    return skeletons.sample_poses(count, formats, seed)


def lambda_run(arm, seed: int, steps: int) -> Metrics:
    """A study's run: an autoencoder trained under the arm's lambda from a start of its own, measured on other people.
    `error` and `projection` in millimetres, and `lambda_metrics`."""
    arm = dataclasses.replace(arm, poses=64, tested=64) if scale() == "smoke" else arm
    names, held = skeletons.joint_names(arm.formats), lambda_poses(arm.formats, arm.tested, 1)
    stream = TensorStream({"points": lambda_poses(arm.formats, arm.poses, 0).float()}, seed)
    recipe = acae.recipe(acae.lambda_config(arm, names, steps), stream, names)
    model = train(dataclasses.replace(recipe, seed=seed), None, progress=False).model.cpu().double()
    with torch.no_grad():
        found = model(held)
        projection = acae.projection_loss(held, found)
        weights = lambda_metrics(model.encoder_weights, model.decoder_weights)
    error = (found - held).norm(dim=-1).mean()
    return {"error": 1000 * error.item(), "projection": 1000 * projection.item()} | weights


def lambda_metrics(encoder: Tensor, decoder: Tensor) -> Metrics:
    """Of weights (J, L) and (L, J), sums of columns one: the mean negative mass of a column (`negative`, of both;
    `negative_encoder`, `negative_decoder`), the share of weights below THRESHOLDS (`below_0.001`, of both),
    `active_...`: how many weights of a column reach 0.001, `single`: how many of the latents are one joint to 90 %."""
    masses = [-weights.clamp(max=0).sum(0) for weights in (encoder, decoder)]
    sizes = torch.cat([encoder.flatten(), decoder.flatten()]).abs()
    found = {"negative": torch.cat(masses).mean()}
    found |= {f"negative_{name}": mass.mean() for name, mass in zip(("encoder", "decoder"), masses, strict=True)}
    found |= {f"below_{limit:g}": (sizes < limit).double().mean() for limit in THRESHOLDS}
    for name, weights in (("encoder", encoder), ("decoder", decoder)):
        found[f"active_{name}"] = (weights.abs() >= 1e-3).sum(0).double().mean()
    found["single"] = (encoder.amax(0) > 0.9).double().mean()
    return {name: value.item() for name, value in found.items()}

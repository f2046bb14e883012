"""The runs of chapters 11 and 12's studies."""

import dataclasses
from functools import lru_cache

import torch
from torch import Tensor

from course_lib.chapters import acae_skeletons
from course_lib.data.skeletons import joint_names, sample_poses
from course_lib.data.streams import TensorStream
from course_lib.scale import scale
from course_lib.shipped import train
from course_lib.studies.sapiens import Metrics

# ------------------------------------------------------------------------------------------------- lambda
THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # magnitudes of weights below which the share is recorded


@lru_cache(maxsize=4)
def lambda_poses(formats: tuple[str, ...], count: int, seed: int) -> Tensor:
    """`sample_poses`, drawn once for all arms of a process."""
    return sample_poses(count, formats, seed)


def lambda_run(arm, seed: int, steps: int) -> Metrics:
    """A study's run: an autoencoder trained under the arm's lambda from a start of its own, measured on other people.
    `error` and `projection` in millimetres, and `lambda_metrics`."""
    arm = dataclasses.replace(arm, poses=64, tested=64) if scale() == "smoke" else arm
    names, held = joint_names(arm.formats), lambda_poses(arm.formats, arm.tested, 1)
    stream = TensorStream({"points": lambda_poses(arm.formats, arm.poses, 0).float()}, seed)
    recipe = acae_skeletons.recipe(acae_skeletons.lambda_config(arm, names, steps), stream, names)
    model = train(dataclasses.replace(recipe, seed=seed), None, progress=False).model.cpu().double()
    with torch.no_grad():
        found = model(held)
        projection = acae_skeletons.projection_loss(held, found)
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

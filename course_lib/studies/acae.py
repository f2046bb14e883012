"""The runs of chapter 11: the autoencoder that it ships, and what it is measured with.

A shipped run is called with a configuration and a folder (`course_lib.shipped`). Model and loss are the chapter's own.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.chapters import acae_skeletons as acae
from course_lib.data import skeletons
from course_lib.data.streams import TensorStream
from course_lib.scale import pick
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

"""The runs that chapter 06 ships, and how data sets are held in memory for training.

A shipped run is called with a configuration and a folder (`course_lib.shipped`). Models, losses and augmentation are
the chapter's own.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.chapters import sapiens_pretraining
from course_lib.data.schema import Sample
from course_lib.data.sets import rendered
from course_lib.data.shards import Samples
from course_lib.data.streams import TensorStream
from course_lib.recipe import Batch
from course_lib.scale import pick
from course_lib.shipped import load, note_data, round_weights, train

Metrics = dict[str, float]
TESTED = {"smoke": 4, "laptop": 500}  # pictures of a world's test split
PEOPLE = "sapiens_pretraining-people"  # the encoder that every shipped task begins with


# ------------------------------------------------------------------------------------------------- data in memory
@lru_cache(maxsize=8)
def in_memory(folder: Path, kept: Callable[[Sample], Batch], only: tuple[str, ...] = ("image",)) -> Batch:
    """What `kept` takes of each sample of a data set, {name: (N, ...)}; read once, however many runs use it."""
    samples = Samples(folder, only=only)
    first = kept(samples[0])
    tensors = {name: value.new_empty(len(samples), *value.shape) for name, value in first.items()}
    for index in range(len(samples)):
        for name, value in kept(samples[index]).items():
            tensors[name][index] = value
    return tensors


def as_bytes(image) -> Tensor:
    """A picture (3, H, W) in [0, 1] -> uint8: a quarter of the memory, nothing lost if it came from a file.

    ValueError for pixels that are NaN or infinite."""
    if not np.isfinite(image).all():
        raise ValueError("a picture has pixels that are NaN or infinite: leave it out, or make it anew")
    return torch.from_numpy(image).mul(255).round().to(torch.uint8)


def picture(sample: Sample) -> Batch:
    """What pretraining keeps of a sample."""
    return {"image": as_bytes(sample.image)}


def picture_and_boxes(sample: Sample) -> Batch:
    """What the detector's training keeps of a sample."""
    return {**picture(sample), "boxes": sapiens_pretraining.padded_boxes(sample)}


def joined(parts: list[Batch]) -> Batch:
    """Data sets one after the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


# ------------------------------------------------------------------------------------------------- chapter 06, shipped
def people(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """A masked autoencoder; masked_loss: on held-out people (1: nothing but each patch's mean colour is known)."""
    data = rendered(config.world, config.pictures, config.size)
    note_data(folder, data)
    stream = TensorStream(in_memory(data, picture), transform=sapiens_pretraining.transform(config))
    run = train(sapiens_pretraining.recipe(config, stream), folder / "fit")
    model = round_weights(run.model)
    return model, {"masked_loss": held_out_loss(config, model)}


@torch.no_grad()
def held_out_loss(config, model: nn.Module) -> float:
    """The mean masked loss of whole pictures of wild/test, each with the same mask."""
    samples = Samples(rendered("wild", pick(**TESTED), config.size, "test"), only=("image",))
    losses = []
    for index in range(len(samples)):
        one = sapiens_pretraining.prepared(config, samples[index])
        batch = {name: value[None].to(device_of(model)) for name, value in one.items()}
        losses.append(sapiens_pretraining.pretraining_loss(model, batch).item())
    return sum(losses) / len(losses)


def device_of(model: nn.Module) -> torch.device:
    """Where the model is."""
    return next(model.parameters()).device


def detector(config, folder: Path) -> tuple[nn.Module, Metrics]:
    """A person detector, calibrated on val; precision and recall of boxes scored above 0.9 on test, each world's."""
    sets = [rendered(world, config.pictures, config.size) for world in config.worlds]
    note_data(folder, *sets)
    tensors = joined([in_memory(data, picture_and_boxes) for data in sets])
    stream = TensorStream(tensors, transform=sapiens_pretraining.detector_transform(config))
    run = train(sapiens_pretraining.detector_recipe(config, stream), folder / "fit")
    model = round_weights(run.model)
    held_out = [rendered(world, config.held_out, config.size, "val") for world in config.worlds]
    sapiens_pretraining.calibrate(model, *pictures_and_boxes(held_out))
    round_weights(model)  # the calibration, too
    found = {}
    for world in config.worlds:
        images, boxes = pictures_and_boxes([rendered(world, pick(**TESTED), config.size, "test")])
        quality = sapiens_pretraining.detector_quality(model, images, boxes)
        found |= {f"{world}_{name}": value for name, value in quality.items()}
    return model, found


def pictures_and_boxes(sets: list[Path]) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) in [0, 1] and boxes (N, 8, 4) of some data sets."""
    tensors = joined([in_memory(data, picture_and_boxes) for data in sets])
    return tensors["image"] / 255, tensors["boxes"]


def shipped_encoder() -> Batch:
    """The tensors of the encoder that chapter 06 ships. ShippedError where it does not yet."""
    model = sapiens_pretraining.MaskedAutoencoder(sapiens_pretraining.SHIPPED["people"].config)
    load(model, PEOPLE)
    return sapiens_pretraining.encoder_state(model)

"""The one training loop, in a notebook, on one GPU and under torchrun: `fit(recipe)`."""

from course_lib.train.checkpoint import CheckpointError, latest_checkpoint
from course_lib.train.loop import Run, TrainingError, fit
from course_lib.train.weights import load_weights, read_weights, save_weights

__all__ = [
    "CheckpointError",
    "Run",
    "TrainingError",
    "fit",
    "latest_checkpoint",
    "load_weights",
    "read_weights",
    "save_weights",
]

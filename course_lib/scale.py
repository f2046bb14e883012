"""How large a run is: `smoke` in CI, `laptop` on a CPU, `gpu` on one GPU, `paper` in launch cells only."""

import os

import torch

SCALES = ("smoke", "laptop", "gpu", "paper")


def scale() -> str:
    """The scale named by COURSE_SCALE; unset, `gpu` where CUDA is present and `laptop` elsewhere."""
    name = os.environ.get("COURSE_SCALE") or ("gpu" if torch.cuda.is_available() else "laptop")
    if name not in SCALES:
        raise ValueError(f"COURSE_SCALE={name!r} is not a scale: use one of {', '.join(SCALES)}")
    return name


def pick(**values):
    """The value for the current scale, or for the next smaller one that is given: `pick(smoke=3, laptop=500)`."""
    order = SCALES[: SCALES.index(scale()) + 1]
    for name in reversed(order):
        if name in values:
            return values[name]
    raise ValueError(f"pick() has no value for scale {scale()!r} or a smaller one: give smoke=...")

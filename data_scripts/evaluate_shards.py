"""What a network's weights give on real shards: the metrics of Sapiens' and DAViD's tables.

    python data_scripts/evaluate_shards.py WEIGHTS data/goliath-face --size 384

Shards are those of a data script, or of `course data make`. Pictures are cut to squares around the people and scaled
to `--size`, truth and all. Measured is what both the network and the shards have: depth and normals where people are,
the soft foreground, body parts. SHEET.md, beside this script, says which command gives which row.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import metrics
from course_lib.chapters.david_models import David
from course_lib.chapters.sapiens_dense import DensePredictor
from course_lib.data.schema import Sample
from course_lib.data.shards import Samples, ShardError
from course_lib.files import write_atomic
from course_lib.real.checks import SourceError
from course_lib.real.convert import positive
from course_lib.real.resize import squared
from course_lib.real.weights import load
from course_lib.released import ReleasedError

CLASSES = 28
NO_HUMAN = 0.5  # of alpha, below which a pixel is nobody's


def answer(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """A picture (1, 3, S, S) in [0, 1] -> depth, normals, alpha (1, S, S) or parts (1, S, S), of the model's tasks."""
    if isinstance(model, David):
        read = {"depth": lambda x: x[:, 0], "normals": unit, "alpha": lambda x: x[:, 0].sigmoid()}
        return {task: read[task](raw.float()).cpu() for task, raw in model(image).items()}
    raw = nn.functional.interpolate(model(image).float(), image.shape[2:], mode="bilinear").cpu()
    if raw.shape[1] == 1:
        return {"depth": raw[:, 0]}
    return {"normals": unit(raw)} if raw.shape[1] == 3 else {"parts": raw.argmax(1)}


def unit(normals: Tensor) -> Tensor:
    """(1, 3, S, S), each pixel's of length 1."""
    return nn.functional.normalize(normals, dim=1)


def measured(found: dict[str, Tensor], sample: Sample) -> dict[str, float]:
    """The metrics of one picture, by name; nothing for a task whose truth the sample hasn't."""
    human = torch.from_numpy(human_of(sample))[None]
    rows: dict[str, Tensor] = {}
    if "depth" in found and sample.depth is not None and human.any():
        depth = torch.from_numpy(np.where(np.isfinite(sample.depth), sample.depth, 0))[None]
        rows |= {f"depth {n}": x for n, x in metrics.depth_errors(found["depth"], depth, human & (depth > 0)).items()}
    if "normals" in found and sample.normals is not None:
        normals = torch.from_numpy(sample.normals)[None]
        seen = human & (normals.norm(dim=1) > 0.5)
        if seen.any():
            rows |= {f"normals {n}": x for n, x in metrics.normal_errors(found["normals"], normals, seen).items()}
    if "alpha" in found and sample.alpha is not None:
        alpha = torch.from_numpy(sample.alpha)[None]
        rows |= {f"alpha {n}": x for n, x in metrics.matting_errors(found["alpha"].clamp(0, 1), alpha).items()}
    return {name: float(values.mean()) for name, values in rows.items()}


def human_of(sample: Sample) -> np.ndarray:
    """Where people are, (H, W) bool: by alpha, the instances, or where there is depth."""
    if sample.alpha is not None:
        return sample.alpha > NO_HUMAN
    if sample.instances is not None:
        return sample.instances > 0
    return np.isfinite(sample.depth) if sample.depth is not None else np.ones(sample.image.shape[1:], bool)


@torch.no_grad()
def evaluate(model: nn.Module, folder: Path, size: int, limit: int | None = None) -> dict[str, float]:
    """Means over the pictures of a folder of shards, and mIoU and mAcc where there are parts. ValueError where nothing
    can be measured, ShardError for shards that aren't whole."""
    device = next(model.parameters()).device
    samples, rows = Samples(folder), []
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for index in range(min(len(samples), limit or len(samples))):
        sample = squared(samples[index], size)
        found = answer(model, torch.from_numpy(sample.image)[None].to(device))
        rows.append(measured(found, sample))
        if "parts" in found and sample.parts is not None:
            confusion += metrics.confusion_matrix(found["parts"], torch.from_numpy(sample.parts)[None].long(), CLASSES)
    result = {name: [row[name] for row in rows if name in row] for name in sorted({n for row in rows for n in row})}
    means = {name: float(np.nanmean(values)) for name, values in result.items()}
    if confusion.any():
        means |= {"parts mIoU": metrics.mean_iou(confusion), "parts mAcc": metrics.mean_accuracy(confusion)}
    if not means:
        raise ValueError(f"{folder} has no truth for what the network says: see SHEET.md for what fits")
    return {"pictures": len(rows)} | means


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("weights", type=Path, help="a file of the authors', or one that `course weights convert` wrote")
    found.add_argument("shards", type=Path, help="a folder that a data script wrote")
    found.add_argument("--size", type=positive, required=True, help="pixels along each side, as the network takes them")
    found.add_argument("--limit", type=positive, help="no more pictures than this, for a try")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the numbers; 0 well, 1 with an error in words."""
    asked = parser().parse_args(arguments)
    try:
        model = load(asked.weights)
        if not isinstance(model, David | DensePredictor):
            raise ReleasedError(f"{asked.weights} answers nothing that these shards could: see SHEET.md")
        result = evaluate(model.to(asked.device), asked.shards, asked.size, asked.limit)
    except (ReleasedError, SourceError, ShardError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{name:24s} {value:.4g}" for name, value in result.items()))
    if asked.out:
        write_atomic(asked.out, json.dumps({"weights": asked.weights.name} | result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

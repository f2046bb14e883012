"""COCO val2017 AP of released (or one's own) pose weights: 17 keypoints, or COCO-WholeBody's 133.

    python data_scripts/evaluate_coco.py sapiens_1b_coco_best_coco_AP_821.pth --root COCO \
        --detections COCO/person_detection_results/COCO_val2017_detections_AP_H_70_person.json

The numbers that the authors report for their files are in README.md, beside this script.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from course_lib.chapters.sapiens_pose import PoseEstimator
from course_lib.files import write_atomic
from course_lib.real.checks import SourceError
from course_lib.real.coco_evaluation import evaluate, rows
from course_lib.real.convert import positive
from course_lib.real.weights import load
from course_lib.released import ReleasedError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("weights", type=Path, help="a file of the authors', or one that `course weights convert` wrote")
    found.add_argument("--root", type=Path, required=True, help="the folder with val2017/ and annotations/")
    found.add_argument("--detections", type=Path, help="boxes with scores; without: the annotated boxes")
    found.add_argument("--limit", type=positive, help="no more pictures than this, for a try")
    found.add_argument("--batch", type=positive, default=8, help="crops at once")
    found.add_argument("--no-flip", action="store_true", help="without the flip test")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the numbers; 0 well, 1 with an error in words."""
    asked = parser().parse_args(arguments)
    try:
        model = load(asked.weights)
        if not isinstance(model, PoseEstimator):
            raise ReleasedError(
                f"{asked.weights} is no pose network: take a file of Sapiens' pose with 17 or 133 points"
            )
        model = model.to(asked.device)
        result = evaluate(model, asked.root, asked.detections, asked.limit, not asked.no_flip, asked.batch)
    except (ReleasedError, SourceError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(rows(result)))
    if asked.out:
        write_atomic(
            asked.out, json.dumps({"weights": asked.weights.name, "limit": asked.limit} | result, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

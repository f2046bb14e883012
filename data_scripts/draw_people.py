"""Draws the picture at the top of the README: rendered people and their labels. `python data_scripts/draw_people.py`"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from course_lib import plots
from course_lib.data.worlds import render_samples

ROOT = Path(__file__).resolve().parents[1]


def column(sample) -> np.ndarray:
    """One picture above its parts, normals and depth: (4 H, W, 3) in [0, 1]."""
    depth = np.where(sample.instances > 0, sample.depth, np.nan)
    normals = plots.colour_normals(sample.normals.transpose(1, 2, 0))  # (H, W, 3)
    labels = (plots.colour_parts(sample.parts), normals, plots.colour_depth(depth))
    return np.concatenate([plots.to_picture(sample.image), *labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / ".github" / "people.png")
    parser.add_argument("--scenes", type=int, nargs="+", default=[3, 1, 8, 15, 9, 13, 4, 18])
    parser.add_argument("--size", type=int, default=160)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = (options.size, options.size)
    samples = [next(render_samples("wild", "train", seed=0, index=scene, size=size)) for scene in options.scenes]
    picture = np.concatenate([column(sample) for sample in samples], axis=1)
    Image.fromarray((255 * picture.clip(0, 1)).round().astype(np.uint8)).save(options.out, optimize=True)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

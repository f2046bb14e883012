"""How many synthesised heatmaps a second, against rendered pictures in the same run (MPT, supplement G).

    python benchmarks/heatmaps.py [--size 112] [--batches 40] [--pictures 24]

JSON on stdout, for one core. A sample is 17 maps of size x size. `heatmaps`: from joints; `flawed`: with jitter,
drop-outs, spurious dots and masks; `whole_way`: a body posed, put before a camera, cropped and drawn; `per_pixel`: the
same maps without the product of a row and a column; `pictures`: of world studio at the same size, with all labels. CPU
time is counted, so that other programs at work do not show in the ratios.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

GOAL = 50.0  # samples of 112 x 112 x 17 a second a core
BATCH = 32


def rate(make: Callable[[], int], times: int) -> float:
    """How many things a second of CPU time `make` makes, which returns their number; after a warm-up."""
    make()
    began = time.process_time()
    made = sum(make() for _ in range(times))
    return made / (time.process_time() - began)


def per_pixel(points: torch.Tensor, size: int, sigma: float) -> torch.Tensor:
    """Equation 13.4's first form: an exponential for every pixel of every map."""
    pixels = ((points + 1) * size / 2)[..., None, None, :]
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    return torch.exp(-((x - pixels[..., 0]) ** 2 + (y - pixels[..., 1]) ** 2) / (2 * sigma**2))


def measure(size: int, batches: int, pictures: int) -> dict:
    """One row of the report."""
    from course_lib.chapters import mpt_pretraining as mpt
    from course_lib.data.meshes import sample_bodies
    from course_lib.data.worlds import render_samples

    generator, points = torch.Generator().manual_seed(0), 1.6 * torch.rand(BATCH, 17, 2) - 0.8
    sigma, cameras, numbers = mpt.sigma_for(size), mpt.virtual_cameras(8), iter(range(10**6))

    def whole_way() -> int:
        people = sample_bodies(BATCH, next(numbers), size=256)
        chosen = cameras[torch.randint(8, (BATCH,), generator=generator)]
        views = mpt.look(people.vertices, people.joints["coco17"], chosen, generator)
        return len(mpt.flawed_heatmaps(views.points, size, generator))

    def picture() -> int:
        return len(list(render_samples("studio", "train", 0, next(numbers), (size, size), formats=("coco17",))))

    rates = {
        "heatmaps": rate(lambda: len(mpt.synthesize_heatmaps(points, size, sigma)), batches),
        "per_pixel": rate(lambda: len(per_pixel(points, size, sigma)), max(2, batches // 8)),
        "flawed": rate(lambda: len(mpt.flawed_heatmaps(points, size, generator)), batches),
        "whole_way": rate(whole_way, max(2, batches // 4)),
        "pictures": rate(picture, pictures),
    }
    return {
        "size": size,
        "a_second_a_core": {name: round(value, 1) for name, value in rates.items()},
        "times_pictures": {name: round(value / rates["pictures"], 1) for name, value in rates.items()},
        "times_per_pixel": round(rates["heatmaps"] / rates["per_pixel"], 1),
        "goal": {"whole_way": GOAL},
        "reached": rates["whole_way"] >= GOAL,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        json.dumps({"benchmark": "heatmaps"} | measure(arguments.size, arguments.batches, arguments.pictures), indent=1)
    )


if __name__ == "__main__":
    main()

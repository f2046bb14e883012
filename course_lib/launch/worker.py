"""What every process of a launch runs: `torchrun ... -m course_lib.launch.worker --chapter ... --config ... --out ...`.

It trains the chapter's recipe with `fit`, from the newest whole checkpoint in the folder on. Exit codes: 0 finished,
143 and 130 stopped by SIGTERM or Ctrl-C after saving, 2 wrong arguments, 1 anything else.
"""

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from course_lib.launch.jobs import chapter_module, chosen, overridden, parse_settings
from course_lib.launch.plan import with_example
from course_lib.recipe import Recipe
from course_lib.train import Run, fit
from course_lib.train.weights import load_weights

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
LINES = 100  # that a run prints


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chapter", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another value for a field")
    parser.add_argument("--parallel", default="auto", help="as in fit")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and logs")
    parser.add_argument("--data", type=Path, nargs="+", help="folders of shards")
    parser.add_argument("--start", type=Path, help="weights to begin with: a file, or a checkpoint of an earlier stage")
    parser.add_argument("--example", action="store_true", help="train on the recipe's example batches, without data")
    parser.add_argument("--workers", type=int, default=0, help="processes that read ahead, for each GPU")
    parser.add_argument("--save-every", type=int, help="steps between checkpoints; default: a tenth of the run")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--kill", default="", help=argparse.SUPPRESS)  # "RANK:STEP": how prove() loses a process
    return parser.parse_args(words)


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The chapter's recipe with the stream and the weights that the options ask for. ValueError where data is missing,
    CheckpointError where the weights are of another model."""
    recipe = with_stream(options)
    if options.start is None:
        return recipe
    return dataclasses.replace(recipe, model=partial(filled, recipe.model, options.start))


def filled(make: Callable[[], nn.Module], start: Path) -> nn.Module:
    """A new model with the weights of a file or a checkpoint."""
    model = make()
    load_weights(model, start)
    return model


def with_stream(options: argparse.Namespace) -> Recipe:
    """The chapter's recipe with the stream that the options ask for. ValueError where the data is missing."""
    from course_lib.data.streams import GeneratedStream, ShardStream

    module = chapter_module(options.chapter)
    config = overridden(chosen(module.CONFIGS, options.config), parse_settings(options.set))
    recipe = module.recipe(config, None)
    recipe.share(WORLD)
    if options.example:
        return with_example(recipe)
    check_source(options.chapter, options.data)
    if options.data and hasattr(module, "with_data"):
        return module.with_data(config, options.data)
    if options.data:
        lanes = WORLD * max(1, options.workers)  # one for every process that reads
        plan = {"seed": recipe.seed, "lanes": lanes, "workers": options.workers}
        return module.recipe(config, ShardStream(*options.data, prepare=module.prepare(config), **plan))
    return module.recipe(config, GeneratedStream(module.generate(config), recipe.seed))


def check_source(chapter: str, data: list[Path] | None) -> None:
    """ValueError where a chapter can't make its data by itself and none is given, or can't take what is given."""
    module = chapter_module(chapter)
    if not data and not hasattr(module, "generate"):
        raise ValueError(f"{chapter} trains on shards: give --data FOLDER (`course data make` fills one)")
    if data and not (hasattr(module, "prepare") or hasattr(module, "with_data")):
        raise ValueError(f"{chapter} makes its data by itself: leave --data out")


def after_step(recipe: Recipe, options: argparse.Namespace) -> Callable[[Run], None]:
    """A line in the log now and then; a sudden death where prove() asked for one."""
    began, every = time.monotonic(), max(1, recipe.steps // LINES)
    doomed = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" and options.kill

    def on_step(run: Run) -> None:
        if RANK == 0 and (run.step % every == 0 or run.step == recipe.steps):
            seconds = time.monotonic() - began
            print(f"step {run.step}/{recipe.steps}  loss {run.losses[-1]:.5g}  {seconds:.0f} s", flush=True)
        if doomed == f"{RANK}:{run.step}":
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM is as sudden

    return on_step


def main() -> int:
    options = parsed()
    try:
        recipe = recipe_of(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    how = {"device": options.device, "parallel": options.parallel, "save_every": options.save_every}
    run = fit(recipe, folder=options.out, on_step=after_step(recipe, options), progress=False, **how)
    if RANK == 0:
        print(f"{run.stopped} at step {run.step}/{recipe.steps}: {options.out}", flush=True)
    return run.exit_code


if __name__ == "__main__":
    sys.exit(main())

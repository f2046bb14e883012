"""Which run, on which machines: a chapter's configuration and a cluster."""

import dataclasses
import importlib
import json
import subprocess
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from course_lib.chapters.scaling import GPUS
from course_lib.paths import CHAPTERS, SOLUTIONS
from course_lib.recipe import Recipe, Stream

PARALLEL = ("fsdp", "hsdp", "ddp")


@dataclass(frozen=True)
class Job:
    """One configuration of one chapter on `nodes` machines; `job(...)` makes it and checks the names.

    chapter: a chapter's slug, or the dotted name of any module with CONFIGS and recipe(config, stream).
    parallel: fsdp shards the weights over all GPUs, hsdp over those of a machine, ddp not at all.
    """

    chapter: str
    name: str
    config: Any
    nodes: int
    gpus_per_node: int
    gpu: str
    parallel: str
    overrides: dict[str, Any]

    @property
    def world(self) -> int:
        """GPUs, and as many processes."""
        return self.nodes * self.gpus_per_node

    @property
    def shards(self) -> int:
        """Over how many GPUs weights, gradients and the optimiser's state are shared out."""
        return {"fsdp": self.world, "hsdp": self.gpus_per_node, "ddp": 1}[self.parallel]

    def recipe(self, stream: Stream | None = None) -> Recipe:
        """The chapter's recipe; without a stream it can be planned and proven, not trained."""
        return chapter_module(self.chapter).recipe(self.config, stream)

    def at(self, name: str) -> "Job":
        """The same machines with the chapter's configuration of that name, as it stands there."""
        config = chosen(chapter_module(self.chapter).CONFIGS, name)
        return dataclasses.replace(self, name=name, config=config, overrides={})

    def arguments(self) -> list[str]:
        """What names this run, and how it is shared out, on the worker's command line."""
        settings = [f"{name}={json.dumps(value)}" for name, value in self.overrides.items()]
        words = ["--chapter", self.chapter, "--config", self.name, "--parallel", self.parallel]
        return words + [word for setting in settings for word in ("--set", setting)]

    def plan(self, utilisation: float = 0.4):
        """What the run costs, beside what the paper says; `utilisation` (0 to 1) is an assumption."""
        from course_lib.launch.plan import plan

        return plan(self, utilisation)

    def prove(self, config: str | None = None):
        """Simulates one step on the whole cluster, then takes two real processes through a kill: see `prove.prove`."""
        from course_lib.launch.prove import prove

        return prove(self, config)

    def script(self, **options) -> str:
        """The text for sbatch; options as in `script.script`."""
        from course_lib.launch.script import script

        return script(self, **options)

    def submit(self, dry_run: bool = False, **options) -> subprocess.CompletedProcess | None:
        """Prints the command and the script, then runs sbatch, unless `dry_run`; options as in `script.script`."""
        from course_lib.launch.script import submit

        return submit(self, dry_run, **options)


def job(
    chapter: str | ModuleType,
    config: str,
    nodes: int = 1,
    gpus_per_node: int = 8,
    *,
    gpu: str | None = None,
    parallel: str | None = None,
    **overrides,
) -> Job:
    """The job; `overrides` replace fields of the configuration. gpu: one of GPUS, the paper's own if None. parallel:
    fsdp if None, and hsdp on several machines, where weights are then gathered within a machine only.

    ValueError for a name that is not there, with those that are, and for a batch that the GPUs can't share."""
    module = chapter_module(chapter.__name__ if isinstance(chapter, ModuleType) else chapter)
    changed = overridden(chosen(module.CONFIGS, config), overrides)
    recipe = module.recipe(changed, None)
    gpu = gpu or (recipe.paper.gpu if recipe.paper else "A100-80GB")
    if gpu not in GPUS:
        raise ValueError(f"no GPU is called {gpu!r}: use gpu= one of {', '.join(GPUS)}")
    parallel = parallel or ("hsdp" if nodes > 1 else "fsdp")
    if parallel not in PARALLEL:
        raise ValueError(f"parallel={parallel!r} is unknown: use {', '.join(PARALLEL)}")
    if min(nodes, gpus_per_node) < 1:
        raise ValueError(f"{nodes} nodes of {gpus_per_node} GPUs are no cluster: give 1 or more of each")
    recipe.share(nodes * gpus_per_node)
    name = module.__name__.removeprefix("course_lib.chapters.")
    return Job(name, config, changed, nodes, gpus_per_node, gpu, parallel, overrides)


def chapter_module(name: str) -> ModuleType:
    """The module of a chapter (slug, number or both), or the module of that dotted name.

    ValueError where there is none or it has nothing to launch, with the chapters that have."""
    module = None
    for path in (chapter_path(name), name):
        try:
            module = module or importlib.import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):  # it is there, and imports something that is not
                raise
    if not (hasattr(module, "CONFIGS") and hasattr(module, "recipe")):
        known = [path.stem for path in sorted(CHAPTERS.glob("*.py")) if "\nCONFIGS" in path.read_text("utf-8")]
        raise ValueError(f"{name!r} has no run to launch: use one of {', '.join(known) or '(no chapter has one yet)'}")
    return module


def chapter_path(name: str) -> str:
    """Where the module of a chapter of that name stands, or would."""
    for stem in (path.stem for path in SOLUTIONS.glob("[0-9][0-9]_*.py")):
        if name in (stem, stem[:2]):
            name = stem[3:]
    return f"course_lib.chapters.{name}"


def chosen(configs: dict[str, Any], name: str) -> Any:
    """The configuration; ValueError names those there are."""
    if name not in configs:
        raise ValueError(f"no configuration is called {name!r}: use one of {', '.join(configs)}")
    return configs[name]


def overridden(config: Any, overrides: dict[str, Any]) -> Any:
    """The configuration with other values; ValueError for a field it does not have, or a value of another type."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if unknown := [name for name in overrides if name not in fields]:
        raise ValueError(f"the configuration has no {', '.join(unknown)}: it has {', '.join(fields)}")
    return dataclasses.replace(config, **{name: fitting(name, fields[name], overrides[name]) for name in overrides})


def fitting(name: str, old: Any, new: Any) -> Any:
    """The new value as the old one's type, where that loses nothing (5 for 5.0, a list for a tuple)."""
    if isinstance(old, float) and type(new) is int:
        return float(new)
    if isinstance(old, tuple) and isinstance(new, list):
        return tuple(new)
    if isinstance(old, bool | int | float | str | tuple) and type(new) is not type(old):
        raise ValueError(f"{name} is of type {type(old).__name__}, such as {old!r}: {new!r} is not")
    return new


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """["steps=5", "name=x"] -> {"steps": 5, "name": "x"}: values are JSON, or else text. ValueError without a name."""
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ValueError(f"{pair!r} sets nothing: write name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found

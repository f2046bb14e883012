"""The small models that a chapter ships: trained for hours once, kept as `checkpoints/NAME.safetensors`, then loaded.

A chapter declares `SHIPPED = {"people": Shipped("sapiens_pretraining-people", CONFIGS["shipped"], "module:function")}`;
`course ship 06.people` trains, measures and keeps it, and a second call goes on where a killed one stopped. A cell
fills its model with `load(model, "sapiens_pretraining-people")`.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.files import file_hash, text_hash, write_atomic
from course_lib.paths import BUILD, CHECKPOINTS, RESULTS, ROOT
from course_lib.study import declared, finite, read_record, resolved, same_config

if TYPE_CHECKING:
    from torch import nn

    from course_lib.recipe import Recipe
    from course_lib.train import Run

LARGEST = 8_000_000  # bytes of a file in checkpoints/


class ShippedError(Exception):
    """A model can't be shipped or loaded; the message says what to do."""


@dataclass(frozen=True)
class Shipped:
    """`run(config, folder)` trains in the folder, going on with what a killed run left there, and returns the model and
    its metrics, names and finite numbers. It may be text, `module:function`, found when it runs.

    name: the chapter's slug and a key, such as `sapiens_pretraining-people`; config: a frozen dataclass.
    """

    name: str
    config: Any
    run: Callable[[Any, Path], tuple["nn.Module", dict[str, float]]] | str

    slug = property(lambda self: self.name.partition("-")[0])
    key = property(lambda self: self.name.partition("-")[2])

    def __post_init__(self):
        if not (self.slug and self.key):
            raise ValueError(f"{self.name!r} is not CHAPTER-KEY: call it such as sapiens_pretraining-people")


@dataclass(frozen=True)
class Places:
    """Where runs, weights and records are kept."""

    build: Path = BUILD / "ship"
    checkpoints: Path = CHECKPOINTS
    results: Path = RESULTS

    def run(self, shipped: Shipped) -> Path:
        """The folder of a run: another configuration has another one, so that neither goes on with the other's."""
        return self.build / shipped.name / config_hash(shipped)

    def weights(self, shipped: Shipped) -> Path:
        return self.checkpoints / f"{shipped.name}.safetensors"

    def record(self, shipped: Shipped) -> Path:
        return self.results / f"{shipped.name}.json"


def config_hash(shipped: Shipped) -> str:
    """The first 16 digits of the sha256 of the configuration."""
    said = {"class": type(shipped.config).__name__, "config": dataclasses.asdict(shipped.config)}
    return text_hash(json.dumps(said, sort_keys=True, default=str), length=16)


# ------------------------------------------------------------------------------------------------- shipping
def ship(shipped: Shipped, places: Places | None = None, say: Callable[[str], None] = print) -> Path:
    """Trains and keeps one model; its record. What is valid already is left as it is.

    The weights are written first, then the record that names their sha256: between the two, nothing is valid."""
    places = places or Places()
    path = places.record(shipped)
    if not (why := problem(shipped, places)):
        say(f"{shipped.name}: kept, as {path.name} says")
        return path
    say(f"{shipped.name}: {why}")
    folder = places.run(shipped)
    closed = begin_turn(folder)
    start = time.time()
    model, metrics = resolved(shipped.run)(shipped.config, folder)
    metrics = finite(shipped, metrics)
    draft = small_file(shipped, model, folder)
    write_atomic(places.weights(shipped), draft.read_bytes())
    write_record(shipped, path, draft, metrics, minutes=(closed + time.time() - start) / 60)
    say(f"{shipped.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return path


def begin_turn(folder: Path) -> float:
    """Notes in `turns.json` that a turn begins now; the seconds of those before.

    A killed turn says no goodbye: it ended with the last file that it wrote, and a training writes one every step."""
    path = folder / "turns.json"
    turns = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if turns:
        turns[-1]["end"] = max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
    write_atomic(path, json.dumps([*turns, {"begin": time.time()}], indent=1))
    return sum(turn["end"] - turn["begin"] for turn in turns)


def small_file(shipped: Shipped, model: "nn.Module", folder: Path) -> Path:
    """The weights in bf16, in the run's folder. ShippedError where the file is too large for the repository."""
    from course_lib.train import save_weights

    draft = folder / "weights.safetensors"
    save_weights(model, draft)
    if (size := draft.stat().st_size) > LARGEST:
        raise ShippedError(
            f"{shipped.name} is {size / 1e6:.1f} MB in bf16, and a file in checkpoints/ holds at most "
            f"{LARGEST / 1e6:g}: make the model smaller. Nothing was written there; the run stays in {folder}"
        )
    return draft


def write_record(shipped: Shipped, path: Path, draft: Path, metrics: dict[str, float], minutes: float) -> None:
    """Writes the record with everything that says how the weights came about."""
    from course_lib.runinfo import run_info

    info = run_info(getattr(shipped.config, "seed", 0))
    data = draft.with_name("data.json")
    record = {"name": shipped.name, "chapter": shipped.slug, "key": shipped.key}
    record |= {"config": dataclasses.asdict(shipped.config), "config_hash": config_hash(shipped)}
    record |= {"data": json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}}
    record |= {key: info[key] for key in ("scale", "hardware", "versions", "seed")}
    record |= {"steps": getattr(shipped.config, "steps", None), "minutes": round(minutes, 2), "metrics": metrics}
    record |= {"bytes": draft.stat().st_size, "sha256": file_hash(draft)}
    write_atomic(path, json.dumps(record, indent=1, default=str) + "\n")


# ------------------------------------------------------------------------------------------------- inside a run
def note_data(folder: Path, *sets: Path) -> None:
    """For a `run`: the record will name these data sets, folders with a `manifest.json`, with its sha256."""
    path = folder / "data.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known |= {data.name: file_hash(data / "manifest.json") for data in sets}
    write_atomic(path, json.dumps(known, indent=1))


def train(recipe: "Recipe", folder: Path, **options) -> "Run":
    """For a `run`: `fit` in a folder, which ends in KeyboardInterrupt where a signal stopped it: nothing that is half
    trained is measured or kept."""
    from course_lib.train import fit

    run = fit(recipe, folder=folder, **options)
    if run.stopped != "finished":
        raise KeyboardInterrupt(f"{recipe.name}: stopped after step {run.step}")
    return run


def round_weights(model: "nn.Module") -> "nn.Module":
    """For a `run`, before it measures: the model with its weights rounded to bf16, as they will be shipped."""
    import torch

    from course_lib.train.checkpoint import model_tensors

    for tensor in model_tensors(model).values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(torch.bfloat16))
    return model


# ------------------------------------------------------------------------------------------------- reading
def problem(shipped: Shipped, places: Places | None = None) -> str:
    """Why the shipped model can't be used, empty where it can. (Its data may have been rendered anew since.)"""
    places = places or Places()
    weights, record = places.weights(shipped), read_record(places.record(shipped))
    if not weights.exists():
        return f"checkpoints/{weights.name} is not there yet"
    if record is None:
        return f"results/{shipped.name}.json, the record of its weights, is missing or spoilt"
    if not same_config(record.get("config"), shipped.config):
        return f"checkpoints/{weights.name} was trained with another configuration than the chapter's"
    if record.get("sha256") != file_hash(weights):
        return f"checkpoints/{weights.name} was cut or changed: its sha256 is not its record's"
    return ""


def load(model: "nn.Module", name: str, places: Places | None = None) -> dict:
    """Fills the model with the shipped weights, in evaluation mode; their record.

    ShippedError where there are none, they are broken or of another configuration, or don't fit the model."""
    from course_lib.train import CheckpointError, load_weights

    shipped, places = named(name), places or Places()
    if why := problem(shipped, places):
        raise ShippedError(f'{why}: choose "train", or make it with `course ship {short_name(shipped)}`')
    try:
        load_weights(model, places.weights(shipped))
    except CheckpointError as error:
        raise ShippedError(f"{error}. Build the model from SHIPPED[{shipped.key!r}].config") from error
    model.eval()
    return read_record(places.record(shipped))


def available(name: str, places: Places | None = None) -> bool:
    """Whether `load` has whole weights of the chapter's configuration."""
    return not problem(named(name), places)


def stale_shipped(places: Places | None = None, root: Path = ROOT) -> list[str]:
    """Every kept model that is not, or no longer, what its chapter declares: a test holds this to be empty."""
    from course_lib.chapter_source import chapters

    places = places or Places()
    known = [one for chapter in chapters(root) for one in shipped_of(chapter.slug).values()]
    begun = [one for one in known if places.weights(one).exists() or places.record(one).exists()]
    found = [f"{one.name}: {why}" for one in begun if (why := problem(one, places))]
    strays = {path.stem for path in places.checkpoints.glob("*.safetensors")} - {one.name for one in known}
    return found + [f"{name}: no chapter declares it in SHIPPED" for name in sorted(strays)]


# ------------------------------------------------------------------------------------------------- by name
def shipped_of(slug: str) -> dict[str, Shipped]:
    """What the chapter's module declares as SHIPPED; none where it has no module."""
    return declared(slug, "SHIPPED")


def named(name: str) -> Shipped:
    """The shipped model called `CHAPTER-KEY`; ValueError lists those of the chapter."""
    known = {one.name: one for one in shipped_of(name.partition("-")[0]).values()}
    if name not in known:
        raise ValueError(f"no shipped model is called {name!r}: use one of {', '.join(known) or '(there is none)'}")
    return known[name]


def find_shipped(name: str, root: Path = ROOT) -> Shipped:
    """The shipped model called `NN.key`; ValueError lists those there are."""
    from course_lib.chapter_source import chapters, find_chapter

    number, _, key = name.partition(".")
    chapter = find_chapter(number, root)
    found = [one for one in shipped_of(chapter.slug).values() if one.key == key]
    if not found:
        everything = [one for other in chapters(root) for one in shipped_of(other.slug).values()]
        known = ", ".join(short_name(one, root) for one in everything) or "(no chapter has one yet)"
        raise ValueError(f"no shipped model is called {name!r}: use one of {known}")
    return found[0]


def short_name(shipped: Shipped, root: Path = ROOT) -> str:
    """`06.people`, as `course ship` takes it."""
    from course_lib.chapter_source import find_chapter

    return f"{find_chapter(shipped.slug, root).number}.{shipped.key}"

"""What a job costs, from the recipe alone, and beside it what the paper says of its own run."""

import dataclasses
import html
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from course_lib.chapters.scaling import GPUS
from course_lib.files import write_atomic
from course_lib.launch.jobs import Job
from course_lib.launch.trace import Trace, trace
from course_lib.paths import RESULTS
from course_lib.recipe import PaperRun, Recipe

USABLE = 0.9  # of a GPU's memory: the rest is for CUDA itself, for NCCL, and for gaps between tensors
DAY = 86400
STATES = {"adamw": 2, "adam": 2, "sgd": 1}  # numbers that an optimiser keeps for each parameter
PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Plan:
    """The numbers of a job; it prints as a table, in a notebook too. Nothing in it is fitted to what the paper says.

    memory: bytes of one GPU by kind. utilisation: an assumption, the share of the GPUs' peak that goes into the FLOPs
    of `trace.training`. micro_batch: samples of one GPU in one forward pass. samples, flops, days, gpu_hours,
    kilowatt_hours: of the whole run; energy is that of the GPUs alone, at the power of their data sheet.
    """

    job: Job
    recipe: Recipe
    trace: Trace
    memory: dict[str, int]
    utilisation: float

    micro_batch = property(lambda self: self.recipe.share(self.job.world))
    samples = property(lambda self: self.recipe.steps * self.recipe.batch_size)
    flops = property(lambda self: self.samples * self.trace.training)
    days = property(lambda self: self.flops / (self.job.world * self.peak(self.job.gpu) * self.utilisation) / DAY)
    gpu_hours = property(lambda self: 24 * self.days * self.job.world)
    kilowatt_hours = property(lambda self: self.gpu_hours * GPUS[self.job.gpu].watts / 1000)
    bytes = property(lambda self: sum(self.memory.values()))
    capacity = property(lambda self: USABLE * GPUS[self.job.gpu].memory)
    fits = property(lambda self: self.bytes <= self.capacity)

    def peak(self, gpu: str) -> float:
        """FLOP/s of a GPU at best, in the recipe's precision."""
        return GPUS[gpu].fp32 if self.recipe.precision == "fp32" else GPUS[gpu].peak

    @property
    def largest_micro_batch(self) -> int:
        """Samples a GPU that would fit, taking what grows with them as proportional to them."""
        growing = self.memory["activations"] + self.memory["batch"]
        return max(0, int((self.capacity - self.bytes + growing) * self.micro_batch / growing))

    @property
    def stops_first(self) -> str:
        """What stops fitting first when a GPU takes more samples at once."""
        kind = max(self.memory, key=self.memory.get)
        if self.largest_micro_batch == 0:
            return f"no sample fits: the most goes to {kind}, {byte_count(self.memory[kind])}"
        share = self.largest_micro_batch / self.micro_batch
        return f"activations: {self.largest_micro_batch} samples fit ({byte_count(share * self.memory['activations'])})"

    @property
    def paper_utilisation(self) -> float | None:
        """What the paper's days imply for its samples, at our FLOPs a sample; None where it is silent."""
        paper = self.recipe.paper
        if not (paper and samples_of(paper) and paper.gpus and paper.days and paper.gpu in GPUS):
            return None
        return samples_of(paper) * self.trace.training / (paper.gpus * paper.days * DAY * self.peak(paper.gpu))

    def rows(self) -> list[tuple[str, str, str]]:
        """(quantity, this job, the paper); an empty text where there is nothing to say."""
        job, recipe, traced, paper = self.job, self.recipe, self.trace, self.recipe.paper or PaperRun("")
        tokens = traced.tokens and recipe.batch_size * traced.tokens
        implied, hours = self.paper_utilisation, paper.days and paper.gpus and 24 * paper.days * paper.gpus
        fits = "fits" if self.fits else "does NOT fit"
        all_memory = f"{byte_count(self.bytes)} of {byte_count(GPUS[job.gpu].memory)}: {fits}"
        return [
            ("parameters", counted(traced.parameters), counted(paper.parameters)),
            ("FLOPs of a sample, forward", short(traced.forward), short(paper.flops)),
            ("FLOPs of a sample, training", short(traced.training), ""),
            ("FLOPs of a step", short(recipe.batch_size * traced.training), ""),
            ("samples in a step", grouped(recipe.batch_size), grouped(paper.batch)),
            ("tokens in a step", counted(tokens), ""),
            ("steps", grouped(recipe.steps), grouped(paper.steps)),
            ("samples in all", counted(self.samples), counted(samples_of(paper))),
            ("tokens in all", counted(tokens and tokens * recipe.steps), ""),
            ("samples on a GPU at once", grouped(self.micro_batch), ""),
            *((f"memory of a GPU, {kind}", byte_count(size), "") for kind, size in self.memory.items()),
            ("memory of a GPU, all", all_memory, ""),
            ("stops fitting first", self.stops_first, ""),
            ("GPUs", f"{job.world:,} x {job.gpu}", f"{paper.gpus:,} x {paper.gpu}" if paper.gpus else ""),
            ("utilisation", f"{self.utilisation:.0%} assumed", f"{implied:.1%} implied by its days" if implied else ""),
            ("days", f"{self.days:.3g}", f"{paper.days:g}" if paper.days else ""),
            ("GPU hours", counted(self.gpu_hours), counted(hours)),
            ("energy of the GPUs, kWh", counted(self.kilowatt_hours), ""),
        ]

    def heads(self) -> tuple[str, str, str]:
        job, paper = self.job, self.recipe.paper
        words = f"{job.nodes} x {job.gpus_per_node} GPUs, {job.parallel}"
        return f"{job.chapter}: {job.name}", words, paper.source if paper else ""

    def notes(self) -> tuple[str, ...]:
        return self.recipe.paper.notes if self.recipe.paper else ()

    def __str__(self) -> str:
        table = [self.heads(), *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in (0, 1)]
        lines = [f"{a:{widths[0]}s}  {b:{widths[1]}s}  {c}".rstrip() for a, b, c in table]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *(f"* {note}" for note in self.notes())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def line(row: tuple[str, ...], tag: str) -> str:
            cells = (f'<{tag} style="text-align:left">{html.escape(text)}</{tag}>' for text in row)
            return f"<tr>{''.join(cells)}</tr>"

        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        return f"<table>{line(self.heads(), 'th')}{''.join(line(row, 'td') for row in self.rows())}</table>{notes}"


def plan(job: Job, utilisation: float) -> Plan:
    """Traces one GPU's step of the job. ValueError for a utilisation that is none, or a recipe that needs data."""
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation={utilisation} is no share: give more than 0 and at most 1")
    recipe = job.recipe()
    return Plan(job, recipe, *step(recipe, job.world, job.shards), utilisation)


def step(recipe: Recipe, world: int, shards: int) -> tuple[Trace, dict[str, int]]:
    """The trace of one GPU's step, and its memory by kind."""
    keep = world > 1 or recipe.accumulate > 1
    traced = trace(recipe, max(1, recipe.batch_size // (world * recipe.accumulate)), keep, shards)
    return traced, memory(recipe, traced, shards, keep)


def memory(recipe: Recipe, traced: Trace, shards: int, keep_gradients: bool) -> dict[str, int]:
    """Bytes of one of `shards` GPUs by kind. weights: with buffers; gathered: what FSDP2 holds whole for a moment,
    a block in use, the next on its way, a block's gradients in fp32, and what is in no block, twice for a moment."""
    states = 0 if recipe.optimizer.name == "sgd" and not recipe.optimizer.momentum else STATES[recipe.optimizer.name]
    size = 2 if recipe.precision == "bf16" else 4
    return {
        "weights": 4 * traced.parameters // shards + traced.buffers,
        "gathered": traced.largest_block * (size + size + 4) + 8 * traced.outside if shards > 1 else 0,
        "gradients": 4 * traced.trainable // shards if keep_gradients else traced.gradients,
        "optimiser": 4 * states * traced.trainable // shards,
        "batch": traced.batch,
        "activations": traced.activations,
    }


def measure_memory(recipe: Recipe, steps: int = 3, folder: Path | None = None) -> Path:
    """Trains a few steps on the recipe's example, on this machine's GPU; records the peak beside the prediction.

    The record is `results/launch/memory-NAME.json`. RuntimeError without CUDA: there is nothing to measure."""
    if not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device here to measure memory on; job.plan() predicts it anywhere")
    from course_lib.runinfo import run_info
    from course_lib.train import fit

    expected = step(recipe, world=1, shards=1)[1]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    fit(with_example(recipe), device="cuda", parallel="none", steps=steps, progress=False)
    measured = torch.cuda.max_memory_allocated() - before
    record = {"recipe": recipe.name, "precision": recipe.precision, "batch": recipe.share(1), "steps": steps}
    record |= {"checkpoint_blocks": recipe.checkpoint_blocks, "predicted": expected, "measured": measured}
    record |= {"predicted_over_measured": sum(expected.values()) / measured, **run_info(recipe.seed)}
    path = (folder or RESULTS / "launch") / f"memory-{recipe.name}.json"
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    return path


def with_example(recipe: Recipe) -> Recipe:
    """The recipe on its own example batches instead of data, each sample drawn anew."""
    from course_lib.data.streams import GeneratedStream

    def make(generator: torch.Generator, samples: int) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            return recipe.example(samples)

    return dataclasses.replace(recipe, stream=GeneratedStream(make, recipe.seed))


def samples_of(paper: PaperRun) -> float | None:
    """Samples of the paper's run, as it states them or as its batch and steps make them."""
    return paper.samples or (paper.batch and paper.steps and paper.batch * paper.steps)


def short(number: float | None) -> str:
    """2162608768 -> "2.163 G"; empty for None."""
    found = next(((factor, prefix) for factor, prefix in PREFIXES if number and number >= factor), None)
    return f"{number / found[0]:.4g} {found[1]}" if found else "" if number is None else f"{number:.4g}"


def counted(number: float | None) -> str:
    """The same with B for billions, as parameters and samples are counted."""
    return short(number).replace("G", "B")


def grouped(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def byte_count(size: float) -> str:
    """3221225472 -> "3 GiB"."""
    power = min(3, max(0, int(size).bit_length() - 1) // 10)
    return f"{size / 1024**power:.4g} {('B', 'KiB', 'MiB', 'GiB')[power]}"

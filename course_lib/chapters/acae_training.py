"""ACAE, dozens of data sets: made by `course build` from solutions/12_acae_training.py. Edit there, never here."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from torch import Tensor

from course_lib.recipe import Batch

KINDS = {
    "markerless": """MuCo-3DHP 32 9 6 | CMU-Panoptic - 9 7 | AIST-Dance++ - 9 6 | HUMBI - 7 5 | MPI-INF-3DHP - 5 3
        | RICH - 7 4 | BEHAVE - - 3 | ASPset - - 4 | 3DOH50K - - 3 | IKEA ASM - - 2""",
    "marker-based": """Human3.6M 32 9 4 | TotalCapture - 5 3 | BML-MoVi - - 5 | Berkeley-MHAD - - 3 | UMPM - - 2
        | Fit3D - - 2 | GPA - - 4 | HumanSC3D - - 1 | CHI3D - - 1 | Human4D - - 1 | MADS - - 2""",
    "synthetic": """SURREAL 32 8 5 | 3DPeople - 6 4 | JTA - 5 3 | HSPACE - 5 3 | SAIL-VOS - 7 5 | AGORA - 5 3
        | SPEC - - 2""",
    "2D": "COCO 8 8 8 | MPII 8 8 8 | PoseTrack 8 8 8 | JRDB 8 8 8",
}  # Table S1: data set and its examples per batch in Small, Medium and Full


# Chapter 12, section "6 Thirty-two queues, one batch"
def read_batches(size: int) -> dict[str, int]:
    """Examples per batch by data set, of the Small (0), Medium (1) or Full (2) combination. Table S1."""
    rows = [row.strip().rsplit(maxsplit=3) for kind in KINDS.values() for row in kind.split("|")]
    return {name: int(numbers[size]) for name, *numbers in rows if numbers[size] != "-"}


BATCHES = {name: read_batches(size) for size, name in enumerate(("small", "medium", "full"))}


# Chapter 12, section "How often is an example seen?"
def batch_counts(sizes: Mapping[str, int], batch: int, power: float = 0.5) -> dict[str, int]:
    """Examples per batch of each data set, proportional to its size to the `power`, at least one, `batch` in all.

    power 1: as everything shuffled together; 0: all alike; between: small sets are oversampled (Table S1's; the square
    root is our choice). ValueError for an empty data set or fewer places than data sets."""
    if not sizes or min(sizes.values()) < 1 or batch < len(sizes):
        raise ValueError(f"{batch} places can't be shared by data sets of {dict(sizes)}: each needs one, none be empty")
    weights = {name: size**power for name, size in sizes.items()}
    due = {name: (batch - len(sizes)) * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: 1 + int(places) for name, places in due.items()}
    by_rest = sorted(due, key=lambda name: int(due[name]) - due[name])
    return counts | {name: counts[name] + 1 for name in by_rest[: batch - sum(counts.values())]}


# Chapter 12, section "How often is an example seen?"
def shares(counts: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """For each data set its share of the batch and its share of all data, 0 to 1."""
    drawn, there = sum(counts.values()), sum(sizes[name] for name in counts)
    return {name: (number / drawn, sizes[name] / there) for name, number in counts.items()}


# Chapter 12, section "Queues", exercise 12.6
def interleave(counts: Mapping[str, int]) -> list[str]:
    """The order in which one round of a batch takes from the queues: names, each as often as `counts` says.

    After m of the N places each data set has had less than one example more or fewer than m * count / N. Of those that
    may come, the one that is due first; of equals, the first in `counts`. ACAE S2; the rule is our choice."""
    total, taken, order = sum(counts.values()), dict.fromkeys(counts, 0), []
    for place in range(total):
        ready = [name for name in counts if taken[name] * total <= place * counts[name]]
        chosen = min(ready, key=lambda name: (taken[name] + 1) / counts[name])
        taken[chosen] += 1
        order.append(chosen)
    return order


# Chapter 12, section "A stream that needs no memory"
@lru_cache(maxsize=256)
def epoch_order(name: str, size: int, seed: int, epoch: int) -> np.ndarray:
    """0 … size - 1 in the order of one epoch of one data set; the same whatever other sets there are."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()), epoch)).permutation(size)


# Chapter 12, section "A stream that needs no memory"
def check_queues(datasets: Mapping[str, Batch], counts: Mapping[str, int]) -> None:
    """ValueError, with the data set named, for queues that can't make a batch."""
    if unknown := [name for name in counts if name not in datasets]:
        raise ValueError(f"counts names {unknown[0]!r}, but the data sets are {', '.join(datasets)}")
    if not counts or any(number != int(number) or number < 1 for number in counts.values()):
        raise ValueError(f"counts is {dict(counts)}: give whole numbers from 1 on, and leave out what is not drawn")
    forms = {}
    for name in counts:
        if len({len(values) for values in datasets[name].values()}) != 1:
            raise ValueError(f"the tensors of {name!r} must be some, and have the same number of examples each")
        if not len(next(iter(datasets[name].values()))):
            raise ValueError(f"the data set {name!r} is empty: leave it out of counts")
        forms[name] = {key: (tuple(values.shape[1:]), values.dtype) for key, values in datasets[name].items()}
        if forms[name] != (first := forms[next(iter(counts))]):
            raise ValueError(f"{name!r} has {forms[name]}, but {next(iter(counts))!r} has {first}: make them alike")


# Chapter 12, section "A stream that needs no memory"
class QueueStream:
    """Batches out of several data sets: a shuffled queue of epochs for each, interleaved, chunked. ACAE S2.

    datasets: {name: {key: tensor (N, ...)}}, all with the same keys, shapes and dtypes. counts: how many examples of
    each go into a round, in every batch; a batch is one or more rounds. A queue that runs out goes on with a new epoch,
    shuffled anew. transform(one, generator): an example as a batch of one -> the same, augmented; the generator depends
    on seed, data set, epoch and example. Batches have the tensors and "dataset" (B,), its number in `datasets`.
    ValueError for an unknown or empty data set, counts below 1 and data sets that are unlike.
    """

    def __init__(
        self,
        datasets: Mapping[str, Batch],
        counts: Mapping[str, int],
        seed: int = 0,
        transform: Callable[[Batch, torch.Generator], Batch] | None = None,
    ):
        check_queues(datasets, counts)
        self.datasets, self.counts, self.seed, self.transform = datasets, counts, seed, transform
        self.numbers = {name: number for number, name in enumerate(datasets)}
        self.sizes = {name: len(next(iter(datasets[name].values()))) for name in counts}
        self.order = interleave(counts)
        self.earlier = [self.order[:place].count(name) for place, name in enumerate(self.order)]

    def find(self, place: int) -> tuple[str, int, int]:
        """Which example stands at a place (0, 1, … from the first batch on): its data set, epoch and index there."""
        turn, slot = divmod(place, len(self.order))
        name = self.order[slot]
        epoch, at = divmod(turn * self.counts[name] + self.earlier[slot], self.sizes[name])
        return name, epoch, int(epoch_order(name, self.sizes[name], self.seed, epoch)[at])

    def example(self, place: int) -> Batch:
        """That example, without a batch dimension, augmented."""
        name, epoch, index = self.find(place)
        one = {key: values[index : index + 1] for key, values in self.datasets[name].items()}
        one["dataset"] = torch.tensor([self.numbers[name]])
        if self.transform is not None:
            seeds = np.random.SeedSequence((self.seed, zlib.crc32(name.encode()), epoch, index, 1))
            one = self.transform(one, torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0])))
        return {key: values[0] for key, values in one.items()}

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """This process's share of batch `start`, `start` + 1, … without end, as `course_lib.recipe.Stream`.

        ValueError where a batch isn't made of whole rounds, or can't be shared out evenly."""
        turn = len(self.order)
        if batch_size % turn or batch_size < turn:
            raise ValueError(f"a batch of {batch_size} is not made of whole rounds of {turn}: use a multiple of {turn}")
        if batch_size % world:
            raise ValueError(f"a batch of {batch_size} can't be shared out evenly to {world} processes")
        own = batch_size // world
        return (self.batch(range(first, first + own)) for first in count(start * batch_size + rank * own, batch_size))

    def batch(self, places: range) -> Batch:
        """The examples at these places, one above the other."""
        examples = [self.example(place) for place in places]
        return {key: torch.stack([one[key] for one in examples]) for key in examples[0]}


# Chapter 12, section "A stream that needs no memory"
def labelled_first(batch: Batch, weak: Tensor) -> Batch:
    """The batch with the examples of weak data sets, weak (data sets,) bool, last; otherwise in the order it had."""
    order = weak.to(batch["dataset"].device)[batch["dataset"]].int().argsort(stable=True)
    return {key: values[order] for key, values in batch.items()}


PEAK = 2.12e-4  # the paper's; its code has 2.121e-4
DROP_AT = {"initial": 0.92, "head": 0.5, "backbone": 0.0}  # the share of the steps after which the rate drops


# Chapter 12, section "7 The learning rate", exercise 12.7
def learning_rate(step: int, steps: int, part: str = "initial", peak: float = PEAK) -> float:
    """The rate at a step, 0 to `steps`, of the initial training, or of fine-tuning's "head" or "backbone". Fig. S1.

    Decays by 3 until the drop, drops by 10, decays by 3 until the end. The backbone begins after the drop. ValueError
    for another part."""
    if part not in DROP_AT:
        raise ValueError(f"part {part!r} is unknown: use {', '.join(DROP_AT)}")
    drop_at = DROP_AT[part]
    share = step / steps
    if share < drop_at:
        return peak * 3 ** -(share / drop_at)
    late = (share - drop_at) / (1 - drop_at)
    return peak / 10 * 3 ** -(1 + late)


# Chapter 12, section "7 The learning rate"
@dataclass(frozen=True)
class PartSchedule:
    """`learning_rate` of a part as a factor on the peak: a schedule for `course_lib.recipe`. Fig. S1."""

    part: str

    def __call__(self, step: int, steps: int) -> float:
        return learning_rate(step, steps, self.part, peak=1.0)


INITIAL, FINE_TUNE_HEAD, FINE_TUNE_BACKBONE = (PartSchedule(part) for part in DROP_AT)


# Chapter 12, section "Decoupled weight decay"
def weight_decay(steps: int = 400_000, peak: float = PEAK) -> float:
    """AdamW's factor in ACAE's code: 3e-3 / sqrt(steps) / peak. In fine-tuning `steps` stays the initial training's."""
    return 3e-3 / math.sqrt(steps) / peak


# course build sealed the text above: e3f74a442062fd02

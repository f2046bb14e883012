"""Streams of training batches: from tensors in memory, made on the fly, or read from shards by worker processes.

`stream.batches(start, batch_size, rank, world)` yields this process's share of batch `start`, `start` + 1, ... without
end. A batch is always the same, however many processes and workers make it and wherever a run begins, so that to resume
is to begin at the right number: nothing is repeated, nothing is skipped, and nothing is decoded twice.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from itertools import count, islice
from pathlib import Path

import cloudpickle
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from course_lib.data.schema import Sample
from course_lib.data.shards import OpenShard, ShardError, check_only, verify
from course_lib.recipe import Batch, Stream

Prepare = Callable[[Sample, np.random.Generator], Batch]
Transform = Callable[[Batch, torch.Generator], Batch]
ORDER, SHUFFLE, PREPARE = 1, 2, 3  # what random numbers are for: those of one purpose never follow from another's
GRACE = 300  # seconds that a worker goes on after SIGTERM


def torch_generator(*numbers: int) -> torch.Generator:
    """torch's counterpart of `np.random.default_rng(numbers)`: it depends on these numbers alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


@lru_cache(maxsize=16)
def shuffled(size: int, *numbers: int) -> np.ndarray:
    """0 ... `size` - 1 in an order that depends on `numbers`."""
    return np.random.default_rng(numbers).permutation(size)


def share(whole: int, parts: int, what: str) -> int:
    """The equal share of each of `parts`; ValueError where it does not come out even."""
    if whole % parts:
        near = max(parts, whole // parts * parts)
        raise ValueError(f"{what} can't be shared out evenly: use {near} or {near + parts} instead of {whole}")
    return whole // parts


# ---------------------------------------------------------------- one batch out of samples


def collate(samples: list[Batch], names: list[str]) -> Batch:
    """Samples -> a batch, each tensor (B, ...), strings as lists. ValueError naming the first that is unlike."""
    for sample, name in zip(samples, names, strict=True):
        check_alike(sample, name, samples[0], names[0])
    return default_collate(samples)


def check_alike(sample: Batch, name: str, first: Batch, first_name: str) -> None:
    """ValueError, with key and sample, where two samples differ in their keys, shapes or dtypes."""
    if sample.keys() != first.keys():
        raise ValueError(f"{name} has the keys {sorted(sample)}, but {first_name} has {sorted(first)}: return the same")
    for key in sample:
        if form(sample[key]) != form(first[key]):
            raise ValueError(
                f"{key!r} of {name} is {form(sample[key])}, but of {first_name} it is {form(first[key])}: "
                "return the same shape and dtype for all, by cropping or padding"
            )


def form(value) -> str:
    """Shape and dtype of a tensor or array, the type of anything else."""
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "dtype") else type(value).__name__


def join(parts: list[Batch], names: list[str], pin: bool = False) -> Batch:
    """Batches one after the other; `pin`: in memory that a GPU can fetch from while it computes."""
    firsts = [{key: values[0] for key, values in part.items()} for part in parts]
    for first, name in zip(firsts, names, strict=True):
        check_alike(first, name, firsts[0], names[0])
    return {key: concatenated([part[key] for part in parts], pin) for key in parts[0]}


def concatenated(values: list[torch.Tensor] | list[list[str]], pin: bool) -> torch.Tensor | list[str]:
    """Tensors or lists one after the other."""
    if isinstance(values[0], list):
        return sum(values, [])
    if len(values) == 1 and not pin:
        return values[0]  # as it is, without a copy
    shape = (sum(map(len, values)), *values[0].shape[1:])
    return torch.cat(values, out=torch.empty(shape, dtype=values[0].dtype, device=values[0].device, pin_memory=pin))


# ---------------------------------------------------------------- in memory, and made on the fly


class TensorStream:
    """Batches of tensors in memory, {name: (N, ...)}, in another order each epoch; a batch may span two epochs.

    `transform(batch, generator)` augments: it gets one sample as a batch of one, and a generator that depends on seed,
    epoch and sample, so that the sample comes out the same on any number of processes.
    """

    def __init__(self, tensors: Batch, seed: int = 0, transform: Transform | None = None):
        sizes = {name: len(values) for name, values in tensors.items()}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise ValueError(f"the tensors must have the same number of samples, at least one: they have {sizes}")
        self.tensors, self.seed, self.transform = tensors, seed, transform
        self.size = next(iter(sizes.values()))

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """See the module. ValueError if the batch can't be shared out."""
        own = share(batch_size, world, f"a batch over {world} processes")
        return (self._batch(number * batch_size + rank * own, own) for number in count(start))

    def _batch(self, first: int, size: int) -> Batch:
        """The samples at the places `first`, ... of all epochs in a row."""
        epochs = [divmod(place, self.size) for place in range(first, first + size)]
        places = [(epoch, int(shuffled(self.size, self.seed, ORDER, epoch)[place])) for epoch, place in epochs]
        if self.transform is None:
            chosen = torch.tensor([index for _, index in places])
            return {name: values[chosen.to(values.device)] for name, values in self.tensors.items()}
        samples = [self._transformed(epoch, index) for epoch, index in places]
        return collate(samples, [f"sample {index}" for _, index in places])

    def _transformed(self, epoch: int, index: int) -> Batch:
        one = {name: values[index : index + 1] for name, values in self.tensors.items()}
        changed = self.transform(one, torch_generator(self.seed, PREPARE, epoch, index))
        return {name: values[0] for name, values in changed.items()}


class GeneratedStream:
    """Batches that are made on the fly: `make(generator, n)` returns a batch of n samples. It is called for `block` of
    them at a time, with a generator that depends on seed, batch and block alone. Larger blocks are faster where `make`
    computes on whole tensors; each process needs at least one in a batch.
    """

    def __init__(self, make: Callable[[torch.Generator, int], Batch], seed: int = 0, block: int = 1):
        self.make, self.seed, self.block = make, seed, block

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """See the module. ValueError if the batch can't be shared out in whole blocks."""
        own = share(batch_size, world * self.block, f"a batch over {world} processes in blocks of {self.block}")
        blocks = range(rank * own, (rank + 1) * own)
        return (self._batch(number, blocks) for number in count(start))

    def _batch(self, number: int, blocks: range) -> Batch:
        made = [self.make(torch_generator(self.seed, PREPARE, number, block), self.block) for block in blocks]
        if sizes := {len(values) for batch in made for values in batch.values()} - {self.block}:
            raise ValueError(f"make returned {sizes.pop()} samples where {self.block} were asked for")
        return join(made, [f"block {block} of batch {number}" for block in blocks])


# ---------------------------------------------------------------- made ahead by workers


class BatchesByNumber(Dataset):
    """A process's share of a stream's batches, each by its number: what a worker is given, and where it runs.

    The stream goes to the workers by value, whatever notebook it was written in; each of them holds all of its data."""

    def __init__(self, stream: Stream, batch_size: int, rank: int, world: int):
        self.stream, self.how = stream, (batch_size, rank, world)

    def __getstate__(self) -> dict:
        return {"stream": cloudpickle.dumps(self.stream), "how": self.how}

    def __setstate__(self, state: dict) -> None:
        self.stream, self.how = cloudpickle.loads(state["stream"]), state["how"]

    def __getitem__(self, number: int) -> Batch:
        return next(self.stream.batches(number, *self.how))


class WorkerStream:
    """The batches of another stream, made ahead by `workers` processes: one makes a whole batch, the next the next one.

    For streams that find a batch by its number (`TensorStream`, `GeneratedStream`); `ShardStream` has its own workers,
    as it had to read all that comes before. The batches are those of the stream, to the last bit."""

    def __init__(self, stream: Stream, workers: int):
        if workers < 1:
            raise ValueError(f"workers is {workers}: use 1 or more, or the stream itself")
        self.stream, self.workers = stream, workers

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """See the module. Closing the iterator ends the workers; an error in one of them is raised here."""
        self.stream.batches(start, batch_size, rank, world)  # what can't be shared out is said before there are workers
        return self._batches(BatchesByNumber(self.stream, batch_size, rank, world), start)

    def _batches(self, source: BatchesByNumber, start: int) -> Iterator[Batch]:
        parts = loaded(source, self.workers, sampler=count(start))
        try:
            yield from parts
        finally:
            parts._shutdown_workers()  # as it does itself once it is forgotten, but an error's traceback holds it


# ---------------------------------------------------------------- from shards


class ShardStream:
    """Batches from the shards of one or more data folders (`course data make`).

    prepare(sample, generator) -> {name: tensor or string}: one sample of a batch; the generator depends on seed, epoch
    and sample. only: the picture fields to decode, all if None. window: so many shards of a lane are shuffled together.
    workers: processes that read ahead, 0 for none; no more of them start than this process has lanes.

    Each epoch has its own order of shards. Lane l of L owns every L-th shard of it and gives batch_size / L samples to
    every batch. Processes share out the lanes and workers those of their process, so that a shard is read by one worker
    of one process, and a batch depends on the number of lanes alone. A lane begins its next epoch when its shards of
    this one are through, whatever the others do.
    """

    def __init__(
        self,
        *folders: Path | str,
        prepare: Prepare,
        only: Iterable[str] | None = None,
        seed: int = 0,
        lanes: int = 1,
        window: int = 4,
        workers: int = 0,
    ):
        self.prepare, self.only, self.seed, self.lanes = prepare, check_only(only), seed, lanes
        self.window, self.workers = window, workers
        found = [(Path(folder), verify(folder, hashes=False)["shards"]) for folder in folders]
        entries = [(folder / name, shards[name]["samples"]) for folder, shards in found for name in sorted(shards)]
        self.paths, self.counts = [path for path, _ in entries], np.array([size for _, size in entries])
        self.first = self.counts.cumsum() - self.counts  # number of each shard's first sample
        if min(lanes, window) < 1 or workers < 0:
            raise ValueError("lanes and window must be at least 1, workers at least 0")
        if len(self.paths) < lanes or 0 in self.counts:
            raise ValueError(
                f"{len(self.paths)} shards ({self.counts.sum()} samples) are too few for {lanes} lanes: "
                "use fewer lanes, or make the data with fewer scenes in a shard (scenes_per_shard)"
            )

    def __getstate__(self) -> dict:
        """For worker processes; `prepare` by value where it was written in a notebook."""
        return self.__dict__ | {"prepare": cloudpickle.dumps(self.prepare)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state | {"prepare": cloudpickle.loads(state["prepare"])}

    def plan(self, lane: int, skip: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """From the lane's sample number `skip` on, window by window: epoch; (shard, place) of each sample (n, 2)."""
        for epoch in count():
            order = shuffled(len(self.paths), self.seed, ORDER, epoch)
            mine = order[(lane + epoch) % self.lanes :: self.lanes]  # in turn, should one have a shard more
            for window in (mine[at : at + self.window] for at in range(0, len(mine), self.window)):
                size = int(self.counts[window].sum())
                if skip < size:
                    places = np.array([(shard, place) for shard in window for place in range(self.counts[shard])])
                    yield epoch, places[shuffled(size, self.seed, SHUFFLE, epoch, int(window[0]))][skip:]
                skip = max(0, skip - size)

    def samples(self, lane: int, skip: int = 0) -> Iterator[tuple[Batch, str]]:
        """From the lane's sample number `skip` on: what `prepare` returns, and where it was read. ShardError."""
        for epoch, places in self.plan(lane, skip):
            with ExitStack() as stack:
                opened: dict[int, OpenShard] = {}
                for shard, place in places.tolist():
                    if shard not in opened:
                        opened[shard] = stack.enter_context(OpenShard(self.paths[shard], self.counts[shard], self.only))
                    sample = opened[shard][place]
                    generator = np.random.default_rng((self.seed, PREPARE, epoch, self.first[shard] + place))
                    yield self.prepare(sample, generator), f"sample {sample.key} in {self.paths[shard]}"

    def batches(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """See the module; in pinned memory where CUDA is. Closing the iterator ends its workers.

        ValueError if lanes or batch can't be shared out; ShardError for a broken shard or a worker that died."""
        own = share(self.lanes, world, f"the lanes over {world} processes")
        size = share(batch_size, self.lanes, f"a batch over {self.lanes} lanes")
        return self._batches(LaneReader(self, range(rank * own, (rank + 1) * own), start, size), start)

    def _batches(self, reader: "LaneReader", start: int) -> Iterator[Batch]:
        parts, pin = reader.parts(), torch.cuda.is_available()
        try:
            for number in count(start):
                found = [reader.next_part(parts, number) for _ in range(max(1, reader.workers))]
                yield join([batch for batch, _ in found], [names[0] for _, names in found], pin)
        finally:
            if reader.workers:
                parts._shutdown_workers()  # as it does itself once it is forgotten, but an error's traceback holds it


class LaneReader(IterableDataset):
    """Some lanes of a stream, from batch `start` on, `size` samples of each lane in a batch, shared out by workers."""

    def __init__(self, stream: ShardStream, lanes: range, start: int, size: int):
        self.stream, self.lanes, self.start, self.size = stream, lanes, start, size
        self.workers = min(stream.workers, len(lanes))

    def lanes_of(self, worker: int) -> list[int]:
        """The lanes that a worker reads."""
        return np.array_split(self.lanes, max(1, self.workers))[worker].tolist()

    def __iter__(self) -> Iterator[tuple[Batch, list[str]] | ShardError]:
        """Runs in the worker: its part of each batch, with the samples' names. A ShardError is handed over as it is."""
        worker = get_worker_info().id if self.workers else 0
        lanes = [self.stream.samples(lane, self.start * self.size) for lane in self.lanes_of(worker)]
        try:
            while True:
                samples, names = zip(*(found for lane in lanes for found in islice(lane, self.size)), strict=True)
                yield collate(list(samples), list(names)), list(names)
        except ShardError as error:
            yield error

    def parts(self) -> Iterator:
        """Starts the workers; their parts come in turn."""
        return loaded(self, self.workers)

    def next_part(self, parts: Iterator, number: int) -> tuple[Batch, list[str]]:
        """The next part. ShardError for a broken shard, or for a worker that died: with the shards that it read."""
        try:
            part = next(parts)
        except (RuntimeError, OSError, EOFError) as error:
            dead = [worker for worker, process in enumerate(getattr(parts, "_workers", ())) if not process.is_alive()]
            if not dead:
                raise
            raise ShardError(
                f"worker {dead[0]} died near batch {number}, reading {self.shards(dead[0], number)} (was it killed, or "
                "out of memory or of /dev/shm?): resume the run, with fewer workers if it happens again"
            ) from error
        if isinstance(part, ShardError):
            raise part
        return part

    def shards(self, worker: int, number: int) -> str:
        """The paths of the shards that a worker has open for a batch."""
        windows = [next(self.stream.plan(lane, number * self.size))[1] for lane in self.lanes_of(worker)]
        return ", ".join(str(self.stream.paths[shard]) for shard in np.unique(np.concatenate(windows)[:, 0]))


def loaded(dataset: Dataset, workers: int, **options) -> Iterator:
    """A DataLoader's iterator over what the dataset gives, unbatched, its workers fresh processes: a forked torch can
    hang."""
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    how = {"multiprocessing_context": "spawn", "worker_init_fn": start_worker} if workers else {}
    how["generator"] = torch.Generator()  # else it draws from the caller's random numbers
    parts = iter(DataLoader(dataset, batch_size=None, num_workers=workers, **how, **options))
    if workers and handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)  # torch's own raises anywhere, in the midst of an optimiser's step
    return parts


def start_worker(worker: int) -> None:
    """Signals are the parent's business, which ends the workers. (DataLoader gives each of them one torch thread.)

    A cluster sends SIGTERM to every process, but the parent needs batches to end its step: the worker stays a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))

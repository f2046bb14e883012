"""Streams: the same batches whoever reads them, nothing repeated or skipped, clear ends of workers and shards."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import paths
from course_lib.data import shards
from course_lib.data.schema import Sample, SchemaError
from course_lib.data.shards import ShardError
from course_lib.data.streams import GeneratedStream, ShardStream, TensorStream, join

COUNTS = (3, 5, 4, 5, 1, 5, 5, 2, 5)  # samples in the shards of the folder


def a_folder(folder: Path, counts=COUNTS, first: int = 0, size: int = 8) -> Path:
    """A data folder whose samples are numbered from `first` on; the number is in the picture and in the key."""
    folder.mkdir(exist_ok=True)
    entries, number = {}, first
    for index, count in enumerate(counts):
        name = shards.shard_name(index)
        entries[name] = shards.write_shard(folder / name, [a_sample(number + i, size) for i in range(count)])
        number += count
    shards.write_manifest(folder, {"version": shards.VERSION, "settings": {}, "shards": entries, "complete": True})
    return folder


def a_sample(number: int, size: int = 8) -> Sample:
    """A picture of one grey."""
    picture = np.full((3, size, size), number / 255, np.float32)
    return Sample(key=f"{number:08d}", image=picture, parts=np.full((size, size), number % 28, np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return a_folder(tmp_path_factory.mktemp("streams") / "data")


def prepare(sample, generator):
    """What the tests look at: who it is, and what random numbers it got."""
    return {"image": torch.from_numpy(sample.image), "key": sample.key, "random": torch.tensor(generator.random())}


def keys(batches) -> list[list[str]]:
    return [batch["key"] for batch in batches]


def same(one, other) -> None:
    """All tensors and lists of two batches are equal."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


def joined(batches) -> dict:
    """The shares of all ranks, in their order."""
    return {
        key: torch.cat([b[key] for b in batches]) if isinstance(batches[0][key], torch.Tensor)
        else [name for b in batches for name in b[key]] for key in batches[0]
    }  # fmt: skip


def whole(stream, start: int, batch_size: int, world: int, count: int) -> list[dict]:
    """Batches out of the shares of all ranks."""
    ranks = [list(islice(stream.batches(start, batch_size, rank, world), count)) for rank in range(world)]
    return [joined(shares) for shares in zip(*ranks, strict=True)]


# ---------------------------------------------------------------- in memory and made on the fly


def numbers(count: int, **settings) -> TensorStream:
    return TensorStream({"x": torch.arange(count), "y": torch.arange(count) * 10.0}, **settings)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 30), st.integers(0, 2**40))
def test_tensors_whatever_world_and_start(count, share, world, start, seed):
    stream, size = numbers(count, seed=seed), 4 * share
    straight = list(islice(stream.batches(0, size), start + 3))
    for found, expected in zip(whole(stream, start, size, world, 3), straight[start:], strict=True):
        same(found, expected)
    seen = torch.cat([batch["x"] for batch in straight])
    for epoch in seen[: len(seen) // count * count].reshape(-1, count):
        assert sorted(epoch.tolist()) == list(range(count))
    assert all(torch.equal(batch["y"], batch["x"] * 10.0) for batch in straight)


def test_tensors_in_another_order_each_epoch_and_seed():
    (first, second), (other, _) = (
        [batch["x"].tolist() for batch in islice(numbers(50, seed=seed).batches(0, 50), 2)] for seed in (0, 1)
    )
    assert first != second and first != other and first != sorted(first)


def jitter(batch, generator):
    return {**batch, "y": batch["y"] + torch.rand(len(batch["y"]), generator=generator)}


def test_a_transform_gives_the_same_on_any_number_of_processes_and_other_numbers_each_epoch():
    stream = numbers(8, transform=jitter)
    straight = list(islice(stream.batches(0, 4), 6))
    for world in (1, 2, 4):
        for found, expected in zip(whole(stream, 1, 4, world, 5), straight[1:], strict=True):
            same(found, expected)
    added = {(number // 2, int(x)): y for number, b in enumerate(straight) for x, y in zip(*b.values(), strict=True)}
    assert len(added) == 3 * 8 == len({float(y - 10 * x) for (_, x), y in added.items()})


@pytest.mark.parametrize("block", [1, 3])
def test_generated_batches_whatever_world_and_start(block):
    stream = GeneratedStream(lambda generator, n: {"x": torch.rand(n, 2, generator=generator)}, block=block)
    straight = list(islice(stream.batches(0, 12), 6))
    for world in (1, 2, 4):
        for found, expected in zip(whole(stream, 2, 12, world, 4), straight[2:], strict=True):
            same(found, expected)
    assert len({value for batch in straight for value in batch["x"].flatten().tolist()}) == 6 * 12 * 2
    with pytest.raises(ValueError, match=f"a batch over 8 processes in blocks of {block}.* instead of 12"):
        stream.batches(0, 12, 0, 8)


def test_generating_too_few_is_refused():
    with pytest.raises(ValueError, match="make returned 3 samples where 2 were asked for"):
        next(GeneratedStream(lambda generator, n: {"x": torch.zeros(3)}, block=2).batches(0, 4))


@pytest.mark.parametrize("tensors", [{}, {"x": torch.zeros(0)}, {"x": torch.zeros(3), "y": torch.zeros(4)}])
def test_tensors_that_do_not_fit_are_refused(tensors):
    with pytest.raises(ValueError, match="same number of samples"):
        TensorStream(tensors)


def test_a_batch_that_does_not_divide_is_refused_at_once():
    with pytest.raises(
        ValueError, match="a batch over 4 processes can't be shared out evenly: use 8 or 12 instead of 10"
    ):
        numbers(20).batches(0, 10, 0, 4)


# ---------------------------------------------------------------- shards, in this process


@settings(max_examples=15, deadline=None)
@given(
    lanes=st.sampled_from([4, 8]), world=st.sampled_from([1, 2, 4]), per_lane=st.integers(1, 3),
    start=st.integers(0, 20), window=st.integers(1, 4), seed=st.integers(0, 2**40),
)  # fmt: skip
def test_shards_whatever_world_and_start(folder, lanes, world, per_lane, start, window, seed):
    stream = ShardStream(folder, prepare=prepare, lanes=lanes, window=window, seed=seed)
    straight = list(islice(stream.batches(0, lanes * per_lane), start + 3))
    for found, expected in zip(whole(stream, start, lanes * per_lane, world, 3), straight[start:], strict=True):
        same(found, expected)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(1, 10), st.integers(1, 4), st.integers(0, 99))
def test_a_lane_repeats_and_skips_nothing(folder, lanes, window, per_lane, seed):
    stream = ShardStream(folder, prepare=prepare, lanes=lanes, window=window, seed=seed)
    steps = -(-2 * sum(COUNTS) // per_lane)  # every lane is through its second epoch then
    rows = [np.array(batch).reshape(lanes, -1) for batch in keys(islice(stream.batches(0, lanes * per_lane), steps))]
    seen = [np.concatenate([row[lane] for row in rows]).tolist() for lane in range(lanes)]
    for epoch in range(2):
        sizes = [sum(len(p) for e, p in islice(stream.plan(lane), 40) if e == epoch) for lane in range(lanes)]
        whole_epoch = [key for lane, size in enumerate(sizes) for key in seen[lane][:size]]
        assert sorted(whole_epoch) == [f"{number:08d}" for number in range(sum(COUNTS))]
        seen = [keys_of[size:] for keys_of, size in zip(seen, sizes, strict=True)]


def test_resuming_decodes_nothing_that_was_seen(folder, monkeypatch):
    stream, decoded, right = ShardStream(folder, prepare=prepare, lanes=2), [], shards.decode
    straight = keys(islice(stream.batches(0, 6), 9))

    def counting(files, only):
        decoded.append(right(files, only))
        return decoded[-1]

    monkeypatch.setattr(shards, "decode", counting)
    assert keys(islice(stream.batches(4, 6), 5)) == straight[4:]  # 24 samples lie before: in the midst of an epoch
    assert sorted(sample.key for sample in decoded) == sorted(sum(straight[4:], []))


def test_random_numbers_depend_on_seed_epoch_and_sample_alone(folder):
    def drawn(**choice) -> list[dict[str, float]]:
        """For two epochs of one lane's worth of everything: key -> number."""
        stream, found = ShardStream(folder, prepare=prepare, **choice), [{}, {}]
        for lane in range(stream.lanes):
            epochs = [epoch for epoch, places in islice(stream.plan(lane), 30) for _ in places]
            for epoch, (sample, _) in zip(epochs, stream.samples(lane), strict=False):
                if epoch < 2:
                    found[epoch][sample["key"]] = float(sample["random"])
        return found

    first, second = drawn()
    assert [first, second] == drawn(lanes=3, window=1)
    assert len({*first.values(), *second.values()}) == 2 * sum(COUNTS)
    assert set(first.values()).isdisjoint(drawn(seed=1)[0].values())


def test_the_callers_random_numbers_are_left_alone(folder):
    before = torch.get_rng_state()
    next(ShardStream(folder, prepare=prepare).batches(0, 4))
    next(numbers(8, transform=jitter).batches(0, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_another_seed_or_epoch_another_order_and_samples_mixed_over_shards(folder):
    orders = [sum(keys(islice(ShardStream(folder, prepare=prepare, seed=s).batches(0, 35), 2)), []) for s in (0, 1)]
    assert orders[0][:35] != orders[0][35:] and orders[0] != orders[1]
    shard_order = [places[0, 0] for _, places in islice(ShardStream(folder, prepare=prepare, window=1).plan(0), 18)]
    assert sorted(shard_order[:9]) == sorted(shard_order[9:]) == list(range(9)) and shard_order[:9] != shard_order[9:]
    _, places = next(ShardStream(folder, prepare=prepare, window=3).plan(0))
    assert len(set(places[:, 0].tolist())) == 3 and (np.diff(places[:, 0]) != 0).sum() > 2


def test_lanes_take_turns_where_the_shards_do_not_divide(folder):
    stream = ShardStream(folder, prepare=prepare, lanes=2, window=1)
    epochs = [[epoch for epoch, _ in islice(stream.plan(lane), 20)] for lane in (0, 1)]
    assert [[lane.count(epoch) for epoch in range(4)] for lane in epochs] == [[5, 4, 5, 4], [4, 5, 4, 5]]


def test_two_folders_are_one_stream_and_only_what_is_asked_for_is_decoded(folder, tmp_path):
    more = a_folder(tmp_path / "more", (2, 2), first=100)

    def both(sample, generator):
        return {"key": sample.key, "has": str([sample.image is not None, sample.parts is not None])}

    (batch,) = islice(ShardStream(folder, more, prepare=both, only=("parts",)).batches(0, 39), 1)
    assert sorted(batch["key"]) == [f"{n:08d}" for n in [*range(35), 100, 101, 102, 103]]
    assert set(batch["has"]) == {"[False, True]"}


@pytest.mark.parametrize(
    ("settings", "batching", "message"),
    [
        ({"lanes": 10}, (8, 0, 1), r"9 shards \(35 samples\) are too few for 10 lanes.*scenes_per_shard"),
        ({"lanes": 0}, (8, 0, 1), "at least 1"),
        ({"lanes": 6}, (12, 0, 4), "the lanes over 4 processes can't be shared out evenly: use 4 or 8 instead of 6"),
        ({"lanes": 4}, (10, 0, 1), "a batch over 4 lanes can't be shared out evenly: use 8 or 12 instead of 10"),
    ],
)
def test_what_can_not_be_shared_out_is_refused(folder, settings, batching, message):
    batch_size, rank, world = batching
    with pytest.raises(ValueError, match=message):
        ShardStream(folder, prepare=prepare, **settings).batches(0, batch_size, rank, world)


def test_folders_and_fields_that_are_not_there(folder, tmp_path):
    with pytest.raises(ShardError, match="nowhere has no manifest.json.*course data make"):
        ShardStream(tmp_path / "nowhere", prepare=prepare)
    with pytest.raises(ValueError, match="0 shards .* too few"):
        ShardStream(prepare=prepare)
    with pytest.raises(SchemaError, match="'colour'.*not picture fields"):
        ShardStream(folder, prepare=prepare, only=("colour",))
    missing = a_folder(tmp_path / "missing")
    (missing / shards.shard_name(3)).unlink()
    with pytest.raises(ShardError, match="shard-000003.tar is missing"):
        ShardStream(missing, prepare=prepare)
    stream = ShardStream(a_folder(tmp_path / "lost", (2,)), prepare=prepare)
    (tmp_path / "lost" / shards.shard_name(0)).unlink()
    with pytest.raises(ShardError, match="shard-000000.tar cannot be opened.*No such file.*resume"):
        next(stream.batches(0, 2))


def test_samples_of_other_shapes_are_named_with_the_key(folder):
    def uneven(sample, generator):
        return {"key": sample.key, "x": torch.zeros(3 if sample.key.endswith("7") else 2)}

    def odd(sample, generator):
        return {"key": sample.key} | ({"y": torch.zeros(1)} if sample.key.endswith("7") else {})

    message = r"'x' of sample \d{8} in .*shard-\d+\.tar is \([23],\) torch.float32, but of sample .* it is \([23],\)"
    with pytest.raises(ValueError, match=message):
        next(ShardStream(folder, prepare=uneven).batches(0, 35))
    with pytest.raises(ValueError, match=r"has the keys \['key'"):
        next(ShardStream(folder, prepare=odd).batches(0, 35))
    parts = [{"x": torch.zeros(2, size)} for size in (3, 4)]  # of two workers
    with pytest.raises(ValueError, match=r"'x' of sample b is \(4,\) torch.float32, but of sample a it is \(3,\)"):
        join(parts, ["sample a", "sample b"])


@pytest.mark.parametrize("how", ["cut", "flipped", "short"])
def test_a_broken_shard_is_named(tmp_path, how):
    folder = a_folder(tmp_path / "data", (3, 3))
    path = folder / shards.shard_name(1)
    data = bytearray(path.read_bytes())
    if how == "cut":  # after the stream looked at the sizes
        stream = ShardStream(folder, prepare=prepare)
        path.write_bytes(data[:4000])
    elif how == "flipped":
        data[data.index(b"NUMPY") - 60 if b"NUMPY" in data else data.index(b"IDAT") + 9] ^= 255
        path.write_bytes(data)
        stream = ShardStream(folder, prepare=prepare)
    else:
        manifest = shards.read_manifest(folder)
        manifest["shards"][path.name]["samples"] = 4
        shards.write_manifest(folder, manifest)
        stream = ShardStream(folder, prepare=prepare)
    with pytest.raises(ShardError, match="shard-000001.tar is broken.*course data make"):
        list(islice(stream.batches(0, 7 if how == "short" else 6), 1))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 5), st.sampled_from(["float32", "uint8", "int64", ">u2"]), st.lists(st.integers(0, 4), max_size=3)
)
def test_labels_are_read_as_numpy_reads_them(seed, dtype, shape):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.integers(0, 99, shape).astype(dtype) for name in ("K", "0/pose", "1/keypoints/coco17/visible")}
    found = shards._from_npz(shards._npz(arrays))
    with np.load(io.BytesIO(shards._npz(arrays))) as expected:
        assert list(found) == expected.files
        for name, values in found.items():
            assert values.dtype == expected[name].dtype and values.flags.writeable
            np.testing.assert_array_equal(values, expected[name])


# ---------------------------------------------------------------- shards, in worker processes


def workers() -> list[psutil.Process]:
    """The worker processes that live below this one."""
    return workers_of(psutil.Process())


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def gone(processes: list[psutil.Process], seconds: float = 15) -> bool:
    """Whether all have ended in time."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.fixture
def told():
    """A `prepare` as in a notebook: a function in a function, that workers can't import."""

    def prepare(sample, generator):
        facts = {"threads": torch.get_num_threads(), "process": os.getpid()}
        return {"image": torch.from_numpy(sample.image), "key": sample.key, "random": generator.random()} | facts

    return prepare


def test_workers_give_the_same_batches_with_one_thread_each_and_end(folder, told):
    alone, one, two = (ShardStream(folder, prepare=told, lanes=6, workers=n, seed=5) for n in (0, 1, 2))
    ranks = [one.batches(7, 12, 0, 2), two.batches(7, 12, 1, 2)]
    for expected in islice(alone.batches(7, 12), 4):
        found = joined([next(rank) for rank in ranks])
        assert found["threads"].tolist() == [1] * 12
        assert len(set(found["process"].tolist()) - {os.getpid()}) == 3
        for key in ("image", "key", "random"):
            same({key: found[key]}, {key: expected[key]})
    started = workers()
    assert len(started) == 3
    for rank in ranks:
        rank.close()
    assert gone(started, 1) and not workers()


def test_a_broken_shard_in_a_worker_is_named_and_ends_all_workers(tmp_path, told):
    folder = a_folder(tmp_path / "data", (3, 3))
    stream = ShardStream(folder, prepare=told, lanes=2, workers=2)
    path = folder / shards.shard_name(1)
    path.write_bytes(path.read_bytes()[:4000])
    batches = stream.batches(0, 6)
    with pytest.raises(ShardError, match="^[^\n]*shard-000001.tar is broken[^\n]*$"):
        next(batches)
    assert not workers()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_is_told_with_its_shards_and_ends_the_others(folder, told):
    before = signal.getsignal(signal.SIGCHLD)
    batches = ShardStream(folder, prepare=told, lanes=2, workers=2).batches(0, 4)
    killed = int(next(batches)["process"][0])
    started = workers()
    for worker in started:
        worker.send_signal(signal.SIGINT)  # Ctrl-C, where the parent wants to end its step first
        worker.send_signal(signal.SIGTERM)  # and a cluster's way to stop a job
    for _ in range(8):
        next(batches)
    os.kill(killed, signal.SIGKILL)
    time.sleep(0.2)  # nothing is raised here, in the midst of what a caller does
    assert signal.getsignal(signal.SIGCHLD) == before
    with pytest.raises(ShardError, match=r"worker 0 died near batch \d+, reading .*shard-\d+\.tar.*killed.*resume"):
        for _ in range(20):
            next(batches)
    assert gone(started, 1)


INTERRUPTED = """
    import sys
    import torch
    from course_lib.data.streams import ShardStream

    def prepare(sample, generator):
        return {"image": torch.from_numpy(sample.image)}

    if __name__ == "__main__":
        for batch in ShardStream(sys.argv[1], prepare=prepare, lanes=2, workers=2).batches(0, 4):
            print("read", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_ctrl_c_leaves_no_process_behind(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    command = [sys.executable, str(script), str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, start_new_session=True, cwd=paths.ROOT, **pipes)
    assert run.stdout.readline() == "read\n"
    started = workers_of(psutil.Process(run.pid))
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = run.communicate(timeout=30)
    assert len(started) == 2 and gone(started)
    assert "KeyboardInterrupt" in errors and "Process Spawn" not in errors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_are_pinned_where_cuda_is(folder):
    assert next(ShardStream(folder, prepare=prepare).batches(0, 4))["image"].is_pinned()

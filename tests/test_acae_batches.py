"""Chapter 12's batches out of many data sets: even, the same bytes for everybody, and what a bad queue is told."""

import hashlib
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.chapters.acae_training import (
    BATCHES,
    FINE_TUNE_BACKBONE,
    FINE_TUNE_HEAD,
    INITIAL,
    KINDS,
    PEAK,
    QueueStream,
    batch_counts,
    interleave,
    labelled_first,
    learning_rate,
    shares,
    weight_decay,
)
from course_lib.data.streams import TensorStream, WorkerStream
from course_lib.recipe import Optimizer, Recipe
from course_lib.train import fit

SIZES = {"large": 37, "middling": 11, "tiny": 2}
COUNTS = {"large": 5, "middling": 2, "tiny": 1}


def datasets(sizes=SIZES):
    """Examples that know their data set and index: x (N, 2), label (N,)."""
    return {
        name: {"x": torch.arange(size)[:, None] + torch.tensor([0.0, 1000.0 * k]), "label": torch.arange(size)}
        for k, (name, size) in enumerate(sizes.items())
    }


def noisy(one, generator):
    return {**one, "x": one["x"] + torch.rand(1, 2, generator=generator)}


def stream(seed=3, transform=noisy, counts=COUNTS, sizes=SIZES):
    return QueueStream(datasets(sizes), counts, seed, transform)


def read(source, start=0, number=7, batch_size=16, rank=0, world=1):
    return list(islice(source.batches(start, batch_size, rank, world), number))


def bytes_of(batches):
    """A hash of every byte of the batches."""
    sha = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            sha.update(f"{key} {batch[key].dtype} {tuple(batch[key].shape)}".encode() + batch[key].numpy().tobytes())
    return sha.hexdigest()


# ------------------------------------------------------------------------------------------------- Table S1
def test_every_batch_of_table_s1_has_96_and_32_examples():
    two = [row.strip().rsplit(maxsplit=3)[0] for row in KINDS["2D"].split("|")]
    assert two == ["COCO", "MPII", "PoseTrack", "JRDB"]
    for name, sets in (("small", 3), ("medium", 14), ("full", 28)):
        weak = sum(BATCHES[name][one] for one in two)
        assert (sum(BATCHES[name].values()) - weak, weak, len(BATCHES[name])) == (96, 32, sets + 4)
    assert BATCHES["small"] == {"MuCo-3DHP": 32, "Human3.6M": 32, "SURREAL": 32, **dict.fromkeys(two, 8)}
    assert BATCHES["medium"]["RICH"] == 7 and "BEHAVE" not in BATCHES["medium"]
    assert BATCHES["full"]["IKEA ASM"] == 2 and BATCHES["full"]["CMU-Panoptic"] == 7


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=12), st.integers(12, 200), st.sampled_from([0, 0.5, 1]))
def test_counts_sum_to_the_batch_and_leave_nobody_out(sizes, batch, power):
    named = {str(number): size for number, size in enumerate(sizes)}
    counts = batch_counts(named, batch, power)
    assert sum(counts.values()) == batch and min(counts.values()) >= 1 and list(counts) == list(named)
    in_order = [counts[name] for name in sorted(named, key=named.get)]
    if power:
        assert all(b >= a for a, b in zip(in_order, in_order[1:], strict=False) if a > b + 1 or a <= b)
        assert max(in_order) <= in_order[-1] + 1


def test_the_square_root_oversamples_small_sets():
    sizes = {"large": 8100, "small": 100}
    assert batch_counts(sizes, 102, 0.5) == {"large": 91, "small": 11}
    assert batch_counts(sizes, 102, 0) == {"large": 51, "small": 51}
    found = shares({"large": 91, "small": 11}, sizes)
    assert found["small"] == (pytest.approx(11 / 102), pytest.approx(100 / 8200))


@pytest.mark.parametrize("sizes, batch", [({}, 4), ({"a": 3, "b": 0}, 4), ({"a": 3, "b": 3}, 1)])
def test_a_batch_that_cannot_be_shared_by_its_data_sets_is_refused(sizes, batch):
    with pytest.raises(ValueError, match=f"{batch} places can't be shared"):
        batch_counts(sizes, batch)


# ------------------------------------------------------------------------------------------------- interleaving
@given(st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_no_data_set_is_ever_one_example_off(numbers):
    counts = {str(k): number for k, number in enumerate(numbers)}
    order, total = interleave(counts), sum(numbers)
    assert len(order) == total
    taken = np.cumsum([[name == other for other in counts] for name in order], 0)
    due = np.arange(1, total + 1)[:, None] * np.array(numbers) / total
    assert np.abs(taken - due).max() < 1 and (taken[-1] == numbers).all()


def test_the_order_is_the_one_that_is_due_first():
    assert "".join(interleave({"A": 5, "b": 1, "c": 1, "d": 1, "e": 1})) == "AbAcAdAeA"
    assert interleave({"only": 3}) == ["only"] * 3 and interleave({}) == []


# ------------------------------------------------------------------------------------------------- the queues
def test_each_queue_shows_all_of_an_epoch_before_any_of_the_next():
    whole = read(stream(transform=None), number=40, batch_size=8)  # 200 of large, 80 of middling, 40 of tiny
    for number, (name, size) in enumerate(SIZES.items()):
        shown = torch.cat([batch["label"][batch["dataset"] == number] for batch in whole]).numpy()
        assert len(shown) == 40 * COUNTS[name]
        epochs = [shown[at : at + size] for at in range(0, len(shown) - size + 1, size)]
        assert len(epochs) >= 5 and all(sorted(epoch) == list(range(size)) for epoch in epochs), name
        assert len({tuple(epoch) for epoch in epochs}) > 1, f"{name} is not shuffled anew"


def test_every_batch_holds_the_counts_and_says_which_data_set():
    for batch in read(stream(transform=None), batch_size=24):
        assert torch.bincount(batch["dataset"]).tolist() == [3 * number for number in COUNTS.values()]
        assert torch.equal(batch["x"][:, 1], batch["x"][:, 0] + 1000 * batch["dataset"])
        assert torch.equal(batch["x"][:, 0], batch["label"].float())


def test_the_number_of_a_data_set_is_its_place_among_all_and_others_do_not_change_its_order():
    few = QueueStream(datasets(), {"tiny": 1, "large": 3}, 3)
    batch = read(few, batch_size=4)[0]
    assert set(batch["dataset"].tolist()) == {0, 2}
    own = [torch.cat([b["label"][b["dataset"] == 0] for b in read(one, number=9, batch_size=size)])
           for one, size in ((few, 4), (stream(transform=None), 8))]  # fmt: skip
    assert torch.equal(own[0][:27], own[1][:27])


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    assert bytes_of(read(stream())) == bytes_of(read(stream())) != bytes_of(read(stream(seed=4)))
    assert bytes_of(read(stream(transform=None))) != bytes_of(read(stream(seed=4, transform=None)))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_together_have_the_bytes_of_one(world):
    ranks = [read(stream(), rank=rank, world=world) for rank in range(world)]
    joined = [{key: torch.cat([part[key] for part in parts]) for key in parts[0]} for parts in zip(*ranks, strict=True)]
    assert bytes_of(joined) == bytes_of(read(stream()))
    assert all(len(batch["x"]) == 16 // world for rank in ranks for batch in rank)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_give_the_same_bytes(workers):
    """Real DataLoader workers; `noisy` is of a module that they import, `local` of one that they can't."""

    def local(one, generator):
        return noisy(one, generator)

    expected = bytes_of(read(stream(), start=1))
    batches = WorkerStream(stream(transform=local), workers).batches(1, 16)
    assert bytes_of(list(islice(batches, 7))) == expected
    batches.close()


@pytest.mark.parametrize("start", [1, 2, 5])
def test_a_resume_in_mid_epoch_has_the_bytes_of_a_run_that_was_not_stopped(start):
    whole = read(stream(), number=9)
    assert bytes_of(read(stream(), number=start) + read(stream(), start, 9 - start)) == bytes_of(whole)


def test_a_run_that_was_stopped_in_mid_epoch_ends_with_the_same_weights(tmp_path):
    recipe = Recipe("queues", lambda: torch.nn.Linear(2, 1), squared, stream(), 6, 16, Optimizer(lr=1e-3))
    fit(recipe, folder=tmp_path, steps=2, save_every=1, progress=False)
    resumed, whole = fit(recipe, folder=tmp_path, progress=False), fit(recipe, progress=False)
    assert torch.equal(resumed.model.weight, whole.model.weight) and len(whole.losses) == 6


def squared(model, batch):
    return model(batch["x"] / 1000).square().mean()


def test_augmentation_depends_on_the_epoch():
    batches = read(stream(sizes={"large": 5, "middling": 11, "tiny": 2}), number=2, batch_size=8)
    first, second = (batch["x"][batch["dataset"] == 0] for batch in batches)
    assert torch.equal(first[:, 0].floor().sort().values, second[:, 0].floor().sort().values)
    assert not torch.equal((first[:, 0] % 1).sort().values, (second[:, 0] % 1).sort().values)


def test_weak_examples_go_last_and_keep_their_order():
    batch = read(stream(transform=None))[0]
    weak = torch.tensor([False, True, False])
    sorted_batch = labelled_first(batch, weak)
    assert (sorted_batch["dataset"] == 1).tolist() == [False] * 12 + [True] * 4
    for number in range(3):
        before, after = (b["label"][b["dataset"] == number] for b in (batch, sorted_batch))
        assert torch.equal(before, after)
    nobody = labelled_first(batch, torch.zeros(3, dtype=torch.bool))  # a batch without 2D labels
    assert bytes_of([nobody]) == bytes_of([batch])


# ------------------------------------------------------------------------------------------------- bad queues
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"counts": {"large": 2, "unknown": 1}}, "counts names 'unknown', but the data sets are large, middling, tiny"),
        ({"counts": {}}, "give whole numbers from 1 on"),
        ({"counts": {"large": 0}}, "give whole numbers from 1 on"),
        ({"counts": {"large": 1.5}}, "give whole numbers from 1 on"),
        ({"sizes": {**SIZES, "tiny": 0}}, "the data set 'tiny' is empty: leave it out"),
    ],
)
def test_queues_that_cannot_make_a_batch_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        stream(**changes)


def test_data_sets_that_are_unlike_are_refused():
    data = datasets()
    data["tiny"]["x"] = data["tiny"]["x"].double()
    with pytest.raises(ValueError, match="'tiny' has .*float64.*, but 'large' has .*float32.*: make them alike"):
        QueueStream(data, COUNTS)
    data["tiny"] = {"x": torch.zeros(2, 2), "label": torch.zeros(3)}
    with pytest.raises(ValueError, match="the tensors of 'tiny' must be some, and have the same number"):
        QueueStream(data, COUNTS)
    data["tiny"] = {}
    with pytest.raises(ValueError, match="the tensors of 'tiny' must be some"):
        QueueStream(data, COUNTS)


def test_batches_that_are_not_whole_rounds_or_cannot_be_shared_are_refused():
    for size in (12, 4, 0):
        with pytest.raises(
            ValueError, match=f"a batch of {size} is not made of whole rounds of 8: use a multiple of 8"
        ):
            stream().batches(0, size)
    with pytest.raises(ValueError, match="a batch of 16 can't be shared out evenly to 3 processes"):
        stream().batches(0, 16, 0, 3)
    with pytest.raises(ValueError, match="whole rounds of 8"):
        WorkerStream(stream(), 2).batches(0, 12)
    with pytest.raises(ValueError, match="workers is 0"):
        WorkerStream(stream(), 0)


def test_workers_serve_other_streams_and_hand_on_their_errors():
    plain = TensorStream(datasets()["large"], seed=1)
    batches = WorkerStream(plain, 2).batches(3, 4)
    assert bytes_of(list(islice(batches, 3))) == bytes_of(read(plain, 3, 3, 4))
    batches.close()

    def broken(one, generator):
        raise RuntimeError("no such picture")

    with pytest.raises(RuntimeError, match="no such picture"):
        next(WorkerStream(stream(transform=broken), 1).batches(0, 8))


# ------------------------------------------------------------------------------------------------- Fig. S1
def test_the_initial_rate_has_the_papers_corners():
    steps = 400_000
    corners = {0: 1, 367_999: 1 / 3, 368_000: 1 / 30, steps: 1 / 90}
    for step, factor in corners.items():
        assert learning_rate(step, steps) == pytest.approx(2.12e-4 * factor, rel=1e-4)
    assert learning_rate(184_000, steps, peak=1.0) == pytest.approx(3**-0.5)


def test_fine_tuning_restarts_the_head_and_not_the_backbone():
    assert [FINE_TUNE_HEAD(step, 100) for step in (0, 49, 50, 100)] == pytest.approx([1, 3**-0.98, 1 / 30, 1 / 90])
    assert [FINE_TUNE_BACKBONE(step, 100) for step in (0, 50, 100)] == pytest.approx([1 / 30, 3**-0.5 / 30, 1 / 90])
    late = [learning_rate(368_000 + 320 * step, 400_000) for step in range(100)]
    assert [PEAK * FINE_TUNE_BACKBONE(step, 100) for step in range(100)] == pytest.approx(late)
    with pytest.raises(ValueError, match="'neck' is unknown: use initial, head, backbone"):
        learning_rate(0, 10, "neck")


def test_head_and_backbone_train_at_their_own_rates():
    def model():
        return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))

    adam = Optimizer("sgd", lr=1e-3, momentum=0.0, schedules=(("0.", FINE_TUNE_BACKBONE),))
    recipe = Recipe("two rates", model, squared, stream(), 4, 16, adam, FINE_TUNE_HEAD)
    built = recipe.optimizer.build(model())
    rates = {group["names"][0][0]: recipe.lr(1, group) for group in built.param_groups}
    assert rates == pytest.approx({"0": 1e-3 * FINE_TUNE_BACKBONE(1, 4), "1": 1e-3 * FINE_TUNE_HEAD(1, 4)})
    run = fit(recipe, progress=False)
    assert [row["lr"] for row in run.history] == pytest.approx([1e-3 * FINE_TUNE_HEAD(step, 4) for step in range(4)])


def test_the_loop_gives_each_part_its_rate():
    """One step of gradient descent, by hand."""
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))

    def model():
        copy = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        copy.load_state_dict(start.state_dict())
        return copy

    plain = Optimizer("sgd", lr=0.1, momentum=0.0, weight_decay=0.0, schedules=(("0.", FINE_TUNE_BACKBONE),))
    recipe = Recipe("two rates", model, squared, stream(), 4, 16, plain, FINE_TUNE_HEAD)
    after = fit(recipe, steps=1, progress=False).model
    squared(start, read(stream(), number=1)[0]).backward()
    for number, factor in (("0", 1 / 30), ("1", 1.0)):
        before, now = start[int(number)].weight, after[int(number)].weight
        assert torch.allclose(now, before - 0.1 * factor * before.grad, atol=1e-7)
        assert before.grad.abs().max() > 1e-4


def test_weight_decay_takes_the_same_share_at_any_rate():
    assert weight_decay() * PEAK == pytest.approx(weight_decay(peak=1.0)) == pytest.approx(3e-3 / 400_000**0.5)
    assert INITIAL(0, 10) == 1 and repr(INITIAL) == "PartSchedule(part='initial')"

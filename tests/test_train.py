"""The loop in one process: what it computes, what it logs, how it is stopped. Beside it stands a loop by hand."""

import copy
import csv
import io
import math
import random
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn
from toy_run import Toy, data, recipe, spoilt, squared_error

from course_lib.data.streams import TensorStream
from course_lib.recipe import Constant, Cosine, Linear, Optimizer
from course_lib.train import Run, TrainingError, fit, parallel
from course_lib.train.control import seed_everything
from course_lib.train.log import bar, read_rows


def state(run: Run) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def distance(first: dict, second: dict) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


def loop_by_hand(toy, steps: int) -> tuple[nn.Module, list[float], list[float]]:
    """What `fit` has to do, without it: model, losses and gradient norms before clipping."""
    seed_everything(toy.seed)
    model = toy.model()
    optimizer = torch.optim.AdamW(
        toy.optimizer.build(model).param_groups, lr=toy.optimizer.lr, betas=toy.optimizer.betas, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: toy.schedule(step, toy.steps))
    losses, norms = [], []
    for _, batch in zip(range(steps), toy.stream.batches(0, toy.batch_size), strict=False):
        optimizer.zero_grad()
        loss = squared_error(model, batch)["loss"]
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), toy.clip or math.inf).item())
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return model, losses, norms


# ------------------------------------------------------------------------------------------------- what it computes
@pytest.mark.parametrize("clip", [None, 0.5])
def test_it_is_the_loop_that_one_would_write_by_hand(clip):
    toy = recipe(clip=clip)
    run = fit(toy)
    model, losses, norms = loop_by_hand(toy, toy.steps)
    assert run.losses == losses and distance(state(run), model.state_dict()) < 1e-6
    assert [row["grad_norm"] for row in run.history] == pytest.approx(norms, rel=1e-6)
    assert clip is None or max(norms) > 2 * clip  # so that the clipping was needed
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


def test_it_returns_what_was_asked_for():
    run = fit(recipe(), steps=7)
    assert (run.step, run.stopped, run.exit_code, len(run.losses)) == (7, "finished", 0, 7)
    assert not run.model.training and all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    assert list(run.history[0]) == ["step", "loss", "absolute", "grad_norm", "lr", "seconds"]
    assert [row["lr"] for row in run.history] == [recipe().lr(step) for step in range(7)]
    assert fit(recipe(), steps=7).losses == run.losses
    assert fit(recipe(seed=1), steps=7).losses != run.losses


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
    whole, split = fit(recipe(), steps=20), fit(recipe(accumulate=parts), steps=20)
    assert split.losses == pytest.approx(whole.losses, rel=1e-4)
    assert distance(state(whole), state(split)) < 1e-4


class Sum(nn.Module):
    """Its gradient is 1 everywhere, so that SGD moves each weight by exactly its learning rates."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.head = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.blocks = nn.ModuleList([nn.Linear(2, 2, bias=False)])

    def forward(self, x):
        return sum(parameter.sum() for parameter in self.parameters() if parameter.requires_grad) + 0 * x.sum()


def moved(optimizer: Optimizer) -> dict[str, float]:
    """How far each weight of `Sum` is moved by 10 steps of SGD on a line from 1 to 0."""
    changes = {"steps": 10, "optimizer": optimizer, "schedule": Linear(), "clip": None}
    toy = recipe(Sum, loss=lambda model, batch: model(batch["x"]), **changes)
    seed_everything(0)
    before, after = Sum().state_dict(), state(fit(toy))
    return {name.removesuffix(".weight"): (before[name] - after[name]).mean().item() for name in before}


def test_every_step_applies_schedule_and_scale_of_each_group():
    sgd = Optimizer("sgd", lr=0.1, momentum=0, weight_decay=0, layer_decay=0.5, scales=(("head", 3.0),))
    total = sum(0.1 * (1 - step / 10) for step in range(10))
    assert moved(sgd) == pytest.approx({"patch_embed": total / 4, "blocks.0": total / 2, "head": 3 * total}, rel=1e-4)


def test_what_is_frozen_gets_no_update_and_no_gradient():
    toy = recipe(optimizer=Optimizer(lr=0.1, scales=(("patch_embed", 0.0), ("blocks.0.", 0.0))))
    seed_everything(0)
    before, run = Toy().state_dict(), fit(toy, steps=3)
    fixed = [name for name in before if torch.equal(before[name], state(run)[name])]
    assert fixed == [name for name in before if name.startswith(("patch_embed", "blocks.0."))]
    assert all(parameter.requires_grad == (name not in fixed) for name, parameter in run.model.named_parameters())
    assert run.model.patch_embed.weight.grad is None


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_keeps_weights_and_loss_in_fp32(monkeypatch, fast):
    monkeypatch.setattr(parallel, "fast_bf16", lambda device: fast)
    seen = {}

    def loss(model, batch):
        output = model(batch["x"])
        seen.update(output=output.dtype, inside=model.seen, product=(batch["x"].T @ output).dtype)
        return (output - batch["y"]).square().mean()

    class Looking(Toy):
        def forward(self, x):
            self.seen = self.patch_embed(x).dtype
            return super().forward(x)

    half = fit(recipe(Looking, loss=loss, precision="bf16"))
    inside = torch.bfloat16 if fast else torch.float32  # where bf16 is slow, fp32 takes its place
    assert seen == {"output": torch.float32, "inside": inside, "product": torch.float32}
    assert {value.dtype for value in state(half).values()} == {torch.float32}
    full = fit(recipe())
    assert (half.losses != full.losses) == fast and half.losses == pytest.approx(full.losses, rel=0.05, abs=0.01)
    assert half.model(data()["x"]).dtype == torch.float32 and half.model.seen == torch.float32  # as it was before


def test_recomputing_blocks_changes_memory_only():
    calls = []

    class Counting(Toy):
        def __init__(self):
            super().__init__(dropout=0.3)
            self.blocks[0].fc.register_forward_hook(lambda *_: calls.append(1))

    plain, once = fit(recipe(Counting), steps=10), len(calls)
    again = fit(recipe(Counting, checkpoint_blocks=True), steps=10)
    assert once == 10 and len(calls) == 3 * 10  # forward, and once more backward
    assert again.losses == plain.losses and equal(state(plain), state(again))
    copy.deepcopy(again.model)(data()["x"])
    assert len(calls) == 3 * 10 + 1 and "forward" not in vars(again.model.blocks[0])


def test_channels_last_reaches_weights_and_pictures():
    seen = []

    def loss(model, batch):
        seen.append(batch["image"].is_contiguous(memory_format=torch.channels_last))
        return model(batch["image"]).square().mean()

    stream = TensorStream({"image": torch.randn(32, 3, 8, 8), "label": torch.zeros(32, 8, 8)})
    run = fit(recipe(lambda: nn.Conv2d(3, 4, 3), loss=loss, stream=stream, channels_last=True), steps=2)
    assert seen == [True, True] and run.model.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_callers_random_numbers_are_left_alone():
    def draws():
        return torch.rand(1).item(), np.random.rand(), random.random()

    seed_everything(3)
    expected = draws()
    seed_everything(3)
    fit(recipe(lambda: Toy(dropout=0.5)), steps=2)
    assert draws() == expected


# ------------------------------------------------------------------------------------------------- evaluation
def test_metrics_are_logged_and_evaluation_changes_nothing(tmp_path):
    seen = []

    def evaluate(model):
        seen.append((model.training, torch.is_grad_enabled()))
        return {"error": (model(data()["x"]) - data()["y"]).abs().mean(), "draw": random.random() + torch.rand(1)[0]}

    toy = recipe(lambda: Toy(dropout=0.3))
    bare = fit(toy)
    run = fit(toy, folder=tmp_path, evaluate=evaluate, evaluate_every=15)
    assert run.losses == bare.losses and equal(state(run), state(bare))
    assert seen == [(False, False)] * 3
    assert [row["step"] for row in run.history if "error" in row] == [15, 30, 40]
    assert run.history[39]["error"] < run.history[14]["error"]
    assert len({row["draw"] for row in run.history if "draw" in row}) == 1
    assert read_rows(tmp_path / "log.csv", 40) == run.history


def test_a_metric_may_not_be_called_as_a_number_of_the_training():
    with pytest.raises(ValueError, match="evaluate returned loss, a name that training has"):
        fit(recipe(), evaluate=lambda model: {"loss": 1.0}, evaluate_every=1)


# ------------------------------------------------------------------------------------------------- not finite
@pytest.mark.parametrize("value, word", [(math.nan, "nan"), (math.inf, "nan"), (1e30, "inf")])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_harms(tmp_path, value, word):
    good = fit(recipe(accumulate=2), steps=5)
    seen = []
    toy = recipe(accumulate=2, stream=spoilt(11, value), loss=lambda m, b: (m.head(b["x"].repeat(1, 2)) ** 2).mean())
    with pytest.raises(TrainingError) as error:
        fit(toy, folder=tmp_path, save_every=2, on_step=lambda run: seen.append(run))
    text = str(error.value)
    assert "step 6" in text and word in text and "batch 11" in text and "batch 10" not in text
    assert "person-11-0" in text and "person-10" not in text
    assert seen[-1].step == 5 and all(value.isfinite().all() for value in seen[-1].model.state_dict().values())
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000002", "step-00000004"]
    assert good.step == 5


def test_a_gradient_that_is_not_finite_stops_the_run_too():
    def loss(model, batch):
        return (model(batch["x"]) * 0).abs().sum().sqrt()  # 0, with the slope inf

    with pytest.raises(TrainingError, match="step 1: the loss is 0.0 and the gradient norm (nan|inf), batch 0, 1"):
        fit(recipe(loss=loss, accumulate=2))


# ------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"stream": None}, "'toy' has no stream"),
        ({"accumulate": 3}, "batch of 16 can't be shared by 1 processes x 3 parts"),
        ({"loss": lambda model, batch: model(batch["x"])}, r"scalars by name.*\(16, 1\)"),
        ({"loss": lambda model, batch: {"error": model(batch["x"]).mean()}}, 'one of them called "loss".*error'),
        ({"blocks": ("Layer",), "checkpoint_blocks": True}, "no module of class Layer: name in Recipe.blocks"),
    ],
)
def test_a_recipe_that_can_not_run_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        fit(recipe(**changes))


def test_a_stream_that_ends_and_a_missing_launch_are_named():
    class Short(TensorStream):
        def batches(self, *arguments):
            yield next(super().batches(*arguments))

    with pytest.raises(TrainingError, match="the stream of 'toy' ended"):
        fit(recipe(stream=Short(data())))
    with pytest.raises(ValueError, match="'fsdp' needs processes: start the script with torchrun"):
        fit(recipe(), parallel="fsdp")
    with pytest.raises(ValueError, match="parallel='deepspeed' is unknown: use auto, none, ddp"):
        fit(recipe(), parallel="deepspeed")


# ------------------------------------------------------------------------------------------------- stopping
def raising(at: int, *numbers: int):
    def on_step(run):
        for number in numbers if run.step == at else ():
            signal.raise_signal(number)

    return on_step


@pytest.mark.parametrize("number, word, code", [("SIGTERM", "sigterm", 143), ("SIGINT", "interrupted", 130)])
def test_a_signal_finishes_the_step_saves_and_leaves(tmp_path, number, word, code):
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    run = fit(recipe(), folder=tmp_path, on_step=raising(7, getattr(signal, number)))
    assert (run.stopped, run.exit_code, run.step, len(run.history)) == (word, code, 7, 7)
    assert run.model(data()["x"]).isfinite().all() and not run.model.training
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert (tmp_path / "step-00000007").is_dir()
    resumed = fit(recipe(), folder=tmp_path)
    assert resumed.stopped == "finished" and equal(state(resumed), state(fit(recipe())))


def test_an_interrupt_without_a_folder_leaves_a_model_that_works():
    run = fit(recipe(), on_step=raising(3, signal.SIGINT))
    assert (run.stopped, run.step) == ("interrupted", 3) and run.model(data()["x"]).isfinite().all()


def test_a_second_interrupt_leaves_at_once():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        fit(recipe(), on_step=lambda run: (steps.append(run.step), raising(2, signal.SIGINT, signal.SIGINT)(run)))
    assert steps == [1, 2] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_the_last_step_does_not_unfinish_it():
    assert fit(recipe(), steps=4, on_step=raising(4, signal.SIGTERM)).stopped == "finished"


def test_it_runs_outside_the_main_thread():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fit(recipe(), steps=2)))
    thread.start()
    thread.join()
    assert runs[0].losses == fit(recipe(), steps=2).losses


# ------------------------------------------------------------------------------------------------- the log
def test_a_resumed_log_has_each_step_once(tmp_path):
    whole = fit(recipe(), folder=tmp_path / "whole")

    def killed(run):  # 13 rows are written, step 8 is the last that was saved
        if run.step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recipe(), folder=tmp_path / "cut", on_step=killed)
    path = tmp_path / "cut/log.csv"
    assert len(path.read_text().splitlines()) == 1 + 13
    path.write_text(path.read_text() + "14,0.2")  # and half a row
    run = fit(recipe(), folder=tmp_path / "cut")
    rows = list(csv.DictReader(path.open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    assert [float(row["loss"]) for row in rows] == run.losses == whole.losses


def test_a_log_that_was_spoilt_or_taken_away_stops_nothing(tmp_path):
    fit(recipe(), folder=tmp_path, steps=8)
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n2,what\n3,0.4\n")
    assert [row["step"] for row in fit(recipe(), folder=tmp_path, steps=12).history] == [1, 9, 10, 11, 12]
    (tmp_path / "log.csv").unlink()
    assert [row["step"] for row in fit(recipe(), folder=tmp_path, steps=14).history] == [13, 14]


def test_a_full_disk_loses_no_row(tmp_path, monkeypatch):
    from torch.utils.tensorboard import FileWriter

    full = OSError(28, "No space left on device")

    def write(*arguments, **named):
        raise full

    def on_step(run):
        if run.step == 3:
            monkeypatch.setattr("course_lib.train.log.as_csv", write)
            monkeypatch.setattr(FileWriter, "add_summary", write)
        if run.step == 6:
            monkeypatch.undo()

    with pytest.warns(UserWarning, match="No space left on device") as said:
        run = fit(recipe(), folder=tmp_path, on_step=on_step, steps=10)
    assert sum("log.csv could not be written" in str(one.message) for one in said) == 3
    assert sum("TensorBoard's file could not" in str(one.message) for one in said) == 1
    assert read_rows(tmp_path / "log.csv", 10) == run.history and len(run.history) == 10


def test_tensorboard_shows_the_curves_of_a_resumed_run_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(recipe(), folder=tmp_path, steps=8)
    run = fit(recipe(), folder=tmp_path, steps=12, evaluate=lambda model: {"error": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "absolute", "grad_norm", "lr", "seconds", "error"}
    assert [point.step for point in events.Scalars("loss")] == list(range(1, 13))
    assert [point.value for point in events.Scalars("loss")] == pytest.approx(run.losses)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_quiet_in_a_file_and_shown_in_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert bar(0, 5, True).disable and bar(0, 5, False).disable
    monkeypatch.setattr("sys.stderr", Terminal())
    assert not bar(0, 5, True).disable and bar(0, 5, False).disable


def test_a_schedule_may_be_any_function():
    flat = fit(recipe(schedule=lambda step, steps: 1.0), steps=5)
    assert flat.losses == fit(recipe(schedule=Constant()), steps=5).losses != fit(recipe(schedule=Cosine()), steps=5)

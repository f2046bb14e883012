"""Launches: plans against independent counts, scripts against bash, and every wrong name or missing thing named."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import toy_chapter
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from course_lib import cli, launch
from course_lib.chapter_source import chapters
from course_lib.launch import jobs, prove, script, worker
from course_lib.launch.plan import byte_count, counted, short
from course_lib.launch.trace import trace
from course_lib.recipe import Optimizer, PaperRun, Recipe
from course_lib.train.checkpoint import CheckpointError
from course_lib.train.weights import save_weights

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


def toy(config="large", nodes=1, gpus_per_node=8, **options):
    return launch.job("toy_chapter", config, nodes, gpus_per_node, **options)


def toy_recipe(**changes) -> Recipe:
    """The toy's recipe with other numbers in its configuration."""
    return toy_chapter.recipe(dataclasses.replace(toy_chapter.CONFIGS["bf16"], **changes), None)


# ------------------------------------------------------------------------------------------------- naming a job
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"chapter": "nonsense"}, "'nonsense' has no run to launch: use one of"),
        ({"chapter": "03"}, "'03' has no run to launch"),
        ({"config": "huge"}, "no configuration is called 'huge': use one of smoke, bf16, large"),
        ({"gpu": "Abacus"}, "no GPU is called 'Abacus': use gpu= one of A100-80GB"),
        ({"parallel": "magic"}, "parallel='magic' is unknown: use fsdp, hsdp, ddp"),
        ({"nodes": 0}, "0 nodes of 8 GPUs are no cluster"),
        ({"nodes": 3}, "a batch of 256 can't be shared by 24 processes"),
        ({"stops": 5}, "the configuration has no stops: it has width, depth"),
        ({"steps": "many"}, "steps is of type int, such as 1000: 'many' is not"),
        ({"steps": 2.5}, "steps is of type int"),
        ({"recompute": 1}, "recompute is of type bool"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(arguments, words):
    arguments = {"chapter": "toy_chapter", "config": "large", **arguments}
    with pytest.raises(ValueError, match=re.escape(words)):
        launch.job(**arguments)


def test_every_chapter_without_a_run_is_refused_by_number_and_name():
    for chapter in chapters():
        for name in (chapter.number, chapter.slug, chapter.name):
            try:
                assert hasattr(jobs.chapter_module(name), "CONFIGS")
            except ValueError as error:
                assert f"'{name}' has no run to launch" in str(error)


def test_a_chapter_that_lacks_a_module_says_which(tmp_path, monkeypatch):
    (tmp_path / "needy_chapter.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        jobs.chapter_module("needy_chapter")


def test_overrides_replace_fields_and_travel_on_the_command_line():
    job = toy(steps=7, rate=1, betas=[0.5, 0.6])
    assert (job.config.steps, job.config.rate, job.config.betas) == (7, 1.0, (0.5, 0.6))
    assert job.recipe().steps == 7 and job.recipe().optimizer.betas == (0.5, 0.6)
    options = worker.parsed([*job.arguments(), "--out", "x"])
    assert jobs.overridden(toy_chapter.CONFIGS["large"], jobs.parse_settings(options.set)) == job.config
    assert job.at("smoke").config == toy_chapter.CONFIGS["smoke"] and job.at("smoke").overrides == {}
    with pytest.raises(ValueError, match="'steps' sets nothing: write name=value"):
        jobs.parse_settings(["steps"])


def test_a_module_is_a_chapter_too():
    assert launch.job(toy_chapter, "smoke", gpus_per_node=2) == toy("smoke", gpus_per_node=2)


# ------------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize("recompute", [False, True])
def test_flops_are_those_of_pytorchs_own_counter(recompute):
    recipe = toy_recipe(recompute=recompute)
    found = trace(recipe, 3, keep_gradients=True)
    with torch.device("meta"):
        model, batch = recipe.model(), recipe.example(3)
    with FlopCounterMode(display=False) as forward:
        loss = recipe.loss(model, batch)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert found.forward * 3 == forward.get_total_flops()
    assert found.training * 3 == forward.get_total_flops() + backward.get_total_flops()  # nothing twice
    linear, attention = 24 * 64 * 64**2 * 4, 4 * 64**2 * 64 * 4  # 24 N D^2 L and 4 N^2 D L
    assert found.forward == linear + attention + 2 * 64 * 64 * (8 + 1)
    assert found.parameters == sum(p.numel() for p in model.parameters()) and found.tokens == 64


def test_activations_hold_what_autograd_saves():
    recipe = toy_recipe(precision="fp32", recompute=False)
    model, saved = recipe.model(), {}
    own = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    batch = recipe.example(8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        recipe.loss(model, batch)
    kept = sum(s.nbytes() for s in saved.values()) - batch["x"].nbytes
    found = trace(recipe, 8, keep_gradients=True)
    assert kept <= found.activations <= 1.15 * kept


def test_memory_follows_batch_recomputation_precision_and_shards():
    def activations(samples=8, shards=1, **changes):
        return trace(toy_recipe(tokens=256, **changes), samples, keep_gradients=True, shards=shards).activations

    plain = activations(precision="fp32", recompute=False)
    assert activations(16, precision="fp32", recompute=False) == pytest.approx(2 * plain, rel=0.02)
    assert activations(precision="bf16", recompute=False) < 0.8 * plain
    assert activations(precision="fp32", recompute=True) < 0.6 * plain
    assert activations(shards=2) < activations()  # autocast keeps no copy of weights that arrive as bf16


def test_weights_gradients_and_optimiser_are_shared_out():
    parameters = toy().plan().trace.parameters
    for parallel, shards in (("ddp", 1), ("hsdp", 8), ("fsdp", 32)):
        memory = toy(nodes=4, parallel=parallel).plan().memory
        assert memory["weights"] == memory["gradients"] == 4 * parameters // shards
        assert memory["optimiser"] == 8 * parameters // shards
        assert (memory["gathered"] > 0) == (shards > 1)


def test_frozen_parameters_have_no_gradients_and_no_state():
    recipe = dataclasses.replace(toy_recipe(), optimizer=Optimizer(scales=(("blocks.", 0.0),)))
    found = trace(recipe, 2, keep_gradients=True)
    assert found.trainable == 8 * 64 + 64 + 64 + 1 and found.parameters > 100 * found.trainable


def test_days_hours_and_energy_by_hand():
    plan = toy(nodes=2).plan(utilisation=0.5)
    seconds = 1000 * 256 * plan.trace.training / (16 * 312e12 * 0.5)
    assert plan.samples == 256_000 and plan.micro_batch == 16
    assert plan.days == pytest.approx(seconds / 86400) and plan.gpu_hours == pytest.approx(16 * seconds / 3600)
    assert plan.kilowatt_hours == pytest.approx(plan.gpu_hours * 0.4)
    assert toy(nodes=2, gpu="H100-80GB").plan(0.5).days == pytest.approx(plan.days * 312 / 989)
    assert toy(nodes=2, precision="fp32").plan(0.5).days == pytest.approx(plan.days * 312 / 19.5)


def test_the_papers_utilisation_is_shown_beside_and_changes_nothing():
    low, high = toy().plan(0.2), toy().plan(0.8)
    by_hand = 64 * 500 * low.trace.training / (4 * 2 * 86400 * 312e12)
    assert low.paper_utilisation == high.paper_utilisation == pytest.approx(by_hand)
    assert low.days == pytest.approx(4 * high.days)
    rows = {name: (ours, paper) for name, ours, paper in low.rows()}
    assert rows["utilisation"] == ("20% assumed", f"{by_hand:.1%} implied by its days")
    assert rows["parameters"] == ("25.22 M", "1 M") and rows["days"][1] == "2" and rows["GPU hours"][1] == "192"


@pytest.mark.parametrize("paper", [None, PaperRun("silent"), PaperRun("odd", gpus=4, days=2, samples=9, gpu="Abacus")])
def test_a_silent_paper_leaves_its_column_empty(paper):
    job = toy()
    plan = dataclasses.replace(job.plan(), recipe=dataclasses.replace(job.recipe(), paper=paper))
    assert plan.paper_utilisation is None and "implied" not in str(plan)


def test_what_stops_fitting_first():
    plan = toy(parallel="ddp", gpu="A100-40GB").plan()
    most = plan.largest_micro_batch
    assert plan.fits and f"activations: {most} samples fit" in plan.stops_first
    assert toy(parallel="ddp", gpu="A100-40GB", batch_size=8 * most).plan().fits
    over = toy(parallel="ddp", gpu="A100-40GB", batch_size=int(8.8 * most) // 8 * 8).plan()
    assert not over.fits and "does NOT fit" in str(over)
    huge = toy(parallel="ddp", gpu="RTX4090-24GB", width=8192, depth=12).plan()
    assert huge.largest_micro_batch == 0 and "no sample fits: the most goes to optimiser" in huge.stops_first


def test_plans_print_as_a_table_always_the_same():
    first, second = toy().plan(), toy().plan()
    assert str(first) == str(second) == repr(first)
    assert "toy_chapter: large" in str(first) and "A paper, Table 1" in str(first) and "* a note" in str(first)
    page = first._repr_html_()
    assert page.count("<tr>") == len(first.rows()) + 1 and "40% assumed" in page
    assert (short(2162608768), counted(2162608768), short(None), short(0.5)) == ("2.163 G", "2.163 B", "", "0.5")
    assert [byte_count(n) for n in (0, 1023, 2048, 3 * 2**30, 5000 * 2**30)] == [
        "0 B",
        "1023 B",
        "2 KiB",
        "3 GiB",
        "5000 GiB",
    ]


@pytest.mark.parametrize("utilisation", [0, -1, 1.1])
def test_a_utilisation_is_a_share(utilisation):
    with pytest.raises(ValueError, match="is no share"):
        toy().plan(utilisation)


def test_recipes_that_need_data_are_told_what_to_do(monkeypatch):
    picky = dataclasses.replace(
        toy_recipe(), loss=lambda model, batch: model(batch["x"])[batch["x"][:, 0, 0] > 0].mean()
    )
    asking = dataclasses.replace(
        toy_recipe(), loss=lambda model, batch: model(batch["x"]).mean() * batch["x"][0].sum().item()
    )
    for recipe in (picky, asking):
        with pytest.raises(ValueError, match="can't run without data.*Use masks as factors"):
            trace(recipe, 2, keep_gradients=True)
    with pytest.raises(ValueError, match="has no example: give it example"):
        trace(dataclasses.replace(toy_recipe(), example=None), 2, keep_gradients=True)


def test_a_simulated_gpu_never_writes_attention_out():
    transformers = pytest.importorskip("course_lib.chapters.transformers")

    def attended(model, batch):
        x = batch["x"][:, None].bfloat16().requires_grad_()
        return transformers.attend(x, x, x).float().mean()

    recipe = dataclasses.replace(toy_recipe(), loss=attended, model=nn.Identity, blocks=(), checkpoint_blocks=False)
    recipe = dataclasses.replace(recipe, example=lambda n: {"x": torch.zeros(n, 4096, 32)}, precision="fp32")
    assert trace(recipe, 1, keep_gradients=True).activations < 4096 * 4096


# ------------------------------------------------------------------------------------------------- memory of a GPU
def test_memory_is_measured_on_a_gpu_only(tmp_path):
    recipe = dataclasses.replace(toy_recipe(width=512, tokens=256, batch_size=32))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no CUDA device here"):
            launch.measure_memory(recipe, folder=tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    record = json.loads(launch.measure_memory(recipe, folder=tmp_path).read_text())
    assert record["predicted_over_measured"] == pytest.approx(1, abs=0.15)


# ------------------------------------------------------------------------------------------------- scripts
@posix
@pytest.mark.parametrize(
    "options",
    [{}, {"data": "a b/c'd", "out": "o ut"}, {"container": "x.sqsh", "account": "me", "setup": ["module load x"]}],
)
def test_scripts_are_valid_bash(options, tmp_path):
    text = toy(nodes=4, rate=0.5).script(**options)
    (tmp_path / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(tmp_path / "job.sh")], check=True)


def test_scripts_hold_what_the_job_needs():
    text = toy(nodes=4, parallel="hsdp", rate=0.5).script(data=["a", "b"], partition="gpu", time="1:00:00")
    for words in (
        "#SBATCH --nodes=4",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=1:00:00",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@600",
        "--nnodes=4 --nproc-per-node=8 --max-restarts=3",
        '--rdzv-backend=c10d --rdzv-endpoint="$head:$port"',
        "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        "--chapter toy_chapter --config large --parallel hsdp --set rate=0.5 --out runs/large --data a b --workers 6",
    ):
        assert words in text, words
    assert "--account" not in text and "--container-image" not in text and "--data" not in toy().script()
    with pytest.raises(ValueError, match="partition must be one line"):
        toy().script(partition="gpu\nrm -rf x")


def test_submit_prints_first_and_does_nothing_without_sbatch(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    started = []
    monkeypatch.setattr(script.subprocess, "run", lambda *a, **k: started.append(a))
    with pytest.raises(FileNotFoundError, match="no sbatch: nothing was submitted"):
        toy().submit()
    assert capsys.readouterr().out.startswith("sbatch <<'END'\n#!/bin/bash") and started == []


@posix
def test_submit_hands_over_the_script(monkeypatch, capsys, tmp_path):
    stub(tmp_path / "sbatch", f'cat "$1" > {tmp_path / "got"}; exit "${{REFUSE:-0}}"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert toy().submit(dry_run=True) is None and not (tmp_path / "got").exists()
    toy().submit(account="me")
    assert (tmp_path / "got").read_text() == toy().script(account="me") in capsys.readouterr().out
    monkeypatch.setenv("REFUSE", "3")
    with pytest.raises(subprocess.CalledProcessError):
        toy().submit()


def stub(path: Path, body: str) -> None:
    """A command that stands for one of a cluster's."""
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


# ------------------------------------------------------------------------------------------------- proofs
def test_a_curve_that_shows_the_kill_is_no_proof():
    said = "going on from out/step-00000003"
    assert prove.compare([1.0, 2.0], [1.0, 2.0], said) == {"resumed": 3, "difference": 0}
    for whole, broken, words, why in (
        ([1.0, 2.0], [1.0, 2.1], said, "differ by 0.05"),
        ([1.0, 2.0], [1.0, float("nan")], said, "differ by nan"),
        ([1.0, 2.0], [1.0], said, "logged 1 steps, the whole one 2"),
        ([1.0, 2.0], [1.0, 2.0], "", "no process went on from a checkpoint"),
    ):
        with pytest.raises(launch.ProofFailed, match=why):
            prove.compare(whole, broken, words)


def test_a_run_too_short_for_a_kill_is_named():
    with pytest.raises(launch.ProofFailed, match="the configuration smoke has 2 steps: a kill and a restart need 3"):
        prove.killed_and_resumed(toy("smoke", steps=2))


def test_what_a_failing_process_said_is_in_the_error():
    with pytest.raises(launch.ProofFailed, match=r"the thing ended with code 3:\n(.|\n)*too bad"):
        prove.run([sys.executable, "-c", "import sys; print('too bad', file=sys.stderr); sys.exit(3)"], "the thing")


# ------------------------------------------------------------------------------------------------- the worker
def test_the_worker_takes_data_from_shards_chapter_or_example(monkeypatch, tmp_path):
    def options(*words):
        return worker.parsed(["--chapter", "toy_chapter", "--config", "smoke", "--out", "x", *words])

    generated = next(worker.recipe_of(options()).stream.batches(0, 8))["x"]
    example = worker.recipe_of(options("--example")).stream
    again = next(example.batches(1, 8))["x"]
    assert generated.shape == again.shape == (8, 16, 8) and not torch.equal(next(example.batches(0, 8))["x"], again)
    with pytest.raises(ValueError, match="toy_chapter makes its data by itself: leave --data out"):
        worker.recipe_of(options("--data", str(tmp_path)))
    on_shards(monkeypatch)
    with pytest.raises(ValueError, match="trains on shards: give --data FOLDER"):
        worker.recipe_of(options())
    a_folder(tmp_path / "data")
    batch = next(worker.recipe_of(options("--data", str(tmp_path / "data"))).stream.batches(0, 8))
    assert batch["x"].shape == (8, 16, 8)


def test_a_run_can_begin_with_the_weights_of_an_earlier_stage(tmp_path):
    def options(*words):
        return worker.parsed(["--chapter", "toy_chapter", "--config", "smoke", "--out", "x", *words])

    earlier = worker.recipe_of(options()).model()
    save_weights(earlier, tmp_path / "stage1.safetensors", torch.float32)
    begun = worker.recipe_of(options("--start", str(tmp_path / "stage1.safetensors"))).model()
    assert all(torch.equal(a, b) for a, b in zip(begun.parameters(), earlier.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="nothing.safetensors"):
        worker.recipe_of(options("--start", str(tmp_path / "nothing.safetensors"))).model()
    text = launch.job(toy_chapter, "smoke", 1, 2).script(start="runs/stage1/step-00000010")
    assert "--start runs/stage1/step-00000010" in text


def on_shards(monkeypatch) -> None:
    """The toy as a chapter whose data comes from shards."""
    monkeypatch.delattr(toy_chapter, "generate")
    prepare = lambda config: lambda sample, generator: {"x": torch.zeros(config.tokens, 8)}  # noqa: E731
    monkeypatch.setattr(toy_chapter, "prepare", prepare, raising=False)


def a_folder(folder: Path) -> None:
    """A data set of ten grey pictures in two shards."""
    import numpy as np

    from course_lib.data import shards
    from course_lib.data.schema import Sample

    folder.mkdir()
    samples = [Sample(key=f"{n:08d}", image=np.zeros((3, 8, 8), np.float32)) for n in range(10)]
    halves = {shards.shard_name(i): samples[5 * i : 5 * i + 5] for i in range(2)}
    entries = {name: shards.write_shard(folder / name, half) for name, half in halves.items()}
    shards.write_manifest(folder, {"version": shards.VERSION, "settings": {}, "shards": entries, "complete": True})


@pytest.mark.parametrize(
    "words, said",
    [
        (["--config", "huge"], "no configuration is called 'huge'"),
        (["--set", "stops=3"], "the configuration has no stops"),
        (["--set", "batch_size=0"], "batch_size is 0"),
    ],
)
def test_the_worker_ends_with_2_where_it_was_started_wrongly(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["worker", "--chapter", "toy_chapter", "--config", "smoke", "--out", "x", *words])
    assert worker.main() == 2 and said in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- DeepSpeed
def test_deepspeeds_configuration_says_what_the_recipe_says():
    recipe = toy_recipe(batch_size=32, accumulate=2)
    config = json.loads(json.dumps(launch.deepspeed_config(recipe, world=4, stage=3)))
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (32, 4)
    assert config["gradient_accumulation_steps"] == 2 and config["zero_optimization"] == {"stage": 3}
    assert config["bf16"] == {"enabled": True} and config["gradient_clipping"] == 1.0
    assert config["optimizer"]["type"] == "AdamW" and config["optimizer"]["params"]["betas"] == [0.9, 0.95]
    sgd = dataclasses.replace(recipe, optimizer=Optimizer("sgd"), clip=None)
    assert launch.deepspeed_config(sgd)["optimizer"]["params"]["momentum"] == 0.9
    assert "gradient_clipping" not in launch.deepspeed_config(sgd)
    with pytest.raises(ValueError, match="ZeRO has no stage 4"):
        launch.deepspeed_config(recipe, stage=4)
    with pytest.raises(ValueError, match="can't be shared by 3 processes"):
        launch.deepspeed_config(recipe, world=3)


def test_deepspeed_takes_the_configuration():
    runtime = pytest.importorskip("deepspeed.runtime.config")
    runtime.DeepSpeedConfig(launch.deepspeed_config(toy_recipe(batch_size=8), world=1))


# ------------------------------------------------------------------------------------------------- the shell
def course(*arguments):
    result = CliRunner().invoke(cli.app, ["launch", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["plan", "prove", "script", "submit", "run"])
@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nonsense", "smoke"), "'nonsense' has no run to launch"),
        (("toy_chapter", "huge"), "no configuration is called 'huge'"),
        (("toy_chapter", "large", "--set", "stops=3"), "the configuration has no stops"),
        (("toy_chapter", "large", "--set", "batch_size=7"), "can't be shared by"),
    ],
)
def test_wrongly_typed_launches_end_with_2(command, arguments, words):
    code, text = course(command, *arguments)
    assert code == 2 and words in text


def test_the_shell_plans_and_scripts(monkeypatch, tmp_path):
    code, text = course("plan", "toy_chapter", "large", "--nodes", "2", "--utilisation", "0.3", "--set", "steps=50")
    assert code == 0 and text.strip() == str(toy(nodes=2, steps=50).plan(0.3))
    code, text = course("script", "toy_chapter", "large", "--data", "a", "--data", "b", "--account", "me")
    assert code == 0 and text == toy().script(data=["a", "b"], account="me")
    code, text = course("submit", "toy_chapter", "large", "--dry-run")
    assert code == 0 and "#SBATCH --nodes=1" in text
    monkeypatch.setenv("PATH", str(tmp_path))
    code, text = course("submit", "toy_chapter", "large")
    assert code == 1 and "no sbatch: nothing was submitted" in text


def test_the_shell_says_what_failed(monkeypatch):
    def failing(job, config=None):
        raise launch.ProofFailed("the losses differ")

    monkeypatch.setattr(prove, "prove", failing)
    assert course("prove", "toy_chapter", "smoke", "--gpus-per-node", "2") == (1, "the losses differ\n")


def test_a_run_without_data_is_refused_before_anything_starts(monkeypatch):
    on_shards(monkeypatch)
    monkeypatch.setattr(cli.subprocess, "Popen", lambda *a, **k: pytest.fail("started"))
    code, text = course("run", "toy_chapter", "smoke")
    assert code == 2 and "give --data FOLDER" in text


def test_a_module_made_by_hand_is_refused_by_name():
    with pytest.raises(ValueError, match="'handmade' has no run to launch"):
        launch.job(ModuleType("handmade"), "smoke")

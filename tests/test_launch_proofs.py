"""A launch proven on a laptop: simulated at full size, killed and resumed for real; the memory it predicts."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import toy_chapter
from test_launch import toy

from course_lib import launch
from course_lib.launch import prove


def test_a_job_is_proven(capfd):
    job = toy(nodes=4, parallel="hsdp")
    proof = job.prove()
    simulation, run = proof.simulation, proof.run
    assert (simulation["ranks"], simulation["samples"], simulation["parallel"]) == (32, 8, "hsdp")
    plan = job.plan()
    assert simulation["parameters"] == plan.trace.parameters
    assert sum(simulation["peak"].values()) == pytest.approx(plan.bytes, rel=0.1)
    assert simulation["peak"]["optimiser"] == pytest.approx(plan.memory["optimiser"], rel=0.05)
    assert run == {"steps": 9, "killed": 6, "resumed": 3, "difference": run["difference"]}
    assert run["difference"] <= 1e-6
    assert "on 32 ranks, hsdp, 8 samples each" in str(proof) and "killed one after step 6" in str(proof)
    assert not torch.distributed.is_initialized() and capfd.readouterr().out == ""


def test_a_named_configuration_is_simulated_and_nothing_run(monkeypatch):
    monkeypatch.setattr(prove, "killed_and_resumed", lambda job: pytest.fail("ran"))
    proof = toy(nodes=128, batch_size=1024).prove("smoke")
    assert proof.run is None and (proof.simulation["ranks"], proof.simulation["samples"]) == (1024, 1)


def test_a_proof_that_fails_says_why(tmp_path, monkeypatch):
    source = Path(toy_chapter.__file__).read_text()
    (tmp_path / "odd_chapter.py").write_text(source.replace("self.proj(mixed)", "self.proj(mixed)[:, 1:]"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(launch.ProofFailed, match="the simulation ended with code 1:(.|\n)*dimension of length 15"):
        launch.job("odd_chapter", "smoke").prove("smoke")


def test_the_largest_job_fits_an_80_gb_gpu():
    """2 billion parameters on 1,024 ranks."""
    pytest.importorskip("course_lib.chapters.transformers")
    job = launch.job("transformers", "vit-2b", nodes=128, gpus_per_node=8)
    simulation = job.prove("vit-2b").simulation
    assert simulation["parameters"] > 2e9 and simulation["ranks"] == 1024 and simulation["memory"] < 4e9
    assert sum(simulation["peak"].values()) == pytest.approx(job.plan().bytes, rel=0.15)
    assert sum(simulation["peak"].values()) < 0.9 * 80 * 2**30


GROWTH = """
    import gc
    import toy_chapter
    from course_lib.bf16 import fast_bf16
    from course_lib.launch.plan import step, with_example
    from course_lib.launch.simulate import resident_peak
    from course_lib.train import fit

    def ratio(**numbers):
        recipe = toy_chapter.recipe(toy_chapter.Config(256, 4, 4, 1024, steps=2, batch_size=4, **numbers), None)
        predicted = sum(step(recipe, world=1, shards=1)[1].values())
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
        before = resident_peak()
        fit(with_example(recipe), progress=False)
        return predicted / (resident_peak() - before)

    fit(with_example(toy_chapter.recipe(toy_chapter.CONFIGS["smoke"], None)), progress=False)
    print(ratio(), ratio(recompute=True), *[ratio(precision="bf16")] * fast_bf16())  # elsewhere fit is in fp32
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_the_predicted_memory_is_what_a_real_process_grows_by():
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "CUDA_VISIBLE_DEVICES": ""}  # what is freed goes back at once
    environment = {**prove.child_environment(), **at_once}
    command = [sys.executable, "-c", textwrap.dedent(GROWTH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [float(word) for word in done.stdout.split()]
    assert len(found) >= 2 and found == pytest.approx([1] * len(found), abs=0.15), done.stdout

"""One rank's step in a process group that only pretends; `prove` starts it in a process of its own.

The model is sharded over the job's whole mesh by the code that shards it in a real run; its tensors hold no data, so
2 billion parameters on 1,024 ranks need a CPU and some hundred megabytes.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore

from course_lib.launch.jobs import Job, chapter_module, chosen, overridden
from course_lib.launch.plan import step
from course_lib.launch.trace import count, meta_model, without_data
from course_lib.recipe import Recipe
from course_lib.train.loop import named_losses
from course_lib.train.parallel import Team, clip_gradients, shard, team_mesh

# a plan's kinds, and those of FSDPMemTracker that make them up
KINDS = {
    "weights": ("Sharded Param", "Buffer"),
    "gathered": ("Unsharded Param", "All Gather"),
    "gradients": ("Sharded Grad", "Unsharded Grad", "Reduce Scatter"),
    "optimiser": ("OptState",),
    "batch": ("Inputs",),
    "activations": ("Activation", "Temp"),
}


def simulate(job: Job) -> dict:
    """What rank 0 holds at its peak (bytes by kind), and what was simulated. With DDP every rank holds everything."""
    recipe, began = job.recipe(), time.perf_counter()
    samples = max(1, recipe.batch_size // (job.world * recipe.accumulate))
    peak = sharded_peak(job, recipe, samples) if job.shards > 1 else step(recipe, job.world, 1)[1]
    about = {"config": job.name, "ranks": job.world, "parallel": job.parallel, "samples": samples}
    about |= {"parameters": count(meta_model(recipe).parameters()), "peak": peak}
    return about | {"seconds": round(time.perf_counter() - began, 1), "memory": resident_peak()}


def sharded_peak(job: Job, recipe: Recipe, samples: int) -> dict[str, int]:
    """Shards, takes one step under PyTorch's memory tracker, and reads its peak."""
    os.environ["LOCAL_WORLD_SIZE"] = str(job.gpus_per_node)
    dist.init_process_group("fake", rank=0, world_size=job.world, store=FakeStore())
    mesh = team_mesh(Team(0, job.world, torch.device("cpu"), job.parallel))
    half = recipe.precision == "bf16"  # as on GPUs
    # before the model has tensors: cutting fake ones into 1,024 pieces takes a minute
    model = shard(meta_model(recipe), recipe, mesh, half)
    with without_data(recipe, samples) as batch:
        model.to_empty(device="cpu")
        optimizer = recipe.optimizer.build(model)
        first_update(recipe, model, optimizer)
        tracker = FSDPMemTracker(model, optimizer)
        tracker.track_inputs(tuple(batch.values()))
        with tracker:
            named_losses(recipe.loss(model, batch))["loss"].backward()
            clip_gradients(model, recipe.clip)
            optimizer.step()
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))
    sizes = {getattr(kind, "value", kind): size for kind, size in peak.items()}
    return {name: sum(sizes.get(kind, 0) for kind in kinds) for name, kinds in KINDS.items()}


def first_update(recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes the optimiser's state, outside the tracker: DTensor learns its rules on tensors of the full size."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    clip_gradients(model, recipe.clip)
    optimizer.step()
    optimizer.zero_grad()


def resident_peak() -> int:
    """Bytes of main memory that this process held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage tells a parent's memory too
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1))
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    configs = chapter_module(fields["chapter"]).CONFIGS
    config = overridden(chosen(configs, fields["name"]), fields["overrides"])
    print(json.dumps(simulate(Job(**fields, config=config))))

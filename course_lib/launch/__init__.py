"""A paper's own run on a cluster: what it costs, the proof that it would start, the script that starts it.

    job = launch.job("transformers", "vit-2b", nodes=128, gpus_per_node=8)
    job.plan(); job.prove(); job.script(); job.submit()

And data that are rendered on many machines: `launch.rendering`.

A launch runs the course's own code in `course_lib.chapters`, not what is typed in a notebook.
"""

from course_lib.launch.array import Rendering, rendering
from course_lib.launch.deepspeed import deepspeed_config
from course_lib.launch.jobs import Job, job
from course_lib.launch.plan import Plan, measure_memory
from course_lib.launch.prove import Proof, ProofFailed

__all__ = ["Job", "Plan", "Proof", "ProofFailed", "Rendering", "deepspeed_config", "job", "measure_memory", "rendering"]

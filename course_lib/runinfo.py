"""What a run was made with: printed at the end of each chapter and written into each result record."""

import platform
import time
from pathlib import Path

import psutil


def cpu_name() -> str:
    """The processor's name as the operating system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def hardware() -> str:
    """Processor, cores, memory, the GPU where there is one, and whether bf16 is slow here, so that fp32 is used."""
    import torch

    from course_lib.bf16 import fast_bf16

    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    words = f"{cpu_name()}, {cores} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    if torch.cuda.is_available():
        return f"{words}, {torch.cuda.get_device_name()}"
    return words if fast_bf16() else f"{words}, fp32 for bf16"


def versions() -> dict[str, str]:
    """The versions of Python, PyTorch and NumPy."""
    import numpy
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def minutes_since_start() -> float:
    """Minutes since this process (in a notebook: the kernel) started."""
    return round((time.time() - psutil.Process().create_time()) / 60, 2)


def run_info(seed: int | None = None) -> dict:
    """Scale, hardware, versions, seed and minutes since the process started, ready for JSON."""
    from course_lib.scale import scale

    found = {"scale": scale(), "hardware": hardware(), "versions": versions()}
    return {**found, "seed": seed, "minutes": minutes_since_start()}


def print_run_info(seed: int | None = None) -> None:
    """Prints `run_info`, one line a fact."""
    info = run_info(seed)
    info["versions"] = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    info["minutes"] = f"{info['minutes']:.1f} since the kernel started"
    for name, value in info.items():
        print(f"{name:9s} {value}")

"""What all tests share: one thread, scale smoke, and a small course in a folder of its own."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("COURSE_SCALE", "smoke")
os.environ.setdefault("MPLBACKEND", "agg")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402  (PyTorch reads the thread count when it is first imported)


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch on one thread, whatever the machine says; for `pytestmark = pytest.mark.usefixtures("one_thread")`."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """What is rendered or drawn at `smoke` is kept for one file of tests, in a data folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("COURSE_SCALE", "smoke")
        yield


HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""

CAMERAS = '''\
# %% [markdown]
# # Chapter 01: Cameras
# Reading 20 minutes, exercises 30 minutes, runs 1 minute.

# %%
# %matplotlib inline
import math

from course_lib.exercises import check, exercise

# %% [markdown]
# ## Halves and wholes

# %% tags=["export"]
HALF = 0.5


# so that a half is written once
@exercise("01.1")
def halve(value: float) -> float:
    """Half of the value."""
    # BEGIN SOLUTION
    return HALF * value
    # END SOLUTION


# %%
check(halve)

# %% [markdown]
# ### Exercise 01.2 — area  ●○○ (5 min)

# %% tags=["export"]
class Circle:
    """A circle."""

    def __init__(self, radius: float):
        self.radius = radius

    @exercise("01.2")
    def area(self) -> float:
        """Its area."""
        squared = self.radius**2
        # BEGIN SOLUTION
        return math.pi * squared
        # END SOLUTION


# %%
check(Circle.area)

# %% tags=["result"]
print("half of six:", halve(6.0))
'''

BODIES = '''\
# %% [markdown]
# # Chapter 02: Bodies

# %% tags=["export"]
from course_lib.chapters.cameras import halve


def quarter(value: float) -> float:
    """A quarter of the value."""
    return halve(halve(value))


# %%
quarter(8.0)
'''

CHECKS = """\
@check_for("01.1")
def check_halve(answer): ...


@wrong_answer("01.1", says="doubled")
def doubled(value): ...


@check_for("01.2")
def check_area(answer): ...


@wrong_answer("01.2", says="perimeter")
def perimeter(self): ...
"""


def write_course(root: Path, cameras: str = CAMERAS, bodies: str = BODIES, checks: str = CHECKS) -> Path:
    """A course of two small chapters with its checks."""
    texts = {
        "solutions/01_cameras.py": HEADER + cameras,
        "solutions/02_bodies.py": HEADER + bodies,
        "course_lib/checks/ch01.py": checks,
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return write_course(tmp_path)

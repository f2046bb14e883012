"""Around the loop: random numbers that a step's number decides, and signals that end a run between two steps."""

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SIGNALS = {signal.SIGTERM: "sigterm", signal.SIGINT: "interrupted"}


def seed_everything(*numbers: int) -> None:
    """Seeds torch, numpy and random with a mix of the numbers (seed, step, part, rank).

    Done before every forward pass, so that a checkpoint holds no generator's state and a resumed run draws the same."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device: a third of a millisecond
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """The caller's random numbers go on afterwards as if nothing had happened."""
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """The signals that came so far, "sigterm" or "interrupted"; a second Ctrl-C raises KeyboardInterrupt.

    Only the main thread may listen for signals: elsewhere the list stays empty."""
    came: list[str] = []

    def remember(number: int, frame) -> None:
        if number == signal.SIGINT and SIGNALS[number] in came:
            raise KeyboardInterrupt
        came.append(SIGNALS[number])

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

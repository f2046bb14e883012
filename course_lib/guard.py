"""Runs a learner's code where it can do no harm: in a process of its own, with a limit on time and memory.

A kernel has one guard: a clean Python process (`python -m course_lib.guard`) with torch loaded and one thread. For
each check it forks a child, which gets the learner's function, runs the check and reports; the guard kills it when it
takes too long or too much. The kernel itself is never forked, and the guard ends when the kernel does.

Where there is no fork (Windows), the check runs in the guard itself. The kernel watches it and starts another one
after a hang. The operating system then sets no limit on memory: it is looked at 20 times a second, so that one very
large allocation may slow the machine down before it is stopped.

Nothing here is a defence against malice: it protects a learner from mistakes.
"""

import atexit
import contextlib
import io
import json
import linecache
import math
import os
import pickle
import queue
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import BinaryIO

import cloudpickle
import psutil

from course_lib import paths

SECONDS = 10.0  # a check takes 0.1 s: who needs a hundred times that is in a loop
MEMORY = 2 * 2**30  # bytes beyond what the guard itself has
PRINTED = 2_000  # characters of the learner's own output that a verdict repeats
LOOK = 0.05  # seconds between two looks at a running check
START = 120.0  # seconds that a guard may take to start: a cold disk reads torch slowly
INSIDE = False  # True in the guard and in its children


class GuardError(RuntimeError):
    """The guard itself could not be started or has failed: nothing that the learner's code did."""


# ------------------------------------------------------------------------------------------- messages between processes
def _send(stream: BinaryIO, message: bytes) -> None:
    stream.write(struct.pack(">Q", len(message)) + message)
    stream.flush()


def _receive(stream: BinaryIO) -> bytes | None:
    """The next message, or None at the end of the stream."""
    head = stream.read(8)
    return stream.read(struct.unpack(">Q", head)[0]) if len(head) == 8 else None


def _is_whole(data: bytes) -> bool:
    return len(data) >= 8 and len(data) >= 8 + struct.unpack(">Q", data[:8])[0]


def _failed(message: str, printed: str = "") -> dict:
    return {"status": "failed", "message": message, "printed": printed}


def _too_slow(name: str, seconds: float) -> dict:
    return _failed(f"{name} was still running after {seconds:g} s. Is there a loop that never ends?")


def _too_large(name: str, limit: int) -> dict:
    return _failed(
        f"{name} used more than {limit / 2**30:.1f} GB of memory. Look for a tensor or list larger than meant."
    )


def _died(name: str, code: int) -> dict:
    """What the end of a process without a report means; `code` is negative for a signal, as in subprocess."""
    if code < 0 or code > 255:  # Windows has large positive numbers for its own kinds of crash
        what = signal.Signals(-code).name if -code in list(signal.Signals) else f"code {code:#x}"
        return _failed(
            f"{name} crashed Python itself ({what}); your notebook is unharmed. Endless recursion under a raised "
            "recursion limit and reading outside of an array's memory do that."
        )
    return _failed(
        f"{name} ended the Python process (exit code {code}). Leave os._exit and the like out of it: end with return."
    )


# -------------------------------------------------------------------------------------------- in the kernel: the client
def in_notebook() -> bool:
    """Whether this is a Jupyter kernel: there a guard is started early and verdicts are shown in colour."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


class Guard:
    """The kernel's end of one guard process."""

    def __init__(self, fork: bool = hasattr(os, "fork")):
        self.fork, self.ready = fork, False
        self.errors = tempfile.TemporaryFile()
        path = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
        quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
        quiet["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"  # macOS: we do fork, before anything of Apple's is in use
        self.process = subprocess.Popen(
            [sys.executable, "-m", "course_lib.guard", *([] if fork else ["--no-fork"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=paths.ROOT,
            env=os.environ | quiet,
            start_new_session=True,  # the notebook's stop button is for the kernel alone
        )
        self.replies: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed under our hands: the guard was stopped
            while (message := _receive(self.process.stdout)) is not None:
                self.replies.put(message)
        self.replies.put(None)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.terminate()  # it ends the check that it may be running
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.errors):
            with contextlib.suppress(OSError):
                stream.close()

    def tell(self, request: dict) -> None:
        _send(self.process.stdin, pickle.dumps(request))

    def next_reply(self, seconds: float, memory: float = math.inf) -> dict | None:
        """The next reply; None when the guard ended. TimeoutError or MemoryError when it goes beyond its limits."""
        end, most = time.monotonic() + seconds, _memory(self.process.pid) + memory
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                reply = self.replies.get(timeout=LOOK)
                return None if reply is None else json.loads(reply)
            if _memory(self.process.pid) > most:
                raise MemoryError
        raise TimeoutError

    def wait_until_ready(self) -> None:
        if self.ready:
            return
        try:
            reply = self.next_reply(START)
        except TimeoutError:
            reply = None
        if reply is None:
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise GuardError(f"the process that runs checks did not start ({said[0]}): try `course check-env`")
        self.ready = True

    def run(self, request: dict) -> dict:
        """Send a check and wait for its verdict. The guard must be stopped after anything that this raises."""
        name, seconds, memory = request["name"], request["seconds"], request["memory"]
        self.wait_until_ready()
        self.tell(request)
        if self.next_reply(START) is None:  # "started": the check's file has been loaded
            raise GuardError("the process that runs checks ended while it loaded the check")
        try:
            # a guard that forks keeps the limits itself: ours is then for a guard that hangs
            reply = self.next_reply(seconds + 30) if self.fork else self.next_reply(seconds, memory)
        except (TimeoutError, MemoryError) as error:
            self.stop()
            return _too_slow(name, seconds) if isinstance(error, TimeoutError) else _too_large(name, memory)
        if reply is None and self.fork:
            raise GuardError("the process that runs checks ended unexpectedly: call check again")
        return reply or _died(name, self.process.wait())


_guard: Guard | None = None
_warmed: set[str] = set()


def start(fork: bool = hasattr(os, "fork")) -> Guard:
    """The kernel's guard; a new one where there is none, or where it has ended."""
    global _guard
    if _guard is None or not _guard.alive() or _guard.fork != fork:
        stop()
        _guard = Guard(fork)
    return _guard


@atexit.register
def stop() -> None:
    """End the guard, if there is one. The next check starts another."""
    global _guard
    if _guard is not None:
        _guard.stop()
    _guard = None
    _warmed.clear()


def warm(exercise: str) -> None:
    """In a notebook: have the guard load a chapter's checks in the background, so that the first check is quick."""
    if exercise[:2] in _warmed or INSIDE or not in_notebook():
        return
    with contextlib.suppress(OSError):
        start().tell({"warm": exercise})
        _warmed.add(exercise[:2])


def run_check(exercise: str, function: Callable) -> dict:
    """Run the check of an exercise on a function -> {"status", "message", "printed"}. This process survives it."""
    try:
        packed = _pack(function)
    except Exception as error:
        return _failed(_why_unsendable(function, error))
    filename = function.__code__.co_filename
    request = {
        "exercise": exercise,
        "name": function.__name__,
        "function": packed,
        "seconds": SECONDS,
        "memory": MEMORY,
        "path": sys.path,
        "folder": os.getcwd(),
        "source": (filename, [] if os.path.exists(filename) else linecache.getlines(filename)),
    }
    try:
        return start(_guard.fork if _guard else hasattr(os, "fork")).run(request)
    except BaseException:  # the stop button, too: the guard may be in the middle of a sentence
        stop()
        raise


def _pack(function: Callable) -> bytes:
    """The function as bytes, by value, with the other functions of the learner that it uses."""
    module = sys.modules.get(function.__module__)
    own_file = module is not None and module.__name__.partition(".")[0] not in ("__main__", "course_lib")
    if own_file:
        cloudpickle.register_pickle_by_value(module)
    try:
        packed = io.BytesIO()
        _Pickler(packed).dump(function)
        return packed.getvalue()
    finally:
        if own_file:
            cloudpickle.unregister_pickle_by_value(module)


def _code_with_its_file(code: CodeType) -> tuple:
    """How a function's code is pickled. From 3.1.3 on cloudpickle forgets its file, which verdicts quote lines from."""
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if value == "<dynamic-code>" else value for value in arguments)


class _Pickler(cloudpickle.Pickler):
    dispatch_table = ChainMap({CodeType: _code_with_its_file}, cloudpickle.Pickler.dispatch_table)


def _why_unsendable(function: Callable, error: Exception) -> str:
    for name, value in _used(function):
        try:
            cloudpickle.dumps(value)
        except Exception:
            return (
                f"{function.__name__} uses {name!r} from outside, a {type(value).__name__}, which cannot be handed "
                "to the process that runs the check. Use only the arguments, modules and other functions."
            )
    return f"{function.__name__} cannot be handed to the process that runs the check: {error}"


def _used(function: Callable) -> Iterator[tuple[str, object]]:
    """Names and values from outside the function that its code mentions."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            yield name, cell.cell_contents
    for name in _names(function.__code__):
        if name in function.__globals__ and not isinstance(function.__globals__[name], ModuleType):
            yield name, function.__globals__[name]


def _names(code: CodeType) -> list[str]:
    nested = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return list(code.co_names) + nested


# ------------------------------------------------------------------------------------------- in the guard: the server
def serve(fork: bool = True) -> None:
    """Answer requests until the kernel closes our input. Learners' code gets other standard streams than these."""
    global INSIDE
    INSIDE = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that `finally` is reached
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    import torch

    torch.set_num_threads(1)
    import course_lib.exercises  # noqa: F401  what learners' functions were decorated with

    _send(replies, json.dumps({"ready": True}).encode())
    _silence()
    while (message := _receive(requests)) is not None:
        request = pickle.loads(message)
        problem = _load(request.get("warm") or request["exercise"])
        if "warm" in request:
            continue
        _send(replies, b"{}")  # started
        reply = problem or (_run_in_child(request, (requests, replies)) if fork else _run(request))
        _send(replies, json.dumps(reply).encode())


def _silence() -> None:
    """What is written to or read from the standard streams below Python's own goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _load(exercise: str) -> dict | None:
    """Import the check here, once, so that every child has it; a report where that fails."""
    from course_lib import checks

    try:
        checks.load(exercise)
    except Exception as error:
        return _failed(f"The course's own check could not be loaded ({type(error).__name__}: {error}).")
    return None


def _run_in_child(request: dict, private: tuple[BinaryIO, BinaryIO]) -> dict:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            for stream in private:
                os.close(stream.fileno())
            _limit(request["seconds"], request["memory"])
            try:
                report = _run(request)
            except MemoryError:  # too little is left even for words
                report = _too_large(request["name"], request["memory"])
            with os.fdopen(writer, "wb") as stream:
                _send(stream, json.dumps(report).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return _watch(child, reader, request)


def _limit(seconds: float, memory: int) -> None:
    """Limits on this process: an exception in the learner's code when time is up, and the system's own behind it."""
    import resource

    from course_lib.checks import OutOfTime

    def time_is_up(*_):
        raise OutOfTime(seconds)

    signal.signal(signal.SIGALRM, time_is_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    most = psutil.Process().memory_info().vms + memory
    for kind, limit in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CPU, int(seconds) + 2), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS does not limit addresses: _watch looks at the memory
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def _run(request: dict) -> dict:
    """Run one check in this process."""
    from course_lib import checks

    sys.path[:] = request["path"]
    os.chdir(request["folder"])
    filename, lines = request["source"]
    if lines:  # a notebook cell is in no file: tracebacks quote its lines from here
        linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
    try:
        answer = cloudpickle.loads(request["function"])
    except Exception as error:
        return _failed(
            f"{request['name']} could not be set up in the process that runs the check ({type(error).__name__}: "
            f"{error}). Use only the arguments, modules and other functions; checks run on the CPU."
        )
    with contextlib.redirect_stdout(_Shortened()) as printed:
        status, message = checks.judge(request["exercise"], answer)
    return {"status": status, "message": message, "printed": printed.text()}


class _Shortened(io.TextIOBase):
    """Keeps the beginning of what is printed, and counts the rest."""

    def __init__(self):
        self.kept, self.count = "", 0

    def write(self, text: str) -> int:
        self.kept += text[: max(0, PRINTED - self.count)]
        self.count += len(text)
        return len(text)

    def text(self) -> str:
        return self.kept + (f"\n… {self.count:,} characters in all" if self.count > PRINTED else "")


def _watch(child: int, reader: int, request: dict) -> dict:
    """Wait for a child's report; end the child, and what it started, when it goes beyond its limits."""
    kernel, end = os.getppid(), time.monotonic() + request["seconds"] + 1
    most, data = _memory(os.getpid()) + request["memory"], b""
    try:
        while not _is_whole(data):
            if time.monotonic() > end or os.getppid() != kernel:
                return _too_slow(request["name"], request["seconds"])
            if _memory(child) > most:
                return _too_large(request["name"], request["memory"])
            piece = os.read(reader, 1 << 16) if select.select([reader], [], [], LOOK)[0] else None
            data += piece or b""
            if piece == b"":  # the pipe is closed: the child has ended, or does mischief
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    return _reason(request, os.waitstatus_to_exitcode(status))
                time.sleep(LOOK)
        return json.loads(data[8:])
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # waited for already
            os.waitpid(child, 0)


def _reason(request: dict, code: int) -> dict:
    """Why a child ended without a report."""
    if -code in (signal.SIGXCPU, signal.SIGALRM):
        return _too_slow(request["name"], request["seconds"])
    if -code == signal.SIGKILL:  # nobody but the system's own memory guard does that
        return _too_large(request["name"], request["memory"])
    return _died(request["name"], code)


def _memory(process: int) -> int:
    """Bytes of main memory that a process holds; 0 when it is gone."""
    try:
        return psutil.Process(process).memory_info().rss
    except psutil.Error:
        return 0


if __name__ == "__main__":
    from course_lib import guard  # this file under its own name: as __main__ it would be there twice

    guard.serve(fork="--no-fork" not in sys.argv)

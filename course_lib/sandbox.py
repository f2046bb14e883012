"""Takes away from the process that runs a stranger's code what it could do harm with; Linux does most, others little.

`confine()` is called in a forked child and can't be undone there. Each layer is tried by itself and what took hold is
named, so that whoever grades can be told what did not: a layer that a container's kernel refuses is left out.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import time

import psutil

NOBODY = 65534
LAYERS = {
    "network": "no network",
    "processes": "sees and reaches no process but its own",
    "user": "runs as nobody",
    "files": "cannot change any file",
    "forks": "cannot start processes",
    "memory": "limited memory",
    "time": "limited time",
}
_CLONE = {"network": 0x40000000, "processes": 0x20000000 | 0x08000000}  # NEWNET; NEWPID and NEWIPC
_NEW_USER = 0x10000000
_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES, _SET_SUBREAPER, _KEEP_CAPABILITIES = 4, 38, 36, 8
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # landlock: the same numbers on every architecture
_WRITE_RIGHTS = {1: 0x1FF2, 2: 0x3FF2, 3: 0x7FF2}  # write, remove, make; from version 2 linking, from 3 cutting short


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def guard_grader() -> None:
    """In the grader itself: nobody reads its memory, and orphans of what it started become its children."""
    if sys.platform == "linux":
        _libc().prctl(_SET_DUMPABLE, 0, 0, 0, 0)
        _libc().prctl(_SET_SUBREAPER, 1, 0, 0, 0)


def confine(seconds: float, memory: int) -> set[str]:
    """Confine this process for good -> the names of the layers that hold. Only its child goes on: this one waits.

    seconds: of processor time; memory: bytes beyond what it has now."""
    held = _namespaces()
    _go_on_in_child()
    if _become_nobody():
        held.add("user")
    if _freeze_files():
        held.add("files")
    return held | _limits(seconds, memory)


def _namespaces() -> set[str]:
    if sys.platform != "linux":
        return set()
    libc, held = _libc(), set()
    libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)
    for name, flags in _CLONE.items():
        if libc.unshare(flags) == 0 or libc.unshare(flags | _NEW_USER) == 0:
            held.add(name)
    return held


def _go_on_in_child() -> None:
    """In a new process namespace the next child is the first process: when it ends, all in there do."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(min(255, abs(os.waitstatus_to_exitcode(status))))


def _become_nobody() -> bool:
    """Give up root, where we are root, and every power of it but reading (Python itself may lie in root's home)."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    libc = _libc()
    libc.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    except OSError:
        return False
    read = 1 << 2  # CAP_DAC_READ_SEARCH
    return libc.capset(struct.pack("II", 0x20080522, 0), struct.pack("IIIIII", read, read, 0, 0, 0, 0)) == 0


def _freeze_files() -> bool:
    """Landlock without a single rule: nothing may be written, removed or made anywhere from here on."""
    if sys.platform != "linux":
        return False
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    network, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    attributes = struct.pack("QQQ", _WRITE_RIGHTS[min(version, 3)], network, scopes)
    attributes = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done


def _limits(seconds: float, memory: int) -> set[str]:
    """The system's own limits; root is exempt from the one on processes."""
    held = {"time"} if _limit(resource.RLIMIT_CPU, int(seconds) + 1) else set()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    if sys.platform == "linux" and _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + memory):
        held.add("memory")
    if _limit(resource.RLIMIT_NPROC, 0) and os.geteuid() != 0:
        held.add("forks")
    return held


def _limit(kind: int, most: int) -> bool:
    try:
        resource.setrlimit(kind, (most, most))
        return True
    except (ValueError, OSError):
        return False


def descendants(process: int) -> list[psutil.Process]:
    """The process and all that it started and that is still below it."""
    try:
        first = psutil.Process(process)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def held_memory(process: int) -> int:
    """Bytes of main memory that a process and its descendants hold, what a fork shares counted again."""
    total = 0
    for one in descendants(process):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total


def end(process: int) -> None:
    """Kill a child of ours with everything below it, and wait for it."""
    for _ in range(20):  # what forks faster than it is listed is listed again
        found = descendants(process)
        for one in found:
            with contextlib.suppress(psutil.Error):
                one.send_signal(signal.SIGSTOP)
        if len(descendants(process)) == len(found):
            break
    for one in reversed(descendants(process)):
        with contextlib.suppress(psutil.Error):
            one.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)


def wait_readable(stream, deadline: float) -> bool:
    """Whether something can be read from the stream before the deadline (`time.monotonic`)."""
    import select

    return bool(select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0])

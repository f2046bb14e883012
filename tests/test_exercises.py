"""What learners do to an exercise: nothing, the right thing, and all that can go wrong. The kernel survives it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import psutil
import pytest
import torch

from course_lib import exercises, guard, paths
from course_lib.exercises import TODO, NotPassed, Verdict, check, exercise

LOCK = threading.Lock()


@pytest.fixture(autouse=True)
def learner(monkeypatch, tmp_path):
    """Limits of our own, a progress file of our own, and nothing said yet."""
    monkeypatch.setattr(guard, "SECONDS", 60.0)
    monkeypatch.setattr(guard, "MEMORY", 200 * 2**20)
    monkeypatch.setattr(exercises, "PROGRESS", tmp_path / "build" / "progress.jsonl")
    monkeypatch.setattr(exercises, "_told", set())
    monkeypatch.delenv("COURSE_STRICT", raising=False)


@pytest.fixture(scope="module", autouse=True)
def end_the_guard():
    yield
    guard.stop()


@pytest.fixture
def chapter(monkeypatch, tmp_path):
    """A chapter 97 with a course answer for a function, a method, a static and a class method."""
    module = types.ModuleType("course_lib.chapters.numbers")
    source = """
    def double(x): return 2 * x
    class Counter:
        step = 1
        def after(self, count): return self.start + count * self.step
        @staticmethod
        def zero(): return 0
        @classmethod
        def steps(cls, count): return [cls.step] * count
    """
    exec("\n".join(line[4:] for line in source.splitlines()), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(paths, "SOLUTIONS", tmp_path)
    (tmp_path / "97_numbers.py").touch()
    exercises.chapter_slug.cache_clear()
    yield module
    exercises.chapter_slug.cache_clear()


def right(person, alpha, scene):
    weight = alpha[..., None]
    return weight * person + (1 - weight) * scene


def assert_the_next_check_works():
    guard.SECONDS = 60.0
    verdict = check(exercise("00.1")(right))
    assert verdict.status == "passed", verdict


# ------------------------------------------------------------------------------------------------ an open exercise
def test_an_open_exercise_runs_the_courses_answer_and_says_so_once(chapter, capsys):
    @exercise("97.1")
    def double(x):
        raise TODO

    assert [double(3), double(4)] == [6, 8]
    assert capsys.readouterr().out.count("Exercise 97.1 (double) is open") == 1


def test_an_open_method_runs_on_the_learners_own_self(chapter):
    class Counter:
        step = 10

        def __init__(self, start):
            self.start = start

        @exercise("97.2")
        def after(self, count):
            raise TODO

        @staticmethod
        @exercise("97.3")
        def zero():
            raise TODO

        @classmethod
        @exercise("97.4")
        def steps(cls, count):
            raise TODO

    assert Counter(5).after(2) == 25
    assert Counter.zero() == 0
    assert Counter.steps(2) == [10, 10]


def test_a_filled_exercise_always_runs_even_when_wrong(chapter, capsys):
    @exercise("97.1")
    def double(x):
        return x + 1

    assert double(10) == 11
    assert capsys.readouterr().out == ""


def test_a_learners_own_exception_is_not_replaced(chapter):
    @exercise("97.1")
    def double(x):
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        double(1)


def test_todo_is_found_in_nested_code_and_not_behind_a_return():
    def nested():
        return [lambda: TODO for _ in range(2)]

    def left_over():
        return 1
        raise TODO

    assert exercises.mentions_todo(nested.__code__)
    assert not exercises.mentions_todo(left_over.__code__)


def test_an_open_exercise_without_a_generated_chapter_says_what_to_run(chapter):
    @exercise("97.1")
    def unknown(x):
        raise TODO

    with pytest.raises(LookupError, match="course build"):
        unknown(1)


@pytest.mark.parametrize("name", ["1.1", "01.0", "01", "01.1a", 1.1, None])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(TypeError, match='e.g. @exercise\\("01.1"\\)'):
        exercise(name)(right)


def test_what_cannot_be_an_exercise_is_refused():
    with pytest.raises(TypeError, match="__init__ cannot be"):

        class Initialised:
            @exercise("97.1")
            def __init__(self):
                raise TODO

    with pytest.raises(TypeError, match="name the base class"):

        class Derived(dict):
            @exercise("97.1")
            def copy(self):
                return super().copy()

    with pytest.raises(TypeError, match="below @staticmethod"):
        exercise("97.1")(staticmethod(right))
    with pytest.raises(TypeError, match="only a function"):
        exercise("97.1")(dict)


# ------------------------------------------------------------------------------------------------------- verdicts
def test_check_of_an_open_exercise(capsys):
    @exercise("00.1")
    def composite(person, alpha, scene):
        raise TODO

    assert check(composite).status == "not attempted"
    assert "○ Exercise 00.1 composite: not attempted: `raise TODO` still stands" in capsys.readouterr().out


def test_check_of_a_right_answer_and_the_progress_file(capsys):
    verdict = check(exercise("00.1")(right))
    assert verdict.status == "passed", verdict
    assert capsys.readouterr().out == "✓ Exercise 00.1 right: passed\n"
    assert '"exercise": "00.1", "status": "passed"' in exercises.PROGRESS.read_text()


def test_a_progress_file_that_cannot_be_written_is_no_problem(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(exercises, "PROGRESS", tmp_path / "file" / "progress.jsonl")
    assert check(exercise("00.1")(right)).status == "passed"


def test_strict_mode_raises(monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")
    assert check(exercise("00.1")(right)).status == "passed"
    with pytest.raises(NotPassed, match="00.1 wrong: failed"):

        def wrong(person, alpha, scene):
            return person

        check(exercise("00.1")(wrong))


def test_a_function_without_the_decorator_is_refused():
    with pytest.raises(TypeError, match="@exercise"):
        check(right)


def test_a_verdict_in_a_notebook_is_escaped_html():
    shown = Verdict("00.1", "f", "failed", "expected a < b", printed="<script>")._repr_html_()
    assert "a &lt; b" in shown and "&lt;script&gt;" in shown and "<script>" not in shown


def test_a_notebook_shows_each_verdict_once(monkeypatch):
    shown = []
    monkeypatch.setattr(guard, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    verdict = check(exercise("00.1")(right))
    verdict._ipython_display_()  # what a notebook does with a cell's last value
    assert len(shown) == 1 and shown[0]["text/plain"] == str(verdict) and "passed</b>" in shown[0]["text/html"]
    verdict._ipython_display_()  # in a later cell
    assert len(shown) == 2


# ------------------------------------------------------------------------------------------------- bad learner code
def endless(person, alpha, scene):
    while True:
        pass


def asleep(person, alpha, scene):
    time.sleep(1000)


def endless_and_stubborn(person, alpha, scene):
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def list_without_end(person, alpha, scene):
    values = [0.0]
    while True:
        values += values


def tensors_without_end(person, alpha, scene):
    kept = []
    while True:
        kept.append(torch.ones(4_000_000))


def one_huge_tensor(person, alpha, scene):
    return torch.zeros(10**12)


def nothing(person, alpha, scene):
    weight = alpha[..., None]
    weight * person + (1 - weight) * scene


def numpy_array(person, alpha, scene):
    return right(person, alpha, scene).numpy()


def channels_first(person, alpha, scene):
    return right(person, alpha, scene)[:2].permute(2, 0, 1)


def double_precision(person, alpha, scene):
    return right(person, alpha, scene).double()


def another_device(person, alpha, scene):
    return right(person, alpha, scene).to("meta")


def not_a_number(person, alpha, scene):
    return right(person, alpha, scene) * (alpha / alpha)[..., None]


def infinite(person, alpha, scene):
    return right(person, alpha, scene) + torch.tensor(1.0) / 0


def exception(person, alpha, scene):
    return person[99]


def exception_in_another_function(person, alpha, scene):
    return exception(person, alpha, scene)


def wrong_arguments(person, alpha):
    return person


def leaves_python(person, alpha, scene):
    sys.exit("done")


def leaves_at_once(person, alpha, scene):
    os._exit(0)


def pressed_stop(person, alpha, scene):
    raise KeyboardInterrupt


def crashes(person, alpha, scene):
    import ctypes

    ctypes.string_at(0)


def recursion(person, alpha, scene):
    return recursion(person, alpha, scene)


def recursion_without_limit(person, alpha, scene):
    sys.setrecursionlimit(10**9)
    return list(map(lambda _: recursion_without_limit(person, alpha, scene), [0]))


def uses_a_lock(person, alpha, scene):
    with LOCK:
        return right(person, alpha, scene)


def speaks_without_end(person, alpha, scene):
    raise ValueError("x" * 10**7)


def closes_every_file(person, alpha, scene):
    os.closerange(0, 100)
    return right(person, alpha, scene)


def closes_every_file_and_hangs(person, alpha, scene):
    os.closerange(0, 100)
    endless_and_stubborn(person, alpha, scene)


BAD = [
    (endless, r"still running after 1.5 s in line \d+: `(while True:|pass)`. Is there a loop"),
    (asleep, r"still running after 1.5 s in line \d+: `time.sleep\(1000\)`"),
    (endless_and_stubborn, "still running after 1.5 s"),
    (list_without_end, "more memory than a check may use|used more than 0.2 GB"),
    (tensors_without_end, "more memory than a check may use|used more than 0.2 GB"),
    (one_huge_tensor, r"more memory than a check may use in line \d+: `return torch.zeros"),
    (nothing, "nothing came back .None.. Does every path of your function end with return"),
    (numpy_array, "a ndarray|a NumPy array came back, a tensor was expected"),
    (channels_first, "expected"),
    (double_precision, "dtype is float64, float32 was expected"),
    (another_device, "device 'meta', 'cpu' was expected"),
    (not_a_number, r"of 27 values are NaN, the first at \[0, 1, 0\]"),
    (infinite, "27 of 27 values are infinity"),
    (exception, r"raised IndexError: .* in line \d+: `return person\[99\]`"),
    (exception_in_another_function, r"raised IndexError: .* of exception: `return person\[99\]`"),
    (wrong_arguments, "could not be called as the exercise calls it: .*Keep the arguments"),
    (leaves_python, r"called exit\(\) in line \d+"),
    (leaves_at_once, "ended the Python process .exit code 0."),
    (pressed_stop, "KeyboardInterrupt"),
    (crashes, "crashed Python itself .SIGSEGV."),
    (recursion, r"calls itself too deeply in line \d+"),
    (recursion_without_limit, "crashed Python itself|more memory|calls itself"),
    (uses_a_lock, "uses 'LOCK' from outside, a lock, which cannot be handed"),
    (speaks_without_end, "raised ValueError: x{600} in line"),
    (closes_every_file, "ended the Python process"),
    (closes_every_file_and_hangs, "still running after 1.5 s"),
]


@pytest.mark.parametrize("function, says", BAD, ids=[function.__name__ for function, _ in BAD])
def test_bad_code_gets_its_own_verdict_and_the_next_check_works(function, says):
    guard.SECONDS = 1.5 if "running after" in says else 60.0
    verdict = check(exercise("00.1")(function))
    assert verdict.status == "failed"
    assert re.search(says, verdict.message), verdict.message
    assert len(str(verdict)) < 3000
    assert_the_next_check_works()


def test_what_is_printed_is_shortened_and_shown_with_the_verdict():
    @exercise("00.1")
    def talkative(person, alpha, scene):
        for number in range(50_000):
            print("number", number)
        os.write(1, b"below Python's own streams")
        return right(person, alpha, scene)

    verdict = check(talkative)
    assert verdict.status == "passed"
    assert verdict.printed.startswith("number 0\nnumber 1\n") and len(verdict.printed) < 2100
    assert "1,277,780 characters in all" in verdict.printed


def test_a_check_runs_in_the_learners_folder_with_fixed_seeds(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    @exercise("00.1")
    def where(person, alpha, scene):
        print(os.getcwd(), torch.rand(()).item())
        return right(person, alpha, scene)

    first, second = check(where), check(where)
    assert first.printed == second.printed and first.printed.startswith(str(tmp_path))


def test_processes_that_a_check_leaves_behind_are_ended(tmp_path):
    marker = tmp_path / "pid"

    @exercise("00.1")
    def leaves_a_process(person, alpha, scene):
        import subprocess

        marker.write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]).pid))
        return right(person, alpha, scene)

    assert check(leaves_a_process).status == "passed"
    left = int(marker.read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process still runs"
        time.sleep(0.02)


def test_functions_of_a_notebook_cell_travel_by_value_with_what_they_use(chapter):
    """A cell is in no file and its module is __main__: helpers, constants, classes and open exercises come along."""
    cell = """
import torch
ONE = torch.ones(())
class Mixer:
    def __call__(self, a, b, weight): return weight * a + (ONE - weight) * b
@exercise("97.1")
def double(x):
    raise TODO
@exercise("00.1")
def composite(person, alpha, scene):
    return Mixer()(person, scene, alpha[..., None])
@exercise("00.1")
def slip(person, alpha, scene):
    weight = alpha[:, None]
    return Mixer()(person, scene, weight)[7]
"""
    import linecache

    linecache.cache["<cell 5>"] = (len(cell), None, cell.splitlines(True), "<cell 5>")
    names = {"__name__": "__main__", "exercise": exercise, "TODO": TODO}
    exec(compile(cell, "<cell 5>", "exec"), names)
    assert check(names["composite"]).status == "passed"
    verdict = check(names["slip"])
    assert "in line 15: `return Mixer()(person, scene, weight)[7]`" in verdict.message


# ------------------------------------------------------------------------------------------------ the guard itself
def test_the_guard_is_kept_and_a_new_one_starts_when_it_was_killed():
    check(exercise("00.1")(right))
    first = guard.start().process.pid
    check(exercise("00.1")(right))
    assert guard.start().process.pid == first
    guard.start().process.kill()
    guard.start().process.wait()
    assert_the_next_check_works()
    assert guard.start().process.pid != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="stopped by a signal")
def test_the_stop_button_during_a_check_reaches_the_learner_and_the_next_check_works(monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 100)
    check(exercise("00.1")(right))
    server = psutil.Process(guard.start().process.pid)
    running = []

    def press_stop():
        while not server.children():
            time.sleep(0.01)
        running.extend(server.children())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        check(exercise("00.1")(endless))
    running[0].wait(timeout=20)  # what the learner stopped does not go on in the background
    assert_the_next_check_works()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kernel is killed by a signal")
def test_the_guard_ends_with_its_kernel():
    kernel = "from course_lib import guard; import time; print(guard.start().process.pid, flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", kernel], stdout=subprocess.PIPE, text=True, cwd=paths.ROOT)
    server = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    server.wait(timeout=60)


def test_a_guard_that_cannot_start_says_so(monkeypatch, tmp_path):
    guard.stop()
    monkeypatch.setattr(sys, "executable", str(Path(sys.executable).parent / "python"))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    with pytest.raises(guard.GuardError, match="course check-env"):
        check(exercise("00.1")(right))


def test_without_fork_the_guard_itself_runs_the_check_and_is_replaced():
    """As on Windows. Slower after a hang, for the guard has to start again."""
    guard.start(fork=False)
    try:
        for function, says in (
            (exception, "raised IndexError"),
            (endless, "still running after 1.5 s"),
            (tensors_without_end, "used more than 0.2 GB"),
            (leaves_at_once, "ended the Python process"),
        ):
            guard.SECONDS = 1.5 if "running after" in says else 60.0
            assert re.search(says, check(exercise("00.1")(function)).message)
        assert_the_next_check_works()
        assert guard.start(fork=False).fork is False
    finally:
        guard.stop()

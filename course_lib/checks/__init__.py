"""What tells a learner whether an answer is right, and why not. One file a chapter: `course_lib/checks/chNN.py`.

A check calls the learner's function and raises `Wrong("words that help")`; returning means that the answer is right:

    @check_for("01.1")
    def axis_angle(answer):
        expect_close(answer(torch.zeros(2, 3)), torch.eye(3).expand(2, 3, 3), "the rotation of a zero vector")

    @wrong_answer("01.1", says="transpose")  # a mistake that the check must catch, and words of its message
    def transposed(axis_angle): ...

A check runs in a process of its own (`course_lib.guard`), forked with the check file already loaded: what the file
computes at import (a body, a picture) is computed once. Keep slow set-up there and the check itself below 0.3 s.
"""

import importlib
import math
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class Wrong(Exception):
    """A wrong answer. The text is shown to the learner: what was found, where, and what was expected."""


class OutOfTime(BaseException):
    """Raised in the learner's code when a check has taken too long. (`except Exception` must not catch it.)"""


@dataclass(frozen=True)
class WrongAnswer:
    """A mistake that learners make, and the words (a regular expression) that the check's message must contain."""

    function: Callable
    says: str


CHECKS: dict[str, Callable] = {}
WRONG_ANSWERS: dict[str, list[WrongAnswer]] = {}


def check_for(exercise: str) -> Callable:
    """Register the decorated function as the check of an exercise, e.g. `@check_for("01.1")`."""

    def register(check: Callable) -> Callable:
        earlier = CHECKS.get(exercise)
        if earlier and (earlier.__module__, earlier.__name__) != (check.__module__, check.__name__):
            raise ValueError(f"exercise {exercise} has two checks, {earlier.__name__} and {check.__name__}: keep one")
        CHECKS[exercise] = check
        return check

    return register


def wrong_answer(exercise: str, says: str) -> Callable:
    """Register the decorated function as a wrong answer whose message must match the regular expression `says`."""

    def register(function: Callable) -> Callable:
        WRONG_ANSWERS.setdefault(exercise, []).append(WrongAnswer(function, says))
        return function

    return register


def load(exercise: str) -> Callable:
    """The check of an exercise; its file `course_lib/checks/chNN.py` is imported when first needed."""
    name = f"course_lib.checks.ch{exercise[:2]}"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise LookupError(f"exercise {exercise} has no check: write {name.replace('.', '/')}.py") from None
    if exercise not in CHECKS:
        raise LookupError(
            f'exercise {exercise} has no check: add @check_for("{exercise}") to {name.replace(".", "/")}.py'
        )
    return CHECKS[exercise]


# ---------------------------------------------------------------------------------------------- running one check
def judge(exercise: str, answer: Callable) -> tuple[str, str]:
    """Run the check of an exercise on an answer, in this process -> ("passed" or "failed", words for the learner)."""
    check = load(exercise)
    for seed in (torch.manual_seed, np.random.seed, random.seed):  # the same verdict every time
        seed(0)
    try:
        check(answer)
    except Wrong as wrong:
        return "failed", str(wrong)
    except BaseException as error:  # the learner's code may raise anything, SystemExit included
        return "failed", explain(error, answer)
    return "passed", ""


def explain(error: BaseException, answer: Callable) -> str:
    """An exception out of a check, in words: what was raised, in which of the learner's lines, and what to do."""
    if hasattr(error, "explained"):  # by the process in which a graded answer runs
        return error.explained
    name = getattr(answer, "__name__", "your function")
    where = _line_of(error, answer)
    said = f"{type(error).__name__}: {_first_lines(str(error))}" if str(error) else type(error).__name__
    if isinstance(error, OutOfTime):
        return f"{name} was still running after {error.args[0]:g} s{where}. Is there a loop that never ends?"
    if isinstance(error, SystemExit):
        return f"{name} called exit(){where}. End a function with return; exit() would end Python itself."
    if isinstance(error, KeyboardInterrupt):
        return f"{name} raised KeyboardInterrupt{where}, as if someone had pressed stop. Leave that to the keyboard."
    if isinstance(error, RecursionError):
        return f"{name} calls itself too deeply{where} (RecursionError): where does the recursion end?"
    if _is_out_of_memory(error):
        return f"{name} asked for more memory than a check may use{where}. Look for a tensor larger than meant: {said}"
    if where:
        return f"{name} raised {said}{where}."
    if isinstance(error, TypeError) and f"{name}()" in str(error):
        return f"{name} could not be called as the exercise calls it: {error}. Keep the arguments as they were given."
    return f"What {name} returned could not be used ({said}). Compare it with what its docstring promises."


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _first_lines(text: str, lines: int = 6, characters: int = 600) -> str:
    return "\n".join(text.splitlines()[:lines])[:characters]


def _line_of(error: BaseException, answer: Callable) -> str:
    """' in line 3: `x = y[4]`' for the deepest frame in the learner's own file; '' where the answer was not running."""
    code = getattr(answer, "__code__", None)
    frames = list(traceback.walk_tb(error.__traceback__))
    running = [i for i, (frame, _) in enumerate(frames) if frame.f_code is code]
    if not running:
        return ""
    own = [(frame, line) for frame, line in frames[running[0] :] if frame.f_code.co_filename == code.co_filename]
    frame, line = own[-1]
    text = traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name).line
    inside = "" if frame.f_code is code else f" of {frame.f_code.co_name}"
    return f" in line {line}{inside}" + (f": `{text}`" if text else "")


# ------------------------------------------------------------------------------------------------- expectations
def expect(condition: bool | Tensor, message: str) -> None:
    """Raise Wrong(message) unless the condition holds."""
    if not bool(condition):
        raise Wrong(message)


def expect_close(actual, expected, what: str, atol: float = 1e-5, rtol: float = 1e-4) -> None:
    """Type, shape, dtype, device, NaN and values of `actual` (a tensor, array, number, or a tuple of them).

    Each has its own message, which begins with `what`, e.g. "the rotation of a zero vector".
    """
    if isinstance(expected, tuple | list):
        expect_length(actual, len(expected), what)
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            name = expected._fields[i] if hasattr(expected, "_fields") else f"item {i}"
            expect_close(one, other, f"{what}, {name}", atol, rtol)
    elif isinstance(expected, Tensor | np.ndarray):
        expect_like(actual, expected, what)
        expect_finite(actual, what, expected)
        _expect_values(torch.as_tensor(actual), torch.as_tensor(expected), what, atol, rtol)
    else:
        _expect_number(actual, expected, what, atol, rtol)


def expect_not_close(actual, mistake, message: str, atol: float = 1e-5) -> None:
    """Raise Wrong(message) if `actual` is what a known mistake gives; silent where shape, device or type differ."""
    mistake = torch.as_tensor(mistake)
    if not isinstance(actual, Tensor) or (actual.shape, actual.device) != (mistake.shape, mistake.device):
        return
    if torch.allclose(actual.detach().double(), mistake.double(), atol=atol, rtol=1e-4):
        raise Wrong(message)


def expect_type(actual, kind: type | tuple[type, ...], what: str) -> None:
    """`actual` is an instance of `kind`; None gets the question that it nearly always answers."""
    if actual is None:
        raise Wrong(f"{what}: nothing came back (None). Does every path of your function end with return?")
    if not isinstance(actual, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        meant = " or ".join(_kind_name(one) for one in kinds)
        raise Wrong(f"{what}: {_kind_name(type(actual))} came back, {meant} was expected")


def expect_length(actual, length: int, what: str) -> None:
    """`actual` is a tuple or list of so many items."""
    expect_type(actual, (tuple, list), what)
    expect(len(actual) == length, f"{what}: {len(actual)} values came back, {length} were expected")


def expect_like(actual, expected: Tensor | np.ndarray, what: str) -> None:
    """Type, shape, dtype and device as those of `expected`."""
    if isinstance(expected, np.ndarray):
        expect_type(actual, np.ndarray, what)
        expect_shape(actual, expected.shape, what)
        expect(actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, {expected.dtype} was expected")
        return
    expect_tensor(actual, tuple(expected.shape), expected.dtype, expected.device, what)


def expect_tensor(actual, shape, dtype: torch.dtype, device="cpu", what: str = "the answer") -> None:
    """A tensor of this shape, dtype and device."""
    expect_type(actual, Tensor, what)
    expect_shape(actual, shape, what)
    expect_dtype(actual, dtype, what)
    expect_device(actual, device, what)


def expect_shape(actual, shape, what: str) -> None:
    """The shape, with the sizes that differ named."""
    found, meant = tuple(actual.shape), tuple(shape)
    if found == meant:
        return
    message = f"{what}: the shape is {_shape(found)}, {_shape(meant)} was expected"
    if sorted(found) == sorted(meant):
        message += ". The sizes are there in another order: permute or transpose"
    elif math.prod(found) == math.prod(meant):
        message += ". It holds as many numbers: reshape, or look for a dimension of size 1 too many or too few"
    elif len(found) == len(meant):
        message += (
            f". Dimension {[a == b for a, b in zip(found, meant, strict=True)].index(False)} is the first that differs"
        )
    raise Wrong(message)


def expect_dtype(actual: Tensor, dtype: torch.dtype, what: str) -> None:
    """The dtype, with the usual reason where there is one."""
    if actual.dtype == dtype:
        return
    message = f"{what}: the dtype is {_dtype(actual.dtype)}, {_dtype(dtype)} was expected"
    if actual.dtype == torch.float64 and dtype == torch.float32:
        message += ". A float64 tensor (from NumPy, perhaps) entered: create tensors with the dtype of the input"
    elif dtype.is_floating_point and not actual.dtype.is_floating_point:
        message += ". Whole numbers lose what is behind the point: convert with .float() before the arithmetic"
    raise Wrong(message)


def expect_device(actual: Tensor, device, what: str) -> None:
    """The device: an answer stays where its input is."""
    if actual.device.type != torch.device(device).type:
        raise Wrong(
            f"{what}: it is on device {actual.device.type!r}, {torch.device(device).type!r} was expected. "
            "Create tensors with device=input.device"
        )


def expect_finite(actual, what: str, expected=None) -> None:
    """No NaN or infinity but where `expected` has the very same."""
    values = torch.as_tensor(actual).detach()
    if not values.dtype.is_floating_point:
        return
    meant = torch.zeros_like(values) if expected is None else torch.as_tensor(expected)
    for name, bad, hint in (
        ("NaN", values.isnan() & ~meant.isnan(), "0/0, the root of a negative number and inf - inf make NaN"),
        ("infinity", values.isinf() & (values != meant), "a division by zero or an overflow makes infinity"),
    ):
        if bad.any():
            place = _index(bad.nonzero()[0])
            raise Wrong(f"{what}: {int(bad.sum())} of {bad.numel()} values are {name}, the first at {place}. {hint}")


def expect_equal(actual, expected, what: str) -> None:
    """Exactly equal: whole numbers, booleans, strings, tuples of them, or tensors."""
    if isinstance(expected, Tensor | np.ndarray):
        expect_close(actual, expected, what, atol=0, rtol=0)
        return
    expect_type(actual, object, what)
    if isinstance(actual, Tensor) and actual.numel() == 1:
        actual = actual.item()
    expect(actual == expected, f"{what}: {_first_lines(repr(actual))} came back, {expected!r} was expected")


def expect_raises(call: Callable, kind: type[Exception], what: str) -> None:
    """`call()` raises an exception of this kind."""
    try:
        call()
    except kind:
        return
    raise Wrong(f"{what}: {kind.__name__} was expected, nothing was raised")


def expect_unchanged(tensor: Tensor, before: Tensor, what: str) -> None:
    """The function left its input as it was: `before` is a clone from before the call."""
    if not torch.equal(tensor, before):
        raise Wrong(f"{what} was changed in place. Work on a copy: an operation without the trailing _, or .clone()")


def expect_gradient(output: Tensor, source: Tensor, what: str) -> None:
    """A gradient reaches `source` from `output`, and it is finite."""
    if not output.requires_grad:
        raise Wrong(
            f"{what}: no gradient flows to the input. Is there a .detach(), .item(), no_grad or NumPy on the way?"
        )
    (gradient,) = torch.autograd.grad(output.sum(), source, allow_unused=True)
    if gradient is None:
        raise Wrong(f"{what}: no gradient flows to the input, though to something else")
    expect_finite(gradient, f"{what}, its gradient")


def _expect_values(actual: Tensor, expected: Tensor, what: str, atol: float, rtol: float) -> None:
    if not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        _expect_same(actual, expected, what)
        return
    actual, expected = actual.detach().double(), expected.detach().double()
    error = torch.where(actual == expected, 0.0, (actual - expected).abs()).nan_to_num(0.0)
    bad = error > atol + rtol * expected.abs().nan_to_num(0.0, 0.0, 0.0)
    if not bad.any():
        return
    worst = _unravel(int(torch.where(bad, error, -1.0).argmax()), error.shape)
    found, meant = actual[worst].item(), expected[worst].item()
    at = f" at {_index(worst)}" if worst else ""
    count = f"{int(bad.sum())} of {bad.numel()} values are off, the worst{at}: " if worst else ""
    raise Wrong(f"{what}: {count}{found:.6g} came back, {meant:.6g} was expected")


def _expect_same(actual: Tensor, expected: Tensor, what: str) -> None:
    bad = actual != expected
    if not bad.any():
        return
    first = _unravel(int(bad.flatten().int().argmax()), bad.shape)
    at = f" at {_index(first)}" if first else ""
    count = f"{int(bad.sum())} of {bad.numel()} values are off, the first{at}: " if first else ""
    raise Wrong(f"{what}: {count}{actual[first].item()} came back, {expected[first].item()} was expected")


def _expect_number(actual, expected: float, what: str, atol: float, rtol: float) -> None:
    if isinstance(actual, Tensor | np.ndarray | np.generic):
        actual = torch.as_tensor(actual)
        if actual.numel() != 1:
            expect_shape(actual, (), what)
        actual = actual.item()
    expect_type(actual, (int, float), what)
    if math.isnan(actual) and not math.isnan(expected):
        raise Wrong(f"{what}: NaN came back, {expected:.6g} was expected")
    if not math.isclose(actual, expected, abs_tol=atol, rel_tol=rtol):
        raise Wrong(f"{what}: {actual:.6g} came back, {expected:.6g} was expected")


def _unravel(flat: int, shape) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, tuple(shape))) if len(shape) else ()


def _index(place) -> str:
    return "[" + ", ".join(str(int(i)) for i in place) + "]"


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind_name(kind: type) -> str:
    names = {Tensor: "a tensor", np.ndarray: "a NumPy array", tuple: "a tuple", list: "a list", int: "a whole number"}
    return names.get(kind) or ("a number" if kind is float else f"a {kind.__name__}")

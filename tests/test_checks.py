"""Every check of every chapter: it passes the course's answer, and each wrong answer fails with the message meant."""

import re
from functools import cache

import pytest
import torch

from course_lib import chapter_source, checks, exercises
from course_lib.checks import Wrong

SOURCES = {chapter.number: chapter for chapter in chapter_source.chapters()}


@cache
def exercises_of(number: str) -> dict[str, str]:
    """Exercise id -> qualified name of its function, read from the source of a chapter ("01")."""
    cells = chapter_source.read_cells(SOURCES[number])
    found = [exercise for cell in cells if cell.kind == "code" for exercise in cell.exercises]
    assert len({exercise.id for exercise in found}) == len(found), f"chapter {number} has two exercises of one name"
    return {exercise.id: exercise.qualname for exercise in found}


EXERCISES = [identifier for number in SOURCES for identifier in exercises_of(number)]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("chapter", SOURCES)
def test_each_chapter_has_exercises_and_no_check_without_one(chapter):
    found = exercises_of(chapter)
    low, high = (1, 1) if chapter == "00" else (5, 10)
    assert low <= len(found) <= high, f"chapter {chapter} has {len(found)} exercises, {low} to {high} are meant"
    assert all(exercises.is_exercise_id(identifier) and identifier[:2] == chapter for identifier in found)
    checks.load(next(iter(found)))
    registered = {identifier for identifier in {**checks.CHECKS, **checks.WRONG_ANSWERS} if identifier[:2] == chapter}
    assert registered == set(found)


@pytest.mark.parametrize("identifier", EXERCISES)
def test_the_courses_answer_passes(identifier):
    answer = exercises.course_answer(identifier, exercises_of(identifier[:2])[identifier])
    assert checks.judge(identifier, answer) == ("passed", "")


@pytest.mark.parametrize("identifier", EXERCISES)
def test_each_wrong_answer_fails_with_the_message_meant(identifier):
    checks.load(identifier)
    wrong = checks.WRONG_ANSWERS.get(identifier, [])
    assert len(wrong) >= 2, f"exercise {identifier} has {len(wrong)} wrong answers in its check file, 2 are needed"
    for mistake in wrong:
        status, message = checks.judge(identifier, mistake.function)
        name = f"{identifier}, wrong answer {mistake.function.__name__}"
        assert status == "failed", f"{name} passes the check"
        assert re.search(mistake.says, message), f"{name}: {mistake.says!r} is not in the message {message!r}"


@pytest.mark.parametrize("identifier", EXERCISES)
def test_an_open_exercise_is_not_attempted(identifier, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(exercises, "PROGRESS", tmp_path / "progress.jsonl")

    @exercises.exercise(identifier)
    def stub(*arguments):
        raise exercises.TODO

    assert exercises.check(stub).status == "not attempted"


# ------------------------------------------------------------------------------------------------ the expectations
NAN, INF = float("nan"), float("inf")
ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "actual, expected, says",
    [
        (None, ONES, "nothing came back"),
        (1.0, ONES, "a number came back, a tensor was expected"),
        (ONES.numpy(), ONES, "a NumPy array came back, a tensor was expected"),
        (ONES.T, ONES, r"shape is \(3, 2\), \(2, 3\) was expected. The sizes are there in another order"),
        (ONES.flatten(), ONES, r"shape is \(6,\), \(2, 3\) was expected. It holds as many numbers"),
        (torch.ones(2, 4), ONES, "Dimension 1 is the first that differs"),
        (torch.ones(2), ONES, r"shape is \(2,\), \(2, 3\) was expected$"),
        (ONES.double(), ONES, "dtype is float64, float32 was expected. A float64 tensor"),
        (ONES.long(), ONES, "dtype is int64, float32 was expected. Whole numbers lose"),
        (ONES.to("meta"), ONES, "device 'meta', 'cpu' was expected"),
        (ONES * NAN, ONES, r"6 of 6 values are NaN, the first at \[0, 0\]"),
        (ONES / 0, ONES, "6 of 6 values are infinity"),
        (ONES, ONES / 0, r"the worst at \[0, 0\]: 1 came back, inf was expected"),
        (torch.tensor([1.0, 5.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]), r"2 of 3 .* \[1\]: 5 came back, 2 was expected"),
        (torch.tensor([1, 5]), torch.tensor([1, 2]), r"1 of 2 values are off, the first at \[1\]: 5 came back, 2 was"),
        (torch.tensor(2.0), torch.tensor(1.0), "^x: 2 came back, 1 was expected"),
        (torch.tensor([1.0, 2.0]), 1.0, "shape is"),
        (2, 1.0, "2 came back, 1 was expected"),
        (NAN, 1.0, "NaN came back"),
        ("one", 1.0, "a str came back, a whole number or a number was expected"),
        ((ONES,), (ONES, ONES), "1 values came back, 2 were expected"),
        (ONES, (ONES, ONES), "a tensor came back, a tuple or a list was expected"),
        ((ONES, 2 * ONES), (ONES, ONES), r"x, item 1: 6 of 6 values are off, the worst at \[0, 0\]: 2 came back"),
    ],
)
def test_expect_close_says_what_is_wrong(actual, expected, says):
    with pytest.raises(Wrong, match=says):
        checks.expect_close(actual, expected, "x")


@pytest.mark.parametrize(
    "actual, expected",
    [
        (ONES + 1e-6, ONES),
        (torch.tensor([NAN, INF, -INF]), torch.tensor([NAN, INF, -INF])),
        (ONES.numpy(), ONES.numpy()),
        (torch.tensor(1.0), 1.0),
        (1, 1.0),
        ((ONES, 2.0), (ONES, 2.0)),
        (torch.ones(0, 3), torch.ones(0, 3)),
        (torch.tensor([True]), torch.tensor([True])),
    ],
)
def test_expect_close_accepts_what_is_right(actual, expected):
    checks.expect_close(actual, expected, "x")


def test_the_other_expectations():
    with pytest.raises(Wrong, match="no gradient flows"):
        checks.expect_gradient(ONES, ONES, "x")
    with pytest.raises(Wrong, match="its gradient: 1 of 1 values are infinity"):
        zero = torch.zeros(1, requires_grad=True)
        checks.expect_gradient(zero.sqrt(), zero, "x")
    with pytest.raises(Wrong, match="ValueError was expected, nothing was raised"):
        checks.expect_raises(lambda: None, ValueError, "x")
    with pytest.raises(Wrong, match="3 came back, 4 was expected"):
        checks.expect_equal(3, 4, "x")
    with pytest.raises(Wrong, match="changed in place"):
        checks.expect_unchanged(ONES, 2 * ONES, "x")
    with pytest.raises(Wrong, match="the mistake"):
        checks.expect_not_close(ONES, ONES, "the mistake")
    checks.expect_raises(lambda: [][0], IndexError, "x")
    checks.expect_equal(torch.tensor(3), 3, "x")
    checks.expect_not_close(ONES, 2 * ONES, "the mistake")


def test_a_missing_check_is_named():
    with pytest.raises(LookupError, match="write course_lib/checks/ch98.py"):
        checks.load("98.1")
    with pytest.raises(LookupError, match='add @check_for\\("00.77"\\)'):
        checks.load("00.77")


def test_two_checks_for_one_exercise_are_refused():
    checks.load("00.1")
    with pytest.raises(ValueError, match="two checks"):
        checks.check_for("00.1")(lambda answer: None)

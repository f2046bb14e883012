"""What a learner has done, from records that may be broken."""

import json

import pytest

from course_lib import progress

SCRIPT = (
    '@exercise("01.1")\ndef first(x):\n    raise TODO\n\nclass A:\n    @exercise("01.2")\n    def second(self): ...\n'
)


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "01_cameras.py").write_text(SCRIPT)
    return tmp_path / "progress.jsonl", folder


def record(file, *pairs, end=""):
    made = [{"exercise": name, "status": status, "time": "2026-03-01T10:00:00+0000"} for name, status in pairs]
    file.write_text("".join(json.dumps(one) + "\n" for one in made) + end)


def test_each_chapter_has_a_line_and_nothing_recorded_is_said(there):
    lines = progress.lines(None, *there)
    assert "01_cameras" in lines[0] and "0 of  2" in lines[0] and "nothing is recorded" in lines[1]


def test_tries_are_counted_and_a_pass_stays_one(there):
    record(there[0], ("01.1", "failed"), ("01.1", "passed"), ("01.1", "failed"), ("01.2", "not attempted"))
    assert "1 of  2  3 tries, last 2026-03-01" in progress.lines(None, *there)[0]
    shown = progress.lines("cameras", *there)
    assert shown[1] == "  ✓ 01.1   first: passed (3 tries, the last one failed)"
    assert shown[2] == "  ○ 01.2   second: not attempted"


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"exercise": "01.1"}', '{"exercise": 1, "status": "passed", "time": ""}']
)
def test_broken_lines_are_counted_and_left_out(there, line):
    record(there[0], ("01.1", "passed"), end=line + "\n")
    assert progress.lines("1", *there)[-1] == "1 line of progress.jsonl could not be read and were left out"


def test_an_unknown_chapter_is_refused_with_the_names(there):
    with pytest.raises(ValueError, match="use one of 01_cameras"):
        progress.lines("99", *there)


def test_the_checks_own_records_are_understood(there, monkeypatch):
    from course_lib import exercises

    monkeypatch.setattr(exercises, "PROGRESS", there[0])
    exercises._remember(exercises.Verdict("01.2", "second", "passed"))
    assert progress.read_tries(there[0])[0]["01.2"].passed

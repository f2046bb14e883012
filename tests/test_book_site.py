"""The whole site, built once: links, pictures, numbers; and in a real browser where there is one."""

import json
import os
import shutil
import subprocess

import pytest

from course_lib.book.inspect import find_faults
from course_lib.book.links import outlines
from course_lib.book.make import BROWSER_PACKAGE, BookFailed, build_book, fetch
from course_lib.paths import ROOT

BOOK = ROOT / "build" / "book"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def built():
    """(the site, Sphinx's warnings, why the browser's files are missing). With COURSE_BOOK_BUILT=1 a site that is there
    already is taken."""
    try:
        browser = fetch(BROWSER_PACKAGE, BOOK / "npm")
        complaint = "" if browser and CHROMIUM else "there is no Chromium on this machine"
    except BookFailed as error:
        complaint = str(error)
    if os.environ.get("COURSE_BOOK_BUILT") and (BOOK / "html" / "index.html").exists():
        return BOOK / "html", [], complaint
    try:
        page, warnings = build_book(BOOK)
    except BookFailed:
        if not complaint:
            raise
        page, warnings = build_book(BOOK, with_browser_files=False)
    return page.parent, warnings, complaint


def test_sphinx_has_nothing_to_say(built):
    assert built[1] == []


def test_no_link_is_broken_nothing_comes_from_outside_no_picture_is_mute(built):
    assert find_faults(built[0]) == []


def test_every_chapter_has_its_exercises_equations_and_answers(built):
    for one in outlines().values():
        text = (built[0] / one.page).read_text(encoding="utf-8")
        for kind, numbers in (("equation", one.equations), ("exercise", one.exercises), ("section", one.sections)):
            missing = [number for number in numbers if f'id="{kind}-{number}"' not in text]
            assert not missing, f"{one.page}: {kind} {missing}"
        assert text.count('<details class="answer">') == len(one.exercises)


def test_the_reference_has_what_the_docstrings_say(built):
    text = (built[0] / "reference" / "course_lib.chapters.cameras.html").read_text(encoding="utf-8")
    assert 'id="course_lib.chapters.cameras.plucker_rays"' in text


def test_in_a_browser(built):
    folder, _, complaint = built
    if complaint:
        pytest.skip(f"not looked at in a browser: {complaint}")
    names = [
        "index.html",
        "papers.html",
        "notation.html",
        outlines()["01"].page,
        max(one.page for one in outlines().values()),
    ]
    walker = [
        "node",
        str(ROOT / "book" / "browse.mjs"),
        str(folder),
        CHROMIUM,
        str(fetch(BROWSER_PACKAGE, BOOK / "npm")),
    ]
    done = subprocess.run([*walker, *names], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    *pages, search = json.loads(done.stdout)
    for page in pages:
        assert not page["errors"] and not page["outside"], page
        assert page["rendered"] >= page["math"] and page["broken"] == 0, page
        assert page["light"] != page["dark"], page
        assert not page["widgets"] or page["drawn"], page
    assert sum(page["math"] for page in pages) > 50
    assert any("Bodies" in title for title in search["found"]), search

"""The book's parts: anchors, links, answers, alternative text, the papers' index; and its inspection."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.book import docstrings, inspect, lists, papers
from course_lib.book.links import Linker, outlines
from course_lib.book.pages import (
    WIDGET,
    alt_text,
    answers,
    code_of_equations,
    make_page,
    named_equations,
    with_equation_links,
    with_heading_anchors,
)
from course_lib.chapter_source import chapters, find_chapter
from course_lib.paths import ROOT

PAPERS = ROOT / "book" / "papers.toml"


def notebook(*cells):
    """Text and code in turn."""
    kinds = (new_markdown_cell, new_code_cell)
    return new_notebook(cells=[kinds[index % 2](cell) for index, cell in enumerate(cells)])


def test_equations_lead_to_the_code_that_names_them_or_else_follows():
    book = notebook("$$a = b \\tag{01.1}$$", "def first(): ...", "so", "def other():\n    '''Equation (01.1).'''")
    assert code_of_equations(book) == {"01.1": [3]}
    assert code_of_equations(notebook("$$a \\tag{01.2}$$", "def first(): ...")) == {"01.2": [1]}
    assert code_of_equations(notebook("$$a \\tag{01.2}$$\n\n## 4 Next", "def first(): ...")) == {"01.2": []}
    text = with_equation_links("$$a \\tag{01.2}$$", book, {"01.2": [1]}, set())
    assert 'id="equation-01.2"' in text and '<a href="#cell-1"><code>first</code></a>' in text


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("equation 04.2", ["04.2"]),
        ("ACAE equations 1-2.", ["1", "2"]),
        ("Eq. 3 and 4", ["3", "4"]),
        ("equation (14.3): points", ["14.3"]),
        ("an equation of 3 terms", []),
    ],
)
def test_named_equations(words, numbers):
    assert named_equations(words) == numbers


def test_headings_get_anchors_and_others_do_not():
    text = with_heading_anchors("## 3 The pinhole\n\n### Exercise 01.3 — to pixels\n\n## What to remember")
    assert re.findall(r'id="([^"]+)"', text) == ["section-3", "exercise-01.3"]


def test_every_exercise_has_a_folded_answer_without_marks():
    for chapter in chapters():
        found = answers(chapter)
        assert set(found) == set(outlines()[chapter.number].exercises), chapter.name
        assert not any("SOLUTION" in code or "@exercise" in code or "raise TODO" in code for code in found.values())
    page = make_page(find_chapter("02"))
    folded = [cell.source for cell in page.cells if cell.source.startswith('<details class="answer">')]
    assert len(folded) == len(answers(find_chapter("02")))


def test_a_picture_is_told_by_its_caption_or_by_titles_and_section():
    book = notebook("## 1 Shapes", "ax.set_title('a tall one')", "*Left: **tall**, right: $x$ short.* More.")
    assert alt_text(book, 1, "1 Shapes") == "Left: tall, right: x short. (in section: 1 Shapes)"
    book.cells[2].source = "No caption."
    assert alt_text(book, 1, "1 Shapes") == "Figure: a tall one (in section: 1 Shapes)"


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.name)
def test_no_picture_of_a_page_is_mute(chapter):
    page = make_page(chapter)
    shown = [cell for cell in page.cells if any("image/png" in o.get("data", {}) for o in cell.get("outputs", ()))]
    assert all(len(cell.metadata["mystnb"]["image"]["alt"]) > 5 for cell in shown)
    state = str(page.metadata.get("widgets", {}))
    has_widgets = any(WIDGET in o.get("data", {}) for cell in page.cells for o in cell.get("outputs", ()))
    assert not has_widgets or "'image/png'" not in state.replace("pause", "")


def test_links():
    page = Linker("02", "../", frozenset({"course_lib.train"}))
    assert page.page("<p>chapter 01</p>").count('href="../chapters/01_cameras.html"') == 1
    assert page.page("<p>chapters 01 to 03</p>").count("<a ") == 2
    assert 'href="../chapters/01_cameras.html#section-3"' in page.page("<p>chapter 01, section 3</p>")
    assert 'href="#equation-02.1"' in page.page('<span class="c1"># equation 02.1</span>')
    assert 'href="#section-4"' in page.page("<p>section 4</p>")
    assert "reference/course_lib.train.html" in page.page("<p>course_lib.train.fit</p>")
    for left in ("<p>chapter 99</p>", "<p>SMPL's equation 2</p>", "<h2>chapter 01</h2>", '<a href="x">chapter 01</a>'):
        assert page.page(left) == left


def test_the_index_of_the_papers_names_places_that_exist():
    read = papers.read(PAPERS)
    assert [len(paper.entries) for paper in read] == [18, 24, 8, 6, 2]
    text = papers.page(read, outlines())
    assert text.count("<tr>") == 58 + 5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('where = ["06.9"],', 'where = ["06.99"],', "06.99"),
        ('where = ["06.9"],', "", "give `where` or `missing`"),
        ('{ name = "Figure S1"', '{ name = "Figure S9"', "Figure S9"),
    ],
)
def test_a_wrong_entry_of_the_index_is_refused(tmp_path, old, new, words):
    text = PAPERS.read_text(encoding="utf-8")
    assert old in text
    wrong = tmp_path / "papers.toml"
    wrong.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        papers.page(papers.read(wrong), outlines())


def test_lists_are_gathered_from_the_chapters():
    known = list(outlines().values())
    assert "Sárándi" in lists.bibliography(known) and len(lists.works(known)) > 50
    assert all(one.title in lists.chapters_page(known) for one in known)
    assert lists.letters(known).count("chapters/") == len(known) - 1  # chapter 00 has no letters


def test_docstrings_become_restructured_text():
    assert docstrings.to_lines("What `x_` is: |x|, *args.") == ["What ``x_`` is: \\|x\\|, \\*args.", ""]
    assert docstrings.to_lines("a\n  b")[:2] == ["| a", "|   b"]


def site(folder, body):
    (folder / "index.html").write_text(f"<html><body id='top'>{body}</body></html>", encoding="utf-8")
    return inspect.find_faults(folder)


def test_inspection_finds_each_fault(tmp_path):
    assert site(tmp_path, "<a href='#top'>top</a><a href='index.html#top'>x</a><a href='https://a.org'>y</a>") == []
    assert "is not there" in site(tmp_path, "<a href='no.html'>x</a>")[0]
    assert "no such place" in site(tmp_path, "<a href='index.html#no'>x</a>")[0]
    assert "loaded from outside" in site(tmp_path, "<script src='https://a.org/x.js'></script>")[0]
    assert "without alternative" in site(tmp_path, "<img src='data:x' alt=''>")[0]
    (tmp_path / "index.html").unlink()
    assert inspect.find_faults(tmp_path) == [f"{tmp_path.name}: there is no page"]


def test_a_missing_notebook_is_named(tmp_path):
    chapter = type(find_chapter("01"))("01_cameras", tmp_path)
    with pytest.raises(ValueError, match="course build"):
        make_page(chapter)


def test_outputs_without_content_are_left_out():
    from course_lib.book.pages import without_noise

    drawn = new_output("execute_result", {"text/plain": "<matplotlib.image.AxesImage>"})
    bar = new_output("stream", name="stderr", text="50%")
    said = new_output("stream", name="stdout", text="result")
    assert without_noise([drawn, bar, said]) == [said]

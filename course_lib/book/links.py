"""Links in the finished HTML, where text or code names a chapter, section, exercise, equation or module."""

import os
import pickle
import re
from functools import cache
from pathlib import Path

from course_lib.book.pages import Outline, outline
from course_lib.chapter_source import chapters
from course_lib.paths import ROOT

NOTED = "COURSE_BOOK_OUTLINES"
TAGS = re.compile(r"(<[^>]+>)")
UNLINKED = ("a", "h1", "h2", "h3", "h4", "h5", "h6", "script", "style", "title", "summary", "svg")
VOID = ("br", "img", "hr", "input", "col", "meta", "link", "wbr", "source", "path")
MORE = r"(?:(?:\s*,\s+(?:and\s+)?|\s+(?:and|to|or)\s+|\s*–\s*|-){number})*"
CHAPTER = r"\d\d(?![.\d])"
EQUATION = r"\(?\d\d?(?:\.\d+)?(?![.\d]*\d)\)?"
EXERCISE = r"\d\d\.\d+"
PHRASES = re.compile(
    rf"(?P<chapter_section>\b[Cc]hapter\s+(?P<of>{CHAPTER})(?:,|:|'s|’s)?\s+sections?\s+(?P<there>\d+)\b)"
    rf"|(?P<chapters>\b[Cc]hapters?\s+{CHAPTER}{MORE.format(number=CHAPTER)})"
    rf"|(?P<equations>(?:\b[Ee]quations?|\bEq\.)\s+{EQUATION}{MORE.format(number=EQUATION)})"
    rf"|(?P<exercises>\b[Ee]xercises?\s+{EXERCISE}{MORE.format(number=EXERCISE)})"
    r"|(?P<section>\b[Ss]ection\s+(?P<here>\d+)\b(?!\s+of\b|\.\d))"
    r"|(?P<module>\bcourse_lib(?:\.\w+)+)"
)
FOREIGN = re.compile(r"(?:\b(?:SMPL(?:-X)?|METRO|paper|papers|supplement|al\.(?: \d{4})?)(?:'s|’s)?,?\s+)$")


@cache
def outlines() -> dict[str, Outline]:
    """What can be linked to, by chapter number; Sphinx's process reads what `write_outlines` noted."""
    noted = os.environ.get(NOTED, "")
    if noted:
        return pickle.loads(Path(noted).read_bytes())  # written by this build a moment ago
    return {chapter.number: outline(chapter) for chapter in chapters(ROOT)}


def write_outlines(path: Path) -> dict[str, str]:
    """Notes what can be linked to, since reading it takes seconds: the environment that finds it."""
    path.write_bytes(pickle.dumps(outlines()))
    return {NOTED: str(path)}


def anchor(address: str, words: str) -> str:
    """A link in HTML."""
    return f'<a class="reference internal" href="{address}">{words}</a>'


class Linker:
    """Puts links into one page: `chapter` is the number of the chapter that it belongs to, or empty; `to_root` leads
    from the page to the site's root; `modules` are the modules that have a page."""

    def __init__(self, chapter: str, to_root: str, modules: frozenset[str] = frozenset(), is_chapter: bool = True):
        self.chapter, self.to_root, self.modules, self.is_chapter = chapter, to_root, modules, is_chapter

    def address(self, number: str, place: str = "") -> str:
        """The address of a place in chapter `number`; empty where there is none."""
        known = outlines().get(number)
        kind, _, name = place.partition("-")
        there = {"": True, "section": name in getattr(known, "sections", ())}
        there["exercise"] = name in getattr(known, "exercises", ())
        there["equation"] = name in getattr(known, "equations", ())
        if known is None or not there[kind]:
            return ""
        fragment = f"#{place}" if place else ""
        return (
            fragment
            if place and number == self.chapter and self.is_chapter
            else f"{self.to_root}{known.page}{fragment}"
        )

    def linked(self, number: str, place: str, words: str) -> str:
        """The words as a link, or as they are where it would lead nowhere."""
        address = self.address(number, place)
        return anchor(address, words) if address else words

    def phrase(self, found: re.Match) -> str:
        """What stands in the place of a phrase that names something."""
        words, kind = found[0], found.lastgroup
        if found["chapter_section"]:
            return self.linked(found["of"], f"section-{found['there']}", words)
        if found["module"]:
            return self.module(words)
        if found["section"]:
            return self.linked(self.chapter, f"section-{found['here']}", words)
        if FOREIGN.search(found.string[: found.start()]) and found["equations"]:
            return words
        pattern, kind = next(
            (pattern, kind)
            for group, pattern, kind in (
                ("chapters", CHAPTER, ""),
                ("equations", EQUATION, "equation"),
                ("exercises", EXERCISE, "exercise"),
            )
            if found[group]
        )
        return self.numbers(words, pattern, kind)

    def numbers(self, words: str, pattern: str, kind: str) -> str:
        """`equations 01.2 and 01.3` with a link at each number, the first with its word."""
        first = rf"^[^\d(]+{pattern}"
        return re.sub(rf"{first}|{pattern}", lambda found: self.number(found[0], kind), words)

    def number(self, words: str, kind: str) -> str:
        """One number, perhaps with its word before it."""
        value = re.search(r"([\d.]+)\)?$", words)[1]
        chapter = value if not kind else value.partition(".")[0] if "." in value else self.chapter
        return self.linked(chapter, f"{kind}-{value}" if kind else "", words)

    def module(self, name: str) -> str:
        """A module's name with a link to its page; a longer name links its module."""
        parts = name.split(".")
        for length in range(len(parts), 1, -1):
            module = ".".join(parts[:length])
            if module in self.modules:
                return anchor(f"{self.to_root}reference/{module}.html", module) + name[len(module) :]
        return name

    def page(self, body: str) -> str:
        """The page's HTML with its links."""
        pieces, closed_by = TAGS.split(body), []
        for index, piece in enumerate(pieces):
            if index % 2:
                follow(piece, closed_by)
            elif piece and not closed_by:
                pieces[index] = PHRASES.sub(self.phrase, piece)
        return "".join(pieces)


def follow(tag: str, closed_by: list[str]) -> None:
    """Keeps account of the elements whose text gets no links: `closed_by` holds those that are open."""
    found = re.match(r"<(/?)(\w+)", tag)
    if not found:
        return
    closing, name = found.groups()
    if closing and closed_by and closed_by[-1] == name:
        closed_by.pop()
    elif not closing and name not in VOID and not tag.endswith("/>"):
        if name in UNLINKED or "math " in tag or 'class="math' in tag or closed_by and name == closed_by[-1]:
            closed_by.append(name)


def chapter_of(pagename: str) -> str:
    """The number of the chapter that a page shows or whose module it documents; empty for any other."""
    if pagename.startswith("chapters/"):
        return pagename[9:11]
    slugs = {f"reference/course_lib.chapters.{known.chapter.slug}": number for number, known in outlines().items()}
    return slugs.get(pagename, "")


def link_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Sphinx calls this before it writes a page."""
    if "body" not in context or pagename.startswith("_modules"):
        return
    modules = frozenset(name[10:] for name in app.env.found_docs if name.startswith("reference/course_lib"))
    to_root = "../" * pagename.count("/")
    linker = Linker(chapter_of(pagename), to_root, modules, pagename.startswith("chapters/"))
    context["body"] = linker.page(context["body"])

"""The index of every table and figure of the five papers, with the section of the course that answers it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from course_lib.book.pages import Outline


@dataclass(frozen=True)
class Entry:
    """One table or figure: where the course answers it (`08.7`: chapter and section), or why it does not."""

    paper: str
    name: str
    shows: str
    where: tuple[str, ...] = ()
    missing: str = ""
    note: str = ""


def read(path: Path) -> list[Entry]:
    """The entries of `book/papers.toml`. ValueError where one has neither a place nor a reason."""
    with open(path, "rb") as file:
        papers = tomllib.load(file)
    entries = [
        Entry(paper, **{**one, "where": tuple(one.get("where", ()))})
        for paper in papers
        for one in papers[paper]["entry"]
    ]
    for entry in entries:
        if bool(entry.where) == bool(entry.missing):
            raise ValueError(
                f"{path.name}, {entry.paper} {entry.name}: give either `where` or `missing`, and one of them"
            )
    return entries


def place(where: str, outlines: dict[str, Outline]) -> tuple[str, str]:
    """(address, words) of `08.7`, `08` or `08.exercise.3`. ValueError where the course has no such place."""
    number, _, name = where.partition(".")
    known = outlines.get(number)
    if known is None:
        raise ValueError(f"{where}: there is no chapter {number}")
    if not name:
        return known.page, f"chapter {number}"
    if name not in known.sections:
        raise ValueError(f"{where}: chapter {number} has the sections {', '.join(known.sections)}")
    return f"{known.page}#section-{name}", f"chapter {number}, section {name}: {known.sections[name]}"


def row(entry: Entry, outlines: dict[str, Outline]) -> str:
    """The entry as a row of an HTML table."""
    links = [place(where, outlines) for where in entry.where]
    answer = (
        "<br>".join(f'<a href="{address}">{words}</a>' for address, words in links)
        or f"not in the course: {entry.missing}"
    )
    note = f"<br>{entry.note}" if entry.note else ""
    return f"<tr><td>{entry.name}</td><td>{entry.shows}</td><td>{answer}{note}</td></tr>"


def page(entries: list[Entry], outlines: dict[str, Outline]) -> str:
    """The page, in Markdown."""
    answered = sum(not entry.missing for entry in entries)
    lines = ["# Tables and figures of the papers", ""]
    lines += [f"All {len(entries)} of them; {answered} are answered here, the others say why not.", ""]
    for paper in dict.fromkeys(entry.paper for entry in entries):
        rows = [row(entry, outlines) for entry in entries if entry.paper == paper]
        head = "<tr><th>in the paper</th><th>what it shows</th><th>in the course</th></tr>"
        lines += [f"## {paper}", "", '<table class="papers">', head, *rows, "</table>", ""]
    return "\n".join(lines)

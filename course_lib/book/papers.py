"""The index of every table and figure of the five papers, with the section of the course that answers it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from course_lib.book.pages import Outline


@dataclass(frozen=True)
class Entry:
    """One table or figure: where the course answers it (`08.7`: chapter and section), or why it does not; a note."""

    name: str
    shows: str
    where: tuple[str, ...] = ()
    missing: str = ""
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper, and its tables and figures in its own order."""

    name: str
    title: str
    entries: tuple[Entry, ...]


def read(path: Path) -> list[Paper]:
    """The papers of `book/papers.toml`. ValueError where an entry has not either a place or a reason, or where the
    entries are not the paper's tables and figures."""
    with open(path, "rb") as file:
        content = tomllib.load(file)
    return [read_paper(path.name, name, one) for name, one in content.items()]


def read_paper(file: str, name: str, content: dict) -> Paper:
    """One paper. ValueError as in `read`."""
    entries = tuple(Entry(**{**entry, "where": tuple(entry.get("where", ()))}) for entry in content["entry"])
    wanted = [f"Table {number}" for number in content["tables"]] + [f"Figure {number}" for number in content["figures"]]
    found = [entry.name for entry in entries]
    if found != wanted:
        odd = sorted(set(wanted) ^ set(found)) or "their order"
        raise ValueError(f"{file}, {name}: the entries are not the paper's tables and figures: mend {odd}")
    for entry in entries:
        if bool(entry.where) == bool(entry.missing):
            raise ValueError(f"{file}, {name}, {entry.name}: give `where` or `missing`, one of the two")
    return Paper(name, content["title"], entries)


def place(where: str, outlines: dict[str, Outline]) -> tuple[str, str]:
    """(address, words) of `08.7` or `08`; no address where the course has not got that chapter yet. ValueError where
    it has the chapter, but no such section."""
    number, _, section = where.partition(".")
    known = outlines.get(number)
    if known is None:
        return "", f"chapter {number}, which is not here yet"
    if not section:
        return known.page, f"chapter {number}: {known.title}"
    if section not in known.sections:
        raise ValueError(
            f"papers.toml names {where}, but chapter {number} has the sections {', '.join(known.sections)}"
        )
    return f"{known.page}#section-{section}", f"chapter {number}, section {section}: {known.sections[section]}"


def row(entry: Entry, outlines: dict[str, Outline]) -> str:
    """The entry as a row of an HTML table."""
    places = [place(where, outlines) for where in entry.where]
    answers = [f'<a href="{address}">{words}</a>' if address else words for address, words in places]
    lines = answers or [f"<em>not in the course:</em> {entry.missing}"]
    cells = (entry.name, entry.shows, "<br>".join([*lines, entry.note] if entry.note else lines))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def page(papers: list[Paper], outlines: dict[str, Outline]) -> str:
    """The page, in Markdown."""
    entries = [entry for paper in papers for entry in paper.entries]
    missing = sum(bool(entry.missing) for entry in entries)
    lines = ["# Tables and figures of the papers", ""]
    lines += [
        f"All {len(entries)} of them. {len(entries) - missing} have a place in the course, {missing} say why not. Of "
        "HumanRAM, MPT and ACAE these are the supplements'.",
        "",
    ]
    head = "<tr><th>there</th><th>what it shows</th><th>in the course</th></tr>"
    for paper in papers:
        rows = [row(entry, outlines) for entry in paper.entries]
        lines += [f"## {paper.name}", "", f"*{paper.title}*", "", '<table class="papers">', head, *rows, "</table>", ""]
    return "\n".join(lines)

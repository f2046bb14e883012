"""Pages that are gathered from the chapters: their list, the exercises, the letters, the works to read on."""

import re

from course_lib.book.pages import Outline, text_of

READ_ON = re.compile(r"(?:^## Where to read on\s*$|\*\*Where to read on\.?\*\*\.?)(.*?)(?=^#|\Z)", flags=re.M | re.S)
FIRST_AUTHOR = re.compile(r"^(?:[A-ZÀ-Ž]\.[- ]?)+\s*([^\W\d_][\w'’-]+)")
LETTERS = re.compile(r"^\*\*Letters\.\*\* (.+?)(?=\n\s*\n|\Z)", flags=re.M | re.S)


def toctree(entries: list[str], *options: str) -> str:
    """A MyST toctree."""
    return "\n".join(["```{toctree}", *options, "", *entries, "```", ""])


def chapters_page(known: list[Outline]) -> str:
    """The list of chapters with their sections."""
    lines = ["# Chapters", "", toctree([f"chapters/{one.chapter.name}" for one in known], ":hidden:", ":maxdepth: 1")]
    for one in known:
        lines += [f"**[{one.chapter.number} {one.title}](chapters/{one.chapter.name}.ipynb)**", ""]
        sections = one.sections.items()
        links = [f'<a href="{one.page}#section-{number}">{number} {words}</a>' for number, words in sections]
        lines += [f'<p class="sections">{" · ".join(links)}</p>' if links else "", ""]
    return "\n".join(lines)


def exercises_page(known: list[Outline]) -> str:
    """Every exercise with its difficulty and minutes."""
    count = sum(len(one.exercises) for one in known)
    lines = ["# Exercises", "", f"{count} exercises; each has hints, a check in its notebook and a folded answer.", ""]
    for one in known:
        lines += [f"## {one.chapter.number} {one.title}", "", '<table class="exercises">']
        for number, words in one.exercises.items():
            link = f'<a href="{one.page}#exercise-{number}">{number}</a>'
            lines.append(f"<tr><td>{link}</td><td>{words}</td></tr>")
        lines += ["</table>", ""]
    return "\n".join(lines)


def letters(known: list[Outline]) -> str:
    """What each chapter says of its letters, for the page on notation."""
    lines = ["## The letters of each chapter", ""]
    for one in known:
        if found := LETTERS.search(text_of(one.chapter)):
            lines += [f"**[{one.chapter.number} {one.title}](chapters/{one.chapter.name}.ipynb).** {found[1]}", ""]
    return "\n".join(lines)


def works(known: list[Outline]) -> dict[str, list[str]]:
    """Every work that a chapter names under "Where to read on", as it names it, with the chapters' links."""
    found = {}
    for one in known:
        for part in READ_ON.findall(text_of(one.chapter)):
            for item in re.split(r"^- ", part, flags=re.M):
                words = " ".join(item.split())
                if FIRST_AUTHOR.match(words):
                    link = f"[{one.chapter.number}](chapters/{one.chapter.name}.ipynb)"
                    found.setdefault(words, []).append(link)
    return found


def bibliography(known: list[Outline]) -> str:
    """The works to read on, by first author."""
    found = works(known)
    order = sorted(found, key=lambda words: (FIRST_AUTHOR.match(words)[1].casefold(), words))
    return "\n\n".join(
        ["## Where the chapters send you", *(f"{words} — *chapter* {', '.join(found[words])}" for words in order), ""]
    )

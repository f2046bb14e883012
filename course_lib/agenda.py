"""An agenda for a room, from the minutes that a chapter's text gives."""

import re
from dataclasses import dataclass, field

from course_lib.chapter_source import Chapter, chapter_facts, read_cells, title

WELCOME, CLOSING, BREAK, LONGEST = 10, 5, 10, 75  # minutes; a break after at most LONGEST of them
SHORTEST = 30
EXERCISE = re.compile(r"^### Exercise (?P<id>\d\d\.\d+)[ —:-]+(?P<title>.+?)\s+[●○]+\s*\((?P<minutes>\d+) min\)", re.M)
PIECE = re.compile(rf"^## +(?P<heading>.+?)\s*$|{EXERCISE.pattern}", re.M)


@dataclass
class Exercise:
    id: str
    title: str
    minutes: int


@dataclass
class Section:
    """A section: its words decide which part of the chapter's reading minutes it gets."""

    title: str
    words: int = 0
    exercises: list[Exercise] = field(default_factory=list)


@dataclass
class Plan:
    """What fits. reading: a section's minutes of talk; done, left: exercises in the room, and for later."""

    sections: list[Section]
    reading: list[int]
    done: list[Exercise]
    left: list[Exercise]
    spare: int
    breaks: int


def sections(chapter: Chapter) -> list[Section]:
    """The chapter's sections with their exercises, in order; what stands before the first is the introduction."""
    text = "\n\n".join(cell.source for cell in read_cells(chapter) if cell.kind == "markdown")
    found, end = [Section("Introduction")], 0
    for piece in PIECE.finditer(text):
        found[-1].words += len(text[end : piece.start()].split())
        end = piece.end()
        if piece["heading"]:
            found.append(Section(piece["heading"]))
        else:
            found[-1].exercises.append(Exercise(piece["id"], piece["title"], int(piece["minutes"])))
    found[-1].words += len(text[end:].split())
    return found


def breaks_in(minutes: int) -> int:
    return (minutes - 1) // (LONGEST + BREAK)


def fit(found: list[Section], reading: int, minutes: int) -> Plan:
    """Fit sections and exercises into the minutes. ValueError where they are too few for anything.

    Every section is gone through, in half the time left at most. Then comes an exercise of each section in turn, then
    the next of each, as long as they fit: one that is left open runs the course's own answer, and stops nothing."""
    if minutes < SHORTEST:
        raise ValueError(f"--minutes {minutes}: at least {SHORTEST} are needed for a welcome and one exercise")
    time = minutes - WELCOME - CLOSING - BREAK * breaks_in(minutes)
    talk, words = min(reading, time // 2), sum(section.words for section in found)
    each = [talk * section.words // max(1, words) for section in found]
    spare, chosen = time - sum(each), set()
    for turn in range(max(len(section.exercises) for section in found)):
        for section in found:
            for exercise in section.exercises[turn : turn + 1]:
                if exercise.minutes <= spare:
                    chosen.add(exercise.id)
                    spare -= exercise.minutes
    everything = [exercise for section in found for exercise in section.exercises]
    done = [exercise for exercise in everything if exercise.id in chosen]
    left = [exercise for exercise in everything if exercise.id not in chosen]
    return Plan(found, each, done, left, spare, breaks_in(minutes))


def rows(plan: Plan) -> list[tuple[int, int, str]]:
    """(start, minutes, what) of each line, with a break where nobody should sit any longer."""
    lines = [(WELCOME, "Welcome; everybody opens the notebook and runs its first cells")]
    for section, reading in zip(plan.sections, plan.reading, strict=True):
        lines += [(reading, f"**{section.title}**")] if reading else []
        lines += [(one.minutes, f"Exercise {one.id}: {one.title}") for one in section.exercises if one in plan.done]
    lines += [(plan.spare, "Time to finish, and for questions")] if plan.spare > 0 else []
    lines.append((CLOSING, "What was built; what is left for later"))
    found, start, sitting, breaks = [], 0, 0, 0
    total = sum(length for length, _ in lines)
    for length, what in lines:
        if sitting + length > LONGEST and breaks < plan.breaks and start and start + length < total:
            found.append((start, BREAK, "Break"))
            start, sitting, breaks = start + BREAK, 0, breaks + 1
        found.append((start, length, what))
        start, sitting = start + length, sitting + length
    return found


def text(chapter: Chapter, minutes: int) -> str:
    """The agenda as Markdown. ValueError where the minutes are too few, or the chapter gives none."""
    facts = chapter_facts(chapter)
    reading = int(facts["reading"].split()[0]) if facts["reading"][:1].isdigit() else 0
    plan = fit(sections(chapter), reading, minutes)
    lines = [f"# Chapter {chapter.number}: {title(chapter, read_cells(chapter))}, in {minutes} minutes", ""]
    lines += ["| from | minutes | |", "|---|---|---|"]
    lines += [f"| {start // 60}:{start % 60:02d} | {length} | {what} |" for start, length, what in rows(plan)]
    lines += ["", f"The run of the whole notebook: {facts['run']}. Start it before the break.", ""]
    if plan.left:
        lines += [f"Left out, for later ({sum(one.minutes for one in plan.left)} minutes):", ""]
        lines += [f"- Exercise {one.id}: {one.title} ({one.minutes} min)" for one in plan.left]
        lines += [
            "",
            "An exercise left open runs the course's own answer: nothing else waits for it.",
        ]
    else:
        lines.append("Every exercise fits.")
    unread = [section.title for section, length in zip(plan.sections, plan.reading, strict=True) if not length]
    lines += ["", f"Without a minute of their own: {', '.join(unread)}."] if unread else []
    short = reading - sum(plan.reading)
    if short > 0:
        lines += [
            "",
            f"The text takes {reading} minutes to read, {sum(plan.reading)} are planned: tell it.",
        ]
    return "\n".join(lines) + "\n"

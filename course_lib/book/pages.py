"""A chapter's page: its stored notebook with anchors, folded answers, links between equations and code, alt text."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from course_lib import build
from course_lib.chapter_source import Cell, Chapter, read_cells, title

DISPLAY = re.compile(r"^(?P<indent> *)\$\$(?P<body>.+?)\$\$(?P<rest>[^\S\n]*)$", flags=re.S | re.M)
TAG = re.compile(r"\\tag\{([\d.]+)\}|\\q?quad\s*\((\d+)\)")  # a number by hand is the paper's: \quad (3)
HEADING = re.compile(r"^#{2,4} +(?:(?P<section>\d+)(?:\.|:)? |Exercise (?P<exercise>\d\d\.\d+)\b)", flags=re.M)
NAMED = re.compile(r"(?:[Ee]quations?|Eq\.)\s+(\(?\d+(?:\.\d+)?(?:(?:\)?\s*(?:,|and|to|–|-)\s*\(?)\d+(?:\.\d+)?)*)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LONGEST_ALT = 300


@dataclass(frozen=True)
class Outline:
    """What of a chapter can be linked to: its title, and the numbers of its sections, exercises and equations."""

    chapter: Chapter
    title: str
    sections: dict[str, str]
    exercises: dict[str, str]
    equations: list[str]

    @property
    def page(self) -> str:
        """The page's file in the site."""
        return f"chapters/{self.chapter.name}.html"


@cache
def source_cells(chapter: Chapter) -> list[Cell]:
    """The cells of the chapter's source, read once."""
    return read_cells(chapter)


def text_of(chapter: Chapter) -> str:
    """All text of the chapter."""
    return "\n\n".join(cell.source for cell in source_cells(chapter) if cell.kind == "markdown")


@cache
def outline(chapter: Chapter) -> Outline:
    """The chapter's outline, read from its source."""
    text = text_of(chapter)
    headings = re.findall(r"^#{2,4} +(.+?)\s*$", text, flags=re.M)
    numbered = (re.match(r"(\d+)[.:]? +(.+)", heading) for heading in headings)
    exercises = (re.match(r"Exercise (\d\d\.\d+)\W+(.+)", heading) for heading in headings)
    equations = [number for block in DISPLAY.finditer(text) for number in tags(block["body"])]
    return Outline(
        chapter,
        title(chapter, source_cells(chapter)),
        {found[1]: found[2] for found in numbered if found},
        {found[1]: found[2] for found in exercises if found},
        list(dict.fromkeys(equations)),
    )


def tags(equation: str) -> list[str]:
    """The numbers that an equation carries: `01.2` the course's, `3` the paper's."""
    return [first or second for first, second in TAG.findall(equation)]


def named_equations(code: str) -> list[str]:
    """The equations that a piece of code or text names: `equation 04.2`, `Eq. 3 and 4`, `equations 1-2`."""
    found = []
    for group in NAMED.findall(code):
        numbers = NUMBER.findall(group)
        if len(numbers) == 2 and re.search(r"\bto\b|–|-", group) and "." not in group:
            numbers = [str(number) for number in range(int(numbers[0]), int(numbers[1]) + 1)]
        found += numbers
    return list(dict.fromkeys(found))


# --- equations and the code that is them ----------------------------------------------------------------------------


def code_of_equations(notebook: NotebookNode) -> dict[str, list[int]]:
    """For each equation of the notebook the cells that are its code: those that name it, or else the next one."""
    found, waiting = {}, []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=## )", cell.source, flags=re.M):
                waiting = [] if part.startswith("## ") else waiting
                new = [number for block in DISPLAY.finditer(part) for number in tags(block["body"])]
                waiting += [number for number in new if number not in found]
                found |= {number: [] for number in waiting}
        elif waiting:
            for number in waiting:
                found[number] = [index]
            waiting = []
    named = {number: naming_cells(notebook, number) for number in found}
    return {number: named[number] or cells for number, cells in found.items()}


def naming_cells(notebook: NotebookNode, number: str) -> list[int]:
    """The code cells whose comments or docstrings name the equation."""
    code = ((index, cell.source) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    return [index for index, source in code if number in named_equations(source)]


def code_label(source: str) -> str:
    """What a link to the code says: the first function or class in it."""
    found = re.search(r"^(?:def|class) (\w+)", source, flags=re.M)
    return f"<code>{found[1]}</code>" if found else "code"


def with_equation_links(text: str, notebook: NotebookNode, code: dict[str, list[int]], seen: set[str]) -> str:
    """The text with an anchor before each numbered equation and links to its code after it."""

    def mark(block: re.Match) -> str:
        numbers = [number for number in dict.fromkeys(tags(block["body"])) if number not in seen]
        seen.update(numbers)
        if not numbers:
            return block[0]
        indent = block["indent"]
        anchors = "".join(f'<div class="anchor" id="equation-{number}"></div>' for number in numbers)
        indices = dict.fromkeys(index for number in numbers for index in code.get(number, ()))
        links = ", ".join(f'<a href="#cell-{i}">{code_label(notebook.cells[i].source)}</a>' for i in indices)
        after = f'\n\n{indent}<div class="equation-code">in code: {links}</div>\n' if links else ""
        return f"\n{indent}{anchors}\n\n{block[0]}{after}"

    return DISPLAY.sub(mark, text)


def code_header(index: int, code: dict[str, list[int]]) -> str:
    """The line above a code cell that names the equations which it is; empty where there are none."""
    numbers = [number for number, cells in code.items() if index in cells]
    links = ", ".join(f'<a href="#equation-{number}">{number}</a>' for number in numbers)
    word = "equation" if len(numbers) == 1 else "equations"
    return f'<div class="code-equations" id="cell-{index}">{word} {links}</div>' if numbers else ""


# --- anchors and answers --------------------------------------------------------------------------------------------


def with_heading_anchors(text: str) -> str:
    """The text with an anchor before each numbered section and each exercise."""

    def mark(heading: re.Match) -> str:
        name = f"section-{heading['section']}" if heading["section"] else f"exercise-{heading['exercise']}"
        return f'\n<div class="anchor" id="{name}"></div>\n\n{heading[0]}'

    return HEADING.sub(mark, text)


def answers(chapter: Chapter) -> dict[str, str]:
    """For each exercise its complete function, without marks and decorator."""
    found = {}
    for cell in source_cells(chapter):
        for exercise in cell.exercises if cell.kind == "code" else ():
            node = exercise.node
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            found[exercise.id] = build.clean_lines(cell, start, node.end_lineno).strip("\n")
    return found


def answer_cell(number: str, code: str) -> NotebookNode:
    """The folded answer."""
    summary = f"<summary>Answer to exercise {number}</summary>"
    return new_markdown_cell(f'<details class="answer">{summary}\n\n```python\n{code}\n```\n\n</details>')


def exercise_ids(source: str) -> list[str]:
    """The exercises that a code cell holds."""
    return re.findall(r'^\s*@exercise\("(\d\d\.\d+)"\)', source, flags=re.M)


# --- pictures -------------------------------------------------------------------------------------------------------


def plain(markdown: str) -> str:
    """Markdown as one line of plain text."""
    text = re.sub(r"<[^>]+>|[*`$]|\\(?:text|mathbf|operatorname|mathrm)\b", "", markdown)
    return " ".join(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).split())


def caption(notebook: NotebookNode, index: int) -> str:
    """The caption of the picture that cell `index` draws: the italic text that opens the next text cell."""
    following = notebook.cells[index + 1 : index + 2]
    text = following[0].source.strip() if following and following[0].cell_type == "markdown" else ""
    found = re.match(r"\*([^*\s](?:[^*]|\*\*)*)\*(?!\*)", text)
    return plain(found[1]) if found else ""


def alt_text(notebook: NotebookNode, index: int, section: str) -> str:
    """What a picture's alternative text says: its caption, or the titles in the code that draws it, and its section."""
    words = caption(notebook, index)
    if not words:
        titles = re.findall(r"""(?:title|label)s?\(?=?f?["']([^"'{}]{3,})["']""", notebook.cells[index].source)
        words = f"Figure: {', '.join(dict.fromkeys(titles))}" if titles else "Figure"
    return f"{words} (in section: {plain(section)})"[:LONGEST_ALT] if section else words[:LONGEST_ALT]


def has_picture(cell: NotebookNode) -> bool:
    """Whether the cell's stored outputs hold a picture."""
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))


def without_noise(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs without what only says that something was drawn or a bar moved."""
    kept = [output for output in outputs if output.output_type != "stream" or output.name != "stderr"]
    for output in kept:
        text = output.get("data", {}).get("text/plain", "")
        if set(output.get("data", {})) == {"text/plain"} and re.match(
            r"<(matplotlib|Figure|Axes)|\[?<matplotlib", text
        ):
            output.data["text/plain"] = ""
    return [
        output for output in kept if set(output.get("data", {"x": 0})) != {"text/plain"} or output.data["text/plain"]
    ]


# --- widgets --------------------------------------------------------------------------------------------------------

WIDGET = "application/vnd.jupyter.widget-view+json"
FROZEN = (
    '<div class="frozen">In JupyterLab these controls redraw the result; here it stands still, as it was stored.</div>'
)


def has_controls(cell: NotebookNode) -> bool:
    """Whether the cell shows a widget."""
    return any(WIDGET in output.get("data", {}) for output in cell.get("outputs", ()))


def name_widget_pictures(notebook: NotebookNode, words: str, model: str) -> None:
    """Writes the alternative text of the pictures inside of widget `model` into the stored state."""
    states = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for name in reachable(states, model):
        for output in states[name]["state"].get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"] = {"text/html": picture_tag(output["data"]["image/png"], words)}


def picture_tag(png: str, words: str) -> str:
    """An HTML picture from a PNG in base64."""
    return f'<img src="data:image/png;base64,{"".join(png.split())}" alt="{html.escape(words, quote=True)}">'


def reachable(states: dict, model: str) -> Iterator[str]:
    """The names of the widget and of all that it holds."""
    waiting, seen = [model], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in states:
            continue
        seen.add(name)
        yield name
        waiting += re.findall(r"IPY_MODEL_(\w+)", json.dumps(states[name]["state"]))


# --- the page -------------------------------------------------------------------------------------------------------


def make_page(chapter: Chapter) -> NotebookNode:
    """The chapter's page as a notebook for MyST-NB. ValueError where the chapter's stored notebook can't be read."""
    notebook = build.read_notebook(chapter.student_notebook)
    if notebook is None:
        name = chapter.relative(chapter.student_notebook)
        raise ValueError(
            f"{name} is missing or can't be read: run `course build`, then `course run {chapter.number} --store`"
        )
    code, answered = code_of_equations(notebook), answers(chapter)
    cells, seen, section, waiting = [], set(), "", []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            section = last_section(cell.source) or section
            cells.append(
                new_markdown_cell(with_heading_anchors(with_equation_links(cell.source, notebook, code, seen)))
            )
            continue
        if header := code_header(index, code):
            cells.append(new_markdown_cell(header))
        cells.append(code_cell(notebook, index, section))
        if has_controls(cell):
            cells.append(new_markdown_cell(FROZEN))
        cells += [answer_cell(number, answered[number]) for number in waiting]
        waiting = exercise_ids(cell.source)
    notebook.cells = cells + [answer_cell(number, answered[number]) for number in waiting]
    notebook.metadata.pop("jupytext", None)
    return notebook


def last_section(text: str) -> str:
    """The last heading of the text that is not an exercise's."""
    headings = [
        words for words in re.findall(r"^#{1,4} +(.+?)\s*$", text, flags=re.M) if not words.startswith("Exercise")
    ]
    return headings[-1] if headings else ""


def code_cell(notebook: NotebookNode, index: int, section: str) -> NotebookNode:
    """The code cell with alternative text for its pictures, and without outputs that show nothing."""
    cell = notebook.cells[index]
    words = alt_text(notebook, index, section)
    for output in cell.outputs:
        if WIDGET in output.get("data", {}):
            name_widget_pictures(notebook, words, output.data[WIDGET]["model_id"])
    is_check = cell.source.startswith("check(")  # its stored word, "not attempted", is for who attempts it
    cell.outputs = [] if is_check else without_noise(cell.outputs)
    if has_picture(cell):
        cell.metadata["mystnb"] = {"image": {"alt": words}}
    return cell

"""The course's docstrings are plain text; Sphinx reads reStructuredText. This makes the one into the other."""

import re

SPECIAL = re.compile(r"([\\*|_])")


def escape(text: str) -> str:
    """Plain text as reStructuredText, with what stands in backticks as code."""
    pieces = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        f"``{piece.strip('`')}``" if index % 2 else SPECIAL.sub(r"\\\1", piece) for index, piece in enumerate(pieces)
    ).replace("``\\ ``", "")


def paragraph(lines: list[str]) -> list[str]:
    """One paragraph: running text, or line by line where it is laid out by hand."""
    laid_out = any(line[:1] in (" ", "-", ">") or re.match(r"\w+:\s|\d+\. ", line) for line in lines[1:] or lines[:1])
    if laid_out:
        return [*(f"| {escape(line)}" for line in lines), ""]
    return [*escape("\n".join(lines)).splitlines(), ""]  # code in backticks may go over a line's end


def to_lines(text: str) -> list[str]:
    """A docstring as lines of reStructuredText."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        found += paragraph(block.splitlines())
    return found


def to_restructured(app, what, name, obj, options, lines: list[str]) -> None:
    """Sphinx's autodoc calls this: changes `lines` in place."""
    lines[:] = to_lines("\n".join(lines)) if "\n".join(lines).strip() else []

"""Writes SHEET.md from sheet.csv and sheet_chapters.csv: `python data_scripts/make_sheet.py`."""

import csv
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """# Which real data go where

Made by `python data_scripts/make_sheet.py` from `sheet_chapters.csv` and `sheet.csv`.

## By chapter

A chapter reads the folder of its synthetic set from the data folder (`COURSE_DATA`, else `data/`). Where a data script
wrote that folder, the chapter takes what is in it: `python data_scripts/NAME.py --root ROOT --out $COURSE_DATA/FOLDER`
with the options below. SIZE and COUNT are those of the chapter at its scale: run it once and look into the data folder.
COUNT is only a part of the name; the shards may hold more or fewer. Seen by a test: *shards* that real shards are taken
under such a name, *chapter* that the chapter's own code learns from them. A chapter that asks for labels which a source
lacks says so by name: the third column is all that these sources have.

"""
TABLES = """
## By table of the papers

WEIGHTS is a file of the authors', or one's own as `course weights convert` writes it; the folders are what the scripts
wrote. A row without a command says why.

"""


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of one of the two files."""
    with open(HERE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(names: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sheet() -> str:
    """The page."""
    chapters = [
        [r["chapter"], r["synthetic"], f"`{r['folder']}`", ", ".join(f"`{s}.py`" for s in r["scripts"].split()),
         r["what"], f"`{r['options']}`", r["tested"]]
        for r in rows_of("sheet_chapters.csv")
    ]  # fmt: skip
    tables = [
        [r["paper"], r["row"], r["what"], r["chapter"], f"`{r['script']}.py`" if r["script"] else "none",
         f"`{r['command']}`" if r["command"] else "none", r["short"]]
        for r in rows_of("sheet.csv")
    ]  # fmt: skip
    first = table(["chapter", "in place of", "FOLDER", "scripts", "holds", "options", "seen by a test"], chapters)
    return (
        HEAD + first + TABLES + table(["paper", "table", "what", "chapter", "data", "command", "what is short"], tables)
    )


if __name__ == "__main__":
    (HERE / "SHEET.md").write_text(sheet(), encoding="utf-8")

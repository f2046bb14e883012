"""What a run says while it goes: a progress bar, `log.csv`, and TensorBoard's files."""

import csv
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.files import write_atomic
from course_lib.train.parallel import Team

if TYPE_CHECKING:
    from course_lib.train.loop import Run


class Log:
    """Writes each row to the run's history, its bar and, in a folder, `log.csv` and `tensorboard/`; one process does.

    A resumed run keeps the rows up to the step that it goes on from. A full disk stops no run: what could not be
    written to `log.csv` is written with the next row that can be."""

    def __init__(self, run: "Run", last: int, team: Team, progress: bool):
        self.run, self.columns = run, []
        self.path = run.folder / "log.csv" if run.folder else None
        if self.path:
            run.history[:] = read_rows(self.path, run.step)
        self.writes = team.rank == 0 and self.path is not None
        self.board = self.open_board() if self.writes else None
        self.bar = bar(run.step, last, progress and team.rank == 0)

    def open_board(self):
        """TensorBoard's writer; the points of an earlier try from the next step on are no longer shown."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard import FileWriter

        board = FileWriter(str(self.run.folder / "tensorboard"))
        board.add_event(Event(step=self.run.step + 1, session_log=SessionLog(status=SessionLog.START)))
        return board

    def __enter__(self) -> "Log":
        if self.writes:
            self.write_file()
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()
        if self.board:
            self.board.close()

    def write(self, row: dict[str, float]) -> None:
        """Keeps one row everywhere."""
        self.run.history.append(row)
        self.bar.update()
        self.bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
        if self.writes:
            self.write_file(row)
            self.write_board(row)

    def write_file(self, row: dict[str, float] | None = None) -> None:
        """Appends the row; writes the file anew at the start, where a row brings a column, and after a failure."""
        try:
            if row and set(row) <= set(self.columns):
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    file.write(as_csv([row], self.columns, header=False))
            else:
                self.columns = list(dict.fromkeys(name for row in self.run.history for name in row))
                write_atomic(self.path, as_csv(self.run.history, self.columns))
        except OSError as error:
            self.columns = []
            warnings.warn(f"{self.path} could not be written ({error}): it will be with a later step", stacklevel=2)

    def write_board(self, row: dict[str, float]) -> None:
        """One point per curve; after a failure TensorBoard gets no more of this run."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=row[name]) for name in row.keys() - {"step"}]
        try:
            if self.board:
                self.board.add_summary(Summary(value=points), row["step"])  # all at once: a third of the time
        except OSError as error:
            self.board = None
            warnings.warn(f"TensorBoard's file could not be written ({error}): log.csv goes on", stacklevel=3)


def bar(done: int, last: int, shown: bool):
    """tqdm's bar: a widget in a notebook, text in a terminal, nothing where the output goes to a file."""
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    quiet = None if not issubclass(tqdm, tqdm_notebook) else False  # None: tqdm looks whether it is a terminal
    return tqdm(initial=done, total=last, unit="step", mininterval=0.5, disable=quiet if shown else True)


def as_csv(rows: list[dict[str, float]], columns: list[str], header: bool = True) -> str:
    """Rows as text; what a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path, last: int) -> list[dict[str, float]]:
    """The rows of a `log.csv` up to step `last`, numbers as numbers; what comes after a spoilt row is left out."""
    rows = []
    try:
        for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            row = {name: float(value) for name, value in line.items() if value}
            rows.append(row | {"step": int(line["step"])})
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return [row for row in rows if row["step"] <= last]

"""What the terminal shows: progress with time left, tables, one line for an error.

Everything but a verb's result goes to standard error, so that `--json` can be piped.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_SECONDS = 10.0  # between lines of progress where no bar can be drawn


def console(*, error: bool = False) -> "Console":
    """A console that does not decorate what it was not asked to."""
    from rich.console import Console

    # Files and pipes have no width to fold long paths at.
    width = None if (sys.stderr if error else sys.stdout).isatty() else 4096
    return Console(stderr=error, highlight=False, soft_wrap=True, width=width)


@dataclass
class _Lines:
    """What one stage has told where no bar can be drawn."""

    began: float
    first: int  # what was done when it began: a run may go on
    told: int = -1  # the last that was done
    at: float = float("-inf")

    def are_due(self, done: int, total: int) -> bool:
        """Whether it is time for a line; none says the same again."""
        now = time.monotonic()
        if done == self.told or (done < total and now - self.at <= LINE_SECONDS):
            return False
        self.told, self.at = done, now
        return True

    def left(self, done: int, total: int) -> str:
        """How long the rest will take, as far as it can be told."""
        fresh = done - self.first
        if fresh <= 0 or done >= total:
            return ""
        seconds = (time.monotonic() - self.began) / fresh * (total - done)
        return f"left {timedelta(seconds=round(seconds))}"


class Screen:
    """Draws the progress of one verb; one bar a stage, made when the stage first speaks."""

    def __init__(self) -> None:
        self.for_programs = False
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Lines] = {}

    def progress(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Show how far a stage has come."""
        if sys.stderr.isatty():
            self._draw(what, done, total, figures)
            return
        lines = self._lines.setdefault(what, _Lines(time.monotonic(), done))
        if lines.are_due(done, total):
            told = [f"{what}: {done}/{total}", lines.left(done, total), _figures(figures)]
            print("  ".join(filter(None, told)), file=sys.stderr)

    def _draw(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, told="")
        self._bars.update(self._tasks[what], completed=done, total=total, told=_figures(figures))

    def result(self, value: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
        """Give a verb's result to a program or to a person."""
        if self.for_programs:
            as_json(value)
        else:
            show(value)

    def close(self) -> None:
        """Leave the bars as they stand."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._tasks.clear()


def _bars() -> "Progress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        console=console(error=True),
    )


def _figures(figures: Mapping[str, float]) -> str:
    shown = ("loss", "accuracy", "takes_per_second", "wait_share", "bad", "minutes_left")
    return "  ".join(f"{name} {figures[name]:.3g}" for name in shown if name in figures)


def as_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value, default=str), flush=True)


def error(text: str) -> None:
    """Say in one line what is wrong."""
    print(f"clipmill: {text}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text  # what is shown may hold brackets, which are no markup

    drawn = Table(
        title=Text(title) or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell(value)) for value in row))
    shown = console()
    with shown.capture() as lines:
        shown.print(drawn)
    print("\n".join(line.rstrip() for line in lines.get().splitlines()))


def cell(value: object) -> str:
    """A value as it reads best in a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "  ".join(f"{key} {cell(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "none"
    return "" if value is None else str(value)


def pairs(result: Mapping[str, Any]) -> None:
    """Print a result as names and values."""
    table("", ("", ""), result.items())

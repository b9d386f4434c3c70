"""Beside a run, on the machine that started it: what it was made in, and what the machine does.

Everything is kept in the run's folder and sent from there. Nothing here may fail a run. Knows
neither how it trains nor what a batch looks like.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipmill.recipe import Recipe
from clipmill.track.machine import Machine, row
from clipmill.track.outbox import PICTURES, SURROUNDINGS, SYSTEM, Outbox, rows_of
from clipmill.track.surroundings import surroundings
from clipmill.watch import watching

SAMPLE_SECONDS = 10.0
SAMPLES = "samples.jpg"  # takes as the model sees them

Draw = Callable[[str], object]  # draws a batch into a file


@contextlib.contextmanager
def accompanied(
    recipe: Recipe, folder: str, *, overrides: Sequence[str] = (), draw: Draw | None = None,
    seconds: float = SAMPLE_SECONDS,
) -> Iterator[None]:  # fmt: skip
    """While a run lasts, keep and send what is known beside its own metrics."""
    companion = Companion(recipe, folder, draw)

    def start() -> None:
        companion.start(overrides)

    try:
        with watching(companion.look, every_seconds=seconds, name="companion", first=start):
            yield
    finally:
        companion.look()


class Companion:
    """Keeps what is known of one run beside its metrics, and sends it."""

    def __init__(self, recipe: Recipe, folder: str, draw: Draw | None = None) -> None:
        self.folder, self.draw = Path(folder), draw
        self.machine, self.outbox = Machine(folder), Outbox(recipe, folder)
        self.number = len(rows_of(str(self.folder / SYSTEM)))

    def start(self, overrides: Sequence[str]) -> None:
        """Write down in what the run is made, once for each start of it."""
        self._add(SURROUNDINGS, {**surroundings(), "overrides": list(overrides)})
        self.outbox.send()

    def look(self) -> None:
        """Take a sample of the machine, draw takes if that is still to do, and send."""
        self.number += 1
        self._add(SYSTEM, row(self.machine, self.number))
        self._draw()
        self.outbox.send()

    def _draw(self) -> None:
        draw, self.draw = self.draw, None
        path = self.folder / PICTURES / SAMPLES
        if draw is None or path.exists():
            return
        # A plugin's own code runs here, and a picture is not worth a run.
        with contextlib.suppress(Exception):
            path.parent.mkdir(exist_ok=True)
            draw(str(path))

    def _add(self, name: str, told: dict[str, Any]) -> None:
        with contextlib.suppress(OSError), open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")

"""What a sweep tells: a parent run in MLflow with its trials below, a result, the best recipe.

MLflow that is away costs a sweep nothing: all is told again at its end, and by the same command.
"""

import contextlib
import logging
import shlex
import time
from collections.abc import Iterator, Sequence

import yaml

from clipmill import storage, track
from clipmill.catalog import Catalog
from clipmill.errors import RegistryError
from clipmill.folder import folder_of
from clipmill.sweep.asked import Sweep, Trial, overrides_of
from clipmill.sweep.ledger import Ledger, Row
from clipmill.track.runs import PARENT
from clipmill.track.store import AwayError

BEST = "best.yaml"

log = logging.getLogger("clipmill")


class Parent:
    """The run in MLflow that the trials are below of."""

    def __init__(
        self, sweep: Sweep, notes: Ledger, catalog: Catalog, overrides: Sequence[str]
    ) -> None:
        self.sweep, self.notes = sweep, notes
        self.catalog, self.overrides = catalog, overrides
        self.run_id = notes.run_id
        self.uri = track.uri_of(sweep.base.track.uri, sweep.base.run.folder)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While it lasts the run is open; whatever ends the sweep early is told."""
        if not self.notes.tracked:
            with self._patiently():
                self._begin()
        try:
            yield
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            if self.run_id:
                with contextlib.suppress(RegistryError):
                    tags = {"clipmill.ended": type(error).__name__}
                    track.finish(self.sweep.base, self.run_id, status, tags)
            raise

    @contextlib.contextmanager
    def _patiently(self) -> Iterator[None]:
        try:
            yield
        except AwayError as error:
            log.warning("%s; the sweep goes on, and MLflow is told at its end", error)

    def _begin(self) -> None:
        self.run_id = track.begin(
            self.sweep.base, self.catalog, self.run_id, overrides=self.overrides
        )
        if self.notes.run_id != self.run_id:
            self.notes.run_id = self.run_id
            self.notes.keep()

    def tell(self, trial: Trial, *, is_best: bool | None = None) -> None:
        """Mark a trial's run with what is known of it; one that MLflow has not heard of waits."""
        found = track.run_id_of(folder_of(trial.given).path)
        if found is None or self.run_id is None:
            return
        row = self.notes.trials[trial.name]
        tags = {PARENT: self.run_id, "clipmill.trial": row["state"]}
        if row["score"] is not None:
            tags["clipmill.score"] = repr(row["score"])
        if is_best is not None:
            tags["clipmill.best"] = "true" if is_best else "false"
        with contextlib.suppress(AwayError):
            track.mark(self.uri, found, tags)

    def close(self, best: Trial) -> None:
        """Tell all of the sweep, the best trial marked, and close the run."""
        if self.notes.tracked:
            return
        with self._patiently():
            if self.run_id is None:
                self._begin()
            assert self.run_id is not None
            track.log(self.sweep.base, self.run_id, self._rows())
            for trial in self.sweep.trials:
                self.tell(trial, is_best=trial is best)
            found = track.run_id_of(folder_of(best.given).path)
            tags = {"clipmill.best_trial": best.name, "clipmill.best_run": found or ""}
            files = [self.notes.path, storage.join(self.notes.folder, BEST)]
            track.add_files(self.sweep.base, self.run_id, files)
            track.finish(self.sweep.base, self.run_id, "FINISHED", tags)
            self.notes.tracked = True
            self.notes.keep()

    def _rows(self) -> list[Row]:
        """The score of each trial, by its number."""
        rows = enumerate(self.notes.trials.values())
        return [
            {"step": place, "time": time.time(), self.sweep.metric: row["score"]}
            for place, row in rows
            if row["score"] is not None
        ]


def best_recipe(sweep: Sweep, best: Trial) -> bytes:
    """The recipe of the best trial under a new name, to train it for longer."""
    plain = best.given.plain()
    plain["run"]["name"] = f"{sweep.base.run.name}-best"
    plain["train"]["validate_every"] = sweep.validate_every
    return yaml.safe_dump(plain, sort_keys=False).encode()


def result(sweep: Sweep, notes: Ledger, best: Trial) -> Row:
    """All trials from the best to the worst, and how to go on from the best."""
    sign = -1 if sweep.higher_is_better else 1
    rows = sorted(
        notes.trials.values(),
        key=lambda row: (
            row["state"] == "failed", -row["steps"], sign * (row["score"] or 0.0), row["name"],
        ),
    )  # fmt: skip
    path = storage.join(notes.folder, BEST)
    return {
        "name": sweep.base.run.name,
        "folder": notes.folder,
        "run_id": notes.run_id,
        "tracked": notes.tracked,
        "metric": sweep.metric,
        "higher_is_better": sweep.higher_is_better,
        "trials": rows,
        "best": {**notes.trials[best.name], "overrides": overrides_of(best.values)},
        "command": f"clipmill train {shlex.quote(path)} train.steps={2 * sweep.rungs[-1]}",
    }

"""What a sweep has found so far, in one file, so that a broken one goes on where it was.

Holds scores and states; what each trial learned lies in the folder of its own run.
"""

from dataclasses import dataclass
from typing import Any, Literal

from clipmill import storage
from clipmill.errors import RunError
from clipmill.folder import SWEEP
from clipmill.recipe import Recipe
from clipmill.sweep.asked import Sweep

Row = dict[str, Any]
State = Literal["waiting", "going", "stopped", "failed", "finished"]


@dataclass
class Ledger:
    """The file of one sweep; written whole after every change."""

    folder: str
    asked: Row  # what the sweep is, to refuse another of its name
    trials: dict[str, Row]
    plain: Row  # its recipe with every default, as another one is another sweep
    run_id: str | None = None  # of the parent run
    tracked: bool = False  # whether MLflow has heard all of it

    @property
    def path(self) -> str:
        """The file."""
        return storage.join(self.folder, SWEEP)

    def keep(self) -> None:
        """Write it down."""
        asked = {**self.asked, "plain": self.plain}
        told = {"sweep": asked, "trials": list(self.trials.values())}
        storage.put_json(self.path, {**told, "run_id": self.run_id, "tracked": self.tracked})

    def note(self, name: str, **told: Any) -> None:
        """Write down what is new of a trial, if anything is."""
        row = self.trials[name]
        if row | told != row:
            row |= told
            self.tracked = False
            self.keep()


def opened(sweep: Sweep, folder: str, digest: str) -> Ledger:
    """The file of a sweep: the one that is there, if it is of the same sweep, or a new one.

    Trials that failed are tried again: a disk may have room by now, and one that fails by its
    values does so again soon after its last commit.
    """
    asked = _asked(sweep, digest)
    fresh = {each.name: _waiting(each.name, each.values) for each in sweep.trials}
    ledger = Ledger(folder, asked, fresh, sweep.base.plain())
    if storage.exists(ledger.path):
        told: Row = storage.read_json(ledger.path)
        _check_same(told, asked, fresh, ledger.path, sweep.base)
        ledger.trials = {row["name"]: row for row in told["trials"]}
        ledger.run_id, ledger.tracked = told["run_id"], told["tracked"]
        for row in ledger.trials.values():
            if row["state"] == "failed":
                row.update(state="waiting", error=None)
    return ledger


def _asked(sweep: Sweep, digest: str) -> Row:
    return {
        "recipe": sweep.base.identity(),
        "catalog_digest": digest,
        "rungs": list(sweep.rungs),
        "eta": sweep.eta,
        "metric": sweep.metric,
        "higher_is_better": sweep.higher_is_better,
    }


def _waiting(name: str, values: Row) -> Row:
    return {
        "name": name,
        "values": values,
        "state": "waiting",
        "steps": 0,
        "score": None,
        "scores": {},  # by the steps of each rung
        "error": None,
    }


def _check_same(told: Row, asked: Row, fresh: dict[str, Row], path: str, given: Recipe) -> None:
    before = told["sweep"]
    changed = [name for name, value in asked.items() if before.get(name) != value]
    if "plain" in before and not given.is_of(before["plain"]):
        changed.append("recipe")
    values = [row["values"] for row in told["trials"]]
    if values != [row["values"] for row in fresh.values()]:
        changed.append("values to try")
    if changed:
        raise RunError(
            f"the sweep of {path} began with another {', '.join(changed)}",
            "the same recipe, data and values to try",
            "set run.name=... for a new sweep",
        )

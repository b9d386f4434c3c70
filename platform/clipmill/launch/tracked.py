"""What MLflow is to know of one run, kept in the run's folder until MLflow has it.

A server that is away costs a run nothing: metrics wait in metrics.jsonl, the end of the run in
untold.json, and both are sent when it answers. Knows nothing of how a run is trained.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clipmill import storage, track
from clipmill.catalog import Catalog
from clipmill.errors import RegistryError
from clipmill.folder import Folder
from clipmill.recipe import Recipe
from clipmill.track.store import PATIENCE, AwayError

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
BRIEFLY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}

log = logging.getLogger("clipmill")


@dataclass(frozen=True)
class Ending:
    """How a run ended, as MLflow is to know it."""

    status: str
    tags: dict[str, str] = field(default_factory=dict)
    row: dict[str, Any] | None = None  # the last metrics
    model: bool = False
    register: str | None = None  # under this name


class Tracked:
    """One run as MLflow knows it; what it cannot be told now waits."""

    def __init__(
        self,
        given: Recipe,
        home: Folder,
        *,
        overrides: Sequence[str] = (),
        parent: str | None = None,
    ) -> None:
        self.given, self.home = given, home
        self.overrides, self.parent = overrides, parent
        self.catalog: Catalog | None = None  # read again where a run is told of later
        self.run_id: str | None = track.run_id_of(home.path)
        self.is_open, self.version = False, ""
        self._pause, self._again = 0.0, 0.0

    def begin(self, catalog: Catalog) -> None:
        """Open the run at a server, or say once that it has to wait; a wrong address is raised."""
        self.catalog = catalog
        if not self._makes_a_database():
            self._try_to_open()

    def begin_beside(self) -> None:
        """Open the run where that takes seconds, beside the training."""
        if self._makes_a_database():
            with contextlib.suppress(RegistryError):  # raised again at the end of the run
                self._try_to_open()

    def _makes_a_database(self) -> bool:
        uri = track.uri_of(self.given.track.uri, self.given.run.folder)
        return uri.startswith("sqlite:")

    def _try_to_open(self) -> None:
        try:
            self._open()
        except AwayError as error:
            log.warning("%s; training goes on, and MLflow is told later", error)
            self._wait()

    def _open(self) -> None:
        from clipmill import plan as plans

        if self.is_open:
            return
        catalog = self.catalog or plans.catalog_of(self.given.data)
        with _briefly():
            self.run_id = track.begin(
                self.given, catalog, self.run_id, overrides=self.overrides, parent=self.parent
            )
        storage.put_json(storage.join(self.home.path, "mlflow.json"), {"run_id": self.run_id})
        self.is_open = True
        self._tag_changes()

    def _tag_changes(self) -> None:
        """Tell of data that changed while the run was going on."""
        told: dict[str, Any] = storage.read_json(self.home.recipe)
        if changes := told.get("data_changes"):
            words = ", ".join(f"{each['digest'][:12]} from step {each['step']}" for each in changes)
            self.tag({"clipmill.data_changes": words})

    def tag(self, tags: dict[str, str]) -> None:
        """Put tags on the run."""
        assert self.run_id is not None, "an open run has an id"
        with track.store(track.uri_of(self.given.track.uri, self.given.run.folder)) as client:
            for name, value in tags.items():
                client.set_tag(self.run_id, name, value)

    def _wait(self) -> None:
        self._pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * self._pause))
        self._again = time.monotonic() + self._pause

    def metrics(self, rows: list[dict[str, Any]], *, last: bool = False) -> bool:
        """Send rows; False where they have to wait. Asks a server that is away ever less often."""
        if not last and time.monotonic() < self._again:
            return False
        try:
            self._open()
            assert self.run_id is not None
            with _briefly():
                track.log(self.given, self.run_id, rows)
        except RegistryError:
            self._wait()
            return False
        self._pause = 0.0
        return True

    def end(self, ending: Ending) -> bool:
        """Close the run, or keep how it ended; False where that has to wait."""
        path = untold(self.home)
        storage.put_json(path, asdict(ending))
        try:
            self._close(ending)
        except AwayError as error:
            log.warning(
                "%s; `clipmill resume %s` tells MLflow the rest", error, self.given.run.name
            )
            return False
        os.remove(path)
        return True

    def _close(self, ending: Ending) -> None:
        self._open()
        assert self.run_id is not None
        if ending.row:
            track.log(self.given, self.run_id, [ending.row])
        model = self.home.model if ending.model else None
        track.Outbox(self.given, self.home.path).send()
        track.finish(self.given, self.run_id, ending.status, ending.tags, model)
        if ending.register:
            self.version = self._registered(ending.register)

    def _registered(self, name: str) -> str:
        """Register the model, unless a try that broke off has done so."""
        assert self.run_id is not None
        uri = track.uri_of(self.given.track.uri, self.given.run.folder)
        with track.store(uri) as client:
            told = f"name='{name}' and run_id='{self.run_id}'"
            made = client.search_model_versions(told)
            if made:
                client.set_registered_model_alias(name, "challenger", made[0].version)
                return str(made[0].version)
        return track.register(uri, self.run_id, self.home.model, name, "challenger")["version"]


def untold(home: Folder) -> str:
    """Where the end of a run waits that MLflow does not know of yet."""
    return storage.join(home.path, "untold.json")


def ending_of(home: Folder) -> Ending | None:
    """The end that waits, if one does."""
    if not storage.exists(untold(home)):
        return None
    return Ending(**storage.read_json(untold(home)))  # type: ignore[arg-type]


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    """Let a server that is away hold up nobody for long; what the user has set stays."""
    before = {name: os.environ.get(name) for name in BRIEFLY}
    ours = {
        name: value for name, value in BRIEFLY.items() if before[name] in (None, PATIENCE.get(name))
    }
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            if before[name] is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = str(before[name])

"""Models by name: which are ready, which failed to load, and the next version in the last one's place.

A request keeps the model that it began with. Knows no registry: a source says which version there
is now, and loads it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clipmill import infer
from clipmill.errors import UsageError
from clipmill.serve.problems import Refusal
from clipmill.viewing import Looks

AGAIN_SECONDS = 60  # until a version that failed is tried again
CLOSE_SECONDS = 10  # that a load under way has to end

log = logging.getLogger("clipmill.serve")

Match = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Served:
    """A model that answers."""

    model: infer.Model
    version: str | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)
    match: Match | None = None  # who an embedding shows
    looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "looks", infer.looks(self.model))


def _always() -> str | None:
    return None


@dataclass(frozen=True)
class Source:
    """Where a model comes from, under the name that it is asked for by."""

    name: str
    load: Callable[[], Served]
    version: Callable[[], str | None] = _always  # which there is now; None: it never changes


def fixed(name: str, model: infer.Model, version: str | None = None) -> Source:
    """The source of a model that is here and stays."""
    served = Served(model, version)
    return Source(name, lambda: served)


@dataclass
class _Place:
    """What is known of a source."""

    source: Source
    served: Served | None = None
    fault: str = ""  # why the last attempt failed
    tried: str | None = None  # the version that was tried last
    tried_at: float = 0.0  # on the clock that never goes back

    def is_due(self, now: str | None) -> bool:
        """Whether to load what its source has: another version, or one that failed a while ago."""
        if now is not None and now != self.tried:
            return True
        return bool(self.fault) and time.monotonic() - self.tried_at >= AGAIN_SECONDS


class Shelf:
    """All models of a server."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._places = {source.name: _Place(source) for source in sources}
        if not self._places:
            raise UsageError("no models", "at least one to serve")
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Load all; it fails only where not one can be loaded."""
        failed = [(place, fault) for place in self._places.values() if (fault := self._load(place))]
        is_over = len(failed) == len(self._places)
        for place, _ in failed[is_over:]:  # the first of all is raised, which tells it as well
            _warn(place)
        if is_over:
            raise failed[0][1]

    def _load(self, place: _Place) -> Exception | None:
        place.tried_at = time.monotonic()
        try:
            place.tried = place.source.version()
            served = place.source.load()
        except Exception as error:  # a plugin may raise anything, and the others must serve
            place.fault = " ".join(f"{type(error).__name__}: {error}".split())
            return error
        place.served, place.fault = served, ""  # in one step: a request sees the old or the new
        return None

    def refresh(self) -> None:
        """Load what has another version by now, and again what failed."""
        for place in self._places.values():
            try:
                now = place.source.version()
            except Exception as error:  # a registry that is away: what is here serves on
                log.warning("model %s: %s", place.source.name, error)
                continue
            if place.is_due(now) and self._load(place):
                _warn(place)

    def watch(self, every_seconds: float) -> None:
        """Refresh again and again, in a thread of its own."""

        def turn() -> None:
            while not self._over.wait(every_seconds):
                self.refresh()

        self._thread = threading.Thread(target=turn, name="clipmill-shelf", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return sorted(self._places)

    def find(self, name: str) -> Served:
        """The model of a name, as it is now."""
        if name not in self._places:
            raise Refusal(404, f"no model {name!r}", f"one of {', '.join(self.names)}")
        served = self._places[name].served
        if served is None:
            raise Refusal(
                503, f"the model {name} could not be loaded", "", "the server's log says why",
                {"Retry-After": str(AGAIN_SECONDS)},
            )  # fmt: skip
        return served

    def ready(self) -> dict[str, Served]:
        """Those that answer."""
        places = [(name, self._places[name].served) for name in self.names]
        return {name: served for name, served in places if served is not None}

    def states(self) -> dict[str, str]:
        """Of each name whether it is ready, was left at an older version, or failed."""
        return {name: _state(self._places[name]) for name in self.names}

    def faults(self) -> dict[str, str]:
        """Why those that failed did."""
        return {name: place.fault for name, place in self._places.items() if place.fault}


def _warn(place: _Place) -> None:
    log.warning("model %s cannot be loaded: %s", place.source.name, place.fault)


def _state(place: _Place) -> str:
    if place.served is None:
        return "failed"
    return "ready, but its next version failed" if place.fault else "ready"

"""Figures of a server, as Prometheus reads them. Knows only what it is told."""

from collections.abc import Callable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one server."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "clipmill_requests", "Requests for answers", ["model", "status"], registry=own
        )
        self.seconds = Histogram(
            "clipmill_request_seconds", "From the head of a request to its answer", ["model"],
            buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.decode_seconds = Histogram(
            "clipmill_decode_seconds", "Of a video, with the wait for a decoder",
            buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.network_seconds = Histogram(
            "clipmill_network_seconds", "Of a video, with the wait for a turn",
            buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.together = Histogram(
            "clipmill_videos_a_turn", "Videos that a network answered at once",
            buckets=COUNTS, registry=own,
        )  # fmt: skip
        self.takes = Counter("clipmill_takes", "Takes that networks answered", registry=own)
        self.deaths = Counter(
            "clipmill_decoder_failures",
            "Decoders that crashed, met a limit or lied",
            registry=own,
        )
        self._models = Gauge(
            "clipmill_model", "1 where a model is ready", ["model", "version"], registry=own
        )

    def gauge(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Tell a number that is asked for whenever the figures are read."""
        Gauge(name, told, registry=self._registry).set_function(value)

    def text(self, versions: Mapping[str, str], failed: set[str]) -> bytes:
        """All figures, with the models as they are now."""
        self._models.clear()
        for name, version in versions.items():
            self._models.labels(name, version).set(1)
        for name in failed:
            self._models.labels(name, "").set(0)
        return bytes(generate_latest(self._registry))

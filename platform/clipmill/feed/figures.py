"""What a feed measures of itself, and the verdict: what limits, by how much, what to change.

Knows only numbers.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

WAIT_LIMIT = 0.02  # a share of waiting below this is none
BUSY_CPUS = 0.75  # CPUs busy with decoding to this share are the limit
STORE_SHARE = 0.5  # of a worker's time off the CPU: it waits for bytes


@dataclass
class Figures:
    """Running sums of one rank; the first batch is counted apart, as a start."""

    cpus: int = 1
    batches: int = 0
    clips: int = 0
    bytes: int = 0
    wait_seconds: float = 0.0
    step_seconds: float = 0.0
    copy_seconds: float = 0.0
    first_batch_seconds: float = 0.0
    cpu_seconds: float = 0.0
    worker_seconds: float = 0.0
    made: int = 0  # clips decoded so far, those ahead included
    cached: int = 0  # clips that came from the cache instead
    ready_batches: int = 0  # that stood ready when one was asked for, summed
    bad: Counter[int] = field(default_factory=Counter)  # clips by epoch

    @property
    def wait_share(self) -> float:
        """Share of the time, after the first batch, in which the step waited."""
        whole = self.wait_seconds + self.step_seconds
        return self.wait_seconds / whole if whole else 0.0

    @property
    def cpu_ms_a_clip(self) -> float:
        """CPU time of a clip in its worker."""
        return 1000 * self.cpu_seconds / self.made if self.made else 0.0

    @property
    def clips_per_second(self) -> float:
        """Clips that the step got, the start not counted."""
        whole = self.wait_seconds + self.step_seconds
        first = self.clips / self.batches if self.batches else 0
        return (self.clips - first) / whole if whole else 0.0

    def plain(self) -> dict[str, Any]:
        """As told in results and in the tracker."""
        told = {name: value for name, value in asdict(self).items() if name != "bad"}
        return {
            **told,
            "bad": sum(self.bad.values()),
            "wait_share": self.wait_share,
            "clips_per_second": self.clips_per_second,
            "cpu_ms_a_clip": self.cpu_ms_a_clip,
            "ready_batches": self.ready_batches / self.batches if self.batches else 0.0,
            "verdict": verdict(self),
        }


def verdict(figures: Figures) -> str:
    """One line: what limited, by how much, and which setting to change."""
    if figures.batches < 2:
        return "too few batches to say what limits"
    share, rate = figures.wait_share, figures.clips_per_second
    if share >= WAIT_LIMIT and figures.cached > figures.made:
        return f"the cache limits: the step waited {share:.0%} of its time at {rate:.0f} clips a second"
    if share < WAIT_LIMIT:
        return _step_limits(figures, rate)
    told = f"the step waited {share:.0%} of its time for clips at {rate:.0f} a second"
    decoded = rate * figures.made / max(1, figures.made + figures.cached)
    busy = decoded * figures.cpu_seconds / max(1, figures.made) / figures.cpus
    idle = 1 - figures.cpu_seconds / figures.worker_seconds if figures.worker_seconds else 0.0
    if busy >= BUSY_CPUS:
        return (
            f"decoding limits: {told}, {figures.cpu_ms_a_clip:.1f} ms CPU a clip on"
            f" {figures.cpus} CPUs; give it more CPUs, or a dataset that decodes cheaper"
            " (`ingest --profile training`, a smaller size, a view of fewer frames)"
        )
    if idle >= STORE_SHARE and busy < 0.5:
        return (
            f"reading limits: {told}, workers were off the CPU {idle:.0%} of their time;"
            " bring the shards nearer, or set data.window to read them in order"
        )
    return (
        f"CPUs limit: {told}, decoding got {busy:.0%} of {figures.cpus} CPUs and the step or"
        " others the rest; give it more CPUs or lower train.threads"
    )


def _step_limits(figures: Figures, rate: float) -> str:
    cost = figures.cpu_seconds / max(1, figures.made)
    able = f", decoding could give {figures.cpus / cost:.0f}" if cost else ""
    copying = figures.copy_seconds / figures.step_seconds if figures.step_seconds else 0.0
    if copying > 0.2:
        return f"copying to the device took {copying:.0%} of the step; make the view smaller"
    return (
        f"the step limits: it waited {figures.wait_share:.1%}, took {rate:.0f} clips a second{able}"
    )

"""What keeps a run from spoiling itself, and from going on for nothing.

Both remember a few numbers, which a checkpoint keeps. Neither knows files nor plans.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from clipmill.errors import RunError

MOST_IN_A_ROW = 10  # steps that are skipped: after that nothing will mend itself
SEEN_STEPS = 20  # before a gradient can be told from the usual ones
MEMORY = 0.95


@dataclass
class Guard:
    """Refuses updates by gradients that are no number, or far larger than the usual ones."""

    on_nan: Literal["stop", "skip"] = "stop"
    spike: float | None = None  # times the usual norm
    skipped: int = 0
    in_a_row: int = 0
    seen: int = 0
    usual: float = 0.0  # moving average of the gradient's norm
    refused: bool = field(default=False, compare=False)  # the step at hand

    @property
    def is_asked(self) -> bool:
        """Whether it must see a gradient before the update, which waits for the device."""
        return self.on_nan == "skip" or self.spike is not None

    def refuses(self, norm: float) -> bool:
        """Tell whether a gradient of this norm must not change the weights."""
        self.refused = not math.isfinite(norm) or self._is_spike(norm)
        if self.refused:
            self.skipped += 1
            self.in_a_row += 1
        else:
            share = MEMORY if self.seen else 0.0
            self.usual = share * self.usual + (1 - share) * norm
            self.seen += 1
            self.in_a_row = 0
        return self.refused

    def _is_spike(self, norm: float) -> bool:
        return self.spike is not None and self.seen >= SEEN_STEPS and norm > self.spike * self.usual

    def check(
        self,
        number: int,
        metrics: Mapping[str, torch.Tensor],
        last_good: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Stop where it must, and name the last good checkpoint. Waits for the device."""
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        fault = self._fault(loss, norm)
        if fault:
            raise RunError(
                f"{fault}: the loss of step {number} is {loss:.3g}, "
                f"the norm of its gradient {norm:.3g}",
                "finite numbers, none far larger than the usual ones",
                "lower model.learning_rate, set train.clip_norm or train.on_nan=skip; "
                f"the last good checkpoint is {last_good() or 'none'}",
            )

    def _fault(self, loss: float, norm: float) -> str:
        if self.on_nan == "skip":
            skips = f"{self.in_a_row} steps in a row were skipped"
            return skips if self.in_a_row >= MOST_IN_A_ROW else ""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "training is no longer in numbers"
        return f"the usual norm is {self.usual:.3g}" if self.refused else ""

    def told(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("skipped", "in_a_row", "seen", "usual")}

    def recall(self, told: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        for name, value in told.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class Patience:
    """How many validations in a row may bring nothing better before a run ends."""

    patience: int
    min_delta: float = 0.0
    best: float | None = None
    waited: int = 0

    def after(self, score: float) -> "Patience":
        """The same after one more validation; the higher the score the better."""
        if self.best is None or score > self.best + self.min_delta:
            return replace(self, best=score, waited=0)
        return replace(self, waited=self.waited + 1)

    @property
    def is_over(self) -> bool:
        """Whether to end the run."""
        return self.waited >= self.patience

    def told(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name in ("best", "waited")}

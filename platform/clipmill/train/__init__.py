"""The training loop: takes a model, an optimizer and batches; gives one `Step` after another.

Knows neither Ray nor MLflow, neither files nor the plan. Whoever iterates decides what to log
and when to write a checkpoint.
"""

from clipmill.train.average import Average
from clipmill.train.computing import arranged, deterministic, resolved_precision
from clipmill.train.guard import Guard, Patience
from clipmill.train.loop import Loop, Step, over_all_ranks, steps
from clipmill.train.parallel import Kind, held_back, spread
from clipmill.train.schedule import factor

__all__ = [
    "Average",
    "Guard",
    "Kind",
    "Loop",
    "Patience",
    "Step",
    "arranged",
    "deterministic",
    "factor",
    "held_back",
    "over_all_ranks",
    "resolved_precision",
    "spread",
    "steps",
]

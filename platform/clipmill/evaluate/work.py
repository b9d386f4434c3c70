"""Pieces of a test plan to answers: fed, through the network, joined by video.

The same in this process and in a worker. Knows no figures and no Ray.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clipmill import feed, infer
from clipmill.evaluate.pieces import batch_takes, batches
from clipmill.infer import Model, Output
from clipmill.plan import Plan


@dataclass(frozen=True)
class Answered:
    """What came of a piece."""

    piece: range
    answers: list[tuple[int, dict[str, Any]]]  # of its records, in their order
    bad: list[dict[str, Any]]  # clips that did not decode


@dataclass(frozen=True)
class Question:
    """What is asked of a network in place of its answer, and how that is joined by video."""

    ask: infer.Ask
    join: infer.Join


def answered(
    model: Model,
    plan: Plan,
    pieces: Sequence[range],
    transport: feed.Transport,
    *,
    question: Question | None = None,
    feeds: int = 1,
) -> Generator[Answered]:
    """Answer the videos of pieces, in order; `feeds` is how many such share the CPUs."""
    most = batch_takes(plan)
    own = tuple(part for piece in pieces for part in batches(piece, most))
    # How many bad clips are too many is a matter of all workers together.
    settings = model.recipe.feed.model_copy(update={"max_bad_share": 1.0})
    share = feed.Share(0, len(own), world=feeds, own=own)
    ask, join = (question.ask, question.join) if question else (None, None)
    with (
        _threads(model.recipe.train.threads),
        feed.batches(plan, share, settings, transport) as fed,
    ):
        for piece, results in _by_piece(pieces, infer.outputs(model, fed, ask)):
            takes = plan.at(piece.start, piece.stop)
            answers = list(infer.answers(model.plugin, takes, results, join))
            bad = [row for row in list(fed.ledger) if row["position"] in piece]
            yield Answered(piece, answers, bad)


def _by_piece(
    pieces: Iterable[range], results: Iterator[tuple[int, Output]]
) -> Iterator[tuple[range, list[tuple[int, Output]]]]:
    """The outputs of each piece, by place in it; of bad clips there are none."""
    waiting = next(results, None)
    for piece in pieces:
        mine = []
        while waiting is not None and waiting[0] < piece.stop:
            mine.append((waiting[0] - piece.start, waiting[1]))
            waiting = next(results, None)
        yield piece, mine


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute on so many CPU threads: with others, sums may differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Successive halving: at which steps trials are compared, and which go on.

Jamieson and Talwalkar, 2016; each rung waits for all its trials, so the outcome is that of the
scores alone. Knows neither runs nor recipes.
"""

from collections.abc import Mapping


def rungs(steps: int, trials: int, eta: int, first: int | None, every: int | None) -> list[int]:
    """Steps at which trials are compared, `steps` being the last.

    All are multiples of the first, and that of `every`, so that a validation falls on each.
    """
    count = 0
    while eta ** (count + 1) <= trials:
        count += 1
    begin = max(1, first or -(-steps // eta**count))
    begin = -(-begin // every) * every if every else begin
    found: list[int] = []
    while begin < steps and len(found) < count:
        found.append(begin)
        begin *= eta
    return [*found, steps]


def best(scores: Mapping[str, float], eta: int, *, higher_is_better: bool) -> list[str]:
    """The names that go on: the best of every `eta`, at least one; of equals the first."""
    sign = -1 if higher_is_better else 1
    ranked = sorted(scores, key=lambda name: sign * scores[name])  # a stable sort
    return ranked[: max(1, len(ranked) // eta)]

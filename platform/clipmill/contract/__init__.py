"""The contract, run on any plugin, a stranger's too, without any video.

Goes the way of the data with a tiny catalog and frames of noise: views, plan, sample, batch,
network, gradients, checkpoint, answers. Knows no plugin by name, and judges promises, not accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from clipmill.contract.case import Case, NotClaimed
from clipmill.contract.checks import CHECKS, Check, Promise
from clipmill.errors import PluginError
from clipmill.plugin import Plugin, load, make


class Result(NamedTuple):
    """One check: ok is None where the plugin does not claim what it looks at."""

    check: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """What the contract found on a plugin, made with these fields."""

    name: str
    fields: Mapping[str, Any]
    results: list[Result]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(result.ok is not False for result in self.results)

    def __str__(self) -> str:
        marks = {True: "ok", False: "FAILED", None: "-"}
        return "\n".join(f"{marks[r.ok]:6} {r.check}: {r.detail}" for r in self.results)


def check(
    name: str, fields: Mapping[str, Any] | None = None, checks: Sequence[Promise] = CHECKS
) -> Report:
    """Run the contract, or a part of it, on the plugin of that name.

    A plugin whose defaults are too large for a check names smaller fields in a class attribute
    `small`; fields given here go before them, and the first result tells which were used.
    """
    return examine(make(name, {**load(name).small, **(fields or {})}), checks)


def examine(plugin: Plugin, checks: Sequence[Promise] = CHECKS) -> Report:
    """Run the contract, or a part of it, on a plugin's value."""
    case, results = Case(plugin), list[Result]()
    failed: set[str] = set()
    with torch.random.fork_rng(devices=[]):
        for name, needs, function in checks:
            missing = [need for need in needs if need in failed]
            results.append(
                Result(name, False, f"not reached, as {missing[0]} failed")
                if missing
                else _result(name, function, case)
            )
            if results[-1].ok is False:
                failed.add(name)
    return Report(plugin.name, plugin.model_dump(exclude_unset=True), results)


def _result(name: str, function: Check, case: Case) -> Result:
    try:
        return Result(name, True, function(case))
    except NotClaimed as reason:
        return Result(name, None, str(reason))
    except PluginError as fault:
        return Result(name, False, str(fault))
    except Exception as error:  # whatever a stranger's code raises is a result, not the end
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(name, False, f"raised {told[:300]}")

"""Pages about runs and versions for a terminal: tables, small curves, and a view that follows.

Takes the plain data of the verbs; knows nothing of where it comes from.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from clipmill.amounts import duration, size
from clipmill.cli import screen

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Told = dict[str, Any]

BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 40
MOST_METRICS = 3  # in a row of the table of runs
OF_THE_MACHINE = ("learning_rate", "gradient_norm", "wait_share", "copy_share", "compute_share",
                  "takes_per_second", "skipped")  # fmt: skip


def spark(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """A curve as one line of bars, from its least to its largest value."""
    finite = [value for value in values if value - value == 0]  # neither infinite nor NaN
    if not finite:
        return ""
    columns = min(width, len(finite))
    edges = [place * len(finite) // columns for place in range(columns + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def learned(metrics: Mapping[str, Any]) -> Told:
    """The metrics that tell how good a model is, and not how fast or on what it was trained."""
    return {
        name: value
        for name, value in metrics.items()
        if name not in OF_THE_MACHINE and not name.startswith("feed_") and "/" not in name
    }


# --- all runs


def runs(result: Told) -> None:
    """A row a run, and how to go on with those that were broken off."""
    columns = ("name", "state", "steps", "time", "left", "clips/s", "metrics", "verdict")
    screen.table("", columns, [_run_row(run) for run in result["runs"]])
    broken = [run["name"] for run in result["runs"] if run["state"] == "broken"]
    if broken:
        print(f"broken off: `clipmill resume {broken[0]}` goes on", file=sys.stderr)


def _state(run: Told) -> str:
    if run["state"] == "stopped":
        return f"stopped by the sweep {run['sweep']}"
    return f"waits in the sweep {run['sweep']}" if run["state"] == "waiting" else str(run["state"])


def _run_row(run: Told) -> list[object]:
    metrics = dict(list(learned(run["metrics"]).items())[:MOST_METRICS])
    rate = run["takes_per_second"]
    return [
        run["name"],
        _state(run),
        f"{run['steps']}/{run['total_steps']}",
        duration(run["seconds"]),
        duration(run["left_seconds"]),
        f"{rate:.0f}" if rate else "",
        metrics,
        (run["verdict"] or "").partition(":")[0],
    ]


# --- one run


def run(result: Told) -> None:
    """All that is known of one run."""
    screen.pairs(_facts(result))
    screen.table("curves", ("", "", "first", "last", "least", "most"), _curve_rows(result))
    screen.table("recipe", ("", ""), _flat(result["recipe"]))


def _facts(told: Told) -> Told:
    around = told["surroundings"]
    facts = {
        "name": told["name"],
        "state": _state(told),
        "steps": f"{told['steps']} of {told['total_steps']}",
        "time": duration(told["seconds"]),
        "left": duration(told["left_seconds"]),
        "clips a second": told["takes_per_second"],
        "limit": told["verdict"],
        "metrics": learned(told["metrics"]),
        "bad clips": told["bad_clips"],
        "plugin": told["plugin"],
        "data": _paths(told["data"]),
        "version": told.get("version"),
        "folder": told["folder"],
        "run_id": told["run_id"],
        "checkpoints": told["checkpoints"],
        "commit": _commit(around.get("git", {})),
        "started": f"{told['starts']} times, the last by {around['command']}" if around else None,
        "machine": around.get("machine"),
        "system": {name.removeprefix("system/"): v for name, v in told["system"].items()},
        "pictures": told["pictures"],
        "weights_sha256": told.get("weights_sha256"),
        "takes_sha256": told.get("takes_sha256"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [], {})}


def _paths(data: Any) -> Any:
    return data if isinstance(data, str) else [each["path"] for each in data]


def _commit(git: Mapping[str, Any]) -> str | None:
    if not git:
        return None
    changed = f", {len(git['changes'])} files changed since" if git["dirty"] else ""
    return f"{git['commit'][:12]}{changed}"


def _curve_rows(told: Told) -> Iterator[list[object]]:
    for name, curve in told["curves"].items():
        values = curve["values"]
        yield [name, spark(values), values[0], values[-1], min(values), max(values)]


def _flat(data: Mapping[str, Any], above: str = "") -> Iterator[list[object]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield [f"{above}{name}", value]


def follow(states: Iterable[Told], progress: Callable[..., None]) -> Told:
    """Draw a run again and again while it lives; lines of progress where nothing can be drawn."""
    last: Told = {}
    if not sys.stdout.isatty():
        for last in states:
            progress("training", last["steps"], last["total_steps"], last["metrics"])
        return last
    from rich.live import Live

    with Live(console=screen.console(), transient=True, auto_refresh=False) as live:
        for last in states:
            live.update(_living(last), refresh=True)
    return last


def _living(told: Told) -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    head = f"{told['name']}  {_state(told)}  step {told['steps']} of {told['total_steps']}"
    rate = told["takes_per_second"]
    pace = [
        duration(told["seconds"]),
        f"{rate:.0f} clips a second" if rate else "",
        f"{duration(told['left_seconds'])} left" if told["left_seconds"] else "",
    ]
    return Group(
        Text(head),
        ProgressBar(told["total_steps"], told["steps"], width=60),
        Text("  ".join(part for part in pace if part)),
        Text(told["verdict"] or ""),
        _drawn_curves(told),
        Text(f"{time.strftime('%H:%M:%S')}, Ctrl-C leaves the run alone"),
    )


def _drawn_curves(told: Told) -> "Table":
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, show_header=False)
    for name, curve in told["curves"].items():
        if name in learned(told["metrics"]):
            last = screen.cell(curve["values"][-1])
            drawn.add_row(Text(name), Text(spark(curve["values"])), Text(last))
    return drawn


# --- versions


def trace(result: Told) -> None:
    """What a version came of."""
    version = f"{result['name']}/{result['version']}"
    facts = {
        "version": version,
        "aliases": result["aliases"],
        "run": f"{result['run']['name']} ({result['run']['run_id']})",
        "parent": result["run"]["parent"],
        "trained": time.strftime("%Y-%m-%d %H:%M", time.localtime(result["run"]["started"])),
        "time": duration(result["run"]["seconds"]),
        "by": " on ".join(filter(None, (result["run"]["user"], result["run"]["host"]))),
        "commit": result["commit"],
        "overrides": result["overrides"],
        "classes": result["classes"],
        "test protocol": result["protocol"],
        "metrics": learned(result["metrics"]),
        "weights_sha256": result["weights_sha256"],
        "takes_sha256": result["takes_sha256"],
        **result["notes"],
    }
    screen.pairs({name: value for name, value in facts.items() if value not in (None, "", [], {})})
    screen.table("data", ("path", "digest"), [[d["path"], d["digest"]] for d in result["data"]])
    _figures(result["figures"])
    screen.table("files", ("", ""), [[f["file"], size(f["bytes"])] for f in result["files"]])
    screen.table("recipe", ("", ""), _flat(result["recipe"]))


def _figures(told: Mapping[str, Any]) -> None:
    rows = [[split, f["metrics"], f["videos"], f["protocol"]] for split, f in told.items()]
    if rows:
        screen.table("measured", ("on", "metrics", "videos", "protocol"), rows)


def promoted(result: Told) -> None:
    """Which version holds the alias now, and how it compares with the one before."""
    comparison = result.get("comparison") or {}
    shown = {key: result[key] for key in ("name", "version", "alias", "uri", "nothing_to_do")}
    shown |= {"metrics": learned(result["metrics"]), "compared": comparison.get("verdict")}
    screen.pairs({name: value for name, value in shown.items() if value is not None})


def clean(result: Told) -> None:
    """What could go, or has gone."""
    rows = [
        [find["kind"], find["name"], size(find["bytes"]), find["why"]]
        for kind in ("runs", "sweeps", "caches", "leftovers")
        for find in result[kind]
    ]
    if rows:
        screen.table("", ("", "", "", ""), rows)
    if result["removed"]:
        print(f"removed {size(result['bytes'])}")
    elif rows:
        print(f"{size(result['bytes'])} could go: the same command with --yes removes it")
    else:
        print("nothing is old enough to go")

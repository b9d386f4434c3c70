"""An estimate in words: rows for a screen, and Markdown of several beside one another.

Takes plain values; knows nothing of how they were found.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from clipmill.amounts import duration, size

Told = Mapping[str, Any]


def lines(told: Told) -> dict[str, str]:
    """What an estimate says, line by line."""
    hours = {f"ingest on {n} cores": _hours(h) for n, h in told["ingest_hours"].items()}
    return {
        "videos": f"{told['videos']:,} of {told['seconds_each']:g} s",
        "frames": f"{told['frames']:,}",
        "sources": size(told["source_bytes"]),
        "ingest": f"{told['ingest_core_hours']:,.0f} core hours",
        **hours,
        "shards": f"{size(told['stored_bytes'])} in {told['shards']:,}",
        "catalog": size(told["catalog_bytes"]),
        "catalog and plan in memory": size(told["catalog_memory_bytes"]),
        "plan of an epoch": duration(told["plan_seconds_an_epoch"]),
        "decode, a core": f"{told['clips_a_core_second']:.3g} clips a second",
        "takes of an epoch": f"{told['takes_an_epoch']:,}",
        "decode of an epoch": f"{_short(told['decode_core_hours_an_epoch'])} core hours",
        "clips to ask about all": f"{told['takes_to_ask_about_all']:,}",
        "decode of them": f"{_short(told['decode_core_hours_to_ask_about_all'])} core hours",
    }


def devices(told: Told) -> list[list[str]]:
    """What each device takes, and what it needs."""
    return [
        [
            each["device"],
            _short(each["clips_a_second"]),
            f"{each['decode_cores']:,}",
            _hours(each["epoch_hours"]),
            _hours(each["run_hours"]),
        ]
        for each in told["devices"]
    ]


DEVICE_COLUMNS = ("device", "clips a second", "decode cores", "an epoch", "the recipe's steps")


def markdown(several: Sequence[Told]) -> str:
    """Estimates of several sizes beside one another, and what devices need."""
    sides = [lines(told) for told in several]
    columns = [f"{told['videos']:,} videos" for told in several]
    rows = [[name, *(side[name] for side in sides)] for name in sides[0] if name != "videos"]
    parts = [_table(["", *columns], rows)]
    if several[0]["devices"]:
        parts.append(_table(DEVICE_COLUMNS, devices(several[0])))
    parts.append("\n".join(f"- {each}" for each in several[0]["assumed"]))
    return "\n\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.3g} days"
    return duration(hours * 3600)

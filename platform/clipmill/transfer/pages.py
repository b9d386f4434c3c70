"""A transfer as a Markdown table: both beginnings side by side at each fraction of the labels.

Takes plain data; knows nothing of how it was made.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clipmill.evidence.pages import is_share, percent, table

Row = Mapping[str, Any]
COLUMNS = ("protocol", "labels", "training videos", "pretrained", "random weights", "gain",
           "verdict")  # fmt: skip


def page(told: Row, command: str) -> str:
    """The table, what it says, and what was trained how."""
    budgets = dict.fromkeys(_budget(each) for each in told["protocols"])
    chance = "" if told["chance"] is None else f" Chance is {told['chance']:.1%}."
    head = (
        f"Made by `{command}` ({told['trials_done']} of {told['trials']} trials): {told['source']}"
        f" beside random weights on {told['data']}, {'; '.join(budgets)}. Means over"
        f" {told['seeds']} seeds on the test split ± standard deviation; better is by more than"
        f" both together.{chance}"
    )
    lines = [_line(row, told) for row in told["verdicts"]]
    said = "\n".join(f"- {line}" for line in told["verdict"])
    went = "\n".join(f"- {line}" for line in dict.fromkeys(_went(told)))
    return "\n\n".join((head, table(COLUMNS, lines), said, f"What went where:\n\n{went}"))


def _budget(each: Row) -> str:
    return f"{each['protocol']} of `{each['plugin']}` in {each['steps']} steps of {each['batch']}"


def _went(told: Row) -> list[str]:
    return [line for each in told["protocols"] for line in each["init"]]


def _line(judged: Row, told: Row) -> list[str]:
    place = (judged["protocol"], judged["share"])
    own = {r["begins"]: r for r in told["rows"] if (r["protocol"], r["share"]) == place}
    videos = next(iter(own.values()))["training_videos"]
    return [
        judged["protocol"],
        f"{100 * judged['share']:.3g} %",
        str(videos),
        *(percent(own[name]) if name in own else "" for name in ("pretrained", "random")),
        "" if judged["gain"] is None else _gain(judged["gain"], own.values()),
        f"**{judged['verdict']}**" if judged["verdict"] == "better" else judged["verdict"],
    ]


def _gain(gain: float, own: Iterable[Row]) -> str:
    """In points of percent where both are shares."""
    is_of_shares = all(is_share(row["mean"]) for row in own)
    return f"{100 * gain:+.1f}" if is_of_shares else f"{gain:+.3g}"

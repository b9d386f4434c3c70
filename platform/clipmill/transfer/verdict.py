"""Whether pretraining helps: at which fractions of the labels it beats random weights.

By more than the spreads of the seeds of both together. Numbers in, words out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from clipmill.evidence.claims import Measured

Row = Mapping[str, Any]
Verdict = Literal["better", "worse", "no difference", "not judged"]
WORDS = {
    "better": "beats random weights by more than the spread of the seeds",
    "worse": "loses to random weights by more than the spread of the seeds",
    "no difference": "no difference beyond the spread of the seeds",
    "not judged": "not judged yet",
}
LEAST_SEEDS = 2  # one has no spread


def judged(rows: Sequence[Row], higher_is_better: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Compare both beginnings at each fraction, by protocol."""
    pairs = dict.fromkeys((row["protocol"], row["share"]) for row in rows)
    return [
        _judged(protocol, share, rows, 1 if higher_is_better[protocol] else -1)
        for protocol, share in pairs
    ]


def _judged(protocol: str, share: float, rows: Iterable[Row], sign: int) -> dict[str, Any]:
    sides = {
        row["begins"]: Measured(tuple(row["values"]), row["videos"])
        for row in rows
        if (row["protocol"], row["share"]) == (protocol, share)
    }
    told = {"protocol": protocol, "share": share, "verdict": "not judged"}
    if len(sides) < 2:
        return {**told, "gain": None, "margin": None}
    ours, theirs = sides["pretrained"], sides["random"]
    gain, margin = sign * (ours.mean - theirs.mean), ours.spread + theirs.spread
    if min(len(ours.values), len(theirs.values)) >= LEAST_SEEDS:
        told["verdict"] = _verdict(gain, margin)
    return {**told, "gain": gain, "margin": margin}


def _verdict(gain: float, margin: float) -> Verdict:
    if abs(gain) <= margin:
        return "no difference"
    return "better" if gain > 0 else "worse"


def said(judgements: Sequence[Row]) -> list[str]:
    """A line a protocol: at which fractions of the labels what is so."""
    lines = []
    for protocol in dict.fromkeys(row["protocol"] for row in judgements):
        own = [row for row in judgements if row["protocol"] == protocol]
        parts = [
            f"{words} at {_all(row['share'] for row in own if row['verdict'] == verdict)}"
            for verdict, words in WORDS.items()
            if any(row["verdict"] == verdict for row in own)
        ]
        lines.append(f"{protocol}: {'; '.join(parts)} of the labels")
    return lines


def _all(shares: Iterable[float]) -> str:
    *most, last = (f"{share:.3g} %" for share in (100 * share for share in shares))
    return f"{', '.join(most)} and {last}" if most else last

"""The statistics of a dataset as tables for a terminal. Plain data in, rows out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipmill.amounts import size
from clipmill.stats.classes import NO_VALUE, Plain
from clipmill.stats.counted import QUANTILES

TITLES = {
    "classes": "classes", "labels": "classes, of several a video", "spans": "classes of frames"
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A table to be shown."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


BARS = " ▁▂▃▄▅▆▇█"


def bars(counts: Sequence[int]) -> str:
    """A histogram in one line; what is not nothing shows."""
    most = max(counts, default=0)
    return "".join(BARS[-(-8 * count // most)] if most else BARS[0] for count in counts)


def sections(told: Plain, *, classes: int = 40) -> list[Section]:
    """The statistics as tables."""
    found = [
        Section("", ("", ""), _overview(told)),
        Section(
            "splits",
            ("split", "records", "hours", "size"),
            [(s["split"] or NO_VALUE, s["records"], s["hours"], size(s["bytes"])) for s in told["splits"]],
        ),
        _class_table(told, "classes", "records", classes),
        _class_table(told, "labels", "records", classes),
        _class_table(told, "spans", "seconds", classes),
        Section(
            "spread",
            ("", "least", "5 %", "median", "95 %", "most", "0.5 % to 99.5 %"),
            [_spread_row(each) for each in told["spread"]],
        ),
        Section(
            "not taken",
            ("stage", "sources", "reason"),
            [(r["stage"], r["sources"], r["reason"]) for r in told["quarantine"]["reasons"]],
        ),
    ]  # fmt: skip
    return [section for section in found if section.rows]


def _overview(told: Plain) -> list[tuple[object, ...]]:
    counts, near = told["counts"], told["near_duplicates"]
    rows: list[tuple[object, ...]] = [
        ("records", told["records"]),
        ("videos", told["videos"]),
        ("hours", told["hours"]),
        ("size", size(told["bytes"])),
        ("shards", told["shards"]),
        ("with sound", f"{told['with_audio']} ({_share(told['with_audio'], told['records'])})"),
    ]
    if told["with_masks"]:
        share = _share(told["with_masks"], told["records"])
        rows.append(("with masks", f"{told['with_masks']} ({share})"))
    asked = ("sources", "taken", "quarantined", "duplicates", "filtered")
    rows += [(name, counts[name]) for name in asked if name in counts]
    if near["groups"]:
        rows.append(("near-duplicates", f"{near['records']} in {near['groups']} groups"))
    return rows


def _class_table(told: Plain, kind: str, unit: str, most: int) -> Section:
    """How much there is of each class, by label, by all labels, or by spans of frames."""
    found = told[kind]
    splits = [s["split"] or NO_VALUE for s in told["splits"]]
    top = max((row[unit] for row in found), default=1) or 1
    rows: list[tuple[object, ...]] = [
        (
            row["label"] or NO_VALUE,
            *(row["splits"].get(split, 0) for split in splits),
            row[unit],
            "█" * max(1, round(20 * row[unit] / top)),
        )
        for row in found[:most]
    ]
    if (more := len(found) - most) > 0:
        left = sum(row[unit] for row in found[most:])
        rows.append((f"{more} more classes", *("" for _ in splits), left, ""))
    return Section(TITLES[kind], ("class", *splits, unit, ""), rows)


def _spread_row(each: Plain) -> tuple[object, ...]:
    show = shower(each)
    quantiles = (show(each[name]) for name in QUANTILES)
    unit = f" ({each['unit']})" if each["unit"] not in ("", "B") else ""
    return (f"{each['name']}{unit}", *quantiles, bars(each["histogram"]))


def shower(each: Plain) -> Callable[[float], str]:
    """How a value of this column is written."""
    return size if each["unit"] == "B" else "{:.4g}".format


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"

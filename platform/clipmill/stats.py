"""Statistics of a dataset: how much there is of what, how it is spread, and what was not taken.

Read from the catalog and the ledger alone: no video is opened. Gives plain data, tables for a
terminal, and a picture; knows neither the terminal nor how a dataset is made.
"""

import html
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill import catalog as catalogs
from clipmill import storage
from clipmill.amounts import size
from clipmill.catalog import Catalog
from clipmill.errors import UsageError

Plain = dict[str, Any]
BINS = 24
QUANTILES = {"least": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "most": 1.0}
# Columns whose spread is told, with their units.
SPREAD = {
    "duration_seconds": "s", "frames": "", "fps": "1/s", "width": "px", "height": "px",
    "motion": "", "brightness": "", "sharpness": "", "silence": "",
}  # fmt: skip
REASONS = 20  # the most frequent ones are told
NO_VALUE = "(none)"


@dataclass(frozen=True)
class Section:
    """A table to be shown."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


def stats(data: str, *, where: str | None = None) -> Plain:
    """Count and measure a dataset, or what of it fulfils a filter."""
    whole = catalogs.load(data)
    part = whole.part(where=where) if where else whole
    seconds, sizes = part.column("duration_seconds"), _bytes(part)
    return {
        "data": whole.folder,
        "where": where,
        "records": len(part),
        "videos": _videos(part),
        "hours": float(np.nansum(seconds.astype(float))) / 3600,
        "bytes": int(sizes.sum()),
        "shards": len(part.counts("shard")),
        "with_audio": int(np.count_nonzero(part.column("has_audio") == True)),  # noqa: E712 - may be None
        "splits": _splits(part, seconds, sizes),
        "classes": _classes(part),
        "spread": list(_spreads(part, sizes)),
        "near_duplicates": _near(part),
        "counts": whole.meta.get("counts", {}),
        "quarantine": _quarantine(data),
    }


def _bytes(part: Catalog) -> NDArray[np.int64]:
    """The bytes of each record, all its members together."""
    found = [np.empty(0, np.int64)]
    for piece in part.stored.pieces(["members"], part.places):
        members = piece["members"].combine_chunks()
        lengths = pc.struct_field(pc.list_flatten(members), "length").to_numpy()
        owners = pc.list_parent_indices(members).to_numpy()
        found.append(np.bincount(owners, lengths, len(members)).astype(np.int64))
    return np.concatenate(found)


def _videos(part: Catalog) -> int:
    """How many videos the records are of: those cut into several count once."""
    whole, parents = 0, set[str]()
    for piece in part.stored.pieces(["parent"], part.places):
        whole += piece["parent"].null_count
        parents.update(pc.unique(piece["parent"].drop_null()).to_pylist())
    return whole + len(parents)


def _splits(part: Catalog, seconds: NDArray[Any], sizes: NDArray[np.int64]) -> list[Plain]:
    names, numbers = part.numbered("split")
    given = np.nan_to_num(seconds.astype(float))
    told = []
    for place, name in [*enumerate(names), (-1, None)]:
        chosen = numbers == place
        if chosen.any():
            hours = float(given[chosen].sum()) / 3600
            count, size = int(chosen.sum()), int(sizes[chosen].sum())
            told.append({"split": name, "records": count, "hours": hours, "bytes": size})
    return told


def _classes(part: Catalog) -> list[Plain]:
    """Records of each class, by split, the most frequent class first."""
    by_class: dict[str | None, Counter[str]] = {}
    for (label, split), count in part.counts_by("label", "split").items():
        by_class.setdefault(label, Counter())[split or NO_VALUE] += count
    rows: list[Plain] = [
        {"label": label, "records": found.total(), "splits": dict(found)}
        for label, found in by_class.items()
    ]
    return sorted(rows, key=lambda row: (-row["records"], row["label"] or ""))


def _spreads(part: Catalog, sizes: NDArray[np.int64]) -> Iterator[Plain]:
    for name, unit in SPREAD.items():
        yield from _spread(name, unit, part.column(name))
    yield from _spread("bytes", "B", sizes)


def _spread(name: str, unit: str, column: NDArray[Any]) -> Iterator[Plain]:
    """How the values of a column are spread; nothing where it has none.

    The outermost bins of the histogram hold what lies beyond them too.
    """
    values = column.astype(float)
    values = values[np.isfinite(values)]
    if not len(values):
        return
    found = np.quantile(values, list(QUANTILES.values())).tolist()
    low, high = np.quantile(values, (0.005, 0.995))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    yield {
        "name": name,
        "unit": unit,
        "count": len(values),
        "mean": float(values.mean()),
        **dict(zip(QUANTILES, found, strict=True)),
        "edges": edges.tolist(),
        "histogram": counts.tolist(),
    }


def _near(part: Catalog) -> Plain:
    """Groups of near-duplicates, and how many records are in one."""
    groups: Counter[str] = Counter()
    for piece in part.stored.pieces(["near"], part.places):
        counted = piece["near"].drop_null().value_counts().to_pylist()
        groups.update({each["values"]: each["counts"] for each in counted})
    return {"groups": len(groups), "records": groups.total()}


def _quarantine(data: str) -> Plain:
    ledger = catalogs.quarantine(data)
    stages = Counter(stage or NO_VALUE for stage in ledger["stage"].to_pylist())
    pairs = zip(ledger["stage"].to_pylist(), ledger["reason"].to_pylist(), strict=True)
    reasons = Counter((stage or NO_VALUE, reason or "") for stage, reason in pairs)
    told = [
        {"stage": stage, "reason": reason, "sources": count}
        for (stage, reason), count in reasons.most_common(REASONS)
    ]
    return {"sources": len(ledger), "stages": dict(stages.most_common()), "reasons": told}


# --- for a terminal

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
        _class_table(told, classes),
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
    asked = ("sources", "taken", "quarantined", "duplicates", "filtered")
    rows += [(name, counts[name]) for name in asked if name in counts]
    if near["groups"]:
        rows.append(("near-duplicates", f"{near['records']} in {near['groups']} groups"))
    return rows


def _class_table(told: Plain, most: int) -> Section:
    splits = [s["split"] or NO_VALUE for s in told["splits"]]
    top = max((row["records"] for row in told["classes"]), default=1)
    rows: list[tuple[object, ...]] = [
        (
            row["label"] or NO_VALUE,
            *(row["splits"].get(split, 0) for split in splits),
            row["records"],
            "█" * max(1, round(20 * row["records"] / top)),
        )
        for row in told["classes"][:most]
    ]
    if (more := len(told["classes"]) - most) > 0:
        left = sum(row["records"] for row in told["classes"][most:])
        rows.append((f"{more} more classes", *("" for _ in splits), left, ""))
    return Section("classes", ("class", *splits, "records", ""), rows)


def _spread_row(each: Plain) -> tuple[object, ...]:
    show = _shower(each)
    quantiles = (show(each[name]) for name in QUANTILES)
    unit = f" ({each['unit']})" if each["unit"] not in ("", "B") else ""
    return (f"{each['name']}{unit}", *quantiles, bars(each["histogram"]))


def _shower(each: Plain) -> Callable[[float], str]:
    """How a value of this column is written."""
    return size if each["unit"] == "B" else "{:.4g}".format


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


# --- as a picture

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 300, 150, 24
STYLE = """
svg { background: #fff; color: #1c1f22; font: 12px system-ui, sans-serif; }
text { fill: currentColor; } .soft { opacity: .65; } .bar { fill: #0f766e; }
.line { stroke: currentColor; opacity: .4; }
@media (prefers-color-scheme: dark) { svg { background: #15181a; color: #ecebe7; } .bar { fill: #5cc4b8; } }
"""


def plot(data: str, file: str, *, where: str | None = None) -> Plain:
    """Draw the statistics as an SVG picture that needs nothing else."""
    if not file.lower().endswith(".svg"):
        raise UsageError(f"the picture {file}", "a file that ends in .svg", "choose another name")
    told = stats(data, where=where)
    storage.put(file, picture(told).encode())
    return {"file": file, "records": told["records"]}


def picture(told: Plain) -> str:
    """The histograms and the most frequent classes, as SVG."""
    panels = [*map(_histogram, told["spread"])]
    if told["classes"]:
        panels.insert(0, _class_bars(told["classes"][:8]))
    columns = 3
    width = columns * (PANEL_WIDTH + MARGIN) + MARGIN
    height = -(-len(panels) // columns) * (PANEL_HEIGHT + 2 * MARGIN) + 3 * MARGIN
    title = f"{told['records']} records, {told['hours']:.3g} hours, {size(told['bytes'])}"
    placed = [
        f'<g transform="translate({MARGIN + at % columns * (PANEL_WIDTH + MARGIN)} '
        f'{3 * MARGIN + at // columns * (PANEL_HEIGHT + 2 * MARGIN)})">{panel}</g>'
        for at, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{_escaped(title)}</title><style>{STYLE}</style>'
        f'<text x="{MARGIN}" y="{MARGIN + 8}" font-size="16">{_escaped(title)}</text>'
        f"{''.join(placed)}</svg>\n"
    )


def _histogram(each: Plain) -> str:
    most, show = max(each["histogram"]) or 1, _shower(each)
    step = PANEL_WIDTH / len(each["histogram"])
    drawn = [_heading(f"{each['name']} {f'({unit})' if (unit := each['unit']) else ''}")]
    for place, count in enumerate(each["histogram"]):
        high = count / most * (PANEL_HEIGHT - 20)
        drawn.append(
            f'<rect class="bar" x="{place * step:.1f}" y="{PANEL_HEIGHT - high:.1f}" '
            f'width="{step - 1:.1f}" height="{high:.1f}"><title>{count}</title></rect>'
        )
    drawn.append(f'<line class="line" x2="{PANEL_WIDTH}" y1="{PANEL_HEIGHT}" y2="{PANEL_HEIGHT}"/>')
    ends = ((0, "start", each["edges"][0]), (PANEL_WIDTH, "end", each["edges"][-1]))
    drawn += [
        f'<text class="soft" x="{x}" y="{PANEL_HEIGHT + 14}" text-anchor="{anchor}">{show(value)}</text>'
        for x, anchor, value in ends
    ]
    return "".join(drawn)


def _class_bars(classes: list[Plain]) -> str:
    most, step = max(row["records"] for row in classes), (PANEL_HEIGHT - 4) / len(classes)
    drawn = [_heading("most frequent classes")]
    for place, row in enumerate(classes):
        y, name = 4 + place * step, row["label"] or NO_VALUE
        name = name if len(name) < 22 else f"{name[:20]}…"
        wide = row["records"] / most * 120
        drawn.append(
            f'<text x="128" y="{y + step / 2 + 4:.1f}" text-anchor="end">{_escaped(name)}</text>'
            f'<rect class="bar" x="134" y="{y + 1:.1f}" width="{wide:.1f}" height="{step - 3:.1f}"/>'
            f'<text class="soft" x="{138 + wide:.1f}" y="{y + step / 2 + 4:.1f}">{row["records"]}</text>'
        )
    return "".join(drawn)


def _heading(text: str) -> str:
    return f'<text y="-6" font-weight="600">{_escaped(text.strip())}</text>'


def _escaped(text: str) -> str:
    """Text for SVG: names may hold anything, XML holds no control characters."""
    return html.escape("".join(c if c.isprintable() else "�" for c in text))

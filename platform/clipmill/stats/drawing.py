"""The statistics of a dataset as an SVG picture that needs nothing else."""

import html

from clipmill import storage
from clipmill.amounts import size
from clipmill.errors import UsageError
from clipmill.stats.classes import NO_VALUE, Plain
from clipmill.stats.counted import stats
from clipmill.stats.tables import shower

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
    by_class = told["labels"] or told["classes"]
    panels = [_class_bars("most frequent classes", by_class[:8], "records")] if by_class else []
    if told["spans"]:
        panels.append(_class_bars("longest classes of frames (s)", told["spans"][:8], "seconds"))
    panels += map(_histogram, told["spread"])
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
    most, show = max(each["histogram"]) or 1, shower(each)
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


def _class_bars(title: str, classes: list[Plain], unit: str) -> str:
    most, step = max(row[unit] for row in classes) or 1, (PANEL_HEIGHT - 4) / len(classes)
    drawn = [_heading(title)]
    for place, row in enumerate(classes):
        y, name = 4 + place * step, row["label"] or NO_VALUE
        name = name if len(name) < 22 else f"{name[:20]}…"
        wide = row[unit] / most * 120
        drawn.append(
            f'<text x="128" y="{y + step / 2 + 4:.1f}" text-anchor="end">{_escaped(name)}</text>'
            f'<rect class="bar" x="134" y="{y + 1:.1f}" width="{wide:.1f}" height="{step - 3:.1f}"/>'
            f'<text class="soft" x="{138 + wide:.1f}" y="{y + step / 2 + 4:.1f}">{round(row[unit], 1)}</text>'
        )
    return "".join(drawn)


def _heading(text: str) -> str:
    return f'<text y="-6" font-weight="600">{_escaped(text.strip())}</text>'


def _escaped(text: str) -> str:
    """Text for SVG: names may hold anything, XML holds no control characters."""
    return html.escape("".join(c if c.isprintable() else "�" for c in text))

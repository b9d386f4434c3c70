"""One page to look at a dataset: pictures, sound, labels and what was not taken, in one HTML file.

The page needs no network and loads nothing: it can be mailed, and opened from a disk. All that
comes from data is escaped, and the page's own rules let nothing but its own script run.
"""

import base64
import functools
import hashlib
import html
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import catalog as catalogs
from clipmill import storage, video
from clipmill.catalog import MEASURES, Catalog
from clipmill.errors import ClipmillError, UsageError
from clipmill.video.picture import jpeg

Progress = Callable[[str, int, int], None]  # what, done, total
Row = Mapping[str, Any]

TEMPLATE = Path(__file__).with_name("browse.html")
MARK = b'<meta name="generator" content="clipmill browse">'
MARK_WITHIN = 4096  # bytes from the beginning
FRAMES, FRAME_HEIGHT, GAP, QUALITY = 6, 72, 2, 65  # of a strip
WAVE_COLUMNS, WAVE_HEIGHT, WAVE_RATE, WAVE_SECONDS = 160, 28, 8000, 600
LEDGER_ROWS = 5000
THREADS = 4  # the decoders let go of the interpreter


@dataclass(frozen=True)
class Shown:
    """What a record looks and sounds like, or why it cannot be shown."""

    strip: bytes = b""
    frames: tuple[int, ...] = ()
    wave: str = ""
    fault: str = ""


def browse(
    data: str,
    out: str,
    *,
    limit: int = 500,
    where: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a page about a dataset, or about what of it fulfils a filter."""
    out = storage.absolute(out)
    whole = catalogs.load(data)
    _check_out(out, whole.folder)
    if limit < 1:
        raise UsageError(f"a limit of {limit} records", "1 or more")
    part = whole.part(where=where) if where else whole
    rows = part.rows(fair_sample(part, limit, seed).tolist())
    ledger = catalogs.quarantine(data)
    page = _Page(part, rows, ledger.slice(0, LEDGER_ROWS).to_pylist(), len(ledger), where, seed)
    with storage.writing(out) as file:
        size = sum(file.write(piece.encode()) for piece in page.pieces(progress))
    return {
        "page": out,
        "records": len(rows),
        "of": len(part),
        "unreadable": page.unreadable,
        "quarantined": len(ledger),
        "bytes": size,
    }


def _check_out(out: str, folder: str) -> None:
    """Refuse to write over anything but a page of ours."""
    if not out.lower().endswith((".html", ".htm")):
        raise UsageError(f"the page {out}", "a file that ends in .html", "choose another name")
    if out.startswith(f"{folder}/"):
        raise UsageError(f"the page {out} lies in the dataset", "a place outside of it")
    if storage.exists(out):
        try:
            ours = MARK in storage.read_range(out, 0, MARK_WITHIN)
        except ClipmillError:  # a folder, or shorter than any page of ours
            ours = False
        if not ours:
            raise UsageError(f"{out} is there, and no page of ours", "a free name", "move it away")


def fair_sample(part: Catalog, limit: int, seed: int) -> NDArray[np.int64]:
    """Choose rows by chance so that every class in every split has its turn before any again."""
    if len(part) <= limit:
        return np.arange(len(part))
    (_, labels), (names, splits) = part.numbered("label"), part.numbered("split")
    groups = labels * (len(names) + 1) + splits
    chance = np.random.default_rng(seed).random(len(part))
    order = np.lexsort((chance, groups))
    changes = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))
    sizes = np.diff(changes, append=len(order))
    turn = np.arange(len(order)) - np.repeat(changes, sizes)  # within its group
    first = np.lexsort((chance[order], turn))[:limit]
    return np.sort(order[first])


# --- what a record looks and sounds like


def shown(catalog: Catalog, row: Row) -> Shown:
    """Decode a few pictures of a record, and its sound."""
    try:
        numbers = _spread_frames(int(row["frames"] or 1))
        frames = _frames(catalog, row, numbers)
        strip = jpeg(_side_by_side(frames), QUALITY)
        wave = _wave(_sound(catalog, row)) if row["has_audio"] else ""
        return Shown(strip, tuple(numbers), wave)
    except (ClipmillError, OSError) as error:
        return Shown(fault=str(error))


def _spread_frames(count: int) -> list[int]:
    """The middle frames of equal parts of a record."""
    middles = (np.arange(FRAMES) + 0.5) * count / FRAMES
    return list(dict.fromkeys(middles.astype(int).tolist()))


def _frames(catalog: Catalog, row: Row, numbers: list[int]) -> NDArray[np.uint8]:
    width, height = row["width"] or 1, row["height"] or 1
    short_side = FRAME_HEIGHT if width >= height else max(16, round(FRAME_HEIGHT * width / height))
    plain = dict(row)
    if any(member["suffix"] == "idx" for member in row["members"]):
        index = video.unpacked(catalog.read(plain, "idx"))
        read = functools.partial(catalog.read_part, plain, None)
        return video.decode_indexed(index, read, numbers, short_side=short_side)
    return video.decode_frames(catalog.read(plain), numbers, short_side=short_side)


def _side_by_side(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gap = np.full((frames.shape[1], GAP, 3), 128, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)]
    return np.concatenate(parts[1:], axis=1)


def _sound(catalog: Catalog, row: Row) -> NDArray[np.float32]:
    seconds = min(float(row["duration_seconds"] or 0), WAVE_SECONDS)
    return video.decode_audio(catalog.read(dict(row)), 0.0, seconds, WAVE_RATE)


def _wave(samples: NDArray[np.float32]) -> str:
    """The outline of the sound's loudness, as an SVG path."""
    if not len(samples):
        return ""
    edges = np.linspace(0, len(samples), WAVE_COLUMNS, endpoint=False).astype(int)
    peaks = np.minimum(np.maximum.reduceat(np.abs(samples), np.unique(edges)), 1)
    middle, step = WAVE_HEIGHT / 2, WAVE_COLUMNS / len(peaks)
    heights = np.maximum(
        np.sqrt(peaks) * middle, 0.5
    )  # nearer to what ears say than the swing itself
    upper = [f"{i * step:.0f} {middle - h:.1f}" for i, h in enumerate(heights)]
    lower = [f"{i * step:.0f} {middle + h:.1f}" for i, h in enumerate(heights)]
    return f"M{'L'.join([*upper, *reversed(lower)])}Z"


# --- the page


class _Page:
    """The page in pieces, so that it is never in memory whole."""

    def __init__(
        self,
        part: Catalog,
        rows: list[dict[str, Any]],
        ledger: list[dict[str, Any]],
        in_ledger: int,
        where: str | None,
        seed: int,
    ) -> None:
        self.part, self.rows, self.ledger = part, rows, ledger
        self.in_ledger, self.where, self.seed = in_ledger, where, seed
        self.unreadable = 0
        self.measures = [name for name in MEASURES if any(row[name] is not None for row in rows)]

    def pieces(self, progress: Progress | None) -> Iterator[str]:
        """Fill the template, in one go: what was filled in is not looked at again."""
        template = TEMPLATE.read_text(encoding="utf-8")
        parts: dict[str, Callable[[], Iterator[str]]] = {
            "policy": lambda: iter([_text(_policy(template))]),
            "title": lambda: iter([_text(self.part.folder.rsplit("/", 1)[-1])]),
            "summary": lambda: iter([_text(self._summary())]),
            "classes": lambda: self._options("label"),
            "splits": lambda: self._options("split"),
            "measures": lambda: (_heading(name) for name in self.measures),
            "records": lambda: self._records(progress),
            "record_count": lambda: iter([str(len(self.rows))]),
            "ledger": lambda: map(_ledger_row, self.ledger),
            "ledger_count": lambda: iter([str(self.in_ledger)]),
            "ledger_note": lambda: iter([_text(self._ledger_note())]),
        }
        for place, piece in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
            if place % 2:
                yield from parts[piece]()
            else:
                yield piece

    def _summary(self) -> str:
        shown, there = len(self.rows), len(self.part)
        of = f"{there:,} records" if shown == there else f"{shown:,} of {there:,} records"
        chosen = (
            ""
            if shown == there
            else f", chosen by chance (seed {self.seed}), in turn from every class of every split"
        )
        return f"{of}{f' where {self.where}' if self.where else ''}{chosen}."

    def _ledger_note(self) -> str:
        if self.in_ledger > len(self.ledger):
            return f"The first {len(self.ledger):,} of {self.in_ledger:,}; the rest is in quarantine.parquet."
        return "" if self.in_ledger else "Every source was taken."

    def _options(self, name: str) -> Iterator[str]:
        for value in sorted({row[name] for row in self.rows if row[name] is not None}):
            yield f'<option value="{_text(value)}">{_text(value)}</option>'
        if any(row[name] is None for row in self.rows):
            yield '<option value="">none</option>'

    def _records(self, progress: Progress | None) -> Iterator[str]:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="clipmill-browse")
        try:
            looks = pool.map(functools.partial(shown, self.part), self.rows)
            for place, (row, look) in enumerate(zip(self.rows, looks, strict=True)):
                self.unreadable += bool(look.fault)
                yield _record(row, look, self.measures)
                if progress:
                    progress("drawing records", place + 1, len(self.rows))
        finally:
            pool.shutdown(cancel_futures=True)


def _policy(template: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash(template, 'style')}",
            f"script-src {_hash(template, 'script')}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(template: str, tag: str) -> str:
    """Allow exactly the page's own inline block, and nothing that anyone may inject."""
    (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"


def _text(value: object) -> str:
    """A value as text that is nothing but text, within quotes too."""
    told = f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in told))


def _heading(name: str) -> str:
    return f'<th scope="col"><button type="button" data-sort="number">{_text(name)}</button></th>'


def _record(row: Row, look: Shown, measures: list[str]) -> str:
    cells = [
        f'<td class="look">{_look(row, look)}</td>',
        _cell(row["label"], _labels(row)),
        _cell(row["split"]),
        _cell(row["duration_seconds"]),
        _cell(row["frames"]),
        _cell((row["width"] or 0) * (row["height"] or 0), _size(row)),
        *(_cell(row[name]) for name in measures),
        f'<td class="origin" data-value="{_text(row["source"] or "")}">{_origin(row)}</td>',
    ]
    told = f'data-label="{_text(row["label"] or "")}" data-split="{_text(row["split"] or "")}"'
    return f"<tr {told}>{''.join(cells)}</tr>\n"


def _cell(value: object, told: str | None = None) -> str:
    text = _text("" if value is None else value) if told is None else told
    exact = "" if value is None else repr(value) if isinstance(value, float) else value
    return f'<td data-value="{_text(exact)}">{text}</td>'


def _look(row: Row, look: Shown) -> str:
    if look.fault:
        return f'<p class="fault">It cannot be shown: {_text(look.fault)}</p>'
    fps = row["fps"] or 1
    times = f"{look.frames[0] / fps:.3g} to {look.frames[-1] / fps:.3g} seconds"
    told = f"{len(look.frames)} pictures of {row['label'] or 'a record without class'}, {times}"
    source = base64.b64encode(look.strip).decode()
    image = f'<img alt="{_text(told)}" decoding="async" src="data:image/jpeg;base64,{source}">'
    if not look.wave:
        return f'{image}<p class="soft">no sound</p>'
    wave = (
        f'<svg role="img" aria-label="loudness of its sound" viewBox="0 0 {WAVE_COLUMNS} '
        f'{WAVE_HEIGHT}" preserveAspectRatio="none"><path d="{look.wave}"/></svg>'
    )
    return image + wave


def _labels(row: Row) -> str:
    """The class, and whatever else says what it shows."""
    spans = [f"{s['label']} {s['first_frame']}–{s['last_frame']}" for s in row["spans"] or ()]
    more = {
        "labels": ", ".join(row["labels"] or ()),
        "spans": ", ".join(spans),
        "boxes": len(row["boxes"] or ()) or "",
        "identity": row["identity"] or "",
        **dict(row["attributes"] or ()),
    }
    said = [
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in more.items() if value
    ]
    first = (
        f"<strong>{_text(row['label'])}</strong>"
        if row["label"]
        else '<span class="soft">none</span>'
    )
    return f"{first}<dl>{''.join(said)}</dl>" if said else first


def _size(row: Row) -> str:
    rate = f"{row['fps']:.4g} a second" if row["fps"] else ""
    return f"{_text(row['width'])}×{_text(row['height'])}<br><span class='soft'>{rate}</span>"


def _origin(row: Row) -> str:
    span = ""
    if row["parent"] or row["start_seconds"]:
        span = f"{row['start_seconds'] or 0:.4g} to {row['end_seconds'] or 0:.4g} s of "
    more = {
        "key": row["key"],
        "near": row["near"],
        "licence": row["licence"],
        "group": row["group"],
    }
    said = [f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in more.items() if value]
    return f"{span}{_text(row['source'] or '')}<dl>{''.join(said)}</dl>"


def _ledger_row(row: Row) -> str:
    span = ""
    if row["start_seconds"] is not None or row["end_seconds"] is not None:
        end = "end" if row["end_seconds"] is None else f"{row['end_seconds']:.4g}"
        span = f" <span class='soft'>{row['start_seconds'] or 0:.4g} to {end} s</span>"
    cells = (f"{_text(row['source'])}{span}", _text(row["stage"] or ""), _text(row["reason"] or ""))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"

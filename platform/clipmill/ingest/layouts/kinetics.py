"""Kinetics: tables of YouTube clips, and the files that someone downloaded, whole or cut."""

from collections import defaultdict
from dataclasses import replace

from clipmill import storage
from clipmill.errors import SourceError
from clipmill.ingest.layouts import table
from clipmill.ingest.layouts.fields import Row
from clipmill.ingest.layouts.listing import (
    Listing,
    Options,
    missing_warning,
    stem_of,
    videos_below,
)
from clipmill.ingest.sources import Source

COLUMNS = {"start_seconds": "time_start", "end_seconds": "time_end"}


def read(source: str, options: Options) -> Listing:
    """A CSV, or a folder of some, with label, youtube_id, time_start, time_end and split.

    The files below its folder are ID.mp4 (cut by the times), or ID_000001_000011.mp4 (cut already).
    """
    is_table = storage.name_of(source).lower().endswith(".csv")
    root = storage.parent(source) if is_table else source
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in videos_below(root):
        by_stem[stem_of(path)].append(path)
    sources: dict[str, Source] = {}
    missing, double, total = [], [], 0
    for row in _rows([source] if is_table else _tables(source)):
        total += 1
        name, found, each = _source(row, by_stem)
        if each is None:
            missing.append(name)
            continue
        sources[each.name] = each
        double += [name] if found > 1 else []
    _check_any(source, total, missing)
    sources |= _unlisted(by_stem, sources)
    warnings = [missing_warning(missing, total, "the table")] if missing else []
    if double:
        warnings.append(
            f"{len(double)} clips have several files, such as {double[0]}: one is taken"
        )
    return Listing(list(sources.values()), warnings)


def _tables(folder: str) -> list[str]:
    found = [path for path in storage.list_files(folder) if path.lower().endswith(".csv")]
    if not found:
        raise SourceError(f"{folder} holds no CSV", "a table with a column `youtube_id`")
    return found


def _rows(tables: list[str]) -> list[Row]:
    rows = []
    for path in tables:
        loaded = table.load(path)
        if "youtube_id" not in loaded.columns:
            raise SourceError(
                f"{path} has the columns {', '.join(loaded.columns or ['none'])}",
                "a column `youtube_id`",
                "take the official table, or --layout table for one of your own",
            )
        rows += [Row(f"{path}, {where}", values, COLUMNS) for where, values in loaded.rows]
    return rows


def _source(row: Row, by_stem: dict[str, list[str]]) -> tuple[str, int, Source | None]:
    """Tell the clip's name, how many files it has, and its source if there is one."""
    identity = str(row.values.pop("youtube_id", None) or "")
    if not identity:
        row.fault("youtube_id", "''", "the number of a video")
    row.values.pop("is_cc", None)
    told = row.source("")
    start, end = told.start_seconds, told.end_seconds
    cut = f"{identity}_{int(start or 0):06d}_{int(end or 0):06d}"
    files = by_stem.get(cut) or by_stem.get(identity) or []
    if not files:
        return identity, 0, None
    own = [path for path in files if storage.name_of(storage.parent(path)) == told.label]
    path = (own or files)[0]
    if stem_of(path) == cut:
        start = end = None
    there = replace(told, path=path, group=identity, start_seconds=start, end_seconds=end)
    return identity, len(own or files), there


def _check_any(source: str, total: int, missing: list[str]) -> None:
    if total and len(missing) == total:
        raise SourceError(
            f"none of the {total} videos of the table is at {source} ({missing[0]})",
            "files called ID.mp4 or ID_000001_000011.mp4 below the table's folder",
        )


def _unlisted(by_stem: dict[str, list[str]], sources: dict[str, Source]) -> dict[str, Source]:
    used = {each.path for each in sources.values()}
    paths = (path for found in by_stem.values() for path in found if path not in used)
    return {path: Source(path, left_out="in no row of the table") for path in paths}

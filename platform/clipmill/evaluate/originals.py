"""What it costs to be asked about original files: the version's geometry applied to them afresh.

A record was made from its source once, with an encoder between; a served model sees the source
itself. Sources that are gone, or are others by now, are counted and left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipmill import cores, infer, storage
from clipmill.errors import ClipmillError, DataError
from clipmill.evaluate.settled import settled_meter
from clipmill.infer import Asked, Model
from clipmill.ingest.examine import hash_of
from clipmill.ingest.state import SOURCES
from clipmill.readable import THRESHOLD

# By the kind of numbers: of masks (unsigned) the share of pixels that are told otherwise.
DISTANCES: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "f": lambda one, two: float(np.abs(one - two).mean()),
    "u": lambda one, two: float((one != two).mean()),
}

Progress = Callable[[str, int, int], None]
Answer = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a source lies."""

    path: str
    offset: int | None = None
    length: int | None = None


def originals(
    model: Model,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answer the sources of records, and set that beside the answers to the records."""
    sides: Counter[str] = Counter()
    both: list[tuple[Row, Answer, Answer]] = []
    stored = zip(rows, answers, strict=True)
    for (row, answer), asked in zip(stored, _prepared(model, rows), strict=True):
        if isinstance(asked, str):
            sides[asked] += 1
        else:
            both.append((row, answer, infer.joined(model, asked)))
        if progress:
            progress("answering originals", len(both) + sides.total(), len(rows))
    told = {
        "videos": len(both),
        **{side: sides[side] for side in ("gone", "changed", "unreadable")},
    }
    return {**told, **_differences(model, both)} if both else told


def _prepared(model: Model, rows: Sequence[Row]) -> Iterator[Asked | str]:
    """Each source decoded, some ahead of the network, or the word for why there is none."""
    places = {folder: _places(folder) for folder in {str(row["folder"]) for row in rows}}
    count = cores.usable()
    with ThreadPoolExecutor(count, thread_name_prefix="clipmill-originals") as pool:
        todo = iter(rows)

        def begin(row: Row) -> Any:
            return pool.submit(_one, model, row, places[str(row["folder"])].get(row["source"]))

        waiting = [begin(row) for row in islice(todo, 2 * count)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [begin(row) for row in islice(todo, 1)]


def _one(model: Model, row: Row, place: Place | None) -> Asked | str:
    if place is None:
        return "gone"
    try:
        with storage.local(place.path, place.offset, place.length) as path:
            if hash_of(path) != row["source_sha256"]:
                return "changed"
            start, end = (row["start_seconds"], row["end_seconds"]) if row["parent"] else (0, None)
            return _decoded(model, path, start, end)
    except (ClipmillError, OSError):
        return "gone"


def _decoded(model: Model, path: str, start: float, end: float | None) -> Asked | str:
    try:
        return infer.prepared(model, path, start, end)
    except ClipmillError:
        return "unreadable"


def _places(folder: str) -> dict[str, Place]:
    """Where the sources of a dataset lie, by the name that its records give them."""
    path = storage.join(folder, SOURCES)
    if not storage.exists(path):
        raise DataError(f"{folder} has no {SOURCES}", "a dataset that `clipmill ingest` wrote")
    store, inner = storage.store_of(path)
    table = pq.read_table(inner, columns=["source", "examined"], filesystem=store)
    places = {}
    for row in table.to_pylist():
        if row["examined"]:
            told = json.loads(row["examined"])["source"]
            places[row["source"]] = Place(told["path"], told["offset"], told["length"])
    return places


def _differences(model: Model, both: Sequence[tuple[Row, Answer, Answer]]) -> dict[str, Any]:
    """The metrics of both sides on the same videos, and how far their answers are apart."""
    labels = [(_label(old), _label(new)) for _, old, new in both]
    changed = {"labels_changed": sum(old != new for old, new in labels)}
    return {
        **_compared(model, both),
        "answers_apart": _apart(both),
        **(changed if labels[0] != (None, None) else {}),  # a class a frame is none of the video
    }


def _compared(model: Model, both: Sequence[tuple[Row, Answer, Answer]]) -> dict[str, Any]:
    """The metrics of both sides, or why there are none: a file has no masks and no other videos."""
    metrics = []
    for side in (1, 2):
        meter = settled_meter(model)
        try:
            for each in both:
                meter.update(each[side], each[0])
            metrics.append(meter.compute())
        except DataError as error:
            return {"not_measured": f"{('records', 'files alone')[side - 1]}: {error.args[0]}"}
    stored, made = metrics
    name = model.plugin.metric
    return {"metrics": made, "stored_metrics": stored, "difference": made[name] - stored[name]}


def _apart(both: Sequence[tuple[Row, Answer, Answer]]) -> dict[str, dict[str, float]]:
    """How far arrays of the same shape are apart, by name: on average, and at the most."""
    apart: dict[str, list[float]] = {}
    for _, old, new in both:
        for name in old.keys() & new.keys():
            one, two = np.asarray(old[name]), np.asarray(new[name])
            if one.shape == two.shape and one.ndim and one.size and one.dtype.kind in DISTANCES:
                apart.setdefault(name, []).append(DISTANCES[one.dtype.kind](one, two))
    return {
        name: {"mean": float(np.mean(found)), "largest": max(found)}
        for name, found in sorted(apart.items())
    }


def _label(answer: Answer) -> Any:
    """The class that a video is told to be, or those it is told to have."""
    if "presence" in answer:
        told = np.asarray(answer["presence"]) >= answer.get("threshold", THRESHOLD)
        return np.flatnonzero(told).tolist()
    scores = np.asarray(answer.get("probabilities", ()))
    return int(scores.argmax()) if scores.ndim == 1 and scores.size else None

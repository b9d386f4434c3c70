"""Answers as rows of a table: what each record is, what became of it, and what a model says of it.

Classes are told as `label` and `probability`, or `labels`, or a `timeline`; arrays as lists of
their numbers, with `NAME_shape` beside those of several dimensions; `things`, and whatever else is
made of dictionaries, as lists of structs. What an answer calls as a column is called here is
`answer_NAME`. Knows no files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill.bulk.asking import Asked
from clipmill.errors import PluginError
from clipmill.evaluate.work import Answered
from clipmill.infer import Model
from clipmill.plan import Plan
from clipmill.readable import Clock, readable

NEIGHBOURS = "neighbours"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("dataset", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("target", pa.string()),  # its class as the dataset has it, where it has one
        ("answered", pa.bool_()),
        ("bad_clips", pa.int32()),  # that could not be decoded
        ("fault", pa.string()),  # why the first of them could not
        ("unfit", pa.string()),  # why the plugin would neither learn from it nor be measured by it
    ]
)
STRETCH = pa.struct(
    [
        ("label", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("probability", pa.float64()),
    ]
)
TYPES = {
    "label": pa.string(),
    "labels": pa.list_(pa.string()),
    "timeline": pa.list_(STRETCH),
    "probability": pa.float64(),
    NEIGHBOURS: pa.list_(pa.struct([("key", pa.string()), ("cosine", pa.float32())])),
}
WORDED = {  # what of an answer is told in words
    "probabilities", "presence", "threshold", "frame_probabilities", "frame_numbers", "things"
}  # fmt: skip

Row = dict[str, Any]


def unfit(plan: Plan) -> dict[int, str]:
    """Why a plugin cannot use some records, by record; of several reasons the first."""
    told: dict[int, str] = {}
    for reason, rows in plan.plugin.unfit(plan.catalog).items():
        for record in np.flatnonzero(rows).tolist():
            told.setdefault(record, reason)
    return told


def table(
    model: Model, plan: Plan, parts: Sequence[Answered], unfit_of: Mapping[int, str], asked: Asked
) -> pa.Table:
    """One row for each record that some pieces ask about, in the order of the plan."""
    rows = [row for part in parts for row in _rows(model, plan, part, unfit_of, asked)]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in SCHEMA]
    made = pa.table(columns, schema=SCHEMA)
    names = dict.fromkeys(name for row in rows for name in row if name not in SCHEMA.names)
    for name in names:
        made = made.append_column(name, _column(name, [row.get(name) for row in rows]))
    return made


def count(made: pa.Table) -> dict[str, int]:
    """What became of the records of a table."""
    there = pc.sum(made["answered"]).as_py() or 0
    return {
        "records": len(made),
        "answered": there,
        "bad": len(made) - there,
        "bad_clips": pc.sum(made["bad_clips"]).as_py() or 0,
        "unfit": len(made) - made["unfit"].null_count,
    }


def _rows(
    model: Model, plan: Plan, part: Answered, unfit_of: Mapping[int, str], asked: Asked
) -> Iterator[Row]:
    takes = plan.at(part.piece.start, part.piece.stop)
    records = list(dict.fromkeys(takes.record[:, 0].tolist()))
    answers, bad = dict(part.answers), _bad(part)
    for record, row in zip(records, plan.catalog.rows(records), strict=True):
        reasons = bad.get(row["key"], [])
        answer = answers.get(record)
        yield {
            "key": row["key"],
            "dataset": row["folder"],
            "source": row["source"],
            "split": row["split"],
            "target": row["label"],
            "answered": answer is not None,
            "bad_clips": len(reasons),
            "fault": reasons[0] if reasons else None,
            "unfit": unfit_of.get(record),
            **({} if answer is None else _told(answer, model, row, asked)),
        }


def _bad(part: Answered) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for each in part.bad:
        reasons.setdefault(each["wanted"][0], []).append(each["reason"])
    return reasons


def _told(answer: Mapping[str, Any], model: Model, row: Row, asked: Asked) -> Row:
    if asked == "embeddings":
        return _plain("embedding", answer["embedding"])
    worded = {name: value for name, value in answer.items() if name in WORDED}
    plain = readable(worded, model.classes, Clock(row["fps"], row["frames"]))
    made: Row = {name: plain[name] for name in ("label", "labels", "timeline") if name in plain}
    if "label" in made:
        made["probability"] = plain["classes"][0]["probability"]
    for name, value in answer.items():
        free = f"answer_{name}" if name in TYPES or name in SCHEMA.names else name
        made |= _plain(free, plain["things"] if name == "things" else value)
    return made


def _plain(name: str, value: Any) -> Row:
    """A number as it is, an array as its numbers and, where it has several dimensions, its shape."""
    array = _array(value)
    if array is None:
        return {name: _nested(value)}
    if array.ndim == 0:
        return {name: array.item()}
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    shape = {f"{name}_shape": np.array(array.shape, np.int32)} if array.ndim > 1 else {}
    return {name: array.ravel(), **shape}


def _array(value: Any) -> NDArray[Any] | None:
    """A value as an array of numbers or texts; None where it is none, or an empty list of who knows."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    is_untold = array.size == 0 and not isinstance(value, np.ndarray)
    return None if is_untold or array.dtype.hasobject else array


def _nested(value: Any) -> Any:
    """Dictionaries and lists as Arrow reads them."""
    if isinstance(value, Mapping):  # Parquet has no struct without fields
        return {str(name): _nested(inner) for name, inner in value.items()} or None
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_nested(inner) for inner in value] if isinstance(value, list | tuple) else value


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    try:
        dtypes = {value.dtype for value in values if isinstance(value, np.ndarray)}
        if name in TYPES or not dtypes:
            return pa.array(values, TYPES.get(name))  # else Arrow finds the type that holds all
        dtype = np.result_type(*dtypes)
        given = [
            value.astype(dtype) if isinstance(value, np.ndarray) else value for value in values
        ]
        return pa.array(given, pa.list_(pa.from_numpy_dtype(dtype)))
    except (pa.ArrowException, TypeError) as error:
        raise PluginError(
            f"{name} of the answers fits in no column: {error}",
            "of all videos a number, a text, an array, or dictionaries with the same kinds of values",
        ) from error

"""A catalog of ten million records: opened, filtered, counted and read at random.

The rows are synthetic and written in pieces to a temporary folder, removed after. What is
measured runs in a child process, so that its peak memory is its own. All files are in the page
cache, as they were just written.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from clipmill import catalog
from row import Row

RECORDS = 10_000_000
PIECE_RECORDS = 1 << 18
CLASSES, SHARD_RECORDS = 400, 4000
RANDOM_ROWS = 200
SPLITS = ("train", "val", "test")
GIB = 2**30

Reading = dict[str, dict[str, float]]


def measure(rounds: int) -> list[Row]:
    """Return seconds and peak memory of each operation; once, whatever the rounds."""
    del rounds  # each operation is long, and the first one is the one that users wait for
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        began = time.perf_counter()
        meta = {"classes": class_names(), "counts": {"records": RECORDS}}
        catalog.save_pieces(folder, pieces(RECORDS), meta)
        made = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        told = subprocess.run(
            [sys.executable, __file__, folder], check=True, capture_output=True, text=True
        )
    read: Reading = json.loads(told.stdout)
    peak = max(each["peak_gib"] for each in read.values())
    return [
        Row("catalog/10 M made and written", made, "s"),
        Row("catalog/10 M written, a record", size / RECORDS, "bytes"),
        *(Row(f"catalog/10 M {name}", each["seconds"], "s") for name, each in read.items()),
        Row(
            "catalog/10 M peak memory under 4 GiB", 4 / peak, "x", at_least=1, rivals={"GiB": peak}
        ),
    ]


def operations(folder: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What users do with a catalog, in the order that a run does it."""
    opened: list[catalog.Catalog] = []
    yield "open", lambda: opened.append(catalog.load(folder))
    whole = opened[0]
    yield (
        "filter and count",
        lambda: len(whole.part(split="train", where="motion > 0.5 and duration > 4")),
    )
    yield "filter by class", lambda: len(whole.part(where="label in ['class 7', 'class 9']"))
    yield "count by split and class", lambda: whole.counts_by("split", "label")
    part: list[catalog.Catalog] = []
    yield "part of a split", lambda: part.append(whole.part(split="train"))
    yield "column frames", lambda: part[0].column("frames").sum()
    yield "labels", lambda: part[0].labels.max()
    yield "keys", lambda: part[0].keys[len(part[0]) // 2]
    yield "digest of a split", lambda: part[0].digest
    yield "digest of all", lambda: whole.digest
    places = np.random.default_rng(0).integers(0, len(part[0]), RANDOM_ROWS).tolist()
    yield f"{RANDOM_ROWS} random rows", lambda: [part[0].row(place) for place in places]


def watch(folder: str) -> Reading:
    """Time each operation, with the peak of this process up to its end."""
    found: Reading = {}
    for name, operation in operations(folder):
        began = time.perf_counter()
        operation()
        seconds = time.perf_counter() - began
        found[name] = {"seconds": seconds, "peak_gib": peak_bytes() / GIB}
    return found


def peak_bytes() -> int:
    """The most memory this process ever held."""
    import resource

    scale = 1 if psutil.MACOS else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


# --- the material


def class_names() -> list[str]:
    return [f"class {number}" for number in range(CLASSES)]


def pieces(records: int) -> Iterator[pa.Table]:
    """Make rows some thousands at a time, without Python a row."""
    rng = np.random.default_rng(0)
    for first in range(0, records, PIECE_RECORDS):
        yield piece(rng, first, min(PIECE_RECORDS, records - first))


def piece(rng: np.random.Generator, first: int, count: int) -> pa.Table:
    """Rows as an ingest would write them; their digests are drawn, not computed."""
    numbers = np.arange(first, first + count)
    seconds = rng.gamma(2.0, 4.0, count) + 0.5
    labels = rng.integers(0, CLASSES, count)
    columns: dict[str, Any] = {
        "key": hexadecimal(rng, count, 24),
        "shard": chosen(
            [
                f"s-{n:05d}.tar"
                for n in range(first // SHARD_RECORDS, (first + count) // SHARD_RECORDS + 1)
            ],
            numbers // SHARD_RECORDS - first // SHARD_RECORDS,
        ),
        "suffix": chosen(["mp4"], np.zeros(count, np.int32)),
        "members": members(rng, count),
        "sha256": hexadecimal(rng, count, 64),
        "source": pa.array(np.char.add("videos/some/folder/clip_", numbers.astype("U9"))),
        "source_sha256": hexadecimal(rng, count, 64),
        "start_seconds": np.zeros(count),
        "end_seconds": seconds,
        "split": chosen(list(SPLITS), rng.choice(3, count, p=(0.8, 0.1, 0.1))),
        "label": chosen(class_names(), labels),
        "duration_seconds": seconds,
        "frames": (seconds * 30).astype(np.int64),
        "frames_from": chosen(["decode"], np.zeros(count, np.int32)),
        "fps": np.full(count, 30.0),
        "variable_rate": pa.array(np.zeros(count, np.bool_)),
        "width": np.full(count, 340),
        "height": np.full(count, 256),
        "rotation": np.zeros(count, np.int64),
        "has_audio": pa.array(rng.random(count) < 0.7),
        **{name: rng.random(count) for name in ("motion", "brightness", "sharpness", "silence")},
        "record_digest": hexadecimal(rng, count, 32),
    }
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in catalog.SCHEMA
    ]
    return pa.table(arrays, schema=catalog.SCHEMA)


def hexadecimal(rng: np.random.Generator, count: int, digits: int) -> pa.Array:
    text = rng.bytes(count * digits // 2).hex().encode()
    offsets = np.arange(0, (count + 1) * digits, digits, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.StringArray.from_buffers(count, buffers[1], buffers[2])


def chosen(names: list[str], numbers: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(names).take(pa.array(numbers))


def members(rng: np.random.Generator, count: int) -> pa.Array:
    """Three members a record, one after another."""
    lengths = rng.integers(500, 90_000, 3 * count)
    ends = np.cumsum(lengths)
    fields = [
        chosen(["idx", "json", "mp4"], np.tile(np.arange(3), count)),
        pa.array(ends - lengths),
        pa.array(lengths),
    ]
    structs = pa.StructArray.from_arrays(fields, names=["suffix", "offset", "length"])
    return pa.ListArray.from_arrays(np.arange(0, 3 * count + 1, 3, dtype=np.int32), structs)


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1])))

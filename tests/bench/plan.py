"""The plan of ten million records: an epoch, a position far on, substitutes, and the feed's lots.

The catalog is the synthetic one of the catalog's benchmark. What is measured runs in a child
process, so that its peak memory is its own; that of the catalog's columns is taken off.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import catalog as made
from clipmill import catalog
from clipmill.plan import Plan, Sampling
from clipmill.plugin import Info, Plugin, View
from row import Row

BATCH, BLOCK_TAKES = 256, 16
WINDOW = 100_000  # of takes, all of them made into lots
FEW_RECORDS = 1_000_000  # of a catalog that is read in random order all through
ALL_TAKES = "all takes of an epoch of a tenth"
GIB = 2**30

Reading = dict[str, dict[str, float]]


class Clips(Plugin):
    """One random span a record, as plugins have it by default."""

    name = "clips"
    family = "bench"

    def views(self) -> Mapping[str, View]:
        """Sixteen frames over three seconds."""
        view = View(frames=16, rate=5)
        return {"train": view, "test": view}

    def build(self, info: Info) -> Any:
        """Not needed: nothing is trained."""
        raise NotImplementedError


def measure(rounds: int) -> list[Row]:
    """Return CPU seconds, peak memory and CPU a take; once, whatever the rounds."""
    del rounds  # each operation is long, and the first one is the one that users wait for
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        meta = {"classes": made.class_names(), "counts": {"records": made.RECORDS}}
        catalog.save_pieces(folder, made.pieces(made.RECORDS), meta)
        told = subprocess.run(
            [sys.executable, __file__, folder], check=True, capture_output=True, text=True
        )
    read: Reading = json.loads(told.stdout)
    base = read.pop("columns of the catalog")["peak_gib"]
    peak = max(each["peak_gib"] for each in read.values()) - base
    held = read["first epoch"]["peak_gib"] * GIB / made.RECORDS
    lots = {name: each for name, each in read.items() if name.startswith("lot")}
    return [
        *(
            Row(f"plan/10 M {name}", each["seconds"], "CPU s")
            for name, each in read.items()
            if name not in lots
        ),
        *(
            Row(f"plan/{name}, under 0.1 ms", 0.1 / cost, "x", at_least=1, rivals={"ms": cost})
            for name, each in lots.items()
            for cost in [each["seconds"] * 1000 / WINDOW]
        ),
        Row("plan/10 M a process with catalog and an epoch, a record", held, "bytes"),
        Row("plan/10 M memory under 2 GiB", 2 / peak, "x", at_least=1, rivals={"GiB": peak}),
    ]


def operations(folder: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What a run asks of its plan, in order."""
    whole = catalog.load(folder)

    def columns() -> None:
        for name in ("frames", "fps"):
            whole.column(name)
        assert len(whole.labels) == len(whole.keys) == len(whole)

    yield "columns of the catalog", columns
    plain = Plan(whole, Clips(), "train", 0, BATCH)
    yield "first epoch", lambda: plain.at(0, BATCH)
    yield "next epoch", lambda: plain.at(plain.takes_per_epoch, plain.takes_per_epoch + BATCH)
    yield "epoch 50 from a resume", lambda: plain.at(50 * plain.takes_per_epoch, 50 * plain.takes_per_epoch + BATCH)  # fmt: skip
    takes = plain.at(0, 100_000)
    yield "digests of 100 000 takes", lambda: plain.digests(takes)
    yield "1000 substitutes", lambda: [plain.substitute(n, 0) for n in range(1000)]
    windowed = Plan(whole, Clips(), "train", 0, BATCH, WINDOW)
    yield "first epoch in a window", lambda: windowed.at(0, BATCH)
    yield lots("in a window of 10 M", windowed)
    balanced = Plan(whole, Clips(), "train", 0, BATCH, 0, Sampling(balance="class"))
    yield "first epoch balanced by class", lambda: balanced.at(0, BATCH)
    few = catalog.Catalog(whole.folder, whole.stored, whole.meta, np.arange(FEW_RECORDS))
    shuffled = Plan(few, Clips(), "train", 0, BATCH)
    yield ALL_TAKES, lambda: shuffled.epoch(0)
    yield lots("of 1 M shuffled", shuffled)


def lots(name: str, plan: Plan) -> tuple[str, Callable[[], object]]:
    """Make blocks for the feed."""

    def make() -> None:
        for at in range(0, WINDOW, BLOCK_TAKES):
            plan.lot(plan.at(at, at + BLOCK_TAKES))

    plan.at(0, BATCH)
    return f"lot, CPU a take {name}", make


def watch(folder: str) -> Reading:
    """Take the CPU time of each operation, with the peak of this process up to its end."""
    found: Reading = {}
    for name, operation in operations(folder):
        began = time.process_time()
        operation()
        seconds = time.process_time() - began
        found[name] = {"seconds": seconds, "peak_gib": made.peak_bytes() / GIB}
    return found


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1])))

"""Run the benchmarks: a table on the screen, rows in results.json.

results.json is one flat list of {name, value, unit, against, at_least, rivals, machine}. The
machine stands in every row and not above them all: a row means something by itself, and one
benchmark run again replaces its own rows and no others.

    python tests/bench/run.py [NAME ...] [--rounds N]
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

import augment
import catalog
import decode
import feed
import ingest
import loop
import plan
import predict
import segment
import serve
import start
from row import Row

RESULTS = Path(__file__).with_name("results.json")
BENCHMARKS: Mapping[str, Callable[[int], list[Row]]] = {
    "augment": augment.measure,
    "catalog": catalog.measure,
    "decode": decode.measure,
    "feed": feed.measure,
    "ingest": ingest.measure,
    "loop": loop.measure,
    "plan": plan.measure,
    "predict": predict.measure,
    "segment": segment.measure,
    "serve": serve.measure,
    "start": start.measure,
}


def machine() -> str:
    """Describe in one line what the figures were measured on."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GB"
    python = f"Python {platform.python_version()}"
    return ", ".join([cpu_name(), f"{os.cpu_count()} cores", memory, platform.platform(), python])


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(rows: list[Row]) -> None:
    """Put rows into results.json in place of those of the same names."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    names = {row.name for row in rows}
    kept = [row for row in before if row["name"] not in names]
    new = [{**asdict(row), "machine": machine()} for row in rows]
    ordered = sorted([*kept, *new], key=lambda row: row["name"])
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table("benchmark", "value", "wanted", title=machine(), title_justify="left")
    for row in rows:
        beside = [f"against {row.against}"] if row.against else []
        beside += [f"{value:.3g} {name}" for name, value in row.rivals.items()]
        met = row.at_least is None or row.value >= row.at_least
        wanted = "" if row.at_least is None else f"{row.at_least:g}{'' if met else ', missed'}"
        name = "\n".join([f"[bold]{row.name}[/bold]", *beside])
        table.add_row(name, f"{row.value:.3g} {row.unit}", wanted, end_section=True)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument(
        "--rounds", type=int, default=7, help="measured rounds, after one unmeasured"
    )
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there is {', '.join(BENCHMARKS)}")
    print("Measuring: some minutes a benchmark, best with nothing else running.", flush=True)
    rows = [row for name in asked.names or BENCHMARKS for row in BENCHMARKS[name](asked.rounds)]
    show(rows)
    write(rows)


if __name__ == "__main__":
    main()

"""The feed end to end: against its decoder alone, against rivals, and against a pretended step.

Every figure comes from a process of its own, system by system in turns; the films, 40 of 1280x720,
are made once (see rivals/corpus.py). `python tests/bench/feed.py --seconds 5` is a quick look.
"""

import argparse
import math
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rivals import apart, mosaic_mds, overlay
from rivals.clips import Options
from rivals.corpus import FOLDER, ORIGINALS, RECORDS, Corpus, make, once
from row import Row, ratio

SECONDS, RIVAL_SECONDS = 60.0, 20.0
MOST_ROUNDS = 3
STEP_SECONDS, LOAD = 0.025, 0.75
GRACE_SECONDS, PREPARE_SECONDS = 180.0, 1800.0

Readings = dict[str, list[dict[str, float] | None]]  # by system, a reading a round


@dataclass(frozen=True)
class System:
    """One way to get clips: its module, and how the films are kept for it."""

    name: str
    module: str
    kept_as: str = RECORDS
    job: str = "rate"

    @property
    def title(self) -> str:
        return f"{self.name}, {'same bytes' if self.kept_as == RECORDS else 'its own storage'}"

    @property
    def python(self) -> str:
        """The interpreter that has it."""
        if self.module != "mosaic_mds":
            return sys.executable
        return str(overlay.python_with(mosaic_mds.REQUIREMENTS, FOLDER / "overlay"))


BARE = System("bare decode in 2 processes", "processes", job="bare")
BARE_THREADS = System("bare decode in 2 threads", "threads", job="bare")
OURS = System("feed by Ray", "clipmill_feed:ray")
OURS_THREADS = System("feed by threads", "clipmill_feed:thread")
OURS_BY_DATA = System("the same blocks by Ray Data", "clipmill_feed:data")
DATALOADER = System("DataLoader, same decoder", "torch_dataloader")
MAIN = (BARE, BARE_THREADS, OURS, OURS_THREADS, OURS_BY_DATA, DATALOADER)
RIVALS = tuple(
    System(name, module, kept_as)
    for kept_as in (RECORDS, ORIGINALS)
    for name, module in (
        ("torchcodec and DataLoader", "torchcodec_dataloader"),
        ("SPDL", "spdl_pipeline"),
        ("webdataset", "webdataset_tars"),
        ("litdata", "litdata_chunks"),
        ("MosaicML streaming", "mosaic_mds"),
        ("Ray Data, read_webdataset and map", "ray_data_rows"),
    )
)


@dataclass(frozen=True)
class Bench:
    """The films, what holds for all systems on them, and who has failed so far."""

    corpus: Corpus
    options: dict[str, Options]  # by how the films are kept
    failures: dict[str, str] = field(default_factory=dict)

    def asked(self, system: System, **more: Any) -> dict[str, Any]:
        return {
            "job": system.job,
            "system": system.module,
            "data": self.corpus.data,
            "folder": str(FOLDER / "rivals" / f"{system.module}-{system.kept_as}"),
            "options": asdict(self.options[system.kept_as]),
            **more,
        }

    def tried(self, system: System, seconds: float, **more: Any) -> dict[str, float] | None:
        """Run a job once; where it fails say why, and go on."""
        say(f"{system.title} ({more.get('job', system.job)})")
        limit = 3 * seconds + GRACE_SECONDS
        try:
            told = apart.run(self.asked(system, seconds=seconds, **more), limit, system.python)
        except Exception as error:  # a rival may fail as it likes; ours failing is a missed row
            self.failures[system.title] = " ".join(str(error).split())[:200]
            say(f"{system.title} FAILED: {error}")
            return None
        say("  " + ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
        return told


def measure(
    rounds: int,
    seconds: float = SECONDS,
    rival_seconds: float = RIVAL_SECONDS,
    only: str = "",
) -> list[Row]:
    """Return the feed's figures; `only` keeps the rivals whose names hold it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no child is left behind
    bench, rounds = prepared(), min(rounds, MOST_ROUNDS)
    wanted = [rival for rival in RIVALS if only.lower() in rival.name.lower()]
    rivals = [rival for rival in wanted if ready(bench, rival)]
    lengths = {**dict.fromkeys(MAIN, seconds), **dict.fromkeys(rivals, rival_seconds)}
    readings = in_turns(bench, lengths, rounds)
    return [
        *main_rows(bench, readings),
        *(against(bench, readings, rival) for rival in wanted),
        *lone_rows(bench, readings, seconds),
    ]


def prepared() -> Bench:
    """Make the films, and find out how clips begin and what suits torchcodec."""
    corpus = make()
    options = {kept: Options([str(f) for f in corpus.films(kept)]) for kept in (RECORDS, ORIGINALS)}
    bench = Bench(corpus, options)
    for kept in options:
        asked = bench.asked(System("settings", "", kept, "settings"), ladder=kept == RECORDS)
        told = apart.run(asked, PREPARE_SECONDS)
        options[kept] = Options(
            options[kept].films, told["start_step"], seek_mode=told["seek_mode"]
        )
        say(f"{kept}: {told}")
    return bench


def ready(bench: Bench, rival: System) -> bool:
    """Write the films as a rival wants them, once."""

    def write(folder: Path) -> None:
        asked = bench.asked(rival, job="prepare", folder=str(folder))
        apart.run(asked, PREPARE_SECONDS, rival.python)

    try:
        once(Path(bench.asked(rival)["folder"]), write)
    except Exception as error:
        bench.failures[rival.title] = " ".join(str(error).split())[:200]
        say(f"{rival.title} cannot be prepared: {error}")
        return False
    return True


def in_turns(bench: Bench, lengths: dict[System, float], rounds: int) -> Readings:
    """Run all systems round by round, after a short one to warm up; every second one backwards."""
    readings: Readings = {system.title: [] for system in lengths}
    for turn in range(rounds + 1):
        say(f"round {turn} of {rounds}")
        for system in list(lengths) if turn % 2 else reversed(list(lengths)):
            told = bench.tried(system, lengths[system] / (1 if turn else 4))
            if turn:
                readings[system.title].append(told)
    return readings


# --- the rows


def pairs(readings: Readings, one: System, other: System) -> Iterator[tuple[Any, Any]]:
    """The readings of two systems in the rounds in which both came to an end."""
    ends = zip(readings.get(one.title, []), readings.get(other.title, []), strict=False)
    yield from ((a, b) for a, b in ends if a is not None and b is not None)


def median_of(readings: Readings, system: System, name: str) -> float:
    told = [reading[name] for reading in readings.get(system.title, []) if reading is not None]
    return median(told) if told else float("nan")


def compared(
    bench: Bench, readings: Readings, one: System, other: System, at_least: float | None,
    *, rate: str = "rate", against: str,
) -> Row:  # fmt: skip
    """The rate of one system over that of another."""
    both = list(pairs(readings, one, other))
    title = f"feed/{one.name} over {other.title if other in RIVALS else other.name}"
    if not both:
        reasons = [bench.failures.get(system.title, "") for system in (other, one)]
        why = "; ".join(filter(None, reasons)) or "not run"
        return Row(title, 0.0, "x", f"{against}; not measured: {why}", at_least)
    value = ratio([a["rate"] for a, _ in both], [b[rate] for _, b in both])
    rates = {
        f"clips/s, {one.name}": median(a["rate"] for a, _ in both),
        f"clips/s, {other.name}": median(b[rate] for _, b in both),
    }
    return Row(title, value, "x", against, at_least, rates)


def main_rows(bench: Bench, readings: Readings) -> Iterable[Row]:
    """Against the decoder alone and against a DataLoader with it."""
    bare = "the same decoder on bytes in memory, no transport"
    loader = "PyTorch's DataLoader, 2 workers, byte ranges of files, the same decoder"
    yield compared(bench, readings, OURS, BARE, 0.92, against=bare)
    yield compared(bench, readings, OURS_THREADS, BARE, None, against=bare)
    yield compared(bench, readings, OURS_THREADS, BARE_THREADS, None, against=bare)
    yield compared(bench, readings, OURS_BY_DATA, BARE, None, against=bare)
    yield compared(bench, readings, DATALOADER, BARE, None, against=bare)
    yield compared(bench, readings, OURS, DATALOADER, 1.0, against=loader)
    for system, limit in ((OURS, 0.4), (OURS_THREADS, None), (DATALOADER, None)):
        yield overhead(readings, system, limit)


def overhead(readings: Readings, system: System, limit: float | None) -> Row:
    """CPU milliseconds of the whole machine by clip, over those of the decoder alone."""
    name = f"feed/CPU a clip over bare decode, {system.name}"
    over = [a["cpu_ms"] - b["cpu_ms"] for a, b in pairs(readings, system, BARE)]
    told = {f"ms, {s.name}": median_of(readings, s, "cpu_ms") for s in (system, BARE)}
    return below(name, limit, median(over) if over else float("nan"), "ms", told)


def below(name: str, limit: float | None, value: float, unit: str, told: dict[str, float]) -> Row:
    """A figure that must stay below a limit: the row says how far below it is."""
    beside = {key: other for key, other in told.items() if not math.isnan(other)}
    name = name if limit is None else f"{name}, below {limit:g} {unit}"
    if math.isnan(value):  # it failed, and standard error has the reason: that is a miss
        return Row(name, 0.0, "not measured", None, None if limit is None else 1, beside)
    if limit is None:
        return Row(name, value, unit, rivals=beside)
    beside = {f"{unit}, measured": value, **beside}
    return Row(name, limit - value, f"{unit} to spare", None, 0, beside)


def against(bench: Bench, readings: Readings, rival: System) -> Row:
    """Ours over a rival: ours from asking for the first batch on, the rival from its arrival on."""
    told = "the same stored bytes" if rival.kept_as == RECORDS else "the films as it stores them"
    least = None if rival.kept_as == RECORDS else 2.0
    return compared(bench, readings, OURS, rival, least, rate="later_rate", against=told)


def lone_rows(bench: Bench, readings: Readings, seconds: float) -> Iterable[Row]:
    """What a training loop feels: waiting, the first batch, memory."""
    yield waiting(bench, readings, seconds)
    first = {s: bench.tried(s, 10, job="first batch") for s in (OURS, OURS_THREADS)}
    nothing = {"seconds": float("nan")}
    by = {s.name: (told or nothing)["seconds"] for s, told in first.items()}
    threads = {"s, by threads": by[OURS_THREADS.name]}
    yield below("feed/first batch, warm", 0.5, by[OURS.name], "s", threads)
    grown = bench.tried(OURS, seconds, job="memory") or dict.fromkeys(GROWN, float("nan"))
    told = {text: grown[name] for name, text in GROWN.items()}
    yield below("feed/memory growth of the rank", 0.5, grown["own"], "MB an epoch", told)


GROWN = {
    "own": "MB an epoch, the process with driver and rank",
    "all": "MB an epoch, all its processes",
    "epochs": "epochs after the first",
    "megabytes": "MB at the end",
}


def waiting(bench: Bench, readings: Readings, seconds: float) -> Row:
    """The share of waiting where the step takes three quarters of what the feed can give."""
    shares, sizes = {}, {}
    for system in (OURS, OURS_THREADS, DATALOADER):
        capacity = median_of(readings, system, "rate")
        batch = max(1, round(LOAD * capacity * STEP_SECONDS)) if not math.isnan(capacity) else 1
        options = {**asdict(bench.options[RECORDS]), "batch": batch}
        more = {"job": "waiting", "options": options, "step_seconds": STEP_SECONDS}
        told = bench.tried(system, seconds, **more)
        shares[system.name] = 100 * told["share"] if told else float("nan")
        sizes[f"clips a step, {system.name}"] = float(batch)
    name = f"feed/waiting in steps of {STEP_SECONDS * 1e3:g} ms at {LOAD:.0%} of capacity"
    others = {f"%, {name}": share for name, share in shares.items() if name != OURS.name}
    return below(name, 2.0, shares[OURS.name], "%", {**others, **sizes})


def say(text: str) -> None:
    print(f"feed: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run this benchmark alone; nothing is recorded.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rival-seconds", type=float, default=RIVAL_SECONDS)
    parser.add_argument("--only", default="", help="a part of the rivals' names")
    asked = parser.parse_args()
    from run import show

    show(measure(asked.rounds, asked.seconds, asked.rival_seconds, asked.only))


if __name__ == "__main__":
    main()

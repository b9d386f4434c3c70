"""Ingest against the tools that do its parts: the ffmpeg program, cp and sha256sum; and how it grows.

Ours is timed from Ray's being there to the last file's being in place: probing, hashing, tar,
packet index and catalog included. The films are synthetic. All files are in the page cache.
"""

import concurrent.futures
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import psutil

from clipmill import cluster, ingest, video, worlds
from clipmill.ingest import Options
from decode import film, ordinary_h264
from row import Row, ratio

FILMS, COPIES = 4, 9
KEPT_FILES, KEPT_BYTES = 48, 24 << 20
FEW, MANY = 1_000, 10_000

Way = Callable[[Path, Path], object]


def measure(rounds: int) -> list[Row]:
    """Return our speed as a share of the plain tools', and what ten times the videos cost."""
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as name, cluster.session():
        folder = Path(name)
        rows = [*transcoding(folder, min(rounds, 3)), *keeping(folder, min(rounds, 5))]
        return [*rows, *growing(folder)]


def in_turns(ways: dict[str, Way], source: Path, folder: Path, rounds: int) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of each way, one after the other, round by round, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in list(ways) if turn % 2 else list(reversed(ways)):
            out = folder / "out"
            began = time.perf_counter()
            ways[name](source, out)
            if turn:
                seconds[name].append(time.perf_counter() - began)
            shutil.rmtree(out)
    return seconds


def compared(
    name: str, seconds: Mapping[str, list[float]], amount: float, unit: str, against: str, *,
    at_least: float,
) -> list[Row]:  # fmt: skip
    """Our share of the other way's speed, and how fast we are, from the seconds of both."""
    (rival,) = seconds.keys() - {"ours"}
    return [
        Row(
            f"{name} against {rival}",
            ratio(seconds[rival], seconds["ours"]),
            "x",
            against=against,
            at_least=at_least,
            rivals={f"{unit}, {rival}": amount / median(seconds[rival])},
        ),
        Row(name, amount / median(seconds["ours"]), unit),
    ]


# --- the training profile


def transcoding(folder: Path, rounds: int) -> list[Row]:
    """Compare with as many ffmpeg processes as there are cores, with the same settings."""
    if shutil.which("ffmpeg") is None:
        print("ingest: no ffmpeg program to compare with (Debian: apt-get install ffmpeg)")
        return []
    source = folder / "films"
    source.mkdir()
    for seed in range(FILMS):
        data = ordinary_h264(film(seed))
        for copy in range(COPIES):  # bytes after the end make another content of the same work
            (source / f"{seed}-{copy}.mp4").write_bytes(data + free_box(copy))
    seconds = in_turns({"ours": ours(Options()), "ffmpeg": by_ffmpeg}, source, folder, rounds)
    against = "one ffmpeg process a core, same settings"
    return compared("ingest/training", seconds, FILMS * COPIES, "videos/s", against, at_least=0.95)


def free_box(number: int) -> bytes:
    """An MP4 box that every reader skips."""
    return (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")


def ours(options: Options) -> Way:
    """Our ingest with these options."""
    return lambda source, out: ingest.run(str(source), str(out), options)


def by_ffmpeg(source: Path, out: Path) -> None:
    """What a shell loop with parallel processes does."""
    out.mkdir()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda path: ffmpeg(path, out / path.name), sorted(source.iterdir())))


def ffmpeg(path: Path, out: Path) -> None:
    profile = video.Profile()
    x264 = profile.x264()
    short = f"scale='if(gt(iw,ih),-2,{profile.short_side})':'if(gt(iw,ih),{profile.short_side},-2)'"
    command = [
        "ffmpeg", "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", str(path),
        "-vf", f"{short}:flags=bilinear", "-r", str(profile.rate), "-pix_fmt", "yuv420p",
        "-c:v", "libx264", "-threads", "1", "-preset", x264["preset"], "-tune", x264["tune"],
        "-crf", x264["crf"], "-bf", x264["bf"], "-g", x264["g"], "-keyint_min", x264["keyint_min"],
        "-sc_threshold", "0", "-x264-params", x264["x264-params"], "-an",
        "-movflags", "+faststart", str(out),
    ]  # fmt: skip
    subprocess.run(command, check=True)


# --- the profile that keeps streams as they are


def keeping(folder: Path, rounds: int) -> list[Row]:
    """Compare with a copy and a checksum of each file."""
    source = folder / "kept"
    source.mkdir()
    data = ordinary_h264(film(0))
    filler = KEPT_BYTES - len(data) - 12
    for number in range(KEPT_FILES):
        padding = os.urandom(1 << 20) * (filler // (1 << 20))
        box = (len(padding) + 8).to_bytes(4, "big") + b"free" + padding
        (source / f"{number}.mp4").write_bytes(data + box)
    kept = ours(Options(profile=video.PROFILES["keep"]))
    seconds = in_turns({"ours": kept, "cp and sha256sum": by_copy}, source, folder, rounds)
    shutil.rmtree(source)
    megabytes, against = KEPT_FILES * KEPT_BYTES / 1e6, "cp -r, then sha256sum of all"
    return compared("ingest/keep", seconds, megabytes, "MB/s", against, at_least=0.5)


def by_copy(source: Path, out: Path) -> None:
    """Copy all files and write their checksums."""
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    paths = map(str, sorted(out.iterdir()))
    subprocess.run(["sha256sum", *paths], check=True, stdout=subprocess.DEVNULL)


# --- growth


def growing(folder: Path) -> list[Row]:
    """Ingest a thousand and ten thousand small videos: seconds a video, and peak memory."""
    told = {count: grown(folder, count) for count in (FEW, MANY)}
    (few, few_peak), (many, many_peak) = told[FEW], told[MANY]
    return [
        Row(
            "ingest/time of ten times the videos, over ten times the time",
            (many / MANY) / (few / FEW), "x", against="1,000 videos of 64 px",
            rivals={"s for 1,000": few, "s for 10,000": many},
        ),
        Row(
            "ingest/peak memory of ten times the videos, over that of one",
            many_peak / few_peak, "x", against="1,000 videos of 64 px",
            rivals={"GB for 1,000": few_peak / 1e9, "GB for 10,000": many_peak / 1e9},
        ),
    ]  # fmt: skip


def grown(folder: Path, count: int) -> tuple[float, float]:
    source = folder / f"small-{count}"
    worlds.make("direction", str(source), videos=count, size=64, seed=1)
    with peak_memory() as peak:
        began = time.perf_counter()
        ingest.run(str(source), str(folder / "out"))
        seconds = time.perf_counter() - began
    shutil.rmtree(folder / "out")
    shutil.rmtree(source)
    return seconds, peak[0]


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Watch the private memory of this process and all below it, without Ray's shared store."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            total = 0.0
            for process in family:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().uss
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()

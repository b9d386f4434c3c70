"""Ingest in a hostile world: damage is found and told, kills cost nothing, full disks leave no ruins."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from clipmill import catalog, ingest, video
from clipmill.errors import StorageError
from clipmill.ingest import Options
from test_ingest import adds_up, clip, files, heap, ledger, records
from tiny import moving

pytestmark = pytest.mark.usefixtures("ray_local")


# --- damage


def is_damaged(path: Path) -> bool:
    """Decode everything as a stranger to our code would: any error or corrupt frame is damage."""
    frames = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        frames += 1
                        if frame.is_corrupt:
                            return True
                except av.FFmpegError:
                    return True
    except (av.FFmpegError, IndexError):
        return True
    return not frames


def spoil(path: Path, chance: random.Random) -> None:
    """Flip some bytes of the pictures, cut the end off, or empty the file."""
    data = bytearray(path.read_bytes())
    kind = chance.choice(["rot", "rot", "cut", "empty", "text"])
    if kind == "rot":
        for _ in range(40):
            data[chance.randrange(600, len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(100, len(data)) :]
    else:
        data = bytearray(b"" if kind == "empty" else b"this is text")
    path.write_bytes(data)


@pytest.mark.parametrize("seed", [0, pytest.param(None, marks=pytest.mark.slow)])
def test_the_ledger_lists_exactly_what_a_full_decode_finds_damaged(
    seed: int | None, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    print(f"seed {seed}")
    chance = random.Random(seed)
    source = heap(tmp_path / "v", {"a": 30, "b": 30})
    paths = sorted(source.rglob("*.mp4"))
    for path in chance.sample(paths, 6):
        spoil(path, chance)
    damaged = {path.name + path.parent.name for path in paths if is_damaged(path)}
    told = ingest.run(str(source), str(tmp_path / "d"))
    rows = pq.read_table(tmp_path / "d" / "quarantine.parquet").to_pylist()
    listed = {Path(row["source"]).name + Path(row["source"]).parent.name for row in rows}
    assert listed == damaged, f"seed {seed}"
    assert told["quarantined"] == len(damaged) and adds_up(told)
    assert all(row["stage"] and row["reason"] for row in rows)
    assert ingest.verify(str(tmp_path / "d"), deep=True) == []


def test_max_corrupt_frames_lets_some_damage_pass(tmp_path: Path) -> None:
    heap(tmp_path / "v", {"a": 2})
    rotten = tmp_path / "v" / "a" / "00.mp4"
    whole = rotten.read_bytes()
    chance = random.Random(3)
    while True:  # until it decodes, but with damage
        data = bytearray(whole)
        for _ in range(4):
            data[chance.randrange(len(data) // 2, len(data))] ^= 255
        rotten.write_bytes(data)
        with contextlib.suppress(Exception):
            made = video.transcode(bytes(data), video.Profile())[1]
            if 0 < made.corrupt_frames < 20:
                break
    assert ingest.run(str(tmp_path / "v"), str(tmp_path / "strict"))["quarantined"] == 1
    loose = Options(max_corrupt_frames=20)
    assert ingest.run(str(tmp_path / "v"), str(tmp_path / "loose"), loose)["quarantined"] == 0


# --- a decoder that crashes, or never ends


def jails_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        return [p for p in below if "clipmill import jail" in " ".join(_command(p))]
    return []


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.cmdline()
    return []


RUN = "import sys; from clipmill import ingest; ingest.run(sys.argv[1], sys.argv[2])"


def started(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start an ingest in a process group of its own."""
    command = [sys.executable, "-c", RUN, str(source), str(out)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_decoder_that_crashes_costs_one_source(tmp_path: Path) -> None:
    source = heap(tmp_path / "v", {"a": 3})
    noise = np.random.default_rng(0).integers(0, 255, (900, 360, 480, 3), np.uint8)
    video.encode(str(source / "a" / "long.mp4"), iter(noise), fps=30)
    process = started(source, tmp_path / "d")
    killed = 0
    while process.poll() is None:  # whoever works for long is at the long video
        for jail in jails_of(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                if sum(jail.cpu_times()[:2]) > 2.0:
                    jail.send_signal(signal.SIGSEGV)
                    killed += 1
        time.sleep(0.02)
    assert process.returncode == 0 and killed
    assert set(ledger(tmp_path / "d")) == {"long.mp4"}
    assert "SIGSEGV" in ledger(tmp_path / "d")["long.mp4"][1]
    assert len(records(tmp_path / "d")) == 3


def test_a_decoder_that_needs_too_much_is_stopped(tmp_path: Path) -> None:
    source = heap(tmp_path / "v", {"a": 2})
    flat = np.zeros((2, 6000, 8000, 3), np.uint8)  # a few bytes that become 144 MB a frame
    video.encode(str(source / "a" / "bomb.mp4"), iter(flat), fps=1, preset="ultrafast")
    told = ingest.run(str(source), str(tmp_path / "d"), Options(memory_bytes=220 << 20))
    assert set(ledger(tmp_path / "d")) == {"bomb.mp4"} and told["taken"] == 2


def test_a_decoder_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipmill.ingest import make
    from clipmill.ingest.examine import examine
    from clipmill.ingest.sources import Source

    video.encode(str(tmp_path / "v.mp4"), iter(np.random.default_rng(0).integers(0, 255, (200, 240, 320, 3), np.uint8)), fps=30)  # fmt: skip
    options = Options(seconds_a_second=0.0)
    monkeypatch.setattr(make, "SURE_SECONDS", 0.2)
    from clipmill.ingest import arrange

    part = arrange.parts_of([examine(Source(str(tmp_path / "v.mp4")), options)], options)[0]
    [(row, members)] = make.make_piece([part], options)
    assert not members and row["stage"] == "limits" and "took more than" in row["reason"]


# --- kills


@pytest.mark.slow
def test_killed_ten_times_at_random_it_ends_as_an_unbroken_run(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    source = heap(tmp_path / "v", {"a": 60, "b": 60})
    for path in chance.sample(sorted(source.rglob("*.mp4")), 6):
        spoil(path, chance)
    began = time.monotonic()
    assert started(source, tmp_path / "unbroken").wait() == 0
    whole_seconds = time.monotonic() - began
    kills = 0
    for _ in range(10):
        process = started(source, tmp_path / "d")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.1, 1.1) * whole_seconds)
        kills += process.poll() is None
        kill_group(process)
        if (tmp_path / "d" / "dataset.json").exists() and process.returncode == 0:
            shutil.rmtree(tmp_path / "d")  # it came through: once more from nothing
    assert kills, f"seed {seed}"
    assert started(source, tmp_path / "d").wait() == 0
    told, wanted = files(tmp_path / "d"), files(tmp_path / "unbroken")
    assert set(told) == set(wanted), f"seed {seed}"
    assert [n for n in told if told[n] != wanted[n]] in ([], ["quarantine.parquet"]), f"seed {seed}"
    assert reasons(tmp_path / "d") == reasons(tmp_path / "unbroken"), f"seed {seed}"


def reasons(data: Path) -> list[tuple[str, str, str]]:
    rows = pq.read_table(data / "quarantine.parquet").to_pylist()
    return [(row["source"], row["stage"], row["reason"]) for row in rows]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the process and all that it started, Ray's daemons too."""
    family = [process.pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


# --- disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_finished_stays_valid(
    tmp_path: Path, small_disk: Path
) -> None:
    heap(tmp_path / "few", {"a": 4})
    data = small_disk / "d"
    ingest.run(str(tmp_path / "few"), str(data))
    before = files(data)
    many = heap(tmp_path / "many", {"a": 4, "b": 60})
    for path in (tmp_path / "few" / "a").iterdir():
        shutil.copy(path, many / "a" / path.name)
    shutil.rmtree(tmp_path / "few")
    many.rename(tmp_path / "few")
    with pytest.raises(StorageError, match="No space left") as told:
        ingest.run(str(tmp_path / "few"), str(data))
    assert "\n" not in str(told.value)
    left = {name: data for name, data in files(data).items() if not name.startswith(".ingest")}
    assert before.items() <= left.items() and not list(data.glob(".*.part"))
    assert [f for f in ingest.verify(str(data)) if "none of its records" not in f] == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    ingest.run(str(tmp_path / "few"), str(data))
    assert ingest.verify(str(data)) == [] and len(records(data)) == 64


# --- files that change


def test_a_file_that_changes_between_look_and_reading_is_not_taken(tmp_path: Path) -> None:
    from clipmill.ingest import arrange, examine, make
    from clipmill.ingest.sources import Source

    clip(tmp_path / "v.mp4", 1)
    each = examine.examine(Source(str(tmp_path / "v.mp4")), Options())
    clip(tmp_path / "v.mp4", 2)
    part = arrange.parts_of([each], Options())[0]
    [(row, members)] = make.make_piece([part], Options())
    assert not members and (row["stage"], "changed" in row["reason"]) == ("read", True)


def test_a_kept_file_that_changes_before_it_is_copied_is_not_taken(tmp_path: Path) -> None:
    from clipmill import shards
    from clipmill.ingest import arrange, examine, make, write
    from clipmill.ingest.sources import Source

    options = Options(profile=video.PROFILES["keep"])
    names = [str(clip(tmp_path / f"{seed}.mp4", seed)) for seed in (1, 2)]
    parts = arrange.parts_of([examine.examine(Source(n), options) for n in names], options)
    made = list(make.make_piece(parts, options))
    assert all(record and set(record.members) == {"json", "idx"} for _, record in made)
    whole = (tmp_path / "1.mp4").read_bytes()
    (tmp_path / "1.mp4").write_bytes(whole[:-1] + b"x")
    with shards.writing(str(tmp_path / "x.tar")) as add:
        both = zip(parts, made, strict=True)
        lost, taken = (write._placed(part, each, add, "x.tar") for part, each in both)
    assert (lost["stage"], lost["source"], lost["members"]) == ("read", names[0], [])
    assert "changed" in lost["reason"]
    assert [r.key for r in shards.read(str(tmp_path / "x.tar"))] == [taken["key"]]


def test_a_transport_stream_cut_anywhere_gives_a_record_or_a_reason(tmp_path: Path) -> None:
    heap(tmp_path / "v", {"a": 1})
    frames = moving(5, 2, frames=48)
    video.encode(str(tmp_path / "whole.mp4"), frames, fps=15)
    with av.open(str(tmp_path / "whole.mp4")) as old, av.open(str(tmp_path / "w.ts"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    whole = (tmp_path / "w.ts").read_bytes()
    for number, share in enumerate((0.1, 0.35, 0.6, 0.9)):
        (tmp_path / "v" / "a" / f"cut {number}.ts").write_bytes(whole[: int(len(whole) * share)])
    told: dict[str, Any] = ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    assert adds_up(told) and told["taken"] + told["quarantined"] == 5
    assert ingest.verify(str(tmp_path / "d"), deep=True) == []
    assert catalog.load(str(tmp_path / "d")).digest

"""Ingest: every source on its side, whole or not at all, the same again, and verify names what is wrong."""

import csv
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill import api, catalog, ingest, shards, storage, video
from clipmill.errors import (
    BusyError,
    ClipmillError,
    DataError,
    SourceError,
    StorageError,
    UsageError,
)
from clipmill.ingest import Options, arrange
from clipmill.ingest.write import RECEIPTS
from tiny import moving, write_videos

pytestmark = pytest.mark.usefixtures("ray_local")

FRAMES, FPS = 24, 15


def clip(path: Path, seed: int, **how: Any) -> Path:
    """Write one short video; another seed is another content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video.encode(str(path), moving(seed, 2, frames=FRAMES), fps=FPS, **how)
    return path


def heap(folder: Path, classes: dict[str, int]) -> Path:
    """Write CLASS/NN.mp4, every video another."""
    seeds = itertools.count()
    for name, count in classes.items():
        for number in range(count):
            clip(folder / name / f"{number:02d}.mp4", next(seeds))
    return folder


def table(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".held"
    }


def records(data: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = catalog.load(str(data)).table.to_pylist()
    return rows


def ledger(data: Path) -> dict[str, tuple[str, str]]:
    """Stage and reason of what was not taken, by the name of its file."""
    rows = pq.read_table(data / "quarantine.parquet").to_pylist()
    return {Path(row["source"]).name: (row["stage"], row["reason"]) for row in rows}


def adds_up(counts: dict[str, Any]) -> bool:
    sides = ("taken", "quarantined", "duplicates", "filtered")
    return bool(counts["sources"] == sum(counts[side] for side in sides))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, {"train": 3, "val": 1, "test": 1})
    return folder


@pytest.fixture(scope="module")
def data(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a dataset that nobody may change."""
    folder = tmp_path_factory.mktemp("data") / "data"
    ingest.run(str(videos), str(folder))
    return folder


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """Hold a dataset to spoil."""
    return Path(shutil.copytree(data, tmp_path / "copy"))


# --- layouts


def test_folders_of_splits_and_classes(videos: Path, data: Path) -> None:
    told = {row["source"]: (row["split"], row["label"]) for row in records(data)}
    assert told == {
        str(path): (path.parent.parent.name, path.parent.name) for path in videos.rglob("*.mp4")
    }
    assert catalog.load(str(data)).classes == ("left", "right")


def test_counts_are_those_of_the_disk(videos: Path, data: Path) -> None:
    counts = catalog.load(str(data)).meta["counts"]
    found = list(videos.rglob("*.mp4"))
    assert counts["sources"] == counts["taken"] == counts["records"] == len(found) == 10
    assert counts["shards"] == len(list(data.glob("*.tar"))) == 3
    assert counts["bytes"] == sum(m["length"] for row in records(data) for m in row["members"])
    assert adds_up(counts) and counts["warnings"] == []


def test_without_splits_each_class_is_parted_80_10_10_by_content(tmp_path: Path) -> None:
    heap(tmp_path / "v", {"a": 10, "b": 20})
    counts = ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    told = Counter((row["label"], row["split"]) for row in records(tmp_path / "d"))
    assert told == {
        ("a", "train"): 8, ("a", "val"): 1, ("a", "test"): 1,
        ("b", "train"): 16, ("b", "val"): 2, ("b", "test"): 2,
    }  # fmt: skip
    assert counts["warnings"] == ["30 videos state no split: 80/10/10 by content within each class"]
    renamed = tmp_path / "renamed"
    for number, path in enumerate(sorted((tmp_path / "v").rglob("*.mp4"), reverse=True)):
        (renamed / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(renamed / path.parent.name / f"x{number}.mp4")
    ingest.run(str(renamed), str(tmp_path / "d2"))
    digests = [catalog.load(str(tmp_path / name)).digest for name in ("d", "d2")]
    assert digests[0] == digests[1], "the names of files had a say"


def test_unlabelled_videos_have_no_class(videos: Path, tmp_path: Path) -> None:
    ingest.run(str(videos), str(tmp_path / "d"), Options(layout="unlabelled"))
    loaded = catalog.load(str(tmp_path / "d"))
    assert loaded.classes == () and set(loaded.labels.tolist()) == {-1}
    assert Counter(loaded.column("split")) == {"train": 8, "val": 1, "test": 1}


def test_a_table_tells_labels_splits_licences_and_attributes(tmp_path: Path) -> None:
    clip(tmp_path / "v" / "one.mp4", 1)
    clip(tmp_path / "v" / "two.MP4", 2)
    rows = [
        {"path": "v/one.mp4", "label": "a", "split": "validation", "licence": "CC0", "speed": "3"},
        {"path": "v/two.MP4", "label": "", "split": "TRAIN", "licence": "", "speed": ""},
    ]
    source = table(tmp_path / "videos.csv", rows, encoding="utf-8-sig")  # as spreadsheets do
    assert ingest.run(str(source), str(tmp_path / "d"))["taken"] == 2
    told = {Path(row["source"]).name: row for row in records(tmp_path / "d")}
    keys = ("label", "split", "licence", "attributes")
    assert [told["one.mp4"][key] for key in keys] == ["a", "val", "CC0", [("speed", "3")]]
    assert [told["two.MP4"][key] for key in keys] == [None, "train", None, []]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"file,label\na.mp4,x\n", r"has the columns file, label; wanted a column `path`"),
        (b"", r"has the columns none; wanted a column `path`"),
        (b"path\n../a.mp4\n", r"line 2: path '\.\./a\.mp4' leads outside of"),
        (b"path\na.mp4\n/etc/a.mp4\n", r"line 3: path '/etc/a\.mp4' leads outside of"),
        (b"path,label\n,x\n", r"line 2: path '' leads outside"),
        (b"path,split\na.mp4,dev\n", r"line 2: split 'dev'; wanted one of train"),
        (b"path,label\na.mp4,caf\xe9\n", r"is no table: .*; wanted CSV in UTF-8"),
        (b'path,label\n"a.mp4,x\n', r"is no table: "),
        (b"path\n", r"holds no videos"),
        (b"path,label\na.mp4,Cat\na.mp4,cat\n", r"'Cat' and 'cat' differ only in case"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(tmp_path: Path, text: bytes, told: str) -> None:
    clip(tmp_path / "a.mp4", 1)
    (tmp_path / "videos.csv").write_bytes(text)
    before = files(tmp_path)
    with pytest.raises(SourceError, match=told):
        ingest.run(str(tmp_path / "videos.csv"), str(tmp_path / "d"))
    assert files(tmp_path) == before and not (tmp_path / "d").exists()


def test_names_of_every_kind_are_kept(tmp_path: Path) -> None:
    names = ("with space", "100%", 'it\'s "quoted"', "two\nlines", "größe 日本 🎬", "a,b;c=d", "-x")
    for seed, name in enumerate(names):
        clip(tmp_path / "v" / name / f"{name}.mp4", seed)
    assert ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))["taken"] == len(names)
    told = {row["label"]: row["source"] for row in records(tmp_path / "d")}
    assert told == {name: str(tmp_path / "v" / name / f"{name}.mp4") for name in names}
    assert ingest.verify(str(tmp_path / "d")) == []


# --- what is not taken


def damaged(path: Path, seed: int) -> Path:
    """Write a file whose index is whole and whose pictures are not."""
    whole, _ = video.transcode(clip(path, seed).read_bytes(), video.Profile())
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(1200) + whole[middle + 1200 :])
    return path


def test_what_cannot_be_taken_is_told_with_stage_and_reason(tmp_path: Path) -> None:
    folder = heap(tmp_path / "v", {"a": 3}) / "a"
    (folder / "text.mp4").write_text("this is a letter")
    (folder / "empty.mp4").touch()
    cut = clip(folder / "cut.mp4", 7)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    damaged(folder / "damaged.mp4", 8)
    (folder / "away.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "unreadable.mp4").symlink_to("/proc/self/mem")  # for root, too
    clip(Path(os.fsdecode(bytes(folder) + b"/\xff.mp4")), 9)
    (folder / "notes.txt").write_text("no video by its name: no source")
    counts = ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    assert (counts["sources"], counts["taken"], counts["quarantined"]) == (10, 3, 7)
    assert adds_up(counts)
    told = ledger(tmp_path / "d")
    assert {name: stage for name, (stage, _) in told.items()} == {
        "text.mp4": "probe", "empty.mp4": "probe", "cut.mp4": "probe", "damaged.mp4": "decode",
        "away.mp4": "read", "unreadable.mp4": "read", "\\udcff.mp4": "name",
    }  # fmt: skip
    assert "Invalid data found" in told["text.mp4"][1]
    assert "an empty file" in told["empty.mp4"][1]
    assert "damaged frames" in told["damaged.mp4"][1]
    assert "is not there" in told["away.mp4"][1]
    assert "cannot be read" in told["unreadable.mp4"][1]
    assert all(reason and "\n" not in reason and "0x" not in reason for _, reason in told.values())
    assert counts["warnings"][-1].startswith("7 videos were not taken: quarantine.parquet")
    assert ingest.verify(str(tmp_path / "d")) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_told_and_an_unreadable_folder_refused(tmp_path: Path) -> None:
    heap(tmp_path / "v", {"a": 2})
    (tmp_path / "v" / "a" / "00.mp4").chmod(0)
    ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    assert ledger(tmp_path / "d")["00.mp4"][0] == "read"
    (tmp_path / "v" / "a").chmod(0)
    try:
        with pytest.raises(ClipmillError, match="cannot be listed"):
            ingest.run(str(tmp_path / "v"), str(tmp_path / "d2"))
    finally:
        (tmp_path / "v" / "a").chmod(0o755)


def test_the_same_content_stays_in_test_before_val_before_train(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    for seed, places in enumerate((("train", "val", "test"), ("train", "val"), ("train", "train"))):
        for number, split in enumerate(places):
            clip(folder / split / "a" / f"{seed}-{number}.mp4", seed)
    counts = ingest.run(str(folder), str(tmp_path / "d"))
    assert (counts["sources"], counts["taken"], counts["duplicates"]) == (7, 3, 4)
    assert adds_up(counts)
    told = sorted((Path(row["source"]).name, row["split"]) for row in records(tmp_path / "d"))
    assert told == [("0-2.mp4", "test"), ("1-1.mp4", "val"), ("2-0.mp4", "train")]
    assert counts["warnings"] == [
        "3 videos are in another split too: kept in test, val, train in turn"
    ]


def test_the_same_content_with_two_labels_is_not_taken(tmp_path: Path) -> None:
    heap(tmp_path / "v", {"a": 2})
    clip(tmp_path / "v" / "b" / "again.mp4", 0)
    counts = ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    assert (counts["taken"], counts["quarantined"], adds_up(counts)) == (1, 2, True)
    assert ledger(tmp_path / "d") == {
        name: ("labels", "the same content is labelled a, b") for name in ("00.mp4", "again.mp4")
    }


def test_a_heap_of_which_nothing_can_be_taken_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "text.mp4").write_text("this is a letter")
    with pytest.raises(SourceError, match=r"none of 1 videos could be taken: .*Invalid data"):
        ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    damaged(tmp_path / "v" / "text.mp4", 8)
    with pytest.raises(SourceError, match=r"none of 1 videos .*damaged frames"):
        ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    assert sorted(os.listdir(tmp_path)) == ["v"]


# --- refusals


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = clip(tmp_path / "one.mp4", 1)
    heap(tmp_path / "cases", {"Cat": 1, "cat": 1, "dog": 1})
    before = files(tmp_path)
    for source, told in (
        (tmp_path / "nowhere", r"nowhere is not there; wanted a folder of videos, a table"),
        (tmp_path / "empty", r"empty holds no videos; wanted files ending in"),
        (one, r"one\.mp4 is a file; wanted a folder of videos"),
        (tmp_path / "cases", r"the classes 'Cat' and 'cat' differ only in case"),
    ):
        with pytest.raises(SourceError, match=told):
            ingest.run(str(source), str(tmp_path / "d"))
    with pytest.raises(UsageError, match="layout 'odd'; wanted one of folder"):
        ingest.run(str(tmp_path / "cases"), str(tmp_path / "d"), Options(layout="odd"))
    with pytest.raises(UsageError, match="profile 'best'; wanted one of training"):
        api.ingest(str(tmp_path / "cases"), str(tmp_path / "d"), profile="best")
    assert files(tmp_path) == before and not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "name", ["thesis.txt", "backup.tar", ".bashrc", "train-00000-01234567.tar"]
)
def test_a_folder_of_something_else_is_left_alone(videos: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(DataError, match="none of ours; wanted an empty folder or a dataset"):
        ingest.run(str(videos), str(tmp_path))
    with pytest.raises(DataError, match="is a file; wanted a folder"):
        ingest.run(str(videos), str(tmp_path / name))
    assert files(tmp_path) == {name: b"years of work"} and os.listdir(tmp_path) == [name]


def test_a_dataset_of_other_videos_is_left_alone(copy: Path, tmp_path: Path) -> None:
    before = files(copy)
    heap(tmp_path / "v", {"a": 1})
    with pytest.raises(DataError, match=r"holds 10 records of .* alone; choose another --out"):
        ingest.run(str(tmp_path / "v"), str(copy))
    assert files(copy) == before


def test_a_folder_that_is_held_is_refused(videos: Path, tmp_path: Path) -> None:
    with (
        storage.holding(str(tmp_path), "clipmill ingest"),
        pytest.raises(BusyError, match="in use by clipmill ingest"),
    ):
        ingest.run(str(videos), str(tmp_path))
    assert files(tmp_path) == {}


def test_a_shard_that_cannot_be_written_is_told_in_one_line(
    videos: Path, data: Path, tmp_path: Path
) -> None:
    name = min(data.glob("*.tar")).name
    (tmp_path / RECEIPTS).mkdir()
    (tmp_path / name).mkdir()  # no file takes the place of a folder
    with pytest.raises(StorageError, match=f"{name} cannot be written: Is a directory; wanted"):
        ingest.run(str(videos), str(tmp_path))
    assert not list(tmp_path.glob(".*.part")) and not (tmp_path / "dataset.json").exists()


# --- again, and again


def test_a_second_run_has_nothing_to_do(videos: Path, copy: Path) -> None:
    before = files(copy)
    first = catalog.load(str(copy)).meta["counts"]
    told = ingest.run(str(videos), str(copy))
    assert told["nothing_to_do"] and {key: told[key] for key in first} == first
    assert files(copy) == before


def test_two_fresh_datasets_of_the_same_videos_are_the_same(
    videos: Path, data: Path, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    ingest.run(str(videos), str(tmp_path / "d"), progress=lambda *it: told.append(it))
    assert files(tmp_path / "d") == files(data)
    assert records(tmp_path / "d") == records(data)
    assert {("looking at videos", 10, 10), ("writing shards", 10, 10)} <= set(told)


def interrupted(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, at: str = "save") -> None:
    """Ingest up to the catalog, and no further."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(catalog, at, stop)
        with pytest.raises(KeyboardInterrupt):
            ingest.run(str(source), str(out))
    assert not (out / "dataset.json").exists() and not (out / "catalog.parquet").exists()


def test_an_interrupted_ingest_goes_on_and_ends_as_an_unbroken_one(
    videos: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "d"
    interrupted(videos, out, monkeypatch)
    lost, unreceipted, kept = sorted(out.glob("*.tar"))
    lost.unlink()
    (out / RECEIPTS / f"{lost.name}.jsonl").unlink()
    (out / RECEIPTS / f"{unreceipted.name}.jsonl").unlink()
    (out / f".{lost.name}.x7.part").write_bytes(b"half of a shard")
    inode = kept.stat().st_ino
    ingest.run(str(videos), str(out))
    assert files(out) == files(data)
    assert kept.stat().st_ino == inode, "a finished shard was written again"


def test_an_interrupted_ingest_may_go_on_with_other_videos(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "d"
    interrupted(videos, out, monkeypatch)
    heap(tmp_path / "v", {"a": 2})
    ingest.run(str(tmp_path / "v"), str(out))
    ingest.run(str(tmp_path / "v"), str(tmp_path / "fresh"))
    assert files(out) == files(tmp_path / "fresh")
    assert ingest.verify(str(out)) == []


SMALL_SHARDS = """
import sys
from clipmill import ingest
from clipmill.ingest import Options, arrange
arrange.SHARD_BYTES = 1
ingest.run(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_ingest_goes_on_and_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = heap(tmp_path / "v", {"a": 24}), tmp_path / "d"
    command = [sys.executable, "-c", SMALL_SHARDS, str(source), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((out / RECEIPTS).glob("*.tar.jsonl"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "dataset.json").exists(), "killed too late"
    monkeypatch.setattr(arrange, "SHARD_BYTES", 1)
    told = ingest.run(str(source), str(out))
    assert (told["shards"], told["taken"]) == (24, 24)
    ingest.run(str(source), str(tmp_path / "unbroken"))
    assert files(out) == files(tmp_path / "unbroken")


# --- what a dataset holds


def test_ranges_of_the_catalog_are_the_members(data: Path) -> None:
    loaded = catalog.load(str(data))
    members = {
        (path.name, record.key): record.members
        for path in data.glob("*.tar")
        for record in shards.read(str(path))
    }
    assert len(members) == len(loaded) == 10
    for row in loaded.table.to_pylist():
        inside = members[row["shard"], row["key"]]
        assert {m["suffix"] for m in row["members"]} == set(inside) == {"idx", "json", "mp4"}
        for suffix, wanted in inside.items():
            assert loaded.read(row, suffix) == wanted
        told = json.loads(inside["json"])
        assert {key: row[key] for key in ("label", "split", "source_sha256")} == {
            key: told[key] for key in ("label", "split", "source_sha256")
        }


def test_a_record_shows_its_source(videos: Path, data: Path) -> None:
    loaded = catalog.load(str(data))
    for row in loaded.table.to_pylist()[::3]:
        source = video.decode_frames(row["source"], list(range(FRAMES)))
        # Twice the source's rate: every frame of the source is shown twice.
        shown = video.decode_frames(loaded.read(row), list(range(0, 2 * FRAMES, 2)))
        apart = np.abs(source.astype(int) - shown.astype(int)).mean((1, 2, 3))
        assert apart.max() < 6, "other pictures than the source's"
        moved = np.abs(source[1:].astype(int) - shown[:-1].astype(int)).mean()
        assert moved > 2 * apart.mean(), "the pictures do not move: this test sees nothing"


def test_columns_tell_what_the_ladder_made(tmp_path: Path) -> None:
    tone = np.sin(np.arange(16_000 * FRAMES // FPS) / 20).astype(np.float32)
    clip(tmp_path / "v" / "sound.mp4", 1, audio=tone)
    large = [np.kron(f, np.ones((7, 9, 1), np.uint8)) for f in moving(2, 2, frames=8)]
    video.encode(str(tmp_path / "v" / "large.mp4"), large, fps=10)
    ingest.run(str(tmp_path / "v"), str(tmp_path / "d"))
    rows = {Path(row["source"]).stem: row for row in records(tmp_path / "d")}
    keys = ("width", "height", "fps", "frames", "duration_seconds", "has_audio")
    assert [rows["sound"][key] for key in keys] == [48, 48, 30.0, 48, pytest.approx(1.6), True]
    assert [rows["large"][key] for key in keys] == [328, 256, 30.0, 24, pytest.approx(0.8), False]
    profile = catalog.load(str(tmp_path / "d")).meta["profile"]
    assert (profile["name"], profile["short_side"], profile["k"]) == ("training", 256, 6)
    for row in rows.values():
        assert (row["frames_from"], row["variable_rate"], row["rotation"]) == ("decode", False, 0)
        made = video.probe(catalog.load(str(tmp_path / "d")).read(row), decode=True)
        assert (made.frames, made.width, made.height) == tuple(
            row[key] for key in ("frames", "width", "height")
        )


# The library leaves its last file for the garbage collector, which warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_a_dataset(data: Path) -> None:
    samples = {sample["__key__"]: sample for sample in api.webdataset(str(data))}
    gc.collect()
    loaded = catalog.load(str(data))
    assert set(samples) == set(loaded.keys)
    for row in loaded.table.to_pylist():
        assert samples[row["key"]]["mp4"] == loaded.read(row)
        assert json.loads(samples[row["key"]]["json"])["label"] == row["label"]


# --- verify


def test_a_whole_dataset_has_no_fault(data: Path) -> None:
    told: list[tuple[str, int, int]] = []
    assert ingest.verify(str(data), progress=lambda *it: told.append(it)) == []
    assert ingest.verify(str(data), deep=True) == []
    assert told[-1] == ("verifying shards", 3, 3)


def spoil(path: Path, at: int, length: int = 1) -> None:
    """Turn over bytes in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[at : at + length] = bytes(byte ^ 0xFF for byte in raw[at : at + length])
    path.write_bytes(raw)


def test_verify_names_a_flipped_byte_in_a_video(copy: Path) -> None:
    row = records(copy)[4]
    member = next(m for m in row["members"] if m["suffix"] == "mp4")
    spoil(copy / row["shard"], member["offset"] + member["length"] // 2)
    (fault,) = ingest.verify(str(copy))
    assert fault.startswith(f"{row['shard']}: {row['key']}.mp4 has hash ")


def test_verify_names_a_cut_and_a_missing_shard(copy: Path) -> None:
    cut, missing, _ = sorted(copy.glob("*.tar"))
    cut.write_bytes(cut.read_bytes()[:3000])
    missing.unlink()
    faults = ingest.verify(str(copy))
    assert [fault.split(":")[0] for fault in faults] == [cut.name, missing.name]
    assert "is not there" in faults[1]


def rewrite(data: Path, rows: list[dict[str, Any]]) -> None:
    """Put other rows into the catalog, and leave dataset.json."""
    pq.write_table(pa.Table.from_pylist(rows, schema=catalog.SCHEMA), data / "catalog.parquet")


def test_verify_names_a_record_that_the_catalog_has_lost(copy: Path) -> None:
    lost, *rest = records(copy)
    rewrite(copy, rest)
    faults = ingest.verify(str(copy))
    assert faults[0] == "catalog.parquet is not the one that dataset.json tells"
    # The shard of the lost record held two: the other is in the catalog.
    assert faults[1:] == [f"{lost['shard']}: record {lost['key']} is not in the catalog"]
    rewrite(copy, [row for row in rest if row["shard"] != lost["shard"]])
    assert f"{lost['shard']}: none of its records is in the catalog" in ingest.verify(str(copy))
    with pytest.raises(DataError, match="has 8 rows; wanted the 10"):
        catalog.load(str(copy))


def test_verify_names_records_and_members_that_are_not_where_the_catalog_says(copy: Path) -> None:
    rows = records(copy)
    rows[0]["key"] = "f" * 24
    rows[5]["members"][0]["offset"] += 512
    rewrite(copy, rows)
    faults = "\n".join(ingest.verify(str(copy)))
    assert f"{rows[0]['shard']}: record {'f' * 24} is missing" in faults
    assert f"{rows[5]['shard']}: {rows[5]['key']}.idx is not at its offset" in faults


def test_verify_deep_names_a_video_that_ends_too_early(copy: Path) -> None:
    """Its hash is right and so is its place: only decoding tells."""
    rows = records(copy)
    rows[0]["frames"] += 3
    rewrite(copy, rows)
    faults = ingest.verify(str(copy), deep=True)
    assert any(f"{rows[0]['shard']}: {rows[0]['key']}: " in fault for fault in faults)


def test_a_catalog_that_cannot_be_read_is_refused(copy: Path) -> None:
    path = copy / "catalog.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    for look in (catalog.load, ingest.verify):
        with pytest.raises(DataError, match=r"catalog\.parquet cannot be read"):
            look(str(copy))
    (copy / "dataset.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ClipmillError, match=r"dataset\.json is not JSON"):
        catalog.load(str(copy))


def test_verify_names_an_index_of_another_video(copy: Path) -> None:
    data = catalog.load(str(copy))
    rows = data.table.to_pylist()
    name = rows[0]["shard"]
    inside = [row for row in rows if row["shard"] == name]
    records = list(shards.read(str(copy / name)))
    first, second = records[0].members, records[1].members
    first["idx"] = video.index_of(second["mp4"]).packed()  # type: ignore[union-attr]
    placed = {each.key: each.members for each in shards.write(str(copy / name), records)}
    changed = [{**row, "members": placed.get(row["key"], row["members"])} for row in rows]
    table = pa.Table.from_pylist(changed, schema=catalog.SCHEMA)
    catalog.save(str(copy), table, dict(data.meta))
    (fault,) = ingest.verify(str(copy))
    assert fault == f"{name}: {inside[0]['key']}.idx is not the index of its video"

"""A second ingest: only what is new or changed is worked on, and the end is that of a fresh run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipmill import api, catalog, ingest, shards
from clipmill.errors import DataError
from clipmill.ingest import Options, arrange
from clipmill.ingest.sources import Source
from test_ingest import adds_up, clip, files, heap, ledger, records, table
from tiny import run_recipe

pytestmark = pytest.mark.usefixtures("ray_local")

CUTS = Options(split_seconds=0.5)


def identity(data: Path) -> set[tuple[Any, ...]]:
    """Records as a set: what they are and hold, wherever they lie."""
    loaded = catalog.load(str(data))
    return {
        (row["record_digest"], *(loaded.read(row, m["suffix"]) for m in row["members"]))
        for row in loaded.table.to_pylist()
    }


def as_fresh(source: Path, data: Path, tmp_path: Path, options: Options | None = None) -> bool:
    """Tell whether a dataset is, as a set of records, that of a fresh run; and verify it."""
    fresh = tmp_path / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    ingest.run(str(source), str(fresh), options)
    assert ingest.verify(str(data)) == []
    same_ledger = (
        pq.read_table(data / "quarantine.parquet").to_pylist()
        == pq.read_table(fresh / "quarantine.parquet").to_pylist()
    )
    digests = catalog.load(str(data)).digest, catalog.load(str(fresh)).digest
    return same_ledger and digests[0] == digests[1] and identity(data) == identity(fresh)


def inodes(data: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in data.glob("*.tar")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return heap(tmp_path / "v", {"a": 6, "b": 6})


@pytest.fixture
def data(source: Path, tmp_path: Path) -> Path:
    ingest.run(str(source), str(tmp_path / "d"))
    return tmp_path / "d"


def test_new_files_are_added_and_nothing_else_is_read(
    source: Path, data: Path, tmp_path: Path
) -> None:
    before = inodes(data)
    clip(source / "a" / "new.mp4", 77)
    clip(source / "b" / "more.mp4", 78)
    looked: list[tuple[str, int, int]] = []
    told = ingest.run(str(source), str(data), progress=lambda *it: looked.append(it))
    assert ("looking at videos", 2, 2) in looked
    assert not any(total > 2 for what, _, total in looked if what == "looking at videos")
    assert told["added"] == 2 and told["removed"] == 0 and not told["nothing_to_do"]
    assert adds_up(told) and told["taken"] == told["records"] == 14
    assert inodes(data).items() & before.items(), "every shard was written again"
    assert as_fresh(source, data, tmp_path)


def test_changed_and_vanished_files_are_replaced_and_removed(
    source: Path, data: Path, tmp_path: Path
) -> None:
    clip(source / "a" / "00.mp4", 99)
    (source / "b" / "01.mp4").unlink()
    told = ingest.run(str(source), str(data))
    assert (told["added"], told["removed"]) == (1, 2)
    assert as_fresh(source, data, tmp_path)
    assert ingest.run(str(source), str(data))["nothing_to_do"]


def test_a_file_that_turned_bad_moves_to_the_ledger_and_back(
    source: Path, data: Path, tmp_path: Path
) -> None:
    path = source / "a" / "02.mp4"
    good = path.read_bytes()
    path.write_bytes(b"no video at all")
    assert ingest.run(str(source), str(data))["quarantined"] == 1
    assert set(ledger(data)) == {"02.mp4"} and as_fresh(source, data, tmp_path)
    path.write_bytes(good)
    assert ingest.run(str(source), str(data))["quarantined"] == 0
    assert ledger(data) == {} and as_fresh(source, data, tmp_path)


def test_what_is_told_of_a_video_may_change_without_a_new_transcode(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 1)
    clip(tmp_path / "b.mp4", 2)
    data = tmp_path / "d"
    for speed, nothing in (("1", False), ("1", True), ("2", False)):
        rows = [{"path": "a.mp4", "speed": speed}, {"path": "b.mp4", "speed": "7"}]
        source = table(tmp_path / "videos.csv", rows)
        told = ingest.run(str(source), str(data))
        assert told["nothing_to_do"] is nothing
    assert (told["added"], told["removed"]) == (0, 0) and told["rewritten"]
    speeds = sorted(dict(row["attributes"])["speed"] for row in records(data))
    assert speeds == ["2", "7"] and as_fresh(source, data, tmp_path)
    inside = [
        json.loads(record.members["json"])["attributes"]["speed"]
        for path in data.glob("*.tar")
        for record in shards.read(str(path))
    ]
    assert sorted(inside) == speeds


def test_a_heap_that_moved_needs_no_work(source: Path, data: Path, tmp_path: Path) -> None:
    before = inodes(data)
    moved = source.rename(tmp_path / "moved")
    told = ingest.run(str(moved), str(data))
    assert (told["added"], told["rewritten"], told["removed"]) == (0, 0, 0)
    assert inodes(data) == before
    assert {Path(row["source"]).parent.parent for row in records(data)} == {moved}


def test_another_heap_or_profile_is_refused(source: Path, data: Path, tmp_path: Path) -> None:
    before = files(data)
    other = heap(tmp_path / "other", {"a": 3})
    clip(other / "a" / "09.mp4", 1234)
    with pytest.raises(DataError, match=r"holds \d+ records of .*another --out"):
        ingest.run(str(other), str(data))
    with pytest.raises(DataError, match=r"profile"):
        api.ingest(str(source), str(data), profile={"name": "training", "short_side": 32})
    assert files(data) == before


def test_an_update_that_was_broken_off_leaves_the_old_dataset_and_goes_on(
    source: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(source / "a" / "new.mp4", 77)
    (source / "b" / "01.mp4").unlink()
    before = catalog.load(str(data)).digest

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for holder, name in ((ingest.state, "commit"), (ingest._Ingest, "_clean")):  # before and after
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, stop)
            with pytest.raises(KeyboardInterrupt):
                ingest.run(str(source), str(data))
        loaded = catalog.load(str(data))
        assert (loaded.digest == before) is (name == "commit")
        assert all(loaded.read(row) for row in loaded.table.to_pylist())
    told = ingest.run(str(source), str(data))
    assert told["nothing_to_do"] and as_fresh(source, data, tmp_path)
    assert set(files(data)) & set(files(tmp_path / "fresh")) >= {"catalog.parquet", "dataset.json"}


def test_long_videos_are_cut_into_records_with_parent_and_time(
    source: Path, tmp_path: Path
) -> None:
    data = tmp_path / "d"
    told = ingest.run(str(source), str(data), CUTS)  # videos of 1.6 s
    rows = sorted(records(data), key=lambda row: (row["source"], row["start_seconds"]))
    assert told["taken"] == 12 and told["records"] == len(rows) == 36
    assert len({row["parent"] for row in rows}) == 12
    for parent in {row["parent"] for row in rows}:
        edges = [(r["start_seconds"], r["end_seconds"]) for r in rows if r["parent"] == parent]
        assert [start for start, _ in edges] == [0.0, 0.5, 1.0]
        assert [end for _, end in edges] == pytest.approx([0.5, 1.0, 1.6])
        assert len({r["split"] for r in rows if r["parent"] == parent}) == 1
    assert ingest.verify(str(data)) == [] and ingest.run(str(source), str(data), CUTS)["nothing_to_do"]  # fmt: skip
    clip(source / "a" / "new.mp4", 77)
    ingest.run(str(source), str(data), CUTS)
    assert as_fresh(source, data, tmp_path, CUTS)


def test_groups_and_a_videos_parts_share_a_split(tmp_path: Path) -> None:
    rows = []
    for number in range(20):
        clip(tmp_path / f"{number}.mp4", number)
        rows.append({"path": f"{number}.mp4", "label": "a", "group": f"g{number // 4}"})
    ingest.run(str(table(tmp_path / "t.csv", rows)), str(tmp_path / "d"), CUTS)
    splits: dict[str, set[str]] = {}
    for row in records(tmp_path / "d"):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 5 and all(len(held) == 1 for held in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_an_identity_has_one_split_whatever_its_classes() -> None:
    def part(number: int) -> arrange.Part:
        source = Source(f"{number}.mp4", label="ab"[number % 2], identity=str(number // 4))
        return arrange.Part(source, (0, 0), f"{number * 7 % 40:064x}", 0.0, None, 1.0)

    splits: dict[str | None, set[str | None]] = {}
    for each in arrange.with_splits([part(number) for number in range(40)]):
        splits.setdefault(each.source.identity, set()).add(each.source.split)
    assert len(splits) == 10 and all(len(held) == 1 for held in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_a_filter_counts_what_it_leaves_out(source: Path, tmp_path: Path) -> None:
    clip(source / "a" / "another.mp4", 555)
    told = ingest.run(str(source), str(tmp_path / "d"), Options(where="label == 'a' and duration > 1"))  # fmt: skip
    assert (told["sources"], told["taken"], told["filtered"]) == (13, 7, 6) and adds_up(told)
    assert {row["label"] for row in records(tmp_path / "d")} == {"a"}
    with pytest.raises(Exception, match=r"the filter leaves none"):
        ingest.run(str(source), str(tmp_path / "e"), Options(where="duration > 100"))
    assert not (tmp_path / "e").exists()


def test_forgetting_removes_bytes_and_keeps_the_content_away(
    source: Path, data: Path, tmp_path: Path
) -> None:
    rows = records(data)
    gone = next(row for row in rows if row["split"] == "train")
    video_bytes = catalog.load(str(data)).read(gone)
    told = api.forget(str(data), [gone["key"]], folder=str(tmp_path / "runs"))
    assert [each["key"] for each in told["forgotten"]] == [gone["key"]]
    assert told["runs"] == [] and told["versions"] == [] and told["records"] == len(rows) - 1
    assert not any(video_bytes in path.read_bytes() for path in data.glob("*.tar"))
    assert ingest.verify(str(data)) == []
    shutil.copy(gone["source"], source / "b" / "again under another name.mp4")
    after = ingest.run(str(source), str(data))
    assert gone["key"] not in {row["key"] for row in records(data)}
    assert adds_up(after) and "forgotten" in {stage for stage, _ in ledger(data).values()}
    with pytest.raises(DataError, match="no record"):
        api.forget(str(data), [gone["key"]])
    with pytest.raises(DataError, match="no record"):
        api.forget(str(data), ["f" * 24])


def test_a_forgotten_part_does_not_come_back_by_other_cuts(source: Path, tmp_path: Path) -> None:
    data = tmp_path / "d"
    ingest.run(str(source), str(data), CUTS)
    gone = next(row for row in records(data) if row["start_seconds"] == 0.5)
    api.forget(str(data), [gone["key"]])
    ingest.run(str(source), str(data), Options(split_seconds=0.8))
    left = [row for row in records(data) if row["source_sha256"] == gone["source_sha256"]]
    assert all(row["end_seconds"] <= 0.5 or row["start_seconds"] >= 1.0 for row in left)


def test_forget_names_the_runs_and_the_versions_that_saw_it(dataset: str, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "copy"))
    runs = str(tmp_path / "runs")
    api.train(run_recipe(dataset, tmp_path / "runs", "saw", steps=2))
    promoted = api.promote("saw", name="shown", folder=runs)
    told = api.forget(str(data), [records(data)[0]["key"]], folder=runs)
    assert [run["name"] for run in told["runs"]] == ["saw"]
    assert told["versions"] == [{"name": "shown", "version": promoted["version"]}]
    stranger = heap(tmp_path / "v", {"a": 3})
    ingest.run(str(stranger), str(tmp_path / "other"))
    unseen = api.forget(
        str(tmp_path / "other"), [records(tmp_path / "other")[0]["key"]], folder=runs
    )
    assert (unseen["runs"], unseen["versions"]) == ([], [])


def test_motion_over_time_joins_a_dataset_without_a_shard_rewritten(
    source: Path, data: Path, tmp_path: Path
) -> None:
    before = inodes(data)
    assert all(row["motion_curve"] is None for row in records(data))
    api.ingest(str(source), str(data), measure=("motion", "motion_curve"))
    assert inodes(data) == before
    for row in records(data):
        assert len(row["motion_curve"]) == -(-row["duration_seconds"] // 0.5)
        assert max(row["motion_curve"]) > 0 and row["motion"] > 0
    assert as_fresh(source, data, tmp_path, Options(measures=("motion", "motion_curve")))


def test_near_duplicates_stay_in_one_split(source: Path, tmp_path: Path) -> None:
    from clipmill import video

    for number in range(6):
        frames = video.decode_frames((source / "a" / f"{number:02d}.mp4").read_bytes(), range(24))
        video.encode(str(source / "a" / f"worse {number}.mp4"), iter(frames), fps=15, crf=32)
    options = Options(measures=("phash",))
    ingest.run(str(source), str(tmp_path / "d"), options)
    near: dict[str, set[str]] = {}
    for row in records(tmp_path / "d"):
        if row["near"]:
            near.setdefault(row["near"], set()).add(row["split"])
    assert len(near) == 6 and all(len(splits) == 1 for splits in near.values())


def test_shards_keep_their_target_size(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setattr(arrange, "SHARD_BYTES", 1)
    assert ingest.run(str(source), str(tmp_path / "d"))["shards"] == 12


def test_units_fill_the_tenths_without_parting() -> None:
    shares = arrange._shares
    assert shares([1] * 20).count("test") == 2 and shares([1] * 20).count("val") == 2
    assert shares([6, *[1] * 6])[0] == "train", "a large unit does not go to test"
    assert sorted(set(shares([4, 4, 4]))) == ["test", "train", "val"]
    assert shares([5, 5]) == ["train", "train"] and shares([]) == []


def test_a_commit_broken_off_between_its_files_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(tmp_path / "a.mp4", 1)
    clip(tmp_path / "b.mp4", 2)
    data = tmp_path / "d"
    rows = [{"path": "a.mp4", "label": "x"}, {"path": "b.mp4", "label": "y"}]
    ingest.run(str(table(tmp_path / "t.csv", rows)), str(data))
    source = table(tmp_path / "t.csv", [{**row, "label": f"new {row['label']}"} for row in rows])
    put = ingest.state.put_table
    for stop_at in range(3):  # quarantine, next memory, memory; the catalog is before the last
        puts = iter(range(9))

        def stop(path: str, told: Any, at: int = stop_at, count: Any = puts) -> None:
            if next(count) == at:
                raise KeyboardInterrupt
            put(path, told)

        with monkeypatch.context() as patch:
            patch.setattr(ingest.state, "put_table", stop)
            with pytest.raises(KeyboardInterrupt):
                ingest.run(str(source), str(data))
        catalog.load(str(data))
    ingest.run(str(source), str(data))
    assert {row["label"] for row in records(data)} == {"new x", "new y"}
    assert as_fresh(source, data, tmp_path)


def test_equal_parts_of_one_video_become_one_record(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 1)
    rows = [
        {"path": "a.mp4", "start_seconds": "0.5", "end_seconds": end, "split": split}
        for end, split in (("5", "train"), ("6", "test"), ("5", "train"))
    ]
    source = table(tmp_path / "t.csv", rows)
    told = ingest.run(str(source), str(tmp_path / "d"))
    assert adds_up(told) and (told["taken"], told["duplicates"], told["records"]) == (1, 2, 1)
    assert [row["split"] for row in records(tmp_path / "d")] == ["test"]
    assert ingest.verify(str(tmp_path / "d")) == []
    assert ingest.run(str(source), str(tmp_path / "d"))["nothing_to_do"]
    assert ingest.run(str(source), str(tmp_path / "cut"), CUTS)["records"] == 2
    assert ingest.verify(str(tmp_path / "cut")) == []


def test_what_was_mended_in_the_table_is_taken(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 1)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    clip(tmp_path / "c.mp4", 2)
    told = []
    for label in ("y", "x", ""):
        rows = [
            {"path": f"{n}.mp4", "label": name}
            for n, name in zip("abc", ("x", label, "z"), strict=True)
        ]
        source = table(tmp_path / "t.csv", rows)
        counts = ingest.run(str(source), str(tmp_path / "d"))
        told.append((counts["taken"], counts["quarantined"], counts["duplicates"]))
    assert told == [(1, 2, 0), (2, 0, 1), (2, 0, 1)]


def test_a_stated_split_holds_for_the_group(tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        clip(tmp_path / f"{number}.mp4", number)
        rows.append({"path": f"{number}.mp4", "group": "g", "split": "" if number else "test"})
    ingest.run(str(table(tmp_path / "t.csv", rows)), str(tmp_path / "d"))
    assert {row["split"] for row in records(tmp_path / "d")} == {"test"}


def test_damage_that_is_allowed_later_is_taken_later(tmp_path: Path) -> None:
    from test_ingest import damaged

    heap(tmp_path / "v", {"a": 2})
    damaged(tmp_path / "v" / "a" / "bad.mp4", 8)
    loose = Options(max_corrupt_frames=99)
    for options, taken in ((Options(), 2), (loose, 3), (Options(), 2)):
        assert ingest.run(str(tmp_path / "v"), str(tmp_path / "d"), options)["taken"] == taken
        assert as_fresh(tmp_path / "v", tmp_path / "d", tmp_path, options)


def test_words_that_are_no_unicode_are_a_row_in_the_ledger(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 1)
    clip(tmp_path / "b.mp4", 2)
    rows = ['{"path": "a.mp4", "label": "\\ud83d"}', '{"path": "b.mp4", "label": "x"}']
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    assert ingest.run(str(tmp_path / "t.jsonl"), str(tmp_path / "d"))["quarantined"] == 1
    assert "no Unicode" in ledger(tmp_path / "d")["a.mp4"][1]


def test_counts_and_ledger_know_what_was_forgotten(data: Path) -> None:
    api.forget(str(data), [records(data)[0]["key"]])
    counts = catalog.load(str(data)).meta["counts"]
    assert (counts["taken"], counts["quarantined"], counts["records"]) == (11, 1, 11)
    assert [stage for stage, _ in ledger(data).values()] == ["forgotten"]
    assert {p.name for p in data.glob("*.tar")} == {row["shard"] for row in records(data)}


def test_what_was_not_taken_does_not_make_work_again(source: Path, tmp_path: Path) -> None:
    (source / "a" / "bad.mp4").write_text("no video")
    shutil.copy(source / "a" / "00.mp4", source / "a" / "same.mp4")
    for nothing in (False, True, True):
        told = ingest.run(str(source), str(tmp_path / "d"))
        assert told["nothing_to_do"] is nothing and (told["quarantined"], told["duplicates"]) == (
            1,
            1,
        )

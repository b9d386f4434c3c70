"""Catalog: filters, digests of sets, rows from a file piece by piece, older versions, refusals."""

import hashlib
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill import catalog, storage
from clipmill.catalog import digests, files, stored
from clipmill.catalog.rows import RowMaker
from clipmill.errors import ClipmillError, DataError, UsageError
from tiny import catalog_of, rows

RICH: list[dict[str, Any]] = [
    {"label": "cat", "labels": ["cat", "dog"], "attributes": {"weather": "rain"}, "motion": 0.5},
    {"label": None, "labels": ["dog"], "attributes": {"time of day": "night"}, "motion": None},
    {"label": "o'clock", "labels": [], "attributes": {}, "motion": 0.1, "has_audio": True},
    {"label": "dog", "labels": None, "attributes": None, "motion": 0.9, "has_audio": False},
]


def rich() -> list[dict[str, Any]]:
    return [{**plain, **extra} for plain, extra in zip(rows(4), RICH, strict=True)]


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalog.Catalog:
    """A catalog in a file of many small groups, read some groups at a time."""
    monkeypatch.setattr(files, "GROUP_ROWS", 7)
    monkeypatch.setattr(stored, "PIECE_GROUPS", 2)
    some = [*rows(60, shards=9, classes=5), *rows(41, shards=3, split="val")]
    some = [{**row, "key": f"{at:024x}", "motion": at / 101} for at, row in enumerate(some)]
    some[17]["label"] = None
    table = catalog_of(some).table
    catalog.save_pieces(
        str(tmp_path), [table[:50], table[50:]], {"classes": ["class 0", "class 3"]}
    )
    return catalog.load(str(tmp_path))


# --- digests


def test_the_digest_is_that_of_the_set() -> None:
    some = rows(20)
    shuffled = random.Random(0).sample(some, len(some))
    moved = [{**row, "shard": "other.tar"} for row in shuffled]
    assert catalog_of(some).digest == catalog_of(moved).digest


@pytest.mark.parametrize(
    "change",
    [
        {"label": "class 9"}, {"split": "val"}, {"frames": 97}, {"sha256": "0"}, {"motion": 0.1},
        {"labels": ["a"]}, {"start_seconds": 1.0}, {"attributes": {"a": "b"}}, {"phash": [1]},
        {"spans": [{"label": "a", "first_frame": 0, "last_frame": 3}]}, {"identity": "bob"},
        {"motion_curve": [0.5]},
    ],
)  # fmt: skip
def test_the_digest_sees_every_change(change: dict[str, object]) -> None:
    some = rows(5)
    assert catalog_of(some).digest != catalog_of([{**some[0], **change}, *some[1:]]).digest


def test_a_record_that_is_not_what_its_digest_says_is_named() -> None:
    table = catalog_of(rows(4)).table
    assert catalog.stale_digests(table) == []
    place = table.schema.get_field_index("frames")
    changed = table.set_column(place, "frames", [[96, 95, 96, 96]])
    assert catalog.stale_digests(changed) == [rows(4)[1]["key"]]
    assert catalog.digest_of(changed) == catalog.digest_of(table), "told digests are believed"


def test_the_order_of_attributes_and_an_empty_list_change_no_digest() -> None:
    one = {**rows(1)[0], "attributes": [("a", "1"), ("b", "2")], "labels": []}
    two = {**rows(1)[0], "attributes": [("b", "2"), ("a", "1")], "labels": None}
    assert catalog_of([one]).digest == catalog_of([two]).digest


def test_rows_without_a_digest_are_given_one_when_it_is_needed() -> None:
    made = catalog_of(rows(4))
    place = made.table.schema.get_field_index("record_digest")
    bare = made.table.set_column(place, "record_digest", [[None, *["0" * 32] * 3]])
    told = catalog.Catalog("memory", bare, {"classes": []})
    filled = catalog.with_digests(bare)["record_digest"].to_pylist()
    assert filled == [made.row(0)["record_digest"], *["0" * 32] * 3]
    assert told.digest == catalog.digest_of(bare) != made.digest
    assert told.table["record_digest"].null_count == 1


def test_nothing_and_zero_are_two_things() -> None:
    still, unmeasured = {**rows(1)[0], "motion": 0.0}, {**rows(1)[0], "motion": None}
    assert catalog_of([still]).digest != catalog_of([unmeasured]).digest


@pytest.mark.parametrize("told", ["short", "g" * 32, "A" * 32])
def test_what_is_no_digest_is_refused(told: str) -> None:
    with pytest.raises(DataError, match="record_digest holds what is none"):
        catalog_of([{**rows(1)[0], "record_digest": told}])


@given(st.lists(st.sampled_from(["0" * 32, "0" * 31 + "1", "f" * 32, "0" * 16 + "f" * 16])))
def test_a_digest_of_digests_is_that_of_their_sorted_bytes(told: list[str]) -> None:
    made = digests.digest_of_digests([pa.array(told, pa.string())])
    assert made == hashlib.sha256(b"".join(map(bytes.fromhex, sorted(told)))).hexdigest()


# --- filters


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("label == 'class 0'", 5),
        ("label in ['class 0', 'class 1'] and frames > 10", 10),
        ("not label == 'class 0' or fps < 1", 5),
        ("duration_seconds >= 3.2", 10),
        ("label not in ('class 1',)", 5),
        ("duration > 3 and duration < 4", 10),
        ("3 < duration < 3.1", 0),
        ("frames > width", 10),
        ("-1 < frames", 10),
    ],
)
def test_filters(where: str, count: int) -> None:
    assert len(catalog_of(rows(10)).part(where=where)) == count


@pytest.mark.parametrize(
    ("where", "places"),
    [
        ("label == None", [1]),
        ("label is not None", [0, 2, 3]),
        ("motion != None and motion > 0.2", [0, 3]),
        ("motion > 0.2", [0, 3]),
        ("not motion > 0.2", [2]),
        ("label not in ['cat']", [2, 3]),
        ("'cat' in labels", [0]),
        ("'dog' in labels", [0, 1]),
        ("'dog' not in labels", [2, 3]),
        ("labels == None", [2, 3]),  # an empty list is none
        ("labels != None", [0, 1]),
        ("attributes.weather == 'rain'", [0]),
        ("attributes['time of day'] in ('night', 'dusk')", [1]),
        ("attributes.weather == None", [1, 2, 3]),
        ("has_audio", [2]),
        ("not has_audio", [3]),
        ('label == "o\'clock"', [2]),
    ],
)
def test_filters_over_lists_maps_and_what_is_not_there(where: str, places: list[int]) -> None:
    keys = [row["key"] for row in rows(4)]
    assert catalog_of(rich()).part(where=where).keys == [keys[place] for place in places]


@pytest.mark.parametrize(
    "where",
    [
        "colour == 1", "__import__('os').system('x') == 1", "label ==", "frames + 1 > 3", "label",
        "1 == 1", "labels == ['a']", "label == ['a']", "label in 'abc'", "'a' in label", "(" * 500,
        "members == 1", "label.upper() == 'A'", "source.weather == 'a'", "attributes[0] == 'a'",
        "frames == 'many'", "label > 3", "label in [3]", "3 in labels", "[1] in labels", "key < None",
        "'a' in spans", "split == val", "frames == 1, 2", "lambda: 1", "frames == (frames := 3)",
        "frames in [None, 'a']", "frames == {1: 2}", "label in [['a']]", "frames == 1e400j", " ",
        "frames > 10**30", "not frames",
    ],
)  # fmt: skip
def test_filters_that_are_none_are_refused(where: str) -> None:
    with pytest.raises(UsageError, match=r"is not understood .* columns are .*key, shard"):
        catalog_of(rows(3)).part(where=where)


def test_a_filter_with_a_slip_is_told_the_column_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"no column lable.* columns are label, .*key, shard"):
        catalog_of(rows(3)).part(where="lable == 'a'")
    with pytest.raises(UsageError, match=r"no column duratoin.* columns are duration_seconds, "):
        catalog_of(rows(3)).part(where="duratoin > 1")


def test_a_filter_by_what_was_never_measured_is_refused() -> None:
    with pytest.raises(UsageError, match=r"motion, which was never measured.*--curate"):
        catalog_of(rows(3)).part(where="motion > 0.1 or frames > 3")
    assert len(catalog_of(rows(3)).part(where="motion == None")) == 3
    assert len(catalog_of(rich()).part(where="label == 'nobody'").part(where="motion > 0.1")) == 0


# --- reading piece by piece


def test_rows_and_columns_of_parts_are_those_of_the_whole(many: catalog.Catalog) -> None:
    plain = many.table.to_pylist()
    for part, wanted in [
        (many, plain),
        (many.part(split="val"), [r for r in plain if r["split"] == "val"]),
        (many.part(where="label == 'class 3'"), [r for r in plain if r["label"] == "class 3"]),
        (
            many.part(split="train", where="motion > 0.2").part(where="motion < 0.5"),
            [r for r in plain if r["split"] == "train" and 0.2 < r["motion"] < 0.5],
        ),
        (many.part(split="nowhere"), []),
    ]:
        check_equal(part, wanted)


def check_equal(part: catalog.Catalog, wanted: list[dict[str, Any]]) -> None:
    assert len(part) == len(wanted)
    assert part.table.to_pylist() == wanted
    for name in ("frames", "motion", "label", "shard", "source", "has_audio"):
        assert part.column(name).tolist() == [row[name] for row in wanted]
    assert part.keys == [row["key"] for row in wanted]
    targets = [{"class 0": 0, "class 3": 1}.get(row["label"], -1) for row in wanted]
    assert part.labels.tolist() == targets
    made = part.rows(range(len(wanted))[::-1])
    rows_told = zip(wanted, targets, strict=True)
    told = [{"folder": part.folder, **row, "target": target} for row, target in rows_told]
    assert [{**row, **each} for row, each in zip(made, told[::-1], strict=True)] == made
    numbers = {"targets", "class_count"}
    assert all(row.keys() - each.keys() == numbers for row, each in zip(made, told, strict=True))
    assert part.digest == catalog.digest_of(part.table)
    counts = part.counts_by("split", "label")
    assert sum(counts.values()) == len(wanted)
    for pair, count in counts.items():
        assert count == sum((r["split"], r["label"]) == pair for r in wanted)


def test_names_are_numbered_as_numpy_would(many: catalog.Catalog) -> None:
    for part in (many, many.part(split="val")):
        names, numbers = part.numbered("shard")
        wanted = np.unique(np.array(part.table["shard"].to_pylist()), return_inverse=True)
        assert names == wanted[0].tolist()
        assert numbers.tolist() == wanted[1].tolist()


def test_which_records_have_a_value_is_told_without_the_values() -> None:
    made = rows(6)
    for place in (1, 4):
        made[place]["masks_sha256"] = f"{place:064x}"
    whole = catalog_of(made)
    picked = whole.picked(np.array([0, 1, 1, 4]))
    assert whole.has("masks_sha256").tolist() == [False, True, False, False, True, False]
    assert picked.has("masks_sha256").tolist() == [False, True, True, True]
    assert whole.part(split="nosuch").has("masks_sha256").tolist() == []
    assert "masks_sha256" not in whole._columns


def test_a_row_is_read_without_the_others(
    many: catalog.Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    read = pq.ParquetFile.read_row_groups

    def watched(self: Any, groups: list[int], **options: Any) -> Any:
        asked.append(groups)
        return read(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    assert [many.row(place)["key"] for place in (100, 99, 0)] == [f"{p:024x}" for p in (100, 99, 0)]
    assert len(asked) == 2 and all(len(groups) == 1 for groups in asked)
    with pytest.raises(IndexError):
        many.row(101)


def test_rows_of_every_kind_are_those_of_arrow() -> None:
    some = rich()
    box = {"frame": 1, "x": 0.5, "y": 0.0, "width": 0.25, "height": 1.0, "label": None}
    some[0] |= {
        "spans": [{"label": "a", "first_frame": 0, "last_frame": 3}, {"label": "ü"}],
        "boxes": [{**box, "identity": "bob"}, box],
        "members": [{"suffix": "mp4", "offset": 512, "length": 7}],
        "shots": [0.5, 1.5], "phash": [2**64 - 1], "source": "ein Gänseblümchen", "height": None,
        "motion_curve": [0.25, 0.0],
    }  # fmt: skip
    some[3] |= {"members": [{"suffix": "idx", "offset": 1, "length": 2}, {"suffix": "mp4"}]}
    whole = catalog_of(some).table
    split = pa.concat_tables([whole[:1], whole[1:]])
    numbered = whole.set_column(10, "split", whole["split"].dictionary_encode())
    for table in (whole, whole[1:], whole[:3][1:], split, numbered):
        made = RowMaker(table)
        assert [made.row(place) for place in range(len(table))] == table.to_pylist()


def test_a_catalog_in_memory_travels_after_rows_were_read() -> None:
    made = catalog_of(rich())
    lean = made.rows([1, 1], lean=True)
    assert pickle.loads(pickle.dumps(made)).rows([1, 1], lean=True) == lean
    assert {*made.row(1)} - {*lean[0]} == {*catalog.schema.NOT_FOR_SAMPLES}


def test_kept_groups_are_few(many: catalog.Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT_BYTES", 1)
    assert [row["key"] for row in many.rows(range(101))] == list(many.keys)
    assert len(many.stored._kept) == 1  # type: ignore[attr-defined]


def test_a_catalog_travels_as_its_path(many: catalog.Catalog) -> None:
    many.row(3)
    part = many.part(split="val")
    sent = pickle.dumps(part)
    assert len(sent) < 2000
    assert pickle.loads(sent).table.equals(part.table)


def test_a_dataset_without_records_has_columns(tmp_path: Path) -> None:
    catalog.save(str(tmp_path), catalog.SCHEMA.empty_table(), {"classes": []})
    empty = catalog.load(str(tmp_path))
    assert (len(empty), list(empty.keys), empty.labels.tolist()) == (0, [], [])
    assert empty.column("frames").dtype == np.int64
    assert len(empty.part(where="motion > 1")) == 0
    assert empty.digest == empty.meta["digest"] == catalog.digest_of(empty.table)


def test_the_video_of_a_record_has_the_suffix_that_its_row_tells(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"firstsecond")
    members = [
        {"suffix": "mp4", "offset": 0, "length": 5},
        {"suffix": "mkv", "offset": 5, "length": 6},
    ]
    row = {**rows(1)[0], "shard": "a.tar", "members": members}
    data = catalog.Catalog(str(tmp_path), catalog_of([row]).table, {"classes": []})
    assert data.read(row) == b"first"
    assert data.read({**row, "suffix": "mkv"}) == b"second"
    assert data.read_part({**row, "suffix": "mkv"}, None, 1, 3) == b"eco"
    assert data.read({**row, "suffix": "mkv"}, "mp4") == b"first"
    with pytest.raises(DataError, match=r"has no member \.webm"):
        data.read({**row, "suffix": "webm"})


# --- files


def test_saved_equals_loaded(tmp_path: Path) -> None:
    made = catalog_of(rows(7))
    catalog.save(str(tmp_path), made.table, dict(made.meta))
    loaded = catalog.load(str(tmp_path))
    assert loaded.table.equals(made.table)
    assert (loaded.classes, loaded.digest) == (made.classes, made.digest)
    assert loaded.row(3)["target"] == 1


def test_an_update_that_was_broken_off_opens_as_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = catalog_of(rows(4)), catalog_of(rows(6))
    catalog.save(str(tmp_path), old.table, {"classes": ["class 0", "class 1"], "counts": "old"})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put_json", stop)
        with pytest.raises(KeyboardInterrupt):
            catalog.save(str(tmp_path), new.table, {"classes": ["class 0"], "counts": "new"})
    assert storage.read_json(str(tmp_path / "dataset.json"))["counts"] == "old"
    opened = catalog.load(str(tmp_path))
    assert (len(opened), opened.classes, opened.meta["counts"]) == (6, ("class 0",), "new")
    assert opened.digest == opened.meta["digest"]


def test_what_was_begun_and_never_finished_is_no_dataset(tmp_path: Path) -> None:
    catalog.save(str(tmp_path), catalog_of(rows(4)).table, {"classes": []})
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"has no dataset\.json"):
        catalog.load(str(tmp_path))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="clipmill ingest SOURCE"):
        catalog.load(str(tmp_path))


def without_meta(folder: Path, table: pa.Table) -> None:
    """Put rows there as other tools write them."""
    pq.write_table(table, folder / "catalog.parquet")


def test_another_schema_and_a_cut_catalog_are_refused(tmp_path: Path) -> None:
    made = catalog_of(rows(4))
    catalog.save(str(tmp_path), made.table, dict(made.meta))
    meta = storage.read_json(str(tmp_path / "dataset.json"))
    without_meta(tmp_path, made.table)
    assert catalog.load(str(tmp_path)).digest == made.digest
    storage.put_json(str(tmp_path / "dataset.json"), {**meta, "schema_version": 99})
    with pytest.raises(DataError, match="schema version 99; wanted version 3, or 1 or 2"):
        catalog.load(str(tmp_path))
    storage.put_json(str(tmp_path / "dataset.json"), {**meta, "records": 5})
    with pytest.raises(DataError, match="4 rows; wanted the 5"):
        catalog.load(str(tmp_path))
    without_meta(tmp_path, made.table.drop_columns(["boxes"]))
    with pytest.raises(DataError, match="has no column boxes"):
        catalog.load(str(tmp_path))
    (tmp_path / "catalog.parquet").write_text("nothing")
    with pytest.raises(ClipmillError, match=r"catalog\.parquet cannot be read"):
        catalog.load(str(tmp_path))


OLD_COLUMNS = (
    "key shard members sha256 source source_sha256 split label attributes duration_seconds frames "
    "frames_from fps variable_rate width height rotation has_audio licence"
).split()
OLD_DIGEST = "0de596328cfc1bc828aea33fb6d2bf2f57eadb3064f0915a00b2d3e4546e845a"  # it wrote this


def test_a_dataset_of_version_1_opens_as_one_of_this_version(tmp_path: Path) -> None:
    derived = {"start_seconds": 0.0, "end_seconds": 3.2, "suffix": "mp4"}
    now = catalog_of([{**row, **derived} for row in rows(5)])
    without_meta(tmp_path, now.table.select(OLD_COLUMNS))
    classes = ["class 0", "class 1"]
    meta = {"schema_version": 1, "classes": classes, "records": 5, "digest": OLD_DIGEST}
    (tmp_path / "dataset.json").write_text(json.dumps(meta))
    opened = catalog.load(str(tmp_path))
    assert opened.table.equals(now.table)
    assert opened.meta["digest"] == opened.digest == now.digest
    assert opened.part(where="duration > 3").row(0)["suffix"] == "mp4"
    (tmp_path / "dataset.json").write_text(json.dumps({**meta, "digest": "0" * 64}))
    assert catalog.load(str(tmp_path)).meta["digest"] == "0" * 64, "verify must see that"


VERSION_2_DIGEST = (
    "13d533ae153913f6998380d12b2378b3e0b156d23c650a1d540720239adc3fc2"  # it wrote this
)


def test_a_dataset_of_version_2_opens_as_it_lies(tmp_path: Path) -> None:
    now = catalog_of(rich())
    without_meta(tmp_path, now.table.drop_columns(["motion_curve"]))
    meta = {"schema_version": 2, "classes": [], "records": 4, "digest": VERSION_2_DIGEST}
    (tmp_path / "dataset.json").write_text(json.dumps(meta))
    opened = catalog.load(str(tmp_path))
    assert opened.digest == now.digest == VERSION_2_DIGEST, "digests of older records stay"
    assert opened.table.equals(now.table) and opened.meta["schema_version"] == 3
    assert opened.row(2)["motion_curve"] is None and opened.column("frames").tolist() == [96] * 4
    edges, scores = opened.lists("motion_curve")
    assert edges.tolist() == [0] * 5 and not len(scores)


def test_lists_of_numbers_are_read_as_whole_columns(tmp_path: Path) -> None:
    curves = [[0.5, 0.25], None, [], [1.0], [0.75, 0.0, 0.125]]
    made = catalog_of([{**r, "motion_curve": c} for r, c in zip(rows(5), curves, strict=True)])
    catalog.save(str(tmp_path), made.table, dict(made.meta))
    for each in (made, catalog.load(str(tmp_path))):
        edges, scores = each.lists("motion_curve")
        assert edges.tolist() == [0, 2, 2, 2, 3, 6] and scores.dtype == np.float32
        assert scores.tolist() == [0.5, 0.25, 1.0, 0.75, 0.0, 0.125]
        picked = each.part(where="frames > 3").picked(np.array([1, 3, 4, 4]))
        edges, scores = picked.lists("motion_curve")
        assert edges.tolist() == [0, 0, 1, 4, 7] and scores[-3:].tolist() == [0.75, 0.0, 0.125]


def test_a_ledger_of_fewer_columns_and_none_are_read(tmp_path: Path) -> None:
    assert len(catalog.quarantine(str(tmp_path))) == 0
    old = pa.table({"source": ["a"], "source_sha256": [None], "stage": ["probe"], "reason": ["b"]})
    pq.write_table(old, tmp_path / "quarantine.parquet")
    (row,) = catalog.quarantine(str(tmp_path)).to_pylist()
    assert (row["source"], row["reason"], row["end_seconds"]) == ("a", "b", None)


def test_an_unlabelled_record_has_no_target() -> None:
    made = catalog_of([{**rows(1)[0], "label": None}, rows(2)[1]])
    assert made.labels.tolist() == [-1, 0]
    assert made.row(0)["target"] == -1

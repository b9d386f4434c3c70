"""Several datasets as one catalog: everything a catalog gives is that of its parts in turn."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill import catalog
from clipmill.catalog import Catalog, files, stored
from clipmill.errors import UsageError
from tiny import catalog_of, rows


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Catalog]:
    """Two datasets in files of small groups, with shards of the same names, and one in memory."""
    monkeypatch.setattr(files, "GROUP_ROWS", 7)
    monkeypatch.setattr(stored, "PIECE_GROUPS", 2)
    made = []
    for number, (count, classes) in enumerate(((30, 2), (25, 4))):
        some = [
            {
                **row,
                "key": f"{number}{row['key'][1:]}",
                "motion": at / count,
                "identity": f"p{at % 3}",
            }
            for at, row in enumerate(rows(count, shards=3, classes=classes))
        ]
        some[5]["label"] = None
        table = catalog_of(some).table
        names = [f"class {n}" for n in range(classes)]
        catalog.save(
            str(tmp_path / str(number)), table, {"classes": names, "profile": {"k": number}}
        )
        made.append(catalog.load(str(tmp_path / str(number))))
    return [made[0], made[1].part(where="motion < 0.9"), catalog_of(rows(4, split="val"))]


def test_columns_and_rows_are_those_of_the_parts_in_turn(parts: list[Catalog]) -> None:
    whole = catalog.joined(parts)
    assert len(whole) == sum(map(len, parts)) == 57
    assert whole.table.to_pylist() == [row for part in parts for row in part.table.to_pylist()]
    for name in ("frames", "label", "shard", "key", "motion"):
        wanted = [value for part in parts for value in part.column(name).tolist()]
        assert str(whole.column(name).tolist()) == str(wanted)
    assert whole.keys == [key for part in parts for key in part.keys]
    assert whole.keys.picked(np.array([56, 0, 31])) == [whole.keys[place] for place in (56, 0, 31)]
    assert whole.classes == tuple(f"class {n}" for n in range(4))
    told = [row["label"] for row in whole.rows(range(57))]
    assert whole.labels.tolist() == [-1 if t is None else int(t[-1]) for t in told]
    assert whole.datasets.tolist() == [0] * 30 + [1] * 23 + [2] * 4
    folders = [row["folder"] for row in whole.rows([56, 3, 40])]
    assert folders == ["nowhere", parts[0].folder, parts[1].folder]
    assert whole.digest == catalog.digest_of(whole.table)
    assert whole.meta["profile"] == {"k": 0} and len(whole.metas) == 3


def test_parts_of_a_joined_catalog(parts: list[Catalog]) -> None:
    whole = catalog.joined(parts)
    part = whole.part(split="train", where="label == 'class 1'")
    plain = [row for row in whole.table.to_pylist() if row["label"] == "class 1"]
    wanted = [row for row in plain if row["split"] == "train"]
    assert part.table.to_pylist() == wanted
    assert [row["key"] for row in part.rows(range(len(part)))] == [row["key"] for row in wanted]
    assert (part.datasets == 1).sum() == sum(row["key"][0] == "1" for row in wanted)
    assert whole.part(split="val").counts("split") == {"val": 4}
    names, numbers = whole.numbered("identity")
    assert names == ["p0", "p1", "p2"] and (numbers[-4:] == -1).all()


def test_a_joined_catalog_travels_and_one_alone_is_itself(parts: list[Catalog]) -> None:
    sent = pickle.loads(pickle.dumps(catalog.joined(parts[:2])))
    assert sent.table.equals(catalog.joined(parts[:2]).table)
    assert catalog.joined(parts[:1]) is parts[0]
    with pytest.raises(UsageError, match="no datasets"):
        catalog.joined([])


def test_nothing_is_read_before_it_is_asked_for(
    parts: list[Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read too early")

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", refuse)
    assert len(catalog.joined(parts[:2])) == 53


@given(st.lists(st.integers(0, 9), max_size=30))
def test_picked_rows_are_those_rows_as_often(chosen: list[int]) -> None:
    some = [{**row, "motion": at / 10} for at, row in enumerate(rows(12, classes=3))]
    whole = catalog_of(some).part(where="motion > 0.1")  # its places are not those of the file
    picks = np.sort(np.array(chosen, np.int64))
    picked = whole.picked(picks)
    assert picked.records.tolist() == picks.tolist() and len(picked) == len(picks)
    for name in ("frames", "motion", "label"):
        assert picked.column(name).tolist() == whole.column(name)[picks].tolist()
    assert picked.labels.tolist() == whole.labels[picks].tolist()
    assert list(picked.keys) == [whole.keys[place] for place in picks]
    assert picked.rows(range(len(picks))) == whole.rows(picks.tolist())
    assert picked.values("motion").tolist() == whole.values("motion")[picks].tolist()


def test_values_are_numbers_of_columns_and_attributes() -> None:
    some = rows(4)
    some[0] |= {"motion": 0.5, "attributes": {"level": "3", "mood": "calm"}}
    some[2] |= {"motion": 0.25, "attributes": {"level": "-1.5"}}
    made = catalog_of(some)
    assert str(made.values("motion").tolist()) == "[0.5, nan, 0.25, nan]"
    assert str(made.values("attributes.level").tolist()) == "[3.0, nan, -1.5, nan]"
    assert made.values("duration").tolist() == [3.2] * 4
    with pytest.raises(UsageError, match=r"attributes\.mood holds .*calm.*wanted numbers"):
        made.values("attributes.mood")
    with pytest.raises(UsageError, match=r"'moton' is no column of numbers.*did you mean motion"):
        made.values("moton")

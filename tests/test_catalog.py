"""Catalog: filters, digests of sets, refusals."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from clipmill import catalog, storage
from clipmill.errors import DataError, UsageError
from tiny import catalog_of, rows


def test_the_digest_is_that_of_the_set() -> None:
    some = rows(20)
    shuffled = random.Random(0).sample(some, len(some))
    moved = [{**row, "shard": "other.tar"} for row in shuffled]
    assert catalog_of(some).digest == catalog_of(moved).digest


@pytest.mark.parametrize(
    "change", [{"label": "class 9"}, {"split": "val"}, {"frames": 97}, {"sha256": "0"}]
)
def test_the_digest_sees_every_change(change: dict[str, object]) -> None:
    some = rows(5)
    assert catalog_of(some).digest != catalog_of([{**some[0], **change}, *some[1:]]).digest


def test_saved_equals_loaded(tmp_path: Path) -> None:
    made = catalog_of(rows(7))
    catalog.save(str(tmp_path), made.table, dict(made.meta))
    loaded = catalog.load(str(tmp_path))
    assert loaded.table.equals(made.table)
    assert (loaded.classes, loaded.digest) == (made.classes, made.digest)
    assert loaded.row(3)["target"] == 1


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("label == 'class 0'", 5),
        ("label in ['class 0', 'class 1'] and frames > 10", 10),
        ("not label == 'class 0' or fps < 1", 5),
        ("duration_seconds >= 3.2", 10),
        ("label not in ('class 1',)", 5),
    ],
)
def test_filters(where: str, count: int) -> None:
    assert len(catalog_of(rows(10)).part(where=where)) == count


@pytest.mark.parametrize(
    "where",
    ["colour == 1", "__import__('os').system('x') == 1", "label ==", "frames + 1 > 3", "label"],
)
def test_filters_that_are_none_are_refused(where: str) -> None:
    with pytest.raises(UsageError, match="columns are key, shard"):
        catalog_of(rows(3)).part(where=where)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="clipmill ingest SOURCE"):
        catalog.load(str(tmp_path))


def test_another_schema_and_a_cut_catalog_are_refused(tmp_path: Path) -> None:
    made = catalog_of(rows(4))
    catalog.save(str(tmp_path), made.table, dict(made.meta))
    meta = storage.read_json(str(tmp_path / "dataset.json"))
    storage.put_json(str(tmp_path / "dataset.json"), {**meta, "schema_version": 99})
    with pytest.raises(DataError, match="schema version 99; wanted version 1"):
        catalog.load(str(tmp_path))
    storage.put_json(str(tmp_path / "dataset.json"), {**meta, "records": 5})
    with pytest.raises(DataError, match="4 rows; wanted the 5"):
        catalog.load(str(tmp_path))


def test_an_unlabelled_record_has_no_target() -> None:
    made = catalog_of([{**rows(1)[0], "label": None}, rows(2)[1]])
    assert made.labels.tolist() == [-1, 0]
    assert isinstance(made.table, pa.Table)

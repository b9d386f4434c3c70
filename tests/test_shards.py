"""Shards: written equals read, any reader reads them, cut ones are named."""

import gc
import io
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import shards, storage
from clipmill.errors import DataError
from clipmill.shards import Record

members = st.dictionaries(
    st.sampled_from(["mp4", "json", "idx"]), st.binary(max_size=2000), min_size=1
)
tars = st.lists(members, max_size=5).map(
    lambda parts: [Record(f"key{i}", part) for i, part in enumerate(parts)]
)


@given(records=tars)
@settings(max_examples=50, deadline=None)
def test_written_equals_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    path = str(tmp_path_factory.mktemp("shard") / "x.tar")
    placed = shards.write(path, records)
    assert list(shards.read(path)) == records
    for record, where in zip(records, placed, strict=True):
        for member in where.members:
            data = storage.read_range(path, int(member["offset"]), int(member["length"]))
            assert data == record.members[str(member["suffix"])]


def _two(tmp_path: Path) -> tuple[str, list[Record]]:
    records = [Record("a", {"mp4": b"1" * 700, "json": b"{}"}), Record("b", {"mp4": b"2"})]
    path = str(tmp_path / "x.tar")
    shards.write(path, records)
    return path, records


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    path, records = _two(tmp_path)
    again = str(tmp_path / "y.tar")
    shards.write(again, records)
    assert storage.read(path) == storage.read(again)


# The library leaves its last file for the garbage collector, which warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_the_same(tmp_path: Path) -> None:
    path, records = _two(tmp_path)
    samples = list(webdataset.WebDataset([path], shardshuffle=False))
    gc.collect()
    assert [s["__key__"] for s in samples] == ["a", "b"]
    assert [s["mp4"] for s in samples] == [record.members["mp4"] for record in records]


def test_a_tar_cut_anywhere_is_named(tmp_path: Path) -> None:
    path, _ = _two(tmp_path)
    whole = storage.read(path)
    last = len(whole.rstrip(b"\0"))
    for length in (0, 100, 512, 1024, 2048, 2560, last):
        cut = str(tmp_path / "cut.tar")
        storage.put(cut, whole[:length])
        with pytest.raises(DataError, match=r"cut\.tar"):
            list(shards.read(cut))


def test_scattered_members_are_named(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.json", "b.mp4", "a.mp4"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="members of a are not adjacent"):
        list(shards.read(str(path)))


@pytest.mark.parametrize("key", ["a.b", "a/b"])
def test_keys_that_readers_would_split_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="without dots"):
        shards.write(str(tmp_path / "x.tar"), [Record(key, {"mp4": b""})])
    assert not (tmp_path / "x.tar").exists()

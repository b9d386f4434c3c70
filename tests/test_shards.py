"""Shards: written equals read, any reader reads them, cut ones are named."""

import gc
import hashlib
import io
import resource
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import shards, storage
from clipmill.errors import DataError, StorageError
from clipmill.shards import FilePart, Placed, Record

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


# --- members that are copied from files


def of_file(path: Path, offset: int = 0) -> FilePart:
    data = path.read_bytes()[offset:]
    return FilePart(str(path), offset, len(data), hashlib.sha256(data).hexdigest())


@given(before=st.binary(max_size=600), size=st.integers(0, 3 * shards.COPY_BYTES))
@settings(max_examples=20, deadline=None)
def test_a_copied_file_gives_the_bytes_of_a_member(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, size: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    data = bytes(range(256)) * (size // 256)
    (folder / "v").write_bytes(before + data)
    small = {"json": b"{}", "zip": b"after it"}
    part = of_file(folder / "v", len(before))
    placed = shards.write(str(folder / "x.tar"), [Record("k", small, {"mp4": part})])
    assert placed == shards.write(str(folder / "y.tar"), [Record("k", {**small, "mp4": data})])
    assert (folder / "x.tar").read_bytes() == (folder / "y.tar").read_bytes()


@pytest.mark.parametrize("end", ["other bytes", "shorter", "gone"])
def test_a_file_that_is_another_by_now_is_left_out_of_the_shard(tmp_path: Path, end: str) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"x" * (shards.COPY_BYTES + 700))
    part = of_file(video)
    if end == "gone":
        video.unlink()
    else:
        video.write_bytes(b"y" * (part.length if end == "other bytes" else part.length - 1))
    others = [Record("a", {"mp4": b"1" * 700}), Record("c", {"mp4": b"3"})]
    lost = Record("b", {"json": b"{}", "txt": b"after it"}, {"mp4": part})
    placed = shards.write(str(tmp_path / "x.tar"), [others[0], lost, others[1]])
    reason = "the file cannot be read: No such file" if end == "gone" else "the file changed"
    assert placed[1].fault.startswith(reason) and placed[1].members == []
    assert [placed[0], placed[2]] == shards.write(str(tmp_path / "y.tar"), others)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()
    # As the last of a shard it leaves no trace, either.
    alone = shards.write(str(tmp_path / "x.tar"), [*others, lost])
    assert alone[2] == Placed("b", [], placed[1].fault)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_a_copy_that_finds_no_room_is_no_fault_of_the_source(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(bytes(3 * shards.COPY_BYTES))
    part, limits = of_file(video), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (shards.COPY_BYTES, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"x\.tar cannot be written"):
            shards.write(str(tmp_path / "x.tar"), [Record("k", {}, {"mp4": part})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]

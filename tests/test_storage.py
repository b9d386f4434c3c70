"""Storage: whole or not at all, exact ranges, one holder."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import storage
from clipmill.errors import BusyError, StorageError


def test_what_is_put_is_read_in_ranges(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "file")
    storage.put(path, b"0123456789")
    assert storage.read(path) == b"0123456789"
    assert storage.read_range(path, 3, 4) == b"3456"


def test_a_range_past_the_end_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.put(path, b"0123")
    with pytest.raises(StorageError, match="gave 1 bytes at 3; wanted 5 bytes"):
        storage.read_range(path, 3, 5)


def test_an_interrupted_write_leaves_the_old_file_and_no_parts(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.put(path, b"old")
    with pytest.raises(KeyboardInterrupt), storage.writing(path) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert storage.read(path) == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with storage.writing(path) as file:
        file.write(b"x")
        assert not storage.exists(path)
    assert storage.exists(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing.here is not there"):
        storage.read(str(tmp_path / "nothing.here"))


def test_a_held_folder_is_refused_with_its_holder(tmp_path: Path) -> None:
    code = f"from clipmill import storage; storage.holding(r'{tmp_path}', 'x').__enter__()"
    with storage.holding(str(tmp_path), "clipmill ingest"):
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BusyError" in told.stderr
    assert f"clipmill ingest, process {os.getpid()}" in told.stderr
    with storage.holding(str(tmp_path), "again"):
        pass


def test_a_holder_that_dies_lets_go(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom clipmill import storage\n"
        f"with storage.holding(r'{tmp_path}', 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with storage.holding(str(tmp_path), "next"):
        pass


def test_two_holders_in_one_process_are_refused(tmp_path: Path) -> None:
    with storage.holding(str(tmp_path), "a"):  # noqa: SIM117
        with pytest.raises(BusyError), storage.holding(str(tmp_path), "b"):
            pass


def test_a_local_copy_of_a_part_goes_away_after(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"0123456789")
    with storage.local(str(path)) as whole, storage.local(str(path), 2, 3) as part:
        assert whole == str(path) and part != whole
        assert Path(part).read_bytes() == b"234" and part.endswith(".mp4")
    assert path.exists() and not os.path.exists(part)
    with storage.local(str(path), 7) as rest:
        assert Path(rest).read_bytes() == b"789"
    with pytest.raises(StorageError, match="gave 2 bytes at 8; wanted 5 bytes"):
        storage.local(str(path), 8, 5).__enter__()


@given(data=st.binary(max_size=300), offset=st.integers(0, 300), length=st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_ranges_are_exact_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int
) -> None:
    path = str(tmp_path_factory.mktemp("ranges") / "file")
    storage.put(path, data)
    out = io.BytesIO()
    if offset + length <= len(data) or not length:
        storage.copy_range(path, out, offset, length)
        assert out.getvalue() == storage.read_range(path, offset, length)
        assert out.getvalue() == data[offset : offset + length]
        return
    for ask in (storage.read_range, lambda *where: storage.copy_range(where[0], out, *where[1:])):
        with pytest.raises(StorageError, match=f"wanted {length} bytes"):
            ask(path, offset, length)


def test_a_stamp_tells_size_and_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123")
    os.utime(path, ns=(1, 1234567890123456789))
    assert storage.stamp(str(path)) == (4, 1234567890123456789)
    with pytest.raises(StorageError, match="is not there"):
        storage.stamp(str(tmp_path / "nothing"))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "v.mp4"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for ask in (storage.read, lambda each: storage.local(each).__enter__()):
        with pytest.raises(StorageError, match="is no plain file"):
            ask(str(path))


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    told = [storage.below(path, str(tmp_path)) for path in storage.list_files(str(tmp_path))]
    assert told == ["a/dangling", "a/file", "self"]


NAMES = ["with space", "100%", 'it\'s "quoted"', "two\nlines", "größe 日本", "\udcff", "a:b?c=d"]


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_local_paths(tmp_path: Path, name: str) -> None:
    path = storage.join(str(tmp_path), name, f"{name}.mp4")
    storage.put(path, b"x")
    assert storage.list_files(str(tmp_path)) == [path]
    assert storage.exists(path) and not storage.is_remote(path)
    assert storage.name_of(path) == f"{name}.mp4"
    assert storage.below(path, str(tmp_path)) == f"{name}/{name}.mp4"
    assert storage.join(storage.parent(path), storage.name_of(path)) == path
    assert storage.absolute(f"file://{path}") == path


def test_removing_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not there"):
        storage.remove(str(tmp_path / "nothing"))

"""Storage: whole or not at all, exact ranges, one holder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

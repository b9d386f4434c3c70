"""Storage in object stores and on web servers, against real servers on this machine."""

import contextlib
import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clipmill import storage
from clipmill.errors import BusyError, StorageError
from clipmill.storage import hold

pytest_plugins = ["servers"]

BODY = bytes(range(256)) * 40  # what the web server gives


def test_what_is_put_is_read_in_ranges(root: str) -> None:
    path = storage.join(root, "deep", "file")
    assert not storage.exists(path)
    storage.put(path, b"0123456789")
    assert storage.exists(path)
    assert storage.read(path) == b"0123456789"
    assert storage.read_range(path, 3, 4) == b"3456"
    with pytest.raises(StorageError, match="gave 1 bytes at 9; wanted 5 bytes"):
        storage.read_range(path, 9, 5)
    assert storage.stamp(path)[0] == 10 and storage.stamp(path)[1] > 0
    deep = storage.join(root, "deep")
    assert storage.is_folder(deep) and not storage.is_folder(path)
    assert not storage.is_folder(storage.join(root, "nothing"))
    for asked in (deep, path):
        told = storage.stamps(asked)  # a store may tell finer times in a listing
        assert [(each, size) for each, (size, _) in told.items()] == [(path, 10)]


NAMES = ["a b", "100%", "%20", 'it\'s "quoted"', "größe 日本 🎬", "why?", "a=b&c?d=e", "#1", "x+y"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_kind_are_listed_and_read(root: str, name: str) -> None:
    path = storage.join(root, "in", name, f"{name}.mp4")
    storage.put(path, name.encode())
    assert storage.list_files(storage.join(root, "in")) == [path]
    assert storage.list_files(root) == [path]
    assert storage.read(path) == name.encode()
    assert storage.name_of(path) == f"{name}.mp4"
    assert storage.parent(path) == storage.join(root, "in", name)
    assert storage.below(path, storage.join(root, "in")) == f"{name}/{name}.mp4"
    assert storage.join(storage.parent(path), storage.name_of(path)) == path


def test_files_are_listed_in_order_and_folders_are_none(root: str) -> None:
    for name in ("b/2", "a/1", "b.x", "b/1"):
        storage.put(storage.join(root, "top", name), b"")
    top = storage.join(root, "top")
    told = [storage.below(path, top) for path in storage.list_files(top)]
    assert sorted(told) == ["a/1", "b.x", "b/1", "b/2"]
    assert storage.list_files(top) == sorted(storage.list_files(top))
    assert storage.absolute(storage.join(root, "top", "")) == top


def test_an_interrupted_write_leaves_the_old_file(root: str) -> None:
    path = storage.join(root, "file")
    storage.put(path, b"old")
    with pytest.raises(KeyboardInterrupt), storage.writing(path) as file:
        file.write(b"half of the ne" * 2**20)
        raise KeyboardInterrupt
    assert storage.read(path) == b"old"
    fresh = storage.join(root, "fresh")
    with storage.writing(fresh) as file:
        file.write(b"x")
        assert not storage.exists(fresh)
    assert storage.exists(fresh)


def test_an_upload_that_fails_half_way_is_not_completed(refusing: str, asked: list[str]) -> None:
    with pytest.raises(StorageError, match="file.* cannot be written: .*UploadPart"):
        storage.put(refusing, bytes(23 << 20))
    gc.collect()  # a stream that is let go must not publish what it holds, either
    assert asked == ["uploads"]


def test_a_file_of_several_parts_is_written_whole(root: str) -> None:
    data, path = random.Random(0).randbytes(23 << 20), storage.join(root, "big")
    storage.put(path, data)
    assert storage.read(path) == data
    assert storage.read_range(path, 11 << 20, 5) == data[11 << 20 :][:5]


def test_a_local_copy_is_there_for_a_while(root: str) -> None:
    path = storage.join(root, "v.mp4")
    storage.put(path, b"0123456789")
    with storage.local(path) as whole, storage.local(path, 2, 3) as part:
        assert Path(whole).read_bytes() == b"0123456789" and whole.endswith(".mp4")
        assert Path(part).read_bytes() == b"234"
    assert not os.path.exists(whole) and not os.path.exists(part)
    with pytest.raises(StorageError, match="gave 2 bytes at 8; wanted 5"):
        storage.local(path, 8, 5).__enter__()


def test_files_and_folders_are_removed(root: str) -> None:
    for name in ("f/1", "f/g/2", "h"):
        storage.put(storage.join(root, name), b"x")
    storage.remove(storage.join(root, "h"))
    storage.remove_folder(storage.join(root, "f"))
    storage.remove_folder(storage.join(root, "never"))
    storage.remove_parts(root)
    assert storage.list_files(root) == []
    with pytest.raises(StorageError, match="is not there"):
        storage.remove(storage.join(root, "h"))


def test_what_is_not_there_is_told_in_one_line(root: str) -> None:
    for ask in (storage.read, storage.stamp, storage.list_files):
        with pytest.raises(StorageError, match="nothing.* is not there"):
            ask(storage.join(root, "nothing"))
    nowhere = root.replace("clips", "nowhere")
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET") as told:
        storage.put(storage.join(nowhere, "x"), b"x")
    assert "\n" not in str(told.value) and "Request ID" not in str(told.value)


def test_addresses_that_hold_secrets_are_refused(endpoint: str) -> None:
    for path in ("s3://me:word@clips/a", "s3://clips/a?access_key=me&secret_key=word"):
        with pytest.raises(StorageError, match="password or key") as told:
            storage.read(path)
        assert "word@" not in str(told.value) and "key=word" not in str(told.value)


@pytest.mark.parametrize("path", ["s3://", "s3:///a", "nonsense://b/a"])
def test_addresses_that_lead_nowhere_are_refused(endpoint: str, path: str) -> None:
    with pytest.raises(StorageError):
        storage.read(path)


def test_a_store_is_opened_once_in_a_process(root: str) -> None:
    stores = {id(storage.store_of(storage.join(root, name))[0]) for name in "abc"}
    assert len(stores) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_is_read_after_a_fork(root: str) -> None:
    path = storage.join(root, "file")
    storage.put(path, b"0123456789")
    before = id(storage.store_of(path)[0])
    child = os.fork()
    if child == 0:
        fine = storage.read_range(path, 1, 2) == b"12" and id(storage.store_of(path)[0]) != before
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert storage.read_range(path, 1, 2) == b"12"


# --- leases


def lease_of(root: str) -> dict[str, object]:
    return hold.standing(storage.join(root, "out", hold.HELD))


def test_a_held_folder_is_refused_with_its_holder_and_free_after(root: str) -> None:
    out = storage.join(root, "out")
    with storage.holding(out, "clipmill ingest"):
        assert lease_of(root)["pid"] == os.getpid()
        with pytest.raises(BusyError, match=f"clipmill ingest, process {os.getpid()} on "):
            storage.holding(out, "another").__enter__()
        assert lease_of(root)["holder"] == "clipmill ingest"
    assert storage.list_files(root) == []
    with storage.holding(out, "again"):
        pass


def test_a_lease_is_renewed_and_ends_with_its_holder(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "RENEW_SECONDS", 0.02)
    with storage.holding(storage.join(root, "out"), "x"):
        first = lease_of(root)["time"]
        deadline = time.monotonic() + 20
        while lease_of(root)["time"] == first:
            assert time.monotonic() < deadline
    assert not [thread for thread in threading.enumerate() if "lease" in thread.name]


def test_a_holder_that_died_blocks_for_a_minute_and_no_longer(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = storage.join(root, "out")
    code = (
        "import os, signal\nfrom clipmill import storage\n"
        f"with storage.holding({out!r}, 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with pytest.raises(BusyError, match=r"if it has died, wait \d+ s"):
        storage.holding(out, "next").__enter__()
    monkeypatch.setattr(hold, "LEASE_SECONDS", 0.0)
    with storage.holding(out, "next"):
        assert lease_of(root)["holder"] == "next"


def test_a_holder_who_lost_the_lease_is_told_at_its_end(root: str) -> None:
    out = storage.join(root, "out")
    other = {"holder": "thief", "pid": 1, "host": "h", "time": time.time(), "token": "other"}
    told = pytest.raises(BusyError, match="in use by thief, process 1 on h")
    with told, storage.holding(out, "x"):
        storage.put_json(storage.join(out, hold.HELD), other)
    assert lease_of(root) == other, "the lease of another was removed"


def test_an_error_of_the_work_comes_before_one_of_the_lease(root: str) -> None:
    out = storage.join(root, "out")
    with pytest.raises(ZeroDivisionError), storage.holding(out, "x"):
        storage.put_json(storage.join(out, hold.HELD), {"token": "other"})
        raise ZeroDivisionError


# --- web servers


def test_a_web_server_is_read(site: str, asked: list[str]) -> None:
    path = f"{site}/ranged.mp4?token=a"
    assert storage.exists(path) and not storage.exists(f"{site}/nothing.mp4")
    assert storage.stamp(path) == (len(BODY), 1445412480 * 10**9)
    assert storage.read(path) == BODY
    asked.clear()
    assert storage.read_range(path, 300, 7) == BODY[300:307]
    assert asked == ["HEAD all", "GET bytes=300-306"]
    with storage.local(path, 300, 7) as part:
        assert Path(part).read_bytes() == BODY[300:307]
    with storage.local(path) as whole:
        assert Path(whole).read_bytes() == BODY and whole.endswith(".mp4")
    with pytest.raises(StorageError, match="gave 1 bytes"):
        storage.read_range(path, len(BODY) - 1, 5)


def test_a_web_server_without_ranges_is_read_whole_and_else_refused(site: str) -> None:
    path = f"{site}/plain.mp4"
    assert storage.read(path) == BODY
    with storage.local(path) as whole:
        assert Path(whole).read_bytes() == BODY
    with pytest.raises(StorageError, match="does not give parts|range requests"):
        storage.read_range(path, 300, 7)


def test_faults_of_a_web_server_are_told_in_one_line(site: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/a.mp4"
        for ask in (storage.read, storage.stamp, storage.exists):
            with pytest.raises(StorageError, match="cannot be read: .*[Cc]onnect"):
                ask(closed)
    for ask in (storage.read, storage.stamp, storage.exists):
        with pytest.raises(StorageError, match="/secret cannot be read: the server answered 403"):
            ask(f"{site}/secret")
    with pytest.raises(StorageError, match="/secret cannot be read: the server answered 403"):
        storage.read_range(f"{site}/secret", 0, 1)
    with pytest.raises(StorageError, match="is not there"):
        storage.read(f"{site}/nothing.mp4")


def test_a_web_server_is_no_place_to_list_or_write(site: str) -> None:
    with pytest.raises(StorageError, match="cannot be asked what it holds"):
        storage.list_files(site)
    with pytest.raises(StorageError, match="is on a web server"):
        storage.put(f"{site}/x", b"x")
    with pytest.raises(StorageError, match="is on a web server"):
        storage.remove(f"{site}/x")
    with pytest.raises(StorageError, match="is on a web server"):
        storage.holding(site, "x").__enter__()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_web_server_is_read_after_a_fork(site: str) -> None:
    assert storage.read(f"{site}/plain.mp4")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if storage.read_range(f"{site}/ranged.mp4", 1, 2) == b"\1\2" else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_parts_of_web_addresses() -> None:
    path = "https://host/a/b%20c.mp4?token=x/y"
    assert storage.name_of(path) == "b%20c.mp4"
    assert storage.parent(path) == "https://host/a"
    assert storage.join(storage.parent(path), "d.mp4") == "https://host/a/d.mp4"


def test_a_lease_tells_who_when_and_where(root: str) -> None:
    with storage.holding(storage.join(root, "out"), "x"):
        told = json.loads(storage.read(storage.join(root, "out", ".held")))
    assert told.keys() == {"holder", "host", "pid", "time", "token"}
    assert told["host"] == socket.gethostname() and abs(told["time"] - time.time()) < 60

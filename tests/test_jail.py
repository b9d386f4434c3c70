"""The jail: real crashes, real limits, and nothing left behind."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clipmill import errors, jail
from clipmill.jail import Jail, JailError, Limits, process

Plain = dict[str, Any]
Answer = tuple[Plain, list[bytes]]

# --- what runs in the child

calls = 0


def obey(request: Plain, blobs: list[bytes]) -> Answer:
    """Do what the request names."""
    global calls
    calls += 1
    done: Answer = ACTS[request["do"]](request, blobs)
    return done


def echo(request: Plain, blobs: list[bytes]) -> Answer:
    return request, blobs


def count(request: Plain, blobs: list[bytes]) -> Answer:
    return {"pid": os.getpid(), "calls": calls}, []


def kill(request: Plain, blobs: list[bytes]) -> Answer:
    os.kill(os.getpid(), request["signal"])
    return {}, []


def read_null(request: Plain, blobs: list[bytes]) -> Answer:
    ctypes.string_at(0)
    return {}, []


def leave(request: Plain, blobs: list[bytes]) -> Answer:
    os._exit(5)


def loop(request: Plain, blobs: list[bytes]) -> Answer:
    while True:
        pass


def long_call(request: Plain, blobs: list[bytes]) -> Answer:
    Path(request["note"]).write_text(str(os.getpid()))
    Path(tempfile.mkdtemp(), "left").write_text("a temporary file")
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter: no thread of Python can run
    return {}, []


def allocate(request: Plain, blobs: list[bytes]) -> Answer:
    return {"bytes": len(bytearray(8 << 30))}, []


def allocate_within_an_error(request: Plain, blobs: list[bytes]) -> Answer:
    try:
        return allocate(request, blobs)
    except MemoryError as error:
        raise errors.VideoError("cannot allocate memory") from error


def talk(request: Plain, blobs: list[bytes]) -> Answer:
    print("to standard output " * 20_000)
    os.write(1, b"straight to its descriptor\n" * 10_000)
    os.write(2, b"to standard error\n" * 10_000)
    return {}, []


def last_words(request: Plain, blobs: list[bytes]) -> Answer:
    os.write(2, b"many words\n" * 10_000 + b"corrupted list at 0x7f001234\n")
    os.abort()


def refuse(request: Plain, blobs: list[bytes]) -> Answer:
    raise errors.VideoError("half a video", "a whole one", "fetch it again")


def refuse_in_own_words(request: Plain, blobs: list[bytes]) -> Answer:
    class OwnError(errors.ClipmillError):
        pass

    raise OwnError("what nobody knows")


def stumble(request: Plain, blobs: list[bytes]) -> Answer:
    return request["nothing"], []


def answer_no_json(request: Plain, blobs: list[bytes]) -> Answer:
    return {"path": Path()}, []


def environment(request: Plain, blobs: list[bytes]) -> Answer:
    folder = tempfile.mkdtemp()
    return {"environment": dict(os.environ), "folder": folder}, []


def limits(request: Plain, blobs: list[bytes]) -> Answer:
    kinds = ("RLIMIT_CORE", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE")
    status = Path("/proc/self/status").read_text()
    told = {kind: resource.getrlimit(getattr(resource, kind))[0] for kind in kinds}
    return {**told, "no_new_privileges": "NoNewPrivs:\t1" in status}, []


def write_file(request: Plain, blobs: list[bytes]) -> Answer:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(request["bytes"]))
    return {}, []


def answer_much(request: Plain, blobs: list[bytes]) -> Answer:
    return {}, [bytes(request["bytes"])]


def lie(request: Plain, blobs: list[bytes]) -> Answer:
    """Be a child that was taken over: write onto the channel what it should not."""
    channel = next(
        int(fd)
        for fd in os.listdir("/proc/self/fd")
        if int(fd) > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("socket")
    )
    os.write(channel, bytes.fromhex(request["bytes"]))
    time.sleep(60)
    return {}, []


ACTS: dict[str, Callable[[Plain, list[bytes]], Answer]] = {
    act.__name__: act
    for act in (
        echo, count, kill, read_null, leave, loop, long_call, allocate, allocate_within_an_error,
        talk, last_words, refuse, refuse_in_own_words, stumble, answer_no_json, environment,
        limits, write_file, answer_much, lie,
    )
}  # fmt: skip

# --- the tests


@pytest.fixture(scope="module")
def shared() -> Iterator[Jail]:
    """Start one child for all tests that leave it whole or do not care."""
    with Jail("test_jail:obey", Limits(memory_bytes=1 << 30, seconds=30)) as made:
        yield made


def failure(jailed: Jail, do: str, **request: Any) -> JailError:
    with pytest.raises(JailError) as caught:
        jailed.call({"do": do, **request})
    return caught.value


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def waited_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def jail_folders(pid: int | None = None) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{jail.FOLDER_PREFIX}{pid or os.getpid()}-*"))


def test_plain_data_and_bytes_go_there_and_back(shared: Jail) -> None:
    request = {"do": "echo", "text": "ü \udcff \n", "number": 0.1, "list": [None, True, {"a": 1}]}
    blobs = [b"", b"\0\xff", os.urandom(3 << 20)]
    assert shared.call(request, blobs) == (request, blobs)


def test_the_child_is_kept_from_call_to_call(shared: Jail) -> None:
    first, second = (shared.call({"do": "count"})[0] for _ in range(2))
    assert second == {"pid": first["pid"], "calls": first["calls"] + 1}
    assert first["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("do", "told"),
    [
        ({"do": "kill", "signal": signal.SIGSEGV}, "the function crashed (SIGSEGV)"),
        ({"do": "read_null"}, "the function crashed (SIGSEGV)"),
        ({"do": "kill", "signal": signal.SIGKILL}, "the function was killed (SIGKILL)"),
        ({"do": "leave"}, "the function ended (exit 5)"),
        ({"do": "stumble"}, "the function failed (KeyError: 'nothing')"),
        ({"do": "answer_no_json"}, "the function failed (TypeError: "),
        ({"do": "last_words"}, "the function crashed (SIGABRT): corrupted list at ADDRESS"),
    ],
)
def test_a_crash_is_one_line_and_the_next_call_works(
    shared: Jail, do: Plain, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    error = failure(shared, **do)
    assert str(error).startswith(told) and "\n" not in str(error)
    assert error.cause == "crash" and isinstance(error, errors.ClipmillError)
    assert shared.call({"do": "count"})[0]["calls"] == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("do", ["allocate", "allocate_within_an_error"])
def test_too_much_memory_is_told_as_such(shared: Jail, do: str) -> None:
    error = failure(shared, do)
    assert (error.cause, str(error)) == ("memory", "the function needed more than 1024 MB")


def test_what_is_sent_lies_in_the_child_once() -> None:
    sent = bytes(230 << 20)
    with Jail("test_jail:obey", Limits(memory_bytes=400 << 20)) as jailed:
        told = [jailed.call({"do": "count"}, [sent])[0]["calls"] for _ in range(2)]
    assert told == [1, 2]  # by the same child


@pytest.mark.parametrize("do", ["loop", "long_call"])
def test_a_call_ends_at_its_time(do: str, tmp_path: Path) -> None:
    with Jail("test_jail:obey", what="the decoder") as jailed:
        pid = jailed.call({"do": "count"})[0]["pid"]
        with pytest.raises(JailError, match="the decoder took more than 0.3 s") as caught:
            jailed.call({"do": do, "note": str(tmp_path / "note")}, seconds=0.3)
        assert caught.value.cause == "time" and is_gone(pid)
        assert jailed.call({"do": "count"})[0]["calls"] == 1


def test_huge_blobs_to_a_child_that_does_not_take_them_end_at_their_time(shared: Jail) -> None:
    pid = shared.call({"do": "count"})[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(JailError, match="took more than"):
        shared.call({"do": "echo"}, [bytes(64 << 20)], seconds=0.3)
    assert is_gone(pid)


def test_what_the_child_prints_is_no_message(
    shared: Jail, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shared.call({"do": "talk"}) == ({}, [])
    assert capfd.readouterr() == ("", "")


def test_our_errors_come_back_as_what_they_are(shared: Jail) -> None:
    pid = shared.call({"do": "count"})[0]["pid"]
    with pytest.raises(errors.VideoError) as caught:
        shared.call({"do": "refuse"})
    assert caught.value.args == ("half a video", "a whole one", "fetch it again")
    with pytest.raises(errors.ClipmillError, match="what nobody knows") as unknown:
        shared.call({"do": "refuse_in_own_words"})
    assert type(unknown.value) is errors.ClipmillError
    assert shared.call({"do": "count"})[0]["pid"] == pid


def test_a_call_that_is_interrupted_fails_at_once_and_the_next_works(shared: Jail) -> None:
    """It is not made again, though its child had served others before."""
    shared.call({"do": "echo"})
    threading.Timer(0.3, shared.interrupt).start()
    assert "SIGKILL" in str(failure(shared, "loop"))
    assert shared.call({"do": "echo"})[0] == {"do": "echo"}
    shared.interrupt()  # idle: who calls next notices nothing
    assert shared.call({"do": "echo"})[0] == {"do": "echo"}


def test_an_interrupt_while_the_child_begins_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = process._begun
    with Jail("test_jail:obey", Limits(seconds=10)) as jailed:

        def interrupted(*given: Any) -> subprocess.Popen[bytes]:
            jailed.interrupt()
            return begun(*given)

        with monkeypatch.context() as patched:
            patched.setattr(process, "_begun", interrupted)
            assert "SIGKILL" in str(failure(jailed, "loop"))
        assert jailed.call({"do": "echo"})[0] == {"do": "echo"}


def test_what_earlier_calls_left_does_not_decide() -> None:
    with Jail("test_jail:once_only") as jailed:
        assert jailed.call({}) == ({"calls": 1}, [])
        assert jailed.call({}) == ({"calls": 1}, [])  # it crashed, and a fresh child was asked


def once_only(request: Plain, blobs: list[bytes]) -> Answer:
    """Work in a fresh child alone."""
    global calls
    calls += 1
    if calls > 1:
        ctypes.string_at(0)
    return {"calls": calls}, []


def test_the_child_gets_no_credentials_and_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    with Jail("test_jail:obey") as jailed:
        told = jailed.call({"do": "environment"})[0]
        inner = Path(told["folder"])
        assert "secret" not in told["environment"].values()
        assert inner.is_dir() and inner.parent in jail_folders()
    assert not inner.parent.exists()


def test_the_limits_are_set(shared: Jail) -> None:
    assert shared.call({"do": "limits"})[0] == {
        "RLIMIT_CORE": 0,
        "RLIMIT_DATA": 1 << 30,
        "RLIMIT_FSIZE": 4 << 30,
        "RLIMIT_NOFILE": 64,
        "no_new_privileges": True,
    }


def test_a_file_does_not_grow_over_its_limit() -> None:
    with Jail("test_jail:obey", Limits(file_bytes=1 << 16)) as jailed:
        jailed.call({"do": "write_file", "bytes": 1 << 16})
        assert "File too large" in str(failure(jailed, "write_file", bytes=1 << 20))


def test_an_answer_does_not_grow_over_its_limit() -> None:
    with Jail("test_jail:obey", Limits(answer_bytes=1 << 16)) as jailed:
        jailed.call({"do": "answer_much", "bytes": 60_000})
        assert "answered with more than 65536 bytes" in str(
            failure(jailed, "answer_much", bytes=70_000)
        )


@pytest.mark.parametrize(
    "lie",
    [
        b"\xff" * 16,  # lengths beyond all bounds
        b"\0\0\0\2\0\0\0\1" + b"\xff" * 8,  # a blob beyond all bounds
        b"\0\0\0\5\0\0\0\0{" + b"no}}",  # no JSON
        b"\0\0\0\2\0\0\0\0[]",  # no mapping
        b"\0\1\x86\xa0\0\0\0\0" + b"[" * 100_000,  # too deep
        b"\0\0\0\x0a\0\0\0\0" + b'{"done":1}',
        b"\0\0\0\x1d\0\0\0\0" + b'{"error":"os","args":["rm "]}',
    ],
)
def test_a_child_that_was_taken_over_can_only_fail(shared: Jail, lie: bytes) -> None:
    with pytest.raises(errors.ClipmillError) as caught:
        shared.call({"do": "lie", "bytes": lie.hex()}, seconds=10)
    assert type(caught.value) in (JailError, errors.ClipmillError)
    assert getattr(caught.value, "cause", "crash") == "crash"
    shared.close()


def test_a_target_that_does_not_load_is_told() -> None:
    with Jail("test_jail:missing") as jailed:
        assert "has no attribute 'missing'" in str(failure(jailed, "echo"))
    with pytest.raises(errors.UsageError, match="wanted MODULE:FUNCTION"):
        Jail("import os")


def test_threads_take_turns(shared: Jail) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if shared.call({"do": "echo", "n": number})[0]["n"] != number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_child_outlives_the_thread_that_started_it() -> None:
    with Jail("test_jail:obey") as jailed:
        pids: list[int] = []
        thread = threading.Thread(
            target=lambda: pids.append(jailed.call({"do": "count"})[0]["pid"])
        )
        thread.start()
        thread.join()
        time.sleep(0.1)
        assert jailed.call({"do": "count"})[0] == {"pid": pids[0], "calls": 2}


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from clipmill.jail import Jail
jailed = Jail("test_jail:obey")
{before}
jailed.call({{"do": {do!r}, "note": sys.argv[2]}})
{after}
"""


def parent(tmp_path: Path, do: str, before: str = "", after: str = "") -> subprocess.Popen[bytes]:
    code = PARENT.format(do=do, before=before, after=after)
    asked = [sys.executable, "-c", code, os.path.dirname(__file__), str(tmp_path / "note")]
    return subprocess.Popen(asked, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def child_of(tmp_path: Path) -> int:
    note = tmp_path / "note"
    assert waited_for(lambda: note.exists() and bool(note.read_text()))
    return int(note.read_text())


FORK = """
import os, time
jailed.call({"do": "count"})
if not os.fork():
    time.sleep(30)
    os._exit(0)
"""


@pytest.mark.parametrize("before", ["", FORK], ids=["alone", "with a fork that lives on"])
def test_a_parent_killed_takes_its_child_along(tmp_path: Path, before: str) -> None:
    process = parent(tmp_path, "long_call", before)
    child = child_of(tmp_path)
    others = [fork.pid for fork in psutil.Process(process.pid).children() if fork.pid != child]
    process.kill()
    process.wait()
    assert waited_for(lambda: is_gone(child), 5)
    for fork in others:
        os.kill(fork, signal.SIGKILL)
    with Jail("test_jail:obey") as jailed:
        jailed.call({"do": "count"})
        assert jail_folders(process.pid) == []  # swept by the next jail
        assert len(jail_folders()) >= 1  # whose own is there
    process.communicate()


def test_ctrl_c_ends_the_call_and_the_child(tmp_path: Path) -> None:
    process = parent(tmp_path, "long_call")
    child = child_of(tmp_path)
    os.kill(child, signal.SIGINT)  # to the child it is nothing
    assert not waited_for(lambda: is_gone(child), 0.2)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate()[1]
    assert is_gone(child) and jail_folders(process.pid) == []


def test_a_jail_that_nobody_closed_ends_with_its_process(tmp_path: Path) -> None:
    told = 'print(jailed.call({"do": "count"})[0]["pid"])'
    process = parent(tmp_path, "count", after=told)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert is_gone(int(out)) and jail_folders(process.pid) == []


def test_a_child_that_cannot_begin_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*given: Any, **options: Any) -> Any:
        raise BlockingIOError("no more processes")

    with Jail("test_jail:obey") as jailed:
        before = set(os.listdir("/proc/self/fd")), jail_folders()
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", none_left)
            for _ in range(2):
                with pytest.raises(BlockingIOError):
                    jailed.call({"do": "count"})
        assert (set(os.listdir("/proc/self/fd")), jail_folders()) == before
        assert jailed.call({"do": "count"})[0]["calls"] == 1


def test_a_jail_error_travels() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(JailError("a", "b", "c", "time")))
    assert (type(error), error.cause, str(error)) == (JailError, "time", "a; wanted b; c")
    assert json.dumps(error.args) == '["a", "b", "c"]'

"""Jobs: what is shipped and under which name, the script that runs it, addresses, tokens, faults."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientError
from hypothesis import given
from hypothesis import strategies as st

import tiny
from clipmill import api, jobs
from clipmill.errors import ClipmillError, RecipeError, RunError, StorageError, UsageError
from clipmill.jobs import follow, head, order, wheels

FILES = {"mine/__init__.py": b"VALUE = 1\n", "mine/deep/data.bin": b"\0\1"}


# --- wheels


def test_a_wheel_of_the_same_content_is_the_same_and_of_another_has_another_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    one = wheels.pack("my-mine", "1.2", FILES, "", str(tmp_path))
    same = wheels.pack(
        "my-mine", "1.2+local", dict(reversed(FILES.items())), "", str(tmp_path / "a")
    )
    assert Path(one.path).read_bytes() == Path(same.path).read_bytes()
    assert Path(one.path).name == f"my_mine-{one.version}-py3-none-any.whl"
    other = wheels.pack(
        "my-mine", "1.2", {**FILES, "mine/__init__.py": b"VALUE = 2\n"}, "", str(tmp_path)
    )
    assert other.version != one.version and other.version.startswith("1.2+g")


@given(st.dictionaries(st.text("ab/", min_size=1), st.binary(max_size=3), max_size=3), st.data())
def test_no_change_keeps_the_hash(files: dict[str, bytes], data: st.DataObject) -> None:
    before = wheels.content_hash(files, "")
    name, value = data.draw(st.text("abc/", min_size=1)), data.draw(st.binary(max_size=4))
    if files.get(name) != value:
        assert wheels.content_hash({**files, name: value}, "") != before
    assert wheels.content_hash(files, "points") != before


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin package of someone else, found as an editable install would be."""
    site = tmp_path / "site"
    (site / "mine" / "__pycache__").mkdir(parents=True)
    (site / "mine" / "__init__.py").write_text("raise RuntimeError('not to be imported')\n")
    (site / "mine" / "__pycache__" / "x.pyc").write_bytes(b"old")
    (site / "mine" / ".gitignore").write_text("*.py\n")
    about = site / "mine-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text("[clipmill.plugins]\nmine = mine:Mine\n")
    monkeypatch.syspath_prepend(str(site))
    return site / "mine" / "__init__.py"


def test_the_platform_and_every_plugin_package_are_shipped(stranger: Path, tmp_path: Path) -> None:
    made = {wheel.name: wheel for wheel in wheels.make(str(tmp_path))}
    assert {"clipmill", "mine"} <= made.keys()
    with zipfile.ZipFile(made["mine"].path) as archive:
        names = set(archive.namelist())
        about = f"mine-{made['mine'].version}.dist-info"
        assert names == {
            "mine/__init__.py", *(f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD")),
            f"{about}/entry_points.txt",
        }  # fmt: skip
    with zipfile.ZipFile(made["clipmill"].path) as archive:
        names = set(archive.namelist())
        inner = archive.read(f"clipmill-{made['clipmill'].version}.dist-info/METADATA").decode()
    assert {
        "clipmill/cli/app.py",
        "clipmill_classify/c3d.py",
        "clipmill/pipelines/demo_c3d.yaml",
    } <= names
    assert "Requires-Dist" not in inner  # what it would download, on every node
    before, text = made["mine"].version, stranger.read_text()
    stranger.write_text(text.replace("not", "NOT"))
    again = {wheel.name: wheel.version for wheel in wheels.make(str(tmp_path))}
    assert again["mine"] != before and again["clipmill"] == made["clipmill"].version


SHIPPED = """
import sys, clipmill
from clipmill import plugin
assert clipmill.__file__.startswith(sys.argv[1]), clipmill.__file__
print(*{f"{e.package} {e.version}" for e in plugin.found() if e.name == "c3d" and not e.fault})
"""


def test_a_shipped_wheel_has_its_plugins_installed_or_unpacked(tmp_path: Path) -> None:
    (wheel,) = [each for each in wheels.make(str(tmp_path)) if each.name == "clipmill"]
    site, unpacked = str(tmp_path / "site"), str(tmp_path / "unpacked")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--no-index", wheel.path, f"--target={site}"], check=True)
    wheels.unpack([wheel], unpacked)
    for folder in (site, unpacked):
        ran = subprocess.run(
            [sys.executable, "-c", SHIPPED, folder], env={**os.environ, "PYTHONPATH": folder},
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert ran.stdout.split() == ["clipmill", wheel.version], ran.stderr


def test_a_package_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ClipmillError, match="no package nowhere_at_all; wanted one that can be imp"
    ):
        wheels.make(str(tmp_path), ["nowhere_at_all"])


# --- the script


def test_the_script_runs_the_command_with_its_words_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "where it's given"
    here.mkdir()
    monkeypatch.chdir(here)
    words = ["inspect", "no 'such $HOME file", "--json"]
    made = order.order(words, {}, str(tmp_path), python=sys.executable)
    folder = made.runtime_env["working_dir"]
    ran = subprocess.run(made.entrypoint, shell=True, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "no 'such $HOME file is not there" in json.loads(ran.stdout)["error"]
    assert int(made.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert made.shown.startswith("clipmill inspect ")


def test_a_command_does_not_begin_in_the_folder_that_was_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "gone on the head"
    here.mkdir()
    monkeypatch.chdir(here)
    made = order.order(["ingest", "none", "--out", "x"], {}, str(tmp_path), python=sys.executable)
    monkeypatch.chdir(tmp_path)
    here.rmdir()
    folder, home = made.runtime_env["working_dir"], tmp_path / "home"
    home.mkdir()
    for env, code in (({**os.environ, "HOME": str(home)}, 1), ({"PATH": os.environ["PATH"]}, 2)):
        ran = subprocess.run(
            made.entrypoint, shell=True, cwd=folder, capture_output=True, text=True, env=env
        )
        assert ran.returncode == code, ran.stderr
        told = (
            f"the head has no folder {here}; relative paths begin at the home; name another in --f"
        )
        assert told in ran.stderr
        assert (f"{home}/none is not there" in ran.stderr) == (code == 1), ran.stderr


@pytest.mark.parametrize(("begins_at", "code"), [(None, 0), ("/", 0), ("/no/such/place", 2)])
def test_relative_paths_begin_where_it_is_told(
    begins_at: str | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_, words = tmp_path / "given", ["plugins", "list", "--json"]
    given_.mkdir()
    monkeypatch.chdir(given_)
    made = order.order(words, {}, str(tmp_path), python=sys.executable, begins_at=begins_at)
    monkeypatch.chdir(tmp_path)
    given_.rmdir()
    folder = made.runtime_env["working_dir"]
    ran = subprocess.run(made.entrypoint, shell=True, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == code, ran.stderr


def test_where_paths_begin_is_told_as_one_that_all_nodes_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--folder runs; wanted an absolute path"):
        order.order(["runs"], {}, str(tmp_path), begins_at="runs")
    with pytest.raises(UsageError, match=r"a folder /a for a recipe; .*set run\.folder"):
        api.submit(tiny.recipe_of(), folder="/a")


def test_the_script_tells_that_no_python_will_do(tmp_path: Path) -> None:
    files = {"a b.yaml": b"x: 1\n"}
    made = order.order(["train", "a b.yaml"], files, str(tmp_path), python="/no/python")
    folder = Path(made.runtime_env["working_dir"])
    assert (folder / "0-a-b.yaml").read_bytes() == b"x: 1\n"
    assert '"$here"/0-a-b.yaml' in (folder / order.RUN).read_text()
    ran = subprocess.run(made.entrypoint, shell=True, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 127 and "none of /no/python on the head has Ray" in ran.stderr


def test_variables_are_those_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://m")
    monkeypatch.setenv("MY_KEY", "k")
    monkeypatch.setenv("OTHER", "secret")
    made = order.order(["runs"], {}, str(tmp_path), env=["MY_KEY", "B=1=2"])
    given_ = {k: v for k, v in made.runtime_env["env_vars"].items() if not k.startswith("RAY_")}
    assert given_ == {"MLFLOW_TRACKING_URI": "http://m", "MY_KEY": "k", "B": "1=2"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/m.db")  # relative, as it begins here
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again").mkdir()
    again = order.order(["runs"], {}, str(tmp_path / "again")).runtime_env["env_vars"]
    assert again["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/runs/m.db"
    for bad, told in (("NOT_SET_HERE", "that is set here"), ("a b=1", "NAME, or NAME=VALUE")):
        (tmp_path / bad).mkdir()
        with pytest.raises(UsageError, match=told):
            order.order(["runs"], {}, str(tmp_path / bad), env=[bad])


@pytest.mark.parametrize("verb", ["ingest", "evaluate"])
def test_a_verb_asked_for_as_an_option_is_told_how(verb: str) -> None:
    words = ["submit", "--address", "http://a:1", f"--{verb}", "x", "--out", "y"]
    command = [sys.executable, "-c", "from clipmill.cli import main; main()", *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"clipmill: submit --{verb}; wanted the verb after --: submit -- {verb} ...\n"
    )


def test_what_stands_where_a_verb_should_is_told_as_such() -> None:
    words = ["submit", "--address", "http://127.0.0.1:1", "--", "evalute", "x"]
    command = [sys.executable, "-c", "from clipmill.cli import main; main()", *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "clipmill: no verb 'evalute'; wanted a verb after --; did you mean evaluate?\n"
    )


# --- the head


@pytest.mark.parametrize(
    ("env", "given_", "wanted"),
    [
        ({}, None, "http://127.0.0.1:8265"),
        ({}, "10.0.0.1:9000", "http://10.0.0.1:9000"),
        ({}, "https://head/", "https://head"),
        ({"RAY_ADDRESS": "http://a:1"}, None, "http://a:1"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, None, "http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:1"}, None, "http://b:1"),
        ({"RAY_API_SERVER_ADDRESS": "http://b:1"}, "http://c:1", "http://c:1"),
    ],
)
def test_the_address_is_that_asked_for(
    env: dict[str, str], given_: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert head.address_of(given_) == wanted


@pytest.mark.parametrize("given_", ["ray://head:10001", "http://", "http://a:99999", "s3://x/y"])
def test_what_is_no_jobs_port_is_refused(given_: str) -> None:
    with pytest.raises(UsageError, match=r"wanted that of a head's jobs port, such as http://HOST"):
        head.address_of(given_)


def test_the_token_is_found_where_ray_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(" from file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from env")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert head.token() == "from env"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert head.token() == "from file"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="cannot be read"):
        head.token()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert head.token() is None


def test_nobody_at_the_address_is_told_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match=rf"no Ray head at {address}: .*--address"):
        api.jobs_list(address=address)
    with pytest.raises(RecipeError, match="no recipe nowhere"):  # before anything is asked
        api.submit("nowhere", address=address)
    with pytest.raises(UsageError, match="submit on a cluster"):
        api.submit(command=["submit", "x"], address=address)


class Refusing(BaseHTTPRequestHandler):
    """A head that answers nothing but its version, in words that hold a 404."""

    def do_GET(self) -> None:
        is_version = self.path == "/api/version"
        told = {"version": "4", "ray_version": "2.99.0", "ray_commit": ""}
        body = json.dumps(told).encode() if is_version else b"train-exp404: status code 404"
        self.send_response(200 if is_version else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_only_an_answer_of_404_tells_that_there_is_no_such_job() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(RunError, match=f"the head at {address} refused: .* code 500"):
            api.jobs_logs("train-exp404", address=address, write=print)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Halting:
    """A head's client whose first answers do not come."""

    def __init__(self, faults: int) -> None:
        self.faults = faults

    def get_job_info(self, job: str) -> Any:
        if self.faults:
            self.faults -= 1
            raise ConnectionError("reset by peer at /jobs/train-exp404")
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True))

    def get_job_logs(self, job: str) -> str:
        return "all of it"


@pytest.mark.parametrize("ask", [follow.wait, lambda there, job: follow.follow(there, job, print)])
def test_a_connection_that_breaks_for_a_while_is_borne(
    ask: Callable[[head.Head, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(follow, "ASK_SECONDS", 0.0)
    assert ask(head.Head("http://a:1", Halting(2)), "it") in (None, "all of it")
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(RunError, match="does not answer any more: reset by peer.*it may go on"):
        ask(head.Head("http://a:1", Halting(1000)), "it")


def test_a_head_that_has_just_come_up_is_asked_again(
    at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waking:
        answers = iter([f"{jobs.NO_AGENT}, please try again later"] * 3 + ["no such thing"])

        def submit_job(self, **asked: Any) -> None:
            raise RuntimeError(next(self.answers))

    there = head.Head("http://a:1", Waking())
    with pytest.raises(RuntimeError, match="no such thing"):
        jobs._begin(there, entrypoint="x")
    monkeypatch.setattr(jobs, "START_SECONDS", -1.0)
    Waking.answers = iter([jobs.NO_AGENT])
    with pytest.raises(RuntimeError, match=jobs.NO_AGENT):
        jobs._begin(there, entrypoint="x")


class Speaking:
    """A head's client whose job prints a line each time it is asked for, and then ends."""

    def __init__(self, *lines: str, breaks: bool = False) -> None:
        self.lines, self.breaks, self.asked, self.told = lines, breaks, 0, list[str]()

    def get_job_info(self, job: str) -> Any:
        is_over = self.asked >= len(self.lines)
        self.asked += 1
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: is_over))

    def get_job_logs(self, job: str) -> str:
        return "".join(self.lines[: self.asked])

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        if self.breaks:
            raise ClientError("a proxy that knows no websockets")
        for line in self.lines:
            await asyncio.sleep(0)
            yield line


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("LOOK_SECONDS", "ASK_SECONDS"):
        monkeypatch.setattr(follow, pause, 0.0)


def test_a_log_is_followed_in_a_notebook_too(at_once: None) -> None:
    told = list[str]()

    async def cell() -> str:  # a loop is running, and what is called knows nothing of it
        return follow.follow(head.Head("http://a:1", Speaking("a\n", "b\n")), "it", told.append)

    assert asyncio.run(cell()) == "a\nb\n" and told == ["a\n", "b\n", ""]


def test_where_nothing_can_be_listened_to_lines_are_asked_for(at_once: None) -> None:
    told, client = list[str](), Speaking("a\n", "b\n", "c\n", breaks=True)
    assert follow.follow(head.Head("http://a:1", client), "it", told.append) == "a\nb\nc\n"
    assert told == ["a\n", "b\n", "c\n", ""]


def test_who_stops_listening_leaves_no_thread_behind(at_once: None) -> None:
    class Endless(Speaking):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            yield "a\n"
            await asyncio.Event().wait()

    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow.follow(head.Head("http://a:1", Endless("a\n")), "it", interrupted)
    assert "clipmill-log" not in [thread.name for thread in threading.enumerate()]


@given(st.lists(st.text("abc", max_size=9)))
def test_the_end_of_what_was_printed_is_kept(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "KEPT_CHARACTERS", 7)
        printed = follow.Printed(lambda _: None)
        for text in texts:
            printed.add(text)
        whole = "".join(texts)
        assert (printed.end(), printed.count) == (whole[-7:], len(whole))


def test_more_lines_copy_nothing_of_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "KEPT_CHARACTERS", 1 << 20)
    printed = follow.Printed(lambda _: None)
    for _ in range(1 << 11):
        printed.add("x" * (1 << 10))
    tracemalloc.start()
    try:
        for number in range(100):
            printed.add(f"{number:08d}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16


def test_the_result_is_the_last_object_that_was_printed() -> None:
    assert follow.last_object('a\n{"b": 1}\n{"c": 2}\n{broken\n[3]\nend') == {"c": 2}
    assert follow.last_object("nothing") is None

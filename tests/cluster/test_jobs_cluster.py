"""Jobs on a real head with a token: trained, followed, stopped with a checkpoint, rebuilt plugins used."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tiny
from clipmill import api, catalog, folder, ingest
from clipmill.errors import RunError

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CLI = (sys.executable, "-c", "from clipmill.cli import main; main()")
PATIENCE_SECONDS = 120


def free_ports(count: int) -> list[int]:
    """Free ports outside of those that Ray gives its workers."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in range(21000 + os.getpid() % 5000, 32000):
            trial = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                trial.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Start a head with a jobs port; it knows nothing of this test's modules."""
    home = tempfile.mkdtemp(prefix="cm-", dir="/tmp")  # a socket's path must be short
    main, dashboard, agent, agent_grpc, client, metrics = free_ports(6)
    binaries = os.path.dirname(sys.executable)
    env = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    env["RAY_agent_register_timeout_ms"] = "120000"  # on a busy machine they start slowly
    words = [
        f"{binaries}/ray", "start", "--head", "--block", f"--port={main}", "--num-cpus=2",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}",
        f"--metrics-export-port={metrics}", "--object-store-memory=268435456",
        "--include-dashboard=true", "--disable-usage-stats", f"--temp-dir={home}",
    ]  # fmt: skip
    log = Path(home, "start.log")
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=env, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(RunError):
                api.jobs_list(address=address)
                break
            time.sleep(0.5)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


def test_a_recipe_is_trained_there_as_it_is_here(
    head: str, dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    printed = list[str]()
    given = tiny.run_recipe(dataset, tmp_path, "there", workers=1)
    told = api.submit(given, address=head, write=printed.append, for_programs=True)
    assert (told["status"], told["exit_code"]) == ("SUCCEEDED", 0), "".join(printed)
    result = api.show("there", folder=str(tmp_path))
    assert told["result"]["weights_sha256"] == result["weights_sha256"] == trained["weights_sha256"]
    assert any("+g" in each for each in told["shipped"])
    assert "".join(printed).count("Running entrypoint") == 1  # followed without a gap or an echo

    ran = api.submit(command=["evaluate", "there", "--runs", str(tmp_path), "--json"], address=head)
    assert ran["result"]["metrics"] == api.evaluate("there", folder=str(tmp_path))["metrics"]
    failed = api.submit(command=["evaluate", "no-such-run"], address=head, write=printed.append)
    assert (failed["status"], failed["exit_code"]) == ("FAILED", 1)
    assert "clipmill: no run 'no-such-run'" in "".join(printed)

    nowhere = api.submit(
        command=["train", "c3d"], address=head, folder="/no/such/place", write=printed.append
    )
    assert (nowhere["status"], nowhere["exit_code"]) == ("FAILED", 2)
    assert "the head has no folder /no/such/place" in "".join(printed)

    words = ["submit", "--address", head, "--", "evaluate", "no-such-run"]
    shell = subprocess.run([*CLI, *words], capture_output=True, text=True)
    assert shell.returncode == 1 and "clipmill: no run 'no-such-run'" in shell.stderr

    listed = api.jobs_list(address=head)["jobs"]
    before = [each["job"] for each in (nowhere, failed, ran, told)]
    assert [row["job"] for row in listed[1:]] == before
    assert api.jobs_wait(failed["job"], address=head)["exit_code"] == 1
    again = list[str]()
    api.jobs_logs(told["job"], address=head, write=again.append)
    assert "Running entrypoint" in "".join(again)


def test_videos_are_ingested_there_and_asked_about(
    head: str, dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    videos, data, out = Path(dataset).parent / "videos", tmp_path / "data", tmp_path / "a.parquet"
    words = ["ingest", str(videos), "--out", str(data), "--json"]
    made = api.submit(command=words, address=head)
    assert made["exit_code"] == 0
    keys = catalog.load(dataset).keys
    assert sorted(catalog.load(str(data)).keys) == sorted(keys) and ingest.verify(str(data)) == []

    words = ["predict", f"{trained['folder']}/model", str(data), "--out", str(out), "--json"]
    told = api.submit(command=words, address=head)["result"]
    assert (told["records"], told["answered"]) == (len(keys), len(keys))
    assert sorted(pq.read_table(out).column("key").to_pylist()) == sorted(keys)


def test_a_stopped_run_leaves_a_checkpoint(head: str, dataset: str, tmp_path: Path) -> None:
    long = tiny.run_recipe(dataset, tmp_path, "long")
    long["train"] |= {"steps": 1_000_000, "checkpoint_every": 1_000_000}
    job = api.submit(long, address=head, follow=False)["job"]
    metrics, deadline = tmp_path / "long" / "metrics.jsonl", time.monotonic() + PATIENCE_SECONDS
    while not metrics.exists() or not metrics.read_text():
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.2)
    told = api.jobs_stop(job, address=head)
    assert (told["status"], told["was_running"]) == ("STOPPED", True)
    assert folder.committed_step(folder.Folder(str(tmp_path / "long"))) > 0
    assert api.jobs_wait(job, address=head)["exit_code"] == 143
    assert not api.jobs_stop(job, address=head)["was_running"]


PLUGIN = """
from clipmill.plugin import Plugin, View
class Mine(Plugin):
    name, family = "mine", "{told}"
    def views(self): return dict(train=View(frames=1, size=8, resize=8))
    def build(self, info): raise NotImplementedError
"""


def test_a_rebuilt_plugin_is_the_one_that_is_used(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "mine-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[clipmill.plugins]\nmine = mine:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = []
    for told in ("first", "second"):
        (tmp_path / "mine.py").write_text(PLUGIN.format(told=told))
        ran = api.submit(command=["plugins", "list", "--json"], address=head)
        (found,) = [each for each in ran["result"]["plugins"] if each["name"] == "mine"]
        assert found["family"] == told
        assert f"mine=={found['version']}" in ran["shipped"]
        versions.append(found["version"])
    assert len(set(versions)) == 2


def test_faults_are_one_line(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (api.jobs_wait, api.jobs_stop):
        with pytest.raises(RunError, match=rf"no job no-such at {head}; .*`clipmill jobs list`"):
            ask("no-such", address=head)
    with pytest.raises(RunError, match=r"no job no-such"):
        api.jobs_logs("no-such", address=head, follow=True, write=print)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    with pytest.raises(RunError, match=rf"the head at {head} refuses the token; .*RAY_AUTH_TOKEN"):
        api.jobs_list(address=head)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(RunError, match=r"asks for a token, and there is none here"):
        api.jobs_list(address=head)

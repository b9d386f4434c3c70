"""The Ray to work on: who has no token is let into none, and is told so in a line."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny
from clipmill import api, cluster
from clipmill.errors import ClipmillError

JOIN = """
import sys
from clipmill import cluster
from clipmill.errors import ClipmillError
try:
    with cluster.session(sys.argv[1]):
        print("in")
except ClipmillError as error:
    print(error)
"""

OWN = """
import os
from clipmill import cluster
with cluster.session():
    import ray
    print(ray.get_runtime_context().gcs_address, len(os.environ["RAY_AUTH_TOKEN"]))
    import subprocess, sys
    stranger = {**os.environ, "RAY_AUTH_TOKEN": "x" * 64}
    print(subprocess.run([sys.executable, "-c", sys.argv[1], ray.get_runtime_context().gcs_address],
                         env=stranger, capture_output=True, text=True).stdout)
"""


def told(home: Path, *words: str) -> list[str]:
    """Run a script as someone who has no token, here or at home."""
    own = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    asked = [sys.executable, "-c", *words]
    ran = subprocess.run(asked, env=own | {"HOME": str(home)}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.usefixtures("ray_local")
def test_who_has_no_token_is_told_so_in_a_line(tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    (line,) = told(tmp_path, JOIN, address)
    assert f"the Ray at {address} lets nobody in without its token" in line
    assert "RAY_AUTH_TOKEN_PATH" in line


@pytest.mark.usefixtures("ray_local")
def test_a_ray_that_is_up_or_named_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cluster.starts_one()
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert cluster.starts_one() and cluster.starts_one("local")
    assert not cluster.starts_one("auto")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not cluster.starts_one() and cluster.starts_one("local")


def test_where_nothing_listens_is_told_at_once_and_leaves_nothing(
    trained: dict[str, Any], dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        monkeypatch.setenv("RAY_ADDRESS", address)
        out = str(tmp_path / "a.parquet")
        model = f"{trained['folder']}/model"
        asked = tiny.run_recipe(dataset, tmp_path / "runs", "a", workers=1)
        told = rf"nothing listens at (ray://)?{address}: .*refused; wanted HOST:PORT"
        for ask in (
            lambda: api.train(asked),
            lambda: api.train(asked, address=f"ray://{address}"),
            lambda: api.evaluate(model, workers=1),
            lambda: api.predict(model, [dataset], out=out),
        ):
            with pytest.raises(ClipmillError, match=told):
                ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_local_ray_has_a_token_of_its_own_and_leaves_none_at_home(tmp_path: Path) -> None:
    own, stranger = filter(None, told(tmp_path, OWN, JOIN))
    assert own.split()[1] == "64"
    assert "no Ray at" in stranger and "RAY_AUTH_TOKEN_PATH to a file with it" in stranger
    assert list(tmp_path.rglob("*token*")) == []


@pytest.mark.slow
def test_a_node_that_does_not_come_up_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "NodeInfoGcsService.grpc_server.RegisterNode=45000000:45000000"  # microseconds
    monkeypatch.setenv("RAY_testing_asio_delay_us", slow)
    (line,) = told(tmp_path, JOIN, "local")
    assert "no Ray has started at local" in line and "less runs beside it" in line

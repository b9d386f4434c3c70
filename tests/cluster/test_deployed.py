"""What deploy/ starts, started without containers and with its secrets: MLflow on Postgres and S3, serving, nodes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from test_jobs_cluster import free_ports

from clipmill import api
from test_deploy import DEPLOY, composed, run
from tiny import run_recipe

pytest_plugins = ["servers"]

PATIENCE_SECONDS = 150
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Program:
    """A program of a test's own, with its log; it is told to stop at the end."""

    def __init__(self, log: Path, *words: str, user: str | None = None, **environment: str) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                words, stdout=out, stderr=out, user=user, env={**os.environ, **environment},
                start_new_session=True,
            )  # fmt: skip

    def wait_for(self, address: str) -> None:
        """Wait until an address answers well."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            try:
                if httpx.get(address, timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to stop; what is then left of it, and of its children, is ended."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed") / "secrets"
    run(DEPLOY / "tokens", folder)
    return folder


@pytest.fixture(scope="module")
def database(secrets: Path) -> Iterator[int]:
    """Run a Postgres that asks for the password, as one of Debian's own: the port."""
    if POSTGRES is None:
        pytest.skip("Postgres is not on this machine (apt-get install postgresql)")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    home, port = Path(tempfile.mkdtemp(prefix="clipmill-pg-")), free_port()
    password = home / "password"
    shutil.copy(secrets / "postgres_password", password)
    if user:
        for path in (home, password):
            shutil.chown(path, user)
    asked = composed()["postgres"]["environment"]
    made = [str(POSTGRES / "initdb"), f"--username={asked['POSTGRES_USER']}", "--no-sync"]
    made += [*asked["POSTGRES_INITDB_ARGS"].split(), f"--pwfile={password}", str(home / "data")]
    subprocess.run(made, user=user, check=True, capture_output=True, cwd=home)
    quick = ("-c", "fsync=off", "-c", f"unix_socket_directories={home}")
    where = ("-D", str(home / "data"), "-p", str(port), "-c", "listen_addresses=127.0.0.1")
    server = Program(home / "log", str(POSTGRES / "postgres"), *where, *quick, user=user)
    try:
        _make_database(asked, password.read_text(), port, server)
        yield port
    finally:
        server.stop(signal.SIGINT)  # ends at once, and in order
        shutil.rmtree(home)


def _make_database(asked: Mapping[str, str], password: str, port: int, server: Program) -> None:
    import psycopg

    where = {"host": "127.0.0.1", "port": port, "user": asked["POSTGRES_USER"]}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with psycopg.connect(
                **where, password=password, dbname="postgres", autocommit=True
            ) as up:
                up.execute(f"CREATE DATABASE {asked['POSTGRES_DB']}")
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**where, dbname="mlflow", password="wrong")


class Service:
    """A service of compose.yaml as it is started here: other places, the same words and secrets."""

    def __init__(self, name: str, secrets: Path, places: Mapping[str, str]) -> None:
        told = composed()[name]
        self.places = {"/run/secrets": str(secrets), "/opt/clipmill/deploy": str(DEPLOY), **places}
        self.words = [str(DEPLOY / "enter"), *map(self.here, told["command"])]
        self.environment = {key: self.here(value) for key, value in told["environment"].items()}

    def here(self, text: str) -> str:
        for there, place in self.places.items():
            text = text.replace(there, place)
        return text

    def start(self, log: Path, *more: str, **environment: str) -> Program:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        whole = self.environment | {"PATH": path} | environment
        return Program(log, *self.words, *more, **whole)


@pytest.fixture(scope="module")
def mlflow(secrets: Path, database: int, endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # fmt: skip
    """Run MLflow as compose.yaml does, over that Postgres and a store that speaks S3: its address."""
    home, port = tmp_path_factory.mktemp("mlflow"), free_port()
    settings = home / "mlflow_auth.ini"
    text = (DEPLOY / "mlflow_auth.ini").read_text()
    settings.write_text(text.replace("postgres:5432", f"127.0.0.1:{database}"))
    places = {
        f"{DEPLOY}/mlflow_auth.ini": str(settings), "postgres:5432": f"127.0.0.1:{database}",
        ":5000": f":{port}", "0.0.0.0": "127.0.0.1", "store:8333": endpoint,
    }  # fmt: skip
    buckets = Service("buckets", secrets, places)
    for _ in range(2):  # once made, it is left alone
        made = buckets.start(home / "buckets")
        assert made.process.wait(PATIENCE_SECONDS) == 0, made.log.read_text()
    server = Service("mlflow", secrets, places)
    server.words = [word if word != "5000" else str(port) for word in server.words]
    program = server.start(home / "log", "--workers", "1", TMPDIR=str(home))
    try:
        program.wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        program.stop()


@pytest.mark.slow
def test_strangers_get_nothing_from_mlflow(mlflow: str, secrets: Path) -> None:
    asked = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    user, password = ((secrets / f"mlflow_{name}").read_text() for name in ("user", "password"))
    assert httpx.get(asked).status_code == 401
    assert httpx.get(asked, auth=(user, "wrong")).status_code == 401
    assert httpx.get(asked, auth=("admin", "password1234")).status_code == 401
    assert httpx.get(asked, auth=(user, password)).status_code == 200
    foreign = {"Host": "elsewhere.example"}
    assert httpx.get(asked, auth=(user, password), headers=foreign).status_code == 403


@pytest.mark.slow
def test_a_run_is_tracked_promoted_and_served_with_the_secrets(
    mlflow: str, secrets: Path, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    for name in ("user", "password"):
        variable = {"user": "USERNAME", "password": "PASSWORD"}[name]
        secret = (secrets / f"mlflow_{name}").read_text()
        monkeypatch.setenv(f"MLFLOW_TRACKING_{variable}", secret)
    result = api.train(run_recipe(dataset, tmp_path, "first", steps=6))
    api.promote("first", name="demo", folder=str(tmp_path))
    files = boto3.resource("s3").Bucket("mlflow").objects.all()
    assert any(each.key.endswith(".safetensors") for each in files), "files are elsewhere"

    video = next(Path(dataset).parent.glob("videos/test/*/*.mp4"))
    told = api.predict("demo@champion", [str(video)], folder=str(tmp_path))
    port = free_port()
    places = {"http://mlflow:5000": mlflow, "0.0.0.0": "127.0.0.1", "8000": str(port)}
    serve = Service("serve", secrets, places)
    program = serve.start(tmp_path / "log", "--runs", str(tmp_path / "none"))
    try:
        program.wait_for(f"http://127.0.0.1:{port}/readyz")
        asked = f"http://127.0.0.1:{port}/v1/models/demo/predict"
        sent = {"files": {"video": video.read_bytes()}, "timeout": 60}
        assert httpx.post(asked, **sent).status_code == 401
        header = {"Authorization": f"Bearer {(secrets / 'serve_token').read_text()}"}
        answered: dict[str, Any] = (
            httpx.post(asked, headers=header, **sent).raise_for_status().json()
        )
    finally:
        program.stop()
    assert answered["version"] == told["version"] == "1" and result["steps"] == 6
    assert answered["label"] == told["videos"][0]["label"]
    assert (secrets / "mlflow_password").read_text() not in program.log.read_text()


ALIVE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
"""


def node(
    name: str, secrets: Path, main: int, ports: Sequence[int], *flags: str
) -> tuple[Service, list[str]]:
    """A node of the cluster, on loopback with ports of its own: all of compose.yaml have one each."""
    manager, objects, page, agent, agent_grpc, metrics = ports
    places = {
        "--port=6379": f"--port={main}", "head:6379": f"127.0.0.1:{main}", "=6380": f"={manager}",
        "=6381": f"={objects}", "=8265": f"={page}", "=0.0.0.0": "=127.0.0.1",
    }  # fmt: skip
    more = [
        "--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--metrics-export-port={metrics}", *flags,
    ]  # fmt: skip
    return Service(name, secrets, places), more


@pytest.mark.slow
@pytest.mark.cluster
def test_a_worker_joins_the_head_with_the_secret_and_nobody_without(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # else the secret would not be read
    home = Path(tempfile.mkdtemp(prefix="cm-", dir="/tmp"))  # a socket's path must be short
    main, *ports = free_ports(13)
    head, of_head = node("head", secrets, main, ports[:6], f"--temp-dir={home}")
    worker, of_worker = node("worker", secrets, main, ports[6:])
    programs = [head.start(home / "head", *of_head)]
    try:
        asked = (sys.executable, "-c", ALIVE, f"127.0.0.1:{main}")
        wait_for_nodes(1, asked, head.environment, programs)
        programs.append(worker.start(home / "worker", *of_worker))
        wait_for_nodes(2, asked, head.environment, programs)
        stranger = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        assert alive(asked, stranger) is None, "a stranger got in"
    finally:
        for program in reversed(programs):
            program.stop()
        shutil.rmtree(home, ignore_errors=True)


def alive(asked: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """How many nodes there are; None for who is not let in."""
    env = {**os.environ, **environment}
    ran = subprocess.run(asked, env=env, capture_output=True, text=True)
    return int(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else None


def wait_for_nodes(
    count: int, asked: Sequence[str], environment: Mapping[str, str], programs: list[Program]
) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive(asked, environment) != count:
        for program in programs:
            ended = program.process.poll() is not None
            assert not ended and time.monotonic() < deadline, program.log.read_text()
        time.sleep(0.2)

"""Two hosts on this one: network namespaces with a cable between them, a Ray node in each.

They share the file system, as hosts with a shared folder do. Needs root and the program `ip`.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PATIENCE_SECONDS = 240
PORT, JOBS_PORT = 6379, 8265
NODE_FLAGS = (
    "--num-cpus=1", "--num-gpus=0", "--object-store-memory=200000000", "--block",
    # A node waits only so long to hear which ports its agents have chosen: they get fixed ones.
    "--dashboard-agent-listen-port=52365", "--dashboard-agent-grpc-port=52366",
    "--runtime-env-agent-port=52367", "--metrics-export-port=8090",
)  # fmt: skip
# A host that is gone is given up in half the time that Ray takes by default.
SOON = {
    "RAY_health_check_period_ms": "1500",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine they start slowly
    # A node without its head lives on, so that what comes back with a cable is not yet gone.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "1800",
}


def ip(*words: str) -> str:
    """Run the program `ip`."""
    ran = subprocess.run(["ip", *words], capture_output=True, text=True)
    if ran.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {ran.stderr.strip()}")
    return ran.stdout


class Host:
    """A namespace with an address, loopback and one interface, `eth0`."""

    def __init__(self, role: str, address: str, token: str) -> None:
        self.name, self.address = f"clipmill-{os.getpid()}-{role}", address
        self.temporary = tempfile.mkdtemp(prefix=f"cm-{role[0]}-")  # short: sockets lie in it
        self.environment = {
            **os.environ, **SOON, "PYTHONUNBUFFERED": "1",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "GLOO_SOCKET_IFNAME": "eth0",
        }  # fmt: skip
        self.log = Path(self.temporary, "log")
        self.started: list[subprocess.Popen[bytes]] = []
        ip("netns", "add", self.name)

    def plug_in(self) -> None:
        """Give the interface its address."""
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a program there; what it says goes to the host's log."""
        with self.log.open("ab") as log:
            program = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *words], stdout=log, stderr=log,
                env={**self.environment, **environment}, start_new_session=True,
            )  # fmt: skip
        self.started.append(program)
        return program

    def run(self, *words: str, **environment: str) -> int:
        """Run a program there to its end: its exit code."""
        return self.start(*words, **environment).wait(PATIENCE_SECONDS)

    def ask(self, *words: str) -> str:
        """Run a program there that does what it should: what it prints."""
        command = ["ip", "netns", "exec", self.name, *words]
        ran = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert ran.returncode == 0, f"{ran.stderr}\n{self.told()}"
        return ran.stdout

    def processes(self) -> list[psutil.Process]:
        """All that runs there."""
        found = []
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(int(pid)))
        return found

    def _titles(self) -> list[str]:
        """What the processes call themselves that run there."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def trains(self) -> bool:
        """Whether a training worker lives there."""
        return any("RayTrainWorker" in title for title in self._titles())

    def decodes(self) -> bool:
        """Whether a task of a feed is at work there."""
        tasks = [title for title in self._titles() if title.startswith("ray::")]
        return any("make" in task for task in tasks)  # it calls `Cache.make`

    def told(self) -> str:
        """The end of what was said there, and of what Ray's own programs and jobs said."""
        logs = [self.log]
        for names in ("[gr]*.[eo]??", "job-driver-*.log"):
            logs += Path(self.temporary).glob(f"session_2*/logs/{names}")
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    def ray(self, *words: str) -> list[str]:
        """The words of a command of Ray."""
        return [sys.executable, "-m", "ray.scripts.scripts", *words]

    def halt(self) -> None:
        """End all that runs there, at once, as a host without power does."""
        alive = self.processes()
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(alive, timeout=PATIENCE_SECONDS)
        for program in self.started:
            program.wait(PATIENCE_SECONDS)

    def remove(self) -> None:
        """Leave nothing of it."""
        self.halt()
        ip("netns", "delete", self.name)
        shutil.rmtree(self.temporary, ignore_errors=True)


class Hosts:
    """A head and a worker."""

    def __init__(self, head: Host, worker: Host) -> None:
        self.head, self.worker = head, worker
        self.address = f"{head.address}:{PORT}"
        self.jobs = f"http://{head.address}:{JOBS_PORT}"
        ends = ("type", "veth", "peer", "name", "eth0", "netns", worker.name)
        ip("link", "add", "name", "eth0", "netns", head.name, *ends)
        head.plug_in()
        worker.plug_in()
        page = (f"--dashboard-host={head.address}", f"--dashboard-port={JOBS_PORT}")
        # A training worker asks for a byte: there is room for one, and the first goes elsewhere.
        room = ("--memory=1", "--include-dashboard=true")
        self._begin(head, "--head", f"--port={PORT}", *room, *page)
        self.begin_worker()

    def begin_worker(self) -> None:
        """Start the worker's node, and wait until the cluster has it."""
        self._begin(self.worker, f"--address={self.address}")

    def _begin(self, host: Host, *words: str) -> None:
        flags = (f"--node-ip-address={host.address}", f"--temp-dir={host.temporary}")
        node = host.start(*host.ray("start", "--disable-usage-stats", *words, *flags, *NODE_FLAGS))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"Ray runtime started" not in host.log.read_bytes():
            assert node.poll() is None and time.monotonic() < deadline, host.told()
            time.sleep(0.1)
        host.log.write_bytes(b"")

    def cut(self) -> None:
        """Pull the worker's cable."""
        ip("-n", self.worker.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put it back."""
        ip("-n", self.worker.name, "link", "set", "eth0", "up")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A cluster of two hosts with a token, gone afterwards; skipped where none can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program `ip`")
    token, made = secrets.token_hex(32), list[Host]()
    try:
        for role, address in (("head", "10.77.0.1"), ("worker", "10.77.0.2")):
            made.append(Host(role, address, token))
    except OSError as error:
        for host in made:
            host.remove()
        pytest.skip(f"network namespaces cannot be made: {error}")
    try:
        yield Hosts(*made)
    finally:
        for host in made:
            host.remove()
        left = [name for name in ip("netns", "list").split() if f"clipmill-{os.getpid()}-" in name]
        assert not left, "namespaces stay behind"

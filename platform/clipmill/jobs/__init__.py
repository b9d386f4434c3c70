"""Commands on a Ray cluster: what runs here is shipped there, run by its head, followed and ended.

A job is one command of ours; its exit code is the job's. Knows no recipe and no verb by name.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clipmill.jobs import follow as following
from clipmill.jobs import head, order, wheels
from clipmill.jobs.head import Head

__all__ = ["Order", "listed", "logs", "stop", "submit", "wait"]

STOPPED_CODE = 143  # as of a process that SIGTERM has ended
START_SECONDS = 60.0
NO_AGENT = "No available agent to submit job"  # how Ray tells it

Write = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """A command, and what goes with it."""

    words: Sequence[str]
    name: str = ""  # of what it works on: part of the job's id
    files: Mapping[str, bytes] = field(default_factory=dict)  # words that name them get their place
    env: Sequence[str] = ()  # NAME of a variable here, or NAME=VALUE
    packages: Sequence[str] = ()  # beside the platform and all plugins
    python: str | None = None  # on the head; else one that has Ray is looked for
    begins_at: str | None = ""  # where relative paths begin, else here; None where it has none


def submit(
    given: Order, address: str | None = None, *, follow: bool = True, write: Write | None = None
) -> dict[str, Any]:
    """Run a command on a cluster, and tell what became of it; `write` hears its output."""
    with head.at(address) as there, tempfile.TemporaryDirectory(prefix="clipmill-job-") as folder:
        shipped = wheels.make(folder, given.packages)
        asked = order.order(
            given.words, given.files, folder,
            python=given.python, env=given.env, begins_at=given.begins_at,
        )  # fmt: skip
        wheels.unpack(shipped, asked.folder)
        job = f"{_id(given)}-{secrets.token_hex(3)}"
        _begin(
            there,
            entrypoint=asked.entrypoint,
            submission_id=job,
            runtime_env=asked.runtime_env,
            metadata={"clipmill": asked.shown},
        )
        told = {"shipped": [f"{wheel.name}=={wheel.version}" for wheel in shipped]}
        if not follow:
            return {**_state(there, job), **told}
        with _let_alone(job, there.address):
            text = following.follow(there, job, write or (lambda _: None))
        return {**_ended(there, job), **told, **_result(text)}


def _begin(there: Head, **asked: Any) -> None:
    """Start a job; a head that has just come up may have nobody yet to start it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            there.client.submit_job(**asked)
            return
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(following.LOOK_SECONDS)


def _id(given: Order) -> str:
    words = [given.words[0], given.name] if given.name else [given.words[0]]
    plain = "-".join(words)
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in plain)[:60]


def listed(address: str | None = None) -> dict[str, Any]:
    """Tell of all jobs of a cluster, the newest first."""
    with head.at(address) as there:
        found = [each for each in there.client.list_jobs() if each.submission_id]
        rows = [_row(each) for each in found]
        rows.sort(key=lambda row: row["started"] or 0, reverse=True)
        return {"address": there.address, "jobs": rows}


def logs(
    job: str, address: str | None = None, *, follow: bool = False, write: Write
) -> dict[str, Any]:
    """Give what a job has printed; following it until it ends."""
    with head.at(address, job) as there:
        if follow:
            with _let_alone(job, there.address):
                following.follow(there, job, write)
            return _ended(there, job)
        there.client.get_job_info(job)
        write(there.client.get_job_logs(job))
        return _state(there, job)


def stop(job: str, address: str | None = None) -> dict[str, Any]:
    """Ask a job to end, and wait until it has: a run commits what it has learned first."""
    with head.at(address, job) as there:
        was_running = there.client.stop_job(job)
        with _let_alone(job, there.address):
            following.wait(there, job)
        return {**_state(there, job), "was_running": was_running}


def wait(job: str, address: str | None = None) -> dict[str, Any]:
    """Wait until a job has ended."""
    with head.at(address, job) as there, _let_alone(job, there.address):
        following.wait(there, job)
        return _ended(there, job)


def _state(there: Head, job: str) -> dict[str, Any]:
    return {**_row(there.client.get_job_info(job)), "address": there.address}


def _ended(there: Head, job: str) -> dict[str, Any]:
    """What became of a job, with its command's exit code."""
    info = there.client.get_job_info(job)
    code, told = info.driver_exit_code, {}
    if code is None:
        code = {"SUCCEEDED": 0, "STOPPED": STOPPED_CODE}.get(str(info.status), 1)
        if code == 1:  # it never began
            told = {"message": _last_line(info.message or "")}
    return {**_row(info), "address": there.address, "exit_code": code, **told}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _row(info: Any) -> dict[str, Any]:
    began, ended = info.start_time, info.end_time
    end = ended or (time.time() * 1000 if began else None)
    return {
        "job": info.submission_id,
        "status": str(info.status),
        "command": (info.metadata or {}).get("clipmill") or info.entrypoint,
        "started": began / 1000 if began else None,
        "seconds": (end - began) / 1000 if began and end else None,
    }


def _result(text: str) -> dict[str, Any]:
    found = following.last_object(text)
    return {} if found is None else {"result": found}


@contextmanager
def _let_alone(job: str, address: str) -> Iterator[None]:
    """Ctrl-C ends the waiting, not the job."""
    try:
        yield
    except KeyboardInterrupt:
        at = f"--address {address}"
        raise KeyboardInterrupt(
            f"{job} goes on; `clipmill jobs logs {job} --follow {at}` follows it again,"
            f" `clipmill jobs stop {job} {at}` ends it"
        ) from None

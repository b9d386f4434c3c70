"""The jobs port of a cluster's head: its address, its token, and its faults in one line.

Knows nothing of what is run there.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clipmill.errors import RunError, StorageError, UsageError

USUAL = "http://127.0.0.1:8265"
REACH_SECONDS = 10.0
NOT_FOUND = "Request failed with status code 404:"  # how Ray's client begins to tell of it


@dataclass(frozen=True)
class Head:
    """A head that answers, and how to talk to it."""

    address: str
    client: Any


def address_of(given: str | None) -> str:
    """The address asked for, or that of the environment, or the usual one."""
    named = given or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not named and os.environ.get("RAY_ADDRESS", "").startswith(("http://", "https://")):
        named = os.environ["RAY_ADDRESS"]
    named = named or USUAL
    whole = named if "://" in named else f"http://{named}"
    try:
        parts = urlsplit(whole)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise UsageError(
            f"the address {named}", "that of a head's jobs port, such as http://HOST:8265"
        )
    return whole.rstrip("/")


def token() -> str | None:
    """The cluster's token, from where Ray itself looks for it."""
    if found := os.environ.get("RAY_AUTH_TOKEN"):
        return found.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except OSError as error:
        if named:
            raise StorageError(
                f"RAY_AUTH_TOKEN_PATH={named} cannot be read: {error.strerror}", "the token's file"
            ) from error
        return None


@contextlib.contextmanager
def at(given: str | None, job: str = "") -> Iterator[Head]:
    """Talk to a head; what goes wrong meanwhile is told in one line."""
    address = address_of(given)
    _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard", "ray.job_submission"):
        logging.getLogger(name).setLevel(logging.ERROR)
    secret = token()
    # An empty one, too: Ray would look for a token by itself, and keeps what it has found once.
    headers = {"Authorization": f"Bearer {secret}" if secret else ""}
    with _told(address, job):
        yield Head(address, JobSubmissionClient(address, headers=headers))


def _reach(address: str) -> None:
    """Try the port: what lies behind a silent address would be waited for without end."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), REACH_SECONDS).close()
    except OSError as error:
        raise _nobody(address, error.strerror or str(error)) from error


def _nobody(address: str, why: str) -> RunError:
    return RunError(
        f"no Ray head at {address}: {why}",
        "the jobs port of one that runs",
        "name it in --address or RAY_API_SERVER_ADDRESS; `ray start --head` tells it",
    )


@contextlib.contextmanager
def _told(address: str, job: str) -> Iterator[None]:
    from ray.exceptions import AuthenticationError
    from requests.exceptions import RequestException

    try:
        yield
    except AuthenticationError as error:
        raise RunError(
            f"the head at {address} refuses the token" if token() else
            f"the head at {address} asks for a token, and there is none here",
            "the token of its cluster",
            "give it in RAY_AUTH_TOKEN, or its file in RAY_AUTH_TOKEN_PATH",
        ) from error  # fmt: skip
    except (ConnectionError, RequestException) as error:
        raise _nobody(address, _short(error)) from error
    except RuntimeError as error:
        if job and str(error).startswith(NOT_FOUND):
            raise RunError(
                f"no job {job} at {address}", "one of its jobs", "`clipmill jobs list` tells them"
            ) from error
        if "Version check" in str(error):
            raise _nobody(address, "what answers there is no Ray") from error
        raise RunError(
            f"the head at {address} refused: {_short(error)}", "one that agrees"
        ) from error


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]

"""Runs one measurement in a process of its own, and ends what it leaves behind."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

MARK = "CLIPMILL_BENCH_RUN"
BENCH = Path(__file__).resolve().parents[1]
TOLD_LINES = 3
SWEEPS = 5


class FailedError(Exception):
    """A measurement that came to nothing, with what the process said last."""


def run(asked: dict[str, Any], limit_seconds: float, python: str = sys.executable) -> dict[str, Any]:  # fmt: skip
    """Do one job in a fresh process and return its answer."""
    mark = secrets.token_hex(8)
    paths = [str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, MARK: mark, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log"
        command = [python, "-m", "rivals.child", json.dumps({**asked, "answer": str(answer)})]
        with log.open("wb") as said:
            child = subprocess.Popen(
                command, cwd=BENCH, env=environment, stdout=said, stderr=said,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                code: object = child.wait(limit_seconds)
            except subprocess.TimeoutExpired:
                code = f"none within {limit_seconds:.0f} s"
            finally:
                end_marked(mark)
                child.wait()
        if not answer.exists():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise FailedError(f"exit {code}: {' | '.join(lines[-TOLD_LINES:])}")
        told: dict[str, Any] = json.loads(answer.read_text())
        return told


def end_marked(mark: str) -> None:
    """End the processes of one run, whoever their parent is now: workers outlive a broken one."""
    for _ in range(SWEEPS):
        left = [process for process in psutil.process_iter() if is_marked(process, mark)]
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)  # those killed may have started others meanwhile


def is_marked(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get(MARK) == mark
    return False

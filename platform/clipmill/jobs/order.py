"""A command as Ray Jobs takes it: a folder with the files it needs, a script, an environment.

The script looks for a Python that has Ray, goes where the command was given, and becomes the
command itself, so that a signal reaches that and nothing between. What a job is shipped with lies in
a folder that Ray throws away later: nothing may begin there that a command writes.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.errors import UsageError
from clipmill.recipe import anchored_store

STOP_SECONDS = 120  # for a command that is told to stop: a run's step and commit
SETUP_SECONDS = 600
PASSED_ON = ("MLFLOW_TRACKING_URI",)  # where runs are told of must be the same there
RUN = "run.sh"
MAIN = "from clipmill.cli import main; main()"
SCRIPT = """\
here=$PWD
cd {cwd} 2>/dev/null || {otherwise}
for python in {pythons}; do
  if "$python" -c 'import ray, clipmill' 2>/dev/null; then
    exec "$python" -c {main} {words}
  fi
done
echo {no_python} >&2
exit 127
"""


@dataclass(frozen=True)
class Asked:
    """What Ray is asked to run."""

    entrypoint: str
    folder: str  # that is shipped; what lies in it can be imported there
    runtime_env: dict[str, Any]
    shown: str  # the command, as a person would give it


def order(
    words: Sequence[str],
    files: Mapping[str, bytes],
    folder: str,
    *,
    python: str | None = None,
    env: Sequence[str] = (),
    begins_at: str | None = "",
) -> Asked:
    """Write what a command needs into a folder to be shipped, and tell Ray how to run it.

    Its relative paths begin at `begins_at`, or here, or at home if the head has no such folder;
    None is for one that has none.
    """
    home = Path(folder, "job")
    home.mkdir()
    placed = {}
    for number, (name, data) in enumerate(files.items()):
        inner = f"{number}-{re.sub(r'[^A-Za-z0-9_.-]', '-', os.path.basename(name))}"
        (home / inner).write_bytes(data)
        placed[name] = f'"$here"/{inner}'
    (home / RUN).write_text(_script(words, placed, python, begins_at))
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **_variables(env)}
    runtime_env = {
        "working_dir": str(home),
        "env_vars": variables,
        "config": {"setup_timeout_seconds": SETUP_SECONDS},
    }
    return Asked(f"exec sh {RUN}", str(home), runtime_env, shlex.join(["clipmill", *words]))


def _script(
    words: Sequence[str], placed: Mapping[str, str], python: str | None, begins_at: str | None
) -> str:
    cwd = begins_at or os.getcwd()
    if not os.path.isabs(cwd):
        raise UsageError(f"--folder {cwd}", "an absolute path, which all nodes have")
    pythons = [python] if python else [sys.executable, "python", "python3"]
    no_python = (
        f"clipmill: none of {', '.join(pythons)} on the head has Ray and what clipmill needs;"
        " wanted one that has; name it in --python"
    )
    return SCRIPT.format(
        cwd=shlex.quote(cwd),
        otherwise=":" if begins_at is None else _elsewhere(cwd, is_named=bool(begins_at)),
        pythons=shlex.join(pythons),
        main=shlex.quote(MAIN),
        words=" ".join(placed.get(word) or shlex.quote(word) for word in words),
        no_python=shlex.quote(no_python),
    )


def _elsewhere(cwd: str, *, is_named: bool) -> str:
    """What to do where the head has not the folder: a command may well have no relative paths."""
    wanted = "wanted one that all nodes share" if is_named else "relative paths begin at the home"
    told = f"clipmill: the head has no folder {cwd}; {wanted}; name another in --folder"
    then = f"exit {UsageError.exit_code}" if is_named else 'cd "${HOME:?}"'
    return f"{{ echo {shlex.quote(told)} >&2; {then}; }}"


def _variables(env: Sequence[str]) -> dict[str, str]:
    found = {name: anchored_store(os.environ[name]) for name in PASSED_ON if name in os.environ}
    for told in env:
        name, given, value = told.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"--env {told}", "NAME, or NAME=VALUE")
        if not given and name not in os.environ:
            raise UsageError(f"--env {name}", "a variable that is set here, or NAME=VALUE")
        found[name] = value if given else os.environ[name]
    return found

"""Verbs of a cluster: any command run there, and the jobs that are."""

from collections.abc import Callable, Sequence
from typing import Any

from clipmill.api.shared import recipe
from clipmill.errors import UsageError

Write = Callable[[str], None]
NOT_THERE = ("submit", "jobs")
SHIPPED = (".yaml", ".yml")  # words that name such a file of this machine send it along


def submit(
    source: Any = None,
    overrides: Sequence[str] = (),
    *,
    command: Sequence[str] = (),
    address: str | None = None,
    follow: bool = True,
    env: Sequence[str] = (),
    packages: Sequence[str] = (),
    python: str | None = None,
    folder: str | None = None,
    write: Write | None = None,
    for_programs: bool = False,
) -> dict[str, Any]:
    """Train a recipe on a Ray cluster, or run any `command` (words without `clipmill`) there.

    The platform and all installed plugins are shipped as wheels. Relative paths of a command begin
    at `folder` there, or at the folder here, or at home if the head has no such. `write` hears what
    is printed; without `follow` it is not waited for. `for_programs` asks for the verb's own `result`.
    """
    from clipmill import jobs

    if (source is None) == (not command):
        raise UsageError("a recipe and a command, or neither", "one of them")
    if folder is not None and not command:
        raise UsageError(
            f"a folder {folder} for a recipe", "its paths to begin here", "set run.folder"
        )
    words, name, files = _command(command) if command else _training(source, overrides)
    if for_programs and "--json" not in words:
        words.append("--json")
    begins_at = (folder or "") if command else None
    order = jobs.Order(words, name, files, env, packages, python, begins_at)
    return jobs.submit(order, address, follow=follow, write=write)


def _training(source: Any, overrides: Sequence[str]) -> tuple[list[str], str, dict[str, bytes]]:
    """Refuse what is no recipe before anything is sent; a relative path begins at the folder here."""
    import yaml

    given = recipe(source, overrides).anchored()
    name = f"{given.run.name}.yaml"
    return ["train", name], given.run.name, {name: yaml.safe_dump(given.plain()).encode()}


def _command(words: Sequence[str]) -> tuple[list[str], str, dict[str, bytes]]:
    import os
    from pathlib import Path

    if words[0] in NOT_THERE:
        raise UsageError(f"{words[0]} on a cluster", "a command that works there")
    files = {
        word: Path(word).read_bytes()
        for word in words[1:]
        if word.endswith(SHIPPED) and os.path.isfile(word)
    }
    return list(words), "", files


def jobs_list(*, address: str | None = None) -> dict[str, Any]:
    """Tell of all jobs of a cluster, the newest first."""
    from clipmill import jobs

    return jobs.listed(address)


def jobs_logs(
    job: str, *, address: str | None = None, follow: bool = False, write: Write
) -> dict[str, Any]:
    """Give what a job has printed to `write`; following it until it ends, if asked."""
    from clipmill import jobs

    return jobs.logs(job, address, follow=follow, write=write)


def jobs_stop(job: str, *, address: str | None = None) -> dict[str, Any]:
    """End a job, and wait until it has ended: a run commits what it has learned first."""
    from clipmill import jobs

    return jobs.stop(job, address)


def jobs_wait(job: str, *, address: str | None = None) -> dict[str, Any]:
    """Wait until a job has ended, and tell its exit code."""
    from clipmill import jobs

    return jobs.wait(job, address)

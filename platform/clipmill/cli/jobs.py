"""Verbs of a cluster: any command run there, and the jobs that are."""

import difflib
import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from clipmill.amounts import duration
from clipmill.cli import screen
from clipmill.cli.app import app, on_screen, verb
from clipmill.errors import UsageError

jobs = typer.Typer(
    help="Jobs on a Ray cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Head = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Jobs port of a head; else RAY_API_SERVER_ADDRESS, else that of this machine.",
    ),
]
Job = Annotated[str, typer.Argument(help="Its id.")]


def _to_errors(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _to_output(text: str) -> None:
    print(text, end="", flush=True, file=sys.stderr if on_screen.for_programs else sys.stdout)


def _moment(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def _show_one(result: dict[str, Any]) -> None:
    took = {} if result["seconds"] is None else {"seconds": duration(result["seconds"])}
    screen.pairs({**result, "started": _moment(result["started"]), **took})


class _Submit(TyperCommand):
    """Tells who asks for a verb as for an option how it is asked for."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        own = args[: args.index("--")] if "--" in args else args
        for word in own:
            if word.startswith("--") and word[2:] in _verbs():
                _refuse(f"submit {word}", f"the verb after --: submit -- {word[2:]} ...")
        behind = args[len(own) + 1 :]
        rest = super().parse_args(ctx, args)
        if behind and behind == list(ctx.params["words"]) and behind[0] not in _verbs():
            near = difflib.get_close_matches(behind[0], _verbs(), 3)
            todo = f"did you mean {', '.join(near)}?" if near else "`clipmill --help` lists them"
            _refuse(f"no verb {behind[0]!r}", "a verb after --", todo)
        return rest


def _refuse(got: str, wanted: str, todo: str = "") -> None:
    told = UsageError(got, wanted, todo)
    screen.error(str(told))
    raise typer.Exit(told.exit_code)


def _verbs() -> set[str]:
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@verb(app, "submit", _show_one, cls=_Submit)
def submit(
    words: Annotated[
        list[str],
        typer.Argument(
            help="A recipe with its overrides; or, after --, a verb with all that belongs to it.",
            metavar="RECIPE [KEY=VALUE ...] | -- VERB ...",
        ),
    ],
    address: Head = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for it.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(help="A variable to set there: NAME as it is here, or NAME=VALUE."),
    ] = None,
    package: Annotated[
        list[str] | None,
        typer.Option(help="A package of this machine to ship beside platform and plugins."),
    ] = None,
    python: Annotated[str | None, typer.Option(help="Python on the head.")] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Where a verb's relative paths begin there; else here, or at home."),
    ] = None,
) -> dict[str, Any]:
    """Train a recipe on a Ray cluster, or run any verb there, and follow what it prints.

    \b
    clipmill submit c3d train.workers=8 --address http://HEAD:8265
    clipmill submit -- ingest s3://bucket/videos --out s3://bucket/data
    clipmill submit --detach -- evaluate NAME@champion s3://bucket/data
    clipmill submit --folder /shared -- sweep c3d 'train.seed=[1,2]'

    Ships the recipe, the platform and all plugins; paths are those of the cluster, such as a
    mount that all share, or s3://. Ctrl-C leaves the job alone. Ends with the exit code of the verb.
    """
    from clipmill import api

    is_verb = words[0] in _verbs()
    return api.submit(
        None if is_verb else words[0], () if is_verb else words[1:],
        command=words if is_verb else (), address=address, follow=not detach, env=env or (),
        packages=package or (), python=python, folder=folder, write=_to_errors,
        # What a program asked for is asked of the verb, too.
        for_programs=on_screen.for_programs,
    )  # fmt: skip


def _show_list(result: dict[str, Any]) -> None:
    rows = [
        (
            row["job"],
            row["status"],
            _moment(row["started"]),
            duration(row["seconds"]),
            row["command"],
        )
        for row in result["jobs"]
    ]
    screen.table(result["address"], ("job", "status", "started", "time", "command"), rows)


@verb(jobs, "list", _show_list)
def jobs_list(address: Head = None) -> dict[str, Any]:
    """Tell of all jobs of a cluster, the newest first; reads only."""
    from clipmill import api

    return api.jobs_list(address=address)


def _show_nothing(result: dict[str, Any]) -> None:
    """All that was asked for has been printed."""


@verb(jobs, "logs", _show_nothing)
def jobs_logs(
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", help="Until it ends.")] = False,
    address: Head = None,
) -> dict[str, Any]:
    """Print what a job has printed; reads only. Following it ends with its exit code."""
    from clipmill import api

    return api.jobs_logs(job, address=address, follow=follow, write=_to_output)


@verb(jobs, "stop", _show_one)
def jobs_stop(job: Job, address: Head = None) -> dict[str, Any]:
    """End a job and wait until it has ended; a run commits what it has learned first."""
    from clipmill import api

    return api.jobs_stop(job, address=address)


@verb(jobs, "wait", _show_one)
def jobs_wait(job: Job, address: Head = None) -> dict[str, Any]:
    """Wait until a job has ended; ends with its exit code."""
    from clipmill import api

    return api.jobs_wait(job, address=address)


app.add_typer(jobs, name="jobs")

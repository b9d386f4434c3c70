"""What makes a function a verb: `--json`, one line for an error, exit codes, clean Ctrl-C."""

import functools
import inspect
import signal
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from clipmill.cli import screen
from clipmill.errors import ClipmillError

app = typer.Typer(
    help="From a heap of video to trained, tracked and served models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help in plain text takes half the time
    pretty_exceptions_enable=False,
)

STOPPED = "stopped; what was finished is kept, the same command goes on from there"

Show = Callable[[dict[str, Any]], None]
on_screen = screen.Screen()

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, such as train.steps=50.", metavar="KEY=VALUE")
]
Recipe = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")]
Runs = Annotated[str, typer.Option("--runs", help="Folder of all runs.")]
Tracking = Annotated[
    str | None, typer.Option("--track", help="MLflow store; else MLFLOW_TRACKING_URI, else SQLite.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster; else RAY_ADDRESS, else a local one.")
]


def verb(
    group: typer.Typer, name: str, show: Show = screen.pairs, cls: type[TyperCommand] | None = None
) -> Callable[..., Any]:
    """Make a function a verb: `--json`, one line for an error, exit codes, clean Ctrl-C."""

    def made(function: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, as_json: bool = False, **options: Any) -> None:
            raise typer.Exit(_run(function, show, as_json, args, options))

        old = inspect.signature(function)
        extra = inspect.Parameter(
            "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json
        )
        run.__signature__ = old.replace(parameters=[*old.parameters.values(), extra])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, "as_json": Json}
        return group.command(name, cls=cls)(run)

    return made


def _run(
    function: Callable[..., dict[str, Any] | None],
    show: Show,
    as_json: bool,
    args: Any,
    options: Any,
) -> int:
    on_screen.for_programs = as_json
    try:
        result = function(*args, **options)
        on_screen.close()
        if result is not None:
            on_screen.result(result, show)
        return int((result or {}).get("exit_code", 0))
    except BrokenPipeError:  # whoever read our output has gone; typer ends quietly
        raise
    except (ClipmillError, OSError) as error:
        told = error if isinstance(error, ClipmillError) else ClipmillError(str(error))
        on_screen.close()
        screen.error(str(told))
        if as_json:
            screen.as_json({"error": str(told)})
        return told.exit_code
    except KeyboardInterrupt as stop:
        on_screen.close()
        screen.error(str(stop) or STOPPED)
        return int(getattr(stop, "exit_code", 130))


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _stop)  # ends as cleanly as Ctrl-C
    app()

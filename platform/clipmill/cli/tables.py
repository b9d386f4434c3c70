"""Verbs that make tables: the evidence and the models of a family, what a run is worth to others."""

import sys
from typing import Annotated, Any

import typer

from clipmill.cli import screen
from clipmill.cli.app import Overrides, Runs, Tracking, app, on_screen, verb
from clipmill.cli.installed import plugins
from clipmill.errors import UsageError

Into = Annotated[
    str | None, typer.Option(help="Put the Markdown between its marks in this file, too.")
]


def _show_evidence(result: dict[str, Any]) -> None:
    shown = (
        "world",
        "model",
        "mean",
        "spread",
        "chance",
        "values",
        "videos",
        "parameters",
        "flops",
    )
    screen.table("", shown, [[row[key] for key in shown] for row in result["rows"]])
    columns = ("verdict", "seeds", "claim", "figures")
    screen.table("", columns, [[row[key] for key in columns] for row in result["claims"]])
    for each in result["failed"]:
        screen.error(f"{each['name']} failed: {each['error']}")
    done = f"{result['trials_done']} of {result['trials']} trials"
    print(f"{done}; {result['files']['md']}, {result['files']['png']}", file=sys.stderr)


@verb(app, "evidence", _show_evidence)
def evidence(
    family: Annotated[str, typer.Argument(help="A shipped file, such as classify, or a path.")],
    folder: Annotated[str, typer.Option(help="Folder of worlds, runs and tables.")] = "evidence",
    only: Annotated[
        list[str] | None, typer.Option(help="Only these worlds and models.", metavar="NAME")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    part: Annotated[str, typer.Option(help="Of the trials, such as 1/2.")] = "1/1",
    show_only: Annotated[
        bool, typer.Option("--print", help="Run nothing, tell what is there.")
    ] = False,
    into: Into = None,
) -> dict[str, Any]:
    """Train and test what a family's claims need, and mark each as shown or refuted.

    Writes worlds, runs, trials and tables into FOLDER; the same command goes on where it was.
    Ends with 1 if a claim is refuted or a trial failed.
    """
    from clipmill import api

    told = api.evidence(
        family, folder=folder, only=only or (), seeds=seeds, part=_part(part), run=not show_only,
        into=into, progress=on_screen.progress,
    )  # fmt: skip
    wrong = told["failed"] or any(each["verdict"] == "refuted" for each in told["claims"])
    return {**told, "exit_code": 1} if wrong else told


def _part(told: str) -> tuple[int, int]:
    number, _, count = told.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise UsageError(f"--part {told}", "such as 1/2, the first of two")
    return int(number), int(count)


def _show_models(result: dict[str, Any]) -> None:
    print(result["markdown"])


@verb(plugins, "table", _show_models)
def plugins_table(
    family: Annotated[str, typer.Argument(help="Such as classify.")],
    classes: Annotated[int, typer.Option(min=1, help="Classes to count parameters for.")] = 101,
    into: Into = None,
) -> dict[str, Any]:
    """Tell what the models of a family are, see, cost and need; trains nothing."""
    from clipmill import api

    return api.plugins_table(family, classes=classes, into=into)


def _show_transfer(result: dict[str, Any]) -> None:
    for line in dict.fromkeys(line for each in result["protocols"] for line in each["init"]):
        print(line, file=sys.stderr)
    shown = ("protocol", "share", "begins", "mean", "spread", "values", "training_videos", "videos")
    screen.table("", shown, [[row[key] for key in shown] for row in result["rows"]])
    screen.table("", ("",), [[line] for line in result["verdict"]])
    for each in result["failed"]:
        screen.error(f"{each['name']} failed: {each['error']}")
    done = f"{result['trials_done']} of {result['trials']} trials"
    print(f"{done}; {result['files']['md']}, {result['files']['png']}", file=sys.stderr)


@verb(app, "transfer", _show_transfer)
def transfer(
    target: Annotated[str, typer.Argument(help="A run, or NAME@alias, or NAME/3.")],
    data: Annotated[str, typer.Argument(help="A dataset with labels.")],
    overrides: Overrides = None,
    protocol: Annotated[
        str, typer.Option(help="probe trains what is new, finetune all of it.")
    ] = "probe,finetune",
    labels: Annotated[str, typer.Option(help="Fractions of the training videos.")] = "0.01,0.1,1.0",
    seeds: Annotated[int, typer.Option(min=1, help="Trials of each.")] = 3,
    out: Annotated[str, typer.Option(help="Folder of trials, table and plot.")] = "transfer",
    part: Annotated[str, typer.Option(help="Of the trials, such as 1/2.")] = "1/1",
    show_only: Annotated[
        bool, typer.Option("--print", help="Train nothing, tell what is there.")
    ] = False,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Try what a run has learned on other data, beside random weights, over fractions of labels.

    Writes runs, trials, a table and a plot into OUT; the same command goes on where it was. Keys
    may be set for one protocol, such as probe.model.learning_rate=0.01. Ends with 1 if a trial failed.
    """
    from clipmill import api

    told = api.transfer(
        target, data, overrides or (), protocols=_words(protocol), labels=_numbers(labels),
        seeds=seeds, out=out, part=_part(part), run=not show_only, folder=runs, tracking=track,
        progress=on_screen.progress,
    )  # fmt: skip
    return {**told, "exit_code": 1} if told["failed"] else told


def _words(told: str) -> list[str]:
    return [word.strip() for word in told.split(",") if word.strip()]


def _numbers(told: str) -> list[float]:
    try:
        return [float(word) for word in _words(told)]
    except ValueError:
        raise UsageError(f"--labels {told}", "fractions such as 0.01,0.1,1.0") from None

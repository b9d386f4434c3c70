"""Verbs that ask a model: tested, compared, asked about videos, served."""

import os
from typing import Annotated, Any

import typer

from clipmill.cli import screen
from clipmill.cli.app import Address, Runs, Tracking, app, on_screen, verb

Split = Annotated[str | None, typer.Option(help="Test on this split of the data.")]
Where = Annotated[str | None, typer.Option(help="Test on these records only.")]
Clips = Annotated[int | None, typer.Option(min=1, help="Clips of each video.")]
Crops = Annotated[int | None, typer.Option(help="Places in each clip, 1 or 3.")]
Workers = Annotated[int, typer.Option(min=0, help="Workers on Ray; 0 tests in this process.")]


def _show_evaluation(result: dict[str, Any]) -> None:
    shown = ("run", "name", "version", "data", "videos", "bad_clips", "videos_without_answer")
    told = {key: result[key] for key in (*shown, "protocol") if key in result}
    if unfit := result.get("unfit"):
        told["left out"] = ", ".join(f"{count} {reason}" for reason, count in unfit.items())
    figures = result.get("figures", {})
    if figures:
        told["calibration error"] = figures["calibration"]["error"]
    health = {"health": result["health"]} if "health" in result else {}
    screen.pairs({**told, **result["metrics"], **health})
    if rows := figures.get("worst", ())[:5]:
        columns = ("target", "label", "probability", "key")
        screen.table("worst errors", columns, [[row[key] for key in columns] for row in rows])
    if "originals" in result:
        screen.table("originals", ("", ""), result["originals"].items())


@verb(app, "evaluate", _show_evaluation)
def evaluate(
    target: Annotated[str, typer.Argument(help="A run, or NAME@alias, or NAME/3.")],
    data: Annotated[str | None, typer.Argument(help="Another dataset than its own.")] = None,
    split: Split = None,
    where: Where = None,
    clips: Clips = None,
    crops: Crops = None,
    workers: Workers = 0,
    originals: Annotated[
        bool, typer.Option("--originals", help="Ask about the records' source files, too.")
    ] = False,
    pictures: Annotated[str | None, typer.Option(help="Folder to draw figures into.")] = None,
    runs: Runs = "runs",
    track: Tracking = None,
    address: Address = None,
) -> dict[str, Any]:
    """Test a run or a version on a test split; writes nothing but pictures, if asked."""
    from clipmill import api

    return api.evaluate(
        target, data, split=split, where=where, clips=clips, crops=crops, workers=workers,
        address=address, originals=originals, pictures=pictures, folder=runs, tracking=track,
        progress=on_screen.progress,
    )  # fmt: skip


def _show_comparison(result: dict[str, Any]) -> None:
    shown = ("model", "value", "videos", "bad_clips", "protocol")
    title = f"{result['metric']} on {result['data']}"
    screen.table(title, shown, [[row[key] for key in shown] for row in result["rows"]])
    screen.table("", ("",), [[pair["verdict"]] for pair in result["pairs"]])


@verb(app, "compare", _show_comparison)
def compare(
    targets: Annotated[list[str], typer.Argument(help="Runs, or NAME@alias, or NAME/3.")],
    data: Annotated[str | None, typer.Option(help="The dataset to test all on.")] = None,
    split: Split = None,
    where: Where = None,
    clips: Clips = None,
    crops: Crops = None,
    workers: Workers = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    runs: Runs = "runs",
    track: Tracking = None,
    address: Address = None,
) -> dict[str, Any]:
    """Test models on the same videos, and tell which is better and how surely; reads only."""
    from clipmill import api

    return api.compare(
        targets, data=data, split=split, where=where, clips=clips, crops=crops, workers=workers,
        address=address, seed=seed, folder=runs, tracking=track, progress=on_screen.progress,
    )  # fmt: skip


def _show_answers(result: dict[str, Any]) -> None:
    for video in result["videos"]:
        if "error" in video:
            screen.error(video["error"])
            continue
        if "timeline" in video:
            columns = ("start_seconds", "end_seconds", "label", "probability")
            rows = [[_shown(each[name]) for name in columns] for each in video["timeline"]]
            screen.table(video["video"], columns, rows)
            continue
        there = video.get("labels")  # of several classes those that are there
        ranked = video.get("classes", [])[:5] if there is None else video["classes"][: len(there)]
        rows = [[each["name"], _shown(each["probability"])] for each in ranked]
        screen.table(video["video"], ("class", "probability"), rows)


def _shown(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value


@verb(app, "predict", _show_answers)
def predict(
    version: Annotated[str, typer.Argument(help="NAME@alias, NAME/3 or a run.")],
    videos: Annotated[list[str], typer.Argument(help="Videos.")],
    each_frame: Annotated[
        bool, typer.Option("--each-frame", help="Beside a timeline, each frame's probabilities.")
    ] = False,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Answer videos with a model; reads only."""
    from clipmill import api

    result = api.predict(version, videos, each_frame=each_frame, folder=runs, tracking=track)
    failed = any("error" in video for video in result["videos"])
    return {**result, "exit_code": 1} if failed else result


def _show_picture(result: dict[str, Any]) -> None:
    screen.pairs({name: value for name, value in result.items() if name != "rows"})


@verb(app, "picture", _show_picture)
def picture(
    target: Annotated[str, typer.Argument(help="A run, or NAME@alias, or NAME/3.")],
    out: Annotated[str, typer.Option(help="PNG or JPEG file to draw into.")],
    data: Annotated[str | None, typer.Argument(help="Another dataset than its own.")] = None,
    videos: Annotated[int, typer.Option(min=1, help="How many to draw.")] = 8,
    split: Split = None,
    where: Where = None,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Draw masks, heat maps or nearest neighbours of test videos, whichever a model gives, into OUT."""
    from clipmill import api

    return api.picture(
        target, data, out=out, videos=videos, split=split, where=where, folder=runs,
        tracking=track, progress=on_screen.progress,
    )  # fmt: skip


@verb(app, "features")
def features(
    target: Annotated[str, typer.Argument(help="A run, or NAME@alias, or NAME/3.")],
    data: Annotated[str, typer.Argument(help="The dataset to describe.")],
    out: Annotated[str, typer.Option(help="Folder to write the dataset of features to.")],
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Frames from a row to the next; else as the model looks."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store them as float16.")] = False,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Write a dataset of what a model makes of each frame, or clip, into OUT, to train others on."""
    from clipmill import api

    return api.features(
        target, data, out, every=every, precision="float16" if half else "float32",
        folder=runs, tracking=track, progress=on_screen.progress,
    )  # fmt: skip


@verb(app, "serve")
def serve(
    versions: Annotated[list[str], typer.Argument(help="NAME@alias, NAME/3 or runs.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[str | None, typer.Option(help="Else CLIPMILL_TOKEN, else a new one.")] = None,
    runs: Runs = "runs",
    track: Tracking = None,
) -> None:
    """Answer videos over HTTP until stopped; prints address and token."""
    from clipmill import api

    def ready(address: str, secret: str) -> None:
        page = f"{address}/#token={secret}"
        on_screen.result({"address": address, "token": secret, "page": page}, screen.pairs)

    chosen = token or os.environ.get("CLIPMILL_TOKEN")
    api.serve(
        versions, host=host, port=port, token=chosen, folder=runs, tracking=track, ready=ready
    )

"""Verbs that ask a model: tested, compared, asked about videos, served."""

import os
import sys
from typing import Annotated, Any

import typer

from clipmill.cli import screen, videos
from clipmill.cli.app import Address, Runs, Tracking, app, on_screen, verb
from clipmill.errors import UsageError

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
    if "calibration" in figures:
        told["calibration error"] = figures["calibration"]["error"]
    health = {"health": result["health"]} if "health" in result else {}
    screen.pairs({**told, **result["metrics"], **health})
    if rows := figures.get("worst", ())[:5]:
        columns = ("target", "label", "probability", "key")
        screen.table("worst errors", columns, [[row[key] for key in columns] for row in rows])
    if rows := figures.get("hardest", ()):
        columns = ("kind", "distance", "key", "other")
        screen.table("hardest pairs", columns, [[row[key] for key in columns] for row in rows])
    if pixels := result.get("pixels"):
        columns = ("name", "pixels", "accuracy", "iou")
        lines = [[row[key] for key in columns] for row in pixels["by_class"]]
        screen.table("pixels by class", columns, lines)
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
    if "out" in result:
        screen.pairs(result)
        return
    for answer in result["videos"]:
        if "error" in answer:
            screen.error(answer["error"])
        else:
            videos.show(answer)


OfSplit = Annotated[str | None, typer.Option(help="Only this split of the dataset; else all.")]
OfWhere = Annotated[str | None, typer.Option(help="Only these records of the dataset.")]
Actors = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Workers on Ray, a model each; 0 asks in this process. Else as there is room; where"
        " there is little to do and no cluster is named, in this process until the network shows"
        " to be a slow one.",
    ),
]


@verb(app, "predict", _show_answers)
def predict(
    version: Annotated[str, typer.Argument(help="NAME@alias, NAME/3, a run or a checkpoint.")],
    videos: Annotated[list[str], typer.Argument(help="Videos, or a dataset with --out.")],
    each_frame: Annotated[
        bool, typer.Option("--each-frame", help="Beside a timeline, each frame's probabilities.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="Parquet table to write: a row of every record.")
    ] = None,
    split: OfSplit = None,
    where: OfWhere = None,
    workers: Actors = None,
    runs: Runs = "runs",
    track: Tracking = None,
    address: Address = None,
) -> dict[str, Any]:
    """Answer videos with a model, or every record of a dataset into OUT; without it, reads only.

    A table that was broken off is gone on with by the same command.
    """
    from clipmill import api

    result = api.predict(
        version, videos, each_frame=each_frame, out=out, split=split, where=where,
        workers=workers, address=address, folder=runs, tracking=track,
        progress=on_screen.progress,
    )  # fmt: skip
    failed = any("error" in video for video in result.get("videos", ()))
    return {**result, "exit_code": 1} if failed else result


@verb(app, "embed")
def embed(
    version: Annotated[str, typer.Argument(help="NAME@alias, NAME/3, a run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="The dataset to embed.")],
    out: Annotated[str, typer.Option(help="Parquet table to write: a row of every record.")],
    neighbours: Annotated[
        int,
        typer.Option(
            min=0,
            help="Write so many nearest records beside each. All pairs are compared, in memory: for"
            " some 100,000 records, of which it takes minutes.",
        ),
    ] = 0,
    split: OfSplit = None,
    where: OfWhere = None,
    workers: Actors = None,
    runs: Runs = "runs",
    track: Tracking = None,
    address: Address = None,
) -> dict[str, Any]:
    """Write an embedding of every record of a dataset into OUT, with its nearest neighbours if asked.

    A table that was broken off is gone on with by the same command.
    """
    from clipmill import api

    return api.embed(
        version, data, out, neighbours=neighbours, split=split, where=where, workers=workers,
        address=address, folder=runs, tracking=track, progress=on_screen.progress,
    )  # fmt: skip


def _show_picture(result: dict[str, Any]) -> None:
    screen.pairs({name: value for name, value in result.items() if name != "rows"})


@verb(app, "picture", _show_picture)
def picture(
    target: Annotated[str, typer.Argument(help="A run, or NAME@alias, or NAME/3.")],
    out: Annotated[str, typer.Option(help="PNG or JPEG file, or MP4, to draw into.")],
    data: Annotated[str | None, typer.Argument(help="Another dataset than its own.")] = None,
    videos: Annotated[int, typer.Option(min=1, help="How many to draw.")] = 8,
    worst: Annotated[bool, typer.Option("--worst", help="Those answered worst.")] = False,
    file: Annotated[list[str] | None, typer.Option(help="Video to draw over, into an MP4.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each video, in an MP4.")] = 60.0,
    split: Split = None,
    where: Where = None,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Draw masks, things, heat maps or nearest neighbours of test videos, whichever a model gives."""
    from clipmill import api

    return api.picture(
        target, data, out=out, videos=videos, worst=worst, files=file or (), seconds=seconds,
        split=split, where=where, folder=runs, tracking=track, progress=on_screen.progress,
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
    name: Annotated[
        list[str] | None, typer.Option(help="Host name that others reach it by; refuse all others.")
    ] = None,
    gallery: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: whom videos for this model may show.")
    ] = None,
    refresh_seconds: Annotated[
        float, typer.Option(min=0.1, help="How soon a moved alias is followed.")
    ] = 5.0,
    max_mb: Annotated[int | None, typer.Option(min=1, help="Of a video; else 200.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Of a video; else 600.")
    ] = None,
    decoders: Annotated[int | None, typer.Option(min=1, help="Processes; else one a core.")] = None,
    runs: Runs = "runs",
    track: Tracking = None,
) -> None:
    """Answer videos over HTTP until stopped; prints address and token."""
    from clipmill import api

    def ready(address: str, secret: str) -> None:
        page = f"{address}/#token={secret}"
        on_screen.result({"address": address, "token": secret, "page": page}, screen.pairs)

    def leaving(count: int) -> None:
        wait = "1 request is" if count == 1 else f"{count} requests are"
        told = f"clipmill: stopping; {wait} still answered, unless Ctrl-C ends that"
        print(told, file=sys.stderr, flush=True)

    chosen = os.environ.get("CLIPMILL_TOKEN") or None if token is None else token
    api.serve(
        versions, host=host, port=port, token=chosen, names=name or (),
        galleries=_galleries(gallery or []), refresh_seconds=refresh_seconds, max_mb=max_mb,
        max_seconds=max_seconds, decoders=decoders, folder=runs, tracking=track, ready=ready,
        leaving=leaving,
    )  # fmt: skip


def _galleries(given: list[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    if bad := [
        each for each, (name, _, file) in zip(given, pairs, strict=True) if not (name and file)
    ]:
        raise UsageError(f"--gallery {bad[0]}", "NAME=FILE", "such as faces=known.safetensors")
    return {name: file for name, _, file in pairs}

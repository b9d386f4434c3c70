"""Verbs about videos and datasets: made, looked into, brought in, removed, shown."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from clipmill.cli import screen
from clipmill.cli.app import Runs, Tracking, app, on_screen, verb
from clipmill.errors import UsageError

worlds = typer.Typer(help="Controlled video sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(worlds, name="worlds")


def _show_world(result: dict[str, Any]) -> None:
    screen.pairs(result)
    print(f"next: clipmill ingest {result['table']} --out DATA", file=sys.stderr)


@verb(worlds, "make", _show_world)
def worlds_make(
    name: Annotated[
        str,
        typer.Argument(
            help="appearance, direction, order, long-gap, switch, av-joint, unlabelled, objects or"
            " identities."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder to write the videos to.")],
    videos: Annotated[int, typer.Option(min=1, help="Videos in all, 70/15/15.")] = 1000,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed makes the same videos.")] = 0,
    difficulty: Annotated[
        str, typer.Option(help="How hard it is to see: easy, default or hard.")
    ] = "default",
) -> dict[str, Any]:
    """Make a controlled video set; writes MP4 files, videos.csv and world.json into OUT.

    Ingest OUT/videos.csv, which tells labels of frames too; folders tell one class a video.
    """
    from clipmill import api

    return api.worlds_make(
        name, out, videos=videos, size=size, seed=seed, difficulty=difficulty,
        progress=on_screen.progress,
    )  # fmt: skip


@verb(app, "inspect")
def inspect_file(file: Annotated[str, typer.Argument(help="A video.")]) -> dict[str, Any]:
    """Tell what is really in a video; reads only."""
    from clipmill import api

    return api.inspect(file)


@verb(app, "ingest")
def ingest(
    source: Annotated[str, typer.Argument(help="A folder of videos, a table, or tars.")],
    out: Annotated[str, typer.Option(help="Folder to write shards and catalog to.")],
    layout: Annotated[
        str,
        typer.Option(
            help="auto, folder, unlabelled, csv, ucf101, kinetics, hmdb51, something or webdataset."
        ),
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a column in the table, such as label=class.", metavar="OUR=THEIR"
        ),
    ] = None,
    fold: Annotated[int, typer.Option(min=1, help="Which official split, of several.")] = 1,
    profile: Annotated[
        str, typer.Option(help="How videos are stored: training, keep, frames or raw.")
    ] = "training",
    size: Annotated[int | None, typer.Option(help="Short side in pixels, at most.")] = None,
    rate: Annotated[float | None, typer.Option(help="Frames a second.")] = None,
    ladder: Annotated[int | None, typer.Option(help="Every k-th frame is a reference.")] = None,
    crf: Annotated[int | None, typer.Option(help="Quality of x264; lower is better.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Take only these, such as 'duration > 2 and motion > 0.1'.")
    ] = None,
    motion: Annotated[
        bool, typer.Option("--motion", help="Measure motion, as a whole and each half second.")
    ] = False,
    curate: Annotated[
        bool,
        typer.Option(
            "--curate", help="Measure motion, light, sharpness, silence, shots, near-duplicates."
        ),
    ] = False,
    split_seconds: Annotated[
        float | None, typer.Option(help="Cut long videos into records of this length.")
    ] = None,
    split_shots: Annotated[
        bool, typer.Option("--split-shots", help="Cut videos where a new shot begins.")
    ] = False,
    max_corrupt_frames: Annotated[
        int, typer.Option(min=0, help="Damaged frames that a record may have.")
    ] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="With the profile keep: decode every frame.")
    ] = False,
    flow: Annotated[
        bool, typer.Option("--flow", help="Keep optical flow beside each video, for training.")
    ] = False,
    background: Annotated[
        str | None,
        typer.Option(help="Class of the frames that no span covers; else they have none."),
    ] = None,
) -> dict[str, Any]:
    """Write shards, a catalog and a ledger of what was not taken into OUT.

    Run again, it does only what is new or changed.
    """
    from clipmill import api

    fields = {"short_side": size, "rate": rate, "k": ladder, "crf": crf}
    chosen = {"name": profile, **{k: v for k, v in fields.items() if v is not None}}
    return api.ingest(
        source, out, layout=layout, columns=_columns(column or ()), fold=fold, profile=chosen,
        where=where, measure=_measures(motion, curate),
        split_seconds=split_seconds, split_shots=split_shots,
        max_corrupt_frames=max_corrupt_frames, check=check, flow=flow, background=background,
        progress=on_screen.progress,
    )  # fmt: skip


def _measures(motion: bool, curate: bool) -> tuple[str, ...]:
    return ("all",) if curate else ("motion", "motion_curve") if motion else ()


def _columns(told: Iterable[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in told]
    if bad := [ours for ours, sign, theirs in pairs if not (ours and sign and theirs)]:
        raise UsageError(f"--column {bad[0]}", "OUR=THEIR, such as label=class")
    return {ours: theirs for ours, _, theirs in pairs}


@verb(app, "forget")
def forget(
    data: Annotated[str, typer.Argument(help="A dataset.")],
    keys: Annotated[list[str], typer.Argument(help="Keys of records.", metavar="KEY")],
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Remove records from shards and catalog for good; lists runs and versions trained on them.

    Lists datasets of features that still hold them, too: forget them there as well.
    """
    from clipmill import api

    return api.forget(data, keys, folder=runs, tracking=track)


def _show_stats(result: dict[str, Any]) -> None:
    from clipmill import stats

    for section in stats.sections(result):
        screen.table(section.title, section.columns, section.rows)


@verb(app, "stats", _show_stats)
def stats(
    data: Annotated[str, typer.Argument(help="A dataset.")],
    where: Annotated[str | None, typer.Option(help="Only these.")] = None,
    plot: Annotated[str | None, typer.Option(help="Draw it into this SVG file, too.")] = None,
) -> dict[str, Any]:
    """Tell durations, classes, sizes and rates of a dataset; reads only."""
    from clipmill import api

    return api.stats(data, where=where, plot=plot)


@verb(app, "browse")
def browse(
    data: Annotated[str, typer.Argument(help="A dataset.")],
    out: Annotated[str, typer.Option(help="The page to write, such as page.html.")],
    limit: Annotated[int, typer.Option(min=1, help="Records to show, at most.")] = 500,
    where: Annotated[str | None, typer.Option(help="Show only these.")] = None,
) -> dict[str, Any]:
    """Write one page that shows a dataset, for any browser, offline."""
    from clipmill import api

    return api.browse(data, out, limit=limit, where=where, progress=on_screen.progress)


def _show_faults(result: dict[str, Any]) -> None:
    screen.table("", ("faults",), [[fault] for fault in result["faults"]] or [["none"]])


@verb(app, "verify", _show_faults)
def verify(
    data: Annotated[str, typer.Argument(help="A dataset.")],
    deep: Annotated[bool, typer.Option("--deep", help="Decode every frame.")] = False,
) -> dict[str, Any]:
    """Read a dataset back and name each fault; reads only."""
    from clipmill import api

    result = api.verify(data, deep=deep, progress=on_screen.progress)
    return {**result, "exit_code": 1} if result["faults"] else result

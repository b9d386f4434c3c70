"""The verbs of the command line; each gives plain data and a way to show it."""

import functools
import inspect
import os
import signal
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from clipmill.cli import pages, screen
from clipmill.errors import ClipmillError, UsageError

app = typer.Typer(
    help="From a heap of video to trained, tracked and served models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help in plain text takes half the time
    pretty_exceptions_enable=False,
)
worlds = typer.Typer(help="Controlled video sets.", no_args_is_help=True, rich_markup_mode=None)
plugins = typer.Typer(
    help="Models that are installed.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(worlds, name="worlds")
app.add_typer(plugins, name="plugins")

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

Anyway = Annotated[
    bool, typer.Option("--anyway", help="Go on though the dataset has changed; it is recorded.")
]


def verb(group: typer.Typer, name: str, show: Show = screen.pairs) -> Callable[..., Any]:
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
        return group.command(name)(run)

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


@verb(worlds, "make")
def worlds_make(
    name: Annotated[str, typer.Argument(help="appearance, direction, order or unlabelled.")],
    out: Annotated[str, typer.Option(help="Folder to write the videos to.")],
    videos: Annotated[int, typer.Option(min=1, help="Videos in all, 70/15/15.")] = 1000,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed makes the same videos.")] = 0,
) -> dict[str, Any]:
    """Make a controlled video set; writes MP4 files, videos.csv and world.json into OUT."""
    from clipmill import api

    return api.worlds_make(
        name, out, videos=videos, size=size, seed=seed, progress=on_screen.progress
    )


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
    motion: Annotated[bool, typer.Option("--motion", help="Measure motion.")] = False,
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
) -> dict[str, Any]:
    """Write shards, a catalog and a ledger of what was not taken into OUT.

    Run again, it does only what is new or changed.
    """
    from clipmill import api

    fields = {"short_side": size, "rate": rate, "k": ladder, "crf": crf}
    chosen = {"name": profile, **{k: v for k, v in fields.items() if v is not None}}
    return api.ingest(
        source, out, layout=layout, columns=_columns(column or ()), fold=fold, profile=chosen,
        where=where, measure=("all",) if curate else ("motion",) if motion else (),
        split_seconds=split_seconds, split_shots=split_shots,
        max_corrupt_frames=max_corrupt_frames, check=check, progress=on_screen.progress,
    )  # fmt: skip


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
    """Remove records from shards and catalog for good; lists runs and versions trained on them."""
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


@verb(app, "plan")
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Workers to plan for.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to dump.")] = 1,
    dump: Annotated[str | None, typer.Option(help="Write the takes to a Parquet file.")] = None,
) -> dict[str, Any]:
    """The dry run: what a recipe would train on; opens no video."""
    from clipmill import api

    return api.plan(recipe, overrides or (), ranks=ranks, epochs=epochs, dump=dump)


def _show_look(result: dict[str, Any]) -> None:
    shown = ("position", "label", "key", "first_seconds", "last_seconds")
    screen.table(result["file"], shown, [[t.get(key) for key in shown] for t in result["takes"]])


@verb(app, "look", _show_look)
def look(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(help="A .png or .jpg file to write; else NAME-STAGE.png here.")
    ] = None,
    stage: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    batch: Annotated[int, typer.Option(min=0, help="Which batch, from 0.")] = 0,
) -> dict[str, Any]:
    """Draw a batch as the model sees it, a row a take; writes one picture."""
    from clipmill import api

    return api.look(recipe, overrides or (), out=out, stage=stage, batch=batch)


def _show_run(result: dict[str, Any]) -> None:
    if "recipe" in result:
        import yaml

        print(yaml.safe_dump(result["recipe"], sort_keys=False), end="")
    else:
        screen.pairs(result)


def _show_feed(result: dict[str, Any]) -> None:
    shown = (
        "clips",
        "clips_per_second",
        "wait_share",
        "first_batch_seconds",
        "cpu_ms_a_clip",
        "bad",
    )
    screen.pairs({**{name: result[name] for name in shown}, "verdict": result["verdict"]})


@verb(app, "feed", _show_feed)
def feed(
    recipe: Recipe,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=2, help="Batches to take.")] = 100,
    step_ms: Annotated[float, typer.Option(min=0, help="What a pretended step takes.")] = 0.0,
    threads: Annotated[bool, typer.Option("--threads", help="Decode here, without Ray.")] = False,
    address: Address = None,
) -> dict[str, Any]:
    """Run the feed alone against a pretended step, and tell what limits; writes nothing."""
    from clipmill import api

    return api.measure_feed(
        recipe, overrides or (), steps=steps, step_ms=step_ms, threads=threads, address=address,
        progress=on_screen.progress,
    )  # fmt: skip


@verb(app, "train", _show_run)
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    show_only: Annotated[
        bool, typer.Option("--print", help="Print the resolved recipe and do nothing.")
    ] = False,
    track: Tracking = None,
    address: Address = None,
    anyway: Anyway = False,
) -> dict[str, Any]:
    """Train a recipe into RUNS/NAME; a broken run of that name goes on from its last commit."""
    from clipmill import api

    chosen = [*(overrides or ()), *([f"track.uri={track}"] if track else [])]
    if show_only:
        return {"recipe": api.recipe(recipe, chosen).plain()}
    return api.train(
        recipe, chosen, address=address, allow_changed_data=anyway, progress=on_screen.progress
    )


def _show_sweep(result: dict[str, Any]) -> None:
    columns = ("name", "state", "steps", result["metric"], "values", "error")
    shown = ("name", "state", "steps", "score", "values", "error")
    screen.table("", columns, [[row[key] for key in shown] for row in result["trials"]])
    best = result["best"]
    screen.pairs({"best": best["name"], "with": " ".join(best["overrides"])})
    print(result["command"])


@verb(app, "sweep", _show_sweep)
def sweep(
    recipe: Recipe,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Overrides, such as model.learning_rate=[0.001,0.01], or log(1e-4,1e-2),"
            " uniform(a,b), int(a,b).",
            metavar="KEY=VALUE",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many; else every combination of lists.")
    ] = None,
    eta: Annotated[
        int | None, typer.Option(min=2, help="Stop early: one trial of so many goes on.")
    ] = None,
    track: Tracking = None,
    address: Address = None,
) -> dict[str, Any]:
    """Train many trials into RUNS/NAME-000 and so on, and tell the best; the same command goes on."""
    from clipmill import api

    asked = {"sweep.trials": trials, "sweep.halving.eta": eta, "track.uri": track}
    chosen = [f"{key}={value}" for key, value in asked.items() if value is not None]
    return api.sweep(
        recipe, [*(overrides or ()), *chosen], address=address, progress=on_screen.progress
    )


@verb(app, "resume")
def resume(
    run: Annotated[str, typer.Argument(help="Name or id of a run.")],
    overrides: Overrides = None,
    runs: Runs = "runs",
    address: Address = None,
    anyway: Anyway = False,
) -> dict[str, Any]:
    """Go on with a broken run from its last commit, or tell MLflow the rest of a finished one."""
    from clipmill import api

    return api.resume(
        run,
        overrides or (),
        folder=runs,
        address=address,
        allow_changed_data=anyway,
        progress=on_screen.progress,
    )


@verb(app, "schema", screen.as_json)
def schema() -> dict[str, Any]:
    """Print the JSON schema of recipes, for editors."""
    from clipmill import api

    return api.schema()


Split = Annotated[str | None, typer.Option(help="Test on this split of the data.")]
Where = Annotated[str | None, typer.Option(help="Test on these records only.")]
Clips = Annotated[int | None, typer.Option(min=1, help="Clips of each video.")]
Crops = Annotated[int | None, typer.Option(help="Places in each clip, 1 or 3.")]
Workers = Annotated[int, typer.Option(min=0, help="Workers on Ray; 0 tests in this process.")]


def _show_evaluation(result: dict[str, Any]) -> None:
    shown = ("run", "name", "version", "data", "videos", "bad_clips", "videos_without_answer")
    told = {key: result[key] for key in (*shown, "protocol") if key in result}
    figures = result.get("figures", {})
    if figures:
        told["calibration error"] = figures["calibration"]["error"]
    screen.pairs({**told, **result["metrics"]})
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


@verb(app, "runs", pages.runs)
def runs(
    folder: Annotated[str, typer.Argument(help="Folder of all runs.")] = "runs",
) -> dict[str, Any]:
    """List the runs of a folder and where they stand; reads only."""
    from clipmill import api

    return api.runs(folder)


@verb(app, "show", pages.run)
def show(
    run: Annotated[str, typer.Argument(help="Name or id of a run.")],
    live: Annotated[bool, typer.Option("--live", help="Follow it while it lives.")] = False,
    runs: Runs = "runs",
) -> dict[str, Any]:
    """Show all that is known of one run; reads only."""
    from clipmill import api

    if live:
        return pages.follow(api.follow(run, folder=runs), on_screen.progress)
    return api.show(run, folder=runs)


@verb(app, "trace", pages.trace)
def trace(
    version: Annotated[str, typer.Argument(help="NAME@alias or NAME/3.")],
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Tell what a version came of: data, recipe, commit, run, figures, files; reads only."""
    from clipmill import api

    return api.trace(version, folder=runs, tracking=track)


@verb(app, "clean", pages.clean)
def clean(
    folder: Annotated[str, typer.Argument(help="Folder of all runs.")] = "runs",
    days: Annotated[float, typer.Option(min=0, help="Only what is this old.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    track: Tracking = None,
) -> dict[str, Any]:
    """List old runs, caches and what crashes left, with sizes; removes nothing without --yes.

    Living runs stay, and those that a registered version came of.
    """
    from clipmill import api

    return api.clean(folder, days=days, yes=yes, tracking=track)


@verb(app, "promote", pages.promoted)
def promote(
    run: Annotated[str, typer.Argument(help="Name or id of a run.")],
    name: Annotated[str, typer.Option(help="Name in the registry.")],
    alias: Annotated[str, typer.Option(help="Alias to give.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Also if it tests worse.")] = False,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Register a run's model under an alias, unless the one that holds it tests better."""
    from clipmill import api

    return api.promote(
        run, name=name, alias=alias, force=force, folder=runs, tracking=track,
        progress=on_screen.progress,
    )  # fmt: skip


def _show_answers(result: dict[str, Any]) -> None:
    for video in result["videos"]:
        if "error" in video:
            screen.error(video["error"])
            continue
        ranked = video.get("classes", [])[:5]
        rows = [[each["name"], f"{each['probability']:.4f}"] for each in ranked]
        screen.table(video["video"], ("class", "probability"), rows)


@verb(app, "predict", _show_answers)
def predict(
    version: Annotated[str, typer.Argument(help="NAME@alias, NAME/3 or a run.")],
    videos: Annotated[list[str], typer.Argument(help="Videos.")],
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Answer videos with a model; reads only."""
    from clipmill import api

    result = api.predict(version, videos, folder=runs, tracking=track)
    failed = any("error" in video for video in result["videos"])
    return {**result, "exit_code": 1} if failed else result


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


def _show_plugins(result: dict[str, Any]) -> None:
    shown = ("name", "family", "package", "version")
    screen.table("", shown, [[each[key] for key in shown] for each in result["plugins"]])
    for each in result["broken"]:
        screen.error(f"plugin {each['name']} of {each['package']} is broken: {each['fault']}")


@verb(plugins, "list", _show_plugins)
def plugins_list() -> dict[str, Any]:
    """List the plugins that are installed."""
    from clipmill import api

    return api.plugins_list()


def _show_plugin(result: dict[str, Any]) -> None:
    screen.pairs({key: value for key, value in result.items() if key != "fields"})
    shown = ("name", "default", "meaning")
    screen.table("fields", shown, [[each[key] for key in shown] for each in result["fields"]])


@verb(plugins, "show", _show_plugin)
def plugins_show(
    name: Annotated[str, typer.Argument(help="A plugin.")],
    classes: Annotated[int, typer.Option(min=1, help="Classes to count parameters for.")] = 101,
) -> dict[str, Any]:
    """Show a plugin's fields, paper and parameters at default size."""
    from clipmill import api

    return api.plugins_show(name, classes=classes)


def _show_checks(result: dict[str, Any]) -> None:
    words = {True: "ok", False: "FAILED", None: "not claimed"}
    rows = [[each["check"], words[each["ok"]], each["detail"]] for each in result["checks"]]
    screen.table(result["name"], ("check", "", ""), rows)


@verb(plugins, "check", _show_checks)
def plugins_check(name: Annotated[str, typer.Argument(help="A plugin.")]) -> dict[str, Any]:
    """Run the contract on a plugin; needs no data."""
    from clipmill import api

    result = api.plugins_check(name)
    return {**result, "exit_code": 0 if result["ok"] else 1}


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _stop)  # ends as cleanly as Ctrl-C
    app()

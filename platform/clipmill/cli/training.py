"""Verbs about a recipe: planned, looked at, fed, trained, swept, gone on with."""

from typing import Annotated, Any

import typer

from clipmill.cli import screen
from clipmill.cli.app import Address, Overrides, Recipe, Runs, Tracking, app, on_screen, verb

Anyway = Annotated[
    bool, typer.Option("--anyway", help="Go on though the dataset has changed; it is recorded.")
]


def _show_plan(result: dict[str, Any]) -> None:
    if "assumed" not in result:
        screen.pairs(result)
        return
    from clipmill.plan import page

    screen.pairs(page.lines(result))
    if rows := page.devices(result):
        screen.table("", page.DEVICE_COLUMNS, rows)
    screen.table("", ("",), [[each] for each in result["assumed"]])


@verb(app, "plan", _show_plan)
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Workers to plan for.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to dump.")] = 1,
    dump: Annotated[str | None, typer.Option(help="Write the takes to a Parquet file.")] = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Cores, hours, bytes and memory, from measured rates."),
    ] = False,
    videos: Annotated[
        int | None, typer.Option(min=1, help="Estimate so many, which need not be there.")
    ] = None,
    video_seconds: Annotated[float, typer.Option(min=0.1, help="Of each of them.")] = 30.0,
    device_clips: Annotated[
        float | None, typer.Option(min=0.01, help="Clips a second that your device takes.")
    ] = None,
    cores: Annotated[list[int] | None, typer.Option(min=1, help="Cores to ingest with.")] = None,
    into: Annotated[
        str | None, typer.Option(help="Put the estimate between its marks in this file, too.")
    ] = None,
) -> dict[str, Any]:
    """The dry run: what a recipe would train on, or what that takes; opens no video."""
    from clipmill import api

    if estimate:
        return api.estimate(
            recipe, overrides or (), videos=videos, video_seconds=video_seconds,
            device_clips=device_clips, cores=cores or (), into=into,
        )  # fmt: skip
    return api.plan(recipe, overrides or (), ranks=ranks, epochs=epochs, dump=dump)


def _show_look(result: dict[str, Any]) -> None:
    shown = ("position", "label", "key", "first_seconds", "last_seconds")
    takes = [{**take, "label": _classes_of(take)} for take in result["takes"]]
    screen.table(result["file"], shown, [[take.get(key) for key in shown] for take in takes])


def _classes_of(take: dict[str, Any]) -> str | None:
    """The classes of a take, or of its frames, in a few words."""
    several = take.get("labels") or [span["label"] for span in take.get("spans", ())]
    return ", ".join(several) or take["label"]


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
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Trials side by side on one Ray; else one by one.")
    ] = None,
    track: Tracking = None,
    address: Address = None,
) -> dict[str, Any]:
    """Train many trials into RUNS/NAME-000 and so on, and tell the best; the same command goes on."""
    from clipmill import api

    asked = {
        "sweep.trials": trials, "sweep.halving.eta": eta, "sweep.parallel": parallel,
        "track.uri": track,
    }  # fmt: skip
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

"""Verbs about a recipe: planned, looked at, fed, trained, swept, gone on with."""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipmill.api.shared import Progress, recipe, run_folder
from clipmill.errors import UsageError

if TYPE_CHECKING:
    from clipmill.feed import Feed


def plan(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    ranks: int | None = None,
    epochs: int = 1,
    dump: str | None = None,
) -> dict[str, Any]:
    """The dry run: what a recipe would train on; opens no video."""
    from clipmill import plan as plans

    given = recipe(source, overrides)
    made = plans.make(given, "train")
    world = ranks or max(1, given.train.workers)
    if world > made.batch:
        raise UsageError(f"{world} ranks", f"at most train.batch = {made.batch}")
    if dump:
        plans.dump(made, epochs, world, dump)
    per_epoch = made.takes_per_epoch // made.batch
    one_pass = -(-made.takes_in_catalog // made.batch)  # of what learns without gradients
    steps = given.train.steps if made.plugin.by_gradient else one_pass
    cost = plans.cost(made, steps * made.batch)
    return {
        "takes": made.takes_per_epoch,
        "batches": per_epoch,
        "steps": steps,
        "epochs": steps / per_epoch if made.plugin.by_gradient else 1.0,
        "records": len(made.catalog),
        "bytes": cost.bytes,
        "cpu_hours": sum(cost.cpu_seconds.values()) / 3600,
        "cpu_seconds": {what: round(seconds, 1) for what, seconds in cost.cpu_seconds.items()},
        "plan_digest": made.digest,
        "warnings": plans.warnings(made),
        **({"dump": dump} if dump else {}),
    }


def estimate(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    videos: int | None = None,
    video_seconds: float = 30.0,
    device_clips: float | None = None,
    cores: Sequence[int] = (),
    into: str | None = None,
) -> dict[str, Any]:
    """What a recipe takes: cores, hours, bytes, shards, memory, and decode cores for each device.

    Of its own dataset, or of so many videos that need not be there. Rates are those that the
    benchmarks measured; `device_clips` is what a device was seen to take of clips a second. The
    table goes `into` a file with its marks, too.
    """
    from clipmill import evidence
    from clipmill import plan as plans
    from clipmill.plan import page, scale
    from clipmill.video import Profile

    given = recipe(source, overrides)
    plugin, batch, seed = given.plugin(), given.train.batch, given.train.seed
    if videos is None:
        catalog = plans.catalog_of(given.data)
        train, test = plans.make(given, "train", catalog), plans.of_all(given, catalog)
        stored = sum(int(meta["counts"]["bytes"]) for meta in catalog.metas)
        seconds = float(catalog.column("duration_seconds").mean())
        size = scale.Size(len(catalog), seconds, stored)
    else:
        catalog = scale.sample(Profile(), video_seconds)
        sampling = plans.Sampling(clips=given.data.clips, aligned=given.data.aligned)
        train = plans.Plan(catalog, plugin, "train", seed, batch, 0, sampling)
        test, size = plans.of_all(given, catalog), scale.Size(videos, video_seconds)
    flops = None if device_clips else evidence.counted(plugin, max(2, len(catalog.classes))).flops
    told = scale.estimate(
        train, test, size, records=len(catalog), steps=given.train.steps, flops=flops,
        device_clips=device_clips, cores=cores or scale.CORES,
    )  # fmt: skip
    if into:
        size_asked = "" if videos is None else f" --videos {videos}"
        name = " ".join(["clipmill plan", str(source), *overrides, f"--estimate{size_asked}"])
        evidence.placed(into, name, page.markdown([told]))
    return told


def look(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    out: str | None = None,
    stage: str = "train",
    batch: int = 0,
) -> dict[str, Any]:
    """Draw a batch as the model sees it, into a PNG or JPEG file: one row a take."""
    from clipmill import look as looks

    if stage not in ("train", "val", "test"):
        raise UsageError(f"stage {stage!r}", "train, val or test")
    return looks.look(recipe(source, overrides), out, stage=stage, batch=batch)  # type: ignore[arg-type]


def feed(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    ray: bool = False,
) -> "Feed":
    """The training batches of a recipe, for a loop of one's own: uint8 arrays by name.

    Decodes in threads, or in tasks on the Ray that this process is connected to.
    """
    from clipmill import feed as feeds
    from clipmill import plan as plans

    given = recipe(source, overrides)
    share = feeds.Share(start, given.train.steps, rank, world)
    transport: feeds.Transport = "ray" if ray else "thread"
    return feeds.batches(plans.make(given, "train"), share, given.feed, transport)


def measure_feed(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    steps: int = 100,
    step_ms: float = 0.0,
    threads: bool = False,
    address: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the feed alone against a pretended step, and tell what would limit."""
    from clipmill import cluster

    asked = [*overrides, f"train.steps={steps}"]
    with contextlib.ExitStack() as stack:
        if not threads:
            stack.enter_context(cluster.session(address))
        batches = stack.enter_context(feed(source, asked, ray=not threads))
        for done, _ in enumerate(batches, 1):
            time.sleep(step_ms / 1000)
            if progress:
                progress("feeding", done, steps, {"waiting": batches.figures.wait_share})
        return {**batches.figures.plain(), "bad_clips": batches.ledger}


def train(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    allow_changed_data: bool = False,
    parent: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a recipe; a broken run of the same name goes on from its last commit.

    Ctrl-C and SIGTERM end it after a step and a commit, with `KeyboardInterrupt`.
    """
    from clipmill import cluster, launch

    given = recipe(source, overrides)
    cluster.check(given.train.workers, address)
    return launch.run(
        given,
        progress=progress,
        address=address,
        allow_changed_data=allow_changed_data,
        overrides=overrides,
        parent=parent,
    )


def sweep(
    source: Any,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a recipe with lists or ranges as many trials, and tell the best.

    A broken sweep of the same name goes on; trials that finished are not run again.
    """
    from clipmill import recipe as recipes
    from clipmill import sweep as sweeps

    plain = source.model_dump(by_alias=True) if isinstance(source, recipes.Recipe) else source
    asked = sweeps.read(plain, overrides)
    return sweeps.run(asked, address=address, progress=progress, overrides=overrides)


def resume(
    name: str,
    overrides: Sequence[str] = (),
    *,
    folder: str = "runs",
    address: str | None = None,
    allow_changed_data: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Go on with a broken run; of a finished one, tell MLflow what it has not heard."""
    from clipmill import storage

    home = run_folder(name, folder)
    told: dict[str, Any] = storage.read_json(f"{home}/recipe.json")["recipe"]  # type: ignore[assignment]
    given = {**told, "run": {**told["run"], "folder": os.path.dirname(home)}}  # where it lies now
    return train(
        given,
        overrides,
        address=address,
        allow_changed_data=allow_changed_data,
        progress=progress,
    )


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    from clipmill import recipe as recipes

    return recipes.schema()

"""The Python API: one function a verb, the same that the command line calls.

Every function takes plain values and gives a plain dict with the keys that `--json` prints.
Progress is a callback `(what, done, total, figures)`. Heavy libraries are imported inside.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipmill.errors import ClipmillError, RegistryError, RunError, UsageError, VideoError

if TYPE_CHECKING:
    import webdataset as wds

    from clipmill import video
    from clipmill.feed import Feed
    from clipmill.infer import Model
    from clipmill.recipe import Recipe

Progress = Callable[[str, int, int, Mapping[str, float]], None]
RecipeLike = "str | os.PathLike[str] | Mapping[str, Any] | Recipe"


def _bare(progress: Progress | None) -> Callable[[str, int, int], None] | None:
    return (lambda what, done, total: progress(what, done, total, {})) if progress else None


def worlds_make(
    name: str,
    out: str,
    *,
    videos: int = 1000,
    size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a controlled video set: N videos in all, 70/15/15 for training, validation and test."""
    from clipmill import worlds

    tell = (lambda done, total: progress("making videos", done, total, {})) if progress else None
    return worlds.make(name, out, videos=videos, size=size, seed=seed, progress=tell)


def inspect(file: str) -> dict[str, Any]:
    """Tell what is really in a video; every frame is decoded."""
    from dataclasses import asdict

    from clipmill import storage, video

    with _named(file):
        info = asdict(video.probe(storage.read(file), decode=True))
    return {"file": file, **info, **{name: list(info[name]) for name in ("streams", "faults")}}


@contextlib.contextmanager
def _named(file: str) -> Iterator[None]:
    """Name the file in an error about its bytes."""
    try:
        yield
    except VideoError as error:
        got, *rest = error.args
        raise VideoError(f"{file}: {got}", *rest) from error


def ingest(
    source: str,
    out: str,
    *,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    fold: int = 1,
    profile: str | Mapping[str, Any] = "training",
    where: str | None = None,
    measure: Sequence[str] = (),
    split_seconds: float | None = None,
    split_shots: bool = False,
    max_corrupt_frames: int = 0,
    check: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bring a dataset to hold all videos of a source; only what is new or changed is worked on.

    `profile` is a name, or fields such as {"name": "training", "short_side": 128}; `measure`
    names columns to measure, or "all".
    """
    from clipmill import ingest as ingests

    measures = ingests.MEASURES if "all" in measure else tuple(measure)
    options = ingests.Options(
        layout, dict(columns or {}), fold, _profile(profile), where, measures,
        split_seconds, split_shots, max_corrupt_frames, check,
    )  # fmt: skip
    return ingests.run(source, out, options, progress=_bare(progress))


def _profile(told: str | Mapping[str, Any]) -> "video.Profile":
    """A profile by its name, with the fields that are told changed."""
    from dataclasses import fields, replace

    from clipmill import video

    name, changes = (told, {}) if isinstance(told, str) else (told.get("name", "training"), told)
    if name not in video.PROFILES:
        raise UsageError(f"profile {name!r}", f"one of {', '.join(video.PROFILES)}")
    known = {field.name for field in fields(video.Profile)}
    if unknown := set(changes) - known:
        raise UsageError(f"profile fields {sorted(unknown)}", f"of {', '.join(sorted(known))}")
    return replace(video.PROFILES[name], **changes)


def forget(data: str, keys: Sequence[str], *, folder: str = "runs", tracking: str | None = None) -> dict[str, Any]:  # fmt: skip
    """Remove records for good, and list the runs and versions that were trained on them."""
    from clipmill import ingest as ingests
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    is_there = not uri.startswith("sqlite:///") or os.path.exists(uri.removeprefix("sqlite:///"))
    if is_there:
        track.trained_on(uri, ())  # what cannot be asked is told before anything is removed
    done = ingests.forget(data, keys)
    digests = done.pop("digests")
    trained = track.trained_on(uri, digests) if is_there else {"runs": [], "versions": []}
    return {**done, **trained}


def stats(data: str, *, where: str | None = None, plot: str | None = None) -> dict[str, Any]:
    """What is in a dataset: durations, classes, sizes, rates; as a picture too, if asked."""
    from clipmill import stats as statistics

    told = statistics.stats(data, where=where)
    return {**told, "plot": statistics.plot(data, plot, where=where)["file"]} if plot else told


def browse(
    data: str,
    out: str,
    *,
    limit: int = 500,
    where: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one page that shows a dataset, to be opened in any browser, offline."""
    from clipmill import browse as pages

    return pages.browse(data, out, limit=limit, where=where, progress=_bare(progress))


def verify(data: str, *, deep: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Read a dataset back and name each fault."""
    from clipmill import ingest as ingests

    faults = ingests.verify(data, deep=deep, progress=_bare(progress))
    return {"data": data, "faults": faults}


def webdataset(data: str) -> "wds.WebDataset":
    """Hand a dataset's shards to the webdataset library, for a loop of one's own."""
    import webdataset as wds

    from clipmill import catalog as catalogs
    from clipmill import storage

    catalog = catalogs.load(data)
    names = sorted(set(catalog.table["shard"].to_pylist()))
    return wds.WebDataset(
        [storage.join(catalog.folder, name) for name in names], shardshuffle=False
    )


def recipe(source: Any, overrides: Sequence[str] = ()) -> "Recipe":
    """Read a recipe from a file, the name of a shipped one, plain data or a recipe."""
    from clipmill import recipe as recipes

    if isinstance(source, recipes.Recipe):
        return recipes.load(source.model_dump(by_alias=True), overrides)
    return recipes.load(source, overrides)


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
    view = made.plugin.views()["train"]
    take_bytes = view.frames * view.size * view.size * 3
    return {
        "takes": made.takes_per_epoch,
        "batches": per_epoch,
        "steps": given.train.steps,
        "epochs": given.train.steps / per_epoch,
        "records": len(made.catalog),
        "bytes": given.train.steps * made.batch * take_bytes,
        "plan_digest": made.digest,
        "warnings": plans.warnings(made),
        **({"dump": dump} if dump else {}),
    }


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
    from clipmill import launch

    return launch.run(
        recipe(source, overrides),
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

    home = _run_folder(name, folder)
    told: dict[str, Any] = storage.read_json(f"{home}/recipe.json")["recipe"]  # type: ignore[assignment]
    given = {**told, "run": {**told["run"], "folder": os.path.dirname(home)}}  # where it lies now
    return train(
        given,
        overrides,
        address=address,
        allow_changed_data=allow_changed_data,
        progress=progress,
    )


def _run_folder(run: str, folder: str) -> str:
    """The folder of a run by its name or its MLflow id."""
    from clipmill import runs as standings

    return standings.path_of(run, folder)


def runs(folder: str = "runs") -> dict[str, Any]:
    """All runs of a folder, with where they stand."""
    from clipmill import runs as standings

    return {"runs": standings.listed(folder)}


def show(run: str, *, folder: str = "runs") -> dict[str, Any]:
    """All that is known of one run: its result, or how far it has come."""
    from clipmill import runs as standings

    return standings.whole(_run_folder(run, folder))


def follow(
    run: str, *, folder: str = "runs", every_seconds: float = 1.0
) -> Iterator[dict[str, Any]]:
    """Tell what `show` tells again and again while a run lives, and once after its end."""
    from clipmill import runs as standings

    return standings.followed(_run_folder(run, folder), every_seconds=every_seconds)


def trace(version: str, *, folder: str = "runs", tracking: str | None = None) -> dict[str, Any]:
    """What a version came of: data, recipe, commit, run, figures with protocol, and its files."""
    from clipmill import track

    return track.trace(_registry(tracking, folder), version)


def clean(
    folder: str = "runs", *, days: float = 30.0, yes: bool = False, tracking: str | None = None
) -> dict[str, Any]:
    """List old runs, caches and what crashes left, with sizes; with `yes` remove them."""
    from clipmill import clean as cleaning
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    return cleaning.clean(folder, uri, days=days, remove=yes)


def evaluate(
    target: str,
    data: str | None = None,
    *,
    split: str | None = None,
    where: str | None = None,
    clips: int | None = None,
    crops: int | None = None,
    workers: int = 0,
    address: str | None = None,
    originals: bool = False,
    pictures: str | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Test a run or a version on the test split of its dataset, or of another.

    With workers it is done on Ray, with the same figures. `pictures` is a folder to draw them
    into; `originals` asks about the records' sources, too.
    """
    from clipmill import evaluate as evaluation
    from clipmill import plan as plans

    model, told = _model(target, folder, tracking)
    model = evaluation.asked(model, data=data, split=split, where=where, clips=clips, crops=crops)
    catalog = plans.catalog_of(model.recipe.data)
    result = evaluation.evaluate(
        model, catalog, workers=workers, address=address, from_originals=originals,
        progress=_bare(progress),
    )  # fmt: skip
    drawn = {"pictures": evaluation.draw(result, pictures, catalog)} if pictures else {}
    return {**told, **result, **drawn}


def compare(
    targets: Sequence[str],
    *,
    data: str | None = None,
    split: str | None = None,
    where: str | None = None,
    clips: int | None = None,
    crops: int | None = None,
    workers: int = 0,
    address: str | None = None,
    seed: int = 0,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Test runs or versions on one test plan, and tell which is better and how surely."""
    from clipmill import compare as comparing
    from clipmill import evaluate as evaluation

    if len(targets) < 2:
        raise UsageError("one model", "two at the least to compare")
    tests = []
    for target in targets:
        model, told = _model(target, folder, tracking)
        given = evaluation.asked(
            model, data=data, split=split, where=where, clips=clips, crops=crops
        )
        tests.append((given, {**told, **evaluation.conditions(given, evaluation.check(given))}))
    comparing.check_alike([told for _, told in tests], data_given=data is not None)
    results = [
        told | evaluation.evaluate(
            model, workers=workers, address=address, keep_meters=True, progress=_bare(progress)
        )
        for model, told in tests
    ]  # fmt: skip
    return comparing.compared(results, seed=seed)


def _model(target: str, folder: str, tracking: str | None) -> tuple["Model", dict[str, str]]:
    """The model of a run (by name or id) or of a version."""
    from clipmill import infer, track

    if ("@" not in target and "/" not in target) or os.path.exists(f"{target}/recipe.json"):
        home = _run_folder(target, folder)
        return infer.load(f"{home}/model").to(infer.device()), {"run": os.path.basename(home)}
    with track.fetched(_registry(tracking, folder), target) as (inner, told):
        return infer.load(inner).to(infer.device()), told


def _registry(tracking: str | None, folder: str) -> str:
    """The store to read versions from; one that is not there is not made."""
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    if uri.startswith("sqlite:///") and not os.path.exists(uri.removeprefix("sqlite:///")):
        raise RegistryError(
            f"no registry at {uri}",
            "a store that `clipmill train` made",
            "name the folder of its runs with --runs, or the store with --track",
        )
    return uri


def promote(
    run: str,
    *,
    name: str,
    alias: str = "champion",
    folder: str = "runs",
    tracking: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Register a run's model under an alias, unless the one that holds it now tests better."""
    from clipmill import promote as promotion
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    return promotion.promote(
        _run_folder(run, folder), uri, name=name, alias=alias, force=force, progress=_bare(progress)
    )


def predict(
    version: str,
    files: Sequence[str],
    *,
    folder: str = "runs",
    tracking: str | None = None,
) -> dict[str, Any]:
    """Answer videos with a version or a run; one that cannot be answered is told among them."""
    model, told = _model(version, folder, tracking)
    videos, faults = [], []
    for file in files:
        try:
            videos.append(_answered(model, file))
        except ClipmillError as error:
            faults.append(error)
            videos.append({"video": file, "error": str(error)})
    if len(faults) == len(files):
        raise faults[0]
    return {**told, "videos": videos}


def _answered(model: "Model", file: str) -> dict[str, Any]:
    from clipmill import infer, storage

    with _named(file):
        return {"video": file, **infer.answer(model, storage.read(file))}


def serve(
    versions: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    ready: Callable[[str, str], None] | None = None,
) -> None:
    """Answer videos over HTTP until told to stop; `ready` hears the address and the token."""
    from clipmill import serve as serving

    with serving.bind(host, port) as listener:  # a port in use is told before models are loaded
        models, numbers = _models(versions, folder, tracking)
        secret = token or serving.new_token()
        serving.run(
            serving.make_app(models, token=secret, versions=numbers),
            host=host,
            token=secret,
            listener=listener,
            ready=lambda address: ready(address, secret) if ready else None,
        )


def _models(
    versions: Sequence[str], folder: str, tracking: str | None
) -> tuple[dict[str, "Model"], dict[str, str]]:
    """Models and version numbers by the names they are served under."""
    loaded = {version: _model(version, folder, tracking) for version in versions}
    names = {version: told.get("name") or told["run"] for version, (_, told) in loaded.items()}
    if len(set(names.values())) < len(names):
        raise RunError(f"several versions of {', '.join(names.values())}", "one version a name")
    models = {names[version]: model for version, (model, _) in loaded.items()}
    return models, {names[v]: told.get("version", "") for v, (_, told) in loaded.items()}


def plugins_list() -> dict[str, Any]:
    """All plugins that are installed, and those that are broken with the reason."""
    from clipmill import plugin

    entries = plugin.found()
    good = [
        {"name": e.name, "family": e.plugin.family, "package": e.package, "version": e.version}
        for e in entries
        if e.plugin
    ]
    bad = [
        {"name": e.name, "package": e.package, "fault": e.fault} for e in entries if not e.plugin
    ]
    return {"plugins": good, "broken": bad}


def plugins_show(name: str, *, classes: int = 101) -> dict[str, Any]:
    """A plugin's fields, paper and parameters at default size, counted on the meta device."""
    import torch

    from clipmill import infer, plugin

    kind = plugin.load(name)
    with torch.device("meta"):
        module = infer.build(kind(), tuple(f"class {i}" for i in range(classes)))
    fields = [
        {"name": key, "default": field.default, "meaning": field.description or ""}
        for key, field in kind.model_fields.items()
    ]
    return {
        "name": name,
        "family": kind.family,
        "paper": kind.paper,
        "metric": kind.metric,
        "fields": fields,
        "classes": classes,
        "parameters": sum(weight.numel() for weight in module.parameters()),
    }


def plugins_check(name: str) -> dict[str, Any]:
    """Run the contract on a plugin."""
    from clipmill import contract

    report = contract.check(name)
    checks = [{"check": check, "ok": ok, "detail": detail} for check, ok, detail in report.results]
    return {"name": name, "ok": report.ok, "checks": checks}


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    from clipmill import recipe as recipes

    return recipes.schema()

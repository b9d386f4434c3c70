"""Verbs that ask a model: tested, compared, asked about videos, served."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipmill.api.shared import Progress, bare, model_of, named
from clipmill.errors import ClipmillError, RunError, UsageError

if TYPE_CHECKING:
    from clipmill.features import Precision
    from clipmill.infer import Model


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

    asked = {"data": data, "split": split, "where": where, "clips": clips, "crops": crops}
    model, told = _tested(target, folder, tracking, asked)
    catalog = plans.catalog_of(model.recipe.data)
    result = evaluation.evaluate(
        model, catalog, workers=workers, address=address, from_originals=originals,
        progress=bare(progress),
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
    asked = {"data": data, "split": split, "where": where, "clips": clips, "crops": crops}
    tests = []
    for target in targets:
        model, told = _tested(target, folder, tracking, asked)
        tests.append((model, {**told, **evaluation.conditions(model, evaluation.check(model))}))
    comparing.check_alike([told for _, told in tests], data_given=data is not None)
    results = [
        told | evaluation.evaluate(
            model, workers=workers, address=address, keep_meters=True, progress=bare(progress)
        )
        for model, told in tests
    ]  # fmt: skip
    return comparing.compared(results, seed=seed)


def _tested(
    target: str, folder: str, tracking: str | None, asked: Mapping[str, Any]
) -> tuple["Model", dict[str, str]]:
    """A model for the test that is asked for, and what it is called."""
    from clipmill import evaluate as evaluation

    model, told = model_of(target, folder, tracking)
    return evaluation.asked(model, **asked), told


def predict(
    version: str,
    files: Sequence[str],
    *,
    each_frame: bool = False,
    folder: str = "runs",
    tracking: str | None = None,
) -> dict[str, Any]:
    """Answer videos with a version or a run; one that cannot be answered is told among them.

    `each_frame` adds the probabilities of every moment to the timelines of models that give such.
    """
    model, told = model_of(version, folder, tracking)
    videos, faults = [], []
    for file in files:
        try:
            videos.append(_answered(model, file, each_frame))
        except ClipmillError as error:
            faults.append(error)
            videos.append({"video": file, "error": str(error)})
    if len(faults) == len(files):
        raise faults[0]
    return {**told, "videos": videos}


def _answered(model: "Model", file: str, each_frame: bool) -> dict[str, Any]:
    from clipmill import infer, storage

    with named(file):
        given = storage.read(file)
        return {"video": file, **infer.answer(model, given, each_frame=each_frame)}


def picture(
    target: str,
    data: str | None = None,
    *,
    out: str,
    videos: int = 8,
    split: str | None = None,
    where: str | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw what a run or a version makes of some test videos into a PNG or JPEG file.

    Masks and heat maps over stills, and of embeddings the nearest neighbours, by what it answers.
    """
    from clipmill import picture as pictures

    asked = {"data": data, "split": split, "where": where}
    model, told = _tested(target, folder, tracking, asked)
    name = told.get("run") or f"{told['name']}/{told['version']}"
    drawn = pictures.picture(model, out, videos=videos, name=name, progress=bare(progress))
    return {**told, **drawn}


def features(
    target: str,
    data: str,
    out: str,
    *,
    every: int | None = None,
    precision: "Precision" = "float32",
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a dataset of what a run or a version makes of each frame, or clip, of another dataset.

    Sequence models and support vector machines train on it. What is there already is not made again.
    """
    from clipmill import features as describing

    if precision not in ("float32", "float16"):
        raise UsageError(f"precision {precision!r}", "float32 or float16")
    if every is not None and every < 1:
        raise UsageError(f"a row every {every} frames", "1 at the least")
    model, told = model_of(target, folder, tracking)
    done = describing.run(
        model, data, out, every=every, precision=precision, progress=bare(progress)
    )
    return {**told, **done}


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
    loaded = {version: model_of(version, folder, tracking) for version in versions}
    names = {version: told.get("name") or told["run"] for version, (_, told) in loaded.items()}
    if len(set(names.values())) < len(names):
        raise RunError(f"several versions of {', '.join(names.values())}", "one version a name")
    models = {names[version]: model for version, (model, _) in loaded.items()}
    return models, {names[v]: told.get("version", "") for v, (_, told) in loaded.items()}

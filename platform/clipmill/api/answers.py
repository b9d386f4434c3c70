"""Verbs that ask a model: tested, compared, asked about videos, drawn."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipmill.api.shared import (
    Progress,
    bare,
    model_of,
    named,
)
from clipmill.errors import ClipmillError, UsageError

if TYPE_CHECKING:
    from clipmill.bulk import Asked
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
    out: str | None = None,
    split: str | None = None,
    where: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answer videos with a version or a run; one that cannot be answered is told among them.

    `each_frame` adds the probabilities of every moment to the timelines of models that give such.
    With `out` the one name is that of a dataset, of which every record gets a row in this Parquet
    table; the same call goes on with one that was broken off. `workers` are actors on Ray.
    """
    if out is not None:
        (data,) = _one_dataset(files)
        asked: dict[str, Any] = {"split": split, "where": where, "workers": workers}
        return _in_bulk(version, data, out, "answers", asked, address, folder, tracking, progress)
    of_datasets = {"--split": split, "--where": where, "--workers": workers, "--address": address}
    _check_files(files, of_datasets)
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


def embed(
    version: str,
    data: str,
    out: str,
    *,
    neighbours: int = 0,
    split: str | None = None,
    where: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write an embedding of every record of a dataset into a Parquet table.

    With `neighbours` also so many records that are nearest to each: all pairs are compared, in
    memory, for some 100,000 records. The same call goes on with a table that was broken off.
    """
    if neighbours < 0:
        raise UsageError(f"{neighbours} neighbours", "none, or some")
    asked = {"split": split, "where": where, "workers": workers, "neighbours": neighbours}
    return _in_bulk(version, data, out, "embeddings", asked, address, folder, tracking, progress)


def _in_bulk(
    version: str,
    data: str,
    out: str,
    what: "Asked",
    asked: Mapping[str, Any],
    address: str | None,
    folder: str,
    tracking: str | None,
    progress: Progress | None,
) -> dict[str, Any]:
    from clipmill import bulk

    model, told = model_of(version, folder, tracking)
    made = bulk.run(model, data, out, asked=what, address=address, progress=progress, **asked)
    return {**told, **made}


def _one_dataset(names: Sequence[str]) -> Sequence[str]:
    if len(names) != 1:
        raise UsageError(f"{len(names)} names beside --out", "one dataset", "ingest videos first")
    return names


def _check_files(names: Sequence[str], of_datasets: Mapping[str, Any]) -> None:
    from clipmill import storage

    for option, value in of_datasets.items():
        if value is not None:
            raise UsageError(f"{option} {value}", "a dataset with --out", "leave it out")
    for name in names:
        if storage.is_folder(name):
            raise UsageError(
                f"{name} is a folder",
                "videos, or a dataset with --out",
                "for a row of every record of a dataset say --out TABLE.parquet",
            )


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
    worst: bool = False,
    files: Sequence[str] = (),
    seconds: float = 60.0,
    split: str | None = None,
    where: str | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw what a run or a version makes of some test videos into a PNG, a JPEG or an MP4 file.

    Masks and heat maps over stills, and of embeddings the nearest neighbours, by what it answers;
    `worst` takes those answered worst. Into an MP4 it draws all moments of the first seconds of
    each video, of test videos or of files.
    """
    from clipmill import picture as pictures

    asked = {"data": data, "split": split, "where": where}
    model, told = _tested(target, folder, tracking, asked)
    name = told.get("run") or f"{told['name']}/{told['version']}"
    if files or os.path.splitext(out)[1].lower() in pictures.FILMS:
        drawn = pictures.film_of(
            model,
            out,
            videos=videos,
            files=files,
            seconds=seconds,
            worst_first=worst,
            progress=bare(progress),
        )
        return {**told, **drawn}
    drawn = pictures.picture(
        model, out, videos=videos, name=name, worst_first=worst, progress=bare(progress)
    )
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

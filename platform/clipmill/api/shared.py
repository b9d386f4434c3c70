"""What several verbs need: progress, the recipe asked for, a run, a model, a registry."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipmill.errors import RegistryError, VideoError

if TYPE_CHECKING:
    from clipmill.infer import Model
    from clipmill.recipe import Recipe

Progress = Callable[[str, int, int, Mapping[str, float]], None]


def bare(progress: Progress | None) -> Callable[[str, int, int], None] | None:
    """The same without figures, for work that has none to tell."""
    return (lambda what, done, total: progress(what, done, total, {})) if progress else None


@contextlib.contextmanager
def named(file: str) -> Iterator[None]:
    """Name the file in an error about its bytes."""
    try:
        yield
    except VideoError as error:
        got, *rest = error.args
        raise VideoError(f"{file}: {got}", *rest) from error


def recipe(source: Any, overrides: Sequence[str] = ()) -> "Recipe":
    """Read a recipe from a file, the name of a shipped one, plain data or a recipe."""
    from clipmill import recipe as recipes

    if isinstance(source, recipes.Recipe):
        return recipes.load(source.model_dump(by_alias=True), overrides)
    return recipes.load(source, overrides)


def run_folder(run: str, folder: str) -> str:
    """The folder of a run by its name or its MLflow id."""
    from clipmill import runs as standings

    return standings.path_of(run, folder)


def is_run(target: str) -> bool:
    """Whether a run is meant, by its name, id or folder, and no version."""
    return ("@" not in target and "/" not in target) or os.path.exists(f"{target}/recipe.json")


def model_of(target: str, folder: str, tracking: str | None) -> tuple["Model", dict[str, str]]:
    """The model of a run (by name or id), of a model folder or a checkpoint, or of a version."""
    from clipmill import infer, track

    if os.path.exists(f"{target}/model.json"):
        return infer.load(target).to(infer.device()), {"run": target}
    if os.path.exists(f"{target}/COMMITTED"):
        return _of_checkpoint(target), {"run": target}
    if is_run(target):
        home = run_folder(target, folder)
        return infer.load(f"{home}/model").to(infer.device()), {"run": os.path.basename(home)}
    with track.fetched(registry_of(tracking, folder), target) as (inner, told):
        return infer.load(inner).to(infer.device()), told


def _of_checkpoint(path: str) -> "Model":
    """The model of a run's checkpoint, of which its folder and its dataset tell the rest."""
    from clipmill import launch, storage
    from clipmill import plan as plans
    from clipmill import recipe as recipes

    run = os.path.dirname(os.path.dirname(storage.absolute(path)))
    told: dict[str, Any] = storage.read_json(f"{run}/recipe.json")
    given = recipes.parse(told["recipe"])
    return launch.model_at(path, given, plans.catalog_of(given.data))


def registry_of(tracking: str | None, folder: str) -> str:
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

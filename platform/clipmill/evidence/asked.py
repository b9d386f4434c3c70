"""The file of a family's evidence: worlds, models, claims, and which pairs the claims need.

Everything is checked here, before any video is made or any network trained.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipmill import plugin, worlds
from clipmill import recipe as recipes
from clipmill.errors import RecipeError, UsageError
from clipmill.recipe import Recipe

FOLDER = "evidence"  # of the shipped files, below the recipes
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]  # becomes a part of run names

Kind = Literal["at_chance", "above", "below", "beats", "not_below"]
NEEDED: Mapping[str, str] = {
    "above": "level", "below": "level", "beats": "than", "not_below": "than",
}  # fmt: skip
Sections = dict[str, dict[str, Any]]  # parts of a recipe: model, train, data, feed


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class World(_Section):
    """What models are tried on: a world that is made on demand, or a dataset that is there."""

    world: str | None = Field(None, description="which world; null is its name in this file")
    data: str | None = Field(None, description="a dataset instead of a world")
    videos: int = Field(2700, ge=3, description="in all, 70/15/15")
    size: int = Field(64, description="height and width, in pixels")
    seed: int = Field(0, ge=0, description="the same seed makes the same videos")
    difficulty: str = Field("default", description="of the world")
    motion: bool = Field(False, description="whether motion is measured at ingest")


class Claim(_Section):
    """What is said of models on worlds; a list of models stands for as many claims."""

    claim: str = Field(description="in words; {model} and {world} stand for their names")
    kind: Kind = Field(description="what is said")
    model: str | tuple[str, ...] = Field(description="of which, by the names in this file")
    world: str | tuple[str, ...] = Field(description="on which")
    level: float | None = Field(None, description="above, below: the mean is so of this")
    than: str | None = Field(None, description="beats, not_below: which other model")
    metric: str | None = Field(None, description="null is the plugin's own")
    than_metric: str | None = Field(
        None, description="beats, not_below: a metric of the other; null is the same"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> "Claim":
        needed = NEEDED.get(self.kind)
        for name in ("level", "than"):
            if (getattr(self, name) is not None) != (name == needed):
                raise ValueError(f"{'' if name == needed else 'no '}`{name}` with {self.kind}")
        if self.than_metric is not None and needed != "than":
            raise ValueError(f"no `than_metric` with {self.kind}")
        return self


class File(_Section):
    """A file of evidence."""

    seeds: int = Field(3, ge=1, description="trials of each pair of model and world")
    videos_for_chance: int = Field(400, ge=1, description="test videos that `at chance` needs")
    base: Sections = Field({}, description="parts of every trial's recipe")
    worlds: dict[Name, World] = Field(description="by a name that claims use")
    models: dict[Name, dict[str, Any]] = Field(
        description="parts of a recipe by a name that claims use; `in` has changes by world,"
        " `begins_with` the {model, world} whose weights it takes"
    )
    claims: tuple[Claim, ...] = Field(description="what is to be shown or refuted")


@dataclass(frozen=True, order=True)
class Pair:
    """A model on a world, by their names."""

    world: str
    model: str


@dataclass(frozen=True)
class Asked:
    """A file of evidence, read and checked."""

    name: str
    seeds: int
    videos_for_chance: int
    worlds: Mapping[str, World]
    claims: tuple[Claim, ...]  # each of one model on one world
    pairs: tuple[Pair, ...]  # those that a claim needs
    recipes: Mapping[Pair, Recipe]  # with names of no run and no dataset
    begins: Mapping[Pair, Pair]  # whose weights a pair takes, where it takes any


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> Asked:
    """Read a file, one that clipmill ships by its name, or plain data; refuse what cannot be run."""
    if isinstance(source, Mapping):
        name, told = "evidence", recipes.read(source)
    else:
        path = _found(source)
        name, told = path.stem, recipes.read(path)
    try:
        file = File.model_validate(told)
    except ValidationError as error:
        raise RecipeError(*plugin.told(error, File)) from None
    _check_worlds(file)
    claims = tuple(one for claim in file.claims for one in _single(claim))
    for claim in claims:
        _check_names(claim, file)
    pairs = _pairs(claims, file)
    return Asked(
        name, file.seeds, file.videos_for_chance, file.worlds, claims, pairs,
        recipes={pair: _recipe(pair, file) for pair in pairs},
        begins={pair: other for pair in pairs if (other := _source(pair, file))},
    )  # fmt: skip


def _found(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = [file for folder in recipes.shipped_folders() for file in folder.glob(f"{FOLDER}/*")]
    for file in shipped:
        if file.suffix == ".yaml" and str(source) in (file.stem, file.name):
            return file
    known = ", ".join(sorted({file.stem for file in shipped if file.suffix == ".yaml"}))
    raise UsageError(f"no evidence {str(source)!r}", f"a YAML file or one of {known}")


def _check_worlds(file: File) -> None:
    for name, world in file.worlds.items():
        if world.data is None:
            _check_is_one_of(world.world or name, worlds.WORLDS, f"worlds.{name}: no world")
            chosen, known = world.difficulty, worlds.DIFFICULTIES
            _check_is_one_of(chosen, known, f"worlds.{name}: no difficulty")


def _single(claim: Claim) -> Iterable[Claim]:
    """One claim for each of its models and worlds."""
    models, places = _several(claim.model), _several(claim.world)
    for model in models:
        for world in places:
            words = claim.claim.replace("{model}", model).replace("{world}", world)
            yield claim.model_copy(update={"claim": words, "model": model, "world": world})


def _several(told: str | tuple[str, ...]) -> tuple[str, ...]:
    return (told,) if isinstance(told, str) else told


def _check_names(claim: Claim, file: File) -> None:
    assert isinstance(claim.world, str) and isinstance(claim.model, str)
    _check_is_one_of(claim.world, file.worlds, f"the claim {claim.claim!r} has no world")
    for model in filter(None, (claim.model, claim.than)):
        _check_is_one_of(model, file.models, f"the claim {claim.claim!r} has no model")


def _check_is_one_of(name: str, known: Iterable[str], fault: str) -> None:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else ""
        raise RecipeError(f"{fault} {name!r}", f"one of {', '.join(names)}", hint)


def pairs_of(claim: Claim) -> list[Pair]:
    """What a claim of one model on one world needs."""
    assert isinstance(claim.world, str) and isinstance(claim.model, str)
    return [Pair(claim.world, model) for model in (claim.model, claim.than) if model is not None]


def _pairs(claims: Iterable[Claim], file: File) -> tuple[Pair, ...]:
    """What all claims need, world by world, in the order of the file."""
    claimed = {pair for claim in claims for pair in pairs_of(claim)}
    needed = claimed | set(filter(None, (_source(pair, file) for pair in claimed)))
    places, models = list(file.worlds), list(file.models)
    return tuple(sorted(needed, key=lambda p: (places.index(p.world), models.index(p.model))))


def _source(pair: Pair, file: File) -> Pair | None:
    """The pair whose weights it begins with."""
    told = file.models[pair.model].get("begins_with")
    if told is None:
        return None
    fault = f"models.{pair.model}.begins_with is {told!r}"
    if not isinstance(told, Mapping) or set(told) != {"model", "world"}:
        raise RecipeError(fault, "{model: NAME, world: NAME}")
    _check_is_one_of(told["model"], file.models, f"{fault}: no model")
    _check_is_one_of(told["world"], file.worlds, f"{fault}: no world")
    if "begins_with" in file.models[told["model"]]:
        raise RecipeError(fault, "a model that begins with nothing")
    return Pair(told["world"], told["model"])


def _sections(pair: Pair, file: File) -> Sections:
    """The recipe of a pair: what all have, what the model has, what it has on this world."""
    own = dict(file.models[pair.model])
    own.pop("begins_with", None)
    changes = (own.pop("in", None) or {}).get(pair.world) or {}
    made: Sections = {}
    for layer in (file.base, own, changes):
        for section, values in layer.items():
            if not isinstance(values, Mapping):
                raise RecipeError(
                    f"models.{pair.model}: {section} is {values!r}", "a section of a recipe"
                )
            made[section] = {**made.get(section, {}), **values}
    return made


def _recipe(pair: Pair, file: File) -> Recipe:
    """The recipe of a pair, checked; run, data and seed are those of each trial."""
    made = _sections(pair, file)
    if fixed := {"run", "track"} & set(made):
        raise RecipeError(f"models.{pair.model}: {min(fixed)}", "model, train, data or feed")
    made["data"] = {**made.get("data", {}), "path": pair.world}
    given = recipes.parse({**made, "run": {"name": pair.model}, "track": {"experiment": FOLDER}})
    if given.plugin().meter() is None:
        raise RecipeError(
            f"models.{pair.model} is of {given.model.plugin}, which has no meter",
            "a plugin with a meter()",
        )
    return given

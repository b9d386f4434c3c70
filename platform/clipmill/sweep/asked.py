"""From a recipe with lists, ranges and a section `sweep` to plain recipes, one a trial.

Everything is checked here, before anything is trained or written.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clipmill import plugin
from clipmill import recipe as recipes
from clipmill.errors import RecipeError
from clipmill.recipe import Recipe
from clipmill.sweep import halving
from clipmill.sweep.space import Axis, Space, Values, axis_of, drawn, first_of

Path = tuple[str, ...]
NOT_TRIED = ("run", "track", "feed")  # sections that decide nothing of what is learned


class Halving(BaseModel):
    """Early stopping by successive halving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    eta: int = Field(3, ge=2, description="one trial of so many goes on at each rung")
    first_steps: int | None = Field(None, ge=1, description="steps of the first rung")


class Settings(BaseModel):
    """The section `sweep` of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int | None = Field(None, ge=1, description="null is every combination of choices")
    metric: str | None = Field(
        None, description="as runs log it; null is val_ and the plugin's own"
    )
    higher_is_better: bool | None = Field(None, description="null is as the plugin has it")
    seed: int = Field(0, ge=0, description="of the drawn values")
    halving: Halving | None = Field(None, description="stop early: {eta, first_steps}")
    parallel: int = Field(1, ge=1, description="trials side by side, each in a process of its own")
    space: dict[str, Any] = Field({}, description="choices and ranges by dotted key")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    given: Recipe
    values: Values
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its run."""
        return self.given.run.name


@dataclass(frozen=True)
class Sweep:
    """All trials, and how they are compared."""

    base: Recipe  # with the first value of every axis
    trials: tuple[Trial, ...]
    rungs: tuple[int, ...]
    eta: int
    metric: str  # its name among a run's metrics
    higher_is_better: bool
    validate_every: int | None  # as the recipe has it: trials validate at each rung
    parallel: int = 1  # decides nothing of what is learned


def read(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Sweep:
    """Read a sweep, and check the recipe of every trial."""
    data = copy.deepcopy(recipes.read(source, overrides))
    settings = _settings(data.pop("sweep", None) or {})
    space = _space(data, settings.space)
    base = _at(data, {key: first_of(axis) for key, axis in space.items()})
    _check(base, space, settings)
    values = drawn(space, settings.trials, settings.seed)
    rungs = _rungs(base, settings.halving, len(values))
    if len(rungs) > 1:
        recipes.place(data, "train.validate_every", base.train.validate_every or rungs[0])
    fixed = [each for each in overrides if each.partition("=")[0] not in space]
    fixed = [each for each in fixed if not each.startswith("sweep.")]
    metric, higher = _metric(base, settings)
    return Sweep(
        base,
        tuple(_trial(data, base, place, each, fixed) for place, each in enumerate(values)),
        tuple(rungs),
        settings.halving.eta if settings.halving else 1,
        metric,
        higher,
        base.train.validate_every,
        settings.parallel,
    )


def _settings(told: Any) -> Settings:
    try:
        return Settings.model_validate(told)
    except ValidationError as error:
        raise RecipeError(*plugin.told(error, Settings, "sweep")) from None


def _space(data: dict[str, Any], told: Mapping[str, Any]) -> Space:
    """Everything that is tried: what the section says, and what no plain recipe would take."""
    space: dict[str, Axis] = {}
    for key, value in told.items():
        axis = axis_of(value)
        if axis is None:
            raise RecipeError(
                f"sweep.space: {key} is {value!r}", "[a, b], log(a,b), uniform(a,b) or int(a,b)"
            )
        space[key] = axis
    probe = copy.deepcopy(data)
    written = {path: axis for path, value in _leaves(data) if (axis := axis_of(value))}
    for path, axis in written.items():
        if not isinstance(axis, tuple) or path == ("model", "plugin"):
            recipes.place(probe, ".".join(path), first_of(axis))
    for key, axis in space.items():
        recipes.place(probe, key, first_of(axis))
    refused = _refused(probe)
    for path, axis in written.items():
        taken = isinstance(axis, tuple) and path != ("model", "plugin")
        if not taken or any(where[: len(path)] == path for where in refused):
            space.setdefault(".".join(path), axis)
    return space


def _leaves(data: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def _refused(data: Mapping[str, Any]) -> list[Path]:
    """The places that a recipe would not take as they are: a list there is one of choices."""
    found: list[Path] = []
    try:
        Recipe.model_validate(data)
    except ValidationError as error:
        found += [tuple(map(str, fault["loc"])) for fault in error.errors()]
    model = data.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("plugin"), str):
        fields = {name: value for name, value in model.items() if name != "plugin"}
        try:
            plugin.load(model["plugin"])(**fields)
        except ValidationError as error:
            found += [("model", *map(str, fault["loc"])) for fault in error.errors()]
    return found


def _at(data: dict[str, Any], values: Values) -> Recipe:
    plain = copy.deepcopy(data)
    for key, value in values.items():
        recipes.place(plain, key, value)
    return recipes.parse(plain)


def _check(base: Recipe, space: Space, settings: Settings) -> None:
    if not space:
        raise RecipeError(
            "nothing to try", "a list or a range", "such as model.learning_rate='log(1e-4,1e-2)'"
        )
    fixed = ["train.steps", "train.validate_every"] if settings.halving else []
    for key in space:
        if key in fixed or key.partition(".")[0] in NOT_TRIED:
            raise RecipeError(f"{key} with several values", "one value in this sweep")
    if base.track.register_:
        raise RecipeError(
            "track.register in a sweep",
            "none, as every trial would be registered",
            "`clipmill promote` the best one afterwards",
        )


def _metric(base: Recipe, settings: Settings) -> tuple[str, bool]:
    """What trials are compared by, and whether more of it is better."""
    made = base.plugin()
    if made.meter() is None and (settings.metric is None or settings.halving):
        raise RecipeError(
            f"a sweep of {base.model.plugin}, which has no meter",
            "a plugin with a meter()",
            "set sweep.metric=loss and sweep.higher_is_better=false, without halving",
        )
    own, higher = f"val_{made.metric}", settings.higher_is_better
    metric = settings.metric or own
    if higher is None and metric != own:
        raise RecipeError(f"sweep.metric={metric}", "sweep.higher_is_better=true or false with it")
    return metric, made.higher_is_better if higher is None else higher


def _rungs(base: Recipe, asked: Halving | None, trials: int) -> list[int]:
    steps, every = base.train.steps, base.train.validate_every
    return halving.rungs(steps, trials, asked.eta, asked.first_steps, every) if asked else [steps]


def _trial(
    data: dict[str, Any], base: Recipe, place: int, values: Values, fixed: Sequence[str]
) -> Trial:
    name = f"{base.run.name}-{place:03d}"
    given = _at(data, {**values, "run.name": name})
    return Trial(given, values, (*fixed, *overrides_of(values)))


def overrides_of(values: Values) -> list[str]:
    """Values as overrides of a command."""
    return [f"{key}={_word(value)}" for key, value in values.items()]


def _word(value: Any) -> str:
    if isinstance(value, float):
        return repr(value) if "." in repr(value) else repr(value).replace("e", ".0e")
    text = yaml.safe_dump(value, default_flow_style=True, width=2**20)
    return text.removesuffix("\n").removesuffix("\n...")

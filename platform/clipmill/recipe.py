"""The recipe: data, model, training and tracking as one frozen, typed value.

Comes from YAML and dotted overrides, goes as plain data through HTTP, to the cluster and into
the run. Knows which keys there are, not what they do.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from clipmill import plugin, storage
from clipmill.errors import RecipeError
from clipmill.plugin import Place

AnySection = TypeVar("AnySection", bound=BaseModel)
SQLITE = "sqlite:///"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Section):
    """Where the run lives."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="unique in its folder")
    folder: Place = Field("runs", description="folder of all runs")


class Dataset(_Section):
    """One of several datasets."""

    path: Place = Field(description="a dataset that `clipmill ingest` wrote")
    weight: float | None = Field(
        None, gt=0, description="its share of an epoch, beside the weights of the others"
    )
    where: str | None = Field(None, description="filter of its records")


class Curriculum(_Section):
    """Easy first: while it lasts, an epoch is filled with a growing share of the records."""

    by: str = Field(description="column of numbers, such as `motion`, or `attributes.NAME`")
    until_epoch: int = Field(ge=1, description="the first epoch, from 0 on, that sees all records")
    descending: bool = Field(False, description="begin with the largest values")


class Data(_Section):
    """What is trained and tested on."""

    path: Place | tuple[Dataset, ...] = Field(
        description="a dataset that `clipmill ingest` wrote, or a list of {path, weight, where}"
    )
    train: str = Field("train", description="split to train on")
    validate_: str = Field("val", alias="validate", description="split to validate on")
    test: str = Field("test", description="split to test on")
    where: str | None = Field(None, description="filter of records, such as `duration_seconds > 2`")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="part of the training videos of each class, at least one of each; by chance of"
        " train.seed, a smaller part within any larger one",
    )
    window: int = Field(0, ge=0, description="takes of a shuffle window in shard order; 0 is all")
    clips: int = Field(
        1, ge=1, description="training clips of a video at a time, one after another in the order"
    )
    balance: Literal["none", "class"] = Field(
        "none", description="class gives every class the same share of an epoch"
    )
    curriculum: Curriculum | None = Field(None, description="easy videos first: {by, until_epoch}")
    negatives: str | None = Field(
        None,
        description="Parquet file of hard negatives (key, keys), from the first dataset's folder",
    )
    aligned: bool = Field(
        False, description="training clips begin at reference frames, which decodes less"
    )

    @field_validator("path", mode="wrap")
    @classmethod
    def _told(cls, path: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(path)
        except ValidationError:
            raise ValueError(
                "a dataset's folder, or a list of {path, weight above 0, where}"
            ) from None

    @model_validator(mode="after")
    def _weighs(self) -> "Data":
        if not self.datasets:
            raise ValueError("at least one dataset")
        weighed = [each.weight is not None for each in self.datasets]
        if any(weighed) and not all(weighed):
            raise ValueError("a weight for every dataset, or for none")
        return self

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """All datasets, also where it is one."""
        return (Dataset(path=self.path),) if isinstance(self.path, str) else self.path

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of all datasets."""
        return tuple(each.path for each in self.datasets)

    @property
    def weights(self) -> tuple[float, ...]:
        """Their weights; empty where every video simply comes once."""
        return tuple(each.weight for each in self.datasets if each.weight is not None)

    def anchored(self) -> "Data":
        """The same with absolute paths."""
        if isinstance(self.path, str):
            return _anchored(self)
        return self.model_copy(update={"path": tuple(_anchored(each) for each in self.path)})

    def decisive(self) -> dict[str, Any]:
        """What decides the takes beside the records: not where anything lies."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if not isinstance(self.path, str):
            several = [{**each, "path": None} for each in plain["path"]]
            plain["path"] = several
        else:
            plain["path"] = None
        return {**plain, "negatives": self.negatives is not None}

    def split_of(self, stage: str) -> str:
        """The split that a stage sees."""
        return {"train": self.train, "val": self.validate_, "test": self.test}[stage]


class Model(BaseModel):
    """Which plugin, and its own fields beside."""

    model_config = ConfigDict(frozen=True, extra="allow")

    plugin: str = Field(description="name of an installed plugin")

    @property
    def fields(self) -> dict[str, Any]:
        """The plugin's own fields."""
        return dict(self.model_extra or {})


class Stop(_Section):
    """When to end before the last step; the run's model is then that of its best checkpoint."""

    patience: int = Field(3, ge=1, description="validations in a row that bring nothing better")
    min_delta: float = Field(0.0, ge=0, description="what counts as better")
    metric: str | None = Field(None, description="of the validation; null is the plugin's own")
    higher_is_better: bool | None = Field(None, description="null is as the plugin has it")


class Train(_Section):
    """How long and on what."""

    steps: int = Field(300, ge=1, description="optimizer steps in all")
    batch: int = Field(16, ge=1, description="takes of a step, over all workers")
    workers: int = Field(
        1, ge=0, description="training processes; 0 trains in this one, without Ray"
    )
    min_workers: int | None = Field(
        None, ge=1, description="go on with so few where others are lost; null is all of `workers`"
    )
    threads: int = Field(1, ge=1, description="CPU threads of a worker's network")
    seed: int = Field(0, ge=0, description="of takes, weights and dropout")
    init_from: str | tuple[str, ...] | None = Field(
        None,
        description="runs or versions to begin with: tensors that fit by name, the first first",
    )
    accumulate: int = Field(
        1, ge=1, description="parts of a worker's batch, one after another: a step in less memory"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the device has it, fp32 on CPUs"
    )
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant", description="of the learning rate over `steps`"
    )
    warmup_steps: int = Field(
        0, ge=0, description="of rising learning rate; one-cycle takes a quarter of `steps` for 0"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which then answers"
    )
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="every worker holds the whole model, or each a part of it"
    )
    compile_: bool = Field(
        False, alias="compile", description="compile the network (torch.compile)"
    )
    channels_last: bool = Field(
        False, description="channels last in memory: faster convolutions on many devices"
    )
    remat: bool = Field(
        False, description="recompute the network's blocks in the backward pass: less memory"
    )
    deterministic: bool = Field(
        False, description="only algorithms that give the same bits each time, which may be slower"
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="at a gradient that is no number: stop, or skip and count the step"
    )
    spike: float | None = Field(
        None, gt=1, description="a gradient this many times the usual norm is as bad as no number"
    )
    validate_every: int | None = Field(
        None,
        ge=1,
        description="steps between validations, each with a checkpoint; null is at the end",
    )
    stop: Stop | None = Field(None, description="end early: {patience, metric, ...}")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="last checkpoints that stay, beside the best validated")
    log_every: int = Field(10, ge=1, description="steps between logged metrics")
    max_failures: int = Field(3, ge=-1, description="restarts after lost workers; -1 is no limit")

    @property
    def sources(self) -> tuple[str, ...]:
        """All that it begins with, also where it is one."""
        given = self.init_from
        return (given,) if isinstance(given, str) else given or ()

    def anchored(self, runs: str) -> "Train":
        """The same with absolute paths; what is no path from here may be a name."""
        given = self.init_from
        told = tuple(_source(each, runs) for each in self.sources)
        moved = told[0] if isinstance(given, str) else given and told
        return self.model_copy(update={"init_from": moved})

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        if self.accumulate > max(1, self.batch // max(1, self.workers)):
            raise ValueError("accumulate of at most the takes of a worker's batch")
        if self.workers and (self.min_workers or 0) > self.workers:
            raise ValueError("min_workers of at most workers")
        if self.stop is not None and self.validate_every is None:
            raise ValueError("validate_every, which stop needs")
        return self


class Feed(_Section):
    """How clips come to the training workers; nothing here changes what they learn."""

    ahead_mb: int = Field(512, ge=1, description="clips decoded ahead, for each worker, in MB")
    max_bad_share: float = Field(
        0.05, ge=0, le=1, description="clips of an epoch that may fail to decode, before it stops"
    )
    cache_mb: int = Field(0, ge=0, description="disk for decoded test clips, on each node, in MB")
    cache_folder: Place | None = Field(
        None, description="of that cache; null is a temporary folder"
    )


class Track(_Section):
    """Where runs and versions are kept."""

    uri: str | None = Field(None, description="MLflow store; else MLFLOW_TRACKING_URI, else SQLite")
    experiment: str = Field("clipmill", description="MLflow experiment")
    register_: str | None = Field(None, alias="register", description="register as this name")

    def anchored(self) -> "Track":
        """The same with absolute paths."""
        return self.model_copy(update={"uri": self.uri and anchored_store(self.uri)})


class Recipe(_Section):
    """Everything that makes a run."""

    run: Run
    data: Data
    model: Model
    train: Train = Train()
    feed: Feed = Feed()
    track: Track = Track()

    def plugin(self) -> plugin.Plugin:
        """The plugin with its fields."""
        return plugin.make(self.model.plugin, self.model.fields)

    def plain(self) -> dict[str, Any]:
        """Plain data, every default filled in, the plugin's too."""
        data = self.model_dump(mode="json", by_alias=True)
        data["model"] |= self.plugin().model_dump(mode="json")
        return data

    def anchored(self) -> "Recipe":
        """The same with absolute paths, so that it holds from any folder and on any node."""
        run = _anchored(self.run)
        sections = {
            "run": run,
            "data": self.data.anchored(),
            "model": _anchored(self.model, plugin.load(self.model.plugin)),
            "train": self.train.anchored(run.folder),
            "feed": _anchored(self.feed),
            "track": self.track.anchored(),
        }
        return self.model_copy(update=sections)

    def decisive(self) -> dict[str, Any]:
        """What decides the weights; keys that may differ on resume are left out.

        So are keys at their defaults: a new field must not make a stranger of an old run.
        """
        model = {"plugin": self.model.plugin, **_changed(self.plugin())}
        free = MAY_DIFFER if self.train.schedule == "constant" else MAY_DIFFER - {"steps"}
        train = {key: value for key, value in _changed(self.train).items() if key not in free}
        return {"model": model, "train": train, "data": self.data.decisive()}

    def identity(self) -> str:
        """Hash of what decides the weights."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Recipe") -> list[str]:
        """The dotted keys that decide the weights and are not the same in another recipe."""
        as_given = _differing(self.decisive(), other.decisive())
        if not as_given:
            return []
        anchored = _differing(self.anchored().decisive(), other.anchored().decisive())
        return sorted(as_given & anchored)

    def is_of(self, before: Mapping[str, Any]) -> bool:
        """Whether plain data of before decides the same weights, defaults of today filled in."""
        try:
            return not self.differences(parse(before))
        except RecipeError:  # it knows keys that there are no more
            return False


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> set[str]:
    return {
        f"{section}.{key}"
        for section in mine
        for key in mine[section] | theirs[section]
        if mine[section].get(key) != theirs[section].get(key)
    }


def _anchored(section: AnySection, told_by: type[BaseModel] | None = None) -> AnySection:
    """The same with absolute paths in all fields that are places."""
    named = {name: getattr(section, name, None) for name in plugin.places(told_by or type(section))}
    moved = {name: storage.absolute(at) for name, at in named.items() if at and isinstance(at, str)}
    return section.model_copy(update=moved)


def _source(named: str, runs: str) -> str:
    """What a run begins with: a path from here is one from anywhere; a name stays one."""
    is_name = os.path.exists(storage.join(runs, named)) or not os.path.exists(named)
    return named if is_name else storage.absolute(named)


def anchored_store(uri: str) -> str:
    """The address of a tracking store, where it is a file or folder with an absolute path."""
    scheme = SQLITE if uri.startswith(SQLITE) else ""
    if not scheme and (":" in uri or uri in ("", "databricks")):
        return uri
    return f"{scheme}{storage.absolute(uri.removeprefix(scheme))}"


def _changed(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True, exclude_defaults=True)


# Neither where a run stops nor what is kept of it decides the weights of a step; recomputing gives
# the same numbers, and how many workers hold the model may differ, so how they do may, too. A run
# that a guard stopped goes on under another rule: that is what rules are changed for.
MAY_DIFFER = {
    "workers", "min_workers", "parallel", "remat", "steps", "stop", "validate_every", "keep",
    "checkpoint_every", "log_every", "max_failures", "on_nan", "spike",
}  # fmt: skip


def load(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Recipe:
    """Read a recipe from YAML or plain data, and set `dotted.key=value` overrides."""
    return parse(read(source, overrides))


def read(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Read YAML or plain data with overrides set, not yet checked."""
    data = _copied(source) if isinstance(source, Mapping) else _parsed(find(source))
    for override in overrides:
        _set(data, override)
    return data


def parse(data: Mapping[str, Any]) -> Recipe:
    """Check plain data; unknown keys are refused with the nearest right one."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(*plugin.told(error, Recipe)) from None
    recipe.plugin()
    return recipe


def find(source: str | os.PathLike[str]) -> Path:
    """Find a recipe by path, or by the name of one that clipmill ships."""
    path = Path(source)
    if path.is_file():
        return path
    names = [path.name, f"{path.name}.yaml"]
    shipped = [folder / name for folder in shipped_folders() for name in names]
    for candidate in shipped:
        if candidate.is_file():
            return candidate
    known = sorted({p.stem for folder in shipped_folders() for p in folder.glob("*.yaml")})
    raise RecipeError(f"no recipe {path}", f"a YAML file or one of {', '.join(known)}")


def shipped_folders() -> list[Path]:
    """Where the recipes lie: in an installed package, or in the repository."""
    here = Path(__file__).resolve()
    return [f for f in (here.parent / "pipelines", here.parents[2] / "pipelines") if f.is_dir()]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {error}", "a YAML file") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds no keys", "a recipe with run, data and model")
    return data


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copied(value) if isinstance(value, Mapping) else value for key, value in data.items()
    }


def _set(data: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        raise RecipeError(f"the override {override!r}", "dotted.key=value, such as train.steps=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"the value of {override!r}", "a YAML value") from None
    place(data, dotted, value)


def place(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value of plain data; sections on the way are made."""
    *path, last = dotted.split(".")
    for part in path:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{dotted}: {part} is {inner!r}", "a section")
        data = inner
    data[last] = value


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors; the fields of each installed plugin included."""
    whole = Recipe.model_json_schema(by_alias=True)
    variants = [_variant(entry) for entry in plugin.found() if entry.plugin]
    whole["properties"]["model"] = {"anyOf": variants}
    return whole


def _variant(entry: plugin.Entry) -> dict[str, Any]:
    assert entry.plugin is not None
    fields = entry.plugin.model_json_schema(ref_template=f"#/$defs/{entry.name}.{{model}}")
    fields["properties"] = {"plugin": {"const": entry.name}, **fields["properties"]}
    fields["required"] = ["plugin", *fields.get("required", [])]
    return {**fields, "title": entry.name}

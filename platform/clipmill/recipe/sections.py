"""The sections of a recipe: which keys there are, their bounds and defaults."""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from clipmill.plugin import Place
from clipmill.recipe import places


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(Section):
    """Where the run lives."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="unique in its folder")
    folder: Place = Field("runs", description="folder of all runs")


class Dataset(Section):
    """One of several datasets."""

    path: Place = Field(description="a dataset that `clipmill ingest` wrote")
    weight: float | None = Field(
        None, gt=0, description="its share of an epoch, beside the weights of the others"
    )
    where: str | None = Field(None, description="filter of its records")


class Curriculum(Section):
    """Easy first: while it lasts, an epoch is filled with a growing share of the records."""

    by: str = Field(description="column of numbers, such as `motion`, or `attributes.NAME`")
    until_epoch: int = Field(ge=1, description="the first epoch, from 0 on, that sees all records")
    descending: bool = Field(False, description="begin with the largest values")


class Data(Section):
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
            return places.anchored(self)
        return self.model_copy(update={"path": tuple(places.anchored(each) for each in self.path)})

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


class Stop(Section):
    """When to end before the last step; the run's model is then that of its best checkpoint."""

    patience: int = Field(3, ge=1, description="validations in a row that bring nothing better")
    min_delta: float = Field(0.0, ge=0, description="what counts as better")
    metric: str | None = Field(None, description="of the validation; null is the plugin's own")
    higher_is_better: bool | None = Field(None, description="null is as the plugin has it")


class Train(Section):
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
        told = tuple(places.source(each, runs) for each in self.sources)
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


class Feed(Section):
    """How clips come to the training workers; nothing here changes what they learn."""

    ahead_mb: int = Field(512, ge=1, description="clips decoded ahead, for each worker, in MB")
    max_bad_share: float = Field(
        0.05, ge=0, le=1, description="clips of an epoch that may fail to decode, before it stops"
    )
    cache_mb: int = Field(0, ge=0, description="disk for decoded test clips, on each node, in MB")
    cache_folder: Place | None = Field(
        None, description="of that cache; null is a temporary folder"
    )


class Track(Section):
    """Where runs and versions are kept."""

    uri: str | None = Field(None, description="MLflow store; else MLFLOW_TRACKING_URI, else SQLite")
    experiment: str = Field("clipmill", description="MLflow experiment")
    register_: str | None = Field(None, alias="register", description="register as this name")

    def anchored(self) -> "Track":
        """The same with absolute paths."""
        return self.model_copy(update={"uri": self.uri and places.anchored_store(self.uri)})

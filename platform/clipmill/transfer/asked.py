"""What a transfer is asked for: the recipe of each protocol, what it begins with, how much of it.

Everything is checked here, before anything is trained or written.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from clipmill import checkpoint, storage
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.catalog import Catalog
from clipmill.errors import RecipeError, RunError, UsageError
from clipmill.infer import Model
from clipmill.recipe import Recipe
from clipmill.transfer import network
from clipmill.transfer.fit import Fit, fitted

Protocol = Literal["probe", "finetune"]
Begins = Literal["pretrained", "random"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
BEGINS: tuple[Begins, ...] = get_args(Begins)
NO_SPLIT = "none"  # nothing is chosen by validation here, so none is done
DECIDED = ("run", "data.path", "data.share", "data.validate", "train.seed", "train.init_from")
WHOLE = ("data", "train")  # sections that hold some of these: set whole, they would replace them


@dataclass(frozen=True)
class Portion:
    """A fraction of the labels."""

    share: float
    videos: int  # to train on
    clips: int  # of each at a time, so that they fill a batch


@dataclass(frozen=True)
class Side:
    """One protocol: the recipe of all its trials but for share, seed and beginning."""

    protocol: Protocol
    given: Recipe
    fit: Fit
    portions: tuple[Portion, ...]


@dataclass(frozen=True)
class Asked:
    """A transfer, read and checked."""

    source: str  # the run or version
    catalog: Catalog
    sides: tuple[Side, ...]
    seeds: int
    out: str

    @property
    def name(self) -> str:
        """Of its files."""
        source = self.source.replace("/", "-").replace("@", "-")
        data = storage.name_of(self.catalog.folders[0].rstrip("/"))
        whole = json.dumps([self.source, self.catalog.folders])  # base names alone meet others
        return f"{source}-on-{data}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def read(
    model: Model,
    source: str,
    data: str,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    shares: Sequence[float] = (0.01, 0.1, 1.0),
    seeds: int = 3,
    overrides: Sequence[str] = (),
    out: str = "transfer",
) -> Asked:
    """Read what is asked of a model, or refuse what cannot be done."""
    _check(protocols, shares, seeds, overrides)
    out = storage.absolute(out)
    given = {each: _given(model, data, out, each, overrides) for each in dict.fromkeys(protocols)}
    catalog = plans.catalog_of(next(iter(given.values())).data)
    weights, fits = checkpoint.snapshot(model.module), dict[str, Fit]()
    sides = []
    for protocol, recipe in given.items():
        plugin = recipe.plugin()
        alike = plugin.model_dump_json()
        if alike not in fits:
            bare = network.of_any_classes(plugin)
            fits[alike] = fitted(source, weights, bare, plugin.class_names(catalog))
        sides.append(_side(protocol, recipe, fits[alike], shares, catalog, seeds))
    return Asked(source, catalog, tuple(sides), seeds, out)


def _given(model: Model, data: str, out: str, protocol: str, overrides: Sequence[str]) -> Recipe:
    given = recipes.parse(_plain(model, data, out, protocol, overrides)).anchored()
    network.check(given.plugin(), protocol)
    return given


def _side(
    protocol: str, given: Recipe, fit: Fit, shares: Sequence[float], catalog: Catalog, seeds: int
) -> Side:
    given = _frozen(given, fit) if protocol == "probe" else given
    plans.make(given, "test", catalog)  # what cannot be tested is not trained
    portions = tuple(_portion(given, share, catalog, seeds) for share in sorted(set(shares)))
    return Side(protocol, given, fit, portions)  # type: ignore[arg-type]


def _check(
    protocols: Sequence[str], shares: Sequence[float], seeds: int, overrides: Sequence[str]
) -> None:
    if not protocols or set(protocols) - set(PROTOCOLS):
        raise UsageError(f"the protocols {', '.join(protocols)}", f"some of {', '.join(PROTOCOLS)}")
    if not shares or not all(0 < share <= 1 for share in shares):
        told = ", ".join(f"{share:g}" for share in shares)
        raise UsageError(f"the fractions {told}", "numbers above 0 and up to 1, such as 0.01,0.1,1")
    if seeds < 1:
        raise UsageError(f"{seeds} seeds", "1 at the least")
    for each in overrides:
        key = _bare(each).partition("=")[0]
        if key in WHOLE or any(key == fixed or key.startswith(fixed + ".") for fixed in DECIDED):
            raise RecipeError(f"{key} in a transfer", "none: it is what the trials differ by")


def _bare(override: str) -> str:
    """An override without the protocol that it is for."""
    first, _, rest = override.partition(".")
    return rest if first in PROTOCOLS else override


def _of(protocol: str, overrides: Sequence[str]) -> list[str]:
    """What is set for a protocol, for it alone after what is for all."""
    general = [each for each in overrides if _bare(each) == each]
    return general + [_bare(each) for each in overrides if each.startswith(f"{protocol}.")]


def _plain(
    model: Model, data: str, out: str, protocol: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """The recipe of a protocol, not yet checked."""
    overrides = _of(protocol, overrides)
    asked = recipes.read({}, overrides).get("model", {})
    other = asked.get("plugin") if isinstance(asked, Mapping) else None
    name, fields = network.downstream(model.plugin, other)
    if protocol == "probe":
        fields |= network.of_probes(name)
    plain = {
        "run": {"name": "transfer", "folder": storage.join(out, "runs")},
        "data": {"path": data, "validate": NO_SPLIT},
        "model": {"plugin": name, **fields},
        "train": {"workers": 0, "keep": 1},
        "track": {"experiment": "transfer"},
    }
    return recipes.read(plain, overrides)


def _frozen(given: Recipe, fit: Fit) -> Recipe:
    """The recipe of a probe: what is filled learns nothing, unless others were named."""
    if given.model.fields.get("frozen"):
        return given
    if not fit.learning:
        raise RunError(
            f"all of {given.model.plugin} is filled, so that nothing of it would learn in a probe",
            "a network with something of its own, such as the scores of classes",
            "ask for --protocol finetune, or set model.frozen=[...]",
        )
    model = {"plugin": given.model.plugin, **given.model.fields, "frozen": list(fit.parts)}
    return recipes.parse({**given.model_dump(mode="json", by_alias=True), "model": model})


def _portion(given: Recipe, share: float, catalog: Catalog, seeds: int) -> Portion:
    """How many videos a share is, and how often each must come for them to fill a batch.

    Seeds choose other videos, which may make other numbers of takes: what fills all is taken.
    """
    data = given.data.model_copy(update={"share": share})
    videos, clips = 0, 1
    for seed in range(seeds if share < 1 else 1):
        train = given.train.model_copy(update={"batch": 1, "workers": 0, "seed": seed})
        plan = plans.make(given.model_copy(update={"data": data, "train": train}), "train", catalog)
        videos = len(plan.catalog)
        clips = max(clips, plans.clips_that_fill(replace(plan, batch=given.train.batch)))
    return Portion(share, videos, clips)

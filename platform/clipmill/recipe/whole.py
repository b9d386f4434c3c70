"""A whole recipe, what of it decides the weights, and whether plain data is one."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from clipmill import plugin
from clipmill.errors import RecipeError
from clipmill.recipe import places
from clipmill.recipe.sections import Data, Feed, Model, Run, Section, Track, Train

# Neither where a run stops nor what is kept of it decides the weights of a step; recomputing gives
# the same numbers, and how many workers hold the model may differ, so how they do may, too. A run
# that a guard stopped goes on under another rule: that is what rules are changed for.
MAY_DIFFER = {
    "workers", "min_workers", "parallel", "remat", "steps", "stop", "validate_every", "keep",
    "checkpoint_every", "log_every", "max_failures", "on_nan", "spike",
}  # fmt: skip


class Recipe(Section):
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
        run = places.anchored(self.run)
        sections = {
            "run": run,
            "data": self.data.anchored(),
            "model": places.anchored(self.model, plugin.load(self.model.plugin)),
            "train": self.train.anchored(run.folder),
            "feed": places.anchored(self.feed),
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


def _changed(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def parse(data: Mapping[str, Any]) -> Recipe:
    """Check plain data; unknown keys are refused with the nearest right one."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(*plugin.told(error, Recipe)) from None
    recipe.plugin()
    return recipe


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

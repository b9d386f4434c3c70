"""Which network a run's tensors are tried in: what its plugin names, or its own, or another's.

Fields in, fields out; knows no tensors.
"""

from collections.abc import Mapping
from typing import Any

from clipmill import plugin as plugins
from clipmill.errors import PluginError
from clipmill.plugin import Plugin

Fields = dict[str, Any]
OF_CLASSES: Mapping[str, Any] = {"class_weights": {}, "shares": []}  # what counts or names them


def downstream(plugin: Plugin, other: str | None = None) -> tuple[str, Fields]:
    """The plugin and its fields: as `downstream()` says, or the run's own; `other` replaces it.

    What another plugin shares with it is kept, as far as it is not as it always is: backbone,
    width and size, and not how many frames are looked at.
    """
    told = getattr(plugin, "downstream", None)
    name, fields = told() if told else (plugin.name, plugin.model_dump(mode="json"))
    made = plugins.make(name, fields)
    if other in (None, name):
        return name, _unlearnt(type(made), dict(fields))
    assert other is not None
    wanted = plugins.load(other)
    shared = {n: v for n, v in fields.items() if n in wanted.model_fields and _is_set(made, n)}
    return other, _unlearnt(wanted, shared)


def _is_set(made: Plugin, name: str) -> bool:
    field = type(made).model_fields[name]
    return bool(getattr(made, name) != field.get_default(call_default_factory=True))


def _unlearnt(plugin: type[Plugin], fields: Fields) -> Fields:
    """Without files of weights, which would be no random ones, and without what is of its classes."""
    anew: Mapping[str, Any] = {"frozen": [], **OF_CLASSES}
    known = plugin.model_fields
    files = {n: None for n in known if n.split("_")[-1] == "weights" and n not in anew}
    return {**fields, **files, **{name: value for name, value in anew.items() if name in known}}


def of_probes(name: str) -> Fields:
    """What a plugin's probes differ in: features may lie too close together to be told apart."""
    return {"normalised": True} if "normalised" in plugins.load(name).model_fields else {}


def of_any_classes(plugin: Plugin) -> Plugin:
    """The same without what is of its classes, so that a network of more of them can be made."""
    bare = {name: value for name, value in OF_CLASSES.items() if name in type(plugin).model_fields}
    return plugins.make(plugin.name, {**plugin.model_dump(mode="json"), **bare}) if bare else plugin


def check(plugin: Plugin, protocol: str) -> None:
    """Refuse a plugin that cannot be trained or measured so."""
    if plugin.meter() is None:
        raise PluginError(f"{plugin.name} has no meter", "a plugin with a meter()")
    if not plugin.by_gradient:
        raise PluginError(
            f"{plugin.name} learns without gradients", "one that does", "set model.plugin=..."
        )
    if protocol == "probe" and "frozen" not in type(plugin).model_fields:
        raise PluginError(
            f"a probe of {plugin.name}, which has no field `frozen`",
            "one that can be frozen in parts",
            "ask for --protocol finetune, or set model.plugin=...",
        )

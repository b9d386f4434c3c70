"""What of one network goes into another: tensors by their names, and the parts that they fill.

What depends on the number of classes never goes along: that is learned anew. Knows neither
recipes nor what anything is trained on.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save as save_tensors

from clipmill import checkpoint, infer, storage
from clipmill.errors import RunError
from clipmill.launch import begin
from clipmill.plugin import Plugin

NAMED = 3  # tensors that an error names
MORE = "one class more"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Fit:
    """What goes into a network, by the names that it has there."""

    weights: Tensors
    parts: tuple[str, ...]  # of the network: those that are all filled
    learning: int  # weights of it that are not filled
    lines: tuple[str, ...]  # which tensors went where, for people

    @functools.cached_property
    def sha256(self) -> str:
        """Of all that goes along."""
        return checkpoint.weights_sha256(self.weights)

    def folder(self, out: str) -> str:
        """Where runs find it to begin with."""
        return storage.join(out, "backbones", self.sha256[:12])

    def save(self, out: str, source: str) -> None:
        """Write it for runs to begin with, once."""
        home = self.folder(out)
        if not storage.exists(storage.join(home, "model.json")):
            weights = save_tensors(dict(self.weights))
            storage.put(storage.join(home, "weights.safetensors"), weights)
            told = {"from": source, "weights_sha256": self.sha256, "lines": self.lines}
            storage.put_json(storage.join(home, "model.json"), told)


def fitted(source: str, weights: Tensors, plugin: Plugin, classes: Sequence[str]) -> Fit:
    """Find which tensors of a source go where in a plugin's network, or refuse if none does."""
    network, wider = _empty(plugin, classes), _empty(plugin, [*classes, MORE])
    state, other = network.state_dict(), wider.state_dict()
    body = {n: like for n, like in state.items() if n in other and other[n].shape == like.shape}
    names = [name for name, _ in network.named_parameters()]
    pairs = _of_filled(begin.matched(body, weights), names)
    if not pairs:
        raise _none_fits(source, weights, plugin, names)
    left = sorted(weights.keys() - set(pairs.values()))
    told = [{"from": source, "loaded": pairs, "left": left}]
    return Fit(
        weights={n: weights[theirs].detach().cpu().clone() for n, theirs in pairs.items()},
        parts=parts_of(pairs.keys(), names),
        learning=len(set(names) - pairs.keys()),
        lines=tuple(begin.lines(told, sorted(state.keys() - pairs.keys()))),
    )


def _empty(plugin: Plugin, classes: Sequence[str]) -> torch.nn.Module:
    """The network for so many classes, without memory for its numbers."""
    with torch.device("meta"):
        return infer.build(plugin, tuple(classes), restored=True)


def _of_filled(pairs: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Leave out buffers of layers whose weights do not fit: a count of batches fits any layer."""
    lacking = {_layer(name) for name in names if name not in pairs}
    kept = {n: theirs for n, theirs in pairs.items() if n in names or _layer(n) not in lacking}
    return kept if any(name in names for name in kept) else {}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def parts_of(chosen: Collection[str], names: Sequence[str]) -> tuple[str, ...]:
    """The fewest beginnings of dotted names that all chosen ones have, and no other name."""
    found: list[str] = []
    for name in names:
        if name not in chosen or any(_begins(name, part) for part in found):
            continue
        words = name.split(".")
        beginnings = (".".join(words[:count]) for count in range(1, len(words) + 1))
        found.append(next(part for part in beginnings if _has_only(part, chosen, names)))
    return tuple(found)


def _has_only(part: str, chosen: Collection[str], names: Sequence[str]) -> bool:
    return all(name in chosen for name in names if _begins(name, part))


def _begins(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def _none_fits(source: str, weights: Tensors, plugin: Plugin, names: Collection[str]) -> RunError:
    theirs, ours = (", ".join(sorted(some)[:NAMED]) for some in (weights, names))
    return RunError(
        f"none of the {len(weights)} tensors of {source}, such as {theirs}, fits {plugin.name}",
        f"some by name and shape, such as {ours}",
        "give both the same backbone, width and size, or set model.plugin=...",
    )

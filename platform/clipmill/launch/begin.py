"""What a run begins with: tensors of other runs and versions, found by their names.

They are gathered once, into the run's own folder, where every worker finds them, also when the
run goes on after an alias has moved. Knows no network but by its names and shapes.
"""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from clipmill import checkpoint, infer, storage, track
from clipmill.errors import RunError
from clipmill.folder import Folder
from clipmill.recipe import Recipe

RENAMED_TENSORS = 10  # that a part must have, to be found under another name; or most of its source
NAMED = 4  # tensors that a line names

Tensors = Mapping[str, torch.Tensor]
log = logging.getLogger("clipmill")


def gather(given: Recipe, home: Folder, classes: tuple[str, ...]) -> dict[str, Any]:
    """Find what a run begins with, and tell which tensors went where and which did not."""
    sources, path = given.train.sources, _told_path(home)
    if not sources:
        return {}
    if storage.exists(path):
        return {"init": storage.read_json(path)["lines"]}
    with torch.device("meta"):
        wanted = infer.build(given.plugin(), classes, restored=True).state_dict()
    found: dict[str, torch.Tensor] = {}
    told = []
    for source in sources:
        with _weights(source, given) as weights:
            missing = {name: like for name, like in wanted.items() if name not in found}
            pairs = matched(missing, weights)
            if not any(weights[theirs].is_floating_point() for theirs in pairs.values()):
                raise _none_fits(source, weights, wanted)
            found |= taken(pairs, weights)
            left = sorted(weights.keys() - set(pairs.values()))
        told.append({"from": source, "loaded": pairs, "left": left})
    fresh = sorted(wanted.keys() - found.keys())
    storage.put(_path(home), save_tensors(found))
    spoken = list(lines(told, fresh))
    storage.put_json(path, {"sources": told, "fresh": fresh, "lines": spoken})
    for line in spoken:
        log.warning("%s", line)
    return {"init": spoken}


def taken(pairs: Mapping[str, str], weights: Tensors) -> dict[str, torch.Tensor]:
    """Tensors by their new names, each with memory of its own: one may serve two places."""
    whole = torch.contiguous_format
    return {name: weights[theirs].clone(memory_format=whole) for name, theirs in pairs.items()}


def load(home: Folder, module: torch.nn.Module) -> None:
    """Give a network what its run begins with, if that is anything."""
    if storage.exists(_path(home)):
        module.load_state_dict({**module.state_dict(), **load_tensors(storage.read(_path(home)))})


def lines(told: list[dict[str, Any]], fresh: list[str]) -> Iterator[str]:
    """Tell a person what went where, by parts of the networks."""
    for each in told:
        moves = Counter(_stems(theirs, name) for name, theirs in each["loaded"].items())
        went = ", ".join(
            f"{count} tensors of {theirs or 'it'}"
            + (f" to {ours or 'the network'}" if ours != theirs else "")
            for (theirs, ours), count in moves.items()
        )
        yield f"begins with {went} from {each['from']}; not taken: {_some(each['left'])}"
    yield f"drawn by chance: {_some(fresh)}"


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED
    return (", ".join(names[:NAMED]) or "none") + (f" and {rest} more" if rest > 0 else "")


def _stems(theirs: str, ours: str) -> tuple[str, str]:
    """The parts that two names are of: what differs, or else their first word."""
    stems = _apart(theirs, ours)
    return stems if any(stems) else (theirs.split(".")[0], ours.split(".")[0])


# --- which tensor goes where


def matched(wanted: Tensors, weights: Tensors) -> dict[str, str]:
    """The name in `weights` of each tensor that is wanted, where there is one of its shape.

    The same name goes first. What is left is found under another beginning, such as `backbone.`
    for `encoder.network.`, if many tensors tell of the same one. Names decide before shapes: of a
    wider network the second stage has the shapes of a narrower one's third, and is not it.
    """
    pairs = {n: n for n, like in wanted.items() if n in weights and _alike(like, weights[n])}
    moves: dict[tuple[str, str], dict[str, str]] = {}
    for name in wanted.keys() - weights.keys():
        for theirs in weights.keys() - pairs.keys():
            if name.rsplit(".", 1)[-1] == theirs.rsplit(".", 1)[-1]:
                moves.setdefault(_apart(theirs, name), {})[name] = theirs
    fits = {move: {n: t for n, t in names.items() if _alike(wanted[n], weights[t])}
            for move, names in moves.items()}  # fmt: skip
    enough, settled = min(RENAMED_TENSORS, len(weights) // 2 + 1), set[str]()
    for move in sorted(moves, key=lambda each: (-len(moves[each]), -len(fits[each]), each)):
        new = moves[move].keys() - settled
        if len(new) >= enough:
            settled |= new
            found = {name: theirs for name, theirs in fits[move].items() if name in new}
            pairs |= found if len(found) >= enough else {}
    return pairs


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def _apart(theirs: str, ours: str) -> tuple[str, str]:
    """The beginnings of two names, without the end that they share."""
    a, b = theirs.split("."), ours.split(".")
    shared = 0
    while shared < min(len(a), len(b)) and a[-1 - shared] == b[-1 - shared]:
        shared += 1
    return ".".join(a[: len(a) - shared]), ".".join(b[: len(b) - shared])


# --- where weights lie


@contextlib.contextmanager
def _weights(source: str, given: Recipe) -> Iterator[Tensors]:
    """The tensors that answer of a run, a version or a model folder."""
    folder = _on_disk(source, storage.absolute(given.run.folder))
    if folder is not None:
        yield checkpoint.read_weights(folder)
        return
    if "@" not in source and "/" not in source:
        raise track.no_such_run(source, given.run.folder)
    uri = track.uri_of(given.track.uri, given.run.folder)
    with track.fetched(uri, source) as (inner, _):
        yield checkpoint.read_weights(inner)


def _on_disk(source: str, runs: str) -> str | None:
    """The folder of weights of a run by its name, path or id: its model, or its last commit."""
    by_id = (
        str(path.parent)
        for path in Path(runs).glob("*/mlflow.json")
        if track.run_id_of(str(path.parent)) == source
    )
    for home in (storage.join(runs, source), storage.absolute(source), *by_id):
        if os.path.exists(storage.join(home, "model.json")):
            return home
        if os.path.exists(model := storage.join(home, "model", "model.json")):
            return os.path.dirname(model)
        if last := checkpoint.Keeper(home).last():
            return last
    return None


def _none_fits(source: str, weights: Tensors, wanted: Tensors) -> RunError:
    return RunError(
        f"none of the {len(weights)} tensors of {source} is one of this network's, "
        f"such as {_some(sorted(weights))}",
        f"some by name and shape, such as {_some(sorted(wanted))}",
        "give both the same backbone, width and size, or take train.init_from out",
    )


def _path(home: Folder) -> str:
    return storage.join(home.path, "init.safetensors")


def _told_path(home: Folder) -> str:
    return storage.join(home.path, "init.json")

"""The verb that serves models over HTTP."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clipmill.api.shared import is_run, model_of, registry_of, run_folder
from clipmill.errors import UsageError

if TYPE_CHECKING:
    from clipmill.infer import Model
    from clipmill.serve import Allowed, Served, Source


def serve(
    versions: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    names: Sequence[str] = (),
    galleries: Mapping[str, str] | None = None,
    refresh_seconds: float = 5.0,
    max_mb: int | None = None,
    max_seconds: float | None = None,
    decoders: int | None = None,
    folder: str = "runs",
    tracking: str | None = None,
    ready: Callable[[str, str], None] | None = None,
    leaving: Callable[[int], None] | None = None,
) -> None:
    """Answer videos over HTTP until told to stop; `ready` hears the address and the token.

    `leaving` hears how many requests are still answered then; who tells it again cuts them off.

    Where an alias moves to another version, that is served within `refresh_seconds`. A gallery,
    by the name of its model, tells whom a video shows. `decoders` are processes, else one a core.
    `names` are those by which others reach the server; without any, none is refused on a network.
    """
    from clipmill import serve as serving

    known = serving.known_names(names)
    with serving.bind(host, port) as listener:  # a port in use is told before models are loaded
        secret = serving.new_token() if token is None else token
        shelf = serving.Shelf(_sources(versions, galleries or {}, folder, tracking))
        shelf.load()
        allowed = _allowed(max_mb, max_seconds, decoders)
        app = serving.make_app(shelf, token=secret, allowed=allowed)
        with contextlib.closing(app.state.service) as service:
            service.warm()
            shelf.watch(refresh_seconds)
            serving.run(
                app,
                host=host,
                token=secret,
                names=known,
                listener=listener,
                ready=lambda address: ready(address, secret) if ready else None,
                leaving=leaving,
            )


def _allowed(max_mb: int | None, max_seconds: float | None, decoders: int | None) -> "Allowed":
    from clipmill.serve import WAITING, Allowed

    usual = Allowed()
    most = usual.max_bytes if max_mb is None else max_mb << 20
    seconds = usual.bounds.seconds if max_seconds is None else max_seconds
    larger = max(0, most - usual.max_bytes)  # which a decoder holds beside all that it needs
    count = usual.decoders if decoders is None else decoders
    return replace(
        usual, max_bytes=most, max_batch_bytes=2 * most, decoders=count, waiting=WAITING * count,
        bounds=replace(usual.bounds, seconds=seconds),
        cell=replace(usual.cell, memory_bytes=usual.cell.memory_bytes + larger),
    )  # fmt: skip


def _sources(
    versions: Sequence[str], galleries: Mapping[str, str], folder: str, tracking: str | None
) -> list["Source"]:
    """Models by the names they are served under, to be loaded."""
    names = {version: _name(version, folder) for version in versions}
    if len(set(names.values())) < len(versions):
        raise UsageError(
            f"{' and '.join(versions)}, of which several have the same name", "one version a name"
        )
    if strange := sorted(set(galleries) - set(names.values())):
        raise UsageError(
            f"a gallery for {strange[0]}", f"one of the models served: {', '.join(names.values())}"
        )
    return [
        _source(version, name, galleries.get(name), folder, tracking)
        for version, name in names.items()
    ]


def _name(version: str, folder: str) -> str:
    if is_run(version):
        return os.path.basename(run_folder(version, folder))
    from clipmill import track

    return track.parse_version(version)[0]


def _source(
    version: str, name: str, gallery: str | None, folder: str, tracking: str | None
) -> "Source":
    from clipmill.serve import Served, Source

    def load() -> "Served":
        model, told = model_of(version, folder, tracking)
        lineage = {**told, **_lineage(model)}
        return Served(model, told.get("version"), lineage, _match(model, gallery))

    def current() -> str | None:
        if is_run(version) or "@" not in version:
            return None
        from clipmill import track

        return str(track.resolve(registry_of(tracking, folder), version).version)

    return Source(name, load, current)


def _lineage(model: "Model") -> dict[str, Any]:
    """What a model came of, as far as it carries that itself."""
    recipe = model.recipe
    return {
        "data": list(recipe.data.paths),
        "plugin": recipe.model.plugin,
        "steps": recipe.train.steps,
        "seed": recipe.train.seed,
        "profile": model.profile.name,
    }


def _match(model: "Model", gallery: str | None) -> Callable[[Any], dict[str, Any]] | None:
    if gallery is None:
        return None
    from clipmill import gallery as known

    there = known.opened(model, gallery)
    return lambda embedding: known.recognised(model, there, embedding)

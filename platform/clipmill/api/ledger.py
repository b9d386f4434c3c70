"""Verbs about what was trained: runs, versions, where they came from, what may go."""

from collections.abc import Iterator
from typing import Any

from clipmill.api.shared import Progress, bare, registry_of, run_folder


def runs(folder: str = "runs") -> dict[str, Any]:
    """All runs of a folder, with where they stand."""
    from clipmill import runs as standings

    return {"runs": standings.listed(folder)}


def show(run: str, *, folder: str = "runs") -> dict[str, Any]:
    """All that is known of one run: its result, or how far it has come."""
    from clipmill import runs as standings

    return standings.whole(run_folder(run, folder))


def follow(
    run: str, *, folder: str = "runs", every_seconds: float = 1.0
) -> Iterator[dict[str, Any]]:
    """Tell what `show` tells again and again while a run lives, and once after its end."""
    from clipmill import runs as standings

    return standings.followed(run_folder(run, folder), every_seconds=every_seconds)


def trace(version: str, *, folder: str = "runs", tracking: str | None = None) -> dict[str, Any]:
    """What a version came of: data, recipe, commit, run, figures with protocol, and its files."""
    from clipmill import track

    return track.trace(registry_of(tracking, folder), version)


def clean(
    folder: str = "runs", *, days: float = 30.0, yes: bool = False, tracking: str | None = None
) -> dict[str, Any]:
    """List old runs, caches and what crashes left, with sizes; with `yes` remove them."""
    from clipmill import clean as cleaning
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    return cleaning.clean(folder, uri, days=days, remove=yes)


def promote(
    run: str,
    *,
    name: str,
    alias: str = "champion",
    folder: str = "runs",
    tracking: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Register a run's model under an alias, unless the one that holds it now tests better."""
    from clipmill import promote as promotion
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    return promotion.promote(
        run_folder(run, folder), uri, name=name, alias=alias, force=force, progress=bare(progress)
    )

"""Verbs about what was trained: runs, versions, where they came from, what may go."""

from typing import Annotated, Any

import typer

from clipmill.cli import pages
from clipmill.cli.app import Runs, Tracking, app, on_screen, verb


@verb(app, "runs", pages.runs)
def runs(
    folder: Annotated[str, typer.Argument(help="Folder of all runs.")] = "runs",
) -> dict[str, Any]:
    """List the runs of a folder and where they stand; reads only."""
    from clipmill import api

    return api.runs(folder)


@verb(app, "show", pages.run)
def show(
    run: Annotated[str, typer.Argument(help="Name or id of a run.")],
    live: Annotated[bool, typer.Option("--live", help="Follow it while it lives.")] = False,
    runs: Runs = "runs",
) -> dict[str, Any]:
    """Show all that is known of one run; reads only."""
    from clipmill import api

    if live:
        return pages.follow(api.follow(run, folder=runs), on_screen.progress)
    return api.show(run, folder=runs)


@verb(app, "trace", pages.trace)
def trace(
    version: Annotated[str, typer.Argument(help="NAME@alias or NAME/3.")],
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Tell what a version came of: data, recipe, commit, run, figures, files; reads only."""
    from clipmill import api

    return api.trace(version, folder=runs, tracking=track)


@verb(app, "clean", pages.clean)
def clean(
    folder: Annotated[str, typer.Argument(help="Folder of all runs.")] = "runs",
    days: Annotated[float, typer.Option(min=0, help="Only what is this old.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    track: Tracking = None,
) -> dict[str, Any]:
    """List old runs, caches and what crashes left, with sizes; removes nothing without --yes.

    Living runs stay, and those that a registered version came of.
    """
    from clipmill import api

    return api.clean(folder, days=days, yes=yes, tracking=track)


@verb(app, "promote", pages.promoted)
def promote(
    run: Annotated[str, typer.Argument(help="Name or id of a run.")],
    name: Annotated[str, typer.Option(help="Name in the registry.")],
    alias: Annotated[str, typer.Option(help="Alias to give.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Also if it tests worse.")] = False,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Register a run's model under an alias, unless the one that holds it tests better."""
    from clipmill import api

    return api.promote(
        run, name=name, alias=alias, force=force, folder=runs, tracking=track,
        progress=on_screen.progress,
    )  # fmt: skip

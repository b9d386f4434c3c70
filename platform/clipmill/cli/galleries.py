"""Verbs of galleries: enrol, remove, list and match identities."""

from typing import Annotated, Any

import typer

from clipmill.cli import screen
from clipmill.cli.app import Runs, Tracking, app, verb

galleries = typer.Typer(
    help="Identities that a model knows by one picture or video each.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(galleries, name="gallery")

GalleryFile = Annotated[str, typer.Argument(help="The gallery's file.")]
Target = Annotated[str, typer.Argument(help="A run, or NAME@alias, or NAME/3.")]


@verb(galleries, "enrol")
def gallery_enrol(
    gallery: GalleryFile,
    target: Target,
    identity: Annotated[str, typer.Argument(help="Its name.")],
    file: Annotated[str, typer.Argument(help="One picture or video of it.")],
    instead: Annotated[
        bool, typer.Option("--instead", help="Of what it was enrolled by before.")
    ] = False,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Add an identity to GALLERY, which is made if it is not there; trains nothing."""
    from clipmill import api

    return api.gallery_enrol(
        gallery, target, identity, file, instead=instead, folder=runs, tracking=track
    )


@verb(galleries, "remove")
def gallery_remove(
    gallery: GalleryFile, identity: Annotated[str, typer.Argument(help="Its name.")]
) -> dict[str, Any]:
    """Take an identity out of GALLERY, whose file is written anew."""
    from clipmill import api

    return api.gallery_remove(gallery, identity)


def _show_list(result: dict[str, Any]) -> None:
    screen.pairs({key: value for key, value in result.items() if key != "identities"})
    shown = ("identity", "file", "enrolled_as")
    screen.table(
        "identities", shown, [[each[key] for key in shown] for each in result["identities"]]
    )


@verb(galleries, "list", _show_list)
def gallery_list(gallery: GalleryFile) -> dict[str, Any]:
    """Tell who is in GALLERY, and the weights that it needs; writes nothing."""
    from clipmill import api

    return api.gallery_list(gallery)


def _show_matches(result: dict[str, Any]) -> None:
    shown = ("file", "identity", "nearest", "distance", "threshold")
    rows = [_match_row(each) for each in result["matches"] if "error" not in each]
    screen.table("", shown, rows)
    for each in result["matches"]:
        if "error" in each:
            screen.error(each["error"])


def _match_row(each: dict[str, Any]) -> list[str]:
    nearest = each["nearest"][0]["identity"]
    figures = [f"{each[key]:.4f}" for key in ("distance", "threshold")]
    return [each["file"], each["identity"], nearest, *figures]


@verb(galleries, "match", _show_matches)
def gallery_match(
    gallery: GalleryFile,
    target: Target,
    files: Annotated[list[str], typer.Argument(help="Pictures or videos.")],
    threshold: Annotated[
        float | None,
        typer.Option(help="Distance up to which two are one; else as validation chose."),
    ] = None,
    runs: Runs = "runs",
    track: Tracking = None,
) -> dict[str, Any]:
    """Tell who FILES show, or that they are not recognised; writes nothing."""
    from clipmill import api

    return api.gallery_match(
        gallery, target, files, threshold=threshold, folder=runs, tracking=track
    )

"""Verbs of galleries: who is known to a model, and who a picture or a video shows."""

from collections.abc import Sequence
from typing import Any

from clipmill.api.shared import model_of
from clipmill.errors import ClipmillError, UsageError


def gallery_enrol(
    gallery: str,
    target: str,
    identity: str,
    file: str,
    *,
    instead: bool = False,
    folder: str = "runs",
    tracking: str | None = None,
) -> dict[str, Any]:
    """Add an identity to a gallery by one picture or video; makes the file if it is not there.

    Nothing is trained. `instead` takes the place of what it was enrolled by before.
    """
    from clipmill import gallery as galleries

    model, told = model_of(target, folder, tracking)
    return {**told, **galleries.enrol(model, gallery, identity, file, instead=instead)}


def gallery_remove(gallery: str, identity: str) -> dict[str, Any]:
    """Take an identity out of a gallery."""
    from clipmill import gallery as galleries

    return galleries.remove(gallery, identity)


def gallery_list(gallery: str) -> dict[str, Any]:
    """Tell who is in a gallery, and whose weights it needs."""
    from clipmill import gallery as galleries

    return galleries.listed(gallery)


def gallery_match(
    gallery: str,
    target: str,
    files: Sequence[str],
    *,
    threshold: float | None = None,
    folder: str = "runs",
    tracking: str | None = None,
) -> dict[str, Any]:
    """Say who pictures or videos show; one that cannot be read is told among them.

    Up to the threshold two are one; without one it is what the model's validation chose.
    """
    from clipmill import gallery as galleries

    if not files:
        raise UsageError("no file", "a picture or a video at the least")
    model, told = model_of(target, folder, tracking)
    matches, faults = [], []
    for file in files:
        try:
            matches.append(galleries.match(model, gallery, file, threshold=threshold))
        except ClipmillError as error:
            faults.append(error)
            matches.append({"file": file, "error": str(error)})
    if len(faults) == len(files):
        raise faults[0]
    return {**told, "gallery": gallery, "matches": matches}

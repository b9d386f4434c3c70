"""What runs in the jail for an ingest: plain data and bytes in, the same out."""

from typing import Any

from clipmill import video
from clipmill.ingest import examine, make
from clipmill.ingest.jailed import Answer


def serve(request: dict[str, Any], blobs: list[bytes]) -> Answer:
    """Do what is named."""
    del blobs
    if request["call"] == "look":
        return examine.look(request), []
    if request["call"] == "masks":
        asked = ("masks", "path", "classes", "colours")
        video.check_masks(*(request[name] for name in asked))
        return {}, []
    return make.records(request)

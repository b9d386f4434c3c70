"""What runs in the jail for an ingest: plain data and bytes in, the same out."""

from typing import Any

from clipmill.ingest import examine, make
from clipmill.ingest.jailed import Answer


def serve(request: dict[str, Any], blobs: list[bytes]) -> Answer:
    """Do what is named."""
    del blobs
    if request["call"] == "look":
        return examine.look(request), []
    return make.records(request)

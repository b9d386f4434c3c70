"""The catalog: one Parquet row a record, where it lies and what it is, beside `dataset.json`.

Opening, filtering and counting never open a video, and read only the columns they name. Knows
how rows are stored and filtered, not how records are made or read.
"""

from clipmill.catalog.digests import digest_of, stale_digests, with_digests
from clipmill.catalog.features import FEATURE_FRAMES, FEATURES, packed_features, read_features
from clipmill.catalog.files import load, quarantine, read, save, save_pieces
from clipmill.catalog.joined import joined
from clipmill.catalog.links import Links, links_digest
from clipmill.catalog.member import member, member_part
from clipmill.catalog.schema import (
    CURATION,
    IDENTITY,
    MEASURES,
    MEMBER,
    SCHEMA,
    SCHEMA_VERSION,
    VIDEO_SUFFIX,
)
from clipmill.catalog.stored import Names
from clipmill.catalog.table import Catalog
from clipmill.catalog.targets import frame_targets, with_targets
from clipmill.catalog.where import Filter, parse

__all__ = [
    "CURATION",
    "FEATURES",
    "FEATURE_FRAMES",
    "IDENTITY",
    "MEASURES",
    "MEMBER",
    "SCHEMA",
    "SCHEMA_VERSION",
    "VIDEO_SUFFIX",
    "Catalog",
    "Filter",
    "Links",
    "Names",
    "digest_of",
    "frame_targets",
    "joined",
    "links_digest",
    "load",
    "member",
    "member_part",
    "packed_features",
    "parse",
    "quarantine",
    "read",
    "read_features",
    "save",
    "save_pieces",
    "stale_digests",
    "with_digests",
    "with_targets",
]

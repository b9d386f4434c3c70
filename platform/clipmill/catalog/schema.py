"""The columns of a catalog, what they are for, and how a catalog of an older version is brought up.

Knows no files.
"""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 3
VIDEO_SUFFIX = "mp4"  # of a record's video, where its row says nothing else
MEMBER = pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])
# Frames of the record; the last one is within.
SPAN = pa.struct([("label", pa.string()), ("first_frame", pa.int64()), ("last_frame", pa.int64())])
# Shares of the picture's width and height.
BOX = pa.struct(
    [
        ("frame", pa.int64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("width", pa.float64()),
        ("height", pa.float64()),
        ("label", pa.string()),
        ("identity", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("suffix", pa.string()),  # of the member that is the video
        ("members", pa.list_(MEMBER)),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("start_seconds", pa.float64()),  # of the record in its source
        ("end_seconds", pa.float64()),
        ("parent", pa.string()),  # key of the whole video, where the record is a part of it
        ("split", pa.string()),
        ("label", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("spans", pa.list_(SPAN)),
        ("boxes", pa.list_(BOX)),
        ("identity", pa.string()),
        ("group", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("duration_seconds", pa.float64()),
        ("frames", pa.int64()),
        ("frames_from", pa.string()),
        ("fps", pa.float64()),
        ("variable_rate", pa.bool_()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("rotation", pa.int64()),
        ("has_audio", pa.bool_()),
        ("licence", pa.string()),
        ("motion", pa.float64()),
        ("brightness", pa.float64()),
        ("sharpness", pa.float64()),
        ("silence", pa.float64()),
        ("shots", pa.list_(pa.float64())),  # seconds within the record at which a new shot begins
        ("phash", pa.list_(pa.uint64())),
        ("near", pa.string()),  # the group of near-duplicates it is in
        ("record_digest", pa.string()),
        # One score for each half second of the record, in order; null: never measured.
        ("motion_curve", pa.list_(pa.float32())),
        ("masks_sha256", pa.string()),  # of the member that holds its masks; null: there is none
    ]
)
MEASURES = ("motion", "brightness", "sharpness", "silence")  # null: never measured
CURATION = (*MEASURES, "shots", "phash", "near")
# What a record is, whatever its place: this makes its digest.
IDENTITY = (
    "key", "sha256", "start_seconds", "end_seconds", "split", "label", "labels", "spans", "boxes",
    "identity", "group", "attributes", "frames", "fps", "width", "height", "licence", *CURATION,
)  # fmt: skip
# Columns that versions since the second have added, at the end: a catalog without them has none of
# their values. In a record's digest they count only where they have one, so that older digests stay.
SINCE_VERSION_2 = ("motion_curve", "masks_sha256")
# Few values, many rows: in memory each is a number in a list of names.
FEW_VALUES = ("shard", "suffix", "split", "label", "group", "frames_from", "licence")

# Columns that are of no use for making a sample, and long: rows for the feed come without them.
NOT_FOR_SAMPLES = (
    "sha256", "source_sha256", "phash", "near", "record_digest", "motion_curve", "masks_sha256",
)  # fmt: skip

IDENTITY_1 = ("key", "sha256", "split", "label", "frames", "fps", "width", "height")


def migrated(table: pa.Table) -> pa.Table:
    """The rows of a catalog of version 1 as this version has them, but for their digests."""
    count = len(table)
    derived = {
        "suffix": pa.array([VIDEO_SUFFIX]).take(pa.array([0] * count, pa.int32())),
        "start_seconds": pc.multiply(table["duration_seconds"], 0.0),
        "end_seconds": table["duration_seconds"],
    }
    columns = [
        derived[field.name]
        if field.name in derived
        else table[field.name].cast(field.type)
        if field.name in table.schema.names
        else pa.nulls(count, field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


def digest_of_version_1(table: pa.Table) -> str:
    """The digest that a dataset of version 1 tells of its records."""
    columns = [pc.fill_null(pc.cast(table[name], pa.string()), "-") for name in IDENTITY_1]
    digest = hashlib.sha256()
    for line in sorted(pc.binary_join_element_wise(*columns, "|").to_pylist()):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def with_later(table: pa.Table) -> pa.Table:
    """The rows of a catalog of version 2 or later with all columns, those it lacks without values."""
    for name in SINCE_VERSION_2:
        if name not in table.schema.names:
            table = table.append_column(
                SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type)
            )
    return table

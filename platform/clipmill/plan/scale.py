"""What a dataset of any size takes, and a recipe on it: cores, hours, bytes, shards, memory, devices.

Arithmetic on rates that `make bench` measured on cores of a cloud server; each says where. What is
assumed beside them is told with every estimate. Opens no video.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipmill.catalog import SCHEMA, Catalog
from clipmill.plan.cost import cost
from clipmill.plan.epochs import Plan
from clipmill.video import Profile

# Of one core; films of 1280x720 at 30 a second, 8 s long.
INGEST_SECONDS_A_SECOND = 0.27  # ingest/training: 0.924 films a second on 2 cores
KEEP_BYTES_A_SECOND = 64e6  # ingest/keep: 129 MB/s on 2 cores
FEED_SHARE = 0.86  # feed/feed by Ray over bare decode in 2 processes
# Of a second of such films.
SOURCE_BYTES = 390_000
LADDER_BYTES = 80_000  # assumed, for 256 pixels and k 6: half again what the benchmark's films take
SHARD_BYTES = 256 << 20

# The catalog of the catalog's benchmark, with a million rows: it grows with them.
CATALOG_FILE_BYTES = 166  # a record
CATALOG_MEMORY_BYTES = 165  # a record: the columns that a plan reads, its digest, one epoch
ROWS_KEPT_BYTES, ROW_BYTES = 512 << 20, 800  # of rows that were read, at most and each
PLAN_SECONDS_A_MILLION = 0.4  # plan/10 M: the order of an epoch, and all its takes

SAMPLE_VIDEOS = 64
CORES = (16, 128, 1024)
TRAINING_OVER_FORWARD = 3  # operations
UTILISATION = 0.3  # of a device's peak, as networks of convolutions reach it
DEVICES: Mapping[str, float] = {  # peak of dense bf16 products, operations a second
    "L4": 121e12,
    "A10": 125e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
ASSUMED = (
    "sources are 1280x720 at 30 frames a second, 390 kB a second; larger ones take longer to ingest",
    "the training profile makes 80 kB a second of them, half again as much as of films that were drawn",
    f"devices reach {UTILISATION:.0%} of their peak; `--device-clips` takes what yours was seen to do",
    "cores are as those of a cloud server in 2026; disks and network keep up",
)


@dataclass(frozen=True)
class Size:
    """How much video there is."""

    videos: int
    seconds: float  # of each, on average
    stored_bytes: int | None = None  # where a dataset tells it

    @property
    def total_seconds(self) -> float:
        """Of all videos."""
        return self.videos * self.seconds


def sample(profile: Profile, seconds: float) -> Catalog:
    """Rows of some videos that lie nowhere, as ingest would make them, to plan over."""
    side, rate = profile.short_side, profile.rate
    rows = [
        {
            "key": f"{at:024x}", "shard": "train-00000.tar", "members": [], "sha256": f"{at:064x}",
            "split": ("train", "val", "test")[0 if at % 8 else 1 + at // 8 % 2],
            "label": f"class {at % 4}", "identity": f"one {at % 16}",
            "spans": [{"label": f"class {at % 4}", "first_frame": 0, "last_frame": 1}],
            "frames": max(1, round(seconds * rate)), "fps": rate, "duration_seconds": seconds,
            "width": side * 16 // 9, "height": side, "has_audio": True, "motion": 1.0,
            "masks_sha256": "0" * 64,
        }
        for at in range(SAMPLE_VIDEOS)
    ]  # fmt: skip
    plain = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    classes = [f"class {number}" for number in range(4)]
    told = {"name": profile.name, "short_side": side, "rate": rate, "k": profile.k}
    meta = {"classes": classes, "mask_classes": classes, "profile": told}
    return Catalog("nowhere", pa.Table.from_pylist(plain, SCHEMA), meta)


def estimate(
    train: Plan,
    test: Plan,
    size: Size,
    *,
    records: int,
    steps: int,
    flops: int | None = None,
    device_clips: float | None = None,
    cores: Sequence[int] = CORES,
) -> dict[str, Any]:
    """What so much video takes to ingest, to train on and to be asked about.

    The plans are of so many records of it; `flops` are those of one clip, forward.
    """
    catalog, is_kept = train.catalog, _profile(train.catalog).name == "keep"
    source_bytes = size.total_seconds * SOURCE_BYTES
    made = source_bytes if is_kept else size.total_seconds * LADDER_BYTES
    stored = made if size.stored_bytes is None else size.stored_bytes
    transcoding = size.total_seconds * INGEST_SECONDS_A_SECOND
    ingest_hours = (source_bytes / KEEP_BYTES_A_SECOND if is_kept else transcoding) / 3600
    takes = round(size.videos * train.takes_in_catalog / records)
    asked = round(size.videos * test.takes_in_catalog / records)
    rate = _clips_a_core_second(train)
    return {
        "videos": size.videos,
        "seconds_each": size.seconds,
        "frames": round(size.total_seconds * float(catalog.column("fps").mean())),
        "source_bytes": round(source_bytes),
        "ingest_core_hours": ingest_hours,
        "ingest_hours": {str(count): ingest_hours / count for count in cores},
        "stored_bytes": round(stored),
        "shards": math.ceil(stored / SHARD_BYTES),
        "catalog_bytes": size.videos * CATALOG_FILE_BYTES,
        "catalog_memory_bytes": size.videos * CATALOG_MEMORY_BYTES
        + min(ROWS_KEPT_BYTES, size.videos * ROW_BYTES),
        "plan_seconds_an_epoch": size.videos / 1e6 * PLAN_SECONDS_A_MILLION,
        "clips_a_core_second": rate,
        "takes_an_epoch": takes,
        "decode_core_hours_an_epoch": takes / rate / 3600,
        "takes_to_ask_about_all": asked,
        "decode_core_hours_to_ask_about_all": asked / _clips_a_core_second(test) / 3600,
        "devices": _devices(rate, takes, steps * train.batch, flops, device_clips),
        "assumed": list(ASSUMED),
    }


def _profile(catalog: Catalog) -> Profile:
    return Profile(**(catalog.metas[0].get("profile") or {}))


def _clips_a_core_second(plan: Plan) -> float:
    """What a core decodes for a feed, whose tasks cost something, too."""
    many = 1000
    return FEED_SHARE * many / sum(cost(plan, many).cpu_seconds.values())


def _devices(
    rate: float, takes: int, clips: int, flops: int | None, measured: float | None
) -> list[dict[str, Any]]:
    """What devices take of clips a second in training, and the cores that keep each busy."""
    speeds = {"yours": measured} if measured else {}
    if flops and not measured:
        speeds = {
            name: UTILISATION * peak / (TRAINING_OVER_FORWARD * flops)
            for name, peak in DEVICES.items()
        }
    return [
        {
            "device": name,
            "clips_a_second": speed,
            "decode_cores": math.ceil(speed / rate),
            "epoch_hours": takes / speed / 3600,
            "run_hours": clips / speed / 3600,
        }
        for name, speed in speeds.items()
    ]

"""From sources to a shard plan: examine, drop duplicates, split, group by estimated bytes.

The same sources give the same plan, whatever the number of workers. No shard is written here.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipmill import storage, video
from clipmill.errors import ClipmillError
from clipmill.ingest.layouts import Source

SHARD_BYTES = 256 << 20
SHARD_NAME = re.compile(r"(train|val|test|all)-\d{5,}-[0-9a-f]{8}\.tar")
SPLIT_PRIORITY = ("test", "val", "train")  # the same content in two splits stays in the first


@dataclass(frozen=True)
class Examined:
    """A source after a first look: its content's hash and size, or why it cannot be taken."""

    source: Source
    sha256: str = ""
    estimated_bytes: int = 0
    stage: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Sorted:
    """All sources, each on its own side."""

    taken: list[Examined]
    quarantined: list[Examined]
    duplicates: list[tuple[Examined, Examined]]  # the one left out, the one kept


def examine(source: Source, profile: video.Profile) -> Examined:
    """Hash and probe one source; what cannot be read is told, not raised."""
    if printable(source.path) != source.path:
        return Examined(source, stage="name", reason="its name is not UTF-8: rename it")
    try:
        data = storage.read(source.path)
    except ClipmillError as error:
        return Examined(source, stage="read", reason=str(error))
    digest = hashlib.sha256(data).hexdigest()
    try:
        info = video.probe(data)
    except ClipmillError as error:
        return Examined(source, digest, stage="probe", reason=str(error))
    return Examined(source, digest, estimated_bytes(info, profile))


def printable(path: str) -> str:
    """A path as text can hold it: bytes that are no UTF-8 are spelled out."""
    return path.encode("utf-8", "backslashreplace").decode()


def estimated_bytes(info: video.VideoInfo, profile: video.Profile) -> int:
    """What the transcoded record will take: pixels x seconds x bytes of the profile's rate."""
    height, width = video.scaled_size(
        info.height, info.width, min(profile.short_side, info.height, info.width)
    )
    return int(height * width * info.duration_seconds * profile.rate * 0.04) + 4096


def sort_out(examined: Iterable[Examined]) -> Sorted:
    """Put every source on its side: taken once by content, duplicate, or quarantined."""
    groups: dict[str, list[Examined]] = defaultdict(list)
    quarantined: list[Examined] = []
    for each in examined:
        (quarantined if each.reason else groups[each.sha256]).append(each)
    taken, duplicates = [], []
    for group in groups.values():
        labels = {each.source.label for each in group}
        if len(labels) > 1:
            told = f"the same content is labelled {', '.join(sorted(map(str, labels)))}"
            quarantined += [replace(each, stage="labels", reason=told) for each in group]
            continue
        kept, *others = sorted(group, key=_priority)
        taken.append(kept)
        duplicates += [(other, kept) for other in others]
    return Sorted(taken, quarantined, duplicates)


def _priority(each: Examined) -> tuple[int, str]:
    split = each.source.split
    return (SPLIT_PRIORITY.index(split) if split in SPLIT_PRIORITY else 3, each.source.path)


def with_splits(taken: Sequence[Examined]) -> list[Examined]:
    """Give 80/10/10 by content hash within each class to all that state no split."""
    by_class: dict[str | None, list[Examined]] = defaultdict(list)
    for each in sorted(taken, key=lambda each: each.sha256):
        if not each.source.split:
            by_class[each.source.label].append(each)
    given = {
        each.sha256: _split(place, len(group))
        for group in by_class.values()
        for place, each in enumerate(group)
    }
    return [
        replace(each, source=replace(each.source, split=each.source.split or given[each.sha256]))
        for each in taken
    ]


def _split(place: int, count: int) -> str:
    held_out = max(1, round(count * 0.1)) if count > 2 else 0
    return "test" if place < held_out else "val" if place < 2 * held_out else "train"


def key_of(each: Examined) -> str:
    """The record's key: a digest of content and span (the whole video)."""
    return hashlib.sha256(f"{each.sha256}:0:end".encode()).hexdigest()[:24]


def shard_plan(taken: Sequence[Examined], profile: video.Profile) -> list[dict[str, Any]]:
    """Group records into shards of the target size, by split, in the order of their keys."""
    shards: list[list[Examined]] = []
    room: int | None = None
    for split in sorted({each.source.split or "" for each in taken}):
        room = None  # a shard holds one split
        for each in sorted((e for e in taken if (e.source.split or "") == split), key=key_of):
            if room is None or each.estimated_bytes > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(each)
            room -= each.estimated_bytes
    return [
        {"name": _name(i, part, profile), "sources": list(map(asdict, part))}
        for i, part in enumerate(shards)
    ]


def content_of(each: Examined) -> list[Any]:
    """What decides a record; where its source lies does not matter."""
    source = each.source
    told = sorted(source.attributes.items())
    return [each.sha256, source.label, source.split, told, source.licence]


def digest(told: object) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _name(place: int, part: Sequence[Examined], profile: video.Profile) -> str:
    """A name that tells other contents apart, so that an interrupted ingest finds its own."""
    split = part[0].source.split or "all"
    return f"{split}-{place:05d}-{digest([asdict(profile), *map(content_of, part)])[:8]}.tar"


def revived(plain: dict[str, Any]) -> Examined:
    """An examined source from plain data."""
    return Examined(**{**plain, "source": Source(**plain["source"])})

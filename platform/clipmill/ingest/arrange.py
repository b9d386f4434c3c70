"""From examined sources to the records that shall be, and the shards that hold them.

Pure: the same sources give the same records, splits and shards on any number of workers. Reads
no video and writes nothing.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from clipmill import catalog as catalogs
from clipmill import video
from clipmill.catalog import Catalog
from clipmill.errors import UsageError
from clipmill.ingest import near
from clipmill.ingest.examine import Examined, Piece
from clipmill.ingest.options import Options
from clipmill.ingest.sources import Source
from clipmill.ingest.sources import revived as revived_source

SHARD_BYTES = 256 << 20
SHARD_NAME = re.compile(r"(train|val|test|all)-\d{5,}-[0-9a-f]{8}\.tar")
RECORD_FORMAT = 2  # in the names of shards: an older one's shards are not taken for these
IN_SIDECAR = ("label", "labels", "split", "licence", "identity", "group", "attributes")
NO_LABEL: tuple[None, tuple[str, ...]] = (None, ())
SPLIT_PRIORITY = ("test", "val", "train")  # the same content in two splits stays in the first


@dataclass(frozen=True)
class Part:
    """A record to be: a part of a source, or all of it."""

    source: Source
    stamp: tuple[int, int]
    sha256: str
    start_seconds: float
    end_seconds: float | None
    duration_seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, Any] = field(default_factory=dict)
    near: str | None = None
    masks_sha256: str = ""  # of the masks that it comes with
    estimated_bytes: int = 0
    # Damage that is allowed, whether all is decoded, what is kept beside, the class of the rest.
    making: tuple[int | bool | str, ...] = (0, False)

    @property
    def whole(self) -> bool:
        """Tell whether it is all of its video."""
        return self.start_seconds == 0.0 and self.end_seconds is None

    @property
    def parent(self) -> str:
        """The key of the whole video."""
        return _key(self.sha256, "0:end")

    @property
    def key(self) -> str:
        """The record's key: a digest of content and span."""
        end = "end" if self.end_seconds is None else f"{self.end_seconds:.6f}"
        return self.parent if self.whole else _key(self.sha256, f"{self.start_seconds:.6f}:{end}")

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies in which source, for the ledger."""
        cut = {} if self.whole else {"start_seconds": self.start_seconds, "end_seconds": self.end_seconds}  # fmt: skip
        return {"source": self.source.name, "source_sha256": self.sha256, **cut}

    @property
    def row(self) -> dict[str, Any]:
        """The columns of the catalog that are known before it is made."""
        source = self.source
        end = self.start_seconds + self.duration_seconds
        return {
            "key": self.key, "source": source.name, "source_sha256": self.sha256,
            "start_seconds": self.start_seconds, "end_seconds": end,
            "parent": None if self.whole else self.parent,
            "split": source.split, "label": source.label, "labels": list(source.labels),
            "identity": source.identity, "group": source.group, "licence": source.licence,
            "attributes": source.attributes, "near": self.near,
            "variable_rate": self.facts["variable_rate"], "rotation": self.facts["rotation"],
            **{name: self.measures.get(name) for name in ("motion", "brightness", "sharpness", "silence")},
            **{name: self.measures.get(name) for name in ("motion_curve", "shots", "phash")},
        }  # fmt: skip

    @property
    def marks(self) -> str:
        """Hash of what is told of moments in it; where that changes, it is made anew."""
        told = [*map(asdict, self.source.spans), *map(asdict, self.source.boxes)]
        masks = [self.masks_sha256, dict(self.source.mask_colours)]
        return digest([told, self.making, *(masks if self.masks_sha256 else ())])

    @property
    def content(self) -> str:
        """Hash of all that its members in the shard hold; where its source lies is none of it."""
        names = (*IN_SIDECAR, "start_seconds", "end_seconds")
        told = {name: value for name, value in self.row.items() if name in names}
        return digest([self.key, told, self.marks])

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def revived(plain: Mapping[str, Any]) -> Part:
    """A part from plain data."""
    source, stamp = revived_source(plain["source"]), tuple(plain["stamp"])
    making = tuple(plain["making"])
    return Part(**{**plain, "source": source, "stamp": stamp, "making": making})


def _key(sha256: str, span: str) -> str:
    return hashlib.sha256(f"{sha256}:{span}".encode()).hexdigest()[:24]


def digest(told: object) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Sorted:
    """All sources, each on its own side."""

    taken: list[Examined]
    quarantined: list[Examined]
    duplicates: list[tuple[Examined, Examined]]  # the one left out, the one kept
    filtered: list[Examined]


def sort_out(examined: Iterable[Examined]) -> Sorted:
    """Put every source on its side: taken once by content, duplicate, quarantined or left out."""
    groups: dict[Any, list[Examined]] = defaultdict(list)
    sides = Sorted([], [], [], [])
    for each in examined:
        if each.source.left_out:
            sides.filtered.append(each)
        elif each.reason:
            sides.quarantined.append(each)
        else:
            bounds = (piece.start_seconds for piece in each.pieces)
            groups[each.sha256, each.pieces[-1].end_seconds, *bounds].append(each)
    for group in groups.values():
        _sort_group(group, sides)
    return sides


def _sort_group(group: list[Examined], sides: Sorted) -> None:
    labels = {(each.source.label, each.source.labels) for each in group} - {NO_LABEL}
    if len(labels) > 1:
        names = sorted({", ".join(more) or str(one) for one, more in labels})
        told = f"the same content is labelled {', '.join(names)}"
        sides.quarantined.extend(replace(each, stage="labels", reason=told) for each in group)
        return
    if len({each.masks_sha256 for each in group} - {""}) > 1:
        told = "the same content comes with different masks"
        sides.quarantined.extend(replace(each, stage="masks", reason=told) for each in group)
        return
    kept, *others = sorted(group, key=_priority)
    if not kept.masks_sha256 and any(each.masks_sha256 for each in others):
        told = "one copy of the same content has the label, another the masks"
        sides.quarantined.extend(replace(each, stage="masks", reason=told) for each in group)
        return
    sides.taken.append(kept)
    sides.duplicates.extend((other, kept) for other in others)


def _priority(each: Examined) -> tuple[bool, bool, int, str]:
    split = each.source.split
    unlabelled = (each.source.label, each.source.labels) == NO_LABEL
    place = SPLIT_PRIORITY.index(split) if split in SPLIT_PRIORITY else len(SPLIT_PRIORITY)
    return (unlabelled, not each.masks_sha256, place, each.source.name)


def parts_of(taken: Sequence[Examined], options: Options) -> list[Part]:
    """All records that the taken sources make, near-duplicates named."""
    first = sorted(taken, key=_priority)
    made = (_part(each, piece, options) for each in first for piece in each.pieces)
    by_key: dict[str, Part] = {}
    for part in made:  # spans that overlap may be cut into equal parts
        by_key.setdefault(part.key, part)
    parts = sorted(by_key.values(), key=lambda part: (part.source.name, part.start_seconds))
    return _with_near(parts) if "phash" in options.measures else parts


def _making(options: Options) -> tuple[int | bool | str, ...]:
    flow = ("flow",) if options.flow else ()
    background = ("background", options.background) if options.background is not None else ()
    return (options.max_corrupt_frames, options.check, *flow, *background)


def _part(each: Examined, piece: Piece, options: Options) -> Part:
    return Part(
        each.source, each.stamp, each.sha256, piece.start_seconds, piece.end_seconds,
        piece.duration_seconds, each.facts, piece.measures,
        estimated_bytes=_estimated_bytes(each, piece, options.profile)
        + (_flow_bytes(each, piece, options.profile) if options.flow else 0)
        + round(each.masks_bytes * piece.duration_seconds / each.facts["duration_seconds"]),
        masks_sha256=each.masks_sha256,
        making=_making(options),
    )  # fmt: skip


def _estimated_bytes(each: Examined, piece: Piece, profile: video.Profile) -> int:
    """Source bytes where they are kept, else pixels x seconds x bytes of the profile's rate."""
    if profile.name == "keep":
        return (each.source.length or each.stamp[0]) + 4096
    sides = each.facts["height"], each.facts["width"]
    height, width = video.scaled_size(*sides, min(profile.short_side, *sides))
    pixel_bytes = {"training": 0.04, "frames": 0.25, "raw": 3.0}[profile.name]
    return int(height * width * piece.duration_seconds * profile.rate * pixel_bytes) + 4096


def _flow_bytes(each: Examined, piece: Piece, profile: video.Profile) -> int:
    fps = each.facts["fps"] if profile.name == "keep" else profile.rate
    frames, step = round(piece.duration_seconds * fps), video.flow_step(profile, fps)
    return video.flow_bytes((each.facts["height"], each.facts["width"]), frames, step)


def _with_near(parts: list[Part]) -> list[Part]:
    hashed = [place for place, part in enumerate(parts) if part.measures.get("phash")]
    numbers = near.near_groups([parts[place].measures["phash"] for place in hashed])
    members: dict[int, list[str]] = defaultdict(list)
    for place, number in zip(hashed, numbers, strict=True):
        members[number].append(parts[place].key)
    for place, number in zip(hashed, numbers, strict=True):
        if len(members[number]) > 1:
            parts[place] = replace(parts[place], near=min(members[number]))
    return parts


def selected(parts: Sequence[Part], where: str | None, profile: video.Profile) -> list[Part]:
    """The parts that fulfil a filter, by what is known of them before they are made."""
    if not where:
        return list(parts)
    unsplit = any(part.source.split is None for part in parts)
    if unsplit and re.search(r"\bsplit\b", where):
        raise UsageError(
            f"the filter {where!r}",
            "columns that are known",
            "no split is stated: filter in the recipe",
        )
    rows = [{**part.row, **_foreseen(part, profile)} for part in parts]
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in catalogs.SCHEMA.names} for row in rows],
        schema=catalogs.SCHEMA,
    )
    kept = set(Catalog("memory", table, {"classes": []}).part(where=where).keys)
    return [part for part in parts if part.key in kept]


def _foreseen(part: Part, profile: video.Profile) -> dict[str, Any]:
    facts, kept = part.facts, profile.name == "keep"
    sides = facts["height"], facts["width"]
    side = min(sides) if kept else min(profile.short_side, *sides)
    height, width = video.scaled_size(*sides, side)
    rate = facts["fps"] if kept else profile.rate
    return {
        "duration_seconds": part.duration_seconds, "fps": rate, "height": height, "width": width,
        "frames": round(part.duration_seconds * rate), "has_audio": facts["audio_channels"] > 0,
    }  # fmt: skip


def with_splits(parts: Sequence[Part]) -> list[Part]:
    """Give 80/10/10 by content within each class to all that state no split.

    What belongs together (a video's parts, a group, an identity, near-duplicates) never parts.
    """
    by_class: dict[str, list[list[Part]]] = defaultdict(list)
    given: dict[str, str] = {}
    for unit in _units(parts):
        stated = {part.source.split for part in unit}
        known = next((split for split in SPLIT_PRIORITY if split in stated), None)
        if known:
            given.update((part.key, known) for part in unit)
        else:
            by_class[min(part.source.label or "" for part in unit)].append(unit)
    for group in by_class.values():
        group.sort(key=lambda unit: min(part.sha256 for part in unit))
        for unit, split in zip(group, _shares([len(unit) for unit in group]), strict=True):
            given.update((part.key, split) for part in unit)
    return [
        replace(part, source=replace(part.source, split=part.source.split or given[part.key]))
        for part in parts
    ]


def _shares(sizes: list[int]) -> list[str]:
    """Splits of units in order: test and val a tenth each, and one unit at least if there are three.

    A unit too large for a tenth goes to train.
    """
    if len(sizes) < 3:
        return ["train"] * len(sizes)
    room = max(1, round(sum(sizes) * 0.1))
    splits = ["train"] * len(sizes)
    for split in ("test", "val"):
        left = room
        for place, size in enumerate(sizes):
            if splits[place] == "train" and size <= left:
                splits[place], left = split, left - size
        if split not in splits:
            free = [place for place in range(len(sizes)) if splits[place] == "train"]
            splits[min(free, key=lambda place: sizes[place])] = split
    return splits


def _units(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that share a video, a group, an identity or near-duplicates, put together transitively."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            root[name] = name = root[root[name]]
        return name

    for part in parts:
        for tie in _ties(part):
            root[find(tie)] = find(part.sha256)
    units: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        units[find(part.sha256)].append(part)
    return list(units.values())


def _ties(part: Part) -> list[str]:
    source = part.source
    told = {"group": source.group, "identity": source.identity, "near": part.near}
    return [f"{kind} {name}" for kind, name in told.items() if name]


def shard_plan(
    parts: Sequence[Part], profile: video.Profile, first: int = 0
) -> list[dict[str, Any]]:
    """Group records into shards of the target size, by split; a video's parts stand together."""
    shards: list[list[Part]] = []
    for split in sorted({part.source.split or "" for part in parts}):
        room: int | None = None  # a shard holds one split
        here = [part for part in parts if (part.source.split or "") == split]
        for part in sorted(here, key=lambda each: (each.parent, each.start_seconds)):
            if room is None or part.estimated_bytes > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(part)
            room -= part.estimated_bytes
    return [
        {"name": _name(place, held, profile), "parts": held}
        for place, held in enumerate(shards, start=first)
    ]


def _name(place: int, held: Sequence[Part], profile: video.Profile) -> str:
    """A name that tells other contents apart, so that an interrupted ingest finds its own."""
    split = held[0].source.split or "all"
    told = [RECORD_FORMAT, asdict(profile), [part.content for part in held]]
    return f"{split}-{place:05d}-{digest(told)[:8]}.tar"

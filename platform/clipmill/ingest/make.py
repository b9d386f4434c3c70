"""One record from one part of a source: its video in the profile, packet index and sidecar.

The decoding half runs in the jail and knows files only; the other half puts the row together.
What goes wrong with a source is told in its row, never raised.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from clipmill import catalog as catalogs
from clipmill import shards, storage, video
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError, DataError
from clipmill.ingest import jailed, masks
from clipmill.ingest.arrange import IN_SIDECAR, Part
from clipmill.ingest.examine import SURE_SECONDS, stage_of, told_of
from clipmill.ingest.options import Options
from clipmill.ingest.spans import in_frames

COMPARED_BYTES = 1 << 20

Made = tuple[dict[str, Any], shards.Record | None]  # row of the catalog, or of the ledger


class _Changed(ClipmillError):
    """The file is not the one that was examined."""


def make_piece(piece: Sequence[Part], options: Options) -> Iterator[Made]:
    """Make the records of some parts, reading each source once."""
    for _, group in groupby(piece, key=lambda part: part.source.name):
        parts = list(group)
        source, path = parts[0].source, ""
        try:
            with (
                storage.local(source.path, source.offset, source.length) as path,
                masks.local(source) as given,
            ):
                own = storage.stamp(source.path)
                # Masks are many files: they are asked once, and not for each part.
                if masks.stamp(source) != parts[0].stamp:
                    raise _Changed("the file changed after it was looked at", todo="run it again")
                for part in parts:
                    yield _make(part, path, given, options, own)
        except (ClipmillError, OSError) as error:
            for part in parts:
                yield fault(part, "read", told_of(error, path, source)), None


def fault(part: Part, stage: str, reason: str) -> dict[str, Any]:
    """Row of the ledger for a part that could not be made."""
    return {"key": part.key, "stage": stage, "reason": reason, **part.place}


def _make(part: Part, path: str, given: str | None, options: Options, own: tuple[int, int]) -> Made:
    try:
        told, blobs = jailed.call(
            "make",
            {**_asked(part, path, options), "masks": given, "colours": part.source.mask_colours},
            seconds=SURE_SECONDS + options.seconds_a_second * _worked_seconds(part, given),
            memory_bytes=options.memory_bytes,
        )
        data = _unchanged(path, part) if told["unchanged"] else blobs[0]
        if storage.stamp(part.source.path) != own:
            raise _Changed("the file changed while it was read", todo="run it again")
    except (ClipmillError, OSError) as error:
        stage = "read" if isinstance(error, _Changed) else stage_of(error, "decode")
        return fault(part, stage, told_of(error, path, part.source)), None
    if told["corrupt_frames"] > options.max_corrupt_frames:
        reason = f"{told['corrupt_frames']} damaged frames; {'; '.join(told['faults'])}"
        return fault(part, "decode", reason), None
    return _finished(
        part, told, data, {"idx": blobs[1], "flow": blobs[2], video.MASK_MEMBER: blobs[3]}
    )


def _worked_seconds(part: Part, given: str | None) -> float:
    """How much video is gone through: where there are masks, the whole source beside the part."""
    whole = float(part.facts["duration_seconds"]) if given else 0.0
    return part.duration_seconds + whole


def _unchanged(path: str, part: Part) -> bytes | shards.FilePart:
    """The file's own bytes, which are those that were examined: where they lie, or themselves."""
    source = part.source
    if not storage.is_remote(source.path):
        length = Path(path).stat().st_size
        here = storage.absolute(source.path)
        return shards.FilePart(here, source.offset or 0, length, part.sha256)
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise _Changed("the file changed while it was read", todo="run it again")
    return data


def _asked(part: Part, path: str, options: Options) -> dict[str, Any]:
    return {
        "path": path,
        "profile": asdict(options.profile),
        "check": options.check,
        "flow": options.flow,
        "background": options.background,
        "start_seconds": part.start_seconds,
        "end_seconds": part.end_seconds,
        "spans": [asdict(span) for span in part.source.spans],
        "boxes": [asdict(box) for box in part.source.boxes],
    }


def _finished(
    part: Part, told: dict[str, Any], data: bytes | shards.FilePart, beside: dict[str, bytes]
) -> Made:
    facts = {name: told[name] for name in (
        "duration_seconds", "frames", "frames_from", "fps", "width", "height", "has_audio",
        "spans", "boxes", "suffix",
    )}  # fmt: skip
    own = data if isinstance(data, shards.FilePart) else None
    made = b"" if isinstance(data, shards.FilePart) else data
    sha256 = own.sha256 if own else hashlib.sha256(made).hexdigest()
    of_masks = hashlib.sha256(held).hexdigest() if (held := beside[video.MASK_MEMBER]) else None
    row = {**part.row, **facts, "sha256": sha256, "masks_sha256": of_masks}
    members = {"json": sidecar(row), **{name: blob for name, blob in beside.items() if blob}}
    if own:
        return row, shards.Record(part.key, members, {told["suffix"]: own})
    return row, shards.Record(part.key, {told["suffix"]: made, **members})


def sidecar(row: dict[str, Any]) -> bytes:
    """What a record's JSON member tells any reader; where its source lay is not its matter."""
    names = (*IN_SIDECAR, "spans", "boxes", "source_sha256", "start_seconds", "end_seconds")
    return json.dumps({name: row[name] for name in names}, sort_keys=True).encode()


def copied(part: Part, old: dict[str, Any], folder: str) -> Made:
    """The record that is there already, with what is told of it now."""
    catalog = Catalog(folder, catalogs.SCHEMA.empty_table(), {"classes": []})
    members = {m["suffix"]: catalog.read(old, m["suffix"]) for m in old["members"]}
    if hashlib.sha256(members[old["suffix"]]).hexdigest() != old["sha256"]:
        shard = storage.join(folder, old["shard"])
        raise DataError(
            f"{shard}: {old['key']} is not as it was written", "a whole dataset",
            "see `clipmill verify`, or ingest into another folder",
        )  # fmt: skip
    made = {name: old[name] for name in catalogs.SCHEMA.names if name not in part.row}
    row = {**part.row, **made, "spans": old["spans"], "boxes": old["boxes"]}
    return row, shards.Record(part.key, {**members, "json": sidecar(row)})


def records(request: dict[str, Any]) -> jailed.Answer:
    """Within the jail: make one record's video, its index, its masks, and its flow if asked."""
    path, times = request["path"], (request["start_seconds"], request["end_seconds"])
    profile = video.Profile(**request["profile"])
    data, made = video.transcode(
        path, profile, start_seconds=times[0], end_seconds=times[1], check=request["check"]
    )
    index = video.index_of(data, made.source_times_seconds)
    flow = _flow(data, index, made, profile) if request["flow"] else b""
    held = _masks(request, made) if request["masks"] else b""
    unchanged = profile.name == "keep" and _same(path, data)
    told = {
        **{name: getattr(made, name) for name in (
            "duration_seconds", "frames", "frames_from", "fps", "width", "height", "has_audio",
            "suffix", "corrupt_frames", "faults",
        )},
        "unchanged": unchanged,
        "spans": in_frames(request["spans"], made.source_times_seconds, request["background"]),
        "boxes": _boxes(request["boxes"], made.source_times_seconds),
    }  # fmt: skip
    return told, [b"" if unchanged else data, index.packed() if index else b"", flow, held]


def _flow(
    data: bytes, index: video.PacketIndex | None, made: video.Transcoded, profile: video.Profile
) -> bytes:
    size, step = (made.height, made.width), video.flow_step(profile, made.fps)
    return video.flow_member(data, index, size=size, frames=made.frames, step=step)


def _masks(request: dict[str, Any], made: video.Transcoded) -> bytes:
    size, times = (made.height, made.width), made.source_times_seconds
    return video.masks_of_record(request["masks"], request["path"], times, size, request["colours"])


def _same(path: str, data: bytes) -> bool:
    if Path(path).stat().st_size != len(data):
        return False
    with open(path, "rb", buffering=0) as file:
        pieces = (data[at : at + COMPARED_BYTES] for at in range(0, len(data), COMPARED_BYTES))
        return all(file.read(COMPARED_BYTES) == piece for piece in pieces)


def _boxes(boxes: list[dict[str, Any]], times: Any) -> list[dict[str, Any]]:
    """Boxes at the frame that is shown at their moment."""
    told = []
    for box in boxes:
        frame = int(np.searchsorted(times, box["seconds"] + 1e-6, "right")) - 1
        if frame >= 0 and box["seconds"] <= times[-1] + 1:
            kept = {name: value for name, value in box.items() if name != "seconds"}
            told.append({"frame": frame, **kept})
    return told

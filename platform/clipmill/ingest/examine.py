"""A first look at a source: its hash, what it holds, where it is cut, and what it measures.

What decodes runs in the jail: whatever a file does to it, one source is quarantined. Writes nothing.
"""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from clipmill import storage, video
from clipmill.errors import ClipmillError, UsageError
from clipmill.ingest import jailed, masks, sources
from clipmill.ingest.options import Options
from clipmill.ingest.sources import Source
from clipmill.jail import JailError

SURE_SECONDS = 120.0  # that any look may take, on the busiest machine
SLOWEST_BYTES_A_SECOND = 200_000
SHORTEST_SHOT_SECONDS = 0.5


@dataclass(frozen=True)
class Piece:
    """A part of a video that becomes a record; no end means its end."""

    start_seconds: float = 0.0
    end_seconds: float | None = None
    duration_seconds: float = 0.0
    measures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined:
    """A source after a first look: what it is, or why it cannot be taken."""

    source: Source
    stamp: tuple[int, int] = (0, 0)  # size in bytes, time of change in ns
    sha256: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # width, height, fps, ...
    pieces: tuple[Piece, ...] = ()
    masks_sha256: str = ""
    masks_bytes: int = 0
    stage: str = ""
    reason: str = ""

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def revived(plain: dict[str, Any]) -> Examined:
    """An examined source from plain data."""
    pieces = tuple(Piece(**piece) for piece in plain["pieces"])
    source = sources.revived(plain["source"])
    return Examined(**{**plain, "source": source, "pieces": pieces, "stamp": tuple(plain["stamp"])})


def examine(source: Source, options: Options) -> Examined:
    """Hash, probe, cut and measure one source; what cannot be taken is told, not raised."""
    if printable(source.name) != source.name:
        return Examined(source, stage="name", reason="its name is not UTF-8: rename it")
    if not _is_text(source):
        return Examined(source, stage="name", reason="what is told of it is no Unicode: mend it")
    try:
        stamp = masks.stamp(source)
    except ClipmillError as error:
        return Examined(source, stage="read", reason=str(error))
    size = stamp[0] if source.length is None else source.length
    held: tuple[str, int] = ("", 0)
    stage, sha256, path = "read", "", ""
    try:
        with storage.local(source.path, source.offset, source.length) as path:
            sha256 = hash_of(path)
            stage = "probe"
            told = jailed.call(
                "look",
                {"path": path, **_asked(source, options)},
                seconds=SURE_SECONDS + size / SLOWEST_BYTES_A_SECOND,
                memory_bytes=options.memory_bytes,
            )[0]
            if source.masks is not None:
                stage = "masks"
                held = _with_masks(source, path, told["facts"], options)
    except (ClipmillError, OSError) as error:
        reason = told_of(error, path, source)
        return Examined(source, stamp, sha256, stage=stage_of(error, stage), reason=reason)
    pieces = tuple(Piece(**piece) for piece in told["pieces"])
    return Examined(source, stamp, sha256, told["facts"], pieces, *held)


def _with_masks(
    source: Source, path: str, facts: dict[str, Any], options: Options
) -> tuple[str, int]:
    """Check the masks of a video; gives their hash and how many bytes they are."""
    with masks.local(source) as given:
        assert given is not None
        held = masks.measured(given)
        jailed.call(
            "masks",
            {
                "path": path,
                "masks": given,
                "classes": len(source.mask_classes),
                "colours": dict(source.mask_colours),
            },
            seconds=SURE_SECONDS + options.seconds_a_second * facts["duration_seconds"],
            memory_bytes=options.memory_bytes,
        )
    return held


def _asked(source: Source, options: Options) -> dict[str, Any]:
    return {
        "start_seconds": source.start_seconds,
        "end_seconds": source.end_seconds,
        **options.look,
    }


def _is_text(source: Source) -> bool:
    try:
        json.dumps(asdict(source), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def stage_of(error: Exception, stage: str) -> str:
    """The stage of a fault; limits are a stage of their own, as they may be set higher."""
    return "limits" if isinstance(error, JailError) and error.cause != "crash" else stage


def told_of(error: Exception, path: str, source: Source) -> str:
    """The words of an error with the source's own name, not that of a copy of it."""
    if isinstance(error, OSError):
        return f"{source.name} cannot be read: {error.strerror or error}"
    words = " ".join(str(error).split())
    return words.replace(path, source.name) if path and path != source.path else words


def hash_of(path: str) -> str:
    """The SHA-256 of a local file, read in pieces."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(path: str) -> str:
    """A path as text can hold it: bytes that are no UTF-8 are spelled out."""
    return path.encode("utf-8", "backslashreplace").decode()


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Within the jail: probe a file, cut it into pieces and measure them."""
    info = video.probe(request["path"])
    facts = {name: getattr(info, name) for name in (
        "width", "height", "fps", "frames", "duration_seconds", "variable_rate", "rotation",
        "audio_channels",
    )}  # fmt: skip
    start, end = request["start_seconds"], request["end_seconds"]
    low, high = _bounds(start, end, info.duration_seconds)
    if request["keep"] and (low > 0 or high < info.duration_seconds):
        raise UsageError("the profile keep stores streams whole", "no start and end", "use --profile training")  # fmt: skip
    wanted = {"motion" if name == "motion_curve" else name for name in request["measures"]}
    if request["split_shots"] or "motion" in wanted:  # a cut is no motion
        wanted.add("shots")
    told = video.survey(request["path"], what=frozenset(wanted)) if wanted else None
    pieces = []
    for first, last in _cuts(low, high, request, told.shots if told else ()):
        measured = told.measures(first, last) if told else {}
        pieces.append(Piece(
            first, None if last >= info.duration_seconds else last, last - first,
            {name: measured[name] for name in request["measures"]},
        ))  # fmt: skip
    return {"facts": facts, "pieces": [asdict(piece) for piece in pieces]}


def _bounds(start: float | None, end: float | None, duration: float) -> tuple[float, float]:
    low, high = start or 0.0, min(duration, duration if end is None else end)
    if low >= high:
        raise UsageError(
            f"a part from {low:g} s to {'its end' if end is None else f'{end:g} s'}",
            f"a part of the video, which lasts {duration:.3f} s",
        )
    return low, high


def _cuts(
    low: float, high: float, request: dict[str, Any], shots: Any
) -> list[tuple[float, float]]:
    """The parts of a span: all of it, by length, or by shots."""
    length = request["split_seconds"]
    inner: list[float] = []
    if length and high - low > length:
        count = max(1, round((high - low) / length))  # the rest joins the last, or is its own
        inner = [low + length * n for n in range(1, count)]
    if request["split_shots"]:
        inner = _apart([float(s) for s in shots if low < s < high], low, high)
    edges = [low, *(round(cut, 6) for cut in inner), high]
    return list(itertools.pairwise(edges))


def _apart(cuts: list[float], low: float, high: float) -> list[float]:
    """Cuts that leave no splinters."""
    kept: list[float] = []
    for cut in cuts:
        if cut - (kept[-1] if kept else low) >= SHORTEST_SHOT_SECONDS:
            kept.append(cut)
    while kept and high - kept[-1] < SHORTEST_SHOT_SECONDS:
        kept.pop()
    return kept

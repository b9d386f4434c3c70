"""Makes a record's video in any profile: the one door to writing anew and to keeping.

Knows the profiles by name only.
"""

from clipmill.errors import UsageError
from clipmill.video.convert import convert
from clipmill.video.keep import keep
from clipmill.video.part import Span
from clipmill.video.profile import Profile, Transcoded
from clipmill.video.source import Source


def transcode(
    source: Source,
    profile: Profile,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    check: bool = False,
) -> tuple[bytes, Transcoded]:
    """Make a video, or the frames shown in [start, end) of its time, in the profile.

    Gives the file and what became of it; equal input gives equal bytes. `check` decodes all
    frames of a video that is kept (others are decoded anyway).
    """
    span = Span(start_seconds, end_seconds)
    if profile.name != "keep":
        return convert(source, profile, span)
    if not span.is_whole:
        got = f"keep from {start_seconds:g} s on" if end_seconds is None else f"keep a span up to {end_seconds:g} s"  # fmt: skip
        raise UsageError(
            got,
            "no start and end",
            "keep stores streams whole: use the training profile, or do not cut",
        )
    return keep(source, check=check)

"""Where a take's pictures and sound come from: a record's members, or a file of its own.

Reads no more than is asked for. Knows neither plans nor plugins.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipmill import catalog, video
from clipmill.errors import DataError, VideoError

Frames = NDArray[np.uint8]
Crop = tuple[int, int, int, int]  # top, left, height, width, in scaled pixels


class Footage(Protocol):
    """What a span is decoded from."""

    def pictures(
        self, numbers: NDArray[np.int64], short_side: int, crop: Crop, out: Frames | None = None
    ) -> Frames:
        """The frames of these numbers, scaled and cut."""

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """The sound of exactly this span."""


class Stored:
    """A record of a dataset: read by its packet index, or else all of its video."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row
        self.indexed = any(member["suffix"] == "idx" for member in row["members"])

    @functools.cached_property
    def _index(self) -> video.PacketIndex:
        data = catalog.member(self.row, "idx")
        try:
            return video.unpacked(data)
        except DataError as error:
            raise VideoError(f"record {self.row['key']}: {error}", "an undamaged index") from error

    @functools.cached_property
    def _whole(self) -> bytes:
        return catalog.member(self.row)

    @property
    def _part(self) -> Callable[[int, int], bytes]:
        return functools.partial(catalog.member_part, self.row, None)

    def pictures(
        self, numbers: NDArray[np.int64], short_side: int, crop: Crop, out: Frames | None = None
    ) -> Frames:
        """The frames of these numbers, scaled and cut."""
        if self.indexed:
            return video.decode_indexed(
                self._index, self._part, numbers, short_side=short_side, crop=crop, out=out
            )
        return video.decode_frames(self._whole, numbers, short_side=short_side, crop=crop, out=out)

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """The sound of exactly this span; silence where there is none."""
        index = self._index if self.indexed else None
        source = self._part if index and index.sound else self._whole
        return video.sound_of(source, start_seconds, end_seconds, rate, index=index)


@dataclass(frozen=True)
class OfFile:
    """A video that is no record of ours; with a rate its frames are those of a grid."""

    source: video.Source
    rate: float | None = None

    def pictures(
        self, numbers: NDArray[np.int64], short_side: int, crop: Crop, out: Frames | None = None
    ) -> Frames:
        """The frames of these numbers, scaled and cut."""
        return video.decode_frames(
            self.source, numbers, short_side=short_side, crop=crop, rate=self.rate, out=out
        )

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """The sound of exactly this span; silence where there is none."""
        return video.sound_of(self.source, start_seconds, end_seconds, rate)

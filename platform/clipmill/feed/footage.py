"""Where a take's pictures, flow and sound come from: a record's members, or a file of its own.

Reads no more than is asked for. Knows neither plans nor plugins.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipmill import catalog, video
from clipmill.errors import DataError, VideoError
from clipmill.video.picture import scaled

Frames = NDArray[np.uint8]
Flow = NDArray[np.int8]
Crop = tuple[int, int, int, int]  # top, left, height, width, in scaled pixels


class Footage(Protocol):
    """What a span is decoded from."""

    def pictures(
        self, numbers: NDArray[np.int64], short_side: int, crop: Crop, out: Frames | None = None
    ) -> Frames:
        """The frames of these numbers, scaled and cut."""

    def flow(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> Flow | None:
        """The flow from each of these frames to the next, where it is kept and need not be found."""

    def masks(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> video.Masks:
        """The masks of these frames, scaled and cut as they are; void where there are none."""

    def features(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """The features that were computed of these frames, or of those nearest to them."""

    def has_sound(self) -> bool:
        """Whether there is a sound track at all."""

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """The sound of exactly this span; silence where there is none."""


class Stored:
    """A record of a dataset: read by its packet index, or else all of its video."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row
        lengths = {member["suffix"]: member["length"] for member in row["members"]}
        self.indexed, self._flow_bytes = "idx" in lengths, lengths.get("flow", 0)
        self._mask_bytes = lengths.get(video.MASK_MEMBER, 0)

    @functools.cached_property
    def _index(self) -> video.PacketIndex:
        data = catalog.member(self.row, "idx")
        try:
            return video.unpacked(data)
        except DataError as error:
            raise VideoError(f"record {self.row['key']}: {error}", "an undamaged index") from error

    @functools.cached_property
    def _whole(self) -> bytes:
        if self.row.get("suffix") == catalog.FEATURES:
            raise DataError(
                f"record {self.row['key']} holds features, and no video",
                "a model that looks at features",
                "set model.features to their number, or take the dataset that they are of",
            )
        return catalog.member(self.row)

    @property
    def _part(self) -> Callable[[int, int], bytes]:
        return functools.partial(catalog.member_part, self.row, None)

    @functools.cached_property
    def _flow(self) -> video.FlowMember:
        read = functools.partial(catalog.member_part, self.row, "flow")
        return video.FlowMember(read, self._flow_bytes)

    @functools.cached_property
    def _masks(self) -> video.MaskMember:
        read = functools.partial(catalog.member_part, self.row, video.MASK_MEMBER)
        return video.MaskMember(read, self._mask_bytes)

    def pictures(
        self, numbers: NDArray[np.int64], short_side: int, crop: Crop, out: Frames | None = None
    ) -> Frames:
        """The frames of these numbers, scaled and cut."""
        if self.indexed:
            return video.decode_indexed(
                self._index, self._part, numbers, short_side=short_side, crop=crop, out=out
            )
        return video.decode_frames(self._whole, numbers, short_side=short_side, crop=crop, out=out)

    def flow(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> Flow | None:
        """The flow from each of these frames to the next, where it is kept."""
        if not self._flow_bytes:
            return None
        size = video.scaled_size(self.row["height"], self.row["width"], short_side)
        try:
            return self._flow.between(numbers, size, crop)
        except DataError as error:
            raise VideoError(f"record {self.row['key']}: {error}", "an undamaged flow") from error

    def masks(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> video.Masks:
        """The masks of these frames, scaled and cut as they are; void where there are none."""
        if not self._mask_bytes:
            return video.no_masks(len(numbers), crop)
        size = video.scaled_size(self.row["height"], self.row["width"], short_side)
        try:
            return self._masks.at(numbers, size, crop)
        except DataError as error:
            raise VideoError(f"record {self.row['key']}: {error}", "undamaged masks") from error

    def features(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """The features of the frames nearest to these; of two as near the earlier."""
        rows_TD, frames = catalog.read_features(self.row)
        after = np.searchsorted(frames, numbers).clip(0, len(frames) - 1)
        before = np.maximum(after - 1, 0)
        is_after = np.abs(frames[after] - numbers) < np.abs(numbers - frames[before])
        return rows_TD[np.where(is_after, after, before)]

    def has_sound(self) -> bool:
        """Whether there is a sound track at all."""
        told = self.row.get("has_audio")
        return video.has_sound(self._whole) if told is None else bool(told)

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

    def flow(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> Flow | None:
        """Nothing: a file keeps no flow."""
        return None

    def masks(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> video.Masks:
        """Void: nobody has marked what a file shows."""
        return video.no_masks(len(numbers), crop)

    def features(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """None can be had of a file: they are computed with a dataset."""
        raise DataError(
            "a model of features was asked about a video",
            "a dataset of features",
            "make one with `clipmill features`; for videos train without model.features",
        )

    def has_sound(self) -> bool:
        """Whether there is a sound track at all."""
        return video.has_sound(self.source)

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """The sound of exactly this span; silence where there is none."""
        return video.sound_of(self.source, start_seconds, end_seconds, rate)


@dataclass(frozen=True)
class OfPictures:
    """Pictures of one size, as if they were the frames of a video without sound."""

    files: Sequence[Frames]  # RGB, [height, width, 3]

    def pictures(
        self, numbers: NDArray[np.int64], short_side: int, crop: Crop, out: Frames | None = None
    ) -> Frames:
        """The pictures of these numbers, scaled and cut."""
        made = np.stack([scaled(self.files[at], short_side, crop) for at in numbers.tolist()])
        if out is None:
            return made
        out[...] = made
        return out

    def flow(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> Flow | None:
        """Nothing: pictures keep no flow."""
        return None

    def masks(self, numbers: NDArray[np.int64], short_side: int, crop: Crop) -> video.Masks:
        """Void: nobody has marked what a picture shows."""
        return video.no_masks(len(numbers), crop)

    def features(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """None can be had of pictures, as of files."""
        return OfFile(b"").features(numbers)

    def has_sound(self) -> bool:
        """Pictures are silent."""
        return False

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """Silence."""
        return np.zeros(round((end_seconds - start_seconds) * rate), np.float32)

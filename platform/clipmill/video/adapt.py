"""Turns frames of any kind into those of a profile: upright, square pixels, one size, no fields.

Knows frames one after the other, and neither containers nor times.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from clipmill.video.facts import clockwise_rotation, shown_size
from clipmill.video.profile import Profile
from clipmill.video.rgb import scaled_size
from clipmill.video.source import Opened
from clipmill.video.write import BT601, LIMITED_RANGE, Coding

FULL_RANGE = 2
RGB = 0  # the tag of pictures that have no matrix
KEPT_MATRICES = {1, 9}  # BT.709 and BT.2020; all else is written as BT.601
QSCALE = 118  # steps of the encoder's quality a step of JPEG's


class ToProfile:
    """Scales, squares and turns frames to a profile's size and pixels, those of the first frame.

    A frame of another size, after a change in mid-stream, is stretched to the same.
    """

    def __init__(self, video: Opened, first: VideoFrame, profile: Profile) -> None:
        self._rotation = clockwise_rotation(first)
        shown = shown_size(video, self._rotation)
        size = scaled_size(*shown, min(profile.short_side, *shown))
        self.height, self.width = (max(2, side - side % 2) for side in size)
        self.coding = _coding(profile, first)
        self._scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        height, width = self.height, self.width
        if self._rotation % 180:
            height, width = width, height
        matrix = self.coding.colorspace
        scaled = self._scaler.reformat(
            frame,
            width,
            height,
            self.coding.pixels,
            dst_colorspace=Colorspace.ITU601 if matrix == BT601 else matrix or None,
            dst_color_range=ColorRange(self.coding.color_range),
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        return _turned(scaled, self._rotation)


def _coding(profile: Profile, first: VideoFrame) -> Coding:
    if profile.name == "raw":
        return Coding("rawvideo", "rgb24", {}, RGB, FULL_RANGE)
    if profile.name == "frames":
        quality = {"flags": "+bitexact+qscale", "global_quality": str(profile.quality * QSCALE)}
        return Coding("mjpeg", "yuvj420p", quality, BT601, FULL_RANGE)
    matrix = first.colorspace if first.colorspace in KEPT_MATRICES else BT601
    return Coding("libx264", "yuv420p", profile.x264(), int(matrix), LIMITED_RANGE)


def _turned(frame: VideoFrame, rotation: int) -> VideoFrame:
    """Turn the planes of a frame clockwise."""
    if not rotation:
        return frame
    size = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
    turned = VideoFrame(*size, frame.format.name)
    pixel_bytes = 3 if frame.format.name == "rgb24" else 1
    for plane, old in zip(turned.planes, frame.planes, strict=True):
        rows = np.frombuffer(memoryview(old), np.uint8).reshape(-1, old.line_size)
        pixels = rows[: old.height, : old.width * pixel_bytes]
        upright = np.rot90(pixels.reshape(old.height, old.width, pixel_bytes), -rotation // 90)
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width * pixel_bytes] = upright.reshape(plane.height, -1)
        plane.update(padded.tobytes())
    return turned


def deinterlaced(
    shown: Iterable[tuple[float, VideoFrame]],
) -> Iterator[tuple[float, VideoFrame]]:
    """Weave fields into whole frames from the first interlaced frame on; one out for each in."""
    graph: Graph | None = None
    kind: tuple[object, ...] = ()
    waiting: deque[float] = deque()
    for number, (seconds, frame) in enumerate(shown):
        now = frame.width, frame.height, frame.format.name
        if graph is not None and kind != now:  # a change in mid-stream
            yield from _rest(graph, waiting)
            graph = _field_filter(frame)
        elif graph is None and frame.interlaced_frame:
            graph = _field_filter(frame)
        kind = now
        if graph is None:
            yield seconds, frame
            continue
        waiting.append(seconds)
        frame.pts = number
        graph.vpush(frame)
        yield from _filtered(graph, waiting)
    if graph is not None:
        yield from _rest(graph, waiting)


def _rest(graph: Graph, waiting: deque[float]) -> Iterator[tuple[float, VideoFrame]]:
    graph.vpush(None)
    yield from _filtered(graph, waiting)


def _filtered(graph: Graph, waiting: deque[float]) -> Iterator[tuple[float, VideoFrame]]:
    while waiting:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield waiting.popleft(), frame


def _field_filter(frame: VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    fields = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, fields, graph.add("buffersink")).configure()
    return graph

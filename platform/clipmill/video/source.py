"""Opens what may be a video and says clearly when it is none.

Bytes and local paths only, one codec thread, known containers only (a playlist could make a
decoder open other files). Knows nothing of frame numbers, times or pixels.
"""

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from clipmill.errors import VideoError

VideoPacket: TypeAlias = "Packet[VideoStream]"  # generic for type checkers only
Source = bytes | str | os.PathLike[str]

MAX_PIXELS = 1 << 26  # 8192 x 8192: more is an attack or a mistake
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # read by cv2 as it loads
MAX_STREAMS = 64
TOO_LARGE = "exceeds specified max pixel count"  # the decoder's words
NO_MEMORY, NO_PICTURE = "get_buffer() failed", "image parameters invalid"  # its words too
MAX_FAULTS = 20
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,flv,live_flv,ogg,asf,"
    "gif,apng,h264,hevc,obu,av1,ivf,yuv4mpegpipe,mxf,nut,rm,dv,mjpeg,wtv,gxf,vob,swf,"
    "wav,mp3,flac,aac"  # sound alone is opened to be refused by its right name
)

# A stream that appears after the header (in a damaged transport stream) is an IndexError.
DEMUX_ERRORS = (av.FFmpegError, IndexError)

# The decoder's words become part of errors and of `faults`; nobody else shall print them.
logging.getLogger("libav").addHandler(logging.NullHandler())
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)


class Faults:
    """What the decoder complained about, each complaint once, without memory addresses."""

    def __init__(self, log: list[tuple[int, str, str]]) -> None:
        self._log = log
        self._kept: dict[str, None] = {}
        self.too_large = ""  # what was told of a picture beyond all limits
        self.lacks_memory = False  # the decoder may hide it behind another error, or none

    def settle(self) -> None:
        """Take in the raw log, so that a rotten hour does not fill the memory."""
        before = ""
        for _, speaker, message in self._log:
            if TOO_LARGE in message:
                self.too_large = message.partition(",")[0].strip()
            if NO_MEMORY in message and NO_PICTURE not in before and not self.too_large:
                self.lacks_memory = True
            before = message
            if len(self._kept) < MAX_FAULTS:
                words = re.sub(r"0x[0-9a-fA-F]+", "ADDRESS", " ".join(message.split()))
                self._kept.setdefault(f"{speaker}: {words}" if speaker else words)
        self._log.clear()

    def add(self, message: str) -> None:
        """Note a fault that the decoder told by an exception."""
        self.settle()
        if len(self._kept) < MAX_FAULTS:
            self._kept.setdefault(message)

    def listed(self) -> tuple[str, ...]:
        """Give the faults so far, in the order they were met."""
        self.settle()
        return tuple(self._kept)


@dataclass
class Opened:
    """An open file: its container, its picture stream and its sound stream if it has one."""

    name: str
    container: InputContainer
    faults: Faults
    coded_size: tuple[int, int] = (0, 0)  # height and width, of the first frame
    pixel_aspect: Fraction = Fraction(1)  # how wide a pixel is for its height
    undecodable_packets: int = 0
    corrupt_frames: int = 0
    _pictures: VideoStream | None = field(default=None, repr=False)

    @property
    def pictures(self) -> VideoStream:
        """The best video stream that is no cover picture."""
        if self._pictures is None:
            stream = self._pictures = _picture_stream(self)
            # Kept, since the stream's own change when its pictures change in mid-stream.
            self.coded_size = stream.height, stream.width
            aspect = stream.sample_aspect_ratio
            self.pixel_aspect = aspect if aspect and aspect > 0 else Fraction(1)
        return self._pictures

    @property
    def picture_streams(self) -> list[VideoStream]:
        """All video streams that are no cover pictures."""
        streams = self.container.streams.video
        return [s for s in streams if not s.disposition & Disposition.attached_pic]

    @property
    def sound(self) -> AudioStream | None:
        """The best audio stream that has a decoder."""
        streams = [s for s in self.container.streams.audio if _has_decoder(s)]
        best = self.container.streams.best("audio")
        return next((s for s in streams if s is best), streams[0] if streams else None)


def describe(source: Source) -> str:
    """Name a source in an error."""
    if isinstance(source, bytes):
        return f"a video of {len(source)} bytes"
    return os.fspath(source)


@contextmanager
def opened(source: Source) -> Iterator[Opened]:
    """Open a source; whatever the codec library raises inside becomes a VideoError."""
    name = describe(source)
    handle = _handle(source, name)
    with av.logging.Capture() as log:
        faults = Faults(log)
        try:
            options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
            with av.open(handle, "r", options=options, metadata_errors="replace") as container:
                _refuse_many_streams(name, len(container.streams))
                yield Opened(name, container, faults)
        except av.FFmpegError as error:
            raise cannot_decode(name, error, faults) from error


def _refuse_many_streams(name: str, count: int) -> None:
    if count > MAX_STREAMS:
        raise VideoError(f"{name}: {count} streams", f"at most {MAX_STREAMS}", "leave it out")


def told(error: Exception) -> str:
    """Give the words of a codec library's error."""
    if isinstance(error, av.FFmpegError):
        return error.strerror or str(error)
    return "a stream that its header does not name"


def refuse_lack_of_memory(what: str, faults: Faults, error: Exception | None = None) -> None:
    """Tell a lack of memory by its name, and by its kind as the cause: it is no damage."""
    faults.settle()
    if faults.lacks_memory or isinstance(error, MemoryError):
        raise VideoError(
            f"{what}: not enough memory to decode it",
            "memory for some pictures of its size",
            "give the process more memory or decode fewer videos at a time",
        ) from (error if isinstance(error, MemoryError) else MemoryError())


def cannot_decode(what: str, error: Exception, faults: Faults) -> VideoError:
    """Tell a codec library's error in the words of ours."""
    refuse_lack_of_memory(what, faults, error)
    words = (told(error), *faults.listed()[-1:])
    if faults.too_large:
        return VideoError(f"{what}: {faults.too_large}", f"at most {MAX_PIXELS}", "leave it out")
    return VideoError(
        f"{what}: {' / '.join(dict.fromkeys(words))}",
        "a whole video file",
        "check that it plays, or leave it out",
    )


def packets(video: Opened, *, strict: bool) -> Iterator[VideoPacket]:
    """Demux the pictures; a container that breaks off is an end (or, if strict, an error)."""
    pictures = video.pictures
    for stream in video.container.streams:
        if stream is not pictures:
            stream.discard = Discard.all  # else the container would read it for nothing
    try:
        yield from video.container.demux(pictures)
    except DEMUX_ERRORS as error:
        refuse_lack_of_memory(video.name, video.faults, error)
        if strict:
            raise cannot_decode(video.name, error, video.faults) from error
        video.undecodable_packets += 1
        video.faults.add(told(error))


def frames_of(video: Opened, packet: VideoPacket) -> list[VideoFrame]:
    """Decode one packet; damage is counted and gives no frame."""
    return _decoded(video, packet)


def last_frames(video: Opened) -> list[VideoFrame]:
    """Give what the decoder still holds, and make it ready for other packets."""
    frames = _decoded(video, None)
    video.pictures.codec_context.flush_buffers()
    return frames


def _decoded(video: Opened, packet: "VideoPacket | None") -> list[VideoFrame]:
    try:
        frames = video.pictures.decode(packet)
    except av.FFmpegError as error:
        refuse_lack_of_memory(video.name, video.faults, error)
        video.undecodable_packets += 1
        video.faults.add(told(error))
        if video.faults.too_large:
            raise cannot_decode(video.name, error, video.faults) from error
        return []
    refuse_lack_of_memory(video.name, video.faults)
    video.corrupt_frames += sum(frame.is_corrupt for frame in frames)
    return frames


def decoded_frames(video: Opened) -> Iterator[VideoFrame]:
    """Give every frame that decodes, in the order shown."""
    for packet in packets(video, strict=False):
        yield from frames_of(video, packet)


def _handle(source: Source, name: str) -> io.BytesIO | str:
    if isinstance(source, bytes):
        if not source:
            raise VideoError("0 bytes", "a video", "the file or upload was empty")
        return io.BytesIO(source)
    path = Path(source)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise VideoError(f"{name}: {kind}", "a video file", "check the path")
    if not path.stat().st_size:
        raise VideoError(f"{name}: an empty file", "a video", "fetch or copy it again")
    return f"file:{path}"  # without the protocol a colon in a name would be taken for one


def _picture_stream(video: Opened) -> VideoStream:
    streams = video.picture_streams
    if not streams:
        kind = "only sound" if video.container.streams.audio else "no video stream"
        raise VideoError(f"{video.name}: {kind}", "a video stream", "leave it out")
    best = video.container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    if not _has_decoder(stream):
        raise VideoError(f"{video.name}: no decoder for its codec", todo="convert it first")
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width} x {stream.height}"
        raise VideoError(f"{video.name}: {size} pixels", f"at most {MAX_PIXELS}", "scale it down")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _has_decoder(stream: VideoStream | AudioStream) -> bool:
    return getattr(stream, "codec_context", None) is not None

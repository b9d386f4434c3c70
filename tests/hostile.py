"""Uploads that mean harm, made here: cut off, beyond all sizes, without an end, two things at once."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Mapping

import av
import numpy as np

REFUSED = frozenset({400, 413})
EITHER = REFUSED | {200}  # what is left may well be a video


def corpus(clip: bytes) -> Mapping[str, tuple[bytes, frozenset[int]]]:
    """Each by its name, with the statuses that it may get; `clip` is a good video."""
    made = {
        **{
            f"cut at {share} %": (clip[: len(clip) * share // 100], EITHER) for share in (2, 50, 98)
        },
        **{f"rotten {seed}": (rotten(clip, seed), EITHER) for seed in range(6)},
        "a picture of 65,500 x 65,500 in a film": (patched_jpeg(65500), REFUSED),
        "a GIF of 65,535 x 65,535": (gif(65535), REFUSED),
        "raw pictures of 60,000 x 60,000": (raw(60000, b"25:1", 1, 64), REFUSED),
        "a PNG of 100,000 x 100,000": (png(100_000), REFUSED),
        "12 minutes": (raw(16, b"1:1", 720), frozenset({413})),
        "half a year": (raw(16, b"1:1000000", 16), REFUSED),
        "frames that last for years": (
            stretched(clip),
            EITHER,
        ),  # one frame is within its edit list
        "200 streams": (streams(200), REFUSED),
        "2,000 streams": (tracks(2000), REFUSED),
        "boxes in boxes": (boxes(4000), REFUSED),
        "a box beyond the file": (struct.pack(">I4sQ", 1, b"ftyp", 1 << 62) + clip, EITHER),
        "a zip with a video in it": (zipped(clip), REFUSED),
        "a video that is a zip, too": (clip + zipped(b"x"), EITHER),
        "a page that is a video, too": (b"<html><script>1</script>" + clip, EITHER),
        "a playlist of files": (playlist("file:///etc/passwd"), REFUSED),
        "a playlist of addresses": (playlist("http://127.0.0.1:1/x.ts"), REFUSED),
        "a list of files to join": (b"ffconcat version 1.0\nfile /etc/passwd\n", REFUSED),
        "a drawing with a file in it": (b'<svg><image href="file:///etc/passwd"/></svg>', REFUSED),
        "a session description": (
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 1 RTP/AVP 96\n",
            REFUSED,
        ),
        "deep JSON": (b"[" * 100_000, REFUSED),
        "a thing to unpickle": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", REFUSED),
        "a program": (b"\x7fELF" + bytes(4000), REFUSED),
        "sound alone": (sound(), REFUSED),
        "nothing but zeros": (bytes(5000), REFUSED),
        "noise": (random.Random(0).randbytes(5000), REFUSED),
        "words": (json.dumps({"video": "none"}).encode(), REFUSED),
    }
    return made


def rotten(clip: bytes, seed: int) -> bytes:
    """Some bytes flipped, anywhere."""
    chance, data = random.Random(seed), bytearray(clip)
    for _ in range(1 + 20 * seed):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def raw(side: int, rate: bytes, frames: int, size: int | None = None) -> bytes:
    """Uncompressed pictures, which need not be there."""
    picture = bytes(side * side * 3 // 2 if size is None else size)
    return b"YUV4MPEG2 W%d H%d F%s\n" % (side, side, rate) + (b"FRAME\n" + picture) * frames


def gif(side: int) -> bytes:
    """One picture that is far larger than its bytes."""
    size = struct.pack("<HH", side, side)
    head = b"GIF89a" + size + b"\x80\0\0" + bytes(6)
    return (
        head
        + (b"\x21\xf9\x04\0\xff\xff\0\0" + b"," + bytes(4) + size + b"\0\x02\x02\x44\x01\0") * 9
        + b";"
    )


def png(side: int) -> bytes:
    """The head of a picture."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBBI", 13, b"IHDR", side, side, 8, 2, 0, 0, 0, 0
    )


def patched_jpeg(side: int) -> bytes:
    """A film of JPEGs whose heads lie."""
    data = bytearray(film("avi", "mjpeg", 3))
    at = 0
    while (at := data.find(b"\xff\xc0", at)) >= 0:
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
        at += 9
    return bytes(data)


def film(container: str, codec: str, frames: int, streams: int = 1) -> bytes:
    """A small grey film, or as many of them side by side as asked."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        kept = []
        for _ in range(streams):
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height = 16, 16
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            kept.append(stream)
        picture = np.full((16, 16, 3), 90, np.uint8)
        for stream in kept:
            for _ in range(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                file.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            file.mux(stream.encode(None))
    return out.getvalue()


def streams(count: int) -> bytes:
    """More streams than anyone needs."""
    return film("matroska", "mpeg4", 1, count)


def tracks(count: int) -> bytes:
    """More than the codec library would write: the heads of so many in a Matroska file."""

    def element(name: str, data: bytes) -> bytes:
        return bytes.fromhex(name) + struct.pack(">Q", 1 << 56 | len(data)) + data

    def track(number: int) -> bytes:
        told = struct.pack(">H", number)
        size = element("B0", b"\x10") + element("BA", b"\x10")
        kind = element("83", b"\1") + element("86", b"V_MPEG4/ISO/ASP")
        return element(
            "AE", element("D7", told) + element("73C5", told) + kind + element("E0", size)
        )

    head = element("1A45DFA3", element("4282", b"matroska"))
    clock = element("1549A966", element("2AD7B1", b"\x0f\x42\x40"))
    entries = element("1654AE6B", b"".join(track(number) for number in range(1, count + 1)))
    return head + element("18538067", clock + entries)


def sound() -> bytes:
    """A tenth of a second of silence."""
    samples = bytes(1600)
    head = struct.pack(
        "<4sI8sIHHIIHH", b"RIFF", 36 + len(samples), b"WAVEfmt ", 16, 1, 1, 8000, 16000, 2, 16
    )
    return head + struct.pack("<4sI", b"data", len(samples)) + samples


def stretched(clip: bytes) -> bytes:
    """The same frames, each for as long as can be said."""
    data = bytearray(clip)
    at = data.find(b"stts")
    count = struct.unpack(">I", data[at + 8 : at + 12])[0]
    for entry in range(count):
        data[at + 16 + 8 * entry : at + 20 + 8 * entry] = struct.pack(">I", 0x0FFFFFFF)
    return bytes(data)


def boxes(deep: int) -> bytes:
    """Boxes within boxes."""
    data = b""
    for _ in range(deep):
        data = struct.pack(">I4s", len(data) + 8, b"moov") + data
    return struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom") + data


def zipped(data: bytes) -> bytes:
    """An archive of it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../video.mp4", data)
    return out.getvalue()


def playlist(address: str) -> bytes:
    """A list that sends its reader elsewhere."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n".encode()

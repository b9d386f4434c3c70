"""Uploads that mean harm, made here: cut off, beyond all sizes, without an end, two things at once."""

import contextlib
import http.server
import io
import json
import random
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

Corpus = Mapping[str, tuple[bytes, frozenset[int]]]

REFUSED = frozenset({400, 413})
EITHER = REFUSED | {200}  # what is left may well be a video


@dataclass(frozen=True)
class Bait:
    """A good video where no upload may have it fetched: a file, and an address that tells who came."""

    file: str
    address: str
    came: list[str]


@contextlib.contextmanager
def bait(folder: Path) -> Iterator[Bait]:
    """Lay it out, and listen."""
    video, came = film("mpegts", "mpeg2video", 50), list[str]()
    (folder / "x.ts").write_bytes(video)

    class Listener(http.server.BaseHTTPRequestHandler):
        def setup(self) -> None:
            came.append(str(self.client_address))
            super().setup()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(video)))
            self.end_headers()
            self.wfile.write(video)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield Bait(str(folder / "x.ts"), f"http://127.0.0.1:{server.server_port}/x.ts", came)
        finally:
            server.shutdown()


def lures(laid: Bait) -> Mapping[str, bytes]:
    """What a decoder that heeds no rule follows to the file or to the address."""
    return {
        "a playlist of files": playlist(f"file://{laid.file}"),
        "a playlist of paths": playlist(laid.file),
        "a playlist of addresses": playlist(laid.address),
        "a playlist that begins elsewhere": playlist(
            laid.address, f'#EXT-X-MAP:URI="{laid.address}"'
        ),
        "a playlist with a key elsewhere": playlist(
            laid.address, f'#EXT-X-KEY:METHOD=AES-128,URI="{laid.address}"'
        ),
        "a playlist of playlists": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{laid.address}\n".encode(),
        "a list of files to join": f"ffconcat version 1.0\nfile {laid.file}\n".encode(),
        "a list of addresses to join": f"ffconcat version 1.0\nfile {laid.address}\n".encode(),
    }


def corpus(clip: bytes, laid: Bait) -> Corpus:
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
        **{name: (data, REFUSED) for name, data in lures(laid).items()},
        "a list of what the machine knows": (playlist("file:///etc/passwd"), REFUSED),
        "a drawing with a file in it": (drawing(f"file://{laid.file}"), REFUSED),
        "a drawing with an address in it": (drawing(laid.address), REFUSED),
        "a table of films elsewhere": (manifest(laid.address), REFUSED),
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
    """A small film of noise, or as many of them side by side as asked."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        kept = []
        for _ in range(streams):
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height = 16, 16
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            kept.append(stream)
        pictures = np.random.default_rng(0).integers(0, 255, (frames, 16, 16, 3), np.uint8)
        for stream in kept:
            for picture in pictures:
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


def playlist(address: str, *lines: str) -> bytes:
    """A list that sends its reader elsewhere."""
    head = ("#EXTM3U", "#EXT-X-TARGETDURATION:1", *lines, "#EXTINF:1,")
    return "\n".join((*head, address, "#EXT-X-ENDLIST", "")).encode()


def drawing(address: str) -> bytes:
    """A picture that is told in words and shows another."""
    space = 'xmlns="http://www.w3.org/2000/svg" width="9" height="9"'
    return f'<svg {space}><image href="{address}" width="9" height="9"/></svg>'.encode()


def manifest(address: str) -> bytes:
    """What DASH calls a presentation."""
    kind = 'mimeType="video/mp2t"'
    shown = f'<Representation id="0" bandwidth="1"><BaseURL>{address}</BaseURL></Representation>'
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        f"<AdaptationSet {kind}>{shown}</AdaptationSet></Period></MPD>"
    ).encode()


# --- pictures

SIDE = 30_000  # beyond all memory, and less than OpenCV itself refuses


def pictures(clip: bytes, laid: Bait) -> Corpus:
    """The same as pictures, with some of every kind that are larger than they look."""
    small = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    sound = {kind: cv2.imencode(f".{kind}", small)[1].tobytes() for kind in ("png", "jpg", "webp")}
    return {
        **{name: (data, may | REFUSED) for name, (data, may) in corpus(clip, laid).items()},
        **{f"a large {kind}": (data, REFUSED) for kind, data in larger(small).items()},
        **{f"half a {kind}": (data[: len(data) // 2], EITHER) for kind, data in sound.items()},
        **{f"a rotten {kind}": (rotten(data, 2), EITHER) for kind, data in sound.items()},
    }


def larger(small: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Mapping[str, bytes]:
    """Pictures whose heads lie, and some that hold all that they say."""

    def patched(kind: str, mark: bytes, after: int, layout: str, side: int = SIDE) -> bytes:
        data = bytearray(cv2.imencode(f".{kind}", small)[1].tobytes())
        struct.pack_into(layout, data, data.index(mark) + after, side, side)
        return bytes(data)

    return {
        "PNG": bitmap(SIDE),
        "PNG, though less so": bitmap(12_000),
        "JPEG": patched("jpg", b"\xff\xc0", 5, ">HH"),
        "JPEG beyond all limits": patched("jpg", b"\xff\xc0", 5, ">HH", 65_500),
        "JPEG 2000": patched("jp2", b"\xff\x51", 6, ">II"),
        "BMP": patched("bmp", b"BM", 18, "<II"),
        "GIF": patched("gif", b"GIF8", 6, "<HH"),
        "TIFF": tiff(SIDE),
        "PPM": b"P6 %d %d 255\n" % (SIDE, SIDE) + bytes(999),
        "HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (SIDE, SIDE) + bytes(999),
    }


def bitmap(side: int) -> bytes:
    """A black PNG, all of it, in few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def tiff(side: int) -> bytes:
    """The head of a grey picture, and a few of its bytes."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: 99}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(99)

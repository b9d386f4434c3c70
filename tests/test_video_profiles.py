"""Profiles: what each stores, cut to a span or whole, and what becomes of damage."""

import io
import random
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from clipmill.errors import UsageError, VideoError
from clipmill.video import (
    PROFILES,
    Profile,
    decode_audio,
    decode_frames,
    decode_indexed,
    index_of,
    indexed,
    probe,
    source,
    transcode,
)
from clipmill.video.part import Span
from test_video import (
    BILINEAR,
    COUNT,
    ONE_KEY_IN_12,
    SCALER,
    STREAMS,
    all_frames,
    moving_square,
    with_sound,
    written,
)

ANEW = ("training", "frames", "raw")
BIG, SMALL = (96, 64), (48, 64)  # height and width


@pytest.fixture(scope="module")
def streams() -> dict[str, bytes]:
    return {name: written(moving_square(COUNT), **how) for name, how in STREAMS.items()}


def noise(seconds: float) -> Any:
    chance = np.random.default_rng(5)
    return chance.normal(0, 0.2, round(seconds * 16_000)).astype(np.float32)


# --- every profile


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_gives_equal_bytes_and_says_what_they_are(name: str) -> None:
    film = with_sound(moving_square(30), noise(1.2))
    stored, told = transcode(film, PROFILES[name])
    assert stored == transcode(film, PROFILES[name])[0]
    info = probe(stored, decode=True)
    assert (told.width, told.height, told.frames) == (info.width, info.height, info.frames)
    assert told.has_audio and info.audio_streams == 1
    assert told.frames_from == ("packets" if name == "keep" else "decode")
    assert len(told.source_times_seconds) == told.frames
    assert told.suffix == ("mov" if name == "raw" else "mp4")
    assert (told.corrupt_frames, told.faults) == (0, ())


@pytest.mark.parametrize("rotation", [0, 90, 180])
@pytest.mark.parametrize("name", ["frames", "raw"])
def test_frames_and_raw_show_what_training_does(name: Any, rotation: int) -> None:
    film = written(moving_square(10, *BIG), options={"crf": "1"}, rotation=rotation)
    stored, told = transcode(film, Profile(name, short_side=48, quality=2))
    usual, expected = transcode(film, Profile(short_side=48, crf=1))
    assert (told.width, told.height, told.frames) == (expected.width, expected.height, 12)
    assert probe(stored).pixel_format == ("rgb24" if name == "raw" else "yuvj420p")
    ours, theirs = (decode_frames(each, range(12)).astype(int) for each in (stored, usual))
    assert np.abs(ours - theirs).mean() < 4


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("name", ["frames", "raw"])
def test_a_stored_frame_is_read_from_its_own_bytes(
    name: Any, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexed, "GAP_BYTES", 100 if apart else indexed.GAP_BYTES)
    film = with_sound(moving_square(30), noise(1.2), fps=30)
    stored, _ = transcode(film, Profile(name))
    index = index_of(stored)
    assert index is not None
    asked: list[tuple[int, int]] = []

    def read(at: int, size: int) -> bytes:
        asked.append((at, size))
        return stored[at : at + size]

    numbers = [17, 3, 3, 29]
    found = decode_indexed(index, read, numbers, short_side=32, crop=(2, 2, 28, 28))
    expected = decode_frames(stored, numbers, short_side=32, crop=(2, 2, 28, 28))
    np.testing.assert_array_equal(found, expected)
    own = [(int(index.offset[n]), int(index.size[n])) for n in (3, 17, 29)]
    assert asked == own if apart else len(asked) == 1
    with pytest.raises(VideoError, match="frame 5 and on|the file was cut"):
        half = 2 if name == "raw" else 1  # any bytes are a raw picture, if they are enough
        decode_indexed(index, lambda at, size: b"\xff" * (size // half), [5])


def test_a_profile_by_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="training, keep, frames, raw"):
        Profile("smallest")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="quality"):
        Profile("frames", quality=1)


# --- spans


def spans_of(duration: float) -> Any:
    times = st.lists(st.floats(0, duration), min_size=2, max_size=2, unique=True)
    return times.map(sorted).filter(lambda span: span[1] - span[0] > 0.03)


@pytest.mark.parametrize(
    "kind", ["b-frames, open", "intra refresh", "matroska", "avi", "vp8", "transport stream"]
)
@settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@example(span=[0.0393, 1.5606])  # a frame that begins at the last tick, and at the span's end
@given(span=spans_of(1.6))
def test_a_span_shows_what_is_on_screen_in_it(
    kind: str, span: list[float], streams: dict[str, bytes]
) -> None:
    film, (start, end) = streams[kind], span
    stored, told = transcode(film, Profile("raw", rate=25.0), start_seconds=start, end_seconds=end)
    seconds = np.array(all_frames(film, SMALL)[1])
    assert told.frames == max(1, int(np.ceil((end - start - 0.001) * 25)))
    ticks = start + np.arange(told.frames) / 25
    # Stamps may be a millisecond off: what begins so close to a tick is on screen at it, and what
    # begins so close to the end is not in the span. (Which spans are tried depends on all modules
    # that are loaded: the constants in them.)
    edges = np.concatenate([seconds[:, None] - ticks - 0.001, seconds[:, None] - end + 0.001], 1)
    assume(np.abs(edges).min() > 1e-9)
    begun = [(seconds <= tick + 0.001) & (seconds < end - 0.001) for tick in ticks]
    shown = [int(np.flatnonzero(each)[-1]) for each in begun]
    np.testing.assert_allclose(told.source_times_seconds, seconds[shown], atol=1e-6)
    whole, _ = transcode(film, Profile("raw", rate=1000.0))
    whole_numbers = [min(round(float(seconds[n]) * 1000) + 5, 1590) for n in shown]
    same = decode_frames(stored, range(told.frames)) == decode_frames(whole, whole_numbers)
    wrong = np.flatnonzero(~same.all((1, 2, 3))).tolist()
    assert not wrong, f"frames {wrong} of {shown}, told at {seconds[shown].tolist()}"


def test_parts_that_follow_each_other_hold_every_frame_once() -> None:
    film = written(moving_square(75), options=ONE_KEY_IN_12)
    cuts = [0.0, 0.7, 1.32, 2.0, None]
    parts = [
        transcode(film, Profile(rate=25.0), start_seconds=start or 0.0, end_seconds=end)[1]
        for start, end in pairwise(cuts)
    ]
    times = np.concatenate([part.source_times_seconds for part in parts])
    # A part may begin with the frame that is still on screen.
    np.testing.assert_allclose(np.unique(times), np.arange(75) / 25, atol=1e-9)
    assert len(times) <= 75 + len(parts)


def test_a_span_is_reproducible_and_interlacing_is_removed_in_it() -> None:
    fields = moving_square(81)
    woven = fields[:-1:2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]
    film = written(woven, options={"x264-params": "tff=1", "crf": "1", "g": "12"})
    profile = Profile("raw", rate=25.0)
    stored, _ = transcode(film, profile, start_seconds=0.8, end_seconds=1.2)
    assert stored == transcode(film, profile, start_seconds=0.8, end_seconds=1.2)[0]
    whole, _ = transcode(film, profile)
    # The last frame of a span has no frame after it to look at.
    ours, theirs = decode_frames(stored, range(9)), decode_frames(whole, range(20, 29))
    np.testing.assert_array_equal(ours, theirs)


def test_a_span_decodes_neither_before_its_key_frame_nor_after_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = written(moving_square(100), options={**ONE_KEY_IN_12, "bf": "0"})
    fed: list[int] = []
    decode = source._decoded

    def counted(video: Any, packet: Any) -> Any:
        if packet is not None and packet.size:
            fed.append(packet.pts)
        return decode(video, packet)

    monkeypatch.setattr(source, "_decoded", counted)
    _, told = transcode(film, Profile(rate=25.0), start_seconds=2.0, end_seconds=2.4)
    assert told.frames == 10
    ticks = np.array(fed) / 12_800 * 25
    assert (ticks.min(), ticks.max()) == (48, 59)


@pytest.mark.parametrize("name", ["training", "raw"])
def test_the_sound_of_a_span_is_that_of_its_time(name: Any) -> None:
    sound = np.sin(np.arange(80_000) / 9 + np.sin(np.arange(80_000) / 9_000) * 40) / 3
    film = with_sound(moving_square(125), sound.astype(np.float32))
    stored, told = transcode(film, Profile(name), start_seconds=2.345, end_seconds=3.5)
    assert told.has_audio
    ours = decode_audio(stored, 0.0, told.duration_seconds)[200:-1200]
    theirs = decode_audio(film, 2.345, 2.345 + told.duration_seconds)[200:-1200]
    assert np.abs(ours - theirs).mean() < 0.03
    late = transcode(film, Profile(), start_seconds=4.0)[1]
    assert (late.frames, late.has_audio) == (30, True)


@pytest.mark.parametrize("kind", ["b-frames, open", "avi"])
@pytest.mark.parametrize(("start", "end"), [(0.5, 1.7), (1.7, None), (3.0, 4.0)])
def test_a_span_beyond_the_end_is_told(
    kind: str, start: float, end: float | None, streams: dict[str, bytes]
) -> None:
    with pytest.raises(VideoError, match=r"a span from .*; wanted a part of its 1\.6"):
        transcode(streams[kind], Profile(), start_seconds=start, end_seconds=end)


def test_a_whole_video_that_lasts_no_time_is_told_as_such() -> None:
    with pytest.raises(VideoError, match=r"v\.mp4: its frames last 0\.000 s; wanted a video of"):
        Span().refuse_beyond("v.mp4", 0.0)


@pytest.mark.parametrize(
    ("start", "end"), [(-1.0, None), (1.0, 1.0), (1.0, 0.5), (float("nan"), None)]
)
def test_what_is_no_span_is_refused(start: float, end: float | None) -> None:
    with pytest.raises(UsageError, match="a span from"):
        transcode(b"", Profile(), start_seconds=start, end_seconds=end)


# --- keep


def exact_frames(video: bytes) -> list[bytes]:
    with av.open(io.BytesIO(video)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


REMUXED = {
    "avi": {**STREAMS["avi"]},
    "avi, no b-frames": {"container": "avi", "codec": "mpeg4", "options": {"bf": "0"}},
    "avi, large": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2", "q:v": "2"}},
    "h264 in avi": {**STREAMS["h264 in avi"]},
    "h264 alone": {"container": "h264", "options": {"bf": "3"}},
    "jpeg in avi": {"container": "avi", "codec": "mjpeg", "pixels": "yuvj420p"},
    "msmpeg4 in avi": {"container": "avi", "codec": "msmpeg4", "options": {}},
}


@pytest.mark.parametrize("kind", STREAMS)
def test_what_tells_its_times_is_kept_byte_for_byte(kind: str, streams: dict[str, bytes]) -> None:
    film = streams[kind]
    stored, told = transcode(film, PROFILES["keep"])
    assert (stored == film) == (STREAMS[kind].get("container") != "avi")
    assert told.frames == COUNT
    _, checked = transcode(film, PROFILES["keep"], check=True)
    assert (checked.frames, checked.frames_from, checked.corrupt_frames) == (COUNT, "decode", 0)


@pytest.mark.parametrize(
    ("container", "suffix", "codec"),
    [("mp4", "mp4", "libx264"), ("mov", "mov", "libx264"), ("matroska", "mkv", "libx264"),
     ("webm", "webm", "libvpx"), ("mpegts", "ts", "libx264"), ("mpeg", "mpg", "mpeg2video"),
     ("flv", "flv", "libx264")],
)  # fmt: skip
def test_a_kept_file_has_the_suffix_of_its_container(
    container: str, suffix: str, codec: str
) -> None:
    film = written(moving_square(20), container=container, codec=codec)
    assert transcode(film, PROFILES["keep"])[1].suffix == suffix


@pytest.mark.parametrize("kind", REMUXED)
def test_what_tells_no_times_is_remuxed_frame_for_frame(kind: str) -> None:
    film = written(moving_square(COUNT, *BIG), **REMUXED[kind])
    stored, told = transcode(film, PROFILES["keep"])
    assert stored == transcode(film, PROFILES["keep"])[0] != film
    assert exact_frames(stored) == exact_frames(film)
    assert told.suffix in ("mp4", "mkv")
    info = probe(stored)
    assert (info.frames, info.fps, info.variable_rate) == (COUNT, 25.0, False)
    assert told.duration_seconds == pytest.approx(info.duration_seconds, abs=0.002)
    np.testing.assert_allclose(told.source_times_seconds, np.arange(COUNT) / 25, atol=0.001)
    with av.open(io.BytesIO(stored)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert None not in stamps and len(set(stamps)) == COUNT
    expected = decode_frames(film, [0, 13, COUNT - 1])
    np.testing.assert_array_equal(decode_frames(stored, [0, 13, COUNT - 1]), expected)


def test_frames_packed_two_in_a_packet_get_packets_of_their_own() -> None:
    film = written(moving_square(21, *BIG), codec="mpeg4", container="avi", options={"bf": "1"})
    packed = repacked(film)
    stored, told = transcode(packed, PROFILES["keep"])
    assert told.frames == probe(packed, decode=True).frames == 21
    assert exact_frames(stored) == exact_frames(packed) == exact_frames(film)


def repacked(film: bytes) -> bytes:
    """Put each B picture into the packet before it, and an empty one in its place, as Xvid did."""
    target = io.BytesIO()
    with av.open(io.BytesIO(film)) as old, av.open(target, "w", format="avi") as new:
        packets = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        at = 0
        stored: list[bytes] = []
        while at < len(packets):
            following = packets[at + 1] if at + 1 < len(packets) else b""
            if following.startswith(b"\0\0\1\xb6") and following[4] >> 6 == 2:
                stored += [packets[at] + following, b"\0\0\1\xb6\x50\x0f\x7f"]
                at += 2
            else:
                stored.append(packets[at])
                at += 1
        mark = b"\0\0\1\xb2DivX503b1393p\0"  # the encoder says that it packs
        start = stored[0].index(b"\0\0\1\xb6")
        stored[0] = stored[0][:start] + mark + stored[0][start:]
        for number, data in enumerate(stored):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), stream
            new.mux(packet)
    return target.getvalue()


def test_what_cannot_be_remuxed_is_told() -> None:
    film = written(moving_square(3), codec="rawvideo", container="avi")
    with pytest.raises(VideoError, match="cannot be kept.*use the training profile"):
        transcode(film, PROFILES["keep"])


def test_the_sound_of_a_remuxed_film_stays_beside_it() -> None:
    film = with_mp3(moving_square(75), np.sin(np.arange(48_000) ** 2 / 4e5).astype(np.float32) / 2)
    stored, told = transcode(film, PROFILES["keep"])
    assert told.has_audio and told.suffix == "mp4"
    heard, expected = (decode_audio(each, 0.2, 2.8) for each in (stored, film))
    assert np.abs(expected).max() > 0.4
    np.testing.assert_allclose(heard, expected, atol=0.02)


def with_mp3(frames: Any, sound: Any) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="avi") as out:
        picture = out.add_stream("mpeg4", rate=25)
        picture.height, picture.width = frames.shape[1:3]
        heard = out.add_stream("mp3", rate=16_000, layout="mono")
        for number, each in enumerate(frames):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
            block = sound[None, number * 640 : (number + 1) * 640]
            frame = av.AudioFrame.from_ndarray(block, "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, number * 640
            out.mux(heard.encode(frame))
        out.mux([*picture.encode(None), *heard.encode(None)])
    return target.getvalue()


@pytest.mark.parametrize(("start", "end"), [(1.0, None), (0.0, 1.0)])
def test_keep_cuts_nothing(start: float, end: float | None) -> None:
    with pytest.raises(UsageError, match="keep stores streams whole"):
        transcode(b"", PROFILES["keep"], start_seconds=start, end_seconds=end)


def test_paths_and_bytes_are_kept_alike(tmp_path: Any) -> None:
    film = written(moving_square(5))
    (tmp_path / "a film.mp4").write_bytes(film)
    assert transcode(tmp_path / "a film.mp4", PROFILES["keep"])[0] == film
    assert transcode(film, PROFILES["keep"])[0] is film


# --- pictures that change their size in mid-stream


def changing(container: str, *sizes: tuple[int, int]) -> bytes:
    parts = [
        written(moving_square(20, *size), container=container, options=ONE_KEY_IN_12)
        for size in sizes
    ]
    return b"".join(parts)


def scaled_frames(video: bytes, size: tuple[int, int]) -> Any:
    with av.open(io.BytesIO(video)) as container:
        pictures = []
        for frame in container.decode(video=0):
            how = BILINEAR if size == (frame.height, frame.width) else SCALER
            rgb = frame.reformat(size[1], size[0], "rgb24", interpolation=how)
            pictures.append(rgb.to_ndarray())
        return np.stack(pictures)


@pytest.mark.parametrize("container", ["h264", "mpegts"])
@pytest.mark.parametrize("sizes", [(SMALL, BIG), (BIG, SMALL), (SMALL, BIG, SMALL)])
def test_pictures_of_several_sizes_become_those_of_the_first(
    container: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    film, count = changing(container, *sizes), 20 * len(sizes)
    info = probe(film, decode=True)
    assert (info.frames, info.height, info.width) == (count, *sizes[0])
    changes = [(20 * (at + 1), size[1], size[0]) for at, size in enumerate(sizes[1:])]
    assert list(info.size_changes) == changes
    expected = scaled_frames(film, sizes[0])
    np.testing.assert_array_equal(decode_frames(film, range(count)), expected)
    np.testing.assert_array_equal(decode_frames(film, [25]), expected[[25]])
    stored, told = transcode(film, Profile(rate=25.0, crf=1))
    assert (told.frames, told.height, told.width) == (count, *sizes[0])
    assert probe(stored, decode=True).size_changes == ()
    ours = decode_frames(stored, range(count)).astype(int)
    assert np.abs(ours - expected).mean(axis=(1, 2, 3)).max() < 6


def test_pictures_that_grow_beyond_all_limits_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    film = changing("mpegts", SMALL, BIG)
    monkeypatch.setattr(source, "MAX_PIXELS", 64 * 64)
    reads: list[Callable[[], object]] = [
        lambda: probe(film, decode=True),
        lambda: transcode(film, Profile()),
        lambda: transcode(film, PROFILES["keep"], check=True),
        lambda: decode_frames(film, [30]),
    ]
    for read in reads:
        with pytest.raises(VideoError, match="Picture size 64x96 exceeds"):
            read()


def test_more_streams_than_a_film_has_are_refused() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        streams = [out.add_stream("pcm_s16le", rate=8_000, layout="mono") for _ in range(65)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 8_000, 0
            out.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="65 streams; wanted at most 64"):
        probe(target.getvalue())


# --- damage


def reported(video: bytes) -> int | None:
    """Count what a full decode reports, as a stranger to our code would; None: it is no video."""
    found = frames = 0
    try:
        with av.open(io.BytesIO(video)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    found += 1
                    continue
                frames += len(decoded)
                found += sum(frame.is_corrupt for frame in decoded)
    except (av.FFmpegError, IndexError):
        if not frames:
            return None
        found += 1
    return found if frames else None


def rotten(film: bytes, seed: int) -> bytes:
    chance, data = random.Random(seed), bytearray(film)
    for _ in range(chance.choice([3, 30])):
        data[chance.randrange(len(data) // 8, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def cut(film: bytes, seed: int) -> bytes:
    return film[: random.Random(seed).randrange(len(film) // 4, len(film))]


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    frames = moving_square(60, *BIG)
    plain: dict[str, Any] = {"options": {**ONE_KEY_IN_12, "bf": "2", "crf": "10"}}
    return {
        "index at the end": written(frames, **plain),
        "index first": transcode(written(frames, **plain), Profile(crf=10))[0],
        "matroska": written(frames, container="matroska", **plain),
        "transport stream": written(frames, container="mpegts", **plain),
        "avi": written(frames, container="avi", codec="mpeg4"),
    }


@pytest.mark.parametrize("spoil", [rotten, cut])
@pytest.mark.parametrize(
    "kind", ["index at the end", "index first", "matroska", "transport stream", "avi"]
)
def test_damage_is_counted_as_a_full_decode_reports_it(
    kind: str, spoil: Callable[[bytes, int], bytes], whole: dict[str, bytes]
) -> None:
    counts: list[int | None] = []
    for seed in range(12):
        film = spoil(whole[kind], seed)
        counts.append(reported(film))
        try:
            told = transcode(film, Profile(rate=5.0))[1].corrupt_frames
        except VideoError:
            assert counts[-1] is None
            continue
        assert told == counts[-1], f"seed {seed}"
        if kind != "avi":  # whose frames must be whole to tell their order
            assert transcode(film, Profile("keep"), check=True)[1].corrupt_frames == told
    if spoil is rotten:
        assert any(counts)
    elif kind == "index at the end":
        assert counts == [None] * 12


def test_damage_elsewhere_is_none_of_a_span() -> None:
    film = written(moving_square(100), options={**ONE_KEY_IN_12, "bf": "0"})
    with av.open(io.BytesIO(film)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    at, size = packets[80]
    assert at is not None
    damaged = film[:at] + b"\xff" * size + film[at + size :]
    assert transcode(damaged, Profile())[1].corrupt_frames > 0
    assert transcode(damaged, Profile(), end_seconds=2.0)[1].corrupt_frames == 0
    assert transcode(damaged, Profile(), start_seconds=3.0)[1].corrupt_frames > 0

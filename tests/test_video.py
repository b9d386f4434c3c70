"""Video: what is in a file, exactly the asked frames, sound, and the training profile."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipmill.errors import UsageError, VideoError
from clipmill.video import (
    Profile,
    decode_audio,
    decode_frames,
    encode,
    grid_frames,
    index_of,
    probe,
    scaled_size,
    scan,
    transcode,
)
from clipmill.video.scan import is_disposable, unit_prefix_bytes
from clipmill.video.source import opened
from clipmill.video.timing import clock_for, is_variable
from tiny import moving

Frames = NDArray[np.uint8]

BILINEAR = Interpolation.BILINEAR
SCALER = BILINEAR | Interpolation.FULL_CHR_H_INT  # what scales also places colours exactly

# --- tiny videos


def moving_square(count: int, height: int = 48, width: int = 64) -> Frames:
    """A bright square on a shaded ground; no two frames are the same."""
    rows, columns = np.mgrid[:height, :width]
    ground = np.stack([rows * 2, columns * 2, rows + columns], -1) % 200
    frames = np.repeat(ground[None], count, 0).astype(np.uint8)
    for number, frame in enumerate(frames):
        y, x = number * 3 % (height - 12), number * 5 % (width - 12)
        frame[y : y + 12, x : x + 12] = (255, 40 + number % 200, 255 - number % 200)
    return frames


def written(
    frames: Frames,
    *,
    codec: str = "libx264",
    container: str = "mp4",
    fps: int | Fraction = 25,
    stamps: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    cover: bool = False,
) -> bytes:
    """Write a video with the codec library alone; stamps are in milliseconds."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as out:
        # The same film wherever the tests run, so that chance damages the same of it.
        told = dict(options or {})
        if codec == "libx264":
            ours = filter(None, (told.get("x264-params"), "cpu-independent=1"))
            told["x264-params"] = ":".join(ours)
        stream = out.add_stream(codec, rate=fps, options=told)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(-rotation)  # the library turns the other way
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = 1 / Fraction(fps) if stamps is None else Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return target.getvalue()


def with_sound(frames: Frames, sound: NDArray[np.float32], fps: float = 25.0) -> bytes:
    target = io.BytesIO()
    encode(target, frames, fps=fps, audio=sound)
    return target.getvalue()


def all_frames(video: bytes, size: tuple[int, int]) -> tuple[Frames, list[float]]:
    """Decode everything in order: the plain way, to compare with."""
    pictures, seconds = [], []
    with av.open(io.BytesIO(video)) as container:
        for frame in container.decode(video=0):
            how = BILINEAR if size == (frame.height, frame.width) else SCALER
            rgb = frame.reformat(size[1], size[0], "rgb24", interpolation=how)
            pictures.append(rgb.to_ndarray())
            seconds.append(frame.time)
    return np.stack(pictures), [s - seconds[0] for s in seconds]


ONE_KEY_IN_12 = {"g": "12", "sc_threshold": "0", "preset": "veryfast"}
STREAMS: dict[str, dict[str, Any]] = {
    "no b-frames": {"options": {**ONE_KEY_IN_12, "bf": "0"}},
    "b-pyramid, closed": {"options": {**ONE_KEY_IN_12, "bf": "3", "x264-params": "open-gop=0"}},
    "b-frames, open": {"options": {**ONE_KEY_IN_12, "bf": "3", "x264-params": "open-gop=1"}},
    "intra refresh": {"options": {**ONE_KEY_IN_12, "bf": "2", "x264-params": "intra-refresh=1"}},
    "ladder": {"options": {**ONE_KEY_IN_12, "bf": "5", "x264-params": "b-pyramid=none:b-adapt=0"}},
    "matroska": {"container": "matroska", "options": {**ONE_KEY_IN_12, "bf": "3"}},
    "transport stream": {"container": "mpegts", "options": {**ONE_KEY_IN_12, "bf": "3"}},
    "avi": {"container": "avi", "codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "h264 in avi": {"container": "avi", "options": {**ONE_KEY_IN_12, "bf": "2"}},
    "program stream": {"container": "mpeg", "codec": "mpeg2video", "options": {"g": "9"}},
    "vp9": {"container": "webm", "codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8"}},
    "vp8": {"container": "webm", "codec": "libvpx", "options": {"g": "12", "auto-alt-ref": "1"}},
}
COUNT = 40


@pytest.fixture(scope="module")
def streams() -> dict[str, tuple[bytes, Frames]]:
    """Every kind of stream with all its frames, decoded the plain way at half the size."""
    made = {name: written(moving_square(COUNT), **how) for name, how in STREAMS.items()}
    return {name: (video, all_frames(video, (24, 32))[0]) for name, video in made.items()}


# --- the asked frames


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(numbers=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=8))
def test_asked_frames_are_those_of_a_full_decode(
    kind: str, numbers: list[int], streams: dict[str, tuple[bytes, Frames]]
) -> None:
    video, frames = streams[kind]
    assert len(frames) == COUNT
    np.testing.assert_array_equal(decode_frames(video, numbers, short_side=24), frames[numbers])


def test_streams_whose_packets_tell_need_no_decoding_from_the_beginning(
    streams: dict[str, tuple[bytes, Frames]],
) -> None:
    starts = {}
    for kind, (video, _) in streams.items():
        with opened(video) as found:
            table = scan.scan(found, video)
            starts[kind] = 0 if table is None else len(table.starts)
    four = {kind: starts[kind] for kind in ("no b-frames", "b-pyramid, closed", "matroska", "vp9")}
    assert set(four.values()) == {4}
    assert (starts["b-frames, open"], starts["ladder"], starts["intra refresh"]) == (4, 4, 1)
    assert starts["avi"] == starts["h264 in avi"] == starts["vp8"] == 0


@pytest.mark.parametrize("kind", ["b-frames, open", "matroska", "vp9"])
def test_a_long_file_is_sought_not_held(
    kind: str,
    streams: dict[str, tuple[bytes, Frames]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video, frames = streams[kind]
    (tmp_path / "a: video.mp4").write_bytes(video)
    monkeypatch.setattr(scan, "HELD_BYTES", 0)
    for number in (39, 25, 0, 12, 11):
        found = decode_frames(tmp_path / "a: video.mp4", [number], short_side=24)
        np.testing.assert_array_equal(found[0], frames[number])


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    video, _ = transcode(written(moving_square(73), fps=30), Profile())
    fed: list[int] = []

    def disposable(packet: Any, prefix_bytes: int) -> bool:
        thrown = is_disposable(packet, prefix_bytes)
        fed.append(not thrown)
        return thrown

    monkeypatch.setattr("clipmill.video.read.is_disposable", disposable)
    decode_frames(video, [36, 42, 48, 54])
    # From the key frame at 30: one reference of 30 that was not asked for, no disposable one.
    assert sum(fed) == 1
    assert len(fed) > 10


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("rate", [4.0, 10.0, 30.0, 59.94])
def test_a_rate_shows_what_is_on_screen_at_each_tick(container: str, rate: float) -> None:
    gaps = np.random.default_rng(3).integers(7, 180, 24)
    stamps = np.concatenate([[0], np.cumsum(gaps)]).tolist()
    video = written(moving_square(25), stamps=stamps, container=container)
    frames, seconds = all_frames(video, (48, 64))
    info = probe(video)
    assert info.variable_rate
    ticks = np.arange(grid_frames(info, rate))
    shown = [np.flatnonzero(np.array(seconds) <= tick / rate + 0.001)[-1] for tick in ticks]
    np.testing.assert_array_equal(decode_frames(video, ticks, rate=rate), frames[shown])
    with pytest.raises(VideoError, match=f"frame {len(ticks)} at"):
        decode_frames(video, [len(ticks)], rate=rate)


def test_millisecond_stamps_neither_double_nor_drop_a_frame() -> None:
    video = written(moving_square(60), container="matroska", fps=30)
    frames, _ = all_frames(video, (48, 64))
    assert not probe(video).variable_rate
    np.testing.assert_array_equal(decode_frames(video, range(60), rate=30.0), frames)


def test_crop_is_a_part_of_the_scaled_picture(streams: dict[str, tuple[bytes, Frames]]) -> None:
    video, frames = streams["no b-frames"]
    found = decode_frames(video, [5], short_side=24, crop=(4, 6, 16, 20))
    np.testing.assert_array_equal(found[0], frames[5, 4:20, 6:26])
    with pytest.raises(UsageError, match="crop"):
        decode_frames(video, [5], short_side=24, crop=(10, 0, 16, 20))


@pytest.mark.parametrize("numbers", [[], [-1], [0.5], [[1]]])
def test_numbers_that_are_none_are_refused(
    numbers: Any, streams: dict[str, tuple[bytes, Frames]]
) -> None:
    with pytest.raises(UsageError):
        decode_frames(streams["ladder"][0], numbers)


@pytest.mark.parametrize("kind", ["ladder", "avi"])
def test_a_number_past_the_end_is_an_error(
    kind: str, streams: dict[str, tuple[bytes, Frames]]
) -> None:
    with pytest.raises(VideoError, match=f"frame {COUNT}; wanted a number below {COUNT}"):
        decode_frames(streams[kind][0], [3, COUNT])


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4000))
def test_scaling_gives_the_short_side_and_keeps_the_shape(
    height: int, width: int, side: int
) -> None:
    new = scaled_size(height, width, side)
    assert min(new) == side
    assert scaled_size(width, height, side) == new[::-1]
    assert abs(max(new) - max(height, width) * side / min(height, width)) <= 0.5
    assert scaled_size(height, width, None) == (height, width)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_video_is_seen_upright(rotation: int) -> None:
    upright = moving_square(4)
    lying = np.ascontiguousarray(np.rot90(upright, rotation // 90, axes=(1, 2)))
    video = written(lying, rotation=rotation, options={"crf": "1"})
    info = probe(video)
    assert (info.rotation, info.height, info.width) == (rotation, 48, 64)
    assert (info.coded_height, info.coded_width) == lying.shape[1:3]
    assert np.abs(decode_frames(video, range(4)).astype(int) - upright).mean() < 6
    stored, told = transcode(video, Profile(rate=25.0, crf=1))
    assert (told.height, told.width, probe(stored).rotation) == (48, 64, 0)
    assert np.abs(decode_frames(stored, range(4)).astype(int) - upright).mean() < 6


# --- what is in a file


@pytest.mark.parametrize("kind", STREAMS)
def test_packets_and_decoding_agree_on_whole_files(
    kind: str, streams: dict[str, tuple[bytes, Frames]]
) -> None:
    video, _ = streams[kind]
    cheap, sure = probe(video), probe(video, decode=True)
    assert (sure.frames, sure.frames_from, cheap.frames_from) == (COUNT, "decode", "packets")
    assert cheap.frames == COUNT
    assert cheap.duration_seconds == pytest.approx(1.6, abs=0.05)
    assert sure.duration_seconds == pytest.approx(1.6, abs=0.05)
    assert sure.faults == ()


def test_probe_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(with_sound(moving_square(25), np.zeros(16_000, np.float32)))
    info = probe(tmp_path / "a.mp4")
    assert probe(str(tmp_path / "a.mp4")) == info == probe((tmp_path / "a.mp4").read_bytes())
    assert (info.codec, info.width, info.height, info.frames) == ("h264", 64, 48, 25)
    assert (info.fps, info.duration_seconds, info.variable_rate) == (25.0, 1.0, False)
    assert (info.audio_rate, info.audio_channels, info.audio_streams) == (16_000, 1, 1)
    assert (info.video_streams, info.interlaced, info.pixel_format) == (1, False, "yuv420p")


def test_wide_pixels_are_made_square() -> None:
    video = written(moving_square(3), aspect=Fraction(3, 2))
    info = probe(video)
    assert (info.pixel_aspect, info.width, info.coded_width) == (1.5, 96, 64)
    assert decode_frames(video, [0]).shape == (1, 48, 96, 3)
    stored, told = transcode(video, Profile())
    assert (told.width, told.height, probe(stored).pixel_aspect) == (96, 48, 1.0)


@pytest.mark.parametrize("container", ["matroska", "flv", "mp4", "mpegts"])
@pytest.mark.parametrize("fps", [Fraction(24_000, 1001), Fraction(60_000, 1001), Fraction(240)])
def test_rounded_stamps_make_no_variable_rate(container: str, fps: Fraction) -> None:
    film = written(moving_square(60), container=container, fps=fps)
    for info in (probe(film), probe(film, decode=True)):
        assert not info.variable_rate
        assert info.fps == pytest.approx(float(fps), rel=0.003)


@pytest.mark.parametrize(
    ("gaps", "tick", "variable"),
    [
        ([42, 42, 41] * 300, 1, False),
        ([53] + [42, 42, 41] * 300, 1, False),  # one hiccup in a film
        ([42, 42, 41, 60] * 300, 1, True),
        ([42] * 900 + [60_000], 1, True),  # a picture that stands still for long
        ([1, 1, 1, 2] * 10, 40, True),  # a tick is a frame: nothing is rounded
        ([1] * 40, 40, False),
        ([4, 4, 5] * 40, 1, False),
        ([33, 34, 20], 1, True),
        ([10, 100], 1, True),
        ([40], 1, False),
    ],
)
def test_a_rate_is_variable_by_more_than_rounding(
    gaps: list[int], tick: int, variable: bool
) -> None:
    seconds = np.cumsum([0, *gaps]) * tick / 1000
    assert is_variable(seconds, Fraction(tick, 1000)) is variable


def test_all_stamps_at_once_are_stamps_one_by_one() -> None:
    for stamps in ([7, 90, 130, 131], [0, 5, 3, 9], [0, None, 80], [4], [], [0, 90_000_000]):
        one, all_at_once = (clock_for(Fraction(1, 1001), Fraction(25)) for _ in range(2))
        pairs = [(stamp, 40) for stamp in stamps]
        seconds = all_at_once.all_seconds(pairs)
        np.testing.assert_array_equal(seconds, [one.seconds(*pair) for pair in pairs])
        assert all_at_once.end_seconds() == one.end_seconds()


@pytest.mark.parametrize("decode", [False, True])
def test_probe_tells_of_hidden_pictures_and_late_starts(decode: bool) -> None:
    cut = io.BytesIO()
    source = written(moving_square(40), options={**ONE_KEY_IN_12, "bf": "0"})
    with av.open(io.BytesIO(source)) as old, av.open(cut, "w", format="mp4") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - 512 * 5, packet.dts - 512 * 5
                packet.stream = stream
                new.mux(packet)  # five pictures before zero, told by an edit list
    info = probe(cut.getvalue(), decode=decode)
    assert (info.frames, info.edit_list, info.start_offset_seconds) == (35, True, 0.0)
    assert not probe(source, decode=decode).edit_list
    late = written(moving_square(4), container="matroska", stamps=[500, 540, 580, 620])
    assert probe(late, decode=decode).start_offset_seconds == 0.5


def test_probe_lists_all_streams() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        film = out.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p10le"
        sound = out.add_stream("aac", rate=16_000, layout="mono")
        sound.metadata["language"] = "ger"
        out.add_stream("flac", rate=8_000, layout="stereo")
        out.add_attachment("a.ttf", "font/ttf", b"letters")
        out.add_attachment("cover.png", "image/png", png(32))
        for number, each in enumerate(moving_square(5)):
            frame = av.VideoFrame.from_ndarray(each, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(film.encode(frame))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 16_000, 0
        out.mux([*film.encode(None), *sound.encode(silence), *sound.encode(None)])
    info = probe(target.getvalue())
    assert (info.bit_depth, info.video_streams, info.audio_streams) == (10, 1, 2)
    assert (info.cover_pictures, info.subtitle_streams, info.data_streams) == (1, 0, 1)
    kinds = [each["kind"] for each in info.streams]
    assert kinds == ["video", "audio", "audio", "attachment", "cover"]
    first, second, third = info.streams[:3]
    assert (first["codec"], first["width"], first["height"]) == ("h264", 64, 48)
    assert (second["codec"], second["rate"], second["language"]) == ("aac", 16_000, "ger")
    assert (third["codec"], third["rate"], third["channels"]) == ("flac", 8_000, 2)
    assert all(isinstance(each["default"], bool) for each in info.streams)


def png(side: int) -> bytes:
    context = av.CodecContext.create("png", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width = context.height = side
    context.pix_fmt, context.time_base = "rgb24", Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), "rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])


def test_counts_of_headers_are_not_believed() -> None:
    matroska = written(moving_square(68), container="matroska", options={"bf": "0"})
    cut = matroska[: len(matroska) // 2]  # whose header still tells the whole duration
    for decode in (False, True):
        info = probe(cut, decode=decode)
        assert 10 < info.frames < 60
        assert info.duration_seconds == pytest.approx(info.frames / 25, abs=0.05)


def sound_only(cover: bool) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska" if not cover else "mp4") as out:
        sound = out.add_stream("aac", rate=16_000, layout="mono")
        picture = None
        if cover:
            picture = out.add_stream("mjpeg", rate=1, options={"strict": "unofficial"})
            picture.width = picture.height = 64
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16_000, 0
        if picture is not None:
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            out.mux([*picture.encode(image), *picture.encode(None)])
        out.mux([*sound.encode(frame), *sound.encode(None)])
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"frame 1, frame 2, and so on\n" * 50, "Invalid data"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "Invalid|whitelist|m3u8"),
        (sound_only(cover=False), "only sound"),
        (sound_only(cover=True), "only sound"),
    ],
    ids=["empty", "text", "playlist", "sound", "cover picture"],
)
def test_what_is_no_video_is_told_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    for source in (path, content):
        for read in (probe, lambda s: decode_frames(s, [0]), lambda s: transcode(s, Profile())):
            with pytest.raises(VideoError, match=told) as caught:
                read(source)
            assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="a folder"):
        probe(tmp_path)


def test_no_decodable_frame_is_told() -> None:
    video = bytearray(written(moving_square(8)))
    start = video.index(b"mdat") + 4
    end = video.index(b"moov") - 4
    video[start:end] = b"\x00\x00\x00\x02\xff\xff" * ((end - start) // 6) + b"\0" * (
        (end - start) % 6
    )
    for read in (probe, lambda v: transcode(v, Profile())):
        with pytest.raises(VideoError, match="not one frame decodes"):
            read(bytes(video))


# --- damage


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["b-frames, open", "matroska", "avi", "transport stream", "vp9"]),
    cut=st.floats(0.02, 1.0),
    rotten=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=20),
)
def test_damage_is_an_error_or_an_answer_but_nothing_else(
    kind: str,
    cut: float,
    rotten: list[tuple[float, int]],
    streams: dict[str, tuple[bytes, Frames]],
) -> None:
    video = bytearray(streams[kind][0])
    for place, flip in rotten:
        video[int(place * (len(video) - 1))] ^= flip
    damaged = bytes(video[: max(1, int(cut * len(video)))])
    for read in (
        lambda: probe(damaged, decode=True),
        lambda: decode_frames(damaged, [0, 13, 30], short_side=24),
        lambda: transcode(damaged, Profile(rate=5.0)),
        lambda: transcode(damaged, Profile("raw", rate=5.0), start_seconds=0.4, end_seconds=1.1),
        lambda: transcode(damaged, Profile("keep")),
        lambda: index_of(damaged),
        lambda: decode_audio(damaged, 0.0, 0.5),
    ):
        with suppress(VideoError):
            read()


def test_a_video_that_breaks_off_is_told_or_kept_as_far_as_it_goes() -> None:
    whole = written(moving_square(COUNT), container="matroska", options=ONE_KEY_IN_12)
    broken = whole[: len(whole) * 2 // 3]
    info = probe(broken, decode=True)
    assert 10 < info.frames < COUNT
    with pytest.raises(VideoError, match="frame 39"):
        decode_frames(broken, [39])
    stored, told = transcode(broken, Profile(rate=25.0))
    assert told.frames == grid_frames(info, 25.0) == probe(stored, decode=True).frames


def test_rot_is_counted_and_told_without_addresses() -> None:
    video = bytearray(written(moving_square(COUNT), options={"g": "40", "crf": "10"}))
    middle = (video.index(b"mdat") + video.index(b"moov")) // 2
    video[middle : middle + 400] = bytes(range(200)) * 2
    rotten = bytes(video)
    info = probe(rotten, decode=True)
    assert info.faults
    assert probe(rotten, decode=True).faults == info.faults
    assert not any("0x" in fault for fault in info.faults)
    _, told = transcode(rotten, Profile())
    assert told.faults == info.faults


def test_a_frame_that_does_not_decode_is_named() -> None:
    video = written(moving_square(COUNT), options={**ONE_KEY_IN_12, "bf": "0"})
    with av.open(io.BytesIO(video)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    rotten = bytearray(video)
    at, size = packets[27]
    assert at is not None
    rotten[at : at + size] = b"\xff" * size
    with pytest.raises(VideoError, match="frame 27"):
        decode_frames(bytes(rotten), [30])
    decode_frames(bytes(rotten), [20, 37])  # other key frames, other fortunes


# --- writing


def test_encoding_gives_the_same_bytes_and_the_same_pictures(tmp_path: Path) -> None:
    frames = moving_square(30)
    sound = np.sin(np.arange(16_000) / 9).astype(np.float32) / 4
    first = with_sound(frames, sound, fps=30)
    assert first == with_sound(frames, sound, fps=30)
    encode(tmp_path / "a.mp4", iter(frames), fps=30, audio=sound)
    assert (tmp_path / "a.mp4").read_bytes() == first
    info = probe(first, decode=True)
    assert (info.frames, info.fps, info.audio_rate) == (30, 30.0, 16_000)
    assert np.abs(decode_frames(first, range(30)).astype(int) - frames).mean() < 8


@pytest.mark.parametrize("instructions", ["0", "sse2", "avx2"])
def test_encoding_gives_the_same_bytes_whatever_a_processor_can(instructions: str) -> None:
    def written(*more: str) -> bytes:
        file, usual = io.BytesIO(), Profile().x264()
        told = ":".join([usual["x264-params"], *more])
        encode(file, moving(3, 2), fps=30, x264={**usual, "x264-params": told})
        return file.getvalue()

    assert written(f"asm={instructions}") == written()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 48, 64, 3), np.uint8),
        np.zeros((2, 47, 64, 3), np.uint8),
        np.zeros((2, 48, 64, 3), np.float32),
        np.zeros((2, 48, 64), np.uint8),
    ],
    ids=["none", "odd", "float", "grey"],
)
def test_frames_that_cannot_be_written_are_refused(frames: Any) -> None:
    with pytest.raises(UsageError):
        encode(io.BytesIO(), frames, fps=25)


def test_writing_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file"):
        encode(tmp_path / "none" / "a.mp4", moving_square(1), fps=25)


# --- the training profile


def ladder_of(video: bytes) -> list[bool]:
    """Tell for each frame, in the order shown, whether it is disposable (nal_ref_idc is 0)."""
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        prefix_bytes = unit_prefix_bytes(stream)
        assert prefix_bytes
        packets = [p for p in container.demux(stream) if p.size]
        assert packets[0].is_keyframe
        told = sorted((p.pts or 0, is_disposable(p, prefix_bytes)) for p in packets)
    return [disposable for _, disposable in told]


@pytest.mark.parametrize("k", [1, 2, 6, 7])
def test_exactly_the_frames_between_the_rungs_are_disposable(k: int) -> None:
    video, told = transcode(written(moving_square(92), fps=30), Profile(k=k))
    disposable = ladder_of(video)
    assert len(disposable) == told.frames == 92
    # The last frame has nothing after it to lean on, so it is a reference wherever it falls.
    assert disposable[:-1] == [number % k != 0 for number in range(91)]


def test_a_ladder_reads_the_same_at_any_stride() -> None:
    video, told = transcode(written(moving_square(100)), Profile())
    frames, _ = all_frames(video, (told.height, told.width))
    for stride in (6, 12, 5):
        for start in (0, 1, 30, 33):
            numbers = range(start, told.frames, stride)
            np.testing.assert_array_equal(decode_frames(video, numbers), frames[list(numbers)])


def test_a_transcode_is_reproducible_small_and_ready_to_stream() -> None:
    source = with_sound(moving_square(50, 96, 128), np.zeros(32_000, np.float32))
    video, told = transcode(source, Profile(short_side=64))
    assert video == transcode(source, Profile(short_side=64))[0]
    assert (told.height, told.width, told.fps, told.duration_seconds) == (64, 84, 30.0, 2.0)
    assert video.index(b"moov") < video.index(b"mdat")
    info = probe(video, decode=True)
    assert (info.frames, info.width, info.audio_rate) == (60, 84, 16_000)
    assert told.has_audio and told.corrupt_frames == 0 and told.faults == ()
    assert transcode(source, Profile())[1].height == 96  # never larger than it was


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("rate", [30.0, 10.0])
def test_every_source_gives_the_frames_of_its_grid(
    kind: str, rate: float, streams: dict[str, tuple[bytes, Frames]]
) -> None:
    source, _ = streams[kind]
    video, told = transcode(source, Profile(rate=rate))
    info = probe(source, decode=True)
    assert told.frames == grid_frames(info, rate) == probe(video, decode=True).frames
    # The same grid on the source itself shows the same pictures, but for compression.
    ticks = range(told.frames)
    ours = decode_frames(video, ticks).astype(int)
    assert np.abs(ours - decode_frames(source, ticks, rate=rate)).mean() < 6


def test_each_stored_frame_knows_its_source_time() -> None:
    stamps = [0, 40, 500, 520, 540, 1000]
    _, told = transcode(written(moving_square(6), stamps=stamps), Profile(rate=10.0))
    expected = [0, 0.04, 0.04, 0.04, 0.04, 0.5, 0.54, 0.54, 0.54, 0.54, 1.0]
    np.testing.assert_allclose(told.source_times_seconds[:11], expected)
    assert told.source_times_seconds.dtype == np.float64
    assert told.frames == len(told.source_times_seconds)


def test_a_clock_that_stands_still_does_not_become_days_of_one_picture() -> None:
    slow = written(moving_square(6), stamps=[number * 500_000 for number in range(6)])
    with pytest.raises(VideoError, match="2 frames in 1000 s"):
        transcode(slow, Profile(rate=1.0))
    patient = written(moving_square(4), stamps=[0, 40, 300_000, 300_040])
    assert transcode(patient, Profile(rate=1.0))[1].frames == 301


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv422p", "yuv420p10le"])
def test_other_pixel_formats_become_8_bit_420(pixels: str) -> None:
    source = written(moving_square(5), pixels=pixels)
    assert probe(source).pixel_format == pixels
    video, _ = transcode(source, Profile(rate=25.0))
    assert probe(video).pixel_format == "yuv420p"
    ours, theirs = decode_frames(video, range(5)), decode_frames(source, range(5))
    assert np.abs(ours.astype(int) - theirs).mean() < 8


def test_full_range_colour_keeps_its_brightness() -> None:
    grey = np.full((4, 48, 64, 3), 235, np.uint8)
    source = written(grey, codec="mjpeg", container="matroska", pixels="yuvj420p")
    video, _ = transcode(source, Profile(rate=25.0))
    assert np.abs(decode_frames(source, [1]).astype(int) - 235).max() <= 2
    assert np.abs(decode_frames(video, [1]).astype(int) - 235).max() <= 3


def test_interlacing_is_removed() -> None:
    fields = moving_square(41)
    woven = fields[:-1:2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]
    source = written(woven, options={"x264-params": "tff=1", "crf": "1"})
    assert probe(source).interlaced
    video, told = transcode(source, Profile(rate=25.0, crf=1))
    assert told.frames == 20
    assert not probe(video, decode=True).interlaced

    def combing(frames: Frames) -> float:
        rows = frames.astype(int)
        return float(np.abs(2 * rows[:, 1:-1] - rows[:, :-2] - rows[:, 2:]).mean())

    assert combing(decode_frames(video, range(20))) < 0.7 * combing(woven)


@pytest.mark.parametrize(
    "field", [{"k": 0}, {"k": 18}, {"rate": 0.0}, {"crf": 60}, {"short_side": 2}]
)
def test_a_profile_that_cannot_be_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Profile(**field)


# --- sound


def click_at(second: float, seconds: float) -> NDArray[np.float32]:
    sound = np.zeros(round(seconds * 16_000), np.float32)
    at = round(second * 16_000)
    sound[at : at + 64] = 0.9
    return sound


def test_sound_is_where_it_belongs_before_and_after_transcoding() -> None:
    source = with_sound(moving_square(100), click_at(2.5, 4.0))
    stored, told = transcode(source, Profile())
    assert told.has_audio
    for video in (source, stored):
        heard = decode_audio(video, 2.0, 3.0)
        assert heard.shape == (16_000,) and heard.dtype == np.float32
        assert abs(int(np.abs(heard).argmax()) - 8_000) < 100
        late = decode_audio(video, 2.4, 2.6, rate=48_000)
        assert abs(int(np.abs(late).argmax()) - 4_800) < 300


def test_where_there_is_no_sound_there_are_zeros() -> None:
    source = with_sound(moving_square(25), np.full(16_000, 0.3, np.float32))
    assert decode_audio(source, 0.5, 2.5).shape == (32_000,)
    assert not decode_audio(source, 1.5, 2.0).any()
    assert not decode_audio(source, -1.0, -0.2).any()
    silent = written(moving_square(5))
    assert not decode_audio(silent, 0.0, 0.1).any()
    assert not transcode(silent, Profile())[1].has_audio
    with pytest.raises(UsageError):
        decode_audio(source, 2.0, 1.0)


def test_spans_of_sound_join_without_a_seam() -> None:
    source = with_sound(moving_square(100), np.sin(np.arange(64_000) / 11).astype(np.float32) / 3)
    whole = decode_audio(source, 0.0, 4.0)
    spans = [decode_audio(source, at / 2, (at + 1) / 2) for at in range(8)]
    np.testing.assert_allclose(np.concatenate(spans), whole, atol=1e-4)


# --- broken clocks


def test_clocks_are_mended() -> None:
    def times(stamps: Sequence[int | None]) -> list[float]:
        clock = clock_for(Fraction(1, 1000), Fraction(10))
        return [round(clock.seconds(stamp, 100), 3) for stamp in stamps]

    assert times([5, 105, 205]) == [0, 0.1, 0.2]
    assert times([None, None, None]) == [0, 0.1, 0.2]
    assert times([0, 100, 100, 300]) == [0, 0.1, 0.2, 0.3]
    assert times([0, 100, 95_443_717, 95_443_817]) == [0, 0.1, 0.2, 0.3]
    assert times([90_000, 90_100, 0, 100]) == [0, 0.1, 0.2, 0.3]

"""The packet index: the container's frames and sound bit for bit, from few bytes."""

import json
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import catalog
from clipmill.errors import DataError, UsageError, VideoError
from clipmill.video import (
    Profile,
    decode_audio,
    decode_audio_indexed,
    decode_frames,
    decode_indexed,
    index_of,
    transcode,
    unpacked,
)
from test_video import moving_square, with_sound, written

COUNT = 100


@pytest.fixture(scope="module")
def stored() -> dict[str, bytes]:
    frames = moving_square(COUNT)
    plain = {"g": "20", "bf": "3", "sc_threshold": "0"}
    return {
        "ladder": transcode(written(frames, fps=30), Profile())[0],
        "b-frames": written(frames, options=plain),
        "open-gop": written(frames, options={**plain, "x264-params": "open-gop=1:keyint=20"}),
        "intra": written(frames, options={"g": "1"}),
        "frames": transcode(written(frames, fps=30), Profile("frames"))[0],
        "raw": transcode(written(frames, fps=30), Profile("raw"))[0],
    }


@pytest.mark.parametrize("kind", ["ladder", "b-frames", "open-gop", "intra", "frames", "raw"])
@given(numbers=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_indexed_frames_are_those_of_the_container(
    kind: str, numbers: list[int], stored: dict[str, bytes]
) -> None:
    video = stored[kind]
    index = index_of(video)
    assert index is not None
    again = unpacked(index.packed())
    got = decode_indexed(again, lambda at, size: video[at : at + size], numbers, short_side=32)
    assert np.array_equal(got, decode_frames(video, numbers, short_side=32))


def test_on_the_ladder_only_what_is_shown_is_fed(stored: dict[str, bytes]) -> None:
    video, asked = stored["ladder"], []
    index = index_of(video)
    assert index is not None

    def read(at: int, size: int) -> bytes:
        asked.append((at, size))
        return video[at : at + size]

    decode_indexed(index, read, range(30, 60, 6))
    rungs = [packet for packet in range(COUNT) if not index.disposable[packet]]
    assert len(rungs) < COUNT / 4
    assert len(asked) == 1 and asked[0][1] < len(video) / 2


def test_the_index_keeps_the_times_of_the_source() -> None:
    video, made = transcode(written(moving_square(40), fps=12), Profile())
    index = index_of(video, made.source_times_seconds)
    assert index is not None
    assert np.array_equal(unpacked(index.packed()).scan.seconds, made.source_times_seconds)


@pytest.mark.parametrize(("codec", "container"), [("mpeg4", "mp4"), ("libvpx-vp9", "webm")])
def test_other_codecs_have_no_index(codec: str, container: str) -> None:
    assert index_of(written(moving_square(10), codec=codec, container=container)) is None


def test_a_turned_video_has_no_index() -> None:
    assert index_of(written(moving_square(10), rotation=90)) is None


def test_a_number_past_the_end_is_an_error(stored: dict[str, bytes]) -> None:
    index = index_of(stored["ladder"])
    assert index is not None
    with pytest.raises(VideoError, match="wanted a number below"):
        decode_indexed(index, lambda at, size: b"", [5000])


def test_bytes_that_are_no_packets_are_told(stored: dict[str, bytes]) -> None:
    index = index_of(stored["ladder"])
    assert index is not None
    with pytest.raises(VideoError):
        decode_indexed(index, lambda at, size: b"\xff" * size, [50])


# --- sound


@pytest.fixture(scope="module")
def heard() -> bytes:
    chance = np.random.default_rng(2)
    sound = chance.normal(0, 0.2, 80_000).astype(np.float32)
    return transcode(with_sound(moving_square(150), sound), Profile())[0]


@given(
    start=st.floats(-0.5, 6.5),
    seconds=st.floats(0, 2),
    rate=st.sampled_from([16_000, 8_000, 22_050, 48_000]),
)
@settings(max_examples=60, deadline=None)
def test_indexed_sound_is_that_of_the_container(
    start: float, seconds: float, rate: int, heard: bytes
) -> None:
    index = index_of(heard)
    assert index is not None
    again, asked = unpacked(index.packed()), list[int]()

    def read(at: int, size: int) -> bytes:
        asked.append(size)
        return heard[at : at + size]

    got = decode_audio_indexed(again, read, start, start + seconds, rate)
    assert got is not None and got.dtype == np.float32
    np.testing.assert_array_equal(got, decode_audio(heard, start, start + seconds, rate))
    # One read: the span with its run-up, and the pictures that lie between.
    assert len(asked) <= 1 and sum(asked) <= len(heard) * (seconds + 2.5) / 6


def test_where_there_is_no_sound_the_index_says_so(stored: dict[str, bytes]) -> None:
    index = index_of(stored["ladder"])
    assert index is not None and index.sound is None
    assert decode_audio_indexed(unpacked(index.packed()), no_bytes, 0.0, 1.0) is None
    with pytest.raises(UsageError):
        decode_audio_indexed(index, no_bytes, 1.0, 0.0)


def no_bytes(at: int, size: int) -> bytes:
    raise AssertionError("nothing is to be read")


def test_an_index_of_the_version_before_is_read(heard: bytes) -> None:
    index = index_of(heard)
    assert index is not None
    packed = index.packed()
    line, _, body = zlib.decompress(packed[packed.index(b"\n") + 1 :]).partition(b"\n")
    head = json.loads(line)
    for name in ("codec", "pixels", "sound"):
        del head[name]
    head["arrays"] = [each for each in head["arrays"] if not each[0].startswith("sound")]
    old = b"clipmill index 1\n" + zlib.compress(json.dumps(head).encode() + b"\n" + body)
    again = unpacked(old)
    assert (again.codec, again.sound) == ("h264", None)
    found = decode_indexed(again, lambda at, size: heard[at : at + size], [40, 7])
    np.testing.assert_array_equal(found, decode_frames(heard, [40, 7]))


@pytest.mark.parametrize("damage", [b"", b"nothing", b"clipmill index 1\nrest"])
def test_what_is_no_index_is_told(damage: bytes) -> None:
    with pytest.raises(DataError, match="packet index cannot be read"):
        unpacked(damage)


def test_records_are_read_by_their_index(dataset: str) -> None:
    data = catalog.load(dataset)
    for place in range(3):
        row = data.row(place)
        assert [member["suffix"] for member in row["members"]] == ["idx", "json", "mp4"]
        index, read = unpacked(data.read(row, "idx")), partial(data.read_part, row, None)
        numbers = np.array([0, 7, row["frames"] - 1])
        one = decode_indexed(index, read, numbers, short_side=40, crop=(2, 3, 32, 32))
        two = decode_frames(data.read(row), numbers, short_side=40, crop=(2, 3, 32, 32))
        assert np.array_equal(one, two)

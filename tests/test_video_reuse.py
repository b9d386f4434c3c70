"""Decoders kept from clip to clip, the caller's memory, and what is read and fed for a clip."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from av.packet import Packet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipmill.errors import UsageError, VideoError
from clipmill.video import (
    PacketIndex,
    Profile,
    decode_frames,
    decode_indexed,
    decoders,
    encode,
    index_of,
    indexed,
    rgb,
    transcode,
)
from test_video import ONE_KEY_IN_12, all_frames, moving_square, written

Frames = NDArray[np.uint8]
COUNT, SMALL = 75, (24, 32)


def reader(video: bytes, asked: list[tuple[int, int]] | None = None) -> indexed.ReadRange:
    def read(at: int, size: int) -> bytes:
        if asked is not None:
            asked.append((at, size))
        return video[at : at + size]

    return read


def forget() -> None:
    """Let this thread begin anew."""
    decoders._kept.decoders.clear()
    rgb._kept.scalers.clear()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the decoders that are made."""
    names: list[str] = []

    def counted(index: PacketIndex) -> Any:
        names.append(index.codec)
        return decoders.new_decoder(index)

    monkeypatch.setattr(indexed, "new_decoder", counted)
    forget()
    return names


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the bytes of each packet that a decoder is fed."""
    sizes: list[int] = []

    def counted(data: Any) -> Any:
        sizes.append(len(data))
        return Packet(data)

    monkeypatch.setattr(indexed, "Packet", counted)
    return sizes


@pytest.fixture(scope="module")
def stored() -> dict[str, bytes]:
    one, two = moving_square(COUNT), moving_square(COUNT)[::-1].copy()
    plain = {**ONE_KEY_IN_12, "bf": "3"}
    return {
        "ladder": transcode(written(one, fps=30), Profile())[0],
        "ladder backwards": transcode(written(two, fps=30), Profile())[0],
        "b-frames": written(one, options=plain),
        "b-frames backwards": written(two, options=plain),
        "open-gop": written(one, options={**plain, "x264-params": "open-gop=1"}),
        "one key": written(one, options={"g": "250", "bf": "3", "sc_threshold": "0"}),
        "wide": written(moving_square(COUNT, 48, 96), options=plain),
        "frames": transcode(written(one, fps=30), Profile("frames"))[0],
        "raw": transcode(written(one, fps=30), Profile("raw"))[0],
    }


@pytest.fixture(scope="module")
def indexes(stored: dict[str, bytes]) -> dict[str, PacketIndex]:
    found = {name: index_of(video) for name, video in stored.items()}
    return {name: index for name, index in found.items() if index is not None}


@pytest.fixture(scope="module")
def whole(stored: dict[str, bytes]) -> dict[str, Frames]:
    """Every frame, decoded in order by the codec library alone."""
    sizes = {"wide": (24, 48)}
    return {
        name: all_frames(video, sizes.get(name, SMALL))[0] for name, video in stored.items()
        if name not in ("frames", "raw")  # which are no yuv, or are scaled as another kind
    }  # fmt: skip


# --- decoders kept


CLIPS = st.tuples(
    st.sampled_from("ladder,ladder backwards,b-frames,b-frames backwards,open-gop,one key,wide".split(",")),
    st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=10),
)  # fmt: skip


@given(clips=st.lists(CLIPS, min_size=2, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_clips_one_after_the_other_are_those_of_a_full_decode(
    clips: list[tuple[str, list[int]]],
    stored: dict[str, bytes],
    indexes: dict[str, PacketIndex],
    whole: dict[str, Frames],
) -> None:
    for name, numbers in clips:
        got = decode_indexed(indexes[name], reader(stored[name]), numbers, short_side=24)
        np.testing.assert_array_equal(got, whole[name][numbers])


@pytest.mark.parametrize("name", ["ladder", "b-frames", "frames", "raw"])
def test_a_decoder_serves_many_clips(
    name: str, made: list[str], stored: dict[str, bytes], indexes: dict[str, PacketIndex]
) -> None:
    for first in (0, 30, 7, 50):
        numbers = range(first, first + 20, 4)
        got = decode_indexed(indexes[name], reader(stored[name]), numbers, short_side=24)
        wanted = decode_frames(stored[name], numbers, short_side=24)
        np.testing.assert_array_equal(got, wanted)
    assert len(made) == 1


def test_no_more_decoders_are_kept_than_are_worth_it(made: list[str]) -> None:
    sizes = [(48, 64 + 16 * more) for more in range(decoders.MOST_KEPT + 2)]
    videos = [written(moving_square(3, *size)) for size in sizes]
    for video in [*videos, *videos[-decoders.MOST_KEPT :]]:
        index = index_of(video)
        assert index is not None
        np.testing.assert_array_equal(
            decode_indexed(index, reader(video), [2]), decode_frames(video, [2])
        )
    assert len(made) == len(sizes)
    assert len(decoders._kept.decoders) == decoders.MOST_KEPT


def spoiled(video: bytes, index: PacketIndex, packet: int, chance: np.random.Generator) -> bytes:
    """Flip bits within one packet, behind its header."""
    data, at = bytearray(video), int(index.offset[packet])
    for place in chance.integers(at + 6, at + int(index.size[packet]), 6):
        data[place] ^= 1 << int(chance.integers(8))
    return bytes(data)


def outcome(index: PacketIndex, video: bytes, numbers: list[int]) -> tuple[str, bytes]:
    try:
        return "", decode_indexed(index, reader(video), numbers, short_side=24).tobytes()
    except VideoError as error:
        return str(error), b""


@pytest.mark.parametrize("name", ["ladder", "b-frames", "one key", "frames"])
def test_a_damaged_clip_leaves_no_trace_in_the_next(
    name: str, stored: dict[str, bytes], indexes: dict[str, PacketIndex]
) -> None:
    chance, numbers, index = np.random.default_rng(4), [3, 20, 21, 44, 60], indexes[name]
    forget()
    sound = outcome(index, stored[name], numbers)
    assert sound[1]
    kinds = set()
    for packet in chance.integers(0, len(index.size), 30).tolist():
        damaged = spoiled(stored[name], index, packet, chance)
        forget()
        of_a_new_decoder = outcome(index, damaged, numbers)
        assert outcome(index, stored[name], numbers) == sound
        assert outcome(index, damaged, numbers) == of_a_new_decoder
        assert outcome(index, stored[name], numbers) == sound
        kinds.add("told" if of_a_new_decoder[0] else of_a_new_decoder == sound)
    assert len(kinds) > 1


def test_threads_have_decoders_of_their_own(
    stored: dict[str, bytes], indexes: dict[str, PacketIndex], whole: dict[str, Frames]
) -> None:
    def clip(first: int) -> bool:
        numbers = list(range(first, first + 30, 3))
        got = decode_indexed(
            indexes["b-frames"], reader(stored["b-frames"]), numbers, short_side=24
        )
        return np.array_equal(got, whole["b-frames"][numbers])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(clip, [first % 45 for first in range(0, 400, 7)]))


# --- the caller's memory


@pytest.fixture(params=["by the index", "by the container"])
def decode(
    request: pytest.FixtureRequest, stored: dict[str, bytes], indexes: dict[str, PacketIndex]
) -> Any:
    def by_index(name: str, numbers: list[int], **how: Any) -> Frames:
        return decode_indexed(indexes[name], reader(stored[name]), numbers, **how)

    def by_container(name: str, numbers: list[int], **how: Any) -> Frames:
        return decode_frames(stored[name], numbers, **how)

    return by_index if request.param == "by the index" else by_container


@pytest.mark.parametrize("name", ["ladder", "b-frames", "frames", "raw"])
@pytest.mark.parametrize("short_side", [None, 24, 60])
def test_a_clip_goes_into_its_slot_of_a_block(
    name: str, short_side: int | None, decode: Any
) -> None:
    how = {"short_side": short_side, "crop": (1, 4, 16, 20)}
    numbers = [9, 3, 3, 40, 9]
    block = np.full((3, 5, 16, 20, 3), 7, np.uint8)
    assert np.shares_memory(decode(name, numbers, **how, out=block[1]), block)
    np.testing.assert_array_equal(block[1], decode(name, numbers, **how))
    np.testing.assert_array_equal(block[1, 1], block[1, 2])
    assert (block[[0, 2]] == 7).all()
    wider = np.full((5, 2, 16, 24, 3), 7, np.uint8)  # a slot need not lie in one piece
    decode(name, numbers, **how, out=wider[:, 1, :, 2:22])
    np.testing.assert_array_equal(wider[:, 1, :, 2:22], block[1])
    assert (wider[:, 0] == 7).all() and (wider[:, :, :, [0, 1, 22, 23]] == 7).all()


def test_a_turned_video_goes_into_a_slot() -> None:
    video = written(moving_square(12), rotation=90)
    slot = np.zeros((2, 20, 16, 3), np.uint8)
    decode_frames(video, [2, 11], short_side=24, crop=(5, 3, 20, 16), out=slot)
    wanted = np.stack([np.rot90(frame, -1) for frame in all_frames(video, SMALL)[0][[2, 11]]])
    np.testing.assert_array_equal(slot, wanted[:, 5:25, 3:19])


def read_only() -> Frames:
    memory = np.zeros((2, 48, 64, 3), np.uint8)
    memory.flags.writeable = False
    return memory


@pytest.mark.parametrize(
    "out",
    [np.zeros((3, 48, 64, 3), np.uint8), np.zeros((2, 48, 64, 3), np.int8), read_only()],
    ids=["one too many", "signed", "read only"],
)
def test_memory_that_does_not_fit_is_refused(out: Any, decode: Any) -> None:
    with pytest.raises(UsageError, match="wanted writeable memory of uint8"):
        decode("ladder", [3, 4], out=out)


# --- what is read and fed


@pytest.mark.parametrize(
    ("stride", "first", "count"),
    [
        (6, 0, 22),  # all that is shown, and nothing else
        (6, 30, 17),
        (30, 0, 5),
        (60, 0, 3),
        (12, 0, 19),  # 11 are shown; references lean on those between, from a key frame on
    ],
)
def test_on_the_ladder_aligned_strides_feed_no_disposable_frame(
    stride: int, first: int, count: int, fed: list[int]
) -> None:
    video = transcode(written(moving_square(130), fps=30), Profile())[0]
    index = index_of(video)
    assert index is not None
    numbers = range(first, 130, stride)
    got = decode_indexed(index, reader(video), numbers)
    np.testing.assert_array_equal(got, decode_frames(video, numbers))
    assert len(fed) == count


def test_frames_off_the_ladder_cost_themselves_and_what_they_lean_on(
    fed: list[int], stored: dict[str, bytes], indexes: dict[str, PacketIndex]
) -> None:
    decode_indexed(indexes["ladder"], reader(stored["ladder"]), [9, 15, 21])
    assert len(fed) == 3 + 5  # references 0 to 24
    del fed[:]
    decode_indexed(indexes["frames"], reader(stored["frames"]), [9, 15, 21])
    assert len(fed) == 3


def test_what_lies_far_apart_is_read_apart(
    monkeypatch: pytest.MonkeyPatch, stored: dict[str, bytes], indexes: dict[str, PacketIndex]
) -> None:
    monkeypatch.setattr(indexed, "GAP_BYTES", 1000)
    for name in ("ladder", "b-frames", "raw"):
        video, index, asked = stored[name], indexes[name], list[tuple[int, int]]()
        got = decode_indexed(index, reader(video, asked), [2, 70])
        np.testing.assert_array_equal(got, decode_frames(video, [2, 70]))
        assert len(asked) >= 2
        assert sum(size for _, size in asked) < len(video) / 2
        for (at, size), (later, _) in pairwise(asked):
            assert later > at + size + 1000


def test_what_lies_together_is_read_at_once(
    stored: dict[str, bytes], indexes: dict[str, PacketIndex]
) -> None:
    asked: list[tuple[int, int]] = []
    decode_indexed(indexes["ladder"], reader(stored["ladder"], asked), range(0, 72, 6))
    assert len(asked) == 1
    with pytest.raises(VideoError, match="the file was cut"):
        decode_indexed(indexes["ladder"], reader(stored["ladder"][:900]), [60])


# --- memory that is lacking

LACKING = """
import resource, sys
from clipmill.errors import VideoError
from clipmill.video import probe, index_of, decode_indexed
video = open(sys.argv[1], "rb").read()
index = index_of(video)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (6 << 20),) * 2)
for read in (lambda: probe(video, decode=True),
             lambda: decode_indexed(index, lambda at, n: video[at:at + n], [1], short_side=16)):
    try:
        read()
    except VideoError as error:
        assert isinstance(error.__cause__, MemoryError)
        print(error)
"""


def test_a_lack_of_memory_is_told_as_what_it_is(tmp_path: Any) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the limit is Linux's")
    path = tmp_path / "large.mp4"
    encode(str(path), np.zeros((3, 2560, 2560, 3), np.uint8), fps=25)
    command = [sys.executable, "-c", LACKING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 2, done
    assert all("not enough memory to decode it" in line for line in told)

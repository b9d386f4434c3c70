"""Masks as numbers and as PNG, and the member that holds those of a record: nothing is ever mixed."""

import io
import zipfile
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.errors import DataError, VideoError
from clipmill.video import MaskMember, Masks, mask_fault, zipped_masks
from clipmill.video.kept_masks import MaskHead, mask_member
from clipmill.video.masks import VOID, Planes, PngReader, mask_png, nearest, picked

SIZE = (5, 9)


def planes(seed: int, size: tuple[int, int] = SIZE, things: int = 1 << 15) -> Planes:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 256, size, np.uint8)
    return Planes(classes, rng.integers(0, things, size).astype(np.int16))


def same(one: Planes, two: Planes) -> None:
    np.testing.assert_array_equal(one.classes, two.classes)
    np.testing.assert_array_equal(one.things, two.things)
    assert one.classes.dtype == np.dtype("u1") and one.things.dtype == np.dtype("i2")


# --- pictures


@pytest.mark.parametrize("things", [1, 200, 1 << 15])
def test_a_png_gives_its_numbers_back(things: int) -> None:
    read = PngReader()
    for seed in range(3):  # one reader reads them all
        made = planes(seed, things=things)
        same(read(mask_png(made)), made)
    seen = cv2.imdecode(np.frombuffer(mask_png(made), np.uint8), cv2.IMREAD_UNCHANGED)
    assert seen is not None and seen.dtype == np.uint8
    red = seen if things == 1 else seen[..., 2]  # anyone else reads the same
    np.testing.assert_array_equal(red, made.classes)


def png(pixels: Any, format: str) -> bytes:
    """A PNG by the codec library."""
    frame = av.VideoFrame.from_ndarray(pixels, format=format)
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, format
    encoder.time_base = Fraction(1)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def test_every_kind_of_picture_is_read_as_it_is_meant() -> None:
    numbers = np.arange(45, dtype=np.uint8).reshape(SIZE)
    palette = np.random.default_rng(0).integers(0, 256, (256, 4), np.uint8)
    palette[:, 0] = 255  # nothing is seen through
    read, nothing = PngReader(), np.zeros(SIZE, np.int16)
    same(read(png(numbers, "gray")), Planes(numbers, nothing))
    same(read(png((numbers, palette), "pal8")), Planes(numbers, nothing))
    long = np.array([[0, 7, 255, 26_000, 26_005, 65_535]], np.uint16)
    wanted = Planes(
        np.array([[0, 7, 255, 26, 26, VOID]], np.uint8), np.array([[0, 0, 0, 1, 6, 0]], np.int16)
    )
    same(read(png(long, "gray16be")), wanted)
    bits = np.array([[0, 255, 255, 0, 255, 0, 0, 0, 255, 255]], np.uint8)
    encoded, data = cv2.imencode(".png", bits, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert encoded and bytes(data)[24] == 1
    same(read(bytes(data)), Planes(bits // 255, np.zeros(bits.shape, np.int16)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"no png", "m is no PNG; wanted a whole PNG"),
        (mask_png(planes(1))[:60], "m cannot be read"),
        (png(np.full((2, 2), 999, np.uint16), "gray16be"), "the class 999"),
        (png(np.full((2, 2, 3), 255, np.uint8), "rgb24"), "the thing 65535"),
        (png(np.full((2, 2, 3), 255, np.uint16), "rgb48be"), "m is of rgb48be pixels"),
    ],
)
def test_what_is_no_mask_is_told(data: bytes, told: str) -> None:
    with pytest.raises(VideoError, match=told):
        PngReader()(data, "m")


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_pixel_is_of_the_one_that_its_centre_lies_in(extent: int, wanted: int) -> None:
    at = picked(extent, wanted)
    centres = (np.arange(wanted) + 0.5) * extent / wanted
    assert ((at <= centres) & (centres <= at + 1)).all()
    if extent == wanted:
        assert at.tolist() == list(range(extent))
    mirrored = (extent - 1 - picked(extent, wanted))[::-1]
    on_edge = centres == np.rint(centres)
    assert (mirrored == at)[~on_edge].all(), "a mirror image is scaled to a mirror image"


def test_a_part_of_a_scaled_mask_is_cut_from_it() -> None:
    made = planes(3, (8, 12))
    whole = nearest(made, (11, 7))
    part = nearest(made, (11, 7), (2, 1, 5, 4))
    same(part, Planes(whole.classes[2:7, 1:5], whole.things[2:7, 1:5]))
    same(nearest(made, (8, 12)), made)


# --- the member


def masks(firsts: list[int]) -> list[tuple[int, Planes]]:
    return [(first, planes(first, things=5)) for first in firsts]


def opened(data: bytes, reads: list[int] | None = None) -> MaskMember:
    def read(offset: int, length: int) -> bytes:
        if reads is not None:
            reads.append(length)
        return data[offset : offset + length]

    return MaskMember(read, len(data))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(1, 30), max_size=8), st.lists(st.integers(0, 30), min_size=1))
def test_a_frame_has_the_mask_that_began_last(later: set[int], numbers: list[int]) -> None:
    firsts = sorted({0, *later})
    seen = opened(mask_member(masks(firsts), MaskHead(31, *SIZE))).at(
        np.array(numbers), (4, 6), (1, 0, 3, 5)
    )
    assert seen.classes.shape == seen.instances.shape == (len(numbers), 3, 5)
    for place, number in enumerate(numbers):
        began = max(first for first in firsts if first <= number)
        wanted = nearest(planes(began, things=5), (4, 6), (1, 0, 3, 5))
        same(Planes(seen.classes[place], seen.instances[place]), wanted)


def test_a_member_is_a_zip_that_anyone_reads_and_equal_masks_are_kept_once() -> None:
    one, two = planes(1, things=9), planes(2, things=9)
    made = mask_member([(0, one), (2, one), (3, two), (5, one)], MaskHead(8, *SIZE))
    assert made == mask_member([(0, one), (3, two), (5, one)], MaskHead(8, *SIZE))
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.namelist() == ["000000.png", "000003.png", "000005.png"]
        assert archive.testzip() is None
        same(PngReader()(archive.read("000003.png")), two)
    assert mask_fault(made, frames=8, size=SIZE, classes=255, deep=True) == ""


def test_only_what_is_needed_of_a_long_member_is_read() -> None:
    size = (64, 64)
    many = [(first, planes(first, size)) for first in range(40)]
    data = mask_member(many, MaskHead(40, *size))
    reads: list[int] = []
    opened(data, reads).at(np.array([3, 4, 4]), size, (0, 0, *size))
    assert len(data) > 400_000 and len(reads) == 2 and sum(reads) < 80_000
    short = mask_member(masks([0, 1]), MaskHead(2, *SIZE))
    opened(short, reads := []).at(np.array([0, 1]), SIZE, (0, 0, *SIZE))
    assert len(reads) == 1


def test_a_damaged_member_is_told() -> None:
    made = mask_member(masks([0, 4, 9]), MaskHead(12, *SIZE))
    changed = bytearray(made)
    changed[60] ^= 1
    for data in (made[:-40], b"x" * 30, bytes(changed), zipped_masks(Masks(*map(np.stack, zip(*[planes(1)], strict=True))))):  # fmt: skip
        with pytest.raises(DataError, match="a mask member cannot be read"):
            opened(data).at(np.arange(12), SIZE, (0, 0, *SIZE))


def test_a_member_that_is_not_of_its_video_is_told() -> None:
    data = mask_member([(0, Planes(np.full(SIZE, 7, np.uint8), np.zeros(SIZE, np.int16)))], MaskHead(4, *SIZE))  # fmt: skip
    told = {"frames": 4, "size": SIZE, "classes": 7, "deep": False}
    assert mask_fault(data, **told) == ""  # type: ignore[arg-type]
    assert "of 4 frames of 9 x 5" in mask_fault(data, **{**told, "frames": 5})  # type: ignore[arg-type]
    assert "class 7 of 6 in frame 0" in mask_fault(data, **{**told, "classes": 6})  # type: ignore[arg-type]

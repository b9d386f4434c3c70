"""What a model looks at: over the border to a process of its own and back, and never believed."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipmill import plugin, video, viewing
from clipmill.errors import TooLongError, UsageError, VideoError
from clipmill.video.picture import jpeg
from clipmill.viewing import Bounds, Looks
from serving import walk

BOUNDS = Bounds()
FIELDS = {"width": 0.125, "size": 32, "resize": 36}


@pytest.fixture(scope="module")
def looks() -> Looks:
    made = plugin.make("c3d", {**FIELDS, "frames": 8})
    return Looks(made, ("a", "b"), video.Profile("training"), 0, 3)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return walk()


@pytest.fixture
def answer(looks: Looks, clip: bytes) -> tuple[dict[str, Any], list[bytes]]:
    return viewing.decode(viewing.request(looks, BOUNDS, "video"), [clip])


def test_what_comes_back_is_what_was_seen(
    looks: Looks, clip: bytes, answer: tuple[dict[str, Any], list[bytes]]
) -> None:
    here, there = viewing.looked_at(looks, clip), viewing.received(looks, BOUNDS, *answer)
    assert (here.told, here.clock, here.part) == (there.told, there.clock, there.part)
    pairs = list(zip(here.batches, there.batches, strict=True))
    assert [len(one["position"]) for one, _ in pairs] == [3, 1]
    for one, two in pairs:
        assert one.keys() == two.keys()
        for name in one:
            assert np.array_equal(one[name], two[name]), name


def test_spans_end_with_the_video_where_its_last_frame_stands(looks: Looks) -> None:
    long = plugin.make("c3d", {**FIELDS, "frames": 64})
    told = viewing.looked_at(replace(looks, plugin=long), walk()).told
    duration = told["input"]["duration_seconds"]
    assert [span["end_seconds"] for span in told["spans"]] == [pytest.approx(duration)] * 4


def test_a_video_of_which_nothing_is_looked_at_is_refused(looks: Looks, clip: bytes) -> None:
    class Blind(type(looks.plugin)):  # type: ignore[misc]
        def plan(self, *given: Any) -> Any:
            return super().plan(*given)[:0]

    with pytest.raises(VideoError, match="c3d looks at nothing"):
        viewing.looked_at(replace(looks, plugin=Blind(**looks.plugin.model_dump())), clip)


def test_looking_needs_no_torch() -> None:
    code = "import sys, clipmill.viewing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "change",
    [
        lambda plain, blobs: plain.pop("clock"),
        lambda plain, blobs: plain["clock"].update(frames=10**12),
        lambda plain, blobs: plain["clock"].update(fps=float("nan")),
        lambda plain, blobs: plain["input"].update(width=0),
        lambda plain, blobs: plain["batches"].pop(),
        lambda plain, blobs: plain["batches"][0][0].__setitem__(1, "O"),
        lambda plain, blobs: plain["batches"][0][0].__setitem__(1, "(1,"),
        lambda plain, blobs: plain["batches"][0][0].__setitem__(2, [1 << 40]),
        lambda plain, blobs: plain["batches"][0][0].__setitem__(2, [-1]),
        lambda plain, blobs: plain["batches"][0][0].__setitem__(3, 1 << 50),
        lambda plain, blobs: plain.update(batches=[part[:1] for part in plain["batches"]]),
        lambda plain, blobs: plain.update(batches="none"),
        lambda plain, blobs: blobs.__setitem__(0, b""),
        lambda plain, blobs: blobs.pop(),
    ],
)
def test_an_answer_that_lies_is_refused(
    looks: Looks, answer: tuple[dict[str, Any], list[bytes]], change: Any
) -> None:
    plain, blobs = answer
    change(plain, blobs)
    with pytest.raises(VideoError, match="no answer"):
        viewing.received(looks, BOUNDS, plain, blobs)


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        (replace(BOUNDS, seconds=1.5), "a video of 2 s; wanted at most 1.5 s"),
        (replace(BOUNDS, frames=20), "frames; wanted at most 20"),
        (replace(BOUNDS, decoded_bytes=1000), "to look at"),
    ],
)
def test_what_is_too_long_is_refused(looks: Looks, clip: bytes, bounds: Bounds, told: str) -> None:
    with pytest.raises(TooLongError, match=told):
        viewing.decode(viewing.request(looks, bounds, "video"), [clip])


def test_pictures_are_for_models_of_single_frames(looks: Looks) -> None:
    picture = jpeg(np.full((40, 60, 3), 128, np.uint8))
    with pytest.raises(UsageError, match="looks at more"):
        viewing.stills(looks, [picture])
    still = replace(looks, plugin=plugin.make("single_frame", FIELDS))
    asked = viewing.stills(still, [picture])
    batch = next(iter(asked.batches))
    assert batch["rgb"].shape[2:] == (32, 32, 3) and abs(int(batch["rgb"].mean()) - 128) < 3
    assert asked.told["input"]["frames"] == 1

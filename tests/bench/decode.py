"""Clips out of stored video: the ladder against its original, and against plain PyAV.

A clip is 16 frames at 5 a second, short side 128, centre crop 112, from a random place of a
1280x720 film at 30 a second. One process, all bytes in memory. The films are synthetic, so the
ratios hold for this kind of picture: clouds under a drifting camera,
moving discs, grain.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from clipmill import video
from row import Row, cpu_seconds_in_turns, ratio

WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 8
FILMS, CLIPS_A_FILM = 2, 8
CLIP_FRAMES, STRIDE = 16, 6
SHORT_SIDE, LONG_SIDE, CROP = 128, 228, 112
TOP, LEFT = (SHORT_SIDE - CROP) // 2, (LONG_SIDE - CROP) // 2
GRAIN = 4.0  # brings the original to some 230 kB a second
LEAST_PSNR = 24.0  # another scaler explains so much, another frame does not

Frames = NDArray[np.uint8]
Decode = Callable[[bytes, Sequence[int]], Frames]
Clip = tuple[int, Sequence[int]]  # which film, which frames


def measure(rounds: int) -> list[Row]:
    """Return how many times faster the ladder is than its original and than plain PyAV."""
    originals = [ordinary_h264(film(seed)) for seed in range(FILMS)]
    ladders = [video.transcode(original, video.Profile())[0] for original in originals]
    indexes = [packed_index(ladder) for ladder in ladders]
    clips = list(random_clips())
    refuse_wrong_frames(ladders, clips)
    refuse_wrong_frames(originals, clips[::4])

    def run(decode: Decode, stored: list[bytes]) -> None:
        for which, numbers in clips:
            decode(stored[which], numbers)

    def run_indexed() -> None:
        for which, numbers in clips:
            by_index(indexes[which], ladders[which], numbers)

    seconds = cpu_seconds_in_turns(
        {
            "ladder": run_indexed,
            "ladder by container": partial(run, ours, ladders),
            "original": partial(run, ours, originals),
            "every frame": partial(run, plain_every_frame, ladders),
            "sampled frames": partial(run, plain_sampled_frames, ladders),
        },
        rounds,
    )
    size = sum(map(len, originals)) / sum(map(len, ladders))
    return rows(seconds, len(clips), size)


def rows(seconds: dict[str, list[float]], clips: int, size_ratio: float) -> list[Row]:
    """Turn CPU seconds of the variants into figures."""
    rate = {name: clips / median(taken) for name, taken in seconds.items()}
    plain = {
        "PyAV, every frame to rgb": rate["every frame"],
        "PyAV, sampled frames to rgb": rate["sampled frames"],
    }
    return [
        Row("decode/ladder", rate["ladder"], "clips/cpu-s", rivals=plain),
        Row("decode/ladder by container", rate["ladder by container"], "clips/cpu-s"),
        Row("decode/original", rate["original"], "clips/cpu-s"),
        Row(
            "decode/ladder over original",
            ratio(seconds["original"], seconds["ladder"]),
            "x",
            against="decode_frames on the 720p H.264 it was made from",
            at_least=25,
        ),
        Row(
            "decode/ladder over plain PyAV",
            ratio(seconds["every frame"], seconds["ladder"]),
            "x",
            against="PyAV on the same bytes: every frame up to the last wanted, to rgb, then resize",
            at_least=5,
        ),
        Row("decode/original over ladder, bytes", size_ratio, "x"),
    ]


# --- the variants


def packed_index(stored: bytes) -> bytes:
    """The packet index as ingest keeps it beside a record."""
    index = video.index_of(stored)
    assert index is not None
    return index.packed()


def by_index(index: bytes, stored: bytes, numbers: Sequence[int]) -> Frames:
    """Decode as the feed does, reading the index too."""

    def read(at: int, size: int) -> bytes:
        return stored[at : at + size]

    return video.decode_indexed(
        video.unpacked(index), read, numbers, short_side=SHORT_SIDE, crop=(TOP, LEFT, CROP, CROP)
    )


def ours(stored: bytes, numbers: Sequence[int]) -> Frames:
    """Decode by the container, as for records without an index."""
    return video.decode_frames(stored, numbers, short_side=SHORT_SIDE, crop=(TOP, LEFT, CROP, CROP))


def plain_every_frame(stored: bytes, numbers: Sequence[int]) -> Frames:
    """Decode as in a tutorial, though no further than the last frame that is wanted."""
    last, pictures = max(numbers), []
    with av.open(io.BytesIO(stored)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            pictures.append(frame.to_ndarray(format="rgb24"))
            if number == last:
                break
    return np.stack([resized(pictures[number]) for number in numbers])


def plain_sampled_frames(stored: bytes, numbers: Sequence[int]) -> Frames:
    """Decode the same way, but convert only what is wanted."""
    wanted, pictures = set(numbers), []
    with av.open(io.BytesIO(stored)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                pictures.append(resized(frame.to_ndarray(format="rgb24")))
            if len(pictures) == len(wanted):
                break
    return np.stack(pictures)


def resized(picture: Frames) -> Frames:
    """Scale to the short side, cut out the centre."""
    small = cv2.resize(picture, (LONG_SIDE, SHORT_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)[TOP : TOP + CROP, LEFT : LEFT + CROP]


def refuse_wrong_frames(stored: list[bytes], clips: list[Clip]) -> None:
    """Stop where a variant returns other frames than the plain decoder: its speed is nothing."""
    for which, numbers in clips:
        wanted = plain_sampled_frames(stored[which], numbers).astype(float)
        error = np.mean((ours(stored[which], numbers) - wanted) ** 2, axis=(1, 2, 3))
        psnr = float(10 * np.log10(255**2 / error.max()))
        if psnr < LEAST_PSNR:
            raise SystemExit(f"film {which}, frames {list(numbers)}: wrong, {psnr:.1f} dB alike")


# --- the material


def random_clips() -> Iterator[Clip]:
    """Draw where the clips begin, on the ladder's steps, as the feed does."""
    rng = np.random.default_rng(0)
    latest = (RATE * SECONDS - STRIDE * (CLIP_FRAMES - 1) - 1) // STRIDE
    for which in range(FILMS):
        for first in rng.integers(0, latest + 1, CLIPS_A_FILM) * STRIDE:
            yield which, range(first, first + STRIDE * CLIP_FRAMES, STRIDE)


def film(seed: int) -> Iterator[Frames]:
    """Paint clouds under a camera that drifts, discs that cross them, and grain."""
    rng = np.random.default_rng(seed)
    scene = clouds(rng, HEIGHT + 400, WIDTH + 400)
    grain = rng.normal(0, GRAIN, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.int16)
    places, speeds = rng.uniform(0, (WIDTH, HEIGHT), (6, 2)), rng.uniform(-8, 8, (6, 2))
    colours = rng.integers(0, 256, (6, 3)).tolist()
    for number in range(RATE * SECONDS):
        left, top = 200 + 190 * np.sin(
            number / np.array((41, 29))
        )  # between pixels, as a real camera
        shift = np.array([[1, 0, -left], [0, 1, -top]])
        picture = cv2.warpAffine(scene, shift, (WIDTH, HEIGHT))
        for place, colour in zip(
            (places + number * speeds) % (WIDTH, HEIGHT), colours, strict=True
        ):
            cv2.circle(picture, [int(part) for part in place], 60, colour, -1)
        row, column = rng.integers(0, 64, 2)
        noisy = picture + grain[row : row + HEIGHT, column : column + WIDTH]
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, height: int, width: int) -> Frames:
    """Return a picture with detail at every scale, the coarse the strongest, little of it colour."""
    picture = np.full((height, width, 3), 128, np.float32)
    for octave in range(2, 10):
        coarse = rng.normal(0, 1, (2**octave, 2**octave, 1)) + rng.normal(
            0, 0.3, (2**octave, 2**octave, 3)
        )
        detail = cv2.resize(
            coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        picture += detail * 120 / octave**1.5
    return np.clip(picture, 0, 255).astype(np.uint8)


def ordinary_h264(pictures: Iterator[Frames]) -> bytes:
    """Encode as most films lie about: x264 as it comes, crf 23."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()

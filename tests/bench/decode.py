"""Clips out of stored video: ours, torchcodec and plain PyAV on the same bytes, all in memory.

A clip is 16 frames at 5 a second, short side 128, centre crop 112, from a random place of a film
at 30 a second. One process, one thread. The films are synthetic, so the ratios hold for this kind
of picture: clouds under a drifting camera, moving discs, grain.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from statistics import median

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import by_torchcodec
from clipmill import video
from row import Row, cpu_seconds_in_turns, ratio

WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 8
SMALL_WIDTH, SMALL_HEIGHT = 320, 240  # of the ordinary film, as the older datasets are
FILMS, CLIPS_A_FILM = 2, 8
CLIP_FRAMES, STRIDE = 16, 6
SHORT_SIDE, LONG_SIDE, CROP = 128, 228, 112
GRAIN = 4.0  # brings the original to some 230 kB a second
LEAST_PSNR = 24.0  # another scaler explains so much, another frame does not

Frames = NDArray[np.uint8]
Decode = Callable[[bytes, Sequence[int]], Frames]
Clip = tuple[int, Sequence[int]]  # which film, which frames
Seconds = Mapping[str, list[float]]


def measure(rounds: int) -> list[Row]:
    """Return our rates, and how many times those of the others and of the original they are."""
    originals = [ordinary_h264(film(seed)) for seed in range(FILMS)]
    ladders = [video.transcode(original, video.Profile())[0] for original in originals]
    small = [ordinary_h264(smaller(film(seed))) for seed in range(FILMS)]
    aligned, anywhere = list(random_clips(STRIDE)), list(random_clips(1))
    few = aligned[::4]  # of the originals, which take torchcodec long
    refuse_wrong_frames(ladders, aligned)
    refuse_wrong_frames(originals, few)
    refuse_wrong_frames(small, anywhere)
    variants: dict[str, Callable[[], object]] = {
        **the_ways("ladder", ladders, aligned),
        **the_ways("original", originals, few),
        **the_ways("ordinary", small, anywhere),
        "ladder, anywhere": partial(run, by_index, with_index(ladders), anywhere),
        "from original": partial(run, by_index, with_index(originals), aligned),
        "from original, anywhere": partial(run, by_index, with_index(originals), anywhere),
        "ladder, every frame": partial(run, plain_every_frame, ladders, aligned),
        "ladder, sampled frames": partial(run, plain_sampled_frames, ladders, aligned),
    }
    seconds = cpu_seconds_in_turns(variants, rounds)
    clips = {"ladder": len(aligned), "original": len(few), "ordinary": len(anywhere)}
    size = sum(map(len, originals)) / sum(map(len, ladders))
    return [*rates(seconds, clips), *ratios(seconds), bytes_row(size)]


def the_ways(what: str, stored: list[bytes], clips: list[Clip]) -> dict[str, Callable[[], object]]:
    """Return all ways to decode the clips of one kind of video."""
    return {
        f"{what}, by index": partial(run, by_index, with_index(stored), clips),
        f"{what}, by container": partial(run, ours, stored, clips),
        **{
            f"{what}, {name}": partial(run, partial(rival, decode), stored, clips)
            for name, decode in by_torchcodec.ways().items()
        },
    }


def rates(seconds: Seconds, clips: Mapping[str, int]) -> list[Row]:
    """Return clips a CPU second of each kind of video, with the others' rates beside ours."""
    made = []
    for what, count in clips.items():
        rate = {
            name.removeprefix(f"{what}, "): count / median(taken)
            for name, taken in seconds.items()
            if name.startswith(f"{what}, ")
        }
        made.append(Row(f"decode/{what}", rate.pop("by index"), "clips/cpu-s", rivals=rate))
    return made


def ratios(seconds: Seconds) -> list[Row]:
    """Return how many times faster we are than others, and the ladder than its original."""
    wanted = {"ladder": 1.5, "original": 1.6, "ordinary": 1.6}
    made = [against_torchcodec(seconds, what, least) for what, least in wanted.items()]
    decoder = "the same decoder on the 720p H.264 it was made from, the same clips"
    return [
        *(row for row in made if row),
        Row("decode/ladder over original",
            ratio(seconds["from original"], seconds["ladder, by index"]), "x",
            against=f"{decoder}, starts on the ladder", at_least=25),
        Row("decode/ladder over original, starts anywhere",
            ratio(seconds["from original, anywhere"], seconds["ladder, anywhere"]), "x",
            against=decoder),
        Row("decode/ladder over plain PyAV",
            ratio(seconds["ladder, every frame"], seconds["ladder, by index"]), "x",
            against="PyAV on the same bytes: every frame up to the last wanted, to rgb, then resize",
            at_least=5),
    ]  # fmt: skip


def against_torchcodec(seconds: Seconds, what: str, at_least: float) -> Row | None:
    """Return our lead over the best of torchcodec's ways."""
    theirs = [name for name in seconds if name.startswith(f"{what}, torchcodec")]
    if not theirs:
        return None
    best = min(theirs, key=lambda name: median(seconds[name]))
    lead = ratio(seconds[best], seconds[f"{what}, by index"])
    told = f"{best.removeprefix(f'{what}, ')}: the best of its ways, on the same bytes"
    return Row(f"decode/{what} over torchcodec", lead, "x", against=told, at_least=at_least)


def bytes_row(size_ratio: float) -> Row:
    """Return how many times the ladder's bytes the original has."""
    return Row("decode/original over ladder, bytes", size_ratio, "x")


# --- the variants


def run(decode: Callable[..., object], stored: Sequence[object], clips: list[Clip]) -> None:
    """Decode all clips, one after the other."""
    for which, numbers in clips:
        decode(stored[which], numbers)


def with_index(stored: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Put beside each video its packet index, as ingest keeps it."""
    return [(packed_index(each), each) for each in stored]


def packed_index(stored: bytes) -> bytes:
    """The packet index as ingest keeps it beside a record."""
    index = video.index_of(stored)
    assert index is not None
    return index.packed()


def by_index(indexed: tuple[bytes, bytes], numbers: Sequence[int]) -> Frames:
    """Decode as the feed does, reading the index too."""
    index, stored = video.unpacked(indexed[0]), indexed[1]

    def read(at: int, size: int) -> bytes:
        return stored[at : at + size]

    crop = centre(*scaled(index.height, index.width))
    return video.decode_indexed(index, read, numbers, short_side=SHORT_SIDE, crop=crop)


def ours(stored: bytes, numbers: Sequence[int]) -> Frames:
    """Decode by the container, as for records without an index."""
    crop = centre(*scaled(*size_of(stored)))
    return video.decode_frames(stored, numbers, short_side=SHORT_SIDE, crop=crop)


def rival(decode: by_torchcodec.Decode, stored: bytes, numbers: Sequence[int]) -> Frames:
    """Decode with one of torchcodec's ways."""
    return decode(stored, numbers, scaled(*size_of(stored)), CROP)


@cache
def size_of(stored: bytes) -> tuple[int, int]:
    """Return height and width, as the catalog tells them."""
    info = video.probe(stored)
    return info.height, info.width


def scaled(height: int, width: int) -> tuple[int, int]:
    """Return the size before the crop."""
    return video.scaled_size(height, width, SHORT_SIDE)


def centre(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the crop in the middle."""
    return (height - CROP) // 2, (width - CROP) // 2, CROP, CROP


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
    height, width = scaled(*picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    top, left, *_ = centre(height, width)
    return np.asarray(small, np.uint8)[top : top + CROP, left : left + CROP]


def refuse_wrong_frames(stored: list[bytes], clips: list[Clip]) -> None:
    """Stop where a variant returns other frames than the plain decoder: its speed is nothing."""
    ways: dict[str, Decode] = {name: partial(rival, way) for name, way in by_torchcodec.ways().items()}  # fmt: skip
    for which, numbers in clips:
        wanted = plain_sampled_frames(stored[which], numbers).astype(float)
        indexed = partial(by_index, (packed_index(stored[which]), stored[which]))
        found = {"by index": indexed(numbers), "by container": ours(stored[which], numbers)}
        found |= {name: decode(stored[which], numbers) for name, decode in ways.items()}
        for name, frames in found.items():
            error = np.mean((frames - wanted) ** 2, axis=(1, 2, 3))
            psnr = float(10 * np.log10(255**2 / error.max()))
            if psnr < LEAST_PSNR:
                told = f"film {which}, frames {list(numbers)}: wrong, {psnr:.1f} dB alike"
                raise SystemExit(f"{name}: {told}")


# --- the material


def random_clips(step: int) -> Iterator[Clip]:
    """Draw where the clips begin: at any frame (a step of 1) or on the ladder's steps."""
    rng = np.random.default_rng(0)
    latest = (RATE * SECONDS - STRIDE * (CLIP_FRAMES - 1) - 1) // step
    for which in range(FILMS):
        for first in rng.integers(0, latest + 1, CLIPS_A_FILM) * step:
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


def smaller(pictures: Iterator[Frames]) -> Iterator[Frames]:
    """Cut the middle to the shape of older films, and scale it down."""
    width = HEIGHT * SMALL_WIDTH // SMALL_HEIGHT
    left = (WIDTH - width) // 2
    for picture in pictures:
        part = np.ascontiguousarray(picture[:, left : left + width])
        small = cv2.resize(part, (SMALL_WIDTH, SMALL_HEIGHT), interpolation=cv2.INTER_AREA)
        yield np.asarray(small, np.uint8)


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
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()

"""Writes a world as a folder of videos: planned from the seed, rendered in parallel, resumable.

Every video appears whole under its name or not at all; world.json comes last and says that all
is there. The same seed gives the same bytes, whatever the number of processes.
"""

import csv
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait as wait_for_sentinel
from pathlib import Path
from queue import SimpleQueue
from zlib import crc32

import numpy as np

from clipmill.errors import SourceError, StorageError, UsageError
from clipmill.video import encode, zipped_masks
from clipmill.worlds.digits import SPLITS, Handwriting, handwriting
from clipmill.worlds.draw import AUDIO_RATE
from clipmill.worlds.kinds import WORLDS
from clipmill.worlds.scene import DIFFICULTIES, FPS, Attributes, Scene, World

Progress = Callable[[int, int], None]

FINISHED, UNFINISHED, TABLE = "world.json", "world.json.unfinished", "videos.csv"
VIDEOS_A_TASK = 8  # about a fifth of a second: Ctrl-C waits no longer
# Every frame alone at a fixed quantiser: no frame carries a trace of its neighbours, which a
# single-frame model could read a direction or an order from.
FRAME_BY_FRAME = {"qp": "28", "g": "1", "keyint_min": "1"}


@dataclass(frozen=True)
class Order:
    """What decides every byte of a world's videos."""

    name: str
    videos: int
    size: int
    seed: int
    difficulty: str
    format: int = 1  # of the pictures

    def world(self) -> World:
        """Give the world ordered."""
        return WORLDS[self.name]


@dataclass(frozen=True)
class Planned:
    """One video to make."""

    number: int
    split: str
    label: int
    path: str  # below the world's folder
    turn: int = 0  # how many videos of its label its split has before it

    def row(self, world: World, attributes: Attributes) -> dict[str, str | int | float]:
        """Give its row of the table."""
        label = world.classes[self.label] if has_class(world) else ""
        masks: dict[str, str | int | float] = {}
        if world.mask_classes:
            masks = {"masks": masks_of(self.path), "mask_classes": "|".join(world.mask_classes)}
        return {"path": self.path, "label": label, "split": self.split, **masks, **attributes}


def make(
    name: str,
    out: str | os.PathLike[str],
    *,
    videos: int = 1000,
    size: int = 64,
    seed: int = 0,
    difficulty: str = "default",
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Make a world in a folder; goes on where an interrupted one of the same order stopped."""
    order = _checked(name, videos, size, seed, difficulty)
    folder, began = Path(out), time.monotonic()
    if _is_finished(folder, order):
        return _summary(folder, order, made=0, seconds=0.0)
    _begin(folder, order)
    planned = plan(order)
    made = sum(not (folder / video.path).exists() for video in planned)
    rows = _rendered(order, folder, planned, workers or _cores(), progress or _silent)
    _finish(folder, order, planned, rows)
    return _summary(folder, order, made=made, seconds=time.monotonic() - began)


def plan(order: Order) -> list[Planned]:
    """Lay out a world's videos: splits of 70/15/15, labels in turn, each with its path."""
    world = order.world()
    planned: list[Planned] = []
    for split, count in split_sizes(order.videos).items():
        turns = Counter[int]()
        for _ in range(count):
            number = len(planned)
            label = number % max(1, len(world.classes))
            folder = f"{split}/{world.classes[label]}" if has_class(world) else split
            path = f"{folder}/{number:05d}.mp4"
            planned.append(Planned(number, split, label, path, turns[label]))
            turns[label] += 1
    return planned


def masks_of(path: str) -> str:
    """Where the masks of a video lie: beside it, in a zip of PNGs.

    So others need nothing but an unzip, a video and its masks are two files that come and go
    whole, and a world of thousands of videos is not hundreds of thousands of tiny files.
    """
    return path.removesuffix(".mp4") + ".masks.zip"


def has_class(world: World) -> bool:
    """Whether each of its videos has a class, as a whole."""
    return bool(world.classes) and not world.a_label_a_frame


def split_sizes(videos: int) -> dict[str, int]:
    """Part videos 70/15/15, at least one each."""
    held_out = {split: max(1, round(videos * SPLITS[split])) for split in ("val", "test")}
    return {"train": videos - sum(held_out.values()), **held_out}


def _checked(name: str, videos: int, size: int, seed: int, difficulty: str) -> Order:
    if name not in WORLDS:
        raise UsageError(f"no world {name!r}", "one of " + ", ".join(WORLDS))
    if difficulty not in DIFFICULTIES:
        raise UsageError(f"difficulty {difficulty!r}", "one of " + ", ".join(DIFFICULTIES))
    if videos < 3:
        raise UsageError(f"{videos} videos", "at least 3, one for each split")
    if not 32 <= size <= 512 or size % 2:
        raise UsageError(f"size {size}", "an even number of pixels from 32 to 512")
    if seed < 0:
        raise UsageError(f"seed {seed}", "0 or more")
    return Order(name, videos, size, seed, difficulty, WORLDS[name].format)


def _is_finished(folder: Path, order: Order) -> bool:
    marker = folder / FINISHED
    if not marker.is_file():
        return False
    _refuse_other(folder, marker, order)
    return True


def _begin(folder: Path, order: Order) -> None:
    """Claim the folder, unless something else lives there."""
    if folder.exists() and not folder.is_dir():
        raise SourceError(f"{folder} is a file", "a folder to write to", "choose another --out")
    marker = folder / UNFINISHED
    if marker.is_file():
        _refuse_other(folder, marker, order)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise SourceError(
            f"{folder} holds something else", "a new or empty folder", "choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put_json(marker, asdict(order))
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}", "a folder to write to", "choose another --out"
        ) from error


def _refuse_other(folder: Path, marker: Path, order: Order) -> None:
    try:
        there = json.loads(marker.read_text())
        differing = [f"{k}={there.get(k)}" for k, v in asdict(order).items() if there.get(k) != v]
    except (OSError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{marker} cannot be read: {error}", todo="choose another --out"
        ) from None
    if differing:
        raise SourceError(
            f"{folder} holds a world of {', '.join(differing)}",
            "the same parameters as before",
            "choose another --out, or remove that folder",
        )


def _rendered(
    order: Order, folder: Path, planned: list[Planned], workers: int, progress: Progress
) -> dict[int, Attributes]:
    """Render and write everything planned; gives the attributes of each video by its number."""
    for parent in {(folder / video.path).parent for video in planned}:
        parent.mkdir(parents=True, exist_ok=True)
    tasks = [planned[at : at + VIDEOS_A_TASK] for at in range(0, len(planned), VIDEOS_A_TASK)]
    maker = _Maker(order, str(folder), handwriting())
    workers = min(workers, len(tasks))
    done: dict[int, Attributes] = {}
    with closing(_results(maker, tasks, workers)) as results:
        for result in results:
            done.update(result)
            progress(len(done), len(planned))
    return done


@dataclass(frozen=True)
class _Maker:
    """Makes videos; travels once to each process."""

    order: Order
    folder: str
    writing: dict[str, Handwriting]

    def __call__(self, task: Sequence[Planned]) -> dict[int, Attributes]:
        return {video.number: self._make(video) for video in task}

    def _writing(self, video: Planned) -> Handwriting:
        """What a video may show: any sample of its split, or the one whose turn it is."""
        order, writing = self.order, self.writing[video.split]
        if not (videos := order.world().identity_videos):
            return writing
        told = [order.seed, *(crc32(name.encode()) for name in (order.name, video.split))]
        rng = np.random.default_rng([*told, video.label])
        return writing.sample(rng, video.label, video.turn // videos)

    def _make(self, video: Planned) -> Attributes:
        order = self.order
        rng = np.random.default_rng([order.seed, crc32(order.name.encode()), video.number])
        difficulty = DIFFICULTIES[order.difficulty]
        writing = self._writing(video)
        scene = order.world().render(rng, writing, video.label, order.size, difficulty)
        final = os.path.join(self.folder, video.path)
        if not os.path.exists(final):
            if scene.masks is not None:  # before the video, which tells that all is there
                _put_bytes(masks_of(final), zipped_masks(scene.masks))
            _put_video(final, scene)
        return scene.attributes


def _put_bytes(final: str, data: bytes) -> None:
    Path(final + ".part").write_bytes(data)
    os.replace(final + ".part", final)


def _put_video(final: str, scene: Scene) -> None:
    part = final + ".part"
    try:
        encode(
            part,
            scene.frames,
            fps=FPS,
            audio=scene.audio,
            audio_rate=AUDIO_RATE,
            crf=None,
            preset="ultrafast",
            x264=FRAME_BY_FRAME,
        )
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    os.replace(part, final)


_maker: _Maker | None = None


def _results(
    maker: _Maker, tasks: list[list[Planned]], workers: int
) -> Generator[dict[int, Attributes], None, None]:
    """Run tasks, if in processes in any order; ended early, those running end their task first."""
    if workers == 1:
        yield from map(maker, tasks)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (maker,)
    )
    # Not `wait`, which locks every future in turn: interrupted there it would leave them locked.
    finished = SimpleQueue[Future[dict[int, Attributes]]]()
    try:
        with _interrupts_held():
            for task in tasks:
                pool.submit(_work, task).add_done_callback(finished.put)
        for _ in tasks:
            yield finished.get().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes deaf to Ctrl-C and its like: the parent handles them, and hears them after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(maker: _Maker) -> None:
    global _maker
    _maker = maker
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)


def _work(task: list[Planned]) -> dict[int, Attributes]:
    assert _maker is not None
    return _maker(task)


def _finish(
    folder: Path, order: Order, planned: list[Planned], rows: dict[int, Attributes]
) -> None:
    world = order.world()
    table = folder / f"{TABLE}.part"
    with table.open("w", newline="", encoding="utf-8") as file:
        masks = ["masks", "mask_classes"] if world.mask_classes else []
        columns = ["path", "label", "split", *masks, *world.attributes]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(video.row(world, rows[video.number]) for video in planned)
    os.replace(table, folder / TABLE)
    about = {
        "about": world.about,
        "classes": list(world.classes),
        "chance": world.chance,
        "splits": split_sizes(order.videos),
        "frames": world.frames,
        "fps": FPS,
        "audio_rate": AUDIO_RATE,
        **({"mask_classes": list(world.mask_classes)} if world.mask_classes else {}),
    }
    _put_json(folder / FINISHED, {**asdict(order), **about})
    (folder / UNFINISHED).unlink(missing_ok=True)


def _summary(folder: Path, order: Order, *, made: int, seconds: float) -> dict[str, object]:
    world = order.world()
    return {
        "name": order.name,
        "videos": order.videos,
        "made": made,  # less than videos where an earlier one was continued, 0 if all was there
        "classes": list(world.classes),
        "chance": world.chance,
        "splits": split_sizes(order.videos),
        "seconds": round(seconds, 3),
        "out": str(folder),
        "table": str(folder / TABLE),  # to be ingested: it tells all there is
    }


def _put_json(path: Path, content: dict[str, object]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _silent(done: int, total: int) -> None:
    """Report nothing."""

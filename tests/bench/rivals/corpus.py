"""The films that all systems read: as ordinary H.264, and as clipmill's training records.

Made once and kept in the repository's cache: 40 synthetic films of 8 s, 1280x720 at 30 a second
with B-frames, each four times with other bytes behind its end. So an epoch is long enough for
what an epoch costs not to be all that is measured.
"""

import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipmill import cluster, ingest, shards, storage
from decode import film, ordinary_h264

FOLDER = Path(__file__).resolve().parents[3] / ".cache" / "bench" / "feed"
FILMS, COPIES = 40, 4
ORIGINALS, RECORDS = "originals", "records"  # how a system's input is kept


@dataclass(frozen=True)
class Corpus:
    """Where everything lies; all of it may be deleted and is made again."""

    folder: Path

    @property
    def originals(self) -> Path:
        return self.folder / "originals"

    @property
    def data(self) -> str:
        """The dataset that clipmill made of the originals."""
        return str(self.folder / "data")

    @property
    def records(self) -> Path:
        """The stored videos of that dataset, each a file, with its packet index beside it."""
        return self.folder / "records"

    def films(self, kept_as: str) -> list[Path]:
        folder = self.records if kept_as == RECORDS else self.originals
        return sorted(folder.rglob("*.mp4"))


def make(folder: Path = FOLDER) -> Corpus:
    """Make what is missing; takes some minutes the first time."""
    corpus = Corpus(folder)
    once(corpus.originals, make_originals)
    once(Path(corpus.data), lambda data: make_data(corpus.originals, data))
    once(corpus.records, lambda records: unpack(corpus.data, records))
    return corpus


def once(folder: Path, make_in: Callable[[Path], object]) -> None:
    """Make a folder unless it is whole; what was broken off is made again."""
    done = folder.parent / f"{folder.name}.done"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"feed: making {folder}, once", file=sys.stderr, flush=True)
    make_in(folder)
    done.touch()


def make_originals(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        pool.starmap(make_film, [(folder, seed) for seed in range(FILMS)], chunksize=1)


def make_film(folder: Path, seed: int) -> None:
    """Write one film and its copies; bytes after the end make another content of the same work."""
    place = folder / "train" / f"class{seed % 2}"
    place.mkdir(parents=True, exist_ok=True)
    data = ordinary_h264(film(seed))
    for copy in range(COPIES):
        free_box = (12).to_bytes(4, "big") + b"free" + copy.to_bytes(4, "big")
        (place / f"{seed:02d}-{copy}.mp4").write_bytes(data + free_box)


def make_data(originals: Path, data: Path) -> None:
    with cluster.session():
        told = ingest.run(str(originals), str(data))
    if told["records"] != FILMS * COPIES:
        raise SystemExit(f"ingest made {told['records']} records of {FILMS * COPIES} films: {told}")


def unpack(data: str, records: Path) -> None:
    records.mkdir()
    for path in storage.list_files(data):
        for record in shards.read(path) if path.endswith(".tar") else ():
            for suffix in ("mp4", "idx"):
                (records / f"{record.key}.{suffix}").write_bytes(record.members[suffix])


if __name__ == "__main__":
    print(make())

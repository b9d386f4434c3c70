"""The datasets of a file of evidence: worlds made and ingested on demand, once, and kept.

Several processes may ask for the same world: one makes it, the others wait.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from clipmill import catalog as catalogs
from clipmill import ingest, storage, worlds
from clipmill.catalog import Catalog
from clipmill.errors import BusyError
from clipmill.evidence.asked import World

WAIT_SECONDS = 1.0
TABLE = "videos.csv"  # of a world

Progress = Callable[[str, int, int], None]


def there(name: str, world: World, folder: str) -> Catalog | None:
    """The catalog of a world, if it has been made."""
    data = _data(name, world, folder)
    if world.data is None and not storage.exists(storage.join(data, "dataset.json")):
        return None
    return catalogs.load(data)


def made(name: str, world: World, folder: str, progress: Progress) -> Catalog:
    """The catalog of a world, which is made if it is not there."""
    if found := there(name, world, folder):
        return found
    home = _home(name, world, folder)
    with _held(home, f"clipmill evidence, making {name}"):
        if not there(name, world, folder):  # somebody else may have made it meanwhile
            videos = storage.join(home, "videos")
            worlds.make(
                world.world or name, videos, videos=world.videos, size=world.size,
                seed=world.seed, difficulty=world.difficulty,
                progress=lambda done, total: progress(f"making {name}", done, total),
            )  # fmt: skip
            table = storage.join(videos, TABLE)  # it tells labels of frames, which folders cannot
            measured = ("motion", "motion_curve") if world.motion else ()
            options = ingest.Options(measures=measured)
            ingest.run(table, _data(name, world, folder), options, progress=progress)
    return catalogs.load(_data(name, world, folder))


def chance(name: str, world: World, catalog: Catalog) -> float | None:
    """The share right of one who guesses."""
    if world.data is None:
        return worlds.WORLDS[world.world or name].chance
    return 1 / len(catalog.classes) if catalog.classes else None


def _home(name: str, world: World, folder: str) -> str:
    """A folder that no other size, seed or difficulty shares."""
    told = [world.world or name, world.videos, world.size, world.seed, world.difficulty]
    told += ["motion"] if world.motion else []
    return storage.join(folder, "worlds", "-".join(map(str, told)))


def _data(name: str, world: World, folder: str) -> str:
    if world.data is not None:
        return storage.absolute(world.data)
    return storage.join(_home(name, world, folder), "data")


@contextlib.contextmanager
def _held(home: str, what: str) -> Iterator[None]:
    """Hold a folder, once nobody else does."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(storage.holding(home, what))
                break
            except BusyError:
                time.sleep(WAIT_SECONDS)
        yield

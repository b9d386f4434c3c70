"""Small real things that several tests need: catalogs, datasets, recipes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipmill import api, catalog, ingest, video
from clipmill import plan as plans
from clipmill.catalog import Catalog

SPLITS = {"train": 12, "val": 2, "test": 3}
RUN_STEPS = 40


def rows(
    count: int, *, shards: int = 1, classes: int = 2, split: str = "train"
) -> list[dict[str, Any]]:
    """Rows of records that were never written, each 96 frames long."""
    return [
        {
            "key": f"{i:024x}", "shard": f"{split}-{i * shards // count:05d}.tar", "members": [],
            "sha256": f"{i:064x}", "split": split, "label": f"class {i % classes}",
            "frames": 96, "fps": 30.0, "width": 64, "height": 64, "duration_seconds": 3.2,
        }
        for i in range(count)
    ]  # fmt: skip


def catalog_of(table_rows: list[dict[str, Any]]) -> Catalog:
    """A catalog of rows, in memory."""
    plain = [{name: row.get(name) for name in catalog.SCHEMA.names} for row in table_rows]
    table = catalog.with_digests(pa.Table.from_pylist(plain, schema=catalog.SCHEMA))
    classes = sorted({row["label"] for row in table_rows if row["label"]})
    meta = {"classes": classes, "digest": catalog.digest_of(table)}
    return Catalog("nowhere", table, meta)


def recipe_of(**changes: Any) -> dict[str, Any]:
    """A small recipe; sections in `changes` are merged over it."""
    plain: dict[str, Any] = {
        "run": {"name": "tiny"},
        "data": {"path": "data"},
        "model": {"plugin": "single_frame", "width": 0.125, "size": 32, "resize": 36},
        "train": {"steps": 6, "batch": 4, "workers": 0},
    }
    for section, values in changes.items():
        plain[section] = {**plain.get(section, {}), **values}
    return plain


def run_recipe(data: str, folder: Path, name: str, **train: Any) -> dict[str, Any]:
    """The recipe of a small run in this process."""
    return recipe_of(
        run={"name": name, "folder": str(folder)},
        data={"path": data},
        train={"steps": RUN_STEPS, "checkpoint_every": 3, "log_every": 1, **train},
    )


def digest_of(recipe: dict[str, Any], steps: int) -> str:
    """The running digest of the takes of so many steps, from the plan alone."""
    plan = plans.make(api.recipe(recipe, ()), "train")
    told, digest = plan.digests(plan.at(0, steps * plan.batch)), bytes(32)
    for first in range(0, len(told), plan.batch):
        digest = hashlib.sha256(digest + b"".join(told[first : first + plan.batch])).digest()
    return digest.hex()


def moving(seed: int, step: int, *, frames: int = 24, size: int = 48) -> list[NDArray[np.uint8]]:
    """A coarse random pattern that moves `step` pixels a frame, and wraps around."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    pattern = np.kron(coarse, np.ones((size // 6, size // 6, 1), np.uint8))
    return [np.roll(pattern, frame * step, axis=1) for frame in range(frames)]


def write_videos(folder: Path, splits: dict[str, int] = SPLITS) -> None:
    """Write SPLIT/CLASS/NN.mp4, for the classes left and right."""
    for place, (split, count) in enumerate(splits.items()):
        for sign, name in ((-2, "left"), (2, "right")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                frames = moving(1000 * place + 10 * number + sign + 2, sign)
                video.encode(str(folder / split / name / f"{number:02d}.mp4"), frames, fps=15)


def ingested(videos: Path, data: Path) -> str:
    """Ingest videos and give the dataset's folder."""
    ingest.run(str(videos), str(data))
    return str(data)

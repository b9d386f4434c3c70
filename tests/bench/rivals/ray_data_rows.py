"""Ray Data as tutorials write it: read_webdataset, a map by row, iter_batches; clipmill's decoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipmill import cluster, video
from decode import CROP, SHORT_SIDE
from rivals import webdataset_tars
from rivals.clips import Options, chance, random_place

LONG_EPOCH = 10  # times over the shards: each epoch starts a new execution


def prepare(films: list[Path], folder: Path) -> None:
    """Write the films into tars, with their packet indexes where they have them."""
    webdataset_tars.prepare(films, folder)


def batches(folder: Path, options: Options) -> Iterator[Any]:
    step = options.start_step

    def decoded(row: dict[str, Any]) -> dict[str, Any]:
        numbers, top, left = random_place(chance(), step)
        box = (top, left, CROP, CROP)
        return {"clip": video.decode_frames(row["mp4"], numbers, short_side=SHORT_SIDE, crop=box)}

    with cluster.session():  # it says how Ray is to start: imported before, Ray would not hear
        import ray

        cluster.quiet_data()
        shards = webdataset_tars.tars(folder) * LONG_EPOCH
        while True:
            dataset = ray.data.read_webdataset(shards, decoder=None, shuffle="files").map(decoded)
            for batch in dataset.iter_batches(batch_size=options.batch, drop_last=True):
                yield batch["clip"]

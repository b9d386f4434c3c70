"""Batch inference: a table of answers against a bare loop of the same decoder and network.

The bare loop is a process a core, each with its share of the records, the model in it, and nothing
else: decode, forward, join. The films are those of the feed's benchmark. Rates are those of the
clips by which a long run exceeds a short one, so that nobody's start counts.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from clipmill import augment, bulk, catalog, cluster, feed, infer, video
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.evaluate.pieces import batch_takes
from clipmill.infer import Model
from rivals.corpus import make
from row import Row, ratio

FEW_CLIPS, MANY_CLIPS = 2, 8  # of each record, in a short run and a long one
WIDTH = 0.125  # of the network: a clip costs it some times what decoding costs
MOST_ROUNDS = 3

Way = Callable[[str, str, int], object]


def model_in(folder: Path, data: str) -> str:
    """Write a model of random weights, which cost what others cost."""
    told = {
        "run": {"name": "bench"},
        "data": {"path": data},
        "model": {"plugin": "c3d", "width": WIDTH, "batch_norm": True},
        "train": {"batch": 16, "threads": 1},
    }
    given = recipes.parse(told)
    torch.manual_seed(0)
    whole = catalog.load(data)
    profile = video.Profile(**whole.meta["profile"])
    module = infer.build(given.plugin(), whole.classes)
    infer.save(str(folder), Model(module, given, whole.classes, profile))
    return str(folder)


def asked_for(folder: str, clips: int) -> Model:
    """The model, asked about so many clips of each record."""
    model = infer.load(folder)
    plain = model.recipe.model_dump(mode="json", by_alias=True)
    plain["model"] |= {"test_clips": clips}
    return replace(model, recipe=recipes.parse(plain))


def by_table(workers: int) -> Way:
    """Ours: a table of answers, by actors on Ray or in this process."""

    def ask(folder: str, data: str, clips: int) -> None:
        with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as out:
            bulk.run(asked_for(folder, clips), data, f"{out}/told.parquet", workers=workers)

    return ask


def bare(folder: str, data: str, clips: int) -> None:
    """The same clips by a process a core, with nothing between decoder and network."""
    count = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, mp_context=context) as pool:
        asked = [pool.submit(bare_share, folder, data, clips, at, count) for at in range(count)]
        answered = sum(each.result() for each in asked)
    assert answered == len(catalog.load(data))


@torch.inference_mode()
def bare_share(folder: str, data: str, clips: int, share: int, shares: int) -> int:
    """One process of the bare loop: its share of the records, a batch at a time."""
    torch.set_num_threads(1)
    model, whole = asked_for(folder, clips), catalog.load(data)
    mine = whole.picked(np.arange(share, len(whole), shares))
    plan = plans.of_all(model.recipe, mine)
    takes, view, most = plan.epoch(0), model.plugin.views()["test"], batch_takes(plan)
    results = []
    for first in range(0, len(takes), most):
        part = takes[first : first + most]
        lot = plan.lot(part)
        samples = [feed.sample(plan.plugin, lot, place) for place in range(len(part))]
        batch = augment.prepare(plan.plugin.collate(samples), view, training=False, device="cpu")
        output, _ = model.module.predict(batch)  # type: ignore[operator]
        arrays = {name: tensor.numpy() for name, tensor in output.items()}
        for place in range(len(part)):
            results.append((first + place, {name: a[place] for name, a in arrays.items()}))
    return len(list(infer.answers(plan.plugin, takes, results)))


def seconds_more(way: Way, folder: str, data: str) -> float:
    """How much longer the long run takes than the short one."""
    taken = []
    for clips in (FEW_CLIPS, MANY_CLIPS):
        began = time.perf_counter()
        way(folder, data, clips)
        taken.append(time.perf_counter() - began)
    return taken[1] - taken[0]


def measure(rounds: int) -> list[Row]:
    """Return our rates as shares of the bare loop's."""
    data = make().data
    ways: dict[str, Way] = {
        "bare loop": bare,
        "by actors": by_table(os.cpu_count() or 1),
        "in this process": by_table(0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as name, cluster.session():
        folder = model_in(Path(name), data)
        for turn in range(min(rounds, MOST_ROUNDS)):
            for way in list(ways) if turn % 2 else list(reversed(ways)):
                seconds[way].append(seconds_more(ways[way], folder, data))
    clips = len(catalog.load(data)) * (MANY_CLIPS - FEW_CLIPS)
    rates = {f"clips/s, {name}": clips / median(each) for name, each in seconds.items()}
    against = f"a process for each of {os.cpu_count()} cores: same decoder, network and answers"
    return [
        Row(
            "predict/table by actors over the bare loop",
            ratio(seconds["bare loop"], seconds["by actors"]), "x",
            against=against, at_least=0.95, rivals=rates,
        ),
        Row(
            "predict/table in one process over the bare loop",
            ratio(seconds["bare loop"], seconds["in this process"]), "x", against=against,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure batch inference.")
    parser.add_argument("--rounds", type=int, default=MOST_ROUNDS)
    for row in measure(parser.parse_args().rounds):
        print(f"{row.name}: {row.value:.3g} {row.unit}, {dict(row.rivals)}")

"""The same bytes give the same answer: evaluation, predict, pyfunc and the server, of every plugin."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import torch

from clipmill import catalog, infer, recipe, shards, video, viewing
from clipmill.errors import ClipmillError
from clipmill.evaluate.work import answered
from clipmill.plan import Plan
from clipmill.plugin import Entry, found
from clipmill.readable import Clock, readable
from clipmill.serve.batching import Computer
from clipmill.serve.desk import told
from clipmill.serve.shelf import Served
from serving import CLASSES, numbers_in, walk
from tiny import catalog_of, rows

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> catalog.Catalog:
    """A test record as ingest writes it, alone in its shard.

    It has the key that any video has which is asked about: by it pretexts choose their questions.
    """
    folder = tmp_path_factory.mktemp("record")
    data, made = video.transcode(walk(75), video.Profile("training"))
    index, info = video.index_of(data, made.source_times_seconds), video.probe(data)
    assert index is not None
    row = {**rows(1, split="test")[0], "key": viewing.KEY}
    members = {"mp4": data, "idx": index.packed(), "json": b"{}"}
    (placed,) = shards.write(f"{folder}/{row['shard']}", [shards.Record(row["key"], members)])
    facts = {name: getattr(info, name) for name in ("frames", "fps", "width", "height")}
    one = catalog_of([{**row, **facts, "members": placed.members}])
    return catalog.Catalog(str(folder), one.table, one.meta)


@pytest.fixture(scope="module")
def computer() -> Iterator[Computer]:
    made = Computer()
    yield made
    made.close()


def model_of(entry: Entry) -> infer.Model:
    assert entry.plugin is not None
    fields = {"plugin": entry.name, **entry.plugin.small}
    own = recipe.parse(
        {"run": {"name": "x"}, "data": {"path": "none"}, "model": fields, "train": {"threads": 1}}
    )
    torch.manual_seed(0)
    module = infer.build(own.plugin(), CLASSES)
    return infer.Model(module, own, CLASSES, video.Profile("training"))


def by_evaluation(model: infer.Model, record: catalog.Catalog) -> dict[str, Any]:
    train = model.recipe.train
    plan = Plan(record, model.plugin, "test", train.seed, train.batch)
    ((_, answer),) = next(answered(model, plan, [range(len(plan.epoch(0)))], "thread")).answers
    row = record.row(0)
    return readable(answer, model.classes, Clock(row["fps"], row["frames"]))


def by_server(model: infer.Model, data: bytes, computer: Computer) -> dict[str, Any]:
    """The way of a request, without its processes and sockets: bytes over both borders."""
    served, bounds = Served(model), viewing.Bounds()
    asked = json.loads(json.dumps(viewing.request(served.looks, bounds, "video")))
    plain, blobs = viewing.decode(asked, [data])
    seen = viewing.received(served.looks, bounds, json.loads(json.dumps(plain)), blobs)
    answer = told(served, seen, computer.submit(model, seen).result(60), False)
    made: dict[str, Any] = json.loads(json.dumps(answer))
    return made


@pytest.fixture(scope="module")
def pyfunc() -> Any:
    """What MLflow runs of a version; as it reads the file, it warns of types that are not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clipmill.track.pyfunc_model import VideoModel

    return VideoModel()


def by_pyfunc(pyfunc: Any, model: infer.Model, data: bytes) -> dict[str, Any]:
    pyfunc.model = model
    told = pyfunc.predict(None, pd.DataFrame({"video": [data]}))
    made: dict[str, Any] = json.loads(told["answer"][0])
    return made


@pytest.mark.parametrize("entry", found(), ids=lambda entry: entry.name)
def test_every_way_gives_the_same_answer(
    entry: Entry, record: catalog.Catalog, computer: Computer, pyfunc: Any
) -> None:
    data = catalog.member(record.row(0))
    try:
        model = model_of(entry)
        served = by_server(model, data, computer)
    except ClipmillError as error:
        pytest.skip(f"{entry.name} answers no such video: {error}")
    for other in (by_pyfunc(pyfunc, model, data), by_evaluation(model, record)):
        assert served.keys() >= other.keys() - {"confusion"}
        for name in served.keys() & other.keys():
            one, two = numbers_in(served[name]), numbers_in(other[name])
            assert one == pytest.approx(two, abs=TOLERANCE, nan_ok=True), name
    assert served.keys() >= {"spans", "input"}

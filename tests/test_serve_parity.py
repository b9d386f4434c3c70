"""The same bytes give the same answer: evaluation, predict, pyfunc and the server, of every plugin."""

import io
import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pandas as pd
import pytest
import torch

from clipmill import api, catalog, infer, recipe, shards, video, viewing
from clipmill.evaluate.work import answered
from clipmill.plan import Plan
from clipmill.plugin import Entry, found
from clipmill.readable import Clock, readable
from clipmill.serve.batching import Computer
from clipmill.serve.desk import told
from clipmill.serve.shelf import Served
from serving import (
    CLASSES,
    PREDICT,
    TOKEN,
    app_of,
    client_of,
    model_of,
    numbers_in,
    pictures,
    texts_in,
    walk,
)
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


def small(entry: Entry) -> infer.Model:
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


def by_predict(model: infer.Model, data: bytes, folder: Path) -> dict[str, Any]:
    """The way of the verb: a model folder and a file."""
    infer.save(str(folder / "model"), model)
    (folder / "video.mp4").write_bytes(data)
    return asked_about(folder / "model", folder / "video.mp4")


def asked_about(model: Path, file: Path) -> dict[str, Any]:
    (told,) = api.predict(str(model), [str(file)])["videos"]
    assert told.pop("video") == str(file)
    return dict(told)


@pytest.mark.parametrize("entry", found(), ids=lambda entry: entry.name)
def test_every_way_gives_the_same_answer(
    entry: Entry, record: catalog.Catalog, computer: Computer, pyfunc: Any, tmp_path: Path
) -> None:
    data = catalog.member(record.row(0))
    model = small(entry)
    served = by_server(model, data, computer)
    others = (
        by_predict(model, data, tmp_path),
        by_pyfunc(pyfunc, model, data),
        by_evaluation(model, record),
    )
    for other in others:
        assert served.keys() >= other.keys() - {"confusion"}
        for name in served.keys() & other.keys():
            one, two = numbers_in(served[name]), numbers_in(other[name])
            assert one == pytest.approx(two, abs=TOLERANCE), name
            assert texts_in(served[name]) == texts_in(other[name]), name
    assert served.keys() >= {"spans", "input"}


# --- any container


CONTAINERS = {
    "mp4": ("mp4", "libx264"),
    "mkv": ("matroska", "libx264"),
    "avi": ("avi", "mpeg4"),
    "webm": ("webm", "libvpx-vp9"),
    "ts": ("mpegts", "libx264"),
}


def contained(ending: str) -> bytes:
    """A walk in such a file, written by the codec library alone."""
    container, codec = CONTAINERS[ending]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in pictures():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()


def posted(client: httpx.Client, file: Path) -> dict[str, Any]:
    """Sent by curl, as the page of the project has it; where there is none, by this process."""
    if curl := shutil.which("curl"):
        words = [curl, "--silent", "--show-error", "--fail-with-body", "--noproxy", "*"]
        words += ["-H", f"Authorization: Bearer {TOKEN}", "-F", f"video=@{file}"]
        ran = subprocess.run(
            [*words, str(client.base_url.join(PREDICT))], capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        text = ran.stdout
    else:
        with file.open("rb") as content:
            text = client.post(PREDICT, files={"video": content}).raise_for_status().text
    made: dict[str, Any] = json.loads(text)
    return made


def test_a_video_of_any_container_is_answered_as_in_the_terminal(tmp_path: Path) -> None:
    model = model_of("still")
    infer.save(str(tmp_path / "model"), model)
    with client_of(app_of({"still": model})) as client:
        for ending in CONTAINERS:
            file = tmp_path / f"walk.{ending}"
            file.write_bytes(contained(ending))
            served, told = posted(client, file), asked_about(tmp_path / "model", file)
            assert served["input"]["frames"] == 50, ending
            for name, value in told.items():
                assert texts_in(served[name]) == texts_in(value), f"{name} of {ending}"
                wanted = pytest.approx(numbers_in(value), abs=TOLERANCE)
                assert numbers_in(served[name]) == wanted, f"{name} of {ending}"

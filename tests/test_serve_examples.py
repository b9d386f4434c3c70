"""The examples of the schema, a kind of answer each, have the shape of what is answered over HTTP."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest

from clipmill import gallery, infer, serve
from clipmill.serve.schemas import EXAMPLES, Answer
from clipmill_segment.mask_rcnn import MaskRCNN
from clipmill_segment.things import mask_of, pasted
from serving import ALLOWED, FIELDS, TOKEN, client_of, made, numbers_in, texts_in, walk

KINDS: dict[str, dict[str, Any]] = {
    "classes": FIELDS["still"],
    "several": {**FIELDS["still"], "labels": "several", "threshold": 0.01},
    "timeline": {
        "plugin": "cnn_rnn", "labels": "frames", "width": 0.125, "frames": 8, "rate": 7.5,
        "size": 32, "resize": 32, "hidden": 16,
    },
    "masks": {"plugin": "unet", "size": 32, "resize": 40},
    "things": {"plugin": "mask_rcnn", **MaskRCNN.small, "test_clips": 2},
    "match": {"plugin": "siamese", "width": 0.125, "size": 32, "resize": 36, "embedding": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> bytes:
    return walk()


@pytest.fixture(scope="module")
def models() -> dict[str, infer.Model]:
    return {kind: made(kind, fields) for kind, fields in KINDS.items()}


@pytest.fixture(scope="module")
def client(
    models: dict[str, infer.Model], clip: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    folder, alike = tmp_path_factory.mktemp("gallery"), models["match"]
    (folder / "anna.mp4").write_bytes(clip)
    gallery.enrol(alike, str(folder / "known"), "anna", str(folder / "anna.mp4"))
    there = gallery.opened(alike, str(folder / "known"))

    def match(embedding: Any) -> dict[str, Any]:
        return gallery.recognised(alike, there, embedding, 1.0)

    sources = [
        serve.Source(kind, partial(serve.Served, model, "3", match=match))
        for kind, model in models.items()
    ]
    with client_of(serve.make_app(sources, token=TOKEN, allowed=ALLOWED)) as opened:
        yield opened


def shape(value: Any) -> Any:
    """Names of fields, and kinds of what is in them; of a list its first."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])]  # an empty one would tell nothing
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if is_number else type(value).__name__


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_has_the_shape_of_an_answer(
    client: httpx.Client, clip: bytes, kind: str
) -> None:
    post = client.get("/openapi.json").json()["paths"]["/v1/models/{name}/predict"]["post"]
    examples = post["responses"]["200"]["content"]["application/json"]["examples"]
    answer = client.post(f"/v1/models/{kind}/predict", files={"video": clip})
    assert answer.status_code == 200, answer.text
    assert shape(answer.json()) == shape(examples[kind]["value"])
    for value in (answer.json(), examples[kind]["value"]):
        Answer.model_validate(value)


def test_things_are_told_with_their_time_and_the_part_that_was_seen(
    client: httpx.Client, models: dict[str, infer.Model], clip: bytes
) -> None:
    told = client.post("/v1/models/things/predict", files={"video": clip}).json()
    masks = client.post("/v1/models/masks/predict", files={"video": clip}).json()
    assert told["part"].keys() == masks["part"].keys()
    middle = {"left": 0.125, "top": 0.0, "right": 0.875, "bottom": 1.0}  # 48 of 64 columns
    assert told["part"] == pytest.approx(middle, abs=0.01)
    for thing in told["things"]:
        span = told["spans"][thing["at"]]
        assert thing["frame_seconds"] == span["start_seconds"]
    assert {thing["at"] for thing in told["things"]} == {0, 1} == set(range(len(told["frames"])))
    assert texts_in(told["things"]) == texts_in(infer.answer(models["things"], clip)["things"])


def test_the_thing_of_the_example_lies_where_it_is_said_to() -> None:
    (thing,) = EXAMPLES["things"]["value"]["things"]
    wanted = pasted(np.ones((28, 28)), np.array(thing["box"]), (4, 4))
    assert np.array_equal(mask_of(thing["mask"]), wanted) and wanted.any()


def test_a_timeline_comes_over_http_as_it_is_told_here(
    client: httpx.Client, models: dict[str, infer.Model], clip: bytes
) -> None:
    path = "/v1/models/timeline/predict?each_frame=true"
    told = client.post(path, files={"video": clip}).raise_for_status().json()
    direct = infer.answer(models["timeline"], clip, each_frame=True)
    stretches = [[each["label"] for each in answer["timeline"]] for answer in (told, direct)]
    assert stretches[0] == stretches[1] and told["timeline"][-1]["end_seconds"] == 2
    assert len(told["moments"]["probabilities"]) == len(direct["moments"]["seconds"])
    for name, value in direct.items():
        assert numbers_in(told[name]) == pytest.approx(numbers_in(value), abs=1e-5), name

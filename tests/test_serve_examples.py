"""The examples of the schema, a kind of answer each, have the shape of what is answered over HTTP."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from clipmill import gallery, infer, serve
from clipmill.serve.schemas import EXAMPLES
from serving import ALLOWED, FIELDS, TOKEN, client_of, made, numbers_in, walk

KINDS: dict[str, dict[str, Any]] = {
    "classes": FIELDS["still"],
    "several": {**FIELDS["still"], "labels": "several", "threshold": 0.01},
    "timeline": {
        "plugin": "cnn_rnn", "labels": "frames", "width": 0.125, "frames": 8, "rate": 7.5,
        "size": 32, "resize": 32, "hidden": 16,
    },
    "masks": {"plugin": "unet", "size": 32, "resize": 40},
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

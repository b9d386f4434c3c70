"""Several models: one that fails, one that is swapped under load; batches, pictures, figures."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from clipmill import gallery, infer, serve
from clipmill.errors import RegistryError
from clipmill.serve.batching import Computer
from clipmill.video.picture import jpeg
from serving import (
    ALLOWED,
    CLASSES,
    PREDICT,
    TOKEN,
    app_of,
    client_of,
    made,
    model_of,
    numbers_in,
    told_problem,
    video_of,
    walk,
)

SEGMENT = {"plugin": "unet", "size": 32, "resize": 40}
SIAMESE = {"plugin": "siamese", "width": 0.125, "size": 32, "resize": 36, "embedding": 8}


class Registry:
    """A source of a model in versions, some of which do not load."""

    def __init__(self) -> None:
        self.now, self.broken = "1", {"2"}
        self.models = {version: model_of("still", seed=int(version)) for version in "123"}

    def load(self) -> serve.Served:
        if self.now in self.broken:
            raise RegistryError(f"version {self.now} is damaged")
        return serve.Served(self.models[self.now], self.now, {"run": f"run of {self.now}"})

    def source(self, name: str) -> serve.Source:
        return serve.Source(name, self.load, lambda: self.now)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return walk()


@pytest.fixture(scope="module")
def alike() -> infer.Model:
    return made("alike", SIAMESE)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="module")
def shelf(registry: Registry, alike: infer.Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four models: one in versions, one that does not load yet, a segmenter, one with a gallery."""
    late = Registry()
    late.broken = {"1"}
    known = str(tmp_path_factory.mktemp("gallery") / "known")
    for seed, name in enumerate(("anna", "bert")):
        file = tmp_path_factory.mktemp("clips") / f"{name}.mp4"
        file.write_bytes(walk(seed=seed))
        gallery.enrol(alike, known, name, str(file))
    there = gallery.opened(alike, known)
    apart = gallery.distances(alike, there.embeddings[0], there.embeddings)[1]

    def match(embedding: Any) -> dict[str, Any]:
        return gallery.recognised(alike, there, embedding, float(apart) / 100)

    made_of_masks = made("masks", SEGMENT)
    sources = [
        registry.source("still"),
        late.source("late"),
        serve.fixed("masks", made_of_masks),
        serve.Source("faces", lambda: serve.Served(alike, match=match)),
    ]
    built = serve.Shelf(sources)
    built.load()
    built.late = late  # type: ignore[attr-defined]
    built.masks = made_of_masks  # type: ignore[attr-defined]
    return built


@pytest.fixture(scope="module")
def client(shelf: serve.Shelf) -> Iterator[httpx.Client]:
    with client_of(serve.make_app(shelf, token=TOKEN, allowed=ALLOWED)) as opened:
        yield opened


def predict(client: httpx.Client, name: str, clip: bytes) -> httpx.Response:
    return client.post(f"/v1/models/{name}/predict", files={"video": ("v", clip)})


def test_a_model_that_does_not_load_leaves_the_others_serving(
    client: httpx.Client, shelf: Any, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = client.get("/readyz")
    assert told.status_code == 200
    states = {"faces": "ready", "late": "failed", "masks": "ready", "still": "ready"}
    assert told.json() == {"status": "degraded", "models": states}
    assert "damaged" not in told.text  # strangers hear no reasons
    refused = predict(client, "late", clip)
    assert "could not be loaded" in told_problem(refused, 503)
    assert int(refused.headers["retry-after"]) > 0
    assert predict(client, "still", clip).status_code == 200
    cards = {card["name"]: card for card in client.get("/v1/models").json()["models"]}
    assert "version 1 is damaged" in cards["late"]["fault"]
    shelf.late.broken = set()
    shelf.refresh()  # too soon
    assert client.get("/readyz").json()["status"] == "degraded"
    monkeypatch.setattr("clipmill.serve.shelf.AGAIN_SECONDS", 0)
    shelf.refresh()
    assert client.get("/readyz").json()["status"] == "ready"
    assert predict(client, "late", clip).json()["version"] == "1"


def test_a_version_that_failed_is_tried_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its files may have been out of reach for a moment; the last version serves meanwhile."""
    registry = Registry()
    shelf = serve.Shelf([registry.source("still")])
    shelf.load()
    registry.now = "2"
    shelf.refresh()
    registry.broken = set()
    shelf.refresh()  # too soon: a version that is really broken is not read all the time
    assert shelf.find("still").version == "1"
    monkeypatch.setattr("clipmill.serve.shelf.AGAIN_SECONDS", 0)
    shelf.refresh()
    assert (shelf.find("still").version, shelf.states()) == ("2", {"still": "ready"})


def test_a_server_without_one_model_is_told_why_once(caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = Registry(), Registry()
    broken.broken = {"1"}
    with pytest.raises(RegistryError, match="version 1 is damaged"):
        serve.Shelf([broken.source("still"), broken.source("other")]).load()
    assert [line.split()[1] for line in caplog.messages] == ["other"]
    caplog.clear()
    serve.Shelf([whole.source("whole"), broken.source("still")]).load()
    assert ["model still cannot be loaded" in line for line in caplog.messages] == [True]


def test_a_version_is_swapped_under_load_and_no_request_fails(
    client: httpx.Client, shelf: serve.Shelf, registry: Registry, clip: bytes
) -> None:
    """A broken version on the way is left out; every answer is that of the version it names."""
    right = {v: numbers_in(infer.answer(m, clip)["classes"]) for v, m in registry.models.items()}
    over, seen = threading.Event(), []

    def ask() -> None:
        while not over.is_set():
            response = predict(client, "still", clip)
            seen.append(response.json().get("version"))
            assert response.status_code == 200
            own = numbers_in(response.json()["classes"])
            assert own == pytest.approx(right[response.json()["version"]], abs=1e-5)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for version, state in (("2", "ready, but its next version failed"), ("3", "ready")):
            wait_for(seen, len(seen) + 8)
            registry.now = version
            shelf.refresh()
            assert shelf.states()["still"] == state
        wait_for(seen, len(seen) + 8)
        over.set()
        for each in asking:
            each.result()
    assert set(seen) == {"1", "3"}


def wait_for(seen: list[Any], count: int) -> None:
    for _ in range(6000):
        if len(seen) >= count:
            return
        threading.Event().wait(0.01)
    pytest.fail("the answers stopped")


def test_a_batch_answers_each_video_or_tells_what_is_wrong_with_it(
    client: httpx.Client, clip: bytes
) -> None:
    other = walk(seed=7)
    files = [("video", (name, data)) for name, data in (("a", clip), ("b", b"no"), ("c", other))]
    told = client.post("/v1/models/still/batch", files=files).json()["answers"]
    assert [each["file"] for each in told] == ["a", "b", "c"]
    alone = [predict(client, "still", data).json() for data in (clip, other)]
    for one, own in zip((told[0], told[2]), alone, strict=True):
        assert numbers_in(one["classes"]) == pytest.approx(numbers_in(own["classes"]), abs=1e-5)
    assert told[1]["problem"]["status"] == 400
    many = [("video", ("v", b"x"))] * (ALLOWED.batch_videos + 1)
    told_problem(client.post("/v1/models/still/batch", files=many), 400)


def test_a_network_that_fails_for_one_of_a_batch_answers_the_others(
    clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("still")
    predict = model.module.predict

    def picky(batch: Any, *rest: Any) -> Any:
        if len(batch["rgb"]) and float(batch["rgb"].min()) > 1:
            raise RuntimeError("a secret of the house")
        return predict(batch, *rest)

    model.module.predict = picky
    white = video_of(np.full((25, 48, 64, 3), 255, np.uint8))
    with client_of(app_of({"still": model})) as client:
        files = [("video", (name, data)) for name, data in (("a", white), ("b", clip))]
        first, second = client.post("/v1/models/still/batch", files=files).json()["answers"]
    assert first["problem"]["status"] == 500 and "secret" not in first["problem"]["detail"]
    assert second["classes"] and "a secret of the house" in caplog.text


def test_pictures_are_answered_as_the_frames_of_a_video(client: httpx.Client) -> None:
    rng = np.random.default_rng(3)
    pictures = [jpeg(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(2)]
    told = client.post(PREDICT, files=[("frames", ("f.jpg", each)) for each in pictures])
    assert told.status_code == 200
    assert told.json()["input"]["frames"] == 2
    assert len(told.json()["spans"]) == 2
    small = jpeg(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    mixed = [("frames", ("f", pictures[0])), ("frames", ("f", small))]
    assert "several sizes" in told_problem(client.post(PREDICT, files=mixed), 400)
    told_problem(client.post(PREDICT, files={"frames": ("f", b"no picture")}), 400)


def test_masks_come_as_runs_down_the_columns(client: httpx.Client, shelf: Any, clip: bytes) -> None:
    told = predict(client, "masks", clip).json()
    assert told["part"] == pytest.approx(
        {"left": 0.2, "top": 0.1, "right": 0.8, "bottom": 0.9}, abs=0.02
    )
    asked = infer.prepared(shelf.masks, clip)
    numbers = infer.joined(shelf.masks, asked)["mask"]
    painted = np.zeros(numbers.shape, np.int64)
    for each in told["masks"]:
        flat = np.repeat(np.arange(len(each["counts"])) % 2, each["counts"])
        here = flat.reshape(each["size"], order="F") == 1
        assert each["share"] == pytest.approx(here.mean())
        painted[here] = 1 + CLASSES.index(each["label"])
    assert (painted == numbers).all()


def test_a_gallery_tells_whom_a_video_shows(client: httpx.Client, clip: bytes) -> None:
    told = predict(client, "faces", clip).json()
    assert told["match"]["identity"] == "anna" and told["match"]["recognised"]
    assert [each["identity"] for each in told["match"]["nearest"]] == ["anna", "bert"]
    assert len(told["embedding"]) == 8
    stranger = predict(client, "faces", walk(seed=9)).json()["match"]
    assert stranger["identity"] == gallery.NOT_RECOGNISED


def test_figures_are_for_those_with_the_token(client: httpx.Client, clip: bytes) -> None:
    predict(client, "still", clip)
    predict(client, "nobody", clip)
    told = client.get("/metrics").text
    assert 'clipmill_requests_total{model="still",status="200"}' in told
    assert 'clipmill_requests_total{model="",status="404"}' in told
    assert 'clipmill_model{model="masks",version=""} 1.0' in told
    assert "clipmill_decode_seconds_count" in told and "process_resident_memory_bytes" in told
    told_problem(client.get("/metrics", headers={"Authorization": ""}), 401)


# --- networks over several requests


def test_videos_of_several_requests_are_computed_together(clip: bytes) -> None:
    model, counts = model_of("still"), []
    start, predict = threading.Event(), model.module.predict

    def patient(*given: Any) -> Any:
        assert start.wait(60)
        return predict(*given)

    model.module.predict = patient
    computer = Computer(lambda jobs, takes: counts.append((jobs, takes)))
    try:
        done = [computer.submit(model, infer.prepared(model, clip)) for _ in range(5)]
        start.set()
        results = [each.result(60) for each in done]
    finally:
        start.set()
        computer.close()
    assert sum(jobs for jobs, _ in counts) == 5 and max(jobs for jobs, _ in counts) > 1
    assert all(takes <= max(2, model.recipe.train.batch) for _, takes in counts)
    for result in results[1:]:
        for (place, one), (other, two) in zip(results[0], result, strict=True):
            assert place == other
            assert one["probabilities"] == pytest.approx(two["probabilities"], abs=1e-6)


def test_a_video_that_fails_takes_no_other_with_it(clip: bytes) -> None:
    model, start = model_of("still"), threading.Event()
    predict = model.module.predict

    def picky(batch: Any, *rest: Any) -> Any:
        assert start.wait(60)
        if bool((batch["rgb"] > 2).flatten(1).all(1).any()):
            raise ValueError("a white frame")
        return predict(batch, *rest)

    model.module.predict = picky
    asked = [infer.prepared(model, clip) for _ in range(3)]
    for batch in asked[1].batches:
        batch["rgb"] = np.full_like(batch["rgb"], 255)
    computer = Computer()
    try:
        done = [computer.submit(model, each) for each in asked]
        start.set()
        assert [len(done[place].result(60)) for place in (0, 2)] == [2, 2]
        with pytest.raises(ValueError, match="a white frame"):
            done[1].result(60)
    finally:
        start.set()
        computer.close()

"""Features computed once: the same records as a dataset of arrays, which models train on as on frames."""

import gc
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from clipmill import api, augment, catalog, features, infer, ingest, recipe, storage, video
from clipmill import plan as plans
from clipmill.cli import app
from clipmill.errors import ClipmillError, DataError, PluginError, UsageError, VideoError
from clipmill.feed import Stored
from clipmill.infer import Model
from clipmill.takes import View
from tiny import recipe_of

SEQUENCE = {
    "plugin": "cnn_rnn", "width": 0.125, "size": 32, "resize": 36, "frames": 4, "rate": 5.0,
    "hidden": 64, "test_clips": 2,
}  # fmt: skip


def model_of(data: str, **fields: Any) -> Model:
    """A model that has learned nothing, always the same one."""
    given = recipe.load(recipe_of(data={"path": data}, model=fields))
    opened = catalog.load(data)
    torch.manual_seed(0)
    module = infer.build(given.plugin(), opened.classes)
    return Model(module, given, opened.classes, video.Profile(**opened.meta["profile"]))


def single_frame(data: str) -> Model:
    return model_of(data, plugin="single_frame")


def told(data: str) -> dict[str, Any]:
    found: dict[str, Any] = storage.read_json(f"{data}/dataset.json")
    return found


def held(data: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The features of all records by their keys."""
    opened = catalog.load(data)
    rows = opened.rows(range(len(opened)))
    return {row["key"]: catalog.read_features(row) for row in rows}


@pytest.fixture(scope="module")
def described(
    dataset: str, trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Features of every frame, by the run that all tests share."""
    out = tmp_path_factory.mktemp("features") / "data"
    runs = str(Path(trained["folder"]).parent)
    return api.features("trained", dataset, str(out), every=1, folder=runs)


def test_every_record_is_there_once_and_is_what_it_was(
    dataset: str, trained: dict[str, Any], described: dict[str, Any]
) -> None:
    videos, made = catalog.load(dataset), catalog.load(described["out"])
    columns = ["key", "split", "label", "frames", "fps", "source", "source_sha256"]
    before, after = (part.table.select(columns).to_pylist() for part in (videos, made))
    assert sorted(map(str, before)) == sorted(map(str, after))
    assert described["sources"] == described["records"] == len(videos)
    assert described["quarantined"] == 0
    assert made.classes == videos.classes
    facts = told(described["out"])["features"]
    assert facts["weights_sha256"] == trained["weights_sha256"]
    assert facts["data_digest"] == videos.digest
    assert (facts["plugin"], facts["kind"]) == ("single_frame", "frames")
    assert ingest.verify(described["out"]) == []
    plain = recipe_of(data={"path": dataset})
    cached = recipe_of(data={"path": described["out"]})
    one, other = (plans.make(recipe.load(each), "train") for each in (plain, cached))
    assert one.digests(one.epoch(3)) == other.digests(other.epoch(3)), "the takes are others"


def test_rows_are_what_the_network_makes_of_the_frames(
    dataset: str, trained: dict[str, Any], described: dict[str, Any]
) -> None:
    model = infer.load(f"{trained['folder']}/model")
    opened = catalog.load(dataset)
    row = opened.row(0)
    rows, frames = held(described["out"])[row["key"]]
    assert frames.tolist() == list(range(row["frames"]))
    assert rows.dtype == np.float32 and rows.shape == (row["frames"], described["size"])
    pixels = Stored(row).pictures(np.array([7]), 36, (2, 2, 32, 32))
    view = model.plugin.views()["test"]
    with torch.no_grad():
        frame = augment.prepare({"rgb": pixels[None]}, view, training=False)["rgb"]
        wanted = model.module.encoder(frame)[:, 0]  # type: ignore[operator]
    # Of a batch the network adds up in another order, by how much depends on the processor.
    np.testing.assert_allclose(rows[7], wanted[0].numpy(), rtol=1e-4, atol=1e-5)


def test_the_verb_gives_one_object_and_tells_how_far_it_is(
    dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    out, runs = str(tmp_path / "out"), str(Path(trained["folder"]).parent)
    words = ["features", "trained", dataset, "--out", out, "--runs", runs, "--half", "--json"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.stderr
    made = json.loads(ran.stdout)
    assert (made["run"], made["precision"], made["every"]) == ("trained", "float16", None)
    count = len(catalog.load(dataset))
    assert f"describing videos: {count}/{count}" in ran.stderr
    ran = CliRunner().invoke(app, ["features", "nobody", dataset, "--out", out, "--runs", runs])
    assert ran.exit_code == 1 and ran.stderr.startswith("clipmill: no run 'nobody'")


# The library leaves its last file for the garbage collector, which warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_anyones_reader_reads_it(described: dict[str, Any]) -> None:
    found = {}
    for sample in api.webdataset(described["out"]).decode():
        assert sample["npy"].shape == (len(sample["json"]["feature_frames"]), described["size"])
        found[sample["__key__"]] = sample["json"]["label"]
    gc.collect()
    opened = catalog.load(described["out"])
    labels = opened.table.select(["key", "label"]).to_pylist()
    assert found == {row["key"]: row["label"] for row in labels}


def test_what_is_there_is_not_made_again_and_not_mixed(
    dataset: str, trained: dict[str, Any], described: dict[str, Any], tmp_path: Path
) -> None:
    runs, before = str(Path(trained["folder"]).parent), told(described["out"])
    again = api.features("trained", dataset, described["out"], every=1, folder=runs)
    assert again["nothing_to_do"] and not described["nothing_to_do"]
    with pytest.raises(DataError, match="features of another every; wanted a new folder"):
        api.features("trained", dataset, described["out"], every=2, folder=runs)
    with pytest.raises(DataError, match="another weights_sha256"):
        features.run(single_frame(dataset), dataset, described["out"], every=1)
    with pytest.raises(DataError, match="is what is described"):
        api.features("trained", dataset, dataset, folder=runs)
    other = shutil.copytree(dataset, tmp_path / "other")
    with pytest.raises(DataError, match="is a dataset of videos"):
        api.features("trained", dataset, str(other), folder=runs)
    with pytest.raises(UsageError, match="precision 'int8'; wanted float32 or float16"):
        api.features("trained", dataset, str(tmp_path), precision="int8", folder=runs)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holds features; wanted videos"):
        ingest.run(str(Path(dataset).parent / "videos"), described["out"])
    assert told(described["out"]) == before


def test_it_goes_on_where_it_was_broken_off(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "MOST_RECORDS", 8)
    out, model, done = tmp_path / "out", single_frame(dataset), list[int]()

    def stop_at(most: int) -> Callable[[str, int, int], None]:
        def tell(what: str, count: int, total: int) -> None:
            done.append(count)
            if count == most:
                raise KeyboardInterrupt

        return tell

    with pytest.raises(KeyboardInterrupt):
        features.run(model, dataset, str(out), progress=stop_at(11))
    whole = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(whole) == 1 and not list(out.glob(".*.part"))
    with pytest.raises(DataError, match=r"has no dataset\.json"):
        catalog.load(str(out))
    features.run(model, dataset, str(out), progress=stop_at(-1))
    for name, written in whole.items():
        assert (out / name).stat().st_mtime_ns == written, "a whole shard was written again"
    assert not (out / ".ingest").exists() and ingest.verify(str(out)) == []
    fresh = tmp_path / "fresh"
    features.run(model, dataset, str(fresh))
    assert told(str(out)) == told(str(fresh))
    assert max(done) == len(catalog.load(dataset))


def damaged(dataset: str, folder: Path, suffix: str, keys: int = 1) -> tuple[str, list[str]]:
    """A copy of a dataset in which members of some records are zeros."""
    copy = str(shutil.copytree(dataset, folder))
    opened = catalog.load(copy)
    rows = opened.rows(range(keys))
    for row in rows:
        (member,) = (each for each in row["members"] if each["suffix"] == suffix)
        with open(f"{copy}/{row['shard']}", "r+b") as file:
            file.seek(member["offset"])
            file.write(bytes(member["length"]))
    return copy, [row["key"] for row in rows]


def test_a_video_that_does_not_decode_is_put_aside_with_its_reason(
    dataset: str, tmp_path: Path
) -> None:
    copy, keys = damaged(dataset, tmp_path / "copy", "mp4", 2)
    made = features.run(single_frame(copy), copy, str(tmp_path / "out"))
    opened = catalog.load(str(tmp_path / "out"))
    assert made["quarantined"] == 2 and made["sources"] == made["records"] + 2
    assert not set(keys) & set(opened.keys)
    ledger = catalog.quarantine(str(tmp_path / "out")).to_pylist()
    assert {row["stage"] for row in ledger} == {"decode"} and all(row["reason"] for row in ledger)


def test_damaged_features_are_a_bad_clip_and_never_code(
    described: dict[str, Any], tmp_path: Path
) -> None:
    copy, _ = damaged(described["out"], tmp_path / "copy", "npy")
    row = catalog.load(copy).row(0)
    with pytest.raises(VideoError, match="features of its frames"):
        catalog.read_features(row)
    assert any("hash" in fault for fault in ingest.verify(copy))

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    out = io.BytesIO()
    np.save(out, np.array([Bomb()], object), allow_pickle=True)
    (member,) = (each for each in row["members"] if each["suffix"] == "npy")
    with open(f"{copy}/{row['shard']}", "r+b") as file:
        file.seek(member["offset"])
        file.write(out.getvalue())
    with pytest.raises(VideoError, match="features of its frames"):
        catalog.read_features(row)
    assert not (tmp_path / "ran").exists()


def test_clips_have_a_row_each_at_their_middle(dataset: str, tmp_path: Path) -> None:
    fields = {"plugin": "c3d", "width": 0.0625, "size": 32, "frames": 4, "rate": 7.5}
    made = features.run(model_of(dataset, **fields), dataset, str(tmp_path / "out"), every=5)
    assert made["kind"] == "clips"
    fps = float(catalog.load(dataset).row(0)["fps"])
    length = round(3 * fps / 7.5) + 1
    for rows, frames in held(str(tmp_path / "out")).values():
        assert len(rows) > 1 and np.diff(frames).tolist() == [5] * (len(frames) - 1)
        assert frames[0] == (length - 1) // 2


def test_half_precision_and_fewer_rows(dataset: str, tmp_path: Path) -> None:
    model = model_of(dataset, **SEQUENCE)
    whole = features.run(model, dataset, str(tmp_path / "whole"))
    half = features.run(model, dataset, str(tmp_path / "half"), precision="float16")
    assert whole["kind"] == "frames" and half["bytes"] < 0.75 * whole["bytes"]
    apart = round(float(catalog.load(dataset).row(0)["fps"]) / SEQUENCE["rate"])  # type: ignore[operator]
    for key, (rows, frames) in held(str(tmp_path / "whole")).items():
        assert np.diff(frames).tolist() == [apart] * (len(frames) - 1)
        np.testing.assert_allclose(held(str(tmp_path / "half"))[key][0], rows, rtol=2e-3, atol=1e-3)


def without_encoder(model: Model, data: str, size: int) -> Model:
    """The same model on features: what it has beside its encoder."""
    fields = {**SEQUENCE, "features": size}
    cached = model_of(data, **fields)
    rest = {n: t for n, t in model.module.state_dict().items() if not n.startswith("encoder.")}
    cached.module.load_state_dict(rest)
    return cached


def test_a_sequence_model_answers_alike_from_features_and_from_frames(
    dataset: str, tmp_path: Path
) -> None:
    from clipmill import evaluate

    model = model_of(dataset, **SEQUENCE)
    with torch.no_grad():  # so that its answers are not all alike
        for weight in model.module.readout.parameters():  # type: ignore[union-attr]
            weight.mul_(6)
    made = features.run(model, dataset, str(tmp_path / "out"), every=1)
    cached = without_encoder(model, str(tmp_path / "out"), made["size"])
    own, other = evaluate.evaluate(model), evaluate.evaluate(cached)
    for one, two in zip(
        sorted(own["answers"], key=lambda row: row["key"]),
        sorted(other["answers"], key=lambda row: row["key"]),
        strict=True,
    ):
        assert one["key"] == two["key"] and one["label"] == two["label"]
        for mine, theirs in zip(one["classes"], two["classes"], strict=True):
            assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
    spread = {round(row["classes"][0]["probability"], 3) for row in own["answers"]}
    assert len(spread) > 1, "nothing was compared"


def test_a_sequence_model_trains_on_features(dataset: str, tmp_path: Path) -> None:
    made = features.run(model_of(dataset, **SEQUENCE), dataset, str(tmp_path / "out"))
    plain = recipe_of(
        run={"name": "cached", "folder": str(tmp_path)},
        data={"path": str(tmp_path / "out")},
        model={**SEQUENCE, "features": made["size"], "augment": ["jitter", "mixup", "reverse"]},
    )
    done = api.train(plain)
    assert done["steps"] == 6 and np.isfinite(done["metrics"]["loss"])
    assert 0 <= done["metrics"]["val_accuracy"] <= 1


def test_what_is_not_there_is_told_in_one_line(
    dataset: str, described: dict[str, Any], tmp_path: Path
) -> None:
    cached = {**SEQUENCE, "features": described["size"]}

    def refusal(data: str, **model: Any) -> str:
        plain = recipe_of(
            run={"name": "x", "folder": str(tmp_path)}, data={"path": data}, model=model
        )
        with pytest.raises(ClipmillError) as error:
            api.train(plain)
        return str(error.value)

    assert "holds no features; wanted a dataset of features" in refusal(dataset, **cached)
    assert "holds features, and no video" in refusal(described["out"], plugin="single_frame")
    few = {**cached, "features": 3}
    assert f"rows of {described['size']} features; wanted 3" in refusal(described["out"], **few)
    model = model_of(described["out"], **cached)
    clip = next(Path(dataset).parent.glob("videos/test/left/*.mp4"))
    with pytest.raises(DataError, match="a model of features was asked about a video"):
        infer.answer(model, clip.read_bytes())


def test_a_record_that_is_forgotten_leaves_its_features(
    dataset: str, described: dict[str, Any], tmp_path: Path
) -> None:
    copy = str(shutil.copytree(described["out"], tmp_path / "copy"))
    key = catalog.load(copy).keys[0]
    ingest.forget(copy, [key])
    assert key not in set(catalog.load(copy).keys)
    assert (
        ingest.verify(copy) == [] and told(copy)["features"] == told(described["out"])["features"]
    )


def test_forget_names_features_that_still_hold_a_record(dataset: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("derived")  # of what other tests made of it
    copy = str(shutil.copytree(dataset, tmp_path / "copy", ignore=ignored))
    out = str(tmp_path / "out")
    assert features.run(single_frame(copy), copy, out, every=40)["noted_in_data"]
    first, second, third, fourth, *_ = catalog.load(copy).keys
    assert api.forget(copy, [first, second])["features"] == [{"data": out, "records": 2}]
    assert api.forget(out, [first, second])["features"] == []
    assert api.forget(copy, [third])["features"] == [{"data": out, "records": 1}]
    os.truncate(f"{out}/catalog.parquet", 9)
    assert api.forget(copy, [fourth])["features"] == [{"data": out, "records": None}]
    shutil.rmtree(out)
    fifth = catalog.load(copy).keys[0]
    assert api.forget(copy, [fifth])["features"] == []
    assert ingest.verify(copy) == []


def record_of(rows: np.ndarray, frames: list[int], folder: Path) -> dict[str, Any]:
    """A row of a record that holds these features."""
    from clipmill import shards

    sidecar = json.dumps({catalog.FEATURE_FRAMES: frames}).encode()
    members = {"json": sidecar, catalog.FEATURES: catalog.packed_features(rows)}
    (placed,) = shards.write(f"{folder}/one.tar", [shards.Record("one", members)])
    return {"folder": str(folder), "shard": "one.tar", "key": "one", "members": placed.members}


def test_a_span_has_the_rows_of_the_nearest_frames(tmp_path: Path) -> None:
    rows = np.arange(4, dtype=np.float16)[:, None] * np.ones((1, 3), np.float16)
    row = record_of(rows, [0, 10, 20, 31], tmp_path)
    seen = Stored(row).features(np.array([0, 5, 6, 10, 15, 25, 26, 99]))
    assert seen[:, 0].tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    for frames in ([0, 10, 20], [0, 10, 10, 31]):
        bad = record_of(rows, frames, tmp_path)
        with pytest.raises(VideoError, match="a frame for each, in rising order"):
            catalog.read_features(bad)


def test_features_are_prepared_as_floats_and_follow_time() -> None:
    rows = np.arange(24, dtype=np.float16).reshape(2, 4, 3)
    batch: dict[str, Any] = {
        "features": rows,
        "seed": np.array([1, 2], np.uint64),
        "target": np.array([0, 1]),
    }
    view = View(streams=("features",), frames=4, features=3, augment=("reverse",))
    seen = {"same": 0, "turned": 0}
    for seed in range(20):
        batch["seed"] = np.array([seed, seed + 100], np.uint64)
        made = augment.prepare(batch, view, training=True)["features"]
        assert made.dtype == torch.float32
        for clip, own in zip(made, torch.from_numpy(rows).float(), strict=True):
            turned = torch.equal(clip, own.flip(0))
            assert turned or torch.equal(clip, own)
            seen["turned" if turned else "same"] += 1
    assert min(seen.values()) > 5
    mixing = view.model_copy(update={"augment": ("mixup",)})
    mixed = augment.prepare(batch, mixing, training=True)
    own, other = torch.from_numpy(rows).float()
    torch.testing.assert_close(mixed["features"][0], torch.lerp(other, own, mixed["mix"][0]))
    with pytest.raises(PluginError, match="a view with features lists cutmix"):
        augment.prepare(batch, view.model_copy(update={"augment": ("cutmix",)}), training=True)
    assert augment.shapes(view) == {"features": (4, 3)}

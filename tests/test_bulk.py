"""A model asked about a whole dataset: every record once, through stops and kills, as in evaluation."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from clipmill import api, bulk, catalog, evaluate, feed, infer
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.bulk import near, pool
from clipmill.bulk.parts import WORDS, Parts, bytes_of, cut, filled
from clipmill.errors import DataError, UsageError
from clipmill.evaluate.pieces import pieces
from clipmill.evaluate.work import Answered
from clipmill.features.rows import described
from clipmill.infer import Model
from test_evaluate import copied, wiped

RECORDS, PART = 34, 64  # eight takes a record, of one frame each


@pytest.fixture(scope="module")
def model(trained: dict[str, Any]) -> Model:
    return infer.load(f"{trained['folder']}/model")


@pytest.fixture(scope="module")
def asked(model: Model, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is told of the whole dataset in this process; its table is at `out`."""
    out = str(tmp_path_factory.mktemp("asked") / "results.parquet")
    return bulk.run(model, dataset, out, workers=0, part_frames=PART)


def rows(path: str | Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]


def alike(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Assert that tables say the same, to 1e-5."""
    assert [row["key"] for row in one] == [row["key"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert a["label"] == b["label"] and a["answered"] == b["answered"]
        if a["answered"]:
            assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


# --- answers


def test_every_record_is_answered_once_and_as_in_evaluation(
    model: Model, dataset: str, asked: dict[str, Any]
) -> None:
    assert (asked["records"], asked["answered"], asked["bad"]) == (RECORDS, RECORDS, 0)
    told = {row["key"]: row for row in rows(asked["out"])}
    assert Counter(row["key"] for row in rows(asked["out"])) == Counter(catalog.load(dataset).keys)
    answers = evaluate.evaluate(model, catalog.load(dataset))["answers"]
    assert len(answers) == 6
    for answer in answers:
        row = told[answer["key"]]
        ranked = {each["name"]: each["probability"] for each in answer["classes"]}
        theirs = [ranked[name] for name in asked["classes"]]
        assert row["probabilities"] == pytest.approx(theirs, abs=1e-5)
        assert (row["label"], row["target"]) == (answer["label"], answer["target"])
        assert row["probability"] == pytest.approx(max(theirs), abs=1e-5)
        assert row["split"] == "test" and row["dataset"] == dataset
    assert not Path(f"{asked['out']}.parts").exists()


def test_actors_on_ray_give_the_same_table(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    out, told = str(tmp_path / "ray.parquet"), list[tuple[int, float]]()
    made = bulk.run(
        model, dataset, out, workers=2, part_frames=PART,
        progress=lambda _, done, total, figures: told.append((done, figures.get("minutes_left", -1))),
    )  # fmt: skip
    alike(rows(out), rows(asked["out"]))
    assert made["answered"] == RECORDS
    done = [each for each, _ in told]
    assert done[0] == 0 and done[-1] == RECORDS and done == sorted(done)
    assert all(left >= 0 for _, left in told[1:]) and told[-1][1] == 0


def test_threads_of_an_actor_ask_its_network_one_after_another(model: Model) -> None:
    inside, most, together = list[int](), list[int](), threading.Barrier(2)

    class Watchful(torch.nn.Module):
        def predict(self, batch: Any) -> tuple[dict[str, torch.Tensor], None]:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()
            return {}, None

    def ask(_: int) -> None:
        together.wait()
        question.ask({})

    question = pool.one_at_a_time(replace(model, module=Watchful()), None)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(ask, range(8)))
    assert most == [1] * 8


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_nothing_but_time(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    killed = list[int]()

    def kill(_: str, done: int, total: int, figures: Any) -> None:
        if not killed and 0 < done < total:
            below = psutil.Process().children(recursive=True)
            (worker, *_) = [each for each in below if "ray::Worker" in " ".join(each.cmdline())]
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    out = str(tmp_path / "killed.parquet")
    bulk.run(model, dataset, out, workers=1, part_frames=PART, progress=kill)
    assert len(killed) == 1
    alike(rows(out), rows(asked["out"]))


def test_the_verb_asks_about_a_split_and_some_records(
    trained: dict[str, Any], dataset: str, tmp_path: Path
) -> None:
    told = api.predict(
        f"{trained['folder']}/model", [dataset], out=str(tmp_path / "a.parquet"), split="test",
        where="label == 'left'",
    )  # fmt: skip
    assert told["records"] == 3
    assert {row["target"] for row in rows(told["out"])} == {"left"}
    (last,) = sorted(Path(trained["folder"], "checkpoints").glob("step-*"))[-1:]
    again = api.predict(
        str(last), [dataset], out=str(tmp_path / "b.parquet"), split="test",
        where="label == 'left'",
    )  # fmt: skip
    alike(rows(told["out"]), rows(again["out"]))


def test_a_cluster_that_is_named_is_used_however_little_there_is_to_do(
    model: Model, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, **options: Any) -> dict[str, Any]:
        return bulk.run(model, dataset, str(tmp_path / name), split="test", **options)

    assert made("here.parquet")["workers"] == 0
    assert made("there.parquet", address="auto")["workers"] > 0
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert made("named.parquet")["workers"] > 0
    assert made("asked.parquet", workers=0)["workers"] == 0
    alike(rows(tmp_path / "there.parquet"), rows(tmp_path / "here.parquet"))
    with pytest.raises(UsageError, match="0 workers, and the cluster at auto; wanted workers"):
        made("both.parquet", workers=0, address="auto")


def test_a_slow_network_is_given_to_actors_once_it_shows(
    model: Model,
    dataset: str,
    asked: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = list[int]()

    def made(name: str, **options: Any) -> dict[str, Any]:
        told.clear()
        return bulk.run(
            model, dataset, str(tmp_path / name), part_frames=PART,
            progress=lambda _, done, __, ___: told.append(done), **options,
        )  # fmt: skip

    monkeypatch.setattr(bulk, "FIRST_SECONDS", 0)
    monkeypatch.setattr(bulk.cores, "usable", lambda: 2)
    assert made("quick.parquet")["workers"] == 0
    monkeypatch.setattr(bulk, "LONG_SECONDS", 1e-9)
    assert made("asked.parquet", workers=0)["workers"] == 0
    assert made("slow.parquet")["workers"] == 2
    assert told[0] == 0 < told[1] < RECORDS == told[-1] and told == sorted(told)
    alike(rows(tmp_path / "slow.parquet"), rows(asked["out"]))
    monkeypatch.setattr(bulk.cores, "usable", lambda: 1)
    assert made("one_core.parquet")["workers"] == 0


# --- broken off


def parts_of(out: str) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in Path(f"{out}.parts").glob("part-*")}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_stopped_goes_on_from_its_parts(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    out, kept = str(tmp_path / "stopped.parquet"), dict[str, int]()

    def stop(_: str, done: int, total: int, figures: Any) -> None:
        if done > 10:
            raise KeyboardInterrupt

    def look(_: str, done: int, total: int, figures: Any) -> None:
        if done < total:
            kept.update(parts_of(out))

    with pytest.raises(KeyboardInterrupt):
        bulk.run(model, dataset, out, workers=workers, part_frames=PART, progress=stop)
    before = parts_of(out)
    assert before and not Path(out).exists()
    with pytest.raises(DataError, match="beginning of a table of another .*takes"):
        bulk.run(model, dataset, out, workers=0, part_frames=PART, split="test")
    made = bulk.run(model, dataset, out, workers=workers, part_frames=PART, progress=look)
    assert 0 < made["resumed_records"] < RECORDS
    assert before.items() <= kept.items()  # none of them was written again
    alike(rows(out), rows(asked["out"]))


def test_a_table_of_which_only_the_joining_was_left_is_joined(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    out = str(tmp_path / "unjoined.parquet")

    def stop(_: str, done: int, total: int, figures: Any) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk.run(model, dataset, out, workers=0, part_frames=PART, progress=stop)
    assert not Path(out).exists()
    assert bulk.run(model, dataset, out)["resumed_records"] == RECORDS
    alike(rows(out), rows(asked["out"]))


@pytest.mark.parametrize("workers", [0, 1])
def test_large_answers_make_small_parts_and_the_same_table(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    out, most = str(tmp_path / "a.parquet"), list[int]()

    def look(_: str, done: int, total: int, figures: Any) -> None:
        if done < total:
            most.append(len(parts_of(out)))

    bulk.run(model, dataset, out, workers=workers, part_bytes=1, progress=look)
    assert max(most) >= len(pieces(plans.of_all(model.recipe, catalog.load(dataset)).epoch(0).record[:, 0])) - 1  # fmt: skip
    alike(rows(out), rows(asked["out"]))


def test_what_was_begun_goes_on_in_parts_of_another_size(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    out = str(tmp_path / "a.parquet")

    def stop(_: str, done: int, total: int, figures: Any) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk.run(model, dataset, out, workers=0, part_bytes=1, progress=stop)
    made = bulk.run(model, dataset, out, workers=0)
    assert 0 < made["resumed_records"] < RECORDS
    alike(rows(out), rows(asked["out"]))


@pytest.mark.parametrize("what", ["plan_digest", "classes", "weights_sha256", "protocol"])
def test_another_model_does_not_go_on_with_what_was_begun(
    what: str, model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    plain = model.recipe.plain()

    def with_fields(**fields: Any) -> Model:
        own = recipes.parse({**plain, "model": {**plain["model"], **fields}})
        return replace(model, recipe=own)

    def with_weights() -> Model:
        made = copy.deepcopy(model)
        with torch.no_grad():
            next(made.module.parameters()).add_(1)
        return made

    several = {"labels": "several"}
    first = with_fields(**several) if what == "plan_digest" else model
    others = {
        "plan_digest": lambda: with_fields(**several, threshold=0.25),
        "classes": lambda: replace(model, classes=model.classes[::-1]),
        "weights_sha256": with_weights,
        "protocol": lambda: with_fields(test_clips=1),
    }

    def stop(_: str, done: int, total: int, figures: Any) -> None:
        if done:
            raise KeyboardInterrupt

    out = str(tmp_path / "a.parquet")
    with pytest.raises(KeyboardInterrupt):
        bulk.run(first, dataset, out, workers=0, part_frames=PART, progress=stop)
    with pytest.raises(
        DataError, match=f"beginning of a table of another .*{WORDS.get(what, what)}"
    ):
        bulk.run(others[what](), dataset, out, workers=0, part_frames=PART)
    bulk.run(first, dataset, out, workers=0, part_frames=PART)
    with pytest.raises(DataError, match=f"is there, of another .*{WORDS.get(what, what)}"):
        bulk.run(others[what](), dataset, out, workers=0, part_frames=PART)


KILLED = """
import os, signal, sys
from clipmill import bulk, infer
def kill(what, done, total, figures):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
model, data, out = sys.argv[1:]
bulk.run(infer.load(model), data, out, workers=0, part_frames=64, progress=kill)
"""


def test_what_was_killed_goes_on_from_its_parts(
    trained: dict[str, Any], model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    out = str(tmp_path / "killed.parquet")
    folder = f"{trained['folder']}/model"
    ran = subprocess.run([sys.executable, "-c", KILLED, folder, dataset, out], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert len(parts_of(out)) == 1 and not Path(out).exists()
    Path(f"{out}.parts/.part-x.abc.part").write_bytes(b"half of one")
    made = bulk.run(model, dataset, out, workers=0, part_frames=PART)
    assert made["resumed_records"] == 8
    alike(rows(out), rows(asked["out"]))


def test_a_table_that_is_there_is_not_made_again_and_not_overwritten(
    model: Model, dataset: str, asked: dict[str, Any]
) -> None:
    before = Path(asked["out"]).stat().st_ino
    again = bulk.run(model, dataset, asked["out"], workers=0, part_frames=PART)
    assert again["nothing_to_do"] and again["answered"] == RECORDS
    with pytest.raises(DataError, match=r"results.parquet is there, of another .*takes"):
        bulk.run(model, dataset, asked["out"], workers=0, split="test")
    with pytest.raises(DataError, match=r"of another question \(answers, or embeddings\)"):
        bulk.run(model, dataset, asked["out"], asked="embeddings", workers=0)
    assert Path(asked["out"]).stat().st_ino == before


# --- what cannot be


def test_a_choice_of_no_records_is_wrong_use(model: Model, dataset: str, tmp_path: Path) -> None:
    out = str(tmp_path / "a.parquet")
    for chosen, told in (
        ({"split": "tset"}, "split 'tset'"),
        ({"where": "fps > 999"}, "fps > 999"),
    ):
        with pytest.raises(UsageError, match=rf"{told}.*has no records; .*'train': \d+"):
            bulk.run(model, dataset, out, workers=0, **chosen)


def test_bad_videos_are_rows_and_counted(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    data = copied(dataset, tmp_path / "data")
    key = wiped(data, 2)
    made = bulk.run(model, data, str(tmp_path / "a.parquet"), workers=0)
    assert (made["records"], made["answered"], made["bad"], made["bad_clips"]) == (34, 33, 1, 8)
    (bad,) = [row for row in rows(made["out"]) if not row["answered"]]
    assert bad["key"] == key and bad["fault"] and bad["probabilities"] is None
    others = [row for row in rows(asked["out"]) if row["key"] != key]
    alike([row for row in rows(made["out"]) if row["answered"]], others)


def test_where_nothing_decodes_the_table_tells_why(
    model: Model, dataset: str, tmp_path: Path
) -> None:
    data = copied(dataset, tmp_path / "data")
    for place in range(6):
        wiped(data, place)
    out = tmp_path / "a.parquet"
    with pytest.raises(DataError, match=r"not one of 6 videos could be decoded: .* tells why"):
        bulk.run(model, data, str(out), workers=0, split="test")
    assert all(row["fault"] for row in rows(out)) and len(rows(out)) == 6


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"out": "a.csv"}, r"a.csv; wanted a file that ends in .parquet"),
        ({"out": "a.parquet", "files": ["a", "b"]}, "2 names beside --out; wanted one dataset"),
        ({"files": ["."]}, "is a folder; wanted videos, or a dataset with --out"),
        ({"split": "test"}, "--split test; wanted a dataset with --out"),
        ({"address": "auto"}, "--address auto; wanted a dataset with --out"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    asked: dict[str, Any], told: str, trained: dict[str, Any], dataset: str
) -> None:
    files = asked.pop("files", [dataset])
    with pytest.raises(UsageError, match=told):
        api.predict(f"{trained['folder']}/model", files, **asked)


# --- embeddings


def test_embeddings_are_what_goes_into_the_last_layer_and_neighbours_the_nearest(
    model: Model, dataset: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    out = str(tmp_path / "embeddings.parquet")
    infer.save(str(tmp_path / "model"), model)
    made = api.embed(str(tmp_path / "model"), dataset, out, neighbours=3, workers=0)
    told = rows(out)
    assert [row["key"] for row in told] == [row["key"] for row in rows(asked["out"])]
    head = [part for part in model.module.modules() if isinstance(part, torch.nn.Linear)][-1]
    x_ND = np.array([row["embedding"] for row in told], np.float32)
    assert x_ND.shape == (RECORDS, head.in_features)
    plan = plans.of_all(model.recipe, catalog.load(dataset))
    lot = plan.lot(plan.at(0, 8))
    clips = described(model, [feed.sample(plan.plugin, lot, place) for place in range(8)])
    mine = clips.reshape(-1, clips.shape[-1]).mean(0)
    assert told[0]["embedding"] == pytest.approx(mine.tolist(), abs=1e-5)
    x_ND = near.unit(x_ND)
    for at, row in enumerate(told):
        cosines = x_ND @ x_ND[at]
        cosines[at] = -np.inf
        best = np.sort(cosines)[::-1][:3]
        assert [each["cosine"] for each in row["neighbours"]] == pytest.approx(best, abs=1e-5)
        assert row["key"] not in {each["key"] for each in row["neighbours"]}
    label = {row["key"]: row["target"] for row in told}
    same = [label[n["key"]] == row["target"] for row in told for n in row["neighbours"]]
    assert made["same_class_share"] == pytest.approx(np.mean(same))


def test_actors_on_ray_give_the_same_embeddings(model: Model, dataset: str, tmp_path: Path) -> None:
    told = []
    for workers in (0, 1):
        out = str(tmp_path / f"{workers}.parquet")
        asked: dict[str, Any] = {"asked": "embeddings", "neighbours": 2, "split": "test"}
        bulk.run(model, dataset, out, workers=workers, part_frames=PART, **asked)
        told.append(rows(out))
    assert len(told[0]) == 6
    for here, there in zip(*told, strict=True):
        assert here["key"] == there["key"]
        assert here["embedding"] == pytest.approx(there["embedding"], abs=1e-5)
        cosines = [[each["cosine"] for each in row["neighbours"]] for row in (here, there)]
        assert cosines[0] == pytest.approx(cosines[1], abs=1e-5) and len(cosines[0]) == 2


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 99))
def test_the_nearest_are_the_nearest(total: int, count: int, seed: int) -> None:
    x_ND = near.unit(np.random.default_rng(seed).normal(size=(total, 3)).astype(np.float32))
    found, cosine = near.nearest(x_ND, count)
    assert found.shape == (total, min(count, total - 1))
    whole = x_ND @ x_ND.T
    np.fill_diagonal(whole, -np.inf)
    wanted = -np.sort(-whole, axis=1)[:, :count][:, : total - 1]
    assert np.allclose(cosine, wanted, atol=1e-6)
    assert np.allclose(np.take_along_axis(whole, found, 1), cosine, atol=1e-6)


def test_a_row_without_an_embedding_has_no_neighbours() -> None:
    table = pa.table({
        "key": ["a", "b", "c"], "target": ["x", None, "y"], "answered": [True, False, True],
        "embedding": [[1.0, 0.0], None, [1.0, 1.0]],
    })  # fmt: skip
    made = near.found([table], 5)
    assert made.same_class == 0.0
    first, none, last = made.column(0, 3).to_pylist()
    assert none is None and [each["key"] for each in (*first, *last)] == ["c", "a"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 99))
def test_neighbours_are_the_same_however_the_table_is_cut(
    sizes: list[int], count: int, seed: int
) -> None:
    rng, total = np.random.default_rng(seed), sum(sizes) + 2
    there = np.append(rng.random(total - 2) < 0.7, [True, True])
    x_ND = rng.normal(size=(total, 3)).astype(np.float32)
    kinds = [None if kind == 2 else "ab"[kind] for kind in rng.integers(0, 3, total).tolist()]
    table = pa.table({
        "key": [f"{at:x}" for at in range(total)], "target": pa.array(kinds, pa.string()),
        "answered": there,
        "embedding": pa.array([x if its else None for x, its in zip(x_ND, there, strict=True)]),
    })  # fmt: skip
    edges = [0, *np.cumsum(sizes).tolist(), total]
    parts = [table.slice(low, high - low) for low, high in pairwise(edges)]
    made = near.found(parts, count)
    told = [row for low, high in pairwise(edges) for row in made.column(low, high).to_pylist()]
    places = np.flatnonzero(there)
    closest, cosine = near.nearest(near.unit(x_ND[there]), count)
    wanted: list[Any] = [None] * total
    same = list[bool]()
    for row, others, values in zip(places, closest.tolist(), cosine.tolist(), strict=True):
        pairs = [(places[other], value) for other, value in zip(others, values, strict=True)]
        wanted[row] = [{"key": f"{at:x}", "cosine": value} for at, value in pairs]
        same += [kinds[at] == kinds[row] for at, _ in pairs if kinds[row] is not None]
    assert told == wanted
    assert made.same_class == (pytest.approx(np.mean(same)) if same else None)


@pytest.mark.parametrize("cuts", [[0, 2], [0, 1, 2]])
def test_embeddings_of_different_lengths_have_no_neighbours(cuts: list[int]) -> None:
    table = pa.table({
        "key": ["a", "b"], "target": ["x", "x"], "answered": [True, True],
        "embedding": [[1.0, 0.0], [1.0]],
    })  # fmt: skip
    with pytest.raises(DataError, match="embeddings of .*1.*; wanted all of the same length"):
        near.found([table.slice(low, high - low) for low, high in pairwise(cuts)], 1)


# --- plans


def test_a_plugin_that_compares_videos_is_asked_about_each_alone() -> None:
    whole = tiny.catalog_of(tiny.rows(6))
    given_ = recipes.parse(tiny.recipe_of(model={"plugin": "triplet", "identities": "label"}))
    plan = plans.of_all(given_, whole)
    record = plan.epoch(0).record
    assert plan.alone and record.shape[1] == 1
    assert sorted(set(record[:, 0].tolist())) == list(range(6))
    usual = plans.of_all(recipes.parse(tiny.recipe_of()), whole)
    assert not usual.alone and plan.digest != usual.digest


@given(st.integers(1, 200), st.integers(1, 300))
def test_parts_hold_all_pieces_in_order(count: int, frames: int) -> None:
    plan = plans.of_all(recipes.parse(tiny.recipe_of()), tiny.catalog_of(tiny.rows(count)))
    whole = pieces(plan.epoch(0).record[:, 0])
    made = cut(plan, whole, frames)
    assert [piece for part in made.pieces for piece in part] == whole
    assert sum(made.records) == count and sum(made.frames) == len(plan.epoch(0))
    assert json.loads(json.dumps(made.records)) == made.records
    left = whole[::2]
    again = cut(plan, left, frames)
    assert [piece for part in again.pieces for piece in part] == left
    for part in again.pieces:
        assert all(one.stop == two.start for one, two in pairwise(part))


def test_parts_lie_beside_their_table_whatever_its_store() -> None:
    assert Parts("/data/a.parquet", [], {}).folder == "/data/a.parquet.parts"
    where = "?region=eu-west-1"
    assert Parts(f"s3://b/a.parquet{where}", [], {}).folder == f"s3://b/a.parquet.parts{where}"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 120))
def test_a_part_ends_where_its_answers_are_large(sizes: list[int], most: int) -> None:
    each = [Answered(range(at, at + 1), [(at, {"mask": np.zeros(size, np.uint8)})], [])
            for at, size in enumerate(sizes)]  # fmt: skip
    made = list(filled(each, most, {len(sizes) // 2}))
    assert [piece for part in made for piece in part] == each
    assert all(part[-1].piece.stop >= len(sizes) // 2 for part in made[-1:])
    for part in made:
        assert bytes_of([piece.answers for piece in part[:-1]]) < most
        assert not any(piece.piece.stop == len(sizes) // 2 for piece in part[:-1])


def test_what_takes_how_much() -> None:
    assert bytes_of({"mask": np.zeros((4, 4), np.float32), "frame": 3, "label": "left"}) == 76
    assert bytes_of([{"box": [0.0] * 4}, np.array([{"a": "bc"}, 2], object)]) == 42

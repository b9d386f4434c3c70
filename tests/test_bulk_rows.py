"""Answers in a table: of every plugin, read back as they were given, whatever kinds of values they hold."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from clipmill import bulk, catalog, infer, recipe, shards, video, viewing
from clipmill import plan as plans
from clipmill.bulk import rows as table_rows
from clipmill.bulk.asking import asked_of
from clipmill.bulk.parts import Parts
from clipmill.errors import PluginError
from clipmill.evaluate.pieces import pieces
from clipmill.evaluate.work import Answered, Question, answered
from clipmill.infer import Model
from clipmill.plugin import found
from clipmill.readable import Clock, readable
from clipmill.video.kept_masks import MaskHead, mask_member
from clipmill.video.masks import Planes
from serving import CLASSES, numbers_in, walk
from tiny import catalog_of, rows

FRAMES, TOLERANCE = 75, 1e-5
# Beside each plugin as it is, what answers in other ways than with one class.
OTHERS = {
    "single_frame, several": {"plugin": "single_frame", "labels": "several", "threshold": 0.25},
    "cnn_rnn, frames": {"plugin": "cnn_rnn", "labels": "frames"},
}
SMALL = {
    entry.name: {"plugin": entry.name, **entry.plugin.small} for entry in found() if entry.plugin
}
MODELS = {**SMALL, **{name: {**SMALL[each["plugin"]], **each} for name, each in OTHERS.items()}}


pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name: str) -> Model:
    """A small network that has learnt nothing."""
    told = {"run": {"name": "x"}, "data": {"path": "none"}, "train": {"threads": 1}}
    own = recipe.parse({**told, "model": MODELS[name]})
    torch.manual_seed(0)
    return Model(infer.build(own.plugin(), CLASSES), own, CLASSES, video.Profile("training"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three records: one as any video that is asked about, one with masks, one that does not decode.

    The first has the key of such a video: by it pretexts choose their questions.
    """
    folder = str(tmp_path_factory.mktemp("data"))
    clip, made = video.transcode(walk(FRAMES), video.Profile("training"))
    index, info = video.index_of(clip, made.source_times_seconds), video.probe(clip)
    assert index is not None
    whole = {"mp4": clip, "idx": index.packed(), "json": b"{}"}
    masks = mask_member(
        [(0, drawn(info.height, info.width))], MaskHead(info.frames, info.height, info.width)
    )
    members = [whole, {**whole, "masks.zip": masks}, {**whole, "mp4": bytes(len(clip))}]
    plain = rows(3, split="test")
    keys = [viewing.KEY, *(row["key"] for row in plain[1:])]
    facts = {name: getattr(info, name) for name in ("frames", "fps", "width", "height")}
    placed = shards.write(
        f"{folder}/{plain[0]['shard']}",
        [shards.Record(*each) for each in zip(keys, members, strict=True)],
    )
    told = [
        {**row, "key": key, **facts, "label": CLASSES[0], "members": where.members,
         "masks_sha256": "0" * 64 if "masks.zip" in given else None}
        for row, key, where, given in zip(plain, keys, placed, members, strict=True)
    ]  # fmt: skip
    meta = {
        "classes": list(CLASSES),
        "mask_classes": list(CLASSES),
        "profile": {"name": "training"},
    }
    catalog.save(folder, catalog_of(told).table, meta)
    return folder


def drawn(height: int, width: int) -> Planes:
    """Two things of two classes, of all frames alike."""
    classes = np.zeros((height, width), np.uint8)
    classes[height // 6 : height // 2, width // 6 : width // 2] = 1
    classes[height // 2 :, width // 2 :] = 2
    return Planes(classes, classes.astype(np.int16))


def given(model: Model, data: str, question: Question | None = None) -> dict[str, dict[str, Any]]:
    """What the network answers of each record, straight from it, by key."""
    plan = plans.of_all(model.recipe, catalog.load(data))
    whole = pieces(plan.epoch(0).record[:, 0])
    told = [
        answer
        for part in answered(model, plan, whole, "thread", question=question)
        for answer in part.answers
    ]
    return {plan.catalog.row(record)["key"]: answer for record, answer in told}


def same(told: Any, wanted: Any) -> None:
    """Assert that a value of a table is what was given; dictionaries may have more, such as names."""
    if isinstance(wanted, Mapping):
        for name, value in wanted.items():
            same(told[name], value)
    elif isinstance(wanted, list):
        assert len(told) == len(wanted)
        for one, two in zip(told, wanted, strict=True):
            same(one, two)
    elif isinstance(wanted, str):
        assert told == wanted
    else:
        np.testing.assert_allclose(told, np.asarray(wanted), rtol=0, atol=TOLERANCE)


def restored(row: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """An answer as it was before it became a row."""
    answer = {name: row[name] for name in names}
    for name in answer:
        if row.get(f"{name}_shape") is not None:
            answer[name] = np.asarray(answer[name]).reshape(row[f"{name}_shape"])
    return answer


@pytest.mark.parametrize("name", MODELS)
def test_a_table_holds_what_a_plugin_answers_and_predict_tells(
    name: str, data: str, tmp_path: Path
) -> None:
    model, out = model_of(name), tmp_path / "told.parquet"
    made = bulk.run(model, data, str(out), workers=0)
    assert (made["records"], made["answered"], made["bad"]) == (3, 2, 1)
    table, answers = pq.read_table(out).to_pylist(), given(model, data)
    pd.read_parquet(out)
    for row in table[:2]:
        answer = answers[row["key"]]
        same(restored(row, answer), answer)
    assert table[2]["fault"] and all(table[2][each] is None for each in answers[viewing.KEY])
    # In words, and as a video alone is told of.
    record = catalog.load(data).row(0)
    clock, back = Clock(record["fps"], record["frames"]), restored(table[0], answers[viewing.KEY])
    worded = readable(back, CLASSES, clock)
    told = infer.answer(model, catalog.member(record))
    for each in worded.keys() & told.keys():
        assert numbers_in(worded[each]) == pytest.approx(numbers_in(told[each]), abs=TOLERANCE)
    assert worded.keys() <= {*told, "confusion"}
    for each in {"label", "labels", "timeline"} & worded.keys():
        same(table[0][each], told[each])


def test_answers_of_all_kinds_are_among_those_of_plugins(data: str) -> None:
    names = set[str]()
    for name in ("unet", "mask_rcnn", "triplet", *OTHERS):
        for answer in given(model_of(name), data).values():
            names |= answer.keys()
    assert names >= {"mask", "confusion", "things", "truth", "embedding", "presence"}
    assert "frame_probabilities" in names


@pytest.mark.parametrize("name", SMALL)
def test_a_table_holds_the_embeddings_of_every_plugin(name: str, data: str, tmp_path: Path) -> None:
    model, out = model_of(name), tmp_path / "told.parquet"
    question = asked_of(model, "embeddings")
    try:
        wanted = given(model, data, question)
    except PluginError:
        with pytest.raises(PluginError, match="without a linear layer"):
            bulk.run(model, data, str(out), workers=0, asked="embeddings")
        return
    bulk.run(model, data, str(out), workers=0, asked="embeddings", neighbours=1)
    first, second, bad = pq.read_table(out).to_pylist()
    for row, other in ((first, second), (second, first)):
        same(row["embedding"], wanted[row["key"]]["embedding"])
        assert [each["key"] for each in row["neighbours"]] == [other["key"]]
    assert bad["embedding"] is None and bad["neighbours"] is None


# --- kinds of values


def joined(answers: list[list[dict[str, Any] | None]], folder: Path) -> list[dict[str, Any]]:
    """What a table tells of some answers, a list for each of its parts."""
    own = recipe.parse(
        {"run": {"name": "x"}, "data": {"path": "none"}, "model": MODELS["single_frame"]}
    )
    model = Model(torch.nn.Identity(), own, CLASSES, video.Profile("training"))
    plan = plans.of_all(own, catalog_of(rows(sum(map(len, answers)))))
    clips = len(plan.epoch(0)) // len(plan.catalog)
    ends = np.cumsum([0, *map(len, answers)]).tolist()
    spans = [range(low * clips, high * clips) for low, high in pairwise(ends)]
    with Parts(str(folder / "told.parquet"), spans, {}) as parts:
        for first, span, given_ in zip(ends, spans, answers, strict=False):
            there = [(first + at, each) for at, each in enumerate(given_) if each is not None]
            part = Answered(span, there, [])
            parts.put(span, table_rows.table(model, plan, [part], {}, "answers"))
        parts.join({})
    pd.read_parquet(folder / "told.parquet")
    told: list[dict[str, Any]] = pq.read_table(folder / "told.parquet").to_pylist()
    return told


THING = {
    "frame": 3,
    "class": 2,
    "score": 0.5,
    "box": [0.0, 0.1, 0.2, 0.3],
    "mask": {"size": [2, 3], "counts": "06"},
}


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 2), (3, 1), (1, 1, 1, 1)])
def test_things_are_structs_whichever_videos_show_none(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    answers: list[dict[str, Any] | None] = [
        {"things": [], "truth": []}, None, {"things": [THING, THING]}, {"things": []}
    ]  # fmt: skip
    ends = np.cumsum([0, *sizes]).tolist()
    told = joined([answers[a:b] for a, b in pairwise(ends)], tmp_path)
    named = {**THING, "label": CLASSES[1], "frame_seconds": 0.1}
    assert [row["things"] for row in told] == [[], None, [named, named], []]
    assert [row["truth"] for row in told] == [[], None, None, None]


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 3)])
def test_whole_numbers_beside_others_are_the_same_in_all_parts(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    far = 2**53 + 1  # more than a double tells
    answers: list[dict[str, Any] | None] = [
        {"share": 1, "at": np.arange(2), "each": [{"n": far}]},
        {"share": 2, "at": np.arange(2), "each": []},
        {"share": 0.25, "at": np.full(1, 0.5), "each": [{"n": 1, "by": {}}], "flat": ["a", "b"]},
        {"share": np.float32(3), "at": np.zeros(0, np.int16), "each": [{}], "flat": []},
    ]  # fmt: skip
    ends = np.cumsum([0, *sizes]).tolist()
    told = joined([answers[a:b] for a, b in pairwise(ends)], tmp_path)
    assert [row["share"] for row in told] == [1.0, 2.0, 0.25, 3.0]
    assert all(isinstance(row["share"], float) for row in told)
    assert [row["at"] for row in told] == [[0.0, 1.0], [0.0, 1.0], [0.5], []]
    assert told[0]["each"][0]["n"] == far and told[2]["each"][0]["n"] == 1
    assert [row["flat"] for row in told] == [None, None, ["a", "b"], []]


def test_masks_of_all_sizes_have_their_shapes(tmp_path: Path) -> None:
    masks = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((3, 4), np.float64)]
    told = joined([[{"mask": masks[0]}], [{"mask": masks[1]}]], tmp_path)
    for row, mask in zip(told, masks, strict=True):
        np.testing.assert_array_equal(restored(row, ["mask"])["mask"], mask)


def test_an_answer_named_as_a_column_does_not_stand_in_for_it(tmp_path: Path) -> None:
    (told,) = joined([[{"key": 7, "label": np.arange(2), "fault": "none"}]], tmp_path)
    assert told["key"] == rows(1)[0]["key"] and told["fault"] is None
    assert (told["answer_key"], told["answer_label"]) == (7, [0, 1])
    assert told["answer_fault"] == "none"


@pytest.mark.parametrize("count", [1, 2])
def test_answers_of_two_kinds_are_told_by_name(count: int, tmp_path: Path) -> None:
    answers: list[dict[str, Any] | None] = [{"what": [{"a": 1}]}, {"what": "a text"}]
    parts = [answers] if count == 1 else [answers[:1], answers[1:]]
    with pytest.raises(PluginError, match="what.*; wanted of all videos"):
        joined(parts, tmp_path)

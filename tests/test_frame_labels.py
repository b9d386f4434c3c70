"""A class for each frame: targets, takes that cover, timelines, figures, and all of it at once."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score
from typer.testing import CliRunner

from clipmill import api, catalog, evaluate, infer, readable, video
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.cli import app
from clipmill.errors import DataError, PlanError, PluginError, RecipeError
from clipmill.plugin import Takes, View, make
from clipmill.readable import Clock
from clipmill.takes import frame_numbers
from clipmill_classify.frame_labels import (
    NO_LABEL,
    covering_spans,
    frame_targets,
    joined_frames,
    segments,
)
from clipmill_classify.meters import OVERLAPS, FrameMeter, average_precision, matches
from clipmill_classify.scores import FrameJudge
from tiny import catalog_of, recipe_of, rows

CLASSES = ("dark", "light", "pale")


def span(target: int, first: int, last: int) -> dict[str, Any]:
    return {"label": CLASSES[target], "target": target, "first_frame": first, "last_frame": last}


# --- what is true of a frame


SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12)), max_size=5)


@given(SPANS, st.lists(st.integers(0, 45), max_size=20))
def test_a_frame_has_the_class_of_the_span_that_began_last(
    given_spans: list[tuple[int, int, int]], frames: list[int]
) -> None:
    spans = [span(label, first, first + more) for label, first, more in given_spans]
    found = frame_targets({"spans": spans}, np.array(frames, np.int64))
    for frame, target in zip(frames, found.tolist(), strict=True):
        over = [s for s in spans if s["first_frame"] <= frame <= s["last_frame"]]
        latest = max((s["first_frame"] for s in over), default=None)
        told = [s["target"] for s in over if s["first_frame"] == latest]
        assert target == (told[-1] if told else NO_LABEL)


def test_rows_tell_their_classes_as_numbers() -> None:
    spans = [{"label": "pale", "first_frame": 0, "last_frame": 3}]
    one = {**rows(1)[0], "label": "dark", "labels": ["light", "dark", "odd"], "spans": spans}
    made = catalog_of([one])
    part = catalog.Catalog("nowhere", made.table, {**made.meta, "classes": list(CLASSES)})
    row = part.row(0)
    assert (row["target"], row["targets"], row["class_count"]) == (0, [0, 1, -1], 3)
    assert row["spans"] == [{**spans[0], "target": 2}]
    bare = part.stored.rows([0])[0]  # what is kept has none of it
    assert "targets" not in bare and bare["spans"] == spans


# --- what is looked at


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.sampled_from([5.0, 7.5, 15.0, 24.0, 29.97]),
    st.sampled_from([2.0, 5.0, 7.0, 15.0, 30.0]),
    st.integers(1, 16),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([1, 3]),
)
def test_takes_cover_whole_videos(
    frames: list[int], fps: float, rate: float, clip: int, overlap: float, crops: int
) -> None:
    given_rows = [
        {**row, "frames": n, "fps": fps} for row, n in zip(rows(len(frames)), frames, strict=True)
    ]
    view = View(frames=clip, rate=rate)
    takes = covering_spans(catalog_of(given_rows), view, overlap=overlap, crops=crops)
    assert sorted(set(takes.record[:, 0].tolist())) == list(range(len(frames)))
    assert (np.diff(takes.record[:, 0]) >= 0).all() and (takes.first >= 0).all()
    length = int(view.span_frames(np.array([fps]))[0])
    assert (takes.last - takes.first + 1 == length).all()
    for record, available in enumerate(frames):
        mine = takes[np.flatnonzero(takes.record[:, 0] == record)]
        assert (mine.first < max(1, available)).all()
        assert len(set(zip(mine.first[:, 0], mine.crop, strict=True))) == len(mine)
        seen = np.unique(
            np.concatenate([numbers(mine, at, clip, available) for at in range(len(mine))])
        )
        # No frame is farther from a seen one than the frames of a clip are apart.
        gaps = np.diff([-1, *seen.tolist(), available])
        assert gaps.max() <= max(1, np.ceil(fps / rate)) + 1


def numbers(takes: Takes, place: int, clip: int, available: int) -> np.ndarray:
    return frame_numbers(int(takes.first[place, 0]), int(takes.last[place, 0]), clip, available)


def test_overlapping_takes_see_the_same_frames() -> None:
    made = catalog_of([{**rows(1)[0], "frames": 101, "fps": 30.0}])
    takes = covering_spans(made, View(frames=8, rate=10))
    assert takes.first[:, 0].tolist() == [0, 12, 24, 36, 48, 60, 72, 81]
    seen = {n for at in range(len(takes)) for n in numbers(takes, at, 8, 101).tolist()}
    assert seen == {*range(0, 100, 3), 100}


# --- what is answered


@settings(deadline=None)
@given(st.integers(1, 200), st.sampled_from([1.0, 2.0, 4.0]), st.integers(1, 9))
def test_joined_takes_give_each_moment_once(frames: int, distance: float, clip: int) -> None:
    made = catalog_of([{**rows(1)[0], "frames": frames, "fps": 4 * distance}])
    takes = covering_spans(made, View(frames=clip, rate=4))
    outputs = []
    for place in range(len(takes)):
        seen = numbers(takes, place, clip, frames)
        told = np.stack([seen / frames, 1 - seen / frames], 1)
        outputs.append({"frame_probabilities": told, "frame_numbers": seen.astype(np.float32)})
    joined = joined_frames(outputs, takes)
    seen = joined["frame_numbers"]
    assert seen[0] == 0 and (np.diff(seen) > 0).all()
    assert set(range(0, frames, int(distance))) <= {*seen.tolist(), frames - 1}
    apart = np.abs(joined["frame_probabilities"][:, 0] - seen / frames)
    assert apart.max() <= distance / frames  # frames less than that apart are one moment


def test_moments_that_several_takes_saw_are_averaged() -> None:
    made = catalog_of([{**rows(1)[0], "frames": 6, "fps": 4.0}])
    takes = covering_spans(made, View(frames=4, rate=4))
    assert takes.first[:, 0].tolist() == [0, 2]
    outputs = [
        {"frame_probabilities": np.full((4, 1), value), "frame_numbers": np.arange(4) + first}
        for value, first in ((0.2, 0), (0.6, 2))
    ]
    joined = joined_frames(outputs, takes)
    assert joined["frame_numbers"].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(joined["frame_probabilities"][:, 0], [0.2, 0.2, 0.4, 0.4, 0.6, 0.6])


@given(st.lists(st.integers(-1, 2), max_size=30))
def test_segments_are_the_runs_of_labels(labels: list[int]) -> None:
    found = list(segments(labels))
    again = [NO_LABEL] * len(labels)
    for label, first, end in found:
        again[first:end] = [label] * (end - first)
        assert first == 0 or labels[first - 1] != label
        assert end == len(labels) or labels[end] != label
    assert again == labels


@given(st.integers(1, 40).flatmap(lambda n: st.lists(st.integers(0, 2), min_size=n, max_size=n)))
def test_a_timeline_tells_what_holds_at_every_moment(labels: list[int]) -> None:
    scores = 0.2 + 0.4 * np.eye(3)[labels]
    seconds = np.arange(len(labels)) / 4
    answer = {"frame_probabilities": scores, "frame_numbers": 5 * np.arange(len(labels))}
    clock = Clock(fps=20.0, frames=5 * len(labels))
    told = readable.readable(answer, CLASSES, clock, each_frame=True)
    stretches = told["timeline"]
    assert stretches[0]["start_seconds"] == 0.0
    assert stretches[-1]["end_seconds"] == len(labels) / 4
    for one, other in itertools.pairwise(stretches):
        assert one["end_seconds"] == other["start_seconds"] and one["label"] != other["label"]
    for second, label in zip(seconds, labels, strict=True):
        (there,) = [s for s in stretches if s["start_seconds"] <= second < s["end_seconds"]]
        assert there["label"] == CLASSES[label]
        assert there["probability"] == pytest.approx(0.6)
    assert told["moments"]["seconds"] == seconds.tolist()
    assert told["moments"]["probabilities"] == scores.tolist()
    assert "moments" not in readable.readable(answer, CLASSES, clock)


# --- figures


TIES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


@given(TIES.filter(lambda pairs: any(true for _, true in pairs)))
def test_average_precision_is_that_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    scores, true = (np.array(each) for each in zip(*pairs, strict=True))
    assert average_precision(scores, true) == pytest.approx(average_precision_score(true, scores))


LABELS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
        st.lists(st.integers(-1, 2), min_size=n, max_size=n),
    )
)


def matched(told: list[int], true: list[int], overlap: float) -> tuple[int, int, int]:
    """Segments as sets of frames, matched one after another with the one they overlap most."""

    def sets(labels: list[int]) -> list[tuple[int, set[int]]]:
        made: list[tuple[int, set[int]]] = []
        for place, label in enumerate(labels):
            if place and labels[place - 1] == label:
                made[-1][1].add(place)
            else:
                made.append((label, {place}))
        return [each for each in made if each[0] >= 0]

    ours = sets([t if is_one >= 0 else -1 for t, is_one in zip(told, true, strict=True)])
    theirs, used, right = sets(true), set(), 0
    for label, frames in ours:
        best, most = None, 0.0
        for number, (other, covered) in enumerate(theirs):
            share = len(frames & covered) / len(frames | covered) if other == label else 0.0
            if share > most:
                best, most = number, share
        if best is not None and best not in used and most >= overlap:
            used.add(best)
            right += 1
    return right, len(ours), len(theirs)


@given(LABELS, st.sampled_from(OVERLAPS))
def test_segments_are_matched_as_sets_of_frames_are(
    labels: tuple[list[int], list[int]], overlap: float
) -> None:
    told, true = (np.array(each, np.int64) for each in labels)
    masked = np.where(true < 0, NO_LABEL, told)
    assert matches(masked, true, overlap) == matched(*labels, overlap)


def metered(videos: list[tuple[list[int], list[int]]]) -> FrameMeter:
    meter = FrameMeter()
    for told, true in videos:
        scores = 0.2 + 0.4 * np.eye(3)[told]
        answer = {"frame_probabilities": scores, "frame_numbers": np.arange(len(told))}
        spans = [span(label, at, at) for at, label in enumerate(true) if label >= 0]
        row = {"key": "k", "label": None, "spans": spans or [span(0, 99, 99)]}
        meter.update(answer, row)
    return meter


VIDEOS = st.lists(LABELS, min_size=1, max_size=6).filter(
    lambda videos: any(label >= 0 for _, true in videos for label in true)
)


@settings(deadline=None)
@given(VIDEOS, st.data())
def test_merging_meters_of_frames_is_exact(
    videos: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    whole = metered(videos).compute()
    shuffled = data.draw(st.permutations(videos))
    cut = data.draw(st.integers(0, len(videos)))
    merged = FrameMeter()
    merged.merge(metered(shuffled[:cut]))
    merged.merge(metered(shuffled[cut:]))
    assert merged.compute() == whole


@settings(deadline=None)
@given(VIDEOS)
def test_frames_are_measured_as_scikit_learn_does(
    videos: list[tuple[list[int], list[int]]],
) -> None:
    found = metered(videos).compute()
    pairs = [pair for told, true in videos for pair in zip(true, told, strict=True) if pair[0] >= 0]
    true, told = (np.array(each) for each in zip(*pairs, strict=True))
    assert found["frame_accuracy"] == pytest.approx(accuracy_score(true, told))
    scores = np.float32(0.2 + 0.4 * np.eye(3)[told])
    each = {k: average_precision_score(true == k, scores[:, k]) for k in set(true.tolist())}
    assert found["mean_average_precision"] == pytest.approx(np.mean(list(each.values())))
    for k, value in each.items():
        assert found[f"average_precision/{CLASSES[k]}"] == pytest.approx(value)
    for overlap in OVERLAPS:
        right, ours, theirs = np.sum([matched(*video, overlap) for video in videos], axis=0)
        assert found[f"segment_f1_{round(100 * overlap)}"] == 2 * right / (ours + theirs)


def test_what_has_no_spans_cannot_be_measured() -> None:
    answer = {"frame_probabilities": np.full((2, 3), 1 / 3), "frame_numbers": np.arange(2)}
    for spans, told in ((None, "[]"), ([{**span(0, 0, 1), "target": -1}], "[-1]")):
        with pytest.raises(DataError, match=rf"record k has .*\(class \{told[:-1]}"):
            FrameMeter().update(answer, {"key": "k", "label": None, "spans": spans})
    with pytest.raises(DataError, match="no frame was measured"):
        FrameMeter().compute()
    broken = {**answer, "frame_probabilities": np.full((2, 3), np.nan)}
    with pytest.raises(PluginError, match="record k are not finite"):
        FrameMeter().update(broken, {"key": "k", "label": None, "spans": [span(0, 0, 1)]})


# --- the loss


def test_frames_without_a_label_count_for_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 2, requires_grad=True)
    target = torch.tensor([[0, 1, -1, -1], [-1, -1, -1, -1], [1, 1, 0, 0]])
    told = FrameJudge()(logits, {"target": target})
    each = torch.nn.functional.cross_entropy
    first, last = each(logits[0, :2], target[0, :2]), each(logits[2], target[2])
    torch.testing.assert_close(told["loss"], (first + last) / 2)
    told["loss"].backward()
    assert logits.grad is not None
    assert (logits.grad[1] == 0).all() and (logits.grad[0, 2:] == 0).all()
    nothing = FrameJudge()(logits, {"target": torch.full((3, 4), -1)})
    assert nothing["loss"] == 0 and nothing["accuracy"] == 0


def test_mixed_frames_are_judged_by_both_their_targets() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4), torch.randint(0, 4, (2, 3))
    mixed = {"target": target, "target_b": target.roll(-1, 0), "mix": torch.tensor([0.25, 1.0])}
    own, other = (
        FrameJudge()(logits[:1], {"target": each[:1]})["loss"]
        for each in (target, target.roll(-1, 0))
    )
    rest = FrameJudge()(logits[1:], {"target": target[1:]})["loss"]
    told = FrameJudge()(logits, mixed)["loss"]
    torch.testing.assert_close(told, (0.25 * own + 0.75 * other + rest) / 2)


# --- real videos


RATE, SECONDS = 15, 4
CHANGES = ((0, 20), (1, 34), (0, 45), (1, 12), (0, 52), (1, 27), (0, 30), (1, 40), (0, 25), (1, 38))


def write_switching(folder: Path) -> Path:
    """Videos that are dark and become light, or the other way; a table tells when."""
    table, rng = [], np.random.default_rng(0)
    for number, (first, at) in enumerate(CHANGES):
        levels = np.where(np.arange(RATE * SECONDS) < at, first, 1 - first)
        noise = rng.integers(0, 60, (len(levels), 48, 48, 3))
        frames = (noise + 180 * levels[:, None, None, None]).astype(np.uint8)
        video.encode(str(folder / f"{number}.mp4"), list(frames), fps=RATE)
        edges = [0, at / RATE, SECONDS + 0.02]
        table.append({
            "path": f"{number}.mp4",
            "split": "test" if number < 3 else "val" if number < 4 else "train",
            "spans": [
                {"label": CLASSES[label], "start_seconds": a, "end_seconds": b}
                for label, a, b in zip((first, 1 - first), edges[:2], edges[1:], strict=True)
            ],
        })  # fmt: skip
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


@pytest.fixture(scope="module")
def switching(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("switching")
    told = api.ingest(str(write_switching(folder)), str(folder / "data"))
    assert told["warnings"] == []
    return str(folder / "data")


FRAMEWISE = {
    "plugin": "cnn_rnn", "labels": "frames", "width": 0.125, "frames": 8, "rate": 7.5, "size": 32,
    "resize": 32, "hidden": 32, "learning_rate": 0.003, "dropout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(switching: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    given = recipe_of(
        run={"name": "switching", "folder": str(folder)},
        data={"path": switching},
        train={"steps": 60, "batch": 6, "threads": 1},
    )
    return {**api.train({**given, "model": FRAMEWISE}), "runs": str(folder)}


def test_spans_become_frames_of_records(switching: str) -> None:
    whole = catalog.load(switching)
    assert whole.classes == ("dark", "light")
    for row in whole.rows(range(len(whole))):
        number = int(Path(row["source"]).stem)
        first, at = CHANGES[number]
        edge = 2 * at  # records have 30 frames a second
        assert [(s["label"], s["first_frame"], s["last_frame"]) for s in row["spans"]] == [
            (CLASSES[first], 0, edge - 1),
            (CLASSES[1 - first], edge, row["frames"] - 1),
        ]


def test_frames_are_learnt_measured_and_told(run: dict[str, Any], switching: str) -> None:
    told = api.evaluate("switching", folder=run["runs"], pictures=f"{run['runs']}/pictures")
    assert told["protocol"]["clips"] == "all" and told["metric"] == "frame_accuracy"
    metrics = told["metrics"]
    assert metrics["frame_accuracy"] > 0.85 and metrics["mean_average_precision"] > 0.9
    assert {"segment_f1_10", "segment_f1_25", "segment_f1_50"} <= metrics.keys()
    figures = told["figures"]
    counted = np.array(figures["confusion"]["counts"])
    assert np.trace(counted) / counted.sum() == metrics["frame_accuracy"]
    assert sum(row["frames"] for row in figures["by_class"]) == counted.sum()
    assert {Path(file).stem for file in told["pictures"]} >= {"confusion", "classes", "calibration"}
    for answer in told["answers"]:
        first, at = CHANGES[row_number(switching, answer["key"])]
        true = [(each["label"], each["start_seconds"]) for each in answer["target"]]
        assert true == [(CLASSES[first], 0.0), (CLASSES[1 - first], pytest.approx(at / RATE))]
        ends = [each["end_seconds"] for each in answer["timeline"]]
        assert ends[-1] == pytest.approx(SECONDS)
        longest = max(answer["timeline"], key=lambda s: s["end_seconds"] - s["start_seconds"])
        middle = (longest["start_seconds"] + longest["end_seconds"]) / 2
        assert (longest["label"] == CLASSES[first]) == (middle < at / RATE)


def row_number(data: str, key: str) -> int:
    whole = catalog.load(data)
    return int(Path(whole.row(list(whole.keys).index(key))["source"]).stem)


def test_a_file_is_told_as_its_record_is(
    run: dict[str, Any], switching: str, tmp_path: Path
) -> None:
    model = infer.load(f"{run['folder']}/model")
    told = {
        each["key"]: each for each in evaluate.evaluate(model, catalog.load(switching))["answers"]
    }
    part = catalog.load(switching).part(split="test")
    row = part.row(0)
    file = tmp_path / "video.mp4"
    file.write_bytes(part.read(row))
    (answer,) = api.predict("switching", [str(file)], each_frame=True, folder=run["runs"])["videos"]
    for ours, theirs in zip(answer["timeline"], told[row["key"]]["timeline"], strict=True):
        assert ours == {**theirs, "probability": pytest.approx(theirs["probability"], abs=1e-5)}
    ran = CliRunner().invoke(app, ["predict", "switching", str(file), "--runs", run["runs"]])
    assert ran.exit_code == 0 and "start_seconds" in ran.stdout and "light" in ran.stdout
    moments = answer["moments"]
    assert moments["seconds"][0] == 0 and moments["seconds"][-1] == pytest.approx(119 / 30)
    assert np.diff(moments["seconds"])[:-1] == pytest.approx(4 / 30)
    np.testing.assert_allclose(np.sum(moments["probabilities"], axis=1), 1, rtol=1e-5)


def test_records_without_spans_are_refused_where_frames_are_learnt(
    dataset: str, switching: str
) -> None:
    given = recipe_of(data={"path": dataset})
    with pytest.raises(PlanError, match=r"records have no spans to train on.*spans != None"):
        plans.make(recipes.parse({**given, "model": FRAMEWISE}), "train").epoch(0)
    mine = recipe_of(data={"path": switching}, model={"labels": "one"})
    with pytest.raises(PlanError, match="records have no label to train on"):
        plans.make(recipes.parse(mine), "train").epoch(0)
    with pytest.raises(RecipeError, match="model.labels is 'frames'.*one, several"):
        recipes.parse(recipe_of(model={"plugin": "c3d", "labels": "frames"}))


def test_classes_that_a_model_of_frames_lacks_are_told(run: dict[str, Any], switching: str) -> None:
    model = infer.load(f"{run['folder']}/model")
    whole = catalog.load(switching)
    table = whole.part(split="test").table.to_pylist()
    for row in table:
        row["spans"] = [{**each, "label": "odd"} for each in row["spans"]]
    other = catalog.Catalog(whole.folder, catalog_of(table).table, whole.meta)
    with pytest.raises(PlanError, match="has the class 'odd'.*dark, light"):
        evaluate.check(model, other)


def test_time_is_not_turned_where_frames_have_classes() -> None:
    fields = {"labels": "frames", "augment": ["crop", "reverse"]}
    with pytest.raises(RecipeError, match="no reverse in augment with labels=frames"):
        make("cnn_rnn", fields)
    assert make("cnn_rnn", {**fields, "labels": "one"}).views()["train"].augment[1] == "reverse"

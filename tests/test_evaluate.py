"""Evaluation: every video once whatever the workers, figures as counted by hand, pictures."""

import math
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill import api, catalog, evaluate, infer, ingest, storage, video
from clipmill.errors import DataError, PlanError, PluginError, UsageError
from clipmill.evaluate import pictures
from clipmill.evaluate.figures import figures
from clipmill.evaluate.pieces import batches, pieces, shares
from clipmill.infer import Model
from clipmill_classify.meters import ClassMeter
from tiny import ingested, moving

PIECE = 16


@pytest.fixture(scope="module")
def model(trained: dict[str, Any]) -> Model:
    return infer.load(f"{trained['folder']}/model")


def changed(model: Model, **sections: dict[str, Any]) -> Model:
    """The model with another recipe."""
    plain = model.recipe
    for name, values in sections.items():
        part = getattr(plain, name).model_copy(update=values)
        plain = plain.model_copy(update={name: part})
    return replace(model, recipe=plain)


# --- cutting


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 9), st.integers(1, 40))
def test_pieces_share_no_video_and_workers_no_piece(
    record: list[int], workers: int, most: int
) -> None:
    made = pieces(np.array(record, np.int64))
    assert [place for piece in made for place in piece] == list(range(len(record)))
    owner = {record[place]: number for number, piece in enumerate(made) for place in piece}
    assert all(owner[record[place]] == n for n, piece in enumerate(made) for place in piece)
    assert all(len(piece) >= PIECE for piece in made[:-1])
    for piece in made:
        cut = batches(piece, most)
        assert [place for part in cut for place in part] == list(piece)
        assert all(0 < len(part) <= most for part in cut)
    own = shares(made, workers)
    assert [piece for share in own for piece in share] == made
    assert len(own) <= workers and all(own)


def test_equal_work_is_shared_evenly() -> None:
    own = shares([range(at, at + 16) for at in range(0, 160, 16)], 3)
    assert [len(share) for share in own] == [3, 4, 3]


# --- any number of workers


@pytest.fixture(scope="module")
def alone(model: Model, dataset: str) -> dict[str, Any]:
    return evaluate.evaluate(model, catalog.load(dataset))


@pytest.mark.parametrize("workers", [1, 7])
def test_any_number_of_workers_gives_the_same_bits(
    model: Model, dataset: str, alone: dict[str, Any], workers: int
) -> None:
    told: list[tuple[int, int]] = []
    spread = evaluate.evaluate(
        model,
        catalog.load(dataset),
        workers=workers,
        progress=lambda _, done, total: told.append((done, total)),
    )
    assert spread == alone
    assert [done for done, _ in told] == [16, 32, 48] and {total for _, total in told} == {48}


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_of_training_changes_no_bit(
    model: Model, dataset: str, alone: dict[str, Any], batch: int
) -> None:
    other = changed(model, train={"batch": batch})
    told = evaluate.evaluate(other, catalog.load(dataset))
    assert {**told, "plan_digest": ""} == {**alone, "plan_digest": ""}


@pytest.mark.slow
def test_a_worker_that_is_lost_changes_no_bit(model: Model, dataset: str) -> None:
    long = evaluate.asked(model, clips=600)
    killed: list[int] = []

    def kill(_: str, done: int, total: int) -> None:
        if not killed and done < total:
            below = psutil.Process().children(recursive=True)
            (worker, *_) = [each for each in below if "ray::_work" in " ".join(each.cmdline())]
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    told = evaluate.evaluate(long, workers=1, progress=kill)
    assert len(killed) == 1
    assert told == evaluate.evaluate(long)


def test_the_protocol_tells_what_was_done(alone: dict[str, Any]) -> None:
    protocol = alone["protocol"]
    assert (protocol["clips"], protocol["crops"], protocol["split"]) == (8, 1, "test")
    assert (protocol["where"], protocol["size"], protocol["crop"]) == (None, 32, "centre")
    assert alone["clips"] == 48 and alone["videos"] == 6


def test_another_protocol_is_used_and_told(model: Model, dataset: str) -> None:
    given = evaluate.asked(model, clips=2, crops=3, split="val", where="label == 'left'")
    told = evaluate.evaluate(given)
    assert (told["protocol"]["clips"], told["protocol"]["crops"]) == (2, 3)
    assert (told["clips"], told["videos"]) == (2 * 3 * 2, 2)
    assert {answer["target"] for answer in told["answers"]} == {"left"}


# --- figures


def test_a_cluster_without_workers_is_refused(trained: dict[str, Any]) -> None:
    asked = {"folder": str(Path(trained["folder"]).parent), "address": "auto"}
    for ask in (
        lambda: api.evaluate("trained", **asked),
        lambda: api.compare(["trained"] * 2, **asked),
    ):
        with pytest.raises(UsageError, match="0 workers, and the cluster at auto; wanted workers"):
            ask()


def test_figures_are_as_counted_by_hand(alone: dict[str, Any]) -> None:
    answers, told = alone["answers"], alone["figures"]
    assert [answer["score"] for answer in answers] == [a["label"] == a["target"] for a in answers]
    assert alone["metrics"]["accuracy"] == sum(a["score"] for a in answers) / 6
    counted = Counter((answer["target"], answer["label"]) for answer in answers)
    names = told["confusion"]["classes"]
    assert told["confusion"]["counts"] == [[counted[a, b] for b in names] for a in names]
    for row in told["by_class"]:
        mine = [answer["score"] for answer in answers if answer["target"] == row["name"]]
        assert (row["videos"], row["right"]) == (len(mine), sum(mine))
        assert row["accuracy"] == alone["metrics"][f"accuracy/{row['name']}"]


def by_hand(scores: np.ndarray, target: list[int]) -> float:
    """The expected calibration error, one video after another."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, true in zip(scores.tolist(), target, strict=True):
        place = min(14, math.floor(max(row) * 15))
        bins.setdefault(place, []).append((max(row), row.index(max(row)) == true))
    apart = 0.0
    for found in bins.values():
        apart += abs(sum(sure for sure, _ in found) - sum(right for _, right in found))
    return apart / len(target)


def test_calibration_and_worst_errors_of_many_answers() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 300)
    target = rng.integers(0, 4, 300)
    keys = [f"{at:03d}" for at in range(300)]
    told = figures(keys, scores, target, ["a", "b", "c", "d"])
    assert told["calibration"]["error"] == pytest.approx(by_hand(scores, target.tolist()))
    assert sum(each["videos"] for each in told["calibration"]["bins"]) == 300
    wrong = [at for at in range(300) if scores[at].argmax() != target[at]]
    surest = sorted(wrong, key=lambda at: scores[at].max(), reverse=True)[:24]
    assert [row["key"] for row in told["worst"]] == [keys[at] for at in surest]
    first = told["worst"][0]
    assert first["target"] == "abcd"[target[surest[0]]]
    assert first["label"] == "abcd"[scores[surest[0]].argmax()]
    assert first["probability"] == scores[surest[0]].max()
    assert told["confused"][0]["videos"] == max(
        row[at] for n, row in enumerate(told["confusion"]["counts"]) for at in range(4) if at != n
    )


def test_scores_whose_mean_is_not_the_metric_are_refused(
    model: Model, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassMeter, "score", lambda *_: 0.25)
    with pytest.raises(
        PluginError, match="single_frame's meter have the mean 0.25; wanted its acc"
    ):
        evaluate.evaluate(model, catalog.load(dataset))


def test_a_meter_of_each_video_is_kept_where_there_are_no_scores(
    model: Model, dataset: str, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ClassMeter, "score")
    told = evaluate.evaluate(model, catalog.load(dataset), keep_meters=True)
    assert list(told["meters"]) == [answer["key"] for answer in told["answers"]]
    whole = ClassMeter()
    for meter in told["meters"].values():
        whole.merge(meter)
    assert whole.compute() == told["metrics"] == alone["metrics"]


# --- data that is not as it was


def copied(dataset: str, folder: Path) -> str:
    return str(shutil.copytree(dataset, folder))


def wiped(data: str, place: int) -> str:
    """Overwrite a test video's bytes; its key."""
    part = catalog.load(data).part(split="test")
    row = part.row(place)
    member = next(each for each in row["members"] if each["suffix"] == row["suffix"])
    path = Path(data) / row["shard"]
    whole = bytearray(path.read_bytes())
    whole[member["offset"] : member["offset"] + member["length"]] = bytes(member["length"])
    path.write_bytes(whole)
    return str(row["key"])


def test_what_does_not_decode_is_left_out_and_told(
    model: Model, dataset: str, alone: dict[str, Any], tmp_path: Path
) -> None:
    data = copied(dataset, tmp_path / "data")
    key = wiped(data, 2)
    with pytest.raises(
        DataError, match=r"8 clips of an epoch do not decode.*at most 2 \(feed.max_bad_share"
    ):
        evaluate.evaluate(model, catalog.load(data))
    bearing = changed(model, feed={"max_bad_share": 0.5})
    told = evaluate.evaluate(bearing, catalog.load(data))
    assert (told["videos"], told["bad_clips"], told["videos_without_answer"]) == (5, 8, 1)
    (left,) = told["left_out"]
    assert (left["key"], left["bad_clips"], left["answered"]) == (key, 8, False)
    assert left["reason"]
    assert [a["key"] for a in told["answers"]] == [
        a["key"] for a in alone["answers"] if a["key"] != key
    ]
    assert evaluate.evaluate(bearing, catalog.load(data), workers=2) == told


def test_a_dataset_of_which_nothing_decodes_is_refused(
    model: Model, dataset: str, tmp_path: Path
) -> None:
    data = copied(dataset, tmp_path / "data")
    for place in range(6):
        wiped(data, place)
    bearing = changed(model, feed={"max_bad_share": 1.0})
    with pytest.raises(DataError, match="not one of 6 videos could be decoded"):
        evaluate.evaluate(bearing, catalog.load(data))


# --- other data


@pytest.fixture(scope="module")
def others(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of test videos: of a class that the model has last, and of one that it lacks."""
    folder = tmp_path_factory.mktemp("others")
    for name, step in (("right", 2), ("up", 0)):
        (folder / "videos" / "test" / name).mkdir(parents=True)
        for number in range(3):
            path = folder / "videos" / "test" / name / f"{number}.mp4"
            video.encode(str(path), moving(50 + number, step), fps=15)
    return ingested(folder / "videos", folder / "data")


def test_other_data_is_measured_by_the_names_of_classes(model: Model, others: str) -> None:
    assert model.classes == ("left", "right")
    with pytest.raises(PlanError, match="has the class 'up'.*left, right"):
        evaluate.evaluate(evaluate.asked(model, data=others))
    told = evaluate.evaluate(evaluate.asked(model, data=others, where="label == 'right'"))
    assert (told["videos"], told["data"]) == (3, others)
    assert told["protocol"]["where"] == "label == 'right'"
    hits = [answer["label"] == "right" for answer in told["answers"]]
    assert told["metrics"]["accuracy"] == told["metrics"]["accuracy/right"] == np.mean(hits)
    assert told["figures"]["confusion"]["counts"] == [[0, 0], [3 - sum(hits), sum(hits)]]


# --- originals


def test_originals_are_answered_as_anyone_would_ask(
    model: Model, others: str, tmp_path: Path
) -> None:
    sources = Path(others).parent / "videos" / "test" / "right"
    given = evaluate.asked(model, data=others, where="label == 'right'")
    whole = evaluate.evaluate(given, from_originals=True)
    told = whole["originals"]
    assert (told["videos"], told["gone"], told["changed"], told["unreadable"]) == (3, 0, 0, 0)
    asked = [infer.answer(model, path.read_bytes()) for path in sorted(sources.glob("*.mp4"))]
    right = [answer["label"] == "right" for answer in asked]
    assert told["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert told["stored_metrics"] == whole["metrics"]
    apart = told["answers_apart"]["probabilities"]
    assert 0 < apart["mean"] <= apart["largest"] < 0.2

    (sources / "0.mp4").unlink()
    (sources / "1.mp4").write_bytes(b"another")
    told = evaluate.evaluate(given, from_originals=True)["originals"]
    assert (told["videos"], told["gone"], told["changed"]) == (1, 1, 1)


def test_kept_records_are_answered_by_their_own_frames(
    model: Model, others: str, tmp_path: Path
) -> None:
    videos, data = Path(others).parent / "videos", str(tmp_path / "kept")
    ingest.run(str(videos), data, ingest.Options(profile=video.PROFILES["keep"]))
    kept = replace(model, classes=("right", "up"), profile=video.PROFILES["keep"])
    told = evaluate.evaluate(evaluate.asked(kept, data=data, where="label == 'up'"))
    whole = catalog.load(data)
    rows = {row["key"]: row for row in whole.table.to_pylist()}
    assert told["videos"] == 3 and {rows[a["key"]]["fps"] for a in told["answers"]} == {15.0}
    for answer in told["answers"]:
        again = infer.answer(kept, whole.read(rows[answer["key"]]))
        for one, two in zip(again["classes"], answer["classes"], strict=True):
            assert one == {**two, "probability": pytest.approx(two["probability"], abs=1e-5)}


def test_a_part_of_a_video_is_answered_as_that_part_alone(model: Model, tmp_path: Path) -> None:
    frames = [*moving(1, 2, frames=30), *moving(9, -2, frames=30)]
    video.encode(str(tmp_path / "both.mp4"), frames, fps=15)
    video.encode(str(tmp_path / "last.mp4"), frames[30:], fps=15)
    part = infer.answer(model, str(tmp_path / "both.mp4"), start_seconds=2.0)
    whole = infer.answer(model, str(tmp_path / "last.mp4"))
    first = infer.answer(model, str(tmp_path / "both.mp4"), end_seconds=2.0)

    def left(answer: dict[str, Any]) -> float:
        return next(each["probability"] for each in answer["classes"] if each["name"] == "left")

    assert left(part) == pytest.approx(left(whole), abs=0.03)
    # How far two parts lie apart is as the small model happened to learn, on this processor.
    assert abs(left(first) - left(whole)) > 5 * abs(left(part) - left(whole))
    assert part["spans"][-1]["end_seconds"] == pytest.approx(2.0)


# --- pictures


def read(file: str) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(storage.read(file), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(picture[..., ::-1])


def test_the_confusion_matrix_is_coloured_by_shares() -> None:
    drawn = pictures.confusion({"classes": ["left", "right"], "counts": [[4, 0], [2, 2]]})
    side, left = pictures.CELL_SIDE, pictures.NAME_WIDTH
    top = pictures.TITLE_HEIGHT + pictures.LINE_HEIGHT

    def corner(row: int, column: int) -> list[int]:  # below the words
        cell = drawn[top + (row + 1) * side - 4, left + (column + 1) * side - 4]
        return [int(value) for value in cell]

    assert corner(0, 0) == pictures.FULL.astype(int).tolist()
    assert corner(0, 1) == [255, 255, 255]
    assert corner(1, 0) == corner(1, 1) == ((255 + pictures.FULL) / 2).astype(int).tolist()


def test_many_classes_still_fit() -> None:
    counts = np.eye(400, dtype=int).tolist()
    names = [f"class {at}" for at in range(400)]
    assert max(pictures.confusion({"classes": names, "counts": counts}).shape) < 2400


def test_pictures_are_drawn_of_a_run(trained: dict[str, Any], dataset: str, tmp_path: Path) -> None:
    folder = str(Path(trained["folder"]).parent)
    told = api.evaluate("trained", folder=folder, pictures=str(tmp_path / "p"))
    names = {Path(file).name for file in told["pictures"]}
    assert names >= {"confusion.png", "classes.png", "calibration.png"}
    assert all(read(file).std() > 0 for file in told["pictures"])


def test_the_worst_errors_show_frames_of_their_videos(dataset: str, tmp_path: Path) -> None:
    whole = catalog.load(dataset)
    row = whole.part(split="test").row(0)
    told = {"target": "left", "label": "right", "probability": 0.9, "target_probability": 0.1}
    drawn = pictures.worst([{**told, "key": row["key"]}], whole)
    frames = video.decode_frames(whole.read(row), [0], short_side=pictures.FRAME_SIDE)
    top, left = pictures.TITLE_HEIGHT, pictures.BAR_WIDTH
    shown = drawn[top : top + pictures.FRAME_SIDE, left : left + pictures.FRAME_SIDE]
    assert (shown == frames[0]).all()


def test_a_wrong_frame_is_shown_among_those_around_it(dataset: str) -> None:
    whole = catalog.load(dataset)
    row = whole.part(split="test").row(0)
    told = {"target": "left", "label": "right", "probability": 0.9, "key": row["key"]}
    drawn = pictures.worst([{**told, "frame": 20}], whole)
    around = video.decode_frames(whole.read(row), [5, 15, 25, 35], short_side=pictures.FRAME_SIDE)
    top, left, side = pictures.TITLE_HEIGHT, pictures.BAR_WIDTH, pictures.FRAME_SIDE
    shown = drawn[top : top + side, left : left + 4 * side]
    assert (shown == np.concatenate(list(around), axis=1)).all()

"""Inference: one answer for the same bytes, whoever asks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill import api, catalog, evaluate, infer, storage, video
from clipmill.errors import RunError, VideoError
from tiny import moving


@pytest.fixture(scope="module")
def model(trained: dict[str, Any]) -> infer.Model:
    return infer.load(f"{trained['folder']}/model")


def by_class(answer: dict[str, Any]) -> dict[str, float]:
    return {each["name"]: each["probability"] for each in answer["classes"]}


def test_a_records_own_bytes_give_the_answer_of_evaluation(
    model: infer.Model, dataset: str
) -> None:
    data = catalog.load(dataset)
    rows = {row["key"]: row for row in data.table.to_pylist()}
    tested = evaluate.evaluate(model, data)
    assert tested["videos"] == len(tested["answers"]) == 6
    for answer in tested["answers"]:
        again = infer.answer(model, data.read(rows[answer["key"]]))
        assert by_class(again) == pytest.approx(by_class(answer), abs=1e-5)
        assert sum(by_class(again).values()) == pytest.approx(1.0)


def test_accuracy_is_the_share_of_right_answers(model: infer.Model, dataset: str) -> None:
    tested = evaluate.evaluate(model, catalog.load(dataset))
    right = [answer["label"] == answer["target"] for answer in tested["answers"]]
    assert tested["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert tested["protocol"]["clips"] == model.plugin.test_clips


def test_every_video_is_measured_once_whatever_the_batch(model: infer.Model, dataset: str) -> None:
    wide = model.recipe.model_copy(
        update={"train": model.recipe.train.model_copy(update={"batch": 7})}
    )
    other = infer.Model(model.module, wide, model.classes, model.profile)
    one, two = (
        evaluate.evaluate(each, catalog.load(dataset))["answers"] for each in (model, other)
    )
    assert [a["key"] for a in one] == [a["key"] for a in two]
    for a, b in zip(one, two, strict=True):
        assert by_class(a) == pytest.approx(by_class(b), abs=1e-5)


@pytest.mark.parametrize(("fps", "suffix"), [(12, "mp4"), (30, "mkv"), (15, "avi")])
def test_any_video_is_answered(model: infer.Model, tmp_path: Path, fps: int, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    frames = [np.pad(frame, ((0, 0), (10, 10), (0, 0))) for frame in moving(5, 2)]
    video.encode(str(path), frames, fps=fps)
    answer = infer.answer(model, path.read_bytes())
    assert set(by_class(answer)) == {"left", "right"}
    assert answer["input"]["frames"] == 24
    assert len(answer["spans"]) == model.plugin.test_clips


def test_a_one_frame_video_is_answered(model: infer.Model, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    video.encode(str(path), moving(5, 2, frames=1), fps=10)
    assert infer.answer(model, path.read_bytes())["label"] in {"left", "right"}


def test_what_is_no_video_is_refused(model: infer.Model) -> None:
    with pytest.raises(VideoError):
        infer.answer(model, b"just text")


def test_weights_that_were_changed_are_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    source = f"{trained['folder']}/model"
    for path in storage.list_files(source):
        storage.put(str(tmp_path / Path(path).name), storage.read(path))
    weights = storage.read(str(tmp_path / "weights.safetensors"))
    storage.put(str(tmp_path / "weights.safetensors"), weights[:-4] + b"\0\0\0\1")
    with pytest.raises(RunError, match="were changed"):
        infer.load(str(tmp_path))


def test_an_unfinished_run_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no model\.json"):
        infer.load(str(tmp_path))


def test_predict_takes_a_run_by_name_or_id(trained: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "x.mp4")
    video.encode(path, moving(5, 2), fps=15)
    folder = str(Path(trained["folder"]).parent)
    answers = [api.predict(run, [path], folder=folder) for run in ("trained", trained["run_id"])]
    assert answers[0] == answers[1]
    assert answers[0]["videos"][0]["video"] == path

"""Galleries: enrolled, matched and refused, and no file lost by what goes wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from typer.testing import CliRunner

from clipmill import api, gallery, infer, video
from clipmill.cli import app
from clipmill.errors import ClipmillError, DataError, PluginError, UsageError
from clipmill.video.picture import jpeg
from serving import client_of, numbers_in
from tiny import moving


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("similar")
    fields = {"width": 0.125, "size": 32, "resize": 36, "embedding": 8, "identities": "label"}
    return api.train(
        {
            "run": {"name": "alike", "folder": str(folder)},
            "data": {"path": dataset},
            "model": {"plugin": "siamese", **fields},
            "train": {"steps": 3, "batch": 4, "workers": 0, "checkpoint_every": 3},
        }
    )


@pytest.fixture
def model(run: dict[str, Any]) -> infer.Model:
    return infer.load(f"{run['folder']}/model")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A picture and a video."""
    (tmp_path / "one.jpg").write_bytes(jpeg(moving(5, 2)[0]))
    video.encode(str(tmp_path / "two.mp4"), moving(6, 2), fps=15)
    return {"one": str(tmp_path / "one.jpg"), "two": str(tmp_path / "two.mp4")}


def test_a_test_goes_by_the_threshold_of_the_validation(
    run: dict[str, Any], tmp_path: Path
) -> None:
    folder = str(Path(run["folder"]).parent)
    tested = api.evaluate("alike", folder=folder, pictures=str(tmp_path))
    for name in ("threshold", "open_set_threshold"):
        assert tested["metrics"][name] == run["metrics"][f"val_{name}"]
    assert [Path(file).name for file in tested["pictures"]] == ["distances.png", "hardest.png"]
    keys = {row["key"] for row in tested["answers"]}
    for pair in tested["figures"]["hardest"]:
        assert {pair["key"], pair["other"]} <= keys
    assert tested["metrics"]["pairs_same"] == 12 and tested["videos"] == 6


def test_a_server_tells_whom_its_gallery_knows(
    run: dict[str, Any], files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line starts it, but for the door: behind that a client asks, and leaves."""
    known, folder = str(tmp_path / "known.safetensors"), str(Path(run["folder"]).parent)
    api.gallery_enrol(known, "alike", "two", files["two"], folder=folder)
    answers = []

    def opened(served: Any, **options: Any) -> None:
        with client_of(served, {"Authorization": "Bearer given"}) as client:
            video = {"video": Path(files["two"]).read_bytes()}
            answers.append(client.post("/v1/models/alike/predict", files=video))

    monkeypatch.setattr("clipmill.serve.run", opened)
    options = ["--port", "0", "--token", "given", "--runs", folder]
    ran = CliRunner().invoke(app, ["serve", "alike", "--gallery", f"alike={known}", *options])
    assert ran.exit_code == 0, ran.output
    (match,) = api.gallery_match(known, "alike", [files["two"]], folder=folder)["matches"]
    found = answers[0].raise_for_status().json()["match"]
    assert found["identity"] == "two" and found["recognised"]
    assert numbers_in(found) == pytest.approx(numbers_in(match), abs=1e-5)
    with pytest.raises(UsageError, match="a gallery for other; wanted one of the models served"):
        api.serve(["alike"], port=0, galleries={"other": known}, folder=folder)


def test_enrolled_by_a_picture_or_a_video_and_matched(
    run: dict[str, Any], files: dict[str, str], tmp_path: Path
) -> None:
    known, folder = str(tmp_path / "known"), str(Path(run["folder"]).parent)
    for name, file in files.items():
        done = api.gallery_enrol(known, "alike", name, file, folder=folder)
    assert done["identities"] == 2
    told = api.gallery_list(known)
    assert [each["enrolled_as"] for each in told["identities"]] == ["picture", "video"]
    found = api.gallery_match(known, "alike", list(files.values()), folder=folder)["matches"]
    assert [each["identity"] for each in found] == ["one", "two"]
    assert all(each["distance"] == pytest.approx(0, abs=1e-6) for each in found)
    assert found[0]["threshold"] == pytest.approx(run["metrics"]["val_open_set_threshold"])
    asked = {"folder": folder, "threshold": -1.0}
    (nobody,) = api.gallery_match(known, "alike", [files["one"]], **asked)["matches"]
    assert (nobody["identity"], nobody["recognised"]) == ("not recognised", False)
    assert nobody["nearest"][0]["identity"] == "one"
    assert api.gallery_remove(known, "one")["identities"] == 1
    asked = {"folder": folder, "threshold": 4.0}
    (left,) = api.gallery_match(known, "alike", [files["one"]], **asked)["matches"]
    assert left["identity"] == "two"


def test_the_command_line_keeps_a_gallery_and_tells_of_a_bad_picture(
    run: dict[str, Any], files: dict[str, str], tmp_path: Path
) -> None:
    known, runs = str(tmp_path / "known"), ("--runs", str(Path(run["folder"]).parent))
    broken = str(tmp_path / "broken.png")
    Path(broken).write_bytes(b"no picture")
    for name, file in files.items():
        done = said("enrol", known, "alike", name, file, *runs)
    before = Path(known).read_bytes()
    assert done["identities"] == 2
    (fault,) = said("enrol", known, "alike", "three", broken, *runs, code=1).values()
    assert "broken.png" in fault and Path(known).read_bytes() == before
    asked = ("match", known, "alike", files["two"], broken, *runs)
    right, wrong = said(*asked)["matches"]
    assert right["identity"] == "two" and (wrong["file"], wrong["error"]) == (broken, fault)
    shown = CliRunner().invoke(app, ["gallery", *asked], env={"COLUMNS": "300"})
    assert shown.exit_code == 0 and files["two"] in shown.stdout and broken not in shown.stdout
    assert f"clipmill: {fault}" in shown.stderr.splitlines()
    assert said("match", known, "alike", broken, *runs, code=1) == {"error": fault}
    assert said("remove", known, "two")["identities"] == 1
    assert [each["identity"] for each in said("list", known)["identities"]] == ["one"]


def said(*words: str, code: int = 0) -> dict[str, Any]:
    """What a verb of galleries prints for programs."""
    ran = CliRunner().invoke(app, ["gallery", *words, "--json"])
    assert ran.exit_code == code, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_a_name_is_enrolled_once_unless_it_is_said(
    model: infer.Model, files: dict[str, str], tmp_path: Path
) -> None:
    known = str(tmp_path / "known")
    gallery.enrol(model, known, "one", files["one"])
    with pytest.raises(UsageError, match="is enrolled in"):
        gallery.enrol(model, known, "one", files["two"])
    assert gallery.enrol(model, known, "one", files["two"], instead=True)["identities"] == 1
    assert gallery.load(known).known[0].file == "two.mp4"
    for name in ("", "not recognised"):
        with pytest.raises(UsageError, match="a name"):
            gallery.enrol(model, known, name, files["one"])


def test_another_models_gallery_is_refused(
    model: infer.Model, files: dict[str, str], tmp_path: Path
) -> None:
    known = str(tmp_path / "known")
    gallery.enrol(model, known, "one", files["one"])
    before = Path(known).read_bytes()
    with torch.no_grad():
        next(model.module.parameters()).add_(1e-3)
    with pytest.raises(DataError, match="was made by siamese with the weights"):
        gallery.match(model, known, files["one"])
    with pytest.raises(DataError, match="was made by siamese"):
        gallery.enrol(model, known, "two", files["two"])
    assert Path(known).read_bytes() == before


def test_what_cannot_be_read_is_one_line_and_loses_nothing(
    model: infer.Model, files: dict[str, str], tmp_path: Path
) -> None:
    known, empty = str(tmp_path / "known"), str(tmp_path / "empty")
    gallery.enrol(model, known, "one", files["one"])
    gallery.enrol(model, empty, "one", files["one"])
    gallery.remove(empty, "one")
    before = Path(known).read_bytes()
    for name in ("broken.png", "broken.mp4", "nothing.jpg"):
        (tmp_path / name).write_bytes(b"" if name == "nothing.jpg" else b"no picture")
        with pytest.raises(ClipmillError, match=name) as told:
            gallery.enrol(model, known, "two", str(tmp_path / name))
        assert "\n" not in str(told.value)
    assert Path(known).read_bytes() == before
    with pytest.raises(DataError, match="is empty"):
        gallery.match(model, empty, files["one"])
    with pytest.raises(DataError, match="no gallery at"):
        gallery.match(model, str(tmp_path / "none"), files["one"])
    with pytest.raises(UsageError, match="is not in"):
        gallery.remove(known, "two")


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 64, safetensors.numpy.save({})])
def test_what_is_no_gallery_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "known").write_bytes(data)
    with pytest.raises(DataError, match="is no gallery"):
        gallery.load(str(tmp_path / "known"))


def test_a_gallery_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = tuple(gallery.Known(name, f"{name}.png", "picture") for name in ("ä", "b c"))
    made = gallery.Gallery("ab" * 32, "triplet", known, np.eye(2, 5, dtype=np.float32))
    gallery.save(str(tmp_path / "known"), made)
    again = gallery.load(str(tmp_path / "known"))
    assert (again.known, again.weights_sha256, again.plugin) == (known, "ab" * 32, "triplet")
    np.testing.assert_array_equal(again.embeddings, made.embeddings)


def test_a_model_that_compares_nothing_is_refused(
    trained: dict[str, Any], files: dict[str, str], tmp_path: Path
) -> None:
    other = infer.load(f"{trained['folder']}/model")
    with pytest.raises(PluginError, match="single_frame compares no embeddings"):
        gallery.enrol(other, str(tmp_path / "known"), "one", files["one"])

"""Pictures of what models make of test videos: masks, heat and neighbours, from real tiny runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from numpy.typing import NDArray
from typer.testing import CliRunner

from clipmill import api, feed, infer, video
from clipmill import evaluate as evaluation
from clipmill import picture as pictures
from clipmill import plan as plans
from clipmill.cli import app
from clipmill.errors import ClipmillError, DataError
from clipmill.picture import drawing, nearest
from clipmill.picture.seeing import Seen, seen
from tiny import ingested, recipe_of

runner = CliRunner()
SIZE = {"width": 0.125, "size": 32, "resize": 40, "test_clips": 2}
MODELS = {
    "motion_foreground": SIZE,
    "audio_visual": {**SIZE, "sound_seconds": 0.5, "far_seconds": 0.4},
    "temporal_coherence": {**SIZE, "augment": ["crop"]},
}
VIDEOS = {"train": 4, "test": 7}


def going(seed: int, frames: int = 30, size: int = 48) -> list[NDArray[np.uint8]]:
    """A bright square that goes over still noise."""
    still = np.random.default_rng(seed).integers(0, 120, (size, size, 3), dtype=np.uint8)
    made = []
    for frame in range(frames):
        picture, left = still.copy(), (2 * frame + 5 * seed) % (size - 16)
        picture[10 + seed : 26 + seed, left : left + 16] = (250, 200, 40)
        made.append(picture)
    return made


@pytest.fixture(scope="module")
def data(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Videos of one class or the other, with something that moves, and a tone of their own."""
    folder = tmp_path_factory.mktemp("picture")
    for split, count in VIDEOS.items():
        for number in range(count):
            seed = number + 20 * (split == "test")
            tone = np.sin(np.arange(32_000) * 0.05 * (1 + seed)).astype(np.float32) / 2
            place = folder / "videos" / split / ("low", "high")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            video.encode(str(place / f"{number}.mp4"), going(number), fps=15, audio=tone)
    return ingested(folder / "videos", folder / "data")


@pytest.fixture(scope="module")
def runs(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of each pretext, of a step."""
    folder = str(tmp_path_factory.mktemp("runs"))
    for name, fields in MODELS.items():
        plain = recipe_of(
            run={"name": name, "folder": folder}, data={"path": data, "validate": "none"},
            train={"steps": 1, "batch": 4},
        )  # fmt: skip
        api.train({**plain, "model": {"plugin": name, **fields}})
    return folder


def told(runs: str, name: str, out: Path, *words: Any) -> dict[str, Any]:
    asked = ["picture", name, "--out", str(out), "--runs", runs, *map(str, words), "--json"]
    done = runner.invoke(app, asked)
    assert done.exit_code == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def read(file: str) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(file), np.uint8)[..., ::-1]


# --- from real runs


def test_masks_are_drawn_beside_the_motion(runs: str, tmp_path: Path) -> None:
    value = told(runs, "motion_foreground", tmp_path / "m.png", "--videos", 3)
    assert value["kinds"] == ["mask", "embedding"] and value["videos"] == 3
    assert 0 <= value["iou_with_motion"] <= 1 and value["compared"] == 7
    model = infer.load(f"{runs}/motion_foreground/model")
    plan = plans.make(model.recipe, "test")
    shown = seen(model, plan, np.array([0, 3, 6]))
    assert all((each.truths["motion"] > 0).any() for each in shown), "nothing moves"
    assert all(each.outputs["mask"].shape == (32, 32) for each in shown)
    picture = read(value["file"])
    pictures = drawing.over_stills(shown)
    top = drawing.TITLE_HEIGHT + drawing.GAP
    for drawn in pictures:
        height, width = drawn.shape[:2]
        assert np.array_equal(picture[top : top + height, :width], drawn)
        top += height + drawing.GAP


def test_heat_is_drawn_over_the_still(runs: str, tmp_path: Path) -> None:
    value = told(runs, "audio_visual", tmp_path / "h.jpg", "--videos", 2)
    assert value["kinds"] == ["heat", "embedding"] and "iou_with_motion" not in value
    assert read(value["file"]).shape[1] >= drawing.WORDS_WIDTH + 2 * drawing.LEAST_SIDE


def test_neighbours_are_those_that_a_search_finds(runs: str, tmp_path: Path) -> None:
    value = told(runs, "temporal_coherence", tmp_path / "n.png", "--videos", 2)
    assert value["kinds"] == ["embedding"] and value["compared"] == 7
    model = infer.load(f"{runs}/temporal_coherence/model")
    answers = evaluation.evaluate(model)["answers"]
    vectors = {each["key"]: np.array(each["embedding"]) for each in answers}
    assert len(vectors) == 7
    same = []
    for row in value["rows"]:
        own = vectors[row["key"]]
        cosines = {
            key: float(own @ other / np.linalg.norm(own) / np.linalg.norm(other))
            for key, other in vectors.items()
            if key != row["key"]
        }
        best = sorted(cosines.values(), reverse=True)[:5]
        found = [each["cosine"] for each in row["neighbours"]]
        assert found == pytest.approx(best, abs=1e-5)
        assert found == pytest.approx([cosines[e["key"]] for e in row["neighbours"]], abs=1e-5)
        same += [each["label"] == row["label"] for each in row["neighbours"]]
    assert value["same_class_share"] == pytest.approx(np.mean(same))


def test_the_still_is_what_the_network_got(runs: str) -> None:
    model = infer.load(f"{runs}/motion_foreground/model")
    plan = plans.make(model.recipe, "test")
    takes = plan.epoch(0)
    for each in seen(model, plan, np.array([1, 5])):
        places = np.flatnonzero(takes.record[:, 0] == each.place)
        lot = plan.lot(takes)
        made = feed.sample(plan.plugin, lot, int(places[len(places) // 2]))
        assert np.array_equal(each.picture, made["rgb"][0])
        assert np.array_equal(each.truths["motion"], made["motion"][0])
        assert each.row["key"] == plan.catalog.row(each.place)["key"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"out": "x.gif"}, "a file that ends in .png"),
        ({"videos": 0}, "1 at the least"),
        ({"split": "nosuch"}, "split 'nosuch'"),
        (
            {"out": "x.mp4"},
            "temporal_coherence answers with .*; wanted one of things, class_scores",
        ),
        ({"target": "trained"}, "answers with probabilities; wanted one of mask, heat, embedding"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    runs: str, trained: dict[str, Any], tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    asked = {"target": "temporal_coherence", "folder": runs, "out": "x.png", **options}
    if asked["target"] == "trained":
        asked["folder"] = str(Path(trained["folder"]).parent)
    asked["out"] = str(tmp_path / asked["out"])
    with pytest.raises(ClipmillError, match=line):
        api.picture(**asked)
    assert not list(tmp_path.iterdir())


# --- drawing


def of(**told: Any) -> Seen:
    picture = np.full((4, 4, 3), 100, np.uint8)
    fields = {"place": 0, "row": {"key": "k", "label": None}, "picture": picture, "truths": {}}
    return Seen(**{**fields, "outputs": {}, **told})


def test_a_mask_has_an_edge_and_a_tint_and_the_rest_stays() -> None:
    still = np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    made = drawing.masked(still, mask)
    inside = np.kron(mask, np.ones((4, 4), bool))
    assert np.array_equal(made[~inside], still[~inside])
    edge = (made == drawing.GREEN).all(2)
    assert edge.sum() == 4 * 15 and not edge[9:23, 9:23].any()
    assert (made[9:23, 9:23] != still[9:23, 9:23]).any()


def test_heat_goes_from_blue_to_red() -> None:
    still = np.zeros((40, 40, 3), np.uint8)
    made = drawing.heated(still, np.array([[-3.0, 0.0], [0.0, 5.0]]))
    cold, hot = made[0, 0].astype(int), made[-1, -1].astype(int)
    assert cold[2] > 50 and cold[0] == 0 and hot[0] > 100 and hot[2] == 0
    assert drawing.heated(still, np.zeros((3, 3))).shape == still.shape  # nothing stands out


@given(
    hn.arrays(np.float64, hn.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-5, 5)),
    st.integers(6, 30),
)  # fmt: skip
def test_values_between_places_are_between_them(x_hw: NDArray[Any], side: int) -> None:
    made = drawing.smooth(x_hw, (side, side))
    assert made.shape == (side, side)
    assert x_hw.min() - 1e-9 <= made.min() and made.max() <= x_hw.max() + 1e-9
    exact = drawing.smooth(x_hw, x_hw.shape)
    np.testing.assert_allclose(exact, x_hw, atol=1e-9)
    assert np.array_equal(nearest.sized(x_hw, x_hw.shape), x_hw)


def test_overlap_leaves_out_what_nobody_knows() -> None:
    mask = np.zeros((4, 4))
    mask[:2] = 0.9
    truth = np.zeros((4, 4), np.uint8)
    truth[1:3] = 7
    assert nearest.overlap(of(outputs={"mask": mask}, truths={"mask": truth}), "mask") == 1 / 3
    truth[2] = video.VOID
    truth[0] = video.VOID
    assert nearest.overlap(of(outputs={"mask": mask}, truths={"mask": truth}), "mask") == 1
    empty = of(outputs={"mask": mask * 0}, truths={"mask": truth * 0})
    assert nearest.overlap(empty, "mask") == 1
    assert nearest.overlaps([empty, of()]) == {"iou_with_mask": 1.0}


def test_others_that_do_not_decode_cost_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> list[Seen]:
        raise DataError("not one of 1 videos could be decoded")

    monkeypatch.setattr(pictures, "seen", none)
    plan: Any = SimpleNamespace(catalog=range(3))
    model: Any = None
    assert pictures._others(model, plan, [of(place=0), of(place=1)], None) == []
    with pytest.raises(DataError):
        pictures._others(model, plan, [of(place=0)], None)

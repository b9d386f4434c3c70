"""Segmenters drawn: classes and things over stills, the worst answers first, and whole videos."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipmill import api, video, worlds
from clipmill.errors import UsageError
from clipmill.picture import paint
from clipmill_segment.enet import ENet
from clipmill_segment.fcn import FCN
from clipmill_segment.mask_rcnn import MaskRCNN
from clipmill_segment.segnet import SegNet
from clipmill_segment.things import runs_of
from clipmill_segment.unet import UNet
from tiny import ingested, recipe_of

FIELDS = {
    **{plugin.name: {**plugin.small, "test_clips": 2} for plugin in (FCN, SegNet, ENet, UNet)},
    "mask_rcnn": {**MaskRCNN.small, "test_clips": 2, "sure": 0.01},
}


@pytest.fixture(scope="module")
def runs(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of a step of each segmenter."""
    folder = tmp_path_factory.mktemp("drawn")
    worlds.make("objects", str(folder / "world"), videos=6, size=64, seed=0, workers=1)
    data = ingested(folder / "world", folder / "data")
    for name, fields in FIELDS.items():
        plain = recipe_of(
            run={"name": name, "folder": str(folder)}, data={"path": data, "validate": "none"},
            train={"steps": 1, "batch": 4},
        )  # fmt: skip
        api.train({**plain, "model": {"plugin": name, **fields}})
    return str(folder)


@pytest.mark.parametrize("name", FIELDS)
def test_the_worst_come_first_with_their_figures(name: str, runs: str, tmp_path: Path) -> None:
    out = str(tmp_path / "w.png")
    made = api.picture(name, out=out, videos=2, worst=True, split="train", folder=runs)
    assert made["kinds"] == ["thing_masks" if name == "mask_rcnn" else "class_scores"]
    assert Path(made["file"]).stat().st_size > 0
    figures = [each["figure"] for each in made["worst"]]
    every = api.picture(name, out=out, videos=9, worst=True, split="train", folder=runs)
    assert len(every["worst"]) > 2 and figures == sorted(e["figure"] for e in every["worst"])[:2]


@pytest.mark.parametrize("name", ["unet", "mask_rcnn"])
def test_a_film_shows_every_moment_beside_itself(name: str, runs: str, tmp_path: Path) -> None:
    file = str(tmp_path / "f.mp4")
    made = api.picture(name, out=file, videos=1, seconds=1.6, folder=runs)
    side = 2 * 64 if name == "mask_rcnn" else 4 * 32
    info = video.probe(file)
    assert (info.frames, info.fps, info.height, info.width) == (8, 5.0, side, 2 * side)
    assert made["videos"][0]["frames"] == 8
    assert ("things" in made["videos"][0]) == (name == "mask_rcnn")
    again = api.picture(name, out=str(tmp_path / "g.mp4"), files=[file], seconds=0.4, folder=runs)
    assert [each["frames"] for each in again["videos"]] == [2]
    with pytest.raises(UsageError, match=r"a file that ends in \.mp4"):
        api.picture(name, out=str(tmp_path / "g.png"), files=[file], folder=runs)


# --- drawing


def still() -> NDArray[np.uint8]:
    return np.full((64, 64, 3), 200, np.uint8)


def test_classes_have_their_colours_and_the_ground_stays() -> None:
    numbers = np.zeros((16, 16), np.int64)
    numbers[2:6, 2:6], numbers[8:12, 8:12] = 1, 2
    made = paint.painted(still(), numbers)
    large = numbers.repeat(4, 0).repeat(4, 1)
    assert (made[large == 0] == 200).all()
    assert tuple(made[8, 8]) == paint.colour_of(1) and tuple(made[32, 32]) == paint.colour_of(2)
    inner = made[16, 16].astype(int)
    assert np.abs(inner - (np.array(paint.colour_of(1)) + 200) / 2).max() <= 1
    colours = [paint.colour_of(number) for number in range(1, 20)]
    assert len(set(colours)) == len(colours)


def test_things_are_drawn_by_their_numbers_and_named() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[8:12, 8:12] = True
    thing: dict[str, Any] = {
        "id": 3, "class": 1, "score": 0.9, "box": [0.5, 0.5, 0.75, 0.75], "mask": runs_of(mask)
    }  # fmt: skip
    made = paint.with_things(still(), [thing, {**thing, "id": 0}], ["car"])
    assert tuple(made[47, 47]) == paint.colour_of(3)
    name = made[8:32, 32:]
    assert (name < 100).all(2).any()  # ink
    assert np.array_equal(made[50:], still()[50:])
    assert np.array_equal(paint.with_things(still(), [{**thing, "id": 0}], ["car"]), still())


def test_a_thing_keeps_its_colour_from_frame_to_frame() -> None:
    def squared(number: int, top: int, left: int) -> dict[str, Any]:
        mask = np.zeros((16, 16), np.bool_)
        mask[top : top + 4, left : left + 4] = True
        box = [left / 16, top / 16, (left + 4) / 16, (top + 4) / 16]
        return {"id": number, "class": 1, "score": 0.9, "box": box, "mask": runs_of(mask)}

    one = paint.with_things(still(), [squared(3, 10, 0), squared(7, 10, 10)], ["car"])
    two = paint.with_things(still(), [squared(7, 10, 2), squared(3, 11, 8)], ["car"])
    assert tuple(one[50, 8]) == tuple(two[54, 40]) != tuple(one[50, 48]) == tuple(two[50, 16])

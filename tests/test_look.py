"""The contact sheet: what is in the picture is what the network gets, and its takes are named."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from clipmill import api, augment, catalog, look, shards, video
from clipmill import feed as feeds
from clipmill import plan as plans
from clipmill.cli import app
from clipmill.errors import ClipmillError, DataError, UsageError
from clipmill.look import Look
from clipmill.takes import Takes, View
from clipmill.video import sheet
from tiny import catalog_of, moving, recipe_of, rows

SIZE = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six records with their index: four to train on, two to test on."""
    folder = tmp_path_factory.mktemp("look")
    some = rows(6)
    made: dict[str, dict[str, bytes]] = {}
    for number, row in enumerate(some):
        path = folder / "one.mp4"
        video.encode(str(path), moving(number, 2, frames=40), fps=10)
        encoded, told = video.transcode(path.read_bytes(), video.Profile(short_side=SIZE))
        index = video.index_of(encoded)
        assert index is not None
        made[row["key"]] = {"mp4": encoded, "idx": index.packed()}
        row |= {name: getattr(told, name) for name in ("frames", "fps", "width", "height")}
        row |= {"label": f"Größe {number % 2}", "split": "train" if number < 4 else "test"}
    records = [shards.Record(*item) for item in made.items()]
    (folder / "data").mkdir()
    placed = shards.write(str(folder / "data" / "a.tar"), records)
    where = {each.key: each.members for each in placed}
    some = [{**row, "shard": "a.tar", "members": where[row["key"]]} for row in some]
    meta = {"classes": ["Größe 0", "Größe 1"], "counts": {}}
    catalog.save(str(folder / "data"), catalog_of(some).table, meta)
    return str(folder / "data")


@pytest.fixture
def recipe(data: str) -> dict[str, Any]:
    fields = {"plugin": "c3d", "frames": 4, "size": 32, "resize": 40, "width": 0.125}
    return recipe_of(data={"path": data}, model=fields, train={"batch": 4})


def read(file: str) -> NDArray[np.uint8]:
    found = cv2.imread(file, cv2.IMREAD_COLOR)
    assert found is not None
    return np.asarray(found[..., ::-1], np.uint8)


def test_the_picture_shows_the_batch_that_the_network_gets(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    told = api.look(recipe, out=str(tmp_path / "sheet.png"))
    given = api.recipe(recipe)
    plan = plans.make(given, "train")
    with feeds.batches(plan, feeds.Share(0, 1)) as batches:
        batch = next(batches)
    view = plan.plugin.views()["train"]
    tensors = augment.prepare(batch, view, training=True)
    assert [take["position"] for take in told["takes"]] == batch["position"].tolist()
    assert [take["seed"] for take in told["takes"]] == batch["seed"].tolist()
    takes = plan.at(0, 4)
    assert [take["key"] for take in told["takes"]] == [plan.keys(takes, at)[0] for at in range(4)]
    for at, take in enumerate(told["takes"]):
        row = plan.catalog.row(int(takes.record[at, 0]))
        assert take["label"] == row["label"]
        assert take["first_seconds"] == pytest.approx(int(takes.first[at, 0]) / row["fps"], abs=1e-3)  # fmt: skip
        assert take["last_seconds"] == pytest.approx(int(takes.last[at, 0]) / row["fps"], abs=1e-3)
    picture = read(told["file"])
    times = math.ceil(look.LEAST_SIDE / 32)
    top = look.TITLE_HEIGHT
    for at in range(4):
        top += look.GAP
        for frame in range(4):
            left = look.WORDS_WIDTH + frame * (32 * times + look.GAP // 2)
            shown = picture[top : top + 32 * times : times, left : left + 32 * times : times]
            wanted = tensors["rgb"][at, :, frame].permute(1, 2, 0).numpy() * view.std + view.mean
            np.testing.assert_allclose(shown, wanted * 255, atol=0.51)
        top += 32 * times + look.GAP // 2
    assert top == len(picture), "and nothing else"


def test_the_words_name_each_take(recipe: dict[str, Any], tmp_path: Path) -> None:
    told = api.look(recipe, out=str(tmp_path / "sheet.png"))
    picture = read(told["file"])
    first = told["takes"][0]
    lines = [
        first["label"],
        first["key"],
        f"{first['first_seconds']:g} to {first['last_seconds']:g} s, take {first['position']}",
    ]
    top, height = look.TITLE_HEIGHT + look.GAP, 3 * look.LEAST_SIDE // 3 + look.GAP // 2
    wanted = sheet.written(lines, height, look.WORDS_WIDTH)
    np.testing.assert_array_equal(picture[top : top + height, : look.WORDS_WIDTH], wanted)


def test_every_stage_and_batch_can_be_looked_at(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = str(tmp_path / "sheet.jpg")
    told = api.look(recipe, ["train.batch=3"], out=out, stage="test", batch=2)
    assert (told["stage"], told["batch"], told["of"]) == ("test", 2, 2)
    # Two records, four clips each, in batches of three: the last one is short.
    assert [take["position"] for take in told["takes"]] == [6, 7]
    assert read(out).shape[2] == 3
    assert [t["position"] for t in api.look(recipe, out=out, batch=5)["takes"]] == [20, 21, 22, 23]
    for asked, got in (
        ({"stage": "test", "batch": 9}, "batch 9"),
        ({"stage": "end"}, "stage 'end'"),
    ):
        with pytest.raises(UsageError, match=got):
            api.look(recipe, out=out, **asked)


def test_the_verb_writes_one_picture_and_tells_its_takes(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    ran = CliRunner().invoke(app, ["look", "r.yaml", "train.batch=2", "--json"])
    told = json.loads(ran.stdout)
    assert told["file"] == str(tmp_path / "tiny-train.png") and len(told["takes"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml", "tiny-train.png"]
    ran = CliRunner().invoke(app, ["look", "r.yaml", "--out", "a.txt"])
    assert ran.exit_code == 2 and "a file that ends in .png" in ran.stderr
    shown = CliRunner().invoke(app, ["look", "r.yaml"]).stdout
    assert "tiny-train.png" in shown and "Größe 1" in shown


@pytest.mark.parametrize("stage", ["train", "test"])
def test_a_bad_clip_is_told_or_left_out(
    recipe: dict[str, Any], data: str, tmp_path: Path, stage: str
) -> None:
    """One record's bytes are spoilt: its index is whole, its pictures are not."""
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    split = catalog.load(str(broken)).part(split=stage)
    row = split.row(0)
    (member,) = (each for each in row["members"] if each["suffix"] == "mp4")
    with (broken / "a.tar").open("r+b") as file:
        file.seek(member["offset"])
        file.write(b"\0" * member["length"])
    out = str(tmp_path / "sheet.png")
    asked = ["feed.max_bad_share=0.9", f"data.path={broken}"]
    size = 4 if stage == "train" else 6  # of a test batch four clips are of the first record
    told = api.look(recipe, [*asked, f"train.batch={size}"], out=out, stage=stage)
    assert row["key"] not in [take["key"] for take in told["takes"]]
    if stage == "train":
        (instead,) = (take for take in told["takes"] if "instead_of" in take)
        assert instead["instead_of"] == row["key"] and told["of"] == 4
    else:
        assert told["of"] == len(told["takes"]) == 2
        with pytest.raises(DataError, match="batch 0 of test without a clip that decodes"):
            api.look(recipe, asked, out=out, stage=stage)


def seen(view: View, **streams: NDArray[Any]) -> Look:
    count = len(next(iter(streams.values())))
    take = {"label": None, "key": "k", "first_seconds": 0.0, "last_seconds": 1.0, "position": 0}
    return Look(view, streams, [take] * count, count)


def test_sound_flow_and_masks_are_drawn_below_each_other() -> None:
    view = View(streams=("rgb", "flow", "audio", "mask"), frames=4, size=96, resize=96)
    rgb = np.zeros((2, 3, 4, 96, 96), np.float32)
    flow = np.zeros((2, 2, 3, 96, 96), np.float32)
    mask = np.zeros((2, 4, 96, 96), np.int64)
    mask[:, :, :48] = 1
    audio = np.zeros((2, 8000), np.float32)
    one = look.drawn(seen(view, rgb=rgb, flow=flow, audio=audio, mask=mask), "title")
    strips = (96 + 2) * 2 + look.WAVE_HEIGHT + 2 + look.BANDS + 2
    assert len(one) == look.TITLE_HEIGHT + 2 * (look.GAP + strips)
    corner = one[look.TITLE_HEIGHT + look.GAP :, look.WORDS_WIDTH :]
    mean = round(0.45 * 255)
    assert abs(int(corner[90, 5, 0]) - mean) <= 1 and abs(int(corner[90, 5, 1]) - mean) <= 1
    assert np.ptp(corner[5, 5].astype(int)) > 60, "the upper half is tinted by its mask"
    assert (corner[98 + 5, :90] == 255).all(), "no motion is white"
    alone = look.drawn(seen(view, mask=mask), "title")
    assert len(alone) == look.TITLE_HEIGHT + 2 * (look.GAP + 98)


def test_the_wheel_tells_directions_and_speed() -> None:
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0], [0.5, 0]], np.float32)
    colours = look.wheel(np.tile(directions.T[:, None, None, :], (1, 1, 50, 1)))[0, 0]
    right, down, left, up, still, slow = colours
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(still, 1)
    np.testing.assert_allclose(slow, (right + 1) / 2, atol=1e-6)
    apart = [np.abs(a - b).max() for a, b in ((right, left), (up, down), (right, up))]
    assert min(apart) > 0.4


def test_sound_shows_where_it_is_loud_and_how_high() -> None:
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 300 * time) * (time < 0.5)
    high = np.sin(2 * np.pi * 6000 * time) * (time < 0.5)
    outline, low_bands = look.sound(tone.astype(np.float32), 16_000, 400)
    _, high_bands = look.sound(high.astype(np.float32), 16_000, 400)
    ink = (outline[: look.WAVE_HEIGHT, :, 0] < 128).sum(axis=0)
    assert ink[20:180].min() > 30 and ink[220:].max() <= 2
    lowest, highest = (
        int(bands[: look.BANDS, 20:180, 0].mean(axis=1).argmin())
        for bands in (low_bands, high_bands)
    )
    assert lowest > 30 > 15 > highest, "low sound is drawn below high sound"


def test_mixed_takes_and_stand_ins_say_so() -> None:
    take = {"label": "a", "key": "k", "first_seconds": 0.5, "last_seconds": 2.0, "position": 7}
    assert look._words(take) == ["a", "k", "0.5 to 2 s, take 7"]
    assert look._words({**take, "own_share": 0.75})[-1] == "25% of the next take"
    instead = {"label": None, "key": "k", "instead_of": "j", "position": 7}
    assert look._words(instead) == ["no label", "k", "instead of j"]


def test_several_classes_and_those_of_frames_are_named() -> None:
    spans = [
        {"label": "grows", "first_frame": 0, "last_frame": 19},
        {"label": "stays", "first_frame": 20, "last_frame": 39},
        {"label": "shrinks", "first_frame": 90, "last_frame": 95},
    ]
    row = {"label": "one", "labels": ["one", "two"], "spans": spans, "fps": 10.0}
    column, seeds = np.array([[0]]), np.zeros(1, np.uint64)
    takes = Takes(("train",), column, column.astype(np.int8), column + 10, column + 30, seeds)
    told = look._classes(row, takes)
    assert told["labels"] == ["one", "two"]
    assert [tuple(span.values()) for span in told["spans"]] == [
        ("grows", 1.0, 2.0), ("stays", 2.0, 3.1),
    ]  # fmt: skip
    take = {
        **told,
        "label": "one",
        "key": "k",
        "first_seconds": 1,
        "last_seconds": 3,
        "position": 7,
    }
    names = ["one, two", "1-2 s grows, 2-3.1 s stays"]
    assert look._words(take) == [*names, "k", "1 to 3 s, take 7"]
    assert look._classes({**row, "labels": None, "spans": None}, takes) == {}


def test_a_batch_without_streams_that_can_be_drawn_is_told() -> None:
    view = View(frames=2, size=16, resize=16)
    with pytest.raises(ClipmillError, match="a batch of points; wanted rgb, flow, masks or audio"):
        look.drawn(seen(view, points=np.zeros((1, 3))), "title")


def test_words_that_are_too_long_are_cut_and_say_so() -> None:
    short, long = sheet.written(["a" * 10], 40, 120), sheet.written(["a" * 90], 40, 120)
    assert (short < 128).any() and (long < 128).any()
    assert (long[:, -sheet.MARGIN_PIXELS :] == 255).all(), "nothing runs over the margin"
    assert (sheet.written(["a"] * 9, 40, 120)[38:] == 255).all()
    assert not np.array_equal(sheet.written(["世界"], 40, 120), sheet.written(["??"], 40, 120))


def test_pictures_are_files_of_their_suffix() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., 0] = 200
    assert sheet.encoded(picture, ".png").startswith(b"\x89PNG")
    assert sheet.encoded(picture, ".jpeg").startswith(b"\xff\xd8")
    back = cv2.imdecode(np.frombuffer(sheet.encoded(picture, ".png"), np.uint8), cv2.IMREAD_COLOR)
    assert back is not None
    np.testing.assert_array_equal(back[..., ::-1], picture)
    with pytest.raises(UsageError, match=r"as \.gif; wanted one of \.png"):
        sheet.encoded(picture, ".gif")

"""Real tiny runs of every pretext: exact resume, health in the run, and videos that lack something."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from clipmill import api, ingest, launch, recipe, storage, video
from clipmill import plan as plans
from clipmill.cli import app
from clipmill.errors import ClipmillError
from clipmill.plugin import found
from clipmill_pretext.pretext import Pretext
from tiny import recipe_of

FPS, FRAMES, SIZE, AUDIO_RATE = 15, 42, 48, 16_000
SPLITS = {"train": 8, "val": 2, "test": 3}
SMALL: dict[str, dict[str, Any]] = {  # what fits videos of less than three seconds
    "audio_visual": {"sound_seconds": 0.8, "test_clips": 2},
    "masked_video": {"test_clips": 2},
    "motion_foreground": {"test_clips": 2},
    "odd_one_out": {"test_clips": 3},
    "temporal_coherence": {"test_clips": 2},
    "temporal_order": {"tuple_seconds": 1.0, "gap_seconds": 0.3, "test_clips": 2},
}
PRETEXTS = [entry.plugin for entry in found() if entry.plugin and issubclass(entry.plugin, Pretext)]
every_pretext = pytest.mark.parametrize("pretext", PRETEXTS, ids=lambda each: each.name)

Film = Callable[[int], tuple[list[NDArray[np.uint8]], NDArray[np.float32] | None]]


# --- videos


def crossing(seed: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """A square that crosses a still ground, with a tone of its own."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 120, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    colour, frames = rng.integers(180, 256, 3), []
    for at in range(FRAMES):
        frame, left = ground.copy(), (2 * at + 5 * seed) % (SIZE - 14)
        frame[16:30, left : left + 14] = colour
        frames.append(frame)
    times = np.arange(AUDIO_RATE * FRAMES // FPS) / AUDIO_RATE
    pitch = 300 + 150 * (seed % 7)
    return frames, (0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def standing(seed: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """A still, with the same tones."""
    frames, sound = crossing(seed)
    return [frames[0]] * FRAMES, sound


def half_mute(seed: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32] | None]:
    """Every second one without a sound track."""
    frames, sound = crossing(seed)
    return frames, sound if seed % 2 else None


def data_of(folder: Path, film: Film, splits: dict[str, int]) -> str:
    """A dataset of such films, whose motion is measured; its folder."""
    for place, (split, count) in enumerate(splits.items()):
        home = folder / "videos" / split / "any"
        home.mkdir(parents=True)
        for number in range(count):
            frames, sound = film(100 * place + number)
            path = str(home / f"{number}.mp4")
            video.encode(path, frames, fps=FPS, audio=sound, audio_rate=AUDIO_RATE)
    options = ingest.Options(measures=("motion", "motion_curve"))
    ingest.run(str(folder / "videos"), str(folder / "data"), options)
    return str(folder / "data")


def recipe_for(pretext: type[Pretext], data: str, folder: Path, **train: Any) -> dict[str, Any]:
    return recipe_of(
        run={"name": "run", "folder": str(folder)},
        data={"path": data},
        model={"plugin": pretext.name, **pretext.small, **SMALL[pretext.name]},
        train={"batch": 4, "checkpoint_every": 3, "threads": 1, "log_every": 1, **train},
    )


# --- resume and health


@pytest.fixture(scope="module")
def crossings(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_of(tmp_path_factory.mktemp("crossings"), crossing, SPLITS)


@every_pretext
def test_a_broken_run_ends_with_the_same_weights_takes_and_health(
    pretext: type[Pretext], crossings: str, tmp_path: Path
) -> None:
    whole = api.train(recipe_for(pretext, crossings, tmp_path / "whole", steps=5))
    made = recipe.load(recipe_for(pretext, crossings, tmp_path / "broken", steps=4))
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain(), "identity": made.identity()})
    launch.work({"recipe": made.plain(), "folder": home.path, "transport": "thread"})
    again = api.train(recipe_for(pretext, crossings, tmp_path / "broken", steps=5))
    for name in ("weights_sha256", "takes_sha256", "health"):
        assert again[name] == whole[name], name
    _shows_its_health(pretext, whole)


def _shows_its_health(pretext: type[Pretext], done: dict[str, Any]) -> None:
    assert done["health"] and "\n" not in done["health"]
    assert f"val_{pretext.metric}" in done["metrics"]
    spreads = [value for name, value in done["metrics"].items() if name.endswith("_spread")]
    assert spreads and all(math.isfinite(each) and each >= 0 for each in spreads)
    kept: dict[str, Any] = storage.read_json(f"{done['folder']}/result.json")
    assert kept["health"] == done["health"]


# --- what videos lack

LACKING: dict[str, tuple[Film, dict[str, int]]] = {
    "one": (crossing, {"train": 1}),
    "stills": (standing, {"train": 4}),
    "half mute": (half_mute, {"train": 6}),
}
REFUSED = {
    "one": set[str](),
    "stills": {"motion_foreground", "odd_one_out", "temporal_order"},
    "half mute": set[str](),
}


@pytest.fixture(scope="module", params=LACKING)
def lacking(
    ray_local: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[str, str]:
    """Which videos they are, and their dataset."""
    film, splits = LACKING[request.param]
    return request.param, data_of(tmp_path_factory.mktemp("lacking"), film, splits)


@every_pretext
def test_what_videos_lack_is_one_line_or_leaves_a_finite_loss(
    pretext: type[Pretext], lacking: tuple[str, str], tmp_path: Path
) -> None:
    kind, data = lacking
    given = recipe_for(pretext, data, tmp_path, steps=2, batch=2)
    given["data"] |= {"validate": "none", "clips": 2}  # one video alone fills a batch
    if pretext.name in REFUSED[kind]:
        with pytest.raises(ClipmillError, match="without any motion") as raised:
            api.train(given)
        assert "\n" not in str(raised.value)
        return
    if kind == "half mute" and pretext.name == "audio_visual":
        left_out = plans.make(recipe.load(given), "train").left_out
        assert left_out == (("without sound", 3),)
    done = api.train(given)
    losses = [row["loss"] for row in launch.read_metrics(launch.Folder(done["folder"]).metrics)]
    assert len(losses) == 2 and all(math.isfinite(each) for each in losses)


# --- what a run is worth to others


def test_a_run_of_a_pretext_is_tried_by_one_command(dataset: str, tmp_path: Path) -> None:
    """The command goes on to the classifier that the pretext names, beside random weights."""
    chosen = next(each for each in PRETEXTS if each.name == "temporal_coherence")
    given = recipe_for(chosen, dataset, tmp_path, steps=2)
    api.train(given)
    out = tmp_path / "transfer"
    words = ["transfer", "run", dataset, "train.steps=2", "train.batch=4", "--labels", "0.1,1"]
    words += ["--seeds", "1", "--out", str(out), "--runs", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {each["plugin"] for each in told["protocols"]} == {"single_frame"}
    assert told["trials_done"] == told["trials"] == 2 * 2 * 2 and not told["failed"]
    rows = {(row["protocol"], row["share"], row["begins"]) for row in told["rows"]}
    protocols, shares, begins = ("probe", "finetune"), (0.1, 1.0), ("pretrained", "random")
    assert rows == set(itertools.product(protocols, shares, begins))
    assert all("tensors of encoder" in " ".join(each["init"]) for each in told["protocols"])
    assert all(Path(told["files"][kind]).exists() for kind in ("json", "md", "png"))

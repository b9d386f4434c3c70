"""Frame descriptors and the support vector machine: what they tell, and how they are learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill import api, catalog, features, infer, launch, recipe, storage
from clipmill import plan as plans
from clipmill.checkpoint import Keeper, weights_sha256
from clipmill.errors import DataError, RecipeError
from clipmill.launch import stop
from clipmill.plugin import Info
from clipmill_classify.frame_descriptors import FrameDescriptors
from clipmill_classify.svm import LinearSVM, fit
from tiny import recipe_of

MODEL = {"plugin": "frame_descriptors", "width": 0.125, "size": 32, "resize": 36, "frames": 4}
BATCH = 5  # of 24 training videos: the last batch is short


def clouds(
    count: int, classes: int, *, apart: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Points about a centre for each class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 20)) * apart
    return (centres[y] + rng.normal(size=(count, 20))).astype(np.float32), y


def learned(x: np.ndarray, y: np.ndarray, classes: int, c: float = 1.0) -> LinearSVM:
    machine = LinearSVM(x.shape[1], classes)
    machine.take(fit(x, y, classes, c=c))
    return machine


def probabilities(machine: LinearSVM, x: np.ndarray) -> np.ndarray:
    told: np.ndarray = machine(torch.from_numpy(x)).softmax(1).numpy()
    return told


# --- the machine


@pytest.mark.parametrize("classes", [2, 5])
def test_it_tells_classes_apart_that_lie_apart(classes: int) -> None:
    x, y = clouds(200, classes, apart=2.0)
    other, truth = clouds(100, classes, apart=2.0, seed=1)
    told = probabilities(learned(x, y, classes), other)
    assert (told.argmax(1) == truth).mean() > 0.97
    assert told[np.arange(100), truth].mean() > 0.9


def test_it_is_as_sure_as_it_is_right() -> None:
    x, y = clouds(600, 3, apart=0.35)
    other, truth = clouds(600, 3, apart=0.35, seed=1)
    told = probabilities(learned(x, y, 3), other)
    right = (told.argmax(1) == truth).mean()
    assert 0.6 < right < 0.95
    assert told.max(1).mean() == pytest.approx(right, abs=0.08)
    noise = np.random.default_rng(2).integers(0, 3, 600)
    assert probabilities(learned(x, noise, 3), other).max() < 0.6, "sure of what cannot be known"


def test_units_and_offsets_of_features_change_nothing() -> None:
    x, y = clouds(120, 3, apart=1.0)
    moved = x * np.geomspace(0.01, 100, 20, dtype=np.float32) + 7
    one, other = learned(x, y, 3), learned(moved, y, 3)
    np.testing.assert_allclose(probabilities(one, x), probabilities(other, moved), atol=1e-3)
    again = fit(x, y, 3)
    assert all(np.array_equal(values, again[name]) for name, values in fit(x, y, 3).items())


def test_classes_and_features_that_are_not_there() -> None:
    x, y = clouds(90, 3, apart=2.0)
    x[:, 4] = 5.0  # never changes, so it tells nothing
    machine = learned(x, y, 5)
    strange = x.copy()
    strange[:, 4] = 1e6
    assert probabilities(machine, strange)[:, 3:].max() < 1e-6
    np.testing.assert_allclose(probabilities(machine, strange), probabilities(machine, x))
    alone = learned(x[y == 1], y[y == 1], 3)
    assert probabilities(alone, x)[:, 1].min() > 0.99
    some = np.where(np.arange(90) < 30, -1, y)
    first, second = fit(x, some, 3), fit(x[30:], y[30:], 3)
    assert all(np.array_equal(values, second[name]) for name, values in first.items())
    with pytest.raises(DataError, match="no clip with a class"):
        fit(x, np.full(90, -1), 3)
    with pytest.raises(DataError, match="features that are not finite"):
        fit(np.full_like(x, np.nan), y, 3)


def test_an_untaught_machine_prefers_nothing() -> None:
    told = probabilities(LinearSVM(20, 4), np.ones((2, 20), np.float32))
    np.testing.assert_allclose(told, 0.25)


# --- descriptors


@pytest.mark.parametrize("pool", ["max", "min", "mean", "max-min"])
def test_descriptors_pool_frames_and_do_not_see_their_order(pool: str) -> None:
    model = FrameDescriptors(features=6, frames=5, pool=pool).build(Info(("a", "b")))
    x = torch.randn(3, 5, 6)
    made = model.pooled({"features": x})  # type: ignore[operator]
    parts = {"max": x.amax(1), "min": x.amin(1), "mean": x.mean(1)}
    wanted = torch.cat([parts[name] for name in pool.split("-")], 1)
    assert torch.equal(made, wanted)
    turned = model.pooled({"features": x[:, torch.randperm(5)]})  # type: ignore[operator]
    torch.testing.assert_close(made, turned)


def test_nothing_in_it_has_a_gradient_or_another_mode() -> None:
    model = FrameDescriptors(width=0.125, size=32, resize=32).build(Info(("a", "b"))).train()
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"augment": ("mixup",)}, "without mixup and cutmix"),
        ({"class_weights": {"a": 2.0}}, "nothing has a gradient"),
        ({"labels": "several"}, "one of one"),
        ({"pool": "median"}, "max-min"),
    ],
)
def test_what_it_cannot_do_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe.load(recipe_of(model={"plugin": "frame_descriptors", **fields}))


# --- trained by one pass


def plain(
    data: str, folder: Path, name: str, *, model: dict[str, Any] = MODEL, **train: Any
) -> Any:
    """The recipe of a run; it has no steps of its own."""
    made = recipe_of(
        run={"name": name, "folder": str(folder)},
        data={"path": data},
        train={"batch": BATCH, "log_every": 1, **train},
    )
    return {**made, "model": model}


@pytest.fixture(scope="module")
def fitted(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return api.train(plain(dataset, tmp_path_factory.mktemp("fitted"), "fitted"))


def test_it_trains_in_one_pass_over_every_record(dataset: str, fitted: dict[str, Any]) -> None:
    import hashlib

    count = len(catalog.load(dataset).part(split="train"))
    assert count % BATCH and fitted["steps"] == -(-count // BATCH)
    plan = plans.make(recipe.load(plain(dataset, Path(), "x")), "train")
    digests, told = plan.digests(plan.epoch(0)), bytes(32)
    assert len(digests) == count
    for at in range(0, count, BATCH):
        told = hashlib.sha256(told + b"".join(digests[at : at + BATCH])).digest()
    assert fitted["takes_sha256"] == told.hex()
    rows = launch.read_metrics(launch.Folder(fitted["folder"]).metrics)
    assert [row["step"] for row in rows] == list(range(1, fitted["steps"] + 1))
    assert {"loss", "accuracy", "val_accuracy"} <= set(fitted["metrics"])


def test_its_run_is_a_run_like_any_other(dataset: str, fitted: dict[str, Any]) -> None:
    runs = str(Path(fitted["folder"]).parent)
    tested = api.evaluate("fitted", folder=runs)
    assert 0 <= tested["metrics"]["accuracy"] <= 1
    promoted = api.promote("fitted", name="descriptors", folder=runs)
    assert promoted["alias"] == "champion"
    clip = next(Path(dataset).parent.glob("videos/test/left/*.mp4"))
    (told,) = api.predict("descriptors@champion", [str(clip)], folder=runs)["videos"]
    assert sum(each["probability"] for each in told["classes"]) == pytest.approx(1, abs=1e-5)


def test_a_pass_that_was_broken_off_is_done_again(
    dataset: str, tmp_path: Path, fitted: dict[str, Any]
) -> None:
    given = plain(dataset, tmp_path, "broken")
    made = recipe.load(given).anchored()
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain(), "identity": made.identity()})
    stop.ask(home.path)
    launch.work({"recipe": made.plain(), "folder": home.path, "transport": "thread"})
    assert Keeper(home.path).last() is None, "half of a pass was kept"
    done = api.resume("broken", folder=str(tmp_path))
    for name in ("steps", "weights_sha256", "takes_sha256"):
        assert done[name] == fitted[name]


def test_several_clips_of_a_video_are_a_longer_pass(dataset: str, tmp_path: Path) -> None:
    given = plain(dataset, tmp_path, "clips")
    given["data"]["clips"] = 3
    count = len(catalog.load(dataset).part(split="train"))
    assert api.train(given)["steps"] == -(-3 * count // BATCH)


def test_it_learns_the_same_from_features(
    dataset: str, tmp_path: Path, fitted: dict[str, Any]
) -> None:
    model = infer.load(f"{fitted['folder']}/model")
    made = features.run(model, dataset, str(tmp_path / "data"), every=1)
    assert made["kind"] == "frames"
    cached = {**MODEL, "features": made["size"]}
    api.train(plain(str(tmp_path / "data"), tmp_path, "cached", model=cached))
    other = infer.load(str(tmp_path / "cached" / "model"))
    for name, values in other.module.state_dict().items():
        torch.testing.assert_close(values, model.module.state_dict()[name], rtol=1e-3, atol=1e-3)
    one = api.evaluate("fitted", folder=str(Path(fitted["folder"]).parent))
    two = api.evaluate("cached", folder=str(tmp_path))
    assert one["metrics"]["accuracy"] == two["metrics"]["accuracy"]


def test_several_workers_have_nothing_to_share(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="learns without gradients; wanted one worker"):
        api.train(plain(dataset, tmp_path, "two", workers=2))
    assert not (tmp_path / "two").exists()


def test_a_gradient_learner_whose_parts_are_all_frozen_is_told(
    dataset: str, tmp_path: Path
) -> None:
    from clipmill.errors import PluginError

    model = {"plugin": "single_frame", "width": 0.125, "size": 32, "resize": 36}
    frozen = {**model, "frozen": ["encoder", "head"]}
    with pytest.raises(PluginError, match="no weight of single_frame learns"):
        api.train(plain(dataset, tmp_path, "ice", model=frozen))


def test_it_begins_with_the_encoder_of_another_run(
    dataset: str, tmp_path: Path, trained: dict[str, Any]
) -> None:
    source = trained["folder"]
    done = api.train(plain(dataset, tmp_path, "begun", init_from=source))
    theirs, ours = (
        infer.load(f"{each}/model").module.encoder.state_dict()  # type: ignore[union-attr, operator]
        for each in (source, done["folder"])
    )
    assert weights_sha256(theirs) == weights_sha256(ours)
    assert f"begins with {len(ours)} tensors of encoder from" in done["init"][0]
    assert "head.bias, head.weight" in done["init"][0] and "svm." in done["init"][1]

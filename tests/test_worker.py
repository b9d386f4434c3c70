"""One rank of a run: an interrupted run is the unbroken one, validation changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from clipmill import checkpoint, launch, recipe
from clipmill.checkpoint import Keeper, State
from clipmill.errors import BusyError, ClipmillError, RunError
from clipmill.launch import stop, turn
from clipmill.launch.worker import Worker
from clipmill.train import Step
from tiny import recipe_of, run_recipe

ALL_ON: dict[str, Any] = {
    "steps": 12, "checkpoint_every": 5, "accumulate": 2, "ema": 0.9, "schedule": "cosine",
    "warmup_steps": 3, "clip_norm": 0.5, "on_nan": "skip", "spike": 20, "deterministic": True,
}  # fmt: skip


def worked(dataset: str, folder: Path, model: dict[str, Any] | None = None, **train: Any) -> Path:
    """Work through a recipe in this process, or go on with it."""
    made = recipe.load({**run_recipe(dataset, folder, "run", **train)}, overrides(model or {}))
    folder.mkdir(exist_ok=True)
    launch.work(
        {"recipe": made.plain(), "folder": str(folder), "transport": "thread"},
        turn.begin(launch.Folder(str(folder)), 0),
    )
    return folder


def overrides(model: dict[str, Any]) -> list[str]:
    return [f"model.{name}={value}" for name, value in {"dropout": 0.2, **model}.items()]


def last_of(folder: Path) -> str:
    last = Keeper(str(folder)).last()
    assert last is not None
    return last


def state_of(folder: Path) -> State:
    return checkpoint.read_state(last_of(folder))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(last_of(folder)).iterdir())}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return launch.read_metrics(launch.Folder(str(folder)).metrics)


class Crash(Exception):
    """What a worker dies of."""


@pytest.fixture(scope="module")
def unbroken(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worked(dataset, tmp_path_factory.mktemp("unbroken"), **ALL_ON)


def test_a_crashed_run_ends_with_every_byte_of_the_unbroken_one(
    dataset: str, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = Worker._after

    def crashing(worker: Worker, step: Step) -> bool:
        if step.number == 8:
            raise Crash
        return after(worker, step)

    monkeypatch.setattr(Worker, "_after", crashing)
    with pytest.raises(Crash):
        worked(dataset, tmp_path, **ALL_ON)
    monkeypatch.undo()
    assert state_of(tmp_path).step == 5, "three steps are lost, and made again"
    torch.rand(3)
    worked(dataset, tmp_path, **ALL_ON)
    assert bytes_of(tmp_path) == bytes_of(unbroken)
    names = {"weights.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"}
    assert names < bytes_of(tmp_path).keys()
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_try_that_was_given_up_writes_nothing_beside_the_next(
    dataset: str, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    after, train = Worker._after, {**ALL_ON, "log_every": log_every}

    def outrun(worker: Worker, step: Step) -> bool:
        if step.number == 8:
            monkeypatch.undo()
            worked(dataset, tmp_path, **train)
            kept.extend([bytes_of(tmp_path), rows_of(tmp_path)])
        return after(worker, step)

    kept = list[Any]()
    monkeypatch.setattr(Worker, "_after", outrun)
    with pytest.raises(BusyError, match=r"is written by a later try .*; wanted the last try"):
        worked(dataset, tmp_path, **train)
    assert [bytes_of(tmp_path), rows_of(tmp_path)] == kept
    assert bytes_of(tmp_path) == bytes_of(unbroken)
    found = sorted(path.name[:13] for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["step-00000010", "step-00000012"], "one of the earlier try is among them"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there batches travel beside the step")
def test_every_logged_step_tells_what_its_time_went_to(unbroken: Path) -> None:
    for row in rows_of(unbroken):
        shares = [row[f"{part}_share"] for part in ("wait", "copy", "compute")]
        assert min(shares) >= 0 and 0 < sum(shares) < 1 + 1e-6
        assert row["compute_share"] > 0 and row["copy_share"] > 0


def test_a_run_told_to_stop_commits_and_goes_on_later(
    dataset: str, tmp_path: Path, unbroken: Path
) -> None:
    stop.ask(str(tmp_path))
    worked(dataset, tmp_path, **ALL_ON)
    assert state_of(tmp_path).step == 1
    stop.forget(str(tmp_path))
    worked(dataset, tmp_path, **ALL_ON)
    assert bytes_of(tmp_path) == bytes_of(unbroken)


def test_validation_and_checkpoints_change_nothing_that_is_learned(
    dataset: str, tmp_path: Path, unbroken: Path
) -> None:
    changed = {**ALL_ON, "validate_every": 4, "checkpoint_every": 3, "remat": True, "keep": 9}
    worked(dataset, tmp_path, **changed)
    mine, theirs = bytes_of(tmp_path), bytes_of(unbroken)
    for name in ("weights.safetensors", "average.safetensors", "optimizer.safetensors"):
        assert mine[name] == theirs[name]
    assert state_of(tmp_path).takes_sha256 == state_of(unbroken).takes_sha256
    validated = [row["step"] for row in rows_of(tmp_path) if "val_accuracy" in row]
    assert validated == [4, 8, 12]
    folders = sorted((tmp_path / "checkpoints").iterdir())
    states = [checkpoint.read_state(str(folder)) for folder in folders]
    assert [state.step for state in states if state.score is not None] == validated
    assert [state.step for state in states] == [3, 4, 6, 8, 9, 12]


def test_the_average_is_what_answers_and_is_validated(unbroken: Path) -> None:
    answering = checkpoint.read_weights(last_of(unbroken))
    assert state_of(unbroken).weights_sha256 == checkpoint.weights_sha256(answering)
    live = bytes_of(unbroken)["weights.safetensors"]
    assert live != bytes_of(unbroken)["average.safetensors"]


def test_a_run_that_gets_no_better_ends_early_and_stays_ended(dataset: str, tmp_path: Path) -> None:
    train: dict[str, Any] = {"validate_every": 2, "stop": {"patience": 2}, "steps": 30}
    still = {"learning_rate": 1e-9}
    worked(dataset, tmp_path, still, **train)
    state = state_of(tmp_path)
    assert (state.step, state.ended) == (6, True)
    best = Keeper(str(tmp_path)).best()
    assert best is not None and checkpoint.read_state(best).step == 2
    worked(dataset, tmp_path, still, **train)
    assert state_of(tmp_path) == state


def test_patience_survives_a_stop(dataset: str, tmp_path: Path) -> None:
    train: dict[str, Any] = {"validate_every": 2, "stop": {"patience": 2}, "steps": 30}
    stop.ask(str(tmp_path))
    worked(dataset, tmp_path, {"learning_rate": 1e-9}, **train)
    stop.forget(str(tmp_path))
    assert state_of(tmp_path).step == 1
    worked(dataset, tmp_path, {"learning_rate": 1e-9}, **{**train, "steps": 4})
    assert (state_of(tmp_path).step, state_of(tmp_path).ended) == (4, False)
    worked(dataset, tmp_path, {"learning_rate": 1e-9}, **train)
    assert (state_of(tmp_path).step, state_of(tmp_path).ended) == (6, True)


def one_of_two(rank: int, plain: dict[str, Any], folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    launch.work({"recipe": plain, "folder": folder, "transport": "thread"})
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_with_a_part_of_the_model_each_validate_and_end_together(
    dataset: str, tmp_path: Path
) -> None:
    train = {**ALL_ON, "accumulate": 1, "steps": 30, "validate_every": 2, "stop": {"patience": 2}}
    plain = run_recipe(dataset, tmp_path, "run", **train, workers=2, parallel="fsdp2")
    given = recipe.load(plain, ["model.learning_rate=1e-9"])
    torch.multiprocessing.spawn(one_of_two, (given.plain(), str(tmp_path)), nprocs=2)
    state = state_of(tmp_path)
    assert (state.step, state.ended) == (6, True)
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    alone = worked(dataset, tmp_path / "alone", steps=6)
    assert state.takes_sha256 == state_of(alone).takes_sha256
    assert checkpoint.read_weights(last_of(tmp_path)).keys() == (
        checkpoint.read_weights(last_of(alone)).keys()
    )


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"stop": {"patience": 1, "metric": "beauty"}}, "metric is 'beauty'; wanted one of acc"),
        ({}, "no records in the split 'nosuch'; wanted some to validate on"),
    ],
)
def test_what_cannot_be_validated_is_told(
    train: dict[str, Any], told: str, dataset: str, tmp_path: Path
) -> None:
    plain = run_recipe(dataset, tmp_path, "run", validate_every=1, **train)
    if not train:
        plain["data"]["validate"] = "nosuch"
    given = recipe.load(plain)
    with pytest.raises(ClipmillError, match=told):
        launch.work({"recipe": given.plain(), "folder": str(tmp_path), "transport": "thread"})
    assert Keeper(str(tmp_path)).last() is None


def test_a_run_that_leaves_the_numbers_names_its_last_good_checkpoint(
    dataset: str, tmp_path: Path
) -> None:
    wild = {"learning_rate": 1e30}
    with pytest.raises(
        RunError, match=r"no longer in numbers.*last good checkpoint is .*step-0000"
    ):
        worked(dataset, tmp_path, wild, steps=20, checkpoint_every=1)


def test_the_checkpoint_of_another_model_is_refused_by_names(dataset: str, tmp_path: Path) -> None:
    worked(dataset, tmp_path, steps=1)
    with pytest.raises(RunError, match=r"is of another model: .* not \["):
        worked(dataset, tmp_path, {"width": 0.25}, steps=2)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"accumulate": 5}, "wanted accumulate of at most the takes of a worker's batch"),
        ({"stop": {}}, "wanted validate_every, which stop needs"),
        ({"ema": 1}, r"train\.ema is 1"),
        ({"on_nan": "pray"}, r"train\.on_nan is 'pray'; wanted .*'skip'"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ClipmillError, match=told):
        recipe.load(recipe_of(train=train))


def test_what_decides_the_weights_is_the_run_and_nothing_else() -> None:
    plain = recipe.load(recipe_of())
    for key, value in {"accumulate": 2, "ema": 0.9, "clip_norm": 1, "warmup_steps": 2}.items():
        other = recipe.load(recipe_of(train={key: value}))
        assert plain.differences(other) == [f"train.{key}"]
    free = {"validate_every": 3, "keep": 5, "on_nan": "skip", "parallel": "fsdp2", "remat": True}
    assert recipe.load(recipe_of(train=free)).identity() == plain.identity()

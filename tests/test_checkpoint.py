"""Checkpoints: whole or not at all, the same state back, the last good one stays."""

import contextlib
import itertools
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipmill import checkpoint, storage
from clipmill.checkpoint import Keeper, Saved, State
from clipmill.checkpoint.image import Image
from clipmill.errors import BusyError, RunError

STATE = State(3, 12, "00" * 32, "catalog", "recipe", "")
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "amsgrad": lambda weights: torch.optim.Adam(weights, amsgrad=True),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    "lbfgs": torch.optim.LBFGS,
}


def made(kind: str = "adamw", width: int = 4) -> Saved:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width))
    return Saved(model, OPTIMIZERS[kind](model.parameters()))


def stepped(saved: Saved, first: int, last: int) -> Saved:
    for number in range(first, last):
        torch.manual_seed(number)
        inputs = torch.randn(5, 3)

        def closure(inputs: torch.Tensor = inputs) -> torch.Tensor:
            saved.optimizer.zero_grad()
            loss: torch.Tensor = (saved.model(inputs) - 0.5).square().mean()
            loss.backward()
            return loss

        saved.optimizer.step(closure)  # type: ignore[arg-type]
    return saved


def trained(steps: int = 3) -> Saved:
    return stepped(made(), 0, steps)


def kept(keeper: Keeper, saved: Saved, **changes: Any) -> str:
    keeper.save(replace(STATE, **changes), saved)
    keeper.wait()
    return str(keeper.last())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_restored_run_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    saved = stepped(made(kind), 0, 3)
    folder = kept(Keeper(str(tmp_path)), saved)
    again = made(kind)
    state = checkpoint.restore(folder, again.model, again.optimizer)
    assert state.weights_sha256 == checkpoint.weights_sha256(saved.model.state_dict())
    assert replace(state, weights_sha256="") == STATE
    stepped(saved, 3, 6), stepped(again, 3, 6)
    mine, theirs = saved.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_all_files_are_safetensors_and_json(tmp_path: Path) -> None:
    saved = stepped(made("lbfgs"), 0, 3)
    folder = Path(kept(Keeper(str(tmp_path)), replace(saved, average=saved.model.state_dict())))
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            assert load_file(path)
        elif path.suffix == ".json":
            assert storage.read_json(str(path))
        else:
            assert (path.name, path.read_bytes()) == (checkpoint.MARKER, b"")


def test_every_type_and_shape_comes_back_from_the_file(tmp_path: Path) -> None:
    types = (torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.uint8, torch.float64)
    shapes = ((), (0,), (3,), (2, 0, 3), (5, 7))
    tensors = {
        f"{dtype}{shape}": (torch.rand(shape) * 9).to(dtype)
        for dtype, shape in itertools.product(types, shapes)
    }
    tensors["turned"] = torch.rand(4, 6).T
    image = Image()
    image.lay_out(tensors)
    image.take(tensors.items())
    with (tmp_path / "x.safetensors").open("wb") as file:
        image.write(file)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert image.sha256() == checkpoint.weights_sha256(tensors)


def test_the_average_answers_where_there_is_one(tmp_path: Path) -> None:
    saved = trained()
    average = {name: tensor + 1 for name, tensor in saved.model.state_dict().items()}
    folder = kept(Keeper(str(tmp_path)), replace(saved, average=average))
    answering = checkpoint.read_weights(folder)
    assert torch.equal(answering["0.weight"], average["0.weight"])
    assert checkpoint.read_state(folder).weights_sha256 == checkpoint.weights_sha256(answering)
    again = made()
    shadow = {"0.weight": torch.zeros(4, 3)}
    checkpoint.restore(folder, again.model, again.optimizer, shadow)
    assert torch.equal(shadow["0.weight"], average["0.weight"])
    live = again.model.state_dict()["0.weight"]
    assert torch.equal(live, saved.model.state_dict()["0.weight"])


def test_a_snapshot_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    keeper, saved = Keeper(str(tmp_path)), trained()
    before = checkpoint.weights_sha256(saved.model.state_dict())
    keeper.save(STATE, saved)
    saved.model(torch.randn(5, 3))  # the next step: it moves running statistics at once,
    keeper.taken()
    stepped(saved, 3, 4)  # and weights after that
    keeper.wait()
    assert checkpoint.read_state(str(keeper.last())).weights_sha256 == before
    assert checkpoint.weights_sha256(checkpoint.read_weights(str(keeper.last()))) == before


def test_a_later_snapshot_uses_the_memory_again(tmp_path: Path) -> None:
    keeper, saved = Keeper(str(tmp_path)), trained()
    kept(keeper, saved)
    rooms = [image.room.data_ptr() for image in keeper._images.values()]
    stepped(saved, 3, 5)
    folder = kept(keeper, saved, step=5)
    assert [image.room.data_ptr() for image in keeper._images.values()] == rooms
    state = checkpoint.read_state(folder)
    assert state.weights_sha256 == checkpoint.weights_sha256(saved.model.state_dict())


def test_what_has_no_marker_does_not_count_and_is_cleaned(tmp_path: Path) -> None:
    keeper, saved = Keeper(str(tmp_path)), trained()
    good = kept(keeper, saved)
    (Path(kept(keeper, saved, step=9)) / checkpoint.MARKER).unlink()
    assert keeper.last() == good
    keeper.clean()
    assert [str(path) for path in (tmp_path / "checkpoints").iterdir()] == [good]


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    keeper, saved = Keeper(str(tmp_path), keep=2), trained()
    for step, score in ((1, 0.5), (2, 0.9), (3, None), (4, 0.9), (10, 0.7), (11, 0.8)):
        keeper.save(replace(STATE, step=step, score=score), saved)
    keeper.wait()
    names = sorted(path.name[:13] for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000010", "step-00000011"]
    assert Path(str(keeper.best())).name.startswith("step-00000002")
    assert Path(str(keeper.last())).name.startswith("step-00000011")


def test_without_scores_only_the_newest_are_kept(tmp_path: Path) -> None:
    keeper, saved = Keeper(str(tmp_path), keep=1), trained()
    for step in (1, 2):
        kept(keeper, saved, step=step)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert keeper.best() is None


@contextlib.contextmanager
def room_for(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond some bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_it_is_told_and_the_last_good_one_stays(tmp_path: Path) -> None:
    keeper, saved = Keeper(str(tmp_path)), made(width=100_000)
    good = kept(keeper, saved)
    with room_for(1 << 20):
        keeper.save(replace(STATE, step=4), saved)
        keeper.taken()
        with pytest.raises(RunError, match=f"could not be written.*last good one is {good}"):
            keeper.wait()
    assert [str(path) for path in (tmp_path / "checkpoints").iterdir()] == [good]
    assert kept(keeper, saved, step=5) != good, "it can go on when there is room again"


def test_one_that_may_not_be_committed_is_no_checkpoint(tmp_path: Path) -> None:
    def refuse() -> None:
        raise BusyError("it is written by another")

    good = kept(Keeper(str(tmp_path)), trained())
    with pytest.raises(BusyError, match=r"^it is written by another$"):
        kept(Keeper(str(tmp_path), before_commit=refuse), trained(), step=9)
    assert [str(path) for path in (tmp_path / "checkpoints").iterdir()] == [good]


def test_a_checkpoint_of_another_model_is_refused_by_names(tmp_path: Path) -> None:
    folder = kept(Keeper(str(tmp_path)), trained())
    wider = made(width=5)
    with pytest.raises(RunError, match=r"0\.bias as \[4\], not \[5\], 0\.weight as .* and 3 more"):
        checkpoint.restore(folder, wider.model, wider.optimizer)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Identity(), torch.nn.Linear(4, 1))
    with pytest.raises(
        RunError, match=r"it lacks 2\.bias, 2\.weight; it has 1\.bias, .* and 2 more"
    ):
        checkpoint.restore(folder, other, torch.optim.AdamW(other.parameters()))


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    saved = trained()
    folder = kept(Keeper(str(tmp_path)), saved)
    fewer = torch.optim.AdamW([*saved.model.parameters()][:2])
    with pytest.raises(RunError, match="the optimizer in .* is another one"):
        checkpoint.restore(folder, saved.model, fewer)


def test_what_cannot_be_kept_without_pickle_is_refused(tmp_path: Path) -> None:
    saved = trained()
    saved.optimizer.param_groups[0]["schedule"] = object()
    with pytest.raises(RunError, match="the optimizer keeps a object in /param_groups/0/schedule"):
        Keeper(str(tmp_path)).save(STATE, saved)


def test_a_model_folder_has_weights_and_no_average(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert torch.equal(checkpoint.read_weights(str(tmp_path))["a"], torch.ones(2))


def test_the_hash_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3).half()},
        {"a": torch.ones(2, 3)},
    ]  # fmt: skip
    hashes = {checkpoint.weights_sha256(each) for each in [base, *others]}
    assert len(hashes) == 5
    assert checkpoint.weights_sha256({"a": torch.zeros(3, 2).T}) in hashes

"""Checkpoints: whole or not at all, the same state back, the last good one stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipmill import checkpoint
from clipmill.checkpoint import Keeper, State
from clipmill.errors import RunError

STATE = State(3, 12, "00" * 32, "catalog", "recipe", "")


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def test_what_is_saved_is_restored_bit_for_bit(tmp_path: Path) -> None:
    keeper, (model, optimizer) = Keeper(str(tmp_path)), trained(3)
    keeper.save(STATE, model, optimizer)
    keeper.wait()
    other, fresh = trained(0)
    state = checkpoint.restore(str(keeper.last()), other, fresh)
    assert checkpoint.weights_sha256(other.state_dict()) == state.weights_sha256
    assert state.weights_sha256 == checkpoint.weights_sha256(model.state_dict())
    for one, two in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert replace(state, weights_sha256="") == STATE


def test_a_snapshot_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    keeper, (model, optimizer) = Keeper(str(tmp_path)), trained(1)
    before = checkpoint.weights_sha256(model.state_dict())
    keeper.save(STATE, model, optimizer)
    with torch.no_grad():
        model[0].weight.add_(1)  # type: ignore[operator, union-attr]
    keeper.wait()
    assert checkpoint.read_state(str(keeper.last())).weights_sha256 == before


def test_what_has_no_marker_does_not_count_and_is_cleaned(tmp_path: Path) -> None:
    keeper, (model, optimizer) = Keeper(str(tmp_path)), trained(1)
    keeper.save(STATE, model, optimizer)
    keeper.wait()
    good = keeper.last()
    keeper.save(replace(STATE, step=9), model, optimizer)
    keeper.wait()
    (Path(str(keeper.last())) / checkpoint.MARKER).unlink()
    assert keeper.last() == good
    keeper.clean()
    assert [str(path) for path in (tmp_path / "checkpoints").iterdir()] == [good]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    keeper, (model, optimizer) = Keeper(str(tmp_path), keep=2), trained(1)
    for step in (1, 2, 3, 10):
        keeper.save(replace(STATE, step=step), model, optimizer)
    keeper.wait()
    names = sorted(path.name[:13] for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000010"]


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_last_good_stays(
    tmp_path: Path,
) -> None:
    keeper, (model, optimizer) = Keeper(str(tmp_path)), trained(1)
    keeper.save(STATE, model, optimizer)
    keeper.wait()
    good, folder = keeper.last(), keeper.folder
    (tmp_path / "file").write_text("in the way")
    keeper.folder = str(tmp_path / "file")
    keeper.save(replace(STATE, step=4), model, optimizer)
    with pytest.raises(RunError, match="could not be written"):
        keeper.wait()
    keeper.folder = folder
    assert keeper.last() == good


def test_the_hash_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3).half()},
        {"a": torch.ones(2, 3)},
    ]  # fmt: skip
    hashes = {checkpoint.weights_sha256(each) for each in [base, *others]}
    assert len(hashes) == 5
    assert checkpoint.weights_sha256({"a": torch.zeros(3, 2).T}) in hashes

"""Two real processes give what one gives, however they hold the model, and through a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from batches import VIEW, batch_of
from clipmill import checkpoint, train
from clipmill.checkpoint import Keeper, Saved, State
from clipmill.plan import rank_slice
from clipmill.plugin import Sample
from clipmill.train import Average, Guard, Loop

BATCH, STEPS, WORLD = 5, 6, 2
STATE = State(STEPS // 2, 0, "", "", "", "")


class Network(torch.nn.Module):
    """Blocks and a head, in which each take is on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(*[_block(width) for width in (3, 4)])
        self.head = torch.nn.Linear(4, 1)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out, _ = self.predict(batch)
        return {"loss": (out["out"] - batch["target"]).square().mean()}

    def predict(
        self, batch: Mapping[str, torch.Tensor], state: Any = None
    ) -> tuple[dict[str, torch.Tensor], Any]:
        return {"out": self.head(self.body(batch["rgb"]).mean((2, 3, 4)))[:, 0].clone()}, state


def _block(width: int) -> torch.nn.Module:
    conv = torch.nn.Conv3d(width, 4, (1, 3, 3), padding=(0, 1, 1))
    return torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Conv3d(4, 4, 1), torch.nn.ReLU())


def part_of(number: int, rank: int, world: int) -> Sample:
    low, high = rank_slice(BATCH, rank, world)
    return batch_of(range(number * BATCH + low, number * BATCH + high))


class Run:
    """A small run of this process, one of several or alone."""

    def __init__(self, kind: train.Kind, rank: int, world: int, folder: Path) -> None:
        torch.manual_seed(1)
        self.rank, self.world, self.keeper = rank, world, Keeper(str(folder))
        module = train.arranged(Network(), channels_last=False, remat=True, compiled=False)
        self.called, self.model = train.spread(module, kind, world, "cpu"), module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        self.average = Average(module, 0.9)
        self.loop = Loop(
            VIEW, BATCH, STEPS, 0, rank, world, schedule="cosine", clip_norm=0.1, accumulate=2
        )

    def steps(self, first: int, last: int) -> "Run":
        batches = [part_of(number, self.rank, self.world) for number in range(first, last)]
        guard = Guard("skip")
        for step in train.steps(
            self.called, self.optimizer, batches, self.loop, done=first, average=self.average,
            guard=guard, before_update=self.keeper.taken,
        ):  # fmt: skip
            told = train.over_all_ranks(step.metrics, len(step.digests), self.loop)
            self.norm, self.loss = told["gradient_norm"], told["loss"]
        return self

    def saved(self) -> "Run":
        saved = Saved(self.model, self.optimizer, self.average.state())
        self.keeper.save(STATE, saved, writes=self.rank == 0)
        return self

    def restored(self) -> "Run":
        folder = str(self.keeper.last())
        checkpoint.restore(folder, self.model, self.optimizer, self.average.weights)
        return self

    def result(self) -> dict[str, torch.Tensor]:
        made = checkpoint.gathered(self.average.state())
        averaged = {f"average.{name}": tensor for name, tensor in made.items()}
        figures = {"norm": torch.tensor(self.norm), "loss": torch.tensor(self.loss)}
        return {**checkpoint.gathered(self.model.state_dict()), **averaged, **figures}


def one_of_two(rank: int, tmp: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp}/store", rank=rank, world_size=WORLD
    )
    kinds: tuple[train.Kind, ...] = ("ddp", "fsdp2")
    for kind in kinds:
        folder = Path(tmp) / kind
        run = Run(kind, rank, WORLD, folder).steps(0, STEPS // 2).saved().steps(STEPS // 2, STEPS)
        run.keeper.wait()
        torch.distributed.barrier()
        whole, again = run.result(), Run(kind, rank, WORLD, folder).restored()
        resumed = again.steps(STEPS // 2, STEPS).result()
        parts = [checkpoint.is_in_parts(weight) for weight in run.model.parameters()]
        assert set(parts) == {kind == "fsdp2"}
        out, _ = run.model.predict(  # type: ignore[operator]
            {"rgb": torch.ones(1, 3, 1, 8, 8)}
        )
        if rank == 0:
            save_file({**whole, "out": out["out"].detach()}, folder / "whole.safetensors")
            save_file(resumed, folder / "resumed.safetensors")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all of it in two processes, once."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(one_of_two, (str(folder),), nprocs=WORLD)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The same in this process."""
    run = Run("ddp", 0, 1, tmp_path_factory.mktemp("alone")).steps(0, STEPS)
    out, _ = run.model.predict({"rgb": torch.ones(1, 3, 1, 8, 8)})  # type: ignore[operator]
    return {**run.result(), "out": out["out"].detach()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_workers_give_the_weights_of_one(
    kind: str, two: Path, alone: dict[str, torch.Tensor]
) -> None:
    torch.testing.assert_close(load_file(two / kind / "whole.safetensors"), alone)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_workers_go_on_from_a_checkpoint(kind: str, two: Path) -> None:
    whole, resumed = (
        load_file(two / kind / f"{name}.safetensors") for name in ("whole", "resumed")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in resumed)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_one_worker_goes_on_from_the_checkpoint_of_two(
    kind: str, two: Path, alone: dict[str, torch.Tensor]
) -> None:
    run = Run("ddp", 0, 1, two / kind).restored().steps(STEPS // 2, STEPS)
    torch.testing.assert_close({**run.result(), "out": alone["out"]}, alone)

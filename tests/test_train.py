"""The loop: gradients of the whole batch, pure functions of the step, stops on nonsense."""

import numpy as np
import pytest
import torch

from clipmill import train
from clipmill.errors import RunError
from clipmill.plugin import Sample
from clipmill.takes import View
from clipmill.train import Loop

VIEW = View(frames=1, size=8, resize=8)


class Mean(torch.nn.Module):
    """Fits the mean colour, with dropout to see the seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 1)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = self.line(self.drop(batch["rgb"].mean((2, 3, 4)))).squeeze(1)
        return {"loss": (out - batch["target"]).square().mean()}


def batch_of(positions: range) -> Sample:
    rng = [np.random.default_rng(position) for position in positions]
    return {
        "rgb": np.stack([r.integers(0, 255, (1, 8, 8, 3), dtype=np.uint8) for r in rng]),
        "target": np.array([p % 2 for p in positions]),
        "position": np.array(positions),
        "seed": np.array(positions, np.uint64),
        "digest": np.zeros((len(positions), 32), np.uint8),
    }


def run(loop: Loop, batches: list[Sample], done: int = 0, model: Mean | None = None) -> Mean:
    torch.manual_seed(1)
    model = model or Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in train.steps(model, optimizer, batches, loop, done=done):
        train.check_finite(step)
    return model


def test_a_resumed_step_is_the_same_step() -> None:
    loop = Loop(VIEW, batch=4, steps=6, seed=3, schedule="one-cycle")
    batches = [batch_of(range(i, i + 4)) for i in range(0, 24, 4)]
    whole = run(loop, batches)
    half = run(loop, batches[:3])
    torch.rand(7)  # whatever else draws chance must not matter
    rest = run(loop, batches[3:], done=3, model=half)
    for one, two in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(one, two)


def test_unequal_slices_give_the_gradient_of_the_whole_batch() -> None:
    gradients = []
    for world, parts in ((1, [range(0, 5)]), (2, [range(0, 2), range(2, 5)])):
        total = torch.zeros(1, 3)
        for rank, part in enumerate(parts):
            torch.manual_seed(1)
            model = Mean()
            model.drop.p = 0.0
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loop = Loop(VIEW, batch=5, steps=1, seed=0, rank=rank, world=world)
            next(train.steps(model, optimizer, [batch_of(part)], loop))
            assert model.line.weight.grad is not None
            total += model.line.weight.grad / world  # what the average over ranks is
        gradients.append(total)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_ranks_draw_different_chance() -> None:
    loops = [Loop(VIEW, batch=4, steps=1, seed=0, rank=rank) for rank in (0, 1)]
    models = [run(loop, [batch_of(range(4))]) for loop in loops]
    assert not torch.equal(models[0].line.weight, models[1].line.weight)


def test_one_cycle_warms_up_and_ends_near_zero() -> None:
    shares = [train.factor("one-cycle", step, 100) for step in range(101)]
    assert max(shares) == pytest.approx(1.0)
    assert shares[0] < 0.05 and shares[100] < 0.01
    assert shares.index(max(shares)) == 25


def test_a_loss_that_is_no_number_stops_with_what_to_do() -> None:
    batch = batch_of(range(4))
    batch["target"] = batch["target"] + np.nan
    with pytest.raises(RunError, match=r"loss of step 1 is nan.*learning_rate"):
        run(Loop(VIEW, batch=4, steps=1, seed=0), [batch])


def test_a_gradient_that_is_no_number_stops_before_it_is_committed() -> None:
    metrics = {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(float("inf"))}
    with pytest.raises(RunError, match="gradient inf"):
        train.check_finite(train.Step(3, metrics, [], 0.1, 0.0, 0.0, 1.0))


def test_precision_follows_the_device() -> None:
    assert train.resolved_precision("auto", "cpu") == "fp32"
    assert train.resolved_precision("bf16", "cpu") == "bf16"
    run(Loop(VIEW, batch=4, steps=1, seed=0, precision="bf16"), [batch_of(range(4))])

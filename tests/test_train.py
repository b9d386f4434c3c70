"""The loop: gradients of the whole batch, pure functions of the step, stops on nonsense."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from batches import VIEW, batch_of
from clipmill import train
from clipmill.errors import PluginError, RunError
from clipmill.plugin import Sample
from clipmill.train import Average, Guard, Loop, Patience, Step
from clipmill_classify.c3d_network import C3DNetwork


class Mean(torch.nn.Module):
    """Fits the mean colour, with dropout to see the seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 1)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = self.line(self.drop(batch["rgb"].mean((2, 3, 4)))).squeeze(1)
        return {"loss": (out - batch["target"]).square().mean()}


class Blocks(torch.nn.Module):
    """A convolution and blocks with running statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv3d(3, 4, 1)
        self.body = torch.nn.Sequential(*[_block() for _ in range(2)])
        self.head = torch.nn.Linear(4, 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = self.head(self.body(self.stem(batch["rgb"])).mean((2, 3, 4))).squeeze(1)
        return {"loss": (out - batch["target"]).square().mean()}


def _block() -> torch.nn.Module:
    conv = torch.nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1))
    return torch.nn.Sequential(conv, torch.nn.BatchNorm3d(4), torch.nn.ReLU(), torch.nn.Dropout())


def batches_of(count: int, takes: int = 4) -> list[Sample]:
    return [batch_of(range(at, at + takes)) for at in range(0, count * takes, takes)]


def spoilt(batch: Sample) -> Sample:
    return {**batch, "target": batch["target"] + np.float32(np.nan)}


def made(kind: Callable[[], torch.nn.Module] = Mean) -> torch.nn.Module:
    torch.manual_seed(1)
    return kind()


def run(
    loop: Loop,
    batches: list[Sample],
    done: int = 0,
    model: torch.nn.Module | None = None,
    average: Average | None = None,
    guard: Guard | None = None,
) -> torch.nn.Module:
    model = model or made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = guard or Guard()
    for step in train.steps(
        model, optimizer, batches, loop, done=done, average=average, guard=guard
    ):
        guard.check(step.number, step.metrics)
    return model


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    state, other = one.state_dict(), two.state_dict()
    return all(torch.equal(state[name], other[name]) for name in state)


def test_a_resumed_step_is_the_same_step() -> None:
    loop = Loop(VIEW, batch=4, steps=6, seed=3, schedule="one-cycle")
    whole = run(loop, batches_of(6))
    half = run(loop, batches_of(6)[:3])
    torch.rand(7)  # whatever else draws chance must not matter
    rest = run(loop, batches_of(6)[3:], done=3, model=half)
    assert same(whole, rest)


def test_unequal_slices_give_the_gradient_of_the_whole_batch() -> None:
    gradients = []
    for world, parts in ((1, [range(0, 5)]), (2, [range(0, 2), range(2, 5)])):
        total = torch.zeros(1, 3)
        for rank, part in enumerate(parts):
            model = undropped(made())
            loop = Loop(VIEW, batch=5, steps=1, seed=0, rank=rank, world=world)
            run(loop, [batch_of(part)], model=model)
            assert model.line.weight.grad is not None
            total += model.line.weight.grad / world  # what the average over ranks is
        gradients.append(total)
    torch.testing.assert_close(gradients[0], gradients[1])


def certain(model: torch.nn.Module) -> torch.nn.Module:
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def undropped(model: torch.nn.Module) -> Mean:
    assert isinstance(model, Mean)
    certain(model)
    return model


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(parts: int) -> None:
    whole, cut = undropped(made()), undropped(made())
    loop = Loop(VIEW, batch=5, steps=1, seed=0, clip_norm=0.5)
    run(loop, batches_of(1, 5), model=whole)
    run(replace(loop, accumulate=parts), batches_of(1, 5), model=cut)
    torch.testing.assert_close(whole.line.weight, cut.line.weight)
    torch.testing.assert_close(whole.line.weight.grad, cut.line.weight.grad)


def test_metrics_of_parts_are_those_of_the_batch() -> None:
    told = []
    for parts in (1, 3):
        model = undropped(made())
        loop = Loop(VIEW, batch=5, steps=1, seed=0, accumulate=parts)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        (step,) = train.steps(model, optimizer, batches_of(1, 5), loop)
        told.append(step.metrics)
    assert told[0].keys() == told[1].keys() == {"loss", "gradient_norm"}
    torch.testing.assert_close(told[0], told[1])


def test_more_parts_than_takes_are_refused() -> None:
    with pytest.raises(RunError, match="batch of 5 on 2 workers in 3 parts; wanted at least one"):
        Loop(VIEW, batch=5, steps=1, seed=0, world=2, accumulate=3)


def test_a_batch_that_is_not_in_rows_is_not_cut() -> None:
    batch = {**batch_of(range(4)), "joined": np.zeros(7, np.float32)}
    with pytest.raises(PluginError, match=r"joined of \[7\] in a batch of 4 takes"):
        run(Loop(VIEW, batch=4, steps=1, seed=0, accumulate=2), [batch])


def test_a_gradient_is_clipped_and_told_as_it_was() -> None:
    model = undropped(made())
    loop = Loop(VIEW, batch=4, steps=1, seed=0, clip_norm=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (step,) = train.steps(model, optimizer, batches_of(1), loop)
    norm = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert float(step.metrics["gradient_norm"]) > 1e-2


def test_ranks_draw_different_chance() -> None:
    loops = [Loop(VIEW, batch=4, steps=1, seed=0, rank=rank) for rank in (0, 1)]
    models = [run(loop, [batch_of(range(4))]) for loop in loops]
    assert not same(*models)


def test_an_optimizer_that_asks_several_times_fits() -> None:
    model = undropped(made())
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    loop = Loop(VIEW, batch=4, steps=3, seed=0, accumulate=2)
    batch = batch_of(range(4))
    losses = [
        float(step.metrics["loss"]) for step in train.steps(model, optimizer, [batch] * 3, loop)
    ]
    assert losses[-1] < 0.05


# --- the learning rate


def test_one_cycle_warms_up_and_ends_near_zero() -> None:
    shares = [train.factor("one-cycle", step, 100) for step in range(101)]
    assert max(shares) == pytest.approx(1.0)
    assert shares[0] < 0.05 and shares[100] < 0.01
    assert shares.index(max(shares)) == 25


def test_every_schedule_can_be_warmed_up() -> None:
    for schedule in ("constant", "cosine", "one-cycle"):
        shares = [train.factor(schedule, step, 100, 10) for step in range(101)]
        assert shares[:10] == sorted(shares[:10]) and shares[0] <= 0.1
        assert shares[10] == pytest.approx(1.0)
    assert shares[100] < 0.01
    assert train.factor("constant", 99, 100, 10) == 1.0
    assert train.factor("cosine", 55, 100, 10) == pytest.approx(0.5, abs=0.01)
    assert train.factor("cosine", 0, 100) == 1.0


# --- the average


def test_the_average_follows_the_weights_slowly() -> None:
    model = undropped(made())
    average = Average(model, 0.9)
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(VIEW, batch=4, steps=30, seed=0)
    wanted = model.line.weight.detach().clone()
    for step in train.steps(model, optimizer, batches_of(30), loop, average=average):
        decay = min(0.9, step.number / (step.number + 10))
        wanted = decay * wanted + (1 - decay) * model.line.weight.detach()
        seen.append(float((average.weights["line.weight"] - wanted).abs().max()))
    assert max(seen) < 1e-6
    assert average.state().keys() == model.state_dict().keys()
    assert not torch.equal(average.state()["line.weight"], model.line.weight)


def test_the_average_has_the_newest_buffers_and_leaves_frozen_weights() -> None:
    model = made(Blocks)
    model.stem.requires_grad_(False)  # type: ignore[operator, union-attr]
    average = Average(model, 0.99)
    run(Loop(VIEW, batch=4, steps=2, seed=0), batches_of(2), model=model, average=average)
    state = average.state()
    assert "stem.weight" not in average.weights
    assert torch.equal(state["body.0.1.running_mean"], model.state_dict()["body.0.1.running_mean"])
    assert not torch.equal(state["head.weight"], model.state_dict()["head.weight"])


# --- how it is computed


def test_precision_follows_the_device() -> None:
    assert train.resolved_precision("auto", "cpu") == "fp32"
    assert train.resolved_precision("bf16", "cpu") == "bf16"
    exact = run(Loop(VIEW, batch=4, steps=1, seed=0), batches_of(1))
    rough = run(Loop(VIEW, batch=4, steps=1, seed=0, precision="bf16"), batches_of(1))
    assert not same(exact, rough)
    torch.testing.assert_close(exact.state_dict(), rough.state_dict(), atol=0.02, rtol=0.02)
    assert rough.line.weight.dtype == torch.float32  # type: ignore[union-attr]


def test_recomputing_changes_nothing_but_memory() -> None:
    loop = Loop(VIEW, batch=4, steps=3, seed=0)
    plain = run(loop, batches_of(3), model=made(Blocks))
    calls = []
    model = made(Blocks)
    model.body[0][0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr]
    train.arranged(model, channels_last=False, remat=True, compiled=False)
    again = run(loop, batches_of(3), model=model)
    assert same(plain, again)
    assert len(calls) == 6, "each block forward once, and once more on the way back"
    assert plain.state_dict().keys() == again.state_dict().keys()


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that live at once, of all that are made while it lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    @property
    def now(self) -> int:
        return sum(size for storage, size in self.known.values() if not storage.expired())

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.known = {key: told for key, told in self.known.items() if not told[0].expired()}
        self.most = max(self.most, self.now)
        return made


class Flat(torch.nn.Module):
    """Layers of the same size, one after another."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 4), *[(4, 4)] * 11]
        layers = [(torch.nn.Conv3d(*each, 3, padding=1), torch.nn.ReLU(True)) for each in widths]
        self.body = torch.nn.Sequential(torch.nn.ReLU(True), *[x for pair in layers for x in pair])

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.body(batch["rgb"] * 2).square().mean()}


def c3d(batch_norm: bool) -> torch.nn.Module:
    clip = (8, 48, 48)
    return C3DNetwork(classes=2, clip=clip, width=0.125, dropout=0.5, batch_norm=batch_norm)


FLAT_NETWORKS = {"flat": Flat, "c3d": lambda: c3d(False), "c3d with norms": lambda: c3d(True)}


def one_step(name: str, remat: bool) -> tuple[torch.nn.Module, int, int]:
    """A network with its gradient, the bytes it held for the way back, and the most at once."""
    model = train.arranged(
        made(FLAT_NETWORKS[name]), channels_last=False, remat=remat, compiled=False
    )
    batch = {"rgb": torch.randn(2, 3, 8, 48, 48), "target": torch.tensor([0, 1])}
    with Living() as living:
        loss = model(batch)["loss"]
        held = living.now
        loss.backward()
    return model, held, living.most


@pytest.mark.parametrize("name", FLAT_NETWORKS)
def test_a_flat_network_is_recomputed_in_stages(name: str) -> None:
    plain, held, most = one_step(name, remat=False)
    again, less, at_most = one_step(name, remat=True)
    assert same(plain, again), "running statistics saw the batch once"
    gradients = [[weight.grad for weight in model.parameters()] for model in (plain, again)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert less < 0.5 * held
    # On the way back the first layers of C3D are the most, in one piece: there nothing is won.
    assert name != "flat" or at_most < 0.8 * most


def test_a_network_without_blocks_cannot_be_recomputed() -> None:
    with pytest.raises(RunError, match=r"Mean has no blocks.*train\.remat=false"):
        train.arranged(made(), channels_last=False, remat=True, compiled=False)


def test_channels_last_is_another_place_in_memory_and_the_same_network() -> None:
    loop = Loop(VIEW, batch=4, steps=2, seed=0)
    model = train.arranged(certain(made(Blocks)), channels_last=True, remat=False, compiled=False)
    weight = model.state_dict()["body.0.0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    other = run(replace(loop, channels_last=True), batches_of(2), model=model)
    plain = run(loop, batches_of(2), model=certain(made(Blocks)))
    torch.testing.assert_close(plain.state_dict(), other.state_dict())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of its compiler
@pytest.mark.parametrize("remat", [False, True])
def test_a_compiled_network_is_the_same_network(remat: bool) -> None:
    loop = Loop(VIEW, batch=4, steps=2, seed=0)
    model = train.arranged(certain(made(Blocks)), channels_last=False, remat=remat, compiled=True)
    fast = run(loop, batches_of(2), model=model)
    plain = run(loop, batches_of(2), model=certain(made(Blocks)))
    torch.testing.assert_close(plain.state_dict(), fast.state_dict())


def test_deterministic_lasts_as_long_as_asked() -> None:
    with train.deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    with train.deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_deterministic_is_told() -> None:
    with (
        pytest.raises(RunError, match=r"deterministic.*train\.deterministic=false"),
        train.deterministic(True),
    ):
        raise RuntimeError("histc_cuda does not have a deterministic implementation, but you set")
    with pytest.raises(RuntimeError, match="something else"), train.deterministic(True):
        raise RuntimeError("something else")


# --- guards


def test_a_loss_that_is_no_number_stops_with_what_to_do() -> None:
    with pytest.raises(RunError, match=r"loss of step 1 is nan.*learning_rate.*checkpoint is none"):
        run(Loop(VIEW, batch=4, steps=1, seed=0), [spoilt(batch_of(range(4)))])


def test_a_gradient_that_is_no_number_stops_and_names_the_last_good_checkpoint() -> None:
    metrics = {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(float("inf"))}
    with pytest.raises(RunError, match="gradient inf.*last good checkpoint is step-3"):
        Guard().check(4, metrics, lambda: "step-3")


def test_a_skipped_step_changes_nothing() -> None:
    model, guard = made(Blocks), Guard("skip")
    average = Average(model, 0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loop = Loop(VIEW, batch=4, steps=3, seed=0)
    batches = batches_of(3)
    stepping = train.steps(
        model, optimizer, [batches[0], spoilt(batches[1]), batches[2]], loop,
        average=average, guard=guard,
    )  # fmt: skip
    next(stepping)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"], average.state()))
    step = next(stepping)
    guard.check(step.number, step.metrics)
    torch.testing.assert_close(
        before,
        (model.state_dict(), optimizer.state_dict()["state"], average.state()),
        rtol=0,
        atol=0,
    )
    step = next(stepping)
    assert math.isfinite(float(step.metrics["loss"])) and guard.skipped == 1
    assert guard.in_a_row == 0


def test_skipping_has_an_end() -> None:
    batches = [spoilt(batch) for batch in batches_of(10)]
    with pytest.raises(
        RunError, match="10 steps in a row were skipped: the loss of step 10 is nan"
    ):
        run(Loop(VIEW, batch=4, steps=10, seed=0), batches, guard=Guard("skip"))


def leaps(guard: Guard) -> Iterator[Step]:
    batches = batches_of(25)
    batches[23] = {**batches[23], "target": batches[23]["target"] + np.float32(1e4)}
    model = undropped(made())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loop = Loop(VIEW, batch=4, steps=25, seed=0)
    for step in train.steps(model, optimizer, batches, loop, guard=guard):
        guard.check(step.number, step.metrics)
        yield step


def test_a_gradient_far_above_the_usual_stops_or_is_skipped() -> None:
    with pytest.raises(RunError, match="the usual norm is.*the loss of step 24"):
        list(leaps(Guard(spike=50)))
    skipping = Guard("skip", spike=50)
    assert len(list(leaps(skipping))) == 25
    assert skipping.skipped == 1
    assert len(list(leaps(Guard()))) == 25


def test_a_guard_goes_on_from_what_it_remembered() -> None:
    guard, again = Guard("skip", spike=10), Guard("skip", spike=10)
    for norm in (1.0, 2.0, math.nan, 1.5):
        guard.refuses(norm)
    again.recall(guard.told())
    assert again == guard and guard.skipped == 1


def test_patience_ends_after_validations_that_bring_nothing_better() -> None:
    patience, over = Patience(2, min_delta=0.1), []
    for score in (0.5, 0.7, 0.75, 0.9, 0.95, 0.99):
        patience = patience.after(score)
        over.append(patience.is_over)
    assert over == [False, False, False, False, False, True]
    assert patience.best == 0.9
    assert replace(Patience(2, min_delta=0.1), **patience.told()) == patience

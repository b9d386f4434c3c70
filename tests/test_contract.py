"""The contract: green over every installed plugin, and red for each promise that is broken."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from clipmill import contract
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Plugin, Sample, View, found, load

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = contract.CHECKS
# The import is looked at in a process of its own, whose start would be most of a test.
IN_PROCESS = [promise for promise in ALL if promise[0] != "light import"]
NAMES = [entry.name for entry in found()]


@pytest.mark.parametrize("name", NAMES)
def test_every_installed_plugin_keeps_the_contract(name: str) -> None:
    report = contract.check(name, checks=IN_PROCESS)
    assert report.ok, f"\n{report}"
    claimed = {result.check for result in report.results if result.ok}
    learns = {"gradients", "overfits"} if load(name).by_gradient else {"fits"}
    assert claimed >= {*learns, "checkpoint", "rows", "meter"}


IMPORTS = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert "torch" not in sys.modules, module
"""


def test_every_installed_plugins_module_is_free_of_torch() -> None:
    modules = sorted({load(name).__module__ for name in NAMES})
    command = [sys.executable, "-c", IMPORTS, *modules]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


class Network(nn.Module):
    """Coarse pixels into class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 2 * 16, 4)

    def logits(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.linear(functional.adaptive_avg_pool3d(batch["rgb"], (2, 4, 4)).flatten(1))

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": functional.cross_entropy(self.logits(batch), batch["target"])}

    def predict(self, batch: Mapping[str, torch.Tensor], state: Any = None) -> Any:
        return {"probabilities": self.logits(batch).softmax(1)}, state


class Good(Plugin):
    """Keeps the contract, except that its module imports torch."""

    name: ClassVar[str] = "good"
    family: ClassVar[str] = "classify"
    network: ClassVar[type[nn.Module]] = Network
    learning_rate: float = 0.1

    def views(self) -> Mapping[str, View]:
        view = View(frames=4, size=16, resize=16)
        return {"train": view, "test": view}

    def build(self, info: Any) -> nn.Module:
        return self.network()


class NoJson(Good):
    ratio: float = float("nan")


class NoViews(Good):
    def views(self) -> Any:
        return {"train": 16}


class LosesRecords(Good):
    def plan(self, catalog: Any, stage: Any, draw: Any) -> Any:
        return super().plan(catalog, stage, draw)[:4]


class OddTaste(Good):
    def unfit(self, catalog: Any) -> Any:
        return {"dull": np.zeros(3, np.bool_)}


class OwnChance(Good):
    def plan(self, catalog: Any, stage: Any, draw: Any) -> Any:
        takes = super().plan(catalog, stage, draw)
        return replace(takes, first=takes.first - takes.first + int.from_bytes(os.urandom(1)) % 9)


class ChanceSample(Good):
    def sample(self, decoded: Any, rng: Any) -> Sample:
        return {**super().sample(decoded, rng), "noise": np.random.default_rng().random(3)}


class WordSample(Good):
    def sample(self, decoded: Any, rng: Any) -> Any:
        return {**super().sample(decoded, rng), "word": np.array("label")}


class ListBatch(Good):
    def collate(self, samples: Any) -> Any:
        return {name: [sample[name] for sample in samples] for name in samples[0]}


class NotFinite(Good):
    def sample(self, decoded: Any, rng: Any) -> Sample:
        return {**super().sample(decoded, rng), "extra": np.array([np.inf], np.float32)}


class NoPredict(Good):
    network: ClassVar[type[nn.Module]] = nn.Identity


class ChanceWeights(Good):
    def build(self, info: Any) -> nn.Module:
        model = Network()
        with torch.no_grad():
            model.linear.bias.copy_(torch.from_numpy(np.random.default_rng().random(4)))
        return model


class NoLoss(Good):
    class network(Network):
        def forward(self, batch: Any) -> Any:
            return {
                "loss": functional.cross_entropy(
                    self.logits(batch), batch["target"], reduction="none"
                )
            }


class NanLoss(Good):
    class network(Network):
        def forward(self, batch: Any) -> Any:
            return {"loss": self.logits(batch).sum() * torch.nan}


class HalfOptimizer(Good):
    def optimizer(self, model: Any) -> Any:
        return torch.optim.SGD([model.linear.weight], lr=0.1)


class DeadWeight(Good):
    class network(Network):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)


class Stubborn(Good):
    learning_rate: float = 1e-9


class NotByRow(Good):
    class network(Network):
        def predict(self, batch: Any, state: Any = None) -> Any:
            return {"mean": self.logits(batch).mean(0)}, state


class ChanceAnswer(Good):
    class network(Network):
        def predict(self, batch: Any, state: Any = None) -> Any:
            logits = self.logits(batch)
            return {"probabilities": logits + torch.rand_like(logits)}, state


class Forgetful(Good):
    """Keeps what it has learnt where no checkpoint looks."""

    class network(Network):
        steps = 0.0

        def forward(self, batch: Any) -> Any:
            self.steps += 1
            return super().forward(batch)

        def predict(self, batch: Any, state: Any = None) -> Any:
            return {"probabilities": self.logits(batch) + self.steps}, state


class Crowd(Good):
    class network(Network):
        def predict(self, batch: Any, state: Any = None) -> Any:
            logits = self.logits(batch)
            return {"probabilities": logits - logits.mean(0)}, state


class NoMetric(Good):
    metric: ClassVar[str] = "accuracy"

    class Count:
        videos = 0

        def update(self, answer: Any, target: Any) -> None:
            self.videos += 1

        def merge(self, other: Any) -> None:
            self.videos += other.videos

        def compute(self) -> dict[str, float]:
            return {"videos": self.videos}

    def meter(self) -> Any:
        return self.Count()


class LossyMeter(NoMetric):
    metric: ClassVar[str] = "videos"

    class Count(NoMetric.Count):
        def merge(self, other: Any) -> None:
            pass


class Shares:
    """Counts how often a video is told rightly, and weighs the score of each wrongly."""

    right = videos = 0

    def update(self, answer: Any, target: Any) -> None:
        self.right += int(np.argmax(answer["probabilities"]) == target["target"])
        self.videos += 1

    def merge(self, other: Any) -> None:
        self.right, self.videos = self.right + other.right, self.videos + other.videos

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / self.videos}

    def score(self, answer: Any, target: Any) -> float:
        return float(answer["probabilities"].max())


class WrongScore(Good):
    metric: ClassVar[str] = "accuracy"

    def meter(self) -> Any:
        return Shares()


class IgnoresTheOther(Good):
    """Lists mixup, and learns every mixed take as if it were all its own."""

    def views(self) -> Mapping[str, View]:
        view = View(frames=4, size=16, resize=16, augment=("mixup",))
        return {"train": view, "test": view}


class MixesTheWrongWay(IgnoresTheOther):
    class network(Network):
        def forward(self, batch: Any) -> Any:
            logits, shares = self.logits(batch), batch.get("mix", torch.ones(1))
            own = functional.cross_entropy(logits, batch["target"], reduction="none")
            if "mix" not in batch:
                return {"loss": own.mean()}
            other = functional.cross_entropy(logits, batch["target_b"], reduction="none")
            return {"loss": torch.lerp(own, other, shares).mean()}


class Taught(Good):
    """Learns without gradients: the nearest mean of its classes' clips."""

    by_gradient: ClassVar[bool] = False
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    class network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("means", torch.zeros(4, 96))

        def logits(self, batch: Any) -> Any:
            x = functional.adaptive_avg_pool3d(batch["rgb"], (2, 4, 4)).flatten(1)
            return -torch.cdist(x, self.get_buffer("means"))

        forward, predict = Network.forward, Network.predict

    def fit(self, model: Any, batches: Any) -> None:
        for batch in batches:
            x = functional.adaptive_avg_pool3d(batch["rgb"], (2, 4, 4)).flatten(1)
            for place in range(4):
                model.means[place] = x[batch["target"] == place].mean(0)

    def meter(self) -> Any:
        return Shares()


class Right(Shares):
    def score(self, answer: Any, target: Any) -> float:
        return float(np.argmax(answer["probabilities"]) == target["target"])


class NeverTaught(Taught):
    def fit(self, model: Any, batches: Any) -> None:
        pass

    def meter(self) -> Any:
        return Right()


class TaughtAndTrained(NeverTaught):
    network: ClassVar[type[nn.Module]] = Network


class ClaimsStreaming(Good):
    streaming: ClassVar[bool] = True


class ClaimsExport(Good):
    exports: ClassVar[bool] = True

    class network(Network):
        def predict(self, batch: Any, state: Any = None) -> Any:
            logits = self.logits(batch)
            return {"probabilities": torch.tensor(logits.tolist())}, state


class Raises(Good):
    def build(self, info: Any) -> nn.Module:
        raise OSError("no\nroom")


BROKEN = [
    (Good, "light import", "imports torch; wanted a module free of torch"),
    (NoJson, "fields", "from JSON again: ratio is None; wanted the value"),
    (NoViews, "views", "wanted a View by name"),
    (LosesRecords, "plan", "val: 1 records; wanted all 8"),
    (OwnChance, "same plan", "chance from `draw` alone"),
    (OddTaste, "unfit", "unfit of good gives bool [3]; wanted 8 truth values"),
    (ChanceSample, "sample", "noise differs for the same rng"),
    (WordSample, "sample", "wanted numbers of numpy"),
    (ListBatch, "collate", "rgb is list; wanted an array"),
    (NotFinite, "prepare", "extra is not finite"),
    (NoPredict, "build", "Identity; wanted an nn.Module with predict()"),
    (ChanceWeights, "build", "building again from the same seed moves linear.bias"),
    (Raises, "build", "raised OSError: no room"),
    (NoLoss, "forward", "scalar under"),
    (NanLoss, "forward", "the loss is nan; wanted a finite number"),
    (HalfOptimizer, "optimizer", "linear.bias is in no group"),
    (
        DeadWeight,
        "gradients",
        "2 of 4 trainable weights get no gradient: unused.weight, unused.bias",
    ),
    (Stubborn, "overfits", "wanted half of it"),
    (NotByRow, "predict", "mean has shape [4]; wanted a row for each of 8 takes"),
    (ChanceAnswer, "predict", "predicting again moves probabilities"),
    (Forgetful, "checkpoint", "after saving and loading moves probabilities by 2"),
    (Crowd, "rows", "predicting take 0 alone moves probabilities"),
    (NoMetric, "meter", "the meter gives videos; wanted accuracy among them"),
    (LossyMeter, "meter", "merged parts give {'videos': 3}; wanted {'videos': 8} as the whole"),
    (WrongScore, "scores", "wanted their accuracy"),
    (IgnoresTheOther, "mixing", "mixup: a loss of"),
    (MixesTheWrongWay, "mixing", "where 0.25 of a take are its own"),
    (NeverTaught, "fits", "accuracy 0.250 to 0.250 on the 8 takes that it was fit to"),
    (TaughtAndTrained, "fits", "linear.weight is trainable; wanted no gradients at all"),
    (ClaimsStreaming, "streaming", "predicting in two chunks moves probabilities"),
    (ClaimsExport, "export", "raised"),
]


@pytest.mark.parametrize(("broken", "check", "told"), BROKEN)
def test_a_broken_promise_is_one_clear_line(broken: type[Plugin], check: str, told: str) -> None:
    report = contract.examine(broken(), ALL if broken is Good else IN_PROCESS)
    by_check = {result.check: result for result in report.results}
    assert not report.ok
    assert by_check[check].ok is False
    assert told in by_check[check].detail
    assert "\n" not in by_check[check].detail
    # Nothing else is accused: what failed beside it could not be reached without it.
    for result in report.results:
        if result.check != check and result.ok is False:
            assert result.detail.startswith("not reached"), f"\n{report}"


def test_every_check_can_fail() -> None:
    assert {check for _, check, _ in BROKEN} == {name for name, *_ in ALL}


def test_what_is_not_claimed_is_no_failure() -> None:
    results = {result.check: result for result in contract.examine(Good(), IN_PROCESS).results}
    assert results["streaming"] == ("streaming", None, "not claimed")
    assert results["meter"].ok is None
    assert all(result.ok is not False for result in results.values())


class Steady(Good):
    """Answers each frame from that frame and the running sum before it."""

    streaming: ClassVar[bool] = True
    exports: ClassVar[bool] = True

    class network(Network):
        def predict(self, batch: Any, state: Any = None) -> Any:
            sums_BT = batch["rgb"].mean((1, 3, 4)).cumsum(1) + (0 if state is None else state)
            return {"timeline": sums_BT, "last": sums_BT[:, -1:]}, sums_BT[:, -1:]


class SteadyInAll(Good):
    """Adds up all that it sees and hears; the flow to a frame must come with that frame."""

    streaming: ClassVar[bool] = True

    def views(self) -> Mapping[str, View]:
        streams = ("rgb", "flow", "audio", "features")
        view = View(streams=streams, frames=5, size=16, resize=16, features=4)
        return {"train": view, "test": view}

    class network(Network):
        def predict(self, batch: Any, state: Any = None) -> Any:
            moves = batch["rgb"].shape[2] - int(state is None)
            assert batch["flow"].shape[2] == moves
            assert len(batch["audio"][0]) == batch["rgb"].shape[2] * 3200
            seen = ("rgb", "flow", "audio", "features")
            sums_B = sum(batch[name].flatten(1).double().sum(1) for name in seen)
            total_B = sums_B + (0 if state is None else state)
            return {"total": total_B}, total_B


class Mixes(IgnoresTheOther):
    class network(Network):
        def forward(self, batch: Any) -> Any:
            logits = self.logits(batch)
            loss = functional.cross_entropy(logits, batch["target"], reduction="none")
            if "mix" in batch:
                other = functional.cross_entropy(logits, batch["target_b"], reduction="none")
                loss = torch.lerp(other, loss, batch["mix"])
            return {"loss": loss.mean()}


class TaughtWell(Taught):
    def meter(self) -> Any:
        return Right()


@pytest.mark.parametrize(
    ("plugin", "check", "told"),
    [
        (Mixes, "mixing", "mixup: the loss is that of both targets"),
        (TaughtWell, "fits", "accuracy 0.250 to 1.000 in one pass"),
        (TaughtWell, "scores", "the mean over videos is the accuracy"),
    ],
)
def test_what_is_mixed_fitted_and_scored_as_promised_is_green(
    plugin: type[Plugin], check: str, told: str
) -> None:
    report = contract.examine(plugin(), IN_PROCESS)
    results = {result.check: result for result in report.results}
    assert report.ok, f"\n{report}"
    assert results[check].ok and told in results[check].detail


def test_whoever_takes_mixup_as_a_field_is_asked_for_it() -> None:
    results = {result.check: result for result in contract.check("single_frame").results}
    assert results["mixing"].ok and "cutmix and mixup" in results["mixing"].detail


def test_streaming_and_export_hold_where_they_are_true() -> None:
    results = {result.check: result for result in contract.examine(Steady(), IN_PROCESS).results}
    assert results["streaming"].ok
    assert results["export"].ok


def test_every_stream_of_a_batch_comes_in_chunks() -> None:
    report = contract.examine(SteadyInAll(), IN_PROCESS)
    results = {result.check: result for result in report.results}
    assert results["streaming"] == ("streaming", True, "5 frames in 2 chunks as at once")


def test_given_fields_go_before_the_small_ones() -> None:
    report = contract.check("c3d", {"width": 0.0625}, ALL[:1])
    assert report.fields["width"] == 0.0625
    assert report.fields["batch_norm"] is True
    assert "width=0.0625" in report.results[0].detail


def test_a_check_leaves_the_chance_of_its_caller_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    contract.examine(Good(), IN_PROCESS)
    assert torch.equal(torch.rand(1), wanted)


def test_wrong_names_and_fields_are_the_users_mistakes() -> None:
    with pytest.raises(PluginError, match="no plugin 'c4d'"):
        contract.check("c4d")
    with pytest.raises(RecipeError, match=r"unknown key model\.depth"):
        contract.check("c3d", {"depth": 3})

"""What gradients cannot learn: a plugin's `fit`, given one epoch of the plan, every take once.

Its batches are prepared as in training. Knows neither checkpoints nor metrics.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.distributed

from clipmill import augment, device, feed, train
from clipmill.errors import PluginError, RecipeError
from clipmill.launch import stop
from clipmill.plan import Plan
from clipmill.plugin import Plugin
from clipmill.recipe import Recipe

Tensors = dict[str, torch.Tensor]


class _Interrupted(Exception):
    """The run was told to stop in the middle of a lesson: what was learnt is of no use."""


def an_epoch(plan: Plan, given: Recipe, transport: feed.Transport) -> feed.Feed:
    """One epoch in batches, the last of which may be short: training would leave it out."""
    whole, size = replace(plan, batch=1), plan.batch
    total = whole.takes_in_catalog
    own = tuple(range(first, min(first + size, total)) for first in range(0, total, size))
    return feed.batches(whole, feed.Share(0, len(own), own=own), given.feed, transport)


def with_steps(given: Recipe, plan: Plan) -> Recipe:
    """The recipe as it is carried out: without gradients the steps are the batches of an epoch."""
    if plan.plugin.by_gradient:
        return given
    steps = -(-plan.takes_in_catalog // plan.batch)
    return given.model_copy(update={"train": given.train.model_copy(update={"steps": steps})})


class Lesson(Iterator[Tensors]):
    """Batches on the device, once; `digests` tell what takes they were of."""

    def __init__(
        self,
        batches: feed.Feed,
        loop: train.Loop,
        folder: str,
        tell: Callable[[int], None] = lambda done: None,
    ) -> None:
        prepare = functools.partial(augment.prepared, view=loop.view, training=True)
        self.ready = device.to_device(batches, loop.device, prepare)
        self.seed, self.folder = loop.seed, folder
        self.is_alone = loop.world == 1  # else some ranks would stop and others wait for them
        self.digests: list[list[bytes]] = []
        self.newest: Tensors = {}
        self.tell = tell

    def __next__(self) -> Tensors:
        if self.is_alone and stop.asked(self.folder):
            raise _Interrupted
        ready = next(self.ready)
        self.digests.append([bytes(row) for row in np.ascontiguousarray(ready.batch["digest"])])
        self.newest = ready.tensors
        self.tell(len(self.digests))
        return ready.tensors

    def teach(self, plugin: Plugin, model: torch.nn.Module) -> bool:
        """Let a plugin learn from all of it; false if the run was told to stop before its end."""
        was_training = model.training
        torch.manual_seed(self.seed)  # nothing is left to chance, nor to the steps before
        try:
            plugin.fit(model.eval(), self)
            for _ in self:  # what it did not want is still a part of the run's takes
                pass
        except _Interrupted:
            return False
        finally:
            model.train(was_training)
        return True

    def figures(self, model: torch.nn.Module) -> dict[str, float]:
        """What a network that has learnt says of the last batch."""
        with torch.no_grad():
            told = model.eval()(self.newest)
        return {name: float(value.float().mean()) for name, value in told.items()}


def is_due(plugin: Plugin) -> bool:
    """Whether a plugin learns something without gradients."""
    return type(plugin).fit is not Plugin.fit


def check(given: Recipe, plugin: Plugin) -> None:
    """Refuse what cannot be taught so."""
    name = given.model.plugin
    if not plugin.by_gradient and given.train.workers > 1:
        raise RecipeError(
            f"train.workers={given.train.workers} with {name}, which learns without gradients",
            "one worker, which sees all clips",
            "set train.workers=1",
        )
    if is_due(plugin) and plugin.by_gradient and given.train.ema is not None:
        raise RecipeError(
            f"train.ema with {name}, which learns something of the newest weights",
            "the weights that answer",
            "take train.ema out",
        )
    if is_due(plugin) and given.train.stop is not None:
        raise RecipeError(
            f"train.stop with {name}, which learns something after its last step",
            "a fixed number of steps",
            "take train.stop out",
        )


def check_weights(plugin: Plugin, model: torch.nn.Module) -> None:
    """Refuse a network that would learn nothing, or that cannot learn so what it should."""
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if plugin.by_gradient and not learning:
        raise PluginError(
            f"no weight of {plugin.name} learns", "one at the least", "shorten model.frozen"
        )
    if learning and not plugin.by_gradient:
        raise PluginError(
            f"{learning[0]} of {plugin.name} is trainable", "no gradients", "freeze it in build"
        )


def no_optimizer() -> torch.optim.Optimizer:
    """An optimizer of nothing, for checkpoints to keep."""
    return torch.optim.SGD([{"params": []}], lr=0.0)


def agree(model: torch.nn.Module, world: int) -> None:
    """Give every rank the buffers of the first: each has learnt them, if in another order of sums."""
    if world > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)

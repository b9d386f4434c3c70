"""The checks of learning: gradients and what does without them, and takes that were mixed.

Each returns what it saw, or raises what it got and wanted.
"""

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from clipmill.contract.case import BATCH, Case, NotClaimed, Tensors, trainable
from clipmill.errors import PluginError
from clipmill.plugin import MIXERS, Plugin

GRADIENT_STEPS = 5  # a layer that starts at zero lets gradients through only after some steps
OVERFIT_STEPS = 120
SHARE = 0.25  # of its own, in the mixed batch that is tried


def optimizer(case: Case) -> str:
    """Every trainable weight is in the optimizer."""
    model = case.model()
    weights = trainable(model)
    if not weights:
        raise NotClaimed("no trainable weights")
    optimizer = case.plugin.optimizer(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PluginError(f"optimizer gives {type(optimizer).__name__}", "a torch optimizer")
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if lost := [name for name, weight in weights.items() if id(weight) not in held]:
        raise PluginError(f"{lost[0]} is in no group of the optimizer", "every trainable weight")
    return f"{type(optimizer).__name__} of {len(weights)} weights"


def gradients(case: Case) -> str:
    """A gradient reaches every trainable weight."""
    model = case.model().train()
    dry = trainable(model)
    if not dry:
        raise NotClaimed("no trainable weights")
    optimizer, count = case.plugin.optimizer(model), len(dry)
    for _ in range(GRADIENT_STEPS):
        case.step(model, optimizer)
        dry = {n: w for n, w in dry.items() if w.grad is None or not w.grad.any()}
        if not dry:
            return f"all {count} trainable weights"
    raise PluginError(
        f"{len(dry)} of {count} trainable weights get no gradient: {', '.join([*dry][:3])}",
        "each in the loss, or requires_grad=False",
    )


def overfits(case: Case) -> str:
    """A few takes are learnt by heart."""
    model = case.model().train()
    if not trainable(model):
        raise NotClaimed("no trainable weights")
    optimizer, losses = case.plugin.optimizer(model), list[float]()
    for _ in range(OVERFIT_STEPS):
        losses.append(case.step(model, optimizer))
        start, end = float(np.mean(losses[:3])), float(np.mean(losses[-3:]))
        if len(losses) > 3 and end <= start - 0.5 * abs(start):
            return f"loss {start:.3f} to {end:.3f} in {len(losses)} steps"
    raise PluginError(
        f"loss {start:.3f} to {end:.3f} in {OVERFIT_STEPS} steps on {BATCH} takes",
        "half of it",
        "look at the learning rate, the initial weights and the loss",
    )


def fits(case: Case) -> str:
    """What learns without gradients tells the takes that it was fit to."""
    plugin, model = case.plugin, case.model()
    if plugin.by_gradient:
        raise NotClaimed("learns by gradients")
    if weights := list(trainable(model)):
        raise PluginError(
            f"{weights[0]} is trainable", "no gradients at all", "set requires_grad=False"
        )
    start = _metric(case, model)
    plugin.fit(model.eval(), [case.training_batch])
    end = _metric(case, model)
    if start is None or end is None:
        raise NotClaimed("no meter")
    if not (end > start if plugin.higher_is_better else end < start):
        raise PluginError(
            f"{plugin.metric} {start:.3f} to {end:.3f} on the {BATCH} takes that it was fit to",
            "a better one",
        )
    return f"{plugin.metric} {start:.3f} to {end:.3f} in one pass"


def _metric(case: Case, model: nn.Module) -> float | None:
    """The metric on the training batch itself."""
    plugin, takes = case.plugin, case.takes("train")[:BATCH]
    meter = plugin.meter()
    outputs, _ = case.predict(model.eval(), case.training_batch)
    for at in range(len(takes) if meter else 0):
        answer = plugin.answer(
            [{n: out[at].numpy() for n, out in outputs.items()}], takes[at : at + 1]
        )
        assert meter is not None
        meter.update(answer, case.catalog.row(int(takes.record[at, 0])))
    return float(meter.compute()[plugin.metric]) if meter else None


def _loss(model: nn.Module, batch: Tensors) -> float:
    with torch.no_grad():
        return float(model.eval()(batch)["loss"])


def mixing(case: Case) -> str:
    """Who lists mixup or cutmix learns both targets, by their shares."""
    mixer = _mixer(case.plugin)
    if mixer is None:
        raise NotClaimed("neither mixup nor cutmix")
    views = mixer.views()
    ways = sorted(MIXERS & {way for view in views.values() for way in view.augment})
    mixed = Case(mixer)
    batch, model = mixed.training_batch, mixed.trained
    if "target_b" not in batch:
        raise PluginError(f"{', '.join(ways)} without an array `target`", "one, to be mixed")
    own, other, both = (
        _loss(model, {**batch, "mix": torch.full_like(batch["mix"], share)})
        for share in (1.0, 0.0, SHARE)
    )
    theirs = _loss(
        model, {**batch, "mix": torch.ones_like(batch["mix"]), "target": batch["target_b"]}
    )
    wanted = SHARE * own + (1 - SHARE) * theirs
    far = max(abs(other - theirs), abs(both - wanted))
    if not far <= 0.02 * abs(theirs - own) + 1e-6:
        raise PluginError(
            f"{', '.join(ways)}: a loss of {both:.4f} where {SHARE} of a take are its own",
            f"{wanted:.4f}: mix * loss(target) + (1 - mix) * loss(target_b)",
            "use `mix` and `target_b`, or take them from the views' augmentations",
        )
    return f"{' and '.join(ways)}: the loss is that of both targets, by their shares"


def _mixer(plugin: Plugin) -> Plugin | None:
    """The plugin with what it lists of mixup and cutmix, or would take in a field `augment`."""
    if MIXERS & {way for view in plugin.views().values() for way in view.augment}:
        return plugin
    for ways in (("mixup", "cutmix"), ("mixup",)):
        try:
            made = type(plugin)(**{**plugin.model_dump(exclude_unset=True), "augment": ways})
            if MIXERS & {way for view in made.views().values() for way in view.augment}:
                return made
        except ValidationError:
            continue
    return None

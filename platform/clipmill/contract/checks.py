"""The checks of the contract, in the order of the data's way.

Each is a small function of a case: it returns what it saw, or raises what it got and wanted.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from clipmill.contract import claims, learning
from clipmill.contract.case import BATCH, RECORDS, Case, NotClaimed
from clipmill.contract.outputs import ROW_TOLERANCE, same, shapes
from clipmill.errors import PluginError
from clipmill.plan.unfit import unfit
from clipmill.plugin import View, told
from clipmill.takes import Stage, Takes

STAGES: tuple[Stage, ...] = ("train", "val", "test")


def _fields(case: Case) -> str:
    plugin = case.plugin
    try:
        again = type(plugin).model_validate_json(plugin.model_dump_json())
    except ValidationError as error:
        raise PluginError(f"from JSON again: {told(error, type(plugin))[0]}", "the value") from None
    if again != plugin:
        raise PluginError(f"{plugin!r} comes back from JSON as {again!r}", "the same value")
    small = dict(plugin.small)
    given = plugin.model_dump(exclude_unset=True)
    if not given:
        return "all defaults"
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    return listed + (" (the plugin's own small fields)" if small and given == small else "")


_IMPORT = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[2]);"
    "importlib.import_module(sys.argv[1]); sys.exit(3 if 'torch' in sys.modules else 0)"
)


def _light_import(case: Case) -> str:
    module = type(case.plugin).__module__
    command = [sys.executable, "-c", _IMPORT, module, json.dumps(sys.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 3:
        raise PluginError(
            f"importing {module} imports torch",
            "a module free of torch",
            "put the network into a file of its own and import it in build",
        )
    if done.returncode:
        raise PluginError(f"{module} alone: {done.stderr.strip().splitlines()[-1]}", "an import")
    return module


def _views(case: Case) -> str:
    if not case.views or not all(isinstance(view, View) for view in case.views.values()):
        raise PluginError(f"views() gives {case.views!r}", "a View by name")
    return ", ".join(f"{name} {v.frames} x {v.size} x {v.size}" for name, v in case.views.items())


def _plan(case: Case) -> str:
    frames = case.catalog.column("frames")
    for stage in STAGES:
        takes = case.takes(stage)
        used = takes.record >= 0
        records, first, last = takes.record[used], takes.first[used], takes.last[used]
        if not len(takes) or not used.any(axis=1).all():
            raise PluginError(f"{stage}: takes without a span", "at least one take with a span")
        if unknown := sorted({takes.views[v] for v in takes.view[used]} - case.views.keys()):
            raise PluginError(f"{stage}: view {unknown[0]!r}", f"one of {', '.join(case.views)}")
        if records.max() >= len(frames):
            raise PluginError(f"{stage}: record {records.max()}", f"below {len(frames)}")
        if (first < 0).any() or (last < first).any() or (first >= frames[records]).any():
            raise PluginError(f"{stage}: a span outside its record", "0 <= first <= last")
        if stage != "train" and len(set(records.tolist())) != len(frames):
            raise PluginError(
                f"{stage}: {len(set(records.tolist()))} records", f"all {len(frames)}"
            )
    return ", ".join(f"{len(case.takes(stage))} takes for {stage}" for stage in STAGES)


def _same_plan(case: Case) -> str:
    for stage in STAGES:
        once, again = (_digests(case.takes(stage), case.catalog.keys) for _ in range(2))
        if once != again:
            raise PluginError(f"two plans for {stage} differ", "chance from `draw` alone")
    return "the same takes by digest"


def _unfit(case: Case) -> str:
    reasons = unfit(case.catalog, case.plugin)
    if not reasons:
        raise NotClaimed("uses every record")
    return ", ".join(f"{np.count_nonzero(rows)} {reason}" for reason, rows in reasons.items())


def _digests(takes: Takes, keys: Sequence[str]) -> list[bytes]:
    return [takes.digest(at, [keys[row] for row in takes.record[at]]) for at in range(len(takes))]


def _sample(case: Case) -> str:
    for stage in STAGES:
        takes = case.takes(stage)
        once, again = case.sample(takes, 0, stage), case.sample(takes, 0, stage)
        for name, array in once.items():
            if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in "buif":
                raise PluginError(f"{stage}: {name} is {type(array).__name__}", "numbers of numpy")
            if not np.array_equal(array, again[name], equal_nan=array.dtype.kind == "f"):
                raise PluginError(f"{stage}: {name} differs for the same rng", "chance from `rng`")
    return shapes(once)


def _collate(case: Case) -> str:
    takes = case.takes("train")[:BATCH]
    batch = case.plugin.collate([case.sample(takes, at, "train") for at in range(len(takes))])
    for name, array in batch.items():
        if not isinstance(array, np.ndarray):
            raise PluginError(f"{name} is {type(array).__name__}", "an array")
    return shapes(batch)


def _prepare(case: Case) -> str:
    for name, tensor in case.training_batch.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise PluginError(f"{name} is not finite", "finite numbers")
    return shapes(case.training_batch)


def _build(case: Case) -> str:
    model, again = case.model(), case.model()
    if not isinstance(model, nn.Module) or not callable(getattr(model, "predict", None)):
        raise PluginError(f"build gives {type(model).__name__}", "an nn.Module with predict()")
    same(again.state_dict(), model.state_dict(), 0.0, "building again from the same seed")
    return f"{sum(weight.numel() for weight in model.parameters()):,} parameters"


def _forward(case: Case) -> str:
    outputs = case.model().train()(case.training_batch)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise PluginError(f"forward gives {outputs!r:.80}", 'a dict with a scalar under "loss"')
    if not loss.isfinite().all():
        raise PluginError(f"the loss is {loss.item()}", "a finite number")
    return ", ".join(
        f"{name} {value.detach().float().mean():.3f}" for name, value in outputs.items()
    )


def _checkpoint(case: Case) -> str:
    tensors = {n: w.detach().clone().contiguous() for n, w in case.trained.state_dict().items()}
    packed = safetensors.torch.save(tensors)
    fresh = case.model()
    fresh.load_state_dict(safetensors.torch.load(packed))
    fresh.eval()
    wanted, _ = case.predict(case.trained, case.test_batch)
    got, _ = case.predict(fresh, case.test_batch)
    same(got, wanted, 1e-6, "the network after saving and loading")
    return f"{len(tensors)} tensors, {len(packed) / 1e6:.1f} MB of safetensors"


def _scores(case: Case) -> str:
    whole, answers = case.plugin.meter(), _answers(case)
    score = getattr(whole, "score", None)
    if whole is None or score is None:
        raise NotClaimed("no meter that scores single videos")
    for answer, row in answers:
        whole.update(answer, row)
    mean = float(np.mean([score(answer, row) for answer, row in answers]))
    metric = whole.compute()[case.plugin.metric]
    if not np.isclose(mean, metric, rtol=1e-6, atol=1e-9):
        raise PluginError(
            f"the mean score of {len(answers)} videos is {mean:.6g}",
            f"their {case.plugin.metric}, {metric:.6g}",
            "a meter whose metric is no mean over videos has no `score`",
        )
    return f"the mean over videos is the {case.plugin.metric}"


def _predict(case: Case) -> str:
    outputs, _ = case.predict(case.trained, case.test_batch)
    if not outputs or not all(isinstance(out, torch.Tensor) for out in outputs.values()):
        raise PluginError(f"predict gives {outputs!r:.80}", "a dict of tensors, and a state")
    rows = len(case.takes("test")[:BATCH])
    for name, out in outputs.items():
        if not out.ndim or len(out) != rows:
            raise PluginError(
                f"{name} has shape {list(out.shape)}", f"a row for each of {rows} takes"
            )
        if not out.isfinite().all():
            raise PluginError(f"{name} is not finite", "finite numbers")
    again, _ = case.predict(case.trained, case.test_batch)
    same(again, outputs, 0.0, "predicting again")
    return shapes(outputs)


def _rows(case: Case) -> str:
    takes = case.takes("test")[:BATCH]
    together, _ = case.predict(case.trained, case.test_batch)
    for at in range(len(takes)):
        alone, _ = case.predict(case.trained, case.batch(takes[at : at + 1], "test"))
        row = {name: out[at : at + 1] for name, out in together.items()}
        same(alone, row, ROW_TOLERANCE, f"predicting take {at} alone")
    return "a take's answer does not depend on its batch"


def _answers(case: Case) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The answer and the row of each record, from all its takes."""
    takes, answers = case.takes("test"), []
    for place in range(RECORDS):
        own = takes[np.flatnonzero(takes.record[:, 0] == place)]
        outputs, _ = case.predict(case.trained, case.batch(own, "test"))
        arrays = [{n: out[at].numpy() for n, out in outputs.items()} for at in range(len(own))]
        answers.append((case.plugin.answer(arrays, own), case.catalog.row(place)))
    return answers


def _meter(case: Case) -> str:
    plugin, answers = case.plugin, _answers(case)
    whole, part, rest = plugin.meter(), plugin.meter(), plugin.meter()
    if whole is None or part is None or rest is None:
        raise NotClaimed(f"no meter; {len(answers)} videos answered")
    for place, (answer, row) in enumerate(answers):
        whole.update(answer, row)
        (part if place < 3 else rest).update(answer, row)
    part.merge(rest)
    figures = whole.compute()
    if part.compute() != figures:
        raise PluginError(f"merged parts give {part.compute()}", f"{figures} as the whole")
    if plugin.metric not in figures:
        raise PluginError(f"the meter gives {', '.join(figures)}", f"{plugin.metric} among them")
    return ", ".join(f"{name} {value:.3f}" for name, value in list(figures.items())[:3])


Check = Callable[[Case], str]
Promise = tuple[str, tuple[str, ...], Check]  # its name, what must hold before it, the check
CHECKS: tuple[Promise, ...] = (
    ("fields", (), _fields),
    ("light import", (), _light_import),
    ("views", (), _views),
    ("plan", ("views",), _plan),
    ("same plan", ("plan",), _same_plan),
    ("unfit", (), _unfit),
    ("sample", ("plan",), _sample),
    ("collate", ("sample",), _collate),
    ("prepare", ("collate",), _prepare),
    ("build", ("views",), _build),
    ("forward", ("prepare", "build"), _forward),
    ("optimizer", ("build",), learning.optimizer),
    ("gradients", ("forward", "optimizer"), learning.gradients),
    ("overfits", ("forward", "optimizer"), learning.overfits),
    ("fits", ("forward",), learning.fits),
    ("mixing", ("forward",), learning.mixing),
    ("predict", ("forward", "optimizer"), _predict),
    ("checkpoint", ("predict",), _checkpoint),
    ("rows", ("predict", "same plan"), _rows),
    ("meter", ("predict",), _meter),
    ("scores", ("meter",), _scores),
    ("streaming", ("predict",), claims.streaming),
    ("export", ("predict",), claims.export),
)

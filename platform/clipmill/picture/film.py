"""A video, and beside it the same with what a model makes of each moment over it; as a video.

At the rate at which the model looks, and of the part of the picture that it sees. Knows no plugin.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import evaluate, infer, storage, video, viewing
from clipmill.errors import PluginError, UsageError
from clipmill.infer import Model, Output
from clipmill.picture import drawing, paint
from clipmill.picture.nearest import CUT

SUFFIXES = (".mp4",)
MOST_LOOKS = 2000  # at one video
KINDS = ("things", "class_scores", "mask", "heat")  # what can be drawn, the most telling first

Picture = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]


def film(
    model: Model,
    sources: Iterable[tuple[str, video.Source]],
    out: str,
    *,
    seconds: float,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw the first seconds of videos, one behind the other, into a file; give what was drawn."""
    rate = model.plugin.views()["test"].rate
    told: list[dict[str, Any]] = []
    made = io.BytesIO()
    video.encode(made, _of_all(model, sources, seconds, told, progress), fps=rate)
    storage.put(out, made.getvalue())
    return {"file": out, "rate": rate, "videos": told}


def _of_all(
    model: Model,
    sources: Iterable[tuple[str, video.Source]],
    seconds: float,
    told: list[dict[str, Any]],
    progress: Progress | None,
) -> Iterator[Picture]:
    for name, source in sources:
        pictures, things = drawn(model, source, seconds)
        told.append({"video": name, "frames": len(pictures), **things})
        yield from pictures
        if progress:
            count = sum(each["frames"] for each in told)
            progress("drawing frames", count, count)


def drawn(
    model: Model, source: video.Source, seconds: float
) -> tuple[list[Picture], dict[str, int]]:
    """The pictures of one video's first seconds, and how many things were followed in them."""
    info = video.probe(source)
    length = min(info.duration_seconds, seconds)
    looks = max(1, round(length * model.plugin.views()["test"].rate))
    if looks > MOST_LOOKS:
        raise UsageError(f"{looks} frames of one video", f"{MOST_LOOKS} at the most", "ask for fewer seconds")  # fmt: skip
    own = evaluate.asked(model, clips=looks, crops=1)
    asked = viewing.looked_at(infer.looks(own), source, 0.0, length)
    stills: list[Picture] = []
    outputs: list[Output] = []
    for batch in asked.batches:
        outputs += [output for _, output in infer.outputs(own, [batch])]
        if "rgb" not in batch:  # it compares several pictures: there is none to draw over
            raise _undrawable(model, outputs[0])
        stills += list(batch["rgb"][:, 0])
    answer = own.plugin.answer(outputs, asked.takes)
    found = answer.get("things")
    pictures = []
    for at, (still, output) in enumerate(zip(stills, outputs, strict=True)):
        things = None if found is None else [thing for thing in found if thing["at"] == at]
        pictures.append(beside(still, output, things, model))
    told = {} if found is None else {"things": len({thing["id"] for thing in found} - {0})}
    return pictures, told


def beside(
    still: Picture,
    output: Output,
    things: Sequence[Mapping[str, Any]] | None,
    model: Model,
) -> Picture:
    """A still, and the same with what was made of it; of even sides, as videos have them."""
    large = drawing.enlarged(still)
    large = large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2]
    return np.concatenate([large, over(large, output, things, model)], axis=1)


def over(
    still: Picture,
    output: Output,
    things: Sequence[Mapping[str, Any]] | None,
    model: Model,
) -> Picture:
    """The most telling of what a model answers with, over a still."""
    if things is not None:
        return paint.with_things(still, things, model.classes)
    if "class_scores" in output:
        return paint.painted(still, output["class_scores"].argmax(0))
    if "mask" in output and output["mask"].ndim == 2:
        return drawing.masked(still, output["mask"] >= CUT)
    if "heat" in output:
        return drawing.heated(still, output["heat"])
    raise _undrawable(model, output)


def _undrawable(model: Model, output: Output) -> PluginError:
    return PluginError(
        f"{model.recipe.model.plugin} answers with {', '.join(sorted(output))}",
        f"one of {', '.join(KINDS)}, which can be drawn over a video",
    )

"""Test videos through a model: what it makes of each, and the picture that it made it of.

Of the takes of a video the middle one is shown; its embedding is the mean over all. Knows nothing
of drawing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import feed, infer
from clipmill.errors import DataError
from clipmill.evaluate.pieces import batch_takes
from clipmill.evaluate.stills import still
from clipmill.infer import Model, Output
from clipmill.plan import Plan
from clipmill.plugin import Sample

TRUTHS = ("mask", "motion")  # kinds of arrays that say where things are, the surest first
STILL_SIDE = 112  # pixels, of a still for a model that was shown none

Picture = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Still:
    """The first frame of a take as the network got it, and what is known of it."""

    picture: Picture | None
    truths: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # by kind


@dataclass(frozen=True)
class Seen:
    """A video as a model saw it."""

    place: int  # among the test records
    row: Mapping[str, Any]  # of the catalog
    picture: Picture
    truths: Mapping[str, NDArray[Any]]  # of the picture, by kind
    outputs: Mapping[str, NDArray[Any]]
    things: Sequence[Mapping[str, Any]] | None = None  # that were found one by one in the picture
    classes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # more to be told of it


def seen(
    model: Model, plan: Plan, rows: NDArray[np.int64], progress: Progress | None = None
) -> list[Seen]:
    """Show some videos of a test plan to a model; those that do not decode are left out."""
    own = replace(plan, catalog=plan.catalog.picked(rows))
    record = own.epoch(0).record[:, 0]
    middles, stills = _middles(record), dict[int, Still]()
    outputs: dict[int, dict[int, Output]] = {}  # by record and position
    size = batch_takes(own)
    parts = tuple(range(at, min(at + size, len(record))) for at in range(0, len(record), size))
    settings = model.recipe.feed.model_copy(update={"max_bad_share": 1.0})
    with feed.batches(own, feed.Share(0, len(parts), own=parts), settings) as batches:
        watched = _watched(batches, set(middles.values()), stills)
        for position, output in infer.outputs(model, watched):
            outputs.setdefault(int(record[position]), {})[position] = output
            if progress:
                progress("looking at clips", position + 1, len(record))
    made = [
        replace(
            _seen(int(rows[at]), own.catalog.row(at), stills[middle], outputs[at], middle),
            things=_things(own, outputs[at], middle),
            classes=model.classes,
        )
        for at, middle in middles.items()
        if middle in outputs.get(at, {})
    ]
    if not made:
        raise DataError(
            f"not one of {len(rows)} videos could be decoded",
            "one at the least",
            "run `clipmill verify --deep` on the dataset",
        )
    return made


def _things(
    plan: Plan, outputs: Mapping[int, Output], middle: int
) -> Sequence[Mapping[str, Any]] | None:
    """The things that were found in the picture, with the numbers that they have in the video."""
    if "thing_masks" not in outputs[middle]:
        return None
    places = sorted(outputs)
    answer = plan.plugin.answer([outputs[at] for at in places], plan.epoch(0)[np.array(places)])
    own = places.index(middle)
    return [thing for thing in answer["things"] if thing["at"] == own]


def _middles(record: NDArray[Any]) -> dict[int, int]:
    """The position of each record's middle take."""
    found: dict[int, list[int]] = {}
    for position, at in enumerate(record.tolist()):
        found.setdefault(at, []).append(position)
    return {at: own[len(own) // 2] for at, own in sorted(found.items())}


def _watched(
    batches: Iterable[Sample], wanted: set[int], stills: dict[int, Still]
) -> Iterator[Sample]:
    """Pass batches on, and keep the stills of some positions."""
    for batch in batches:
        for place, position in enumerate(batch["position"].tolist()):
            if position in wanted:
                stills[position] = still_of(batch, place)
        yield batch


def still_of(batch: Sample, place: int) -> Still:
    """The first picture of a take in a batch, and the first of each kind of mask beside it."""
    pictures = [a for name, a in batch.items() if _kind(name) == "rgb" and a.dtype == np.uint8]
    truths = {
        kind: next(a for name, a in batch.items() if _kind(name) == kind)
        for kind in TRUTHS
        if any(_kind(name) == kind for name in batch)
    }
    return Still(
        pictures[0][place, 0].copy() if pictures else None,
        {kind: array[place, 0].copy() for kind, array in truths.items()},
    )


def _kind(name: str) -> str:
    return name.split("_", 1)[0]


def _seen(
    place: int, row: Mapping[str, Any], first: Still, outputs: Mapping[int, Output], middle: int
) -> Seen:
    shown = dict(outputs[middle])
    if "embedding" in shown:
        shown["embedding"] = np.mean([each["embedding"] for each in outputs.values()], axis=0)
    picture = first.picture
    if picture is None:  # the model was shown none
        picture = still(row, row["frames"] // 2, STILL_SIDE)
    return Seen(place, row, picture, first.truths, shown)

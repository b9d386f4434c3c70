"""The table of takes: columns as arrays, one row a take.

A take is a list of (record, view, first frame, last frame), a place of the crop and a seed of
its own. Knows neither video nor how takes are drawn.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Stage = Literal["train", "val", "test"]
Numbers = NDArray[np.integer[Any]]  # as narrow as what they count allows


@dataclass(frozen=True)
class Takes:
    """A table of takes; spans that a take does not have are records of -1."""

    views: tuple[str, ...]
    record: Numbers  # [takes, spans], rows of the catalog
    view: NDArray[np.int8]  # [takes, spans], places in `views`
    first: Numbers  # [takes, spans], frame numbers
    last: Numbers
    seed: NDArray[np.uint64]  # [takes]
    # [takes]: 0 is as the stage has it, 1 to 3 are start, middle and end of the longer side
    crop: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))

    def __post_init__(self) -> None:
        if len(self.crop) != len(self.seed):
            object.__setattr__(self, "crop", np.broadcast_to(np.int8(0), len(self.seed)))

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, which: slice | Numbers) -> "Takes":
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    def digest(self, place: int, keys: Sequence[str]) -> bytes:
        """Hash one take by what it is; `keys` are the keys of its records, one a span."""
        return self[place : place + 1].digests([keys])[0]

    def digests(self, keys: Sequence[Sequence[str]]) -> list[bytes]:
        """Hash takes by what they are; `keys` are those of each take's records, one a span."""
        columns = [getattr(self, name).tolist() for name in COLUMNS]
        return [
            _digest(self.views, take_keys, *take)
            for take_keys, *take in zip(keys, *columns, strict=True)
        ]


COLUMNS = ("record", "view", "first", "last", "seed", "crop")


def _digest(
    views: tuple[str, ...], keys: Sequence[str], record: list[int], view: list[int],
    first: list[int], last: list[int], seed: int, crop: int,
) -> bytes:  # fmt: skip
    spans = zip(keys, view, first, last, record, strict=True)
    told = ";".join([f"{k}:{views[v]}:{a}:{b}" for k, v, a, b, r in spans if r >= 0])
    return hashlib.sha256(f"{told}@{crop}#{seed}".encode()).digest()


def joined(parts: Sequence[Takes]) -> Takes:
    """Put tables of the same views one behind the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS}
    return Takes(parts[0].views, **columns)


def beside(parts: Sequence[Takes]) -> Takes:
    """Put the spans of equally long tables into the same takes, such as the two of a pair."""
    views = tuple(dict.fromkeys(name for part in parts for name in part.views))
    columns: Mapping[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("record", "first", "last")
    }
    turned = [
        np.array([views.index(name) for name in part.views], np.int8)[part.view] for part in parts
    ]
    return Takes(
        views,
        view=np.concatenate(turned, axis=1),
        seed=parts[0].seed,
        crop=parts[0].crop,
        **columns,
    )


def narrow(numbers: Numbers) -> Numbers:
    """The same numbers in 32 bits where they fit: an epoch of millions is kept in memory."""
    if numbers.dtype.itemsize <= 4 or not numbers.size:
        return numbers
    bounds = np.iinfo(np.int32)
    fits = bounds.min <= numbers.min() and numbers.max() <= bounds.max
    return numbers.astype(np.int32) if fits else numbers

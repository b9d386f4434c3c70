"""Handwritten digits, parted once and for all: no split ever sees another split's writing.

The parting does not depend on a world or a seed, so that what is learned in one world may be
tested in another.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
_PARTING_SEED = 1797


@dataclass(frozen=True, eq=False)
class Handwriting:
    """Digits of one split."""

    images: npt.NDArray[np.float32]  # [N, 8, 8], ink from 0 to 1
    digits: npt.NDArray[np.int64]  # [N], which digit
    numbers: npt.NDArray[np.int64]  # [N], which sample of the whole collection

    def pick(self, rng: np.random.Generator, digit: int) -> tuple[npt.NDArray[np.float32], int]:
        """Choose a sample of a digit; gives it with its number."""
        at = int(rng.choice(np.flatnonzero(self.digits == digit)))
        return self.images[at], int(self.numbers[at])

    def sample(self, rng: np.random.Generator, digit: int, turn: int) -> "Handwriting":
        """Keep one sample of a digit alone, another one each turn until all have had theirs."""
        order = rng.permutation(np.flatnonzero(self.digits == digit))
        chosen = order[[turn % len(order)]]
        return Handwriting(self.images[chosen], self.digits[chosen], self.numbers[chosen])


def handwriting() -> dict[str, Handwriting]:
    """Give the handwriting of each split."""
    from sklearn.datasets import load_digits  # heavy, and only the parent process needs it

    collection = load_digits()
    images = (collection.images / 16).astype(np.float32)
    digits = collection.target.astype(np.int64)
    numbers = _parted(digits)
    return {
        split: Handwriting(images[chosen], digits[chosen], chosen)
        for split, chosen in numbers.items()
    }


def _parted(digits: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(_PARTING_SEED)
    parts: dict[str, list[npt.NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for digit in range(10):
        mine = rng.permutation(np.flatnonzero(digits == digit))
        ends = np.rint(np.cumsum(list(SPLITS.values()))[:-1] * len(mine)).astype(int)
        for split, part in zip(SPLITS, np.split(mine, ends), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(lists)) for split, lists in parts.items()}

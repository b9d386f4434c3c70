"""A share of the training records: of each class alike, small shares within larger ones.

Which records are in it is decided by a hash of the seed and each one's key alone, so it is the
same wherever the plan is made. Catalog in, rows out; knows no takes.
"""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.plan.visits import Sampling, groups_of


def kept(catalog: Catalog, share: float, seed: int, sampling: Sampling) -> NDArray[np.int64]:
    """The rows of a share of each class, rising; at least one of each.

    Records without a class are a class of their own. Datasets that have weights are shared apart.
    """
    group = groups_of(catalog, replace(sampling, balance="class")).of_row
    size = np.bincount(group)
    wanted = np.maximum(1, np.rint(size * share))
    order = np.lexsort((_chance(catalog, seed), group))
    place = np.arange(len(order)) - (np.cumsum(size) - size)[group[order]]
    return np.sort(order[place < wanted[group[order]]])


def _chance(catalog: Catalog, seed: int) -> NDArray[np.uint64]:
    """A number a record that its key and the seed decide."""
    salt, made = str(seed).encode(), list[bytes]()
    for chunk in catalog.keys.column.chunks:
        made += [
            hashlib.blake2b(key.encode(), digest_size=8, key=salt).digest()
            for key in chunk.to_pylist()
        ]
    return np.frombuffer(b"".join(made), "<u8")

"""What measures recognition among many: nearest neighbours, and a gallery with strangers.

One video an identity is enrolled, of half of the identities; all other videos are asked about.
Who is known is a hash's choice, the same for every run. Knows no network.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipmill_similar.thresholds import Floats, best_threshold

RECALLS = (1, 5)  # among how many nearest neighbours one of the same identity is looked for
MOST = 4000  # videos that are compared with all others
Norm = Literal["squared", "absolute"]  # what of the differences of embeddings is summed up
METRICS: Mapping[Norm, str] = {"squared": "sqeuclidean", "absolute": "cityblock"}


@dataclass(frozen=True)
class Shown:
    """A video: whom it shows, its key, and its embedding."""

    identity: str
    key: str
    embedding: Floats


def apart(ones: Sequence[Shown], others: Sequence[Shown], norm: Norm) -> Floats:
    """How far the embedding of each one is from that of each other."""
    from sklearn.metrics import pairwise_distances

    sides = (np.stack([each.embedding for each in side]) for side in (ones, others))
    made: Floats = pairwise_distances(*sides, metric=METRICS[norm])
    return made


def chosen(shown: Sequence[Shown]) -> list[Shown]:
    """Those that are compared, each video once, identity by identity in the order of hashes."""
    once = {each.key: each for each in shown}.values()
    return sorted(once, key=lambda each: (_hashed(each.identity), each.key))[:MOST]


def _hashed(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()


def recalls(among: Sequence[Shown], norm: Norm) -> dict[str, float]:
    """How often one of the same identity is among the nearest videos, where there is one."""
    if not among:
        return {}
    away_NN, names = apart(among, among, norm), _names(among)
    own_NN = names == names[:, None]
    np.fill_diagonal(own_NN, False)
    nearest_N = np.where(own_NN, away_NN, np.inf).min(1)
    # How many of others are at least as near as its own.
    nearer_N = ((away_NN <= nearest_N[:, None]) & (names != names[:, None])).sum(1)
    nearer = nearer_N[np.isfinite(nearest_N)]
    return {f"recall_at_{k}": float((nearer < k).mean()) for k in RECALLS} if len(nearer) else {}


def open_set(among: Sequence[Shown], norm: Norm, threshold: float | None) -> dict[str, float]:
    """How often the known are recognised as who they are, and strangers are not.

    Without a threshold it is the best on these videos.
    """
    known, asked = _enrolled(among)
    names = _names(asked)
    is_stranger = ~np.isin(names, _names(known))
    if not known or is_stranger.all() or not is_stranger.any():
        return {}
    away_AK = apart(asked, known, norm)
    nearest = away_AK.min(1)
    is_right = _names(known)[away_AK.argmin(1)] == names
    count = int(np.count_nonzero(~is_stranger))
    if threshold is None:
        threshold = best_threshold(nearest[is_right], nearest[is_stranger], count)
    identified = float(np.count_nonzero(is_right & (nearest <= threshold)) / count)
    refused = float((nearest[is_stranger] > threshold).mean())
    return {
        "open_set": (identified + refused) / 2,
        "identified": identified,
        "refused": refused,
        "open_set_threshold": threshold,
        "gallery": float(len(known)),
    }


def _enrolled(among: Sequence[Shown]) -> tuple[list[Shown], list[Shown]]:
    """One video of each known identity, and all videos that are asked about."""
    counts = Counter(each.identity for each in among)
    several = [name for name in counts if counts[name] > 1]
    left = set(several[: len(several) // 2])
    known, asked = list[Shown](), list[Shown]()
    for each in among:
        (known if each.identity in left else asked).append(each)
        left.discard(each.identity)
    return known, asked


def _names(shown: Sequence[Shown]) -> NDArray[np.str_]:
    return np.array([each.identity for each in shown], np.str_)

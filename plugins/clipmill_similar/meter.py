"""What measures verification and recognition: how well distances tell one identity from two.

All distances are kept and sorted in the end, so that merging is exact. Free of torch at import;
knows no network.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import DataError, PluginError
from clipmill_similar.partners import ALIKE, KINDS, OTHER, SAME
from clipmill_similar.recognition import Norm, Shown, chosen, open_set, recalls
from clipmill_similar.thresholds import Floats, best_threshold

CHOSEN = ("threshold", "open_set_threshold")  # by a validation, and gone by in a test


class PairMeter:
    """AUC, equal error rate, accuracy at a threshold, the AUC within a label, and recognition.

    The accuracy is the mean of that over pairs of one identity and of that over pairs of two. Its
    threshold is the one that a validation chose; without one it is the best on these pairs. The
    same goes for the one of recognition among many.
    """

    def __init__(self, by: str = "identity", norm: Norm = "squared") -> None:
        self.by: str = by
        self.norm: Norm = norm
        self.settled: dict[str, float] = {}
        self.distances: list[Floats] = []  # of each video
        self.kinds: list[NDArray[np.int64]] = []
        self.shown: list[Shown] = []

    def settle(self, validation: Mapping[str, float]) -> None:
        """Take over what a validation of the same model chose."""
        self.settled |= {name: validation[name] for name in CHOSEN if name in validation}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: the pairs that it leads, and its catalog row."""
        key = str(target.get("key", "?"))
        if "distances" not in answer:
            raise DataError(
                f"video {key} was compared with none",
                "at least two identities among the videos",
                "measure on more videos",
            )
        distances, kinds = np.asarray(answer["distances"], np.float64), np.asarray(answer["kinds"])
        embedding = np.asarray(answer["embedding"], np.float64)
        if not (np.isfinite(distances).all() and np.isfinite(embedding).all()):
            raise PluginError(f"distances of record {key} are not finite")
        self.distances.append(distances)
        self.kinds.append(kinds.astype(np.int64))
        self.shown.append(Shown(str(target[self.by]), key, embedding))

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        self.settled = {**other.settled, **self.settled}
        self.distances += other.distances
        self.kinds += other.kinds
        self.shown += other.shown

    def compute(self) -> dict[str, float]:
        """All figures, and how many pairs of each kind they are of."""
        kinds = np.concatenate([np.empty(0, np.int64), *self.kinds])
        distances = np.concatenate([np.empty(0), *self.distances])
        of_kind = {name: distances[kinds == place] for place, name in enumerate(KINDS)}
        same, others = of_kind[SAME], np.concatenate([of_kind[ALIKE], of_kind[OTHER]])
        if not (len(same) and len(others)):
            raise DataError(
                f"{len(same)} pairs of one identity and {len(others)} of two",
                "some of both",
                "measure on more videos of more identities",
            )
        among = chosen(self.shown)
        threshold = self.settled.get("threshold", best_threshold(same, others))
        within = {"auc_within_label": auc(same, of_kind[ALIKE])} if len(of_kind[ALIKE]) else {}
        return {
            "auc": auc(same, others),
            "own_chance": 0.5,
            **within,
            "eer": equal_error(same, others),
            "accuracy": accuracy(same, others, threshold),
            "threshold": threshold,
            **recalls(among, self.norm),
            **open_set(among, self.norm, self.settled.get("open_set_threshold")),
            **{f"pairs_{name}": float(len(each)) for name, each in of_kind.items()},
        }


def auc(same: Floats, others: Floats) -> float:
    """How often a pair of one identity is nearer than one of two; a tie counts half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(_truth(same, others), -np.concatenate([same, others])))


def equal_error(same: Floats, others: Floats) -> float:
    """The error where as many pairs of two are taken for one as the other way round."""
    from sklearn.metrics import roc_curve

    wrong, right, _ = roc_curve(
        _truth(same, others), -np.concatenate([same, others]), drop_intermediate=False
    )
    missed = 1 - right
    after = int(np.argmax(wrong >= missed))  # it is so at the end, if nowhere before
    before = max(0, after - 1)
    gap, next_gap = missed[before] - wrong[before], wrong[after] - missed[after]
    share = gap / (gap + next_gap) if gap + next_gap > 0 else 0.0
    return float(wrong[before] + share * (wrong[after] - wrong[before]))


def accuracy(same: Floats, others: Floats, threshold: float) -> float:
    """The mean of what is right of either kind, if up to the threshold it is one identity."""
    return float((same <= threshold).mean() + (others > threshold).mean()) / 2


def _truth(same: Floats, others: Floats) -> NDArray[np.int64]:
    return np.concatenate([np.ones(len(same), np.int64), np.zeros(len(others), np.int64)])

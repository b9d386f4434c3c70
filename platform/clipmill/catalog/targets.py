"""The classes of a record as numbers: of its label, of its labels, of its spans and frames.

Rows in, rows and arrays out. Knows no files.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1


def with_targets(row: Mapping[str, Any], target_of: Mapping[str | None, int]) -> dict[str, Any]:
    """A row with its classes as numbers, -1 where a class is none of these.

    `target` is that of its label, `targets` those of its label and labels in their order, and
    each span has its own `target`; `class_count` is how many classes there are.
    """
    names = dict.fromkeys((row["label"], *(row["labels"] or ())))
    told = {
        "target": target_of.get(row["label"], NO_LABEL),
        "targets": [target_of.get(name, NO_LABEL) for name in names if name is not None],
        "class_count": len(target_of),
    }
    if spans := row["spans"]:
        told["spans"] = [
            {**span, "target": target_of.get(span["label"], NO_LABEL)} for span in spans
        ]
    return {**row, **told}


def frame_targets(row: Mapping[str, Any], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class of each of these frames of a row with targets; NO_LABEL where no span is.

    A span holds from its first to its last frame, both within. Where spans overlap, the one that
    begins later holds; of those that begin together, the one that is told later.
    """
    targets = np.full(len(frames), NO_LABEL, np.int64)
    for span in sorted(row["spans"] or (), key=lambda span: int(span["first_frame"])):
        inside = (frames >= span["first_frame"]) & (frames <= span["last_frame"])
        targets[inside] = span["target"]
    return targets

"""Features as a record holds them: an array in place of its video, a row for each frame looked at.

`KEY.npy` is the array [rows, D]; `KEY.json` tells beside all else the number of the frame that each
row is of. Knows neither what made them nor what they are for.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog.member import member
from clipmill.errors import DataError, VideoError

FEATURES = "npy"  # the suffix of the array
FEATURE_FRAMES = "feature_frames"  # in the sidecar

Rows = NDArray[np.floating[Any]]


def packed_features(rows_TD: Rows) -> bytes:
    """Features as the bytes of a member."""
    out = io.BytesIO()
    np.save(out, rows_TD, allow_pickle=False)
    return out.getvalue()


def read_features(row: Mapping[str, Any]) -> tuple[Rows, NDArray[np.int64]]:
    """All features of a record, and the frames that they are of, in rising order."""
    if not any(each["suffix"] == FEATURES for each in row["members"]):
        raise DataError(
            f"record {row['key']} holds no features",
            "a dataset of features",
            "make one with `clipmill features RUN DATA --out DIR`, or look at frames",
        )
    sidecar, data = member(row, "json"), member(row, FEATURES)
    try:
        frames = np.asarray(json.loads(sidecar)[FEATURE_FRAMES], np.int64)
        rows_TD = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise VideoError(f"record {row['key']}: {error}", "features of its frames") from error
    if rows_TD.ndim != 2 or rows_TD.dtype.kind != "f" or not len(rows_TD):
        told = f"{rows_TD.dtype} of {list(rows_TD.shape)}"
        raise VideoError(f"record {row['key']} has features that are {told}", "rows of floats")
    if frames.shape != rows_TD.shape[:1] or (np.diff(frames) <= 0).any():
        told = f"{frames.size} frames for {len(rows_TD)} rows of features"
        raise VideoError(f"record {row['key']} has {told}", "a frame for each, in rising order")
    return rows_TD, frames

"""One frame of a record as a small square, to be looked at beside words. Knows no models."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import feed, video
from clipmill.errors import ClipmillError
from clipmill.video import sheet


def still(row: Mapping[str, Any], number: int, side: int) -> NDArray[np.uint8]:
    """The middle of a frame, or of the last where there are fewer; paper where it cannot be read."""
    height, width = video.scaled_size(row["height"], row["width"], side)
    crop = ((height - side) // 2, (width - side) // 2, side, side)
    numbers = np.array([min(number, row["frames"] - 1)], np.int64)
    try:
        return np.asarray(feed.Stored(row).pictures(numbers, side, crop)[0], np.uint8)
    except ClipmillError:
        return sheet.paper(side, side)

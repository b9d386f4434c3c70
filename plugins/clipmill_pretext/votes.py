"""What looks like what moves is of it: colours vote where flow alone blurs.

Flow is smooth, so masks of motion reach over the borders of things and miss what is still for a
moment. Pixels of one colour vote together, wherever in the clip they are: the idea of Faktor and
Irani, "Video Segmentation by Non-Local Consensus Voting", 2014, which Pathak et al. take their
masks from, with colours in the place of superpixels. Arrays in, arrays out.
"""

import numpy as np
from numpy.typing import NDArray

LEVELS = 6  # of each of three colours
DOUBT = 4.0  # pixels that are added to each colour, which move as often as all do
# How much higher than for all pixels the odds of moving must be for a colour.
STAYS, COMES_IN = 1.5, 4.5  # of a pixel that moves, and of one that does not
SURE = 1e-3  # no colour moves always or never

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def voted(rgb_THWC: Pixels, motion_THW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep of a clip's masks what looks as what moves, and add what looks very much so."""
    share = float(motion_THW.mean())
    if not 0 < share < 1:
        return motion_THW
    level = rgb_THWC.astype(np.int64) * LEVELS // 256
    colour_THW = (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]
    moving = np.bincount(colour_THW[motion_THW], minlength=LEVELS**3)
    there = np.bincount(colour_THW.ravel(), minlength=LEVELS**3)
    shares = (moving + DOUBT * share) / (there + DOUBT)
    votes_THW = _smoothed((_log_odds(shares) - _log_odds(np.array(share)))[colour_THW])
    return np.asarray(votes_THW > np.where(motion_THW, np.log(STAYS), np.log(COMES_IN)))


def _log_odds(shares: Floats) -> Floats:
    sure = np.clip(shares, SURE, 1 - SURE)
    return np.asarray(np.log(sure / (1 - sure)))


def _smoothed(x_THW: Floats) -> Floats:
    """The mean of each pixel and its eight neighbours."""
    for axis in (1, 2):
        around = [(1, 1) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(x_THW, around, mode="edge")
        count = x_THW.shape[axis]
        moved = [padded.take(range(first, first + count), axis) for first in range(3)]
        x_THW = (moved[0] + moved[1] + moved[2]) / 3
    return x_THW

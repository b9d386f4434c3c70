"""What records lack that a pretext cannot do without: length, motion, sound.

Masks over the rows of a catalog, for `Plugin.unfit`. Opens no video.
"""

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Catalog

Rows = NDArray[np.bool_]
LEAST_MOTION = 5e-4  # less is what coding makes of a still


def shorter_than(catalog: Catalog, seconds: float) -> dict[str, Rows]:
    """Those of fewer frames than so many seconds have at their own rate."""
    frames, fps = catalog.column("frames"), catalog.column("fps").astype(np.float64)
    short = frames < np.rint(seconds * fps)
    return {f"shorter than {seconds:g} s": np.asarray(short, np.bool_)}


def still(catalog: Catalog) -> dict[str, Rows]:
    """Those in which nothing moves; where motion was never measured, none is known to be."""
    motion = np.array(catalog.values("motion"), np.float64)  # null is NaN
    return {"without any motion": motion < LEAST_MOTION}


def silent(catalog: Catalog) -> dict[str, Rows]:
    """Those without a sound track, and those that were measured to be silent from end to end."""
    told = [each is not None and not each for each in catalog.column("has_audio")]
    silence = np.array(catalog.values("silence"), np.float64)  # null is NaN
    return {"without sound": np.array(told, np.bool_), "silent": silence >= 1}

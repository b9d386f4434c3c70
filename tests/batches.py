"""Small batches by position, as the feed gives them: pictures of noise, and what goes with them."""

import numpy as np

from clipmill.plugin import Sample
from clipmill.takes import View

VIEW = View(frames=1, size=8, resize=8)


def batch_of(positions: range) -> Sample:
    """The batch of some positions; each take is the same wherever it is."""
    rng = [np.random.default_rng(position) for position in positions]
    return {
        "rgb": np.stack([r.integers(0, 255, (1, 8, 8, 3), dtype=np.uint8) for r in rng]),
        "target": np.array([p % 2 for p in positions], np.float32),
        "position": np.array(positions),
        "seed": np.array(positions, np.uint64),
        "digest": np.zeros((len(positions), 32), np.uint8),
    }

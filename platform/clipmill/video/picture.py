"""Single pictures as JPEG, for pages and reports. Knows nothing of videos."""

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import UsageError, VideoError


def jpeg(frame_HWC: NDArray[np.uint8], quality: int = 80) -> bytes:
    """Encode an RGB picture; quality from 1 to 100."""
    import cv2  # takes a while to load, and few need it

    shape = frame_HWC.shape
    if frame_HWC.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise UsageError(f"a picture of {frame_HWC.dtype} {shape}", "uint8 height, width, 3")
    if not 1 <= quality <= 100:
        raise UsageError(f"quality {quality}", "1 to 100")
    made, data = cv2.imencode(".jpg", frame_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not made:
        raise VideoError(
            f"a picture of {shape[1]}x{shape[0]} cannot be a JPEG", "sides below 65,536"
        )
    return bytes(data)

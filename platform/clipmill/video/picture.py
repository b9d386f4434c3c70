"""Single pictures: to JPEG for pages and reports, and from files. Knows of videos how large a frame may be."""

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from clipmill.errors import UsageError, VideoError
from clipmill.video.rgb import Crop, ToRgb
from clipmill.video.source import MAX_PIXELS


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


def pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode a picture file to RGB, upright as it says to be shown."""
    import cv2

    raw = np.frombuffer(data, np.uint8)
    try:
        found = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    except cv2.error:  # such as a size beyond its limit
        found = None
    if found is None:
        wanted = f"a PNG, JPEG, BMP, WebP or TIFF file of at most {MAX_PIXELS} pixels"
        raise VideoError("no picture that can be read", wanted)
    return np.ascontiguousarray(found[..., ::-1])


def scaled(
    frame_HWC: NDArray[np.uint8], short_side: int | None, crop: Crop | None
) -> NDArray[np.uint8]:
    """A picture scaled and cut as the frames of a video are."""
    convert = ToRgb((frame_HWC.shape[0], frame_HWC.shape[1]), short_side, crop)
    made: NDArray[np.uint8] = np.empty((*convert.size, 3), np.uint8)
    convert.into(made[None], [0], VideoFrame.from_ndarray(frame_HWC, format="rgb24"))
    return made

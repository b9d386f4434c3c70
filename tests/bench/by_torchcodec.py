"""Clips by torchcodec, in the ways its documentation offers, one thread each.

The frames' numbers are known beforehand, as by us. Knows nothing of what is compared.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Size = tuple[int, int]  # height and width
Decode = Callable[[bytes, Sequence[int], Size, int], Frames]

MISSING = "torchcodec is not installed: no figures of it. pip install -e .[bench], and FFmpeg"


@cache
def ways() -> Mapping[str, Decode]:
    """Return the ways to decode with torchcodec; none where it cannot be loaded."""
    try:
        import torchcodec.decoders
        import torchcodec.transforms  # noqa: F401
    except (ImportError, RuntimeError, OSError):  # it asks for FFmpeg's libraries when it is loaded
        print(MISSING, flush=True)
        return {}
    import torch

    torch.set_num_threads(1)
    modes: tuple[Any, ...] = ("exact", "approximate")
    return {
        f"torchcodec, {mode}, {how}": partial(decode, mode)
        for how, decode in (("its Resize", resized_inside), ("tv resize", resized_after))
        for mode in modes
    }


def resized_inside(
    mode: Any, stored: bytes, numbers: Sequence[int], size: Size, crop: int
) -> Frames:
    """Scale and cut while decoding."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    cut: list[Any] = [Resize(size), CenterCrop((crop, crop))]
    decoder = VideoDecoder(stored, seek_mode=mode, dimension_order="NHWC", transforms=cut)
    return decoder.get_frames_at(indices=list(numbers)).data.numpy()


def resized_after(
    mode: Any, stored: bytes, numbers: Sequence[int], size: Size, crop: int
) -> Frames:
    """Decode at full size, then scale and cut by torchvision."""
    from torchcodec.decoders import VideoDecoder
    from torchvision.transforms.v2 import functional

    frames = VideoDecoder(stored, seek_mode=mode).get_frames_at(indices=list(numbers)).data
    small = functional.resize(frames, list(size), antialias=True)
    cut = functional.center_crop(small, [crop, crop])
    result: Frames = cut.permute(0, 2, 3, 1).contiguous().numpy()
    return result

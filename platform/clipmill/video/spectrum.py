"""Log-mel spectrograms of sound. Arrays in, arrays out; knows nothing of videos."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError

Samples = npt.NDArray[np.float32]
Real = npt.NDArray[np.float64]

SILENCE = 1e-10  # power that is taken for silence, so that its logarithm is a number


def log_mel(
    samples: Samples,
    rate: int,
    *,
    bands: int = 64,
    window_seconds: float = 0.025,
    step_seconds: float = 0.01,
) -> Samples:
    """Give the natural logarithm of the power in mel bands: float32 [bands, steps].

    Step s is a Hann window that begins at s x step_seconds; the last is the last that fits, and
    sound shorter than a window is one step. Bands are triangles, even in mel (2595 log10(1 +
    Hz / 700)) from 0 to rate / 2. A full-scale sine is near 0 in its band.
    """
    window, step = round(window_seconds * rate), round(step_seconds * rate)
    if samples.ndim != 1 or window < 2 or step < 1 or bands < 1:
        got = f"{samples.ndim} dimensions, {bands} bands, {window} and {step} samples"
        raise UsageError(got, "one dimension, and a band, a window and a step at the least")
    padded = np.pad(samples, (0, max(0, window - len(samples))))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::step]
    weights, length = _triangles(rate, bands, window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    amplitude = np.abs(np.fft.rfft(pieces * hann, length)) * (2 / hann.sum())
    power = amplitude**2 @ weights
    logs: Samples = np.log(np.maximum(power, SILENCE)).T.astype(np.float32)
    return logs


@lru_cache(maxsize=16)
def _triangles(rate: int, bands: int, window: int) -> tuple[Real, int]:
    """Give the bands' weights [frequencies, bands] and the length of transform they are for."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    length = 1 << (window - 1).bit_length()
    while True:
        hertz = np.fft.rfftfreq(length, 1 / rate)[:, None]
        rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
        weights = np.maximum(0, np.minimum(rising, falling))
        if weights.max(axis=0).min() >= 0.5 or length > rate * 64:
            return weights, length
        length *= 2  # finer, until each narrow band holds a frequency

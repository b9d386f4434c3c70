"""Chance by counter: a hash of seed, epoch, name and position.

So takes can be drawn for any part of an epoch, anywhere, alike. Knows nothing of takes.
"""

import hashlib
import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio: the step of splitmix64


def mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _drawn(positions: NDArray[np.int64], salt: np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        steps = (positions.astype(np.uint64) + np.uint64(1)) * GOLDEN
        return mixed(mixed(steps + salt))


@dataclass(frozen=True)
class Draw:
    """Chance for one epoch: the same name and position always give the same number."""

    seed: int
    epoch: int = 0
    scope: str = ""  # another one gives other chance under the same names

    def apart(self, scope: str) -> "Draw":
        """Chance of its own, such as for the second spans of pairs."""
        return replace(self, scope=f"{self.scope}/{scope}")

    def bits(self, name: str, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
        """64 random bits a position."""
        told = f"{self.seed}:{self.epoch}:{name}{self.scope}"
        salt = np.frombuffer(hashlib.sha256(told.encode()).digest()[:8], np.uint64)[0]
        drawn = np.empty(len(positions), np.uint64)
        for at in range(0, len(positions), BLOCK):  # blocks stay in the processor's cache
            drawn[at : at + BLOCK] = _drawn(positions[at : at + BLOCK], salt)
        return drawn

    def uniform(self, name: str, count: int, first: int = 0) -> NDArray[np.float64]:
        """Numbers in [0, 1), one for each position from the first on."""
        bits = self.bits(name, np.arange(first, first + count))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, name: str, limits: NDArray[np.int64], first: int = 0) -> NDArray[np.int64]:
        """Whole numbers from 0 up to and without each limit, for the positions from the first."""
        drawn = self.uniform(name, len(limits), first)
        drawn *= limits
        return np.minimum(drawn.astype(np.int64), limits - 1)


def generator(seed: int, name: str = "") -> np.random.Generator:
    """A generator of its own for one take; only for use inside `sample`."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))

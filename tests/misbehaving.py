"""Plugins and a decoder that do what none should. Light: decode workers that they end import it again and again."""

import os
import signal
import time
from typing import Any

import numpy as np

from clipmill import viewing
from clipmill.plugin import Decoded, Sample
from clipmill_classify.single_frame import SingleFrame


class Crashing(SingleFrame):
    """Ends the process that decodes one of its records."""

    bad: str = ""

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Crash on the bad one."""
        if decoded.records[0]["key"] == self.bad:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().sample(decoded, rng)


class Suicidal(SingleFrame):
    """Ends every process that decodes."""

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Crash."""
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class Failing(SingleFrame):
    """Has a bug."""

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Fail."""
        raise ZeroDivisionError("a bug")


class Unjoined(SingleFrame):
    """Samples of many lengths that nothing joins."""

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """As many numbers as chance wants."""
        return {"numbers": np.ones(int(rng.integers(1, 9)))}


class Ragged(Unjoined):
    """Samples of many lengths."""

    def collate(self, samples: list[Sample]) -> Sample:  # type: ignore[override]
        """Put all one behind the other, with their lengths."""
        numbers = [sample["numbers"] for sample in samples]
        return {"numbers": np.concatenate(numbers), "lengths": np.array([len(n) for n in numbers])}


def lie(asked: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Decode, and tell of every batch that its first column is of a kind that cannot be."""
    plain, made = viewing.decode(asked, blobs)
    for columns in plain.get("batches", ()):
        columns[0][1] = "(1,"
    return plain, made


def tarry(asked: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Decode nothing, and go on with it for very long."""
    time.sleep(600)
    return {}, []

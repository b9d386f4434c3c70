"""How long segmenters take for a frame at three sizes: SegNet against ENet, in one run, on this CPU.

Both at the paper's size, in evaluation, one frame at a time, on one thread.
"""

import functools
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from clipmill.plugin import Info, make
from row import Row, cpu_seconds_in_turns, ratio

SIZES = ((320, 480), (360, 640), (720, 1280))  # height, width
CLASSES = Info(tuple(map(str, range(11))))  # and the ground, as CamVid is mostly used


def measure(rounds: int) -> list[Row]:
    """Give how many times as long SegNet takes, and the milliseconds of both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return list(_rows(rounds))
    finally:
        torch.set_num_threads(threads)


def _rows(rounds: int) -> Iterator[Row]:
    networks = {name: make(name, {}).build(CLASSES).eval() for name in ("segnet", "enet")}
    for height, width in SIZES:
        frame = torch.randn(1, 3, height, width)
        ways = {name: functools.partial(_told, net, frame) for name, net in networks.items()}
        seconds = cpu_seconds_in_turns(ways, rounds)
        yield Row(
            f"segment: a frame of {width} x {height}, SegNet over ENet",
            ratio(seconds["segnet"], seconds["enet"]),
            "times as long",
            against="SegNet",
            at_least=1.0,
            rivals={f"ms {name}": 1000 * median(each) for name, each in seconds.items()},
        )


@torch.inference_mode()
def _told(network: Any, frame_BCHW: torch.Tensor) -> torch.Tensor:
    scores: torch.Tensor = network.scores(frame_BCHW)
    return scores.argmax(1)

"""Flow for a network: as it comes with the batch, or found by RAFT from the batch's frames.

RAFT (Teed and Deng, 2020) is torchvision's, with weights from a file. It never learns.

Legend: B batch, C channels, T frames, H height, W width, N pairs of frames, h w RAFT's own.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import optical_flow

from clipmill.errors import PluginError
from clipmill.plugin import View
from clipmill_classify.backbones import load_weights
from clipmill_classify.flow_field import FlowWay, RaftSize
from clipmill_classify.network import Batch

PIXELS = 4.0  # motion of so many pixels between two frames becomes 1
LEAST_SIDE, SIDE_STEP = 128, 8  # RAFT looks at eighths, and needs 16 of them
PAIRS_AT_ONCE = 32  # a pair of 224 pixels needs some 3 MB


class GivenFlow(nn.Module):
    """The flow that comes with a batch."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Flow [B, 2, T - 1, H, W]."""
        return batch["flow"] / PIXELS


class RaftFlow(nn.Module):
    """The flow that RAFT finds between the frames of a batch, after they were augmented."""

    mean_C: torch.Tensor
    std_C: torch.Tensor

    def __init__(self, size: RaftSize, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        make = {"small": optical_flow.raft_small, "large": optical_flow.raft_large}[size]
        self.raft = make(weights=None).requires_grad_(False)
        self.register_buffer("mean_C", torch.tensor(mean)[:, None, None, None], persistent=False)
        self.register_buffer("std_C", torch.tensor(std)[:, None, None, None], persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay as it is: its running figures are not to change."""
        return super().train(False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Flow [B, 2, T - 1, H, W]."""
        x_BCTHW = batch["rgb"]
        with torch.no_grad(), torch.autocast(x_BCTHW.device.type, enabled=False):
            pictures_BTChw = self._pictures(x_BCTHW.float())
            first_N, second_N = (
                part.flatten(0, 1) for part in (pictures_BTChw[:, :-1], pictures_BTChw[:, 1:])
            )
            parts = (torch.split(pictures, PAIRS_AT_ONCE) for pictures in (first_N, second_N))
            found = [self.raft(first, second)[-1] for first, second in zip(*parts, strict=True)]
            flow_N2HW = _in_size(torch.cat(found), x_BCTHW.shape[3], x_BCTHW.shape[4])
        batch_pairs = (len(x_BCTHW), x_BCTHW.shape[2] - 1)
        flow_B2THW = torch.unflatten(flow_N2HW, 0, batch_pairs).transpose(1, 2)
        return flow_B2THW / PIXELS

    def _pictures(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Frames as RAFT takes them: from -1 to 1, of sides that it can take, [B, T, C, h, w]."""
        shown = (x_BCTHW * self.std_C + self.mean_C).clamp(0, 1) * 2 - 1
        batch, height, width = len(shown), shown.shape[3], shown.shape[4]
        sides = [max(LEAST_SIDE, -(-s // SIDE_STEP) * SIDE_STEP) for s in (height, width)]
        each = shown.transpose(1, 2).flatten(0, 1)
        if sides != [height, width]:
            each = functional.interpolate(each, sides, mode="bilinear", align_corners=False)
        return torch.unflatten(each, 0, (batch, x_BCTHW.shape[2]))


def _in_size(flow_N2hw: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The flow of larger or smaller pictures, in their pixels."""
    h, w = flow_N2hw.shape[2:]
    if (h, w) == (height, width):
        return flow_N2hw
    scale = flow_N2hw.new_tensor([width / w, height / h])[:, None, None]
    made = functional.interpolate(flow_N2hw, (height, width), mode="bilinear", align_corners=False)
    return made * scale


def flow_source(
    way: FlowWay, size: RaftSize, weights: str | None, view: View, *, restored: bool
) -> nn.Module:
    """What gives a network its flow; RAFT's weights come from the file, or from a checkpoint."""
    if way == "dis":
        return GivenFlow()
    made = RaftFlow(size, view.mean, view.std)
    if restored:
        return made
    if weights is None:
        raise PluginError(
            "flow=raft without weights", "a file of RAFT's weights",
            "set model.raft_weights, or flow=dis",
        )  # fmt: skip
    load_weights(made.raft, weights)
    return made

"""The network of motion as a proxy: an encoder of frames, and a decoder of its features to a mask.

The decoder goes from coarse to fine and adds the encoder's features at each resolution, all cut
to the same few channels (as Lin et al., "Feature Pyramid Networks", 2017), so that what is to be
seen must be in the encoder. The coarsest is the pooled vector that classifiers read.

Legend: B batch, C channels, T frames (one here), H height, W width, D features.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from clipmill.errors import PluginError
from clipmill_classify.frames import FrameEncoder
from clipmill_classify.narrow import run_empty

Batch = Mapping[str, torch.Tensor]


class Stage(NamedTuple):
    """The last part of a network that gives features at one resolution."""

    name: str
    channels: int


class MotionForegroundNetwork(nn.Module):
    """Tells of each pixel of a frame how likely it is of something that moves."""

    def __init__(self, encoder: FrameEncoder, size: int, channels: int, trim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stages = stages(encoder.network, size)
        self.decoder = Decoder([stage.channels for stage in self.stages], channels)
        self.trim = trim

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of a batch; how much of the masks is told, and how many frames have one."""
        scores_BHW, _ = self.scores(batch["rgb"])
        motion_BHW, moves_B = batch["motion"][:, 0] > 0, batch["moves"]
        clear_BHW = ~border(motion_BHW, self.trim)
        told_BHW, moving_B11 = scores_BHW > 0, moves_B[:, None, None] > 0
        both = (told_BHW & motion_BHW & moving_B11).sum()
        either = ((told_BHW | motion_BHW) & moving_B11).sum()
        return {
            "loss": mask_loss(scores_BHW, motion_BHW, clear_BHW, moves_B),
            "agreement": both / either.clamp(min=1),
            "moves": moves_B.mean(),
        }

    def predict(self, batch: Batch, state: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
        """Probabilities of a frame's pixels, and what is true of them as far as it is known."""
        scores_BHW, x_BD = self.scores(batch["rgb"])
        told = {"mask": scores_BHW.sigmoid(), "embedding": x_BD.float()}
        motion_BHW = batch["motion"][:, 0].float()
        known = {"motion": motion_BHW, "moves": batch["moves"]}
        if "mask" in batch:
            known["truth"] = batch["mask"][:, 0].float()
        return {**told, **known}, state

    def scores(self, x_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unnormalised scores of a frame's pixels [B, H, W], and its features [B, D]."""
        maps: dict[str, torch.Tensor] = {}
        hooks = [
            self.encoder.network.get_submodule(stage.name).register_forward_hook(
                partial(_kept, maps, stage.name)
            )
            for stage in self.stages
        ]
        try:
            x_BTD = self.encoder(x_BCTHW)
        finally:
            for hook in hooks:
                hook.remove()
        height, width = x_BCTHW.shape[3:]
        scores_BHW = self.decoder([maps[stage.name] for stage in self.stages], height, width)
        return scores_BHW.float(), x_BTD[:, 0]


class Decoder(nn.Module):
    """Features from coarse to fine, to one score a pixel."""

    def __init__(self, given: Sequence[int], channels: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(each, channels, 1) for each in given)
        self.mixes = nn.ModuleList(_mix(channels) for _ in given[1:])
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, maps: Sequence[torch.Tensor], height: int, width: int) -> torch.Tensor:
        """Scores [B, H, W]."""
        x_BCHW = self.sides[0](maps[0])
        for side, mix, finer in zip(list(self.sides)[1:], self.mixes, maps[1:], strict=True):
            x_BCHW = mix(side(finer) + _resized(x_BCHW, finer.shape[2], finer.shape[3]))
        return _resized(self.score(x_BCHW), height, width)[:, 0]


def _mix(channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _resized(x_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return functional.interpolate(x_BCHW, (height, width), mode="bilinear", align_corners=False)


def _kept(maps: dict[str, torch.Tensor], name: str, part: nn.Module, given: Any, out: Any) -> None:
    """What a hook does: keep what a part of the network gave."""
    maps[name] = out


def stages(network: nn.Module, size: int) -> tuple[Stage, ...]:
    """The parts of a 2D network whose features are the last of their resolution, coarse to fine."""
    found: dict[int, Stage] = {}

    def look(name: str, part: nn.Module, given: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor) and out.ndim == 4 and out.shape[2] == out.shape[3] < size:
            found[out.shape[2]] = Stage(name, out.shape[1])

    hooks = [p.register_forward_hook(partial(look, n)) for n, p in network.named_modules() if n]
    run_empty(network, (3, size, size))
    for hook in hooks:
        hook.remove()
    if len(found) < 2:
        raise PluginError(
            f"a backbone with features at {len(found)} resolution(s)",
            "several, from fine to coarse, as convolutional networks have them",
            "set model.backbone=resnet18",
        )
    return tuple(found[side] for side in sorted(found))


# --- what is learnt


def border(mask_BHW: torch.Tensor, reach: int) -> torch.Tensor:
    """Mark pixels that are at most `reach` from one of the other kind."""
    x_B1HW = mask_BHW[:, None].float()
    near_both = [
        functional.max_pool2d(x, 2 * reach + 1, stride=1, padding=reach)
        for x in (x_B1HW, 1 - x_B1HW)
    ]
    return (near_both[0] * near_both[1])[:, 0] > 0


def mask_loss(
    scores_BHW: torch.Tensor,
    truth_BHW: torch.Tensor,
    clear_BHW: torch.Tensor,
    moves_B: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy and soft overlap (Milletari et al., V-Net, 2016) over clear pixels.

    Flow is smooth, so masks are wrong first of all at their borders, which are not looked at. The
    overlap makes a small thing count as much as its large ground, and a frame whose mask misses
    something is outvoted: cross entropy alone would tell the likelier answer, the ground, there.
    A frame that does not move counts nothing, and keeps its place in the mean.
    """
    clear, truth = clear_BHW.float(), truth_BHW.float()
    wrong_BHW = functional.binary_cross_entropy_with_logits(scores_BHW, truth, reduction="none")
    entropy_B = (wrong_BHW * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
    told_BHW, true_BHW = scores_BHW.sigmoid() * clear, truth * clear
    both_B = (told_BHW * true_BHW).sum((1, 2))
    overlap_B = (2 * both_B + 1) / (told_BHW.sum((1, 2)) + true_BHW.sum((1, 2)) + 1)
    return ((entropy_B + 1 - overlap_B) * moves_B).mean()

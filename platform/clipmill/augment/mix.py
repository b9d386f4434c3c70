"""Takes mixed with others of the rank's batch: mixup and cutmix.

Who is mixed with whom depends on the batch; how much, on the take's own seed. The network is
told: `target_b` is the partner's target and `mix` the share of the take's own.

Mixup: Zhang et al., 2017. Cutmix: Yun et al., 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill.augment import chance
from clipmill.augment.chance import Floats, Seeds
from clipmill.augment.colour import inside, within
from clipmill.augment.place import Tensor, tensor
from clipmill.takes import View

MIXED_KINDS = ("rgb", "flow", "audio", "features")


@dataclass(frozen=True)
class Mixing:
    """How each take is mixed with the one after it in the batch."""

    shares: Floats  # of its own in every pixel
    boxes: Floats  # that are cut from the other, in shares of the frame
    own: Floats  # what of the whole is its own

    @property
    def blends(self) -> bool:
        """Whether any take is mixed pixel by pixel."""
        return bool((self.shares < 1).any())

    @property
    def cuts(self) -> bool:
        """Whether any take holds a box of the other."""
        return bool((self.boxes[:, 2:] > 0).any())


def drawn(seeds: Seeds, view: View) -> Mixing | None:
    """Draw how takes are mixed, if the view allows it; of two ways each take goes one."""
    allowed = {"mixup", "cutmix"} & set(view.augment)
    if not allowed:
        return None
    cut = _cut(seeds, allowed)
    amounts = chance.uniform(seeds, "mix", 1)[:, 0]
    shares = np.where(cut, 1.0, np.sin(amounts * np.pi / 2) ** 2)  # Beta(0.5, 0.5)
    boxes = _boxes(seeds, np.where(cut, amounts, 0.0))  # Beta(1, 1)
    covered = within(boxes, view.size, view.size).mean(axis=(1, 2))
    return Mixing(shares, boxes, np.where(cut, 1 - covered, shares))


def _cut(seeds: Seeds, allowed: set[str]) -> NDArray[np.bool_]:
    share = 0.5 if len(allowed) == 2 else float("cutmix" in allowed)
    return chance.happens(seeds, "cutmix", share)


def _boxes(seeds: Seeds, areas: Floats) -> Floats:
    sides = np.sqrt(areas)
    places = chance.uniform(seeds, "cut", 2) * (1 - sides[:, None])
    return np.concatenate([places, np.stack([sides, sides], axis=1)], axis=1)


def mixed(x: Tensor, kind: str, mixing: Mixing) -> Tensor:
    """Mix prepared tensors: rgb, flow, audio and features by share, what has places by box."""
    other = partners(x)
    if mixing.blends and kind in MIXED_KINDS:
        share = tensor(mixing.shares, x.device).view(-1, *[1] * (x.ndim - 1))
        x = torch.lerp(other, x, share)
    if mixing.cuts and kind not in ("audio", "features"):
        x = torch.where(inside(mixing.boxes, x), other, x)
    return x


def partners(x: Tensor) -> Tensor:
    """The takes' partners, in the order of the takes."""
    return x.roll(-1, 0)


def targets(tensors: Mapping[str, Tensor], mixing: Mixing) -> dict[str, Tensor]:
    """What the network must know: the other target, and the share of its own."""
    told = {"mix": tensor(mixing.own, next(iter(tensors.values())).device)}
    return {**told, "target_b": partners(tensors["target"])} if "target" in tensors else told

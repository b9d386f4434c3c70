"""RoIPool over a pyramid of maps: the maxima of whole pixels, as before RoIAlign (Girshick, 2015).

It takes each region from the level that torchvision's `MultiScaleRoIAlign` takes it from, so that
the two differ in nothing else.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torchvision.ops import roi_pool

CANONICAL_LEVEL = 4  # where a region of the canonical side is taken from (Lin et al., 2017)
NEARLY = 1e-6  # added to a level before it is cut


class MultiScaleRoIPool(nn.Module):
    """Makes maps of one side of regions of any side."""

    def __init__(self, names: Sequence[str], side: int, *, canonical_scale: int = 224) -> None:
        super().__init__()
        self.names, self.side, self.canonical_scale = tuple(names), side, canonical_scale

    def forward(
        self,
        maps: Mapping[str, torch.Tensor],
        boxes: Sequence[torch.Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Maxima [regions of all frames, channels, side, side]."""
        seen = [maps[name] for name in self.names]
        halvings = [round(math.log2(image_shapes[0][0] / each.shape[2])) for each in seen]
        frames = [torch.full_like(each[:, :1], at) for at, each in enumerate(boxes)]
        regions_R5 = torch.cat([torch.cat(frames), torch.cat(list(boxes))], 1)
        level_R = self._levels(regions_R5[:, 1:], halvings)
        made = seen[0].new_zeros(len(regions_R5), seen[0].shape[1], self.side, self.side)
        for level, (map_BCHW, halved) in enumerate(zip(seen, halvings, strict=True)):
            mine = torch.where(level_R == level)[0]
            pooled = roi_pool(map_BCHW, regions_R5[mine], self.side, spatial_scale=2.0**-halved)
            made = made.index_copy(0, mine, pooled.to(made.dtype))
        return made

    def _levels(self, boxes_R4: torch.Tensor, halvings: Sequence[int]) -> torch.Tensor:
        """The place of the level that each region is taken from."""
        sides_R2 = boxes_R4[:, 2:] - boxes_R4[:, :2]
        octaves_R = torch.log2(sides_R2.prod(1).sqrt() / self.canonical_scale)
        levels_R = torch.floor(CANONICAL_LEVEL + octaves_R + NEARLY)
        return levels_R.clamp(halvings[0], halvings[-1]).long() - halvings[0]

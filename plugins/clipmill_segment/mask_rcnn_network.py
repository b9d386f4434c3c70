"""The network of Mask R-CNN: a pyramid of maps, regions proposed from it, and of each what it is.

He et al., 2017, over the pyramid of Lin et al., 2017. Proposals, heads, losses and what is kept of
overlapping boxes are torchvision's; frames come in their size, and normalised. The backbone keeps
its tensors' names (`encoder.network.*`), so that it may come from a classifier or a pretext.

Legend: B batch, C channels, N things, H height, W width, M side of a mask of a box.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from clipmill.errors import PluginError
from clipmill.video import VOID
from clipmill_classify.frames import FrameEncoder
from clipmill_classify.narrow import scaled
from clipmill_segment.maps import maps_of, resolutions, stages
from clipmill_segment.region_pooling import MultiScaleRoIPool

Batch = Mapping[str, torch.Tensor]
Things = dict[str, torch.Tensor]  # of a frame

LEVELS = ("0", "1", "2", "3")  # maps of the backbone, fine to coarse, as torchvision calls them
CHANNELS, HIDDEN = 256, 1024  # of the pyramid and the masks' layers, of the boxes' layers
BOX_SIDE, MASK_SIDE = 7, 14  # of a region's features
SHAPES = (0.5, 1.0, 2.0)  # height by width of the anchors
ANCHORS_A_LEVEL = 7  # smallest anchors in the side of a region of the level 4: 224 of 32 pixels
CODES = 1 << 16  # more than there are numbers of things


class Fields(NamedTuple):
    """What of a plugin its network is made from."""

    size: int
    width: float
    pooling: str
    anchor: float
    proposals: int
    regions: int
    detections: int


class MaskRcnnNetwork(nn.Module):
    """Proposes regions, and tells of each a class, a better box and a mask."""

    def __init__(self, encoder: FrameEncoder, classes: int, fields: Fields) -> None:
        super().__init__()
        self.encoder, self.detections = encoder, fields.detections
        self.stages = stages(encoder.network, fields.size)
        places = resolutions(self.stages)
        if len(places) < len(LEVELS):
            raise PluginError(
                f"a backbone with maps at {len(places)} resolution(s)",
                f"{len(LEVELS)} at the least, as convolutional networks have them",
                "set model.backbone=resnet50 or vgg16, or a larger model.size",
            )
        self.seen = places[: len(LEVELS)][::-1]  # fine to coarse
        channels = scaled(CHANNELS, fields.width)
        given = [self.stages[at].channels for at in self.seen]
        self.pyramid = FeaturePyramidNetwork(given, channels, LastLevelMaxPool())
        self.rpn = _proposing(channels, fields)
        self.roi_heads = _telling(channels, classes, fields)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The sum of the five losses, and each of them."""
        pairs = zip(batch["mask"][:, 0], batch["instances"][:, 0], strict=True)
        targets = [marked_things(*planes) for planes in pairs]
        _, losses = self._told(batch["rgb"][:, :, 0], targets)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def predict(self, batch: Batch, state: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
        """The surest things of each frame, and what is true of its pixels as far as it is known.

        Boxes are in shares of the frame, masks probabilities over a box, looks the colours
        within it; rows behind the last thing have a score of 0.
        """
        x_BCHW = batch["rgb"][:, :, 0]
        found, _ = self._told(x_BCHW)
        things = [self._filled(one, x_CHW) for one, x_CHW in zip(found, x_BCHW, strict=True)]
        told = {name: torch.stack([one[name] for one in things]) for name in things[0]}
        if "mask" in batch:
            told["truth"] = batch["mask"][:, 0].float()
            told["true_things"] = batch["instances"][:, 0].float()
        return told, state

    def _told(
        self, x_BCHW: torch.Tensor, targets: list[Things] | None = None
    ) -> tuple[list[Things], dict[str, torch.Tensor]]:
        """The things of each frame; in training nothing, and the losses."""
        maps = maps_of(self.encoder.network, self.stages, self.seen, x_BCHW)
        pyramid = self.pyramid(dict(zip(LEVELS, maps, strict=True)))
        sizes = [(x_BCHW.shape[2], x_BCHW.shape[3])] * len(x_BCHW)
        proposals, first = self.rpn(ImageList(x_BCHW, sizes), pyramid, targets)
        found, second = self.roi_heads(pyramid, proposals, sizes, targets)
        return found, {**first, **second}

    def _filled(self, one: Things, x_CHW: torch.Tensor) -> Things:
        """The things of a frame as so many rows as there are at most."""
        height, width = x_CHW.shape[1:]
        sides = torch.tensor([width, height, width, height], device=x_CHW.device)
        masks_NMM = one["masks"][:, 0]
        told = {
            "thing_boxes": one["boxes"] / sides,
            "thing_labels": one["labels"],
            "thing_scores": one["scores"],
            "thing_masks": masks_NMM,
            "thing_looks": looks(x_CHW, one["boxes"], masks_NMM),
        }
        missing = self.detections - len(masks_NMM)
        return {
            name: functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing))
            for name, rows in told.items()
        }


def marked_things(classes_HW: torch.Tensor, things_HW: torch.Tensor) -> Things:
    """The true things of a frame as torchvision wants them: one of each class and number."""
    codes_HW = classes_HW * CODES + things_HW
    codes_HW = codes_HW.masked_fill((classes_HW == 0) | (classes_HW == VOID), 0)
    codes_N = torch.unique(codes_HW)
    codes_N = codes_N[codes_N > 0]
    masks_NHW = codes_HW == codes_N[:, None, None]
    return {
        "boxes": boxes_around(masks_NHW),
        "labels": codes_N // CODES,
        "masks": masks_NHW.to(torch.uint8),
    }


def boxes_around(masks_NHW: torch.Tensor) -> torch.Tensor:
    """Left, top, right and bottom edges of what masks cover, in pixels; a pixel is a side of 1."""
    (left, right), (top, bottom) = (_ends(masks_NHW.any(axis)) for axis in (1, 2))
    return torch.stack([left, top, right, bottom], 1).float()


def _ends(covered_NE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where what is covered of an axis begins and ends."""
    covered_NE = covered_NE.int()
    return covered_NE.argmax(1), covered_NE.shape[1] - covered_NE.flip(1).argmax(1)


def looks(x_CHW: torch.Tensor, boxes_N4: torch.Tensor, masks_NMM: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of each colour within the masks of boxes [N, 2 C]."""
    side = masks_NMM.shape[-1]
    seen_NCMM = roi_align(x_CHW[None].float(), [boxes_N4.float()], side, aligned=True)
    inside_N1MM = (masks_NMM >= 0.5).float()[:, None]
    count_N1 = inside_N1MM.sum((2, 3)).clamp(min=1)
    mean_NC = (seen_NCMM * inside_N1MM).sum((2, 3)) / count_N1
    away_NCMM = (seen_NCMM - mean_NC[..., None, None]) * inside_N1MM
    return torch.cat([mean_NC, (away_NCMM.square().sum((2, 3)) / count_N1).sqrt()], 1)


# --- the parts


def _proposing(channels: int, fields: Fields) -> RegionProposalNetwork:
    """Tells of anchors on every level whether there is something."""
    levels = len(LEVELS) + 1  # one more, that pools the coarsest
    sides = tuple((fields.anchor * 2**level,) for level in range(levels))
    kept = {"training": 2 * fields.proposals, "testing": fields.proposals}
    return RegionProposalNetwork(
        AnchorGenerator(sides, (SHAPES,) * levels),
        RPNHead(channels, len(SHAPES)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=kept,
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def _telling(channels: int, classes: int, fields: Fields) -> RoIHeads:
    """Tells class, box and mask of regions."""
    hidden = scaled(HIDDEN, fields.width)
    return RoIHeads(
        _pooling(BOX_SIDE, fields),
        TwoMLPHead(channels * BOX_SIDE**2, hidden),
        FastRCNNPredictor(hidden, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=fields.regions,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=fields.detections,
        mask_roi_pool=_pooling(MASK_SIDE, fields),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
    )


def _pooling(side: int, fields: Fields) -> nn.Module:
    """Makes maps of one side of regions of any, each from the level that fits its size."""
    canonical = round(ANCHORS_A_LEVEL * fields.anchor)
    if fields.pooling == "pool":
        return MultiScaleRoIPool(list(LEVELS), side, canonical_scale=canonical)
    aligned: nn.Module = MultiScaleRoIAlign(list(LEVELS), side, 2, canonical_scale=canonical)
    return aligned

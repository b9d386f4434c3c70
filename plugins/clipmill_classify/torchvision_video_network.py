"""Torchvision's video networks as encoders of clips, whole or narrow.

Convolutional ones are narrowed layer by layer; of transformers the heads become smaller, their
number stays. Weights come from a file, never from the network.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models import video

from clipmill.errors import PluginError
from clipmill_classify.backbones import UNFIT, beheaded, load_weights
from clipmill_classify.narrow import Undrawn, narrowed, run_empty

HEAD_FEATURES = 32  # of a Swin transformer


@dataclass(frozen=True)
class Swin:
    """What tells the Video Swin transformers (Liu et al., 2022) apart."""

    depths: tuple[int, ...]
    heads: tuple[int, ...]


SWINS = {
    "swin3d_t": Swin((2, 2, 6, 2), (3, 6, 12, 24)),
    "swin3d_s": Swin((2, 2, 18, 2), (3, 6, 12, 24)),
    "swin3d_b": Swin((2, 2, 18, 2), (4, 8, 16, 32)),
}


def clip_encoder(
    network: str, frames: int, size: int, width: float, weights: str | None
) -> tuple[nn.Module, int]:
    """Make the encoder of clips of that shape; return it with its number of features."""
    make = {"mvit": _mvit, "swin": _swin}.get(network[:4], _convolutional)
    shape = (3, frames, size, size)
    try:
        with torch.device("meta"):
            features = run_empty(make(network, shape, width), shape).shape[1]
    except UNFIT as error:
        raise PluginError(
            f"{network} cannot take {frames} frames of {size} x {size} at width {width} ({error})",
            todo="choose another size or number of frames, or r3d_18, which takes nearly any",
        ) from error
    encoder = make(network, shape, width)
    if weights is not None:
        load_weights(encoder, weights)
    return encoder, features


Shape = tuple[int, int, int, int]  # channels, frames, height, width


def _convolutional(network: str, shape: Shape, width: float) -> nn.Module:
    """A network that can be narrowed after it is made, before it has weights."""
    if width == 1:
        return _without_head(network)
    with Undrawn():
        wide = _without_head(network)
    return narrowed(wide, width, shape)


def _without_head(network: str) -> nn.Module:
    extra: dict[str, Any] = {}
    if network == "s3d":  # its own running statistics need thousands of steps to be of use
        extra["norm_layer"] = partial(nn.BatchNorm3d, eps=0.001, momentum=0.1)
    model = beheaded(getattr(video, network)(weights=None, **extra))
    model.avgpool = nn.AdaptiveAvgPool3d(1)  # of clips of any size
    return model


def _swin(network: str, shape: Shape, width: float) -> nn.Module:
    of = SWINS[network]
    per_head = max(1, round(HEAD_FEATURES * width))
    model = video.SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=of.heads[0] * per_head, depths=list(of.depths),
        num_heads=list(of.heads), window_size=[8, 7, 7], stochastic_depth_prob=0.1,
    )  # fmt: skip
    return beheaded(model)


def _mvit(network: str, shape: Shape, width: float) -> nn.Module:
    """A multiscale transformer by torchvision's own settings, its channels scaled."""
    blocks = _settings(network)
    settings = [_narrow_block(block.pop("cnf"), width) for block in blocks]
    whole = {
        name: blocks[-1][name]  # stochastic depth grows to its full share at the last block
        for name in (
            "residual_pool", "residual_with_cls_embed", "rel_pos_embed", "proj_after_attn",
            "stochastic_depth_prob",
        )
    }  # fmt: skip
    _, frames, height, wide = shape
    model = video.MViT(
        spatial_size=(height, wide), temporal_size=frames, block_setting=settings, **whole
    )
    # Places are told to patches alone, and of the last block only the class token is read.
    for places in model.blocks[-1].attn.parameters(recurse=False):
        places.requires_grad_(False)
    return beheaded(model)


def _settings(network: str) -> list[dict[str, Any]]:
    """What torchvision tells each block of that network."""
    told: list[dict[str, Any]] = []

    def listen(**settings: Any) -> nn.Module:
        told.append(settings)
        return nn.Identity()

    builder: Callable[..., nn.Module] = getattr(video, network)
    with torch.device("meta"):
        builder(weights=None, block=listen)
    return told


def _narrow_block(block: Any, width: float) -> Any:
    unit = 96  # channels of a head; also of the input of the first block
    scale = max(1, round(unit * width))
    return replace(
        block,
        input_channels=block.input_channels // unit * scale,
        output_channels=block.output_channels // unit * scale,
    )

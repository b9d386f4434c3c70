"""Inflation: a 2D network made 3D, filters replicated over time and scaled by what they span.

Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017. Frames lie one after another in
the batch, as the 2D network wants them; only what reaches over time puts them together. So every
part of any 2D network stays as it is. Time is padded with its first and last frame: a still clip
gives in every layer what its frame gives.

Legend: N frames of all clips, B batch, C channels, T frames, H height, W width, D features.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.backbones import UNFIT, frame_encoder

Pool2d = nn.MaxPool2d | nn.AvgPool2d
LONGEST_STEP = 2  # frames; a layer that steps over more pixels still sees every second frame
EARLY_POOLS = 2  # of those that make pictures smaller: they leave time alone, as in the paper


class InflatedConv(nn.Conv3d):
    """A convolution of pictures that spans several frames."""

    frames: int  # of a clip that arrive, which one empty clip tells

    def __init__(self, conv: nn.Conv2d, span: int, step: int) -> None:
        with torch.device("meta"):  # the weights come from the 2D layer
            super().__init__(
                conv.in_channels, conv.out_channels, (span, *conv.kernel_size),  # type: ignore[arg-type]
                (step, *conv.stride), (0, *conv.padding), (1, *conv.dilation), conv.groups,  # type: ignore[arg-type]
                bias=conv.bias is not None,
            )  # fmt: skip
        spread = conv.weight.detach().unsqueeze(2) / span
        self.weight = nn.Parameter(spread.repeat(1, 1, span, 1, 1))
        self.bias = conv.bias
        self.span = span

    def keep_time(self) -> None:
        """Leave as many frames as arrive."""
        self.stride = (1, *self.stride[1:])

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Filter over the frames of each clip."""
        x_BCTHW = clips_of(x_NCHW, self.frames, self.span)
        return super().forward(x_BCTHW).transpose(1, 2).flatten(0, 1)


class InflatedPool(nn.Module):
    """A pool of pictures that spans several frames; largest of largest, or mean of means."""

    frames: int

    def __init__(self, pool: Pool2d, span: int, step: int) -> None:
        super().__init__()
        self.pool = pool
        self.span, self.step = span, step
        self.largest = isinstance(pool, nn.MaxPool2d)

    def keep_time(self) -> None:
        """Leave as many frames as arrive."""
        self.step = 1

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Pool each picture, then over the frames of each clip."""
        x_BCTHW = clips_of(self.pool(x_NCHW), self.frames, self.span)
        over: Callable[..., torch.Tensor] = (
            functional.max_pool3d if self.largest else functional.avg_pool3d
        )
        return over(x_BCTHW, (self.span, 1, 1), (self.step, 1, 1)).transpose(1, 2).flatten(0, 1)


def clips_of(x_NCHW: torch.Tensor, frames: int, span: int) -> torch.Tensor:
    """Put the frames of each clip behind one another, with what a layer looks at beside them."""
    x_BTCHW: torch.Tensor = x_NCHW.unflatten(0, (-1, frames))  # type: ignore[no-untyped-call]
    x_BCTHW = x_BTCHW.transpose(1, 2)
    before, after = (span - 1) // 2, span // 2
    first, last = x_BCTHW[:, :, :1], x_BCTHW[:, :, -1:]
    return torch.cat([*before * [first], x_BCTHW, *after * [last]], 2)


Inflatable = InflatedConv | InflatedPool


class InflatedEncoder(nn.Module):
    """Features of a clip: the inflated network's, averaged over the time that is left."""

    def __init__(self, network: nn.Module, frames: int, size: int, span: int | None) -> None:
        super().__init__()
        self.network = network
        inflate(network, span)
        self.moments = measure(network, frames, size)

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        x_ND = self.network(x_BCTHW.transpose(1, 2).flatten(0, 1))
        x_BD: torch.Tensor = x_ND.unflatten(0, (-1, self.moments)).mean(1)
        return x_BD


def inflated(
    backbone: str, frames: int, size: int, width: float, weights: str | None, span: int | None
) -> tuple[InflatedEncoder, int]:
    """Make the 2D network with its weights, then a 3D one of it; return it with its features."""
    network, features = frame_encoder(backbone, size, width, weights)
    return InflatedEncoder(network, frames, size, span), features


def inflate(network: nn.Module, span: int | None) -> None:
    """Replace, in place, each layer that looks further than a pixel or steps over pixels.

    A filter or pool spans as many frames as pixels (of the shorter side), or `span` where it is
    given; time is thinned where pictures are, so that the branches of a network stay in step.
    """
    early = EARLY_POOLS
    for name, layer in list(network.named_modules()):
        match layer:
            case nn.Conv2d():
                spanned, step = _reach(layer, span)
                made: nn.Module = InflatedConv(layer, spanned, step)
            case nn.MaxPool2d() | nn.AvgPool2d():
                spanned, step = _reach(layer, span)
                if step > 1 and early:
                    early, spanned, step = early - 1, 1, 1
                made = InflatedPool(layer, spanned, step)
            case _:
                continue
        if (spanned, step) != (1, 1):
            network.set_submodule(name, made)


def _reach(layer: nn.Conv2d | Pool2d, span: int | None) -> tuple[int, int]:
    """How many frames a layer spans and steps over."""
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    spanned = span if span is not None and max(kernel) > 1 else min(kernel)
    return spanned, min(*stride, LONGEST_STEP)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def measure(network: nn.Module, frames: int, size: int) -> int:
    """Tell every inflated layer how many frames of a clip arrive; return how many leave.

    A network that makes pictures smaller outside its layers as well, in some branches only,
    cannot thin time in step with that: it keeps all frames to the end.
    """
    try:
        return _measured(network, frames, size)
    except UNFIT:
        for layer in _layers(network):
            layer.keep_time()
        return _measured(network, frames, size)


def _measured(network: nn.Module, frames: int, size: int) -> int:
    shadow = copy.deepcopy(network).to("meta").eval()
    for layer, shade in zip(_layers(network), _layers(shadow), strict=True):
        shade.register_forward_pre_hook(_teller(layer))
    with torch.no_grad():
        left: torch.Tensor = shadow(torch.zeros(frames, 3, size, size, device="meta"))
    return left.shape[0]


def _layers(network: nn.Module) -> Iterator[Inflatable]:
    return (part for part in network.modules() if isinstance(part, Inflatable))


def _teller(layer: Inflatable) -> Callable[[Inflatable, tuple[torch.Tensor]], None]:
    def tell(shade: Inflatable, arguments: tuple[torch.Tensor]) -> None:
        layer.frames = shade.frames = arguments[0].shape[0]

    return tell

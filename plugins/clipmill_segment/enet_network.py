"""The network of ENet: bottlenecks beside a way that keeps, pools or unpools what came in.

Paszke et al., 2016. Slopes of negative numbers are learnt in the encoder, and are zero in the
decoder. No convolution has a bias.

Legend: B batch, C channels, K classes with the ground, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.narrow import scaled
from clipmill_segment.network import SegmentNetwork
from clipmill_segment.unpooling import pooled, unpooled

COLOURS = 3
CHANNELS = (16, 64, 128)  # at a half, a quarter and an eighth of the frame's side
SQUEEZE = 4  # how many times fewer channels are inside of a bottleneck
EARLY = 0.1  # share of the dropout in the first stage

Place = tuple[torch.Tensor, int, int]  # where maxima came from, and the plane's height and width


class ENetNetwork(SegmentNetwork):
    """Initial block, three stages down, two up."""

    def __init__(
        self, classes: int, width: float, dropout: float, class_weights: Sequence[float] = ()
    ) -> None:
        super().__init__(class_weights)
        first, middle, last = (scaled(each, width) for each in CHANNELS)
        early = dropout * EARLY
        self.initial = Initial(first)
        self.down1 = Down(first, middle, early)
        self.stage1 = nn.Sequential(*(regular(middle, early) for _ in range(4)))
        self.down2 = Down(middle, last, dropout)
        self.stage2 = mixed_stage(last, dropout)
        self.stage3 = mixed_stage(last, dropout)
        self.up4 = Up(last, middle, dropout)
        self.stage4 = nn.Sequential(*(regular(middle, dropout, learnt=False) for _ in range(2)))
        self.up5 = Up(middle, first, dropout)
        self.stage5 = regular(first, dropout, learnt=False)
        self.score = nn.ConvTranspose2d(
            first, classes, 3, stride=2, padding=1, output_padding=1, bias=False
        )

    def scores(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores of pixels [B, K, H, W]."""
        x_BCHW, at_half = self.down1(self.initial(x_BCHW))
        x_BCHW, at_quarter = self.down2(self.stage1(x_BCHW))
        x_BCHW = self.stage3(self.stage2(x_BCHW))
        x_BCHW = self.stage4(self.up4(x_BCHW, at_quarter))
        x_BCHW = self.stage5(self.up5(x_BCHW, at_half))
        scores_BKHW: torch.Tensor = self.score(x_BCHW)
        return scores_BKHW


class Initial(nn.Module):
    """A convolution beside a pooling of the colours themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            COLOURS, channels - COLOURS, 3, stride=2, padding=1, bias=False
        )
        self.pool = nn.MaxPool2d(2)
        self.end = ended(channels)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps of half the frame's side."""
        both = torch.cat([self.convolution(x_BCHW), self.pool(x_BCHW)], dim=1)
        made: torch.Tensor = self.end(both)
        return made


class Bottleneck(nn.Module):
    """Adds what a few channels tell to what came in."""

    def __init__(self, inside: nn.Module, channels: int, *, learnt: bool = True) -> None:
        super().__init__()
        self.inside, self.slope = inside, slope(channels, learnt=learnt)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps of the same shape."""
        made: torch.Tensor = self.slope(x_BCHW + self.inside(x_BCHW))
        return made


class Down(nn.Module):
    """A bottleneck that halves the sides, beside a pooling whose places are kept."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        few = squeezed(after)
        first = nn.Conv2d(before, few, 2, stride=2, bias=False)
        middle = nn.Conv2d(few, few, 3, padding=1, bias=False)
        self.inside = inside(first, [middle], few, after, dropout)
        self.slope, self.more = slope(after), after - before

    def forward(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, Place]:
        """Maps of half the sides, and where the maxima came from."""
        maxima_BCHW, places_BCHW = pooled(x_BCHW)
        kept = functional.pad(maxima_BCHW, (0, 0, 0, 0, 0, self.more))
        place = places_BCHW, x_BCHW.shape[2], x_BCHW.shape[3]
        return self.slope(kept + self.inside(x_BCHW)), place


class Up(nn.Module):
    """A bottleneck that doubles the sides, beside an unpooling to the places that were kept."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        few = squeezed(after)
        first = nn.Conv2d(before, few, 1, bias=False)
        middle = nn.ConvTranspose2d(few, few, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.inside = inside(first, [middle], few, after, dropout, learnt=False)
        self.beside = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x_BCHW: torch.Tensor, place: Place) -> torch.Tensor:
        """Maps of twice the sides."""
        placed = unpooled(self.beside(x_BCHW), *place)
        return functional.relu(placed + self.inside(x_BCHW))


def regular(channels: int, dropout: float, *, dilation: int = 1, learnt: bool = True) -> Bottleneck:
    """A bottleneck about a convolution of 3 x 3, whose taps may lie apart."""
    few = squeezed(channels)
    middle = nn.Conv2d(few, few, 3, padding=dilation, dilation=dilation, bias=False)
    first = nn.Conv2d(channels, few, 1, bias=False)
    made = inside(first, [middle], few, channels, dropout, learnt=learnt)
    return Bottleneck(made, channels, learnt=learnt)


def asymmetric(channels: int, dropout: float, side: int = 5) -> Bottleneck:
    """A bottleneck about a column and a row instead of a square."""
    few = squeezed(channels)
    column = nn.Conv2d(few, few, (side, 1), padding=(side // 2, 0), bias=False)
    row = nn.Conv2d(few, few, (1, side), padding=(0, side // 2), bias=False)
    first = nn.Conv2d(channels, few, 1, bias=False)
    return Bottleneck(inside(first, [column, row], few, channels, dropout), channels)


def mixed_stage(channels: int, dropout: float) -> nn.Sequential:
    """Eight bottlenecks: regular, dilated ever wider, and asymmetric ones in turn."""
    parts: list[nn.Module] = []
    for pair, at in enumerate((2, 4, 8, 16)):
        plain = regular(channels, dropout) if pair % 2 == 0 else asymmetric(channels, dropout)
        parts += [plain, regular(channels, dropout, dilation=at)]
    return nn.Sequential(*parts)


def inside(
    first: nn.Module,
    middle: Sequence[nn.Module],
    few: int,
    after: int,
    dropout: float,
    *,
    learnt: bool = True,
) -> nn.Sequential:
    """Fewer channels, what happens to them, and all channels again."""
    last = nn.Conv2d(few, after, 1, bias=False)
    ends = [ended(few, learnt=learnt) for _ in range(2)]
    norm = nn.BatchNorm2d(after)
    return nn.Sequential(first, ends[0], *middle, ends[1], last, norm, nn.Dropout2d(dropout))


def squeezed(channels: int) -> int:
    """The channels inside of a bottleneck."""
    return max(1, channels // SQUEEZE)


def ended(channels: int, *, learnt: bool = True) -> nn.Sequential:
    """A norm, and the slope of negative numbers."""
    return nn.Sequential(nn.BatchNorm2d(channels), slope(channels, learnt=learnt))


def slope(channels: int, *, learnt: bool = True) -> nn.Module:
    """Learnt for each channel, or none."""
    return nn.PReLU(channels) if learnt else nn.ReLU()

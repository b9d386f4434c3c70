"""A video transformer: attention over time and then over space in every block, or over all at once.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?" (TimeSformer,
divided attention), 2021; tubelets and joint attention after Arnab et al., "ViViT" (its model 1),
2021. The spatial half is torchvision's vision transformer (Dosovitskiy et al., 2021), so that its
weights fit.

Legend: B batch, C channels, T moments (frames, or tubelets of several), H height, W width,
P places of patches, N tokens (T x P, moment by moment), V tokens that are seen, D features.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from clipmill_classify.backbones import beheaded, load_weights

HEAD_FEATURES = 64
MLP_RATIO = 4
LONGEST_WAVE = 100  # places or moments, over two pi


@dataclass(frozen=True)
class Shape:
    """What decides the size of the transformer."""

    frames: int
    size: int  # pixels
    patch: int  # pixels
    tubelet: int  # frames
    depth: int
    heads: int
    width: float

    @property
    def features(self) -> int:
        """Features of a token."""
        return self.heads * max(1, round(HEAD_FEATURES * self.width))

    @property
    def moments(self) -> int:
        """Tokens of a place."""
        return self.frames // self.tubelet

    @property
    def side(self) -> int:
        """Places in a row, and rows of them."""
        return self.size // self.patch


class TokenEncoder(nn.Module):
    """Makes tokens of a clip; one of its kind adds attention."""

    space: VisionTransformer

    def __init__(self, shape: Shape, dropout: float, weights: str | None) -> None:
        super().__init__()
        features = shape.features
        vit = VisionTransformer(
            shape.size, shape.patch, shape.depth, shape.heads, features, MLP_RATIO * features,
            dropout=dropout,
        )  # fmt: skip
        beheaded(vit)
        if weights is not None:
            load_weights(vit, weights)
        vit.conv_proj = tubelets(vit.conv_proj, shape, spread=weights is not None)
        self.space = vit
        self.moments = shape.moments
        self.moment_embedding = nn.Parameter(torch.zeros(1, self.moments, 1, features))
        self.features = features

    def _tokens(self, x_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches with their place and moment, and the class token."""
        x_BDTHW = self.space.conv_proj(x_BCTHW)
        x_BTPD = x_BDTHW.flatten(3).permute(0, 2, 3, 1)
        places_1PD = self.space.encoder.pos_embedding
        x_BTPD = x_BTPD + places_1PD[:, None, 1:] + self.moment_embedding
        class_11D = self.space.class_token + places_1PD[:, :1]
        dropout = self.space.encoder.dropout
        return dropout(x_BTPD), dropout(class_11D.expand(x_BTPD.shape[0], -1, -1))


class TimeAttention(nn.Module):
    """Each place of the picture attends to itself in all moments; at first it adds nothing."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.attention = nn.MultiheadAttention(features, heads, batch_first=True)
        self.out = nn.Linear(features, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTPD: torch.Tensor) -> torch.Tensor:
        """Tokens with what other moments add to them."""
        places = x_BTPD.shape[2]
        x_NTD = self.norm(x_BTPD.transpose(1, 2).flatten(0, 1))
        seen_NTD, _ = self.attention(x_NTD, x_NTD, x_NTD, need_weights=False)
        added_BPTD: torch.Tensor = self.out(seen_NTD).unflatten(0, (-1, places))
        return x_BTPD + added_BPTD.transpose(1, 2)


class SpaceTimeEncoder(TokenEncoder):
    """Features of a clip: the class token, after blocks of attention over time and over space."""

    def __init__(self, shape: Shape, dropout: float, weights: str | None) -> None:
        super().__init__(shape, dropout, weights)
        each = (TimeAttention(shape.features, shape.heads) for _ in range(shape.depth))
        self.time = nn.ModuleList(each)

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        x_BTPD, class_B1D = self._tokens(x_BCTHW)
        for time, space in zip(self.time, self.space.encoder.layers, strict=True):
            x_BTPD, class_B1D = self._over_space(space, time(x_BTPD), class_B1D)
        x_BD: torch.Tensor = self.space.encoder.ln(class_B1D[:, 0])
        return x_BD

    def _over_space(
        self, block: EncoderBlock, x_BTPD: torch.Tensor, class_B1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend within each moment; the class token looks at all of them and keeps the mean."""
        class_BT1D = class_B1D.unsqueeze(1).expand(-1, self.moments, -1, -1)
        seen_NPD = block(torch.cat([class_BT1D, x_BTPD], 2).flatten(0, 1))
        seen_BTPD = seen_NPD.unflatten(0, (-1, self.moments))
        return seen_BTPD[:, :, 1:], seen_BTPD[:, :, :1].mean(1)


class JointEncoder(TokenEncoder):
    """Features of a clip: the mean of its tokens, after blocks in which each attends to all.

    The mean, and not the class token, as that is what masked video modelling trains. Places and
    moments begin as sines: learnt from nothing they stay too faint to tell tokens apart.
    """

    def __init__(self, shape: Shape, dropout: float, weights: str | None) -> None:
        super().__init__(shape, dropout, weights)
        if weights is None:
            places_PD, moments_TD = positions(shape.side, shape.moments, shape.features)
            with torch.no_grad():
                self.space.encoder.pos_embedding[0, 1:] = places_PD
                self.moment_embedding[0, :, 0] = moments_TD

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        return self.tokens(x_BCTHW).mean(1)

    def tokens(self, x_BCTHW: torch.Tensor, visible_BV: torch.Tensor | None = None) -> torch.Tensor:
        """Features of every token [B, N, D], or of those with these numbers, which see no other."""
        x_BTPD, class_B1D = self._tokens(x_BCTHW)
        x_BND = x_BTPD.flatten(1, 2)
        if visible_BV is not None:
            x_BND = x_BND.gather(1, visible_BV.unsqueeze(2).expand(-1, -1, self.features))
        seen_BND = self.space.encoder.layers(torch.cat([class_B1D, x_BND], 1))
        told_BND: torch.Tensor = self.space.encoder.ln(seen_BND[:, 1:])
        return told_BND


def positions(side: int, moments: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines that tell places [P, D] by row and column, and moments [T, D], in parts of their own."""
    third = features // 3
    rows, columns = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    places = [sines(rows, third), sines(columns, third)]
    places_PD = torch.cat([*places, torch.zeros(side * side, features - 2 * third)], 1)
    empty_TD = torch.zeros(moments, 2 * third)
    moments_TD = torch.cat([empty_TD, sines(torch.arange(moments), features - 2 * third)], 1)
    return places_PD, moments_TD


def sines(numbers_N: torch.Tensor, features: int) -> torch.Tensor:
    """Sines and cosines of ever longer waves (Vaswani et al., 2017): [N, features]."""
    waves = -(-features // 2)
    pace = LONGEST_WAVE ** -(torch.arange(waves, device=numbers_N.device) / max(1, waves))
    angles = numbers_N[:, None] * pace
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :features]


def tubelets(patches: nn.Conv2d, shape: Shape, spread: bool) -> nn.Conv3d:
    """The layer that makes tokens; learnt patches are spread evenly over a tubelet's frames."""
    kernel = (shape.tubelet, shape.patch, shape.patch)
    made = nn.Conv3d(3, shape.features, kernel, stride=kernel)
    with torch.no_grad():
        if spread:
            per_frame = patches.weight.unsqueeze(2) / shape.tubelet
            made.weight.copy_(per_frame.expand_as(made.weight))
            made.bias = patches.bias
        else:
            nn.init.trunc_normal_(made.weight, std=(3 * prod(kernel)) ** -0.5)
            nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made

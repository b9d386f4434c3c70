"""A video transformer with space and time factorised in every block.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?" (TimeSformer,
divided attention), 2021; tubelets after Arnab et al., "ViViT", 2021. The spatial half is
torchvision's vision transformer (Dosovitskiy et al., 2021), so that its weights fit.

Legend: B batch, C channels, T moments (frames, or tubelets of several), H height, W width,
P places of patches, D features.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from clipmill_classify.backbones import beheaded, load_weights

HEAD_FEATURES = 64
MLP_RATIO = 4


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


class SpaceTimeEncoder(nn.Module):
    """Features of a clip: the class token, after blocks of attention over time and over space."""

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
        self.moments = shape.frames // shape.tubelet
        self.moment_embedding = nn.Parameter(torch.zeros(1, self.moments, 1, features))
        self.time = nn.ModuleList(TimeAttention(features, shape.heads) for _ in range(shape.depth))
        self.features = features

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        x_BTPD, class_B1D = self._tokens(x_BCTHW)
        for time, space in zip(self.time, self.space.encoder.layers, strict=True):
            x_BTPD, class_B1D = self._over_space(space, time(x_BTPD), class_B1D)
        x_BD: torch.Tensor = self.space.encoder.ln(class_B1D[:, 0])
        return x_BD

    def _tokens(self, x_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches with their place and moment, and the class token."""
        x_BDTHW = self.space.conv_proj(x_BCTHW)
        x_BTPD = x_BDTHW.flatten(3).permute(0, 2, 3, 1)
        places_1PD = self.space.encoder.pos_embedding
        x_BTPD = x_BTPD + places_1PD[:, None, 1:] + self.moment_embedding
        class_11D = self.space.class_token + places_1PD[:, :1]
        dropout = self.space.encoder.dropout
        return dropout(x_BTPD), dropout(class_11D.expand(x_BTPD.shape[0], -1, -1))

    def _over_space(
        self, block: EncoderBlock, x_BTPD: torch.Tensor, class_B1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend within each moment; the class token looks at all of them and keeps the mean."""
        class_BT1D = class_B1D.unsqueeze(1).expand(-1, self.moments, -1, -1)
        seen_NPD = block(torch.cat([class_BT1D, x_BTPD], 2).flatten(0, 1))
        seen_BTPD = seen_NPD.unflatten(0, (-1, self.moments))
        return seen_BTPD[:, :, 1:], seen_BTPD[:, :, :1].mean(1)


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

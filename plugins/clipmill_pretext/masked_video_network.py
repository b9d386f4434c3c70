"""The network of masked video modelling: an encoder of the shown tokens, a decoder of the hidden.

What is to be told is each hidden tubelet's pixels, less its mean and by its deviation, colour by
colour (He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022): its look, and not
its light.

Legend: B batch, C colours, T moments, H height, W width, P places, S places that are shown,
N tokens (T x P, moment by moment), V tokens that are shown, M tokens that are hidden, D features,
E pixels of a tubelet.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.vision_transformer import EncoderBlock

from clipmill_classify.transformer_network import MLP_RATIO, JointEncoder, Shape, positions

Batch = Mapping[str, torch.Tensor]

COLOURS = 3
FLAT = 0.02  # about one grey level of the normalised frames: a deviation below it is no detail


class MaskedVideoNetwork(nn.Module):
    """Tells the hidden tubelets of a clip from the shown ones."""

    near_PP: torch.Tensor

    def __init__(self, encoder: JointEncoder, decoder: "Decoder", shape: Shape) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.shape = shape
        self.register_buffer("near_PP", distances(shape.side), persistent=False)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of a batch: the mean squared error of what is hidden."""
        true_BMEC = self._hidden(self.looks(batch["rgb"]), batch)
        return {"loss": functional.mse_loss(self.told(batch), true_BMEC)}

    def predict(self, batch: Batch, state: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
        """The error of each take, and those of answers that need no network."""
        looks_BNEC = self.looks(batch["rgb"])
        true_BMEC = self._hidden(looks_BNEC, batch)
        shown_BN = self._tokens(batch["shown"])
        mean_B1EC = _picked(looks_BNEC, shown_BN).mean(1, keepdim=True)
        answers = {
            "error": self.told(batch),
            "copy_error": _picked(looks_BNEC, self._tokens(self.nearest(batch))),
            "mean_error": mean_B1EC,
            "flat_error": torch.zeros_like(mean_B1EC),
        }
        errors = {n: (told - true_BMEC).square().mean((1, 2, 3)) for n, told in answers.items()}
        return {**errors, "embedding": self.encoder(batch["rgb"]).float()}, state

    def told(self, batch: Batch) -> torch.Tensor:
        """What is told of the hidden tubelets, in their order: [B, M, E, C]."""
        shown_BV, hidden_BM = self._tokens(batch["shown"]), self._tokens(batch["hidden"])
        x_BVD = self.encoder.tokens(batch["rgb"], shown_BV)
        told_BML: torch.Tensor = self.decoder(x_BVD, shown_BV, hidden_BM)
        return torch.unflatten(told_BML.float(), 2, (-1, COLOURS))

    def looks(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """All tubelets of a clip less their means, by their deviations: [B, N, E, C]."""
        x_BNEC = cut(x_BCTHW.float(), self.shape.tubelet, self.shape.patch)
        less_mean = x_BNEC - x_BNEC.mean(2, keepdim=True)
        variance = less_mean.square().mean(2, keepdim=True)
        return less_mean / (variance + FLAT**2).sqrt()

    def nearest(self, batch: Batch) -> torch.Tensor:
        """The shown place that is nearest to each hidden one, the first of equals: [B, P - S]."""
        shown_BS, hidden_BP = batch["shown"], batch["hidden"]
        away_BPS = self.near_PP[hidden_BP[:, :, None], shown_BS[:, None, :]]
        return shown_BS.gather(1, away_BPS.argmin(2))

    def _hidden(self, x_BNEC: torch.Tensor, batch: Batch) -> torch.Tensor:
        return _picked(x_BNEC, self._tokens(batch["hidden"]))

    def _tokens(self, places_BP: torch.Tensor) -> torch.Tensor:
        return tokens_at(places_BP, self.shape.moments, self.shape.side**2)


class Decoder(nn.Module):
    """A light transformer over all tokens, of which those hidden come as one and the same."""

    positions_1ND: torch.Tensor

    def __init__(self, shape: Shape, depth: int, heads: int) -> None:
        super().__init__()
        features = heads * (shape.features // shape.heads)
        places_PD, moments_TD = positions(shape.side, shape.moments, features)
        told = (moments_TD[:, None] + places_PD).flatten(0, 1)[None]
        self.register_buffer("positions_1ND", told, persistent=False)
        self.taken = nn.Linear(shape.features, features)
        self.missing = nn.Parameter(torch.zeros(1, 1, features))
        self.blocks = nn.Sequential(
            *(EncoderBlock(heads, features, MLP_RATIO * features, 0.0, 0.0) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.out = nn.Linear(features, shape.tubelet * shape.patch**2 * COLOURS)
        nn.init.normal_(self.missing, std=0.02)
        nn.init.normal_(self.out.weight, std=0.01)  # at first it tells no detail
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x_BVD: torch.Tensor, shown_BV: torch.Tensor, hidden_BM: torch.Tensor
    ) -> torch.Tensor:
        """The pixels of the hidden tokens, colours last: [B, M, E x C]."""
        x_BVd = self.taken(x_BVD)
        tokens, features = self.positions_1ND.shape[1:]
        missing_BNd = self.missing.to(x_BVd.dtype).expand(len(x_BVd), tokens, -1)
        at_BVd = shown_BV[:, :, None].expand(-1, -1, features)
        x_BNd = self.blocks(missing_BNd.scatter(1, at_BVd, x_BVd) + self.positions_1ND)
        told: torch.Tensor = self.out(self.norm(_picked(x_BNd, hidden_BM)))
        return told


# --- which token is which


def tokens_at(places_BP: torch.Tensor, moments: int, places: int) -> torch.Tensor:
    """The numbers of the tokens of some places in every moment, moment by moment: [B, T x P]."""
    begins_T = torch.arange(moments, device=places_BP.device) * places
    return (begins_T[:, None] + places_BP[:, None, :]).flatten(1)


def cut(x_BCTHW: torch.Tensor, tubelet: int, patch: int) -> torch.Tensor:
    """A clip as its tubelets, in the order of tokens: [B, N, E, C]."""
    x = x_BCTHW
    for axis, extent in ((4, patch), (3, patch), (2, tubelet)):  # the last first: it moves none
        x = torch.unflatten(x, axis, (-1, extent))
    x = x.permute(0, 2, 4, 6, 3, 5, 7, 1)  # batch; moment, row, column; the pixels within; colour
    return x.flatten(4, 6).flatten(1, 3)


def distances(side: int) -> torch.Tensor:
    """How far places are from one another: [P, P]."""
    rows, columns = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    return torch.hypot((rows[:, None] - rows).float(), (columns[:, None] - columns).float())


def _picked(x_BN: torch.Tensor, numbers_BM: torch.Tensor) -> torch.Tensor:
    """The rows of these numbers, of each take its own."""
    takes = torch.arange(len(x_BN), device=x_BN.device)[:, None]
    picked: torch.Tensor = x_BN[takes, numbers_BM]
    return picked

"""The network of audio-visual correspondence: two towers, and places compared with sounds.

Legend: B batch, N pictures, S sounds, C channels, T frames (one here), H height, W width,
h and w places, E embedding, D features.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.frames import FrameEncoder
from clipmill_classify.sound_network import SoundEncoder
from clipmill_pretext.places import Places, empty_maps, last_maps

Batch = Mapping[str, torch.Tensor]
Told = dict[str, torch.Tensor]
FIRST_SCALE, MOST_SCALE = 10.0, 100.0  # of cosines, to be scores


class AudioVisualNetwork(nn.Module):
    """Tells whether a picture and a sound belong together, by the place that fits best.

    The best place is the soft maximum of all, so that a gradient reaches each. In training a take
    has two pictures, each with its own sound, which stands against the other. What is told from a
    batch, and what normalises it, is of one rank's part of it.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        hearing: SoundEncoder,
        *,
        size: int,
        embedding: int,
        contrast: float,
    ) -> None:
        super().__init__()
        self.encoder, self.hearing = encoder, hearing
        finer, last = empty_maps(encoder, size)
        self.places = Places(finer.shape[1], last.shape[1], embedding)
        # Centred last: what all sounds have in common would leave nearly one vector for all.
        self.sounds = nn.Sequential(
            nn.Linear(hearing.features, embedding, bias=False),
            nn.BatchNorm1d(embedding),
            nn.ReLU(),
            nn.Linear(embedding, embedding, bias=False),
            nn.BatchNorm1d(embedding, affine=False),
        )
        self.scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.contrast = contrast

    def forward(self, batch: Batch) -> Told:
        """The loss of pairs, and of the whole batch; how many pairs are told rightly."""
        pictures = [batch[name] for name in ("rgb", "rgb_other") if name in batch]
        _, seen_NEhw = self._seen(torch.cat(pictures))
        own_BE, other_BE = self._heard(batch)
        count = len(seen_NEhw)  # one or two pictures a take
        own_NE, other_NE = torch.cat([own_BE, other_BE]), torch.cat([other_BE, own_BE])
        own_N, other_N = (
            self.fit(similarity(seen_NEhw, each[:count])) for each in (own_NE, other_NE)
        )
        both_N = (batch["heard"] * batch["heard_other"]).repeat(len(pictures))
        losses = [pairs_loss(own_N, other_N, both_N)]
        if self.contrast:
            all_NS = self.fit(similarity_to_all(seen_NEhw, own_NE))
            losses.append(self.contrast * batch_loss(all_NS, batch))
        accuracy = (rightly(own_N, other_N) * both_N).sum() / both_N.sum().clamp(min=1)
        return {"loss": torch.stack(losses).sum(), "own_accuracy": accuracy}

    def predict(self, batch: Batch, state: Any = None) -> tuple[Told, Any]:
        """Whether both pairs are told rightly, and where in the picture its own sound fits."""
        features_BD, seen_BEhw = self._seen(batch["rgb"])
        own_BE, other_BE = self._heard(batch)
        heat_Bhw = similarity(seen_BEhw, own_BE)
        scores = self.fit(heat_Bhw), self.fit(similarity(seen_BEhw, other_BE))
        told = {
            "right": rightly(scores[0], scores[1]),
            "asked": batch["heard"] * batch["heard_other"],
            "is_far": batch["is_far"],
            "together": scores[0].sigmoid(),
            "heat": heat_Bhw * batch["heard"][:, None, None],
            "embedding": features_BD.float(),
            "projection": seen_BEhw.mean((2, 3)),
            "sound": own_BE,
        }
        return told, state

    def _seen(self, rgb_NCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of the pictures, and a vector for each of their places."""
        finer, last_NDhw = last_maps(self.encoder.network, rgb_NCTHW[:, :, 0])
        return last_NDhw.mean((2, 3)), self.places(finer, last_NDhw)

    def _heard(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """A vector for each own sound, and for each that does not belong."""
        both = torch.cat([batch["spectrogram"], batch["spectrogram_other"]])
        x_NE = self.sounds(self.hearing(both)).float()
        own_BE, other_BE = functional.normalize(x_NE, dim=1).chunk(2)
        return own_BE, other_BE

    def fit(self, cosines: torch.Tensor) -> torch.Tensor:
        """One score of each picture and sound from the cosines [..., h, w] of all places."""
        places = cosines.shape[-2] * cosines.shape[-1]
        scale = self.scale.clamp(max=math.log(MOST_SCALE)).exp()
        scaled = (cosines * scale).flatten(-2)
        return scaled.logsumexp(-1) - math.log(places) + self.bias


def similarity(seen_BEhw: torch.Tensor, sound_BE: torch.Tensor) -> torch.Tensor:
    """The cosine of each place of a picture and its sound, [B, h, w]."""
    return torch.einsum("behw,be->bhw", seen_BEhw, sound_BE)


def similarity_to_all(seen_BEhw: torch.Tensor, sound_SE: torch.Tensor) -> torch.Tensor:
    """The cosine of each place of a picture and any sound, [B, S, h, w]."""
    return torch.einsum("behw,se->bshw", seen_BEhw, sound_SE)


def pairs_loss(own_N: torch.Tensor, other_N: torch.Tensor, both_N: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of a pair of each kind, of pictures whose sounds are both there.

    Others keep their place in the mean: else parts of a batch would weigh by their silence.
    """
    loss_N = functional.softplus(-own_N) + functional.softplus(other_N)
    return (loss_N * both_N).mean() / 2


def batch_loss(scores_NS: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross entropy of the own sound among those of the batch, first own ones, then others.

    Of two pictures a take the second ones follow the first; their own sounds are the others. Other
    sounds of the same video stand against nothing, but for the one planned so; nor do sounds that
    are not there, whose pictures keep their place in the mean.
    """
    count, sounds = scores_NS.shape
    own_N = torch.arange(count, device=scores_NS.device)
    place_S = torch.arange(sounds, device=scores_NS.device)
    is_own_NS = own_N[:, None] == place_S
    is_planned_NS = ((own_N + sounds // 2) % sounds)[:, None] == place_S
    video_S = torch.cat([batch["video"], batch["video_other"]])
    heard_S = torch.cat([batch["heard"], batch["heard_other"]])
    against_NS = (video_S[:count, None] != video_S) | is_planned_NS
    kept_NS = is_own_NS | (against_NS & (heard_S > 0))
    loss_N = functional.cross_entropy(
        scores_NS.masked_fill(~kept_NS, float("-inf")), own_N, reduction="none"
    )
    return (loss_N * heard_S[:count]).mean()


def rightly(own_B: torch.Tensor, other_B: torch.Tensor) -> torch.Tensor:
    """The share of the two pairs of a take that is told rightly."""
    return ((own_B > 0).float() + (other_B <= 0).float()) / 2

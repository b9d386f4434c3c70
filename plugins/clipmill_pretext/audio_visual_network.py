"""The network of audio-visual correspondence: two towers, and places compared with sounds.

Legend: B batch, S sounds, C channels, H height, W width, h and w places, E embedding, D features.
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
FIRST_SCALE = 10.0  # of cosines, to be scores


class AudioVisualNetwork(nn.Module):
    """Tells whether a picture and a sound belong together, by the place that fits best.

    The best place is the soft maximum of all, so that a gradient reaches each.
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
        # Centred: what all sounds have in common would leave nearly one vector for all.
        self.sounds = nn.Sequential(
            nn.BatchNorm1d(hearing.features),
            nn.Linear(hearing.features, embedding),
            nn.ReLU(),
            nn.Linear(embedding, embedding),
        )
        self.scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.contrast = contrast

    def forward(self, batch: Batch) -> Told:
        """The loss of pairs, and of the whole batch; how many pairs are told rightly."""
        _, seen_BEhw = self._seen(batch)
        own_BE, other_BE = self._heard(batch)
        scores = [self.fit(similarity(seen_BEhw, each)) for each in (own_BE, other_BE)]
        both_B = batch["heard"] * batch["heard_other"]
        losses = [pairs_loss(scores[0], scores[1], both_B)]
        if self.contrast:
            all_BS = self.fit(similarity_to_all(seen_BEhw, torch.cat([own_BE, other_BE])))
            losses.append(self.contrast * batch_loss(all_BS, batch))
        right_B = rightly(scores[0], scores[1])
        accuracy = (right_B * both_B).sum() / both_B.sum().clamp(min=1)
        return {"loss": torch.stack(losses).sum(), "own_accuracy": accuracy}

    def predict(self, batch: Batch, state: Any = None) -> tuple[Told, Any]:
        """Whether both pairs are told rightly, and where in the picture its own sound fits."""
        features_BD, seen_BEhw = self._seen(batch)
        own_BE, other_BE = self._heard(batch)
        heat_Bhw = similarity(seen_BEhw, own_BE)
        scores = self.fit(heat_Bhw), self.fit(similarity(seen_BEhw, other_BE))
        told = {
            "right": rightly(scores[0], scores[1]),
            "is_far": batch["is_far"],
            "together": scores[0].sigmoid(),
            "heat": heat_Bhw * batch["heard"][:, None, None],
            "embedding": features_BD.float(),
            "projection": seen_BEhw.mean((2, 3)),
            "sound": own_BE,
        }
        return told, state

    def _seen(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of the pictures, and a vector for each of their places."""
        finer, last_BDhw = last_maps(self.encoder.network, batch["rgb"][:, :, 0])
        return last_BDhw.mean((2, 3)), self.places(finer, last_BDhw)

    def _heard(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """A vector for each own sound, and for each that does not belong."""
        both = torch.cat([batch["spectrogram"], batch["spectrogram_other"]])
        x_NE = self.sounds(self.hearing(both)).float()
        own_BE, other_BE = functional.normalize(x_NE, dim=1).chunk(2)
        return own_BE, other_BE

    def fit(self, cosines: torch.Tensor) -> torch.Tensor:
        """One score of each picture and sound from the cosines [..., h, w] of all places."""
        places = cosines.shape[-2] * cosines.shape[-1]
        scaled = (cosines * self.scale.exp()).flatten(-2)
        return scaled.logsumexp(-1) - math.log(places) + self.bias


def similarity(seen_BEhw: torch.Tensor, sound_BE: torch.Tensor) -> torch.Tensor:
    """The cosine of each place of a picture and its sound, [B, h, w]."""
    return torch.einsum("behw,be->bhw", seen_BEhw, sound_BE)


def similarity_to_all(seen_BEhw: torch.Tensor, sound_SE: torch.Tensor) -> torch.Tensor:
    """The cosine of each place of a picture and any sound, [B, S, h, w]."""
    return torch.einsum("behw,se->bshw", seen_BEhw, sound_SE)


def pairs_loss(own_B: torch.Tensor, other_B: torch.Tensor, both_B: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of a pair of each kind, of takes whose sounds are both there."""
    loss_B = functional.softplus(-own_B) + functional.softplus(other_B)
    return (loss_B * both_B).sum() / 2 / both_B.sum().clamp(min=1)


def batch_loss(scores_BS: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross entropy of the own sound among those of the batch, first own ones, then others.

    Other sounds of the same video stand against nothing, but for the one planned so; nor do
    records without sound.
    """
    count = len(scores_BS)
    own_BB = torch.eye(count, dtype=torch.bool, device=scores_BS.device)
    video_S = torch.cat([batch["video"], batch["video_other"]])
    heard_S = torch.cat([batch["heard"], batch["heard_other"]]) > 0
    left_out_BS = (batch["video"][:, None] == video_S) | ~heard_S
    scores_BS = scores_BS.masked_fill(left_out_BS & ~own_BB.repeat(1, 2), float("-inf"))
    target_B = torch.arange(count, device=scores_BS.device)
    loss_B = functional.cross_entropy(scores_BS, target_B, reduction="none")
    return (loss_B * batch["heard"]).sum() / batch["heard"].sum().clamp(min=1)


def rightly(own_B: torch.Tensor, other_B: torch.Tensor) -> torch.Tensor:
    """The share of the two pairs of a take that is told rightly."""
    return ((own_B > 0).float() + (other_B <= 0).float()) / 2

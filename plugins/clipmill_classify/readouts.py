"""From the outputs of a recurrent network at each frame to what is told of the clip.

A readout goes on from what it carried out of the chunk before, so that chunk by chunk equals at
once. Knows neither frames nor how a network remembers.

Legend: B batch, T frames, D features, K classes, E frames that are judged.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import nn

from clipmill_classify.network import Batch
from clipmill_classify.scores import Judge, Told

Carried = tuple[torch.Tensor, ...] | None


class Read(NamedTuple):
    """What was read: scores, what the next chunk goes on from, and what else can be shown."""

    scores: torch.Tensor  # [B, K], or [B, T, K] where each frame has a class
    carried: Carried = None
    shown: Told = {}  # noqa: RUF012 - never written to


class Readout(nn.Module):
    """A linear layer on features; a readout of its kind says on which."""

    def __init__(self, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        # Not near zero, as behind other networks: what an LSTM gives is small, and what two frames
        # tell only together is found sooner the more of it comes through at the start.
        self.head = nn.Linear(features, classes)

    def scores(self, y: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores of features."""
        made: torch.Tensor = self.head(self.dropout(y))
        return made

    def forward(self, y_BTD: torch.Tensor, carried: Carried = None) -> Read:
        """Read the outputs of a chunk."""
        raise NotImplementedError

    def judged(self, y_BTD: torch.Tensor, batch: Batch, judge: Judge, ends: Sequence[int]) -> Told:
        """The loss; `ends` are the last frames of the windows that gradients stay within."""
        told: Told = judge(self(y_BTD).scores, batch)
        return told


class EachFrame(Readout):
    """Many to many: a class for each frame."""

    def forward(self, y_BTD: torch.Tensor, carried: Carried = None) -> Read:
        """Scores of each frame."""
        return Read(self.scores(y_BTD))


class LastFrame(Readout):
    """Many to one: what is known when all has been seen.

    In training each window is asked at its end, or no window but the last would learn.
    """

    def __init__(self, features: int, classes: int, dropout: float, both_ways: bool) -> None:
        super().__init__(features, classes, dropout)
        self.both_ways = both_ways

    def forward(self, y_BTD: torch.Tensor, carried: Carried = None) -> Read:
        """Scores after the last frame."""
        return Read(self.scores(self._known(y_BTD)))

    def judged(self, y_BTD: torch.Tensor, batch: Batch, judge: Judge, ends: Sequence[int]) -> Told:
        """The mean loss at the ends of the windows."""
        if len(ends) == 1:
            return super().judged(y_BTD, batch, judge, ends)
        scores_BEK = self.scores(y_BTD[:, list(ends)])
        return _judged_often(scores_BEK, scores_BEK[:, -1], batch, judge)

    def _known(self, y_BTD: torch.Tensor) -> torch.Tensor:
        if not self.both_ways:
            return y_BTD[:, -1]
        ahead, back = y_BTD.chunk(2, 2)  # who reads backwards has seen all at the first frame
        return torch.cat([ahead[:, -1], back[:, 0]], 1)


class MeanOfFrames(Readout):
    """Many to one: asked at each frame, and the scores averaged (Donahue et al., 2015)."""

    def forward(self, y_BTD: torch.Tensor, carried: Carried = None) -> Read:
        """Mean scores of all frames so far."""
        scores_BTK = self.scores(y_BTD)
        total, count = scores_BTK.sum(1), scores_BTK.new_full((len(y_BTD), 1), y_BTD.shape[1])
        if carried is not None:
            total, count = total + carried[0], count + carried[1]
        return Read(total / count, (total, count))

    def judged(self, y_BTD: torch.Tensor, batch: Batch, judge: Judge, ends: Sequence[int]) -> Told:
        """The mean loss over all frames."""
        scores_BTK = self.scores(y_BTD)
        return _judged_often(scores_BTK, scores_BTK.mean(1), batch, judge)


class Attention(Readout):
    """Many to one: what was known at each frame, weighed by how much that frame matters.

    The energy of a frame is v . tanh(W x + b) of its own features x, its weight the softmax over
    all frames (Yao et al., 2015). What is remembered has no say in it: any frame after an event
    remembers the event, so weights by memory would not tell when something was seen. Energies
    can be shown chunk by chunk, weights only of a whole clip.
    """

    def __init__(
        self, features: int, frame_features: int, classes: int, dropout: float, hidden: int
    ) -> None:
        super().__init__(features, classes, dropout)
        self.features = features
        self.key = nn.Linear(frame_features, hidden)
        self.energy = nn.Linear(hidden, 1, bias=False)  # one for all would change no weight

    def forward(self, y_BTD: torch.Tensor, carried: Carried = None) -> Read:
        """Scores of the weighted mean of all frames so far; outputs come with features behind."""
        y_BTD, x_BTD = y_BTD[:, :, : self.features], y_BTD[:, :, self.features :]
        energies_BT = self.energy(torch.tanh(self.key(x_BTD)))[:, :, 0].float()
        top_B1 = energies_BT.amax(1, keepdim=True)
        if carried is not None:
            top_B1 = torch.maximum(top_B1, carried[0])
        weights_BT = (energies_BT - top_B1).exp()
        total_B1 = weights_BT.sum(1, keepdim=True)
        sum_BD = torch.einsum("bt,btd->bd", weights_BT, y_BTD.float())
        if carried is not None:
            shrunk_B1 = (carried[0] - top_B1).exp()
            total_B1, sum_BD = (
                total_B1 + shrunk_B1 * carried[1],
                sum_BD + shrunk_B1 * carried[2],
            )
        scores_BK = self.scores(sum_BD / total_B1)
        return Read(scores_BK, (top_B1, total_B1, sum_BD), {"attention_energy": energies_BT})


class Remembering(Protocol):
    """Recurrent layers, as far as a readout must know them."""

    features: int
    both_ways: bool


def readout_of(
    kind: Literal["each", "last", "mean"], layers: Remembering, classes: int, dropout: float
) -> Readout:
    """Make a readout: of each frame, or for the clip of the last one, or of the mean."""
    match kind:
        case "each":
            return EachFrame(layers.features, classes, dropout)
        case "last":
            return LastFrame(layers.features, classes, dropout, layers.both_ways)
        case "mean":
            return MeanOfFrames(layers.features, classes, dropout)


def _judged_often(
    scores_BEK: torch.Tensor, answer_BK: torch.Tensor, batch: Batch, judge: Judge
) -> Told:
    """The mean loss of several answers to each clip, and the accuracy of the one that counts."""
    times = scores_BEK.shape[1]
    each = {
        name: batch[name].repeat_interleave(times, 0)
        for name in ("target", "target_b", "mix")
        if name in batch
    }
    told: Told = judge(answer_BK, batch)
    return {**told, "loss": judge(scores_BEK.flatten(0, 1), each)["loss"]}

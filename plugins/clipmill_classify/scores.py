"""What all classifiers do with their logits: the loss in training, probabilities in answers.

One class a clip, several, or one a frame: a judge each, with the same two methods. The loss of a
batch is the mean over its labelled clips, so that it does not depend on how a batch is split.

Legend: B batch, T frames, K classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

NO_LABEL = -1

Batch = Mapping[str, torch.Tensor]
Told = dict[str, torch.Tensor]


class Judge(nn.Module):
    """Cross entropy and accuracy over the labelled clips; a target of -1 counts for nothing.

    Class weights multiply, and the sum is divided by the number of clips and not of weights: so
    the loss of a batch is the mean over its parts, however it is split among workers.
    """

    weights_K: torch.Tensor | None

    def __init__(self, smoothing: float = 0.0, weights: Sequence[float] = ()) -> None:
        super().__init__()
        self.smoothing = smoothing
        given = torch.tensor(weights, dtype=torch.float32) if weights else None
        self.register_buffer("weights_K", given, persistent=False)  # they are in the recipe

    def forward(self, logits_BK: torch.Tensor, batch: Batch) -> Told:
        """The loss and the accuracy of a batch, of mixed takes by their shares."""
        logits_BK, target_B = logits_BK.float(), batch["target"]
        labelled_B = target_B != NO_LABEL
        count = labelled_B.sum().clamp(min=1)
        loss_B = self._loss(logits_BK, target_B)
        if "mix" in batch:
            loss_B = torch.lerp(self._loss(logits_BK, batch["target_b"]), loss_B, batch["mix"])
        hits = (labelled_B & (logits_BK.argmax(1) == target_B)).sum()
        return {"loss": loss_B.sum() / count, "accuracy": hits.float() / count}

    def answer(self, logits_BK: torch.Tensor, batch: Batch) -> Told:
        """Class probabilities of each clip."""
        return probabilities(logits_BK)

    def _loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of each target; the classes are the second dimension of the logits."""
        return functional.cross_entropy(
            logits, target, self.weights_K, ignore_index=NO_LABEL, reduction="none",
            label_smoothing=self.smoothing,
        )  # fmt: skip


class FrameJudge(Judge):
    """The same for each frame: logits [B, T, K], targets [B, T]; every labelled clip counts alike."""

    def forward(self, logits_BTK: torch.Tensor, batch: Batch) -> Told:
        """The loss and the accuracy of a batch, of each clip the mean over its labelled frames."""
        logits_BKT, target_BT = logits_BTK.float().transpose(1, 2), batch["target"]
        labelled_BT = target_BT != NO_LABEL
        loss_BT = self._loss(logits_BKT, target_BT)
        if "mix" in batch:
            other_BT = self._loss(logits_BKT, batch["target_b"])
            loss_BT = torch.lerp(other_BT, loss_BT, batch["mix"][:, None])
        hits_BT = (logits_BKT.argmax(1) == target_BT).float()
        return {
            "loss": _over_clips(loss_BT, labelled_BT),
            "accuracy": _over_clips(hits_BT, labelled_BT),
        }

    def answer(self, logits_BTK: torch.Tensor, batch: Batch) -> Told:
        """Class probabilities of each frame, and which of its video's frames it is."""
        told = {"frame_probabilities": logits_BTK.float().softmax(2)}
        numbers = {"frame_numbers": batch["frame_numbers"]} if "frame_numbers" in batch else {}
        return {**told, **numbers}


class SeveralJudge(Judge):
    """Each class for itself: binary cross entropy on targets of 0 and 1 [B, K]; -1 is no label."""

    def forward(self, logits_BK: torch.Tensor, batch: Batch) -> Told:
        """The loss, and how often the likeliest class is one of the clip's."""
        logits_BK, target_BK = logits_BK.float(), batch["target"].float()
        labelled_B = (target_BK >= 0).all(1)
        count = labelled_B.sum().clamp(min=1)
        likeliest_B1 = logits_BK.argmax(1, keepdim=True)
        hits_B = target_BK.gather(1, likeliest_B1)[:, 0] * labelled_B
        if "mix" in batch:  # the loss is linear in its target
            target_BK = torch.lerp(batch["target_b"].float(), target_BK, batch["mix"][:, None])
        smooth_BK = target_BK * (1 - self.smoothing) + self.smoothing / 2
        loss_BK = functional.binary_cross_entropy_with_logits(
            logits_BK, smooth_BK, self.weights_K, reduction="none"
        )
        loss_B = loss_BK.mean(1) * labelled_B
        return {"loss": loss_B.sum() / count, "accuracy": hits_B.sum() / count}

    def answer(self, logits_BK: torch.Tensor, batch: Batch) -> Told:
        """The probability of each class that it is there."""
        return {"presence": logits_BK.float().sigmoid()}


def probabilities(logits_BK: torch.Tensor) -> Told:
    """The answer of a classifier, in full precision whatever the network computed in."""
    return {"probabilities": logits_BK.float().softmax(1)}


def _over_clips(values_BT: torch.Tensor, labelled_BT: torch.Tensor) -> torch.Tensor:
    """The mean over clips of the mean over each one's labelled frames."""
    count_B = labelled_BT.sum(1)
    mean_B = (values_BT * labelled_BT).sum(1) / count_B.clamp(min=1)
    return mean_B.sum() / (count_B > 0).sum().clamp(min=1)

"""A task whose answer is one of K: what a network of it says in training and when it is asked.

Legend: B batch, K choices.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional

Told = dict[str, torch.Tensor]


def judged(scores_BK: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Told:
    """The loss of a batch, and the share of it that is told rightly; `truth` [B] is the answer."""
    truth_B = batch["truth"].long()
    right_B = scores_BK.argmax(1) == truth_B
    return {
        "loss": functional.cross_entropy(scores_BK.float(), truth_B),
        "own_accuracy": right_B.float().mean(),
    }


def told(scores_BK: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> Told:
    """Whether each take is told rightly, and how likely its true answer is to the network."""
    truth_B = batch["truth"].long()
    likely_BK = scores_BK.float().softmax(1)
    return {
        "right": (scores_BK.argmax(1) == truth_B).float(),
        "truth_probability": likely_BK.gather(1, truth_B[:, None])[:, 0],
    }

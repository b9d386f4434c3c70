"""What all classifiers do with their logits: the loss in training, probabilities in answers.

Legend: B batch, K classes.
"""

import torch
from torch.nn import functional

NO_LABEL = -1


def classified(logits_BK: torch.Tensor, target_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cross entropy and accuracy over the labelled clips; a target of -1 counts for nothing."""
    logits_BK = logits_BK.float()
    labelled_B = target_B != NO_LABEL
    count = labelled_B.sum().clamp(min=1)
    total = functional.cross_entropy(logits_BK, target_B, ignore_index=NO_LABEL, reduction="sum")
    hits = (labelled_B & (logits_BK.argmax(1) == target_B)).sum()
    return {"loss": total / count, "accuracy": hits.float() / count}


def probabilities(logits_BK: torch.Tensor) -> dict[str, torch.Tensor]:
    """The answer of a classifier, in full precision whatever the network computed in."""
    return {"probabilities": logits_BK.float().softmax(1)}

"""A linear support vector machine as a module: scikit-learn finds it, buffers hold it, no pickle.

Each class is told from all others; inputs are standardised and brought to about length 1, so that
`c` means the same whatever their number. A machine gives margins, no probabilities: those are the
softmax of margins times one number, chosen so that margins of clips that a machine was not trained
on tell the truth (temperature scaling, Guo et al., 2017; by cross-validation as Platt, 1999).

Legend: B batch, N clips, D features, K classes.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clipmill.errors import DataError

FOLDS = 3
SHARPNESSES = np.geomspace(0.05, 100.0, 200)  # the factors that are tried
LEAST_DEVIATION = 1e-6
NEVER = -1e4  # margin of a class that was not there to learn

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


class LinearSVM(nn.Module):
    """Scores of classes, whose softmax are probabilities; all alike until it has learned."""

    centre_D: torch.Tensor
    scale_D: torch.Tensor
    weight_KD: torch.Tensor
    bias_K: torch.Tensor
    sharpness: torch.Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("centre_D", torch.zeros(features))
        self.register_buffer("scale_D", torch.ones(features))
        self.register_buffer("weight_KD", torch.zeros(classes, features))
        self.register_buffer("bias_K", torch.zeros(classes))
        self.register_buffer("sharpness", torch.ones(()))

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores [B, K]."""
        inputs_BD = (x_BD.float() - self.centre_D) * self.scale_D
        return self.sharpness * nn.functional.linear(inputs_BD, self.weight_KD, self.bias_K)

    @torch.no_grad()
    def take(self, learned: Mapping[str, Floats]) -> None:
        """Hold what `fit` has found."""
        for name, values in learned.items():
            self.get_buffer(name).copy_(torch.from_numpy(np.asarray(values, np.float32)))


def fit(x_ND: Floats, y_N: Labels, classes: int, *, c: float = 1.0) -> dict[str, Floats]:
    """Find the buffers of a LinearSVM that tells `classes` classes; labels below 0 are left out.

    `c` is what a clip on the wrong side counts against a wide margin.
    """
    x_ND, y_N = np.asarray(x_ND, np.float64)[y_N >= 0], np.asarray(y_N)[y_N >= 0]
    if not len(y_N) or not np.isfinite(x_ND).all():
        got = "features that are not finite" if len(y_N) else "no clip with a class"
        raise DataError(f"a support vector machine was given {got}", "finite features, and classes")
    centre_D = x_ND.mean(0)
    scale_D = 1 / (np.maximum(x_ND.std(0), LEAST_DEVIATION) * np.sqrt(x_ND.shape[1]))
    scale_D[x_ND.std(0) < LEAST_DEVIATION] = 0.0  # what never changes tells nothing
    inputs_ND = (x_ND - centre_D) * scale_D
    weight_KD, bias_K = machine(inputs_ND, y_N, classes, c)
    return {
        "centre_D": centre_D,
        "scale_D": scale_D,
        "weight_KD": weight_KD,
        "bias_K": bias_K,
        "sharpness": np.asarray(_sharpness(inputs_ND, y_N, classes, c)),
    }


def machine(inputs_ND: Floats, y_N: Labels, classes: int, c: float) -> tuple[Floats, Floats]:
    """Weights [K, D] and offsets [K] of the machines that tell each class from all others."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    weight_KD, bias_K = np.zeros((classes, inputs_ND.shape[1])), np.full(classes, NEVER)
    present = np.unique(y_N)
    if len(present) == 1:
        bias_K[present] = 1.0
        return weight_KD, bias_K
    found = LinearSVC(C=c, dual="auto", max_iter=5000, random_state=0)
    with warnings.catch_warnings():
        # As near as it comes in so many rounds is near enough, and the same each time.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(inputs_ND, y_N)
    if len(present) == 2:  # one machine for both: what is for the one is against the other
        weight_KD[present] = np.stack([-found.coef_[0], found.coef_[0]])
        bias_K[present] = np.array([-found.intercept_[0], found.intercept_[0]])
    else:
        weight_KD[present], bias_K[present] = found.coef_, found.intercept_
    return weight_KD, bias_K


def _sharpness(inputs_ND: Floats, y_N: Labels, classes: int, c: float) -> float:
    """The factor on margins under which the probabilities of clips left out are likeliest."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.bincount(y_N)[np.unique(y_N)].min()))
    if folds < 2:  # nothing can be left out: margins are taken as they are
        return 1.0
    margins_NK = np.empty((len(y_N), classes))
    for train, left_out in StratifiedKFold(folds, shuffle=True, random_state=0).split(
        inputs_ND, y_N
    ):
        weight_KD, bias_K = machine(inputs_ND[train], y_N[train], classes, c)
        margins_NK[left_out] = inputs_ND[left_out] @ weight_KD.T + bias_K
    margins_NK = np.maximum(margins_NK, -100.0)  # classes that were not there stay out of it
    likely = [_log_likelihood(margins_NK * factor, y_N) for factor in SHARPNESSES]
    return float(SHARPNESSES[int(np.argmax(likely))])


def _log_likelihood(scores_NK: Floats, y_N: Labels) -> float:
    top_N1 = scores_NK.max(1, keepdims=True)
    total_N = np.log(np.exp(scores_NK - top_N1).sum(1)) + top_N1[:, 0]
    return float((scores_NK[np.arange(len(y_N)), y_N] - total_N).mean())

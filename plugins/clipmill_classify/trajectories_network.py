"""Words for tracks, Fisher vectors of clips, and a linear classifier: all of it in buffers.

Fisher vectors by Sanchez, Perronnin, Mensink and Verbeek (2013). Nothing here has a gradient.

Legend: B batch, N tracks, D numbers of a kind, E after PCA, W words, F features, K classes.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from clipmill.errors import PluginError
from clipmill_classify.network import Batch, ClipNetwork
from clipmill_classify.svm import LinearSVM, fit

LEAST_VARIANCE = 1e-4
ROUNDS = 50  # of fitting words


class Words(nn.Module):
    """A mixture of Gaussians over one kind of description, in half of its dimensions."""

    centre_D: torch.Tensor
    axes_DE: torch.Tensor
    share_W: torch.Tensor
    mean_WE: torch.Tensor
    variance_WE: torch.Tensor

    def __init__(self, numbers: int, words: int) -> None:
        super().__init__()
        kept = (numbers + 1) // 2
        self.register_buffer("centre_D", torch.zeros(numbers))
        self.register_buffer("axes_DE", torch.eye(numbers)[:, :kept].contiguous())
        self.register_buffer("share_W", torch.full((words,), 1 / words))
        self.register_buffer("mean_WE", torch.zeros(words, kept))
        self.register_buffer("variance_WE", torch.ones(words, kept))

    @property
    def features(self) -> int:
        """The length of a Fisher vector."""
        return 2 * self.mean_WE.numel() + len(self.share_W)

    def forward(self, x_BND: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
        """Fisher vectors [B, W + 2 W E] of the tracks that are kept, each of length 1."""
        y_BNE = (x_BND - self.centre_D.double()) @ self.axes_DE.double()
        share_W, mean_WE = self.share_W.double(), self.mean_WE.double()
        deviation_WE = self.variance_WE.double().sqrt()
        q_BNW = self._belonging(y_BNE) * kept_BN[..., None]
        count_B11 = kept_BN.sum(1).clamp(min=1)[:, None, None]
        sum_BW1 = q_BNW.sum(1)[..., None]
        first_BWE = q_BNW.mT @ y_BNE
        second_BWE = q_BNW.mT @ y_BNE.square()
        along_mean = (first_BWE - sum_BW1 * mean_WE) / deviation_WE
        squares = second_BWE - 2 * first_BWE * mean_WE + sum_BW1 * mean_WE.square()
        along_variance = squares / deviation_WE.square() - sum_BW1
        along_share = sum_BW1 - kept_BN.sum(1)[:, None, None] * share_W[:, None]
        root_W1 = share_W.sqrt()[:, None]
        parts = along_share / root_W1, along_mean / root_W1, along_variance / (root_W1 * 2**0.5)
        fisher_BF = torch.cat([(part / count_B11).flatten(1) for part in parts], 1)
        root_BF = fisher_BF.sign() * fisher_BF.abs().sqrt()
        return functional.normalize(root_BF, eps=1e-9)

    def _belonging(self, y_BNE: torch.Tensor) -> torch.Tensor:
        """How likely each track is of each word."""
        mean_WE, precision_WE = self.mean_WE.double(), 1 / self.variance_WE.double()
        distance_BNW = (
            y_BNE.square() @ precision_WE.T
            - 2 * y_BNE @ (mean_WE * precision_WE).T
            + (mean_WE.square() * precision_WE).sum(1)
        )
        prior_W = self.share_W.double().log() + precision_WE.log().sum(1) / 2
        likely_BNW: torch.Tensor = prior_W - distance_BNW / 2
        return likely_BNW.softmax(2)


class TrajectoryNetwork(ClipNetwork):
    """Scores of clips, from what is told of their tracks."""

    def __init__(self, kinds: Mapping[str, int], words: int, classes: int) -> None:
        super().__init__()
        self.kinds = dict(kinds)
        made = {name: Words(numbers, words) for name, numbers in kinds.items()}
        self.words = nn.ModuleDict(made)
        self.svm = LinearSVM(sum(each.features for each in made.values()), classes)

    def encoded(self, batch: Batch) -> torch.Tensor:
        """The Fisher vectors of all kinds, one behind the other: [B, F]."""
        tracks_BND = batch["tracks"].double()
        places_N = torch.arange(tracks_BND.shape[1], device=tracks_BND.device)
        kept_BN = (places_N < batch["kept"][:, None]).double()
        parts = torch.split(tracks_BND, list(self.kinds.values()), 2)
        told = [self.words[name](x, kept_BN) for name, x in zip(self.kinds, parts, strict=True)]
        return torch.cat(told, 1)

    def logits(self, batch: Batch) -> torch.Tensor:
        """How far each clip lies on each class's side."""
        scores_BK: torch.Tensor = self.svm(self.encoded(batch))
        return scores_BK


# --- learning

Tracks = NDArray[np.float64]


@torch.no_grad()
def learn(model: nn.Module, batches: Iterable[Batch], word_tracks: int, penalty: float) -> None:
    """Learn words from the tracks of the first clips, which are any clips; then the classifier."""
    assert isinstance(model, TrajectoryNetwork)
    coming = iter(batches)
    first = _first_clips(coming, word_tracks)
    _learn_all_words(model, _tracks(first)[:word_tracks])
    told = [
        (model.encoded(batch).float().cpu(), batch["target"].cpu())
        for batch in itertools.chain(first, coming)
    ]
    features, targets = (torch.cat(each).numpy() for each in zip(*told, strict=True))
    model.svm.take(fit(features, targets, len(model.svm.bias_K), c=penalty))


def _first_clips(coming: Iterator[Batch], wanted: int) -> list[Batch]:
    """Batches until they have so many tracks."""
    first, count = list[Batch](), 0
    for batch in coming:
        first.append(batch)
        count += int(batch["kept"].sum())
        if count >= wanted:
            break
    return first


def _tracks(batches: list[Batch]) -> Tracks:
    """All tracks that are there, one behind the other."""
    parts = [
        tracks_ND[:kept]
        for batch in batches
        for tracks_ND, kept in zip(batch["tracks"].cpu(), batch["kept"].tolist(), strict=True)
    ]
    found = torch.cat(parts).double().numpy() if parts else np.empty((0, 0))
    if not len(found):
        raise PluginError(
            f"none of {len(parts)} clips has a track", "texture that moves", "lower least_motion"
        )
    return found


def _learn_all_words(model: TrajectoryNetwork, tracks: Tracks) -> None:
    edges = np.cumsum([0, *model.kinds.values()]).tolist()
    for name, (first, end) in zip(model.kinds, itertools.pairwise(edges), strict=True):
        _learn_words(model.words[name], tracks[:, first:end])


def _learn_words(words: nn.Module, tracks_ND: Tracks) -> None:
    from sklearn.mixture import GaussianMixture

    assert isinstance(words, Words)
    count, kept = words.mean_WE.shape
    centre = tracks_ND.mean(0)
    _, axes = np.linalg.eigh(np.cov(tracks_ND - centre, rowvar=False).reshape(len(centre), -1))
    axes = axes[:, ::-1][:, :kept].copy()  # those of the largest spread
    small = (tracks_ND - centre) @ axes
    mixture = GaussianMixture(
        count, covariance_type="diag", reg_covar=LEAST_VARIANCE, max_iter=ROUNDS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rough fit is enough for words
        mixture.fit(np.resize(small, (max(len(small), 2 * count), kept)))
    learnt = {
        "centre_D": centre, "axes_DE": axes, "share_W": mixture.weights_,
        "mean_WE": mixture.means_, "variance_WE": mixture.covariances_,
    }  # fmt: skip
    for name, values in learnt.items():
        words.get_buffer(name).copy_(torch.from_numpy(np.ascontiguousarray(values)))

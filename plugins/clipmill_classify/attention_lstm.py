"""CNN, LSTM and attention: the frames that matter are weighed, and the weights can be shown.

The memory after each frame is weighed by additive attention over the clip, which looks at the
features of the frames (Yao et al., "Describing Videos by Exploiting Temporal Structure", 2015). An answer has under `attention` a
row of weights for each of its takes, and under `attention_frames` the numbers of the frames that
they are of.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipmill.plugin import Takes
from clipmill.takes import frame_numbers
from clipmill_classify.labels import Labels
from clipmill_classify.sequence import FrameSequence

if TYPE_CHECKING:
    from clipmill_classify.readouts import Readout
    from clipmill_classify.recurrent_network import Recurrent


class AttentionLSTM(FrameSequence):
    """A torchvision backbone on each frame, an LSTM, and attention over its time steps."""

    name: ClassVar[str] = "attention_lstm"
    paper: ClassVar[str] = "Yao et al., Describing Videos by Exploiting Temporal Structure, 2015"
    label_kinds: ClassVar[tuple[Labels, ...]] = ("one", "several")
    beside: ClassVar[bool] = True

    attention: int = Field(128, ge=1, description="units that weigh a frame")

    def reading(self, recurrent: "Recurrent", frame_features: int, classes: int) -> "Readout":
        """Make the attention over the memory."""
        from clipmill_classify.readouts import Attention

        return Attention(recurrent.features, frame_features, classes, self.dropout, self.attention)

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """The answer of all classifiers, with what each frame of each take weighs in it."""
        energies_NT = np.stack([each["attention_energy"] for each in outputs]).astype(np.float64)
        plain = [
            {name: array for name, array in each.items() if name != "attention_energy"}
            for each in outputs
        ]
        spans = zip(takes.first[:, 0].tolist(), takes.last[:, 0].tolist(), strict=True)
        numbers = [frame_numbers(a, b, energies_NT.shape[1], b + 1) for a, b in spans]
        shown = {"attention": softmax(energies_NT), "attention_frames": np.stack(numbers)}
        return {**super().answer(plain, takes), **shown}


def softmax(energies_NT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights whose sum over a row is one."""
    powers = np.exp(energies_NT - energies_NT.max(axis=1, keepdims=True))
    weights: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return weights

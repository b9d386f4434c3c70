"""CNN and RNN: a 2D network sees each frame, an LSTM or GRU puts the frames in order.

Donahue et al., "Long-term Recurrent Convolutional Networks", 2015: one class a video, asked at
each frame and averaged, or one class a frame. ResNet-18 stands where the paper has CaffeNet.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from clipmill_classify.sequence import FrameSequence

if TYPE_CHECKING:
    from clipmill_classify.readouts import Readout
    from clipmill_classify.recurrent_network import Recurrent


class CnnRnn(FrameSequence):
    """A torchvision backbone on each frame, and recurrent layers over its features."""

    name: ClassVar[str] = "cnn_rnn"
    paper: ClassVar[str] = "Donahue et al., Long-term Recurrent Convolutional Networks, 2015"

    readout: Literal["last", "mean"] = Field(
        "mean",
        description="what tells a video's class: the memory after the last frame, or after each "
        "one, averaged",
    )

    def reading(self, recurrent: "Recurrent", frame_features: int, classes: int) -> "Readout":
        """Make the linear layer on the memory."""
        from clipmill_classify.readouts import readout_of

        kind = "each" if self.labels == "frames" else self.readout
        return readout_of(kind, recurrent, classes, self.dropout)

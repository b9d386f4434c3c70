"""ConvLSTM: recurrent layers whose state is a map, so that motion is seen where it happens.

Shi et al., "Convolutional LSTM Network", 2015: the three layers of 128, 64 and 64 channels with
5 x 5 kernels that the paper found best, on frames cut into patches of 4 x 4, with a linear layer
on their states in place of the forecast. One class a video, or one a frame.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from clipmill.plugin import Info
from clipmill_classify.sequence import SequenceClassifier

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class ConvLSTM(SequenceClassifier):
    """ConvLSTM layers on the patches of frames."""

    name: ClassVar[str] = "conv_lstm"
    paper: ClassVar[str] = "Shi et al., Convolutional LSTM Network, 2015"
    streaming: ClassVar[bool] = True
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "frames": 8, "size": 32, "resize": 36, "kernel": 3,
    }  # fmt: skip

    channels: tuple[int, ...] = Field(
        (128, 64, 64), min_length=1, description="of the state of each layer, times width"
    )
    kernel: int = Field(5, ge=1, description="side of the convolutions in the gates, odd")
    patch: int = Field(
        4, ge=1, validate_default=True, description="side of the squares that frames are cut into"
    )
    readout: Literal["last", "mean"] = Field(
        "last",
        description="what tells a video's class: the memory after the last frame, or after each "
        "one, averaged",
    )

    @field_validator("channels")
    @classmethod
    def _some(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if min(channels) < 1:
            raise ValueError("at least 1 channel in each layer")
        return channels

    @field_validator("kernel")
    @classmethod
    def _has_a_middle(cls, kernel: int) -> int:
        if not kernel % 2:
            raise ValueError("an odd number, as a state keeps its size")
        return kernel

    @field_validator("patch")
    @classmethod
    def _fits(cls, patch: int, info: ValidationInfo) -> int:
        if info.data.get("size", 0) % patch:
            raise ValueError(f"a divisor of size {info.data['size']}")
        return patch

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the patches, the ConvLSTM layers and what is read from them."""
        from clipmill_classify.conv_lstm_network import ConvLSTMLayers, Patches
        from clipmill_classify.readouts import readout_of
        from clipmill_classify.sequence_network import SequenceNetwork

        patches = Patches(self.patch)
        hidden = [max(1, round(channels * self.width)) for channels in self.channels]
        layers = ConvLSTMLayers(patches.features, hidden, self.kernel)
        kind = "each" if self.labels == "frames" else self.readout
        readout = readout_of(kind, layers, classes, self.dropout)
        return SequenceNetwork(patches, layers, readout, self.window)

"""A network that goes through a clip frame by frame and remembers: what C9 to C11 have in common.

Frames are encoded each for itself, recurrent layers put them in order, a readout tells the class.
Long clips go window by window; a video that comes in chunks is answered as at once.

Legend: B batch, T frames, D features.
"""

from typing import Any

import torch
from torch import nn

from clipmill.errors import PluginError
from clipmill_classify.network import Batch, ClipNetwork
from clipmill_classify.readouts import Readout
from clipmill_classify.scores import Told
from clipmill_classify.windows import Memory, ends, in_windows

TIME = {"rgb": 2, "features": 1}  # the axis of a stream that frames lie along


class SequenceNetwork(ClipNetwork):
    """An encoder of frames [B, T, ...], recurrent layers over them [B, T, D], and a readout."""

    def __init__(
        self,
        encoder: nn.Module,
        recurrent: nn.Module,
        readout: Readout,
        window: int | None,
        stream: str = "rgb",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.recurrent = recurrent
        self.readout = readout
        self.window = window
        self.stream = stream

    def forward(self, batch: Batch) -> Told:
        """The loss of a batch, and how much of it is told rightly."""
        y_BTD, _ = self._outputs(batch, None)
        return self.readout.judged(y_BTD, batch, self.judge, ends(y_BTD.shape[1], self.window))

    def predict(self, batch: Batch, state: Any = None) -> tuple[Told, Any]:
        """The answer after these frames, and what the next ones go on from."""
        memory, carried = (None, None) if state is None else state
        y_BTD, memory = self._outputs(batch, memory)
        read = self.readout(y_BTD, carried)
        return {**self.judge.answer(read.scores, batch), **read.shown}, (memory, read.carried)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        scores: torch.Tensor = self.readout(self._outputs(batch, None)[0]).scores
        return scores

    def _outputs(self, batch: Batch, memory: Memory) -> tuple[torch.Tensor, Memory]:
        clip, axis = batch[self.stream], TIME[self.stream]
        return in_windows(self._step, clip, axis, memory, self.window, self)

    def _step(self, clip: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        made: tuple[torch.Tensor, Memory] = self.recurrent(self.encoder(clip), memory)
        return made


class Given(nn.Module):
    """Stands where an encoder would be, for features that were computed before."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """The features as they are."""
        if x_BTD.shape[2] != self.features:
            raise PluginError(
                f"rows of {x_BTD.shape[2]} features", f"{self.features}, as model.features says"
            )
        return x_BTD

"""What is asked of a network: its answers, or an embedding of each video.

An embedding is what a model itself answers so; else what its `describe` makes of frames or clips,
or what goes into its last linear layer, averaged over all that is seen of a video. Knows no files.

Legend: B batch, T frames, D numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from clipmill import infer
from clipmill.errors import PluginError
from clipmill.evaluate.work import Question
from clipmill.infer import Model, Output
from clipmill.takes import Takes

Asked = Literal["answers", "embeddings"]
EMBEDDING, DESCRIBED = "embedding", "described"


def asked_of(model: Model, asked: Asked) -> Question | None:
    """The question; none where the plugin's own answers are asked for."""
    if asked == "answers":
        return None
    asking = _Embedding(model)
    return Question(asking.ask, asking.join)


class _Embedding:
    def __init__(self, model: Model) -> None:
        self.model = model
        self._is_answered = True  # as far as is known: what the first batch tells

    def ask(self, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """An embedding of each clip."""
        module: Any = self.model.module
        describe = getattr(module, "describe", None)
        described = describe(batch) if describe else None
        given: list[torch.Tensor] = []
        if self._is_answered or described is None:
            with infer.watched(module, given):
                told, _ = module.predict(batch)
            if EMBEDDING in told:
                return told  # type: ignore[no-any-return]
            self._is_answered = False
        if described is None:
            described = _last(given, module)
        if described.ndim not in (2, 3):
            raise PluginError(f"features of {list(described.shape)}", "[B, T, D] or [B, D]")
        x_BD = described.mean(1) if described.ndim == 3 else described
        return {DESCRIBED: x_BD}

    def join(self, outputs: Sequence[Output], takes: Takes) -> dict[str, Any]:
        """The embedding of a video."""
        if DESCRIBED in outputs[0]:
            return {EMBEDDING: np.mean([each[DESCRIBED] for each in outputs], axis=0)}
        answer = self.model.plugin.answer(outputs, takes)
        found = answer.get(EMBEDDING)
        if found is None:
            found = np.mean([each[EMBEDDING] for each in outputs], axis=0)
        return {EMBEDDING: np.asarray(found).ravel()}


def _last(given: list[torch.Tensor], module: Any) -> torch.Tensor:
    if not given:
        raise PluginError(
            f"{type(module).__name__} answers without a linear layer",
            "one whose input are features, a method describe(batch), or an answer `embedding`",
        )
    return given[-1]

"""What a model version runs: MLflow executes this file to answer videos.

It holds no weights and no choices; both lie beside it in the version's model folder.
"""

import json
from typing import Any

import mlflow.pyfunc
import pandas as pd

from clipmill import infer


class VideoModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Answers a column `video` of bytes with a column `answer` of JSON."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that the version carries."""
        self.model = infer.load(context.artifacts["model"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row."""
        answers = [infer.answer(self.model, bytes(video)) for video in model_input["video"]]
        return pd.DataFrame({"answer": [json.dumps(answer) for answer in answers]})


mlflow.models.set_model(VideoModel())

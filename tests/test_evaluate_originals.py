"""What is told of original files whose model cannot be measured on files alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clipmill.evaluate.originals import _differences
from clipmill_segment.unet import UNet
from clipmill_similar.siamese import Siamese


def model(plugin: Any, **validation: float) -> Any:
    figures = {"validation": {"metrics": validation}} if validation else {}
    return SimpleNamespace(plugin=plugin, figures=figures)


def pairs(kinds: tuple[int, int], embedding: float = 0.0) -> dict[str, Any]:
    distances = {"distances": np.array([0.2, 0.8]), "kinds": np.array(kinds)}
    return {"embedding": np.full(2, embedding), **distances}


ROWS = [{"key": name, "identity": name} for name in "ab"]


def test_a_file_alone_has_no_partner_and_is_compared_all_the_same() -> None:
    both = [(row, pairs((0, 2)), {"embedding": np.full(2, 0.5)}) for row in ROWS]
    told = _differences(model(Siamese()), both)
    assert told["not_measured"] == "files alone: video a was compared with none"
    assert told["answers_apart"] == {"embedding": {"mean": 0.5, "largest": 0.5}}


def test_a_file_alone_has_no_masks_and_is_compared_all_the_same() -> None:
    mask = np.zeros((2, 2), np.uint8)
    other = np.array([[0, 0], [0, 3]], np.uint8)
    both = [({}, {"mask": mask, "confusion": np.array([[4]])}, {"mask": other})]
    told = _differences(model(UNet()), both)
    assert "no pixel" in told["not_measured"]
    assert told["answers_apart"] == {"mask": {"mean": 0.25, "largest": 0.25}}


def test_both_sides_go_by_what_the_validation_chose() -> None:
    both = [(row, pairs((0, 2)), pairs((0, 2))) for row in ROWS]
    told = _differences(model(Siamese(), threshold=0.9), both)
    for side in ("metrics", "stored_metrics"):
        assert told[side]["threshold"] == 0.9 and told[side]["accuracy"] == pytest.approx(0.5)
    assert told["difference"] == 0

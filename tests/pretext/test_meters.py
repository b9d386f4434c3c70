"""The meter of the own task: exact means, whatever the cut; and answers that hold no number."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.errors import DataError, PluginError
from clipmill_pretext.meters import OwnTask

shares = st.floats(0, 1, width=32)


def filled(answers: list[dict[str, Any]]) -> OwnTask:
    made = OwnTask(own_accuracy="right", sureness="sure")
    for place, answer in enumerate(answers):
        made.update(answer, {"key": str(place)})
    return made


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=30), st.data())
def test_parts_in_any_order_are_the_whole(told: list[tuple[float, float]], data: Any) -> None:
    answers = [{"right": np.float32(right), "sure": np.array([sure, sure])} for right, sure in told]
    whole = filled(answers).compute()
    cut = data.draw(st.integers(1, len(answers) - 1))
    last, first = filled(answers[cut:]), filled(answers[:cut])
    last.merge(first)
    assert last.compute() == whole
    assert whole["own_accuracy"] == pytest.approx(np.mean([right for right, _ in told]))
    assert whole["sureness"] == pytest.approx(np.mean([sure for _, sure in told]))
    assert np.mean([filled([]).score(each, {}) for each in answers]) == pytest.approx(
        whole["own_accuracy"]
    )


def test_what_cannot_be_counted_is_told() -> None:
    with pytest.raises(DataError, match="no video was measured"):
        OwnTask(own_accuracy="right").compute()
    with pytest.raises(PluginError, match="an answer of sure; wanted 'right' among them"):
        OwnTask(own_accuracy="right").update({"sure": 1}, {})
    with pytest.raises(DataError, match="the right of video cat is nan"):
        OwnTask(own_accuracy="right").update({"right": np.nan}, {"key": "cat"})

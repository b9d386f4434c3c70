"""Spans at ingest: seconds of a source become frames of a record, and what is odd is told."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill import api, catalog, video
from clipmill.errors import UsageError
from clipmill.ingest import Options
from clipmill.ingest.sources import Span
from clipmill.ingest.spans import beyond, in_frames, overlapping
from tiny import moving

TIMES = np.arange(20) / 10
BOUNDS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 15)).map(lambda b: (b[0] / 10, sum(b) / 10)),
    max_size=4,
).map(sorted)


def told(bounds: list[tuple[float, float]]) -> list[dict[str, object]]:
    return [{"label": "s", "start_seconds": a, "end_seconds": b} for a, b in bounds]


@given(BOUNDS)
def test_a_span_holds_the_frames_that_begin_within_it(bounds: list[tuple[float, float]]) -> None:
    made = in_frames(told(bounds), TIMES)
    wanted = []
    for start, end in bounds:
        inside = [n for n, second in enumerate(TIMES.tolist()) if start <= second < end]
        wanted += [(inside[0], inside[-1])] if inside else []
    assert [(each["first_frame"], each["last_frame"]) for each in made] == wanted


@given(BOUNDS)
def test_a_background_is_all_that_no_span_covers(bounds: list[tuple[float, float]]) -> None:
    bare, made = in_frames(told(bounds), TIMES), in_frames(told(bounds), TIMES, "none")
    assert [each for each in made if each["label"] == "s"] == bare
    covered = {n for s in bare for n in range(s["first_frame"], s["last_frame"] + 1)}
    rest = [s for s in made if s["label"] == "none"]
    filled = [n for s in rest for n in range(s["first_frame"], s["last_frame"] + 1)]
    assert filled == sorted(set(range(len(TIMES))) - covered)
    assert all(b["first_frame"] - a["last_frame"] > 1 for a, b in itertools.pairwise(rest))
    firsts = [each["first_frame"] for each in made]
    assert firsts == sorted(firsts)


def test_what_is_odd_is_counted() -> None:
    def spans(*bounds: tuple[float, float]) -> list[Span]:
        return [Span("s", *each) for each in bounds]

    assert overlapping(spans()) == overlapping(spans((0, 1), (1, 2), (2, 3))) == 0
    assert overlapping(spans((0, 9), (1, 2), (3, 4), (9, 10))) == 2
    assert beyond(spans((0, 2.05), (1.0, 3.0), (5.0, 6.0)), 2.0) == 2
    with pytest.raises(UsageError, match="background without a name"):
        Options(background=" ")


def test_spans_beyond_a_video_are_cut_and_overlapping_ones_told(
    ray_local: None, tmp_path: Path
) -> None:
    video.encode(str(tmp_path / "a.mp4"), moving(0, 1, frames=30), fps=15)
    spans = [("whole", 0.2, 9.0), ("part", 0.6, 1.0), ("after", 5.0, 6.0)]
    parts = [{"label": n, "start_seconds": a, "end_seconds": b} for n, a, b in spans]
    table = tmp_path / "table.jsonl"
    table.write_text(json.dumps({"path": "a.mp4", "split": "test", "spans": parts}) + "\n")
    data = str(tmp_path / "data")
    warned = api.ingest(str(table), data)["warnings"]
    assert [each.split(":")[0] for each in warned] == [
        "2 spans reach beyond their videos", "2 spans overlap others"
    ]  # fmt: skip
    made = catalog.load(data)
    assert made.classes == ("part", "whole")
    wanted = [("whole", 6, 59), ("part", 18, 29)]
    assert shown(made) == wanted

    again = api.ingest(str(table), data, background="rest")  # which is another record
    assert again["records"] == 1 and not again["nothing_to_do"]
    made = catalog.load(data)
    assert shown(made) == [("rest", 0, 5), *wanted]
    assert made.classes == ("part", "rest", "whole")
    assert made.meta["options"]["background"] == "rest"
    assert api.verify(data)["faults"] == []


def shown(made: catalog.Catalog) -> list[tuple[str, int, int]]:
    return [(s["label"], s["first_frame"], s["last_frame"]) for s in made.row(0)["spans"]]

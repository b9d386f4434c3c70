"""Statistics: counts that add up, spreads, tables for a terminal and a picture."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill import catalog, stats
from clipmill.errors import UsageError
from tiny import catalog_of, rows

HOSTILE = "<script>\"&\x00\n'</script>"


@pytest.fixture
def data(tmp_path: Path) -> str:
    members = [{"suffix": s, "offset": 0, "length": n} for s, n in (("idx", 10), ("mp4", 90))]
    some: list[dict[str, Any]] = [
        {**row, "members": members, "duration_seconds": 36.0 * (place + 1), "has_audio": place < 4}
        for place, row in enumerate([*rows(10, shards=2), *rows(5, split="val")])
    ]
    some[0] |= {"label": HOSTILE, "motion": 0.5, "near": "one"}
    some[1] |= {"label": None, "split": None, "motion": 0.7, "near": "one"}
    for place in (3, 4, 5):  # one video in three parts
        some[place]["parent"] = "a"
    folder = tmp_path / "data"
    meta = {"classes": ["class 0", "class 1"], "counts": {"sources": 18, "duplicates": 1}}
    catalog.save(str(folder), catalog_of(some).table, meta)
    ledger = {
        "source": ["a", "b", "c"], "source_sha256": [None, "0", "1"],
        "stage": ["probe", "decode", "decode"], "reason": ["empty", HOSTILE, HOSTILE],
    }  # fmt: skip
    pq.write_table(pa.table(ledger), folder / "quarantine.parquet")
    return str(folder)


def test_counts_add_up(data: str) -> None:
    told = stats.stats(data)
    assert (told["records"], told["videos"], told["shards"]) == (15, 13, 3)
    assert told["hours"] == pytest.approx(36 * 120 / 3600)
    assert (told["bytes"], told["with_audio"]) == (1500, 4)
    splits = {row["split"]: row for row in told["splits"]}
    assert {name: row["records"] for name, row in splits.items()} == {"train": 9, "val": 5, None: 1}
    assert sum(row["hours"] for row in told["splits"]) == pytest.approx(told["hours"])
    assert sum(row["bytes"] for row in told["splits"]) == 1500
    classes = {row["label"]: row for row in told["classes"]}
    assert sum(row["records"] for row in told["classes"]) == 15
    assert told["labels"] == told["spans"] == []
    assert classes["class 0"]["splits"] == {"train": 4, "val": 3}
    assert classes[None]["splits"] == {stats.NO_VALUE: 1}
    assert told["near_duplicates"] == {"groups": 1, "records": 2}
    assert told["quarantine"]["stages"] == {"decode": 2, "probe": 1}
    assert told["quarantine"]["reasons"][0]["sources"] == 2


def test_spreads_are_of_what_is_there(data: str) -> None:
    spread = {each["name"]: each for each in stats.stats(data)["spread"]}
    assert set(spread) == {*"duration_seconds frames fps width height motion bytes".split()}
    seconds = spread["duration_seconds"]
    assert (seconds["least"], seconds["median"], seconds["most"]) == (36, 288, 540)
    assert sum(seconds["histogram"]) == seconds["count"] == 15
    assert (spread["motion"]["count"], spread["motion"]["mean"]) == (2, pytest.approx(0.6))
    assert sum(spread["fps"]["histogram"]) == 15, "all values alike"


def test_several_classes_and_those_of_frames_are_counted(tmp_path: Path) -> None:
    spans = [
        {"label": "grows", "first_frame": 0, "last_frame": 29},
        {"label": "stays", "first_frame": 30, "last_frame": 89},
        {"label": "grows", "first_frame": 90, "last_frame": 95},
    ]
    some = [*rows(4), *rows(2, split="val")]
    some[0] |= {"labels": ["class 0", "loud"]}  # its label is among them: one record all the same
    some[1] |= {"label": None, "labels": ["loud"], "spans": spans}
    some[4] |= {"spans": spans[:1]}
    catalog.save(str(tmp_path), catalog_of(some).table, {"classes": [], "counts": {}})
    told = stats.stats(str(tmp_path))
    assert {row["label"]: row["splits"] for row in told["labels"]} == {
        "class 0": {"train": 2, "val": 1}, "class 1": {"train": 1, "val": 1}, "loud": {"train": 2},
    }  # fmt: skip
    assert told["spans"] == [
        {"label": "grows", "spans": 3, "seconds": pytest.approx(2.2),
         "splits": {"train": pytest.approx(1.2), "val": pytest.approx(1.0)}},
        {"label": "stays", "spans": 1, "seconds": pytest.approx(2.0), "splits": {"train": 2.0}},
    ]  # fmt: skip
    titles = [each.title for each in stats.sections(told)]
    assert titles[2:5] == ["classes", "classes, of several a video", "classes of frames"]
    texts = [each.text for each in ElementTree.fromstring(stats.picture(told)).iter()]
    assert "loud" in texts and "longest classes of frames (s)" in texts


def test_a_part_is_counted_by_itself(data: str) -> None:
    told = stats.stats(data, where="split == 'val' and duration > 500")
    assert (told["records"], told["bytes"], len(told["splits"])) == (2, 200, 1)
    none = stats.stats(data, where="split == 'nowhere'")
    assert (none["records"], none["hours"], none["classes"], none["spread"]) == (0, 0, [], [])
    assert stats.sections(none)
    ElementTree.fromstring(stats.picture(none))


def test_tables_have_their_columns(data: str) -> None:
    sections = {each.title: each for each in stats.sections(stats.stats(data), classes=2)}
    assert list(sections) == ["", "splits", "classes", "spread", "not taken"]
    for section in sections.values():
        assert all(len(row) == len(section.columns) for row in section.rows)
    assert sections["classes"].rows[-1][0] == "2 more classes"
    assert ("with sound", "4 (27 %)") in sections[""].rows
    assert ("duplicates", 1) in sections[""].rows


@pytest.mark.parametrize(
    ("counts", "drawn"), [([0, 1, 50, 100], " ▁▄█"), ([0, 0], "  "), ([], ""), ([3], "█")]
)
def test_bars(counts: list[int], drawn: str) -> None:
    assert stats.bars(counts) == drawn


def test_the_picture_is_whole_and_safe(data: str, tmp_path: Path) -> None:
    file = tmp_path / "out" / "stats.svg"
    assert stats.plot(data, str(file))["records"] == 15
    root = ElementTree.fromstring(file.read_text())
    assert not [each for each in root.iter() if each.tag.endswith("script")]
    texts = [each.text or "" for each in root.iter()]
    assert "duration_seconds (s)" in texts
    assert any(text.startswith('<script>"&') for text in texts), "the class is shown as it is"
    assert "http" not in file.read_text().replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(UsageError, match=r"ends in \.svg"):
        stats.plot(data, str(tmp_path / "stats.png"))

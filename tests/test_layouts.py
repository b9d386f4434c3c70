"""Layouts: what a source tells of its videos comes through, and what cannot be meant is refused."""

import csv
import io
import itertools
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import shards, storage
from clipmill.errors import ClipmillError, DataError, SourceError, UsageError
from clipmill.ingest import layouts
from clipmill.ingest.layouts import Listing, Options
from clipmill.ingest.sources import Box, Source, Span

pytest_plugins = ["servers"]

Tree = Mapping[str, str | bytes]


def grow(folder: Path, files: Tree) -> Path:
    """Write files; layouts never look into a video, so any bytes do."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def videos(*names: str) -> Tree:
    return dict.fromkeys(names, b"video")


def read(source: Path | str, layout: str = "auto", **options: Any) -> Listing:
    return layouts.read(str(source), layout, options=Options(**options))


def told(listing: Listing, *fields: str) -> dict[str, Any]:
    """Fields of each source by the name of its file."""
    found = {}
    for each in listing.sources:
        values = tuple(getattr(each, field) for field in fields)
        found[storage.name_of(each.path)] = values if len(fields) > 1 else values[0]
    return found


# --- folders


def test_folders_of_splits_and_classes(tmp_path: Path) -> None:
    grow(tmp_path, videos("Train/a/1.mp4", "validation/b/c/2.MKV", "test/3.avi"))
    grow(tmp_path, {"notes.txt": "no video"})
    assert told(read(tmp_path), "split", "label") == {
        "1.mp4": ("train", "a"), "2.MKV": ("val", "b/c"), "3.avi": ("test", None),
    }  # fmt: skip
    assert told(read(tmp_path, "unlabelled"), "split", "label") == {
        name: (None, None) for name in ("1.mp4", "2.MKV", "3.avi")
    }


def test_folders_of_classes(tmp_path: Path) -> None:
    grow(tmp_path, videos("a/1.mp4", "b/2.mp4", "3.mp4"))
    assert told(read(tmp_path), "split", "label") == {
        "1.mp4": (None, "a"), "2.mp4": (None, "b"), "3.mp4": (None, None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "beside"),
    [
        (("train/a/1.mp4", "val/a/2.mp4", "extra/a/3.mp4"), "the folder 'extra'"),
        (("train/a/1.mp4", "val/a/2.mp4", "3.mp4"), "videos in no folder"),
        (("cats/1.mp4", "test/2.mp4"), "the folder 'cats'"),
    ],
)
def test_splits_beside_something_else_are_refused(
    tmp_path: Path, names: tuple[str, ...], beside: str
) -> None:
    grow(tmp_path, videos(*names))
    with pytest.raises(SourceError, match=f"the name of a split, beside {beside}"):
        read(tmp_path)


def test_folders_without_videos_do_not_count_as_classes(tmp_path: Path) -> None:
    grow(tmp_path, {**videos("train/a/1.mp4"), "docs/readme.txt": "x"})
    assert told(read(tmp_path), "split") == {"1.mp4": "train"}


def test_names_of_every_kind_are_kept(tmp_path: Path) -> None:
    names = ("with space", "100%", 'it\'s "quoted"', "two\nlines", "größe 日本 🎬", "a,b;c=d", "-x")
    all_names = (*names, "{1..3}", "a::b", "\udcff", "pipe:x")
    grow(tmp_path, videos(*(f"{name}/{name}.mp4" for name in all_names)))
    found = read(tmp_path)
    assert {each.label: each.path for each in found.sources} == {
        name: str(tmp_path / name / f"{name}.mp4") for name in all_names
    }
    assert [each.name for each in found.sources] == sorted(each.name for each in found.sources)
    braces = grow(tmp_path / "x{1,2}", videos("a/1.mp4"))
    assert told(read(braces), "label") == {"1.mp4": "a"}


def test_links_are_followed_once_and_dangling_ones_listed(tmp_path: Path) -> None:
    grow(tmp_path, videos("v/a/1.mp4", "other/2.mp4"))
    (tmp_path / "v" / "a" / "loop").symlink_to(tmp_path / "v")
    (tmp_path / "v" / "a" / "linked.mp4").symlink_to(tmp_path / "other" / "2.mp4")
    (tmp_path / "v" / "a" / "away.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "v" / "a" / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "v" / "b").symlink_to(tmp_path / "other")
    assert sorted(told(read(tmp_path / "v"), "label")) == [
        "1.mp4", "away.mp4", "linked.mp4", "self.mp4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "options", "layout", "error"),
    [
        ((), {}, "auto", "holds no videos; wanted files ending in"),
        (("Cat/1.mp4", "cat/2.mp4"), {}, "auto", "'Cat' and 'cat' differ only in case"),
        (("a/1.mp4",), {}, "nonsense", "layout 'nonsense'; wanted one of folder, unlabelled, csv"),
        (("a/1.mp4",), {"fold": 2}, "auto", "fold 2 of layout folder"),
        (("a/1.mp4",), {"fold": 4}, "ucf101", "fold 4 of layout ucf101; wanted 1 to 3"),
        (("a/1.mp4",), {"columns": {"path": "x"}}, "folder", "columns for layout folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, names: tuple[str, ...], options: dict[str, Any], layout: str, error: str
) -> None:
    grow(tmp_path, videos(*names))
    with pytest.raises(ClipmillError, match=error):
        read(tmp_path, layout, **options)


def test_a_source_that_is_not_there_or_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    for layout in ("auto", *layouts.NAMES):
        with pytest.raises(SourceError, match=r"nothing.* (is|are) not there"):
            read(tmp_path / "nothing", layout)
    grow(tmp_path, videos("1.mp4"))
    for layout in ("auto", "folder", "unlabelled", "ucf101", "hmdb51", "something"):
        with pytest.raises(SourceError, match=r"1\.mp4 is a file"):
            read(tmp_path / "1.mp4", layout)


def test_folders_in_an_object_store(root: str) -> None:
    for name in ("train/a b/1.mp4", "test/100%/2.mp4", "test/100%/notes.txt"):
        storage.put(storage.join(root, "in", name), b"video")
    assert told(read(storage.join(root, "in")), "split", "label", "path") == {
        "1.mp4": ("train", "a b", storage.join(root, "in/train/a b/1.mp4")),
        "2.mp4": ("test", "100%", storage.join(root, "in/test/100%/2.mp4")),
    }


# --- tables

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r|"), min_size=1, max_size=12)
PLAIN = TEXT.map(str.strip).filter(bool)
SECONDS = st.floats(0, 1000, allow_nan=False)
SHARE = st.floats(0.01, 0.5)
PATHS = st.uuids().map(lambda each: f"v/{each}.mp4")


def spans_of(bounds: list[float]) -> tuple[Span, ...]:
    ends = sorted(set(bounds))
    return tuple(Span("s", *pair) for pair in itertools.pairwise(ends))


@st.composite
def rows(draw: st.DrawFn) -> Source:
    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | strategy)

    times = sorted(draw(st.lists(SECONDS, min_size=2, max_size=2, unique=True)))
    masks = maybe(st.just("masks/a.zip"))
    return Source(
        draw(PATHS),
        label=maybe(st.just("one") | PLAIN.map(str.casefold).map(lambda text: f"l{len(text)}")),
        split=maybe(st.sampled_from(["train", "val", "test"])),
        attributes=draw(st.dictionaries(st.sampled_from(["speed", "größe"]), TEXT)),
        licence=maybe(PLAIN),
        labels=tuple(draw(st.lists(st.sampled_from("abc"), unique=True))),
        identity=maybe(PLAIN),
        group=maybe(PLAIN),
        start_seconds=maybe(st.just(times[0])),
        end_seconds=maybe(st.just(times[1])),
        spans=spans_of(draw(st.lists(SECONDS, max_size=4))),
        boxes=tuple(
            draw(
                st.lists(
                    st.builds(Box, SECONDS, SHARE, SHARE, SHARE, SHARE, maybe_label()), max_size=2
                )
            )
        ),
        masks=masks,
        mask_classes=("sky", "road") if masks else (),
        mask_colours=draw(st.sampled_from([{}, {"#0a0b0c": 1, "#000000": 2}])) if masks else {},
    )


def maybe_label() -> st.SearchStrategy[str | None]:
    return st.none() | PLAIN


def as_row(source: Source) -> dict[str, Any]:
    """The row of a table that tells what a source holds."""
    plain = asdict(source)
    for inner in ("name", "member", "offset", "length", "left_out", "repeat"):
        plain.pop(inner, None)
    extra = {"speed": None, "größe": None, **plain.pop("attributes")}
    if colours := plain.pop("mask_colours"):
        pairs = zip(source.mask_classes, colours, strict=True)
        extra["mask_classes"] = [f"{name}={colour}" for name, colour in pairs]
    return {**plain, **extra}


def as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        simple = all(isinstance(each, str) for each in value)
        return "|".join(value) if simple else json.dumps(value)
    return "" if value is None else str(value)


def write_separated(path: Path, rows: list[dict[str, Any]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows({name: as_text(value) for name, value in row.items()} for row in rows)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        write_separated(path, rows, "\t" if path.suffix == ".tsv" else ",")
    return path


@given(wanted=st.lists(rows(), min_size=1, max_size=4, unique_by=lambda each: each.path))
@settings(max_examples=60, deadline=None)
def test_a_table_written_is_a_table_read_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Source]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        path = write_table(folder / f"t{suffix}", [as_row(each) for each in wanted])
        found = {each.path: each for each in read(path).sources}
        for each in wanted:
            there = found[str(folder / each.path)]
            masks = each.masks and str(folder / each.masks)
            assert asdict(there) == {**asdict(each), "path": there.path, "masks": masks}, suffix


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    row = {
        "url": "https://host/v/1.mp4",
        "class": "a",
        "path": "x",
        "from": "1.5",
        "license": "MIT",
    }
    path = write_table(tmp_path / "t.csv", [row])
    columns = {"path": "url", "label": "class", "start_seconds": "from"}
    [found] = read(path, columns=columns).sources
    assert found == Source(
        "https://host/v/1.mp4", "a", attributes={"path": "x"}, start_seconds=1.5, licence="MIT"
    )
    with pytest.raises(
        SourceError, match="has the columns url, class, .*; wanted a column `klass`"
    ):
        read(path, columns={"path": "url", "label": "klass"})
    with pytest.raises(UsageError, match="columns for 'colour'; wanted names among path, label"):
        read(path, columns={"path": "url", "colour": "class"})


def test_values_of_other_types_come_as_text(tmp_path: Path) -> None:
    values = {"label": 3, "views": 4.0, "ok": True, "tags": ["x", 1], "none": None, "rate": 2.5}
    path = write_table(tmp_path / "t.jsonl", [{"path": "a.mp4", **values}])
    [found] = read(path).sources
    assert found.label == "3"
    assert found.attributes == {"views": "4", "ok": "true", "tags": '["x", 1]', "rate": "2.5"}


def test_a_row_for_each_part_of_a_video(tmp_path: Path) -> None:
    text = "path,start_seconds,end_seconds,label\na.mp4,0,1.5,x\na.mp4,1.5,,y\nb.mp4,,2,x\n"
    grow(tmp_path, {"t.csv": text})
    names = [storage.name_of(each.name) for each in read(tmp_path / "t.csv").sources]
    assert names == ["a.mp4@0-1.5", "a.mp4@1.5-", "b.mp4@0-2.0"]


BAD_ROWS = [
    ({"path": "../a.mp4"}, r"t\.jsonl, line 2: path '\.\./a\.mp4' leads outside of"),
    ({"path": "/etc/a.mp4"}, r"line 2: path '/etc/a\.mp4' leads outside of"),
    ({"path": "file:///etc/a.mp4"}, r"line 2: path 'file:.*' leads outside of"),
    ({"path": ""}, "line 2: path '' leads outside of"),
    ({"path": None}, "line 2: path '' leads outside of"),
    ({"path": 3}, "line 2: path 3 leads outside of"),
    ({"path": "a\0.mp4"}, "line 2: path .* leads outside of"),
    ({"split": "dev"}, "line 2: split 'dev'; wanted one of train, training, val"),
    ({"label": ["a"]}, r"line 2: label \['a'\]; wanted text"),
    ({"label": float("nan")}, "line 2: label nan; wanted text"),
    ({"labels": ["a", "a"]}, "line 2: labels .*; wanted different classes"),
    ({"labels": "a||b"}, "line 2: labels .*; wanted different classes"),
    ({"labels": {"a": 1}}, "line 2: labels .*; wanted different classes"),
    ({"start_seconds": -1}, "line 2: start_seconds -1; wanted a number that is not negative"),
    ({"start_seconds": "soon"}, "line 2: start_seconds 'soon'; wanted a number"),
    ({"start_seconds": float("nan")}, "line 2: start_seconds nan; wanted a number"),
    ({"end_seconds": float("inf")}, "line 2: end_seconds inf; wanted a number"),
    ({"end_seconds": True}, "line 2: end_seconds True; wanted a number"),
    ({"end_seconds": 10**400}, "line 2: end_seconds 1000.*; wanted a number"),
    ({"end_seconds": 0}, "line 2: end_seconds 0; wanted more than the start, 0"),
    ({"start_seconds": 2, "end_seconds": 2}, "line 2: end_seconds 2; wanted more than the start"),
    ({"spans": "later"}, "line 2: spans 'later' is no JSON"),
    ({"spans": "[" * 100000}, "line 2: spans .* is no JSON"),
    ({"spans": {"a": 1}}, "line 2: spans .*; wanted a list of {label, start_seconds, end_seconds}"),
    ({"spans": [{"from": 1}]}, "line 2: spans 1 has 'from'; wanted label, start_seconds"),
    ({"spans": [["s", 1, 2]]}, "line 2: spans .*; wanted a list"),
    ({"spans": [{"label": "s", "start_seconds": 1}]}, "spans 1: end_seconds None; wanted a number"),
    ({"boxes": [{"seconds": 0, "x": 0, "y": 0, "width": 2, "height": 1}]}, "boxes width 2; wanted"),
    ({"boxes": [{"seconds": 0, "x": 0.9, "y": 0, "width": 0.5, "height": 1}]}, "within it"),
    ({"boxes": [{"seconds": 0, "x": 0, "y": 0, "width": 0, "height": 1}]}, "not empty"),
    ({"boxes": [{"x": 0, "y": 0, "width": 1, "height": 1}]}, "boxes seconds None; wanted a number"),
]


@pytest.mark.parametrize(("bad", "error"), BAD_ROWS)
def test_rows_that_cannot_be_meant_are_refused_with_line_and_column(
    tmp_path: Path, bad: dict[str, Any], error: str
) -> None:
    path = write_table(tmp_path / "t.jsonl", [{"path": "a.mp4"}, {"path": "b.mp4", **bad}])
    with pytest.raises(SourceError, match=error) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spans", "error"),
    [
        ([(0, 1), (3, 2)], "spans 2 goes from 3 to 2 s; wanted an end after the start"),
        ([(1, 1)], "spans 1 goes from 1 to 1 s"),
        (
            [(2, 3), (0, 1)],
            "spans 2 starts at 0 s, before the one before it; wanted spans in order",
        ),
        ([(-1, 1)], "spans 1: start_seconds -1.0; wanted a number that is not negative"),
        ([(0, float("nan"))], "spans 1: end_seconds nan; wanted a number"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_spans_that_cannot_be_are_refused_by_name(
    tmp_path: Path, spans: list[tuple[float, float]], error: str, suffix: str
) -> None:
    parts = [{"label": "s", "start_seconds": float(a), "end_seconds": float(b)} for a, b in spans]
    path = write_table(tmp_path / f"t{suffix}", [{"path": "a.mp4", "spans": parts}])
    place = {".jsonl": "line 1", ".parquet": "row 1"}.get(suffix, "line 2")
    with pytest.raises(SourceError, match=f"t{suffix}, {place}: {error}"):
        read(path)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("t.csv", b"file,label\na.mp4,x\n", r"has the columns file, label; wanted a column `path`"),
        ("t.csv", b"", r"has the columns none; wanted a column `path`"),
        ("t.csv", b"path,label\na.mp4,caf\xe9\n", r"is no table: .*; wanted CSV in UTF-8"),
        ("t.csv", b'path,label\n"a.mp4,x\n', r"is no table: "),
        ("t.csv", b"path,label\na.mp4,x,y\n", "is no table: line 2 has more cells"),
        ("t.csv", b"path,label,label\na.mp4,x,y\n", "has two columns 'label'"),
        ("t.csv", b"path\n", r"holds no videos"),
        ("t.csv", b"path,label\na.mp4,Cat\na.mp4,cat\n", r"'Cat' and 'cat' differ only in case"),
        ("t.csv", b"path,labels\na.mp4,x|Cat\nb.mp4,cat\n", r"'Cat' and 'cat' differ only in case"),
        ("t.jsonl", b'{"path": "a.mp4"}\n{"path"\n', "is no table: line 2 is no JSON"),
        ("t.jsonl", b"\n[1]\n", "is no table: line 2 holds a list, not an object"),
        ("t.parquet", b"PAR1", "is no table: .*; wanted Parquet"),
        ("t.tsv", b"path,label\na.mp4,x\n", "has the columns path,label; wanted a column `path`"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(
    tmp_path: Path, name: str, text: bytes, error: str
) -> None:
    grow(tmp_path, {name: text})
    with pytest.raises(SourceError, match=error):
        read(tmp_path / name)


def test_a_table_in_an_object_store(root: str) -> None:
    text = 'path,label\nv/a b.mp4,x\n"s3://other/c.mp4",y\n'
    storage.put(storage.join(root, "in", "t.csv"), text.encode())
    assert told(read(storage.join(root, "in", "t.csv")), "path", "label") == {
        "a b.mp4": (storage.join(root, "in/v/a b.mp4"), "x"), "c.mp4": ("s3://other/c.mp4", "y"),
    }  # fmt: skip
    for path in ("../out.mp4", "/out.mp4", "v/../../out.mp4", ".", "a/../../inn/x.mp4"):
        storage.put(storage.join(root, "in", "t.csv"), f"path\n{path}\n".encode())
        with pytest.raises(SourceError, match="line 2: path .* leads outside of"):
            read(storage.join(root, "in", "t.csv"))


def test_a_table_on_a_web_server(site: str) -> None:
    [found] = read(f"{site}/table.csv?token=a").sources
    assert (found.path, found.label) == (f"{site}/ranged.mp4", "a")


# --- UCF101


def ucf101(folder: Path, **changes: str) -> Path:
    lists = {
        "classInd.txt": "1 Archery\n2 Biking\n",
        "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\nBiking/v_Biking_g09_c01.avi 2\r\n",
        "testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
        "trainlist02.txt": "Archery/v_Archery_g01_c01.avi 1\n",
        "testlist02.txt": "Biking/v_Biking_g09_c01.avi\n",
        **{f"{name}.txt": text for name, text in changes.items()},
    }
    return grow(folder, {f"ucfTrainTestlist/{name}": text for name, text in lists.items()})


UCF = (
    "Archery/v_Archery_g08_c01.avi",
    "Archery/v_Archery_g01_c01.avi",
    "Biking/v_Biking_g09_c01.avi",
    "Biking/v_Biking_g10_c01.avi",
)


@pytest.mark.parametrize("place", ["", "UCF-101/"])
def test_ucf101_takes_the_split_of_its_fold(tmp_path: Path, place: str) -> None:
    grow(ucf101(tmp_path), videos(*(place + name for name in UCF)))
    for source in (tmp_path, tmp_path / place):
        found = read(source, "ucf101")
        assert told(found, "label", "split", "group", "left_out") == {
            "v_Archery_g08_c01.avi": ("Archery", "train", "Archery_g08", ""),
            "v_Archery_g01_c01.avi": ("Archery", "test", "Archery_g01", ""),
            "v_Biking_g09_c01.avi": ("Biking", "train", "Biking_g09", ""),
            "v_Biking_g10_c01.avi": (None, None, None, "on none of the lists of split 1"),
        }
        assert found.warnings == []
    assert told(read(tmp_path, "ucf101", fold=2), "split") == {
        "v_Archery_g08_c01.avi": None, "v_Archery_g01_c01.avi": "train",
        "v_Biking_g09_c01.avi": "test", "v_Biking_g10_c01.avi": None,
    }  # fmt: skip


def test_listed_videos_that_are_not_there_are_counted(tmp_path: Path) -> None:
    grow(ucf101(tmp_path), videos(*UCF[1:]))
    assert read(tmp_path, "ucf101").warnings == [
        "1 of the 3 videos of the lists of split 1 are not there, such as "
        "Archery/v_Archery_g08_c01.avi"
    ]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"testlist01": "Archery/v_Archery_g08_c02.avi\n"}, "line 1: Archery_g08 is in the splits train and test"),
        ({"testlist01": "Biking/clip.avi\nArchery"}, "testlist01.txt, line 2: 'Archery'; wanted CLASS/VIDEO"),
        ({"testlist01": "Rowing/v_Rowing_g01_c01.avi"}, "line 1: class 'Rowing'.*; wanted a class of classInd"),
        ({"trainlist01": "Archery/v_Archery_g08_c01.avi 2"}, "class 'Archery', number 2; wanted"),
        ({"classInd": "Archery 1"}, "classInd.txt, line 1: 'Archery 1'; wanted a number and a class"),
    ],
)  # fmt: skip
def test_lists_of_ucf101_that_cannot_be_meant_are_refused(
    tmp_path: Path, changes: dict[str, str], error: str
) -> None:
    grow(ucf101(tmp_path, **changes), videos(*UCF))
    with pytest.raises(SourceError, match=error):
        read(tmp_path, "ucf101")


def test_ucf101_without_its_lists_or_its_videos_is_refused(tmp_path: Path) -> None:
    grow(tmp_path / "a", videos(*UCF))
    with pytest.raises(
        SourceError, match=r"has no trainlist01\.txt; wanted folders of classes and"
    ):
        read(tmp_path / "a", "ucf101")
    grow(ucf101(tmp_path / "b"), videos("x/1.avi"))
    with pytest.raises(SourceError, match="none of the 3 videos of the lists of split 1 is in"):
        read(tmp_path / "b", "ucf101")
    grow(ucf101(tmp_path / "c"), videos(*UCF, "again/" + UCF[0]))
    with pytest.raises(SourceError, match=r"are both Archery/v_Archery_g08_c01\.avi"):
        read(tmp_path / "c", "ucf101")


def test_ucf101_in_an_object_store(root: str, tmp_path: Path) -> None:
    grow(ucf101(tmp_path), videos(*UCF))
    for path in storage.list_files(str(tmp_path)):
        name = storage.below(path, str(tmp_path))
        storage.put(storage.join(root, "ucf", name), storage.read(path))
    here, there = read(tmp_path, "ucf101"), read(storage.join(root, "ucf"), "ucf101")
    assert told(here, "label", "split", "group") == told(there, "label", "split", "group")


# --- HMDB51

HMDB = {
    "testTrainMulti_7030_splits/run_test_split1.txt": "a b_1.avi 1 \n#2(x).avi 2 \nc.avi 0 \n",
    "testTrainMulti_7030_splits/run_test_split2.txt": "a b_1.avi 2 \n",
    "testTrainMulti_7030_splits/brush_hair_test_split1.txt": "c.avi 2 \ngone.avi 1 \n",
}
HMDB_VIDEOS = ("run/a b_1.avi", "run/#2(x).avi", "run/d.avi", "brush_hair/c.avi")


def test_hmdb51_takes_the_split_of_its_fold(tmp_path: Path) -> None:
    grow(tmp_path, {**HMDB, **videos(*HMDB_VIDEOS, "run/c.avi")})
    found = read(tmp_path, "hmdb51")
    by_path = {storage.below(each.path, str(tmp_path)): each for each in found.sources}
    assert {n: (e.label, e.split, e.left_out) for n, e in by_path.items()} == {
        "run/a b_1.avi": ("run", "train", ""), "run/#2(x).avi": ("run", "test", ""),
        "run/c.avi": ("run", None, "not used in split 1"),
        "run/d.avi": (None, None, "on none of the lists of split 1"),
        "brush_hair/c.avi": ("brush_hair", "test", ""),
    }  # fmt: skip
    assert found.warnings == [
        "1 of the 5 videos of the lists of split 1 are not there, such as brush_hair/gone.avi"
    ]
    assert told(read(tmp_path, "hmdb51", fold=2), "split")["a b_1.avi"] == "test"
    with pytest.raises(SourceError, match=r"has no list such as brush_hair_test_split3\.txt"):
        read(tmp_path, "hmdb51", fold=3)


@pytest.mark.parametrize("line", ["a.avi 3", "a.avi", "1", "a.avi one"])
def test_lists_of_hmdb51_that_cannot_be_meant_are_refused(tmp_path: Path, line: str) -> None:
    lists = {"testTrainMulti_7030_splits/run_test_split1.txt": f"b.avi 1\n{line}\n"}
    grow(tmp_path, {**lists, **videos("run/a.avi", "run/b.avi")})
    with pytest.raises(SourceError, match=f"split1.txt, line 2: '{line}'; wanted VIDEO and 1"):
        read(tmp_path, "hmdb51")


# --- Kinetics

KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    "abseiling,-a_b,10,20,train,0\n"
    "abseiling,whole,3,13.5,validate,0\n"
    "air drumming,nested,0,10,test,1\n"
    "air drumming,gone,0,10,test,1\n"
)
KINETICS_VIDEOS = ("v/-a_b_000010_000020.mp4", "whole.webm", "x/air drumming/nested.mkv", "no.mp4")


def test_kinetics_cuts_what_is_not_cut(tmp_path: Path) -> None:
    grow(tmp_path, {"k.csv": KINETICS, **videos(*KINETICS_VIDEOS)})
    for source in (tmp_path, tmp_path / "k.csv"):
        found = read(source, "kinetics")
        assert told(found, "label", "split", "group", "start_seconds", "end_seconds", "left_out") == {
            "-a_b_000010_000020.mp4": ("abseiling", "train", "-a_b", None, None, ""),
            "whole.webm": ("abseiling", "val", "whole", 3.0, 13.5, ""),
            "nested.mkv": ("air drumming", "test", "nested", 0.0, 10.0, ""),
            "no.mp4": (None, None, None, None, None, "in no row of the table"),
        }  # fmt: skip
        assert found.warnings == ["1 of the 4 videos of the table are not there, such as gone"]
        assert {key for each in found.sources for key in each.attributes} == set()


def test_kinetics_takes_several_clips_of_a_video_and_one_of_several_files(tmp_path: Path) -> None:
    text = "label,youtube_id,time_start,time_end\na,x,0,10\nb,x,10,20\n"
    grow(tmp_path, {"k.csv": text, **videos("x.mp4")})
    found = read(tmp_path / "k.csv", "kinetics").sources
    assert [(each.label, each.start_seconds) for each in found] == [("a", 0.0), ("b", 10.0)]
    grow(tmp_path, videos("a/x.mp4", "b/x.mp4"))
    listing = read(tmp_path / "k.csv", "kinetics")
    taken = {storage.below(each.path, str(tmp_path)): each.label for each in listing.sources}
    assert taken == {"a/x.mp4": "a", "b/x.mp4": "b", "x.mp4": None}
    grow(tmp_path, videos("c/a/x.mp4"))
    assert read(tmp_path / "k.csv", "kinetics").warnings == [
        "1 clips have several files, such as x: one is taken"
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("path,label\nx.mp4,a\n", "has the columns path, label; wanted a column `youtube_id`"),
        (
            "youtube_id,time_start,time_end\nx,soon,9\n",
            "line 2: time_start 'soon'; wanted a number",
        ),
        (
            "youtube_id,time_start,time_end\nx,9,8\n",
            "line 2: time_end 8; wanted more than the start",
        ),
        ("youtube_id,label\n,a\n", "line 2: youtube_id ''; wanted the number of a video"),
        ("youtube_id,label\ny,a\n", r"none of the 1 videos of the table is at .* \(y\)"),
    ],
)
def test_tables_of_kinetics_that_cannot_be_meant_are_refused(
    tmp_path: Path, text: str, error: str
) -> None:
    grow(tmp_path, {"k.csv": text, **videos("x.mp4")})
    with pytest.raises(SourceError, match=error):
        read(tmp_path, "kinetics")


# --- Something-Something

TEMPLATE = "Holding [something] next to [something]"
SOMETHING: dict[str, Any] = {
    "labels": {"Holding something next to something": "0"},
    "train": [
        {"id": "1", "label": "holding a cup next to a box", "template": TEMPLATE,
         "placeholders": ["a cup", "a box"]},
        {"id": "4", "label": "gone", "template": TEMPLATE, "placeholders": []},
    ],
    "validation": [{"id": 2, "template": TEMPLATE}],
    "test": [{"id": "3"}],
}  # fmt: skip


def something(folder: Path, prefix: str, **changes: Any) -> Path:
    lists = {**SOMETHING, **changes}
    return grow(folder, {f"{prefix}{name}.json": json.dumps(v) for name, v in lists.items()})


@pytest.mark.parametrize("prefix", ["labels/", "something-something-v2-"])
def test_something_tells_classes_by_template(tmp_path: Path, prefix: str) -> None:
    something(tmp_path, prefix)
    grow(tmp_path, videos("v/1.webm", "v/2.webm", "v/3.webm", "v/5.webm"))
    label = "Holding something next to something"
    said = {"placeholders": "a cup|a box", "caption": "holding a cup next to a box"}
    found = read(tmp_path, "something")
    assert told(found, "label", "split", "attributes", "left_out") == {
        "1.webm": (label, "train", said, ""), "2.webm": (label, "val", {}, ""),
        "3.webm": (None, "test", {}, ""), "5.webm": (None, None, {}, "on none of the lists"),
    }  # fmt: skip
    assert found.warnings == ["1 of the 4 videos of the lists are not there, such as 4"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"train": {"id": "1"}}, "holds a dict; wanted a JSON list"),
        ({"train": [{"label": "x"}]}, "train.json, entry 1: .*; wanted an object with id"),
        ({"train": ["1"]}, "train.json, entry 1: .*; wanted an object with id"),
        ({"train": [{"id": "1", "template": "Dropping [something]"}]}, "the class 'Dropping something'"),
        ({"train": [{"id": "1", "placeholders": "x"}]}, "placeholders 'x'; wanted a list"),
        ({"test": [{"id": "1"}]}, "entry 1: 1 again; wanted each video once"),
    ],
)  # fmt: skip
def test_lists_of_something_that_cannot_be_meant_are_refused(
    tmp_path: Path, changes: dict[str, Any], error: str
) -> None:
    grow(something(tmp_path, "", **changes), videos("1.webm"))
    with pytest.raises(SourceError, match=error):
        read(tmp_path, "something")


def test_something_without_lists_is_refused(tmp_path: Path) -> None:
    grow(tmp_path, {**videos("1.webm"), "labels.json": "{}"})
    with pytest.raises(SourceError, match="has none of the lists; wanted train"):
        read(tmp_path, "something")


# --- WebDataset


def pack(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def by_member(listing: Listing) -> dict[str, Source]:
    return {each.member or "": each for each in listing.sources}


def bytes_of(source: Source) -> bytes:
    assert source.offset is not None and source.length is not None
    return storage.read_range(source.path, source.offset, source.length)


def test_shards_of_video2dataset(tmp_path: Path) -> None:
    about = {
        "url": "https://host/1", "caption": "a cat", "key": "000000000", "status": "success",
        "error_message": None, "width": 640, "yt_meta_dict": {"info": {"title": "x"}},
        "license": "CC0",
    }  # fmt: skip
    tar = pack(
        tmp_path / "00000.tar",
        [
            ("000000000.json", json.dumps(about).encode()), ("000000000.mp4", b"one"),
            ("000000000.txt", b"a cat"), ("000000001.mp4", b"other video"),
            ("000000002.txt", b"nothing to see"),
        ],
    )  # fmt: skip
    found = read(tar)
    one, other = by_member(found)["000000000.mp4"], by_member(found)["000000001.mp4"]
    assert (bytes_of(one), bytes_of(other)) == (b"one", b"other video")
    assert (one.label, one.licence, other.label) == (None, "CC0", None)
    assert one.attributes == {
        "url": "https://host/1", "caption": "a cat", "key": "000000000", "status": "success",
        "width": "640",
    }  # fmt: skip
    assert found.warnings == [f"1 members or samples hold no video, such as {tar}#000000002"]
    mapped = by_member(read(tar, columns={"label": "caption"}))
    assert mapped["000000000.mp4"].label == "a cat"


def test_where_a_class_may_stand(tmp_path: Path) -> None:
    members = [
        ("a.mp4", b""), ("a.cls", b"3\n"), ("b.MP4", b""), ("b.txt", b"running"),
        ("c.mp4", b""), ("c.json", b'{"label": 4, "split": "validation"}'), ("c.txt", b"words"),
        ("d.mp4", b""), ("d.json", b'{"label": "x"}'), ("d.cls", b"7"),
        ("e/f.seg.mp4", b""), ("e/f.json", b'{"labels": ["p", "q"], "boxes": [[1, 2]]}'),
    ]  # fmt: skip
    found = by_member(read(pack(tmp_path / "x.tar", members)))
    assert {name: each.label for name, each in found.items()} == {
        "a.mp4": "3", "b.MP4": "running", "c.mp4": "4", "d.mp4": "x", "e/f.seg.mp4": None,
    }  # fmt: skip
    assert found["c.mp4"].split == "val" and found["c.mp4"].attributes == {"caption": "words"}
    assert found["d.mp4"].attributes == {"cls": "7"}
    assert found["e/f.seg.mp4"].labels == ("p", "q") and not found["e/f.seg.mp4"].boxes


def test_our_own_shards_come_back(tmp_path: Path) -> None:
    about = {
        "label": "a", "labels": ["a", "b"], "split": "test", "licence": "CC0",
        "attributes": {"speed": "3", "label": "inner"}, "source": "/v/1.mp4", "source_sha256": "0",
    }  # fmt: skip
    members = {"mp4": b"video", "json": json.dumps(about).encode(), "idx": b"index"}
    shards.write(str(tmp_path / "train-00000.tar"), [shards.Record("k", members)])
    [found] = read(tmp_path).sources
    assert (found.label, found.labels, found.split) == ("a", ("a", "b"), "test")
    assert found.licence == "CC0"
    assert found.attributes == {"speed": "3", "label": "inner"}
    assert bytes_of(found) == b"video"


def test_tars_by_pattern_by_folder_and_by_list(tmp_path: Path) -> None:
    for number in range(3):
        pack(tmp_path / f"x-{number:03d}.tar", [(f"k{number}.mp4", b"%d" % number)])
    for source in (
        tmp_path,
        tmp_path / "x-{000..002}.tar",
        f"{tmp_path}/x-00{{0,1}}.tar::{tmp_path}/x-002.tar",
    ):
        found = read(source)
        assert [bytes_of(each) for each in found.sources] == [b"0", b"1", b"2"]
        assert {each.split for each in found.sources} == {None}
    with pytest.raises(SourceError, match=r"2 of 5 tars of .* are not there, such as .*x-003\.tar"):
        read(tmp_path / "x-{000..004}.tar")
    pack(tmp_path / "odd{1}.tar", [("k.mp4", b"")])
    assert len(read(tmp_path / "odd{1}.tar").sources) == 1


def test_splits_by_the_names_of_all_tars(tmp_path: Path) -> None:
    pack(tmp_path / "a" / "train-0.tar", [("k.mp4", b"1")])
    pack(
        tmp_path / "a" / "val" / "0.tar",
        [("k.mp4", b"2"), ("l.mp4", b""), ("l.json", b'{"split":"test"}')],
    )
    found = read(tmp_path / "a").sources
    assert [each.split for each in found] == ["train", "val", "test"]
    pack(tmp_path / "a" / "more.tar", [("k.mp4", b"3")])
    assert {each.split for each in read(tmp_path / "a").sources} == {None, "test"}


@pytest.mark.parametrize("source", ["pipe:touch {0}", " pipe:cat {0}", "-", "{{pipe:touch {0},x}}"])
@pytest.mark.parametrize("layout", ["auto", "webdataset"])
def test_commands_are_refused(tmp_path: Path, source: str, layout: str) -> None:
    made = tmp_path / "made"
    with pytest.raises(SourceError, match="is a command|are not there"):
        read(source.format(made), layout)
    assert not made.exists()


def test_a_pattern_that_makes_a_command_is_refused() -> None:
    from clipmill.ingest.layouts import tars

    with pytest.raises(SourceError, match="'pipe:b' is a command"):
        tars.tars_of("{a,pipe:b}")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        (["a.mp4", "b.mp4", "a.json"], "the members of a are not adjacent"),
        (["a.mp4", "a.MP4"], r"holds a\.MP4 twice"),
        (["../a.mp4"], "leads out of the tar"),
        (["/a.mp4"], "leads out of the tar"),
    ],
)
def test_tars_that_cannot_be_meant_are_refused(
    tmp_path: Path, members: list[str], error: str
) -> None:
    tar = pack(tmp_path / "x.tar", [(name, b"{}") for name in members])
    with pytest.raises(ClipmillError, match=f"x.tar.*{error}"):
        read(tar)


def test_links_in_tars_are_refused_and_folders_passed_over(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "v", "v")
    assert by_member(read(tmp_path / "x.tar")).keys() == {"v/a.mp4"}
    (tmp_path / "v" / "b.mp4").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        tar.add(tmp_path / "v", "v")
    with pytest.raises(DataError, match=r"y\.tar: v/b\.mp4 is not a plain file"):
        read(tmp_path / "y.tar")


def test_a_tar_cut_anywhere_is_named(tmp_path: Path) -> None:
    whole = pack(tmp_path / "x.tar", [("a.mp4", b"1" * 700), ("b.mp4", b"2")]).read_bytes()
    last = len(whole.rstrip(b"\0"))
    for length in (0, 100, 512, 600, 1024, 1535, 1536, 2048, last):
        cut = grow(tmp_path, {"cut.tar": whole[:length]}) / "cut.tar"
        with pytest.raises(DataError, match=r"cut\.tar"):
            read(cut)


def test_packed_tars_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.mp4"))
    with pytest.raises(SourceError, match=r"x\.tar\.gz is packed; wanted plain \.tar files"):
        read(tmp_path, "webdataset")
    os.rename(tmp_path / "x.tar.gz", tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"x\.tar is not a whole tar"):
        read(tmp_path / "x.tar")


def test_a_sample_with_bad_words_beside_it_is_left_out(tmp_path: Path) -> None:
    members = [("a.mp4", b"1"), ("a.json", b"{"), ("b.mp4", b"2"), ("b.json", b"[]")]
    members += [("c.mp4", b"3"), ("c.cls", b"\xff"), ("d.mp4", b"4"), ("d.cls", b"x")]
    found = by_member(read(pack(tmp_path / "x.tar", members)))
    left = {name: each.left_out for name, each in found.items()}
    assert left["a.mp4"].startswith("the members beside a: Expecting property name")
    assert "JSON holds a list" in left["b.mp4"] and "'utf-8' codec" in left["c.mp4"]
    assert left["d.mp4"] == "" and found["d.mp4"].label == "x"


def test_tars_in_an_object_store(root: str, tmp_path: Path) -> None:
    for number in range(3):
        made = pack(tmp_path / "x.tar", [("k.mp4", b"%d" % number * 100000), ("k.cls", b"7")])
        storage.put(storage.join(root, "tars", f"{number}.tar"), made.read_bytes())
    for source in ("tars", "tars/{0..2}.tar"):
        found = read(storage.join(root, source))
        assert [bytes_of(each)[:1] for each in found.sources] == [b"0", b"1", b"2"]
        assert {each.label for each in found.sources} == {"7"}


names = st.lists(
    st.tuples(
        st.from_regex(r"[a-z0-9_/]{1,120}[a-z0-9_]", fullmatch=True), st.binary(max_size=1500)
    ),
    max_size=5,
    unique_by=lambda pair: pair[0].lower(),
)


@given(
    packed=names,
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=40, deadline=None)
def test_members_lie_where_the_headers_say(
    tmp_path_factory: pytest.TempPathFactory, packed: list[tuple[str, bytes]], form: int
) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    written = {}
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in packed:
            info = tarfile.TarInfo(f"k{name}.mp4".replace("//", "/"))
            info.size = len(data)
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # the oldest format has no room for some names
                continue
            written[info.name] = data
    found = {
        name: storage.read_range(str(path), offset, length)
        for name, offset, length in shards.members(str(path))
    }
    assert found == written

"""The browse page: all of a dataset in one file, whatever its names hold, and nothing else runs."""

import base64
import hashlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill import browse, catalog, shards, video
from clipmill.errors import UsageError
from clipmill.video.picture import jpeg
from tiny import catalog_of, moving, rows

HOSTILE = """<script>alert('1')</script>"><img src=x onerror=alert(2)> ' & \u202etxt {{records}}"""
SHOWN = HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.policy = ""
        self.feed(text)
        assert self.inside == [], "an element was left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.inside[-1] if self.inside else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]


def member_rows(folder: Path) -> list[dict[str, Any]]:
    """Write five records into a shard: with sound, upright, without index, with a hole, plain."""
    tone = np.sin(np.arange(16_000) / 10).astype(np.float32) * 0.5
    made: dict[str, dict[str, bytes]] = {}
    some = rows(5)
    for number, row in enumerate(some):
        frames = moving(number, 2, frames=20)
        if number == 1:
            frames = [frame[:, :24] for frame in frames]
        path = folder / "one.mp4"
        video.encode(str(path), frames, fps=10, audio=tone if number == 0 else None)
        encoded, told = video.transcode(path.read_bytes(), video.Profile(short_side=48))
        index = video.index_of(encoded)
        assert index is not None
        made[row["key"]] = {"mp4": encoded, **({} if number == 2 else {"idx": index.packed()})}
        row |= {name: getattr(told, name) for name in ("frames", "fps", "width", "height")}
        row |= {"has_audio": told.has_audio, "duration_seconds": told.duration_seconds}
    placed = shards.write(str(folder / "data" / "a.tar"), [shards.Record(*item) for item in made.items()])  # fmt: skip
    where = {each.key: each.members for each in placed}
    return [{**row, "shard": "a.tar", "members": where[row["key"]]} for row in some]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browse")
    (folder / "data").mkdir()
    some = member_rows(folder)
    for member in some[3]["members"]:
        member["offset"] += 1000
    spans = [{"label": HOSTILE, "first_frame": 0, "last_frame": 9}]
    some[0] |= {"label": HOSTILE, "source": f"videos/{HOSTILE}.mp4", "spans": spans, "motion": 0.25}
    some[1] |= {
        "label": None,
        "split": None,
        "attributes": [(HOSTILE, HOSTILE)],
        "licence": HOSTILE,
    }
    meta = {"classes": ["class 0", "class 1"], "counts": {}}
    catalog.save(str(folder / "data"), catalog_of(some).table, meta)
    ledger = {"source": [HOSTILE, "b"], "stage": ["probe", "decode"], "reason": [HOSTILE, "cut"],
              "start_seconds": [None, 1.5]}  # fmt: skip
    pq.write_table(pa.table(ledger), folder / "data" / "quarantine.parquet")
    return str(folder / "data")


@pytest.fixture(scope="module")
def told(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    steps: list[tuple[str, int, int]] = []
    out = tmp_path_factory.mktemp("page") / "page.html"
    made = browse.browse(data, str(out), progress=lambda *step: steps.append(step))
    assert steps == [("drawing records", place, 5) for place in range(1, 6)]
    return made


@pytest.fixture(scope="module")
def page(told: dict[str, Any]) -> Page:
    return Page(Path(told["page"]).read_text())


def test_counts_are_told(told: dict[str, Any], page: Page) -> None:
    names = ("records", "of", "unreadable", "quarantined")
    assert [told[name] for name in names] == [5, 5, 1, 2]
    assert told["bytes"] == Path(told["page"]).stat().st_size
    assert page.text("button")[:2] == ["Records (5)", "Not taken (2)"]
    assert "5 records." in page.text("p")


def test_names_are_shown_and_never_run(page: Page, told: dict[str, Any]) -> None:
    text = Path(told["page"]).read_text()
    assert len(page.all("script")) == text.count("<script>") == 1
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert str(attributes.get(name, "data:")).startswith("data:"), attributes
    assert page.text("strong")[0] == SHOWN
    assert page.text("option").count(SHOWN) == 1
    labels = [row["data-label"] for row in page.all("tr") if "data-label" in row]
    assert labels == [SHOWN, "", "class 0", "class 1", "class 0"]
    assert {SHOWN, f"videos/{SHOWN}.mp4", f"{SHOWN} 0–9"} <= {t for _, t in page.texts}
    assert "\u202e" not in text


def test_the_policy_allows_the_pages_own_script_and_style_alone(page: Page) -> None:
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert (rules["default-src"], rules["img-src"]) == (["'none'"], ["data:"])
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        digest = hashlib.sha256("".join(page.text(tag)).encode()).digest()
        assert rules[name] == [f"'sha256-{base64.b64encode(digest).decode()}'"]


def test_pictures_are_the_records_frames(page: Page, data: str) -> None:
    loaded = catalog.load(data)
    images = page.all("img")
    assert len(images) == 4, "one record cannot be read"
    assert [f for f in page.text("p") if "cannot be shown" in f]
    for image, place in zip(images, (0, 1, 2, 4), strict=True):
        row = loaded.row(place)
        raw = base64.b64decode(str(image["src"]).removeprefix("data:image/jpeg;base64,"))
        strip = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        height, width = strip.shape[0], (strip.shape[1] - 5 * browse.GAP) // 6
        assert height == browse.FRAME_HEIGHT
        assert width == (browse.FRAME_HEIGHT // 2 if place == 1 else browse.FRAME_HEIGHT)
        last = int(5.5 * row["frames"] / 6)
        shown = strip[:, -width:].astype(int)
        apart = [
            np.abs(shown - video.decode_frames(loaded.read(row), [at], short_side=width)[0]).mean()
            for at in (last, 0)
        ]
        assert apart[0] < 12 and apart[1] > 2 * apart[0], "not the frame that it should be"
        assert str(image["alt"]).startswith("6 pictures of ")


def test_sound_is_drawn_where_there_is_some(page: Page) -> None:
    (svg,) = page.all("svg")
    assert svg["role"] == "img" and svg["aria-label"]
    (path,) = page.all("path")
    points = [p.split() for p in str(path["d"])[1:-1].split("L")]
    assert len(points) == 2 * browse.WAVE_COLUMNS
    heights = [browse.WAVE_HEIGHT / 2 - float(y) for _, y in points[: browse.WAVE_COLUMNS]]
    # Half as loud as can be for the first second of two, then nothing.
    assert np.median(heights[10:70]) == pytest.approx(14 * 0.5**0.5, abs=0.5)
    assert max(heights[90:]) < 1


def test_it_can_be_worked_without_a_mouse_and_without_sight(page: Page) -> None:
    tabs = [button for button in page.all("button") if button.get("role") == "tab"]
    assert [tab["aria-controls"] for tab in tabs] == ["records", "ledger"]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name in ("aria-controls", "aria-labelledby"):
            assert attributes.get(name, "records") in ids
    assert all(image["alt"] for image in page.all("img"))
    assert all(heading["scope"] == "col" for heading in page.all("th"))
    assert [p for p in page.all("p") if p.get("role") == "status"]
    assert page.all("html") == [{"lang": "en"}]


def test_measured_columns_alone_are_shown(page: Page) -> None:
    headings = page.text("button")
    assert "motion" in headings and "silence" not in headings


def test_only_pages_of_ours_are_written_over(data: str, tmp_path: Path) -> None:
    out = tmp_path / "p.html"
    browse.browse(data, str(out), where="split == 'train'", limit=1)
    assert browse.browse(data, str(out), limit=1)["records"] == 1
    for content in (b"", b"<!doctype html>" + b" " * 9000):
        out.write_bytes(content)
        with pytest.raises(UsageError, match="no page of ours"):
            browse.browse(data, str(out))
        assert out.read_bytes() == content
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="no page of ours"):
        browse.browse(data, str(tmp_path / "folder.html"))
    for bad, told in [
        (f"{data}/page.html", "lies in the dataset"),
        (str(tmp_path / "a.txt"), r"ends in \.html"),
    ]:
        with pytest.raises(UsageError, match=told):
            browse.browse(data, bad)
    with pytest.raises(UsageError, match="limit of 0"):
        browse.browse(data, str(tmp_path / "q.html"), limit=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "p.html"]


def test_a_long_ledger_is_cut_and_says_so(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "LEDGER_ROWS", 1)
    made = browse.browse(data, str(tmp_path / "p.html"), limit=1)
    text = Page(Path(made["page"]).read_text()).text("p")
    assert "The first 1 of 2; the rest is in quarantine.parquet." in text
    assert any(t.startswith("1 of 5 records, chosen by chance (seed 0)") for t in text)


def test_a_sample_gives_every_class_and_split_its_turn() -> None:
    some = [
        *rows(900, classes=1),
        *({**row, "label": "rare"} for row in rows(5)),
        *rows(95, classes=3, split="val"),
    ]
    part = catalog_of(some)
    chosen = browse.fair_sample(part, 45, 0)
    assert chosen.tolist() == sorted(set(chosen.tolist())) and len(chosen) == 45
    counts = Counter((some[at]["split"], some[at]["label"]) for at in chosen)
    assert counts["train", "rare"] == 5
    assert set(counts.values()) == {5, 10} and len(counts) == 5
    assert browse.fair_sample(part, 45, 0).tolist() == chosen.tolist()
    assert browse.fair_sample(part, 45, 1).tolist() != chosen.tolist()
    assert browse.fair_sample(part, 5000, 0).tolist() == list(range(1000))
    assert (
        len({(some[at]["split"], some[at]["label"]) for at in browse.fair_sample(part, 5, 3)}) == 5
    )


def test_jpeg_keeps_colours() -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 200, 30
    seen = cv2.imdecode(np.frombuffer(jpeg(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(seen.astype(int) - picture).max() < 6
    assert len(jpeg(picture, 20)) <= len(jpeg(picture, 95))
    for bad in (picture.astype(float), picture[..., 0], picture[:0]):
        with pytest.raises(UsageError, match="wanted uint8"):
            jpeg(bad)
    with pytest.raises(UsageError, match="quality 0"):
        jpeg(picture, 0)

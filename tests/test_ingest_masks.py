"""Masks from beside a video to what a network sees: on the very pixels that they were drawn for."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from clipmill import augment, catalog, feed, ingest, stats, storage, video, worlds
from clipmill import plan as plans
from clipmill.errors import PlanError, SourceError, VideoError
from clipmill.feed import OfFile, Share
from clipmill.ingest import Options, arrange, masks
from clipmill.ingest.examine import Examined, Piece
from clipmill.ingest.sources import Source
from clipmill.plan import Plan, making
from clipmill.plugin import Decoded, Info, Plugin, Sample
from clipmill.takes import View
from clipmill.video import Masks, mask_source, zipped_masks
from test_video import written

FRAMES, HEIGHT, WIDTH = 12, 48, 80
LIGHTS = np.array([0, 120, 240], np.uint8)  # of each class
TOLD = {"path": "a.mp4", "masks": "a.masks.zip", "mask_classes": "dim|bright", "split": "train"}


def drawn() -> Masks:
    """Two things of each class that go across, the bright ones in front."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    classes, things = (np.zeros((FRAMES, HEIGHT, WIDTH), kind) for kind in (np.uint8, np.int16))
    for at in range(FRAMES):
        for thing, (top, left) in enumerate(
            ((4, 3 * at), (20, 60 - 4 * at), (9, 2 * at), (30, 30))
        ):
            inside = ((rows - top) // 14 == 0) & ((columns - left - rows // 3) // 17 == 0)
            classes[at][inside], things[at][inside] = 1 + thing // 2, thing + 1
    return Masks(classes, things)


DRAWN = drawn()


def film(**options: Any) -> bytes:
    """The video whose light tells the class of each pixel."""
    frames = np.repeat(LIGHTS[DRAWN.classes][..., None], 3, -1)
    if turns := options.get("rotation", 0) // 90:
        frames = np.ascontiguousarray(np.rot90(frames, turns, (1, 2)))
    return written(frames, options={"crf": "1"}, fps=10, **options)


def told(folder: Path, *rows: Mapping[str, Any]) -> str:
    """A table with rows that differ from the usual one."""
    table = folder / "videos.jsonl"
    table.write_text("\n".join(json.dumps({**TOLD, **row}) for row in rows))
    return str(table)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(film())
    (tmp_path / "a.masks.zip").write_bytes(zipped_masks(DRAWN))
    return tmp_path


class Looker(Plugin):
    """Sees frames and their masks."""

    name: ClassVar[str] = "looker"
    family: ClassVar[str] = "segment"
    view: View = View(streams=("rgb", "mask", "instances"), frames=5, rate=5.0)

    def views(self) -> Mapping[str, View]:
        return {"train": self.view, "test": self.view}

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        return {name: np.asarray(array) for name, array in decoded.streams[0].items()}

    def build(self, info: Info) -> Any:
        raise NotImplementedError


def seen(data: str, stage: Any = "train", **view: Any) -> dict[str, NDArray[Any]]:
    """A prepared batch of four takes."""
    look = View.model_validate({"streams": ("rgb", "mask", "instances"), "frames": 5, "mean": (0, 0, 0), "std": (1, 1, 1), **view})  # fmt: skip
    batches = []
    for seed in range(4 if stage == "train" else 1):
        made = Plan(catalog.load(data), Looker(view=look, test_clips=1), stage, seed, 1)
        with feed.batches(made, Share(0, 1)) as given:
            batches.append(augment.prepare(next(given), look, training=stage == "train"))
    return {name: np.concatenate([b[name].numpy() for b in batches]) for name in look.streams}


def class_of(rgb: NDArray[Any]) -> NDArray[np.int64]:
    """The class that each pixel of prepared frames shows: [B, T, S, S]."""
    return np.asarray(np.rint(rgb.mean(1) * 255 / 120), np.int64)


# --- alignment

ALONG = {"size": 40, "resize": 48, "rate": 10.0}


@pytest.mark.parametrize("stage", ["train", "test"])
def test_unscaled_masks_lie_on_their_pixels_exactly(
    stage: str, beside: Path, ray_local: None
) -> None:
    data = str(beside / "data")
    ingest.run(told(beside, {}), data, Options(profile=video.Profile("raw", rate=10.0)))
    batch = seen(data, stage, **ALONG, augment=("crop", "flip", "reverse"))
    assert batch["mask"].shape == (4 if stage == "train" else 1, 5, 40, 40)
    np.testing.assert_array_equal(class_of(batch["rgb"]), batch["mask"])
    assert set(np.unique(batch["mask"])) == {0, 1, 2}
    assert set(np.unique(batch["instances"])) <= {0, 1, 2, 3, 4}
    np.testing.assert_array_equal((batch["instances"] + 1) // 2, batch["mask"])


@pytest.mark.parametrize(
    ("made", "profile"),
    [
        ({}, video.Profile()),  # 10 frames a second become 30
        ({}, video.Profile(short_side=32, rate=10.0)),
        ({}, video.Profile("keep")),
        ({"rotation": 90}, video.Profile(short_side=40)),
        ({"rotation": 180}, video.Profile("frames")),
        ({"rotation": 270}, video.Profile("keep")),
        ({"aspect": Fraction(3, 2)}, video.Profile(short_side=32)),
        ({"aspect": Fraction(3, 2)}, video.Profile("keep")),
    ],
)
def test_masks_go_where_the_frames_go(
    made: dict[str, Any], profile: video.Profile, beside: Path, ray_local: None
) -> None:
    (beside / "a.mp4").write_bytes(film(**made))
    data = str(beside / "data")
    ingest.run(told(beside, {}), data, Options(profile=profile))
    row = catalog.load(data).row(0)
    assert {each["suffix"] for each in row["members"]} >= {"masks.zip", "json"}
    batch = seen(data, resize=36, size=32, rate=10.0, augment=("crop", "flip", "resized_crop"))
    shown = class_of(batch["rgb"])
    matches = {
        (y, x, t): float((np.roll(batch["mask"], (t, y, x), (1, 2, 3)) == shown)[:, 1:-1, 2:-2, 2:-2].mean())
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
        for t in (-1, 0, 1)
    }  # fmt: skip
    assert matches[0, 0, 0] == max(matches.values()) > 0.9, matches


def test_parts_of_a_video_have_their_parts_of_the_masks(beside: Path, ray_local: None) -> None:
    data, rows = str(beside / "data"), [{}, {"start_seconds": 0.3, "end_seconds": 0.9}]
    ingest.run(told(beside, *rows), data, Options(profile=video.Profile("raw", rate=10.0)))
    made = catalog.load(data)
    (part,) = [row for row in made.rows([0, 1]) if row["parent"]]
    assert part["frames"] == 6
    masks = feed.Stored(part).masks(np.arange(6), HEIGHT, (0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks.classes, DRAWN.classes[3:9])
    np.testing.assert_array_equal(masks.instances, DRAWN.instances[3:9])


# --- what masks come as


def as_folder(folder: Path) -> str:
    (folder / "masks").mkdir()
    with zipfile.ZipFile(folder / "a.masks.zip") as archive:
        for number, name in enumerate(archive.namelist()):  # without leading zeros
            (folder / "masks" / f"frame_{number}.PNG").write_bytes(archive.read(name))
    (folder / "masks" / "notes.txt").write_text("12 masks")
    return "masks"


def as_film(folder: Path, **options: str) -> str:
    pixels = np.stack([DRAWN.classes, DRAWN.instances, np.zeros_like(DRAWN.classes)], -1)
    data = written(pixels.astype(np.uint8), codec="ffv1", container="matroska", pixels="bgr0", fps=10, options=options)  # fmt: skip
    (folder / "masks.mkv").write_bytes(data)
    return "masks.mkv"


def packed(folder: Path) -> str:
    with zipfile.ZipFile(folder / "a.masks.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(files):
            archive.writestr(f"deep/{name}", files[name])
        archive.writestr("__MACOSX/deep/._000000.png", b"")
    return "b.zip"


def painted_film(folder: Path, pixels: NDArray[np.uint8]) -> str:
    data = written(pixels, codec="ffv1", container="matroska", pixels="bgr0", fps=10)
    (folder / "painted.mkv").write_bytes(data)
    return "painted.mkv"


def painted_folder(folder: Path, pixels: NDArray[np.uint8]) -> str:
    (folder / "painted").mkdir()
    for number, frame in enumerate(pixels):
        (folder / "painted" / f"{number}.png").write_bytes(png(frame))
    return "painted"


def painted_zip(folder: Path, pixels: NDArray[np.uint8]) -> str:
    with zipfile.ZipFile(folder / "painted.zip", "w") as archive:
        for number, frame in enumerate(pixels):
            archive.writestr(f"painted/{number}.png", png(frame))
    return "painted.zip"


def png(frame: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", frame[..., ::-1])[1])


@pytest.mark.parametrize(
    ("bring", "what"),
    [
        (painted_film, "its mask video"),
        (painted_folder, r"its mask 0\.png"),
        (painted_zip, r"its mask 0\.png"),
    ],
)
def test_painted_masks_are_read_by_the_colours_of_their_classes(
    bring: Any, what: str, beside: Path, ray_local: None
) -> None:
    colours = np.array([[0, 0, 0], [128, 64, 0], [1, 2, 3], [200, 200, 200]], np.uint8)
    numbers = DRAWN.classes.copy()
    numbers[:, :5] = 3
    names = "bright=#010203|background=#000000|dim=#804000|void=#C8c8C8"
    row = {"masks": bring(beside, colours[numbers]), "mask_classes": names}
    ingest.run(told(beside, row), str(beside / "data"), Options(profile=video.Profile("keep")))
    made = catalog.load(str(beside / "data"))
    assert made.mask_classes == ("bright", "dim")
    kept = feed.Stored(made.row(0)).masks(np.arange(FRAMES), HEIGHT, (0, 0, HEIGHT, WIDTH))
    wanted = np.array([0, 2, 1, video.VOID])[numbers]
    np.testing.assert_array_equal(kept.classes, wanted)
    with pytest.raises(SourceError, match="mask_classes are painted alike, or not all"):
        ingest.run(told(beside, {"mask_classes": "a=#000000|b"}), str(beside / "data"))
    again = {**row, "mask_classes": names.replace("804000", "804001")}
    with pytest.raises(SourceError, match=f"{what} has the colour #804000"):
        ingest.run(told(beside, again), str(beside / "none"))


@pytest.mark.parametrize("bring", [as_folder, as_film, packed])
def test_masks_come_as_pictures_or_as_a_film(bring: Any, beside: Path, ray_local: None) -> None:
    masks = bring(beside)
    data = str(beside / "data")
    ingest.run(told(beside, {"masks": masks}), data, Options(profile=video.Profile("raw", rate=10)))
    made = catalog.load(data)
    kept = feed.Stored(made.row(0)).masks(np.arange(FRAMES), HEIGHT, (0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(kept.classes, DRAWN.classes)
    np.testing.assert_array_equal(kept.instances, DRAWN.instances)
    assert made.mask_classes == ("dim", "bright") and made.classes == ()


# --- what is told


def changed(classes: NDArray[np.uint8]) -> bytes:
    return zipped_masks(Masks(classes, np.zeros(classes.shape, np.int16)))


BAD = {
    "short": (changed(DRAWN.classes[1:]), "11 masks of a video of 12 frames; wanted a mask for each"),
    "small": (changed(DRAWN.classes[:, 1:]), "its mask 0 is 80 x 47, its frames 80 x 48"),
    "more": (changed(np.where(DRAWN.classes == 2, 3, DRAWN.classes).astype(np.uint8)), "its mask 0 has the class 3; wanted 0, 1 to 2 of its mask_classes, or 255 for void"),
    "void": (changed((DRAWN.classes > 0).astype(np.uint8) * 255), "no class but 255, which is void"),
    "none": (zipped_masks(Masks(DRAWN.classes[:0], DRAWN.instances[:0])), "0 masks of a video of 12"),
    "rot": (zipped_masks(DRAWN)[:-30], "masks.*PNGs, a zip, or a video|cannot be|Invalid data"),
}  # fmt: skip


def test_masks_that_are_not_of_their_video_are_quarantined_in_one_line(
    beside: Path, ray_local: None
) -> None:
    rows: list[Mapping[str, Any]] = [{}]
    for place, (name, (data, _)) in enumerate(BAD.items()):
        (beside / f"{name}.zip").write_bytes(data)
        frames = np.repeat(LIGHTS[DRAWN.classes][..., None], 3, -1) + np.uint8(place + 1)
        video.encode(str(beside / f"{name}.mp4"), frames, fps=10)
        rows.append({"path": f"{name}.mp4", "masks": f"{name}.zip"})
    rows.append({"path": "short.mp4", "masks": "away.zip", "start_seconds": 0.5})
    made = ingest.run(told(beside, *rows), str(beside / "data"))
    assert (made["taken"], made["quarantined"]) == (1, len(BAD) + 1)
    ledger = catalog.quarantine(str(beside / "data")).to_pylist()
    for name, (_, wanted) in BAD.items():
        (row,) = [each for each in ledger if each["source"].endswith(f"{name}.mp4")]
        assert row["stage"] == "masks" and "\n" not in row["reason"]
        assert re.search(wanted, row["reason"]), row["reason"]
    (row,) = [each for each in ledger if "@0.5" in each["source"]]
    assert row["stage"] == "read" and "away.zip" in row["reason"]


def test_masks_without_anything_are_masks(beside: Path, ray_local: None) -> None:
    (beside / "a.masks.zip").write_bytes(changed(DRAWN.classes * 0))
    made = ingest.run(told(beside, {}), str(beside / "data"))
    assert (made["taken"], made["quarantined"]) == (1, 0)
    row = catalog.load(str(beside / "data")).part(where="masks_sha256 != None").row(0)
    kept = feed.Stored(row).masks(np.arange(FRAMES), HEIGHT, (0, 0, HEIGHT, WIDTH))
    assert not kept.classes.any() and not kept.instances.any()  # the ground, and no void


@pytest.mark.parametrize("made", [{}, {"rotation": 90}])
def test_packets_tell_the_frames_that_masks_are_of(made: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(film(**made))
    whole = mask_source._Shown.of(str(path))
    assert len(whole.seconds) == FRAMES
    for frames in (FRAMES, FRAMES - 1):  # for the latter all is decoded
        told = mask_source._Shown.by_packets(str(path), frames)
        np.testing.assert_allclose(told.seconds, whole.seconds, atol=1e-9)
        assert (told.size, told.rotation) == (whole.size, whole.rotation)


def test_a_rotten_zip_names_its_mask(tmp_path: Path) -> None:
    file = tmp_path / "m.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(range(256)) * 99)
    data = bytearray(file.read_bytes())
    data[40:60] = b"\xff" * 20
    file.write_bytes(data)
    with (
        pytest.raises(VideoError, match=r"its mask 0\.png cannot be read"),
        mask_source.opened_masks(str(file)) as given,
    ):
        list(given.at([0]))


def test_of_a_film_only_what_is_asked_for_is_decoded(beside: Path) -> None:
    film = beside / as_film(beside, g="1", level="3")
    data, rotten = film.read_bytes(), FRAMES // 2
    with av.open(str(film)) as container:
        (packet,) = [p for p in container.demux() if p.size and p.pts == 100 * rotten]
        at = data.index(bytes(packet))
        film.write_bytes(data[: at + 9] + b"\xff" * (packet.size - 9) + data[at + packet.size :])
    with mask_source.opened_masks(str(film)) as given:
        assert len(given) == FRAMES
        asked = [0, rotten - 1, rotten + 1, FRAMES - 1]
        for number, planes in zip(asked, given.at(asked), strict=True):
            np.testing.assert_array_equal(planes.classes, DRAWN.classes[number])
        with pytest.raises(VideoError, match=f"frame {rotten}"):
            list(given.at([rotten]))


def test_numbers_in_names_count_whatever_their_length() -> None:
    long = "9" * 5000
    names = [f"{long}.png", "10.png", "9.png", "007.png", "0.png"]
    assert mask_source._in_order(names) == ["0.png", "007.png", "9.png", "10.png", f"{long}.png"]


def copy(name: str, masks: str = "", label: str | None = None) -> Examined:
    source = Source(name, label=label)
    return Examined(
        source, sha256="same", pieces=(Piece(duration_seconds=1.0),), masks_sha256=masks
    )


def test_of_two_copies_neither_label_nor_masks_go_without_a_word() -> None:
    both = arrange.sort_out([copy("a", label="x"), copy("b", "m", "x"), copy("c", "m")])
    assert [each.source.name for each in both.taken] == ["b"] and not both.quarantined
    apart = arrange.sort_out([copy("a", label="x"), copy("b", "m")])
    assert not apart.taken and len(apart.quarantined) == 2
    assert "has the label, another the masks" in apart.quarantined[0].reason


def test_a_stamp_tells_masks_that_were_exchanged_or_are_older(tmp_path: Path) -> None:
    names = [tmp_path / "m" / name for name in ("0.png", "1.png", "deep/2.png")]
    (tmp_path / "m" / "deep").mkdir(parents=True)
    for place, path in enumerate([tmp_path / "a.mp4", *names]):
        path.write_bytes(bytes(4))
        os.utime(path, ns=(place * 10**9, place * 10**9))
    given = Source(str(tmp_path / "a.mp4"), masks=str(tmp_path / "m"))
    first = masks.stamp(given)
    assert first[0] == 16 and 0 <= first[1] < 1 << 63 and masks.stamp(given) == first
    names[0].rename(tmp_path / "x")
    names[1].rename(names[0])
    (tmp_path / "x").rename(names[1])
    exchanged = masks.stamp(given)
    os.utime(tmp_path / "a.mp4", ns=(0, 10**6))  # of the same size, and older than the masks
    assert len({first, exchanged, masks.stamp(given)}) == 3
    bare = Source(given.path)
    assert masks.stamp(bare) == storage.stamp(given.path)


def test_what_lies_beside_masks_makes_no_others(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"mask")
    before = masks.measured(str(tmp_path))
    for name in ("Thumbs.db", ".hidden.png"):
        (tmp_path / name).write_bytes(b"else")
    assert masks.measured(str(tmp_path)) == before


def test_masks_are_others_by_their_order_and_not_by_what_their_file_is_called(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "a.zip", tmp_path / "b.zip"
    for file in (one, two):
        file.write_bytes(zipped_masks(DRAWN))
    assert masks.measured(str(one)) == masks.measured(str(two))
    sums = []
    for first, second in (("9", "10"), ("11", "10"), ("11", "12")):
        folder = tmp_path / f"masks of {first} and {second}"
        for place, name in enumerate((first, second)):
            (folder / name).mkdir(parents=True)
            (folder / name / "0.png").write_bytes(bytes([place]))
        sums.append(masks.measured(str(folder))[0])
    assert len(set(sums)) == 3


def test_a_table_that_names_no_classes_or_two_lists_is_refused(beside: Path) -> None:
    with pytest.raises(SourceError, match="mask_classes names 0 classes; wanted those of 1, 2"):
        ingest.run(told(beside, {"mask_classes": None}), str(beside / "data"))
    rows = [{}, {"mask_classes": ["bright", "dim"], "start_seconds": 0.5}]
    with pytest.raises(
        SourceError, match="masks of the classes bright, dim, and masks of dim, bri"
    ):
        ingest.run(told(beside, *rows), str(beside / "data"))


# --- a dataset with masks


@pytest.fixture(scope="module")
def data(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A video with masks, and one without."""
    folder = tmp_path_factory.mktemp("masks")
    (folder / "a.mp4").write_bytes(film())
    (folder / "b.mp4").write_bytes(film(rotation=180))
    (folder / "a.masks.zip").write_bytes(zipped_masks(DRAWN))
    rows = [{}, {"path": "b.mp4", "masks": "", "mask_classes": ""}]
    ingest.run(told(folder, *rows), str(folder / "data"))
    return str(folder / "data")


def test_a_catalog_tells_which_records_have_masks(data: str) -> None:
    whole = catalog.load(data)
    there = whole.part(where="masks_sha256 != None")
    assert (len(whole), len(there)) == (2, 1)
    assert whole.meta["mask_classes"] == ["dim", "bright"]
    assert stats.stats(data)["with_masks"] == 1
    assert ingest.verify(data, deep=True) == []


def test_a_record_is_another_one_with_other_masks(
    data: str, tmp_path: Path, ray_local: None
) -> None:
    for file in Path(data).parent.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    table, copy = str(tmp_path / "videos.jsonl"), str(tmp_path / "data")
    ingest.run(table, copy)
    assert ingest.run(table, copy)["nothing_to_do"]
    assert catalog.load(copy).digest == catalog.load(data).digest
    (tmp_path / "a.masks.zip").write_bytes(changed(DRAWN.classes))
    made = ingest.run(table, copy)
    assert (made["added"], made["records"]) == (1, 2)
    assert catalog.load(copy).digest != catalog.load(data).digest
    (tmp_path / "a.masks.zip").write_bytes(changed(DRAWN.classes[1:]))
    assert ingest.run(table, copy)["quarantined"] == 1


def test_verify_names_masks_that_are_damaged(data: str, tmp_path: Path) -> None:
    for path in Path(data).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    row = catalog.load(str(tmp_path)).part(where="masks_sha256 != None").row(0)
    (place,) = [each for each in row["members"] if each["suffix"] == "masks.zip"]
    shard = tmp_path / row["shard"]
    rotten = bytearray(shard.read_bytes())
    rotten[place["offset"] + 60] ^= 0xFF
    shard.write_bytes(rotten)
    faults = ingest.verify(str(tmp_path))
    assert len(faults) == 2 and all(f"{row['key']}" in fault for fault in faults)
    assert "not the one that the catalog tells" in faults[0]
    with pytest.raises(VideoError, match="mask member cannot be read"):
        feed.Stored(row).masks(np.arange(3), 48, (0, 0, 48, 80))


def test_what_nobody_marked_is_void_and_the_plan_tells(data: str) -> None:
    whole = catalog.load(data)
    bare = next(row for row in whole.rows([0, 1]) if row["source"].endswith("b.mp4"))
    for footage in (feed.Stored(bare), OfFile(b"")):
        masks = footage.masks(np.arange(3), 40, (0, 0, 8, 9))
        assert (masks.classes == video.VOID).all() and not masks.instances.any()
        assert masks.classes.shape == (3, 8, 9)
    view = View(streams=("mask",), frames=2, size=16, resize=24)
    plan = Plan(whole, Looker(view=view), "train", 0, 1)
    assert "1 of 2 videos are without masks: all is void" in plans.warnings(plan)
    assert set(plans.cost(plan, 2).cpu_seconds) == {"read", "mask"}
    with pytest.raises(PlanError, match="looker learns from masks, and none of the 1 records of"):
        making.check_masks(
            Plan(whole.part(where="masks_sha256 == None"), Looker(view=view), "train", 0, 1)
        )


def test_masks_alone_decode_no_frame(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("frames were decoded")

    monkeypatch.setattr(feed.Stored, "pictures", refused)
    assert seen(data, streams=("mask",), size=16, resize=24)["mask"].shape == (4, 5, 16, 16)
    with pytest.raises(AssertionError, match="decoded"):
        seen(data, size=16, resize=24)


def test_the_world_of_objects_is_taken_with_its_masks(tmp_path: Path, ray_local: None) -> None:
    worlds.make("objects", tmp_path / "w", videos=3, size=32, workers=1)
    made = ingest.run(str(tmp_path / "w" / "videos.csv"), str(tmp_path / "data"))
    assert (made["taken"], made["quarantined"]) == (3, 0)
    there = catalog.load(str(tmp_path / "data"))
    assert there.mask_classes == tuple("0123456789")
    assert len(there.part(where="masks_sha256 != None")) == 3
    row = there.row(0)
    masks = feed.Stored(row).masks(np.arange(96), 32, (0, 0, 32, 32))
    digits = {int(digit) + 1 for digit in dict(row["attributes"])["digits"].split()}
    assert digits >= set(np.unique(masks.classes).tolist()) - {0} != set()
    assert masks.instances.max() <= int(dict(row["attributes"])["glyphs"])

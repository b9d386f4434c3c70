"""Masks in COCO's JSON: outlines and run lengths to planes, and what of them is at fault."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from clipmill import catalog, feed, ingest, video
from clipmill.errors import SourceError, VideoError
from clipmill.ingest import Options
from clipmill.video import check_masks, mask_source
from clipmill.video.mask_json import plane_of, read_drawn, unpacked_runs
from clipmill.video.masks import VOID

FRAMES, HEIGHT, WIDTH = 4, 24, 40
NAMES = {"background": 0, "void": 255, "car": 1, "road": 2}


def block(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def noted(**changes: Any) -> dict[str, Any]:
    """A road below, a car that drives over it, and a crowd; the images are not in order."""
    images = [
        {"id": 7 - at, "file_name": f"f{at + 8}.png", "height": HEIGHT, "width": WIDTH}
        for at in (2, 0, 1, 3)
    ]
    notes = []
    for at in range(FRAMES - 1):  # nothing is in the last
        own = {"image_id": 7 - at, "iscrowd": 0}
        notes += [
            {
                **own,
                "category_id": 5,
                "track_id": 9,
                "segmentation": block(4 + at, 10, 12 + at, 16),
            },
            {**own, "category_id": 2, "track_id": 3, "segmentation": block(0, 8, 40, 24)},
        ]
    runs = {"counts": [0, HEIGHT * 2, HEIGHT * (WIDTH - 2)], "size": [HEIGHT, WIDTH]}
    notes.append({"image_id": 7, "category_id": 5, "iscrowd": 1, "segmentation": runs})
    for place, note in enumerate(notes):
        note["id"] = 100 + place
    for note in notes[-1:]:
        note["track_id"] = 1
    categories = [{"id": 2, "name": "road"}, {"id": 5, "name": "car"}]
    return {"images": images, "annotations": notes, "categories": categories, **changes}


def drawn(at: int) -> NDArray[np.uint8]:
    """The classes of a frame, painted by hand."""
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    if at < FRAMES - 1:
        classes[8:], classes[10:16, 4 + at : 12 + at] = 2, 1
    if at == 0:
        classes[:, :2] = VOID
    return classes


def written(folder: Path, told: Any) -> str:
    path = folder / "a.json"
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return str(path)


def test_frames_are_drawn_in_order_with_the_smaller_thing_in_front(tmp_path: Path) -> None:
    made = read_drawn(written(tmp_path, noted()), NAMES, mask_source._by_numbers)
    assert len(made) == FRAMES
    for at, planes in enumerate(made.at(range(FRAMES))):
        crowd = planes.classes == VOID
        wanted = drawn(at)
        assert (crowd == (wanted == VOID)).all()
        np.testing.assert_array_equal(planes.classes, wanted)
        numbers = np.select([planes.classes == 1, planes.classes == 2], [9, 3], 0)
        np.testing.assert_array_equal(planes.things, numbers)


def test_things_without_tracks_have_numbers_of_their_own(tmp_path: Path) -> None:
    told = noted()
    for note in told["annotations"]:
        del note["track_id"]
    made = read_drawn(written(tmp_path, told), NAMES, mask_source._by_numbers)
    seen = [set(np.unique(planes.things)) - {0} for planes in made.at(range(FRAMES))]
    assert [len(each) for each in seen] == [2, 2, 2, 0]
    assert len(set.union(*seen)) == 6


@settings(max_examples=60, deadline=None)
@given(seed=some.integers(0, 2**32 - 1), share=some.floats(0, 1))
def test_run_lengths_are_those_of_cocos_own_code(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 40, 2).tolist())
    plane = rng.random(size) < share
    packed = run_lengths.encode(np.asfortranarray(plane, np.uint8))
    text = {"size": list(size), "counts": packed["counts"].decode()}
    np.testing.assert_array_equal(plane_of(text, size), plane)
    runs = {"size": list(size), "counts": unpacked_runs(text["counts"], "a mask")}
    np.testing.assert_array_equal(plane_of(runs, size), plane)


def test_outlines_are_those_of_cocos_own_code() -> None:
    corners = [[3.2, 4.7, 30.1, 2.2, 25.5, 20.9, 6.6, 18.3], [30.0, 20.0, 38.0, 20.0, 38.0, 23.0]]
    parts = run_lengths.frPyObjects(corners, HEIGHT, WIDTH)
    wanted, plane = run_lengths.merge(parts), plane_of(corners, (HEIGHT, WIDTH))
    assert run_lengths.encode(np.asfortranarray(plane, np.uint8)) == wanted
    assert not plane_of([], (HEIGHT, WIDTH)).any()


SIZE = {"size": [HEIGHT, WIDTH]}
BAD_SHAPES = {
    "runs of 9 pixels; wanted 960 in all": {"counts": [4, 5], **SIZE},
    "the run length -4": {"counts": [-4, 964], **SIZE},
    "is of [4, 4]": {"counts": [16], "size": [4, 4]},
    "none of COCO's": {"counts": "\n\n", **SIZE},
    "cut off": {"counts": "o", **SIZE},
    "three corners at the least": [[1, 2, 3, 4]],
    "a corner far from": [[1, 2, 3, 4, 5, float("nan")]],
    "is told by int": 4,
}  # fmt: skip


@pytest.mark.parametrize("wanted", BAD_SHAPES)
def test_shapes_that_are_none_are_refused(wanted: str) -> None:
    with pytest.raises(VideoError, match=re.escape(wanted)):
        plane_of(BAD_SHAPES[wanted], (HEIGHT, WIDTH), "annotation 4")


BAD_FILES = {
    "the category 'dog'": noted(categories=[{"id": 2, "name": "dog"}]),
    "annotation 101 of its masks is of an image or a category": noted(
        categories=[{"id": 5, "name": "car"}]
    ),
    "cannot be read as JSON: no 'images'": {"images_": []},
    "cannot be read as JSON: Expecting": '{"images": ',
    "same id": noted(images=noted()["images"] * 2),
}


@pytest.mark.parametrize("wanted", BAD_FILES)
def test_files_that_are_none_of_cocos_are_refused(wanted: str, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=re.escape(wanted)):
        read_drawn(written(tmp_path, BAD_FILES[wanted]), NAMES, mask_source._by_numbers)


def film(path: Path, frames: int = FRAMES) -> str:
    grey = [np.full((HEIGHT, WIDTH, 3), 40 * at, np.uint8) for at in range(frames)]
    video.encode(str(path), grey, fps=10)
    return str(path)


def test_a_file_of_another_length_or_size_is_refused(tmp_path: Path) -> None:
    told, shown = written(tmp_path, noted()), film(tmp_path / "a.mp4")
    check_masks(told, shown, 2, NAMES)
    with pytest.raises(VideoError, match="has the class 2"):
        check_masks(told, shown, 1, NAMES)
    with pytest.raises(VideoError, match="4 masks of a video of 3 frames"):
        check_masks(told, film(tmp_path / "b.mp4", 3), 2, NAMES)
    flat = noted(annotations=[])
    check_masks(written(tmp_path, flat), shown, 2, NAMES)  # empty ones are masks
    for image in flat["images"]:
        image["height"] = HEIGHT + 2
    with pytest.raises(VideoError, match="its mask 0 is 40 x 26, its frames 40 x 24"):
        check_masks(written(tmp_path, flat), shown, 2, NAMES)


def test_a_table_names_the_categories(tmp_path: Path, ray_local: None) -> None:
    film(tmp_path / "a.mp4")
    written(tmp_path, noted())
    table = tmp_path / "videos.csv"
    table.write_text("path,masks,mask_classes,split\na.mp4,a.json,car|road,train\n")
    made = ingest.run(str(table), str(tmp_path / "data"), Options(profile=video.Profile("keep")))
    assert (made["taken"], made["quarantined"]) == (1, 0)
    kept = catalog.load(str(tmp_path / "data"))
    assert kept.mask_classes == ("car", "road")
    masks = feed.Stored(kept.row(0)).masks(np.arange(FRAMES), HEIGHT, (0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks.classes, [drawn(at) for at in range(FRAMES)])
    table.write_text("path,masks,mask_classes\na.mp4,a.json,car=#000000|road=#ffffff\n")
    with pytest.raises(SourceError, match="mask_classes are painted"):
        ingest.run(str(table), str(tmp_path / "none"))

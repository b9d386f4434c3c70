"""The flow member: kept small, read in parts, near what is found anew; and what it saves."""

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import tiny
from clipmill import api, catalog, feed, ingest, video
from clipmill import plan as plans
from clipmill.errors import DataError, VideoError
from clipmill.feed import OfFile, Share, Stored
from clipmill.plan import Plan
from clipmill.takes import View
from clipmill.video import FlowMember, Profile, decode_frames, flow, flow_fault, flow_member
from test_video import moving_square, with_sound, written
from test_video_streams import texture

FRAMES, STEP = 61, 6
PROFILE = Profile(short_side=64)


def panned(pixels_a_frame: float = 0.5, count: int = FRAMES) -> NDArray[np.uint8]:
    """A camera that goes to the left over a ground, so that what is seen goes to the right."""
    ground = texture(96, 256, 3)
    lefts = [round(128 - number * pixels_a_frame) for number in range(count)]
    return np.stack([ground[8:72, left : left + 96] for left in lefts])


@pytest.fixture(scope="module")
def stored() -> bytes:
    """A video of 61 frames of 64 x 96 on a ladder of 6."""
    return video.transcode(written(panned(), fps=30), PROFILE)[0]


@pytest.fixture(scope="module")
def member(stored: bytes) -> bytes:
    return made(stored)


def made(data: bytes, frames: int = FRAMES) -> bytes:
    return flow_member(data, video.index_of(data), size=(64, 96), frames=frames, step=STEP)


def opened(data: bytes) -> FlowMember:
    return FlowMember(lambda at, length: data[at : at + length], len(data))


def between(data: bytes, numbers: list[int], *, side: int = 64) -> NDArray[np.int8] | None:
    size = video.scaled_size(64, 96, side)
    return opened(data).between(np.array(numbers), size, (0, 0, *size))


# --- the member alone


def test_a_member_tells_the_motion_from_rung_to_rung(member: bytes) -> None:
    kept = opened(member)
    assert kept.head.fields == (FRAMES - 1) // STEP
    fields = np.stack(kept.fields(range(kept.head.fields)))
    assert fields.dtype == np.int8 and fields.shape == (10, 32, 48, 2)
    pixels = np.median(fields, axis=(0, 1, 2)) / video.FLOW_STEPS_A_PIXEL
    np.testing.assert_allclose(pixels, (3, 0), atol=0.2)  # 6 frames of half a pixel
    assert len(member) < 0.5 * fields.nbytes


def test_what_is_kept_is_near_what_is_found(stored: bytes, member: bytes) -> None:
    numbers = [6, 12, 18, 24]
    found = flow(decode_frames(stored, numbers))
    kept = between(member, numbers)
    assert kept is not None and kept.shape == found.shape
    inside = np.abs(kept.astype(int) - found)[:, 8:-8, 8:-8]
    assert np.median(inside) <= 1 and inside.mean() < 2  # eighths of a pixel
    larger = between(member, numbers, side=96)
    assert larger is not None and larger.shape == (3, 96, 144, 2)
    np.testing.assert_allclose(np.median(larger, axis=(0, 1, 2)) / 8, (4.5, 0), atol=0.3)


@pytest.mark.parametrize(
    "numbers", [[0, 6, 11], [1, 7], [0, 12], [12, 6], [54, 60, 66], [0, 3, 6, 9]]
)
def test_frames_that_are_no_neighbouring_rungs_are_not_kept(
    numbers: list[int], member: bytes
) -> None:
    assert between(member, numbers) is None


def test_a_frame_that_stands_still_does_not_move(member: bytes) -> None:
    kept = between(member, [54, 60, 60, 60])
    assert kept is not None and kept[0].any() and not kept[1:].any()
    one, still = between(member, [7]), between(member, [7, 7])
    assert one is not None and one.shape == (0, 64, 96, 2)
    assert still is not None and not still.any()


def test_a_crop_is_a_part_of_the_whole(member: bytes) -> None:
    numbers, size = np.array([0, 6, 12]), (64, 96)
    whole = opened(member).between(numbers, size, (0, 0, *size))
    part = opened(member).between(numbers, size, (5, 20, 40, 48))
    assert whole is not None and part is not None
    np.testing.assert_array_equal(part, whole[:, 5:45, 20:68])


def test_only_the_fields_asked_for_are_read(monkeypatch: pytest.MonkeyPatch, member: bytes) -> None:
    monkeypatch.setattr("clipmill.video.kept_flow.FIRST_READ_BYTES", 200)
    reads: list[tuple[int, int]] = []

    def read(at: int, length: int) -> bytes:
        reads.append((at, length))
        return member[at : at + length]

    kept = FlowMember(read, len(member))
    reads.clear()
    (field,) = kept.fields([4])
    np.testing.assert_array_equal(field, opened(member).fields([4])[0])
    assert len(reads) == 1 and reads[0][1] < len(member) / 4


@pytest.mark.parametrize("frames", [1, 6])
def test_a_video_of_less_than_a_step_has_no_fields(frames: int) -> None:
    data = video.transcode(written(panned(count=frames), fps=30), PROFILE)[0]
    kept = opened(made(data, frames))
    assert kept.head.fields == 0
    assert kept.between(np.array([0, 0]), (64, 96), (0, 0, 64, 96)) is not None


def test_the_same_video_gives_the_same_bytes_by_index_or_container(
    stored: bytes, member: bytes
) -> None:
    assert made(stored) == member
    assert flow_member(stored, None, size=(64, 96), frames=FRAMES, step=STEP) == member


@pytest.mark.parametrize(
    ("profile", "fps", "step"),
    [(Profile(), 30.0, 6), (Profile(k=4), 30.0, 4), (Profile("raw"), 25.0, 5), (Profile("keep"), 2.0, 1)],
)  # fmt: skip
def test_steps_are_rungs_or_a_fifth_of_a_second(profile: Profile, fps: float, step: int) -> None:
    assert video.flow_step(profile, fps) == step


@given(data=st.data())
def test_damage_is_told_or_harmless(data: st.DataObject, member: bytes) -> None:
    at = data.draw(st.integers(0, len(member) - 1))
    cut = data.draw(st.sampled_from([None, at]))
    spoilt = bytearray(member)
    spoilt[at] ^= data.draw(st.integers(1, 255))
    try:
        kept = opened(bytes(spoilt[:cut]))
        fields = kept.fields(range(kept.head.fields))
    except DataError as error:
        assert "flow member" in str(error)
    else:  # a head that tells another rate or another unit is still a head
        assert all(field.shape == (kept.head.height, kept.head.width, 2) for field in fields)


def test_a_field_cannot_grow_beyond_its_size(member: bytes) -> None:
    kept = opened(member)
    object.__setattr__(kept.head, "height", 3)
    with pytest.raises(DataError, match="not of the size"):
        kept.fields([0])


def test_faults_are_named(stored: bytes, member: bytes) -> None:
    index = video.index_of(stored)
    for deep in (False, True):
        assert flow_fault(member, stored, index, frames=FRAMES, deep=deep) == ""
    assert "10 fields of 30 frames" in flow_fault(member, stored, index, frames=30, deep=False)
    other = video.transcode(written(panned(-0.5), fps=30), PROFILE)[0]
    fault = flow_fault(made(other), stored, index, frames=FRAMES, deep=False)
    assert "the motion from frame" in fault


# --- in a dataset


@pytest.fixture(scope="module")
def datasets(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The same videos, without flow and with it."""
    folder = tmp_path_factory.mktemp("flow")
    tiny.write_videos(folder / "videos", {"train": 4, "val": 1, "test": 1})
    told = [str(folder / "plain"), str(folder / "kept")]
    for data, options in zip(told, (ingest.Options(), ingest.Options(flow=True)), strict=True):
        ingest.run(str(folder / "videos"), data, options)
    return told[0], told[1]


def suffixes(row: Mapping[str, Any]) -> list[str]:
    return [member["suffix"] for member in row["members"]]


def test_flow_is_a_member_when_asked_and_leaves_no_trace_else(datasets: tuple[str, str]) -> None:
    plain, kept = map(catalog.load, datasets)
    assert {tuple(suffixes(row)) for row in plain.table.to_pylist()} == {("idx", "json", "mp4")}
    assert "flow" not in plain.meta["options"] and kept.meta["options"]["flow"] is True
    assert kept.digest == plain.digest  # the records are the same
    for row in kept.table.to_pylist():
        assert suffixes(row) == ["flow", "idx", "json", "mp4"]
        assert kept.read(row) == plain.read(plain.row(list(plain.keys).index(row["key"])))
        assert opened(kept.read(row, "flow")).head.fields == (row["frames"] - 1) // 6


# The library leaves its last file for the garbage collector, which warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_any_webdataset_reader_reads_it(datasets: tuple[str, str]) -> None:
    rows = {row["key"]: row for row in catalog.load(datasets[1]).table.to_pylist()}
    pattern = sorted(str(path) for path in Path(datasets[1]).glob("*.tar"))
    read = {sample["__key__"]: sample for sample in wds.WebDataset(pattern, shardshuffle=False)}
    gc.collect()
    assert read.keys() == rows.keys()
    assert all(opened(sample["flow"]).head.fields for sample in read.values())


def test_verify_reads_the_flow(datasets: tuple[str, str]) -> None:
    assert ingest.verify(datasets[1], deep=True) == []


def test_verify_names_flow_that_is_damaged(datasets: tuple[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in Path(datasets[1]).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    row = catalog.load(str(copy)).row(0)
    place = next(member for member in row["members"] if member["suffix"] == "flow")
    shard, at = copy / row["shard"], place["offset"] + place["length"] // 2
    data = bytearray(shard.read_bytes())
    data[at] ^= 0xFF
    shard.write_bytes(data)
    (fault,) = ingest.verify(str(copy))
    assert row["key"] in fault and "flow member cannot be read" in fault


def test_flow_that_is_asked_for_later_is_made_and_outlives_forgetting(
    datasets: tuple[str, str], tmp_path: Path
) -> None:
    videos, data = str(Path(datasets[0]).parent / "videos"), str(tmp_path / "data")
    ingest.run(videos, data)
    done = ingest.run(videos, data, ingest.Options(flow=True))
    assert done["added"] == done["records"] and not done["nothing_to_do"]
    assert catalog.load(data).digest == catalog.load(datasets[1]).digest
    assert ingest.run(videos, data, ingest.Options(flow=True))["nothing_to_do"]
    ingest.forget(data, [catalog.load(data).row(0)["key"]])
    assert all("flow" in suffixes(row) for row in catalog.load(data).table.to_pylist())
    assert ingest.verify(data) == []


# --- in the feed

SEES_FLOW = {"plugin": "two_stream", "streams": "temporal", "backbone": "resnet18", "frames": 4,
             "rate": 5.0, "width": 0.125, "size": 32, "resize": 36, "test_clips": 1}  # fmt: skip


def plan_of(data: str, stage: Any = "train", *, aligned: bool = True, **model: Any) -> Plan:
    recipe = tiny.recipe_of(data={"path": data, "aligned": aligned}, model={**SEES_FLOW, **model})
    return plans.make(api.recipe(recipe), stage)


def batch_of(plan: Plan) -> Mapping[str, NDArray[Any]]:
    with feed.batches(plan, Share(0, 1)) as batches:
        return next(batches)


def test_training_takes_the_flow_that_was_kept(datasets: tuple[str, str]) -> None:
    found, kept = (batch_of(plan_of(data))["flow"] for data in datasets)
    assert found.shape == kept.shape == (4, 3, 32, 32, 2)
    assert (found != kept).any()
    assert np.abs(found.astype(int) - kept).mean() < 4  # half a pixel, edges of the crop and all


def test_where_frames_are_off_the_ladder_flow_is_found(datasets: tuple[str, str]) -> None:
    for model in ({"rate": 10.0}, {"augment": ["crop", "jitter"]}):
        found, kept = (batch_of(plan_of(data, **model))["flow"] for data in datasets)
        np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_answers_never_depend_on_what_was_kept(stage: str, datasets: tuple[str, str]) -> None:
    found, kept = (batch_of(plan_of(data, stage))["flow"] for data in datasets)
    np.testing.assert_array_equal(found, kept)


def test_no_frame_is_decoded_for_flow_that_was_kept(
    datasets: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("frames were decoded")

    monkeypatch.setattr(Stored, "pictures", refused)
    batch_of(plan_of(datasets[1]))
    with pytest.raises(AssertionError, match="decoded"):
        batch_of(plan_of(datasets[0]))


def test_flow_that_cannot_be_read_is_a_bad_clip(datasets: tuple[str, str]) -> None:
    row = catalog.load(datasets[1]).row(0)
    place = next(member for member in row["members"] if member["suffix"] == "flow")
    place["offset"] += 1
    with pytest.raises(VideoError, match=f"record {row['key']}: a flow member cannot be read"):
        Stored(row).flow(np.array([0, 6]), 36, (0, 0, 32, 32))


# --- sound, or none


def heard(footage: feed.Footage, row: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    view = View(streams=("audio",), frames=5, rate=5.0)
    return feed.decode(footage, row, view, "test", 0, span=(0, 24)).streams


@pytest.mark.parametrize("with_track", [True, False])
def test_silence_stands_for_sound_that_is_not_there(with_track: bool) -> None:
    sound = np.random.default_rng(0).normal(0, 0.2, 16_000).astype(np.float32)
    data = with_sound(moving_square(25), sound) if with_track else written(moving_square(25))
    row = {"fps": 25.0, "frames": 25, "height": 48, "width": 64}
    made = heard(OfFile(data), row)
    assert float(made["heard"]) == with_track
    assert made["audio"].shape == (16_000,) and bool(made["audio"].any()) == with_track
    assert np.isfinite(video.log_mel(made["audio"], 16_000)).all()


def test_a_record_without_sound_is_not_read_for_it(datasets: tuple[str, str]) -> None:
    row = catalog.load(datasets[0]).row(0)
    assert row["has_audio"] is False
    nowhere = {**row, "folder": "/nowhere"}
    made = heard(Stored(nowhere), nowhere)
    assert float(made["heard"]) == 0 and not made["audio"].any()
    unknown = {**row, "has_audio": None}  # as an older catalog has it: the video itself tells
    assert float(heard(Stored(unknown), unknown)["heard"]) == 0


# --- in the plan's estimate


def estimate(plan: Plan) -> Mapping[str, float]:
    return plans.cost(plan, 100).cpu_seconds


def test_the_estimate_tells_what_flow_costs(datasets: tuple[str, str]) -> None:
    plain, kept = datasets
    found, read = estimate(plan_of(plain)), estimate(plan_of(kept))
    assert found["flow"] > 3 * read["flow"] > 0
    assert found["frames"] > 0 and "frames" not in read  # nothing is decoded
    assert estimate(plan_of(kept, rate=10.0))["flow"] == estimate(plan_of(plain, rate=10.0))["flow"]
    assert estimate(plan_of(kept, aligned=False)) == estimate(plan_of(plain, aligned=False))
    assert "flow" not in estimate(plan_of(plain, streams="spatial"))
    seen = estimate(plan_of(plain, streams="both", plugin="two_stream"))
    assert seen["flow"] == found["flow"]


def test_the_estimate_counts_the_bytes_of_all_streams(datasets: tuple[str, str]) -> None:
    plan = plan_of(datasets[0])
    assert plans.cost(plan, 10).bytes == 10 * 3 * 32 * 32 * 2
    sounds = {"plugin": "multi_stream", "backbone": "resnet18", "frames": 4, "rate": 5.0,
              "size": 32, "resize": 36}  # fmt: skip
    made = api.recipe(tiny.recipe_of(data={"path": datasets[0]}, model=sounds))
    both = plans.cost(plans.make(made, "train"), 10)
    pixels = 4 * 32 * 32 * 3 + 3 * 32 * 32 * 2
    assert both.bytes == 10 * (pixels + 4 * round(4 / 5.0 * 16_000))
    assert {"read", "frames", "flow", "audio"} == set(both.cpu_seconds)


def test_the_dry_run_tells_it(datasets: tuple[str, str]) -> None:
    recipe = tiny.recipe_of(data={"path": datasets[0]}, model=SEES_FLOW)
    told = api.plan(recipe)
    assert json.dumps(told) == json.dumps(api.plan(recipe))
    assert set(told["cpu_seconds"]) == {"read", "flow", "frames"}
    np.testing.assert_allclose(
        told["cpu_hours"] * 3600, sum(told["cpu_seconds"].values()), atol=0.1
    )

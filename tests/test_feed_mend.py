"""Clips that do not decode: replaced by rule in training, left out in tests, written down."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill import api, catalog, feed, plugin, recipe, storage
from clipmill import plan as plans
from clipmill.errors import DataError, RunError
from clipmill.feed import Feed, Settings, Share
from clipmill.launch.worker import Worker
from clipmill.plan import Plan
from clipmill.plugin import Sample
from clipmill.takes import crop_box
from misbehaving import Crashing, Failing, Ragged, Suicidal, Unjoined
from tiny import ingested, recipe_of, write_videos

BATCH, STEPS = 10, 10  # two epochs of fifty


@pytest.fixture(scope="module")
def broken(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A dataset of fifty training videos, the bytes of one of them gone; and its key."""
    folder = tmp_path_factory.mktemp("broken")
    write_videos(folder / "videos", {"train": 25, "val": 1, "test": 2})
    data = ingested(folder / "videos", folder / "data")
    part = catalog.load(data).part(split="train")
    return data, wipe(part, 17)


def wipe(part: catalog.Catalog, place: int) -> str:
    """Overwrite the packets of a record's video; its shard keeps its size."""
    row = part.row(place)
    path = Path(part.folder) / row["shard"]
    member = next(m for m in row["members"] if m["suffix"] == row["suffix"])
    data = bytearray(path.read_bytes())
    data[member["offset"] : member["offset"] + member["length"]] = bytes(member["length"])
    path.write_bytes(data)
    return str(row["key"])


def plan_of(data: str, stage: str = "train") -> Plan:
    given = recipe.load(recipe_of(data={"path": data}, train={"batch": BATCH}))
    return plans.make(given, stage)  # type: ignore[arg-type]


def fed(
    plan: Plan, share: Share, transport: str = "thread", **settings: object
) -> tuple[list[Sample], Feed]:
    batches = feed.batches(plan, share, Settings(**settings), transport)  # type: ignore[arg-type]
    return list(batches), batches


@pytest.mark.parametrize("transport", ["thread", "ray"])
def test_a_bad_clip_is_replaced_and_written_down(broken: tuple[str, str], transport: str) -> None:
    data, key = broken
    plan = plan_of(data)
    batches, made = fed(plan, Share(0, STEPS), transport)
    takes = plan.at(0, STEPS * BATCH)
    wanted = [
        place
        for place in range(len(takes))
        if plan.catalog.row(int(takes.record[place, 0]))["key"] == key
    ]
    assert len(wanted) == 2  # once an epoch
    assert [row["position"] for row in made.ledger] == wanted
    assert all(row["wanted"] == [key] and row["used"] != [key] for row in made.ledger)
    assert [row["epoch"] for row in made.ledger] == [0, 1]
    assert np.concatenate([b["position"] for b in batches]).tolist() == list(range(STEPS * BATCH))
    assert made.figures.plain()["bad"] == 2


def test_the_pixels_are_those_of_what_was_used(broken: tuple[str, str]) -> None:
    data, _ = broken
    plan = plan_of(data)
    batches, made = fed(plan, Share(0, STEPS))
    row = made.ledger[0]
    position = row["position"]
    got = batches[position // BATCH]["rgb"][position % BATCH]
    (place,) = [at for at, key in enumerate(plan.catalog.keys) if key == row["used"][0]]
    record = plan.catalog.row(place)
    index = feed.Stored({**record, "folder": data})
    every = index.pictures(np.arange(record["frames"]), 36, (0, 0, 36, 36))
    seed = batches[position // BATCH]["seed"][position % BATCH]
    top, left, *_ = crop_box(36, 36, 32, int(seed), True)
    cut = every[:, top : top + 32, left : left + 32]
    assert any((frame == got[0]).all() for frame in cut)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_agree_on_the_substitutes(broken: tuple[str, str], world: int) -> None:
    plan = plan_of(broken[0])
    whole, alone = fed(plan, Share(0, STEPS))
    parts = [fed(plan, Share(0, STEPS, rank, world), max_bad_share=0.2) for rank in range(world)]
    assert {len(batches) for batches, _ in parts} == {STEPS}
    for step in range(STEPS):
        joined = np.concatenate([batches[step]["rgb"] for batches, _ in parts])
        assert (joined == whole[step]["rgb"]).all()
    rows = [row for _, made in parts for row in made.ledger]
    assert sorted(rows, key=lambda row: row["position"]) == alone.ledger


def test_too_many_bad_clips_stop_the_feed(broken: tuple[str, str], tmp_path: Path) -> None:
    for path in storage.list_files(broken[0]):
        storage.put(str(tmp_path / Path(path).name), storage.read(path))
    part = catalog.load(str(tmp_path)).part(split="train")
    for place in (1, 2, 3):
        wipe(part, place)
    with pytest.raises(DataError, match="clips of an epoch do not decode"):
        fed(plan_of(str(tmp_path)), Share(0, STEPS))
    assert len(fed(plan_of(str(tmp_path)), Share(0, STEPS), max_bad_share=0.1)[0]) == STEPS


def test_in_evaluation_nothing_is_replaced(broken: tuple[str, str], tmp_path: Path) -> None:
    for path in storage.list_files(broken[0]):
        storage.put(str(tmp_path / Path(path).name), storage.read(path))
    key = wipe(catalog.load(str(tmp_path)).part(split="test"), 1)
    plan = plan_of(str(tmp_path), "test")
    batches, made = fed(plan, Share(0, -(-plan.takes_per_epoch // BATCH)), max_bad_share=1.0)
    takes = plan.epoch(0)
    left = [
        place for place in range(len(takes))
        if plan.catalog.row(int(takes.record[place, 0]))["key"] != key
    ]  # fmt: skip
    assert np.concatenate([batch["position"] for batch in batches]).tolist() == left
    assert len(made.ledger) == len(takes) - len(left)
    assert all("used" not in row for row in made.ledger)


def test_a_run_tells_its_bad_clips(broken: tuple[str, str], tmp_path: Path) -> None:
    given = recipe_of(
        run={"name": "bad", "folder": str(tmp_path)},
        data={"path": broken[0]},
        train={"batch": BATCH, "steps": STEPS, "checkpoint_every": 3},
    )
    result = api.train(given)
    lines = (tmp_path / "bad" / "bad_clips.jsonl").read_text().splitlines()
    assert [json.loads(line)["wanted"] for line in lines] == [[broken[1]]] * 2
    assert result["bad_clips"] == 2
    assert "limit" in result["verdict"]


def test_a_run_counts_the_bad_clips_of_all_ranks(broken: tuple[str, str], tmp_path: Path) -> None:
    given = recipe_of(
        run={"name": "strict", "folder": str(tmp_path)},
        data={"path": broken[0]},
        train={"batch": BATCH, "steps": STEPS, "checkpoint_every": 5},
    )
    with pytest.raises(DataError, match=r"1 clips .* at most 0 \(feed.max_bad_share\)"):
        api.train({**given, "feed": {"max_bad_share": 0.01}})
    worker = Worker(recipe.load(given), str(tmp_path / "strict"), "thread")
    row = {"epoch": 3, "position": 0, "reason": "rotten"}
    worker.trail._count([row] * 2)  # two of fifty are four in a hundred: as many as may be
    with pytest.raises(DataError, match="3 clips of an epoch do not decode, the last one: rotten"):
        worker.trail._count([row])


def crashing(data: str, bad: str) -> Plan:
    plan = plan_of(data)
    fields = plan.plugin.model_dump()
    return replace(plan, plugin=Crashing(**fields, bad=bad))


def test_a_clip_that_crashes_its_decoder_is_bad_and_no_more(broken: tuple[str, str]) -> None:
    data, wiped = broken
    key = catalog.load(data).part(split="train").row(3)["key"]
    batches, made = fed(crashing(data, key), Share(0, 5), "ray")
    reasons = {row["wanted"][0]: row["reason"] for row in made.ledger}
    assert set(reasons) == {key, wiped}
    assert "crashed" in reasons[key]
    assert [len(batch["position"]) for batch in batches] == [BATCH] * 5


def test_a_damaged_packet_index_is_a_bad_clip(broken: tuple[str, str], tmp_path: Path) -> None:
    for path in storage.list_files(broken[0]):
        storage.put(str(tmp_path / Path(path).name), storage.read(path))
    part = catalog.load(str(tmp_path)).part(split="train")
    row = part.row(5)
    member = next(m for m in row["members"] if m["suffix"] == "idx")
    shard = tmp_path / row["shard"]
    data = bytearray(shard.read_bytes())
    data[member["offset"] + 20 : member["offset"] + 60] = bytes(40)
    shard.write_bytes(data)
    _, made = fed(plan_of(str(tmp_path)), Share(0, 5))
    reasons = {bad["wanted"][0]: bad["reason"] for bad in made.ledger}
    assert "packet index cannot be read" in reasons[row["key"]]


def test_one_video_that_crashes_everywhere_is_not_taken_for_dying_workers(
    broken: tuple[str, str],
) -> None:
    plan = plan_of(broken[0], "test")
    fields = {**plan.plugin.model_dump(), "test_clips": 2}
    plan = replace(plan, plugin=Crashing(**fields, bad=plan.catalog.row(0)["key"]), batch=1)
    batches, made = fed(plan, Share(0, 2), "ray", max_bad_share=1.0)
    assert len(made.ledger) == 2 and batches == []  # both clips of one video, and no other


@pytest.mark.slow
def test_decoders_that_always_crash_stop_the_run(broken: tuple[str, str]) -> None:
    plan = plan_of(broken[0])
    plan = replace(plan, plugin=Suicidal(**plan.plugin.model_dump()), batch=2)
    with pytest.raises((RunError, DataError)):
        fed(plan, Share(0, 2), "ray")


def test_a_plugin_that_fails_stops_with_its_own_error(broken: tuple[str, str]) -> None:
    plan = plan_of(broken[0])
    plan = replace(plan, plugin=Failing(**plan.plugin.model_dump()))
    with pytest.raises(ZeroDivisionError):
        fed(plan, Share(0, 2))
    with pytest.raises(ZeroDivisionError):
        fed(plan, Share(0, 2), "ray")


@pytest.mark.parametrize("transport", ["thread", "ray"])
def test_ragged_samples_come_through_a_collate(broken: tuple[str, str], transport: str) -> None:
    plan = plan_of(broken[0])
    plan = replace(plan, plugin=Ragged(**plan.plugin.model_dump()))
    batches, _ = fed(plan, Share(0, 5), transport)
    assert all(
        len(b["lengths"]) == BATCH and b["lengths"].sum() == len(b["numbers"]) for b in batches
    )
    assert len({batch["numbers"].shape for batch in batches}) > 1


def test_ragged_samples_without_a_collate_are_told(broken: tuple[str, str]) -> None:
    plan = plan_of(broken[0])
    given = Unjoined(**plan.plugin.model_dump())
    assert type(given).collate is plugin.Plugin.collate
    with pytest.raises(ValueError, match="collate"):
        fed(replace(plan, plugin=given), Share(0, 5))

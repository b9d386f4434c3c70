"""The cache of decoded blocks: the same bytes, within its budget, never of another plan."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import feed, recipe
from clipmill import plan as plans
from clipmill.errors import StorageError
from clipmill.feed import Feed, Settings, Share
from clipmill.feed.block import Request
from clipmill.feed.cache import Cache
from clipmill.plan import Plan
from clipmill.plugin import Sample
from tiny import recipe_of


def plan_of(data: str, stage: str = "test", **model: object) -> Plan:
    return plans.make(recipe.load(recipe_of(data={"path": data}, model=model)), stage)  # type: ignore[arg-type]


def fed(plan: Plan, folder: Path, megabytes: int = 50, start: int = 0) -> tuple[list[Sample], Feed]:
    wanted = Settings(cache_mb=megabytes, cache_folder=str(folder))
    last = -(-plan.takes_per_epoch // plan.batch) if plan.stage != "train" else 6
    batches = feed.batches(plan, Share(start, last), wanted)
    return list(batches), batches


def same(one: list[Sample], other: list[Sample]) -> bool:
    return len(one) == len(other) and all(
        all((a[name] == b[name]).all() for name in a) for a, b in zip(one, other, strict=True)
    )


def test_the_second_time_nothing_is_decoded(dataset: str, tmp_path: Path) -> None:
    plan = plan_of(dataset)
    first, before = fed(plan, tmp_path)
    again, after = fed(plan, tmp_path)
    assert same(first, again)
    assert (before.figures.cached, after.figures.made) == (0, 0)
    assert after.figures.cached == before.figures.made == plan.takes_per_epoch


def test_other_views_have_other_blocks(dataset: str, tmp_path: Path) -> None:
    fed(plan_of(dataset), tmp_path)
    batches, made = fed(plan_of(dataset, size=36), tmp_path)
    assert made.figures.cached == 0
    assert batches[0]["rgb"].shape[-2] == 36


def test_training_passes_by(dataset: str, tmp_path: Path) -> None:
    fed(plan_of(dataset, "train"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_budget_holds(dataset: str, tmp_path: Path) -> None:
    plan = plan_of(dataset, size=36)
    first, _ = fed(plan, tmp_path, megabytes=1)
    blocks = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sum(blocks) <= 1 << 20
    block = feed.batches(plan, Share(0, 1))
    assert same(first[:1], list(block))


def test_a_damaged_block_is_made_again(dataset: str, tmp_path: Path) -> None:
    plan = plan_of(dataset)
    first, _ = fed(plan, tmp_path)
    paths = sorted(tmp_path.iterdir())
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    data = bytearray(paths[-1].read_bytes())
    data[len(data) // 2] ^= 0xFF
    paths[-1].write_bytes(data)
    again, _ = fed(plan, tmp_path)
    assert same(first, again)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_byte_is_damaged_nothing_stops(
    blocks: tuple[Plan, list[Sample], bytes], data: st.DataObject
) -> None:
    plan, whole, stored = blocks
    at = data.draw(st.integers(0, len(stored) - 1))
    flip = data.draw(st.integers(1, 255))
    request = Request(plan.plugin, plan.lot(plan.at(0, 16)), tuple(range(16)))
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(50, folder)
        cache.make(request)
        (path,) = Path(folder).iterdir()
        broken = bytearray(stored)
        broken[at] ^= flip
        path.write_bytes(broken)
        made = cache.make(request).columns
    assert set(made) == set(whole[0])
    if made["rgb"].shape == whole[0]["rgb"].shape:  # a flip in a header may pass as another name
        assert made["position"].tolist() == list(range(16))


@pytest.fixture(scope="module")
def blocks(
    dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, list[Sample], bytes]:
    """A plan, its first block, and what the cache keeps of it."""
    folder, plan = tmp_path_factory.mktemp("blocks"), plan_of(dataset)
    request = Request(plan.plugin, plan.lot(plan.at(0, 16)), tuple(range(16)))
    block = Cache(50, str(folder)).make(request)
    (path,) = folder.iterdir()
    return plan, [dict(block.columns)], path.read_bytes()


def test_classes_numbered_anew_are_other_blocks(dataset: str, tmp_path: Path) -> None:
    plan = plan_of(dataset)
    fed(plan, tmp_path)
    meta = {**plan.catalog.meta, "classes": ["another", *plan.catalog.classes]}
    other = replace(plan, catalog=replace(plan.catalog, meta=meta))
    batches, made = fed(other, tmp_path)
    assert made.figures.cached == 0
    assert min(int(batch["target"].min()) for batch in batches) == 1


def test_many_write_at_once(dataset: str, tmp_path: Path) -> None:
    plan = plan_of(dataset)
    requests = [
        Request(plan.plugin, plan.lot(plan.at(at, at + 1)), (at,))
        for at in range(plan.takes_per_epoch)
    ]
    cache = Cache(50, str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(cache.make, requests * 3))
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}
    assert all(len(block.columns["rgb"]) == 1 for block in made)


def test_a_folder_of_someone_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(StorageError, match="someone else's"):
        Cache(10, str(tmp_path))._place()


def test_a_resumed_pass_finds_its_blocks(dataset: str, tmp_path: Path) -> None:
    plan = plan_of(dataset)
    whole, _ = fed(plan, tmp_path)
    rest, _ = fed(plan, tmp_path, start=4)
    assert np.concatenate([b["position"] for b in rest]).tolist() == list(
        range(16, plan.takes_per_epoch)
    )
    assert same(rest, whole[4:])

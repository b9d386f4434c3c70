"""The cache of decoded blocks: the same bytes, within its budget, never of another plan."""

from pathlib import Path

import numpy as np
import pytest

from clipmill import feed, recipe
from clipmill import plan as plans
from clipmill.errors import StorageError
from clipmill.feed import Feed, Settings, Share
from clipmill.feed.cache import Cache
from clipmill.plan import Plan
from clipmill.plugin import Sample
from tiny import recipe_of


def plan_of(data: str, stage: str = "test", **model: object) -> Plan:
    return plans.make(recipe.load(recipe_of(data={"path": data}, model=model)), stage)  # type: ignore[arg-type]


def fed(plan: Plan, folder: Path, megabytes: int = 50, start: int = 0) -> tuple[list[Sample], Feed]:
    settings = Settings(cache_mb=megabytes, cache_folder=str(folder))
    last = -(-plan.takes_per_epoch // plan.batch) if plan.stage != "train" else 6
    batches = feed.batches(plan, Share(start, last), settings)
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

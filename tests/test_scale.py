"""Estimates of scale: rates agree with the benchmarks, sums add up, the page says what is computed."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny
from clipmill import api, catalog, recipe, storage
from clipmill import plan as plans
from clipmill.evidence.pages import begin_of, end_of
from clipmill.plan import page, scale
from clipmill.video import Profile

REPOSITORY = Path(__file__).resolve().parent.parent
MEASURED = {
    row["name"]: row for row in json.loads((REPOSITORY / "tests/bench/results.json").read_text())
}
CORES, FILM_SECONDS = 2, 8  # of the machine and the films of the benchmarks


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return api.estimate("c3d", videos=1_300_000)


def test_the_rates_are_those_that_were_measured() -> None:
    films = MEASURED["ingest/training"]["value"]
    assert pytest.approx(CORES / films / FILM_SECONDS, rel=0.2) == scale.INGEST_SECONDS_A_SECOND
    kept = MEASURED["ingest/keep"]["value"] * 1e6 / CORES
    assert pytest.approx(kept, rel=0.2) == scale.KEEP_BYTES_A_SECOND
    share = MEASURED["feed/feed by Ray over bare decode in 2 processes"]["value"]
    assert pytest.approx(share, rel=0.1) == scale.FEED_SHARE
    ratio = MEASURED["decode/original over ladder, bytes"]["value"]
    assert pytest.approx(ratio, rel=0.2) == scale.SOURCE_BYTES / scale.LADDER_BYTES
    held = MEASURED["plan/10 M a process with catalog and an epoch, a record"]["value"]
    assert pytest.approx(held, rel=0.25) == scale.CATALOG_MEMORY_BYTES
    order = MEASURED["plan/10 M next epoch"]["value"] / 10
    epoch = order + MEASURED["plan/10 M all takes of an epoch of a tenth"]["value"]
    assert pytest.approx(epoch, rel=0.25) == scale.PLAN_SECONDS_A_MILLION


def test_a_catalog_takes_the_bytes_that_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer rows of the catalog's benchmark."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "bench"))
    for name in ("row", "catalog"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    bench, records = importlib.import_module("catalog"), 200_000
    catalog.save_pieces(str(tmp_path), bench.pieces(records), {"classes": bench.class_names()})
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size / records == pytest.approx(scale.CATALOG_FILE_BYTES, rel=0.1)


def test_decoding_is_estimated_as_it_was_measured() -> None:
    aligned = api.estimate("c3d", ["data.aligned=true"], videos=1000, device_clips=1.0)
    core = MEASURED["feed/feed by Ray over bare decode in 2 processes"]["rivals"]
    measured = core["clips/s, feed by Ray"] / CORES
    assert aligned["clips_a_core_second"] == pytest.approx(measured, rel=0.35)


def test_sums_add_up(told: dict[str, Any]) -> None:
    assert told["frames"] == 1_300_000 * 900  # as they are stored
    assert told["stored_bytes"] == 1_300_000 * 30 * scale.LADDER_BYTES
    assert told["shards"] == -(-told["stored_bytes"] // scale.SHARD_BYTES)
    assert told["ingest_hours"]["128"] * 128 == pytest.approx(told["ingest_core_hours"])
    assert told["takes_an_epoch"] == 1_300_000
    for row in told["devices"]:
        needed = row["clips_a_second"] / told["clips_a_core_second"]
        assert needed <= row["decode_cores"] < needed + 1
    twice = api.estimate("c3d", videos=2_600_000, device_clips=100.0)
    assert twice["ingest_core_hours"] == pytest.approx(2 * told["ingest_core_hours"])
    assert [row["device"] for row in twice["devices"]] == ["yours"]
    assert twice["devices"][0]["epoch_hours"] == pytest.approx(2_600_000 / 100 / 3600)


def test_the_page_of_scale_says_what_is_computed(told: dict[str, Any]) -> None:
    text = (REPOSITORY / "deploy" / "SCALE.md").read_text()
    large = api.estimate("c3d", videos=100_000_000, device_clips=1.0)
    for given, whole in ((told, page.markdown([told])), (large, "")):
        name = f"clipmill plan c3d --estimate --videos {given['videos']}"
        part = text.partition(begin_of(name))[2].partition(end_of(name))[0]
        renew = f"renew it: {name} --into deploy/SCALE.md"
        assert whole in part, renew
        for line, value in page.lines(given).items():
            assert line == "videos" or f"| {line} | {value} |" in part, renew


@pytest.mark.parametrize(
    "name", ["triplet", "unet", "two_stream", "audio_visual", "temporal_order"]
)
def test_any_recipe_is_estimated(name: str) -> None:
    given = api.estimate(name, videos=1000, device_clips=10.0)
    assert given["takes_an_epoch"] > 0 and given["decode_core_hours_an_epoch"] > 0
    assert page.markdown([given])


def test_a_dataset_that_is_there_is_estimated_by_its_own_figures(dataset: str) -> None:
    given = api.estimate(tiny.recipe_of(data={"path": dataset}), device_clips=10.0)
    whole = catalog.load(dataset)
    assert given["videos"] == len(whole)
    stored = sum(
        storage.stamp(path)[0] for path in storage.list_files(dataset) if path.endswith(".tar")
    )
    assert stored / 2 < given["stored_bytes"] <= stored  # tars of small records are half padding
    assert given["takes_an_epoch"] == 24  # of the training split alone
    assert given["frames"] == pytest.approx(whole.column("frames").sum(), rel=0.01)


def test_kept_streams_cost_their_bytes() -> None:
    kept = scale.sample(Profile("keep"), 30.0)
    given = recipe.load(tiny.recipe_of())
    told = scale.estimate(
        plans.make(given, "train", kept), plans.of_all(given, kept), scale.Size(1000, 30.0),
        records=len(kept), steps=1,
    )  # fmt: skip
    assert told["stored_bytes"] == told["source_bytes"] == 1000 * 30 * scale.SOURCE_BYTES
    hours = told["source_bytes"] / scale.KEEP_BYTES_A_SECOND / 3600
    assert told["ingest_core_hours"] == pytest.approx(hours)

"""Lots: takes with their rows as plain data, which whoever gets them can read without a catalog."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill import catalog, recipe, shards
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError, DataError, StorageError
from clipmill.plan import Lot, Plan
from clipmill.plugin import Plugin, beside, random_spans
from clipmill.takes import Draw, Stage, Takes, View
from tiny import catalog_of, recipe_of, rows

PLUGIN = recipe.load(recipe_of()).plugin()


class Two(Plugin):
    """Two spans a take, of which the second may be missing."""

    name = "two"
    family = "similar"

    def views(self) -> dict[str, View]:
        return {"train": View(), "test": View()}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        one = random_spans(catalog.column("frames"), catalog.column("fps"), View(), draw)
        both = beside([one, one[np.arange(len(one))[::-1]]])
        both.record[::3, 1] = -1
        return both


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Records that lie in real shards, their members made up."""
    folder = tmp_path_factory.mktemp("lots")
    some: list[dict[str, Any]] = []
    for number in range(2):
        told = rows(6, split="train")
        for row in told:
            row["key"] = f"{number}{row['key'][1:]}"
        path = str(folder / f"s-{number}.tar")
        records = [
            shards.Record(row["key"], {"mp4": row["key"].encode() * 40, "idx": b"index"})
            for row in told
        ]
        placed = {each.key: each.members for each in shards.write(path, records)}
        some += [{**r, "shard": f"s-{number}.tar", "members": placed[r["key"]]} for r in told]
    made = catalog_of([{**row, "suffix": "mp4"} for row in some])
    return catalog.save(str(folder), made.table, dict(made.meta))


@pytest.mark.parametrize("plugin", [PLUGIN, Two()])
def test_a_lot_is_its_takes_with_their_rows(stored: Catalog, plugin: Plugin) -> None:
    plan = Plan(stored, plugin, "train", 0, 4)
    takes = plan.at(3, 11)
    sent: Lot = pickle.loads(pickle.dumps(plan.lot(takes)))
    assert (sent.views, sent.stage, len(sent)) == (takes.views, "train", 8)
    assert sent.digests() == plan.digests(takes)
    assert (sent.takes.record >= 0).tolist() == (takes.record >= 0).tolist()
    for mine, theirs in zip(sent.takes.record.ravel(), takes.record.ravel(), strict=True):
        if theirs < 0:
            assert mine == -1
            continue
        wanted = {**stored.row(int(theirs)), "folder": stored.folder}
        for name in catalog.schema.NOT_FOR_SAMPLES:
            del wanted[name]
        assert sent.rows[mine] == wanted
    assert len(sent.rows) == len({*takes.record.ravel().tolist()} - {-1})
    for name in ("view", "first", "last", "seed", "crop"):
        assert (getattr(sent.takes, name) == getattr(takes, name)).all()


def test_a_row_alone_reads_its_members(stored: Catalog) -> None:
    lot = Plan(stored, PLUGIN, "train", 0, 4).lot(Plan(stored, PLUGIN, "train", 0, 4).at(0, 12))
    for row in lot.rows:
        assert catalog.member(row) == row["key"].encode() * 40 == stored.read(dict(row))
        assert catalog.member(row, "idx") == b"index"
        assert catalog.member_part(row, None, 3, 4) == (row["key"].encode() * 40)[3:7]
        assert catalog.member_part(row, "idx", 2, None) == b"dex"
    with pytest.raises(DataError, match=r"has no member \.flow"):
        catalog.member(lot.rows[0], "flow")


def copied(stored: Catalog, folder: Path, change: str) -> dict[str, Any]:
    """The last row of a dataset whose last shard was changed."""
    row = {**stored.row(11), "folder": str(folder)}
    data = (Path(stored.folder) / "s-1.tar").read_bytes()
    if change == "cut":
        data = data[:6000]
    elif change == "replaced":
        swapped = io.BytesIO()
        with tarfile.open(fileobj=swapped, mode="w") as tar:
            for record in reversed(list(shards.read(str(Path(stored.folder) / "s-1.tar")))):
                for suffix, each in sorted(record.members.items()):
                    member = tarfile.TarInfo(f"{record.key}.{suffix}")
                    member.size = len(each)
                    tar.addfile(member, io.BytesIO(each))
        data = swapped.getvalue()
    if change != "gone":
        (folder / "s-1.tar").write_bytes(data)
    return row


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ("gone", StorageError, "is not there"),
        ("cut", StorageError, "bytes at"),
        ("replaced", DataError, "was changed: .* is not where the catalog has it"),
    ],
)
def test_a_shard_that_is_gone_or_changed_is_named_with_what_to_run(
    stored: Catalog, tmp_path: Path, change: str, error: type[ClipmillError], told: str
) -> None:
    row = copied(stored, tmp_path, change)
    with pytest.raises(error, match=rf"s-1\.tar.*{told}.*run `clipmill verify {tmp_path}`"):
        catalog.member(row)
    if change != "replaced":
        with pytest.raises(error, match=rf"s-1\.tar.*run `clipmill verify {tmp_path}`"):
            catalog.member_part(row, None, 0, 5)

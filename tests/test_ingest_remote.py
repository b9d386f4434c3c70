"""Ingest from and into an object store, and from other people's tars."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from clipmill import catalog, ingest, storage
from clipmill.ingest import Options
from test_ingest import heap, records

pytest_plugins = ["servers"]


@pytest.fixture(scope="module")
def local(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold videos, of which one is none, and the dataset of them on a disk."""
    folder = tmp_path_factory.mktemp("local")
    (heap(folder / "v", {"a": 2, "b": 2}) / "a" / "bad.mp4").write_text("no video")
    ingest.run(str(folder / "v"), str(folder / "d"))
    return folder


def test_a_dataset_in_an_object_store_is_that_of_a_disk(store: str, local: Path) -> None:
    for path in (local / "v").rglob("*.mp4"):
        storage.put(storage.join(store, "v", path.parent.name, path.name), path.read_bytes())
    source, out = storage.join(store, "v"), storage.join(store, "d")
    ingest.run(source, out)
    there, here = catalog.load(out), catalog.load(str(local / "d"))
    assert there.digest == here.digest and len(there) == 4
    rows = zip(there.table.to_pylist(), here.table.to_pylist(), strict=True)
    assert all(there.read(a, "json") == here.read(b, "json") for a, b in rows)
    assert ingest.verify(out) == []
    names = {storage.name_of(path) for path in storage.list_files(out)}
    assert names == {path.name for path in (local / "d").iterdir()} - {".held"}
    again = ingest.run(source, out)
    assert again["nothing_to_do"] and again["quarantined"] == 1


def test_our_own_shards_can_be_ingested_again(local: Path, tmp_path: Path) -> None:
    first, second = local / "d", tmp_path / "again"
    shards = tmp_path / "tars"
    shards.mkdir()
    for path in first.glob("*.tar"):
        (shards / path.name).write_bytes(path.read_bytes())
    counts = ingest.run(str(shards), str(second), Options(layout="webdataset"))
    assert counts["taken"] == 4 and ingest.verify(str(second)) == []
    told_of = [
        sorted((row["label"], row["split"]) for row in records(data)) for data in (first, second)
    ]
    assert told_of[0] == told_of[1]


@pytest.mark.usefixtures("ray_local")
def test_foreign_tars_become_records(tmp_path: Path) -> None:
    videos = sorted(heap(tmp_path / "v", {"a": 3}).rglob("*.mp4"))
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "00000.tar", "w") as tar:
        for number, path in enumerate(videos):
            about = json.dumps({"caption": f"words {number}", "url": "x"}).encode()
            for suffix, data in (("json", about), ("mp4", path.read_bytes())):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    ingest.run(str(tmp_path / "tars"), str(tmp_path / "d"))
    rows = records(tmp_path / "d")
    captions = sorted(dict(row["attributes"])["caption"] for row in rows)
    assert captions == ["words 0", "words 1", "words 2"]
    assert all("00000.tar#00000000" in row["source"] for row in rows)

"""Ingest from and into an object store, and from other people's tars."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from clipmill import catalog, ingest, storage
from clipmill.ingest import Options
from test_ingest import heap, records
from test_ingest_hostile import RUN

pytest_plugins = ["servers"]


def ingested_alone(source: str, out: str) -> None:
    """Ingest in a process whose own Ray sees the store's settings."""
    done = subprocess.run([sys.executable, "-c", RUN, source, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_dataset_in_an_object_store_is_that_of_a_disk(root: str, tmp_path: Path) -> None:
    local = heap(tmp_path / "v", {"a": 4, "b": 4})
    (local / "a" / "bad.mp4").write_text("no video")
    for path in local.rglob("*.mp4"):
        storage.put(storage.join(root, "v", path.parent.name, path.name), path.read_bytes())
    source, out = storage.join(root, "v"), storage.join(root, "d")
    ingested_alone(source, out)
    ingested_alone(str(local), str(tmp_path / "d"))
    there, here = catalog.load(out), catalog.load(str(tmp_path / "d"))
    assert there.digest == here.digest and len(there) == 8
    rows = zip(there.table.to_pylist(), here.table.to_pylist(), strict=True)
    assert all(there.read(a, "json") == here.read(b, "json") for a, b in rows)
    assert ingest.verify(out) == []
    names = {storage.name_of(path) for path in storage.list_files(out)}
    assert names == {path.name for path in (tmp_path / "d").iterdir()} - {".held"}
    again = ingest.run(source, out)
    assert again["nothing_to_do"] and again["quarantined"] == 1


@pytest.mark.usefixtures("ray_local")
def test_our_own_shards_can_be_ingested_again(tmp_path: Path) -> None:
    first, second = tmp_path / "d", tmp_path / "again"
    ingest.run(str(heap(tmp_path / "v", {"a": 4, "b": 4})), str(first))
    shards = tmp_path / "tars"
    shards.mkdir()
    for path in first.glob("*.tar"):
        (shards / path.name).write_bytes(path.read_bytes())
    counts = ingest.run(str(shards), str(second), Options(layout="webdataset"))
    assert counts["taken"] == 8 and ingest.verify(str(second)) == []
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

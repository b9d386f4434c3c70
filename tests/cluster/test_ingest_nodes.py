"""Ingest on two nodes of which one is lost: only its unfinished pieces are made again."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipmill import catalog, ingest
from test_ingest import files, heap

PATIENCE_SECONDS = 180
RUN = "import sys; from clipmill import ingest; ingest.run(sys.argv[1], sys.argv[2])"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_lost_node_costs_only_its_unfinished_pieces(
    two_nodes: tuple[object, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, second = two_nodes
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # type: ignore[attr-defined]
    source, out = heap(tmp_path / "v", {"a": 150, "b": 150}), tmp_path / "d"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(source), str(out)])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(out.glob(".*.part")):  # shards are being written
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    cluster.remove_node(second, allow_graceful=False)  # type: ignore[attr-defined]
    assert process.wait(PATIENCE_SECONDS) == 0
    assert len(catalog.load(str(out))) == 300 and ingest.verify(str(out)) == []
    again = tmp_path / "again"
    assert subprocess.run([sys.executable, "-c", RUN, str(source), str(again)]).returncode == 0
    assert files(again) == files(out)

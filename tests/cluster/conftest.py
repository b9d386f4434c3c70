"""What the tests on clusters share: those of two nodes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

# A training worker asks for one byte of memory, so that a node which tells of one holds one worker.
ROOM_FOR_ONE = {"num_cpus": 1, "memory": 1}


@contextlib.contextmanager
def cluster_of_two(**node: Any) -> Iterator[tuple[Any, Any]]:
    """Run a cluster of two such nodes; gives it and the node that may be lost."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        # Without a port of its own wish it looks for a free one: another Ray may run here.
        head_node_args={**node, "include_dashboard": False, "dashboard_port": None},
    )
    second = cluster.add_node(**node)
    cluster.wait_for_nodes()
    yield cluster, second
    with contextlib.suppress(Exception):
        cluster.shutdown()


@pytest.fixture
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """Start a cluster of two nodes of one CPU; gives it and the node that may be lost."""
    with cluster_of_two(num_cpus=1) as started:
        yield started


@pytest.fixture
def two_small_nodes() -> Iterator[tuple[Any, Any]]:
    """Start the same with room for one training worker on each node."""
    with cluster_of_two(**ROOM_FOR_ONE) as started:
        yield started

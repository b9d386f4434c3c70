"""What the tests on clusters share: one of two nodes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """Start a cluster of two nodes of one CPU; gives it and the node that may be lost."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        # Without a port of its own wish it looks for a free one: another Ray may run here.
        head_node_args={"num_cpus": 1, "include_dashboard": False, "dashboard_port": None},
    )
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster, second
    with contextlib.suppress(Exception):
        cluster.shutdown()

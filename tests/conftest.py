"""What several test modules share: a clean environment and one small local Ray."""

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

import tiny
from clipmill import api
from clipmill.cluster import QUIET

# A busy machine is slow, and that is no fault of the code.
settings.register_profile("clipmill", deadline=None)
settings.load_profile("clipmill")

# Processes that wait for the next test's tasks: to start one with torch in it takes seconds.
IDLE_WORKERS = 4

# Settings of the person who runs the tests must not send them to a real cluster, server or store.
NOT_OURS = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


# Who speaks to an object store does it as this; processes of Ray know it from their start.
STORE = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session", autouse=True)
def store_port(own_environment: None) -> Iterator[int]:
    """Keep a port for a store of objects, whose address all processes are told."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server may take it
        kept.bind(("127.0.0.1", 0))
        port = int(kept.getsockname()[1])
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield port


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*NOT_OURS, *(name for name in os.environ if name.startswith("AWS_"))):
            patch.delenv(name, raising=False)
        for name, value in {**QUIET, **STORE}.items():
            patch.setenv(name, value)
        # Functions of test modules travel by name to Ray's workers.
        patch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)
        # Whoever starts the tests in the background has Ctrl-C ignored, and so would all children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Without a token of ours Ray writes one into the home folder.
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        yield


@pytest.fixture(scope="session")
def ray_local(store_port: int) -> Iterator[None]:
    """Run one quiet Ray with two CPUs for the whole session, gone when it ends."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        object_store_memory=512 * 2**20,
        include_dashboard=True,  # without it Ray Train complains every second
        _system_config={"num_workers_soft_limit": IDLE_WORKERS},
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def dataset(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a small dataset once: two classes, the pattern moves left or right."""
    folder = tmp_path_factory.mktemp("dataset")
    tiny.write_videos(folder / "videos")
    return tiny.ingested(folder / "videos", folder / "data")


@pytest.fixture(scope="session")
def trained(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train a small run in this process once; its folder holds nothing else."""
    return api.train(tiny.run_recipe(dataset, tmp_path_factory.mktemp("runs"), "trained"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small lose more to a second thread than they gain."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

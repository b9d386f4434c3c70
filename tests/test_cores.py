"""How many cores may be used, by limits as systems tell them."""

import math
import os
from pathlib import Path

import pytest

from clipmill import cores

GROUPS = {
    "two, in a container": ("0::/", {"cpu.max": "200000 100000\n"}, 2.0),
    "a half": ("0::/", {"cpu.max": "50000 100000\n"}, 0.5),
    "no limit": ("0::/", {"cpu.max": "max 100000\n"}, math.inf),
    "the least of those around it": (
        "0::/system.slice/it.service",
        {
            "system.slice/it.service/cpu.max": "300000 100000\n",
            "system.slice/cpu.max": "max 100000\n",
            "cpu.max": "150000 100000\n",
        },
        1.5,
    ),
    "version 1, by the host's name of the group": (
        "5:memory:/docker/0a1b\n4:cpu,cpuacct:/docker/0a1b",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "memory/cpu.cfs_quota_us": "100000\n",
            "memory/cpu.cfs_period_us": "100000\n",
        },
        4.0,
    ),
    "version 1, the controllers in another order": (
        "4:cpuacct,cpu:/",
        {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2.5,
    ),
    "version 1 without a limit": (
        "1:cpu:/",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        math.inf,
    ),
    "what is no number": ("0::/", {"cpu.max": "many\n"}, math.inf),
    "a period of nothing": ("0::/", {"cpu.max": "1 0\n"}, math.inf),
    "nothing there": ("0::/gone", {}, math.inf),
    "what is no list": ("nonsense", {"cpu.max": "100000 100000\n"}, math.inf),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_quota_of_a_container_is_read(name: str, tmp_path: Path) -> None:
    told, files, wanted = GROUPS[name]
    for place, content in {"proc/self/cgroup": told, **under_groups(files)}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(content)
    assert cores.quota(tmp_path) == wanted


def under_groups(files: dict[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{place}": content for place, content in files.items()}


def test_a_system_without_groups_has_no_quota(tmp_path: Path) -> None:
    assert cores.quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("affinity", "quota", "wanted"), [(96, 2.0, 2), (96, 1.2, 2), (4, math.inf, 4), (8, 0.1, 1)]
)
def test_the_lesser_of_affinity_and_quota_may_be_used(
    affinity: int, quota: float, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.usable() == wanted

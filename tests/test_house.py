"""The house around the code: `platform/` is a source root and hides nobody's module."""

import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
STDLIB_PLATFORM = Path(sysconfig.get_path("stdlib")) / "platform.py"


def platform_file() -> str:
    import platform

    return str(platform.__file__)


def test_platform_is_no_package() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    assert Path(platform.__file__) == STDLIB_PLATFORM


@pytest.mark.parametrize("folder", [".", "platform", "plugins", "tests"])
def test_platform_is_the_standard_librarys_from_every_folder(folder: str) -> None:
    asked = [sys.executable, "-c", "import clipmill, platform; print(platform.__file__)"]
    told = subprocess.run(
        asked, cwd=REPOSITORY / folder, capture_output=True, text=True, check=True
    )
    assert Path(told.stdout.strip()) == STDLIB_PLATFORM


@pytest.mark.usefixtures("ray_local")
def test_platform_is_the_standard_librarys_in_a_ray_worker() -> None:
    import ray

    told = ray.get(ray.remote(platform_file).options(num_cpus=0.5).remote())
    assert Path(told) == STDLIB_PLATFORM

"""The template: a stranger's distribution, built, installed beside clipmill and used."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny

TEMPLATE = Path(__file__).resolve().parent.parent / "plugins" / "template"

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Run this Python with a module; return what it printed, or fail with all it said."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a copy and install it into a folder of its own."""
    work = tmp_path_factory.mktemp("template")
    shutil.copytree(TEMPLATE, work / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
    offline = ("--no-deps", "--no-index")
    run(*pip, "wheel", *offline, "--no-build-isolation", "-w", "wheels", "./source", cwd=work)
    (wheel,) = (work / "wheels").glob("clipmill_template-*.whl")
    run(*pip, "install", *offline, "--target", "site", str(wheel), cwd=work)
    return work / "site"


LIST = """
import json
from clipmill import plugin
print(json.dumps([[e.name, e.package, e.version, e.fault] for e in plugin.found()]))
"""


def test_the_template_is_found_beside_the_others(installed: Path, tmp_path: Path) -> None:
    found = json.loads(run("-c", LIST, cwd=tmp_path, path=installed))
    assert ["tiny_video", "clipmill-template", "0.1.0", ""] in found
    assert {"c3d", "single_frame"} <= {name for name, *_ in found}


def test_the_recipe_in_the_readme_is_a_whole_one(installed: Path, tmp_path: Path) -> None:
    words = (TEMPLATE / "README.md").read_text().splitlines()
    shown = [line for line in words if re.match(r" {7}\w+: +\{", line)]
    (tmp_path / "recipe.yaml").write_text(textwrap.dedent("\n".join(shown)))
    parse = "from clipmill import recipe; print(recipe.load('recipe.yaml').train.steps)"
    assert run("-c", parse, cwd=tmp_path, path=installed) == "300\n"


def test_the_templates_own_test_passes(installed: Path) -> None:
    tests = str(installed.parent / "source" / "tests")
    told = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, cwd=installed.parent, path=installed
    )
    assert "1 passed" in told


COMMAND = ("-c", "from clipmill.cli import main; main()")


def test_the_template_is_listed_checked_and_trained_by_the_command_line(
    installed: Path, dataset: str, tmp_path: Path
) -> None:
    def verb(*words: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            run(*COMMAND, *words, "--json", cwd=tmp_path, path=installed)
        )
        return told

    assert "tiny_video" in [each["name"] for each in verb("plugins", "list")["plugins"]]
    assert verb("plugins", "check", "tiny_video")["ok"]
    recipe = tiny.run_recipe(dataset, tmp_path / "runs", "template", steps=6)
    recipe["model"] = {"plugin": "tiny_video", "channels": 8}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = verb("train", "recipe.yaml")
    assert result["steps"] == 6
    assert 0 <= verb("evaluate", "template")["metrics"]["accuracy"] <= 1

"""The README: its code runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"

CHECK = """
from clipmill import contract
from my_models import Tiny
report = contract.examine(Tiny())
print(report)
assert report.ok
"""


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_model_in_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    package = tmp_path / "my_models"
    package.mkdir()
    for name in ("__init__", "network"):
        (code,) = [block for block in blocks() if block.startswith(f"# my_models/{name}.py")]
        (package / f"{name}.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_block_is_python() -> None:
    assert len(blocks()) == 3
    for block in blocks():
        compile(block, str(README), "exec")

"""An environment over this one, for a rival whose requirements clash with ours.

It sees all that is installed here and holds only what must differ: some MB, not a second torch.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path


def python_with(requirements: list[str], folder: Path) -> Path:
    """Return the interpreter of the overlay, made on first use."""
    python, done = folder / "bin" / "python", folder / "DONE"
    wanted = " ".join(requirements)
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"feed: installing {wanted} into {folder}, once", file=sys.stderr, flush=True)
    subprocess.run(
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True
    )
    paths = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    below = sysconfig.get_path("purelib")
    line = f"import site; site.addsitedir({below!r})\n"  # its own links to sources included
    (Path(paths.stdout.strip()) / "below.pth").write_text(line)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *requirements]
    subprocess.run(command, check=True, stdout=sys.stderr)
    done.write_text(wanted)
    return python

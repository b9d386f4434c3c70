"""Append one line to RESULTS.md from a JUnit report: date, result, time, commit.

Knows nothing of how the tests were run.
"""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADER = """# All tests, slow ones included

A line a run of `make test-all`, written by it.

| date (UTC) | result | seconds | commit |
|---|---|---|---|
"""


def result(report: Path) -> tuple[str, str]:
    """Return what became of the tests and the seconds they took, both as text."""
    if not report.is_file():
        return "broken off, no report", "-"
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    seconds = 0.0
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        seconds += float(suite.get("time", 0))
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    others = [f"{counts[name]} {name}" for name in ("failures", "errors", "skipped")]
    return ", ".join([f"{passed} passed", *others]), f"{seconds:.0f}"


def commit() -> str:
    """Return the short commit of the working tree, with + where it has changes."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=RESULTS.parent, check=False)
    return done.stdout.strip() or "no commit"


def main() -> None:
    line = " | ".join([f"{datetime.now(UTC):%Y-%m-%d %H:%M}", *result(Path(sys.argv[1])), commit()])
    before = RESULTS.read_text() if RESULTS.exists() else HEADER
    RESULTS.write_text(f"{before}| {line} |\n")
    print(f"{RESULTS.name}: {line}")


if __name__ == "__main__":
    main()

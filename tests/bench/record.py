"""Put one line into the first table of RESULTS.md from JUnit reports: date, result, time, commit.

What was skipped is named with its reason. Knows nothing of how the tests were run.
"""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
RULE = "|---|---|---|---|\n"  # ends the head of the table, which is the first of the file
COUNTED = ("tests", "failures", "errors", "skipped")


def result(reports: Sequence[Path]) -> tuple[str, str]:
    """Return what became of the tests and the seconds they took, both as text."""
    if missing := [report.stem for report in reports if not report.is_file()]:
        return f"broken off, no report of {', '.join(missing)}", "-"
    suites = [s for r in reports for s in ElementTree.parse(r).getroot().iter("testsuite")]
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in COUNTED}
    passed = counts.pop("tests") - sum(counts.values())
    told = [f"{passed} passed", *(f"{count} {name}" for name, count in counts.items())]
    why = {f"{case.get('name')}: {_reason(case)}" for suite in suites for case in _skipped(suite)}
    text = ", ".join(told) + (f" ({'; '.join(sorted(why))})" if why else "")
    return text.replace("|", "/"), f"{sum(float(suite.get('time', 0)) for suite in suites):.0f}"


def _skipped(suite: ElementTree.Element) -> list[ElementTree.Element]:
    return [case for case in suite.iter("testcase") if case.find("skipped") is not None]


def _reason(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    return "" if skipped is None else str(skipped.get("message"))


def commit() -> str:
    """Return the short commit of the working tree, with + where it has changes."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=RESULTS.parent, check=False)
    return done.stdout.strip() or "no commit"


def main() -> None:
    reports = [Path(word) for word in sys.argv[1:]]
    line = " | ".join([f"{datetime.now(UTC):%Y-%m-%d %H:%M}", *result(reports), commit()])
    head, rows = RESULTS.read_text().split(RULE, 1)
    told, rest = rows.split("\n\n", 1)
    RESULTS.write_text(f"{head}{RULE}{told}\n| {line} |\n\n{rest}")
    print(f"{RESULTS.name}: {line}")


if __name__ == "__main__":
    main()

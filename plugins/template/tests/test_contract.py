"""The contract over this package's plugin: run it after every change."""

from clipmill.contract import check


def test_contract() -> None:
    """A plugin that keeps the contract trains, resumes, serves and exports as all others do."""
    report = check("tiny_video")
    assert report.ok, f"\n{report}"

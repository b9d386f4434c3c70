"""The command line: one function a verb, its signature the options, its docstring the help.

Only typer is imported before a verb runs; what a verb needs is imported inside it. The order of
the imports below is the order of the verbs in `--help`.
"""

from clipmill.cli import datasets, training, answers, galleries, ledger, jobs, installed, tables  # noqa: I001
from clipmill.cli.app import app, main

__all__ = [
    "answers",
    "app",
    "datasets",
    "galleries",
    "installed",
    "jobs",
    "ledger",
    "main",
    "tables",
    "training",
]

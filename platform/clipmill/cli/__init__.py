"""The command line: one function a verb, its signature the options, its docstring the help.

Only typer is imported before a verb runs; what a verb needs is imported inside it.
"""

from clipmill.cli.verbs import app, main

__all__ = ["app", "main"]

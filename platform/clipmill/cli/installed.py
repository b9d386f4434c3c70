"""Verbs about the plugins that are installed."""

from typing import Annotated, Any

import typer

from clipmill.cli import screen
from clipmill.cli.app import app, verb

plugins = typer.Typer(
    help="Models that are installed.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(plugins, name="plugins")


def _show_plugins(result: dict[str, Any]) -> None:
    shown = ("name", "family", "package", "version")
    screen.table("", shown, [[each[key] for key in shown] for each in result["plugins"]])
    for each in result["broken"]:
        screen.error(f"plugin {each['name']} of {each['package']} is broken: {each['fault']}")


@verb(plugins, "list", _show_plugins)
def plugins_list() -> dict[str, Any]:
    """List the plugins that are installed."""
    from clipmill import api

    return api.plugins_list()


def _show_plugin(result: dict[str, Any]) -> None:
    screen.pairs({key: value for key, value in result.items() if key != "fields"})
    shown = ("name", "default", "meaning")
    screen.table("fields", shown, [[each[key] for key in shown] for each in result["fields"]])


@verb(plugins, "show", _show_plugin)
def plugins_show(
    name: Annotated[str, typer.Argument(help="A plugin.")],
    classes: Annotated[int, typer.Option(min=1, help="Classes to count parameters for.")] = 101,
) -> dict[str, Any]:
    """Show a plugin's fields, paper and parameters at default size."""
    from clipmill import api

    return api.plugins_show(name, classes=classes)


def _show_checks(result: dict[str, Any]) -> None:
    words = {True: "ok", False: "FAILED", None: "not claimed"}
    rows = [[each["check"], words[each["ok"]], each["detail"]] for each in result["checks"]]
    screen.table(result["name"], ("check", "", ""), rows)


@verb(plugins, "check", _show_checks)
def plugins_check(name: Annotated[str, typer.Argument(help="A plugin.")]) -> dict[str, Any]:
    """Run the contract on a plugin; needs no data."""
    from clipmill import api

    result = api.plugins_check(name)
    return {**result, "exit_code": 0 if result["ok"] else 1}

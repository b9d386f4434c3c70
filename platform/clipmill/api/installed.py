"""Verbs about the plugins that are installed."""

from typing import Any


def plugins_list() -> dict[str, Any]:
    """All plugins that are installed, and those that are broken with the reason."""
    from clipmill import plugin

    entries = plugin.found()
    good = [
        {"name": e.name, "family": e.plugin.family, "package": e.package, "version": e.version}
        for e in entries
        if e.plugin
    ]
    bad = [
        {"name": e.name, "package": e.package, "fault": e.fault} for e in entries if not e.plugin
    ]
    return {"plugins": good, "broken": bad}


def plugins_show(name: str, *, classes: int = 101) -> dict[str, Any]:
    """A plugin's fields, paper and parameters at default size, counted on the meta device."""
    import torch

    from clipmill import infer, plugin

    kind = plugin.load(name)
    with torch.device("meta"):
        module = infer.build(kind(), tuple(f"class {i}" for i in range(classes)))
    fields = [
        {
            "name": key,
            "default": field.get_default(call_default_factory=True),
            "meaning": field.description or "",
        }
        for key, field in kind.model_fields.items()
    ]
    return {
        "name": name,
        "family": kind.family,
        "paper": kind.paper,
        "metric": kind.metric,
        "fields": fields,
        "classes": classes,
        "parameters": sum(weight.numel() for weight in module.parameters()),
    }


def plugins_check(name: str) -> dict[str, Any]:
    """Run the contract on a plugin."""
    from clipmill import contract

    report = contract.check(name)
    checks = [{"check": check, "ok": ok, "detail": detail} for check, ok, detail in report.results]
    return {"name": name, "ok": report.ok, "checks": checks}

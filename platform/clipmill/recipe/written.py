"""Recipes as users write them: YAML by path or name, and dotted overrides."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clipmill.errors import RecipeError
from clipmill.recipe.whole import Recipe, parse


def load(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Recipe:
    """Read a recipe from YAML or plain data, and set `dotted.key=value` overrides."""
    return parse(read(source, overrides))


def read(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Read YAML or plain data with overrides set, not yet checked."""
    data = _copied(source) if isinstance(source, Mapping) else _parsed(find(source))
    for override in overrides:
        _set(data, override)
    return data


def find(source: str | os.PathLike[str]) -> Path:
    """Find a recipe by path, or by the name of one that clipmill ships."""
    path = Path(source)
    if path.is_file():
        return path
    names = [path.name, f"{path.name}.yaml"]
    shipped = [folder / name for folder in shipped_folders() for name in names]
    for candidate in shipped:
        if candidate.is_file():
            return candidate
    known = sorted({p.stem for folder in shipped_folders() for p in folder.glob("*.yaml")})
    raise RecipeError(f"no recipe {path}", f"a YAML file or one of {', '.join(known)}")


def shipped_folders() -> list[Path]:
    """Where the recipes lie: in an installed package, or in the repository."""
    package = Path(__file__).resolve().parents[1]
    return [f for f in (package / "pipelines", package.parents[1] / "pipelines") if f.is_dir()]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {error}", "a YAML file") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds no keys", "a recipe with run, data and model")
    return data


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copied(value) if isinstance(value, Mapping) else value for key, value in data.items()
    }


def _set(data: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        raise RecipeError(f"the override {override!r}", "dotted.key=value, such as train.steps=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"the value of {override!r}", "a YAML value") from None
    place(data, dotted, value)


def place(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value of plain data; sections on the way are made."""
    *path, last = dotted.split(".")
    for part in path:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{dotted}: {part} is {inner!r}", "a section")
        data = inner
    data[last] = value

"""The one direction of imports, read from the source and never by importing it.

The rules are the tables below. A check takes the parsed tree and returns its faults as
lines; every check runs over the real tree, and over a bad one that it has to refuse.
"""

import ast
import graphlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Lowest first, as in the design: a module imports only from lines above its own.
LINES = (
    "__init__",
    "errors amounts watch cores",
    "storage",
    "jail",
    "video",
    "catalog",
    "shards",
    "takes",
    "plugin",
    "recipe",
    "plan augment cluster folder",
    "ingest feed checkpoint device readable",
    "viewing",
    "infer look",
    "train",
    "evaluate",
    "compare",
    "track",
    "launch",
    "serve jobs",
    "contract stats browse runs promote sweep features picture gallery bulk",  # what stands beside the way of the data has its lines from here to api
    "clean",
    "evidence",  # runs trials by the launch, and counts with the contract's tiny batches
    "transfer",  # counts and writes tables as evidence does
    "api",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, line in enumerate(LINES) for name in line.split()}

# Modules beside the way of the data: exactly what of the core each may import.
BESIDE = {"worlds": {"errors", "video"}}

# One owner each; nobody else in the core imports them, not even inside a function.
OWNERS = {
    "av": {"video"},
    "cv2": {"video"},
    "pycocotools": {"video"},
    "tarfile": {"shards"},
    "mlflow": {"track"},
    "fastapi": {"serve"},
    "uvicorn": {"serve"},
    "h11": {"serve"},
    "prometheus_client": {"serve"},
    "typer": {"cli"},
    "ray.data": {"ingest", "cluster"},
    "ray.train": {"launch"},
    "ray.job_submission": {"jobs"},
    "pickle": set[str](),
}

# Loaded in decode workers or for `--help`: nothing heavy may come with the import itself.
LIGHT = set(
    "__init__ errors amounts watch cores storage jail video catalog shards takes plugin recipe plan ingest feed "
    "folder runs worlds viewing api cli __main__".split()
)
HEAVY = ("torch", "torchvision", "torchmetrics", "mlflow", "sklearn")

PLUGINS_MAY_IMPORT = {"errors", "video", "takes", "plugin"}
OFFERS_BACKBONES = "clipmill_classify"


@dataclass(frozen=True)
class Import:
    """One imported name, and when: at load, when a function is called, or for types only."""

    name: str
    line: int
    when: Literal["load", "call", "types"]

    def is_of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    docstring: str | None
    imports: tuple[Import, ...]

    @property
    def unit(self) -> str:
        """Return the core module this file belongs to: `feed` for clipmill/feed/ring.py."""
        return (self.name.split(".")[1:] or ["__init__"])[0]

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    def at(self, found: Import) -> str:
        return f"{self.path.name}:{found.line}"


Tree = Mapping[str, Module]


# --- reading


def imported(node: ast.stmt, module: str, is_package: bool) -> Iterator[str]:
    """Yield the dotted names that an import statement may load: package and member."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = module.split(".")
        above = above[: len(above) - node.level + is_package] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_in(body: list[ast.stmt], module: str, is_package: bool) -> Iterator[Import]:
    def walk(nodes: list[ast.stmt], when: Literal["load", "call", "types"]) -> Iterator[Import]:
        for node in nodes:
            for name in imported(node, module, is_package):
                yield Import(name, node.lineno, when)
            deeper = when
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                deeper = "call"
            for field, value in ast.iter_fields(node):
                blocks = value if isinstance(value, list) else []
                types_only = field == "body" and is_for_types(node)
                for block in blocks:
                    inner = getattr(block, "body", None)
                    if isinstance(block, ast.stmt):
                        yield from walk([block], "types" if types_only else deeper)
                    elif isinstance(inner, list):  # except handlers and match cases
                        yield from walk(inner, deeper)

    return walk(body, "load")


def read(root: Path) -> dict[str, Module]:
    """Parse every module under a source root, by dotted name."""
    tree = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = path.name == "__init__.py"
        name = ".".join(parts[:-1] if is_package else parts)
        parsed = ast.parse(path.read_text(encoding="utf-8"), str(path))
        found = tuple(imports_in(parsed.body, name, is_package))
        tree[name] = Module(name, path, ast.get_docstring(parsed), found)
    return tree


def read_all(root: Path) -> dict[str, Module]:
    """Parse the core and the plugins; the template brings its own source root."""
    plugins = read(root / "plugins")
    ours = {name: module for name, module in plugins.items() if module.package != "template"}
    return {**read(root / "platform"), **ours, **read(root / "plugins" / "template" / "src")}


def core_of(tree: Tree) -> list[Module]:
    return [module for module in tree.values() if module.package == "clipmill"]


def plugins_of(tree: Tree) -> list[Module]:
    return [module for module in tree.values() if module.package != "clipmill"]


# --- checks


def unknown_modules(tree: Tree) -> list[str]:
    return [
        f"{module.path.name} has no place: put {module.unit!r} into LINES in "
        f"tests/test_layers.py and into the list of core modules in the design, on the "
        f"lowest line that is below all it imports"
        for module in core_of(tree)
        if module.unit not in RANK and module.unit not in BESIDE
    ]


def upward_edges(tree: Tree) -> list[str]:
    faults = []
    for module in core_of(tree):
        for found in module.imports:
            other = tree.get(found.name)
            if other is None or other.package != "clipmill" or other.unit == module.unit:
                continue
            if other.unit == "__init__" and found.name == "clipmill":
                continue  # `from clipmill import video` names both; the member is what counts
            if not may_import(module.unit, other.unit):
                faults.append(f"{module.at(found)}: {module.unit} must not import {other.unit}")
    return faults


def may_import(unit: str, other: str) -> bool:
    if unit in BESIDE:
        return other in BESIDE[unit]
    below = RANK.get(other, -1) if other not in BESIDE else RANK["evaluate"]
    return below < RANK.get(unit, -1)


def cycles(tree: Tree) -> list[str]:
    graph = {module.name: needed_by(module, tree) for module in tree.values()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return ["import cycle: " + " -> ".join(error.args[1])]
    return []


def needed_by(module: Module, tree: Tree) -> set[str]:
    """Return the modules it imports; `from package import member` needs the member alone."""
    ours = [found for found in module.imports if found.name in tree]
    return {
        found.name
        for found in ours
        if not any(o.line == found.line and o.name.startswith(found.name + ".") for o in ours)
    } - {module.name}


def borrowed_libraries(tree: Tree) -> list[str]:
    return [
        f"{module.at(found)}: {found.name} belongs to {' and '.join(sorted(owners)) or 'nobody'}"
        for module in core_of(tree)
        for found in module.imports
        for library, owners in OWNERS.items()
        if found.is_of(library) and found.when != "types" and module.unit not in owners
    ]


def loaded_by(name: str, tree: Tree) -> dict[str, str]:
    """Return all that importing a module loads, each with the module that asks for it."""
    loaded: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        for found in tree[current].imports if current in tree else ():
            if found.when == "load" and found.name not in loaded:
                loaded[found.name] = current
                waiting.append(found.name)
    return loaded


def heavy_loads(tree: Tree, light: set[str]) -> list[str]:
    return [
        f"importing {name} loads {library} through {asker}: import it inside the function"
        for name in sorted(light & tree.keys())
        for library, asker in loaded_by(name, tree).items()
        if library in HEAVY
    ]


def heavy_core(tree: Tree) -> list[str]:
    return heavy_loads(tree, {m.name for m in core_of(tree) if m.unit in LIGHT})


def heavy_plugins(tree: Tree) -> list[str]:
    return heavy_loads(tree, entry_modules())


def entry_modules() -> set[str]:
    """Return the modules that the entry points of all our distributions name."""
    files = [REPOSITORY / "pyproject.toml", REPOSITORY / "plugins/template/pyproject.toml"]
    projects = [tomllib.loads(file.read_text())["project"] for file in files if file.exists()]
    entries = [project["entry-points"]["clipmill.plugins"] for project in projects]
    return {place.split(":")[0] for table in entries for place in table.values()}


def plugins_in_core(tree: Tree) -> list[str]:
    packages = {module.package for module in plugins_of(tree)}
    return [
        f"{module.at(found)}: the core asks entry points for plugins, it must not import {found.name}"
        for module in core_of(tree)
        for found in module.imports
        if found.name.split(".")[0] in packages
    ]


def plugin_reach(tree: Tree) -> list[str]:
    packages = {module.package for module in plugins_of(tree)}
    return [
        f"{module.at(found)}: a plugin must not import {found.name}"
        for module in plugins_of(tree)
        for found in module.imports
        if reaches_too_far(module, found, packages)
    ]


def reaches_too_far(module: Module, found: Import, packages: set[str]) -> bool:
    package, *rest = found.name.split(".")
    if package == "clipmill":
        return bool(rest) and rest[0] not in PLUGINS_MAY_IMPORT
    return package in packages - {module.package, OFFERS_BACKBONES}


def silent_modules(tree: Tree) -> list[str]:
    return [f"{module.path} has no docstring" for module in tree.values() if not module.docstring]


CHECKS: tuple[Callable[[Tree], list[str]], ...] = (
    unknown_modules,
    upward_edges,
    cycles,
    borrowed_libraries,
    heavy_core,
    heavy_plugins,
    plugins_in_core,
    plugin_reach,
    silent_modules,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_tree_keeps_the_rule(check: Callable[[Tree], list[str]]) -> None:
    tree = read_all(REPOSITORY)
    assert {"clipmill.errors", *entry_modules()} <= tree.keys()
    assert check(tree) == []


def test_the_readme_tells_all_of_the_core_in_its_order() -> None:
    text = (REPOSITORY / "README.md").read_text()
    (told,) = re.findall(r"The core, lowest first: (.*?`cli`)\.", text, re.DOTALL)
    names = re.findall("`([a-z]+)`", told)
    assert sorted(names) == sorted(RANK.keys() - {"__init__", "__main__"})
    assert [RANK[name] for name in names] == sorted(RANK[name] for name in names)


# --- the checks themselves: each bad tree is one file that a check has to refuse

CORE, FAMILY = "platform/clipmill", "plugins/clipmill_classify"
BAD_TREES = [
    (unknown_modules, f"{CORE}/novelty.py", "", "put 'novelty' into LINES"),
    (upward_edges, f"{CORE}/errors.py", "import clipmill.video", "errors must not import video"),
    (upward_edges, f"{CORE}/video.py", "from clipmill import takes", "video must not import takes"),
    (upward_edges, f"{CORE}/plan.py", "from .augment import x", "plan must not import augment"),
    (upward_edges, f"{CORE}/video.py", "def f():\n  from . import takes", "must not import takes"),
    (upward_edges, f"{CORE}/feed/ring.py", "from ..train import x", "feed must not import train"),
    (
        upward_edges,
        f"{CORE}/worlds.py",
        "from clipmill import takes",
        "worlds must not import takes",
    ),
    (upward_edges, f"{CORE}/video.py", "import clipmill.worlds", "video must not import worlds"),
    (cycles, f"{CORE}/errors.py", "import clipmill.video", "clipmill.errors"),
    (cycles, f"{CORE}/feed/ring.py", "from clipmill.feed import MANY", "clipmill.feed.ring"),
    (cycles, f"{FAMILY}/nets.py", "from clipmill_classify import c3d", "clipmill_classify.c3d"),
    (borrowed_libraries, f"{CORE}/train.py", "from ray import train", "belongs to launch"),
    (
        borrowed_libraries,
        f"{CORE}/plan.py",
        "import ray.data.block",
        "belongs to cluster and ingest",
    ),
    (
        borrowed_libraries,
        f"{CORE}/api.py",
        "def f():\n  import mlflow",
        "belongs to track",
    ),
    (borrowed_libraries, f"{CORE}/api.py", "try: pass\nexcept E:\n  import cv2", "to video"),
    (borrowed_libraries, f"{CORE}/shards.py", "import pickle", "belongs to nobody"),
    (heavy_core, f"{CORE}/takes.py", "from torch import nn", "loads torch through clipmill.takes"),
    (heavy_core, f"{CORE}/takes.py", "class A:\n  if x:\n    import torch", "loads torch"),
    (heavy_core, f"{CORE}/api.py", "from clipmill import train", "through clipmill.train"),
    (heavy_plugins, f"{FAMILY}/c3d.py", "from .nets import C3DNet", "clipmill_classify.nets"),
    (plugins_in_core, f"{CORE}/plugin.py", "import clipmill_classify.c3d", "asks entry points"),
    (
        plugin_reach,
        f"{FAMILY}/c3d.py",
        "from clipmill import train",
        "must not import clipmill.train",
    ),
    (plugin_reach, f"{FAMILY}/c3d.py", "import clipmill_other.x", "must not import clipmill_other"),
    (silent_modules, f"{CORE}/takes.py", None, "takes.py has no docstring"),
]
GOOD_TREE = {
    f"{CORE}/__init__.py": "",
    f"{CORE}/errors.py": "",
    f"{CORE}/video.py": "import av\nfrom clipmill.errors import VideoError",
    f"{CORE}/takes.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import torch",
    f"{CORE}/plugin.py": "def build():\n  import torch",
    f"{CORE}/augment.py": "import torch",
    f"{CORE}/train.py": "import torch\nfrom clipmill import __version__, augment",
    f"{CORE}/worlds.py": "from clipmill.video import encode",
    f"{CORE}/api.py": "def train():\n  from clipmill import train",
    f"{CORE}/feed/__init__.py": "from clipmill.feed.ring import x",
    f"{CORE}/feed/ring.py": "from clipmill.feed import slots",
    f"{CORE}/feed/slots.py": "",
    f"{FAMILY}/__init__.py": "",
    f"{FAMILY}/c3d.py": "from clipmill.plugin import Plugin\ndef f():\n  from . import nets",
    f"{FAMILY}/nets.py": "import torch",
    "plugins/clipmill_other/__init__.py": "",
    "plugins/clipmill_other/x.py": "from clipmill_classify import nets",
}


def grow(root: Path, files: Mapping[str, str | None]) -> dict[str, Module]:
    for name, code in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if code is None else f'"""What it does."""\n{code}\n')
    return read_all(root)


@pytest.mark.parametrize(("check", "file", "code", "told"), BAD_TREES)
def test_a_check_refuses_a_bad_tree(
    check: Callable[[Tree], list[str]], file: str, code: str | None, told: str, tmp_path: Path
) -> None:
    assert check(grow(tmp_path, GOOD_TREE)) == []
    assert told in "\n".join(check(grow(tmp_path, {file: code})))

"""The registry: real packages on the path, good, broken and mistaken."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipmill import plugin
from clipmill.errors import PluginError, RecipeError

WHOLE = """
from typing import ClassVar
from clipmill.plugin import Plugin, View

class Theirs(Plugin):
    name: ClassVar[str] = "theirs"
    family: ClassVar[str] = "classify"
    depth: int = 3

    def views(self):
        return {"train": View(), "test": View()}

    def build(self, info):
        raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a distribution with one plugin on the path, as pip would leave it there."""
    before = set(sys.modules)

    def put(name: str, source: str, attribute: str = "Theirs") -> None:
        module = f"stranger_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(
            f"[clipmill.plugins]\n{name} = {module}:{attribute}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))

    yield put
    for module in set(sys.modules) - before:
        if module.startswith("stranger_"):
            del sys.modules[module]


def entry(name: str) -> plugin.Entry:
    return next(entry for entry in plugin.found() if entry.name == name)


def test_a_strangers_plugin_is_found_with_its_package(install: Callable[..., None]) -> None:
    install("theirs", WHOLE)
    found = entry("theirs")
    assert (found.package, found.version, found.fault) == ("stranger-theirs", "1.2", "")
    assert plugin.make("theirs", {"depth": 5}).model_dump()["depth"] == 5


def test_a_broken_plugin_is_told_and_hides_nothing(install: Callable[..., None]) -> None:
    before = {entry.name for entry in plugin.found() if entry.plugin}
    install("theirs", "raise RuntimeError('their licence\\n server is away')\n")
    assert entry("theirs").plugin is None
    assert entry("theirs").fault == "RuntimeError: their licence server is away"
    assert {entry.name for entry in plugin.found() if entry.plugin} == before >= {"c3d"}
    with pytest.raises(PluginError, match=r"'theirs' of stranger-theirs 1\.2 .*server is away"):
        plugin.load("theirs")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("class Theirs: pass", "wanted a subclass of clipmill.plugin.Plugin"),
        ("Theirs = 7", "7; wanted a subclass"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of"),
        ("Other = 1", "has no attribute 'Theirs'"),
        (WHOLE.replace('"theirs"', '"mine"'), "name is 'mine'; wanted its entry point's 'theirs'"),
        (WHOLE.replace("    family", "    tribe"), "Theirs has no family"),
        (WHOLE.replace("def views", "def sees"), "Theirs has no views()"),
        (WHOLE.replace("def build", "def make"), "Theirs has no build()"),
    ],
)
def test_a_plugin_without_the_contract_is_told_so(
    install: Callable[..., None], source: str, fault: str
) -> None:
    install("theirs", source)
    assert fault in entry("theirs").fault
    with pytest.raises(PluginError) as told:
        plugin.load("theirs")
    assert fault in str(told.value)
    assert "\n" not in str(told.value)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"no plugin 'c3dd'.*c3d, .*did you mean c3d\?"):
        plugin.load("c3dd")
    with pytest.raises(PluginError, match="install its package"):
        plugin.load("zzzzzz")


def test_an_unknown_field_is_told_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown key model\.widht.*did you mean width\?"):
        plugin.make("c3d", {"widht": 0.5})


def test_a_wrong_value_is_told_with_its_rule() -> None:
    with pytest.raises(RecipeError, match=r"model\.width is -1.*greater than 0"):
        plugin.make("c3d", {"width": -1})


@pytest.mark.parametrize(
    ("name", "fields", "learnt"),
    [
        ("c3d", {}, "one"),
        ("c3d", {"labels": "several"}, "several"),
        ("siamese", {}, "none"),
        ("temporal_order", {}, "none"),
        ("unet", {}, "masks"),
    ],
)
def test_a_plugin_says_what_it_learns_of_records(
    name: str, fields: dict[str, str], learnt: str
) -> None:
    assert plugin.make(name, fields).learns == learnt


def test_a_plugin_is_a_frozen_value() -> None:
    one, other = plugin.make("c3d", {"width": 0.5}), plugin.make("c3d", {"width": 0.5})
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(ValueError, match="frozen"):
        one.width = 2  # type: ignore[attr-defined]


def test_what_is_installed_is_looked_for_once(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = [], plugin.entry_points

    def counted(**asked: str) -> object:
        looks.append(asked)
        return look(**asked)

    monkeypatch.setattr(plugin, "entry_points", counted)
    plugin._scanned.cache_clear()
    assert {plugin.load("c3d").name, plugin.load("pooled").name} == {"c3d", "pooled"}
    assert len(looks) == 1
    install("theirs", WHOLE)
    path = list(sys.path)
    assert plugin.load("theirs").name == "theirs", "a new folder is looked into"
    install("others", WHOLE.replace('"theirs"', '"others"'))
    monkeypatch.setattr(sys, "path", path)
    assert plugin.load("others").name == "others", "and an old one again for a name unheard of"
    assert len(looks) == 3

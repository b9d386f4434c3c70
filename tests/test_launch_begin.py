"""What a run begins with: which tensors go where by their names, from runs and versions."""

import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from clipmill import api, infer, launch, plugin, recipe, storage
from clipmill.errors import RunError
from clipmill.launch import begin
from tiny import RUN_STEPS, recipe_of, run_recipe


def tensors(names: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in names.items()}


def backbone(prefix: str, layers: int = 6) -> dict[str, tuple[int, ...]]:
    """Layers that are all of one shape, so that names alone tell them apart."""
    parts = [(f"{prefix}layer{n}.{part}", s) for n in range(layers) for part, s in (("weight", (4, 4)), ("bias", (4,)))]  # fmt: skip
    return dict(parts)


def test_the_same_name_and_shape_goes_first() -> None:
    ours = tensors({**backbone("encoder."), "head.weight": (3, 4), "head.bias": (3,)})
    theirs = tensors({**backbone("encoder."), "head.weight": (9, 4), "head.bias": (3,)})
    pairs = begin.matched(ours, theirs)
    assert pairs == {name: name for name in ours if name != "head.weight"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("encoder.", "encoder.network."),
        ("backbone.", "encoder."),
        ("", "spatial.encoder."),
        ("towers.video.", ""),
    ],
)
def test_a_backbone_is_found_under_another_name(theirs: str, ours: str) -> None:
    given, wanted = backbone(theirs), backbone(ours)
    pairs = begin.matched(
        tensors({**wanted, "norm.weight": (4,), "norm.bias": (4,)}),
        tensors({**given, "fc.weight": (7, 4)}),
    )
    assert pairs == {ours + name.removeprefix(theirs): name for name in given}


def test_both_streams_of_a_network_begin_with_one_backbone() -> None:
    wanted, given = (
        tensors({**backbone("look."), **backbone("move.")}),
        tensors(backbone("encoder.")),
    )
    pairs = begin.matched(wanted, given)
    assert pairs.keys() == wanted.keys()
    assert {name.split(".", 1)[1] for name in pairs} == {n.split(".", 1)[1] for n in pairs.values()}
    kept = safetensors.torch.load(safetensors.torch.save(begin.taken(pairs, given)))
    assert all(torch.equal(kept[ours], given[theirs]) for ours, theirs in pairs.items())


def test_a_few_layers_of_the_same_shape_are_no_backbone() -> None:
    ours = tensors({"mixing.weight": (4, 4), "mixing.bias": (4,)})
    assert begin.matched(ours, tensors(backbone("encoder."))) == {}
    whole = {"a.weight": torch.zeros(4, 4)}
    counts = {"a.weight": torch.zeros(4, 4, dtype=torch.int64)}
    assert begin.matched(whole, counts) == {}


@pytest.mark.parametrize(("theirs", "ours"), [("net.", "net."), ("net.", "encoder."), ("", "it.")])
def test_stages_of_a_wider_network_are_not_those_of_a_narrow_one(theirs: str, ours: str) -> None:
    def network(prefix: str, width: int) -> dict[str, torch.Tensor]:
        layers = [(stage, layer) for stage in range(4) for layer in range(6)]
        shapes = {f"{prefix}stage{s}.{n}.weight": (width << s, width << s) for s, n in layers}
        counts = {f"{prefix}stage{s}.{n}.batches": torch.zeros((), dtype=int) for s, n in layers}
        return {**tensors(shapes), **counts}  # type: ignore[arg-type]

    pairs = begin.matched(network(ours, 4), network(theirs, 2))
    assert all(name.endswith(".batches") for name in pairs)
    assert len(begin.matched(network(ours, 4), network(theirs, 4))) == 48


def begun(dataset: str, folder: Path, name: str, init_from: Any, **model: Any) -> dict[str, Any]:
    plain = run_recipe(dataset, folder, name, steps=1, init_from=init_from)
    plain["model"] |= model
    return plain


def test_a_run_begins_with_what_another_has_learned(
    dataset: str, trained: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = begun(dataset, tmp_path, "next", trained["folder"], learning_rate=1e-12)
    done = api.train(plain)
    before, after = (
        infer.load(f"{each['folder']}/model").module.state_dict() for each in (trained, done)
    )
    for name, values in before.items():
        if name.endswith("weight"):
            torch.testing.assert_close(after[name], values, rtol=1e-4, atol=1e-6)
    assert done["init"] == [record.message for record in caplog.records][:2]
    assert "tensors of encoder" in done["init"][0] and "not taken: none" in done["init"][0]
    assert done["init"][1] == "drawn by chance: none"


def test_names_ids_versions_and_several_can_be_begun_with(
    dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    runs = str(Path(trained["folder"]).parent)
    made = api.promote("trained", name="begun_with", folder=runs)
    version = f"begun_with/{made['version']}"
    for source in (
        "trained",
        trained["run_id"],
        version,
        "begun_with@champion",
        ["trained", version],
    ):
        try:
            plain = begun(dataset, Path(runs), "begun", source)
            given = recipe.load(plain).anchored()
            home = launch.Folder(str(tmp_path / "home"))
            if isinstance(source, list):
                with pytest.raises(RunError, match="none of the"):
                    begin.gather(given, home, ("left", "right"))  # nothing is left for the second
                continue
            begin.gather(given, home, ("left", "right"))
            module = infer.build(given.plugin(), ("left", "right"))
            begin.load(home, module)
            wanted = infer.load(f"{trained['folder']}/model").module.state_dict()
            assert all(torch.equal(t, wanted[name]) for name, t in module.state_dict().items())
        finally:
            storage.remove_folder(str(tmp_path / "home"))


@pytest.mark.parametrize("name", ["fcn", "mask_rcnn"])
def test_what_tells_pixels_begins_with_the_backbone_of_a_classifier(
    name: str, dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    plain = begun(dataset, tmp_path, name, trained["folder"])
    plain["model"] = {"plugin": name, **plugin.load(name).small, "width": 0.125}
    given, home = recipe.load(plain).anchored(), launch.Folder(str(tmp_path / "home"))
    lines = begin.gather(given, home, ("left", "right"))["init"]
    assert "not taken: head.bias, head.weight" in lines[0], "what told classes of videos"
    module = infer.build(given.plugin(), ("left", "right"))
    begin.load(home, module)
    wanted = infer.load(f"{trained['folder']}/model").module.state_dict()
    ours = module.state_dict()
    backbone = [each for each in ours if each.startswith("encoder.")]
    assert len(backbone) > 60 and len(ours) > len(backbone)
    assert all(torch.equal(ours[each], wanted[each]) for each in backbone)


def test_nothing_that_fits_ends_it_before_it_begins(
    dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    narrow = begun(dataset, tmp_path, "narrow", trained["folder"], width=0.0625)
    plain = {**narrow, "model": {"plugin": "c3d", "width": 0.0625, "frames": 4, "size": 32}}
    with pytest.raises(RunError, match=r"none of the \d+ tensors of .* is one of this network's"):
        api.train(plain)
    with pytest.raises(RunError, match="no run 'nobody'"):
        api.train(begun(dataset, tmp_path, "lost", "nobody"))
    for name in ("narrow", "lost"):
        assert not os.path.exists(tmp_path / name / "checkpoints")


def test_what_a_run_began_with_stays_with_it(
    dataset: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for path in storage.list_files(f"{trained['folder']}/model"):
        storage.put(str(source / Path(path).name), storage.read(path))
    given = recipe.load(begun(dataset, tmp_path, "kept", str(source))).anchored()
    home = launch.folder_of(given)
    told = {"recipe": given.plain()}
    storage.put_json(home.recipe, told)  # as a run that was broken off before its first commit
    first = begin.gather(given, home, ("left", "right"))
    storage.remove_folder(str(source))  # as an alias may move on
    assert begin.gather(given, home, ("left", "right")) == first
    assert api.train(begun(dataset, tmp_path, "kept", str(source)))["init"] == first["init"]


def test_without_it_nothing_is_asked(dataset: str, tmp_path: Path) -> None:
    given = recipe.load(recipe_of(run={"folder": str(tmp_path)}, data={"path": dataset}))
    assert begin.gather(given, launch.folder_of(given), ("left", "right")) == {}
    assert os.listdir(tmp_path) == [] and RUN_STEPS > 1

"""The clip classifiers: sizes of the papers, narrow variants, labels and the meter."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import augment
from clipmill.contract.case import memory_catalog
from clipmill.errors import DataError, PlanError, PluginError, RecipeError
from clipmill.plugin import Info, Plugin, found, load, make
from clipmill.takes import Draw
from clipmill_classify import backbones
from clipmill_classify.c3d import C3D
from clipmill_classify.classifier import Classifier
from clipmill_classify.linear import LinearOnTop
from clipmill_classify.meters import ClassMeter
from clipmill_classify.network import ClipNetwork
from clipmill_classify.scores import Judge
from clipmill_classify.single_frame import SingleFrame

FOUR = Info(("east", "north", "south", "west"))


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def built(plugin: Plugin, classes: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    return plugin.build(Info(tuple(map(str, range(classes)))))


def test_c3d_has_the_size_of_its_paper() -> None:
    with torch.device("meta"):
        model = built(C3D(), classes=101)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv3d)]
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert {m.kernel_size for m in convolutions} == {(3, 3, 3)}
    assert [m.in_features for m in linears] == [8192, 4096, 4096]
    assert parameters(model) == 78_409_573  # 78.4 million


@pytest.mark.parametrize(
    ("frames", "size", "pooled"),
    [
        (16, 112, (1, 4, 4)),
        (16, 64, (1, 3, 3)),
        (8, 56, (1, 2, 2)),
        (32, 56, (2, 2, 2)),
        (1, 16, (1, 1, 1)),
        (5, 33, (1, 2, 2)),
    ],
)
def test_c3d_takes_clips_of_many_sizes(frames: int, size: int, pooled: tuple[int, ...]) -> None:
    model = built(C3D(width=0.03125, frames=frames, size=size, resize=size)).eval()
    clips = torch.randn(2, 3, frames, size, size)
    assert model.features(clips).shape == (2, 16, *pooled)  # type: ignore[operator]
    outputs, state = model.predict({"rgb": clips})  # type: ignore[operator]
    assert outputs["probabilities"].shape == (2, 4)
    assert state is None
    torch.testing.assert_close(outputs["probabilities"].sum(1), torch.ones(2))


@pytest.mark.parametrize("plugin", [C3D(), C3D(batch_norm=True), SingleFrame()])
def test_narrow_variants_are_the_same_networks(plugin: Plugin) -> None:
    narrow = plugin.model_copy(update={"width": 0.25})
    with torch.device("meta"):
        whole, part = built(plugin), built(narrow)
    assert list(whole.state_dict()) == list(part.state_dict())
    assert [type(m) for m in whole.modules()] == [type(m) for m in part.modules()]
    assert parameters(part) < parameters(whole) / 10


# One of each family; sums, concatenations, splits, groups and squeezes of channels among them.
NARROWING = (
    "alexnet densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 "
    "squeezenet1_1 vgg11_bn wide_resnet50_2"
).split()


@pytest.mark.parametrize("name", NARROWING)
def test_backbones_can_be_narrowed(name: str) -> None:
    with torch.device("meta"):
        whole, features = backbones.frame_encoder(name, 96)
        part, fewer = backbones.frame_encoder(name, 96, width=0.25)
        assert part(torch.zeros(2, 3, 96, 96)).shape == (2, fewer)
    assert list(whole.state_dict()) == list(part.state_dict())
    assert fewer == pytest.approx(features / 4, abs=4)
    assert parameters(part) < parameters(whole) / 4


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "vit_b_16"])
def test_other_backbones_work_whole_and_say_that_they_cannot_be_narrowed(name: str) -> None:
    with torch.device("meta"):
        encoder, features = backbones.frame_encoder(name, 64)
        assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, features)
        with pytest.raises(PluginError, match="cannot be narrowed"):
            backbones.frame_encoder(name, 64, width=0.5)


def test_unknown_and_impossible_backbones_are_told() -> None:
    with pytest.raises(PluginError, match=r"no backbone 'resnet19'; wanted one of alexnet"):
        SingleFrame(backbone="resnet19").build(FOUR)
    with torch.device("meta"), pytest.raises(PluginError, match="cannot take frames of 32 x 32"):
        backbones.frame_encoder("inception_v3", 32)


def test_a_narrow_backbone_starts_with_a_signal_of_even_size() -> None:
    torch.manual_seed(0)
    encoder, _ = backbones.frame_encoder("vgg11", 64, width=0.25)  # nothing normalises it
    features = encoder.eval()(torch.randn(8, 3, 64, 64))
    assert 0.05 < features.std() < 5


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    given, _ = backbones.frame_encoder("resnet18", 64, width=0.125)
    tensors = {**given.state_dict(), "fc.weight": torch.zeros(1000, 64)}  # of the classifier
    path = str(tmp_path / f"weights.{suffix}")
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(tensors, path)  # type: ignore[operator]
    model = SingleFrame(width=0.125, weights=path).build(FOUR)
    for name, tensor in given.state_dict().items():
        assert torch.equal(model.encoder.network.state_dict()[name], tensor)  # type: ignore[union-attr, operator]


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(PluginError, match="does not fit the backbone: 120 tensors differ"):
        SingleFrame(width=0.125, weights=str(path)).build(FOUR)
    with pytest.raises(PluginError, match="no file of weights"):
        SingleFrame(width=0.125, weights=str(tmp_path / "none.pt")).build(FOUR)


def test_weights_never_run_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:  # what runs when a pickle is opened without care
            return Path.touch, (marker,)

    torch.save({"conv1.weight": Bomb()}, tmp_path / "weights.pt")
    with pytest.raises(PluginError, match="cannot be read as weights"):
        SingleFrame(width=0.125, weights=str(tmp_path / "weights.pt")).build(FOUR)
    assert not marker.exists()


@pytest.mark.parametrize("plugin", [C3D(), SingleFrame()])
def test_classes_are_needed(plugin: Plugin) -> None:
    with pytest.raises(PluginError, match=r"data without classes; wanted at least one class name"):
        plugin.build(Info())


@pytest.mark.parametrize("plugin", [C3D(), SingleFrame()])
def test_records_without_a_label_are_refused_where_labels_are_needed(plugin: Plugin) -> None:
    catalog = memory_catalog()
    labels = [*catalog.table["label"].to_pylist()[:7], None]
    place = catalog.table.schema.get_field_index("label")
    table = catalog.table.set_column(place, "label", [labels])
    catalog = type(catalog)(catalog.folder, table, catalog.meta)
    for stage in ("train", "val"):
        with pytest.raises(PlanError, match=r"1 of 8 records have no label .* such as record7"):
            plugin.plan(catalog, stage, Draw(0))  # type: ignore[arg-type]
    assert len(plugin.plan(catalog, "test", Draw(0))) == 8 * plugin.test_clips


def test_clips_without_a_label_count_for_nothing() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]], requires_grad=True)
    some = Judge()(logits, {"target": torch.tensor([0, 0, -1])})
    alone = Judge()(logits[:2], {"target": torch.tensor([0, 0])})
    torch.testing.assert_close(some, alone)
    assert some["accuracy"] == 0.5
    nothing = Judge()(logits, {"target": torch.tensor([-1, -1, -1])})
    assert nothing["loss"] == 0  # and not a division by nothing


def test_mixed_clips_are_judged_by_both_their_targets() -> None:
    logits = torch.randn(3, 4)
    target, other, share = (
        torch.tensor([0, 1, 2]),
        torch.tensor([1, 2, 0]),
        torch.tensor([0, 0.25, 1]),
    )
    told = Judge()(logits, {"target": target, "target_b": other, "mix": share})
    own, theirs = (
        Judge()(logits[at : at + 1], {"target": t[at : at + 1]})["loss"]
        for t, at in ((target, 1), (other, 1))
    )
    ends = Judge()(logits[[0, 2]], {"target": torch.tensor([1, 2])})[
        "loss"
    ]  # none and all of its own
    torch.testing.assert_close(told["loss"] * 3, 0.25 * own + 0.75 * theirs + 2 * ends)


def test_class_weights_and_smoothing_do_not_depend_on_how_a_batch_is_split() -> None:
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    judge = Judge(0.1, (1.0, 5.0, 0.5))
    whole = judge(logits, {"target": target})["loss"]
    halves = [
        judge(logits[cut], {"target": target[cut]})["loss"] for cut in (slice(3), slice(3, 6))
    ]
    torch.testing.assert_close(whole, sum(halves) / 2)
    smooth = -(0.9 * logits.log_softmax(1)[1, 1] + 0.1 * logits.log_softmax(1)[1].mean())
    alone = Judge(0.1)(logits[1:2], {"target": target[1:2]})["loss"]
    torch.testing.assert_close(alone, smooth)


def test_an_error_on_a_class_counts_by_its_name() -> None:
    model = SingleFrame(width=0.125, size=32, resize=32, class_weights={"south": 3}).build(FOUR)
    assert model.judge.weights_K.tolist() == [1, 1, 3, 1]  # type: ignore[union-attr]
    with pytest.raises(PluginError, match=r"class_weights of 'up'.*east, north"):
        SingleFrame(width=0.125, class_weights={"up": 3}).build(FOUR)


def test_frozen_parts_learn_nothing_and_keep_their_statistics() -> None:
    plugin = SingleFrame(
        width=0.125, size=32, resize=32, frozen=("encoder.network.layer1", "encoder.network.bn1")
    )
    model = plugin.build(FOUR).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = plugin.optimizer(model)
    batch = {"rgb": torch.randn(8, 3, 1, 32, 32), "target": torch.arange(8) % 4}
    model(batch)["loss"].backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        still = name.startswith(("encoder.network.layer1.", "encoder.network.bn1."))
        assert torch.equal(value, before[name]) == still, name
    assert model.encoder.network.layer2.training  # type: ignore[union-attr]
    with pytest.raises(PluginError, match=r"no weights of 'encode'.*encoder, head"):
        SingleFrame(width=0.125, frozen=("encode",)).build(FOUR)


LINEAR = [e.name for e in found() if e.plugin and issubclass(e.plugin, LinearOnTop)]


@pytest.mark.parametrize("name", LINEAR)
def test_a_last_layer_may_be_given_features_wherever_they_lie(name: str) -> None:
    small = load(name).small
    network: Any = make(name, {**small, "normalised": True, "dropout": 0.0}).build(FOUR).train()
    *_, scores = (each for each in network.head.modules() if isinstance(each, torch.nn.Linear))
    x_BD = torch.randn(64, scores.in_features)
    x = x_BD[:, None] if name == "pooled" else x_BD  # which pools over frames first
    near, far = network.head(x), network.head(7 + x / 10)
    torch.testing.assert_close(near, far, atol=1e-3, rtol=0.01)
    assert near.std() > 0.01


def test_parts_learn_at_rates_of_their_own() -> None:
    plugin = SingleFrame(
        width=0.125, size=32, resize=32, learning_rate=0.1,
        rates={"encoder": 0.5, "encoder.network.layer4": 0.25}, frozen=("encoder.network.conv1",),
    )  # fmt: skip
    model = plugin.build(FOUR)
    assert isinstance(model, ClipNetwork)
    rates = {
        id(w): group["lr"]
        for group in plugin.optimizer(model).param_groups
        for w in group["params"]
    }
    told = {name: rates.get(id(weight)) for name, weight in model.named_parameters()}
    assert told["head.weight"] == 0.1
    assert told["encoder.network.layer1.0.conv1.weight"] == 0.05
    assert told["encoder.network.layer4.0.conv1.weight"] == 0.025
    assert told["encoder.network.conv1.weight"] is None
    assert len(rates) == sum(1 for weight in model.parameters() if weight.requires_grad)


def test_probabilities_keep_full_precision_under_autocast() -> None:
    model = built(C3D(width=0.0625, frames=8, size=32, resize=32)).eval()
    batch = {"rgb": torch.randn(2, 3, 8, 32, 32), "target": torch.tensor([0, 1])}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs, _ = model.predict(batch)  # type: ignore[operator]
        loss = model(batch)["loss"]
    assert outputs["probabilities"].dtype == loss.dtype == torch.float32
    torch.testing.assert_close(outputs["probabilities"].sum(1), torch.ones(2))


Video = tuple[list[int], int]


def videos(classes: int) -> st.SearchStrategy[list[Video]]:
    # Few different scores, so that many are equal: their order must be settled as well.
    scores = st.lists(st.integers(0, 4), min_size=classes, max_size=classes)
    return st.lists(st.tuples(scores, st.integers(0, classes - 1)), min_size=1, max_size=30)


def metered(counted: list[Video]) -> ClassMeter:
    meter = ClassMeter()
    for scores, true in counted:
        answer = {"probabilities": np.array(scores, np.float32) / 7}
        meter.update(answer, {"target": true, "label": f"class {true}", "key": "k"})
    return meter


@settings(deadline=None)
@given(st.integers(1, 8).flatmap(videos), st.data())
def test_merging_meters_is_exact_whatever_the_cuts_and_the_order(
    counted: list[Video], data: st.DataObject
) -> None:
    whole = metered(counted).compute()
    shuffled = data.draw(st.permutations(counted))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(counted)), max_size=4)))
    merged = ClassMeter()
    for first, last in itertools.pairwise([0, *cuts, len(counted)]):
        merged.merge(metered(shuffled[first:last]))
    assert merged.compute() == whole
    np.testing.assert_array_equal(merged.confusion, metered(counted).confusion)


@settings(deadline=None)
@given(st.integers(1, 8).flatmap(videos))
def test_the_meter_counts_what_is_right(counted: list[Video]) -> None:
    classes = len(counted[0][0])
    figures = metered(counted).compute()
    right = [scores.index(max(scores)) == true for scores, true in counted]
    assert next(iter(figures)) == "accuracy"
    assert figures["accuracy"] == sum(right) / len(right)
    assert ("top5_accuracy" in figures) == (classes > 5)
    assert figures.get("top5_accuracy", 1) >= figures["accuracy"]
    for true in {true for _, true in counted}:
        own = [hit for hit, (_, label) in zip(right, counted, strict=True) if label == true]
        assert figures[f"accuracy/class {true}"] == sum(own) / len(own)


def test_top5_holds_the_five_best() -> None:
    scores = [6, 5, 4, 3, 2, 1]
    figures = metered([(scores, true) for true in range(6)]).compute()
    assert figures["top5_accuracy"] == 5 / 6
    assert figures["accuracy"] == figures["mean_class_accuracy"] == 1 / 6


def test_the_confusion_matrix_is_true_class_by_told_class() -> None:
    meter = metered([([0, 1, 0], 2), ([1, 0, 0], 0), ([0, 1, 0], 2)])
    assert meter.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 2, 0]]


def test_the_meter_refuses_what_it_cannot_count() -> None:
    meter = ClassMeter()
    with pytest.raises(DataError, match="no video was measured"):
        meter.compute()
    answer = {"probabilities": np.array([0.5, 0.5])}
    with pytest.raises(DataError, match=r"record k has label None .*wanted one of the model's 2"):
        meter.update(answer, {"key": "k", "label": None, "target": -1})
    with pytest.raises(PluginError, match="record k are not finite"):
        meter.update({"probabilities": np.array([np.nan, 1])}, {"key": "k", "target": 0})
    meter.update(answer, {"key": "k", "target": 0})
    with pytest.raises(PluginError, match="an answer has 3 classes; wanted 2"):
        meter.update({"probabilities": np.ones(3)}, {"key": "k", "target": 0})


# --- the test protocol

CLASSIFIERS = {
    entry.name: entry.plugin
    for entry in found()
    if entry.plugin is not None and issubclass(entry.plugin, Classifier)
}


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_every_classifier_is_asked_at_clips_and_crops_and_averaged(name: str) -> None:
    kind = CLASSIFIERS[name]
    plugin = kind(**kind.small, test_clips=2, test_crops=3)
    catalog = memory_catalog()
    takes = plugin.plan(catalog, "test", Draw(0))
    for record in range(len(catalog)):
        mine = takes[np.flatnonzero(takes.record[:, 0] == record)]
        places = zip(mine.first[:, 0].tolist(), mine.crop.tolist(), strict=True)
        firsts = set(mine.first[:, 0].tolist())
        assert len(firsts) == 2 and set(places) == set(itertools.product(firsts, (1, 2, 3)))
    assert plugin.protocol() == {"clips": 2, "crops": 3, "crop": "start, middle and end"}
    rng, some = np.random.default_rng(0), takes[np.arange(6)]
    outputs = [{"probabilities": rng.dirichlet(np.ones(4)), **shown(name)} for _ in range(6)]
    mean = np.mean([each["probabilities"] for each in outputs], axis=0)
    np.testing.assert_allclose(plugin.answer(outputs, some)["probabilities"], mean)


def shown(name: str) -> dict[str, Any]:
    """What a model shows beside its probabilities."""
    return {"attention_energy": np.zeros(4)} if name == "attention_lstm" else {}


def test_colours_come_as_the_weights_were_trained() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    fields = {"width": 0.125, "size": 32, "resize": 36, "frames": 4, "mean": mean, "std": std}
    for name in ("pooled", "cnn_rnn", "two_stream", "torchvision_video"):
        for view in make(name, fields).views().values():
            grey = np.full((1, 4, 32, 32, 3), 51, np.uint8)
            seen = augment.prepare({"rgb": grey}, view, training=False)["rgb"][0, :, 0, 0, 0]
            wanted = [(0.2 - m) / s for m, s in zip(mean, std, strict=True)]
            np.testing.assert_allclose(seen.numpy(), wanted, rtol=1e-5)
    with pytest.raises(RecipeError, match=r"model\.std\.1 is 0.*greater than 0"):
        make("pooled", {"std": [0.2, 0, 0.2]})

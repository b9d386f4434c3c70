"""The recurrent classifiers: their sizes, windows of long videos, chunks as at once, attention."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipmill import contract, plugin
from clipmill.catalog import SCHEMA, Catalog
from clipmill.contract import case
from clipmill.contract.case import memory_catalog
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Decoded, Info
from clipmill.takes import Draw, frame_numbers
from clipmill_classify.attention_lstm import AttentionLSTM
from clipmill_classify.cnn_rnn import CnnRnn
from clipmill_classify.conv_lstm import ConvLSTM
from clipmill_classify.conv_lstm_network import ConvLSTMCell, ConvLSTMLayers
from clipmill_classify.readouts import Attention, MeanOfFrames
from clipmill_classify.scores import Judge
from clipmill_classify.sequence import SequenceClassifier, last_seen
from tiny import catalog_of, rows

FOUR = Info(("east", "north", "south", "west"))
TINY: dict[str, Any] = {"width": 0.125, "size": 32, "resize": 32, "frames": 8}
SMALL = {**TINY, "hidden": 32}


def built(chosen: SequenceClassifier) -> Any:
    torch.manual_seed(0)
    return chosen.build(FOUR)


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def told(chosen: SequenceClassifier) -> str:
    fields = {k: v for k, v in chosen.model_dump(exclude_unset=True).items() if k not in SMALL}
    return " ".join([chosen.name, *(f"{name}={value}" for name, value in fields.items())])


def clips(count: int, frames: int, size: int = 32) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    rgb = torch.randn(count, 3, frames, size, size, generator=rng)
    return {"rgb": rgb, "target": torch.arange(count) % 4}


# --- sizes


def test_cnn_rnn_is_a_resnet_an_lstm_and_a_linear_layer() -> None:
    with torch.device("meta"):
        model = CnnRnn().build(Info(tuple(map(str, range(101)))))
    recurrent = 4 * 256 * (512 + 256 + 2)  # four gates, inputs and states, two biases
    assert parameters(model) == 11_176_512 + recurrent + 256 * 101 + 101


@pytest.mark.parametrize(
    ("hidden", "total"),
    [((256,), 13_524_496), ((128, 128), 10_042_896), ((128, 64, 64), 7_585_296)],
)
def test_conv_lstm_layers_have_the_sizes_of_their_paper(
    hidden: tuple[int, ...], total: int
) -> None:
    # The paper's networks: layers that look, layers that foresee, and a 1 x 1 convolution on all
    # states of the latter. The first that foresees has no input.
    with torch.device("meta"):
        look = ConvLSTMLayers(16, hidden, 5)
        back = hidden[::-1]
        foresee = [ConvLSTMCell(a, b, 5) for a, b in zip((1, *back), back, strict=False)]
        told = torch.nn.Conv2d(sum(hidden), 16, 1)
    no_input = foresee[0].of_input.weight.numel()
    assert sum(map(parameters, (look, *foresee, told))) - no_input == total


def test_conv_lstm_at_its_default_size() -> None:
    with torch.device("meta"):
        model = ConvLSTM().build(Info(tuple(map(str, range(101)))))
    cells = [(48, 128), (128, 64), (64, 64)]
    wanted = sum(4 * out * ((into + out) * 25 + 1) + 3 * out for into, out in cells)
    assert parameters(model) == wanted + 256 * 101 + 101 == 4_328_549


def test_attention_adds_what_weighs_a_frame() -> None:
    with torch.device("meta"):
        plain, weighing = CnnRnn().build(FOUR), AttentionLSTM().build(FOUR)
    assert parameters(weighing) - parameters(plain) == 128 * (512 + 1) + 128


def test_an_lstm_keeps_at_first_what_it_has_seen() -> None:
    model = built(CnnRnn(**SMALL, layers=2, bidirectional=True))
    for name, bias in model.recurrent.named_parameters():
        if "bias_ih" in name:
            assert bias[32:64].eq(1).all() and bias[:32].abs().max() < 1
    for cell in built(ConvLSTM(**TINY)).recurrent.layers:
        assert cell.of_input.bias.view(4, -1).mean(1).tolist() == [0, 1, 0, 0]


# --- chunk by chunk

STREAMING = [
    CnnRnn(**SMALL),
    CnnRnn(**SMALL, cell="gru", layers=2, readout="last"),
    CnnRnn(**SMALL, labels="frames"),
    CnnRnn(**SMALL, window=2, normalised=True),
    ConvLSTM(**TINY),
    ConvLSTM(**TINY, labels="frames"),
    ConvLSTM(**TINY, readout="mean"),
    AttentionLSTM(**SMALL),
]


@torch.no_grad()
@pytest.mark.parametrize("chosen", STREAMING, ids=told)
def test_chunk_by_chunk_equals_at_once(chosen: SequenceClassifier) -> None:
    model, batch = built(chosen).eval(), clips(2, 8)
    whole, _ = model.predict(batch)
    state, parts = None, []
    for chunk in batch["rgb"].split([1, 4, 3], dim=2):
        part, state = model.predict({"rgb": chunk}, state)
        parts.append(part)
    for name, wanted in whole.items():
        is_of_frames = name in ("frame_probabilities", "attention_energy")
        got = torch.cat([part[name] for part in parts], 1) if is_of_frames else parts[-1][name]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_who_looks_ahead_claims_no_chunks_and_refuses_them() -> None:
    assert CnnRnn.streaming and CnnRnn().streaming and AttentionLSTM().streaming
    ahead = CnnRnn(**SMALL, bidirectional=True)
    assert not ahead.streaming
    model, batch = built(ahead).eval(), clips(2, 8)
    _, state = model.predict(batch)
    with pytest.raises(PluginError, match=r"bidirectional network was given a clip in chunks"):
        model.predict(batch, state)


def test_who_looks_ahead_and_is_asked_at_the_end_has_seen_all_both_ways() -> None:
    model = built(CnnRnn(**SMALL, bidirectional=True, readout="last")).eval()
    clip = clips(1, 8)["rgb"]
    before = model.logits({"rgb": clip})
    for at in (0, 7):
        changed = clip.clone()
        changed[:, :, at] += 1
        assert not torch.equal(model.logits({"rgb": changed}), before)
    backwards = model.recurrent(model.encoder(clip))[0].chunk(2, 2)[1]
    read = model.readout(model.recurrent(model.encoder(clip))[0])
    known = torch.cat(
        [model.recurrent(model.encoder(clip))[0].chunk(2, 2)[0][:, -1], backwards[:, 0]], 1
    )
    torch.testing.assert_close(read.scores, model.readout.head(known))


# --- windows of long clips


@pytest.mark.parametrize("chosen", [CnnRnn(**SMALL), ConvLSTM(**TINY), AttentionLSTM(**SMALL)])
def test_gradients_are_those_of_a_loop_that_forgets_between_windows(
    chosen: SequenceClassifier,
) -> None:
    model = built(chosen.model_copy(update={"window": 3, "readout": "mean"})).eval()
    batch = clips(2, 8)
    memory, outputs = None, []
    for chunk in batch["rgb"].split(3, dim=2):
        y, memory = model.recurrent(model.encoder(chunk), memory)
        outputs.append(y)
        memory = (
            [tuple(x.detach() for x in m) for m in memory]
            if isinstance(chosen, ConvLSTM)
            else tuple(x.detach() for x in memory)
        )
    wanted = model.readout.judged(torch.cat(outputs, 1), batch, model.judge, [2, 5, 7])
    slow = torch.autograd.grad(wanted["loss"], list(model.parameters()))
    told = model(batch)
    fast = torch.autograd.grad(told["loss"], list(model.parameters()))
    torch.testing.assert_close(told, wanted)
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("chosen", [CnnRnn(**SMALL, dropout=0), ConvLSTM(**TINY, dropout=0)])
def test_inside_one_window_gradients_are_the_plain_ones(chosen: SequenceClassifier) -> None:
    batch = clips(2, 8)
    grads = []
    for window in (None, 8, 100):
        model = built(chosen.model_copy(update={"window": window})).train()
        grads.append(torch.autograd.grad(model(batch)["loss"], list(model.parameters())))
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0)
    torch.testing.assert_close(grads[2], grads[0], rtol=0, atol=0)


def test_no_gradient_goes_further_back_than_a_window() -> None:
    model = built(CnnRnn(**SMALL, window=4, labels="frames")).eval()
    frames = clips(1, 8)["rgb"].requires_grad_()
    target = torch.tensor([[-1, -1, -1, -1, -1, -1, -1, 2]])  # only the last frame is judged
    model({"rgb": frames, "target": target})["loss"].backward()
    reached = frames.grad.abs().sum((0, 1, 3, 4)) > 0  # type: ignore[union-attr]
    assert reached.tolist() == [False] * 4 + [True] * 4


def test_running_statistics_count_a_window_once() -> None:
    model = built(CnnRnn(**SMALL, window=2)).train()
    loss = model(clips(2, 8))["loss"]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss.backward()
    assert before["encoder.network.bn1.num_batches_tracked"] == 4
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


class Peak(TorchDispatchMode):
    """The most bytes that tensors held at one time, but for those that were there before."""

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.alive = {tensor.untyped_storage()._cdata: 0 for tensor in before}
        self.now = self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive[key] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def peak_bytes(window: int | None, frames: int) -> int:
    model = built(CnnRnn(**{**SMALL, "frames": frames}, window=window)).train()
    batch = clips(2, frames)
    with Peak([*batch.values(), *model.state_dict().values()]) as peak:
        model(batch)["loss"].backward()
    return peak.most


def test_memory_is_bounded_by_a_window_however_long_the_clip() -> None:
    short, long = peak_bytes(4, 8), peak_bytes(4, 32)
    assert long < 1.1 * short
    assert peak_bytes(None, 32) > 2.5 * long  # what it would be without


# --- what is seen


@given(st.integers(1, 10_000), st.integers(1, 300))
def test_a_whole_video_is_seen_from_its_first_frame_to_nearly_its_last(
    available: int, frames: int
) -> None:
    (last,) = last_seen(np.array([available]), frames).tolist()
    seen = frame_numbers(0, last, frames, available)
    assert seen[0] == 0 and last < available
    gaps = max(1, frames - 1)
    unseen = available - 1 - last
    assert unseen == 0 or (unseen < last // gaps and set(np.diff(seen)) <= {last // gaps})


def test_a_video_is_one_take_whatever_its_length() -> None:
    lengths = (216, 96, 30, 5, 1)
    catalog = catalog_of(
        [{**row, "frames": n} for row, n in zip(rows(len(lengths)), lengths, strict=True)]
    )
    chosen = CnnRnn(**{**SMALL, "frames": 16}, span="video", test_crops=3)
    train, test = (chosen.plan(catalog, stage, Draw(0)) for stage in ("train", "test"))
    assert train.first.tolist() == [[0]] * 5
    assert train.last.ravel().tolist() == [210, 90, 29, 4, 0]
    assert train.crop.tolist() == [0] * 5
    assert test.record.ravel().tolist() == np.repeat(range(5), 3).tolist()
    assert test.crop.tolist() == [1, 2, 3] * 5
    assert frame_numbers(0, 90, 16, 96).tolist() == list(range(0, 96, 6))
    assert frame_numbers(0, 4, 16, 5).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4]
    assert set(frame_numbers(0, 0, 16, 1).tolist()) == {0}


def test_each_frame_has_the_class_of_its_span() -> None:
    spans = [
        {"label": "still", "target": 2, "first_frame": 0, "last_frame": 40},
        {"label": "grow", "target": 0, "first_frame": 60, "last_frame": 95},
    ]
    chosen = ConvLSTM(**TINY, labels="frames", span="video")
    frames = frame_numbers(0, 91, 8, 96)
    stream = {"rgb": np.zeros((8, 32, 32, 3), np.uint8)}
    decoded = Decoded("train", ("train",), (stream,), ({"target": -1, "spans": spans},), (frames,))
    sample = chosen.sample(decoded, np.random.default_rng(0))
    assert sample["target"].tolist() == [2, 2, 2, 2, -1, 0, 0, 0]
    model = built(chosen)
    batch = {
        "rgb": torch.randn(2, 3, 8, 32, 32),
        "target": torch.from_numpy(np.stack([sample["target"]] * 2)),
        "frame_numbers": torch.from_numpy(np.stack([frames] * 2)),
    }
    assert model(batch)["loss"].isfinite()
    answer, _ = model.eval().predict(batch)
    assert answer["frame_probabilities"].shape == (2, 8, 4)


# --- answers


def test_the_mean_of_frames_is_learnt_at_each_and_told_of_all() -> None:
    readout = MeanOfFrames(5, 4, 0.0)
    torch.nn.init.normal_(readout.head.weight)
    y = torch.randn(3, 6, 5)
    target, other, mix = (
        torch.tensor([0, 3, -1]),
        torch.tensor([3, 0, 1]),
        torch.tensor([0.2, 1, 0.5]),
    )
    batch = {"target": target, "target_b": other, "mix": mix}
    told = readout.judged(y, batch, Judge(), [5])
    each = [Judge()(readout.head(y[:, at]), batch)["loss"] for at in range(6)]
    torch.testing.assert_close(told["loss"], torch.stack(each).mean())
    answer = readout.head(y).mean(1)
    torch.testing.assert_close(readout(y).scores, answer)
    torch.testing.assert_close(told["accuracy"], Judge()(answer, batch)["accuracy"])


def test_attention_weighs_the_memory_by_the_frames() -> None:
    torch.manual_seed(0)
    readout = Attention(5, 7, 4, 0.0, 3)
    y, x = torch.randn(2, 6, 5), torch.randn(2, 6, 7)
    read = readout(torch.cat([y, x], 2))
    energies = read.shown["attention_energy"]
    wanted = readout.head((energies.softmax(1)[:, :, None] * y).sum(1))
    torch.testing.assert_close(read.scores, wanted)
    other = readout(torch.cat([torch.randn(2, 6, 5), x], 2))
    torch.testing.assert_close(other.shown["attention_energy"], energies)
    with torch.no_grad():
        readout.energy.weight *= 1e4  # as good as one frame, without overflow
    read = readout(torch.cat([y, x], 2))
    at = read.shown["attention_energy"].argmax(1)
    torch.testing.assert_close(read.scores, readout.head(y[range(2), at]), rtol=1e-3, atol=1e-3)


def test_an_answer_shows_the_weights_of_each_take() -> None:
    chosen = AttentionLSTM(**SMALL, test_clips=2)
    takes = chosen.plan(memory_catalog(), "test", Draw(0))[:2]
    energies = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    outputs = [
        {"probabilities": p, "attention_energy": e}
        for p, e in zip(np.eye(2, 4, dtype=np.float32), energies, strict=True)
    ]
    answer = chosen.answer(outputs, takes)
    assert answer["probabilities"].tolist() == [0.5, 0.5, 0, 0]
    np.testing.assert_allclose(answer["attention"].sum(1), 1)
    assert (answer["attention"].argsort(1) == energies.argsort(1)).all()
    assert answer["attention_frames"][:, 0].tolist() == takes.first[:, 0].tolist()
    assert answer["attention_frames"].shape == (2, 8)


def test_normalised_features_come_to_the_gates_on_one_scale() -> None:
    model = built(CnnRnn(features=20, frames=8, hidden=16, normalised=True)).train()
    seen: list[torch.Tensor] = []
    model.recurrent.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    clip = torch.randn(4, 8, 20) * torch.logspace(-3, 3, 20) + 5
    model({"features": clip, "target": torch.tensor([0, 1, 2, 3])})
    torch.testing.assert_close(seen[0].mean((0, 1)), torch.zeros(20), atol=1e-3, rtol=0)
    assert (seen[0].std((0, 1))[7:] - 1).abs().max() < 0.05


def test_features_stand_in_for_frames() -> None:
    chosen = CnnRnn(features=20, frames=8, hidden=16, window=3)
    assert chosen.views()["train"].streams == ("features",)
    model = built(chosen)
    assert not list(model.encoder.parameters())
    batch = {"features": torch.randn(2, 8, 20), "target": torch.tensor([0, 1])}
    model(batch)["loss"].backward()
    assert model.eval().predict(batch)[0]["probabilities"].shape == (2, 4)
    with pytest.raises(PluginError, match="rows of 21 features; wanted 20"):
        model.predict({"features": torch.randn(2, 8, 21)})


# --- fields

WRONG = [
    ("cnn_rnn", {"bidirectional": True, "window": 4}, "bidirectional is True; wanted false with"),
    ("cnn_rnn", {"cell": "rnn"}, "cell is 'rnn'"),
    ("cnn_rnn", {"span": "video", "test_clips": 4}, "span is 'video'; wanted clip with test_clips"),
    ("cnn_rnn", {"window": 0}, "window is 0"),
    ("attention_lstm", {"labels": "frames"}, "labels is 'frames'; wanted one of one, several"),
    ("conv_lstm", {"size": 50}, "patch is 4; wanted a divisor of size 50"),
    ("conv_lstm", {"kernel": 4}, "kernel is 4; wanted an odd number"),
    ("conv_lstm", {"channels": (8, 0)}, "wanted at least 1 channel"),
]


@pytest.mark.parametrize(("name", "fields", "told"), WRONG)
def test_wrong_fields_are_told_in_one_line(name: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        plugin.make(name, fields)


def spanned() -> Catalog:
    """The contract's records, each with its class in one half and the next one in the other."""
    plain = memory_catalog()
    table_rows = plain.table.to_pylist()
    for place, row in enumerate(table_rows):
        half, classes = row["frames"] // 2, (case.CLASSES[(place + turn) % 4] for turn in (0, 1))
        ends = ((0, half - 1), (half, row["frames"] - 1))
        row["spans"] = [
            {"label": label, "first_frame": first, "last_frame": last}
            for label, (first, last) in zip(classes, ends, strict=True)
        ]
    return Catalog("memory", pa.Table.from_pylist(table_rows, SCHEMA), plain.meta)


@pytest.mark.parametrize(
    "chosen",
    [
        CnnRnn(**SMALL, labels="frames", span="video", window=4),
        CnnRnn(**SMALL, cell="gru", layers=2, bidirectional=True, readout="last"),
        ConvLSTM(**TINY, kernel=3, labels="frames"),
    ],
    ids=told,
)
def test_the_contract_holds_for_the_variants(
    chosen: SequenceClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "memory_catalog", spanned)
    done = ("light import", "overfits")  # with the default fields, by the contract's own tests
    promises = [promise for promise in contract.CHECKS if promise[0] not in done]
    report = contract.examine(chosen, promises)
    assert report.ok, f"\n{report}"


def test_one_frame_is_enough() -> None:
    for kind in (CnnRnn, ConvLSTM, AttentionLSTM):
        model = built(kind(**{**TINY, "frames": 1})).eval()
        outputs, _ = model.predict(clips(1, 1))
        assert outputs["probabilities"].isfinite().all()

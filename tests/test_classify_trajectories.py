"""Dense trajectories: points follow what moves, Fisher vectors are gradients, all of it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clipmill import api, checkpoint, contract, recipe, video
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Info, make
from clipmill_classify.trajectories import Trajectories
from clipmill_classify.trajectories_network import (
    TrajectoryNetwork,
    Words,
    learn,
)
from clipmill_classify.trajectories_tracks import Tracking, described
from tiny import moving, run_recipe

TRACKING = Tracking(step=3, length=6, patch=16, scales=1, least_motion=1.0)
FIELDS: dict[str, Any] = {
    "width": 1 / 64, "frames": 7, "size": 48, "resize": 48, "length": 6, "patch": 16,
    "scales": 1, "tracks": 30, "point_step": 6,
}  # fmt: skip


def tracked(frames: list[NDArray[np.uint8]], tracking: Tracking = TRACKING) -> NDArray[np.float32]:
    clip = np.stack(frames[: tracking.length + 1])
    flow = np.asarray(video.flow(clip) / video.FLOW_STEPS_A_PIXEL, np.float32)
    return described(clip, flow, tracking)


def parts(told: NDArray[np.float32], tracking: Tracking = TRACKING) -> dict[str, Any]:
    edges = np.cumsum([0, *tracking.kinds.values()])
    return {
        name: told[:, a:b] for name, a, b in zip(tracking.kinds, edges, edges[1:], strict=False)
    }


# --- tracks


def test_a_track_is_described_by_as_many_numbers_as_in_the_paper() -> None:
    assert Trajectories().tracking.kinds == {
        "path": 30, "hog": 96, "hof": 108, "mbh_x": 96, "mbh_y": 96
    }  # fmt: skip


@pytest.mark.parametrize("step", [-2, 2])
def test_points_follow_what_moves(step: int) -> None:
    told = parts(tracked(moving(3, step)))
    assert len(told["path"]) > 20
    along = np.median(told["path"].reshape(-1, 6, 2), axis=0)
    np.testing.assert_allclose(along, [[np.sign(step) / 6, 0]] * 6, atol=0.03)
    flow = (told["hof"] ** 2).reshape(-1, 12, 9).mean((0, 1))
    assert flow.argmax() == (0 if step > 0 else 4)  # right is the first of 8 ways, left the fifth
    # The camera's own motion has no edges: nothing but noise is left of it.
    for kind in ("path", "hog", "hof", "mbh_x", "mbh_y"):
        assert np.isfinite(told[kind]).all()


def test_what_stands_still_has_no_tracks() -> None:
    assert not len(tracked(moving(3, 0)))
    assert len(tracked(moving(3, 0), Tracking(3, 6, 16, 1, least_motion=0.0))) > 20


def test_smaller_pictures_add_tracks_of_larger_things() -> None:
    frames = moving(3, 2, size=96)
    one, more = (tracked(frames, Tracking(3, 6, 16, scales, 1.0)) for scales in (1, 3))
    np.testing.assert_array_equal(more[: len(one)], one)
    assert len(one) < len(more)
    along = np.median(parts(more[len(one) :])["path"].reshape(-1, 6, 2), axis=0)
    np.testing.assert_allclose(along, [[1 / 6, 0]] * 6, atol=0.03)


def test_a_clip_of_several_windows_has_tracks_of_each() -> None:
    frames = np.stack(moving(3, 2))
    flow = np.asarray(video.flow(frames) / video.FLOW_STEPS_A_PIXEL, np.float32)
    counts = [len(described(frames[: n + 1], flow[:n], TRACKING)) for n in (5, 6, 11, 12, 18)]
    assert counts[0] == 0 and counts[1] == counts[2] < counts[3] < counts[4]


# --- words


def test_a_fisher_vector_is_the_gradient_of_the_likelihood() -> None:
    torch.manual_seed(0)
    words = Words(6, 4).double()
    words.mean_WE.copy_(torch.randn(4, 3))
    words.variance_WE.copy_(torch.rand(4, 3) + 0.3)
    words.share_W.copy_(torch.softmax(torch.randn(4), 0))
    x_1ND = torch.randn(1, 20, 6).double()
    given = words.share_W.log(), words.mean_WE, words.variance_WE.sqrt()
    logits, mean, deviation = (each.clone().requires_grad_() for each in given)
    normal = torch.distributions.Normal(mean, deviation)
    likely: Any = normal.log_prob  # type: ignore[no-untyped-call, unused-ignore]
    of_word = likely(x_1ND[0, :, None, :3]).sum(2) + logits.log_softmax(0)
    of_word.logsumexp(1).mean().backward()
    root = words.share_W.sqrt()[:, None]
    wanted = torch.cat(
        [
            logits.grad / root[:, 0],
            (mean.grad * deviation / root).flatten(),
            (deviation.grad * deviation / root).flatten() / 2**0.5,
        ]
    ).detach()
    wanted = wanted.sign() * wanted.abs().sqrt()
    found = words(x_1ND, torch.ones(1, 20).double())[0]
    torch.testing.assert_close(found, wanted / wanted.norm())


def a_network() -> TrajectoryNetwork:
    torch.manual_seed(0)
    made = TrajectoryNetwork({"one": 4, "two": 6}, 3, classes=3)
    for buffer in (
        made.svm.weight_KD,
        *(words.get_buffer("mean_WE") for words in made.words.values()),
    ):
        buffer.copy_(torch.randn(buffer.shape))
    return made


def test_only_tracks_that_are_there_count() -> None:
    network, tracks = a_network(), torch.randn(2, 9, 10)
    batch = {"tracks": tracks, "kept": torch.tensor([9, 4])}
    fewer = {"tracks": tracks[1:, :4], "kept": torch.tensor([4])}
    torch.testing.assert_close(network.logits(batch)[1:], network.logits(fewer))
    none = network.predict({"tracks": tracks, "kept": torch.tensor([0, 0])})[0]["probabilities"]
    torch.testing.assert_close(none, network.svm.bias_K.softmax(0).expand(2, -1))


def test_words_and_classifier_are_learnt_from_one_pass() -> None:
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 10, generator=rng) * 2
    targets = torch.arange(60) % 3
    tracks = torch.randn(60, 9, 10, generator=rng) + centres[targets][:, None]
    batches = [
        {"tracks": tracks[at : at + 6], "kept": torch.full((6,), 7), "target": targets[at : at + 6]}
        for at in range(0, 60, 6)
    ]
    network, again = a_network(), a_network()
    learn(network, iter(batches[:-2]), 100, 10.0)
    learn(again, iter(batches[:-2]), 100, 10.0)
    assert all(
        torch.equal(one, other)
        for one, other in zip(network.buffers(), again.buffers(), strict=True)
    )
    told = torch.cat([network.logits(batch).argmax(1) for batch in batches[-2:]])
    assert torch.equal(told, targets[-12:])
    with pytest.raises(PluginError, match="none of 6 clips has a track"):
        learn(network, iter([{**batches[0], "kept": torch.zeros(6, dtype=torch.int64)}]), 100, 1.0)


# --- the plugin


def test_the_contract_holds() -> None:
    report = contract.check("trajectories")
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"frames": 15}, "more frames than length=15"),
        ({"augment": ("flip",)}, "not flip"),
        ({"labels": "several"}, "one of one"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make("trajectories", fields)


def test_nothing_of_it_has_a_gradient() -> None:
    with torch.device("meta"):
        model = Trajectories().build(Info(tuple(map(str, range(101)))))
    assert not list(model.parameters())
    features = 256 * (2 * (15 + 48 + 54 + 48 + 48) + 5)
    assert model.get_buffer("svm.weight_KD").shape == (101, features)


def test_it_is_trained_as_any_other(dataset: str, tmp_path: Path) -> None:
    plain = run_recipe(dataset, tmp_path, "tracks", steps=6)
    plain["model"] = {"plugin": "trajectories", **FIELDS, "test_clips": 1}
    told = api.train(plain)
    assert told["steps"] == 6 and told["metrics"]["accuracy"] == 1
    assert told["metrics"]["val_accuracy"] == 1
    folder = Path(told["folder"]) / "model"
    found = checkpoint.read_weights(str(folder))
    assert (
        found["svm.weight_KD"].any() and checkpoint.weights_sha256(found) == told["weights_sha256"]
    )
    again = {**plain, "run": {**plain["run"], "name": "again"}}
    once_more = api.train(again)
    for name in ("weights_sha256", "takes_sha256"):
        assert once_more[name] == told[name]


def test_it_learns_on_one_worker() -> None:
    plain = run_recipe("data", Path("runs"), "tracks", workers=2)
    given = recipe.parse({**plain, "model": {"plugin": "trajectories", **FIELDS}})
    from clipmill.launch import lesson

    with pytest.raises(RecipeError, match="train.workers=1"):
        lesson.check(given, given.plugin())

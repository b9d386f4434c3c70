"""Guards: crops and colours of parts, and that a linear probe tells no order by border or colour."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from clipmill.plugin import Decoded, Stage
from clipmill.takes import generator
from clipmill_pretext.guards import Channels, cropped, guarded, recoloured
from clipmill_pretext.odd_one_out import ODD, OddOneOut
from clipmill_pretext.temporal_order import TemporalOrder

SIDE, SIZE = 44, 32
Frames = NDArray[np.uint8]


def test_crops_lie_within_and_near_one_another() -> None:
    rows, columns = np.mgrid[:SIDE, :60]
    part = np.stack([rows, columns, rows], -1)[None].astype(np.uint8)
    corners = []
    for seed in range(400):
        squares = cropped([part] * 3, SIZE, 5, np.random.default_rng(seed))
        assert all(square.shape == (1, SIZE, SIZE, 3) for square in squares)
        corners.append([square[0, 0, 0, :2].astype(int) for square in squares])
    found = np.array(corners)
    spread = found.max(1) - found.min(1)
    assert spread.max() == 5 and (found.max((0, 1)) == (SIDE - SIZE, 60 - SIZE)).all()
    assert not found.min((0, 1)).any()
    same = cropped([part] * 3, SIZE, 0, np.random.default_rng(0))
    assert np.array_equal(same[0], same[2])


def test_colours_are_of_one_channel_or_of_other_strengths() -> None:
    parts = [np.full((2, 4, 4, 3), (10, 100, 200), np.uint8)] * 40
    rng = np.random.default_rng(0)
    greys = {int(part[0, 0, 0, 0]) for part in recoloured(parts, "split", rng)}
    assert greys == {10, 100, 200}
    assert all((part == part[..., :1]).all() for part in recoloured(parts, "split", rng))
    gains = np.array([part[0, 0, 0] / (10, 100, 200) for part in recoloured(parts, "jitter", rng)])
    assert gains.min() > 0.75 and gains.max() < 1.25 and gains.std(0).min() > 0.05
    assert np.array_equal(recoloured(parts, "as_is", rng), parts)


def test_nothing_is_left_to_chance_at_test() -> None:
    part = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    for channels in ("split", "jitter", "as_is"):
        made = guarded([part, part], size=SIZE, apart=8, channels=channels, rng=None)  # type: ignore[arg-type]
        assert np.array_equal(made[0], made[1])
        middle = part[:, 6:38, 6:38]
        grey = np.repeat(middle.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
        assert np.array_equal(made[0], grey if channels == "split" else middle)


# --- probes: the shortcut is there, and it is gone


def decoded(show: Any, first: list[int], stage: Stage = "train") -> Decoded:
    """Clips of two frames that begin at these frames; `show` gives the picture of a frame."""
    numbers = [np.array([at, at + 1]) for at in first]
    streams = tuple({"rgb": np.stack([show(n) for n in each])} for each in numbers)
    rows: Any = tuple({} for _ in first)
    return Decoded(stage, ("train",) * len(first), streams, rows, tuple(numbers))


def probed(films: list[Any], describe: Any, **guards: Any) -> float:
    """How well a linear probe on what is shown tells the order of three clips; chance is 1 / 6."""
    plugin = TemporalOrder(task="clips", frames=2, size=SIZE, resize=SIDE, **guards)
    rng = np.random.default_rng(0)
    told, truth = [], []
    for seed, film in enumerate(films):
        made = plugin.sample(decoded(film, (rng.permutation(3) * 10).tolist()), generator(seed))
        told.append(np.concatenate([describe(part) for part in np.split(made["rgb"], 3)]))
        truth.append(int(made["truth"]))
    return probe_score(np.array(told), truth)


def probe_score(x: NDArray[Any], truth: list[int]) -> float:
    """The share right of a linear probe: learnt from one half, asked about the other."""
    cut = len(x) // 2
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    probe = LogisticRegression(max_iter=300).fit(x[:cut], truth[:cut])
    return float(probe.score(x[cut:], truth[cut:]))


def fading(seed: int) -> Any:
    """A film whose red grows as its blue fades; nothing moves."""
    still = np.random.default_rng(seed).integers(0, 60, (SIDE, SIDE, 3))
    return lambda at: (still + np.array([60 + 4 * at, 100, 140 - 4 * at])).astype(np.uint8)


def sliding(seed: int) -> Any:
    """A film with a bright border that comes in by two pixels in ten frames."""
    still = np.random.default_rng(seed).integers(0, 60, (SIDE, SIDE, 3))

    def show(at: int) -> Frames:
        made = still.copy()
        made[:, : 12 + at // 5] = 200
        return made.astype(np.uint8)

    return show


def colours(part: Frames) -> NDArray[Any]:
    return part.mean((0, 1, 2))


def columns(part: Frames) -> NDArray[Any]:
    return part.mean((0, 1, 3))


@pytest.mark.parametrize(
    ("film", "describe", "without", "guards"),
    [
        (fading, colours, {"channels": "as_is"}, {"channels": "split"}),
        (sliding, columns, {"apart": 0}, {"apart": 12}),
    ],
)
def test_a_linear_probe_tells_the_order_only_without_guards(
    film: Any, describe: Any, without: dict[str, Any], guards: dict[str, Any]
) -> None:
    films = [film(seed) for seed in range(600)]
    assert probed(films, describe, **without) > 0.75
    assert probed(films, describe, **guards) < 0.4


def drift(part: Frames) -> NDArray[Any]:
    """How colours differ from the first frame of a sub-clip to its last.

    From frame to frame they would tell how much changes, too, which is told beside every test.
    """
    mean = part.mean((1, 2))
    return np.asarray(mean[-1] - mean[0])


def odd_probed(films: list[Any], channels: Channels) -> float:
    """How well a linear probe on colours tells which of three sub-clips is odd; chance is 1 / 3."""
    plugin = OddOneOut(clips=3, frames=4, size=SIZE, resize=SIDE, channels=channels)
    rng = np.random.default_rng(0)
    told, truth = [], []
    for seed, film in enumerate(films):
        views = np.full(3, "train", dtype=object)
        views[rng.integers(3)] = ODD
        numbers = tuple(np.arange(at, at + 4) for at in (0, 8, 16))
        streams = tuple({"rgb": np.stack([film(n) for n in each])} for each in numbers)
        take = Decoded("train", tuple(views.tolist()), streams, ({}, {}, {}), numbers)
        made = plugin.sample(take, generator(seed))
        told.append(np.concatenate([drift(part) for part in np.split(made["rgb"], 3)]))
        truth.append(int(made["truth"]))
    return probe_score(np.array(told), truth)


def test_a_linear_probe_on_colours_finds_the_odd_one_only_without_guards() -> None:
    films = [fading(seed) for seed in range(600)]
    assert odd_probed(films, "as_is") > 0.75
    assert odd_probed(films, "split") < 0.45  # it still tells how much changes, not which way

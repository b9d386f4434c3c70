"""Whether one model is better than another: the paired bootstrap over the videos of one test.

Takes results of evaluations, plain data, and gives the difference, its interval and a verdict in
words (Efron and Tibshirani, 1993). Knows neither models nor videos.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import PlanError, PluginError

RESAMPLES, SEED, PERCENT = 10_000, 0, 95
MOST_DRAWN = 1 << 23  # numbers at once
# Where a metric is no mean over videos, every resample is measured anew by merging meters.
MOST_MERGES, LEAST_RESAMPLES = 400_000, 200
# Where two models differ on fewer videos than this, chance alone explains any difference: an
# exact sign test cannot fall below 5 % then.
LEAST_TELLING = 6

Result = Mapping[str, Any]
Values = NDArray[np.float64]


def compared(results: Sequence[Result], *, seed: int = SEED) -> dict[str, Any]:
    """Set results of one test side by side: a row each, the best first, and all their pairs."""
    ranked = sorted(results, key=lambda result: -float(result["score"]))
    first = ranked[0]
    return {
        "metric": first["metric"],
        "data": first["data"],
        "videos": min(int(result["videos"]) for result in results),
        "rows": [_row(result) for result in ranked],
        "pairs": [paired(a, b, seed=seed) for a, b in combinations(ranked, 2)],
        "best": name_of(first),
    }


def _row(result: Result) -> dict[str, Any]:
    shown = ("videos", "bad_clips", "videos_without_answer", "protocol", "metrics")
    value = float(result["metrics"][result["metric"]])
    return {"model": name_of(result), "value": value, **{name: result[name] for name in shown}}


def name_of(result: Result) -> str:
    """What a result's model is called."""
    if "version" in result:
        return f"{result['name']}/{result['version']}"
    return str(result.get("run") or result["plugin"])


# --- what may be compared


def check_alike(tests: Sequence[Result], *, data_given: bool = False) -> None:
    """Refuse what is not the same test of the same task; of data that is given classes may differ.

    Takes results, or what is known of tests before they are made.
    """
    for other in tests[1:]:
        _check_same_test(tests[0], other)
        if told := differences(tests[0], other):
            if data_given and all(each.startswith("classes") for each in told):
                continue
            raise PlanError(
                f"{name_of(tests[0])} and {name_of(other)} differ in {told[0]}",
                "the same test of both",
                "give the dataset to test all on, and --clips and --crops",
            )


def _check_same_test(a: Result, b: Result) -> None:
    names = f"{name_of(a)} and {name_of(b)}"
    if a["metric"] != b["metric"]:
        raise PlanError(f"{names} are measured by {a['metric']} and {b['metric']}", "one metric")
    if a["data_digest"] != b["data_digest"]:
        where = [f"{test['protocol']['split']} of {test['data']}" for test in (a, b)]
        raise PlanError(
            f"{names} are tested on other videos: {where[0]} and {where[1]}",
            "the same videos for both",
            "name the dataset to test all on: compare A B --data DATA",
        )


def differences(a: Result, b: Result) -> list[str]:
    """What of the tests of two models is not the same, beside their frames, rates and sizes."""
    told = [
        f"{name}: {a['protocol'][name]} and {b['protocol'][name]}"
        for name in ("clips", "crops", "crop")
        if a["protocol"].get(name) != b["protocol"].get(name)
    ]
    ours, theirs = set(a["classes"]), set(b["classes"])
    if apart := sorted(ours ^ theirs):
        told.append(f"classes: only one of them knows {', '.join(apart[:3])}")
    return told


# --- the bootstrap


def paired(a: Result, b: Result, *, seed: int = SEED) -> dict[str, Any]:
    """How much better one result is than another, with the interval of it, and in words.

    Both are of the same videos, on all of which they are compared that both could answer.
    """
    _check_same_test(a, b)
    keys = _shared(a, b)
    differ, telling = _resampled(a, b, keys, seed)
    low, high = (float(edge) for edge in np.percentile(differ, _edges()))
    ours, theirs = (_measured(result, keys) for result in (a, b))
    told = {
        "a": name_of(a), "b": name_of(b), "metric": a["metric"], "videos": len(keys),
        "difference": ours - theirs, "low": low, "high": high, "percent": PERCENT,
        "resamples": len(differ), "videos_that_differ": telling,
    }  # fmt: skip
    better = _better(told, bool(a["higher_is_better"]))
    left = max(len(result["answers"]) for result in (a, b)) - len(keys)
    return {
        **told,
        "better": better,
        "verdict": _verdict(told, better, _is_share(a, ours, theirs)),
        "differences": differences(a, b) + ([f"{left} videos only one answered"] if left else []),
    }


def _edges() -> tuple[float, float]:
    return (100 - PERCENT) / 2, (100 + PERCENT) / 2


def _shared(a: Result, b: Result) -> list[str]:
    theirs = {row["key"] for row in b["answers"]}
    keys = [str(row["key"]) for row in a["answers"] if row["key"] in theirs]
    if not keys:
        raise PlanError(f"{name_of(a)} and {name_of(b)} answered no video both", "one at the least")
    return keys


def _resampled(a: Result, b: Result, keys: Sequence[str], seed: int) -> tuple[Values, int]:
    """The difference over each resample of the videos, and on how many videos they differ."""
    scores = _scores(a, keys), _scores(b, keys)
    if scores[0] is None or scores[1] is None:
        return _by_merging(a, b, keys, seed)
    apart = scores[0] - scores[1]
    return np.concatenate(list(_means(apart, seed))), int(np.count_nonzero(apart))


def _scores(result: Result, keys: Sequence[str]) -> Values | None:
    """What each video adds to the metric, which is the mean of it; None where it is no mean."""
    of_key = {row["key"]: row.get("score") for row in result["answers"]}
    scores = [of_key[key] for key in keys]
    return None if None in scores else np.array(scores, np.float64)


def _means(values: Values, seed: int) -> Iterator[Values]:
    """The mean over each resample: how often each value comes is drawn, not each video."""
    unique, counts = np.unique(values, return_counts=True)
    rng, share = np.random.default_rng(seed), counts / len(values)
    at_once = max(1, MOST_DRAWN // len(unique))
    for first in range(0, RESAMPLES, at_once):
        drawn = rng.multinomial(len(values), share, size=min(at_once, RESAMPLES - first))
        yield drawn @ unique / len(values)


def _by_merging(a: Result, b: Result, keys: Sequence[str], seed: int) -> tuple[Values, int]:
    """The same for any metric, from meters of single videos: fewer resamples of many videos."""
    meters = [[_meter_of(result, key) for key in keys] for result in (a, b)]
    rng, count = np.random.default_rng(seed), len(keys)
    resamples = min(RESAMPLES, max(LEAST_RESAMPLES, MOST_MERGES // (2 * count)))
    made = np.empty(resamples)
    for at in range(resamples):
        drawn = rng.integers(0, count, count).tolist()
        ours, theirs = (_merged([of[place] for place in drawn], a["metric"]) for of in meters)
        made[at] = ours - theirs
    told = [{row["key"]: row for row in result["answers"]} for result in (a, b)]
    return made, sum(told[0][key] != told[1][key] for key in keys)


def _meter_of(result: Result, key: str) -> Any:
    try:
        return result["meters"][key]
    except KeyError:
        raise PluginError(
            f"the metric {result['metric']} of {name_of(result)} has no score of a single video",
            "a meter with `score(answer, target)`, or an evaluation that keeps its meters",
        ) from None


def _merged(meters: Sequence[Any], metric: str) -> float:
    whole = copy.deepcopy(meters[0])
    for each in meters[1:]:
        whole.merge(each)
    return float(whole.compute()[metric])


def _measured(result: Result, keys: Sequence[str]) -> float:
    """The metric over the shared videos, which mostly are all."""
    if len(keys) == len(result["answers"]):
        return float(result["metrics"][result["metric"]])
    scores = _scores(result, keys)
    if scores is not None:
        return float(scores.mean())
    return _merged([_meter_of(result, key) for key in keys], result["metric"])


# --- in words


def _better(told: Mapping[str, Any], higher_is_better: bool) -> str | None:
    """The name of the better one, where that can be told."""
    if told["videos_that_differ"] < LEAST_TELLING or told["low"] <= 0 <= told["high"]:
        return None
    return str(told["a"] if (told["difference"] > 0) == higher_is_better else told["b"])


def _is_share(result: Result, *values: float) -> bool:
    """Whether a metric reads as a share, such as accuracy; a loss does not."""
    return bool(result["higher_is_better"]) and all(0 <= value <= 1 for value in values)


def _verdict(told: Mapping[str, Any], better: str | None, is_share: bool) -> str:
    # Shares are told in points, of which a whole has a hundred.
    scale, unit = (100, " points") if is_share else (1, "")
    low, high = sorted(scale * told[edge] for edge in ("low", "high"))
    if better is None:
        return (
            f"no difference can be told between {told['a']} and {told['b']} from {told['videos']}"
            f" videos: {_number(scale * told['difference'])}{unit},"
            f" {PERCENT} % between {_number(low)} and {_number(high)}"
        )
    if told["difference"] < 0:
        low, high = -high, -low
    size = _number(scale * abs(told["difference"]))
    return f"{better} is better by {size}{unit}, {PERCENT} % between {_number(low)} and {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 0.95 or not value else f"{value:.2g}"

"""A batch as the model sees it, as one picture: a row a take, its frames along time.

After preparation, with the normalisation taken back: what is wrong here is wrong for the network.
Flow is drawn as a wheel of colours, masks over the frames, sound as its outline above its
log-mel spectrogram. Knows no network.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import augment, feed, storage, video
from clipmill import plan as plans
from clipmill.errors import DataError, UsageError
from clipmill.plan import Plan
from clipmill.plugin import Sample
from clipmill.recipe import Recipe
from clipmill.takes import Stage, Takes, View
from clipmill.video import sheet

MOST_TAKES, MOST_FRAMES = 32, 16  # of a picture
LEAST_SIDE = 96  # pixels; smaller frames are enlarged
GAP, WORDS_WIDTH, TITLE_HEIGHT, LEAST_HEIGHT = 4, 300, 26, 86
WAVE_HEIGHT, BANDS = 40, 48
LOWEST, HIGHEST = -18.0, 0.0  # logarithms of power, from white to black
GOLDEN = 0.618034  # of the circle of colours, from one number of a mask to the next
OVERLAID = ("mask", "instances", "motion")  # the first that is there lies over the frames

Picture = NDArray[np.uint8]
Shares = NDArray[np.float32]  # of full light, from 0 to 1


@dataclass(frozen=True)
class Look:
    """A batch after preparation, with what is known of its takes."""

    view: View
    streams: Mapping[str, NDArray[Any]]
    takes: Sequence[dict[str, Any]]
    count: int  # of takes, of which the first ones are shown


def look(
    recipe: Recipe, out: str | None = None, *, stage: Stage = "train", batch: int = 0
) -> dict[str, Any]:
    """Draw one batch of a stage, counted from 0, into a PNG or JPEG file."""
    file = storage.absolute(out or f"{recipe.run.name}-{stage}.png")
    suffix = os.path.splitext(file)[1].lower()
    if suffix not in sheet.SUFFIXES:
        raise UsageError(f"the picture {file}", f"a file that ends in {', '.join(sheet.SUFFIXES)}")
    plan = plans.make(recipe, stage)
    seen = _seen(plan, recipe, batch)
    title = f"{recipe.run.name}: batch {batch} of {stage}, {_told(seen.view, stage)}"
    storage.put(file, sheet.encoded(drawn(seen, title), suffix))
    told = {"file": file, "stage": stage, "batch": batch, "of": seen.count}
    return {**told, "takes": list(seen.takes)}


def _seen(plan: Plan, recipe: Recipe, batch: int) -> Look:
    count = -(-plan.takes_per_epoch // plan.batch)
    if batch < 0 or (plan.stage != "train" and batch >= count):
        raise UsageError(f"batch {batch}", f"0 to {count - 1}", "counted from 0")
    with feed.batches(plan, feed.Share(batch, batch + 1), recipe.feed) as batches:
        sample = next(batches, None)
        ledger = {row["position"]: row for row in batches.ledger}
    if sample is None or not len(sample["position"]):
        raise DataError(
            f"batch {batch} of {plan.stage} without a clip that decodes",
            "one at the least",
            "run `clipmill verify --deep` on the dataset",
        )
    first = plan.at(batch * plan.batch, batch * plan.batch + 1)
    view = plan.plugin.views()[first.views[int(first.view[0, 0])]]
    tensors = augment.prepare(sample, view, training=plan.stage == "train")
    streams = {name: t.numpy()[:MOST_TAKES] for name, t in tensors.items()}
    shown = sample["position"][:MOST_TAKES].tolist()
    takes = [_take(plan, sample, place, ledger.get(at)) for place, at in enumerate(shown)]
    if "mix" in streams:
        for take, share in zip(takes, streams["mix"].tolist(), strict=True):
            take["own_share"] = share
    return Look(view, streams, takes, len(sample["position"]))


def _take(plan: Plan, sample: Sample, place: int, bad: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a take is; of one that stands in for a bad clip only its key is known."""
    position = int(sample["position"][place])
    told = {"position": position, "seed": int(sample["seed"][place])}
    if bad is not None:
        return {**told, "key": bad["used"][0], "label": None, "instead_of": bad["wanted"][0]}
    takes = plan.at(position, position + 1)
    row = plan.catalog.row(int(takes.record[0, 0]))
    first, last = (int(numbers[0, 0]) / row["fps"] for numbers in (takes.first, takes.last))
    span = {"first_seconds": round(first, 3), "last_seconds": round(last, 3)}
    return {**told, "key": row["key"], "label": row["label"], **_classes(row, takes), **span}


def _classes(row: Mapping[str, Any], takes: Takes) -> dict[str, Any]:
    """The classes of a record beside its label: several, and those of the frames of a take."""
    names = dict.fromkeys((row["label"], *(row["labels"] or ())))
    told: dict[str, Any] = {"labels": [n for n in names if n]} if row["labels"] else {}
    first, last, fps = int(takes.first[0, 0]), int(takes.last[0, 0]), float(row["fps"])
    told_spans = [
        {
            "label": span["label"],
            "start_seconds": round(max(first, span["first_frame"]) / fps, 3),
            "end_seconds": round((min(last, span["last_frame"]) + 1) / fps, 3),
        }
        for span in row["spans"] or ()
        if span["first_frame"] <= last and span["last_frame"] >= first
    ]
    return {**told, "spans": told_spans} if row["spans"] else told


def _told(view: View, stage: Stage) -> str:
    seen = f"{view.frames} frames of {view.size} x {view.size} at {view.rate:g} a second"
    return f"{seen}, augmented by {', '.join(view.augment)}" if stage == "train" else seen


# --- the sheet


def drawn(seen: Look, title: str) -> Picture:
    """The whole picture."""
    rows = [_row(seen, place) for place in range(len(seen.takes))]
    width = max(row.shape[1] for row in rows)
    parts = [sheet.written([title], TITLE_HEIGHT, width)]
    for row in rows:
        parts += [sheet.paper(GAP, width), sheet.wide(row, width)]
    return np.concatenate(parts)


def _row(seen: Look, place: int) -> Picture:
    strips = list(_strips(seen, place))
    if not strips:
        raise UsageError(
            f"a batch of {', '.join(sorted(seen.streams))}",
            "rgb, flow, masks or audio, which can be drawn",
            "the plugin's sample names its streams otherwise",
        )
    width = max(strip.shape[1] for strip in strips)
    picture = np.concatenate([sheet.wide(strip, width) for strip in strips])
    if (short := LEAST_HEIGHT - len(picture)) > 0:
        picture = np.concatenate([picture, sheet.paper(short, width)])
    words = sheet.written(_words(seen.takes[place]), len(picture), WORDS_WIDTH)
    return np.concatenate([words, picture], axis=1)


def _words(take: Mapping[str, Any]) -> list[str]:
    lines = [*_names(take), take["key"]]
    if "instead_of" in take:
        return [*lines, f"instead of {take['instead_of']}"]
    lines.append(
        f"{take['first_seconds']:g} to {take['last_seconds']:g} s, take {take['position']}"
    )
    share = take.get("own_share", 1.0)
    return [*lines, f"{1 - share:.0%} of the next take"] if share < 1 else lines


def _names(take: Mapping[str, Any]) -> list[str]:
    """The classes of a take: of the video, then of its frames."""
    names = take.get("labels") or ([take["label"]] if take["label"] else [])
    spans = [
        f"{each['start_seconds']:g}-{each['end_seconds']:g} s {each['label']}"
        for each in take.get("spans", ())
    ]
    return [", ".join(told) for told in (names, spans) if told] or ["no label"]


def _strips(seen: Look, place: int) -> Iterator[Picture]:
    """The streams of one take, one below the other."""
    streams = {name: array[place] for name, array in seen.streams.items()}
    masked = set()
    for name, array in streams.items():
        kind, group = augment.kind_of(name), augment.group_of(name)
        if kind == "rgb":
            over = next((m for m in OVERLAID if f"{m}{group}" in streams), "")
            masked.add(f"{over}{group}")
            yield _strip(_overlaid(_frames(array, seen.view), streams.get(f"{over}{group}")))
        elif kind == "flow" and array.shape[1]:
            yield _strip(wheel(array))
        elif kind == "audio":
            width = seen.view.frames * seen.view.size
            yield from sound(array, seen.view.audio_rate, min(1600, max(400, width)))
    for name in streams:
        if augment.kind_of(name) in OVERLAID and name not in masked:
            grey = np.full((*streams[name].shape, 3), 0.5, np.float32)
            yield _strip(_overlaid(grey, streams[name]))


def _strip(x_THWC: Shares) -> Picture:
    """Frames side by side, evenly chosen where there are too many."""
    count = len(x_THWC)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int))
    times = -(-LEAST_SIDE // x_THWC.shape[1])
    frames = np.rint(x_THWC[chosen].clip(0, 1) * 255).astype(np.uint8)
    frames = frames.repeat(times, axis=1).repeat(times, axis=2)
    gap = sheet.paper(frames.shape[1], GAP // 2)
    picture = np.concatenate([part for frame in frames for part in (frame, gap)], axis=1)
    return np.concatenate([picture, sheet.paper(GAP // 2, picture.shape[1])])


# --- what streams look like


def _frames(x_CTHW: Shares, view: View) -> Shares:
    """Frames as they were before they were normalised."""
    return np.asarray(x_CTHW.transpose(1, 2, 3, 0) * view.std + view.mean, np.float32)


def wheel(x_CTHW: Shares) -> Shares:
    """Flow as colours: the direction is the hue, and what moves fastest has most of it."""
    x, y = x_CTHW
    length = np.hypot(x, y)
    strength = (length / max(1e-6, float(np.quantile(length, 0.99)))).clip(0, 1)[..., None]
    return np.asarray(1 - strength * (1 - _hue(np.arctan2(y, x) / (2 * np.pi))), np.float32)


def _hue(turns: NDArray[Any]) -> Shares:
    """Full colours by their place on the circle, red at 0."""
    away = np.abs((turns[..., None] - np.array([0, 1 / 3, 2 / 3]) + 0.5) % 1 - 0.5)
    return np.asarray((2 - 6 * away).clip(0, 1), np.float32)


def _overlaid(x_THWC: Shares, mask_THW: NDArray[Any] | None) -> Shares:
    """Each number of a mask as a tint of its own; 0 is none."""
    if mask_THW is None:
        return x_THWC
    colours = (2 * x_THWC + _hue(mask_THW * GOLDEN)) / 3
    return np.where(mask_THW[..., None] > 0, colours, x_THWC)


def sound(samples: Shares, rate: int, width: int) -> Iterator[Picture]:
    """The outline of sound, and its log-mel spectrogram below."""
    samples = samples.reshape(-1) if samples.size else np.zeros(1, np.float32)
    edges = np.linspace(0, len(samples), width, endpoint=False).astype(int)
    peaks = np.maximum.reduceat(np.abs(samples), edges).clip(0, 1) * (WAVE_HEIGHT / 2)
    rows = np.abs(np.arange(WAVE_HEIGHT) + 0.5 - WAVE_HEIGHT / 2)[:, None]
    yield _greys(rows > np.maximum(peaks, 0.5))
    logs = video.log_mel(samples.astype(np.float32), rate, bands=BANDS)[::-1]
    dark = ((logs - LOWEST) / (HIGHEST - LOWEST)).clip(0, 1)
    yield _greys(1 - dark[:, (np.arange(width) * logs.shape[1] // width)])


def _greys(light: NDArray[Any]) -> Picture:
    picture = np.repeat(np.rint(light * 255.0).astype(np.uint8)[..., None], 3, axis=2)
    return np.concatenate([picture, sheet.paper(GAP // 2, picture.shape[1])])

"""What takes cost to decode, before any video is opened: bytes, and seconds of one core.

The seconds come from constants that were measured once, on one core of a cloud server, so that a
plan says the same wherever and whenever it is asked; `clipmill feed` measures what is really
there. What a plugin makes of the streams itself is not in them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from clipmill.plan.epochs import Plan
from clipmill.takes import View
from clipmill.video import Profile, flow_step, scaled_size
from clipmill.video.profile import LONGEST_KEY_INTERVAL

# Seconds of one core.
READ_A_SPAN = 0.001  # its bytes and its index
FEED_A_PACKET = 0.00005
DECODE_A_MEGAPIXEL = 0.005  # of a packet that the decoder is fed, as it is stored
CONVERT_A_MEGAPIXEL = 0.006  # of a frame that is seen, scaled
FLOW_A_MEGAPIXEL = 0.125  # of a field that is found
KEPT_FLOW_A_MEGAPIXEL = 0.025  # of a field that was kept at ingest
MOTION_A_MEGAPIXEL = 0.5  # of a frame, whose flow is found for it
READ_A_MASK = 0.0005  # of those that are stored
MASK_A_MEGAPIXEL = 0.02  # of one that is seen, scaled
SOUND_A_SECOND = 0.002

ANYONES_KEY_INTERVAL = 60  # frames, of videos that are kept as they are
FRAME_BYTES = {"rgb": 3, "flow": 2, "motion": 1, "mask": 1, "instances": 2}  # of a pixel
FROM_FRAMES = {"rgb", "flow", "motion"}  # what frames must be decoded for
NUMBER_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """What some takes cost."""

    bytes: int  # of their streams, on the way to the device
    cpu_seconds: Mapping[str, float]  # of one core, by what is done


@dataclass(frozen=True)
class _Dataset:
    """The records of a dataset, as they are on average."""

    share: float  # of all records
    height: float
    width: float
    fps: float
    profile: Profile
    has_flow: bool


def cost(plan: Plan, takes: int) -> Cost:
    """Estimate so many takes of a plan."""
    size, seconds, datasets = 0.0, defaultdict[str, float](float), list(_datasets(plan))
    for view, spans in _views(plan, takes):
        size += spans * _bytes(view, plan)
        for dataset in datasets:
            for what, value in _cpu_seconds(view, dataset, plan).items():
                seconds[what] += spans * dataset.share * value
    return Cost(round(size), dict(seconds))


def _views(plan: Plan, takes: int) -> list[tuple[View, float]]:
    """The views that the takes of an epoch use, and how often so many takes use them."""
    epoch, views = plan.epoch(0), plan.plugin.views()
    used = np.bincount(epoch.view[epoch.record >= 0], minlength=len(epoch.views))
    counted = zip(epoch.views, (used / len(epoch)).tolist(), strict=True)
    return [(views[name], takes * count) for name, count in counted if count]


def _datasets(plan: Plan) -> Iterator[_Dataset]:
    catalog = plan.catalog
    for number, meta in enumerate(catalog.metas):
        mine = catalog.datasets == number
        if mine.any():
            means = (catalog.column(name)[mine].mean() for name in ("height", "width", "fps"))
            height, width, fps = map(float, means)
            profile = Profile(**(meta.get("profile") or {}))
            has_flow = bool((meta.get("options") or {}).get("flow"))
            yield _Dataset(float(mine.mean()), height, width, fps, profile, has_flow)


def _side(view: View, plan: Plan) -> int:
    return view.resize if plan.stage == "train" and "resized_crop" in view.augment else view.size


def _bytes(view: View, plan: Plan) -> float:
    pixels = _side(view, plan) ** 2
    frames = {**dict.fromkeys(FRAME_BYTES, view.frames), "flow": view.frames - 1}
    pictures = sum(FRAME_BYTES[s] * frames[s] * pixels for s in view.streams if s in frames)
    sound = NUMBER_BYTES * view.frames / view.rate * view.audio_rate
    features = NUMBER_BYTES * view.frames * view.features
    others = (
        sound if "audio" in view.streams else 0,
        features if "features" in view.streams else 0,
    )
    return pictures + sum(others)


def _cpu_seconds(view: View, dataset: _Dataset, plan: Plan) -> dict[str, float]:
    """What one span costs."""
    made = {"read": READ_A_SPAN}
    fields = (view.frames - 1) * _side(view, plan) ** 2 / 1e6
    is_kept = _is_kept(view, dataset, plan)
    if "flow" in view.streams:
        made["flow"] = fields * (KEPT_FLOW_A_MEGAPIXEL if is_kept else FLOW_A_MEGAPIXEL)
    if "motion" in view.streams:
        made["motion"] = fields * MOTION_A_MEGAPIXEL
    if {"mask", "instances"} & {*view.streams}:
        seen = _side(view, plan) ** 2 / 1e6
        made["mask"] = view.frames * (READ_A_MASK + seen * MASK_A_MEGAPIXEL)
    if "audio" in view.streams:
        made["audio"] = view.frames / view.rate * SOUND_A_SECOND
    if FROM_FRAMES & {*view.streams} - ({"flow"} if is_kept else set()):
        height, width = scaled_size(round(dataset.height), round(dataset.width), view.resize)
        of_packet = FEED_A_PACKET + DECODE_A_MEGAPIXEL * dataset.height * dataset.width / 1e6
        seen = view.frames * height * width / 1e6
        made["frames"] = _packets(view, dataset, plan) * of_packet + seen * CONVERT_A_MEGAPIXEL
    return made


def _is_kept(view: View, dataset: _Dataset, plan: Plan) -> bool:
    """Whether the flow that a span needs was kept at ingest."""
    step = flow_step(dataset.profile, dataset.fps)
    return dataset.has_flow and _is_aligned(view, plan) and _stride(view, dataset) == step


def _is_aligned(view: View, plan: Plan) -> bool:
    return plan.stage == "train" and plan.sampling.aligned and "jitter" not in view.augment


def _stride(view: View, dataset: _Dataset) -> float:
    return dataset.fps / view.rate


def _packets(view: View, dataset: _Dataset, plan: Plan) -> float:
    """How many packets a decoder is fed for a span, on average."""
    profile, span = dataset.profile, 1 + (view.frames - 1) * _stride(view, dataset)
    if profile.name in ("frames", "raw"):
        return view.frames
    if profile.name == "keep":
        return span + ANYONES_KEY_INTERVAL / 2
    rungs = (span + LONGEST_KEY_INTERVAL / 2) / profile.k
    on_rungs = _is_aligned(view, plan) and _stride(view, dataset) % profile.k == 0
    return rungs if on_rungs else rungs + view.frames * (1 - 1 / profile.k)

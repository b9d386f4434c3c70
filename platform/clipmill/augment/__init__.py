"""From bytes to what networks see: on the device, for the whole batch at once.

Normalisation and augmentation are the platform's, the same in training, testing and serving.
Parameters are drawn on the CPU from each take's seed, so that they depend neither on the batch
nor on the rank (mixup and cutmix, whose partner is in the batch, excepted). The random crop and
the jitter of frames are the decoder's.

A batch's arrays are known by name: those of the table below, or one of them with a suffix, such as
`rgb_other`. Arrays of the same suffix are moved alike, those of another with chance of their own, so
that two views of one take differ. Other numbers pass as they are.

| array | comes as | is prepared as |
|---|---|---|
| rgb | uint8 [B, T, H, W, 3] | float [B, 3, T, S, S], less the mean, by the deviation |
| flow | int8 [B, T - 1, H, W, 2], x before y, in eighths of a pixel | float [B, 2, T - 1, S, S], in pixels |
| audio | float32 [B, samples] | the same |
| motion | uint8 [B, T, H, W], 1 where something moves otherwise than the camera | int64 [B, T, S, S] |
| mask | uint8 [B, T, H, W], numbers of classes | int64 [B, T, S, S] |
| instances | int16 [B, T, H, W], numbers of things | int64 [B, T, S, S] |
| boxes | float [B, T, N, 4]: left, top, right, bottom in shares of the frame | the same; no area is no box |
| features | float [B, T, D], computed once | float32 [B, T, D] |

With mixup or cutmix a training batch gains `mix`, the share of a take's own, float [B], and
`target_b`, the other's target. A plugin that lists them must use both: its loss is
mix * loss(target) + (1 - mix) * loss(target_b).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill.augment import colour, mix, place
from clipmill.augment.chance import Seeds
from clipmill.errors import PluginError
from clipmill.takes import View
from clipmill.video import FLOW_STEPS_A_PIXEL

Tensors = dict[str, torch.Tensor]
KINDS = {  # and their axes as they come
    "rgb": ("B", "T", "H", "W", 3),
    "flow": ("B", "T", "H", "W", 2),
    "audio": ("B", "samples"),
    "motion": ("B", "T", "H", "W"),
    "mask": ("B", "T", "H", "W"),
    "instances": ("B", "T", "H", "W"),
    "boxes": ("B", "T", "N", 4),
    "features": ("B", "T", "D"),
}
DECODERS = {"crop", "jitter"}  # what has happened before a batch comes here
MASKS = ("motion", "mask", "instances")  # numbers of which none may be invented
CONVERTED = ("rgb", "flow", *MASKS)  # from short numbers, so to new memory


def shapes(view: View) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample's prepared streams."""
    frames, size = view.frames, view.size
    every = {
        "rgb": (3, frames, size, size),
        "flow": (2, frames - 1, size, size),
        "audio": (round(frames / view.rate * view.audio_rate),),
        **dict.fromkeys(MASKS, (frames, size, size)),
        "features": (frames, view.features),
    }
    return {stream: every[stream] for stream in view.streams}


def prepare(
    batch: Mapping[str, NDArray[Any]],
    view: View,
    *,
    training: bool,
    device: torch.device | str = "cpu",
) -> Tensors:
    """Move a batch to the device and make of it what a network sees."""
    tensors = {n: t.to(device, non_blocking=True) for n, t in borrowed(batch).items()}
    return prepared(tensors, batch, view, training=training)


def borrowed(batch: Mapping[str, NDArray[Any]]) -> Tensors:
    """The batch's numbers as tensors on the same memory, as far as nobody can write to it.

    Arrays of Ray's object store are read-only: those that are converted are only ever read, the
    others go to the network as they are, and are copied before someone writes to them.
    """
    return {name: _borrowed(name, array) for name, array in batch.items() if is_number(array)}


def is_number(array: NDArray[Any]) -> bool:
    """Whether networks can use it: the takes' seeds, of 64 bits without sign, are none."""
    return array.dtype.kind in "buif" and array.dtype != np.uint64


def _borrowed(name: str, array: NDArray[Any]) -> torch.Tensor:
    is_only_read = kind_of(name) in CONVERTED and array.dtype.itemsize <= 2
    if not is_only_read and not array.flags.writeable:
        array = array.copy()
    return torch.from_dlpack(np.ascontiguousarray(array))  # type: ignore[attr-defined]


def kind_of(name: str) -> str:
    """The kind of stream that an array is, by its name; none for other numbers."""
    kind = name.split("_", 1)[0]
    return kind if kind in KINDS else ""


def group_of(name: str) -> str:
    """What arrays that move together share: the name behind the kind."""
    return name.removeprefix(kind_of(name))


@torch.no_grad()
def prepared(
    tensors: Mapping[str, torch.Tensor],
    batch: Mapping[str, NDArray[Any]],
    view: View,
    *,
    training: bool,
) -> Tensors:
    """Make of tensors that are on the device what a network sees; nothing given is written to."""
    names = [name for name in tensors if kind_of(name)]
    drawn = training and bool(set(view.augment) - DECODERS)
    seeds = np.asarray(batch["seed"], np.uint64) if drawn else None
    made = {name: _prepared(name, tensors[name], view, seeds) for name in names}
    mixing = mix.drawn(seeds, view) if seeds is not None else None
    if mixing is None:
        return {**tensors, **made}
    _check_mixing(names, view)
    mixed = {name: mix.mixed(made[name], kind_of(name), mixing) for name in names}
    return {**tensors, **mixed, **mix.targets(tensors, mixing)}


def _prepared(name: str, x: torch.Tensor, view: View, seeds: Seeds | None) -> torch.Tensor:
    _check_shape(name, x)
    group = group_of(name)
    moves = place.Moves() if seeds is None else place.drawn(seeds, view, group)
    match kind_of(name):
        case "rgb":
            x = place.placed_rgb(x, moves, view.size)
            if seeds is not None:
                x = colour.coloured(x, seeds, view, group)
            return _erased(_standardised(x, view), view, seeds, group)
        case "flow":
            x = place.placed_flow(x, moves, view.size).div_(FLOW_STEPS_A_PIXEL)
            return _erased(x, view, seeds, group)
        case "motion" | "mask" | "instances":
            return place.placed_mask(x, moves, view.size).long()
        case "boxes":
            return place.placed_boxes(x, moves)
        case "features":
            return place.changed(x.float(), moves.reversed, lambda x: x.flip(1))
        case _:
            return place.placed_audio(x, moves)


def _check_shape(name: str, x: torch.Tensor) -> None:
    wanted = KINDS[kind_of(name)]
    fits = len(wanted) == x.ndim and wanted[-1] in (x.shape[-1], "W", "samples", "D")
    if not fits:
        raise PluginError(
            f"{name} of {list(x.shape)}",
            f"[{', '.join(map(str, wanted))}], as all that is named {kind_of(name)}",
            "what is none of it needs another name",
        )


def _erased(x_BCTHW: torch.Tensor, view: View, seeds: Seeds | None, group: str) -> torch.Tensor:
    """Hide boxes where it is allowed; what a mask says of them stays true."""
    if seeds is None or "erase" not in view.augment:
        return x_BCTHW
    return colour.erased(x_BCTHW, colour.erased_boxes(seeds, group))


def _check_mixing(names: list[str], view: View) -> None:
    kinds = {kind_of(name) for name in names}
    if "features" in kinds and "cutmix" in view.augment:
        raise PluginError(
            "a view with features lists cutmix", "mixup: features have no places to cut from",
            "take it from the view's augmentations",
        )  # fmt: skip
    whole = kinds & {"boxes", "instances"}  # numbers of one take mean nothing in another
    masks = kinds & {"mask", "motion"} if "mixup" in view.augment else set[str]()
    if whole or masks:
        way = "cutmix" if "cutmix" in view.augment and whole else "mixup"
        raise PluginError(
            f"a view with {' and '.join(sorted(whole | masks))} lists {way}",
            "targets that can be mixed: of masks a box can be cut, of boxes and instances nothing",
            "take it from the view's augmentations",
        )


def normalised(x_BTHWC: torch.Tensor, view: View) -> torch.Tensor:
    """uint8 frames to floats with the view's mean and deviation, channels before time."""
    return _standardised(place.floats(x_BTHWC), view)


def _standardised(x_BCTHW: torch.Tensor, view: View) -> torch.Tensor:
    """Take off the mean and divide by the deviation, in place."""
    scale = torch.tensor([1 / (255 * std) for std in view.std], device=x_BCTHW.device)
    shift = torch.tensor(
        [-mean / std for mean, std in zip(view.mean, view.std, strict=True)], device=x_BCTHW.device
    )
    channel = (1, 3, 1, 1, 1)
    return x_BCTHW.mul_(scale.view(channel)).add_(shift.view(channel))
